"""What a training draws by chance, from seed, epoch and case alone.

Nothing has to be remembered for a run to be continued, and several processes draw alike without asking each other.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

# The kinds of draws, so that no two of them follow the same numbers.
_ORDER, _CASE, _STEP, _SCOPE = 0, 1, 2, 3


def epoch_generator(seed: int, epoch: int) -> np.random.Generator:
    """For the order of the cases in an epoch."""
    return np.random.default_rng([seed, _ORDER, epoch])


def case_generator(seed: int, epoch: int, case: int) -> np.random.Generator:
    """For the slices and the augmentation of a case in an epoch."""
    return np.random.default_rng([seed, _CASE, epoch, case])


def scope_generator(seed: int) -> np.random.Generator:
    """For the studies whose density a plugin keeps."""
    return np.random.default_rng([seed, _SCOPE])


def step_seed(seed: int, *step: int) -> int:
    """For what the network itself draws in a step, such as dropout; `step` are numbers that say which it is."""
    return int(np.random.default_rng([seed, _STEP, *step]).integers(1 << 62))


def some_slices(count: int, wanted: int | None, generator: np.random.Generator) -> npt.NDArray[np.int64]:
    """The numbers of `wanted` of `count` slices in their order; all where fewer are there or none are counted."""
    if wanted is None or count <= wanted:
        return np.arange(count)
    return np.sort(generator.choice(count, wanted, replace=False))
