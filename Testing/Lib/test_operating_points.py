"""What a plugin finds and misses at a threshold, from the curve in its file: right, short, and never a traceback."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from networks import plugin_spec, tiny_backbone
from sklearn.metrics import roc_curve
from test_import_weights import packages_loaded_by
from test_run import cases, task

from AnyMC3DLib.backbone import Backbone
from AnyMC3DLib.errors import InputError
from AnyMC3DLib.operating_points import MOST_POINTS, OperatingCurve, curve_of
from AnyMC3DLib.plugin import read_spec
from AnyMC3DLib.spec import ClassSpec, PluginSpec
from AnyMC3DLib.training import metrics
from AnyMC3DLib.training.decisions import decisions
from AnyMC3DLib.training.folds import train_folds
from AnyMC3DLib.training.operating_curve import curve_points, operating_figures
from AnyMC3DLib.training.run import Predicted, train_plugin


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return tiny_backbone("test_vit", depth=1)


@pytest.fixture
def binary(backbone: Backbone) -> PluginSpec:
    return plugin_spec(backbone)


def with_figures(spec: PluginSpec, figures: Any) -> PluginSpec:
    """The plugin with these figures of validation cases, as its file gives them."""
    return dataclasses.replace(spec, provenance=json.loads(json.dumps({"validation": figures})))


def curve(spec: PluginSpec, name: str, targets: npt.NDArray, probabilities: npt.NDArray) -> OperatingCurve:
    found = curve_of(with_figures(spec, operating_figures(spec, targets, probabilities)), name)
    assert found is not None
    return found


def rates(positive: npt.NDArray, decided: npt.NDArray) -> tuple[float, float]:
    return float(decided[positive].mean()), float((~decided[~positive]).mean())


def binary_cases(count: int, *, seed: int = 0, sharp: float = 1.0) -> tuple[npt.NDArray, npt.NDArray]:
    rng = np.random.default_rng(seed)
    targets = rng.integers(0, 2, count)
    targets[:2] = 0, 1
    positive = 1 / (1 + np.exp(-sharp * (rng.normal(size=count) + targets)))
    return targets, np.stack([1 - positive, positive], axis=1)


def everywhere(scores: npt.NDArray) -> list[float]:
    """Thresholds at each case, a hair beside it, between cases, and at the ends."""
    values = np.unique(scores)
    middles = (values[1:] + values[:-1]) / 2
    return sorted({0.0, 1.0, 0.5, *values.tolist(), *middles.tolist(), *np.nextafter(values, 0).tolist()})


# The curve


@pytest.mark.parametrize("sharp", [0.001, 1.0, 12.0, 60.0])
@pytest.mark.parametrize("seed", range(5))
def test_the_curve_says_what_the_decisions_do_at_every_case_and_between(
    binary: PluginSpec, seed: int, sharp: float
) -> None:
    targets, probabilities = binary_cases(60, seed=seed, sharp=sharp)
    found = curve(binary, "lesion", targets, probabilities)
    for threshold in everywhere(probabilities[:, 1]):
        decided = decisions(binary, probabilities, [1 - threshold, threshold])[:, 1]
        point = found.at(threshold)
        assert (point.sensitivity, point.specificity) == pytest.approx(rates(targets == 1, decided), abs=5.1e-5)
        assert point.threshold == threshold
    assert (found.positives, found.negatives) == ((targets == 1).sum(), (targets == 0).sum())


@pytest.mark.parametrize("seed", range(5))
def test_the_points_are_those_of_scikit_learn(binary: PluginSpec, seed: int) -> None:
    targets, probabilities = binary_cases(80, seed=seed)
    probabilities = probabilities.round(2)  # with ties
    false, true, thresholds = roc_curve(targets, probabilities[:, 1], drop_intermediate=False)
    found = curve(binary, "lesion", targets, probabilities)
    assert len(found.points) == len(thresholds)
    # Scikit-learn's begin with an infinite threshold, at which nothing is decided for.
    assert (found.points[-1].sensitivity, found.points[-1].specificity) == (0, 1)
    for wrong, right, threshold in zip(false[1:], true[1:], thresholds[1:], strict=True):
        point = found.at(float(threshold))
        assert (point.sensitivity, point.specificity) == pytest.approx((right, 1 - wrong), abs=5.1e-5)


def test_cases_that_are_nearer_than_four_decimals_are_told_apart(binary: PluginSpec) -> None:
    positive = np.array([1e-7, 3e-7, 0.99999991, 0.99999995, 1.0])
    targets = np.array([0, 1, 0, 1, 1])
    found = curve(binary, "lesion", targets, np.stack([1 - positive, positive], axis=1))
    assert [(p.sensitivity, p.specificity) for p in found.points] == [
        (1, 0), (1, 0.5), (0.6667, 0.5), (0.6667, 1), (0.3333, 1),
    ]  # fmt: skip
    for threshold in everywhere(positive):
        expected = rates(targets == 1, positive >= threshold)
        assert (found.at(threshold).sensitivity, found.at(threshold).specificity) == pytest.approx(expected, abs=5.1e-5)
    assert found.at(1.0).sensitivity == 0.3333


def test_neighbouring_doubles_are_told_apart(binary: PluginSpec) -> None:
    positive = np.array([0.3, np.nextafter(0.3, 1), np.nextafter(1.0, 0)])
    found = curve(binary, "lesion", np.array([0, 1, 1]), np.stack([1 - positive, positive], axis=1))
    assert found.at(float(positive[1])).specificity == 1 and found.at(0.3).specificity == 0
    assert found.at(1.0).sensitivity == 0


def test_thresholds_are_short_where_that_is_enough(binary: PluginSpec) -> None:
    targets, probabilities = binary_cases(40)
    rows = operating_figures(binary, targets, probabilities)["operating_points"]["lesion"]
    assert all(len(str(value)) <= 6 or value == 0.5 for row in rows for value in row)
    assert [row[0] for row in rows] == sorted({row[0] for row in rows}) and rows[0] == [0.0, 1.0, 0.0]


@pytest.mark.parametrize(("count", "share"), [(101, 0.5), (5000, 0.5), (5000, 0.01), (20000, 0.9)])
def test_a_curve_of_many_cases_is_thinned_and_stays_near(binary: PluginSpec, count: int, share: float) -> None:
    rng = np.random.default_rng(count)
    positive = rng.random(count) < share
    scores = 1 / (1 + np.exp(-(rng.normal(size=count) + positive)))
    threshold = 0.731
    rows = curve_points(positive, scores, threshold=threshold)
    assert 80 <= len(rows) <= MOST_POINTS
    figures = {"operating_points": {"lesion": rows}}
    found = curve_of(with_figures(binary, figures), "lesion")
    for asked in rng.random(200):
        expected = rates(positive, scores >= asked)
        point = found.at(asked)
        # What lies between two rows, and one case of the rarer kind.
        off = abs(point.sensitivity - expected[0]) + abs(point.specificity - expected[1])
        assert off <= 0.022 + 1 / min(positive.sum(), (~positive).sum())
    for point in found.points:
        assert (point.sensitivity, point.specificity) == pytest.approx(
            rates(positive, scores >= point.threshold), abs=5.1e-5
        )
    own = found.at(threshold)
    assert (own.sensitivity, own.specificity) == pytest.approx(rates(positive, scores >= threshold), abs=5.1e-5)


def test_the_own_threshold_is_exact_even_just_above_a_case(binary: PluginSpec) -> None:
    classes = (ClassSpec(name="normal", threshold=0.876559), ClassSpec(name="lesion", threshold=0.123441))
    spec = dataclasses.replace(binary, classes=classes)
    positive = np.array([0.12344, 0.6, 0.9])
    found = curve(spec, "lesion", np.array([0, 1, 1]), np.stack([1 - positive, positive], axis=1))
    assert found.at(0.123441).specificity == 1 and found.at(0.12344).specificity == 0


def test_each_class_of_a_multiclass_plugin_has_a_curve_against_the_rest(backbone: Backbone) -> None:
    spec = plugin_spec(backbone, task_type="multiclass")
    rng = np.random.default_rng(3)
    targets, probabilities = rng.integers(0, 3, 50), rng.dirichlet([1, 1, 1], 50)
    for number, name in enumerate(("normal", "mild", "severe")):
        found = curve(spec, name, targets, probabilities)
        for threshold in everywhere(probabilities[:, number]):
            point, expected = found.at(threshold), rates(targets == number, probabilities[:, number] >= threshold)
            assert (point.sensitivity, point.specificity) == pytest.approx(expected, abs=5.1e-5)


def test_missing_labels_are_left_out_and_a_class_of_one_kind_has_no_curve(backbone: Backbone) -> None:
    spec = plugin_spec(backbone, task_type="multilabel")
    targets = np.array([[1, -1, 0], [0, 1, 0], [-1, 0, -1], [1, 1, 0]])
    probabilities = np.random.default_rng(0).random((4, 3))
    figures = operating_figures(spec, targets, probabilities)
    assert figures["operating_cases"] == {
        "normal": {"positives": 2, "negatives": 1},
        "mild": {"positives": 2, "negatives": 1},
    }
    known = with_figures(spec, figures)
    assert curve_of(known, "severe") is None
    for number, name in enumerate(("normal", "mild")):
        there = targets[:, number] >= 0
        for threshold in everywhere(probabilities[:, number]):
            decided = decisions(spec, probabilities, [threshold] * 3)[there, number]
            point = curve_of(known, name).at(threshold)
            expected = rates(targets[there, number] == 1, decided)
            assert (point.sensitivity, point.specificity) == pytest.approx(expected, abs=5.1e-5)


def test_cases_of_one_kind_give_nothing(binary: PluginSpec) -> None:
    probabilities = np.array([[0.3, 0.7], [0.6, 0.4]])
    assert operating_figures(binary, np.array([1, 1]), probabilities) == {}
    with pytest.raises(InputError):
        operating_figures(binary, np.array([0, 1]), np.array([[0.3, np.nan], [0.6, 0.4]]))


@pytest.mark.parametrize("threshold", [-0.1, 1.1, math.nan, math.inf])
def test_a_threshold_that_is_none_is_refused(binary: PluginSpec, threshold: float) -> None:
    with pytest.raises(InputError, match="lies within 0 to 1"):
        curve(binary, "lesion", *binary_cases(10)).at(threshold)


# What a file may hold


GOOD = [[0.0, 1.0, 0.0], [0.5, 0.5, 1]]


@pytest.mark.parametrize(
    "rows",
    [
        None, {}, "text", [], [[]], [1], [[0.1, 0.2]], [[0, 1, 0, 0]], [["0", 1, 0]], [[0.5, True, 0.2]],
        [[0.5, 1.2, 0]], [[-1, 1, 0]], [[math.nan, 1, 0]], [[10**400, 1, 0]], [[0.5, 1, 0], [0.5, 0.9, 0.1]],
        [[0.5, 1, 0], [0.4, 0.9, 0.1]], [[0.1, 0.5, 0], [0.4, 0.9, 0.1]], [[0.1, 1, 0.5], [0.4, 0.9, 0.1]],
        [[n / 1000, 1, 0] for n in range(MOST_POINTS + 1)], [None, None],
    ],
)  # fmt: skip
def test_a_malformed_curve_is_none(binary: PluginSpec, rows: Any) -> None:
    assert curve_of(with_figures(binary, {"operating_points": {"lesion": rows}}), "lesion") is None


@pytest.mark.parametrize("figures", [None, 3, [], {"operating_points": [1]}, {"operating_points": {"other": GOOD}}])
def test_a_plugin_without_a_curve_has_none(binary: PluginSpec, figures: Any) -> None:
    assert curve_of(with_figures(binary, figures), "lesion") is None
    assert curve_of(binary, "lesion") is None


def test_the_negative_class_and_an_unknown_one_have_no_curve(binary: PluginSpec) -> None:
    spec = with_figures(binary, {"operating_points": {"lesion": GOOD, "normal": GOOD, "other": GOOD}})
    assert curve_of(spec, "lesion") is not None
    assert curve_of(spec, "normal") is None and curve_of(spec, "other") is None


@pytest.mark.parametrize(
    "counts", [None, 5, {"lesion": 3}, {"lesion": {"positives": True, "negatives": -2}}, {"lesion": {"positives": "1"}}]
)
def test_counts_that_cannot_be_read_are_not_told(binary: PluginSpec, counts: Any) -> None:
    figures = {"operating_points": {"lesion": GOOD}, "operating_cases": counts}
    found = curve_of(with_figures(binary, figures), "lesion")
    assert (found.positives, found.negatives) == (None, None)
    assert found.at(0.49).sensitivity == 1 and found.at(0.5).specificity == 1


def test_a_foreign_curve_that_begins_late_holds_from_there_down(binary: PluginSpec) -> None:
    found = curve_of(with_figures(binary, {"operating_points": {"lesion": [[0.4, 0.9, 0.3]]}}), "lesion")
    assert found.at(0.1).sensitivity == 0.9


def test_the_curve_is_read_with_the_standard_library_alone() -> None:
    assert packages_loaded_by("AnyMC3DLib.operating_points") == {"AnyMC3DLib"}


# From the training to the file


def agrees(spec: PluginSpec, seen: Predicted) -> None:
    """The curve in the file is that of these cases, at the plugin's own threshold and at others."""
    found = curve_of(spec, "lesion")
    thresholds = [spec.classes[1].threshold, *everywhere(seen.probabilities[:, 1])]
    for threshold in thresholds:
        expected = rates(seen.targets == 1, seen.probabilities[:, 1] >= threshold)
        assert (found.at(threshold).sensitivity, found.at(threshold).specificity) == pytest.approx(expected, abs=5.1e-5)
    assert found.positives + found.negatives == len(seen.ids)


@pytest.mark.parametrize("calibrate", [False, True])
def test_a_trained_plugin_holds_the_curve_of_its_validation_cases(
    backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, calibrate: bool
) -> None:
    monkeypatch.setattr(metrics, "RESAMPLES", 50)
    wanted = task(backbone)
    wanted = dataclasses.replace(wanted, training=dataclasses.replace(wanted.training, calibrate=calibrate))
    result = train_plugin(wanted, cases("train") + cases("val"), backbone, tmp_path / "p.safetensors")
    agrees(read_spec(tmp_path / "p.safetensors"), result.validation)


def test_an_ensemble_holds_the_curve_of_cases_that_its_members_have_not_seen(
    backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics, "RESAMPLES", 50)
    result = train_folds(
        task(backbone), cases("train"), backbone, tmp_path / "p.safetensors", count=2, splits=("train",)
    )
    agrees(read_spec(tmp_path / "p.safetensors"), result.unseen)
