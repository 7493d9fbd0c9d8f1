"""Random changes of training slices: the paper's recipe, against MONAI, scipy and formulas in float64."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any

import monai.transforms
import numpy as np
import pytest
import torch
from scipy import ndimage

from AnyMC3DLib.errors import InputError
from AnyMC3DLib.preprocessing import preprocess
from AnyMC3DLib.spec import PreprocessingSpec
from AnyMC3DLib.training.augmentation import COLUMNS, ROWS, SLICES, STEPS, Augmentation, Draw, change
from AnyMC3DLib.training.augmentation_spec import AugmentationSpec
from AnyMC3DLib.volume import Volume

PAPER = AugmentationSpec.paper()


def picture(slices: int = 5, channels: int = 2, rows: int = 24, columns: int = 20) -> torch.Tensor:
    values = torch.rand(slices, channels, rows, columns, generator=torch.Generator().manual_seed(0))
    return 0.1 + 0.8 * values


def sure(step: str, **amounts: Any) -> Augmentation:
    return Augmentation(AugmentationSpec(**{step: 1.0}, **amounts), axis="axial", seed=4)


def only(step: str, **amounts: Any) -> tuple[torch.Tensor, Any]:
    """The picture after one step that is sure to happen, and the amount that was drawn for it."""
    augment = sure(step, **amounts)
    drawn = augment.draw(5)
    assert drawn == dataclasses.replace(Draw(), **{step: getattr(drawn, step)})
    slices = picture()
    changed, mask = change(slices, drawn)
    assert mask is None
    assert type(changed) is torch.Tensor
    assert changed.dtype == torch.float32
    assert torch.equal(slices, picture())
    return changed, getattr(drawn, step)


def float64() -> np.ndarray:
    return picture().numpy().astype(np.float64)


def each_plane(function: Any) -> np.ndarray:
    return np.array([[function(plane) for plane in planes] for planes in float64()])


# The recipe


def test_nothing_changes_where_nothing_is_asked_for() -> None:
    changed, mask = Augmentation(AugmentationSpec(), axis="axial", seed=0)(picture(), torch.ones(5, 24, 20))
    assert torch.equal(changed, picture())
    assert torch.equal(mask, torch.ones(5, 24, 20))


def test_the_recipe_of_the_paper_has_its_probabilities_and_ranges() -> None:
    assert {name: value for name, value in PAPER.to_dict().items() if name != "mirror"} == {
        "flip": 0.5, "flip_slices": 0.5,
        "rotation": 0.2, "rotation_degrees": 30.0,
        "zoom": 0.2, "zoom_range": [0.7, 1.4],
        "shift": 0.2, "shift_pixels": 10.0,
        "noise": 0.25, "noise_std": 0.02,
        "blur": 0.2, "blur_sigma": [0.5, 1.0],
        "brightness": 0.15, "brightness_range": [0.75, 1.25],
        "contrast": 0.15, "contrast_range": [0.75, 1.25],
        "low_resolution": 0.2, "low_resolution_range": [0.5, 1.0],
        "gamma": 0.25, "gamma_range": [0.7, 1.5],
    }  # fmt: skip


def test_a_spec_survives_json() -> None:
    assert AugmentationSpec.from_dict(json.loads(json.dumps(PAPER.to_dict()))) == PAPER


@pytest.mark.parametrize(
    ("field", "value", "sentence"),
    [
        ("flip", 1.5, r"'flip' must lie within 0 to 1, but is 1\.5\.$"),
        ("rotation", 20.0, r"'rotation' must lie within 0 to 1, but is 20\.$"),
        ("noise", math.nan, r"'noise' must lie within 0 to 1, but is nan\.$"),
        ("noise_std", -0.1, r"'noise_std' must lie within 0 to 1, but is -0\.1\.$"),
        ("rotation_degrees", 181.0, r"'rotation_degrees' must lie within 0 to 180, but is 181\.$"),
        ("zoom_range", (1.4, 0.7), r"'zoom_range' must rise within 0\.1 to 10, but is 1\.4 to 0\.7\.$"),
        ("zoom_range", (0.0, 1.0), r"'zoom_range' must rise within 0\.1 to 10, but is 0 to 1\.$"),
        ("low_resolution_range", (0.5, 2.0), r"'low_resolution_range' must rise within 0\.05 to 1"),
        ("gamma_range", (math.nan, 1.0), r"'gamma_range' must rise"),
    ],
)
def test_a_probability_or_range_that_cannot_be_meant_is_refused(field: str, value: Any, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        AugmentationSpec(**{field: value})


def test_another_axis_than_the_three_is_refused() -> None:
    with pytest.raises(InputError, match="one of axial, coronal, sagittal, but is 'oblique'"):
        Augmentation(PAPER, axis="oblique", seed=0)  # type: ignore[arg-type]


def test_steps_happen_as_often_as_the_paper_says_and_keep_their_ranges() -> None:
    count = 2000
    augment = Augmentation(PAPER, axis="axial", seed=1)
    draws = [augment.draw(5) for _ in range(count)]
    for axis in (SLICES, ROWS, COLUMNS):
        assert is_likely(sum(axis in draw.flips for draw in draws), count, 0.5)
    for step in STEPS:
        happened = [value for draw in draws if (value := getattr(draw, step)) != getattr(Draw(), step)]
        assert is_likely(len(happened), count, getattr(PAPER, step)), step
    reach = {
        "rotation": (-30, 30), "zoom": (0.7, 1.4), "shift": (-10, 10), "blur": (0.5, 1), "brightness": (0.75, 1.25),
        "contrast": (0.75, 1.25), "low_resolution": (0.5, 1), "gamma": (0.7, 1.5),
    }  # fmt: skip
    for step, (low, high) in reach.items():
        values = np.ravel([v for draw in draws if (v := getattr(draw, step)) not in (None, getattr(Draw(), step))])
        margin = 0.05 * (high - low)
        assert low <= values.min() < low + margin, step
        assert high - margin < values.max() <= high, step
        # A uniform's mean lies in the middle, within five standard errors.
        assert abs(values.mean() - (low + high) / 2) < 5 * (high - low) / math.sqrt(12 * len(values)), step


def is_likely(seen: int, count: int, chance: float) -> bool:
    return abs(seen - count * chance) < 5 * math.sqrt(count * chance * (1 - chance))


def test_steps_happen_without_regard_to_each_other() -> None:
    augment = Augmentation(AugmentationSpec(flip=0.5, rotation=0.5, gamma=0.5), axis="axial", seed=2)
    draws = [augment.draw(5) for _ in range(2000)]
    rows = np.array([[ROWS in d.flips, COLUMNS in d.flips, d.rotation != 0, d.gamma != 1] for d in draws])
    correlation = np.corrcoef(rows.T) - np.eye(4)
    assert np.abs(correlation).max() < 5 / math.sqrt(2000)


# Each step alone


@pytest.mark.parametrize(
    ("spec", "axes"),
    [
        (AugmentationSpec(flip=1.0), (ROWS, COLUMNS)),
        (AugmentationSpec(flip_slices=1.0), (SLICES,)),
        (AugmentationSpec(flip=1.0, flip_slices=1.0), (SLICES, ROWS, COLUMNS)),
    ],
)
def test_a_sure_flip_turns_its_axes_bit_for_bit(spec: AugmentationSpec, axes: tuple[int, ...]) -> None:
    mask = (picture(channels=1)[:, 0] > 0.5).byte()
    changed, moved = Augmentation(spec, axis="axial", seed=0)(picture(), mask)
    assert torch.equal(changed, picture().flip(axes))
    assert torch.equal(moved, mask.flip([{SLICES: 0, ROWS: 1, COLUMNS: 2}[axis] for axis in axes]))
    assert moved.dtype == torch.uint8


def test_a_rotation_is_that_of_scipy() -> None:
    changed, degrees = only("rotation")
    assert abs(degrees) > 2
    expected = each_plane(
        lambda plane: ndimage.rotate(plane, degrees, reshape=False, order=1, mode="grid-constant", cval=0)
    )
    np.testing.assert_allclose(changed, expected, atol=1e-5)


def test_a_rotation_by_a_right_angle_goes_from_rows_to_columns() -> None:
    changed, _ = change(picture(rows=20), Draw(rotation=90.0))
    np.testing.assert_allclose(changed, np.rot90(picture(rows=20).numpy(), axes=(2, 3)), atol=1e-5)


def test_a_zoom_is_that_of_monai_and_above_one_enlarges() -> None:
    changed, zoom = only("zoom")
    assert abs(zoom - 1) > 0.05
    affine = monai.transforms.Affine(scale_params=(1 / zoom,) * 2, padding_mode="zeros", image_only=True)
    expected = torch.stack([affine(slices).as_tensor() for slices in picture()])
    np.testing.assert_allclose(changed, expected, atol=1e-5)
    larger = change(disc()[0], Draw(zoom=1.4))[0]
    assert abs(float(larger.sum() / disc()[0].sum()) / 1.4**2 - 1) < 0.02


def test_a_shift_is_that_of_scipy() -> None:
    changed, shift = only("shift")
    assert min(map(abs, shift)) > 0.5
    expected = each_plane(lambda plane: ndimage.shift(plane, shift, order=1, mode="grid-constant", cval=0))
    np.testing.assert_allclose(changed, expected, atol=1e-5)


def test_rotation_zoom_and_shift_are_one_resampling_in_that_order() -> None:
    drawn = Draw(flips=(ROWS,), rotation=20.0, zoom=1.2, shift=(3.0, -2.5))
    changed, _ = change(picture(), drawn)
    angle, middle = math.radians(20), np.array([23 / 2, 19 / 2])
    forward = 1.2 * np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    back = np.linalg.inv(forward)
    offset = middle - back @ (middle + np.array([3.0, -2.5]))
    expected = each_plane(
        lambda plane: ndimage.affine_transform(plane[::-1], back, offset, order=1, mode="grid-constant", cval=0)
    )
    np.testing.assert_allclose(changed, expected, atol=1e-5)


def test_noise_is_gaussian_of_the_asked_spread_and_new_each_time() -> None:
    slices = torch.full((8, 1, 64, 64), 0.5)
    augment = sure("noise")
    first, second = (augment(slices)[0] - 0.5 for _ in range(2))
    for noise in (first, second):
        assert abs(float(noise.mean())) < 5 * 0.02 / math.sqrt(noise.numel())
        assert abs(float(noise.std()) / 0.02 - 1) < 0.03
        assert abs(float((noise.abs() < 0.02).float().mean()) - 0.6827) < 0.015
    assert abs(np.corrcoef(first.ravel(), second.ravel())[0, 1]) < 0.03
    assert abs(np.corrcoef(first[0].ravel(), first[1].ravel())[0, 1]) < 0.1


def test_a_blur_is_that_of_monai() -> None:
    changed, sigma = only("blur")
    assert sigma[0] != sigma[1]
    smooth = monai.transforms.GaussianSmooth(sigma=sigma)
    expected = torch.stack([smooth(slices).as_tensor() for slices in picture()])
    np.testing.assert_allclose(changed, expected, atol=1e-6)


def test_brightness_multiplies() -> None:
    changed, factor = only("brightness")
    np.testing.assert_allclose(changed, np.clip(float64() * factor, 0, 1), atol=1e-6)


def test_contrast_stretches_about_the_mean_as_monai_does() -> None:
    changed, factor = only("contrast")
    mean = float64().mean()
    np.testing.assert_allclose(changed, np.clip((float64() - mean) * factor + mean, 0, 1), atol=1e-6)
    scale = monai.transforms.ScaleIntensityFixedMean(factor=factor - 1)
    np.testing.assert_allclose(changed, scale(picture()).as_tensor().clamp(0, 1), atol=1e-6)


def test_low_resolution_is_that_of_monai() -> None:
    changed, share = only("low_resolution")
    assert share < 0.95
    lower = monai.transforms.RandSimulateLowResolution(prob=1.0, upsample_mode="bilinear", zoom_range=(share, share))
    expected = torch.stack([torch.as_tensor(lower(slices)) for slices in picture()])
    np.testing.assert_allclose(changed, expected, atol=1e-6)


def test_gamma_is_a_power_between_the_least_and_the_greatest_value() -> None:
    changed, gamma = only("gamma")
    low, high = float64().min(), float64().max()
    expected = ((float64() - low) / (high - low)) ** gamma * (high - low) + low
    np.testing.assert_allclose(changed, expected, atol=1e-6)


def test_intensities_change_in_the_order_of_the_recipe() -> None:
    drawn = Draw(brightness=1.2, contrast=1.25, gamma=1.5)
    bright = float64() * 1.2
    stretched = (bright - bright.mean()) * 1.25 + bright.mean()
    low, high = stretched.min(), stretched.max()
    expected = np.clip(((stretched - low) / (high - low)) ** 1.5 * (high - low) + low, 0, 1)
    np.testing.assert_allclose(change(picture(), drawn)[0], expected, atol=1e-6)


# Together


def test_results_stay_between_zero_and_one_and_slices_change_alike() -> None:
    everything = {name: 1.0 for name in STEPS if name != "noise"}
    augment = Augmentation(AugmentationSpec(flip=0.5, **everything), axis="axial", seed=5)
    slices = torch.cat([picture(4), picture(1)])
    slices[:, :, :4, :4], slices[:, :, 8:12, 8:12] = 0.0, 1.0
    for _ in range(40):
        changed, _ = augment(slices)
        assert changed.shape == slices.shape
        assert 0 <= changed.min() <= changed.max() <= 1
        torch.testing.assert_close(changed[0], changed[4], atol=1e-6, rtol=0)


@pytest.mark.parametrize("axis", ["axial", "sagittal"])
def test_a_stack_of_half_precision_is_changed_in_single(axis: str) -> None:
    changed, _ = Augmentation(PAPER, axis=axis, seed=3)(picture().half())  # type: ignore[arg-type]
    assert changed.dtype == torch.float32


def disc(radius: float = 9.0, slices: int = 6) -> tuple[torch.Tensor, torch.Tensor]:
    """A bright disc off the middle of a dark picture, in some of its slices, and its mask."""
    rows, columns = torch.meshgrid(torch.arange(64.0), torch.arange(64.0), indexing="ij")
    inside = ((rows - 36).square() + (columns - 30).square() <= radius**2).float()
    present = (torch.arange(slices) < slices / 2).float()
    mask = present[:, None, None] * inside
    return mask[:, None] * 0.9, (2 * mask).to(torch.int16)


def test_image_and_mask_stay_on_top_of_each_other() -> None:
    geometric = AugmentationSpec(flip=0.5, flip_slices=0.5, rotation=1.0, zoom=1.0, shift=1.0)
    augment = Augmentation(geometric, axis="axial", seed=6)
    slices, mask = disc()
    for _ in range(30):
        changed, moved = augment(slices, mask)
        assert moved.dtype == torch.int16
        assert set(moved.unique().tolist()) <= {0, 2}
        bright, labelled = changed[:, 0] > 0.45, moved > 0
        assert float((bright & labelled).sum() / (bright | labelled).sum()) > 0.9


@pytest.mark.parametrize("step", ["noise", "blur", "brightness", "contrast", "low_resolution", "gamma"])
def test_a_change_of_intensities_leaves_the_mask(step: str) -> None:
    slices, mask = disc()
    changed, moved = sure(step)(slices, mask)
    assert torch.equal(moved, mask)
    assert not torch.equal(changed, slices)


def test_a_mask_of_another_shape_is_refused() -> None:
    with pytest.raises(InputError, match=r"\[5, 24, 19\] does not cover slices of the shape \[5, 2, 24, 20\]"):
        change(picture(), Draw(), mask=torch.zeros(5, 24, 19))


@pytest.mark.parametrize(
    ("axis", "others"),
    [("axial", {SLICES, ROWS}), ("coronal", {SLICES, ROWS}), ("sagittal", {ROWS, COLUMNS})],
)
def test_without_mirroring_left_stays_left_and_the_other_axes_flip(axis: str, others: set[int]) -> None:
    spec = AugmentationSpec(flip=0.5, flip_slices=0.5, mirror=False)
    augment = Augmentation(spec, axis=axis, seed=7)  # type: ignore[arg-type]
    draws = [augment.draw(5) for _ in range(200)]
    assert {flipped for draw in draws for flipped in draw.flips} == others
    array = np.zeros((16, 16, 16), np.float32)
    array[:, :, 9:] = 1.0
    right = preprocess(Volume(array, np.eye(4)), PreprocessingSpec(axis=axis, size=(16, 16)))  # type: ignore[arg-type]
    sure_of_all = dataclasses.replace(spec, flip=1.0, flip_slices=1.0)
    changed, _ = Augmentation(sure_of_all, axis=axis, seed=0)(torch.from_numpy(right.array))  # type: ignore[arg-type]
    np.testing.assert_array_equal(changed, right.array)


def test_without_mirroring_a_single_picture_never_flips_its_columns() -> None:
    spec = AugmentationSpec(flip=1.0, flip_slices=1.0, mirror=False)
    for axis in ("axial", "coronal", "sagittal"):
        assert COLUMNS not in Augmentation(spec, axis=axis, seed=0).draw(1).flips  # type: ignore[arg-type]


# Randomness


def test_draws_depend_on_the_seed_alone() -> None:
    first, same, other = ([Augmentation(PAPER, axis="axial", seed=seed).draw(5)] for seed in (1, 1, 2))
    assert first == same != other
    one, two = (Augmentation(PAPER, axis="axial", seed=9) for _ in range(2))
    for _ in range(20):
        assert torch.equal(one(picture())[0], two(picture())[0])


def test_draws_of_a_case_do_not_depend_on_who_takes_it_or_when() -> None:
    def drawn(cases: list[int]) -> dict[int, Draw]:
        return {case: Augmentation(PAPER, axis="axial", seed=(3, 1, case)).draw(5) for case in cases}

    whole = drawn(list(range(40)))
    assert drawn(list(range(39, -1, -2))) | drawn(list(range(0, 40, 2))) == whole
    assert len(set(whole.values())) > 30


def test_a_step_that_is_turned_on_leaves_the_draws_of_the_others() -> None:
    spec = AugmentationSpec(rotation=0.5, gamma=0.5)
    pair = [Augmentation(one, axis="axial", seed=8) for one in (spec, dataclasses.replace(spec, noise=1.0, zoom=1.0))]
    for _ in range(20):
        without, with_more = (augment.draw(5) for augment in pair)
        assert dataclasses.replace(with_more, noise=None, zoom=1.0) == without


def test_a_restored_state_goes_on_where_it_was_taken() -> None:
    augment = Augmentation(PAPER, axis="axial", seed=10)
    for _ in range(7):
        augment(picture())
    state = json.loads(json.dumps(augment.state_dict(), allow_nan=False))
    expected = [augment(picture())[0] for _ in range(10)]
    other = Augmentation(PAPER, axis="axial", seed=99)
    other.load_state_dict(state)
    assert all(torch.equal(other(picture())[0], one) for one in expected)


def test_the_callers_generator_is_the_only_state() -> None:
    rng = np.random.default_rng(11)
    state = rng.bit_generator.state
    augment = Augmentation(PAPER, axis="axial", seed=rng)
    expected = [augment.draw(5) for _ in range(5)]
    rng.bit_generator.state = state
    assert [augment.draw(5) for _ in range(5)] == expected


@pytest.mark.parametrize("state", [{}, {"generator": None}, {"generator": {"bit_generator": "MT19937"}}])
def test_a_state_of_another_kind_is_refused_in_one_sentence(state: dict) -> None:
    with pytest.raises(InputError, match=r"saved state of the augmentation cannot be used .*begin the run anew"):
        Augmentation(PAPER, axis="axial", seed=0).load_state_dict(state)


def test_changes_do_not_depend_on_the_number_of_threads() -> None:
    everything = Draw(
        rotation=10.0, noise=(0.02, 5), blur=(0.6, 0.9), brightness=1.1, contrast=1.2, low_resolution=0.7, gamma=1.2
    )
    slices, threads = picture(16, 3, 96, 96), torch.get_num_threads()
    results = []
    try:
        for number in (1, 2, 4):
            torch.set_num_threads(number)
            results.append(change(slices, everything)[0])
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])
