"""Hiera of the original repository and of the Transformers library."""

from __future__ import annotations

import dataclasses
from typing import Any

from torch import Tensor

from ..architecture import IMAGENET_MEAN, IMAGENET_STD, Architecture, Positions
from ..building import shortest
from ..errors import BackboneError
from .checkpoint import Checkpoint
from .layout import Converted, Layout, Rule, count, need, rename
from .published import assumed_network
from .towers import add_plain_norm, agree, divided, whole_numbers
from .vit import mlp_ratio, normalisation, number_of, optional_prefix, square

# timm's models by the width of their first stage.
KNOWN = {"hiera_tiny_224": 96, "hiera_small_224": 96, "hiera_base_224": 96, "hiera_base_plus_224": 112,
         "hiera_large_224": 144, "hiera_huge_224": 256}  # fmt: skip
BUILT_IN = {"patch_size": [7, 7], "patch_stride": [4, 4], "patch_padding": [3, 3], "query_stride": [2, 2],
            "num_query_pool": 3, "masked_unit_size": [8, 8], "hidden_act": "gelu",
            "masked_unit_attention": [True, True, False, False]}  # fmt: skip
STRIDE = 4
LEAF = r"\.(weight|bias)"


@dataclasses.dataclass(frozen=True)
class OriginalHiera:
    """The files of the Hiera repository, for pictures."""

    family: str = "Hiera"
    library: str = "the original repository"

    def matches(self, checkpoint: Checkpoint) -> bool:
        """By a block that widens tokens, and the classifier or last norm by the names that timm changed."""
        names = checkpoint.tensors.keys()
        own = {"head.projection.weight", "norm.weight", "encoder_norm.weight"}
        return (
            not checkpoint.config
            and {"pos_embed", "patch_embed.proj.weight", "blocks.0.attn.qkv.weight"} <= names
            and (
                bool(own & names)
                and any(n.startswith("blocks.") and n.count(".") == 3 and ".proj." in n for n in names)
            )
        )

    def convert(self, checkpoint: Checkpoint) -> Converted:
        """To timm's names; a classifier and the decoder of masked pictures are left out."""
        rules = (
            Rule(rf"(pos_embed|patch_embed\.proj{LEAF})", r"\1"),
            Rule(rf"(blocks\.\d+\.(?:norm[12]|attn\.qkv|attn\.proj|proj|mlp\.fc[12]){LEAF})", r"\1"),
            Rule(rf"(?:encoder_)?norm{LEAF}", r"head.norm.\1"),
            Rule(r"head\.projection\..*|mask_token|decoder_.*|multi_scale_fusion_heads\..*", None),
        )
        tensors, dropped = rename(checkpoint.tensors, rules, layout=self)
        return _converted(self, checkpoint, tensors, dropped)


@dataclasses.dataclass(frozen=True)
class TransformersHiera:
    """`HieraModel`, also below its classifier or its decoder of masked slices."""

    family: str = "Hiera"
    library: str = "Transformers"

    def matches(self, checkpoint: Checkpoint) -> bool:
        """By the kind of the config, else by the names of positions and of a layer."""
        if checkpoint.model_type:
            return checkpoint.model_type == "hiera"
        names = {name.removeprefix("hiera.") for name in checkpoint.tensors}
        return {"embeddings.position_embeddings", "encoder.stages.0.layers.0.attn.qkv.weight"} <= names

    def convert(self, checkpoint: Checkpoint) -> Converted:
        """To timm's names; a classifier and a decoder are left out."""
        agree(checkpoint.config, BUILT_IN, layout=self)
        names = [name.removeprefix("hiera.") for name in checkpoint.tensors]
        rules = [
            Rule(r"embeddings\.position_embeddings", "pos_embed"),
            Rule(rf"embeddings\.patch_embeddings\.projection{LEAF}", r"patch_embed.proj.\1"),
            Rule(rf"(?:pooler\.layernorm|encoder_norm){LEAF}", r"head.norm.\1"),
            Rule(r"(?:classifier|decoder|multiscale_fusion)\..*", None),
        ]
        number = 0
        for stage in range(count(names, r"encoder\.stages\.(\d+)\.")):
            for layer in range(count(names, rf"encoder\.stages\.{stage}\.layers\.(\d+)\.")):
                start, into = rf"encoder\.stages\.{stage}\.layers\.{layer}\.", f"blocks.{number}."
                rules += [
                    Rule(rf"{start}layernorm_before{LEAF}", into + r"norm1.\1"),
                    Rule(rf"{start}layernorm_after{LEAF}", into + r"norm2.\1"),
                    Rule(rf"{start}(attn\.qkv|attn\.proj|proj|mlp\.fc[12]){LEAF}", into + r"\1.\2"),
                ]
                number += 1
        tensors, dropped = rename(checkpoint.tensors, optional_prefix(r"hiera\.", rules), layout=self)
        return _converted(self, checkpoint, tensors, dropped)


def _converted(
    layout: Layout, checkpoint: Checkpoint, tensors: dict[str, Tensor], dropped: tuple[str, ...]
) -> Converted:
    assumed = assumed_network(checkpoint.config, tensors, layout=layout, fields=["num_heads"])
    depth, config = count(tensors, r"blocks\.(\d+)\."), checkpoint.config
    starts = [n for n in range(depth) if n == 0 or f"blocks.{n}.proj.weight" in tensors]
    widths = [need(tensors, f"blocks.{n}.attn.proj.weight", ndim=2).shape[0] for n in starts]
    if len(starts) != 4 or widths != [widths[0] << n for n in range(4)]:
        raise BackboneError(f"Stages of the widths {widths} are not timm's Hiera: these weights cannot be read.")
    size = square(need(tensors, "pos_embed", ndim=3).shape[1]) * STRIDE
    first = assumed.heads if assumed else 1
    heads = divided(whole_numbers(config, "num_heads", [first << n for n in range(4)]), widths)
    if heads != [heads[0] << n for n in range(4)] or size % 32:
        raise BackboneError(
            f"{heads} heads at slices of {size} pixels are not timm's Hiera: these weights cannot be read."
        )
    args: dict[str, Any] = {
        "img_size": [size, size],
        "embed_dim": widths[0],
        "num_heads": heads[0],
        "stages": [end - start for start, end in zip(starts, [*starts[1:], depth], strict=True)],
        "mlp_ratio": mlp_ratio(need(tensors, "blocks.0.mlp.fc1.weight", ndim=2).shape[0], widths[0]),
    }
    architecture = Architecture(
        family=layout.family,
        timm="hiera_tiny_224",
        model_args=args,
        input_size=(size, size),
        positions=Positions(kind="fixed"),
        norm_eps=number_of(config, "layer_norm_eps", 1e-6),
        **normalisation(checkpoint, mean=IMAGENET_MEAN, std=IMAGENET_STD),
    )
    add_plain_norm(tensors, "head.norm", widths[-1])
    architecture = shortest(architecture, [name for name, width in KNOWN.items() if (width, size) == (widths[0], 224)])
    return Converted(architecture, tensors, dropped, assumed=assumed)
