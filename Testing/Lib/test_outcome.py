"""The files of a run: read back as they were written, safe to open, and silent about the machine."""

from __future__ import annotations

import csv
import dataclasses
import getpass
import json
import platform
import re
from pathlib import Path

import numpy as np
import pytest
from test_scores import TASKS, answers, spec_of

from AnyMC3DLib.errors import InputError
from AnyMC3DLib.spec import ClassSpec, PluginSpec
from AnyMC3DLib.training import metrics, outcome
from AnyMC3DLib.training.outcome import Predictions, environment_of, read_predictions, write_outcome
from AnyMC3DLib.training.scores import Results, evaluate

SPLITS = ("val", "test")
CONFIG = {"task": {"epochs": 3}, "data": "/home/somebody/study/cases.csv", "weights": "C:\\Users\\me\\dino.safetensors"}


@dataclasses.dataclass
class Epoch:
    phase: str
    epoch: int
    loss: float
    score: float


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "RESAMPLES", 20)


@pytest.fixture
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    kinds = ("roc", "precision-recall", "reliability", "confusion")
    monkeypatch.setattr(outcome, "draw_figures", lambda *_, **__: dict.fromkeys(kinds, b"picture"))


def predictions_of(task: str, count: int = 40) -> Predictions:
    targets, probabilities = answers(task, count)
    ids = tuple(f"case {n}" for n in range(count))
    splits = tuple(SPLITS[n % 2] for n in range(count))
    return Predictions(ids, splits, tuple(f"p{n // 4}" for n in range(count)), targets, probabilities)


def results_of(spec: PluginSpec, predictions: Predictions) -> dict[str, Results]:
    parts = {split: predictions.of_split(split) for split in dict.fromkeys(predictions.splits)}
    return {n: evaluate(spec, p.targets, p.probabilities, patients=p.patients) for n, p in parts.items()}


def write(folder: Path, spec: PluginSpec, predictions: Predictions, **more: object) -> Path:
    results = results_of(spec, predictions)
    environment = environment_of(device="CPU", seed=5)
    given = {"results": results, "config": CONFIG, "environment": environment, **more}
    return write_outcome(folder, spec=spec, predictions=predictions, **given)


def assert_same(found: Predictions, expected: Predictions) -> None:
    assert (found.ids, found.splits, found.patients) == (expected.ids, expected.splits, expected.patients)
    assert np.array_equal(found.targets, expected.targets)
    assert np.array_equal(found.probabilities, expected.probabilities)


@pytest.mark.parametrize("task", TASKS)
def test_predictions_are_read_back_to_the_last_digit(task: str, tmp_path: Path, no_pictures: None) -> None:
    spec, predictions = spec_of(task), predictions_of(task)
    predictions = dataclasses.replace(predictions, probabilities=predictions.probabilities / 3)
    write(tmp_path, spec, predictions)
    assert_same(read_predictions(tmp_path / "predictions.csv", spec), predictions)


def test_a_run_folder_holds_every_file(tmp_path: Path) -> None:
    history = [Epoch("warm-up", 1, 0.7, 0.6), Epoch("training", 1, 0.5, 0.8)]
    page = write(tmp_path / "run", spec_of("binary"), predictions_of("binary"), history=history)
    assert page == tmp_path / "run" / "report.html"
    files = sorted(path.relative_to(page.parent).as_posix() for path in page.parent.rglob("*") if path.is_file())
    kinds = ("confusion", "precision-recall", "reliability", "roc")
    plots = ["plots/learning.png", *(f"plots/{split}-{kind}.png" for split in ("test", "val") for kind in kinds)]
    assert files == ["config.json", "environment.json", "metrics.json", *plots, "predictions.csv", "report.html"]
    shown = re.findall(r'<img src="([^"]+)"', page.read_text(encoding="utf-8"))
    assert sorted(shown) == sorted(plots)


@pytest.mark.parametrize("task", TASKS)
def test_the_table_has_a_probability_and_a_decision_for_each_class(
    task: str, tmp_path: Path, no_pictures: None
) -> None:
    spec, predictions = spec_of(task), predictions_of(task)
    write(tmp_path, spec, predictions)
    with (tmp_path / "predictions.csv").open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    for row, target, chances in zip(rows, predictions.targets, predictions.probabilities, strict=True):
        decided = [row[f"decision: {c.name}"] for c in spec.classes]
        assert set(decided) <= {"yes", "no"}
        assert [float(row[f"probability: {c.name}"]) for c in spec.classes] == list(chances)
        if task == "multilabel":
            assert [row[f"target: {c.name}"] for c in spec.classes] == ["" if t < 0 else str(t) for t in target]
            assert decided == ["yes" if p >= c.threshold else "no" for p, c in zip(chances, spec.classes, strict=True)]
        else:
            assert row["target"] == spec.classes[target].name
            assert decided.count("yes") == 1


def test_metrics_are_those_of_each_split(tmp_path: Path, no_pictures: None) -> None:
    spec, predictions = spec_of("multilabel"), predictions_of("multilabel")
    write(tmp_path, spec, predictions)
    found = json.loads((tmp_path / "metrics.json").read_text(encoding="utf-8"))
    assert found == {split: results.to_dict() for split, results in results_of(spec, predictions).items()}


