from __future__ import annotations

import numpy as np
import pytest
import slicer
import slicer.util
import studies
from AnyMC3DUI import coarse_grid
from AnyMC3DUI.handover import image_of
from AnyMC3DUI.results import ResultStore, StudyResults
from scene import Scene

from AnyMC3DLib.errors import InputError

PLUGIN = "plugin"


def volume() -> slicer.vtkMRMLVolumeNode:
    return studies.add_volume(np.zeros(studies.SHAPE, np.int16), studies.oblique())


def write(scene: Scene, node: slicer.vtkMRMLVolumeNode) -> StudyResults:
    return ResultStore(scene.mrml).write(node, {PLUGIN: studies.prediction()})


def test_a_point_of_a_chart_is_a_slice_in_ras(scene: Scene) -> None:
    results = write(scene, volume())
    assert results.slice_at(PLUGIN, "axial", 2) == pytest.approx([0, 0, 6])
    assert results.slice_at(PLUGIN, "sagittal", 0) == pytest.approx([-6, 0, 0])


@pytest.mark.parametrize(("plugin", "view", "index"), [(PLUGIN, "axial", 3), (PLUGIN, "x", 0), ("?", "axial", 0),
                                                        (PLUGIN, "axial", -1)])  # fmt: skip
def test_a_slice_that_is_not_there_is_refused(scene: Scene, plugin: str, view: str, index: int) -> None:
    with pytest.raises(InputError, match="has no slice"):
        write(scene, volume()).slice_at(plugin, view, index)


def test_points_and_slices_go_with_the_volume_when_it_is_moved(scene: Scene) -> None:
    node = volume()
    first = studies.add_transform(degrees=20)
    node.SetAndObserveTransformNodeID(first.GetID())
    results = write(scene, node)
    markups = results.hot_spots(PLUGIN)
    assert markups.GetNthControlPointPositionWorld(0) == pytest.approx((10, -4, 6))
    assert results.slice_at(PLUGIN, "axial", 2) == pytest.approx([0, 0, 6])
    then = slicer.util.arrayFromTransformMatrix(first)
    now = np.diag([-1.0, -1, 1, 1]) @ then
    slicer.util.updateTransformMatrixFromArray(first, now)
    moved = now @ np.linalg.inv(then)
    assert markups.GetNthControlPointPositionWorld(0) == pytest.approx((moved @ (10, -4, 6, 1))[:3])
    assert results.spots_of(PLUGIN, "lesion")[0][0] == pytest.approx((moved @ (10, -4, 6, 1))[:3])
    assert results.slice_at(PLUGIN, "axial", 2) == pytest.approx((moved @ (0, 0, 6, 1))[:3])


def test_places_go_with_the_volume_when_its_transform_is_hardened_or_it_is_moved_to_the_middle(scene: Scene) -> None:
    node = volume()
    results = write(scene, node)
    before = results.heat_grid
    node.SetAndObserveTransformNodeID(studies.add_transform().GetID())
    node.HardenTransform()
    node.SetOrigin(1, 2, 3)
    now, then = image_of(node).ijk_to_ras, before[1]
    assert results.slice_at(PLUGIN, "axial", 2) == pytest.approx((now @ np.linalg.inv(then) @ (0, 0, 6, 1))[:3])
    assert results.heat_grid[0] == studies.SHAPE and np.array_equal(results.heat_grid[1], then)


def test_heat_that_is_rendered_after_a_move_lies_on_the_anatomy(scene: Scene) -> None:
    node, ijk = volume(), (33, 12, 15)
    results = write(scene, node)
    seen = studies.world_of(node, ijk)
    node.SetAndObserveTransformNodeID(studies.add_transform().GetID())
    shape, affine = results.heat_grid
    heat = results.add_heat(PLUGIN, "lesion", studies.heat_about(seen, shape=shape, affine=affine))
    k, j, i = np.unravel_index(slicer.util.arrayFromVolume(heat).argmax(), shape)
    assert studies.world_of(heat, (i, j, k)) == pytest.approx(studies.world_of(node, ijk))


def test_an_answer_is_about_the_image_as_it_was_handed_over(scene: Scene) -> None:
    proxy, browser = scene.add_sequence([volume(), volume()])
    image = image_of(proxy)
    browser.SetSelectedItemNumber(1)
    transform = studies.add_transform()
    proxy.SetAndObserveTransformNodeID(transform.GetID())
    results = ResultStore(scene.mrml).write(proxy, {PLUGIN: studies.prediction()}, image=image)
    assert results.frame == "0.5" and np.allclose(results.heat_grid[1], image.ijk_to_ras)
    moved = slicer.util.arrayFromTransformMatrix(transform)
    expected = (moved @ (10, -4, 6, 1))[:3]
    assert results.hot_spots(PLUGIN).GetNthControlPointPositionWorld(0) == pytest.approx(expected)


def test_a_volume_that_was_bent_meanwhile_keeps_the_places_of_then(scene: Scene) -> None:
    node = volume()
    image = image_of(node)
    node.SetAndObserveTransformNodeID(studies.add_bend().GetID())
    results = ResultStore(scene.mrml).write(node, {PLUGIN: studies.prediction()}, image=image)
    assert results.slice_at(PLUGIN, "axial", 2) == pytest.approx([0, 0, 6])
    assert results.hot_spots(PLUGIN).GetNthControlPointPositionWorld(0) == pytest.approx((10, -4, 6))


def test_heat_of_a_large_volume_is_coarser_and_lies_in_the_same_place(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(coarse_grid, "MOST_VOXELS", np.prod(studies.SHAPE) // 9)
    node, ijk = volume(), (33, 12, 15)
    results = write(scene, node)
    seen = studies.world_of(node, ijk)
    node.SetAndObserveTransformNodeID(studies.add_transform().GetID())
    shape, affine = results.heat_grid
    assert np.prod(shape) <= np.prod(studies.SHAPE) // 9
    heat = results.add_heat(PLUGIN, "lesion", studies.heat_about(seen, shape=shape, affine=affine))
    k, j, i = np.unravel_index(slicer.util.arrayFromVolume(heat).argmax(), shape)
    block = np.linalg.norm(affine[:3, :3], axis=0)
    assert np.linalg.norm(studies.world_of(heat, (i, j, k)) - studies.world_of(node, ijk)) <= np.linalg.norm(block) / 2
