"""Values past the range of 16 bits are computed in float32, and those past all ranges refused: no NaN is ever used.

Overflow is real where it can be: a float32 weight or value that float16 or bfloat16 rounds to infinity.
"""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import grey_slices, plugin_spec, tiny_backbone, tiny_network, view, write_plugin
from volumes import study

from AnyMC3DLib import streaming
from AnyMC3DLib.backbone import Backbone
from AnyMC3DLib.classifier import OVERFLOW, Classifier
from AnyMC3DLib.errors import InputError
from AnyMC3DLib.model import probabilities
from AnyMC3DLib.plugin import load_members, read_spec, save_plugin
from AnyMC3DLib.prediction import Prediction, Study
from AnyMC3DLib.spec import FusionSpec, HeadSpec, LoRASpec
from AnyMC3DLib.training import metrics
from AnyMC3DLib.training.calibration import calibrated, fit_calibration
from AnyMC3DLib.training.cases import Case
from AnyMC3DLib.training.evaluation import evaluate_plugin
from AnyMC3DLib.training.run import TrainingResult, train_plugin
from AnyMC3DLib.training.step import GradientStep
from AnyMC3DLib.training.task import TaskSpec, TrainingSpec
from AnyMC3DLib.volume import Volume

STUDY = Study({"image": study()})
TARGETS = torch.tensor([0, 1, 1])
TASKS = ("binary", "multiclass", "multilabel")


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "RESAMPLES", 20)


def past_float16() -> Backbone:
    """A backbone that is itself in float32, with hidden values of about 1e6 between two layers."""
    backbone = tiny_backbone(depth=1)
    layers = backbone.model.blocks[0].mlp
    with torch.no_grad():
        for tensor in layers.fc1.parameters():
            tensor.mul_(1e6)
        layers.fc2.weight.mul_(1e-6)
    return backbone


def past_bfloat16() -> Backbone:
    """A backbone with one weight that bfloat16 rounds to infinity, on a feature that is always 0."""
    backbone = tiny_backbone(depth=1)
    layers = backbone.model.blocks[0].mlp
    with torch.no_grad():
        layers.fc1.weight[0] = 0.0
        layers.fc1.bias[0] = 0.0
        layers.fc2.weight[0, 0] = torch.finfo(torch.float32).max
    return backbone


BACKBONES = {"float16": past_float16, "bfloat16": past_bfloat16}


def answered(backbone: Backbone, precision: str) -> Prediction:
    network = tiny_network(backbone)
    engine = Classifier(backbone, precision=precision, batch=4)
    engine.add(network.spec, [network])
    try:
        return engine.classify(STUDY)["Test"]
    except InputError as error:
        pytest.fail(f"there is an answer in float32, but: {error}")
    finally:
        network.close()


# Answers


@pytest.mark.parametrize("precision", BACKBONES)
def test_a_weight_or_a_value_past_16_bits_is_answered_as_in_float32_and_that_is_said(precision: str) -> None:
    backbone = BACKBONES[precision]()
    expected, found = answered(backbone, "float32"), answered(backbone, precision)
    assert found.probabilities == expected.probabilities
    assert np.array_equal(found.maps["axial"].classes, expected.maps["axial"].classes)
    assert found.provenance["precision"] == "float32"
    assert [step["why"] for step in found.provenance["memory_steps"]] == [OVERFLOW]
    assert any(precision in text and OVERFLOW in text for text in found.warnings)


