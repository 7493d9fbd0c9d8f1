"""A phantom is a head on a scan, the same for the same seed, with a lesion of known place or without one."""

from __future__ import annotations

import functools

import numpy as np
import numpy.typing as npt
import pytest

from AnyMC3DLib.errors import InputError
from AnyMC3DLib.geometry import nearest_axes, spacing_of, transform_points
from AnyMC3DLib.phantom import BONE, BRAIN, Phantom, head_phantom

SEEDS = (0, 1, 2)


@functools.cache
def phantom(seed: int, lesion: bool = True) -> Phantom:
    """A phantom, made once for all tests of this file."""
    return head_phantom(seed, lesion=lesion)


def grown(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """The mask and its direct neighbours; no mask of a phantom touches the border."""
    return np.logical_or.reduce([np.roll(mask, step, axis) for axis in range(3) for step in (-1, 0, 1)])


def test_the_same_seed_gives_the_same_study() -> None:
    again = head_phantom(1, lesion=True)
    assert np.array_equal(again.volume.array, phantom(1).volume.array)
    assert np.array_equal(again.volume.ijk_to_ras, phantom(1).volume.ijk_to_ras)
    assert np.array_equal(again.mask, phantom(1).mask)
    assert (again.lesion_ras, again.lesion_radius_mm) == (phantom(1).lesion_ras, phantom(1).lesion_radius_mm)


def test_another_seed_gives_another_head_under_another_header() -> None:
    assert not np.array_equal(phantom(0, False).volume.array, phantom(1, False).volume.array)
    assert not np.allclose(phantom(0).volume.ijk_to_ras, phantom(1).volume.ijk_to_ras)
    assert np.linalg.norm(np.subtract(phantom(0).lesion_ras, phantom(1).lesion_ras)) > 5


def test_without_a_lesion_the_mask_is_empty() -> None:
    healthy = phantom(0, False)
    assert healthy.mask.shape == healthy.volume.grid
    assert not healthy.mask.any()
    assert healthy.lesion_ras is None
    assert healthy.lesion_radius_mm is None


@pytest.mark.parametrize("seed", SEEDS)
def test_the_lesion_is_all_that_its_study_has_besides(seed: int) -> None:
    ill, healthy = phantom(seed), phantom(seed, False)
    assert np.array_equal(ill.volume.ijk_to_ras, healthy.volume.ijk_to_ras)
    changed = np.argwhere(ill.volume.array != healthy.volume.array)[:, ::-1]
    away = np.linalg.norm(transform_points(ill.volume.ijk_to_ras, changed) - ill.lesion_ras, axis=1)
    assert away.max() < 1.6 * ill.lesion_radius_mm


@pytest.mark.parametrize("seed", SEEDS)
def test_the_lesion_lies_within_the_brain(seed: int) -> None:
    ill, healthy = phantom(seed), phantom(seed, False)
    around = healthy.volume.array[grown(ill.mask)]
    # Neither skull nor air is near; a calcified dot may be.
    assert np.mean(around > 0.75 * BONE) < 0.01
    assert around.min() > 15
    assert 0.7 * BRAIN < np.median(around) < 1.2 * BRAIN


@pytest.mark.parametrize("seed", SEEDS)
def test_the_mask_has_its_centroid_and_its_volume_where_the_phantom_says(seed: int) -> None:
    ill = phantom(seed)
    points = transform_points(ill.volume.ijk_to_ras, np.argwhere(ill.mask)[:, ::-1])
    assert points.mean(axis=0) == pytest.approx(ill.lesion_ras, abs=1e-6)
    volume = ill.mask.sum() * abs(np.linalg.det(ill.volume.ijk_to_ras[:3, :3]))
    assert volume == pytest.approx(4 / 3 * np.pi * ill.lesion_radius_mm**3)
    assert 9 <= ill.lesion_radius_mm <= 16


@pytest.mark.parametrize("seed", SEEDS)
def test_the_lesion_is_brighter_than_brain_and_darker_than_bone(seed: int) -> None:
    ill, healthy = phantom(seed), phantom(seed, False)
    contrast = ill.volume.array[ill.mask].mean() - healthy.volume.array[ill.mask].mean()
    assert 15 < contrast < 60
    assert np.percentile(ill.volume.array[ill.mask], 99) < 0.9 * BONE


@pytest.mark.parametrize("seed", SEEDS)
def test_brightness_alone_does_not_tell_the_classes_apart(seed: int) -> None:
    ill, healthy = phantom(seed).volume.array, phantom(seed, False).volume.array
    assert np.percentile(ill, 99.5) == pytest.approx(np.percentile(healthy, 99.5), abs=3)
    assert ill.max() == healthy.max()


@pytest.mark.parametrize("seed", SEEDS)
def test_the_header_is_that_of_a_slightly_oblique_axial_series(seed: int) -> None:
    volume = phantom(seed).volume
    assert volume.array.dtype == np.int16
    assert volume.grid == (40, 112, 96)
    assert volume.spacing == pytest.approx((1.75, 1.75, 3.5))
    assert nearest_axes(volume.ijk_to_ras) == ((0, -1), (1, -1), (2, 1))
    directions = volume.ijk_to_ras[:3, :3] / spacing_of(volume.ijk_to_ras)
    assert np.abs(np.diag(directions)).min() > np.cos(np.radians(15))
    assert np.abs(directions - np.diag(np.diag(directions))).max() > 0.005


def test_shape_and_spacing_can_be_chosen() -> None:
    ill = head_phantom(3, lesion=True, shape=(20, 56, 48), spacing=(3.5, 3.5, 7.0))
    assert ill.volume.grid == ill.mask.shape == (20, 56, 48)
    assert ill.volume.spacing == pytest.approx((3.5, 3.5, 7.0))
    assert ill.mask.any()


def test_a_field_of_view_without_room_for_the_lesion_is_refused() -> None:
    with pytest.raises(InputError, match="has no room for the lesion: give more or larger voxels"):
        head_phantom(0, lesion=True, shape=(4, 56, 48))
    assert not head_phantom(0, lesion=False, shape=(4, 56, 48)).mask.any()
