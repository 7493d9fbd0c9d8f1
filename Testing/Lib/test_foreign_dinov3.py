"""DINOv3's weights give in timm what the Transformers library and the authors' own repository compute with them."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest
import timm
import torch
from foreign_models import backbone_of, picture, published_too, randomised, saved
from published_vit import State, block, block_shapes, mlp_shapes, norm, patches, random_state
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import DINOv3ViTConfig, DINOv3ViTModel

from AnyMC3DLib.architecture import Positions
from AnyMC3DLib.errors import BackboneError
from AnyMC3DLib.foreign.checkpoint import Checkpoint
from AnyMC3DLib.foreign.dinov3 import dinov3_architecture
from AnyMC3DLib.foreign.reading import read_weights
from AnyMC3DLib.weights import digest_of

WIDTH, HEADS, PATCH, HIDDEN = 128, 2, 16, 192
SIZES = [(64, 64), (80, 48)]
KINDS = {"plain": {}, "gated": {"gated": True}}
ORIGINAL_KINDS = {**KINDS, "no registers": {"registers": 0}}
PERIODS = {"exact": torch.float32, "rounded": torch.bfloat16}


small_networks = published_too(("DINOv3", WIDTH, 2, HEADS))


def transformers_model(*, gated: bool = False, registers: int = 4, **more: object) -> DINOv3ViTModel:
    arguments = {
        "hidden_size": WIDTH, "num_attention_heads": HEADS, "num_hidden_layers": 2, "intermediate_size": HIDDEN,
        "image_size": 64, "patch_size": PATCH, "num_register_tokens": registers, "use_gated_mlp": gated,
        "hidden_act": "silu" if gated else "gelu", "attn_implementation": "eager",
    }  # fmt: skip
    return randomised(DINOv3ViTModel(DINOv3ViTConfig(**{**arguments, **more})))


def original_state(*, gated: bool = False, registers: int = 4, periods: torch.dtype = torch.float32) -> State:
    """The tensors of a small model under the names of the authors' repository."""
    shapes = {
        "cls_token": (1, 1, WIDTH),
        "mask_token": (1, WIDTH),
        "patch_embed.proj.weight": (WIDTH, 3, PATCH, PATCH),
        "patch_embed.proj.bias": (WIDTH,),
        "norm.weight": (WIDTH,),
        "norm.bias": (WIDTH,),
        "local_cls_norm.weight": (WIDTH,),
    }
    if registers:
        shapes["storage_tokens"] = (1, registers, WIDTH)
    for n in range(2):
        start = f"blocks.{n}"
        shapes |= block_shapes(start, WIDTH, HIDDEN, scales=True)
        if gated:
            for name, shape in (("w1", (HIDDEN, WIDTH)), ("w2", (HIDDEN, WIDTH)), ("w3", (WIDTH, HIDDEN))):
                shapes |= {f"{start}.mlp.{name}.weight": shape, f"{start}.mlp.{name}.bias": shape[:1]}
        else:
            shapes |= mlp_shapes(start, WIDTH, HIDDEN)
    state = random_state(shapes)
    for n in range(2):
        mask = torch.ones(3, WIDTH)
        mask[1] = 0
        state[f"blocks.{n}.attn.qkv.bias_mask"] = mask.flatten()
    count = WIDTH // HEADS // 4
    exponents = 2 * torch.arange(count, dtype=periods) / (2 * count)
    state["rope_embed.periods"] = (100.0**exponents).float()
    return state


def published(state: State, x: Tensor) -> tuple[Tensor, Tensor]:
    """Normalised tokens, and the last attention from the class token to the patches."""
    tokens, grid = patches(state, x)
    first = [state[name].expand(len(x), -1, -1) for name in ("cls_token", "storage_tokens") if name in state]
    tokens = torch.cat([*first, tokens], dim=1)
    prefix = sum(part.shape[1] for part in first)
    lines = [2 * (torch.arange(n) + 0.5) / n - 1 for n in grid]
    places = torch.cartesian_prod(*lines)
    angles = (2 * math.pi * places[:, :, None] / state["rope_embed.periods"]).flatten(1).tile(2)

    def rotate(heads: Tensor) -> Tensor:
        kept, turned = heads[:, :, :prefix], heads[:, :, prefix:]
        one, two = turned.chunk(2, dim=-1)
        turned = turned * angles.cos() + torch.cat([-two, one], dim=-1) * angles.sin()
        return torch.cat([kept, turned], dim=2)

    masked = dict(state)
    for n in range(2):
        masked[f"blocks.{n}.attn.qkv.bias"] = (
            state[f"blocks.{n}.attn.qkv.bias"] * state[f"blocks.{n}.attn.qkv.bias_mask"]
        )
    attention = tokens
    for n in range(2):
        tokens, attention = block(masked, f"blocks.{n}", tokens, heads=HEADS, eps=1e-5, rotate=rotate)
    return norm(state, "norm", tokens, 1e-5), attention[:, :, 0, prefix:].mean(dim=1).unflatten(1, grid)


