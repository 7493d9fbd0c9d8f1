"""What to choose, in sentences made from the figures, each with what it rests on.

A sentence needs a paired difference with an interval. Where that includes 0, it says that no difference was found,
which does not mean that there is none. The differences that one sentence or one choice is made from are counted
together: their intervals hold at once.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterator, Sequence

from .arenas import NUMBERS, REFERENCES, Arena, Asked, ordered
from .gaps import Gap, Measured
from .groups import Cost, Group
from .labels import (
    FIGURES,
    KEY_DIGITS,
    count_words,
    figure_words,
    interval_words,
    level_words,
    listed,
    minutes_words,
    p_words,
    plural,
    signed,
    value_words,
)


@dataclasses.dataclass(frozen=True)
class Advice:
    """A sentence, and what it rests on: figures, seeds and rows."""

    text: str
    evidence: str


def advise(asked: Asked, measured: Measured) -> list[Advice]:
    """What the answers to a question say to somebody who chooses."""
    question, found = asked.question, list[Advice]()
    if question.compared == "method":
        for arena in asked.arenas if question.axis == "method" else ():
            found += _on_methods(arena, measured)
        if question.axis == "share":
            found += _by_share(asked, measured)
    if question.axis != "method":
        found += _along_axis(asked, measured)
    return found


def _by_share(asked: Asked, measured: Measured) -> Iterator[Advice]:
    """Up to how many training cases a method is ahead of or behind the reference."""
    pairs: dict[tuple[str, str, str], list[tuple[int, Gap]]] = {}
    for arena in asked.arenas:
        share = value_words("share", arena.groups[0].config.share)
        place = ", ".join((arena.dataset, *(words for words in arena.conditions if words != share)))
        for gap in arena.gaps(measured):
            cases = gap.first.cases("train")
            if gap.is_known and cases:
                names = arena.name_of(gap.first), arena.name_of(gap.second)
                pairs.setdefault((place, *names), []).append((cases, gap))
    for (place, *names), steps in pairs.items():
        together = [(cases, gap.among(len(steps))) for cases, gap in steps]
        yield _threshold(place, (names[0], names[1]), sorted(together, key=lambda step: step[0]))


def _threshold(place: str, names: tuple[str, str], steps: list[tuple[int, Gap]]) -> Advice:
    """Where the first is ahead, where the other, and where no difference was found, by numbers of training cases."""
    signs = [math.copysign(1, gap["auroc"].value) if gap.excludes_zero() else 0 for _, gap in steps]
    counts = [cases for cases, _ in steps]
    runs = [[n for n, _ in run] for _, run in itertools.groupby(enumerate(signs), key=lambda step: step[1])]
    parts = []
    for run in runs:
        low, high = counts[run[0]], counts[run[-1]]
        span = f"with {low} to {high} training cases" if low < high else f"with {low} training cases"
        if len(runs) > 1 and run is runs[0]:
            span = f"for {high} training cases or fewer"
        elif len(runs) > 1 and run is runs[-1]:
            span = f"for {low} training cases or more"
        parts.append(f"{span}, {_prefer(names, signs[run[0]])}")
    return Advice(
        f"{place}: {'; '.join(parts)}.", _evidence([g for _, g in steps], labels=[f"{n} cases" for n in counts])
    )


def _prefer(names: tuple[str, str], sign: float) -> str:
    if not sign:
        return f"no difference in AUROC between {names[0]} and {names[1]} was found"
    better, worse = names if sign > 0 else names[::-1]
    return f"{better} rather than {worse}"


def _along_axis(asked: Asked, measured: Measured) -> Iterator[Advice]:
    """What another value of the axis brings where all else is equal: to the reference, or first to last."""
    axis = asked.question.axis
    lines: dict[tuple[str, ...], list[Group]] = {}
    for group in asked.groups:
        if group.rows:
            lines.setdefault((group.config.dataset, asked.label(group, without=[axis])), []).append(group)
    for (dataset, label), groups in lines.items():
        place = f"{dataset}, {label}" if asked.fields != (axis,) else dataset
        steps = _steps(asked, axis, groups)
        for first, second in steps:
            gap = measured.gap(second, first).among(len(steps))
            if gap.is_known:
                what = _change(axis, first, second)
                text = _brings(gap, f"{what} brings") if gap.excludes_zero() else f"{what}: {_brings(gap, what)}"
                yield Advice(f"{place}: {text}.", _evidence([gap]))


def _steps(asked: Asked, axis: str, groups: list[Group]) -> list[tuple[Group, Group]]:
    by_value = {getattr(group.config, axis): group for group in groups}
    values = [value for value in ordered(axis, by_value) if value is not None or axis not in NUMBERS]
    if len(values) < 2:
        return []
    wanted = asked.question.reference if asked.question.compared == axis else None
    if axis in NUMBERS and wanted not in by_value:
        return [(by_value[values[0]], by_value[values[-1]])]
    wanted = REFERENCES.get(axis) if wanted is None else wanted
    first = wanted if wanted in by_value else values[0]
    return [(by_value[first], by_value[value]) for value in values if value != first]


def _change(axis: str, first: Group, second: Group) -> str:
    old, new = (getattr(group.config, axis) for group in (first, second))
    if axis == "size" and new > old:
        return f"Enlarging {old}-pixel pictures to {new} pixels"
    if axis == "share":
        counts = [group.cases("train") for group in (first, second)]
        shares = f"Training on {100 * new:.3g} % of the data rather than {100 * old:.3g} %"
        return f"{shares} ({counts[1]} rather than {counts[0]} cases)" if all(counts) else shares
    if axis == "pretrained":
        words = {True: "pretrained weights", False: "random weights"}
        return f"Starting from {words[new]} rather than {words[old]}"
    told = [value_words(axis, value) for value in (new, old)]
    return f"Taking {told[0]} rather than {told[1]}"


def _on_methods(arena: Arena, measured: Measured) -> list[Advice]:
    """Which is best, what cheaper ones cost in AUROC, and whose probabilities are nearest to the truth."""
    return [*_best(arena, measured), *_cheapest(arena, measured), *_calibrated(arena, measured)]


def _best(arena: Arena, measured: Measured) -> Iterator[Advice]:
    ranked = arena.ranked
    gaps = [measured.gap(ranked[0], other).among(len(ranked) - 1) for other in ranked[1:]]
    if not gaps or not all(gap.is_known for gap in gaps):
        return
    name, start = arena.name_of(ranked[0]), f"If AUROC alone matters ({arena.place}):"
    alike = [gap for gap in gaps if not gap.excludes_zero()]
    # The seeds that two have in common may rank them otherwise than all do; the verdict tells of that.
    if any(gap.excludes_zero() and gap["auroc"].value < 0 for gap in gaps):
        return
    told = alike or gaps
    others = [arena.name_of(gap.second) for gap in told]
    text = f"{name}, no difference being found to {listed(others)}" if alike else name
    yield Advice(f"{start} {text}.", _evidence(told, labels=[f"against {other}" for other in others]))


def _cheapest(arena: Arena, measured: Measured) -> Iterator[Advice]:
    """What the cheapest way costs in AUROC; where that is something, also the cheapest way of which none was found."""
    ranked = arena.ranked
    if len(ranked) < 2:
        return
    winner, told = ranked[0], dict[int, list[_Cost]]()
    gaps = {id(group): measured.gap(group, winner).among(len(ranked) - 1) for group in ranked[1:]}
    alike = [group for group in ranked[1:] if gaps[id(group)].is_known and not gaps[id(group)].excludes_zero()]
    for cost in _COSTS:
        for candidates in (ranked[1:], alike):
            cheaper = [group for group in candidates if _is_cheaper(group, winner, cost)]
            if cheaper:
                costs = told.setdefault(id(min(cheaper, key=lambda group: group.cost(cost.field))), [])
                costs += [cost] if cost not in costs else []
    for group in (group for group in ranked if id(group) in told):
        gap = gaps[id(group)]
        if gap.is_known:
            costs = told[id(group)]
            name = arena.name_of(group)
            its, the_winners = (listed([cost.words(g.cost(cost.field)) for cost in costs]) for g in (group, winner))
            start = f"If {listed([cost.title for cost in costs])} matter ({arena.place}): {name} takes {its},"
            text = f"{start} where {arena.name_of(winner)} takes {the_winners}; {_brings(gap, f'{name} brings')}."
            yield Advice(text, _evidence([gap]))


@dataclasses.dataclass(frozen=True)
class _Cost:
    """What a training takes: the field of its row, how it is called, and a value in words."""

    field: Cost
    title: str
    words: Callable[[float], str]


_COSTS = (
    _Cost("minutes", "minutes", lambda value: f"{minutes_words(value)} minutes"),
    _Cost("peak_mb", "megabytes of memory", lambda value: f"{value:.0f} MB"),
    _Cost("parameters", "trained parameters", lambda value: f"{count_words(value)} parameters"),
)


def _is_cheaper(group: Group, winner: Group, cost: _Cost) -> bool:
    # Minutes and memory of different machines say nothing of methods; minutes of cached embeddings are not counted.
    if cost.field != "parameters" and len({*group.machines, *winner.machines}) > 1:
        return False
    return group.cost(cost.field) < winner.cost(cost.field) and not (cost.field == "minutes" and group.reused)


def _calibrated(arena: Arena, measured: Measured) -> Iterator[Advice]:
    known = [group for group in arena.groups if math.isfinite(group.mean("brier"))]
    if len(known) < 2 or arena.reference not in known:
        return
    best = min(known, key=lambda group: group.mean("brier"))
    other = arena.reference if best is not arena.reference else sorted(known, key=lambda g: g.mean("brier"))[1]
    gap = measured.gap(best, other).among(len(known) - 1)
    if not math.isfinite(gap["brier"].low):
        return
    names = f"{arena.name_of(best)} and {arena.name_of(other)}"
    found = f"no difference in the Brier score of {names} was found"
    if gap.excludes_zero("brier"):
        value = gap["brier"].value
        than = f"{'lower' if value < 0 else 'higher'} by {abs(value):.3f} than that of {arena.name_of(other)}"
        found = f"the Brier score of {arena.name_of(best)} is {than}"
    yield Advice(f"If probabilities are to be believed ({arena.place}): {found}.", _evidence([gap], figure="brier"))


def _evidence(gaps: Sequence[Gap], *, figure: str = "auroc", labels: Sequence[str] = ()) -> str:
    """What a sentence rests on; `labels`, one a difference, say which it is."""
    starts = [f"{label}: " for label in labels] or [""] * len(gaps)
    parts = [f"{start}{_figures(gap, figure)}" for start, gap in zip(starts, gaps, strict=True)]
    parts.append(f"means over seeds, in brackets the {level_words(gaps[0].comparisons)}")
    keys = dict.fromkeys(key[:KEY_DIGITS] for gap in gaps for key in gap.keys)
    parts.append(f"rows {', '.join(keys)}")
    if any(gap.is_cut for gap in gaps):
        parts.append("some of these rows were cut by the budget")
    return "; ".join(parts)


def _figures(gap: Gap, figure: str) -> str:
    values = " and ".join(figure_words(group.mean(figure)) for group in (gap.first, gap.second))
    found = gap[figure]
    text = f"{FIGURES[figure]} {values}, paired difference {signed(found.value)}"
    text += f" ({interval_words(found.low, found.high, with_sign=True)})"
    p = p_words(gap.p) if figure == "auroc" else ""
    return f"{text}{f', DeLong {p}' if p else ''}, {plural(len(gap.seeds), 'seed')}"


def _brings(gap: Gap, start: str) -> str:
    """What choosing the first over the second does to the AUROC."""
    found = gap["auroc"]
    interval = interval_words(found.low, found.high, with_sign=True)
    if not gap.excludes_zero():
        return f"no difference in AUROC was found ({signed(found.value)}, {interval})"
    return f"{start} {signed(found.value)} AUROC ({interval})"
