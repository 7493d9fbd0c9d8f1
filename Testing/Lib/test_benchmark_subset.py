"""A share of the training cases: by patient, with the shares of the classes, a smaller one within a larger one."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np
import pytest

from AnyMC3DLib.benchmark.subset import share_of, training_share
from AnyMC3DLib.errors import InputError
from AnyMC3DLib.prediction import Study
from AnyMC3DLib.training.cases import Case
from AnyMC3DLib.training.splits import Target

Cases = tuple[list[str], list[str], Sequence[Target]]
SHARES = (0.05, 0.1, 0.2, 0.25, 0.33, 0.5, 0.75, 0.9, 1.0)


def cohort(counts: Sequence[int], *, cases: int = 3, seed: int = 0) -> Cases:
    """`counts` patients of each class with 1 to `cases` cases each, in a random order: ids, patients, targets."""
    rng = np.random.default_rng(seed)
    rows = [
        (f"p{label}-{number}-{case}", f"p{label}-{number}", label)
        for label, count in enumerate(counts)
        for number in range(count)
        for case in range(rng.integers(1, cases + 1))
    ]
    return shuffled(([row[0] for row in rows], [row[1] for row in rows], [row[2] for row in rows]), seed)


def mixed(count: int) -> Cases:
    """Patients whose cases are of different classes, from common to rare; every fourth case is a patient of its own."""
    rng = np.random.default_rng(1)
    targets = rng.choice(4, count, p=(0.5, 0.3, 0.12, 0.08))
    patients = [f"p{n}" if n % 4 else "" for n in rng.integers(0, count // 2, count)]
    return [f"c{n}" for n in range(count)], patients, targets.tolist()


def labelled(count: int) -> Cases:
    """Patients with several labels at once, from common to rare, some of them missing, and some with none."""
    rng = np.random.default_rng(2)
    targets = (rng.random((count, 4)) < (0.5, 0.3, 0.2, 0.15)).astype(np.int64)
    targets[rng.random(targets.shape) < 0.1] = -1
    return [f"c{n}" for n in range(count)], [f"p{n // 2}" for n in range(count)], list(targets)


def shuffled(cases: Cases, seed: int) -> Cases:
    order = np.random.default_rng(seed).permutation(len(cases[0]))
    ids, patients, targets = cases
    return [ids[n] for n in order], [patients[n] for n in order], [targets[n] for n in order]


def classes_of(target: Target) -> set[int]:
    return {int(target)} if np.ndim(target) == 0 else set(np.flatnonzero(np.asarray(target) == 1).tolist())


def people_of(cases: Cases) -> dict[str, set[int]]:
    """Each patient's classes."""
    found: defaultdict[str, set[int]] = defaultdict(set)
    for case, patient, target in zip(*cases, strict=True):
        found[patient or case] |= classes_of(target)
    return dict(found)


def kept_people(cases: Cases, share: float, seed: int = 0) -> set[str]:
    return {cases[1][n] or cases[0][n] for n in share_of(*cases, share=share, seed=seed)}


EVERY = pytest.mark.parametrize(
    "cases", [cohort((200, 60, 14)), mixed(400), labelled(400)], ids=["classes", "mixed", "labels"]
)


@EVERY
@pytest.mark.parametrize("seed", [0, 7])
def test_a_smaller_share_lies_within_every_larger_one_of_the_same_seed(cases: Cases, seed: int) -> None:
    before: set[int] = set()
    for share in np.linspace(0.06, 1, 40).tolist():
        now = set(share_of(*cases, share=share, seed=seed))
        assert before <= now
        before = now


@EVERY
@pytest.mark.parametrize("share", SHARES)
def test_all_cases_of_a_patient_are_taken_or_none_and_the_order_stays(cases: Cases, share: float) -> None:
    kept = share_of(*cases, share=share, seed=3)
    inside = kept_people(cases, share, 3)
    assert kept == [n for n in range(len(cases[0])) if (cases[1][n] or cases[0][n]) in inside]


@EVERY
@pytest.mark.parametrize("share", SHARES)
def test_each_class_keeps_its_share_of_the_patients_that_count_for_it_within_one(cases: Cases, share: float) -> None:
    people = people_of(cases)
    found = Counter(label for own in people.values() for label in own)
    counted = {person: min(own, key=lambda n: (found[n], n), default=-1) for person, own in people.items()}
    inside = kept_people(cases, share)
    kept = Counter(counted[person] for person in inside)
    for label, count in Counter(counted.values()).items():
        assert abs(kept[label] - share * count) < 1
    assert {label for person in inside for label in people[person]} == set(found)


@EVERY
def test_the_whole_share_is_all_cases_in_their_order(cases: Cases) -> None:
    assert share_of(*cases, share=1, seed=5) == list(range(len(cases[0])))


@EVERY
def test_the_order_of_the_cases_does_not_decide_who_is_taken(cases: Cases) -> None:
    assert kept_people(cases, 0.2) == kept_people(shuffled(cases, 9), 0.2)


