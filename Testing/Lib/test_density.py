"""A density of studies: what is of their kind is seldom called unlike them, and what is not, nearly always."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from AnyMC3DLib.density import ALARM_RATE, RANK, VolumeDensity, describe, limit_of

WIDTH = 60


def drawn(count: int, *, seed: int, away: float = 0.0) -> Tensor:
    """Descriptions with a few directions of much variance, as embeddings have, perhaps off in another direction."""
    rng = np.random.default_rng(seed)
    mixing = np.random.default_rng(0).normal(size=(8, WIDTH))
    values = rng.normal(size=(count, 8)) * np.linspace(4, 1, 8) @ mixing + 0.3 * rng.normal(size=(count, WIDTH))
    values[:, :3] += away
    return torch.from_numpy(values.astype(np.float32))


def fitted(count: int = 200, **options: Tensor) -> VolumeDensity:
    density = VolumeDensity(WIDTH)
    density.fit(drawn(count, seed=1), **options)
    return density


def share_beyond(density: VolumeDensity, descriptions: Tensor) -> float:
    return float(np.mean([density.is_beyond(each) for each in descriptions]))


@pytest.mark.parametrize("count", [40, 100, 384])
def test_few_of_the_same_kind_are_called_unlike(count: int) -> None:
    shares = []
    for seed in range(10):
        density = VolumeDensity(WIDTH)
        density.fit(drawn(count, seed=100 + seed))
        shares.append(share_beyond(density, drawn(200, seed=200 + seed)))
    assert np.mean(shares) <= 2 * ALARM_RATE


def test_a_shift_that_no_single_feature_shows_is_called_unlike() -> None:
    density = fitted()
    near, far = drawn(100, seed=3), drawn(100, seed=3, away=6.0)
    ranges = drawn(200, seed=1)
    inside = (far >= ranges.min(dim=0).values) & (far <= ranges.max(dim=0).values)
    assert inside.all(dim=1).float().mean() > 0.5
    assert share_beyond(density, near) < 0.1
    assert share_beyond(density, far) == 1.0


def test_the_distance_is_that_of_the_gaussian_of_its_directions() -> None:
    density = fitted()
    points = drawn(50, seed=4)
    standard = ((points - density.centre) / density.scale).double().numpy()
    along = standard @ density.directions.double().numpy().T
    gaussian = stats.multivariate_normal(np.zeros(RANK), np.diag(density.variances.double().numpy()))
    squared = -2 * (gaussian.logpdf(along) - gaussian.logpdf(np.zeros(RANK)))
    rest = (standard**2).sum(axis=1) - (along**2).sum(axis=1)
    expected = (squared / RANK + rest / float(density.noise)) / 2
    np.testing.assert_allclose(density.distance(points).numpy(), expected, rtol=1e-4)


def test_the_directions_are_the_principal_ones_and_at_right_angles() -> None:
    density, values = fitted(), drawn(200, seed=1).double()
    standard = (values - density.centre.double()) / density.scale.double()
    variances = np.linalg.svd(standard.numpy(), compute_uv=False)[:RANK] ** 2 / 199
    np.testing.assert_allclose(density.variances.numpy(), variances, rtol=1e-4)
    np.testing.assert_allclose((density.directions @ density.directions.T).numpy(), np.eye(RANK), atol=1e-4)


def test_held_out_studies_widen_the_limit_and_never_narrow_it() -> None:
    alone = float(fitted().limit)
    assert float(fitted(held_out=drawn(60, seed=5, away=3.0)).limit) > alone
    assert float(fitted(held_out=drawn(60, seed=5) * 0).limit) == pytest.approx(alone)
    few = fitted(held_out=drawn(5, seed=5, away=9.0))
    assert float(few.limit) == pytest.approx(alone)


@pytest.mark.parametrize(("count", "place"), [(39, 38), (79, 77), (200, 195)])
def test_the_limit_is_the_order_statistic_of_conformal_prediction(count: int, place: int) -> None:
    distances = torch.from_numpy(np.random.default_rng(2).permutation(count).astype(np.float32))
    assert float(limit_of(distances)) == place


def test_of_few_distances_the_limit_lies_beyond_the_largest() -> None:
    assert float(limit_of(torch.arange(20.0))) > 19


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_is_unlike_anything(value: float) -> None:
    assert fitted().is_beyond(torch.full((WIDTH,), value))


def test_a_density_that_was_not_fitted_finds_nothing_unlike() -> None:
    assert share_beyond(VolumeDensity(WIDTH), drawn(20, seed=6, away=50.0)) == 0


def test_features_that_never_vary_are_no_reason_to_fail() -> None:
    values = drawn(60, seed=7)
    values[:, 10:20] = 1.0
    density = VolumeDensity(WIDTH)
    density.fit(values)
    assert not density.is_beyond(values[0])
    assert torch.isfinite(density.distance(values)).all()


def test_studies_that_are_all_alike_are_no_reason_to_fail() -> None:
    density = VolumeDensity(WIDTH)
    density.fit(torch.ones(30, WIDTH))
    assert not density.is_beyond(torch.ones(WIDTH))
    assert density.is_beyond(torch.full((WIDTH,), 2.0))


def test_the_number_and_order_of_slices_do_not_matter_to_a_description() -> None:
    slices = torch.from_numpy(np.random.default_rng(8).normal(size=(7, 5)).astype(np.float32))
    once = describe({"a": slices, "b": slices + 1})
    assert once.shape == (10,)
    torch.testing.assert_close(describe({"a": slices.flip(0).repeat(2, 1), "b": slices + 1}), once)


def test_studies_of_one_patient_do_not_judge_each_other() -> None:
    rng = np.random.default_rng(9)
    patients = drawn(40, seed=10)
    again = patients.repeat_interleave(5, dim=0)
    again += 0.01 * torch.from_numpy(rng.normal(size=again.shape)).float()
    names = [str(n // 5) for n in range(200)]
    apart, mixed = VolumeDensity(WIDTH), VolumeDensity(WIDTH)
    apart.fit(again, groups=names)
    mixed.fit(again)
    new = drawn(200, seed=11)
    assert share_beyond(apart, new) < 0.2 < share_beyond(mixed, new)


def test_a_study_that_is_not_finite_is_left_out_of_the_density() -> None:
    values = drawn(60, seed=12)
    spoilt = values.clone()
    spoilt[7] = float("nan")
    density = VolumeDensity(WIDTH)
    density.fit(spoilt)
    assert torch.isfinite(density.limit)
    assert share_beyond(density, drawn(100, seed=13)) < 0.15
