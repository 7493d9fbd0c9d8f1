"""The image encoders of SAM and SAM 2, of the original repositories and of the Transformers library, in timm."""

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
from transformers import (
    Sam2Config,
    Sam2HieraDetConfig,
    Sam2HieraDetModel,
    Sam2Model,
    Sam2VisionConfig,
    Sam2VisionModel,
    SamConfig,
    SamModel,
    SamVisionConfig,
    SamVisionModel,
)

from AnyMC3DLib.architecture import IMAGENET_MEAN, IMAGENET_STD
from AnyMC3DLib.errors import BackboneError
from AnyMC3DLib.foreign.checkpoint import Checkpoint
from AnyMC3DLib.foreign.reading import read_weights
from AnyMC3DLib.foreign.sam import OriginalSAM
from AnyMC3DLib.foreign.sam2 import OriginalSAM2
from AnyMC3DLib.weights import digest_of

small_networks = published_too(("SAM", 64, 3, 1))


def sam_config(**fields: object) -> SamVisionConfig:
    sizes = {"hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 1, "image_size": 80, "window_size": 3,
             "global_attn_indexes": [1], "output_channels": 16, "mlp_dim": 128}  # fmt: skip
    return SamVisionConfig(**{**sizes, **fields})


def original_sam(model: nn.Module, prefix: str = "image_encoder.") -> dict[str, Tensor]:
    """timm's tensors by the names of the original repository."""
    return {prefix + name.replace(".mlp.fc", ".mlp.lin"): tensor for name, tensor in model.state_dict().items()}


@pytest.mark.parametrize("fields", [{}, {"image_size": 64, "window_size": 2, "num_attention_heads": 4}])
@torch.no_grad()
def test_sams_map_is_that_of_the_transformers_library(tmp_path: Path, fields: dict) -> None:
    theirs = randomised(SamVisionModel(sam_config(**fields)))
    side = theirs.config.image_size
    weights, x = read_weights(saved(theirs, tmp_path / "model")), picture((side, side))
    expected = theirs(x).last_hidden_state
    assert expected.std() > 0.1
    torch.testing.assert_close(weights.model.forward_features(x), expected, rtol=1e-4, atol=1e-4)
    embedding = backbone_of(weights).encode(x).embedding
    torch.testing.assert_close(embedding, expected.mean(dim=(2, 3)), rtol=1e-4, atol=1e-4)
    assert (weights.architecture.positions.kind, weights.architecture.input_size) == ("fixed", (side, side))


def test_the_whole_of_sam_gives_its_image_encoder_and_says_what_was_left_out(tmp_path: Path) -> None:
    theirs = randomised(SamModel(SamConfig(vision_config=sam_config(output_channels=256))))
    weights, x = read_weights(saved(theirs, tmp_path / "model")), picture((80, 80))
    with torch.no_grad():
        expected = theirs.vision_encoder(x).last_hidden_state
        torch.testing.assert_close(weights.model.forward_features(x), expected, rtol=1e-4, atol=1e-4)
    assert any(name.startswith("mask_decoder.") for name in weights.dropped)
    assert not any(name.startswith("vision_encoder.") for name in weights.dropped)


@pytest.mark.parametrize("prefix", ["image_encoder.", ""])
def test_sams_original_file_gives_the_same_weights_and_network(tmp_path: Path, prefix: str) -> None:
    one = read_weights(saved(randomised(SamVisionModel(sam_config())), tmp_path / "model"))
    beside = {"prompt_encoder.no_mask_embed.weight": torch.ones(2), "mask_decoder.iou_token.weight": torch.ones(2)}
    other = read_weights(
        written(original_sam(one.model, prefix) | (beside if prefix else {}), tmp_path / "own.safetensors")
    )
    assert digest_of(one.model) == digest_of(other.model)
    assert one.architecture == other.architecture
    assert set(other.dropped) == (set(beside) if prefix else set())


@pytest.mark.parametrize(
    ("name", "mean", "std"),
    [("medsam_vit_b.pth", (0, 0, 0), (1, 1, 1)), ("sam_vit_b_01ec64.pth", IMAGENET_MEAN, IMAGENET_STD)],
)
def test_medsam_takes_slices_from_0_to_1_as_they_are(tmp_path: Path, name: str, mean: tuple, std: tuple) -> None:
    one = read_weights(saved(randomised(SamVisionModel(sam_config())), tmp_path / "model"))
    torch.save(original_sam(one.model), tmp_path / name)
    found = read_weights(tmp_path / name)
    assert (found.architecture.mean, found.architecture.std) == (mean, std)
    assert digest_of(found.model) == digest_of(one.model)


def test_sams_published_sizes_are_known_by_timms_names_with_the_epsilon_of_its_makers() -> None:
    for name in ("samvit_base_patch16", "samvit_huge_patch16"):
        with torch.device("meta"):
            tensors = original_sam(timm.create_model(name, num_classes=0))
        architecture = OriginalSAM().convert(Checkpoint(tensors)).architecture
        assert (architecture.timm, dict(architecture.model_args), architecture.norm_eps) == (name, {}, 1e-6)


def test_a_missing_and_an_extra_tensor_of_sam_are_refused_by_name(tmp_path: Path) -> None:
    theirs = randomised(SamVisionModel(sam_config()))
    missing = "vision_encoder.layers.1.mlp.lin2.bias"
    assert_odd_tensors_are_refused(theirs.state_dict(), missing, r"blocks\.1\.mlp\.fc2\.bias", tmp_path)
    own = original_sam(read_weights(saved(theirs, tmp_path / "model")).model)
    assert_odd_tensors_are_refused(own, "image_encoder.neck.2.weight", r"neck\.2\.weight", tmp_path)


