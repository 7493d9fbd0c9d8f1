"""Moving the views to a place, with the crosshair."""

from __future__ import annotations

from collections.abc import Sequence

import slicer


def jump(scene: slicer.vtkMRMLScene, ras: Sequence[float]) -> None:
    """Show the place, in RAS millimetres, in every slice view, and put the crosshair there."""
    place = [float(value) for value in ras]
    nodes = scene.GetNodesByClass("vtkMRMLSliceNode")
    nodes.UnRegister(None)
    for index in range(nodes.GetNumberOfItems()):
        # By offset: the picture stays where it is in the view.
        nodes.GetItemAsObject(index).JumpSliceByOffsetting(*place)
    crosshair = scene.GetFirstNodeByClass("vtkMRMLCrosshairNode")
    if crosshair is not None:
        crosshair.SetCrosshairRAS(place)
        if crosshair.GetCrosshairMode() == slicer.vtkMRMLCrosshairNode.NoCrosshair:
            crosshair.SetCrosshairMode(slicer.vtkMRMLCrosshairNode.ShowBasic)
