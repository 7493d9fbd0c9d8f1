from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import slicer
import slicer.util
import studies
from AnyMC3DUI.handover import heat_node
from AnyMC3DUI.overlay import HeatOverlay
from overlay_study import LESION, SliceStudy, legends, settings
from scene import SLICE_VIEWS, Scene

from AnyMC3DLib.errors import InputError


@pytest.fixture
def shown(scene: Scene) -> Iterator[SliceStudy]:
    """A straight study that is shown, and its overlay, off."""
    made = SliceStudy(scene, studies.straight())
    yield made
    made.overlay.close()


def test_everything_that_the_user_had_comes_back(shown: SliceStudy) -> None:
    other = studies.add_volume(np.full(studies.SHAPE, 7, np.int16), studies.straight(), name="other")
    slicer.vtkSlicerColorLogic.AddDefaultColorLegendDisplayNode(shown.anatomy)
    red, green = shown.scene.composite("Red"), shown.scene.composite("Green")
    red.SetForegroundVolumeID(other.GetID())
    red.SetForegroundOpacity(0.35)
    red.SetCompositing(red.Add)
    green.SetBackgroundVolumeID(other.GetID())
    shown.anatomy.GetDisplayNode().SetWindowLevel(321, 123)
    before = settings(shown)
    shown.show()
    assert settings(shown) != before
    assert [node.GetVisibility() for node in legends(shown.scene)].count(1) == 1
    shown.overlay.hide()
    assert settings(shown) == before


def test_showing_and_hiding_again_and_again_leaves_no_nodes_behind(shown: SliceStudy) -> None:
    shown.show()
    shown.overlay.hide()
    before = shown.scene.node_count()
    other = shown.add_heat(np.zeros(studies.SHAPE, np.float32), "other")
    with_other = shown.scene.node_count()
    for _ in range(3):
        shown.show()
        shown.show()
        shown.overlay.show(shown.anatomy, other, "other")
        assert [node.GetTitleText() for node in legends(shown.scene)] == ["other"]
    shown.overlay.hide()
    shown.overlay.hide()
    assert shown.scene.node_count() == with_other
    assert with_other > before


def test_showing_another_heat_keeps_what_the_user_had_first(shown: SliceStudy) -> None:
    shown.scene.composite().SetForegroundOpacity(0.2)
    other = shown.add_heat(np.zeros(studies.SHAPE, np.float32), "other")
    before = settings(shown)
    shown.show()
    shown.overlay.show(shown.anatomy, other, "other")
    shown.overlay.hide()
    assert settings(shown) == before


def test_showing_another_study_keeps_what_the_user_had_first(shown: SliceStudy) -> None:
    other = studies.add_volume(np.full(studies.SHAPE, 7, np.int16), studies.straight(), name="other")
    heat = heat_node(shown.scene.mrml, np.zeros(studies.SHAPE, np.float32), like=other, name="other heat")
    before = settings(shown)
    shown.show()
    shown.overlay.show(other, heat, "other")
    assert shown.scene.composite().GetBackgroundVolumeID() == other.GetID()
    shown.overlay.hide()
    assert settings(shown) == before


def test_what_the_user_chooses_while_heat_is_on_stays(shown: SliceStudy) -> None:
    other = studies.add_volume(np.full(studies.SHAPE, 7, np.int16), studies.straight(), name="other")
    shown.show()
    red = shown.scene.composite("Red")
    red.SetForegroundVolumeID(other.GetID())
    red.SetForegroundOpacity(0.8)
    shown.overlay.opacity = 0.1
    assert red.GetForegroundOpacity() == 0.8
    shown.overlay.hide()
    assert red.GetForegroundVolumeID() == other.GetID() and red.GetForegroundOpacity() == 0.8
    assert shown.scene.composite("Green").GetForegroundVolumeID() is None


def test_a_foreground_that_was_removed_meanwhile_does_not_come_back(shown: SliceStudy) -> None:
    other = studies.add_volume(np.full(studies.SHAPE, 7, np.int16), studies.straight(), name="other")
    shown.scene.composite().SetForegroundVolumeID(other.GetID())
    shown.show()
    shown.scene.mrml.RemoveNode(other)
    shown.overlay.hide()
    assert shown.scene.composite().GetForegroundVolumeID() is None


