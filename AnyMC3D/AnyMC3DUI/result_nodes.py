"""The nodes that hold an answer: tables, charts and hot spots."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import slicer
import vtk

Spots = Mapping[str, Sequence[tuple[npt.NDArray[np.float64], float]]]  # by class: places in RAS, and their heat

UNCERTAIN = 0.05  # as the engine: a probability this near its threshold is said to be uncertain
# By the axis of the view: which RAS axis the slices run along, and in words.
_POSITIONS = {
    "sagittal": (0, "R, mm (left to right)"),
    "coronal": (1, "A, mm (back to front)"),
    "axial": (2, "S, mm (feet to head)"),
}
_POSITION, _WEIGHT, _NUMBER = "Position", "Weight", "Slice"
_SPOT_COLOUR = (0.22, 0.84, 1.0)  # no colour of heat, and none of anatomy


def mark(node: slicer.vtkMRMLNode, marks: Mapping[str, str]) -> None:
    """Say on the node whose it is, whatever it is called later."""
    for name, value in marks.items():
        node.SetAttribute(f"AnyMC3D.{name}", value)


def has_marks(node: slicer.vtkMRMLNode, marks: Mapping[str, str]) -> bool:
    """Whether the node is that very one."""
    return all(node.GetAttribute(f"AnyMC3D.{name}") == value for name, value in marks.items())


def mark_of(node: slicer.vtkMRMLNode, name: str) -> str:
    """One of the marks of a node that has it."""
    return node.GetAttribute(f"AnyMC3D.{name}")


def remove(node: slicer.vtkMRMLNode, hierarchy: slicer.vtkMRMLSubjectHierarchyNode) -> None:
    """Remove the node with what only serves it: its item, how it is displayed, and where it is stored."""
    scene = node.GetScene()
    serving = []
    if node.IsA("vtkMRMLStorableNode"):
        serving += [node.GetNthStorageNode(number) for number in range(node.GetNumberOfStorageNodes())]
    if node.IsA("vtkMRMLDisplayableNode"):
        serving += [node.GetNthDisplayNode(number) for number in range(node.GetNumberOfDisplayNodes())]
    item = hierarchy.GetItemByDataNode(node)
    if item:
        hierarchy.RemoveItem(item, False, False)
    for each in (node, *serving):
        if each is not None and each.GetScene() is scene:
            scene.RemoveNode(each)


def is_uncertain(prediction: Mapping[str, Any], class_name: str) -> bool:
    """Whether the class lies at its threshold, or is decided for without reaching it."""
    if "uncertain" in prediction:
        return bool(prediction["uncertain"].get(class_name, False))
    above = prediction["probabilities"][class_name] - prediction["thresholds"][class_name]
    return abs(above) < UNCERTAIN or (bool(prediction["decisions"][class_name]) and above < 0)


def class_table(scene: slicer.vtkMRMLScene, predictions: Mapping[str, Mapping[str, Any]]) -> slicer.vtkMRMLTableNode:
    """A row a class: plugin, class, probability, threshold, decision, uncertain."""
    rows = list(_class_rows(predictions))
    columns = {
        "Plugin": [row[0] for row in rows],
        "Class": [row[1] for row in rows],
        "Probability": np.array([row[2] for row in rows]),
        "Threshold": np.array([row[3] for row in rows]),
        "Decision": [row[4] for row in rows],
        "Uncertain": [row[5] for row in rows],
    }
    return column_table(scene, "Classes", columns)


def _class_rows(predictions: Mapping[str, Mapping[str, Any]]) -> Iterator[tuple[str, str, float, float, str, str]]:
    for plugin, prediction in predictions.items():
        for name, probability in prediction["probabilities"].items():
            decision = "yes" if prediction["decisions"][name] else "no"
            uncertain = "yes" if is_uncertain(prediction, name) else "no"
            yield plugin, name, probability, prediction["thresholds"][name], decision, uncertain


def slice_chart(
    scene: slicer.vtkMRMLScene, plugin: str, view: str, content: Mapping[str, Any]
) -> tuple[slicer.vtkMRMLTableNode, slicer.vtkMRMLPlotSeriesNode, slicer.vtkMRMLPlotChartNode]:
    """Weights of slices by position: the table of numbers, the series that points at it, and the chart."""
    axis, words = _POSITIONS[content["axis"]]
    points = np.array([one["ras"] for one in content["slices"]])
    name = f"{plugin}, {view}"
    columns = {
        _NUMBER: np.arange(1, len(points) + 1, dtype=np.float64),
        _POSITION: points[:, axis].copy(),
        _WEIGHT: np.array([one["weight"] for one in content["slices"]]),
    }
    table = column_table(scene, f"Slice weights: {name}", columns)
    series = slicer.vtkMRMLPlotSeriesNode()
    series.SetName(f"Slice weights: {name}")
    series.SetPlotType(series.PlotTypeScatter)
    series.SetXColumnName(_POSITION)
    series.SetYColumnName(_WEIGHT)
    series.SetLabelColumnName("")
    series.SetMarkerStyle(series.MarkerStyleCircle)
    series.SetMarkerSize(7)
    series.SetLineStyle(series.LineStyleSolid)
    series.SetLineWidth(1)
    series.SetColor(0.76, 0.09, 0.25)
    series = scene.AddNode(series)
    series.SetAndObserveTableNodeID(table.GetID())
    chart = slicer.vtkMRMLPlotChartNode()
    chart.SetName(f"Slices: {name}")
    chart.SetTitle(f"{name}: weights of the slices (an even share is {1 / max(len(points), 1):.3f})")
    chart.SetXAxisTitle(words)
    chart.SetYAxisTitle("Weight")
    chart.SetLegendVisibility(False)
    chart = scene.AddNode(chart)
    chart.AddAndObservePlotSeriesNodeID(series.GetID())
    return table, series, chart


def spot_list(
    scene: slicer.vtkMRMLScene,
    plugin: str,
    spots: Spots,
    to_ras: npt.NDArray[np.float64],
) -> slicer.vtkMRMLMarkupsFiducialNode:
    """The hot spots of each class as points that cannot be dragged, in the coordinates that `to_ras` takes to RAS."""
    node = slicer.vtkMRMLMarkupsFiducialNode()
    node.SetName(f"Hot spots: {plugin}")
    node = scene.AddNode(node)
    node.CreateDefaultDisplayNodes()
    to_local = np.linalg.inv(to_ras)
    for class_name, places in spots.items():
        for ras, heat in places:
            point = (to_local @ (*ras, 1.0))[:3]
            node.AddControlPoint(vtk.vtkVector3d(*point), f"{class_name}: {heat:.2f}")
    node.SetLocked(True)
    display = node.GetDisplayNode()
    display.SetSelectedColor(*_SPOT_COLOUR)
    display.SetColor(*_SPOT_COLOUR)
    display.SetGlyphTypeFromString("CrossDot2D")
    # In 3D the heat itself is seen, and points would be painted over whatever lies in front of them.
    display.SetVisibility3D(False)
    # Points above and below would pile up on the slice that is looked at.
    display.SetSliceProjection(False)
    display.SetTextScale(2.5)
    return node


def move_spots(node: slicer.vtkMRMLMarkupsFiducialNode, places: Sequence[npt.NDArray[np.float64]]) -> None:
    """Put the points at these places in RAS; left alone where a person has added or removed points."""
    if node.GetNumberOfControlPoints() != len(places):
        return
    changing = node.StartModify()
    for number, place in enumerate(places):
        node.SetNthControlPointPositionWorld(number, *(float(value) for value in place))
    node.EndModify(changing)


def column_table(
    scene: slicer.vtkMRMLScene, name: str, columns: Mapping[str, Sequence[float] | Sequence[str]]
) -> slicer.vtkMRMLTableNode:
    """A table in the scene, a column of numbers or of texts by its title."""
    node = slicer.vtkMRMLTableNode()
    node.SetName(name)
    refill(node, columns)
    node.SetUseColumnTitleAsColumnHeader(True)
    node.SetLocked(True)
    return scene.AddNode(node)


def refill(node: slicer.vtkMRMLTableNode, columns: Mapping[str, Sequence[float] | Sequence[str]]) -> None:
    """Have the table hold these columns, and no others."""
    changing = node.StartModify()
    node.RemoveAllColumns()
    for title, values in columns.items():
        texts = any(isinstance(value, str) for value in values)
        column = vtk.vtkStringArray() if texts else vtk.vtkDoubleArray()
        column.SetName(title)
        for value in values:
            column.InsertNextValue(value if texts else float(value))
        node.AddColumn(column)
    node.EndModify(changing)
