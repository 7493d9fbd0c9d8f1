from __future__ import annotations

import numpy as np
import pytest
from AnyMC3DUI import fused
from AnyMC3DUI.fused import AnatomyLook, FusedVolume

SIZE = 44
PLATE = np.zeros((SIZE, SIZE, SIZE), np.int16)
PLATE[3:-3, 20:25, 3:-3] = 1000


def ball(hottest: float) -> np.ndarray:
    """Heat in the middle of the plate."""
    away = np.linalg.norm(np.indices((SIZE, SIZE, SIZE)) - 22, axis=0)
    return (hottest * np.exp(-((away / 4.5) ** 2) / 2)).astype(np.float32)


def fuse(anatomy: np.ndarray, heat: np.ndarray, *, opacity: float = 0.1) -> FusedVolume:
    made = FusedVolume(anatomy, heat, np.ones(3))
    made.set_look(AnatomyLook(lambda values: np.full((len(values), 3), 0.5), lambda values: opacity * (values > 500)))
    return made


def test_colours_of_a_colour_volume_are_its_own() -> None:
    anatomy = np.zeros((6, 6, 6, 3), np.uint8)
    anatomy[...] = 10, 200, 30
    made = FusedVolume(anatomy, np.zeros((6, 6, 6), np.float32), np.ones(3))
    made.set_look(AnatomyLook(lambda values: np.zeros((len(values), 3)), lambda values: np.ones(len(values))))
    target = np.empty((6, 6, 6, 4), np.uint8)
    made.paint(target, threshold=0.5, opacity=0.5)
    assert target[3, 3, 3, :3].tolist() == [10, 200, 30]


@pytest.mark.parametrize(("hottest", "opacity"), [(1.0, 0.02), (0.6, 0.5), (1.0, 1.0), (0.0, 0.5)])
def test_alphas_run_from_0_to_255_whatever_is_shown(hottest: float, opacity: float) -> None:
    target = np.empty((SIZE, SIZE, SIZE, 4), np.uint8)
    made = fuse(PLATE, ball(hottest))
    densest = made.paint(target, threshold=0.5, opacity=opacity)
    assert target[..., 3].min() == 0 and target[..., 3].max() == 255
    assert densest * (target[30, 22, 30, 3] / 255) ** 2 == pytest.approx(0.1, rel=0.1)


def test_an_anatomy_without_a_clear_voxel_has_both_ends_too() -> None:
    target = np.empty((SIZE, SIZE, SIZE, 4), np.uint8)
    made = FusedVolume(PLATE, ball(1.0), np.ones(3))
    made.set_look(AnatomyLook(lambda values: np.zeros((len(values), 3)), lambda values: np.full(len(values), 0.3)))
    made.paint(target, threshold=0.5, opacity=0.6)
    assert target[..., 3].min() == 0 and target[..., 3].max() == 255
    assert (target[..., 3] == 0).sum() == 1


def test_heat_just_below_the_threshold_changes_no_voxel() -> None:
    painted = []
    for heat in (0.0, 0.499):
        target = np.empty((SIZE, SIZE, SIZE, 4), np.uint8)
        fuse(PLATE, np.full(PLATE.shape, heat, np.float32)).paint(target, threshold=0.5, opacity=0.6)
        painted.append(target)
    assert np.array_equal(*painted)


def test_heat_does_not_thin_a_solid_structure() -> None:
    target = np.empty((SIZE, SIZE, SIZE, 4), np.uint8)
    densest = fuse(PLATE, ball(1.0), opacity=1.0).paint(target, threshold=0.5, opacity=0.3)
    assert densest == 1.0
    assert target[22, 22, 22, 3] == 255 and target[22, 22, 22, 0] > target[22, 22, 22, 2] + 60


@pytest.mark.parametrize("shape", [(7, 90, 101), (50, 64, 64), (2, 300, 300), (33, 34, 35)])
def test_a_block_is_shrunk_evenly_and_keeps_its_place(shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fused, "MOST_VOXELS", 30_000)
    anatomy = np.broadcast_to(np.arange(shape[2], dtype=np.int16), shape)
    heat = np.zeros(shape, np.float32)
    middle = tuple(n // 2 for n in shape)
    heat[middle] = 1
    made = FusedVolume(anatomy, heat, np.ones(3))
    assert np.prod(made.shape) <= 30_000 and min(made.shape) >= 2
    made.set_look(AnatomyLook(lambda values: np.zeros((len(values), 3)), lambda values: np.zeros(len(values))))
    target = np.empty((*made.shape, 4), np.uint8)
    made.paint(target, threshold=0.0, opacity=1.0)
    hottest = np.argwhere(target[..., 3] == 255).mean(axis=0)[::-1]
    place = (made.to_grid @ (*hottest, 1))[:3]
    assert np.abs(place - middle[::-1]).max() <= np.diag(made.to_grid)[:3].max() / 2
    # The first voxel lies in the middle of those that it is made of.
    assert made.to_grid[:3, 3] == pytest.approx((np.diag(made.to_grid)[:3] - 1) / 2)
