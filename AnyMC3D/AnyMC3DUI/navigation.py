"""Moving the views: to a place, with the crosshair, and back to where all is seen."""

from __future__ import annotations

from collections.abc import Sequence

import slicer

from .earlier import nodes_of_class


def look_at(scene: slicer.vtkMRMLScene, ras: Sequence[float]) -> None:
    """Show the place, in RAS millimetres, in every slice view."""
    place = [float(value) for value in ras]
    for node in nodes_of_class(scene, "vtkMRMLSliceNode"):
        # By offset: the picture stays where it is in the view.
        node.JumpSliceByOffsetting(*place)


def jump(scene: slicer.vtkMRMLScene, ras: Sequence[float]) -> None:
    """Show the place, in RAS millimetres, in every slice view, and put the crosshair there."""
    look_at(scene, ras)
    crosshair = scene.GetFirstNodeByClass("vtkMRMLCrosshairNode")
    if crosshair is not None:
        crosshair.SetCrosshairRAS([float(value) for value in ras])
        if crosshair.GetCrosshairMode() == slicer.vtkMRMLCrosshairNode.NoCrosshair:
            crosshair.SetCrosshairMode(slicer.vtkMRMLCrosshairNode.ShowBasic)


def frame_in_3d() -> None:
    """Have the 3D views show all that is in them, from where they look."""
    manager = slicer.app.layoutManager()
    if manager is None:  # no window, as in a script
        return
    for number in range(manager.threeDViewCount):
        keep_rotation, move, zoom = False, True, True
        manager.threeDWidget(number).threeDView().resetCamera(keep_rotation, move, zoom)
