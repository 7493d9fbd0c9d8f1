"""A training on a worker of its own: what is asked of it and told of it, and once the real worker from end to end."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import worker_desk
from AnyMC3DUI.train_runs import TrainRuns
from AnyMC3DUI.train_session import TrainSession, Work
from AnyMC3DUI.worker_client import WorkerClient
from training_desk import FakeClient
from worker_desk import REPOSITORY, spin, worker_python

from AnyMC3DLib.errors import Cancelled, InputError
from AnyMC3DLib.messages import EpochNote, Estimate, ProgressNote, Train
from AnyMC3DLib.plugin import read_spec
from AnyMC3DLib.training.presets import TrainChoices, task_of
from AnyMC3DLib.transport import WorkerDied
from AnyMC3DLib.workspace import BASE_VARIABLE

ORDER = Train(task={}, data="cases.csv", run="run")
ESTIMATE = Estimate(task={}, data="cases.csv")
SUSPENDED = {"suspended": True, "run": "run", "epochs": []}


class Told:
    """What a listener was told, in order."""

    def __init__(self) -> None:
        self.works: list[Work] = []
        self.steps: list[str] = []
        self.epochs: list[EpochNote] = []
        self.ends: list[tuple[Any, ...]] = []
        self.at_epoch: Callable[[EpochNote], None] = lambda note: None

    def changed(self, work: Work) -> None:
        self.works.append(work)

    def progressed(self, note: ProgressNote) -> None:
        self.steps.append(note.step)

    def epoch_ended(self, note: EpochNote) -> None:
        self.epochs.append(note)
        self.at_epoch(note)

    def estimated(self, estimate: Mapping[str, Any]) -> None:
        self.ends.append(("estimated", estimate))

    def not_estimated(self, sentence: str) -> None:
        self.ends.append(("not estimated", sentence))

    def finished(self, answer: Mapping[str, Any]) -> None:
        self.ends.append(("finished", answer))

    def paused(self, answer: Mapping[str, Any], asked: Work) -> None:
        self.ends.append(("paused", asked))

    def failed(self, sentence: str, *, died: bool) -> None:
        self.ends.append(("failed", sentence, died))


@pytest.fixture
def desk() -> tuple[TrainSession, FakeClient, Told]:
    client, told = FakeClient(), Told()
    return TrainSession(client, told), client, told


Desk = tuple[TrainSession, FakeClient, Told]


def test_a_training_is_told_from_its_beginning_to_its_end(desk: Desk) -> None:
    session, client, told = desk
    session.train(ORDER)
    assert session.training and client.last.params is ORDER
    client.last.tells("Cutting slices")
    client.last.ends_epoch("warm-up", 1, 2)
    client.last.done({"suspended": False, "plugin": "p"})
    assert told.works == [Work.TRAINING, Work.IDLE] and not session.training
    assert told.steps == ["Cutting slices"] and [note.epoch for note in told.epochs] == [1]
    assert told.ends == [("finished", {"suspended": False, "plugin": "p"})]


@pytest.mark.parametrize(("wish", "method", "work"), [
    ("pause", "suspend", Work.PAUSING), ("stop", "stop", Work.STOPPING),
])  # fmt: skip
def test_a_wish_before_the_job_runs_waits_for_it_and_is_sent_once(
    desk: Desk, wish: str, method: str, work: Work
) -> None:
    session, client, _told = desk
    session.train(ORDER)
    getattr(session, wish)()
    assert client.asked == ["train"] and session.work is work and session.training
    for number in range(3):
        client.requests[0].tells("Cutting slices", number, 3)
    assert client.asked == ["train", method]
    # The job may have ended meanwhile.
    client.last.failed(InputError("Nothing trains."))
    assert session.work is work


def test_a_second_wish_changes_nothing(desk: Desk) -> None:
    session, client, told = desk
    session.train(ORDER)
    client.last.tells("Cutting slices")
    session.pause()
    session.stop()
    session.pause()
    assert client.asked == ["train", "suspend"]
    client.requests[0].done(SUSPENDED)
    assert told.ends == [("paused", Work.PAUSING)] and client.closed == [0]


def test_a_pause_that_nobody_asked_for_says_so(desk: Desk) -> None:
    session, client, told = desk
    session.train(ORDER)
    client.last.done(SUSPENDED)
    assert told.ends == [("paused", Work.TRAINING)]


@pytest.mark.parametrize(("error", "died"), [(InputError("No."), False), (Cancelled("No."), False),
                                             (WorkerDied("No."), True)])  # fmt: skip
def test_a_failure_is_told_once_and_the_next_training_can_begin(desk: Desk, error: Exception, died: bool) -> None:
    session, client, told = desk
    session.train(ORDER)
    client.last.failed(error)
    client.requests[0].done(SUSPENDED)
    assert told.ends == [("failed", "No.", died)] and not session.training
    session.train(ORDER)
    assert session.training


def test_one_training_at_a_time(desk: Desk) -> None:
    session, client, _told = desk
    session.train(ORDER)
    for begin in (lambda: session.train(ORDER), lambda: session.estimate(ESTIMATE)):
        with pytest.raises(InputError, match="A training goes on"):
            begin()
    assert client.asked == ["train"]


def test_an_estimate_is_told_and_leaves_the_worker_warm_for_the_training(desk: Desk) -> None:
    session, client, told = desk
    session.estimate(ESTIMATE)
    assert session.work is Work.ESTIMATING and not session.training
    session.pause()
    client.last.done({"minutes": 3})
    assert told.ends == [("estimated", {"minutes": 3})] and client.closed == []


def test_a_training_lets_an_estimate_go(desk: Desk) -> None:
    session, client, told = desk
    session.estimate(ESTIMATE)
    session.train(ORDER)
    assert client.cancelled == client.requests[:1] and client.asked == ["estimate", "train"]
    client.requests[0].failed(Cancelled("The work was cancelled."))
    client.requests[0].tells("Estimating")
    assert told.ends == [] and told.steps == [] and session.training


def test_after_the_close_nothing_is_told(desk: Desk) -> None:
    session, client, told = desk
    session.train(ORDER)
    session.close(wait_ms=5)
    client.last.tells("Cutting slices")
    client.last.ends_epoch("warm-up", 1, 2)
    client.last.failed(WorkerDied("It was ended."))
    assert client.closed == [5] and told.ends == [] and told.steps == [] and told.epochs == []
    assert told.works == [Work.TRAINING, Work.IDLE]


# The real worker

MATERIAL = """
import sys
from pathlib import Path
folder = Path(sys.argv[1])
from shell import findable_backbone, write_medmnist
findable_backbone(folder)[1].rename(folder / "weights.safetensors")
write_medmnist(folder / "blobs.npz")
"""


class Bench:
    """A session on a real worker of its own."""

    def __init__(self, folder: Path) -> None:
        worker_desk.application()
        self.folder, self.told = folder, Told()
        self.client = WorkerClient(python=worker_python(), environment={BASE_VARIABLE: str(folder)})
        self.session = TrainSession(self.client, self.told)

    def end(self) -> tuple[Any, ...]:
        spin(lambda: self.told.ends)
        (end,) = self.told.ends
        return end

    def close(self) -> None:
        self.session.close()
        spin(lambda: self.client.gone)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Tiny images, and the weights of a tiny backbone."""
    paths = os.pathsep.join([str(REPOSITORY), str(REPOSITORY / "Testing" / "Lib")])
    environment = {**os.environ, "PYTHONPATH": paths}
    made = subprocess.run(
        [worker_python(), "-c", MATERIAL, str(tmp_path)], env=environment, capture_output=True, text=True
    )
    assert made.returncode == 0, made.stderr
    return tmp_path


