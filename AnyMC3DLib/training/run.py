"""From a task and its data to a plugin file, and from a plugin file to its figures."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import hashlib
import importlib.metadata
import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from .. import __version__
from ..backbone import Backbone
from ..control import Control
from ..errors import InputError, Suspended
from ..files import check_writable
from ..model import PluginNetwork
from ..plugin import save_plugin
from ..progress import Progress, ProgressCallback
from ..spec import PluginSpec
from .calibration import calibrated, fit_calibration
from .cases import Case, of_split
from .checkpoint import CheckpointStore
from .feature_cache import FeatureCache
from .learn_scope import learn_scope, some_of
from .metrics import accuracy, auc, bootstrap
from .operating_curve import operating_figures
from .pixel_supervision import PixelDecoder
from .processes import Processes
from .slice_cache import SliceCache
from .slices import CutCases, cut_cases
from .step import StepMode
from .task import TaskSpec
from .trainer import EpochResult, Trainer, prepare_spec

logger = logging.getLogger(__name__)

LIBRARIES = ("torch", "timm", "monai", "numpy", "SimpleITK")


@dataclasses.dataclass(frozen=True)
class Predicted:
    """What a trained network says of some cases: probabilities [N, classes] beside their targets."""

    ids: list[str]
    patients: list[str]
    targets: npt.NDArray[np.int64]
    probabilities: npt.NDArray[np.float64]


@dataclasses.dataclass(frozen=True)
class TrainingResult:
    """A trained plugin: its spec as it was written, what each epoch gave, its size, and what it says of held-out cases.

    `state` is what the plugin file holds, `excluded` names the cases that were left out, and why, and
    `decoder` is that of the masks, where the task wants it kept.
    """

    spec: PluginSpec
    history: list[EpochResult]
    parameters: int
    state: Mapping[str, torch.Tensor] = dataclasses.field(default_factory=dict)
    validation: Predicted | None = None
    test: Predicted | None = None
    excluded: Mapping[str, str] = dataclasses.field(default_factory=dict)
    decoder: PixelDecoder | None = None


@dataclasses.dataclass(frozen=True)
class Build:
    """What is trained: a network for a spec and a backbone, and what becomes of the cases' slices before it."""

    network: Callable[[PluginSpec, Backbone], PluginNetwork]
    arranged: Callable[[CutCases], CutCases] = lambda cases: cases


PLUGIN_BUILD = Build(PluginNetwork)


@dataclasses.dataclass(frozen=True)
class Keeping:
    """Where a run keeps its state, so that it can go on after an interruption; None keeps nothing.

    With `resume` a state that is there is gone on from; without, a folder that has one is refused. `every_s` is the
    time between two states, besides that at the end of each epoch.
    """

    folder: Path
    resume: bool = False
    every_s: float = 300.0

    def store(self) -> CheckpointStore:
        """The states; raises InputError where another run's would be lost."""
        found = CheckpointStore(self.folder / "state", every_s=self.every_s)
        if not self.resume and found.newest() is not None:
            raise InputError(f"The folder '{self.folder}' holds a run already: go on with --resume, or name another.")
        return found


