"""Hiera of the original repository and of the Transformers library, brought into timm."""

from __future__ import annotations

from pathlib import Path

import pytest
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
from transformers import HieraConfig, HieraForImageClassification, HieraForPreTraining, HieraModel

from AnyMC3DLib.errors import BackboneError
from AnyMC3DLib.foreign.checkpoint import Checkpoint
from AnyMC3DLib.foreign.hiera import OriginalHiera
from AnyMC3DLib.foreign.reading import read_weights
from AnyMC3DLib.weights import digest_of

SMALL = {"image_size": [64, 64], "embed_dim": 16, "depths": [1, 2, 2, 1], "num_heads": [1, 2, 4, 8]}


small_networks = published_too(("Hiera", 16, 6, 1))


def transformers_model(**fields: object) -> HieraModel:
    return randomised(HieraModel(HieraConfig(**{**SMALL, **fields})))


def original_names(model: nn.Module) -> dict[str, Tensor]:
    """timm's tensors by the names of the original repository."""
    return {name.replace("head.norm.", "norm."): tensor for name, tensor in model.state_dict().items()}


@pytest.mark.parametrize("side", [64, 96])
@torch.no_grad()
def test_tokens_and_embedding_are_those_of_the_transformers_library(tmp_path: Path, side: int) -> None:
    theirs, x = transformers_model(image_size=[side, side]), picture((side, side))
    weights = read_weights(saved(theirs, tmp_path / "model"))
    out = theirs(x)
    assert out.last_hidden_state.std() > 0.1
    torch.testing.assert_close(weights.model.forward_features(x), out.last_hidden_state, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(backbone_of(weights).encode(x).embedding, out.pooler_output, rtol=1e-4, atol=1e-4)
    assert weights.architecture.positions.kind == "fixed"
    assert backbone_of(weights).fixed_size == (side, side)


def test_the_original_repositorys_file_gives_the_same_weights_and_network(tmp_path: Path) -> None:
    # Sixteen wide with one head at first, as without a config.
    one = read_weights(saved(transformers_model(), tmp_path / "model"))
    tensors = original_names(one.model) | {"head.projection.weight": torch.ones(5, 128)}
    other = read_weights(written(tensors, tmp_path / "own.safetensors"))
    assert digest_of(one.model) == digest_of(other.model)
    assert one.architecture == other.architecture
    assert other.dropped == ("head.projection.weight",)


@torch.no_grad()
def test_the_decoder_of_masked_slices_is_left_out_and_the_encoders_norm_is_kept(tmp_path: Path) -> None:
    config = HieraConfig(**SMALL, decoder_hidden_size=16, decoder_depth=1, decoder_num_heads=2)
    theirs, x = randomised(HieraForPreTraining(config)), picture((64, 64))
    weights = read_weights(saved(theirs, tmp_path / "model"))
    # As a part of the whole it masks slices.
    alone = HieraModel(config, add_pooling_layer=False).eval()
    alone.load_state_dict(theirs.hiera.state_dict())
    expected = alone(x).last_hidden_state
    torch.testing.assert_close(weights.model.forward_features(x), expected, rtol=1e-4, atol=1e-4)
    assert torch.equal(weights.model.head.norm.weight, theirs.encoder_norm.weight)
    assert all(name.startswith(("decoder.", "multiscale_fusion.")) for name in weights.dropped)


@pytest.mark.parametrize("name", ["hiera_small_224", "hiera_base_plus_224"])
def test_published_sizes_are_known_by_timms_names(name: str) -> None:
    with torch.device("meta"):
        tensors = original_names(timm.create_model(name, num_classes=0))
    architecture = OriginalHiera().convert(Checkpoint(tensors)).architecture
    assert (architecture.timm, dict(architecture.model_args)) == (name, {})


def test_the_names_below_a_classifier_are_known_and_it_is_left_out(tmp_path: Path) -> None:
    weights = read_weights(saved(randomised(HieraForImageClassification(HieraConfig(**SMALL))), tmp_path / "model"))
    assert set(weights.dropped) == {"classifier.weight", "classifier.bias"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"masked_unit_attention": [True, True, True, False]}, "'masked_unit_attention' is"),
        ({"num_heads": [1, 1, 2, 4]}, r"\[1, 1, 2, 4\] heads"),
    ],
)
def test_what_timms_network_cannot_do_is_refused(tmp_path: Path, change: dict, message: str) -> None:
    with pytest.raises(BackboneError, match=message):
        read_weights(saved(transformers_model(**change), tmp_path / "model"))


def test_a_missing_and_an_extra_tensor_are_refused_by_name(tmp_path: Path) -> None:
    theirs = transformers_model()
    missing = "encoder.stages.2.layers.1.mlp.fc2.bias"
    assert_odd_tensors_are_refused(theirs.state_dict(), missing, r"blocks\.4\.mlp\.fc2\.bias", tmp_path)
    own = original_names(read_weights(saved(theirs, tmp_path / "model")).model)
    assert_odd_tensors_are_refused(own, "blocks.4.mlp.fc2.bias", r"blocks\.4\.mlp\.fc2\.bias", tmp_path)
