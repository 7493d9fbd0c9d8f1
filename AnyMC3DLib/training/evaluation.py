"""From a plugin file to its figures on labelled cases."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ..backbone import Backbone
from ..errors import InputError
from ..plugin import load_networks, read_spec
from ..progress import ProgressCallback
from ..spec import PluginSpec
from .cases import Case, of_split
from .metrics import Estimate, accuracy, auc, bootstrap, paired_difference
from .slices import CutCases, cut_cases
from .task import TaskSpec
from .trainer import Trainer


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Figures of a plugin on some cases; `difference` is the paired difference in AUC to another plugin."""

    ids: list[str]
    targets: npt.NDArray[np.int64]
    probabilities: npt.NDArray[np.float64]
    auc: Estimate
    accuracy: Estimate
    difference: Estimate | None = None


def evaluate_plugin(
    path: str | Path,
    cases: Callable[[PluginSpec], Sequence[Case]],
    backbone: Backbone,
    *,
    splits: Sequence[str] = ("test",),
    against: str | Path | None = None,
    progress: ProgressCallback | None = None,
) -> Evaluation:
    """Figures of the plugin file `path`, and the paired difference to the file `against`; intervals are by patient."""
    cut, probabilities = _predict(path, cases, backbone, splits, progress)
    ids, targets, patients = cut.ids, cut.targets, cut.patients
    difference = None
    if against is not None:
        if [c.name for c in read_spec(against).classes] != [c.name for c in read_spec(path).classes]:
            raise InputError("The two plugins do not answer for the same classes: they cannot be compared.")
        others, other = _predict(against, cases, backbone, splits, progress)
        if others.ids != ids or not np.array_equal(others.targets, targets):
            raise InputError("The two plugins do not answer for the same cases: they cannot be compared.")
        difference = paired_difference(auc, targets, probabilities, other, patients=patients)
    return Evaluation(
        ids,
        targets,
        probabilities,
        bootstrap(auc, targets, probabilities, patients=patients),
        bootstrap(accuracy, targets, probabilities, patients=patients),
        difference,
    )


def _predict(
    path: str | Path,
    cases: Callable[[PluginSpec], Sequence[Case]],
    backbone: Backbone,
    splits: Sequence[str],
    progress: ProgressCallback | None,
) -> tuple[CutCases, npt.NDArray[np.float64]]:
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
    return cut, np.mean(members, axis=0)
