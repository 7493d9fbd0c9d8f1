"""The worker as a child process of this one, for programs without Qt. Imports no torch."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import sysconfig
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from .client import ClientProtocol
from .errors import AnyMC3DError
from .messages import PROTOCOL_VERSION, LogNote, ProgressNote
from .protocol import Id
from .records import Record

if TYPE_CHECKING:
    import numpy.typing as npt

logger = logging.getLogger(__name__)

ARGUMENTS = ("-m", "AnyMC3DLib.worker")
START_S = 60.0
CLOSE_S = 10.0
READ_BYTES = 1 << 16
KEPT_LINES = 20
FOLDER_PREFIX = "anymc3d-worker-"
# The last line of standard error that tells a person, or a developer, why a process ended.
REASON = re.compile(r"(?:[A-Z][^\n]{8,400}[^.]\.|[\w.]+(?:Error|Exception): [^\n]{1,200})")


class WorkerDied(AnyMC3DError):
    """The worker ended without being asked to, or could not be started."""


class Request(Future[Any]):
    """The answer to come of a request; `result()` raises the error that the worker answers with."""

    id: Id


class WorkerProcess:
    """A worker and the requests to it. `start` (or `with`) starts it; after its death it can be started again."""

    def __init__(
        self,
        *,
        python: str | Path = sys.executable,
        arguments: Sequence[str] = ARGUMENTS,
        environment: Mapping[str, str] | None = None,
        on_log: Callable[[LogNote], None] | None = None,
    ) -> None:
        self._command = [str(python), *arguments]
        self._environment = {**_environment(), **(environment or {})}
        self._on_log = on_log
        self._process: subprocess.Popen[bytes] | None = None
        self._protocol: ClientProtocol | None = None
        self._threads: list[threading.Thread] = []
        self._lines: deque[str] = deque(maxlen=KEPT_LINES)
        self._writing = threading.Lock()
        self._closing = False
        self.folder: Path | None = None

    def __enter__(self) -> WorkerProcess:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def pid(self) -> int | None:
        """The number of the process, None where none was started."""
        return self._process.pid if self._process else None

    @property
    def running(self) -> bool:
        """Whether the process is there."""
        return self._process is not None and self._process.poll() is None

    @property
    def log_lines(self) -> list[str]:
        """The last lines that the worker wrote to standard error."""
        return list(self._lines)

    def start(self) -> dict[str, Any]:
        """Start the worker, unless it runs, and return its answer to 'hello'; raises WorkerDied if it does not come."""
        if self.running:
            return self.call("hello", {"protocol": PROTOCOL_VERSION}, timeout=START_S)
        self._end_threads()
        self._lines.clear()
        self._closing, self.folder = False, None
        try:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                bufsize=0,
                env=self._environment,
                # On Windows a program without a window would get one.
                creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
            )
        except OSError as error:
            raise WorkerDied(f"'{self._command[0]}' cannot be started: {error.strerror or error}.") from error
        self._protocol = ClientProtocol(self._send, on_log=self._on_log)
        self._begin_threads(self._process, self._protocol)
        try:
            answer = self.call("hello", {"protocol": PROTOCOL_VERSION}, timeout=START_S)
        except TimeoutError as error:
            self._kill()
            raise WorkerDied(
                f"The worker did not answer within {START_S:g} seconds of its start: try again."
            ) from error
        except AnyMC3DError:
            self._kill()
            raise
        self.folder = Path(answer["folder"])
        return answer

    def request(
        self,
        method: str,
        params: Mapping[str, Any] | Record | None = None,
        *,
        on_progress: Callable[[ProgressNote], None] | None = None,
    ) -> Request:
        """Send a request. `on_progress` is called in a thread of the transport, in which nothing may wait."""
        if self._protocol is None:
            raise WorkerDied("The worker was not started: start it first.")
        answer = Request()
        answer.set_running_or_notify_cancel()
        answer.id = self._protocol.request(
            method, params, done=answer.set_result, failed=answer.set_exception, progress=on_progress
        )
        return answer

    def call(
        self,
        method: str,
        params: Mapping[str, Any] | Record | None = None,
        *,
        on_progress: Callable[[ProgressNote], None] | None = None,
        timeout: float | None = None,
    ) -> Any:
        """Send a request and wait for its result; raises its error, and TimeoutError after `timeout` seconds."""
        return self.request(method, params, on_progress=on_progress).result(timeout)

    def cancel(self, request: Request) -> Request:
        """Ask the worker to cancel a request, which then answers with Cancelled, unless its answer is under way."""
        return self.request("cancel", {"request": request.id})

    def put_array(self, array: npt.ArrayLike) -> str:
        """Write an array into the worker's folder for one request, after which the worker deletes it."""
        import numpy as np

        if self.folder is None:
            raise WorkerDied("The worker was not started: start it first.")
        place = self.folder / f"{secrets.token_hex(8)}.npy"
        try:
            np.save(place, np.asarray(array), allow_pickle=False)
        except OSError as error:
            raise WorkerDied(f"The worker's folder cannot be written: {error.strerror or error}.") from error
        return str(place)

    def take_array(self, result: Mapping[str, Any]) -> npt.NDArray:
        """The array of a result, whose file is deleted."""
        import numpy as np

        place = Path(result["array"])
        try:
            array = np.load(place, allow_pickle=False)
        except OSError as error:
            raise WorkerDied(f"The worker's array is gone: {error.strerror or error}.") from error
        place.unlink(missing_ok=True)
        return array

    def close(self, *, timeout: float = CLOSE_S) -> None:
        """End the worker: ask it, and kill it if it has not ended after `timeout` seconds."""
        process = self._process
        if process is None:
            return
        self._closing = True
        if self.running:
            with contextlib.suppress(AnyMC3DError):
                self.request("shutdown")
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout)
        self._kill()
        self._end_threads()

    def _kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def _send(self, line: bytes) -> None:
        process = self._process
        # A worker that is gone is noticed where its output ends, which then fails the request.
        with self._writing, contextlib.suppress(OSError, ValueError):
            left = memoryview(line)
            while left and process is not None and process.stdin is not None:
                left = left[process.stdin.write(left) :]

    def _begin_threads(self, process: subprocess.Popen[bytes], protocol: ClientProtocol) -> None:
        errors = threading.Thread(target=self._read_errors, args=(process.stderr,), daemon=True)
        answers = threading.Thread(target=self._read_answers, args=(process, protocol, errors), daemon=True)
        self._threads = [errors, answers]
        for thread in self._threads:
            thread.start()

    def _end_threads(self) -> None:
        for thread in self._threads:
            thread.join(CLOSE_S)
        self._threads = []

    def _read_errors(self, stream: IO[bytes]) -> None:
        for line in stream:
            text = line.decode("utf-8", errors="replace").rstrip()
            if text:
                self._lines.append(text)
                logger.debug("worker: %s", text)
        stream.close()

    def _read_answers(
        self, process: subprocess.Popen[bytes], protocol: ClientProtocol, errors: threading.Thread
    ) -> None:
        while data := os.read(process.stdout.fileno(), READ_BYTES):
            protocol.receive(data)
        process.wait()
        # A process that the worker started may hold its standard error open.
        errors.join(CLOSE_S)
        if self.folder is not None and self.folder.name.startswith(FOLDER_PREFIX):
            # A worker that was killed could not do it.
            shutil.rmtree(self.folder, ignore_errors=True)
        protocol.end(WorkerDied(self._why(process.returncode)))
        process.stdout.close()
        with contextlib.suppress(OSError):
            process.stdin.close()

    def _why(self, code: int) -> str:
        if self._closing:
            return "The worker was ended: start it again."
        reason = next((line for line in reversed(self._lines) if REASON.fullmatch(line)), "")
        return f"The worker ended unexpectedly, {ending_in_words(code)}." + (f" It said: {reason}" if reason else "")


def ending_in_words(code: int) -> str:
    """What an exit code, or minus the number of a signal, means to a person."""
    if code == -getattr(signal, "SIGKILL", 9):
        return "it was killed (SIGKILL), perhaps because the memory ran out"
    if code < 0:
        try:
            return f"by the signal {signal.Signals(-code).name}"
        except ValueError:
            return f"by the signal {-code}"
    # Windows tells of a crash in the upper half of the numbers.
    if code >= 1 << 31:
        return f"it crashed (0x{code:08X})"
    return f"with exit code {code}"


def _environment() -> dict[str, str]:
    """This process's environment, in which a worker finds this library in a source tree too."""
    environment = dict(os.environ)
    home = str(Path(__file__).resolve().parent.parent)
    if home not in (sysconfig.get_path("purelib"), sysconfig.get_path("platlib")):
        paths = [home, *filter(None, [environment.get("PYTHONPATH")])]
        environment["PYTHONPATH"] = os.pathsep.join(paths)
    return environment
