"""A chart view: there is no displayable manager for charts outside the application, so Qt paints them."""

from __future__ import annotations

import qt
import slicer
import vtk

MARGINS = (56, 26, 36, 40)  # left, top, right, bottom
REACH = 12  # pixels within which a click means a point


class PlotView(qt.QWidget):
    """Paints the series of a chart node and says which point was clicked."""

    dataSelected = qt.Signal(object, object)  # noqa: N815 - series ids, their selected points

    def __init__(self, node: object, parent: qt.QWidget | None = None) -> None:
        super().__init__(parent)
        self.node = node
        self.setMinimumHeight(110)
        self._watched: list[tuple[object, int]] = []
        self._tag = node.AddObserver(vtk.vtkCommand.ModifiedEvent, self._chart_changed)
        self._watch()

    def mrmlPlotViewNode(self) -> object:  # noqa: N802
        """The view node."""
        return self.node

    def fitToContent(self) -> None:  # noqa: N802
        """Show everything, which this view always does."""
        self.update()

    def chart(self) -> object:
        """The chart that is shown, or None."""
        return self.node.GetPlotChartNode()

    def _chart_changed(self, caller: object, event: str) -> None:
        self._watch()
        self.update()

    def _watch(self) -> None:
        for node, tag in self._watched:
            node.RemoveObserver(tag)
        chart = self.chart()
        tag = chart.AddObserver(vtk.vtkCommand.ModifiedEvent, self._repaint) if chart else None
        self._watched = [(chart, tag)] if chart else []

    def _repaint(self, caller: object, event: str) -> None:
        self.update()

    def series(self) -> list[tuple[object, list[tuple[float, float]]]]:
        """Each series node with its points."""
        chart, found = self.chart(), []
        for index in range(chart.GetNumberOfPlotSeriesNodes() if chart else 0):
            node = chart.GetNthPlotSeriesNode(index)
            table = node.GetTableNode().GetTable() if node and node.GetTableNode() else None
            across = table.GetColumnByName(node.GetXColumnName()) if table and node.GetXColumnName() else None
            up = table.GetColumnByName(node.GetYColumnName()) if table and node.GetYColumnName() else None
            if up is not None:
                rows = range(up.GetNumberOfTuples())
                found.append((node, [(across.GetTuple1(row) if across else row, up.GetTuple1(row)) for row in rows]))
        return found

    def _frame(self) -> tuple[qt.QRectF, tuple[float, float, float, float]]:
        left, top, right, bottom = MARGINS
        area = qt.QRectF(left, top, max(1, self.width - left - right), max(1, self.height - top - bottom))
        points = [point for _, points in self.series() for point in points] or [(0.0, 0.0)]
        across, up = [x for x, _ in points], [y for _, y in points]
        width = (max(across) - min(across)) or 1.0
        return area, (min(across), width, 0.0, (max(up) * 1.05) or 1.0)

    def place(self, point: tuple[float, float]) -> qt.QPointF:
        """Where a point of the chart lies in the widget."""
        area, (left, width, low, height) = self._frame()
        return qt.QPointF(
            area.left() + (point[0] - left) / width * area.width(),
            area.bottom() - (point[1] - low) / height * area.height(),
        )

    def paintEvent(self, event: qt.QPaintEvent) -> None:  # noqa: N802
        painter = qt.QPainter(self)
        painter.setRenderHint(qt.QPainter.Antialiasing)
        painter.fillRect(self.rect, self.palette.color(qt.QPalette.Base))
        chart = self.chart()
        if chart:
            self._paint(painter, chart)
        painter.end()

    def _paint(self, painter: qt.QPainter, chart: object) -> None:
        area, (left, width, _, height) = self._frame()
        text = self.palette.color(qt.QPalette.Text)
        painter.setPen(text)
        painter.drawRect(area)
        painter.drawText(qt.QRectF(0, 2, self.width, 22), qt.Qt.AlignCenter, chart.GetTitle() or "")
        bottom = qt.QRectF(area.left(), area.bottom() + 18, area.width(), 20)
        painter.drawText(bottom, qt.Qt.AlignCenter, chart.GetXAxisTitle() or "")
        for part in (0.0, 0.5, 1.0):
            at = area.left() + part * area.width()
            label = f"{left + part * width:.4g}"
            painter.drawText(qt.QRectF(at - 40, area.bottom() + 2, 80, 18), qt.Qt.AlignCenter, label)
            at = area.bottom() - part * area.height()
            painter.drawText(qt.QRectF(0, at - 9, MARGINS[0] - 4, 18), qt.Qt.AlignRight, f"{part * height:.3g}")
        for node, points in self.series():
            colour = qt.QColor.fromRgbF(*node.GetColor())
            painter.setPen(qt.QPen(colour, 2))
            places = [self.place(point) for point in points]
            painter.drawPolyline(places)
            painter.setBrush(colour)
            for place in places:
                painter.drawEllipse(place, 3, 3)

    def mousePressEvent(self, event: qt.QMouseEvent) -> None:  # noqa: N802
        at = event.position()
        best = None
        for node, points in self.series():
            for index, point in enumerate(points):
                distance = (self.place(point) - at).manhattanLength()
                if distance <= REACH and (best is None or distance < best[0]):
                    best = distance, node, index
        if best:
            self.select(best[1], best[2])

    def select(self, series: slicer.vtkMRMLPlotSeriesNode, index: int) -> None:
        """Say that a point was clicked."""
        ids, selections, selected = vtk.vtkStringArray(), vtk.vtkCollection(), vtk.vtkIdTypeArray()
        ids.InsertNextValue(series.GetID())
        selected.InsertNextValue(index)
        selections.AddItem(selected)
        self.dataSelected.emit(ids, selections)

    def close_view(self) -> None:
        """Let go of the scene."""
        self.node.RemoveObserver(self._tag)
        for node, tag in self._watched:
            node.RemoveObserver(tag)
        self._watched = []
