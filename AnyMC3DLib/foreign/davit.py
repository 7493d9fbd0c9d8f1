"""DaViT: the original repository, and the vision towers of Florence-2 and MedImageInsight, which are kept alike."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ..architecture import IMAGENET_MEAN, IMAGENET_STD, Architecture, Positions
from ..building import shortest
from ..errors import BackboneError
from .checkpoint import Checkpoint
from .layout import Converted, Layout, Rule, count, need, rename
from .published import assumed_network
from .towers import add_plain_norm, agree, divided, prefix_of, tower, whole_number, whole_numbers
from .vit import mlp_ratio, normalisation

# timm's models by the width of their first stage.
DAVIT = {
    "davit_tiny": 96,
    "davit_small": 96,
    "davit_base": 128,
    "davit_large": 192,
    "davit_huge": 256,
    "davit_giant": 384,
}
FLORENCES = {"davit_base_fl": 128, "davit_huge_fl": 256}
HEAD_WIDTH = 32
# What Florence-2's towers have in common, and timm's network has built in.
FLORENCE = {
    "patch_stride": [4, 2, 2, 2],
    "patch_padding": [3, 1, 1, 1],
    "patch_prenorm": [False, True, True, True],
    "activation_function": "gelu",
}
# Tensors by whose names the two layouts of Florence-2 are told apart.
ORIGINAL = "blocks.0.0.spatial_block.conv1.fn.dw.weight"
TRANSFORMERS = "blocks.0.0.spatial_block.window_attn.qkv.weight"
# Where the tower stands in a file, and what may stand beside it.
TOWERS = ("", "vision_tower.", "model.vision_tower.", "image_encoder.")
BESIDE = (
    "language_model.", "model.language_model.", "lm_head.", "multi_modal_projector.", "model.multi_modal_projector.",
    "image_projection", "image_proj_norm.", "image_pos_embed.", "visual_temporal_embed.",
    "lang_encoder.", "lang_projection", "logit_scale",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class OriginalDaViT:
    """The files of the DaViT repository."""

    family: str = "DaViT"
    library: str = "the original repository"

    def matches(self, checkpoint: Checkpoint) -> bool:
        """By the names of patch embeddings and blocks, which no other layout has together."""
        return not checkpoint.model_type and {
            "patch_embeds.0.proj.weight",
            "main_blocks.0.0.0.attn.qkv.weight",
        } <= set(checkpoint.tensors)

    def convert(self, checkpoint: Checkpoint) -> Converted:
        """To timm's names; windows are of 7 x 7 in all its models."""
        block = r"main_blocks\.(\d+)\.(\d+)\.(\d+)"
        rules = (
            *_stages("patch_embeds", "proj"),
            Rule(rf"{block}\.cpe\.0\.proj\.(weight|bias)", r"stages.\1.blocks.\2.\3.cpe1.proj.\4"),
            Rule(rf"{block}\.cpe\.1\.proj\.(weight|bias)", r"stages.\1.blocks.\2.\3.cpe2.proj.\4"),
            Rule(
                rf"{block}\.(norm[12]|attn\.(?:qkv|proj)|mlp\.fc[12])\.(weight|bias)", r"stages.\1.blocks.\2.\3.\4.\5"
            ),
            Rule(r"norms\.(weight|bias)", r"head.norm.\1"),
            Rule(r"head\..*", None),
        )
        tensors, dropped = rename(checkpoint.tensors, rules, layout=self)
        assumed = assumed_network({}, tensors, layout=self)
        architecture = _architecture(self, checkpoint, tensors, {}, base="davit_tiny", known=DAVIT, window=7, size=224)
        return Converted(architecture, tensors, dropped, assumed=assumed)


@dataclasses.dataclass(frozen=True)
class OriginalFlorence2:
    """The files of Florence-2 as Microsoft published them, and of MedImageInsight, whose tower has a last norm."""

    family: str = "Florence-2"
    library: str = "the original repository"

    def matches(self, checkpoint: Checkpoint) -> bool:
        """By the names within a block, which the Transformers library changed."""
        return prefix_of(checkpoint, ORIGINAL, TOWERS) is not None

    def convert(self, checkpoint: Checkpoint) -> Converted:
        """To timm's names; text towers and projections are left out."""
        inner, outer = tower(checkpoint, prefix_of(checkpoint, ORIGINAL, TOWERS) or "", BESIDE, layout=self)
        medical = "lang_projection" in outer
        layout = dataclasses.replace(self, family="MedImageInsight") if medical else self
        block = r"blocks\.(\d+)\.(\d+)\.(spatial|channel)_block"
        rules = (
            *_stages("convs", "proj"),
            *_block_rules(block, attention="fn.", norms=(r"(?:window|channel)_attn\.norm", r"ffn\.norm"), mlp="fn.net.",
                          positions="fn.dw"),
            Rule(r"norms\.(weight|bias)", r"head.norm.\1"),
            Rule(r"head\.(?:weight|bias)", None),
        )  # fmt: skip
        tensors, dropped = rename(inner, rules, layout=layout)
        config = checkpoint.config.get("vision_config", checkpoint.config)
        assumed = assumed_network(config, tensors, layout=layout, fields=["num_heads"])
        architecture = _florence(layout, checkpoint, tensors, config, size=480 if medical else 768)
        return Converted(architecture, tensors, (*outer, *dropped), assumed=assumed)


