"""The runs of a table: folders beside it, in which a training keeps its state, its figures and what was ordered."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from AnyMC3DLib.errors import AnyMC3DError, InputError
from AnyMC3DLib.files import write_text
from AnyMC3DLib.messages import Train

RUNS, ORDER, STATE = "runs", "order.json", "state"
# What a training writes once it has ended, into the folder of its run: the plugin, or the whole backbone.
RESULTS = ("plugin.safetensors", "model.safetensors")
FOLDER = re.compile(r".+-(\d{4}-\d{2}-\d{2})-(\d+)")
LONGEST_STEM = 50
MOST_RUNS = 10_000  # of a day; past it something else is wrong with the folder


@dataclasses.dataclass(frozen=True)
class UnfinishedRun:
    """A run that can go on: its plugin's name, the day it was begun, and its order as it goes on."""

    folder: Path
    name: str
    date: str
    order: Train


class TrainRuns:
    """The runs of one table; the folder need not be there."""

    def __init__(self, table: str | Path) -> None:
        self.table = Path(table)
        self.folder = self.table.parent / RUNS

    def begin(self, order: Train, *, today: datetime.date | None = None) -> Train:
        """Make the folder of a new run and write the order into it, which is returned with its `run`.

        Raises InputError if the folder cannot be made.
        """
        day = (today or datetime.date.today()).isoformat()
        try:
            folder = self._new_folder(_stem_of(_name_of(order)), day)
            # So that it can go on even if it is ended before it has any state.
            (folder / STATE).mkdir()
        except OSError as error:
            why = error.strerror or error
            raise InputError(f"The folder '{self.folder}' cannot hold a run: {why}; choose another place.") from error
        begun = dataclasses.replace(order, data=str(self.table), run=str(folder), out=None, resume=False)
        write_text(folder / ORDER, json.dumps(begun.to_dict(), indent=2))
        return begun

    def discard(self, run: str | Path) -> None:
        """Take a run away of which nothing has come; one with a state or anything else stays."""
        folder = Path(run)
        if _states(folder) or any(path.name not in (ORDER, STATE) for path in _content(folder)):
            return
        with contextlib.suppress(OSError):
            (folder / ORDER).unlink(missing_ok=True)
            (folder / STATE).rmdir()
            folder.rmdir()

    def unfinished(self) -> UnfinishedRun | None:
        """The newest run of this table that can go on: it has a folder for its state, and no result yet."""
        for folder, day in self._newest_first():
            if any((folder / result).exists() for result in RESULTS) or not _keeps_state(folder):
                continue
            order = self._order_of(folder)
            if order is not None:
                return UnfinishedRun(folder, _name_of(order), day, order)
        return None

    def _order_of(self, folder: Path) -> Train | None:
        """The order as it goes on; None for one of another table, or that cannot be read."""
        try:
            order = Train.from_dict(json.loads((folder / ORDER).read_text(encoding="utf-8")))
        except (OSError, ValueError, AnyMC3DError):
            return None
        if Path(order.data).name != self.table.name:
            return None
        # The folder of the table may have been moved since.
        return dataclasses.replace(order, data=str(self.table), run=str(folder), resume=True)

    def _newest_first(self) -> list[tuple[Path, str]]:
        found = [(path, FOLDER.fullmatch(path.name)) for path in _content(self.folder)]
        runs = [(match[1], int(match[2]), path) for path, match in found if match and path.is_dir()]
        return [(path, day) for day, _, path in sorted(runs, key=lambda run: run[:2], reverse=True)]

    def _new_folder(self, stem: str, day: str) -> Path:
        """A new folder, of which the number is higher than those of all runs of the day."""
        self.folder.mkdir(parents=True, exist_ok=True)
        matches = [FOLDER.fullmatch(path.name) for path in _content(self.folder)]
        first = max((int(match[2]) for match in matches if match and match[1] == day), default=0) + 1
        for number in range(first, first + MOST_RUNS):
            folder = self.folder / f"{stem}-{day}-{number}"
            # Another application may be beginning a run here too.
            with contextlib.suppress(FileExistsError):
                folder.mkdir()
                return folder
        raise OSError("too many runs")


def _name_of(order: Train) -> str:
    plugin: Any = order.task.get("plugin", {}) if not isinstance(order.task, str) else {"name": order.task}
    name = plugin.get("name") if isinstance(plugin, dict) else None
    return name if isinstance(name, str) else ""


def _stem_of(name: str) -> str:
    return re.sub(r"[^\w.-]+", "-", name)[:LONGEST_STEM].strip("-_. ") or "plugin"


def _content(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError:
        return []


def _state_folders(run: Path) -> Iterator[Path]:
    yield run / STATE
    yield from (path / STATE for path in _content(run) if path.name.startswith("fold-"))


def _keeps_state(run: Path) -> bool:
    return any(folder.is_dir() for folder in _state_folders(run))


def _states(run: Path) -> list[Path]:
    return [path for folder in _state_folders(run) for path in _content(folder)]
