"""The order of an epoch: each case once, or every class as often as the others."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from sklearn.utils.class_weight import compute_sample_weight

from AnyMC3DLib.errors import InputError
from AnyMC3DLib.training.sampling import balanced_order, sampling_shares, shuffled_order

Counts = npt.NDArray[np.int64]
CLASSES = np.repeat([0, 1, 2], [160, 39, 1])
EPOCHS = 200


def labels(count: int = 500, *, missing: bool = False) -> npt.NDArray[np.int64]:
    """Five labels, the first with one positive in 100; with `missing` a third of them unknown."""
    rng = np.random.default_rng(4)
    found = (rng.random((count, 5)) < (0.0, 0.05, 0.2, 0.5, 0.9)).astype(np.int64)
    found[::100, 0] = 1
    if missing:
        found[rng.random(found.shape) < 1 / 3] = -1
        found[::100, 0] = 1
        found[1] = -1
    return found


def drawn(targets: npt.NDArray[np.int64], weights: npt.NDArray[np.float64] | None = None) -> Counts:
    """How often each case was drawn in many epochs."""
    rng = np.random.default_rng(1)
    orders = [balanced_order(targets, rng=rng, weights=weights) for _ in range(EPOCHS)]
    assert all(len(order) == len(targets) for order in orders)
    return np.bincount(np.concatenate(orders), minlength=len(targets))


def check_frequencies(counts: Counts, shares: npt.NDArray[np.float64]) -> None:
    """Within five standard deviations of a multinomial draw."""
    draws = counts.sum()
    assert shares.sum() == pytest.approx(1.0)
    assert np.all(np.abs(counts - draws * shares) <= 5 * np.sqrt(draws * shares) + 1)


def test_every_class_comes_equally_often_even_one_of_a_single_case() -> None:
    counts = drawn(CLASSES)
    for number in range(3):
        assert counts[number == CLASSES].sum() / counts.sum() == pytest.approx(1 / 3, abs=0.02)
    weights = compute_sample_weight("balanced", CLASSES)
    check_frequencies(counts, weights / weights.sum())


def test_case_weights_multiply() -> None:
    weights = np.where(np.arange(len(CLASSES)) % 2, 3.0, 1.0)
    expected = compute_sample_weight("balanced", CLASSES) * weights
    check_frequencies(drawn(CLASSES, weights), expected / expected.sum())


def test_the_shares_of_one_label_are_those_of_two_classes() -> None:
    single = (np.arange(100) == 7).astype(np.int64)
    np.testing.assert_allclose(sampling_shares(single[:, None]), sampling_shares(single))
    assert sampling_shares(single)[7] == pytest.approx(0.5)


def test_a_multilabel_case_is_drawn_by_its_rarest_label_value() -> None:
    targets = np.array([[0, 0], [0, 1], [0, 1], [1, 1], [0, 1], [-1, 0], [0, -1]])
    # Of the first label five are 0 and one is 1; of the second two are 0 and four are 1.
    rarity = np.array([1 / 2, 1 / 4, 1 / 4, 1, 1 / 4, 1 / 2, 1 / 5])
    np.testing.assert_allclose(sampling_shares(targets), rarity / rarity.sum())
    check_frequencies(drawn(targets), rarity / rarity.sum())


@pytest.mark.parametrize("missing", [False, True])
def test_every_value_of_every_label_comes_often_enough(missing: bool) -> None:
    targets = labels(missing=missing)
    counts = drawn(targets)
    known = (targets >= 0).any(axis=1)
    for label in range(targets.shape[1]):
        for value in (0, 1):
            share = counts[targets[:, label] == value].sum() / counts[known].sum()
            assert share >= 1 / (2 * targets.shape[1]) - 0.01
    rare = counts[targets[:, 0] == 1].sum() / counts.sum()
    assert rare > 0.1, "the label of one positive in 100 comes more than ten times as often"


def test_a_case_without_any_label_is_drawn_as_the_average_case() -> None:
    shares = sampling_shares(labels(missing=True))
    assert shares[1] == pytest.approx(np.delete(shares, 1).mean())
    np.testing.assert_allclose(sampling_shares(np.full((4, 2), -1)), 0.25)


def test_the_order_is_the_same_for_the_same_state_of_the_generator() -> None:
    for order in (lambda rng: balanced_order(CLASSES, rng=rng), lambda rng: shuffled_order(200, rng=rng)):
        first, second = np.random.default_rng(3), np.random.default_rng(3)
        np.testing.assert_array_equal(order(first), order(second))
        state = first.bit_generator.state
        later = order(first)
        assert not np.array_equal(later, order(np.random.default_rng(3)))
        second.bit_generator.state = state
        np.testing.assert_array_equal(later, order(second))
        assert later.dtype == np.int64


def test_a_plain_order_has_every_case_once() -> None:
    order = shuffled_order(50, rng=np.random.default_rng(0))
    np.testing.assert_array_equal(np.sort(order), np.arange(50))
    assert not np.array_equal(order, np.arange(50))


@pytest.mark.parametrize(
    ("weights", "words"),
    [
        (np.ones(3), "200 cases, but 3 case weights"),
        (np.zeros(200), "positive"),
        (np.full(200, np.nan), "positive"),
    ],
)
def test_weights_that_do_not_fit_are_refused(weights: npt.NDArray[np.float64], words: str) -> None:
    with pytest.raises(InputError, match=words):
        balanced_order(CLASSES, rng=np.random.default_rng(0), weights=weights)
