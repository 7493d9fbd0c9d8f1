"""All figures of a model against scikit-learn, their intervals over patients, and what cannot be measured."""

from __future__ import annotations

import json

import numpy as np
import pytest
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    balanced_accuracy_score,
    brier_score_loss,
    f1_score,
    recall_score,
    roc_auc_score,
)

from AnyMC3DLib.errors import InputError
from AnyMC3DLib.spec import BackboneRef, ClassSpec, PluginSpec, ViewSpec
from AnyMC3DLib.training import metrics
from AnyMC3DLib.training.decisions import decisions
from AnyMC3DLib.training.metrics import BINS, METRICS, bootstrap, paired_difference
from AnyMC3DLib.training.scores import Results, compare, evaluate

TASKS = ("binary", "multiclass", "multilabel")
NAMES = {"binary": "ab", "multiclass": "abc", "multilabel": "abc"}
THRESHOLDS = {"binary": (0.6, 0.4), "multiclass": (0.3, 0.35, 0.4), "multilabel": (0.45, 0.5, 0.6)}
Figures = dict[str, float]


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "RESAMPLES", 60)


def spec_of(task: str) -> PluginSpec:
    classes = tuple(ClassSpec(name=n, threshold=t) for n, t in zip(NAMES[task], THRESHOLDS[task], strict=True))
    views = (ViewSpec(name="axial"),)
    return PluginSpec(name="test", task_type=task, classes=classes, backbone=BackboneRef(id="x"), views=views)


