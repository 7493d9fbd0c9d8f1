"""Files in timm's own names give timm's own network, and nothing in them is lost without a word."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import timm
import torch
from foreign_models import backbone_of, picture, randomised, saved
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import ViTConfig, ViTModel

from AnyMC3DLib.errors import BackboneError
from AnyMC3DLib.foreign.reading import read_weights
from AnyMC3DLib.foreign.timm_layout import TimmLayout
from AnyMC3DLib.weights import digest_of

SMALL = {"depth": 2, "embed_dim": 128, "num_heads": 2}
# What each is with a classifier of 3 classes, and a second size of slices where it takes one.
KINDS = {
    "vit_tiny_patch16_224": ({**SMALL, "img_size": 64}, (64, 64), (48, 80)),
    "vit_small_patch14_reg4_dinov2": ({**SMALL, "img_size": 56}, (56, 56), (42, 70)),
    "vit_small_patch16_dinov3": (SMALL, (64, 64), (48, 80)),
    "test_resnet": ({}, (64, 64), (48, 80)),
}


def timm_folder(
    name: str, arguments: dict, folder: Path, *, size: tuple[int, int] | None = None, **config: object
) -> tuple[nn.Module, Path]:
    """A random model of timm's with a classifier of 3 classes, and the folder that timm would write for it."""
    model = randomised(timm.create_model(name, num_classes=3, **arguments), std=0.1)
    folder.mkdir(exist_ok=True)
    save_file({n: t.clone() for n, t in model.state_dict().items()}, folder / "model.safetensors")
    cfg = {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6], "classifier": "head"}
    if size:
        cfg["input_size"] = [3, *size]
    described = {"architecture": name, "num_classes": 3, "pretrained_cfg": cfg, "model_args": arguments, **config}
    (folder / "config.json").write_text(json.dumps(described))
    return model, folder


def tokens(name: str, arguments: dict, like: nn.Module, x: Tensor) -> Tensor:
    """timm's own features, for any size of slices where it takes any."""
    try:
        model = timm.create_model(name, num_classes=3, dynamic_img_size=True, **arguments)
    except TypeError:
        model = timm.create_model(name, num_classes=3, **arguments)
    model.load_state_dict(like.state_dict())
    with torch.no_grad():
        return model.eval().forward_features(x)


@pytest.mark.parametrize("kind", KINDS)
def test_features_are_timms_at_the_native_and_at_another_size(tmp_path: Path, kind: str) -> None:
    arguments, *sizes = KINDS[kind]
    model, folder = timm_folder(kind, arguments, tmp_path)
    weights = read_weights(folder)
    for size in sizes:
        x = picture(size)
        with torch.no_grad():
            torch.testing.assert_close(
                weights.model.forward_features(x), tokens(kind, arguments, model, x), rtol=0, atol=1e-4
            )
    assert (weights.architecture.mean, weights.architecture.std) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    assert weights.dropped
    assert all(name.startswith(("head.", "fc.")) for name in weights.dropped)


def test_the_class_attention_is_that_of_the_explicit_matrix(tmp_path: Path) -> None:
    kind = "vit_tiny_patch16_224"
    arguments, _, size = KINDS[kind]
    _, folder = timm_folder(kind, arguments, tmp_path)
    weights = read_weights(folder)
    layer, seen = weights.model.blocks[-1].attn, []
    layer.fused_attn = False
    handle = layer.attn_drop.register_forward_hook(lambda _, __, matrix: seen.append(matrix))
    with torch.no_grad():
        weights.model(picture(size))
    handle.remove()
    encoded = backbone_of(weights).encode(picture(size), attention=True)
    torch.testing.assert_close(encoded.attention, seen[0][:, :, 0, 1:].mean(dim=1).unflatten(1, (3, 5)))


def test_the_size_comes_from_the_config_or_from_the_positions(tmp_path: Path) -> None:
    name = "vit_tiny_patch16_224"
    _, folder = timm_folder(name, {**SMALL, "img_size": [32, 80]}, tmp_path, size=(32, 80), model_args=SMALL)
    assert read_weights(folder).architecture.input_size == (32, 80)
    model = timm.create_model(name, num_classes=3, img_size=64)
    torch.save(model.state_dict(), tmp_path / "bare.pth")
    (folder / "config.json").unlink()
    bare = read_weights(tmp_path / "bare.pth", layout=TimmLayout(model=name))
    assert (bare.architecture.input_size, bare.architecture.model_args) == ((64, 64), {"img_size": 64})


