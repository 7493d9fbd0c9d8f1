"""Tables of cases: how they are written, and what is wrong in them."""

from __future__ import annotations

import csv
import functools
import io
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hypothesis import strategies as st
from networks import plugin_spec

from AnyMC3DLib.errors import AnyMC3DError, InputError
from AnyMC3DLib.manifest import read_manifest, read_table
from AnyMC3DLib.spec import PluginSpec
from AnyMC3DLib.training.cases import read_cases
from AnyMC3DLib.training.dataset_file import read_cells, write_cells
from AnyMC3DLib.training.manifest_check import check_manifest
from AnyMC3DLib.training.outcome import read_predictions
from AnyMC3DLib.training.table import parse_table

from .bench import backbone, watched
from .fault import Fault, Outcome, refused

GROUP = "tables"
TABLE = "table.csv"
HEADER = ["case", "patient", "split", "label", "image", "weight"]
SPLITS, LABELS = ("train", "val", "test"), ("normal", "lesion")
WEIGHTS = ("heavy", "nan", "inf", "-1", "0", "1,5", "1e999")
Rows = list[list[str]]

# What people and programs put into cells; the image and the patient may hold any of it.
CELLS = st.one_of(
    st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=12),
    st.sampled_from(["=1+1", "@x", "a,b", "a;b", "a\tb", 'say "x"', "two\nlines", "C:\\images\\1.nii", "\\\\server\\x",
                     "../../up.nii", "/etc/passwd", "Müller", "Mu\u0308ller", "\u202eabc", "\U0001f9e0", "-x", "a\0b",
                     "NUL.nii", "x" * 300]),
)  # fmt: skip


@functools.cache
def spec() -> PluginSpec:
    """The plugin that the tables are for."""
    return plugin_spec(backbone())


@st.composite
def _rows(draw: st.DrawFn) -> Rows:
    """Good rows with odd patients and odd names of images."""
    count = draw(st.integers(2, 5))
    return [
        [f"case {n}", draw(CELLS), draw(st.sampled_from(SPLITS)), draw(st.sampled_from(LABELS)),
         draw(CELLS.filter(str.strip)), draw(st.sampled_from(["", "1", "0.5", "2e-3"]))]
        for n in range(count)
    ]  # fmt: skip


def _written(rows: Rows, *, delimiter: str = ",", ending: str = "\n", quoting: Any = csv.QUOTE_MINIMAL) -> str:
    stream = io.StringIO()
    csv.writer(stream, delimiter=delimiter, lineterminator=ending, quoting=quoting).writerows(rows)
    return stream.getvalue()


def _table(folder: Path, content: bytes) -> Path:
    place = folder / TABLE
    place.write_bytes(content)
    return place


def _style(case: tuple[Rows, str, str, str, Any, str], folder: Path) -> Outcome:
    """However the rows are written, they are read as they were meant, or the encoding is refused."""
    rows, encoding, delimiter, ending, quoting, blank = case
    text = _written([HEADER, *rows], delimiter=delimiter, ending=ending, quoting=quoting)
    text += 2 * blank.replace(",", delimiter)
    with watched(folder) as inside:
        place = _table(inside, text.encode(encoding, "replace"))
        readable = encoding.startswith("utf-8") or (text.isascii() and encoding == "latin-1")
        # Of letters that are blank nothing is left.
        readable = readable and all(cell.strip() for row in rows for cell in (row[0], *row[2:5]))
        try:
            cases = read_cases(place, spec())
        except AnyMC3DError as error:
            assert not readable, str(error)
            return refused(error, names=(TABLE,), private=(str(inside),))
        # What an encoding lacks was written as a question mark.
        rows = [[cell.encode(encoding, "replace").decode(encoding).strip() for cell in row] for row in rows]
        assert [c.id for c in cases] == [row[0] for row in rows]
        assert [c.patient for c in cases] == [row[1] for row in rows]
        assert [c.split for c in cases] == [row[2] for row in rows]
        assert [LABELS[int(c.target)] for c in cases] == [row[3] for row in rows]
        assert [c.weight for c in cases] == [float(row[5] or 1) for row in rows]
        studies = read_manifest(place, [spec()])
        assert [c.images["image"] for c in studies] == [inside / row[4] for row in rows]
        check_manifest(place, spec())
    return Outcome.WORKED


