from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import slicer
import slicer.util
import studies
import vtk
from AnyMC3DUI import coarse_grid, fused
from AnyMC3DUI.handover import heat_node
from AnyMC3DUI.overlay import HeatOverlay
from AnyMC3DUI.turns import Cancel, Work, finish
from scene import Scene

SIZE = 44
PLATE = slice(20, 25)  # along A
NEAR_BACK, NEAR_FRONT = (12, 10, 14), (32, 34, 30)  # (i, j, k) of two lesions, on either side of the plate
FROM_BACK, FROM_FRONT = (0, 1, 0), (0, -1, 0)  # ways to look


def plate() -> np.ndarray:
    """A plate across the middle in air, [k, j, i]."""
    array = np.zeros((SIZE, SIZE, SIZE), np.int16)
    array[3:-3, PLATE, 3:-3] = 1000
    return array


def cube_affine(directions: np.ndarray | None = None) -> np.ndarray:
    affine = np.eye(4)
    affine[:3, :3] = np.eye(3) if directions is None else directions
    affine[:3, 3] = -affine[:3, :3] @ np.full(3, (SIZE - 1) / 2)
    return affine


def balls(*places: tuple[int, int, int], hottest: float = 1.0) -> np.ndarray:
    k, j, i = np.indices((SIZE, SIZE, SIZE))
    away = [np.sqrt((i - a) ** 2 + (j - b) ** 2 + (k - c) ** 2) for a, b, c in places]
    return (hottest * np.exp(-((np.min(away, axis=0) / 4.5) ** 2) / 2)).astype(np.float32)


class Shown:
    """The plate with heat on either side, and an overlay that is off."""

    def __init__(
        self, scene: Scene, *, affine: np.ndarray | None = None, array: np.ndarray | None = None,
        heat: np.ndarray | None = None,
    ) -> None:  # fmt: skip
        self.scene = scene
        self.anatomy = studies.add_volume(
            plate() if array is None else array, cube_affine() if affine is None else affine
        )
        heat = balls(NEAR_BACK, NEAR_FRONT) if heat is None else heat
        self.heat = heat_node(scene.mrml, heat, like=self.anatomy, name="heat")
        self.overlay = HeatOverlay(scene.mrml)

    def show(self, solidity: float | None = None) -> None:
        if solidity is not None:
            self.overlay.solidity = solidity
        self.overlay.show(self.anatomy, self.heat, "lesion")

    def look(self, towards: tuple[float, float, float]) -> tuple[int, int]:
        """How warm the picture is at the lesion near the back, and at that near the front."""
        picture = self.scene.three_d_picture(towards, zoom=1.3)
        places = [self.scene.three_d_pixel(studies.world_of(self.anatomy, ijk)) for ijk in (NEAR_BACK, NEAR_FRONT)]
        return tuple(int(warmth(picture)[place]) for place in places)

    def fused_node(self) -> slicer.vtkMRMLVectorVolumeNode | None:
        found = slicer.util.getNodesByClass("vtkMRMLVectorVolumeNode", self.scene.mrml)
        return found[0] if found else None

    def add_rendering(
        self, node: slicer.vtkMRMLVolumeNode | None = None, *, opacity: float = 1.0
    ) -> slicer.vtkMRMLVolumeRenderingDisplayNode:
        """The user's own rendering, green, visible."""
        node = node or self.anatomy
        properties = self.scene.mrml.AddNewNodeByClass("vtkMRMLVolumePropertyNode")
        values = properties.GetVolumeProperty()
        colours, opacities = vtk.vtkColorTransferFunction(), vtk.vtkPiecewiseFunction()
        colours.AddRGBPoint(0, 0, 0.7, 0)
        colours.AddRGBPoint(1000, 0, 0.7, 0)
        opacities.AddPoint(300, 0)
        opacities.AddPoint(500, opacity)
        values.SetColor(colours)
        values.SetScalarOpacity(opacities)
        rendering = self.scene.mrml.AddNewNodeByClass("vtkMRMLGPURayCastVolumeRenderingDisplayNode")
        rendering.SetAndObserveVolumePropertyNodeID(properties.GetID())
        node.AddAndObserveDisplayNodeID(rendering.GetID())
        rendering.SetVisibility(True)
        return rendering


