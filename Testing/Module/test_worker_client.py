"""The worker through QProcess: how it starts, speaks, ends and dies. Its jobs are stand-ins that need no torch."""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import worker_desk
from AnyMC3DUI.loaded_plugins import LoadedPlugins
from AnyMC3DUI.worker_client import WorkerClient, worker_environment
from stand_in_worker import STUBBORN_VARIABLE
from worker_desk import LongestGap, spin

from AnyMC3DLib.backbone_store import FOLDER_VARIABLE
from AnyMC3DLib.client import RequestFailed
from AnyMC3DLib.errors import AnyMC3DError, Cancelled
from AnyMC3DLib.messages import Evaluate, LogNote, ProgressNote
from AnyMC3DLib.transport import WorkerDied
from AnyMC3DLib.workspace import BASE_VARIABLE, sweep

STAND_IN = str(Path(__file__).with_name("stand_in_worker.py"))
UNIX = pytest.mark.skipif(os.name == "nt", reason="Windows has no signals")


class Outcome:
    """What becomes of a request."""

    def __init__(self) -> None:
        self.results: list[Any] = []
        self.errors: list[AnyMC3DError] = []
        self.notes: list[ProgressNote] = []

    @property
    def came(self) -> bool:
        return bool(self.results or self.errors)


class Desk:
    """A client with stand-in jobs, and what it told."""

    def __init__(self, folder: Path, **options: Any) -> None:
        worker_desk.application()
        self.log: list[LogNote] = []
        options = {"python": sys.executable, "arguments": (STAND_IN,), **options}
        environment = {BASE_VARIABLE: str(folder), **options.pop("environment", {})}
        self.client = WorkerClient(environment=environment, on_log=self.log.append, **options)

    def ask(self, path: str, method: str = "load") -> Outcome:
        outcome = Outcome()
        params = {"path": path} if method == "load" else {"name": path} if method == "unload" else None
        outcome.call = self.client.request(
            method, params, done=outcome.results.append, failed=outcome.errors.append, progress=outcome.notes.append
        )
        return outcome

    def result(self, path: str, method: str = "load") -> Any:
        outcome = self.ask(path, method)
        spin(lambda: outcome.came)
        assert not outcome.errors, outcome.errors
        return outcome.results[0]

    def error(self, outcome: Outcome) -> AnyMC3DError:
        spin(lambda: outcome.came)
        assert not outcome.results
        return outcome.errors[0]

    def running(self, path: str) -> Outcome:
        outcome = self.ask(path)
        spin(lambda: any(note.step == "Working" for note in outcome.notes))
        return outcome


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    made = Desk(tmp_path)
    yield made
    made.client.close()
    spin(lambda: made.client.gone)
    assert not list(tmp_path.glob("anymc3d-worker-*"))


def one_sentence(error: AnyMC3DError) -> str:
    text = str(error)
    assert "\n" not in text and text[0].isupper() and len(text) < 300
    return text


def test_the_first_request_starts_the_worker_and_the_next_ones_find_it(desk: Desk) -> None:
    assert not desk.client.ready and desk.client.pid is None and desk.client.folder is None
    assert desk.result("nothing") == {}
    pid = desk.client.pid
    assert desk.client.ready and psutil.Process(pid).is_running() and desk.client.folder.is_dir()
    assert desk.result("nothing") == {}
    assert (desk.client.pid, desk.client.starts) == (pid, 1)


def begin(desk: Desk, job: str) -> None:
    """Begin a job as the panels do: one of several requests, or one that is a whole job."""
    came: list[Any] = []
    if job == "several":
        desk.client.start(done=came.append, failed=came.append)
    else:
        params = Evaluate(plugin="a.safetensors", data="cases.csv")
        desk.client.request("evaluate", params, done=came.append, failed=came.append)
    spin(lambda: came)


@pytest.mark.parametrize("job", ["several", "whole"])
def test_the_next_job_looks_for_backbones_in_the_folder_that_was_chosen(
    desk: Desk, job: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path / "one"))
    desk.result("nothing")
    first = desk.client.pid
    begin(desk, job)
    assert desk.client.pid == first
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path / "two"))
    # What belongs to a job that has begun goes to the worker that has begun it.
    desk.result("nothing")
    assert desk.client.pid == first
    begin(desk, job)
    assert desk.client.pid != first and desk.client.starts == 2
    assert psutil.Process(desk.client.pid).environ()[FOLDER_VARIABLE] == str(tmp_path / "two")
    spin(lambda: not psutil.pid_exists(first))


def test_work_that_goes_on_is_not_ended_for_another_folder_of_backbones(
    desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    working = desk.running("wait")
    first = desk.client.pid
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path / "two"))
    begin(desk, "several")
    assert desk.client.pid == first and not working.came
    desk.client.cancel(working.call)
    desk.error(working)
    book = LoadedPlugins.of(desk.client)
    book.take(desk)
    # As while the images of a study are handed over.
    begin(desk, "whole")
    assert desk.client.pid == first
    book.give_back(desk)
    begin(desk, "whole")
    assert desk.client.pid != first