STYLES = st.tuples(
    _rows(), st.sampled_from(["utf-8", "utf-8-sig", "utf-8", "latin-1", "utf-16", "utf-32"]), st.sampled_from(",;\t"),
    st.sampled_from(["\n", "\r\n"]), st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
    st.sampled_from(["", "\n", ",,,\n", "  \n"]),
)  # fmt: skip


def _wrong(case: tuple[Rows, str, int], folder: Path) -> Outcome:
    """A mistake in a good table is found by the check, and refused where it would make another training."""
    rows, kind, number = case
    plain = [[row[0], f"p{n}", *row[2:4], f"{n}.nii", row[5]] for n, row in enumerate(rows)]
    first, other = plain[number % len(plain)], plain[(number + 1) % len(plain)]
    header, text = list(HEADER), None
    changes: dict[str, Callable[[], Any]] = {
        "an unknown label": lambda: first.__setitem__(3, "Lesion "[:number % 3 + 4]),
        "no label": lambda: first.__setitem__(3, ""),
        "a case twice": lambda: first.__setitem__(0, other[0]),
        "no case": lambda: first.__setitem__(0, ""),
        "no image": lambda: first.__setitem__(4, ""),
        "an unknown split": lambda: first.__setitem__(2, "training"),
        "a weight of words": lambda: first.__setitem__(5, WEIGHTS[number % len(WEIGHTS)]),
        "more values": lambda: first.append("more"),
        "a column twice": lambda: header.__setitem__(number % 6, header[(number + 1) % 6]),
        "no column": lambda: header.__setitem__(0, "Case"),
    }  # fmt: skip
    if kind == "a patient in two splits":
        first[1:3], other[1:3] = ["same", "train"], ["same", "test"]
    elif kind == "an open quote":
        text = _written([header, *plain]).rstrip("\n") + '\n"open'
    elif kind == "a huge cell":
        first[4] = "x" * 140_000
    else:
        changes[kind]()
    with watched(folder) as inside:
        good = _table(inside, _written([HEADER, *[row[:6] for row in _good(rows)]]).encode())
        before = Counter(problem.kind for problem in check_manifest(good, spec()).problems)
        place = _table(inside, (text or _written([header, *plain])).encode())
        try:
            after = check_manifest(place, spec()).problems
        except AnyMC3DError as error:
            refused(error, private=(str(inside),))
        else:
            assert Counter(problem.kind for problem in after) - before, f"{kind} was not found"
            for problem in after:
                refused(InputError(problem.sentence))
        if kind == "a patient in two splits":
            return Outcome.REFUSED
        try:
            read_cases(place, spec())
        except AnyMC3DError as error:
            return refused(error, names=(TABLE,), private=(str(inside),))
    raise AssertionError(f"{kind} was taken")


def _good(rows: Rows) -> Rows:
    return [[row[0], f"p{n}", *row[2:4], f"{n}.nii", row[5]] for n, row in enumerate(rows)]


MISTAKES = ("an unknown label", "no label", "a case twice", "no case", "no image", "an unknown split",
            "a weight of words", "more values", "a column twice", "no column", "a patient in two splits",
            "an open quote", "a huge cell")  # fmt: skip


