"""From a task and its data to a plugin file, and from a plugin file to its figures."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from networks import plugin_spec, tiny_backbone, view, write_plugin
from safetensors.torch import load_file
from shell import blob_images

from AnyMC3DLib.backbone import Backbone
from AnyMC3DLib.classifier import Classifier
from AnyMC3DLib.errors import InputError, PluginError
from AnyMC3DLib.plugin import load_members, read_spec
from AnyMC3DLib.prediction import Study
from AnyMC3DLib.spec import IntensitySpec, LoRASpec, PluginSpec
from AnyMC3DLib.training import metrics
from AnyMC3DLib.training.cases import Case, volume_of_medmnist
from AnyMC3DLib.training.evaluation import evaluate_plugin
from AnyMC3DLib.training.objective_spec import PixelSpec
from AnyMC3DLib.training.pixel_supervision import load_decoder
from AnyMC3DLib.training.run import TrainingResult, train_plugin
from AnyMC3DLib.training.run_folder import write_run
from AnyMC3DLib.training.task import TaskSpec, TrainingSpec

RECIPE = TrainingSpec(epochs=1, warm_up_epochs=3, batch=4)


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "RESAMPLES", 50)


@pytest.fixture(scope="module")
def lent() -> Backbone:
    return tiny_backbone("test_vit", depth=1)


@pytest.fixture
def backbone(lent: Backbone) -> Iterator[Backbone]:
    """No test may leave an adapter behind."""
    yield lent
    assert lent.sites.keys == []


def cases(split: str, count: int = 8, *, labels: Sequence[int] | None = None) -> list[Case]:
    images, targets = blob_images((count // 2, count // 2), seed=len(split))
    chosen = targets[:, 0].tolist() if labels is None else labels
    studies = [Study({"image": volume_of_medmnist(image)}) for image in images]
    return [Case(f"{split}-{n}", split, target, lambda study=study: study)
            for n, (study, target) in enumerate(zip(studies, chosen, strict=True))]  # fmt: skip


def small(backbone: Backbone, **fields: object) -> dict[str, object]:
    window = IntensitySpec(kind="window", windows=((127.5, 255.0),))
    return {"views": (view(backbone, size=(32, 32), intensity=window),), **fields}


def task(backbone: Backbone, **fields: object) -> TaskSpec:
    spec = plugin_spec(backbone, **small(backbone, **fields))
    return TaskSpec(plugin=dataclasses.replace(spec, provenance={"data": "blobs"}), training=RECIPE)


def test_a_plugin_file_says_how_it_was_trained(backbone: Backbone, tmp_path: Path) -> None:
    place = tmp_path / "folder" / "plugin.safetensors"
    result = train_plugin(task(backbone), cases("train") + cases("val"), backbone, place)
    spec = read_spec(place)
    assert spec == read_spec(place) == PluginSpec.from_dict(json.loads(json.dumps(result.spec.to_dict())))
    provenance = spec.provenance
    assert provenance["data"] == "blobs"
    assert provenance["counts"]["train"] == {"normal": 4, "lesion": 4}
    assert TrainingSpec.from_dict(provenance["recipe"]) == RECIPE
    assert set(provenance["versions"]) >= {"anymc3d", "torch", "timm"}
    assert [(e["phase"], e["epoch"]) for e in provenance["epochs"]] == [("warm-up", 3), ("training", 1)]
    (member,) = load_members(place, spec)
    assert sum(tensor.numel() for tensor in member.values()) == result.parameters == provenance["parameters"]


def test_the_figures_in_the_file_are_those_of_the_plugin(backbone: Backbone, tmp_path: Path) -> None:
    place, data = tmp_path / "plugin.safetensors", cases("train") + cases("val")
    train_plugin(task(backbone), data, backbone, place)
    found = evaluate_plugin(place, lambda spec: data, backbone, splits=["val"])
    figures = read_spec(place).provenance["validation"]
    assert {name: figures[name] for name in ("auc", "accuracy")} == {
        "auc": found.auc.to_dict(),
        "accuracy": found.accuracy.to_dict(),
    }
    assert set(figures) == {"auc", "accuracy", "operating_points", "operating_cases"}


def test_the_same_task_and_data_give_the_same_file(backbone: Backbone, tmp_path: Path) -> None:
    places = [tmp_path / name for name in ("first", "second")]
    for place in places:
        train_plugin(task(backbone), cases("train") + cases("val"), backbone, place)
    assert places[0].read_bytes() == places[1].read_bytes()


def test_validation_cases_of_one_class_leave_the_auc_unknown(backbone: Backbone, tmp_path: Path) -> None:
    place = tmp_path / "plugin.safetensors"
    data = cases("train") + cases("val", labels=[0] * 8)
    result = train_plugin(task(backbone), data, backbone, place)
    assert all(math.isnan(epoch.score) for epoch in result.history)
    figures = read_spec(place).provenance["validation"]
    assert figures["auc"] == {"value": None, "low": None, "high": None}
    assert figures["accuracy"]["value"] is not None


def test_a_class_without_training_cases_is_refused(backbone: Backbone, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="none of class 'lesion'"):
        train_plugin(task(backbone), cases("train", labels=[0] * 8) + cases("val"), backbone, tmp_path / "p")
    assert list(tmp_path.iterdir()) == []


def test_a_training_that_fails_leaves_no_adapter_and_no_file(
    backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object, **options: object) -> None:
        raise InputError("The disk is gone.")

    monkeypatch.setattr("AnyMC3DLib.training.run.Trainer.fit", fail)
    with pytest.raises(InputError, match="The disk is gone"):
        train_plugin(task(backbone), cases("train") + cases("val"), backbone, tmp_path / "p")
    assert list(tmp_path.iterdir()) == []


def test_splits_may_be_joined_for_training(backbone: Backbone, tmp_path: Path) -> None:
    place = tmp_path / "plugin.safetensors"
    data = cases("train") + cases("val")
    train_plugin(task(backbone), data, backbone, place, train_splits=("train", "val"), validation_splits=())
    provenance = read_spec(place).provenance
    assert provenance["counts"] == {"train": {"normal": 8, "lesion": 8}, "validation": {}}
    assert [epoch["auc"] for epoch in provenance["epochs"]] == [None, None]


# Evaluation


def test_evaluation_answers_as_the_classifier_does(backbone: Backbone, tmp_path: Path) -> None:
    place = write_plugin(tmp_path / "plugin.safetensors", backbone, members=2, **small(backbone))
    data = cases("test")
    found = evaluate_plugin(place, lambda spec: data, backbone)
    engine = Classifier(backbone)
    name = engine.load(place)
    for case, row in zip(data, found.probabilities, strict=True):
        expected = engine.classify(case.load(), maps="none")[name].probabilities
        # Training keeps slices as float16.
        np.testing.assert_allclose(row, list(expected.values()), atol=5e-3)
    engine.unload(name)
    assert found.ids == [case.id for case in data]
    assert found.targets.tolist() == [case.target for case in data]
    assert found.difference is None


def test_a_plugin_is_compared_with_another_on_the_same_cases(backbone: Backbone, tmp_path: Path) -> None:
    first, second = (write_plugin(tmp_path / f"{seed}", backbone, seed=seed, **small(backbone)) for seed in (3, 4))
    data = cases("test")
    found = evaluate_plugin(first, lambda spec: data, backbone, against=second)
    other = evaluate_plugin(second, lambda spec: data, backbone)
    assert found.difference.value == pytest.approx(found.auc.value - other.auc.value)


def test_plugins_of_different_classes_cannot_be_compared(backbone: Backbone, tmp_path: Path) -> None:
    first = write_plugin(tmp_path / "first", backbone, **small(backbone))
    second = write_plugin(tmp_path / "second", backbone, **small(backbone, task_type="multiclass"))
    data = cases("test")
    with pytest.raises(InputError, match="cannot be compared"):
        evaluate_plugin(first, lambda spec: data, backbone, against=second)


def test_a_plugin_of_other_weights_is_not_evaluated(backbone: Backbone, tmp_path: Path) -> None:
    place = write_plugin(tmp_path / "plugin", backbone, **small(backbone))
    with pytest.raises(PluginError, match="was trained on"):
        evaluate_plugin(place, lambda spec: cases("test"), tiny_backbone("test_vit", seed=1, depth=1))


# What must not pass unseen


def unreadable(case: Case) -> Case:
    def load() -> Study:
        raise InputError("The file is damaged.")

    return dataclasses.replace(case, load=load)


def test_a_patient_in_two_splits_is_refused(backbone: Backbone, tmp_path: Path) -> None:
    data = [dataclasses.replace(case, patient=f"p{n % 9}") for n, case in enumerate(cases("train") + cases("val"))]
    with pytest.raises(InputError, match="The patient 'p0' is in two splits"):
        train_plugin(task(backbone), data, backbone, tmp_path / "p")


def test_cases_that_cannot_be_read_are_counted_over_all_splits_before_anything_is_trained(
    backbone: Backbone, tmp_path: Path
) -> None:
    train, val, test = cases("train"), cases("val"), cases("test")
    data = [unreadable(train[0]), *train[1:], *val, *test[:3], unreadable(test[3]), *test[4:]]
    told: list[str] = []

    def trained(allowed: int) -> TrainingResult:
        return train_plugin(
            task(backbone), data, backbone, tmp_path / "p", test_splits=("test",), allow_unreadable=allowed,
            progress=lambda step: told.append(step.step),
        )  # fmt: skip

    with pytest.raises(InputError, match=r"Case 'test-3': The file is damaged\."):
        trained(1)
    assert set(told) == {"Cutting slices"} and not (tmp_path / "p").exists()
    result = trained(2)
    assert set(result.excluded) == {"train-0", "test-3"} and "test-3" not in result.test.ids


def test_what_was_predicted_of_the_test_cases_is_what_the_plugin_says_of_them(
    backbone: Backbone, tmp_path: Path
) -> None:
    recipe = dataclasses.replace(RECIPE, calibrate=True, epochs=3, adapter_rate=1e-2, head_rate=1e-2)
    asked = dataclasses.replace(task(backbone), training=recipe)
    data = cases("train", 16) + cases("val", 12) + cases("test", 10)
    result = train_plugin(asked, data, backbone, tmp_path / "p", test_splits=("test",))
    found = evaluate_plugin(tmp_path / "p", lambda _: data, backbone)
    assert found.ids == result.test.ids
    assert np.allclose(found.probabilities, result.test.probabilities, atol=1e-6)
    validated = evaluate_plugin(tmp_path / "p", lambda _: data, backbone, splits=("val",))
    assert np.allclose(validated.probabilities, result.validation.probabilities, atol=2e-3)


def test_without_validation_cases_nothing_is_calibrated(backbone: Backbone, tmp_path: Path) -> None:
    asked = dataclasses.replace(task(backbone), training=dataclasses.replace(RECIPE, calibrate=True))
    with pytest.raises(InputError, match="nothing can be calibrated"):
        train_plugin(asked, cases("train"), backbone, tmp_path / "p", validation_splits=())


@pytest.mark.parametrize("name", ["test_vit", "test_resnet"])
def test_a_whole_backbone_is_given_back_as_it_was_and_its_model_can_be_written(name: str, tmp_path: Path) -> None:
    lent = tiny_backbone(name)
    before = {key: tensor.clone() for key, tensor in lent.model.state_dict().items()}
    recipe = dataclasses.replace(RECIPE, method="full", backbone_rate=1e-3)
    asked = TaskSpec(plugin=plugin_spec(lent, **small(lent, lora=LoRASpec(rank=0))), training=recipe)
    result = train_plugin(asked, cases("train") + cases("val"), lent, None)
    write_run(tmp_path, asked, result, device="cpu", config={})
    changed = load_file(tmp_path / "model.safetensors")
    weights = {key: changed[f"backbone/{key}"] for key in before}
    assert any(not before[key].equal(weights[key]) for key in before)
    assert all(before[key].equal(tensor) for key, tensor in lent.model.state_dict().items())
    assert not any(p.requires_grad or p.grad is not None for p in lent.model.parameters())
    with pytest.raises(InputError, match="is no plugin"):
        train_plugin(asked, cases("train") + cases("val"), lent, tmp_path / "p")


def test_the_decoder_of_the_masks_is_kept_where_the_task_wants_it(backbone: Backbone, tmp_path: Path) -> None:
    def masked(case: Case) -> Case:
        volume = case.load().image("image")
        return dataclasses.replace(
            case, masks=lambda: {"image": dataclasses.replace(volume, array=np.uint8(volume.array > 200))}
        )

    data = [masked(case) for case in cases("train")] + cases("val")
    for keep in (False, True):
        pixels = PixelSpec(weight=1.0, channels=8, keep_decoder=keep)
        asked = dataclasses.replace(task(backbone), training=dataclasses.replace(RECIPE, pixels=pixels))
        folder = tmp_path / str(keep)
        result = train_plugin(asked, data, backbone, folder / "plugin.safetensors")
        write_run(folder, asked, result, device="cpu", config={})
        assert (folder / "decoder.safetensors").exists() == keep
    expected = result.decoder.state_dict()
    found = load_decoder(folder / "decoder.safetensors").state_dict()
    assert all(found[name].equal(tensor) for name, tensor in expected.items())
