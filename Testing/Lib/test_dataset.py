"""The editable table of cases: what is put in is checked, what is saved is read again, and problems find their rows."""

from __future__ import annotations

import csv
import itertools
import json
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from volumes import straight

from AnyMC3DLib.errors import InputError
from AnyMC3DLib.spec import BackboneRef, ClassSpec, PluginSpec, ViewSpec
from AnyMC3DLib.training.dataset import Dataset
from AnyMC3DLib.training.manifest_check import check_manifest
from AnyMC3DLib.training.pseudonym import pseudonym
from AnyMC3DLib.training.splits import SHARES
from AnyMC3DLib.training.table import read_rows
from AnyMC3DLib.volume import Volume, write_volume

Cells = list[dict[str, str]]


def spec_of(*classes: str, task_type: str = "binary", sources: tuple[str, ...] = ("image",)) -> PluginSpec:
    return PluginSpec(
        name="a plugin",
        task_type=task_type,
        classes=tuple(ClassSpec(name=name) for name in classes),
        backbone=BackboneRef(id="none"),
        views=tuple(ViewSpec(name=source, source=source) for source in sources),
    )


def spec_for(dataset: Dataset) -> PluginSpec:
    return spec_of(*dataset.classes, task_type=dataset.task_type, sources=dataset.sources)


def content(dataset: Dataset) -> Cells:
    """What a table shows, without its keys and the cells that are empty."""
    return [dataset.case(key).cells for key in dataset.keys]


def told(dataset: Dataset) -> tuple[Any, ...]:
    return dataset.task_type, dataset.classes, dataset.sources, dataset.columns, content(dataset)


def written(path: Path) -> list[list[str]]:
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.reader(stream))


def labelled(count: int, *, patients: int | None = None, classes: tuple[str, ...] = ("no", "yes")) -> Dataset:
    """Cases of each class in turn; `patients` of them, where it is given."""
    dataset = Dataset(classes, "binary" if len(classes) == 2 else "multiclass")
    for number in range(count):
        patient = "" if patients is None else f"p{number % patients}"
        label = classes[number % len(classes)]
        dataset.add(case=f"c{number}", image=f"c{number}.nrrd", label=label, patient=patient)
    return dataset


def write_image(place: Path, seed: int) -> str:
    array = np.random.default_rng(seed).integers(0, 255, (3, 4, 5)).astype(np.uint8)
    write_volume(place, Volume(array, straight()))
    return place.name


# Cells


def test_a_new_table_is_binary_of_one_image_and_offers_what_may_be_filled() -> None:
    dataset = Dataset()
    assert (dataset.task_type, dataset.classes, dataset.sources) == ("binary", ("no", "yes"), ("image",))
    assert dataset.columns == ("case", "patient", "image", "label", "mask", "image_region", "split", "weight")
    assert dataset.keys == ()
    assert not dataset.modified


def test_several_images_have_a_column_and_a_mask_each() -> None:
    dataset = Dataset(("a", "b"), "multilabel", ("t1", "t2"))
    assert dataset.columns == (
        "case", "patient", "t1", "t2", "a", "b", "mask:t1", "mask:t2", "t1_region", "t2_region", "split", "weight",
    )  # fmt: skip
    assert dataset.label_columns == ("a", "b")


def test_a_case_is_added_with_its_cells_and_gets_a_name_where_it_has_none() -> None:
    dataset = Dataset()
    named = dataset.add(case="mine", image=Path("a.nrrd"), label="yes")
    dataset.add(case="CASE-002")
    made = [dataset.add(image="b.nrrd") for _ in range(3)]
    assert dataset.cell(named, "image") == "a.nrrd"
    assert [dataset.cell(key, "case") for key in made] == ["case-001", "case-003", "case-004"]
    assert dataset.modified


def test_keys_are_never_used_again() -> None:
    dataset = Dataset()
    first, second = dataset.add(), dataset.add()
    dataset.remove([second])
    third = dataset.add()
    assert len({first, second, third}) == 3
    assert dataset.keys == (first, third)


def test_a_cell_loses_blanks_and_line_breaks() -> None:
    dataset = Dataset()
    key = dataset.add()
    dataset.set_cell(key, "patient", "  p\r\n1 \n")
    assert dataset.cell(key, "patient") == "p 1"
    dataset.set_cell(key, "patient", " \n ")
    assert dataset.cell(key, "patient") == ""


@pytest.mark.parametrize(
    ("column", "text", "sentence"),
    [
        ("label", "Yes", "The label 'Yes' is no class of the task: use one of no, yes."),
        ("split", "training", "The split 'training' is none of train, val, test: correct it, or empty it."),
        ("weight", "0", "The weight '0' is not a positive number: correct it, or empty it."),
        ("weight", "nan", "The weight 'nan' is not a positive number"),
        ("weight", "inf", "The weight 'inf' is not a positive number"),
        ("weight", "much", "The weight 'much' is not a positive number"),
        ("case", "OTHER", "Another case is called 'OTHER' already"),
        ("colour", "red", "The table has no column 'colour'"),
        ("image", "a\udcff.nrrd", "holds characters that no table can"),
        ("patient", "x" * 200_000, "A cell cannot hold 200000 characters"),
    ],
)
def test_what_a_cell_cannot_hold_is_refused_in_a_sentence_and_changes_nothing(
    column: str, text: str, sentence: str
) -> None:
    dataset = Dataset()
    key = dataset.add(case="one", label="yes", split="val", weight="2")
    dataset.add(case="Other")
    before = content(dataset)
    with pytest.raises(InputError, match=sentence.replace(".", r"\.")):
        dataset.set_cell(key, column, text)
    with pytest.raises(InputError):
        dataset.add(**{"case": "third", column: text})
    assert content(dataset) == before


