"""What the converters share: reading published tables strictly, matching them with images, and splitting by patient."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import InputError
from ...manifest import CASE, Table, check_columns, read_table
from ...progress import ProgressCallback
from ...spec import PluginSpec
from ...training.dataset_file import write_cells
from ...training.splits import split_cases
from ...training.table import LABEL, PATIENT, SPLIT, SPLITS

TRAIN, VAL, TEST = SPLITS
SHARES = (0.7, 0.1, 0.2)
NAMES_SHOWN = 5


@dataclasses.dataclass(frozen=True, kw_only=True)
class Order:
    """What is asked of a converter.

    `table` is the CSV file to write, `task` the task's name and `spec` its plugin where there is such a task. `shares`
    are of train, val and test; a data set with an official test set takes the ratio of the first two. `one_series`
    keeps one series of each examination. `images` is the folder for images that have to be written.
    """

    table: Path
    task: str = ""
    spec: PluginSpec | None = None
    shares: tuple[float, float, float] = SHARES
    seed: int = 0
    one_series: bool = False
    images: Path | None = None
    replace: bool = False
    progress: ProgressCallback | None = None


@dataclasses.dataclass(frozen=True)
class Converted:
    """How many cases were written, and what a person has to know of them, a sentence each."""

    cases: int
    notes: tuple[str, ...] = ()


def check_layout(folder: Path, needed: Iterable[str], *, layout: str) -> None:
    """Raise InputError unless the folder holds the `needed` files and folders; `layout` says what is looked for."""
    if not folder.is_dir():
        raise InputError(f"There is no folder '{folder}': give the one that holds {layout}.")
    absent = next((name for name in needed if not (folder / name).exists()), None)
    if absent is not None:
        raise InputError(f"The folder '{folder}' lacks '{absent}': give the one that holds {layout}.")


def read_published(place: Path, columns: Iterable[str]) -> Table:
    """A published table with its header; raises InputError if it cannot be read or lacks one of the columns."""
    table = read_table(place)
    check_columns(table, columns, name=place.name)
    return table


def add_once(found: dict[str, Any], key: str, value: object, *, where: str) -> None:
    """Put a case into `found`; raises InputError if it is there already. `where` names line and table, or folder."""
    if key in found:
        raise InputError(f"The case '{key}' comes twice, again in {where}: take one of them out.")
    found[key] = value


def flag(text: str, column: str, *, where: str) -> str:
    """ "0" or "1", as the text says; raises InputError for anything else. `where` names line and table."""
    try:
        number = float(text)
    except ValueError:
        raise InputError(f"'{column}' in {where} must be 0 or 1, but is '{text}': correct it.") from None
    if number not in (0, 1):
        raise InputError(f"'{column}' in {where} must be 0 or 1, but is '{text}': correct it.")
    return str(int(number))


def matched(labelled: Collection[str], pictured: Collection[str], *, looked_for: str) -> tuple[list[str], list[str]]:
    """The cases that have both a label and images, in the order of the labels, and sentences on those left out.

    Raises InputError if there is none; `looked_for` says where images were looked for.
    """
    both = [name for name in labelled if name in pictured]
    if not both:
        raise InputError(
            f"None of the {len(labelled)} labelled cases has images ({len(pictured)} others have): looked for "
            f"{looked_for}; give the folder in which labels and images are of one release."
        )
    notes = left_out([name for name in labelled if name not in pictured], "with a label but without images")
    return both, [*notes, *left_out(sorted(set(pictured) - set(labelled)), "with images but without a label")]


def left_out(names: Sequence[str], what: str) -> list[str]:
    """A sentence on cases that are left out, with the first names; none where all are kept."""
    if not names:
        return []
    more = f" and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else ""
    return [f"Left out {len(names)} {what}: {', '.join(names[:NAMES_SHOWN])}{more}."]


def prefix_of(folder: Path, table: Path) -> str:
    """How paths in `folder` begin in a table: relative to it, or absolute on another drive."""
    there = folder.resolve()
    try:
        return Path(os.path.relpath(there, table.parent.resolve())).as_posix()
    except ValueError:  # another drive
        return there.as_posix()


def shares_by_name(order: Order, *, official_test: bool) -> dict[str, float]:
    """The shares by split; with an official test set those of train and val alone, in their ratio."""
    names = (TRAIN, VAL) if official_test else SPLITS
    total = sum(order.shares[: len(names)])
    return {name: share / total for name, share in zip(names, order.shares, strict=False) if share}


def write_cases(
    rows: Sequence[Mapping[str, str]], order: Order, *, labels: Sequence[str] = (LABEL,), official_test: bool = False
) -> int:
    """Write the table, rows without a split being split by patient, stratified and seeded; return its cases.

    `labels` are the columns of the labels: `label` alone, or one for each class of a multilabel task.
    """
    opened = [row for row in rows if not row.get(SPLIT)]
    chosen = iter(_splits(opened, order, labels, official_test=official_test) if opened else ())
    done = [row if row.get(SPLIT) else {**row, SPLIT: next(chosen)} for row in rows]
    columns = list(dict.fromkeys(name for row in done for name in row))
    write_cells(order.table, columns, done)
    return len(done)


def _splits(
    rows: Sequence[Mapping[str, str]], order: Order, labels: Sequence[str], *, official_test: bool
) -> list[str]:
    shares = shares_by_name(order, official_test=official_test)
    if len(shares) == 1:
        return list(shares) * len(rows)
    targets: list[Any]
    if tuple(labels) == (LABEL,):
        classes = sorted({row[LABEL] for row in rows})
        targets = [classes.index(row[LABEL]) for row in rows]
    else:
        classes = list(labels)
        targets = [np.array([int(row[name]) for name in labels]) for row in rows]
    return split_cases(
        [row[CASE] for row in rows],
        [row.get(PATIENT, "") for row in rows],
        targets,
        shares=shares,
        seed=order.seed,
        classes=classes,
    )
