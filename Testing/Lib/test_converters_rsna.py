"""RSNA 2023 abdominal trauma as Kaggle lays it out: a table for each organ, and every fault told in a sentence."""

from __future__ import annotations

import csv
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from networks import plugin_spec, tiny_backbone
from shell import anymc3d
from volumes import anatomy, straight, write_dicom_series

from AnyMC3DLib.benchmark.converters import KINDS
from AnyMC3DLib.benchmark.converters.common import Converted, Order
from AnyMC3DLib.benchmark.converters.convert import CONVERTERS, convert
from AnyMC3DLib.errors import InputError
from AnyMC3DLib.manifest import read_table
from AnyMC3DLib.spec import ClassSpec, PluginSpec
from AnyMC3DLib.training.cases import Case, read_cases
from AnyMC3DLib.training.manifest_check import check_manifest
from AnyMC3DLib.training.task import read_task
from AnyMC3DLib.volume import Volume, read_volume

GRADES = ("healthy", "low", "high")
COLUMNS = [
    "patient_id", "bowel_healthy", "bowel_injury", "extravasation_healthy", "extravasation_injury",
    *(f"{organ}_{grade}" for organ in ("kidney", "liver", "spleen") for grade in GRADES), "any_injury",
]  # fmt: skip
PATIENTS = [str(10000 + n) for n in range(30)]
TWICE = PATIENTS[:4]  # have a second series


def grade_of(number: int) -> int:
    return number % 3