@pytest.fixture
def shown(scene: Scene) -> Iterator[Shown]:
    made = Shown(scene)
    yield made
    made.overlay.close()


def warmth(picture: np.ndarray) -> np.ndarray:
    return picture[..., 0].astype(int) - picture[..., 2]


def test_a_solid_structure_hides_the_lesion_behind_it_and_not_the_one_in_front(shown: Shown) -> None:
    shown.show(solidity=1.0)
    back, front = shown.look(FROM_BACK)
    assert back > 60 and front < 25
    back, front = shown.look(FROM_FRONT)
    assert back < 25 and front > 60


def test_through_translucent_anatomy_both_lesions_are_seen_and_the_nearer_better(shown: Shown) -> None:
    shown.show(solidity=0.4)
    back, front = shown.look(FROM_BACK)
    assert back > front > 15
    back, front = shown.look(FROM_FRONT)
    assert front > back > 15


def test_without_heat_above_the_threshold_nothing_in_3d_is_warm(scene: Scene) -> None:
    shown = Shown(scene, heat=balls(NEAR_BACK, hottest=0.45))
    shown.show(solidity=0.0)
    picture = scene.three_d_picture(FROM_BACK, zoom=1.3)
    assert np.ptp(picture.reshape(-1, 3), axis=0).max() <= 1
    shown.overlay.threshold = 0.3
    assert shown.look(FROM_BACK)[0] > 15
    shown.overlay.close()


def test_a_higher_threshold_shows_less_and_a_higher_opacity_covers_more(shown: Shown) -> None:
    shown.show(solidity=0.0)
    areas, strengths = [], []
    for threshold in (0.3, 0.6, 0.9):
        shown.overlay.threshold = threshold
        areas.append(int((warmth(shown.scene.three_d_picture(FROM_BACK, zoom=1.3)) > 0).sum()))
    shown.overlay.threshold = 0.5
    for opacity in (0.05, 0.3, 1.0):
        shown.overlay.opacity = opacity
        strengths.append(shown.look(FROM_BACK)[0])
    assert areas[0] > areas[1] > areas[2] > 0
    assert strengths[0] < strengths[1] < strengths[2]


def test_the_anatomy_looks_the_same_with_heat_elsewhere_and_without(scene: Scene) -> None:
    pictures = []
    for hottest in (1.0, 0.0):
        shown = Shown(scene, heat=balls(NEAR_BACK, hottest=hottest))
        shown.show(solidity=0.4)
        pictures.append(scene.three_d_picture(FROM_FRONT, zoom=1.3).astype(int))
        far = scene.three_d_pixel(studies.world_of(shown.anatomy, (32, 22, 34)))
        shown.overlay.close()
        scene.mrml.RemoveNode(shown.anatomy)
    # The renderer stretches opacities over the values that occur, which must not show.
    assert pictures[0][far] == pytest.approx(pictures[1][far], abs=4)
    background = pictures[0][2, 2]
    assert np.abs(pictures[0][far] - background).max() > 20


