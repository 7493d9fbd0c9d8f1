"""A DICOM series folder as one array and its affine, the positions of the slices taken as they are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk

from .errors import InputError

POSITION = "0020|0032"
# A gap may differ from the mean gap by this share before slices are taken to be missing.
GAP_TOLERANCE = 0.05


def read_series(folder: Path) -> tuple[npt.NDArray, npt.NDArray[np.float64]]:
    """The voxels [k, j, i] of the one series in `folder`, and their affine to LPS millimetres.

    The direction along k comes from the first and the last slice's position, so a gantry tilt stays a shear.
    Raises InputError for a folder without images, with several series, or with missing slices.
    """
    series = sitk.ImageSeriesReader.GetGDCMSeriesIDs(str(folder))
    if not series:
        raise InputError(f"The folder '{folder}' holds no DICOM images: give the folder of one series.")
    if len(series) > 1:
        raise InputError(f"The folder '{folder}' holds {len(series)} DICOM series: put the wanted one in its own.")
    files = sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder), series[0])
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(files)
    # ITK may straighten the direction; the positions of the slices are read for that reason.
    reader.MetaDataDictionaryArrayUpdateOn()
    try:
        image = reader.Execute()
    except RuntimeError as error:
        raise InputError(f"The DICOM series in '{folder}' cannot be read: copy or export it again.") from error
    if image.GetNumberOfComponentsPerPixel() != 1:
        raise InputError(f"The DICOM series in '{folder}' is in colour; give a series in grey.")
    lps = np.eye(4)
    lps[:3, :3] = np.array(image.GetDirection()).reshape(3, 3) * np.array(image.GetSpacing())
    lps[:3, 3] = image.GetOrigin()
    if len(files) > 1:
        lps[:3, 2] = _step_between_slices(reader, len(files), folder)
    return sitk.GetArrayFromImage(image), lps


def _step_between_slices(reader: sitk.ImageSeriesReader, count: int, folder: Path) -> npt.NDArray[np.float64]:
    try:
        positions = np.array([_numbers(reader.GetMetaData(n, POSITION)) for n in range(count)])
    except (RuntimeError, ValueError) as error:
        raise InputError(f"A slice in '{folder}' does not tell its position: export the series again.") from error
    step = (positions[-1] - positions[0]) / (count - 1)
    steps = np.diff(positions, axis=0)
    gaps = np.linalg.norm(steps, axis=1)
    mean = float(np.linalg.norm(step))
    if mean <= 1e-6 or np.linalg.norm(steps - step, axis=1).max() > GAP_TOLERANCE * mean:
        raise InputError(
            f"The slices in '{folder}' are not evenly spaced ({gaps.min():.2f} to {gaps.max():.2f} mm apart): some are "
            "missing or come twice, export the whole series again."
        )
    return step


def _numbers(text: str) -> list[float]:
    return [float(part) for part in text.split("\\")]
