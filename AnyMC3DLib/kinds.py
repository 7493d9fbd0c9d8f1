"""Which kind of network a model of timm's is, and which sizes of slices it takes."""

from __future__ import annotations

import math

from timm.models.davit import DaVit
from timm.models.hiera import Hiera
from timm.models.hieradet_sam2 import HieraDet
from timm.models.swin_transformer import SwinTransformer
from timm.models.vision_transformer_sam import VisionTransformerSAM
from torch import nn

from .errors import BackboneError

# Transformers whose attention looks at windows of a feature map; they have no class token, but a map that is averaged.
HIERARCHIES = (SwinTransformer, DaVit, Hiera, HieraDet, VisionTransformerSAM)


def kind_of(model: nn.Module) -> str:
    """'transformer' for one sequence of tokens, 'hierarchy' for attention over feature maps, else 'cnn'."""
    if isinstance(model, HIERARCHIES):
        return "hierarchy"
    return "transformer" if hasattr(model, "blocks") and hasattr(model, "patch_embed") else "cnn"


def multiple_of(model: nn.Module, *, id: str) -> int:  # noqa: A002
    """What must divide the height and width of slices: 1 for a CNN; raises BackboneError if the model hides it."""
    embed = getattr(model, "patch_embed", None)
    if kind_of(model) == "cnn" or embed is None:
        return 1
    if isinstance(model, (Hiera, HieraDet)):
        # Positions of a window are repeated over the map, which must hold whole windows.
        window = model.mask_unit_size if isinstance(model, Hiera) else model.window_spec[:1]
        return max(int(stride) for stride in embed.proj.stride) * math.lcm(*window)
    # Behind a CNN stem the patches are those of its feature map; `feat_ratio` counts pixels.
    if hasattr(embed, "feat_ratio"):
        return int(embed.feat_ratio())
    if not hasattr(embed, "patch_size"):
        raise BackboneError(f"The model '{id}' does not say how large its patches are: choose another.")
    return int(embed.patch_size if isinstance(embed.patch_size, int) else max(embed.patch_size))


def fixed_size(model: nn.Module) -> tuple[int, int] | None:
    """The one size (H, W) that slices must have, for the few networks that take no other."""
    if isinstance(model, Hiera):
        height, width = (n * stride for n, stride in zip(model.tokens_spatial_shape, model.patch_stride, strict=True))
        return height, width
    embed = getattr(model, "patch_embed", None)
    return tuple(embed.img_size) if getattr(embed, "strict_img_size", False) and embed.img_size else None
