"""From maps to a heatmap: a fixed scale, the right place, hot spots in the patient's millimetres."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import pytest
from volumes import GRID, HEADERS, in_every_order, straight, study

from AnyMC3DLib.errors import InputError
from AnyMC3DLib.geometry import transform_points
from AnyMC3DLib.heatmap import class_hot_spots, heat_of, heatmap, hot_spots
from AnyMC3DLib.prediction import Prediction, RelevanceMap
from AnyMC3DLib.preprocessing import Slices, preprocess
from AnyMC3DLib.spec import BackboneRef, ClassSpec, IntensitySpec, PluginSpec, PreprocessingSpec, SliceSpec, ViewSpec
from AnyMC3DLib.volume import Volume

AXES = ("axial", "coronal", "sagittal")
UNIT = np.eye(4)


def prediction_of(maps: Mapping[str, RelevanceMap]) -> Prediction:
    """A prediction of two classes with a logit each and these maps."""
    spec = PluginSpec(
        name="Test",
        task_type="multilabel",
        classes=(ClassSpec(name="cyst"), ClassSpec(name="mass")),
        backbone=BackboneRef(id="x"),
        views=(ViewSpec(name="axial"),),
    )
    return Prediction(
        spec=spec,
        probabilities={},
        decisions={},
        slices={},
        view_weights={},
        maps=dict(maps),
        hot_spots={},
        warnings=[],
        provenance={},
    )


def with_map(density: npt.NDArray, affine: npt.NDArray = UNIT, *, paper: npt.NDArray | None = None) -> RelevanceMap:
    """A map of 'mass' [S, h, w]; that of 'cyst' is empty."""
    return RelevanceMap(paper, np.stack([np.zeros_like(density), density]).astype(np.float32), affine)


def cut(volume: Volume, axis: str, **fields: object) -> Slices:
    intensity = IntensitySpec(kind="window", windows=((500.0, 3000.0),))
    return preprocess(volume, PreprocessingSpec(axis=axis, intensity=intensity, **{"size": (48, 64), **fields}))


# The scale


def test_heat_is_zero_at_the_even_share_half_at_ten_times_and_full_at_a_hundred_times() -> None:
    density = np.array([-3.0, 0.0, 0.5, 1.0, np.sqrt(10), 10.0, 100.0, 1e6])
    np.testing.assert_allclose(heat_of(density), [0, 0, 0, 0, 0.25, 0.5, 1, 1], atol=1e-6)
    assert heat_of(density).dtype == np.float32


def test_the_scale_is_not_stretched_to_a_studys_own_maximum() -> None:
    density = np.ones((3, 4, 4), dtype=np.float32)
    density[1, 1, 1] = 2.0
    heat = heatmap(prediction_of({"axial": with_map(density)}), Volume(np.zeros((3, 4, 4)), UNIT), class_name="mass")
    assert heat.array.max() == pytest.approx(np.log(2) / np.log(100), abs=1e-4)
    assert np.count_nonzero(heat.array > 1e-5) == 1


# The place


@pytest.mark.parametrize("header", HEADERS)
@pytest.mark.parametrize("axis", AXES)
def test_a_hot_patch_appears_at_its_place_in_the_patient(header: str, axis: str) -> None:
    volume = study(header)
    slices = cut(volume, axis)
    shape = (len(slices.array), 6, 8)
    affine = slices.patch_affine(shape[1:])
    patch = np.linalg.norm(affine[:3, :3], axis=0)
    for index in [(shape[0] // 2, 3, 4), (shape[0] // 3, 2, 3), (shape[0] - 2, 3, 5)]:
        density = np.zeros(shape, dtype=np.float32)
        density[index] = 100.0
        heat = heatmap(prediction_of({axis: with_map(density, affine)}), volume, class_name="mass")
        np.testing.assert_array_equal(heat.ijk_to_ras, volume.ijk_to_ras)
        hottest = np.unravel_index(heat.array.argmax(), heat.array.shape)
        distance = transform_points(volume.ijk_to_ras, hottest[::-1]) - transform_points(affine, index[::-1])
        in_patches = np.abs(np.linalg.inv(affine[:3, :3]) @ distance)
        assert heat.array.max() > 0.5
        assert in_patches.max() <= 0.5 + 1e-6, (index, in_patches, patch)


def test_an_impulse_in_the_image_is_hot_where_it_lies_however_the_volume_is_stored() -> None:
    array = np.zeros(GRID, dtype=np.float32)
    array[9, 5, 11] = 1000.0
    for header, affine in HEADERS.items():
        impulse = transform_points(affine, (11, 5, 9))
        for stored in in_every_order(Volume(array, affine)):
            for axis in AXES:
                slices = cut(stored, axis, size=(32, 32))
                # The network's part is played by the brightest pixel of each patch.
                density = slices.array.reshape(len(slices.array), 8, 4, 8, 4).max(axis=(2, 4))
                density = 100 * (density - density.min()) / np.ptp(density)
                patch = slices.patch_affine((8, 8))
                heat = heatmap(prediction_of({axis: with_map(density, patch)}), stored, class_name="mass")
                hottest = np.unravel_index(heat.array.argmax(), heat.array.shape)
                found = transform_points(stored.ijk_to_ras, hottest[::-1])
                assert np.abs(np.linalg.inv(patch[:3, :3]) @ (found - impulse)).max() <= 1.0, (header, axis)


def test_beyond_the_slices_there_is_no_heat() -> None:
    grid = Volume(np.zeros((12, 12, 12)), straight((1, 1, 1), (-4, -4, -4)))
    heat = heatmap(prediction_of({"axial": with_map(np.full((3, 4, 5), 100.0))}), grid, class_name="mass").array
    # The map's voxels reach from -0.5 to 2.5, 3.5 and 4.5; the grid's centres lie at whole millimetres from -4.
    expected = np.zeros((12, 12, 12))
    expected[4:7, 4:8, 4:9] = 1.0
    np.testing.assert_allclose(heat, expected, atol=1e-5)


def test_views_of_the_same_place_add_up() -> None:
    grid = Volume(np.zeros((4, 4, 4)), UNIT)
    first, second = np.full((4, 4, 4), 3.0), np.zeros((4, 4, 4))
    second[2, 1, 3] = 7.0
    prediction = prediction_of({"axial": with_map(first), "coronal": with_map(second)})
    heat = heatmap(prediction, grid, class_name="mass").array
    np.testing.assert_allclose(heat[2, 1, 3], 0.5, atol=1e-4)
    assert heat[0, 0, 0] == pytest.approx(np.log(3) / np.log(100), abs=1e-4)


def test_each_class_and_the_papers_map_are_shown_apart() -> None:
    grid = Volume(np.zeros((2, 2, 2)), UNIT)
    prediction = prediction_of({"axial": with_map(np.full((2, 2, 2), 10.0), paper=np.full((2, 2, 2), 100.0))})
    assert heatmap(prediction, grid, class_name="mass").array == pytest.approx(0.5, abs=1e-5)
    assert heatmap(prediction, grid, class_name="cyst").array == pytest.approx(0.0)
    assert heatmap(prediction, grid).array == pytest.approx(1.0)
    assert heatmap(prediction, grid).array.dtype == np.float32


def test_a_colour_picture_gets_a_scalar_heatmap() -> None:
    picture = Volume(np.zeros((1, 6, 5, 3), dtype=np.uint8), UNIT)
    heat = heatmap(prediction_of({"axial": with_map(np.full((1, 3, 3), 10.0))}), picture, class_name="mass")
    assert heat.grid == (1, 6, 5)
    assert not heat.is_colour


@pytest.mark.parametrize(
    ("maps", "class_name", "message"),
    [
        ({"axial": with_map(np.ones((1, 2, 2)))}, None, "no class attention to show: choose the heatmap of a class"),
        ({"axial": with_map(np.ones((1, 2, 2)))}, "tumour", "no heatmap of a class 'tumour': choose cyst, mass"),
        ({}, "mass", "made without relevance maps: classify again"),
        ({}, None, "made without relevance maps: classify again"),
    ],
)
def test_a_heatmap_that_there_is_not_is_refused(maps: dict, class_name: str | None, message: str) -> None:
    with pytest.raises(InputError, match=message):
        heatmap(prediction_of(maps), Volume(np.zeros((2, 2, 2)), UNIT), class_name=class_name)


# Hot spots


def empty(shape: tuple[int, int, int] = (5, 9, 9)) -> npt.NDArray[np.float32]:
    return np.zeros(shape, dtype=np.float32)


def test_hot_spots_are_the_local_maxima_above_the_threshold_hottest_first() -> None:
    affine = HEADERS["oblique gantry tilt"]
    density = empty()
    density[1, 1, 1], density[3, 6, 7], density[1, 7, 2] = 20.0, 50.0, 9.0
    density[3, 6, 6] = 40.0  # beside a hotter one
    found = hot_spots([(density, affine)])
    assert [spot.heat for spot in found] == pytest.approx(np.log([50, 20]) / np.log(100), abs=1e-4)
    for spot, index in zip(found, [(7, 6, 3), (1, 1, 1)], strict=True):
        np.testing.assert_allclose(spot.ras, transform_points(affine, index), atol=0.006)


def test_a_threshold_of_ones_own_counts() -> None:
    density = empty()
    density[2, 2, 2] = 5.0
    assert hot_spots([(density, UNIT)]) == []
    assert len(hot_spots([(density, UNIT)], threshold=0.3)) == 1


def test_a_flat_top_is_one_hot_spot() -> None:
    density = empty()
    density[2, 3:6, 3:5] = 30.0
    found = hot_spots([(density, UNIT)])
    assert len(found) == 1
    assert found[0].ras == (3.0, 3.0, 2.0)


def test_past_full_heat_the_densest_place_is_the_hot_spot() -> None:
    density = empty()
    density[2, 2, 2:7] = [150.0, 200.0, 300.0, 900.0, 250.0]
    density[2, 7, 1] = 400.0
    found = hot_spots([(density, UNIT)])
    assert [spot.ras for spot in found] == [(5.0, 2.0, 2.0), (1.0, 7.0, 2.0)]
    assert [spot.heat for spot in found] == [1.0, 1.0]


def test_maxima_at_the_edge_of_a_map_are_found() -> None:
    density = empty((1, 3, 3))
    density[0, 0, 0] = density[0, 2, 2] = 40.0
    assert {spot.ras for spot in hot_spots([(density, UNIT)])} == {(0.0, 0.0, 0.0), (2.0, 2.0, 0.0)}


def test_two_views_of_one_lesion_give_one_hot_spot_with_the_sum_of_their_density() -> None:
    first, second = empty((9, 9, 9)), empty((3, 9, 9))
    coarse = np.diag([1.0, 1.0, 4.0, 1.0])
    first[4, 3, 5], second[1, 3, 5] = 20.0, 30.0
    found = hot_spots([(first, np.eye(4)), (second, coarse)])
    assert len(found) == 1
    assert found[0].ras == (5.0, 3.0, 4.0)
    assert found[0].heat == pytest.approx(np.log(50) / np.log(100), abs=1e-4)


def test_of_maxima_nearer_than_a_patch_of_the_coarsest_map_the_hotter_stays() -> None:
    density, coarse = empty((9, 9, 9)), (empty((2, 2, 2)), np.diag([5.0, 5.0, 5.0, 1.0]))
    density[4, 2, 2], density[4, 2, 6], density[4, 2, 8] = 30.0, 20.0, 40.0
    assert [spot.ras[0] for spot in hot_spots([(density, UNIT)])] == [8.0, 2.0, 6.0]
    assert [spot.ras[0] for spot in hot_spots([(density, UNIT), coarse])] == [8.0, 2.0]


def test_no_more_than_ten_hot_spots_are_listed() -> None:
    density = empty((1, 9, 9))
    density[0, ::2, ::2] = np.linspace(20, 90, 25).reshape(5, 5)
    found = hot_spots([(density, UNIT)])
    assert len(found) == 10
    assert found[0].ras == (8.0, 8.0, 0.0)


def test_a_class_without_heat_has_no_hot_spot() -> None:
    density = empty()
    density[2, 2, 2] = 50.0
    maps = {"axial": with_map(density)}
    assert class_hot_spots(maps, 0) == []
    assert len(class_hot_spots(maps, 1)) == 1
    assert hot_spots([]) == []


def test_the_impulse_of_a_view_with_few_slices_stays_within_a_patch() -> None:
    volume = study("oblique")
    slices = cut(volume, "axial", slices=SliceSpec(policy="at_most", count=4))
    affine = slices.patch_affine((3, 4))
    density = np.zeros((4, 3, 4), dtype=np.float32)
    density[2, 1, 2] = 60.0
    (spot,) = class_hot_spots({"axial": with_map(density, affine)}, 1)
    np.testing.assert_allclose(spot.ras, transform_points(affine, (2, 1, 2)), atol=0.006)
