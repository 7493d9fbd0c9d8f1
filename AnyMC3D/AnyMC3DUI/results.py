"""The answers in the scene: table, charts, hot spots and heatmaps of a study in one folder, which a saved scene keeps.

A text node with the predictions' JSON is the heart: it references every other node, so nothing depends on names.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import slicer
import vtk

from AnyMC3DLib.errors import InputError

from . import result_nodes as nodes
from .coarse_grid import CoarseGrid
from .earlier import nodes_of_class
from .handover import HandedImage, frame_of, heat_node, ijk_to_ras_of, transform_of

Prediction = Mapping[str, Any]  # as the worker gives it

_RESULTS, _DATE = "AnyMC3D.Results", "AnyMC3D.Date"
_VOLUME, _TABLE, _CHART, _WEIGHTS, _SERIES, _SPOTS, _HEAT = (
    f"AnyMC3D{role}" for role in ("Volume", "Table", "Chart", "Weights", "Series", "HotSpots", "Heat")
)
_MADE = (_TABLE, _CHART, _SERIES, _WEIGHTS, _SPOTS, _HEAT)


def heat_is_shown(prediction: Prediction, class_name: str) -> bool:
    """Whether the class has a heatmap and reaches its threshold: below it, heat would point at nothing."""
    if class_name not in prediction["hot_spots"]:
        return False
    return prediction["probabilities"][class_name] >= prediction["thresholds"][class_name]


class StudyResults:
    """What was answered of one study, by the nodes that hold it. Nodes that the user removed are None."""

    def __init__(self, record: slicer.vtkMRMLTextNode) -> None:
        self.record = record
        self._content = json.loads(record.GetText())

    @property
    def predictions(self) -> dict[str, dict[str, Any]]:
        """The answers by plugin, as the worker gave them."""
        return self._content["predictions"]

    @property
    def date(self) -> str:
        """When the answer was written: ISO 8601, UTC."""
        return self.record.GetAttribute(_DATE)

    @property
    def volume(self) -> slicer.vtkMRMLVolumeNode | None:
        """The volume that was classified."""
        return self.record.GetNodeReference(_VOLUME)

    @property
    def frame(self) -> str | None:
        """The frame of a sequence that was classified, as `handover.frame_of` names it."""
        return self._content["frame"]

    @property
    def heat_grid(self) -> tuple[tuple[int, int, int], npt.NDArray[np.float64]]:
        """The shape [k, j, i] and the affine to RAS of the grid that heat is rendered on.

        It is that of the volume as it was classified, coarser for a large one. Where the volume has been moved since,
        its present affine would put the heat beside the anatomy.
        """
        grid = CoarseGrid(tuple(self._content["shape"]), self._factors)
        return grid.shape, np.array(self._content["ijk_to_ras"]) @ grid.to_image

    @property
    def _factors(self) -> tuple[int, int, int]:
        return tuple(self._content.get("heat_factors", (1, 1, 1)))

    @property
    def folder(self) -> int:
        """The subject-hierarchy item that holds all nodes."""
        hierarchy = _hierarchy(self.record.GetScene())
        return hierarchy.GetItemParent(hierarchy.GetItemByDataNode(self.record))

    @property
    def table(self) -> slicer.vtkMRMLTableNode | None:
        """Plugin, class, probability, threshold, decision, and whether it is uncertain."""
        return self.record.GetNodeReference(_TABLE)

    def chart(self, plugin: str, view: str) -> slicer.vtkMRMLPlotChartNode | None:
        """The weights of a view's slices by their position."""
        return self._found(_CHART, plugin=plugin, view=view)

    def hot_spots(self, plugin: str) -> slicer.vtkMRMLMarkupsFiducialNode | None:
        """The hottest places of the classes that reach their threshold."""
        return self._found(_SPOTS, plugin=plugin)

    def heat(self, plugin: str, class_name: str) -> slicer.vtkMRMLScalarVolumeNode | None:
        """The heatmap of a class, once it was rendered."""
        return self._found(_HEAT, plugin=plugin, class_name=class_name)

    def add_heat(self, plugin: str, class_name: str, array: npt.NDArray) -> slicer.vtkMRMLScalarVolumeNode:
        """Keep the heat [k, j, i] of a class, rendered on `heat_grid`; an earlier one goes.

        Raises InputError if the volume is gone, shows another frame, or has another grid.
        """
        volume = self.volume
        if volume is None:
            raise InputError("The volume that was classified is not in the scene any more: load and classify it again.")
        if self.frame != frame_of(volume):
            raise InputError("The sequence shows another frame than was classified: go back to it, or classify again.")
        scene = self.record.GetScene()
        name = f"{class_name} heat ({plugin})"
        node = heat_node(scene, array, like=volume, name=name, factors=self._factors)
        earlier = self.heat(plugin, class_name)
        if earlier is not None:
            nodes.remove(earlier, _hierarchy(scene))
        self._keep(node, _HEAT, plugin=plugin, class_name=class_name)
        return node

    def slice_at(self, plugin: str, view: str, index: int) -> npt.NDArray[np.float64]:
        """The centre of a slice in RAS [3]: that of point `index` in the view's chart.

        It goes with the volume, where that has been moved since. Raises InputError for another slice.
        """
        slices = self.predictions.get(plugin, {}).get("views", {}).get(view, {}).get("slices", [])
        if not 0 <= index < len(slices):
            raise InputError(f"The view '{view}' of '{plugin}' has no slice {index}: choose one of its chart.")
        return self._now(slices[index]["ras"])

    def charted(self, series_id: str) -> tuple[str, str] | None:
        """Plugin and view whose slice weights a plot series shows; None where it is none of this answer's."""
        for number in range(self.record.GetNumberOfNodeReferences(_SERIES)):
            node = self.record.GetNthNodeReference(_SERIES, number)
            if node is not None and node.GetID() == series_id:
                return nodes.mark_of(node, "plugin"), nodes.mark_of(node, "view")
        return None

    def spots_of(self, plugin: str, class_name: str) -> list[tuple[npt.NDArray[np.float64], float]]:
        """The hot spots of a class, hottest first: RAS [3] and heat; empty where no heat is shown."""
        prediction = self.predictions[plugin]
        if not heat_is_shown(prediction, class_name):
            return []
        return [(self._now(spot["ras"]), spot["heat"]) for spot in prediction["hot_spots"][class_name]]

    def place_spots(self) -> None:
        """Put the lists of hot spots where the volume is now."""
        for plugin, prediction in self.predictions.items():
            markups = self.hot_spots(plugin)
            if markups is not None:
                places = [ras for name in prediction["hot_spots"] for ras, _ in self.spots_of(plugin, name)]
                nodes.move_spots(markups, places)

    def remove(self) -> None:
        """Remove all nodes of the answer and its folder; the volume stays."""
        scene, folder = self.record.GetScene(), self.folder
        hierarchy = _hierarchy(scene)
        made = [
            self.record.GetNthNodeReference(role, number)
            for role in _MADE
            for number in range(self.record.GetNumberOfNodeReferences(role))
        ]
        for node in (*made, self.record):
            if node is not None:
                nodes.remove(node, hierarchy)
        if folder and hierarchy.GetItemLevel(folder) == "Folder" and not hierarchy.GetNumberOfItemChildren(folder):
            hierarchy.RemoveItem(folder)

    def _now(self, ras: list[float]) -> npt.NDArray[np.float64]:
        """Where a place of the classified image is now: it goes with its voxel."""
        then = np.array(self._content["ijk_to_ras"])
        volume = self.volume
        try:
            moved = np.eye(4) if volume is None else ijk_to_ras_of(volume) @ np.linalg.inv(then)
        except InputError:
            # Bent or flattened meanwhile: the place of then is the best that is known.
            moved = np.eye(4)
        return (moved @ (*ras, 1.0))[:3]

    def _found(self, role: str, **marks: str) -> slicer.vtkMRMLNode | None:
        for number in range(self.record.GetNumberOfNodeReferences(role)):
            node = self.record.GetNthNodeReference(role, number)
            if node is not None and nodes.has_marks(node, marks):
                return node
        return None

    def _keep(self, node: slicer.vtkMRMLNode, role: str, **marks: str) -> None:
        nodes.mark(node, marks)
        self.record.AddNodeReferenceID(role, node.GetID())
        hierarchy = _hierarchy(self.record.GetScene())
        # A node enters the hierarchy by itself, at its top, if at all.
        hierarchy.SetItemParent(hierarchy.CreateItem(self.folder, node), self.folder)

    def _fill(self) -> None:
        scene = self.record.GetScene()
        self._keep(nodes.class_table(scene, self.predictions), _TABLE)
        for plugin, prediction in self.predictions.items():
            for view, content in prediction["views"].items():
                weights, series, chart = nodes.slice_chart(scene, plugin, view, content)
                self._keep(chart, _CHART, plugin=plugin, view=view)
                self._keep(series, _SERIES, plugin=plugin, view=view)
                self._keep(weights, _WEIGHTS, plugin=plugin, view=view)
            spots = {name: self.spots_of(plugin, name) for name in prediction["hot_spots"]}
            if any(spots.values()):
                self._keep(self._spot_list(plugin, spots), _SPOTS, plugin=plugin)

    def _spot_list(self, plugin: str, spots: nodes.Spots) -> slicer.vtkMRMLMarkupsFiducialNode:
        try:
            to_ras, parent = transform_of(self.volume), self.volume.GetTransformNodeID()
        except InputError:
            to_ras, parent = np.eye(4), None
        markups = nodes.spot_list(self.record.GetScene(), plugin, spots, to_ras)
        markups.SetAndObserveTransformNodeID(parent)
        return markups


