"""Which cases a training has, in all its folds, before any of them is read."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ..errors import InputError
from ..spec import PluginSpec
from .cases import Case, of_split
from .run import check_arguments, check_classes, check_patients
from .slices import CutCases
from .splits import folds as folds_of
from .task import TaskSpec


@dataclasses.dataclass(frozen=True)
class Plan:
    """The cases of each fold (training, validation), or of the one training; `train` are those of the first.

    `masked` is how many of them bring a mask that is used, and `targets` are theirs.
    """

    rounds: Sequence[tuple[int, int]]
    train: Sequence[Case]
    masked: int
    targets: npt.NDArray[np.int64]

    @property
    def typical(self) -> Sequence[Case]:
        """The training cases to measure; those with masks where there are any, since they take longest."""
        return [case for case in self.train if case.masks is not None] if self.masked else self.train


def planned(
    task: TaskSpec,
    spec: PluginSpec,
    cases: Sequence[Case],
    train_splits: Sequence[str],
    validation_splits: Sequence[str],
    folds: int | None,
) -> Plan:
    if folds:
        rounds = _folded(task, cases, (*train_splits, *validation_splits), folds)
    else:
        check_arguments(task, None, train_splits, validation_splits, ())
        rounds = [tuple(of_split(cases, splits) if splits else [] for splits in (train_splits, validation_splits))]
    for train, validation in rounds:
        check_classes(_uncut(train), spec)
        check_patients(_uncut(train), _uncut(validation))
    train = rounds[0][0]
    masked = sum(case.masks is not None for case in train) if task.training.pixels.weight else 0
    targets = np.array([case.target for case in train])
    return Plan([(len(train), len(validation)) for train, validation in rounds], train, masked, targets)


def _folded(
    task: TaskSpec, cases: Sequence[Case], splits: Sequence[str], count: int
) -> list[tuple[list[Case], list[Case]]]:
    if task.training.method == "full":
        raise InputError("Members of an ensemble share one backbone: train it whole without folds.")
    pool = of_split(cases, splits) if any(case.split for case in cases) else list(cases)
    patients = [case.patient or case.id for case in pool]
    targets = [case.target for case in pool]
    numbers = folds_of([case.id for case in pool], patients, targets, k=count, seed=task.training.seed)
    placed = list(zip(pool, numbers, strict=True))
    return [([c for c, n in placed if n != fold], [c for c, n in placed if n == fold]) for fold in range(count)]


def _uncut(cases: Sequence[Case]) -> CutCases:
    """What is known of cases before they are read."""
    targets = np.array([case.target for case in cases])
    return CutCases([case.id for case in cases], [], targets, [case.patient or case.id for case in cases])
