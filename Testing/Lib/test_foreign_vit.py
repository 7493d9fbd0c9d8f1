"""ViT, DINO, DeiT and MAE give in timm what the Transformers library and the authors' own code compute with them."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from foreign_models import backbone_of, picture, published_too, randomised, saved
from published_vit import State, block, block_shapes, mlp_shapes, norm, patches, positions, random_state
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import (
    DeiTConfig,
    DeiTForImageClassificationWithTeacher,
    DeiTModel,
    ViTConfig,
    ViTForImageClassification,
    ViTMAEConfig,
    ViTMAEForPreTraining,
    ViTMAEModel,
    ViTModel,
)

from AnyMC3DLib.errors import BackboneError
from AnyMC3DLib.foreign.reading import read_weights
from AnyMC3DLib.weights import digest_of

WIDTH, HEADS, PATCH, NATIVE, HIDDEN = 128, 2, 8, 32, 256
SIZES = [(32, 32), (40, 24)]
SMALL = {
    "hidden_size": WIDTH, "num_attention_heads": HEADS, "num_hidden_layers": 2, "intermediate_size": HIDDEN,
    "image_size": NATIVE, "patch_size": PATCH, "attn_implementation": "eager",
}  # fmt: skip
DECODER = {
    "decoder_hidden_size": 32, "decoder_num_attention_heads": 2, "decoder_num_hidden_layers": 1,
    "decoder_intermediate_size": 32, "mask_ratio": 0.0,
}  # fmt: skip
KINDS = ["ViT", "DeiT", "MAE"]
# What the authors' own code adds to the grid of positions at another size.
OFFSETS = {"DINO": 0.1, "DeiT": 0.0, "distilled DeiT": 0.0, "MAE": 0.0}
FILES = {"DINO": "dino_deitsmall16_pretrain.pth", "DeiT": "deit_small_patch16_224-cd65a155.pth"}


small_networks = published_too(*((family, WIDTH, 2, HEADS) for family in ("ViT", "DINO", "DeiT", "MAE")))


def transformers_model(kind: str, **more: object) -> nn.Module:
    makers = {"ViT": (ViTModel, ViTConfig), "DeiT": (DeiTModel, DeiTConfig), "MAE": (ViTMAEModel, ViTMAEConfig)}
    make, config = makers[kind]
    return randomised(make(config(**{**SMALL, **(DECODER if kind == "MAE" else {}), **more})))


def of_transformers(model: nn.Module, kind: str, x: Tensor) -> tuple[Tensor, Tensor]:
    """The library's tokens without a distillation token, and its last attention from class token to patches."""
    grid = x.shape[2] // PATCH, x.shape[3] // PATCH
    # Patches that are sorted by this stay in their order.
    more = {"noise": torch.arange(grid[0] * grid[1]).expand(len(x), -1)} if kind == "MAE" else {}
    with torch.no_grad():
        own = model(x, interpolate_pos_encoding=True, output_attentions=True, **more)
    prefix = 2 if kind == "DeiT" else 1
    tokens = torch.cat([own.last_hidden_state[:, :1], own.last_hidden_state[:, prefix:]], dim=1)
    return tokens, own.attentions[-1][:, :, 0, prefix:].mean(dim=1).unflatten(1, grid)


