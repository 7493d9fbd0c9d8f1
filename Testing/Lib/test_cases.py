"""Labelled studies from MedMNIST files and tables, and what is refused."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from networks import plugin_spec, tiny_backbone, view
from shell import SHAPE, write_medmnist
from volumes import GRID, anatomy, straight

from AnyMC3DLib.errors import InputError
from AnyMC3DLib.prediction import Study
from AnyMC3DLib.spec import ClassSpec, PluginSpec, RegionSpec
from AnyMC3DLib.training.cases import Case, of_split, read_cases, volume_of_medmnist
from AnyMC3DLib.training.slices import cut_cases
from AnyMC3DLib.volume import Volume, write_volume


@pytest.fixture(scope="module")
def binary() -> PluginSpec:
    return plugin_spec(tiny_backbone())


@pytest.fixture(scope="module")
def multilabel() -> PluginSpec:
    names = ("effusion", "mass")
    return plugin_spec(tiny_backbone(), task_type="multilabel", classes=tuple(ClassSpec(name=n) for n in names))


# MedMNIST


def test_a_medmnist_file_gives_a_case_an_image(tmp_path: Path, binary: PluginSpec) -> None:
    place = write_medmnist(tmp_path / "blobs.npz")
    cases = read_cases(place, binary)
    assert Counter(case.split for case in cases) == {"train": 12, "val": 8, "test": 10}
    assert [case.id for case in of_split(cases, ["val"])][:2] == ["val-0", "val-1"]
    with np.load(place) as arrays:
        for number, case in enumerate(of_split(cases, ["test"])):
            assert case.target == int(arrays["test_labels"][number, 0])
            np.testing.assert_array_equal(case.load().image("image").array, arrays["test_images"][number])


@pytest.mark.parametrize(
    ("shape", "grid", "colour"),
    [((28, 28), (1, 28, 28), False), ((28, 28, 3), (1, 28, 28), True), (SHAPE, SHAPE, False)],
)
def test_a_picture_is_a_volume_of_one_slice(shape: tuple, grid: tuple, colour: bool) -> None:
    volume = volume_of_medmnist(np.zeros(shape, np.uint8))
    assert volume.grid == grid
    assert volume.is_colour == colour
    np.testing.assert_array_equal(volume.ijk_to_ras, np.eye(4))


def test_a_medmnist_file_may_hold_several_labels_an_image(tmp_path: Path, multilabel: PluginSpec) -> None:
    labels = {f"{split}_labels": np.tile([[1, 0], [0, 1]], (n // 2, 1))
              for split, n in (("train", 12), ("val", 8), ("test", 10))}  # fmt: skip
    cases = read_cases(write_medmnist(tmp_path / "many.npz", **labels), multilabel)
    np.testing.assert_array_equal(cases[0].target, [1, 0])
    np.testing.assert_array_equal(cases[1].target, [0, 1])


def test_a_medmnist_file_may_lack_the_cases_of_a_split(tmp_path: Path, binary: PluginSpec) -> None:
    empty = {"test_images": np.zeros((0, *SHAPE), np.uint8), "test_labels": np.zeros((0, 1), int)}
    cases = read_cases(write_medmnist(tmp_path / "no test.npz", **empty), binary)
    assert {case.split for case in cases} == {"train", "val"}
    with pytest.raises(InputError, match="no case in the split 'test': it has train, val"):
        of_split(cases, ["test"])


@pytest.mark.parametrize(
    ("changed", "phrase"),
    [
        ({"val_images": None}, "val_images is not a file in the archive"),
        ({"test_labels": None}, "test_labels is not a file in the archive"),
        ({"train_labels": np.zeros((5, 1), int)}, "12 images but 5 labels in 'train'"),
        ({"train_labels": np.array(3)}, "is not|has 12 images but 1 labels"),
        ({"val_labels": np.full((8, 1), 2)}, "one label from 0 to 1"),
        ({"val_labels": np.full((8, 1), -1)}, "one label from 0 to 1"),
        ({"val_labels": np.full((8, 1), 0.5)}, "one label from 0 to 1"),
        ({"val_labels": np.full((8, 1), np.nan)}, "one label from 0 to 1"),
        ({"val_labels": np.full((8, 1), "yes")}, "one label from 0 to 1"),
        ({"val_labels": np.zeros((8, 2), int)}, "one label from 0 to 1"),
        ({"val_images": np.array([{"a": 1}] * 8, dtype=object)}, "is not a MedMNIST file"),
    ],
)
def test_a_wrong_medmnist_file_is_refused(changed: dict, phrase: str, tmp_path: Path, binary: PluginSpec) -> None:
    with pytest.raises(InputError, match=phrase):
        read_cases(write_medmnist(tmp_path / "wrong.npz", **changed), binary)


def test_what_is_no_archive_is_refused(tmp_path: Path, binary: PluginSpec) -> None:
    place = tmp_path / "wrong.npz"
    whole = write_medmnist(tmp_path / "whole.npz").read_bytes()
    np.save(tmp_path / "one.npy", np.zeros(4))
    middle = len(whole) // 2
    broken = whole[:middle] + bytes(200) + whole[middle + 200 :]
    for content in (b"", b"hello", (tmp_path / "one.npy").read_bytes(), whole[:middle], broken):
        place.write_bytes(content)
        with pytest.raises(InputError, match=r"'wrong\.npz' is not a MedMNIST file"):
            read_cases(place, binary)


def test_labels_of_another_task_are_refused(tmp_path: Path, multilabel: PluginSpec) -> None:
    with pytest.raises(InputError, match="2 labels of 0 or 1 a case"):
        read_cases(write_medmnist(tmp_path / "binary.npz"), multilabel)


def test_a_medmnist_file_cannot_feed_a_plugin_of_two_images(tmp_path: Path) -> None:
    backbone = tiny_backbone()
    spec = plugin_spec(backbone, views=(view(backbone, source="t1"), view(backbone, "coronal", source="t2")))
    with pytest.raises(InputError, match="one image a case, but plugin 'Test' needs 2"):
        read_cases(write_medmnist(tmp_path / "blobs.npz"), spec)


def test_a_missing_data_file_is_refused(tmp_path: Path, binary: PluginSpec) -> None:
    with pytest.raises(InputError, match=r"no data file .*absent\.csv"):
        read_cases(tmp_path / "absent.csv", binary)


# Tables


def table(folder: Path, *rows: str, encoding: str = "utf-8") -> Path:
    place = folder / "cases.csv"
    place.write_text("\n".join(rows) + "\n", encoding=encoding)
    return place


HEADER = "case,split,label,image"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_a_table_names_files_from_its_own_folder(tmp_path: Path, binary: PluginSpec, encoding: str) -> None:
    (tmp_path / "images").mkdir()
    write_volume(tmp_path / "images" / "a.nrrd", Volume(anatomy(), straight()))
    place = table(tmp_path, HEADER, "Müller,train,lesion,images/a.nrrd", "b,test,normal,gone.nrrd", encoding=encoding)
    first, second = read_cases(place, binary)
    assert (first.id, first.split, first.target, second.target) == ("Müller", "train", 1, 0)
    assert first.load().image("image").grid == GRID
    # A file is read when it is needed.
    with pytest.raises(InputError, match=r"gone\.nrrd"):
        second.load()


@pytest.mark.parametrize("separator", [";", "\t", " , "])
def test_a_table_is_read_as_spreadsheets_write_it(separator: str, tmp_path: Path, binary: PluginSpec) -> None:
    write_volume(tmp_path / "a.nrrd", Volume(anatomy(), straight()))
    rows = [HEADER + ",age,", "a,train,lesion,a.nrrd,7", ",,,,,", "", "b,test,normal,b.nrrd,,"]
    first, second = read_cases(table(tmp_path, *(row.replace(",", separator) for row in rows)), binary)
    assert (first.id, first.split, first.target) == ("a", "train", 1)
    assert (second.id, second.split, second.target) == ("b", "test", 0)
    assert first.load().image("image").grid == GRID


def test_a_task_of_one_image_takes_the_column_image_whatever_its_name(tmp_path: Path) -> None:
    backbone = tiny_backbone()
    spec = plugin_spec(backbone, views=(view(backbone, source="t1", region=RegionSpec(kind="box")),))
    write_volume(tmp_path / "a.nrrd", Volume(anatomy(), straight()))
    rows = [HEADER + ",image_region", 'a,train,lesion,a.nrrd,"box:0,0,0,9,9,9"']
    loaded = read_cases(table(tmp_path, *rows), spec)[0].load()
    assert loaded.image("t1").grid == GRID
    assert loaded.regions["t1"].high == (9, 9, 9)


def test_a_table_may_name_files_by_their_whole_path(tmp_path: Path, binary: PluginSpec) -> None:
    write_volume(tmp_path / "a.nrrd", Volume(anatomy(), straight()))
    (tmp_path / "tables").mkdir()
    (case,) = read_cases(table(tmp_path / "tables", HEADER, f"a,val,normal,{tmp_path / 'a.nrrd'}"), binary)
    assert case.load().image("image").grid == GRID


def test_a_table_has_a_column_a_class_for_a_multilabel_task(tmp_path: Path, multilabel: PluginSpec) -> None:
    cases = read_cases(table(tmp_path, "case,split,effusion,mass,image", "a,train,1,0,a.nii", "b,val,1,1,b.nii"),
                       multilabel)  # fmt: skip
    np.testing.assert_array_equal([case.target for case in cases], [[1, 0], [1, 1]])
    with pytest.raises(InputError, match=r"labels in line 2 of 'cases.csv' must be 0, 1, or empty"):
        read_cases(table(tmp_path, "case,split,effusion,mass,image", "a,train,1,maybe,a.nii"), multilabel)


def test_a_table_tells_patients_weights_masks_and_missing_labels(tmp_path: Path, multilabel: PluginSpec) -> None:
    write_volume(tmp_path / "m.nrrd", Volume((anatomy() > 0).astype(np.uint8), straight()))
    first, second = read_cases(
        table(
            tmp_path, "case,patient,effusion,mass,image,mask,weight", "a,p1,1,,a.nii,m.nrrd,2.5", "b,,0,1,b.nii,,",
        ),
        multilabel,
    )  # fmt: skip
    assert (first.patient, first.weight, first.split, first.target.tolist()) == ("p1", 2.5, "", [1, -1])
    assert (second.patient, second.weight, second.masks, second.target.tolist()) == ("", 1.0, None, [0, 1])
    assert first.masks()["image"].array.max() == 1
    with pytest.raises(InputError, match="splits no case"):
        of_split([first, second], ["train"])


def test_a_table_has_a_column_an_image(tmp_path: Path) -> None:
    backbone = tiny_backbone()
    spec = plugin_spec(backbone, views=(view(backbone, source="t1"), view(backbone, "coronal", source="t2")))
    for name in ("x", "y"):
        write_volume(tmp_path / f"{name}.nrrd", Volume(anatomy(seed=ord(name)), straight()))
    (case,) = read_cases(table(tmp_path, "case,split,label,t2,t1", "a,train,lesion,x.nrrd,y.nrrd"), spec)
    np.testing.assert_array_equal(case.load().image("t1").array, anatomy(seed=ord("y")))


@pytest.mark.parametrize(
    ("rows", "phrase"),
    [
        (["case,split,label", "a,train,lesion"], "lacks the column 'image'"),
        (["case,split,image", "a,train,a.nii"], "lacks the column 'label'"),
        (
            [f"{HEADER},weight", "a,train,lesion,a.nii,heavy"],
            "weight in line 2 of 'cases.csv' must be a number above 0",
        ),
        ([HEADER], "has no rows"),
        ([HEADER, "a,train,dragon,a.nii"], "label in line 2 .* one of normal, lesion, but is 'dragon'"),
        ([HEADER, "a,train,,a.nii"], "label in line 2 .* but is ''"),
        ([HEADER, "a,training,lesion,a.nii"], "split in line 2 .* train, val, test, but is 'training'"),
        ([HEADER, "a,train,lesion,a.nii", "a,val,lesion,b.nii"], "case 'a' comes twice, again in line 3"),
        ([HEADER, "a,train,lesion"], "image 'image' is empty in line 2"),
        ([HEADER, ",train,lesion,a.nii"], "column 'case' is empty in line 2"),
        ([HEADER + ",image", "a,train,lesion,a.nii,b.nii"], "names the column 'image' twice"),
        ([HEADER, "a,train,lesion,a.nii,1,2"], "Line 2 of 'cases.csv' has 6 values for 4 columns"),
        ([HEADER, 'a,train,lesion,"a.nii'], "cannot be read"),
        (["case,split,label,t1", "a,train,lesion,a.nii"], "lacks the column 'image': it has case, split, label, t1"),
    ],
)
def test_a_wrong_table_is_refused(rows: list[str], phrase: str, tmp_path: Path, binary: PluginSpec) -> None:
    with pytest.raises(InputError, match=phrase):
        read_cases(table(tmp_path, *rows), binary)


def test_a_table_that_is_no_text_is_refused(tmp_path: Path, binary: PluginSpec) -> None:
    (tmp_path / "cases.csv").write_bytes(b"\x89PNG\r\n\x1a\n\x00\xff")
    with pytest.raises(InputError, match=r"'cases\.csv' is not text in UTF-8"):
        read_cases(tmp_path / "cases.csv", binary)


def test_a_table_may_name_the_region_of_each_case(tmp_path: Path) -> None:
    backbone = tiny_backbone()
    spec = plugin_spec(backbone, views=(view(backbone, region=RegionSpec(kind="box")),))
    write_volume(tmp_path / "a.nrrd", Volume(anatomy(), straight()))
    low, high = straight()[:3, 3], straight()[:3, 3] + 9
    box = "box:" + ",".join(f"{x:g}" for x in (*low, *high))
    (case,) = read_cases(table(tmp_path, HEADER + ",image_region", f'a,train,lesion,a.nrrd,"{box}"'), spec)
    assert case.load().regions["image"].low == pytest.approx(low)
    assert len(cut_cases([case], spec).stacks[0]["axial"]) < GRID[0]


def test_every_named_split_must_have_a_case(binary: PluginSpec) -> None:
    cases = [Case("a", "train", 0, Study)]
    assert of_split(cases, ["train"]) == cases
    with pytest.raises(InputError, match="no case in the split 'vall'"):
        of_split(cases, ["train", "vall"])
