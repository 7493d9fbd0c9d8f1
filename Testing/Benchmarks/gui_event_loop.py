"""The longest gap in the Qt event loop while the module works on all cores, as JSON. Views are left out.

    python Testing/Benchmarks/gui_event_loop.py [--seconds 60] [--size 512 512 400] [--training]

The module runs in the stand-in of Testing/Host, without slice views and 3D view, whose drawing is not measured. A CT
of the size given is classified by a ViT with as many slices as take so many seconds; then its heat is put into the
scene and fused with the anatomy for 3D, and the threshold's slider is dragged. The gap is that of a timer that wants
to run each millisecond. With --training the Train tab trains a plugin on all cores all the while. The Python needs the
extras `gui` and `test`.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(REPOSITORY / name) for name in ("", "AnyMC3D", "Testing/Host", "Testing/Module")]
os.environ["OMP_NUM_THREADS"] = str(os.cpu_count())
os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")

import slicer  # noqa: E402
from host import start  # noqa: E402
from worker_desk import LongestGap, spin  # noqa: E402

from AnyMC3DLib.workspace import BASE_VARIABLE  # noqa: E402

MAKE_PLUGIN = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from networks import view, write_plugin
from shell import findable_backbone
from AnyMC3DLib.spec import SliceSpec
folder, count = Path(sys.argv[1]), int(sys.argv[3])
backbone, weights = findable_backbone(folder, "vit_small_patch16_dinov3")
slices = SliceSpec(policy="at_most", count=count)
axes = [view(backbone, axis, size=(384, 384), slices=slices) for axis in ("axial", "coronal", "sagittal")]
write_plugin(folder / "long.safetensors", backbone, name="Long", views=tuple(axes))
print(weights)
"""
SLICES_A_SECOND = 3  # of this network with its maps on two cores, roughly: the job is to last as long as is asked for
WIDEST_HEAT = 0.0  # the random weights of this plugin decide on nothing, so all of the heat is drawn


class Gaps:
    """The longest gap of each part of the work."""

    def __init__(self) -> None:
        self.parts: dict[str, dict[str, float]] = {}
        self._name, self._gap, self._since = "", LongestGap(), 0.0

    def begin(self, name: str) -> None:
        """Another part begins, and the one before ends."""
        self.end()
        self._name, self._gap, self._since = name, LongestGap(), time.perf_counter()
        self._gap.start()

    def end(self) -> None:
        """The part ends."""
        if self._name:
            self._gap.stop()
            part = self.parts.setdefault(
                self._name, {"longest_gap_ms": 0.0, "of_which_computed_ms": 0.0, "seconds": 0.0}
            )
            part["longest_gap_ms"] = max(part["longest_gap_ms"], round(1000 * self._gap.seconds, 1))
            part["of_which_computed_ms"] = max(part["of_which_computed_ms"], round(1000 * self._gap.busy, 1))
            part["seconds"] = round(part["seconds"] + time.perf_counter() - self._since, 2)
        self._name = ""


def open_study(host: Any, folder: Path, *, seconds: float, size: tuple[int, int, int]) -> Any:
    """The module's widget with a large CT open and the plugin ticked."""
    count = max(4, round(seconds * SLICES_A_SECOND / 3))
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, "-c", MAKE_PLUGIN, str(folder), str(REPOSITORY / "Testing" / "Lib"), str(count)]
    weights = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.strip()
    host.load(REPOSITORY / "AnyMC3D" / "AnyMC3D.py")
    host.started()
    host.window.show()
    widget = host.show("AnyMC3D")
    load = widget.desk.session._plugins.load
    # The panel finds weights in the machine's own cache; this network's lie in the folder.
    widget.desk.session._plugins.load = lambda card, _, device, progress=None: load(
        card, weights, device, progress=progress
    )
    array = np.random.default_rng(0).integers(-1000, 2000, size[::-1], dtype=np.int16)
    slicer.util.addVolumeFromArray(array, ijkToRAS=np.diag([0.7, 0.7, 0.7, 1.0]), name="CT")
    widget.desk.panel.add_plugin(folder / "long.safetensors")
    spin(lambda: widget.ui.classifyButton.enabled)
    return widget


