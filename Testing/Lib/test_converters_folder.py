"""Folders of one's own and MedMNIST: what is taken as it is, and every fault told in a sentence."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from networks import plugin_spec, tiny_backbone
from shell import anymc3d, write_medmnist
from volumes import anatomy, straight, write_dicom_series

from AnyMC3DLib.benchmark.converters.common import Converted, Order
from AnyMC3DLib.benchmark.converters.convert import convert
from AnyMC3DLib.errors import InputError
from AnyMC3DLib.manifest import read_table
from AnyMC3DLib.spec import PluginSpec
from AnyMC3DLib.training.cases import read_cases
from AnyMC3DLib.volume import Volume, write_volume


def scan(seed: int) -> Volume:
    return Volume(anatomy((2, 4, 5), seed).astype(np.int16), straight())


def spec() -> PluginSpec:
    return plugin_spec(tiny_backbone())  # of the classes normal and lesion


def converted(data: Path, table: Path, **fields: object) -> Converted:
    return convert("folder", data, Order(table=table, **fields))


def rows_of(table: Path) -> list[dict[str, str]]:
    return [row for _, row in read_table(table).rows]


def fill(root: Path, count: int, *, first: int = 0) -> Path:
    for n in range(first, first + count):
        for seed, label in enumerate(("normal", "lesion")):
            write_volume(root / label / f"{label[0]}{n}{('.nii.gz', '.nrrd', '.mha')[n % 3]}", scan(2 * n + seed))
    return root


@pytest.fixture
def labelled(tmp_path: Path) -> Path:
    """`labels.csv` with eight cases, the last of them a DICOM folder, and images beside it."""
    root = tmp_path / "data"
    for n in range(7):
        write_volume(root / "images" / f"c{n}.nrrd", scan(n))
    write_dicom_series(root / "images" / "c7", scan(7))
    lines = [f"c{n},{('normal', 'lesion')[n % 2]}\n" for n in range(8)]
    (root / "labels.csv").write_text("".join(["case,label\n", *lines]))
    return root


def test_a_folder_for_each_class_is_split_by_the_shares(tmp_path: Path) -> None:
    root = fill(tmp_path / "data", 4)
    write_dicom_series(root / "normal" / "series", scan(50))
    write_volume(root / "lesion" / "x.nrrd", scan(51))
    assert converted(root, tmp_path / "t.csv", shares=(0.6, 0.2, 0.2), seed=1) == Converted(10)
    cases = read_cases(tmp_path / "t.csv", spec())
    assert Counter((case.split, case.target) for case in cases) == {
        (split, target): count for split, count in {"train": 3, "val": 1, "test": 1}.items() for target in (0, 1)
    }
    assert {case.id: case.target for case in cases}["series"] == 0
    assert next(case for case in cases if case.id == "series").load().image("image").array.shape == (2, 4, 5)


def test_folders_of_splits_are_kept_whatever_the_shares(tmp_path: Path) -> None:
    for number, split in enumerate(("train", "val", "test")):
        fill(tmp_path / "data" / split, 2, first=2 * number)
    assert converted(tmp_path / "data", tmp_path / "t.csv").cases == 12
    cases = read_cases(tmp_path / "t.csv", spec())
    assert {case.id: case.split for case in cases}["n3"] == "val"
    assert Counter(case.split for case in cases) == {"train": 4, "val": 4, "test": 4}


def test_an_image_of_one_name_and_content_in_two_splits_is_refused(tmp_path: Path) -> None:
    for split in ("train", "test"):
        fill(tmp_path / "data" / split, 1, first=0 if split == "train" else 3)
        write_volume(tmp_path / "data" / split / "normal" / "same.nrrd", scan(8 if split == "train" else 9))
    assert converted(tmp_path / "data", tmp_path / "t.csv").cases == 6  # a name in common alone
    shutil.copy(tmp_path / "data" / "train" / "normal" / "same.nrrd", tmp_path / "data" / "test" / "lesion")
    with pytest.raises(InputError, match="The case 'same' is in both 'test' and 'train', with the same content"):
        converted(tmp_path / "data", tmp_path / "u.csv")


def test_a_labels_table_names_files_and_dicom_folders(labelled: Path, tmp_path: Path) -> None:
    assert converted(labelled, tmp_path / "t.csv", shares=(0.5, 0.25, 0.25)) == Converted(8)
    cases = read_cases(tmp_path / "t.csv", spec())
    assert [case.target for case in cases] == [n % 2 for n in range(8)]
    assert Counter(case.split for case in cases) == {"train": 4, "val": 2, "test": 2}
    np.testing.assert_array_equal(cases[7].load().image("image").array, scan(7).array)
    np.testing.assert_array_equal(cases[2].load().image("image").array, scan(2).array)


def test_splits_and_patients_of_a_labels_table_are_kept(labelled: Path, tmp_path: Path) -> None:
    rows = [f"c{n},p{n // 2},{('train', 'test')[n // 4]},{('normal', 'lesion')[n % 2]}\n" for n in range(8)]
    (labelled / "labels.csv").write_text("".join(["case,patient,split,label\n", *rows]))
    converted(labelled, tmp_path / "t.csv")
    cases = read_cases(tmp_path / "t.csv", spec())
    assert [(case.patient, case.split) for case in cases] == [
        (f"p{n // 2}", ("train", "test")[n // 4]) for n in range(8)
    ]


def test_what_lacks_its_other_half_is_left_out_and_told(labelled: Path, tmp_path: Path) -> None:
    (labelled / "images" / "c0.nrrd").unlink()
    write_volume(labelled / "other.nii.gz", scan(99))
    assert converted(labelled, tmp_path / "t.csv") == Converted(
        7,
        (
            "Left out 1 with a label but without images: c0.",
            "Left out 1 with images but without a label: other.",
        ),
    )


def table_of(*lines: str) -> Callable[[Path], None]:
    def write(root: Path) -> None:
        (root / "labels.csv").write_text("".join(f"{line}\n" for line in lines))

    return write


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (lambda root: shutil.rmtree(root), "There is no folder .*: give the one that holds CLASS/CASE"),
        (lambda root: (shutil.rmtree(root), root.mkdir()), "holds no folder and no labels.csv"),
        (lambda root: (root / "labels.csv").unlink(), "has 1 folders of classes"),
        (lambda root: shutil.rmtree(root / "images"), "None of the 8 labelled cases has images"),
        (lambda root: shutil.copytree(root / "images" / "c7", root / "c7"), "The case 'c7' comes twice, .* 'images'"),
        (table_of("case,class", "c0,normal"), "'labels.csv' lacks the column 'label'"),
        (table_of("case,label", "c0,"), "The column 'label' is empty in line 2 of 'labels.csv'"),
        (table_of("case,label", ",normal"), "The column 'case' is empty in line 2"),
        (table_of("case,label", "c0,normal", "c0,lesion"), "The case 'c0' comes twice, again in line 3"),
        (table_of("case,split,label", "c0,training,normal"), "must be one of train, val, test, but is 'training'"),
        (table_of("case,split,label", "c0,train,normal", "c1,,normal"), "but is ''"),
        (table_of("case,patient,split,label", "c0,p,train,normal", "c1,p,test,normal"), "in 'train' and in 'test'"),
    ],
    ids=[
        "no folder", "empty folder", "no table", "no images", "image twice", "no column", "empty label", "empty case",
        "case twice", "strange split", "a split for some", "patient in two splits",
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_in_a_sentence_and_nothing_is_written(
    labelled: Path, tmp_path: Path, spoil: Callable[[Path], object], sentence: str
) -> None:
    spoil(labelled)
    with pytest.raises(InputError, match=sentence):
        converted(labelled, tmp_path / "out" / "t.csv")
    assert list((tmp_path / "out").iterdir()) == []


def test_folders_that_look_like_splits_are_not_taken_for_classes(tmp_path: Path) -> None:
    for split in ("train", "valid"):
        fill(tmp_path / "data" / split, 1)
    with pytest.raises(InputError, match="The folders train, valid look like splits: call them train, val, test"):
        converted(tmp_path / "data", tmp_path / "t.csv")


def test_a_table_that_does_not_suit_its_task_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = fill(tmp_path / "data", 4)
    words = ("manifest", "convert", "folder", root, "--out", tmp_path / "t.csv", "--shares", "0.5,0.25,0.25")
    assert anymc3d(*words, "--task", "AdrenalMNIST3D") == 1
    told = capsys.readouterr().err
    assert "The label in line 2 of 't.csv' must be one of normal, hyperplasia, but is 'lesion'" in told
    assert not (tmp_path / "t.csv").exists()
    (root / "lesion").rename(root / "hyperplasia")
    assert anymc3d(*words, "--task", "AdrenalMNIST3D") == 0


def test_medmnist_needs_no_table_but_its_images_can_be_files(tmp_path: Path) -> None:
    source = write_medmnist(tmp_path / "adrenalmnist3d_64.npz")
    order = Order(table=tmp_path / "tables" / "t.csv")
    with pytest.raises(InputError, match=r"`--data adrenalmnist3d_64\.npz` takes it as it is"):
        convert("medmnist", source, order)
    order = Order(table=tmp_path / "tables" / "t.csv", images=tmp_path / "files", task="AdrenalMNIST3D")
    assert convert("medmnist", source, order) == Converted(30)
    assert {row["label"] for row in rows_of(order.table)} == {"normal", "hyperplasia"}
    direct = read_cases(source, spec())
    classes = {"normal": 0, "hyperplasia": 1}
    for case, row in zip(direct, rows_of(order.table), strict=True):
        assert (case.id, case.split, case.target) == (row["case"], row["split"], classes[row["label"]])
    through = (order.table.parent / rows_of(order.table)[4]["image"]).resolve()
    assert through == (tmp_path / "files" / "images" / "train-4.nii.gz").resolve()
    assert through.is_file()
    with pytest.raises(InputError, match="is there already"):
        convert("medmnist", source, order)


def test_what_is_no_medmnist_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.npz").write_bytes(b"x")
    with pytest.raises(InputError, match="is not a MedMNIST file"):
        convert("medmnist", tmp_path / "x.npz", Order(table=tmp_path / "t.csv", images=tmp_path / "files"))
    assert not (tmp_path / "t.csv").exists()
