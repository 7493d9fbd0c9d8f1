"""Faults of image files: how they are stored, scaled and typed."""

from __future__ import annotations

import dataclasses
import gzip
import struct
from pathlib import Path

import numpy as np
from hypothesis import strategies as st

from AnyMC3DLib.errors import InputError
from AnyMC3DLib.volume import Volume, write_volume

from .answers import judged, must_be_refused, same_as_twin
from .fault import Fault, Outcome, refused
from .image_files import image_bytes, nifti_bytes, write
from .phantoms import Body, bodies, leans, upright_bodies

GROUP = "images"
ENDINGS = (".nii", ".nii.gz", ".nrrd", ".mha")
LEANING = (".nrrd", ".mha")
TYPES = ("uint8", "int8", "uint16", "int16", "uint32", "int32", "int64", "uint64", "float32", "float64")
AIR = -1024


@dataclasses.dataclass(frozen=True)
class Kept:
    """A body in a file of its own."""

    body: Body
    ending: str = ".nrrd"
    dtype: str = "int16"
    order: str = "<"
    packed: bool = False

    def put(self, folder: Path) -> Path:
        """Write the file and return its path."""
        volume = self.body.stored(self.dtype)
        return write(folder, f"a{self.ending}", image_bytes(volume, self.ending, order=self.order, packed=self.packed))


def _worked(case: Kept, folder: Path) -> Outcome:
    return judged(case.put(folder), case.body.twin(case.dtype))


def _written_again(case: Kept, folder: Path) -> Outcome:
    """What the library writes itself must be the same as well; NIfTI cannot hold a shear."""
    place = folder / f"a{case.ending}"
    try:
        write_volume(place, case.body.stored(case.dtype))
    except InputError as error:
        assert case.body.lean and case.ending.startswith(".nii"), str(error)
        assert not place.exists()
        return refused(error, names=(place.name, "sheared"))
    assert not (case.body.lean and case.ending.startswith(".nii")), "straightened"
    return judged(place, case.body.twin(case.dtype))


def _leaning_nifti(case: Kept, folder: Path) -> Outcome:
    """As other programs write it: the sform leans and is alone, or beside a qform of the same code that cannot."""
    volume = case.body.stored()
    codes = (0, 1) if case.packed else (1, 1)
    content = nifti_bytes(volume, order=case.order, codes=(0, 1))
    if codes[0]:
        straight = nifti_bytes(dataclasses.replace(case.body, lean=0.0).stored(), order=case.order)
        content = content[:252] + straight[252:280] + content[280:]
    content = gzip.compress(content, 1) if case.ending == ".nii.gz" else content
    return must_be_refused(write(folder, f"a{case.ending}", content), names=("sheared",))


@dataclasses.dataclass(frozen=True)
class Scaled:
    """A NIfTI whose header scales what is stored."""

    body: Body
    dtype: str
    slope: float
    intercept: float
    order: str
    zipped: bool


def _scaled(case: Scaled, folder: Path) -> Outcome:
    twin = case.body.twin(case.dtype)
    content = nifti_bytes(case.body.stored(case.dtype), order=case.order, slope=case.slope, intercept=case.intercept)
    name = "a.nii.gz" if case.zipped else "a.nii"
    place = write(folder, name, gzip.compress(content, 1) if case.zipped else content)
    # After nifti1.h a slope of 0 means that nothing is scaled.
    factor, added = (case.slope, case.intercept) if case.slope else (1.0, 0.0)
    scaled = Volume(twin.array.astype(np.float64) * factor + added, twin.ijk_to_ras)
    return judged(place, scaled, may_refuse=case.slope == 0 and case.intercept != 0)


@dataclasses.dataclass(frozen=True)
class Padded:
    """A CT whose values outside the scanner's circle are no Hounsfield units."""

    body: Body
    padding: int
    radius: float
    noise: int
    ending: str
    dtype: str


