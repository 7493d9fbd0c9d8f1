"""A client that answers as a test says, a clock that goes as it says, and tables of cases to train on."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

from AnyMC3DLib.messages import EpochNote, ProgressNote
from AnyMC3DLib.training.dataset import Dataset


@dataclasses.dataclass
class Request:
    """What was asked of the client, and how to answer it."""

    method: str
    params: Any
    done: Callable[[Any], None]
    failed: Callable[[Exception], None]
    progress: Callable[[ProgressNote], None] | None
    epoch: Callable[[EpochNote], None] | None

    def tells(self, step: str, done: int = 0, total: int = 1) -> None:
        self.progress(ProgressNote(id=1, step=step, done=done, total=total, elapsed_s=0.0))

    def ends_epoch(
        self, phase: str, epoch: int, epochs: int, *, loss: float = 0.5, score: float | None = 0.75,
        fold: int | None = None,
    ) -> None:  # fmt: skip
        note = EpochNote(id=1, phase=phase, epoch=epoch, epochs=epochs, loss=loss, score=score, fold=fold)
        self.epoch(note)


class FakeClient:
    """A client of a worker that is not there."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.cancelled: list[Request] = []
        self.closed: list[int] = []

    def request(
        self, method: str, params: Any = None, *, done: Any, failed: Any, progress: Any = None, epoch: Any = None
    ) -> Request:
        self.requests.append(Request(method, params, done, failed, progress, epoch))
        return self.requests[-1]

    def cancel(self, call: Request) -> None:
        self.cancelled.append(call)

    def close(self, *, wait_ms: int = 0) -> None:
        self.closed.append(wait_ms)

    @property
    def asked(self) -> list[str]:
        return [request.method for request in self.requests]

    @property
    def last(self) -> Request:
        return self.requests[-1]


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def table(folder: Path, *, masks: bool = False, splits: bool = True, count: int = 8) -> Dataset:
    """A table that a plugin can be trained on; the images themselves are not there."""
    dataset = Dataset(("no lesion", "lesion"))
    for number in range(count):
        split = {"split": ("train", "train", "val", "test")[number // 2 % 4]} if splits else {}
        mask = {"mask": f"mask-{number}.nrrd"} if masks and number == 1 else {}
        label = dataset.classes[number % 2]
        dataset.add(case=f"case {number}", image=f"image-{number}.nrrd", label=label, **split, **mask)
    dataset.save(folder / "cases.csv")
    return dataset


def answer(run: str, **changed: Any) -> dict[str, Any]:
    """What the worker says of a training that has ended."""
    hardest = [
        {"case": "case 4", "target": "lesion", "probabilities": {"no lesion": 0.9, "lesion": 0.1}, "loss": 2.3},
        {"case": "case 5", "target": "no lesion", "probabilities": {"no lesion": 0.75, "lesion": 0.25}, "loss": 0.3},
    ]
    given = {
        "plugin": str(Path(run) / "plugin.safetensors"), "run": run, "report": str(Path(run) / "report.html"),
        "parameters": 1000, "minutes": 12.4, "stopped_early": False, "suspended": False, "epochs": [],
        "figures": {"auc": {"value": 0.87, "low": 0.75, "high": 0.95}}, "excluded": {}, "hardest": hardest,
    }  # fmt: skip
    return {**given, **changed}
