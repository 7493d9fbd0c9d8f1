"""A cohort: what is done stays done, one bad case is not the end, and processes share the work."""

from __future__ import annotations

import csv
import dataclasses
import json
import os
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from networks import tiny_network, write_plugin
from shell import anymc3d, findable_backbone
from volumes import GRID, anatomy, straight

from AnyMC3DLib import cohort
from AnyMC3DLib import ledger as ledger_room
from AnyMC3DLib.backbone import Backbone
from AnyMC3DLib.classifier import Classifier
from AnyMC3DLib.cohort import CohortResult, Share, classify_cohort, share_of_environment
from AnyMC3DLib.commands import cohort as command
from AnyMC3DLib.errors import Cancelled, InputError, PluginError
from AnyMC3DLib.heatmap import heatmap
from AnyMC3DLib.ledger import file_parts
from AnyMC3DLib.manifest import CohortCase
from AnyMC3DLib.prediction import Prediction, Study
from AnyMC3DLib.progress import Progress
from AnyMC3DLib.spec import ClassSpec
from AnyMC3DLib.volume import Volume, read_volume, write_volume

LAUNCHERS = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "ACCELERATE_USE_CPU")


@dataclasses.dataclass(frozen=True)
class Clinic:
    """Images of some cases, plugins of one backbone, and an engine with the first of them."""

    folder: Path
    backbone: Backbone
    weights: Path
    engine: Classifier

    def plugin(self, name: str = "Test") -> Path:
        return self.folder / f"{name}.safetensors"

    def image(self, name: str) -> Path:
        return self.folder / f"{name}.nrrd"

    def cases(self, names: str = "abc") -> list[CohortCase]:
        return [CohortCase(name, {"image": self.image(name)}, folder=self.folder) for name in names]

    def table(self, folder: Path, names: Sequence[str] = "abc") -> Path:
        place = folder / "table.csv"
        place.write_text("case,image\n" + "".join(f"{name},{self.image(name)}\n" for name in names))
        return place

    def arguments(self, table: Path, out: Path) -> list[str | Path]:
        where = ["--manifest", table, "--out", out, "--plugin", self.plugin()]
        return ["classify", *where, "--weights", self.weights, "--device", "cpu"]


@pytest.fixture(scope="module")
def clinic(tmp_path_factory: pytest.TempPathFactory) -> Clinic:
    folder = tmp_path_factory.mktemp("clinic")
    backbone, weights = findable_backbone(folder)
    for seed, name in enumerate("abcde"):
        write_volume(folder / f"{name}.nrrd", Volume(anatomy(seed=seed), straight()))
    write_volume(folder / "constant.nrrd", Volume(np.full(GRID, 5.0, np.float32), straight()))
    (folder / "damaged.nrrd").write_bytes((folder / "a.nrrd").read_bytes()[:900])
    array = anatomy()
    array[2, 3, 4] = np.nan
    write_volume(folder / "nan.nrrd", Volume(array, straight()))
    write_plugin(folder / "Test.safetensors", backbone)
    write_plugin(folder / "Three.safetensors", backbone, name="Three", task_type="multiclass")
    engine = Classifier(backbone, batch=16)
    engine.load(folder / "Test.safetensors")
    return Clinic(folder, backbone, weights, engine)


@pytest.fixture(autouse=True)
def no_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in LAUNCHERS:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def counted(clinic: Clinic, monkeypatch: pytest.MonkeyPatch) -> list[Study]:
    """The studies that the engine was asked about, from now on."""
    asked: list[Study] = []
    honest = clinic.engine.classify

    def classify(study: Study, **options: object) -> dict[str, Prediction]:
        asked.append(study)
        return honest(study, **options)

    monkeypatch.setattr(clinic.engine, "classify", classify)
    return asked


def rows(out: Path, name: str = "results.csv") -> list[dict[str, str]]:
    with (out / name).open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def record(out: Path, case: str) -> dict:
    return json.loads((out / "cases" / f"{case}.json").read_text(encoding="utf-8"), parse_constant=pytest.fail)


def texts(out: Path) -> str:
    return "\n".join(place.read_text(encoding="utf-8") for place in out.rglob("*") if place.suffix in (".json", ".csv"))


# The results


def test_each_case_gets_the_answer_that_it_gets_alone(clinic: Clinic, tmp_path: Path) -> None:
    cases = clinic.cases()
    assert classify_cohort(clinic.engine, cases, tmp_path) == CohortResult(("a", "b", "c"), (), ())
    for case in cases:
        alone = clinic.engine.classify(case.load(), maps="none")["Test"].to_dict()
        found = record(tmp_path, case.id)
        assert (found["case"], found["status"], found["error"]) == (case.id, "done", "")
        for name in ("plugin", "probabilities", "decisions", "thresholds", "views", "warnings"):
            assert found["predictions"]["Test"][name] == alone[name]
        assert found["predictions"]["Test"].keys() == alone.keys()


