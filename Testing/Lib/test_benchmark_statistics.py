"""DeLong, ranks over datasets and Holm: against published examples, SciPy and plain loops."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest
from scipy.stats import f as f_distribution
from scipy.stats import friedmanchisquare, norm
from sklearn.metrics import roc_auc_score

from AnyMC3DLib.benchmark.statistics import (
    Difference,
    average_ranks,
    delong,
    delong_interval,
    holm,
    independent,
    why_no_ranks,
)
from AnyMC3DLib.errors import InputError

# 43 patients of DeLong, DeLong and Clarke-Pearson (1988): albumin, K-G score, and whether surgery would be of use.
ALBUMIN = (
    "3.0 3.2 3.9 2.8 3.2 0.9 2.5 1.6 3.8 3.7 3.2 3.8 4.1 3.6 4.3 3.6 2.3 4.2 4.0 3.5 3.8 3.0 "
    "4.5 3.7 3.1 4.1 4.3 4.3 3.2 2.6 3.3 1.7 3.7 3.3 4.2 3.5 2.9 2.1 2.8 4.0 3.3 3.7 3.6"
)
KG_SCORE = "10 5 3 6 3 5 8 5 5 6 4 6 5 5 4 4 6 4 6 6 7 8 5 5 6 6 5 4 5 6 6 7 5 7 6 5 9 7 8 7 6 5 5"
BENEFIT = "0 1 1 0 1 0 0 1 1 1 1 1 1 1 1 0 1 0 0 1 1 0 1 1 1 1 1 1 1 1 0 0 1 1 1 1 0 1 0 1 1 1 1"
# Demsar (2006), table 6. The paper prints 0.975 twice for voting records (line 13), but ranks the first of them higher.
C45 = """
    .763 .768 .771 .798
    .599 .591 .590 .569
    .954 .971 .968 .967
    .628 .661 .654 .657
    .882 .888 .886 .898
    .936 .931 .916 .931
    .661 .668 .609 .685
    .583 .583 .563 .625
    .775 .838 .866 .875
    1 1 1 1
    .940 .962 .965 .962
    .619 .666 .614 .669
    .972 .981 .9751 .975
    .957 .978 .946 .970
"""
# Demsar (2006), table 5a: critical values of the Nemenyi test at 0.05 for 2 to 10 classifiers.
NEMENYI = (1.960, 2.343, 2.569, 2.728, 2.850, 2.949, 3.031, 3.102, 3.164)


def numbers(text: str) -> np.ndarray:
    return np.array(text.split(), dtype=float)


def surgery() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return numbers(BENEFIT).astype(np.int64), numbers(ALBUMIN), -numbers(KG_SCORE)


def two_readers(*, ties: bool, count: int = 60, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Targets and two scores that are correlated; a third of the cases are positive."""
    rng = np.random.default_rng(seed)
    targets = (np.arange(count) % 3 == 0).astype(np.int64)
    shared = rng.normal(size=count) + targets
    first, second = (shared + rng.normal(size=count) for _ in range(2))
    return (targets, first.round(0), second.round(0)) if ties else (targets, first, second)


