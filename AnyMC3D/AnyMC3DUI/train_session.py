"""What the Train tab asks of a worker of its own: an estimate, a training, its pause and its end. No MRML here."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Any, Protocol

from AnyMC3DLib.errors import AnyMC3DError, InputError
from AnyMC3DLib.messages import EpochNote, Estimate, ProgressNote, Stop, Suspend, Train
from AnyMC3DLib.transport import WorkerDied

from .worker_client import Call, WorkerClient


class Work(enum.Enum):
    """What the session is at."""

    IDLE = "idle"
    ESTIMATING = "estimating"
    TRAINING = "training"
    PAUSING = "pausing"
    STOPPING = "stopping"


ASKS = {Work.PAUSING: ("suspend", Suspend), Work.STOPPING: ("stop", Stop)}


class Listener(Protocol):
    """Who is told what becomes of the work: after `changed` to idle comes one of the last five, once."""

    def changed(self, work: Work) -> None:
        """The session is at something else now."""

    def progressed(self, note: ProgressNote) -> None:
        """The work goes on."""

    def epoch_ended(self, note: EpochNote) -> None:
        """An epoch gave this; a training that goes on tells its past ones first."""

    def estimated(self, estimate: Mapping[str, Any]) -> None:
        """What the training will take."""

    def not_estimated(self, sentence: str) -> None:
        """The estimate did not work, and this says why."""

    def finished(self, answer: Mapping[str, Any]) -> None:
        """The training has ended, and its plugin is there."""

    def paused(self, answer: Mapping[str, Any], asked: Work) -> None:
        """The training can go on another time; `asked` is what the session was at: nobody may have asked for it."""

    def failed(self, sentence: str, *, died: bool) -> None:
        """The training did not work, and this says why; `died` is whether the worker did."""


class TrainSession:
    """One training, or estimate, at a time on one worker. Calls return at once; the listener is told the rest.

    The worker ends with the training, and gives the memory back that it has taken.
    """

    def __init__(self, client: WorkerClient, listener: Listener) -> None:
        self._client, self._listener = client, listener
        self._work = Work.IDLE
        self._call: Call | None = None
        # Counts what was begun, so that what was let go tells nothing any more.
        self._number = 0
        self._runs = self._asked = False

    @property
    def work(self) -> Work:
        """What the session is at."""
        return self._work

    @property
    def training(self) -> bool:
        """Whether a training goes on."""
        return self._work in (Work.TRAINING, Work.PAUSING, Work.STOPPING)

    def estimate(self, params: Estimate) -> None:
        """Measure what a training would take; raises InputError while one goes on."""
        self._begin(Work.ESTIMATING, "estimate", params)

    def cancel_estimate(self) -> None:
        """Let the estimate go, if there is one; the listener is told no more of it."""
        if self._work is not Work.ESTIMATING:
            return
        call = self._end()
        if call is not None:
            self._client.cancel(call)

    def train(self, order: Train) -> None:
        """Train, or go on with a run; raises InputError while another training goes on."""
        self.cancel_estimate()
        self._begin(Work.TRAINING, "train", order)

    def pause(self) -> None:
        """Have the training save where it stands and end."""
        self._wish(Work.PAUSING)

    def stop(self) -> None:
        """Have the training end with the best it has reached."""
        self._wish(Work.STOPPING)

    def close(self, *, wait_ms: int = 0) -> None:
        """End the worker, which saves a training first, and tell the listener nothing more of it."""
        self._end()
        self._client.close(wait_ms=wait_ms)

    def _begin(self, work: Work, method: str, params: Estimate | Train) -> None:
        if self._work is not Work.IDLE:
            what = "An estimate is being made" if self._work is Work.ESTIMATING else "A training goes on"
            raise InputError(f"{what}: wait for its end.")
        self._number += 1
        self._runs = self._asked = False
        number = self._number
        self._set(work)
        self._call = self._client.request(
            method,
            params,
            done=lambda answer: self._done(number, answer),
            failed=lambda error: self._failed(number, error),
            progress=lambda note: self._progressed(number, note),
            epoch=lambda note: self._epoch_ended(number, note),
        )

    def _wish(self, work: Work) -> None:
        if self._work is Work.TRAINING:
            self._set(work)
            self._ask()

    def _ask(self) -> None:
        """Ask for the wish once the job runs: before, the worker would answer that nothing trains."""
        if self._runs and not self._asked and self._work in ASKS:
            self._asked = True
            method, kind = ASKS[self._work]
            # That it ended meanwhile is no failure.
            self._client.request(method, kind(), done=_nothing, failed=_nothing)

    def _progressed(self, number: int, note: ProgressNote) -> None:
        if number == self._number:
            self._runs = True
            self._ask()
            self._listener.progressed(note)

    def _epoch_ended(self, number: int, note: EpochNote) -> None:
        if number == self._number:
            self._listener.epoch_ended(note)

    def _done(self, number: int, answer: Mapping[str, Any]) -> None:
        if number != self._number:
            return
        work = self._work
        self._end()
        if work is Work.ESTIMATING:
            self._listener.estimated(answer)
            return
        self._client.close()
        if answer.get("suspended"):
            self._listener.paused(answer, work)
        else:
            self._listener.finished(answer)

    def _failed(self, number: int, error: AnyMC3DError) -> None:
        if number != self._number:
            return
        estimating = self._work is Work.ESTIMATING
        self._end()
        if estimating:
            self._listener.not_estimated(str(error))
        else:
            self._client.close()
            self._listener.failed(str(error), died=isinstance(error, WorkerDied))

    def _end(self) -> Call | None:
        """Let go of what is under way, which tells nothing any more."""
        self._number += 1
        call, self._call = self._call, None
        if self._work is not Work.IDLE:
            self._set(Work.IDLE)
        return call

    def _set(self, work: Work) -> None:
        self._work = work
        self._listener.changed(work)


def _nothing(_: Any) -> None:
    return