def test_requests_are_answered_in_their_order_however_early_they_come(desk: Desk) -> None:
    outcomes = [desk.ask("nothing") for _ in range(20)]
    answered: list[int] = []
    for number, outcome in enumerate(outcomes):
        outcome.call._done = lambda _, n=number: answered.append(n)
    spin(lambda: len(answered) == 20)
    assert answered == sorted(answered)


def test_no_callback_comes_within_the_call_that_it_answers(desk: Desk) -> None:
    outcome = desk.ask("nothing")
    assert not outcome.came
    spin(lambda: outcome.came)
    again: list[Any] = []
    desk.client.start(done=again.append, failed=again.append)
    assert not again
    spin(lambda: again)
    assert again == [desk.client.folder]


def test_messages_of_megabytes_come_whole(desk: Desk) -> None:
    answer = desk.result("much")
    assert answer["text"] == "x" * 5_000_000 and answer["list"] == list(range(100_000))


def test_progress_comes_while_a_job_runs(desk: Desk) -> None:
    outcome = desk.running("wait")
    assert outcome.notes[-1].done == 1 and outcome.notes[-1].total == 2
    desk.client.cancel(outcome.call)
    assert isinstance(desk.error(outcome), Cancelled)


def test_a_request_that_waits_for_the_start_can_be_cancelled(desk: Desk) -> None:
    outcome = desk.ask("compute_for_ever")
    desk.client.cancel(outcome.call)
    assert not outcome.came
    assert isinstance(desk.error(outcome), Cancelled)
    assert desk.result("nothing") == {}


def test_cancelling_what_is_answered_does_nothing(desk: Desk) -> None:
    outcome = desk.ask("nothing")
    spin(lambda: outcome.came)
    desk.client.cancel(outcome.call)
    assert desk.result("nothing") == {}


def test_an_error_of_the_worker_comes_as_its_sentence(desk: Desk) -> None:
    error = desk.error(desk.ask("", "no such method"))
    assert isinstance(error, RequestFailed) and "no such method" in str(error)


def test_what_is_no_json_fails_as_a_request(desk: Desk) -> None:
    outcome = Outcome()
    desk.client.request("load", {"path": object()}, done=outcome.results.append, failed=outcome.errors.append)
    assert "JSON" in one_sentence(desk.error(outcome))
    assert desk.result("nothing") == {}


def test_what_libraries_print_goes_to_the_log(desk: Desk, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="AnyMC3DUI"):
        desk.result("noise")
        spin(lambda: "A library warns: ä" in caplog.text)
    assert "A library prints." in caplog.text


def test_the_worker_imports_nothing_from_the_folder_of_the_start(
    desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "AnyMC3DLib").mkdir()
    monkeypatch.chdir(tmp_path)
    answer = desk.result("any", "unload")
    assert answer["safe"] and "" not in answer["path"] and str(tmp_path) not in answer["path"]
    (tmp_path / "AnyMC3DLib").rmdir()


def test_the_worker_finds_the_library_that_the_application_uses() -> None:
    environment = worker_environment({"PYTHONPATH": "elsewhere", "A": "b"})
    paths = environment["PYTHONPATH"].split(os.pathsep)
    assert (Path(paths[0]) / "AnyMC3DLib" / "worker.py").exists() and paths[1:] == ["elsewhere"]
    assert environment["A"] == "b"


@UNIX
def test_a_killed_worker_is_reported_and_the_next_request_starts_another(desk: Desk) -> None:
    outcome = desk.running("compute_for_ever")
    waiting = desk.ask("nothing")
    pid, folder = desk.client.pid, desk.client.folder
    deaths: list[AnyMC3DError] = []
    desk.client.watch(deaths.append)
    os.kill(pid, signal.SIGKILL)
    error = desk.error(outcome)
    assert isinstance(error, WorkerDied) and "killed" in one_sentence(error)
    assert desk.error(waiting) is error and deaths == [error]
    assert not folder.exists() and not desk.client.ready
    assert str(error) in desk.log[-1].message and desk.log[-1].level == "error"
    assert desk.result("nothing") == {}
    assert desk.client.pid != pid and desk.client.starts == 2


@UNIX
def test_a_worker_that_dies_while_idle_is_replaced(desk: Desk) -> None:
    desk.result("nothing")
    os.kill(desk.client.pid, signal.SIGKILL)
    spin(lambda: not desk.client.ready)
    assert "killed" in desk.log[-1].message
    assert desk.result("nothing") == {}


