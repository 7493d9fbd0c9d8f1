"""The worker's messages on the wire: JSON-RPC 2.0, one message a line, UTF-8. Needs the standard library alone.

`messages` says what each method takes. A request goes from the client to the worker and has one answer; the worker
sends notifications. Lines are written in ASCII, with escapes, so that no reader can mistake their encoding.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterator, Mapping
from typing import Any

from .errors import AnyMC3DError, InputError

# A request is short, since images go by path; an answer lists the slices of many views and plugins.
MAX_LINE = 1 << 20
MAX_ANSWER = 1 << 26
MAX_DEPTH = 64
MAX_ID_LENGTH = 128
# Other programs keep numbers of JSON as doubles.
MAX_ID = 1 << 53

PARSE_ERROR = -32700
INVALID_REQUEST = -32600
UNKNOWN_METHOD = -32601
INVALID_PARAMS = -32602
INTERNAL_ERROR = -32603
CANCELLED = -32800
INPUT_AT_FAULT = -32001
NOT_ENOUGH_MEMORY = -32002
WRONG_STATE = -32003

Id = str | int


class ProtocolError(AnyMC3DError):
    """A message cannot be used; `id` is that of the message where it could be read."""

    def __init__(self, code: int, message: str, *, id: Id | None = None) -> None:  # noqa: A002
        super().__init__(message)
        self.code, self.id = code, id


@dataclasses.dataclass(frozen=True)
class Request:
    """A call that wants an answer; without an id it is a notification, which has none."""

    id: Id | None
    method: str
    params: Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Response:
    """The answer to a request: a result, or the code and sentence of an error. An error may lack the id."""

    id: Id | None
    result: Any = None
    error: tuple[int, str] | None = None


Message = Request | Response


class LineBuffer:
    """Pieces of bytes to lines; it never holds more than `limit` bytes."""

    def __init__(self, limit: int = MAX_LINE) -> None:
        self._limit, self._held, self._dropping = limit, bytearray(), False

    def feed(self, data: bytes) -> Iterator[bytes | ProtocolError]:
        """The lines that `data` completes, and one error for each line that is too long."""
        start = 0
        while start < len(data):
            newline = data.find(b"\n", start)
            end = len(data) if newline < 0 else newline
            if not self._dropping and len(self._held) + end - start > self._limit:
                self._held.clear()
                self._dropping = True
                yield ProtocolError(INVALID_REQUEST, f"A message is longer than {self._limit} bytes: send less.")
            if not self._dropping:
                self._held += memoryview(data)[start:end]
            if newline < 0:
                return
            line, dropped = bytes(self._held), self._dropping
            self._held.clear()
            self._dropping = False
            start = newline + 1
            if line.strip() and not dropped:
                yield line


class Decoder:
    """Pieces of bytes to messages; what is no message becomes an error in its place."""

    def __init__(self, limit: int = MAX_LINE) -> None:
        self._lines = LineBuffer(limit)

    def feed(self, data: bytes) -> Iterator[Message | ProtocolError]:
        """The messages that `data` completes, in order."""
        for line in self._lines.feed(data):
            if isinstance(line, ProtocolError):
                yield line
                continue
            try:
                yield parse(line)
            except ProtocolError as error:
                yield error


def parse(line: bytes) -> Message:
    """The message in a line; raises ProtocolError if it is not one."""
    data = _json(line)
    if isinstance(data, list):
        raise ProtocolError(INVALID_REQUEST, "Several messages came in one array: send each on its own line.")
    if not isinstance(data, dict):
        raise ProtocolError(INVALID_REQUEST, "A message must be a JSON object.")
    id = data.get("id")  # noqa: A001
    if id is not None and not _is_id(id):
        raise ProtocolError(INVALID_REQUEST, "The id of a message must be a short text or a whole number.")
    if data.get("jsonrpc") != "2.0":
        raise ProtocolError(INVALID_REQUEST, "A message must have the field 'jsonrpc' with the text '2.0'.", id=id)
    if _depth_exceeds(data, MAX_DEPTH):
        raise ProtocolError(INVALID_REQUEST, f"A message is nested deeper than {MAX_DEPTH} levels.", id=id)
    return _request(data, id) if "method" in data else _response(data, id)


def _json(line: bytes) -> Any:
    try:
        return json.loads(line.decode("utf-8"), parse_float=_finite, parse_constant=_no_number)
    except UnicodeDecodeError as error:
        raise ProtocolError(PARSE_ERROR, "A message is not UTF-8.") from error
    except RecursionError as error:
        raise ProtocolError(PARSE_ERROR, f"A message is nested deeper than {MAX_DEPTH} levels.") from error
    except ValueError as error:
        raise ProtocolError(PARSE_ERROR, "A message is not JSON, or holds a number that is not finite.") from error


def _finite(text: str) -> float:
    number = float(text)
    return number if math.isfinite(number) else _no_number(text)


def _no_number(text: str) -> float:
    raise ValueError(text)


def _is_id(value: Any) -> bool:
    if isinstance(value, str):
        return len(value) <= MAX_ID_LENGTH
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) <= MAX_ID


def _depth_exceeds(value: Any, limit: int) -> bool:
    # Level by level and not by recursion, which is what a deep message is after.
    level = [value]
    for _ in range(limit):
        inner = [item for part in level for item in (part.values() if isinstance(part, dict) else part)]
        level = [item for item in inner if isinstance(item, (dict, list))]
        if not level:
            return False
    return True


def _request(data: dict[str, Any], id: Id | None) -> Request:  # noqa: A002
    if "id" in data and id is None:
        raise ProtocolError(INVALID_REQUEST, "The id of a request must not be null.")
    if not isinstance(data["method"], str):
        raise ProtocolError(INVALID_REQUEST, "The field 'method' must be a text.", id=id)
    params = data.get("params", {})
    if not isinstance(params, dict):
        raise ProtocolError(INVALID_REQUEST, "The field 'params' must be a JSON object.", id=id)
    return Request(id, data["method"], params)


def _response(data: dict[str, Any], id: Id | None) -> Response:  # noqa: A002
    if ("result" in data) == ("error" in data) or ("result" in data and id is None):
        raise ProtocolError(INVALID_REQUEST, "A message needs a field 'method', or one of 'result' and 'error'.", id=id)
    if "result" in data:
        return Response(id, data["result"])
    error = data["error"]
    code, message = (error.get("code"), error.get("message")) if isinstance(error, dict) else (None, None)
    if not isinstance(code, int) or isinstance(code, bool) or not isinstance(message, str):
        raise ProtocolError(INVALID_REQUEST, "An error must have a whole number 'code' and a text 'message'.", id=id)
    return Response(id, error=(code, message))


def request_line(id: Id, method: str, params: Mapping[str, Any]) -> bytes:  # noqa: A002
    """A request on the wire; raises InputError if it is too long or its params are no JSON."""
    try:
        line = _line({"id": id, "method": method, "params": params})
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(f"The values given to '{method}' cannot be written as JSON.") from error
    if len(line) > MAX_LINE:
        raise InputError(f"The request '{method}' is longer than {MAX_LINE} bytes: give images by path.")
    return line


def notification_line(method: str, params: Mapping[str, Any]) -> bytes:
    """A notification on the wire."""
    return _line({"method": method, "params": params})


def result_line(id: Id, result: Any) -> bytes:  # noqa: A002
    """An answer on the wire; a number that is not finite, which JSON cannot say, becomes null."""
    try:
        line = _line({"id": id, "result": result})
    except ValueError:
        line = _line({"id": id, "result": _without_nan(result)})
    if len(line) > MAX_ANSWER:
        return error_line(id, INTERNAL_ERROR, f"The answer is longer than {MAX_ANSWER} bytes: ask for less at once.")
    return line


def error_line(id: Id | None, code: int, message: str) -> bytes:  # noqa: A002
    """An error on the wire."""
    return _line({"id": id, "error": {"code": code, "message": message}})


def _line(fields: dict[str, Any]) -> bytes:
    return json.dumps({"jsonrpc": "2.0", **fields}, allow_nan=False).encode("ascii") + b"\n"


def _without_nan(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
