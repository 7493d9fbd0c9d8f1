from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import slicer
import slicer.util
import studies
import vtk
from AnyMC3DUI.handover import HandedBox, HandedLabels, frame_of, heat_node, image_of, region_of
from scene import Scene

from AnyMC3DLib.errors import InputError


def volume(affine: np.ndarray | None = None, *, dtype: str = "int16") -> slicer.vtkMRMLVolumeNode:
    array = np.arange(np.prod(studies.SHAPE)).reshape(studies.SHAPE).astype(dtype)
    return studies.add_volume(array, studies.straight() if affine is None else affine)


def refusal(call: object, *arguments: object, **named: object) -> str:
    """The sentence with which the call refuses."""
    with pytest.raises(InputError) as caught:
        call(*arguments, **named)
    text = str(caught.value)
    assert text.endswith(".") and "\n" not in text and text.count(". ") == 0
    return text


def test_an_image_is_the_scenes_own_memory_and_not_a_copy(scene: Scene) -> None:
    node = volume()
    assert np.shares_memory(image_of(node).array, slicer.util.arrayFromVolume(node))


@pytest.mark.parametrize("geometry", studies.GEOMETRIES)
@pytest.mark.parametrize("moved", [False, True])
def test_an_image_comes_with_the_affine_that_takes_its_voxels_to_ras(scene: Scene, geometry: str, moved: bool) -> None:
    node = volume(studies.GEOMETRIES[geometry]())
    if moved:
        inner, outer = studies.add_transform(), studies.add_transform(degrees=-50, shift=(3, 40, 0))
        inner.SetAndObserveTransformNodeID(outer.GetID())
        node.SetAndObserveTransformNodeID(inner.GetID())
    affine = image_of(node).ijk_to_ras
    for ijk in ((0, 0, 0), (47, 0, 0), (5, 30, 11)):
        assert (affine @ (*ijk, 1))[:3] == pytest.approx(studies.world_of(node, ijk), abs=1e-9)


def test_the_image_of_a_sequence_is_the_frame_that_is_shown(scene: Scene) -> None:
    proxy, browser = sequence(scene)
    for number in (0, 2, 1):
        browser.SetSelectedItemNumber(number)
        image = image_of(proxy)
        assert image.array.min() == image.array.max() == 100 * number
        assert image.frame == f"{number}.5"


def test_a_plain_volume_has_no_frame(scene: Scene) -> None:
    sequence(scene)
    assert frame_of(volume()) is None


def test_a_colour_picture_comes_with_its_three_values(scene: Scene) -> None:
    array = np.random.default_rng(0).integers(0, 255, (1, 8, 9, 3)).astype(np.uint8)
    assert np.array_equal(image_of(studies.add_volume(array, np.eye(4), colour=True)).array, array)


def test_an_opaque_alpha_channel_is_left_out(scene: Scene) -> None:
    array = np.full((1, 8, 9, 4), 255, dtype=np.uint8)
    assert image_of(studies.add_volume(array, np.eye(4), colour=True)).array.shape == (1, 8, 9, 3)


def test_a_label_map_is_an_image_too(scene: Scene) -> None:
    array = np.ones(studies.SHAPE, dtype=np.uint8)
    node = slicer.util.addVolumeFromArray(array, nodeClassName="vtkMRMLLabelMapVolumeNode")
    assert np.array_equal(image_of(node).array, array)


def test_a_transform_that_is_not_linear_is_refused_with_what_to_do(scene: Scene) -> None:
    node = volume()
    node.SetAndObserveTransformNodeID(studies.add_bend().GetID())
    assert "harden the transform" in refusal(image_of, node)


def test_a_flattening_transform_is_refused(scene: Scene) -> None:
    node, transform = volume(), studies.add_transform()
    transform.SetMatrixTransformToParent(slicer.util.vtkMatrixFromArray(np.diag([1.0, 1.0, 0.0, 1.0])))
    node.SetAndObserveTransformNodeID(transform.GetID())
    assert "flat or not finite" in refusal(image_of, node)


def test_a_transform_that_holds_no_number_is_refused(scene: Scene) -> None:
    node, transform = volume(), studies.add_transform()
    matrix = np.eye(4)
    matrix[0, 3] = np.nan
    transform.SetMatrixTransformToParent(slicer.util.vtkMatrixFromArray(matrix))
    node.SetAndObserveTransformNodeID(transform.GetID())
    assert "flat or not finite" in refusal(image_of, node)


def test_a_volume_without_voxels_is_refused(scene: Scene) -> None:
    node = scene.mrml.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "empty")
    assert "no voxels" in refusal(image_of, node)


