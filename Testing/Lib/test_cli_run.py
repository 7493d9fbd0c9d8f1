"""`anymc3d train` with a run folder: figures, methods, folds, and going on after a polite end."""

from __future__ import annotations

import csv
import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest
from shell import anymc3d
from test_cli import Bench, bench, few_resamples  # noqa: F401

from AnyMC3DLib.commands import train as train_command
from AnyMC3DLib.plugin import load_members, read_spec
from AnyMC3DLib.progress import Progress
from AnyMC3DLib.training import run as run_room


@pytest.fixture(autouse=True)
def own_allocator(monkeypatch: pytest.MonkeyPatch) -> None:
    # Those settings would stay for all the tests that come after.
    monkeypatch.setattr(train_command, "keep_freed_memory", lambda: True)


@pytest.fixture
def arguments(bench: Bench, tmp_path: Path) -> list[str | Path]:  # noqa: F811
    return [
        "train", "--task", bench.task, "--data", bench.data, "--backbone", "timm:test_vit", "--run", tmp_path / "run",
        *bench.computing,
    ]  # fmt: skip


def test_a_run_leaves_its_plugin_its_figures_and_its_pictures(
    arguments: list[str | Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert anymc3d(*arguments, "--test-splits", "test", "--cache", tmp_path / "cache") == 0
    run = tmp_path / "run"
    assert "figures are in" in capsys.readouterr().out
    assert {"plugin.safetensors", "predictions.csv", "metrics.json", "config.json", "environment.json", "plots",
            "report.html", "state"} == {path.name for path in run.iterdir()}  # fmt: skip
    figures = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
    assert set(figures) == {"validation", "test"}
    for split in figures.values():
        (lesion,) = split["classes"].values()
        assert {"auroc", "auprc", "balanced_accuracy", "f1", "sensitivity", "specificity", "brier", "ece"} <= set(
            lesion
        )
    with (run / "predictions.csv").open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert {row["split"] for row in rows} == {"validation", "test"}
    text = "".join(
        (run / name).read_text(encoding="utf-8") for name in ("config.json", "environment.json", "report.html")
    )
    assert str(tmp_path) not in text and os.uname().nodename not in text
    assert json.loads((run / "config.json").read_text(encoding="utf-8"))["task"]["training"]["seed"] == 0
    assert len(list((tmp_path / "cache").iterdir())) > 0


def test_a_run_that_is_asked_to_end_saves_its_state_and_goes_on_to_the_same_plugin(
    arguments: list[str | Path], bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,  # noqa: F811
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    whole = tmp_path / "whole"
    assert anymc3d(*arguments[:-6], "--run", whole, *bench.computing) == 0
    asking = run_room._asking

    def asked(control: object, progress: object) -> object:
        inner = asking(control, progress)

        def told(step: Progress) -> None:
            inner(step)
            if step.step.startswith("Training, epoch 2"):
                os.kill(os.getpid(), signal.SIGTERM)

        return told

    monkeypatch.setattr(run_room, "_asking", asked)
    assert anymc3d(*arguments) == 1
    assert "go on with --resume" in capsys.readouterr().err
    monkeypatch.setattr(run_room, "_asking", asking)
    assert not (tmp_path / "run" / "plugin.safetensors").exists()
    assert anymc3d(*arguments) == 1
    assert "holds a run already" in capsys.readouterr().err
    assert anymc3d(*arguments, "--resume") == 0
    expected, found = (read_spec(folder / "plugin.safetensors") for folder in (whole, tmp_path / "run"))
    assert found.provenance["epochs"] == expected.provenance["epochs"]
    (one,) = load_members(whole / "plugin.safetensors", expected)
    (other,) = load_members(tmp_path / "run" / "plugin.safetensors", found)
    assert all(one[name].equal(other[name]) for name in one)
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_a_run_goes_on_with_what_it_was_begun_with_alone(
    arguments: list[str | Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert anymc3d(*arguments) == 0
    assert anymc3d(*arguments, "--resume", "--seed", "5") == 1
    assert "begun with another task" in capsys.readouterr().err


@pytest.mark.parametrize(("method", "fusion"), [("frozen", "attention"), ("probe", "mean")])
def test_what_leaves_the_backbone_alone_has_no_adapters(
    arguments: list[str | Path], tmp_path: Path, method: str, fusion: str
) -> None:
    assert anymc3d(*arguments, "--method", method) == 0
    spec = read_spec(tmp_path / "run" / "plugin.safetensors")
    assert (spec.lora.rank, spec.fusion.kind) == (0, fusion)


def test_a_whole_backbone_that_is_trained_stays_in_the_run_and_is_no_plugin(
    arguments: list[str | Path],
    bench: Bench,  # noqa: F811
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert anymc3d(*arguments, "--method", "full") == 0
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert "model.safetensors" in names and "plugin.safetensors" not in names
    assert anymc3d(*arguments[:-6], "--out", tmp_path / "p.safetensors", *bench.computing, "--method", "full") == 1
    assert "name it with --run" in capsys.readouterr().err


def test_folds_give_one_plugin_of_several_members_and_figures_of_cases_that_no_member_has_seen(
    arguments: list[str | Path], tmp_path: Path
) -> None:
    assert anymc3d(*arguments, "--folds", "3") == 0
    place = tmp_path / "run" / "plugin.safetensors"
    spec = read_spec(place)
    assert spec.members == len(load_members(place, spec)) == 3
    figures = spec.provenance["validation"]
    assert len(figures["auc_by_fold"]) == 3 and figures["auc_mean"] == pytest.approx(np.mean(figures["auc_by_fold"]))
    with (tmp_path / "run" / "predictions.csv").open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert {row["split"] for row in rows} == {"out of fold"}
    assert len({row["case"] for row in rows}) == len(rows)


@pytest.mark.parametrize(
    "words",
    [
        ["--resume"],
        ["--folds", "1"],
        ["--frozen", "--method", "full"],
        ["--run", "r", "--folds", "2", "--test-splits", "test"],
    ],
)
def test_options_that_do_not_go_together_are_a_wrong_use(words: list[str]) -> None:
    assert anymc3d("train", "--task", "t", "--data", "d", "--out", "o", *words) == 2
