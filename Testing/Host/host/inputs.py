"""`slicer.app.coreIOManager()`: reading and writing files into the scene, as far as `slicer.util` needs it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import slicer

STORAGE: Mapping[str, tuple[str, str]] = {
    "VolumeFile": ("vtkMRMLScalarVolumeNode", "vtkMRMLVolumeArchetypeStorageNode"),
    "SegmentationFile": ("vtkMRMLSegmentationNode", "vtkMRMLSegmentationStorageNode"),
    "MarkupsFile": ("vtkMRMLMarkupsFiducialNode", "vtkMRMLMarkupsJsonStorageNode"),
    "TableFile": ("vtkMRMLTableNode", "vtkMRMLTableStorageNode"),
    "TextFile": ("vtkMRMLTextNode", "vtkMRMLTextStorageNode"),
}


class CoreIOManager:
    """Reads one file as one node through the node's own storage node; scenes and bundles through the scene."""

    def __init__(self, scene: object) -> None:
        self.scene = scene

    def loadNodes(  # noqa: N802
        self, kind: str, properties: Mapping[str, Any], loaded: object = None, messages: object = None
    ) -> bool:
        """Read `properties["fileName"]`; the nodes are appended to `loaded`."""
        path = str(properties["fileName"])
        if kind == "SceneFile":
            return self.loadScene(path, clear=bool(properties.get("clear", True)))
        node_class, storage_class = STORAGE[kind]
        if kind == "VolumeFile" and properties.get("labelmap"):
            node_class = "vtkMRMLLabelMapVolumeNode"
        name = properties.get("name") or Path(path).name.split(".")[0]
        node = self.scene.AddNewNodeByClass(node_class, self.scene.GenerateUniqueName(name))
        storage = self.scene.AddNewNodeByClass(storage_class)
        storage.SetFileName(path)
        if not storage.ReadData(node):
            self.scene.RemoveNode(node)
            self.scene.RemoveNode(storage)
            return False
        node.SetAndObserveStorageNodeID(storage.GetID())
        if hasattr(node, "CreateDefaultDisplayNodes"):
            node.CreateDefaultDisplayNodes()
        if kind == "VolumeFile" and properties.get("show", True):
            slicer.util.setSliceViewerLayers(background=node, fit=slicer.app.layoutManager() is not None)
        hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(self.scene)
        hierarchy.CreateItem(hierarchy.GetSceneItemID(), node)
        if loaded is not None:
            loaded.AddItem(node)
        return True

    def loadNodesAndGetFirst(self, kind: str, properties: Mapping[str, Any], messages: object = None) -> object:  # noqa: N802
        """As `loadNodes`, with the node as the answer."""
        before = self.scene.GetNumberOfNodes()
        if not self.loadNodes(kind, properties):
            return None
        node_class = "vtkMRMLVolumeNode" if kind == "VolumeFile" else STORAGE[kind][0]
        fresh = [self.scene.GetNthNode(index) for index in range(before, self.scene.GetNumberOfNodes())]
        return next(node for node in fresh if node.IsA(node_class))

    def loadScene(self, path: str, clear: bool = True) -> bool:  # noqa: N802
        """Read a scene (.mrml) or a bundle (.mrb)."""
        if path.endswith(".mrb"):
            return bool(self.scene.ReadFromMRB(path, clear))
        self.scene.SetURL(path)
        return bool(self.scene.Connect() if clear else self.scene.Import())

    def saveNodes(self, kind: str, properties: Mapping[str, Any], messages: object = None) -> bool:  # noqa: N802
        """Write the scene, or one node through its storage node."""
        path = str(properties["fileName"])
        if kind == "SceneFile":
            return bool(self.scene.WriteToMRB(path) if path.endswith(".mrb") else self.scene.Commit(path))
        node = self.scene.GetNodeByID(properties["nodeID"])
        node.AddDefaultStorageNode(path)
        return bool(node.GetStorageNode().WriteData(node))

    def fileType(self, path: str) -> str:  # noqa: N802
        """What kind of file that is, by its name."""
        name = path.lower()
        if name.endswith((".mrb", ".mrml")):
            return "SceneFile"
        return "SegmentationFile" if name.endswith((".seg.nrrd", ".seg.nii.gz")) else "VolumeFile"
