"""Labelled studies: from a table of files, or from a MedMNIST file with its official splits."""

from __future__ import annotations

import dataclasses
import functools
import zipfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ..errors import InputError
from ..manifest import check_columns, image_columns, load_study, read_table, region_columns
from ..prediction import Study
from ..spec import PluginSpec
from ..volume import Volume

SPLITS = ("train", "val", "test")
# A file of another kind, pickled objects, a damaged archive; and an .npy file, which is no context manager.
_UNREADABLE = (OSError, EOFError, ValueError, TypeError, zipfile.BadZipFile, zlib.error)
# MedMNIST tells no spacing; a pixel stands for a millimetre.
UNIT_AFFINE = np.eye(4)


@dataclasses.dataclass(frozen=True)
class Case:
    """A study with its answer.

    `target` is the class's number for binary and multiclass tasks, and an array [K] of 0 and 1 for multilabel ones.
    `load` reads the study when it is needed.
    """

    id: str
    split: str
    target: int | npt.NDArray[np.int64]
    load: Callable[[], Study]


def read_cases(path: str | Path, spec: PluginSpec) -> list[Case]:
    """The cases of a MedMNIST `.npz` file or of a CSV table; raises InputError if it does not suit the task."""
    place = Path(path)
    if not place.is_file():
        raise InputError(f"There is no data file '{place}': give a MedMNIST .npz file or a CSV table.")
    return _read_medmnist(place, spec) if place.suffix == ".npz" else _read_table(place, spec)


def of_split(cases: Sequence[Case], splits: Sequence[str]) -> list[Case]:
    """The cases of the named splits; raises InputError if one of them has none."""
    have = {case.split for case in cases}
    absent = [split for split in splits if split not in have]
    if absent or not splits:
        named = absent[0] if absent else ""
        raise InputError(f"The data has no case in the split '{named}': it has {', '.join(sorted(have))}.")
    return [case for case in cases if case.split in splits]


def _read_medmnist(place: Path, spec: PluginSpec) -> list[Case]:
    if len(spec.sources) != 1:
        raise InputError(f"MedMNIST has one image a case, but plugin '{spec.name}' needs {len(spec.sources)}.")
    try:
        with np.load(place, allow_pickle=False) as data:
            arrays = {name: data[name] for split in SPLITS for name in (f"{split}_images", f"{split}_labels")}
    except KeyError as error:
        raise InputError(f"'{place.name}' is not a MedMNIST file: {error.args[0]}.") from error
    except _UNREADABLE as error:
        raise InputError(f"'{place.name}' is not a MedMNIST file, or it is damaged: get it again.") from error
    cases: list[Case] = []
    for split in SPLITS:
        images, labels = arrays[f"{split}_images"], arrays[f"{split}_labels"]
        if not images.ndim or not labels.ndim or len(images) != len(labels):
            images, labels = np.atleast_1d(images), np.atleast_1d(labels)
            raise InputError(f"'{place.name}' has {len(images)} images but {len(labels)} labels in '{split}'.")
        if not len(labels):
            continue
        targets = _targets(labels.reshape(len(labels), -1), spec, where=f"'{place.name}'")
        for number, (image, target) in enumerate(zip(images, targets, strict=True)):
            cases.append(Case(f"{split}-{number}", split, target, _loader(image, spec.sources[0])))
    return cases


def _loader(image: npt.NDArray, source: str) -> Callable[[], Study]:
    def load() -> Study:
        return Study({source: volume_of_medmnist(image)})

    return load


def volume_of_medmnist(image: npt.NDArray) -> Volume:
    """A MedMNIST image ([H, W], [H, W, 3] or [D, H, W]) as a volume; a 2D image is a volume of one slice."""
    flat = image.ndim == 2 or (image.ndim == 3 and image.shape[2] == 3)
    return Volume(image[np.newaxis] if flat else image, UNIT_AFFINE, name="the MedMNIST image")


def _targets(labels: npt.NDArray, spec: PluginSpec, *, where: str) -> list[int | npt.NDArray[np.int64]]:
    count = len(spec.classes)
    if spec.task_type == "multilabel":
        if labels.shape[1] != count or not np.isin(labels, (0, 1)).all():
            raise InputError(f"{where} must have {count} labels of 0 or 1 a case for plugin '{spec.name}'.")
        return [row.astype(np.int64) for row in labels]
    if labels.shape[1] != 1 or not np.isin(labels, np.arange(count)).all():
        raise InputError(f"{where} must have one label from 0 to {count - 1} a case for plugin '{spec.name}'.")
    return [int(row[0]) for row in labels]


def _read_table(place: Path, spec: PluginSpec) -> list[Case]:
    """A CSV with the columns case, split, label (a class's name) or one column a class, and one for each image."""
    table = read_table(place)
    images = image_columns(table, [spec])
    regions = region_columns(images, [spec])
    labels = [c.name for c in spec.classes] if spec.task_type == "multilabel" else ["label"]
    check_columns(table, ["case", "split", *labels, *images.values()], name=place.name)
    seen: set[str] = set()
    cases = []
    for number, row in table.rows:
        where = f"line {number} of '{place.name}'"
        empty = [column for column in ("case", *images.values()) if not row[column]]
        if empty:
            raise InputError(f"The column '{empty[0]}' is empty in {where}: fill it in.")
        if row["case"] in seen:
            raise InputError(f"The case '{row['case']}' comes twice, again in {where}.")
        if row["split"] not in SPLITS:
            raise InputError(f"The split in {where} must be one of {', '.join(SPLITS)}, but is '{row['split']}'.")
        seen.add(row["case"])
        load = functools.partial(
            load_study,
            {source: place.parent / row[column] for source, column in images.items()},
            {source: row[column] for source, column in regions.items() if row.get(column)},
            folder=place.parent,
        )
        cases.append(Case(row["case"], row["split"], _target_of_row(row, spec, where), load))
    return cases


def _target_of_row(row: dict[str, str], spec: PluginSpec, where: str) -> int | npt.NDArray[np.int64]:
    names = [c.name for c in spec.classes]
    if spec.task_type == "multilabel":
        values = [row[name] for name in names]
        if any(value not in ("0", "1") for value in values):
            raise InputError(f"The labels in {where} must be 0 or 1.")
        return np.array([int(value) for value in values])
    if row["label"] not in names:
        raise InputError(f"The label in {where} must be one of {', '.join(names)}, but is '{row['label']}'.")
    return names.index(row["label"])
