"""DICOM series and multi-frame files as one array and its affine, the positions of the slices taken as they are."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk

from .dicom_frames import frames_of
from .errors import InputError
from .stack import GAP_TOLERANCE, arranged, plane_of

__all__ = ["GAP_TOLERANCE", "POSITION", "has_frames", "modality_of", "read_frames", "read_series", "series_files"]

POSITION, ORIENTATION, SPACING = "0020|0032", "0020|0037", "0028|0030"
MODALITY = "0008|0060"
FRAMES, PHOTOMETRIC, SIGNED = "0028|0008", "0028|0004", "0028|0103"
SLOPE, INTERCEPT = "0028|1053", "0028|1052"
LAYOUT = ("0028|0100", "0028|0101", "0028|0102", SIGNED)  # how a stored number is packed
STORAGE = b"1.2.840.10008.5.1.4.1.1."
# Objects that go with images and are none: reports, presentations, structures, plans, waveforms, raw data, documents.
WITHOUT_PIXELS = tuple(STORAGE + part for part in (b"88.", b"11.", b"481.", b"9.", b"66", b"67", b"104."))
DIRECTORY = b"1.2.840.10008.1.3.10"
CLASS = b"\x02\0\x02\0UI"  # the head of the element that tells what kind of object a file is
HEAD = 4096  # bytes in which a file tells what it is

Array = npt.NDArray
Numbers = npt.NDArray[np.float64]


def read_series(folder: Path) -> tuple[Array, Numbers]:
    """The voxels [k, j, i] of the one series in `folder`, and their affine to LPS millimetres.

    The direction along k comes from the slices' positions, so a gantry tilt stays a shear; numbers of slices and
    names of files are not looked at. Raises InputError for a folder without images, with several series or stacks,
    or with slices that are missing, damaged or unlike the others.
    """
    files = series_files(folder)
    if len(files) == 1 and has_frames(files[0]):
        return read_frames(files[0])
    where = f"'{folder}'"
    image, reader = _read(files, folder)
    if image.GetNumberOfComponentsPerPixel() != 1:
        raise InputError(f"The DICOM series in {where} is in colour; give a series in grey.")
    told = [_Told(reader, n) for n in range(len(files))]
    if image.GetDimension() != 3 or any(slice_.number(FRAMES, 1) > 1 for slice_ in told):
        raise InputError(f"The folder {where} holds several multi-frame files: put the wanted one in its own.")
    _check_scale(told, where)
    if len({(slice_.text(SLOPE), slice_.text(INTERCEPT)) for slice_ in told}) > 1:
        # ITK gives all slices the type that suits the first one, and would round the others.
        image, _ = _read(files, folder, kind=sitk.sitkFloat64)
    lps = np.eye(4)
    lps[:3, :3] = np.array(image.GetDirection()).reshape(3, 3) * np.array(image.GetSpacing())
    lps[:3, 3] = image.GetOrigin()
    array = sitk.GetArrayFromImage(image)
    if len(files) == 1:
        return array, lps
    plane = _column(told, ORIENTATION, 6, "direction", where), _column(told, SPACING, 2, "pixel size", where)
    return _stacked(array, _column(told, POSITION, 3, "position", where), *plane, where=where)


def series_files(folder: Path) -> list[Path]:
    """The files of the one series in `folder`.

    Raises InputError if there is none or more than one, or a DICOM image that cannot be read as one.
    """
    try:
        series = sitk.ImageSeriesReader.GetGDCMSeriesIDs(str(folder))
        names = [sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder), one) for one in series]
    except RuntimeError as error:
        raise InputError(f"A DICOM file in '{folder}' is damaged: copy or export the series again.") from error
    listed = {Path(name).name for of_series in names for name in of_series}
    for place in sorted(folder.iterdir()):
        if place.is_file() and place.name not in listed and _should_be_image(place):
            raise InputError(
                f"'{place.name}' in '{folder}' is damaged or ends too early, a slice would be missing: copy or export "
                "it again."
            )
    if not series:
        raise InputError(f"The folder '{folder}' holds no DICOM images: give the folder of one series.")
    if len(series) > 1:
        counts = ", ".join(str(count) for count in sorted(map(len, names)))
        raise InputError(
            f"The folder '{folder}' holds {len(series)} DICOM series: put the wanted one in its own "
            f"(they have {counts} files)."
        )
    return [Path(name) for name in names[0]]


def has_frames(place: Path) -> bool:
    """Whether a file is a DICOM file of several frames."""
    if not place.is_file() or sitk.ImageFileReader.GetImageIOFromFileName(str(place)) != "GDCMImageIO":
        return False
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(place))
    try:
        reader.ReadImageInformation()
    except RuntimeError:
        return False  # reading it will say why
    return any(count > 1 for count in reader.GetSize()[2:])


def read_frames(place: Path) -> tuple[Array, Numbers]:
    """The voxels [k, j, i] of a multi-frame file in the order of their positions, and their affine to LPS millimetres.

    Raises InputError where the frames do not tell where they lie, are no one stack, or differ in their scale.
    """
    where, frames = f"'{place.name}'", frames_of(place)
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(place))
    try:
        image = reader.Execute()
    except RuntimeError as error:
        raise InputError(f"{where} cannot be read, it is damaged or incomplete: copy or export it again.") from error
    if image.GetNumberOfComponentsPerPixel() != 1:
        raise InputError(f"{where} is in colour; give a series in grey.")
    array = sitk.GetArrayFromImage(image)
    if array.ndim != 3 or len(array) != len(frames.positions):
        raise InputError(f"{where} tells the positions of another number of frames than it holds: export it again.")
    if np.ptp(frames.rescales, axis=0).any() or reader.GetMetaData(PHOTOMETRIC).strip() == "MONOCHROME1":
        raise InputError(f"The frames in {where} scale their values in several ways: export them as single slices.")
    return _stacked(array, frames.positions, frames.orientations, frames.spacings, where=where)


def modality_of(place: Path) -> str:
    """DICOM's code of the modality that a file, or the first image in a folder, tells; "" where none does."""
    for file in sorted(place.iterdir()) if place.is_dir() else (place,):
        if not file.is_file() or sitk.ImageFileReader.GetImageIOFromFileName(str(file)) != "GDCMImageIO":
            continue
        reader = sitk.ImageFileReader()
        reader.SetFileName(str(file))
        try:
            reader.ReadImageInformation()
        except RuntimeError:
            continue
        return reader.GetMetaData(MODALITY).strip(" \0") if reader.HasMetaDataKey(MODALITY) else ""
    return ""


