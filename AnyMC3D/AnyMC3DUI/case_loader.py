"""Loads a case of a dataset into the scene: its images, and its masks as segmentations."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import slicer
import slicer.util

from AnyMC3DLib.errors import InputError

from .earlier import nodes_of_class

if TYPE_CHECKING:
    from AnyMC3DLib.training.dataset import Dataset

# The node's ID and the file of the dataset that it was stored to, or was read from: clones and crops of a node have
# its attributes too, and another ID.
FILE_ATTRIBUTE = "AnyMC3D.DatasetFile"


def load_case(scene: slicer.vtkMRMLScene, dataset: Dataset, key: int) -> list[slicer.vtkMRMLNode]:
    """The nodes of a case: its volumes in the order of the sources, then the segmentations of its masks.

    What the scene holds already is not read again. Raises InputError for a case without images, and for what cannot be
    read.
    """
    name = dataset.cell(key, "case")
    files = {source: dataset.image_path(key, source) for source in dataset.sources}
    there = {source: path for source, path in files.items() if path is not None}
    if not there:
        raise InputError(f"The case '{name}' has no image: name its file in the table.")
    volumes = {
        source: in_scene(scene, path) or _load_volume(path, name if len(files) == 1 else f"{name} {source}")
        for source, path in there.items()
    }
    masks = [
        in_scene(scene, path) or _load_mask(scene, path, volume)
        for source, volume in volumes.items()
        if (path := dataset.mask_path(key, source)) is not None
    ]
    return [*volumes.values(), *masks]


def show(nodes: list[slicer.vtkMRMLNode]) -> None:
    """Show the first volume in the slice views, fitted; without views nothing happens."""
    if nodes and slicer.app.layoutManager() is not None:
        slicer.util.setSliceViewerLayers(background=nodes[0], fit=True)


def in_scene(scene: slicer.vtkMRMLScene, path: Path) -> slicer.vtkMRMLNode | None:
    """The node of the scene that was read from, or stored to, that file of a dataset."""
    for kind in ("vtkMRMLVolumeNode", "vtkMRMLSegmentationNode"):
        for node in nodes_of_class(scene, kind):
            if file_of(node) == path:
                return node
    return None


def remember_file(node: slicer.vtkMRMLNode, path: Path) -> None:
    """Keep with a node of the scene which file of a dataset holds the same."""
    node.SetAttribute(FILE_ATTRIBUTE, f"{node.GetID()}|{path}")


def file_of(node: slicer.vtkMRMLNode) -> Path | None:
    """The file that `remember_file` was told for this very node."""
    owner, _, path = (node.GetAttribute(FILE_ATTRIBUTE) or "").partition("|")
    scene = node.GetScene()
    # Not by the ID alone: a node that was copied over another one in the scene has its ID too.
    owns = path and scene is not None and owner == node.GetID() and scene.GetNodeByID(owner) is node
    return Path(path) if owns else None


def _load_volume(path: Path, name: str) -> slicer.vtkMRMLVolumeNode:
    if path.is_dir():
        node = _read_series(path, name)
    else:
        # Slicer would else take a file with a number in its name for one slice of many.
        node = _loaded(path, {"name": name, "singleFile": True, "show": False})
    remember_file(node, path)
    return node


def _read_series(path: Path, name: str) -> slicer.vtkMRMLVolumeNode:
    """The DICOM series in a folder, as training reads it: Slicer would import it into its database first."""
    from AnyMC3DLib.volume import read_volume

    volume = read_volume(path)
    return slicer.util.addVolumeFromArray(volume.array, ijkToRAS=volume.ijk_to_ras, name=name)


def _load_mask(
    scene: slicer.vtkMRMLScene, path: Path, volume: slicer.vtkMRMLVolumeNode
) -> slicer.vtkMRMLSegmentationNode:
    name = f"{volume.GetName()} mask"
    labels = _loaded(path, {"name": name, "singleFile": True, "show": False, "labelmap": True})
    try:
        node = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", name)
        node.SetReferenceImageGeometryParameterFromVolumeNode(volume)
        if not slicer.modules.segmentations.logic().ImportLabelmapToSegmentationNode(labels, node):
            scene.RemoveNode(node)
            raise InputError(f"The mask '{path.name}' holds no labels: draw and store it again.")
    finally:
        scene.RemoveNode(labels)
    node.CreateDefaultDisplayNodes()
    remember_file(node, path)
    return node


def _loaded(path: Path, properties: dict[str, object]) -> slicer.vtkMRMLVolumeNode:
    if not path.is_file():
        raise InputError(f"There is no file '{path}': correct the path in the table.")
    try:
        return slicer.util.loadNodeFromFile(str(path), "VolumeFile", properties)
    except RuntimeError as error:
        raise InputError(f"'{path.name}' cannot be loaded: check the file.") from error
