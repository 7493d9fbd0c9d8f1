"""Cross-validation: a member for each fold, what each says of the cases that it has not seen, and the ensemble."""

from __future__ import annotations

import dataclasses
import functools
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..backbone import Backbone
from ..control import Control
from ..errors import Cancelled, InputError, Suspended
from ..files import check_writable
from ..plugin import DENSITY, save_plugin
from ..progress import Progress, ProgressCallback
from ..scope import joined
from ..spec import PluginSpec, ScopeSpec
from .calibration import calibrated, fit_calibration
from .cases import Case, of_split
from .metrics import auc, bootstrap
from .operating_curve import operating_figures
from .processes import Processes
from .run import Keeping, Predicted, TrainingResult, train_plugin
from .splits import folds
from .task import TaskSpec
from .trainer import EpochResult

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class FoldsResult:
    """The ensemble's spec as it was written, each fold's own result, and the out-of-fold predictions of all cases."""

    ensemble: TrainingResult
    members: tuple[TrainingResult, ...]
    unseen: Predicted


def train_folds(
    task: TaskSpec,
    cases: Sequence[Case],
    backbone: Backbone,
    out: str | Path,
    *,
    count: int,
    splits: Sequence[str] = ("train", "val"),
    keeping: Keeping | None = None,
    progress: ProgressCallback | None = None,
    on_epoch: Callable[[EpochResult, int], None] | None = None,
    **options: Any,
) -> FoldsResult:
    """Train `count` members, each on all folds but one, and write them as one plugin to `out`.

    Folds are by patient, stratified and seeded. A member is that of its last epoch, whatever the task says, since its
    own fold may not choose the epoch that it is measured at. Temperature and thresholds come from the out-of-fold
    predictions, where the task asks for them. `on_epoch` is told the fold too, from 1. Other options are those of
    `train_plugin`. Raises InputError as that does.
    """
    if task.training.method == "full":
        raise InputError("Members of an ensemble share one backbone: train it whole without folds.")
    check_writable(out)
    # A table without splits is all there is.
    pool = of_split(cases, splits) if any(case.split for case in cases) else list(cases)
    targets = [case.target for case in pool]
    patients = [case.patient or case.id for case in pool]
    numbers = folds([case.id for case in pool], patients, targets, k=count, seed=task.training.seed)
    members = []
    control = options.get("control") or Control()
    for fold in range(count):
        if control.stopping:
            raise Suspended(f"The training was stopped before fold {fold + 1} of {count}, but an ensemble needs all.")
        own = _parted(pool, numbers, fold)
        try:
            members.append(
                train_plugin(
                    _without_a_look(task),
                    own,
                    backbone,
                    None,
                    keeping=_of_fold(keeping, fold),
                    progress=_told(progress, fold, count),
                    on_epoch=on_epoch and functools.partial(_tell, on_epoch, fold),
                    **options,
                )
            )
        except Suspended:
            raise
        except Cancelled as error:
            if fold == 0 or control.cancelled or not control.stopping:
                raise
            # The folds before are kept, and their work can be gone on with.
            words = f"The training was stopped in fold {fold + 1} of {count}, but an ensemble needs all."
            raise Suspended(words) from error
    unseen = _joined([member.validation for member in members])
    spec = dataclasses.replace(members[0].spec, members=count, scope=_scope_of(members, cases=len(unseen.ids)))
    if task.training.calibrate:
        found = fit_calibration(unseen.probabilities, unseen.targets, spec)
        for warning in found.warnings:
            logger.warning("%s", warning)
        calm = calibrated(unseen.probabilities, found.temperature, spec)
        spec, unseen = found.applied_to(spec), dataclasses.replace(unseen, probabilities=calm)
    spec = dataclasses.replace(spec, provenance=_provenance(spec, members, unseen))
    if (options.get("processes") or Processes()).leads:
        save_plugin(out, spec, [_state_of(member, spec) for member in members])
    parameters = sum(member.parameters for member in members)
    excluded = {case: reason for member in members for case, reason in member.excluded.items()}
    ensemble = TrainingResult(spec, members[0].history, parameters, validation=unseen, excluded=excluded)
    return FoldsResult(ensemble, tuple(members), unseen)


def _without_a_look(task: TaskSpec) -> TaskSpec:
    """The recipe of a member, which takes nothing from the fold that it is measured on, neither epoch nor threshold."""
    recipe = dataclasses.replace(task.training, calibrate=False, keep="last", patience=None)
    return dataclasses.replace(task, training=recipe)


def _parted(pool: Sequence[Case], numbers: Sequence[int], fold: int) -> list[Case]:
    parts = ["val" if number == fold else "train" for number in numbers]
    return [dataclasses.replace(case, split=part) for case, part in zip(pool, parts, strict=True)]


def _of_fold(keeping: Keeping | None, fold: int) -> Keeping | None:
    return None if keeping is None else dataclasses.replace(keeping, folder=keeping.folder / f"fold-{fold + 1}")


def _told(progress: ProgressCallback | None, fold: int, count: int) -> ProgressCallback | None:
    if progress is None:
        return None
    return lambda step: progress(Progress(f"Fold {fold + 1} of {count}: {step.step}", step.done, step.total))


def _tell(on_epoch: Callable[[EpochResult, int], None], fold: int, result: EpochResult) -> None:
    on_epoch(result, fold + 1)


def _joined(parts: Sequence[Predicted]) -> Predicted:
    return Predicted(
        [name for part in parts for name in part.ids],
        [name for part in parts for name in part.patients],
        np.concatenate([part.targets for part in parts]),
        np.concatenate([part.probabilities for part in parts]),
    )


def _scope_of(members: Sequence[TrainingResult], *, cases: int) -> ScopeSpec | None:
    scopes = [member.spec.scope for member in members if member.spec.scope is not None]
    return joined(scopes, cases=cases) if len(scopes) == len(members) else None


def _state_of(member: TrainingResult, spec: PluginSpec) -> Mapping[str, torch.Tensor]:
    """The member's tensors, without its density where another member has too few studies for one."""
    if spec.scope is not None and spec.scope.density:
        return member.state
    return {name: tensor for name, tensor in member.state.items() if not name.startswith(DENSITY)}


def _provenance(spec: PluginSpec, members: Sequence[TrainingResult], unseen: Predicted) -> Mapping[str, Any]:
    """The first member's, with the figures of all: out of fold, and the spread over folds."""
    first = members[0].spec.provenance
    each = [auc(member.validation.targets, member.validation.probabilities) for member in members]
    known = [value for value in each if value == value]
    figures = {
        "auc": bootstrap(auc, unseen.targets, unseen.probabilities, patients=unseen.patients).to_dict(),
        "auc_by_fold": [None if value != value else value for value in each],
        "auc_mean": float(np.mean(known)) if known else None,
        "auc_spread": float(np.std(known)) if known else None,
        **operating_figures(spec, unseen.targets, unseen.probabilities),
    }
    early = {"stopped_early": True} if any(m.spec.provenance.get("stopped_early") for m in members) else {}
    return {**first, **early, "validation": figures, "folds": len(members)}