def _padded(case: Padded, folder: Path) -> Outcome:
    twin = case.body.twin(np.float32)
    noise = np.random.default_rng(case.body.seed).integers(-case.noise, case.noise + 1, twin.grid)
    values = np.maximum(np.rint(twin.array - 60 + noise), AIR).astype(case.dtype)
    j, i = np.meshgrid(*[np.linspace(-1, 1, n) for n in twin.grid[1:]], indexing="ij")
    outside = np.broadcast_to(np.hypot(j, i) > case.radius, twin.grid)
    clean = Volume(np.where(outside, np.array(AIR, values.dtype), values), twin.ijk_to_ras)
    padded = Volume(np.where(outside, np.array(case.padding, values.dtype), values), twin.ijk_to_ras)
    place = write(folder, f"a{case.ending}", image_bytes(padded, case.ending))
    return judged(place, clean)


@dataclasses.dataclass(frozen=True)
class Spoilt:
    """A volume with some voxels that are no numbers, or with one number alone."""

    body: Body
    value: float
    share: float
    dtype: str
    ending: str


def _spoilt(case: Spoilt, folder: Path) -> Outcome:
    volume = case.body.stored(case.dtype)
    spoilt = np.random.default_rng(case.body.seed).random(volume.grid) < case.share
    spoilt.flat[case.body.seed % spoilt.size] = True
    array = np.where(spoilt, np.array(case.value, case.dtype), volume.array)
    bad = Volume(array, volume.ijk_to_ras)
    place = write(folder, f"a{case.ending}", image_bytes(bad, case.ending))
    told = "everywhere" if np.isfinite(case.value) else str(int(spoilt.sum()))
    return must_be_refused(place, names=(told,))


@dataclasses.dataclass(frozen=True)
class Placed:
    """A NIfTI that tells its place once or twice: `codes` are those of qform and sform."""

    body: Body
    codes: tuple[int, int]
    order: str
    away: float


def _placed(case: Placed, folder: Path) -> Outcome:
    """Where both forms claim the same kind of place, they must say the same; else one of them counts."""
    volume, twin = case.body.stored(), case.body.twin()
    content = bytearray(nifti_bytes(volume, order=case.order, codes=case.codes))
    qform, sform = case.codes
    if case.away:
        # The one that does not count, where the codes differ; the sform counts beside a qform of another kind if 1.
        place = 268 if sform == 1 and qform > 0 else 292
        number = struct.unpack_from(case.order + "f", content, place)[0]
        struct.pack_into(case.order + "f", content, place, number + case.away * max(volume.spacing))
    path = write(folder, "a.nii", bytes(content))
    if case.away and qform == sform:
        return must_be_refused(path, names=("two places",))
    extent = float(np.linalg.norm(twin.ijk_to_ras[:3, :3] @ twin.grid[::-1]))
    return judged(path, twin, reach=1e-3 * extent)  # what float32 costs a quaternion near half a turn


def _in_memory(case: Kept, folder: Path) -> Outcome:
    return same_as_twin(case.body.stored(case.dtype), case.body.twin(case.dtype))


tiny_and_large = st.floats(-4, np.log10(50)).map(lambda power: float(f"{10**power:.4g}"))
counts = st.one_of(st.integers(1, 3), st.integers(4, 60), st.integers(61, 2000))
endings, byte_orders = st.sampled_from(ENDINGS), st.sampled_from("<>")
kept = {"ending": endings, "order": byte_orders, "packed": st.booleans()}