class ResultStore:
    """The answers in a scene."""

    def __init__(self, scene: slicer.vtkMRMLScene) -> None:
        self._scene = scene

    def write(
        self,
        volume: slicer.vtkMRMLVolumeNode,
        predictions: Mapping[str, Prediction],
        *,
        image: HandedImage | None = None,
    ) -> StudyResults:
        """Put the answers (`Prediction.to_dict` by plugin) into the scene, beside the volume in the hierarchy.

        `image` is what was handed over, in case that the volume was moved, or shows another frame, since. An earlier
        answer stays. Raises InputError if there is none to write, or the volume is gone.
        """
        if not predictions:
            raise InputError("There is no answer to keep: classify the study first.")
        if volume is None or volume.GetScene() is not self._scene:
            raise InputError("The volume that was classified is not in the scene any more: load and classify it again.")
        affine = ijk_to_ras_of(volume) if image is None else image.ijk_to_ras
        shape = volume.GetImageData().GetDimensions()[::-1]
        content = {
            "predictions": dict(predictions),
            "ijk_to_ras": affine.tolist(),
            "shape": list(shape),
            "heat_factors": list(CoarseGrid.of(shape, np.linalg.norm(affine[:3, 2::-1], axis=0)).factors),
            "frame": frame_of(volume) if image is None else image.frame,
        }
        text = json.dumps(content)
        self._scene.StartState(self._scene.BatchProcessState)
        try:
            results = StudyResults(self._record(volume, text))
            try:
                results._fill()
            except BaseException:
                results.remove()
                raise
        finally:
            self._scene.EndState(self._scene.BatchProcessState)
        return results

    def all(self) -> list[StudyResults]:
        """Every answer in the scene, the oldest first; a damaged one is left out."""
        found = [node for node in nodes_of_class(self._scene, "vtkMRMLTextNode") if node.GetAttribute(_RESULTS)]
        readable = [StudyResults(node) for node in found if _is_readable(node)]
        return sorted(readable, key=lambda results: results.date)

    def latest(self, volume: slicer.vtkMRMLVolumeNode | None = None) -> StudyResults | None:
        """The newest answer, of `volume` where one is given."""
        found = [results for results in self.all() if volume is None or results.volume is volume]
        return found[-1] if found else None

    def _record(self, volume: slicer.vtkMRMLVolumeNode, text: str) -> slicer.vtkMRMLTextNode:
        node = slicer.vtkMRMLTextNode()
        node.SetName(f"{volume.GetName()} predictions")
        node.SetEncoding(vtk.VTK_ENCODING_UTF_8)
        node.SetText(text)
        node.SetAttribute(_RESULTS, "1")
        node.SetAttribute(_DATE, datetime.datetime.now(datetime.UTC).isoformat(timespec="microseconds"))
        node = self._scene.AddNode(node)
        node.SetNodeReferenceID(_VOLUME, volume.GetID())
        hierarchy = _hierarchy(self._scene)
        item = hierarchy.GetItemByDataNode(volume)
        parent = hierarchy.GetItemParent(item) if item else hierarchy.GetSceneItemID()
        folder = hierarchy.CreateFolderItem(parent, f"AnyMC3D: {volume.GetName()}")
        hierarchy.SetItemExpanded(folder, False)
        hierarchy.SetItemParent(hierarchy.CreateItem(folder, node), folder)
        return node


def _is_readable(node: slicer.vtkMRMLTextNode) -> bool:
    try:
        content = json.loads(node.GetText() or "")
    except ValueError:
        return False
    return isinstance(content, dict) and {"predictions", "ijk_to_ras", "shape", "frame"} <= set(content)


def _hierarchy(scene: slicer.vtkMRMLScene) -> slicer.vtkMRMLSubjectHierarchyNode:
    return slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
