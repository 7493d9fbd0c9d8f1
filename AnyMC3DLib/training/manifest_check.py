"""Everything that is wrong with a table of labelled cases, found at once, before hours are spent on it."""

from __future__ import annotations

import dataclasses
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..manifest import Table
from ..progress import Progress, ProgressCallback
from ..spec import PluginSpec
from .manifest_headers import same_contents
from .manifest_rows import Headers, Problem, problem_of, problems_of
from .table import SPLITS, Columns, Row, columns_of, parse_table, rows_of, stray_masks


@dataclasses.dataclass(frozen=True)
class Report:
    """What a check found.

    `counts` are cases by split and class: split "" has none, and a multilabel case counts for each class it has.
    `totals` are the cases by split, whatever their labels.
    """

    problems: tuple[Problem, ...]
    counts: Mapping[str, Mapping[str, int]]
    totals: Mapping[str, int]

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON values."""
        return dataclasses.asdict(self)


def check_manifest(
    path: str | Path, spec: PluginSpec | None = None, *, progress: ProgressCallback | None = None
) -> Report:
    """Every problem of a table, in the order of its lines, for a plugin or without one; writes nothing.

    Images are read as far as `read_header` needs them; voxels, and so the labels that a mask holds, are not looked at.
    Raises InputError if the file as a whole is no table.
    """
    place = Path(path)
    table, faults = parse_table(place)
    columns = columns_of(table, spec)
    rows = rows_of(table, columns, folder=place.parent)
    files = Headers()
    problems = [Problem(fault.line, "", "line", fault.sentence) for fault in faults]
    problems += _of_columns(table, columns)
    for number, row in enumerate(rows):
        problems += problems_of(row, table, columns, files)
        if progress is not None:
            progress(Progress("Checking cases", number + 1, len(rows)))
    problems += [*_repeated_cases(rows), *_split_patients(rows), *_repeated_images(rows, files)]
    counts = _counts(rows, columns)
    problems += _absent_classes(rows, columns, counts)
    totals = Counter(row.split for row in rows if row.split in counts)
    return Report(tuple(sorted(problems, key=lambda problem: problem.line)), counts, dict(totals))


def _of_columns(table: Table, columns: Columns) -> Iterator[Problem]:
    if not table.columns:
        return
    has = ", ".join(table.columns)
    for column in (*columns.needed, *columns.regions.values()):
        if column not in table.columns:
            yield Problem(1, "", "missing column", f"Line 1: The table lacks the column '{column}': it has {has}.")
    for column in stray_masks(table, columns):
        images = ", ".join(f"'mask:{source}'" for source in columns.images)
        words = f"Line 1: The column '{column}' does not say which image it belongs to: call it one of {images}."
        yield Problem(1, "", "mask column", words)


def _repeated_cases(rows: Sequence[Row]) -> Iterator[Problem]:
    first: dict[str, Row] = {}
    for row in rows:
        # Upper and lower case are one to many disks.
        other = first.setdefault(row.case.casefold(), row)
        if row.case and other is not row:
            words = f"The case '{row.case}' is in line {other.line} already: give each row a name of its own."
            yield problem_of(row, "repeated case", words)


def _split_patients(rows: Sequence[Row]) -> Iterator[Problem]:
    first: defaultdict[str, dict[str, Row]] = defaultdict(dict)
    for row in rows:
        if not row.patient or row.split not in SPLITS:
            continue
        known = first[row.patient]
        if known and row.split not in known:
            other = next(iter(known.values()))
            words = (
                f"The patient is in '{row.split}' here and in '{other.split}' in line {other.line}: keep all cases of "
                "a patient in one split."
            )
            yield problem_of(row, "patient in two splits", words)
        known.setdefault(row.split, row)


def _repeated_images(rows: Sequence[Row], files: Headers) -> Iterator[Problem]:
    readable = [[place for place in row.images.values() if files.readable(place)] for row in rows]
    digests = same_contents([place for places in readable for place in places])
    seen: defaultdict[str, dict[Any, Row]] = defaultdict(dict)
    for row, places in zip(rows, readable, strict=True):
        own = {digests.get(place, str(place)) for place in places}
        earlier = sorted((other for content in own for other in seen[content].values()), key=lambda other: other.line)
        yield from _repeated_image(row, earlier)
        for content in own:
            seen[content].setdefault((row.split, frozenset(row.regions.items())), row)


def _repeated_image(row: Row, earlier: Sequence[Row]) -> Iterator[Problem]:
    """At most one problem, for one row of `earlier`, which share an image with this one."""
    leak = next((o for o in earlier if {o.split, row.split} <= set(SPLITS) and o.split != row.split), None)
    # Two regions of one image, the left and the right side, are two cases.
    twin = next((o for o in earlier if o.regions == row.regions), None)
    if leak is not None:
        words = (
            f"An image has the content of one in line {leak.line}, which leaks from '{leak.split}' to '{row.split}': "
            "take one of the rows out."
        )
        yield problem_of(row, "leak", words)
    elif twin is not None:
        words = f"An image has the content of one in line {twin.line}: take one of the rows out."
        yield problem_of(row, "repeated image", words)


def _classes_of(row: Row, columns: Columns) -> list[str]:
    if columns.multilabel:
        return [name for name, text in row.labels.items() if text == "1"]
    return [text for text in row.labels.values() if text in columns.classes]


def _counts(rows: Sequence[Row], columns: Columns) -> dict[str, dict[str, int]]:
    splits = {row.split for row in rows}
    counts = {split: dict.fromkeys(columns.classes, 0) for split in (*SPLITS, "") if split in splits}
    for row in rows:
        for name in _classes_of(row, columns):
            if row.split in counts:
                counts[row.split][name] += 1
    return counts


def _absent_classes(
    rows: Sequence[Row], columns: Columns, counts: Mapping[str, Mapping[str, int]]
) -> Iterator[Problem]:
    for split, by_class in counts.items():
        if not split and len(counts) > 1:
            continue  # rows that are left out of every split
        members = [row for row in rows if row.split == split]
        whose = f"the split '{split}', which begins here," if split else "the table"
        for name, count in by_class.items():
            absent = "case" if count == 0 else ""
            if columns.multilabel and count and not any(row.labels.get(name) == "0" for row in members):
                absent = "case without"
            if absent:
                words = f"Line {members[0].line}: In {whose} there is no {absent} of the class '{name}': add some."
                yield Problem(members[0].line, "", "absent class", words)