def test_values_that_are_neither_grey_nor_colour_are_refused(scene: Scene) -> None:
    array = np.zeros((2, 8, 9, 5), dtype=np.uint8)
    assert "5 values a voxel" in refusal(image_of, studies.add_volume(array, np.eye(4), colour=True))


def test_what_is_no_volume_is_refused(scene: Scene) -> None:
    assert "no image" in refusal(image_of, scene.mrml.AddNewNodeByClass("vtkMRMLModelNode", "a model"))


def roi(scene: Scene, *, size: tuple[float, float, float] = (4, 6, 8)) -> slicer.vtkMRMLMarkupsROINode:
    node = scene.mrml.AddNewNodeByClass("vtkMRMLMarkupsROINode", "box")
    node.SetCenter(10, 20, 30)
    node.SetSize(*size)
    return node


def corners(region: HandedLabels) -> np.ndarray:
    """The outer corners of the one voxel, sorted."""
    ends = np.array([[a, b, c, 1] for a in (-0.5, 0.5) for b in (-0.5, 0.5) for c in (-0.5, 0.5)])
    return np.unique(np.round((ends @ region.ijk_to_ras.T)[:, :3], 6), axis=0)


def test_a_straight_box_is_handed_as_its_two_corners(scene: Scene) -> None:
    region = region_of(roi(scene))
    assert isinstance(region, HandedBox)
    assert region.low == pytest.approx((8, 17, 26)) and region.high == pytest.approx((12, 23, 34))


def test_a_box_turned_by_a_right_angle_is_still_a_box(scene: Scene) -> None:
    node, transform = roi(scene), vtk.vtkTransform()
    transform.RotateZ(90)
    parent = studies.add_transform()
    parent.SetMatrixTransformToParent(transform.GetMatrix())
    node.SetAndObserveTransformNodeID(parent.GetID())
    region = region_of(node)
    assert isinstance(region, HandedBox)
    assert region.low == pytest.approx((-23, 8, 26)) and region.high == pytest.approx((-17, 12, 34))


@pytest.mark.parametrize("by", ["its own axes", "a transform"])
def test_a_turned_box_is_handed_as_one_turned_voxel(scene: Scene, by: str) -> None:
    node, transform = roi(scene), vtk.vtkTransform()
    transform.RotateWXYZ(33, 1, 2, 3)
    if by == "a transform":
        parent = studies.add_transform()
        parent.SetMatrixTransformToParent(transform.GetMatrix())
        node.SetAndObserveTransformNodeID(parent.GetID())
    else:
        node.GetObjectToNodeMatrix().DeepCopy(transform.GetMatrix())
        node.GetObjectToNodeMatrix().SetElement(0, 3, 10)
    region = region_of(node)
    assert isinstance(region, HandedLabels) and region.array.shape == (1, 1, 1)
    to_world = slicer.util.arrayFromVTKMatrix(node.GetObjectToNodeMatrix())
    if by == "a transform":
        to_world = slicer.util.arrayFromVTKMatrix(transform.GetMatrix()) @ to_world
    half = np.array(node.GetSize()) / 2
    expected = [to_world @ (*(half * signs), 1) for signs in np.ndindex(2, 2, 2) for signs in [np.array(signs) * 2 - 1]]
    assert corners(region) == pytest.approx(np.unique(np.round(np.array(expected)[:, :3], 6), axis=0), abs=1e-5)


def test_a_box_that_was_not_drawn_is_refused(scene: Scene) -> None:
    node = scene.mrml.AddNewNodeByClass("vtkMRMLMarkupsROINode", "box")
    assert "draw the box" in refusal(region_of, node)


def test_a_box_under_a_bend_is_refused(scene: Scene) -> None:
    node = roi(scene)
    node.SetAndObserveTransformNodeID(studies.add_bend().GetID())
    assert "not linear" in refusal(region_of, node)


def segmentation(scene: Scene, centres: list[tuple[float, float, float]]) -> tuple[slicer.vtkMRMLNode, list[str]]:
    """Balls of 5 mm as segments that share one image."""
    node = scene.mrml.AddNewNodeByClass("vtkMRMLSegmentationNode", "parts")
    labels = np.zeros(studies.SHAPE, dtype=np.uint8)
    places = studies.positions(studies.SHAPE, studies.oblique())
    for number, centre in enumerate(centres):
        labels[np.linalg.norm(places - centre, axis=-1) < 5] = number + 1
    image = slicer.util.addVolumeFromArray(
        labels, ijkToRAS=studies.oblique(), nodeClassName="vtkMRMLLabelMapVolumeNode"
    )
    assert slicer.vtkSlicerSegmentationsModuleLogic.ImportLabelmapToSegmentationNode(image, node)
    return node, list(node.GetSegmentation().GetSegmentIDs())


