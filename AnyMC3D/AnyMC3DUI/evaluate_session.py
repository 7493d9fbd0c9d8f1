"""The Evaluate button's job: one request to the worker at a time, and what a table of cases can be measured on."""

from __future__ import annotations

import csv
import json
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from slicer.i18n import tr as _

from AnyMC3DLib.errors import AnyMC3DError, InputError
from AnyMC3DLib.messages import Evaluate, ProgressNote

from .session import Doing
from .steps import Sequence as StepSequence
from .steps import Steps
from .worker_client import WorkerClient
from .worker_steps import Asking

SPLIT = "split"
SPLITS = ("test", "val", "train")  # that with the honest figures first
ARRAYS = ".npz"  # a MedMNIST file


class Listener(Protocol):
    """Who is told what becomes of a measurement: at its end comes one of the last three, once."""

    def progressed(self, doing: Doing) -> None:
        """It goes on."""

    def finished(self, answer: Mapping[str, Any]) -> None:
        """The worker's answer to `evaluate`."""

    def failed(self, sentence: str) -> None:
        """It did not work, and this says why."""

    def cancelled(self) -> None:
        """It was cancelled."""


class EvaluateSession:
    """One measurement at a time. Calls return at once; the listener is told the rest.

    The worker reads files alone and keeps the plugins that it holds: neither scene nor classification is touched.
    """

    def __init__(self, client: WorkerClient, listener: Listener) -> None:
        self._client, self._listener = client, listener
        self._run: StepSequence | None = None

    @property
    def busy(self) -> bool:
        """Whether a measurement goes on."""
        return self._run is not None

    def evaluate(
        self,
        plugin: Path,
        data: Path,
        *,
        splits: Sequence[str],
        against: Path | None = None,
        weights: str | None = None,
        device: str = "auto",
    ) -> None:
        """Measure a plugin on the cases of these splits; raises InputError while another measurement goes on."""
        if self.busy:
            raise InputError(_("A plugin is being evaluated: wait for it, or cancel it."))
        params = Evaluate(
            plugin=str(plugin.absolute()),
            data=str(data.absolute()),
            splits=tuple(splits),
            against=None if against is None else str(against.absolute()),
            weights=weights,
            device=device,
        )
        what = "The evaluation"
        self._run = StepSequence(self._steps(params), done=self._finished, failed=self._failed, what=what)
        self._listener.progressed(Doing(_("Waiting for the engine…")))
        self._run.begin()

    def cancel(self) -> None:
        """End the measurement now; the worker lets its work go within a moment."""
        if self.busy:
            self.close()
            self._listener.cancelled()

    def close(self) -> None:
        """End the measurement, and tell the listener nothing more of it; the worker stays."""
        run, self._run = self._run, None
        if run is not None:
            run.cancel()

    def _steps(self, params: Evaluate) -> Steps:
        return (yield Asking(self._client, "evaluate", params, progress=self._note))

    def _note(self, note: ProgressNote) -> None:
        counted = note.total > 1
        words = _("{step} ({done} of {total})") if counted else "{step}"
        told = words.format(step=note.step, done=note.done, total=note.total)
        self._listener.progressed(Doing(told, note.done / note.total if counted else None))

    def _finished(self, answer: Mapping[str, Any]) -> None:
        self._run = None
        self._listener.finished(answer)

    def _failed(self, error: AnyMC3DError) -> None:
        self._run = None
        self._listener.failed(str(error))


def in_order(splits: Iterable[str]) -> list[str]:
    """Those splits of cases that can be measured, the one with the honest figures first."""
    found = set(splits)
    return [split for split in SPLITS if split in found]


def splits_of_file(path: Path) -> list[str]:
    """The splits that a table of cases has, or a MedMNIST file; raises InputError for what is neither.

    No more than this is looked at here: the worker reads the cases, and says what is wrong with them.
    """
    try:
        found = _splits_of_arrays(path) if path.suffix.lower() == ARRAYS else _splits_of_text(path)
    except (OSError, ValueError, csv.Error, zipfile.BadZipFile, RecursionError) as error:
        words = _("'{file}' cannot be read as a table of cases: give a CSV, JSON lines or MedMNIST file.")
        raise InputError(words.format(file=path.name)) from error
    return in_order(found)


def _splits_of_arrays(path: Path) -> set[str]:
    with zipfile.ZipFile(path) as archive:
        return {name.partition("_")[0] for name in archive.namelist()}


def _splits_of_text(path: Path) -> set[str]:
    # The same ways to tell the formats apart, and the columns, as when the worker reads it.
    lines = path.read_text(encoding="utf-8-sig").splitlines()
    first = next((line for line in lines if line.strip()), "")
    if first.lstrip().startswith("{"):
        records = [json.loads(line) for line in lines if line.strip()]
        return {str(record.get(SPLIT) or "").strip() for record in records if isinstance(record, dict)}
    rows = csv.reader(lines, delimiter=max(",;\t", key=first.count))
    header = [name.strip() for name in next(rows, [])]
    if SPLIT not in header:
        return set()
    column = header.index(SPLIT)
    return {row[column].strip() for row in rows if len(row) > column}
