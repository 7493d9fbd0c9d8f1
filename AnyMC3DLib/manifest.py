"""A table of studies: which case has which images, and where to look in them. Needs NumPy and SimpleITK alone."""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import io
import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from .errors import InputError
from .files import is_there
from .prediction import Study
from .regions import read_region
from .spec import PluginSpec
from .volume import read_volume

CASE, ONLY_IMAGE, REGION = "case", "image", "_region"
SAFE_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9 ._-]{0,98}[A-Za-z0-9_-])?")
# Windows takes these for devices, whatever ending follows.
DEVICES = frozenset(("CON", "PRN", "AUX", "NUL", *(f"{port}{n}" for port in ("COM", "LPT") for n in range(10))))
# The header is in one file and the voxels are in another of the same name.
IN_TWO_FILES = (".nhdr", ".mhd", ".hdr", ".img")


@dataclasses.dataclass(frozen=True)
class CohortCase:
    """A study that is read when it is needed: files by the name of their source, and regions in words.

    `id` names the files of its results: it holds ASCII letters, digits, spaces, `.`, `-` and `_` alone. Regions are
    as in `regions.read_region`; their files are relative to `folder`. Raises InputError for an unsafe `id`.
    """

    id: str
    images: Mapping[str, Path]
    regions: Mapping[str, str] = dataclasses.field(default_factory=dict)
    folder: Path = Path()

    def __post_init__(self) -> None:
        if not SAFE_NAME.fullmatch(self.id) or self.id.partition(".")[0].strip().upper() in DEVICES:
            shown = self.id if len(self.id) <= 60 else f"{self.id[:57]}..."
            raise InputError(
                f"The case {shown!r} cannot name a file: use 1 to 100 letters (a to z), digits, '.', '-' and '_', with "
                "a letter or digit first."
            )

    def load(self) -> Study:
        """Read the files; raises InputError if one of them cannot be read."""
        return load_study(self.images, self.regions, folder=self.folder)

    def inputs(self) -> str:
        """A digest of where the files lie as the table says it, of their sizes and their times."""
        images = {source: [self._told(path), _stamps(path)] for source, path in self.images.items()}
        regions = {
            source: [text, *(_stamps(path) for path in region_files(text, self.folder))]
            for source, text in self.regions.items()
        }
        text = json.dumps([images, regions], sort_keys=True)
        return "sha256:" + hashlib.sha256(text.encode()).hexdigest()

    def without_files(self, sentence: str) -> str:
        """The sentence with the names of sources in the place of those of files, which may hold a patient's."""
        return without_files(sentence, images=self.images, regions=self.regions, folder=self.folder)

    def _told(self, path: Path) -> str:
        return (path.relative_to(self.folder) if path.is_relative_to(self.folder) else path).as_posix()


@dataclasses.dataclass(frozen=True)
class Table:
    """A CSV file: its columns, and for each row that is not empty the number of its line and its values by column."""

    columns: tuple[str, ...]
    rows: tuple[tuple[int, dict[str, str]], ...]


def read_manifest(path: str | Path, plugins: Sequence[PluginSpec]) -> list[CohortCase]:
    """The cases of a CSV table in its order.

    Its columns are `case`, one for each image of the plugins (or `image`, where they take one alone), and
    IMAGE_region for a region to look at; others are ignored. Paths are relative to the table's folder. Raises
    InputError if the table cannot be used; a file that is missing is found when its case is loaded.
    """
    place = Path(path)
    table = read_table(place)
    images = image_columns(table, plugins)
    regions = region_columns(images, plugins)
    check_columns(table, [CASE, *images.values()], name=place.name)
    cases = []
    for line, row in table.rows:
        if not row[CASE]:
            raise InputError(f"The column '{CASE}' is empty in line {line} of '{place.name}': fill it in.")
        cases.append(
            CohortCase(
                row[CASE],
                {source: place.parent / row[column] for source, column in images.items() if row[column]},
                {source: row[column] for source, column in regions.items() if row.get(column)},
                place.parent,
            )
        )
    check_cases(cases)
    return cases


def check_cases(cases: Sequence[CohortCase]) -> None:
    """Raise InputError if there is no case, or two have one name; upper and lower case are one to many disks."""
    if not cases:
        raise InputError("There is no case to classify: give a table with at least one row.")
    seen: dict[str, str] = {}
    for case in cases:
        other = seen.setdefault(case.id.casefold(), case.id)
        if other != case.id:
            raise InputError(f"The cases '{other}' and '{case.id}' differ in upper and lower case alone: rename one.")
    if len(seen) < len(cases):
        counts = [case.id for case in cases]
        twice = next(name for name in counts if counts.count(name) > 1)
        raise InputError(f"The case '{twice}' comes twice in the table: give each row its own name.")


