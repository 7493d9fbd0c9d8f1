from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import slicer
import slicer.util
import studies
from AnyMC3DUI.handover import heat_node
from AnyMC3DUI.overlay import HeatOverlay
from overlay_study import SliceStudy, legends, warmth, without_legend
from scene import SLICE_VIEWS, Scene


@pytest.fixture
def shown(scene: Scene) -> Iterator[SliceStudy]:
    """A straight study that is shown, and its overlay, off."""
    made = SliceStudy(scene, studies.straight())
    yield made
    made.overlay.close()


@pytest.mark.parametrize("geometry", studies.GEOMETRIES)
@pytest.mark.parametrize("moved", [False, True])
def test_heat_is_on_the_lesion_in_every_view(scene: Scene, geometry: str, moved: bool) -> None:
    shown = SliceStudy(scene, studies.GEOMETRIES[geometry](), transform=moved)
    shown.show()
    legends(scene)[0].SetVisibility(False)
    for view in SLICE_VIEWS:
        picture = scene.slice_picture(view)
        hot = np.argwhere(warmth(picture) > 60)
        row, column = scene.slice_pixel(shown.lesion, view)
        assert warmth(picture)[row, column] > 60
        assert np.linalg.norm(hot.mean(axis=0) - (row, column)) < 6
    shown.overlay.close()


def test_anatomy_without_heat_is_exactly_as_before(shown: SliceStudy) -> None:
    before = shown.scene.slice_picture()
    shown.show()
    after = shown.scene.slice_picture()
    cold = warmth(without_legend(after)) == 0
    assert cold.mean() > 0.7
    assert np.array_equal(without_legend(before)[cold], without_legend(after)[cold])


def test_heat_shows_from_the_threshold_on_and_no_earlier(shown: SliceStudy) -> None:
    shown.show()
    areas = []
    for threshold in (0.3, 0.5, 0.7, 0.9):
        shown.overlay.threshold = threshold
        hot = warmth(without_legend(shown.scene.slice_picture())) > 15
        areas.append(int(hot.sum()))
        # Pixels are mapped back to voxels, and asked for their heat.
        heat = slicer.util.arrayFromVolume(shown.heat)
        for row, column in np.argwhere(hot)[:: max(1, hot.sum() // 50)]:
            k, j, i = voxel_at(shown, row, column)
            assert heat[k - 1 : k + 2, j - 1 : j + 2, i - 1 : i + 2].max() >= threshold
    assert areas == sorted(areas, reverse=True) and areas[0] > 2 * areas[-1] > 0


def voxel_at(shown: SliceStudy, row: int, column: int) -> tuple[int, int, int]:
    slice_node = shown.scene.slices["Red"].GetSliceNode()
    to_ras = slicer.util.arrayFromVTKMatrix(slice_node.GetXYToRAS())
    ras = to_ras @ (column, 299 - row, 0, 1)
    i, j, k = np.rint(np.linalg.inv(studies.straight()) @ ras)[:3].astype(int)
    return k, j, i


def test_heat_below_the_threshold_everywhere_leaves_the_picture_as_it_was(shown: SliceStudy) -> None:
    before = shown.scene.slice_picture()
    faint = shown.add_heat(np.full(studies.SHAPE, 0.45, np.float32), "faint")
    shown.overlay.show(shown.anatomy, faint, "lesion")
    assert np.array_equal(without_legend(shown.scene.slice_picture()), without_legend(before))


def test_opacity_says_how_much_of_the_anatomy_is_covered(shown: SliceStudy) -> None:
    shown.show()
    row, column = shown.scene.slice_pixel(shown.lesion)
    seen = []
    for opacity in (0.0, 0.4, 1.0):
        shown.overlay.opacity = opacity
        seen.append(warmth(shown.scene.slice_picture())[row, column])
    assert seen[0] == 0 and 0 < seen[1] < seen[2]


def test_the_legend_is_there_with_its_caption_and_gone_with_the_heat(shown: SliceStudy) -> None:
    before = shown.scene.slice_picture()
    shown.show()
    (legend,) = legends(shown.scene)
    assert legend.GetTitleText() == "lesion" and legend.GetVisibility()
    during = shown.scene.slice_picture()
    assert (warmth(during[60:240, 250:]) > 60).sum() > 200
    shown.overlay.hide()
    assert legends(shown.scene) == []
    assert np.array_equal(shown.scene.slice_picture(), before)


def test_heat_lies_over_a_colour_picture(scene: Scene) -> None:
    array = np.random.default_rng(0).integers(60, 120, (1, 40, 48, 1)).astype(np.uint8).repeat(3, axis=3)
    picture = studies.add_volume(array, np.diag([2.0, 2, 2, 1]), colour=True)
    heat = np.zeros((1, 40, 48), np.float32)
    heat[0, 10:20, 10:20] = 1
    overlay = HeatOverlay(scene.mrml)
    scene.set_background(picture)
    scene.jump((30, 30, 0))
    before = scene.slice_picture()
    overlay.show(picture, heat_node(scene.mrml, heat, like=picture, name="heat"), "lesion")
    seen = scene.slice_picture()
    assert warmth(seen)[scene.slice_pixel((30, 30, 0))] > 60
    elsewhere = scene.slice_pixel((70, 60, 0))
    assert before[elsewhere].min() > 0 and list(seen[elsewhere]) == list(before[elsewhere])
    overlay.close()