def begin_training(widget: Any, folder: Path) -> None:
    """Have the Train tab train on made-up heads, for longer than all that is measured."""
    from AnyMC3DLib.phantom import head_phantom
    from AnyMC3DLib.training.dataset import Dataset
    from AnyMC3DLib.volume import write_volume

    cases = Dataset(("no lesion", "lesion"))
    for number in range(12):
        place = folder / f"head-{number}.nrrd"
        write_volume(place, head_phantom(number, lesion=number % 2 == 1).volume)
        split = "val" if number >= 8 else "train"
        cases.add(image=place, label=cases.classes[number % 2], split=split)
    cases.save(folder / "cases.csv")
    widget.desk.research.dataset.open(folder / "cases.csv")
    widget.desk.research.training.refresh()
    widget.ui.trainNameEdit.setText("Heads")
    widget.ui.trainEpochsSpin.setValue(500)
    widget.ui.trainStartButton.click()
    spin(lambda: widget.ui.trainStateLabel.text.startswith("Training, epoch 2"), seconds=300)


def told(widget: Any, gaps: Gaps) -> None:
    """Have each state of the session begin a part."""
    changed: Callable[[Any], None] = widget.desk.panel.changed

    def change(state: Any) -> None:
        gaps.begin("heat" if state.value == "idle" else state.value)
        changed(state)

    widget.desk.panel.changed = change


def fused(widget: Any) -> bool:
    """Whether the heat lies in the scene, fused with the anatomy."""
    volume = widget.desk.overlay._volume
    return volume.node is not None and not volume._working


def measure(folder: Path, *, seconds: float, size: tuple[int, int, int], training: bool) -> dict[str, Any]:
    """The gaps during a job of so many seconds on a volume of (columns, rows, slices), and of what follows it."""
    os.environ[BASE_VARIABLE] = str(folder)
    gaps = Gaps()
    with start() as host:
        widget = open_study(host, folder, seconds=seconds, size=size)
        if training:
            begin_training(widget, folder)
        told(widget, gaps)
        widget.ui.classifyButton.click()
        spin(lambda: widget.ui.stepLabel.text.startswith("Classifying: "))
        worker, began = psutil.Process(widget.desk._client.pid), time.perf_counter()
        used = sum(worker.cpu_times()[:2])
        spin(lambda: not widget.desk.session.busy, seconds=20 * seconds + 60)
        used, lasted = sum(worker.cpu_times()[:2]) - used, time.perf_counter() - began
        widget.ui.thresholdSlider.value = WIDEST_HEAT
        if not widget.ui.overlayButton.checked:
            widget.ui.overlayButton.click()
        spin(lambda: fused(widget))
        gaps.begin("slider")
        for step in range(40):
            widget.ui.thresholdSlider.value = step / 40
            spin(lambda: True)
        spin(lambda: fused(widget))
        gaps.end()
        sentence = widget.ui.stepLabel.text
        trained = widget.ui.trainStateLabel.text
        if training:
            widget.ui.trainPauseButton.click()
            spin(lambda: not widget.desk.research.training.busy, seconds=120)
    return {
        "longest_gap_ms": max(part["longest_gap_ms"] for part in gaps.parts.values()),
        "parts": gaps.parts,
        "computing_seconds": round(lasted, 1),
        "cores": os.cpu_count(),
        "cores_used_by_the_worker": round(used / lasted, 2),
        "volume": list(size),
        "panel_says": sentence,
        "train_tab_says": trained,
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=60.0, help="how long the job lasts, about")
    parser.add_argument("--size", type=int, nargs=3, default=(512, 512, 400), metavar="N", help="of the volume")
    parser.add_argument("--training", action="store_true", help="train a plugin meanwhile")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        size = tuple(options.size)
        figures = measure(Path(folder), seconds=options.seconds, size=size, training=options.training)
        print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
