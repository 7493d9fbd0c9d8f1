from __future__ import annotations

import numpy as np
import pytest
from AnyMC3DUI import coarse_grid, fused
from AnyMC3DUI.coarse_grid import CoarseGrid
from AnyMC3DUI.fused import AnatomyLook, FusedVolume
from AnyMC3DUI.turns import finish

SIZE = 44
PLATE = np.zeros((SIZE, SIZE, SIZE), np.int16)
PLATE[3:-3, 20:25, 3:-3] = 1000


def ball(hottest: float) -> np.ndarray:
    """Heat in the middle of the plate."""
    away = np.linalg.norm(np.indices((SIZE, SIZE, SIZE)) - 22, axis=0)
    return (hottest * np.exp(-((away / 4.5) ** 2) / 2)).astype(np.float32)


def filled(anatomy: np.ndarray, heat: np.ndarray) -> FusedVolume:
    made = FusedVolume(CoarseGrid.of(anatomy.shape, (1, 1, 1)))
    finish(made.fill(anatomy, heat))
    return made


def painted(made: FusedVolume, target: np.ndarray, *, threshold: float, opacity: float) -> float:
    return finish(made.paint(target, threshold=threshold, opacity=opacity))


def fuse(anatomy: np.ndarray, heat: np.ndarray, *, opacity: float = 0.1) -> FusedVolume:
    made = filled(anatomy, heat)
    made.set_look(AnatomyLook(lambda values: np.full((len(values), 3), 0.5), lambda values: opacity * (values > 500)))
    return made


def test_colours_of_a_colour_volume_are_its_own() -> None:
    anatomy = np.zeros((6, 6, 6, 3), np.uint8)
    anatomy[...] = 10, 200, 30
    made = filled(anatomy, np.zeros((6, 6, 6), np.float32))
    made.set_look(AnatomyLook(lambda values: np.zeros((len(values), 3)), lambda values: np.ones(len(values))))
    target = np.empty((6, 6, 6, 4), np.uint8)
    painted(made, target, threshold=0.5, opacity=0.5)
    assert target[3, 3, 3, :3].tolist() == [10, 200, 30]


@pytest.mark.parametrize(("hottest", "opacity"), [(1.0, 0.02), (0.6, 0.5), (1.0, 1.0), (0.0, 0.5)])
def test_alphas_run_from_0_to_255_whatever_is_shown(hottest: float, opacity: float) -> None:
    target = np.empty((SIZE, SIZE, SIZE, 4), np.uint8)
    made = fuse(PLATE, ball(hottest))
    densest = painted(made, target, threshold=0.5, opacity=opacity)
    assert target[..., 3].min() == 0 and target[..., 3].max() == 255
    assert densest * (target[30, 22, 30, 3] / 255) ** 2 == pytest.approx(0.1, rel=0.1)


def test_an_anatomy_without_a_clear_voxel_has_both_ends_too() -> None:
    target = np.empty((SIZE, SIZE, SIZE, 4), np.uint8)
    made = filled(PLATE, ball(1.0))
    made.set_look(AnatomyLook(lambda values: np.zeros((len(values), 3)), lambda values: np.full(len(values), 0.3)))
    painted(made, target, threshold=0.5, opacity=0.6)
    assert target[..., 3].min() == 0 and target[..., 3].max() == 255
    assert (target[..., 3] == 0).sum() == 1


def test_heat_just_below_the_threshold_changes_no_voxel() -> None:
    pictures = []
    for heat in (0.0, 0.499):
        target = np.empty((SIZE, SIZE, SIZE, 4), np.uint8)
        painted(fuse(PLATE, np.full(PLATE.shape, heat, np.float32)), target, threshold=0.5, opacity=0.6)
        pictures.append(target)
    assert np.array_equal(*pictures)


