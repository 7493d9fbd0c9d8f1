"""What the header of an image tells, whether a mask lies on it, and which files hold the same."""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import math
import os
import zlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk

from ..dicom import GAP_TOLERANCE, POSITION
from ..geometry import Affine, boxes_overlap, corners_of, is_sheared, spacing_of
from ..manifest import IN_TWO_FILES
from ..volume import LPS_TO_RAS, Volume, from_sitk, read_volume

# Geometries are the same within so much of a voxel: programs round headers differently.
ROUNDING = 0.05
PARALLEL = math.cos(math.radians(1.0))
BLOCK = 1 << 20
WRAP = 1 << 32  # gzip counts the length of its content modulo this
LEAST_GZIP = 18  # bytes of a gzip file of nothing
BITS = "0028|0100"  # bits that a DICOM voxel takes


@dataclasses.dataclass(frozen=True)
class Header:
    """Where an image lies: its voxels along (k, j, i), and the affine from (i, j, k) to RAS millimetres."""

    grid: tuple[int, int, int]
    ijk_to_ras: Affine

    @property
    def corners(self) -> npt.NDArray[np.float64]:
        """The eight outer corners [8, 3] in RAS."""
        return corners_of(self.grid, self.ijk_to_ras)


def read_header(path: str | Path) -> Header:
    """The geometry of what `volume.read_volume` would read, which raises InputError for the same images.

    The voxels are read only where header and length leave a doubt whether the file is whole: not for NIfTI, NRRD
    compressed by gzip, and DICOM that is not compressed.
    """
    place = Path(path)
    try:
        volume = _series(place) if place.is_dir() else _file(place)
    except (RuntimeError, OSError, ValueError):
        volume = None  # read_volume knows how to say it
    volume = volume or read_volume(place)
    return Header(volume.grid, volume.ijk_to_ras)


def _file(place: Path) -> Volume | None:
    reader = _information(place)
    size = reader.GetSize()
    if any(n > 1 for n in size[3:]) or reader.GetNumberOfComponents() > 3 or not _is_whole(place, reader):
        return None
    return _stand_in(reader, name=f"'{place.name}'")


def _information(place: Path) -> sitk.ImageFileReader:
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(place))
    reader.ReadImageInformation()
    return reader


def _stand_in(reader: sitk.ImageFileReader, *, name: str) -> Volume:
    """A volume of the right shape that repeats one voxel, so that its checks are those of the image itself."""
    components = reader.GetNumberOfComponents()
    image = sitk.Image([1] * reader.GetDimension(), reader.GetPixelID(), components if components > 1 else 0)
    image.SetSpacing(reader.GetSpacing())
    image.SetOrigin(reader.GetOrigin())
    image.SetDirection(reader.GetDirection())
    voxel = from_sitk(image, name=name)
    grid = [*reader.GetSize()[:3], 1][2::-1]
    shape = (*grid, *voxel.array.shape[3:])
    return Volume(np.broadcast_to(voxel.array, shape), voxel.ijk_to_ras, name=name)


def _is_whole(place: Path, reader: sitk.ImageFileReader) -> bool:
    """Whether the file has the promised length; False too where that cannot be told without reading it."""
    if place.name.lower().endswith((".nii", ".nii.gz")):
        told = {key: reader.GetMetaData(key) for key in reader.GetMetaDataKeys()}
        values = math.prod(max(1, int(told[f"dim[{n}]"])) for n in range(1, 8))
        promised = int(float(told["vox_offset"])) + values * int(told["bitpix"]) // 8
        return _length(place, zipped=place.suffix.lower() == ".gz") % WRAP == promised % WRAP and not _leans(told)
    if place.suffix.lower() == ".nrrd":
        kind = sitk.GetArrayViewFromImage(sitk.Image([1, 1], reader.GetPixelID())).dtype
        values = math.prod(reader.GetSize()) * reader.GetNumberOfComponents()
        return _length(place, zipped=True) == values * kind.itemsize % WRAP
    return False


def _length(place: Path, *, zipped: bool) -> int:
    """The length of a file; of one that ends in a gzip stream that of its content, modulo WRAP."""
    return int.from_bytes(_trailer(place)[4:], "little") if zipped else place.stat().st_size


def _trailer(place: Path) -> bytes:
    """The last eight bytes: of a gzip stream the checksum and the length of its content."""
    with place.open("rb") as stream:
        stream.seek(-8, os.SEEK_END)
        return stream.read()


def _leans(told: Mapping[str, str]) -> bool:
    """Whether a NIfTI's axes are not at right angles, which ITK straightens where they almost are."""
    if told["sform_code"] == "0":
        return False
    rows = [[float(number) for number in told[f"srow_{axis}"].split()] for axis in "xyz"]
    return is_sheared(np.array([*rows, [0, 0, 0, 1]]))


