"""What a training draws depends on seed, epoch and case alone."""

from __future__ import annotations

import numpy as np

from AnyMC3DLib.training.draws import case_generator, epoch_generator, some_slices, step_seed


def test_the_same_numbers_give_the_same_draws_and_others_others() -> None:
    assert case_generator(1, 2, 3).random() == case_generator(1, 2, 3).random()
    drawn = [case_generator(*numbers).random() for numbers in ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1))]
    drawn += [epoch_generator(0, epoch).random() for epoch in range(3)]
    assert len(set(drawn)) == len(drawn)
    seeds = {step_seed(0, phase, epoch, batch) for phase in range(2) for epoch in range(3) for batch in range(4)}
    assert len(seeds) == 24


def test_slices_are_drawn_in_their_order_without_repeats() -> None:
    generator = np.random.default_rng(0)
    for _ in range(20):
        chosen = some_slices(9, 4, generator)
        assert len(chosen) == 4 and (np.diff(chosen) > 0).all() and chosen.max() < 9
    assert some_slices(3, 4, generator).tolist() == [0, 1, 2]
    assert some_slices(3, None, generator).tolist() == [0, 1, 2]


def test_each_slice_is_drawn_as_often_as_the_others() -> None:
    counts = np.zeros(6)
    for case in range(3000):
        counts[some_slices(6, 2, case_generator(0, 0, case))] += 1
    assert np.abs(counts - 1000).max() < 5 * np.sqrt(1000 * 2 / 3)