@pytest.mark.parametrize("column", ["label", "split", "weight", "image", "patient", "mask", "image_region"])
def test_a_cell_but_that_of_the_name_can_be_emptied(column: str) -> None:
    dataset = Dataset()
    values = {"label": "yes", "split": "val", "weight": "0.5"}
    key = dataset.add(**{column: values.get(column, "x")})
    dataset.set_cell(key, column, "")
    assert dataset.cell(key, column) == ""


def test_the_label_of_a_class_of_several_is_0_or_1_or_nothing() -> None:
    dataset = Dataset(("a", "b"), "multilabel")
    key = dataset.add(a="1", b="0")
    dataset.set_cell(key, "b", "")
    with pytest.raises(InputError, match="The label 'yes' of the class 'a' is neither 0 nor 1"):
        dataset.set_cell(key, "a", "yes")
    assert dataset.case(key).cells == {"case": "case-001", "a": "1"}


def test_a_case_without_a_name_is_refused() -> None:
    dataset = Dataset()
    key = dataset.add(case="a")
    with pytest.raises(InputError, match="A case needs a name"):
        dataset.set_cell(key, "case", " \n")
    assert dataset.cell(key, "case") == "a"


def test_a_name_is_free_again_once_its_case_is_renamed_or_taken_out() -> None:
    dataset = Dataset()
    first, second, third = (dataset.add(case=name) for name in ("a", "b", "c"))
    dataset.set_cell(first, "case", "A")
    dataset.set_cell(first, "case", "d")
    dataset.remove([second])
    dataset.set_cell(third, "case", "a")
    dataset.add(case="B")
    with pytest.raises(InputError, match="Another case is called 'D' already"):
        dataset.add(case="D")
    assert [cells["case"] for cells in content(dataset)] == ["d", "a", "B"]


def test_cases_that_are_not_there_are_told_and_nothing_is_taken_out() -> None:
    dataset = Dataset()
    keys = [dataset.add(), dataset.add()]
    for act in (lambda: dataset.cell(99, "case"), lambda: dataset.set_cell(99, "case", "x"), lambda: dataset.case(99)):
        with pytest.raises(InputError, match="There is no case 99"):
            act()
    with pytest.raises(InputError, match="There is no case 99"):
        dataset.remove([*keys, 99])
    assert dataset.keys == tuple(keys)
    dataset.remove([keys[0], keys[0]])
    assert dataset.keys == (keys[1],)


def test_a_copy_of_a_case_does_not_change_the_table() -> None:
    dataset = Dataset()
    key = dataset.add(case="a")
    dataset.case(key).cells["case"] = "b"
    assert dataset.cell(key, "case") == "a"


# Files


def test_saved_and_opened_again_is_the_same(tmp_path: Path) -> None:
    dataset = labelled(4, patients=2)
    one = dataset.keys[0]
    for column, text in (("mask", "m.nrrd"), ("image_region", "box:-1,2,3,4,5,6"), ("weight", "2.5"), ("split", "val")):
        dataset.set_cell(one, column, text)
    dataset.save(tmp_path / "table.csv")
    assert told(Dataset.open(tmp_path / "table.csv")) == told(dataset)


NASTY = [
    'say "no"', "a,b",
    "a;b", "a\tb", "'", '"', "=1+1", "{", "#", "ünïcode 漢字", "x\u2028x", "0", "-", "a  b", "\\", "x\x00x",
]  # fmt: skip


@pytest.mark.parametrize("task_type", ["binary", "multiclass", "multilabel"])
@pytest.mark.parametrize("seed", range(6))
def test_whatever_the_cells_and_names_hold_it_is_saved_and_opened_as_it_was(
    tmp_path: Path, task_type: str, seed: int
) -> None:
    rng = random.Random(seed)
    sources = ("image",) if seed % 2 else ("t1", "t2")
    nasty = [f"{text}{number}" for number, text in enumerate(NASTY)]
    classes = tuple(rng.sample(nasty, 2 if task_type == "binary" else 4))
    dataset = Dataset(classes, task_type, sources)
    for number in range(12):
        values = {column: rng.choice(["", *NASTY]) for column in dataset.columns if rng.random() < 0.7}
        values |= {"case": f"{rng.choice(NASTY)}{number}", "weight": rng.choice(["", "0.25", "1e-3"])}
        values["split"] = rng.choice(["", "train", "val", "test"])
        values |= {column: rng.choice(["", "0", "1"] if task_type == "multilabel" else ["", *classes])
                   for column in dataset.label_columns}  # fmt: skip
        dataset.add(**values)
    dataset.save(tmp_path / "table.csv")
    opened = Dataset.open(tmp_path / "table.csv", spec=spec_for(dataset))
    assert told(opened) == told(dataset)
    assert not opened.modified
    assert not dataset.modified


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_columns_that_nothing_knows_are_kept_and_written_again(tmp_path: Path, separator: str) -> None:
    table = tmp_path / "table.csv"
    columns = ["", "site", "case", "image", "label", "age;;;;;;;;;;;;in years", "mask:other", "empty"]
    rows = [["0", "Bern", "a", "a.nrrd", "no", "7", "m.nrrd", ""], ["1", "", "b", "b.nrrd", "yes", "1;2", "", ""]]
    with table.open("w", encoding="utf-8-sig", newline="") as stream:
        writer = csv.writer(stream, delimiter=separator)
        # The reader takes for the separator what the header holds most of.
        writer.writerow([name if separator == ";" else name.replace(";", "") for name in columns])
        writer.writerows(rows)
    dataset = Dataset.open(table)
    assert dataset.columns[:4] == ("case", "patient", "image", "label")
    assert dataset.columns[-5:] == (
        "unnamed", "site", columns[5] if separator == ";" else "agein years", "mask:other", "empty"
    )  # fmt: skip
    dataset.save(tmp_path / "again.csv")
    again = Dataset.open(tmp_path / "again.csv")
    assert told(again) == told(dataset)
    assert [cells.get("unnamed") for cells in content(again)] == ["0", "1"]
    assert [cells.get("mask:other") for cells in content(again)] == ["m.nrrd", None]


