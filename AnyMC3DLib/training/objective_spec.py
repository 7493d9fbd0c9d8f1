"""What training minimises, in words and numbers. Needs the standard library alone."""

from __future__ import annotations

import dataclasses
from typing import Literal

from ..errors import InputError
from ..records import Record


@dataclasses.dataclass(frozen=True, kw_only=True)
class ObjectiveSpec(Record):
    """The loss of a study's logits.

    `gamma` and `alpha` are those of the focal loss (arXiv 1708.02002): `alpha` weighs the positives of binary and
    multilabel tasks and 1 - alpha their negatives, None weighs neither. `class_weights` weighs the classes of binary
    and multiclass tasks by the inverse of their number of training cases; `label_weights` gives such weights by hand,
    one a class.
    """

    kind: Literal["cross_entropy", "focal"] = "cross_entropy"
    gamma: float = 2.0
    alpha: float | None = 0.25
    class_weights: bool = False
    label_weights: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if not 0 <= self.gamma <= 10:
            raise InputError(f"The focal loss's gamma must lie within 0 to 10, but is {self.gamma:g}.")
        if self.alpha is not None and not 0 < self.alpha < 1:
            raise InputError(f"The focal loss's alpha must lie between 0 and 1, but is {self.alpha:g}.")
        if self.class_weights and self.label_weights:
            raise InputError("Give class_weights or label_weights, not both: they are two sources of the same weights.")
        if self.label_weights and min(self.label_weights) <= 0:
            raise InputError(f"The label_weights must be above 0, but one is {min(self.label_weights):g}.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class PixelSpec(Record):
    """Supervision by masks: how much it weighs beside the loss of the logits (0: none), and the decoder it trains.

    `channels` is the width of the decoder, `finer` how many of its cells lie along a token's side. `keep_decoder`
    keeps it in the run folder; it is never part of the plugin.
    """

    weight: float = 0.0
    channels: int = 32
    finer: int = 2
    keep_decoder: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.weight <= 1000:
            raise InputError(f"The weight of pixel supervision must lie within 0 to 1000, but is {self.weight:g}.")
        if not 8 <= self.channels <= 256 or self.channels % 8:
            raise InputError(f"A pixel decoder has 8 to 256 channels, a multiple of 8, but is to have {self.channels}.")
        if not 1 <= self.finer <= 8:
            raise InputError(f"A pixel decoder can be 1 to 8 times finer than the tokens, but not {self.finer}.")
