"""Temperature and thresholds against a search over a grid, and what they leave as it is."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.special import expit, softmax
from sklearn.metrics import log_loss, roc_auc_score, roc_curve
from test_scores import TASKS, answers, spec_of

from AnyMC3DLib.errors import InputError
from AnyMC3DLib.model import probabilities as probabilities_of
from AnyMC3DLib.training.calibration import (
    COLDEST,
    HOTTEST,
    Calibration,
    calibrated,
    fit_calibration,
    fit_temperature,
    fit_thresholds,
)


def raw(task: str, *, sharpness: float = 3.0, count: int = 200) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Targets, logits of a model that is too sure of itself, and their probabilities [N, classes]."""
    rng = np.random.default_rng(1)
    targets, _ = answers(task, count)
    columns = 1 if task == "binary" else 3
    signs = targets if task == "multilabel" else (targets[:, None] == ([1] if task == "binary" else range(3)))
    logits = sharpness * (rng.normal(size=(count, columns)) + 1.5 * (signs == 1) - 0.7)
    return targets, logits, probabilities_of(torch.from_numpy(logits), spec_of(task)).numpy()


def loss_at(task: str, temperature: float, logits: np.ndarray, targets: np.ndarray) -> float:
    """scikit-learn's log loss in float64."""
    if task == "multiclass":
        return log_loss(targets, softmax(logits / temperature, axis=1), labels=[0, 1, 2])
    known = np.reshape(targets, logits.shape) >= 0
    return log_loss(np.reshape(targets, logits.shape)[known], expit(logits / temperature)[known])


@pytest.mark.parametrize("task", TASKS)
def test_the_temperature_is_the_best_of_a_fine_grid(task: str) -> None:
    targets, logits, probabilities = raw(task)
    grid = np.exp(np.linspace(np.log(COLDEST), np.log(HOTTEST), 301))
    best = grid[np.argmin([loss_at(task, t, logits, targets) for t in grid])]
    warnings: list[str] = []
    found = fit_temperature(probabilities, targets, spec_of(task), warnings=warnings)
    assert found == pytest.approx(best, rel=np.log(HOTTEST / COLDEST) / 300)
    assert found > 1.2
    assert not warnings


@pytest.mark.parametrize("task", TASKS)
def test_calibrated_probabilities_are_those_of_logits_over_the_temperature(task: str) -> None:
    _, logits, probabilities = raw(task)
    expected = probabilities_of(torch.from_numpy(logits / 2.5), spec_of(task)).numpy()
    assert calibrated(probabilities, 2.5, spec_of(task)) == pytest.approx(expected, abs=1e-9)
    assert calibrated(probabilities, 1.0, spec_of(task)) == pytest.approx(probabilities, abs=1e-12)


@pytest.mark.parametrize("task", TASKS)
def test_a_fitted_temperature_and_its_inverse_fit_to_one(task: str) -> None:
    targets, _, probabilities = raw(task)
    found = fit_temperature(probabilities, targets, spec_of(task))
    again = fit_temperature(calibrated(probabilities, found, spec_of(task)), targets, spec_of(task))
    assert again == pytest.approx(1.0, abs=1e-4)


@pytest.mark.parametrize("temperature", [0.5, 2.7, 9.0])
def test_a_temperature_leaves_the_ranking_of_a_sigmoid_task_as_it_is(temperature: float) -> None:
    targets, _, probabilities = raw("binary")
    after = calibrated(probabilities, temperature, spec_of("binary"))
    assert (np.argsort(after[:, 1], kind="stable") == np.argsort(probabilities[:, 1], kind="stable")).all()
    assert roc_auc_score(targets, after[:, 1]) == roc_auc_score(targets, probabilities[:, 1])


def test_a_temperature_leaves_the_most_probable_class_as_it_is() -> None:
    _, _, probabilities = raw("multiclass")
    after = calibrated(probabilities, 4.0, spec_of("multiclass"))
    assert (after.argmax(axis=1) == probabilities.argmax(axis=1)).all()
    assert after.sum(axis=1) == pytest.approx(np.ones(200))


