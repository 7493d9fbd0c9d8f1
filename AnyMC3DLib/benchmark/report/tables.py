"""The rows of the report's tables, in words."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence

from ...wording import without_paths
from ..statistics import Ranks, average_ranks, holm, why_no_ranks
from .arenas import Arena, Asked
from .gaps import Gap, Measure, Measured
from .groups import PROCESSOR, Cost, Group
from .labels import (
    UNKNOWN,
    count_words,
    figure_words,
    interval_words,
    listed,
    minutes_words,
    p_words,
    plural,
    signed,
)

MOST_SEEDS = 5  # each told for itself
Cell = tuple[str, str]  # what is read first, and what stands small below
COLUMNS = (
    "AUROC, mean of seeds",
    "Difference to the reference",
    "Accuracy",
    "AUPRC",
    "Brier score",
    "Trained parameters",
    "Minutes",
    "Peak memory, MB",
    "Training cases",
)


@dataclasses.dataclass(frozen=True)
class TableLine:
    """A group: its name, remarks below that, and a cell for each of COLUMNS; none where it has no figures."""

    name: str
    remarks: tuple[str, ...]
    cells: tuple[Cell, ...]
    is_reference: bool
    is_best: bool


@dataclasses.dataclass(frozen=True)
class ArenaTable:
    """The groups that were compared at one place."""

    place: str
    lines: tuple[TableLine, ...]


@dataclasses.dataclass(frozen=True)
class RankTable:
    """Mean ranks over datasets under the same conditions, or why there are none."""

    conditions: str
    lines: tuple[tuple[str, str], ...]
    words: str


def adjusted(asked: Asked, measured: Measured) -> dict[tuple[str, str], float]:
    """DeLong's p after Holm, over all comparisons of a question, by place and name of the first."""
    found = {}
    for arena in asked.arenas:
        for gap in arena.gaps(measured):
            if gap.p is not None:
                found[arena.place, arena.name_of(gap.first)] = gap.p
    names = {str(number): key for number, key in enumerate(found)}
    after = holm({number: found[key] for number, key in names.items()})
    return {names[number]: value for number, value in after.items()}


def arena_tables(asked: Asked, measured: Measured) -> list[ArenaTable]:
    """A table for each place where groups meet, in the order of the suite."""
    after = adjusted(asked, measured)
    return [
        ArenaTable(arena.place, tuple(_line(arena, group, measured, after) for group in arena.groups))
        for arena in asked.arenas
    ]


def rank_tables(asked: Asked) -> list[RankTable]:
    """Mean ranks by AUROC under each set of conditions that several datasets share."""
    shared = [f for f in (asked.question.axis, *asked.question.series) if f != asked.question.compared]
    scores: dict[str, dict[str, dict[str, float]]] = {}
    for arena in asked.arenas:
        own = {asked.label(group, without=shared): group.mean("auroc") for group in arena.groups}
        scores.setdefault(", ".join(arena.conditions), {})[arena.dataset] = own
    tables = [_ranks(conditions, found) for conditions, found in scores.items() if len(found) > 1]
    # A reason that holds under several conditions is told once.
    reasons = dict.fromkeys(table.words for table in tables if not table.lines)
    return [*(table for table in tables if table.lines), *(RankTable("", (), words) for words in reasons)]


def _ranks(conditions: str, scores: Mapping[str, Mapping[str, float]]) -> RankTable:
    ranks = average_ranks(scores)
    if ranks is None:
        return RankTable(conditions, (), why_no_ranks(scores))
    ordered = sorted(ranks.mean.items(), key=lambda item: item[1])
    return RankTable(conditions, tuple((name, f"{rank:.2f}") for name, rank in ordered), _friedman(ranks))


def _friedman(ranks: Ranks) -> str:
    test = f"Friedman's test over {ranks.datasets} datasets in Iman and Davenport's form: {p_words(ranks.p)}."
    return f"{test} Methods differ at the 5 % level (Nemenyi) from {ranks.critical_difference:.2f} mean ranks apart on."


