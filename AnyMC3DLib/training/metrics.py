"""Figures of a model with bootstrap intervals over patients, and paired differences of two models."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import numpy.typing as npt
from scipy.stats import binomtest, rankdata

RESAMPLES = 2000
METRICS = ("auroc", "auprc", "balanced_accuracy", "f1", "sensitivity", "specificity", "brier", "ece", "accuracy")
BINS = 15
ECE_DEFINITION = (
    f"mean absolute difference of the class's mean probability and its frequency in {BINS} bins of equal width from "
    "0 to 1, weighted by the cases in each bin; one class against the rest; "
    "resampling scatters the bins, so that the interval lies high and may leave the value out"
)
Scores = npt.NDArray[np.float64]
Metric = Callable[[npt.NDArray, Scores], float]


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A figure with its 95 % bootstrap interval; all three are NaN where it cannot be computed."""

    value: float
    low: float
    high: float

    def to_dict(self) -> dict[str, float | None]:
        """The figure as JSON values; JSON has no NaN, so what is unknown is null."""
        return {name: value if np.isfinite(value) else None for name, value in dataclasses.asdict(self).items()}

    def __str__(self) -> str:
        return f"{self.value:.3f} ({self.low:.3f} to {self.high:.3f})"


def share_of(count: int, total: int) -> Estimate:
    """A share of cases with its 95 % interval by Wilson (doi 10.1080/01621459.1927.10502953); NaN of none."""
    if not total:
        return Estimate(np.nan, np.nan, np.nan)
    interval = binomtest(count, total).proportion_ci(method="wilson")
    return Estimate(count / total, float(interval.low), float(interval.high))


def auc(targets: npt.NDArray, probabilities: Scores) -> float:
    """Area under the ROC curve from probabilities [N, classes]; NaN where a class is absent.

    Targets are numbers [N], or [N, classes] of 0, 1, and -1 where a label is missing, which is left out. Binary: that
    of the second class; else the mean over classes of one against the rest, as MedMNIST's evaluator does.
    """
    if targets.ndim == 1:
        if probabilities.shape[1] == 2:
            return _binary_auc(targets, probabilities[:, 1])
        targets = np.eye(probabilities.shape[1], dtype=int)[targets]
    columns = zip(targets.T, probabilities.T, strict=True)
    return float(np.mean([_binary_auc(truth, scores) for truth, scores in columns]))


def _binary_auc(truth: npt.NDArray[np.int64], scores: Scores) -> float:
    known = truth >= 0
    positive = truth[known] == 1
    hits = int(positive.sum())
    misses = len(positive) - hits
    if not hits or not misses:
        return float("nan")
    # By the ranks of the positives (Mann and Whitney): scikit-learn checks its input at length, each time of thousands.
    above = rankdata(scores[known])[positive].sum() - hits * (hits + 1) / 2
    return float(above / (hits * misses))


def accuracy(targets: npt.NDArray, probabilities: Scores) -> float:
    """Share of right answers: the most probable class, or each known label of a multilabel task at 0.5.

    Targets as in `auc`; NaN where no label is known.
    """
    if targets.ndim == 2:
        known = targets >= 0
        right = ((probabilities >= 0.5) == (targets == 1))[known]
        return float(right.mean()) if len(right) else float("nan")
    return float((probabilities.argmax(axis=1) == targets).mean())


def bootstrap(
    metric: Metric,
    targets: npt.NDArray,
    probabilities: Scores,
    *,
    seed: int = 0,
    patients: Sequence[str] | None = None,
) -> Estimate:
    """The metric with its percentile interval over resampled patients; without `patients` each case is one."""
    values = [metric(targets[n], probabilities[n]) for n in _draws(len(targets), patients, seed)]
    return estimate_of(metric(targets, probabilities), np.array(values))


def paired_difference(
    metric: Metric,
    targets: npt.NDArray,
    first: Scores,
    second: Scores,
    *,
    seed: int = 0,
    patients: Sequence[str] | None = None,
) -> Estimate:
    """metric(first) - metric(second) on the same cases, with its interval over resampled patients."""
    draws = _draws(len(targets), patients, seed)
    values = [metric(targets[n], first[n]) - metric(targets[n], second[n]) for n in draws]
    return estimate_of(metric(targets, first) - metric(targets, second), np.array(values))


def estimate_of(value: float, resampled: npt.NDArray[np.float64]) -> Estimate:
    """The value with the 95 % percentile interval of its resampled values; those that are NaN do not count."""
    # A class that is rare is absent from some samples; where it is absent from the cases, it is from all.
    known = resampled[np.isfinite(resampled)]
    low, high = np.percentile(known, (2.5, 97.5)) if len(known) else (np.nan, np.nan)
    return Estimate(float(value), float(low), float(high))


