"""Swin Transformers of the original repository and of the Transformers library."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ..architecture import IMAGENET_MEAN, IMAGENET_STD, Architecture, Positions
from ..building import shortest
from ..errors import BackboneError
from .checkpoint import Checkpoint
from .layout import Converted, Layout, Rule, count, join, need, rename
from .published import assumed_network
from .towers import agree, divided, whole_number, whole_numbers
from .vit import mlp_ratio, normalisation, number_of, optional_prefix

# timm's models by the width of their first stage and their size of slices.
KNOWN = {"swin_tiny_patch4_window7_224": (96, 224), "swin_small_patch4_window7_224": (96, 224),
         "swin_base_patch4_window7_224": (128, 224), "swin_base_patch4_window12_384": (128, 384),
         "swin_large_patch4_window7_224": (192, 224), "swin_large_patch4_window12_384": (192, 384)}  # fmt: skip
LEAF = r"\.(weight|bias)"
TABLE = "relative_position_bias_table"


@dataclasses.dataclass(frozen=True)
class OriginalSwin:
    """The files of the Swin Transformer repository."""

    family: str = "Swin"
    library: str = "the original repository"

    def matches(self, checkpoint: Checkpoint) -> bool:
        """By stages that end with their downsampling, where timm's begin with it."""
        names = {"layers.0.downsample.reduction.weight", f"layers.0.blocks.0.attn.{TABLE}", "patch_embed.norm.weight"}
        return not checkpoint.model_type and names <= checkpoint.tensors.keys()

    def convert(self, checkpoint: Checkpoint) -> Converted:
        """To timm's names; what it computes itself, and the classifier, are left out."""
        rules = [
            Rule(rf"(patch_embed\.(?:proj|norm){LEAF}|norm{LEAF})", r"\1"),
            Rule(rf"(layers\.\d+\.blocks\.\d+\.(?:norm[12]|attn\.qkv|attn\.proj|mlp\.fc[12]){LEAF})", r"\1"),
            Rule(rf"(layers\.\d+\.blocks\.\d+\.attn\.{TABLE})", r"\1"),
            *_downsampling(checkpoint, "layers"),
            Rule(r"layers\.\d+\.blocks\.\d+\.(?:attn_mask|attn\.relative_position_index)", None),
            Rule(rf"head{LEAF}", None),
        ]
        tensors, dropped = rename(checkpoint.tensors, rules, layout=self)
        assumed = assumed_network({}, tensors, layout=self)
        architecture = _architecture(self, checkpoint, tensors, _stored_size(checkpoint))
        return Converted(architecture, tensors, dropped, assumed=assumed)


@dataclasses.dataclass(frozen=True)
class TransformersSwin:
    """`SwinModel`, also below its classifier or its decoder of masked slices."""

    family: str = "Swin"
    library: str = "Transformers"

    def matches(self, checkpoint: Checkpoint) -> bool:
        """By the kind of the config, else by the name of a block's table of relative positions."""
        if checkpoint.model_type:
            return checkpoint.model_type == "swin"
        name = f"encoder.layers.0.blocks.0.attention.self.{TABLE}"
        return name in checkpoint.tensors or f"swin.{name}" in checkpoint.tensors

    def convert(self, checkpoint: Checkpoint) -> Converted:
        """To timm's names; a classifier, a decoder and a mask token are left out."""
        agree(checkpoint.config, {"hidden_act": "gelu", "use_absolute_embeddings": False}, layout=self)
        block, into = r"encoder\.layers\.(\d+)\.blocks\.(\d+)", r"layers.\1.blocks.\2."
        rules = (
            Rule(rf"embeddings\.patch_embeddings\.projection{LEAF}", r"patch_embed.proj.\1"),
            Rule(rf"embeddings\.norm{LEAF}", r"patch_embed.norm.\1"),
            Rule(rf"{block}\.layernorm_before{LEAF}", into + r"norm1.\3"),
            Rule(rf"{block}\.layernorm_after{LEAF}", into + r"norm2.\3"),
            Rule(rf"{block}\.attention\.self\.(query|key|value){LEAF}", into + r"attn.\3.\4"),
            Rule(rf"{block}\.attention\.self\.{TABLE}", into + f"attn.{TABLE}"),
            Rule(rf"{block}\.attention\.output\.dense{LEAF}", into + r"attn.proj.\3"),
            Rule(rf"{block}\.intermediate\.dense{LEAF}", into + r"mlp.fc1.\3"),
            Rule(rf"{block}\.output\.dense{LEAF}", into + r"mlp.fc2.\3"),
            *_downsampling(checkpoint, r"encoder\.layers"),
            Rule(rf"layernorm{LEAF}", r"norm.\1"),
            Rule(rf"{block}\.attention\.self\.relative_position_index", None),
            Rule(r"embeddings\.mask_token|classifier\..*|decoder\..*", None),
        )
        tensors, dropped = rename(checkpoint.tensors, optional_prefix(r"swin\.", rules), layout=self)
        for start in {name.rpartition(".query.")[0] for name in tensors if ".query." in name}:
            for leaf in ("weight", "bias"):
                join(tensors, [f"{start}.{part}.{leaf}" for part in ("query", "key", "value")], f"{start}.qkv.{leaf}")
        size = whole_number(checkpoint.config, "image_size", 224)
        assumed = assumed_network(checkpoint.config, tensors, layout=self, fields=["num_heads"])
        architecture = _architecture(self, checkpoint, tensors, size)
        return Converted(architecture, tensors, dropped, assumed=assumed)


