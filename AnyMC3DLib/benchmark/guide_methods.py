"""What the methods that meet at one place say to somebody who chooses: by figures, by costs, by calibration."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Literal

from .arenas import Arena
from .evidence import Advice, brings, evidence
from .gaps import Measured
from .groups import Group
from .labels import count_words, listed, minutes_words


def advise_on_methods(arena: Arena, measured: Measured) -> list[Advice]:
    """Which is best, what cheaper ones cost in AUROC, and whose probabilities are nearest to the truth."""
    return [*_best(arena, measured), *_cheapest(arena, measured), *_calibrated(arena, measured)]


def _best(arena: Arena, measured: Measured) -> Iterator[Advice]:
    ranked = arena.ranked
    gaps = [measured.gap(ranked[0], other) for other in ranked[1:]]
    if not gaps or not all(gap.is_known for gap in gaps):
        return
    name, start = arena.name_of(ranked[0]), f"If AUROC alone matters ({arena.place}):"
    alike = [gap for gap in gaps if not gap.excludes_zero()]
    # Averaged probabilities may rank otherwise than the mean of the seeds does; the verdict tells of that.
    if any(gap.excludes_zero() and gap["auroc"].value < 0 for gap in gaps):
        return
    told = alike or gaps
    others = [arena.name_of(gap.second) for gap in told]
    text = f"{name}, no difference being found to {listed(others)}" if alike else name
    yield Advice(f"{start} {text}.", evidence(told, labels=[f"against {other}" for other in others]))


def _cheapest(arena: Arena, measured: Measured) -> Iterator[Advice]:
    """What the cheapest way costs in AUROC; where that is something, also the cheapest way of which none was found."""
    ranked = arena.ranked
    if len(ranked) < 2:
        return
    winner, told = ranked[0], dict[int, list[_Cost]]()
    gaps = {id(group): measured.gap(group, winner) for group in ranked[1:]}
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
            text = f"{start} where {arena.name_of(winner)} takes {the_winners}; {brings(gap, f'{name} brings')}."
            yield Advice(text, evidence([gap]))


@dataclasses.dataclass(frozen=True)
class _Cost:
    """What a training takes: the field of its row, how it is called, and a value in words."""

    field: Literal["minutes", "peak_mb", "parameters"]
    title: str
    words: Callable[[float], str]


_COSTS = (
    _Cost("minutes", "minutes", lambda value: f"{minutes_words(value)} minutes"),
    _Cost("peak_mb", "megabytes of memory", lambda value: f"{value:.0f} MB"),
    _Cost("parameters", "trained parameters", lambda value: f"{count_words(value)} parameters"),
)


def _is_cheaper(group: Group, winner: Group, cost: _Cost) -> bool:
    # Minutes and memory of different machines say nothing of methods; minutes of cached embeddings are not counted.
    if cost.field != "parameters" and len(_machines([group, winner])) > 1:
        return False
    return group.cost(cost.field) < winner.cost(cost.field) and not (cost.field == "minutes" and group.reused)


def _machines(groups: Sequence[Group]) -> set[tuple[str, int]]:
    """Devices and threads."""
    return {(row.device, row.threads) for group in groups for row in group.rows}


def _calibrated(arena: Arena, measured: Measured) -> Iterator[Advice]:
    known = [group for group in arena.groups if math.isfinite(group.mean("brier"))]
    if len(known) < 2 or arena.reference not in known:
        return
    best = min(known, key=lambda group: group.mean("brier"))
    other = arena.reference if best is not arena.reference else sorted(known, key=lambda g: g.mean("brier"))[1]
    gap = measured.gap(best, other)
    if not math.isfinite(gap["brier"].low):
        return
    names = f"{arena.name_of(best)} and {arena.name_of(other)}"
    found = f"no difference in the Brier score of {names} was found"
    if gap.excludes_zero("brier"):
        value = gap["brier"].value
        than = f"{'lower' if value < 0 else 'higher'} by {abs(value):.3f} than that of {arena.name_of(other)}"
        found = f"the Brier score of {arena.name_of(best)} is {than}"
    yield Advice(f"If probabilities are to be believed ({arena.place}): {found}.", evidence([gap], figure="brier"))
