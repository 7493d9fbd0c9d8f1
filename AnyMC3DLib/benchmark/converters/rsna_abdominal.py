"""RSNA 2023 Abdominal Trauma Detection, as Kaggle publishes it: one task for each organ.

The labels of the official test set are not public, so all three splits are made from the training patients.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

from ...errors import InputError
from ...manifest import CASE, ONLY_IMAGE
from ...training.table import LABEL, PATIENT
from .common import (
    Converted,
    Order,
    add_once,
    check_layout,
    flag,
    left_out,
    matched,
    prefix_of,
    read_published,
    write_cases,
)

LABELS, SERIES, IMAGES = "train.csv", "train_series_meta.csv", "train_images"
LAYOUT = f"{LABELS}, {SERIES} and {IMAGES}/PATIENT/SERIES/*.dcm"
TASK_PREFIX = "RSNA2023-"
GRADES, EITHER = ("healthy", "low", "high"), ("healthy", "injury")
ORGANS = {"bowel": EITHER, "extravasation": EITHER, "kidney": GRADES, "liver": GRADES, "spleen": GRADES}
PATIENT_ID, SERIES_ID, AORTIC_HU, INCOMPLETE = "patient_id", "series_id", "aortic_hu", "incomplete_organ"

Scan = tuple[str, Mapping[str, str]]  # the patient, and the series' own row


def convert(folder: Path, order: Order) -> Converted:
    """A case for each series, named PATIENT_SERIES; `one_series` keeps a patient's one of the highest aortic HU."""
    organ = _organ_of(order.task)
    check_layout(folder, (LABELS, SERIES, IMAGES), layout=LAYOUT)
    labels = _labels(folder / LABELS, organ)
    scans = _scans(folder / SERIES)
    images = folder / IMAGES
    there = {f"{patient.name}_{series.name}": series for patient in _folders(images) for series in _folders(patient)
             if any(series.glob("*.dcm"))}  # fmt: skip
    labelled = {name: scan for name, scan in scans.items() if scan[0] in labels}
    cases, notes = matched(labelled, there, looked_for=f"{IMAGES}/PATIENT/SERIES/*.dcm")
    unseen = sorted(set(labels) - {patient for patient, _ in scans.values()})
    notes += left_out(unseen, f"patients of {LABELS} that {SERIES} does not have")
    if order.one_series:
        cases = _strongest(cases, labelled)
    prefix = prefix_of(images, order.table)
    rows = []
    for name in cases:
        patient, told = labelled[name]
        image = f"{prefix}/{patient}/{told[SERIES_ID]}"
        rows.append({CASE: name, PATIENT: patient, LABEL: labels[patient], ONLY_IMAGE: image,
                     INCOMPLETE: told[INCOMPLETE], AORTIC_HU: told[AORTIC_HU]})  # fmt: skip
    return Converted(write_cases(rows, order), tuple(notes))


def _organ_of(task: str) -> str:
    organ = Path(task).name.removesuffix(".json").removeprefix(TASK_PREFIX)
    if organ not in ORGANS:
        names = ", ".join(f"{TASK_PREFIX}{name}" for name in ORGANS)
        told = f"but is '{task}'" if task else "but none is given"
        raise InputError(f"The task must say which organ is meant, {told}: give --task with one of {names}.")
    return organ


def _labels(place: Path, organ: str) -> dict[str, str]:
    """The organ's label by patient."""
    columns = [f"{organ}_{grade}" for grade in ORGANS[organ]]
    found: dict[str, str] = {}
    for line, row in read_published(place, [PATIENT_ID, *columns]).rows:
        where = f"line {line} of '{place.name}'"
        chosen = [grade for grade, column in zip(ORGANS[organ], columns, strict=True)
                  if flag(row[column], column, where=where) == "1"]  # fmt: skip
        if len(chosen) != 1:
            told = ", ".join(columns)
            raise InputError(f"Of {told} exactly one must be 1 in {where}, but {len(chosen)} are: correct the row.")
        add_once(found, row[PATIENT_ID], chosen[0], where=where)
    return found


def _scans(place: Path) -> dict[str, Scan]:
    found: dict[str, Scan] = {}
    for line, row in read_published(place, [PATIENT_ID, SERIES_ID, AORTIC_HU, INCOMPLETE]).rows:
        where = f"line {line} of '{place.name}'"
        if not _is_number(row[AORTIC_HU]):
            raise InputError(f"'{AORTIC_HU}' in {where} must be a number, but is '{row[AORTIC_HU]}': correct it.")
        told = {**row, INCOMPLETE: flag(row[INCOMPLETE], INCOMPLETE, where=where)}
        add_once(found, f"{row[PATIENT_ID]}_{row[SERIES_ID]}", (row[PATIENT_ID], told), where=where)
    return found


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def _strongest(cases: list[str], scans: Mapping[str, Scan]) -> list[str]:
    """A case for each patient; of equal ones the first by name."""
    own: defaultdict[str, list[str]] = defaultdict(list)
    for name in sorted(cases):
        own[scans[name][0]].append(name)
    kept = {max(names, key=lambda name: float(scans[name][1][AORTIC_HU])) for names in own.values()}
    return [name for name in cases if name in kept]


def _folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir())
