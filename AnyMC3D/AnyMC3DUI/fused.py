"""Anatomy and heat as one block of coloured, translucent voxels: the arithmetic, without a scene.

One block is drawn with right occlusion from every side, which two overlaid volume renderings are not.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt

from .coarse_grid import CoarseGrid, means
from .heat_look import heat_colours
from .turns import Work

_SLAB_VOXELS = 1 << 18  # of the image, worked on at a time: a few milliseconds
_LEVELS = 1 << 14  # of anatomy, into which its values are sorted; one bright speck must not leave the rest a few
_HEAT_LEVELS = 1024
_SMOOTHING = 0.32  # the outer weights of a kernel of three; its sigma is 0.8 voxel
_THINNEST = 0.12  # of the opacity asked for, at the edge of the heat
_SOFT_EDGE = 0.06  # heat over which it becomes full: voxels' corners would show otherwise


@dataclasses.dataclass(frozen=True)
class AnatomyLook:
    """Values to colours [..., 3] and to opacity a unit of length, in [0, 1]."""

    colour: Callable[[npt.NDArray[np.float64]], npt.NDArray[np.float64]]
    opacity: Callable[[npt.NDArray[np.float64]], npt.NDArray[np.float64]]


class FusedVolume:
    """RGBA voxels [k, j, i, 4] on a grid, of an anatomy with heat: fill it, give it a look, and paint it.

    What takes long is a generator that yields after every few milliseconds how far it is, in [0, 1].
    """

    def __init__(self, grid: CoarseGrid) -> None:
        self.grid = grid
        self._values = np.empty(grid.shape, np.float32)
        self._rgb: npt.NDArray[np.uint8] | None = None
        self._slab = max(1, _SLAB_VOXELS // max(1, int(np.prod(grid.whole[1:])) * grid.factors[0]))

    @property
    def shape(self) -> tuple[int, int, int]:
        """The number of voxels along (k, j, i)."""
        return self.grid.shape

    @property
    def values(self) -> npt.NDArray[np.float64]:
        """The values of the anatomy of which `counts` says how many voxels have them."""
        return np.linspace(self.low, self.high, _LEVELS)

    def fill(self, anatomy: npt.NDArray, heat: npt.NDArray[np.float32]) -> Work:
        """Take the voxels of the anatomy [k, j, i] or [k, j, i, 3], and heat on its grid or on this one."""
        if anatomy.ndim == 4:
            self._rgb = np.empty((*self.shape, 3), np.uint8)
        warm: list[npt.NDArray[np.int64]] = []
        warm_heat: list[npt.NDArray[np.float32]] = []
        for first, last in self._slabs():
            self._take_anatomy(anatomy[self.grid.voxels(first, last)], slice(first, last))
            part = self._of_heat(heat, first, last).reshape(-1)
            # Few voxels are warm, and they alone change with the sliders.
            found = np.flatnonzero(part > 0)
            warm.append(found + first * int(np.prod(self.shape[1:])))
            warm_heat.append(part[found])
            yield 0.5 * last / self.shape[0]
        self._warm, self._warm_heat = np.concatenate(warm), np.concatenate(warm_heat)
        yield from self._smooth()
        yield from self._sort_into_levels()

    def set_look(self, look: AnatomyLook) -> None:
        """Colour the anatomy."""
        self._opacities = np.clip(look.opacity(self.values), 0, 1).astype(np.float32)
        self._colours = np.rint(255 * np.clip(look.colour(self.values), 0, 1)).astype(np.uint8)

    def paint(self, target: npt.NDArray[np.uint8], *, threshold: float, opacity: float) -> Work[float]:
        """Write anatomy, and the heat from `threshold` on with `opacity`, into `target` [k, j, i, 4].

        Its value is the greatest opacity D of a voxel: an alpha of x is an opacity of D (x / 255)^2, so that
        translucent tissue has more than a handful of shades. Alphas run from 0 to 255 whatever is shown.
        """
        tables = _heat_tables(threshold, opacity)
        densest = max(float(self._opacities[self.counts > 0].max()), self._hottest(threshold, tables[2]), 1e-6)
        yield from self._paint_anatomy(target, densest)
        flat = target.reshape(-1, 4)
        for start in range(0, len(self._warm), _SLAB_VOXELS):
            piece = slice(start, start + _SLAB_VOXELS)
            chosen = self._warm_heat[piece] >= threshold
            self._paint_heat(flat, self._warm[piece][chosen], self._warm_heat[piece][chosen], tables, densest)
            yield 1.0
        # The renderer stretches alphas over the range that occurs, so both ends of it have to.
        flat[0, 3] = 0
        return densest

    def _slabs(self) -> Iterator[tuple[int, int]]:
        for first in range(0, self.shape[0], self._slab):
            yield first, min(first + self._slab, self.shape[0])

    def _take_anatomy(self, part: npt.NDArray, rows: slice) -> None:
        if self._rgb is None:
            # What is no number has no colour, and the engine has refused it before.
            self._values[rows] = np.nan_to_num(means(part, self.grid.factors), nan=0.0, posinf=0.0, neginf=0.0)
            return
        colours = [means(part[..., channel], self.grid.factors) for channel in range(3)]
        self._values[rows] = sum(colours) / 3
        for channel, values in enumerate(colours):
            self._rgb[rows, ..., channel] = values.clip(0, 255)

    def _of_heat(self, heat: npt.NDArray[np.float32], first: int, last: int) -> npt.NDArray[np.float32]:
        if heat.shape == self.shape:
            return heat[first:last]
        return means(heat[self.grid.voxels(first, last)], self.grid.factors)

    def _smooth(self) -> Work:
        """A Gaussian of about 0.8 voxel: without it the anatomy's noise covers it like sand."""
        values, before = self._values, self._values[:1].copy()
        self.low, self.high = np.inf, -np.inf
        for first, last in self._slabs():
            after = values[last : last + 1] if last < self.shape[0] else values[last - 1 : last]
            part = np.concatenate([before, values[first:last], after])
            before = values[last - 1 : last].copy()
            if self.shape[0] > 2:
                part = _smoothed_along(part, 0)
            part = part[1:-1]
            for axis in (1, 2):
                part = _smoothed_along(part, axis) if self.shape[axis] > 2 else part
            values[first:last] = part
            self.low, self.high = min(self.low, float(part.min())), max(self.high, float(part.max()))
            yield 0.5 + 0.3 * last / self.shape[0]

    def _sort_into_levels(self) -> Work:
        scale = (_LEVELS - 1) / max(self.high - self.low, 1e-30)
        self._levels = np.empty(self.shape, np.uint16)
        self.counts = np.zeros(_LEVELS, np.int64)
        for first, last in self._slabs():
            levels = ((self._values[first:last] - self.low) * scale + 0.5).astype(np.uint16)
            self._levels[first:last] = levels
            self.counts += np.bincount(levels.reshape(-1), minlength=_LEVELS)
            yield 0.8 + 0.2 * last / self.shape[0]
        del self._values

    def _hottest(self, threshold: float, opacities: npt.NDArray[np.float32]) -> float:
        """The greatest opacity of heat that is shown."""
        hottest = float(self._warm_heat.max(initial=0.0))
        return float(opacities[_heat_level(np.float32(hottest))]) if hottest >= threshold else 0.0

    def _paint_anatomy(self, target: npt.NDArray[np.uint8], densest: float) -> Work:
        table = np.empty((_LEVELS, 4), dtype=np.uint8)
        table[:, :3] = self._colours
        table[:, 3] = (255 * np.sqrt(self._opacities / densest) + 0.5).clip(0, 255)
        # Four bytes at once: a look-up of each would take three times as long.
        words = table.view(np.uint32)[:, 0]
        for first, last in self._slabs():
            target[first:last] = words[self._levels[first:last]].view(np.uint8).reshape(-1, *self.shape[1:], 4)
            if self._rgb is not None:
                target[first:last, ..., :3] = self._rgb[first:last]
            yield last / self.shape[0]

    def _paint_heat(
        self,
        flat: npt.NDArray[np.uint8],
        places: npt.NDArray[np.int64],
        heat: npt.NDArray[np.float32],
        tables: tuple[npt.NDArray[np.float32], ...],
        densest: float,
    ) -> None:
        colours, shares, opacities = tables
        levels = _heat_level(heat)
        # Heat in a solid structure must not thin it, or what lies behind would shine through.
        dense = np.maximum(opacities[levels], self._opacities[self._levels.reshape(-1)[places]])
        for channel in range(3):
            under = flat[places, channel].astype(np.float32)
            flat[places, channel] = under + shares[levels] * (colours[levels, channel] - under) + 0.5
        flat[places, 3] = 255 * np.sqrt(dense / densest) + 0.5


