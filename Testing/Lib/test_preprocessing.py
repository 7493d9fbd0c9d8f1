"""From volumes to slices: the same anatomy gives the same slices, and every pixel knows its place in the patient."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from volumes import (
    GRID,
    HEADERS,
    SPACING,
    TIES,
    anatomy,
    field,
    in_every_order,
    pixel_points,
    rotation,
    stored,
    straight,
    study,
    tilted,
)

from AnyMC3DLib.errors import InputError
from AnyMC3DLib.geometry import transform_points
from AnyMC3DLib.preprocessing import Box, Region, Segment, Slices, otsu_threshold, preprocess
from AnyMC3DLib.spec import IntensitySpec, PreprocessingSpec, RegionSpec, SliceSpec
from AnyMC3DLib.volume import Volume

AXES = ("axial", "coronal", "sagittal")
CT = IntensitySpec(kind="window", windows=((0.0, 2000.0),))


def spec(**changes) -> PreprocessingSpec:
    return PreprocessingSpec(**{"size": (24, 28), **changes})


# One of each kind; each is put through every storage order, and under turned and tilted headers.
SPECS = {
    **{axis: spec(axis=axis) for axis in AXES},
    "centre": spec(axis="coronal", region=RegionSpec(kind="centre", size_mm=(9.0, 15.5, 12.0))),
    "foreground": spec(region=RegionSpec(kind="foreground")),
    "foreground above a threshold": spec(
        axis="sagittal", region=RegionSpec(kind="foreground", threshold=-300.0, margin_mm=1.7)
    ),
    "segment": spec(region=RegionSpec(kind="segment")),
    "segment and margin": spec(axis="coronal", region=RegionSpec(kind="segment", margin_mm=2.3)),
    "at most, averaged": spec(slices=SliceSpec(policy="at_most", count=5)),
    "at most, read": spec(axis="sagittal", slices=SliceSpec(policy="at_most", count=7, sampling="linear")),
    "at most more than there are": spec(slices=SliceSpec(policy="at_most", count=50)),
    "thick slices": spec(axis="coronal", slices=SliceSpec(policy="thickness", thickness_mm=3.1)),
    "thin slices": spec(slices=SliceSpec(policy="thickness", thickness_mm=0.8, sampling="linear")),
    "fixed pixels, cropped": spec(size=(10, 9), spacing_mm=0.7),
    "fixed pixels, padded": spec(axis="sagittal", size=(40, 50), spacing_mm=1.6),
    "fixed pixels, any size": spec(axis="coronal", size=None, spacing_mm=1.1),
    "its own pixels": spec(size=None),
    "multiples of a patch": spec(axis="sagittal", size=None, multiple_of=14),
    "size and multiples": spec(size=(20, 30), multiple_of=8),
    "one window": spec(intensity=IntensitySpec(kind="window", windows=("abdomen",))),
    "three windows": spec(intensity=IntensitySpec(kind="window", windows=("lung", "bone", (0.0, 900.0)))),
    "percentiles of the foreground": spec(intensity=IntensitySpec(percentiles=(2, 98), foreground=True)),
    "z-score": spec(axis="coronal", intensity=IntensitySpec(kind="zscore")),
    "z-score of the foreground": spec(intensity=IntensitySpec(kind="zscore", clip=2.0, foreground=True)),
}
BOX_SPECS = {
    "box": spec(axis="sagittal", region=RegionSpec(kind="box")),
    "box and margin": spec(region=RegionSpec(kind="box", margin_mm=1.9)),
}


def lesion(volume: Volume) -> Segment:
    """A segment on the volume's own grid, off its centre."""
    mask = np.zeros(GRID, np.uint8)
    mask[4:9, 3:12, 7:14] = 3
    mask[2, 5, 9] = 3
    mask[11, 15, 2] = 1
    return Segment(Volume(mask, volume.ijk_to_ras, name="the mask"), label=3)


def box_of(volume: Volume) -> Box:
    """A box about the middle of the volume's near half."""
    middle = transform_points(volume.ijk_to_ras, (6.0, 8.0, 7.0))
    return Box(tuple(middle - np.array((3.0, 5.0, 6.0))), tuple(middle + np.array((4.0, 3.5, 7.0))))


def region_for(chosen: PreprocessingSpec, volume: Volume) -> Region | None:
    return {"segment": lesion, "box": box_of}.get(chosen.region.kind, lambda _: None)(volume)


def assert_same(slices: Slices, expected: Slices) -> None:
    """The same picture, and so the same RAS for every pixel."""
    np.testing.assert_allclose(slices.array, expected.array, atol=1e-5)
    np.testing.assert_allclose(slices.ijk_to_ras, expected.ijk_to_ras, atol=1e-6)
    assert slices.axis == expected.axis
    assert all(np.array_equal(a, b) for a, b in zip(slices.inside, expected.inside, strict=True))


CASES = [("oblique", name) for name in [*SPECS, *BOX_SPECS]]
CASES += [(header, axis) for header in ("straight", "gantry tilt", "oblique gantry tilt", *TIES) for axis in AXES]
CASES += [("straight", "box"), ("gantry tilt", "segment"), ("45 degrees about all", "box and margin")]


