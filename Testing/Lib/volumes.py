"""Small volumes with known content, and every way in which the same anatomy can be stored."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk

from AnyMC3DLib.geometry import transform_points
from AnyMC3DLib.volume import LPS_TO_RAS, Volume

GRID = (13, 19, 16)  # (k, j, i): odd and even, all unequal
SPACING = (0.9, 1.3, 2.2)  # along (i, j, k), all unequal
ORIGIN = (-31.0, 17.0, -8.0)


def rotation(about_r: float = 0.0, about_a: float = 0.0, about_s: float = 0.0) -> npt.NDArray[np.float64]:
    """A 4x4 rotation by degrees about R, then A, then S."""
    result = np.eye(4)
    for axis, degrees in enumerate((about_r, about_a, about_s)):
        first, second = [a for a in range(3) if a != axis]
        turn = np.eye(4)
        turn[first, first] = turn[second, second] = np.cos(np.radians(degrees))
        turn[second, first] = np.sin(np.radians(degrees))
        turn[first, second] = -turn[second, first]
        result = turn @ result
    return result


def straight(spacing: Sequence[float] = SPACING, origin: Sequence[float] = ORIGIN) -> npt.NDArray[np.float64]:
    """An affine whose i, j and k run along R, A and S."""
    affine = np.diag([*spacing, 1.0])
    affine[:3, 3] = origin
    return affine


def tilted(affine: npt.NDArray[np.float64], degrees: float = 18.0) -> npt.NDArray[np.float64]:
    """The affine with its k axis leaning towards j by `degrees`, as a gantry tilt does; its length is kept."""
    directions = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    angle = np.radians(degrees)
    result = affine.copy()
    leaning = np.cos(angle) * directions[:, 2] + np.sin(angle) * directions[:, 1]
    result[:3, 2] = leaning * np.linalg.norm(affine[:3, 2])
    return result


HEADERS = {
    "straight": straight(),
    "oblique": rotation(20, -14, 24) @ straight(),
    "gantry tilt": tilted(straight()),
    "oblique gantry tilt": rotation(-11, 21, 17) @ tilted(straight()),
}
TIES = {
    "45 degrees about R": rotation(about_r=45) @ straight(),
    "45 degrees about A": rotation(about_a=45) @ straight(),
    "45 degrees about S": rotation(about_s=-45) @ straight(),
    "45 degrees about all": rotation(45, 45, 45) @ straight(),
    "along the diagonals": rotation(about_s=45)
    @ rotation(about_r=float(np.degrees(np.arctan(np.sqrt(0.5)))))
    @ straight(),
}


def anatomy(grid: Sequence[int] = GRID, seed: int = 7) -> npt.NDArray[np.float32]:
    """A smooth off-centre body without any symmetry, about 0 to 400, in air of -900: float32 [k, j, i]."""
    rng = np.random.default_rng(seed)
    k, j, i = np.meshgrid(*[np.linspace(-1, 1, n) for n in grid], indexing="ij")
    texture = sum(
        rng.normal()
        * np.cos(rng.uniform(-3, 3) * k + rng.uniform(-3, 3) * j + rng.uniform(-3, 3) * i + rng.uniform(0, 6))
        for _ in range(6)
    )
    radius = np.sqrt(((k - 0.1) / 0.75) ** 2 + ((j + 0.15) / 0.6) ** 2 + ((i - 0.05) / 0.7) ** 2)
    body = 1 / (1 + np.exp(14 * (radius - 1)))
    return (-900 + body * (1100 + 80 * texture)).astype(np.float32)


def study(header: str = "straight") -> Volume:
    """`anatomy` under one of the headers."""
    return Volume(anatomy(), {**HEADERS, **TIES}[header], name="the study")


def field(affine: npt.NDArray[np.float64], function, grid: Sequence[int] = GRID) -> Volume:
    """The volume whose voxels hold `function` of their RAS points [..., 3]."""
    k, j, i = np.indices(grid)
    points = transform_points(affine, np.stack([i, j, k], axis=-1))
    return Volume(np.asarray(function(points), dtype=np.float32), affine)


def in_every_order(volume: Volume) -> Iterator[Volume]:
    """The same anatomy in the 48 orders and directions in which its axes can be stored."""
    for order in itertools.permutations(range(3)):
        for flips in itertools.product((False, True), repeat=3):
            yield stored(volume, order=order, flips=flips)


def stored(volume: Volume, *, order: Sequence[int], flips: Sequence[bool]) -> Volume:
    """The same anatomy with array axis n taken from axis order[n], backwards where flips[n]."""
    array = np.transpose(volume.array, (*order, *range(3, volume.array.ndim)))
    to_old = np.zeros((4, 4))
    to_old[3, 3] = 1.0
    for new, (old, flip) in enumerate(zip(order, flips, strict=True)):
        to_old[2 - old, 2 - new] = -1.0 if flip else 1.0
        to_old[2 - old, 3] = volume.array.shape[old] - 1 if flip else 0.0
    array = np.ascontiguousarray(np.flip(array, [axis for axis in range(3) if flips[axis]]))
    return Volume(array, volume.ijk_to_ras @ to_old, name=volume.name)


def pixel_points(affine: npt.NDArray[np.float64], shape: Sequence[int]) -> npt.NDArray[np.float64]:
    """RAS of every pixel of slices [S, H, W]: [S, H, W, 3]."""
    s, y, x = np.indices(shape)
    return transform_points(affine, np.stack([x, y, s], axis=-1))


def write_dicom_series(
    folder: Path,
    volume: Volume,
    *,
    series: str = "1.2.826.0.1.3680043.2.1125.1",
    names: Sequence[str] | None = None,
    without: Sequence[int] = (),
    nudge: Sequence[float] = (0.0, 0.0, 0.0),
    patient: str = "Doe^Jane",
) -> None:
    """Write int16 Hounsfield units as one CT file a slice, each with its own position; `without` leaves slices out.

    `nudge` moves the second slice by millimetres.
    """
    folder.mkdir(exist_ok=True, parents=True)
    lps = LPS_TO_RAS @ volume.ijk_to_ras
    row, column = lps[:3, 0] / volume.spacing[0], lps[:3, 1] / volume.spacing[1]
    for k in range(volume.grid[0]):
        if k in without:
            continue
        position = lps[:3, 3] + k * lps[:3, 2] + (np.array(nudge) if k == 1 else 0)
        image = sitk.GetImageFromArray(volume.array[k : k + 1].astype(np.int16))
        image.SetSpacing(volume.spacing.tolist())
        image.SetDirection(np.stack([row, column, np.cross(row, column)], axis=1).ravel().tolist())
        tags = {
            "0008|0018": f"{series}.{k + 1}",
            "0008|0060": "CT",
            "0010|0010": patient,
            "0020|000d": "1.2.826.0.1.3680043.2.1125.9",
            "0020|000e": series,
            "0020|0013": str(k + 1),
            "0020|0032": "\\".join(f"{value:.9g}" for value in position),
            "0020|0037": "\\".join(f"{value:.9g}" for value in (*row, *column)),
            "0028|1052": "-1024",
            "0028|1053": "1",
        }
        for tag, value in tags.items():
            image.SetMetaData(tag, value)
        writer = sitk.ImageFileWriter()
        writer.KeepOriginalImageUIDOn()
        writer.SetFileName(str(folder / "writing.dcm"))
        writer.Execute(image)
        (folder / "writing.dcm").rename(folder / (names[k] if names else f"{k:03d}.dcm"))