def test_columns_that_no_row_fills_are_not_written(tmp_path: Path) -> None:
    dataset = labelled(2)
    dataset.save(tmp_path / "table.csv")
    rows = [["c0", "c0.nrrd", "no"], ["c1", "c1.nrrd", "yes"]]
    assert written(tmp_path / "table.csv") == [["case", "image", "label"], *rows]
    dataset.set_cell(dataset.keys[1], "weight", "2")
    dataset.save(tmp_path / "table.csv")
    assert written(tmp_path / "table.csv")[0] == ["case", "image", "label", "weight"]


def test_a_plugin_reads_what_was_saved(tmp_path: Path) -> None:
    dataset = Dataset(("a", "b", "c"), "multilabel", ("t1", "t2"))
    dataset.add(case="one", a="1", b="0", t1="x.nrrd", t2="y.nrrd", patient="p", split="val", **{"mask:t2": "m.nrrd"})
    dataset.save(tmp_path / "table.csv")
    (row,) = read_rows(tmp_path / "table.csv", spec_for(dataset))
    assert (row.case, row.patient, row.split, row.labels) == ("one", "p", "val", {"a": "1", "b": "0"})
    assert row.images == {"t1": tmp_path / "x.nrrd", "t2": tmp_path / "y.nrrd"}
    assert row.masks == {"t2": tmp_path / "m.nrrd"}


def test_json_lines_are_opened_and_saved_as_csv_alone(tmp_path: Path) -> None:
    first = {"case": "a", "image": "a.nrrd", "label": "sick", "weight": 2.0}
    lines = [first, {"case": "b\nc", "image": None, "age": 7}]
    table = tmp_path / "table.jsonl"
    table.write_text("\n".join(map(json.dumps, lines)))
    dataset = Dataset.open(table)
    assert content(dataset) == [
        {"case": "a", "image": "a.nrrd", "label": "sick", "weight": "2"}, {"case": "b c", "age": "7"},
    ]  # fmt: skip
    with pytest.raises(InputError, match=r"give a name with '\.csv'"):
        dataset.save(table)
    dataset.save(tmp_path / "table.csv")
    assert told(Dataset.open(tmp_path / "table.csv")) == told(dataset)


def test_a_table_whose_cases_were_all_taken_out_can_be_opened_again(tmp_path: Path) -> None:
    dataset = labelled(2)
    dataset.remove(dataset.keys)
    dataset.save(tmp_path / "table.csv")
    assert Dataset.open(tmp_path / "table.csv", spec=spec_for(dataset)).classes == ("no", "yes")
    assert Dataset.open(tmp_path / "table.csv").keys == ()


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("case,image,label\na,a.nrrd,no,1,2\n", "Line 2 has 5 values for 3 columns"),
        ('{"case": "a"}\n[1]\n', "Line 2 is not one JSON object of texts and numbers"),
        ("", "has no rows"),
        ("name,image\n", "has no rows"),
        ("case,case\na,b\n", "names the column 'case' twice"),
        ('case,"a\nb",a b\nx,1,2\n', "differ in line breaks alone"),
    ],
)
def test_a_file_that_is_no_table_is_refused_with_the_sentence_of_its_fault(
    tmp_path: Path, text: str, sentence: str
) -> None:
    (tmp_path / "table.csv").write_text(text)
    with pytest.raises(InputError, match=sentence):
        Dataset.open(tmp_path / "table.csv")


def test_a_table_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="There is no table"):
        Dataset.open(tmp_path / "table.csv")


def test_classes_are_guessed_without_a_task_and_taken_from_one_with_it(tmp_path: Path) -> None:
    dataset = labelled(6, classes=("normal", "lesion"))
    dataset.save_copy(tmp_path / "table.csv")
    guessed = Dataset.open(tmp_path / "table.csv")
    assert (guessed.task_type, guessed.classes) == ("binary", ("lesion", "normal"))
    known = Dataset.open(tmp_path / "table.csv", spec=spec_for(dataset))
    assert (known.task_type, known.classes) == ("binary", ("normal", "lesion"))
    three = labelled(6, classes=("a", "b", "c"))
    three.save(tmp_path / "three.csv")
    assert Dataset.open(tmp_path / "three.csv").task_type == "multiclass"
    three.set_task_type("multilabel")
    three.save(tmp_path / "several.csv")
    several = Dataset.open(tmp_path / "several.csv")
    assert (several.task_type, several.classes) == ("multilabel", ("a", "b", "c"))


def test_a_plugins_image_may_be_in_the_column_image(tmp_path: Path) -> None:
    labelled(2).save(tmp_path / "table.csv")
    dataset = Dataset.open(tmp_path / "table.csv", spec=spec_of("no", "yes", sources=("t1",)))
    assert dataset.sources == ("t1",)
    assert dataset.image_path(dataset.keys[0], "t1") == tmp_path / "c0.nrrd"
    assert "image" in dataset.columns
    assert "t1" not in dataset.columns


def test_what_was_wrong_in_the_file_is_kept_and_may_be_left_but_not_put_elsewhere(tmp_path: Path) -> None:
    table = tmp_path / "table.csv"
    table.write_text("case,image,label,split,weight\na,,maybe,training,-1\nA,,no,,\n")
    dataset = Dataset.open(table, spec=spec_of("no", "yes"))
    first, second = dataset.keys
    for column in ("case", "label", "split", "weight"):
        dataset.set_cell(first, column, dataset.cell(first, column))
    assert not dataset.modified
    with pytest.raises(InputError, match="The label 'maybe' is no class"):
        dataset.set_cell(second, "label", "maybe")
    dataset.save(table)
    assert content(Dataset.open(table, spec=spec_of("no", "yes"))) == content(dataset)