def answers(task: str, count: int = 120, *, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Targets, and probabilities [N, classes] that know a little of them, rounded so that many are equal."""
    rng = np.random.default_rng(seed)
    classes = len(NAMES[task])
    if task == "multilabel":
        targets = rng.integers(0, 2, (count, classes))
        chances = 1 / (1 + np.exp(-rng.normal(size=(count, classes)) - targets))
        targets[rng.random(targets.shape) < 0.2] = -1
        return targets, chances.round(2)
    targets = rng.integers(0, classes, count)
    logits = rng.normal(size=(count, classes)) + np.eye(classes)[targets]
    return targets, (np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)).round(2)


def alone(count: int) -> list[str]:
    return [""] * count


def expected_ece(truth: np.ndarray, scores: np.ndarray) -> float:
    total = 0.0
    for low, high in zip(np.arange(BINS) / BINS, (np.arange(BINS) + 1) / BINS, strict=True):
        inside = (scores >= low) & ((scores < high) | (high == 1))
        if inside.any():
            total += inside.sum() * abs(scores[inside].mean() - truth[inside].mean())
    return total / len(truth)


def oracle(truth: np.ndarray, scores: np.ndarray, threshold: float) -> Figures:
    decided = scores >= threshold
    return {
        "auroc": roc_auc_score(truth, scores),
        "auprc": average_precision_score(truth, scores),
        "balanced_accuracy": balanced_accuracy_score(truth, decided),
        "f1": f1_score(truth, decided),
        "sensitivity": recall_score(truth, decided),
        "specificity": recall_score(1 - truth, ~decided),
        "brier": brier_score_loss(truth, scores),
        "ece": expected_ece(truth, scores),
        "accuracy": accuracy_score(truth, decided),
    }


def columns(task: str, targets: np.ndarray, probabilities: np.ndarray) -> list[tuple[np.ndarray, np.ndarray, float]]:
    """Truth and scores of the known cases, and the threshold, of each class that is measured."""
    if task == "multilabel":
        known = [targets[:, k] >= 0 for k in range(3)]
        return [(targets[m, k], probabilities[m, k], THRESHOLDS[task][k]) for k, m in enumerate(known)]
    chosen = [1] if task == "binary" else range(3)
    return [((targets == k).astype(int), probabilities[:, k], THRESHOLDS[task][k]) for k in chosen]


def values(results: Results) -> list[Figures]:
    return [{name: figure.value for name, figure in c.metrics.items()} for c in results.classes]


@pytest.mark.parametrize("task", TASKS)
def test_every_figure_of_every_class_is_scikit_learns(task: str) -> None:
    targets, probabilities = answers(task)
    found = evaluate(spec_of(task), targets, probabilities, patients=alone(120))
    expected = [oracle(*column) for column in columns(task, targets, probabilities)]
    assert [c.name for c in found.classes] == list(NAMES[task][-len(expected) :])
    for figures, wanted in zip(values(found), expected, strict=True):
        assert figures == pytest.approx(wanted, abs=1e-12)
        assert tuple(figures) == METRICS
    means = {name: np.mean([e[name] for e in expected]) for name in METRICS}
    assert {name: figure.value for name, figure in found.macro.items()} == pytest.approx(means, abs=1e-12)


def test_decisions_of_a_multiclass_task_are_measured_as_a_user_sees_them() -> None:
    targets, probabilities = answers("multiclass")
    found = evaluate(spec_of("multiclass"), targets, probabilities, patients=alone(120)).overall
    chosen = probabilities.argmax(axis=1)
    assert {name: figure.value for name, figure in found.items()} == pytest.approx({
        "accuracy": accuracy_score(targets, chosen),
        "balanced_accuracy": balanced_accuracy_score(targets, chosen),
        "f1": f1_score(targets, chosen, average="macro"),
    })  # fmt: skip


def test_decisions_of_a_multilabel_task_are_measured_over_all_known_labels() -> None:
    targets, probabilities = answers("multilabel")
    found = evaluate(spec_of("multilabel"), targets, probabilities, patients=alone(120)).overall
    known = targets >= 0
    right = (probabilities >= THRESHOLDS["multilabel"])[known] == targets[known]
    assert found["accuracy"].value == pytest.approx(right.mean())


def test_an_interval_is_that_of_scikit_learns_figures_on_resampled_patients() -> None:
    targets, probabilities = answers("binary")
    patients = [f"patient {n // 3}" for n in range(120)]
    found = evaluate(spec_of("binary"), targets, probabilities, patients=patients, seed=4).classes[0].metrics
    rng = np.random.default_rng(4)
    samples = []
    for _ in range(60):
        cases = np.concatenate([np.arange(3 * p, 3 * p + 3) for p in rng.integers(0, 40, 40)])
        samples.append(oracle(targets[cases], probabilities[cases, 1], THRESHOLDS["binary"][1]))
    for name in METRICS:
        expected = np.percentile([sample[name] for sample in samples], (2.5, 97.5))
        assert (found[name].low, found[name].high) == pytest.approx(tuple(expected), abs=1e-12)


def test_cases_of_one_patient_are_drawn_together() -> None:
    targets, probabilities = answers("binary", 40)
    targets, probabilities = np.tile(targets, 5), np.tile(probabilities, (5, 1))
    same = [f"patient {n % 40}" for n in range(200)]
    figure, careless = (
        evaluate(spec_of("binary"), targets, probabilities, patients=names).classes[0].metrics["auroc"]
        for names in (same, alone(200))
    )
    assert figure.value == careless.value
    # Five copies of each patient know no more than one.
    assert figure.high - figure.low > 1.7 * (careless.high - careless.low)


def test_any_metric_may_be_resampled_by_patient() -> None:
    targets, probabilities = answers("binary")
    patients = [f"patient {n // 3}" for n in range(120)]
    found = bootstrap(metrics.auc, targets, probabilities, patients=patients, seed=2)
    expected = evaluate(spec_of("binary"), targets, probabilities, patients=patients, seed=2).classes[0]
    assert (found.low, found.high) == pytest.approx((expected.metrics["auroc"].low, expected.metrics["auroc"].high))


@pytest.mark.parametrize("task", TASKS)
def test_one_patient_with_many_cases_has_figures_but_no_intervals(task: str) -> None:
    targets, probabilities = answers(task)
    found = evaluate(spec_of(task), targets, probabilities, patients=["the same"] * 120)
    for figure in (*found.classes[0].metrics.values(), *found.macro.values(), *found.overall.values()):
        assert np.isfinite(figure.value)
        assert figure.to_dict() == {"value": figure.value, "low": None, "high": None}
    assert found.patients == 1
    assert "one patient" in found.notes[0]


def test_one_positive_in_a_hundred_has_figures_and_no_interval_that_rests_on_it() -> None:
    rng = np.random.default_rng(0)
    targets = (np.arange(100) == 17).astype(int)
    positive = rng.random(100).round(2)
    found = evaluate(spec_of("binary"), targets, np.stack([1 - positive, positive], axis=1), patients=alone(100))
    assert values(found)[0] == pytest.approx(oracle(targets, positive, 0.4), abs=1e-12)
    for name in ("auroc", "auprc", "f1", "sensitivity", "balanced_accuracy"):
        assert np.isnan(found.classes[0].metrics[name].low)
    for name in ("specificity", "brier", "ece", "accuracy"):
        assert found.classes[0].metrics[name].low < found.classes[0].metrics[name].high
    assert any("one patient" in note and "'b'" in note for note in found.notes)


@pytest.mark.parametrize(("only", "known"), [(0, "specificity"), (1, "sensitivity")])
def test_a_split_of_one_class_has_no_figure_that_compares_two(only: int, known: str) -> None:
    _, probabilities = answers("binary")
    found = evaluate(spec_of("binary"), np.full(120, only), probabilities, patients=alone(120))
    for name, figure in found.classes[0].metrics.items():
        assert np.isfinite(figure.value) == (name == known)
    assert np.isnan(found.overall["accuracy"].value)
    assert found.to_dict()["macro"]["auroc"] == {"value": None, "low": None, "high": None}
    assert found.notes


def test_a_class_without_positives_is_unknown_and_so_are_the_means() -> None:
    targets, probabilities = answers("multiclass")
    targets[targets == 2] = 0
    found = evaluate(spec_of("multiclass"), targets, probabilities, patients=alone(120))
    assert [np.isfinite(c["auroc"]) for c in values(found)] == [True, True, False]
    assert [np.isfinite(c["brier"]) for c in values(found)] == [True, True, False]
    assert np.isnan(found.macro["auroc"].value)
    assert np.isnan(found.overall["balanced_accuracy"].value)
    assert found.overall["accuracy"].value == pytest.approx(np.mean(probabilities.argmax(axis=1) == targets))
    assert any("'c'" in note for note in found.notes)


def test_a_label_that_no_case_has_is_unknown() -> None:
    targets, probabilities = answers("multilabel")
    targets[:, 1] = -1
    found = evaluate(spec_of("multilabel"), targets, probabilities, patients=alone(120))
    assert found.classes[1].cases == 0
    assert not np.isfinite(list(values(found)[1].values())).any()
    assert np.isfinite(values(found)[0]["auroc"])


def test_equal_scores_for_all_are_worth_nothing() -> None:
    targets = np.arange(40) % 2
    found = values(evaluate(spec_of("binary"), targets, np.full((40, 2), 0.5), patients=alone(40)))[0]
    assert (found["auroc"], found["auprc"], found["brier"], found["ece"]) == pytest.approx((0.5, 0.5, 0.25, 0.0))


def test_a_difference_is_paired_by_patient_for_every_figure() -> None:
    targets, first = answers("multiclass")
    _, second = answers("multiclass", seed=9)
    patients = [f"patient {n // 2}" for n in range(120)]
    found = compare(spec_of("multiclass"), targets, first, second, patients=patients, seed=3)
    alone_first, alone_second = (
        evaluate(spec_of("multiclass"), targets, p, patients=patients) for p in (first, second)
    )
    for name in METRICS:
        assert found.macro[name].value == pytest.approx(alone_first.macro[name].value - alone_second.macro[name].value)
    expected = paired_difference(metrics.auc, targets, first, second, seed=3, patients=patients)
    assert tuple(found.macro["auroc"].to_dict().values()) == pytest.approx(tuple(expected.to_dict().values()))
    assert found.overall["accuracy"].value == pytest.approx(
        np.mean(first.argmax(axis=1) == targets) - np.mean(second.argmax(axis=1) == targets)
    )
    assert json.loads(json.dumps(found.to_dict(), allow_nan=False))["classes"].keys() == set("abc")


@pytest.mark.parametrize("task", TASKS)
def test_a_model_does_not_differ_from_itself(task: str) -> None:
    targets, probabilities = answers(task)
    found = compare(spec_of(task), targets, probabilities, probabilities, patients=alone(120))
    assert {(f.value, f.low, f.high) for f in (*found.macro.values(), *found.overall.values())} == {(0.0, 0.0, 0.0)}


def test_thresholds_of_their_own_move_the_decisions_alone() -> None:
    targets, probabilities = answers("binary")
    usual, moved = (
        values(evaluate(spec_of("binary"), targets, probabilities, patients=alone(120), thresholds=t))[0]
        for t in (None, (0.2, 0.8))
    )
    assert moved == pytest.approx(oracle(targets, probabilities[:, 1], 0.8))
    assert moved["sensitivity"] < usual["sensitivity"]
    assert moved["auroc"] == usual["auroc"]


def test_resamples_measured_in_parts_are_those_measured_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    targets, probabilities = answers("multilabel")
    whole = evaluate(spec_of("multilabel"), targets, probabilities, patients=alone(120))
    monkeypatch.setattr("AnyMC3DLib.training.scores.WEIGHTS_AT_ONCE", 120 * 7)
    parts = evaluate(spec_of("multilabel"), targets, probabilities, patients=alone(120))
    for name in METRICS:
        assert parts.macro[name].to_dict() == pytest.approx(whole.macro[name].to_dict(), abs=1e-12)


def test_results_are_json_values_with_what_they_were_measured_on() -> None:
    targets, probabilities = answers("multilabel")
    found = evaluate(spec_of("multilabel"), targets, probabilities, patients=alone(120), seed=7)
    data = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert (data["cases"], data["patients"], data["seed"], data["resamples"]) == (120, 120, 7, 60)
    known = targets[:, 0][targets[:, 0] >= 0]
    assert (data["classes"]["a"]["cases"], data["classes"]["a"]["positives"]) == (len(known), known.sum())
    assert data["classes"]["a"]["threshold"] == 0.45
    assert "15 bins" in data["methods"]["ece"]


@pytest.mark.parametrize("task", TASKS)
def test_decisions_are_those_of_the_classifier(task: str) -> None:
    from AnyMC3DLib.answer import decide

    spec = spec_of(task)
    _, probabilities = answers(task)
    found = decisions(spec, probabilities, THRESHOLDS[task])
    rows = [dict(zip(NAMES[task], map(float, row), strict=True)) for row in probabilities]
    assert found.tolist() == [list(decide(spec, row).values()) for row in rows]


def test_what_does_not_fit_together_is_refused_in_a_sentence() -> None:
    targets, probabilities = answers("binary")
    spec = spec_of("binary")
    with pytest.raises(InputError, match="3 patients for 120 cases"):
        evaluate(spec, targets, probabilities, patients=alone(3))
    with pytest.raises(InputError, match="targets do not suit"):
        evaluate(spec, targets + 1, probabilities, patients=alone(120))
    with pytest.raises(InputError, match=r"\[119, 2\]"):
        evaluate(spec, targets, probabilities[1:], patients=alone(120))
    with pytest.raises(InputError, match="not a number from 0 to 1"):
        evaluate(spec, targets, np.full((120, 2), np.nan), patients=alone(120))
    with pytest.raises(InputError, match="1 thresholds for 2 classes"):
        evaluate(spec, targets, probabilities, patients=alone(120), thresholds=[0.5])
    with pytest.raises(InputError, match="no case"):
        evaluate(spec, targets[:0], probabilities[:0], patients=[])
