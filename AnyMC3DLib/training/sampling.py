"""The order in which an epoch sees the training cases: each once, or every class as often as the others."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ..errors import InputError


def shuffled_order(count: int, *, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """Each of `count` cases once [count]; the same for the same state of `rng`."""
    return rng.permutation(count).astype(np.int64)


def balanced_order(
    targets: npt.NDArray[np.int64], *, rng: np.random.Generator, weights: npt.NDArray[np.floating] | None = None
) -> npt.NDArray[np.int64]:
    """As many numbers of cases as there are cases, drawn with replacement so that classes come equally often.

    Targets and case weights are as in `sampling_shares`. The same for the same state of `rng`.
    """
    shares = sampling_shares(targets, weights=weights)
    return rng.choice(len(shares), size=len(shares), p=shares).astype(np.int64)


def sampling_shares(
    targets: npt.NDArray[np.int64], *, weights: npt.NDArray[np.floating] | None = None
) -> npt.NDArray[np.float64]:
    """How often each case is drawn [N], as shares that sum to 1; case `weights` [N], above 0, multiply.

    Targets [N] are class numbers: a case counts by the inverse of its class's number of cases. Targets [N, K] are 0, 1
    and -1 (missing): a case counts by the inverse of the number of cases that share its rarest label value. Not by
    the combination of its labels, which with many labels is nearly always rare, so that nothing would be balanced;
    so, among cases with a label, each value of each label that occurs has a share of at least 1 / (2 K). A case of
    which no label is known counts as the average case. Raises InputError for weights that do not fit.
    """
    targets = np.asarray(targets)
    shares = _by_class(targets) if targets.ndim == 1 else _by_label(targets)
    if weights is not None:
        weights = np.asarray(weights, dtype=np.float64)
        if weights.shape != shares.shape:
            raise InputError(f"There are {len(shares)} cases, but {weights.size} case weights: give one a case.")
        if not np.all((weights > 0) & np.isfinite(weights)):
            raise InputError("A case's weight must be a positive number: correct the column 'weight'.")
        shares = shares * weights
    return shares / shares.sum()


def _by_class(targets: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    _, place, counts = np.unique(targets, return_inverse=True, return_counts=True)
    return 1.0 / counts[place]


def _by_label(targets: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    shares = np.zeros(len(targets))
    for value in (0, 1):
        has = targets == value
        rarity = np.divide(1.0, has.sum(axis=0), out=np.zeros(targets.shape[1]), where=has.any(axis=0))
        shares = np.maximum(shares, (has * rarity).max(axis=1, initial=0.0))
    known = shares > 0
    shares[~known] = shares[known].mean() if known.any() else 1.0
    return shares
