"""Which differences between methods are more than chance: on one dataset, and over several.

DeLong: E. R. DeLong, D. M. DeLong and D. L. Clarke-Pearson, Biometrics 44 (1988), by midranks after X. Sun and W. Xu,
IEEE Signal Processing Letters 21 (2014). Ranks over datasets: J. Demsar, JMLR 7 (2006). Holm: S. Holm, Scandinavian
Journal of Statistics 6 (1979).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
from scipy import stats
from scipy.special import expit, logit

from ..errors import InputError
from ..training.metrics import Estimate, patient_numbers

LEVEL = 0.05
LEAST_DATASETS, LEAST_METHODS = 5, 3
DIGITS = 12  # scores that agree so far are equal, whatever the order they were summed in
Array = npt.NDArray[np.float64]
NAN = float("nan")


@dataclasses.dataclass(frozen=True)
class Difference:
    """The AUROC of a first model minus that of a second, with its 95 % interval, z and two-sided p; NaN if unknown."""

    value: float
    low: float
    high: float
    z: float
    p: float

    def to_dict(self) -> dict[str, float | None]:
        """The difference as JSON values; JSON has no NaN, so what is unknown is null."""
        return {name: value if math.isfinite(value) else None for name, value in dataclasses.asdict(self).items()}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ranks:
    """How methods rank over datasets, 1 being the best.

    `chi_squared` is Friedman's, corrected for ties; `f` is what Iman and Davenport made of it, with `p` its p value.
    Where all datasets rank alike, `f` is infinite and `p` the chance of that. Two methods whose mean ranks differ by
    `critical_difference` or more differ at the 5 % level (Nemenyi).
    """

    mean: Mapping[str, float]
    datasets: int
    chi_squared: float
    f: float
    p: float
    critical_difference: float


def independent(patients: Sequence[str]) -> bool:
    """Whether no patient has several cases, as DeLong's method assumes; a case without a name ("") is its own."""
    return len(set(patient_numbers(patients).tolist())) == len(patients)


def delong_interval(targets: npt.NDArray[np.int64], scores: Array) -> Estimate:
    """The AUROC of scores [N] for targets [N] of 0 and 1, with DeLong's 95 % interval.

    Cases are taken as independent of each other: see `independent`. The interval is made on the logit scale, so that
    it stays within 0 and 1 and covers better near them than a symmetric one (M. S. Pepe, The Statistical Evaluation
    of Medical Tests, 2003, 5.2). It is unknown (NaN) for an AUROC of 0 or 1, where the variance is estimated as 0,
    and where a class has one case. Raises InputError where a class has none, and for targets or scores that are not
    such.
    """
    of_positives, of_negatives = _placements(targets, scores)
    value = _area(of_positives, of_negatives)
    variance = _variance(of_positives, of_negatives)
    if not variance > 0 or not 0 < value < 1:
        return Estimate(value, NAN, NAN)
    half = _normal_quantile() * math.sqrt(variance) / (value * (1 - value))
    return Estimate(value, float(expit(logit(value) - half)), float(expit(logit(value) + half)))


def delong(targets: npt.NDArray[np.int64], first: Array, second: Array) -> Difference:
    """AUROC of `first` minus that of `second`, both [N] on the same cases with targets [N] of 0 and 1.

    Cases are taken as independent of each other: see `independent`. Scores that rank alike give a p of 1. All but the
    difference is unknown (NaN) where the variance is estimated as 0 and yet there is a difference, and where a class
    has one case. Raises InputError as `delong_interval`.
    """
    pairs = zip(_placements(targets, first), _placements(targets, second), strict=True)
    of_positives, of_negatives = (one - other for one, other in pairs)
    if not of_positives.any() and not of_negatives.any():
        return Difference(0.0, 0.0, 0.0, 0.0, 1.0)
    value = _area(of_positives, of_negatives)
    variance = _variance(of_positives, of_negatives)
    if not variance > 0:
        return Difference(value, NAN, NAN, NAN, NAN)
    error = math.sqrt(variance)
    half = _normal_quantile() * error
    return Difference(value, value - half, value + half, value / error, float(2 * stats.norm.sf(abs(value) / error)))


def why_no_ranks(scores: Mapping[str, Mapping[str, float]]) -> str:
    """In a sentence why `average_ranks` gives none for scores by dataset and method, "" where it gives some."""
    methods = _methods(scores)
    if len(scores) < LEAST_DATASETS:
        return f"Ranks over datasets need {LEAST_DATASETS} datasets, but there are {len(scores)}."
    if len(methods) < LEAST_METHODS:
        return f"Ranks over datasets need {LEAST_METHODS} methods, but there are {len(methods)}."
    absent = [f"{m} on {d}" for d, own in scores.items() for m in methods if not math.isfinite(own.get(m, NAN))]
    return f"Ranks over datasets need each method on each dataset, but lack {', '.join(absent)}." if absent else ""