def _series(folder: Path) -> Volume | None:
    """A DICOM series whose slices have one shape and even steps."""
    (series,) = sitk.ImageSeriesReader.GetGDCMSeriesIDs(str(folder))
    files = [Path(name) for name in sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder), series)]
    readers = [_information(file) for file in files]
    first = readers[0]
    width, height = first.GetSize()[:2]
    promised = width * height * int(first.GetMetaData(BITS)) // 8
    if first.GetNumberOfComponents() != 1 or min(file.stat().st_size for file in files) < promised:
        return None
    positions = np.array([[float(part) for part in reader.GetMetaData(POSITION).split("\\")] for reader in readers])
    alike = all(reader.GetSize() == (width, height, 1) and reader.GetDirection() == first.GetDirection()
                for reader in readers)  # fmt: skip
    lps = np.eye(4)
    lps[:3, :3] = np.array(first.GetDirection()).reshape(3, 3) * np.array(first.GetSpacing())
    lps[:3, 3] = first.GetOrigin()
    if len(files) > 1:
        lps[:3, 2] = step = (positions[-1] - positions[0]) / (len(files) - 1)
        alike &= np.linalg.norm(np.diff(positions, axis=0) - step, axis=1).max() < GAP_TOLERANCE * np.linalg.norm(step)
    shape = (len(files), height, width)
    return Volume(np.broadcast_to(np.uint8(0), shape), LPS_TO_RAS @ lps, name=f"'{folder.name}'") if alike else None


def misfit(image: Header, mask: Header) -> tuple[Literal["overlap", "geometry"], str] | None:
    """Why a mask does not lie on its image: a kind, and words that go on after 'the mask'; None where it does.

    A mask of the same size has the geometry of its image; one of another size may have any spacing and field of view,
    as long as the fields overlap and the axes are parallel in any order and direction.
    """
    if not boxes_overlap(image.corners, mask.corners):
        return "overlap", "lies wholly outside the image"
    far = float(np.abs(image.corners - mask.corners).max())
    if image.grid == mask.grid:
        same = far <= ROUNDING * spacing_of(image.ijk_to_ras).min()
        return None if same else ("geometry", f"has the size of the image but lies up to {far:.2f} mm away from it")
    cosines = np.abs(_directions(image).T @ _directions(mask)).max(axis=0)
    if cosines.min() >= PARALLEL:
        return None
    degrees = math.degrees(math.acos(float(cosines.min())))
    return "geometry", f"is turned by {degrees:.0f} degrees against the image"


def _directions(header: Header) -> npt.NDArray[np.float64]:
    return header.ijk_to_ras[:3, :3] / spacing_of(header.ijk_to_ras)


def same_contents(places: Sequence[Path]) -> dict[Path, str]:
    """For each file or folder whose content another one has too: its digest. What is compressed counts unpacked.

    Only those are read, in blocks, that have the length of another (and its checksum, where gzip tells it).
    """
    places = list(dict.fromkeys(places))
    quick = {place: tuple(sorted(map(_quick, _files(place)))) for place in places}
    common = {key for key, count in Counter(quick.values()).items() if count > 1}
    digests = {place: _digest(place) for place in places if quick[place] in common}
    shared = {digest for digest, count in Counter(digests.values()).items() if count > 1}
    return {place: digest for place, digest in digests.items() if digest in shared}


def _files(place: Path) -> list[Path]:
    """Every file that an image consists of."""
    if place.is_dir():
        return [file for file in place.iterdir() if file.is_file()]
    if place.suffix.lower() in IN_TWO_FILES:
        return [file for file in place.parent.iterdir() if file.name.startswith(f"{place.stem}.")]
    return [place]


def _quick(file: Path) -> tuple[bool, bytes]:
    length = file.stat().st_size
    zipped = file.suffix.lower() == ".gz" and length >= LEAST_GZIP
    return zipped, _trailer(file) if zipped else length.to_bytes(8, "big")


def _digest(place: Path) -> str:
    # In no order of names, which a copy of a series may not keep.
    return " ".join(sorted(_digest_of_file(file) for file in _files(place)))


def _digest_of_file(file: Path) -> str:
    try:
        return _digest_of_stream(file, gzip.open if file.suffix.lower() == ".gz" else open)
    except (OSError, EOFError, zlib.error):
        return _digest_of_stream(file, open)  # damaged, and a copy of it is as damaged


def _digest_of_stream(file: Path, opener: Callable) -> str:
    total = hashlib.sha256()
    with opener(file, "rb") as stream:
        while block := stream.read(BLOCK):
            total.update(block)
    return total.hexdigest()
