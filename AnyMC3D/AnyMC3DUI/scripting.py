"""Classifying from a script: the same session as the panel's, waiting or with a callback."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import qt
import slicer

from AnyMC3DLib.errors import AnyMC3DError, Cancelled, InputError

from .filing import file_answers
from .plugin_folder import PluginCard, PluginFolder, read_card
from .results import ResultStore
from .session import ClassifySession, Doing, State
from .settings import plugin_folder
from .study import Study
from .watching import Watch
from .worker_client import WorkerClient

END_MS = 3000  # for the worker's end, where no event loop runs that would see it


class ScriptEngine:
    """The worker of scripts: it ends with the scene, whose images it has, and with the application."""

    def __init__(self, scene: slicer.vtkMRMLScene) -> None:
        self.client = WorkerClient()
        self._closed = False
        self._watch = Watch()
        self._watch.on(scene, scene.StartCloseEvent, self._scene_ends)
        slicer.app.connect("aboutToQuit()", self.close)

    def close(self) -> None:
        """End the worker for good."""
        if self._closed:
            return
        self._closed = True
        self._watch.stop()
        slicer.app.disconnect("aboutToQuit()", self.close)
        self.client.close(wait_ms=END_MS)

    def _scene_ends(self, _: object) -> None:
        # The next request starts another.
        self.client.close()


class Classification:
    """One classification that a script asked for; the listener of its own session."""

    def __init__(self, client: WorkerClient, *, scene: slicer.vtkMRMLScene, device: str = "auto") -> None:
        self._scene = scene
        self._session = ClassifySession(client, self, device=device)
        self._done: Callable[[Mapping[str, Any]], None] | None = None
        self._failed: Callable[[str], None] | None = None
        self._answers: Mapping[str, Any] | None = None
        self._error: AnyMC3DError | None = None
        self._loop: qt.QEventLoop | None = None

    def begin(
        self,
        volumes: slicer.vtkMRMLVolumeNode | Mapping[str, slicer.vtkMRMLVolumeNode],
        plugins: Sequence[str],
        *,
        regions: Mapping[str, slicer.vtkMRMLNode] | None = None,
        segments: Mapping[str, str] | None = None,
        done: Callable[[Mapping[str, Any]], None] | None = None,
        failed: Callable[[str], None] | None = None,
    ) -> None:
        """Begin; raises InputError or PluginError for what can be seen at once."""
        self._done, self._failed = done, failed
        self._cards = tuple(card_named(plugin) for plugin in plugins)
        if not isinstance(volumes, Mapping):
            sources = {source for card in self._cards for source in card.sources}
            if len(sources) > 1:
                names = ", ".join(sorted(sources))
                raise InputError(f"The plugins need a volume for each of {names}: give a dict of them.")
            volumes = dict.fromkeys(sources, volumes)
        self._study = Study(volumes, regions, segments)
        self._session.classify(self._study.ticked(self._cards))

    def cancel(self) -> None:
        """End the work, if it goes on; `failed` is told so."""
        self._session.cancel()

    def wait(self) -> Mapping[str, Any]:
        """Let the application go on until the answers are there; raises the error if there are none."""
        if self._answers is None and self._error is None:
            self._loop = qt.QEventLoop()
            self._loop.exec_()
        if self._answers is None and self._error is None:
            # The application ends, and lets no loop run any more.
            self.cancel()
        if self._error is not None:
            raise self._error
        return self._answers

    def changed(self, state: State) -> None:
        """As `session.Listener`."""

    def progressed(self, doing: Doing) -> None:
        """As `session.Listener`."""
        slicer.util.showStatusMessage(doing.words)

    def finished(self, predictions: Mapping[str, Mapping[str, Any]]) -> None:
        """As `session.Listener`."""
        try:
            file_answers(ResultStore(self._scene), self._study, predictions, self._cards)
        except AnyMC3DError as error:
            # As when the scene was closed meanwhile.
            self.failed(str(error))
            return
        self._answers = predictions
        self._over(self._done, predictions)

    def failed(self, sentence: str) -> None:
        """As `session.Listener`."""
        self._error = AnyMC3DError(sentence)
        self._over(self._failed, sentence)

    def cancelled(self) -> None:
        """As `session.Listener`."""
        self._error = Cancelled("The classification was cancelled.")
        self._over(self._failed, str(self._error))

    def _over(self, tell: Callable[[Any], None] | None, value: Any) -> None:
        if self._loop is not None:
            self._loop.quit()
        if tell is not None:
            tell(value)


def card_named(plugin: str | Path) -> PluginCard:
    """The card of an installed plugin by its name, or of a plugin file by its path."""
    folder = PluginFolder(plugin_folder())
    named = [card for card in folder.cards if card.name == str(plugin)]
    if named:
        return named[0]
    if Path(plugin).is_file():
        return read_card(Path(plugin))
    known = ", ".join(card.name for card in folder.cards) or "none"
    raise InputError(f"There is no plugin '{plugin}': installed are {known}.")
