"""From the places of single slices to one stack: their order and the even step between them, or what is wrong."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from .errors import InputError

# A gap may differ from the mean gap by this share before slices are taken to be missing.
GAP_TOLERANCE = 0.05
# How far the numbers of two slices may differ, and a direction may miss a right angle, by rounding.
ROUNDING = 1e-3
# Of directions that were written with three digits.
RIGHT_ANGLE = 3e-3
MOST_NAMED = 3

Numbers = npt.NDArray[np.float64]


def plane_of(orientations: Numbers, spacings: Numbers, *, where: str) -> tuple[Numbers, Numbers]:
    """The one plane of all slices: (row direction, column direction) [2, 3], and (row, column) spacing in mm.

    `orientations` is [N, 6] and `spacings` [N, 2], as DICOM tells them. Raises InputError where slices differ, or
    where the directions are no two unit vectors at a right angle. `where` is the folder or file, quoted.
    """
    if np.abs(orientations - orientations[0]).max() > ROUNDING:
        kinds = Counter(map(tuple, orientations.round(2))).most_common()
        counts = ", ".join(str(count) for _, count in kinds[:MOST_NAMED])
        raise InputError(
            f"The slices in {where} lie in several directions ({counts} of them in each; a localiser, or two stacks?): "
            "put the wanted ones in a folder of their own."
        )
    directions = orientations[0].reshape(2, 3)
    if np.abs(directions @ directions.T - np.eye(2)).max() > RIGHT_ANGLE:
        raise InputError(f"The directions of the slices in {where} are not at right angles: export the series again.")
    if np.any(np.abs(spacings - spacings[0]) > ROUNDING * spacings[0]):
        low, high = spacings.min(), spacings.max()
        raise InputError(
            f"The slices in {where} have pixels of different sizes ({low:.4g} to {high:.4g} mm): "
            "put the wanted ones in a folder of their own."
        )
    return directions, spacings[0]


def arranged(positions: Numbers, directions: Numbers, *, where: str) -> tuple[npt.NDArray[np.intp], Numbers]:
    """The order of the slices along their normal, and the step in mm from each to the next; the step may lean.

    `positions` [N, 3] belong to N > 1 slices in the plane of `directions` [2, 3]. Raises InputError, which tells the
    positions along the normal, where slices are missing, come twice or are out of line.
    """
    heights = positions @ np.cross(*directions)
    order = np.argsort(heights, kind="stable")
    positions, heights = positions[order], heights[order]
    step = (positions[-1] - positions[0]) / (len(order) - 1)
    steps = np.diff(positions, axis=0)
    mean = float(np.linalg.norm(step))
    if mean <= 1e-6 or np.linalg.norm(steps - step, axis=1).max() > GAP_TOLERANCE * mean:
        gaps = np.linalg.norm(steps, axis=1)
        raise InputError(
            f"The slices in {where} are not evenly spaced ({gaps.min():.2f} to {gaps.max():.2f} mm apart): "
            f"{_what_is_wrong(heights)}."
        )
    return order, step


def _what_is_wrong(heights: Numbers) -> str:
    gaps = np.diff(heights)
    same = gaps <= GAP_TOLERANCE * np.mean(gaps)
    counts = np.diff(np.flatnonzero(np.concatenate([[True], ~same, [True]])))
    if counts.min() == counts.max() > 1:
        return f"{counts[0]} lie at each of {len(counts)} places, put one stack of them in a folder of its own"
    if same.any():
        places = _listed(f"{height:.1f}" for height in heights[:-1][same])
        return f"some come twice (at {places} mm), export the whole series again"
    usual = np.median(gaps)
    wide = np.flatnonzero(gaps > (1 + GAP_TOLERANCE) * usual)
    if wide.size:
        places = _listed(f"between {heights[n]:.1f} and {heights[n + 1]:.1f}" for n in wide)
        return f"some are missing ({places} mm), export the whole series again"
    return f"some between {heights[0]:.1f} and {heights[-1]:.1f} mm are out of line, export the whole series again"


def _listed(places: Iterator[str]) -> str:
    named = list(places)
    more = [f"{len(named) - MOST_NAMED} more places"] if len(named) > MOST_NAMED else []
    return ", ".join([*named[:MOST_NAMED], *more])
