"""What others published on the same split, beside what was found here."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

from ...training.task import TaskSpec
from ..config import RowConfig
from ..names import NAMES
from .groups import Group
from .labels import figure_words, value_words

# The figures that a publication gives, by the names of rows.
OURS: Mapping[str, str] = {"auc": "auroc", "accuracy": "accuracy"}
TITLES: Mapping[str, str] = {"auc": "AUROC", "accuracy": "Accuracy"}
SPLIT = "test"
DIGESTS = ("task", "data", "weights")
NAMED_ANYWAY = ("extra", "dataset", "seed", "method", "size", *DIGESTS)


@dataclasses.dataclass(frozen=True)
class Line:
    """A value, where it comes from, and whether somebody else published it."""

    name: str
    value: str
    source: str
    is_published: bool


@dataclasses.dataclass(frozen=True)
class Beside:
    """Values of one figure on one dataset, the best first; `why` says why published ones were left out."""

    dataset: str
    figure: str
    lines: tuple[Line, ...]
    why: str = ""


def beside(groups: Sequence[Group], tasks: Mapping[str, TaskSpec]) -> list[Beside]:
    """For each dataset with published results a table a figure: theirs, and ours on all training patients.

    Only results on the official test split count, and only where the rows were tested on as many cases as that has.
    """
    tables = []
    for dataset in dict.fromkeys(group.config.dataset for group in groups):
        about = tasks[dataset].about if dataset in tasks else None
        if about is None or not about.results:
            continue
        # What was trained on a part of the patients is no match for what was published on all.
        own = [g for g in groups if g.config.dataset == dataset and g.config.share == 1 and g.rows]
        official = about.counts.get(SPLIT)
        same = [g for g in own if official is not None and g.cases(SPLIT) == official]
        for figure in dict.fromkeys(result.figure for result in about.results):
            theirs = [r for r in about.results if r.figure == figure and r.split == SPLIT]
            if same and theirs:
                lines = [(r.value, Line(r.model, figure_words(r.value), r.source, True)) for r in theirs]
                lines += [_ours(group, figure, same) for group in same if math.isfinite(group.mean(OURS[figure]))]
                lines.sort(key=lambda line: -line[0])
                tables.append(Beside(dataset, TITLES[figure], tuple(line for _, line in lines)))
            elif own:
                why = _why_not(bool(theirs), official, own)
                tables.append(Beside(dataset, TITLES[figure], (), why))
    return tables


def _ours(group: Group, figure: str, groups: Sequence[Group]) -> tuple[float, Line]:
    values = group.values(OURS[figure])
    source = f"here, mean of {len(values)} seeds" if len(values) > 1 else "here, one seed"
    name = name_among([other.config for other in groups], group.config)
    published_on = NAMES[group.config.method].backbone if group.config.method in NAMES else ""
    if published_on:
        source += f", on {group.config.backbone or 'a network of its own'} where its paper has {published_on}"
    if group.cut:
        source += ", cut by the budget"
    return group.mean(OURS[figure]), Line(name, figure_words(group.mean(OURS[figure])), source, False)


def name_among(configs: Sequence[RowConfig], config: RowConfig) -> str:
    """A configuration by its method, its input size, and all in which it differs from the others."""
    others = [field.name for field in dataclasses.fields(RowConfig) if field.name not in NAMED_ANYWAY]
    differing = [name for name in others if len({repr(getattr(c, name)) for c in configs}) > 1]
    named = ("method", "size", *differing)
    # Digests say nothing to a person, unless nothing else tells two rows apart.
    namesakes = [c for c in configs if all(getattr(c, name) == getattr(config, name) for name in named)]
    digests = [name for name in DIGESTS if len({getattr(c, name) for c in namesakes}) > 1]
    told = [n for n in (*named, *digests) if n == "method" or getattr(config, n) not in (None, "")]
    return ", ".join(value_words(name, getattr(config, name)) for name in told)


def _why_not(has_theirs: bool, official: int | None, own: Sequence[Group]) -> str:
    if not has_theirs:
        return "The published values are not of the test split, and are left out."
    if official is None:
        return "How many cases the published test split has is not known, so that published values are left out."
    tested = ", ".join(str(count) for count in dict.fromkeys(group.cases(SPLIT) for group in own))
    return (
        f"The published test split has {official} cases, but {tested} were tested here: no value is put beside these."
    )
