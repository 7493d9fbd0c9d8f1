"""Work that can be done a piece at a time: a generator that yields how far it is, and who runs it."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import TypeVar

Value = TypeVar("Value")
Work = Generator[float, None, Value]  # yields shares in [0, 1] and has a value at its end
Cancel = Callable[[], None]
# Runs a piece of work, now or between the events of the application, and says how to let it go.
Runner = Callable[[Work], Cancel]


def at_once(work: Work) -> Cancel:
    """Run the work now, to its end; for scripts and wherever no event loop runs."""
    finish(work)
    return nothing


def nothing() -> None:
    """For those who want no call."""


def finish(work: Generator[float, None, Value]) -> Value:
    """Run the work now; returns its value."""
    while True:
        try:
            next(work)
        except StopIteration as end:
            return end.value
