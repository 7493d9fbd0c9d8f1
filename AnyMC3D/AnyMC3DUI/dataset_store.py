"""Writes volumes and segments of the scene into a dataset's folder, in steps that do not stop the application.

What is written holds voxels and where they lie, and no name: neither of a node nor of a patient.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Generator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from AnyMC3DLib.errors import InputError

from .handover import HandedImage, HandedLabels
from .in_thread import InThread
from .mask_grid import bordered, mask_for
from .steps import InTurns, Step

IMAGES, MASKS, REGIONS = "images", "masks", "regions"
ENDING = ".nrrd"  # NIfTI would straighten the image of a tilted gantry
FOREGROUND = 1
PIECE_BYTES = 1 << 20
UNSAFE = re.compile(r"[^A-Za-z0-9_-]+")

Progress = Callable[[float], None]
Storing = Generator[Step, object, "Stored"]


@dataclasses.dataclass(frozen=True)
class Stored:
    """A file that was written, and what the table is told of it: its path, or a region's words with that."""

    path: Path
    words: str


def store_image(folder: Path, stem: str, image: HandedImage, *, progress: Progress | None = None) -> Storing:
    """Write a volume to `images/STEM.nrrd`; the value is what was stored.

    Raises InputError for a volume that a dataset cannot hold, and where the folder cannot be written.
    """
    path = _place(folder, IMAGES, stem)
    array = yield InTurns(copied(image.array), progress=progress)

    def write() -> None:
        from AnyMC3DLib.volume import Volume, write_volume

        write_volume(path, Volume(array, image.ijk_to_ras, name="The volume"))

    return (yield from _written(path, write))


def store_mask(
    folder: Path, stem: str, labels: HandedLabels, image: HandedImage, *, progress: Progress | None = None
) -> Storing:
    """Write a segment to `masks/STEM.nrrd` as a mask of the volume (see `mask_grid.mask_for`), as `store_image`."""
    path = _place(folder, MASKS, stem)
    array = yield InTurns(selected(labels), progress=progress)
    grid, image_to_ras = image.array.shape[:3], image.ijk_to_ras

    def write() -> None:
        from AnyMC3DLib.volume import write_volume

        write_volume(path, mask_for(array, labels.ijk_to_ras, grid=grid, image_to_ras=image_to_ras))

    return (yield from _written(path, write))


def store_region(folder: Path, stem: str, labels: HandedLabels, *, progress: Progress | None = None) -> Storing:
    """Write a segment to `regions/STEM.nrrd` on its own voxels; the words are those of `regions.read_region`."""
    path = _place(folder, REGIONS, stem)
    array = yield InTurns(selected(labels), progress=progress)

    def write() -> None:
        from AnyMC3DLib.volume import write_volume

        write_volume(path, bordered(array, labels.ijk_to_ras))

    stored = yield from _written(path, write)
    return Stored(path, f"{stored.words}:{FOREGROUND}")


def free_stem(folder: Path, stem: str) -> str:
    """The stem, or one with a number behind it, that names no file of the dataset yet."""
    plain = UNSAFE.sub("-", stem).strip("-") or "case"
    number, found = 1, plain
    while any(_file(folder, kind, found).exists() for kind in (IMAGES, MASKS, REGIONS)):
        number += 1
        found = f"{plain}-{number}"
    return found


def copied(array: npt.NDArray) -> Generator[float, None, npt.NDArray]:
    """A copy of the scene's memory, piece by piece."""
    copy = np.empty(array.shape, dtype=array.dtype)
    for part in _parts(array):
        copy[part] = array[part]
        yield part.stop / len(array)
    return copy


def selected(labels: HandedLabels) -> Generator[float, None, npt.NDArray[np.uint8]]:
    """Where the label that is meant lies: 1 there and 0 elsewhere, piece by piece."""
    found = np.empty(labels.array.shape, dtype=np.uint8)
    for part in _parts(labels.array):
        np.equal(labels.array[part], labels.label, out=found[part], casting="unsafe")
        yield part.stop / len(found)
    return found


def _parts(array: npt.NDArray) -> list[slice]:
    step = max(1, PIECE_BYTES * len(array) // max(1, array.nbytes))
    return [slice(start, min(start + step, len(array))) for start in range(0, len(array), step)]


def _written(path: Path, write: Callable[[], None]) -> Storing:
    yield InThread(write, undo=lambda: path.unlink(missing_ok=True))
    return Stored(path, str(path))


def _place(folder: Path, kind: str, stem: str) -> Path:
    path = _file(folder, kind, stem)
    if path.exists():
        raise InputError(f"There is a file '{path.relative_to(folder).as_posix()}' already: move it away.")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"The folder '{path.parent}' cannot be made: {error.strerror or error}.") from error
    return path


def _file(folder: Path, kind: str, stem: str) -> Path:
    return folder / kind / f"{stem}{ENDING}"
