"""Grids on which heat is kept and drawn: blocks of an image's voxels, so that no image is too large for it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

# Of float32 these are 64 MiB: quickly drawn, kept and saved. Heat comes in patches, far larger than such a voxel.
MOST_VOXELS = 1 << 24


@dataclasses.dataclass(frozen=True)
class CoarseGrid:
    """Blocks of `factors` voxels along (k, j, i) of an image with `whole` voxels; the last of a line may be smaller."""

    whole: tuple[int, int, int]
    factors: tuple[int, int, int] = (1, 1, 1)

    @classmethod
    def of(cls, whole: Sequence[int], spacing: Sequence[float]) -> CoarseGrid:
        """Blocks as even as can be, at most `MOST_VOXELS`; `spacing` is that of the image along (k, j, i)."""
        grid = cls(tuple(whole[:3]))
        while np.prod(grid.shape) > MOST_VOXELS:
            grid = grid._coarser(spacing)
        return grid

    @property
    def shape(self) -> tuple[int, int, int]:
        """The number of blocks along (k, j, i)."""
        return tuple(-(-n // f) for n, f in zip(self.whole, self.factors, strict=True))

    @property
    def to_image(self) -> npt.NDArray[np.float64]:
        """The 4x4 affine from a block's (i, j, k) to the voxel (i, j, k) of its middle."""
        along = np.array(self.factors[::-1], dtype=np.float64)
        affine = np.diag([*along, 1.0])
        affine[:3, 3] = (along - 1) / 2
        return affine

    @property
    def shrinking(self) -> float:
        """How many voxels make one along a line, in the geometric mean."""
        return float(np.prod(self.factors) ** (1 / 3))

    def voxels(self, first: int, last: int) -> slice:
        """The image's slices k that the blocks from k = `first` to before `last` are made of."""
        return slice(first * self.factors[0], min(last * self.factors[0], self.whole[0]))

    def _coarser(self, spacing: Sequence[float]) -> CoarseGrid:
        # The finest axis first; one of two voxels cannot be drawn if it is halved.
        def order(axis: int) -> tuple[bool, float]:
            return self.shape[axis] < 4, spacing[axis] * self.factors[axis]

        axis = min(range(3), key=order)
        factors = tuple(factor + (number == axis) for number, factor in enumerate(self.factors))
        return dataclasses.replace(self, factors=factors)


def means(array: npt.NDArray, factors: Sequence[int]) -> npt.NDArray[np.float32]:
    """The means of blocks of voxels, float32; the last block of an axis is of what is left."""
    result = array
    for axis, factor in enumerate(factors):
        if factor == 1:
            continue
        length = result.shape[axis]
        whole = length // factor * factor
        index: list[slice] = [slice(None)] * 3
        parts = []
        if whole:
            total: npt.NDArray[np.float32] | None = None
            for start in range(factor):
                index[axis] = slice(start, whole, factor)
                part = result[tuple(index)]
                total = part.astype(np.float32) if total is None else np.add(total, part, out=total)
            total /= factor
            parts.append(total)
        if whole < length:
            index[axis] = slice(whole, length)
            parts.append(result[tuple(index)].mean(axis=axis, keepdims=True, dtype=np.float32))
        result = np.concatenate(parts, axis=axis) if len(parts) > 1 else parts[0]
    return np.ascontiguousarray(result, dtype=np.float32)
