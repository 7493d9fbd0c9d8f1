"""ConvNeXt, ConvNeXt V2 and DINOv3's ConvNeXt, of three layouts, brought into timm."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import timm
import torch
from foreign_models import assert_odd_tensors_are_refused, backbone_of, picture, randomised, saved, written
from torch import Tensor, nn
from transformers import (
    ConvNextConfig,
    ConvNextForImageClassification,
    ConvNextModel,
    ConvNextV2Config,
    ConvNextV2Model,
    DINOv3ConvNextConfig,
    DINOv3ConvNextModel,
)

from AnyMC3DLib.foreign.checkpoint import Checkpoint
from AnyMC3DLib.foreign.convnext import OriginalConvNeXt
from AnyMC3DLib.foreign.reading import read_weights
from AnyMC3DLib.weights import digest_of

SMALL = {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 2, 1]}
KINDS = {
    "first": lambda: ConvNextModel(ConvNextConfig(**SMALL)),
    "second": lambda: ConvNextV2Model(ConvNextV2Config(**SMALL)),
    "DINOv3": lambda: DINOv3ConvNextModel(DINOv3ConvNextConfig(**SMALL)),
}


def original_names(model: nn.Module) -> dict[str, Tensor]:
    """timm's tensors by the names of the original repositories."""
    renamed = {}
    for name, tensor in model.state_dict().items():
        new = name.replace("stem.", "downsample_layers.0.").replace(".blocks.", ".").replace(".conv_dw.", ".dwconv.")
        new = new.replace(".mlp.fc", ".pwconv").replace("head.norm.", "norm.")
        if ".downsample." in new:
            _, stage, _, *rest = new.split(".")
            new = ".".join(["downsample_layers", stage, *rest])
        if ".mlp.grn." in new:
            new = new.replace(".mlp.grn.weight", ".grn.gamma").replace(".mlp.grn.bias", ".grn.beta")
            tensor = tensor[None, None, None]
        # The smallest of the second version have convolutions in timm.
        renamed[new] = tensor.flatten(1) if ".pwconv" in new and tensor.ndim == 4 else tensor
    return renamed


@pytest.mark.parametrize("size", [(64, 64), (96, 72), (45, 71)])
@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_map_and_embedding_are_those_of_the_transformers_library(
    tmp_path: Path, kind: str, size: tuple[int, int]
) -> None:
    theirs, x = randomised(KINDS[kind]()), picture(size)
    weights = read_weights(saved(theirs, tmp_path / "model"))
    out = theirs(x, output_hidden_states=True)
    assert out.hidden_states[-1].std() > 0.01
    torch.testing.assert_close(weights.model.forward_features(x), out.hidden_states[-1], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(backbone_of(weights).encode(x).embedding, out.pooler_output, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_the_original_repositorys_file_gives_the_same_weights_and_network(tmp_path: Path, kind: str) -> None:
    one = read_weights(saved(randomised(KINDS[kind]()), tmp_path / "model"))
    tensors = original_names(one.model)
    assert {"downsample_layers.0.0.weight", "downsample_layers.3.1.bias", "stages.2.1.pwconv2.bias"} <= tensors.keys()
    tensors |= {"head.weight": torch.ones(5, 32), "head.bias": torch.ones(5)}
    other = read_weights(written(tensors, tmp_path / "own.safetensors"))
    assert digest_of(one.model) == digest_of(other.model)
    assert dataclasses.replace(one.architecture, family="") == dataclasses.replace(other.architecture, family="")
    assert set(other.dropped) == {"head.weight", "head.bias"}


def test_the_names_below_a_classifier_are_known_and_it_is_left_out(tmp_path: Path) -> None:
    theirs = randomised(ConvNextForImageClassification(ConvNextConfig(**SMALL)))
    weights = read_weights(saved(theirs, tmp_path / "model"))
    assert set(weights.dropped) == {"classifier.weight", "classifier.bias"}


@pytest.mark.parametrize("name", ["convnext_small", "convnextv2_nano"])
def test_published_sizes_are_known_by_timms_names(name: str) -> None:
    with torch.device("meta"):
        tensors = original_names(timm.create_model(name, num_classes=0))
    architecture = OriginalConvNeXt().convert(Checkpoint(tensors)).architecture
    assert (architecture.timm, dict(architecture.model_args)) == (name, {})


def test_a_missing_and_an_extra_tensor_are_refused_by_name(tmp_path: Path) -> None:
    theirs = randomised(KINDS["second"]())
    named = "stages.2.blocks.1.mlp.grn.bias"
    assert_odd_tensors_are_refused(theirs.state_dict(), "encoder.stages.2.layers.1.grn.bias", named, tmp_path)
    weights = read_weights(saved(theirs, tmp_path / "model"))
    assert_odd_tensors_are_refused(original_names(weights.model), "stages.2.1.grn.beta", named, tmp_path)
    dinov3 = randomised(KINDS["DINOv3"]()).state_dict()
    (gamma,) = [name for name in dinov3 if name.endswith("stages.2.layers.1.gamma")]
    assert_odd_tensors_are_refused(dinov3, gamma, "stages.2.blocks.1.gamma", tmp_path)
