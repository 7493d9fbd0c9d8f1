"""From a volume to the slices of one view, and where each of their pixels lies in the patient.

One function, driven by a saved spec, for training, the shell, the worker and Slicer. Every step is a change along
one array axis (a choice, a flip, a linear resampling), so the slice grid has an affine, and axes that are oblique
to the body are never resampled onto it.
"""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk

from .errors import InputError
from .geometry import (
    AXIS_NAMES,
    SLICE_ORIENTATION,
    Affine,
    boxes_overlap,
    index_bounds,
    nearest_axes,
    transform_points,
)
from .padding import without_padding
from .resampling import AxisGrid, resample
from .spec import IntensitySpec, PreprocessingSpec, RegionSpec, SliceSpec
from .volume import Volume, check_values

LARGEST_VIEW = 1 << 31  # values in one view; past it the spec cannot be meant for this volume


@dataclasses.dataclass(frozen=True)
class Box:
    """A box in RAS millimetres: `low` and `high` are (R, A, S)."""

    low: tuple[float, float, float]
    high: tuple[float, float, float]

    def __post_init__(self) -> None:
        # Written so that a NaN is refused too.
        if not all(-np.inf < a < b < np.inf for a, b in zip(self.low, self.high, strict=True)):
            raise InputError(f"A box needs low corners below its high ones, but has {self.low} and {self.high}.")


@dataclasses.dataclass(frozen=True)
class Segment:
    """The voxels of `mask` that have the value `label`; None means any but 0."""

    mask: Volume
    label: int | None = None


Region = Box | Segment


@dataclasses.dataclass(frozen=True)
class Slices:
    """The slices of one view.

    `array` is float32 [S, C, H, W] in [0, 1], before the backbone's normalisation, C being 1 or 3. `ijk_to_ras`
    maps (column, row, slice) to RAS. `axis` is the slicing that was used. `inside` says per row and column whether
    the pixel shows the image, or padding.
    """

    array: npt.NDArray[np.float32]
    ijk_to_ras: Affine
    axis: str
    inside: tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]

    @property
    def centres(self) -> npt.NDArray[np.float64]:
        """RAS of each slice's centre [S, 3]."""
        count, _, rows, columns = self.array.shape
        points = np.array([[(columns - 1) / 2, (rows - 1) / 2, s] for s in range(count)])
        return transform_points(self.ijk_to_ras, points)

    def patch_affine(self, shape: tuple[int, int]) -> Affine:
        """The affine of a per-slice map [S, h, w] of `shape` (h, w) that covers the slices evenly."""
        scale_y, scale_x = self.array.shape[2] / shape[0], self.array.shape[3] / shape[1]
        to_pixels = np.diag([scale_x, scale_y, 1.0, 1.0])
        to_pixels[:2, 3] = (scale_x - 1) / 2, (scale_y - 1) / 2
        return self.ijk_to_ras @ to_pixels


def preprocess(volume: Volume, spec: PreprocessingSpec, *, region: Region | None = None) -> Slices:
    """Cut `volume` into the slices that `spec` describes; what a CT scanner padded is taken as air.

    Raises InputError for values that are not finite, a constant region, a region that is missing or lies outside
    the volume, or a colour picture where the spec asks for three windows.
    """
    check_values(volume)
    volume = without_padding(volume)
    axis, columns = slicing_of(volume, spec.axis)
    bounds = _bounds(volume, spec.region, region)
    # Along (slice, row, column): the array's own axis, turned so that its index runs in the standard direction.
    turned, to_source = _turn(volume, columns)
    windows = [_turned_bounds(bounds, column, sign, volume.grid) for column, sign in columns]
    spacing = [float(volume.spacing[column]) for column, _ in columns]
    part = turned[tuple(slice(low, high) for low, high in windows)]
    if part.min() == part.max():
        raise InputError(f"The region of {volume.name} holds one value everywhere: there is nothing to see in it.")
    mapping = _intensity_mapping(part, spec.intensity, name=volume.name)
    grids = (_slice_grid(windows[0], spacing[0], spec.slices), *_plane_grids(windows[1:], spacing[1:], spec))
    channels = mapping.channels if part.ndim == 3 else 3
    if np.prod([grid.count for grid in grids], dtype=float) * channels > LARGEST_VIEW:
        raise InputError(f"The slices of {volume.name} would not fit in memory: its spacing of {spacing} mm is odd.")
    array = _cut(part, [grid.shifted(-low) for grid, (low, _) in zip(grids, windows, strict=True)], mapping)
    steps = np.diag([grids[2].step, grids[1].step, grids[0].step, 1.0])
    steps[:3, 3] = grids[2].start, grids[1].start, grids[0].start
    inside = (grids[1].inside(windows[1]), grids[2].inside(windows[2]))
    return Slices(array, volume.ijk_to_ras @ to_source @ steps, axis, inside)


