"""The worker's jobs around training: runs that are kept, suspended and gone on with, budgets, checks and figures."""

from __future__ import annotations

import dataclasses
import itertools
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from networks import plugin_spec, tiny_backbone, view, write_plugin
from shell import findable_backbone, write_medmnist
from sklearn.metrics import confusion_matrix, roc_auc_score, roc_curve
from test_worker import Desk, Notes
from volumes import study

from AnyMC3DLib import worker_training
from AnyMC3DLib.client import ClientProtocol
from AnyMC3DLib.control import Control
from AnyMC3DLib.errors import Cancelled, InputError
from AnyMC3DLib.messages import METHODS, EpochNote, Params, Train
from AnyMC3DLib.plugin import load_members, read_spec
from AnyMC3DLib.progress import Progress
from AnyMC3DLib.protocol import INVALID_PARAMS, WRONG_STATE, notification_line
from AnyMC3DLib.spec import ClassSpec, IntensitySpec
from AnyMC3DLib.training import metrics, told
from AnyMC3DLib.training.metrics import bins_of
from AnyMC3DLib.volume import write_volume
from AnyMC3DLib.worker_jobs import Jobs
from AnyMC3DLib.workspace import Workspace

ENDLESS = 100_000


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "RESAMPLES", 50)
    # Those settings of the allocator would stay for all the tests that come after.
    monkeypatch.setattr(worker_training, "keep_freed_memory", lambda: True)


class Heard:
    """What a job tells, and what a test does when it hears it."""

    def __init__(self, on_step: Callable[[str], None] | None = None) -> None:
        self.steps: list[str] = []
        self.epochs: list[dict[str, Any]] = []
        self._on_step = on_step

    def __call__(self, progress: Progress) -> None:
        self.steps.append(progress.step)
        if self._on_step is not None:
            self._on_step(progress.step)

    def epoch(self, **facts: Any) -> None:
        self.epochs.append(facts)


@dataclasses.dataclass(frozen=True)
class Bench:
    """Jobs of a worker in this process, and what there is to train on."""

    folder: Path
    weights: Path
    data: Path
    task: dict[str, Any]
    jobs: Jobs

    def order(self, **params: Any) -> dict[str, Any]:
        return {"task": self.task, "data": str(self.data), "weights": str(self.weights), "device": "cpu", **params}

    def ask(
        self, job: str, /, *, control: Control | None = None, heard: Heard | None = None, **params: Any
    ) -> dict[str, Any]:
        """The answer, which goes through JSON as it would on its way to the client."""
        read: Params = METHODS[job].from_dict(json.loads(json.dumps(params)))
        answer = self.jobs.run(read, control or Control(), heard or Heard())
        return json.loads(json.dumps(answer, allow_nan=False))

    def train(self, *, control: Control | None = None, heard: Heard | None = None, **params: Any) -> dict[str, Any]:
        return self.ask("train", control=control, heard=heard, **self.order(**params))

    def recipe(self, **training: Any) -> dict[str, Any]:
        return {**self.task, "training": {**self.task["training"], **training}}


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    backbone, weights = findable_backbone(tmp_path)
    window = IntensitySpec(kind="window", windows=((127.5, 255.0),))
    spec = plugin_spec(backbone, name="Blob", views=(view(backbone, size=(32, 32), intensity=window),)).to_dict()
    spec["backbone"] = {"id": backbone.id}
    training = {"epochs": 2, "warm_up_epochs": 2, "batch": 4, "adapter_rate": 1e-2, "head_rate": 1e-2}
    data = write_medmnist(tmp_path / "blobs.npz")
    return Bench(tmp_path, weights, data, {"plugin": spec, "training": training}, Jobs(Workspace(tmp_path)))


def states_of(path: str | Path) -> list[dict[str, Any]]:
    return load_members(path, read_spec(path))


def assert_same_plugin(one: str | Path, other: str | Path) -> None:
    for first, second in zip(states_of(one), states_of(other), strict=True):
        assert first.keys() == second.keys()
        assert all(first[name].equal(second[name]) for name in first)


