"""From the images and regions of a request to a study. Needs NumPy and SimpleITK."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.lib.format as npy
import numpy.typing as npt

from .errors import InputError
from .files import UNREADABLE_ARRAY
from .messages import ImageSource, Matrix, RegionSource, StudyParams
from .prediction import Study
from .preprocessing import Box, Region, Segment
from .regions import read_region
from .volume import Volume, read_volume

_HEADERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
# The system's own errors say more than that a file is damaged.
_UNREADABLE = tuple(kind for kind in UNREADABLE_ARRAY if kind is not OSError)


def read_study(params: StudyParams) -> Study:
    """The study of a request; raises InputError if one of its images or regions cannot be used."""
    images = {name: _image(source, name) for name, source in params.images.items()}
    return Study(images, {name: _region(source, name) for name, source in params.regions.items()})


def read_array(path: str | Path, *, name: str) -> npt.NDArray:
    """The numbers in an `.npy` file; raises InputError for another file, another kind of value, or a part of one."""
    place = checked_path(path)
    if not place.is_file():
        raise InputError(f"There is no array file of {name}: write it before the request, for each request anew.")
    try:
        with place.open("rb") as stream:
            _check_header(stream, name)
            stream.seek(0)
            # Read and not mapped: Windows cannot delete a mapped file.
            return npy.read_array(stream, allow_pickle=False)
    except _UNREADABLE as error:
        raise InputError(f"The array file of {name} is no .npy file, or it is damaged: write it again.") from error


def checked_path(path: str | Path) -> Path:
    """The path; raises InputError for a text that no file system takes."""
    try:
        if b"\0" in os.fsencode(path) or not str(path):
            raise ValueError
    except ValueError as error:
        raise InputError("A path is empty or holds characters that no path can have: correct it.") from error
    return Path(path)


def _check_header(stream: BinaryIO, name: str) -> None:
    read_header = _HEADERS.get(npy.read_magic(stream))
    if read_header is None:
        raise InputError(f"The array file of {name} holds a table, not an image: write an array of numbers.")
    shape, _, dtype = read_header(stream)
    if dtype.kind not in "biuf":
        raise InputError(f"The array file of {name} holds values of type {dtype}: real numbers are needed.")
    # Asked before the memory is: a damaged header may name any size.
    wanted = int(np.prod(shape, dtype=object)) * dtype.itemsize
    if os.fstat(stream.fileno()).st_size - stream.tell() < wanted:
        raise InputError(f"The array file of {name} ends too early: write it again.")


def _image(source: ImageSource, name: str) -> Volume:
    if source.file is not None:
        return read_volume(checked_path(source.file))
    found = _volume(source.array, source.ijk_to_ras, f"the image '{name}'")
    return dataclasses.replace(found, modality=source.modality)


def _region(source: RegionSource, name: str) -> Region:
    if source.box is not None:
        return Box(source.box.low, source.box.high)
    if source.segment is not None:
        segment = source.segment
        return Segment(_volume(segment.array, segment.ijk_to_ras, f"the segment of '{name}'"), segment.label)
    checked_path(source.text or "")
    return read_region(source.text or "")


def _volume(path: str | None, ijk_to_ras: Matrix | None, name: str) -> Volume:
    return Volume(read_array(path or "", name=name), np.array(ijk_to_ras), name=name)
