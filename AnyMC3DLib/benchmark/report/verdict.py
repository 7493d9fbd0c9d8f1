"""What came of a comparison, in plain sentences: who is ahead, and of whom that cannot be said."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Sequence

from .arenas import Arena
from .gaps import Gap, Measured
from .groups import Group
from .labels import figure_words, interval_words, level_words, listed, plural, signed


@dataclasses.dataclass(frozen=True)
class Verdict:
    """An arena's outcome: `headline` is the first sentence, `details` are the others.

    `winner` has the highest mean AUROC, "" where fewer than two have one; it `is_apart` where the intervals of its
    paired differences to all others, which hold at once, lie above 0.
    """

    place: str
    headline: str
    details: tuple[str, ...] = ()
    winner: str = ""
    is_apart: bool = False


def mean_words(group: Group) -> str:
    """The mean AUROC with what it is the mean of."""
    count = len(group.values("auroc"))
    return f"{figure_words(group.mean('auroc'))} ({f'mean of {count} seeds' if count > 1 else 'one seed'})"


def difference_words(gap: Gap, figure: str = "auroc") -> str:
    """The difference and its interval: "+0.010, +0.002 to +0.018"."""
    found = gap[figure]
    return f"{signed(found.value)}, {interval_words(found.low, found.high, with_sign=True)}"


def judge(arena: Arena, measured: Measured) -> Verdict:
    """Who has the highest mean AUROC, and how the others stand to that."""
    ranked = arena.ranked
    if not ranked:
        return Verdict(arena.place, "No row has figures yet.")
    winner, *others = ranked
    name = arena.name_of(winner)
    if not others:
        return Verdict(arena.place, f"{name} alone has figures: AUROC {mean_words(winner)}.")
    gaps = [measured.gap(winner, other).among(len(others)) for other in others]
    apart = [gap for gap in gaps if gap.excludes_zero() and gap["auroc"].value > 0]
    behind = [gap for gap in gaps if gap.excludes_zero() and gap["auroc"].value < 0]
    alike = [gap for gap in gaps if gap.is_known and not gap.excludes_zero()]
    unknown = [gap for gap in gaps if not gap.is_known]
    details = (
        *_sentence(arena, f"{name} cannot be told apart from", alike),
        *_sentence(arena, f"{name} is ahead of", apart),
        *_sentence(arena, f"Over the seeds that both have {name} is yet behind", behind),
        *(f"{name} and {arena.name_of(gap.second)} cannot be compared. {_why(gap)}" for gap in unknown),
    )
    is_apart = len(apart) == len(gaps)
    headline = f"{name} has the highest AUROC, {mean_words(winner)}, {_standing(arena, alike, behind + unknown)}."
    return Verdict(arena.place, headline, details, name, is_apart)


def _standing(arena: Arena, alike: Sequence[Gap], open_ones: Sequence[Gap]) -> str:
    """What the first sentence says of the others."""
    if alike:
        return f"but cannot be told apart from {listed([arena.name_of(gap.second) for gap in alike])}"
    if open_ones:
        return f"but is not shown to be ahead of {listed([arena.name_of(gap.second) for gap in open_ones])}"
    return "and can be told apart from every other"


def _why(gap: Gap) -> str:
    return gap.why or "Too few patients were tested, or too few resamples drawn, for an interval."


def _sentence(arena: Arena, start: str, gaps: Sequence[Gap]) -> list[str]:
    if not gaps:
        return []
    others = [f"{arena.name_of(gap.second)} ({difference_words(gap)})" for gap in gaps]
    return [f"{start} {listed(others)}; in brackets the difference and its {level_words(gaps[0].comparisons)}."]


def tally(verdicts: Sequence[Verdict]) -> str:
    """How often each wins over several arenas, in a sentence; nothing for one."""
    counted = collections.Counter(verdict.winner for verdict in verdicts if verdict.winner)
    if counted.total() < 2:
        return ""
    sure = collections.Counter(verdict.winner for verdict in verdicts if verdict.is_apart)
    parts = [
        f"{name} has the highest AUROC in {count} (told apart from every other in {sure[name]})"
        for name, count in counted.most_common()
    ]
    return f"Of {plural(counted.total(), 'setting')}: {'; '.join(parts)}."
