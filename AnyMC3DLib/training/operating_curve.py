"""The operating points of a plugin's classes, measured on cases of which the answer is known."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from ..operating_points import CASES, DECIMALS, MOST_POINTS, POINTS
from ..spec import PluginSpec
from .decisions import checked_probabilities, one_against_the_rest
from .metrics import Scores

MOST_DECIMALS = 17


def operating_figures(spec: PluginSpec, targets: npt.NDArray[np.int64], probabilities: Scores) -> dict[str, Any]:
    """What `operating_points.curve_of` reads, as JSON values; nothing where no class has cases of both kinds.

    Targets are class numbers [N], or [N, classes] of 0, 1 and -1 where a label is missing, which is left out;
    probabilities [N, classes] are as the plugin gives them. Raises InputError where they do not suit the task.
    """
    truth = one_against_the_rest(spec, targets)
    array = checked_probabilities(spec, probabilities, cases=len(truth))[:, -truth.shape[1] :]
    thresholds = {c.name: c.threshold for c in spec.classes}
    points, cases = {}, {}
    for name, labels, scores in zip(spec.explained, truth.T, array.T, strict=True):
        positive = labels[labels >= 0] == 1
        if positive.all() or not positive.any():
            continue
        points[name] = curve_points(positive, scores[labels >= 0], threshold=thresholds[name])
        cases[name] = {"positives": int(positive.sum()), "negatives": int((~positive).sum())}
    return {POINTS: points, CASES: cases} if points else {}


def curve_points(positive: npt.NDArray[np.bool_], scores: Scores, *, threshold: float) -> list[list[float]]:
    """Rows of threshold, sensitivity and specificity, at most MOST_POINTS, thresholds rising from 0.

    `positive` and `scores` [N] say of each case what it is and its probability; there must be cases of both kinds.
    There is a row for each distinct probability, which holds just above it, unless there are too many. The thresholds
    are as short as tells the cases apart. What is said at the plugin's own `threshold` is exact.
    """
    values, place = np.unique(scores, return_inverse=True)
    hits = positive.sum() - _so_far(place[positive], len(values))
    rejections = _so_far(place[~positive], len(values))
    own = int(np.searchsorted(values, threshold))
    # No threshold leaves out a probability of 1.
    count = len(values) + int(values[-1] < 1)
    sensitivity, specificity = hits[:count] / positive.sum(), rejections[:count] / (~positive).sum()
    kept = _kept(sensitivity, specificity, own)
    cuts = {n: _cut(values, n) for n in kept}
    # Between a case and the short number above it.
    cuts[own] = min(cuts[own], threshold)
    return [[cuts[n], round(float(sensitivity[n]), DECIMALS), round(float(specificity[n]), DECIMALS)] for n in kept]


def _so_far(place: npt.NDArray[np.int64], count: int) -> npt.NDArray[np.int64]:
    """How many of the cases have one of the first n values, for n from 0 to `count`."""
    return np.concatenate([[0], np.bincount(place, minlength=count).cumsum()])


def _kept(sensitivity: Scores, specificity: Scores, own: int) -> list[int]:
    """The rows to keep: evenly in the rank among the positives and among the negatives, so that a rare class keeps its
    own, and in any case the ends, the plugin's own and Youden's best with the next one."""
    last = len(sensitivity) - 1
    if last < MOST_POINTS:
        return list(range(last + 1))
    best = int((sensitivity + specificity).argmax())
    always = {0, own, best, min(best + 1, last), last}
    way = specificity + 1 - sensitivity
    evenly = np.searchsorted(way, np.linspace(0, way[-1], MOST_POINTS - len(always)))
    return sorted(always | set(evenly.tolist()))


def _cut(values: Scores, number: int) -> float:
    """The shortest threshold above the first `number` values, and not beyond the middle between them and the next."""
    if not number:
        return 0.0
    low, high = float(values[number - 1]), float(values[number]) if number < len(values) else 1.0
    middle = (low + high) / 2
    for decimals in range(DECIMALS, MOST_DECIMALS + 1):
        short = round((math.floor(low * 10**decimals) + 1) / 10**decimals, decimals)
        if low < short <= middle:
            return short
    # Between neighbouring doubles there is no middle.
    return middle if middle > low else high