def test_heat_past_16_bits_is_computed_in_float32_though_the_answer_is_finite(monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = tiny_backbone(depth=1)
    expected, products = answered(backbone, "float32"), streaming.tail_products

    def overflowing(tail: object, directions: torch.Tensor) -> torch.Tensor:
        found = products(tail, directions)
        return found if backbone.dtype == torch.float32 else found * float("inf")

    monkeypatch.setattr(streaming, "tail_products", overflowing)
    found = answered(backbone, "bfloat16")
    assert np.array_equal(found.maps["axial"].classes, expected.maps["axial"].classes)
    assert found.hot_spots == expected.hot_spots
    assert [step["why"] for step in found.provenance["memory_steps"]] == [OVERFLOW]


@pytest.mark.parametrize("kind", ["attention", "mean", "median", "max"])
def test_embeddings_in_float16_are_fused_in_float32_up_to_its_largest_value(kind: str) -> None:
    network = tiny_network(tiny_backbone(depth=1), fusion=FusionSpec(kind=kind))
    embeddings = 6e4 * (2 * torch.rand(1, 5, network.width, generator=torch.Generator().manual_seed(0)) - 1)
    low = embeddings.half()
    found, expected = network.fuse({"axial": low}), network.fuse({"axial": low.float()})
    assert found.logits.dtype == torch.float32
    assert torch.equal(found.logits, expected.logits) and bool(torch.isfinite(found.logits).all())
    assert torch.equal(found.slice_weights["axial"], expected.slice_weights["axial"])


# Training


def gradients_of(backbone: Backbone, dtype: torch.dtype, mode: str) -> tuple[GradientStep, float, list[torch.Tensor]]:
    network = tiny_network(backbone)
    backbone.set_precision(dtype)
    step = GradientStep(network, mode=mode)
    loss = step([{"axial": grey_slices(3, seed=n)} for n in range(3)], TARGETS)
    found = [p.grad.clone() for p in network.parameters() if p.grad is not None]
    network.close()
    backbone.set_precision(torch.float32)
    return step, loss, found


@pytest.mark.parametrize("mode", ["speed", "memory"])
@pytest.mark.parametrize("precision", BACKBONES)
def test_a_step_past_16_bits_has_the_loss_and_gradients_of_float32(precision: str, mode: str) -> None:
    backbone = BACKBONES[precision]()
    exact, loss, expected = gradients_of(backbone, torch.float32, mode)
    step, found_loss, found = gradients_of(backbone, getattr(torch, precision), mode)
    assert (exact.redone, step.redone) == (0, 1)
    assert math.isfinite(loss) and found_loss == loss
    assert len(found) == len(expected) > 0
    for ours, theirs in zip(found, expected, strict=True):
        assert torch.equal(ours, theirs)


def test_a_step_within_16_bits_is_taken_in_them() -> None:
    step, loss, found = gradients_of(tiny_backbone(depth=1), torch.bfloat16, "speed")
    _, exact, _ = gradients_of(tiny_backbone(depth=1), torch.float32, "speed")
    assert step.redone == 0
    assert loss != exact and loss == pytest.approx(exact, rel=0.1)
    assert all(bool(torch.isfinite(gradient).all()) for gradient in found)


def cases(count: int = 12) -> list[Case]:
    """Brighter ones are lesions; every third is to validate."""
    found = []
    for number in range(count):
        rng = np.random.default_rng(number)
        array = (rng.uniform(0, 600, (3, 32, 32)) + 300 * (number % 2)).astype(np.float32)

        def load(array: np.ndarray = array) -> Study:
            return Study({"image": Volume(array, np.eye(4))})

        found.append(Case(f"case {number}", "val" if number % 3 == 2 else "train", number % 2, load))
    return found


def trained(backbone: Backbone, out: Path, **recipe: object) -> TrainingResult:
    plugin = plugin_spec(backbone, views=(view(backbone, size=(32, 32)),), head=HeadSpec(standardise=True))
    settings_ = {"epochs": 2, "warm_up_epochs": 2, "batch": 4, "adapter_rate": 1e-3, "calibrate": True, **recipe}
    task = TaskSpec(plugin=plugin, training=TrainingSpec(**settings_))
    return train_plugin(task, cases(), backbone, out, mode="speed")


def test_a_training_past_bfloat16_gives_the_plugin_of_float32_and_counts_its_steps(tmp_path: Path) -> None:
    backbone = past_bfloat16()
    exact = trained(backbone, tmp_path / "exact", precision="float32")
    found = trained(backbone, tmp_path / "found", precision="bfloat16")
    assert "steps_in_float32" not in exact.spec.provenance
    assert read_spec(tmp_path / "found").provenance["steps_in_float32"] == 4
    assert (found.spec.temperature, found.spec.classes) == (exact.spec.temperature, exact.spec.classes)
    assert found.spec.provenance["validation"] == exact.spec.provenance["validation"]
    (member,), (expected,) = (load_members(tmp_path / n, read_spec(tmp_path / n)) for n in ("found", "exact"))
    assert all(torch.equal(tensor, expected[name]) for name, tensor in member.items())


def test_a_training_within_bfloat16_counts_no_step_and_writes_a_finite_plugin(tmp_path: Path) -> None:
    found = trained(tiny_backbone(depth=1), tmp_path / "p", precision="bfloat16")
    assert "steps_in_float32" not in found.spec.provenance
    assert all(bool(torch.isfinite(tensor).all()) for tensor in found.state.values())
    assert np.isfinite(found.validation.probabilities).all()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_gradient_that_is_not_finite_ends_the_training_and_leaves_no_plugin(
    value: float, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    added = GradientStep._added

    def spoilt(step: GradientStep, *given: object) -> float:
        loss = added(step, *given)
        next(p for p in step.network.parameters() if p.grad is not None).grad.view(-1)[0] = value
        return loss

    monkeypatch.setattr(GradientStep, "_added", spoilt)
    with pytest.raises(InputError, match=r"diverged, its loss or a gradient is no longer finite: lower the learning"):
        # One step alone, after which no loss would tell.
        trained(tiny_backbone(depth=1), tmp_path / "p", epochs=1, warm_up_epochs=0, batch=8, keep="last")
    assert list(tmp_path.iterdir()) == []


def test_validation_cases_without_a_finite_answer_are_named_instead_of_measured(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    backbone = tiny_backbone(depth=1)
    embed = type(tiny_network(backbone)).embed

    def spoilt(network: torch.nn.Module, view_: object, slices: torch.Tensor) -> torch.Tensor:
        found = embed(network, view_, slices)
        return found if torch.is_grad_enabled() or network.training else found * float("nan")

    monkeypatch.setattr("AnyMC3DLib.model.PluginNetwork.embed", spoilt)
    with pytest.raises(InputError, match="not finite for case 'case 2'"):
        trained(backbone, tmp_path / "p", warm_up_epochs=0)
    assert list(tmp_path.iterdir()) == []


# Evaluation and calibration


@pytest.mark.parametrize("fusion", ["attention", "max"])
def test_a_plugin_whose_values_are_not_finite_is_not_measured(fusion: str, tmp_path: Path) -> None:
    backbone = tiny_backbone(depth=1)
    spec = plugin_spec(backbone, views=(view(backbone, size=(32, 32)),), fusion=FusionSpec(kind=fusion))
    place = write_plugin(tmp_path / "p.safetensors", backbone, views=spec.views, fusion=spec.fusion)
    tensors = load_members(place, spec)[0]
    tensors["head.weight"] = torch.full_like(tensors["head.weight"], 3e38)
    save_plugin(place, spec, [tensors])
    with pytest.raises(InputError, match=r"not finite for case 'case 0': check the image's values, and the plugin"):
        evaluate_plugin(place, lambda _: cases(), backbone, splits=["train"])
    assert backbone.sites.keys == []


def any_logits(task: str) -> st.SearchStrategy[np.ndarray]:
    largest = float(np.finfo(np.float32).max)
    value = st.one_of(st.floats(-30, 30), st.floats(-largest, largest, width=32), st.just(0.0))
    width = 1 if task == "binary" else 3
    return st.lists(st.lists(value, min_size=width, max_size=width), min_size=4, max_size=12).map(np.array)


@pytest.mark.parametrize("task", TASKS)
def test_logits_of_any_finite_size_have_probabilities_and_a_finite_calibration(task: str) -> None:
    backbone = tiny_backbone(depth=1)
    bare = plugin_spec(backbone, task_type=task, lora=LoRASpec(rank=0))

    @settings(max_examples=25, deadline=None, database=None, derandomize=True)
    @given(any_logits(task), st.floats(0.05, 20), st.integers(0, 1 << 16))
    def check(logits: np.ndarray, temperature: float, seed: int) -> None:
        spec = dataclasses.replace(bare, temperature=temperature)
        found = probabilities(torch.tensor(logits, dtype=torch.float32), spec).numpy()
        assert ((found >= 0) & (found <= 1)).all()
        rng = np.random.default_rng(seed)
        shape = (len(logits), 3) if task == "multilabel" else (len(logits),)
        targets = rng.integers(-1 if task == "multilabel" else 0, 2 if task != "multiclass" else 3, shape)
        calibration = fit_calibration(found, targets, spec)
        assert 0.1 <= calibration.temperature <= 10
        assert all(0 <= threshold <= 1 for threshold in calibration.thresholds)
        calm = calibrated(found, calibration.temperature, spec)
        assert ((calm >= 0) & (calm <= 1)).all()
        if task != "multilabel":
            assert np.allclose(calm.sum(axis=1), 1) and np.allclose(found.sum(axis=1), 1)

    check()
