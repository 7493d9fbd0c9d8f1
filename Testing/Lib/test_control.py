"""What a user asks of work that is running: cancel it, pause it, stop it early; and a training that is asked."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest
from networks import tiny_backbone
from test_run import cases, task

from AnyMC3DLib.backbone import Backbone
from AnyMC3DLib.control import Control
from AnyMC3DLib.errors import Cancelled
from AnyMC3DLib.plugin import load_members, read_spec
from AnyMC3DLib.progress import Progress, ProgressCallback
from AnyMC3DLib.spec import HeadSpec
from AnyMC3DLib.training import metrics
from AnyMC3DLib.training import trainer as trainer_room
from AnyMC3DLib.training.run import TrainingResult, train_plugin
from AnyMC3DLib.training.task import TaskSpec, TrainingSpec

DEADLOCK = 60  # seconds after which a thread that should have gone on is given up


class Watched(Control):
    """Tells when work has come to where it waits."""

    def __init__(self) -> None:
        super().__init__()
        self.waiting = threading.Event()

    def check(self) -> None:
        if self.paused:
            self.waiting.set()
        super().check()

    def until_waiting(self) -> None:
        assert self.waiting.wait(DEADLOCK)
        self.waiting.clear()


@pytest.fixture
def thread() -> Iterator[Callable[..., Future]]:
    with ThreadPoolExecutor(max_workers=1) as pool:
        yield pool.submit


@pytest.fixture
def watched(thread: Callable[..., Future]) -> Iterator[Watched]:
    """A control that lets no thread wait for ever where a test fails."""
    control = Watched()
    yield control
    control.cancel()
    control.resume()


# Control


def test_work_that_is_asked_for_nothing_goes_on() -> None:
    control = Control()
    control.check()
    assert (control.cancelled, control.stopping, control.paused) == (False, False, False)


def test_cancelled_work_ends_at_its_next_check_and_at_every_one_after() -> None:
    control = Control()
    control.cancel()
    assert control.cancelled
    for _ in range(2):
        with pytest.raises(Cancelled, match=r"The work was cancelled\."):
            control.check()


def test_stopped_work_goes_on_and_knows_that_it_shall_end() -> None:
    control = Control()
    control.stop()
    control.check()
    assert (control.stopping, control.cancelled) == (True, False)


def test_paused_work_waits_until_it_is_resumed(thread: Callable[..., Future], watched: Watched) -> None:
    order: list[str] = []
    watched.pause()
    assert watched.paused
    waiting = thread(lambda: (watched.check(), order.append("went on")))
    watched.until_waiting()
    order.append("resumed")
    watched.resume()
    waiting.result(DEADLOCK)
    assert order == ["resumed", "went on"]
    assert not watched.paused


def test_cancelling_wakes_paused_work(thread: Callable[..., Future], watched: Watched) -> None:
    watched.pause()
    waiting = thread(watched.check)
    watched.until_waiting()
    watched.cancel()
    with pytest.raises(Cancelled):
        waiting.result(DEADLOCK)
    assert not watched.paused


def test_stopping_wakes_paused_work(thread: Callable[..., Future], watched: Watched) -> None:
    watched.pause()
    waiting = thread(watched.check)
    watched.until_waiting()
    watched.stop()
    waiting.result(DEADLOCK)
    assert (watched.stopping, watched.paused) == (True, False)


@pytest.mark.parametrize("ask", [Control.cancel, Control.stop])
def test_work_that_shall_end_cannot_be_paused(ask: Callable[[Control], None]) -> None:
    control = Control()
    ask(control)
    control.pause()
    assert not control.paused


def test_work_may_be_paused_and_resumed_again_and_again() -> None:
    control = Control()
    control.resume()
    for _ in range(2):
        control.pause()
        control.pause()
        assert control.paused
        control.resume()
        control.check()


def test_stopped_work_can_still_be_cancelled() -> None:
    control = Control()
    control.stop()
    control.cancel()
    with pytest.raises(Cancelled):
        control.check()


# A training


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "RESAMPLES", 20)


@pytest.fixture(scope="module")
def lent() -> Backbone:
    return tiny_backbone("test_vit", depth=1)


@pytest.fixture
def backbone(lent: Backbone) -> Iterator[Backbone]:
    """However a training ends, no adapter may stay behind."""
    yield lent
    assert lent.sites.keys == []


def course(backbone: Backbone, **recipe: object) -> TaskSpec:
    """Three warm-up epochs and two of two batches each, with a dropout that would tell another course of chance."""
    recipe = {"epochs": 2, "warm_up_epochs": 3, "batch": 4, **recipe}
    return dataclasses.replace(task(backbone, head=HeadSpec(dropout=0.3)), training=TrainingSpec(**recipe))


def trained(
    backbone: Backbone,
    place: Path,
    control: Control | None = None,
    progress: ProgressCallback | None = None,
    **recipe: object,
) -> TrainingResult:
    data = cases("train") + cases("val")
    return train_plugin(course(backbone, **recipe), data, backbone, place, control=control, progress=progress)


def at(number: int, act: Callable[[], None]) -> ProgressCallback:
    """A callback that acts when progress is told for the time `number`."""
    told: list[Progress] = []

    def progress(step: Progress) -> None:
        told.append(step)
        if len(told) == number + 1:
            act()

    return progress


def within(step: str, act: Callable[[], None]) -> ProgressCallback:
    """A callback that acts as often as progress is told of a step whose name begins so."""
    return lambda told: act() if told.step.startswith(step) else None


def steps_told(backbone: Backbone, place: Path, **recipe: object) -> list[str]:
    told: list[Progress] = []
    trained(backbone, place, progress=told.append, **recipe)
    return [progress.step for progress in told]


def test_a_training_cancelled_at_any_point_writes_nothing(backbone: Backbone, tmp_path: Path) -> None:
    points = steps_told(backbone, tmp_path / "whole")
    assert len(set(points)) == 8
    out = tmp_path / "out"
    for number in range(len(points)):
        control = Control()
        with pytest.raises(Cancelled, match="was cancelled"):
            trained(backbone, out / "plugin", control, at(number, control.cancel))
        assert not list(tmp_path.glob("out/*")), points[number]
        assert backbone.sites.keys == [], points[number]


def test_a_training_cancelled_before_it_began_writes_nothing(backbone: Backbone, tmp_path: Path) -> None:
    control = Control()
    control.cancel()
    with pytest.raises(Cancelled):
        trained(backbone, tmp_path / "plugin", control)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("mode", ["speed", "memory"])
def test_a_training_stopped_in_its_first_epoch_writes_what_it_has_reached(
    mode: str, backbone: Backbone, tmp_path: Path
) -> None:
    control, place, told = Control(), tmp_path / "plugin", []

    def progress(step: Progress) -> None:
        told.append(step)
        if step.step.startswith("Training"):
            control.stop()

    data = cases("train") + cases("val")
    result = train_plugin(course(backbone), data, backbone, place, mode=mode, control=control, progress=progress)
    assert [step.done for step in told if step.step.startswith("Training")] == [4]
    assert [(e.phase, e.epoch) for e in result.history] == [("warm-up", n) for n in (1, 2, 3)] + [("training", 1)]
    spec = read_spec(place)
    assert spec.provenance["stopped_early"] is True
    assert [(e["phase"], e["epoch"]) for e in spec.provenance["epochs"]] == [("warm-up", 3), ("training", 1)]
    assert spec.provenance["validation"]["auc"]["value"] is not None
    assert len(load_members(place, spec)) == 1


def stopping_auc(control: Control, epoch: int) -> Callable[..., float]:
    """A score that stops the work when it is asked for the time `epoch`."""
    asked: list[int] = []

    def score(*_: object) -> float:
        asked.append(1)
        if len(asked) == epoch:
            control.stop()
        return 0.5

    return score


def test_a_training_stopped_while_it_warms_up_writes_what_it_has_reached(
    backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    control, place = Control(), tmp_path / "plugin"
    monkeypatch.setattr(trainer_room, "score_of", stopping_auc(control, 2))
    result = trained(backbone, place, control)
    assert [(e.phase, e.epoch) for e in result.history] == [("warm-up", 1), ("warm-up", 2)]
    provenance = read_spec(place).provenance
    assert provenance["stopped_early"] is True
    assert [(e["phase"], e["epoch"]) for e in provenance["epochs"]] == [("warm-up", 2)]


@pytest.mark.parametrize("step", ["", "Cutting", "Embedding training", "Embedding validation"])
def test_a_training_stopped_before_an_epoch_says_that_there_is_nothing_to_keep(
    step: str, backbone: Backbone, tmp_path: Path
) -> None:
    control = Control()
    with pytest.raises(Cancelled, match=r"stopped before its first epoch ended: there is nothing to keep\."):
        trained(backbone, tmp_path / "plugin", control, within(step, control.stop))
    assert list(tmp_path.iterdir()) == []


def test_a_training_without_a_warm_up_that_is_stopped_at_once_has_nothing_to_keep(
    backbone: Backbone, tmp_path: Path
) -> None:
    control = Control()
    control.stop()
    with pytest.raises(Cancelled, match="nothing to keep"):
        trained(backbone, tmp_path / "plugin", control, warm_up_epochs=0)
    assert list(tmp_path.iterdir()) == []


def test_a_stop_that_comes_when_all_is_trained_changes_nothing(backbone: Backbone, tmp_path: Path) -> None:
    places = [tmp_path / name for name in ("whole", "stopped")]
    points = steps_told(backbone, places[0])
    control = Control()
    trained(backbone, places[1], control, at(len(points) - 1, control.stop))
    assert control.stopping
    assert "stopped_early" not in read_spec(places[1]).provenance
    assert places[1].read_bytes() == places[0].read_bytes()


def test_a_training_paused_in_every_step_ends_with_the_same_bits(
    backbone: Backbone, tmp_path: Path, thread: Callable[..., Future], watched: Watched
) -> None:
    places = [tmp_path / name for name in ("whole", "paused")]
    points = thread(steps_told, backbone, places[0]).result(DEADLOCK)
    paused: list[str] = []

    def progress(step: Progress) -> None:
        if step.step not in paused:
            paused.append(step.step)
            watched.pause()

    training = thread(trained, backbone, places[1], watched, progress)
    for number in range(len(set(points))):
        watched.until_waiting()
        assert watched.paused
        assert len(paused) == number + 1
        assert not training.done()
        assert not places[1].exists()
        watched.resume()
    training.result(DEADLOCK)
    assert paused == list(dict.fromkeys(points))
    assert places[1].read_bytes() == places[0].read_bytes()


@pytest.mark.parametrize("step", ["Cutting", "Embedding", "Training", "Validating"])
def test_a_paused_training_can_be_cancelled(
    step: str, backbone: Backbone, tmp_path: Path, thread: Callable[..., Future], watched: Watched
) -> None:
    training = thread(trained, backbone, tmp_path / "plugin", watched, within(step, watched.pause))
    watched.until_waiting()
    watched.cancel()
    with pytest.raises(Cancelled):
        training.result(DEADLOCK)
    assert list(tmp_path.iterdir()) == []


def test_a_paused_training_can_be_stopped(
    backbone: Backbone, tmp_path: Path, thread: Callable[..., Future], watched: Watched
) -> None:
    place = tmp_path / "plugin"
    training = thread(trained, backbone, place, watched, within("Training, epoch 2", watched.pause))
    watched.until_waiting()
    watched.stop()
    assert [(e.phase, e.epoch) for e in training.result(DEADLOCK).history][-2:] == [("training", 1), ("training", 2)]
    assert read_spec(place).provenance["stopped_early"] is True
