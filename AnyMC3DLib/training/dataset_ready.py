"""Why training on an editable table of cases cannot start yet, as far as the table alone tells it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

from ..manifest import CASE
from .dataset_columns import Layout, fault_of
from .table import PATIENT, SPLIT, SPLITS, WEIGHT

Row = Mapping[str, str]
TRAIN, VAL = SPLITS[:2]
SOURCE_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")  # as in `spec.ViewSpec`


def reasons(layout: Layout, rows: Sequence[Row], *, folds: bool) -> Iterator[str]:
    """Each reason in one sentence, the first to be mended first.

    Cross-validation (`folds`) needs no splits. Files are not looked at.
    """
    if not rows:
        yield "There is no case yet: add some."
        return
    yield from _of_task(layout)
    yield from _of_names(rows)
    for row in rows:
        yield from _of_cells(layout, row)
    yield from _of_splits(layout, rows, folds=folds)
    if not folds:  # which are made by patient, whatever the splits
        yield from _of_patients(rows)


def _of_task(layout: Layout) -> Iterator[str]:
    count = len(layout.classes)
    told = f"there is {count}" if count == 1 else f"there are {count}"
    if layout.task_type == "binary" and count != 2:
        change = "add one" if count < 2 else "take one out, or choose another type of task"
        yield f"A binary task has two classes, but {told}: {change}."
    if layout.task_type == "multiclass" and count < 2:
        yield f"A multiclass task has two classes or more, but {told}: add one."
    if layout.multilabel and not count:
        yield "The task has no class: add one."
    if not layout.images:
        yield "The table has no column of images: make one with an image."
    for source in layout.images:
        if not SOURCE_NAME.fullmatch(source):
            yield f"The image '{source}' needs a name of letters, digits, '-' and '_' alone: rename its column."


def _of_names(rows: Sequence[Row]) -> Iterator[str]:
    seen: set[str] = set()
    for row in rows:
        name = row.get(CASE, "")
        if not name:
            yield "A case has no name: give it one of its own."
        elif name.casefold() in seen:
            yield f"The name of the case '{name}' comes twice: rename one."
        seen.add(name.casefold())


def _of_cells(layout: Layout, row: Row) -> Iterator[str]:
    name = row.get(CASE, "")
    for column in layout.images.values():
        if not row.get(column):
            yield f"The case '{name}' has nothing in the column '{column}': name the file of the image."
    for column in (*layout.labels, SPLIT, WEIGHT):
        value = row.get(column, "")
        sentence = fault_of(layout, column, value) if value else None
        if sentence is not None:
            yield f"In the case '{name}': {sentence}"
    if not layout.is_labelled(row):
        yield f"The case '{name}' has no label: give it one, or take the case out."


def _of_splits(layout: Layout, rows: Sequence[Row], *, folds: bool) -> Iterator[str]:
    yield from _of_classes(layout, rows, "the table")
    there = {row.get(SPLIT, "") for row in rows}
    if there == {""}:
        if not folds:
            yield "No case has a split yet: split the cases."
        return
    if "" in there:
        name = next(row.get(CASE, "") for row in rows if not row.get(SPLIT))
        yield f"The case '{name}' has no split, but others have one: split the cases again."
    for split in (TRAIN, VAL):
        if split not in there:
            yield f"No case is in the split '{split}': put some there, or split the cases again."
    learnt = (TRAIN, VAL) if folds else (TRAIN,)
    shown = " or ".join(f"'{split}'" for split in learnt)
    yield from _of_classes(layout, [row for row in rows if row.get(SPLIT) in learnt], f"the split {shown}")


def _of_classes(layout: Layout, rows: Sequence[Row], where: str) -> Iterator[str]:
    found = {name for row in rows for name in layout.classes_of(row)}
    for name in layout.classes:
        if name not in found:
            yield f"In {where} there is no case of the class '{name}': add some, or take the class out."


def _of_patients(rows: Sequence[Row]) -> Iterator[str]:
    seen: dict[str, str] = {}
    for row in rows:
        patient = row.get(PATIENT) or row.get(CASE, "")
        split = row.get(SPLIT, "")
        if seen.setdefault(patient, split) != split:
            yield f"The patient '{patient}' is in two splits: put all cases of one into one split."
