"""Small volumes with a lesion at a known place, their heat, and predictions, for the tests of the module."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import slicer
import slicer.util
import vtk

SHAPE = (24, 40, 48)  # k, j, i
SPACING = (2.0, 2.0, 3.0)  # i, j, k
AIR, TISSUE, LESION = 0, 600, 900
PATCH = 4  # voxels along j and i that share one heat


def straight() -> npt.NDArray[np.float64]:
    """An affine along R, A and S whose volume is about the origin."""
    return _centred(np.diag(SPACING))


def oblique() -> npt.NDArray[np.float64]:
    """Turned about two axes."""
    return _centred(_turn(25, 2) @ _turn(-18, 0) @ np.diag(SPACING))


def tilted() -> npt.NDArray[np.float64]:
    """Sheared, as a CT's gantry tilt makes it."""
    directions = np.diag(SPACING)
    directions[1, 2] = 1.1
    return _centred(directions)


GEOMETRIES = {"straight": straight, "oblique": oblique, "tilted": tilted}


def add_volume(
    array: npt.NDArray, affine: npt.NDArray[np.float64], *, name: str = "study", colour: bool = False
) -> slicer.vtkMRMLVolumeNode:
    """A volume of voxels [k, j, i] (or [k, j, i, 3]) in the scene."""
    kind = "vtkMRMLVectorVolumeNode" if colour else "vtkMRMLScalarVolumeNode"
    return slicer.util.addVolumeFromArray(array, ijkToRAS=affine, name=name, nodeClassName=kind)


def add_transform(*, degrees: float = 30, shift: tuple[float, float, float] = (15, -8, 22)) -> slicer.vtkMRMLNode:
    """A rotation and a shift."""
    transform = vtk.vtkTransform()
    transform.Translate(*shift)
    transform.RotateWXYZ(degrees, 0.3, 0.5, 1)
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode", "moved")
    node.SetMatrixTransformToParent(transform.GetMatrix())
    return node


def add_bend() -> slicer.vtkMRMLNode:
    """A transform that is not linear."""
    source, target = vtk.vtkPoints(), vtk.vtkPoints()
    for number in range(8):
        point = [40.0 * (number >> axis & 1) for axis in range(3)]
        source.InsertNextPoint(point)
        target.InsertNextPoint([x + 5 * ((number * 7 + axis) % 3) for axis, x in enumerate(point)])
    bend = vtk.vtkThinPlateSplineTransform()
    bend.SetBasisToR()
    bend.SetSourceLandmarks(source)
    bend.SetTargetLandmarks(target)
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLTransformNode", "bent")
    node.SetAndObserveTransformToParent(bend)
    return node


def world_of(node: slicer.vtkMRMLVolumeNode, ijk: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Where a voxel lies, asked of MRML itself point by point."""
    matrix, local, world = vtk.vtkMatrix4x4(), [0.0] * 4, [0.0] * 3
    node.GetIJKToRASMatrix(matrix)
    matrix.MultiplyPoint([*np.asarray(ijk, dtype=float), 1.0], local)
    parent = node.GetParentTransformNode()
    if parent is None:
        return np.array(local[:3])
    general = vtk.vtkGeneralTransform()
    parent.GetTransformToWorld(general)
    general.TransformPoint(local[:3], world)
    return np.array(world)


def positions(shape: tuple[int, ...], affine: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """RAS of each voxel [k, j, i, 3]."""
    k, j, i = np.indices(shape)
    return np.stack([i, j, k], axis=-1) @ affine[:3, :3].T + affine[:3, 3]


def study_with_lesion(
    affine: npt.NDArray[np.float64], ijk: tuple[float, float, float], *, radius: float = 7
) -> npt.NDArray[np.int16]:
    """A block of tissue in air with a brighter ball at the voxel `ijk`."""
    array = np.full(SHAPE, AIR, dtype=np.int16)
    array[3:-3, 4:-4, 4:-4] = TISSUE
    away = np.linalg.norm(positions(SHAPE, affine) - positions(SHAPE, affine)[ijk[2], ijk[1], ijk[0]], axis=-1)
    array[away <= radius] = LESION
    return array


def heat_about(
    ras: npt.ArrayLike, *, shape: tuple[int, ...], affine: npt.NDArray[np.float64], width: float = 6
) -> npt.NDArray[np.float32]:
    """Heat that is 1 at a place in RAS and fades about it."""
    away = np.linalg.norm(positions(shape, affine) - np.asarray(ras), axis=-1)
    return np.exp(-((away / width) ** 2) / 2).astype(np.float32)


def in_patches(heat: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """The heat as coarse as a network's patches."""
    k, j, i = heat.shape
    coarse = heat.reshape(k, j // PATCH, PATCH, i // PATCH, PATCH).mean(axis=(2, 4))
    return np.repeat(np.repeat(coarse, PATCH, axis=1), PATCH, axis=2)


def prediction(*, probability: float = 0.9, name: str = "lesion", spots: bool = True) -> dict[str, Any]:
    """A worker's answer of a binary plugin of two views."""
    views = {
        axis: {
            "axis": axis,
            "weight": 0.5,
            "slices": [
                {"weight": weight, "ras": [float(n * (number == place)) for place in range(3)]}
                for n, weight in zip((-6.0, 0.0, 6.0), (0.1, 0.7, 0.2), strict=True)
            ],
        }
        for number, axis in ((2, "axial"), (0, "sagittal"))
    }
    found = [{"ras": [10.0, -4.0, 6.0], "heat": 0.93}, {"ras": [-8.0, 2.0, 0.0], "heat": 0.61}]
    return {
        "plugin": {"name": name, "version": "1.0", "intended_use": "Research"},
        "probabilities": {f"no {name}": 1 - probability, name: probability},
        "decisions": {f"no {name}": probability < 0.5, name: probability >= 0.5},
        "thresholds": {f"no {name}": 0.5, name: 0.5},
        "views": views,
        "hot_spots": {name: found if spots else []},
        "warnings": [],
        "provenance": {"device": "cpu"},
    }


def _turn(degrees: float, axis: int) -> npt.NDArray[np.float64]:
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    a, b = (n for n in range(3) if n != axis)
    matrix = np.eye(3)
    matrix[a, a], matrix[a, b], matrix[b, a], matrix[b, b] = c, -s, s, c
    return matrix


def _centred(directions: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    affine = np.eye(4)
    affine[:3, :3] = directions
    affine[:3, 3] = -directions @ ((np.array(SHAPE[::-1]) - 1) / 2)
    return affine