class _Told:
    """What the header of one slice of a series tells."""

    def __init__(self, reader: sitk.ImageSeriesReader, number: int) -> None:
        self._reader, self._number = reader, number

    def text(self, tag: str) -> str:
        """The value of a tag; empty if there is none."""
        there = self._reader.HasMetaDataKey(self._number, tag)
        return self._reader.GetMetaData(self._number, tag).strip(" \0") if there else ""

    def number(self, tag: str, default: float) -> float:
        """The number that a tag tells; `default` if there is none, NaN if it is no number."""
        try:
            return float(self.text(tag) or default)
        except ValueError:
            return math.nan


def _read(files: list[Path], folder: Path, *, kind: int | None = None) -> tuple[sitk.Image, sitk.ImageSeriesReader]:
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames([str(file) for file in files])
    # ITK may straighten the direction; the positions of the slices are read for that reason.
    reader.MetaDataDictionaryArrayUpdateOn()
    if kind is not None:
        reader.SetOutputPixelType(kind)
    try:
        return reader.Execute(), reader
    except RuntimeError as error:
        sizes = _sizes(files)
        if len(sizes) > 1:
            raise InputError(
                f"The slices in '{folder}' have different sizes ({', '.join(sizes)}; a localiser?): "
                "put the wanted ones in a folder of their own."
            ) from error
        raise InputError(f"The DICOM series in '{folder}' cannot be read: copy or export it again.") from error


def _sizes(files: list[Path]) -> list[str]:
    """The different sizes of the slices, the most frequent first."""
    found: Counter[str] = Counter()
    for file in files:
        reader = sitk.ImageFileReader()
        reader.SetFileName(str(file))
        try:
            reader.ReadImageInformation()
        except RuntimeError:
            continue
        found["{} x {}".format(*reader.GetSize()[:2])] += 1
    return [size for size, _ in found.most_common()]


def _check_scale(told: list[_Told], where: str) -> None:
    """Raise InputError where what is stored cannot be told in the same units for all slices."""
    if len({tuple(one.text(tag) for tag in LAYOUT) for one in told}) > 1:
        raise InputError(f"The slices in {where} store their values in several ways: export the series again.")
    for tag, what in ((SLOPE, "slope"), (INTERCEPT, "intercept")):
        if 0 < sum(one.text(tag) == "" for one in told) < len(told):
            raise InputError(f"A slice in {where} does not tell the {what} of its values: export the series again.")
    for one in told:
        # GDCM inverts what is stored; with a scale the units would come out wrong.
        units = one.text(SIGNED) == "1" or one.number(SLOPE, 1) != 1 or one.number(INTERCEPT, 0) != 0
        if one.text(PHOTOMETRIC) == "MONOCHROME1" and units:
            raise InputError(f"The series in {where} has inverted greys (MONOCHROME1): export it as MONOCHROME2.")


def _column(told: list[_Told], tag: str, count: int, what: str, where: str) -> Numbers:
    """The numbers of one tag of all slices [N, count]."""
    try:
        rows = [[float(part) for part in one.text(tag).split("\\")] for one in told]
    except ValueError:
        rows = [[]]
    if {len(row) for row in rows} != {count} or not np.all(np.isfinite(rows)):
        raise InputError(f"A slice in {where} does not tell its {what}: export the series again.")
    return np.array(rows)


def _stacked(
    array: Array, positions: Numbers, orientations: Numbers, spacings: Numbers, *, where: str
) -> tuple[Array, Numbers]:
    directions, spacing = plane_of(orientations, spacings, where=where)
    order, step = arranged(positions, directions, where=where)
    lps = np.eye(4)
    lps[:3, 0], lps[:3, 1], lps[:3, 2] = directions[0] * spacing[1], directions[1] * spacing[0], step
    lps[:3, 3] = positions[order[0]]
    in_order = np.array_equal(order, np.arange(len(order)))
    return array if in_order else array[order], lps


def _should_be_image(place: Path) -> bool:
    """Whether a file that cannot be read as an image should be one, by its first bytes or else its ending."""
    # What macOS leaves beside each file on a stick.
    if place.name.upper() == "DICOMDIR" or place.name.startswith("._"):
        return False
    with place.open("rb") as stream:
        head = stream.read(HEAD)
    if head[128:132] == b"DICM":
        kind = head.partition(CLASS)[2][2:]
        # Of makers' own kinds, no images as a rule, the reader lists those that are. A file may end within its kind.
        return STORAGE.startswith(kind[: len(STORAGE)]) and not kind.startswith((DIRECTORY, *WITHOUT_PIXELS))
    return place.suffix.lower() in (".dcm", ".dicom", ".ima")
