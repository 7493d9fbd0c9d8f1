"""ConvNeXt and ConvNeXt V2 of the original repositories, of the Transformers library, and of DINOv3."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ..architecture import IMAGENET_MEAN, IMAGENET_STD, Architecture, Positions
from ..building import shortest
from .checkpoint import Checkpoint
from .layout import Converted, Layout, Rule, count, need, rename
from .towers import add_plain_norm, agree
from .vit import normalisation, number_of, optional_prefix

# timm's models by the width of their first stage; the small ones of the first version are timm's own.
VERSION_1 = {"convnext_tiny": 96, "convnext_small": 96, "convnext_base": 128, "convnext_large": 192,
             "convnext_xlarge": 256}  # fmt: skip
VERSION_2 = {"convnextv2_atto": 40, "convnextv2_femto": 48, "convnextv2_pico": 64, "convnextv2_nano": 80,
             "convnextv2_tiny": 96, "convnextv2_small": 96, "convnextv2_base": 128, "convnextv2_large": 192,
             "convnextv2_huge": 352}  # fmt: skip
# Widths of those whose pointwise layers are convolutions in timm; the values are the same.
CONVOLVED = (40, 48, 64, 80)
EPS = 1e-6
LEAF = r"\.(weight|bias)"


@dataclasses.dataclass(frozen=True)
class OriginalConvNeXt:
    """The files of the ConvNeXt and ConvNeXt V2 repositories, and of DINOv3's."""

    family: str = "ConvNeXt"
    library: str = "the original repository"

    def matches(self, checkpoint: Checkpoint) -> bool:
        """By the names of downsampling layers and blocks, which no other layout has together."""
        names = checkpoint.tensors.keys()
        return not checkpoint.model_type and {"downsample_layers.0.0.weight", "stages.0.0.dwconv.weight"} <= names

    def convert(self, checkpoint: Checkpoint) -> Converted:
        """To timm's names; a classifier is left out."""
        block = r"stages\.(\d+)\.(\d+)"
        rules = (
            Rule(rf"downsample_layers\.0\.([01]){LEAF}", r"stem.\1.\2"),
            Rule(rf"downsample_layers\.(\d+)\.([01]){LEAF}", r"stages.\1.downsample.\2.\3"),
            *_block_rules(block, depthwise="dwconv", norm="norm", pointwise="pwconv", scale="gamma"),
            Rule(rf"{block}\.grn\.gamma", r"stages.\1.blocks.\2.mlp.grn.weight"),
            Rule(rf"{block}\.grn\.beta", r"stages.\1.blocks.\2.mlp.grn.bias"),
            Rule(rf"norm{LEAF}", r"head.norm.\1"),
            # DINOv3 keeps its last norm twice.
            Rule(rf"norms\.\d+{LEAF}", None),
            Rule(rf"head{LEAF}", None),
        )
        named = any(name.startswith("norms.") for name in checkpoint.tensors)
        layout = dataclasses.replace(self, family="DINOv3 ConvNeXt") if named else self
        return _converted(layout, checkpoint, rules, EPS)


@dataclasses.dataclass(frozen=True)
class TransformersConvNeXt:
    """`ConvNextModel` and `ConvNextV2Model`, also below their classifiers."""

    family: str = "ConvNeXt"
    library: str = "Transformers"

    def matches(self, checkpoint: Checkpoint) -> bool:
        """By the kind of the config, else by the names of a block."""
        if checkpoint.model_type:
            return checkpoint.model_type in ("convnext", "convnextv2")
        ending = "encoder.stages.0.layers.0.dwconv.weight"
        return any(f"{prefix}{ending}" in checkpoint.tensors for prefix in ("", "convnext.", "convnextv2."))

    def convert(self, checkpoint: Checkpoint) -> Converted:
        """To timm's names; a classifier is left out."""
        agree(checkpoint.config, {"hidden_act": "gelu"}, layout=self)
        block = r"encoder\.stages\.(\d+)\.layers\.(\d+)"
        rules = (
            Rule(rf"embeddings\.patch_embeddings{LEAF}", r"stem.0.\1"),
            Rule(rf"embeddings\.layernorm{LEAF}", r"stem.1.\1"),
            Rule(rf"encoder\.stages\.(\d+)\.downsampling_layer\.([01]){LEAF}", r"stages.\1.downsample.\2.\3"),
            *_block_rules(
                block, depthwise="dwconv", norm="layernorm", pointwise="pwconv", scale="layer_scale_parameter"
            ),
            Rule(rf"{block}\.grn{LEAF}", r"stages.\1.blocks.\2.mlp.grn.\3"),
            Rule(rf"layernorm{LEAF}", r"head.norm.\1"),
            Rule(rf"classifier{LEAF}", None),
        )
        # The config's epsilon is that of the last norm alone, where the weights were trained with the others' one.
        return _converted(self, checkpoint, optional_prefix(r"convnext(?:v2)?\.", rules), EPS)


