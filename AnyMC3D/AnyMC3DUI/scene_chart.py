"""Charts of a run or a plugin in the scene, and the view that shows them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import slicer

from .earlier import nodes_of_class
from .result_nodes import column_table, has_marks, mark, refill

CHART_LAYOUTS = tuple(
    getattr(slicer.vtkMRMLLayoutNode, f"SlicerLayout{kind}View")
    for kind in ("ConventionalPlot", "FourUpPlot", "FourUpPlotTable", "OneUpPlot", "ThreeOverThreePlot")
)
COLOURS = ((0.76, 0.09, 0.25), (0.12, 0.41, 0.75), (0.16, 0.55, 0.27), (0.85, 0.55, 0.1), (0.48, 0.25, 0.62))
GREY = (0.6, 0.6, 0.6)
_X, _Y = "x", "y"


@dataclasses.dataclass(frozen=True)
class Line:
    """A line of a chart through its points (x, y), in the order given; a `guide` is grey, dashed and without marks."""

    name: str
    points: Sequence[tuple[float, float]]
    guide: bool = False
    marks: bool = False


class SceneChart:
    """A chart that is made once and filled again, so that a curve that grows leaves no nodes behind.

    Its nodes go by `key`, whatever they are called later; a scene that was loaded with them has them used again.
    """

    def __init__(self, scene: slicer.vtkMRMLScene, key: str, *, x: str, y: str) -> None:
        self._scene, self._key, self._x, self._y = scene, key, x, y

    def fill(self, title: str, lines: Sequence[Line]) -> slicer.vtkMRMLPlotChartNode:
        """Have the chart hold these lines, and no others."""
        chart = self._node("vtkMRMLPlotChartNode", "chart") or self._new_chart()
        chart.SetName(title)
        chart.SetTitle(title)
        chart.SetXAxisTitle(self._x)
        chart.SetYAxisTitle(self._y)
        chart.SetLegendVisibility(len(lines) > 1)
        wanted = [self._series(number, line) for number, line in enumerate(lines)]
        self._drop_from(len(lines))
        known = [chart.GetNthPlotSeriesNodeID(number) for number in range(chart.GetNumberOfPlotSeriesNodes())]
        if known != [series.GetID() for series in wanted]:
            chart.RemoveAllPlotSeriesNodeIDs()
            for series in wanted:
                chart.AddAndObservePlotSeriesNodeID(series.GetID())
        return chart

    def show(self) -> None:
        """Show it in the chart view; nothing happens before it was filled, or without a window."""
        chart = self._node("vtkMRMLPlotChartNode", "chart")
        if chart is not None:
            show_chart(chart)

    def remove(self) -> None:
        """Take it out of the scene."""
        self._drop_from(0)
        chart = self._node("vtkMRMLPlotChartNode", "chart")
        if chart is not None:
            self._scene.RemoveNode(chart)

    def _series(self, number: int, line: Line) -> slicer.vtkMRMLPlotSeriesNode:
        columns = {_X: [x for x, _ in line.points], _Y: [y for _, y in line.points]}
        table = self._node("vtkMRMLTableNode", f"table {number}")
        if table is None:
            table = column_table(self._scene, line.name, columns)
            self._claim(table, f"table {number}")
        else:
            table.SetName(line.name)
            refill(table, columns)
        series = self._node("vtkMRMLPlotSeriesNode", f"series {number}")
        if series is None:
            series = self._scene.AddNewNodeByClass("vtkMRMLPlotSeriesNode")
            self._claim(series, f"series {number}")
        series.SetName(line.name)
        series.SetPlotType(series.PlotTypeScatter)
        series.SetXColumnName(_X)
        series.SetYColumnName(_Y)
        series.SetLineStyle(series.LineStyleDash if line.guide else series.LineStyleSolid)
        series.SetLineWidth(1 if line.guide else 2)
        series.SetMarkerStyle(series.MarkerStyleCircle if line.marks else series.MarkerStyleNone)
        series.SetMarkerSize(7)
        series.SetColor(*(GREY if line.guide else COLOURS[number % len(COLOURS)]))
        series.SetAndObserveTableNodeID(table.GetID())
        return series

    def _new_chart(self) -> slicer.vtkMRMLPlotChartNode:
        chart = self._scene.AddNewNodeByClass("vtkMRMLPlotChartNode")
        self._claim(chart, "chart")
        return chart

    def _claim(self, node: slicer.vtkMRMLNode, part: str) -> None:
        mark(node, {"Chart": self._key, "Part": part})
        # A live curve is of the session, not of the study that is saved.
        node.SetSaveWithScene(False)

    def _node(self, kind: str, part: str) -> slicer.vtkMRMLNode | None:
        marks = {"Chart": self._key, "Part": part}
        return next((node for node in nodes_of_class(self._scene, kind) if has_marks(node, marks)), None)

    def _drop_from(self, number: int) -> None:
        """Remove the lines from that number on."""
        while True:
            parts = [("vtkMRMLPlotSeriesNode", f"series {number}"), ("vtkMRMLTableNode", f"table {number}")]
            nodes = [self._node(kind, part) for kind, part in parts]
            if not any(nodes):
                return
            for node in nodes:
                if node is not None:
                    self._scene.RemoveNode(node)
            number += 1


def show_chart(chart: slicer.vtkMRMLPlotChartNode) -> None:
    """Show the chart beside the slices and the 3D view; nothing happens without a window, as in a script."""
    manager = slicer.app.layoutManager()
    if manager is None:
        return
    if manager.layout not in CHART_LAYOUTS:
        manager.setLayout(slicer.vtkMRMLLayoutNode.SlicerLayoutConventionalPlotView)
    logic = slicer.app.applicationLogic()
    logic.GetSelectionNode().SetActivePlotChartID(chart.GetID())
    logic.PropagatePlotChartSelection()
