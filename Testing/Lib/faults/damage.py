"""Faults of image files: damaged headers and data, and images that are no single scalar volume."""

from __future__ import annotations

import dataclasses
import gzip
from pathlib import Path

import numpy as np
from hypothesis import strategies as st

from AnyMC3DLib.errors import AnyMC3DError
from AnyMC3DLib.geometry import corners_of
from AnyMC3DLib.volume import Volume, read_volume

from .answers import judged, must_be_refused, same_as_twin
from .fault import Fault, Outcome, refused
from .image_files import image_bytes, nifti_bytes, nrrd_bytes, telling_bytes, write
from .phantoms import Body, bodies

GROUP = "images"
ENDINGS = (".nii", ".nii.gz", ".nrrd", ".mha")
NEAR = 0.3  # voxels by which damage may move a corner unseen: less than it takes to see another voxel


@dataclasses.dataclass(frozen=True)
class Damaged:
    """A file with one bit flipped, or cut off: `place` is a share of the bytes that may be hit."""

    body: Body
    ending: str
    packed: bool
    order: str
    place: float
    bit: int = 0

    def content(self) -> bytes:
        """The file as it was."""
        return image_bytes(self.body.stored(), self.ending, order=self.order, packed=self.packed)

    def flipped(self, content: bytes, among: list[int]) -> bytes:
        """The file with a bit of one of the bytes `among` flipped."""
        changed = bytearray(content)
        changed[among[min(int(self.place * len(among)), len(among) - 1)]] ^= 1 << self.bit
        return bytes(changed)


def _refused_or_same(place: Path, case: Damaged) -> Outcome:
    """Refused, or the voxels of before where they were, to a part of a voxel."""
    stored = case.body.stored()
    try:
        volume = read_volume(place)
    except AnyMC3DError as error:
        return refused(error, names=(place.name,))
    assert np.array_equal(volume.array, stored.array), "other voxels"
    away = np.linalg.norm(corners_of(volume.grid, volume.ijk_to_ras) - stored.corners(), axis=1).max()
    assert away < NEAR * stored.spacing.min() + 1e-3 * np.linalg.norm(stored.spacing * stored.grid[::-1]), f"{away} mm"
    return same_as_twin(Volume(volume.array, stored.ijk_to_ras), case.body.twin())


def _flipped_header(case: Damaged, folder: Path) -> Outcome:
    content = case.content()
    unzipped = gzip.decompress(content) if case.ending == ".nii.gz" else content
    among = telling_bytes(unzipped, ".nii" if case.ending == ".nii.gz" else case.ending)
    changed = case.flipped(unzipped, among)
    changed = gzip.compress(changed, 1) if case.ending == ".nii.gz" else changed
    return _refused_or_same(write(folder, f"a{case.ending}", changed), case)


def _flipped_data(case: Damaged, folder: Path) -> Outcome:
    """Compressed voxels carry a checksum, so that a flipped bit can be told."""
    content = case.content()
    start = {".nrrd": content.find(b"\n\n") + 2, ".mha": content.find(b"LOCAL\n") + 6}.get(case.ending, 0)
    changed = case.flipped(content, list(range(start, len(content))))
    return _refused_or_same(write(folder, f"a{case.ending}", changed), case)


def _cut(case: Damaged, folder: Path) -> Outcome:
    content = case.content()
    return must_be_refused(write(folder, f"a{case.ending}", content[: int(case.place * len(content))]))


def _longer(case: Damaged, folder: Path) -> Outcome:
    """More voxels than the header tells: it is the header of another image, or damaged."""
    content = case.content() if case.ending != ".nii.gz" else gzip.decompress(case.content())
    content += bytes(1 + int(case.place * 2000))
    content = gzip.compress(content, 1) if case.ending == ".nii.gz" else content
    place = write(folder, f"a{case.ending}", content)
    return judged(place, case.body.twin(), may_refuse=True) if case.packed else must_be_refused(place)