def train_plugin(
    task: TaskSpec,
    cases: Sequence[Case],
    backbone: Backbone,
    out: str | Path | None,
    *,
    train_splits: Sequence[str] = ("train",),
    validation_splits: Sequence[str] = ("val",),
    test_splits: Sequence[str] = (),
    mode: StepMode = "auto",
    progress: ProgressCallback | None = None,
    control: Control | None = None,
    keeping: Keeping | None = None,
    cache: SliceCache | None = None,
    allow_unreadable: int = 0,
    processes: Processes | None = None,
    on_epoch: Callable[[EpochResult], None] | None = None,
    build: Build = PLUGIN_BUILD,
    features: FeatureCache | None = None,
    scope: bool = True,
) -> TrainingResult:
    """Train the task's plugin and write it to `out`; raises InputError if task, data and backbone do not fit.

    `control` lets another thread pause, stop, suspend or cancel. A stopped training writes what it has reached, a
    cancelled one raises Cancelled and writes nothing, a suspended one raises Suspended and can go on if it is `keeping`
    its state. The test cases are looked at once, at the end. With several `processes` all call this with the same
    arguments, and the first writes. A whole backbone that was trained (`method` "full") is no plugin: `out` is None.
    `on_epoch` is told what each epoch gave, of a run that goes on its past ones first. A `build` other than the
    plugin's own is no plugin either. Embeddings of the frozen backbone are kept in `features`. With `scope` the plugin
    is told which studies it has learnt from.
    """
    if build is not PLUGIN_BUILD and out is not None:
        raise InputError(f"What '{task.plugin.name}' is built as is no plugin: it cannot be written to '{out}'.")
    control, processes = control or Control(), processes or Processes()
    progress = _asking(control, progress)
    spec = prepare_spec(task, backbone)
    check_arguments(task, out, train_splits, validation_splits, test_splits)
    store = keeping.store() if keeping is not None else None
    train, validation, test = _cut(
        [of_split(cases, splits) if splits else [] for splits in (train_splits, validation_splits, test_splits)],
        spec, progress=_ending(control, progress), cache=cache, allowed=allow_unreadable,
        with_masks=bool(task.training.pixels.weight),
    )  # fmt: skip
    check_classes(train, spec)
    check_patients(train, validation, test)
    train, validation, test = (cases and build.arranged(cases) for cases in (train, validation, test))
    torch.manual_seed(task.training.seed)
    with networks_own(backbone, whole=task.training.method == "full"):
        network = build.network(spec, backbone).to(backbone.device)
        try:
            trainer = Trainer(
                network, task.training, mode=mode, progress=progress, control=control, processes=processes,
                store=store, fingerprint=_fingerprint(spec, task, train, validation), on_epoch=on_epoch,
                features=features,
            )  # fmt: skip
            trainer.fit(train, validation)
            scoped = scope and build is PLUGIN_BUILD and task.training.method != "full"
            result = _result_of(trainer, task, spec, train, validation, scoped=scoped)
            network.spec = result.spec
            if test is not None:
                tested = _predicted(trainer, test, step="Testing")
                result = dataclasses.replace(result, test=tested, excluded={**result.excluded, **test.excluded})
        finally:
            network.close()
    control.check()
    if out is not None and processes.leads:
        save_plugin(out, result.spec, [result.state])
    return result


def _cut(
    parts: Sequence[Sequence[Case]],
    spec: PluginSpec,
    *,
    progress: ProgressCallback,
    cache: SliceCache | None,
    allowed: int,
    with_masks: bool,
) -> tuple[CutCases, CutCases | None, CutCases | None]:
    """The slices of the cases to train, validate and test on, before any of them is used; all share one allowance."""
    found: list[CutCases | None] = []
    for number, cases in enumerate(parts):
        if not cases:
            found.append(None)
            continue
        left = allowed - sum(len(one.excluded) for one in found if one is not None)
        found.append(
            cut_cases(
                cases, spec, dtype=np.float32 if number == 2 else np.float16, progress=progress, cache=cache,
                with_masks=with_masks and number == 0, allow_unreadable=left,
            )
        )  # fmt: skip
    return found[0], found[1], found[2]


def _ending(control: Control, progress: ProgressCallback) -> ProgressCallback:
    """As `progress`, and an end where nothing is lost by it."""

    def report(step: Progress) -> None:
        progress(step)
        if control.suspended:
            raise Suspended("The training was asked to end before it had begun: start it again.")

    return report


def check_patients(*parts: CutCases | None) -> None:
    """Raise InputError if a patient is in two of them: figures of patients that were learnt from mean nothing."""
    seen: dict[str, int] = {}
    for number, part in enumerate(parts):
        for patient in part.patients if part is not None else ():
            if seen.setdefault(patient, number) != number:
                raise InputError(f"The patient '{patient}' is in two splits: put all cases of one into one split.")


def check_arguments(
    task: TaskSpec, out: str | Path | None, train: Sequence[str], validation: Sequence[str], test: Sequence[str]
) -> None:
    """Raise InputError for splits that serve two purposes, and for settings that nothing could come of."""
    if not validation and (task.training.calibrate or task.training.patience):
        raise InputError("Without validation cases nothing can be calibrated, nor ended early: leave both out.")
    if out is not None:
        check_writable(out)
        if task.training.method == "full":
            raise InputError("A whole backbone that was trained is no plugin: it stays in the run's folder.")
    shared = set(train) & set(validation)
    if shared:
        raise InputError(f"The split '{min(shared)}' cannot both train and validate: its figures would mean nothing.")
    seen = (set(train) | set(validation)) & set(test)
    if seen:
        raise InputError(f"The split '{min(seen)}' cannot test what was trained or chosen by it: give another.")


@contextlib.contextmanager
def networks_own(backbone: Backbone, *, whole: bool) -> Iterator[None]:
    """Let the whole backbone be trained, and give it back as it was."""
    if not whole:
        yield
        return
    before = {name: tensor.detach().cpu().clone() for name, tensor in backbone.model.state_dict().items()}
    backbone.model.requires_grad_(True)
    try:
        yield
    finally:
        backbone.set_precision(torch.float32)
        backbone.model.requires_grad_(False)
        backbone.model.zero_grad(set_to_none=True)
        backbone.model.load_state_dict(before)


