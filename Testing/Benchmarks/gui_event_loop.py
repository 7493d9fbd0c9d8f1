"""The longest gap in the Qt event loop during a long job on all cores, as JSON. Rendering is left out.

    python Testing/Benchmarks/gui_event_loop.py [--seconds 60] [--size 512 512 400]

Needs PySide6 in this Python. Where it lacks torch, ANYMC3D_WORKER_PYTHON names a Python that has it. A CT of the size
given is handed to the worker, which classifies it with a ViT until the time is over and the job is cancelled; the
panel's progress bar and log are drawn offscreen. The gap is that of a timer that wants to run at every turn.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(REPOSITORY / name) for name in ("", "AnyMC3D", "Testing/Host", "Testing/Module")]

from AnyMC3DUI.plugin_folder import read_card  # noqa: E402
from AnyMC3DUI.session import ClassifySession, Doing, State, Ticked  # noqa: E402
from AnyMC3DUI.worker_client import WorkerClient  # noqa: E402
from worker_desk import PYTHON_VARIABLE, LongestGap, application, qt, spin  # noqa: E402

from AnyMC3DLib.workspace import BASE_VARIABLE  # noqa: E402

MAKE_PLUGIN = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from networks import view, write_plugin
from shell import findable_backbone
from AnyMC3DLib.spec import SliceSpec
folder = Path(sys.argv[1])
backbone, weights = findable_backbone(folder, "vit_small_patch16_dinov3")
slices = SliceSpec(policy="at_most", count=200)
axes = [view(backbone, axis, size=(384, 384), slices=slices) for axis in ("axial", "coronal", "sagittal")]
write_plugin(folder / "long.safetensors", backbone, name="Long", views=tuple(axes))
print(weights)
"""


@dataclasses.dataclass(frozen=True)
class Image:
    """A volume as the scene hands it over."""

    array: np.ndarray
    ijk_to_ras: np.ndarray


class Panel(qt.QWidget):
    """As much of the panel as moves while a job runs, and the measurement of the gaps in each state."""

    def __init__(self) -> None:
        super().__init__()
        layout = qt.QVBoxLayout(self)
        self.bar, self.words, self.lines = qt.QProgressBar(), qt.QLabel(), qt.QPlainTextEdit()
        for widget in (self.bar, self.words, self.lines):
            layout.addWidget(widget)
        self.gaps: dict[str, float] = {}
        self.busy: dict[str, float] = {}
        self.seconds: dict[str, float] = {}
        self.end: Any = None
        self._gap, self._state, self._since = LongestGap(), State.IDLE, 0.0

    def changed(self, state: State) -> None:
        """Keep the gap of the state that ends here."""
        now = time.perf_counter()
        if self._state is not State.IDLE:
            self._gap.stop()
            name = self._state.value
            self.gaps[name] = max(self.gaps.get(name, 0.0), self._gap.seconds)
            self.busy[name] = max(self.busy.get(name, 0.0), self._gap.busy)
            self.seconds[name] = self.seconds.get(name, 0.0) + now - self._since
        self._gap, self._state, self._since = LongestGap(), state, now
        self._gap.start()

    def progressed(self, doing: Doing) -> None:
        """Draw the step."""
        self.bar.setRange(0, 0 if doing.fraction is None else 1000)
        self.bar.setValue(int(1000 * (doing.fraction or 0)))
        self.words.setText(doing.words)

    def finished(self, predictions: Any) -> None:
        """The job was shorter than asked for."""
        self.end = "finished"

    def failed(self, sentence: str) -> None:
        """Nothing was measured."""
        sys.exit(sentence)

    def cancelled(self) -> None:
        """The time is over."""
        self.end = "cancelled"


def measure(folder: Path, *, seconds: float, size: tuple[int, int, int]) -> dict[str, Any]:
    """The gaps during a job of so many seconds on a volume of (columns, rows, slices)."""
    python = os.environ.get(PYTHON_VARIABLE, sys.executable)
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    command = [python, "-c", MAKE_PLUGIN, str(folder), str(REPOSITORY / "Testing" / "Lib")]
    weights = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.strip()
    application()
    panel = Panel()
    panel.show()
    threads = str(os.cpu_count())
    client = WorkerClient(
        python=python,
        environment={BASE_VARIABLE: str(folder), "OMP_NUM_THREADS": threads},
        on_log=lambda note: panel.lines.appendPlainText(note.message),
    )
    session = ClassifySession(client, panel)
    array = np.random.default_rng(0).integers(-1000, 2000, size[::-1], dtype=np.int16)
    image = Image(array, np.diag([0.7, 0.7, 0.7, 1.0]))
    session.classify([Ticked(read_card(folder / "long.safetensors"), {"image": image}, weights=weights)])
    # What comes before runs on one core.
    spin(lambda: panel.words.text.startswith("Classifying: "))
    worker, began = psutil.Process(client.pid), time.perf_counter()
    used = sum(worker.cpu_times()[:2])
    spin(lambda: panel.end or time.perf_counter() - began > seconds, seconds=seconds + 60)
    used, lasted = sum(worker.cpu_times()[:2]) - used, time.perf_counter() - began
    session.cancel()
    session.close()
    spin(lambda: client.gone)
    return {
        "longest_gap_ms": round(1000 * max(panel.gaps.values()), 1),
        "longest_gap_ms_by_state": {name: round(1000 * gap, 1) for name, gap in panel.gaps.items()},
        "of_which_this_thread_computed_ms": {name: round(1000 * busy, 1) for name, busy in panel.busy.items()},
        "seconds_by_state": {name: round(lasted, 2) for name, lasted in panel.seconds.items()},
        "computing_seconds": round(lasted, 1),
        "cores": os.cpu_count(),
        "cores_used_by_the_worker": round(used / lasted, 2),
        "volume": list(size),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=60.0, help="how long the job runs")
    parser.add_argument("--size", type=int, nargs=3, default=(512, 512, 400), metavar="N", help="of the volume")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(measure(Path(folder), seconds=options.seconds, size=tuple(options.size)), indent=2))


if __name__ == "__main__":
    main()