@pytest.mark.parametrize(("header", "name"), CASES)
def test_the_same_anatomy_in_all_48_orders_gives_the_same_slices(header: str, name: str) -> None:
    volume, chosen = study(header), {**SPECS, **BOX_SPECS}[name]
    region = region_for(chosen, volume)
    expected = preprocess(volume, chosen, region=region)
    assert expected.array.std() > 0.02
    for other in in_every_order(volume):
        assert_same(preprocess(other, chosen, region=region), expected)


@pytest.mark.parametrize("axis", AXES)
def test_a_segment_in_another_order_than_its_image_chooses_the_same_region(axis: str) -> None:
    volume, chosen = study("oblique"), spec(axis=axis, region=RegionSpec(kind="segment"))
    segment = lesion(volume)
    expected = preprocess(volume, chosen, region=segment)
    for mask in in_every_order(segment.mask):
        assert_same(preprocess(volume, chosen, region=Segment(mask, label=3)), expected)


TURNS = {
    "about R": rotation(about_r=25),
    "about A": rotation(about_a=-30),
    "about S": rotation(about_s=20),
    "about all": rotation(22, -20, 24),
    "away": np.array([[1, 0, 0, 300], [0, 1, 0, -200], [0, 0, 1, 1000], [0, 0, 0, 1.0]]),
}


@pytest.mark.parametrize("name", SPECS)
@pytest.mark.parametrize("turn", TURNS)
def test_a_rotated_header_leaves_the_slices_unchanged(turn: str, name: str) -> None:
    volume, chosen = study(), SPECS[name]
    turned = Volume(volume.array, TURNS[turn] @ volume.ijk_to_ras)
    expected = preprocess(volume, chosen, region=region_for(chosen, volume))
    slices = preprocess(turned, chosen, region=region_for(chosen, turned))
    np.testing.assert_allclose(slices.array, expected.array, atol=1e-5)
    np.testing.assert_allclose(slices.ijk_to_ras, TURNS[turn] @ expected.ijk_to_ras, atol=1e-6)


@pytest.mark.parametrize("name", SPECS)
def test_a_tilted_gantry_leaves_the_slices_unchanged_and_leans_their_places(name: str) -> None:
    volume, chosen = study(), SPECS[name]
    leaning = Volume(volume.array, tilted(volume.ijk_to_ras, 20))
    expected = preprocess(volume, chosen, region=region_for(chosen, volume))
    slices = preprocess(leaning, chosen, region=region_for(chosen, leaning))
    np.testing.assert_allclose(slices.array, expected.array, atol=1e-5)
    shear = leaning.ijk_to_ras @ np.linalg.inv(volume.ijk_to_ras)
    np.testing.assert_allclose(slices.ijk_to_ras, shear @ expected.ijk_to_ras, atol=1e-6)


@pytest.mark.parametrize(
    ("axis", "directions"),
    [
        ("axial", ((-1, 0, 0), (0, -1, 0), (0, 0, 1))),  # columns to the left, rows to the back, slices to the head
        ("coronal", ((-1, 0, 0), (0, 0, -1), (0, 1, 0))),
        ("sagittal", ((0, -1, 0), (0, 0, -1), (1, 0, 0))),
    ],
)
def test_slices_are_shown_as_a_radiologist_sees_them(axis: str, directions) -> None:
    slices = preprocess(study(), spec(axis=axis))
    steps = slices.ijk_to_ras[:3, :3]
    np.testing.assert_allclose(steps / np.linalg.norm(steps, axis=0), np.array(directions).T, atol=1e-9)
    assert slices.axis == axis


IMPULSE_SPECS = [
    name for name, chosen in SPECS.items() if chosen.intensity == IntensitySpec() and "cropped" not in name
]


@pytest.mark.parametrize("header", HEADERS)
@pytest.mark.parametrize("name", IMPULSE_SPECS)
def test_an_impulse_returns_to_its_place_within_a_pixel(name: str, header: str) -> None:
    affine = HEADERS[header]
    chosen = dataclasses.replace(SPECS[name], intensity=CT)
    if chosen.region.kind == "foreground":  # of the impulse there would be nothing around it
        chosen = dataclasses.replace(chosen, region=RegionSpec())
    point = transform_points(affine, (8.3, 8.8, 6.2))

    def impulse(points):
        return 900 * np.exp(-0.5 * np.sum((points - point) ** 2, axis=-1) / 1.3**2)

    volume = field(affine, impulse)
    slices = preprocess(volume, chosen, region=region_for(chosen, volume))
    s, y, x = np.unravel_index(slices.array[:, 0].argmax(), slices.array[:, 0].shape)
    expected = transform_points(np.linalg.inv(slices.ijk_to_ras), point)
    # In pixels, and where pixels are finer than voxels, in voxels.
    finest = np.abs(np.linalg.inv(slices.ijk_to_ras)[:3, :3] @ affine[:3, :3]).max(axis=1)
    assert np.all(np.abs(expected - (x, y, s)) <= np.maximum(0.75, 0.75 * finest))


RAMPS = {"R": (7.0, 0, 0), "A": (0, 6.0, 0), "S": (0, 0, 5.0), "all": (3.0, -4.0, 5.0)}


