"""What timm builds for a backbone's weights, and where its own habits differ from those of the weights' makers.

Needs the standard library alone, because the records of installed backbones are listed without torch.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

from .records import Record

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Positions(Record):
    """How the weights' own library takes stored position embeddings to another size of slices.

    `resampled`: by interpolation (`mode`, `antialias`), where `offset` is added to the new grid before its scale is
    taken (DINOv2's own code adds 0.1); `any`: nothing is stored for a size (rotary positions, convolutions);
    `fixed`: it takes the size of its training alone, or what it does elsewhere is not reproduced here.
    `rounded_periods`: the periods of DINOv3's rotary positions were computed in bfloat16, as by its authors.
    """

    kind: Literal["resampled", "any", "fixed"] = "resampled"
    mode: Literal["bicubic", "bilinear"] = "bicubic"
    antialias: bool = True
    offset: float = 0.0
    rounded_periods: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class Architecture(Record):
    """A network of timm's by name and arguments, for slices of `input_size` (H, W) in its training.

    `norm_eps` is the epsilon of every LayerNorm where it is not the one that timm's name stands for (0: it is).
    """

    family: str
    timm: str
    model_args: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    input_size: tuple[int, int] = (224, 224)
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    positions: Positions = Positions()
    norm_eps: float = 0.0

    @property
    def network(self) -> dict[str, Any]:
        """What decides on the network's outputs, as JSON; not the colours, which views keep, and not the family."""
        return {"timm": self.timm, "model_args": dict(self.model_args), "norm_eps": self.norm_eps,
                "positions": self.positions.to_dict()}  # fmt: skip
