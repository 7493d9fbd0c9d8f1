"""Plugin files whose bytes, header, tensors or description are not what was written."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import strategies as st

from AnyMC3DLib.errors import AnyMC3DError
from AnyMC3DLib.plugin import METADATA_KEY, read_sizes, read_spec
from AnyMC3DLib.plugin_edit import claims_of

from .bench import (
    JUNK,
    answer_of,
    at,
    good_answer,
    good_plugin,
    joined,
    places_in,
    split,
    undigested,
    watched,
    with_value,
)
from .fault import Fault, Outcome, refused

GROUP = "plugin files"
NAME = "plugin.safetensors"
# Words about a plugin, which no probability may depend on.
WORDS = {"version", "description", "anatomy", "modality", "licence", "intended_use", "provenance", "name", "extra"}
Change = Callable[[bytes], bytes]


def ends(content: bytes, folder: Path, *, named: bool = True) -> Outcome:
    """How reading and using a changed plugin file ends: with the twin's answer, or in a sentence that names it."""
    twin = good_answer()
    with watched(folder) as inside:
        file = inside / NAME
        file.write_bytes(content)
        for read in (claims_of, read_spec, read_sizes):
            try:
                read(file)
            except AnyMC3DError as error:
                refused(error)
        try:
            answer = answer_of(file)
        except AnyMC3DError as error:
            return refused(error, private=(str(inside),))
    assert answer.probabilities == twin.probabilities, "another answer came of the changed file"
    assert answer.decisions == twin.decisions
    return Outcome.WORKED


def _flipped(places: list[tuple[float, int]]) -> Change:
    def change(content: bytes) -> bytes:
        changed = bytearray(content)
        for share, bit in places:
            changed[int(share * (len(changed) - 1))] ^= 1 << bit
        return bytes(changed)

    return change


PLACE = st.tuples(st.floats(0, 1), st.integers(0, 7))
# Half of the flips hit the header, which is a few hundredths of a real file.
FLIPS = st.lists(PLACE, min_size=1, max_size=4)


def _flip_anywhere(places: list[tuple[float, int]], folder: Path) -> Outcome:
    return ends(_flipped(places)(good_plugin()), folder)


def _flip_in_tensors(places: list[tuple[float, int]], folder: Path) -> Outcome:
    header, data = split(good_plugin())
    assert data
    return ends(joined(header, _flipped(places)(data)), folder)


def _flip_in_description(places: list[tuple[float, int]], folder: Path) -> Outcome:
    header, data = split(good_plugin())
    text = header["__metadata__"][METADATA_KEY]
    changed = _flipped([(share, bit % 7) for share, bit in places])(text.encode()).decode("latin-1")
    header["__metadata__"][METADATA_KEY] = changed
    return ends(joined(header, data), folder)


def _cut(case: tuple[float, bytes], folder: Path) -> Outcome:
    share, tail = case
    content = good_plugin()
    return ends(content[: int(share * len(content))] + tail, folder)


def _length_lies(length: int, folder: Path) -> Outcome:
    return ends(struct.pack("<Q", length) + good_plugin()[8:], folder)


LENGTHS = st.one_of(
    st.integers(0, 64), st.integers(0, (1 << 64) - 1), st.sampled_from([1 << 20, 1 << 24, 1 << 40, (1 << 63) - 1]),
    st.integers(-64, 64).map(lambda n: max(0, struct.unpack("<Q", good_plugin()[:8])[0] + n)),
)  # fmt: skip


def _description() -> dict[str, Any]:
    header, _ = split(good_plugin())
    return json.loads(header["__metadata__"][METADATA_KEY])


def _fields() -> st.SearchStrategy[tuple[tuple[str | int, ...], Any]]:
    return st.deferred(lambda: st.tuples(st.sampled_from(list(places_in(_description()))), JUNK))


def _junk_field(case: tuple[tuple[str | int, ...], Any], folder: Path) -> Outcome:
    """Where the value is accepted it is kept as it was given; words change no probability, and all stay in [0, 1]."""
    path, value = case
    (header, data), twin = split(good_plugin()), good_answer()
    with watched(folder) as inside:
        file = inside / NAME
        file.write_bytes(joined(undigested(header, with_value(_description(), path, value)), data))
        try:
            spec, answer = read_spec(file), answer_of(file)
        except AnyMC3DError as error:
            return refused(error)
    kept = at(json.loads(json.dumps(spec.to_dict())), path)
    assert _same(kept, value), f"{value!r} was read as {kept!r}"
    chances = answer.probabilities.values()
    assert all(math.isfinite(p) and 0 <= p <= 1 for p in chances) and abs(sum(chances) - 1) < 1e-9
    if path[0] in WORDS:
        assert list(chances) == list(twin.probabilities.values())
    return Outcome.WORKED


def _same(kept: Any, given: Any) -> bool:
    """Whether JSON values are equal; NaN is NaN, and an object may have got its other fields by default."""
    if isinstance(given, dict) and isinstance(kept, dict):
        return all(name in kept and _same(kept[name], value) for name, value in given.items())
    if isinstance(given, float) and math.isnan(given):
        return isinstance(kept, float) and math.isnan(kept)
    text = [json.dumps(value, sort_keys=True, default=str) for value in (kept, given)]
    return text[0] == text[1] or kept == given


