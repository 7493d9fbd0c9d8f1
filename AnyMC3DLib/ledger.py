"""What a cohort leaves on disk: a file for each case as it ends, and tables of them all.

Several processes may write into one folder at a time: each file is replaced whole, and a case belongs to one process.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from .errors import InputError
from .files import write_text
from .prediction import is_uncertain
from .records import Record
from .spec import PluginSpec
from .wording import csv_text, spreadsheet_text, yes_or_no

RESULTS, FAILURES, CASES, HEATMAPS = "results.csv", "failures.csv", "cases", "heatmaps"
RESULT_COLUMNS = ("case", "plugin", "class", "probability", "threshold", "decision", "uncertain", "out_of_scope")
FAILURE_COLUMNS = ("case", "error")


@dataclasses.dataclass(frozen=True, kw_only=True)
class CaseRecord(Record):
    """How a case ended. `run` and `inputs` are digests of what the answer came from: equal ones need no new answer.

    `predictions` holds `Prediction.to_dict()` by plugin, `heatmaps` the names of files, `process` who did it, `digest`
    is that of all else, once it is written.
    """

    case: str
    status: Literal["done", "failed"]
    run: str
    inputs: str
    process: str
    error: str = ""
    digest: str = ""
    predictions: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    heatmaps: tuple[str, ...] = ()

    def to_text(self) -> str:
        """The record as JSON; raises ValueError where it holds a number that JSON has not."""
        content = {**self.to_dict(), "digest": self.digest_of_rest()}
        return json.dumps(content, ensure_ascii=False, allow_nan=False) + "\n"

    def digest_of_rest(self) -> str:
        """SHA-256 over all but `digest`."""
        rest = {name: value for name, value in self.to_dict().items() if name != "digest"}
        return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


@dataclasses.dataclass(frozen=True)
class _Lines:
    """What the tables say of one case."""

    results: list[list[Any]]
    failures: list[list[str]]


class Ledger:
    """The results of one cohort in `folder`: those of other plugins, images or options are as if they were not there.

    `run` is the digest of plugins and options, `plugins` are the specs by name, `cases` are in the tables' order.
    """

    def __init__(self, folder: Path, *, run: str, plugins: Mapping[str, PluginSpec], cases: Sequence[str]) -> None:
        self.folder, self.run = folder, run
        self._plugins, self._cases = plugins, cases
        self._stamps: dict[str, tuple[int, ...] | None] = {}
        self._lines: dict[str, _Lines] = {}
        plugin_parts = file_parts(sorted(plugins))
        class_parts = {name: file_parts(sorted(c.name for c in spec.classes)) for name, spec in plugins.items()}
        self._heatmap_parts = {
            (name, label): f"{plugin_parts[name]}-{part}.nrrd"
            for name, parts in class_parts.items()
            for label, part in parts.items()
        }
        self._attention_parts = {name: f"{part}.nrrd" for name, part in plugin_parts.items()}

    def is_done(self, case: str, inputs: str) -> bool:
        """Whether an earlier run has the answer to the same question."""
        record = self._read(case)
        return (
            record is not None
            and (record.status, record.inputs) == ("done", inputs)
            and all((self.folder / HEATMAPS / case / name).is_file() for name in record.heatmaps)
        )

    def write(self, case: str, text: str) -> None:
        """Write the record of a case, as `CaseRecord.to_text` gives it."""
        write_text(self._place(case), text)

    def heatmap_place(self, case: str, plugin: str, class_name: str | None) -> Path:
        """Where the heatmap of a class lies, or with None the paper's map."""
        parts = self._attention_parts
        name = parts[plugin] if class_name is None else self._heatmap_parts[plugin, class_name]
        return self.folder / HEATMAPS / case / name

    def remove_heatmaps(self, case: str) -> None:
        """Remove what an earlier answer showed: the next one may be against it."""
        place = self.folder / HEATMAPS / case
        for file in place.glob("*.nrrd"):
            file.unlink()
        with contextlib.suppress(OSError):
            place.rmdir()

    def write_tables(self) -> None:
        """Write both tables from what all processes have left, again while one of them adds to it.

        So the last to end leaves them whole, also where two end at the same time.
        """
        self._look()
        while True:
            lines = [self._lines[case] for case in self._cases if case in self._lines]
            write_text(self.folder / RESULTS, _table(RESULT_COLUMNS, (row for part in lines for row in part.results)))
            write_text(
                self.folder / FAILURES, _table(FAILURE_COLUMNS, (row for part in lines for row in part.failures))
            )
            if not self._look():
                return

    def _look(self) -> bool:
        """Read the records that were written since the last look; returns whether there were any."""
        changed = False
        for case in self._cases:
            stamp = _stamp(self._place(case))
            if stamp != self._stamps.get(case):
                changed = True
                self._stamps[case] = stamp
                self._lines[case] = self._lines_of(case)
        return changed

    def _lines_of(self, case: str) -> _Lines:
        record = self._read(case)
        if record is None:
            return _Lines([], [])
        if record.status == "failed":
            return _Lines([], [[case, spreadsheet_text(record.error)]])
        return _Lines(list(self._result_lines(record)), [])

    def _place(self, case: str) -> Path:
        return self.folder / CASES / f"{case}.json"

    def _read(self, case: str) -> CaseRecord | None:
        """The record of a case; None where it is absent, damaged, or of another run."""
        try:
            record = CaseRecord.from_dict(json.loads(self._place(case).read_bytes()))
            whole = record.digest in ("", record.digest_of_rest())
            list(self._result_lines(record))
        except (OSError, ValueError, RecursionError, LookupError, TypeError, InputError):
            return None
        return record if whole and (record.case, record.run) == (case, self.run) else None

    def _result_lines(self, record: CaseRecord) -> Iterator[list[Any]]:
        """A line for each plugin and class; raises LookupError, TypeError or ValueError where an answer is damaged."""
        for name, spec in self._plugins.items() if record.status == "done" else ():
            answer = record.predictions[name]
            labels = [c.name for c in spec.classes]
            told = answer.get("beyond_training")
            beyond = "" if told is None else yes_or_no(bool(told))
            probabilities = {label: float(answer["probabilities"][label]) for label in labels}
            decisions = {label: bool(answer["decisions"][label]) for label in labels}
            for label in labels:
                names = (record.case, spreadsheet_text(name), spreadsheet_text(label))
                figures = (probabilities[label], float(answer["thresholds"][label]))
                uncertain = is_uncertain(spec, label, probabilities=probabilities, decisions=decisions)
                yield [*names, *figures, yes_or_no(decisions[label]), yes_or_no(uncertain), beyond]


def file_parts(names: Iterable[str]) -> dict[str, str]:
    """For each name a part of a file name, unlike the others also where upper and lower case are one; without '-'."""
    parts: dict[str, str] = {}
    taken: set[str] = set()
    for name in names:
        short = re.sub(r"[^A-Za-z0-9]+", "_", name)[:50].strip("_") or "x"
        part, number = short, 1
        while part.casefold() in taken:
            number += 1
            part = f"{short}_{number}"
        taken.add(part.casefold())
        parts[name] = part
    return parts


def _stamp(path: Path) -> tuple[int, ...] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return (status.st_ino, status.st_mtime_ns, status.st_size)


def _table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    return csv_text([columns, *rows])
