"""A click on a hot spot: every view is at the place, and stays as near or as far as it was."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import slicer
import vtk
from hosting import Host, add_volume, qt, seen_host  # noqa: F401
from test_module import file_answer, loaded, tick

FIRST, SECOND = (12.0, -20.0, 31.0), (-4.0, 8.0, 10.0)  # of the list, the hottest first
VIEWS = ("Red", "Green", "Yellow")
Vector = npt.NDArray[np.float64]


@pytest.fixture
def widget(seen_host: Host) -> Any:  # noqa: F811
    """The module with an answer that has two hot spots."""
    made = loaded(seen_host)
    volume = add_volume(shape=(60, 70, 80), origin=-60)
    slicer.util.setSliceViewerLayers(background=volume, fit=True)
    tick(made)
    file_answer(made, volume)
    return made


def click(widget: Any, row: int) -> None:
    widget.ui.hotSpotTable.cellClicked.emit(row, 0)


def slice_nodes() -> list[Any]:
    return [slicer.app.layoutManager().sliceWidget(name).mrmlSliceNode() for name in VIEWS]


def plane(node: Any) -> tuple[Vector, Vector]:
    """A point of the slice, and its normal."""
    matrix = slicer.util.arrayFromVTKMatrix(node.GetSliceToRAS())
    return matrix[:3, 3], matrix[:3, 2]


def distances(ras: tuple[float, float, float]) -> list[float]:
    """How far a place lies from the slice of each view, in millimetres."""
    return [abs(float(normal @ (np.array(ras) - point))) for point, normal in map(plane, slice_nodes())]


def crosshair() -> Any:
    return slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLCrosshairNode")


def in_plane(node: Any) -> list[float]:
    """Where the middle of the view is in the plane of the slice."""
    matrix = slicer.util.arrayFromVTKMatrix(node.GetSliceToRAS())
    return (matrix[:3, :2].T @ matrix[:3, 3]).tolist()


@pytest.mark.parametrize(("row", "place"), [(0, FIRST), (1, SECOND)])
def test_all_slice_views_and_the_crosshair_are_at_the_place_of_the_row(
    widget: Any, row: int, place: tuple[float, float, float]
) -> None:
    for node in slice_nodes():
        node.SetSliceOffset(node.GetSliceOffset() + 33)
    assert min(distances(place)) > 1
    click(widget, row)
    assert distances(place) == pytest.approx([0, 0, 0], abs=1e-3)
    assert crosshair().GetCrosshairRAS() == pytest.approx(place)


def test_each_click_moves_to_its_own_row(widget: Any) -> None:
    for row, place in ((0, FIRST), (1, SECOND), (0, FIRST)):
        click(widget, row)
        assert distances(place) == pytest.approx([0, 0, 0], abs=1e-3)
        assert crosshair().GetCrosshairRAS() == pytest.approx(place)


def test_the_views_keep_what_they_show_of_the_plane(widget: Any) -> None:
    for node, zoom in zip(slice_nodes(), (0.25, 0.5, 2), strict=True):
        width, height, depth = node.GetFieldOfView()
        node.SetFieldOfView(width * zoom, height * zoom, depth)
    fields = [node.GetFieldOfView() for node in slice_nodes()]
    middles = [in_plane(node) for node in slice_nodes()]
    click(widget, 0)
    assert [node.GetFieldOfView() for node in slice_nodes()] == [pytest.approx(field) for field in fields]
    assert [in_plane(node) for node in slice_nodes()] == [pytest.approx(middle, abs=1e-6) for middle in middles]


def test_a_view_that_was_turned_stays_turned(widget: Any) -> None:
    node = slice_nodes()[0]
    turn = vtk.vtkTransform()
    turn.RotateWXYZ(25, 1, 0.5, 0)
    node.GetSliceToRAS().DeepCopy(turn.GetMatrix())
    node.UpdateMatrices()
    _, normal = plane(node)
    click(widget, 0)
    assert plane(node)[1] == pytest.approx(normal)
    assert distances(FIRST) == pytest.approx([0, 0, 0], abs=1e-3)


def test_the_crosshair_is_made_visible_and_is_seen_in_the_picture(widget: Any) -> None:
    view = slicer.app.layoutManager().sliceWidget("Red").sliceView()
    crosshair().SetCrosshairMode(slicer.vtkMRMLCrosshairNode.NoCrosshair)
    click(widget, 0)
    assert crosshair().GetCrosshairMode() != slicer.vtkMRMLCrosshairNode.NoCrosshair
    with_crosshair = view.array().copy()
    crosshair().SetCrosshairMode(slicer.vtkMRMLCrosshairNode.NoCrosshair)
    assert not np.array_equal(with_crosshair, view.array())


def test_a_crosshair_that_the_user_has_keeps_its_look(widget: Any) -> None:
    crosshair().SetCrosshairMode(slicer.vtkMRMLCrosshairNode.ShowSmallIntersection)
    click(widget, 0)
    assert crosshair().GetCrosshairMode() == slicer.vtkMRMLCrosshairNode.ShowSmallIntersection


def test_the_image_that_is_shown_stays_the_same(widget: Any) -> None:
    composites = [slicer.app.layoutManager().sliceWidget(name).mrmlSliceCompositeNode() for name in VIEWS]
    before = [(one.GetBackgroundVolumeID(), one.GetForegroundVolumeID()) for one in composites]
    click(widget, 1)
    assert [(one.GetBackgroundVolumeID(), one.GetForegroundVolumeID()) for one in composites] == before


def test_without_views_a_jump_is_no_harm() -> None:
    from AnyMC3DUI.navigation import jump

    scene = slicer.vtkMRMLScene()
    jump(scene, FIRST)
    assert scene.GetNumberOfNodes() == 0


def test_hot_spots_go_with_a_volume_that_is_moved_afterwards(widget: Any) -> None:
    results = widget.desk.results._results[0]
    transform = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
    matrix = np.eye(4)
    matrix[:3, 3] = 100, -20, 5
    transform.SetMatrixTransformToParent(slicer.util.vtkMatrixFromArray(matrix))
    results.volume.SetAndObserveTransformNodeID(transform.GetID())
    moved = tuple(np.add(FIRST, (100, -20, 5)))
    click(widget, 0)
    assert distances(moved) == pytest.approx([0, 0, 0], abs=1e-3)
    (plugin,) = results.predictions
    assert results.hot_spots(plugin).GetNthControlPointPositionWorld(0) == pytest.approx(moved)
    assert widget.ui.hotSpotTable.item(0, 2).text() == ", ".join(f"{value:.0f}" for value in moved)
