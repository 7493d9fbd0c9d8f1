"""The Plugins tab's Evaluate section: a plugin, perhaps another one, measured on a table of cases."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import qt
import slicer
from slicer.i18n import tr as _

from AnyMC3DLib.errors import AnyMC3DError

from .evaluate_charts import EvaluationCharts
from .evaluate_rows import WrongCase, figure_table, wrong_cases
from .evaluate_session import EvaluateSession, in_order, splits_of_file
from .evaluate_view import fill_figures, fill_wrong, set_up_table
from .plugin_folder import PluginCard, PluginFolder
from .session import Doing
from .worker_client import WorkerClient

STEPS = 1000  # of the progress bar
UNSEEN = "test"
TABLES = "*.csv *.tsv *.txt *.json *.jsonl *.ndjson *.npz"


class Ask(Protocol):
    """The question that the panel asks a person; whoever leaves it gives an empty answer."""

    def open_file(self, title: str, kinds: str) -> str: ...


class Dataset(Protocol):
    """What the panel needs of the table of the Dataset tab."""

    path: Path | None
    modified: bool

    def counts(self) -> Mapping[str, Mapping[str, int]]: ...


@dataclasses.dataclass(frozen=True)
class Measured:
    """What was asked, and from `answer` on what came of it; `file` is the table, whichever of the two tabs has it."""

    card: PluginCard
    split: str
    table: str
    file: Path
    answer: Mapping[str, Any] | None = None

    @property
    def title(self) -> str:
        """In words."""
        words = _("{plugin} on {split} of {table}")
        return words.format(plugin=self.card.name, split=self.split, table=self.table)


class EvaluatePanel:
    """Connects the widgets of the section to the roles; as a session's listener it shows what becomes of the work.

    `save_dataset` has the table of the Dataset tab written, and says whether it was. `load_case` shows the images of
    one of its cases, `show_case` also the heat of a plugin's class.
    """

    def __init__(
        self,
        ui: Any,
        *,
        scene: slicer.vtkMRMLScene,
        folder: PluginFolder,
        client: WorkerClient,
        device: Callable[[], str],
        dataset: Callable[[], Dataset | None],
        save_dataset: Callable[[], bool],
        ask: Ask,
        load_case: Callable[[str], None],
        show_case: Callable[[str, PluginCard, str], None],
    ) -> None:
        self._ui, self._folder, self._device, self._ask = ui, folder, device, ask
        self._dataset, self._save_dataset = dataset, save_dataset
        self._load_case, self._show_case = load_case, show_case
        self._session = EvaluateSession(client, self)
        self._charts = EvaluationCharts(scene)
        self._file: Path | None = None
        self._asked: Measured | None = None
        self._measured: Measured | None = None
        self._wrong: list[WrongCase] = []
        self._filling = False
        self._make_menu()
        set_up_table(ui.evaluateFiguresTable)
        set_up_table(ui.evaluateWrongTable)
        ui.evaluatePluginSelector.connect("currentIndexChanged(int)", self._plugin_chosen)
        ui.evaluateSplitSelector.connect("currentIndexChanged(int)", self._split_chosen)
        ui.evaluateButton.connect("clicked()", self.evaluate)
        ui.evaluateCancelButton.connect("clicked()", self.cancel)
        ui.evaluateChartButton.connect("clicked()", self._show_chart)
        ui.evaluateWrongTable.connect("cellDoubleClicked(int,int)", self._wrong_chosen)
        self._show_answer()
        self.refresh()

    @property
    def busy(self) -> bool:
        """Whether a plugin is being measured."""
        return self._session.busy

    def refresh(self) -> None:
        """Offer the plugins of the folder, and the splits of the table, as they are now."""
        self._filling = True
        _fill(self._ui.evaluatePluginSelector, [(card.name, str(card.path)) for card in self._folder.cards])
        splits = self._splits()
        _fill(self._ui.evaluateSplitSelector, [(split, split) for split in splits])
        self._ui.evaluateTableLabel.text = self._ui.evaluateTableLabel.toolTip = self._table_text(splits)
        self._filling = False
        self._plugin_chosen()

    def cancel(self) -> None:
        """End the measurement."""
        self._session.cancel()

    def close(self) -> None:
        """End the measurement without a word."""
        self._session.close()

    def scene_closes(self) -> None:
        """Nothing ends: the measurement reads files alone, and a chart that went is made anew when it is asked for."""

    # what a person does

    def evaluate(self) -> None:
        """Begin, or say in one sentence why not."""
        card, against = self._card(self._ui.evaluatePluginSelector), self._card(self._ui.evaluateAgainstSelector)
        split = _chosen(self._ui.evaluateSplitSelector)
        try:
            place = self._file or self._saved()
            if place is None:
                self._tell(_("The table of the Dataset tab was not saved: save it, or choose a file."))
                return
            other = None if against is None else against.path
            self._session.evaluate(card.path, place, splits=[split], against=other, device=self._device())
            self._asked = Measured(card, split, place.name, place)
        except AnyMC3DError as error:
            self._tell(str(error))
        self._update()

    def choose_table(self) -> None:
        """Measure on the cases of another table than that of the Dataset tab."""
        place = self._ask.open_file(_("Choose a table of cases"), f"{_('Tables of cases')} ({TABLES})")
        if not place:
            return
        try:
            splits_of_file(Path(place))
        except AnyMC3DError as error:
            self._tell(str(error))
            return
        self._file = Path(place)
        self.refresh()

    def choose_dataset(self) -> None:
        """Measure on the cases of the Dataset tab."""
        self._file = None
        self.refresh()

    # what the session tells

    def progressed(self, doing: Doing) -> None:
        """As `evaluate_session.Listener`."""
        # A bar without an end says that something goes on where no count is known.
        self._ui.evaluateProgressBar.setMaximum(STEPS if doing.fraction is not None else 0)
        self._ui.evaluateProgressBar.setValue(round(STEPS * (doing.fraction or 0)))
        self._tell(doing.words)

    def finished(self, answer: Mapping[str, Any]) -> None:
        """As `evaluate_session.Listener`."""
        self._measured = dataclasses.replace(self._asked, answer=answer)
        self._show_answer()
        words = _("{title}: {cases} cases, {wrong} with a wrong answer.")
        told = words.format(title=self._measured.title, cases=answer["cases"], wrong=len(self._wrong))
        self._end(" ".join([told, *answer["results"]["notes"]]))

    def failed(self, sentence: str) -> None:
        """As `evaluate_session.Listener`."""
        self._end(sentence)

    def cancelled(self) -> None:
        """As `evaluate_session.Listener`."""
        self._end(_("Cancelled."))

    def _end(self, sentence: str) -> None:
        self._asked = None
        self._ui.evaluateProgressBar.setMaximum(STEPS)
        self._ui.evaluateProgressBar.setValue(0)
        self._tell(sentence)
        self._update()

    # what is chosen

    def _make_menu(self) -> None:
        menu = qt.QMenu(self._ui.evaluateTableButton)
        menu.addAction(_("Cases of the Dataset tab")).connect("triggered()", self.choose_dataset)
        menu.addAction(_("Another table…")).connect("triggered()", self.choose_table)
        self._ui.evaluateTableButton.setMenu(menu)

    def _splits(self) -> list[str]:
        if self._file is not None:
            try:
                return splits_of_file(self._file)
            except AnyMC3DError as error:
                self._tell(str(error))
                return []
        dataset = self._dataset()
        counts = dataset.counts() if dataset is not None else {}
        return in_order(split for split, by_class in counts.items() if any(by_class.values()))

    def _table_text(self, splits: Sequence[str]) -> str:
        if self._file is None and self._dataset() is None:
            return _("No cases: fill the Dataset tab, or choose a table.")
        place = self._file or self._dataset().path
        name = place.name if place is not None else _("The Dataset tab's table, not saved yet")
        return name if splits else _("{table}: no case has a split.").format(table=name)

    def _card(self, box: qt.QComboBox) -> PluginCard | None:
        path = _chosen(box)
        return next((card for card in self._folder.cards if str(card.path) == path), None)

    def _saved(self) -> Path | None:
        """The file of the Dataset tab's table, once what is shown there is in it."""
        dataset = self._dataset()
        if dataset is not None and (dataset.modified or dataset.path is None) and not self._save_dataset():
            return None
        return dataset.path if dataset is not None else None

    def _plugin_chosen(self, _index: int = 0) -> None:
        if self._filling:
            return
        card = self._card(self._ui.evaluatePluginSelector)
        # Figures of plugins that answer other questions cannot be compared.
        others = [one for one in self._folder.cards if card and one.path != card.path and one.classes == card.classes]
        none = [(_("nothing"), "")]
        _fill(self._ui.evaluateAgainstSelector, none + [(one.name, str(one.path)) for one in others])
        self._split_chosen()

    def _split_chosen(self, _index: int = 0) -> None:
        if self._filling:
            return
        split = _chosen(self._ui.evaluateSplitSelector)
        self._ui.evaluateWarningLabel.text = _("The plugin may have been trained on these.")
        self._ui.evaluateWarningLabel.setVisible(bool(split) and split != UNSEEN)
        self._update()

    def _update(self) -> None:
        free = not self.busy
        for box in ("Plugin", "Against", "Split"):
            getattr(self._ui, f"evaluate{box}Selector").setEnabled(free)
        self._ui.evaluateTableButton.setEnabled(free)
        ready = self._card(self._ui.evaluatePluginSelector) is not None and _chosen(self._ui.evaluateSplitSelector)
        self._ui.evaluateButton.setEnabled(free and bool(ready))
        self._ui.evaluateCancelButton.setEnabled(not free)

    def _tell(self, sentence: str) -> None:
        self._ui.evaluateStateLabel.text = sentence

    # what came of it

    def _show_answer(self) -> None:
        """Show the latest figures, or nothing before there are any."""
        answer = self._measured.answer if self._measured else None
        self._wrong = wrong_cases(answer) if answer else []
        kinds = EvaluationCharts.kinds(answer)
        _fill(self._ui.evaluateChartSelector, [(name, kind) for kind, name in kinds.items()])
        self._ui.evaluateChartButton.setEnabled(answer is not None)
        for widget in ("FiguresTable", "ChartSelector", "ChartButton"):
            getattr(self._ui, f"evaluate{widget}").setVisible(answer is not None)
        for widget in (self._ui.evaluateWrongLabel, self._ui.evaluateWrongTable):
            widget.setVisible(bool(self._wrong))
        if answer is not None:
            fill_figures(self._ui.evaluateFiguresTable, figure_table(answer))
            self._ui.evaluateFiguresTable.toolTip = answer["results"]["methods"]["interval"]
            fill_wrong(self._ui.evaluateWrongTable, self._wrong)

    def _show_chart(self) -> None:
        measured, kind = self._measured, _chosen(self._ui.evaluateChartSelector)
        trouble = self._charts.show(kind, measured.answer, measured.title)
        if trouble:
            self._tell(trouble)

    def _wrong_chosen(self, row: int, _column: int) -> None:
        measured, wrong = self._measured, self._wrong[row]
        if measured.file != self._dataset_path():
            words = _("Open {table} in the Dataset tab: its cases can be loaded from there.")
            self._tell(words.format(table=measured.table))
            return
        installed = next((card for card in self._folder.cards if card.path == measured.card.path), None)
        try:
            if installed is None:
                self._load_case(wrong.case)
            else:
                self._show_case(wrong.case, installed, wrong.class_name)
        except AnyMC3DError as error:
            self._tell(str(error))

    def _dataset_path(self) -> Path | None:
        dataset = self._dataset()
        return dataset.path if dataset is not None else None


def _fill(box: qt.QComboBox, entries: Sequence[tuple[str, str]]) -> None:
    """Have the box offer these, by text and value; what is chosen stays where it is among them."""
    before = _chosen(box)
    box.blockSignals(True)
    box.clear()
    for text, value in entries:
        box.addItem(text, value)
    box.setCurrentIndex(max(0, box.findData(before)) if entries else -1)
    box.blockSignals(False)


def _chosen(box: qt.QComboBox) -> str:
    return (box.itemData(box.currentIndex) or "") if box.count else ""
