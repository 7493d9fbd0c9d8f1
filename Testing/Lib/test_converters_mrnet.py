"""MRNet in its published folders: three planes an examination, an assumed geometry, and nothing unpickled."""

from __future__ import annotations

import io
import pickle
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from networks import plugin_spec, tiny_backbone, view
from shell import anymc3d

from AnyMC3DLib.benchmark.converters.common import Converted, Order
from AnyMC3DLib.benchmark.converters.convert import convert
from AnyMC3DLib.benchmark.converters.mrnet import ASSUMED, FINDINGS, NO_PATIENTS, PLANES
from AnyMC3DLib.errors import InputError
from AnyMC3DLib.manifest import read_table
from AnyMC3DLib.spec import ClassSpec, PluginSpec
from AnyMC3DLib.training.cases import read_cases
from AnyMC3DLib.training.manifest_check import check_manifest
from AnyMC3DLib.training.task import read_task
from AnyMC3DLib.volume import Volume

NUMBERS = {"train": range(16), "valid": range(1130, 1134)}


class Bomb:
    """Makes a file where it is unpickled."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self) -> tuple:
        return Path.touch, (self.place,)


def slices_of(number: int, plane: str) -> np.ndarray:
    """Of 3 to 5 slices of 8 rows and 6 columns."""
    seed = number * 3 + list(PLANES).index(plane)
    return np.random.default_rng(seed).integers(0, 255, (3 + seed % 3, 8, 6)).astype(np.uint8)


def label_of(number: int, finding: str) -> int:
    return (number >> FINDINGS.index(finding)) % 2


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("mrnet")
    for part, numbers in NUMBERS.items():
        for finding in FINDINGS:
            lines = [f"{number:04},{label_of(number, finding)}\n" for number in numbers]
            (root / f"{part}-{finding}.csv").write_text("".join(lines))
        for plane in PLANES:
            (root / part / plane).mkdir(parents=True)
            for number in numbers:
                np.save(root / part / plane / f"{number:04}.npy", slices_of(number, plane))
    return root


@pytest.fixture
def data(published: Path, tmp_path: Path) -> Path:
    """A copy that a test may spoil."""
    return Path(shutil.copytree(published, tmp_path / "MRNet-v1.0"))


def converted(data: Path, table: Path, **fields: object) -> Converted:
    return convert("mrnet", data, Order(table=table, **{"images": table.parent / "knees", **fields}))


def spec() -> PluginSpec:
    backbone = tiny_backbone()
    return plugin_spec(
        backbone,
        task_type="multilabel",
        classes=tuple(ClassSpec(name=name) for name in FINDINGS),
        views=tuple(view(backbone, plane, source=plane) for plane in PLANES),
    )


def test_an_examination_is_a_case_with_three_images_and_three_findings(published: Path, tmp_path: Path) -> None:
    table = tmp_path / "out" / "mrnet.csv"
    assert converted(published, table) == Converted(20, (ASSUMED, NO_PATIENTS))
    assert "assumed" in ASSUMED
    cases = read_cases(table, spec())
    assert [case.id for case in cases] == [f"{n:04}" for numbers in NUMBERS.values() for n in numbers]
    for case in cases:
        assert case.target.tolist() == [label_of(int(case.id), finding) for finding in FINDINGS]
    # 0.7 to 0.1 of sixteen.
    assert Counter(case.split for case in cases) == {"train": 14, "val": 2, "test": 4}
    assert {case.id for case in cases if case.split == "test"} == {f"{n:04}" for n in NUMBERS["valid"]}
    for case in (cases[3], cases[-1]):
        study = case.load()
        for plane in PLANES:
            np.testing.assert_array_equal(study.image(plane).array, slices_of(int(case.id), plane))
    problems = check_manifest(table, spec()).problems
    assert {problem.kind for problem in problems} <= {"absent class"}  # of two cases of val, by chance


def test_the_shipped_task_takes_the_table(published: Path, tmp_path: Path) -> None:
    converted(published, tmp_path / "t.csv", task="MRNet")
    cases = read_cases(tmp_path / "t.csv", read_task("MRNet").plugin)
    assert set(cases[0].load().images) == set(PLANES)


def test_slices_of_a_plane_run_along_its_axis_and_the_planes_meet(published: Path, tmp_path: Path) -> None:
    converted(published, tmp_path / "t.csv")
    study = read_cases(tmp_path / "t.csv", spec())[0].load()
    for plane, axis in {"sagittal": 0, "coronal": 1, "axial": 2}.items():
        image = study.image(plane)
        assert isinstance(image, Volume)
        assert np.abs(image.ijk_to_ras[:3, 2]).argmax() == axis
        np.testing.assert_allclose(image.spacing, (0.625, 0.625, 4.0))
        np.testing.assert_allclose(image.corners().mean(axis=0), 0, atol=1e-9)
        assert np.linalg.det(image.ijk_to_ras) > 0
        if plane != "axial":
            assert image.ijk_to_ras[2, 1] < 0  # rows go down the leg


def test_a_pickled_file_is_refused_and_never_run(data: Path, tmp_path: Path) -> None:
    harm = tmp_path / "harm"
    for content in (pickle.dumps(Bomb(harm)), _object_array(Bomb(harm))):
        (data / "valid" / "coronal" / "1131.npy").write_bytes(content)
        with pytest.raises(InputError, match=r"'valid/coronal/1131\.npy' is damaged, or holds pickled objects"):
            converted(data, tmp_path / "t.csv")
        assert not harm.exists()
    assert not (tmp_path / "t.csv").exists()
    assert list((tmp_path / "knees").iterdir()) == []


def _object_array(value: object) -> bytes:
    stream = io.BytesIO()
    np.save(stream, np.array([value], dtype=object), allow_pickle=True)
    return stream.getvalue()


def test_what_lacks_its_other_half_is_left_out_and_told(data: Path, tmp_path: Path) -> None:
    (data / "train" / "coronal" / "0002.npy").unlink()
    for plane in PLANES:
        np.save(data / "train" / plane / "0077.npy", slices_of(77, plane))
    done = converted(data, tmp_path / "t.csv")
    assert done.cases == 19
    assert done.notes[:2] == (
        "Left out 1 with a label but without images: 0002.",
        "Left out 1 with images but without a label: 0077.",
    )
    assert not list((tmp_path / "knees").glob("0002*"))


def written(name: str, content: str | bytes | np.ndarray) -> Callable[[Path], None]:
    def write(root: Path) -> None:
        if isinstance(content, np.ndarray):
            np.save(root / name, content)
        else:
            (root / name).write_bytes(content if isinstance(content, bytes) else content.encode())

    return write


def cut(root: Path) -> None:
    place = root / "train" / "axial" / "0003.npy"
    place.write_bytes(place.read_bytes()[:-5])


def in_both(root: Path) -> None:
    for finding in FINDINGS:
        with (root / f"valid-{finding}.csv").open("a") as stream:
            stream.write("0003,0\n")


def images_in_both(root: Path) -> None:
    for plane in PLANES:
        shutil.copy(root / "train" / plane / "0003.npy", root / "valid" / plane / "0003.npy")


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (lambda root: (root / "train-acl.csv").unlink(), "lacks 'train-acl.csv': give the one that holds PART/PLANE"),
        (lambda root: shutil.rmtree(root / "valid" / "axial"), "lacks 'valid/axial'"),
        (lambda root: [p.unlink() for p in root.glob("*/*/*.npy")], "None of the 20 labelled cases has images"),
        (written("train-acl.csv", "case,label\n0000,1\n"), "'acl' in line 1 of 'train-acl.csv' .* but is 'label'"),
        (written("train-acl.csv", "0000,1\n0001,2\n"), "'acl' in line 2 of 'train-acl.csv' .* but is '2'"),
        (written("train-acl.csv", "0000\n"), "must be a case and a label in line 1 of 'train-acl.csv'"),
        (written("train-acl.csv", ""), "The table 'train-acl.csv' has no rows"),
        (written("train-acl.csv", b"\xff\xfe\x00"), "'train-acl.csv' cannot be read as CSV"),
        (written("train-acl.csv", "0000,1\n0000,1\n"), "The case '0000' comes twice, again in line 2"),
        (written("train-acl.csv", "0000,1\n"), "The case '0001' is in one of 'train-abnormal.csv' and 'train-acl.csv'"),
        (in_both, "The case '0003' is in both train and valid"),
        (images_in_both, "The case '0003' has images in both train and valid"),
        (written("train/axial/0003.npy", b""), "'train/axial/0003.npy' is damaged"),
        (cut, "'train/axial/0003.npy' is damaged"),
        (written("train/axial/0003.npy", np.zeros((4, 4), np.uint8)), "is no array .slices, rows, columns. of uint8"),
        (written("train/axial/0003.npy", np.zeros((2, 4, 4))), "is no array .slices, rows, columns. of uint8"),
    ],
    ids=[
        "no table", "no plane", "no images", "header", "label of 2", "one column", "empty table", "no text",
        "case twice", "case in one table alone", "case in two splits", "images in two splits", "empty file",
        "file cut off", "a single slice", "real numbers",
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_in_a_sentence_and_nothing_is_written(
    data: Path, tmp_path: Path, spoil: Callable[[Path], object], sentence: str
) -> None:
    spoil(data)
    with pytest.raises(InputError, match=sentence):
        converted(data, tmp_path / "t.csv")
    assert not (tmp_path / "t.csv").exists()
    assert not any((tmp_path / "knees").glob("*"))


def test_images_need_a_folder_and_replace_no_file_unasked(published: Path, tmp_path: Path) -> None:
    table = tmp_path / "t.csv"
    with pytest.raises(InputError, match="give --images with a folder"):
        converted(published, table, images=None)
    with pytest.raises(InputError, match="one series a case"):
        converted(published, table, one_series=True)
    (tmp_path / "knees").mkdir()
    (tmp_path / "knees" / "0000-axial.nrrd").write_text("mine")
    with pytest.raises(InputError, match="holds files already"):
        converted(published, table)
    assert (tmp_path / "knees" / "0000-axial.nrrd").read_text() == "mine"
    assert converted(published, table, replace=True).cases == 20


def test_the_shell_says_that_the_geometry_is_assumed(
    published: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("manifest", "convert", "mrnet", published, "--out", tmp_path / "t.csv")
    assert anymc3d(*words) == 1
    assert "give --images with a folder" in capsys.readouterr().err
    assert anymc3d(*words, "--images", tmp_path / "knees") == 0
    assert capsys.readouterr().out.splitlines()[0] == ASSUMED
    (row, *_) = read_table(tmp_path / "t.csv").rows
    assert row[1]["axial"] == "knees/0000-axial.nrrd"