def _line(arena: Arena, group: Group, measured: Measured, after: Mapping[tuple[str, str], float]) -> TableLine:
    name = arena.name_of(group)
    remarks = [f"seed {entry.config.seed} {entry.status}: {entry.problem}" for entry in group.problems]
    remarks += [f"seed {row.config.seed} cut: {without_paths(row.cut)}" for row in group.rows if row.cut]
    remarks += _where(group)
    ranked = arena.ranked
    is_reference, is_best = group is arena.reference, bool(ranked) and group is ranked[0]
    if not group.rows:
        return TableLine(name, tuple(remarks), (), is_reference, is_best)
    others = sum(bool(own.rows) for own in arena.groups) - 1
    gap = None if is_reference or arena.reference is None else measured.gap(group, arena.reference).among(others)
    cells = (
        _auroc(group, measured.measure(group)),
        ("reference", "") if is_reference else _gap(gap, after.get((arena.place, name))),
        _seeds(group, "accuracy"),
        _seeds(group, "auprc"),
        _brier(group, gap),
        (count_words(group.cost("parameters")), ""),
        _minutes(group),
        _by_machine(group, "peak_mb", lambda value: f"{value:.0f}" if math.isfinite(value) else UNKNOWN),
        ("unknown" if group.cases("train") is None else str(group.cases("train")), plural(len(group.rows), "seed")),
    )
    return TableLine(name, tuple(remarks), cells, is_reference, is_best)


def _seeds(group: Group, figure: str) -> Cell:
    values = group.values(figure)
    return figure_words(group.mean(figure)), f"{min(values):.3f} to {max(values):.3f}" if len(values) > 1 else ""


def _auroc(group: Group, measure: Measure) -> Cell:
    values, found = group.values("auroc"), measure["auroc"]
    text = measure.why or f"({interval_words(found.low, found.high)})"
    if len(values) > MOST_SEEDS:
        text += f" seeds {min(values):.3f} to {max(values):.3f}"
    elif len(values) > 1:
        text += " seeds " + ", ".join(f"{value:.3f}" for value in values)
    return figure_words(group.mean("auroc")), text


def _gap(gap: Gap | None, after: float | None) -> Cell:
    if gap is None or gap.why:
        return "unknown", gap.why if gap is not None else "There is no reference with figures."
    found = gap.among(1)["auroc"]
    text = f"({interval_words(found.low, found.high, with_sign=True)})"
    if gap.p is not None:
        text += f" DeLong {p_words(gap.p)}"
        text += f", after Holm {p_words(after)}" if after is not None else ""
    if gap.is_known and not gap.excludes_zero():
        text += " cannot be told apart"
    return signed(found.value), text


def _brier(group: Group, gap: Gap | None) -> Cell:
    found = gap.among(1)["brier"] if gap is not None else None
    if found is None or not math.isfinite(found.low):
        return figure_words(group.mean("brier")), ""
    interval = interval_words(found.low, found.high, with_sign=True)
    return figure_words(group.mean("brier")), f"difference {signed(found.value)} ({interval})"


def _minutes(group: Group) -> Cell:
    if len(group.machines) > 1:
        return _by_machine(group, "minutes", minutes_words)
    processor = f"processor {minutes_words(group.cost('processor_minutes'))}"
    least = "at least " if group.reused else ""
    return f"{least}{minutes_words(group.cost('minutes'))}", processor + (", some embeddings reused" if least else "")


def _by_machine(group: Group, cost: Cost, words: Callable[[float], str]) -> Cell:
    """A cost's mean over the seeds; of several machines one for each, since their mean would say nothing."""
    machines = group.machines
    if len(machines) == 1:
        return words(group.cost(cost)), ""
    return "differs", "; ".join(f"{words(own.cost(cost))} on {machine}" for machine, own in machines.items())


def _where(group: Group) -> list[str]:
    """What is to be said of the machines: any but a processor, and which seed was on which of several."""
    machines = group.machines
    if len(machines) > 1:
        on = [f"{_seeds_words(own.seeds)} on {machine}" for machine, own in machines.items()]
        return [f"computed on several machines: {', '.join(on)}"]
    return [f"on {name}" for name in dict.fromkeys(row.device for row in group.rows) if name != PROCESSOR]


def _seeds_words(seeds: Sequence[int]) -> str:
    return f"seed{'' if len(seeds) == 1 else 's'} {listed([str(seed) for seed in seeds])}"
