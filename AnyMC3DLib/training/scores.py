"""All figures of a model on some cases, each class for itself and their mean, with intervals over patients.

Each class is measured as one against the rest. A resample of patients is a weight for each case, so that all
resamples are measured at once.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import InputError
from ..spec import PluginSpec
from .decisions import checked_probabilities, decisions, one_against_the_rest, thresholds_of
from .metrics import (
    ECE_DEFINITION,
    METRICS,
    Estimate,
    Scores,
    class_metrics,
    estimate_of,
    patient_numbers,
    resampled_patients,
)

# What a figure is about, where not about both kinds of cases: the positives or negatives of the class.
ONE_KIND = {"sensitivity": (1,), "specificity": (0,)}
# What every case adds to alike, whichever its kind.
OF_ALL_CASES = ("brier", "ece", "accuracy")
WEIGHTS_AT_ONCE = 4_000_000

Array = npt.NDArray[np.float64]


@dataclasses.dataclass(frozen=True)
class ClassResults:
    """The figures of one class at its threshold; `cases` have a label for it, `positives` of them a positive one."""

    name: str
    threshold: float
    cases: int
    positives: int
    metrics: Mapping[str, Estimate]


@dataclasses.dataclass(frozen=True)
class Results:
    """The figures of a model on some cases, by the names of METRICS.

    `classes` holds the positive class alone of a binary task. `macro` is the mean over them, unknown where one is.
    `overall` judges the decisions as a user sees them: of a multiclass task the most probable class. `notes` say in
    words what could not be measured.
    """

    task_type: str
    cases: int
    patients: int
    resamples: int
    seed: int
    classes: tuple[ClassResults, ...]
    macro: Mapping[str, Estimate]
    overall: Mapping[str, Estimate]
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """The results as JSON values; what is unknown is null."""
        classes = {
            c.name: {"threshold": c.threshold, "cases": c.cases, "positives": c.positives, **_plain(c.metrics)}
            for c in self.classes
        }
        facts = {name: getattr(self, name) for name in ("task_type", "cases", "patients", "resamples", "seed")}
        methods = {"interval": "95 % percentile interval over resampled patients", "ece": ECE_DEFINITION}
        figures = {"classes": classes, "macro": _plain(self.macro), "overall": _plain(self.overall)}
        return {**facts, "methods": methods, **figures, "notes": list(self.notes)}


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Each figure of a first model minus that of a second on the same cases, paired by patient."""

    classes: Mapping[str, Mapping[str, Estimate]]
    macro: Mapping[str, Estimate]
    overall: Mapping[str, Estimate]

    def to_dict(self) -> dict[str, Any]:
        """The differences as JSON values; what is unknown is null."""
        classes = {name: _plain(figures) for name, figures in self.classes.items()}
        return {"classes": classes, "macro": _plain(self.macro), "overall": _plain(self.overall)}


def _plain(figures: Mapping[str, Estimate]) -> dict[str, Any]:
    return {name: figure.to_dict() for name, figure in figures.items()}


def evaluate(
    spec: PluginSpec,
    targets: npt.NDArray[np.int64],
    probabilities: Scores,
    *,
    patients: Sequence[str],
    thresholds: Sequence[float] | None = None,
    seed: int = 0,
) -> Results:
    """All figures of probabilities [N, classes] with their 95 % intervals over resampled patients.

    Targets are class numbers [N], or for a multilabel task [N, classes] of 0, 1, and -1 where a label is missing.
    `patients` [N] are names, "" for a case that is a patient of its own. `thresholds`, one a class, are those of
    the spec where None. A class of which the cases hold one kind alone has no figure but its sensitivity or its
    specificity; an interval needs two patients of each kind that its figure is about. Raises InputError where the
    arrays do not fit the task or each other, or there is no case.
    """
    cases = _Cases.of(spec, targets, patients)
    limits = thresholds_of(spec, thresholds)
    draws = cases.measured(probabilities, limits, seed=seed)
    measured = [c for c in zip(spec.classes, limits, strict=True) if c[0].name in spec.explained]
    classes = tuple(
        ClassResults(c.name, threshold, int((truth >= 0).sum()), int((truth == 1).sum()), figures)
        for (c, threshold), truth, figures in zip(measured, cases.truth.T, cases.per_class(draws), strict=True)
    )
    return Results(
        task_type=spec.task_type,
        cases=len(cases.truth),
        patients=cases.patient_count,
        resamples=len(draws.classes) - 1,
        seed=seed,
        classes=classes,
        macro=cases.macro(draws),
        overall=cases.overall(draws),
        notes=tuple(cases.notes()),
    )


def compare(
    spec: PluginSpec,
    targets: npt.NDArray[np.int64],
    first: Scores,
    second: Scores,
    *,
    patients: Sequence[str],
    thresholds: Sequence[float] | None = None,
    second_thresholds: Sequence[float] | None = None,
    seed: int = 0,
) -> Comparison:
    """Each figure of `first` minus that of `second`, with intervals over the same resamples: see `evaluate`."""
    cases = _Cases.of(spec, targets, patients)
    draws = cases.measured(first, thresholds_of(spec, thresholds), seed=seed)
    draws = draws.minus(cases.measured(second, thresholds_of(spec, second_thresholds), seed=seed))
    classes = dict(zip(spec.explained, cases.per_class(draws), strict=True))
    return Comparison(classes, cases.macro(draws), cases.overall(draws))


@dataclasses.dataclass(frozen=True)
class _Draws:
    """Figures of the cases, then of each resample: `classes` [1 + R, K, METRICS], and by name `overall` [1 + R]."""

    classes: Array
    overall: dict[str, Array]

    def minus(self, other: _Draws) -> _Draws:
        overall = {name: values - other.overall[name] for name, values in self.overall.items()}
        return _Draws(self.classes - other.classes, overall)


