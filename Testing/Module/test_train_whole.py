"""Training through the panel with the real worker: from volumes in the scene to a plugin, also across two sessions."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import slicer
from hosting import MODULE, nothing_raised, start
from safetensors import safe_open
from worker_desk import spin, worker_python

CASES = 8


class Session:
    """The application from its start to its end, with the module's panel."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.ended = folder, False
        self._host = start()
        self._running = self._host.__enter__()
        self._running.load(MODULE)
        self.widget = self._running.show("AnyMC3D")
        self.research.dataset.ask.folder = lambda title: str(folder)
        self.research.dataset.ask.yes = lambda question: True

    @property
    def ui(self) -> Any:
        return self.widget.ui

    @property
    def research(self) -> Any:
        return self.widget.desk.research

    @property
    def state(self) -> str:
        return self.ui.trainStateLabel.text

    def collect(self) -> None:
        """A dataset of tiny volumes, every second one with a bright block."""
        self.ui.datasetNewButton.click()
        rng = np.random.default_rng(0)
        for number in range(CASES):
            array = rng.integers(0, 60, (4, 32, 32)).astype(np.int16)
            array[1:3, 8:24, 8:24] += 120 * (number % 2)
            node = slicer.util.addVolumeFromArray(array, name=f"volume {number}")
            self.ui.datasetVolumeSelector.setCurrentNode(node)
            self.ui.datasetLabelSelector.setCurrentIndex(1 + number % 2)
            self.ui.datasetAddButton.click()
            spin(lambda n=number: len(self.research.dataset.dataset) == n + 1 and self.ui.datasetAddButton.enabled)
        dataset = self.research.dataset.dataset
        for place, key in enumerate(dataset.keys):
            dataset.set_cell(key, "split", "val" if place >= CASES - 2 else "train")
        assert self.research.dataset.save()
        self.research.training.refresh()

    def choose(self) -> None:
        """A small plugin: seconds of work."""
        self.ui.trainNameEdit.setText("Block")
        self.ui.trainPresetSelector.setCurrentIndex(self.ui.trainPresetSelector.findText("as stored (0 to 255)"))
        self.ui.trainSizeSpin.setValue(32)
        self.ui.trainCountSpin.setValue(4)
        self.ui.trainEpochsSpin.setValue(4)
        assert self.ui.trainStartButton.enabled, self.ui.trainDatasetLabel.text

    def wait(self) -> None:
        spin(lambda: not self.research.training.busy)

    def runs(self) -> list[Path]:
        return sorted((self.folder / "runs").iterdir())

    def end(self) -> None:
        if not self.ended:
            self.ended = True
            self._host.__exit__(None, None, None)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setattr(sys, "executable", worker_python())
    monkeypatch.setattr("AnyMC3DUI.dependencies.Dependencies.missing", lambda self: ())
    (tmp_path / "dataset").mkdir()
    with nothing_raised():
        yield tmp_path / "dataset"


@pytest.fixture
def session(folder: Path) -> Iterator[Callable[[], Session]]:
    """Begins sessions; what still runs at the end is ended."""
    with contextlib.ExitStack() as stack:

        def begin() -> Session:
            made = Session(folder)
            stack.callback(made.end)
            return made

        yield begin


def tensors(path: Path) -> dict[str, Any]:
    with safe_open(str(path), framework="np") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def test_a_training_that_is_paused_goes_on_in_another_session_to_the_plugin_of_one_left_alone(
    folder: Path, session: Callable[[], Session]
) -> None:
    first = session()
    first.collect()
    first.choose()
    first.ui.trainStartButton.click()
    spin(lambda: first.state.startswith("Training, epoch 2"))
    first.ui.trainPauseButton.click()
    first.wait()
    (paused,) = first.runs()
    assert not (paused / "plugin.safetensors").exists()
    assert (paused / "state").is_dir()
    first.end()

    second = session()
    second.research.dataset.open(folder / "cases.csv")
    second.research.training.refresh()
    assert second.research.dataset.dataset.classes == ("no", "yes")
    assert second.ui.trainResumeButton.enabled
    second.ui.trainResumeButton.click()
    second.wait()
    assert "Finished" in second.state
    assert [card.name for card in second.widget.desk.panel.ticked] == ["Block"]

    second.choose()
    second.ui.trainStartButton.click()
    second.wait()
    assert "Finished" in second.state
    again, alone = (tensors(run / "plugin.safetensors") for run in second.runs())
    assert again.keys() == alone.keys()
    assert all(np.array_equal(again[name], alone[name]) for name in again)
    told = [json.loads((run / "metrics.json").read_text())["validation"]["classes"] for run in second.runs()]
    assert told[0] == told[1]
