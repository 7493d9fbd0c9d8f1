"""EVA, EVA-02 and EVA-CLIP from their authors' files, against the published network written out here and timm's own."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from foreign_models import backbone_of, picture, published_too, randomised
from safetensors.torch import save_file
from test_foreign_clip import read
from timm.models.eva import checkpoint_filter_fn
from torch import Tensor
from torch.nn import functional

from AnyMC3DLib.architecture import Positions
from AnyMC3DLib.errors import BackboneError
from AnyMC3DLib.foreign.beit import OriginalBEiT
from AnyMC3DLib.foreign.checkpoint import Checkpoint, read_checkpoint
from AnyMC3DLib.foreign.eva import OriginalEVA
from AnyMC3DLib.foreign.open_clip import OpenCLIPTimm

WIDTH, HEADS, PATCH, HIDDEN = 128, 2, 8, 80
SIZES = [(32, 32), (56, 40)]
# What tells the published models apart: split query and key, norms within MLP and attention, gates, the last norm.
BASE = {"split": True, "inner": True, "gated": True, "last": "fc_norm"}
SMALL = {"split": False, "inner": False, "gated": True, "last": "fc_norm"}
CLIP_02 = {"split": True, "inner": True, "gated": True, "last": "norm", "attn_norm": True, "prefix": "visual."}
FIRST = {"split": False, "inner": False, "gated": False, "last": "fc_norm"}
KINDS = {"EVA-02 base": BASE, "EVA-02 small": SMALL, "EVA-02-CLIP": CLIP_02, "EVA": FIRST}


small_networks = published_too(("EVA", WIDTH, 2, HEADS), ("EVA", 768, 1, 12))


def published(*, side: int = 4, seed: int = 0, **kind: Any) -> dict[str, Tensor]:
    """Random tensors by the authors' names, with the rotations of their grid."""
    generator = torch.Generator().manual_seed(seed)
    shapes: dict[str, tuple[int, ...]] = {
        "cls_token": (1, 1, WIDTH), "pos_embed": (1, side * side + 1, WIDTH),
        "patch_embed.proj.weight": (WIDTH, 3, PATCH, PATCH), "patch_embed.proj.bias": (WIDTH,),
        f"{kind['last']}.weight": (WIDTH,), f"{kind['last']}.bias": (WIDTH,),
        "head.weight": (5, WIDTH), "head.bias": (5,),
    }  # fmt: skip
    for n in range(2):
        block = {
            "norm1.weight": (WIDTH,), "norm1.bias": (WIDTH,), "norm2.weight": (WIDTH,), "norm2.bias": (WIDTH,),
            "attn.q_bias": (WIDTH,), "attn.v_bias": (WIDTH,),
            "attn.proj.weight": (WIDTH, WIDTH), "attn.proj.bias": (WIDTH,),
        }  # fmt: skip
        parts = [f"attn.{part}_proj.weight" for part in "qkv"] if kind["split"] else ["attn.qkv.weight"]
        block |= {part: (WIDTH * 3 // len(parts), WIDTH) for part in parts}
        up = ("mlp.w1", "mlp.w2") if kind["gated"] else ("mlp.fc1",)
        block |= {f"{name}.weight": (HIDDEN, WIDTH) for name in up} | {f"{name}.bias": (HIDDEN,) for name in up}
        down = "mlp.w3" if kind["gated"] else "mlp.fc2"
        block |= {f"{down}.weight": (WIDTH, HIDDEN), f"{down}.bias": (WIDTH,)}
        if kind["inner"]:
            block |= {"mlp.ffn_ln.weight": (HIDDEN,), "mlp.ffn_ln.bias": (HIDDEN,)}
        if kind.get("attn_norm"):
            block |= {"attn.inner_attn_ln.weight": (WIDTH,), "attn.inner_attn_ln.bias": (WIDTH,)}
        shapes |= {f"blocks.{n}.{name}": shape for name, shape in block.items()}
    tensors = {name: torch.randn(shape, generator=generator) * 0.2 for name, shape in shapes.items()}
    if kind["gated"]:
        for name, table in zip(("cos", "sin"), rotations((side, side)), strict=True):
            tensors |= {f"rope.freqs_{name}": table, f"blocks.0.attn.rope.freqs_{name}": table}
    return {kind.get("prefix", "") + name: tensor for name, tensor in tensors.items()}


def rotations(grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Cosines and sines [h w, D] of EVA-02: rows, then columns, counted from 0 to 16 whatever the grid."""
    head = WIDTH // HEADS
    speeds = 10000.0 ** -(torch.arange(0, head // 2, 2).float() / (head // 2))
    rows, columns = (torch.arange(n).float() / n * 16 for n in grid)
    angles = torch.stack(
        [torch.cat([row * speeds, column * speeds]).repeat_interleave(2) for row in rows for column in columns]
    )
    return angles.cos(), angles.sin()


def rotated(x: Tensor, grid: tuple[int, int]) -> Tensor:
    """Queries or keys [B, heads, 1 + h w, D] with the patches' neighbouring pairs of channels turned."""
    cosine, sine = rotations(grid)
    patches = x[:, :, 1:]
    even, odd = patches[..., 0::2], patches[..., 1::2]
    turned = torch.stack(
        [even * cosine[:, 0::2] - odd * sine[:, 0::2], odd * cosine[:, 1::2] + even * sine[:, 1::2]], -1
    )
    return torch.cat([x[:, :, :1], turned.flatten(-2)], dim=2)


class Published:
    """The published network, from its tensors by the authors' names."""

    def __init__(self, tensors: dict[str, Tensor], **kind: Any) -> None:
        prefix = kind.get("prefix", "")
        self.tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
        self.kind = kind
        self.attention: list[Tensor] = []

    def norm(self, x: Tensor, name: str) -> Tensor:
        scale, offset = self.tensors[f"{name}.weight"], self.tensors[f"{name}.bias"]
        return functional.layer_norm(x, scale.shape, scale, offset, 1e-6)

    def linear(self, x: Tensor, name: str) -> Tensor:
        return functional.linear(x, self.tensors[f"{name}.weight"], self.tensors[f"{name}.bias"])

    def attend(self, x: Tensor, name: str, grid: tuple[int, int]) -> Tensor:
        names = [f"{name}.{part}_proj.weight" for part in "qkv"]
        weights = (
            [self.tensors[n] for n in names] if self.kind["split"] else self.tensors[f"{name}.qkv.weight"].chunk(3)
        )
        biases = (self.tensors[f"{name}.q_bias"], None, self.tensors[f"{name}.v_bias"])
        q, k, v = (
            functional.linear(x, weight, bias).unflatten(2, (HEADS, -1)).transpose(1, 2)
            for weight, bias in zip(weights, biases, strict=True)
        )
        if self.kind["gated"]:
            q, k = rotated(q, grid), rotated(k, grid)
        matrix = (q @ k.transpose(2, 3) * (WIDTH // HEADS) ** -0.5).softmax(dim=-1)
        self.attention.append(matrix)
        x = (matrix @ v).transpose(1, 2).flatten(2)
        return self.linear(self.norm(x, f"{name}.inner_attn_ln") if self.kind.get("attn_norm") else x, f"{name}.proj")

    def mlp(self, x: Tensor, name: str) -> Tensor:
        if not self.kind["gated"]:
            return self.linear(functional.gelu(self.linear(x, f"{name}.fc1")), f"{name}.fc2")
        x = functional.silu(self.linear(x, f"{name}.w1")) * self.linear(x, f"{name}.w2")
        return self.linear(self.norm(x, f"{name}.ffn_ln") if self.kind["inner"] else x, f"{name}.w3")

    def positions(self, grid: tuple[int, int]) -> Tensor:
        stored = self.tensors["pos_embed"]
        side = round((stored.shape[1] - 1) ** 0.5)
        if grid == (side, side):
            return stored
        patches = stored[:, 1:].unflatten(1, (side, side)).permute(0, 3, 1, 2)
        patches = functional.interpolate(patches, size=grid, mode="bicubic", align_corners=False)
        return torch.cat([stored[:, :1], patches.flatten(2).transpose(1, 2)], dim=1)

    def tokens(self, slices: Tensor) -> Tensor:
        """Tokens after the last block, and after the last norm where that is for all of them."""
        patch = (self.tensors["patch_embed.proj.weight"], self.tensors["patch_embed.proj.bias"])
        x = functional.conv2d(slices, *patch, stride=PATCH)
        grid = (x.shape[2], x.shape[3])
        x = torch.cat([self.tensors["cls_token"].expand(len(x), -1, -1), x.flatten(2).transpose(1, 2)], dim=1)
        x = x + self.positions(grid)
        for n in range(2):
            x = x + self.attend(self.norm(x, f"blocks.{n}.norm1"), f"blocks.{n}.attn", grid)
            x = x + self.mlp(self.norm(x, f"blocks.{n}.norm2"), f"blocks.{n}.mlp")
        return self.norm(x, "norm") if self.kind["last"] == "norm" else x

    def embedding(self, slices: Tensor) -> Tensor:
        tokens = self.tokens(slices)
        return tokens[:, 0] if self.kind["last"] == "norm" else self.norm(tokens[:, 1:].mean(dim=1), "fc_norm")


def kept(tensors: dict[str, Tensor], folder: Path) -> Path:
    """As the authors' training program keeps them."""
    torch.save({"module": tensors}, folder / "eva.pt")
    return folder / "eva.pt"


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", KINDS)
def test_tokens_and_embedding_are_those_of_the_published_network(
    tmp_path: Path, kind: str, size: tuple[int, int]
) -> None:
    tensors = published(**KINDS[kind])
    weights = read(kept(tensors, tmp_path), OriginalEVA())
    network, slices = Published(tensors, **KINDS[kind]), picture(size)
    with torch.no_grad():
        tokens = weights.model.forward_features(slices)
    torch.testing.assert_close(tokens, network.tokens(slices), rtol=1e-5, atol=2e-5)
    embedding = backbone_of(weights).encode(slices).embedding
    torch.testing.assert_close(embedding, network.embedding(slices), rtol=1e-5, atol=2e-5)
    assert embedding.std() > 0.1


@pytest.mark.parametrize("size", SIZES)
def test_class_attention_is_the_row_of_the_rotated_matrix(tmp_path: Path, size: tuple[int, int]) -> None:
    tensors = published(**CLIP_02)
    backbone = backbone_of(read(kept(tensors, tmp_path), OriginalEVA()))
    network = Published(tensors, **CLIP_02)
    network.tokens(picture(size))
    row = backbone.encode(picture(size), attention=True).attention
    torch.testing.assert_close(row.flatten(1), network.attention[-1].mean(dim=1)[:, 0, 1:], rtol=1e-4, atol=1e-6)
    assert row.std() > 1e-4


@pytest.mark.parametrize("kind", KINDS)
def test_every_tensor_goes_where_timms_own_reading_of_these_files_puts_it(tmp_path: Path, kind: str) -> None:
    tensors = published(**KINDS[kind])
    weights = read(kept(tensors, tmp_path), OriginalEVA())
    filtered = checkpoint_filter_fn(dict(tensors), weights.model)
    own = {name: tensor for name, tensor in filtered.items() if not name.startswith("head.")}
    if kind == "EVA-02 small":
        # The authors' small models have gate and values apart, timm's have them in one layer.
        for n in range(2):
            for leaf in ("weight", "bias"):
                parts = [own.pop(f"blocks.{n}.mlp.{part}.{leaf}") for part in ("fc1_g", "fc1_x")]
                own[f"blocks.{n}.mlp.fc1.{leaf}"] = torch.cat(parts)
    state = weights.model.state_dict()
    assert state.keys() == own.keys()
    assert all(torch.equal(state[name], own[name]) for name in own)


def test_weights_of_masked_images_are_read_as_timm_reads_them(tmp_path: Path) -> None:
    kind = {**BASE, "last": "norm"}
    tensors = {**published(**kind), "mask_token": torch.zeros(1, 1, WIDTH), "lm_head.weight": torch.zeros(3, WIDTH)}
    weights = read(kept(tensors, tmp_path), OriginalEVA())
    network = Published(tensors, **kind)
    before = Published(tensors, **BASE).tokens(picture((32, 32)))
    embedding = backbone_of(weights).encode(picture((32, 32))).embedding
    torch.testing.assert_close(embedding, network.norm(before[:, 1:].mean(dim=1), "norm"), rtol=1e-5, atol=2e-5)
    assert {"mask_token", "lm_head.weight", "rope.freqs_cos"} <= set(weights.dropped)


def test_the_tower_of_texts_is_left_out_and_told(tmp_path: Path) -> None:
    tensors = {**published(**CLIP_02), "text.token_embedding.weight": torch.zeros(4, 4), "logit_scale": torch.ones(())}
    weights = read(kept(tensors, tmp_path), OriginalEVA())
    assert {"text.token_embedding.weight", "logit_scale", "visual.head.weight"} <= set(weights.dropped)


def authors_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """timm's tensors of EVA-02-CLIP by the authors' names."""
    names = {"fc1_g": "w1", "fc1_x": "w2", "fc2": "w3", "mlp.norm": "mlp.ffn_ln", "attn.norm": "attn.inner_attn_ln"}
    names |= {"q_proj.bias": "q_bias", "v_proj.bias": "v_bias"}
    result = {}
    for name, tensor in state.items():
        for old, new in names.items():
            name = name.replace(old, new)
        result[f"visual.{name}"] = tensor
    return result


def test_open_clips_file_and_the_authors_are_the_same_network(tmp_path: Path) -> None:
    network = timm.create_model("eva02_base_patch16_clip_224", num_classes=0, depth=1)
    state = randomised(network, std=0.05).state_dict()
    (tmp_path / "own").mkdir()
    save_file(authors_names(state), tmp_path / "own" / "eva.safetensors")
    own = OriginalEVA().convert(read_checkpoint(tmp_path / "own"))
    assert own.tensors.keys() == state.keys()
    assert all(torch.equal(own.tensors[name], tensor) for name, tensor in state.items())
    # timm's name stands for all twelve blocks.
    every = {name.replace("blocks.0.", f"blocks.{n}."): t for name, t in state.items() for n in range(12)}
    architecture = OriginalEVA().convert(Checkpoint(authors_names(every))).architecture
    assert (architecture.timm, dict(architecture.model_args)) == ("eva02_base_patch16_clip_224", {})
    trunk = {f"visual.trunk.{name}": tensor for name, tensor in every.items()}
    tower = {"timm_model_name": "eva02_base_patch16_clip_224", "timm_pool": "token", "timm_proj": None}
    other = OpenCLIPTimm().convert(Checkpoint(trunk, config={"model_cfg": {"vision_cfg": tower}})).architecture
    assert other == dataclasses.replace(architecture, positions=Positions(), norm_eps=other.norm_eps)


@pytest.mark.parametrize("lost", ["blocks.1.mlp.w3.bias", "blocks.1.attn.k_proj.weight", "fc_norm.weight"])
def test_a_missing_tensor_and_one_too_many_are_refused_by_name(tmp_path: Path, lost: str) -> None:
    tensors = published(**BASE)
    told = lost.replace("w3", "fc2").replace(".", r"\.")
    with pytest.raises(BackboneError, match=told):
        read(kept({name: tensor for name, tensor in tensors.items() if name != lost}, tmp_path), OriginalEVA())
    with pytest.raises(BackboneError, match=r"'blocks\.0\.adapter'"):
        read(kept({**tensors, "blocks.0.adapter": torch.zeros(2)}, tmp_path), OriginalEVA())


def test_other_rotations_are_refused(tmp_path: Path) -> None:
    tensors = published(**BASE)
    sines = tensors["rope.freqs_sin"]
    for other in (sines.flip(0), sines[0], sines[:, :3]):
        with pytest.raises(BackboneError, match=r"'rope\.freqs_sin' are not EVA-02's on a grid of 4 x 4"):
            read(kept({**tensors, "rope.freqs_sin": other}, tmp_path), OriginalEVA())


def test_eva_is_told_from_beit(tmp_path: Path) -> None:
    eva = read_checkpoint(kept(published(**FIRST), tmp_path))
    tables = {f"blocks.{n}.attn.relative_position_bias_table": torch.zeros(52, HEADS) for n in range(2)}
    beit = Checkpoint({**eva.tensors, **tables})
    assert (OriginalEVA().matches(eva), OriginalBEiT().matches(eva)) == (True, False)
    assert (OriginalEVA().matches(beit), OriginalBEiT().matches(beit)) == (False, True)