def facts(epochs: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    return [(e["fold"], e["phase"], e["epoch"], e["loss"], e["score"]) for e in epochs]


# Runs


def test_a_run_leaves_its_plugin_its_page_and_its_figures(bench: Bench) -> None:
    run = bench.folder / "run"
    answer = bench.train(run=str(run), test_splits=["test"], cache=str(bench.folder / "cache"), seed=3)
    assert {"plugin.safetensors", "predictions.csv", "metrics.json", "config.json", "environment.json", "plots",
            "report.html", "state"} == {path.name for path in run.iterdir()}  # fmt: skip
    spec = read_spec(run / "plugin.safetensors")
    assert answer["plugin"] == str(run / "plugin.safetensors") and answer["report"] == str(run / "report.html")
    assert answer["run"] == str(run) and not answer["suspended"] and not answer["stopped_early"]
    assert answer["parameters"] == spec.provenance["parameters"] and answer["minutes"] >= 0
    assert answer["figures"] == json.loads(json.dumps(spec.provenance["validation"]))
    assert set(json.loads((run / "metrics.json").read_text())) == {"validation", "test"}
    assert spec.provenance["recipe"]["seed"] == 3 and answer["excluded"] == {}
    assert str(bench.folder) not in (run / "config.json").read_text()
    assert any((bench.folder / "cache").iterdir())


def test_without_a_run_the_plugin_alone_is_written(bench: Bench) -> None:
    out = bench.folder / "alone.safetensors"
    answer = bench.train(out=str(out), val_splits=[], epochs=1)
    assert (answer["plugin"], answer["run"], answer["report"]) == (str(out), None, None)
    assert answer["hardest"] == [] and answer["figures"] == {}
    assert [(e["phase"], e["epoch"], e["score"]) for e in answer["epochs"]] == [
        ("warm-up", 1, None), ("warm-up", 2, None), ("training", 1, None),
    ]  # fmt: skip


def test_the_hardest_cases_come_first_with_their_loss(bench: Bench) -> None:
    hardest = bench.train(out=str(bench.folder / "p.safetensors"))["hardest"]
    losses = [case["loss"] for case in hardest]
    assert len(hardest) == 8 and losses == sorted(losses, reverse=True)
    assert losses == pytest.approx([-np.log(case["probabilities"][case["target"]]) for case in hardest])
    assert {case["case"] for case in hardest} == {f"val-{n}" for n in range(8)}


@pytest.mark.parametrize(("method", "fusion"), [("frozen", "attention"), ("probe", "mean")])
def test_the_method_is_that_which_is_asked_for(bench: Bench, method: str, fusion: str) -> None:
    answer = bench.train(run=str(bench.folder / "run"), method=method, val_splits=[])
    spec = read_spec(answer["plugin"])
    assert (spec.lora.rank, spec.fusion.kind) == (0, fusion)


def test_a_whole_backbone_is_trained_and_the_loaded_plugin_answers_as_before(bench: Bench) -> None:
    write_plugin(bench.folder / "one", findable_backbone(bench.folder)[0], name="One")
    write_volume(bench.folder / "study.nrrd", study())
    bench.ask("load", path=str(bench.folder / "one"), weights=str(bench.weights), device="cpu")

    def said() -> dict[str, float]:
        answer = bench.ask("classify", images={"image": {"file": str(bench.folder / "study.nrrd")}}, maps="none")
        return answer["predictions"]["One"]["probabilities"]

    before, run = said(), bench.folder / "run"
    answer = bench.train(run=str(run), method="full", epochs=1)
    assert answer["plugin"] is None and answer["report"] == str(run / "report.html")
    assert "model.safetensors" in {path.name for path in run.iterdir()}
    assert said() == before


# Suspending, and what is told of epochs


@pytest.mark.parametrize(
    ("folds", "moment"),
    [(None, "Embedding training"), (None, "Training, epoch 2"), (2, "Fold 2 of 2: Training, epoch 1")],
)
def test_a_suspended_training_goes_on_to_the_plugin_of_an_undisturbed_one(
    bench: Bench, folds: int | None, moment: str
) -> None:
    whole = Heard()
    expected = bench.train(run=str(bench.folder / "whole"), folds=folds, heard=whole)
    run, control = str(bench.folder / "run"), Control()

    def suspend(step: str) -> None:
        if step.startswith(moment):
            control.suspend()

    first, second = Heard(suspend), Heard()
    answer = bench.train(run=run, folds=folds, control=control, heard=first)
    assert answer == {"suspended": True, "run": run, "epochs": answer["epochs"]}
    assert facts(answer["epochs"]) == facts(first.epochs) == facts(whole.epochs)[: len(first.epochs)]
    assert not (Path(run) / "plugin.safetensors").exists()
    if first.epochs:
        with pytest.raises(InputError, match="holds a run already"):
            bench.train(run=run, folds=folds)
    answer = bench.train(run=run, folds=folds, resume=True, heard=second)
    assert_same_plugin(answer["plugin"], expected["plugin"])
    # Those that were before the end are told again, so that a plot is whole.
    assert second.epochs == whole.epochs
    assert answer["epochs"] == expected["epochs"] and answer["hardest"] == expected["hardest"]


def test_epochs_are_told_in_order_with_their_number_and_their_fold(bench: Bench) -> None:
    heard = Heard()
    answer = bench.train(run=str(bench.folder / "run"), folds=2, epochs=3, heard=heard)
    phases = [("warm-up", 1, 2), ("warm-up", 2, 2), *(("training", n, 3) for n in (1, 2, 3))]
    assert [(e["fold"], e["phase"], e["epoch"], e["epochs"]) for e in heard.epochs] == [
        (fold, *phase) for fold in (1, 2) for phase in phases
    ]
    assert facts(answer["epochs"]) == facts(heard.epochs)
    assert all(e["loss"] > 0 for e in heard.epochs)
    # Where a look costs an embedding, a fold's own cases are looked at once, when its member is done.
    looked = [e["score"] is not None for e in heard.epochs]
    assert looked == 2 * [True, True, False, False, True]
    assert all(0 <= e["score"] <= 1 for e in heard.epochs if e["score"] is not None)
    assert len({case["case"] for case in answer["hardest"]}) == 20


class Notified(Desk):
    """A server with the jobs of a bench."""

    def __init__(self, bench: Bench) -> None:
        super().__init__(bench.folder)
        self.jobs = bench.jobs
        self.ask("hello", "hello")

    def told(self, method: str) -> list[dict[str, Any]]:
        return [line["params"] for line in self.lines if line.get("method") == method]

    def begin(self, bench: Bench, **params: Any) -> None:
        """A training without an end, of which an epoch has ended."""
        self.ask(1, "train", **bench.order(task=bench.recipe(epochs=ENDLESS), val_splits=[], **params))
        self.wait(lambda: bool(self.told("epoch")))


@pytest.fixture
def desk(bench: Bench) -> Iterator[Notified]:
    result = Notified(bench)
    yield result
    if not result.left:
        result.ask("last", "shutdown")
        result.wait(lambda: bool(result.left))


def test_a_suspend_is_answered_and_then_the_training_with_what_it_told(bench: Bench, desk: Notified) -> None:
    run = str(bench.folder / "run")
    desk.begin(bench, run=run)
    desk.ask(2, "suspend")
    assert desk.answer(2)["result"] == {"request": 1}
    answer = desk.answer(1)["result"]
    assert answer["suspended"] and answer["run"] == run
    notes = [EpochNote.from_dict(note) for note in desk.told("epoch")]
    assert facts([note.to_dict() for note in notes]) == facts(answer["epochs"])
    assert {note.id for note in notes} == {1}
    assert list((Path(run) / "state").iterdir())


def test_what_has_no_run_cannot_be_suspended_and_goes_on(bench: Bench, desk: Notified) -> None:
    desk.ask(0, "suspend")
    assert desk.code(0) == WRONG_STATE
    desk.begin(bench, out=str(bench.folder / "p.safetensors"))
    desk.ask(2, "suspend")
    refusal = desk.answer(2)["error"]
    assert refusal["code"] == WRONG_STATE and "no run folder" in refusal["message"]
    desk.ask(3, "stop")
    assert desk.answer(1)["result"]["stopped_early"]


def test_the_end_of_input_suspends_a_training_with_a_run(bench: Bench, desk: Notified) -> None:
    run = bench.folder / "run"
    desk.begin(bench, run=str(run))
    desk.end_input()
    desk.wait(lambda: desk.left == [0])
    assert desk.answer(1)["result"]["suspended"]
    assert list((run / "state").iterdir()) and not (run / "plugin.safetensors").exists()


def test_the_worker_is_shut_down_only_once_a_training_with_a_run_has_saved_itself(bench: Bench, desk: Notified) -> None:
    run = bench.folder / "run"
    desk.begin(bench, run=str(run))
    desk.ask(2, "shutdown")
    desk.wait(lambda: desk.left == [0])
    assert desk.answer(1)["result"]["suspended"]
    assert list((run / "state").iterdir())


def test_a_frozen_plugin_that_is_suspended_at_its_end_has_its_state(bench: Bench) -> None:
    run, control = str(bench.folder / "run"), Control()
    heard = Heard()
    heard.epoch = lambda **facts: control.suspend() if facts["epoch"] == 2 else None
    assert bench.train(run=run, method="frozen", control=control, heard=heard)["suspended"]
    assert list((Path(run) / "state").iterdir())
    answer = bench.train(run=run, method="frozen", resume=True)
    assert_same_plugin(answer["plugin"], bench.train(run=str(bench.folder / "whole"), method="frozen")["plugin"])


@pytest.mark.parametrize("first", [{"method": "frozen"}, {}, {"folds": 2}])
def test_a_run_that_is_there_is_not_written_over(bench: Bench, first: dict[str, Any]) -> None:
    run = bench.folder / "run"
    bench.train(run=str(run), **first)
    before = (run / "plugin.safetensors").read_bytes()
    for second in ({"method": "frozen", "seed": 3}, {"folds": 2}, {}):
        with pytest.raises(InputError, match="holds a run already"):
            bench.train(run=str(run), **second)
    assert (run / "plugin.safetensors").read_bytes() == before


def test_a_task_is_the_same_in_a_file_and_in_the_request(bench: Bench) -> None:
    place = bench.folder / "task.json"
    place.write_text(json.dumps(bench.task), encoding="utf-8")
    one = bench.train(out=str(bench.folder / "one.safetensors"))
    other = bench.train(out=str(bench.folder / "other.safetensors"), task=str(place))
    assert_same_plugin(one["plugin"], other["plugin"])
    with pytest.raises(InputError, match="unknown field 'epoch'"):
        bench.train(out=str(bench.folder / "p.safetensors"), task=bench.recipe(epoch=3))


def test_the_end_of_input_lets_a_training_without_a_run_write_its_plugin(bench: Bench, desk: Notified) -> None:
    out = bench.folder / "p.safetensors"
    desk.begin(bench, out=str(out))
    desk.end_input()
    desk.wait(lambda: desk.left == [0])
    assert read_spec(out).provenance["stopped_early"]


def test_epochs_are_sent_however_fast_they_come_and_never_after_the_answer() -> None:
    notes = Notes()
    given = {"phase": "training", "epochs": 9, "loss": 0.5, "score": None, "fold": None}
    notes.sender.epoch(epoch=1, **given)
    notes.sender.start(7, "Preparing")
    for number in range(2, 9):
        notes.sender.epoch(epoch=number, **given)
    notes.sender.finish()
    notes.sender.epoch(epoch=9, **given)
    epochs = [note for note in notes.notes if isinstance(note, EpochNote)]
    assert [note.epoch for note in epochs] == list(range(2, 9))
    assert epochs[0] == EpochNote(id=7, epoch=2, **given)


def test_a_client_hears_of_the_epochs_of_its_own_request() -> None:
    lines, heard, progress = [], [], []
    client = ClientProtocol(lines.append)
    silent = client.request("train", done=lambda _: None, failed=lambda _: None)
    own = client.request("train", done=lambda _: None, failed=lambda _: None, progress=progress.append,
                         epoch=heard.append)  # fmt: skip
    notes = [EpochNote(id=n, phase="training", epoch=1, epochs=2, loss=0.25, fold=2) for n in (silent, own, 99)]
    for note in notes:
        client.receive(notification_line("epoch", note.to_dict()))
    assert heard == [notes[1]] and progress == []


# A time budget


class FakeTimer:
    """A timer that goes off when a test says so."""

    made: list[FakeTimer] = []

    def __init__(self, seconds: float, function: Callable[[], None]) -> None:
        self.seconds, self.go_off = seconds, function
        self.state = "made"
        FakeTimer.made.append(self)

    def start(self) -> None:
        self.state = "started"

    def cancel(self) -> None:
        self.state = "cancelled"


@pytest.fixture
def timers(monkeypatch: pytest.MonkeyPatch) -> list[FakeTimer]:
    FakeTimer.made = []
    monkeypatch.setattr(threading, "Timer", FakeTimer)
    return FakeTimer.made


def at(moment: str, timers: list[FakeTimer]) -> Heard:
    """The budget passes when that step is told."""
    return Heard(lambda step: timers[0].go_off() if step.startswith(moment) else None)


def test_a_budget_ends_the_training_early_with_a_plugin(bench: Bench, timers: list[FakeTimer]) -> None:
    order = {"task": bench.recipe(epochs=ENDLESS), "minutes": 1.5}
    answer = bench.train(run=str(bench.folder / "run"), heard=at("Training, epoch 2", timers), **order)
    assert timers[0].seconds == 90 and timers[0].state == "cancelled"
    assert answer["stopped_early"] and not answer["suspended"]
    assert [e["epoch"] for e in answer["epochs"] if e["phase"] == "training"] == [1, 2]
    assert read_spec(answer["plugin"]).provenance["stopped_early"]


def test_a_budget_that_no_epoch_fits_into_is_no_cancellation(bench: Bench, timers: list[FakeTimer]) -> None:
    with pytest.raises(InputError, match=r"within 2 minutes"):
        bench.train(run=str(bench.folder / "run"), minutes=2, heard=at("Opening", timers))
    assert timers[0].state == "cancelled"


def test_folds_that_a_budget_does_not_suffice_for_go_on_another_time(bench: Bench, timers: list[FakeTimer]) -> None:
    run = str(bench.folder / "run")
    answer = bench.train(run=run, folds=2, minutes=1, heard=at("Fold 1 of 2: Training, epoch 1", timers))
    assert answer["suspended"]
    whole = bench.train(run=str(bench.folder / "whole"), folds=2)
    assert_same_plugin(bench.train(run=run, folds=2, resume=True)["plugin"], whole["plugin"])


@pytest.mark.parametrize("moment", ["Fold 2 of 2: Cutting", "Fold 2 of 2: Embedding training"])
def test_a_fold_that_has_not_begun_to_learn_is_gone_on_with_too(
    bench: Bench, timers: list[FakeTimer], moment: str
) -> None:
    run = str(bench.folder / "run")
    assert bench.train(run=run, folds=2, minutes=1, heard=at(moment, timers))["suspended"]
    again = Heard()
    answer = bench.train(run=run, folds=2, resume=True, heard=again)
    assert not any(step.startswith("Fold 1 of 2: Training") for step in again.steps)
    assert_same_plugin(answer["plugin"], bench.train(run=str(bench.folder / "whole"), folds=2)["plugin"])


def test_an_ensemble_says_that_any_of_its_folds_ended_early(bench: Bench, timers: list[FakeTimer]) -> None:
    heard = at("Fold 2 of 2: Training, epoch 1", timers)
    answer = bench.train(run=str(bench.folder / "run"), folds=2, minutes=1, heard=heard)
    assert answer["stopped_early"] and len(states_of(answer["plugin"])) == 2


def test_without_a_budget_no_timer_runs_and_a_cancelled_training_stays_cancelled(
    bench: Bench, timers: list[FakeTimer]
) -> None:
    control = Control()
    with pytest.raises(Cancelled):
        bench.train(out=str(bench.folder / "p"), control=control, heard=Heard(lambda _: control.cancel()))
    assert [timer.state for timer in timers] == ["cancelled"]
    bench.train(out=str(bench.folder / "p"), epochs=1)
    assert [timer.seconds for timer in timers] == [0, 0]


# Requests that cannot be


@pytest.mark.parametrize(
    ("params", "words"),
    [
        ({}, "'out', 'run' or both"),
        ({"out": "o", "resume": True}, "'run' with 'resume'"),
        ({"out": "o", "method": "full"}, "give 'run'"),
        ({"out": "o", "run": "r", "method": "full"}, "leave 'out' away"),
        ({"run": "r", "method": "full", "folds": 2}, "without 'folds'"),
        ({"run": "r", "method": "none"}, "lora, frozen, probe, full"),
        ({"run": "r", "folds": 1}, "at least 2"),
        ({"run": "r", "folds": 2, "test_splits": ["test"]}, "'test_splits'"),
        ({"out": "o", "folds": 2, "minutes": 5}, "give 'run' with 'minutes'"),
        ({"out": "o", "minutes": 0}, "above 0"),
        ({"out": "o", "epochs": -1}, "at least 0"),
        ({"out": "o", "every_minutes": -1}, "at least 0"),
        ({"out": "o", "cache_gb": -1}, "at least 0"),
        ({"out": "o", "allow_unreadable": -1}, "at least 0"),
        ({"out": "o", "seed": -1}, "seed"),
        ({"out": "o", "minuets": 5}, "'minuets'"),
    ],
)
def test_what_does_not_go_together_is_refused_in_a_sentence(params: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=r"^\S.*[^.]\.$") as caught:
        Train.from_dict({"task": "t", "data": "d", **params})
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_a_refused_training_never_begins(desk: Notified) -> None:
    desk.ask(1, "train", task="t", data="d", out="o", resume=True)
    assert desk.code(1) == INVALID_PARAMS


@pytest.mark.parametrize(("places", "words"), [({"out": "p"}, "stays in the folder"), ({"out": "p", "run": "r"}, "no")])
def test_a_task_that_trains_the_whole_backbone_needs_a_run_alone(
    bench: Bench, places: dict[str, str], words: str
) -> None:
    whole = bench.recipe(method="full")
    whole["plugin"] = {**whole["plugin"], "lora": {"rank": 0}}
    with pytest.raises(InputError, match=words):
        bench.train(task=whole, **places)


# Checking and estimating


def table(folder: Path) -> Path:
    write_volume(folder / "a.nrrd", study())
    rows = ["case,image,label,split", "a,a.nrrd,normal,train", "b,absent.nrrd,lesion,train", "c,a.nrrd,wrong,val"]
    (folder / "cases.csv").write_text("\n".join(rows))
    return folder / "cases.csv"


@pytest.mark.parametrize("kind", ["none", "file", "plugin alone"])
def test_a_table_is_checked_with_a_task_or_without(bench: Bench, kind: str) -> None:
    place, heard = table(bench.folder), Heard()
    (bench.folder / "task.json").write_text(json.dumps(bench.task))
    task = {"none": None, "file": str(bench.folder / "task.json"), "plugin alone": {"plugin": bench.task["plugin"]}}
    report = bench.ask("check", data=str(place), task=task[kind], heard=heard)
    assert report["totals"] == {"train": 2, "val": 1}
    found = {(problem["line"], problem["kind"]) for problem in report["problems"]}
    assert (3, "missing file") in found
    # Without a task each label is a class.
    assert ((4, "unknown label") in found) == (kind != "none")
    assert set(heard.steps) == {"Checking cases"}


def test_a_check_is_cancelled_between_cases(bench: Bench) -> None:
    control, heard = Control(), Heard(lambda _: control.cancel())
    with pytest.raises(Cancelled):
        bench.ask("check", data=str(table(bench.folder)), control=control, heard=heard)
    assert len(heard.steps) == 1


def test_an_estimate_is_asked_for_with_the_task_as_it_would_be_trained(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    estimate = pytest.importorskip("AnyMC3DLib.training.estimate")
    asked: list[tuple[Any, dict[str, Any]]] = []

    class Told:
        def to_dict(self) -> dict[str, Any]:
            return {"minutes": 3.5}

    def stub(task: Any, cases: Any, backbone: Any, **options: Any) -> Told:
        asked.append((task, {**options, "cases": len(cases), "backbone": backbone.id}))
        return Told()

    monkeypatch.setattr(estimate, "estimate_training", stub)
    assert bench.ask("estimate", **bench.order(method="probe", epochs=7, folds=3, step="memory")) == {"minutes": 3.5}
    ((task, options),) = asked
    assert (task.plugin.fusion.kind, task.training.epochs) == ("mean", 7)
    assert (options["folds"], options["mode"], options["cases"]) == (3, "memory", 30)
    assert (options["train_splits"], options["validation_splits"]) == (("train",), ("val",))


def test_an_estimate_tells_minutes_and_memory(bench: Bench) -> None:
    pytest.importorskip("AnyMC3DLib.training.estimate")
    answer = bench.ask("estimate", **bench.order())
    assert answer["minutes"] > 0 and answer["memory_bytes"] > 0 and isinstance(answer["fits"], bool)


# Evaluating


@pytest.fixture
def measured(bench: Bench) -> dict[str, Any]:
    bench.train(out=str(bench.folder / "p.safetensors"), epochs=1, val_splits=[])
    return bench.ask("evaluate", **evaluation(bench))


def evaluation(bench: Bench, **params: Any) -> dict[str, Any]:
    given = {"plugin": str(bench.folder / "p.safetensors"), "data": str(bench.data), "splits": ["test", "val"]}
    return {**given, "weights": str(bench.weights), "device": "cpu", **params}


def truth_of(answer: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    cases = answer["predictions"]
    return (
        np.array([case["target"] == "lesion" for case in cases]),
        np.array([case["probabilities"]["lesion"] for case in cases]),
    )


def test_an_evaluation_has_the_curves_of_scikit_learn(measured: dict[str, Any]) -> None:
    truth, scores = truth_of(measured)
    assert measured["cases"] == len(truth) == 18 and set(measured["curves"]) == {"lesion"}
    false, true, _ = roc_curve(truth, scores)
    curve = measured["curves"]["lesion"]
    assert np.allclose(curve["roc"], np.stack([false, true], axis=1))
    results = measured["results"]["classes"]["lesion"]
    area = roc_auc_score(truth, scores)
    assert results["auroc"]["value"] == pytest.approx(area) and measured["auc"]["value"] == pytest.approx(area)
    assert results["auroc"]["low"] <= area <= results["auroc"]["high"]
    bins = [bins_of(scores)[:, n] for n in range(metrics.BINS)]
    expected = [[scores[b].mean(), truth[b].mean(), b.sum()] for b in bins if b.any()]
    assert np.allclose(curve["reliability"], expected)
    weighted = sum(count * abs(mean - share) for mean, share, count in curve["reliability"]) / len(truth)
    assert results["ece"]["value"] == pytest.approx(weighted)


def test_an_evaluation_counts_what_was_decided_for_each_class(measured: dict[str, Any]) -> None:
    truth, scores = truth_of(measured)
    assert measured["confusion"]["classes"] == ["normal", "lesion"]
    assert measured["confusion"]["counts"] == confusion_matrix(truth, scores >= 0.5).tolist()
    wrong = [case["wrong"] for case in measured["predictions"]]
    assert wrong == ((scores >= 0.5) != truth).tolist()
    counts = np.array(measured["confusion"]["counts"])
    assert sum(wrong) == counts.sum() - np.trace(counts)


def test_an_evaluation_against_another_plugin_has_its_figures_too(bench: Bench, measured: dict[str, Any]) -> None:
    write_plugin(bench.folder / "other", findable_backbone(bench.folder)[0], name="Other", seed=5,
                 views=read_spec(bench.folder / "p.safetensors").views)  # fmt: skip
    answer = bench.ask("evaluate", **evaluation(bench, against=str(bench.folder / "other")))
    other = bench.ask("evaluate", **evaluation(bench, plugin=str(bench.folder / "other")))
    assert answer["against"] == {"plugin": "Other", "auc": other["auc"], "accuracy": other["accuracy"]}
    difference = measured["auc"]["value"] - other["auc"]["value"]
    assert answer["auc_difference"]["value"] == pytest.approx(difference)
    assert "against" not in measured and "auc_difference" not in measured


def several(task_type: str) -> Any:
    return plugin_spec(tiny_backbone("test_vit", depth=1), task_type=task_type)


def test_a_roc_curve_has_at_most_200_points_from_corner_to_corner() -> None:
    rng = np.random.default_rng(0)
    targets, probabilities = rng.integers(0, 3, 3000), rng.dirichlet(np.ones(3), 3000)
    found = told.curves(several("multiclass"), targets, probabilities)
    assert list(found) == ["normal", "mild", "severe"]
    for k, curve in enumerate(found.values()):
        points = curve["roc"]
        assert len(points) == 200 and points[0] == [0, 0] and points[-1] == [1, 1]
        assert all(a[0] <= b[0] and a[1] <= b[1] for a, b in itertools.pairwise(points))
        area = np.trapezoid(np.array(points)[:, 1], np.array(points)[:, 0])
        assert area == pytest.approx(roc_auc_score(targets == k, probabilities[:, k]), abs=0.005)


def test_labels_that_are_missing_are_null_and_count_for_nothing() -> None:
    spec = several("multilabel")
    targets = np.array([[1, -1, 0], [-1, -1, -1], [0, 1, -1], [1, 1, -1]])
    probabilities = np.array([[0.9, 0.9, 0.2], [0.5, 0.5, 0.5], [1.0, 0.4, 0.5], [0.7, 0.9, 0.1]])
    cases = told.predictions(spec, ["a", "b", "c", "d"], targets, probabilities)
    assert cases[0]["target"] == {"normal": 1, "mild": None, "severe": 0}
    assert [case["wrong"] for case in cases] == [False, False, True, False]
    hard = told.hardest(spec, ["a", "b", "c", "d"], targets, probabilities)
    assert [case["case"] for case in hard] == ["c", "d", "a"] and np.isfinite(hard[0]["loss"])
    assert hard[2]["loss"] == pytest.approx(-(np.log(0.9) + np.log(0.8)) / 2)
    assert told.confusion(spec, targets, probabilities) is None
    found = told.curves(spec, targets, probabilities)
    assert found["mild"]["roc"] == [] and found["severe"]["reliability"] == [[pytest.approx(0.2), 0.0, 1]]
    assert json.dumps([cases, hard, found], allow_nan=False)


def test_a_plugin_decides_at_its_own_threshold() -> None:
    classes = (ClassSpec(name="normal"), ClassSpec(name="lesion", threshold=0.2))
    spec = dataclasses.replace(several("binary"), classes=classes)
    targets, probabilities = np.array([0, 0, 1]), np.array([[0.9, 0.1], [0.7, 0.3], [0.75, 0.25]])
    assert told.confusion(spec, targets, probabilities)["counts"] == [[1, 1], [0, 1]]
    cases = told.predictions(spec, ["a", "b", "c"], targets, probabilities)
    assert [case["wrong"] for case in cases] == [False, True, False]
