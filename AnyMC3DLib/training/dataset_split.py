"""How the cases of an editable table are counted and split."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING

from ..errors import InputError
from ..manifest import CASE
from .dataset_columns import FLAGS, Layout
from .table import PATIENT, SPLIT, SPLITS

if TYPE_CHECKING:
    from .splits import Target

Rows = Mapping[int, Mapping[str, str]]
Counts = dict[str, dict[str, int]]


@dataclasses.dataclass(frozen=True)
class SplitPlan:
    """The split of each case by its key, "" for a case without a label, and the cases by split and class."""

    splits: Mapping[int, str]
    counts: Mapping[str, Mapping[str, int]]


def counts_of(layout: Layout, rows: Rows, splits: Mapping[int, str]) -> Counts:
    """The cases by split and class, "" being no split; all splits and classes are there, also those without a case.

    A multilabel case counts for each class that it has.
    """
    counts: Counts = {split: dict.fromkeys(layout.classes, 0) for split in (*SPLITS, "")}
    for key, cells in rows.items():
        by_class = counts.setdefault(splits[key], dict.fromkeys(layout.classes, 0))
        for name in layout.classes_of(cells):
            by_class[name] += 1
    return counts


def plan_of(layout: Layout, rows: Rows, *, shares: Mapping[str, float] | None, seed: int) -> SplitPlan:
    """A split by patient that keeps the shares of the classes, as `splits.split_cases` makes it.

    A split with the share 0 is left out. Raises InputError for a name that is no split, and as that does.
    """
    from .splits import SHARES, split_cases  # NumPy, which the table itself can do without

    wanted = {name: share for name, share in (SHARES if shares is None else shares).items() if share != 0}
    unknown = next((name for name in wanted if name not in SPLITS), None)
    if unknown is not None:
        raise InputError(f"There is no split '{unknown}': give shares of {', '.join(SPLITS)}.")
    labelled = {key: cells for key, cells in rows.items() if layout.is_labelled(cells)}
    found = split_cases(
        [cells.get(CASE, "") for cells in labelled.values()],
        [cells.get(PATIENT, "") for cells in labelled.values()],
        [_target(layout, cells) for cells in labelled.values()],
        shares=wanted,
        seed=seed,
        classes=layout.classes,
    )
    splits = dict.fromkeys(rows, "") | dict(zip(labelled, found, strict=True))
    return SplitPlan(splits, counts_of(layout, rows, splits))


def splits_of(rows: Rows) -> dict[int, str]:
    """The split of each row as its cell tells it."""
    return {key: cells.get(SPLIT, "") for key, cells in rows.items()}


def _target(layout: Layout, cells: Mapping[str, str]) -> Target:
    if not layout.multilabel:
        return layout.classes.index(layout.classes_of(cells)[0])
    import numpy as np

    values = [cells.get(name, "") for name in layout.classes]
    return np.array([int(value) if value in FLAGS else -1 for value in values])
