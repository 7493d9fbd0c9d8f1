"""The worker's requests: which wait, which runs, and that each has one answer."""

from __future__ import annotations

import dataclasses
import gc
import logging
import os
import threading
import traceback
from collections import deque
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from . import __version__
from .control import Control
from .errors import InputError
from .messages import JOBS, METHODS, PROTOCOL_VERSION, Cancel, EpochNote, Hello, Params, ProgressNote, Train
from .protocol import (
    CANCELLED,
    INPUT_AT_FAULT,
    INTERNAL_ERROR,
    INVALID_PARAMS,
    INVALID_REQUEST,
    NOT_ENOUGH_MEMORY,
    UNKNOWN_METHOD,
    WRONG_STATE,
    Decoder,
    Id,
    Message,
    ProtocolError,
    Request,
    error_line,
    notification_line,
    result_line,
)
from .worker_failures import CANCELLED_SENTENCE, chain_of, failure_of, trace_of, unexpected
from .worker_progress import ProgressSender
from .workspace import Workspace

if TYPE_CHECKING:
    from .worker_jobs import Jobs

logger = logging.getLogger(__name__)

READ_BYTES = 1 << 16
# A training that is cancelled takes away what it has half written.
TRAINING_END_S = 5.0
# For one that saves where it stands: a step of a large backbone on a CPU takes a while.
SAVING_S = 60.0
# What these did stays done, so that a cancel that comes too late must not deny it.
LASTING = frozenset({"load", "unload", "train"})