@pytest.mark.parametrize("header", HEADERS)
@pytest.mark.parametrize("ramp", RAMPS)
@pytest.mark.parametrize("name", SPECS)
def test_a_ramp_is_shown_at_every_pixel_as_it_is_there(name: str, ramp: str, header: str) -> None:
    affine, slope = HEADERS[header], np.array(RAMPS[ramp])
    chosen = dataclasses.replace(SPECS[name], intensity=CT)
    middle = transform_points(affine, (np.array(GRID[::-1]) - 1) / 2)
    volume = field(affine, lambda points: (points - middle) @ slope)
    if chosen.region.kind == "foreground":
        chosen = dataclasses.replace(chosen, region=RegionSpec(kind="foreground", threshold=0.0))
    slices = preprocess(volume, chosen, region=region_for(chosen, volume))
    shown = (slices.array[:, 0] - 0.5) * 2000
    points = pixel_points(slices.ijk_to_ras, shown.shape)
    # Away from the edges of the region: there, samples wider than a voxel average what there is.
    per_pixel = slices.ijk_to_ras[:3, :3]
    voxels = np.linalg.norm(np.linalg.inv(affine)[:3, :3] @ per_pixel, axis=0)
    away = np.maximum(1.0, voxels) / voxels
    keep = np.ix_(
        *[
            interior(mask, away[axis])
            for axis, mask in ((2, np.ones(len(shown), bool)), (1, slices.inside[0]), (0, slices.inside[1]))
        ]
    )
    assert shown[keep].size > 10
    # A triangle that is not a whole number of voxels wide is off by up to 8.6 % of a voxel, as in every such library.
    uneven = (voxels > 1 + 1e-6) & (np.abs(voxels - np.round(voxels)) > 1e-6)
    per_voxel = np.abs(slope @ per_pixel) / voxels
    np.testing.assert_allclose(shown[keep], ((points - middle) @ slope)[keep], atol=2e-3 + 0.087 * per_voxel @ uneven)


