"""An editable table of labelled cases, as the tab that makes data sets has it: neither Qt nor torch."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..manifest import CASE
from ..spec import PluginSpec
from .dataset_classes import read_classes, write_classes
from .dataset_columns import Layout, checked, cleaned
from .dataset_file import LINE_OF_FIRST_ROW, read_cells, told_path, write_cells
from .dataset_labels import check_unused, relabel, rename
from .dataset_ready import reasons
from .dataset_rows import CaseRows, DatasetCase
from .dataset_split import Counts, SplitPlan, counts_of, plan_of, splits_of
from .table import SPLIT

# Kinds of `manifest_check.Problem` that are of the table and not of the row at whose line they are told.
OF_THE_TABLE = ("missing column", "mask column", "absent class")


class Dataset:
    """Labelled cases in their order, to be changed cell by cell.

    Cells are texts of one line; paths are relative to the folder of the table's file where they are relative at all. A
    column `patient` holds pseudonyms (see `pseudonym`), never names: that is the caller's duty. What was read from a
    file may be wrong in any way (`ready_problem`, `manifest_check`), what is put in here is checked.
    """

    def __init__(
        self,
        classes: Sequence[str] = ("no", "yes"),
        task_type: str = "binary",
        sources: Sequence[str] = ("image",),
    ) -> None:
        """A table without a case; the positive class of a binary task is the second.

        Raises InputError for a type of task that there is not, and names that are empty or come twice.
        """
        self._start(Layout.of_sources(sources, classes, task_type))

    def _start(self, layout: Layout) -> None:
        self._layout = layout
        self._rows = CaseRows()
        self._path: Path | None = None
        self._keys_by_line: dict[int, int] = {}
        self._modified = False

    # Files

    @classmethod
    def open(cls, path: str | os.PathLike[str], *, spec: PluginSpec | None = None) -> Dataset:
        """The table of a CSV or JSON lines file, for the plugin of a task, or as it was saved here, or guessed.

        A guess takes the classes in the order of the alphabet, and a label that no case has is not among them. Raises
        InputError if the file is no such table, and with its sentence for the first line that is malformed.
        """
        place = _whole(path)
        table = read_cells(place)
        dataset = cls.__new__(cls)
        told = None if spec is not None else read_classes(place, table)
        dataset._start(told or Layout.of_table(table, spec))
        for line, cells in table.rows:
            dataset._keys_by_line[line] = dataset._rows.append({name: text for name, text in cells.items() if text})
        dataset._path = place
        return dataset

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the table as CSV, which is its file from now on; raises InputError if that cannot be.

        The order of its classes is written beside it. Paths of files in the table's folder become relative to it.
        Columns that no row fills are left out, apart from those of the images, the labels, and such as nothing knows.
        """
        place = _whole(path)
        rows = self._write(place)
        write_classes(place, self._layout)
        # Once both are written: with paths for another folder, the table in memory would be wrong.
        for case, cells in zip(self._rows.all, rows, strict=True):
            case.cells = cells
        self._path, self._modified = place, False

    def save_copy(self, path: str | os.PathLike[str]) -> None:
        """Write the table as `save` does, to have it checked for example, but leave all as it is here."""
        self._write(_whole(path))

    def _write(self, place: Path) -> list[dict[str, str]]:
        """Write the rows and return them as they were written."""
        before = self.folder
        rows = [
            {
                name: told_path(text, before=before, now=place.parent) if name in self._layout.paths else text
                for name, text in case.cells.items()
            }
            for case in self._rows.all
        ]
        filled = {name for row in rows for name in row}
        columns = [name for name in self.columns if name in filled or name not in self._layout.optional]
        write_cells(place, columns, rows)
        self._keys_by_line = dict(enumerate(self._rows.keys, start=LINE_OF_FIRST_ROW))
        return rows

    @property
    def path(self) -> Path | None:
        """The table's file, absolute; None before it is saved."""
        return self._path

    @property
    def folder(self) -> Path | None:
        """The folder to which paths are relative; None before the table is saved."""
        return None if self._path is None else self._path.parent

    @property
    def modified(self) -> bool:
        """Whether something is not saved."""
        return self._modified

    # Cells

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns in the order in which they are shown, with those that may be filled."""
        return self._layout.columns

    @property
    def label_columns(self) -> tuple[str, ...]:
        """The columns of the labels: one, or for a multilabel task one for each class, with 0, 1 or nothing."""
        return self._layout.labels

    @property
    def sources(self) -> tuple[str, ...]:
        """The images of a case."""
        return tuple(self._layout.images)

    @property
    def keys(self) -> tuple[int, ...]:
        """The keys of the cases in their order."""
        return self._rows.keys

    def __len__(self) -> int:
        return len(self._rows)

    def case(self, key: int) -> DatasetCase:
        """A copy of a case; raises InputError for a key that there is not."""
        return DatasetCase(key, dict(self._rows[key].cells))

    def cell(self, key: int, column: str) -> str:
        """The text of a cell; raises InputError for a case or column that there is not."""
        return self._rows[key].cells.get(self._known(column), "")

    def set_cell(self, key: int, column: str, text: str | os.PathLike[str]) -> None:
        """Put a text into a cell, without the blanks around it and without line breaks.

        Raises InputError for a label that is no class, a split that is none, a weight that is no positive number, a
        case without a name or with that of another, and a case or column that there is not; then nothing is changed.
        """
        before = self.cell(key, column)
        if cleaned(os.fspath(text)) == before:
            return  # what was read may be wrong, and an editor that is left without a change is no mistake
        value = self._checked(column, text, before=before)
        if value != before:
            self._rows.put(key, column, value)
            self._modified = True

    def add(self, /, **values: str | os.PathLike[str]) -> int:
        """Add a case at the end and return its key; its name is made up where none is given.

        Raises InputError as `set_cell` does, and then adds nothing.
        """
        given = {self._known(column): os.fspath(value) for column, value in values.items()}
        if not given.get(CASE, "").strip():
            given[CASE] = self._rows.new_name()
        cells = {column: self._checked(column, value) for column, value in given.items()}
        self._modified = True
        return self._rows.append({column: value for column, value in cells.items() if value})

    def remove(self, keys: Iterable[int]) -> None:
        """Take cases out; raises InputError for a key that there is not, and then takes none out."""
        before = len(self)
        self._rows.remove(keys)
        self._modified = self._modified or len(self) < before

    def image_path(self, key: int, source: str) -> Path | None:
        """The absolute path of an image, None where the cell is empty; raises InputError for an unknown source."""
        return self._file(key, self._layout.images, source)

    def mask_path(self, key: int, source: str) -> Path | None:
        """The absolute path of an image's mask, None where the cell is empty; raises InputError as `image_path`."""
        return self._file(key, self._layout.masks, source)

    def _file(self, key: int, columns: Mapping[str, str], source: str) -> Path | None:
        if source not in columns:
            raise InputError(f"The table has no image '{source}': it has {', '.join(columns)}.")
        text = self.cell(key, columns[source])
        return _whole((self.folder or Path()) / text) if text else None

    def _known(self, column: str) -> str:
        if column not in self._layout.columns:
            raise InputError(f"The table has no column '{column}': it has {', '.join(self.columns)}.")
        return column

    def _checked(self, column: str, text: str | os.PathLike[str], *, before: str = "") -> str:
        value = checked(self._layout, column, os.fspath(text))
        if column == CASE:
            self._rows.check_name(value, own=before)
        if column in self._layout.paths and self.folder is not None:
            return told_path(value, before=self.folder, now=self.folder)
        return value

    # Classes

    @property
    def classes(self) -> tuple[str, ...]:
        """The classes in the order of the task; the positive one of a binary task is the second."""
        return self._layout.classes

    @property
    def task_type(self) -> str:
        """`binary`, `multiclass` or `multilabel`."""
        return self._layout.task_type

    def add_class(self, name: str) -> None:
        """Add a class at the end; raises InputError for a name that is empty, there already, or another column's."""
        self._arrange(classes=(*self.classes, cleaned(name)))

    def rename_class(self, old: str, new: str) -> None:
        """Give a class another name, in the labels too; raises InputError as `add_class`, and if `old` is no class."""
        self._check_class(old)
        name = cleaned(new)
        if name == old:
            return
        self._arrange(classes=tuple(name if known == old else known for known in self.classes))
        rename(self._layout, self._rows.all, old=old, new=name)

    def remove_class(self, name: str) -> None:
        """Take a class out; raises InputError while a case has it, and if there is none."""
        self._check_class(name)
        check_unused(self._layout, self._rows.all, name)
        self._arrange(classes=tuple(known for known in self.classes if known != name))
        if self._layout.multilabel:
            for case in self._rows.all:
                case.cells.pop(name, None)

    def order_classes(self, names: Sequence[str]) -> None:
        """Put the classes into another order; raises InputError if these are others."""
        if sorted(names) != sorted(self.classes):
            raise InputError(f"The classes are {', '.join(self.classes)}: name each of them once.")
        if tuple(names) != self.classes:
            self._arrange(classes=tuple(names))

    def set_task_type(self, task_type: str) -> None:
        """Change the type of the task, and the labels with it.

        To multilabel the label becomes a 1 in the column of its class and 0 in the others; back from it each case that
        is labelled at all must have exactly one 1. Raises InputError where labels would be lost, and for a type that
        there is not.
        """
        if task_type == self.task_type:
            return
        new = dataclasses.replace(self._layout, task_type=task_type)
        if new.multilabel != self._layout.multilabel:
            relabel(self._layout, new, self._rows.all)
        self._layout, self._modified = new, True

    def _arrange(self, *, classes: tuple[str, ...]) -> None:
        self._layout, self._modified = dataclasses.replace(self._layout, classes=classes), True

    def _check_class(self, name: str) -> None:
        if name not in self.classes:
            raise InputError(f"There is no class '{name}': the classes are {', '.join(self.classes)}.")

    # Splits and problems

    def counts(self) -> Counts:
        """The cases by split and class, "" being no split; a multilabel case counts for each class that it has."""
        rows = self._rows.cells()
        return counts_of(self._layout, rows, splits_of(rows))

    def plan_split(self, shares: Mapping[str, float] | None = None, seed: int = 0) -> SplitPlan:
        """A split by patient, stratified by class, the same for the same cases and seed; changes nothing.

        `shares` are of the patients and sum to 1 (`splits.SHARES` where None). Cases without a label get no split.
        Raises InputError for shares that are none, and where a class has fewer patients than there are splits.
        """
        return plan_of(self._layout, self._rows.cells(), shares=shares, seed=seed)

    def apply(self, plan: SplitPlan) -> None:
        """Put the plan's splits into the table; cases that were taken out since are passed over."""
        for key, split in plan.splits.items():
            if key in self._rows:
                self.set_cell(key, SPLIT, split)

    def ready_problem(self, *, folds: bool = False) -> str | None:
        """Why training cannot start yet, in one sentence, as far as the table tells; None if it can.

        Cross-validation (`folds`) needs no splits. Files are not looked at, which `manifest_check` does.
        """
        return next(reasons(self._layout, list(self._rows.cells().values()), folds=folds), None)

    def problems_by_key(self, report: Mapping[str, Any]) -> dict[int | None, list[str]]:
        """The sentences of a `manifest_check.Report.to_dict()` by the key of the row; None has those of the table.

        The report is of the file that this was opened from or that was written last. Cases that were taken out since
        are passed over.
        """
        found: dict[int | None, list[str]] = {}
        for problem in report["problems"]:
            line = problem["line"]
            key = None if problem["kind"] in OF_THE_TABLE else self._keys_by_line.get(line)
            if key is None or key in self._rows:
                found.setdefault(key, []).append(problem["sentence"].removeprefix(f"Line {line}: "))
        return found


def _whole(path: str | os.PathLike[str]) -> Path:
    # Not resolve(), which follows links: images are often links into a store.
    return Path(os.path.abspath(path))  # noqa: PTH100
