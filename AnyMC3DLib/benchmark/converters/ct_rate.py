"""CT-RATE: chest CT with eighteen findings, read from reports by a model. The official valid is the test set here."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ...errors import InputError
from ...manifest import CASE, ONLY_IMAGE
from ...progress import Progress
from ...training.table import PATIENT, SPLIT
from ...volume import read_volume
from .common import (
    TEST,
    Converted,
    Order,
    add_once,
    check_layout,
    flag,
    matched,
    prefix_of,
    read_published,
    write_cases,
)

FINDINGS = (
    "Medical material",
    "Arterial wall calcification",
    "Cardiomegaly",
    "Pericardial effusion",
    "Coronary artery wall calcification",
    "Hiatal hernia",
    "Lymphadenopathy",
    "Emphysema",
    "Atelectasis",
    "Lung nodule",
    "Lung opacity",
    "Pulmonary fibrotic sequela",
    "Pleural effusion",
    "Mosaic attenuation pattern",
    "Peribronchial thickening",
    "Consolidation",
    "Bronchiectasis",
    "Interlobular septal thickening",
)
PARTS = ("train", "valid")
NAME, ENDING, LABELS = "VolumeName", ".nii.gz", "multi_abnormality_labels"
LAYOUT = (
    f"{LABELS}/PART_predicted_labels.csv and PART_fixed/PART_1/PART_1_a/PART_1_a_1{ENDING} (or PART for PART_fixed), "
    "PART being train and valid"
)
VOLUME_NAME = re.compile(r"(?P<patient>(?P<part>train|valid)_\d+)_(?P<scan>[A-Za-z]+)_(?P<number>\d+)\.nii\.gz")
LOOKED_AT = 3  # volumes of each part whose values are looked at
AIR = (-1200.0, -500.0)  # HU of air and lung
LEAST_AIR = 0.01  # of a chest's voxels


def convert(folder: Path, order: Order) -> Converted:
    """A case for each reconstruction, with its patient; `one_series` keeps the first, by number, of each scan.

    Raises InputError where a volume that is looked at is not in Hounsfield units.
    """
    root = folder if (folder / LABELS).is_dir() or not (folder / "dataset").is_dir() else folder / "dataset"
    check_layout(root, [f"{LABELS}/{part}_predicted_labels.csv" for part in PARTS], layout=LAYOUT)
    labels: dict[str, Mapping[str, str]] = {}
    for part in PARTS:
        _add_labels(labels, root / LABELS / f"{part}_predicted_labels.csv", part)
    places: dict[str, Path] = {}
    for part in PARTS:
        for place in sorted(_part_folder(root, part).glob(f"*/*/*{ENDING}")):
            add_once(places, place.name, place, where=f"the folder '{place.parent.relative_to(root).as_posix()}'")
    names, notes = matched(labels, places, looked_for=LAYOUT)
    if order.one_series:
        names = _first_reconstructions(names)
    notes += _look_at_values(names, places, order)
    prefix = prefix_of(root, order.table)
    rows = [
        {
            CASE: name.removesuffix(ENDING),
            PATIENT: _parts_of(name)["patient"],
            SPLIT: TEST if _parts_of(name)["part"] == "valid" else "",
            ONLY_IMAGE: f"{prefix}/{places[name].relative_to(root).as_posix()}",
            **labels[name],
        }
        for name in names
    ]
    return Converted(write_cases(rows, order, labels=FINDINGS, official_test=True), tuple(notes))


def _parts_of(name: str) -> Mapping[str, str]:
    found = VOLUME_NAME.fullmatch(name)
    return found.groupdict() if found else {}


def _part_folder(root: Path, part: str) -> Path:
    """The folder of the volumes; the later release, whose values are in HU, goes first."""
    fixed = root / f"{part}_fixed"
    return fixed if fixed.is_dir() else root / part


def _add_labels(found: dict[str, Mapping[str, str]], place: Path, part: str) -> None:
    for line, row in read_published(place, [NAME, *FINDINGS]).rows:
        where = f"line {line} of '{place.name}'"
        told = _parts_of(row[NAME]).get("part")
        if told is None:
            raise InputError(f"'{NAME}' in {where} must be like '{part}_1_a_1{ENDING}', but is '{row[NAME]}'.")
        if told != part:
            raise InputError(f"The case '{row[NAME]}' of '{told}' is in {where}, the table of '{part}': take it out.")
        add_once(found, row[NAME], {name: flag(row[name], name, where=where) for name in FINDINGS}, where=where)


def _first_reconstructions(names: list[str]) -> list[str]:
    first: dict[tuple[str, str], str] = {}
    for name in sorted(names, key=lambda name: int(_parts_of(name)["number"])):
        parts = _parts_of(name)
        first.setdefault((parts["patient"], parts["scan"]), name)
    kept = set(first.values())
    return [name for name in names if name in kept]


def _look_at_values(names: list[str], places: Mapping[str, Path], order: Order) -> list[str]:
    """What is strange about the values of a few volumes; raises InputError where they cannot be Hounsfield units."""
    chosen: list[str] = []
    for part in PARTS:
        own = [name for name in names if _parts_of(name)["part"] == part]
        chosen += [own[n] for n in sorted({round(n) for n in np.linspace(0, len(own) - 1, LOOKED_AT)})] if own else []
    notes = []
    for number, name in enumerate(chosen):
        notes += _strange_values(places[name])
        if order.progress is not None:
            order.progress(Progress("Looking at values", number + 1, len(chosen)))
    return notes


def _strange_values(place: Path) -> list[str]:
    array = read_volume(place).array
    # The first release holds stored values without slope and intercept, which a chest's air tells: it is never below 0.
    if array.min() >= 0:
        raise InputError(
            f"'{place.name}' has no value below 0, so it is not in Hounsfield units: take the release with "
            "'train_fixed' and 'valid_fixed', or apply RescaleSlope and RescaleIntercept of its metadata table to each "
            "volume."
        )
    if np.mean((array > AIR[0]) & (array < AIR[1])) < LEAST_AIR:
        return [f"'{place.name}' has hardly a value of air ({AIR[0]:g} to {AIR[1]:g} HU): see whether it is in HU."]
    return []
