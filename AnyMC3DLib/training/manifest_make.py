"""Tables of labelled cases from what data sets come as: folders of classes, a BIDS tree, a MedMNIST file."""

from __future__ import annotations

import csv
import io
import logging
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk

from ..errors import InputError
from ..files import UNREADABLE_ARRAY, is_there, write_text
from ..manifest import CASE, ONLY_IMAGE, check_columns, read_table
from ..progress import Progress, ProgressCallback
from ..volume import write_volume
from .cases import SPLITS, volume_of_medmnist
from .splits import split_cases
from .table import IMAGE_ENDINGS, LABEL, PATIENT, SPLIT

logger = logging.getLogger(__name__)

MANIFEST = "manifest.csv"
IMAGES = "images"
PARTICIPANT = "participant_id"
NO_VALUE = ("", "n/a", "N/A")


def make_from_folders(
    root: str | Path,
    out: str | Path,
    *,
    shares: Mapping[str, float] | None = None,
    seed: int = 0,
    replace: bool = False,
) -> int:
    """Write a table of `root/CLASS/IMAGE`, an image being a file or a folder of one DICOM series; return its cases.

    Where the folders of `root` are all called train, val or test, classes are looked for in each of them. Cases are
    called by their files, with the class before it where two files have one name. `shares` fills the split (see
    `splits.split_cases`). Raises InputError for a table that is there already without `replace`, fewer than two
    classes, a class without an image, and shares beside folders of splits.
    """
    place = Path(out)
    _check_new(place, replace=replace)
    parts = _subfolders(Path(root))
    in_splits = bool(parts) and all(part.name in SPLITS for part in parts)
    if in_splits and shares is not None:
        raise InputError(f"The folder '{root}' has its splits already: leave the shares out.")
    found = [
        (split, folder.name, image)
        for split, base in ([(part.name, part) for part in parts] if in_splits else [("", Path(root))])
        for folder in _subfolders(base)
        for image in _images_in(folder)
    ]
    classes = sorted({label for _, label, _ in found})
    if len(classes) < 2:
        raise InputError(f"The folder '{root}' has {len(classes)} folders of classes: give one folder for each class.")
    stems = [_stem(image) for _, _, image in found]
    if len({stem.casefold() for stem in stems}) < len(stems):
        stems = ["_".join(filter(None, (split, label, _stem(image)))) for split, label, image in found]
    rows = [
        {CASE: stem, ONLY_IMAGE: _relative(image, place), LABEL: label, SPLIT: split}
        for stem, (split, label, image) in zip(stems, found, strict=True)
    ]
    return _write(place, rows, shares=shares, seed=seed)


def make_from_bids(
    root: str | Path,
    participants_column: str,
    out: str | Path,
    *,
    suffix: str = "T1w",
    shares: Mapping[str, float] | None = None,
    seed: int = 0,
    replace: bool = False,
) -> int:
    """Write a table of the images `sub-*_SUFFIX.nii[.gz]` of a BIDS tree; return its cases.

    A case is an image, its patient the subject, its label the value of the column of participants.tsv. Subjects without
    a value or an image are left out, and how many is logged. Raises InputError for a table that is there already
    without `replace`, a tree without participants.tsv or the column, and where no case is left.
    """
    place, tree = Path(out), Path(root)
    _check_new(place, replace=replace)
    table = read_table(tree / "participants.tsv")
    check_columns(table, [PARTICIPANT, participants_column], name="participants.tsv")
    rows: list[dict[str, str]] = []
    left_out = 0
    for _, row in table.rows:
        subject = f"sub-{row[PARTICIPANT].removeprefix('sub-')}"
        label = row[participants_column]
        images = sorted((tree / subject).rglob(f"*_{suffix}.nii*")) if label not in NO_VALUE else []
        images = [image for image in images if _stem(image).endswith(f"_{suffix}")]
        left_out += not images
        rows += [
            {CASE: _stem(image), PATIENT: subject, ONLY_IMAGE: _relative(image, place), LABEL: label}
            for image in images
        ]
    if left_out:
        logger.warning(
            "%d of %d participants have no '%s' or no image '%s' and are left out.",
            left_out, len(table.rows), participants_column, suffix,
        )  # fmt: skip
    if not rows:
        raise InputError(f"No participant in '{root}' has both a '{participants_column}' and an image '{suffix}'.")
    return _write(place, rows, shares=shares, seed=seed)


