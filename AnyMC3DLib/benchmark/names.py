"""How the methods that are compared are called, and who published them. Needs the standard library alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

ANYMC3D, RSNA = "AnyMC3D (arXiv 2512.12887)", "winners of the RSNA challenges"
MEDMNIST = "MedMNIST v2 (doi 10.1038/s41597-022-01721-8)"


@dataclasses.dataclass(frozen=True)
class MethodName:
    """A method's `title`, what there is to it in a few words, and the `source` that published it.

    `backbone` is the one that the source has under it, where rows of the benchmark may have another.
    """

    title: str
    words: str
    source: str
    backbone: str = ""


NAMES: Mapping[str, MethodName] = {
    "anymc3d": MethodName("AnyMC3D", "adapters (LoRA) and attention over slices", ANYMC3D),
    "frozen": MethodName("Frozen backbone", "attention over slices alone", ANYMC3D),
    "probe": MethodName("Linear probe", "mean of the slices and one linear layer", ANYMC3D),
    "full": MethodName("Full fine-tuning", "all weights, and attention over slices", ANYMC3D),
    "mst": MethodName(
        "Slice Transformer (MST)", "Transformer over slices, all weights", "MST (arXiv 2411.15802)", "DINOv2"
    ),
    "cnn-lstm": MethodName("2.5D CNN and LSTM", "LSTM over neighbouring slices, all weights", RSNA),
    "resnet18-3d": MethodName("3D ResNet-18", "network of its own on the whole volume", MEDMNIST),
    "resnet50-3d": MethodName("3D ResNet-50", "network of its own on the whole volume", MEDMNIST),
    "densenet121-3d": MethodName("3D DenseNet-121", "network of its own on the whole volume", "MONAI"),
    "raptor": MethodName("Raptor", "random projection of frozen patch tokens", "Raptor (arXiv 2507.08254)", "DINOv2"),
}


def title_of(method: str) -> str:
    """The method's title, or its name where it has none."""
    return NAMES[method].title if method in NAMES else method
