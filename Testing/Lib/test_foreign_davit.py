"""DaViT of the original repository, Florence-2's vision tower and MedImageInsight's, brought into timm."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
from foreign_models import backbone_of, picture, published_too, randomised, saved, written
from torch import Tensor, nn
from transformers import BartConfig, Florence2Config, Florence2Model
from transformers.models.florence2 import Florence2VisionConfig
from transformers.models.florence2.modeling_florence2 import Florence2VisionBackbone

from AnyMC3DLib.architecture import Architecture
from AnyMC3DLib.errors import BackboneError
from AnyMC3DLib.foreign.checkpoint import Checkpoint
from AnyMC3DLib.foreign.davit import OriginalDaViT, TransformersFlorence2
from AnyMC3DLib.foreign.layout import Layout
from AnyMC3DLib.foreign.reading import read_weights
from AnyMC3DLib.weights import digest_of

SIZES = [(96, 96), (64, 80), (75, 101)]


small_networks = published_too(
    ("DaViT", 32, 2, 1), *((family, 32, 5, 1) for family in ("DaViT", "Florence-2", "MedImageInsight"))
)


def tower_config(**fields: object) -> Florence2VisionConfig:
    return Florence2VisionConfig(
        **{"embed_dim": (32, 64, 64, 96), "num_heads": (1, 2, 2, 3), "num_groups": (1, 2, 2, 3), "depths": (1, 1, 2, 1),
           "window_size": 5, "projection_dim": 32, **fields},
    )  # fmt: skip


def vision_tower(**fields: object) -> nn.Module:
    return randomised(Florence2VisionBackbone(tower_config(**fields)))


def microsofts_names(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors of the Transformers library's tower by the names in Microsoft's own files."""
    renamed = {}
    for name, tensor in tensors.items():
        new = name.replace(".conv.", ".proj.") if name.startswith("convs.") else name
        for n in "12":
            new = new.replace(f"block.conv{n}.", f"block.conv{n}.fn.dw.")
        for kind in ("window", "channel"):
            new = new.replace(f".{kind}_attn.", f".{kind}_attn.fn.")
            if f"{'spatial' if kind == 'window' else 'channel'}_block" in new:
                new = new.replace(".norm1.", f".{kind}_attn.norm.")
        renamed[prefix + new.replace(".ffn.", ".ffn.fn.net.").replace(".norm2.", ".ffn.norm.")] = tensor
    return renamed


