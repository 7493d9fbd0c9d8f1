"""Images and series with faults: each generated case ends with its twin's answer, or with a sentence for a person."""

from __future__ import annotations

import pytest
import SimpleITK as sitk
from faults import damage, images, series, series_values
from faults.fault import Fault, Outcome, tally

sitk.ProcessObject.SetGlobalWarningDisplay(False)
FAULTS = {fault.name: fault for room in (images, damage, series, series_values) for fault in room.FAULTS}


def test_no_two_classes_of_fault_have_one_name() -> None:
    assert len(FAULTS) == sum(len(room.FAULTS) for room in (images, damage, series, series_values))


@pytest.mark.parametrize("name", FAULTS)
def test_every_case_gives_its_twins_answer_or_a_sentence(name: str) -> None:
    fault = FAULTS[name]
    found = tally(fault, count=fault.quick, number=20)
    assert found.wrong == 0, "\n".join(found.reasons)
    assert found.tried >= min(fault.quick, 3)


# What is drawn


def drawn(name: str, count: int = 60) -> list:
    """Cases of a class, none of them judged."""
    cases = []

    def collect(case: object, _folder: object) -> Outcome:
        cases.append(case)
        return Outcome.WORKED

    fault = FAULTS[name]
    tally(Fault(group=fault.group, name=name, cases=fault.cases, judge=collect), count=count, number=1)
    return cases


def test_orders_flips_and_headers_of_all_kinds_are_drawn() -> None:
    cases = drawn("48 axis orders and flips, straight, oblique and 45-degree headers, in every format", 400)
    assert len({case.body.order for case in cases}) == 6
    assert len({case.body.flips for case in cases}) == 8
    assert len({(case.body.order, case.body.flips) for case in cases}) > 40
    assert {case.ending for case in cases} == set(images.ENDINGS)
    assert any(45 in case.body.turn for case in cases) and any(case.body.turn == (0, 0, 0) for case in cases)


def test_extreme_spacings_and_many_slices_are_drawn() -> None:
    spacings = [mm for case in drawn("unequal and extreme spacings, 0.0001 to 50 mm") for mm in case.body.spacing]
    assert min(spacings) < 1e-3 and max(spacings) > 20
    counts = [case.body.grid[0] for case in drawn("one to 2,000 slices")]
    assert min(counts) == 1 and max(counts) > 1000


def test_types_of_voxels_are_drawn_in_both_byte_orders() -> None:
    name = "8 to 64 bits, whole and real numbers, either byte order, raw or compressed"
    cases = drawn(name, 250)
    assert len({case.dtype for case in cases}) >= 8
    assert {(case.order, case.packed) for case in cases} == {(o, p) for o in "<>" for p in (True, False)}


@pytest.mark.parametrize("name", [name for name, fault in FAULTS.items() if hasattr(fault.cases, "example")])
def test_a_class_draws_cases_that_differ(name: str) -> None:
    cases = drawn(name, 30)
    assert len(set(map(repr, cases))) >= 15
    kinds = {getattr(case, "kind", "") for case in cases}
    assert len(kinds) > 1 or kinds <= {"", "gap", "cut", "several"}


@pytest.mark.parametrize(
    ("name", "worked", "refused"),
    [
        ("gantry tilt: sheared directions in a NIfTI of another program", False, True),
        ("written and read again by the library, with and without gantry tilt", True, True),
        ("NIfTI that tells its place as qform, as sform, or as both, alike or not", True, True),
        ("slope and intercept that differ from slice to slice, or are missing in one", True, True),
        ("inverted greys (MONOCHROME1), with and without units", True, True),
    ],
)
def test_a_class_ends_as_it_must(name: str, worked: bool, refused: bool) -> None:
    found = tally(FAULTS[name], count=25, number=7)
    assert (found.worked > 0, found.refused > 0, found.wrong) == (worked, refused, 0), found.reasons