def original_file(state: State, folder: Path) -> Path:
    file = folder / "weights.pth"
    torch.save(state, file)
    return file


def as_original(folder: Path) -> State:
    """The tensors that the Transformers library saved, under the names of the authors' repository."""
    names = {
        "embeddings.patch_embeddings": "patch_embed.proj", "embeddings.register_tokens": "storage_tokens",
        "embeddings.": "", "layer_scale": "ls", "lambda1": "gamma", "layer.": "blocks.",
        "attention.o_proj": "attn.proj",
    }  # fmt: skip
    state = {}
    for name, tensor in load_file(folder / "model.safetensors").items():
        for old, new in names.items():
            name = name.replace(old, new)
        state[name] = tensor
    gated = "blocks.0.mlp.gate_proj.weight" in state
    parts = {"gate_proj": "w1", "up_proj": "w2" if gated else "fc1", "down_proj": "w3" if gated else "fc2"}
    for name in [name for name in state if ".mlp." in name]:
        _, block_number, _, part, leaf = name.split(".")
        state[f"blocks.{block_number}.mlp.{parts[part]}.{leaf}"] = state.pop(name)
    for n in range(2):
        start = f"blocks.{n}.attention."
        state[f"blocks.{n}.attn.qkv.weight"] = torch.cat([state.pop(f"{start}{part}_proj.weight") for part in "qkv"])
        query, value = (state.pop(f"{start}{part}_proj.bias") for part in "qv")
        # What is masked is no number where the mask was not set up.
        state[f"blocks.{n}.attn.qkv.bias"] = torch.cat([query, torch.full_like(query, math.nan), value])
        state[f"blocks.{n}.attn.qkv.bias_mask"] = torch.ones(3, WIDTH).index_fill(0, torch.tensor([1]), 0).flatten()
    return {**state, "rope_embed.periods": original_state()["rope_embed.periods"]}


def check_against(file: Path, x: Tensor, tokens: Tensor, row: Tensor) -> None:
    weights = read_weights(file)
    with torch.no_grad():
        torch.testing.assert_close(weights.model.forward_features(x), tokens, rtol=0, atol=1e-4)
        encoded = backbone_of(weights).encode(x, attention=True)
    torch.testing.assert_close(encoded.embedding, tokens[:, 0], rtol=0, atol=1e-4)
    torch.testing.assert_close(encoded.attention, row, rtol=0, atol=1e-5)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", KINDS)
