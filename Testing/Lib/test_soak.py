"""Hundreds of jobs of every kind through one worker: all are answered, nothing stays, and the memory does not grow."""

from __future__ import annotations

import json
import os
import queue
import random
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from networks import three_views, view, write_plugin
from shell import findable_backbone
from volumes import GRID, HEADERS, anatomy, study

from AnyMC3DLib.client import RequestFailed
from AnyMC3DLib.errors import AnyMC3DError, Cancelled
from AnyMC3DLib.messages import LogNote
from AnyMC3DLib.protocol import INPUT_AT_FAULT, NOT_ENOUGH_MEMORY, WRONG_STATE
from AnyMC3DLib.transport import Request, WorkerProcess
from AnyMC3DLib.workspace import BASE_VARIABLE

JOBS = 300
SETTLED = 60  # jobs after which all libraries are loaded and all pools are filled
SHORTAGES = (110, 220)  # before these jobs the memory is made too small
MOST_GROWTH_MB = 30.0
SLACK = 128 << 20
WAIT_S = 120.0
SEED = 2025
REPORT_VARIABLE = "ANYMC3D_SOAK_JSON"
PLUGINS = {"A": ("One", "Three"), "B": ("Other", "Views")}
# How often each kind of job comes.
SHARES = {"classify": 45, "render": 16, "cancel": 9, "bad": 16, "swap": 5, "reload": 5, "preview": 4}


class Soak:
    """One worker, what it has loaded, and what it has answered."""

    def __init__(self, folder: Path) -> None:
        self.rng, self.folder = random.Random(SEED), folder
        self.answers: Counter[str] = Counter()
        self.sent, self.loaded, self.jobs = 0, "", list[tuple[str, tuple[str, ...]]]()
        self.memory_mb: dict[int, float] = {}
        self._unclaimed: queue.Queue[str] = queue.Queue()
        self.weights: dict[str, Path] = {}
        self._write_plugins()
        self.worker = WorkerProcess(environment={BASE_VARIABLE: str(folder)}, on_log=self._logged)

    def _write_plugins(self) -> None:
        for letter, model in (("A", "test_vit"), ("B", "test_resnet")):
            backbone, self.weights[letter] = findable_backbone(self.folder, model)
            for name in PLUGINS[letter]:
                views = three_views(backbone) if name in ("Three", "Views") else (view(backbone),)
                write_plugin(self.plugin(name), backbone, name=name, views=views)
            if letter == "A":
                huge = view(backbone, size=(4096, 4096))
                write_plugin(self.plugin("Huge"), backbone, name="Huge", views=(huge,))

    def plugin(self, name: str) -> Path:
        return self.folder / f"{name}.safetensors"

    def _logged(self, note: LogNote) -> None:
        if "belongs to no request" in note.message:
            self._unclaimed.put(note.message)

    def ask(self, method: str, **params: Any) -> Request:
        self.sent += 1
        return self.worker.request(method, params)

    def settle(self, request: Request, *, expected: type[AnyMC3DError] | None = None, code: int | None = None) -> Any:
        """The result of a request, or None for an error; each counts, and one that was not expected fails."""
        try:
            result = request.result(WAIT_S)
        except AnyMC3DError as error:
            assert expected is not None and isinstance(error, expected), error
            assert code is None or error.code == code, error
            self.answers[type(error).__name__ + (f" {error.code}" if isinstance(error, RequestFailed) else "")] += 1
            return None
        self.answers["result"] += 1
        return result

    def image(self, array: np.ndarray | None = None) -> dict[str, Any]:
        header = self.rng.choice(list(HEADERS))
        values = anatomy(seed=self.rng.randrange(5)) if array is None else array
        return {"array": self.worker.put_array(values), "ijk_to_ras": HEADERS[header].tolist()}

    def load(self, letter: str) -> None:
        for name in PLUGINS[letter]:
            self.settle(self.ask("load", path=str(self.plugin(name)), weights=str(self.weights[letter])))
        self.loaded = letter

    def some_plugins(self) -> tuple[str, ...]:
        names = PLUGINS[self.loaded]
        return tuple(self.rng.sample(names, self.rng.randint(1, len(names))))

    def classify(self) -> None:
        names, maps = self.some_plugins(), self.rng.choice(["none", "attention", "all", "all"])
        told = self.settle(self.ask("classify", images={"image": self.image()}, plugins=names, maps=maps))
        assert set(told["predictions"]) == set(names)
        if maps == "all":
            self.jobs = [*self.jobs, (told["job"], names)][-2:]

    def render(self) -> None:
        if not self.jobs:
            return self.classify()
        job, names = self.rng.choice(self.jobs)
        grid = [self.rng.randint(8, 40) for _ in range(3)]
        place = {"shape": grid, "ijk_to_ras": HEADERS["oblique"].tolist(), "class": "lesion"}
        request = self.ask("render", job=job, plugin=self.rng.choice(names), **place)
        # Four jobs are kept, and those without maps count too.
        result = self.settle(request, expected=RequestFailed, code=WRONG_STATE)
        if result is not None:
            assert list(self.worker.take_array(result).shape) == grid
        return None

    def preview(self) -> None:
        result = self.settle(self.ask("preview", images={"image": self.image()}, view=view_of_preview()))
        assert self.worker.take_array(result).ndim == 4

    def cancel(self) -> None:
        """Several requests at once, of which one is cancelled: it may have its answer already."""
        requests = [self.ask("classify", images={"image": self.image()}) for _ in range(self.rng.randint(1, 3))]
        chosen = self.rng.choice(requests)
        self.settle(self.ask("cancel", request=chosen.id), expected=RequestFailed, code=WRONG_STATE)
        for request in requests:
            self.settle(request, expected=Cancelled if request is chosen else None)

    def bad(self) -> None:
        with_nan = anatomy()
        with_nan[2, 3, 4] = np.nan
        wrong = self.worker.folder / f"{self.sent}.npy"
        wrong.write_bytes(b"\x93NUMPY\x01\x00nonsense")
        good = self.image
        params = self.rng.choice([
            lambda: {"images": {"image": {"file": str(self.folder / "nowhere.nrrd")}}},
            lambda: {"images": {"image": good(with_nan)}},
            lambda: {"images": {"image": {"array": str(wrong), "ijk_to_ras": HEADERS["straight"].tolist()}}},
            lambda: {"images": {"image": good(np.zeros(GRID))}},
            lambda: {"images": {"image": good()}, "plugins": ["Unknown"]},
            lambda: {"images": {"other": good()}},
            lambda: None,
        ])()  # fmt: skip
        if params is None:
            self.malformed()
        else:
            self.settle(self.ask("classify", **params), expected=RequestFailed, code=INPUT_AT_FAULT)
        wrong.unlink(missing_ok=True)

    def malformed(self) -> None:
        self.sent += 1
        self.worker._send(self.rng.choice([b"{\n", b"[1]\n", b"\xff\xfe\n", b"x" * (1 << 21) + b"\n", b'{"id": 1}\n']))
        assert self._unclaimed.get(timeout=WAIT_S)
        self.answers["malformed line"] += 1

    def swap(self) -> None:
        self.load("B" if self.loaded == "A" else "A")

    def reload(self) -> None:
        name = self.rng.choice(PLUGINS[self.loaded])
        self.settle(self.ask("unload", name=name))
        self.settle(self.ask("load", path=str(self.plugin(name)), weights=str(self.weights[self.loaded])))

    def shortage(self) -> None:
        """A plugin whose slices take more memory than the worker may have, and a good job after it."""
        self.load("A")
        self.settle(self.ask("load", path=str(self.plugin("Huge")), weights=str(self.weights["A"])))
        with little_memory(self.worker.pid):
            request = self.ask("classify", images={"image": self.image()}, plugins=["Huge"], maps="none")
            assert self.settle(request, expected=RequestFailed, code=NOT_ENOUGH_MEMORY) is None
        self.settle(self.ask("unload", name="Huge"))
        self.classify()

    def measure(self) -> None:
        """The memory in a state that is the same each time."""
        self.load("A")
        image = {"array": self.worker.put_array(study().array), "ijk_to_ras": HEADERS["straight"].tolist()}
        self.settle(self.ask("classify", images={"image": image}))
        assert list(self.worker.folder.iterdir()) == []
        self.memory_mb[self.sent] = round(psutil.Process(self.worker.pid).memory_info().rss / 2**20, 1)

    def run(self) -> None:
        self.load("A")
        shortages, next_measure = list(SHORTAGES), SETTLED
        while self.sent < JOBS:
            if shortages and self.sent >= shortages[0]:
                shortages.pop(0)
                self.shortage()
            else:
                kind = self.rng.choices(list(SHARES), list(SHARES.values()))[0]
                job: Callable[[], None] = getattr(self, kind)
                job()
            if self.sent >= next_measure:
                next_measure += SETTLED
                self.measure()
        self.measure()