@pytest.mark.parametrize("removed", ["anatomy", "heat"])
def test_removing_the_anatomy_or_the_heat_ends_the_overlay(shown: SliceStudy, removed: str) -> None:
    other = studies.add_volume(np.full(studies.SHAPE, 7, np.int16), studies.straight(), name="other")
    shown.scene.composite().SetForegroundVolumeID(other.GetID())
    shown.show()
    shown.scene.mrml.RemoveNode(getattr(shown, removed))
    assert not shown.overlay.visible
    assert shown.scene.composite().GetForegroundVolumeID() == other.GetID()
    assert legends(shown.scene) == []
    shown.overlay.threshold = 0.7
    shown.overlay.hide()


def test_closing_the_scene_ends_the_overlay_and_a_new_study_can_be_shown(shown: SliceStudy) -> None:
    shown.show()
    shown.scene.mrml.Clear(0)
    assert not shown.overlay.visible
    shown.overlay.hide()
    for view in SLICE_VIEWS:
        assert shown.scene.composite(view).GetForegroundVolumeID() is None
    anatomy = studies.add_volume(studies.study_with_lesion(studies.straight(), LESION), studies.straight())
    shown.overlay.show(anatomy, heat_node(shown.scene.mrml, np.zeros(studies.SHAPE, np.float32), like=anatomy,
                                          name="new"), "new")  # fmt: skip
    assert shown.overlay.visible


def test_what_is_not_in_the_scene_cannot_be_shown(shown: SliceStudy) -> None:
    shown.scene.mrml.RemoveNode(shown.heat)
    with pytest.raises(InputError, match="not in the scene any more"):
        shown.show()


def test_a_view_that_is_opened_while_heat_is_on_shows_it_too(shown: SliceStudy) -> None:
    shown.show()
    logic = slicer.vtkMRMLSliceLogic()
    logic.SetMRMLApplicationLogic(shown.scene.application)
    logic.SetMRMLScene(shown.scene.mrml)
    logic.AddSliceNode("Blue")
    assert logic.GetSliceCompositeNode().GetForegroundVolumeID() == shown.heat.GetID()
    shown.overlay.hide()
    assert logic.GetSliceCompositeNode().GetForegroundVolumeID() is None
    logic.SetMRMLScene(None)


def test_heat_goes_with_the_anatomy_when_it_is_put_under_a_transform(shown: SliceStudy) -> None:
    shown.show()
    shown.anatomy.SetAndObserveTransformNodeID(studies.add_transform().GetID())
    assert studies.world_of(shown.heat, LESION) == pytest.approx(studies.world_of(shown.anatomy, LESION))
    shown.anatomy.SetAndObserveTransformNodeID(None)
    assert studies.world_of(shown.heat, LESION) == pytest.approx(shown.lesion)


def test_heat_of_a_sequence_waits_while_another_frame_is_shown(scene: Scene) -> None:
    frames = [studies.add_volume(np.full(studies.SHAPE, 100 * n, np.int16), studies.straight()) for n in range(3)]
    proxy, browser = scene.add_sequence(frames)
    browser.SetSelectedItemNumber(1)
    heat = heat_node(scene.mrml, np.ones(studies.SHAPE, np.float32), like=proxy, name="heat")
    scene.set_background(proxy)
    overlay = HeatOverlay(scene.mrml)
    overlay.show(proxy, heat, "lesion")
    shown = []
    for frame in (1, 2, 0, 1):
        browser.SetSelectedItemNumber(frame)
        shown.append(scene.composite().GetForegroundVolumeID() == heat.GetID())
        assert overlay.visible
    assert shown == [True, False, False, True]
    browser.SetSelectedItemNumber(2)
    overlay.hide()
    browser.SetSelectedItemNumber(1)
    assert scene.composite().GetForegroundVolumeID() is None
    overlay.close()


def test_a_scene_saved_while_heat_is_on_opens_as_the_user_had_it(shown: SliceStudy, tmp_path: Path) -> None:
    other = studies.add_volume(np.full(studies.SHAPE, 7, np.int16), studies.straight(), name="other")
    slicer.vtkSlicerColorLogic.AddDefaultColorLegendDisplayNode(shown.anatomy)
    red = shown.scene.composite("Red")
    red.SetForegroundVolumeID(other.GetID())
    red.SetForegroundOpacity(0.35)
    shown.show()
    shown.scene.save(tmp_path / "saved.mrb")
    shown.scene.load(tmp_path / "saved.mrb")
    assert not shown.overlay.visible
    red = shown.scene.composite("Red")
    mrml = shown.scene.mrml
    assert mrml.GetNodeByID(red.GetForegroundVolumeID()).GetName() == "other"
    assert mrml.GetNodeByID(red.GetBackgroundVolumeID()).GetName() == "study"
    assert red.GetForegroundOpacity() == pytest.approx(0.35)
    assert shown.scene.composite("Green").GetForegroundVolumeID() is None
    assert [node.GetVisibility() for node in legends(shown.scene)] == [1]


