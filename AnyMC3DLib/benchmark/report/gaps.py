"""Figures of groups of rows with their intervals, and paired differences between groups, each computed once."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from ...errors import InputError
from ...training.metrics import Estimate
from ...training.task import TaskSpec
from ..resamples import Resampled, Resampler, seeds_difference, seeds_estimate
from ..rows import ResultsTable, Row, TestPredictions
from ..statistics import delong, independent
from .groups import Group
from .labels import listed

UNKNOWN = Estimate(math.nan, math.nan, math.nan)


@dataclasses.dataclass(frozen=True)
class Measure:
    """A group's figures as means over its seeds; `why` says in a sentence why they have no intervals."""

    drawn: Resampled | None = None
    why: str = ""

    def __getitem__(self, figure: str) -> Estimate:
        return UNKNOWN if self.drawn is None else self.drawn.estimate(figure)


@dataclasses.dataclass(frozen=True)
class Gap:
    """The figures of a first group minus those of a second, as means over the seeds that both have.

    An interval is such that those of so many `comparisons` hold at once. `p` is DeLong's for the AUROC, where there is
    one seed and it applies. `why` says in a sentence why there is no difference to tell.
    """

    first: Group
    second: Group
    seeds: tuple[int, ...] = ()
    drawn: Resampled | None = None
    p: float | None = None
    why: str = ""
    comparisons: int = 1

    def __getitem__(self, figure: str) -> Estimate:
        return UNKNOWN if self.drawn is None else self.drawn.estimate(figure, comparisons=self.comparisons)

    def among(self, comparisons: int) -> Gap:
        """The same difference as one of so many that are looked at together."""
        return dataclasses.replace(self, comparisons=comparisons)

    def turned(self) -> Gap:
        """The second's figures minus the first's."""
        drawn = self.drawn
        if drawn is not None:
            drawn = dataclasses.replace(drawn, values=-drawn.values, resampled=-drawn.resampled)
        return dataclasses.replace(self, first=self.second, second=self.first, drawn=drawn)

    @property
    def is_known(self) -> bool:
        """Whether there is a difference of AUROC with an interval."""
        return math.isfinite(self["auroc"].low)

    def excludes_zero(self, figure: str = "auroc") -> bool:
        """Whether the interval is there and lies wholly on one side of 0."""
        found = self[figure]
        return math.isfinite(found.low) and (found.low > 0 or found.high < 0)

    @property
    def rows(self) -> tuple[Row, ...]:
        """The rows that the difference rests on."""
        return tuple(row for group in (self.first, self.second) for row in group.rows if row.config.seed in self.seeds)

    @property
    def keys(self) -> tuple[str, ...]:
        """The keys of these rows."""
        return tuple(row.key for row in self.rows)

    @property
    def is_cut(self) -> bool:
        """Whether the budget cut off one of these rows."""
        return any(row.cut for row in self.rows)


class Measured:
    """What the predictions of a table's rows give, by group and by pair of groups."""

    def __init__(self, table: ResultsTable, tasks: Mapping[str, TaskSpec]) -> None:
        self._table, self._tasks = table, tasks
        self._resampler = Resampler()
        self._rows: dict[str, Resampled | str] = {}
        self._measures: dict[Any, Measure] = {}
        self._gaps: dict[Any, Gap] = {}

    def measure(self, group: Group) -> Measure:
        """A group's figures as means over its seeds, with intervals over the test patients."""
        key = group.config.but("seed")
        if key not in self._measures:
            self._measures[key] = self._measure(group)
        return self._measures[key]

    def gap(self, first: Group, second: Group) -> Gap:
        """The first's figures minus the second's."""
        key = (first.config.but("seed"), second.config.but("seed"))
        if key not in self._gaps:
            self._gaps[key] = self._compare(first, second)
            self._gaps[key[::-1]] = self._gaps[key].turned()
        return self._gaps[key]

    def resampled_by(self, group: Group) -> str:
        """What is drawn for an interval: "patients", or "cases" where each is a patient of its own; "" if unknown."""
        drawn = self.measure(group).drawn
        if drawn is None:
            return ""
        return "cases" if independent(drawn.cases.patients) else "patients"

    def _measure(self, group: Group) -> Measure:
        if not group.rows:
            return Measure()
        try:
            return Measure(seeds_estimate([self._row(row) for row in group.rows]))
        except InputError as error:
            return Measure(why=str(error))

    def _compare(self, first: Group, second: Group) -> Gap:
        # Of the figures' mean both sides must have the same seeds, which draw the same patients of a share.
        seeds = tuple(seed for seed in first.seeds if seed in second.seeds)
        if not seeds:
            have = listed([", ".join(map(str, group.seeds)) or "none" for group in (first, second)])
            return Gap(first, second, why=f"There is no seed that both have, but {have}.")
        ours, theirs = ([row for row in group.rows if row.config.seed in seeds] for group in (first, second))
        try:
            found = seeds_difference([self._row(row) for row in ours], [self._row(row) for row in theirs])
            p = self._delong(ours[0], theirs[0]) if len(seeds) == 1 else None
        except InputError as error:
            return Gap(first, second, seeds, why=str(error))
        return Gap(first, second, seeds, found, p)

    def _delong(self, first: Row, second: Row) -> float | None:
        """DeLong's p of two trainings; None where it does not apply."""
        task = self._task(first)
        one, other = (self._table.predictions(row.key) for row in (first, second))
        if task.plugin.task_type != "binary" or not independent(one.patients) or len(set(one.targets.tolist())) < 2:
            return None
        p = delong(one.targets, *(_scores_in_order(said, one.ids) for said in (one, other))).p
        return p if math.isfinite(p) else None

    def _task(self, row: Row) -> TaskSpec:
        name = row.config.dataset
        if name not in self._tasks:
            raise InputError(f"The task of '{name}' is not at hand: give it, to have intervals and differences.")
        return self._tasks[name]

    def _row(self, row: Row) -> Resampled:
        """A row in each resample; raises InputError if its predictions cannot be read or measured."""
        if row.key not in self._rows:
            try:
                self._rows[row.key] = self._resampler(self._task(row).plugin, self._table.predictions(row.key))
            except InputError as error:
                self._rows[row.key] = str(error)
        found = self._rows[row.key]
        if isinstance(found, str):
            raise InputError(found)
        return found


def _scores_in_order(said: TestPredictions, ids: tuple[str, ...]) -> npt.NDArray[np.float64]:
    places = {case: number for number, case in enumerate(said.ids)}
    return said.probabilities[[places[case] for case in ids], 1]