@EVERY
def test_another_seed_takes_other_patients(cases: Cases) -> None:
    assert kept_people(cases, 0.2, 0) != kept_people(cases, 0.2, 1)


def test_every_patient_is_taken_about_as_often_over_many_seeds() -> None:
    cases = cohort((20, 10), cases=1)
    taken = Counter(person for seed in range(200) for person in kept_people(cases, 0.3, seed))
    # 60 are expected with a standard deviation of about 6.5.
    assert len(taken) == 30
    assert 30 < min(taken.values()) <= max(taken.values()) < 90


def test_the_choice_is_the_same_on_every_machine() -> None:
    cases = ([f"c{n}" for n in range(10)], [""] * 10, [0] * 10)
    assert share_of(*cases, share=0.4, seed=0) == [2, 3, 6, 7]


def test_a_half_is_rounded_up_and_decimals_are_exact() -> None:
    for count in (10, 20, 30, 50):
        cases = ([f"c{n}" for n in range(count)], [""] * count, [0] * count)
        for part in range(count):
            assert len(share_of(*cases, share=(part + 0.5) / count, seed=0)) == part + 1
    assert len(share_of([f"c{n}" for n in range(10)], [""] * 10, [0] * 10, share=0.15, seed=0)) == 2


def test_a_patient_of_two_classes_counts_for_the_rarer_one() -> None:
    ids = [f"a{n}" for n in range(20)] + [f"b{n}-{label}" for n in range(4) for label in (0, 1)]
    patients = [f"a{n}" for n in range(20)] + [f"b{n}" for n in range(4) for _ in (0, 1)]
    targets: Sequence[Target] = [0] * 20 + [0, 1] * 4
    for seed in range(10):
        inside = kept_people((ids, patients, targets), 0.5, seed)
        assert Counter(person[0] for person in inside) == {"a": 10, "b": 2}


def test_patients_without_a_positive_label_keep_their_share_too() -> None:
    targets: Sequence[Target] = [np.array([1, 0])] * 10 + [np.array([0, -1])] * 30
    kept = share_of([f"c{n}" for n in range(40)], [""] * 40, targets, share=0.2, seed=0)
    assert sum(n >= 10 for n in kept) == 6 and len(kept) == 8


@pytest.mark.parametrize("counts", [(100, 7), (100, 3), (9, 100), (100, 1)])
def test_a_class_left_without_a_patient_is_named_with_the_smallest_share_that_works(counts: tuple[int, int]) -> None:
    cases = cohort(counts)
    rare = "ab"[int(np.argmin(counts))]
    with pytest.raises(InputError, match=f"A share of 0.02 leaves the class '{rare}' without a patient") as raised:
        share_of(*cases, share=0.02, seed=0, classes="ab")
    found = re.search(r"at least ([\d.]+),", str(raised.value))
    assert found is not None
    least = float(found[1])
    assert share_of(*cases, share=least, seed=0)
    with pytest.raises(InputError):
        share_of(*cases, share=least * 0.98, seed=0)


def test_a_label_that_only_comes_with_a_rarer_one_must_be_there_too() -> None:
    # Label 0 has 12 patients, each of which counts for label 1 or 2.
    targets: Sequence[Target] = [np.array([1, 1, 0])] * 4 + [np.array([1, 0, 1])] * 8 + [np.array([0, 1, 1])] * 6
    cases = ([f"c{n}" for n in range(18)], [""] * 18, targets)
    for seed in range(20):
        for share in (0.1, 0.15, 0.2, 0.3):
            try:
                kept = share_of(*cases, share=share, seed=seed, classes=("big", "mid", "low"))
            except InputError as error:
                least = float(re.search(r"at least ([\d.]+),", str(error))[1])  # type: ignore[index]
                kept = share_of(*cases, share=least, seed=seed)
                assert least > share
            assert {label for n in kept for label in classes_of(targets[n])} == {0, 1, 2}


def test_a_class_without_a_name_is_told_by_its_number() -> None:
    with pytest.raises(InputError, match="the class number 1 without"):
        share_of(*cohort((100, 3)), share=0.02, seed=0)


@pytest.mark.parametrize("share", [0.0, -0.1, 1.01, float("nan")])
def test_a_share_that_is_none_is_refused(share: float) -> None:
    with pytest.raises(InputError, match="must lie above 0 and up to 1"):
        share_of(*cohort((5, 5)), share=share, seed=0)


def test_a_share_without_any_case_is_refused() -> None:
    with pytest.raises(InputError, match="leaves none"):
        share_of(["a", "b"], ["", ""], [np.array([0]), np.array([-1])], share=0.1, seed=0)


def test_cases_of_a_training_are_taken_as_their_names_patients_and_targets_are() -> None:
    def load() -> Study:
        raise AssertionError("No image is read to take a share.")

    arrays = mixed(60)
    cases = [Case(case, "train", target, load, patient=patient) for case, patient, target in zip(*arrays, strict=True)]
    kept = share_of(*arrays, share=0.4, seed=2)
    assert training_share(cases, 0.4, seed=2) == [cases[n] for n in kept]
    assert training_share(cases, 1, seed=2) == cases
