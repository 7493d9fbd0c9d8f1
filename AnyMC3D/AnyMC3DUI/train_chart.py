"""The live chart of a training: loss and validation score by epoch, over both phases."""

from __future__ import annotations

import qt
import slicer
from slicer.i18n import tr as _

from AnyMC3DLib.messages import EpochNote

from .scene_chart import Line, SceneChart

KEY = "training"
# Epochs of the warm-up come many a second, and each filling draws the chart view.
PAUSE_MS = 200


class TrainChart:
    """Filled as epochs end; of folds it shows the one that is being trained."""

    def __init__(self, scene: slicer.vtkMRMLScene) -> None:
        self._chart = SceneChart(scene, KEY, x=_("Epoch"), y=_("Loss, score"))
        self._title = ""
        self._notes: list[EpochNote] = []
        self._waits = False

    def begin(self, title: str) -> None:
        """Another training begins."""
        self._title, self._notes = title, []

    def add(self, note: EpochNote) -> None:
        """An epoch ended; soon the chart shows it."""
        if self._notes and self._notes[-1].fold != note.fold:
            self._notes = []
        self._notes.append(note)
        self.fill_soon()

    def fill_soon(self) -> None:
        """Fill the chart within a moment; after a scene was closed, that of the new one."""
        if not self._waits:
            self._waits = True
            qt.QTimer.singleShot(PAUSE_MS, self._fill)

    def show(self) -> None:
        """Show it in the chart view, if there is anything to see."""
        self._fill()
        self._chart.show()

    def _fill(self) -> None:
        self._waits = False
        if self._notes:
            self._chart.fill(self._full_title(), self._lines())

    def _full_title(self) -> str:
        fold = self._notes[-1].fold
        return self._title if fold is None else _("{name}, fold {fold}").format(name=self._title, fold=fold)

    def _lines(self) -> list[Line]:
        numbered = list(enumerate(self._notes, start=1))
        loss = [(float(number), note.loss) for number, note in numbered]
        score = [(float(number), note.score) for number, note in numbered if note.score is not None]
        lines = [Line(_("loss"), loss, marks=True)]
        return [*lines, Line(_("validation score"), score, marks=True)] if score else lines
