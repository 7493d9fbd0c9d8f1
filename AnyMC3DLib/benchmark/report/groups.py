"""The rows that a suite asks for, as they stand in the table, and those of one configuration but for the seed."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

from ...errors import InputError
from ...wording import without_paths
from ..config import RowConfig
from ..rows import ResultsTable, Row

Status = Literal["done", "failed", "missing", "damaged"]
Cost = Literal["parameters", "minutes", "processor_minutes", "peak_mb"]
PROCESSOR = "cpu"


@dataclasses.dataclass(frozen=True)
class Entry:
    """A row that was asked for: what came of it, or why there is nothing."""

    config: RowConfig
    row: Row | None = None
    damage: str = ""

    @property
    def status(self) -> Status:
        if self.damage:
            return "damaged"
        return "missing" if self.row is None else self.row.status

    @property
    def problem(self) -> str:
        """Why the row has no figures, in a sentence without paths; nothing where it has."""
        if self.damage:
            return str(without_paths(self.damage))
        if self.row is None:
            return "It was not computed yet."
        failed = self.row.status == "failed"
        return str(without_paths(self.row.error)) or "It failed without a word." if failed else ""


@dataclasses.dataclass(frozen=True)
class Group:
    """The rows of one configuration but for the seed; `config` is that of the first."""

    config: RowConfig
    entries: tuple[Entry, ...]

    @functools.cached_property
    def rows(self) -> tuple[Row, ...]:
        """The rows with figures, by seed."""
        return tuple(e.row for e in self.entries if e.row is not None and e.status == "done")

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds that have figures."""
        return tuple(row.config.seed for row in self.rows)

    @property
    def cut(self) -> bool:
        """Whether the budget cut off one of its rows."""
        return any(row.cut for row in self.rows)

    @property
    def problems(self) -> tuple[Entry, ...]:
        """The rows without figures."""
        return tuple(entry for entry in self.entries if entry.status != "done")

    def values(self, figure: str, *, part: str = "test") -> tuple[float, ...]:
        """A figure of each seed that has it."""
        found = (row.figure(figure, part=part)[0] for row in self.rows)
        return tuple(value for value in found if math.isfinite(value))

    def mean(self, figure: str, *, part: str = "test") -> float:
        """The figure's mean over the seeds; NaN where none has it."""
        return _mean(self.values(figure, part=part))

    def cost(self, name: Cost) -> float:
        """What a training took, as the mean over the seeds; NaN where there is none, or memory was not measured."""
        return _mean_cost(self.rows, name)

    @functools.cached_property
    def machines(self) -> Mapping[str, Group]:
        """The rows with figures as groups by the device and its threads, in words."""
        found: dict[str, list[Entry]] = {}
        for entry in self.entries:
            if entry.row is not None and entry.status == "done":
                found.setdefault(machine_words(entry.row), []).append(entry)
        return {machine: Group(self.config, tuple(entries)) for machine, entries in found.items()}

    @property
    def reused(self) -> bool:
        """Whether frozen embeddings came from a cache, so that the minutes are fewer than all."""
        return any(row.reused > 0 for row in self.rows)

    def cases(self, split: str) -> int | None:
        """The most cases of a split that a row of the group had."""
        counts = [row.cases[split] for row in self.rows if split in row.cases]
        return max(counts) if counts else None


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values) if values else math.nan


def _mean_cost(rows: Sequence[Row], name: Cost) -> float:
    values = [float(getattr(row, name)) for row in rows]
    return math.nan if name == "peak_mb" and not all(values) else _mean(values)


def machine_words(row: Row) -> str:
    """The device and the threads that a row was computed with."""
    threads = f"{row.threads} thread{'' if row.threads == 1 else 's'}"
    return f"processor, {threads}" if row.device == PROCESSOR else f"{row.device}, {threads}"


def gather(table: ResultsTable, configs: Iterable[RowConfig]) -> list[Entry]:
    """What the table knows of each row, in the order asked for, each once; a damaged one says so."""
    entries = {}
    for config in configs:
        key = config.key
        if key in entries:
            continue
        try:
            entries[key] = Entry(config, table.row(key))
        except InputError as error:
            entries[key] = Entry(config, damage=str(error))
    return list(entries.values())


def grouped(entries: Iterable[Entry]) -> list[Group]:
    """The entries by configuration but for the seed, in the order they come; seeds rise."""
    together: dict[tuple, list[Entry]] = {}
    for entry in entries:
        together.setdefault(entry.config.but("seed"), []).append(entry)
    by_seed = (sorted(members, key=lambda e: e.config.seed) for members in together.values())
    return [Group(members[0].config, tuple(members)) for members in by_seed]