FAULTS = [
    Fault(
        group=GROUP, name="48 axis orders and flips, straight, oblique and 45-degree headers, in every format",
        cases=st.builds(Kept, bodies(), **kept), judge=_worked, quick=12, full=400,
    ),
    Fault(
        group=GROUP, name="48 axis orders and flips of an array in memory",
        cases=st.builds(Kept, bodies(lean=st.one_of(st.just(0.0), leans))), judge=_in_memory, quick=6, full=200,
    ),
    Fault(
        group=GROUP, name="gantry tilt: sheared directions, NRRD and MetaImage",
        cases=st.builds(Kept, bodies(lean=leans), **{**kept, "ending": st.sampled_from(LEANING)}),
        judge=_worked, quick=8, full=250,
    ),
    Fault(
        group=GROUP, name="gantry tilt: sheared directions in a NIfTI of another program",
        cases=st.builds(Kept, bodies(lean=leans), **{**kept, "ending": st.sampled_from((".nii", ".nii.gz"))}),
        judge=_leaning_nifti, quick=6, full=150,
    ),
    Fault(
        group=GROUP, name="written and read again by the library, with and without gantry tilt",
        cases=st.builds(Kept, bodies(lean=st.one_of(st.just(0.0), leans)), endings), judge=_written_again,
        quick=6, full=150,
    ),
    Fault(
        group=GROUP, name="unequal and extreme spacings, 0.0001 to 50 mm",
        cases=st.builds(Kept, bodies(spacing=st.tuples(*[tiny_and_large] * 3)), **kept),
        judge=_worked, quick=8, full=200,
    ),
    Fault(
        group=GROUP, name="one to 2,000 slices",
        cases=st.builds(Kept, bodies(grid=st.tuples(counts, st.integers(6, 9), st.integers(7, 9))), **kept),
        judge=_worked, quick=6, full=120,
    ),
    Fault(
        group=GROUP, name="8 to 64 bits, whole and real numbers, either byte order, raw or compressed",
        cases=st.builds(Kept, bodies(), dtype=st.sampled_from(TYPES), **kept), judge=_worked, quick=10, full=250,
    ),
    Fault(
        group=GROUP, name="values scaled by a NIfTI's slope and intercept",
        cases=st.builds(
            Scaled, bodies(), st.sampled_from(TYPES[:6] + TYPES[-2:]),
            st.sampled_from([0.0, 0.25, 0.5, 1.0, 2.0, 7.5, -1.0]), st.sampled_from([0.0, -1024.0, 0.5, 1000.0]),
            byte_orders, st.booleans(),
        ),
        judge=_scaled, quick=8, full=200,
    ),
    Fault(
        group=GROUP, name="NIfTI that tells its place as qform, as sform, or as both, alike or not",
        cases=st.builds(
            Placed, bodies(), st.sampled_from([(1, 0), (2, 0), (0, 1), (0, 2), (1, 1), (2, 2), (1, 2), (2, 1), (1, 4)]),
            byte_orders, st.sampled_from([0.0, 0.0, 0.5, -3.0, 100.0]),
        ).filter(lambda case: min(case.codes) > 0 or not case.away),
        judge=_placed, quick=8, full=200,
    ),
    Fault(
        group=GROUP, name="CT padded with -2000 or -3024 outside the scanner's circle",
        cases=st.builds(
            Padded, upright_bodies(grid=st.tuples(st.integers(4, 8), st.integers(12, 20), st.integers(12, 24))),
            st.sampled_from([-2000, -3024, -2048, -1500, -32768]), st.floats(0.9, 1.3), st.integers(0, 60),
            endings, st.sampled_from(["int16", "int32", "float32", "float64"]),
        ),
        judge=_padded, quick=8, full=200,
    ),
    Fault(
        group=GROUP, name="voxels that are NaN or infinite",
        cases=st.builds(
            Spoilt, bodies(), st.sampled_from([np.nan, np.inf, -np.inf]), st.sampled_from([0.0, 0.01, 0.5, 1.0]),
            st.sampled_from(["float32", "float64"]), endings,
        ),
        judge=_spoilt, quick=5, full=100,
    ),
    Fault(
        group=GROUP, name="one value everywhere",
        cases=st.builds(
            Spoilt, bodies(), st.sampled_from([-3024.0, -1024.0, 0.0, 1.0, 1000.0]), st.just(2.0),
            st.sampled_from(["int16", "int32", "float32", "float64"]), endings,
        ),
        judge=_spoilt, quick=4, full=60,
    ),
]  # fmt: skip
