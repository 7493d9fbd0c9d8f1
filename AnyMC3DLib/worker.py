"""The engine as a child process: `python -m AnyMC3DLib.worker` speaks the protocol on standard input and output.

The main thread runs the jobs, one by one. A second thread reads requests, so that cancel, pause, stop and shutdown
act while a job runs; a third repeats the progress. Standard error is the log.
"""

from __future__ import annotations

import argparse
import importlib
import logging
import os
import signal
import sys
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING

from .errors import AnyMC3DError
from .messages import LogNote
from .protocol import notification_line
from .worker_server import Server
from .workspace import Workspace, sweep

if TYPE_CHECKING:
    from .worker_jobs import Jobs

LONGEST_LOG = 4000
# Of libraries only what they warn of: what else they log may name files.
LOG_LEVELS = {"": logging.WARNING, __package__: logging.INFO}


class Output:
    """Lines to the client; nothing happens once it has gone."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor, self._lock = descriptor, threading.Lock()

    def send(self, line: bytes) -> None:
        """Write a line whole."""
        with self._lock:
            left = memoryview(line)
            try:
                while left:
                    left = left[os.write(self._descriptor, left) :]
            except OSError:
                # The reader of our input notices the same, and ends the process.
                return


class LogNotes(logging.Handler):
    """Log records as notifications."""

    def __init__(self, output: Output) -> None:
        super().__init__()
        self._output = output

    def emit(self, record: logging.LogRecord) -> None:
        """Send the record's message."""
        level = record.levelname.lower() if record.levelno < logging.ERROR else "error"
        note = LogNote(level=level, message=record.getMessage()[:LONGEST_LOG])
        self._output.send(notification_line("log", note.to_dict()))


def take_channels() -> tuple[int, int]:
    """Private duplicates of standard input and output, for the protocol alone.

    What libraries print goes to standard error from now on, and what they read is empty.
    """
    reading, writing = os.dup(0), os.dup(1)
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 0)
    try:
        os.dup2(2, 1)
    except OSError:
        # Started without a standard error.
        os.dup2(nothing, 1)
    os.close(nothing)
    sys.stdout = sys.stderr
    return reading, writing


def set_up_log(output: Output) -> None:
    """Send the log to standard error and to the client."""
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    logging.getLogger().addHandler(LogNotes(output))
    for name, level in LOG_LEVELS.items():
        logging.getLogger(name).setLevel(level)


def load_jobs(workspace: Workspace) -> Jobs:
    """The jobs, whose libraries take seconds to import."""
    return importlib.import_module(".worker_jobs", __package__).Jobs(workspace)


def main(arguments: Sequence[str]) -> None:
    """Serve until the client ends the worker; does not return."""
    reading, writing = take_channels()
    parser = argparse.ArgumentParser(prog="python -m AnyMC3DLib.worker", description=__doc__)
    parser.add_argument("--base", metavar="FOLDER", help="where the private temporary folder is made")
    options = parser.parse_args(arguments)
    output = Output(writing)
    set_up_log(output)
    sweep(options.base)
    try:
        workspace = Workspace(options.base)
    except AnyMC3DError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(1)

    def leave(code: int) -> None:
        workspace.remove()
        # At once and from any thread, even if the main thread is deep in a computation.
        os._exit(code)

    # Control-C in a terminal reaches all its processes; the client decides what becomes of its worker.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda number, _: leave(128 + number))
    server = Server(output.send, workspace, load_jobs, leave=leave)
    try:
        for body in (lambda: server.read(reading), lambda: server.progress.run()):
            threading.Thread(target=body, daemon=True).start()
        server.run()
    finally:
        leave(1)


if __name__ == "__main__":
    main(sys.argv[1:])