def choices() -> TrainChoices:
    return TrainChoices(
        name="Blob", classes=("0", "1"), task_type="binary", backbone="timm:test_vit",
        preset="as stored (0 to 255)", size=32, count=4, epochs=12,
    )  # fmt: skip


def test_a_training_is_estimated_paused_and_gone_on_with_by_another_session(folder: Path) -> None:
    common = {"task": task_of(choices()).to_dict(), "data": str(folder / "blobs.npz"), "method": "lora",
              "weights": str(folder / "weights.safetensors"), "device": "cpu"}  # fmt: skip
    first = Bench(folder)
    first.session.estimate(Estimate(**common))
    what, estimate = first.end()
    assert what == "estimated", estimate
    assert estimate["minutes"] > 0 and estimate["memory_bytes"] > 0 and estimate["fits"]
    first.told.ends.clear()

    order = TrainRuns(folder / "blobs.npz").begin(Train(**common, run="runs"))
    first.told.at_epoch = lambda note: first.session.pause() if note.phase == "training" else None
    first.session.train(order)
    assert first.end() == ("paused", Work.PAUSING)
    before = [(note.phase, note.epoch, note.loss) for note in first.told.epochs]
    assert ("training", 12) not in [(phase, epoch) for phase, epoch, _ in before]
    # It gives the memory back, and another application may go on.
    spin(lambda: first.client.gone)
    first.close()

    unfinished = TrainRuns(folder / "blobs.npz").unfinished()
    assert str(unfinished.folder) == order.run and unfinished.name == "Blob"
    second = Bench(folder)
    second.session.train(unfinished.order)
    what, answer = second.end()
    assert what == "finished", answer
    told = [(note.phase, note.epoch, note.loss) for note in second.told.epochs]
    assert told[: len(before)] == before
    assert [(phase, epoch) for phase, epoch, _ in told] == [
        *(("warm-up", n) for n in range(1, 51)), *(("training", n) for n in range(1, 13)),
    ]  # fmt: skip
    assert any(step.startswith("Training, epoch") for step in second.told.steps)
    spec = read_spec(Path(answer["plugin"]))
    assert spec.name == "Blob" and spec.provenance["recipe"]["epochs"] == 12
    assert answer["hardest"] and Path(answer["report"]).is_file() and json.dumps(answer["figures"])
    assert TrainRuns(folder / "blobs.npz").unfinished() is None
    second.close()
