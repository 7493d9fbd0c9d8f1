"""ResNets of torchvision and of the Transformers library, brought into timm."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
from foreign_models import assert_odd_tensors_are_refused, backbone_of, picture, randomised, saved, written
from transformers import ResNetConfig, ResNetForImageClassification, ResNetModel

from AnyMC3DLib.errors import BackboneError
from AnyMC3DLib.foreign.checkpoint import Checkpoint
from AnyMC3DLib.foreign.reading import read_weights
from AnyMC3DLib.foreign.resnet import TorchvisionResNet
from AnyMC3DLib.weights import digest_of

PARTS = ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4")


def transformers_model(kind: str = "bottleneck", **fields: object) -> ResNetModel:
    sizes = {"embedding_size": 64, "hidden_sizes": [32, 48, 64, 80], "depths": [1, 2, 1, 1], "layer_type": kind}
    return randomised(ResNetModel(ResNetConfig(**{**sizes, **fields})), std=0.1)


@pytest.mark.parametrize("size", [(64, 64), (96, 72), (45, 71)])
@pytest.mark.parametrize("kind", ["bottleneck", "basic"])
@torch.no_grad()
def test_map_and_embedding_are_those_of_the_transformers_library(
    tmp_path: Path, kind: str, size: tuple[int, int]
) -> None:
    theirs, x = transformers_model(kind), picture(size)
    weights = read_weights(saved(theirs, tmp_path / "model"))
    out = theirs(x)
    assert out.last_hidden_state.std() > 0.01
    torch.testing.assert_close(weights.model.forward_features(x), out.last_hidden_state, rtol=1e-4, atol=1e-4)
    embedding = backbone_of(weights).encode(x).embedding
    torch.testing.assert_close(embedding, out.pooler_output.flatten(1), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("prefix", ["", "backbone."])
@pytest.mark.parametrize("sequence", [False, True])
@pytest.mark.parametrize("kind", ["bottleneck", "basic"])
def test_torchvisions_file_gives_the_same_weights_and_network(
    tmp_path: Path, kind: str, sequence: bool, prefix: str
) -> None:
    one = read_weights(saved(transformers_model(kind), tmp_path / "model"))
    tensors = one.model.state_dict()
    if sequence:
        numbers = {part: str(n) for n, part in enumerate(PARTS)}
        tensors = {".".join([numbers[n.split(".")[0]], *n.split(".")[1:]]): t for n, t in tensors.items()}
        assert "4.0.conv1.weight" in tensors
    tensors = {f"{prefix}{n}": t for n, t in tensors.items()} | {
        "fc.weight": torch.ones(5, 80),
        "fc.bias": torch.ones(5),
    }
    other = read_weights(written(tensors, tmp_path / "own.pth.safetensors"))
    assert digest_of(one.model) == digest_of(other.model)
    assert one.architecture == other.architecture
    assert set(other.dropped) == {"fc.weight", "fc.bias"}


@pytest.mark.parametrize("name", ["resnet18", "resnet34", "resnet50", "wide_resnet50_2", "resnext50_32x4d"])
def test_published_sizes_are_known_by_timms_names(name: str) -> None:
    with torch.device("meta"):
        tensors = timm.create_model(name, num_classes=0).state_dict()
    architecture = TorchvisionResNet().convert(Checkpoint(tensors)).architecture
    assert (architecture.timm, dict(architecture.model_args)) == (name, {})


def test_groups_of_channels_are_found_in_the_shapes(tmp_path: Path) -> None:
    theirs = randomised(timm.create_model("resnext50_32x4d", layers=(1, 1, 1, 1), num_classes=0), std=0.05)
    weights, x = read_weights(written(theirs.state_dict(), tmp_path / "resnext.safetensors")), picture((64, 64))
    with torch.no_grad():
        torch.testing.assert_close(weights.model(x), theirs(x), rtol=1e-5, atol=1e-5)


def test_the_names_below_a_classifier_are_known_and_it_is_left_out(tmp_path: Path) -> None:
    config = transformers_model().config
    weights = read_weights(saved(randomised(ResNetForImageClassification(config)), tmp_path / "model"))
    assert set(weights.dropped) == {"classifier.1.weight", "classifier.1.bias"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"downsample_in_bottleneck": True}, "'downsample_in_bottleneck' is True"),
        ({"downsample_in_first_stage": True}, "'downsample_in_first_stage' is True"),
        ({"hidden_act": "gelu"}, "'hidden_act' is 'gelu'"),
        ({"embedding_size": 32}, "begins with 32 channels and has 4 stages, but timm's begins with 64"),
    ],
)
def test_what_timms_network_cannot_do_is_refused(tmp_path: Path, change: dict, message: str) -> None:
    with pytest.raises(BackboneError, match=message):
        read_weights(saved(transformers_model(**change), tmp_path / "model"))


def test_a_missing_and_an_extra_tensor_are_refused_by_name(tmp_path: Path) -> None:
    theirs = transformers_model()
    missing = "encoder.stages.1.layers.1.layer.2.normalization.bias"
    assert_odd_tensors_are_refused(theirs.state_dict(), missing, r"layer2\.1\.bn3\.bias", tmp_path)
    tensors = read_weights(saved(theirs, tmp_path / "model")).model.state_dict()
    assert_odd_tensors_are_refused(tensors, "layer2.1.bn3.bias", r"layer2\.1\.bn3\.bias", tmp_path)
