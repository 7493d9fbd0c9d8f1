"""This machine gives the answers that another one has written down, within stated tolerances."""

from __future__ import annotations

import hashlib
import json
import math

import numpy as np
import pytest
from fixed_answers import ANSWERS, LIBRARIES, TOLERANCES, compared, draws, fixed_answers, fixed_study, study_figures


@pytest.fixture(scope="module")
def here() -> dict[str, float]:
    return fixed_answers()


def kept() -> dict:
    return json.loads(ANSWERS.read_text(encoding="utf-8"))


def test_drawn_numbers_are_those_of_splitmix64() -> None:
    mask = (1 << 64) - 1
    state = int.from_bytes(hashlib.sha256(b"any").digest()[:8], "little")
    for found in draws("any", 5):
        state = (state + 0x9E3779B97F4A7C15) & mask
        z = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & mask
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
        z ^= z >> 31
        assert found == (z >> 40) / 2**23 - 1


def test_the_study_is_the_same_to_the_last_voxel() -> None:
    assert fixed_study().image("image").array.dtype == np.int16
    assert study_figures() == kept()["study"]


def test_probabilities_weights_maps_and_heat_are_those_of_another_machine(here: dict[str, float]) -> None:
    there = kept()
    assert set(there["versions"]) == {"anymc3d", *LIBRARIES}
    rows = compared(here, there["answers"])
    assert {row.name.partition(" ")[0] for row in rows} == set(TOLERANCES)
    assert [f"{row.name}: {row.here} for {row.there}" for row in rows if not row.agrees] == []


def test_the_fixed_answers_are_neither_even_nor_certain(here: dict[str, float]) -> None:
    for kind in ("registers", "EfficientNet"):
        said = [value for name, value in here.items() if name.startswith("probability") and kind in name]
        assert len(said) == 3 and sum(said) == pytest.approx(1)
        assert 0.02 < min(said) < max(said) < 0.95
        weights = [value for name, value in here.items() if "coronal slice" in name and kind in name]
        assert max(weights) - min(weights) > 0.05


@pytest.mark.parametrize("kind", TOLERANCES)
def test_a_figure_that_is_off_missing_or_no_number_does_not_agree(kind: str, here: dict[str, float]) -> None:
    name = next(name for name in here if name.startswith(kind))
    larger = abs(here[name]) + 1
    for other in (here[name] + 3 * TOLERANCES[kind] * larger, math.nan, math.inf):
        assert [row.name for row in compared({**here, name: other}, here) if not row.agrees] == [name]
    without = {key: value for key, value in here.items() if key != name}
    for rows in (compared(without, here), compared(here, without)):
        assert [row.name for row in rows if not row.agrees] == [name]
