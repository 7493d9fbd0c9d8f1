"""The Dataset tab for tests: over its widgets, with answers in the place of dialogs, and a worker's stand-in."""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import slicer
from hosting import REPOSITORY, Host, add_volume, host, qt  # noqa: F401
from worker_desk import spin

from AnyMC3DLib.training.dataset import Dataset

pytest.importorskip("SimpleITK")

SECRET = b"1" * 32
FORM = REPOSITORY / "Resources" / "UI" / "AnyMC3DDataset.ui"


class Answers:
    """Answers to the questions of the tab; what was asked is kept."""

    def __init__(self) -> None:
        self.path, self.words, self.agrees = "", None, True
        self.hides = False  # most tables of the tests have letters in the place of patients
        self.asked: list[str] = []

    def open_file(self, title: str, kinds: str) -> str:
        self.asked.append(title)
        return str(self.path)

    def save_file(self, title: str, name: str, kinds: str) -> str:
        self.asked.append(title)
        return str(self.path)

    def folder(self, title: str) -> str:
        self.asked.append(title)
        return str(self.path)

    def text(self, title: str, label: str, text: str = "") -> str | None:
        self.asked.append(title)
        return self.words

    def yes(self, question: str) -> bool:
        self.asked.append(question)
        return self.hides if question.startswith("The table names") else self.agrees


class Worker:
    """A worker's client whose answers the test gives."""

    def __init__(self) -> None:
        self.calls: list[Any] = []
        self.cancelled: list[Any] = []
        self.seen: list[str] = []

    def request(self, method: str, params: Any, *, done: Any, failed: Any, progress: Any = None) -> Any:
        call = types.SimpleNamespace(method=method, data=Path(params.data), done=done, failed=failed, progress=progress)
        self.seen.append(call.data.read_text(encoding="utf-8"))
        self.calls.append(call)
        return call

    def cancel(self, call: Any) -> None:
        self.cancelled.append(call)

    def answer(self, *problems: tuple[int, str]) -> None:
        from AnyMC3DLib.training.manifest_check import check_manifest

        report = check_manifest(self.calls[-1].data).to_dict()
        told = [{"line": line, "case": "", "kind": "image", "sentence": f"Line {line}: {text}"}
                for line, text in problems]  # fmt: skip
        self.calls[-1].done({**report, "problems": told})


@dataclasses.dataclass
class Tab:
    """The tab and what is behind it."""

    ui: Any
    panel: Any
    ask: Answers
    worker: Worker
    changes: list[Any]
    folder: Path

    @property
    def dataset(self) -> Dataset:
        return self.panel.dataset

    @property
    def state(self) -> str:
        return self.ui.datasetStateLabel.text

    @property
    def rows(self) -> list[list[str]]:
        """The shown texts."""
        model = self.ui.datasetTable.model()
        columns = len(self.dataset.columns)
        return [[model.index(row, column).data() for column in range(columns)] for row in range(model.rowCount())]

    def column(self, name: str) -> list[str]:
        number = self.dataset.columns.index(name)
        return [row[number] for row in self.rows]

    def index(self, row: int, name: str) -> Any:
        return self.ui.datasetTable.model().index(row, self.dataset.columns.index(name))

    def edit(self, row: int, name: str, text: str) -> None:
        """As an editor in the cell does."""
        self.ui.datasetTable.model().setData(self.index(row, name), text)

    def select(self, *rows: int) -> None:
        selection, model = self.ui.datasetTable.selectionModel(), self.ui.datasetTable.model()
        selection.clearSelection()
        for row in rows:
            how = qt.QItemSelectionModel.Select | qt.QItemSelectionModel.Rows
            selection.setCurrentIndex(model.index(row, 0), how)

    def menu(self, words: str) -> None:
        """Choose an entry of the context menu."""
        next(action for text, action in self.panel._menu.entries() if text == words)()

    def open(self, text: str, name: str = "cases.csv") -> Path:
        path = self.folder / name
        path.write_text(text, encoding="utf-8")
        self.ask.path = path
        self.ui.datasetOpenButton.click()
        return path

    def label(self, words: str) -> None:
        box = self.ui.datasetLabelSelector
        box.setCurrentIndex(box.findText(words))

    def add(self, volume: Any, words: str = "yes") -> None:
        """Add the volume with that label, and wait."""
        self.ui.datasetVolumeSelector.setCurrentNode(volume)
        self.label(words)
        self.ui.datasetAddButton.click()
        spin(lambda: self.ui.datasetNewButton.enabled)


FIVE = """case,patient,image,label,split
case-002,b,two.nrrd,yes,train
case-001,a,one.nrrd,no,val
case-010,c,ten.nrrd,yes,
case-003,d,three.nrrd,no,test
case-004,e,four.nrrd,no,
"""
MANY = "case,patient,image,label\n" + "".join(
    f"case-{n:03d},p{n // 2},{n}.nrrd,{'yes' if n % 4 < 2 else 'no'}\n" for n in range(80)
)


@pytest.fixture
def tab(host: Host, tmp_path: Path) -> Iterator[Tab]:  # noqa: F811
    """The tab without a dataset."""
    from AnyMC3DUI.dataset_panel import DatasetPanel

    form = slicer.util.loadUI(str(FORM))
    host.window.panel.setWidget(form)
    form.setMRMLScene(slicer.mrmlScene)
    ui = slicer.util.childWidgetVariables(form)
    ask, worker, changes = Answers(), Worker(), []
    panel = DatasetPanel(
        ui, scene=slicer.mrmlScene, client=worker, key=SECRET, ask=ask, changed=lambda: changes.append(1)
    )
    yield Tab(ui, panel, ask, worker, changes, tmp_path)
    panel.close()


@pytest.fixture
def new(tab: Tab) -> Tab:
    """The tab with a new dataset."""
    tab.ask.path = tab.folder
    tab.ui.datasetNewButton.click()
    return tab
