"""Voxels with their place in the patient: read and written with SimpleITK."""

from __future__ import annotations

import dataclasses
import os
import re
from pathlib import Path

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk

from . import dicom
from .errors import InputError
from .file_length import check_length
from .files import is_there, replacing
from .geometry import Affine, check_affine, corners_of, is_sheared, spacing_of
from .nifti import check_nifti

# ITK would write its warnings to standard error, file names included; what matters is checked and said here.
sitk.ProcessObject.SetGlobalWarningDisplay(False)

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
# Not .nhdr and .mhd: their voxels are in a second file, and two files cannot be replaced at once.
WRITABLE = (".nii", ".nii.gz", ".nrrd", ".mha")
MODALITY = re.compile(r"[A-Z]{2,16}")
UNIT_ROUNDING = 1e-3  # by how much the length of a direction in a header may miss 1


@dataclasses.dataclass(frozen=True)
class Volume:
    """An image with its geometry.

    `array` is [k, j, i], or [1, j, i, 3] for a 2D RGB picture; `ijk_to_ras` is 4x4 in millimetres and may be
    sheared. `name` is shown in messages; it is never the patient's. `modality` is DICOM's code, "" where unknown.
    """

    array: npt.NDArray
    ijk_to_ras: Affine
    name: str = "the image"
    modality: str = ""

    def __post_init__(self) -> None:
        array = np.asarray(self.array)
        if array.ndim == 4 and array.shape[3] == 3 and array.shape[0] != 1:
            raise InputError(f"{self.name} is a colour volume; give a scalar one, or a single colour picture.")
        if array.ndim not in (3, 4) or (array.ndim == 4 and array.shape[3] != 3) or 0 in array.shape:
            shape = " x ".join(map(str, array.shape))
            raise InputError(f"{self.name} has the shape {shape}; a volume [k, j, i] is needed.")
        if array.dtype == np.bool_:
            array = array.astype(np.uint8)
        if array.dtype.kind not in "iuf":
            raise InputError(f"{self.name} holds values of type {array.dtype}; real numbers are needed.")
        # SimpleITK knows the machine's own byte order alone.
        array = array.astype(array.dtype.newbyteorder("="), copy=False)
        object.__setattr__(self, "array", array)
        # A code and nothing else: it is shown, and kept in plugins.
        code = self.modality.strip().upper()
        object.__setattr__(self, "modality", code if MODALITY.fullmatch(code) else "")
        object.__setattr__(self, "ijk_to_ras", check_affine(self.ijk_to_ras, name=self.name))

    @property
    def is_colour(self) -> bool:
        """Whether this is an RGB picture."""
        return self.array.ndim == 4

    @property
    def grid(self) -> tuple[int, int, int]:
        """The number of voxels along (k, j, i)."""
        return self.array.shape[:3]

    @property
    def spacing(self) -> npt.NDArray[np.float64]:
        """Millimetres from voxel to voxel along (i, j, k)."""
        return spacing_of(self.ijk_to_ras)

    def corners(self) -> npt.NDArray[np.float64]:
        """The eight outer corners [8, 3] in RAS."""
        return corners_of(self.array.shape, self.ijk_to_ras)


def read_volume(path: str | os.PathLike[str]) -> Volume:
    """Read a NIfTI, NRRD, MetaImage or picture file, or a folder that holds one DICOM series.

    Raises InputError with one sentence if it cannot be read as one scalar 3D volume or one 2D picture.
    """
    place = Path(path)
    if not str(path):
        raise InputError("An image has an empty name: give a file or a folder.")
    if not is_there(place):
        raise InputError(f"There is no file or folder '{place}': check the path.")
    if not os.access(place, os.R_OK):
        raise InputError(f"'{place.name}' may not be read by you: ask for the permission.")
    if place.is_dir() or dicom.has_frames(place):
        array, lps = dicom.read_series(place) if place.is_dir() else dicom.read_frames(place)
        return Volume(array, LPS_TO_RAS @ lps, name=f"'{place.name}'", modality=dicom.modality_of(place))
    found = from_sitk(_read_image(place), name=f"'{place.name}'")
    return dataclasses.replace(found, modality=dicom.modality_of(place))


def _read_image(place: Path) -> sitk.Image:
    if place.name.lower().endswith((".nii", ".nii.gz")):
        check_nifti(place)
    check_length(place)
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(place))
    try:
        reader.ReadImageInformation()
        if any(n > 1 for n in reader.GetSize()[3:]):
            shape = " x ".join(map(str, reader.GetSize()))
            raise InputError(f"'{place.name}' has four dimensions ({shape}): give one volume of the series.")
        return reader.Execute()
    except RuntimeError as error:
        raise InputError(_reason(place, str(error))) from error


