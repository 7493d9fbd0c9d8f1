"""A share of the training cases by patient, so that a smaller share of the same seed lies within a larger one."""

from __future__ import annotations

import hashlib
import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from ..errors import InputError

if TYPE_CHECKING:
    from ..training.cases import Case
    from ..training.splits import Target

NO_CLASS = -1  # of a patient without any positive label
Labels = Mapping[str, set[int]]


def training_share(cases: Sequence[Case], share: float, *, seed: int, classes: Sequence[str] = ()) -> list[Case]:
    """The cases of a share (above 0, up to 1) of the patients, in their order; see `share_of`."""
    kept = share_of(
        [case.id for case in cases],
        [case.patient for case in cases],
        [case.target for case in cases],
        share=share,
        seed=seed,
        classes=classes,
    )
    return [cases[number] for number in kept]


def share_of(
    ids: Sequence[str],
    patients: Sequence[str],
    targets: Sequence[Target],
    *,
    share: float,
    seed: int,
    classes: Sequence[str] = (),
) -> list[int]:
    """The numbers of the cases, from 0 and in their order, that belong to a share of the patients.

    A patient "" is the case itself. `targets` are class numbers, or arrays [K] of 0, 1 and -1 for a missing label; a
    patient counts for the rarest of its classes, those without a positive label for one more. Of the n patients that
    count for a class, share * n are taken, rounded to the nearest and a half upwards. Who is taken depends on the
    seed, the patients and their classes, not on the order of the cases; a smaller share takes some of the same
    patients and nobody else. `classes` are names for messages. Raises InputError for a share that is not above 0 and
    up to 1, and where a class that the cases have would be left without a patient, or no case at all.
    """
    if not 0 < share <= 1:
        raise InputError(f"A share of the training data must lie above 0 and up to 1, but is {share:g}.")
    people = [patient or case for case, patient in zip(ids, patients, strict=True)]
    labels: defaultdict[str, set[int]] = defaultdict(set)
    for person, target in zip(people, targets, strict=True):
        labels[person] |= _labels(target)
    enters = _entrances(labels, seed)
    _check_every_class(labels, enters, share, classes)
    kept = [number for number, person in enumerate(people) if enters[person] <= share]
    if not kept:
        raise InputError(
            f"A share of {share:g} of {len(people)} training cases leaves none: take a larger one, or add cases."
        )
    return kept


def _labels(target: Target) -> set[int]:
    if np.ndim(target) == 0:
        return {int(target)}
    return {int(number) for number in np.flatnonzero(np.asarray(target) == 1)}


def _entrances(labels: Labels, seed: int) -> dict[str, float]:
    """The smallest share that takes each patient: of n that count for a class, the i-th enters at (i - 1/2) / n."""
    found = Counter(label for own in labels.values() for label in own)
    strata: defaultdict[int, list[str]] = defaultdict(list)
    for person, own in labels.items():
        strata[min(own, key=lambda label: (found[label], label), default=NO_CLASS)].append(person)
    enters: dict[str, float] = {}
    for members in strata.values():
        members.sort(key=lambda person: _drawn(person, seed))
        enters |= {person: (number + 0.5) / len(members) for number, person in enumerate(members)}
    return enters


def _drawn(person: str, seed: int) -> bytes:
    # A digest is the same on every machine and with every version of NumPy, whose generators may change.
    return hashlib.sha256(f"{seed} {person}".encode()).digest()


def _check_every_class(labels: Labels, enters: Mapping[str, float], share: float, classes: Sequence[str]) -> None:
    first: dict[int, float] = {}
    for person, own in labels.items():
        for label in own:
            first[label] = min(first.get(label, math.inf), enters[person])
    if not first:
        return
    label, least = max(first.items(), key=lambda item: (item[1], -item[0]))
    if least > share:
        name = f"'{classes[label]}'" if label < len(classes) else f"number {label}"
        raise InputError(
            f"A share of {share:g} leaves the class {name} without a patient: take a share of at least "
            f"{_rounded_up(least):g}, or add cases of it."
        )


def _rounded_up(share: float) -> float:
    """With three digits that count, never below."""
    factor = 10 ** (2 - math.floor(math.log10(share)))
    return math.ceil(share * factor) / factor
