"""The folder of the user's plugins, and a card for each: what a person wants to know before ticking it.

Needs the standard library alone: a plugin's description stands in the head of its file.
"""

from __future__ import annotations

import dataclasses
import math
import re
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from AnyMC3DLib.errors import AnyMC3DError, InputError
from AnyMC3DLib.files import replacing
from AnyMC3DLib.plugin import read_spec
from AnyMC3DLib.plugin_edit import check_whole, revise_plugin
from AnyMC3DLib.resources import resource
from AnyMC3DLib.spec import BackboneRef, PluginSpec, TaskType

ENDING = ".safetensors"
SAMPLE = ("Sample", "HeadLesionPhantom.safetensors")
# The first that a plugin has is shown: figures of cases that had no part in the training say most.
FIGURES_FROM = ("test", "validation")
LONGEST_STEM = 50


@dataclasses.dataclass(frozen=True)
class Auc:
    """An area under the ROC curve, with its 95 % interval where known, and the cases that it was measured on."""

    value: float
    low: float | None
    high: float | None
    split: str

    def __str__(self) -> str:
        interval = "" if self.low is None or self.high is None else f" ({self.low:.2f} to {self.high:.2f})"
        return f"{self.value:.2f}{interval}, {self.split}"


@dataclasses.dataclass(frozen=True)
class PluginCard:
    """A plugin in words; `regions` says what kind of region the user gives, by the source it lies in."""

    path: Path
    name: str
    version: str
    answers: str
    task_type: TaskType
    classes: tuple[str, ...]
    anatomy: str
    modality: str
    training_counts: Mapping[str, int]
    training_data: str
    auc: Auc | None
    licence: str
    intended_use: str
    backbone: BackboneRef
    sources: tuple[str, ...]
    views: tuple[tuple[str, str, str], ...]
    regions: Mapping[str, str]

    @property
    def trained_on(self) -> str:
        """The training data in words."""
        counts = ", ".join(f"{count} {name}" for name, count in self.training_counts.items())
        return ": ".join(filter(None, [self.training_data, counts])) or "not told"

    @property
    def words(self) -> str:
        """All in which a search looks, in lower case."""
        parts = [self.name, self.answers, self.anatomy, self.modality, *self.classes, self.training_data]
        return " ".join(parts).lower()


@dataclasses.dataclass(frozen=True)
class DamagedFile:
    """A file that cannot be used, and the sentence that says why."""

    path: Path
    sentence: str


class PluginFolder:
    """The plugins in a folder, as they were at the last `refresh`; the folder need not be there.

    `trash` puts a file away and says whether it could; without it a file is deleted.
    """

    def __init__(self, path: str | Path, *, trash: Callable[[Path], bool] | None = None) -> None:
        self.path = Path(path)
        self._trash = trash or _delete
        self.cards: tuple[PluginCard, ...] = ()
        self.damaged: tuple[DamagedFile, ...] = ()
        self.refresh()

    def refresh(self) -> None:
        """Look again."""
        cards, damaged = [], []
        for place in self._files():
            try:
                cards.append(read_card(place))
            except AnyMC3DError as error:
                damaged.append(DamagedFile(place, str(error)))
        self.cards = tuple(sorted(cards, key=lambda card: (card.name.lower(), card.path.name)))
        self.damaged = tuple(damaged)

    def install(self, file: str | Path) -> PluginCard:
        """Copy a plugin file into the folder, in the place of an older one of its name.

        Raises PluginError if it is no plugin, and InputError if it cannot be copied.
        """
        source = Path(file)
        card = read_card(source)
        same = [c.path for c in self.cards if c.name == card.name]
        target = same[0] if same else self._free_place(source.stem)
        if target.exists() and target.samefile(source):
            return card
        _copy(source, target)
        self.refresh()
        return dataclasses.replace(card, path=target)

    def install_sample(self) -> PluginCard:
        """Install the plugin that comes with AnyMC3D."""
        return self.install(resource(*SAMPLE))

    def remove(self, path: Path) -> None:
        """Put a file of the folder into the trash; raises InputError if the system refuses."""
        try:
            gone = not path.exists() or self._trash(path)
        except OSError as error:
            raise InputError(f"'{path.name}' cannot be deleted: {error.strerror or error}.") from error
        if not gone:
            raise InputError(f"'{path.name}' cannot be moved to the trash: delete it in the folder of the plugins.")
        self.refresh()

    def rename(self, card: PluginCard, name: str) -> PluginCard:
        """Give a plugin another name, in the file that it has; raises as `revise`."""
        return self.revise(card, name=name)

    def revise(self, card: PluginCard, **fields: Any) -> PluginCard:
        """Change what a plugin says or where it decides: see `plugin_edit.revise_plugin`, of which the fields are.

        Raises InputError for a name that another plugin has, and as that does.
        """
        if isinstance(fields.get("name"), str):
            self._check_free(fields["name"], but=card.path)
        revise_plugin(card.path, **fields)
        self.refresh()
        return read_card(card.path)

    def duplicate(self, card: PluginCard, name: str) -> PluginCard:
        """A copy of a plugin under another name, in a file of its own; raises as `revise`."""
        self._check_free(name)
        target = self._free_place(_stem_of(name))
        revise_plugin(card.path, target, name=name)
        self.refresh()
        return read_card(target)

    def export(self, card: PluginCard, to: str | Path) -> Path:
        """Copy a plugin to a file, or into a folder, and return its place.

        Raises PluginError if the plugin is damaged by now, and InputError if it cannot be written there.
        """
        target = Path(to)
        if target.is_dir():
            target = target / card.path.name
        if target.suffix != ENDING:
            target = target.with_name(target.name + ENDING)
        check_whole(card.path)
        if not (target.exists() and target.samefile(card.path)):
            _copy(card.path, target)
        self.refresh()
        return target

    def matching(self, *, anatomy: str = "", modality: str = "", words: str = "") -> list[PluginCard]:
        """The cards of that anatomy and modality (any where empty) that hold each of the words."""
        return [
            card
            for card in self.cards
            if (not anatomy or card.anatomy.lower() == anatomy.lower())
            and (not modality or card.modality.lower() == modality.lower())
            and all(word in card.words for word in words.lower().split())
        ]

    @property
    def anatomies(self) -> list[str]:
        """The anatomies to choose from."""
        return _distinct(card.anatomy for card in self.cards)

    @property
    def modalities(self) -> list[str]:
        """The modalities to choose from."""
        return _distinct(card.modality for card in self.cards)

    def _files(self) -> Sequence[Path]:
        try:
            places = sorted(self.path.iterdir())
        except OSError:
            return []
        # What begins with a dot is being copied, or belongs to the system.
        return [p for p in places if p.suffix == ENDING and not p.name.startswith(".") and p.is_file()]

    def _check_free(self, name: str, *, but: Path | None = None) -> None:
        if any(card.name == name.strip() and card.path != but for card in self.cards):
            raise InputError(f"There is a plugin called '{name.strip()}' already: give another name.")

    def _free_place(self, stem: str) -> Path:
        place, number = self.path / f"{stem}{ENDING}", 1
        while place.exists():
            number += 1
            place = self.path / f"{stem}-{number}{ENDING}"
        return place


