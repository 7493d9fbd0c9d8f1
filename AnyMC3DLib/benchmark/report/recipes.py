"""How each method was trained, as it follows from the task and the row: what nobody can compare methods without."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable, Mapping, Sequence

from ...errors import InputError
from ...training.run import Build
from ...training.task import TaskSpec, TrainingSpec
from ..config import RowConfig
from ..methods import find_method
from ..names import NAMES, title_of
from ..volume_networks import VolumeNetwork
from .labels import listed, value_words

COLUMNS = (
    "Warm-up epochs",
    "Epochs",
    "Learning rates",
    "Studies a step",
    "Slices a step",
    "Batch norm",
    "Weights kept",
    "Source",
)
# What rows of one method may differ in that their recipes follow from.
CONDITIONS = ("share", "pretrained", "size", "epochs", "pixels", "backbone", "recipe")
MONITORS: Mapping[str, str] = {
    "auc": "AUROC",
    "average_precision": "average precision",
    "balanced_accuracy": "balanced accuracy",
}
Cells = tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class RecipeTable:
    """The recipes of methods on some datasets: lines of a name, what there is to the method, and a cell a column."""

    datasets: tuple[str, ...]
    lines: tuple[tuple[str, str, Cells], ...]


def recipe_tables(configs: Iterable[RowConfig], tasks: Mapping[str, TaskSpec]) -> list[RecipeTable]:
    """A table for the datasets whose task is at hand and that have the same recipes; a line names what it is for."""
    rows: dict[str, dict[str, dict[Cells, list[RowConfig]]]] = {}
    for config in configs:
        if config.dataset in tasks:
            found = rows.setdefault(config.dataset, {}).setdefault(config.method, {})
            found.setdefault(_cells(config, tasks[config.dataset]), []).append(config)
    alike: dict[tuple[tuple[str, str, Cells], ...], list[str]] = {}
    for dataset, methods in rows.items():
        lines = tuple(line for method, recipes in methods.items() for line in _lines(method, recipes))
        alike.setdefault(lines, []).append(dataset)
    return [RecipeTable(tuple(datasets), lines) for lines, datasets in alike.items()]


def chooses_by_validation(configs: Iterable[RowConfig], tasks: Mapping[str, TaskSpec]) -> set[bool]:
    """Whether recipes keep the best weights by the validation cases (True), the last ones (False), or some each."""
    found = set()
    for config in configs:
        recipe = _recipe(config, tasks[config.dataset]) if config.dataset in tasks else None
        if recipe is not None:
            found.add(recipe.keep == "best")
    return found


def _lines(method: str, recipes: Mapping[Cells, Sequence[RowConfig]]) -> list[tuple[str, str, Cells]]:
    words = NAMES[method].words if method in NAMES else ""
    told = [name for name in CONDITIONS if len(recipes) > 1 and _tells_apart(name, list(recipes.values()))]
    lines = []
    for cells, configs in recipes.items():
        values = [listed(list(dict.fromkeys(value_words(n, getattr(c, n)) for c in configs))) for n in told]
        lines.append((", ".join((title_of(method), *values)), words, cells))
    return lines


def _tells_apart(field: str, recipes: Sequence[Sequence[RowConfig]]) -> bool:
    """Whether recipes differ in the values of a field that they are for."""
    return len({frozenset(repr(getattr(c, field)) for c in configs) for configs in recipes}) > 1


def _recipe(config: RowConfig, task: TaskSpec) -> TrainingSpec | None:
    try:
        return find_method(config.method).task(task, config).training
    except InputError:
        return None


def _cells(config: RowConfig, task: TaskSpec) -> Cells:
    recipe = _recipe(config, task)
    source = NAMES[config.method].source if config.method in NAMES else ""
    if recipe is None:
        return ("unknown",) * (len(COLUMNS) - 1) + (source,)
    method = find_method(config.method)
    learns = _norms_learn(method.build(method.task(task, config), config))
    return (
        str(recipe.warm_up_epochs) if recipe.warm_up_epochs else "none",
        "none" if recipe.method == "frozen" else str(recipe.epochs),
        _rates(recipe),
        str(recipe.batch),
        ("all" if recipe.slices is None else f"{recipe.slices} at random") if method.takes_backbone else "whole volume",
        "learns" if learns else "as pretrained",
        _kept(recipe),
        source,
    )


def _rates(recipe: TrainingSpec) -> str:
    head = f"head {recipe.head_rate:g}"
    others = {"lora": f"adapters {recipe.adapter_rate:g}, ", "full": f"network {recipe.backbone_rate:g}, "}
    return others.get(recipe.method, "") + head


def _kept(recipe: TrainingSpec) -> str:
    if recipe.keep == "last":
        return "last"
    rest = "" if recipe.patience is None else f", patience {recipe.patience}"
    return f"best {MONITORS.get(recipe.monitor, recipe.monitor)} of validation{rest}"


def _norms_learn(build: Build) -> bool:
    network = build.network.func if isinstance(build.network, functools.partial) else build.network
    return isinstance(network, type) and issubclass(network, VolumeNetwork)
