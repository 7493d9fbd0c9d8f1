"""Linear resampling of an array along its own axes, and of a small map onto any grid."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk

from .geometry import Affine

CHUNK_VALUES = 1 << 24  # float32 values of one chunk of slices: 64 MB


@dataclasses.dataclass(frozen=True)
class AxisGrid:
    """`count` samples along one axis, at the source indices start, start + step, ...

    With `area` a sample wider than a source voxel averages (a triangle as wide as two steps, as antialiasing image
    libraries do); otherwise it reads the two neighbours alone.
    """

    start: float
    step: float
    count: int
    area: bool = True

    def shifted(self, offset: float) -> AxisGrid:
        """The same samples with the source's index moved by `offset`."""
        return dataclasses.replace(self, start=self.start + offset)

    @property
    def positions(self) -> npt.NDArray[np.float64]:
        """The source index of each sample."""
        return self.start + self.step * np.arange(self.count)

    def inside(self, window: tuple[int, int]) -> npt.NDArray[np.bool_]:
        """Whether each sample lies within the voxels low to high - 1, edges included."""
        return (self.positions >= window[0] - 0.5 - 1e-6) & (self.positions <= window[1] - 0.5 + 1e-6)

    def is_identity(self, length: int) -> bool:
        """Whether the samples are the source's voxels."""
        return self.count == length and abs(self.start) < 1e-9 and abs(self.step - 1) < 1e-9

    def weights(self, length: int) -> npt.NDArray[np.float32]:
        """The matrix [count, length] that takes `length` source values to the samples; rows sum to 1."""
        half_width = max(1.0, self.step) if self.area else 1.0
        positions = np.clip(self.positions, -0.5, length - 0.5)[:, np.newaxis]
        weights = np.maximum(0.0, 1.0 - np.abs(np.arange(length) - positions) / half_width)
        return (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)


def resample(array: npt.NDArray, grids: Sequence[AxisGrid]) -> npt.NDArray[np.float32]:
    """Sample `array` [a, b, c] at the product of three grids: float32 [A, B, C]; beyond its edge, the edge's value."""
    result = _along_first(array, grids[0])
    rows, columns = grids[1], grids[2]
    same_rows, same_columns = rows.is_identity(array.shape[1]), columns.is_identity(array.shape[2])
    if same_rows and same_columns:
        return np.ascontiguousarray(result, dtype=np.float32)
    left, right = rows.weights(array.shape[1]), columns.weights(array.shape[2]).T
    out = np.empty((len(result), rows.count, columns.count), dtype=np.float32)
    step = max(1, CHUNK_VALUES // max(1, array.shape[1] * array.shape[2]))
    for first in range(0, len(result), step):
        part = np.ascontiguousarray(result[first : first + step], dtype=np.float32)
        part = part if same_columns else part @ right
        out[first : first + step] = part if same_rows else left @ part
    return out


def _along_first(array: npt.NDArray, grid: AxisGrid) -> npt.NDArray:
    if grid.step == 1.0 and float(grid.start).is_integer() and 0 <= grid.start <= len(array) - grid.count:
        return array[int(grid.start) : int(grid.start) + grid.count]
    weights = grid.weights(len(array))
    out = np.zeros((grid.count, *array.shape[1:]), dtype=np.float32)
    for target, row in zip(out, weights, strict=True):
        for source in np.flatnonzero(row):
            target += row[source] * array[source].astype(np.float32, copy=False)
    return out


def sample_map(values: npt.NDArray[np.float32], to_map: Affine, shape: tuple[int, int, int]) -> npt.NDArray[np.float32]:
    """Sample a map [k, j, i] linearly at every voxel of a grid `shape` (k, j, i).

    `to_map` takes the grid's index (i, j, k) to the map's. Up to half a voxel beyond the map's outer centres its
    edge value counts, beyond that 0.
    """
    source = sitk.GetImageFromArray(np.ascontiguousarray(values, dtype=np.float32))
    # ITK counts a point on the map's low edge in and one on its high edge out. Drawn together by a millionth of a
    # voxel about the map's centre both are in, so that it does not matter in which direction an axis is stored.
    size = np.array(values.shape[::-1])
    middle, scale = (size - 1) / 2, 1 - 1e-6 / size
    transform = sitk.AffineTransform(3)
    transform.SetMatrix((scale[:, np.newaxis] * to_map[:3, :3]).ravel().tolist())
    transform.SetTranslation((middle + scale * (to_map[:3, 3] - middle)).tolist())
    resampler = sitk.ResampleImageFilter()
    resampler.SetSize(tuple(reversed(shape)))
    resampler.SetTransform(transform)
    resampler.SetInterpolator(sitk.sitkLinear)
    resampler.SetDefaultPixelValue(0.0)
    return sitk.GetArrayFromImage(resampler.Execute(source))
