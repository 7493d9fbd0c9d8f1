"""The worker's jobs around training: check a table, estimate, train, evaluate.

Each is lent its backbone by the room that keeps the backbones in memory. MONAI and scikit-learn take seconds to
import, which a worker that only classifies need not wait for: the training rooms are imported once a job needs them.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .allocator import keep_freed_memory
from .backbone import Backbone
from .control import Control
from .errors import Cancelled, InputError, Suspended
from .messages import Check, CourseParams, Estimate, Evaluate, Train
from .plugin import read_spec
from .progress import Progress, ProgressCallback
from .spec import PluginSpec
from .worker_progress import JobNotes
from .worker_study import checked_path

if TYPE_CHECKING:
    from .training.evaluation import Evaluation
    from .training.order import TrainingOrder
    from .training.run import TrainingResult
    from .training.task import TaskSpec, TrainingSpec
    from .training.trainer import EpochResult

# The backbone, in float32, by its name, or that of a plugin.
Lend = Callable[[str | PluginSpec], AbstractContextManager[Backbone]]


def check(params: Check, progress: ProgressCallback) -> dict[str, Any]:
    """The answer to `check`: `manifest_check.Report` as JSON values."""
    from .training.manifest_check import check_manifest

    return check_manifest(checked_path(params.data), _plugin_of(params.task), progress=progress).to_dict()


def estimate(params: Estimate, control: Control, progress: ProgressCallback, *, lend: Lend) -> dict[str, Any]:
    """The answer to `estimate`: `TrainingEstimate` as JSON values."""
    from .training.cases import read_cases
    from .training.estimate import estimate_training

    keep_freed_memory()
    task = _task_of(params)
    cases = read_cases(checked_path(params.data), task.plugin)
    progress(Progress("Opening the backbone", 0, 1))
    with lend(task.plugin.backbone.id) as backbone:
        return estimate_training(
            task,
            cases,
            backbone,
            train_splits=params.train_splits,
            validation_splits=params.val_splits,
            folds=params.folds,
            mode=params.step,
            progress=progress,
            control=control,
        ).to_dict()


def train(params: Train, control: Control, notes: JobNotes, *, lend: Lend) -> dict[str, Any]:
    """The answer to `train`; of one that was suspended, where it can go on."""
    from .training.order import carry_out

    keep_freed_memory()
    epochs: list[dict[str, Any]] = []
    started = time.monotonic()
    with _within(params.minutes, control):
        order = _order_of(params)
        tell = _epochs_told(order.task.training, epochs, notes)
        try:
            notes(Progress("Opening the backbone", 0, 1))
            with lend(order.task.plugin.backbone.id) as backbone:
                result = carry_out(order, backbone, progress=notes, control=control, on_epoch=tell)
                page = _kept(params, order, result, backbone, notes)
        except Suspended:
            if params.run is None:
                raise
            return {"suspended": True, "run": params.run, "epochs": epochs}
    return {
        "plugin": order.out and str(order.out),
        "run": params.run,
        "report": page and str(page),
        "parameters": result.parameters,
        "minutes": (time.monotonic() - started) / 60,
        "suspended": False,
        "epochs": epochs,
        **_told_of(result),
    }


def evaluate(params: Evaluate, progress: ProgressCallback, *, lend: Lend) -> dict[str, Any]:
    """The answer to `evaluate`."""
    from .training.cases import read_cases
    from .training.evaluation import evaluate_plugin

    path, data = checked_path(params.plugin), checked_path(params.data)
    spec = read_spec(path)
    progress(Progress("Opening the backbone", 0, 1))
    with lend(spec) as backbone:
        found = evaluate_plugin(
            path,
            lambda wanted: read_cases(data, wanted),
            backbone,
            splits=params.splits,
            against=params.against and checked_path(params.against),
            progress=progress,
        )
    progress(Progress("Measuring", 0, 1))
    about = {"plugin": spec.name, "splits": list(params.splits), "cases": len(found.ids)}
    return {**about, **_figures_of(found), **_detail_of(found)}


def _task_of(params: CourseParams | Train) -> TaskSpec:
    from .training.order import changed_task
    from .training.task import read_task, task_from

    if isinstance(params.task, Mapping):
        task = task_from(params.task, where="task")
    else:
        task = read_task(checked_path(params.task))
    seed = params.seed if isinstance(params, Train) else None
    return changed_task(task, method=params.method, backbone=params.backbone, seed=seed, epochs=params.epochs)


def _plugin_of(task: str | Mapping[str, Any] | None) -> PluginSpec | None:
    from .training.task import read_task

    if isinstance(task, Mapping):
        return PluginSpec.from_dict(task.get("plugin"), where="task.plugin")
    return None if task is None else read_task(checked_path(task)).plugin


def _order_of(params: Train) -> TrainingOrder:
    from .training.cases import read_cases
    from .training.order import TrainingOrder, place_of

    task, run = _task_of(params), params.run and checked_path(params.run)
    out = place_of(task, out=params.out and checked_path(params.out), run=run)
    return TrainingOrder(
        task=task,
        cases=read_cases(checked_path(params.data), task.plugin),
        out=out,
        run=run,
        resume=params.resume,
        every_minutes=params.every_minutes,
        folds=params.folds,
        train_splits=params.train_splits,
        validation_splits=params.val_splits,
        test_splits=params.test_splits,
        cache=params.cache and checked_path(params.cache),
        cache_gb=params.cache_gb,
        allow_unreadable=params.allow_unreadable,
        step=params.step,
    )


@contextlib.contextmanager
def _within(minutes: float | None, control: Control) -> Iterator[None]:
    """Stop the work once the minutes have passed; None lets it take as long as it takes."""
    passed = threading.Event()

    def end() -> None:
        passed.set()
        control.stop()

    timer = threading.Timer(60 * (minutes or 0), end)
    timer.daemon = True
    try:
        if minutes is not None:
            timer.start()
        yield
    except Suspended:
        raise
    except Cancelled as error:
        if not passed.is_set() or control.cancelled:
            raise
        # A person who waited for a plugin did not cancel anything.
        raise InputError(f"No epoch ended within {minutes:g} minutes: give the training more time.") from error
    finally:
        timer.cancel()


def _epochs_told(
    recipe: TrainingSpec, told: list[dict[str, Any]], notes: JobNotes
) -> Callable[[EpochResult, int | None], None]:
    """A callback that notes each epoch and adds it to `told`."""
    counts = {"warm-up": recipe.warm_up_epochs, "training": recipe.epochs}

    def tell(result: EpochResult, fold: int | None) -> None:
        # JSON has no NaN: an epoch without validation has no score.
        score = None if result.score != result.score else result.score
        facts = {"phase": result.phase, "epoch": result.epoch, "loss": result.loss, "score": score, "fold": fold}
        told.append(facts)
        notes.epoch(**facts, epochs=counts[result.phase])

    return tell


def _kept(
    params: Train, order: TrainingOrder, result: TrainingResult, backbone: Backbone, notes: JobNotes
) -> Path | None:
    """The page of a run, whose folder is written even if the training is cancelled now: its plugin is there already."""
    from .training.order import keep_run

    if order.run is None:
        return None
    with contextlib.suppress(Cancelled):
        notes(Progress("Writing the figures", 0, 1))
    return keep_run(order, result, device=str(backbone.device), options=params.to_dict())


def _told_of(result: TrainingResult) -> dict[str, Any]:
    from .training.told import hardest

    provenance, seen = result.spec.provenance, result.validation
    return {
        "stopped_early": bool(provenance.get("stopped_early", False)),
        "figures": provenance["validation"],
        "excluded": dict(result.excluded),
        "hardest": hardest(result.spec, seen.ids, seen.targets, seen.probabilities) if seen is not None else [],
    }


def _figures_of(found: Evaluation) -> dict[str, Any]:
    figures = {
        "auc": found.auc, "accuracy": found.accuracy, "auc_difference": found.difference,
        "beyond_training": found.share_beyond,
    }  # fmt: skip
    known: dict[str, Any] = {name: figure.to_dict() for name, figure in figures.items() if figure is not None}
    if found.against is not None:
        known["against"] = {"plugin": found.against.spec.name, **_figures_of(found.against)}
    return known


def _detail_of(found: Evaluation) -> dict[str, Any]:
    from .training import told
    from .training.scores import evaluate as scores_of

    said = found.targets, found.probabilities
    return {
        "results": scores_of(found.spec, *said, patients=found.patients).to_dict(),
        "curves": told.curves(found.spec, *said),
        "confusion": told.confusion(found.spec, *said),
        "predictions": told.predictions(found.spec, found.ids, *said),
    }
