"""Splits and folds: by patient, with the shares of the classes, the same for the same seed."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np
import pytest
from sklearn.model_selection import StratifiedKFold

from AnyMC3DLib.errors import InputError
from AnyMC3DLib.training.splits import SHARES, Target, folds, split_cases

Cases = tuple[list[str], list[str], list[Target]]


def cohort(counts: Sequence[int], *, cases: int = 2, seed: int = 0) -> Cases:
    """`counts` patients of each class, with 1 to `cases` cases each, in a random order: ids, patients, targets."""
    rng = np.random.default_rng(seed)
    rows = [
        (f"p{label}-{number}-{case}", f"p{label}-{number}", label)
        for label, count in enumerate(counts)
        for number in range(count)
        for case in range(rng.integers(1, cases + 1))
    ]
    return shuffled(([row[0] for row in rows], [row[1] for row in rows], [row[2] for row in rows]), seed)


def labelled(count: int, *, classes: int = 5, seed: int = 0) -> Cases:
    """Patients with several labels at once, from common to rare, some of them missing, and some with none."""
    rng = np.random.default_rng(seed)
    targets = (rng.random((count, classes)) < 0.5 ** np.arange(1, classes + 1)).astype(np.int64)
    targets[rng.random(targets.shape) < 0.1] = -1
    return [f"c{n}" for n in range(count)], [f"p{n // 2}" for n in range(count)], list(targets)


def shuffled(cases: Cases, seed: int) -> Cases:
    order = np.random.default_rng(seed).permutation(len(cases[0]))
    ids, patients, targets = cases
    return [ids[n] for n in order], [patients[n] for n in order], [targets[n] for n in order]


def classes_by_part(parts: Sequence[str | int], targets: Sequence[Target]) -> dict[str | int, set[int]]:
    found: defaultdict[str | int, set[int]] = defaultdict(set)
    for part, target in zip(parts, targets, strict=True):
        found[part] |= {int(target)} if np.ndim(target) == 0 else {int(n) for n in np.flatnonzero(target == 1)}
    return dict(found)


# What holds for every cohort


@pytest.mark.parametrize("cases", [cohort((80, 40), cases=5), labelled(300)], ids=["classes", "labels"])
def test_no_patient_is_in_two_parts(cases: Cases) -> None:
    for parts in (split_cases(*cases, seed=3), folds(*cases, k=4, seed=3)):
        found = defaultdict(set)
        for patient, part in zip(cases[1], parts, strict=True):
            found[patient].add(part)
        assert {len(own) for own in found.values()} == {1}


@pytest.mark.parametrize("cases", [cohort((80, 40), cases=5), labelled(300)], ids=["classes", "labels"])
def test_the_order_of_the_rows_is_irrelevant(cases: Cases) -> None:
    other = shuffled(cases, seed=9)
    assert other[0] != cases[0]
    first = dict(zip(cases[0], split_cases(*cases, seed=3), strict=True))
    assert dict(zip(other[0], split_cases(*other, seed=3), strict=True)) == first
    by_fold = dict(zip(cases[0], folds(*cases, k=3, seed=3), strict=True))
    assert dict(zip(other[0], folds(*other, k=3, seed=3), strict=True)) == by_fold


def test_one_seed_gives_one_split_and_another_gives_another() -> None:
    cases = cohort((80, 40))
    assert split_cases(*cases, seed=1) == split_cases(*cases, seed=1) != split_cases(*cases, seed=2)
    assert folds(*cases, k=5, seed=1) == folds(*cases, k=5, seed=1) != folds(*cases, k=5, seed=2)


def test_a_case_without_a_patient_is_a_patient_of_its_own() -> None:
    ids = [f"c{n}" for n in range(40)]
    assert split_cases(ids, [""] * 40, [0, 1] * 20, seed=0) == split_cases(ids, ids, [0, 1] * 20, seed=0)


# Shares and classes


def test_the_splits_have_their_shares_of_the_patients_and_of_each_class() -> None:
    ids, patients, targets = cohort((700, 230, 70), cases=1)
    splits = split_cases(ids, patients, targets, seed=0)
    for label in (None, 0, 1, 2):
        found = Counter(s for s, target in zip(splits, targets, strict=True) if label in (None, target))
        for name, share in SHARES.items():
            assert abs(found[name] - share * found.total()) <= 2


def test_several_labels_keep_their_shares() -> None:
    cases = labelled(2000)
    splits = np.array(split_cases(*cases, seed=0))
    positive = np.array(cases[2]) == 1
    for name, share in SHARES.items():
        assert np.mean(splits == name) == pytest.approx(share, abs=0.02)
        # The rarest has about 60 cases; a patient has two.
        np.testing.assert_allclose(positive[splits == name].sum(axis=0) / positive.sum(axis=0), share, atol=0.05)


@pytest.mark.parametrize("seed", range(5))
def test_each_class_is_in_each_split_once_it_has_as_many_patients(seed: int) -> None:
    cases = cohort((60, 3, 4), seed=seed)
    assert classes_by_part(split_cases(*cases, seed=seed), cases[2]) == {name: {0, 1, 2} for name in SHARES}


@pytest.mark.parametrize("seed", range(5))
def test_each_rare_label_is_in_each_fold(seed: int) -> None:
    ids, patients, _ = labelled(60)
    targets: list[Target] = [np.array([1, n < 40, n % 10 == 0]).astype(np.int64) for n in range(60)]
    found = classes_by_part(folds(ids, patients, targets, k=3, seed=seed), targets)
    assert found == {number: {0, 1, 2} for number in range(3)}


def test_folds_hold_as_many_patients_of_each_class_as_those_of_scikit_learn() -> None:
    ids, patients, targets = cohort((61, 33, 7), cases=1)
    own = np.array(folds(ids, patients, targets, k=5, seed=0))
    theirs = np.empty(len(ids), dtype=int)
    for number, (_, held) in enumerate(StratifiedKFold(5, shuffle=True, random_state=0).split(ids, targets)):
        theirs[held] = number
    for label in range(3):
        of_class = np.array(targets) == label
        assert sorted(np.bincount(own[of_class], minlength=5)) == sorted(np.bincount(theirs[of_class], minlength=5))
    assert np.ptp(np.bincount(own)) <= 1


def test_other_shares_and_fewer_splits_can_be_asked_for() -> None:
    ids, patients, targets = cohort((50, 50), cases=1)
    splits = split_cases(ids, patients, targets, shares={"train": 0.8, "test": 0.2}, seed=0)
    assert Counter(splits) == {"train": 80, "test": 20}


# What is refused


def test_a_class_with_fewer_patients_than_splits_is_refused_though_it_has_cases_enough() -> None:
    ids, patients, targets = cohort((20, 2), cases=1)
    again = (ids + [f"{i}-again" for i in ids], patients * 2, targets * 2)
    with pytest.raises(InputError, match=r"^The class number 1 has 2 patients for 3 splits: "):
        split_cases(*again, seed=0)
    with pytest.raises(InputError, match=r"^The class 'cyst' has 2 patients for 5 folds: "):
        folds(*again, k=5, seed=0, classes=("none", "cyst"))


def test_a_label_that_no_case_has_is_refused() -> None:
    targets: list[Target] = [np.array([1, -1, 0])] * 9
    with pytest.raises(InputError, match="The class number 1 has 0 patients"):
        split_cases([str(n) for n in range(9)], [""] * 9, targets, seed=0)


@pytest.mark.parametrize(
    "shares", [{}, {"train": 1.2, "val": -0.2}, {"train": 0.5, "val": 0.4}, {"train": float("nan")}]
)
def test_shares_that_are_no_shares_are_refused(shares: dict[str, float]) -> None:
    with pytest.raises(InputError, match="must be positive and sum to 1"):
        split_cases(*cohort((9, 9)), shares=shares, seed=0)


def test_a_single_fold_is_refused() -> None:
    with pytest.raises(InputError, match="at least 2 folds, but 1 were"):
        folds(*cohort((9, 9)), k=1, seed=0)
