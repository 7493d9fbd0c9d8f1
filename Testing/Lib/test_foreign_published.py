"""Without a config, the heads of attention are those of a published network alone, and else nobody guesses them."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import timm
import torch
from foreign_models import randomised, saved
from transformers import ViTConfig, ViTModel

from AnyMC3DLib.errors import BackboneError
from AnyMC3DLib.foreign.families import family_of
from AnyMC3DLib.foreign.published import assumed_network
from AnyMC3DLib.foreign.reading import read_weights
from AnyMC3DLib.foreign.vit_transformers import TransformersViT

TIMMS = [
    "swin_base_patch4_window7_224", "davit_tiny", "hiera_base_plus_224", "vit_giant_patch14_dinov2",
    "samvit_huge_patch16", "vit_so400m_patch14_siglip_378",
]  # fmt: skip


@pytest.mark.parametrize("name", TIMMS)
def test_the_heads_of_published_networks_are_those_of_timms(name: str) -> None:
    with torch.device("meta"):
        network = timm.create_model(name, num_classes=0)
    layout = dataclasses.replace(TransformersViT(), family=family_of(name))
    found = assumed_network({}, network.state_dict(), layout=layout)
    heads = [getattr(m, "num_heads", None) or getattr(m, "heads", None) for m in network.modules()]
    assert found is not None
    assert found.heads == next(count for count in heads if count)
    assert assumed_network({"model_type": "vit"}, network.state_dict(), layout=layout) is None


def small_vit(folder: Path, **fields: object) -> Path:
    sizes = {"hidden_size": 192, "intermediate_size": 64, "image_size": 16, "patch_size": 8, "num_hidden_layers": 2}
    return saved(randomised(ViTModel(ViTConfig(**{**sizes, **fields}))), folder)


def test_a_network_of_no_published_size_is_refused_without_its_config(tmp_path: Path) -> None:
    folder = small_vit(tmp_path, num_attention_heads=12)
    weights = read_weights(folder)
    assert (weights.model.blocks[0].attn.num_heads, weights.notes) == (12, ())
    (folder / "config.json").unlink()
    with pytest.raises(BackboneError, match=r"No published ViT is 192 wide with 2 blocks.*put .*config\.json"):
        read_weights(folder)


def test_a_network_of_a_published_size_is_assumed_and_told_without_its_config(tmp_path: Path) -> None:
    folder = small_vit(tmp_path, num_hidden_layers=12, num_attention_heads=3)
    weights = read_weights(folder)
    (folder / "config.json").unlink()
    bare = read_weights(folder)
    assert bare.architecture == weights.architecture
    assert bare.notes == (
        "Its network is assumed to be that of ViT-Ti/8, since no config.json lies beside the weights.",
    )


def test_a_config_that_names_no_heads_means_its_librarys_own(tmp_path: Path) -> None:
    folder = small_vit(tmp_path, num_attention_heads=12)
    config = json.loads((folder / "config.json").read_text())
    del config["num_attention_heads"]
    (folder / "config.json").write_text(json.dumps(config))
    assert read_weights(folder).model.blocks[0].attn.num_heads == ViTConfig().num_attention_heads == 12
