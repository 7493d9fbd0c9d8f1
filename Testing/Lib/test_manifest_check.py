"""Checking a table of labelled cases: everything that is wrong is said at once, and nothing else."""

from __future__ import annotations

import csv
import gzip
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from networks import plugin_spec, tiny_backbone, view
from shell import anymc3d
from volumes import straight

from AnyMC3DLib.errors import InputError
from AnyMC3DLib.spec import ClassSpec, PluginSpec, RegionSpec
from AnyMC3DLib.training import manifest_rows
from AnyMC3DLib.training.manifest_check import Report, check_manifest
from AnyMC3DLib.training.manifest_headers import read_header
from AnyMC3DLib.training.table import columns_of, parse_table, read_rows
from AnyMC3DLib.volume import Volume, write_volume

Row = dict[str, Any]
CLASSES = ("normal", "lesion")


@pytest.fixture(scope="module")
def one() -> PluginSpec:
    """A binary plugin of one image, called 'image'."""
    return plugin_spec(tiny_backbone())


@pytest.fixture(scope="module")
def two() -> PluginSpec:
    """A plugin of three classes with two images that looks at a region of the first."""
    backbone = tiny_backbone()
    looks = view(backbone, source="t1", region=RegionSpec(kind="segment"))
    views = (looks, view(backbone, "coronal", source="t2"))
    return plugin_spec(backbone, task_type="multiclass", views=views)


@pytest.fixture(scope="module")
def several() -> PluginSpec:
    """A multilabel plugin of one image."""
    classes = tuple(ClassSpec(name=name) for name in ("effusion", "mass"))
    return plugin_spec(tiny_backbone(), task_type="multilabel", classes=classes)


class Folder:
    """A folder of small images, each with a content of its own, and the table beside them."""

    def __init__(self, place: Path) -> None:
        self.place, self._made = place, 0

    def image(self, name: str, affine: np.ndarray | None = None, shape: tuple[int, int, int] = (4, 5, 6)) -> str:
        """Write an image and give its name."""
        self._made += 1
        array = np.random.default_rng(self._made).integers(0, 255, shape).astype(np.uint8)
        write_volume(self.place / name, Volume(array, straight() if affine is None else affine))
        return name

    def table(self, rows: list[Row], name: str = "table.csv") -> Path:
        columns = list(dict.fromkeys(column for row in rows for column in row))
        with (self.place / name).open("w", newline="") as stream:
            writer = csv.DictWriter(stream, columns)
            writer.writeheader()
            writer.writerows(rows)
        return self.place / name

    def good(self, count: int = 4) -> list[Row]:
        """Rows without a fault: every other case is of the second class, each half is a split."""
        return [
            {
                "case": f"c{n}", "patient": f"p{n}", "image": self.image(f"c{n}.nii.gz"), "label": CLASSES[n % 2],
                "split": "train" if n < count // 2 else "test",
            }
            for n in range(count)
        ]  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


def kinds(report: Report) -> list[tuple[int, str]]:
    return [(problem.line, problem.kind) for problem in report.problems]


# The whole


def test_a_table_without_a_fault_has_no_problem_and_its_classes_are_counted(folder: Folder, one: PluginSpec) -> None:
    report = check_manifest(folder.table(folder.good(6)), one)
    assert report.problems == ()
    assert report.counts == {"train": {"normal": 2, "lesion": 1}, "test": {"normal": 1, "lesion": 2}}
    assert report.totals == {"train": 3, "test": 3}


