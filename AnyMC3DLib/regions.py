"""A region in words: 'box:R,A,S,R,A,S', or a segmentation 'FILE[:LABEL]'."""

from __future__ import annotations

from pathlib import Path

from .errors import InputError
from .files import is_there
from .preprocessing import Box, Region, Segment
from .volume import read_volume


def read_region(text: str, *, folder: Path | None = None) -> Region:
    """The region that `text` names; files are relative to `folder` where one is given.

    Raises InputError if it is neither a box of six numbers nor a segmentation that can be read.
    """
    if text.startswith("box:"):
        try:
            numbers = [float(part) for part in text.removeprefix("box:").split(",")]
        except ValueError:
            numbers = []
        if len(numbers) != 6:
            raise InputError(f"The region '{text}' must be 'box:' and six numbers: the low and high corner in RAS mm.")
        return Box(tuple(numbers[:3]), tuple(numbers[3:]))
    base = folder or Path()
    place, _, label = text.rpartition(":")
    if place and label.isdecimal() and not is_there(base / text):
        return Segment(read_volume(base / place), int(label))
    return Segment(read_volume(base / text))
