"""Labelled studies: from a table of files, or from a MedMNIST file with its official splits."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ..errors import InputError
from ..files import UNREADABLE_ARRAY
from ..manifest import load_study, region_files, without_files
from ..prediction import Study
from ..spec import PluginSpec
from ..volume import Volume, read_volume
from .slice_cache import content_digest
from .table import MASK_OF, SPLITS, Row, read_rows

MISSING = -1  # a label that is not known
# MedMNIST tells no spacing; a pixel stands for a millimetre.
UNIT_AFFINE = np.eye(4)


@dataclasses.dataclass(frozen=True)
class Case:
    """A study with its answer.

    `target` is the class's number for binary and multiclass tasks, and for multilabel ones an array [K] of 0, 1 and -1
    (missing). `load` reads the study, and `masks` the masks by source, when they are needed. `patient` is the case's
    own id where it is empty. `content` gives digests of all that these two read, by name, None where they cannot be
    told. `without_files` gives a sentence about the case without the names of its files.
    """

    id: str
    split: str
    target: int | npt.NDArray[np.int64]
    load: Callable[[], Study]
    patient: str = ""
    masks: Callable[[], Mapping[str, Volume]] | None = None
    weight: float = 1.0
    content: Callable[[], Mapping[str, str]] | None = None
    without_files: Callable[[str], str] = str


def read_cases(path: str | Path, spec: PluginSpec) -> list[Case]:
    """The cases of a MedMNIST `.npz` file or of a CSV table; raises InputError if it does not suit the task."""
    place = Path(path)
    if not place.is_file():
        raise InputError(f"There is no data file '{place}': give a MedMNIST .npz file or a CSV table.")
    return _read_medmnist(place, spec) if place.suffix == ".npz" else _read_table(place, spec)


def of_split(cases: Sequence[Case], splits: Sequence[str]) -> list[Case]:
    """The cases of the named splits; raises InputError if one of them has none."""
    have = {case.split for case in cases}
    if have == {""}:
        raise InputError("The table splits no case: give it a column 'split', or cross-validate with --folds.")
    if "" in have:
        raise InputError("Some cases of the table have no split: give each one, or none for folds.")
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
    except UNREADABLE_ARRAY as error:
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
            load = _loader(image, spec.sources[0])
            content = functools.partial(_digest_of_picture, image)
            cases.append(Case(f"{split}-{number}", split, target, load, content=content))
    return cases


def _loader(image: npt.NDArray, source: str) -> Callable[[], Study]:
    def load() -> Study:
        return Study({source: volume_of_medmnist(image)})

    return load


def _digest_of_picture(image: npt.NDArray) -> dict[str, str]:
    return {"image": content_digest(image)}


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
    """A table with the columns case, label (a class's name) or one column a class, and one for each image.

    Besides, where they are there: patient, split, weight, masks and regions.
    """
    rows = read_rows(place, spec)
    sources = list(dict.fromkeys(view.source for view in spec.views))
    seen: set[str] = set()
    cases = []
    for row in rows:
        where = f"line {row.line} of '{place.name}'"
        if not row.case:
            raise InputError(f"The column 'case' is empty in {where}: fill it in.")
        absent = [source for source in sources if source not in row.images]
        if absent:
            raise InputError(f"The image '{absent[0]}' is empty in {where}: fill it in.")
        if row.case in seen:
            raise InputError(f"The case '{row.case}' comes twice, again in {where}.")
        if row.split and row.split not in SPLITS:
            raise InputError(f"The split in {where} must be one of {', '.join(SPLITS)}, but is '{row.split}'.")
        seen.add(row.case)
        cases.append(_case_of(row, spec, where))
    return cases


def _case_of(row: Row, spec: PluginSpec, where: str) -> Case:
    return Case(
        row.case,
        row.split,
        _target_of_row(row, spec, where),
        functools.partial(load_study, row.images, row.regions, folder=row.folder),
        patient=row.patient,
        masks=functools.partial(_read_masks, row.masks) if row.masks else None,
        weight=_weight_of(row.weight, where),
        content=functools.partial(_content_of, row),
        without_files=functools.partial(_without_files, row),
    )


def _read_masks(paths: Mapping[str, Path]) -> dict[str, Volume]:
    return {source: read_volume(path) for source, path in paths.items()}


def _without_files(row: Row, sentence: str) -> str:
    masks = {f"{MASK_OF}{source}": path for source, path in row.masks.items()}
    return without_files(sentence, images={**row.images, **masks}, regions=row.regions, folder=row.folder)


def _content_of(row: Row) -> dict[str, str]:
    """Digests of all files of a row; a region in words is its own content."""
    files = {f"image:{source}": path for source, path in row.images.items()}
    files |= {f"mask:{source}": path for source, path in row.masks.items()}
    found = {name: content_digest(path) for name, path in files.items()}
    for source, words in row.regions.items():
        files = [content_digest(path) for path in region_files(words, row.folder)]
        found[f"region:{source}"] = " ".join([words, *files])
    return found


def _weight_of(text: str, where: str) -> float:
    if not text:
        return 1.0
    try:
        weight = float(text)
    except ValueError:
        weight = math.nan
    if not 0 < weight < math.inf:
        raise InputError(f"The weight in {where} must be a number above 0, but is '{text}'.")
    return weight


def _target_of_row(row: Row, spec: PluginSpec, where: str) -> int | npt.NDArray[np.int64]:
    names = [c.name for c in spec.classes]
    if spec.task_type == "multilabel":
        values = [row.labels.get(name, "") for name in names]
        if any(value not in ("0", "1", "") for value in values):
            raise InputError(f"The labels in {where} must be 0, 1, or empty where the label is missing.")
        return np.array([int(value or MISSING) for value in values])
    label = row.labels.get("label", "")
    if label not in names:
        raise InputError(f"The label in {where} must be one of {', '.join(names)}, but is '{label}'.")
    return names.index(label)
