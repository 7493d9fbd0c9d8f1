"""Where each frame of an enhanced, multi-frame DICOM file lies: its functional groups, which ITK does not tell.

The encoding is that of PS3.5, section 7; the groups are those of PS3.3, C.7.6.16.
"""

from __future__ import annotations

import dataclasses
import struct
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

from .errors import InputError

IMPLICIT, BIG_ENDIAN, DEFLATED = "1.2.840.10008.1.2", "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.1.99"
LONG = {b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"}
UNDEFINED = 0xFFFFFFFF
ITEM, ITEM_END, SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
SYNTAX, PIXELS = 0x00020010, 0x7FE00010
SHARED, PER_FRAME = 0x52009229, 0x52009230
# The macros within a group, and what each of them tells.
POSITION, ORIENTATION, MEASURES, RESCALE = 0x00209113, 0x00209116, 0x00289110, 0x00289145
SEQUENCES = {SHARED, PER_FRAME, POSITION, ORIENTATION, MEASURES, RESCALE}
DEEPEST = 8

Items = list[dict[int, "bytes | Items"]]


@dataclasses.dataclass(frozen=True)
class Frames:
    """Of N frames in their order: `positions` [N, 3], `orientations` [N, 6], `spacings` [N, 2] as DICOM tells them.

    `rescales` [N, 2] are slope and intercept, 1 and 0 where a frame has none.
    """

    positions: npt.NDArray[np.float64]
    orientations: npt.NDArray[np.float64]
    spacings: npt.NDArray[np.float64]
    rescales: npt.NDArray[np.float64]


def frames_of(place: Path) -> Frames:
    """What the functional groups of a multi-frame file tell; raises InputError where they do not."""
    try:
        groups = _groups(place.read_bytes())
        shared = groups.get(SHARED) or [{}]
        rows = [_row({**shared[0], **own}) for own in groups[PER_FRAME]]
        return Frames(*(np.array(column, dtype=np.float64) for column in zip(*rows, strict=True)))
    except (KeyError, IndexError, ValueError, TypeError, struct.error) as error:
        raise InputError(
            f"The frames in '{place.name}' do not tell their positions: export them as a series of single slices."
        ) from error


def _row(group: Mapping[int, Items]) -> tuple[list[float], list[float], list[float], list[float]]:
    rescale = group[RESCALE][0] if group.get(RESCALE) else {}
    return (
        _numbers(group[POSITION][0][0x00200032], 3),
        _numbers(group[ORIENTATION][0][0x00200037], 6),
        _numbers(group[MEASURES][0][0x00280030], 2),
        [*_numbers(rescale.get(0x00281053, b"1"), 1), *_numbers(rescale.get(0x00281052, b"0"), 1)],
    )


def _numbers(content: bytes, count: int) -> list[float]:
    numbers = [float(part) for part in content.decode("ascii").strip(" \0").split("\\")]
    if len(numbers) != count:
        raise ValueError(f"{count} numbers are needed")
    return numbers


def _groups(content: bytes) -> dict[int, bytes | Items]:
    """The elements at the top of a file up to its pixels."""
    meta, start = _elements(content, 132, implicit=False, meta=True)
    syntax = bytes(meta.get(SYNTAX, b"")).decode("ascii", "replace").strip(" \0")
    if syntax in (BIG_ENDIAN, DEFLATED):
        raise ValueError("a syntax of which no scanner makes enhanced files")
    return _elements(content, start, implicit=syntax == IMPLICIT)[0]


def _elements(
    content: bytes, start: int, *, implicit: bool, meta: bool = False, end: int | None = None, depth: int = 0
) -> tuple[dict[int, bytes | Items], int]:
    """The elements from `start` to `end`, or to the delimiter of their item, and where they end."""
    found: dict[int, bytes | Items] = {}
    end = len(content) if end is None else end
    while start < end:
        tag, kind, length, value = _head(content, start, implicit=implicit)
        # An icon within a sequence has pixels of its own.
        if (tag == PIXELS and not depth) or (meta and tag >> 16 != 2):
            return found, start
        if tag == ITEM_END:
            return found, value
        if kind == b"SQ" or tag in SEQUENCES or length == UNDEFINED:
            items, start = _items(content, value, length, implicit=implicit, depth=depth + 1)
            found[tag] = items
        else:
            start = value + length
            found[tag] = content[value:start]
    return found, start


def _items(content: bytes, start: int, length: int, *, implicit: bool, depth: int) -> tuple[Items, int]:
    if depth > DEEPEST:
        raise ValueError("sequences within sequences without an end")
    items: Items = []
    end = len(content) if length == UNDEFINED else start + length
    while start < end:
        tag, _, size, start = _head(content, start, implicit=True)
        if tag == SEQUENCE_END:
            break
        if tag != ITEM:
            raise ValueError("no item where one must be")
        limit = None if size == UNDEFINED else start + size
        item, start = _elements(content, start, implicit=implicit, end=limit, depth=depth)
        items.append(item)
    return items, start


def _head(content: bytes, start: int, *, implicit: bool) -> tuple[int, bytes, int, int]:
    """Tag, value representation, length of the value, and where the value starts."""
    group, element = struct.unpack_from("<HH", content, start)
    tag = group << 16 | element
    if implicit or group == 0xFFFE:
        return tag, b"", struct.unpack_from("<I", content, start + 4)[0], start + 8
    kind = content[start + 4 : start + 6]
    if kind in LONG:
        return tag, kind, struct.unpack_from("<I", content, start + 8)[0], start + 12
    return tag, kind, struct.unpack_from("<H", content, start + 6)[0], start + 8