def make_from_medmnist(
    npz: str | Path,
    out_folder: str | Path,
    *,
    classes: Sequence[str] = (),
    limit: int | None = None,
    replace: bool = False,
    progress: ProgressCallback | None = None,
) -> int:
    """Write the images of a MedMNIST file as NIfTI, and manifest.csv beside them with its splits; return its cases.

    `classes` are the names of the labels, which the file does not hold (their numbers without them); several labels an
    image make a column for each class. `limit` takes the first so many cases of each split. Raises InputError for a
    table that is there already without `replace`, a file of another kind, and names that do not suit the labels.
    """
    place = Path(out_folder) / MANIFEST
    _check_new(place, replace=replace)
    arrays = _arrays(Path(npz))
    names = _class_names([labels for _, labels in arrays.values()], classes, Path(npz).name)
    total = sum(len(labels[:limit]) for _, labels in arrays.values())
    rows: list[dict[str, str]] = []
    for split, (images, labels) in arrays.items():
        for number, (image, label) in enumerate(zip(images[:limit], labels[:limit], strict=True)):
            file = place.parent / IMAGES / f"{split}-{number}.nii.gz"
            write_volume(file, volume_of_medmnist(image))
            row = {CASE: f"{split}-{number}", ONLY_IMAGE: _relative(file, place), SPLIT: split}
            rows.append(row | _label_cells(label, names))
            if progress is not None:
                progress(Progress("Writing images", len(rows), total))
    return _write(place, rows)


def _arrays(place: Path) -> dict[str, tuple[npt.NDArray, npt.NDArray]]:
    """Images [N, ...] and labels [N, L] by split."""
    try:
        with np.load(place, allow_pickle=False) as data:
            arrays = {split: (data[f"{split}_images"], data[f"{split}_labels"]) for split in SPLITS}
        arrays = {split: (images, labels.reshape(len(labels), -1)) for split, (images, labels) in arrays.items()}
    except (*UNREADABLE_ARRAY, KeyError) as error:
        raise InputError(f"'{place}' is not a MedMNIST file, or it is damaged: get it again.") from error
    for split, (images, labels) in arrays.items():
        if len(images) != len(labels):
            raise InputError(f"'{place.name}' has {len(images)} images but {len(labels)} labels in '{split}'.")
    return arrays


def _class_names(labels: Sequence[npt.NDArray], classes: Sequence[str], name: str) -> list[str]:
    width = max(array.shape[1] for array in labels)
    count = width if width > 1 else 1 + max(int(array.max(initial=0)) for array in labels)
    if classes and len(classes) != count:
        raise InputError(f"'{name}' has {count} classes, but {len(classes)} names were given: give one for each.")
    return list(classes) or [str(number) for number in range(count)]


def _label_cells(label: npt.NDArray, names: Sequence[str]) -> dict[str, str]:
    if len(label) == 1:
        return {LABEL: names[int(label[0])]}
    return {name: str(int(value)) for name, value in zip(names, label, strict=True)}


def _check_new(place: Path, *, replace: bool) -> None:
    if is_there(place) and not replace:
        raise InputError(f"The table '{place}' is there already: give another place, or ask to replace it.")


def _subfolders(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise InputError(f"There is no folder '{folder}': check the path.")
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def _images_in(folder: Path) -> list[Path]:
    entries = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    images = [path for path in entries if _is_series(path) or path.name.lower().endswith(IMAGE_ENDINGS)]
    if not images:
        raise InputError(f"The folder '{folder}' holds no image and no folder of a DICOM series: take it away.")
    if len(images) < len(entries):
        unfit = len(entries) - len(images)
        logger.warning("In the class '%s' %d of %d files are no images: left out.", folder.name, unfit, len(entries))
    return images


def _is_series(path: Path) -> bool:
    """Whether this is a folder; raises InputError if it holds another number of DICOM series than one."""
    if not path.is_dir():
        return False
    count = len(sitk.ImageSeriesReader.GetGDCMSeriesIDs(str(path)))
    if count != 1:
        raise InputError(f"The folder '{path}' holds {count} DICOM series: put each series in a folder of its own.")
    return True


def _stem(image: Path) -> str:
    if image.is_dir():
        return image.name
    return image.name[:-7] if image.name.lower().endswith(".nii.gz") else image.stem


def _relative(image: Path, table: Path) -> str:
    try:
        return Path(os.path.relpath(image.resolve(), table.parent.resolve())).as_posix()
    except ValueError:  # another drive
        return image.resolve().as_posix()


def _write(
    place: Path, rows: Sequence[dict[str, str]], *, shares: Mapping[str, float] | None = None, seed: int = 0
) -> int:
    """Write the rows without columns that are empty in all of them; return how many there are."""
    names = [row[CASE] for row in rows]
    twice = next((name for name, count in Counter(map(str.casefold, names)).items() if count > 1), None)
    if twice is not None:
        raise InputError(f"Two images would make the case '{twice}': rename one of their files.")
    if shares is not None:
        classes = sorted({row[LABEL] for row in rows})
        patients, targets = [row.get(PATIENT, "") for row in rows], [classes.index(row[LABEL]) for row in rows]
        splits = split_cases(names, patients, targets, shares=shares, seed=seed, classes=classes)
        rows = [{**row, SPLIT: split} for row, split in zip(rows, splits, strict=True)]
    columns = [name for name in rows[0] if any(row[name] for row in rows)] if rows else [CASE, ONLY_IMAGE, LABEL]
    stream = io.StringIO()
    writer = csv.DictWriter(stream, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(place, stream.getvalue())
    return len(rows)