def read_table(path: str | Path) -> Table:
    """Read a CSV file with a header, in UTF-8, its values parted by commas, semicolons or tabs.

    Values lose the spaces around them; a row that ends early has empty values. Raises InputError with one sentence if
    it is not such a file.
    """
    place = Path(path)
    if not place.is_file():
        raise InputError(f"There is no table '{place}': give a CSV file.")
    try:
        text = place.read_bytes().decode("utf-8-sig")
        header, rows = csv_rows(text, place.name)
    except UnicodeDecodeError as error:
        raise InputError(f"The table '{place.name}' is not text in UTF-8: save it as 'CSV UTF-8'.") from error
    except (OSError, csv.Error) as error:
        raise InputError(f"The table '{place.name}' cannot be read: {error}.") from error
    return _with_header(header, rows, place.name)


def csv_rows(text: str, name: str) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """The header and the rows of a CSV with their lines, from 1; blank lines are left out, values as they are written.

    Raises InputError for a column that is named twice, and csv.Error for what is no CSV.
    """
    delimiter = max(",;\t", key=text.partition("\n")[0].count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    lines = [(reader.line_num, [value.strip() for value in row]) for row in reader]
    (_, header), *rows = [(line, values) for line, values in lines if any(values)] or [(0, [])]
    while header and not header[-1]:
        header.pop()
    twice = next((column for column in header if column and header.count(column) > 1), None)
    if twice is not None:
        raise InputError(f"The table '{name}' names the column '{twice}' twice: rename one.")
    return header, rows


def _with_header(header: list[str], rows: list[tuple[int, list[str]]], name: str) -> Table:
    if not rows:
        raise InputError(f"The table '{name}' has no rows: give a CSV with a header and a row for each case.")
    for number, values in rows:
        if any(values[len(header) :]):
            raise InputError(
                f"Line {number} of '{name}' has {len(values)} values for {len(header)} columns: put a value that holds "
                "the separator in double quotes."
            )
        values += [""] * (len(header) - len(values))
    return Table(tuple(header), tuple((number, dict(zip(header, values, strict=False))) for number, values in rows))


def image_columns(table: Table, plugins: Sequence[PluginSpec]) -> dict[str, str]:
    """The column of each image by its source: `image` too, where the plugins take one alone."""
    sources = list(dict.fromkeys(source for plugin in plugins for source in plugin.sources))
    if len(sources) == 1 and sources[0] not in table.columns and ONLY_IMAGE in table.columns:
        return {sources[0]: ONLY_IMAGE}
    return {source: source for source in sources}


def region_columns(images: Mapping[str, str], plugins: Sequence[PluginSpec]) -> dict[str, str]:
    """For the sources at whose region a plugin looks, the column that may tell it; `images` are their own columns."""
    looked_at = {
        view.source for plugin in plugins for view in plugin.views if view.preprocessing.region.comes_with_study
    }
    return {source: f"{column}{REGION}" for source, column in images.items() if source in looked_at}


def check_columns(table: Table, wanted: Iterable[str], *, name: str) -> None:
    """Raise InputError unless the table, which is called `name`, has the columns."""
    for column in wanted:
        if column not in table.columns:
            has = ", ".join(table.columns)
            raise InputError(f"The table '{name}' lacks the column '{column}': it has {has}.")


def load_study(images: Mapping[str, Path], regions: Mapping[str, str], *, folder: Path) -> Study:
    """Read the files of a study by source, and its regions in words; raises InputError if one cannot be read."""
    return Study(
        {source: read_volume(path) for source, path in images.items()},
        {source: read_region(text, folder=folder) for source, text in regions.items()},
    )


def without_files(
    sentence: str, *, images: Mapping[str, Path], regions: Mapping[str, str], folder: Path = Path()
) -> str:
    """The sentence with the names of sources in the place of those of files, which may hold a patient's.

    `images` are files or DICOM folders by source, `regions` words by source, whose files are relative to `folder`.
    """
    named = {path: source for source, path in images.items()}
    for source, text in regions.items():
        named.update(dict.fromkeys(region_files(text, folder), f"{source}{REGION}"))
    for path, name in named.items():
        sentence = sentence.replace(f"'{path}'", f"'{name}'").replace(f"'{path.name}'", f"'{name}'")
        for inner, _, _ in _stamps(path) if path.is_dir() else ():
            sentence = sentence.replace(f"'{path / inner}'", f"'a slice of {name}'")
            sentence = sentence.replace(f"'{inner}'", f"'a slice of {name}'")
    return sentence


def region_files(text: str, folder: Path) -> list[Path]:
    """The file that a region in words names, if it is there."""
    names = () if text.startswith("box:") else (text, text.rpartition(":")[0])
    return [folder / name for name in names if name and is_there(folder / name)][:1]


def _stamps(path: Path) -> list[tuple[str, int, int]]:
    """Name, size and time of a file, or of each file in a folder."""
    try:
        if path.is_dir():
            files = [Path(entry.path) for entry in os.scandir(path) if entry.is_file()]
        elif path.suffix.lower() in IN_TWO_FILES:
            files = [other for other in path.parent.iterdir() if other.name.startswith(f"{path.stem}.")]
        else:
            files = [path]
        told = [(file.name, file.stat()) for file in sorted(files)]
    except OSError:
        return []
    return [(name, status.st_size, status.st_mtime_ns) for name, status in told]
