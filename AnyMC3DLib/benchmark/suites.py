"""A suite: a YAML file that spans rows over axes, and the questions that they answer."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from ..errors import InputError
from ..records import Record
from ..resources import resource
from .config import RowConfig
from .datasets import Dataset, file_digest, find_dataset
from .methods import Method, find_method
from .questions import Question

# The axes of a block and the fields of a row that they span.
AXES: Mapping[str, str] = {
    "methods": "method",
    "backbones": "backbone",
    "pretrained": "pretrained",
    "sizes": "size",
    "shares": "share",
    "fusions": "fusion",
    "ranks": "rank",
    "targets": "targets",
    "views": "views",
    "pixels": "pixels",
    "seeds": "seed",
}
SINGLE = ("epochs", "budget_minutes", "recipe", "weights")
MOST_NODES = 100_000  # of YAML, in one suite


@dataclasses.dataclass(frozen=True, kw_only=True)
class DatasetSpec(Record):
    """Which dataset: its name, and where its task and data are if not where its name says."""

    name: str
    task: str = ""
    data: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Block(Record):
    """Rows that are every combination of the values of these axes; one that is left out has the task's own value.

    A share s of the cases is trained for s^-`more_epochs` times as many epochs: 0 keeps their number, and a small share
    is hardly trained; 1 keeps the number of steps.
    """

    methods: tuple[str, ...]
    datasets: tuple[str, ...] | None = None
    backbones: tuple[str, ...] = ("efficientnet_lite0",)
    pretrained: tuple[bool, ...] = (True,)
    sizes: tuple[int, ...] | None = None
    shares: tuple[float, ...] = (1.0,)
    fusions: tuple[str, ...] | None = None
    ranks: tuple[int, ...] | None = None
    targets: tuple[tuple[str, ...], ...] | None = None
    views: tuple[tuple[str, ...], ...] | None = None
    pixels: tuple[float, ...] | None = None
    seeds: tuple[int, ...] = (0,)
    epochs: int | None = None
    budget_minutes: float | None = None
    recipe: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    weights: str = ""
    more_epochs: float = 0.0

    def __post_init__(self) -> None:
        for method in self.methods:
            find_method(method)
        if not 0 <= self.more_epochs <= 1:
            raise InputError(f"The exponent more_epochs must lie within 0 to 1, but is {self.more_epochs:g}.")
        if self.extra:
            known = ", ".join((*AXES, "datasets", *SINGLE, "more_epochs"))
            raise InputError(f"A block of rows has no field '{next(iter(self.extra))}': it has {known}.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Suite(Record):
    """What is compared, on what, and why."""

    name: str
    title: str
    about: str = ""
    datasets: tuple[DatasetSpec, ...] = ()
    rows: tuple[Block, ...] = ()
    questions: tuple[Question, ...] = ()
    folder: str = ""

    def __post_init__(self) -> None:
        if not self.rows or not self.datasets:
            raise InputError(f"The suite '{self.name}' has no rows or no datasets: give it both.")
        if self.extra:
            raise InputError(f"A suite has no field '{next(iter(self.extra))}': check its spelling.")
        known = {dataset.name for dataset in self.datasets}
        for block in self.rows:
            odd = sorted(set(block.datasets or ()) - known)
            if odd:
                raise InputError(
                    f"The suite '{self.name}' has no dataset '{odd[0]}': it has {', '.join(sorted(known))}."
                )

    def found(self, data: Path) -> tuple[dict[str, Dataset], list[str]]:
        """Its datasets that have data in the folder `data`, and the names of those that have none."""
        beside = Path(self.folder) if self.folder else None
        found = {d.name: find_dataset(d.name, data, task=d.task, data=d.data, beside=beside) for d in self.datasets}
        return {n: d for n, d in found.items() if d is not None}, [n for n, d in found.items() if d is None]

    def weights(self) -> dict[str, Path]:
        """The files of weights that its blocks name, by their digests; raises InputError if one cannot be read."""
        files = [_weights_file(block, self.folder) for block in self.rows if block.weights]
        return {file_digest(file): file for file in files}

    def configs(self, datasets: Mapping[str, Dataset]) -> list[RowConfig]:
        """The rows of the datasets that are there, each once, in the suite's order."""
        rows: dict[str, RowConfig] = {}
        for block in self.rows:
            for name in block.datasets or [d.name for d in self.datasets]:
                if name in datasets:
                    for config in _spanned(block, datasets[name], folder=self.folder):
                        rows.setdefault(config.key, config)
        return list(rows.values())


