"""A suite computes each row once, whoever is killed in between, and keeps what failed with its reason."""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import small_suite
from small_suite import contents, read_small, run_small, write_data, write_suite

from AnyMC3DLib.benchmark.claims import claimed
from AnyMC3DLib.benchmark.methods import METHODS
from AnyMC3DLib.benchmark.rows import ResultsTable, Row
from AnyMC3DLib.benchmark.running import Running, in_order, minutes_left, run_suite
from AnyMC3DLib.control import Control
from AnyMC3DLib.errors import Cancelled, InputError

FROZEN = {"methods": ["probe", "frozen"], "shares": [0.5, 1.0]}
# Random weights, so that batch norms learn in one of them.
TUNED = {"methods": ["anymc3d", "full"], "epochs": 2}
UNIX = pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGKILL")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data of the small suite."""
    return write_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def suite(data: Path) -> Path:
    """Frozen rows and one that is tuned."""
    return write_suite(data, FROZEN, TUNED)


@pytest.fixture(scope="module")
def undisturbed(suite: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results of a run that was left alone."""
    results = tmp_path_factory.mktemp("undisturbed")
    summary = run_small(suite, results)
    assert (summary.done, summary.failed) == (6, 0)
    return results


def test_every_method_trains_and_is_measured_by_the_same_trainer(data: Path, tmp_path: Path) -> None:
    on_slices = [name for name, method in METHODS.items() if method.takes_backbone]
    # The other 3D networks differ by their layers alone, and are larger.
    suite = write_suite(data, {"methods": on_slices}, {"methods": ["densenet121-3d"], "sizes": [32]}, name="all")
    assert run_small(suite, tmp_path).failed == 0
    rows = ResultsTable(tmp_path).rows()
    assert {row.config.method for row in rows} == {*on_slices, "densenet121-3d"}
    for row in rows:
        assert row.status == "done" and row.parameters > 0 and row.epochs == row.planned, row.config.method
        assert row.cases == small_suite.COUNTS
        assert np.isfinite([row.figure(name) for name in ("auroc", "auprc", "brier", "accuracy")]).all()
        assert len(ResultsTable(tmp_path).predictions(row.key).ids) == small_suite.COUNTS["test"]


def test_a_method_answers_above_chance_on_what_it_can_learn(undisturbed: Path) -> None:
    found = {
        row.config.method: row.figure("auroc")[0] for row in ResultsTable(undisturbed).rows() if row.config.share == 1
    }
    found.pop("full")  # two epochs from random weights
    assert min(found.values()) > 0.8, found


def test_a_second_run_computes_nothing(suite: Path, undisturbed: Path) -> None:
    before = {place: place.stat().st_mtime_ns for place in (undisturbed / "rows").iterdir()}
    summary = run_small(suite, undisturbed)
    assert (summary.done, summary.there) == (0, 6)
    assert before == {place: place.stat().st_mtime_ns for place in (undisturbed / "rows").iterdir()}


def test_a_suite_that_was_extended_computes_the_new_rows_alone(
    data: Path, suite: Path, undisturbed: Path, tmp_path: Path
) -> None:
    for place in ("rows", "predictions"):
        (tmp_path / place).mkdir()
        for file in (undisturbed / place).iterdir():
            (tmp_path / place / file.name).write_bytes(file.read_bytes())
    more = write_suite(data, FROZEN, TUNED, {"methods": ["frozen"], "fusions": ["max"]}, name="more")
    summary = run_small(more, tmp_path)
    assert (summary.done, summary.there) == (1, 6)


@UNIX
@pytest.mark.parametrize("moments", [(40,), (90, 60), (15, 15, 200)])
def test_a_suite_that_was_killed_ends_with_the_table_of_one_that_was_not(
    moments: tuple[int, ...], suite: Path, undisturbed: Path, tmp_path: Path
) -> None:
    there: set[str] = set()
    for moment in moments:
        process = multiprocessing.get_context("fork").Process(
            target=small_suite.run_until_killed, args=(suite, tmp_path, moment)
        )
        process.start()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        rows = {place.name for place in (tmp_path / "rows").glob("[0-9a-f]*.json")}
        assert there <= rows
        there = rows
    times = {name: (tmp_path / "rows" / name).stat().st_mtime_ns for name in there}
    assert run_small(suite, tmp_path).there == len(there)
    assert times == {name: (tmp_path / "rows" / name).stat().st_mtime_ns for name in there}
    assert contents(tmp_path) == contents(undisturbed)
    assert not list((tmp_path / "working").iterdir())
    assert not list((tmp_path / "claims").iterdir())


def test_embeddings_from_the_cache_change_no_answer(suite: Path, undisturbed: Path, tmp_path: Path) -> None:
    configs, datasets = read_small(suite)
    alone = [config for config in configs if config.method == "frozen" and config.share == 1]
    run_suite(alone, datasets, Running(results=tmp_path, apart=False))
    (row,) = ResultsTable(tmp_path).rows()
    expected = ResultsTable(undisturbed).predictions(row.key).probabilities
    assert np.allclose(ResultsTable(tmp_path).predictions(row.key).probabilities, expected, atol=1e-5)
    assert any(row.reused for row in ResultsTable(undisturbed).rows())


def test_a_row_that_fails_is_kept_with_its_reason_and_tried_again_when_asked(data: Path, tmp_path: Path) -> None:
    suite = write_suite(data, {"methods": ["frozen"], "views": [["coronal"], ["axial"]]}, name="faulty")
    summary = run_small(suite, tmp_path)
    assert (summary.done, summary.failed) == (1, 1)
    (failed,) = [row for row in ResultsTable(tmp_path).rows() if row.status == "failed"]
    assert failed.error == "'Balls' has no view 'coronal': it has axial."
    assert run_small(suite, tmp_path).there == 2
    assert run_small(suite, tmp_path, retry=True).failed == 1


def test_a_budget_ends_a_training_and_the_row_says_so(data: Path, tmp_path: Path) -> None:
    suite = write_suite(
        data, {"methods": ["probe"], "recipe": {"warm_up_epochs": 500}, "budget_minutes": 1e-4}, name="short"
    )
    run_small(suite, tmp_path)
    (row,) = ResultsTable(tmp_path).rows()
    assert row.status == "done" and row.epochs < row.planned == 500
    assert row.cut == f"The budget of 0.0001 minutes ended the training after {row.epochs} of 500 epochs."


def test_parts_are_all_rows_and_none_twice(suite: Path, tmp_path: Path) -> None:
    configs, datasets = read_small(suite)
    frozen = [config for config in configs if config.method in ("probe", "frozen")]
    for number in (1, 2, 3):
        run_suite(frozen, datasets, Running(results=tmp_path / str(number), part=(number, 3), apart=False))
    keys = [row.key for number in (1, 2, 3) for row in ResultsTable(tmp_path / str(number)).rows()]
    assert sorted(keys) == sorted(config.key for config in frozen)


def test_a_row_that_another_process_has_is_left_to_it(suite: Path, tmp_path: Path) -> None:
    configs, datasets = read_small(suite)
    one = [configs[0]]
    with claimed(tmp_path / "claims" / one[0].key) as mine:
        assert mine
        assert run_suite(one, datasets, Running(results=tmp_path, apart=False)).elsewhere == 1
    assert run_suite(one, datasets, Running(results=tmp_path, apart=False)).done == 1


def test_the_claim_of_a_process_that_is_gone_is_void(tmp_path: Path) -> None:
    place = tmp_path / "claim"
    with claimed(place) as mine:
        assert mine
        owner = json.loads(place.read_text(encoding="utf-8"))
    place.write_text(json.dumps({**owner, "since": owner["since"] - 1000}), encoding="utf-8")
    with claimed(place) as mine:
        assert mine
    assert not place.exists()


def test_the_claim_of_another_machine_holds_until_it_was_not_touched_for_minutes(tmp_path: Path) -> None:
    place = tmp_path / "claim"
    place.write_text(json.dumps({"machine": "another", "process": 1, "since": 0.0}), encoding="utf-8")
    with claimed(place) as mine:
        assert not mine
    old = place.stat().st_mtime - 1000
    os.utime(place, (old, old))
    with claimed(place) as mine:
        assert mine


def test_a_suite_that_is_cancelled_says_so_and_keeps_what_is_done(suite: Path, tmp_path: Path) -> None:
    control = Control()
    configs, datasets = read_small(suite)

    def stop_at_the_third(told: object) -> None:
        if told.number == 3:
            control.cancel()

    with pytest.raises(Cancelled):
        run_suite(
            configs, datasets, Running(results=tmp_path, apart=False), progress=stop_at_the_third, control=control
        )
    assert len(ResultsTable(tmp_path).rows()) == 2


def test_a_row_whose_file_was_changed_is_not_believed(undisturbed: Path, tmp_path: Path) -> None:
    row = ResultsTable(undisturbed).rows()[0]
    changed = row.to_dict()
    changed["config"]["seed"] = 7
    (tmp_path / "rows").mkdir()
    (tmp_path / "rows" / f"{row.key}.json").write_text(json.dumps(changed), encoding="utf-8")
    with pytest.raises(InputError, match="changed by hand"):
        ResultsTable(tmp_path).row(row.key)
    assert ResultsTable(tmp_path).rows() == []


def test_a_damaged_row_is_computed_again_and_stops_no_other(suite: Path, undisturbed: Path, tmp_path: Path) -> None:
    shutil.copytree(undisturbed, tmp_path / "results")
    places = sorted((tmp_path / "results" / "rows").iterdir())
    places[0].write_text("{", encoding="utf-8")
    places[1].write_bytes(b"\xff\xfe")
    summary = run_small(suite, tmp_path / "results")
    assert (summary.done, summary.there) == (2, 4)
    assert contents(tmp_path / "results") == contents(undisturbed)


def test_a_row_in_a_process_of_its_own_is_the_same_row(suite: Path, undisturbed: Path, tmp_path: Path) -> None:
    configs, datasets = read_small(suite)
    told: list[object] = []
    run_suite(configs[:1], datasets, Running(results=tmp_path, threads=1), progress=told.append)
    (row,) = ResultsTable(tmp_path).rows()
    assert row.status == "done", row.error
    expected = ResultsTable(undisturbed).predictions(row.key).probabilities
    assert np.allclose(ResultsTable(tmp_path).predictions(row.key).probabilities, expected, atol=1e-5)
    assert any(one.step is not None and one.step.step == "Warming up on frozen embeddings" for one in told)
    assert row.peak_mb > 0


@UNIX
def test_a_row_whose_process_is_killed_fails_and_the_suite_goes_on(suite: Path, tmp_path: Path) -> None:
    configs, datasets = read_small(suite)

    def kill_children(told: object) -> None:
        if told.number == 1 and told.step is not None:
            for child in multiprocessing.active_children():
                child.kill()

    summary = run_suite(configs[:2], datasets, Running(results=tmp_path), progress=kill_children)
    assert (summary.done, summary.failed) == (1, 1)
    (failed,) = [row for row in ResultsTable(tmp_path).rows() if row.status == "failed"]
    assert "ended from outside (signal 9)" in failed.error


def test_an_unforeseen_error_is_the_row_s_and_not_the_suite_s(suite: Path, tmp_path: Path) -> None:
    configs, datasets = read_small(suite)
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "working").write_text("no folder", encoding="utf-8")
    summary = run_suite(configs[:1], datasets, Running(results=tmp_path / "results", cache=tmp_path / "cache"))
    assert summary.failed == 1
    (row,) = ResultsTable(tmp_path / "results").rows()
    assert row.error and "\n" not in row.error


def test_the_time_left_is_that_of_rows_alike(suite: Path) -> None:
    configs, _ = read_small(suite)
    rows = [Row(key=c.key, config=c, status="done", minutes=10 * c.share) for c in configs if c.method == "probe"]
    wanted = [dataclasses.replace(configs[0], share=0.3)]
    assert minutes_left(rows, wanted) == pytest.approx(3.0)
    assert minutes_left([], wanted) is None
    assert minutes_left(rows, [*wanted, dataclasses.replace(wanted[0], method="mst")]) is None
    assert minutes_left(rows, [dataclasses.replace(wanted[0], budget_minutes=1.0)]) == pytest.approx(1.0)


def test_quick_rows_come_first_and_those_that_share_embeddings_together(suite: Path) -> None:
    configs, _ = read_small(suite)
    assert {c.method for c in in_order(configs)[-2:]} == {"anymc3d", "full"}


def test_two_processes_on_one_folder_compute_each_row_once(suite: Path, undisturbed: Path, tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    done = context.SimpleQueue()
    processes = [context.Process(target=small_suite.run_and_tell, args=(suite, tmp_path, done)) for _ in range(2)]
    for process in processes:
        process.start()
    counts = [done.get() for _ in processes]
    for process in processes:
        process.join()
    assert sum(counts) == len(contents(undisturbed))
    assert set(contents(tmp_path)) == set(contents(undisturbed))
