"""How long a training will take and how much memory it needs, from a few of its cases and a few real steps.

Nothing is written, and the backbone is afterwards what it was, bit for bit.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch

from ..backbone import Backbone
from ..control import Control
from ..model import PluginNetwork
from ..progress import Progress, ProgressCallback
from .cases import Case
from .estimate_bench import CASES, PIECES, Bench, Costs, cut_some
from .estimate_plan import Plan, planned
from .phases import WARM_UP_BATCH
from .run import networks_own
from .slices import batch_count
from .step import StepMode
from .task import TaskSpec, TrainingSpec
from .trainer import prepare_spec


@dataclasses.dataclass(frozen=True)
class TrainingEstimate:
    """What a training will take; with `patience` it may end earlier.

    `parts` are the minutes of "reading", "warm-up", "training" and "validation", without those that the task does not
    have; `minutes` is their sum, over all folds. `memory_bytes` is the most that the process holds while training, or
    the GPU, and `available_bytes` what it may hold: what it holds now and what is free. `slices_bytes` are the cut
    slices and masks of all cases, which lie in the process's memory. `cases` are those of the first fold. `fits` says
    whether there is memory for it; on a GPU also whether the slices fit beside it.
    """

    minutes: float
    parts: Mapping[str, float]
    memory_bytes: int
    available_bytes: int
    slices_bytes: int
    cases: Mapping[str, int]
    fits: bool

    def to_dict(self) -> dict[str, Any]:
        """The estimate as JSON values."""
        return dataclasses.asdict(self)


def estimate_training(
    task: TaskSpec,
    cases: Sequence[Case],
    backbone: Backbone,
    *,
    train_splits: Sequence[str] = ("train",),
    validation_splits: Sequence[str] = ("val",),
    folds: int | None = None,
    mode: StepMode = "auto",
    progress: ProgressCallback | None = None,
    control: Control | None = None,
) -> TrainingEstimate:
    """Measure a few cases and steps, in about ten seconds, and reckon what `train_plugin` or `train_folds` will take.

    With `folds` both splits together are cross-validated. A cache of slices, which spares the reading, and test cases
    are not reckoned with. Raises InputError as the training would if task, data and backbone do not fit, or a case of
    the few cannot be read, and Cancelled once `control` is cancelled.
    """
    control = control or Control()
    spec = prepare_spec(task, backbone)
    plan = planned(task, spec, cases, train_splits, validation_splits, folds)
    tell = _telling(control, progress)
    sample, cut = cut_some(plan.typical, spec, with_masks=bool(task.training.pixels.weight), tell=tell)
    with _as_it_was(backbone, whole=task.training.method == "full"):
        network = PluginNetwork(spec, backbone).to(backbone.device)
        try:
            bench = Bench(network, task.training, plan, sample, mode=mode, control=control)
            tell(CASES)
            costs = bench.costs(cut, tell)
            memory = bench.memory()
        finally:
            network.close()
    tell(PIECES)
    parts = _minutes(task.training, plan, costs, warms_up=bench.warms_up, tunes=bench.tunes)
    train, validation = plan.rounds[0]
    return TrainingEstimate(
        sum(parts.values()), parts, memory.bytes, memory.available, memory.slices,
        {"train": train, "validation": validation}, memory.fits,
    )  # fmt: skip


@contextlib.contextmanager
def _as_it_was(backbone: Backbone, *, whole: bool) -> Iterator[None]:
    """Measure with the backbone, and give it back in its weights and its precision."""
    before = backbone.dtype
    # First, so that what is kept of a whole backbone are the weights that were loaded.
    backbone.set_precision(torch.float32)
    try:
        with networks_own(backbone, whole=whole):
            yield
    finally:
        backbone.set_precision(before)


def _telling(control: Control, progress: ProgressCallback | None) -> Callable[[int], None]:
    def tell(done: int) -> None:
        control.check()
        if progress is not None:
            progress(Progress("Estimating the training", done, PIECES))

    return tell


def _minutes(recipe: TrainingSpec, plan: Plan, costs: Costs, *, warms_up: bool, tunes: bool) -> dict[str, float]:
    """Minutes of each part that the task has, over all folds."""
    parts = dict.fromkeys(("reading", "warm-up", "training", "validation"), 0.0)
    epochs = recipe.epochs if tunes else 0
    # Without keeping the best only the last epoch is judged; and once more all is predicted at the end.
    looks = 1 + (epochs if recipe.keep == "best" else min(1, epochs))
    for train, validation in plan.rounds:
        parts["reading"] += (train + validation) * costs.cut
        if warms_up:
            embedded = train + (validation if recipe.warm_up_epochs else 0)
            an_epoch = -(-train // WARM_UP_BATCH) * costs.head + costs.judged
            parts["warm-up"] += embedded * costs.embed + recipe.warm_up_epochs * an_epoch
        studies = min(train, batch_count(train, recipe.batch) * recipe.batch)
        parts["training"] += epochs * studies * costs.study
        parts["validation"] += looks * validation * costs.embed
    return {name: seconds / 60 for name, seconds in parts.items() if seconds}