def test_the_same_weights_have_the_same_description_as_those_of_transformers(tmp_path: Path) -> None:
    config = ViTConfig(hidden_size=192, num_attention_heads=3, intermediate_size=768, layer_norm_eps=1e-6)
    theirs = read_weights(saved(randomised(ViTModel(config)), tmp_path / "hub"))
    (tmp_path / "timm").mkdir()
    save_file(theirs.model.state_dict(), tmp_path / "timm" / "model.safetensors")
    own = {"mean": [0.5] * 3, "std": [0.5] * 3}
    described = {"architecture": "vit_tiny_patch16_224", "pretrained_cfg": own}
    (tmp_path / "timm" / "config.json").write_text(json.dumps(described))
    timms = read_weights(tmp_path / "timm")
    assert digest_of(timms.model) == digest_of(theirs.model)
    facts = [{**w.architecture.to_dict(), "positions": None} for w in (timms, theirs)]
    assert facts[0] == facts[1]
    assert timms.architecture.positions.antialias


def test_a_file_that_timm_can_read_is_read_into_the_model_that_is_named(tmp_path: Path) -> None:
    """The original names of DINOv2, which timm's own reading changes."""
    name = "vit_small_patch14_reg4_dinov2"
    network = randomised(
        timm.create_model(name, num_classes=0, **{**SMALL, "depth": 12, "embed_dim": 384, "num_heads": 6})
    )
    state = {n: t.clone() for n, t in network.state_dict().items()}
    state["register_tokens"] = state.pop("reg_token")
    state["pos_embed"] = torch.cat([torch.zeros(1, 1, 384), state["pos_embed"]], dim=1)
    state["mask_token"] = torch.ones(1, 384)
    torch.save(state, tmp_path / "weights.pth")
    weights = read_weights(tmp_path / "weights.pth", layout=TimmLayout(model=name))
    assert digest_of(weights.model) == digest_of(network)
    assert weights.dropped == ("mask_token",)


@pytest.mark.parametrize("change", ["missing", "superfluous", "another network"])
def test_weights_of_another_network_are_refused_by_name(tmp_path: Path, change: str) -> None:
    arguments, *_ = KINDS["vit_tiny_patch16_224"]
    model, folder = timm_folder("vit_tiny_patch16_224", arguments, tmp_path)
    state = {n: t.clone() for n, t in model.state_dict().items()}
    name = {"missing": "blocks.1.norm2.weight", "superfluous": "blocks.1.ls1.gamma", "another network": "norm.bias"}
    if change == "missing":
        del state[name[change]]
    else:
        state[name[change]] = torch.ones(7)
    save_file(state, folder / "model.safetensors")
    with pytest.raises(BackboneError, match=name[change].replace(".", r"\.")):
        read_weights(folder)


def test_positions_of_another_number_are_not_resampled(tmp_path: Path) -> None:
    model = timm.create_model("vit_tiny_patch16_224", num_classes=0, img_size=64)
    state = {**model.state_dict(), "pos_embed": torch.zeros(1, 1 + 15, 192)}
    torch.save(state, tmp_path / "weights.pth")
    with pytest.raises(BackboneError, match="15 position embeddings"):
        read_weights(tmp_path / "weights.pth", layout=TimmLayout(model="vit_tiny_patch16_224"))


@pytest.mark.parametrize(
    ("config", "word"),
    [
        ({"architecture": "vit_of_nobody"}, "vit_of_nobody"),
        ({"model_args": {"checkpoint_path": "/etc/passwd"}}, "checkpoint_path"),
        ({"model_args": {"pretrained": True}}, "pretrained"),
        ({"model_args": ["depth"]}, "model_args"),
        ({"model_args": {"wings": 2}}, "wings"),
        ({"pretrained_cfg": {"mean": "grey"}}, "image_mean"),
        ({"pretrained_cfg": {"input_size": [3, -1, 1]}}, "input_size"),
    ],
    ids=str,
)
def test_a_config_that_cannot_be_followed_is_refused(tmp_path: Path, config: dict, word: str) -> None:
    arguments, *_ = KINDS["vit_tiny_patch16_224"]
    _, folder = timm_folder("vit_tiny_patch16_224", arguments, tmp_path, **config)
    with pytest.raises(BackboneError, match=word):
        read_weights(folder)


def test_a_network_for_one_size_says_so(tmp_path: Path) -> None:
    small = {"depth": 1, "depth_token_only": 1, "embed_dim": 16, "num_heads": 2, "img_size": 64}
    _, folder = timm_folder("cait_xxs24_224", small, tmp_path)
    architecture = read_weights(folder).architecture
    assert (architecture.positions.kind, architecture.input_size) == ("fixed", (64, 64))
