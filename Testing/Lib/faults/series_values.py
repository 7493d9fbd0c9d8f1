"""Faults of DICOM series: how values are stored and scaled, multi-frame files, and damaged headers."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
from hypothesis import strategies as st

from AnyMC3DLib.errors import AnyMC3DError
from AnyMC3DLib.geometry import corners_of
from AnyMC3DLib.volume import Volume, read_volume

from .answers import judged, same_as_twin
from .dicom_files import BIG_ENDIAN, JPEG_2000, JPEG_LOSSLESS, LITTLE_ENDIAN, RLE, multi_frame, series_of
from .fault import Fault, Outcome, refused
from .phantoms import Body, leans, upright_bodies

GROUP = "DICOM"
SLOPE, INTERCEPT, GREY = "0028|1053", "0028|1052", "0028|0004"
TYPES = ("uint8", "int16", "uint16", "int32", "uint32")
SYNTAXES = (LITTLE_ENDIAN, BIG_ENDIAN, RLE, JPEG_LOSSLESS, JPEG_2000)
NEAR = 0.3  # voxels by which damage may move a corner unseen


@dataclasses.dataclass(frozen=True)
class Stored:
    """A series whose stored numbers are (value - intercept) / slope."""

    body: Body
    dtype: str
    slope: float
    intercept: float
    syntax: str
    kind: str = ""

    def twin(self, *slopes: float) -> Volume:
        """What the numbers say: values rounded to whole steps; slice k has slope k of `slopes`, over and over."""
        clean = self.body.twin(np.float64)
        array = clean.array.copy()
        if self.dtype == "uint8":
            array = (array + 1000) * 0.1 * self.slope + self.intercept  # 0 to 255 steps hold it
        slopes = slopes or (self.slope,)
        for k, plane in enumerate(array):
            slope = slopes[k % len(slopes)]
            plane[...] = np.rint((plane - self.intercept) / slope) * slope + self.intercept
        return Volume(array, clean.ijk_to_ras)


def _put(files: list, folder: Path) -> Path:
    place = folder / "series"
    place.mkdir()
    for file in files:
        file.write(place)
    return place


def _stored(case: Stored, folder: Path) -> Outcome:
    twin = case.twin()
    files = series_of(twin, slope=case.slope, intercept=case.intercept, dtype=np.dtype(case.dtype).type)
    for file in files:
        file.syntax = case.syntax
    return judged(_put(files, folder), twin)


def _scales(case: Stored, folder: Path) -> Outcome:
    """Each slice has a slope and intercept of its own, as in PET; or one tells none."""
    slopes = (1.0, case.slope, 0.5 * case.slope)
    twin = case.twin(*slopes)
    files = []
    for k in range(twin.grid[0]):
        whole = series_of(twin, slope=slopes[k % 3], intercept=case.intercept, dtype=np.int32)
        files.append(whole[k])
    if case.kind == "one without":
        del files[int(case.slope * 7) % len(files)].tags[SLOPE if case.intercept else INTERCEPT]
    return judged(_put(files, folder), twin, may_refuse=case.kind == "one without")


def _inverted(case: Stored, folder: Path) -> Outcome:
    """MONOCHROME1: what is black is stored as the largest number. Where values carry units they are refused."""
    twin = case.twin()
    files = series_of(twin, slope=case.slope, intercept=case.intercept, dtype=np.dtype(case.dtype).type)
    for file in files:
        file.tags[GREY] = ("CS", "MONOCHROME1")
        if not case.kind:
            del file.tags[SLOPE], file.tags[INTERCEPT]
    place = _put(files, folder)
    largest = np.iinfo(case.dtype).max
    inverted = Volume(largest - np.stack([file.pixels for file in files]).astype(np.float64), twin.ijk_to_ras)
    return judged(place, inverted, may_refuse=bool(case.kind) or case.dtype.startswith("int"))


@dataclasses.dataclass(frozen=True)
class Framed:
    """An enhanced multi-frame file, alone in its folder or given as a file."""

    body: Body
    modality: str
    syntax: str
    order: str
    folder: bool
    kind: str


def _framed(case: Framed, folder: Path) -> Outcome:
    twin = case.body.twin()
    order = list(range(twin.grid[0]))
    if case.order == "shuffled":
        order = np.random.default_rng(case.body.seed).permutation(order).tolist()
    elif case.order == "backwards":
        order.reverse()
    if case.kind == "gap":
        order.remove(twin.grid[0] // 2)
    elif case.kind == "twice":
        order.append(1)
    file = multi_frame(twin, order, modality=case.modality)
    file.syntax = case.syntax
    if case.kind == "unplaced":
        del file.tags["5200|9230"]
    place = _put([file], folder)
    place = place if case.folder else place / file.name
    if case.kind in ("gap", "twice", "unplaced"):
        return _refusal(place)
    return judged(place, twin)


def _refusal(place: Path) -> Outcome:
    try:
        read_volume(place)
    except AnyMC3DError as error:
        return refused(error, names=("frames.dcm",) if place.is_file() else (), private=("Doe",))
    raise AssertionError("accepted")


@dataclasses.dataclass(frozen=True)
class Flipped:
    """A series of which one file has a flipped bit before its pixels."""

    body: Body
    slice_: float
    place: float
    bit: int


def _flipped(case: Flipped, folder: Path) -> Outcome:
    twin = case.body.twin()
    files = series_of(twin)
    path = _put(files, folder)
    file = path / files[int(case.slice_ * len(files))].name
    content = bytearray(file.read_bytes())
    pixels = content.rindex(b"\xe0\x7f\x10\x00")
    # Numbers of which a series may well have another one in each slice say nothing else in the file is wrong.
    alone = set()
    for tag in (b"\x28\x00\x52\x10", b"\x28\x00\x53\x10"):
        start = content.rindex(tag, 0, pixels)
        alone |= set(range(start + 8, start + 8 + content[start + 6]))
    among = [n for n in range(128, pixels + 12) if n not in alone]
    content[among[int(case.place * len(among))]] ^= 1 << case.bit
    file.write_bytes(content)
    try:
        volume = read_volume(path)
    except AnyMC3DError as error:
        return refused(error, names=(path.name,), private=("Doe",))
    assert np.array_equal(volume.array, twin.array), "other voxels"
    away = np.linalg.norm(corners_of(volume.grid, volume.ijk_to_ras) - twin.corners(), axis=1).max()
    assert away < NEAR * twin.spacing.max(), f"{away} mm away"
    return same_as_twin(Volume(volume.array, twin.ijk_to_ras), twin)


def _is_common(case: Stored) -> bool:
    """8 bits hold the body from -1000 on alone; 32 bits were never stored big endian."""
    return case.intercept == -1000.0 if case.dtype == "uint8" else case.syntax != BIG_ENDIAN or "16" in case.dtype


small = upright_bodies(grid=st.tuples(st.integers(4, 8), st.integers(9, 14), st.integers(9, 16)))
slopes = st.sampled_from([1.0, 0.5, 2.0, 0.25, 0.1, 1.7])

FAULTS = [
    Fault(
        group=GROUP, name="8 to 32 bits, signed or not, with slope and intercept",
        cases=st.builds(
            Stored, small, st.sampled_from(TYPES), slopes, st.sampled_from([-1024.0, -1000.0, -2000.0, -1000.5]),
            st.sampled_from(SYNTAXES[:2]),
        ).filter(_is_common),
        judge=_stored, quick=8, full=200,
    ),
    Fault(
        group=GROUP, name="compressed: RLE, JPEG lossless and JPEG 2000",
        cases=st.builds(
            Stored, small, st.sampled_from(["int16", "uint16"]), st.just(1.0), st.sampled_from([-1024.0, -2000.0]),
            st.sampled_from(SYNTAXES[2:]),
        ),
        judge=_stored, quick=6, full=150,
    ),
    Fault(
        group=GROUP, name="slope and intercept that differ from slice to slice, or are missing in one",
        cases=st.builds(
            Stored, small, st.just("int32"), slopes, st.sampled_from([-1024.0, 0.0]), st.just(LITTLE_ENDIAN),
            st.sampled_from(["", "one without"]),
        ),
        judge=_scales, quick=6, full=150,
    ),
    Fault(
        group=GROUP, name="inverted greys (MONOCHROME1), with and without units",
        cases=st.builds(
            Stored, small, st.sampled_from(["int16", "uint16"]), st.just(1.0), st.just(-1024.0), st.just(LITTLE_ENDIAN),
            st.sampled_from(["", "units"]),
        ),
        judge=_inverted, quick=5, full=100,
    ),
    Fault(
        group=GROUP, name="enhanced multi-frame CT and MR, frames in any order, tilted, with gaps or without places",
        cases=st.builds(
            Framed, upright_bodies(lean=st.one_of(st.just(0.0), leans)), st.sampled_from(["CT", "MR"]),
            st.sampled_from([LITTLE_ENDIAN, RLE]), st.sampled_from(["forwards", "backwards", "shuffled"]),
            st.booleans(), st.sampled_from(["", "", "", "gap", "twice", "unplaced"]),
        ),
        judge=_framed, quick=10, full=250,
    ),
    Fault(
        group=GROUP, name="a flipped bit in one slice's header",
        cases=st.builds(
            Flipped, small, st.floats(0, 1, exclude_max=True), st.floats(0, 1, exclude_max=True), st.integers(0, 7)
        ),
        judge=_flipped, quick=30, full=600,
    ),
]  # fmt: skip
