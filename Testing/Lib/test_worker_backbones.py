"""The worker's backbone in memory serves a job while it is what the job asks for, and no longer."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from networks import plugin_spec, view, write_plugin
from shell import findable_backbone, write_medmnist
from stored import dinov2_folder
from test_plugin import change_spec

from AnyMC3DLib import worker_training
from AnyMC3DLib.backbone import Backbone
from AnyMC3DLib.backbone_import import import_backbone
from AnyMC3DLib.control import Control
from AnyMC3DLib.messages import METHODS
from AnyMC3DLib.opening import open_backbone
from AnyMC3DLib.plugin import read_spec
from AnyMC3DLib.progress import Progress
from AnyMC3DLib.training import metrics
from AnyMC3DLib.worker_jobs import Jobs
from AnyMC3DLib.workspace import Workspace

SIZE = (28, 28)


class Ignored:
    """Notes that nobody reads."""

    def __call__(self, progress: Progress) -> None:
        pass

    def epoch(self, **facts: Any) -> None:
        pass


class Desk:
    """Jobs of a worker in this process, with a folder and few cases to train on."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.jobs = folder, Jobs(Workspace(folder))
        self.data = write_medmnist(folder / "blobs.npz")

    def ask(self, job: str, **params: Any) -> dict[str, Any]:
        read = METHODS[job].from_dict(json.loads(json.dumps(params, default=str)))
        return self.jobs.run(read, Control(), Ignored())

    def digest_after_training(self, backbone: Backbone, *, size: tuple[int, int] = SIZE, **params: Any) -> str:
        """Of the backbone, by its id, that a training now takes."""
        spec = plugin_spec(backbone, views=(view(backbone, size=size),)).to_dict()
        spec["backbone"] = {"id": backbone.id}
        task = {"plugin": spec, "training": {"epochs": 1, "warm_up_epochs": 0, "batch": 4}}
        out = self.folder / "trained.safetensors"
        self.ask("train", task=task, data=self.data, out=out, device="cpu", **params)
        return read_spec(out).backbone.digest


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Desk:
    monkeypatch.setenv("ANYMC3D_BACKBONES", str(tmp_path / "store"))
    monkeypatch.setattr(metrics, "RESAMPLES", 20)
    monkeypatch.setattr(worker_training, "keep_freed_memory", lambda: True)
    return Desk(tmp_path)


@pytest.mark.parametrize("has_plugin", [True, False], ids=["with a plugin", "without a plugin"])
def test_a_backbone_that_was_imported_anew_is_opened_anew(desk: Desk, tmp_path: Path, has_plugin: bool) -> None:
    first = import_backbone(dinov2_folder(tmp_path / "first"), id="mine")
    backbone = open_backbone("mine")
    plugin = write_plugin(tmp_path / "plugin", backbone, views=(view(backbone, size=SIZE),))
    desk.ask("load", path=plugin, device="cpu")
    if not has_plugin:
        desk.ask("unload", name="Test")
    assert desk.digest_after_training(backbone) == first.digest
    second = import_backbone(dinov2_folder(tmp_path / "second", seed=1), id="mine", overwrite=True)
    assert desk.digest_after_training(backbone) == second.digest != first.digest


def test_a_plugin_of_weights_that_were_imported_anew_is_loaded_on_them(desk: Desk, tmp_path: Path) -> None:
    plugins = []
    for seed in (0, 1):
        import_backbone(dinov2_folder(tmp_path / str(seed), seed=seed), id="mine", overwrite=True)
        backbone = open_backbone("mine")
        file = write_plugin(tmp_path / f"plugin-{seed}", backbone, name=f"P{seed}", views=(view(backbone, size=SIZE),))
        plugins.append(desk.ask("load", path=file, device="cpu"))
    assert plugins[1]["unloaded"] == ["P0"]
    assert plugins[0]["backbone_digest"] != plugins[1]["backbone_digest"]


def test_a_file_of_weights_that_was_replaced_is_read_anew(desk: Desk, tmp_path: Path) -> None:
    backbone, weights = findable_backbone(tmp_path)
    assert desk.digest_after_training(backbone, size=(32, 32), weights=weights) == backbone.digest
    other, replacement = findable_backbone(tmp_path, seed=1)
    shutil.move(replacement, weights)
    assert desk.digest_after_training(backbone, size=(32, 32), weights=weights) == other.digest


def test_plugins_of_the_same_weights_share_the_backbone_whatever_it_is_called(desk: Desk, tmp_path: Path) -> None:
    import_backbone(dinov2_folder(tmp_path / "first"), id="mine")
    backbone = open_backbone("mine")
    backbone.id = "of another hospital"
    for name in ("A", "B"):
        write_plugin(tmp_path / name, backbone, name=name, views=(view(backbone, size=SIZE),))
    answers = [desk.ask("load", path=tmp_path / name, device="cpu") for name in ("A", "B")]
    assert [(answer["backbone"], answer["unloaded"]) for answer in answers] == [("mine", []), ("mine", [])]
    engine = desk.jobs._classifier
    assert set(engine.plugins) == {"A", "B"}


def test_a_plugin_of_another_format_of_the_same_weights_gets_a_network_of_its_own(desk: Desk, tmp_path: Path) -> None:
    import_backbone(dinov2_folder(tmp_path / "first"), id="mine")
    backbone = open_backbone("mine")
    for name in ("A", "B"):
        write_plugin(tmp_path / name, backbone, name=name, views=(view(backbone, size=(42, 28)),))

    def shifted(data: dict[str, Any]) -> None:
        data["backbone"]["architecture"]["positions"]["offset"] = 0.1

    change_spec(tmp_path / "B", shifted)
    desk.ask("load", path=tmp_path / "A", device="cpu")
    assert desk.ask("load", path=tmp_path / "B", device="cpu")["unloaded"] == ["A"]
    engine = desk.jobs._classifier
    assert engine.backbone.architecture.positions.offset == 0.1
    # A training by that name wants the network that is installed.
    assert desk.digest_after_training(backbone) == backbone.digest
    assert read_spec(tmp_path / "trained.safetensors").backbone.architecture.positions.offset == 0.0
