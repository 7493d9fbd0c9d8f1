"""For test_resume.py: a training run of tiny cases, ended by SIGKILL at a named place if that is asked for."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from networks import plugin_spec, tiny_backbone, view

from AnyMC3DLib import files
from AnyMC3DLib.prediction import Study
from AnyMC3DLib.spec import HeadSpec, SliceSpec
from AnyMC3DLib.training import checkpoint, embedding, run, slice_cache, slices, step, trainer
from AnyMC3DLib.training.augmentation_spec import AugmentationSpec
from AnyMC3DLib.training.cases import Case
from AnyMC3DLib.training.run import Keeping, train_plugin
from AnyMC3DLib.training.slice_cache import SliceCache
from AnyMC3DLib.training.task import TaskSpec, TrainingSpec
from AnyMC3DLib.volume import Volume

# Where a process can be killed: what is called there, and whether before or after the call.
PLACES: dict[str, tuple[Any, str, str]] = {
    "reading a case": (slices, "preprocess", "before"),
    "before a cache write": (slice_cache.SliceCache, "_write", "before"),
    "after a cache write": (slice_cache.SliceCache, "_write", "after"),
    "embedding for the warm-up": (embedding.Embedder, "embed", "before"),
    "a step of the warm-up": (trainer.WarmUp, "gradients", "after"),
    "a step of the training": (trainer.Tuning, "gradients", "before"),
    "between gradients and the optimiser": (trainer.Tuning, "gradients", "after"),
    "within an accumulation": (step.GradientStep, "_loss", "after"),
    "after the optimiser": (torch.optim.AdamW, "step", "after"),
    "validation": (trainer, "probabilities_from", "before"),
    "the end of an epoch": (trainer.Trainer, "_end_epoch", "after"),
    "before a checkpoint": (checkpoint.CheckpointStore, "save", "before"),
    "within a checkpoint": (checkpoint, "save_file", "after"),
    "before a checkpoint takes its place": (files, "_flush_to_disk", "before"),
    "after a checkpoint": (checkpoint.CheckpointStore, "save", "after"),
    "before the plugin is written": (run, "save_plugin", "before"),
}


def killed_at(place: str, count: int) -> None:
    """Have this process killed when the place is reached for the time `count`."""
    owner, name, when = PLACES[place]
    inner: Callable[..., Any] = getattr(owner, name)
    reached: list[int] = []

    def outer(*arguments: Any, **named: Any) -> Any:
        reached.append(1)
        if len(reached) == count and when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        result = inner(*arguments, **named)
        if len(reached) == count:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(owner, name, outer)


def cases() -> list[Case]:
    """Twelve to train, six to validate: the brighter, the more a lesion."""
    found = []
    for number in range(18):
        rng = np.random.default_rng(number)
        array = (rng.uniform(0, 900, (5, 40, 48)) + 500 * (number % 2)).astype(np.float32)

        def load(array: np.ndarray = array) -> Study:
            return Study({"image": Volume(array, np.eye(4))})

        split = "train" if number < 12 else "val"
        found.append(Case(str(number), split, number % 2, load, content=lambda n=number: {"image": str(n)}))
    return found


def train(folder: Path, place: str | None = None, count: int = 0) -> None:
    """Train, or go on with what `folder`/run holds, and write `folder`/plugin.safetensors."""
    if place is not None:
        killed_at(place, count)
    torch.set_num_threads(1)
    backbone = tiny_backbone("test_vit", depth=1)
    views = (view(backbone, size=(32, 32), slices=SliceSpec()),)
    plugin = plugin_spec(backbone, views=views, head=HeadSpec(standardise=True, dropout=0.2))
    recipe = TrainingSpec(
        epochs=2, batch=4, warm_up_epochs=2, adapter_rate=1e-2, head_rate=1e-2, slices=3,
        augmentation=AugmentationSpec.paper(),
    )  # fmt: skip
    train_plugin(
        TaskSpec(plugin=plugin, training=recipe),
        cases(),
        backbone,
        folder / "plugin.safetensors",
        mode="speed",
        keeping=Keeping(folder / "run", resume=True, every_s=0.0),
        cache=SliceCache(folder / "cache", max_bytes=1 << 24),
    )