def read_card(path: Path) -> PluginCard:
    """The card of a plugin file; raises PluginError if it is none, or only a part of one."""
    check_whole(path)
    return card_of(read_spec(path), path)


def card_of(spec: PluginSpec, path: Path) -> PluginCard:
    """The card of a plugin; what its provenance lacks, or has in another shape, stays empty."""
    provenance = spec.provenance
    return PluginCard(
        path=path,
        name=spec.name,
        version=spec.version,
        answers=spec.description or " or ".join(c.name for c in spec.classes) + "?",
        task_type=spec.task_type,
        classes=tuple(c.name for c in spec.classes),
        anatomy=spec.anatomy,
        modality=spec.modality,
        training_counts=_counts(_inner(provenance, "counts", "train")),
        training_data=provenance["data"] if isinstance(provenance.get("data"), str) else "",
        auc=_auc(provenance),
        licence=spec.licence,
        intended_use=spec.intended_use,
        backbone=spec.backbone,
        sources=spec.sources,
        views=tuple((v.name, v.source, v.preprocessing.axis) for v in spec.views),
        regions={v.source: v.preprocessing.region.kind for v in spec.views if v.preprocessing.region.comes_with_study},
    )


def _inner(data: Any, *names: str) -> Mapping[str, Any]:
    for name in names:
        data = data.get(name) if isinstance(data, Mapping) else None
    return data if isinstance(data, Mapping) else {}


def _counts(counts: Mapping[str, Any]) -> dict[str, int]:
    return {name: n for name, n in counts.items() if isinstance(n, int) and not isinstance(n, bool)}


def _auc(provenance: Mapping[str, Any]) -> Auc | None:
    for split in FIGURES_FROM:
        figure = _inner(provenance, split, "auc")
        value = _number(figure.get("value"))
        if value is not None:
            return Auc(value, _number(figure.get("low")), _number(figure.get("high")), split)
    return None


def _number(value: Any) -> float | None:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return float(value) if is_number and math.isfinite(value) else None


def _stem_of(name: str) -> str:
    """A file name for a plugin of that name, which may hold anything."""
    return re.sub(r"[^\w.-]+", "-", name)[:LONGEST_STEM].strip("-_. ") or "plugin"


def _copy(source: Path, target: Path) -> None:
    with replacing(target) as temporary:
        shutil.copyfile(source, temporary)


def _delete(path: Path) -> bool:
    path.unlink(missing_ok=True)
    return True


def _distinct(values: Iterable[str]) -> list[str]:
    return sorted({value for value in values if value}, key=str.lower)
