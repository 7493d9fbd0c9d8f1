"""DINOv2's weights give in timm what the Transformers library and the authors' own repository compute with them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from foreign_models import backbone_of, picture, published_too, randomised, saved
from published_vit import State, block, block_shapes, mlp_shapes, norm, patches, positions, random_state
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import (
    Dinov2Config,
    Dinov2ForImageClassification,
    Dinov2Model,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
)

from AnyMC3DLib.errors import BackboneError
from AnyMC3DLib.foreign.reading import read_weights
from AnyMC3DLib.weights import digest_of

WIDTH, HEADS, PATCH, NATIVE, HIDDEN = 128, 2, 14, 56, 512
SIZES = [(56, 56), (70, 42), (112, 98)]
KINDS = {"plain": {}, "SwiGLU": {"swiglu": True}, "registers": {"registers": 3}}
HALF_HIDDEN = 344


small_networks = published_too(*(("DINOv2", WIDTH, depth, HEADS) for depth in (2, 3)))


def transformers_model(*, swiglu: bool = False, registers: int = 0) -> Dinov2Model | Dinov2WithRegistersModel:
    arguments = {
        "hidden_size": WIDTH, "num_attention_heads": HEADS, "num_hidden_layers": 2, "image_size": NATIVE,
        "patch_size": PATCH, "use_swiglu_ffn": swiglu, "attn_implementation": "eager",
    }  # fmt: skip
    if registers:
        model = Dinov2WithRegistersModel(Dinov2WithRegistersConfig(num_register_tokens=registers, **arguments))
    else:
        model = Dinov2Model(Dinov2Config(**arguments))
    return randomised(model)


def original_state(*, swiglu: bool = False, registers: int = 0) -> State:
    """The tensors of a small model under the names of the authors' repository."""
    shapes = {
        "cls_token": (1, 1, WIDTH),
        "pos_embed": (1, 1 + (NATIVE // PATCH) ** 2, WIDTH),
        "mask_token": (1, WIDTH),
        "patch_embed.proj.weight": (WIDTH, 3, PATCH, PATCH),
        "patch_embed.proj.bias": (WIDTH,),
        "norm.weight": (WIDTH,),
        "norm.bias": (WIDTH,),
    }
    if registers:
        shapes["register_tokens"] = (1, registers, WIDTH)
    for n in range(2):
        start = f"blocks.{n}"
        shapes |= block_shapes(start, WIDTH, HIDDEN, scales=True)
        if swiglu:
            shapes |= {
                f"{start}.mlp.w12.weight": (2 * HALF_HIDDEN, WIDTH),
                f"{start}.mlp.w12.bias": (2 * HALF_HIDDEN,),
                f"{start}.mlp.w3.weight": (WIDTH, HALF_HIDDEN),
                f"{start}.mlp.w3.bias": (WIDTH,),
            }
        else:
            shapes |= mlp_shapes(start, WIDTH, HIDDEN)
    return random_state(shapes)


def published(state: State, x: Tensor) -> tuple[Tensor, Tensor]:
    """Normalised tokens without registers, and the last attention from the class token to the patches."""
    registers = state.get("register_tokens")
    tokens, grid = patches(state, x)
    tokens = torch.cat([state["cls_token"].expand(len(x), -1, -1), tokens], dim=1)
    offset, antialias = (0.1, False) if registers is None else (0.0, True)
    tokens = tokens + positions(state["pos_embed"], grid, prefix=1, offset=offset, antialias=antialias)
    count = 0
    if registers is not None:
        count = registers.shape[1]
        tokens = torch.cat([tokens[:, :1], registers.expand(len(x), -1, -1), tokens[:, 1:]], dim=1)
    attention = tokens
    for n in range(2):
        tokens, attention = block(state, f"blocks.{n}", tokens, heads=HEADS, eps=1e-6)
    tokens = norm(state, "norm", tokens, 1e-6)
    row = attention[:, :, 0, 1 + count :].mean(dim=1).unflatten(1, grid)
    return torch.cat([tokens[:, :1], tokens[:, 1 + count :]], dim=1), row


def original_file(state: State, folder: Path, *, chunked: bool = False) -> Path:
    file = folder / "weights.pth"
    if chunked:
        state = {n.replace("blocks.1.", "blocks.1.1.").replace("blocks.0.", "blocks.0.0."): t for n, t in state.items()}
    torch.save(state, file)
    return file


def as_original(model: Dinov2Model | Dinov2WithRegistersModel, folder: Path) -> State:
    """The tensors that the Transformers library saves, under the names of the authors' repository."""
    state = load_file(saved(model, folder) / "model.safetensors")
    names = {
        "patch_embeddings.projection": "patch_embed.proj", "position_embeddings": "pos_embed", "embeddings.": "",
        "encoder.layer": "blocks", "layer_scale": "ls", "lambda1": "gamma", "attention.output.dense": "attn.proj",
        "weights_in": "w12", "weights_out": "w3", "layernorm": "norm",
    }  # fmt: skip
    renamed = {}
    for name, tensor in state.items():
        for old, new in names.items():
            name = name.replace(old, new)
        renamed[name] = tensor
    for n in range(2):
        for leaf in ("weight", "bias"):
            parts = [renamed.pop(f"blocks.{n}.attention.attention.{part}.{leaf}") for part in ("query", "key", "value")]
            renamed[f"blocks.{n}.attn.qkv.{leaf}"] = torch.cat(parts)
    return renamed


def check_against(file: Path, x: Tensor, tokens: Tensor, row: Tensor, *, registers: int) -> None:
    weights = read_weights(file)
    with torch.no_grad():
        ours = weights.model.forward_features(x)
        encoded = backbone_of(weights).encode(x, attention=True)
    torch.testing.assert_close(torch.cat([ours[:, :1], ours[:, 1 + registers :]], dim=1), tokens, rtol=0, atol=1e-4)
    torch.testing.assert_close(encoded.embedding, tokens[:, 0], rtol=0, atol=1e-4)
    torch.testing.assert_close(encoded.attention, row, rtol=0, atol=1e-5)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", KINDS)
def test_tokens_and_class_attention_are_those_of_transformers(tmp_path: Path, kind: str, size: tuple[int, int]) -> None:
    model, x = transformers_model(**KINDS[kind]), picture(size)
    registers = KINDS[kind].get("registers", 0)
    with torch.no_grad():
        own = model(x, output_attentions=True)
    tokens = torch.cat([own.last_hidden_state[:, :1], own.last_hidden_state[:, 1 + registers :]], dim=1)
    grid = size[0] // PATCH, size[1] // PATCH
    row = own.attentions[-1][:, :, 0, 1 + registers :].mean(dim=1).unflatten(1, grid)
    check_against(saved(model, tmp_path), x, tokens, row, registers=registers)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", KINDS)
def test_tokens_and_class_attention_are_those_of_the_original_code(
    tmp_path: Path, kind: str, size: tuple[int, int]
) -> None:
    state, x = original_state(**KINDS[kind]), picture(size)
    tokens, row = published(state, x)
    check_against(original_file(state, tmp_path), x, tokens, row, registers=KINDS[kind].get("registers", 0))


def test_blocks_in_chunks_are_the_same_weights(tmp_path: Path) -> None:
    state = original_state()
    (tmp_path / "chunked").mkdir()
    plain = read_weights(original_file(state, tmp_path))
    chunked = read_weights(original_file(state, tmp_path / "chunked", chunked=True))
    assert digest_of(plain.model) == digest_of(chunked.model)


def test_a_saved_teacher_is_read_without_its_heads(tmp_path: Path) -> None:
    state = original_state()
    file = tmp_path / "teacher_checkpoint.pth"
    teacher = {f"backbone.{name}": tensor for name, tensor in state.items()}
    torch.save({"teacher": {**teacher, "dino_head.mlp.0.weight": torch.ones(3, 3)}}, file)
    weights = read_weights(file)
    assert digest_of(weights.model) == digest_of(read_weights(original_file(state, tmp_path)).model)
    assert set(weights.dropped) == {"backbone.mask_token", "dino_head.mlp.0.weight"}


@pytest.mark.parametrize("kind", KINDS)
def test_two_formats_of_the_same_weights_differ_in_positions_alone(tmp_path: Path, kind: str) -> None:
    model = transformers_model(**KINDS[kind])
    theirs = read_weights(saved(model, tmp_path / "hub"))
    original = read_weights(original_file(as_original(model, tmp_path / "copy"), tmp_path))
    assert digest_of(theirs.model) == digest_of(original.model)
    facts = [{**w.architecture.to_dict(), "positions": None} for w in (theirs, original)]
    assert facts[0] == facts[1]
    assert original.architecture.positions.offset == (0.0 if kind == "registers" else 0.1)


def test_a_model_of_a_published_size_has_timms_name_alone(tmp_path: Path) -> None:
    config = Dinov2Config(hidden_size=384, num_attention_heads=6, image_size=518, patch_size=14)
    weights = read_weights(saved(Dinov2Model(config), tmp_path))
    assert (weights.architecture.timm, weights.architecture.model_args) == ("vit_small_patch14_dinov2", {})
    assert weights.architecture.norm_eps == 0.0


def test_a_classifier_is_left_out_and_said_to_be(tmp_path: Path) -> None:
    config = Dinov2Config(
        hidden_size=WIDTH, num_attention_heads=HEADS, num_hidden_layers=2, image_size=NATIVE, patch_size=PATCH
    )
    weights = read_weights(saved(randomised(Dinov2ForImageClassification(config)), tmp_path))
    assert set(weights.dropped) == {"classifier.weight", "classifier.bias", "dinov2.embeddings.mask_token"}


def test_a_config_is_not_needed(tmp_path: Path) -> None:
    folder = saved(transformers_model(), tmp_path)
    digest = digest_of(read_weights(folder).model)
    (folder / "config.json").unlink()
    assert digest_of(read_weights(folder).model) == digest


@pytest.mark.parametrize("name", ["norm.bias", "blocks.1.ls2.gamma", "blocks.1.mlp.fc1.bias", "blocks.1.attn.qkv.bias"])
def test_a_missing_tensor_is_named(tmp_path: Path, name: str) -> None:
    state = {n: t for n, t in original_state().items() if n != name}
    with pytest.raises(BackboneError, match=re.escape(name)):
        read_weights(original_file(state, tmp_path))


@pytest.mark.parametrize("name", ["blocks.0.attn.k_norm.weight", "cls_norm.weight", "blocks.2.ls2.gamma"])
def test_a_tensor_too_many_is_refused(tmp_path: Path, name: str) -> None:
    state = {**original_state(), name: torch.ones(WIDTH)}
    with pytest.raises(BackboneError, match=rf"{re.escape(name)}|blocks\.2\."):
        read_weights(original_file(state, tmp_path))


def test_an_unknown_tensor_outside_of_the_network_is_refused(tmp_path: Path) -> None:
    config = Dinov2Config(
        hidden_size=WIDTH, num_attention_heads=HEADS, num_hidden_layers=2, image_size=NATIVE, patch_size=PATCH
    )
    folder = saved(Dinov2ForImageClassification(config), tmp_path)
    state = load_file(folder / "model.safetensors")
    save_file({**state, "adapter.weight": torch.ones(2)}, folder / "model.safetensors")
    with pytest.raises(BackboneError, match=r"adapter\.weight"):
        read_weights(folder)


@pytest.mark.parametrize("size", SIZES)
def test_a_file_of_16_bits_is_added_up_in_32_as_its_own_library_does(size: tuple[int, int], tmp_path: Path) -> None:
    folder = saved(transformers_model(registers=3).to(torch.bfloat16), tmp_path)
    own = Dinov2WithRegistersModel.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    weights = read_weights(folder)
    assert {tensor.dtype for tensor in weights.model.state_dict().values()} == {torch.float32}
    kept = own.embeddings
    wanted = kept.cls_token + kept.position_embeddings[:, :1]
    torch.testing.assert_close(weights.model.cls_token, wanted, rtol=0, atol=0)
    slices = picture(size)
    with torch.inference_mode():
        torch.testing.assert_close(
            weights.model.forward_features(slices), own(slices).last_hidden_state, rtol=0, atol=1e-4
        )