def test_the_table_has_a_line_a_class_in_the_order_of_the_cases(clinic: Clinic, tmp_path: Path) -> None:
    classify_cohort(clinic.engine, clinic.cases("cab"), tmp_path)
    lines = rows(tmp_path)
    named = ["case", "plugin", "class", "probability", "threshold", "decision", "uncertain", "out_of_scope"]
    assert list(lines[0]) == named
    assert [(line["case"], line["class"]) for line in lines] == [(c, k) for c in "cab" for k in ("normal", "lesion")]
    for line in lines:
        answer = record(tmp_path, line["case"])["predictions"]["Test"]
        assert float(line["probability"]) == answer["probabilities"][line["class"]]
        assert float(line["threshold"]) == answer["thresholds"][line["class"]]
        assert (line["decision"] == "yes") == answer["decisions"][line["class"]]
    assert rows(tmp_path, "failures.csv") == []


def test_several_plugins_come_one_after_the_other(clinic: Clinic, tmp_path: Path) -> None:
    engine = Classifier(clinic.backbone, batch=16)
    names = [engine.load(clinic.plugin(name)) for name in ("Three", "Test")]
    classify_cohort(engine, clinic.cases("ab"), tmp_path, plugins=names)
    found = [(line["case"], line["plugin"], line["class"]) for line in rows(tmp_path)]
    classes = [("Three", "normal"), ("Three", "mild"), ("Three", "severe"), ("Test", "normal"), ("Test", "lesion")]
    assert found == [(case, *names) for case in "ab" for names in classes]


def test_the_table_says_uncertain_where_the_prediction_warns_so(clinic: Clinic, tmp_path: Path) -> None:
    engine = Classifier(clinic.backbone, batch=16)
    first = clinic.engine.classify(clinic.cases("a")[0].load(), maps="none")["Test"].probabilities["lesion"]
    for name, threshold in (("near", first + 0.01), ("far", first + 0.2 if first < 0.5 else first - 0.2)):
        classes = (ClassSpec(name="normal"), ClassSpec(name="lesion", threshold=threshold))
        engine.load(write_plugin(tmp_path / name, clinic.backbone, name=name, classes=classes))
    classify_cohort(engine, clinic.cases("a"), tmp_path / "out")
    answers = record(tmp_path / "out", "a")["predictions"]
    for line in rows(tmp_path / "out"):
        warned = any(warning.startswith("Uncertain") for warning in answers[line["plugin"]]["warnings"])
        assert (line["uncertain"] == "yes") == warned == (line["plugin"] == "near")


def even(folder: Path, clinic: Clinic, classes: Sequence[ClassSpec]) -> Path:
    """A plugin that finds each of three classes about as probable as the others."""
    return write_plugin(
        folder / "even", clinic.backbone, seed=4, task_type="multiclass", classes=tuple(classes), temperature=1000.0
    )


def test_a_multiclass_answer_below_every_threshold_is_uncertain_for_its_class_alone(
    clinic: Clinic, tmp_path: Path
) -> None:
    classes = tuple(ClassSpec(name=name, threshold=0.99) for name in ("normal", "mild", "severe"))
    engine = Classifier(clinic.backbone, batch=16)
    engine.load(even(tmp_path, clinic, classes))
    classify_cohort(engine, clinic.cases("a"), tmp_path / "out")
    assert [line["uncertain"] == line["decision"] for line in rows(tmp_path / "out")] == [True] * 3
    assert sorted(line["uncertain"] for line in rows(tmp_path / "out")) == ["no", "no", "yes"]


def test_names_do_not_run_as_formulas_in_a_spreadsheet(clinic: Clinic, tmp_path: Path) -> None:
    engine = Classifier(clinic.backbone, batch=16)
    classes = (ClassSpec(name="no"), ClassSpec(name="=1+1"))
    engine.load(write_plugin(tmp_path / "p", clinic.backbone, name="@sum", classes=classes))
    classify_cohort(engine, clinic.cases("a"), tmp_path / "out")
    assert {(line["plugin"], line["class"]) for line in rows(tmp_path / "out")} == {("'@sum", "no"), ("'@sum", "'=1+1")}


def test_progress_counts_the_cases(clinic: Clinic, tmp_path: Path) -> None:
    told: list[Progress] = []
    classify_cohort(clinic.engine, clinic.cases(), tmp_path, progress=told.append)
    assert [(p.done, p.total) for p in told] == [(n, 3) for n in range(4)]
    assert len({p.step for p in told}) == 1


