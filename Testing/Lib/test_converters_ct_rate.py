"""CT-RATE in its published folders: findings, patients and splits, and volumes that are not in Hounsfield units."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from networks import plugin_spec, tiny_backbone
from volumes import anatomy, straight

from AnyMC3DLib.benchmark.converters.common import Converted, Order
from AnyMC3DLib.benchmark.converters.convert import convert
from AnyMC3DLib.benchmark.converters.ct_rate import FINDINGS
from AnyMC3DLib.errors import InputError
from AnyMC3DLib.manifest import read_table
from AnyMC3DLib.spec import ClassSpec, PluginSpec
from AnyMC3DLib.training.cases import read_cases
from AnyMC3DLib.training.task import read_task
from AnyMC3DLib.volume import Volume, write_volume

COUNTS = {"train": 16, "valid": 4}


def findings_of(number: int) -> list[int]:
    return [int((number + n) % 2 == 0) for n in range(len(FINDINGS))]


def volumes_of(part: str) -> list[str]:
    """Two scans of the second patient, two reconstructions of the first patient's one."""
    names = [f"{part}_{n}_a_1.nii.gz" for n in range(1, COUNTS[part] + 1)]
    return [*names, f"{part}_1_a_2.nii.gz", f"{part}_2_b_1.nii.gz"]


def place_of(root: Path, name: str, *, release: str = "") -> Path:
    part, number, scan, _ = name.split("_")
    return root / f"{part}{release}" / f"{part}_{number}" / f"{part}_{number}_{scan}" / name


def write_ct(place: Path, seed: int, *, above: float = 0.0) -> None:
    write_volume(place, Volume((anatomy((4, 6, 6), seed) + above).astype(np.int16), straight()))


def write_labels(root: Path, part: str, names: Sequence[str]) -> None:
    place = root / "multi_abnormality_labels" / f"{part}_predicted_labels.csv"
    place.parent.mkdir(exist_ok=True, parents=True)
    with place.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["VolumeName", *FINDINGS])
        writer.writerows([name, *findings_of(int(name.split("_")[1]))] for name in names)


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("published") / "dataset"
    for part in COUNTS:
        write_labels(root, part, volumes_of(part))
        for seed, name in enumerate(volumes_of(part)):
            write_ct(place_of(root, name), seed)
    return root


@pytest.fixture
def data(published: Path, tmp_path: Path) -> Path:
    """A copy that a test may spoil."""
    return Path(shutil.copytree(published, tmp_path / "CT-RATE" / "dataset"))


def converted(data: Path, table: Path, **fields: object) -> Converted:
    return convert("ct-rate", data, Order(table=table, **fields))


def spec() -> PluginSpec:
    return plugin_spec(
        tiny_backbone(), task_type="multilabel", classes=tuple(ClassSpec(name=name) for name in FINDINGS)
    )


def rows_of(table: Path) -> list[dict[str, str]]:
    return [row for _, row in read_table(table).rows]


def test_each_reconstruction_is_a_case_of_its_patient_with_eighteen_findings(data: Path, tmp_path: Path) -> None:
    assert converted(data.parent, tmp_path / "t.csv") == Converted(24)
    cases = {case.id: case for case in read_cases(tmp_path / "t.csv", spec())}
    assert len(cases) == 24
    for name, case in cases.items():
        number = int(name.split("_")[1])
        assert case.patient == f"{name.split('_')[0]}_{number}"
        assert case.target.tolist() == findings_of(number)
        assert (case.split == "test") == name.startswith("valid_")
    read = cases["train_2_b_1"].load().image("image").array
    np.testing.assert_array_equal(read, anatomy((4, 6, 6), COUNTS["train"] + 1).astype(np.int16))


def test_the_shipped_task_takes_the_table(data: Path, tmp_path: Path) -> None:
    converted(data, tmp_path / "t.csv", task="CT-RATE")
    cases = read_cases(tmp_path / "t.csv", read_task("CT-RATE").plugin)
    assert all(case.target.sum() == len(FINDINGS) / 2 for case in cases)


def test_val_is_taken_from_train_by_patient(data: Path, tmp_path: Path) -> None:
    converted(data, tmp_path / "t.csv", shares=(0.6, 0.2, 0.2))
    rows = rows_of(tmp_path / "t.csv")
    splits = {row["patient"]: row["split"] for row in rows}
    assert all(splits[row["patient"]] == row["split"] for row in rows)
    assert sum(split == "val" for split in splits.values()) == 4  # of 16: a quarter, for 0.2 to 0.6
    assert sum(split == "test" for split in splits.values()) == 4
    converted(data, tmp_path / "u.csv", shares=(0.8, 0.0, 0.2))
    assert {row["split"] for row in rows_of(tmp_path / "u.csv")} == {"train", "test"}