def test_a_file_that_cannot_be_written_leaves_the_table_as_it_was(tmp_path: Path) -> None:
    dataset = labelled(1)
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(InputError, match="it is a folder"):
        dataset.save(tmp_path / "folder.csv")
    assert dataset.modified
    assert dataset.path is None


# Paths


def test_paths_in_the_tables_folder_are_relative_and_others_absolute(tmp_path: Path) -> None:
    home, away = tmp_path / "home", tmp_path / "away"
    dataset = Dataset()
    inside = dataset.add(image=home / "scans" / "a.nrrd", mask=home / "a-mask.nrrd", image_region=f"{home}/seg.nrrd:3")
    outside = dataset.add(image=away / "b.nrrd", image_region="box:1,2,3,4,5,6")
    beside = dataset.add(image=tmp_path / "home2" / "c.nrrd")
    dataset.save(home / "table.csv")
    assert dataset.case(inside).cells["image"] == "scans/a.nrrd"
    assert dataset.case(inside).cells["mask"] == "a-mask.nrrd"
    assert dataset.case(inside).cells["image_region"] == "seg.nrrd:3"
    assert dataset.case(outside).cells["image"] == str(away / "b.nrrd")
    assert dataset.case(outside).cells["image_region"] == "box:1,2,3,4,5,6"
    assert dataset.case(beside).cells["image"] == str(tmp_path / "home2" / "c.nrrd")
    assert content(Dataset.open(home / "table.csv")) == content(dataset)


def test_saved_to_another_folder_the_table_names_the_same_files(tmp_path: Path) -> None:
    home, away = tmp_path / "home", tmp_path / "home" / "deeper"
    dataset = Dataset()
    dataset.add(image="a.nrrd", mask=away / "m.nrrd", image_region="seg.nrrd:2")
    dataset.add(image="deeper/../b.nrrd", image_region="box:1,2,3,4,5,6")
    for _ in range(2):
        dataset.save(home / "table.csv")
        assert [cells["image"] for cells in content(dataset)] == ["a.nrrd", "deeper/../b.nrrd"]
    before = [(dataset.image_path(key, "image"), dataset.mask_path(key, "image")) for key in dataset.keys]
    dataset.save(away / "table.csv")
    opened = Dataset.open(away / "table.csv")
    assert [cells["image"] for cells in content(opened)] == [str(home / "a.nrrd"), str(home / "b.nrrd")]
    assert opened.cell(opened.keys[0], "mask") == "m.nrrd"
    assert opened.cell(opened.keys[0], "image_region") == f"{home}/seg.nrrd:2"
    assert opened.cell(opened.keys[1], "image_region") == "box:1,2,3,4,5,6"
    for table in (dataset, opened):
        assert [(table.image_path(key, "image"), table.mask_path(key, "image")) for key in table.keys] == before
    opened.save(home / "table.csv")
    assert [cells["image"] for cells in content(opened)] == ["a.nrrd", "b.nrrd"]


def test_a_path_is_shown_at_once_as_it_will_be_saved(tmp_path: Path) -> None:
    dataset = labelled(1)
    dataset.save(tmp_path / "table.csv")
    dataset.set_cell(dataset.keys[0], "image", tmp_path / "x.nrrd")
    assert dataset.cell(dataset.keys[0], "image") == "x.nrrd"
    assert dataset.image_path(dataset.keys[0], "image") == tmp_path / "x.nrrd"


def test_the_path_of_an_empty_cell_is_none_and_an_unknown_image_is_told() -> None:
    dataset = Dataset()
    key = dataset.add(image="a.nrrd")
    assert dataset.image_path(key, "image") == Path.cwd() / "a.nrrd"
    assert dataset.mask_path(key, "image") is None
    with pytest.raises(InputError, match="The table has no image 't9'"):
        dataset.image_path(key, "t9")


def test_a_copy_names_the_same_files_and_leaves_the_table_as_it_was(tmp_path: Path) -> None:
    dataset = labelled(2)
    dataset.save(tmp_path / "home" / "table.csv")
    dataset.set_cell(dataset.keys[0], "weight", "3")
    before = told(dataset)
    dataset.save_copy(tmp_path / "away" / "table.csv")
    assert told(dataset) == before
    assert dataset.path == tmp_path / "home" / "table.csv"
    assert dataset.modified
    copy = Dataset.open(tmp_path / "away" / "table.csv")
    assert copy.image_path(copy.keys[0], "image") == tmp_path / "home" / "c0.nrrd"


# Changed or not


def test_every_edit_marks_the_table_and_saving_or_opening_clears_the_mark(tmp_path: Path) -> None:
    table = tmp_path / "table.csv"
    dataset = labelled(6)
    first = dataset.keys[0]
    plan = dataset.plan_split({"train": 0.5, "val": 0.5})
    edits = [
        lambda: dataset.set_cell(first, "patient", "p"), lambda: dataset.add(), lambda: dataset.remove([first]),
        lambda: dataset.add_class("maybe"), lambda: dataset.rename_class("maybe", "perhaps"),
        lambda: dataset.order_classes(("yes", "no", "perhaps")), lambda: dataset.remove_class("perhaps"),
        lambda: dataset.set_task_type("multiclass"), lambda: dataset.apply(plan),
    ]  # fmt: skip
    for edit in edits:
        dataset.save(table)
        assert not dataset.modified
        edit()
        assert dataset.modified
    dataset.save(table)
    again = [
        lambda: dataset.set_cell(dataset.keys[0], "label", dataset.cell(dataset.keys[0], "label")),
        lambda: dataset.remove([]), lambda: dataset.apply(plan), lambda: dataset.rename_class("no", "no"),
        lambda: dataset.set_task_type("multiclass"), lambda: dataset.order_classes(("yes", "no")),
    ]  # fmt: skip
    for edit in again:
        edit()
        assert not dataset.modified
    assert not Dataset.open(table).modified