def _noise(content: bytes, folder: Path) -> Outcome:
    """Bytes of any kind are refused by every reader of tables, or read as Python's own reader reads them."""
    outcome = Outcome.REFUSED
    with watched(folder) as inside:
        place = _table(inside, content)
        readers: list[Callable[[], Any]] = [
            lambda: read_cases(place, spec()), lambda: read_manifest(place, [spec()]), lambda: read_cells(place),
            lambda: check_manifest(place, spec()), lambda: check_manifest(place), lambda: read_table(place),
            lambda: read_predictions(place, spec()),
        ]  # fmt: skip
        for read in readers:
            try:
                read()
                outcome = Outcome.WORKED
            except AnyMC3DError as error:
                refused(error, private=(str(inside),))
        try:
            table, faults = parse_table(place)
        except AnyMC3DError as error:
            return refused(error, private=(str(inside),))
        if not content.decode("utf-8-sig").lstrip().startswith("{") and not faults:
            cells = [[c.strip() for c in row if c.strip()] for row in _by_python(content, len(table.columns))]
            found = [[cell for cell in row.values() if cell] for _, row in table.rows]
            assert found == [row for row in cells if row][1:], "cells were changed"
    return outcome


def _by_python(content: bytes, columns: int) -> Rows:
    text = content.decode("utf-8-sig")
    for delimiter in ",;\t":
        rows = [
            row for row in csv.reader(io.StringIO(text, newline=""), delimiter=delimiter) if any(map(str.strip, row))
        ]
        named = [place for place, cell in enumerate(rows[0], start=1) if cell.strip()] if rows else []
        # A column may lack its name, but not the last one.
        if max(named, default=0) == columns:
            return rows
    return rows


def _flipped(case: tuple[Rows, list[tuple[float, int]]], folder: Path) -> Outcome:
    rows, places = case
    changed = bytearray(_written([HEADER, *_good(rows)]).encode())
    for share, bit in places:
        changed[int(share * (len(changed) - 1))] ^= 1 << bit
    return _noise(bytes(changed), folder)


def _kept(case: tuple[Rows, list[str]], folder: Path) -> Outcome:
    """What the dataset's editor writes, its reader reads, whatever the cells hold."""
    rows, extra = case
    columns = [*HEADER, *dict.fromkeys(name for name in extra if name.strip() == name and name not in HEADER)]
    cells = [{name: " ".join(text.split()) for name, text in zip(columns, row, strict=False)} for row in rows]
    cells = [{name: text.replace("\0", "") for name, text in row.items()} for row in cells]
    with watched(folder) as inside:
        try:
            write_cells(inside / TABLE, columns, cells)
            read = read_cells(inside / TABLE)
        except AnyMC3DError as error:
            return refused(error, private=(str(inside),))
        assert [{k: v for k, v in row.items() if v} for _, row in read.rows] == [
            {k: v for k, v in row.items() if v} for row in cells
        ]
    return Outcome.WORKED


NOISE = st.binary(max_size=120) | st.text(st.sampled_from('case,image;\t"\n\r\0 x\ufeff{}:1'), max_size=60).map(
    str.encode
)
NAMES = st.lists(
    st.text(st.characters(exclude_categories=["Cs", "Cc", "Zs", "Zl", "Zp"]), min_size=1, max_size=8), max_size=3
)
PLACES = st.lists(st.tuples(st.floats(0, 1), st.integers(0, 7)), min_size=1, max_size=3)

FAULTS = [
    Fault(group=GROUP, name="other encodings, separators, quotes, line ends; formulas, foreign paths, odd letters",
          cases=STYLES, judge=_style, quick=20),
    Fault(group=GROUP, name="unknown labels, cases twice, columns twice, a patient in two splits, huge cells", quick=26,
          cases=st.tuples(_rows(), st.sampled_from(MISTAKES), st.integers(0, 99)), judge=_wrong, full=300),
    Fault(group=GROUP, name="bits flipped", cases=st.tuples(_rows(), PLACES), judge=_flipped, quick=12),
    Fault(group=GROUP, name="bytes of any kind", cases=NOISE, judge=_noise, quick=20, full=300),
    Fault(group=GROUP, name="what the editor of datasets writes is read again", cases=st.tuples(_rows(), NAMES),
          judge=_kept, quick=12),
]  # fmt: skip
