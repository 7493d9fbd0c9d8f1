"""The table of labelled cases, CSV or JSON lines, as rows of text: nothing that a row names is read here."""

from __future__ import annotations

import csv
import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..manifest import CASE, ONLY_IMAGE, REGION, Table, check_columns, csv_rows, image_columns, region_columns
from ..spec import PluginSpec

PATIENT, LABEL, MASK, SPLIT, WEIGHT = "patient", "label", "mask", "split", "weight"
MASK_OF = f"{MASK}:"
SPLITS = ("train", "val", "test")
# What a file is called that can be an image; a DICOM series is a folder.
VOLUME_ENDINGS = (".nii", ".nii.gz", ".nrrd", ".nhdr", ".mha", ".mhd", ".hdr", ".dcm")
IMAGE_ENDINGS = (*VOLUME_ENDINGS, ".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")
LARGEST_TABLE = 1 << 30  # bytes; past it the file cannot be meant as a table


@dataclasses.dataclass(frozen=True)
class Fault:
    """What is wrong with how a line is written, in one sentence."""

    line: int
    sentence: str


@dataclasses.dataclass(frozen=True)
class Columns:
    """Which column of a table holds what: by the source of the image for `images`, `regions` and `masks`.

    `labels` are the columns of the labels: `label` alone, or one for each class of a multilabel task. `classes` are
    the names in the order of the task, or of the alphabet where no task is given. `regions_needed` says whether each
    case must have its regions.
    """

    images: Mapping[str, str]
    regions: Mapping[str, str]
    masks: Mapping[str, str]
    labels: tuple[str, ...]
    classes: tuple[str, ...]
    multilabel: bool
    regions_needed: bool

    @property
    def needed(self) -> tuple[str, ...]:
        """The columns that a table must have."""
        return (CASE, *self.images.values(), *self.labels)


@dataclasses.dataclass(frozen=True)
class Row:
    """A row as it is written, none of it checked; what is empty is "", or absent where there is a mapping.

    `images` and `masks` are paths by source, `regions` are words by source (see `regions.read_region`), `labels` are
    texts by column. `folder` is the table's, to which paths are relative.
    """

    line: int
    case: str
    patient: str
    images: Mapping[str, Path]
    regions: Mapping[str, str]
    masks: Mapping[str, Path]
    labels: Mapping[str, str]
    split: str
    weight: str
    folder: Path

    @property
    def person(self) -> str:
        """The patient, or the case where the table tells no patient."""
        return self.patient or self.case


def read_rows(path: str | Path, spec: PluginSpec) -> list[Row]:
    """The rows of a table for a plugin, in its order.

    Raises InputError if the file is no such table, a line is malformed or a column is missing; values are not checked.
    """
    place = Path(path)
    table, faults = parse_table(place)
    if faults:
        line = f"Line {faults[0].line} "
        raise InputError(faults[0].sentence.replace(line, f"{line}of '{place.name}' ", 1))
    columns = columns_of(table, spec)
    check_columns(table, columns.needed, name=place.name)
    return rows_of(table, columns, folder=place.parent)


def parse_table(path: str | Path) -> tuple[Table, list[Fault]]:
    """The table, and the lines that are left out of it because they are malformed.

    JSON lines are told from CSV by their first character, an opening brace; true is 1, false is 0 and null is empty.
    CSV is as in `manifest.read_table`. The number of a row is that of its line, from 1. Raises InputError with one
    sentence if the file as a whole cannot be read: not there, not text, no rows, a column named twice.
    """
    place = Path(path)
    if not place.is_file():
        raise InputError(f"There is no table '{place}': give a CSV or JSON lines file.")
    try:
        if place.stat().st_size > LARGEST_TABLE:
            raise InputError(f"The table '{place.name}' has more than a gigabyte: give a CSV or JSON lines file.")
        text = place.read_bytes().decode("utf-8-sig")
        parsed = _of_json(text) if text.lstrip().startswith("{") else _of_csv(text, place.name)
    except UnicodeDecodeError as error:
        raise InputError(f"The table '{place.name}' is not text in UTF-8: save it as 'CSV UTF-8'.") from error
    except (OSError, csv.Error) as error:
        raise InputError(f"The table '{place.name}' cannot be read: {error}.") from error
    if not parsed[0].rows and not parsed[1]:
        raise InputError(f"The table '{place.name}' has no rows: give a header and a row for each case.")
    return parsed