@dataclasses.dataclass(frozen=True)
class TransformersFlorence2:
    """`Florence2VisionBackbone`, alone or within `Florence2Model` and `Florence2ForConditionalGeneration`."""

    family: str = "Florence-2"
    library: str = "Transformers"

    def matches(self, checkpoint: Checkpoint) -> bool:
        """By the names within a block, which Microsoft's own files write in another way."""
        return prefix_of(checkpoint, TRANSFORMERS, TOWERS) is not None

    def convert(self, checkpoint: Checkpoint) -> Converted:
        """To timm's names; the language model and the projector are left out."""
        inner, outer = tower(checkpoint, prefix_of(checkpoint, TRANSFORMERS, TOWERS) or "", BESIDE, layout=self)
        block = r"blocks\.(\d+)\.(\d+)\.(spatial|channel)_block"
        rules = (
            *_stages("convs", "conv"),
            *_block_rules(block, attention="", norms=("norm1", "norm2"), mlp="", positions=""),
        )
        tensors, dropped = rename(inner, rules, layout=self)
        config = checkpoint.config.get("vision_config", checkpoint.config)
        assumed = assumed_network(config, tensors, layout=self, fields=["num_heads"])
        architecture = _florence(self, checkpoint, tensors, config, size=768)
        return Converted(architecture, tensors, (*outer, *dropped), assumed=assumed)


def _stages(name: str, projection: str) -> tuple[Rule, ...]:
    return (
        Rule(rf"{name}\.0\.{projection}\.(weight|bias)", r"stem.conv.\1"),
        Rule(rf"{name}\.0\.norm\.(weight|bias)", r"stem.norm.\1"),
        Rule(rf"{name}\.(\d+)\.{projection}\.(weight|bias)", r"stages.\1.downsample.conv.\2"),
        Rule(rf"{name}\.(\d+)\.norm\.(weight|bias)", r"stages.\1.downsample.norm.\2"),
    )


def _block_rules(block: str, *, attention: str, norms: tuple[str, str], mlp: str, positions: str) -> tuple[Rule, ...]:
    leaf = r"\.(weight|bias)"
    into = r"stages.\1.blocks.\2.\3_block"
    dot = f"\\.{positions}" if positions else ""
    return (
        Rule(rf"{block}\.conv([12]){dot}{leaf}", into + r".cpe\4.proj.\5"),
        Rule(rf"{block}\.{norms[0]}{leaf}", into + r".norm1.\4"),
        Rule(rf"{block}\.{norms[1]}{leaf}", into + r".norm2.\4"),
        Rule(rf"{block}\.(?:window|channel)_attn\.{attention}(qkv|proj){leaf}", into + r".attn.\4.\5"),
        Rule(rf"{block}\.ffn\.{mlp}(fc[12]){leaf}", into + r".mlp.\4.\5"),
    )


def _florence(
    layout: Layout, checkpoint: Checkpoint, tensors: dict[str, Tensor], config: Mapping[str, Any], *, size: int
) -> Architecture:
    agree(config, FLORENCE, layout=layout)
    heads, groups = config.get("num_heads"), config.get("num_groups")
    if None not in (heads, groups) and list(heads) != list(groups):
        raise BackboneError(
            f"The config has {list(groups)} groups of channels for {list(heads)} heads, and timm's DaViT has as many "
            "groups as heads: these weights cannot be used."
        )
    # Florence-2 has no norm behind its map.
    add_plain_norm(tensors, "head.norm", _widths(tensors)[-1])
    return _architecture(
        layout, checkpoint, tensors, config, base="davit_base_fl", known=FLORENCES, window=12,
        size=size, named_blocks=True, channel_attn_v2=True,
    )  # fmt: skip


def _architecture(
    layout: Layout, checkpoint: Checkpoint, tensors: Mapping[str, Tensor], config: Mapping[str, Any], *, base: str,
    known: Mapping[str, int], window: int, size: int, **more: Any,
) -> Architecture:  # fmt: skip
    widths = _widths(tensors)
    downs = [t.shape[2] for n, t in tensors.items() if n.endswith("downsample.conv.weight")]
    first = "stages.0.blocks.0." + ("spatial_block." if more else "0.")
    args: dict[str, Any] = {
        "depths": [count(tensors, rf"stages\.{n}\.blocks\.(\d+)\.") for n in range(len(widths))],
        "embed_dims": widths,
        "num_heads": divided(whole_numbers(config, "num_heads", [w // HEAD_WIDTH for w in widths]), widths),
        "window_size": whole_number(config, "window_size", window),
        "mlp_ratio": mlp_ratio(need(tensors, f"{first}mlp.fc1.weight", ndim=2).shape[0], widths[0]),
        "down_kernel_size": downs[0] if downs else 2,
        "qkv_bias": f"{first}attn.qkv.bias" in tensors,
        **more,
    }
    colours = normalisation(checkpoint, mean=IMAGENET_MEAN, std=IMAGENET_STD)
    architecture = Architecture(
        family=layout.family, timm=base, model_args=args, input_size=(size, size), positions=Positions(kind="any"),
        **colours,
    )  # fmt: skip
    # The size of windows leaves no trace in tensors, by which networks are told apart.
    if args["window_size"] != window:
        return architecture
    return shortest(architecture, [name for name, width in known.items() if width == widths[0]])


def _widths(tensors: Mapping[str, Tensor]) -> list[int]:
    stages = count(tensors, r"stages\.(\d+)\.blocks\.")
    names = ("stem.conv.weight", *(f"stages.{n}.downsample.conv.weight" for n in range(1, stages)))
    return [need(tensors, name, ndim=4).shape[0] for name in names]