def test_heat_does_not_thin_a_solid_structure() -> None:
    target = np.empty((SIZE, SIZE, SIZE, 4), np.uint8)
    densest = painted(fuse(PLATE, ball(1.0), opacity=1.0), target, threshold=0.5, opacity=0.3)
    assert densest == 1.0
    assert target[22, 22, 22, 3] == 255 and target[22, 22, 22, 0] > target[22, 22, 22, 2] + 60


@pytest.mark.parametrize("shape", [(7, 90, 101), (50, 64, 64), (2, 300, 300), (33, 34, 35)])
def test_a_block_is_shrunk_evenly_and_keeps_its_place(shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coarse_grid, "MOST_VOXELS", 30_000)
    anatomy = np.broadcast_to(np.arange(shape[2], dtype=np.int16), shape)
    heat = np.zeros(shape, np.float32)
    middle = tuple(n // 2 for n in shape)
    heat[middle] = 1
    made = filled(anatomy, heat)
    assert np.prod(made.shape) <= 30_000 and min(made.shape) >= 2
    made.set_look(AnatomyLook(lambda values: np.zeros((len(values), 3)), lambda values: np.zeros(len(values))))
    target = np.empty((*made.shape, 4), np.uint8)
    painted(made, target, threshold=0.0, opacity=1.0)
    hottest = np.argwhere(target[..., 3] == 255).mean(axis=0)[::-1]
    place = (made.grid.to_image @ (*hottest, 1))[:3]
    assert np.abs(place - middle[::-1]).max() <= np.diag(made.grid.to_image)[:3].max() / 2
    # The first voxel lies in the middle of those that it is made of.
    assert made.grid.to_image[:3, 3] == pytest.approx((np.diag(made.grid.to_image)[:3] - 1) / 2)


def test_a_block_is_the_same_however_it_was_cut_into_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(3)
    anatomy, heat = rng.normal(size=(19, 14, 11)).astype(np.float32), rng.random((19, 14, 11), np.float32)
    monkeypatch.setattr(coarse_grid, "MOST_VOXELS", 1000)
    pictures = []
    for voxels in (1, 700, 1 << 20):
        monkeypatch.setattr(fused, "_SLAB_VOXELS", voxels)
        made = fuse(anatomy, heat)
        target = np.empty((*made.shape, 4), np.uint8)
        painted(made, target, threshold=0.5, opacity=0.7)
        pictures.append(target)
    assert np.array_equal(pictures[0], pictures[1]) and np.array_equal(pictures[0], pictures[2])


def test_the_anatomy_is_smoothed_as_with_a_kernel_along_each_axis() -> None:
    anatomy = np.zeros((9, 9, 9), np.float32)
    anatomy[4, 4, 4] = 1000
    made = filled(anatomy, np.zeros((9, 9, 9), np.float32))
    kernel = np.array([0.32, 0.36, 0.32])
    expected = 1000 * kernel[:, None, None] * kernel[:, None] * kernel
    found = made.values[made._levels[3:6, 3:6, 3:6]]
    assert np.allclose(found, expected, atol=0.01) and made.counts.sum() == 9**3


def test_heat_on_the_coarse_grid_is_taken_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coarse_grid, "MOST_VOXELS", 1000)
    fine = np.random.default_rng(3).random((20, 20, 20), np.float32)
    grid = CoarseGrid.of(fine.shape, (1, 1, 1))
    pictures = []
    for heat in (fine, coarse_grid.means(fine, grid.factors)):
        target = np.empty((*grid.shape, 4), np.uint8)
        painted(fuse(np.zeros((20, 20, 20), np.int16), heat), target, threshold=0.5, opacity=0.7)
        pictures.append(target)
    assert np.array_equal(*pictures)


def test_an_anatomy_with_values_that_are_no_numbers_can_be_drawn() -> None:
    anatomy = np.zeros((6, 6, 6), np.float32)
    anatomy[1, 1, 1], anatomy[2, 2, 2], anatomy[3, 3, 3] = np.nan, np.inf, 7
    made = filled(anatomy, np.zeros((6, 6, 6), np.float32))
    assert 0 <= made.low < made.high < 7
