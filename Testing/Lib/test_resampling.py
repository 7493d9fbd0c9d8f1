"""Resampling along axes against PyTorch, and sampling of a map against plain NumPy."""

from __future__ import annotations

import numpy as np
import pytest
from volumes import GRID, anatomy, in_every_order, rotation, straight

from AnyMC3DLib import resampling
from AnyMC3DLib.geometry import transform_points
from AnyMC3DLib.resampling import AxisGrid, resample, sample_map
from AnyMC3DLib.volume import Volume


def whole(length: int, count: int) -> AxisGrid:
    """`count` samples that cover `length` voxels evenly."""
    step = length / count
    return AxisGrid(start=(step - 1) / 2, step=step, count=count)


GRIDS = [
    whole(10, 10),
    whole(10, 3),
    whole(10, 37),
    AxisGrid(start=-7.0, step=2.3, count=12),
    AxisGrid(start=-7.0, step=0.3, count=70),
    AxisGrid(start=1.2, step=4.0, count=2, area=False),
]


@pytest.mark.parametrize("grid", GRIDS)
def test_weights_are_an_average(grid: AxisGrid) -> None:
    weights = grid.weights(10)
    assert weights.shape == (grid.count, 10)
    assert weights.min() >= 0
    np.testing.assert_allclose(weights.sum(axis=1), 1, atol=1e-6)


@pytest.mark.parametrize(("rows", "columns"), [(7, 5), (19, 16), (31, 50), (8, 40), (1, 1)])
def test_a_plane_is_scaled_as_by_an_antialiasing_library_up_to_its_edges(rows: int, columns: int) -> None:
    from torch import from_numpy
    from torch.nn.functional import interpolate

    array = anatomy()
    oracle = interpolate(from_numpy(array)[None], (rows, columns), mode="bilinear", antialias=True)[0].numpy()
    grids = (whole(GRID[0], GRID[0]), whole(GRID[1], rows), whole(GRID[2], columns))
    np.testing.assert_allclose(resample(array, grids), oracle, atol=1e-3)


@pytest.mark.parametrize("count", [4, 6, 13, 20])
def test_slices_are_merged_as_rows_are(count: int) -> None:
    array = anatomy()
    slices = resample(array, (whole(GRID[0], count), whole(GRID[1], GRID[1]), whole(GRID[2], GRID[2])))
    turned = array.transpose(1, 0, 2)
    rows = resample(turned, (whole(GRID[1], GRID[1]), whole(GRID[0], count), whole(GRID[2], GRID[2])))
    np.testing.assert_allclose(slices, rows.transpose(1, 0, 2), atol=1e-3)


def test_without_area_a_sample_reads_its_two_neighbours_alone() -> None:
    weights = AxisGrid(start=2.25, step=5.0, count=2, area=False).weights(10)
    np.testing.assert_allclose(weights[0, 2:4], (0.75, 0.25))
    np.testing.assert_allclose(weights[1, 7:9], (0.75, 0.25))
    assert np.count_nonzero(weights) == 4


def test_beyond_the_edge_the_value_of_the_edge_counts() -> None:
    values = np.arange(5.0)
    positions = AxisGrid(start=-3.0, step=1.0, count=11)
    np.testing.assert_allclose(positions.weights(5) @ values, np.clip(np.arange(-3, 8), 0, 4), atol=1e-6)


def test_samples_on_the_voxels_are_the_voxels_bit_for_bit() -> None:
    array = anatomy()
    assert np.array_equal(resample(array, [whole(n, n) for n in GRID]), array)


def test_a_run_of_slices_is_taken_bit_for_bit() -> None:
    array = anatomy()
    grids = (AxisGrid(start=3.0, step=1.0, count=7), whole(GRID[1], GRID[1]), whole(GRID[2], GRID[2]))
    assert np.array_equal(resample(array, grids), array[3:10])


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize(("start", "step"), [(0.5, 1.0), (1.0, 1.0), (-2.0, 1.0), (1.0, 2.0), (0.0, 2.0), (0.0, 0.5)])
def test_no_shortcut_is_taken_where_samples_are_not_the_voxels(axis: int, start: float, step: float) -> None:
    grids = [whole(n, n) for n in GRID]
    grids[axis] = AxisGrid(start=start, step=step, count=GRID[axis], area=False)
    weights = grids[axis].weights(GRID[axis])
    expected = np.moveaxis(np.tensordot(weights, anatomy(), (1, axis)), 0, axis)
    np.testing.assert_allclose(resample(anatomy(), grids), expected, atol=1e-3)


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.float16, np.float64])
def test_every_type_of_voxel_gives_float32(dtype: type) -> None:
    array = np.abs(anatomy() / 8).astype(dtype)
    grids = (whole(GRID[0], 5), whole(GRID[1], 30), whole(GRID[2], 7))
    result = resample(array, grids)
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, resample(array.astype(np.float32), grids), atol=1e-4)


