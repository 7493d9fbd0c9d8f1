"""The worker's messages: lines from pieces of bytes, what is refused, and the client's side of a conversation."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from AnyMC3DLib.client import ClientProtocol, RequestFailed
from AnyMC3DLib.errors import AnyMC3DError, Cancelled, InputError
from AnyMC3DLib.messages import (
    METHODS,
    Cancel,
    Classify,
    LogNote,
    Preview,
    ProgressNote,
    RegionSource,
    Render,
    Train,
    matrix,
)
from AnyMC3DLib.protocol import (
    CANCELLED,
    INPUT_AT_FAULT,
    INTERNAL_ERROR,
    INVALID_REQUEST,
    MAX_ANSWER,
    MAX_DEPTH,
    MAX_LINE,
    PARSE_ERROR,
    Decoder,
    LineBuffer,
    ProtocolError,
    Request,
    Response,
    error_line,
    notification_line,
    parse,
    request_line,
    result_line,
)

IDENTITY = [[1.0, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]
IMAGE = {"array": "a.npy", "ijk_to_ras": IDENTITY}


def a_request(**changed: Any) -> bytes:
    fields = {"jsonrpc": "2.0", "id": 1, "method": "hello", "params": {}, **changed}
    return json.dumps({name: value for name, value in fields.items() if value != "left out"}).encode()


def code_of(line: bytes) -> int:
    with pytest.raises(ProtocolError) as caught:
        parse(line)
    return caught.value.code


def test_messages_survive_any_cut_into_pieces() -> None:
    lines = [request_line(n, "load", {"path": "ü\n" * n}) for n in range(20)]
    stream, rng = b"".join(lines), random.Random(0)
    decoder, found = Decoder(), []
    while stream:
        size = rng.randint(1, 40)
        found += decoder.feed(stream[:size])
        stream = stream[size:]
    assert found == [Request(n, "load", {"path": "ü\n" * n}) for n in range(20)]


def test_several_messages_in_one_piece_come_in_order() -> None:
    found = list(Decoder().feed(result_line(1, {}) + b"\r\n\n" + error_line(None, PARSE_ERROR, "no")))
    assert found == [Response(1, {}), Response(None, error=(PARSE_ERROR, "no"))]


def test_a_line_that_is_too_long_gives_one_error_and_the_next_is_read() -> None:
    decoder = Decoder()
    found = []
    for _ in range(3 * MAX_LINE // 4096):
        found += decoder.feed(b" " * 4096)
    found += decoder.feed(b"\n" + request_line(2, "hello", {}))
    assert [type(one) for one in found] == [ProtocolError, Request]
    assert found[0].code == INVALID_REQUEST


def test_a_long_line_is_never_held() -> None:
    buffer = LineBuffer(100)
    for _ in range(50):
        list(buffer.feed(b"x" * 70))
        assert len(buffer._held) <= 100


@pytest.mark.parametrize("pieces", [1, 7, 100])
def test_the_longest_line_is_read_and_one_byte_more_is_not(pieces: int) -> None:
    for extra, lines in ((0, 1), (1, 0)):
        buffer, data = LineBuffer(100), b"x" * (100 + extra) + b"\n"
        found = [line for n in range(0, len(data), pieces) for line in buffer.feed(data[n : n + pieces])]
        assert sum(isinstance(line, bytes) for line in found) == lines
        assert len(found) == 1


@pytest.mark.parametrize(
    "line",
    [
        b"{",
        b"not json",
        b'{"jsonrpc": "2.0", "id": 1, "method": "hello"',
        b'{"jsonrpc": "2.0", "id": 1, "method": "h\xff"}',
        a_request(params={"x": float("nan")}),
        a_request(params={"x": float("inf")}),
        a_request(params={"x": -float("inf")}),
        b'{"jsonrpc": "2.0", "id": 1, "method": "hello", "params": {"x": 1e999}}',
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b"9" * 10_000,
        b"\x00",
    ],
)
def test_what_is_no_json_is_a_parse_error(line: bytes) -> None:
    assert code_of(line) == PARSE_ERROR


@pytest.mark.parametrize(
    "line",
    [
        b"[]",
        b"[" + a_request() + b"]",
        b"3",
        b"null",
        b'"hello"',
        a_request(jsonrpc="left out"),
        a_request(jsonrpc="1.0"),
        a_request(jsonrpc=2.0),
        a_request(id=None),
        a_request(id=True),
        a_request(id=1.5),
        a_request(id=[1]),
        a_request(id=1 << 60),
        a_request(id="x" * 200),
        a_request(method=3),
        a_request(method=None),
        a_request(params=[1]),
        a_request(params=None),
        a_request(method="left out"),
        b'{"jsonrpc": "2.0", "id": 1, "result": 1, "error": {"code": 1, "message": ""}}',
        b'{"jsonrpc": "2.0", "result": 1}',
        b'{"jsonrpc": "2.0", "id": 1, "error": "no"}',
        b'{"jsonrpc": "2.0", "id": 1, "error": {"code": true, "message": ""}}',
        b'{"jsonrpc": "2.0", "id": 1, "error": {"code": 1}}',
    ],
)
def test_what_is_no_message_is_an_invalid_request(line: bytes) -> None:
    assert code_of(line) == INVALID_REQUEST


def test_a_message_may_be_so_deep_and_no_deeper() -> None:
    def nested(levels: int) -> dict[str, Any]:
        inner: Any = 1
        for _ in range(levels - 2):
            inner = [inner]
        return {"x": inner}

    assert parse(a_request(params=nested(MAX_DEPTH - 1)))
    assert code_of(a_request(params=nested(MAX_DEPTH + 1))) == INVALID_REQUEST


def test_an_error_names_the_id_where_it_could_be_read() -> None:
    with pytest.raises(ProtocolError) as caught:
        parse(a_request(id="seven", params=[]))
    assert caught.value.id == "seven"


def test_params_may_be_left_out_and_a_message_without_id_is_a_notification() -> None:
    assert parse(a_request(params="left out")) == Request(1, "hello", {})
    assert parse(a_request(id="left out")) == Request(None, "hello", {})


def test_lines_are_ascii_and_one_line() -> None:
    for line in (
        request_line("é", "load", {"path": "\n\u2028ü"}),
        error_line(1, 2, "\n"),
        notification_line("log", {}),
    ):
        assert line.isascii() and line.count(b"\n") == 1


def test_a_number_that_is_not_finite_is_answered_as_null() -> None:
    answer = parse(result_line(1, {"auc": float("nan"), "more": [(float("inf"), 2.0)]}))
    assert answer == Response(1, {"auc": None, "more": [[None, 2.0]]})


def test_an_answer_that_is_too_long_becomes_an_error() -> None:
    answer = parse(result_line(1, "x" * MAX_ANSWER))
    assert answer.error is not None and answer.error[0] == INTERNAL_ERROR


@pytest.mark.parametrize("params", [{"x": float("nan")}, {"x": object()}, {"x": "y" * MAX_LINE}])
def test_a_request_that_cannot_be_written_is_refused_in_a_sentence(params: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="classify"):
        request_line(1, "classify", params)


@pytest.mark.parametrize(
    ("method", "params"),
    [
        ("hello", {"protocol": "1"}),
        ("load", {}),
        ("load", {"path": 3}),
        ("load", {"path": "x", "wieghts": "y"}),
        ("load", {"path": "x", "device": None}),
        ("unload", {"name": True}),
        ("classify", {}),
        ("classify", {"images": []}),
        ("classify", {"images": {"image": "a.npy"}}),
        ("classify", {"images": {"image": {"array": "a.npy"}}}),
        ("classify", {"images": {"image": {"file": "a.nrrd", "ijk_to_ras": IDENTITY}}}),
        ("classify", {"images": {"image": {**IMAGE, "ijk_to_ras": IDENTITY[:3]}}}),
        ("classify", {"images": {"image": {**IMAGE, "file": "a.nrrd"}}}),
        ("classify", {"images": {"image": IMAGE}, "maps": True}),
        ("classify", {"images": {"image": IMAGE}, "plugins": "Test"}),
        ("classify", {"images": {"image": IMAGE}, "plugins": []}),
        ("classify", {"images": {"image": IMAGE}, "regions": {"image": {}}}),
        ("classify", {"images": {"image": IMAGE}, "regions": {"image": {"text": "x", "box": {}}}}),
        ("classify", {"images": {"image": IMAGE}, "regions": {"image": {"box": {"low": [0, 0], "high": [1, 1, 1]}}}}),
        ("render", {"job": "a", "plugin": "b", "shape": [1, 2], "ijk_to_ras": IDENTITY}),
        ("render", {"job": "a", "plugin": "b", "shape": [1, 2, 0], "ijk_to_ras": IDENTITY}),
        ("render", {"job": "a", "plugin": "b", "shape": [1 << 20] * 3, "ijk_to_ras": IDENTITY}),
        ("render", {"job": "a", "plugin": "b", "shape": [1, 2, 3], "ijk_to_ras": IDENTITY, "dtype": "int8"}),
        ("preview", {"images": {"image": IMAGE}, "view": "axial"}),
        ("preview", {"images": {"image": IMAGE}, "view": {"name": "axial"}, "plugin": "Test"}),
        ("train", {"task": "a", "data": "b"}),
        ("train", {"task": 3, "data": "b", "out": "c"}),
        ("train", {"task": "a", "data": "b", "out": "c", "val_splits": "val"}),
        ("train", {"task": "a", "data": "b", "out": "c", "resume": "yes"}),
        ("estimate", {"task": "a", "data": "b", "out": "c"}),
        ("check", {"task": "a"}),
        ("suspend", {"now": True}),
        ("evaluate", {"plugin": "a"}),
        ("cancel", {}),
        ("cancel", {"request": None}),
        ("cancel", {"request": True}),
        ("shutdown", {"now": True}),
    ],
)
def test_params_of_a_wrong_kind_are_refused_in_a_sentence(method: str, params: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"^\S.*\.$"):
        METHODS[method].from_dict(params)


@pytest.mark.parametrize(
    "params",
    [
        Classify.from_dict({"images": {"image": IMAGE}, "regions": {"image": {"text": "box:0,0,0,1,1,1"}}}),
        Render(job="a", plugin="b", shape=(1, 2, 3), ijk_to_ras=matrix(IDENTITY), class_name="lesion"),
        Preview.from_dict({"images": {"image": {"file": "a.nrrd"}}, "view": {"name": "axial"}}),
        Train(task={"plugin": {}}, data="b", out="c"),
        Train(task="a", data="b", run="r", resume=True, method="probe", folds=3, minutes=1.5, seed=7),
        Cancel(request="seven"),
    ],
    ids=lambda params: type(params).__name__,
)
def test_params_read_back_as_they_were_written(params: Any) -> None:
    assert type(params).from_dict(json.loads(json.dumps(params.to_dict()))) == params


def test_the_class_of_a_heatmap_is_called_class_in_json() -> None:
    params = Render(job="a", plugin="b", shape=(1, 2, 3), ijk_to_ras=matrix(IDENTITY), class_name="lesion")
    assert params.to_dict()["class"] == "lesion" and "class_name" not in params.to_dict()


def test_an_affine_must_be_a_matrix() -> None:
    with pytest.raises(InputError):
        matrix([[1.0]])
    with pytest.raises(InputError):
        RegionSource.from_dict({"segment": {"array": "a.npy", "ijk_to_ras": [[1.0]]}})


class Client:
    """A client whose lines and callbacks are kept."""

    def __init__(self) -> None:
        self.lines: list[bytes] = []
        self.logged: list[LogNote] = []
        self.protocol = ClientProtocol(self.lines.append, on_log=self.logged.append)
        self.results: dict[int, Any] = {}
        self.errors: dict[int, AnyMC3DError] = {}
        self.notes: list[ProgressNote] = []

    def ask(self, method: str = "hello") -> int:
        number = len(self.lines) + 1
        return self.protocol.request(
            method,
            done=lambda result: self.results.__setitem__(number, result),
            failed=lambda error: self.errors.__setitem__(number, error),
            progress=self.notes.append,
        )


@pytest.fixture
def client() -> Iterator[Client]:
    yield Client()


def test_answers_reach_their_requests_in_any_order(client: Client) -> None:
    first, second = client.ask(), client.ask()
    assert client.protocol.pending == (first, second)
    client.protocol.receive(result_line(second, "b") + result_line(first, "a"))
    assert client.results == {first: "a", second: "b"}
    assert client.protocol.pending == ()


def test_errors_reach_their_requests_as_exceptions(client: Client) -> None:
    first, second = client.ask(), client.ask()
    client.protocol.receive(error_line(first, CANCELLED, "Cancelled.") + error_line(second, INPUT_AT_FAULT, "Bad."))
    assert isinstance(client.errors[first], Cancelled)
    assert isinstance(client.errors[second], RequestFailed)
    assert (client.errors[second].code, str(client.errors[second])) == (INPUT_AT_FAULT, "Bad.")


def test_progress_reaches_its_request_until_the_answer(client: Client) -> None:
    number = client.ask()
    note = ProgressNote(id=number, step="Classifying", done=1, total=2, elapsed_s=0.5)
    line = notification_line("progress", note.to_dict())
    client.protocol.receive(line + result_line(number, {}) + line)
    assert client.notes == [note]


def test_the_log_is_handed_on(client: Client) -> None:
    client.protocol.receive(notification_line("log", {"level": "info", "message": "Ready."}))
    assert client.logged == [LogNote(level="info", message="Ready.")]


@pytest.mark.parametrize(
    "line",
    [
        b"noise\n",
        result_line(99, {}),
        error_line(None, PARSE_ERROR, "What was that?"),
        notification_line("progress", {"id": 1}),
        notification_line("log", {"level": "loud", "message": ""}),
    ],
)
def test_a_line_that_cannot_be_used_is_logged_and_the_next_is_read(client: Client, line: bytes) -> None:
    number = client.ask()
    client.protocol.receive(line + result_line(number, "good"))
    assert client.results == {number: "good"}
    assert [note.level for note in client.logged] == ["warning"]


def test_a_notification_of_a_later_version_is_left_aside(client: Client) -> None:
    client.protocol.receive(notification_line("sparkle", {}))
    assert client.logged == []


def test_an_answer_that_cannot_be_used_fails_its_request(client: Client) -> None:
    number = client.ask()
    client.protocol.receive(b'{"jsonrpc": "2.0", "id": %d, "error": "odd"}\n' % number)
    assert isinstance(client.errors[number], ProtocolError)


def test_a_callback_that_fails_does_not_stop_the_next(client: Client) -> None:
    def fail(_: Any) -> None:
        raise ValueError

    broken = client.protocol.request("hello", done=fail, failed=fail)
    client.lines.append(b"")
    number = client.ask()
    client.protocol.receive(result_line(broken, {}) + result_line(number, "good"))
    assert list(client.results.values()) == ["good"]


def test_when_the_worker_dies_every_pending_and_every_later_request_fails_with_the_sentence(client: Client) -> None:
    client.ask()
    client.ask()
    reason = AnyMC3DError("The worker was killed.")
    client.protocol.end(reason)
    assert list(client.errors.values()) == [reason, reason]
    assert client.protocol.pending == ()
    with pytest.raises(AnyMC3DError, match=r"The worker was killed\."):
        client.ask()


def test_a_request_that_could_not_be_sent_is_not_pending() -> None:
    def fail(_: bytes) -> None:
        raise OSError

    protocol = ClientProtocol(fail)
    with pytest.raises(OSError):
        protocol.request("hello", done=print, failed=print)
    assert protocol.pending == ()


def test_the_protocol_needs_the_standard_library_alone() -> None:
    code = (
        "import sys; before = set(sys.modules); import AnyMC3DLib.client, AnyMC3DLib.transport\n"
        "names = {n.partition('.')[0] for n in set(sys.modules) - before} - {'AnyMC3DLib'}\n"
        "assert names <= set(sys.stdlib_module_names), names - set(sys.stdlib_module_names)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
