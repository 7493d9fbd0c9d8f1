"""The application's side of the worker: requests with callbacks, whether it runs, has to be started, or has died."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import qt

import AnyMC3DLib
from AnyMC3DLib.backbone_store import FOLDER_VARIABLE
from AnyMC3DLib.errors import AnyMC3DError, Cancelled
from AnyMC3DLib.messages import Cancel, EpochNote, LogNote, ProgressNote
from AnyMC3DLib.protocol import Id
from AnyMC3DLib.records import Record
from AnyMC3DLib.transport import ARGUMENTS, WorkerDied

from .worker_process import ENDED_SENTENCE, WorkerProcess

START_MS = 60_000
# Jobs that open a backbone by themselves; others work with what was loaded before.
WHOLE_JOBS = ("train", "estimate", "evaluate")
END_MS = 5_000

Done = Callable[[Any], None]
Failed = Callable[[AnyMC3DError], None]


def worker_environment(changes: Mapping[str, str] | None = None) -> dict[str, str]:
    """This process's environment, in which a worker finds the library that this process uses."""
    environment = {**os.environ, **(changes or {})}
    home = str(Path(AnyMC3DLib.__file__).resolve().parent.parent)
    environment["PYTHONPATH"] = os.pathsep.join([home, *filter(None, [environment.get("PYTHONPATH")])])
    # Else Python imports from the folder in which the application was started before all others.
    environment["PYTHONSAFEPATH"] = "1"
    return environment


class Call:
    """A request of which the answer is to come."""

    def __init__(
        self, method: str, params: Any, done: Done, failed: Failed, progress: Any = None, epoch: Any = None
    ) -> None:
        self.method, self.params, self.progress, self.epoch = method, params, progress, epoch
        self._done, self._failed = done, failed
        self.id: Id | None = None
        self.over = False

    def done(self, result: Any) -> None:
        """The answer came."""
        if not self.over:
            self.over = True
            self._done(result)

    def failed(self, error: AnyMC3DError) -> None:
        """It will not come."""
        if not self.over:
            self.over = True
            self._failed(error)