def interior(mask: np.ndarray, pixels: float) -> np.ndarray:
    """The indices at least so many pixels within the true ones."""
    shown = np.flatnonzero(mask)
    margin = int(np.ceil(pixels + 0.5))
    return (
        np.arange(shown[0] + margin, shown[-1] + 1 - margin)
        if len(shown) > 2 * margin
        else shown[len(shown) // 2 :][:1]
    )


@pytest.mark.parametrize("shape", [(6, 7), (3, 2), (24, 28), (1, 1)])
def test_a_patch_lies_in_the_middle_of_its_pixels(shape: tuple[int, int]) -> None:
    slices = preprocess(study("oblique gantry tilt"), spec())
    count, _, rows, columns = slices.array.shape
    points = pixel_points(slices.ijk_to_ras, (count, rows, columns))
    pooled = points.reshape(count, shape[0], rows // shape[0], shape[1], columns // shape[1], 3).mean(axis=(2, 4))
    patches = pixel_points(slices.patch_affine(shape), (count, *shape))
    np.testing.assert_allclose(patches, pooled, atol=1e-9)


def test_the_centre_of_a_slice_is_the_mean_of_its_pixels() -> None:
    slices = preprocess(study("oblique gantry tilt"), spec(axis="coronal"))
    count, _, rows, columns = slices.array.shape
    points = pixel_points(slices.ijk_to_ras, (count, rows, columns)).mean(axis=(1, 2))
    np.testing.assert_allclose(slices.centres, points, atol=1e-9)


@pytest.mark.parametrize(
    "name", ["axial", "sagittal", "fixed pixels, padded", "multiples of a patch", "size and multiples"]
)
def test_inside_marks_the_pixels_that_are_not_padding(name: str) -> None:
    bright = Volume(anatomy() + 2000, straight())
    slices = preprocess(
        bright, dataclasses.replace(SPECS[name], intensity=IntensitySpec(kind="window", windows=((2000.0, 6000.0),)))
    )
    rows, columns = slices.inside
    expected = np.broadcast_to(rows[:, np.newaxis] & columns, slices.array.shape)
    assert np.array_equal(slices.array > 0, expected)
    assert not expected.all()
    # The picture is in the middle of its padding.
    for mask in (rows, columns):
        assert np.array_equal(mask, mask[::-1])
    # And a pixel is inside exactly if its place lies within the volume.
    points = pixel_points(slices.ijk_to_ras, slices.array[:, 0].shape)
    index = transform_points(np.linalg.inv(bright.ijk_to_ras), points)
    within = np.all((index > -0.5 - 1e-5) & (index < np.array(GRID[::-1]) - 0.5 + 1e-5), axis=-1)
    assert np.array_equal(within, expected[:, 0])


def test_without_a_fixed_spacing_the_picture_keeps_its_aspect_and_fills_its_size() -> None:
    slices = preprocess(study(), spec(size=(30, 20)))
    steps = np.linalg.norm(slices.ijk_to_ras[:3, :2], axis=0)
    extents = (GRID[1] * SPACING[1], GRID[2] * SPACING[0])
    np.testing.assert_allclose(steps, max(extents[0] / 30, extents[1] / 20))
    assert slices.inside[0].all()
    assert not slices.inside[1].all()


@pytest.mark.parametrize(
    ("changes", "shape", "pixel"),
    [
        ({"size": (10, 9), "spacing_mm": 0.7}, (10, 9), 0.7),
        ({"size": None, "spacing_mm": 1.1}, (23, 14), 1.1),
        ({"size": None}, (28, 16), 0.9),
        ({"size": None, "multiple_of": 14}, (28, 28), 0.9),
        ({"size": (20, 30), "multiple_of": 8}, (24, 32), 24.7 / 20),
    ],
)
def test_the_size_and_the_spacing_of_the_pixels_are_those_of_the_spec(changes, shape, pixel: float) -> None:
    slices = preprocess(study(), spec(**changes))
    assert slices.array.shape[2:] == shape
    np.testing.assert_allclose(np.linalg.norm(slices.ijk_to_ras[:3, :2], axis=0), pixel)


@pytest.mark.parametrize(
    ("slices", "count", "millimetres"),
    [
        (SliceSpec(), 13, 2.2),
        (SliceSpec(policy="at_most", count=13), 13, 2.2),
        (SliceSpec(policy="at_most", count=5), 5, 13 * 2.2 / 5),
        (SliceSpec(policy="at_most", count=1), 1, 13 * 2.2),
        (SliceSpec(policy="thickness", thickness_mm=2.2), 13, 2.2),
        (SliceSpec(policy="thickness", thickness_mm=5.0), 6, 5.0),
        (SliceSpec(policy="thickness", thickness_mm=1.0), 29, 1.0),
        (SliceSpec(policy="thickness", thickness_mm=12.0), 2, 12.0),
        (SliceSpec(policy="thickness", thickness_mm=500.0), 1, 500.0),
    ],
)
def test_the_number_of_slices_and_their_distance_follow_the_policy(slices, count: int, millimetres: float) -> None:
    result = preprocess(study(), spec(slices=slices))
    assert len(result.array) == count
    assert np.linalg.norm(result.ijk_to_ras[:3, 2]) == pytest.approx(millimetres)
    middle = transform_points(study().ijk_to_ras, (np.array(GRID[::-1]) - 1) / 2)
    np.testing.assert_allclose(result.centres.mean(axis=0), middle, atol=1e-9)


def test_averaged_slices_miss_nothing_and_read_slices_do() -> None:
    array = np.zeros((16, 20, 24), np.float32)
    array[6] = 1000.0
    for sampling, seen in (("area", True), ("linear", False)):
        slices = SliceSpec(policy="at_most", count=2, sampling=sampling)
        result = preprocess(Volume(array, straight()), spec(slices=slices, intensity=CT))
        lit = result.array[:, 0] * 2000 - 1000
        assert bool(lit.max() > 50) is seen


def test_all_slices_of_their_own_pixels_are_the_voxels_bit_for_bit() -> None:
    volume = Volume(anatomy(), straight((1.0, 1.0, 2.0)))
    window = IntensitySpec(kind="window", windows=((0.0, 2048.0),))
    slices = preprocess(volume, spec(size=None, intensity=window))
    expected = np.clip((anatomy() + 1024) / 2048, 0, 1)
    assert np.array_equal(slices.array[:, 0, ::-1, ::-1], expected)


# Intensities

HOUNSFIELD = np.array([-1000, -600, -160, 0, 40, 240, 400, 1300], np.float32)


def hounsfield_volume() -> Volume:
    """Blocks of 8x8x8 voxels of one value each, side by side along R."""
    return Volume(np.broadcast_to(np.repeat(HOUNSFIELD, 8), (8, 8, 64)).astype(np.int16), np.eye(4))


def shown_values(slices: Slices) -> np.ndarray:
    """Each block's value in its middle: [channel, block]; the picture has R on the left."""
    return slices.array[4, :, 4, ::-1][:, 4::8]


@pytest.mark.parametrize(
    ("window", "expected"),
    [
        ("abdomen", [0, 0, 0, 0.4, 0.5, 1, 1, 1]),  # -160 to 240
        ("lung", [350 / 1500, 0.5, 1190 / 1500, 0.9, 1390 / 1500, 1, 1, 1]),  # -1350 to 150, reached at 150
        ("bone", [0, 0, 340 / 1800, 500 / 1800, 540 / 1800, 740 / 1800, 0.5, 1]),  # -500 to 1300
        ((40.0, 80.0), [0, 0, 0, 0, 0.5, 1, 1, 1]),
    ],
)
def test_hounsfield_units_are_shown_in_their_window(window, expected: list[float]) -> None:
    chosen = spec(size=None, intensity=IntensitySpec(kind="window", windows=(window,)))
    values = shown_values(preprocess(hounsfield_volume(), chosen))
    np.testing.assert_allclose(values, [expected], atol=1e-6)


def test_three_windows_are_three_channels_in_their_order() -> None:
    windows = ("lung", "abdomen", "bone")
    values = shown_values(
        preprocess(hounsfield_volume(), spec(size=None, intensity=IntensitySpec(kind="window", windows=windows)))
    )
    for channel, window in zip(values, windows, strict=True):
        alone = spec(size=None, intensity=IntensitySpec(kind="window", windows=(window,)))
        assert np.array_equal(channel, shown_values(preprocess(hounsfield_volume(), alone))[0])


def scaled(low: float, high: float, values: np.ndarray) -> np.ndarray:
    return np.clip((values - low) / (high - low), 0, 1)


OWN = {"size": None}
UNIT = straight((1.0, 1.0, 1.0))


@pytest.mark.parametrize("dtype", [np.float32, np.int16, np.float64, np.float16])
def test_percentiles_are_those_of_numpy(dtype: type) -> None:
    array = anatomy().astype(dtype)
    slices = preprocess(Volume(array, UNIT), spec(**OWN, intensity=IntensitySpec(percentiles=(5, 90))))
    expected = scaled(*np.percentile(array.astype(np.float64), (5, 90)), array.astype(np.float64))
    np.testing.assert_allclose(slices.array[:, 0, ::-1, ::-1], expected, atol=1e-5 if dtype != np.float16 else 1e-3)


def test_a_z_score_maps_its_clip_to_the_ends_and_the_mean_to_the_middle() -> None:
    array = anatomy()
    slices = preprocess(Volume(array, UNIT), spec(**OWN, intensity=IntensitySpec(kind="zscore", clip=1.5)))
    score = (array - array.mean(dtype=np.float64)) / array.std(dtype=np.float64)
    np.testing.assert_allclose(slices.array[:, 0, ::-1, ::-1], np.clip(score, -1.5, 1.5) / 3 + 0.5, atol=1e-5)


@pytest.mark.parametrize("kind", ["percentile", "zscore"])
def test_statistics_of_the_foreground_leave_the_air_out(kind: str) -> None:
    array = anatomy()
    body = array[array > otsu_threshold(array)].astype(np.float64)
    assert 0.05 < body.size / array.size < 0.6
    if kind == "percentile":
        low, high = np.percentile(body, (0.5, 99.5))
    else:
        low, high = body.mean() - 3 * body.std(), body.mean() + 3 * body.std()
    slices = preprocess(Volume(array, UNIT), spec(**OWN, intensity=IntensitySpec(kind=kind, foreground=True)))
    np.testing.assert_allclose(slices.array[:, 0, ::-1, ::-1], scaled(low, high, array), atol=1e-4)


def test_statistics_are_those_of_the_region_alone() -> None:
    array = anatomy()
    array[0] = 30_000  # metal, out of the region
    volume = Volume(array, UNIT)
    chosen = spec(**OWN, region=RegionSpec(kind="box"), intensity=IntensitySpec(percentiles=(0, 100)))
    low, high = transform_points(UNIT, (3, 4, 5)) - 0.5, transform_points(UNIT, (10, 12, 11)) + 0.5
    slices = preprocess(volume, chosen, region=Box(tuple(low), tuple(high)))
    part = array[5:12, 4:13, 3:11]
    np.testing.assert_allclose(slices.array[:, 0, ::-1, ::-1], scaled(part.min(), part.max(), part), atol=1e-5)


def reference_otsu(values: np.ndarray) -> float:
    """Otsu 1979 over 256 bins: the edge with the largest variance between the classes."""
    counts, edges = np.histogram(values, bins=256)
    middles = (edges[:-1] + edges[1:]) / 2
    best, threshold = -1.0, edges[0]
    for split in range(1, 256):
        below, above = counts[:split].sum(), counts[split:].sum()
        if below and above:
            means = (counts[:split] @ middles[:split]) / below, (counts[split:] @ middles[split:]) / above
            between = below * above * (means[0] - means[1]) ** 2
            if between > best:
                best, threshold = between, edges[split]
    return threshold


@pytest.mark.parametrize("seed", range(4))
def test_otsu_is_the_split_with_the_largest_variance_between(seed: int) -> None:
    rng = np.random.default_rng(seed)
    values = np.concatenate([rng.normal(0, 60, 6000), rng.normal(rng.uniform(300, 700), 90, 2500)])
    bin_width = np.ptp(values) / 256
    assert abs(otsu_threshold(values) - reference_otsu(values)) <= 1.5 * bin_width


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32])
def test_otsu_parts_two_values_whatever_their_type(dtype: type) -> None:
    values = np.array([10] * 700 + [110] * 40, dtype)
    assert np.count_nonzero(values > otsu_threshold(values)) == 40