def structural_components(targets: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The share of negatives below each positive and of positives above each negative, pair by pair."""
    positives, negatives = scores[targets == 1], scores[targets == 0]
    wins = np.array([[1.0 if x > y else 0.5 if x == y else 0.0 for y in negatives] for x in positives])
    return wins.mean(axis=1), wins.mean(axis=0)


def delong_by_pairs(targets: np.ndarray, first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both areas and their covariance, from all pairs of a positive and a negative."""
    each = [structural_components(targets, scores) for scores in (first, second)]
    by_positives, by_negatives = (np.stack([components[n] for components in each]) for n in (0, 1))
    covariance = np.cov(by_positives) / by_positives.shape[1] + np.cov(by_negatives) / by_negatives.shape[1]
    return by_positives.mean(axis=1), covariance


# DeLong


def test_two_tests_of_delongs_own_patients_differ_as_published() -> None:
    # SAS/STAT User's Guide, "Comparing Receiver Operating Characteristic Curves": estimate, limits, chi squared, p.
    found = delong(*surgery())
    assert dataclasses.astuple(found)[:3] == pytest.approx((0.0108, -0.1761, 0.1976), abs=5e-5)
    assert (found.z**2, found.p) == pytest.approx((0.0127, 0.9102), abs=5e-5)


def test_the_area_of_the_published_ratings_has_the_published_standard_error() -> None:
    # Ratings of 109 CTs in Hanley and McNeil (1982); DeLong's error in Stata's manual of roctab is 0.0307.
    targets = np.repeat([0, 1], [58, 51])
    ratings = np.repeat([1, 2, 3, 4, 5] * 2, [33, 6, 6, 11, 2, 3, 2, 2, 11, 33]).astype(float)
    found = delong_interval(targets, ratings)
    low, high = (np.log(limit / (1 - limit)) for limit in (found.low, found.high))
    assert found.value == pytest.approx(0.8932, abs=5e-5)
    error = (high - low) / 2 / norm.ppf(0.975) * found.value * (1 - found.value)
    assert error == pytest.approx(0.0307, abs=5e-5)
    assert (low + high) / 2 == pytest.approx(np.log(found.value / (1 - found.value)))


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_midranks_give_what_all_pairs_of_cases_give(ties: bool, seed: int) -> None:
    targets, first, second = two_readers(ties=ties, seed=seed)
    areas, covariance = delong_by_pairs(targets, first, second)
    error = np.sqrt(covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1])
    difference = areas[0] - areas[1]
    limits = difference + np.array([-1, 1]) * norm.ppf(0.975) * error
    expected = (difference, *limits, difference / error, 2 * norm.cdf(-abs(difference / error)))
    assert dataclasses.astuple(delong(targets, first, second)) == pytest.approx(expected, rel=1e-9)
    interval = delong_interval(targets, first)
    assert interval.value == pytest.approx(roc_auc_score(targets, first))
    half = norm.ppf(0.975) * np.sqrt(covariance[0, 0]) / (areas[0] * (1 - areas[0]))
    odds = areas[0] / (1 - areas[0]) * np.exp([-half, half])
    assert (interval.low, interval.high) == pytest.approx(tuple(odds / (1 + odds)), rel=1e-9)


def test_a_difference_can_be_computed_by_hand() -> None:
    # Positives beat (2, 1) and (1, 1) of two negatives; negatives are beaten by (2, 1) and (1, 1) of two positives.
    targets = np.array([1, 1, 0, 0])
    first, second = np.array([4.0, 2.0, 1.0, 3.0]), np.array([2.0, 2.0, 1.0, 3.0])
    found = delong(targets, first, second)
    assert found.value == pytest.approx(0.75 - 0.5)
    # Each kind differs by (1/2, 0), whose variance is 1/8; (1/8) / 2 + (1/8) / 2 = 1/8.
    assert found.z == pytest.approx(0.25 / np.sqrt(1 / 8))


@pytest.mark.parametrize("ties", [False, True])
def test_delong_does_not_depend_on_the_order_or_the_scale_and_is_mirrored_when_swapped(ties: bool) -> None:
    targets, first, second = two_readers(ties=ties)
    found = delong(targets, first, second)
    order = np.random.default_rng(5).permutation(len(targets))
    assert dataclasses.astuple(delong(targets[order], first[order], second[order])) == pytest.approx(
        dataclasses.astuple(found)
    )
    assert delong(targets, np.exp(first), second * 3 - 1) == found
    swapped = delong(targets, second, first)
    assert (swapped.value, swapped.low, swapped.high, swapped.z, swapped.p) == pytest.approx(
        (-found.value, -found.high, -found.low, -found.z, found.p)
    )
    other_kind = delong(1 - targets, first, second)
    assert (other_kind.value, other_kind.p) == pytest.approx((-found.value, found.p))


@pytest.mark.parametrize("ties", [False, True])
def test_scores_that_rank_alike_do_not_differ(ties: bool) -> None:
    targets, first, _ = two_readers(ties=ties)
    assert delong(targets, first, np.exp(first)) == Difference(0.0, 0.0, 0.0, 0.0, 1.0)
    assert delong(targets, np.zeros(len(targets)), np.ones(len(targets))).p == 1


def test_a_difference_whose_variance_is_estimated_as_0_has_no_p() -> None:
    targets = np.array([0, 0, 0, 1, 1, 1])
    found = delong(targets, targets.astype(float), np.zeros(6))
    assert found.value == 0.5
    assert np.isnan([found.low, found.high, found.z, found.p]).all()
    assert found.to_dict() == {"value": 0.5, "low": None, "high": None, "z": None, "p": None}