def test_names_that_a_spreadsheet_would_run_are_made_safe_and_read_back(tmp_path: Path, no_pictures: None) -> None:
    classes = (ClassSpec(name="-normal"), ClassSpec(name='=HYPERLINK("x")'))
    spec = dataclasses.replace(spec_of("binary"), classes=classes)
    predictions = predictions_of("binary")
    ids = ("=1+1", "+a", "@b", "'quoted", "two\nlines, and a comma", *predictions.ids[5:])
    predictions = dataclasses.replace(predictions, ids=ids, patients=("-p", *predictions.patients[1:]))
    write(tmp_path, spec, predictions)
    with (tmp_path / "predictions.csv").open(newline="", encoding="utf-8") as stream:
        cells = [cell for row in csv.reader(stream) for cell in row]
    assert not [cell for cell in cells if cell.startswith(("=", "+", "-", "@"))]
    assert_same(read_predictions(tmp_path / "predictions.csv", spec), predictions)


def test_no_file_says_where_or_on_whose_machine_it_was_made(tmp_path: Path, no_pictures: None) -> None:
    write(tmp_path, spec_of("binary"), predictions_of("binary"), remarks=["Read from /home/somebody/x.csv."])
    config = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    assert config == {"task": {"epochs": 3}, "data": "cases.csv", "weights": "dino.safetensors"}
    for path in tmp_path.glob("*.*"):
        text = path.read_text(encoding="utf-8")
        assert "somebody" not in text
        assert str(tmp_path) not in text
        assert not re.search(rf"\b{re.escape(platform.node())}\b", text)
    environment = json.loads((tmp_path / "environment.json").read_text(encoding="utf-8"))
    assert getpass.getuser() not in environment["platform"].values()
    assert (environment["seed"], environment["device"]) == (5, "CPU")
    assert environment["versions"]["numpy"] == np.__version__


def test_the_page_says_figures_in_words_and_shows_odd_names_as_they_are(tmp_path: Path, no_pictures: None) -> None:
    classes = (ClassSpec(name="normal"), ClassSpec(name="<b>mass</b>"))
    spec, predictions = dataclasses.replace(spec_of("binary"), classes=classes), predictions_of("binary")
    page = write(tmp_path, spec, predictions, remarks=["A threshold stays 0.5."]).read_text(encoding="utf-8")
    found = results_of(spec, predictions)["test"]
    figure = found.classes[0].metrics["auroc"]
    assert f"<td>{figure.value:.3f}<small>({figure.low:.3f} to {figure.high:.3f})</small></td>" in page
    assert "&lt;b&gt;mass&lt;/b&gt;" in page and "<b>" not in page
    assert "A threshold stays 0.5." in page
    assert "Research only" in page


def test_what_is_unknown_is_called_so_and_is_null(tmp_path: Path) -> None:
    predictions = predictions_of("binary")
    predictions = dataclasses.replace(predictions, targets=np.zeros(40, dtype=np.int64))
    page = write(tmp_path, spec_of("binary"), predictions).read_text(encoding="utf-8")
    assert "<td>unknown<small></small></td>" in page
    assert "nan" not in page.lower()
    assert "There is no case of &#39;b&#39;" in page
    found = json.loads((tmp_path / "metrics.json").read_text(encoding="utf-8"))
    assert found["test"]["macro"]["auroc"]["value"] is None


def test_an_outcome_that_cannot_be_made_leaves_the_folder_as_it_was(tmp_path: Path, no_pictures: None) -> None:
    with pytest.raises(InputError, match=r"'config\.json' cannot be written"):
        write(tmp_path, spec_of("binary"), predictions_of("binary"), config={"rate": float("nan")})
    with pytest.raises(InputError, match="no prediction of the split 'fold 9'"):
        results = results_of(spec_of("binary"), predictions_of("binary"))
        write(tmp_path, spec_of("binary"), predictions_of("binary"), results={"fold 9": results["test"]})
    assert not list(tmp_path.iterdir())


def test_splits_whose_pictures_would_share_a_name_are_refused(tmp_path: Path, no_pictures: None) -> None:
    predictions = predictions_of("binary")
    predictions = dataclasses.replace(
        predictions, splits=tuple("fold 1" if s == "val" else "fold-1" for s in predictions.splits)
    )
    with pytest.raises(InputError, match="too alike"):
        write(tmp_path, spec_of("binary"), predictions)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        (lambda text: "", "holds no predictions"),
        (lambda text: text.splitlines()[0], "holds no predictions"),
        (lambda text: text.replace("probability: b", "probability: c"), "holds no predictions"),
        (lambda text: text.replace(",yes", ""), "holds no predictions"),
        (lambda text: re.sub(r",0\.\d+,", ",much,", text, count=1), "no answer"),
        (lambda text: re.sub(r",[ab],", ",z,", text, count=1), "no answer"),
        (lambda text: re.sub(r",0\.\d+,", ",1.5,", text, count=1), "from 0 to 1"),
    ],
)
def test_a_table_that_holds_no_predictions_is_refused(changed, words: str, tmp_path: Path, no_pictures: None) -> None:
    spec = spec_of("binary")
    write(tmp_path, spec, predictions_of("binary"))
    path = tmp_path / "predictions.csv"
    path.write_text(changed(path.read_text(encoding="utf-8")), encoding="utf-8")
    with pytest.raises(InputError, match=words):
        read_predictions(path, spec)


def test_a_missing_table_is_refused_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read as a table"):
        read_predictions(tmp_path / "none.csv", spec_of("binary"))
