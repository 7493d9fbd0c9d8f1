"""The longest gap in the Qt event loop while a large table of cases is worked with, as a Markdown table.

    python Testing/Benchmarks/dataset_table.py [--cases 2000]

The Dataset tab runs in the stand-in of Testing/Host, drawn offscreen. The gap is that of a timer that wants to run each
millisecond; the second figure is the part of it in which this thread computed, which other processes do not lengthen.
Each of the steps is done as often as is told, and the longest gap of all counts. The Python needs the extra `gui`.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(REPOSITORY / name) for name in ("", "AnyMC3D", "Testing/Host", "Testing/Module")]
os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")

import qt  # noqa: E402
import slicer  # noqa: E402
from host import start  # noqa: E402
from worker_desk import LongestGap, spin  # noqa: E402

SITES = ("Aachen", "Basel", "Cork", "Delft")
PAGES = 100


def write_table(path: Path, cases: int) -> None:
    """A table of cases with all columns filled and one that nothing knows."""
    lines = ["case,patient,image,label,mask,image_region,split,weight,site"]
    for number in range(cases):
        name, label = f"case-{number * 7919 % cases:04d}", ("no", "yes")[number % 3 == 0]
        files = f"images/{name}.nrrd,{label},masks/{name}.nrrd,regions/{name}.nrrd:1"
        split, site = ("train", "val", "test")[number % 3], SITES[number % 4]
        lines.append(f"{name},patient-{number // 2:012x},{files},{split},1,{site}")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def settle(seconds: float = 0.05) -> None:
    """Let the application draw."""
    ends = time.perf_counter() + seconds
    spin(lambda: time.perf_counter() > ends)


def measured(steps: list[Callable[[], None]]) -> tuple[float, float, int]:
    """The longest gap in ms over the steps, what of it was computed, and how many steps there were."""
    settle()
    gap = LongestGap()
    gap.start()
    for step in steps:
        qt.QTimer.singleShot(0, step)
        settle()
    gap.stop()
    return 1000 * gap.seconds, 1000 * gap.busy, len(steps)


def parts(panel: Any, ui: Any, path: Path) -> Iterator[tuple[str, list[Callable[[], None]]]]:
    """What a person does, by its name, and the steps of it."""
    view = ui.datasetTable
    yield "opening", [lambda: panel.open(path)]
    columns = panel.dataset.columns
    yield (
        "sorting by each column",
        [lambda number=number: view.sortByColumn(number, qt.Qt.DescendingOrder) for number in range(len(columns))],
    )
    words = ["c", "ca", "case-1", "case-1 yes", "basel", "no such word", ""]
    yield "filtering by a word", [lambda word=word: setattr(ui.datasetFilterEdit, "text", word) for word in words]
    bar = view.verticalScrollBar()
    yield f"scrolling {PAGES} pages", [lambda: bar.triggerAction(qt.QAbstractSlider.SliderPageStepAdd)] * PAGES
    model, split = view.model(), columns.index("split")
    texts = ["val", "train", "nonsense"] * 3
    yield "editing a cell", [lambda text=text: model.setData(model.index(5, split), text) for text in texts]
    yield "choosing all rows", [view.selectAll]
    yield "a label for all rows", [lambda: panel.table.put(panel.table.selected, "label", "yes")]
    problems = {key: ["there is no file."] for key in panel.dataset.keys}
    yield "marking all rows", [lambda: panel.table.mark(problems), lambda: panel.table.mark({})]


def measure(folder: Path, cases: int) -> list[tuple[str, float, float, int]]:
    """The longest gaps of each part."""
    path = folder / "cases.csv"
    write_table(path, cases)
    found = []
    with start() as host:
        from AnyMC3DUI.dataset_panel import DatasetPanel

        form = slicer.util.loadUI(str(REPOSITORY / "Resources" / "UI" / "AnyMC3DDataset.ui"))
        host.window.panel.setWidget(form)
        host.window.show()
        ui = slicer.util.childWidgetVariables(form)
        panel = DatasetPanel(ui, scene=slicer.mrmlScene, client=None, key=b"0", ask=None)
        from AnyMC3DLib.training.dataset import Dataset  # noqa: F401 - its import is not the table's

        for name, steps in parts(panel, ui, path):
            found.append((name, *measured(steps)))
        panel.close()
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--cases", type=int, default=2000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = measure(Path(folder), options.cases)
    print(f"{options.cases} cases\n\n| part | times | longest gap (ms) | of which computed (ms) |\n|---|---|---|---|")
    for name, seconds, busy, count in found:
        print(f"| {name} | {count} | {seconds:.1f} | {busy:.1f} |")


if __name__ == "__main__":
    main()
