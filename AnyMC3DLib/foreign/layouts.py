"""Every layout that is known, and which of them a file has."""

from __future__ import annotations

from ..errors import BackboneError
from .beit import OriginalBEiT, TransformersBEiT
from .checkpoint import Checkpoint
from .clip import OpenCLIP, TransformersCLIP
from .convnext import OriginalConvNeXt, TransformersConvNeXt, TransformersDINOv3ConvNeXt
from .davit import OriginalDaViT, OriginalFlorence2, TransformersFlorence2
from .dinov2 import OriginalDINOv2, TransformersDINOv2
from .dinov3 import OriginalDINOv3, TransformersDINOv3
from .eva import OriginalEVA
from .hiera import OriginalHiera, TransformersHiera
from .layout import Layout
from .open_clip import OpenCLIPTimm
from .resnet import TorchvisionResNet, TransformersResNet
from .sam import OriginalSAM, TransformersSAM
from .sam2 import OriginalSAM2, TransformersSAM2
from .siglip import TransformersSigLIP
from .swin import OriginalSwin, TransformersSwin
from .timm_layout import TimmLayout
from .vit_transformers import (
    OriginalDeiT,
    OriginalDINO,
    OriginalMAE,
    TransformersDeiT,
    TransformersMAE,
    TransformersViT,
)

LAYOUTS: tuple[Layout, ...] = (
    TimmLayout(),
    *(TransformersDINOv2(), OriginalDINOv2(), TransformersDINOv3(), OriginalDINOv3()),
    *(TransformersViT(), TransformersDeiT(), TransformersMAE(), OriginalDINO(), OriginalDeiT(), OriginalMAE()),
    *(TransformersCLIP(), OpenCLIP(), TransformersSigLIP(), OpenCLIPTimm()),
    *(TransformersBEiT(), OriginalBEiT(), OriginalEVA()),
    *(TransformersResNet(), TorchvisionResNet()),
    *(TransformersConvNeXt(), OriginalConvNeXt(), TransformersDINOv3ConvNeXt()),
    *(TransformersFlorence2(), OriginalFlorence2(), OriginalDaViT()),
    *(TransformersSwin(), OriginalSwin(), TransformersHiera(), OriginalHiera()),
    *(TransformersSAM(), OriginalSAM(), TransformersSAM2(), OriginalSAM2()),
)


def recognise(checkpoint: Checkpoint) -> Layout:
    """The one layout that the file has; raises BackboneError if there is none, or more than one."""
    found = [layout for layout in LAYOUTS if layout.matches(checkpoint)]
    if len(found) == 1:
        return found[0]
    if found:
        names = " and ".join(f"{layout.family} of {layout.library}" for layout in found)
        raise BackboneError(f"These weights could be {names}: put the model's config.json beside them.")
    kind = f"of the kind '{checkpoint.model_type[:60]}' " if checkpoint.model_type else ""
    first = min(checkpoint.tensors, default="")
    raise BackboneError(
        f"The layout of these weights {kind}is not known (they begin with '{first[:80]}'): see the table of families "
        "in docs/backbones.md, or name timm's model with --model."
    )
