"""Affines, anatomical axes and fields of view. Pure NumPy.

An affine is 4x4 and maps homogeneous voxel indices (i, j, k), in the order fastest to slowest, to RAS millimetres.
Arrays are [k, j, i], so array axis n belongs to column 2 - n of the affine.
"""

from __future__ import annotations

import itertools

import numpy as np
import numpy.typing as npt

from .errors import InputError

Affine = npt.NDArray[np.float64]

# For each slicing: the RAS axis and sign along which slices, rows and columns run. A radiologist's picture: the
# patient's right on the left, anterior or superior on top.
SLICE_ORIENTATION: dict[str, tuple[tuple[int, int], tuple[int, int], tuple[int, int]]] = {
    "axial": ((2, +1), (1, -1), (0, -1)),
    "coronal": ((1, +1), (2, -1), (0, -1)),
    "sagittal": ((0, +1), (2, -1), (1, -1)),
}
AXIS_NAMES = ("sagittal", "coronal", "axial")  # by the RAS axis along which the slices run


def check_affine(affine: npt.ArrayLike, *, name: str) -> Affine:
    """The affine as float64 [4, 4]; raises InputError if it is not finite or not invertible."""
    matrix = np.array(affine, dtype=np.float64)
    if matrix.shape != (4, 4) or not np.all(np.isfinite(matrix)):
        raise InputError(f"The geometry of {name} is not a finite 4x4 matrix: correct its header.")
    spacing = np.linalg.norm(matrix[:3, :3], axis=0)
    # The volume of a voxel, relative to a box of the same edges: 1 where orthogonal, 0 where flat.
    if spacing.min() <= 1e-9 or abs(np.linalg.det(matrix[:3, :3] / spacing)) < 1e-3:
        raise InputError(f"The direction matrix of {name} is singular: correct its header.")
    matrix[3] = (0, 0, 0, 1)
    return matrix


def spacing_of(affine: Affine) -> npt.NDArray[np.float64]:
    """Millimetres from voxel to voxel along (i, j, k)."""
    return np.linalg.norm(affine[:3, :3], axis=0)


def transform_points(affine: Affine, points: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Apply `affine` to points [..., 3]."""
    return np.asarray(points, dtype=np.float64) @ affine[:3, :3].T + affine[:3, 3]


def is_sheared(affine: Affine) -> bool:
    """Whether the axes are not at right angles, beyond the rounding of a float32 header."""
    directions = affine[:3, :3] / spacing_of(affine)
    return bool(np.abs(directions.T @ directions - np.eye(3)).max() > 1e-4)


def nearest_axes(affine: Affine) -> tuple[tuple[int, int], tuple[int, int], tuple[int, int]]:
    """For R, A and S in turn: the column of the affine nearest to it, and its sign.

    The assignment is one to one and maximises the sum of the cosines. Ties (45 degrees) are broken by the
    directions themselves, not by the storage order, so that the same anatomy stored in another order is sliced
    the same way.
    """
    directions = affine[:3, :3] / spacing_of(affine)
    # A line has no sign: its first clearly non-zero component is made positive.
    lines = np.array([_without_sign(column) for column in directions.T]).T

    def rank(order: tuple[int, ...]) -> tuple[float, ...]:
        score = sum(abs(directions[axis, column]) for axis, column in enumerate(order))
        return (round(float(score), 5), *np.round(lines[:, list(order)].T.ravel(), 5))

    best = max(itertools.permutations(range(3)), key=rank)
    signs = []
    for axis, column in enumerate(best):
        component = directions[axis, column]
        signs.append(int(np.sign(component if abs(component) > 1e-6 else directions[:, column] @ lines[:, column])))
    return ((best[0], signs[0]), (best[1], signs[1]), (best[2], signs[2]))


def _without_sign(direction: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    leading = direction[np.argmax(np.abs(direction) > 1e-6)]
    return direction * np.sign(leading)


def corners_of(shape: tuple[int, ...], affine: Affine) -> npt.NDArray[np.float64]:
    """The eight corners [8, 3] in RAS of an array [k, j, i, ...], taken at the voxels' outer edges."""
    edges = [(-0.5, shape[2 - axis] - 0.5) for axis in range(3)]
    return transform_points(affine, np.array(list(itertools.product(*edges))))


def boxes_overlap(first: npt.NDArray[np.float64], second: npt.NDArray[np.float64]) -> bool:
    """Whether two parallelepipeds, given by the corners of `corners_of`, share a point (separating axes)."""
    edges = [_edges(first), _edges(second)]
    candidates = [np.cross(box[i], box[j]) for box in edges for i, j in ((0, 1), (0, 2), (1, 2))]
    candidates += [np.cross(a, b) for a in edges[0] for b in edges[1]]
    for axis in candidates:
        length = np.linalg.norm(axis)
        if length < 1e-9:
            continue
        a, b = first @ (axis / length), second @ (axis / length)
        if a.max() <= b.min() or b.max() <= a.min():
            return False
    return True


def _edges(corners: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return corners[[4, 2, 1]] - corners[0]


def index_bounds(points: npt.NDArray[np.float64], affine: Affine) -> tuple[npt.NDArray, npt.NDArray]:
    """The lowest and highest continuous index (i, j, k) over RAS points [N, 3]."""
    indices = transform_points(np.linalg.inv(affine), points)
    return indices.min(axis=0), indices.max(axis=0)
