"""Notices that another volume is open than before, so that the panel can offer it."""

from __future__ import annotations

from collections.abc import Callable

import qt
import slicer
import vtk

from .earlier import nodes_of_class
from .watching import Watch


class OpenVolumeWatch:
    """Calls `changed`, soon, after a volume came into the scene or left it, or a slice view shows another one."""

    def __init__(self, scene: slicer.vtkMRMLScene, changed: Callable[[], None]) -> None:
        self._changed = changed
        self._backgrounds: dict[str, str | None] = {}
        self._coming = self._closed = False
        self._scene, self._watch = scene, Watch()
        self._watch.on(scene, scene.NodeAddedEvent, self._on_node_added)
        self._watch.on(scene, scene.NodeAboutToBeRemovedEvent, self._on_node_removed)
        for composite in nodes_of_class(scene, "vtkMRMLSliceCompositeNode"):
            self._follow(composite)

    def close(self) -> None:
        """Watch no more."""
        self._closed = True
        self._watch.stop()

    def _on_node_added(self, node: slicer.vtkMRMLNode | None) -> None:
        if node is None:
            return
        if node.IsA("vtkMRMLSliceCompositeNode"):
            self._follow(node)
        elif node.IsA("vtkMRMLVolumeNode"):
            self._soon()

    def _on_node_removed(self, node: slicer.vtkMRMLNode | None) -> None:
        if node is not None and node.IsA("vtkMRMLVolumeNode"):
            self._soon()

    def _follow(self, composite: slicer.vtkMRMLSliceCompositeNode) -> None:
        self._backgrounds[composite.GetID()] = composite.GetBackgroundVolumeID()
        self._watch.on(composite, vtk.vtkCommand.ModifiedEvent, self._on_view)

    def _on_view(self, _: object) -> None:
        shown = {
            node.GetID(): node.GetBackgroundVolumeID()
            for node in nodes_of_class(self._scene, "vtkMRMLSliceCompositeNode")
        }
        if shown != self._backgrounds:
            self._backgrounds = shown
            self._soon()

    def _soon(self) -> None:
        # A study comes in many steps; what they come to counts.
        if not self._coming:
            self._coming = True
            qt.QTimer.singleShot(0, self._tell)

    def _tell(self) -> None:
        self._coming = False
        if not self._closed:
            self._changed()