@pytest.mark.parametrize(
    ("targets", "scores", "value"),
    [([0, 0, 1, 1], [1, 2, 3, 4], 1.0), ([0, 0, 1, 1], [3, 4, 1, 2], 0.0), ([0, 0, 1], [1, 3, 2], 0.5)],
    ids=["perfect", "reversed", "one positive"],
)
def test_an_area_that_tells_nothing_of_its_spread_has_no_interval(
    targets: list[int], scores: list[int], value: float
) -> None:
    found = delong_interval(np.array(targets), np.array(scores, dtype=float))
    assert found.value == value and np.isnan([found.low, found.high]).all()


def test_an_interval_near_1_stays_below_1() -> None:
    targets = np.repeat([0, 1], 10)
    scores = np.arange(20.0)
    scores[[9, 10]] = scores[[10, 9]]
    found = delong_interval(targets, scores)
    assert 0.8 < found.low < found.value == 0.99 < found.high < 1


def test_the_interval_holds_the_true_area_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    targets = np.repeat([0, 1], 25)
    # Two normal distributions of variance 1 that lie 1 apart.
    true = norm.cdf(1 / np.sqrt(2))
    found = [delong_interval(targets, rng.normal(size=50) + targets) for _ in range(300)]
    assert 0.91 <= np.mean([each.low <= true <= each.high for each in found]) <= 0.985


@pytest.mark.parametrize(
    ("targets", "scores", "message"),
    [
        ([1, 1], [0.1, 0.2], "there is no negative case"),
        ([0, 0], [0.1, 0.2], "there is no positive case"),
        ([0, 1, -1], [0.1, 0.2, 0.3], "targets of 0 and 1"),
        ([0, 1], [0.1, np.nan], "finite scores"),
        ([0, 1], [0.1, 0.2, 0.3], "give one a case"),
    ],
)
def test_what_has_no_roc_curve_is_refused(targets: list[int], scores: list[float], message: str) -> None:
    given, fine = np.array(targets), np.arange(len(targets), dtype=float)
    for call in (
        lambda: delong_interval(given, np.array(scores)),
        lambda: delong(given, np.array(scores), fine),
    ):
        with pytest.raises(InputError, match=message):
            call()


def test_cases_are_independent_unless_a_patient_has_several() -> None:
    assert independent(["a", "b", "", ""])
    assert not independent(["a", "b", "a"])


# Ranks over datasets


def scores_of(table: np.ndarray) -> dict[str, dict[str, float]]:
    return {f"d{n}": {f"m{k}": float(v) for k, v in enumerate(row)} for n, row in enumerate(table)}


def test_four_classifiers_rank_as_published() -> None:
    found = average_ranks(scores_of(numbers(C45).reshape(14, 4)))
    assert found is not None and found.datasets == 14
    assert list(found.mean.values()) == pytest.approx([3.143, 2.000, 2.893, 1.964], abs=5e-4)
    assert found.critical_difference == pytest.approx(1.25, abs=5e-3)


@pytest.mark.parametrize("decimals", [8, 1], ids=["no ties", "ties"])
def test_friedman_is_scipys_and_f_is_the_analysis_of_variance_of_the_ranks(decimals: int) -> None:
    table = (np.random.default_rng(0).random((9, 4)) + np.array([0, 0, 0.2, 0])).round(decimals)
    found = average_ranks(scores_of(table))
    assert found is not None
    assert found.chi_squared == pytest.approx(friedmanchisquare(*table.T).statistic)
    ranks = np.array([[1 + (row > v).sum() + ((row == v).sum() - 1) / 2 for v in row] for row in table])
    assert list(found.mean.values()) == pytest.approx(ranks.mean(axis=0))
    between = 9 * ((ranks.mean(axis=0) - 2.5) ** 2).sum()
    within = ((ranks - 2.5) ** 2).sum() - between
    assert found.f == pytest.approx((between / 3) / (within / 24))
    # The share of 20 000 analyses of ranks by chance alone that reach F.
    rng = np.random.default_rng(1)
    means = rng.permuted(np.broadcast_to(ranks, (20000, 9, 4)), axis=2).mean(axis=1)
    as_far = 9 * ((means - 2.5) ** 2).sum(axis=1) >= between - 1e-9
    assert found.p == pytest.approx(as_far.mean(), abs=0.03)
    assert found.p == pytest.approx(f_distribution.sf(found.f, 3, 24))


