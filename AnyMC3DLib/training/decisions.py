"""Probabilities, targets and thresholds of many cases as arrays that suit a task, and what is decided from them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ..errors import InputError
from ..spec import PluginSpec
from .metrics import Scores


def thresholds_of(spec: PluginSpec, thresholds: Sequence[float] | None) -> list[float]:
    """One threshold for each class: those given, or the spec's; raises InputError for another number of them."""
    limits = [c.threshold for c in spec.classes] if thresholds is None else [float(t) for t in thresholds]
    if len(limits) != len(spec.classes):
        raise InputError(f"There are {len(limits)} thresholds for {len(spec.classes)} classes: give one a class.")
    return limits


def decisions(spec: PluginSpec, probabilities: Scores, thresholds: Sequence[float]) -> npt.NDArray[np.bool_]:
    """Which classes are decided for [N, classes], as the classifier decides.

    At the positive's threshold, the most probable class, or each class at its threshold.
    """
    if spec.task_type == "binary":
        positive = probabilities[:, 1] >= thresholds[1]
        return np.stack([~positive, positive], axis=1)
    if spec.task_type == "multiclass":
        return np.arange(len(spec.classes)) == probabilities.argmax(axis=1)[:, None]
    return probabilities >= np.asarray(thresholds)


def one_against_the_rest(spec: PluginSpec, targets: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Targets as [N, K] of 0, 1 and -1 (missing), K as `spec.explained`; raises InputError if they do not suit it."""
    targets = np.asarray(targets)
    count = len(spec.classes)
    shape, values = ((count,), np.arange(-1, 2)) if spec.task_type == "multilabel" else ((), np.arange(count))
    if not len(targets):
        raise InputError("There is no case to measure: give at least one.")
    if targets.shape[1:] != shape or not np.isin(targets, values).all():
        raise InputError(f"The targets do not suit plugin '{spec.name}' with its {count} classes: check the labels.")
    if spec.task_type == "multilabel":
        return targets
    numbers = [1] if spec.task_type == "binary" else np.arange(count)
    return (targets[:, None] == numbers).astype(np.int64)


def checked_probabilities(spec: PluginSpec, probabilities: Scores, *, cases: int) -> Scores:
    """The probabilities as float64 [cases, classes]; raises InputError for another shape, or values not in [0, 1]."""
    array = np.asarray(probabilities, dtype=np.float64)
    if array.shape != (cases, len(spec.classes)):
        raise InputError(f"The probabilities are {list(array.shape)}, but must be {[cases, len(spec.classes)]}.")
    if not ((array >= 0) & (array <= 1)).all():
        raise InputError("A probability is not a number from 0 to 1: the model that gave it cannot be used.")
    return array