def test_heat_looks_the_same_after_the_scene_was_saved_and_loaded(shown: SliceStudy, tmp_path: Path) -> None:
    shown.show()
    before = shown.scene.slice_picture()
    shown.overlay.hide()
    shown.scene.save(tmp_path / "saved.mrb")
    shown.scene.load(tmp_path / "saved.mrb")
    anatomy, heat = (slicer.util.getFirstNodeByName(name) for name in ("study", "heat"))
    shown.scene.jump(shown.lesion)
    shown.overlay.show(anatomy, heat, "lesion")
    assert np.abs(shown.scene.slice_picture().astype(int) - before).max() <= 2
    heat_node(shown.scene.mrml, np.zeros(studies.SHAPE, np.float32), like=anatomy, name="later")
    tables = [node for node in slicer.util.getNodesByClass("vtkMRMLColorTableNode") if "AnyMC3D" in node.GetName()]
    assert len(tables) == 1


def test_an_overlay_that_was_lost_is_taken_off_by_the_next(shown: SliceStudy) -> None:
    shown.scene.composite().SetForegroundOpacity(0.2)
    before = settings(shown)
    shown.show()
    again = HeatOverlay(shown.scene.mrml)
    assert settings(shown) == before
    again.close()


@pytest.mark.parametrize("name", ["opacity", "threshold", "solidity"])
def test_a_share_outside_0_to_1_is_refused(shown: SliceStudy, name: str) -> None:
    for value in (-0.1, 1.1, float("nan")):
        with pytest.raises(InputError, match=f"{name} must be from 0 to 1"):
            setattr(shown.overlay, name, value)


def test_after_close_the_scene_is_watched_no_more(shown: SliceStudy) -> None:
    shown.show()
    shown.overlay.close()
    shown.scene.mrml.RemoveNode(shown.heat)
    shown.scene.mrml.Clear(0)
    assert not shown.overlay.visible


def test_heat_leaves_a_view_that_shows_another_image_and_stays_in_the_others(shown: SliceStudy) -> None:
    other = studies.add_volume(np.zeros(studies.SHAPE, np.int16), studies.straight(), name="another patient")
    ended: list[bool] = []
    shown.overlay.ended = lambda: ended.append(True)
    shown.show()
    shown.scene.composite("Red").SetBackgroundVolumeID(other.GetID())
    assert shown.scene.composite("Red").GetForegroundVolumeID() is None
    assert shown.scene.composite("Red").GetBackgroundVolumeID() == other.GetID()
    assert shown.scene.composite("Green").GetForegroundVolumeID() == shown.heat.GetID()
    assert shown.overlay.visible and not ended


@pytest.mark.parametrize("layers", ["Background", "all"])
def test_heat_ends_when_no_view_shows_its_image_any_more(shown: SliceStudy, layers: str) -> None:
    other = studies.add_volume(np.zeros(studies.SHAPE, np.int16), studies.straight(), name="another patient")
    ended: list[bool] = []
    shown.overlay.ended = lambda: ended.append(True)
    shown.show()
    for view in SLICE_VIEWS:
        composite = shown.scene.composite(view)
        changing = composite.StartModify()
        composite.SetBackgroundVolumeID(other.GetID())
        if layers == "all":
            composite.SetForegroundVolumeID(None)
        composite.EndModify(changing)
    assert ended == [True] and not shown.overlay.visible
    assert [shown.scene.composite(view).GetForegroundVolumeID() for view in SLICE_VIEWS] == [None] * 3
    assert [shown.scene.composite(view).GetBackgroundVolumeID() for view in SLICE_VIEWS] == [other.GetID()] * 3
    assert legends(shown.scene) == []


def test_the_views_are_fitted_when_they_showed_another_image_before(shown: SliceStudy) -> None:
    exchanged: list[bool] = []
    shown.overlay.exchanged = lambda: exchanged.append(True)
    shown.show()
    shown.overlay.hide()
    assert not exchanged
    other = studies.add_volume(np.zeros(studies.SHAPE, np.int16), studies.straight(), name="another series")
    shown.scene.composite("Red").SetBackgroundVolumeID(other.GetID())
    shown.show()
    assert exchanged == [True]
