"""Whatever is wrong with what the user gives: exit code 1 and one sentence, never a traceback."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from networks import view, write_plugin
from shell import anymc3d, findable_backbone
from volumes import GRID, straight, study

from AnyMC3DLib.spec import RegionSpec
from AnyMC3DLib.volume import Volume, write_volume

PROGRESS = re.compile(r".+: \d+ of \d+")


@dataclasses.dataclass(frozen=True)
class Desk:
    """A folder with a good study and good plugins, from which each test breaks one thing."""

    folder: Path
    weights: Path

    @property
    def good(self) -> Path:
        return self.folder / "good.nrrd"

    def plugin(self, name: str = "plugin") -> Path:
        return self.folder / f"{name}.safetensors"

    def written(self, name: str, volume: Volume) -> Path:
        write_volume(self.folder / name, volume)
        return self.folder / name

    def text(self, name: str, content: bytes) -> Path:
        (self.folder / name).write_bytes(content)
        return self.folder / name


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Desk:
    folder = tmp_path_factory.mktemp("desk")
    backbone, weights = findable_backbone(folder)
    other, _ = findable_backbone(folder, seed=1)
    result = Desk(folder, weights)
    write_volume(result.good, study())
    write_plugin(result.plugin(), backbone)
    write_plugin(result.plugin("other weights"), other, name="Other")
    write_plugin(result.plugin("two images"), backbone, views=(view(backbone, source="t1"),
                 view(backbone, "coronal", source="t2")))  # fmt: skip
    for kind in ("segment", "box"):
        spec = view(backbone)
        cut = dataclasses.replace(spec.preprocessing, region=RegionSpec(kind=kind))
        write_plugin(result.plugin(kind), backbone, views=(dataclasses.replace(spec, preprocessing=cut),))
    return result


def an_array() -> np.ndarray:
    return np.random.default_rng(0).normal(size=GRID).astype(np.float32)


def with_nan(desk: Desk) -> list:
    array = an_array()
    array[3, 4, 5] = np.nan
    return [desk.written("nan.nrrd", Volume(array, straight()))]


def four_dimensions(desk: Desk) -> list:
    image = sitk.JoinSeries([sitk.GetImageFromArray(an_array())] * 2)
    sitk.WriteImage(image, str(desk.folder / "4d.nii.gz"))
    return [desk.folder / "4d.nii.gz"]


def colour_volume(desk: Desk) -> list:
    array = np.random.default_rng(0).integers(0, 255, (*GRID, 3)).astype(np.uint8)
    sitk.WriteImage(sitk.GetImageFromArray(array, isVector=True), str(desk.folder / "colour.nrrd"))
    return [desk.folder / "colour.nrrd"]


def constant(desk: Desk) -> list:
    return [desk.written("constant.nrrd", Volume(np.full(GRID, 5.0, np.float32), straight()))]


def singular(desk: Desk) -> list:
    header = (
        "NRRD0004\ntype: float\ndimension: 3\nspace: left-posterior-superior\nsizes: 4 4 4\n"
        "space directions: (1,0,0) (1,0,0) (0,0,1)\nkinds: domain domain domain\nendian: little\n"
        "encoding: raw\nspace origin: (0,0,0)\n\n"
    )
    return [desk.text("singular.nrrd", header.encode() + np.arange(64, dtype="<f4").tobytes())]


def truncated(ending: str) -> Callable[[Desk], list]:
    def build(desk: Desk) -> list:
        whole = desk.written(f"whole{ending}", study()).read_bytes()
        return [desk.text(f"half{ending}", whole[: len(whole) // 2])]

    return build


def not_overlapping(desk: Desk) -> list:
    far = desk.written("far.nrrd", Volume(an_array(), straight(origin=(900.0, 0.0, 0.0))))
    return [f"t1={desk.good}", f"t2={far}", "--plugin", desk.plugin("two images")]


def empty_segment(desk: Desk) -> list:
    mask = np.zeros(GRID, np.uint8)
    mask[4:8, 4:8, 4:8] = 1
    place = desk.written("segment.nrrd", Volume(mask, straight()))
    return [desk.good, "--region", f"{place}:2", "--plugin", desk.plugin("segment")]


def an_empty_folder(desk: Desk) -> list:
    (desk.folder / "empty").mkdir(exist_ok=True)
    return [desk.folder / "empty"]


BAD: dict[str, tuple[Callable[[Desk], list], str]] = {
    "a missing file": (lambda d: [d.folder / "absent.nii.gz"], "There is no file or folder"),
    "a folder without images": (an_empty_folder, "holds no DICOM images"),
    "a text file": (lambda d: [d.text("notes.txt", b"hello")], "not an image"),
    "NaN": (with_nan, "1 values that are not finite"),
    "four dimensions": (four_dimensions, "four dimensions"),
    "a colour volume": (colour_volume, "is a colour volume"),
    "a constant volume": (constant, "the value 5 everywhere"),
    "a singular direction": (singular, "singular"),
    "a truncated NIfTI": (truncated(".nii"), "'half.nii'"),
    "a truncated compressed NIfTI": (truncated(".nii.gz"), "'half.nii.gz'"),
    "a truncated NRRD": (truncated(".nrrd"), "'half.nrrd'"),
    "a plugin for other weights": (lambda d: [d.good, "--plugin", d.plugin("other weights")], "was trained on"),
    "a plugin that is no safetensors file": (
        lambda d: [d.good, "--plugin", d.text("not.safetensors", b"PK\x03\x04 something else entirely")],
        "is not a plugin file",
    ),
    "weights in the place of a plugin": (lambda d: [d.good, "--plugin", d.weights], "not an AnyMC3D plugin"),
    "a missing plugin": (lambda d: [d.good, "--plugin", d.folder / "absent"], "There is no plugin file"),
    "two images whose fields of view do not overlap": (not_overlapping, "do not overlap"),
    "one image of two": (lambda d: [d.good, "--plugin", d.plugin("two images")], "needs an image 't2'"),
    "an image too many": (lambda d: [d.good, d.good], "one image too many"),
    "an image named twice": (lambda d: [f"image={d.good}", f"image={d.good}"], "one image too many"),
    "an empty segment": (empty_segment, "The segment 2 in 'segment.nrrd' is empty"),
    "a missing segment": (lambda d: [d.good, "--plugin", d.plugin("segment")], "looks at a segment"),
    "a box outside": (
        lambda d: [d.good, "--plugin", d.plugin("box"), "--region", "box:900,900,900,950,950,950"],
        "lies outside",
    ),
    "a box of five numbers": (
        lambda d: [d.good, "--plugin", d.plugin("box"), "--region", "box:1,2,3,4,5"],
        "six numbers",
    ),
    "a box of words": (lambda d: [d.good, "--plugin", d.plugin("box"), "--region", "box:a,b,c,d,e,f"], "six numbers"),
    "a box upside down": (
        lambda d: [d.good, "--plugin", d.plugin("box"), "--region", "box:9,9,9,1,1,1"],
        "low corners below",
    ),
    "a label that is no number": (
        lambda d: [d.good, "--plugin", d.plugin("segment"), "--region", f"{d.good}:²"],
        "There is no file",
    ),
    "a region that the plugin does not look at": (
        lambda d: [d.good, "--region", "box:-20,20,0,-10,30,10"],
        "leave the region out",
    ),
    "an unknown device": (lambda d: [d.good, "--device", "abacus"], "The device 'abacus' is not here"),
    "a device that holds no values": (lambda d: [d.good, "--device", "meta"], "The device 'meta' is not here"),
    "an absent device": (lambda d: [d.good, "--device", "cuda:77"], "The device 'cuda:77' is not here"),
    "missing weights": (lambda d: [d.good, "--weights", d.folder / "absent.pth"], "no file or folder of weights"),
    "a heatmap of an unknown class": (
        lambda d: [d.good, "--heatmap", d.folder / "h.nrrd", "--heatmap-class", "dragon"],
        "no heatmap of a class 'dragon'",
    ),
    "a heatmap of the negative class": (
        lambda d: [d.good, "--heatmap", d.folder / "h.nrrd", "--heatmap-class", "normal"],
        "choose lesion",
    ),
    "a heatmap on an unknown grid": (
        lambda d: [d.good, "--heatmap", d.folder / "h.nrrd", "--heatmap-grid", "t2"],
        "image 't2'",
    ),
    "a heatmap below a file": (lambda d: [d.good, "--heatmap", d.good / "h.nrrd"], "Cannot write"),
    "a heatmap in the place of a folder": (lambda d: [d.good, "--heatmap", d.folder], "Cannot write"),
    "a heatmap as a picture": (lambda d: [d.good, "--heatmap", d.folder / "h.png"], "its ending must be"),
    "a report below a file": (lambda d: [d.good, "--report", d.good / "report"], "Cannot write"),
    "plugins of different backbones": (
        lambda d: [d.good, "--plugin", d.plugin(), "--plugin", d.plugin("other weights")],
        "need different backbones",
    ),
    "the same plugin twice": (lambda d: [d.good, "--plugin", d.plugin(), "--plugin", d.plugin()], "same name"),
}


@pytest.mark.parametrize("what", BAD)
def test_classify_says_in_one_sentence_what_is_wrong_with(
    what: str, desk: Desk, capsys: pytest.CaptureFixture[str]
) -> None:
    build, phrase = BAD[what]
    arguments = build(desk)
    for option, value in (("--plugin", desk.plugin()), ("--weights", desk.weights), ("--device", "cpu")):
        arguments += [] if option in arguments else [option, value]
    assert anymc3d("classify", *arguments) == 1
    shown = capsys.readouterr()
    lines = [line for line in shown.err.splitlines() if not PROGRESS.fullmatch(line)]
    assert len(lines) == 1, shown.err
    assert lines[0].startswith("anymc3d: ")
    assert phrase in lines[0]
    assert lines[0].endswith(".")
    assert shown.out == ""


def test_the_study_that_each_test_breaks_is_itself_good(desk: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--plugin", desk.plugin(), "--weights", desk.weights, "--device", "cpu"]
    assert anymc3d("classify", desk.good, *arguments) == 0
    assert "lesion" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["classify"],
        ["classify", "image.nii.gz"],
        ["classify", "image.nii.gz", "--plugin"],
        ["conjure"],
        ["plugin"],
        ["plugin", "polish", "file"],
        ["train", "--task", "t", "--data", "d"],
        ["train", "--task", "t", "--data", "d", "--out", "o", "--seed", "many"],
        ["evaluate", "--plugin", "p", "--data", "d", "--fast"],
    ],
)
def test_a_wrong_use_of_the_command_exits_with_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert anymc3d(*arguments) == 2
    shown = capsys.readouterr()
    assert "usage: anymc3d" in shown.out + shown.err
