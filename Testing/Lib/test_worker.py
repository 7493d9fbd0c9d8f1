"""The worker's requests and jobs in this process, with jobs that a test holds in its hand."""

from __future__ import annotations

import itertools
import json
import logging
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from AnyMC3DLib.control import Control
from AnyMC3DLib.errors import InputError
from AnyMC3DLib.messages import PROTOCOL_VERSION, Params, ProgressNote
from AnyMC3DLib.progress import Progress, ProgressCallback
from AnyMC3DLib.protocol import (
    CANCELLED,
    INPUT_AT_FAULT,
    INTERNAL_ERROR,
    INVALID_PARAMS,
    INVALID_REQUEST,
    MAX_LINE,
    NOT_ENOUGH_MEMORY,
    PARSE_ERROR,
    UNKNOWN_METHOD,
    WRONG_STATE,
    request_line,
)
from AnyMC3DLib.worker_progress import ProgressSender
from AnyMC3DLib.worker_server import Server
from AnyMC3DLib.workspace import Workspace

WAIT_S = 30.0
PATIENT = "Doe^Jane"


class HeldJobs:
    """Jobs that end when a test lets them: each calls its plan, which may wait for `go`."""

    def __init__(self) -> None:
        self.go, self.started = threading.Event(), threading.Event()
        self.ran: list[str] = []
        self.controls: list[Control] = []
        self.plan: Callable[[Params, Control], Any] = lambda params, control: {}
        self.released = 0

    def run(self, params: Params, control: Control, progress: ProgressCallback) -> Any:
        self.ran.append(type(params).__name__)
        self.controls.append(control)
        progress(Progress("Working", 1, 2))
        self.started.set()
        return self.plan(params, control)

    def release(self) -> None:
        self.released += 1

    def until_told(self, _: Params, control: Control) -> dict[str, Any]:
        """A plan: wait for `go`, and heed nothing."""
        assert self.go.wait(WAIT_S)
        return {}

    def until_cancelled(self, _: Params, control: Control) -> dict[str, Any]:
        """A plan: work until cancelled or stopped."""
        while not control.stopping:
            control.check()
        return {"stopped": True}


class Desk:
    """A server with held jobs: its input is a pipe, its output a list."""

    def __init__(self, folder: Path) -> None:
        self.jobs, self.workspace = HeldJobs(), Workspace(folder)
        self.lines: list[dict[str, Any]] = []
        self.left: list[int] = []
        self._changed = threading.Condition()
        reading, self._writing = os.pipe()
        self.server = Server(self._sent, self.workspace, lambda _: self.jobs, leave=self._leave)
        for body in (lambda: self.server.read(reading), self.server.run):
            threading.Thread(target=body, daemon=True).start()

    def _sent(self, line: bytes) -> None:
        with self._changed:
            self.lines.append(json.loads(line))
            self._changed.notify_all()

    def _leave(self, code: int) -> None:
        self.workspace.remove()
        with self._changed:
            self.left.append(code)
            self._changed.notify_all()

    def write(self, line: bytes) -> None:
        os.write(self._writing, line)

    def ask(self, id: int | str, method: str, **params: Any) -> None:  # noqa: A002
        self.write(request_line(id, method, params))

    def answers(self) -> list[dict[str, Any]]:
        return [line for line in self.lines if "method" not in line]

    def wait(self, reached: Callable[[], bool]) -> None:
        with self._changed:
            assert self._changed.wait_for(reached, WAIT_S), self.lines

    def answer(self, id: int | str | None, number: int = 0) -> dict[str, Any]:  # noqa: A002
        """The answer to the request `id`, or that with `number` where several have come."""
        self.wait(lambda: sum(a["id"] == id for a in self.answers()) > number)
        return [a for a in self.answers() if a["id"] == id][number]

    def code(self, id: int | str | None, number: int = 0) -> int:  # noqa: A002
        return self.answer(id, number)["error"]["code"]

    def end_input(self) -> None:
        os.close(self._writing)

    def file(self) -> Path:
        place = self.workspace.new_file()
        place.write_bytes(b"array")
        return place


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    result = Desk(tmp_path)
    result.ask("hello", "hello")
    result.answer("hello")
    yield result
    for control in result.jobs.controls:
        control.cancel()
    result.jobs.go.set()


def images(*places: Path) -> dict[str, Any]:
    matrix = [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]
    return {str(n): {"array": str(place), "ijk_to_ras": matrix} for n, place in enumerate(places)}


