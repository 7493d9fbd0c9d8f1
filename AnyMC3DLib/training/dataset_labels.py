"""The labels of an editable table when the classes or the type of the task change."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from ..errors import InputError
from ..manifest import CASE
from .dataset_columns import Layout, fault_of
from .dataset_rows import DatasetCase
from .table import LABEL


def rename(layout: Layout, cases: Iterable[DatasetCase], *, old: str, new: str) -> None:
    """Let the labels of a class follow its new name; `layout` may have either."""
    for case in cases:
        if layout.multilabel and old in case.cells:
            case.cells[new] = case.cells.pop(old)
        elif not layout.multilabel and case.cells.get(LABEL) == old:
            case.cells[LABEL] = new


def check_unused(layout: Layout, cases: Iterable[DatasetCase], name: str) -> None:
    """Raise InputError if a case has the class."""
    count = sum(name in layout.classes_of(case.cells) for case in cases)
    if count:
        have = "1 case has" if count == 1 else f"{count} cases have"
        raise InputError(f"The class '{name}' cannot be taken out while {have} it: label them otherwise first.")


def relabel(old: Layout, new: Layout, cases: Iterable[DatasetCase]) -> None:
    """Turn one column of labels into one for each class, or back; raises InputError where a label would be lost."""
    changed = [(case, _kept(old, case.cells) | _labels(old, new, case.cells)) for case in cases]
    for case, cells in changed:
        case.cells = cells


def _kept(old: Layout, cells: Mapping[str, str]) -> dict[str, str]:
    return {column: text for column, text in cells.items() if column not in old.labels}


def _labels(old: Layout, new: Layout, cells: Mapping[str, str]) -> dict[str, str]:
    if not any(cells.get(column) for column in old.labels):
        return {}
    name, found = cells.get(CASE, ""), old.classes_of(cells)
    faults = (fault_of(old, column, cells[column]) for column in old.labels if cells.get(column))
    fault = next(filter(None, faults), None)
    if fault is not None:
        raise InputError(f"In the case '{name}': {fault}")
    if len(found) != 1:
        raise InputError(f"The case '{name}' has {len(found)} classes, but may have one alone now: correct it first.")
    return {other: str(int(other == found[0])) for other in new.labels} if new.multilabel else {LABEL: found[0]}
