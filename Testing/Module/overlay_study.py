"""A study in all slice views with an overlay, and how to look at what they show."""

from __future__ import annotations

import numpy as np
import slicer
import slicer.util
import studies
from AnyMC3DUI.handover import heat_node
from AnyMC3DUI.overlay import HeatOverlay
from scene import SLICE_VIEWS, Scene

LESION = (33, 12, 15)


class SliceStudy:
    """A study with a lesion in all slice views, its heat, and an overlay that is off."""

    def __init__(self, scene: Scene, affine: np.ndarray, *, transform: bool = False) -> None:
        self.scene = scene
        self.anatomy = studies.add_volume(studies.study_with_lesion(affine, LESION), affine)
        if transform:
            self.anatomy.SetAndObserveTransformNodeID(studies.add_transform().GetID())
        local = (affine @ (*LESION, 1))[:3]
        self.heat = self.add_heat(studies.heat_about(local, shape=studies.SHAPE, affine=affine, width=8))
        self.lesion = studies.world_of(self.anatomy, LESION)
        scene.set_background(self.anatomy)
        scene.jump(self.lesion)
        self.anatomy.GetDisplayNode().AutoWindowLevelOff()
        self.anatomy.GetDisplayNode().SetWindowLevel(1000, 500)
        # The legend's painter learns of legends that come after it.
        scene.slice_picture("Red")
        self.overlay = HeatOverlay(scene.mrml)

    def add_heat(self, array: np.ndarray, name: str = "heat") -> slicer.vtkMRMLScalarVolumeNode:
        return heat_node(self.scene.mrml, array, like=self.anatomy, name=name)

    def show(self) -> None:
        self.overlay.show(self.anatomy, self.heat, "lesion")


def warmth(picture: np.ndarray) -> np.ndarray:
    """How much more red than blue each pixel is."""
    return picture[..., 0].astype(int) - picture[..., 2]


def without_legend(picture: np.ndarray) -> np.ndarray:
    return picture[:, :180]


def legends(scene: Scene) -> list[slicer.vtkMRMLNode]:
    return slicer.util.getNodesByClass("vtkMRMLColorLegendDisplayNode", scene.mrml)


def settings(shown: SliceStudy) -> list[object]:
    """All that a person sees and can set."""
    found: list[object] = []
    for view in SLICE_VIEWS:
        one = shown.scene.composite(view)
        found += [one.GetBackgroundVolumeID(), one.GetForegroundVolumeID(), one.GetLabelVolumeID()]
        found += [one.GetForegroundOpacity(), one.GetLabelOpacity(), one.GetCompositing()]
    display = shown.anatomy.GetDisplayNode()
    found += [display.GetWindow(), display.GetLevel(), display.GetAutoWindowLevel(), display.GetColorNodeID()]
    return [*found, [(node.GetName(), node.GetVisibility()) for node in legends(shown.scene)]]
