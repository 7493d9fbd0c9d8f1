"""Any folder of images: a folder for each class, perhaps within splits, or a `labels.csv` beside the images."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from ...errors import InputError
from ...manifest import CASE, ONLY_IMAGE
from ...training.manifest_headers import same_contents
from ...training.manifest_make import IMAGES, make_from_folders
from ...training.table import IMAGE_ENDINGS, LABEL, PATIENT, SPLIT, SPLITS
from .common import (
    Converted,
    Order,
    add_once,
    check_layout,
    matched,
    prefix_of,
    read_published,
    shares_by_name,
    write_cases,
)

LABELS = "labels.csv"
LAYOUT = f"CLASS/CASE, SPLIT/CLASS/CASE, or {LABELS} (case,label) beside CASE or {IMAGES}/CASE"
LIKE_SPLITS = (*SPLITS, "training", "valid", "validation", "testing")


def convert(folder: Path, order: Order) -> Converted:
    """The cases with the splits that the folder tells, or split by the shares; a case is a file or a DICOM folder."""
    check_layout(folder, (), layout=LAYOUT)
    if (folder / LABELS).is_file():
        return _of_labels(folder, order)
    parts = [path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")]
    if not parts:
        raise InputError(f"The folder '{folder}' holds no folder and no {LABELS}: give the one that holds {LAYOUT}.")
    in_splits = all(part.name in SPLITS for part in parts)
    like = sorted(part.name for part in parts if part.name.lower() in LIKE_SPLITS)
    if len(like) > 1 and not in_splits:
        raise InputError(
            f"The folders {', '.join(like)} look like splits: call them {', '.join(SPLITS)}, beside no other."
        )
    if in_splits:
        _check_splits(parts)
    shares = None if in_splits else shares_by_name(order, official_test=False)
    return Converted(make_from_folders(folder, order.table, shares=shares, seed=order.seed, replace=True))


def _check_splits(parts: Sequence[Path]) -> None:
    """Raise InputError if an image of one name and content is in two splits."""
    named: defaultdict[str, dict[Path, str]] = defaultdict(dict)
    for part in parts:
        for image in part.glob("*/*"):
            named[_stem(image)][image] = part.name
    alike = {image: split for own in named.values() if len(set(own.values())) > 1 for image, split in own.items()}
    digests = same_contents(list(alike))
    seen: dict[tuple[str, str], Path] = {}
    for image, digest in sorted(digests.items()):
        other = seen.setdefault((_stem(image), digest), image)
        if alike[other] != alike[image]:
            told = f"is in both '{alike[other]}' and '{alike[image]}', with the same content"
            raise InputError(f"The case '{_stem(image)}' {told}: take it out of one of the splits.")


def _of_labels(folder: Path, order: Order) -> Converted:
    places: dict[str, Path] = {}
    for base in (folder, folder / IMAGES):
        for path in sorted(base.iterdir()) if base.is_dir() else ():
            if _is_case(path) and path != folder / IMAGES:
                add_once(places, _stem(path), path, where=f"the folder '{base.name}'")
    table = read_published(folder / LABELS, [CASE, LABEL])
    rows: dict[str, dict[str, str]] = {}
    splits: dict[str, str] = {}
    for line, row in table.rows:
        where = f"line {line} of '{LABELS}'"
        empty = next((column for column in (CASE, LABEL) if not row[column]), None)
        if empty is not None:
            raise InputError(f"The column '{empty}' is empty in {where}: fill it in or take the row out.")
        split = row.get(SPLIT, "")
        if SPLIT in table.columns and split not in SPLITS:
            raise InputError(f"The split in {where} must be one of {', '.join(SPLITS)}, but is '{split}': correct it.")
        patient = row.get(PATIENT) or row[CASE]
        if splits.setdefault(patient, split) != split:
            told = f"The patient of {where} is in '{splits[patient]}' and in '{split}'"
            raise InputError(f"{told}: keep all cases of a patient in one split.")
        kept = {name: row[name] for name in (CASE, PATIENT, SPLIT, LABEL) if name in table.columns}
        add_once(rows, row[CASE], kept, where=where)
    cases, notes = matched(rows, places, looked_for=f"CASE and {IMAGES}/CASE beside {LABELS}, files or DICOM folders")
    prefix = prefix_of(folder, order.table)
    done = [{**rows[name], ONLY_IMAGE: f"{prefix}/{places[name].relative_to(folder).as_posix()}"} for name in cases]
    return Converted(write_cases(done, order), tuple(notes))


def _is_case(path: Path) -> bool:
    """Whether this is called as an image is, or is a folder that holds something."""
    if path.name.startswith("."):
        return False
    return any(path.iterdir()) if path.is_dir() else path.name.lower().endswith(IMAGE_ENDINGS)


def _stem(image: Path) -> str:
    if image.is_dir():
        return image.name
    return image.name[:-7] if image.name.lower().endswith(".nii.gz") else image.stem