def test_hello_tells_version_process_and_folder(desk: Desk) -> None:
    result = desk.answer("hello")["result"]
    assert result["protocol"] == PROTOCOL_VERSION and result["pid"] == os.getpid()
    assert result["folder"] == str(desk.workspace.path)


def test_another_version_of_the_protocol_is_refused(desk: Desk) -> None:
    desk.ask(1, "hello", protocol=99)
    assert "99" in desk.answer(1)["error"]["message"]


def test_before_hello_every_request_is_an_error(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    desk.ask(1, "load", path="x")
    desk.ask(2, "shutdown")
    assert (desk.code(1), desk.code(2)) == (WRONG_STATE, WRONG_STATE)
    assert desk.left == []


@pytest.mark.parametrize(
    ("line", "code", "id"),
    [
        (b"{\n", PARSE_ERROR, None),
        (b"\xff\n", PARSE_ERROR, None),
        (b"x" * (MAX_LINE + 5) + b"\n", INVALID_REQUEST, None),
        (b'[{"jsonrpc": "2.0", "id": 5, "method": "load", "params": {}}]\n', INVALID_REQUEST, None),
        (b'{"jsonrpc": "2.0", "id": 5, "method": "load", "params": []}\n', INVALID_REQUEST, 5),
        (b'{"jsonrpc": "2.0", "id": 5, "result": 3}\n', INVALID_REQUEST, None),
        (request_line(5, "sing", {}), UNKNOWN_METHOD, 5),
        (request_line(5, "load", {"path": 3}), INVALID_PARAMS, 5),
        (request_line(5, "pause", {}), WRONG_STATE, 5),
        (request_line(5, "resume", {}), WRONG_STATE, 5),
        (request_line(5, "stop", {}), WRONG_STATE, 5),
        (request_line(5, "suspend", {}), WRONG_STATE, 5),
        (request_line(5, "cancel", {"request": 77}), WRONG_STATE, 5),
    ],
)
def test_a_bad_request_is_answered_at_once_while_a_job_runs(desk: Desk, line: bytes, code: int, id: int | None) -> None:  # noqa: A002
    desk.jobs.plan = desk.jobs.until_told
    desk.ask(1, "classify", images={})
    threading.Thread(target=desk.write, args=(line,), daemon=True).start()
    assert desk.code(id) == code
    desk.jobs.go.set()
    assert desk.answer(1)["result"] == {}


def test_a_notification_is_not_answered(desk: Desk) -> None:
    desk.write(b'{"jsonrpc": "2.0", "method": "shutdown"}\n{"jsonrpc": "2.0", "method": "load"}\n')
    desk.ask(1, "load", path="x")
    desk.answer(1)
    assert [a["id"] for a in desk.answers()] == ["hello", 1]
    assert desk.jobs.ran == ["Load"]


def test_jobs_run_one_by_one_in_order(desk: Desk) -> None:
    desk.jobs.plan = desk.jobs.until_told
    desk.ask(3, "load", path="x")
    desk.ask(1, "classify", images={})
    desk.ask(2, "unload", name="x")
    assert desk.jobs.started.wait(WAIT_S)
    assert desk.jobs.ran == ["Load"]
    desk.jobs.go.set()
    desk.answer(2)
    assert [a["id"] for a in desk.answers()] == ["hello", 3, 1, 2]
    assert desk.jobs.ran == ["Load", "Classify", "Unload"]


def test_a_request_that_waits_is_cancelled_at_once_and_never_runs(desk: Desk) -> None:
    desk.jobs.plan = desk.jobs.until_told
    desk.ask(1, "load", path="x")
    desk.ask(2, "classify", images={})
    desk.ask(3, "cancel", request=2)
    assert desk.code(2) == CANCELLED
    assert desk.answer(3)["result"] == {"request": 2}
    desk.jobs.go.set()
    desk.ask(4, "unload", name="x")
    desk.answer(4)
    assert desk.jobs.ran == ["Load", "Unload"]


def test_a_request_that_runs_is_cancelled(desk: Desk) -> None:
    desk.jobs.plan = desk.jobs.until_cancelled
    desk.ask("one", "classify", images={})
    assert desk.jobs.started.wait(WAIT_S)
    desk.ask(2, "cancel", request="one")
    assert desk.code("one") == CANCELLED


def test_ids_that_are_alike_are_told_apart(desk: Desk) -> None:
    desk.jobs.plan = desk.jobs.until_told
    desk.ask(1, "load", path="x")
    desk.ask("2", "classify", images={})
    desk.ask(3, "cancel", request=2)
    assert desk.code(3) == WRONG_STATE


def test_a_request_that_has_its_answer_cannot_be_cancelled(desk: Desk) -> None:
    desk.ask(1, "load", path="x")
    desk.answer(1)
    desk.ask(2, "cancel", request=1)
    assert desk.code(2) == WRONG_STATE


def test_a_cancel_that_comes_as_the_work_ends_still_counts(desk: Desk) -> None:
    made = desk.file()

    def plan(_: Params, control: Control) -> dict[str, Any]:
        assert desk.jobs.go.wait(WAIT_S)
        return {"array": str(made)}

    desk.jobs.plan = plan
    desk.ask(1, "render", job="a", plugin="b", shape=[1, 1, 1], ijk_to_ras=[[1, 0, 0, 0]] * 4)
    assert desk.jobs.started.wait(WAIT_S)
    desk.ask(2, "cancel", request=1)
    desk.answer(2)
    desk.jobs.go.set()
    assert desk.code(1) == CANCELLED
    assert not made.exists()


def test_a_cancel_that_comes_after_a_plugin_was_loaded_does_not_deny_it(desk: Desk) -> None:
    desk.jobs.plan = desk.jobs.until_told
    desk.ask(1, "load", path="x")
    assert desk.jobs.started.wait(WAIT_S)
    desk.ask(2, "cancel", request=1)
    desk.answer(2)
    desk.jobs.go.set()
    assert desk.answer(1)["result"] == {}


def test_an_id_in_use_is_refused_without_touching_the_first_request(desk: Desk) -> None:
    desk.jobs.plan = desk.jobs.until_told
    place = desk.file()
    desk.ask(1, "classify", images=images(place))
    desk.ask(1, "classify", images=images(place))
    assert desk.code(None) == INVALID_REQUEST
    assert place.exists()
    desk.write(b'{"jsonrpc": "2.0", "id": 1, "method": 5}\n')
    assert desk.code(None, 1) == INVALID_REQUEST
    desk.jobs.go.set()
    assert desk.answer(1)["result"] == {}
    desk.ask(1, "unload", name="x")
    assert desk.answer(1, 1)["result"] == {}


def test_pause_resume_and_stop_reach_the_training(desk: Desk) -> None:
    desk.jobs.plan = desk.jobs.until_cancelled
    desk.ask(1, "train", task="a", data="b", out="c")
    assert desk.jobs.started.wait(WAIT_S)
    control = desk.jobs.controls[0]
    desk.ask(2, "pause")
    desk.answer(2)
    assert control.paused
    desk.ask(3, "resume")
    desk.answer(3)
    assert not control.paused
    desk.ask(4, "pause")
    desk.ask(5, "stop")
    assert desk.answer(5)["result"] == {"request": 1}
    assert desk.answer(1)["result"] == {"stopped": True}


def test_a_training_that_waits_in_the_queue_cannot_be_paused(desk: Desk) -> None:
    desk.jobs.plan = desk.jobs.until_told
    desk.ask(1, "classify", images={})
    desk.ask(2, "train", task="a", data="b", out="c")
    desk.ask(3, "pause")
    assert desk.code(3) == WRONG_STATE


def test_shutdown_cancels_all_requests_first(desk: Desk) -> None:
    desk.jobs.plan = desk.jobs.until_told
    desk.file()
    desk.ask(1, "classify", images={})
    desk.ask(2, "load", path="x")
    desk.ask(3, "shutdown")
    assert desk.answer(3)["result"] == {}
    desk.wait(lambda: desk.left == [0])
    assert [a["id"] for a in desk.answers()] == ["hello", 1, 2, 3]
    assert (desk.code(1), desk.code(2)) == (CANCELLED, CANCELLED)
    assert not desk.workspace.path.exists()
    desk.jobs.go.set()


def test_shutdown_lets_a_training_take_away_what_it_has_half_written(desk: Desk) -> None:
    cleaned = []

    def plan(_: Params, control: Control) -> dict[str, Any]:
        try:
            return desk.jobs.until_cancelled(_, control)
        finally:
            cleaned.append(len(desk.left))

    desk.jobs.plan = plan
    desk.ask(1, "train", task="a", data="b", out="c")
    assert desk.jobs.started.wait(WAIT_S)
    desk.ask(2, "shutdown")
    desk.answer(2)
    assert cleaned == [0]
    assert desk.code(1) == CANCELLED


def test_the_end_of_input_ends_the_worker_at_once_while_it_classifies(desk: Desk) -> None:
    desk.jobs.plan = desk.jobs.until_told
    desk.ask(1, "classify", images={})
    assert desk.jobs.started.wait(WAIT_S)
    desk.end_input()
    desk.wait(lambda: desk.left == [0])
    assert not desk.workspace.path.exists()


@pytest.mark.parametrize("paused", [False, True])
def test_the_end_of_input_lets_a_training_write_its_plugin(desk: Desk, paused: bool) -> None:
    written = []

    def plan(_: Params, control: Control) -> dict[str, Any]:
        result = desk.jobs.until_cancelled(_, control)
        written.append(len(desk.left))
        return result

    desk.jobs.plan = plan
    desk.ask(1, "train", task="a", data="b", out="c")
    desk.ask(2, "classify", images={})
    assert desk.jobs.started.wait(WAIT_S)
    if paused:
        desk.ask(3, "pause")
        desk.answer(3)
    desk.end_input()
    desk.wait(lambda: desk.left == [0])
    assert written == [0]
    assert desk.jobs.ran == ["Train"]


def raising(error: BaseException) -> Callable[[Params, Control], Any]:
    def plan(_: Params, __: Control) -> Any:
        raise error

    return plan


@pytest.mark.parametrize(
    ("error", "code", "sentence"),
    [
        (InputError("The image is empty: give another."), INPUT_AT_FAULT, "The image is empty: give another."),
        (MemoryError(), NOT_ENOUGH_MEMORY, "memory"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), NOT_ENOUGH_MEMORY, "memory"),
        (torch.OutOfMemoryError("CUDA out of memory."), NOT_ENOUGH_MEMORY, "memory"),
        (FileNotFoundError(2, "No such file", "there.csv"), INPUT_AT_FAULT, "there.csv"),
        (ModuleNotFoundError("No module named 'torch'", name="torch"), INTERNAL_ERROR, "'torch' is not installed"),
        (KeyError(PATIENT), INTERNAL_ERROR, "KeyError"),
        (SystemExit(3), INTERNAL_ERROR, "SystemExit"),
        (KeyboardInterrupt(), INTERNAL_ERROR, "KeyboardInterrupt"),
        (RecursionError(), INTERNAL_ERROR, "RecursionError"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_job_that_fails_is_answered_and_the_next_runs(
    desk: Desk, error: BaseException, code: int, sentence: str
) -> None:
    desk.jobs.plan = raising(error)
    desk.ask(1, "load", path="x")
    answer = desk.answer(1)["error"]
    assert answer["code"] == code and sentence in answer["message"] and PATIENT not in answer["message"]
    assert error.__traceback__ is None
    desk.jobs.plan = lambda params, control: {}
    desk.ask(2, "load", path="x")
    assert desk.answer(2)["result"] == {}


def test_the_log_says_where_an_unexpected_error_was_but_not_its_values(
    desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    def plan(_: Params, __: Control) -> Any:
        try:
            raise FileNotFoundError(PATIENT)
        except FileNotFoundError as error:
            raise KeyError(PATIENT) from error

    desk.jobs.plan = plan
    with caplog.at_level(logging.INFO):
        desk.ask(1, "load", path=f"/{PATIENT}")
        desk.answer(1)
    assert "test_worker.py" in caplog.text and "KeyError" in caplog.text and "FileNotFoundError" in caplog.text
    assert PATIENT not in caplog.text


def test_memory_is_released_after_an_error_of_memory_alone(desk: Desk) -> None:
    for number, error in enumerate((InputError("No."), MemoryError())):
        desk.jobs.plan = raising(error)
        desk.ask(number, "load", path="x")
        desk.answer(number)
    assert desk.jobs.released == 1


@pytest.mark.parametrize("ending", ["done", "failed", "cancelled in the queue", "cancelled while it runs"])
def test_the_files_of_a_job_are_gone_before_its_answer(desk: Desk, tmp_path: Path, ending: str) -> None:
    inside, segment, outside = desk.file(), desk.file(), tmp_path / "outside.npy"
    outside.write_bytes(b"array")
    region = {"segment": {"array": str(segment), "ijk_to_ras": [[1, 0, 0, 0]] * 4}}
    if ending == "failed":
        desk.jobs.plan = raising(InputError("No."))
    if ending.startswith("cancelled"):
        desk.jobs.plan = desk.jobs.until_cancelled
    if ending == "cancelled in the queue":
        desk.ask(0, "load", path="x")
    desk.ask(1, "classify", images=images(inside, outside), regions={"0": region})
    if ending.startswith("cancelled"):
        desk.ask(2, "cancel", request=1)
    desk.answer(1)
    assert not inside.exists() and not segment.exists()
    assert outside.exists()


def test_the_files_of_a_request_that_is_refused_are_gone(desk: Desk) -> None:
    place = desk.file()
    desk.ask(1, "classify", images=images(place), plugins="not a list")
    assert desk.code(1) == INVALID_PARAMS
    assert not place.exists()


def test_a_file_that_two_requests_name_stays_for_the_second(desk: Desk) -> None:
    place, there = desk.file(), []
    desk.jobs.plan = lambda params, control: there.append(place.exists()) or desk.jobs.until_told(params, control)
    desk.ask(1, "classify", images=images(place))
    desk.ask(2, "classify", images=images(place))
    desk.ask(3, "cancel", request=99)
    desk.answer(3)
    desk.jobs.go.set()
    desk.answer(2)
    assert there == [True, True]
    assert not place.exists()


def test_a_result_stays_until_a_later_request_has_ended(desk: Desk) -> None:
    made = [desk.file() for _ in range(3)]
    results = iter(made)

    def plan(params: Params, control: Control) -> dict[str, Any]:
        desk.jobs.until_told(params, control)
        return {"array": str(next(results))}

    desk.jobs.plan = plan
    for number in (1, 2):
        desk.ask(number, "render", job="a", plugin="b", shape=[1, 1, 1], ijk_to_ras=[[1, 0, 0, 0]] * 4)
    desk.ask(3, "cancel", request=99)
    desk.answer(3)
    desk.jobs.go.set()
    desk.answer(2)
    # The second was asked for before the first was answered, so the first may not have been read yet.
    assert [place.exists() for place in made[:2]] == [True, True]
    desk.ask(4, "render", job="a", plugin="b", shape=[1, 1, 1], ijk_to_ras=[[1, 0, 0, 0]] * 4)
    desk.answer(4)
    assert [place.exists() for place in made] == [False, False, True]


def test_progress_comes_from_the_start_of_a_job_until_its_answer(desk: Desk) -> None:
    desk.ask(1, "load", path="x")
    desk.answer(1)
    desk.ask(2, "load", path="x")
    desk.answer(2)
    order = [(line.get("method", "answer"), line.get("id", line.get("params", {}).get("id"))) for line in desk.lines]
    assert order[1:] == [("progress", 1), ("answer", 1), ("progress", 2), ("answer", 2)]


class FakeClock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Notes:
    """A progress sender under a clock that a test moves."""

    def __init__(self) -> None:
        self.clock, self.notes = FakeClock(), list[ProgressNote]()
        self.sender = ProgressSender(self.notes.append, clock=self.clock)

    def pass_time(self, seconds: float, *, step: float = 0.05) -> None:
        for _ in range(round(seconds / step)):
            self.clock.now += step
            self.sender.tick()


def test_silence_is_filled_with_the_last_progress_at_least_every_half_second() -> None:
    desk = Notes()
    desk.sender.start(1, "Preparing")
    desk.pass_time(2.0)
    desk.sender.report(Progress("Cutting", 1, 3))
    desk.pass_time(2.0)
    times = [note.elapsed_s for note in desk.notes]
    assert times[0] == 0 and max(b - a for a, b in itertools.pairwise(times)) <= 0.5
    assert times[-1] >= 3.5
    assert desk.notes[-1] == ProgressNote(id=1, step="Cutting", done=1, total=3, elapsed_s=times[-1])


def test_progress_comes_no_more_often_than_ten_times_a_second() -> None:
    desk = Notes()
    desk.sender.start(1, "Preparing")
    for number in range(1000):
        desk.clock.now += 0.001
        desk.sender.report(Progress("Classifying", number, 1000))
    assert 9 <= len(desk.notes) <= 11
    times = [note.elapsed_s for note in desk.notes]
    assert min(b - a for a, b in itertools.pairwise(times)) >= 0.099


def test_nothing_comes_after_the_end_of_a_job() -> None:
    desk = Notes()
    desk.sender.start(1, "Preparing")
    desk.sender.finish()
    desk.pass_time(5.0)
    desk.sender.report(Progress("Late", 1, 1))
    assert len(desk.notes) == 1
    desk.sender.start(2, "Preparing")
    assert desk.notes[1] == ProgressNote(id=2, step="Preparing", done=0, total=0, elapsed_s=0)
