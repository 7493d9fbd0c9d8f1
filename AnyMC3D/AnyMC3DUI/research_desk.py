"""Puts the tabs Dataset, Train and Plugins together: one dataset, one folder of plugins, a worker for training."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import qt
import slicer
from slicer.i18n import tr as _

from AnyMC3DLib.errors import InputError

from .backbones_panel import BackbonesPanel
from .classify_panel import ClassifyPanel
from .dataset_panel import DatasetPanel
from .dialogs import Dialogs
from .evaluate_panel import EvaluatePanel
from .installed_backbones import InstalledBackbones
from .plugin_folder import PluginCard, PluginFolder
from .plugins_panel import PluginsPanel
from .settings import pseudonym_key, use_backbone_folder
from .train_panel import TrainPanel
from .worker_client import WorkerClient

CLASSIFY_TAB = 0
SOON_MS = 150


class CloseQuestion(qt.QWidget):
    """Watches the main window: it stays open where a person wants the training to go on."""

    def __init__(self, may_close: Callable[[], bool]) -> None:
        super().__init__()
        self._may_close = may_close

    def eventFilter(self, _watched: qt.QObject, event: qt.QEvent) -> bool:  # noqa: N802 - Qt's name
        """True keeps the event from the window."""
        if event.type() != qt.QEvent.Close or self._may_close():
            return False
        event.ignore()
        return True


class ResearchDesk:
    """Everything behind the three tabs. `client` is the worker that classifies; training has one of its own."""

    def __init__(
        self,
        ui: Any,
        *,
        scene: slicer.vtkMRMLScene,
        client: WorkerClient,
        training_client: WorkerClient,
        folder: PluginFolder,
        classify: ClassifyPanel,
        device: Callable[[], str],
        ask: Dialogs | None = None,
    ) -> None:
        self._ui, self._classify = ui, classify
        use_backbone_folder()
        self._installed = InstalledBackbones(changed=self._show_backbones)
        ask = ask or Dialogs()
        self._soon = qt.QTimer()
        self._soon.setSingleShot(True)
        self._soon.setInterval(SOON_MS)
        self._soon.connect("timeout()", self._show_dataset)
        self.dataset = DatasetPanel(
            ui, scene=scene, client=client, key=pseudonym_key(), ask=ask, changed=self._dataset_changed
        )
        self.training = TrainPanel(
            ui, scene=scene, dataset=lambda: self.dataset.dataset, save_dataset=self.dataset.save,
            load_case=self._load_case, client=training_client, preview_client=client, plugin_folder=folder,
            device=device, trained=self._trained, ask=ask, installed=lambda: self._installed.backbones,
        )  # fmt: skip
        self.plugins = PluginsPanel(ui, folder=folder, client=client, device=device, ask=ask, changed=self._refresh)
        self.evaluation = EvaluatePanel(
            ui, scene=scene, folder=folder, client=client, device=device, dataset=lambda: self.dataset.dataset,
            save_dataset=self.dataset.save, ask=ask, load_case=self._load_case, show_case=self._show_case,
        )  # fmt: skip
        self.backbones = BackbonesPanel(ui, installed=self._installed, ask=ask, changed=self._refresh)
        ui.tabs.connect("currentChanged(int)", self._tab_chosen)
        self._question = self._watch_window()

    def scene_closes(self) -> None:
        """Trainings and measurements go on, since they need files alone."""
        self.training.scene_closes()
        self.evaluation.scene_closes()

    def close(self, *, wait_ms: int = 0) -> None:
        """End all work; a training saves its state first."""
        window = slicer.util.mainWindow()
        if self._question is not None and window is not None:
            window.removeEventFilter(self._question)
        self._question = None
        self._soon.stop()
        self._installed.close()
        self._ui.tabs.disconnect("currentChanged(int)", self._tab_chosen)
        self.training.close(wait_ms=wait_ms)
        for panel in (self.evaluation, self.plugins, self.dataset):
            panel.close()

    def _watch_window(self) -> CloseQuestion | None:
        window = slicer.util.mainWindow()
        if window is None:  # no window, as in a script
            return None
        # The dataset first: whoever stays for it has paused no training.
        question = CloseQuestion(lambda: self.dataset.may_leave() and self.training.may_close())
        window.installEventFilter(question)
        return question

    def _tab_chosen(self, _number: int) -> None:
        # What lies in the folder of plugins may have changed since.
        self._refresh()

    def _refresh(self) -> None:
        self._classify.refresh()
        self.plugins.refresh()
        self.backbones.refresh()
        self.training.refresh()
        self.evaluation.refresh()

    def _show_backbones(self) -> None:
        self.backbones.show()
        self.training.refresh_backbones()

    def _dataset_changed(self) -> None:
        # Edits come in flocks, and a look at a large table takes a moment.
        self._soon.start()

    def _show_dataset(self) -> None:
        self.training.refresh()
        self.evaluation.refresh()

    def _trained(self, card: PluginCard) -> None:
        self._classify.tick(card)
        self.plugins.refresh()
        self.evaluation.refresh()

    def _key_of(self, case: str) -> int:
        dataset = self.dataset.dataset
        for key in dataset.keys if dataset is not None else ():
            if dataset.cell(key, "case") == case:
                return key
        raise InputError(_("The dataset that is open has no case '{case}': open its table.").format(case=case))

    def _load_case(self, case: str) -> None:
        self.dataset.load_case(self._key_of(case))

    def _show_case(self, case: str, card: PluginCard, class_name: str) -> None:
        """Load a case and classify it with the plugin, so that its heat is seen."""
        if card.regions:
            raise InputError(_("This plugin looks at a region: load the case, and choose its region in Classify."))
        key, dataset = self._key_of(case), self.dataset.dataset
        nodes = self.dataset.load_case(key)
        sources = [source for source in dataset.sources if dataset.image_path(key, source) is not None]
        images = dict(zip(sources, nodes, strict=False))
        if len(images) == len(card.sources) == 1:
            # The one image of a table is that of the plugin, whatever it is called.
            images = {card.sources[0]: nodes[0]}
        missing = [source for source in card.sources if source not in images]
        if missing:
            words = _("The case '{case}' has no image '{source}', which the plugin looks at.")
            raise InputError(words.format(case=case, source=missing[0]))
        self._ui.tabs.setCurrentIndex(CLASSIFY_TAB)
        self._classify.ask_about(images, card, class_name)