@dataclasses.dataclass(frozen=True)
class TransformersDINOv3ConvNeXt:
    """`DINOv3ConvNextModel`."""

    family: str = "DINOv3 ConvNeXt"
    library: str = "Transformers"

    def matches(self, checkpoint: Checkpoint) -> bool:
        """By the kind of the config, else by the names of a block."""
        if checkpoint.model_type:
            return checkpoint.model_type == "dinov3_convnext"
        ending = "stages.0.layers.0.depthwise_conv.weight"
        return any(f"{prefix}{ending}" in checkpoint.tensors for prefix in ("", "model."))

    def convert(self, checkpoint: Checkpoint) -> Converted:
        """To timm's names."""
        agree(checkpoint.config, {"hidden_act": "gelu"}, layout=self)
        block = r"stages\.(\d+)\.layers\.(\d+)"
        rules = (
            Rule(rf"stages\.0\.downsample_layers\.([01]){LEAF}", r"stem.\1.\2"),
            Rule(rf"stages\.(\d+)\.downsample_layers\.([01]){LEAF}", r"stages.\1.downsample.\2.\3"),
            *_block_rules(
                block, depthwise="depthwise_conv", norm="layer_norm", pointwise="pointwise_conv", scale="gamma"
            ),
            Rule(rf"layer_norm{LEAF}", r"head.norm.\1"),
        )
        eps = number_of(checkpoint.config, "layer_norm_eps", EPS)
        return _converted(self, checkpoint, optional_prefix(r"model\.", rules), eps)


def _block_rules(block: str, *, depthwise: str, norm: str, pointwise: str, scale: str) -> tuple[Rule, ...]:
    into = r"stages.\1.blocks.\2."
    return (
        Rule(rf"{block}\.{depthwise}{LEAF}", into + r"conv_dw.\3"),
        Rule(rf"{block}\.{norm}{LEAF}", into + r"norm.\3"),
        Rule(rf"{block}\.{pointwise}([12]){LEAF}", into + r"mlp.fc\3.\4"),
        Rule(rf"{block}\.{scale}", into + "gamma"),
    )


def _converted(layout: Layout, checkpoint: Checkpoint, rules: tuple[Rule, ...], eps: float) -> Converted:
    tensors, dropped = rename(checkpoint.tensors, rules, layout=layout)
    for name in [name for name in tensors if ".mlp.grn." in name]:
        tensors[name] = tensors[name].flatten()
    if _widths(tensors)[0] in CONVOLVED and "stages.0.blocks.0.mlp.grn.weight" in tensors:
        for name in [name for name in tensors if re.search(r"\.mlp\.fc[12]\.weight$", name)]:
            tensors[name] = tensors[name][:, :, None, None]
    architecture = _architecture(layout, checkpoint, tensors, eps)
    # Weights that were trained without labels have no norm behind their map.
    add_plain_norm(tensors, "head.norm", _widths(tensors)[-1])
    return Converted(architecture, tensors, dropped)


def _widths(tensors: Mapping[str, Tensor]) -> list[int]:
    stages = count(tensors, r"stages\.(\d+)\.blocks\.")
    return [need(tensors, f"stages.{n}.blocks.0.conv_dw.weight", ndim=4).shape[0] for n in range(stages)]


def _architecture(layout: Layout, checkpoint: Checkpoint, tensors: Mapping[str, Tensor], eps: float) -> Architecture:
    widths, first = _widths(tensors), "stages.0.blocks.0."
    responds, pointwise = f"{first}mlp.grn.weight" in tensors, tensors[f"{first}mlp.fc1.weight"]
    args: dict[str, Any] = {
        "depths": [count(tensors, rf"stages\.{n}\.blocks\.(\d+)\.") for n in range(len(widths))],
        "dims": widths,
        "patch_size": need(tensors, "stem.0.weight", ndim=4).shape[2],
        "kernel_sizes": need(tensors, f"{first}conv_dw.weight", ndim=4).shape[2],
        "use_grn": responds,
        "conv_mlp": pointwise.ndim == 4,
    }
    architecture = Architecture(
        family="ConvNeXt V2" if responds else layout.family,
        # timm takes no word for having no layer scale, but its second version has none.
        timm="convnext_tiny" if f"{first}gamma" in tensors else "convnextv2_tiny",
        model_args=args,
        positions=Positions(kind="any"),
        norm_eps=eps,
        **normalisation(checkpoint, mean=IMAGENET_MEAN, std=IMAGENET_STD),
    )
    known = VERSION_2 if responds else VERSION_1
    return shortest(architecture, [name for name, width in known.items() if width == widths[0]])