@dataclasses.dataclass(eq=False)
class Job:
    """A request that waits or runs; `files` are the arrays it names, `number` its place among all jobs."""

    id: Id
    method: str
    params: Params
    files: frozenset[str]
    number: int
    control: Control = dataclasses.field(default_factory=Control)
    ended: threading.Event = dataclasses.field(default_factory=threading.Event)


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What became of a job: a result, or the code and sentence of an error."""

    result: Mapping[str, Any] | None = None
    error: tuple[int, str] | None = None

    @property
    def files(self) -> list[str]:
        """The files that a result hands over."""
        return [self.result["array"]] if self.result and "array" in self.result else []


class Server:
    """Takes requests in one thread (`read`) and runs their jobs in another (`run`)."""

    def __init__(
        self,
        send: Callable[[bytes], None],
        workspace: Workspace,
        load_jobs: Callable[[Workspace], Jobs],
        *,
        leave: Callable[[int], None],
    ) -> None:
        self._send, self._workspace, self._load_jobs, self._leave = send, workspace, load_jobs, leave
        self.progress = ProgressSender(self._tell)
        self._jobs: Jobs | None = None
        # Guards all below; an answer is sent within it, so that no request gets two.
        self._changed = threading.Condition()
        self._greeted = False
        self._pending: dict[Id, Job] = {}
        self._queue: deque[Job] = deque()
        self._running: Job | None = None
        self._number = 0
        self._results: list[tuple[int, str]] = []

    def read(self, descriptor: int) -> None:
        """Take requests until the input ends."""
        decoder = Decoder()
        try:
            while data := os.read(descriptor, READ_BYTES):
                for message in decoder.feed(data):
                    self.take(message)
        except OSError:
            # A broken pipe is an end too.
            logger.info("The input broke.")
        finally:
            self._end_of_input()

    def take(self, message: Message | ProtocolError) -> None:
        """Answer a message, or put its job in the queue."""
        if isinstance(message, ProtocolError):
            self._refuse(message.id, message)
        elif not isinstance(message, Request):
            self._refuse(None, ProtocolError(INVALID_REQUEST, "The worker asks nothing, so it takes no answers."))
        elif message.id is None:
            logger.warning("A notification was left aside: the worker takes requests, which have an id.")
        else:
            try:
                self._handle(message, message.id)
            except ProtocolError as error:
                self._refuse(message.id, error, files=arrays_in(message.params))
            except Exception as error:
                logger.error("A request failed:\n%s", trace_of(error))
                self._refuse(message.id, ProtocolError(INTERNAL_ERROR, unexpected(error)))

    def _handle(self, request: Request, id: Id) -> None:  # noqa: A002
        with self._changed:
            if id in self._pending:
                raise ProtocolError(INVALID_REQUEST, f"The id {id!r} is that of a request without an answer yet.")
        if request.method not in METHODS:
            raise ProtocolError(UNKNOWN_METHOD, f"There is no method '{request.method[:60]}': check its spelling.")
        if not self._greeted and request.method != "hello":
            raise ProtocolError(WRONG_STATE, "The first request must be 'hello'.")
        try:
            params = METHODS[request.method].from_dict(request.params)
        except InputError as error:
            raise ProtocolError(INVALID_PARAMS, str(error)) from error
        if request.method in JOBS:
            self._add(id, request, params)
        else:
            getattr(self, "_" + request.method)(id, params)

    def _add(self, id: Id, request: Request, params: Params) -> None:  # noqa: A002
        with self._changed:
            self._number += 1
            job = Job(id, request.method, params, arrays_in(request.params), self._number)
            self._pending[id] = job
            self._queue.append(job)
            self._changed.notify_all()

    def _refuse(self, id: Id | None, error: ProtocolError, *, files: frozenset[str] = frozenset()) -> None:  # noqa: A002
        with self._changed:
            self._discard(files)
            # The client would take it for the answer to the other request of that id.
            self._send(error_line(None if id in self._pending else id, error.code, str(error)))

    def _hello(self, id: Id, params: Hello) -> None:  # noqa: A002
        if params.protocol != PROTOCOL_VERSION:
            raise ProtocolError(
                INPUT_AT_FAULT,
                f"The client speaks version {params.protocol} of the worker's protocol, but the worker speaks version "
                f"{PROTOCOL_VERSION}: update AnyMC3D.",
            )
        self._greeted = True
        folder = str(self._workspace.path)
        answer = {"version": __version__, "protocol": PROTOCOL_VERSION, "pid": os.getpid(), "folder": folder}
        self._send(result_line(id, answer))

    def _cancel(self, id: Id, params: Cancel) -> None:  # noqa: A002
        with self._changed:
            job = self._pending.get(params.request)
            if job is None:
                raise ProtocolError(WRONG_STATE, f"There is no request {params.request!r} that waits or runs.")
            job.control.cancel()
            if job in self._queue:
                self._queue.remove(job)
                self._answer(job, Outcome(error=(CANCELLED, CANCELLED_SENTENCE)))
            self._send(result_line(id, {"request": job.id}))

    def _pause(self, id: Id, _: Params) -> None:  # noqa: A002
        self._control(id, "pause", Control.pause)

    def _resume(self, id: Id, _: Params) -> None:  # noqa: A002
        self._control(id, "resume", Control.resume)

    def _stop(self, id: Id, _: Params) -> None:  # noqa: A002
        self._control(id, "stop", Control.stop)

    def _suspend(self, id: Id, _: Params) -> None:  # noqa: A002
        with self._changed:
            job = self._training()
            if job is not None and not _keeps(job):
                raise ProtocolError(WRONG_STATE, "The training has no run folder to save itself in: stop or cancel it.")
            self._control(id, "suspend", Control.suspend)

    def _control(self, id: Id, word: str, change: Callable[[Control], None]) -> None:  # noqa: A002
        with self._changed:
            job = self._training()
            if job is None:
                raise ProtocolError(WRONG_STATE, f"Nothing trains, so there is nothing to {word}.")
            change(job.control)
            self._send(result_line(id, {"request": job.id}))

    def _training(self) -> Job | None:
        return self._running if self._running is not None and isinstance(self._running.params, Train) else None

    def _shutdown(self, id: Id, _: Params) -> None:  # noqa: A002
        with self._changed:
            self._queue.clear()
            training = self._training()
            saves = training is not None and _keeps(training)
            for job in self._pending.values():
                (job.control.suspend if saves and job is training else job.control.cancel)()
        if training is not None:
            training.ended.wait(SAVING_S if saves else TRAINING_END_S)
        self.progress.finish()
        with self._changed:
            for job in list(self._pending.values()):
                self._answer(job, Outcome(error=(CANCELLED, CANCELLED_SENTENCE)))
            self._send(result_line(id, {}))
            self._leave(0)

    def _end_of_input(self) -> None:
        with self._changed:
            self._queue.clear()
            training = self._training()
            if training is not None:
                (training.control.suspend if _keeps(training) else training.control.stop)()
        if training is not None:
            training.ended.wait()
        self._leave(0)

    def run(self) -> None:
        """Run the jobs in order, for ever."""
        while True:
            with self._changed:
                while not self._queue:
                    self._changed.wait()
                job = self._running = self._queue.popleft()
            self._run(job)

    def _run(self, job: Job) -> None:
        self.progress.start(job.id, "Preparing")
        try:
            outcome = Outcome(self._work(job))
        except BaseException as error:  # a library may even try to end the process
            outcome = Outcome(error=self._failure(error))
        self.progress.finish()
        if outcome.error is not None and outcome.error[0] in (INTERNAL_ERROR, NOT_ENOUGH_MEMORY):
            self._release()
        with self._changed:
            if outcome.error is None and job.control.cancelled and job.method not in LASTING:
                self._workspace.discard(outcome.files)
                outcome = Outcome(error=(CANCELLED, CANCELLED_SENTENCE))
            self._running = None
            self._answer(job, outcome)
        job.ended.set()

    def _work(self, job: Job) -> Mapping[str, Any]:
        if self._jobs is None:
            self._jobs = self._load_jobs(self._workspace)
        return self._jobs.run(job.params, job.control, self.progress)

    def _tell(self, note: ProgressNote | EpochNote) -> None:
        method = "epoch" if isinstance(note, EpochNote) else "progress"
        self._send(notification_line(method, note.to_dict()))

    def _answer(self, job: Job, outcome: Outcome) -> None:
        """Send the answer of a job, once, after its files and those of older results are gone."""
        if self._pending.pop(job.id, None) is None:
            return
        self._discard(job.files)
        old = [path for number, path in self._results if number < job.number]
        self._workspace.discard(old)
        # A request that came before this answer cannot mean that this result was taken.
        self._results = [(n, path) for n, path in self._results if n >= job.number]
        self._results += [(self._number, path) for path in outcome.files]
        if outcome.error is None:
            self._send(result_line(job.id, outcome.result))
        else:
            self._send(error_line(job.id, *outcome.error))

    def _discard(self, files: frozenset[str]) -> None:
        used = {path for job in self._pending.values() for path in job.files}
        self._workspace.discard(files - used)

    def _failure(self, error: BaseException) -> tuple[int, str]:
        code, message = failure_of(error)
        if code == INTERNAL_ERROR:
            logger.error("A job failed:\n%s", trace_of(error))
        # The frames of the job hold the study and the tensors that were being computed.
        for one in chain_of(error):
            traceback.clear_frames(one.__traceback__)
            one.__traceback__ = None
        return code, message

    def _release(self) -> None:
        gc.collect()
        if self._jobs is not None:
            self._jobs.release()


def _keeps(job: Job) -> bool:
    """Whether the job is a training that saves where it stands."""
    return isinstance(job.params, Train) and job.params.run is not None


def arrays_in(params: Mapping[str, Any]) -> frozenset[str]:
    """The paths called `array` anywhere in a request, right or wrong."""
    paths: set[str] = set()
    level: list[Any] = [params]
    while level:
        value = level.pop()
        if isinstance(value, Mapping):
            if isinstance(value.get("array"), str):
                paths.add(value["array"])
            level += value.values()
        elif isinstance(value, list):
            level += value
    return frozenset(paths)
