"""Splits and folds by patient that keep the shares of the classes, the same for the same seed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from ..errors import InputError

Target = int | npt.NDArray[np.int64]
SHARES: Mapping[str, float] = {"train": 0.7, "val": 0.15, "test": 0.15}


def split_cases(
    ids: Sequence[str],
    patients: Sequence[str],
    targets: Sequence[Target],
    *,
    shares: Mapping[str, float] = SHARES,
    seed: int,
    classes: Sequence[str] = (),
) -> list[str]:
    """The split of each case: the names of `shares`, which are of the patients and sum to 1.

    A patient "" is the case itself. `targets` are class numbers, or arrays [K] of 0, 1 and -1 for a missing label.
    The result depends on the cases and the seed, not on their order. `classes` are names for messages. Raises
    InputError for shares that are not positive or do not sum to 1, and where a class has fewer patients than there are
    splits.
    """
    if not all(share > 0 for share in shares.values()) or not abs(sum(shares.values()) - 1) < 1e-6:
        told = ", ".join(f"{name} {share:g}" for name, share in shares.items())
        raise InputError(f"The shares of the splits must be positive and sum to 1, but are {told or 'none'}.")
    names = list(shares)
    numbers = _stratified(ids, patients, targets, list(shares.values()), seed=seed, parts="splits", classes=classes)
    return [names[number] for number in numbers]


def folds(
    ids: Sequence[str],
    patients: Sequence[str],
    targets: Sequence[Target],
    *,
    k: int,
    seed: int,
    classes: Sequence[str] = (),
) -> list[int]:
    """The fold of each case, from 0 to k - 1, of as many patients each; the rest is as in `split_cases`.

    Raises InputError for k below 2, and where a class has fewer patients than there are folds.
    """
    if k < 2:
        raise InputError(f"There must be at least 2 folds, but {k} were asked for.")
    return _stratified(ids, patients, targets, [1 / k] * k, seed=seed, parts="folds", classes=classes)


def _stratified(
    ids: Sequence[str],
    patients: Sequence[str],
    targets: Sequence[Target],
    shares: Sequence[float],
    *,
    seed: int,
    parts: str,
    classes: Sequence[str],
) -> list[int]:
    people = [patient or case for case, patient in zip(ids, patients, strict=True)]
    labels: dict[str, set[int]] = {person: set() for person in sorted(people)}
    for person, target in zip(people, targets, strict=True):
        labels[person] |= _labels(target)
    _check_counts(labels, targets, len(shares), parts, classes)
    chosen = _assigned(labels, np.array(shares), np.random.default_rng(seed))
    return [chosen[person] for person in people]


def _labels(target: Target) -> set[int]:
    if np.ndim(target) == 0:
        return {int(target)}
    return {int(number) for number in np.flatnonzero(np.asarray(target) == 1)}


def _check_counts(
    labels: Mapping[str, set[int]], targets: Sequence[Target], count: int, parts: str, classes: Sequence[str]
) -> None:
    found = Counter(label for own in labels.values() for label in own)
    # A column of a multilabel task, or a class with a name, may have no case at all.
    least = max([len(classes), *(np.size(target) for target in targets if np.ndim(target))], default=0)
    for label in sorted({*found, *range(least)}):
        if found[label] < count:
            name = f"'{classes[label]}'" if label < len(classes) else f"number {label}"
            raise InputError(
                f"The class {name} has {found[label]} patients for {count} {parts}: add cases of it, or ask for fewer "
                f"{parts}."
            )


def _assigned(labels: Mapping[str, set[int]], shares: npt.NDArray, rng: np.random.Generator) -> dict[str, int]:
    """The part of each patient, by iterative stratification (Sechidis, Tsoumakas and Vlahavas 2011).

    Patients of the rarest label come first, each goes where that label is lacking most, an empty part before all.
    Here the order of labels is fixed by how many patients have them in all, and patients without any come last.
    """
    people = [list(labels)[number] for number in rng.permutation(len(labels))]
    found = Counter(label for own in labels.values() for label in own)
    chosen: dict[str, int] = {}
    lacking = shares * len(people)  # of patients, whatever their labels
    for label in [*sorted(found, key=lambda label: (found[label], label)), None]:
        members = [person for person in people if label is None or label in labels[person]]
        have = np.bincount([chosen[p] for p in members if p in chosen], minlength=len(shares))
        for person in members:
            if person in chosen:
                continue
            wanted = shares * len(members) - have
            # Rounded, so that ties are ties; of equal parts the first.
            part = max(range(len(shares)), key=lambda n: (have[n] == 0, round(wanted[n], 9), round(lacking[n], 9)))
            chosen[person] = part
            have[part] += 1
            lacking[part] -= 1
    return chosen