def slicing_of(volume: Volume, axis: str) -> tuple[str, list[tuple[int, int]]]:
    """The slicing used, and per (slice, row, column) the affine's column and the sign of its run.

    A volume of one slice is cut along that slice's own axis, whatever was asked: there is no other picture in it.
    """
    nearest = nearest_axes(volume.ijk_to_ras)
    single = [column for column in range(3) if volume.grid[2 - column] == 1]
    if len(single) == 1:
        axis = AXIS_NAMES[[column for column, _ in nearest].index(single[0])]
    return axis, [(nearest[ras][0], nearest[ras][1] * sign) for ras, sign in SLICE_ORIENTATION[axis]]


def _turn(volume: Volume, columns: list[tuple[int, int]]) -> tuple[npt.NDArray, Affine]:
    """A view of the array as [slice, row, column, ...], and the affine from its (column, row, slice) to the array's."""
    order = [2 - column for column, _ in columns]
    turned = np.transpose(volume.array, (*order, *range(3, volume.array.ndim)))
    to_source = np.zeros((4, 4))
    to_source[3, 3] = 1.0
    for place, (column, sign) in enumerate(columns):
        to_source[column, 2 - place] = sign
        if sign < 0:
            to_source[column, 3] = volume.grid[2 - column] - 1
            turned = np.flip(turned, axis=place)
    return turned, to_source


def _turned_bounds(
    bounds: list[tuple[int, int]], column: int, sign: int, grid: tuple[int, int, int]
) -> tuple[int, int]:
    low, high = bounds[column]
    length = grid[2 - column]
    return (low, high) if sign > 0 else (length - high, length - low)


def _bounds(volume: Volume, spec: RegionSpec, region: Region | None) -> list[tuple[int, int]]:
    """First and one past the last voxel of the region along (i, j, k), within the volume."""
    if region is not None and not spec.comes_with_study:
        raise InputError(f"This plugin looks at the region '{spec.kind}', which needs no box or segment: leave it out.")
    if spec.kind == "whole":
        return [(0, n) for n in reversed(volume.grid)]
    if spec.kind == "centre":
        return _centre_bounds(volume, spec)
    if spec.kind == "foreground":
        low, high = _mask_bounds(_scalar(volume.array) > _foreground_threshold(volume, spec.threshold))
    elif isinstance(region, Box):
        low, high = _box_bounds(volume, region)
    elif isinstance(region, Segment):
        low, high = _segment_bounds(volume, region)
    else:
        raise InputError(f"This plugin looks at a {spec.kind} of {volume.name}: give one (a box in RAS or a segment).")
    return _clipped(volume, low - spec.margin_mm / volume.spacing, high + spec.margin_mm / volume.spacing)


def _centre_bounds(volume: Volume, spec: RegionSpec) -> list[tuple[int, int]]:
    middle = (np.array(volume.grid[::-1]) - 1) / 2
    half = np.empty(3)
    for (column, _), size in zip(nearest_axes(volume.ijk_to_ras), spec.size_mm or (), strict=True):
        half[column] = size / 2 / volume.spacing[column]
    return _clipped(volume, middle - half, middle + half)


