"""A task: what a plugin shall be, and how it is trained. Needs the standard library alone."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

from ..errors import InputError
from ..records import Record
from ..resources import resource
from ..spec import PluginSpec
from .about import About
from .augmentation_spec import AugmentationSpec
from .objective_spec import ObjectiveSpec, PixelSpec


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingSpec(Record):
    """The recipe. Learning rates, weight decays and clipping are the paper's.

    `warm_up_epochs` train the query and head on cached frozen embeddings; `epochs` train everything that `method`
    lets: the adapters (`lora`), nothing more (`frozen`), or the whole backbone (`full`, a model of the run and no
    plugin). `batch` is the number of studies of a step, however few of them fit into memory at once. `slices` is how
    many random slices of a view a training step sees (all where None). `keep` says which weights are kept: the best
    by `monitor` on the validation cases, or the last; after `patience` epochs without a better one training ends.
    With `calibrate` the plugin's temperature and thresholds are fitted on the validation cases.
    """

    method: Literal["lora", "frozen", "full"] = "lora"
    epochs: int = 10
    batch: int = 8
    warm_up_epochs: int = 50
    adapter_rate: float = 1e-4
    adapter_decay: float = 1e-5
    head_rate: float = 1e-3
    head_decay: float = 1e-4
    backbone_rate: float = 1e-5
    backbone_decay: float = 1e-5
    clip: float = 1.0
    slices: int | None = None
    sampling: Literal["shuffled", "balanced"] = "shuffled"
    precision: Literal["float32", "bfloat16"] = "float32"
    objective: ObjectiveSpec = dataclasses.field(default_factory=ObjectiveSpec)
    pixels: PixelSpec = dataclasses.field(default_factory=PixelSpec)
    augmentation: AugmentationSpec = dataclasses.field(default_factory=AugmentationSpec)
    keep: Literal["best", "last"] = "best"
    monitor: Literal["auc", "average_precision", "balanced_accuracy"] = "auc"
    patience: int | None = None
    calibrate: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        if self.epochs < 0 or self.warm_up_epochs < 0 or self.epochs + self.warm_up_epochs == 0 or self.batch < 1:
            raise InputError("Training needs at least one epoch, and a batch of at least one study.")
        if self.slices is not None and self.slices < 1:
            raise InputError(f"A training step needs at least one slice of a view, not {self.slices}.")
        if self.patience is not None and (self.patience < 1 or self.keep != "best"):
            raise InputError("The patience is a number of epochs from 1 on, and needs keep to be 'best'.")
        if self.method == "full" and self.precision != "float32":
            raise InputError("A whole backbone is trained in float32: its steps are smaller than 16 bits can hold.")
        if not 0 < self.clip <= 1e6:
            raise InputError(f"Gradients are clipped to a norm above 0, but clip is {self.clip:g}.")
        for name in ("adapter_rate", "head_rate", "backbone_rate", "adapter_decay", "head_decay", "backbone_decay"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"'{name}' must lie within 0 to 1, but is {getattr(self, name):g}.")
        if not 0 <= self.seed < 1 << 32:
            raise InputError(f"A seed must lie within 0 to 4294967295, but is {self.seed}.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TaskSpec(Record):
    """A plugin to be and its recipe. `about` tells of the data; neither the training nor the plugin depends on it."""

    plugin: PluginSpec
    training: TrainingSpec = TrainingSpec()
    about: About | None = None

    def __post_init__(self) -> None:
        if self.plugin.lora.rank == 0 and self.training.method != "full" and self.training.warm_up_epochs == 0:
            raise InputError("Without adapters only the warm-up trains: give warm_up_epochs of at least 1.")
        if self.plugin.lora.rank and self.training.method != "lora":
            raise InputError(
                f"The method '{self.training.method}' has no adapters: set lora's rank to 0, or the method to 'lora'."
            )
        if self.plugin.lora.rank == 0 and self.training.method != "full" and self.training.pixels.weight:
            raise InputError("Without adapters masks teach the plugin nothing: set the weight of pixels to 0.")


def task_names() -> list[str]:
    """The names that `read_task` knows: those of `Resources/Tasks` and of the sets of MedMNIST."""
    return sorted({*_files_by_name(), *_of_medmnist().medmnist_names()})


def read_task(name: str | Path) -> TaskSpec:
    """A task from a JSON file, or by one of `task_names`; raises InputError if it is wrong.

    A file of `Resources/Tasks` comes before a set of MedMNIST of the same name.
    """
    place = Path(name)
    if not place.is_file():
        files = _files_by_name()
        if str(name) not in files and str(name) in _of_medmnist().medmnist_names():
            return _of_medmnist().medmnist_task(str(name))
        if str(name) not in files:
            raise InputError(f"There is no task file '{name}': give a JSON file, or one of {', '.join(task_names())}.")
        place = files[str(name)]
    try:
        data: Any = json.loads(place.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise InputError(f"The task file '{place.name}' is not text in UTF-8: save it as such.") from error
    except RecursionError as error:
        raise InputError(f"The task file '{place.name}' is nested too deep to be a task: correct it.") from error
    except (OSError, ValueError) as error:
        raise InputError(f"The task file '{place.name}' is not JSON: {error}.") from error
    return task_from(data, where=f"The task file '{place.name}'")


def _files_by_name() -> dict[str, Path]:
    return {place.stem: place for place in resource("Tasks").glob("*.json")}


def _of_medmnist() -> ModuleType:
    # That module builds its tasks with this one's functions.
    from . import medmnist

    return medmnist


def task_from(data: Any, *, where: str) -> TaskSpec:
    """A task from JSON values, `where` names them in a message; raises InputError if it is wrong."""
    task = TaskSpec.from_dict(_with_the_papers(data), where=where)
    unknown = _unknown_fields(task)
    if unknown:
        # A plugin file may come from a newer version; a task is typed by a person.
        raise InputError(f"{where} has the unknown field '{unknown[0]}': check its spelling.")
    return task


def _with_the_papers(data: Any) -> Any:
    """The task with the paper's objective and augmentation where it says nothing of them (arXiv 2512.12887)."""
    training = data.get("training", {}) if isinstance(data, dict) else None
    if not isinstance(training, dict):
        return data
    plugin = data.get("plugin")
    multiclass = isinstance(plugin, dict) and plugin.get("task_type") == "multiclass"
    # Alpha is for sigmoids; classes that exclude each other are weighed by how often they are.
    objective = {"kind": "focal", **({"class_weights": True} if multiclass else {})}
    papers = {"objective": objective, "augmentation": AugmentationSpec.paper().to_dict()}
    return {**data, "training": {**papers, **training}}


def _unknown_fields(value: Any) -> list[str]:
    if isinstance(value, tuple):
        return [name for item in value for name in _unknown_fields(item)]
    if not isinstance(value, Record):
        return []
    parts = [getattr(value, field.name) for field in dataclasses.fields(value) if field.name != "extra"]
    return [*value.extra, *(name for part in parts for name in _unknown_fields(part))]
