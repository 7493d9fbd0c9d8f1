"""Ctrl+C and a polite kill, for work that keeps where it stands."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator

from ..control import Control


@contextlib.contextmanager
def asked_to_end(control: Control, *, keeps: bool) -> Iterator[None]:
    """Ctrl+C and a polite kill let the step end and the state be saved, where the run keeps one."""
    before = {}

    def asked(*_: object) -> None:
        # Who asks twice does not want to wait for the step's end.
        (control.suspend if keeps and not control.suspended else control.cancel)()

    for number in (signal.SIGINT, signal.SIGTERM):
        # Only a main thread may; elsewhere whoever runs the thread asks through the control.
        with contextlib.suppress(ValueError):
            before[number] = signal.signal(number, asked)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
