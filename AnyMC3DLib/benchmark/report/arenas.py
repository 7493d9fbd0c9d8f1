"""Which groups of rows a question sets against each other, and what came of it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ..config import RowConfig
from ..questions import Question
from .gaps import Gap, Measured
from .groups import Group
from .labels import value_words

# What belongs to a method rather than being a condition that methods are compared under, where methods are compared.
PART_OF_METHOD = ("backbone", "pretrained", "fusion", "rank", "targets", "views", "pixels", "weights")
REFERENCES: Mapping[str, Any] = {"method": "anymc3d", "fusion": "attention", "pretrained": True}
NUMBERS = ("size", "share", "rank", "pixels", "epochs", "budget_minutes")
NEVER_NAMED = ("dataset", "seed", "extra")
Values = tuple[Any, ...]


@dataclasses.dataclass(frozen=True)
class Arena:
    """Groups of one dataset that are compared with each other, since all else that the question names is equal.

    `conditions` are the fields that they share, in words; `names` is what each is called among them. `reference` is
    the one that all others are compared with, if any has figures.
    """

    question: Question
    dataset: str
    conditions: tuple[str, ...]
    groups: tuple[Group, ...]
    names: tuple[str, ...]
    reference: Group | None

    def name_of(self, group: Group) -> str:
        """What the group is called in this arena."""
        return next(name for own, name in zip(self.groups, self.names, strict=True) if own is group)

    @property
    def place(self) -> str:
        """The dataset and the conditions in words."""
        return ", ".join((self.dataset, *self.conditions))

    @property
    def ranked(self) -> list[Group]:
        """The groups that have an AUROC, the highest mean over seeds first."""
        known = [group for group in self.groups if math.isfinite(group.mean("auroc"))]
        return sorted(known, key=lambda group: -group.mean("auroc"))

    def gaps(self, measured: Measured) -> list[Gap]:
        """Each group with figures against the reference, as one of so many comparisons."""
        if self.reference is None:
            return []
        others = [group for group in self.groups if group.rows and group is not self.reference]
        return [measured.gap(group, self.reference).among(len(others)) for group in others]


@dataclasses.dataclass(frozen=True)
class Asked:
    """A question with the groups that answer it; `fields` name a group among those of its dataset."""

    question: Question
    groups: tuple[Group, ...]
    fields: tuple[str, ...]
    arenas: tuple[Arena, ...]

    def label(self, group: Group, *, without: Iterable[str] = ()) -> str:
        """The group by the fields that the question needs, in words."""
        left_out = set(without)
        return _words(group.config, [name for name in self.fields if name not in left_out])

    @property
    def datasets(self) -> tuple[str, ...]:
        """The datasets in the order of their rows."""
        return tuple(dict.fromkeys(group.config.dataset for group in self.groups))


def ask(question: Question, groups: Sequence[Group]) -> Asked:
    """The groups that the question is about, and who meets whom."""
    about = tuple(group for group in groups if question.asks(group.config))
    fields = (question.axis, *question.series, *_telling_apart(question, about))
    arenas = []
    for dataset in dict.fromkeys(group.config.dataset for group in about):
        own = [group for group in about if group.config.dataset == dataset]
        arenas += _arenas(question, dataset, own, fields)
    return Asked(question, about, fields, tuple(arenas))


def ordered(field: str, values: Iterable[Any]) -> list[Any]:
    """The values of a field, each once: numbers as they rise, with none last, all else as it comes."""
    found = list(dict.fromkeys(values))
    return sorted(found, key=lambda v: (v is None, v or 0)) if field in NUMBERS else found


def _telling_apart(question: Question, groups: Sequence[Group]) -> list[str]:
    """The fields that differ among groups of one dataset which axis and series do not tell apart."""
    named = (question.axis, *question.series)
    alike: dict[Values, list[Group]] = {}
    for group in groups:
        alike.setdefault((group.config.dataset, *_values(group.config, named)), []).append(group)
    others = [f.name for f in dataclasses.fields(RowConfig) if f.name not in (*named, *NEVER_NAMED)]
    # A list or an object has no hash, and is its words here.
    return [
        name
        for name in others
        if any(len({repr(getattr(g.config, name)) for g in bucket}) > 1 for bucket in alike.values())
    ]


def _values(config: RowConfig, fields: Iterable[str]) -> Values:
    return tuple(getattr(config, name) for name in fields)


def _arenas(question: Question, dataset: str, groups: list[Group], fields: Values) -> list[Arena]:
    compared = question.compared
    shared = [name for name in (question.axis, *question.series) if name != compared]
    # A method that brings its own network has no backbone or rank, and meets the others at each of theirs.
    loose = [name for name in shared if compared == "method" and name in PART_OF_METHOD]
    places = {}
    for group in groups:
        if all(getattr(group.config, name) not in (None, "") for name in loose):
            places[_values(group.config, shared)] = None
    chosen = [[g for g in groups if _belongs(g.config, shared, place, loose)] for place in places]
    left = [g for g in groups if not any(g in own for own in chosen)]
    for group in left:
        places.setdefault(_values(group.config, shared))
    found = []
    for place in _sorted_places(shared, list(places)):
        own = [g for g in groups if _belongs(g.config, shared, place, loose)]
        names = _names(own, [name for name in fields if name not in shared], [n for n in fields if n in loose])
        words = tuple(value_words(name, value) for name, value in zip(shared, place, strict=True))
        found.append(Arena(question, dataset, words, tuple(own), names, _reference(question, own)))
    return found


def _sorted_places(shared: Sequence[str], places: list[Values]) -> list[Values]:
    for number in reversed(range(len(shared))):
        order = ordered(shared[number], (place[number] for place in places))
        places = sorted(places, key=lambda place, n=number, o=order: o.index(place[n]))
    return places


def _belongs(config: RowConfig, shared: Sequence[str], place: Values, loose: Sequence[str]) -> bool:
    own = zip(shared, _values(config, shared), place, strict=True)
    return all(value == wanted or (name in loose and value in (None, "")) for name, value, wanted in own)


def _names(groups: Sequence[Group], fields: Sequence[str], loose: Sequence[str]) -> tuple[str, ...]:
    """The groups by the first of the fields, which is what is compared, and by the others in which they differ."""
    differing = [n for n in fields[1:] if len({repr(getattr(g.config, n)) for g in groups}) > 1]
    differing.insert(0, fields[0])
    names = tuple(_words(group.config, differing) for group in groups)
    if len(set(names)) == len(names):
        return names
    return tuple(_words(group.config, [*differing, *loose]) for group in groups)


def _words(config: RowConfig, fields: Sequence[str]) -> str:
    """The fields' values; a part that the method takes from its task or does without is not worth a word."""
    told = [name for name in fields if name not in PART_OF_METHOD or getattr(config, name) not in (None, "")]
    return ", ".join(value_words(name, getattr(config, name)) for name in told or fields[:1])


def _reference(question: Question, groups: Sequence[Group]) -> Group | None:
    """The question's or the paper's, of several the best on the validation cases; without one the best on the test."""
    known = [group for group in groups if math.isfinite(group.mean("auroc"))]
    if not known:
        return None
    compared = question.compared
    wanted = question.reference if question.reference is not None else REFERENCES.get(compared)
    chosen = [group for group in known if wanted is not None and getattr(group.config, compared) == wanted]
    if chosen:
        return max(chosen, key=lambda group: _low_if_unknown(group.mean("auroc", part="validation")))
    if compared in NUMBERS and question.reference is None:
        return min(known, key=lambda g: (getattr(g.config, compared) is None, getattr(g.config, compared) or 0))
    return max(known, key=lambda group: group.mean("auroc"))


def _low_if_unknown(value: float) -> float:
    return value if math.isfinite(value) else -math.inf
