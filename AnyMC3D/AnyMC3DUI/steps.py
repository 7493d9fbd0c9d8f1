"""A sequence of steps that take time, written as a generator: no step stops the application, and each can be cancelled.

The generator yields a step, and gets its value, or its error raised, at the place of the `yield`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Generator
from typing import Any, Protocol

import qt

from AnyMC3DLib.errors import AnyMC3DError

from .turns import Cancel, Work

logger = logging.getLogger(__name__)

# Of every turn of the event loop; drawing at 60 frames a second leaves as much.
TURN_S = 0.012


class Step(Protocol):
    """Something that takes time."""

    def begin(self, done: Callable[[Any], None], failed: Callable[[Exception], None]) -> None:
        """Begin; later, or at once, either of the two is called, once."""

    def cancel(self) -> None:
        """Let it go: neither is called any more."""


Steps = Generator[Step, Any, Any]


class InTurns:
    """Runs a generator a few milliseconds at a time, between the events of the application."""

    def __init__(self, work: Work, *, progress: Callable[[float], None] | None = None) -> None:
        self._work, self._progress = work, progress
        self._over = False
        self._done: Callable[[Any], None] | None = None
        self._failed: Callable[[Exception], None] | None = None

    def begin(self, done: Callable[[Any], None], failed: Callable[[Exception], None]) -> None:
        """As `Step.begin`; done gets the generator's value."""
        self._done, self._failed = done, failed
        self._later()

    def cancel(self) -> None:
        """As `Step.cancel`: the generator is closed where it stands."""
        self._over = True
        # Work that lets itself go is closed when its piece is done.
        if not self._work.gi_running:
            self._work.close()

    def _later(self) -> None:
        # Not one repeating timer: it would be deleted within its own signal, which PythonQt does not survive.
        qt.QTimer.singleShot(0, self._turn)

    def _turn(self) -> None:
        if self._over:
            return
        ends, far = time.perf_counter() + TURN_S, None
        try:
            while far is None or time.perf_counter() < ends:
                far = next(self._work)
        except StopIteration as end:
            if self._progress is not None:
                self._progress(1.0)
            if not self._over:
                self._done(end.value)
        except Exception as error:
            self._failed(error)
        else:
            if self._over:
                self._work.close()
                return
            if self._progress is not None:
                self._progress(far)
            self._later()


def in_turns(work: Work) -> Cancel:
    """As `turns.Runner`: between the events of the application."""

    def failed(error: Exception) -> None:
        logger.error("What was done in turns failed.", exc_info=error)

    job = InTurns(work)
    job.begin(lambda _: None, failed)
    return job.cancel


class Sequence:
    """Drives the steps of a generator to their end, their failure, or until `cancel`."""

    def __init__(
        self, steps: Steps, *, done: Callable[[Any], None], failed: Callable[[AnyMC3DError], None], what: str
    ) -> None:
        self._steps, self._done, self._failed, self._what = steps, done, failed, what
        self._step: Step | None = None
        self._executing = False
        self.over = False

    def begin(self) -> None:
        """Begin the first step."""
        self._resume(self._steps.send, None)

    def cancel(self) -> None:
        """End now; nothing is told any more."""
        if self.over:
            return
        self.over = True
        # The generator itself may have told somebody who now cancels: it is closed at its next step.
        if not self._executing:
            self._let_go()

    def _let_go(self) -> None:
        step, self._step = self._step, None
        if step is not None:
            step.cancel()
        self._steps.close()

    def _resume(self, resume: Callable[[Any], Step], value: Any) -> None:
        if self.over:
            return
        self._executing, self._step = True, None
        try:
            self._step = resume(value)
        except StopIteration as end:
            self._end(self._done, end.value)
        except AnyMC3DError as error:
            self._end(self._failed, error)
        except Exception as error:
            logger.exception("%s failed.", self._what)
            sentence = f"{self._what} failed unexpectedly ({type(error).__name__}): the log says where."
            self._end(self._failed, AnyMC3DError(sentence))
        finally:
            self._executing = False
        if self._step is None:
            return
        if self.over:
            self._let_go()
            return
        self._step.begin(
            lambda result: self._resume(self._steps.send, result),
            lambda error: self._resume(self._steps.throw, error),
        )

    def _end(self, tell: Callable[[Any], None], value: Any) -> None:
        if not self.over:
            self.over = True
            tell(value)