def _heat_level(heat: npt.NDArray[np.float32]) -> npt.NDArray[np.uint16]:
    return np.rint(heat * (_HEAT_LEVELS - 1)).astype(np.uint16)


def _smoothed_along(array: npt.NDArray[np.float32], axis: int) -> npt.NDArray[np.float32]:
    view = np.moveaxis(array, axis, 0)
    result = np.empty_like(array)
    out = np.moveaxis(result, axis, 0)
    np.multiply(view, 1 - 2 * _SMOOTHING, out=out)
    out[1:] += _SMOOTHING * view[:-1]
    out[:-1] += _SMOOTHING * view[1:]
    out[0] += _SMOOTHING * view[0]
    out[-1] += _SMOOTHING * view[-1]
    return result


def _heat_tables(threshold: float, opacity: float) -> tuple[npt.NDArray[np.float32], ...]:
    """For each level of heat its colour [L, 3], how much it covers the anatomy's colour, and its opacity [L]."""
    heat = np.linspace(0, 1, _HEAT_LEVELS)
    # Thin at its edge and dense within, so that the hottest shows through what surrounds it.
    depth = np.clip((heat - threshold) / max(1 - threshold, _SOFT_EDGE), 0, 1)
    edge = np.clip(0.2 + (heat - threshold) / _SOFT_EDGE, 0, 1)
    opacities = opacity * edge * (_THINNEST + (1 - _THINNEST) * depth**2)
    return tuple(table.astype(np.float32) for table in (255 * heat_colours(heat), edge, opacities))
