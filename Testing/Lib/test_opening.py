"""A backbone by its name: what is installed is opened as it was imported, or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from foreign_models import picture, randomised, saved
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import Dinov2Config, Dinov2Model

from AnyMC3DLib.backbone_import import import_backbone
from AnyMC3DLib.errors import BackboneError
from AnyMC3DLib.opening import open_backbone

TINY = Dinov2Config(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=56, mlp_ratio=2)


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Dinov2Model:
    """A model of the Transformers library that is installed as 'tiny'."""
    monkeypatch.setenv("ANYMC3D_BACKBONES", str(tmp_path / "store"))
    model = randomised(Dinov2Model(TINY))
    import_backbone(saved(model, tmp_path / "published"), id="tiny")
    return model


@pytest.mark.parametrize("size", [(56, 56), (84, 70)])
def test_an_installed_backbone_embeds_as_its_own_library(own: Dinov2Model, size: tuple[int, int]) -> None:
    backbone = open_backbone("tiny")
    slices = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(0))
    mean, std = (torch.tensor(values)[:, None, None] for values in (backbone.mean, backbone.std))
    with torch.no_grad():
        expected = own((slices - mean) / std).last_hidden_state[:, 0]
        torch.testing.assert_close(backbone.encode(slices).embedding, expected, atol=1e-4, rtol=0)


def test_weights_that_changed_since_their_import_are_refused(own: Dinov2Model, tmp_path: Path) -> None:
    place = tmp_path / "store" / "tiny.safetensors"
    tensors = load_file(place)
    with safe_open(place, framework="pt") as file:
        metadata = file.metadata()
    tensors["norm.bias"] = tensors["norm.bias"] + 1
    save_file(tensors, place, metadata=metadata)
    with pytest.raises(BackboneError, match=r"'tiny' is not what was imported .*: import it again"):
        open_backbone("tiny")


def test_a_file_that_is_given_is_opened_in_place_of_the_installed_one(own: Dinov2Model, tmp_path: Path) -> None:
    place = tmp_path / "other.safetensors"
    tensors = load_file(tmp_path / "store" / "tiny.safetensors")
    tensors["norm.bias"] = tensors["norm.bias"] + 1
    save_file(tensors, place)
    backbone, there = open_backbone("tiny", weights=place), open_backbone("tiny")
    assert backbone.digest != there.digest
    moved = backbone.encode(picture((56, 56))).embedding - there.encode(picture((56, 56))).embedding
    torch.testing.assert_close(moved, torch.ones_like(moved), atol=1e-4, rtol=0)