@dataclasses.dataclass(frozen=True)
class _Cases:
    """What is known of the cases without any model: `truth` [N, K] of 0, 1 and -1, and patients as numbers [N]."""

    spec: PluginSpec
    truth: npt.NDArray[np.int64]
    patients: npt.NDArray[np.int64]

    @classmethod
    def of(cls, spec: PluginSpec, targets: npt.NDArray[np.int64], patients: Sequence[str]) -> _Cases:
        truth = one_against_the_rest(spec, targets)
        if len(patients) != len(truth):
            raise InputError(f"There are {len(patients)} patients for {len(truth)} cases: give one for each case.")
        return cls(spec, truth, patient_numbers(patients))

    @property
    def patient_count(self) -> int:
        return int(self.patients.max()) + 1

    def measured(self, probabilities: Scores, thresholds: Sequence[float], *, seed: int) -> _Draws:
        probabilities = checked_probabilities(self.spec, probabilities, cases=len(self.truth))
        columns = [n for n, c in enumerate(self.spec.classes) if c.name in self.spec.explained]
        scores = probabilities[:, columns]
        reached = scores >= np.asarray(thresholds)[columns]
        final = decisions(self.spec, probabilities, thresholds)[:, columns]
        classes, overall = [], []
        for weights in self._weights(seed):
            each = [self._of_class(weights, k, scores[:, k], reached[:, k]) for k in range(len(columns))]
            classes.append(np.stack(each, axis=1))
            overall.append(self._of_decisions(weights, final))
        return _Draws(
            np.concatenate(classes), {name: np.concatenate([part[name] for part in overall]) for name in overall[0]}
        )

    def _weights(self, seed: int) -> Iterator[Array]:
        """Rows of weights [R, N], a part at a time: the cases themselves, then the resamples."""
        yield np.ones((1, len(self.patients)))
        drawn = resampled_patients(self.patient_count, seed=seed)
        step = max(1, WEIGHTS_AT_ONCE // len(self.patients))
        for first in range(0, len(drawn), step):
            yield drawn[first : first + step, self.patients].astype(np.float64)

    def _of_class(self, weights: Array, k: int, scores: Scores, decided: npt.NDArray[np.bool_]) -> Array:
        known = self.truth[:, k] >= 0
        return class_metrics(weights[:, known], self.truth[known, k] == 1, scores[known], decided[known])

    def _of_decisions(self, weights: Array, decided: npt.NDArray[np.bool_]) -> dict[str, Array]:
        if self.spec.task_type == "multiclass":
            each = [
                self._of_class(weights, k, decided[:, k].astype(float), decided[:, k]) for k in range(decided.shape[1])
            ]
            recall, f1 = (np.mean([c[:, METRICS.index(m)] for c in each], axis=0) for m in ("sensitivity", "f1"))
            right = (decided & (self.truth == 1)).any(axis=1)
            return {"accuracy": weights @ right / weights.sum(axis=1), "balanced_accuracy": recall, "f1": f1}
        known = self.truth >= 0
        right = (known & (decided == (self.truth == 1))).sum(axis=1)
        with np.errstate(divide="ignore", invalid="ignore"):
            return {"accuracy": weights @ right / (weights @ known.sum(axis=1))}

    def per_class(self, draws: _Draws) -> list[dict[str, Estimate]]:
        """The figures of each class."""
        return [
            {name: self._estimate(draws.classes[:, k, m], name, [k]) for m, name in enumerate(METRICS)}
            for k in range(self.truth.shape[1])
        ]

    def macro(self, draws: _Draws) -> dict[str, Estimate]:
        """The mean over the classes of each figure."""
        every = range(self.truth.shape[1])
        means = draws.classes.mean(axis=1)
        return {name: self._estimate(means[:, m], name, every) for m, name in enumerate(METRICS)}

    def overall(self, draws: _Draws) -> dict[str, Estimate]:
        """The figures of the decisions. Their share that is right needs two classes among the cases, not every one."""
        every = range(self.truth.shape[1])
        both = [k for k in every if self._patients[k].all()]
        return {
            name: self._estimate(values, name, (both or every) if name == "accuracy" else every)
            for name, values in draws.overall.items()
        }

    def _estimate(self, values: Array, name: str, classes: Iterable[int]) -> Estimate:
        """The figure, without an interval where that would rest on one patient, unknown where a class is absent."""
        table = self._patients[list(classes)]
        counts = table[:, ONE_KIND.get(name, (0, 1))]
        if not counts.all():
            return Estimate(np.nan, np.nan, np.nan)
        enough = table[:, 2].min() if name in OF_ALL_CASES else counts.min()
        return estimate_of(values[0], values[1:] if enough > 1 else np.empty(0))

    @functools.cached_property
    def _patients(self) -> npt.NDArray[np.int64]:
        """How many patients [K, 3] have a case without the class, one with it, and one of either kind."""
        kinds = [(truth == 0, truth == 1, truth >= 0) for truth in self.truth.T]
        return np.array([[len(np.unique(self.patients[kind])) for kind in each] for each in kinds])

    def notes(self) -> Iterator[str]:
        """What cannot be measured on these cases, in words."""
        if self.patient_count == 1:
            yield "All cases are of one patient, so no figure has an interval."
        for name, (without, having, _) in zip(self.spec.explained, self._patients, strict=True):
            for word, count in (("of", having), ("without", without)):
                if count == 0:
                    yield f"There is no case {word} '{name}', so most figures of it, and means with it, are unknown."
                elif count == 1 and self.patient_count > 1:
                    yield f"The cases {word} '{name}' are of one patient, so most figures of it have no interval."
