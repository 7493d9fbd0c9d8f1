"""What goes from the scene to the worker, and what comes back: images, regions, heat, and where they lie in RAS.

Nothing is computed here; voxels are handed on as they lie in memory, and the engine looks at what they hold.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import slicer
import slicer.util
import vtk

from AnyMC3DLib.errors import InputError

from .coarse_grid import CoarseGrid
from .earlier import nodes_of_class
from .heat_look import HEAT_ATTRIBUTE, dress

Matrix = npt.NDArray[np.float64]  # [4, 4]

FRAME_ATTRIBUTE = "AnyMC3D.Frame"
FACTORS_ATTRIBUTE = "AnyMC3D.Factors"


@dataclasses.dataclass(frozen=True)
class HandedImage:
    """A view of a volume's voxels [k, j, i] (or [k, j, i, 3]) and its 4x4 affine to RAS, transforms included.

    `frame` names the frame of a sequence that it shows, None for a plain volume; `modality` is DICOM's code, "" where
    the scene knows none.
    """

    array: npt.NDArray
    ijk_to_ras: Matrix
    name: str
    frame: str | None = None
    modality: str = ""


@dataclasses.dataclass(frozen=True)
class HandedBox:
    """A box along R, A and S, in millimetres."""

    low: tuple[float, float, float]
    high: tuple[float, float, float]


@dataclasses.dataclass(frozen=True)
class HandedLabels:
    """Labels [k, j, i] on a grid of their own, its affine, and the label that is meant."""

    array: npt.NDArray
    ijk_to_ras: Matrix
    label: int


def image_of(node: slicer.vtkMRMLVolumeNode) -> HandedImage:
    """The voxels of a volume as they are now, of a sequence's proxy the frame that it shows, and their place.

    The array is the scene's own memory: copy it before the scene changes. Raises InputError, in one sentence, for a
    volume without voxels, or of neither one nor three values a voxel, and for a place that no single affine describes.
    """
    return HandedImage(_voxels(node), ijk_to_ras_of(node), node.GetName() or "", frame_of(node), modality_of(node))


def modality_of(node: slicer.vtkMRMLVolumeNode) -> str:
    """DICOM's code of a volume's modality, such as "CT"; "" for what was not loaded from DICOM."""
    scene = node.GetScene()
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene) if scene is not None else None
    item = hierarchy.GetItemByDataNode(node) if hierarchy is not None else 0
    if not item:
        return ""
    return hierarchy.GetItemAttribute(
        item, slicer.vtkMRMLSubjectHierarchyConstants.GetDICOMSeriesModalityAttributeName()
    ).strip()


def ijk_to_ras_of(node: slicer.vtkMRMLVolumeNode) -> Matrix:
    """The affine from (i, j, k) to RAS with every parent transform; raises InputError where it is not one."""
    local = vtk.vtkMatrix4x4()
    node.GetIJKToRASMatrix(local)
    affine = transform_of(node) @ slicer.util.arrayFromVTKMatrix(local)
    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    is_affine = np.all(np.isfinite(affine)) and np.allclose(affine[3], (0, 0, 0, 1)) and lengths.min() > 1e-9
    if not is_affine or abs(np.linalg.det(affine[:3, :3] / lengths)) < 1e-3:
        raise InputError(f"The geometry of {_title(node)} is flat or not finite: correct its header or its transform.")
    return affine


def transform_of(node: slicer.vtkMRMLTransformableNode) -> Matrix:
    """From the node's own coordinates to RAS; raises InputError for a transform that bends."""
    parent = node.GetParentTransformNode()
    if parent is None:
        return np.eye(4)
    if not parent.IsTransformToWorldLinear():
        raise InputError(f"{_title(node)} is under a transform that is not linear: harden the transform first.")
    matrix = vtk.vtkMatrix4x4()
    parent.GetMatrixTransformToWorld(matrix)
    return slicer.util.arrayFromVTKMatrix(matrix)


def frame_of(node: slicer.vtkMRMLNode) -> str | None:
    """The index value of the frame of a sequence that the node shows; None where it is not of a sequence."""
    browser = browser_of(node)
    if browser is None or browser.GetSelectedItemNumber() < 0:
        return None
    # By its value, not its number: frames may be removed, and the value is what a person sees.
    return browser.GetSequenceNode(node).GetNthIndexValue(browser.GetSelectedItemNumber())