def write_rows(place: Path, rows: list[list[object]]) -> None:
    with place.open("w", newline="") as stream:
        csv.writer(stream).writerows(rows)


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Thirty patients; liver goes by the number modulo 3, bowel by it modulo 2, kidney and spleen are healthy."""
    root = tmp_path_factory.mktemp("rsna")
    labels: list[list[object]] = [COLUMNS]
    series: list[list[object]] = [["patient_id", "series_id", "aortic_hu", "incomplete_organ"]]
    for number, patient in enumerate(PATIENTS):
        liver = [int(grade_of(number) == grade) for grade in range(3)]
        injured = number % 2
        labels.append([patient, 1 - injured, injured, 1, 0, 1, 0, 0, *liver, 1, 0, 0, int(injured or liver[0] == 0)])
        for second in range(1 + (patient in TWICE)):
            name = f"{500 + 2 * number + second}"
            # The second series is the brighter one of the first two patients alone.
            series.append([patient, name, 200.5 + (50 if number < 2 else -50) * second, int(number == 5)])
            body = Volume(anatomy((2, 4, 5), seed=number + 100 * second), straight())
            place = root / "train_images" / patient / name
            write_dicom_series(place, body, series=f"1.2.3.{number}.{second}", patient="")
    write_rows(root / "train.csv", labels)
    write_rows(root / "train_series_meta.csv", series)
    (root / "segmentations").mkdir()
    return root


@pytest.fixture
def data(published: Path, tmp_path: Path) -> Path:
    """A copy that a test may spoil."""
    return Path(shutil.copytree(published, tmp_path / "rsna"))


def converted(data: Path, table: Path, *, task: str = "RSNA2023-liver", **fields: object) -> Converted:
    return convert("rsna-abdominal", data, Order(table=table, task=task, **fields))


def spec_of(*names: str) -> PluginSpec:
    task = "binary" if len(names) == 2 else "multiclass"
    return plugin_spec(tiny_backbone(), task_type=task, classes=tuple(ClassSpec(name=name) for name in names))


def rows_of(table: Path) -> list[dict[str, str]]:
    return [row for _, row in read_table(table).rows]


def test_every_kind_that_the_shell_offers_has_a_converter() -> None:
    assert tuple(CONVERTERS) == KINDS


def test_the_liver_table_has_every_series_with_its_patients_grade(published: Path, tmp_path: Path) -> None:
    table = tmp_path / "out" / "liver.csv"
    assert converted(published, table) == Converted(34)
    cases = read_cases(table, spec_of(*GRADES))
    number = {patient: n for n, patient in enumerate(PATIENTS)}
    assert {case.id: case.target for case in cases} == {
        f"{patient}_{500 + 2 * n + second}": grade_of(n)
        for patient, n in number.items() for second in range(1 + (patient in TWICE))
    }  # fmt: skip
    assert all(case.id.startswith(f"{case.patient}_") for case in cases)
    assert [row["case"] for row in rows_of(table) if row["incomplete_organ"] == "1"] == ["10005_510"]
    read = cases[1].load().image("image")
    written = read_volume(published / "train_images" / "10000" / "501")
    np.testing.assert_array_equal(read.array, written.array)
    assert check_manifest(table, spec_of(*GRADES)).problems == ()


def test_the_split_is_by_patient_stratified_and_the_same_for_the_same_seed(published: Path, tmp_path: Path) -> None:
    def splits(seed: int, name: str) -> list[Case]:
        converted(published, tmp_path / name, seed=seed)
        return read_cases(tmp_path / name, spec_of(*GRADES))

    first, again, other = splits(3, "a.csv"), splits(3, "b.csv"), splits(4, "c.csv")
    assert [case.split for case in first] == [case.split for case in again]
    assert [case.split for case in first] != [case.split for case in other]
    split_of = {(case.patient, case.split) for case in first}
    assert len(split_of) == len(PATIENTS)
    assert Counter(split for _, split in split_of) == {"train": 21, "val": 3, "test": 6}
    for split, each in {"train": 7, "val": 1, "test": 2}.items():
        grades = {case.patient: case.target for case in first if case.split == split}
        assert Counter(grades.values()) == dict.fromkeys(range(3), each)


def test_one_series_is_that_of_the_higher_aortic_hu(published: Path, tmp_path: Path) -> None:
    assert converted(published, tmp_path / "t.csv", one_series=True).cases == 30
    kept = {row["case"].partition("_")[2] for row in rows_of(tmp_path / "t.csv") if row["patient"] in TWICE}
    assert kept == {"501", "503", "504", "506"}


def test_the_bowel_has_two_classes(published: Path, tmp_path: Path) -> None:
    converted(published, tmp_path / "t.csv", task="RSNA2023-bowel")
    task = read_task("RSNA2023-bowel").plugin
    assert [c.name for c in task.classes] == ["healthy", "injury"]
    targets = {case.patient: case.target for case in read_cases(tmp_path / "t.csv", task)}
    assert targets == {patient: n % 2 for n, patient in enumerate(PATIENTS)}


def test_what_lacks_its_other_half_is_left_out_and_told(data: Path, tmp_path: Path) -> None:
    shutil.rmtree(data / "train_images" / PATIENTS[7])
    for file in (data / "train_images" / PATIENTS[8] / "516").iterdir():
        file.unlink()
    write_dicom_series(data / "train_images" / "99" / "1", Volume(anatomy((3, 4, 5)), straight()))
    lines = (data / "train_series_meta.csv").read_text().splitlines()
    (data / "train_series_meta.csv").write_text("\n".join(line for line in lines if not line.startswith("10009,")))
    done = converted(data, tmp_path / "t.csv")
    assert done.cases == 31
    assert done.notes == (
        "Left out 2 with a label but without images: 10007_514, 10008_516.",
        "Left out 2 with images but without a label: 10009_518, 99_1.",
        "Left out 1 patients of train.csv that train_series_meta.csv does not have: 10009.",
    )
    assert {"10007", "10008", "10009", "99"}.isdisjoint(row["patient"] for row in rows_of(tmp_path / "t.csv"))


def changed(name: str, old: str, new: str) -> Callable[[Path], None]:
    def change(root: Path) -> None:
        text = (root / name).read_text()
        assert old in text
        (root / name).write_text(text.replace(old, new, 1))

    return change


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (lambda root: (root / "train.csv").unlink(), "lacks 'train.csv': give the one that holds train.csv, "),
        (lambda root: (root / "train_series_meta.csv").unlink(), "lacks 'train_series_meta.csv'"),
        (lambda root: shutil.rmtree(root / "train_images"), "lacks 'train_images'"),
        (lambda root: shutil.rmtree(root), "There is no folder"),
        (lambda root: [shutil.rmtree(p) for p in (root / "train_images").iterdir()], "None of the 34 labelled cases"),
        (changed("train.csv", "liver_low", "low"), "'train.csv' lacks the column 'liver_low'"),
        (changed("train_series_meta.csv", "aortic_hu", "hu"), "lacks the column 'aortic_hu'"),
        (changed("train.csv", "10003,0,1,1,0,1,0,0,1", "10003,0,1,1,0,1,0,0,yes"),
         "'liver_healthy' in line 5 of 'train.csv' must be 0 or 1, but is 'yes'"),
        (changed("train.csv", "10003,0,1,1,0,1,0,0,1", "10003,0,1,1,0,1,0,0,2"), "must be 0 or 1, but is '2'"),
        (changed("train.csv", "10003,0,1,1,0,1,0,0,1", "10003,0,1,1,0,1,0,0,nan"), "must be 0 or 1, but is 'nan'"),
        (changed("train.csv", "10003,0,1,1,0,1,0,0,1", "10003,0,1,1,0,1,0,0,"), "must be 0 or 1, but is ''"),
        (changed("train.csv", "10003,0,1,1,0,1,0,0,1", "10003,0,1,1,0,1,0,0,0"),
         "exactly one must be 1 in line 5 of 'train.csv', but 0 are"),
        (changed("train.csv", "10003,0,1,1,0,1,0,0,1,0", "10003,0,1,1,0,1,0,0,1,1"), "but 2 are"),
        (changed("train.csv", "10003,", "10002,"), "The case '10002' comes twice, again in line 5 of 'train.csv'"),
        (changed("train_series_meta.csv", "10000,501", "10000,500"), "The case '10000_500' comes twice"),
        (changed("train_series_meta.csv", "200.5", "bright"), "'aortic_hu' in line 2 .* but is 'bright'"),
        (changed("train_series_meta.csv", "200.5,0", "200.5,3"), "'incomplete_organ' in line 2 .* but is '3'"),
    ],
    ids=[
        "no labels", "no series", "no images", "no folder", "no case with images", "no column", "no column of a series",
        "word for a label", "label of 2", "nan", "empty label", "no grade", "two grades", "patient twice",
        "series twice", "word for a number", "flag of 3",
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_in_a_sentence_and_nothing_is_written(
    data: Path, tmp_path: Path, spoil: Callable[[Path], object], sentence: str
) -> None:
    spoil(data)
    with pytest.raises(InputError, match=sentence):
        converted(data, tmp_path / "out" / "t.csv")
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"task": ""}, "none is given: give --task with one of RSNA2023-bowel, "),
        ({"task": "RSNA2023-lung"}, "but is 'RSNA2023-lung'"),
        ({"shares": (0.5, 0.5, 0.5)}, "must sum to 1"),
        ({"shares": (0.0, 0.5, 0.5)}, "with some for train"),
        ({"images": Path("x")}, "leave --images out"),
    ],
)
def test_an_order_that_cannot_be_carried_out_is_refused(
    published: Path, tmp_path: Path, fields: dict, sentence: str
) -> None:
    with pytest.raises(InputError, match=sentence):
        converted(published, tmp_path / "t.csv", **fields)


def test_a_table_that_is_there_stays_unless_it_shall_be_replaced(published: Path, tmp_path: Path) -> None:
    table = tmp_path / "t.csv"
    table.write_text("mine")
    with pytest.raises(InputError, match="is there already"):
        converted(published, table)
    with pytest.raises(InputError, match="RSNA2023-lung"):
        converted(published, table, task="RSNA2023-lung", replace=True)
    assert table.read_text() == "mine"
    assert converted(published, table, replace=True).cases == 34


def test_the_shell_converts_and_tells_what_was_left_out(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(data / "train_images" / PATIENTS[7])
    table = tmp_path / "t.csv"
    words = ("manifest", "convert", "rsna-abdominal", data, "--out", table, "--task", "RSNA2023-liver")
    assert anymc3d(*words, "--seed", "1", "--shares", "0.6,0.2,0.2", "--one-series") == 0
    assert capsys.readouterr().out == (
        f"Left out 1 with a label but without images: 10007_514.\nWrote '{table}': 29 cases.\n"
    )
    assert anymc3d(*words) == 1
    assert "is there already" in capsys.readouterr().err
    assert anymc3d("manifest", "convert", "luna", data, "--out", table) == 2