def test_one_series_is_the_first_reconstruction_of_each_scan(data: Path, tmp_path: Path) -> None:
    assert converted(data, tmp_path / "t.csv", one_series=True).cases == 22
    names = {row["case"] for row in rows_of(tmp_path / "t.csv")}
    assert {"train_1_a_1", "train_2_a_1", "train_2_b_1"} <= names
    assert "train_1_a_2" not in names
    for part in COUNTS:
        place_of(data, f"{part}_1_a_1.nii.gz").unlink()
    assert converted(data, tmp_path / "u.csv", one_series=True).cases == 22
    assert "train_1_a_2" in {row["case"] for row in rows_of(tmp_path / "u.csv")}


@pytest.mark.parametrize("name", ["train_1_a_1.nii.gz", "valid_2_b_1.nii.gz"])
def test_a_volume_that_was_not_rescaled_is_refused_by_name(data: Path, tmp_path: Path, name: str) -> None:
    write_ct(place_of(data, name), 0, above=1024)
    with pytest.raises(InputError, match=f"'{name}' has no value below 0, .*'train_fixed'.*RescaleSlope"):
        converted(data, tmp_path / "t.csv")
    assert not (tmp_path / "t.csv").exists()


def test_a_volume_without_air_is_told(data: Path, tmp_path: Path) -> None:
    write_ct(place_of(data, "train_1_a_1.nii.gz"), 0, above=880)  # stored values with a padding below 0
    (note,) = converted(data, tmp_path / "t.csv").notes
    assert note.startswith("'train_1_a_1.nii.gz' has hardly a value of air")


def test_the_release_with_hounsfield_units_is_taken_where_it_is_there(data: Path, tmp_path: Path) -> None:
    for part in COUNTS:
        shutil.copytree(data / part, data / f"{part}_fixed")
        for name in volumes_of(part):
            write_ct(place_of(data, name), 0, above=1024)
    assert converted(data, tmp_path / "t.csv").notes == ()
    assert {row["image"].split("/")[2] for row in rows_of(tmp_path / "t.csv")} == {"train_fixed", "valid_fixed"}


def test_what_lacks_its_other_half_is_left_out_and_told(data: Path, tmp_path: Path) -> None:
    for n in range(3, 10):
        shutil.rmtree(data / "train" / f"train_{n}")
    write_ct(place_of(data, "train_99_a_1.nii.gz"), 0)
    done = converted(data, tmp_path / "t.csv")
    assert done.cases == 17
    first = ", ".join(f"train_{n}_a_1.nii.gz" for n in range(3, 8))
    assert done.notes == (
        f"Left out 7 with a label but without images: {first} and 2 more.",
        "Left out 1 with images but without a label: train_99_a_1.nii.gz.",
    )


def in_labels(part: str, old: str, new: str) -> Callable[[Path], None]:
    def change(root: Path) -> None:
        place = root / "multi_abnormality_labels" / f"{part}_predicted_labels.csv"
        text = place.read_text()
        assert old in text
        place.write_text(text.replace(old, new, 1))

    return change


def copied_elsewhere(root: Path) -> None:
    shutil.copytree(root / "train" / "train_3", root / "train" / "copy")


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (lambda root: shutil.rmtree(root / "multi_abnormality_labels"), "lacks 'multi_abnormality_labels/train_pred"),
        (in_labels("train", "Emphysema", "Emph"), "'train_predicted_labels.csv' lacks the column 'Emphysema'"),
        (in_labels("train", "train_1_a_1.nii.gz,0", "train_1_a_1.nii.gz,0.5"),
         "'Medical material' in line 2 of 'train_predicted_labels.csv' must be 0 or 1, but is '0.5'"),
        (in_labels("valid", "valid_2_a_1.nii.gz,1", "valid_2_a_1.nii.gz,x"), "must be 0 or 1, but is 'x'"),
        (in_labels("train", "train_4_a_1", "train_3_a_1"), "The case 'train_3_a_1.nii.gz' comes twice, .* line 5"),
        (in_labels("valid", "valid_1_a_1", "train_1_a_1"), "of 'train' is in line 2 .* the table of 'valid'"),
        (in_labels("train", "train_4_a_1.nii.gz", "scan4.nii"), "must be like 'train_1_a_1.nii.gz', but is 'scan"),
        (lambda root: [shutil.rmtree(root / part) for part in COUNTS], "None of the 24 labelled cases has images"),
        (copied_elsewhere, "'train_3_a_1.nii.gz' comes twice, again in the folder 'train/train_3/train_3_a'"),
        (lambda root: place_of(root, "train_1_a_1.nii.gz").write_bytes(b"x"), "'train_1_a_1.nii.gz' ends too early"),
    ],
    ids=[
        "no labels", "no column", "label of a half", "word for a label", "case twice", "case in two splits",
        "strange name", "no images", "volume twice", "damaged volume",
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_in_a_sentence_and_nothing_is_written(
    data: Path, tmp_path: Path, spoil: Callable[[Path], object], sentence: str
) -> None:
    spoil(data)
    with pytest.raises(InputError, match=sentence):
        converted(data, tmp_path / "out" / "t.csv")
    assert list((tmp_path / "out").iterdir()) == []


def test_an_empty_folder_is_refused_with_what_was_looked_for(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="give the one that holds multi_abnormality_labels/PART_predicted"):
        converted(tmp_path / "empty", tmp_path / "t.csv")