def _clipped(volume: Volume, low: npt.NDArray, high: npt.NDArray) -> list[tuple[int, int]]:
    """Whole voxels that the continuous bounds touch; the same voxels whichever way an axis is stored."""
    bounds = []
    for a, b, length in zip(low, high, reversed(volume.grid), strict=True):
        first, last = int(np.floor(a + 0.5 + 1e-4)), int(np.ceil(b + 0.5 - 1e-4))
        first, last = max(first, 0), min(max(last, first + 1), length)
        if first >= last:
            raise _outside(volume)
        bounds.append((first, last))
    return bounds


def _outside(volume: Volume) -> InputError:
    return InputError(f"The region lies outside {volume.name}: choose one that touches it.")


def _box_bounds(volume: Volume, box: Box) -> tuple[npt.NDArray, npt.NDArray]:
    corners = np.array(list(itertools.product(*zip(box.low, box.high, strict=True))))
    # In an oblique volume the bounds may cross it where the box itself does not.
    if not boxes_overlap(corners, volume.corners()):
        raise _outside(volume)
    return index_bounds(corners, volume.ijk_to_ras)


def _segment_bounds(volume: Volume, segment: Segment) -> tuple[npt.NDArray, npt.NDArray]:
    mask = segment.mask
    if mask.is_colour:
        raise InputError(f"The segment {mask.name} is a colour picture: give a label map.")
    chosen = mask.array != 0 if segment.label is None else mask.array == segment.label
    if not chosen.any():
        which = "" if segment.label is None else f" {segment.label}"
        raise InputError(f"The segment{which} in {mask.name} is empty: choose another.")
    # The ends of each line of voxels are enough; voxel by voxel, since a box of an oblique box would be too wide.
    k, j = np.nonzero(chosen.any(axis=2))
    first, last = chosen[k, j].argmax(axis=1), chosen.shape[2] - 1 - chosen[k, j, ::-1].argmax(axis=1)
    ends = np.concatenate([np.stack([i, j, k], axis=1) for i in (first, last)])
    to_image = np.linalg.inv(volume.ijk_to_ras) @ mask.ijk_to_ras
    indices, half_voxel = transform_points(to_image, ends), np.abs(to_image[:3, :3]).sum(axis=1) / 2
    return indices.min(axis=0) - half_voxel, indices.max(axis=0) + half_voxel


def _mask_bounds(mask: npt.NDArray[np.bool_]) -> tuple[npt.NDArray, npt.NDArray]:
    """The outer edges of the true voxels in continuous indices (i, j, k)."""
    low, high = [], []
    for axis in (2, 1, 0):
        line = np.flatnonzero(mask.any(axis=tuple(a for a in range(3) if a != axis)))
        low.append(line[0] - 0.5)
        high.append(line[-1] + 0.5)
    return np.array(low), np.array(high)


def _scalar(array: npt.NDArray) -> npt.NDArray:
    return array if array.ndim == 3 else array.mean(axis=3)


def _foreground_threshold(volume: Volume, threshold: float | None) -> float:
    value = otsu_threshold(_scalar(volume.array)) if threshold is None else threshold
    if not (_scalar(volume.array) > value).any():
        raise InputError(f"No voxel of {volume.name} lies above the foreground threshold {value:g}: choose another.")
    return value


def otsu_threshold(values: npt.NDArray) -> float:
    """Otsu's threshold over 256 bins; the values above it are the foreground."""
    flat = np.ascontiguousarray(values, dtype=np.float32).reshape(1, -1)
    otsu = sitk.OtsuThresholdImageFilter()
    otsu.SetNumberOfHistogramBins(256)
    otsu.Execute(sitk.GetImageFromArray(flat))
    return otsu.GetThreshold()


def _slice_grid(window: tuple[int, int], spacing: float, spec: SliceSpec) -> AxisGrid:
    low, high = window
    length = high - low
    if spec.policy == "thickness":
        # The tolerance keeps one more slice from appearing by the rounding of a header.
        count = max(1, round(length * spacing / (spec.thickness_mm or spacing) - 1e-4))
        step = (spec.thickness_mm or spacing) / spacing
    elif spec.policy == "at_most" and length > (spec.count or 1):
        count = spec.count or 1
        step = length / count
    else:
        return AxisGrid(start=float(low), step=1.0, count=length)
    middle = (low + high - 1) / 2
    return AxisGrid(start=middle - (count - 1) / 2 * step, step=step, count=count, area=spec.sampling == "area")


