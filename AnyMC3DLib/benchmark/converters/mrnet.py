"""MRNet: knee MRI as .npy files in three planes, with three findings. The official valid is the test set here.

The files hold no geometry: pixels, distances and directions are assumed as below, about those of a knee examination.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ...errors import InputError
from ...files import UNREADABLE_ARRAY, check_writable
from ...manifest import CASE
from ...progress import Progress
from ...training.table import SPLIT
from ...volume import Volume, write_volume
from .common import TEST, Converted, Order, add_once, check_layout, flag, matched, prefix_of, write_cases

PARTS = ("train", "valid")
FINDINGS = ("abnormal", "acl", "meniscus")
PIXEL_MM, SLICE_MM = 0.625, 4.0
# The directions of columns, rows and slices in RAS, as a radiologist is shown the plane.
PLANES: Mapping[str, tuple[tuple[int, int, int], ...]] = {
    "axial": ((-1, 0, 0), (0, -1, 0), (0, 0, 1)),
    "coronal": ((-1, 0, 0), (0, 0, -1), (0, -1, 0)),
    "sagittal": ((0, -1, 0), (0, 0, -1), (1, 0, 0)),
}
TABLES = tuple(f"{part}-{finding}.csv" for part in PARTS for finding in FINDINGS)
LAYOUT = (
    "PART/PLANE/0000.npy in the planes axial, coronal and sagittal and PART-FINDING.csv, PART being train and valid"
)
ASSUMED = (
    f"MRNet tells no geometry: {PIXEL_MM:g} mm a pixel, {SLICE_MM:g} mm a slice and the usual directions are assumed, "
    "so measures in mm and sides of the body are not to be relied on."
)
NO_PATIENTS = (
    "MRNet does not tell which examinations are of one patient: train and val may share some; the official valid, the "
    "test here, shares none with them."
)


def convert(folder: Path, order: Order) -> Converted:
    """A case for each examination with its three images, which are written to `order.images` as NRRD."""
    check_layout(folder, (*TABLES, *(f"{part}/{plane}" for part in PARTS for plane in PLANES)), layout=LAYOUT)
    images = _images_folder(order)
    labels: dict[str, dict[str, str]] = {}
    for part in PARTS:
        _add_part(labels, folder, part)
    places = _places(folder)
    cases, notes = matched(labels, places, looked_for="PART/PLANE/CASE.npy in each of three planes")
    for name in cases:
        for place in places[name].values():
            _read(place)  # all of them before the first is written
    prefix = prefix_of(images, order.table)
    rows = []
    for number, name in enumerate(cases):
        for plane, place in places[name].items():
            write_volume(images / f"{name}-{plane}.nrrd", _volume(_read(place), plane))
        rows.append({CASE: name, **labels[name], **{plane: f"{prefix}/{name}-{plane}.nrrd" for plane in PLANES}})
        if order.progress is not None:
            order.progress(Progress("Writing images", number + 1, len(cases)))
    count = write_cases(rows, order, labels=FINDINGS, official_test=True)
    return Converted(count, (*notes, ASSUMED, NO_PATIENTS))


def _images_folder(order: Order) -> Path:
    if order.images is None:
        raise InputError("MRNet's .npy files have to be written as NRRD: give --images with a folder for them.")
    if order.images.is_dir() and any(order.images.iterdir()) and not order.replace:
        raise InputError(f"The folder '{order.images}' holds files already: give another one, or ask to replace them.")
    check_writable(order.images / "0000-axial.nrrd")
    return order.images


def _add_part(found: dict[str, dict[str, str]], folder: Path, part: str) -> None:
    split = TEST if part == "valid" else ""
    tables = {finding: _labels(folder / f"{part}-{finding}.csv", finding) for finding in FINDINGS}
    first = tables[FINDINGS[0]]
    for finding, table in tables.items():
        odd = next(iter(sorted(set(first) ^ set(table))), None)
        if odd is not None:
            names = f"'{part}-{FINDINGS[0]}.csv' and '{part}-{finding}.csv'"
            raise InputError(f"The case '{odd}' is in one of {names} alone: give it a row in each, or take it out.")
    for name in first:
        if name in found:
            raise InputError(f"The case '{name}' is in both train and valid: take it out of the tables of one.")
        found[name] = {SPLIT: split, **{finding: table[name] for finding, table in tables.items()}}


def _labels(place: Path, finding: str) -> dict[str, str]:
    """The labels by case of a table of two columns without a header."""
    try:
        text = place.read_bytes().decode("utf-8-sig")
        lines = list(csv.reader(io.StringIO(text, newline=""), strict=True))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"The table '{place.name}' cannot be read as CSV in UTF-8: get it again.") from error
    found: dict[str, str] = {}
    for line, values in enumerate(lines, start=1):
        where = f"line {line} of '{place.name}'"
        if not values:
            continue
        if len(values) != 2:
            raise InputError(f"There must be a case and a label in {where}, but there are {len(values)} values.")
        add_once(found, values[0].strip(), flag(values[1].strip(), finding, where=where), where=where)
    if not found:
        raise InputError(f"The table '{place.name}' has no rows: get it again.")
    return found


def _places(folder: Path) -> dict[str, dict[str, Path]]:
    """The files by case and plane, of the cases that have all planes; raises InputError for a case in two parts."""
    found: dict[str, dict[str, Path]] = {}
    for part in PARTS:
        files = {plane: {place.stem: place for place in (folder / part / plane).glob("*.npy")} for plane in PLANES}
        for name in sorted(set.intersection(*(set(own) for own in files.values()))):
            if name in found:
                raise InputError(f"The case '{name}' has images in both train and valid: take those of one away.")
            found[name] = {plane: own[name] for plane, own in files.items()}
    return found


def _read(place: Path) -> npt.NDArray[np.uint8]:
    """The array [S, H, W], mapped from its file; raises InputError if it is no such array."""
    shown = f"{place.parent.parent.name}/{place.parent.name}/{place.name}"
    try:
        array = np.load(place, mmap_mode="r", allow_pickle=False)
    except UNREADABLE_ARRAY as error:
        told = "is damaged, or holds pickled objects, which are never read"
        raise InputError(f"'{shown}' {told}: get it again.") from error
    if not isinstance(array, np.ndarray) or array.ndim != 3 or array.dtype != np.uint8 or 0 in array.shape:
        raise InputError(f"'{shown}' is no array [slices, rows, columns] of uint8, as MRNet's are: get it again.")
    return array


def _volume(array: npt.NDArray[np.uint8], plane: str) -> Volume:
    """The slices with the assumed geometry, their middle at the origin, so that the planes meet."""
    affine = np.eye(4)
    affine[:3, :3] = np.array(PLANES[plane]).T * (PIXEL_MM, PIXEL_MM, SLICE_MM)
    affine[:3, 3] = -affine[:3, :3] @ ((np.array(array.shape[::-1]) - 1) / 2)
    return Volume(np.ascontiguousarray(array), affine)