# Classes


@pytest.mark.parametrize("task_type", ["multiclass", "multilabel"])
def test_labels_follow_a_class_that_is_renamed(task_type: str) -> None:
    dataset = labelled(4)
    dataset.set_task_type(task_type)
    before = dataset.counts()[""]
    dataset.rename_class("yes", " lesion ")
    assert dataset.classes == ("no", "lesion")
    assert dataset.counts()[""] == {"no": before["no"], "lesion": before["yes"]}
    assert "yes" not in dataset.columns


def test_a_class_is_taken_out_only_when_no_case_has_it() -> None:
    dataset = labelled(3)
    dataset.add_class("third")
    with pytest.raises(InputError, match="The class 'yes' cannot be taken out while 1 case has it"):
        dataset.remove_class("yes")
    dataset.set_cell(dataset.keys[1], "label", "third")
    dataset.remove_class("yes")
    assert dataset.classes == ("no", "third")


def test_a_class_of_several_is_taken_out_with_its_column_when_no_case_has_it() -> None:
    dataset = labelled(3)
    dataset.set_task_type("multilabel")
    with pytest.raises(InputError, match="while 2 cases have it"):
        dataset.remove_class("no")
    for key in dataset.keys:
        dataset.set_cell(key, "no", "0")
    dataset.remove_class("no")
    assert dataset.label_columns == ("yes",)
    dataset.add_class("no")
    assert {dataset.cell(key, "no") for key in dataset.keys} == {""}


def test_names_of_classes_that_cannot_be_are_refused_and_change_nothing() -> None:
    dataset = labelled(2)
    for name, sentence in (("yes", "two classes 'yes'"), (" \n", "has no name")):
        with pytest.raises(InputError, match=sentence):
            dataset.add_class(name)
    for old, new, sentence in (("no", "yes", "two classes"), ("maybe", "x", "There is no class 'maybe'")):
        with pytest.raises(InputError, match=sentence):
            dataset.rename_class(old, new)
    with pytest.raises(InputError, match="There is no class 'maybe'"):
        dataset.remove_class("maybe")
    with pytest.raises(InputError, match="name each of them once"):
        dataset.order_classes(("yes", "yes"))
    assert dataset.classes == ("no", "yes")


@pytest.mark.parametrize("name", ["split", "case", "image", "mask:t9", "left_region"])
def test_a_class_with_a_column_cannot_be_called_as_another_column(name: str) -> None:
    dataset = labelled(2)
    dataset.add_class(name)  # as a label it means nothing else
    with pytest.raises(InputError, match=f"A column '{name}' has a meaning of its own"):
        dataset.set_task_type("multilabel")
    assert dataset.task_type == "binary"


def test_a_class_cannot_be_called_as_a_column_that_nothing_knows(tmp_path: Path) -> None:
    (tmp_path / "table.csv").write_text("case,image,label,age\na,a.nrrd,no,7\n")
    dataset = Dataset.open(tmp_path / "table.csv")
    dataset.set_task_type("multilabel")
    with pytest.raises(InputError, match="two columns 'age'"):
        dataset.add_class("age")
    assert content(dataset) == [{"case": "a", "image": "a.nrrd", "no": "1", "age": "7"}]


@pytest.mark.parametrize(
    ("classes", "task_type", "sources", "sentence"),
    [
        (("a", "a"), "binary", ("image",), "two classes 'a'"),
        (("a", ""), "binary", ("image",), "A class has no name"),
        (("a", "b"), "regression", ("image",), "There is no type of task 'regression'"),
        (("a", "b"), "binary", ("t1", "t1"), "two images 't1'"),
        (("a", "b"), "binary", ("label",), "two columns 'label'"),
    ],
)
def test_a_table_that_cannot_be_is_refused(
    classes: tuple[str, ...], task_type: str, sources: tuple[str, ...], sentence: str
) -> None:
    with pytest.raises(InputError, match=sentence):
        Dataset(classes, task_type, sources)


def test_labels_become_columns_of_0_and_1_and_come_back() -> None:
    dataset = labelled(3)
    dataset.add(case="unlabelled")
    before = content(dataset)
    dataset.set_task_type("multiclass")
    assert content(dataset) == before
    dataset.set_task_type("multilabel")
    assert [(cells.get("no"), cells.get("yes")) for cells in content(dataset)] == [
        ("1", "0"), ("0", "1"), ("1", "0"), (None, None),
    ]  # fmt: skip
    assert all("label" not in cells for cells in content(dataset))
    dataset.set_task_type("binary")
    assert content(dataset) == before


@pytest.mark.parametrize(("no", "yes", "count"), [("1", "1", 2), ("0", "0", 0), ("", "0", 0)])
def test_columns_do_not_become_one_label_where_a_case_has_not_exactly_one(no: str, yes: str, count: int) -> None:
    dataset = Dataset(task_type="multilabel")
    dataset.add(case="fine", no="1", yes="0")
    dataset.add(case="odd", no=no, yes=yes)
    before = content(dataset)
    with pytest.raises(InputError, match=f"The case 'odd' has {count} classes"):
        dataset.set_task_type("binary")
    assert (dataset.task_type, content(dataset)) == ("multilabel", before)


def test_a_label_that_is_no_class_is_not_lost_with_the_type_of_the_task(tmp_path: Path) -> None:
    (tmp_path / "table.csv").write_text("case,image,label\na,a.nrrd,no\nb,b.nrrd,maybe\n")
    dataset = Dataset.open(tmp_path / "table.csv", spec=spec_of("no", "yes"))
    with pytest.raises(InputError, match="In the case 'b': The label 'maybe' is no class"):
        dataset.set_task_type("multilabel")
    assert [cells["label"] for cells in content(dataset)] == ["no", "maybe"]


# Counts and splits


