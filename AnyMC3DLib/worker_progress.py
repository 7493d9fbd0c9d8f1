"""What the worker's jobs tell: progress, neither too often nor too seldom, and the epochs of a training, each one."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Protocol

from .control import Control
from .messages import EpochNote, ProgressNote
from .progress import Progress
from .protocol import Id

SOONEST_S = 0.1
LATEST_S = 0.4
TICK_S = 0.05


class JobNotes(Protocol):
    """What a job tells: called, its progress; a training also its epochs."""

    def __call__(self, progress: Progress) -> None:
        """The job says how far it is."""

    def epoch(self, *, phase: str, epoch: int, epochs: int, loss: float, score: float | None, fold: int | None) -> None:
        """A training says what an epoch gave: see `EpochNote`."""


class CheckedNotes:
    """The notes of a job, which at each of its progress waits while paused, and ends once it is cancelled."""

    def __init__(self, notes: JobNotes, control: Control) -> None:
        self._notes, self._control = notes, control

    def __call__(self, progress: Progress) -> None:
        """As `JobNotes`; raises Cancelled once the job is cancelled."""
        self._control.check()
        self._notes(progress)

    def epoch(self, *, phase: str, epoch: int, epochs: int, loss: float, score: float | None, fold: int | None) -> None:
        """As `JobNotes`."""
        self._notes.epoch(phase=phase, epoch=epoch, epochs=epochs, loss=loss, score=score, fold=fold)


class ProgressSender:
    """Sends the progress of the job that runs: at once when it starts, then at most every tenth of a second, and the
    last that is known again after four tenths of silence. Epochs are sent at once, every one. `finish` returns after
    the last note was sent. It is the JobNotes of the job that runs.
    """

    def __init__(
        self, send: Callable[[ProgressNote | EpochNote], None], *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._send, self._clock = send, clock
        self._lock = threading.Lock()
        self._busy = threading.Event()
        self._id: Id | None = None
        self._progress = Progress("", 0, 0)
        self._started = self._sent = 0.0

    def start(self, id: Id, step: str) -> None:  # noqa: A002
        """A job begins."""
        with self._lock:
            self._id, self._progress = id, Progress(step, 0, 0)
            self._started = self._clock()
            self._note()
        self._busy.set()

    def report(self, progress: Progress) -> None:
        """The job says how far it is."""
        with self._lock:
            self._progress = progress
            self._note_after(SOONEST_S)

    __call__ = report

    def epoch(self, *, phase: str, epoch: int, epochs: int, loss: float, score: float | None, fold: int | None) -> None:
        """As `JobNotes`."""
        with self._lock:
            if self._id is not None:
                facts = {"phase": phase, "epoch": epoch, "epochs": epochs, "loss": loss, "score": score, "fold": fold}
                self._send(EpochNote(id=self._id, **facts))

    def tick(self) -> None:
        """Repeat the last progress if nothing was sent for long."""
        with self._lock:
            self._note_after(LATEST_S)

    def finish(self) -> None:
        """The job ends: nothing more is sent about it."""
        self._busy.clear()
        with self._lock:
            self._id = None

    def run(self) -> None:
        """Tick for ever; the body of a daemon thread."""
        while self._busy.wait():
            time.sleep(TICK_S)
            self.tick()

    def _note_after(self, seconds: float) -> None:
        if self._id is not None and self._clock() - self._sent >= seconds:
            self._note()

    def _note(self) -> None:
        self._sent = self._clock()
        step, done, total = self._progress.step, self._progress.done, self._progress.total
        elapsed = round(self._sent - self._started, 3)
        self._send(ProgressNote(id=self._id, step=step, done=done, total=total, elapsed_s=elapsed))
