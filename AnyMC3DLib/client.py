"""The client's side of the worker's protocol, for every transport. Needs the standard library alone."""

from __future__ import annotations

import dataclasses
import logging
import threading
from collections.abc import Callable, Mapping
from typing import Any

from .errors import AnyMC3DError, Cancelled, InputError
from .messages import EpochNote, LogNote, ProgressNote
from .protocol import CANCELLED, MAX_ANSWER, Decoder, Id, ProtocolError, Request, Response, request_line
from .records import Record

logger = logging.getLogger(__name__)


class RequestFailed(AnyMC3DError):
    """The worker answered a request with an error; `code` says of which kind."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclasses.dataclass(frozen=True)
class _Waiting:
    done: Callable[[Any], None]
    failed: Callable[[AnyMC3DError], None]
    progress: Callable[[ProgressNote], None] | None
    epoch: Callable[[EpochNote], None] | None


class ClientProtocol:
    """The client's side, free of any transport: `send` takes bytes for the worker, `receive` its bytes.

    Safe to use from several threads. Callbacks run in the thread that calls `receive` or `end`.
    """

    def __init__(
        self, send: Callable[[bytes], None], *, on_log: Callable[[LogNote], None] | None = None, first_id: int = 1
    ) -> None:
        self._send, self._on_log = send, on_log
        self._decoder = Decoder(MAX_ANSWER)
        self._waiting: dict[Id, _Waiting] = {}
        self._lock = threading.Lock()
        self._next = first_id
        self._ended: AnyMC3DError | None = None

    @property
    def pending(self) -> tuple[Id, ...]:
        """The ids of the requests without an answer, oldest first."""
        with self._lock:
            return tuple(self._waiting)

    def request(
        self,
        method: str,
        params: Mapping[str, Any] | Record | None = None,
        *,
        done: Callable[[Any], None],
        failed: Callable[[AnyMC3DError], None],
        progress: Callable[[ProgressNote], None] | None = None,
        epoch: Callable[[EpochNote], None] | None = None,
    ) -> Id:
        """Send a request and return its id; later `done` is called with the result, or `failed` with the error.

        Until then `progress` is called with how far it is, and `epoch` with what each epoch of a training gave.
        Raises InputError if the params are no JSON, and the reason of the end once the worker is gone.
        """
        values = params.to_dict() if isinstance(params, Record) else params or {}
        with self._lock:
            if self._ended is not None:
                raise self._ended
            id = self._next  # noqa: A001
            line = request_line(id, method, values)
            self._next += 1
            self._waiting[id] = _Waiting(done, failed, progress, epoch)
        try:
            self._send(line)
        except BaseException:
            with self._lock:
                self._waiting.pop(id, None)
            raise
        return id

    def receive(self, data: bytes) -> None:
        """Take bytes that the worker wrote."""
        for message in self._decoder.feed(data):
            if isinstance(message, ProtocolError):
                self._unusable(message)
            elif isinstance(message, Request):
                self._note(message)
            else:
                self._answer(message)

    def end(self, reason: AnyMC3DError) -> None:
        """The worker is gone: every pending request fails with `reason`, and so does each later one."""
        with self._lock:
            self._ended = reason
            waiting, self._waiting = list(self._waiting.values()), {}
        for one in waiting:
            _call(one.failed, reason)

    def _answer(self, message: Response) -> None:
        with self._lock:
            waiting = self._waiting.pop(message.id, None) if message.id is not None else None
        if waiting is None:
            self._log("An answer came that belongs to no request" + (f": {message.error[1]}" if message.error else "."))
        elif message.error is None:
            _call(waiting.done, message.result)
        else:
            code, text = message.error
            _call(waiting.failed, Cancelled(text) if code == CANCELLED else RequestFailed(code, text))

    def _unusable(self, error: ProtocolError) -> None:
        with self._lock:
            waiting = self._waiting.pop(error.id, None) if error.id is not None else None
        if waiting is not None:
            _call(waiting.failed, error)
        else:
            self._log(f"The worker wrote what is no message: {error}")

    def _note(self, message: Request) -> None:
        try:
            if message.method == "progress":
                self._pass_on(ProgressNote.from_dict(message.params), lambda waiting: waiting.progress)
            elif message.method == "epoch":
                self._pass_on(EpochNote.from_dict(message.params), lambda waiting: waiting.epoch)
            elif message.method == "log" and self._on_log is not None:
                _call(self._on_log, LogNote.from_dict(message.params))
        except InputError as error:
            self._log(f"The worker wrote a notification that is wrong: {error}")

    def _pass_on(
        self, note: ProgressNote | EpochNote, listener: Callable[[_Waiting], Callable[[Any], None] | None]
    ) -> None:
        with self._lock:
            waiting = self._waiting.get(note.id)
        heard = listener(waiting) if waiting is not None else None
        if heard is not None:
            _call(heard, note)

    def _log(self, text: str) -> None:
        if self._on_log is not None:
            _call(self._on_log, LogNote(level="warning", message=text))


def _call(callback: Callable[[Any], None], value: Any) -> None:
    # A callback that fails must not keep the answers behind it from their requests.
    try:
        callback(value)
    except Exception:
        logger.exception("A callback of the worker's client failed.")