def test_cases_are_counted_by_split_and_class() -> None:
    dataset = labelled(4)
    dataset.set_cell(dataset.keys[0], "split", "train")
    dataset.set_cell(dataset.keys[1], "split", "val")
    dataset.add(split="test")
    nobody = {"no": 0, "yes": 0}
    assert dataset.counts() == {
        "train": {"no": 1, "yes": 0}, "val": {"no": 0, "yes": 1}, "test": nobody, "": {"no": 1, "yes": 1},
    }  # fmt: skip


def test_a_case_of_several_classes_counts_for_each() -> None:
    dataset = Dataset(("a", "b"), "multilabel")
    dataset.add(a="1", b="1")
    dataset.add(a="0", b="1")
    assert dataset.counts()[""] == {"a": 1, "b": 2}


def test_a_plan_splits_by_patient_keeps_the_shares_and_changes_nothing_until_it_is_applied() -> None:
    dataset = labelled(200, patients=100)
    loose = dataset.add(patient="p0")
    dataset.set_cell(loose, "split", "train")
    plan = dataset.plan_split(seed=3)
    assert dataset.counts()["train"] == {"no": 0, "yes": 0}
    assert plan == dataset.plan_split(SHARES, seed=3)
    assert plan.splits != dataset.plan_split(seed=4).splits
    dataset.apply(plan)
    assert dataset.counts() == plan.counts
    assert {name: sum(plan.counts[name].values()) for name in SHARES} == {"train": 140, "val": 30, "test": 30}
    for name, share in SHARES.items():
        assert plan.counts[name] == {"no": pytest.approx(100 * share, abs=2), "yes": pytest.approx(100 * share, abs=2)}
    assert dataset.cell(loose, "split") == ""
    splits = {}
    for cells in content(dataset)[:-1]:
        assert splits.setdefault(cells["patient"], cells["split"]) == cells["split"]


def test_several_labels_are_split_too_and_a_case_without_any_is_left_out() -> None:
    dataset = Dataset(("a", "b"), "multilabel")
    for number in range(40):
        dataset.add(a=str(number % 2), b="" if number % 4 else "1")
    loose = dataset.add()
    plan = dataset.plan_split({"train": 0.5, "val": 0.5})
    assert plan.splits[loose] == ""
    assert {name: plan.counts[name]["a"] for name in ("train", "val")} == {"train": 10, "val": 10}


def test_a_plan_passes_over_cases_that_were_taken_out_and_leaves_new_ones_alone() -> None:
    dataset = labelled(20)
    plan = dataset.plan_split({"train": 0.8, "val": 0.2, "test": 0})
    assert set(plan.splits.values()) == {"train", "val"}
    dataset.remove(dataset.keys[:5])
    new = dataset.add(split="test")
    dataset.apply(plan)
    assert dataset.cell(new, "split") == "test"
    assert all(dataset.cell(key, "split") == plan.splits[key] for key in dataset.keys[:-1])


@pytest.mark.parametrize(
    ("shares", "sentence"),
    [
        ({"train": 0.5, "val": 0.1}, "must be positive and sum to 1"),
        ({"train": 1.5, "val": -0.5}, "must be positive and sum to 1"),
        ({}, "must be positive and sum to 1"),
        ({"train": 0.5, "dev": 0.5}, "There is no split 'dev'"),
        ({"train": 0.5, "val": 0.5}, "The class 'yes' has 1 patients for 2 splits"),
    ],
)
def test_a_split_that_cannot_be_is_refused(shares: dict[str, float], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        labelled(3).plan_split(shares)


# Ready


def ready() -> Dataset:
    dataset = labelled(20, patients=10)
    dataset.apply(dataset.plan_split({"train": 0.6, "val": 0.4}))
    assert dataset.ready_problem() is None
    return dataset


def test_without_patients_each_case_is_one() -> None:
    dataset = labelled(8)
    dataset.apply(dataset.plan_split({"train": 0.5, "val": 0.5}))
    assert dataset.ready_problem() is None


def test_an_empty_table_is_not_ready() -> None:
    assert Dataset().ready_problem() == "There is no case yet: add some."


@pytest.mark.parametrize(
    ("column", "text", "sentence"),
    [
        ("label", "", "The case 'c0' has no label: give it one, or take the case out."),
        ("image", "", "The case 'c0' has nothing in the column 'image': name the file of the image."),
        ("split", "", "The case 'c0' has no split, but others have one: split the cases again."),
    ],
)
def test_what_a_case_lacks_is_told(column: str, text: str, sentence: str) -> None:
    dataset = ready()
    dataset.set_cell(dataset.keys[0], column, text)
    assert dataset.ready_problem() == sentence


def test_a_patient_in_two_splits_is_told_but_does_not_matter_for_folds() -> None:
    dataset = ready()
    key = dataset.keys[0]
    dataset.set_cell(key, "split", "val" if dataset.cell(key, "split") == "train" else "train")
    assert dataset.ready_problem() == "The patient 'p0' is in two splits: put all cases of one into one split."
    assert dataset.ready_problem(folds=True) is None


def test_a_type_of_task_that_the_classes_do_not_suit_is_told() -> None:
    dataset = ready()
    dataset.add_class("third")
    told_binary = dataset.ready_problem()
    assert told_binary is not None
    assert told_binary.startswith("A binary task has two classes, but there are 3")
    dataset.set_task_type("multiclass")
    absent = "In the table there is no case of the class 'third': add some, or take the class out."
    assert dataset.ready_problem() == absent
    for key in dataset.keys:
        dataset.set_cell(key, "label", "third")
    for name in ("no", "yes"):
        dataset.remove_class(name)
    assert dataset.ready_problem() == "A multiclass task has two classes or more, but there is 1: add one."


def test_two_classes_may_be_a_multiclass_task() -> None:
    dataset = ready()
    dataset.set_task_type("multiclass")
    assert dataset.ready_problem() is None


def test_splits_that_are_missing_are_told() -> None:
    dataset = labelled(4)
    assert dataset.ready_problem() == "No case has a split yet: split the cases."
    assert dataset.ready_problem(folds=True) is None
    for key in dataset.keys:
        dataset.set_cell(key, "split", "train")
    problem = dataset.ready_problem()
    assert problem is not None
    assert problem.startswith("No case is in the split 'val'")
    for key in dataset.keys[1::2]:
        dataset.set_cell(key, "split", "val")
    problem = dataset.ready_problem()
    assert problem is not None
    assert problem.startswith("In the split 'train' there is no case of the class 'yes'")
    assert dataset.ready_problem(folds=True) is None


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        ("a,a.nrrd,no,train,\nA,b.nrrd,yes,val,", "The name of the case 'A' comes twice"),
        (",a.nrrd,no,train,\nb,b.nrrd,yes,val,", "A case has no name"),
        ("a,a.nrrd,maybe,train,\nb,b.nrrd,yes,val,", "In the case 'a': The label 'maybe' is no class"),
        ("a,a.nrrd,no,training,\nb,b.nrrd,yes,val,", "In the case 'a': The split 'training' is none"),
        ("a,a.nrrd,no,train,-1\nb,b.nrrd,yes,val,", "In the case 'a': The weight '-1' is not"),
    ],
)
def test_what_was_wrong_in_the_file_is_told(tmp_path: Path, rows: str, sentence: str) -> None:
    (tmp_path / "table.csv").write_text(f"case,image,label,split,weight\n{rows}\n")
    problem = Dataset.open(tmp_path / "table.csv", spec=spec_of("no", "yes")).ready_problem()
    assert problem is not None
    assert problem.startswith(sentence)


