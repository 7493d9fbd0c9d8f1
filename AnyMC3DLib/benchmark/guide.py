"""What to choose, in sentences made from the figures, each with what it rests on."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

from .arenas import NUMBERS, REFERENCES, Asked, ordered
from .evidence import Advice, brings, evidence
from .gaps import Gap, Measured
from .groups import Group
from .guide_methods import advise_on_methods
from .labels import value_words


def advise(asked: Asked, measured: Measured) -> list[Advice]:
    """What the answers to a question say to somebody who chooses."""
    question, found = asked.question, list[Advice]()
    if question.compared == "method":
        for arena in asked.arenas if question.axis == "method" else ():
            found += advise_on_methods(arena, measured)
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
        yield _threshold(place, (names[0], names[1]), sorted(steps, key=lambda step: step[0]))


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
        f"{place}: {'; '.join(parts)}.", evidence([g for _, g in steps], labels=[f"{n} cases" for n in counts])
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
        for first, second in _steps(asked, axis, groups):
            gap = measured.gap(second, first)
            if gap.is_known:
                what = _change(axis, first, second)
                text = brings(gap, f"{what} brings") if gap.excludes_zero() else f"{what}: {brings(gap, what)}"
                yield Advice(f"{place}: {text}.", evidence([gap]))


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
        shares = f"Training on {100 * new:.3g} % of the patients rather than {100 * old:.3g} %"
        return f"{shares} ({counts[1]} rather than {counts[0]} cases)" if all(counts) else shares
    if axis == "pretrained":
        words = {True: "pretrained weights", False: "random weights"}
        return f"Starting from {words[new]} rather than {words[old]}"
    told = [value_words(axis, value) for value in (new, old)]
    return f"Taking {told[0]} rather than {told[1]}"
