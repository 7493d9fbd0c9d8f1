"""One slice of a volume as a radiologist sees it: turned by flips and transposes, never resampled onto the body."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from .geometry import transform_points
from .preprocessing import slicing_of
from .volume import LPS_TO_RAS, Volume

DIRECTIONS = ("RL", "AP", "SI")
OBLIQUE = 0.26  # the sine of 15 degrees: from there on an edge bears a second letter


@dataclasses.dataclass(frozen=True)
class Plane:
    """A slice of one voxel's thickness.

    `image` is a Volume [1, rows, columns], or [1, rows, columns, 3], whose affine maps (column, row, 0) to RAS;
    `axis` is the slicing; `letters` name the edges left, right, top and bottom, and are None for a bare picture.
    """

    image: Volume
    axis: str
    letters: tuple[str, str, str, str] | None

    @property
    def size_mm(self) -> tuple[float, float]:
        """The height and width, from outer edge to outer edge."""
        _, rows, columns = self.image.grid
        return rows * float(self.image.spacing[1]), columns * float(self.image.spacing[0])

    def at(self, ras: npt.ArrayLike) -> tuple[float, float]:
        """Where a point lies, in mm to the right of and below the upper left corner; it is dropped onto the plane."""
        column, row, _ = transform_points(np.linalg.inv(self.image.ijk_to_ras), ras) + 0.5
        return float(column * self.image.spacing[0]), float(row * self.image.spacing[1])

    def grid(self, rows: int, columns: int) -> Volume:
        """An empty grid [1, rows, columns] that covers the plane evenly."""
        scale = np.array([self.image.grid[2] / columns, self.image.grid[1] / rows])
        to_pixels = np.diag([*scale, 1.0, 1.0])
        to_pixels[:2, 3] = (scale - 1) / 2
        return Volume(np.zeros((1, rows, columns), dtype=np.uint8), self.image.ijk_to_ras @ to_pixels)


def plane_through(volume: Volume, ras: npt.ArrayLike, *, axis: str) -> Plane:
    """The slice of `volume` nearest to a point in RAS, across the array axis that is nearest to `axis`."""
    axis, columns = slicing_of(volume, axis)
    wanted = np.rint(transform_points(np.linalg.inv(volume.ijk_to_ras), ras))
    last = np.array(volume.grid[::-1]) - 1
    across = columns[0][0]
    corner = np.array([0 if sign > 0 else last[column] for column, sign in sorted(columns)])
    corner[across] = np.clip(wanted[across], 0, last[across])
    affine = np.eye(4)
    for place, (column, sign) in enumerate(columns):
        affine[:3, 2 - place] = sign * volume.ijk_to_ras[:3, column]
    affine[:3, 3] = transform_points(volume.ijk_to_ras, corner)
    turned = np.transpose(volume.array, (*(2 - column for column, _ in columns), *range(3, volume.array.ndim)))
    array = turned[corner[across]][:: columns[1][1], :: columns[2][1]][np.newaxis]
    image = Volume(array, affine, name=volume.name)
    return Plane(image, axis, None if is_bare_picture(volume) else _edge_letters(affine))


def is_bare_picture(volume: Volume) -> bool:
    """Whether this is a picture without a place in a patient, such as a PNG: letters on it would be made up."""
    return volume.is_colour or (1 in volume.grid and bool(np.allclose(volume.ijk_to_ras, LPS_TO_RAS)))


def contains(volume: Volume, ras: npt.ArrayLike) -> bool:
    """Whether a point in RAS lies in one of the volume's voxels."""
    index = transform_points(np.linalg.inv(volume.ijk_to_ras), ras)
    return bool(np.all((index >= -0.5) & (index <= np.array(volume.grid[::-1]) - 0.5)))


def position_words(ras: Sequence[float]) -> tuple[str, str, str]:
    """A point in RAS mm as it is read aloud: "L 24.5", "A 16.0", "I 31.7"."""
    first, second, third = (
        f"{pair[0] if value >= 0 else pair[1]} {abs(value):.1f}" for pair, value in zip(DIRECTIONS, ras, strict=True)
    )
    return first, second, third


def _edge_letters(affine: npt.NDArray[np.float64]) -> tuple[str, str, str, str]:
    rightwards, downwards = affine[:3, 0], affine[:3, 1]
    return _letters(-rightwards), _letters(rightwards), _letters(-downwards), _letters(downwards)


def _letters(direction: npt.NDArray[np.float64]) -> str:
    """The letters of a direction in RAS, the main one first: "A", or "AL" where it is oblique."""
    unit = direction / np.linalg.norm(direction)
    order = np.argsort(-np.abs(unit), kind="stable")
    return "".join(DIRECTIONS[n][0 if unit[n] > 0 else 1] for n in order if abs(unit[n]) > OBLIQUE)
