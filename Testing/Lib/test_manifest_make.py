"""Making a table of labelled cases from folders, a BIDS tree and MedMNIST: what stands in it, and that it is whole."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from networks import plugin_spec, tiny_backbone
from shell import SHAPE, anymc3d, write_medmnist
from volumes import anatomy, straight, write_dicom_series

from AnyMC3DLib.errors import InputError
from AnyMC3DLib.files import write_text
from AnyMC3DLib.manifest import read_table
from AnyMC3DLib.spec import ClassSpec
from AnyMC3DLib.training import manifest_make
from AnyMC3DLib.training.cases import read_cases, volume_of_medmnist
from AnyMC3DLib.training.manifest_check import check_manifest
from AnyMC3DLib.training.manifest_make import make_from_bids, make_from_folders, make_from_medmnist
from AnyMC3DLib.training.task import read_task
from AnyMC3DLib.volume import Volume, read_volume, write_volume

Make = Callable[..., int]


def small(seed: int = 0) -> Volume:
    return Volume(np.random.default_rng(seed).integers(0, 255, (3, 4, 5)).astype(np.uint8), straight())


def rows_of(table: Path) -> list[dict[str, str]]:
    return [row for _, row in read_table(table).rows]


def classes_folder(root: Path, counts: Mapping[str, int]) -> Path:
    """`counts` images in a folder of each class, each image of its own name."""
    seed = 0
    for name, count in counts.items():
        for _ in range(count):
            write_volume(root / name / f"scan{seed}.nii.gz", small(seed))
            seed += 1
    return root


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    return classes_folder(tmp_path / "data", {"cyst": 3, "none": 4})


def bids_tree(root: Path, participants: str, images: list[str]) -> Path:
    root.mkdir()
    (root / "participants.tsv").write_text(participants)
    for seed, name in enumerate(images):
        write_volume(root / name, small(seed))
    return root


@pytest.fixture
def bids(tmp_path: Path) -> Path:
    participants = (
        "participant_id\tage\tdiagnosis\nsub-01\t40\tpatient\nsub-02\t41\tcontrol\n03\t42\tcontrol\n"
        "sub-04\t43\tn/a\nsub-05\t44\tpatient\n"
    )
    images = [
        "sub-01/ses-1/anat/sub-01_ses-1_T1w.nii.gz", "sub-01/ses-2/anat/sub-01_ses-2_T1w.nii.gz",
        "sub-02/anat/sub-02_T1w.nii", "sub-02/anat/sub-02_T2w.nii", "sub-02/anat/sub-02_acq-noT1w.nii",
        "sub-03/anat/sub-03_T1w.nii.gz", "sub-04/anat/sub-04_T1w.nii.gz", "derivatives/x/sub-05/sub-05_T1w.nii.gz",
    ]  # fmt: skip
    root = bids_tree(tmp_path / "bids", participants, images)
    (root / "sub-02/anat/sub-02_T1w.nii.part").write_text("x")
    return root


# Folders


def test_folders_of_classes_give_a_table_that_has_no_fault(folders: Path, tmp_path: Path) -> None:
    table = tmp_path / "tables" / "t.csv"
    assert make_from_folders(folders, table) == 7
    rows = rows_of(table)
    assert rows[0] == {"case": "scan0", "image": "../data/cyst/scan0.nii.gz", "label": "cyst"}
    assert Counter(row["label"] for row in rows) == {"cyst": 3, "none": 4}
    report = check_manifest(table)
    assert report.problems == ()
    assert report.counts == {"": {"cyst": 3, "none": 4}}


def test_a_folder_of_a_dicom_series_is_an_image_and_other_files_are_told(
    folders: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_dicom_series(folders / "cyst" / "1.2.3", Volume(anatomy((3, 4, 5)), straight()))
    (folders / "cyst" / "notes.txt").write_text("x")
    (folders / "cyst" / ".hidden").write_text("x")
    with caplog.at_level(logging.WARNING):
        assert make_from_folders(folders, tmp_path / "t.csv") == 8
    assert rows_of(tmp_path / "t.csv")[0] == {"case": "1.2.3", "image": "data/cyst/1.2.3", "label": "cyst"}
    assert check_manifest(tmp_path / "t.csv").problems == ()
    assert [record.getMessage() for record in caplog.records] == [
        "In the class 'cyst' 1 of 5 files are no images: left out."
    ]


def test_files_of_one_name_are_told_apart_by_their_class(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_volume(tmp_path / "data" / name / "x.nrrd", small())
    make_from_folders(tmp_path / "data", tmp_path / "t.csv")
    assert [row["case"] for row in rows_of(tmp_path / "t.csv")] == ["a_x", "b_x"]


def test_folders_called_by_splits_are_splits(tmp_path: Path) -> None:
    for split in ("train", "test"):
        classes_folder(tmp_path / "data" / split, {"a": 1, "b": 2})
    make_from_folders(tmp_path / "data", tmp_path / "t.csv")
    rows = rows_of(tmp_path / "t.csv")
    assert Counter((row["split"], row["label"]) for row in rows) == {
        ("train", "a"): 1, ("train", "b"): 2, ("test", "a"): 1, ("test", "b"): 2,
    }  # fmt: skip
    assert len({row["case"] for row in rows}) == 6
    with pytest.raises(InputError, match="has its splits already"):
        make_from_folders(tmp_path / "data", tmp_path / "u.csv", shares={"train": 1.0})


def test_shares_fill_the_split(tmp_path: Path) -> None:
    root = classes_folder(tmp_path / "data", {"a": 6, "b": 4})
    make_from_folders(root, tmp_path / "t.csv", shares={"train": 0.5, "test": 0.5}, seed=2)
    report = check_manifest(tmp_path / "t.csv")
    assert report.problems == ()
    assert report.counts == {"train": {"a": 3, "b": 2}, "test": {"a": 3, "b": 2}}


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (lambda root: (root / "empty").mkdir(), "holds no image"),
        (lambda root: (root / "cyst" / "series").mkdir(), "holds 0 DICOM series"),
        (lambda root: (root / "none").rename(root.parent / "gone"), "has 1 folders of classes"),
        (lambda root: root.rename(root.parent / "gone"), "There is no folder"),
        (lambda root: write_volume(root / "cyst" / "scan0.nrrd", small()), "would make the case 'cyst_scan0'"),
    ],
    ids=["class without an image", "folder without a series", "one class", "no folder", "two files of one name"],
)
def test_folders_that_give_no_table_are_refused(
    folders: Path, tmp_path: Path, spoil: Callable[[Path], object], sentence: str
) -> None:
    spoil(folders)
    with pytest.raises(InputError, match=sentence):
        make_from_folders(folders, tmp_path / "t.csv")
    assert not (tmp_path / "t.csv").exists()


# BIDS


def test_a_bids_tree_gives_a_case_an_image_with_its_subject_as_patient(
    bids: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        assert make_from_bids(bids, "diagnosis", bids / "t.csv") == 4
    told = [(row["case"], row["patient"], row["label"]) for row in rows_of(bids / "t.csv")]
    assert told == [
        ("sub-01_ses-1_T1w", "sub-01", "patient"), ("sub-01_ses-2_T1w", "sub-01", "patient"),
        ("sub-02_T1w", "sub-02", "control"), ("sub-03_T1w", "sub-03", "control"),
    ]  # fmt: skip
    assert check_manifest(bids / "t.csv").problems == ()
    (record,) = caplog.records
    assert record.getMessage().startswith("2 of 5 participants have no 'diagnosis' or no image 'T1w'")
    assert make_from_bids(bids, "diagnosis", bids / "t2.csv", suffix="T2w") == 1


def test_a_bids_tree_is_split_by_subject(tmp_path: Path) -> None:
    lines = "".join(f"sub-{n:02}\t{'ab'[n % 2]}\n" for n in range(8))
    images = [f"sub-{n:02}/ses-{s}/anat/sub-{n:02}_ses-{s}_T1w.nii" for n in range(8) for s in (1, 2)]
    root = bids_tree(tmp_path / "bids", f"participant_id\tgroup\n{lines}", images)
    make_from_bids(root, "group", root / "t.csv", shares={"train": 0.5, "val": 0.5})
    report = check_manifest(root / "t.csv")
    assert report.problems == ()
    assert report.counts == {"train": {"a": 4, "b": 4}, "val": {"a": 4, "b": 4}}


def test_a_bids_tree_without_what_is_asked_for_is_refused(bids: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="lacks the column 'group': it has participant_id, age, diagnosis"):
        make_from_bids(bids, "group", bids / "t.csv")
    with pytest.raises(InputError, match="has both a 'diagnosis' and an image 'bold2'"):
        make_from_bids(bids, "diagnosis", bids / "t.csv", suffix="bold2")
    with pytest.raises(InputError, match=r"There is no table '.*participants\.tsv'"):
        make_from_bids(tmp_path, "diagnosis", bids / "t.csv")


# MedMNIST


def test_medmnist_gives_files_that_hold_its_images_and_its_own_splits(tmp_path: Path) -> None:
    source = write_medmnist(tmp_path / "blobs.npz")
    assert make_from_medmnist(source, tmp_path / "out", classes=("normal", "lesion")) == 30
    spec = plugin_spec(tiny_backbone())
    table = tmp_path / "out" / "manifest.csv"
    assert check_manifest(table, spec).problems == ()
    direct, through = read_cases(source, spec), read_cases(table, spec)
    assert [(c.id, c.split, c.target) for c in through] == [(c.id, c.split, c.target) for c in direct]
    for one, other in zip(direct[::7], through[::7], strict=True):
        image, written = one.load().image("image"), other.load().image("image")
        np.testing.assert_array_equal(written.array, image.array)
        np.testing.assert_allclose(written.ijk_to_ras, image.ijk_to_ras)


@pytest.mark.parametrize("shape", [(9, 8), (9, 8, 3), SHAPE])
def test_a_limit_takes_the_first_of_each_split_in_grey_and_colour(tmp_path: Path, shape: tuple[int, ...]) -> None:
    source = write_medmnist(tmp_path / "blobs.npz", shape=shape)
    assert make_from_medmnist(source, tmp_path / "out", limit=3) == 9
    rows = rows_of(tmp_path / "out" / "manifest.csv")
    assert [row["case"] for row in rows[:4]] == ["train-0", "train-1", "train-2", "val-0"]
    with np.load(source) as data:
        assert [row["label"] for row in rows[-3:]] == [str(n) for n in data["test_labels"][:3, 0]]
        written = read_volume(tmp_path / "out" / rows[-1]["image"])
        np.testing.assert_array_equal(written.array, volume_of_medmnist(data["test_images"][2]).array)
    assert len(list((tmp_path / "out" / "images").iterdir())) == 9


def test_several_labels_an_image_have_a_column_each(tmp_path: Path) -> None:
    labels = {f"{split}_labels": np.tile([[1, 0, 0], [0, 1, 1]], (n // 2, 1))
              for split, n in (("train", 12), ("val", 8), ("test", 10))}  # fmt: skip
    source = write_medmnist(tmp_path / "blobs.npz", **labels)
    make_from_medmnist(source, tmp_path / "out", classes=("a", "b", "c"), limit=2)
    first, second = rows_of(tmp_path / "out" / "manifest.csv")[:2]
    assert [first[name] + second[name] for name in "abc"] == ["10", "01", "01"]
    classes = tuple(ClassSpec(name=name) for name in "abc")
    spec = plugin_spec(tiny_backbone(), task_type="multilabel", classes=classes)
    assert check_manifest(tmp_path / "out" / "manifest.csv", spec).problems == ()


def test_what_is_no_medmnist_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.npz").write_text("x")
    np.savez(tmp_path / "other.npz", images=np.zeros(3))
    for name in ("text.npz", "other.npz", "lost.npz"):
        with pytest.raises(InputError, match="is not a MedMNIST file, or it is damaged"):
            make_from_medmnist(tmp_path / name, tmp_path / "out")
    with pytest.raises(InputError, match="has 12 images but 5 labels in 'train'"):
        make_from_medmnist(write_medmnist(tmp_path / "a.npz", train_labels=np.zeros((5, 1), int)), tmp_path / "out")
    with pytest.raises(InputError, match="has 2 classes, but 3 names were given"):
        make_from_medmnist(write_medmnist(tmp_path / "b.npz"), tmp_path / "out", classes=("a", "b", "c"))
    assert not (tmp_path / "out").exists()


# Writing


def test_a_table_that_is_there_stays_unless_it_shall_be_replaced(folders: Path, bids: Path, tmp_path: Path) -> None:
    table, blobs = tmp_path / "out" / "manifest.csv", write_medmnist(tmp_path / "blobs.npz")
    makers: list[tuple[Make, tuple]] = [
        (make_from_folders, (folders, table)),
        (make_from_bids, (bids, "diagnosis", table)),
        (make_from_medmnist, (blobs, table.parent)),
    ]
    table.parent.mkdir()
    for make, arguments in makers:
        table.write_text("mine")
        with pytest.raises(InputError, match="is there already"):
            make(*arguments)
        assert table.read_text() == "mine"
        assert sorted(table.parent.iterdir()) == [table]
    for make, arguments in makers:
        assert make(*arguments, replace=True) == len(rows_of(table))


def test_a_table_is_written_whole_or_not_at_all(folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(source: Path, target: Path) -> None:
        raise OSError(28, "No space left on device")

    (tmp_path / "t.csv").write_text("mine")
    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(InputError, match="No space left on device"):
        make_from_folders(folders, tmp_path / "t.csv", replace=True)
    assert (tmp_path / "t.csv").read_text() == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "t.csv"]


def test_the_table_of_medmnist_comes_after_its_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def written(place: Path, content: str) -> None:
        assert len(list((tmp_path / "out" / "images").iterdir())) == 3
        write_text(place, content)

    monkeypatch.setattr(manifest_make, "write_text", written)
    make_from_medmnist(write_medmnist(tmp_path / "blobs.npz"), tmp_path / "out", limit=1)
    assert (tmp_path / "out" / "manifest.csv").exists()


# The shell


def test_the_shell_makes_each_kind_of_table(bids: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = classes_folder(tmp_path / "classes", {"a": 3, "b": 3})
    table = tmp_path / "t.csv"
    make = ("manifest", "make")
    assert anymc3d(*make, "folders", root, "--out", table, "--shares", "0.5,0.5,0", "--seed", "1") == 0
    assert capsys.readouterr().out == f"Wrote '{table}': 6 cases.\n"
    assert {row["split"] for row in rows_of(table)} == {"train", "val"}
    assert anymc3d(*make, "bids", bids, "--column", "diagnosis", "--out", table) == 1
    assert anymc3d(*make, "bids", bids, "--column", "diagnosis", "--out", table, "--replace") == 0
    source = write_medmnist(tmp_path / "blobs.npz")
    arguments = ("medmnist", source, "--out", tmp_path / "out", "--task", "HeadLesionPhantom", "--limit", "2")
    assert anymc3d(*make, *arguments) == 0
    classes = {c.name for c in read_task("HeadLesionPhantom").plugin.classes}
    assert {row["label"] for row in rows_of(tmp_path / "out" / "manifest.csv")} <= classes
    for wrong in (("--shares", "0.5,0.5"), ("--seed", "-1")):
        assert anymc3d(*make, "folders", root, "--out", table, *wrong) == 2
