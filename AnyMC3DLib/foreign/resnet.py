"""ResNets of torchvision, of those who cut it into a sequence, and of the Transformers library."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ..architecture import IMAGENET_MEAN, IMAGENET_STD, Architecture, Positions
from ..errors import BackboneError
from .checkpoint import Checkpoint
from .layout import Converted, Layout, Rule, count, need, rename
from .towers import agree
from .vit import normalisation, optional_prefix

# timm's models by whether a block has three layers, the blocks of each stage, groups of channels and their width.
KNOWN = {
    (False, (2, 2, 2, 2), 1, 64): "resnet18",
    (False, (3, 4, 6, 3), 1, 64): "resnet34",
    (True, (3, 4, 6, 3), 1, 64): "resnet50",
    (True, (3, 4, 23, 3), 1, 64): "resnet101",
    (True, (3, 8, 36, 3), 1, 64): "resnet152",
    (True, (3, 4, 6, 3), 1, 128): "wide_resnet50_2",
    (True, (3, 4, 23, 3), 1, 128): "wide_resnet101_2",
    (True, (3, 4, 6, 3), 32, 4): "resnext50_32x4d",
    (True, (3, 4, 23, 3), 32, 8): "resnext101_32x8d",
}
STANDARD = [64, 128, 256, 512]
STEM_WIDTH = 64
NORM = r"(weight|bias|running_mean|running_var|num_batches_tracked)"
# What torchvision's network is called where its parts stand in a sequence.
SEQUENCE = ("conv1", "bn1", "", "", "layer1", "layer2", "layer3", "layer4")


@dataclasses.dataclass(frozen=True)
class TorchvisionResNet:
    """The files of torchvision, which has timm's names, and of trainings that keep its parts in a sequence."""

    family: str = "ResNet"
    library: str = "torchvision"

    def matches(self, checkpoint: Checkpoint) -> bool:
        """By the names of the first layers, where no config says who wrote them."""
        return not checkpoint.config and self._start(checkpoint) is not None

    def convert(self, checkpoint: Checkpoint) -> Converted:
        """The same names, without the classifier."""
        start = self._start(checkpoint) or ""
        leaf = rf"(?:downsample\.[01]|conv[123]|bn[123])\.{NORM}"
        rules = [
            Rule(rf"(conv1\.weight|bn1\.{NORM})", r"\1"),
            Rule(rf"(layer[1-4]\.\d+\.{leaf})", r"\1"),
            Rule(r"fc\..*|classifier\..*", None),
        ]
        tensors = {_own_name(name, start): tensor for name, tensor in checkpoint.tensors.items()}
        renamed, dropped = rename(tensors, rules, layout=self)
        return Converted(_architecture(self, checkpoint, renamed), renamed, dropped)

    def _start(self, checkpoint: Checkpoint) -> str | None:
        """What stands before the parts' names; it ends in a number's place for a sequence."""
        for prefix in ("", "backbone.", "encoder."):
            for first, block in (("conv1", "layer1.0.conv1"), ("0", "4.0.conv1")):
                if {f"{prefix}{first}.weight", f"{prefix}{block}.weight"} <= checkpoint.tensors.keys():
                    return f"{prefix}#" if first == "0" else prefix
        return None


def _own_name(name: str, start: str) -> str:
    prefix = start.removesuffix("#")
    rest = name.removeprefix(prefix)
    number, _, inner = rest.partition(".")
    if start.endswith("#") and name.startswith(prefix) and number.isdecimal() and int(number) < len(SEQUENCE):
        return f"{SEQUENCE[int(number)] or number}.{inner}"
    return rest


@dataclasses.dataclass(frozen=True)
class TransformersResNet:
    """`ResNetModel`, also below its classifier."""

    family: str = "ResNet"
    library: str = "Transformers"

    def matches(self, checkpoint: Checkpoint) -> bool:
        """By the kind of the config, else by the name of the first layer."""
        if checkpoint.model_type:
            return checkpoint.model_type == "resnet"
        first = "embedder.embedder.convolution.weight"
        return first in checkpoint.tensors or f"resnet.{first}" in checkpoint.tensors

    def convert(self, checkpoint: Checkpoint) -> Converted:
        """To timm's names; raises BackboneError for a network that downsamples at other places than timm's."""
        expected = {"hidden_act": "relu", "downsample_in_first_stage": False}
        if checkpoint.config.get("layer_type", "bottleneck") == "bottleneck":
            expected["downsample_in_bottleneck"] = False
        agree(checkpoint.config, expected, layout=self)
        rules = [
            Rule(r"embedder\.embedder\.convolution\.weight", "conv1.weight"),
            Rule(rf"embedder\.embedder\.normalization\.{NORM}", r"bn1.\1"),
            Rule(r"classifier\..*", None),
        ]
        for stage in range(4):
            block, into = rf"encoder\.stages\.{stage}\.layers\.(\d+)", rf"layer{stage + 1}.\1."
            rules += [
                Rule(rf"{block}\.shortcut\.convolution\.weight", into + "downsample.0.weight"),
                Rule(rf"{block}\.shortcut\.normalization\.{NORM}", into + r"downsample.1.\2"),
            ]
            for part in range(3):
                rules += [
                    Rule(rf"{block}\.layer\.{part}\.convolution\.weight", f"{into}conv{part + 1}.weight"),
                    Rule(rf"{block}\.layer\.{part}\.normalization\.{NORM}", f"{into}bn{part + 1}.\\2"),
                ]
        tensors, dropped = rename(checkpoint.tensors, optional_prefix(r"resnet\.", rules), layout=self)
        return Converted(_architecture(self, checkpoint, tensors), tensors, dropped)


def _architecture(layout: Layout, checkpoint: Checkpoint, tensors: Mapping[str, Tensor]) -> Architecture:
    stages = len({name[:6] for name in tensors if name.startswith("layer")})
    if need(tensors, "conv1.weight", ndim=4).shape[0] != STEM_WIDTH or stages != 4:
        raise BackboneError(
            f"This ResNet begins with {tensors['conv1.weight'].shape[0]} channels and has {stages} stages, but timm's "
            f"begins with {STEM_WIDTH} and has 4: these weights cannot be read."
        )
    deep = "layer1.0.conv3.weight" in tensors
    lasts = [need(tensors, f"layer{n}.0.conv{3 if deep else 2}.weight", ndim=4).shape[0] for n in range(1, 5)]
    channels = [width // 4 if deep else width for width in lasts]
    inner = need(tensors, "layer1.0.conv2.weight", ndim=4)
    cardinality = inner.shape[0] // max(1, inner.shape[1]) if deep else 1
    args: dict[str, Any] = {
        "layers": [count(tensors, rf"layer{n}\.(\d+)\.") for n in range(1, 5)],
        "channels": channels,
        # What timm multiplies the channels by within a block.
        "base_width": inner.shape[0] * 64 // (channels[0] * cardinality) if deep else 64,
        "cardinality": cardinality,
    }
    key = (deep, tuple(args["layers"]), args["cardinality"], args["base_width"])
    name = KNOWN.get(key) if channels == STANDARD else None
    return Architecture(
        family=layout.family,
        timm=name or ("resnet50" if deep else "resnet18"),
        model_args={} if name else args,
        positions=Positions(kind="any"),
        **normalisation(checkpoint, mean=IMAGENET_MEAN, std=IMAGENET_STD),
    )