@pytest.mark.parametrize("task", TASKS)
def test_probabilities_rounded_to_nought_and_one_can_be_calibrated(task: str) -> None:
    targets, _, probabilities = raw(task)
    extreme = probabilities.round()
    if task == "multiclass":
        extreme = np.eye(3)[probabilities.argmax(axis=1)]
    after = calibrated(extreme, 2.0, spec_of(task))
    assert np.isfinite(after).all()
    assert set(np.unique(after)) == {0.0, 1.0}
    assert np.isfinite(fit_temperature(extreme, targets, spec_of(task)))


def test_missing_labels_do_not_count() -> None:
    targets, _, probabilities = raw("multilabel")
    spec = spec_of("multilabel")
    disturbed = np.where(targets < 0, 0.999, probabilities)
    assert fit_temperature(disturbed, targets, spec) == fit_temperature(probabilities, targets, spec)
    assert fit_thresholds(disturbed, targets, spec) == fit_thresholds(probabilities, targets, spec)


@pytest.mark.parametrize("task", TASKS)
def test_cases_of_one_kind_leave_temperature_and_thresholds_and_say_so(task: str) -> None:
    targets, _, probabilities = raw(task)
    found = fit_calibration(probabilities, np.zeros_like(targets), spec_of(task))
    assert found.temperature == 1.0
    assert set(found.thresholds) == {0.5}
    assert "all of one kind" in found.warnings[0]
    assert all("threshold stays 0.5" in sentence for sentence in found.warnings[1:])
    assert len(found.warnings) == 1 + (1 if task == "binary" else 3)


@pytest.mark.parametrize("scale", [0.3, 5.0])
def test_a_temperature_grows_with_the_size_of_the_logits(scale: float) -> None:
    targets, logits, probabilities = raw("binary", sharpness=1.0)
    scaled = probabilities_of(torch.from_numpy(logits * scale), spec_of("binary")).numpy()
    usual = fit_temperature(probabilities, targets, spec_of("binary"))
    assert fit_temperature(scaled, targets, spec_of("binary")) == pytest.approx(scale * usual, rel=1e-6)


def test_no_answer_of_three_classes_is_wrong_so_no_temperature_is_best() -> None:
    targets = np.arange(30) % 3
    probabilities = np.full((30, 3), 0.25) + 0.25 * np.eye(3)[targets]
    warnings: list[str] = []
    assert fit_temperature(probabilities, targets, spec_of("multiclass"), warnings=warnings) == 1.0
    assert "too well" in warnings[0]


@pytest.mark.parametrize(("sign", "words"), [(1, "too well"), (-1, "too badly")])
def test_a_model_without_a_best_temperature_keeps_one_and_says_why(sign: int, words: str) -> None:
    targets = np.arange(50) % 2
    positive = expit(sign * np.where(targets == 1, 2.0, -2.0) + np.linspace(-0.5, 0.5, 50))
    warnings: list[str] = []
    found = fit_temperature(np.stack([1 - positive, positive], axis=1), targets, spec_of("binary"), warnings=warnings)
    assert found == 1.0
    assert words in warnings[0]


@pytest.mark.parametrize("task", TASKS)
def test_a_threshold_has_the_greatest_youden_index(task: str) -> None:
    targets, probabilities = answers(task, 150)
    found = fit_thresholds(probabilities, targets, spec_of(task))
    for k in [1] if task == "binary" else range(3):
        labels = targets[:, k] if task == "multilabel" else (targets == k).astype(int)
        known = labels >= 0
        false, true, _ = roc_curve(labels[known], probabilities[known, k])
        decided = probabilities[known, k] >= found[k]
        index = decided[labels[known] == 1].mean() - decided[labels[known] == 0].mean()
        assert index == pytest.approx((true - false).max())
        # In the middle between the scores below and above it.
        scores = np.unique(probabilities[known, k])
        above = np.searchsorted(scores, found[k])
        assert found[k] == pytest.approx((scores[above - 1] + scores[above]) / 2)
    if task == "binary":
        assert sum(found) == pytest.approx(1.0)


