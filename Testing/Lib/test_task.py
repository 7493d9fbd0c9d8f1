"""Task files: those that come with the library, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from networks import plugin_spec, tiny_backbone
from test_import_weights import packages_loaded_by

from AnyMC3DLib.catalogue import read_catalogue
from AnyMC3DLib.errors import InputError
from AnyMC3DLib.resources import resource
from AnyMC3DLib.spec import LoRASpec
from AnyMC3DLib.training.augmentation_spec import AugmentationSpec
from AnyMC3DLib.training.task import TaskSpec, TrainingSpec, read_task

SHIPPED = sorted(place.stem for place in resource("Tasks").glob("*.json"))


def test_tasks_come_with_the_library() -> None:
    assert "HeadLesionPhantom" in SHIPPED


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_task_is_whole_and_names_a_backbone_of_the_catalogue(name: str) -> None:
    task = read_task(name)
    assert task.plugin.name == name
    assert task.plugin.backbone.id in read_catalogue()
    assert task.plugin.description
    assert task.plugin.licence
    # A misspelt field would be kept as unknown, and its default used in silence.
    assert no_extra(task)


def no_extra(record: object) -> bool:
    fields = vars(record)
    nested = [item for value in fields.values() for item in (value if isinstance(value, tuple) else (value,))]
    return not fields.get("extra") and all(no_extra(item) for item in nested if hasattr(item, "extra"))


def test_a_task_file_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    task = TaskSpec(plugin=plugin_spec(tiny_backbone()), training=TrainingSpec(epochs=3, slices=2, seed=9))
    (tmp_path / "task.json").write_text(json.dumps(task.to_dict()))
    assert read_task(tmp_path / "task.json") == task


def test_an_unknown_task_is_refused_with_the_names_there_are() -> None:
    with pytest.raises(InputError, match=r"no task file 'Dragons': .*HeadLesionPhantom"):
        read_task("Dragons")


@pytest.mark.parametrize("content", [b"{", b"\xff\xfe\x00", b"[]", b'{"plugin": 3}', b'{"training": {}}'])
def test_a_task_file_that_is_wrong_is_refused_by_its_name(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "task.json").write_bytes(content)
    with pytest.raises(InputError, match=r"task\.json"):
        read_task(tmp_path / "task.json")


@pytest.mark.parametrize(
    "fields", [{"epochs": 0, "warm_up_epochs": 0}, {"epochs": -1}, {"warm_up_epochs": -1}, {"batch": 0}, {"slices": 0}]
)
def test_a_recipe_that_trains_nothing_is_refused(fields: dict[str, int]) -> None:
    with pytest.raises(InputError, match="at least one"):
        TrainingSpec(**fields)


def test_a_task_without_adapters_and_warm_up_is_refused() -> None:
    plugin = plugin_spec(tiny_backbone(), lora=LoRASpec(rank=0))
    with pytest.raises(InputError, match="only the warm-up trains"):
        TaskSpec(plugin=plugin, training=TrainingSpec(warm_up_epochs=0))
    assert TaskSpec(plugin=plugin, training=TrainingSpec(epochs=0)).plugin == plugin


def test_tasks_need_the_standard_library_alone() -> None:
    assert packages_loaded_by("AnyMC3DLib.training.task") == {"AnyMC3DLib"}


@pytest.mark.parametrize(
    "path", [("training", "epocs"), ("training", "augmentation", "flips"), ("plugin", "lora", "rang")]
)
def test_a_misspelt_field_of_a_task_is_refused(tmp_path: Path, path: tuple[str, ...]) -> None:
    data = TaskSpec(plugin=plugin_spec(tiny_backbone())).to_dict()
    part = data
    for name in path[:-1]:
        part = part[name]
    part[path[-1]] = 3
    (tmp_path / "task.json").write_text(json.dumps(data))
    with pytest.raises(InputError, match=f"unknown field '{path[-1]}'"):
        read_task(tmp_path / "task.json")


@pytest.mark.parametrize("fields", [{"adapter_rate": -1.0}, {"head_decay": 2.0}, {"seed": -1}, {"seed": 1 << 40}])
def test_a_recipe_past_all_reason_is_refused(fields: dict[str, float]) -> None:
    with pytest.raises(InputError, match="must lie within"):
        TrainingSpec(**fields)


@pytest.mark.parametrize("fields", [{"flip": 2.0}, {"rotation": -0.1}, {"zoom": 1.5}])
def test_an_augmentation_past_all_reason_is_refused(fields: dict[str, float]) -> None:
    with pytest.raises(InputError, match="must lie within"):
        AugmentationSpec(**fields)


def test_what_a_task_file_does_not_say_is_the_papers(tmp_path: Path) -> None:
    content = {"plugin": plugin_spec(tiny_backbone()).to_dict(), "training": {"epochs": 3}}
    (tmp_path / "task.json").write_text(json.dumps(content))
    recipe = read_task(tmp_path / "task.json").training
    assert (recipe.objective.kind, recipe.objective.gamma, recipe.objective.alpha) == ("focal", 2.0, 0.25)
    assert recipe.augmentation == AugmentationSpec.paper()
    assert (recipe.epochs, recipe.adapter_rate, recipe.head_rate) == (3, 1e-4, 1e-3)
    content["training"] = {"objective": {"kind": "cross_entropy"}, "augmentation": {}}
    (tmp_path / "task.json").write_text(json.dumps(content))
    recipe = read_task(tmp_path / "task.json").training
    assert recipe.objective.kind == "cross_entropy" and recipe.augmentation == AugmentationSpec()
