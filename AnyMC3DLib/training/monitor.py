"""The figure of the validation cases by which a training is judged while it runs."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from sklearn.metrics import average_precision_score, balanced_accuracy_score, roc_auc_score

from ..spec import PluginSpec
from .decisions import decisions, one_against_the_rest, thresholds_of

FIGURES = {
    "auc": roc_auc_score,
    "average_precision": average_precision_score,
    "balanced_accuracy": balanced_accuracy_score,
}


def score_of(
    monitor: str, spec: PluginSpec, targets: npt.NDArray[np.int64], probabilities: npt.NDArray[np.float64]
) -> float:
    """The figure called `monitor`, the mean over the classes that have both kinds of cases; NaN if none has."""
    truths = one_against_the_rest(spec, targets)
    decided = decisions(spec, probabilities, thresholds_of(spec, None)).astype(np.int64)
    if spec.task_type == "binary":
        probabilities, decided = probabilities[:, 1:], decided[:, 1:]
    found = []
    for truth, scores, answers in zip(truths.T, probabilities.T, decided.T, strict=True):
        known = truth >= 0
        if len(np.unique(truth[known])) == 2:
            given = answers if monitor == "balanced_accuracy" else scores
            found.append(float(FIGURES[monitor](truth[known], given[known])))
    return float(np.mean(found)) if found else math.nan