def original_state(kind: str) -> State:
    """The tensors of a small model under the names of its authors' repository."""
    prefix = 2 if kind == "distilled DeiT" else 1
    shapes = {
        "cls_token": (1, 1, WIDTH),
        "pos_embed": (1, prefix + (NATIVE // PATCH) ** 2, WIDTH),
        "patch_embed.proj.weight": (WIDTH, 3, PATCH, PATCH),
        "patch_embed.proj.bias": (WIDTH,),
        "norm.weight": (WIDTH,),
        "norm.bias": (WIDTH,),
    }
    for n in range(2):
        shapes |= block_shapes(f"blocks.{n}", WIDTH, HIDDEN, scales=False) | mlp_shapes(f"blocks.{n}", WIDTH, HIDDEN)
    more = {
        "DINO": {},
        "DeiT": {"head.weight": (5, WIDTH), "head.bias": (5,)},
        "distilled DeiT": {"dist_token": (1, 1, WIDTH), "head.weight": (5, WIDTH), "head_dist.weight": (5, WIDTH)},
        "MAE": {"decoder_embed.weight": (16, WIDTH), "mask_token": (1, 1, 16), "decoder_blocks.0.norm1.bias": (16,)},
    }
    return random_state({**shapes, **more[kind]})


def published(state: State, kind: str, x: Tensor) -> tuple[Tensor, Tensor]:
    """Normalised tokens without a distillation token, and the last attention from class token to patches."""
    tokens, grid = patches(state, x)
    first = [state[name].expand(len(x), -1, -1) for name in ("cls_token", "dist_token") if name in state]
    tokens = torch.cat([*first, tokens], dim=1)
    prefix = len(first)
    tokens = tokens + positions(state["pos_embed"], grid, prefix=prefix, offset=OFFSETS[kind], antialias=False)
    attention = tokens
    for n in range(2):
        tokens, attention = block(state, f"blocks.{n}", tokens, heads=HEADS, eps=1e-6)
    tokens = norm(state, "norm", tokens, 1e-6)
    row = attention[:, :, 0, prefix:].mean(dim=1).unflatten(1, grid)
    return torch.cat([tokens[:, :1], tokens[:, prefix:]], dim=1), row


def original_file(state: State, folder: Path, kind: str) -> Path:
    file = folder / FILES.get(kind, "weights.pth")
    torch.save({"model": state} if kind != "DINO" else state, file)
    return file


def as_original(folder: Path) -> State:
    """The tensors that the Transformers library saved, under the names of the authors' repositories."""
    names = {
        "patch_embeddings.projection": "patch_embed.proj", "position_embeddings": "pos_embed", "embeddings.": "",
        "distillation_token": "dist_token", "encoder.layer": "blocks", "attention.output.dense": "attn.proj",
        "intermediate.dense": "mlp.fc1", "output.dense": "mlp.fc2", "layernorm_before": "norm1",
        "layernorm_after": "norm2", "layernorm": "norm",
    }  # fmt: skip
    state = {}
    for name, tensor in load_file(folder / "model.safetensors").items():
        if name.startswith("pooler."):
            continue
        for old, new in names.items():
            name = name.replace(old, new)
        state[name] = tensor
    for n in range(2):
        for leaf in ("weight", "bias"):
            parts = [state.pop(f"blocks.{n}.attention.attention.{part}.{leaf}") for part in ("query", "key", "value")]
            state[f"blocks.{n}.attn.qkv.{leaf}"] = torch.cat(parts)
    return state


def check_against(file: Path, x: Tensor, tokens: Tensor, row: Tensor, *, prefix: int) -> None:
    weights = read_weights(file)
    with torch.no_grad():
        ours = weights.model.forward_features(x)
        encoded = backbone_of(weights).encode(x, attention=True)
    torch.testing.assert_close(torch.cat([ours[:, :1], ours[:, prefix:]], dim=1), tokens, rtol=0, atol=1e-4)
    torch.testing.assert_close(encoded.embedding, tokens[:, 0], rtol=0, atol=1e-4)
    torch.testing.assert_close(encoded.attention, row, rtol=0, atol=1e-5)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", KINDS)
def test_tokens_and_class_attention_are_those_of_transformers(tmp_path: Path, kind: str, size: tuple[int, int]) -> None:
    model, x = transformers_model(kind), picture(size)
    tokens, row = of_transformers(model, kind, x)
    check_against(saved(model, tmp_path), x, tokens, row, prefix=2 if kind == "DeiT" else 1)


@pytest.mark.parametrize("more", [{"qkv_bias": False}, {"hidden_act": "gelu_new"}, {"layer_norm_eps": 0.1}], ids=str)
def test_what_the_config_says_is_done(tmp_path: Path, more: dict) -> None:
    model, x = transformers_model("ViT", **more), picture(SIZES[1])
    tokens, row = of_transformers(model, "ViT", x)
    check_against(saved(model, tmp_path), x, tokens, row, prefix=1)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", OFFSETS)
def test_tokens_and_class_attention_are_those_of_the_original_code(
    tmp_path: Path, kind: str, size: tuple[int, int]
) -> None:
    state, x = original_state(kind), picture(size)
    tokens, row = published(state, kind, x)
    file = original_file(state, tmp_path, kind)
    check_against(file, x, tokens, row, prefix=2 if kind == "distilled DeiT" else 1)


@pytest.mark.parametrize(
    ("kind", "original"), [("ViT", "DINO"), ("DeiT", "distilled DeiT"), ("MAE", "MAE")], ids=["DINO", "DeiT", "MAE"]
)
def test_two_formats_of_the_same_weights_differ_in_positions_alone(tmp_path: Path, kind: str, original: str) -> None:
    model = transformers_model(kind, layer_norm_eps=1e-6)
    folder = saved(model, tmp_path / "hub")
    (folder / "preprocessor_config.json").write_text(
        '{"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}'
    )
    state = as_original(folder)
    if original == "MAE":
        state["decoder_embed.weight"] = torch.ones(4, WIDTH)
    theirs, own = read_weights(folder), read_weights(original_file(state, tmp_path, original))
    assert digest_of(theirs.model) == digest_of(own.model)
    facts = [{**w.architecture.to_dict(), "positions": None} for w in (theirs, own)]
    assert facts[0] == facts[1]


def test_a_published_model_has_timms_name_alone(tmp_path: Path) -> None:
    config = ViTConfig(hidden_size=192, num_attention_heads=3, intermediate_size=768, layer_norm_eps=1e-6)
    architecture = read_weights(saved(ViTModel(config), tmp_path)).architecture
    assert (architecture.timm, architecture.model_args, architecture.norm_eps) == ("vit_tiny_patch16_224", {}, 0.0)


def test_a_classifier_and_a_decoder_are_left_out_and_said_to_be(tmp_path: Path) -> None:
    classifier = randomised(ViTForImageClassification(ViTConfig(**SMALL)))
    assert set(read_weights(saved(classifier, tmp_path / "vit")).dropped) == {"classifier.weight", "classifier.bias"}
    teacher = randomised(DeiTForImageClassificationWithTeacher(DeiTConfig(**SMALL)))
    dropped = read_weights(saved(teacher, tmp_path / "deit")).dropped
    assert {"cls_classifier.weight", "distillation_classifier.bias"} <= set(dropped)
    masked = randomised(ViTMAEForPreTraining(ViTMAEConfig(**SMALL, **DECODER)))
    dropped = read_weights(saved(masked, tmp_path / "mae")).dropped
    assert all(name.startswith("decoder.") for name in dropped)
    assert "decoder.mask_token" in dropped


@pytest.mark.parametrize("kind", ["ViT", "DeiT"])
def test_a_published_network_is_assumed_and_told_where_no_config_is(tmp_path: Path, kind: str) -> None:
    folder = saved(transformers_model(kind), tmp_path)
    weights = read_weights(folder)
    assert weights.notes == ()
    (folder / "config.json").unlink()
    bare = read_weights(folder)
    assert digest_of(bare.model) == digest_of(weights.model)
    assert bare.architecture == weights.architecture
    (note,) = bare.notes
    assert note.startswith("Its network is assumed to be that of ") and f"small {kind}," in note
    assert note.endswith("since no config.json lies beside the weights.")


def test_a_teacher_of_dino_is_read_without_its_head(tmp_path: Path) -> None:
    state = original_state("DINO")
    teacher = {f"backbone.{name}": tensor for name, tensor in state.items()}
    head = {"head.mlp.0.weight": torch.ones(2, 2), "head.last_layer.weight_v": torch.ones(2, 2)}
    file = tmp_path / "checkpoint.pth"
    torch.save({"student": {}, "teacher": {**teacher, **head}, "epoch": 3}, file)
    weights = read_weights(file)
    assert set(weights.dropped) == set(head)
    assert digest_of(weights.model) == digest_of(read_weights(original_file(state, tmp_path, "DINO")).model)


def computed_positions(width: int, side: int) -> Tensor:
    """MAE's table of positions, entry by entry: columns first, then rows; 0 for the class token."""
    table = torch.zeros(1, 1 + side * side, width)
    for row in range(side):
        for column in range(side):
            for k in range(width // 4):
                for part, angle in enumerate((column, row)):
                    angle = angle / 10000 ** (k / (width // 4))
                    start = part * width // 2
                    table[0, 1 + row * side + column, start + k] = math.sin(angle)
                    table[0, 1 + row * side + column, start + width // 4 + k] = math.cos(angle)
    return table


def test_an_encoder_of_mae_is_known_by_its_computed_positions(tmp_path: Path) -> None:
    state = original_state("DINO")
    state["pos_embed"] = computed_positions(WIDTH, NATIVE // PATCH)
    torch.save(state, tmp_path / "encoder.pth")
    assert read_weights(tmp_path / "encoder.pth").layout.family == "MAE"


def test_a_plain_network_that_could_be_anyones_is_not_guessed(tmp_path: Path) -> None:
    torch.save(original_state("DINO"), tmp_path / "weights.pth")
    with pytest.raises(BackboneError, match="--model"):
        read_weights(tmp_path / "weights.pth")


@pytest.mark.parametrize("kind", OFFSETS)
def test_missing_and_superfluous_tensors_are_named(tmp_path: Path, kind: str) -> None:
    state = original_state(kind)
    lacking = {name: tensor for name, tensor in state.items() if name != "blocks.1.mlp.fc2.bias"}
    with pytest.raises(BackboneError, match=r"lack 1 tensors, such as 'blocks\.1\.mlp\.fc2\.bias'"):
        read_weights(original_file(lacking, tmp_path, kind))
    with pytest.raises(BackboneError, match=r"blocks\.0\.attn\.q_norm\.weight"):
        read_weights(original_file({**state, "blocks.0.attn.q_norm.weight": torch.ones(64)}, tmp_path, kind))


@pytest.mark.parametrize("kind", KINDS)
def test_missing_and_superfluous_tensors_of_transformers_are_named(tmp_path: Path, kind: str) -> None:
    folder = saved(transformers_model(kind), tmp_path)
    state = load_file(folder / "model.safetensors")
    name = "encoder.layer.1.intermediate.dense.bias"
    save_file({n: t for n, t in state.items() if n != name}, folder / "model.safetensors")
    with pytest.raises(BackboneError, match=r"blocks\.1\.mlp\.fc1\.bias"):
        read_weights(folder)
    save_file(
        {n: t for n, t in state.items() if "1.attention.attention.key.bias" not in n}, folder / "model.safetensors"
    )
    with pytest.raises(BackboneError, match=r"blocks\.1\.attn\.key\.bias"):
        read_weights(folder)
    save_file({**state, "encoder.layer.0.lambda_1": torch.ones(WIDTH)}, folder / "model.safetensors")
    with pytest.raises(BackboneError, match=r"encoder\.layer\.0\.lambda_1"):
        read_weights(folder)


@pytest.mark.parametrize(
    ("more", "word"),
    [({"hidden_act": "mish"}, "hidden_act"), ({"image_size": [16, 64]}, "image_size")],
)
def test_what_timm_cannot_do_is_refused(tmp_path: Path, more: dict, word: str) -> None:
    with pytest.raises(BackboneError, match=word):
        read_weights(saved(transformers_model("ViT", **more), tmp_path))
