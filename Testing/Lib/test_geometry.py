"""Affines and anatomical axes: the same anatomy has the same axes however it is stored."""

from __future__ import annotations

import numpy as np
import pytest
from volumes import GRID, HEADERS, TIES, in_every_order, rotation, stored, straight, study, tilted

from AnyMC3DLib.errors import InputError
from AnyMC3DLib.geometry import (
    boxes_overlap,
    check_affine,
    corners_of,
    index_bounds,
    is_sheared,
    nearest_axes,
    spacing_of,
    transform_points,
)
from AnyMC3DLib.volume import Volume


def signed_axes(affine):
    """The directions in RAS of the axes chosen for R, A and S, turned along their signs."""
    directions = affine[:3, :3] / spacing_of(affine)
    return np.array([directions[:, column] * sign for column, sign in nearest_axes(affine)])


def test_the_builder_of_the_48_orders_moves_no_voxel_in_space() -> None:
    volume = study("oblique gantry tilt")
    brightest = np.unravel_index(volume.array.argmax(), volume.grid)
    point = transform_points(volume.ijk_to_ras, brightest[::-1])
    seen = set()
    for other in in_every_order(volume):
        index = np.unravel_index(other.array.argmax(), other.grid)
        np.testing.assert_allclose(transform_points(other.ijk_to_ras, index[::-1]), point, atol=1e-9)
        seen.add(tuple(other.ijk_to_ras.round(6).ravel()))
    assert len(seen) == 48


@pytest.mark.parametrize("header", [*HEADERS, *TIES])
def test_the_axes_chosen_are_the_same_lines_and_directions_in_all_48_orders(header: str) -> None:
    volume = study(header)
    expected = signed_axes(volume.ijk_to_ras)
    for other in in_every_order(volume):
        np.testing.assert_allclose(signed_axes(other.ijk_to_ras), expected, atol=1e-6)


@pytest.mark.parametrize("header", TIES)
def test_rounding_of_a_header_does_not_decide_a_tie(header: str) -> None:
    affine = TIES[header]
    noise = np.random.default_rng(0)
    for _ in range(20):
        rounded = affine.astype(np.float32).astype(np.float64)
        rounded[:3, :3] += noise.uniform(-1e-7, 1e-7, (3, 3))
        np.testing.assert_allclose(signed_axes(rounded), signed_axes(affine), atol=1e-5)


def test_a_slightly_turned_volume_keeps_its_axes() -> None:
    assert nearest_axes(straight()) == ((0, 1), (1, 1), (2, 1))
    assert nearest_axes(rotation(25, -20, 25) @ straight()) == ((0, 1), (1, 1), (2, 1))
    assert nearest_axes(rotation(about_s=180) @ straight()) == ((0, -1), (1, -1), (2, 1))
    assert nearest_axes(rotation(about_s=90) @ straight()) == ((1, -1), (0, 1), (2, 1))


def test_no_axis_is_chosen_twice() -> None:
    rng = np.random.default_rng(1)
    for _ in range(200):
        affine = np.eye(4)
        affine[:3, :3] = np.linalg.qr(rng.normal(size=(3, 3)))[0]
        columns = [column for column, _ in nearest_axes(affine)]
        assert sorted(columns) == [0, 1, 2]
        cosines = np.abs(affine[:3, :3])
        # Whoever is nearer to one axis than 45 degrees is taken for it.
        for axis, column in enumerate(columns):
            certain = np.flatnonzero(cosines[axis] > 0.8)
            assert not certain.size or certain[0] == column


def test_a_tilt_is_a_shear_and_a_rotation_is_none() -> None:
    assert is_sheared(tilted(straight(), 1.0))
    assert is_sheared(HEADERS["oblique gantry tilt"])
    assert not is_sheared(HEADERS["oblique"])
    assert not is_sheared(HEADERS["oblique"].astype(np.float32).astype(np.float64))


