"""On which grid a segment's voxels are written, so that training takes them for a mask of their image.

Needs NumPy and the library alone; it is called from a thread and touches neither the scene nor Qt.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from AnyMC3DLib.errors import InputError

if TYPE_CHECKING:
    from AnyMC3DLib.volume import Volume

Matrix = npt.NDArray[np.float64]  # [4, 4]
Labels = npt.NDArray[np.uint8]  # [k, j, i], 0 and 1

FINEST = 8  # parts of a voxel of the image along an axis
MOST_VOXELS = 1 << 29


def bordered(labels: Labels, ijk_to_ras: Matrix, *, border: int = 1) -> Volume:
    """The labels with so many voxels of background about them, which leaves nothing to guess about their edges."""
    from AnyMC3DLib.volume import Volume

    moved = ijk_to_ras.copy()
    moved[:3, 3] -= border * ijk_to_ras[:3, :3].sum(axis=1)
    return Volume(np.pad(labels, border), moved, name="the mask")


def mask_for(labels: Labels, ijk_to_ras: Matrix, *, grid: tuple[int, int, int], image_to_ras: Matrix) -> Volume:
    """The labels as a mask of an image of `grid` voxels [k, j, i].

    They keep their own voxels where the axes are parallel to those of the image. Else they are sampled, at the nearest
    voxel, on voxels of the image or equal parts of them, about as small as their own. Raises InputError for labels
    that lie wholly outside the image, or between its voxels.
    """
    found = _fitted(labels, ijk_to_ras, grid, image_to_ras)
    if found is None:
        array, affine = _turned(labels, ijk_to_ras, image_to_ras)
        if not array.any():
            raise InputError("The segment is too thin for a mask of this volume: draw it on the volume's own voxels.")
        found = _fitted(array, affine, grid, image_to_ras)
    return found


def _fitted(labels: Labels, ijk_to_ras: Matrix, grid: tuple[int, int, int], image_to_ras: Matrix) -> Volume | None:
    """The labels on their own voxels, None where they are turned against the image."""
    from AnyMC3DLib.training.manifest_headers import Header, misfit

    image = Header(grid, image_to_ras)
    for border in (1, 2):  # a mask of the image's size is taken for one that lies where the image does
        mask = bordered(labels, ijk_to_ras, border=border)
        fault = misfit(image, Header(mask.grid, mask.ijk_to_ras))
        if fault is None:
            return mask
        if fault[0] == "overlap":
            raise InputError("The segment lies wholly outside the volume: choose a segment of this volume.")
        if mask.grid != grid:
            break
    return None


def _turned(labels: Labels, ijk_to_ras: Matrix, image_to_ras: Matrix) -> tuple[Labels, Matrix]:
    """The labels on a grid along the image's axes that covers them."""
    to_own, low, shape = _cover(labels.shape, ijk_to_ras, image_to_ras)
    found = np.zeros(shape, dtype=np.uint8)
    for number in range(shape[0]):
        found[number] = _nearest(labels, to_own @ _shift((low[0], low[1], low[2] + number)), shape[1:])
    return found, ijk_to_ras @ to_own @ _shift(low)


def _cover(
    shape: tuple[int, ...], ijk_to_ras: Matrix, image_to_ras: Matrix
) -> tuple[Matrix, npt.NDArray[np.int64], tuple[int, int, int]]:
    """From parts of the image's voxels to the labels' own; the first part (i, j, k) about them, how many [k, j, i]."""
    wanted = np.linalg.norm(ijk_to_ras[:3, :3], axis=0).min()
    parts = np.ceil(np.linalg.norm(image_to_ras[:3, :3], axis=0) / wanted - 0.01).clip(1, FINEST)
    while True:
        to_own = np.linalg.inv(ijk_to_ras) @ image_to_ras @ _divided(parts)
        low, high = _reach(shape, np.linalg.inv(to_own))
        counts = high - low + 1
        if counts.prod() <= MOST_VOXELS or parts.max() == 1:
            return to_own, low, tuple(counts[::-1].tolist())
        parts = (parts - 1).clip(1)


def _divided(parts: npt.NDArray[np.float64]) -> Matrix:
    """From the parts of voxels (i, j, k) to the voxels."""
    affine = np.diag([*(1 / parts), 1.0])
    affine[:3, 3] = (1 / parts - 1) / 2
    return affine


def _reach(shape: tuple[int, ...], affine: Matrix) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """The first and last index that the voxels of an array [k, j, i] touch on another grid."""
    edges = [(-0.5, count - 0.5) for count in shape[::-1]]
    corners = np.array(list(itertools.product(*edges))) @ affine[:3, :3].T + affine[:3, 3]
    return np.floor(corners.min(axis=0)).astype(int), np.ceil(corners.max(axis=0)).astype(int)


def _shift(by: npt.ArrayLike) -> Matrix:
    affine = np.eye(4)
    affine[:3, 3] = by
    return affine


def _nearest(labels: Labels, to_own: Matrix, shape: tuple[int, int]) -> Labels:
    """The label at each place [j, i] of the plane k = 0."""
    j, i = np.arange(shape[0], dtype=np.float64)[:, None], np.arange(shape[1], dtype=np.float64)
    inside = np.ones(shape, dtype=bool)
    places = []
    for row, count in zip(to_own[:3], labels.shape[::-1], strict=True):
        place = np.floor(row[0] * i + row[1] * j + (row[3] + 0.5)).astype(np.int64)
        inside &= (place >= 0) & (place < count)
        places.append(place)
    found = np.zeros(shape, dtype=np.uint8)
    at_i, at_j, at_k = (place[inside] for place in places)
    found[inside] = labels[at_k, at_j, at_i]
    return found