def test_a_request_made_when_told_of_the_death_goes_to_the_next_worker(desk: Desk) -> None:
    again: list[Outcome] = []
    first = {"path": "leave"}
    desk.client.request("load", first, done=again.append, failed=lambda _: again.append(desk.ask("nothing")))
    spin(lambda: again and again[0].came)
    assert again[0].results == [{}]


def test_the_last_sentence_of_a_worker_that_left_is_told(desk: Desk) -> None:
    assert one_sentence(desk.error(desk.ask("leave"))).endswith("with exit code 7. It said: The computer is on fire.")


def test_closing_in_mid_job_ends_the_process_and_its_folder(desk: Desk) -> None:
    outcome = desk.running("compute_for_ever")
    pid, folder = desk.client.pid, desk.client.folder
    desk.client.close()
    error = desk.error(outcome)
    assert isinstance(error, WorkerDied) and "ended" in one_sentence(error)
    spin(lambda: not psutil.pid_exists(pid))
    assert not folder.exists()
    assert not any(note.level == "error" for note in desk.log)


def test_closing_at_the_end_of_the_application_waits_for_the_worker(desk: Desk) -> None:
    desk.running("compute_for_ever")
    pid, folder = desk.client.pid, desk.client.folder
    desk.client.close(wait_ms=30_000)
    assert not psutil.pid_exists(pid) and not folder.exists()


def test_a_closed_client_starts_again_with_the_next_request(desk: Desk) -> None:
    desk.running("compute_for_ever")
    old = desk.client.pid
    desk.client.close()
    assert desk.result("nothing") == {}
    assert desk.client.pid != old
    spin(lambda: not psutil.pid_exists(old))


def test_closing_before_the_start_fails_what_waits(desk: Desk) -> None:
    outcome = desk.ask("nothing")
    desk.client.close()
    assert isinstance(desk.error(outcome), WorkerDied)


def test_a_missing_python_is_told_in_one_sentence(tmp_path: Path) -> None:
    desk = Desk(tmp_path, python=tmp_path / "no python")
    error = desk.error(desk.ask("nothing"))
    assert "no python" in one_sentence(error) and "No such file" in str(error)
    second = desk.error(desk.ask("nothing"))
    assert str(second) == str(error) and desk.client.starts == 2


def test_a_python_without_the_engine_says_what_it_lacks(tmp_path: Path) -> None:
    desk = Desk(tmp_path, arguments=("-c", "import no_such_package"))
    assert "No module named 'no_such_package'" in one_sentence(desk.error(desk.ask("nothing")))


def test_a_program_that_never_answers_is_given_up(tmp_path: Path) -> None:
    desk = Desk(tmp_path, arguments=("-c", "import sys; sys.stdin.read()"), start_ms=300)
    assert "within 0.3 seconds" in one_sentence(desk.error(desk.ask("nothing")))


def test_a_worker_that_speaks_another_version_is_refused(tmp_path: Path) -> None:
    code = (
        "import json, sys\nanswer = {'jsonrpc': '2.0', 'id': json.loads(sys.stdin.readline())['id']}\n"
        "answer['error'] = {'code': -1, 'message': 'Update AnyMC3D.'}\n"
        "print(json.dumps(answer), flush=True)\nsys.stdin.read()"
    )
    desk = Desk(tmp_path, arguments=("-c", code))
    assert str(desk.error(desk.ask("nothing"))) == "Update AnyMC3D."


def test_a_program_that_does_not_end_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("AnyMC3DUI.worker_client.END_MS", 200)
    desk = Desk(tmp_path, environment={STUBBORN_VARIABLE: "1"})
    desk.running("compute_for_ever")
    pid, folder = desk.client.pid, desk.client.folder
    desk.client.close()
    spin(lambda: not psutil.pid_exists(pid))
    spin(lambda: not folder.exists())


@UNIX
def test_the_worker_behind_a_launcher_ends_with_it(tmp_path: Path) -> None:
    launcher = "import subprocess, sys; sys.exit(subprocess.call([sys.executable, *sys.argv[1:]]))"
    desk = Desk(tmp_path, arguments=("-c", launcher, STAND_IN))
    desk.running("compute_for_ever")
    pid = desk.client.pid
    assert psutil.Process(pid).ppid() != os.getpid()
    desk.client.close()
    spin(lambda: not psutil.pid_exists(pid))
    desk.running("compute_for_ever")
    pid = desk.client.pid
    os.kill(pid, signal.SIGKILL)
    spin(lambda: not desk.client.ready)
    assert not sweep(tmp_path)


def test_the_event_loop_goes_on_while_the_worker_starts_and_answers(desk: Desk) -> None:
    gap = LongestGap()
    gap.start()
    outcomes = [desk.ask("nothing") for _ in range(50)]
    spin(lambda: all(outcome.came for outcome in outcomes))
    gap.stop()
    assert 0 < gap.busy < 0.1
