from __future__ import annotations

import numpy as np
import pytest
from AnyMC3DUI import coarse_grid
from AnyMC3DUI.coarse_grid import CoarseGrid, means


def test_an_image_that_is_small_enough_keeps_its_grid() -> None:
    grid = CoarseGrid.of((256, 256, 256), (1, 1, 1))
    assert grid.factors == (1, 1, 1) and np.array_equal(grid.to_image, np.eye(4))


def test_the_finest_axes_are_made_coarser_first() -> None:
    assert CoarseGrid.of((100, 512, 512), (5.0, 0.5, 0.4)).factors == (1, 1, 2)
    assert CoarseGrid.of((800, 512, 512), (0.7, 0.7, 0.7)).factors == (3, 3, 2)
    # Two slices cannot be one.
    assert CoarseGrid.of((2, 8192, 8192), (0.1, 1.0, 1.0)).factors[0] == 1


@pytest.mark.parametrize("shape", [(7, 9, 10), (4, 4, 4), (1, 5, 3)])
def test_a_block_is_the_mean_of_its_voxels_and_lies_in_their_middle(shape: tuple[int, int, int]) -> None:
    grid = CoarseGrid(shape, (3, 2, 4))
    places = np.indices(shape)[::-1]
    found = [means(axis, grid.factors) for axis in places]
    assert found[0].shape == grid.shape
    # Only blocks that are whole: the last ones of a line may lie nearer.
    k, j, i = (max(0, n // f - 1) for n, f in zip(shape, grid.factors, strict=True))
    if all(n >= f for n, f in zip(shape, grid.factors, strict=True)):
        assert (grid.to_image @ (i, j, k, 1))[:3] == pytest.approx([axis[k, j, i] for axis in found])


def test_the_voxels_of_all_blocks_are_those_of_the_image() -> None:
    grid = CoarseGrid((11, 4, 4), (3, 1, 1))
    parts = [grid.voxels(first, min(first + 2, 4)) for first in range(0, 4, 2)]
    assert parts == [slice(0, 6), slice(6, 11)]


def test_the_limit_holds_for_every_shape(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coarse_grid, "MOST_VOXELS", 500)
    for shape in ((7, 90, 101), (50, 64, 64), (2, 300, 300)):
        assert np.prod(CoarseGrid.of(shape, (1, 1, 1)).shape) <= 500
