"""One process of the worker, from its start to its end, over QProcess. Nothing here waits."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import signal
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import qt

from AnyMC3DLib.client import ClientProtocol
from AnyMC3DLib.errors import AnyMC3DError
from AnyMC3DLib.messages import Hello, LogNote
from AnyMC3DLib.transport import FOLDER_PREFIX, KEPT_LINES, REASON, WorkerDied, ending_in_words

logger = logging.getLogger(__name__)

ENDED_SENTENCE = "The engine was ended: the next request starts it again."


class WorkerProcess:
    """A worker that is started at once; `ready` gets its answer to 'hello', and `ended` why it ended, in any case."""

    def __init__(
        self,
        *,
        command: Sequence[str],
        environment: Mapping[str, str],
        ready: Callable[[Mapping[str, Any]], None],
        ended: Callable[[AnyMC3DError], None],
        log: Callable[[LogNote], None],
        start_ms: int,
        parent: qt.QObject,
    ) -> None:
        self.protocol = ClientProtocol(self._send, on_log=log)
        self.folder: Path | None = None
        self.pid: int | None = None
        self.is_ready = self.is_over = False
        self._command, self._start_ms = list(command), start_ms
        self._ready, self._ended = ready, ended
        self._reason: AnyMC3DError | None = None
        self._lines: deque[str] = deque(maxlen=KEPT_LINES)
        self._unfinished = b""
        self._process = qt.QProcess(parent)
        self._process.setProcessEnvironment(_environment(environment))
        self._process.connect("readyReadStandardOutput()", self._read)
        self._process.connect("readyReadStandardError()", self._read_errors)
        self._process.connect("finished(int,QProcess::ExitStatus)", self._finished)
        self._process.connect("errorOccurred(QProcess::ProcessError)", self._error)
        self._patience = qt.QTimer(parent)
        self._patience.setSingleShot(True)
        self._patience.connect("timeout()", self._out_of_patience)

    @property
    def lines(self) -> list[str]:
        """The last lines that the worker wrote to standard error."""
        return list(self._lines)

    def start(self) -> None:
        """Start the process and greet it."""
        self._patience.start(self._start_ms)
        self._process.start(self._command[0], self._command[1:])
        # The line waits in QProcess until the process is there.
        self.protocol.request("hello", Hello(), done=self._greeted, failed=self._refused)

    def end(self, patience_ms: int) -> None:
        """Let the worker end, and kill it if it has not after `patience_ms`.

        The end of its input ends a worker that classifies at once, even within a computation, and lets one that
        trains write the plugin as far as it has come.
        """
        if self.is_over or self._reason is not None:
            return
        self._reason = WorkerDied(ENDED_SENTENCE)
        self._process.closeWriteChannel()
        self._patience.start(patience_ms)

    def wait_for_end(self, milliseconds: int) -> None:
        """Wait for the end; for when no event loop runs any more."""
        if not self.is_over:
            self._process.waitForFinished(milliseconds)

    def _greeted(self, answer: Mapping[str, Any]) -> None:
        if self._reason is not None:
            return
        self._patience.stop()
        self.folder, self.pid, self.is_ready = Path(answer["folder"]), int(answer["pid"]), True
        self._ready(answer)

    def _refused(self, error: AnyMC3DError) -> None:
        self._reason = self._reason or error
        self._kill()

    def _out_of_patience(self) -> None:
        seconds = self._start_ms / 1000
        self._reason = self._reason or WorkerDied(f"The engine did not start within {seconds:g} seconds: try again.")
        self._kill()

    def _kill(self) -> None:
        if self.is_over:
            return
        if self.pid is not None:
            # In Slicer the process is a launcher, and killing it alone would leave the worker to itself.
            with contextlib.suppress(OSError):
                os.kill(self.pid, getattr(signal, "SIGKILL", signal.SIGTERM))
        self._process.kill()

    def _send(self, line: bytes) -> None:
        # A worker that is gone is noticed by its end, which then fails the request.
        self._process.write(line)

    def _read(self) -> None:
        data = self._process.readAllStandardOutput().data()
        if data:
            self.protocol.receive(bytes(data))

    def _read_errors(self) -> None:
        data = self._process.readAllStandardError().data()
        *lines, self._unfinished = (self._unfinished + bytes(data or b"")).split(b"\n")
        for line in lines:
            self._note(line)

    def _note(self, line: bytes) -> None:
        text = line.decode("utf-8", errors="replace").rstrip()
        if text:
            self._lines.append(text)
            logger.info("worker: %s", text)

    def _finished(self, code: int, status: Any) -> None:
        self._read()
        self._read_errors()
        self._note(self._unfinished)
        crashed = status == qt.QProcess.CrashExit
        # Qt gives the number of the signal for a process that one ended, except on Windows.
        number = -code if crashed and os.name != "nt" else code & 0xFFFFFFFF
        self._close(self._reason or WorkerDied(self._why(number)))

    def _why(self, code: int) -> str:
        reason = next((line for line in reversed(self._lines) if REASON.fullmatch(line)), "")
        return f"The engine ended unexpectedly, {ending_in_words(code)}." + (f" It said: {reason}" if reason else "")

    def _error(self, error: Any) -> None:
        # What else can go wrong is followed by 'finished'; this never is.
        if error == qt.QProcess.FailedToStart:
            # Windows tells of it within `start`, whose caller does not expect an answer so soon.
            qt.QTimer.singleShot(0, self._not_started)

    def _not_started(self) -> None:
        what = self._process.errorString().rpartition(": ")[2]
        self._close(WorkerDied(f"The engine's Python '{self._command[0]}' cannot be started: {what}."))

    def _close(self, reason: AnyMC3DError) -> None:
        if self.is_over:
            return
        self.is_over, self.is_ready = True, False
        self._patience.stop()
        if self.folder is not None and self.folder.name.startswith(FOLDER_PREFIX):
            # A worker that was killed could not do it.
            shutil.rmtree(self.folder, ignore_errors=True)
        # First, so that what a failed request asks for next goes to the next worker.
        self._ended(reason)
        self.protocol.end(reason)
        self._patience.deleteLater()
        self._process.deleteLater()


def _environment(values: Mapping[str, str]) -> qt.QProcessEnvironment:
    environment = qt.QProcessEnvironment()
    for name, value in values.items():
        environment.insert(name, value)
    return environment
