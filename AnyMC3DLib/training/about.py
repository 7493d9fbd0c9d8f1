"""What is known of a task's data and of others' results on it. Needs the standard library alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

from ..errors import InputError
from ..records import Record

UNKNOWN = "unknown"


@dataclasses.dataclass(frozen=True, kw_only=True)
class PublishedResult(Record):
    """A figure that somebody published: of which `model`, on which `split` ("unknown" where it is not told), and where
    it stands."""

    model: str
    value: float
    source: str
    figure: Literal["auc", "accuracy"] = "auc"
    split: str = "test"

    def __post_init__(self) -> None:
        if not 0 <= self.value <= 1:
            raise InputError(f"A published {self.figure} must lie within 0 to 1, but is {self.value:g}.")
        for name in ("model", "source", "split"):
            if not getattr(self, name).strip():
                raise InputError(f"A published {self.figure} needs its {name}: write 'unknown' where it is not known.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class About(Record):
    """Where a task's data comes from, who may have it, and how well others did.

    `source` is what to cite and `address` says where the data is, each "unknown" where nobody has told. `counts` are
    cases by split, under "all" where only their sum is known; a count that is not known is left out. `stand_in` is the
    name of a task of the same kind that anybody can get, for data that is private or not named. `converter` is what
    turns the data as it is given out into a table of cases. `notes` hold what else one must know, such as what in this
    file is known of the data and what was chosen for it.
    """

    source: str
    availability: Literal["public", "gated", "private", "unknown"]
    address: str = UNKNOWN
    licence: str = UNKNOWN
    counts: Mapping[str, int] = dataclasses.field(default_factory=dict)
    results: tuple[PublishedResult, ...] = ()
    stand_in: str | None = None
    converter: str | None = None
    notes: str = ""

    def __post_init__(self) -> None:
        for name in ("source", "address", "licence"):
            if not getattr(self, name).strip():
                raise InputError(f"What is said about a task needs its {name}: write 'unknown' where it is not known.")
        unfit = next(((split, count) for split, count in self.counts.items() if not _is_count(count)), None)
        if unfit is not None:
            raise InputError(
                f"The cases of the split '{unfit[0]}' must be a whole number from 0 on, but are {unfit[1]}."
            )
        for name in ("stand_in", "converter"):
            given = getattr(self, name)
            if given is not None and not given.strip():
                raise InputError(f"The {name} of a task is empty: give a name, or leave it out.")


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