def _downsampling(checkpoint: Checkpoint, layers: str) -> list[Rule]:
    """Stages end with what timm's next stage begins with."""
    stages = 1 + max(
        (int(part) for name in checkpoint.tensors for part in name.split(".") if part.isdecimal()), default=0
    )
    return [
        Rule(rf"{layers}\.{n}\.downsample\.(norm|reduction){LEAF}", rf"layers.{n + 1}.downsample.\1.\2")
        for n in range(min(stages, 16))
    ]


def _stored_size(checkpoint: Checkpoint) -> int:
    """The size of slices by the masks of shifted windows that the first stage keeps, else by the window."""
    table = need(checkpoint.tensors, f"layers.0.blocks.0.attn.{TABLE}", ndim=2)
    window = (math.isqrt(table.shape[0]) + 1) // 2
    patch = need(checkpoint.tensors, "patch_embed.proj.weight", ndim=4).shape[2]
    mask = checkpoint.tensors.get("layers.0.blocks.1.attn_mask")
    across = math.isqrt(mask.shape[0]) if mask is not None and mask.ndim == 3 else 8
    return across * window * patch


def _architecture(layout: Layout, checkpoint: Checkpoint, tensors: Mapping[str, Tensor], size: int) -> Architecture:
    patch = need(tensors, "patch_embed.proj.weight", ndim=4)
    stages, config = count(tensors, r"layers\.(\d+)\."), checkpoint.config
    widths = [patch.shape[0] << n for n in range(stages)]
    table = need(tensors, f"layers.0.blocks.0.attn.{TABLE}", ndim=2)
    window = (math.isqrt(table.shape[0]) + 1) // 2
    # Each head has a column in the tables of relative positions.
    heads = [need(tensors, f"layers.{n}.blocks.0.attn.{TABLE}", ndim=2).shape[1] for n in range(stages)]
    if size % (patch.shape[2] << (stages - 1)):
        raise BackboneError(
            f"Slices of {size} pixels cannot be halved {stages - 1} times evenly: these weights cannot be read."
        )
    args: dict[str, Any] = {
        "img_size": size,
        "patch_size": patch.shape[2],
        "embed_dim": patch.shape[0],
        "depths": [count(tensors, rf"layers\.{n}\.blocks\.(\d+)\.") for n in range(stages)],
        "num_heads": divided(whole_numbers(config, "num_heads", heads), widths),
        "window_size": window,
        "mlp_ratio": mlp_ratio(need(tensors, "layers.0.blocks.0.mlp.fc1.weight", ndim=2).shape[0], widths[0]),
        "qkv_bias": "layers.0.blocks.0.attn.qkv.bias" in tensors,
    }
    architecture = Architecture(
        family=layout.family,
        timm="swin_tiny_patch4_window7_224",
        model_args=args,
        input_size=(size, size),
        # At another size timm and its makers shift other windows.
        positions=Positions(kind="fixed"),
        norm_eps=number_of(config, "layer_norm_eps", 1e-5),
        **normalisation(checkpoint, mean=IMAGENET_MEAN, std=IMAGENET_STD),
    )
    return shortest(architecture, [name for name, known in KNOWN.items() if known == (patch.shape[0], size)])
