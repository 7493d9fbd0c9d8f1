"""Moving the views: to a place, with the crosshair, and back to where all is seen."""

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


def frame_in_3d() -> None:
    """Have the 3D views show all that is in them, from where they look."""
    manager = slicer.app.layoutManager()
    if manager is None:  # no window, as in a script
        return
    for number in range(manager.threeDViewCount):
        keep_rotation, move, zoom = False, True, True
        manager.threeDWidget(number).threeDView().resetCamera(keep_rotation, move, zoom)
