"""A suite of seconds: balls of two sizes in small volumes, a small network with random weights, few epochs."""

from __future__ import annotations

import json
import os
import signal
from multiprocessing.queues import SimpleQueue
from pathlib import Path

import numpy as np
import yaml

from AnyMC3DLib.benchmark import running
from AnyMC3DLib.benchmark.config import RowConfig
from AnyMC3DLib.benchmark.datasets import Dataset
from AnyMC3DLib.benchmark.rows import ResultsTable, Row
from AnyMC3DLib.benchmark.running import Running, run_suite
from AnyMC3DLib.benchmark.suites import read_suite
from AnyMC3DLib.control import Control

NAME, SIDE = "Balls", 32
BACKBONE = "timm:test_resnet"
COUNTS = {"train": 24, "val": 8, "test": 12}
WINDOW = {"kind": "window", "windows": [[127.5, 255.0]]}
TASK = {
    "plugin": {
        "name": NAME,
        "task_type": "binary",
        "classes": [{"name": "small"}, {"name": "large"}],
        "backbone": {"id": BACKBONE},
        "views": [
            {
                "name": "axial",
                "preprocessing": {
                    "size": [SIDE, SIDE],
                    "intensity": WINDOW,
                    "slices": {"policy": "at_most", "count": 4},
                },
            }
        ],
        "lora": {"rank": 2, "alpha": 4},
    },
    "training": {
        "epochs": 1,
        "batch": 8,
        "warm_up_epochs": 2,
        "objective": {"kind": "cross_entropy"},
        "augmentation": {},
        "keep": "last",
    },
}


def write_data(folder: Path) -> Path:
    """The task and the cases, as a MedMNIST file, in `folder`."""
    rng = np.random.default_rng(0)
    arrays: dict[str, np.ndarray] = {}
    distances = np.sqrt(((np.indices((SIDE,) * 3) - SIDE / 2) ** 2).sum(axis=0))
    for split, count in COUNTS.items():
        labels = np.arange(count) % 2
        radii = 6 + 5 * labels + rng.random(count)
        arrays[f"{split}_images"] = np.stack([(distances < radius) * 255 for radius in radii]).astype(np.uint8)
        arrays[f"{split}_labels"] = labels[:, None].astype(np.uint8)
    folder.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(folder / "balls.npz", **arrays)
    (folder / "balls.json").write_text(json.dumps(TASK), encoding="utf-8")
    return folder


def write_suite(folder: Path, *blocks: dict, name: str = "small") -> Path:
    """A suite of these blocks on the data in `folder`."""
    rows = [{"backbones": [BACKBONE], "pretrained": [False], **block} for block in blocks]
    content = {
        "title": "A small suite",
        "datasets": [{"name": NAME, "task": "balls.json"}],
        "rows": rows,
        "questions": [
            {"id": "methods", "title": "Which method?", "sentence": "Which method is best?", "axis": "method"}
        ],
    }
    place = folder / f"{name}.yaml"
    place.write_text(yaml.safe_dump(content), encoding="utf-8")
    return place


def read_small(suite: Path) -> tuple[list[RowConfig], dict[str, Dataset]]:
    """The rows and the datasets of a suite that lies beside its data."""
    read = read_suite(suite)
    datasets, _ = read.found(suite.parent)
    return read.configs(datasets), datasets


def run_small(suite: Path, results: Path, **settings: object) -> running.Summary:
    """Run the suite as the command does."""
    settings = {"apart": False, "cache": results / "cache", **settings}
    return run_suite(*read_small(suite), Running(results=results, **settings))


def run_until_killed(suite: Path, results: Path, moment: int) -> None:
    """Run the suite in a process that is ended by force at the given moment, counted in reports of progress."""
    told = iter(range(moment))

    def count(self: Control) -> None:
        if next(told, None) is None:
            os.kill(os.getpid(), signal.SIGKILL)

    Control.check = count  # type: ignore[method-assign]
    run_small(suite, results)


def run_and_tell(suite: Path, results: Path, done: SimpleQueue) -> None:
    """Run the suite and put into `done` how many rows were computed."""
    done.put(run_small(suite, results).done)


def without_times(row: Row) -> dict:
    """What of a row must be the same however often it was begun."""
    found = row.to_dict()
    return {name: found[name] for name in found if name not in ("minutes", "processor_minutes", "peak_mb", "reused")}


def contents(results: Path) -> dict[str, tuple]:
    """All rows without their times, and what their models said."""
    table = ResultsTable(results)
    return {
        row.key: (without_times(row), (results / "predictions" / f"{row.key}.csv").read_text(encoding="utf-8"))
        for row in table.rows()
    }
