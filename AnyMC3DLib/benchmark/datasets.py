"""The data of a benchmark: a task and its labelled cases, known by what they hold."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from ..errors import InputError
from ..training.cases import Case, read_cases
from ..training.task import TaskSpec, read_task

# Where the data of a dataset is looked for in a folder, by its name in small letters.
PATTERNS = ("{name}_64.npz", "{name}.npz", "{name}.csv", "{name}/manifest.csv")


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A dataset that is there: its task, and the file of its cases."""

    name: str
    task: TaskSpec
    data: Path

    @functools.cached_property
    def task_digest(self) -> str:
        """Of what the task says of the plugin and its training; what else is known of it decides nothing."""
        parts = self.task.to_dict()
        return _short(json.dumps([parts["plugin"], parts["training"]], sort_keys=True).encode())

    @functools.cached_property
    def data_digest(self) -> str:
        """Of the file; images that a table names are not read for it."""
        return file_digest(self.data)

    @functools.cached_property
    def cases(self) -> Sequence[Case]:
        """All cases with their splits."""
        return read_cases(self.data, self.task.plugin)


def find_dataset(
    name: str, folder: Path, *, task: str = "", data: str = "", beside: Path | None = None
) -> Dataset | None:
    """The dataset, None where `folder` has no data of it; raises InputError for an unknown task.

    `task` is a task's file or name (that of the dataset where empty), `data` a file in `folder`; both may lie `beside`.
    """
    own = beside / task if task and beside is not None and (beside / task).is_file() else (task or name)
    spec = read_task(own)
    names = (data,) if data else tuple(pattern.format(name=name.lower()) for pattern in PATTERNS)
    places = [root / each for root in (folder, beside) if root is not None for each in names]
    place = next((place for place in places if place.is_file()), None)
    return None if place is None else Dataset(name, spec, place)


def file_digest(place: Path) -> str:
    """16 hexadecimal digits of what a file holds; raises InputError if it cannot be read."""
    try:
        return _short(place.read_bytes())
    except OSError as error:
        raise InputError(f"'{place}' cannot be read: {error.strerror or error}; check the path.") from error


def _short(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]
