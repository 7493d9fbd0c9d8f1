"""A plugin measured through the real worker, and a way out at every moment."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import prepared  # noqa: F401 - the texts need Slicer's translations
import pytest
import worker_desk
from AnyMC3DUI.evaluate_rows import figure_table, wrong_cases
from AnyMC3DUI.evaluate_session import EvaluateSession, in_order
from AnyMC3DUI.loaded_plugins import LoadedPlugins
from AnyMC3DUI.plugin_folder import read_card
from AnyMC3DUI.session import Doing
from AnyMC3DUI.worker_client import WorkerClient
from worker_desk import Known, spin

from AnyMC3DLib.errors import InputError
from AnyMC3DLib.workspace import BASE_VARIABLE

# With few resamples: an interval of 2000 takes seconds.
QUICK_WORKER = (
    "-c",
    "from AnyMC3DLib import worker; from AnyMC3DLib.training import metrics; metrics.RESAMPLES = 50; worker.main([])",
)
COUNTS = {"train": 6, "val": 4, "test": 12}


class Told:
    """What a listener was told, in order."""

    def __init__(self) -> None:
        self.doings: list[Doing] = []
        self.ends: list[tuple[str, Any]] = []

    def progressed(self, doing: Doing) -> None:
        self.doings.append(doing)

    def finished(self, answer: Mapping[str, Any]) -> None:
        self.ends.append(("finished", answer))

    def failed(self, sentence: str) -> None:
        self.ends.append(("failed", sentence))

    def cancelled(self) -> None:
        self.ends.append(("cancelled", None))


class Desk:
    """A session on a worker, and a table of cases."""

    def __init__(self, known: Known, cases: Path) -> None:
        worker_desk.application()
        self.known, self.cases, self.told = known, cases, Told()
        environment = {BASE_VARIABLE: str(known.folder)}
        self.client = WorkerClient(environment=environment, python=known.python, arguments=QUICK_WORKER)
        self.session = EvaluateSession(self.client, self.told)

    def begin(self, plugin: str = "one", **options: Any) -> None:
        self.told.__init__()
        given = {"splits": ["test"], "weights": self.known.weights(), "device": "cpu", **options}
        self.session.evaluate(self.known.plugin(plugin), self.cases, **given)

    def end(self, plugin: str = "one", **options: Any) -> tuple[str, Any]:
        self.begin(plugin, **options)
        spin(lambda: self.told.ends)
        assert len(self.told.ends) == 1 and not self.session.busy
        return self.told.ends[0]


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> Known:
    return worker_desk.make_known(tmp_path_factory.mktemp("known"))


@pytest.fixture(scope="module")
def shared(known: Known) -> Iterator[Desk]:
    rng, arrays = np.random.default_rng(0), {}
    for split, count in COUNTS.items():
        arrays[f"{split}_images"] = rng.integers(0, 255, (count, 6, 24, 24)).astype(np.uint8)
        arrays[f"{split}_labels"] = np.arange(count)[:, None] % 2
    np.savez(known.folder / "cases.npz", **arrays)
    desk = Desk(known, known.folder / "cases.npz")
    yield desk
    desk.session.close()
    desk.client.close()
    spin(lambda: desk.client.gone)


def test_a_plugin_is_measured_and_the_answer_can_be_shown(shared: Desk) -> None:
    word, answer = shared.end()
    assert word == "finished", answer
    assert answer["cases"] == COUNTS["test"] and answer["plugin"] == "One"
    figures = figure_table(answer)
    assert figures.columns == ("lesion",) and figures.rows[0].name == "AUC"
    assert float(figures.rows[0].cells[0].split()[0]) == pytest.approx(answer["auc"]["value"], abs=0.006)
    wrong = wrong_cases(answer)
    assert [one.fault for one in wrong] == sorted((one.fault for one in wrong), reverse=True)
    assert len(wrong) == sum(one["wrong"] for one in answer["predictions"])
    counts = np.array(answer["confusion"]["counts"])
    assert len(wrong) == counts.sum() - np.trace(counts)
    # Which answer is wrong follows the worker's decision at the plugin's threshold.
    assert all(one.answer != one.truth for one in wrong)
    assert shared.told.doings


def test_two_plugins_are_compared_on_the_same_cases(shared: Desk) -> None:
    word, answer = shared.end(against=shared.known.plugin("one"), splits=["test", "val"])
    assert word == "finished", answer
    assert answer["cases"] == COUNTS["test"] + COUNTS["val"]
    rows = {row.name: row.cells for row in figure_table(answer).rows}
    assert rows["AUC difference"] == ("+0.00 (0.00 to 0.00)",)


def test_the_book_of_what_the_worker_holds_stays_right(shared: Desk) -> None:
    card, weights = read_card(shared.known.plugin("one")), shared.known.weights()
    book, ends = LoadedPlugins.of(shared.client), []
    book.load(card, weights, "cpu", progress=lambda _: None).begin(ends.append, ends.append)
    spin(lambda: ends)
    assert book.has(card, weights, "cpu")
    assert shared.end("other", weights=shared.known.weights("second"))[0] == "finished"
    # Asked by its name, as the next classification does: the worker has it still.
    ends.clear()
    shared.client.request("unload", {"name": card.name}, done=ends.append, failed=ends.append)
    spin(lambda: ends)
    assert ends == [{}]


def test_what_the_worker_refuses_is_one_sentence(shared: Desk) -> None:
    word, sentence = shared.end(splits=["validation"])
    assert word == "failed" and "validation" in sentence and "\n" not in sentence
    word, sentence = shared.end("other", weights=shared.known.weights("first"))
    assert word == "failed" and "\n" not in sentence
    assert shared.end()[0] == "finished"


def test_one_measurement_goes_on_at_a_time(shared: Desk) -> None:
    shared.begin()
    with pytest.raises(InputError, match="wait for it"):
        shared.session.evaluate(shared.known.plugin("one"), shared.cases, splits=["test"])
    spin(lambda: shared.told.ends)
    assert shared.told.ends[0][0] == "finished"


def test_a_cancelled_measurement_ends_at_once_and_the_worker_stays(shared: Desk) -> None:
    shared.begin()
    spin(lambda: shared.told.doings)
    starts = shared.client.starts
    shared.session.cancel()
    assert shared.told.ends == [("cancelled", None)] and not shared.session.busy
    assert shared.end()[0] == "finished" and shared.client.starts == starts
    assert shared.told.ends[0][0] == "finished"


@pytest.mark.skipif(os.name == "nt", reason="Windows has no signals")
def test_a_worker_that_dies_is_told(shared: Desk) -> None:
    shared.begin()
    spin(lambda: shared.told.doings[1:])
    os.kill(shared.client.pid, signal.SIGKILL)
    spin(lambda: shared.told.ends)
    word, sentence = shared.told.ends[0]
    assert word == "failed" and "\n" not in sentence and not shared.session.busy


def test_splits_are_offered_with_the_honest_one_first() -> None:
    assert in_order(["train", "", "val", "test", "other"]) == ["test", "val", "train"]
