"""Figures against scikit-learn, and their intervals."""

from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, roc_auc_score

from AnyMC3DLib.training import metrics
from AnyMC3DLib.training.metrics import Estimate, accuracy, auc, bootstrap, paired_difference


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "RESAMPLES", 100)


def answers(classes: int, count: int = 60, *, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Targets [N], and probabilities [N, classes] that know a little of them."""
    rng = np.random.default_rng(seed)
    targets = rng.integers(0, classes, count)
    logits = rng.normal(size=(count, classes)) + np.eye(classes)[targets]
    return targets, np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)


def many_labels() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(1)
    targets = rng.integers(0, 2, (50, 3))
    return targets, 1 / (1 + np.exp(-rng.normal(size=(50, 3)) - targets))


def test_a_binary_auc_is_scikit_learns() -> None:
    targets, probabilities = answers(2)
    assert auc(targets, probabilities) == roc_auc_score(targets, probabilities[:, 1])


def test_a_multiclass_auc_is_the_mean_of_one_against_the_rest() -> None:
    targets, probabilities = answers(4)
    expected = roc_auc_score(targets, probabilities, multi_class="ovr", average="macro")
    assert auc(targets, probabilities) == pytest.approx(expected)


def test_a_multilabel_auc_is_the_mean_over_labels() -> None:
    targets, probabilities = many_labels()
    assert auc(targets, probabilities) == pytest.approx(roc_auc_score(targets, probabilities, average="macro"))


@pytest.mark.parametrize("classes", [2, 4])
def test_accuracy_is_scikit_learns(classes: int) -> None:
    targets, probabilities = answers(classes)
    assert accuracy(targets, probabilities) == accuracy_score(targets, probabilities.argmax(axis=1))


def test_multilabel_accuracy_is_that_of_each_answer() -> None:
    targets, probabilities = many_labels()
    expected = np.mean([accuracy_score(targets[:, k], probabilities[:, k] >= 0.5) for k in range(3)])
    assert accuracy(targets, probabilities) == pytest.approx(expected)


@pytest.mark.parametrize("classes", [2, 3])
def test_an_auc_is_unknown_where_a_class_is_absent(classes: int) -> None:
    targets, probabilities = answers(classes)
    assert math.isnan(auc(np.zeros_like(targets), probabilities))
    estimate = bootstrap(auc, np.zeros_like(targets), probabilities)
    assert estimate.to_dict() == {"value": None, "low": None, "high": None}


def test_samples_that_lack_a_class_do_not_count() -> None:
    probabilities = np.array([[0.9, 0.1], [0.8, 0.2], [0.1, 0.9]])
    assert bootstrap(auc, np.array([0, 0, 1]), probabilities) == Estimate(1.0, 1.0, 1.0)


@pytest.mark.parametrize("metric", [auc, accuracy])
def test_the_interval_holds_the_value_and_narrows_with_more_cases(metric) -> None:
    few, many = (bootstrap(metric, *answers(2, count)) for count in (30, 400))
    for estimate in (few, many):
        assert estimate.low < estimate.value < estimate.high
    assert many.high - many.low < few.high - few.low


def test_the_interval_is_the_percentile_interval_over_drawn_cases() -> None:
    targets, probabilities = answers(2, 40)
    rng = np.random.default_rng(5)
    drawn = [rng.integers(0, 40, 40) for _ in range(100)]
    values = [np.mean(probabilities[n].argmax(axis=1) == targets[n]) for n in drawn]
    found = bootstrap(accuracy, targets, probabilities, seed=5)
    assert (found.low, found.high) == pytest.approx(tuple(np.percentile(values, [2.5, 97.5])))


def test_the_interval_depends_on_the_seed_alone() -> None:
    case = answers(2)
    assert bootstrap(auc, *case, seed=1) == bootstrap(auc, *case, seed=1)
    assert bootstrap(auc, *case, seed=1) != bootstrap(auc, *case, seed=2)


def test_a_model_does_not_differ_from_itself() -> None:
    targets, probabilities = answers(3)
    assert paired_difference(auc, targets, probabilities, probabilities) == Estimate(0.0, 0.0, 0.0)


def test_a_difference_is_paired_by_case() -> None:
    targets, good = answers(2)
    poor = good.copy()
    poor[:10] = poor[:10, ::-1]
    found = paired_difference(accuracy, targets, good, poor)
    assert found.value == pytest.approx(accuracy(targets, good) - accuracy(targets, poor))
    assert found.low < found.value < found.high
    # Errors that both models share cancel, so the interval is narrower than that of unpaired figures.
    alone = bootstrap(accuracy, targets, good)
    assert found.high - found.low < 2 * (alone.high - alone.low)
    assert paired_difference(accuracy, targets, poor, good).value == -found.value


def test_an_estimate_reads_as_a_figure_with_its_interval() -> None:
    assert str(Estimate(0.91234, 0.85, 0.9501)) == "0.912 (0.850 to 0.950)"
