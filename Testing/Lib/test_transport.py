"""The worker as a child process: how it starts, speaks, ends and dies. Its jobs are stand-ins that need no torch."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from AnyMC3DLib.client import RequestFailed
from AnyMC3DLib.errors import AnyMC3DError, Cancelled
from AnyMC3DLib.messages import LogNote, ProgressNote
from AnyMC3DLib.protocol import INTERNAL_ERROR, INVALID_PARAMS, Decoder, Request, Response, request_line
from AnyMC3DLib.transport import WorkerDied, WorkerProcess, ending_in_words
from AnyMC3DLib.workspace import BASE_VARIABLE, NAME

WAIT_S = 60.0
IDENTITY = [[1.0, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]
# The real worker with other jobs: by the name of the plugin they compute for ever, print, crash or wait.
STAND_IN = """
import logging, os, sys, threading
from pathlib import Path
from AnyMC3DLib import worker
from AnyMC3DLib.progress import Progress

class Jobs:
    def __init__(self, workspace):
        self.workspace = workspace

    def run(self, params, control, progress):
        progress(Progress("Working", 1, 1000))
        return getattr(self, getattr(params, "path", type(params).__name__.lower()).replace(" ", "_"))(control) or {}

    def release(self):
        pass

    def compute_for_ever(self, control):
        number = 0
        while True:
            number += 1

    def wait(self, control):
        while True:
            control.check()

    def train(self, control):
        while not control.stopping:
            pass
        Path(os.environ["WRITTEN"]).write_text("plugin")

    def print(self, control):
        print("noise", flush=True)
        sys.__stdout__.write("more noise\\n")
        sys.__stdout__.flush()
        os.write(1, b"noise without an end")
        os.system("echo noise of a child")

    def read(self, control):
        return {"array": repr(sys.stdin.read()) + repr(os.read(0, 10))}

    def log(self, control):
        logging.getLogger("AnyMC3DLib.test").info("Told to the client.")
        logging.getLogger("elsewhere").info("Told to nobody.")

    def crash(self, control):
        os.kill(os.getpid(), 11)

    def leave(self, control):
        sys.stderr.write("Some noise\\nThe computer is on fire.\\n")
        os._exit(7)

    def array(self, control):
        import numpy
        place = self.workspace.new_file()
        numpy.save(place, numpy.arange(24.0).reshape(2, 3, 4))
        return {"array": str(place)}

