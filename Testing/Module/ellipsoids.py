"""An oblique volume, and an ellipsoid drawn over it as a segment with a geometry of its own."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import slicer
import studies

CENTRE, SEMI_AXES = np.array([8.0, -12.0, 20.0]), np.array([30.0, 24.0, 27.0])

Points = npt.NDArray[np.float64]


def turn(degrees: float, axis: int) -> npt.NDArray[np.float64]:
    cosine, sine = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    found = np.eye(3)
    a, b = (axis + 1) % 3, (axis + 2) % 3
    found[[a, a, b, b], [a, b, a, b]] = cosine, -sine, sine, cosine
    return found


def placed(
    directions: npt.NDArray[np.float64], shape: tuple[int, ...], centre: Points = CENTRE
) -> npt.NDArray[np.float64]:
    """The affine whose grid [k, j, i] lies about `centre`."""
    affine = np.eye(4)
    affine[:3, :3] = directions
    affine[:3, 3] = centre - directions @ (np.array(shape[::-1]) - 1) / 2
    return affine


def in_ellipsoid(points: Points) -> npt.NDArray[np.bool_]:
    return (((points - CENTRE) / SEMI_AXES) ** 2).sum(axis=-1) <= 1


VOLUME_SHAPE = (60, 104, 110)
VOLUME_TO_RAS = placed(turn(24, 2) @ turn(-17, 0) @ np.diag([0.9, 0.8, 1.6]), VOLUME_SHAPE)
SEGMENT_SHAPE = (90, 80, 76)


def oblique_volume(name: str = "DOE^JANE 1960", seed: int = 0) -> slicer.vtkMRMLScalarVolumeNode:
    array = np.random.default_rng(seed).integers(-900, 1200, VOLUME_SHAPE, dtype=np.int16)
    return studies.add_volume(array, VOLUME_TO_RAS, name=name)


def ellipsoid(
    directions: npt.NDArray[np.float64] | None = None, *, moved: bool = True
) -> slicer.vtkMRMLSegmentationNode:
    """The ellipsoid as a segment with a geometry of its own, under a transform of its own."""
    directions = turn(-31, 1) @ np.diag([1.0, 0.9, 0.75]) if directions is None else directions
    to_ras = placed(directions, SEGMENT_SHAPE)
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "DOE^JANE segmentation")
    transform = studies.add_transform(degrees=20, shift=(9, -4, 6))
    local = np.linalg.inv(slicer.util.arrayFromTransformMatrix(transform)) @ to_ras if moved else to_ras
    array = in_ellipsoid(studies.positions(SEGMENT_SHAPE, to_ras)).astype(np.uint8)
    labels = slicer.util.addVolumeFromArray(array, ijkToRAS=local, nodeClassName="vtkMRMLLabelMapVolumeNode")
    logic = slicer.modules.segmentations.logic()
    assert logic.ImportLabelmapToSegmentationNode(labels, node)
    slicer.mrmlScene.RemoveNode(labels)
    if moved:
        node.SetAndObserveTransformNodeID(transform.GetID())
    return node


def only_segment(node: slicer.vtkMRMLSegmentationNode) -> str:
    return node.GetSegmentation().GetNthSegmentID(0)


def sampled(array: npt.NDArray, to_ras: npt.NDArray[np.float64], points: Points) -> npt.NDArray:
    """The value of the voxel in which each point lies, 0 outside."""
    to_voxel = np.linalg.inv(to_ras)
    ijk = np.floor(points @ to_voxel[:3, :3].T + to_voxel[:3, 3] + 0.5).astype(int)
    inside = ((ijk >= 0) & (ijk < array.shape[::-1])).all(axis=1)
    found = np.zeros(len(points), dtype=array.dtype)
    found[inside] = array[tuple(ijk[inside].T[::-1])]
    return found


def overlap(array: npt.NDArray, to_ras: npt.NDArray[np.float64]) -> float:
    """Intersection over union of what is not 0 with the ellipsoid that was drawn, by points in RAS."""
    points = CENTRE + np.random.default_rng(1).uniform(-1.2, 1.2, (200_000, 3)) * SEMI_AXES
    drawn, found = in_ellipsoid(points), sampled(array, to_ras, points) > 0
    return float((drawn & found).sum() / (drawn | found).sum())
