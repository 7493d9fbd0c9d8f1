"""The Classify section: plugins and their cards, volumes, regions, device, Classify and Cancel, progress, log."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

import qt
import slicer
from slicer.i18n import tr as _

from AnyMC3DLib.errors import AnyMC3DError, InputError

from .card_text import card_text, damaged_text, entry_text
from .devices import AUTOMATIC, UNKNOWN, DeviceChoice
from .dialogs import Dialogs
from .open_volume import OpenVolumeWatch
from .parameters import AnyMC3DParameters
from .plugin_folder import ENDING, DamagedFile, PluginCard, PluginFolder
from .session import Doing, State, Ticked
from .study import Study
from .study_rows import StudyRows
from .volume_choice import choose, heatmaps

STEPS = 1000  # of the progress bar
PATH_ROLE = qt.Qt.UserRole

Predictions = Mapping[str, Mapping[str, Any]]
Found = Callable[[Study, Predictions, tuple[PluginCard, ...]], None]


class Session(Protocol):
    """What the panel needs of a session."""

    device: str
    busy: bool

    def classify(self, ticked: list[Ticked]) -> None: ...

    def cancel(self) -> None: ...


class ClassifyPanel:
    """Connects the widgets of the section to the roles; as a session's listener it shows what becomes of the work.

    `found` is told the answers, with the study as it was when Classify was clicked.
    """

    def __init__(
        self, ui: Any, *, scene: slicer.vtkMRMLScene, folder: PluginFolder, parameters: AnyMC3DParameters, found: Found
    ) -> None:
        self._ui, self._scene, self._folder, self._found = ui, scene, folder, found
        self._parameters = parameters
        self._open = OpenVolumeWatch(scene, self.prefill)
        self._session: Session | None = None
        self._asked: tuple[Study, tuple[PluginCard, ...]] | None = None
        self._filling = self._waiting = False
        self._told: tuple[Any, ...] | None = None
        self._rows = StudyRows(ui.studyArea.layout(), scene, changed=self._study_changed)
        self._make_menu()
        ui.pluginFilterEdit.connect("textChanged(QString)", self._filter_changed)
        ui.anatomyFilterSelector.connect("currentIndexChanged(int)", self._filter_changed)
        ui.modalityFilterSelector.connect("currentIndexChanged(int)", self._filter_changed)
        ui.pluginList.connect("itemChanged(QListWidgetItem*)", self._ticked_changed)
        ui.pluginList.connect("currentRowChanged(int)", self._row_chosen)
        ui.deviceSelector.connect("currentIndexChanged(int)", self._device_chosen)
        ui.classifyButton.connect("clicked()", self.classify)
        ui.cancelButton.connect("clicked()", self.cancel)
        self.set_devices(UNKNOWN)
        self.refresh()

    def attach(self, session: Session) -> None:
        """Use this session, whose listener the panel is."""
        self._session = session
        session.device = self._parameters.device
        self._update_state()

    # what is shown

    def use(self, parameters: AnyMC3DParameters) -> None:
        """Show the settings of another parameter node, as after a scene was loaded or closed."""
        self._parameters, self._waiting = parameters, False
        self._rows.keep(self._saved_by_hand())
        self.refresh()
        self._show_device()

    def wait_for_scene(self) -> None:
        """Keep nothing of what the selectors show until `use` is called, nor of the study that was asked about."""
        self._waiting, self._asked = True, None

    def refresh(self) -> None:
        """Read the plugin folder again, and fill list and filters."""
        self._folder.refresh()
        self._filling = True
        for box, words, values in (
            (self._ui.anatomyFilterSelector, _("Any anatomy"), self._folder.anatomies),
            (self._ui.modalityFilterSelector, _("Any modality"), self._folder.modalities),
        ):
            before = box.currentText
            box.clear()
            box.addItems([words, *values])
            box.setCurrentIndex(max(0, box.findText(before)))
        self._filling = False
        self._fill_list()

    def prefill(self) -> None:
        """Choose the open volume, and by their names those of plugins that need several; a person's choice stays."""
        if self._waiting or (self._session is not None and self._session.busy):
            return
        self._rows.hide(heatmaps(self._scene))
        self._rows.show(choose(self._rows.sources, self._scene, chosen=self._rows.chosen), {}, {})
        self._study_changed()

    def set_devices(self, choices: Iterable[DeviceChoice]) -> None:
        """What can be computed on, as it was found."""
        self._filling = True
        self._ui.deviceSelector.clear()
        for choice in choices:
            self._ui.deviceSelector.addItem(choice.text, choice.value)
        self._filling = False
        self._show_device()

    def log(self, text: str) -> None:
        """A line in the fold."""
        self._ui.logEdit.appendPlainText(text)

    def tell(self, sentence: str) -> None:
        """A sentence where progress is shown."""
        self._ui.stepLabel.text = sentence

    @property
    def ticked(self) -> tuple[PluginCard, ...]:
        """The ticked plugins, in the order of the list, whether the filter shows them or not."""
        names = set(self._parameters.plugins)
        return tuple(card for card in self._folder.cards if card.name in names)

    def close(self) -> None:
        """Let go of the scene."""
        self._open.close()
        self._rows.close()

    # what a person does

    def classify(self) -> None:
        """Begin, or say in one sentence why not."""
        cards = self.ticked
        study = Study(self._rows.images, self._rows.regions, self._rows.segments)
        try:
            self._asked = study, cards
            self._session.classify(study.ticked(cards))
        except AnyMC3DError as error:
            self.failed(str(error))

    def ask_about(self, images: Mapping[str, slicer.vtkMRMLVolumeNode], card: PluginCard, class_name: str) -> None:
        """Classify these volumes with this plugin alone, as if a person had chosen and clicked.

        Where no class is found, the heat of `class_name` is the one that is offered.
        """
        if self._session.busy:
            raise InputError(_("A study is being classified: wait for it, or cancel it."))
        self._ui.pluginFilterEdit.clear()
        self._parameters.plugins, self._parameters.heat = [card.name], [card.name, class_name]
        self.refresh()
        self._rows.show(images, {}, {})
        self._rows.keep(images)
        self._study_changed()
        self.classify()

    def cancel(self) -> None:
        """End the work that goes on."""
        self._session.cancel()

    def tick(self, card: PluginCard) -> None:
        """Show a plugin that is new in the folder, and tick it."""
        self._parameters.plugins = [*dict.fromkeys([*self._parameters.plugins, card.name])]
        self._ui.pluginFilterEdit.clear()
        self.refresh()
        plugins = self._ui.pluginList
        for row in range(plugins.count):
            if plugins.item(row).data(PATH_ROLE) == str(card.path):
                plugins.setCurrentRow(row)

    def add_plugin(self, path: str | Path) -> None:
        """Copy a plugin file into the folder and tick it."""
        try:
            card = self._folder.install(path)
        except AnyMC3DError as error:
            slicer.util.errorDisplay(str(error))
            return
        self.tick(card)

    # what the session tells

    def changed(self, state: State) -> None:
        """As `session.Listener`."""
        if state is State.IDLE:
            self._ui.progressBar.setMaximum(STEPS)
            self._ui.progressBar.setValue(0)
            # Another study may have been opened meanwhile.
            self.prefill()
        self._update_state()

    def progressed(self, doing: Doing) -> None:
        """As `session.Listener`."""
        # A bar without an end says that something goes on where no count is known.
        self._ui.progressBar.setMaximum(STEPS if doing.fraction is not None else 0)
        self._ui.progressBar.setValue(round(STEPS * (doing.fraction or 0)))
        self.tell(doing.words)

    def finished(self, predictions: Predictions) -> None:
        """As `session.Listener`."""
        (study, cards), self._asked = self._asked, None
        self.tell(_("Done."))
        self._ui.progressBar.setValue(STEPS)
        self._found(study, predictions, cards)

    def failed(self, sentence: str) -> None:
        """As `session.Listener`."""
        self._asked = None
        self.tell(sentence)
        self.log(sentence)
        self._update_state(keep_words=True)

    def cancelled(self) -> None:
        """As `session.Listener`."""
        self._asked = None
        self.tell(_("Cancelled."))

    # the list of plugins

    def _make_menu(self) -> None:
        menu = qt.QMenu(self._ui.pluginFolderButton)
        menu.addAction(_("Add a plugin from a file…")).connect("triggered()", self._choose_file)
        menu.addAction(_("Open the folder of the plugins")).connect("triggered()", self._open_folder)
        menu.addAction(_("Look again")).connect("triggered()", self.refresh)
        self._ui.pluginFolderButton.setMenu(menu)

    def _choose_file(self) -> None:
        path = Dialogs().open_file(_("Add a plugin"), f"{_('Plugins')} (*{ENDING})")
        if path:
            self.add_plugin(path)

    def _open_folder(self) -> None:
        self._folder.path.mkdir(parents=True, exist_ok=True)
        qt.QDesktopServices.openUrl(qt.QUrl.fromLocalFile(str(self._folder.path)))

    def _shown(self) -> list[PluginCard]:
        anatomy, modality = (
            box.currentText if box.currentIndex > 0 else ""
            for box in (self._ui.anatomyFilterSelector, self._ui.modalityFilterSelector)
        )
        return self._folder.matching(anatomy=anatomy, modality=modality, words=self._ui.pluginFilterEdit.text)

    def _fill_list(self) -> None:
        self._filling = True
        plugins, chosen = self._ui.pluginList, self._selected()
        plugins.clear()
        names = set(self._parameters.plugins)
        for card in self._shown():
            item = self._entry(entry_text(card), card.path)
            item.setFlags(qt.Qt.ItemIsEnabled | qt.Qt.ItemIsSelectable | qt.Qt.ItemIsUserCheckable)
            item.setCheckState(qt.Qt.Checked if card.name in names else qt.Qt.Unchecked)
            plugins.addItem(item)
        for damaged in self._folder.damaged:
            item = self._entry(_("{file}: cannot be used").format(file=damaged.path.name), damaged.path)
            item.setFlags(qt.Qt.ItemIsEnabled | qt.Qt.ItemIsSelectable)
            plugins.addItem(item)
        paths = [plugins.item(row).data(PATH_ROLE) for row in range(plugins.count)]
        plugins.setCurrentRow(paths.index(chosen) if chosen in paths else min(0, plugins.count - 1))
        self._filling = False
        self._row_chosen(plugins.currentRow)
        self._plugins_changed()

    def _entry(self, text: str, path: Path) -> qt.QListWidgetItem:
        item = qt.QListWidgetItem(text)
        item.setData(PATH_ROLE, str(path))
        item.setToolTip(text)
        return item

    def _selected(self) -> str | None:
        item = self._ui.pluginList.currentItem()
        return item.data(PATH_ROLE) if item is not None else None

    def _filter_changed(self, _value: object = None) -> None:
        if not self._filling:
            self._fill_list()

    def _row_chosen(self, _row: int) -> None:
        if self._filling:
            return
        found: dict[str, PluginCard | DamagedFile] = {str(one.path): one for one in self._folder.cards}
        found.update({str(one.path): one for one in self._folder.damaged})
        one = found.get(self._selected() or "")
        if one is None:
            none = _("There is no plugin yet: add one from a file.")
            text = _("No plugin fits the filter.") if self._folder.cards else none
        else:
            text = card_text(one) if isinstance(one, PluginCard) else damaged_text(one)
        self._ui.pluginCardBrowser.setHtml(text)

    def _ticked_changed(self, _item: object) -> None:
        if self._filling:
            return
        plugins = self._ui.pluginList
        names = {card.path.as_posix(): card.name for card in self._folder.cards}
        ticks = {}
        for row in range(plugins.count):
            item = plugins.item(row)
            name = names.get(Path(item.data(PATH_ROLE)).as_posix())
            if name:
                ticks[name] = item.checkState() == qt.Qt.Checked
        # What the filter hides keeps its tick.
        kept = [name for name in self._parameters.plugins if ticks.get(name, True)]
        self._parameters.plugins = kept + [name for name, on in ticks.items() if on and name not in kept]
        self._plugins_changed()

    # the study

    def _sources(self) -> list[str]:
        return list(dict.fromkeys(source for card in self.ticked for source in card.sources))

    def _plugins_changed(self) -> None:
        regions = {source: kind for card in self.ticked for source, kind in card.regions.items()}
        saved = self._parameters
        images, places, segments = dict(saved.images), dict(saved.regions), dict(saved.segments)
        self._rows.require(self._sources(), regions)
        self._rows.show(images, places, segments)
        self.prefill()

    def _saved_by_hand(self) -> list[str]:
        """The sources that have another volume in the settings than they would get by themselves."""
        saved = {source: node for source, node in self._parameters.images.items() if node is not None}
        own = choose(list(saved), self._scene)
        return [source for source, node in saved.items() if own.get(source) is not node]

    def _study_changed(self) -> None:
        if self._waiting:
            return
        self._parameters.images = self._rows.images
        self._parameters.regions = self._rows.regions
        self._parameters.segments = self._rows.segments
        self._update_state()

    # the device and the state

    def _device_chosen(self, _index: int) -> None:
        if self._filling:
            return
        box = self._ui.deviceSelector
        self._parameters.device = box.itemData(box.currentIndex) or AUTOMATIC
        if self._session is not None:
            self._session.device = self._parameters.device

    def _show_device(self) -> None:
        self._filling = True
        self._ui.deviceSelector.setCurrentIndex(max(0, self._ui.deviceSelector.findData(self._parameters.device)))
        self._filling = False

    def _lacking(self) -> str:
        """What must be chosen before Classify can be clicked; empty where nothing is lacking."""
        cards = self.ticked
        if not cards:
            return _("Tick a plugin.") if self._folder.cards else _("Add a plugin.")
        if any(source not in self._rows.images for card in cards for source in card.sources):
            return _("Choose a volume.")
        if any(source not in self._rows.regions for card in cards for source in card.regions):
            return _("Choose a region.")
        return ""

    def _update_state(self, *, keep_words: bool = False) -> None:
        busy = self._session is not None and self._session.busy
        lacking = self._lacking()
        self._ui.classifyButton.setEnabled(self._session is not None and not busy and not lacking)
        self._ui.cancelButton.setEnabled(busy)
        self._rows.set_enabled(not busy)
        self._ui.pluginList.setEnabled(not busy)
        self._ui.deviceSelector.setEnabled(not busy)
        asked = lacking, tuple(card.name for card in self.ticked), tuple(self._rows.images.items())
        if not busy and asked != self._told:
            # What became of the study stays to be read until another one, or another plugin, is chosen.
            self._told = asked
            if not keep_words:
                self.tell(lacking or _("Ready."))