def _fingerprint(spec: PluginSpec, task: TaskSpec, train: CutCases, validation: CutCases | None) -> str:
    """What a run is about: its task, its backbone, and which cases with which answers it learns from."""
    parts = [spec.to_dict(), task.training.to_dict()]
    for cases in (train, validation):
        weights = None if cases is None or cases.weights is None else cases.weights.tolist()
        masked = [] if cases is None else [n for n in range(len(cases)) if cases.mask_of(n) is not None]
        parts.append(None if cases is None else [cases.ids, cases.targets.tolist(), weights, masked])
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _result_of(
    trainer: Trainer,
    task: TaskSpec,
    spec: PluginSpec,
    train: CutCases,
    validation: CutCases | None,
    *,
    scoped: bool,
) -> TrainingResult:
    network = trainer.network
    held = [] if validation is None else trainer.embed(validation, step="Validating")
    predicted = None if validation is None else _said_of(validation, trainer.answers(held, validation))
    if scoped:
        some = some_of(train, seed=task.training.seed)
        seen = trainer.embed(some, step="Learning its scope")
        scope = learn_scope(network, train, seen, patients=some.patients, held_out=held)
        spec = dataclasses.replace(spec, scope=scope)
    figures: dict[str, Any] = {}
    if predicted is not None:
        if task.training.calibrate:
            spec, predicted = _calibrated(spec, predicted)
        figures = {**_figures(predicted), **operating_figures(spec, predicted.targets, predicted.probabilities)}
    parameters = sum(p.numel() for p in network.parameters())
    counts = {"train": _counts(train, spec), "validation": _counts(validation, spec) if validation else {}}
    provenance = _provenance(task, counts, figures, parameters, trainer.history)
    if trainer.stopped:
        provenance["stopped_early"] = True
    if trainer.steps_in_float32:
        provenance["steps_in_float32"] = trainer.steps_in_float32
    tensors = network.state_dict() if task.training.method != "full" else trainer.weights()
    plain = torch.contiguous_format
    state = {name: tensor.detach().cpu().clone(memory_format=plain) for name, tensor in tensors.items()}
    if task.training.method == "full":
        parameters += sum(p.numel() for p in network.backbone.model.parameters())
    excluded = {**train.excluded, **(validation.excluded if validation else {})}
    return TrainingResult(
        dataclasses.replace(spec, provenance=provenance), trainer.history, parameters, state, predicted,
        excluded=excluded, decoder=trainer.decoder if task.training.pixels.keep_decoder else None,
    )  # fmt: skip


def _predicted(trainer: Trainer, cases: CutCases, *, step: str) -> Predicted:
    return _said_of(cases, trainer.predict(cases, step=step))


def _said_of(cases: CutCases, probabilities: npt.NDArray[np.float64]) -> Predicted:
    return Predicted(cases.ids, cases.patients, cases.targets, probabilities)


def _calibrated(spec: PluginSpec, predicted: Predicted) -> tuple[PluginSpec, Predicted]:
    """Temperature and thresholds from the validation cases."""
    found = fit_calibration(predicted.probabilities, predicted.targets, spec)
    for warning in found.warnings:
        logger.warning("%s", warning)
    calm = calibrated(predicted.probabilities, found.temperature, spec)
    return found.applied_to(spec), dataclasses.replace(predicted, probabilities=calm)


def _asking(control: Control, progress: ProgressCallback | None) -> ProgressCallback:
    """A callback that waits while the work is paused, and ends it once it is cancelled."""

    def report(step: Progress) -> None:
        control.check()
        if progress is not None:
            progress(step)

    return report


def check_classes(cases: CutCases, spec: PluginSpec) -> None:
    """Raise InputError if a class has no case: only the targets are looked at."""
    for name, count in _counts(cases, spec).items():
        if count == 0:
            raise InputError(f"The training cases have none of class '{name}': nothing can be learnt about it.")


def _counts(cases: CutCases, spec: PluginSpec) -> dict[str, int]:
    if cases.targets.ndim == 2:
        counts = (cases.targets == 1).sum(axis=0)
    else:
        counts = np.bincount(cases.targets, minlength=len(spec.classes))
    return {c.name: int(n) for c, n in zip(spec.classes, counts, strict=True)}


def _figures(predicted: Predicted) -> dict[str, Any]:
    given = predicted.targets, predicted.probabilities
    return {
        "auc": bootstrap(auc, *given, patients=predicted.patients).to_dict(),
        "accuracy": bootstrap(accuracy, *given, patients=predicted.patients).to_dict(),
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
