"""The Dataset tab: a table of labelled cases that is made, opened, checked, completed from the scene, and split."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import qt
import slicer
from slicer.i18n import tr as _

from AnyMC3DLib.errors import AnyMC3DError, InputError

from . import case_loader
from .dataset_add_form import AddForm
from .dataset_check import Checking, Client
from .dataset_classes import ClassesForm
from .dataset_menu import RowMenu
from .dataset_room import STEPS, Asker
from .dataset_splits import SplitForm
from .dataset_table import CaseTable
from .dicom_series import PATIENT, hidden, hide_patients, named_patients

if TYPE_CHECKING:
    from AnyMC3DLib.training.dataset import Dataset

TABLE = "cases.csv"
ENDINGS = (".csv", ".tsv", ".txt")
MANY = 5  # cases at once: more may not fit into memory


def in_a_sentence(method: Callable[..., Any]) -> Callable[..., Any]:
    """What goes wrong is told in the tab."""

    @functools.wraps(method)
    def call(self: DatasetPanel, *arguments: Any) -> Any:
        try:
            return method(self, *arguments)
        except AnyMC3DError as error:
            self.tell(str(error))
        except OSError as error:
            self.tell(_("The file cannot be used: {reason}.").format(reason=error.strerror or error))
        return None

    return call


class DatasetPanel:
    """Connects the tab's widgets to a dataset; `key` is for pseudonyms, and `changed` hears of every change.

    It is the `dataset_room.Room` of its sections and the `dataset_table.Listener` of its table.
    """

    def __init__(
        self,
        ui: Any,
        *,
        scene: slicer.vtkMRMLScene,
        client: Client,
        key: bytes,
        ask: Asker,
        changed: Callable[[], None] = lambda: None,
    ) -> None:
        self._ui, self._scene, self._key = ui, scene, key
        self._changed: Callable[[], None] = lambda: None
        self.ask = ask
        self.dataset: Dataset | None = None
        self._said = ""
        for label in (ui.datasetPathLabel, ui.datasetStateLabel):
            label.setTextFormat(qt.Qt.PlainText)
        self.table = CaseTable(ui.datasetTable, self)
        self._classes, self._splits = ClassesForm(ui, self), SplitForm(ui, self)
        self._add = AddForm(ui, self, secret=key)
        self._check = Checking(self, client, ended=self._check_ended)
        self._menu = RowMenu(ui.datasetTable, self, load=self._load_all, remove=self._remove)
        self._connect()
        self._show(None)
        # Only now: whoever listens may ask for this panel, which is not there before.
        self._changed = changed

    def _connect(self) -> None:
        ui = self._ui
        for button, method in (
            (ui.datasetNewButton, self._new),
            (ui.datasetOpenButton, self._open_chosen),
            (ui.datasetSaveButton, self._save),
            (ui.datasetSaveAsButton, self._save_as),
            (ui.datasetLoadButton, self._load_chosen),
            (ui.datasetRemoveButton, self._remove_chosen),
            (ui.datasetCheckButton, self._check_or_cancel),
        ):
            button.connect("clicked()", method)
        ui.datasetFilterEdit.connect("textChanged(QString)", self.table.filter)

    @property
    def path(self) -> Path | None:
        """The file of the table that is open."""
        return self.dataset.path if self.dataset is not None else None

    def open(self, path: str | Path) -> None:
        """Open a table; raises InputError where it is none, and leaves all as it was."""
        from AnyMC3DLib.training.dataset import Dataset

        self._show(Dataset.open(path))

    def save(self) -> bool:
        """Have the table lie in its file as it is shown; whether it does."""
        if self.dataset is not None and (self.path is None or self.dataset.modified):
            self._save()
        return self.dataset is not None and self.path is not None and not self.dataset.modified

    def load_case(self, key: int) -> list[slicer.vtkMRMLNode]:
        """Load a case into the scene and show it; its volumes and segmentations.

        Raises InputError where it cannot be: the caller may be another tab, and says so there.
        """
        if self.dataset is None:
            raise InputError(_("No dataset is open: begin one, or open one."))
        nodes = self._loaded(key)
        case_loader.show(nodes)
        return nodes

    def may_leave(self) -> bool:
        """Whether the dataset may be left as it is: a person is asked about what would be lost."""
        lost = []
        if self._add.runs:
            lost.append(_("Cases are still being stored."))
        if self.dataset is not None and self.dataset.modified:
            lost.append(_("The dataset has changes that are not saved."))
        return not lost or self.ask.yes(" ".join([*lost, _("Leave it without them?")]))

    def close(self) -> None:
        """End what goes on."""
        self._check.drop()
        self._add.close()
        self._splits.close()

    # as the room of the sections

    def tell(self, sentence: str) -> None:
        """As `Room.tell`."""
        self._said = sentence
        self._ui.datasetStateLabel.text = sentence

    def modified(self, *, columns: bool = False) -> None:
        """As `Room.modified`."""
        if columns:
            self.table.show(self.dataset)
            self._add.show()
        self._show_title()
        self._splits.update_soon()
        self._changed()

    def progress(self, far: float | None) -> None:
        """As `Room.progress`."""
        self._ui.datasetProgressBar.setMaximum(0 if far == 1.0 else STEPS)
        self._ui.datasetProgressBar.setValue(round(STEPS * (far or 0)))

    def busy(self, on: bool) -> None:
        """As `Room.busy`."""
        for button in (self._ui.datasetNewButton, self._ui.datasetOpenButton):
            button.setEnabled(not on)

    # as the listener of the table

    def typed(self, column: str, text: str) -> tuple[str, str]:
        """As `Listener.typed`: a name of a patient does not get into the table."""
        held = hidden(text, secret=self._key) if column == PATIENT else text
        sentence = _("A table holds no names of patients: what was typed became the pseudonym {pseudonym}.")
        return held, sentence.format(pseudonym=held) if held.strip() != text.strip() else ""

    def edited(self, sentence: str = "") -> None:
        """As `Listener.edited`."""
        self.tell(sentence)
        self.modified()

    def refused(self, sentence: str) -> None:
        """As `Listener.refused`."""
        self.tell(sentence)

    def chosen(self, key: int | None) -> None:
        """As `Listener.chosen`."""
        problems = self.table.problems_of(key)
        told = [f"{self.dataset.cell(key, 'case')}: {problem}" for problem in problems]
        self._ui.datasetStateLabel.text = "\n".join(told) if told else self._said
        self._add.update()
        self._update_buttons()

    def opened(self, key: int) -> None:
        """As `Listener.opened`."""
        self._load_all([key])

    # files

    @in_a_sentence
    def _new(self) -> None:
        from AnyMC3DLib.training.dataset import Dataset

        if not self.may_leave():
            return
        folder = self.ask.folder(_("A folder for the new dataset"))
        if not folder:
            return
        path = Path(folder) / TABLE
        if path.exists():
            raise InputError(_("There is a dataset in that folder already: open it, or choose another folder."))
        dataset = Dataset()
        dataset.save(path)
        self._show(dataset)

    @in_a_sentence
    def _open_chosen(self) -> None:
        if not self.may_leave():
            return
        kinds = _("Tables of cases")
        path = self.ask.open_file(_("Open a dataset"), f"{kinds} (*.csv *.tsv *.txt *.json *.jsonl *.ndjson)")
        if path:
            self.open(path)
            self._offer_pseudonyms()

    def _offer_pseudonyms(self) -> None:
        count = len(named_patients(self.dataset))
        words = (
            _("The table names 1 patient. Replace the name by a pseudonym?")
            if count == 1
            else _("The table names {count} patients. Replace the names by pseudonyms?").format(count=count)
        )
        if count and self.ask.yes(words):
            hide_patients(self.dataset, secret=self._key)
            self.table.refresh(self.dataset.keys, [PATIENT])
            self.modified()

    @in_a_sentence
    def _save(self) -> None:
        if self.path is None:
            self._save_as()
        else:
            self._save_to(self.path)

    @in_a_sentence
    def _save_as(self) -> None:
        kinds = _("Tables of cases")
        answer = self.ask.save_file(_("Save the dataset"), str(self.path or TABLE), f"{kinds} (*.csv)")
        if not answer:
            return
        path = Path(answer)
        if path.suffix.lower() not in ENDINGS:
            path = Path(f"{answer}{ENDINGS[0]}")
            # The dialog has asked about the name without the ending alone.
            question = _("There is a file '{name}' already. Overwrite it?").format(name=path.name)
            if path.exists() and path != self.path and not self.ask.yes(question):
                return
        self._save_to(path)

    def _save_to(self, path: Path) -> None:
        self.dataset.save(path)
        self.table.refresh(self.dataset.keys)  # whose paths may be told otherwise now
        self.modified()
        self.tell(_("Saved."))

    def _show(self, dataset: Dataset | None) -> None:
        self._check.drop()
        self.dataset = dataset
        self.table.show(dataset)
        self._classes.show()
        self._add.show()
        self.tell("")
        self.modified()

    def _show_title(self) -> None:
        self._update_buttons()
        self._ui.datasetPathLabel.text = self._title()
        self._ui.datasetPathLabel.toolTip = str(self.path or "")

    def _title(self) -> str:
        if self.dataset is None:
            return _("No dataset is open.")
        count = len(self.dataset)
        cases = _("1 case") if count == 1 else _("{count} cases").format(count=count)
        name = f"{self.path.parent.name}/{self.path.name}" if self.path is not None else _("A new table")
        parts = [f"{name}: {cases}", *([_("not saved")] if self.dataset.modified else [])]
        return ", ".join(parts)

    def _update_buttons(self) -> None:
        ui, there = self._ui, self.dataset is not None
        some = there and bool(self.table.selected)
        ui.datasetSaveButton.setEnabled(there and self.dataset.modified)
        for button in (ui.datasetSaveAsButton, ui.datasetCheckButton):
            button.setEnabled(there)
        for widget in (
            ui.datasetAddClassButton,
            ui.datasetRemoveClassButton,
            ui.datasetClassUpButton,
            ui.datasetTaskTypeSelector,
        ):
            widget.setEnabled(there)
        for button in (ui.datasetLoadButton, ui.datasetRemoveButton):
            button.setEnabled(some)

    # rows

    def _load_chosen(self) -> None:
        self._load_all(self.table.selected)

    @in_a_sentence
    def _load_all(self, keys: Sequence[int]) -> None:
        question = _("Load {count} cases into the scene at once?").format(count=len(keys))
        if len(keys) > MANY and not self.ask.yes(question):
            return
        nodes: list[slicer.vtkMRMLNode] = []
        try:
            for key in keys:
                nodes += self._loaded(key)
        finally:
            case_loader.show(nodes)

    def _loaded(self, key: int) -> list[slicer.vtkMRMLNode]:
        slicer.app.setOverrideCursor(qt.Qt.WaitCursor)
        try:
            return case_loader.load_case(self._scene, self.dataset, key)
        finally:
            slicer.app.restoreOverrideCursor()

    def _remove_chosen(self) -> None:
        self._remove(self.table.selected)

    @in_a_sentence
    def _remove(self, keys: Sequence[int]) -> None:
        count = len(keys)
        many = _("Take {count} rows out of the table? Their files stay.").format(count=count)
        if keys and self.ask.yes(_("Take the row out of the table? Its files stay.") if count == 1 else many):
            self.dataset.remove(keys)
            self.table.remove(keys)
            self.modified()

    # the check

    @in_a_sentence
    def _check_or_cancel(self) -> None:
        if self._check.runs:
            self._check.cancel()
        elif self.dataset is not None:
            self._check.begin(self.dataset)
            self._ui.datasetCheckButton.text = _("Cancel")

    def _check_ended(self) -> None:
        self._ui.datasetCheckButton.text = _("Check")