def centre_of(region: HandedLabels) -> np.ndarray:
    """The centroid of the label in RAS."""
    return (region.ijk_to_ras @ (*np.argwhere(region.array == region.label).mean(axis=0)[::-1], 1))[:3]


def test_a_segment_is_handed_where_it_is_and_apart_from_the_others(scene: Scene) -> None:
    centres = [(0.0, 4.0, 6.0), (-20.0, -8.0, 0.0)]
    node, names = segmentation(scene, centres)
    for name, centre in zip(names, centres, strict=True):
        region = region_of(node, segment=name)
        assert np.linalg.norm(centre_of(region) - centre) < 1.5
        assert region.array.size < np.prod(studies.SHAPE)


def test_a_segment_goes_with_its_transform(scene: Scene) -> None:
    node, (name,) = segmentation(scene, [(0.0, 4.0, 6.0)])
    before = centre_of(region_of(node, segment=name))
    transform = studies.add_transform()
    node.SetAndObserveTransformNodeID(transform.GetID())
    matrix = slicer.util.arrayFromTransformMatrix(transform)
    assert centre_of(region_of(node, segment=name)) == pytest.approx((matrix @ (*before, 1))[:3])


def test_a_segment_that_is_a_surface_becomes_voxels_of_the_volumes_grid(scene: Scene) -> None:
    ball = vtk.vtkSphereSource()
    ball.SetCenter(6, 4, 3)
    ball.SetRadius(9)
    ball.Update()
    node = scene.mrml.AddNewNodeByClass("vtkMRMLSegmentationNode", "surfaces")
    surface = slicer.vtkSegmentationConverter.GetSegmentationClosedSurfaceRepresentationName()
    node.GetSegmentation().SetSourceRepresentationName(surface)
    name = node.AddSegmentFromClosedSurfaceRepresentation(ball.GetOutput(), "ball", [1, 0, 0])
    region = region_of(node, segment=name, volume=volume())
    assert np.linalg.norm(centre_of(region) - (6, 4, 3)) < 1
    assert np.linalg.norm(region.ijk_to_ras[:3, :3], axis=0) == pytest.approx(studies.SPACING)


def test_an_empty_segment_is_refused(scene: Scene) -> None:
    node = scene.mrml.AddNewNodeByClass("vtkMRMLSegmentationNode", "parts")
    name = node.GetSegmentation().AddEmptySegment("nothing")
    assert "is empty" in refusal(region_of, node, segment=name)


def test_an_emptied_segment_beside_a_full_one_is_refused(scene: Scene) -> None:
    node, names = segmentation(scene, [(0.0, 4.0, 6.0), (-20.0, -8.0, 0.0)])
    image = node.GetBinaryLabelmapInternalRepresentation(names[0])
    values = vtk.util.numpy_support.vtk_to_numpy(image.GetPointData().GetScalars())
    values[values == node.GetSegmentation().GetSegment(names[0]).GetLabelValue()] = 0
    assert "is empty" in refusal(region_of, node, segment=names[0])


def test_a_segment_that_is_not_there_and_a_node_that_is_no_region_are_refused(scene: Scene) -> None:
    node, _ = segmentation(scene, [(0.0, 4.0, 6.0)])
    assert "no such segment" in refusal(region_of, node, segment="other")
    assert "no such segment" in refusal(region_of, node)
    assert "no region" in refusal(region_of, volume())


@pytest.mark.parametrize("geometry", studies.GEOMETRIES)
@pytest.mark.parametrize("moved", [False, True])
def test_the_hottest_voxel_lies_in_the_world_where_the_lesion_does(scene: Scene, geometry: str, moved: bool) -> None:
    affine = studies.GEOMETRIES[geometry]()
    ijk = (33, 12, 15)
    node = studies.add_volume(studies.study_with_lesion(affine, ijk), affine)
    if moved:
        node.SetAndObserveTransformNodeID(studies.add_transform().GetID())
    lesion = studies.world_of(node, ijk)
    # As the engine does: it knows the lesion by what it sees, and RAS by the affine that it was handed.
    image = image_of(node)
    seen = np.argwhere(image.array == studies.LESION).mean(axis=0)[::-1]
    place = (image.ijk_to_ras @ (*seen, 1))[:3]
    assert np.linalg.norm(place - lesion) < max(studies.SPACING)
    heat = studies.in_patches(studies.heat_about(place, shape=image.array.shape, affine=image.ijk_to_ras))
    made = heat_node(scene.mrml, heat, like=node, name="heat")
    array = slicer.util.arrayFromVolume(made)
    hottest = np.argwhere(array == array.max()).mean(axis=0)[::-1]
    patch = np.linalg.norm(np.array(studies.SPACING) * (studies.PATCH, studies.PATCH, 1))
    assert np.linalg.norm(studies.world_of(made, hottest) - lesion) < patch / 2 + max(studies.SPACING)