def test_tokens_and_class_attention_are_those_of_transformers(tmp_path: Path, kind: str, size: tuple[int, int]) -> None:
    model, x = transformers_model(**KINDS[kind]), picture(size)
    with torch.no_grad():
        own = model(x, output_attentions=True)
    row = own.attentions[-1][:, :, 0, 5:].mean(dim=1).unflatten(1, (size[0] // PATCH, size[1] // PATCH))
    check_against(saved(model, tmp_path), x, own.last_hidden_state, row)


@pytest.mark.parametrize("periods", PERIODS)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", ORIGINAL_KINDS)
def test_tokens_and_class_attention_are_those_of_the_original_code(
    tmp_path: Path, kind: str, size: tuple[int, int], periods: str
) -> None:
    state, x = original_state(**ORIGINAL_KINDS[kind], periods=PERIODS[periods]), picture(size)
    tokens, row = published(state, x)
    check_against(original_file(state, tmp_path), x, tokens, row)


def test_rounded_periods_change_the_tokens() -> None:
    x = picture(SIZES[1])
    exact, rounded = (published(original_state(periods=dtype), x)[0] for dtype in PERIODS.values())
    assert (exact - rounded).abs().max() > 1e-3


def test_rounded_periods_outlive_a_change_of_precision(tmp_path: Path) -> None:
    model = read_weights(original_file(original_state(periods=torch.bfloat16), tmp_path)).model
    before = model.rope.periods.clone()
    assert torch.equal(before, before.bfloat16().float())
    assert torch.equal(model.bfloat16().rope.periods, before)


@pytest.mark.parametrize("more", [{"rope_theta": 50.0}, {"layer_norm_eps": 0.1}, {"intermediate_size": 190}], ids=str)
def test_what_the_config_says_is_done(tmp_path: Path, more: dict) -> None:
    model, x = transformers_model(gated=True, **more), picture(SIZES[1])
    with torch.no_grad():
        own = model(x).last_hidden_state
        ours = read_weights(saved(model, tmp_path)).model.forward_features(x)
    torch.testing.assert_close(ours, own, rtol=0, atol=1e-4)


def test_a_model_of_a_published_size_has_timms_name_alone() -> None:
    with torch.device("meta"):
        network = timm.create_model("vit_small_patch16_dinov3", num_classes=0)
    tensors = network.state_dict()
    usual, other = (
        dinov3_architecture(Checkpoint({}), dict(tensors), Positions(kind="any"), theta=theta, norm_eps=1e-5, heads=6)
        for theta in (100.0, 50.0)
    )
    assert (usual.timm, usual.model_args, usual.norm_eps) == ("vit_small_patch16_dinov3", {}, 0.0)
    assert other.model_args["rope_temperature"] == 50.0


@pytest.mark.parametrize("kind", KINDS)
def test_two_formats_of_the_same_weights_are_the_same_network(tmp_path: Path, kind: str) -> None:
    folder = saved(transformers_model(**KINDS[kind]), tmp_path / "hub")
    theirs, own = read_weights(folder), read_weights(original_file(as_original(folder), tmp_path))
    assert digest_of(theirs.model) == digest_of(own.model)
    assert theirs.architecture == own.architecture


def test_biases_that_are_0_throughout_are_left_out(tmp_path: Path) -> None:
    model, x = transformers_model(), picture(SIZES[0])
    with torch.no_grad():
        for layer in model.model.layer:
            layer.attention.q_proj.bias.zero_()
            layer.attention.v_proj.bias.zero_()
        own = model(x).last_hidden_state
    weights = read_weights(saved(model, tmp_path))
    assert weights.architecture.timm == "vit_small_patch16_dinov3"
    with torch.no_grad():
        torch.testing.assert_close(weights.model.forward_features(x), own, rtol=0, atol=1e-4)


def test_a_bias_of_keys_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BackboneError, match="bias to keys"):
        read_weights(saved(transformers_model(key_bias=True), tmp_path / "hub"))
    state = original_state()
    del state["blocks.1.attn.qkv.bias_mask"]
    with pytest.raises(BackboneError, match="Layer 1"):
        read_weights(original_file(state, tmp_path))


def test_other_periods_are_refused(tmp_path: Path) -> None:
    state = original_state()
    state["rope_embed.periods"] *= 1.01
    with pytest.raises(BackboneError, match="periods"):
        read_weights(original_file(state, tmp_path))


def test_a_config_is_not_needed(tmp_path: Path) -> None:
    folder = saved(transformers_model(), tmp_path)
    weights = read_weights(folder)
    (folder / "config.json").unlink()
    bare = read_weights(folder)
    assert (digest_of(bare.model), bare.architecture) == (digest_of(weights.model), weights.architecture)


@pytest.mark.parametrize("name", ["norm.bias", "blocks.1.mlp.fc1.bias", "blocks.1.attn.qkv.weight", "cls_token"])
def test_a_missing_tensor_is_named(tmp_path: Path, name: str) -> None:
    state = {n: t for n, t in original_state().items() if n != name}
    with pytest.raises(BackboneError, match=re.escape(name) if name != "cls_token" else "layout of these weights"):
        read_weights(original_file(state, tmp_path))


@pytest.mark.parametrize("name", ["cls_norm.weight", "blocks.0.attn.norm.weight", "blocks.0.ls3.gamma"])
def test_a_tensor_too_many_is_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(BackboneError, match=re.escape(name)):
        read_weights(original_file({**original_state(), name: torch.ones(WIDTH)}, tmp_path))


def test_missing_and_superfluous_tensors_of_transformers_are_named(tmp_path: Path) -> None:
    folder = saved(transformers_model(), tmp_path)
    state = load_file(folder / "model.safetensors")
    lacking = {n: t for n, t in state.items() if n != "layer.1.layer_scale2.lambda1"}
    save_file(lacking, folder / "model.safetensors")
    with pytest.raises(BackboneError, match=r"blocks\.1\.gamma_2"):
        read_weights(folder)
    save_file({**state, "layer.0.attention.q_norm.weight": torch.ones(4)}, folder / "model.safetensors")
    with pytest.raises(BackboneError, match=r"layer\.0\.attention\.q_norm\.weight"):
        read_weights(folder)
