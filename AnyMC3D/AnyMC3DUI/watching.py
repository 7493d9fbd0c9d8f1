"""Observers of MRML nodes and of the scene that go when what they call goes."""

from __future__ import annotations

import weakref
from collections.abc import Callable

import vtk


class Watch:
    """Calls bound methods on events, until `stop`; it keeps no owner alive, and calls none that is half gone."""

    def __init__(self) -> None:
        self._tags: list[tuple[vtk.vtkObject, int]] = []

    def on(self, subject: vtk.vtkObject, event: int, method: Callable[[vtk.vtkObject | None], None]) -> None:
        """Call `method` with the node that the event is about, where it is about one."""
        # A scene and its observer would else be collected together, and the last event would find an empty object.
        weak = weakref.WeakMethod(method)

        def plain(*_: object) -> None:
            call = weak()
            if call is not None:
                call(None)

        @vtk.calldata_type(vtk.VTK_OBJECT)
        def with_node(_: object, __: str, node: vtk.vtkObject | None) -> None:
            call = weak()
            if call is not None:
                call(node)

        is_scene = subject.IsA("vtkMRMLScene")
        about_node = is_scene and event in (subject.NodeAddedEvent, subject.NodeAboutToBeRemovedEvent)
        self._tags.append((subject, subject.AddObserver(event, with_node if about_node else plain)))

    def stop(self) -> None:
        """Observe nothing any more."""
        for subject, tag in self._tags:
            subject.RemoveObserver(tag)
        self._tags.clear()