def patient_numbers(patients: Sequence[str]) -> npt.NDArray[np.int64]:
    """The number of each case's patient [N], from 0 in the order they come; a case without a name ("") is its own."""
    numbers: dict[str | int, int] = {}
    return np.array([numbers.setdefault(name or n, len(numbers)) for n, name in enumerate(patients)], dtype=np.int64)


def resampled_patients(count: int, *, seed: int) -> npt.NDArray[np.int32]:
    """How often each of `count` patients is in each resample [RESAMPLES, count]; `count` are drawn with replacement."""
    rng = np.random.default_rng(seed)
    drawn = np.empty((RESAMPLES, count), dtype=np.int32)
    for row in drawn:
        row[:] = np.bincount(rng.integers(0, count, count), minlength=count)
    return drawn


def _draws(count: int, patients: Sequence[str] | None, seed: int) -> Iterator[npt.NDArray[np.int64]]:
    numbers = np.arange(count) if patients is None else patient_numbers(patients)
    for times in resampled_patients(int(numbers.max()) + 1, seed=seed):
        yield np.repeat(np.arange(count), times[numbers])


def class_metrics(
    weights: npt.NDArray[np.float64],
    truth: npt.NDArray[np.bool_],
    scores: Scores,
    decided: npt.NDArray[np.bool_],
) -> npt.NDArray[np.float64]:
    """The METRICS [R, METRICS] of one class against the rest, for each row of weights [R, N] of the cases.

    `truth`, `scores` and `decided` [N] say of each case whether it is of the class, its probability of it, and
    whether it is decided for. NaN where a row lacks a kind of case that the metric needs. AUPRC is the average
    precision, without interpolation; the ECE is that of ECE_DEFINITION.
    """
    positives, negatives = weights @ truth, weights @ ~truth
    hits, rejections = weights @ (truth & decided), weights @ (~truth & ~decided)
    with np.errstate(divide="ignore", invalid="ignore"):
        total = positives + negatives
        both = np.where((positives > 0) & (negatives > 0), 1.0, np.nan)
        sensitivity, specificity = hits / positives, rejections / negatives
        auroc, auprc = _ranking(weights, truth, scores)
        columns = {
            "auroc": auroc,
            "auprc": auprc * both,
            "balanced_accuracy": (sensitivity + specificity) / 2,
            # False positives are the negatives that were not rejected.
            "f1": both * 2 * hits / (positives + hits + negatives - rejections),
            "sensitivity": sensitivity,
            "specificity": specificity,
            "brier": weights @ (scores - truth) ** 2 / total,
            "ece": np.abs(weights @ (bins_of(scores) * (scores - truth)[:, None])).sum(axis=1) / total,
            "accuracy": (hits + rejections) / total,
        }
    return np.stack([columns[name] for name in METRICS], axis=1)


def bins_of(scores: Scores) -> npt.NDArray[np.bool_]:
    """Which of BINS bins of equal width from 0 to 1 each score is in [N, BINS]; a bin holds its lower edge."""
    edges = np.linspace(0, 1, BINS + 1)
    return np.arange(BINS) == np.clip(np.searchsorted(edges, scores, side="right") - 1, 0, BINS - 1)[:, None]


def _ranking(
    weights: npt.NDArray[np.float64], truth: npt.NDArray[np.bool_], scores: Scores
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """AUROC and average precision of each row of weights; cases of equal score come together."""
    order = np.argsort(-scores, kind="stable")
    starts = np.flatnonzero(np.diff(scores[order], prepend=np.inf))
    if not len(order):
        unknown = np.full(len(weights), np.nan)
        return unknown, unknown
    sorted_weights, positive = weights[:, order], truth[order]
    hits = np.add.reduceat(sorted_weights * positive, starts, axis=1)
    misses = np.add.reduceat(sorted_weights * ~positive, starts, axis=1)
    all_hits, all_misses = hits.cumsum(axis=1), misses.cumsum(axis=1)
    positives, negatives = all_hits[:, -1], all_misses[:, -1]
    # A positive beats the negatives that come after it, and half of those beside it.
    beaten = negatives[:, None] - all_misses + misses / 2
    auroc = (hits * beaten).sum(axis=1) / (positives * negatives)
    seen = all_hits + all_misses
    precision = np.divide(all_hits, seen, out=np.zeros_like(seen), where=seen > 0)
    return auroc, (hits * precision).sum(axis=1) / positives