def test_a_coarse_and_a_fine_volume_look_alike(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    block, depths = np.zeros((SIZE, SIZE, SIZE), np.int16), []
    block[8:36, 8:36, 8:36] = 1000
    for most in (coarse_grid.MOST_VOXELS, SIZE**3 // 8):
        monkeypatch.setattr(coarse_grid, "MOST_VOXELS", most)
        shown = Shown(scene, array=block, heat=balls(NEAR_BACK, hottest=0.0))
        shown.show(solidity=0.3)
        picture = scene.three_d_picture(FROM_FRONT, zoom=1.3).astype(int)
        place = scene.three_d_pixel((0, 0, 0))
        depths.append(np.abs(picture[place] - picture[2, 2]).sum())
        shown.overlay.close()
        scene.mrml.RemoveNode(shown.anatomy)
    assert depths[0] > 30
    assert depths[1] == pytest.approx(depths[0], rel=0.25)


@pytest.mark.parametrize("geometry", ["oblique", "tilted"])
@pytest.mark.parametrize("moved", [False, True])
def test_heat_is_drawn_where_the_lesion_is_in_the_world(scene: Scene, geometry: str, moved: bool) -> None:
    directions = studies.GEOMETRIES[geometry]()[:3, :3]
    shown = Shown(scene, affine=cube_affine(directions), heat=balls(NEAR_BACK))
    shown.show(solidity=0.2)
    if moved:
        shown.anatomy.SetAndObserveTransformNodeID(studies.add_transform().GetID())
    for towards in ((0, 1, 0), (1, 0, 0)):
        picture = scene.three_d_picture(towards, zoom=1.2)
        found = np.argwhere(warmth(picture) > 30).mean(axis=0)
        expected = scene.three_d_pixel(studies.world_of(shown.anatomy, NEAR_BACK))
        assert np.linalg.norm(found - expected) < 5
    shown.overlay.close()


def test_a_volume_that_is_drawn_smaller_lies_in_the_same_place(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coarse_grid, "MOST_VOXELS", 20_000)
    shown = Shown(scene, heat=balls(NEAR_BACK))
    shown.show(solidity=0.2)
    assert np.prod(shown.fused_node().GetImageData().GetDimensions()) <= 20_000
    picture = scene.three_d_picture(FROM_BACK, zoom=1.2)
    found = np.argwhere(warmth(picture) > 30).mean(axis=0)
    assert np.linalg.norm(found - scene.three_d_pixel(studies.world_of(shown.anatomy, NEAR_BACK))) < 5
    shown.overlay.close()


def test_the_users_own_rendering_gives_way_and_comes_back(shown: Shown) -> None:
    own, hidden = shown.add_rendering(), shown.add_rendering()
    hidden.SetVisibility(False)
    other = studies.add_volume(plate(), cube_affine(), name="other")
    others = shown.add_rendering(other)
    shown.show()
    shown.show()
    assert not own.GetVisibility() and not others.GetVisibility()
    shown.overlay.hide()
    assert own.GetVisibility() and others.GetVisibility() and not hidden.GetVisibility()
    assert shown.fused_node() is None


def test_the_anatomy_keeps_the_look_that_the_user_gave_it(shown: Shown) -> None:
    shown.add_rendering()
    shown.show(solidity=0.1)
    assert shown.look(FROM_BACK)[0] > 60
    picture = shown.scene.three_d_picture(FROM_FRONT, zoom=1.3)
    red, green, blue = picture[shown.scene.three_d_pixel(studies.world_of(shown.anatomy, (12, 22, 34)))].astype(int)
    assert green > red + 30 and green > blue + 30
    before = picture.copy()
    shown.overlay.solidity = 1.0
    assert np.array_equal(shown.scene.three_d_picture(FROM_FRONT, zoom=1.3), before)


def test_the_users_cut_away_cuts_the_heat_too(shown: Shown) -> None:
    own = shown.add_rendering()
    roi = shown.scene.mrml.AddNewNodeByClass("vtkMRMLMarkupsROINode", "cut")
    # All that lies in front of the plate's middle.
    roi.SetCenter(0, 11, 0)
    roi.SetSize(60, 22, 60)
    own.SetAndObserveROINodeID(roi.GetID())
    own.SetCroppingEnabled(True)
    shown.show()
    back, front = shown.look(FROM_FRONT)
    assert front > 60
    back, front = shown.look(FROM_BACK)
    assert back < 25 and front < 25


def test_the_fused_volume_is_not_saved_and_the_users_rendering_is(shown: Shown, tmp_path: Path) -> None:
    shown.add_rendering()
    shown.show()
    shown.scene.save(tmp_path / "saved.mrb")
    shown.scene.load(tmp_path / "saved.mrb")
    assert shown.fused_node() is None
    renderings = slicer.util.getNodesByClass("vtkMRMLVolumeRenderingDisplayNode", shown.scene.mrml)
    assert [node.GetVisibility() for node in renderings] == [1]
    assert len(slicer.util.getNodesByClass("vtkMRMLVolumePropertyNode", shown.scene.mrml)) == 1


def test_showing_again_and_again_leaves_no_nodes_behind(shown: Shown) -> None:
    shown.add_rendering()
    before = shown.scene.node_count()
    for _ in range(3):
        shown.show()
        shown.show()
    during = shown.scene.node_count()
    shown.show()
    assert shown.scene.node_count() == during > before
    shown.overlay.hide()
    assert shown.scene.node_count() == before


def test_removing_the_fused_volume_is_no_harm(shown: Shown) -> None:
    own = shown.add_rendering()
    shown.show()
    shown.scene.mrml.RemoveNode(shown.fused_node())
    shown.overlay.threshold = 0.8
    shown.overlay.solidity = 0.9
    shown.anatomy.SetAndObserveTransformNodeID(studies.add_transform().GetID())
    shown.overlay.hide()
    assert own.GetVisibility()
    shown.show()
    assert shown.fused_node() is not None


def test_removing_the_users_rendering_meanwhile_is_no_harm(shown: Shown) -> None:
    own = shown.add_rendering()
    shown.show()
    shown.scene.mrml.RemoveNode(own)
    shown.overlay.hide()
    assert shown.fused_node() is None


def test_closing_the_scene_takes_the_fused_volume_with_it(shown: Shown) -> None:
    shown.show()
    shown.scene.mrml.Clear(0)
    assert shown.fused_node() is None and not shown.overlay.visible


def test_3d_can_be_left_out_and_taken_in(shown: Shown) -> None:
    own = shown.add_rendering()
    shown.overlay.in_3d = False
    shown.show()
    assert shown.fused_node() is None and own.GetVisibility()
    shown.overlay.in_3d = True
    assert shown.fused_node() is not None and not own.GetVisibility()
    shown.overlay.in_3d = False
    assert shown.fused_node() is None and own.GetVisibility()


def test_a_picture_of_one_slice_is_not_drawn_in_3d(scene: Scene) -> None:
    anatomy = studies.add_volume(np.arange(100, dtype=np.int16).reshape(1, 10, 10), np.eye(4))
    heat = heat_node(scene.mrml, np.ones((1, 10, 10), np.float32), like=anatomy, name="heat")
    overlay = HeatOverlay(scene.mrml)
    overlay.show(anatomy, heat, "lesion")
    assert slicer.util.getNodesByClass("vtkMRMLVectorVolumeNode", scene.mrml) == []
    overlay.close()


def test_a_volume_of_one_value_can_be_shown(scene: Scene) -> None:
    shown = Shown(scene, array=np.full((SIZE, SIZE, SIZE), 5, np.int16))
    shown.show()
    scene.three_d_picture(FROM_BACK)
    shown.overlay.close()


def test_heat_of_a_sequence_is_out_of_3d_while_another_frame_is_shown(scene: Scene) -> None:
    frames = [studies.add_volume(plate() + np.int16(n), cube_affine()) for n in range(2)]
    proxy, browser = scene.add_sequence(frames)
    heat = heat_node(scene.mrml, balls(NEAR_BACK), like=proxy, name="heat")
    overlay = HeatOverlay(scene.mrml)
    overlay.show(proxy, heat, "lesion")
    drawn = []
    for frame in (0, 1, 0):
        browser.SetSelectedItemNumber(frame)
        drawn.append(len(slicer.util.getNodesByClass("vtkMRMLVectorVolumeNode", scene.mrml)))
    assert drawn == [1, 0, 1]
    overlay.close()


class Waiting:
    """A runner that works when it is told to."""

    def __init__(self) -> None:
        self.work: Work | None = None
        self.begun = 0

    def __call__(self, work: Work) -> Cancel:
        self.work, self.begun = work, self.begun + 1
        return work.close

    def turns(self, count: int) -> None:
        for _ in range(count):
            next(self.work)


@pytest.fixture
def waiting(shown: Shown, monkeypatch: pytest.MonkeyPatch) -> Waiting:
    """The overlay of `shown` works in turns, of a few voxels each."""
    monkeypatch.setattr(fused, "_SLAB_VOXELS", 10 * SIZE**2)
    shown.overlay.close()
    runner = Waiting()
    shown.overlay = HeatOverlay(shown.scene.mrml, runner)
    return runner


def test_drawing_in_3d_goes_on_in_turns_and_the_users_rendering_is_shown_until_then(
    shown: Shown, waiting: Waiting
) -> None:
    own = shown.add_rendering()
    shown.show()
    waiting.turns(3)
    assert shown.fused_node() is None and own.GetVisibility()
    finish(waiting.work)
    assert shown.fused_node() is not None and not own.GetVisibility()


def test_a_slider_that_moves_while_it_is_painted_counts_in_the_end(shown: Shown, waiting: Waiting) -> None:
    shown.show()
    finish(waiting.work)
    shown.overlay.threshold = 0.9
    waiting.turns(2)
    shown.overlay.threshold = 0.7
    shown.overlay.opacity = 0.3
    assert waiting.begun == 2
    finish(waiting.work)
    found = slicer.util.arrayFromVolume(shown.fused_node()).copy()
    shown.overlay.close()
    shown.overlay = HeatOverlay(shown.scene.mrml)
    shown.overlay.threshold, shown.overlay.opacity = 0.7, 0.3
    shown.show()
    assert np.array_equal(found, slicer.util.arrayFromVolume(shown.fused_node()))


@pytest.mark.parametrize("turns", [0, 3, 14])
def test_hiding_while_it_is_drawn_leaves_nothing_behind(shown: Shown, waiting: Waiting, turns: int) -> None:
    before, own = shown.scene.node_count(), shown.add_rendering()
    with_own = shown.scene.node_count()
    shown.show()
    waiting.turns(turns)
    shown.overlay.hide()
    assert list(waiting.work) == [] and own.GetVisibility() and shown.fused_node() is None
    kept = len(slicer.util.getNodesByClass("vtkMRMLColorTableNode", shown.scene.mrml))
    assert before < shown.scene.node_count() <= with_own + kept


def test_removing_the_anatomy_while_it_is_drawn_is_no_harm(shown: Shown, waiting: Waiting) -> None:
    shown.show()
    waiting.turns(3)
    shown.scene.mrml.RemoveNode(shown.anatomy)
    assert list(waiting.work) == [] and shown.fused_node() is None and not shown.overlay.visible


def test_views_are_framed_when_an_anatomy_appears_and_not_again(shown: Shown) -> None:
    appeared: list[bool] = []
    shown.overlay.appeared = lambda: appeared.append(True)
    shown.show()
    shown.overlay.hide()
    shown.show()
    assert appeared == [True]


def test_views_that_render_the_anatomy_already_stay_as_the_user_turned_them(shown: Shown) -> None:
    appeared: list[bool] = []
    shown.overlay.appeared = lambda: appeared.append(True)
    shown.add_rendering()
    shown.show()
    assert not appeared


def test_what_cannot_be_drawn_is_told_and_leaves_slices_and_nodes_alone(
    shown: Shown, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    shown.overlay.troubled = told.append
    before, own = shown.scene.node_count(), shown.add_rendering()
    with_own = shown.scene.node_count()
    monkeypatch.setattr("AnyMC3DUI.overlay_volume._set_opacity", lambda *_: 1 / 0)
    shown.show()
    assert "cannot be drawn in 3D (ZeroDivisionError)" in told[0] and len(told) == 1
    assert shown.overlay.visible and shown.fused_node() is None and own.GetVisibility()
    monkeypatch.undo()
    shown.overlay.hide()
    kept = len(slicer.util.getNodesByClass("vtkMRMLColorTableNode", shown.scene.mrml))
    assert before < shown.scene.node_count() <= with_own + kept
    shown.show()
    assert shown.fused_node() is not None