def browser_of(node: slicer.vtkMRMLNode) -> slicer.vtkMRMLSequenceBrowserNode | None:
    """The sequence browser that changes what the node shows."""
    scene = node.GetScene()
    for browser in nodes_of_class(scene, "vtkMRMLSequenceBrowserNode") if scene is not None else ():
        if browser.GetSequenceNode(node) is not None:
            return browser
    return None


def region_of(
    node: slicer.vtkMRMLNode, volume: slicer.vtkMRMLVolumeNode | None = None, *, segment: str | None = None
) -> HandedBox | HandedLabels:
    """The region that a markups ROI, or the segment `segment` (its ID) of a segmentation, is about.

    A segment that is only a surface is made voxels on the grid of `volume`. Raises InputError for an empty region, a
    transform that is not linear, and any other node.
    """
    if node.IsA("vtkMRMLMarkupsROINode"):
        return _region_of_roi(node)
    if node.IsA("vtkMRMLSegmentationNode"):
        return _region_of_segment(node, segment, volume)
    raise InputError(f"{_title(node)} is no region: choose a markups ROI or a segment.")


def heat_node(
    scene: slicer.vtkMRMLScene,
    array: npt.NDArray,
    *,
    like: slicer.vtkMRMLVolumeNode,
    name: str,
    factors: Sequence[int] = (1, 1, 1),
) -> slicer.vtkMRMLScalarVolumeNode:
    """A volume of heat [k, j, i] in [0, 1] over `like`, and wherever a transform takes that.

    Its voxels are those of `like`, or blocks of `factors` of them along (k, j, i). An array of bytes has a heat of 1
    at 255. Raises InputError for another shape, or values that are no heat.
    """
    heat = _checked_heat(array, like, factors)
    node = slicer.vtkMRMLScalarVolumeNode()
    node.SetName(name)
    slicer.util.updateVolumeFromArray(node, heat)
    node = scene.AddNode(node)
    node.SetAttribute(HEAT_ATTRIBUTE, "1")
    node.SetAttribute(FACTORS_ATTRIBUTE, " ".join(map(str, factors)))
    frame = frame_of(like)
    if frame is not None:
        node.SetAttribute(FRAME_ATTRIBUTE, frame)
    place_like(node, like)
    dress(node)
    return node


def place_like(node: slicer.vtkMRMLVolumeNode, like: slicer.vtkMRMLVolumeNode) -> None:
    """Put the volume where `like` is, of whose voxels its own are blocks: a header that fits, the same transform."""
    matrix = vtk.vtkMatrix4x4()
    like.GetIJKToRASMatrix(matrix)
    to_ras = slicer.util.arrayFromVTKMatrix(matrix) @ grid_of(node, like).to_image
    node.SetIJKToRASMatrix(slicer.util.vtkMatrixFromArray(to_ras))
    node.SetAndObserveTransformNodeID(like.GetTransformNodeID())


def grid_of(node: slicer.vtkMRMLVolumeNode, like: slicer.vtkMRMLVolumeNode) -> CoarseGrid:
    """The blocks of the voxels of `like` that the voxels of `node` are."""
    factors = (node.GetAttribute(FACTORS_ATTRIBUTE) or "1 1 1").split()
    return CoarseGrid(like.GetImageData().GetDimensions()[::-1], tuple(map(int, factors)))


def _voxels(node: slicer.vtkMRMLVolumeNode) -> npt.NDArray:
    if not node.IsA("vtkMRMLVolumeNode"):
        raise InputError(f"{_title(node)} is no image: choose a volume.")
    if node.GetAttribute(HEAT_ATTRIBUTE):
        raise InputError(f"{_title(node)} is the heat of an earlier answer: choose the image.")
    image = node.GetImageData()
    if image is None or image.GetPointData().GetScalars() is None or 0 in image.GetDimensions():
        raise InputError(f"{_title(node)} has no voxels: load it again.")
    array = slicer.util.arrayFromVolume(node)
    if array.ndim == 4 and array.shape[3] == 1:
        array = array[..., 0]
    if array.ndim == 4 and array.shape[3] == 4 and array.dtype == np.uint8 and array[..., 3].min() == 255:
        # A screenshot's alpha channel that hides nothing.
        array = array[..., :3]
    if array.ndim == 4 and array.shape[3] != 3:
        raise InputError(f"{_title(node)} has {array.shape[3]} values a voxel: one or three are needed.")
    return array