def test_a_few_bright_voxels_in_an_empty_picture_stay_visible() -> None:
    array = np.zeros(GRID, np.uint8)
    array[6, 9, 8] = 200
    slices = preprocess(Volume(array, UNIT), spec(**OWN))
    assert slices.array.max() == 1.0
    assert np.count_nonzero(slices.array) == 1


# Regions


def region_seen(slices: Slices, volume: Volume) -> tuple[np.ndarray, np.ndarray]:
    """The outer edges of what the slices show, in the volume's indices (i, j, k)."""
    rows, columns = (np.flatnonzero(mask) for mask in slices.inside)
    ends = [(mask[0] - 0.5, mask[-1] + 0.5) for mask in (columns, rows)] + [(-0.5, len(slices.array) - 0.5)]
    corners = transform_points(slices.ijk_to_ras, [[e[n >> a & 1] for a, e in enumerate(ends)] for n in range(8)])
    index = transform_points(np.linalg.inv(volume.ijk_to_ras), corners)
    return index.min(axis=0), index.max(axis=0)


def seen(volume: Volume, chosen: RegionSpec, region: Region | None = None) -> np.ndarray:
    """First and last voxel (i, j, k) that the plugin looks at: [2, 3]. The volume's voxels are cubes of 1 mm."""
    low, high = region_seen(preprocess(volume, spec(size=None, region=chosen), region=region), volume)
    return np.round([low + 0.5, high - 0.5]).astype(int)


def cubes(header: np.ndarray | None = None) -> Volume:
    return Volume(anatomy(), (np.eye(4) if header is None else header) @ UNIT, name="the study")


