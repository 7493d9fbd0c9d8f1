"""Faults of DICOM series: what is in the folder, and where the slices say they lie."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
from hypothesis import strategies as st

from AnyMC3DLib.volume import LPS_TO_RAS, Volume

from .answers import judged, must_be_refused
from .dicom_files import ROOT, SliceFile, dicom_bytes, numbers, pixel_tags, series_of
from .fault import Fault, Outcome
from .phantoms import Body, leans, upright_bodies

GROUP = "DICOM"
POSITION, ORIENTATION, SPACING, NUMBER = "0020|0032", "0020|0037", "0028|0030", "0020|0013"
REPORT, DIRECTORY = "1.2.840.10008.5.1.4.1.1.88.11", "1.2.840.10008.1.3.10"


@dataclasses.dataclass(frozen=True)
class Series:
    """A series on disk: one slice a file, in a shuffled order of names.

    `kind` says what is wrong, `where` which slice is meant (a share of them), `amount` how much.
    """

    body: Body
    kind: str = ""
    where: float = 0.0
    amount: float = 0.0

    def files(self) -> list[SliceFile]:
        """The clean files, their names in another order than their places."""
        files = series_of(self.body.twin())
        names = np.random.default_rng(self.body.seed).permutation(len(files))
        for file, name in zip(files, names, strict=True):
            file.name = f"{name:04d}.dcm"
        return files

    def slice_of(self, files: list[SliceFile]) -> int:
        """The slice that is meant."""
        return int(self.where * len(files))


def _put(files: list[SliceFile], folder: Path) -> Path:
    place = folder / "series"
    place.mkdir(exist_ok=True)
    for file in files:
        file.write(place)
    return place


def _heights(volume: Volume) -> list[float]:
    """How far along its normal each slice lies, in mm, as DICOM counts."""
    lps = LPS_TO_RAS @ volume.ijk_to_ras
    normal = np.cross(lps[:3, 0] / volume.spacing[0], lps[:3, 1] / volume.spacing[1])
    return [float((lps[:3, 3] + k * lps[:3, 2]) @ normal) for k in range(volume.grid[0])]


def _worked(case: Series, folder: Path) -> Outcome:
    return judged(_put(case.files(), folder), case.body.twin())


def _numbered(case: Series, folder: Path) -> Outcome:
    """Numbers and names of slices are not what counts."""
    files = case.files()
    for number, file in enumerate(files):
        wrong = {"reversed": len(files) - number, "equal": 1, "random": (number * 5) % 7, "text": "x"}
        file.tags[NUMBER] = ("IS", str(wrong.get(case.kind, number)))
        if case.kind == "missing" or (case.kind == "one missing" and number == case.slice_of(files)):
            del file.tags[NUMBER]
    return judged(_put(files, folder), case.body.twin())


def _gaps(case: Series, folder: Path) -> Outcome:
    files, heights = case.files(), _heights(case.body.twin())
    first = 1 + int(case.where * (len(files) - 3))
    last = min(first + 1 + int(case.amount), len(files) - 2)
    left = files[:first] + files[last:]
    below, above = heights[first - 1], heights[last]
    return must_be_refused(_put(left, folder), names=(f"between {below:.1f} and {above:.1f}", "missing"))


def _twice(case: Series, folder: Path) -> Outcome:
    files, heights = case.files(), _heights(case.body.twin())
    number = case.slice_of(files)
    again = dataclasses.replace(files[number], tags=dict(files[number].tags), name="again.dcm")
    if case.kind == "another image":
        again.tags["0008|0018"], again.pixels = ("UI", f"{ROOT}.1.999"), again.pixels + 1
    return must_be_refused(_put([*files, again], folder), names=("twice", f"{heights[number]:.1f}"))


def _second_stack(case: Series, folder: Path) -> Outcome:
    """Another stack in the same series: at the same places, further along, between the slices, or turned."""
    files, twin = case.files(), case.body.twin()
    affine = twin.ijk_to_ras.copy()
    if case.kind == "further":
        affine[:3, 3] += affine[:3, 2] * (len(files) + 3 + int(case.amount))
    elif case.kind == "between":
        affine[:3, 3] += affine[:3, 2] * 0.3
    elif case.kind == "turned":
        affine[:3, :3] = affine[:3, [1, 2, 0]] / twin.spacing[[1, 2, 0]] * twin.spacing
    count = len(files) if case.kind == "same" else 1 + int(case.amount) % len(files)
    others = series_of(Volume(twin.array[:count], affine))
    for number, other in enumerate(others):
        other.name = f"other{number}.dcm"
        other.tags["0008|0018"] = ("UI", f"{ROOT}.1.{number + 500}")
    told = {"same": "2 lie at each", "turned": "several directions"}.get(case.kind, "not evenly spaced")
    return must_be_refused(_put([*files, *others], folder), names=(told,))


def _localiser(case: Series, folder: Path) -> Outcome:
    """A picture across the stack, in its series or one of its own."""
    files, twin = case.files(), case.body.twin()
    across = Volume(np.ascontiguousarray(twin.array.transpose(1, 0, 2)[:1]), twin.ijk_to_ras[:, [0, 2, 1, 3]])
    (picture,) = series_of(across, series=f"{ROOT}.1" if "same series" in case.kind else f"{ROOT}.2")
    picture.name, picture.tags["0008|0018"] = "localiser.dcm", ("UI", f"{ROOT}.7")
    if "same size" in case.kind:
        picture.pixels = np.resize(picture.pixels, files[0].pixels.shape)
        picture.tags.update(pixel_tags(picture.pixels))
    if "same series" not in case.kind:
        told = "2 DICOM series"
    elif picture.pixels.shape == files[0].pixels.shape:
        told = "several directions"
    else:
        told = "different sizes"
    return must_be_refused(_put([*files, picture], folder), names=(told,))


def _unlike(case: Series, folder: Path) -> Outcome:
    """One slice is not as the others are."""
    files = case.files()
    file = files[case.slice_of(files)]
    if case.kind == "size":
        file.pixels = file.pixels[:, : -1 - int(case.amount)]
        file.tags.update(pixel_tags(file.pixels))
    elif case.kind == "spacing":
        row, column = (float(part) for part in file.tags[SPACING][1].split("\\"))
        file.tags[SPACING] = ("DS", numbers((row * (1.01 + case.amount), column)))
    elif case.kind == "turned":
        turned = dataclasses.replace(case.body, turn=(case.body.turn[0], case.body.turn[1], case.body.turn[2] + 5))
        file.tags[ORIENTATION] = series_of(turned.twin())[0].tags[ORIENTATION]
    elif case.kind == "moved":
        lps = LPS_TO_RAS @ case.body.twin().ijk_to_ras
        step, across = lps[:3, 2], lps[:3, 0] / np.linalg.norm(lps[:3, 0])
        position = np.array([float(part) for part in file.tags[POSITION][1].split("\\")])
        file.tags[POSITION] = ("DS", numbers(position + across * np.linalg.norm(step) * (0.2 + case.amount)))
    else:
        del file.tags[case.kind]
    return must_be_refused(_put(files, folder))


def _beside(case: Series, folder: Path) -> Outcome:
    """What lies beside a series and is no image changes nothing."""
    place = _put(case.files(), folder)
    if "readme" in case.kind:
        (place / "readme.txt").write_text("DICM, exported for teaching.\n" * 20)
        (place / ".DS_Store").write_bytes(bytes(range(256)))
        (place / "empty").write_bytes(b"")
    if "report" in case.kind:
        tags = {"0008|0016": ("UI", REPORT), "0008|0018": ("UI", f"{ROOT}.8"), "0020|000e": ("UI", f"{ROOT}.1")}
        content = dicom_bytes(tags, np.zeros((1, 1), np.int16))
        (place / "report.dcm").write_bytes(content[: content.rindex(b"\xe0\x7f\x10\x00")])
    if "directory" in case.kind:
        tags = {"0008|0016": ("UI", DIRECTORY), "0004|1130": ("CS", "DISK")}
        content = dicom_bytes(tags, np.zeros((1, 1), np.int16))
        (place / "DICOMDIR").write_bytes(content[: content.rindex(b"\xe0\x7f\x10\x00")])
    if "folder" in case.kind:
        (place / "inner").mkdir()
        case.files()[0].write(place / "inner")
    return judged(place, case.body.twin())


def _cut(case: Series, folder: Path) -> Outcome:
    """A slice that ends too early must not just be missing, not even the first or the last one."""
    files = case.files()
    place = _put(files, folder)
    file = place / files[case.slice_of(files)].name
    content = file.read_bytes()
    file.write_bytes(content[: int(case.amount * len(content))])
    return must_be_refused(place, names=(file.name,))


def _several(case: Series, folder: Path) -> Outcome:
    files, count = case.files(), 2 + int(case.amount) % 3
    for number in range(1, count):
        for file in series_of(case.body.twin(), series=f"{ROOT}.{number + 20}"):
            files.append(dataclasses.replace(file, name=f"{number}_{file.name}"))
    return must_be_refused(_put(files, folder), names=(f"{count} DICOM series",))


wheres, amounts = st.floats(0, 1, exclude_max=True), st.integers(0, 5).map(float)
stacks = upright_bodies(grid=st.tuples(st.integers(5, 12), st.integers(9, 14), st.integers(9, 16)))


def _series(*kinds: str) -> st.SearchStrategy[Series]:
    return st.builds(Series, stacks, st.sampled_from(kinds), wheres, amounts)


FAULTS = [
    Fault(
        group=GROUP, name="straight, oblique and 45-degree series of 2 to 60 slices, files in any order",
        cases=st.builds(Series, upright_bodies(grid=st.tuples(st.integers(2, 60), *[st.integers(9, 12)] * 2))),
        judge=_worked, quick=5, full=150,
    ),
    Fault(
        group=GROUP, name="gantry tilt: sheared series", cases=st.builds(Series, upright_bodies(lean=leans)),
        judge=_worked, quick=5, full=150,
    ),
    Fault(
        group=GROUP, name="wrong, equal or missing instance numbers",
        cases=_series("reversed", "equal", "random", "text", "missing", "one missing"), judge=_numbered,
        quick=6, full=150,
    ),
    Fault(group=GROUP, name="missing slices", cases=_series("gap"), judge=_gaps, quick=6, full=150),
    Fault(
        group=GROUP, name="a slice twice", cases=_series("copy", "another image"), judge=_twice, quick=6, full=100,
    ),
    Fault(
        group=GROUP, name="two stacks in one series", cases=_series("same", "further", "between", "turned"),
        judge=_second_stack, quick=8, full=200,
    ),
    Fault(
        group=GROUP, name="a localiser beside or within the series",
        cases=_series("own series", "same series", "same series, same size", "own series, same size"),
        judge=_localiser, quick=6, full=150,
    ),
    Fault(
        group=GROUP, name="one slice of another size, direction, spacing or place, or without it",
        cases=_series("size", "spacing", "turned", "moved", POSITION, ORIENTATION, SPACING), judge=_unlike,
        quick=10, full=250,
    ),
    Fault(
        group=GROUP, name="readme, DICOMDIR, report and folders beside the series",
        cases=_series("readme", "report", "directory", "folder", "readme report directory folder"), judge=_beside,
        quick=5, full=100,
    ),
    Fault(
        group=GROUP, name="one slice's file cut short",
        cases=st.builds(Series, stacks, st.just("cut"), wheres, st.floats(0, 1, exclude_max=True)), judge=_cut,
        quick=8, full=200,
    ),
    Fault(group=GROUP, name="several series in one folder", cases=_series("several"), judge=_several, quick=3, full=60),
]  # fmt: skip
