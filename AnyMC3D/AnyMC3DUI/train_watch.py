"""What is seen of a training: its state in words, progress and time, the live chart, the report, the hardest cases."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import qt
import slicer
from slicer.i18n import tr as _

from AnyMC3DLib.errors import AnyMC3DError
from AnyMC3DLib.messages import EpochNote, ProgressNote

from .train_chart import TrainChart
from .train_words import Course, hard_row, left_words

STEPS = 1000  # of the progress bar
CASE_ROLE = qt.Qt.UserRole


class TrainWatch:
    """The section that watches; `load_case` is given the name of a hard case that was clicked twice."""

    def __init__(self, ui: Any, scene: slicer.vtkMRMLScene, *, load_case: Callable[[str], None]) -> None:
        self._ui, self._load_case = ui, load_case
        self._chart = TrainChart(scene)
        self._course: Course | None = None
        self._report: Path | None = None
        # What lacks is replaced by the next thing that lacks; what became of a training stays to be read.
        self._lacks = True
        self._make_table()
        self._show_time("")
        ui.trainChartButton.connect("clicked()", self._chart.show)
        ui.trainReportButton.connect("clicked()", self._open_report)
        ui.trainHardTable.connect("cellDoubleClicked(int,int)", self._case_clicked)

    def begin(self, title: str, course: Course) -> None:
        """A training begins."""
        self._course, self._report = course, None
        self._chart.begin(title)
        self._ui.trainReportButton.setEnabled(False)
        self._show_hardest(())
        self._update()

    def progressed(self, note: ProgressNote) -> None:
        """The training goes on."""
        if self._course is not None:
            self._course.progressed(note)
            self._update()

    def epoch_ended(self, note: EpochNote) -> None:
        """An epoch ended."""
        if self._course is not None:
            self._course.epoch_ended(note)
            self._chart.add(note)
            self._update()

    def tell(self, sentence: str) -> None:
        """Say something that stays until something else happens."""
        self._lacks = False
        self._ui.trainStateLabel.text = sentence

    def tell_lack(self, sentence: str, *, over: bool) -> None:
        """Say what lacks, `over` what became of a training too."""
        if self._lacks or (over and sentence):
            self._lacks = True
            self._ui.trainStateLabel.text = sentence

    def end(self, *, whole: bool = False) -> None:
        """The training is over; `whole` is whether it came to its end."""
        self._course = None
        self._show_time("")
        self._ui.trainProgressBar.setMaximum(STEPS)
        self._ui.trainProgressBar.setValue(STEPS if whole else 0)

    def show_results(self, answer: Mapping[str, Any]) -> None:
        """What came of a training."""
        self._report = Path(answer["report"]) if answer.get("report") else None
        self._ui.trainReportButton.setEnabled(self._report is not None)
        self._show_hardest(answer.get("hardest", ()))

    def scene_closes(self) -> None:
        """The chart is made again in the scene that comes."""
        self._chart.fill_soon()

    def _update(self) -> None:
        course, bar = self._course, self._ui.trainProgressBar
        self.tell(course.words)
        self._show_time(left_words(course.seconds_left))
        # A bar without an end says that something goes on where it is not known how much there is.
        bar.setMaximum(STEPS if course.fraction is not None else 0)
        bar.setValue(round(STEPS * (course.fraction or 0.0)))

    def _show_time(self, words: str) -> None:
        self._ui.trainTimeLabel.text = words
        self._ui.trainTimeLabel.setVisible(bool(words))

    def _make_table(self) -> None:
        table = self._ui.trainHardTable
        titles = [_("Case"), _("Truth"), _("Answer"), _("Probability")]
        table.setColumnCount(len(titles))
        table.setHorizontalHeaderLabels(titles)
        header = table.horizontalHeader()
        header.setSectionResizeMode(qt.QHeaderView.ResizeToContents)
        header.setSectionResizeMode(0, qt.QHeaderView.Stretch)
        table.verticalHeader().setVisible(False)

    def _show_hardest(self, cases: Sequence[Mapping[str, Any]]) -> None:
        table = self._ui.trainHardTable
        table.setRowCount(len(cases))
        for row, case in enumerate(cases):
            for column, text in enumerate(hard_row(case)):
                item = qt.QTableWidgetItem(text)
                item.setToolTip(text)
                item.setData(CASE_ROLE, case["case"])
                table.setItem(row, column, item)

    def _case_clicked(self, row: int, column: int) -> None:
        try:
            self._load_case(self._ui.trainHardTable.item(row, column).data(CASE_ROLE))
        except AnyMC3DError as error:
            self.tell(str(error))

    def _open_report(self) -> None:
        if self._report is None or not self._report.is_file():
            self.tell(_("The report is not there any more."))
            return
        qt.QDesktopServices.openUrl(qt.QUrl.fromLocalFile(str(self._report)))