def _words(case: tuple[str, str], folder: Path) -> Outcome:
    """Whatever a plugin says of itself in words, it answers alike."""
    field, text = case
    value = {"note": text, text: [text]} if field in ("provenance", "unknown") else text
    header, data = split(good_plugin())
    content = joined(undigested(header, {**_description(), field: value}), data)
    return ends(content, folder)


def _tensors_changed(case: tuple[str, int, Any], folder: Path) -> Outcome:
    """The header's entries of tensors say something else than what is stored."""
    kind, number, value = case
    header, data = split(good_plugin())
    header = undigested(header, _description())
    names = [name for name in header if name != "__metadata__"]
    name, other = names[number % len(names)], names[(number + 1) % len(names)]
    item = header[name]
    first, last = item["data_offsets"]
    changes: dict[str, Callable[[], Any]] = {
        "renamed": lambda: header.__setitem__(str(value), header.pop(name)),
        "removed": lambda: header.pop(name),
        "another's place": lambda: item.__setitem__("data_offsets", header[other]["data_offsets"]),
        "past the end": lambda: item.__setitem__("data_offsets", [first + len(data), last + len(data)]),
        "huge shape": lambda: item.__setitem__("shape", [1 << 40, 1 << 20]),
        "junk shape": lambda: item.__setitem__("shape", value),
        "junk offsets": lambda: item.__setitem__("data_offsets", value),
        "junk type": lambda: item.__setitem__("dtype", value),
        "junk entry": lambda: header.__setitem__(name, value),
        "overlap": lambda: item.__setitem__("data_offsets", [max(0, first - 4), max(0, last - 4)]),
        "one more": lambda: header.__setitem__("7.head.weight", {**item, "data_offsets": [first, last]}),
        "reshaped": lambda: item.__setitem__("shape", [*item["shape"][::-1], 1]),
    }
    changes[kind]()
    return ends(joined(header, data), folder)


TENSOR_CHANGES = ("renamed", "removed", "another's place", "past the end", "huge shape", "junk shape", "junk offsets",
                  "junk type", "junk entry", "overlap", "one more", "reshaped")  # fmt: skip


def _names_twice(number: int, folder: Path) -> Outcome:
    header, data = split(good_plugin())
    names = [name for name in header if name != "__metadata__"]
    chosen = [*names, "__metadata__"][number % (len(names) + 1)]
    text = json.dumps(undigested(header, _description()))
    twice = f"{text[:-1]}, {json.dumps(chosen)}: {json.dumps(header[names[0]])}}}"
    return ends(joined(twice.encode(), data), folder)


def _odd_values(case: tuple[float, float], folder: Path) -> Outcome:
    """One stored number is NaN or infinite."""
    share, value = case
    header, data = split(good_plugin())
    values = np.frombuffer(data, np.float32).copy()
    values[int(share * (len(values) - 1))] = value
    return ends(joined(undigested(header, _description()), values.tobytes()), folder)


def _noise(content: bytes, folder: Path) -> Outcome:
    return ends(content, folder)


FAULTS = [
    Fault(group=GROUP, name="bits flipped anywhere", cases=FLIPS, judge=_flip_anywhere, quick=6),
    Fault(group=GROUP, name="bits flipped in the weights alone", cases=FLIPS, judge=_flip_in_tensors, quick=6),
    Fault(group=GROUP, name="bits flipped in the description", cases=FLIPS, judge=_flip_in_description, quick=6),
    Fault(group=GROUP, name="cut off, or with more bytes behind", quick=6, judge=_cut,
          cases=st.tuples(st.floats(0, 1), st.binary(max_size=40)).filter(lambda c: c[0] < 1 or c[1])),
    Fault(group=GROUP, name="a length of the header that lies", cases=LENGTHS, judge=_length_lies, quick=6),
    Fault(group=GROUP, name="a field of the description holds any JSON", cases=_fields(), judge=_junk_field, quick=30,
          full=600),
    Fault(group=GROUP, name="a word of the description is any text", quick=6, judge=_words,
          cases=st.tuples(st.sampled_from(["name", "version", "description", "licence", "provenance", "unknown"]),
                          st.text(max_size=30))),
    Fault(group=GROUP, name="tensors renamed, reshaped, overlapping, past the end, of huge size", quick=24, full=300,
          judge=_tensors_changed,
          cases=st.tuples(st.sampled_from(TENSOR_CHANGES), st.integers(0, 99), JUNK)),
    Fault(group=GROUP, name="a name that comes twice", cases=st.integers(0, 40), judge=_names_twice, quick=3, full=40),
    Fault(group=GROUP, name="a weight that is no finite number", quick=4, full=100, judge=_odd_values,
          cases=st.tuples(st.floats(0, 1), st.sampled_from([math.nan, math.inf, -math.inf]))),
    Fault(group=GROUP, name="bytes of any kind", cases=st.binary(max_size=400), judge=_noise, quick=6),
]  # fmt: skip
