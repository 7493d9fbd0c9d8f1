"""Steps that ask the worker."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from AnyMC3DLib.messages import EpochNote, ProgressNote
from AnyMC3DLib.records import Record

from .worker_client import Call, WorkerClient


class Starting:
    """The step of starting the worker; its value is the worker's private folder."""

    def __init__(self, client: WorkerClient) -> None:
        self._client = client
        self._over = False

    def begin(self, done: Callable[[Any], None], failed: Callable[[Exception], None]) -> None:
        """As `Step.begin`."""
        self._client.start(
            done=lambda folder: None if self._over else done(folder),
            failed=lambda error: None if self._over else failed(error),
        )

    def cancel(self) -> None:
        """As `Step.cancel`: the worker goes on starting, for the next request."""
        self._over = True


class Asking:
    """The step of a request to the worker."""

    def __init__(
        self,
        client: WorkerClient,
        method: str,
        params: Record,
        *,
        progress: Callable[[ProgressNote], None] | None = None,
        epoch: Callable[[EpochNote], None] | None = None,
    ) -> None:
        self._client, self._method, self._params = client, method, params
        self._progress, self._epoch = progress, epoch
        self._call: Call | None = None
        self._done: Callable[[Any], None] | None = None
        self._failed: Callable[[Exception], None] | None = None

    @property
    def begun(self) -> bool:
        """Whether the worker was asked."""
        return self._call is not None

    def begin(self, done: Callable[[Any], None], failed: Callable[[Exception], None]) -> None:
        """As `Step.begin`."""
        self._done, self._failed = done, failed
        self._call = self._client.request(
            self._method,
            self._params,
            done=self.succeeded,
            failed=self.did_not,
            progress=self._went_on,
            epoch=self._epoch_ended,
        )

    def cancel(self) -> None:
        """As `Step.cancel`: the worker is asked to cancel the request, and answers it in its own time."""
        self._done = self._failed = None
        if self._call is not None:
            self._client.cancel(self._call)

    def succeeded(self, result: Any) -> None:
        """The worker answered, even if the step was cancelled."""
        if self._done is not None:
            self._done(result)

    def did_not(self, error: Exception) -> None:
        """The worker refused, even if the step was cancelled."""
        if self._failed is not None:
            self._failed(error)

    def _went_on(self, note: ProgressNote) -> None:
        if self._done is not None and self._progress is not None:
            self._progress(note)

    def _epoch_ended(self, note: EpochNote) -> None:
        if self._done is not None and self._epoch is not None:
            self._epoch(note)