def test_the_foreground_is_the_box_of_the_voxels_above_the_threshold() -> None:
    volume = cubes()
    k, j, i = np.nonzero(volume.array > 100)
    low, high = np.array([i.min(), j.min(), k.min()]), np.array([i.max(), j.max(), k.max()])
    assert np.array_equal(seen(volume, RegionSpec(kind="foreground", threshold=100.0)), [low, high])
    wider = seen(volume, RegionSpec(kind="foreground", threshold=100.0, margin_mm=2.0))
    assert np.array_equal(wider, [np.maximum(low - 2, 0), np.minimum(high + 2, np.array(GRID[::-1]) - 1)])


def test_a_margin_is_in_millimetres_along_every_axis() -> None:
    volume = Volume(anatomy(), straight((1.0, 1.0, 4.0)), name="the study")
    mask = np.zeros(GRID, np.uint8)
    mask[6, 8, 7] = 1
    segment = Segment(Volume(mask, volume.ijk_to_ras))
    chosen = spec(size=None, region=RegionSpec(kind="segment", margin_mm=4.0))
    low, high = region_seen(preprocess(volume, chosen, region=segment), volume)
    np.testing.assert_allclose(low, (7 - 4.5, 8 - 4.5, 6 - 1.5), atol=1e-6)
    np.testing.assert_allclose(high, (7 + 4.5, 8 + 4.5, 6 + 1.5), atol=1e-6)


def test_the_centre_is_measured_along_the_body_whatever_the_storage() -> None:
    volume = cubes()
    expected = [[5, 6, 4], [10, 12, 8]]  # 5, 7 and 4 mm about (7.5, 9, 6): the voxels that they touch
    assert np.array_equal(seen(volume, RegionSpec(kind="centre", size_mm=(5.0, 7.0, 4.0))), expected)


def test_a_centre_larger_than_the_volume_is_the_volume() -> None:
    everything = [[0, 0, 0], np.array(GRID[::-1]) - 1]
    assert np.array_equal(seen(cubes(), RegionSpec(kind="centre", size_mm=(500.0, 500.0, 500.0))), everything)


def test_a_box_shows_the_voxels_that_it_touches() -> None:
    low, high = transform_points(UNIT, (2.6, 3.4, 4.0)), transform_points(UNIT, (8.4, 9.6, 7.0))
    expected = [[3, 3, 4], [8, 10, 7]]
    assert np.array_equal(seen(cubes(), RegionSpec(kind="box"), Box(tuple(low), tuple(high))), expected)


def test_a_box_on_the_edges_of_voxels_takes_in_no_more() -> None:
    low, high = transform_points(UNIT, (2.5, 3.5, 4.5)), transform_points(UNIT, (8.5, 9.5, 7.5))
    expected = [[3, 4, 5], [8, 9, 7]]
    assert np.array_equal(seen(cubes(), RegionSpec(kind="box"), Box(tuple(low), tuple(high))), expected)


def test_a_box_that_reaches_out_is_cut_at_the_volume() -> None:
    low, high = transform_points(UNIT, (-50, 3.5, 4.5)), transform_points(UNIT, (8.5, 900, 7.5))
    expected = [[0, 4, 5], [8, GRID[1] - 1, 7]]
    assert np.array_equal(seen(cubes(), RegionSpec(kind="box"), Box(tuple(low), tuple(high))), expected)


def test_only_the_voxels_of_the_label_make_the_segment() -> None:
    volume = cubes()
    segment = lesion(volume)
    assert np.array_equal(seen(volume, RegionSpec(kind="segment"), segment), [[7, 3, 2], [13, 11, 8]])
    both = Segment(segment.mask)
    assert np.array_equal(seen(volume, RegionSpec(kind="segment"), both), [[2, 3, 2], [13, 15, 11]])


def test_a_segment_of_another_spacing_covers_the_same_place() -> None:
    volume = cubes()
    # Voxels of half the size: the segment's outer edges lie on those of voxels 4 to 9, 5 to 10 and 3 to 7.
    mask = np.zeros((26, 38, 32), np.uint8)
    mask[6:16, 10:22, 8:20] = 1
    finer = volume.ijk_to_ras @ np.diag([0.5, 0.5, 0.5, 1.0])
    finer[:3, 3] = transform_points(volume.ijk_to_ras, (-0.25, -0.25, -0.25))
    segment = Segment(Volume(mask, finer))
    assert np.array_equal(seen(volume, RegionSpec(kind="segment"), segment), [[4, 5, 3], [9, 10, 7]])


@pytest.mark.parametrize("image", ["straight", "oblique"])
def test_a_round_segment_on_a_turned_grid_is_no_wider_than_it_is(image: str) -> None:
    volume = cubes(rotation(20, -14, 24) if image == "oblique" else None)
    centre = transform_points(volume.ijk_to_ras, (7.5, 9.0, 6.0))
    # A ball of radius 4 mm on a fine grid turned by 45 degrees: its box is 8 mm, the box of its box 11 mm.
    turned = rotation(45, 0, 45) @ straight((0.25, 0.25, 0.25), (0, 0, 0))
    turned[:3, 3] = centre - turned[:3, :3] @ (24, 24, 24)
    ball = np.sum((np.indices((49, 49, 49)) - 24) ** 2, axis=0) <= 16**2
    region = seen(volume, RegionSpec(kind="segment"), Segment(Volume(ball, turned)))
    assert np.all(np.abs(region - [[3.5, 5, 2], [11.5, 13, 10]]) <= 1)


