"""From relevance maps to a heatmap on the grid of an input volume, and its hot spots.

The scale is the same for every study: heat = log(m) / log(FULL_HEAT), clipped to [0, 1], where m is how many times
its even share of the relevance a voxel holds. It is never stretched to a study's own maximum.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from .errors import InputError
from .geometry import Affine, transform_points
from .prediction import HotSpot, Prediction, RelevanceMap
from .resampling import sample_map
from .volume import Volume

FULL_HEAT = 100.0  # times the even share at which heat is 1
DISPLAY_THRESHOLD = 0.5  # heat from which an overlay shows: ten times the even share
MOST_HOT_SPOTS = 10
SLAB_VALUES = 1 << 24  # voxels rendered at once, so that a large grid needs little more than its own memory


def heat_of(density: npt.NDArray) -> npt.NDArray[np.float32]:
    """Densities (1 = the even share) to heat in [0, 1]."""
    return np.clip(np.log(np.maximum(density, 1.0)) / np.log(FULL_HEAT), 0.0, 1.0).astype(np.float32)


def heatmap(prediction: Prediction, grid: Volume, *, class_name: str | None = None) -> Volume:
    """The heat of a class on the voxels of `grid`, float32 in [0, 1] with the grid's own affine.

    `class_name` None gives the paper's map, which is the same for all classes. Raises InputError for a class
    without a logit, or where the prediction was made without the map.
    """
    maps = [(values, np.linalg.inv(affine) @ grid.ijk_to_ras) for values, affine in _maps_of(prediction, class_name)]
    heat = np.empty(grid.grid, dtype=np.float32)
    slab = max(1, SLAB_VALUES // (grid.grid[1] * grid.grid[2]))
    for first in range(0, len(heat), slab):
        part = heat[first : first + slab]
        # The slab's index (i, j, k) in the grid's.
        shift = np.eye(4)
        shift[2, 3] = first
        part[:] = heat_of(sum(sample_map(values, to_map @ shift, part.shape) for values, to_map in maps))
    return Volume(heat, grid.ijk_to_ras, name="the heatmap")


def hot_spots(
    maps: Sequence[tuple[npt.NDArray[np.float32], Affine]], *, threshold: float = DISPLAY_THRESHOLD
) -> list[HotSpot]:
    """Local maxima of the heat of maps [S, h, w] with their affines, hottest first.

    Views are summed at the patches of each; of two maxima nearer than a patch of the coarsest map the hotter stays.
    """
    # By density, not by heat: heat ends at 1, and of several places past it the densest is meant.
    found: list[tuple[float, npt.NDArray]] = []
    for values, affine in maps:
        density = _sum_at(maps, values.shape, affine)
        for index in np.argwhere(_is_local_maximum(density) & (heat_of(density) >= threshold)):
            found.append((float(density[tuple(index)]), transform_points(affine, index[::-1])))
    reach = max((float(np.linalg.norm(affine[:3, :3], axis=0).max()) for _, affine in maps), default=0.0)
    kept: list[tuple[float, npt.NDArray]] = []
    for density, ras in sorted(found, key=lambda spot: -spot[0]):
        if all(np.linalg.norm(ras - other) >= reach for _, other in kept):
            kept.append((density, ras))
    return [
        HotSpot(tuple(round(float(x), 2) for x in ras), round(float(heat_of(np.array(density))), 4))
        for density, ras in kept[:MOST_HOT_SPOTS]
    ]


def class_hot_spots(prediction_maps: dict[str, RelevanceMap], number: int) -> list[HotSpot]:
    """The hot spots of the class map `number` over all views."""
    maps = [(m.classes[number], m.ijk_to_ras) for m in prediction_maps.values() if m.classes is not None]
    return hot_spots(maps)


def _maps_of(prediction: Prediction, class_name: str | None) -> list[tuple[npt.NDArray[np.float32], Affine]]:
    if not prediction.maps:
        raise InputError("This prediction was made without relevance maps: classify again with them.")
    if class_name is None:
        maps = [(m.attention, m.ijk_to_ras) for m in prediction.maps.values() if m.attention is not None]
        if not maps:
            raise InputError("This backbone has no class attention to show: choose the heatmap of a class.")
        return maps
    explained = prediction.spec.explained
    if class_name not in explained:
        raise InputError(f"There is no heatmap of a class '{class_name}': choose {', '.join(explained)}.")
    number = explained.index(class_name)
    maps = [(m.classes[number], m.ijk_to_ras) for m in prediction.maps.values() if m.classes is not None]
    if not maps:
        raise InputError("This prediction was made without class maps: classify again with all maps.")
    return maps


def _sum_at(
    maps: Sequence[tuple[npt.NDArray[np.float32], Affine]], shape: tuple[int, ...], affine: Affine
) -> npt.NDArray[np.float32]:
    total = np.zeros(shape, dtype=np.float32)
    for values, other in maps:
        total += values if other is affine else sample_map(values, np.linalg.inv(other) @ affine, shape)
    return total


def _is_local_maximum(density: npt.NDArray[np.float32]) -> npt.NDArray[np.bool_]:
    """Whether each value is the largest among its 26 neighbours; of equal ones, the first in order."""
    padded = np.pad(density, 1, constant_values=-1.0)
    result = np.ones(density.shape, dtype=bool)
    for offset in np.ndindex(3, 3, 3):
        if offset == (1, 1, 1):
            continue
        neighbour = padded[tuple(slice(o, o + n) for o, n in zip(offset, density.shape, strict=True))]
        result &= (density > neighbour) if offset < (1, 1, 1) else (density >= neighbour)
    return result