def planted(folder: Folder) -> tuple[list[Row], dict[int, str]]:
    """A table with fifteen faults, and their kinds by line. Line 2 is the first row."""
    place = folder.place
    box = "box:-31,17,-8,-28,20,-5"
    classes = ("normal", "mild", "severe")
    rows: list[Row] = [
        {
            "case": f"c{n}", "patient": f"p{n}", "t1": folder.image(f"a{n}.nii.gz"), "t2": folder.image(f"b{n}.nrrd"),
            "t1_region": box, "mask:t1": "", "label": classes[n % 3], "weight": "",
            "split": "train" if n < 12 else "val" if n < 18 else "test",
        }
        for n in range(21)
    ]  # fmt: skip
    moved = straight(origin=(-30.0, 17.0, -8.0))
    far = straight(origin=(400.0, 17.0, -8.0))
    (place / "text.nii.gz").write_text("no image")
    shutil.copy(place / "a1.nii.gz", place / "copy.nii.gz")
    faults: dict[int, tuple[Row, str]] = {
        3: ({"t1": "lost.nii.gz"}, "missing file"),
        4: ({"t2": "text.nii.gz"}, "unreadable file"),
        5: ({"mask:t1": folder.image("moved.nrrd", moved)}, "mask geometry"),
        6: ({"mask:t1": folder.image("far.nrrd", far)}, "mask overlap"),
        7: ({"t2": folder.image("other.nrrd", far)}, "views apart"),
        8: ({"label": "mildly"}, "unknown label"),
        9: ({"label": ""}, "empty label"),
        10: ({"case": "C0"}, "repeated case"),
        11: ({"split": "training"}, "unknown split"),
        12: ({"weight": "-1"}, "weight"),
        13: ({"t2": ""}, "empty image"),
        14: ({"t1_region": "lost.nrrd:3"}, "region"),
        15: ({"patient": "p0"}, "patient in two splits"),
        16: ({"t1": "copy.nii.gz"}, "leak"),
    }
    for number, (change, _) in faults.items():
        rows[number - 1] |= change
    rows[20]["label"] = "normal"  # the only severe case of its split
    kinds_by_line = {number + 1: kind for number, (_, kind) in faults.items()}
    return rows, kinds_by_line | {20: "absent class"}


@pytest.fixture
def task(folder: Folder, two: PluginSpec) -> Path:
    place = folder.place / "task.json"
    place.write_text(json.dumps({"plugin": two.to_dict()}))
    return place


def test_fifteen_planted_faults_are_all_reported_in_one_run_that_exits_with_1(
    folder: Folder, two: PluginSpec, task: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows, expected = planted(folder)
    assert len(set(expected.values())) == 15
    table = folder.table(rows)
    before = sorted(folder.place.iterdir())
    assert anymc3d("manifest", "check", table, "--task", task) == 1
    shown = capsys.readouterr()
    assert kinds(check_manifest(table, two)) == sorted(expected.items())
    sentences = [line for line in shown.out.splitlines() if line.startswith("Line ")]
    assert len(set(sentences)) == 15
    assert [int(line.split(":")[0].removeprefix("Line ")) for line in sentences] == sorted(expected)
    assert shown.err.endswith("anymc3d: The table 'table.csv' has 15 problems: see what is said above.\n")
    assert sorted(folder.place.iterdir()) == before


def test_the_shell_gives_the_report_as_json_too(folder: Folder, capsys: pytest.CaptureFixture[str]) -> None:
    rows = folder.good()
    table = folder.table(rows)
    assert anymc3d("manifest", "check", table, "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told == {
        "problems": [],
        "counts": {"train": {"lesion": 1, "normal": 1}, "test": {"lesion": 1, "normal": 1}},
        "totals": {"train": 2, "test": 2},
    }
    rows[0]["weight"] = "0"
    assert anymc3d("manifest", "check", folder.table(rows), "--json") == 1
    (problem,) = json.loads(capsys.readouterr().out)["problems"]
    words = "Line 2: The weight '0' is not a positive number: correct it or empty it."
    assert problem == {"line": 2, "case": "c0", "kind": "weight", "sentence": words}


# Table and columns


def test_json_lines_are_checked_as_csv_is(folder: Folder, one: PluginSpec) -> None:
    rows = folder.good()
    rows[1]["weight"] = 0
    rows[3]["label"] = None
    text = "\n".join(json.dumps({**row, "mask": None}) for row in rows[:2]) + "\n\n[1]\n"
    place = folder.place / "table.jsonl"
    place.write_text(text + "\n".join(map(json.dumps, rows[2:])))
    report = check_manifest(place, one)
    assert kinds(report) == [(2, "weight"), (4, "line"), (5, "absent class"), (6, "empty label")]


def test_a_line_with_too_many_values_is_one_problem_among_others(folder: Folder, one: PluginSpec) -> None:
    rows = folder.good()
    rows[2]["weight"] = "none"
    table = folder.table(rows)
    table.write_text(table.read_text() + "c9,p9,c0.nii.gz,lesion,train,1,too,many\n")
    assert kinds(check_manifest(table, one)) == [(4, "weight"), (6, "line")]
    with pytest.raises(InputError, match=r"Line 6 of 'table.csv' has 8 values for 6 columns"):
        read_rows(table, one)


def test_missing_columns_are_all_named_and_the_rest_is_checked(folder: Folder, two: PluginSpec) -> None:
    rows = folder.good()
    for row in rows:
        row["t1"] = row.pop("image")
        row["mask"] = ""
        del row["label"]
    rows[0]["split"] = "x"
    report = check_manifest(folder.table(rows), two)
    told = [p.sentence.split("'")[1] for p in report.problems if p.kind == "missing column"]
    assert told == ["t2", "label", "t1_region"]
    assert {"unknown split", "mask column"} <= {p.kind for p in report.problems}
    assert not {"empty label", "empty image", "empty region"} & {p.kind for p in report.problems}


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "has no rows"),
        (b"case,image\n", "has no rows"),
        (b"case,case\na,b\n", "names the column 'case' twice"),
        (b"\xff\xfe\x00", "not text in UTF-8"),
        (None, "There is no table"),
    ],
)
def test_what_is_no_table_is_refused(tmp_path: Path, content: bytes | None, sentence: str) -> None:
    place = tmp_path / "table.csv"
    if content is not None:
        place.write_bytes(content)
    with pytest.raises(InputError, match=sentence):
        check_manifest(place)