def _reason(place: Path, message: str) -> str:
    lowered = message.lower()
    if any(word in lowered for word in ("determinant", "singular", "zero-valued spacing")):
        return f"The direction matrix of '{place.name}' is singular: correct its header."
    if "unable to determine imageio" in lowered:
        return f"'{place.name}' is not an image that can be read: give NIfTI, NRRD, MetaImage or a DICOM folder."
    return f"'{place.name}' cannot be read, it is damaged or incomplete: copy or export it again."


def from_sitk(image: sitk.Image, *, name: str) -> Volume:
    """A SimpleITK image as a Volume; singleton dimensions past the third are dropped."""
    while image.GetDimension() > 3:
        image = sitk.Extract(image, [*image.GetSize()[:-1], 0], [0] * image.GetDimension())
    array = sitk.GetArrayFromImage(image)
    components = image.GetNumberOfComponentsPerPixel()
    if components == 4 and array.dtype == np.uint8 and array[..., 3].min() == 255:
        # A screenshot's alpha channel that hides nothing.
        array, components = array[..., :3], 3
    if components not in (1, 3):
        raise InputError(f"{name} has {components} values a voxel; one (grey) or three (RGB picture) are needed.")
    lps = np.eye(4)
    dimension = image.GetDimension()
    direction = np.array(image.GetDirection()).reshape(dimension, dimension)
    if np.abs(np.linalg.norm(direction, axis=0) - 1).max() > UNIT_ROUNDING:
        raise InputError(f"The directions of {name} are not of length 1: correct its header.")
    lps[:dimension, :dimension] = direction * np.array(image.GetSpacing())
    lps[:dimension, 3] = image.GetOrigin()
    if dimension == 2:
        array = array[np.newaxis]
    return Volume(array, LPS_TO_RAS @ lps, name=name)


def to_sitk(volume: Volume) -> sitk.Image:
    """The volume as a SimpleITK image, in LPS."""
    array = volume.array.astype(np.float32) if volume.array.dtype == np.float16 else volume.array
    image = sitk.GetImageFromArray(array, isVector=volume.is_colour)
    lps = LPS_TO_RAS @ volume.ijk_to_ras
    spacing = volume.spacing
    image.SetSpacing(spacing.tolist())
    image.SetOrigin(lps[:3, 3].tolist())
    image.SetDirection((lps[:3, :3] / spacing).ravel().tolist())
    return image


def check_volume_name(path: str | os.PathLike[str]) -> None:
    """Raise InputError unless the ending of `path` is one that can be written."""
    if not Path(path).name.lower().endswith(WRITABLE):
        raise InputError(f"Cannot write '{Path(path).name}': its ending must be one of {', '.join(WRITABLE)}.")


def write_volume(path: str | os.PathLike[str], volume: Volume) -> None:
    """Write `volume` to NRRD, NIfTI or MetaImage, compressed where the format can, atomically.

    Raises InputError for another ending, and for a sheared volume as NIfTI, which would straighten it silently.
    """
    place = Path(path)
    check_volume_name(place)
    if place.name.lower().endswith((".nii", ".nii.gz")) and is_sheared(volume.ijk_to_ras):
        raise InputError(f"'{place.name}' cannot hold a sheared geometry (gantry tilt): write .nrrd instead.")
    with replacing(place) as temporary:
        try:
            sitk.WriteImage(to_sitk(volume), str(temporary), useCompression=True)
        except RuntimeError as error:
            raise InputError(f"Cannot write '{place}': check the folder and the space on its disk.") from error


def check_values(volume: Volume) -> None:
    """Raise InputError if the volume holds NaN or infinite values, or one value alone."""
    array = volume.array
    if array.dtype.kind == "f":
        bad = int(array.size - np.count_nonzero(np.isfinite(array)))
        if bad:
            raise InputError(f"{volume.name} holds {bad} values that are not finite numbers: replace them first.")
        if max(array.max(), -array.min()) > np.finfo(np.float32).max:
            raise InputError(f"{volume.name} holds values above 3e38, which no scanner gives: replace them first.")
    if array.min() == array.max():
        raise InputError(f"{volume.name} holds the value {array.flat[0]:g} everywhere: there is nothing to see in it.")
