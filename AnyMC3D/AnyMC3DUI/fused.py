"""Anatomy and heat as one block of coloured, translucent voxels: the arithmetic, without a scene.

One block is drawn with right occlusion from every side, which two overlaid volume renderings are not.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from .heat_look import heat_colours

MOST_VOXELS = 1 << 24
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
    """RGBA voxels [k, j, i, 4] of an anatomy with heat, at most `MOST_VOXELS`, and their affine in its grid.

    `to_grid` maps (i, j, k) of the block to that of the anatomy; `shrinking` is how many voxels of it make one along
    a line. Give it a look before it is painted.
    """

    def __init__(self, anatomy: npt.NDArray, heat: npt.NDArray[np.float32], spacing: npt.NDArray[np.float64]) -> None:
        shrink = _shrinking(anatomy.shape[:3], spacing)
        self.shrinking = float(np.prod(shrink) ** (1 / 3))
        self.to_grid = np.diag([*map(float, shrink[::-1]), 1.0])
        self.to_grid[:3, 3] = (np.array(shrink[::-1]) - 1) / 2
        values = _smoothed(_shrunk(anatomy if anatomy.ndim == 3 else anatomy.mean(axis=3), shrink))
        self.low, self.high = float(values.min()), float(values.max())
        values -= self.low
        values *= (_LEVELS - 1) / max(self.high - self.low, 1e-30)
        values += 0.5
        self._levels = values.astype(np.uint16)
        self.counts = np.bincount(self._levels.reshape(-1), minlength=_LEVELS)
        heat = _shrunk(heat, shrink).reshape(-1)
        # Few voxels are warm, and they alone change with the sliders.
        self._warm = np.flatnonzero(heat > 0)
        self._warm_heat = heat[self._warm]
        self._rgb = None if anatomy.ndim == 3 else [_shrunk(anatomy[..., channel], shrink) for channel in range(3)]

    @property
    def shape(self) -> tuple[int, int, int]:
        """The number of voxels along (k, j, i)."""
        return self._levels.shape

    @property
    def values(self) -> npt.NDArray[np.float64]:
        """The values of the anatomy of which `counts` says how many voxels have them."""
        return np.linspace(self.low, self.high, _LEVELS)

    def set_look(self, look: AnatomyLook) -> None:
        """Colour the anatomy."""
        self._opacities = np.clip(look.opacity(self.values), 0, 1).astype(np.float32)
        self._colours = np.rint(255 * np.clip(look.colour(self.values), 0, 1)).astype(np.uint8)
        self._base_densest = 0.0

    def paint(self, target: npt.NDArray[np.uint8], *, threshold: float, opacity: float) -> float:
        """Write anatomy, and the heat from `threshold` on with `opacity`, into `target` [k, j, i, 4].

        Returns the greatest opacity D of a voxel: an alpha of x is an opacity of D (x / 255)^2, so that translucent
        tissue has more than a handful of shades. Alphas run from 0 to 255 whatever is shown.
        """
        chosen = self._warm_heat >= threshold
        places, heat = self._warm[chosen], self._warm_heat[chosen]
        levels = np.rint(heat * (_HEAT_LEVELS - 1)).astype(np.uint16)
        colours, shares, opacities = _heat_tables(threshold, opacity)
        # Heat in a solid structure must not thin it, or what lies behind would shine through.
        dense = np.maximum(opacities[levels], self._opacities[self._levels.reshape(-1)[places]])
        densest = max(float(self._opacities[self.counts > 0].max()), float(dense.max(initial=0.0)), 1e-6)
        self._set_base(densest)
        target[:] = self._base
        flat = target.reshape(-1, 4)
        for channel in range(3):
            under = flat[places, channel].astype(np.float32)
            flat[places, channel] = under + shares[levels] * (colours[levels, channel] - under) + 0.5
        flat[places, 3] = 255 * np.sqrt(dense / densest) + 0.5
        # The renderer stretches alphas over the range that occurs, so both ends of it have to.
        flat[0, 3] = 0
        return densest

    def _set_base(self, densest: float) -> None:
        """The anatomy alone, for the greatest opacity `densest`."""
        if densest == self._base_densest:
            return
        table = np.empty((_LEVELS, 4), dtype=np.uint8)
        table[:, :3] = self._colours
        table[:, 3] = (255 * np.sqrt(self._opacities / densest) + 0.5).clip(0, 255)
        # Four bytes at once: a look-up of each would take three times as long.
        self._base = table.view(np.uint32)[:, 0][self._levels].view(np.uint8).reshape(*self.shape, 4)
        for channel, values in enumerate(self._rgb or ()):
            self._base[..., channel] = values.clip(0, 255)
        self._base_densest = densest


def _heat_tables(threshold: float, opacity: float) -> tuple[npt.NDArray[np.float32], ...]:
    """For each level of heat its colour [L, 3], how much it covers the anatomy's colour, and its opacity [L]."""
    heat = np.linspace(0, 1, _HEAT_LEVELS)
    # Thin at its edge and dense within, so that the hottest shows through what surrounds it.
    depth = np.clip((heat - threshold) / max(1 - threshold, _SOFT_EDGE), 0, 1)
    edge = np.clip(0.2 + (heat - threshold) / _SOFT_EDGE, 0, 1)
    opacities = opacity * edge * (_THINNEST + (1 - _THINNEST) * depth**2)
    return tuple(table.astype(np.float32) for table in (255 * heat_colours(heat), edge, opacities))


def _shrinking(shape: tuple[int, ...], spacing: npt.NDArray[np.float64]) -> list[int]:
    """By how much each array axis is shrunk, the finest first, until the block is small enough."""
    factors = [1, 1, 1]
    sizes = list(spacing[::-1])
    while np.prod([-(-n // f) for n, f in zip(shape, factors, strict=True)]) > MOST_VOXELS:
        # An axis of two voxels cannot be drawn if it is halved.
        order = sorted(range(3), key=lambda axis: (shape[axis] // factors[axis] < 4, sizes[axis] * factors[axis]))
        factors[order[0]] += 1
    return factors


def _shrunk(array: npt.NDArray, factors: list[int]) -> npt.NDArray[np.float32]:
    """The means of blocks of voxels, float32; the last block of an axis is of what is left."""
    result = array
    for axis, factor in enumerate(factors):
        if factor == 1:
            continue
        length = result.shape[axis]
        whole = length // factor * factor
        index: list[slice] = [slice(None)] * 3
        total: npt.NDArray[np.float32] | None = None
        for start in range(factor):
            index[axis] = slice(start, whole, factor)
            part = result[tuple(index)]
            total = part.astype(np.float32) if total is None else np.add(total, part, out=total)
        total /= factor
        parts = [total]
        if whole < length:
            index[axis] = slice(whole, length)
            parts.append(result[tuple(index)].mean(axis=axis, keepdims=True, dtype=np.float32))
        result = np.concatenate(parts, axis=axis) if len(parts) > 1 else total
    return np.ascontiguousarray(result, dtype=np.float32)


def _smoothed(array: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """A Gaussian of about 0.8 voxel: without it the anatomy's noise covers it like sand."""
    for axis in range(3):
        if array.shape[axis] < 3:
            continue
        view = np.moveaxis(array, axis, 0)
        result = np.empty_like(array)
        out = np.moveaxis(result, axis, 0)
        np.multiply(view, 1 - 2 * _SMOOTHING, out=out)
        out[1:] += _SMOOTHING * view[:-1]
        out[:-1] += _SMOOTHING * view[1:]
        out[0] += _SMOOTHING * view[0]
        out[-1] += _SMOOTHING * view[-1]
        array = result
    return array