@torch.no_grad()
def pooled(features: Tensor, weight: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
    """The average of a map, normalised."""
    return nn.functional.layer_norm(features.mean(dim=(2, 3)), features.shape[1:2], weight, bias)


@pytest.mark.parametrize("size", SIZES)
@torch.no_grad()
def test_florences_map_is_that_of_the_transformers_library_at_any_size(tmp_path: Path, size: tuple[int, int]) -> None:
    theirs, x = vision_tower(), picture(size)
    weights = read_weights(saved(theirs, tmp_path / "tower"))
    expected = theirs(x).last_hidden_state
    assert expected.std() > 0.1
    torch.testing.assert_close(weights.model.forward_features(x), expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(backbone_of(weights).encode(x).embedding, pooled(expected), rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_the_whole_of_florence_gives_its_tower_and_says_what_was_left_out(tmp_path: Path) -> None:
    text = BartConfig(
        vocab_size=50, d_model=32, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=32, decoder_ffn_dim=32,
    )  # fmt: skip
    theirs = randomised(Florence2Model(Florence2Config(vision_config=tower_config(), text_config=text)))
    weights, x = read_weights(saved(theirs, tmp_path / "florence")), picture((64, 80))
    expected = theirs.vision_tower(x).last_hidden_state
    torch.testing.assert_close(weights.model.forward_features(x), expected, rtol=1e-4, atol=1e-4)
    assert any(name.startswith("language_model.") for name in weights.dropped)
    assert any(name.startswith("multi_modal_projector.") for name in weights.dropped)
    assert not any("vision_tower" in name for name in weights.dropped)


def test_microsofts_own_file_gives_the_same_weights_and_network(tmp_path: Path) -> None:
    theirs = vision_tower(window_size=12)
    tensors = microsofts_names(theirs.state_dict(), "vision_tower.")
    tensors |= {"language_model.lm_head.weight": torch.ones(3, 2), "image_projection": torch.ones(2, 2)}
    one, other = (
        read_weights(saved(theirs, tmp_path / "tower")),
        read_weights(written(tensors, tmp_path / "own" / "model.safetensors")),
    )
    assert digest_of(one.model) == digest_of(other.model)
    assert one.architecture == other.architecture
    assert set(other.dropped) == {"language_model.lm_head.weight", "image_projection"}


@torch.no_grad()
def test_medimageinsights_embedding_is_the_norm_of_its_averaged_map(tmp_path: Path) -> None:
    theirs, x = vision_tower(window_size=12), picture((96, 64))
    norm = {"norms.weight": torch.randn(96), "norms.bias": torch.randn(96)}
    tensors = microsofts_names({**theirs.state_dict(), **norm}, "image_encoder.")
    beside = {"lang_encoder.token_embedding.weight": torch.ones(3, 2), "lang_projection": torch.ones(2, 2),
              "image_projection": torch.ones(96, 2), "logit_scale": torch.ones(())}  # fmt: skip
    weights = read_weights(written({**tensors, **beside}, tmp_path / "medimageinsight.safetensors"))
    expected = pooled(theirs(x).last_hidden_state, norm["norms.weight"], norm["norms.bias"])
    torch.testing.assert_close(backbone_of(weights).encode(x).embedding, expected, rtol=1e-4, atol=1e-4)
    assert set(weights.dropped) == set(beside)
    assert (weights.layout.family, weights.architecture.family) == ("Florence-2", "MedImageInsight")
    assert weights.architecture.input_size == (480, 480)


# Two of the published sizes, whose networks timm knows by name; nothing of this size is computed.
@pytest.mark.parametrize(("width", "name"), [(128, "davit_base_fl"), (256, "davit_huge_fl")])
def test_published_sizes_are_known_by_timms_names(width: int, name: str) -> None:
    widths = [width << n for n in range(4)]
    with torch.device("meta"):
        heads = [w // 32 for w in widths]
        theirs = Florence2VisionBackbone(
            Florence2VisionConfig(embed_dim=widths, num_heads=heads, num_groups=heads, depths=(1, 1, 9, 1))
        )
    assert described(TransformersFlorence2(), theirs.state_dict()).timm == name
    assert described(TransformersFlorence2(), theirs.state_dict()).model_args == {}


def described(layout: Layout, tensors: dict[str, Tensor]) -> Architecture:
    return layout.convert(Checkpoint(tensors)).architecture


def original_names(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """timm's tensors of a DaViT by the names of the original repository."""
    renamed = {}
    for name, tensor in tensors.items():
        parts = name.split(".")
        if parts[0] == "stem":
            new = ["patch_embeds", "0", *parts[1:]]
        elif parts[0] == "head":
            new = ["norms", parts[-1]]
        elif parts[2] == "downsample":
            new = ["patch_embeds", parts[1], *parts[3:]]
        else:
            new = ["main_blocks", parts[1], *parts[3:]]
        joined = ".".join(new).replace(".cpe1.", ".cpe.0.").replace(".cpe2.", ".cpe.1.")
        renamed[joined.replace(".conv.", ".proj.") if joined.startswith("patch_embeds") else joined] = tensor
    return renamed


def test_the_original_repositorys_file_gives_timms_network_and_weights(tmp_path: Path) -> None:
    arguments = {"depths": (1, 1, 2, 1), "embed_dims": (32, 64, 96, 128), "num_heads": (1, 2, 3, 4), "num_classes": 0}
    ours = randomised(timm.create_model("davit_tiny", **arguments))
    tensors = original_names(ours.state_dict()) | {"head.weight": torch.ones(5, 128), "head.bias": torch.ones(5)}
    assert "main_blocks.2.1.1.cpe.0.proj.weight" in tensors
    assert "patch_embeds.3.proj.weight" in tensors
    weights = read_weights(written(tensors, tmp_path / "davit.safetensors"))
    assert digest_of(weights.model) == digest_of(ours)
    assert set(weights.dropped) == {"head.weight", "head.bias"}
    x = picture((75, 64))
    with torch.no_grad():
        torch.testing.assert_close(backbone_of(weights).encode(x).embedding, ours(x), rtol=1e-5, atol=1e-5)
    with torch.device("meta"):
        published = timm.create_model("davit_small", num_classes=0)
    assert described(OriginalDaViT(), original_names(published.state_dict())).timm == "davit_small"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_groups": (1, 2, 2, 1)}, r"\[1, 2, 2, 1\] groups of channels for \[1, 2, 2, 3\] heads"),
        ({"patch_prenorm": (True, True, True, True)}, "'patch_prenorm' is"),
        ({"num_heads": (1, 3, 2, 3), "num_groups": (1, 3, 2, 3)}, "do not divide the widths"),
    ],
)
def test_what_timms_network_cannot_do_is_refused(tmp_path: Path, change: dict, message: str) -> None:
    folder = saved(vision_tower(), tmp_path / "tower")
    tower_config(**change).save_pretrained(folder)
    with pytest.raises(BackboneError, match=message):
        read_weights(folder)


@pytest.mark.parametrize("layout", ["Transformers", "Microsoft", "original"])
def test_a_missing_and_an_extra_tensor_are_refused_by_name(tmp_path: Path, layout: str) -> None:
    if layout == "original":
        tensors = original_names(
            timm.create_model(
                "davit_tiny", depths=(1, 1), embed_dims=(32, 64), num_heads=(1, 2), num_classes=0
            ).state_dict()
        )
        missing, named = "main_blocks.1.0.1.cpe.1.proj.bias", "stages.1.blocks.0.1.cpe2.proj.bias"
    else:
        tensors = vision_tower(window_size=12).state_dict()
        missing, named = "blocks.2.1.channel_block.norm2.bias", "stages.2.blocks.1.channel_block.norm2.bias"
        if layout == "Microsoft":
            tensors, missing = (
                microsofts_names(tensors, "vision_tower."),
                "vision_tower.blocks.2.1.channel_block.ffn.norm.bias",
            )
    rest = {name: tensor for name, tensor in tensors.items() if name != missing}
    assert len(rest) == len(tensors) - 1
    with pytest.raises(BackboneError, match=named):
        read_weights(written(rest, tmp_path / "less.safetensors"))
    with pytest.raises(BackboneError, match=r"'something\.else' does not belong"):
        read_weights(written({**tensors, "something.else": torch.ones(2)}, tmp_path / "more.safetensors"))
