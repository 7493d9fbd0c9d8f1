"""What tasks tell of their data, and the sets of MedMNIST as tasks."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from networks import plugin_spec, tiny_backbone
from shell import anymc3d, findable_backbone
from test_import_weights import packages_loaded_by

from AnyMC3DLib.benchmark.converters import KINDS
from AnyMC3DLib.errors import InputError
from AnyMC3DLib.plugin import read_spec
from AnyMC3DLib.resources import resource
from AnyMC3DLib.spec import LoRASpec, SliceSpec
from AnyMC3DLib.training.about import About, PublishedResult
from AnyMC3DLib.training.cases import read_cases
from AnyMC3DLib.training.medmnist import medmnist_channels, medmnist_names, medmnist_task
from AnyMC3DLib.training.order import changed_task
from AnyMC3DLib.training.task import TaskSpec, read_task, task_names

NAMES = task_names()
OBTAINABLE = ("public", "gated")
# Counted on the page of MedMNIST: the classes of each set.
MEDMNIST = {
    "PathMNIST": 9, "ChestMNIST": 14, "DermaMNIST": 7, "OCTMNIST": 4, "PneumoniaMNIST": 2, "RetinaMNIST": 5,
    "BreastMNIST": 2, "BloodMNIST": 8, "TissueMNIST": 8, "OrganAMNIST": 11, "OrganCMNIST": 11, "OrganSMNIST": 11,
    "OrganMNIST3D": 11, "NoduleMNIST3D": 2, "AdrenalMNIST3D": 2, "FractureMNIST3D": 3, "VesselMNIST3D": 2,
    "SynapseMNIST3D": 2,
}  # fmt: skip
COLOUR = {"PathMNIST", "DermaMNIST", "RetinaMNIST", "BloodMNIST"}
RESULT = {"model": "a network", "figure": "auc", "value": 0.9, "split": "test", "source": "a paper"}


@pytest.mark.parametrize("name", NAMES)
def test_every_task_tells_where_its_data_and_its_published_figures_come_from(name: str) -> None:
    about = read_task(name).about
    assert about is not None
    assert about.source.strip() and about.address.strip() and about.licence.strip()
    assert all(0 <= result.value <= 1 and result.source.strip() for result in about.results)
    assert all(count > 0 for count in about.counts.values())
    assert about.converter is None or about.converter in KINDS


@pytest.mark.parametrize("name", NAMES)
def test_data_that_cannot_be_had_has_a_stand_in_that_can(name: str) -> None:
    about = read_task(name).about
    assert about is not None
    if about.availability in OBTAINABLE:
        assert about.stand_in is None
        return
    assert about.stand_in in NAMES
    other = read_task(about.stand_in).about
    assert other is not None and other.availability in OBTAINABLE


@pytest.mark.parametrize("name", [name for name in NAMES if name not in MEDMNIST])
def test_a_published_figure_is_there_once(name: str) -> None:
    about = read_task(name).about
    assert about is not None
    told = [(result.model, result.figure, result.split, result.source) for result in about.results]
    assert len(set(told)) == len(told)


def test_what_is_told_of_a_task_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    about = About(source="a paper", availability="gated", counts={"train": 3}, results=(PublishedResult(**RESULT),))
    task = TaskSpec(plugin=plugin_spec(tiny_backbone()), about=about)
    (tmp_path / "task.json").write_text(json.dumps(task.to_dict()))
    assert read_task(tmp_path / "task.json") == task


def test_a_task_may_tell_nothing_of_its_data(tmp_path: Path) -> None:
    (tmp_path / "task.json").write_text(json.dumps({"plugin": plugin_spec(tiny_backbone()).to_dict()}))
    assert read_task(tmp_path / "task.json").about is None


@pytest.mark.parametrize(
    ("about", "said"),
    [
        ({"sauce": "x"}, "unknown field 'sauce'"),
        ({"results": [{**RESULT, "figures": "auc"}]}, "unknown field 'figures'"),
        ({"results": [{**RESULT, "value": 93.1}]}, "within 0 to 1, but is 93.1"),
        ({"results": [{**RESULT, "source": " "}]}, "needs its source"),
        ({"results": [{**RESULT, "figure": "f1"}]}, "must be one of auc, accuracy"),
        ({"availability": "free"}, "must be one of public, gated, private, unknown"),
        ({"counts": {"train": -1}}, "'train' must be a whole number"),
        ({"counts": {"train": "many"}}, "'train' must be a whole number"),
        ({"licence": ""}, "needs its licence"),
        ({"stand_in": ""}, "stand_in of a task is empty"),
    ],
)
def test_what_is_told_wrongly_of_a_task_is_refused(tmp_path: Path, about: Mapping[str, Any], said: str) -> None:
    content = {
        "plugin": plugin_spec(tiny_backbone()).to_dict(),
        "about": {"source": "a paper", "availability": "public", **about},
    }
    (tmp_path / "task.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=said):
        read_task(tmp_path / "task.json")


def test_a_changed_task_still_tells_of_its_data() -> None:
    task = read_task("NoduleMNIST3D")
    changed = changed_task(task, method=None, backbone=None, seed=3)
    assert changed.training.seed == 3 and changed.about == task.about


def test_the_sets_of_medmnist_are_tasks_by_their_own_names() -> None:
    assert set(medmnist_names()) == set(MEDMNIST) and set(MEDMNIST) <= set(NAMES)
    for name, classes in MEDMNIST.items():
        assert len(read_task(name).plugin.classes) == classes
        assert medmnist_channels(name) == (3 if name in COLOUR else 1)


def test_classes_are_in_the_order_of_the_labels_of_medmnist() -> None:
    def classes(name: str) -> list[str]:
        return [c.name for c in medmnist_task(name).plugin.classes]

    assert classes("BreastMNIST") == ["malignant", "normal, benign"]
    assert classes("NoduleMNIST3D") == ["benign", "malignant"]
    assert classes("OrganAMNIST")[:2] == ["bladder", "femur-left"]
    assert classes("OrganMNIST3D")[:2] == ["liver", "kidney-right"]


def test_a_set_with_left_and_right_organs_is_not_flipped() -> None:
    sided = [name for name in MEDMNIST if any("-left" in c.name for c in medmnist_task(name).plugin.classes)]
    assert len(sided) == 4
    assert all(medmnist_task(name).training.augmentation.flip == 0 for name in sided)
    assert medmnist_task("NoduleMNIST3D").training.augmentation.flip > 0


def test_a_task_file_comes_before_the_table_of_medmnist() -> None:
    for name in ("AdrenalMNIST3D", "PneumoniaMNIST"):
        content = json.loads(resource("Tasks", f"{name}.json").read_text(encoding="utf-8"))
        assert read_task(name).plugin == type(read_task(name).plugin).from_dict(content["plugin"])
        assert read_task(name) != medmnist_task(name)


def test_licences_are_those_of_the_sets() -> None:
    licences = {name: medmnist_task(name).about.licence for name in MEDMNIST}  # type: ignore[union-attr]
    assert licences.pop("DermaMNIST") == "CC BY-NC 4.0"
    assert set(licences.values()) == {"CC BY 4.0"}


def test_another_set_of_medmnist_is_refused_with_the_names_there_are() -> None:
    for asked in (medmnist_task, medmnist_channels):
        with pytest.raises(InputError, match=r"no set 'DragonMNIST': .*SynapseMNIST3D"):
            asked("DragonMNIST")


def test_the_table_of_medmnist_needs_the_standard_library_alone() -> None:
    assert packages_loaded_by("AnyMC3DLib.training.task", "AnyMC3DLib.training.medmnist") == {"AnyMC3DLib"}


def npz_of(name: str, place: Path) -> Path:
    """A file as MedMNIST lays it out, with a case of each class in each split."""
    random = np.random.default_rng(0)
    classes = MEDMNIST[name]
    shape = (28,) * (3 if name.endswith("3D") else 2) + ((3,) if name in COLOUR else ())
    arrays = {}
    for split in ("train", "val", "test"):
        labels = np.arange(2 * classes)[:, np.newaxis] % classes
        if name == "ChestMNIST":
            labels = (labels == np.arange(classes)).astype(np.uint8)
        arrays[f"{split}_images"] = random.integers(0, 256, (len(labels), *shape), dtype=np.uint8)
        arrays[f"{split}_labels"] = labels.astype(np.uint8)
    np.savez(place, **arrays)
    return place


@pytest.mark.parametrize("name", MEDMNIST)
def test_a_set_of_medmnist_becomes_a_table_that_suits_its_task(name: str, tmp_path: Path) -> None:
    npz = npz_of(name, tmp_path / f"{name.lower()}.npz")
    assert anymc3d("manifest", "make", "medmnist", npz, "--out", tmp_path / "files", "--task", name) == 0
    spec = read_task(name).plugin
    written, direct = read_cases(tmp_path / "files" / "manifest.csv", spec), read_cases(npz, spec)
    assert [(case.id, case.split) for case in written] == [(case.id, case.split) for case in direct]
    assert all(np.array_equal(one.target, other.target) for one, other in zip(written, direct, strict=True))
    one, other = (cases[0].load().images["image"].array for cases in (written, direct))
    np.testing.assert_array_equal(one, other)
    assert anymc3d("manifest", "check", tmp_path / "files" / "manifest.csv", "--task", name) == 0


def small(task: TaskSpec) -> TaskSpec:
    """The task with tiny slices and one epoch each; adapters where any kind of network has them."""
    few = SliceSpec(policy="at_most", count=2)
    views = tuple(
        dataclasses.replace(view, preprocessing=dataclasses.replace(view.preprocessing, size=(32, 32), slices=few))
        for view in task.plugin.views
    )
    plugin = dataclasses.replace(task.plugin, views=views, lora=LoRASpec())
    training = dataclasses.replace(task.training, epochs=1, warm_up_epochs=1)
    return dataclasses.replace(task, plugin=plugin, training=training)


# A set of colour pictures and one of volumes; the figures of many classes take long.
QUICK = ("RetinaMNIST", "NoduleMNIST3D")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in MEDMNIST]
)
def test_a_set_of_medmnist_is_trained_by_its_name(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The command still looks the name up; only the recipe that it finds is short.
    monkeypatch.setattr("AnyMC3DLib.commands.train.read_task", lambda asked: small(read_task(asked)))
    _, weights = findable_backbone(tmp_path)
    out = tmp_path / "plugin.safetensors"
    chosen = ("--backbone", "timm:test_vit", "--weights", weights, "--device", "cpu")
    npz = npz_of(name, tmp_path / "data.npz")
    assert anymc3d("train", "--task", name, "--data", npz, "--out", out, *chosen) == 0
    made = read_spec(out)
    assert [c.name for c in made.classes] == [c.name for c in read_task(name).plugin.classes]
    assert "about" not in made.to_dict()