def test_heat_has_the_volumes_own_header_and_transform(scene: Scene) -> None:
    node = volume(studies.tilted())
    transform = studies.add_transform()
    node.SetAndObserveTransformNodeID(transform.GetID())
    made = heat_node(scene.mrml, np.zeros(studies.SHAPE, np.float32), like=node, name="heat")
    matrix = vtk.vtkMatrix4x4()
    made.GetIJKToRASMatrix(matrix)
    assert slicer.util.arrayFromVTKMatrix(matrix) == pytest.approx(studies.tilted())
    assert made.GetParentTransformNode() is transform


def test_the_scale_of_heat_is_fixed_whatever_the_study_holds(scene: Scene) -> None:
    heat = np.zeros(studies.SHAPE, np.float32)
    heat[3, 3, 3] = 0.2
    display = heat_node(scene.mrml, heat, like=volume(), name="heat").GetDisplayNode()
    assert (display.GetWindowLevelMin(), display.GetWindowLevelMax()) == (0, 1)
    assert not display.GetAutoWindowLevel() and display.GetApplyThreshold()
    assert display.GetLowerThreshold() == 0.5


def test_many_heatmaps_share_one_colour_table(scene: Scene) -> None:
    nodes = [heat_node(scene.mrml, np.zeros(studies.SHAPE, np.float32), like=volume(), name="h") for _ in range(3)]
    assert len({node.GetDisplayNode().GetColorNodeID() for node in nodes}) == 1


def test_heat_as_bytes_becomes_heat_from_0_to_1(scene: Scene) -> None:
    heat = np.zeros(studies.SHAPE, np.uint8)
    heat[0, 0, :2] = 255, 51
    made = slicer.util.arrayFromVolume(heat_node(scene.mrml, heat, like=volume(), name="heat"))
    assert made.dtype == np.float32
    assert made[0, 0, :3] == pytest.approx([1, 0.2, 0])


@pytest.mark.parametrize("value", [np.nan, -0.1, 1.1])
def test_what_is_no_heat_is_refused_and_leaves_nothing_behind(scene: Scene, value: float) -> None:
    node, heat = volume(), np.zeros(studies.SHAPE, np.float32)
    heat[1, 2, 3] = value
    before = scene.node_count()
    assert "heat" in refusal(heat_node, scene.mrml, heat, like=node, name="heat").lower()
    assert scene.node_count() == before


def test_heat_of_another_grid_is_refused(scene: Scene) -> None:
    heat = np.zeros((3, 4, 5), np.float32)
    assert "shape" in refusal(heat_node, scene.mrml, heat, like=volume(), name="heat")


def sequence(scene: Scene) -> tuple[slicer.vtkMRMLNode, slicer.vtkMRMLNode]:
    """A proxy volume of three frames with the values 0, 100 and 200, and its browser."""
    return scene.add_sequence([volume_of(100 * number) for number in range(3)])


def volume_of(value: int) -> slicer.vtkMRMLVolumeNode:
    return studies.add_volume(np.full(studies.SHAPE, value, np.int16), studies.straight())


def test_these_rooms_need_neither_qt_nor_what_computes() -> None:
    code = "import sys, AnyMC3DUI.handover, AnyMC3DUI.overlay, AnyMC3DUI.results; print(*sys.modules)"
    root = Path(__file__).resolve().parents[2]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (root, root / "AnyMC3D")))}
    ran = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert not {"torch", "SimpleITK", "timm", "scipy", "PySide6", "qt"} & set(ran.stdout.split())


def test_an_image_from_dicom_comes_with_its_modality_and_any_other_with_none(scene: Scene) -> None:
    node = volume()
    assert image_of(node).modality == ""
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
    item = hierarchy.CreateItem(hierarchy.GetSceneItemID(), node)
    hierarchy.SetItemAttribute(item, "DICOM.Modality", "MR")
    assert image_of(node).modality == "MR"