def test_a_column_of_images_whose_name_no_view_can_have_is_told(tmp_path: Path) -> None:
    (tmp_path / "table.csv").write_text("case,T1 image,label\na,a.nrrd,no\nb,b.nrrd,yes\n")
    problem = Dataset.open(tmp_path / "table.csv").ready_problem()
    assert problem == "The image 'T1 image' needs a name of letters, digits, '-' and '_' alone: rename its column."


def test_a_class_of_several_that_no_case_has_is_told() -> None:
    dataset = Dataset(("a", "b"), "multilabel")
    dataset.add(image="x.nrrd", a="1", b="0", split="train")
    dataset.add(image="y.nrrd", a="0", b="", split="val")
    assert dataset.ready_problem() == "In the table there is no case of the class 'b': add some, or take the class out."


# Problems


def planted(folder: Path) -> tuple[Dataset, dict[str, int]]:
    """A table with faults after cases were added and taken out, and the keys of those with a fault by its word."""
    dataset = Dataset(("normal", "lesion"))
    names = itertools.count()

    def add(**values: str) -> int:
        number = next(names)
        image = write_image(folder / f"i{number}.nrrd", number)
        good = {"image": image, "label": ("normal", "lesion")[number % 2], "patient": f"p{number}"}
        return dataset.add(**{**good, "split": ("train", "val")[number // 2 % 2], **values})

    gone = [add() for _ in range(3)]
    keys = {"missing": add(image="lost.nrrd"), "fine": add(patient='one "two", three')}
    gone.append(add(image="lost too.nrrd"))
    keys |= {"label": add(label=""), "copy": add(image=str(folder / "i4.nrrd"))}
    for _ in range(8):
        add()
    dataset.remove(gone)
    keys["last"] = add(mask="lost-mask.nrrd")
    return dataset, keys


def test_the_problems_of_a_saved_table_are_told_at_their_rows(tmp_path: Path) -> None:
    dataset, keys = planted(tmp_path)
    dataset.save(tmp_path / "table.csv")
    report = check_manifest(tmp_path / "table.csv", spec_for(dataset)).to_dict()
    found = dataset.problems_by_key(json.loads(json.dumps(report)))
    assert set(found) == {keys["missing"], keys["label"], keys["copy"], keys["last"]}
    assert [len(sentences) for sentences in found.values()] == [1, 1, 1, 1]
    assert found[keys["missing"]][0].startswith("In the column 'image': ")
    assert found[keys["label"]] == ["The column 'label' is empty: give a label or take the row out."]
    assert "lost-mask.nrrd" in found[keys["last"]][0]
    assert not any(sentence.startswith("Line") for sentences in found.values() for sentence in sentences)


def test_problems_find_their_rows_though_the_table_was_changed_while_it_was_checked(tmp_path: Path) -> None:
    dataset, keys = planted(tmp_path)
    dataset.save(tmp_path / "table.csv")
    dataset.save_copy(tmp_path / "copy" / "table.csv")
    dataset.remove([dataset.keys[0], keys["label"]])
    dataset.add(case="new")
    report = check_manifest(tmp_path / "copy" / "table.csv", spec_for(dataset)).to_dict()
    assert keys["missing"] not in dataset.keys  # it was the first
    assert set(dataset.problems_by_key(report)) == {keys["copy"], keys["last"]}


def test_problems_of_the_whole_table_have_no_row(tmp_path: Path) -> None:
    dataset = Dataset(("normal", "lesion"))
    first = dataset.add(image=write_image(tmp_path / "a.nrrd", 1), label="normal", split="train")
    dataset.save(tmp_path / "table.csv")
    report = check_manifest(tmp_path / "table.csv", spec_of("normal", "lesion", sources=("t1", "t2"))).to_dict()
    found = dataset.problems_by_key(report)
    assert first not in found
    assert any(sentence.startswith("The table lacks the column 't1'") for sentence in found[None])
    assert any("no case of the class 'lesion'" in sentence for sentence in found[None])


def test_problems_of_a_file_as_it_was_opened_find_their_rows(tmp_path: Path) -> None:
    table = tmp_path / "table.csv"
    table.write_text('case,image,label,note\n\na,lost.nrrd,no,"two\nlines"\n\nb,,yes,\n')
    dataset = Dataset.open(table)
    first, second = dataset.keys
    found = dataset.problems_by_key(check_manifest(table).to_dict())
    assert found[first][0].startswith("In the column 'image'")
    assert found[second] == ["The column 'image' is empty: name the file of the image."]
    dataset.save(table)
    assert dataset.problems_by_key(check_manifest(table).to_dict()) == found


# The whole


def test_a_table_with_pseudonyms_that_is_ready_has_no_problem(tmp_path: Path) -> None:
    dataset = Dataset(("normal", "lesion"))
    for number in range(8):
        image = write_image(tmp_path / "images" / f"i{number}.nrrd", number)
        assert image
        dataset.add(
            image=tmp_path / "images" / image, label=dataset.classes[number % 2],
            patient=pseudonym(f"DOE^{number}", key=b"k" * 32),
        )  # fmt: skip
    dataset.apply(dataset.plan_split({"train": 0.5, "val": 0.5}))
    dataset.save(tmp_path / "table.csv")
    assert dataset.ready_problem() is None
    report = check_manifest(tmp_path / "table.csv", spec_for(dataset))
    assert report.problems == ()
    counted = {split: counts for split, counts in dataset.counts().items() if any(counts.values())}
    assert report.counts == counted


def test_two_thousand_cases_are_quick(tmp_path: Path) -> None:
    start = time.perf_counter()
    dataset = labelled(2000, patients=700)
    for key in dataset.keys:
        dataset.set_cell(key, "weight", "2")
    dataset.save(tmp_path / "table.csv")
    opened = Dataset.open(tmp_path / "table.csv")
    opened.save(tmp_path / "away" / "table.csv")
    opened.remove(opened.keys)
    assert time.perf_counter() - start < 5.0  # a busy machine takes ten times the time of an idle one


@pytest.mark.parametrize("action", ["", "table.plan_split({'train': 0.5, 'val': 0.5})"])
def test_the_table_and_its_check_need_no_torch(action: str) -> None:
    program = (
        "import sys\n"
        "from AnyMC3DLib.training import dataset, manifest_check\n"
        "table = dataset.Dataset()\n"
        "for number in range(8): table.add(label=('no', 'yes')[number % 2])\n"
        f"{action}\n"
        "sys.exit(any(name in sys.modules for name in ('torch', 'monai', 'sklearn', 'timm')))"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_the_positive_class_stays_the_second_one_though_the_alphabet_says_otherwise(tmp_path: Path) -> None:
    dataset = Dataset(("no lesion", "lesion", "artefact"), "multiclass")
    dataset.add(image="a.nrrd", label="lesion")
    dataset.save(tmp_path / "cases.csv")
    again = Dataset.open(tmp_path / "cases.csv")
    assert again.classes == ("no lesion", "lesion", "artefact")
    assert again.task_type == "multiclass"
    assert not again.modified


@pytest.mark.parametrize(
    "told",
    [
        "no JSON",
        "[]",
        '{"task_type": "binary", "classes": ["a", 3], "images": ["image"]}',
        '{"task_type": "binary", "classes": ["a", "b"], "images": ["image"]}',
        '{"task_type": "binary", "classes": ["no", "yes"], "images": ["t1"]}',
        '{"task_type": "multilabel", "classes": ["no", "yes"], "images": ["image"]}',
        '{"task_type": "ranking", "classes": ["no", "yes"], "images": ["image"]}',
    ],
)
def test_what_lies_beside_a_table_and_does_not_fit_it_is_left_aside(tmp_path: Path, told: str) -> None:
    (tmp_path / "cases.csv").write_text("case,image,label\nx,a.nrrd,yes\ny,b.nrrd,no\n", encoding="utf-8")
    (tmp_path / "cases.csv.classes.json").write_text(told, encoding="utf-8")
    dataset = Dataset.open(tmp_path / "cases.csv")
    assert dataset.classes == ("no", "yes")
    assert dataset.task_type == "binary"
    assert dataset.sources == ("image",)


def test_the_masks_of_a_table_that_was_saved_stay_masks_whatever_their_column_is_called(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    path = tmp_path / "a" / "cases.csv"
    path.write_text("case,image,mask:image,label\nx,i.nrrd,m.nrrd,yes\ny,j.nrrd,,no\n", encoding="utf-8")
    dataset = Dataset.open(path)
    dataset.save(path)
    again = Dataset.open(path)
    assert again.mask_path(again.keys[0], "image") == tmp_path / "a" / "m.nrrd"
    again.save(tmp_path / "b" / "cases.csv")
    moved = Dataset.open(tmp_path / "b" / "cases.csv")
    assert moved.mask_path(moved.keys[0], "image") == tmp_path / "a" / "m.nrrd"


def test_a_save_that_fails_beside_the_table_leaves_the_paths_as_they_were(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    (tmp_path / "b" / "cases.csv.classes.json").mkdir()
    dataset = Dataset()
    key = dataset.add(image=tmp_path / "a" / "x.nrrd", label="yes")
    dataset.save(tmp_path / "a" / "cases.csv")
    with pytest.raises(InputError):
        dataset.save(tmp_path / "b" / "cases.csv")
    assert dataset.path == tmp_path / "a" / "cases.csv"
    assert dataset.image_path(key, "image") == tmp_path / "a" / "x.nrrd"


def test_two_tables_of_one_name_keep_an_order_of_classes_each(tmp_path: Path) -> None:
    for ending, classes in ((".csv", ("sick", "healthy")), (".tsv", ("healthy", "sick"))):
        dataset = labelled(4, classes=classes)
        dataset.save(tmp_path / f"cases{ending}")
    assert Dataset.open(tmp_path / "cases.csv").classes == ("sick", "healthy")
    assert Dataset.open(tmp_path / "cases.tsv").classes == ("healthy", "sick")
