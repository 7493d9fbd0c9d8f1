"""A backbone by its name: what is installed is opened as it was imported, or not at all."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from foreign_models import picture, randomised, saved
from networks import plugin_spec, shaken
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import Dinov2Config, Dinov2Model

from AnyMC3DLib import opening
from AnyMC3DLib.architecture import Architecture
from AnyMC3DLib.backbone_import import import_backbone
from AnyMC3DLib.backbone_store import InstalledBackbone, install
from AnyMC3DLib.catalogue import find_listed
from AnyMC3DLib.errors import BackboneError, PluginError
from AnyMC3DLib.identity import check_backbone, open_for
from AnyMC3DLib.opening import check_not_packaged, create_model, open_backbone
from AnyMC3DLib.weights import digest_of

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


@pytest.mark.parametrize("change", ["larger", "missing"])
def test_an_installed_file_that_describes_another_network_takes_no_memory(
    change: str, own: Dinov2Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "store" / "tiny.safetensors"
    tensors = load_file(place)
    with safe_open(place, framework="pt") as file:
        metadata = file.metadata()
    described = json.loads(metadata["anymc3d_backbone"])
    if change == "larger":
        described["architecture"]["model_args"].update(embed_dim=4096, num_heads=16)
    else:
        tensors = {"norm.bias": tensors["norm.bias"]}
    save_file(tensors, place, metadata={"anymc3d_backbone": json.dumps(described)})
    built, devices = opening.build_network, []

    def build(architecture: Architecture) -> nn.Module:
        devices.append(torch.get_default_device().type)
        return built(architecture)

    monkeypatch.setattr(opening, "build_network", build)
    with pytest.raises(BackboneError, match=r"'tiny\.safetensors' does not hold the tensors of the network that it"):
        open_backbone("tiny")
    assert set(devices) == {"meta"}


def test_a_damaged_installed_file_is_said_in_one_sentence(own: Dinov2Model, tmp_path: Path) -> None:
    place = tmp_path / "store" / "tiny.safetensors"
    place.write_bytes(place.read_bytes()[:-8])
    with pytest.raises(BackboneError, match=r"'tiny\.safetensors' is damaged: import the backbone again"):
        open_backbone("tiny")


# The names of packages


def test_the_name_of_a_packages_weights_is_for_these_alone() -> None:
    digest = open_backbone("efficientnet_lite0").digest
    check_not_packaged("efficientnet_lite0", digest)
    check_not_packaged("dinov2_vits14", "sha256:0")
    check_not_packaged("mine", "sha256:0")
    with pytest.raises(
        BackboneError, match=r"'efficientnet_lite0' stands for the weights that come with the inst.*sha"
    ):
        check_not_packaged("efficientnet_lite0", "sha256:0")


def test_a_plugin_on_a_packages_weights_finds_them_behind_others_of_their_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANYMC3D_BACKBONES", str(tmp_path / "store"))
    packaged = open_backbone("efficientnet_lite0")
    spec = plugin_spec(packaged)
    other = shaken(create_model(find_listed("efficientnet_lite0")))
    record = InstalledBackbone(id="efficientnet_lite0", architecture=packaged.architecture, digest=digest_of(other))
    install(other, record)
    assert open_backbone("efficientnet_lite0").digest == record.digest
    backbone = open_for(spec)
    assert backbone.digest == packaged.digest
    check_backbone(spec, backbone)
    elsewhere = dataclasses.replace(spec, backbone=dataclasses.replace(spec.backbone, digest="sha256:0"))
    with pytest.raises(PluginError, match="installed as 'efficientnet_lite0' is another"):
        open_for(elsewhere)
