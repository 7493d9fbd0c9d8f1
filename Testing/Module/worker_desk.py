"""What tests of the worker's client need: an event loop to spin, the engine's Python, plugins and known answers."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
sys.path.insert(0, str(REPOSITORY / "Testing" / "Host"))
sys.path.insert(0, str(REPOSITORY / "AnyMC3D"))
qt = pytest.importorskip("qt", reason="PySide6 is not installed: pip install -e '.[gui]'")

# Where the tests run in a Python without the engine, as the application does, this names one that has it.
PYTHON_VARIABLE = "ANYMC3D_WORKER_PYTHON"
WAIT_S = 120.0
CLOSE = 1e-5


def application() -> Any:
    """The one application of this process."""
    return qt.QApplication.instance() or qt.QApplication([])


def spin(reached: Callable[[], Any], *, seconds: float = WAIT_S) -> None:
    """Run the event loop until `reached`."""
    application()
    loop, timer, late = qt.QEventLoop(), qt.QTimer(), qt.QTimer()
    expired = []
    timer.timeout.connect(lambda: loop.quit() if reached() else None)
    late.timeout.connect(lambda: (expired.append(True), loop.quit()))
    timer.start(1)
    late.start(int(seconds * 1000))
    loop.exec()
    timer.stop()
    late.stop()
    assert not expired, "nothing came of it in time"


def worker_python() -> str:
    """A Python that has the engine's libraries; the test is skipped where there is none."""
    named = os.environ.get(PYTHON_VARIABLE)
    if not named and importlib.util.find_spec("torch") is None:
        pytest.skip(f"needs torch: name a Python that has it in {PYTHON_VARIABLE}")
    return named or sys.executable


@dataclasses.dataclass(frozen=True)
class Known:
    """Plugins in `folder`, an image, and what the engine answers in its own process."""

    folder: Path
    python: str
    image: npt.NDArray
    labels: npt.NDArray
    heat: npt.NDArray
    told: dict[str, Any]

    @property
    def affine(self) -> list[list[float]]:
        return self.told["affine"]

    def plugin(self, name: str) -> Path:
        return self.folder / f"{name}.safetensors"

    def weights(self, name: str = "first") -> str:
        return self.told["weights"][name]

    def assert_same(self, answer: dict[str, Any], name: str) -> None:
        """The answer is the one that the engine gave in its own process."""
        expected = self.told["answers"][name]
        assert answer["probabilities"] == pytest.approx(expected["probabilities"], abs=CLOSE)
        assert answer["decisions"] == expected["decisions"]
        for view, here in expected["views"].items():
            there = answer["views"][view]
            for told, slice_here in zip(there["slices"], here["slices"], strict=True):
                assert told["weight"] == pytest.approx(slice_here["weight"], abs=CLOSE)
                assert told["ras"] == pytest.approx(slice_here["ras"], abs=1e-3)


def make_known(folder: Path) -> Known:
    """Let the engine's own Python make plugins and answers."""
    python = worker_python()
    paths = os.pathsep.join([str(REPOSITORY), *filter(None, [os.environ.get("PYTHONPATH")])])
    script = Path(__file__).with_name("engine_answers.py")
    made = subprocess.run(
        [python, str(script), str(folder)], env={**os.environ, "PYTHONPATH": paths}, capture_output=True, text=True
    )
    assert made.returncode == 0, made.stderr
    image, labels, heat = (np.load(folder / f"{name}.npy") for name in ("image", "labels", "heat"))
    told = json.loads((folder / "answers.json").read_text(encoding="utf-8"))
    return Known(folder, python, image, labels, heat, told)


class LongestGap:
    """The longest time that the event loop did not come round, measured by a timer that wants to run each millisecond.

    `busy` is the part of it in which this thread computed: what a test asserts where other processes take the cores.
    """

    def __init__(self) -> None:
        self.seconds = self.busy = 0.0
        self._last = self._last_busy = 0.0
        self._timer = qt.QTimer()
        self._timer.timeout.connect(self._tick)

    def start(self) -> None:
        self._last, self._last_busy = time.perf_counter(), time.thread_time()
        # Not at every turn: that would take a core for itself.
        self._timer.start(1)

    def stop(self) -> None:
        self._tick()
        self._timer.stop()

    def _tick(self) -> None:
        now, busy = time.perf_counter(), time.thread_time()
        self.seconds, self.busy = max(self.seconds, now - self._last), max(self.busy, busy - self._last_busy)
        self._last, self._last_busy = now, busy
