"""The Results section: bars, warnings, the heat with its sliders, charts, hot spots, the report."""

from __future__ import annotations

import html
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import qt
import slicer
from slicer.i18n import tr as _

from AnyMC3DLib.errors import AnyMC3DError

from .answer_rows import heated_classes
from .answer_view import answer_widget, percent
from .parameters import AnyMC3DParameters
from .results import StudyResults, heat_is_shown
from .scene_chart import show_chart
from .watching import Watch

COLUMNS = 3  # of the list of hot spots
SHORTCUT = "Ctrl+Shift+H"  # as the button's tool tip says


class Overlay(Protocol):
    """What the panel needs of the overlay."""

    visible: bool
    opacity: float
    threshold: float
    ended: Callable[[], None]
    troubled: Callable[[str], None]

    def show(self, anatomy: Any, heat: Any, caption: str) -> None: ...

    def hide(self) -> None: ...


class Renderer(Protocol):
    """What the panel needs of a session to have a heatmap rendered."""

    def render(
        self, plugin: str, class_name: str | None, *, shape: Any, ijk_to_ras: Any, done: Any, failed: Any
    ) -> None: ...


class ResultsPanel:
    """Connects the widgets of the section to the roles."""

    def __init__(
        self,
        ui: Any,
        *,
        overlay: Overlay,
        renderer: Renderer,
        parameters: AnyMC3DParameters,
        jump: Callable[[Sequence[float]], None],
        look: Callable[[Sequence[float]], None] = lambda place: None,
        save_report: Callable[[Sequence[StudyResults]], str | None],
    ) -> None:
        self._ui, self._overlay, self._renderer = ui, overlay, renderer
        self._parameters, self._jump, self._look, self._save = parameters, jump, look, save_report
        self._results: tuple[StudyResults, ...] = ()
        self._chart_views: list[Any] = []
        self._spots: list[tuple[str, str, int]] = []
        self._watch = Watch()
        self._filling = False
        overlay.ended = lambda: self._set_button(False)
        overlay.troubled = self._say
        self._shortcut = _shortcut(lambda: ui.overlayButton.click() if self._results else None)
        _set_up_table(ui.hotSpotTable)
        ui.heatClassSelector.connect("currentIndexChanged(int)", self._class_chosen)
        ui.overlayButton.connect("toggled(bool)", self._toggled)
        ui.thresholdSlider.connect("valueChanged(double)", self._threshold_moved)
        ui.opacitySlider.connect("valueChanged(double)", self._opacity_moved)
        ui.hotSpotTable.connect("cellClicked(int,int)", self._spot_clicked)
        ui.saveReportButton.connect("clicked()", self._save_clicked)
        self.show(())

    def use(self, parameters: AnyMC3DParameters) -> None:
        """Take the settings of another parameter node."""
        self._parameters = parameters

    def show(self, results: Sequence[StudyResults], *, fresh: bool = False) -> None:
        """Show the answers for a study, one for each of its volumes, or that there are none.

        With `fresh` the heat of what was found is shown.
        """
        self._results = tuple(results)
        self._watch.stop()
        for result in self._results:
            if result.volume is not None:
                moved = slicer.vtkMRMLTransformableNode.TransformModifiedEvent
                self._watch.on(result.volume, moved, self._volume_moved)
        predictions = self._predictions
        self._ui.resultsTitleLabel.text = _title(results) if results else _("No study was classified yet.")
        self._show_warnings(predictions)
        _empty(self._ui.answersArea.layout())
        for prediction in predictions.values():
            self._ui.answersArea.layout().addWidget(answer_widget(prediction))
        self._fill_classes(predictions)
        self._fill_charts(predictions)
        self._fill_spots(predictions)
        for widget in (self._ui.heatArea, self._ui.chartsArea, self._ui.hotSpotTable, self._ui.answersArea):
            widget.setVisible(bool(predictions))
        self._ui.saveReportButton.setEnabled(bool(predictions))
        self._say("")
        if fresh:
            self._begin_heat(predictions)
        else:
            self._set_button(self._overlay.visible and bool(results))

    @property
    def _predictions(self) -> dict[str, dict[str, Any]]:
        return {name: one for result in self._results for name, one in result.predictions.items()}

    @property
    def chosen(self) -> tuple[str, str] | None:
        """The plugin and class whose heat is chosen."""
        box = self._ui.heatClassSelector
        value = box.itemData(box.currentIndex) if box.count else None
        return tuple(value.split("\n", 1)) if value else None

    def clear(self) -> None:
        """Take the heat off, and show nothing."""
        if self._overlay.visible:
            self._overlay.hide()
        self.show(())

    def close(self) -> None:
        """Take the heat off, and let go of the window."""
        self.clear()
        if self._shortcut is not None:
            self._shortcut.setParent(None)
            self._shortcut.deleteLater()
            self._shortcut = None

    def _of(self, plugin: str) -> StudyResults:
        return next(result for result in self._results if plugin in result.predictions)

    # warnings, classes, charts, hot spots

    def _show_warnings(self, predictions: Mapping[str, Mapping[str, Any]]) -> None:
        many = len(predictions) > 1
        lines = [f"{name}: {text}" if many else text for name, one in predictions.items() for text in one["warnings"]]
        notes = dict.fromkeys(one["plugin"]["intended_use"] for one in predictions.values())
        parts = [f"<b>⚠ {html.escape(line)}</b>" for line in dict.fromkeys(lines)]
        self._ui.warningsLabel.text = "<br>".join([*parts, *(html.escape(note) for note in notes)])
        self._ui.warningsLabel.setVisible(bool(predictions))

    def _fill_classes(self, predictions: Mapping[str, Mapping[str, Any]]) -> None:
        self._filling = True
        box = self._ui.heatClassSelector
        box.clear()
        for name, prediction in predictions.items():
            for class_name in heated_classes(prediction):
                text = f"{class_name} ({name})" if len(predictions) > 1 else class_name
                share = percent(prediction["probabilities"][class_name])
                box.addItem(f"{text}, {share}", f"{name}\n{class_name}")
        box.setCurrentIndex(max(0, box.findData("\n".join(self._parameters.heat))) if box.count else -1)
        self._filling = False

    def _fill_charts(self, predictions: Mapping[str, Mapping[str, Any]]) -> None:
        layout = self._ui.chartsArea.layout()
        _empty(layout)
        pairs = [(name, view) for name, prediction in predictions.items() for view in prediction["views"]]
        if not pairs:
            return
        layout.addWidget(qt.QLabel(_("Slice weights:")))
        box = qt.QComboBox()
        box.toolTip = _("The view whose chart is shown.")
        for name, view in pairs:
            box.addItem(f"{view} ({name})" if len(predictions) > 1 else view, f"{name}\n{view}")
        button = qt.QPushButton(_("Show chart"))
        button.toolTip = _("Show how much each slice weighs. A click on a point moves the views to its slice.")
        button.connect("clicked()", lambda: self._show_chart(box))
        layout.addWidget(box, 1)
        layout.addWidget(button)

    def _show_chart(self, box: qt.QComboBox) -> None:
        plugin, view = box.itemData(box.currentIndex).split("\n", 1)
        chart = self._of(plugin).chart(plugin, view)
        if chart is None:
            self._say(_("The chart is not in the scene any more."))
            return
        manager = slicer.app.layoutManager()
        if manager is None:  # no window, as in a script
            return
        show_chart(chart)
        for number in range(manager.plotViewCount):
            view = manager.plotWidget(number).plotView()
            if view not in self._chart_views:
                self._chart_views.append(view)
                view.connect("dataSelected(vtkStringArray*,vtkCollection*)", self._point_selected)

    def _point_selected(self, series: object, selections: object) -> None:
        # The view may show another chart by now, of this answer or of somebody else's.
        for number in range(min(series.GetNumberOfValues(), selections.GetNumberOfItems())):
            points = selections.GetItemAsObject(number)
            for results in self._results if points.GetNumberOfValues() else ():
                found = results.charted(series.GetValue(number))
                if found is not None:
                    self._jump(results.slice_at(*found, int(points.GetValue(0))))
                    return

    def _fill_spots(self, predictions: Mapping[str, Mapping[str, Any]]) -> None:
        table = self._ui.hotSpotTable
        rows = [
            (f"{class_name} ({name})" if len(predictions) > 1 else class_name, heat, ras, (name, class_name, number))
            for name in predictions
            for class_name in heated_classes(predictions[name])
            for number, (ras, heat) in enumerate(self._of(name).spots_of(name, class_name))
        ]
        rows.sort(key=lambda row: -row[1])
        self._spots = [row[3] for row in rows]
        table.setRowCount(len(rows))
        for line, (name, heat, ras, _spot) in enumerate(rows):
            place = ", ".join(f"{value:.0f}" for value in ras)
            for column, text in enumerate((name, f"{heat:.2f}", place)):
                item = qt.QTableWidgetItem(text)
                item.setToolTip(text)
                table.setItem(line, column, item)

    def _spot_clicked(self, row: int, _column: int) -> None:
        self._jump(self._place_of(*self._spots[row]))

    def _place_of(self, plugin: str, class_name: str, number: int) -> Sequence[float]:
        # Asked for at the click: the volume may have been moved since.
        return [float(value) for value in self._of(plugin).spots_of(plugin, class_name)[number][0]]

    def _volume_moved(self, _: object) -> None:
        for results in self._results:
            results.place_spots()
        self._fill_spots(self._predictions)

    # the heat

    def _begin_heat(self, predictions: Mapping[str, Mapping[str, Any]]) -> None:
        """After a classification: the heat of what was found; silence where nothing was."""
        found = [
            f"{name}\n{class_name}"
            for name, prediction in predictions.items()
            for class_name in heated_classes(prediction)
            if heat_is_shown(prediction, class_name)
        ]
        if found:
            box = self._ui.heatClassSelector
            self._filling = True
            box.setCurrentIndex(max(0, box.findData(found[0])))
            self._filling = False
        self._set_button(bool(found))
        if found:
            self._show_heat()
            if self._spots:
                # The hottest place of all, so that the finding is seen without a search.
                self._look(self._place_of(*self._spots[0]))
        else:
            self._overlay.hide()
            self._say(_("No class reaches its threshold, so no heat is shown. 'Show' shows it all the same."))

    def _class_chosen(self, _index: int) -> None:
        if self._filling or self.chosen is None:
            return
        self._parameters.heat = list(self.chosen)
        if self._ui.overlayButton.checked:
            self._show_heat()

    def _toggled(self, on: bool) -> None:
        self._label_button(on)
        if self._filling:
            return
        if on:
            self._show_heat()
        else:
            self._overlay.hide()
            self._say("")

    def _show_heat(self) -> None:
        if self.chosen is None:
            return
        plugin, class_name = self.chosen
        results = self._of(plugin)
        self._parameters.heat = [plugin, class_name]
        heat = results.heat(plugin, class_name)
        if heat is not None:
            self._lay(results, plugin, class_name, heat)
            return
        if results.volume is None:
            self._no_heat(_("The image is not in the scene any more: load and classify it again."))
            return
        self._say(_("Rendering the heat…"))
        try:
            shape, affine = results.heat_grid
            self._renderer.render(
                plugin, class_name, shape=shape, ijk_to_ras=affine,
                done=lambda array: self._rendered(results, plugin, class_name, array), failed=self._no_heat,
            )  # fmt: skip
        except AnyMC3DError as error:
            self._no_heat(str(error))

    def _rendered(self, results: StudyResults, plugin: str, class_name: str, array: Any) -> None:
        if results not in self._results:
            return
        try:
            heat = results.add_heat(plugin, class_name, array)
        except AnyMC3DError as error:
            self._no_heat(str(error))
            return
        if self.chosen == (plugin, class_name) and self._ui.overlayButton.checked:
            self._lay(results, plugin, class_name, heat)

    def _lay(self, results: StudyResults, plugin: str, class_name: str, heat: Any) -> None:
        self._overlay.threshold, self._overlay.opacity = self._parameters.threshold, self._parameters.opacity
        try:
            self._overlay.show(results.volume, heat, class_name)
        except AnyMC3DError as error:
            self._no_heat(str(error))
            return
        shown = heat_is_shown(results.predictions[plugin], class_name)
        self._say("" if shown else _("This class does not reach its threshold."))

    def _no_heat(self, sentence: str) -> None:
        self._set_button(False)
        self._overlay.hide()
        self._say(sentence)

    def _set_button(self, on: bool) -> None:
        self._filling = True
        self._ui.overlayButton.setChecked(on)
        self._label_button(on)
        self._filling = False

    def _label_button(self, on: bool) -> None:
        self._ui.overlayButton.text = _("Hide") if on else _("Show")

    def _say(self, sentence: str) -> None:
        self._ui.heatStateLabel.text = sentence
        self._ui.heatStateLabel.setVisible(bool(sentence))

    def _threshold_moved(self, value: float) -> None:
        if self._overlay.visible:
            self._overlay.threshold = value

    def _opacity_moved(self, value: float) -> None:
        if self._overlay.visible:
            self._overlay.opacity = value

    def _save_clicked(self) -> None:
        try:
            sentence = self._save(self._results)
        except AnyMC3DError as error:
            sentence = str(error)
        if sentence:
            self._say(sentence)


