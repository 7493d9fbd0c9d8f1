"""The rows of the report's tables, in words."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping

from ..wording import without_paths
from .arenas import Arena, Asked
from .gaps import Gap, Measured
from .groups import Group
from .labels import count_words, figure_words, interval_words, minutes_words, p_words, plural, signed
from .statistics import Ranks, average_ranks, holm, why_no_ranks

Cell = tuple[str, str]  # what is read first, and what stands small below
COLUMNS = (
    "AUROC, mean of seeds",
    "AUROC of averaged seeds",
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
    ranked = arena.ranked
    is_reference, is_best = group is arena.reference, bool(ranked) and group is ranked[0]
    if not group.rows:
        return TableLine(name, tuple(remarks), (), is_reference, is_best)
    gap = None if is_reference or arena.reference is None else measured.gap(group, arena.reference)
    averaged = measured.averaged(group)
    cells = (
        _seeds(group, "auroc"),
        _averaged(averaged["auroc"].value, averaged["auroc"].low, averaged["auroc"].high, averaged.why),
        ("reference", "") if is_reference else _gap(gap, after.get((arena.place, name))),
        _seeds(group, "accuracy"),
        _seeds(group, "auprc"),
        _brier(group, gap),
        (count_words(group.cost("parameters")), ""),
        _minutes(group),
        (f"{group.cost('peak_mb'):.0f}", ""),
        ("unknown" if group.cases("train") is None else str(group.cases("train")), plural(len(group.rows), "seed")),
    )
    return TableLine(name, tuple(remarks), cells, is_reference, is_best)


def _seeds(group: Group, figure: str) -> Cell:
    values = group.values(figure)
    text = f"{min(values):.3f} to {max(values):.3f}" if len(values) > 1 else ""
    if figure == "auroc" and 1 < len(values) <= 5:
        text = "seeds " + ", ".join(f"{value:.3f}" for value in values)
    return figure_words(group.mean(figure)), text


def _averaged(value: float, low: float, high: float, why: str) -> Cell:
    return ("unknown", why) if why else (figure_words(value), f"({interval_words(low, high)})")


def _gap(gap: Gap | None, after: float | None) -> Cell:
    if gap is None or gap.why:
        return "unknown", gap.why if gap is not None else "There is no reference with figures."
    found = gap["auroc"]
    text = f"({interval_words(found.low, found.high, with_sign=True)})"
    if gap.p is not None:
        text += f" DeLong {p_words(gap.p)}"
        text += f", after Holm {p_words(after)}" if after is not None else ""
    if gap.is_known and not gap.excludes_zero():
        text += " cannot be told apart"
    return signed(found.value), text


def _brier(group: Group, gap: Gap | None) -> Cell:
    found = gap["brier"] if gap is not None else None
    if found is None or not math.isfinite(found.low):
        return figure_words(group.mean("brier")), ""
    interval = interval_words(found.low, found.high, with_sign=True)
    return figure_words(group.mean("brier")), f"difference {signed(found.value)} ({interval})"


def _minutes(group: Group) -> Cell:
    processor = f"processor {minutes_words(group.cost('processor_minutes'))}"
    least = "at least " if group.reused else ""
    return f"{least}{minutes_words(group.cost('minutes'))}", processor + (", some embeddings reused" if least else "")
