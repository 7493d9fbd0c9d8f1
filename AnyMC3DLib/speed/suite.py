"""The whole measurement: which lines there are, and what they ran on."""

from __future__ import annotations

import os
import platform
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import timm
import torch

from .. import __version__
from ..errors import InputError
from ..progress import Progress, ProgressCallback
from . import gpu, inference, loaded, training
from .measure import Line, name_of
from .reference import check_peft

PARTS = ("floor", "plugins", "loaded", "swap", "worker", "training", "gpu")


def run(
    *,
    model: str,
    slices: int,
    device: torch.device,
    repeats: int,
    threads: int,
    only: Sequence[str] = (),
    progress: ProgressCallback | None = None,
) -> dict[str, Any]:
    """Measure the parts named in `only` (all by default); the result is JSON values."""
    unknown = [name for name in only if name not in PARTS]
    if unknown:
        raise InputError(f"There is no measurement '{unknown[0]}': choose among {', '.join(PARTS)}.")
    check_peft()
    torch.set_num_threads(threads)
    chosen = list(only) or [name for name in PARTS if name != "gpu" or device.type == "cuda"]
    if "gpu" in chosen and device.type != "cuda":
        raise InputError("The part 'gpu' needs a CUDA GPU: give --device cuda.")
    lines: list[Line] = []
    with tempfile.TemporaryDirectory(prefix="anymc3d-bench-") as folder:
        work = _work(Path(folder), model=model, slices=slices, device=device, repeats=repeats, threads=threads)
        for number, name in enumerate(chosen):
            if progress:
                progress(Progress(f"Measuring: {name}", number, len(chosen)))
            lines += work[name]()
    return {
        "machine": _machine(device, threads),
        "setting": {"model": model, "slices": slices, "size": inference.SIZE, "repeats": repeats},
        "lines": [line.to_dict() for line in lines],
    }


def _work(
    folder: Path, *, model: str, slices: int, device: torch.device, repeats: int, threads: int
) -> dict[str, Callable[[], list[Line]]]:
    setting = {"model": model, "slices": slices, "device": device}
    timed = {**setting, "repeats": repeats}
    return {
        "floor": lambda: inference.against_the_floor(folder, **timed),
        "plugins": lambda: inference.many_plugins(folder, **timed),
        "loaded": lambda: loaded.memory_of_plugins(folder, **setting, threads=threads),
        "swap": lambda: inference.swaps(folder, **setting),
        "worker": lambda: inference.through_the_worker(folder, **timed),
        "training": lambda: training.against_the_reference(**timed, threads=threads),
        "gpu": lambda: gpu.share_of_matrix_rate(folder, device=device, repeats=repeats),
    }


def _machine(device: torch.device, threads: int) -> dict[str, Any]:
    return {
        "device": name_of(device),
        "threads": threads,
        "cores": os.cpu_count(),
        "system": platform.system(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "timm": timm.__version__,
        "anymc3d": __version__,
    }
