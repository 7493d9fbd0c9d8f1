"""A task: what a plugin shall be, and how it is trained. Needs the standard library alone."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any, Literal

from ..errors import InputError
from ..records import Record
from ..resources import resource
from ..spec import PluginSpec


@dataclasses.dataclass(frozen=True, kw_only=True)
class AugmentationSpec(Record):
    """Random changes of a study's slices while training, one draw for all slices of a view, in [0, 1] intensities.

    `flip` is the probability for each in-plane axis; `rotate` in degrees, `zoom` as a share, `shift` as a share of
    the size are the largest changes either way; `affine` is the probability that those three happen.
    """

    flip: float = 0.0
    affine: float = 0.0
    rotate: float = 0.0
    zoom: float = 0.0
    shift: float = 0.0

    def __post_init__(self) -> None:
        limits = {"flip": 1.0, "affine": 1.0, "rotate": 180.0, "zoom": 0.9, "shift": 1.0}
        for name, most in limits.items():
            if not 0 <= getattr(self, name) <= most:
                raise InputError(f"'{name}' must lie within 0 to {most:g}, but is {getattr(self, name):g}.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingSpec(Record):
    """The recipe. Learning rates and weight decays of the two parameter groups are the paper's.

    `warm_up_epochs` train the query and head on cached frozen embeddings; `epochs` train everything. `slices` is
    how many random slices of a view a training step sees (all where None). `keep` says which weights are kept: the
    best by validation AUC, or the last.
    """

    epochs: int = 10
    batch: int = 8
    warm_up_epochs: int = 50
    adapter_rate: float = 1e-4
    adapter_decay: float = 1e-5
    head_rate: float = 1e-3
    head_decay: float = 1e-4
    slices: int | None = None
    class_weights: bool = False
    precision: Literal["float32", "bfloat16"] = "float32"
    augmentation: AugmentationSpec = AugmentationSpec()
    keep: Literal["best", "last"] = "best"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.epochs < 0 or self.warm_up_epochs < 0 or self.epochs + self.warm_up_epochs == 0 or self.batch < 1:
            raise InputError("Training needs at least one epoch, and a batch of at least one study.")
        if self.slices is not None and self.slices < 1:
            raise InputError(f"A training step needs at least one slice of a view, not {self.slices}.")
        for name in ("adapter_rate", "head_rate", "adapter_decay", "head_decay"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"'{name}' must lie within 0 to 1, but is {getattr(self, name):g}.")
        if not 0 <= self.seed < 1 << 32:
            raise InputError(f"A seed must lie within 0 to 4294967295, but is {self.seed}.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TaskSpec(Record):
    """A plugin to be and its recipe."""

    plugin: PluginSpec
    training: TrainingSpec = TrainingSpec()

    def __post_init__(self) -> None:
        if self.plugin.lora.rank == 0 and self.training.warm_up_epochs == 0:
            raise InputError("Without adapters only the warm-up trains: give warm_up_epochs of at least 1.")


def read_task(name: str | Path) -> TaskSpec:
    """A task from a JSON file, or by the name of one of `Resources/Tasks`; raises InputError if it is wrong."""
    place = Path(name)
    if not place.is_file():
        known = sorted(path.stem for path in resource("Tasks").glob("*.json"))
        if str(name) not in known:
            raise InputError(f"There is no task file '{name}': give a JSON file, or one of {', '.join(known)}.")
        place = resource("Tasks", f"{name}.json")
    try:
        data: Any = json.loads(place.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"The task file '{place.name}' is not JSON: {error}.") from error
    task = TaskSpec.from_dict(data, where=place.name)
    unknown = _unknown_fields(task)
    if unknown:
        # A plugin file may come from a newer version; a task is typed by a person.
        raise InputError(f"The task file '{place.name}' has the unknown field '{unknown[0]}': check its spelling.")
    return task


def _unknown_fields(value: Any) -> list[str]:
    if isinstance(value, tuple):
        return [name for item in value for name in _unknown_fields(item)]
    if not isinstance(value, Record):
        return []
    parts = [getattr(value, field.name) for field in dataclasses.fields(value) if field.name != "extra"]
    return [*value.extra, *(name for part in parts for name in _unknown_fields(part))]
