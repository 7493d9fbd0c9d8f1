"""From the choices of a form to a task: what it says, and that the worker's rooms take it."""

from __future__ import annotations

import dataclasses
import json
from typing import Any, get_args

import pytest
from networks import tiny_backbone
from test_import_weights import packages_loaded_by

from AnyMC3DLib.catalogue import read_catalogue
from AnyMC3DLib.errors import BackboneError, InputError
from AnyMC3DLib.messages import Train
from AnyMC3DLib.training.augmentation_spec import AugmentationSpec
from AnyMC3DLib.training.methods import Method, with_method
from AnyMC3DLib.training.presets import PRESETS, TrainChoices, task_of, views_of, whole_patches
from AnyMC3DLib.training.task import TaskSpec, read_task


def choices(**changed: Any) -> TrainChoices:
    given = {"name": "Lesion", "classes": ("no", "yes"), "task_type": "binary", "backbone": "efficientnet_lite0"}
    return TrainChoices(**{**given, **changed})


def test_the_task_says_what_was_chosen() -> None:
    task = task_of(
        choices(
            name=" Bleeding ", question=" Is there blood? ", classes=("none", "old", "new"), task_type="multiclass",
            preset="CT brain", size=224, count=30, epochs=7, seed=5,
        )
    )  # fmt: skip
    assert (task.plugin.name, task.plugin.description) == ("Bleeding", "Is there blood?")
    assert [c.name for c in task.plugin.classes] == ["none", "old", "new"]
    assert (task.plugin.task_type, task.plugin.backbone.id) == ("multiclass", "efficientnet_lite0")
    assert (task.training.epochs, task.training.seed, task.plugin.modality) == (7, 5, "CT")
    (view,) = task.plugin.views
    assert view.preprocessing.size == (224, 224) and view.preprocessing.slices.count == 30
    assert view.preprocessing.intensity.resolved_windows() == ((40.0, 80.0),)


def test_objective_and_augmentation_are_those_of_a_task_file_that_says_nothing_of_them(tmp_path: Any) -> None:
    task = task_of(choices())
    bare = {"plugin": task.plugin.to_dict()}
    (tmp_path / "bare.json").write_text(json.dumps(bare))
    filled = read_task(tmp_path / "bare.json").training
    assert task.training.objective == filled.objective
    assert task.training.augmentation == filled.augmentation == AugmentationSpec.paper()


def test_one_image_has_a_view_for_each_axis_and_several_have_one_of_each() -> None:
    axes = ("axial", "sagittal")
    assert [(v.name, v.source) for v in views_of(choices(axes=axes))] == [("axial", "image"), ("sagittal", "image")]
    several = task_of(choices(axes=axes, sources=("T1", "T2"))).plugin
    assert [(v.name, v.source, v.preprocessing.axis) for v in several.views] == [
        ("axial-T1", "T1", "axial"), ("sagittal-T1", "T1", "sagittal"),
        ("axial-T2", "T2", "axial"), ("sagittal-T2", "T2", "sagittal"),
    ]  # fmt: skip


@pytest.mark.parametrize(("backbone", "size", "whole"), [
    ("dinov2_vits14", 224, 224), ("dinov2_vits14", 225, 238), ("dinov3_vits16", 200, 208),
    ("efficientnet_lite0", 193, 224), ("timm:test_vit", 33, 48),
])  # fmt: skip
def test_slices_are_made_of_whole_patches(backbone: str, size: int, whole: int) -> None:
    assert whole_patches(size, backbone) == whole
    (view,) = task_of(choices(backbone=backbone, size=size)).plugin.views
    assert view.preprocessing.size == (whole, whole)


@pytest.mark.parametrize("method", get_args(Method))
@pytest.mark.parametrize("pixels", [False, True])
def test_a_task_can_be_trained_by_each_method_and_masks_teach_where_they_can(method: Method, pixels: bool) -> None:
    task = with_method(task_of(choices(method=method, pixels=pixels)), method)
    assert bool(task.training.pixels.weight) == (pixels and method in ("lora", "full"))
    assert bool(task.plugin.lora.rank) == (method == "lora")


@pytest.mark.parametrize("preset", PRESETS)
def test_a_task_goes_to_the_worker_and_comes_back_the_same(preset: str) -> None:
    task = task_of(choices(preset=preset))
    order = Train(task=task.to_dict(), data="table.csv", run="run", method="lora")
    read = Train.from_dict(json.loads(json.dumps(order.to_dict())))
    assert TaskSpec.from_dict(read.task, where="task") == task


def test_a_task_suits_the_backbone_that_it_names() -> None:
    from AnyMC3DLib.training.trainer import prepare_spec

    backbone = tiny_backbone()
    task = task_of(choices(backbone="timm:test_vit", size=60))
    assert prepare_spec(task, backbone).views[0].preprocessing.size == (64, 64)


def test_three_windows_are_three_channels_and_mr_has_percentiles() -> None:
    assert len(PRESETS["CT three windows (RGB)"].intensity.windows) == 3
    assert PRESETS["MR"].intensity.kind == "percentile"
    assert PRESETS["as stored (0 to 255)"].intensity.resolved_windows() == ((127.5, 255.0),)


@pytest.mark.parametrize(("changed", "words"), [
    ({"name": "  "}, "needs a name"), ({"axes": ()}, "no view"), ({"preset": "Ultrasound"}, "no preset"),
    ({"classes": ("a", "b", "c")}, "binary"), ({"epochs": 0, "seed": -1}, "seed"), ({"count": 0}, "count"),
    ({"sources": ("a b",)}, "letters"),
])  # fmt: skip
def test_choices_that_make_no_task_are_refused_in_a_sentence(changed: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        task_of(choices(**changed))


def test_a_backbone_that_there_is_not_is_refused() -> None:
    with pytest.raises(BackboneError, match="no backbone"):
        task_of(choices(backbone="dragon"))


def test_every_backbone_of_the_catalogue_has_a_task() -> None:
    for name in read_catalogue():
        assert task_of(dataclasses.replace(choices(), backbone=name)).plugin.backbone.id == name


def test_the_presets_need_the_standard_library_alone() -> None:
    assert packages_loaded_by("AnyMC3DLib.training.presets") == {"AnyMC3DLib"}