def test_nothing_says_where_files_lie_or_how_they_are_called(clinic: Clinic, tmp_path: Path) -> None:
    secret = tmp_path / "Doe Jane"
    secret.mkdir()
    for name in ("damaged", "nan", "a", "constant"):
        (secret / f"Jane {name}.nrrd").write_bytes(clinic.image(name).read_bytes())
    (secret / "Jane empty").mkdir()
    files = ["Jane damaged.nrrd", "Jane nan.nrrd", "Jane a.nrrd", "Jane constant.nrrd", "Jane empty", "Jane absent"]
    cases = [CohortCase(f"case {n}", {"image": secret / file}) for n, file in enumerate(files)]
    result = classify_cohort(clinic.engine, cases, tmp_path / "out")
    assert len(result.failed) == 5
    assert "Jane" not in texts(tmp_path / "out")
    assert str(tmp_path) not in texts(tmp_path / "out")
    assert all("'image'" in line["error"] for line in rows(tmp_path / "out", "failures.csv"))


# Bad cases


def raising(error: Exception) -> Callable[..., dict[str, Prediction]]:
    def classify(*_: object, **__: object) -> dict[str, Prediction]:
        raise error

    return classify


def test_a_bad_case_is_told_in_a_sentence_and_the_others_go_on(clinic: Clinic, tmp_path: Path) -> None:
    cases = clinic.cases(["a", "damaged", "nan", "absent", "constant", "b"])
    result = classify_cohort(clinic.engine, cases, tmp_path)
    assert result == CohortResult(("a", "b"), (), ("damaged", "nan", "absent", "constant"))
    failures = {line["case"]: line["error"] for line in rows(tmp_path, "failures.csv")}
    assert list(failures) == ["damaged", "nan", "absent", "constant"]
    assert failures["nan"] == "'image' holds 1 values that are not finite numbers: replace them first."
    assert failures["absent"] == "There is no file or folder 'image': check the path."
    assert [line["case"] for line in rows(tmp_path)] == ["a", "a", "b", "b"]
    for name, sentence in failures.items():
        found = record(tmp_path, name)
        assert (found["status"], found["error"], found["predictions"]) == ("failed", sentence, {})


def test_a_case_without_one_of_its_images_fails_alone(clinic: Clinic, tmp_path: Path) -> None:
    cases = [*clinic.cases("a"), CohortCase("b", {})]
    assert classify_cohort(clinic.engine, cases, tmp_path).failed == ("b",)
    assert "needs an image 'image'" in rows(tmp_path, "failures.csv")[0]["error"]


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (ValueError("at 0x7f in /home/doe"), "The case failed unexpectedly (ValueError)"),
        (MemoryError(), "The memory is not enough"),
        (torch.OutOfMemoryError("CUDA out of memory"), "The memory is not enough"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: 5 bytes"), "The memory is not enough"),
        (RuntimeError("something else"), "The case failed unexpectedly (RuntimeError)"),
        (PermissionError(13, "Permission denied", "/home/doe/x"), "The system refused to read or write a file: Perm"),
        (InputError("Bad '/home/doe/x'."), "Bad 'x'."),
    ],
    ids=lambda value: type(value).__name__,
)
def test_whatever_a_case_raises_is_a_sentence_about_it(
    error: Exception, sentence: str, clinic: Clinic, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clinic.engine, "classify", raising(error))
    assert classify_cohort(clinic.engine, clinic.cases("ab"), tmp_path).failed == ("a", "b")
    (first, _) = rows(tmp_path, "failures.csv")
    assert first["error"].startswith(sentence)
    assert "doe" not in texts(tmp_path)