def positives(scores: list[float]) -> np.ndarray:
    return np.stack([1 - np.array(scores), np.array(scores)], axis=1)


def test_a_threshold_lies_in_the_middle_of_the_gap_that_parts_two_classes() -> None:
    found = fit_thresholds(positives([0.1, 0.2, 0.3, 0.7]), np.array([0, 0, 1, 1]), spec_of("binary"))
    assert found == pytest.approx([0.75, 0.25])


def test_of_thresholds_that_are_equally_good_the_nearest_to_a_half_is_taken() -> None:
    scores, targets = [0.1, 0.2, 0.45, 0.8, 0.9], np.array([0, 1, 0, 1, 1])
    # Above 0.45: 2 of 3 positives and all negatives are right; above 0.1 all positives and half the negatives.
    assert fit_thresholds(positives(scores), targets, spec_of("binary"))[1] == pytest.approx(0.625)
    scores, targets = [0.1, 0.4, 0.5, 0.9], np.array([0, 1, 0, 1])
    assert fit_thresholds(positives(scores), targets, spec_of("binary"))[1] == pytest.approx(0.7)
    scores = [0.1, 0.6, 0.8, 0.9]
    assert fit_thresholds(positives(scores), targets, spec_of("binary"))[1] == pytest.approx(0.35)


def test_one_positive_in_a_hundred_has_a_threshold() -> None:
    scores = [*np.linspace(0.01, 0.4, 99), 0.5]
    found = fit_thresholds(positives(scores), (np.arange(100) == 99).astype(int), spec_of("binary"))
    assert found[1] == pytest.approx(0.45)


@pytest.mark.parametrize("scores", [[0.3, 0.3, 0.3, 0.3], [0.9, 0.8, 0.2, 0.1]])
def test_scores_that_tell_nothing_keep_a_half(scores: list[float]) -> None:
    warnings: list[str] = []
    assert fit_thresholds(positives(scores), np.array([0, 0, 1, 1]), spec_of("binary"), warnings=warnings) == [0.5, 0.5]
    assert "'b'" in warnings[0]


def test_neighbouring_doubles_are_told_apart() -> None:
    low = 0.3
    high = float(np.nextafter(low, 1))
    threshold = fit_thresholds(positives([low, low, high, high]), np.array([0, 0, 1, 1]), spec_of("binary"))[1]
    assert low < threshold <= high


def test_thresholds_are_fitted_at_the_fitted_temperature() -> None:
    targets, _, probabilities = raw("binary")
    spec = spec_of("binary")
    found = fit_calibration(probabilities, targets, spec)
    calm = calibrated(probabilities, found.temperature, spec)
    assert list(found.thresholds) == fit_thresholds(calm, targets, spec)
    before = probabilities[:, 1] >= fit_thresholds(probabilities, targets, spec)[1]
    youden = [d[targets == 1].mean() - d[targets == 0].mean() for d in (before, calm[:, 1] >= found.thresholds[1])]
    assert youden[0] == pytest.approx(youden[1])


def test_a_calibration_becomes_part_of_the_spec() -> None:
    found = Calibration(1.5, (0.7, 0.3)).applied_to(spec_of("binary"))
    assert (found.temperature, [c.threshold for c in found.classes]) == (1.5, [0.7, 0.3])


def test_another_rule_is_refused() -> None:
    with pytest.raises(InputError, match="no rule 'best'"):
        fit_thresholds(positives([0.1, 0.9]), np.array([0, 1]), spec_of("binary"), rule="best")  # type: ignore[arg-type]


def test_a_model_that_says_a_half_of_everything_keeps_its_temperature() -> None:
    assert fit_temperature(positives([0.5] * 6), np.arange(6) % 2, spec_of("binary")) == 1.0