def _plane_grids(
    windows: list[tuple[int, int]], spacing: list[float], spec: PreprocessingSpec
) -> tuple[AxisGrid, AxisGrid]:
    extents = [(high - low) * mm for (low, high), mm in zip(windows, spacing, strict=True)]
    pixel = spec.spacing_mm
    if pixel is None and spec.size is not None:
        pixel = max(extent / n for extent, n in zip(extents, spec.size, strict=True))
    grids = []
    for axis, ((low, high), extent, mm) in enumerate(zip(windows, extents, spacing, strict=True)):
        step = (pixel or min(spacing)) / mm
        count = spec.size[axis] if spec.size else max(1, int(np.ceil(extent / (step * mm) - 1e-4)))
        count = -(-count // spec.multiple_of) * spec.multiple_of
        middle = (low + high - 1) / 2
        grids.append(AxisGrid(start=middle - (count - 1) / 2 * step, step=step, count=count))
    return grids[0], grids[1]


@dataclasses.dataclass(frozen=True)
class _IntensityMapping:
    """Per channel: value = clip((x - low) / (high - low), 0, 1)."""

    low: npt.NDArray[np.float32]
    high: npt.NDArray[np.float32]

    @property
    def channels(self) -> int:
        return len(self.low)


def _intensity_mapping(part: npt.NDArray, spec: IntensitySpec, *, name: str) -> _IntensityMapping:
    if spec.kind == "window":
        if part.ndim == 4 and len(spec.windows) == 3:
            raise InputError(f"{name} is a colour picture, but three windows are asked for: give a grey image.")
        ranges = [(centre - width / 2, centre + width / 2) for centre, width in spec.resolved_windows()]
    else:
        values = part
        if spec.foreground:
            above = part[_scalar(part) > otsu_threshold(_scalar(part))]
            values = above if above.size else part
        if spec.kind == "percentile":
            ranges = [tuple(np.percentile(values, spec.percentiles))]
        else:
            mean, deviation = float(values.mean(dtype=np.float64)), float(values.std(dtype=np.float64))
            ranges = [(mean - spec.clip * deviation, mean + spec.clip * deviation)]
        if not ranges[0][1] > ranges[0][0]:
            # Few bright voxels in an empty picture: the percentiles meet, the extremes still tell them apart.
            ranges = [(float(part.min()), float(part.max()))]
    low, high = np.array(ranges, dtype=np.float32).T
    if not np.all(high > low):
        raise InputError(f"The values in the region of {name} differ too little for float32: shift or scale them.")
    return _IntensityMapping(low, high)


def _cut(part: npt.NDArray, grids: list[AxisGrid], mapping: _IntensityMapping) -> npt.NDArray[np.float32]:
    """Resample to the grids and map intensities: [S, C, H, W]."""
    if part.ndim == 4:
        planes = [resample(part[..., c], grids) for c in range(3)]
    else:
        planes = [resample(part, grids)] * mapping.channels
    low, high = (np.broadcast_to(bound, len(planes)) for bound in (mapping.low, mapping.high))
    result = np.empty((len(planes[0]), len(planes), *planes[0].shape[1:]), dtype=np.float32)
    for channel, plane in enumerate(planes):
        # Step by step within the result, since a large CT with three windows takes gigabytes for each copy.
        values = result[:, channel]
        np.subtract(plane, low[channel], out=values)
        values /= high[channel] - low[channel]
        np.clip(values, 0.0, 1.0, out=values)
    for axis, grid in ((2, grids[1]), (3, grids[2])):
        outside = ~grid.inside((0, part.shape[axis - 1]))
        if outside.any():
            result[(slice(None),) * axis + (outside,)] = 0.0
    return result
