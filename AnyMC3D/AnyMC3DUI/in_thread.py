"""A step of a sequence that runs in a thread of its own."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import qt

LOOK_MS = 15
# PythonQt may keep Python's lock while the event loop rests; for so long at each look a thread can have it.
LEND_S = 0.003


class InThread:
    """The step of a function that takes long and touches neither the scene nor Qt.

    A function cannot be broken off: of one that was cancelled, what it did is undone as soon as it has ended. The
    application's end waits for it, unless it `may_be_left`, as one that only reads.
    """

    def __init__(
        self, function: Callable[[], Any], *, undo: Callable[[], None] | None = None, may_be_left: bool = False
    ) -> None:
        self._function, self._undo, self._may_be_left = function, undo, may_be_left
        self._ended = threading.Event()
        self._over = False
        self._value: Any = None
        self._error: Exception | None = None
        self._done: Callable[[Any], None] | None = None
        self._failed: Callable[[Exception], None] | None = None

    def begin(self, done: Callable[[Any], None], failed: Callable[[Exception], None]) -> None:
        """As `Step.begin`."""
        self._done, self._failed = done, failed
        threading.Thread(target=self._run, name="AnyMC3D", daemon=self._may_be_left).start()
        self._later()

    def cancel(self) -> None:
        """As `Step.cancel`."""
        self._over = True
        if self._ended.is_set():
            self._take_back()

    def _run(self) -> None:
        try:
            self._value = self._function()
        except Exception as error:
            self._error = error
        finally:
            self._ended.set()
            if self._over:
                self._take_back()

    def _take_back(self) -> None:
        if self._undo is not None:
            self._undo()

    def _later(self) -> None:
        qt.QTimer.singleShot(LOOK_MS, self._look)

    def _look(self) -> None:
        if self._over:
            return
        if not self._ended.wait(LEND_S):
            self._later()
        elif self._error is not None:
            self._failed(self._error)
        else:
            self._done(self._value)
