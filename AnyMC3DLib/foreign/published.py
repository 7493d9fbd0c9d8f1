"""What tensors do not tell of published networks, by what they do: how wide the first stage is, and how many blocks.

The number of attention heads and the epsilon of norms leave no trace in tensors. Where no config states them, those of
the family's published network are taken; the epsilon is then the one that the layout's own program has built in.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor

from ..errors import BackboneError
from .layout import Layout, Network, need

BLOCK = re.compile(r"((?:layers|stages)\.\d+\.)?blocks\.\d+\.")
# Where timm keeps the first layer of a network.
FIRST = ("patch_embed.proj.weight", "stem.conv.weight")


TINY, SMALL = Network("ViT-Ti", 192, 12, 3), Network("ViT-S", 384, 12, 6)
BASE, LARGE = Network("ViT-B", 768, 12, 12), Network("ViT-L", 1024, 24, 16)
HUGE = Network("ViT-H", 1280, 32, 16)
NETWORKS: dict[str, tuple[Network, ...]] = {
    "ViT": (TINY, SMALL, BASE, LARGE, HUGE),
    "DINO": (SMALL, BASE),
    "DeiT": (TINY, SMALL, BASE),
    "MAE": (BASE, LARGE, HUGE),
    "DINOv2": (SMALL, BASE, LARGE, Network("ViT-g", 1536, 40, 24)),
    "DINOv3": (SMALL, BASE, LARGE, Network("ViT-H+", 1280, 32, 20), Network("ViT-7B", 4096, 40, 32)),
    "SAM": (BASE, LARGE, HUGE),
    "SigLIP": (BASE, LARGE, Network("ViT-so400m", 1152, 27, 16), Network("ViT-g-opt", 1536, 40, 16)),
    "BEiT": (BASE, LARGE),
    "EVA": (TINY, SMALL, BASE, LARGE, Network("ViT-g", 1408, 40, 16)),
    "Swin": (
        Network("Swin-T", 96, 12, 3), Network("Swin-S", 96, 24, 3), Network("Swin-B", 128, 24, 4),
        Network("Swin-L", 192, 24, 6),
    ),
    "DaViT": (
        Network("DaViT-T", 96, 6, 3), Network("DaViT-S", 96, 12, 3), Network("DaViT-B", 128, 12, 4),
        Network("DaViT-L", 192, 12, 6), Network("DaViT-H", 256, 12, 8), Network("DaViT-G", 384, 17, 12),
    ),
    "Florence-2": (Network("DaViT-B", 128, 12, 4), Network("DaViT-H", 256, 12, 8)),
    "MedImageInsight": (Network("DaViT-H", 256, 12, 8),),
    "Hiera": (
        Network("Hiera-T", 96, 12, 1), Network("Hiera-S", 96, 16, 1), Network("Hiera-B", 96, 24, 1),
        Network("Hiera-B+", 112, 24, 2), Network("Hiera-L", 144, 48, 2), Network("Hiera-H", 256, 48, 4),
    ),
}  # fmt: skip


def assumed_network(
    config: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    *,
    layout: Layout,
    fields: Iterable[str] = ("num_attention_heads",),
) -> Network | None:
    """The published network of the layout's family that has the `tensors`, in timm's names; None where a config tells.

    A config tells by one of the `fields`, or by its 'model_type', since then its library's own defaults hold. A name
    like ViT-S comes with its size of patches. Raises BackboneError if no config tells and none was published so.
    """
    if "model_type" in config or any(field in config for field in fields):
        return None
    first = need(tensors, next((name for name in FIRST if name in tensors), FIRST[0]), ndim=4)
    width, depth = first.shape[0], len({match[0] for name in tensors if (match := BLOCK.match(name))})
    for network in NETWORKS[layout.family]:
        if (network.width, network.depth) == (width, depth):
            patch = f"/{first.shape[2]}" if network.name.startswith("ViT") else ""
            maker = "" if network.name.startswith(layout.family) else f"{layout.family} "
            return dataclasses.replace(network, name=f"{maker}{network.name}{patch}")
    raise BackboneError(
        f"No published {layout.family} is {width} wide with {depth} blocks, and tensors do not tell the heads of its "
        "attention: put the model's config.json beside the weights."
    )
