"""What a plugin finds and misses at each threshold: the curve of a class, as it is kept in the plugin's provenance.

Needs the standard library alone, since the application's own process reads it.
"""

from __future__ import annotations

import bisect
import dataclasses
import itertools
from typing import Any

from .errors import InputError
from .records import mapping_of
from .spec import PluginSpec

POINTS, CASES = "operating_points", "operating_cases"
MOST_POINTS = 101
DECIMALS = 4
MOST_CASES = 10**9


@dataclasses.dataclass(frozen=True)
class OperatingPoint:
    """The share of cases with the finding that are found at a threshold, and of those without it that are let go."""

    threshold: float
    sensitivity: float
    specificity: float


@dataclasses.dataclass(frozen=True)
class OperatingCurve:
    """The operating points of a class, thresholds rising; each holds from its threshold up to the next one's.

    A class is decided for where probability >= threshold. `positives` and `negatives` are how many cases of either
    kind it was measured on, None where that is not told.
    """

    points: tuple[OperatingPoint, ...]
    positives: int | None = None
    negatives: int | None = None

    def at(self, threshold: float) -> OperatingPoint:
        """What holds at a threshold; raises InputError for one outside 0 to 1.

        Exact at thresholds of up to four decimals where the curve keeps every case; where it was thinned, for the next
        lower threshold that was kept.
        """
        if not 0 <= threshold <= 1:
            raise InputError(f"A threshold lies within 0 to 1, but is {threshold:g}.")
        place = bisect.bisect_right(self.points, threshold, key=lambda point: point.threshold) - 1
        return dataclasses.replace(self.points[max(place, 0)], threshold=float(threshold))


def curve_of(spec: PluginSpec, class_name: str) -> OperatingCurve | None:
    """The curve of a class on the validation cases; None where the plugin has none, or one that cannot be read.

    Of a binary plugin the positive class has one. A multiclass plugin decides for the most probable class: there the
    curve is of one class against the rest, and what is decided does not follow it.
    """
    validation = mapping_of(spec.provenance.get("validation"))
    rows = mapping_of(validation.get(POINTS)).get(class_name)
    if class_name not in spec.explained or not isinstance(rows, list) or not 1 <= len(rows) <= MOST_POINTS:
        return None
    if not all(isinstance(row, list) and len(row) == 3 and all(map(_is_share, row)) for row in rows):
        return None
    points = tuple(OperatingPoint(*map(float, row)) for row in rows)
    if not all(_in_order(first, second) for first, second in itertools.pairwise(points)):
        return None
    cases = mapping_of(mapping_of(validation.get(CASES)).get(class_name))
    return OperatingCurve(points, _count(cases.get("positives")), _count(cases.get("negatives")))


def _in_order(first: OperatingPoint, second: OperatingPoint) -> bool:
    return (
        first.threshold < second.threshold
        and first.sensitivity >= second.sensitivity
        and first.specificity <= second.specificity
    )


def _is_share(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= 1


def _count(value: Any) -> int | None:
    return value if type(value) is int and 1 <= value <= MOST_CASES else None