REFUSED = {
    "a box for a plugin of the whole": (RegionSpec(), box_of, "looks at the region 'whole', which needs no box"),
    "a segment for a plugin of the centre": (
        RegionSpec(kind="centre", size_mm=(5.0, 5.0, 5.0)),
        lesion,
        "looks at the region 'centre', which needs no box or segment: leave it out",
    ),
    "a box for a plugin of the foreground": (RegionSpec(kind="foreground"), box_of, "region 'foreground', which needs"),
    "no box": (RegionSpec(kind="box"), lambda _: None, "looks at a box of the study: give one"),
    "no segment": (RegionSpec(kind="segment"), lambda _: None, "looks at a segment of the study: give one"),
    "a box elsewhere": (
        RegionSpec(kind="box"),
        lambda _: Box((500.0, 0.0, 0.0), (510.0, 9.0, 9.0)),
        "The region lies outside the study: choose one that touches it",
    ),
    "a segment elsewhere": (
        RegionSpec(kind="segment", margin_mm=3.0),
        lambda v: Segment(Volume(np.ones(GRID, np.uint8), v.ijk_to_ras + shifted(500))),
        "The region lies outside the study",
    ),
    "a box that touches the face": (
        RegionSpec(kind="box"),
        lambda v: Box(tuple(v.corners().max(axis=0)), tuple(v.corners().max(axis=0) + 5)),
        "The region lies outside the study",
    ),
    "an empty segment": (
        RegionSpec(kind="segment"),
        lambda v: Segment(Volume(np.zeros(GRID, np.uint8), v.ijk_to_ras, name="the mask")),
        "The segment in the mask is empty: choose another",
    ),
    "a label that is not there": (
        RegionSpec(kind="segment"),
        lambda v: dataclasses.replace(lesion(v), label=2),
        "The segment 2 in the mask is empty",
    ),
    "a picture for a segment": (
        RegionSpec(kind="segment"),
        lambda v: Segment(Volume(np.ones((1, 9, 9, 3), np.uint8), v.ijk_to_ras, name="the mask")),
        "The segment the mask is a colour picture: give a label map",
    ),
    "a threshold above everything": (
        RegionSpec(kind="foreground", threshold=9000.0),
        lambda _: None,
        "No voxel of the study lies above the foreground threshold 9000",
    ),
}


def shifted(millimetres: float) -> np.ndarray:
    move = np.zeros((4, 4))
    move[0, 3] = millimetres
    return move


@pytest.mark.parametrize("case", REFUSED)
def test_a_region_that_cannot_be_meant_is_refused_in_one_sentence(case: str) -> None:
    chosen, make, expected = REFUSED[case]
    with pytest.raises(InputError) as caught:
        preprocess(study(), spec(region=chosen), region=make(study()))
    assert expected in str(caught.value)
    assert str(caught.value).endswith(".")


def test_a_box_beside_an_oblique_volume_is_refused_though_their_bounding_boxes_meet() -> None:
    volume = Volume(anatomy((20, 20, 20)), rotation(about_s=40) @ straight((1, 1, 1), (-9.5, -9.5, -9.5)))
    chosen = spec(region=RegionSpec(kind="box"))
    with pytest.raises(InputError, match="lies outside"):
        preprocess(volume, chosen, region=Box((14.3, -20.0, -2.0), (16.0, 20.0, 2.0)))  # the corner is at R 14.09
    preprocess(volume, chosen, region=Box((13.8, -20.0, -2.0), (16.0, 20.0, 2.0)))


@pytest.mark.parametrize("high", [(0.0, 5.0, 5.0), (-1.0, 5.0, 5.0), (np.nan, 5.0, 5.0), (np.inf, 5.0, 5.0)])
def test_a_box_needs_an_inside(high) -> None:
    with pytest.raises(InputError, match="A box needs low corners below its high ones"):
        Box((0.0, 0.0, 0.0), high)


# What cannot be shown


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_no_numbers_are_refused(value: float) -> None:
    array = anatomy()
    array[2, 3, 4] = value
    with pytest.raises(InputError, match=r"holds 1 values that are not finite numbers"):
        preprocess(Volume(array, straight()), spec())


@pytest.mark.parametrize(
    "intensity",
    [
        CT,
        IntensitySpec(),
        IntensitySpec(foreground=True),
        IntensitySpec(kind="zscore"),
        IntensitySpec(kind="zscore", foreground=True),
    ],
)
def test_a_constant_volume_or_region_is_refused(intensity: IntensitySpec) -> None:
    with pytest.raises(InputError, match=r"holds the value 7 everywhere"):
        preprocess(Volume(np.full(GRID, 7, np.int16), straight()), spec(intensity=intensity))
    array = anatomy()
    array[4:9, 3:12, 2:14] = -1000
    volume = Volume(array, straight(), name="the study")
    chosen = spec(region=RegionSpec(kind="segment"), intensity=intensity)
    mask = np.zeros(GRID, np.uint8)
    mask[4:9, 3:12, 7:14] = 1
    with pytest.raises(InputError, match=r"The region of the study holds one value everywhere"):
        preprocess(volume, chosen, region=Segment(Volume(mask, straight())))