worker.load_jobs = Jobs
worker.main([])
"""
UNIX = pytest.mark.skipif(os.name == "nt", reason="Windows has no signals")


def stand_in(folder: Path, **options: Any) -> WorkerProcess:
    environment = {BASE_VARIABLE: str(folder), "WRITTEN": str(folder / "written")}
    return WorkerProcess(arguments=("-c", STAND_IN), environment=environment, **options)


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[WorkerProcess]:
    with stand_in(tmp_path) as process:
        yield process


class Started:
    """Waits for the first progress of a request: it runs."""

    def __init__(self) -> None:
        self._seen = threading.Event()

    def __call__(self, note: ProgressNote) -> None:
        if note.step == "Working":
            self._seen.set()

    def wait(self) -> None:
        assert self._seen.wait(WAIT_S)


def running(worker: WorkerProcess, path: str) -> Any:
    started = Started()
    request = worker.request("load", {"path": path}, on_progress=started)
    started.wait()
    return request


def raw_worker(folder: Path) -> subprocess.Popen[bytes]:
    """A worker that no transport looks after, past its hello."""
    process = subprocess.Popen(
        [sys.executable, "-c", STAND_IN],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, BASE_VARIABLE: str(folder), "WRITTEN": str(folder / "written")},
    )
    process.stdin.write(request_line(0, "hello", {}))
    process.stdin.flush()
    process.stdout.readline()
    return process


def folders(base: Path) -> list[Path]:
    return [place for place in base.iterdir() if NAME.fullmatch(place.name)]


def test_the_worker_greets_before_the_heavy_libraries_are_imported() -> None:
    code = (
        "import sys; import AnyMC3DLib.worker\n"
        "heavy = {'torch', 'timm', 'numpy', 'SimpleITK', 'monai'} & set(sys.modules); assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_hello_tells_the_process_and_its_private_folder(worker: WorkerProcess, tmp_path: Path) -> None:
    answer = worker.start()
    assert answer["pid"] == worker.pid
    assert worker.folder == Path(answer["folder"]) and worker.folder.parent == tmp_path.resolve()
    if os.name != "nt":
        assert stat.S_IMODE(worker.folder.stat().st_mode) == 0o700


def test_what_libraries_print_never_reaches_the_protocol(worker: WorkerProcess) -> None:
    for _ in range(3):
        assert worker.call("load", {"path": "print"}, timeout=WAIT_S) == {}
    assert worker.call("load", {"path": "array"}, timeout=WAIT_S)
    text = "\n".join(worker.log_lines)
    assert "noise" in text and "more noise" in text and "noise of a child" in text


def test_what_libraries_read_never_takes_from_the_protocol(worker: WorkerProcess) -> None:
    assert worker.call("load", {"path": "read"}, timeout=WAIT_S)["array"] == "''b''"


def test_the_log_comes_as_notifications(tmp_path: Path) -> None:
    notes: list[LogNote] = []
    with stand_in(tmp_path, on_log=notes.append) as worker:
        worker.call("load", {"path": "log"}, timeout=WAIT_S)
    assert LogNote(level="info", message="Told to the client.") in notes
    assert not any("nobody" in note.message for note in notes)


def test_progress_comes_while_a_job_is_silent(worker: WorkerProcess) -> None:
    notes, enough = list[ProgressNote](), threading.Event()

    def on_progress(note: ProgressNote) -> None:
        notes.append(note)
        if len(notes) == 6:
            enough.set()

    request = worker.request("load", {"path": "compute for ever"}, on_progress=on_progress)
    assert enough.wait(WAIT_S)
    times = [note.elapsed_s for note in notes]
    assert times[0] == 0 and times == sorted(times) and times[-1] > times[1]
    assert {note.id for note in notes} == {request.id}


def test_a_running_job_is_cancelled(worker: WorkerProcess) -> None:
    request = running(worker, "wait")
    assert worker.cancel(request).result(WAIT_S) == {"request": request.id}
    with pytest.raises(Cancelled):
        request.result(WAIT_S)


def test_errors_come_as_exceptions_with_their_code(worker: WorkerProcess) -> None:
    with pytest.raises(RequestFailed, match="lacks the field 'path'") as caught:
        worker.call("load", {}, timeout=WAIT_S)
    assert caught.value.code == INVALID_PARAMS
    with pytest.raises(RequestFailed, match="AttributeError") as caught:
        worker.call("load", {"path": "no such plan"}, timeout=WAIT_S)
    assert caught.value.code == INTERNAL_ERROR


def test_requests_from_several_threads_get_their_own_answers(worker: WorkerProcess) -> None:
    found: dict[int, Any] = {}

    def ask(number: int) -> None:
        found[number] = worker.take_array(worker.call("load", {"path": "array"}, timeout=WAIT_S)).sum()

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT_S)
    assert found == dict.fromkeys(range(8), 276.0)


def test_arrays_go_by_files_that_do_not_stay(worker: WorkerProcess) -> None:
    place = worker.put_array(np.ones((2, 3, 4), dtype=np.int16))
    assert np.load(place).dtype == np.int16
    image = {"array": place, "ijk_to_ras": IDENTITY}
    with pytest.raises(RequestFailed):
        worker.call("classify", {"images": {"image": image}}, timeout=WAIT_S)
    result = worker.call("load", {"path": "array"}, timeout=WAIT_S)
    assert worker.take_array(result).shape == (2, 3, 4)
    assert list(worker.folder.iterdir()) == []
    with pytest.raises(WorkerDied, match="gone"):
        worker.take_array(result)


def test_closing_ends_the_process_and_its_folder(tmp_path: Path) -> None:
    worker = stand_in(tmp_path)
    worker.start()
    request = running(worker, "compute for ever")
    waiting = worker.request("load", {"path": "wait"})
    worker.close()
    for one in (request, waiting):
        with pytest.raises(Cancelled):
            one.result(WAIT_S)
    assert not worker.running
    assert folders(tmp_path) == []
    worker.close()
    with pytest.raises(WorkerDied, match="start it again"):
        worker.request("hello")


def test_a_worker_can_be_started_again(tmp_path: Path) -> None:
    worker = stand_in(tmp_path)
    for _ in range(2):
        worker.start()
        assert worker.call("load", {"path": "print"}, timeout=WAIT_S) == {}
        worker.close()


@UNIX
@pytest.mark.parametrize(
    ("path", "sentence"),
    [
        ("crash", r"^The worker ended unexpectedly, by the signal SIGSEGV\.$"),
        ("leave", r"^The worker ended unexpectedly, with exit code 7\. It said: The computer is on fire\.$"),
    ],
)
def test_when_the_worker_dies_all_requests_say_why_and_another_can_be_started(
    worker: WorkerProcess, tmp_path: Path, path: str, sentence: str
) -> None:
    requests = [worker.request("load", {"path": path}), worker.request("load", {"path": "print"})]
    for request in requests:
        with pytest.raises(WorkerDied, match=sentence):
            request.result(WAIT_S)
    assert folders(tmp_path) == []
    with pytest.raises(WorkerDied):
        worker.request("hello")
    worker.start()
    assert worker.call("load", {"path": "print"}, timeout=WAIT_S) == {}


def test_a_killed_worker_is_said_to_be_killed(worker: WorkerProcess) -> None:
    request = running(worker, "compute for ever")
    psutil.Process(worker.pid).kill()
    with pytest.raises(WorkerDied, match="SIGKILL.*memory" if os.name != "nt" else "exit code"):
        request.result(WAIT_S)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"python": "no-such-python"}, "'no-such-python' cannot be started"),
        ({"arguments": ("-c", "import sys; sys.exit('There is no torch on this computer.')")}, "no torch"),
        ({"arguments": ("-c", "import no_such_package")}, "ModuleNotFoundError: No module named 'no_such_package'"),
        ({"arguments": ("-c", "")}, "with exit code 0"),
    ],
)
def test_a_worker_that_does_not_come_up_is_an_error_in_a_sentence(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(WorkerDied, match=sentence), WorkerProcess(**options):
        pass


def test_without_a_start_there_is_nothing_to_ask() -> None:
    worker = WorkerProcess()
    assert worker.pid is None and not worker.running
    for ask in (lambda: worker.request("hello"), lambda: worker.put_array([1])):
        with pytest.raises(WorkerDied, match="start it first"):
            ask()
    worker.close()


def test_the_end_of_input_ends_a_worker_that_computes_for_ever(tmp_path: Path) -> None:
    process = raw_worker(tmp_path)
    process.stdin.write(request_line(1, "load", {"path": "compute for ever"}))
    process.stdin.flush()
    assert b"progress" in process.stdout.readline()
    assert len(folders(tmp_path)) == 1
    process.stdin.close()
    assert process.wait(WAIT_S) == 0
    assert folders(tmp_path) == []
    process.stdout.close()


def test_the_end_of_input_lets_a_training_write_its_plugin(tmp_path: Path) -> None:
    process = raw_worker(tmp_path)
    process.stdin.write(request_line(1, "train", {"task": "a", "data": "b", "out": "c"}))
    process.stdin.flush()
    assert b"progress" in process.stdout.readline()
    process.stdin.close()
    # The parent may even have closed the other end.
    process.stdout.close()
    assert process.wait(WAIT_S) == 0
    assert (tmp_path / "written").read_text() == "plugin"
    assert folders(tmp_path) == []


@UNIX
def test_a_killed_worker_leaves_a_folder_that_the_next_one_sweeps(tmp_path: Path) -> None:
    process = raw_worker(tmp_path)
    (left,) = folders(tmp_path)
    (left / "study.npy").write_bytes(b"voxels")
    process.kill()
    process.wait()
    process.stdin.close()
    process.stdout.close()
    assert folders(tmp_path) == [left]
    with stand_in(tmp_path) as worker:
        assert folders(tmp_path) == [worker.folder]


@UNIX
def test_a_worker_that_is_told_to_terminate_removes_its_folder(tmp_path: Path) -> None:
    with raw_worker(tmp_path) as process:
        process.terminate()
        assert process.wait(WAIT_S) == 128 + signal.SIGTERM
        assert folders(tmp_path) == []


@UNIX
def test_control_c_in_the_terminal_is_left_to_the_client(worker: WorkerProcess) -> None:
    os.kill(worker.pid, signal.SIGINT)
    assert worker.call("load", {"path": "print"}, timeout=WAIT_S) == {}


def test_two_workers_have_a_folder_each(worker: WorkerProcess, tmp_path: Path) -> None:
    with stand_in(tmp_path) as other:
        assert len(folders(tmp_path)) == 2
        assert other.folder != worker.folder
    assert folders(tmp_path) == [worker.folder]


def test_a_folder_that_cannot_be_made_is_said_in_a_sentence(tmp_path: Path) -> None:
    worker = stand_in(tmp_path / "nowhere")
    with pytest.raises(AnyMC3DError, match="It said: No folder can be made"):
        worker.start()


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (-signal.SIGTERM, "by the signal SIGTERM"),
        (-99, "by the signal 99"),
        (3, "with exit code 3"),
        (0xC0000005, "it crashed (0xC0000005)"),
    ],
)
def test_an_exit_code_is_told_in_words(code: int, words: str) -> None:
    assert ending_in_words(code) == words


def test_every_line_of_a_conversation_is_a_message(tmp_path: Path) -> None:
    process = raw_worker(tmp_path)
    process.stdin.write(b"{\n[]\n" + request_line(1, "load", {"path": "print"}) + request_line(2, "shutdown", {}))
    process.stdin.flush()
    messages = list(Decoder().feed(process.stdout.read()))
    assert all(isinstance(message, (Request, Response)) for message in messages)
    assert [m.id for m in messages if isinstance(m, Response)][:2] == [None, None]
    assert {m.id for m in messages if isinstance(m, Response)} == {None, 1, 2}
    assert process.wait(WAIT_S) == 0
    process.stdin.close()
    process.stdout.close()