def _of_csv(text: str, name: str) -> tuple[Table, list[Fault]]:
    header, rows = csv_rows(text, name)
    good, faults = [], []
    for line, values in rows:
        if any(values[len(header) :]):
            told = f"Line {line} has {len(values)} values for {len(header)} columns"
            faults.append(Fault(line, f"{told}: put a value that holds the separator in double quotes."))
        else:
            padded = values + [""] * (len(header) - len(values))
            good.append((line, dict(zip(header, padded, strict=False))))
    return Table(tuple(header), tuple(good)), faults


def _of_json(text: str) -> tuple[Table, list[Fault]]:
    records: list[tuple[int, dict[str, str]]] = []
    faults = []
    for line, written in enumerate(text.split("\n"), start=1):
        if not written.strip():
            continue
        try:
            records.append((line, _record(json.loads(written))))
        except (ValueError, RecursionError):
            faults.append(Fault(line, f"Line {line} is not one JSON object of texts and numbers: correct it."))
    columns = tuple(dict.fromkeys(name for _, record in records for name in record))
    rows = tuple((line, {name: record.get(name, "") for name in columns}) for line, record in records)
    return Table(columns, rows), faults


def _record(value: Any) -> dict[str, str]:
    if not isinstance(value, dict):
        raise ValueError("not an object")
    return {name.strip(): _text(item) for name, item in value.items()}


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(int(value))
    if isinstance(value, (list, dict)):
        raise ValueError("neither a text nor a number")
    # A column of whole numbers with a gap is written with decimals by data frames.
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value).strip()


def columns_of(table: Table, spec: PluginSpec | None) -> Columns:
    """Which columns a plugin takes; without one, what the table's own names and values tell.

    Then images are the column `image` and those that hold names of image files, and without a column `label` each
    column of 0 and 1 (for the greater part) is a class of a multilabel task.
    """
    if spec is None:
        return _guessed(table)
    images = image_columns(table, [spec])
    names = tuple(c.name for c in spec.classes)
    multilabel = spec.task_type == "multilabel"
    return Columns(
        images,
        region_columns(images, [spec]),
        mask_columns(table, images),
        names if multilabel else (LABEL,),
        names,
        multilabel,
        True,
    )


def mask_columns(table: Table, images: Mapping[str, str]) -> dict[str, str]:
    """A column of the mask by source; `mask` alone says enough where there is one image."""
    named = {source: f"{MASK_OF}{source}" for source in images if f"{MASK_OF}{source}" in table.columns}
    return {source: MASK for source in images if len(images) == 1 and MASK in table.columns} | named


def _guessed(table: Table) -> Columns:
    known = {CASE, PATIENT, LABEL, MASK, SPLIT, WEIGHT, ONLY_IMAGE, ""}
    free = [c for c in table.columns if c not in known and not c.startswith(MASK_OF) and not c.endswith(REGION)]
    values = {column: [row[column] for _, row in table.rows if row[column]] for column in (*free, LABEL)
              if column in table.columns}  # fmt: skip
    files = [c for c in free if any(value.lower().endswith(IMAGE_ENDINGS) for value in values[c])]
    if ONLY_IMAGE in table.columns or not files:
        files.insert(0, ONLY_IMAGE)
    images = {column: column for column in files}
    regions = {column: f"{column}{REGION}" for column in files if f"{column}{REGION}" in table.columns}
    flags = [c for c in free if c not in files and 2 * sum(v in ("0", "1") for v in values[c]) > len(values[c])]
    multilabel = LABEL not in table.columns and bool(flags)
    labels = tuple(flags) if multilabel else (LABEL,)
    classes = labels if multilabel else tuple(sorted(set(values.get(LABEL, ()))))
    return Columns(images, regions, mask_columns(table, images), labels, classes, multilabel, False)


def rows_of(table: Table, columns: Columns, *, folder: Path) -> list[Row]:
    """The table's rows with their values in their places; what lacks its column is empty."""

    def filled(row: Mapping[str, str], names: Mapping[str, str]) -> dict[str, str]:
        return {source: row[column] for source, column in names.items() if row.get(column)}

    def paths(row: Mapping[str, str], names: Mapping[str, str]) -> dict[str, Path]:
        return {source: folder / name for source, name in filled(row, names).items()}

    return [
        Row(
            line,
            row.get(CASE, ""),
            row.get(PATIENT, ""),
            paths(row, columns.images),
            filled(row, columns.regions),
            paths(row, columns.masks),
            {column: row[column] for column in columns.labels if row.get(column)},
            row.get(SPLIT, ""),
            row.get(WEIGHT, ""),
            folder,
        )
        for line, row in table.rows
    ]


def stray_masks(table: Table, columns: Columns) -> Sequence[str]:
    """The columns of masks that belong to no image."""
    named = [c for c in table.columns if c == MASK or c.startswith(MASK_OF)]
    return [column for column in named if column not in columns.masks.values()]
