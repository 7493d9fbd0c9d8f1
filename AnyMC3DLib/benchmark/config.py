"""What one row of a benchmark is: everything that decides its figures. Needs the standard library alone."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from typing import Any

from ..errors import InputError
from ..records import Record

KEY_DIGITS = 16


@dataclasses.dataclass(frozen=True, kw_only=True)
class RowConfig(Record):
    """One training and its test: a dataset, a method, and where they stand on each axis.

    `task` and `data` are digests of the task and of the data's table or file, so that a row is not taken for one of
    another content. `backbone` is "" for a method that brings its own network; without `pretrained` its weights are
    random. `size` is pixels a side of a slice, or voxels a side of a volume for a 3D network; `share` is the part of
    the training patients; `fusion`, `rank`, `targets`, `views` and `pixels` (the weight of pixel supervision) replace
    the task's where they are given, `epochs` and `recipe` likewise the recipe's. A training is ended after
    `budget_minutes`. `weights` is the digest of the file that a 3D network's weights come from.
    """

    dataset: str
    method: str
    task: str = ""
    data: str = ""
    backbone: str = ""
    pretrained: bool = True
    size: int | None = None
    share: float = 1.0
    fusion: str | None = None
    rank: int | None = None
    targets: tuple[str, ...] | None = None
    views: tuple[str, ...] | None = None
    pixels: float | None = None
    epochs: int | None = None
    recipe: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    seed: int = 0
    budget_minutes: float | None = None
    weights: str = ""

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise InputError(f"A share of the training data must lie above 0 and up to 1, but is {self.share:g}.")
        if self.budget_minutes is not None and self.budget_minutes <= 0:
            raise InputError(f"A budget must be above 0 minutes, but is {self.budget_minutes:g}.")

    @property
    def key(self) -> str:
        """16 hexadecimal digits that name the row: the same configuration has the same, whatever suite asks for it."""
        known = {name: value for name, value in self.to_dict().items() if name not in self.extra}
        text = json.dumps(known, sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(text.encode()).hexdigest()[:KEY_DIGITS]

    def but(self, *names: str) -> tuple[Any, ...]:
        """All that the row is, but for the named fields: rows that differ in these alone have the same."""
        parts = self.to_dict()
        return tuple(json.dumps(parts[name], sort_keys=True) for name in sorted(parts) if name not in names)
