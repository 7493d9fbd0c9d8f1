"""Swin Transformers of the original repository and of the Transformers library, brought into timm."""

from __future__ import annotations

from pathlib import Path

import pytest
import safetensors.torch
import timm
import torch
from foreign_models import (
    assert_odd_tensors_are_refused,
    backbone_of,
    picture,
    published_too,
    randomised,
    saved,
    written,
)
from torch import Tensor, nn
from transformers import SwinConfig, SwinForImageClassification, SwinForMaskedImageModeling, SwinModel

from AnyMC3DLib.errors import BackboneError
from AnyMC3DLib.foreign.checkpoint import Checkpoint
from AnyMC3DLib.foreign.reading import read_weights
from AnyMC3DLib.foreign.swin import OriginalSwin
from AnyMC3DLib.weights import digest_of

SMALL = {"image_size": 64, "embed_dim": 32, "depths": [2, 2, 1], "num_heads": [1, 2, 4], "window_size": 4}


small_networks = published_too(("Swin", 32, 5, 1))


def transformers_model(**fields: object) -> SwinModel:
    return randomised(SwinModel(SwinConfig(**{**SMALL, **fields})))


def original_names(model: nn.Module) -> dict[str, Tensor]:
    """timm's tensors by the names of the original repository, with the buffers that it stores besides."""
    renamed = {}
    for name, tensor in model.state_dict().items():
        parts = name.split(".")
        if ".downsample." in name:
            parts[1] = str(int(parts[1]) - 1)
        renamed[".".join(parts)] = tensor
    grid = model.patch_embed.grid_size[0] // 4
    return renamed | {
        "layers.0.blocks.0.attn.relative_position_index": torch.zeros(16, 16, dtype=torch.long),
        "layers.0.blocks.1.attn_mask": torch.zeros(grid * grid, 16, 16),
    }


@pytest.mark.parametrize("fields", [{}, {"image_size": 48, "window_size": 3}, {"qkv_bias": False}])
@torch.no_grad()
def test_map_and_embedding_are_those_of_the_transformers_library(tmp_path: Path, fields: dict) -> None:
    theirs = transformers_model(**fields)
    side = theirs.config.image_size
    weights, x = read_weights(saved(theirs, tmp_path / "model")), picture((side, side))
    out = theirs(x)
    assert out.last_hidden_state.std() > 0.1
    found = weights.model.forward_features(x).flatten(1, 2)
    torch.testing.assert_close(found, out.last_hidden_state, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(backbone_of(weights).encode(x).embedding, out.pooler_output, rtol=1e-4, atol=1e-4)
    assert weights.architecture.positions.kind == "fixed"
    assert weights.architecture.input_size == (side, side)


def test_the_original_repositorys_file_gives_the_same_weights_and_network(tmp_path: Path) -> None:
    one = read_weights(saved(transformers_model(), tmp_path / "model"))
    tensors = original_names(one.model) | {"head.weight": torch.ones(5, 128), "head.bias": torch.ones(5)}
    assert "layers.0.downsample.reduction.weight" in tensors
    other = read_weights(written(tensors, tmp_path / "own.safetensors"))
    assert digest_of(one.model) == digest_of(other.model)
    assert one.architecture == other.architecture
    assert {"head.weight", "layers.0.blocks.1.attn_mask"} <= set(other.dropped)


@pytest.mark.parametrize("name", ["swin_small_patch4_window7_224", "swin_base_patch4_window12_384"])
def test_published_sizes_are_known_by_timms_names(name: str) -> None:
    with torch.device("meta"):
        model = timm.create_model(name, num_classes=0)
        tensors = original_names(model)
    tensors.pop("layers.0.blocks.1.attn_mask")
    architecture = OriginalSwin().convert(Checkpoint(tensors)).architecture
    assert (architecture.timm, dict(architecture.model_args)) == (name, {})


@pytest.mark.parametrize("kind", [SwinForImageClassification, SwinForMaskedImageModeling])
def test_the_names_below_a_head_are_known_and_it_is_left_out(tmp_path: Path, kind: type) -> None:
    weights = read_weights(saved(randomised(kind(SwinConfig(**SMALL, encoder_stride=16))), tmp_path / "model"))
    assert weights.dropped
    assert all(name.startswith(("classifier.", "decoder.", "swin.embeddings.mask_token")) for name in weights.dropped)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"use_absolute_embeddings": True}, "'use_absolute_embeddings' is True"),
        ({"hidden_act": "relu"}, "'hidden_act' is 'relu'"),
        ({"image_size": 40}, "cannot be halved 2 times evenly"),
    ],
)
def test_what_timms_network_cannot_do_is_refused(tmp_path: Path, change: dict, message: str) -> None:
    with pytest.raises(BackboneError, match=message):
        read_weights(saved(transformers_model(**change), tmp_path / "model"))


def test_a_missing_and_an_extra_tensor_are_refused_by_name(tmp_path: Path) -> None:
    theirs = transformers_model()
    folder = saved(theirs, tmp_path / "model")
    tensors = safetensors.torch.load_file(folder / "model.safetensors")
    missing = "encoder.layers.1.blocks.1.output.dense.bias"
    assert_odd_tensors_are_refused(tensors, missing, r"layers\.1\.blocks\.1\.mlp\.fc2\.bias", tmp_path)
    own = original_names(read_weights(folder).model)
    assert_odd_tensors_are_refused(own, "layers.1.blocks.1.mlp.fc2.bias", r"layers\.1\.blocks\.1\.mlp\.fc2", tmp_path)