@pytest.mark.parametrize(("count", "critical"), [*zip(range(3, 11), NEMENYI[1:], strict=True)])
def test_the_critical_difference_has_the_published_critical_values(count: int, critical: float) -> None:
    found = average_ranks(scores_of(np.random.default_rng(0).random((6, count))))
    assert found is not None
    # The table is rounded to three digits from values that were themselves rounded.
    assert found.critical_difference == pytest.approx(critical * np.sqrt(count * (count + 1) / 36), rel=5e-4)


def test_datasets_that_all_rank_alike_have_the_chance_of_that_as_p() -> None:
    found = average_ranks(scores_of(np.tile([0.7, 0.9, 0.8], (5, 1))))
    assert found is not None
    assert found.mean == {"m0": 3, "m1": 1, "m2": 2}
    assert found.chi_squared == pytest.approx(10) and found.f == np.inf
    # With the first dataset's order given, each other one has it in 1 of 6 cases, or 1 of 3 with a tie of two.
    assert found.p == pytest.approx(1 / 6**4)
    tied = average_ranks(scores_of(np.tile([0.7, 0.9, 0.9], (5, 1))))
    assert tied is not None and tied.p == pytest.approx(1 / 3**4)


def test_methods_that_are_equal_everywhere_do_not_differ() -> None:
    # The second sum differs from 0.6 in its last bit.
    found = average_ranks(scores_of(np.tile([0.6, 0.1 + 0.2 + 0.3, 0.6], (5, 1))))
    assert found is not None
    assert (found.chi_squared, found.f, found.p) == (0, 0, 1)
    assert set(found.mean.values()) == {2}


def test_ranks_do_not_depend_on_the_order_of_datasets_or_methods() -> None:
    table = np.random.default_rng(0).random((7, 4))
    scores = scores_of(table)
    turned = {name: dict(reversed(own.items())) for name, own in reversed(scores.items())}
    found, other = average_ranks(scores), average_ranks(turned)
    assert found is not None and other is not None
    assert other.mean == pytest.approx(dict(found.mean))
    assert (other.f, other.p) == pytest.approx((found.f, found.p))


def test_why_there_are_no_ranks_is_told() -> None:
    table = np.random.default_rng(0).random((5, 3))
    assert why_no_ranks(scores_of(table)) == ""
    for fewer, reason in ((table[:4], "need 5 datasets, but there are 4"), (table[:, :2], "need 3 methods, but")):
        assert average_ranks(scores_of(fewer)) is None
        assert reason in why_no_ranks(scores_of(fewer))
    lacking = scores_of(table)
    del lacking["d1"]["m0"]
    lacking["d3"]["m2"] = float("nan")
    assert average_ranks(lacking) is None
    assert why_no_ranks(lacking).endswith("but lack m0 on d1, m2 on d3.")
    assert average_ranks({}) is None


# Holm


def test_holm_gives_what_is_computed_by_hand() -> None:
    # In their order 4 * 0.005, 3 * 0.01, 2 * 0.03, 1 * 0.04, the last raised to the one before.
    found = holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005})
    assert list(found) == ["a", "b", "c", "d"]
    assert found == pytest.approx({"a": 0.03, "b": 0.06, "c": 0.06, "d": 0.02})


def test_holm_lies_between_each_p_and_bonferronis_in_the_same_order() -> None:
    for values in itertools.product((0.0, 0.01, 0.2, 0.6, 1.0), repeat=3):
        found = holm(dict(zip("abc", values, strict=True)))
        for (_, one), (_, other) in itertools.pairwise(sorted(zip(values, found.values(), strict=True))):
            assert one <= other
        assert all(p <= found[n] <= min(1, 3 * p) for n, p in zip("abc", values, strict=True))


def test_an_unknown_p_stays_unknown_and_does_not_count() -> None:
    found = holm({"a": 0.01, "b": float("nan"), "c": 0.02})
    assert np.isnan(found["b"]) and (found["a"], found["c"]) == (0.02, 0.02)
    assert holm({}) == {}


@pytest.mark.parametrize("value", [-0.1, 1.1])
def test_what_is_no_p_value_is_refused(value: float) -> None:
    with pytest.raises(InputError, match="that of 'b' is"):
        holm({"a": 0.5, "b": value})
