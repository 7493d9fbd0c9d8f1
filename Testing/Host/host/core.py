"""The scene and the modules' logics as the application sets them up."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path

import slicer

# The order matters: the segmentations' logic has to be the first.
MODULE_LOGICS: Mapping[str, str] = {
    "Segmentations": "vtkSlicerSegmentationsModuleLogic",
    "Colors": "vtkSlicerColorLogic",
    "Volumes": "vtkSlicerVolumesLogic",
    "Markups": "vtkSlicerMarkupsLogic",
    "SubjectHierarchy": "vtkSlicerSubjectHierarchyModuleLogic",
    "Tables": "vtkSlicerTablesLogic",
    "Plots": "vtkSlicerPlotsLogic",
    "Texts": "vtkSlicerTextsLogic",
    "Transforms": "vtkSlicerTransformLogic",
    "Sequences": "vtkSlicerSequencesLogic",
    "Models": "vtkSlicerModelsLogic",
    "Units": "vtkSlicerUnitsLogic",
    "VolumeRendering": "vtkSlicerVolumeRenderingLogic",
}
# As (kind of view, names).
DISPLAYABLE_MANAGERS = (
    (
        slicer.vtkMRMLSliceViewDisplayableManagerFactory,
        (
            "vtkMRMLModelSliceDisplayableManager",
            "vtkMRMLCrosshairDisplayableManager",
            "vtkMRMLMarkupsDisplayableManager",
            "vtkMRMLSegmentationsDisplayableManager2D",
            "vtkMRMLOrientationMarkerDisplayableManager",
            "vtkMRMLColorLegendDisplayableManager",
        ),
    ),
    (
        slicer.vtkMRMLThreeDViewDisplayableManagerFactory,
        (
            "vtkMRMLCameraDisplayableManager",
            "vtkMRMLViewDisplayableManager",
            "vtkMRMLModelDisplayableManager",
            "vtkMRMLMarkupsDisplayableManager",
            "vtkMRMLVolumeRenderingDisplayableManager",
            "vtkMRMLOrientationMarkerDisplayableManager",
            "vtkMRMLColorLegendDisplayableManager",
        ),
    ),
)


class Core:
    """Scene, application logic, module logics. `close` takes them down, last come first."""

    def __init__(self) -> None:
        self._home = tempfile.TemporaryDirectory(prefix="anymc3d-host-")
        (Path(self._home.name) / "share" / "ColorFiles").mkdir(parents=True)
        (Path(self._home.name) / ".slicer-cache").touch()
        self.scene = slicer.vtkMRMLScene()
        self.application_logic = slicer.vtkSlicerApplicationLogic()
        self.application_logic.SetHomeDirectory(self._home.name)
        self.application_logic.SetShareDirectory("share")
        self.application_logic.SetTemporaryPath(self._home.name)
        self.application_logic.SetMRMLScene(self.scene)
        self._add_remote_io()
        self.logics = {name: self._logic(name, kind) for name, kind in MODULE_LOGICS.items()}
        for factory, names in DISPLAYABLE_MANAGERS:
            instance = factory.GetInstance()
            instance.SetMRMLApplicationLogic(self.application_logic)
            for name in names:
                if not instance.IsDisplayableManagerRegistered(name):
                    instance.RegisterDisplayableManager(name)
        slicer.mrmlScene = self.scene
        for name in ("vtkMRMLCrosshairNode", "vtkMRMLSelectionNode", "vtkMRMLInteractionNode"):
            if not self.scene.GetFirstNodeByClass(name):
                self._singleton(name)
        slicer.vtkMRMLSubjectHierarchyNode.ResolveSubjectHierarchy(self.scene)

    @property
    def temporary_path(self) -> str:
        """A folder that is removed with the core."""
        return self._home.name

    def _singleton(self, name: str) -> None:
        node = self.scene.CreateNodeByClass(name)
        node.UnRegister(None)
        node.SetSingletonTag("default")
        self.scene.AddNode(node)

    def _add_remote_io(self) -> None:
        # Scene bundles cannot be read without.
        self._remote = slicer.vtkMRMLRemoteIOLogic()
        self._remote.SetMRMLScene(self.scene)
        self._data_io = slicer.vtkDataIOManagerLogic()
        self._data_io.SetMRMLApplicationLogic(self.application_logic)
        self._remote.AddDataIOToScene()
        self._data_io.SetAndObserveDataIOManager(self._remote.GetDataIOManager())
        self._remote.GetDataIOManager().GetCacheManager().SetRemoteCacheDirectory(self._home.name)
        self.scene.SetCacheManager(self._remote.GetDataIOManager().GetCacheManager())

    def _logic(self, name: str, kind: str) -> slicer.vtkMRMLAbstractLogic:
        logic = getattr(slicer, kind)()
        if hasattr(logic, "SetModuleShareDirectory"):
            logic.SetModuleShareDirectory(self._home.name)
        logic.SetMRMLApplicationLogic(self.application_logic)
        logic.SetMRMLScene(self.scene)
        self.application_logic.SetModuleLogic(name, logic)
        return logic

    def close(self) -> None:
        """Empty the scene and let go of it."""
        self.scene.Clear(1)
        for name, logic in reversed(self.logics.items()):
            self.application_logic.SetModuleLogic(name, None)
            logic.SetMRMLScene(None)
        self.logics.clear()
        self._remote.SetMRMLScene(None)
        self.application_logic.SetMRMLScene(None)
        # The scene tells of its end, and an observer that is collected with it would be called as half an object.
        self.scene.RemoveAllObservers()
        slicer.mrmlScene = None
        self._home.cleanup()
