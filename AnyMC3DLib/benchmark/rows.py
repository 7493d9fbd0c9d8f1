"""The table of results: one file a row, so that several processes and machines can fill it together.

A results folder holds `rows/KEY.json` (the configuration and what came of it) and `predictions/KEY.csv` (what the model
said of each test case). Each file is there whole or not at all; the row is written last.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from ..errors import InputError
from ..files import write_text
from ..records import Record, mapping_of
from .config import RowConfig

logger = logging.getLogger(__name__)

ROWS, PREDICTIONS = "rows", "predictions"
DIGITS = 7


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row(Record):
    """What came of a configuration.

    `test` and `validation` are the figures as `training.scores.Results.to_dict` writes them. `parameters` counts what
    was trained, `minutes` is wall time and `processor_minutes` the process's own, on `threads` threads; `peak_mb` is
    the most memory that the process held. `epochs` were done of `planned`; `cut` says in a sentence what the budget cut
    off. `reused` is the part of the frozen embeddings that came from a cache, whose minutes are not counted. A failed
    row has `error` and no figures.
    """

    key: str
    config: RowConfig
    status: Literal["done", "failed"]
    error: str = ""
    cut: str = ""
    test: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    validation: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    parameters: int = 0
    cases: Mapping[str, int] = dataclasses.field(default_factory=dict)
    minutes: float = 0.0
    processor_minutes: float = 0.0
    threads: int = 1
    peak_mb: int = 0
    epochs: int = 0
    planned: int = 0
    reused: float = 0.0
    device: str = "cpu"
    date: str = ""
    versions: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def figure(self, name: str, *, part: str = "test") -> tuple[float, float, float]:
        """A figure of the macro mean over classes with its interval (value, low, high); NaN where it is unknown."""
        group = mapping_of(getattr(self, part).get("overall" if name == "accuracy" else "macro"))
        found = mapping_of(group.get(name))
        low, value, high = (_number(found.get(bound)) for bound in ("low", "value", "high"))
        return value, low, high


def _number(value: Any) -> float:
    """The number; NaN for anything else that a file may hold there."""
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else math.nan


@dataclasses.dataclass(frozen=True)
class TestPredictions:
    """What a row's model said of the test cases: `targets` [N] or [N, K] (-1 missing), `probabilities` [N, classes]."""

    ids: tuple[str, ...]
    patients: tuple[str, ...]
    targets: npt.NDArray[np.int64]
    probabilities: npt.NDArray[np.float64]


class ResultsTable:
    """The rows in a folder; several processes may write at once, each row once."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    def row(self, key: str) -> Row | None:
        """The row, if it is there; raises InputError if its file is damaged."""
        place = self._row_file(key)
        try:
            text = place.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise InputError(
                f"The row '{place.name}' cannot be read ({error.strerror or error}): delete it to compute it again."
            ) from error
        try:
            found = Row.from_dict(json.loads(text), where=f"The row '{place.name}'")
        except (ValueError, RecursionError) as error:
            raise InputError(f"The row '{place.name}' is not JSON: delete it to compute it again.") from error
        if found.config.key != found.key or found.key != key:
            raise InputError(f"The row '{place.name}' was changed by hand: delete it to compute it again.")
        return found

    def rows(self) -> list[Row]:
        """All rows, by key; one that is damaged is left out and said in the log."""
        keys = sorted(place.stem for place in (self.folder / ROWS).glob("*.json") if not place.name.startswith("."))
        return [row for key in keys if (row := self._if_whole(key)) is not None]

    def _if_whole(self, key: str) -> Row | None:
        try:
            return self.row(key)
        except InputError as error:
            logger.warning("%s", error)
            return None

    def add(self, row: Row, predictions: TestPredictions | None = None) -> None:
        """Keep a row with what its model said; it replaces one of the same key."""
        if predictions is not None:
            write_text(self._predictions_file(row.key), _csv(predictions))
        write_text(self._row_file(row.key), json.dumps(row.to_dict(), indent=1, allow_nan=False) + "\n")

    def predictions(self, key: str) -> TestPredictions:
        """What the row's model said; raises InputError if that is not there or damaged."""
        place = self._predictions_file(key)
        try:
            with place.open(newline="", encoding="utf-8") as stream:
                header, *lines = list(csv.reader(stream))
            count = sum(name.startswith("target") for name in header)
            targets = np.array([[int(v) for v in line[2 : 2 + count]] for line in lines], dtype=np.int64)
            probabilities = np.array([[float(v) for v in line[2 + count :]] for line in lines])
            ids, patients = zip(*(line[:2] for line in lines), strict=True)
        except (OSError, ValueError, IndexError, csv.Error) as error:
            raise InputError(f"The predictions '{place.name}' cannot be read: delete their row.") from error
        return TestPredictions(ids, patients, targets[:, 0] if count == 1 else targets, probabilities)

    def _row_file(self, key: str) -> Path:
        return self.folder / ROWS / f"{key}.json"

    def _predictions_file(self, key: str) -> Path:
        return self.folder / PREDICTIONS / f"{key}.csv"


def _csv(predictions: TestPredictions) -> str:
    targets = predictions.targets.reshape(len(predictions.ids), -1)
    names = ["target"] if targets.shape[1] == 1 else [f"target {n}" for n in range(targets.shape[1])]
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["case", "patient", *names, *(f"class {n}" for n in range(predictions.probabilities.shape[1]))])
    rows = zip(predictions.ids, predictions.patients, targets, predictions.probabilities, strict=True)
    for case, patient, target, probabilities in rows:
        writer.writerow([case, patient, *map(int, target), *(f"{p:.{DIGITS}g}" for p in probabilities)])
    return stream.getvalue()