def test_rows_are_read_as_they_are_written_with_paths_relative_to_the_table(tmp_path: Path, one: PluginSpec) -> None:
    (tmp_path / "table.csv").write_text("case,patient,image,mask,label,split,weight\na,,x.nii,m.nii,lesion,,2\n")
    (row,) = read_rows(tmp_path / "table.csv", one)
    assert (row.line, row.case, row.person, row.split, row.weight) == (2, "a", "a", "", "2")
    assert (row.images, row.masks) == ({"image": tmp_path / "x.nii"}, {"image": tmp_path / "m.nii"})
    assert row.labels == {"label": "lesion"}


def test_without_a_task_the_table_tells_its_images_and_classes(folder: Folder) -> None:
    rows = folder.good()
    for row in rows:
        row |= {"flair": row.pop("image"), "age": "61", "flair_region": "", "mask:flair": ""}
    report = check_manifest(folder.table(rows))
    assert report.problems == ()
    assert set(report.counts["train"]) == set(CLASSES)
    rows[0]["flair"] = "lost.nii"
    assert kinds(check_manifest(folder.table(rows))) == [(2, "missing file")]


def test_without_a_task_columns_of_0_and_1_are_the_classes(folder: Folder) -> None:
    rows = folder.good()
    for n, row in enumerate(rows):
        del row["label"]
        row |= {"cyst": str(n % 2), "mass": "" if n == 3 else str((n + 1) % 2), "age": str(30 + n)}
    table = folder.table(rows)
    assert columns_of(parse_table(table)[0], None).classes == ("cyst", "mass")
    # The last case's missing label leaves the test split without a case that has no mass.
    assert kinds(check_manifest(table)) == [(4, "absent class")]


# Labels


def test_several_labels_may_be_missing_but_not_all_and_are_0_or_1(folder: Folder, several: PluginSpec) -> None:
    values = [("0", "1"), ("1", "0"), ("", "1"), ("1", ""), ("", ""), ("2", "0"), ("0", "yes")]
    rows = folder.good(len(values))
    for row, (effusion, mass) in zip(rows, values, strict=True):
        row |= {"effusion": effusion, "mass": mass, "split": "train"}
    report = check_manifest(folder.table(rows), several)
    assert kinds(report) == [(6, "empty label"), (7, "multilabel value"), (8, "multilabel value")]
    assert report.counts == {"train": {"effusion": 2, "mass": 2}}


