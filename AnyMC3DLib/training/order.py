"""What is asked of a training, whoever asks: how the task is changed, where the results go, and the carrying out."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..backbone import Backbone
from ..control import Control
from ..errors import InputError
from ..progress import ProgressCallback
from ..spec import BackboneRef
from .cases import Case
from .folds import train_folds
from .methods import Method, with_method
from .processes import Processes
from .run import Keeping, TrainingResult, train_plugin
from .run_folder import MODEL, PLUGIN, write_run
from .slice_cache import SliceCache
from .step import StepMode
from .task import TaskSpec
from .trainer import EpochResult

GIGABYTE = 1 << 30


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingOrder:
    """A task, its cases, and how they are trained.

    `out` is the plugin file, None for a whole backbone: see `place_of`. With a folder `run` the state is kept there
    every `every_minutes`, and one that is there is gone on from if `resume`. With `folds` an ensemble is
    cross-validated on the cases of the train and validation splits. Slices are kept in `cache`, at most `cache_gb`.
    """

    task: TaskSpec
    cases: Sequence[Case]
    out: Path | None
    run: Path | None = None
    resume: bool = False
    every_minutes: float = 5.0
    folds: int | None = None
    train_splits: Sequence[str] = ("train",)
    validation_splits: Sequence[str] = ("val",)
    test_splits: Sequence[str] = ()
    cache: Path | None = None
    cache_gb: float = 20.0
    allow_unreadable: int = 0
    step: StepMode = "auto"

    @property
    def keeping(self) -> Keeping | None:
        """Where the state is kept."""
        return Keeping(self.run, resume=self.resume, every_s=60 * self.every_minutes) if self.run else None


def changed_task(
    task: TaskSpec,
    *,
    method: Method | None = None,
    backbone: str | None = None,
    seed: int | None = None,
    epochs: int | None = None,
) -> TaskSpec:
    """The task with what is asked for in the place of what it says; raises InputError where they do not fit."""
    if method is not None:
        task = with_method(task, method)
    plugin, recipe = task.plugin, task.training
    if backbone:
        plugin = dataclasses.replace(plugin, backbone=BackboneRef(id=backbone))
    given = {name: value for name, value in {"seed": seed, "epochs": epochs}.items() if value is not None}
    return dataclasses.replace(task, plugin=plugin, training=dataclasses.replace(recipe, **given))


def place_of(task: TaskSpec, *, out: str | Path | None, run: Path | None) -> Path | None:
    """Where the plugin goes; None for a whole backbone, which stays in the run's folder."""
    if task.training.method == "full":
        if run is None:
            raise InputError("A whole backbone that is trained stays in the folder of its run: name it with --run.")
        if out:
            raise InputError("A whole backbone that was trained is no plugin: leave --out away.")
        return None
    if not out and run is None:
        raise InputError("There is no place for the plugin: name a file or the folder of a run.")
    return Path(out) if out else run / PLUGIN


def carry_out(
    order: TrainingOrder,
    backbone: Backbone,
    *,
    progress: ProgressCallback | None = None,
    control: Control | None = None,
    on_epoch: Callable[[EpochResult, int | None], None] | None = None,
    processes: Processes | None = None,
) -> TrainingResult:
    """Train as ordered and write the plugin; of folds the result is the ensemble's.

    `on_epoch` is told what each epoch gave, and its fold from 1. Raises what `train_plugin` and `train_folds` do.
    """
    _check_free(order)
    common: dict[str, Any] = {
        "mode": order.step,
        "progress": progress,
        "control": control,
        "keeping": order.keeping,
        "cache": SliceCache(order.cache, max_bytes=int(order.cache_gb * GIGABYTE)) if order.cache else None,
        "allow_unreadable": order.allow_unreadable,
        "processes": processes,
    }
    if order.folds:
        splits = (*order.train_splits, *order.validation_splits)
        return train_folds(
            order.task, order.cases, backbone, order.out, count=order.folds, splits=splits, on_epoch=on_epoch, **common
        ).ensemble
    return train_plugin(
        order.task,
        order.cases,
        backbone,
        order.out,
        train_splits=order.train_splits,
        validation_splits=order.validation_splits,
        test_splits=order.test_splits,
        on_epoch=on_epoch and (lambda result: on_epoch(result, None)),
        **common,
    )


def _check_free(order: TrainingOrder) -> None:
    """Raise InputError where a run would take another's place that is whole, or that can be gone on with."""
    if order.run is None or order.resume:
        return
    left = [order.run / PLUGIN, order.run / MODEL, *order.run.glob("state/state-*"), *order.run.glob("fold-*/state/*")]
    if any(place.exists() for place in left):
        raise InputError(f"The folder '{order.run}' holds a run already: go on with --resume, or name another.")


def keep_run(
    order: TrainingOrder,
    result: TrainingResult,
    *,
    device: str,
    options: Mapping[str, Any],
    processes: Processes | None = None,
) -> Path | None:
    """Write the folder of an order that has a `run`, and return its page: see `write_run`.

    `options` are what was asked for, in the words of whoever asked.
    """
    return write_run(
        order.run, order.task, result, device=device, config={"options": options}, processes=processes,
        seen="out of fold" if order.folds else "validation",
    )  # fmt: skip