class WorkerClient(qt.QObject):
    """Requests to the worker; the first one starts it, and so does the first one after it died.

    Callbacks run in the thread of the application, never within the call that they answer. A worker that was started
    for another folder of backbones is replaced where a job begins and nobody needs it any more.
    """

    def __init__(
        self,
        parent: qt.QObject | None = None,
        *,
        python: str | Path | None = None,
        arguments: Sequence[str] = ARGUMENTS,
        environment: Mapping[str, str] | None = None,
        on_log: Callable[[LogNote], None] | None = None,
        start_ms: int = START_MS,
    ) -> None:
        # In Slicer sys.executable is PythonSlicer, which finds all that Slicer's Python needs.
        super().__init__(parent)
        self._command = [str(python or sys.executable), *arguments]
        self._changes = dict(environment or {})
        self._on_log, self._start_ms = on_log, start_ms
        self._worker: WorkerProcess | None = None
        self._ending: list[WorkerProcess] = []
        self._waiting: list[Call] = []
        self._sent: list[Call] = []
        self._backbones = ""
        self._watchers: list[Failed] = []
        # What those who use this client know together of its workers, and how often one was started.
        self.book: Any = None
        self.starts = 0

    @property
    def ready(self) -> bool:
        """Whether a worker runs and has answered."""
        return self._worker is not None and self._worker.is_ready

    @property
    def gone(self) -> bool:
        """Whether no process is there, not even one that is about to end."""
        return self._worker is None and not self._ending

    @property
    def pid(self) -> int | None:
        """The number of the worker's process, None where none is ready."""
        return self._worker.pid if self._worker is not None else None

    @property
    def folder(self) -> Path | None:
        """The worker's private folder, None where none is ready."""
        return self._worker.folder if self._worker is not None else None

    def request(
        self,
        method: str,
        params: Mapping[str, Any] | Record | None = None,
        *,
        done: Done,
        failed: Failed,
        progress: Callable[[ProgressNote], None] | None = None,
        epoch: Callable[[EpochNote], None] | None = None,
    ) -> Call:
        """Send a request; later `done` is called with its result, or `failed` with its error."""
        if method in WHOLE_JOBS and not (self.book is not None and self.book.is_taken):
            self._leave_old_folder()
        call = Call(method, params, done, failed, progress, epoch)
        if self.ready:
            self._send(call)
        else:
            self._waiting.append(call)
            self._start()
        return call

    def start(self, *, done: Done, failed: Failed) -> Call:
        """Start the worker, unless it runs, for a job of several requests; `done` gets its private folder."""
        self._leave_old_folder()
        call = Call("", None, done, failed)
        self._waiting.append(call)
        if self.ready:
            qt.QTimer.singleShot(0, self._send_waiting)
        else:
            self._start()
        return call

    def cancel(self, call: Call) -> None:
        """Ask for a request to be cancelled, which then fails with Cancelled unless its answer is under way."""
        if call.over:
            return
        if call in self._waiting:
            self._waiting.remove(call)
            self._fail_soon([call], Cancelled("The work was cancelled."))
        elif self.ready and call.id is not None:
            # That it was answered meanwhile is no failure.
            self._worker.protocol.request("cancel", Cancel(request=call.id), done=_nothing, failed=_nothing)

    def watch(self, died: Failed) -> None:
        """Have `died` called with the reason whenever a worker ends without being asked to, until `unwatch`."""
        self._watchers.append(died)

    def unwatch(self, died: Failed) -> None:
        """Have it no longer called."""
        if died in self._watchers:
            self._watchers.remove(died)

    def close(self, *, wait_ms: int = 0) -> None:
        """End the worker and what it does; the next request starts another.

        `wait_ms` is for the end of the application, where no event loop runs that would see the worker's end.
        """
        waiting, self._waiting = self._waiting, []
        self._fail_soon(waiting, WorkerDied(ENDED_SENTENCE))
        worker, self._worker = self._worker, None
        if worker is not None:
            self._ending.append(worker)
            worker.end(END_MS)
        if wait_ms:
            for ending in list(self._ending):
                ending.wait_for_end(wait_ms)

    def _leave_old_folder(self) -> None:
        """End an idle worker that looks for backbones in a folder which is theirs no more."""
        self._sent = [call for call in self._sent if not call.over]
        now = worker_environment(self._changes).get(FOLDER_VARIABLE, "")
        if self._worker is not None and now != self._backbones and not self._sent and not self._waiting:
            self.close()

    def _start(self) -> None:
        if self._worker is not None:
            return
        self.starts += 1
        environment = worker_environment(self._changes)
        self._backbones = environment.get(FOLDER_VARIABLE, "")
        worker = WorkerProcess(
            command=self._command,
            environment=environment,
            ready=lambda _: self._send_waiting(),
            ended=lambda reason: self._ended(worker, reason),
            log=self._log,
            start_ms=self._start_ms,
            parent=self,
        )
        self._worker = worker
        worker.start()

    def _send_waiting(self) -> None:
        if not self.ready:
            return
        waiting, self._waiting = self._waiting, []
        for call in waiting:
            if not call.method:
                call.done(self.folder)
            elif not call.over:
                self._send(call)

    def _send(self, call: Call) -> None:
        self._sent = [*(sent for sent in self._sent if not sent.over), call]
        try:
            call.id = self._worker.protocol.request(
                call.method,
                call.params,
                done=call.done,
                failed=call.failed,
                progress=call.progress,
                epoch=call.epoch,
            )
        except AnyMC3DError as error:
            self._fail_soon([call], error)

    def _ended(self, worker: WorkerProcess, reason: AnyMC3DError) -> None:
        if worker in self._ending:
            self._ending.remove(worker)
            return
        self._worker = None
        waiting, self._waiting = self._waiting, []
        self._log(LogNote(level="error", message="\n".join([str(reason), *worker.lines])))
        for died in list(self._watchers):
            died(reason)
        for call in waiting:
            call.failed(reason)

    def _fail_soon(self, calls: Sequence[Call], reason: AnyMC3DError) -> None:
        if calls:
            qt.QTimer.singleShot(0, lambda: [call.failed(reason) for call in calls])

    def _log(self, note: LogNote) -> None:
        if self._on_log is not None:
            self._on_log(note)


def _nothing(_: Any) -> None:
    return
