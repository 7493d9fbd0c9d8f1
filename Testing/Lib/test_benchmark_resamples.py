"""Means over trainings and their paired differences: against a plain loop over patients and seeds with scikit-learn."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from AnyMC3DLib.benchmark.resamples import FIGURES, Resampled, Resampler, seeds_difference, seeds_estimate
from AnyMC3DLib.benchmark.rows import TestPredictions as Predictions
from AnyMC3DLib.errors import InputError
from AnyMC3DLib.spec import BackboneRef, ClassSpec, PluginSpec, ViewSpec
from AnyMC3DLib.training import metrics
from AnyMC3DLib.training.metrics import patient_numbers, resampled_patients
from AnyMC3DLib.training.scores import evaluate

TASKS = ("binary", "multiclass", "multilabel")
RESAMPLES = 40


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "RESAMPLES", RESAMPLES)


def spec_of(task: str) -> PluginSpec:
    names = "ab" if task == "binary" else "abc"
    classes = tuple(ClassSpec(name=name) for name in names)
    views = (ViewSpec(name="axial"),)
    return PluginSpec(name="test", task_type=task, classes=classes, backbone=BackboneRef(id="x"), views=views)


def predictions(task: str, *, seed: int, cases_a_patient: int = 1, count: int = 90) -> Predictions:
    """What a model said, with ties; the cases, their patients and their targets are the same for every seed."""
    known, rng = np.random.default_rng(99), np.random.default_rng(seed)
    classes = 2 if task == "binary" else 3
    ids = tuple(f"case {n:03}" for n in known.permutation(count))
    patients = tuple(f"p{n // cases_a_patient}" for n in range(count))
    if task == "multilabel":
        targets = known.integers(0, 2, (count, classes))
        chances = 1 / (1 + np.exp(-rng.normal(size=targets.shape) - targets))
        targets[known.random(targets.shape) < 0.1] = -1
        return Predictions(ids, patients, targets, chances.round(2))
    targets = known.integers(0, classes, count)
    logits = rng.normal(size=(count, classes)) + seed * np.eye(classes)[targets]
    return Predictions(ids, patients, targets, (np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)).round(2))


def reordered(given: Predictions, order: np.ndarray) -> Predictions:
    ids, patients = (tuple(names[n] for n in order) for names in (given.ids, given.patients))
    return Predictions(ids, patients, given.targets[order], given.probabilities[order])


def measured(task: str, *given: Predictions, seed: int = 0) -> list[Resampled]:
    resampler = Resampler(seed=seed)
    return [resampler(spec_of(task), each) for each in given]


def figures(task: str, given: Predictions, drawn: np.ndarray) -> np.ndarray:
    """AUROC, accuracy, AUPRC and Brier score of some cases, means over classes, with scikit-learn."""
    targets, chances = given.targets[drawn], given.probabilities[drawn]
    if task == "binary":
        truth, chances = targets[:, None], chances[:, 1:]
        right = ((chances >= 0.5) == truth).mean()
    elif task == "multiclass":
        truth = np.eye(3, dtype=int)[targets]
        right = (chances.argmax(axis=1) == targets).mean()
    else:
        truth = targets
        right = ((chances >= 0.5) == truth)[truth >= 0].mean()
    each = []
    for own, scores in zip(truth.T, chances.T, strict=True):
        known = own >= 0
        y, s = own[known], scores[known]
        each.append((roc_auc_score(y, s), average_precision_score(y, s), ((s - y) ** 2).mean()))
    auroc, auprc, brier = np.mean(each, axis=0)
    return np.array([auroc, right, auprc, brier])


def by_a_loop(task: str, first: Sequence[Predictions], second: Sequence[Predictions], *, seed: int) -> np.ndarray:
    """For the cases, then each resample of patients, the mean over seeds of first minus second [1 + R, 4]."""
    order = np.argsort(first[0].ids)
    first, second = ([reordered(each, order) for each in trainings] for trainings in (first, second))
    people = patient_numbers(first[0].patients)
    found = []
    for times in [np.ones(people.max() + 1, dtype=int), *resampled_patients(people.max() + 1, seed=seed)]:
        drawn = np.repeat(np.arange(len(people)), times[people])
        own = [np.mean([figures(task, each, drawn) for each in trainings] or [0], axis=0)
               for trainings in (first, second)]  # fmt: skip
        found.append(own[0] - own[1])
    return np.array(found)


def numbers_of(found: Resampled, *, comparisons: int = 1) -> np.ndarray:
    """Value, low and high of each figure [4, 3]."""
    return np.array([dataclasses.astuple(found.estimate(name, comparisons=comparisons)) for name in FIGURES])


@pytest.mark.parametrize("task", TASKS)
def test_a_methods_figures_are_means_over_seeds_in_each_resample_of_patients(task: str) -> None:
    given = [predictions(task, seed=seed, cases_a_patient=2) for seed in (1, 2, 3)]
    expected = by_a_loop(task, given, [], seed=4)
    found = seeds_estimate(measured(task, *given, seed=4))
    assert found.values == pytest.approx(expected[0], abs=1e-9)
    assert found.resampled == pytest.approx(expected[1:], abs=1e-9)
    limits = np.percentile(expected[1:], (2.5, 97.5), axis=0).T
    assert numbers_of(found)[:, 1:] == pytest.approx(limits, abs=1e-9)


@pytest.mark.parametrize("task", TASKS)
def test_a_difference_is_the_mean_over_seeds_of_single_trainings_differences(task: str) -> None:
    first, second = ([predictions(task, seed=s, cases_a_patient=2) for s in seeds] for seeds in ((2, 3), (1, 4)))
    expected = by_a_loop(task, first, second, seed=4)
    both = measured(task, *first, *second, seed=4)
    found = seeds_difference(both[:2], both[2:])
    assert numbers_of(found)[:, 0] == pytest.approx(expected[0], abs=1e-9)
    assert numbers_of(found)[:, 1:] == pytest.approx(np.percentile(expected[1:], (2.5, 97.5), axis=0).T, abs=1e-9)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("cases_a_patient", [1, 3, 90])
def test_one_training_has_the_figures_and_intervals_that_a_run_has(task: str, cases_a_patient: int) -> None:
    given = reordered(predictions(task, seed=1, cases_a_patient=cases_a_patient), np.arange(90))
    given = reordered(given, np.argsort(given.ids))
    expected = evaluate(spec_of(task), given.targets, given.probabilities, patients=given.patients)
    (found,) = measured(task, given)
    for name in FIGURES:
        own = (expected.overall if name == "accuracy" else expected.macro)[name]
        ours = dataclasses.astuple(found.estimate(name))
        assert ours == pytest.approx(dataclasses.astuple(own), abs=1e-9, nan_ok=True)


@pytest.mark.parametrize("targets", [0, 1, "one positive"])
def test_classes_of_no_case_or_of_one_patient_are_unknown_as_in_a_run(targets: int | str) -> None:
    given = predictions("binary", seed=1)
    given = reordered(given, np.argsort(given.ids))
    truth = np.zeros(90, dtype=np.int64) + (targets if isinstance(targets, int) else np.eye(90, dtype=np.int64)[7])
    expected = evaluate(spec_of("binary"), truth, given.probabilities, patients=given.patients)
    (found,) = measured("binary", dataclasses.replace(given, targets=truth))
    for name in FIGURES:
        own = (expected.overall if name == "accuracy" else expected.macro)[name]
        ours = dataclasses.astuple(found.estimate(name))
        assert ours == pytest.approx(dataclasses.astuple(own), abs=1e-9, nan_ok=True), name


def test_an_unlucky_seed_is_not_hidden_by_averaged_probabilities() -> None:
    good = predictions("binary", seed=3)
    bad = dataclasses.replace(good, probabilities=good.probabilities[:, ::-1])
    mean = seeds_estimate(measured("binary", good, bad))
    assert mean.estimate("auroc").value == pytest.approx(0.5)


@pytest.mark.parametrize("task", TASKS)
def test_the_order_of_cases_does_not_matter(task: str) -> None:
    first, second = (predictions(task, seed=seed) for seed in (1, 2))
    rng = np.random.default_rng(3)
    mixed = [reordered(given, rng.permutation(90)) for given in (first, second)]
    one, other = (measured(task, *pair) for pair in ((first, second), mixed))
    found, again = (seeds_difference(pair[:1], pair[1:]) for pair in (one, other))
    assert numbers_of(found) == pytest.approx(numbers_of(again))


def test_a_swapped_pair_is_mirrored() -> None:
    one, other = measured("multiclass", predictions("multiclass", seed=1), predictions("multiclass", seed=2))
    there, back = (numbers_of(seeds_difference([a], [b])) for a, b in ((one, other), (other, one)))
    assert there == pytest.approx(-back[:, [0, 2, 1]])


def test_intervals_for_several_comparisons_share_the_5_percent_among_them() -> None:
    (found,) = measured("binary", predictions("binary", seed=1))
    drawn = np.random.default_rng(0).normal(size=(4000, 4))
    found = dataclasses.replace(found, resampled=drawn)
    for comparisons in (1, 2, 10):
        tail = 2.5 / comparisons
        expected = np.percentile(drawn, (tail, 100 - tail), axis=0).T
        assert numbers_of(found, comparisons=comparisons)[:, 1:] == pytest.approx(expected)


def test_an_interval_that_the_resamples_do_not_reach_is_unknown() -> None:
    (found,) = measured("binary", predictions("binary", seed=1))
    found = dataclasses.replace(found, resampled=np.random.default_rng(0).normal(size=(400, 4)))
    assert np.isfinite(found.estimate("auroc", comparisons=10).low)
    assert np.isnan(found.estimate("auroc", comparisons=11).low)
    assert found.estimate("auroc", comparisons=11).value == found.values[0]


def wrong_pairs() -> dict[str, tuple[Predictions, str]]:
    given = predictions("binary", seed=2)
    return {
        "fewer": (reordered(given, np.arange(80)), "not of the same cases, 10 of the first"),
        "others": (dataclasses.replace(given, ids=("new", *given.ids[1:])), "not of the same cases, 1 of the first"),
        "twice": (dataclasses.replace(given, ids=(given.ids[1], *given.ids[1:])), "A case comes twice"),
        "targets": (dataclasses.replace(given, targets=1 - given.targets), "differ in a case's label or patient"),
        "patients": (dataclasses.replace(given, patients=given.ids), "differ in a case's label or patient"),
        "classes": (dataclasses.replace(given, probabilities=np.full((90, 3), 0.3)), "probabilities are"),
    }


@pytest.mark.parametrize("which", wrong_pairs())
def test_predictions_of_other_cases_are_not_compared(which: str) -> None:
    other, message = wrong_pairs()[which]
    first = predictions("binary", seed=1)
    with pytest.raises(InputError, match=message):
        seeds_estimate(measured("binary", first, other))
    with pytest.raises(InputError, match=message):
        seeds_difference(measured("binary", first), measured("binary", other))


def test_the_mean_of_no_training_is_refused() -> None:
    with pytest.raises(InputError, match="no predictions"):
        seeds_estimate([])
