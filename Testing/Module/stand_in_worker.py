"""The real worker with other jobs: by the name of the plugin they compute for ever, write much, wait or leave."""

from __future__ import annotations

import os
import sys
from typing import Any

from AnyMC3DLib import worker
from AnyMC3DLib.control import Control
from AnyMC3DLib.progress import Progress, ProgressCallback
from AnyMC3DLib.worker_server import Server

# Set, it does not end with its input.
STUBBORN_VARIABLE = "ANYMC3D_STUBBORN_WORKER"


class Jobs:
    """What `Jobs` of the engine is to the worker."""

    def __init__(self, workspace: Any) -> None:
        pass

    def run(self, params: Any, control: Control, progress: ProgressCallback) -> dict[str, Any]:
        progress(Progress("Working", 1, 2))
        return getattr(self, getattr(params, "path", type(params).__name__.lower()))(control) or {}

    def release(self) -> None:
        pass

    def nothing(self, control: Control) -> None:
        pass

    def evaluate(self, control: Control) -> None:
        pass

    def compute_for_ever(self, control: Control) -> None:
        while True:
            pass

    def wait(self, control: Control) -> None:
        while True:
            control.check()

    def much(self, control: Control) -> dict[str, Any]:
        return {"text": "x" * 5_000_000, "list": list(range(100_000))}

    def noise(self, control: Control) -> None:
        sys.stdout.write("A library prints.\n")
        sys.stdout.flush()
        sys.stderr.write("A library warns: \u00e4\n")

    def leave(self, control: Control) -> None:
        sys.stderr.write("Noise\nThe computer is on fire.\n")
        sys.stderr.flush()
        os._exit(7)

    def unload(self, control: Control) -> dict[str, Any]:
        return {"safe": sys.flags.safe_path, "path": sys.path}


if __name__ == "__main__":
    worker.load_jobs = Jobs
    if STUBBORN_VARIABLE in os.environ:
        Server._end_of_input = lambda _: None
    worker.main([])