def _shortcut(act: Callable[[], None]) -> qt.QShortcut | None:
    """For the whole window: a person who scrolls through the slices may have another module open."""
    window = slicer.util.mainWindow()
    if window is None:  # no window, as in a script
        return None
    shortcut = qt.QShortcut(qt.QKeySequence(SHORTCUT), window)
    shortcut.connect("activated()", act)
    return shortcut


def _title(results: Sequence[StudyResults]) -> str:
    volumes = dict.fromkeys(one.volume.GetName() for one in results if one.volume is not None)
    when = results[0].date[:16].replace("T", " ")
    return _("{volumes}, answered {when} UTC").format(volumes=", ".join(volumes) or _("A volume"), when=when)


def _set_up_table(table: qt.QTableWidget) -> None:
    table.setColumnCount(COLUMNS)
    table.setHorizontalHeaderLabels([_("Hot spot of"), _("Heat"), _("R, A, S (mm)")])
    table.verticalHeader().hide()
    table.verticalHeader().setDefaultSectionSize(table.fontMetrics().height() + 6)
    header = table.horizontalHeader()
    header.setSectionResizeMode(0, qt.QHeaderView.Stretch)
    for column in (1, 2):
        header.setSectionResizeMode(column, qt.QHeaderView.ResizeToContents)


def _empty(layout: qt.QLayout) -> None:
    while layout.count():
        widget = layout.takeAt(0).widget()
        if widget is not None:
            widget.setParent(None)
            widget.deleteLater()
