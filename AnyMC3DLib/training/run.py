"""From a task and its data to a plugin file, and from a plugin file to its figures."""

from __future__ import annotations

import dataclasses
import datetime
import importlib.metadata
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from .. import __version__
from ..backbone import Backbone
from ..control import Control
from ..errors import InputError
from ..files import check_writable
from ..model import PluginNetwork
from ..plugin import load_networks, read_spec, save_plugin
from ..progress import Progress, ProgressCallback
from ..spec import PluginSpec
from .cases import Case, of_split
from .metrics import Estimate, accuracy, auc, bootstrap, paired_difference
from .slices import CutCases, cut_cases
from .step import StepMode
from .task import TaskSpec
from .trainer import EpochResult, Trainer, prepare_spec

logger = logging.getLogger(__name__)

LIBRARIES = ("torch", "timm", "monai", "numpy", "SimpleITK")


@dataclasses.dataclass(frozen=True)
class TrainingResult:
    """A trained plugin: its spec as it was written, what each epoch gave, and its size."""

    spec: PluginSpec
    history: list[EpochResult]
    parameters: int


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Figures of a plugin on some cases; `difference` is the paired difference in AUC to another plugin."""

    ids: list[str]
    targets: npt.NDArray[np.int64]
    probabilities: npt.NDArray[np.float64]
    auc: Estimate
    accuracy: Estimate
    difference: Estimate | None = None


def train_plugin(
    task: TaskSpec,
    cases: Sequence[Case],
    backbone: Backbone,
    out: str | Path,
    *,
    train_splits: Sequence[str] = ("train",),
    validation_splits: Sequence[str] = ("val",),
    mode: StepMode = "auto",
    progress: ProgressCallback | None = None,
    control: Control | None = None,
) -> TrainingResult:
    """Train the task's plugin and write it to `out`; raises InputError if task, data and backbone do not fit.

    `control` lets another thread pause, stop or cancel. A stopped training writes what it has reached, a cancelled
    one raises Cancelled and writes nothing.
    """
    control = control or Control()
    progress = _asking(control, progress)
    spec = prepare_spec(task, backbone)
    check_writable(out)
    shared = set(train_splits) & set(validation_splits)
    if shared:
        raise InputError(f"The split '{min(shared)}' cannot both train and validate: its figures would mean nothing.")
    train = cut_cases(of_split(cases, train_splits), spec, progress=progress)
    _check_classes(train, spec)
    validation = cut_cases(of_split(cases, validation_splits), spec, progress=progress) if validation_splits else None
    torch.manual_seed(task.training.seed)
    network = PluginNetwork(spec, backbone).to(backbone.device)
    try:
        trainer = Trainer(network, task.training, mode=mode, progress=progress, control=control)
        trainer.fit(train, validation)
        stopped = {"stopped_early": True} if control.stopping else {}
        figures = {}
        if validation is not None:
            figures = _figures(trainer.predict(validation, step="Validating"), validation.targets)
        parameters = sum(p.numel() for p in network.parameters())
        counts = {"train": _counts(train, spec), "validation": _counts(validation, spec) if validation else {}}
        provenance = _provenance(task, counts, figures, parameters, trainer.history)
        spec = dataclasses.replace(spec, provenance={**provenance, **stopped})
        control.check()
        save_plugin(out, spec, [network.state_dict()])
    finally:
        network.close()
    return TrainingResult(spec, trainer.history, parameters)


def _asking(control: Control, progress: ProgressCallback | None) -> ProgressCallback:
    """A callback that waits while the work is paused, and ends it once it is cancelled."""

    def report(step: Progress) -> None:
        control.check()
        if progress is not None:
            progress(step)

    return report


def evaluate_plugin(
    path: str | Path,
    cases: Callable[[PluginSpec], Sequence[Case]],
    backbone: Backbone,
    *,
    splits: Sequence[str] = ("test",),
    against: str | Path | None = None,
    progress: ProgressCallback | None = None,
) -> Evaluation:
    """Figures of the plugin file `path`, and the paired difference to the plugin file `against`."""
    ids, targets, probabilities = _predict(path, cases, backbone, splits, progress)
    difference = None
    if against is not None:
        if [c.name for c in read_spec(against).classes] != [c.name for c in read_spec(path).classes]:
            raise InputError("The two plugins do not answer for the same classes: they cannot be compared.")
        other_ids, other_targets, other = _predict(against, cases, backbone, splits, progress)
        if other_ids != ids or not np.array_equal(other_targets, targets):
            raise InputError("The two plugins do not answer for the same cases: they cannot be compared.")
        difference = paired_difference(auc, targets, probabilities, other)
    return Evaluation(
        ids,
        targets,
        probabilities,
        bootstrap(auc, targets, probabilities),
        bootstrap(accuracy, targets, probabilities),
        difference,
    )


def _predict(
    path: str | Path,
    cases: Callable[[PluginSpec], Sequence[Case]],
    backbone: Backbone,
    splits: Sequence[str],
    progress: ProgressCallback | None,
) -> tuple[list[str], npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    spec, networks = load_networks(path, backbone)
    try:
        cut = cut_cases(of_split(cases(spec), splits), spec, dtype=np.float32, progress=progress)
        members = []
        for network in networks:
            trainer = Trainer(network, TaskSpec(plugin=spec).training, progress=progress)
            members.append(trainer.predict(cut))
    finally:
        for network in networks:
            network.close()
    return cut.ids, cut.targets, np.mean(members, axis=0)


def _check_classes(cases: CutCases, spec: PluginSpec) -> None:
    for name, count in _counts(cases, spec).items():
        if count == 0:
            raise InputError(f"The training cases have none of class '{name}': nothing can be learnt about it.")


def _counts(cases: CutCases, spec: PluginSpec) -> dict[str, int]:
    if cases.targets.ndim == 2:
        counts = cases.targets.sum(axis=0)
    else:
        counts = np.bincount(cases.targets, minlength=len(spec.classes))
    return {c.name: int(n) for c, n in zip(spec.classes, counts, strict=True)}


def _figures(probabilities: npt.NDArray, targets: npt.NDArray) -> dict[str, Any]:
    return {
        "auc": bootstrap(auc, targets, probabilities).to_dict(),
        "accuracy": bootstrap(accuracy, targets, probabilities).to_dict(),
    }


def _provenance(
    task: TaskSpec, counts: dict[str, Any], figures: dict[str, Any], parameters: int, history: list[EpochResult]
) -> dict[str, Any]:
    warm_up = max((e.epoch for e in history if e.phase == "warm-up"), default=0)
    # JSON has no NaN: an epoch without validation has no score.
    epochs = [
        {"phase": e.phase, "epoch": e.epoch, "loss": round(e.loss, 5), "auc": None if e.score != e.score else e.score}
        for e in history
        if e.phase == "training" or e.epoch == warm_up
    ]
    return {
        **task.plugin.provenance,
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "counts": counts,
        "validation": figures,
        "parameters": parameters,
        "recipe": task.training.to_dict(),
        "epochs": epochs,
        "versions": {"anymc3d": __version__, **{name: importlib.metadata.version(name) for name in LIBRARIES}},
    }
