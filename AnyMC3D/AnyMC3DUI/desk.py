"""Puts the roles together: the engine behind the panels, and the panels over the form's widgets."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import qt
import slicer
from slicer.i18n import tr as _

from AnyMC3DLib.errors import AnyMC3DError
from AnyMC3DLib.messages import LogNote

from .classify_panel import ClassifyPanel, Predictions
from .dependencies import Dependencies, slicer_tools
from .devices import choices_of
from .filing import file_answers
from .install_bar import InstallBar
from .navigation import frame_in_3d, jump, look_at
from .overlay import HeatOverlay
from .parameters import AnyMC3DParameters
from .plugin_folder import PluginCard, PluginFolder
from .report_page import save_report
from .research_desk import ResearchDesk
from .results import ResultStore
from .results_panel import ResultsPanel
from .sample_data import install_plugin_once
from .session import ClassifySession
from .settings import plugin_folder
from .steps import in_turns
from .study import Study
from .worker_client import WorkerClient

END_MS = 3000


class Desk:
    """Everything behind the module's panel, for one scene."""

    def __init__(
        self,
        ui: Any,
        form: qt.QWidget,
        *,
        scene: slicer.vtkMRMLScene,
        parameters: Callable[[], AnyMC3DParameters],
        client: WorkerClient | None = None,
        training_client: WorkerClient | None = None,
    ) -> None:
        self._ui, self._form, self._scene, self._parameters_of = ui, form, scene, parameters
        self._asked_devices = self._scene_is_other = False
        self._client = client or WorkerClient(on_log=self._log)
        folder = PluginFolder(plugin_folder())
        install_plugin_once(folder)
        self.parameters = parameters()
        self.overlay = HeatOverlay(scene, in_turns)
        self.overlay.appeared, self.overlay.exchanged = frame_in_3d, slicer.util.resetSliceViews
        self.store = ResultStore(scene)
        self.panel = ClassifyPanel(ui, scene=scene, folder=folder, parameters=self.parameters, found=self._found)
        self.session = ClassifySession(self._client, self.panel, device=self.parameters.device)
        self.panel.attach(self.session)
        self.results = ResultsPanel(
            ui, overlay=self.overlay, renderer=self.session, parameters=self.parameters,
            jump=lambda ras: jump(scene, ras), look=lambda ras: look_at(scene, ras), save_report=save_report,
        )  # fmt: skip
        self.install = InstallBar(
            ui, Dependencies(slicer_tools()), stop_engine=self.session.close,
            installed=self.ask_for_devices,
        )  # fmt: skip
        self.research = ResearchDesk(
            ui, scene=scene, client=self._client, training_client=training_client or WorkerClient(on_log=self._log),
            folder=folder, classify=self.panel, device=lambda: self.parameters.device,
        )  # fmt: skip
        self._tag = self.parameters.connectGui(form)
        self._show_latest()

    def enter(self) -> None:
        """The module is chosen: what is open is offered, and what the computer has is looked for."""
        self.panel.refresh()
        self.panel.prefill()
        self.ask_for_devices()

    def ask_for_devices(self) -> None:
        """Look for what the computer has to compute on, unless it is known or the engine cannot run."""
        if not self.install.refresh() and not self._asked_devices:
            self._asked_devices = True
            self._client.request("devices", {}, done=self._devices_found, failed=self._devices_unknown)

    def scene_closes(self) -> None:
        """The job ends, and with it the worker, whose images are those of the scene, unless it measures a plugin."""
        if self.research.evaluation.busy:
            self.session.let_go()
        else:
            self.session.close()
        self.results.clear()
        self.research.scene_closes()
        self.scene_changes()

    def scene_changes(self) -> None:
        """What the selectors show from now on is no choice of the user's."""
        if not self._scene_is_other:
            self._scene_is_other = True
            self.panel.wait_for_scene()
            self.parameters.disconnectGui(self._tag)

    def scene_changed(self) -> None:
        """If another scene is there, its settings and its answers are shown."""
        if not self._scene_is_other:
            return
        self._scene_is_other = False
        self.parameters = self._parameters_of()
        self.panel.use(self.parameters)
        self.results.use(self.parameters)
        self._tag = self.parameters.connectGui(self._form)
        self._show_latest()

    def close(self, *, wait: bool = False) -> None:
        """End the job and the worker, take the heat off, let go of the scene."""
        self.parameters.disconnectGui(self._tag)
        self.research.close(wait_ms=END_MS if wait else 0)
        self.session.close(wait_ms=END_MS if wait else 0)
        self.results.close()
        self.overlay.close()
        self.panel.close()

    def _found(self, study: Study, predictions: Predictions, cards: tuple[PluginCard, ...]) -> None:
        try:
            results = file_answers(self.store, study, predictions, cards)
        except AnyMC3DError as error:
            self.panel.failed(str(error))
            return
        self.results.show(results, fresh=True)
        self._ui.resultsSection.collapsed = False
        qt.QTimer.singleShot(0, self._scroll_to_results)

    def _scroll_to_results(self) -> None:
        # The form lies in the scroll area of the application's module panel.
        widget = self._form
        while widget is not None and not widget.inherits("QScrollArea"):
            widget = widget.parent()
        if widget is not None:
            section = self._ui.resultsSection
            widget.ensureWidgetVisible(section, 0, min(section.height, widget.height) // 2)

    def _show_latest(self) -> None:
        latest = self.store.latest()
        self.results.show([latest] if latest is not None else ())

    def _devices_found(self, answer: Any) -> None:
        self.panel.set_devices(choices_of(answer))

    def _devices_unknown(self, error: AnyMC3DError) -> None:
        self._asked_devices = False
        self.panel.log(_("The devices are not known: {reason}").format(reason=str(error)))

    def _log(self, note: LogNote) -> None:
        self.panel.log(f"{note.level}: {note.message}" if note.level != "info" else note.message)