def view_of_preview() -> dict[str, Any]:
    return {"name": "axial", "preprocessing": {"axis": "coronal", "size": [64, 64]}}


@contextmanager
def little_memory(pid: int) -> Iterator[None]:
    """Within the block the process gets little more address space than it has."""
    process = psutil.Process(pid)
    _, hard = process.rlimit(psutil.RLIMIT_AS)
    process.rlimit(psutil.RLIMIT_AS, (process.memory_info().vms + SLACK, hard))
    try:
        yield
    finally:
        process.rlimit(psutil.RLIMIT_AS, (hard, hard))


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux can limit another process's memory")
def test_one_worker_answers_hundreds_of_jobs_and_keeps_nothing(tmp_path: Path) -> None:
    soak = Soak(tmp_path)
    with soak.worker:
        folder = soak.worker.folder
        soak.run()
        assert soak.worker._protocol.pending == ()
    figures = {"jobs": soak.sent, "answers": dict(soak.answers), "memory_mb": soak.memory_mb}
    settled, last = (soak.memory_mb[number] for number in (min(soak.memory_mb), max(soak.memory_mb)))
    figures["growth_mb"] = round(last - settled, 1)
    if REPORT_VARIABLE in os.environ:
        Path(os.environ[REPORT_VARIABLE]).write_text(json.dumps(figures, indent=2), encoding="utf-8")
    assert sum(soak.answers.values()) == soak.sent >= JOBS
    assert soak.answers[f"RequestFailed {NOT_ENOUGH_MEMORY}"] == len(SHORTAGES)
    assert not folder.exists()
    assert figures["growth_mb"] < MOST_GROWTH_MB, figures
