"""How far a piece of work is: a callback that takes a small dataclass. Needs the standard library alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable


@dataclasses.dataclass(frozen=True)
class Progress:
    """`done` of `total` units of the step that `step` names are behind us."""

    step: str
    done: int
    total: int


ProgressCallback = Callable[[Progress], None]
