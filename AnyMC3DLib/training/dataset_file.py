"""The editable table of labelled cases as a file, and how its paths are told."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from ..errors import InputError
from ..files import write_text
from ..manifest import CASE, Table, csv_rows
from .dataset_columns import cleaned
from .table import parse_table

UNNAMED = "unnamed"
BOX = "box:"
LINE_OF_FIRST_ROW = 2
JSON_ENDINGS = (".json", ".jsonl", ".ndjson")


def read_cells(path: Path) -> Table:
    """The table as `table.parse_table` reads it, each cell on one line; it may have no row.

    A column without a name gets one. Raises InputError for a file that is no such table, and with its sentence for the
    first line that is malformed.
    """
    try:
        table, faults = parse_table(path)
    except InputError:
        table, faults = _header_alone(path), []
        if table is None:
            raise
    if faults:
        raise InputError(faults[0].sentence)
    names = {column: cleaned(column) or _new_name(table.columns) for column in table.columns}
    if len(set(names.values())) < len(names):
        raise InputError(f"The table '{path.name}' has columns that differ in line breaks alone: rename one.")
    rows = tuple((line, {names[column]: cleaned(text) for column, text in row.items()}) for line, row in table.rows)
    return Table(tuple(names.values()), rows)


def _header_alone(path: Path) -> Table | None:
    """A table whose cases were all taken out; None if this is none."""
    try:
        header, rows = csv_rows(path.read_bytes().decode("utf-8-sig"), path.name)
    except (OSError, ValueError, csv.Error):
        return None
    return Table(tuple(header), ()) if CASE in header and not rows else None


def _new_name(columns: Sequence[str]) -> str:
    names = (UNNAMED, *(f"{UNNAMED} {number}" for number in range(2, len(columns) + 2)))
    return next(name for name in names if name not in columns)


def write_cells(path: Path, columns: Sequence[str], rows: Sequence[Mapping[str, str]]) -> None:
    """Write the rows as CSV in UTF-8, atomically, each on a line of its own from line 2 on.

    Raises InputError if the file cannot be written or its name is that of JSON lines.
    """
    if path.suffix.lower() in JSON_ENDINGS:
        raise InputError(f"The table is written as CSV, but '{path.name}' is called JSON: give a name with '.csv'.")
    # A reader takes for the separator what the header holds most of, in the names of columns too.
    header = "".join(columns)
    stream = io.StringIO()
    writer = csv.writer(stream, delimiter=max(",;\t", key=header.count), lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([row.get(column, "") for column in columns] for row in rows)
    write_text(path, stream.getvalue())


def told_path(text: str, *, before: Path | None, now: Path) -> str:
    """A path of a table in the folder `before`, or a region with one, as a table in the folder `now` tells it.

    Relative, with slashes, where the file lies in the folder `now`, else absolute. As it is where it is relative and
    the table's folder stays, or is not known yet. Links are not followed. Both folders are absolute.
    """
    relative = not os.path.isabs(text)  # noqa: PTH117 - thousands of paths at once, as below
    if not text or text.startswith(BOX) or (relative and before in (None, now)):
        return text
    whole = os.path.normpath(os.path.join(before or now, text))  # noqa: PTH118
    inside = os.path.join(now, "")  # noqa: PTH118
    if os.path.normcase(whole).startswith(os.path.normcase(inside)):
        return whole[len(inside) :].replace(os.sep, "/")
    return whole.replace(os.sep, "/") if relative else text