# SAM 2


def sam2_config(**fields: object) -> Sam2HieraDetConfig:
    sizes = {"hidden_size": 16, "num_attention_heads": 1, "blocks_per_stage": [1, 2, 2, 1],
             "embed_dim_per_stage": [16, 32, 64, 128], "num_attention_heads_per_stage": [1, 2, 4, 8],
             "window_size_per_stage": [8, 4, 6, 3], "global_attention_blocks": [4]}  # fmt: skip
    return Sam2HieraDetConfig(**{**sizes, **fields})


def vision_config(**fields: object) -> Sam2VisionConfig:
    return Sam2VisionConfig(backbone_config=sam2_config(**fields), backbone_channel_list=[128, 64, 32, 16])


def original_sam2(model: nn.Module) -> dict[str, Tensor]:
    """timm's tensors by the names of the original repository, which has no last norm."""
    return {
        "image_encoder.trunk."
        + name.replace(".mlp.fc1.", ".mlp.layers.0.").replace(".mlp.fc2.", ".mlp.layers.1."): tensor
        for name, tensor in model.state_dict().items()
        if not name.startswith("head.")
    }


@pytest.mark.parametrize("size", [(64, 64), (96, 160), (224, 128)])
@torch.no_grad()
def test_sam_2s_last_map_is_that_of_the_transformers_library_at_any_size(tmp_path: Path, size: tuple[int, int]) -> None:
    theirs, x = randomised(Sam2VisionModel(vision_config())), picture(size)
    weights = read_weights(saved(theirs, tmp_path / "model"))
    expected = theirs.backbone(x).last_hidden_state
    assert expected.std() > 0.1
    torch.testing.assert_close(weights.model.forward_features(x), expected, rtol=1e-4, atol=1e-4)
    embedding = backbone_of(weights).encode(x).embedding
    plain = nn.functional.layer_norm(expected.mean(dim=(1, 2)), (128,), eps=1e-6)
    torch.testing.assert_close(embedding, plain, rtol=1e-4, atol=1e-4)
    assert all(name.startswith("neck.") for name in weights.dropped)


def test_sam_2_alone_and_the_whole_of_it_give_the_same_weights_and_network(tmp_path: Path) -> None:
    whole = randomised(Sam2Model(Sam2Config(vision_config=vision_config())))
    alone = Sam2HieraDetModel(sam2_config()).eval()
    alone.load_state_dict(whole.vision_encoder.backbone.state_dict())
    one, other = read_weights(saved(whole, tmp_path / "whole")), read_weights(saved(alone, tmp_path / "alone"))
    assert digest_of(one.model) == digest_of(other.model)
    assert one.architecture == other.architecture
    assert any(name.startswith("mask_decoder.") for name in one.dropped)


@pytest.mark.parametrize("name", ["sam2_hiera_tiny", "sam2_hiera_large"])
def test_sam_2s_original_files_are_known_by_timms_names(name: str) -> None:
    with torch.device("meta"):
        tensors = original_sam2(timm.create_model(name, num_classes=0))
    beside = {"image_encoder.neck.convs.0.conv.weight": torch.ones(2), "maskmem_tpos_enc": torch.ones(2)}
    converted = OriginalSAM2().convert(Checkpoint(tensors | beside))
    assert OriginalSAM2().matches(Checkpoint(tensors))
    assert (converted.architecture.timm, dict(converted.architecture.model_args)) == (name, {})
    assert set(converted.dropped) == set(beside)


def test_sam_2s_original_file_gives_timms_network_and_weights(tmp_path: Path) -> None:
    ours = randomised(timm.create_model("sam2_hiera_tiny", num_classes=0))
    with torch.no_grad():
        ours.head.norm.weight.fill_(1)
        ours.head.norm.bias.fill_(0)
    weights, x = read_weights(written(original_sam2(ours), tmp_path / "own.safetensors")), picture((64, 96))
    assert digest_of(weights.model) == digest_of(ours)
    with torch.no_grad():
        torch.testing.assert_close(weights.model(x), ours(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"query_stride": [4, 4]}, "'query_stride' is"),
        ({"mlp_ratio": 2.0}, "MLPs 2.0 times as wide"),
        ({"num_attention_heads_per_stage": [1, 2, 2, 8]}, "do not double at each stage"),
    ],
)
def test_what_timms_sam_2_cannot_do_is_refused(tmp_path: Path, change: dict, message: str) -> None:
    with pytest.raises(BackboneError, match=message):
        read_weights(saved(randomised(Sam2HieraDetModel(sam2_config(**change))), tmp_path / "model"))


def test_an_unknown_sam_2_without_a_config_is_refused_with_what_is_needed(tmp_path: Path) -> None:
    tensors = Sam2HieraDetModel(sam2_config()).state_dict()
    with pytest.raises(BackboneError, match=r"stages of \[1, 2, 2, 1\] blocks, 16 wide at first.*config\.json"):
        read_weights(written(tensors, tmp_path / "own.safetensors"))


def test_a_missing_and_an_extra_tensor_of_sam_2_are_refused_by_name(tmp_path: Path) -> None:
    with torch.device("meta"):
        ours = timm.create_model("sam2_hiera_tiny", num_classes=0)
    tensors = {name: torch.zeros(tensor.shape) for name, tensor in original_sam2(ours).items()}
    missing = "image_encoder.trunk.blocks.3.mlp.layers.1.bias"
    assert_odd_tensors_are_refused(tensors, missing, r"blocks\.3\.mlp\.fc2\.bias", tmp_path)
