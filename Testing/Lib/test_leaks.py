"""What is held out stays so: test cases decide nothing, validation cases teach nothing and are seen as they are."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from networks import plugin_spec, tiny_backbone, view

from AnyMC3DLib.backbone import Backbone
from AnyMC3DLib.prediction import Study
from AnyMC3DLib.spec import HeadSpec
from AnyMC3DLib.training import metrics, run
from AnyMC3DLib.training.augmentation_spec import AugmentationSpec
from AnyMC3DLib.training.calibration import calibrated, fit_calibration
from AnyMC3DLib.training.cases import Case
from AnyMC3DLib.training.embedding import Embedder, Embeddings
from AnyMC3DLib.training.run import TrainingResult, train_plugin
from AnyMC3DLib.training.slices import CutCases
from AnyMC3DLib.training.task import TaskSpec, TrainingSpec
from AnyMC3DLib.volume import Volume

TURNED = AugmentationSpec(flip=1.0, rotation=1.0, rotation_degrees=30)
COUNTS = {"train": 10, "val": 14, "test": 14}


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "RESAMPLES", 20)


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return tiny_backbone(depth=1)


def cases(split: str, *, turned: bool = False) -> list[Case]:
    """Brighter ones are lesions, with noise enough that some are answered wrongly; `turned` swaps the labels."""
    found = []
    for number in range(COUNTS[split]):
        rng = np.random.default_rng([len(split), number])
        array = (rng.uniform(0, 1000, (3, 32, 32)) + 400 * (number % 2) * rng.uniform(-0.2, 1)).astype(np.float32)

        def load(array: np.ndarray = array) -> Study:
            return Study({"image": Volume(array, np.eye(4))})

        found.append(Case(f"{split} {number}", split, (number + turned) % 2, load))
    return found


def trained(
    backbone: Backbone, data: list[Case], out: Path | None = None, *, splits: tuple[str, ...] = (), **recipe: object
) -> TrainingResult:
    plugin = plugin_spec(backbone, views=(view(backbone, size=(32, 32)),), head=HeadSpec(standardise=True))
    fields = {"epochs": 4, "warm_up_epochs": 2, "batch": 5, "adapter_rate": 3e-3, "head_rate": 1e-2, **recipe}
    task = TaskSpec(plugin=plugin, training=TrainingSpec(**fields))
    return train_plugin(task, data, backbone, out, mode="speed", test_splits=splits)


def test_test_cases_decide_neither_weights_nor_epoch_nor_temperature_nor_threshold(backbone: Backbone) -> None:
    seen = cases("train") + cases("val")
    alone = trained(backbone, seen, calibrate=True)
    for turned in (False, True):
        found = trained(backbone, seen + cases("test", turned=turned), splits=("test",), calibrate=True)
        assert found.test.ids == [case.id for case in cases("test")]
        assert found.validation.ids == alone.validation.ids
        assert found.spec.temperature == alone.spec.temperature
        assert found.spec.classes == alone.spec.classes
        assert [epoch.score for epoch in found.history] == [epoch.score for epoch in alone.history]
        assert all(torch.equal(tensor, alone.state[name]) for name, tensor in found.state.items())


def test_temperature_and_thresholds_are_those_of_the_validation_cases(backbone: Backbone) -> None:
    seen = cases("train") + cases("val")
    plain = trained(backbone, seen)
    assert plain.validation.ids == [case.id for case in cases("val")]
    expected = fit_calibration(plain.validation.probabilities, plain.validation.targets, plain.spec)
    found = trained(backbone, seen, calibrate=True)
    assert expected.temperature != 1 and expected.thresholds[1] != 0.5
    assert found.spec.temperature == expected.temperature
    assert tuple(c.threshold for c in found.spec.classes) == expected.thresholds
    calm = calibrated(plain.validation.probabilities, expected.temperature, plain.spec)
    assert np.array_equal(found.validation.probabilities, calm)


def test_validation_cases_are_seen_as_they_are_though_training_changes_its_own(
    backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[CutCases] = []
    embed = Embedder.embed

    def watched(embedder: Embedder, given: CutCases, *, step: str, frozen: bool = False) -> list[Embeddings]:
        if step.startswith(("Validating", "Embedding validation")):
            seen.append(given)
        return embed(embedder, given, step=step, frozen=frozen)

    held: list[CutCases | None] = []
    cut = run._cut

    def kept(*given: object, **options: object) -> tuple[CutCases, CutCases | None, CutCases | None]:
        held.extend(found := cut(*given, **options))
        return found

    monkeypatch.setattr(Embedder, "embed", watched)
    monkeypatch.setattr(run, "_cut", kept)
    trained(backbone, cases("train") + cases("val"), augmentation=TURNED, slices=2, epochs=2)
    assert len(seen) == 4
    for given in seen:
        assert given.ids == held[1].ids
        for stacks, expected in zip(given.stacks, held[1].stacks, strict=True):
            assert np.array_equal(stacks["axial"], expected["axial"])


def test_more_cases_of_the_same_patients_make_no_interval_narrower() -> None:
    rng = np.random.default_rng(5)
    targets = rng.integers(0, 2, 40)
    first, second = (np.stack([1 - p, p], axis=1) for p in rng.uniform(0, 1, (2, 40)) * 0.5 + 0.25 * targets)
    patients = [f"patient {n}" for n in range(40)]
    copies = np.tile(np.arange(40), 5)
    of_copies = {"patients": [patients[n] for n in copies]}
    for metric in (metrics.auc, metrics.accuracy):
        alone = metrics.bootstrap(metric, targets, first, patients=patients)
        again = metrics.bootstrap(metric, targets[copies], first[copies], **of_copies)
        assert dataclasses.astuple(again) == pytest.approx(dataclasses.astuple(alone), abs=1e-12)
        assert alone.low < alone.value < alone.high
        alone = metrics.paired_difference(metric, targets, first, second, patients=patients)
        again = metrics.paired_difference(metric, targets[copies], first[copies], second[copies], **of_copies)
        assert dataclasses.astuple(again) == pytest.approx(dataclasses.astuple(alone), abs=1e-12)
