"""What is wrong with one row of a table of labelled cases: its cells, and the files that it names."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ..errors import InputError
from ..files import is_there
from ..geometry import boxes_overlap
from ..manifest import CASE, Table
from ..preprocessing import Box
from ..regions import read_region
from .manifest_headers import Header, misfit, read_header
from .table import SPLITS, Columns, Row


@dataclasses.dataclass(frozen=True)
class Problem:
    """One thing that is wrong: the number of its line, its case ("" where it is not one case's), a word for its kind,
    and a sentence for a person."""

    line: int
    case: str
    kind: str
    sentence: str


class Headers:
    """The headers of files, each read once."""

    def __init__(self) -> None:
        self._known: dict[Path, Header | str] = {}

    def get(self, place: Path) -> Header | str:
        """The header of a file, or the sentence why it cannot be read."""
        if place not in self._known:
            try:
                self._known[place] = read_header(place)
            except InputError as error:
                self._known[place] = str(error)
        return self._known[place]

    def readable(self, place: Path) -> bool:
        """Whether the file has a header that can be used."""
        return isinstance(self.get(place), Header)


def problem_of(row: Row, kind: str, words: str) -> Problem:
    """A problem of a row, with its line and its case."""
    return Problem(row.line, row.case, kind, f"Line {row.line}: {words}")


def problems_of(row: Row, table: Table, columns: Columns, files: Headers) -> Iterator[Problem]:
    """Everything that is wrong with the row itself, apart from what it has in common with others."""
    yield from _of_cells(row, table, columns)
    yield from _of_labels(row, table, columns)
    yield from _of_files(row, columns, files)


def _of_cells(row: Row, table: Table, columns: Columns) -> Iterator[Problem]:
    if not row.case and CASE in table.columns:
        yield problem_of(row, "empty case", f"The column '{CASE}' is empty: give the case a name of its own.")
    for source, column in columns.images.items():
        if column in table.columns and source not in row.images:
            yield problem_of(row, "empty image", f"The column '{column}' is empty: name the file of the image.")
    for source, column in columns.regions.items():
        if columns.regions_needed and column in table.columns and source not in row.regions:
            yield problem_of(row, "empty region", f"The column '{column}' is empty: say where to look in the image.")
    if row.split not in ("", *SPLITS):
        known = ", ".join(SPLITS)
        yield problem_of(row, "unknown split", f"The split '{row.split}' is none of {known}: correct it or empty it.")
    if row.weight and not _is_positive(row.weight):
        yield problem_of(row, "weight", f"The weight '{row.weight}' is not a positive number: correct it or empty it.")


def _is_positive(text: str) -> bool:
    try:
        return 0 < float(text) < math.inf
    except ValueError:
        return False


def _of_labels(row: Row, table: Table, columns: Columns) -> Iterator[Problem]:
    there = [column for column in columns.labels if column in table.columns]
    if there and not row.labels:
        shown = (
            f"columns of the classes {', '.join(there)} are all" if columns.multilabel else f"column '{there[0]}' is"
        )
        yield problem_of(row, "empty label", f"The {shown} empty: give a label or take the row out.")
    for column, text in row.labels.items():
        if columns.multilabel and text not in ("0", "1"):
            words = f"The label '{text}' of the class '{column}' is neither 0 nor 1 nor empty: correct it."
            yield problem_of(row, "multilabel value", words)
        elif not columns.multilabel and text not in columns.classes:
            words = f"The label '{text}' is no class of the task: use one of {', '.join(columns.classes)}."
            yield problem_of(row, "unknown label", words)


def _of_files(row: Row, columns: Columns, files: Headers) -> Iterator[Problem]:
    images: dict[str, Header] = {}
    for source, place in row.images.items():
        header = files.get(place)
        if isinstance(header, Header):
            images[source] = header
        else:
            yield _unreadable(row, columns.images[source], place, header)
    for first, second in itertools.combinations(images, 2):
        if not boxes_overlap(images[first].corners, images[second].corners):
            words = f"The images '{first}' and '{second}' have no point in common: they are not of one examination."
            yield problem_of(row, "views apart", words)
    for source, place in row.masks.items():
        yield from _of_mask(row, columns.masks[source], place, images.get(source), files)
    for source, text in row.regions.items():
        yield from _of_region(row, columns.regions[source], text, images.get(source), files)


def _unreadable(row: Row, column: str, place: Path, sentence: str) -> Problem:
    kind = "unreadable file" if is_there(place) else "missing file"
    return problem_of(row, kind, f"In the column '{column}': {sentence}")


def _of_mask(row: Row, column: str, place: Path, image: Header | None, files: Headers) -> Iterator[Problem]:
    mask = files.get(place)
    if not isinstance(mask, Header):
        yield _unreadable(row, column, place, mask)
        return
    found = misfit(image, mask) if image is not None else None
    if found is not None:
        kind, words = found
        yield problem_of(row, f"mask {kind}", f"The mask in the column '{column}' {words}: export it with its image.")


def _of_region(row: Row, column: str, text: str, image: Header | None, files: Headers) -> Iterator[Problem]:
    try:
        corners = _region_corners(text, row.folder, files)
    except InputError as error:
        yield problem_of(row, "region", f"In the column '{column}': {error}")
        return
    if image is not None and not boxes_overlap(image.corners, corners):
        yield problem_of(
            row, "region", f"The region in the column '{column}' lies wholly outside the image: correct it."
        )


def _region_corners(text: str, folder: Path, files: Headers) -> npt.NDArray[np.float64]:
    """The corners [8, 3] in RAS of a box, or of the whole grid of a segmentation."""
    box = read_region(text) if text.startswith("box:") else None
    if isinstance(box, Box):
        return np.array(list(itertools.product(*zip(box.low, box.high, strict=True))))
    name, _, label = text.rpartition(":")
    has_label = bool(name) and label.isdecimal() and not is_there(folder / text)
    header = files.get(folder / (name if has_label else text))
    if not isinstance(header, Header):
        raise InputError(header)
    return header.corners