def average_ranks(scores: Mapping[str, Mapping[str, float]]) -> Ranks | None:
    """Mean ranks of methods over datasets from scores[dataset][method], of which a higher one is better.

    Equal scores share the mean of their ranks. None for fewer than 5 datasets or 3 methods, and where a score is
    missing or NaN: `why_no_ranks` says which. Datasets count as independent of each other.
    """
    if why_no_ranks(scores):
        return None
    methods = _methods(scores)
    table = np.array([[own[method] for method in methods] for own in scores.values()], dtype=np.float64)
    ranks = stats.rankdata(-table.round(DIGITS), axis=1)
    count, kinds = ranks.shape
    chi_squared, f, p = _friedman(ranks)
    # The range of normal variables, whose difference has twice the variance of one.
    quantile = float(stats.studentized_range.isf(LEVEL, kinds, np.inf)) / math.sqrt(2)
    return Ranks(
        mean=dict(zip(methods, ranks.mean(axis=0).tolist(), strict=True)),
        datasets=count,
        chi_squared=chi_squared,
        f=f,
        p=p,
        critical_difference=quantile * math.sqrt(kinds * (kinds + 1) / (6 * count)),
    )


def holm(p: Mapping[str, float]) -> dict[str, float]:
    """The p values by name, adjusted after Holm for being so many; those that are NaN stay so and do not count.

    Raises InputError for a p value that is not from 0 to 1.
    """
    wrong = next((name for name, value in p.items() if value < 0 or value > 1), None)
    if wrong is not None:
        raise InputError(f"A p value must lie from 0 to 1, but that of '{wrong}' is {p[wrong]:g}.")
    known = sorted((name for name, value in p.items() if not math.isnan(value)), key=lambda name: p[name])
    adjusted = dict.fromkeys(p, NAN)
    least = 0.0
    for number, name in enumerate(known):
        least = max(least, min(1.0, (len(known) - number) * p[name]))
        adjusted[name] = least
    return adjusted


def _placements(targets: npt.NDArray[np.int64], scores: Array) -> tuple[Array, Array]:
    """For each positive how many negatives it beats, for each negative how many positives beat it; a tie is a half."""
    targets, scores = np.asarray(targets), np.asarray(scores, dtype=np.float64)
    if targets.ndim != 1 or targets.shape != scores.shape:
        raise InputError(f"There are scores {list(scores.shape)} for targets {list(targets.shape)}: give one a case.")
    if not np.isin(targets, (0, 1)).all() or not np.isfinite(scores).all():
        raise InputError("An ROC curve needs targets of 0 and 1 and finite scores: check the labels and the model.")
    positive = targets == 1
    if positive.all() or not positive.any():
        lacking = "negative" if positive.any() else "positive"
        raise InputError(f"An ROC curve needs both classes, but there is no {lacking} case: add some.")
    among_all = stats.rankdata(scores)
    of_positives = among_all[positive] - stats.rankdata(scores[positive])
    of_negatives = positive.sum() - among_all[~positive] + stats.rankdata(scores[~positive])
    return of_positives, of_negatives


def _area(of_positives: Array, of_negatives: Array) -> float:
    return float(of_positives.sum() / (len(of_positives) * len(of_negatives)))


def _variance(of_positives: Array, of_negatives: Array) -> float:
    """DeLong's variance of the area, or of a difference of areas; NaN where a class has one case."""
    m, n = len(of_positives), len(of_negatives)
    if min(m, n) < 2:
        return NAN
    # Placements are multiples of a half, so that equal ones have a variance of exactly 0 before they are divided.
    return float(of_positives.var(ddof=1) / (m * n**2) + of_negatives.var(ddof=1) / (n * m**2))


def _normal_quantile() -> float:
    return float(stats.norm.isf(LEVEL / 2))


def _friedman(ranks: Array) -> tuple[float, float, float]:
    """Friedman's chi squared, Iman and Davenport's F and its p of ranks [datasets, methods]."""
    count, kinds = ranks.shape
    spread = ((ranks - (kinds + 1) / 2) ** 2).sum()
    if spread == 0:
        return 0.0, 0.0, 1.0
    between = ((ranks.mean(axis=0) - (kinds + 1) / 2) ** 2).sum() * count
    chi_squared = float(count * (kinds - 1) * between / spread)
    if (ranks == ranks[0]).all():
        ties = np.unique(ranks[0], return_counts=True)[1]
        orders = math.factorial(kinds) / math.prod(math.factorial(n) for n in ties.tolist())
        return chi_squared, math.inf, orders ** (1 - count)
    f = (count - 1) * chi_squared / (count * (kinds - 1) - chi_squared)
    return chi_squared, f, float(stats.f.sf(f, kinds - 1, (kinds - 1) * (count - 1)))


def _methods(scores: Mapping[str, Mapping[str, float]]) -> list[str]:
    return list(dict.fromkeys(method for own in scores.values() for method in own))