def test_chunks_of_slices_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    grids = (whole(GRID[0], 9), whole(GRID[1], 30), whole(GRID[2], 7))
    expected = resample(anatomy(), grids)
    monkeypatch.setattr(resampling, "CHUNK_VALUES", 2 * GRID[1] * GRID[2])
    np.testing.assert_allclose(resample(anatomy(), grids), expected, atol=1e-3)


def test_a_mirrored_axis_gives_mirrored_samples() -> None:
    array = anatomy()
    grids = [AxisGrid(start=n / 2 - 0.5 - 1.7 * 3, step=1.7, count=7) for n in GRID]
    mirrored = resample(array[::-1, ::-1, ::-1], grids)
    np.testing.assert_allclose(mirrored[::-1, ::-1, ::-1], resample(array, grids), atol=1e-3)


def test_inside_counts_the_outer_edges_of_the_voxels() -> None:
    grid = AxisGrid(start=1.0, step=0.5, count=10)  # 1.0, 1.5, ... 5.5
    assert grid.positions[grid.inside((3, 5))].tolist() == [2.5, 3.0, 3.5, 4.0, 4.5]


def reference_sample(values: np.ndarray, indices: np.ndarray) -> np.ndarray:
    """Trilinear by the definition; 0 more than half a voxel beyond the outer centres."""
    size = np.array(values.shape[::-1])
    result = np.zeros(indices.shape[:-1])
    for place in np.ndindex(result.shape):
        point = indices[place]
        if np.any(point < -0.5 - 1e-6) or np.any(point > size - 0.5 + 1e-6):
            continue
        point = np.clip(point, 0, size - 1)
        low = np.minimum(np.floor(point).astype(int), np.maximum(size - 2, 0))
        for corner in np.ndindex(2, 2, 2):
            index = np.minimum(low + corner, size - 1)
            weight = np.prod(np.where(np.array(corner) == 1, point - low, 1 - (point - low)))
            result[place] += weight * values[tuple(index[::-1])]
    return result


MAPS = {
    "turned and scaled": rotation(20, -15, 30) @ straight((0.4, 0.35, 0.5), (-0.6, 0.2, -0.9)),
    "sheared": straight((0.3, 0.4, 0.5), (-1, -1, -1))
    @ np.array([[1, 0.2, 0, 0], [0, 1, 0.3, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]]),
    "coarser": straight((1.4, 0.7, 2.1), (-0.3, -0.5, 0.1)),
}


@pytest.mark.parametrize("shape", [(4, 5, 6), (1, 5, 6), (4, 1, 1)])
@pytest.mark.parametrize("name", MAPS)
def test_a_map_is_sampled_as_the_definition_says(name: str, shape: tuple[int, int, int]) -> None:
    values = np.random.default_rng(3).uniform(0.5, 1.5, shape).astype(np.float32)
    grid = (7, 9, 11)
    k, j, i = np.indices(grid)
    indices = transform_points(MAPS[name], np.stack([i, j, k], axis=-1))
    expected = reference_sample(values, indices)
    assert (expected == 0).any()
    assert (expected > 0).any()
    result = sample_map(values, MAPS[name], grid)
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, expected, atol=2e-5)


def test_the_edge_value_reaches_half_a_voxel_and_no_further() -> None:
    values = np.array([2.0, 3.0, 5.0], dtype=np.float32).reshape(1, 1, 3)
    to_map = np.diag([0.25, 1.0, 1.0, 1.0])
    to_map[0, 3] = -1.0
    sampled = sample_map(values, to_map, (1, 1, 20)).ravel()
    positions = -1 + 0.25 * np.arange(20)
    expected = np.interp(positions, [0, 1, 2], [2, 3, 5], left=2, right=5) * ((positions >= -0.5) & (positions <= 2.5))
    np.testing.assert_allclose(sampled, expected, atol=1e-5)


def test_points_on_the_edge_of_a_map_count_on_both_sides_in_all_48_orders() -> None:
    # Half of the grid's planes fall on the map's edges exactly: ITK alone counts one edge in and the other out.
    values = np.random.default_rng(4).uniform(0.5, 1.5, (2, 3, 4)).astype(np.float32)
    map_affine = straight((2.0, 2.0, 2.0), (2.0, 3.0, 4.0))
    grid = Volume(np.zeros((9, 11, 13)), straight((1.0, 1.0, 1.0), (0.0, 0.0, 0.0)))
    expected = Volume(sample_map(values, np.linalg.inv(map_affine) @ grid.ijk_to_ras, grid.grid), grid.ijk_to_ras)
    assert np.count_nonzero(expected.array) == 5 * 7 * 9
    for volume, sampled in zip(in_every_order(grid), in_every_order(expected), strict=True):
        result = sample_map(values, np.linalg.inv(map_affine) @ volume.ijk_to_ras, volume.grid)
        np.testing.assert_allclose(result, sampled.array, atol=1e-5)
