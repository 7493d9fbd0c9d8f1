"""Figures of trainings in resamples of the test patients: means over seeds, and paired differences of such means.

Each training is measured for itself, as the one that a user would have. A resample of patients is the same for every
training with the same test patients, so that differences and means are taken resample by resample.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ..errors import InputError
from ..spec import PluginSpec
from ..training.decisions import checked_probabilities, decisions, one_against_the_rest, thresholds_of
from ..training.metrics import Estimate, patient_numbers, resampled_patients
from .rows import TestPredictions

FIGURES = ("auroc", "accuracy", "auprc", "brier")
LEVEL = 0.05
Array = npt.NDArray[np.float64]
Weights = npt.NDArray[np.float32]
NAN = float("nan")


@dataclasses.dataclass(frozen=True, eq=False)
class Resampled:
    """FIGURES of some cases [FIGURES], and of each resample of their patients [R, FIGURES].

    AUROC, AUPRC and Brier score are means over classes, each against the rest. `enough` says of each figure whether the
    cases are of enough patients for an interval. `cases` have no probabilities, and are in the order of their names.
    """

    values: Array
    resampled: Array
    enough: tuple[bool, ...]
    cases: TestPredictions

    def estimate(self, figure: str, *, comparisons: int = 1) -> Estimate:
        """A figure with its 95 % percentile interval, such that so many intervals hold at once (Bonferroni).

        The interval is unknown where fewer than one resample lies beyond each end.
        """
        number = FIGURES.index(figure)
        value, drawn = float(self.values[number]), self.resampled[:, number]
        known, tail = drawn[np.isfinite(drawn)], LEVEL / 2 / comparisons
        # One in so many, but for how a floating-point number is rounded.
        if not self.enough[number] or tail * len(known) < 1 - 1e-9:
            return Estimate(value, NAN, NAN)
        low, high = np.percentile(known, (100 * tail, 100 * (1 - tail)))
        return Estimate(value, float(low), float(high))


class Resampler:
    """Measures predictions in resamples of their patients, which are drawn once for the same patients."""

    def __init__(self, *, seed: int = 0) -> None:
        self._seed = seed
        self._drawn: dict[bytes, Weights] = {}

    def __call__(self, spec: PluginSpec, predictions: TestPredictions) -> Resampled:
        """The figures at the thresholds of the spec; raises InputError where predictions do not suit the task."""
        given = _in_order(predictions)
        truth = one_against_the_rest(spec, given.targets)
        probabilities = checked_probabilities(spec, given.probabilities, cases=len(truth))
        columns = [n for n, c in enumerate(spec.classes) if c.name in spec.explained]
        people = patient_numbers(given.patients)
        weights = self._weights(people)
        scores = probabilities[:, columns]
        each = [_of_class(weights, *pair) for pair in zip(truth.T, scores.T, strict=True)]
        auroc, auprc, brier = np.mean(each, axis=0).T
        final = decisions(spec, probabilities, thresholds_of(spec, None))[:, columns]
        figures = np.stack([auroc, _share_right(spec, weights, truth, final), auprc, brier], axis=1)
        known, enough = _rested(truth, people)
        values = np.where(known, figures[0], NAN)
        cases = dataclasses.replace(given, probabilities=np.empty((len(truth), 0)))
        return Resampled(values, figures[1:], tuple(enough.tolist()), cases)

    def _weights(self, people: npt.NDArray[np.int64]) -> Weights:
        """How often each case counts [1 + R, N]: once, then in each resample."""
        key = people.tobytes()
        if key not in self._drawn:
            drawn = resampled_patients(int(people.max()) + 1, seed=self._seed)[:, people]
            # Sums of counts are whole or half numbers, which 32 bits hold exactly.
            self._drawn[key] = np.concatenate([np.ones((1, len(people))), drawn]).astype(np.float32)
        return self._drawn[key]


def seeds_estimate(trainings: Sequence[Resampled]) -> Resampled:
    """The mean over trainings of each figure, of the cases and resample by resample.

    Raises InputError for none, and unless all were tested on the same cases.
    """
    if not trainings:
        raise InputError("There are no predictions to take the mean of: give those of at least one training.")
    first, *others = trainings
    for other in others:
        _check_same(first, other)
    values, resampled = (np.mean([getattr(t, name) for t in trainings], axis=0) for name in ("values", "resampled"))
    return dataclasses.replace(first, values=values, resampled=resampled)


def seeds_difference(first: Sequence[Resampled], second: Sequence[Resampled]) -> Resampled:
    """The mean over a first method's trainings of each figure minus that of a second's, resample by resample.

    With the same seeds on both sides that is the mean of the differences seed by seed. Raises InputError as
    `seeds_estimate`.
    """
    one, other = seeds_estimate(first), seeds_estimate(second)
    _check_same(one, other)
    return dataclasses.replace(one, values=one.values - other.values, resampled=one.resampled - other.resampled)


def _of_class(weights: Weights, truth: npt.NDArray[np.int64], scores: Array) -> Array:
    """AUROC, average precision and Brier score [1 + R, 3] of one class against the rest."""
    positive, negative = truth == 1, truth == 0
    hits, misses = weights[:, positive], weights[:, negative]
    of_positives, of_negatives = scores[positive][None], scores[negative][:, None]
    above, beside = of_negatives > of_positives, of_negatives == of_positives
    before = misses @ (above + beside / 2).astype(np.float32)
    seen = before + misses @ (beside / 2).astype(np.float32) if beside.any() else before
    found = hits @ (scores[positive][:, None] >= of_positives).astype(np.float32)
    count, others = hits.sum(axis=1, dtype=np.float64), misses.sum(axis=1, dtype=np.float64)
    squares = ((scores - (truth == 1)) ** 2)[truth >= 0]
    with np.errstate(divide="ignore", invalid="ignore"):
        auroc = 1 - (hits * before).sum(axis=1, dtype=np.float64) / (count * others)
        precision = found.astype(np.float64) / (found + seen)
        # A positive that a resample lacks adds nothing, also where nothing was seen.
        auprc = np.where(hits > 0, hits * precision, 0).sum(axis=1) / np.where(others > 0, count, NAN)
        brier = (weights[:, truth >= 0] @ squares) / (count + others)
    return np.stack([auroc, auprc, brier], axis=1)


def _share_right(
    spec: PluginSpec, weights: Weights, truth: npt.NDArray[np.int64], decided: npt.NDArray[np.bool_]
) -> Array:
    """The share of right decisions [1 + R]: of cases, of a multilabel task of known labels."""
    known = truth >= 0
    right = known & (decided == (truth == 1))
    if spec.task_type == "multiclass":
        return (weights @ right.all(axis=1).astype(float)) / weights.sum(axis=1, dtype=np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        return (weights @ right.sum(axis=1).astype(float)) / (weights @ known.sum(axis=1).astype(float))


def _rested(
    truth: npt.NDArray[np.int64], people: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Of each figure whether it is known, which takes both kinds of cases, and whether two patients bear an interval.

    The share of right decisions takes two classes among the cases, not every one.
    """
    kinds = [(own == 0, own == 1, own >= 0) for own in truth.T]
    counts = np.array([[len(np.unique(people[kind])) for kind in each] for each in kinds])
    both = counts[:, :2].all(axis=1)
    of_two = counts[both] if both.any() else counts
    known = np.array([both.all(), both.any(), both.all(), both.all()])
    ranked, several = counts[:, :2].min() > 1, counts[:, 2].min() > 1
    return known, known & np.array([ranked, of_two[:, 2].min() > 1, ranked, several])


def _in_order(given: TestPredictions) -> TestPredictions:
    """The cases by their names."""
    if len(set(given.ids)) < len(given.ids):
        raise InputError("A case comes twice among the predictions: give each case a name of its own.")
    order = sorted(range(len(given.ids)), key=given.ids.__getitem__)
    ids, patients = (tuple(names[n] for n in order) for names in (given.ids, given.patients))
    return TestPredictions(ids, patients, given.targets[order], given.probabilities[order])


def _check_same(first: Resampled, second: Resampled) -> None:
    """Raise InputError unless both are of the same cases with the same patients and labels."""
    one, other = first.cases, second.cases
    lacking, besides = len(set(one.ids) - set(other.ids)), len(set(other.ids) - set(one.ids))
    if lacking or besides:
        raise InputError(
            f"The predictions are not of the same cases, {lacking} of the first being absent from the other and "
            f"{besides} the other way round: compare trainings with one test set."
        )
    if one.patients != other.patients or not np.array_equal(one.targets, other.targets):
        raise InputError("The predictions differ in a case's label or patient: compare trainings with one test set.")