@pytest.mark.parametrize("intensity", [IntensitySpec(), IntensitySpec(kind="zscore")])
def test_values_that_float32_cannot_tell_apart_are_refused(intensity: IntensitySpec) -> None:
    array = np.full(GRID, 1e12)
    array[:6] += 1.0
    with pytest.raises(InputError, match="differ too little"):
        preprocess(Volume(array, straight()), spec(intensity=intensity))


def test_a_view_that_would_fill_the_memory_is_refused_before_it_does() -> None:
    volume = Volume(anatomy(), straight((0.9, 5e6, 2.2)))
    with pytest.raises(InputError, match="would not fit in memory"):
        preprocess(volume, spec(size=None))


def test_slices_lie_in_0_to_1_and_are_float32() -> None:
    for chosen in SPECS.values():
        slices = preprocess(study(), chosen, region=region_for(chosen, study()))
        assert slices.array.dtype == np.float32
        assert slices.array.min() >= 0
        assert slices.array.max() <= 1


def test_the_volume_itself_is_left_as_it_was() -> None:
    volume = study()
    before = volume.array.copy()
    slices = preprocess(volume, spec(size=None))
    slices.array[:] = 5
    assert np.array_equal(volume.array, before)


# Pictures


@pytest.mark.parametrize("asked", AXES)
@pytest.mark.parametrize("flat", [0, 1, 2])
def test_a_volume_of_one_slice_is_that_slice_whatever_is_asked(flat: int, asked: str) -> None:
    array = anatomy().take([7], axis=flat)
    slices = preprocess(Volume(array, HEADERS["oblique"]), spec(axis=asked))
    assert slices.axis == ("axial", "coronal", "sagittal")[flat]
    assert slices.array.shape == (1, 1, 24, 28)
    own = preprocess(Volume(array, HEADERS["oblique"]), spec(axis=slices.axis))
    assert np.array_equal(slices.array, own.array)


@pytest.mark.parametrize("axis", AXES)
def test_a_grey_picture_is_shown_as_it_is_stored(axis: str) -> None:
    picture = anatomy()[6:7, ::-1, ::-1]
    affine = np.diag([-1.0, -1.0, 1.0, 1.0])  # as pictures are read: rows to the back, columns to the left
    slices = preprocess(Volume(picture, affine), spec(size=None, axis=axis, intensity=CT))
    np.testing.assert_allclose(slices.array[0, 0], (picture[0] + 1000) / 2000, atol=1e-6)


@pytest.mark.parametrize("axis", AXES)
def test_a_colour_picture_gives_its_three_channels(axis: str) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (1, 19, 16, 3), dtype=np.uint8)
    affine = np.diag([-1.0, -1.0, 1.0, 1.0])
    window = IntensitySpec(kind="window", windows=((127.5, 255.0),))
    slices = preprocess(Volume(picture, affine), spec(size=None, axis=axis, intensity=window))
    np.testing.assert_allclose(slices.array[0], picture[0].transpose(2, 0, 1) / 255, atol=1e-6)


@pytest.mark.parametrize("intensity", [IntensitySpec(), IntensitySpec(kind="zscore", foreground=True)])
def test_the_channels_of_a_colour_picture_are_scaled_together(intensity: IntensitySpec) -> None:
    picture = np.zeros((1, 19, 16, 3), np.uint8)
    picture[0, 4:12, 3:9] = (200, 100, 40)
    slices = preprocess(Volume(picture, np.eye(4)), spec(size=None, intensity=intensity))
    red, green, blue = slices.array[0].max(axis=(1, 2))
    assert red > green > blue


@pytest.mark.parametrize("region", [RegionSpec(kind="foreground"), RegionSpec(kind="foreground", threshold=50.0)])
def test_a_colour_picture_in_any_order_gives_the_same_slice(region: RegionSpec) -> None:
    picture = np.zeros((1, 19, 16, 3), np.uint8)
    picture[0, 4:12, 3:9] = np.random.default_rng(0).integers(60, 256, (8, 6, 3))
    volume = Volume(picture, HEADERS["oblique"])
    expected = preprocess(volume, spec(region=region))
    for flips in ((False, True, False), (True, False, True), (False, True, True)):
        other = stored(volume, order=(0, 2, 1), flips=flips)
        assert_same(preprocess(other, spec(region=region)), expected)


def test_a_colour_picture_with_three_windows_is_refused() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (1, 19, 16, 3), dtype=np.uint8)
    windows = IntensitySpec(kind="window", windows=("lung", "bone", "brain"))
    with pytest.raises(InputError, match="colour picture, but three windows are asked for"):
        preprocess(Volume(picture, np.eye(4)), spec(intensity=windows))


def test_a_real_oblique_scan_gives_the_same_slices_in_other_orders(real_data) -> None:
    from AnyMC3DLib.volume import read_volume

    volume = read_volume(real_data / "MR_Gd.nii.gz")
    chosen = spec(
        axis="coronal",
        size=(96, 96),
        region=RegionSpec(kind="foreground"),
        slices=SliceSpec(policy="at_most", count=8),
        intensity=IntensitySpec(foreground=True),
    )
    expected = preprocess(volume, chosen)
    for order, flips in (((2, 0, 1), (True, False, False)), ((0, 2, 1), (False, True, True))):
        assert_same(preprocess(stored(volume, order=order, flips=flips), chosen), expected)
