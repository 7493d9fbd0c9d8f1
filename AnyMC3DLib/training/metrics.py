"""AUC and accuracy with bootstrap intervals over cases, and paired differences of two models."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from sklearn.metrics import roc_auc_score

RESAMPLES = 2000
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


def auc(targets: npt.NDArray, probabilities: Scores) -> float:
    """Area under the ROC curve from probabilities [N, classes]; NaN where a class is absent.

    Targets are numbers [N] or 0 and 1 [N, classes]. Binary: that of the second class; else the mean over classes of
    one against the rest, as MedMNIST's evaluator does.
    """
    if targets.ndim == 1:
        if probabilities.shape[1] == 2:
            return _binary_auc(targets == 1, probabilities[:, 1])
        targets = np.eye(probabilities.shape[1], dtype=int)[targets]
    columns = zip(targets.T, probabilities.T, strict=True)
    return float(np.mean([_binary_auc(truth == 1, scores) for truth, scores in columns]))


def _binary_auc(truth: npt.NDArray[np.bool_], scores: Scores) -> float:
    if truth.all() or not truth.any():
        return float("nan")
    return float(roc_auc_score(truth, scores))


def accuracy(targets: npt.NDArray, probabilities: Scores) -> float:
    """Share of right answers: the most probable class, or each class at 0.5 for a multilabel task."""
    if targets.ndim == 2:
        return float(((probabilities >= 0.5) == (targets == 1)).mean())
    return float((probabilities.argmax(axis=1) == targets).mean())


def bootstrap(metric: Metric, targets: npt.NDArray, probabilities: Scores, *, seed: int = 0) -> Estimate:
    """The metric with its percentile interval over resampled cases."""
    draws = _draws(len(targets), seed)
    values = np.array([metric(targets[n], probabilities[n]) for n in draws])
    return _estimate(metric(targets, probabilities), values)


def paired_difference(
    metric: Metric, targets: npt.NDArray, first: Scores, second: Scores, *, seed: int = 0
) -> Estimate:
    """metric(first) - metric(second) on the same cases, with its interval over resampled cases."""
    draws = _draws(len(targets), seed)
    values = np.array([metric(targets[n], first[n]) - metric(targets[n], second[n]) for n in draws])
    return _estimate(metric(targets, first) - metric(targets, second), values)


def _estimate(value: float, resampled: npt.NDArray[np.float64]) -> Estimate:
    # A class that is rare is absent from some samples; where it is absent from the cases, it is from all.
    known = resampled[np.isfinite(resampled)]
    low, high = np.percentile(known, (2.5, 97.5)) if len(known) else (np.nan, np.nan)
    return Estimate(value, float(low), float(high))


def _draws(count: int, seed: int) -> list[npt.NDArray[np.int64]]:
    rng = np.random.default_rng(seed)
    return [rng.integers(0, count, count) for _ in range(RESAMPLES)]