def test_an_answer_that_is_no_number_is_a_failure(
    clinic: Clinic, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = clinic.engine.classify(clinic.cases("a")[0].load(), maps="none")["Test"]
    broken = dataclasses.replace(answer, probabilities=dict.fromkeys(answer.probabilities, float("nan")))
    monkeypatch.setattr(clinic.engine, "classify", lambda *_, **__: {"Test": broken})
    assert classify_cohort(clinic.engine, clinic.cases("a"), tmp_path).failed == ("a",)
    assert record(tmp_path, "a")["predictions"] == {}


@pytest.mark.parametrize(("names", "phrase"), [("", "no case"), ("aa", "comes twice"), ("aA", "differ in upper")])
def test_cases_that_would_share_a_file_are_refused_before_any_work(
    names: str, phrase: str, clinic: Clinic, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=phrase):
        classify_cohort(clinic.engine, [CohortCase(name, {}) for name in names], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_plugins_that_cannot_be_known_again_are_refused_before_any_work(clinic: Clinic, tmp_path: Path) -> None:
    with pytest.raises(PluginError, match="'Other' is not loaded"):
        classify_cohort(clinic.engine, clinic.cases(), tmp_path, plugins=["Test", "Other"])
    engine = Classifier(clinic.backbone, batch=16)
    with pytest.raises(PluginError, match="is not loaded"):
        classify_cohort(engine, clinic.cases(), tmp_path)
    network = tiny_network(clinic.backbone)
    engine.add(network.spec, [network])
    with pytest.raises(PluginError, match="has no file to know it by"):
        classify_cohort(engine, clinic.cases(), tmp_path)
    engine.unload("Test")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_refused_before_any_work(
    clinic: Clinic, tmp_path: Path, counted: list[Study]
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="Cannot write"):
        classify_cohort(clinic.engine, clinic.cases(), tmp_path / "file")
    assert counted == []


# Running again


def test_what_is_done_is_skipped(clinic: Clinic, tmp_path: Path, counted: list[Study]) -> None:
    classify_cohort(clinic.engine, clinic.cases("ab"), tmp_path)
    before = {place: place.stat() for place in (tmp_path / "cases").iterdir()}
    counted.clear()
    assert classify_cohort(clinic.engine, clinic.cases("cab"), tmp_path) == CohortResult(("c",), ("a", "b"), ())
    assert len(counted) == 1
    assert {place: place.stat() for place in before} == before
    assert [line["case"] for line in rows(tmp_path)] == list("ccaabb")


def killed_after(cases: int) -> Callable[[Progress], None]:
    def progress(told: Progress) -> None:
        if told.done == cases:
            raise KeyboardInterrupt

    return progress


def test_a_killed_cohort_goes_on_where_it_stopped(
    clinic: Clinic, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, counted: list[Study]
) -> None:
    whole = tmp_path / "whole"
    classify_cohort(clinic.engine, clinic.cases("abcde"), whole)
    counted.clear()
    with monkeypatch.context() as patch:
        # A killed process writes no table.
        patch.setattr(ledger_room.Ledger, "write_tables", lambda _: None)
        with pytest.raises(KeyboardInterrupt):
            classify_cohort(clinic.engine, clinic.cases("abcde"), tmp_path / "out", progress=killed_after(2))
    assert sorted(place.name for place in (tmp_path / "out/cases").iterdir()) == ["a.json", "b.json"]
    result = classify_cohort(clinic.engine, clinic.cases("abcde"), tmp_path / "out")
    assert result == CohortResult(("c", "d", "e"), ("a", "b"), ())
    assert len(counted) == 5
    assert (tmp_path / "out/results.csv").read_bytes() == (whole / "results.csv").read_bytes()


def test_a_stopped_cohort_leaves_a_table_of_what_it_did(clinic: Clinic, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        classify_cohort(clinic.engine, clinic.cases("abc"), tmp_path, progress=killed_after(1))
    assert [line["case"] for line in rows(tmp_path)] == ["a", "a"]


def test_a_cancelled_cohort_ends_within_its_case_and_keeps_what_is_done(clinic: Clinic, tmp_path: Path) -> None:
    asked = 0

    def cancelled() -> bool:
        nonlocal asked
        asked += (tmp_path / "cases/a.json").exists()
        return asked > 1

    with pytest.raises(Cancelled):
        classify_cohort(clinic.engine, clinic.cases("abc"), tmp_path, cancelled=cancelled)
    assert [place.name for place in (tmp_path / "cases").iterdir()] == ["a.json"]
    assert rows(tmp_path, "failures.csv") == []


def test_a_failed_case_is_tried_again(clinic: Clinic, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(clinic.engine, "classify", raising(MemoryError()))
        classify_cohort(clinic.engine, clinic.cases("a"), tmp_path)
    assert classify_cohort(clinic.engine, clinic.cases("a"), tmp_path).done == ("a",)
    assert rows(tmp_path, "failures.csv") == []
    assert record(tmp_path, "a")["error"] == ""


def test_a_changed_image_is_classified_again(clinic: Clinic, tmp_path: Path) -> None:
    place = tmp_path / "x.nrrd"
    cases = [CohortCase("x", {"image": place}), *clinic.cases("a")]
    place.write_bytes(clinic.image("b").read_bytes())
    classify_cohort(clinic.engine, cases, tmp_path / "out")
    before = record(tmp_path / "out", "x")
    place.write_bytes(clinic.image("c").read_bytes())
    assert classify_cohort(clinic.engine, cases, tmp_path / "out") == CohortResult(("x",), ("a",), ())
    assert (
        record(tmp_path / "out", "x")["predictions"]["Test"]["probabilities"]
        != (before["predictions"]["Test"]["probabilities"])
    )


def test_a_changed_plugin_or_option_makes_all_cases_new(clinic: Clinic, tmp_path: Path) -> None:
    engine = Classifier(clinic.backbone, batch=16)
    engine.load(write_plugin(tmp_path / "p", clinic.backbone, seed=3))
    classify_cohort(engine, clinic.cases("ab"), tmp_path / "out")
    engine.load(write_plugin(tmp_path / "p", clinic.backbone, seed=4))
    assert classify_cohort(engine, clinic.cases("ab"), tmp_path / "out").skipped == ()
    assert classify_cohort(engine, clinic.cases("ab"), tmp_path / "out").skipped == ("a", "b")
    assert classify_cohort(engine, clinic.cases("ab"), tmp_path / "out", maps="all").skipped == ()
    engine.load(clinic.plugin("Three"))
    assert classify_cohort(engine, clinic.cases("ab"), tmp_path / "out", maps="all").skipped == ()


def test_the_order_of_the_plugins_makes_no_case_new(clinic: Clinic, tmp_path: Path) -> None:
    engine = Classifier(clinic.backbone, batch=16)
    for name in ("Three", "Test"):
        engine.load(clinic.plugin(name))
    classify_cohort(engine, clinic.cases("a"), tmp_path, plugins=["Three", "Test"])
    assert classify_cohort(engine, clinic.cases("a"), tmp_path, plugins=["Test", "Three"]).skipped == ("a",)
    assert [line["plugin"] for line in rows(tmp_path)] == ["Test"] * 2 + ["Three"] * 3


def test_the_table_leaves_out_what_another_plugin_answered(
    clinic: Clinic, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = Classifier(clinic.backbone, batch=16)
    engine.load(write_plugin(tmp_path / "p", clinic.backbone, seed=3))
    classify_cohort(engine, clinic.cases("abc"), tmp_path / "out")
    engine.load(write_plugin(tmp_path / "p", clinic.backbone, seed=4))
    with pytest.raises(KeyboardInterrupt):
        classify_cohort(engine, clinic.cases("abc"), tmp_path / "out", progress=killed_after(1))
    assert [line["case"] for line in rows(tmp_path / "out")] == ["a", "a"]


def halved(text: str) -> str:
    return text[: len(text) // 2]


def without_answer(text: str) -> str:
    return json.dumps({**json.loads(text), "predictions": {"Test": {"probabilities": {"lesion": "high"}}}})


@pytest.mark.parametrize("broken", [halved, without_answer, lambda _: "", lambda _: "[1, 2]", lambda _: "[" * 100_000])
def test_a_damaged_result_is_made_again(broken: Callable[[str], str], clinic: Clinic, tmp_path: Path) -> None:
    classify_cohort(clinic.engine, clinic.cases("ab"), tmp_path)
    table = (tmp_path / "results.csv").read_bytes()
    place = tmp_path / "cases/a.json"
    place.write_text(broken(place.read_text()))
    assert classify_cohort(clinic.engine, clinic.cases("ab"), tmp_path) == CohortResult(("a",), ("b",), ())
    assert (tmp_path / "results.csv").read_bytes() == table


def test_the_result_of_one_case_does_not_stand_for_another(clinic: Clinic, tmp_path: Path) -> None:
    one, other = (CohortCase(name, {"image": clinic.image("a")}) for name in ("one", "other"))
    classify_cohort(clinic.engine, [one], tmp_path)
    (tmp_path / "cases/other.json").write_bytes((tmp_path / "cases/one.json").read_bytes())
    assert classify_cohort(clinic.engine, [one, other], tmp_path).done == ("other",)


# Reading ahead


@dataclasses.dataclass(frozen=True)
class WatchedCase(CohortCase):
    """A case that tells when its study is read."""

    reading: Callable[[str], None] = lambda _: None
    read: Callable[[Study], None] = lambda _: None

    def load(self) -> Study:
        self.reading(self.id)
        study = super().load()
        self.read(study)
        return study


def test_two_studies_are_read_while_another_computes(
    clinic: Clinic, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events = {name: threading.Event() for name in "abcde"}
    honest = clinic.engine.classify
    seen: list[bool] = []

    def classify(study: Study, **options: object) -> dict[str, Prediction]:
        if not seen:
            ahead = all(events[name].wait(60) for name in "bc")
            seen.append(ahead)
        return honest(study, **options)

    monkeypatch.setattr(clinic.engine, "classify", classify)
    cases = [WatchedCase(c.id, c.images, reading=lambda name: events[name].set()) for c in clinic.cases("abcde")]
    assert len(classify_cohort(clinic.engine, cases, tmp_path).done) == 5
    assert seen == [True]


class AtOnce:
    """In the place of a pool of threads: what is to be done is done before it is asked for."""

    def __init__(self, **_: object) -> None:
        pass

    def submit(self, work: Callable[..., object], *arguments: object) -> Future:
        future: Future = Future()
        future.set_result(work(*arguments))
        return future

    def shutdown(self, **_: object) -> None:
        pass


def test_no_more_than_three_studies_are_in_memory(
    clinic: Clinic, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cohort, "ThreadPoolExecutor", AtOnce)
    alive: list[weakref.ref[Study]] = []
    most = 0

    def read(study: Study) -> None:
        nonlocal most
        alive.append(weakref.ref(study))
        most = max(most, sum(ref() is not None for ref in alive))

    names = [f"case {n}" for n in range(12)]
    images = [clinic.image("abcde"[n % 5]) for n in range(12)]
    cases = [WatchedCase(name, {"image": image}, read=read) for name, image in zip(names, images, strict=True)]
    classify_cohort(clinic.engine, cases, tmp_path)
    assert len(alive) == 12
    assert most == 3


# Heatmaps


@pytest.fixture
def positive(clinic: Clinic, tmp_path: Path) -> Iterator[Classifier]:
    """An engine whose plugin decides for the lesion in every study."""
    engine = Classifier(clinic.backbone, batch=16)
    classes = (ClassSpec(name="normal"), ClassSpec(name="lesion", threshold=0.0))
    engine.load(write_plugin(tmp_path / "positive", clinic.backbone, seed=4, name="Sees: all", classes=classes))
    yield engine
    engine.unload("Sees: all")


def heatmaps(out: Path) -> list[str]:
    return sorted(place.relative_to(out).as_posix() for place in out.rglob("*.nrrd"))


def test_heatmaps_of_decided_classes_are_on_the_grid_of_the_image(
    positive: Classifier, clinic: Clinic, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    classify_cohort(positive, clinic.cases("ab"), out, heatmaps=True)
    assert heatmaps(out) == [f"heatmaps/{case}/Sees_all-lesion.nrrd" for case in "ab"]
    heat = read_volume(out / "heatmaps/a/Sees_all-lesion.nrrd")
    study = clinic.cases("a")[0].load()
    expected = heatmap(positive.classify(study)["Sees: all"], study.image("image"), class_name="lesion")
    np.testing.assert_allclose(heat.array, expected.array, atol=1e-6)
    assert heat.array.max() > 0.05
    np.testing.assert_allclose(heat.ijk_to_ras, straight(), atol=1e-9)
    assert record(out, "a")["heatmaps"] == ["Sees_all-lesion.nrrd"]


def test_a_class_below_its_threshold_has_no_heatmap(clinic: Clinic, tmp_path: Path) -> None:
    engine = Classifier(clinic.backbone, batch=16)
    classes = (ClassSpec(name="normal"), ClassSpec(name="lesion", threshold=1.0))
    engine.load(write_plugin(tmp_path / "p", clinic.backbone, classes=classes))
    classify_cohort(engine, clinic.cases("a"), tmp_path / "out", heatmaps=True)
    assert heatmaps(tmp_path / "out") == []


@pytest.mark.parametrize(("threshold", "count"), [(0.0, 1), (0.9, 0)])
def test_of_several_classes_the_one_decided_for_has_a_heatmap_if_it_reaches_its_threshold(
    threshold: float, count: int, clinic: Clinic, tmp_path: Path
) -> None:
    engine = Classifier(clinic.backbone, batch=16)
    engine.load(even(tmp_path, clinic, [ClassSpec(name=name, threshold=threshold) for name in "ABC"]))
    classify_cohort(engine, clinic.cases("a"), tmp_path / "out", heatmaps=True)
    assert len(heatmaps(tmp_path / "out")) == count


def test_a_heatmap_may_be_of_one_class_or_the_papers(clinic: Clinic, tmp_path: Path) -> None:
    engine = Classifier(clinic.backbone, batch=16)
    classes = tuple(ClassSpec(name=name, threshold=0.0) for name in ("A", "a", "b/c"))
    spec = {"task_type": "multilabel", "classes": classes}
    engine.load(write_plugin(tmp_path / "p", clinic.backbone, **spec))
    for number, (chosen, names) in enumerate(
        ((None, ["Test-A", "Test-a_2", "Test-b_c"]), ("a", ["Test-a_2"]), ("attention", ["Test"]))
    ):
        out = tmp_path / f"out {number}"
        classify_cohort(engine, clinic.cases("a"), out, heatmaps=True, heatmap_class=chosen)
        assert heatmaps(out) == [f"heatmaps/a/{name}.nrrd" for name in names]
    with pytest.raises(InputError, match="no heatmap of a class 'dragon'"):
        classify_cohort(engine, clinic.cases("a"), tmp_path / "x", heatmaps=True, heatmap_class="dragon")


def test_a_heatmap_that_is_gone_or_outdated_is_made_again(positive: Classifier, clinic: Clinic, tmp_path: Path) -> None:
    out = tmp_path / "out"
    classify_cohort(positive, clinic.cases("ab"), out, heatmaps=True)
    (out / "heatmaps/a/Sees_all-lesion.nrrd").unlink()
    assert classify_cohort(positive, clinic.cases("ab"), out, heatmaps=True).done == ("a",)
    assert len(heatmaps(out)) == 2
    classify_cohort(positive, clinic.cases("a"), out)
    assert heatmaps(out) == ["heatmaps/b/Sees_all-lesion.nrrd"]


def test_parts_of_file_names_differ_whatever_the_names_are() -> None:
    names = ["Lesion", "lesion", "lesion_2", "a/b", "a:b", "../..", "é", "mass", "Mass", "x" * 300, "x" * 301]
    parts = file_parts(names)
    assert len({part.casefold() for part in parts.values()}) == len(names)
    assert all(part.isascii() and part.replace("_", "").isalnum() and len(part) < 60 for part in parts.values())


# Several processes


def test_shares_are_interleaved_and_together_they_are_all(clinic: Clinic, tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    classify_cohort(clinic.engine, clinic.cases("abcde"), whole)
    found = [
        classify_cohort(clinic.engine, clinic.cases("abcde"), tmp_path / "out", share=Share(n, 2)).done for n in (1, 0)
    ]
    assert found == [("b", "d"), ("a", "c", "e")]
    assert (tmp_path / "out/results.csv").read_bytes() == (whole / "results.csv").read_bytes()
    assert [record(tmp_path / "out", name)["process"] for name in "ab"] == ["1 of 2", "2 of 2"]


def test_more_processes_than_cases_are_no_harm(clinic: Clinic, tmp_path: Path) -> None:
    assert classify_cohort(clinic.engine, clinic.cases("a"), tmp_path, share=Share(1, 2)) == CohortResult((), (), ())
    assert rows(tmp_path) == []


def test_a_case_that_ends_while_another_process_writes_the_table_is_in_it(
    clinic: Clinic, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest, late = ledger_room.write_text, []

    def write(path: Path, content: str) -> None:
        if Path(path).name == "results.csv" and not late:
            late.append(path)
            classify_cohort(clinic.engine, clinic.cases("ab"), tmp_path, share=Share(1, 2))
        honest(path, content)

    monkeypatch.setattr(ledger_room, "write_text", write)
    classify_cohort(clinic.engine, clinic.cases("ab"), tmp_path, share=Share(0, 2))
    assert [line["case"] for line in rows(tmp_path)] == ["a", "a", "b", "b"]


@pytest.mark.parametrize(
    ("environment", "share"),
    [
        ({}, Share(0, 1)),
        ({"RANK": "2", "WORLD_SIZE": "4"}, Share(2, 4)),
        ({"RANK": "3"}, Share(0, 1)),
        ({"WORLD_SIZE": "1", "RANK": "0"}, Share(0, 1)),
    ],
)
def test_the_launcher_says_which_share_is_whose(environment: dict[str, str], share: Share) -> None:
    assert share_of_environment(environment) == share


@pytest.mark.parametrize("environment", [{"WORLD_SIZE": "two"}, {"WORLD_SIZE": "2", "RANK": "2"},
                                         {"WORLD_SIZE": "2", "RANK": ""}])  # fmt: skip
def test_a_share_that_cannot_be_is_refused(environment: dict[str, str]) -> None:
    with pytest.raises(InputError):
        share_of_environment(environment)


def test_each_process_of_a_machine_has_its_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command.torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(command.torch.cuda, "device_count", lambda: 2)
    assert command.device_of_process("auto", {}) == "auto"
    assert [command.device_of_process("auto", {"LOCAL_RANK": str(n)}) for n in range(3)] == [
        "cuda:0",
        "cuda:1",
        "cuda:0",
    ]
    assert command.device_of_process("cpu", {"LOCAL_RANK": "1"}) == "cpu"
    assert command.device_of_process("auto", {"LOCAL_RANK": "1", "ACCELERATE_USE_CPU": "true"}) == "cpu"
    monkeypatch.setattr(command.torch.cuda, "is_available", lambda: False)
    assert command.device_of_process("auto", {"LOCAL_RANK": "1"}) == "auto"


def launched(launcher: Sequence[str], arguments: Sequence[str | Path]) -> subprocess.CompletedProcess:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command_line = [sys.executable, "-m", *launcher, "-m", "AnyMC3DLib.cli", *map(str, arguments)]
    return subprocess.run(command_line, capture_output=True, text=True, check=False, env=environment, timeout=300)


def test_torchrun_shares_a_cohort_and_a_failed_case_ends_no_process(clinic: Clinic, tmp_path: Path) -> None:
    alone, shared = tmp_path / "alone", tmp_path / "shared"
    table = clinic.table(tmp_path, ["damaged", "a", "b", "c", "d"])
    assert anymc3d(*clinic.arguments(table, alone)) == 1
    result = launched(["torch.distributed.run", "--standalone", "--nproc_per_node", "2"],
                      clinic.arguments(table, shared))  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert {record(shared, name)["process"] for name in "bd"} == {"1 of 2"}
    assert {record(shared, name)["process"] for name in "ac"} == {"2 of 2"}
    assert "1 of 3 cases of process 1 of 2 failed: see 'failures.csv'." in result.stderr
    expected, found = rows(alone), rows(shared)
    assert len(found) == 8
    for one, other in zip(expected, found, strict=True):
        assert float(other.pop("probability")) == pytest.approx(float(one.pop("probability")), abs=1e-5)
        assert one == other
    assert rows(shared, "failures.csv") == rows(alone, "failures.csv")


@pytest.mark.skipif(find_spec("accelerate") is None, reason="needs accelerate")
def test_accelerate_starts_the_command(clinic: Clinic, tmp_path: Path) -> None:
    launcher = ["accelerate.commands.launch", "--cpu", "--num_processes", "1", "--num_machines", "1"]
    quiet = ["--mixed_precision", "no", "--dynamo_backend", "no"]
    result = launched([*launcher, *quiet], clinic.arguments(clinic.table(tmp_path, "ab"), tmp_path / "out"))
    assert result.returncode == 0, result.stderr
    assert [line["case"] for line in rows(tmp_path / "out")] == list("aabb")


# The command


def test_the_command_classifies_a_table(clinic: Clinic, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = clinic.arguments(clinic.table(tmp_path), tmp_path / "out")
    assert anymc3d(*arguments, "--plugin", clinic.plugin("Three"), "--heatmaps") == 0
    shown = capsys.readouterr()
    assert shown.out == f"3 of 3 cases classified: see '{tmp_path / 'out' / 'results.csv'}'.\n"
    assert "Classifying cases: 0 of 3" in shown.err
    assert {line["plugin"] for line in rows(tmp_path / "out")} == {"Test", "Three"}
    assert anymc3d(*arguments, "--plugin", clinic.plugin("Three"), "--heatmaps") == 0
    assert capsys.readouterr().out.startswith("0 of 3 cases classified, 3 were done before: see ")


def test_the_command_says_how_many_cases_failed_and_exits_with_1(
    clinic: Clinic, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = clinic.table(tmp_path, ["a", "nan", "absent"])
    assert anymc3d(*clinic.arguments(table, tmp_path / "out")) == 1
    assert capsys.readouterr().err.splitlines()[-1] == "anymc3d: 2 of 3 cases failed: see 'failures.csv'."


def test_only_the_first_process_tells_how_far_it_is(
    clinic: Clinic, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    table = clinic.table(tmp_path)
    shown = {}
    for rank in ("1", "0"):
        for name, value in zip(LAUNCHERS, (rank, "2", rank, "true"), strict=True):
            monkeypatch.setenv(name, value)
        assert anymc3d(*clinic.arguments(table, tmp_path / "out")) == 0
        shown[rank] = capsys.readouterr()
    assert (shown["1"].out, shown["1"].err) == ("", "")
    assert "2 of 2 cases of process 1 of 2 classified" in shown["0"].out
    assert "Classifying cases: 0 of 2" in shown["0"].err


def test_where_an_unexpected_error_came_from_is_told_when_asked(
    clinic: Clinic, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clinic.engine, "classify", raising(ValueError("deep inside")))
    with caplog.at_level("INFO", logger="AnyMC3DLib.cohort"):
        classify_cohort(clinic.engine, clinic.cases("a"), tmp_path)
    assert "deep inside" in caplog.text
    assert all(entry.levelname == "INFO" for entry in caplog.records)


@pytest.mark.parametrize(
    ("changed", "phrase"),
    [
        ({"--manifest": "absent.csv"}, "There is no table 'absent.csv'"),
        ({"--plugin": "absent"}, "There is no plugin file"),
        ({"--heatmap-class": "dragon"}, "no heatmap of a class 'dragon'"),
        ({"--device": "abacus"}, "The device 'abacus' is not here"),
    ],
)
def test_the_command_says_before_any_work_what_no_case_can_be_classified_with(
    changed: dict[str, str], phrase: str, clinic: Clinic, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = clinic.arguments(clinic.table(tmp_path), tmp_path / "out")[1:]
    options = dict(zip(words[::2], words[1::2], strict=True)) | changed
    assert anymc3d("classify", *[word for pair in options.items() for word in pair], "--heatmaps") == 1
    shown = capsys.readouterr().err
    assert phrase in shown
    assert "Classifying" not in shown
    assert not (tmp_path / "out/results.csv").exists()


TABLE = ["--manifest", "t.csv"]


@pytest.mark.parametrize(
    ("words", "phrase"),
    [
        ([], "give either images or --manifest"),
        (["a.nrrd", *TABLE, "--out", "o"], "give either images or --manifest"),
        (TABLE, "--manifest needs --out"),
        (["a.nrrd", "--out", "o"], "--out does not go without --manifest"),
        (["a.nrrd", "--heatmaps"], "--heatmaps does not go without --manifest"),
        ([*TABLE, "--out", "o", "--heatmap", "h.nrrd"], "--heatmap does not go with --manifest"),
        ([*TABLE, "--out", "o", "--heatmap-grid", "t1"], "--heatmap-grid does not go with --manifest"),
        ([*TABLE, "--out", "o", "--region", "r"], "--region does not go with --manifest"),
        ([*TABLE, "--out", "o", "--report", "r"], "--report does not go with --manifest"),
        ([*TABLE, "--out", "o", "--json"], "--json does not go with --manifest"),
        ([*TABLE, "--out", "o", "--heatmap-class", "lesion"], "--heatmap-class needs --heatmaps"),
    ],
)
def test_options_of_one_study_and_of_many_do_not_mix(
    words: list[str], phrase: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert anymc3d("classify", *words, "--plugin", "p") == 2
    shown = capsys.readouterr().err
    assert "usage: anymc3d classify" in shown
    assert phrase in shown
