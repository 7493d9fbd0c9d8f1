"""What a sentence of advice rests on, and how it tells a difference.

A sentence needs a paired difference with an interval. Where that includes 0, it says that no difference was found,
which does not mean that there is none.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from .gaps import Gap
from .labels import FIGURES, figure_words, interval_words, p_words, plural, signed

KEY_DIGITS = 8


@dataclasses.dataclass(frozen=True)
class Advice:
    """A sentence, and what it rests on: figures, seeds and rows."""

    text: str
    evidence: str


def evidence(gaps: Sequence[Gap], *, figure: str = "auroc", labels: Sequence[str] = ()) -> str:
    """What a sentence rests on; `labels`, one a difference, say which it is."""
    starts = [f"{label}: " for label in labels] or [""] * len(gaps)
    parts = [f"{start}{_figures(gap, figure)}" for start, gap in zip(starts, gaps, strict=True)]
    keys = dict.fromkeys(key[:KEY_DIGITS] for gap in gaps for key in gap.keys)
    parts.append(f"rows {', '.join(keys)}")
    if any(gap.is_cut for gap in gaps):
        parts.append("some of these rows were cut by the budget")
    return "; ".join(parts)


def _figures(gap: Gap, figure: str) -> str:
    values = " and ".join(figure_words(group.mean(figure)) for group in (gap.first, gap.second))
    found = gap[figure]
    text = f"{FIGURES[figure]} {values} as means over seeds, paired difference {signed(found.value)}"
    text += f", 95 % interval {interval_words(found.low, found.high, with_sign=True)}"
    p = p_words(gap.p) if figure == "auroc" else ""
    return f"{text}{f', DeLong {p}' if p else ''}, {plural(len(gap.seeds), 'seed')}"


def brings(gap: Gap, start: str) -> str:
    """What choosing the first over the second does to the AUROC."""
    found = gap["auroc"]
    interval = interval_words(found.low, found.high, with_sign=True)
    if not gap.excludes_zero():
        return f"no difference in AUROC was found ({signed(found.value)}, {interval})"
    return f"{start} {signed(found.value)} AUROC ({interval})"
