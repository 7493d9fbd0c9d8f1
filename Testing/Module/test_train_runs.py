"""The runs beside a table: what is written before a training begins, and which one can go on."""

from __future__ import annotations

import dataclasses
import datetime
import json
from pathlib import Path
from typing import Any

import pytest
from AnyMC3DUI.train_runs import TrainRuns

from AnyMC3DLib.errors import InputError
from AnyMC3DLib.messages import Train

DAY = datetime.date(2026, 11, 22)


def order(name: str = "Head lesion", **changed: Any) -> Train:
    given = {"task": {"plugin": {"name": name}}, "data": "elsewhere.csv", "run": "to be told", "epochs": 3}
    return Train(**{**given, **changed})


@pytest.fixture
def runs(tmp_path: Path) -> TrainRuns:
    return TrainRuns(tmp_path / "cases.csv")


def begun(runs: TrainRuns, name: str = "Head lesion", *, day: datetime.date = DAY, **changed: Any) -> Path:
    return Path(runs.begin(order(name, **changed), today=day).run)


def test_a_run_gets_a_folder_of_its_own_beside_the_table_with_its_order(runs: TrainRuns) -> None:
    made = runs.begin(order(folds=3, minutes=20.0), today=DAY)
    folder = runs.table.parent / "runs" / "Head-lesion-2026-11-22-1"
    assert made.run == str(folder) and made.data == str(runs.table) and not made.resume
    assert Train.from_dict(json.loads((folder / "order.json").read_text())) == made
    assert (made.folds, made.minutes) == (3, 20.0)
    assert [path.name for path in folder.iterdir() if path.name.startswith(".")] == []


def test_no_two_runs_share_a_folder_and_the_numbers_of_a_day_rise_whatever_the_name(runs: TrainRuns) -> None:
    names = [begun(runs, name).name for name in ("A", "A", "B")]
    assert names == ["A-2026-11-22-1", "A-2026-11-22-2", "B-2026-11-22-3"]


@pytest.mark.parametrize("name", ["a/b", "..", "Blutung: frisch?", "x" * 300, " ", "腫瘍"])
def test_any_name_makes_a_folder_within_the_runs(runs: TrainRuns, name: str) -> None:
    folder = begun(runs, name)
    assert folder.parent == runs.folder and folder.is_dir() and len(folder.name) < 80


def test_the_newest_run_without_a_result_goes_on_with_what_was_ordered(runs: TrainRuns) -> None:
    begun(runs, "Old", day=DAY - datetime.timedelta(days=300))
    second, _ = begun(runs, "Second", epochs=7), begun(runs, "Zero", day=DAY - datetime.timedelta(days=1))
    found = runs.unfinished()
    assert (found.folder, found.name, found.date) == (second, "Second", "2026-11-22")
    assert found.order.resume and found.order.epochs == 7
    assert found.order.run == str(second)


def test_the_tenth_run_of_a_day_is_newer_than_the_ninth(runs: TrainRuns) -> None:
    folders = [begun(runs) for _ in range(10)]
    assert runs.unfinished().folder == folders[-1]


@pytest.mark.parametrize("result", ["plugin.safetensors", "model.safetensors"])
def test_a_run_with_a_result_is_finished(runs: TrainRuns, result: str) -> None:
    (begun(runs) / result).touch()
    assert runs.unfinished() is None


def test_an_ensemble_keeps_its_state_by_fold(runs: TrainRuns) -> None:
    folder = begun(runs, folds=2)
    (folder / "state").rmdir()
    assert runs.unfinished() is None
    (folder / "fold-1" / "state").mkdir(parents=True)
    assert runs.unfinished().folder == folder


@pytest.mark.parametrize("content", [
    "", "[]", "no JSON", '{"task": {}}', '{"task": "a", "data": "cases.csv", "run": "r", "more": 1}',
    '{"task": "a", "data": "cases.csv", "run": "r", "epochs": "many"}',
])  # fmt: skip
def test_an_order_that_cannot_be_read_is_passed_over(runs: TrainRuns, content: str) -> None:
    older, newer = begun(runs, "Older"), begun(runs, "Newer")
    (newer / "order.json").write_text(content)
    assert runs.unfinished().folder == older
    (older / "order.json").unlink()
    assert runs.unfinished() is None


def test_the_runs_of_another_table_in_the_folder_are_not_taken(runs: TrainRuns, tmp_path: Path) -> None:
    begun(runs)
    assert TrainRuns(tmp_path / "others.csv").unfinished() is None
    assert TrainRuns(tmp_path / "cases.csv").unfinished() is not None


def test_a_folder_that_was_moved_goes_on_where_it_is_now(runs: TrainRuns, tmp_path: Path) -> None:
    before = tmp_path / "before"
    begun(TrainRuns(before / "cases.csv"))
    before.rename(tmp_path / "now")
    found = TrainRuns(tmp_path / "now" / "cases.csv").unfinished()
    assert found.order.data == str(tmp_path / "now" / "cases.csv")
    assert found.order.run == str(found.folder) == str(tmp_path / "now" / "runs" / "Head-lesion-2026-11-22-1")


def test_a_run_of_which_nothing_came_is_taken_away_and_one_with_a_state_stays(runs: TrainRuns) -> None:
    empty, ensemble, whole = begun(runs), begun(runs), begun(runs)
    (whole / "state" / "state-00000001.safetensors").touch()
    (ensemble / "fold-1" / "state").mkdir(parents=True)
    for folder in (empty, ensemble, whole):
        runs.discard(folder)
    assert not empty.exists() and ensemble.exists() and (whole / "order.json").exists()
    runs.discard(empty)


def test_no_runs_are_no_error(runs: TrainRuns) -> None:
    assert runs.unfinished() is None
    runs.folder.mkdir()
    (runs.folder / "notes.txt").touch()
    (runs.folder / "Other-2026-11-22-1").mkdir()
    assert runs.unfinished() is None


def test_a_place_that_takes_no_folder_is_told_in_a_sentence(runs: TrainRuns) -> None:
    runs.folder.write_text("a file")
    with pytest.raises(InputError, match="cannot hold a run"):
        runs.begin(order(), today=DAY)


def test_an_order_never_has_another_place_for_its_plugin(runs: TrainRuns) -> None:
    made = runs.begin(dataclasses.replace(order(), out="somewhere.safetensors", resume=True), today=DAY)
    assert made.out is None and not made.resume