SINGULAR = {
    "two axes alike": np.array([[1, 1, 0, 0], [0, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]]),
    "an axis of no length": np.diag([1.0, 0.0, 1.0, 1.0]),
    "all in one plane": np.array([[1, 0, 1, 0], [0, 1, 1, 0], [0, 0, 1e-5, 0], [0, 0, 0, 1.0]]),
}


@pytest.mark.parametrize("case", SINGULAR)
def test_a_flat_geometry_is_refused_as_singular(case: str) -> None:
    with pytest.raises(InputError, match=r"^The direction matrix of it is singular: correct its header\.$"):
        check_affine(SINGULAR[case], name="it")


def test_a_geometry_that_is_not_finite_or_not_4x4_is_refused() -> None:
    broken = straight()
    broken[1, 3] = np.nan
    for affine in (broken, np.eye(3)):
        with pytest.raises(InputError, match="not a finite 4x4 matrix"):
            check_affine(affine, name="it")


@pytest.mark.parametrize("spacing", [(1e-3, 1e-3, 1e-3), (0.2, 0.2, 500.0), (1e4, 1e4, 1e4)])
def test_very_small_and_very_long_voxels_are_no_singular_geometry(spacing) -> None:
    check_affine(rotation(20, 10, 30) @ straight(spacing), name="it")


def test_the_corners_are_the_outer_edges_of_the_voxels() -> None:
    corners = corners_of(GRID, straight((2.0, 3.0, 4.0), (10.0, 20.0, 30.0)))
    np.testing.assert_allclose(corners.min(axis=0), (9.0, 18.5, 28.0))
    np.testing.assert_allclose(corners.max(axis=0), (9.0 + 32, 18.5 + 57, 28.0 + 52))


def test_the_index_bounds_undo_the_corners() -> None:
    affine = HEADERS["oblique gantry tilt"]
    low, high = index_bounds(corners_of(GRID, affine), affine)
    np.testing.assert_allclose(low, -0.5, atol=1e-9)
    np.testing.assert_allclose(high, np.array(GRID[::-1]) - 0.5, atol=1e-9)


def cube(centre, affine=None):
    corners = corners_of((2, 2, 2), np.eye(4)) - 0.5  # of edge 2, about 0
    return transform_points(np.eye(4) if affine is None else affine, corners) + np.array(centre)


@pytest.mark.parametrize(
    ("centre", "affine", "expected"),
    [
        ((0, 0, 0), None, True),
        ((1.9, 1.9, 1.9), None, True),
        ((2.1, 0, 0), None, False),
        ((2.3, 0, 0), rotation(about_s=45), True),  # an edge reaches in
        ((2.3, 2.3, 0), rotation(about_s=45), False),  # the bounding boxes meet, the boxes do not
        ((2.3, 0, 2.3), rotation(about_a=45), False),
        ((0, 0, 0), np.diag([0.1, 0.1, 0.1, 1]), True),  # one within the other
    ],
)
def test_boxes_overlap_only_where_they_share_space(centre, affine, expected: bool) -> None:
    assert boxes_overlap(cube((0, 0, 0)), cube(centre, affine)) is expected
    assert boxes_overlap(cube(centre, affine), cube((0, 0, 0))) is expected


def test_edges_that_only_cross_in_space_do_not_overlap() -> None:
    # Two bars that cross one above the other, edge to edge: no face of either tells them apart.
    bar = cube((0, 0, 0), rotation(about_r=45) @ np.diag([10, 0.2, 0.2, 1]))
    across = rotation(about_a=45) @ np.diag([0.2, 10, 0.2, 1])
    assert not boxes_overlap(bar, cube((0, 0, 0.6), across))
    assert boxes_overlap(bar, cube((0, 0, 0.5), across))


def test_a_volume_overlaps_itself_stored_otherwise() -> None:
    volume = study("oblique")
    other = stored(volume, order=(2, 0, 1), flips=(True, False, True))
    assert boxes_overlap(volume.corners(), other.corners())
    away = Volume(volume.array, rotation(about_s=10) @ straight(origin=(500, 0, 0)))
    assert not boxes_overlap(volume.corners(), away.corners())