def ready_suites() -> list[str]:
    """The names of the suites that come along."""
    return sorted(place.stem for place in resource("Suites").glob("*.yaml"))


def read_suite(name: str | Path) -> Suite:
    """A suite from a YAML file, or by the name of a ready one; raises InputError if it is wrong."""
    place = Path(name)
    own = place.is_file()
    if not own:
        if str(name) not in ready_suites():
            raise InputError(f"There is no suite '{name}': give a YAML file, or one of {', '.join(ready_suites())}.")
        place = resource("Suites", f"{name}.yaml")
    try:
        data = _yaml(place.read_text(encoding="utf-8"))
    except RecursionError as error:
        raise InputError(f"The suite '{place.name}' is nested too deep, or within itself: correct it.") from error
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise InputError(f"The suite '{place.name}' cannot be read: {' '.join(str(error).split())}.") from error
    where = f"The suite '{place.name}'"
    if not isinstance(data, dict):
        raise InputError(f"{where} must hold fields such as 'datasets' and 'rows'.")
    datasets = data.get("datasets")
    if isinstance(datasets, list):
        data["datasets"] = [{"name": each} if isinstance(each, str) else each for each in datasets]
    folder = {"folder": str(place.resolve().parent)} if own else {}
    return Suite.from_dict({"name": place.stem, **data, **folder}, where=where)


def _yaml(text: str) -> Any:
    """What YAML's safe reader makes of the text; raises ValueError where aliases would unfold to more than a suite."""
    loader = yaml.SafeLoader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        # Before anything is made of it: a merge of merges grows while it is read.
        if _unfolded(node, {}) > MOST_NODES:
            raise ValueError(f"it holds more than {MOST_NODES} values once its aliases are filled in")
        return loader.construct_document(node)
    finally:
        loader.dispose()


def _unfolded(node: yaml.Node, known: dict[int, int]) -> int:
    """How many nodes there are once every alias is what it stands for; raises RecursionError for one within itself."""
    if id(node) not in known:
        value = node.value if isinstance(node, yaml.CollectionNode) else ()
        parts = [part for item in value for part in (item if isinstance(item, tuple) else (item,))]
        known[id(node)] = 1 + sum(_unfolded(part, known) for part in parts)
    return known[id(node)]


def _weights_file(block: Block, folder: str) -> Path:
    """The file of a block's weights, which may lie beside the suite."""
    beside = Path(folder) / block.weights
    return beside if folder and beside.is_file() else Path(block.weights)


def _spanned(block: Block, dataset: Dataset, *, folder: str) -> Iterator[RowConfig]:
    values: list[Sequence[Any]] = [getattr(block, axis) or (None,) for axis in AXES]
    single = {name: getattr(block, name) for name in SINGLE}
    single["weights"] = file_digest(_weights_file(block, folder)) if block.weights else ""
    for combination in itertools.product(*values):
        given = dict(zip(AXES.values(), combination, strict=True))
        method = find_method(given["method"])
        if not method.takes_backbone:
            given |= {"backbone": "", "pretrained": bool(block.weights)}
        # Said aloud, so that a row has one key whether a suite names the task's own value or leaves it away.
        own = method.own_values(dataset.task)
        given |= {name: value for name, value in own.items() if given[name] is None}
        yield RowConfig(
            dataset=dataset.name, task=dataset.task_digest, data=dataset.data_digest, **given,
            **{**single, **_longer(block, dataset, method, given["share"])},
        )  # fmt: skip


def _longer(block: Block, dataset: Dataset, method: Method, share: float) -> dict[str, Any]:
    """The epochs of a part of the cases, where they are not those of all."""
    if share == 1 or not block.more_epochs:
        return {}
    recipe, factor = dataset.task.training, share**-block.more_epochs
    warm_up = block.recipe.get("warm_up_epochs", recipe.warm_up_epochs)
    epochs = recipe.epochs if block.epochs is None else block.epochs
    longer: dict[str, Any] = {"epochs": round(factor * epochs)} if method.tunes else {}
    if method.warms_up:
        longer["recipe"] = {**block.recipe, "warm_up_epochs": round(factor * warm_up)}
    return longer
