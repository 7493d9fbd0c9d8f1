"""How heat looks, the same in the slice views, the 3D view and the report: its colours and its display node."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import slicer

from .earlier import nodes_of_class

THRESHOLD = 0.5  # as the library's report: heat below it is not shown
COLOURS_ATTRIBUTE = "AnyMC3D.Colours"
HEAT_ATTRIBUTE = "AnyMC3D.Heat"
TABLE_SIZE = 256
# From red to light yellow over the upper half of the scale: brightness rises with the heat, so it reads in print and
# to the colour-blind too.
_STOPS = np.array([[0xC2, 0x18, 0x3F], [0xEA, 0x4B, 0x2C], [0xFF, 0x9D, 0x1F], [0xFF, 0xE9, 0x6B]]) / 255


def heat_colours(heat: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Heat [...] in [0, 1] as RGB [..., 3] in [0, 1]; below the usual threshold it is ever darker red."""
    values = np.asarray(heat, dtype=np.float64)
    above = np.clip((values - THRESHOLD) / (1 - THRESHOLD), 0, 1)
    places = np.linspace(0, 1, len(_STOPS))
    rgb = np.stack([np.interp(above, places, _STOPS[:, channel]) for channel in range(3)], axis=-1)
    # A person may lower the threshold: what then appears must not look as hot as what was there before.
    return rgb * np.clip(0.35 + 0.65 * values / THRESHOLD, 0, 1)[..., np.newaxis]


def colour_node(scene: slicer.vtkMRMLScene) -> slicer.vtkMRMLColorTableNode:
    """The scene's colour table of heat, made where it lacks one."""
    for node in nodes_of_class(scene, "vtkMRMLColorTableNode"):
        if node.GetAttribute(COLOURS_ATTRIBUTE) and node.GetNumberOfColors() == TABLE_SIZE:
            return node
    node = slicer.vtkMRMLColorTableNode()
    node.SetName("AnyMC3D heat")
    node.SetTypeToUser()
    node.SetNumberOfColors(TABLE_SIZE)
    for index, rgb in enumerate(heat_colours(np.linspace(0, 1, TABLE_SIZE))):
        node.SetColor(index, f"{index / (TABLE_SIZE - 1):.2f}", *rgb.tolist(), 1.0)
    node.SetAttribute(COLOURS_ATTRIBUTE, "1")
    node.SetHideFromEditors(True)
    return scene.AddNode(node)


def dress(node: slicer.vtkMRMLScalarVolumeNode, *, threshold: float = THRESHOLD) -> None:
    """Give the heat volume its colours, the fixed scale from 0 to 1, and a threshold below which it is not there."""
    display = slicer.vtkMRMLScalarVolumeDisplayNode()
    # Before it knows of the volume: a default display node counts all its voxels for a window that is not wanted.
    display.AutoWindowLevelOff()
    display = node.GetScene().AddNode(display)
    changing = display.StartModify()
    display.SetAndObserveColorNodeID(colour_node(node.GetScene()).GetID())
    display.SetWindowLevelMinMax(0.0, 1.0)
    # Patches are coarse, and steps between them would look like findings.
    display.SetInterpolate(True)
    display.AutoThresholdOff()
    display.SetThreshold(threshold, 1.0)
    # Without the threshold the layer would darken the anatomy where there is no heat.
    display.SetApplyThreshold(True)
    display.EndModify(changing)
    node.SetAndObserveDisplayNodeID(display.GetID())
