"""Records: what is read from JSON is checked field by field, and what is not known is kept."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any, Literal

import pytest

from AnyMC3DLib.errors import InputError
from AnyMC3DLib.records import Record


@dataclasses.dataclass(frozen=True, kw_only=True)
class Inner(Record):
    number: float = 1.0
    count: int | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outer(Record):
    name: str
    kind: Literal["a", "b"] = "a"
    flag: bool = False
    pair: tuple[int, float] = (1, 2.0)
    items: tuple[Inner, ...] = ()
    windows: tuple[str | tuple[float, float], ...] = ()
    free: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def test_a_record_comes_back_equal_through_json() -> None:
    record = Outer(
        name="x",
        kind="b",
        flag=True,
        pair=(3, 0.5),
        items=(Inner(number=2.5, count=4), Inner()),
        windows=("lung", (40.0, 80.0)),
        free={"a": [1, {"b": None}]},
    )
    assert Outer.from_dict(json.loads(json.dumps(record.to_dict()))) == record


def test_unknown_fields_are_kept_at_every_depth() -> None:
    data = {"name": "x", "future": {"a": [1]}, "items": [{"number": 3.0, "unit": "mm"}], "extra": 5}
    written = Outer.from_dict(data).to_dict()
    assert written["future"] == {"a": [1]}
    assert written["items"][0]["unit"] == "mm"
    assert written["extra"] == 5
    assert Outer.from_dict(written) == Outer.from_dict(data)


def test_a_change_of_one_field_keeps_the_unknown_ones() -> None:
    record = dataclasses.replace(Outer.from_dict({"name": "x", "future": 1}), name="y")
    assert record.to_dict()["future"] == 1


def test_whole_numbers_serve_as_floats_and_whole_floats_as_integers() -> None:
    record = Outer.from_dict({"name": "x", "pair": [3.0, 4]})
    assert record.pair == (3, 4.0)
    assert [type(value) for value in record.pair] == [int, float]


WRONG = {
    "not an object": (["x"], "Outer must be a JSON object"),
    "a missing field": ({}, "Outer lacks the field 'name'"),
    "a number for a text": ({"name": 5}, "Outer.name must be a text, but is 5"),
    "null for a text": ({"name": None}, "Outer.name must be a text, but is None"),
    "an unknown literal": ({"name": "x", "kind": "c"}, "Outer.kind must be one of a, b, but is 'c'"),
    "a list for a literal": ({"name": "x", "kind": ["a"]}, "Outer.kind must be one of a, b"),
    "a number for a bool": ({"name": "x", "flag": 1}, "Outer.flag must be true or false, but is 1"),
    "a text for a list": ({"name": "x", "pair": "12"}, "Outer.pair must be a list, but is '12'"),
    "a list too short": ({"name": "x", "pair": [1]}, "Outer.pair must have 2 values, but has 1"),
    "a fraction for an int": ({"name": "x", "pair": [1.5, 2]}, "Outer.pair[0] must be a whole number, but is 1.5"),
    "a bool for an int": ({"name": "x", "pair": [True, 2]}, "Outer.pair[0] must be a whole number, but is True"),
    "a bool for a float": ({"name": "x", "pair": [1, True]}, "Outer.pair[1] must be a number, but is True"),
    "a text for a float": ({"name": "x", "pair": [1, "2"]}, "Outer.pair[1] must be a number, but is '2'"),
    "deep in a list": ({"name": "x", "items": [{}, {"number": "2"}]}, "Outer.items[1].number must be a number"),
    "an optional number": ({"name": "x", "items": [{"count": "2"}]}, "Outer.items[0].count must be a whole number"),
    "no alternative fits": ({"name": "x", "windows": ["a", [1]]}, "Outer.windows[1] must have 2 values, but has 1"),
    "a list for an object": ({"name": "x", "free": []}, "Outer.free must be a JSON object, but is []"),
    "an integer past every float": ({"name": "x", "pair": [1, 10**400]}, "Outer.pair[1] must be a finite number"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_value_is_named_with_its_place_in_one_sentence(case: str) -> None:
    data, expected = WRONG[case]
    with pytest.raises(InputError) as caught:
        Outer.from_dict(data)
    message = str(caught.value)
    assert message.startswith(expected)
    assert message.endswith(".")
    assert "\n" not in message


@pytest.mark.parametrize("text", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_a_number_that_is_not_finite_is_refused(text: str) -> None:
    data = json.loads(f'{{"name": "x", "items": [{{"number": {text}}}]}}')
    with pytest.raises(InputError, match=r"^Outer\.items\[0\]\.number must be a finite number, but is"):
        Outer.from_dict(data)
    with pytest.raises(InputError, match=r"^Outer\.items\[0\]\.count must be a whole number"):
        Outer.from_dict(json.loads(f'{{"name": "x", "items": [{{"count": {text}}}]}}'))


def test_a_very_long_value_is_shortened_in_the_message() -> None:
    with pytest.raises(InputError) as caught:
        Outer.from_dict({"name": list(range(10_000))})
    assert len(str(caught.value)) < 150


def test_the_place_can_be_named_by_the_caller() -> None:
    with pytest.raises(InputError, match=r"^the card\.name must be a text"):
        Outer.from_dict({"name": 1}, where="the card")
