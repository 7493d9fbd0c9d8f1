"""The check of a dataset by the worker: started, cancelled, and what it found in words."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from slicer.i18n import tr as _

from AnyMC3DLib.errors import AnyMC3DError, Cancelled
from AnyMC3DLib.messages import Check, ProgressNote

from .dataset_room import Room
from .dataset_splits import summary

if TYPE_CHECKING:
    from AnyMC3DLib.training.dataset import Dataset


class Client(Protocol):
    """What the check needs of `worker_client.WorkerClient`."""

    def request(
        self, method: str, params: Any = None, *, done: Callable, failed: Callable, progress: Callable | None = None
    ) -> Any: ...

    def cancel(self, call: Any) -> None: ...


class Checking:
    """Has the worker look at every file that the table names.

    What is not saved goes to it as a copy beside the table, where paths mean the same, and which is deleted then.
    """

    def __init__(self, room: Room, client: Client, *, ended: Callable[[], None]) -> None:
        self._room, self._client, self._ended = room, client, ended
        self._call: Any = None
        self._number = 0
        self._dataset: Dataset | None = None
        self._copy: Path | None = None

    @property
    def runs(self) -> bool:
        """Whether a check is under way."""
        return self._dataset is not None

    def begin(self, dataset: Dataset) -> None:
        """Begin; raises InputError where the copy cannot be written."""
        data = dataset.path
        if dataset.modified or data is None:
            data = self._copy = (dataset.folder or Path.cwd()) / f".check-{secrets.token_hex(6)}.csv"
            dataset.save_copy(data)
        self._dataset = dataset
        self._room.tell(_("Checking…"))
        self._room.progress(1.0)
        # The answer to a check that was dropped may come while another one runs.
        self._number += 1
        number = self._number
        self._call = self._client.request(
            "check", Check(data=str(data)), progress=lambda note: self._progress(number, note),
            done=lambda report: self._done(number, report), failed=lambda error: self._failed(number, error),
        )  # fmt: skip

    def cancel(self) -> None:
        """Have the worker stop; it answers in its own time."""
        if self.runs and self._call is not None:
            self._client.cancel(self._call)

    def drop(self) -> None:
        """Another dataset is opened, or none: what comes of the check is not wanted."""
        self.cancel()
        if self.runs:
            self._end()

    def _end(self) -> None:
        self._dataset = self._call = None
        copy, self._copy = self._copy, None
        if copy is not None:
            # Windows keeps a file that the worker still reads.
            with contextlib.suppress(OSError):
                copy.unlink(missing_ok=True)
        self._room.progress(None)
        self._ended()

    def _is_current(self, number: int) -> bool:
        return self.runs and number == self._number

    def _done(self, number: int, report: Mapping[str, Any]) -> None:
        if not self._is_current(number):
            return
        dataset = self._dataset
        self._end()
        found = dataset.problems_by_key(report)
        of_table = found.pop(None, [])
        self._room.table.mark(found)
        count = sum(map(len, found.values())) + len(of_table)
        said = [_sentence(count, rows=len(found)), *of_table, summary(report["counts"], report.get("totals", {}))]
        self._room.tell("\n".join(filter(None, said)))

    def _failed(self, number: int, error: AnyMC3DError) -> None:
        if self._is_current(number):
            self._end()
            self._room.tell(_("The check was cancelled.") if isinstance(error, Cancelled) else str(error))

    def _progress(self, number: int, note: ProgressNote) -> None:
        if self._is_current(number) and note.total > 0:
            self._room.progress(min(note.done / note.total, 0.999))


def _sentence(count: int, *, rows: int) -> str:
    if not count:
        return _("No problem found.")
    if not rows:
        return _("1 problem in the table.") if count == 1 else _("{count} problems in the table.").format(count=count)
    if count == 1:
        return _("1 problem in 1 row.")
    if rows == 1:
        return _("{count} problems in 1 row.").format(count=count)
    return _("{count} problems in {rows} rows.").format(count=count, rows=rows)