@dataclasses.dataclass(frozen=True)
class Many:
    """More than one value a voxel, or more than one volume."""

    body: Body
    kind: str
    count: int


def _many(case: Many, folder: Path) -> Outcome:
    body = case.body.stored()
    stacked = np.stack([body.array] * case.count)
    if case.kind == "4D NIfTI":
        shape = (*body.array.shape[::-1], case.count)
        place = write(folder, "a.nii", nifti_bytes(body, stored=stacked, shape=shape))
    elif case.kind == "RGB NIfTI":
        # Type 128 holds three bytes a voxel.
        content = bytearray(nifti_bytes(body, stored=body.array.astype(np.uint8)))
        content[70:74] = b"\x80\0\x18\0"
        place = write(folder, "a.nii", bytes(content[:352]) + stacked[:1].astype(np.uint8).tobytes() * 3)
    else:
        kinds = {"4D NRRD": "list", "vector NRRD": "vector"}[case.kind]
        sizes = " ".join(map(str, body.array.shape[::-1]))
        first, last = (f"{case.count} ", "") if kinds == "vector" else ("", f" {case.count}")
        none_first, none_last = ("none ", "") if kinds == "vector" else ("", " none")
        head = (
            f"dimension: 4\nspace: left-posterior-superior\nsizes: {first}{sizes}{last}\n"
            f"space directions: {none_first}(1,0,0) (0,1,0) (0,0,1){none_last}\n"
            f"kinds: {'vector ' if first else ''}domain domain domain{' list' if last else ''}\n"
        )
        array = np.moveaxis(stacked, 0, -1) if kinds == "vector" else stacked
        place = write(folder, "a.nrrd", _nrrd(array, head))
    if case.count == 1 and case.kind == "4D NIfTI":
        return judged(place, case.body.twin())
    return must_be_refused(place)


def _nrrd(array: np.ndarray, head: str) -> bytes:
    plain = nrrd_bytes(Volume(np.zeros((1, 1, 1), array.dtype), np.eye(4)), head=head)
    return plain[: plain.index(b"\n\n") + 2] + np.ascontiguousarray(array).tobytes()


small = st.tuples(st.integers(4, 6), st.integers(9, 12), st.integers(9, 12))
drawn = (st.booleans(), st.sampled_from("<>"), st.floats(0, 1, exclude_max=True), st.integers(0, 7))

FAULTS = [
    Fault(
        group=GROUP, name="a flipped bit in a header, NIfTI, NRRD and MetaImage",
        cases=st.builds(Damaged, bodies(grid=small), st.sampled_from(ENDINGS), *drawn),
        judge=_flipped_header, quick=60, full=1200,
    ),
    Fault(
        group=GROUP, name="a flipped bit in compressed voxels",
        cases=st.builds(Damaged, bodies(grid=small), st.sampled_from(ENDINGS[1:]), st.just(True), *drawn[1:]),
        judge=_flipped_data, quick=30, full=400,
    ),
    Fault(
        group=GROUP, name="a file cut short",
        cases=st.builds(Damaged, bodies(grid=small), st.sampled_from(ENDINGS), *drawn[:3]),
        judge=_cut, quick=30, full=400,
    ),
    Fault(
        group=GROUP, name="a file with more data than its header tells",
        cases=st.builds(Damaged, bodies(grid=small), st.sampled_from(ENDINGS), *drawn[:3]),
        judge=_longer, quick=30, full=100,
    ),
    Fault(
        group=GROUP, name="time series, vector and colour volumes",
        cases=st.builds(
            Many, bodies(grid=small), st.sampled_from(["4D NIfTI", "RGB NIfTI", "4D NRRD", "vector NRRD"]),
            st.integers(1, 5),
        ).filter(lambda case: case.count > 1 or case.kind == "4D NIfTI"),
        judge=_many, quick=10, full=100,
    ),
]  # fmt: skip
