"""Figures of averaged probabilities, and paired differences between groups of rows, each computed once."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from ..errors import InputError
from ..training.metrics import Estimate
from ..training.scores import evaluate
from ..training.task import TaskSpec
from .groups import FIGURE_NAMES, Group
from .labels import listed
from .rows import ResultsTable, TestPredictions
from .statistics import mean_over_seeds, paired

UNKNOWN = Estimate(math.nan, math.nan, math.nan)


@dataclasses.dataclass(frozen=True)
class Averaged:
    """The figures of the mean probabilities of some seeds; `why` says in a sentence why there are none."""

    figures: Mapping[str, Estimate]
    why: str = ""

    def __getitem__(self, figure: str) -> Estimate:
        return self.figures.get(figure, UNKNOWN)


@dataclasses.dataclass(frozen=True)
class Gap:
    """The figures of a first group minus those of a second, by the mean probabilities of the seeds that both have.

    `p` is DeLong's for the AUROC, where it applies. `why` says in a sentence why there is no difference to tell.
    """

    first: Group
    second: Group
    seeds: tuple[int, ...] = ()
    figures: Mapping[str, Estimate] = dataclasses.field(default_factory=dict)
    p: float | None = None
    why: str = ""

    def __getitem__(self, figure: str) -> Estimate:
        return self.figures.get(figure, UNKNOWN)

    def turned(self) -> Gap:
        """The second's figures minus the first's."""
        figures = {n: Estimate(-found.value, -found.high, -found.low) for n, found in self.figures.items()}
        return dataclasses.replace(self, first=self.second, second=self.first, figures=figures)

    @property
    def is_known(self) -> bool:
        """Whether there is a difference of AUROC with an interval."""
        return math.isfinite(self["auroc"].low)

    def excludes_zero(self, figure: str = "auroc") -> bool:
        """Whether the 95 % interval is there and lies wholly on one side of 0."""
        found = self[figure]
        return math.isfinite(found.low) and (found.low > 0 or found.high < 0)

    @property
    def keys(self) -> tuple[str, ...]:
        """The rows that the difference rests on."""
        return tuple(
            row.key for group in (self.first, self.second) for row in group.rows if row.config.seed in self.seeds
        )

    @property
    def is_cut(self) -> bool:
        """Whether the budget cut off one of these rows."""
        return any(
            row.cut for group in (self.first, self.second) for row in group.rows if row.config.seed in self.seeds
        )


class Measured:
    """What the predictions of a table's rows give, by group and by pair of groups."""

    def __init__(self, table: ResultsTable, tasks: Mapping[str, TaskSpec]) -> None:
        self._table, self._tasks = table, tasks
        self._predictions: dict[str, TestPredictions | str] = {}
        self._averaged: dict[Any, Averaged] = {}
        self._gaps: dict[Any, Gap] = {}

    def averaged(self, group: Group) -> Averaged:
        """The figures of a group's mean probabilities, with intervals over the test patients."""
        key = group.config.but("seed")
        if key not in self._averaged:
            self._averaged[key] = self._average(group)
        return self._averaged[key]

    def gap(self, first: Group, second: Group) -> Gap:
        """The first's figures minus the second's."""
        key = (first.config.but("seed"), second.config.but("seed"))
        if key not in self._gaps:
            self._gaps[key] = self._compare(first, second)
            self._gaps[key[::-1]] = self._gaps[key].turned()
        return self._gaps[key]

    def _average(self, group: Group) -> Averaged:
        try:
            task = self._task(group)
            mean = mean_over_seeds(self._said(group, group.seeds))
            found = evaluate(task.plugin, mean.targets, mean.probabilities, patients=mean.patients)
        except InputError as error:
            return Averaged({}, str(error))
        figures = {**{name: found.macro[name] for name in FIGURE_NAMES}, "accuracy": found.overall["accuracy"]}
        return Averaged(figures)

    def _compare(self, first: Group, second: Group) -> Gap:
        # Of more seeds the mean is better by itself, so that only those count that both have.
        seeds = tuple(seed for seed in first.seeds if seed in second.seeds)
        if not seeds:
            have = listed([", ".join(map(str, group.seeds)) or "none" for group in (first, second)])
            return Gap(first, second, why=f"There is no seed that both have, but {have}.")
        try:
            task = self._task(first)
            means = [mean_over_seeds(self._said(group, seeds)) for group in (first, second)]
            found = paired(task.plugin, *means)
        except InputError as error:
            return Gap(first, second, seeds, why=str(error))
        p = found.delong.p if found.delong is not None and np.isfinite(found.delong.p) else None
        return Gap(first, second, seeds, {name: getattr(found, name) for name in FIGURE_NAMES}, p)

    def _task(self, group: Group) -> TaskSpec:
        name = group.config.dataset
        if name not in self._tasks:
            raise InputError(f"The task of '{name}' is not at hand: give it, to have intervals and differences.")
        return self._tasks[name]

    def _said(self, group: Group, seeds: tuple[int, ...]) -> list[TestPredictions]:
        """The predictions of a group's seeds; raises InputError if those of one cannot be read."""
        return [self._read(row.key) for row in group.rows if row.config.seed in seeds]

    def _read(self, key: str) -> TestPredictions:
        if key not in self._predictions:
            try:
                self._predictions[key] = self._table.predictions(key)
            except InputError as error:
                self._predictions[key] = str(error)
        found = self._predictions[key]
        if isinstance(found, str):
            raise InputError(found)
        return found