def _checked_heat(
    array: npt.NDArray, like: slicer.vtkMRMLVolumeNode, factors: Sequence[int]
) -> npt.NDArray[np.float32]:
    image = like.GetImageData()
    wanted = CoarseGrid(image.GetDimensions()[::-1], tuple(factors)).shape if image else None
    if array.shape != wanted:
        raise InputError(f"The heat has the shape {array.shape}, but {_title(like)} has {wanted}: classify it again.")
    if array.dtype == np.uint8:
        return np.divide(array, 255, dtype=np.float32)
    # Not the other way round, which would let pass what is no number.
    if array.dtype.kind != "f" or not (array.min() >= 0 and array.max() <= 1):
        raise InputError("The heat holds values outside 0 to 1: classify the study again.")
    return array.astype(np.float32, copy=False)


def _region_of_roi(roi: slicer.vtkMRMLMarkupsROINode) -> HandedBox | HandedLabels:
    if roi.GetNumberOfControlPoints() == 0 or min(roi.GetSize()) <= 0:
        raise InputError(f"{_title(roi)} has no extent: draw the box first.")
    to_world = transform_of(roi) @ slicer.util.arrayFromVTKMatrix(roi.GetObjectToNodeMatrix())
    affine = to_world @ np.diag([*roi.GetSize(), 1.0])
    # Along the axes where each column has one entry: then its corners say all.
    directions = np.abs(affine[:3, :3]) / np.linalg.norm(affine[:3, :3], axis=0)
    if np.allclose(np.sort(directions, axis=0), [[0], [0], [1]], atol=1e-6):
        reach = np.abs(affine[:3, :3]).sum(axis=1) / 2
        return HandedBox(tuple((affine[:3, 3] - reach).tolist()), tuple((affine[:3, 3] + reach).tolist()))
    # One voxel as large as the box, and turned as it is: exact, and no voxel of the volume need be looked at.
    return HandedLabels(np.ones((1, 1, 1), dtype=np.uint8), affine, 1)


def _region_of_segment(
    node: slicer.vtkMRMLSegmentationNode, segment: str | None, volume: slicer.vtkMRMLVolumeNode | None
) -> HandedLabels:
    found = node.GetSegmentation().GetSegment(segment) if segment else None
    if found is None:
        raise InputError(f"{_title(node)} has no such segment: choose one of its segments.")
    kind = slicer.vtkSegmentationConverter.GetSegmentationBinaryLabelmapRepresentationName()
    if not node.GetSegmentation().ContainsRepresentation(kind):
        if volume is not None:
            node.SetReferenceImageGeometryParameterFromVolumeNode(volume)
        node.GetSegmentation().CreateRepresentation(kind)
    # The segment's own voxels, cut to their extent: resampling to the volume's grid would be work for the worker.
    image = node.GetBinaryLabelmapInternalRepresentation(segment)
    extent = image.GetExtent() if image else (0, -1, 0, -1, 0, -1)
    if any(high < low for low, high in zip(extent[::2], extent[1::2], strict=True)):
        raise InputError(f"The segment '{found.GetName()}' of {_title(node)} is empty: choose another.")
    array = vtk.util.numpy_support.vtk_to_numpy(image.GetPointData().GetScalars())
    array = array.reshape([high - low + 1 for low, high in zip(extent[::2], extent[1::2], strict=True)][::-1])
    matrix = vtk.vtkMatrix4x4()
    image.GetImageToWorldMatrix(matrix)
    # An image of segments counts its voxels from its extent, an array from 0.
    shift = np.eye(4)
    shift[:3, 3] = extent[::2]
    label = found.GetLabelValue()
    if not (array == label).any():
        raise InputError(f"The segment '{found.GetName()}' of {_title(node)} is empty: choose another.")
    return HandedLabels(array, transform_of(node) @ slicer.util.arrayFromVTKMatrix(matrix) @ shift, label)


def _title(node: slicer.vtkMRMLNode) -> str:
    return f"'{node.GetName() or 'The node'}'"
