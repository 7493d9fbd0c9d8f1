"""Timing so that two figures of one run can be divided, and the memory of a process of its own."""

from __future__ import annotations

import dataclasses
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from ..errors import AnyMC3DError
from ..memory import synchronise


@dataclasses.dataclass(frozen=True)
class Line:
    """A figure and its bar. `limit` None means that it is told, not judged; `at_most` says on which side it lies."""

    name: str
    value: float
    limit: float | None = None
    at_most: bool = True
    unit: str = "x"
    details: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def passed(self) -> bool | None:
        """Whether the bar is met; None without one."""
        if self.limit is None:
            return None
        return self.value <= self.limit if self.at_most else self.value >= self.limit

    def to_dict(self) -> dict[str, Any]:
        """The line as JSON values."""
        bar = None if self.limit is None else f"{'<=' if self.at_most else '>='} {self.limit:g}"
        return {
            "name": self.name,
            "value": float(f"{self.value:.4g}"),
            "unit": self.unit,
            "bar": bar,
            "passed": self.passed,
            **self.details,
        }


def seconds(work: Callable[[], object], device: torch.device) -> float:
    """How long `work` takes, to its end on the device."""
    synchronise(device)
    started = time.perf_counter()
    work()
    synchronise(device)
    return time.perf_counter() - started


def name_of(device: torch.device) -> str:
    """The card's name, or the kind of device."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


@dataclasses.dataclass(frozen=True)
class Times:
    """Seconds of each piece of work, repeat by repeat; the pieces of a repeat ran one after another."""

    runs: Mapping[str, Sequence[float]]

    def median(self, name: str) -> float:
        """The median seconds of a piece of work."""
        return statistics.median(self.runs[name])

    def ratio(self, name: str, floor: str) -> float:
        """The median over repeats of one piece's time by another's, so that a slow spell hits both."""
        return statistics.median(a / b for a, b in zip(self.runs[name], self.runs[floor], strict=True))

    def details(self, *names: str) -> dict[str, Any]:
        """The medians and every repeat, for the record."""
        return {name: {"median_s": round(self.median(name), 4), "s": [round(s, 4) for s in self.runs[name]]}
                for name in names}  # fmt: skip


def interleaved(work: Mapping[str, Callable[[], object]], device: torch.device, repeats: int) -> Times:
    """Time each piece of work `repeats` times in turn, after a first round that is not counted."""
    runs: dict[str, list[float]] = {name: [] for name in work}
    for number in range(repeats + 1):
        order = list(work) if number % 2 else list(reversed(work))
        for name in order:
            taken = seconds(work[name], device)
            if number:
                runs[name].append(taken)
    return Times(runs)


def in_a_process(module: str, *arguments: str, threads: int) -> dict[str, Any]:
    """The JSON that a module prints when it is run in a process of its own, where memory can be told apart."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    command = [sys.executable, "-m", module, *arguments]
    found = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if found.returncode:
        last = found.stderr.strip().splitlines()[-1:] or ["it said nothing"]
        raise AnyMC3DError(f"The measurement '{' '.join(command[2:])}' failed: {last[0]}")
    return json.loads(found.stdout.strip().splitlines()[-1])