def test_a_table_without_splits_is_looked_at_as_a_whole(folder: Folder, one: PluginSpec) -> None:
    rows = folder.good()
    for row in rows:
        row |= {"split": "", "label": "normal"}
    (problem,) = check_manifest(folder.table(rows), one).problems
    assert problem.sentence == "Line 2: In the table there is no case of the class 'lesion': add some."


def test_a_table_of_other_splits_may_hold_rows_of_no_split(folder: Folder, one: PluginSpec) -> None:
    rows = folder.good(6)
    rows[0] |= {"split": ""}
    report = check_manifest(folder.table(rows), one)
    assert report.problems == ()
    assert report.totals == {"train": 2, "test": 3, "": 1}


# Files


def test_a_patient_in_two_splits_is_said_once_for_each_split(folder: Folder, one: PluginSpec) -> None:
    rows = folder.good(8)
    for row in rows[2:6]:
        row["patient"] = "same"
    report = check_manifest(folder.table(rows), one)
    assert kinds(report) == [(6, "patient in two splits")]
    assert "in 'test' here and in 'train' in line 4" in report.problems[0].sentence


def test_the_same_image_in_two_rows_is_said_with_both_lines(folder: Folder, one: PluginSpec) -> None:
    rows = folder.good(8)
    packed = (folder.place / "c1.nii.gz").read_bytes()
    # Packed anew, the bytes differ and the content is the same.
    (folder.place / "again.nii.gz").write_bytes(gzip.compress(gzip.decompress(packed), compresslevel=1))
    rows[2]["image"] = "again.nii.gz"
    rows[3]["image"] = "c0.nii.gz"
    report = check_manifest(folder.table(rows), one)
    assert kinds(report) == [(4, "repeated image"), (5, "repeated image")]
    assert ["line 3" in report.problems[0].sentence, "line 2" in report.problems[1].sentence] == [True, True]
    rows[2]["split"] = "test"
    report = check_manifest(folder.table(rows), one)
    assert kinds(report) == [(4, "leak"), (5, "repeated image")]
    assert "leaks from 'train' to 'test'" in report.problems[0].sentence


def test_two_regions_of_one_image_are_two_cases_unless_they_are_in_two_splits(folder: Folder, two: PluginSpec) -> None:
    rows = folder.good(3)
    for n, row in enumerate(rows):
        row |= {"t1": rows[0]["image"], "t2": rows[0]["image"], "t1_region": f"box:-31,17,-8,{-28 + n},20,-5",
                "label": ("normal", "mild", "severe")[n], "split": "train"}  # fmt: skip
    table = folder.table(rows)
    assert check_manifest(table, two).problems == ()
    rows[2]["split"] = "val"
    assert "leak" in {p.kind for p in check_manifest(folder.table(rows), two).problems}


def test_a_region_needs_its_cell_a_box_with_a_volume_and_a_place_in_the_image(folder: Folder, two: PluginSpec) -> None:
    rows = folder.good(6)
    regions = ["", "box:1,2,3", "box:900,900,900,910,910,910", folder.image("r.nrrd"), "r.nrrd:2", "text.nrrd"]
    (folder.place / "text.nrrd").write_text("no image")
    for n, (row, region) in enumerate(zip(rows, regions, strict=True)):
        row |= {"t1": row["image"], "t2": folder.image(f"b{n}.nrrd"), "t1_region": region,
                "label": ("normal", "mild", "severe")[n % 3], "split": "train"}  # fmt: skip
    report = check_manifest(folder.table(rows), two)
    assert kinds(report) == [(2, "empty region"), (3, "region"), (4, "region"), (7, "region")]


def test_each_file_is_read_once(folder: Folder, one: PluginSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = folder.good()
    for row in rows:
        row["mask"] = "c0.nii.gz"
    read: list[Path] = []
    monkeypatch.setattr(manifest_rows, "read_header", lambda place: read.append(place) or read_header(place))
    assert check_manifest(folder.table(rows), one).problems == ()
    assert sorted(path.name for path in read) == [f"c{n}.nii.gz" for n in range(4)]
