"""The shell from end to end: train, look at the plugin, classify, evaluate; and what each command loads."""

from __future__ import annotations

import csv
import dataclasses
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from networks import plugin_spec, view, write_plugin
from shell import anymc3d, findable_backbone, write_medmnist
from stored import dinov2_folder
from test_import_weights import packages_loaded_by
from volumes import GRID, anatomy, straight, study

from AnyMC3DLib import terminal
from AnyMC3DLib.commands import common
from AnyMC3DLib.commands import train as train_command
from AnyMC3DLib.errors import InputError
from AnyMC3DLib.plugin import read_spec
from AnyMC3DLib.preprocessing import Box
from AnyMC3DLib.progress import Progress
from AnyMC3DLib.regions import read_region
from AnyMC3DLib.spec import BackboneRef, IntensitySpec, RegionSpec, SliceSpec
from AnyMC3DLib.training import metrics, order
from AnyMC3DLib.training.step import StepMode
from AnyMC3DLib.training.task import TaskSpec, TrainingSpec
from AnyMC3DLib.volume import Volume, read_volume, write_volume

HEAVY = {"torch", "timm", "monai", "SimpleITK", "sklearn", "matplotlib"}


@dataclasses.dataclass(frozen=True)
class Bench:
    """A trained plugin, and all that it came from."""

    folder: Path
    task: Path
    data: Path
    plugin: Path
    weights: Path
    training_output: str

    @property
    def computing(self) -> list[str | Path]:
        return ["--weights", self.weights, "--device", "cpu"]

    def image(self, number: int = 0) -> Path:
        with np.load(self.data) as arrays:
            place = self.folder / f"image {number}.nrrd"
            write_volume(place, Volume(arrays["test_images"][number], np.eye(4)))
        return place


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """`anymc3d train` on a tiny MedMNIST file with another backbone than the task's."""
    folder = tmp_path_factory.mktemp("bench")
    backbone, weights = findable_backbone(folder)
    window = IntensitySpec(kind="window", windows=((127.5, 255.0),))
    spec = plugin_spec(backbone, views=(view(backbone, size=(32, 32), intensity=window),))
    spec = dataclasses.replace(spec, backbone=BackboneRef(id="efficientnet_lite0"), description="A bright block?")
    task = TaskSpec(plugin=spec, training=TrainingSpec(epochs=2, warm_up_epochs=5, batch=4, adapter_rate=1e-3))
    (folder / "task.json").write_text(json.dumps(task.to_dict()))
    result = Bench(
        folder, folder / "task.json", write_medmnist(folder / "blobs.npz"), folder / "plugin.safetensors", weights, ""
    )
    with pytest.MonkeyPatch.context() as patch:
        # Those settings of the allocator would stay for all the tests that come after.
        patch.setattr(train_command, "keep_freed_memory", lambda: True)
        patch.setattr(metrics, "RESAMPLES", 100)
        lines: list[str] = []
        patch.setattr(train_command, "show", lines.append)
        assert anymc3d("train", "--task", result.task, "--data", result.data, "--out", result.plugin,
                       "--backbone", backbone.id, "--seed", "7", *result.computing) == 0  # fmt: skip
    return dataclasses.replace(result, training_output="\n".join(lines))


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "RESAMPLES", 100)


def test_training_says_what_it_wrote_and_how_large_it_is(bench: Bench) -> None:
    spec = read_spec(bench.plugin)
    assert f"Wrote '{bench.plugin}': {spec.provenance['parameters']:,} parameters" in bench.training_output


def test_options_of_training_change_the_task(bench: Bench) -> None:
    spec = read_spec(bench.plugin)
    assert spec.backbone.id == "timm:test_vit"
    assert spec.provenance["recipe"]["seed"] == 7
    assert spec.provenance["counts"] == {
        "train": {"normal": 6, "lesion": 6},
        "validation": {"normal": 4, "lesion": 4},
    }


def test_show_prints_the_card_of_a_plugin(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    assert anymc3d("plugin", "show", bench.plugin) == 0
    shown = capsys.readouterr().out
    for phrase in ("A bright block?", "lesion (threshold 0.5)", "timm:test_vit", "LoRA, rank 2", "6 normal, 6 lesion",
                   "validation AUC", f"{bench.plugin.stat().st_size:,} bytes", "Research only"):  # fmt: skip
        assert phrase in shown


def test_show_prints_the_whole_spec_as_json(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    assert anymc3d("plugin", "show", bench.plugin, "--json") == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["bytes"] == bench.plugin.stat().st_size
    assert shown["parameters"] == shown["provenance"]["parameters"]
    assert shown["backbone"]["digest"].startswith("sha256:")


def test_verify_says_that_a_plugin_fits_its_backbone(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    assert anymc3d("plugin", "verify", bench.plugin, *bench.computing) == 0
    assert capsys.readouterr().out == "Plugin 'Test' is whole and fits 'timm:test_vit'.\n"


def test_verify_refuses_another_backbone(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    other, weights = findable_backbone(bench.folder, "test_resnet")
    arguments = ["--backbone", other.id, "--weights", weights, "--device", "cpu"]
    assert anymc3d("plugin", "verify", bench.plugin, *arguments) == 1
    shown = capsys.readouterr().err
    assert shown.startswith("anymc3d: Plugin 'Test' was trained on 'timm:test_vit'")
    assert shown.count("\n") == 1


def test_classify_prints_probabilities_and_the_slice_that_counted(
    bench: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    assert anymc3d("classify", bench.image(), "--plugin", bench.plugin, *bench.computing) == 0
    shown = capsys.readouterr().out
    for phrase in ("Test, version 1", "probability", "normal", "lesion", "counted most", "Research only"):
        assert phrase in shown


def test_classify_prints_the_prediction_as_json(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    assert anymc3d("classify", bench.image(), "--plugin", bench.plugin, "--json", *bench.computing) == 0
    shown = json.loads(capsys.readouterr().out)["Test"]
    assert sum(shown["probabilities"].values()) == pytest.approx(1)
    assert sum(s["weight"] for s in shown["views"]["axial"]["slices"]) == pytest.approx(1, abs=1e-5)
    assert shown["provenance"]["device"] == "cpu"


def test_classify_writes_a_heatmap_on_the_grid_of_the_image(bench: Bench) -> None:
    place, image = bench.folder / "new folder" / "heat.nii.gz", bench.image()
    assert anymc3d("classify", image, "--plugin", bench.plugin, "--heatmap", place, *bench.computing) == 0
    heat, volume = read_volume(place), read_volume(image)
    assert heat.grid == volume.grid
    np.testing.assert_allclose(heat.ijk_to_ras, volume.ijk_to_ras, atol=1e-6)


def test_classify_writes_a_report(bench: Bench) -> None:
    folder = bench.folder / "report"
    assert anymc3d("classify", bench.image(), "--plugin", bench.plugin, "--report", folder, *bench.computing) == 0
    endings = {place.suffix for place in folder.iterdir()}
    assert {".html", ".csv", ".json"} <= endings


def test_classify_answers_for_several_plugins(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    backbone, _ = findable_backbone(bench.folder)
    second = write_plugin(bench.folder / "second.safetensors", backbone, name="Second")
    arguments = ["--plugin", bench.plugin, "--plugin", second, "--json", *bench.computing]
    assert anymc3d("classify", bench.image(), *arguments) == 0
    assert set(json.loads(capsys.readouterr().out)) == {"Test", "Second"}


def test_evaluate_measures_a_plugin_against_another(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    table = bench.folder / "predictions.csv"
    arguments = ["--plugin", bench.plugin, "--data", bench.data, *bench.computing]
    options = ["--against", bench.plugin, "--predictions", table, "--json"]
    assert anymc3d("evaluate", *arguments, *options) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["cases"] == 10
    assert shown["auc_difference"] == {"value": 0.0, "low": 0.0, "high": 0.0}
    assert 0 <= shown["auc"]["low"] <= shown["auc"]["value"] <= shown["auc"]["high"] <= 1
    with table.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["case"] for row in rows] == [f"test-{n}" for n in range(10)]
    right = [(float(row["lesion"]) > 0.5) == (row["target"] == "1") for row in rows]
    assert np.mean(right) == pytest.approx(shown["accuracy"]["value"])


def test_evaluate_prints_a_table_over_the_splits_asked_for(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--plugin", bench.plugin, "--data", bench.data, "--splits", "val,test", *bench.computing]
    assert anymc3d("evaluate", *arguments) == 0
    shown = capsys.readouterr().out
    assert "Test on 18 cases (val,test)" in shown
    assert "accuracy" in shown
    assert "difference" not in shown


def test_evaluation_gives_the_probabilities_that_classification_gives(
    bench: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    table = bench.folder / "again.csv"
    arguments = ["--plugin", bench.plugin, *bench.computing]
    assert anymc3d("evaluate", "--data", bench.data, "--predictions", table, *arguments) == 0
    with table.open(newline="") as stream:
        measured = float(list(csv.DictReader(stream))[3]["lesion"])
    capsys.readouterr()
    assert anymc3d("classify", bench.image(3), "--json", *arguments) == 0
    # Training keeps slices as float16.
    classified = json.loads(capsys.readouterr().out)["Test"]["probabilities"]["lesion"]
    assert measured == pytest.approx(classified, abs=2e-3)


def test_evaluate_writes_no_nan_as_json_where_a_class_is_absent(
    bench: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_medmnist(bench.folder / "one class.npz", test_labels=np.zeros((10, 1), int))
    assert anymc3d("evaluate", "--plugin", bench.plugin, "--data", data, "--json", *bench.computing) == 0
    shown = capsys.readouterr()
    assert json.loads(shown.out, parse_constant=pytest.fail)["auc"]["value"] is None
    assert "Warning" not in shown.err


def test_a_frozen_training_keeps_its_last_weights_without_validation(
    bench: Bench, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train_command, "keep_freed_memory", lambda: True)
    out = bench.folder / "frozen.safetensors"
    arguments = ["--task", bench.task, "--data", bench.data, "--out", out, "--backbone", "timm:test_vit"]
    assert anymc3d("train", *arguments, "--frozen", "--val-splits", "", *bench.computing) == 0
    spec = read_spec(out)
    assert spec.lora.rank == 0
    assert spec.provenance["validation"] == {}
    assert "warm-up" in capsys.readouterr().out
    assert anymc3d("plugin", "show", out) == 0
    assert "validation AUC" not in capsys.readouterr().out


def test_the_step_of_a_training_is_what_was_asked_for(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def train_plugin(*arguments: object, mode: str, **options: object) -> None:
        asked.append(mode)
        raise InputError("That is enough.")

    monkeypatch.setattr(train_command, "keep_freed_memory", lambda: True)
    monkeypatch.setattr(order, "train_plugin", train_plugin)
    arguments = ["--task", bench.task, "--data", bench.data, "--out", bench.folder / "x", "--backbone", "timm:test_vit"]
    for words in ([], *(["--step", mode] for mode in get_args(StepMode))):
        assert anymc3d("train", *arguments, *bench.computing, *words) == 1
    assert asked == ["auto", *get_args(StepMode)]
    assert anymc3d("train", *arguments, "--step", "slow") == 2


def test_training_says_at_once_that_its_plugin_cannot_be_written(
    bench: Bench, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train_command, "keep_freed_memory", lambda: True)
    arguments = ["--task", bench.task, "--data", bench.data, "--out", bench.data / "p", "--backbone", "timm:test_vit"]
    assert anymc3d("train", *arguments, *bench.computing) == 1
    shown = capsys.readouterr().err
    assert "anymc3d: Cannot write" in shown
    assert "Training" not in shown


@pytest.mark.parametrize(
    ("changed", "phrase"),
    [
        ({"--task": "Dragons"}, "There is no task file 'Dragons'"),
        ({"--data": "absent.npz"}, "There is no data file"),
        ({"--backbone": "dragon"}, "There is no backbone 'dragon'"),
        ({"--backbone": "timm:dragon"}, "timm has no model 'dragon'"),
        ({"--train-splits": "school"}, "no case in the split 'school'"),
    ],
)
def test_training_says_in_one_sentence_what_is_wrong(
    changed: dict[str, str], phrase: str, bench: Bench, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(train_command, "keep_freed_memory", lambda: True)
    options = {"--task": bench.task, "--data": bench.data, "--out": bench.folder / "x", "--backbone": "timm:test_vit"}
    arguments = [part for option in {**options, **changed}.items() for part in option]
    assert anymc3d("train", *arguments, *bench.computing) == 1
    assert phrase in capsys.readouterr().err


# Images and regions by name


def regional(bench: Bench, kind: str) -> Path:
    """A plugin of two images that looks at a region of each."""
    backbone, _ = findable_backbone(bench.folder)
    views = tuple(
        view(backbone, axis, source=source, size=(32, 32), region=RegionSpec(kind=kind), slices=SliceSpec())
        for axis, source in (("axial", "t1"), ("coronal", "t2"))
    )
    return write_plugin(bench.folder / f"{kind}.safetensors", backbone, views=views)


@pytest.fixture
def pair(bench: Bench) -> tuple[Path, Path, Path]:
    """Two images with different contents, and a segmentation of three labels."""
    first, second, segments = (bench.folder / f"{name}.nrrd" for name in ("first", "second", "segments"))
    write_volume(first, study())
    write_volume(second, Volume(anatomy(seed=9), straight()))
    labels = np.zeros(GRID, np.uint8)
    labels[2:5, 3:12, 3:12], labels[6:11, 5:15, 4:14] = 1, 2
    write_volume(segments, Volume(labels, straight()))
    return first, second, segments


def answer(capsys: pytest.CaptureFixture[str], bench: Bench, *arguments: str | Path) -> dict:
    assert anymc3d("classify", *arguments, "--json", *bench.computing) == 0
    return json.loads(capsys.readouterr().out)["Test"]


def test_images_go_to_their_names_or_to_the_next_free_one(
    bench: Bench, pair: tuple[Path, Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    first, second, segments = pair
    looks = ["--plugin", regional(bench, "segment"), "--region", f"t1={segments}:2", "--region", f"t2={segments}:2"]
    named = answer(capsys, bench, f"t2={second}", f"t1={first}", *looks)
    assert answer(capsys, bench, first, second, *looks)["probabilities"] == named["probabilities"]
    assert answer(capsys, bench, f"t2={second}", first, *looks)["probabilities"] == named["probabilities"]
    assert answer(capsys, bench, second, first, *looks)["probabilities"] != named["probabilities"]


def test_a_file_may_have_the_sign_of_a_name_in_its_own(
    bench: Bench, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(bench.folder)
    bench.image().rename(bench.folder / "image=1.nrrd")
    assert answer(capsys, bench, "image=1.nrrd", "--plugin", bench.plugin)["probabilities"]


def test_the_label_behind_a_segmentation_says_which_segment_is_looked_at(
    bench: Bench, pair: tuple[Path, Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    first, second, segments = pair
    plugin = regional(bench, "segment")
    counts = {}
    for label in ("1", "2", ""):
        place = f"{segments}:{label}" if label else str(segments)
        shown = answer(capsys, bench, first, second, "--plugin", plugin, "--region", place, "--region", place)
        counts[label] = len(shown["views"]["axial"]["slices"])
    assert counts == {"1": 3, "2": 5, "": 9}


def test_a_box_is_the_region_between_two_corners(
    bench: Bench, pair: tuple[Path, Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    first, second, _ = pair
    low, high = straight()[:3, 3], straight()[:3, 3] + (9, 9, 2.2 * 4)
    box = "box:" + ",".join(f"{x:g}" for x in (*low, *high))
    arguments = ["--plugin", regional(bench, "box"), "--region", f"t2={box}", "--region", f"t1={box}"]
    shown = answer(capsys, bench, first, second, *arguments)
    assert len(shown["views"]["axial"]["slices"]) == 5
    assert read_region("box:1,2,3,4,5,6") == Box((1, 2, 3), (4, 5, 6))


# Help, and what is loaded


def test_help_lists_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert anymc3d("--help") == 0
    shown = capsys.readouterr().out
    for name in ("classify", "train", "evaluate", "plugin", "backbones", "backbone", "demo"):
        assert re.search(rf"^ +{name}\s", shown, re.MULTILINE)


@pytest.mark.parametrize(
    "command",
    [
        ["classify"],
        ["train"],
        ["evaluate"],
        ["plugin"],
        ["plugin", "show"],
        ["plugin", "verify"],
        ["demo"],
        ["backbone"],
        *(["backbone", action] for action in ("import", "fetch", "show", "remove")),
    ],
    ids=" ".join,
)
def test_each_command_explains_itself(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert anymc3d(*command, "--help") == 0
    assert f"usage: anymc3d {' '.join(command)}" in capsys.readouterr().out


def test_the_version_is_the_librarys(capsys: pytest.CaptureFixture[str]) -> None:
    from AnyMC3DLib import __version__

    assert anymc3d("--version") == 0
    assert capsys.readouterr().out == f"anymc3d {__version__}\n"


def test_the_library_alone_loads_nothing() -> None:
    assert packages_loaded_by("AnyMC3DLib", "AnyMC3DLib.cli") == {"AnyMC3DLib"}


@pytest.mark.parametrize("command", ["--help", "backbones", "plugin show"])
def test_what_needs_no_network_loads_no_torch(command: str, bench: Bench) -> None:
    arguments = [*command.split(), *([str(bench.plugin)] if command == "plugin show" else [])]
    program = (
        "import sys\nfrom AnyMC3DLib.cli import main\n"
        f"try:\n    code = main({arguments!r})\nexcept SystemExit as stopped:\n    code = stopped.code\n"
        "sys.stderr.write(' '.join(sys.modules))\nsys.exit(code)"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout
    assert not HEAVY & {name.partition(".")[0] for name in result.stderr.split()}


def test_the_installed_command_says_what_is_wrong_and_exits_with_1(tmp_path: Path) -> None:
    command = Path(sys.executable).with_name("anymc3d")
    result = subprocess.run(
        [command, "plugin", "show", tmp_path / "absent"], capture_output=True, text=True, check=False
    )
    assert result.returncode == 1
    assert result.stdout == ""
    assert result.stderr == f"anymc3d: There is no plugin file '{tmp_path / 'absent'}': check the path.\n"


def test_a_reader_that_leaves_early_is_no_error() -> None:
    command = f"{Path(sys.executable).with_name('anymc3d')} backbones --json | true; exit ${{PIPESTATUS[0]}}"
    result = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (0, "")


def test_backbones_are_listed_as_a_table_and_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert anymc3d("backbones", "--json") == 0
    entries = json.loads(capsys.readouterr().out)
    assert anymc3d("backbones") == 0
    shown = capsys.readouterr().out
    for entry in entries:
        assert entry["id"] in shown
        assert entry["title"] in shown


def test_the_list_says_where_access_is_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    assert anymc3d("backbones") == 0
    shown = capsys.readouterr().out
    for words in ("gated", "file only", "non-commercial", "https://huggingface.co/google/medsiglip-448"):
        assert words in shown


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder of installed backbones."""
    monkeypatch.setenv("ANYMC3D_BACKBONES", str(tmp_path / "store"))
    return tmp_path / "store"


def test_the_list_names_the_folder_while_nothing_is_installed(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert anymc3d("backbones") == 0
    shown = capsys.readouterr().out
    assert f"Nothing is installed yet in {store}\nThis folder is made at the first fetch or import" in shown
    assert "make it yourself" in shown
    store.mkdir()
    assert anymc3d("backbones") == 0
    shown = capsys.readouterr().out
    assert f"Nothing is installed yet in {store}\n" in shown and "make it yourself" not in shown


def imported(tmp_path: Path, *options: str) -> int:
    _, weights = findable_backbone(tmp_path)
    (tmp_path / "LICENSE").write_text("Do what you like.\n" * 20)
    return anymc3d("backbone", "import", weights, "--as", "mine", "--model", "test_vit", *options)


def test_a_backbone_is_imported_listed_shown_and_removed(
    tmp_path: Path, store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert imported(tmp_path, "--title", "My ViT", "--licence", "MIT") == 0
    assert capsys.readouterr().out.startswith("Installed 'mine': ")
    assert anymc3d("backbones") == 0
    listed = capsys.readouterr().out
    assert listed.index("My ViT") < listed.index("EfficientNet-Lite0")
    assert "Installed in" in listed
    assert anymc3d("backbone", "show", "mine") == 0
    card = capsys.readouterr().out
    digest = findable_backbone(tmp_path)[0].digest
    for words in ("My ViT", "test_vit", digest, "test_vit-0.safetensors", "MIT", "positions are resampled (bicubic",
                  "Do what you like.", "8 lines more"):  # fmt: skip
        assert words in card
    assert anymc3d("backbone", "show", "mine", "--json") == 0
    record = json.loads(capsys.readouterr().out)
    assert (record["id"], record["digest"], Path(record["file"])) == ("mine", digest, store / "mine.safetensors")
    assert anymc3d("backbones", "--json") == 0
    first, *others = json.loads(capsys.readouterr().out)
    assert (first["id"], first["installed"]) == ("mine", True)
    assert not any(other["installed"] for other in others)
    assert anymc3d("backbone", "remove", "mine") == 0
    assert not list(store.iterdir())


def test_an_import_says_from_where_its_colours_are_and_what_it_left_out(
    tmp_path: Path, store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = dinov2_folder(tmp_path / "dinov2")
    assert anymc3d("backbone", "import", folder, "--as", "assumed") == 0
    lines = capsys.readouterr().out.splitlines()
    colours = "mean 0.485, 0.456, 0.406, standard deviation 0.229, 0.224, 0.225"
    assert lines[2:] == [
        f"Its colours are {colours}, assumed as usual for DINOv2 since no file beside the weights says.",
        "Left out: 1 tensor that the network for slices does without (mask_token 1).",
    ]
    stated = {"image_processor": {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.25, 0.25, 0.25]}}
    (folder / "processor_config.json").write_text(json.dumps(stated))
    assert anymc3d("backbone", "import", folder, "--as", "stated") == 0
    colours = "mean 0.5, 0.5, 0.5, standard deviation 0.25, 0.25, 0.25, from processor_config.json"
    assert f"Its colours are {colours}." in capsys.readouterr().out.splitlines()
    assert anymc3d("backbone", "show", "stated") == 0
    card = capsys.readouterr().out
    assert colours in card and "mask_token 1" in card


def test_a_folder_of_backbones_that_cannot_be_read_leaves_the_list_of_the_others(
    store: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    store.write_text("no folder")
    assert anymc3d("backbones") == 0
    assert "EfficientNet-Lite0" in capsys.readouterr().out
    (warning,) = caplog.messages
    assert f"The folder of backbones '{store}' cannot be read (Not a directory): check the drive." in warning


def test_an_installed_backbone_is_replaced_only_when_that_is_said(
    tmp_path: Path, store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert imported(tmp_path) == 0
    assert imported(tmp_path) == 1
    assert "already" in capsys.readouterr().err
    assert imported(tmp_path, "--overwrite") == 0


@pytest.mark.parametrize(
    ("arguments", "phrase"),
    [
        (("import", "absent.pth", "--as", "mine"), "There is no file or folder of weights 'absent.pth'"),
        (("import", "absent.pth", "--as", "../mine"), "cannot be the name of a backbone"),
        (("show", "mine"), "There is no installed backbone 'mine'"),
        (("show", "../mine"), "There is no installed backbone '../mine'"),
        (("remove", "mine"), "There is no installed backbone 'mine'"),
        (("fetch", "dragon"), "There is no backbone 'dragon'"),
        (("fetch", "medsiglip_so400m14"), "import FOLDER --as medsiglip_so400m14"),
    ],
)
def test_what_is_wrong_with_a_backbone_is_said_in_one_sentence(
    arguments: tuple[str, ...], phrase: str, store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert anymc3d("backbone", *arguments) == 1
    shown = capsys.readouterr()
    assert phrase in shown.err
    assert shown.err.count("\n") == 1
    assert shown.out == ""
    assert not store.exists()


def test_a_damaged_backbone_is_named_and_the_list_goes_on(
    store: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    store.mkdir()
    (store / "bad.safetensors").write_bytes(b"no weights")
    assert anymc3d("backbones") == 0
    assert "'bad.safetensors'" in caplog.text
    assert anymc3d("backbone", "show", "bad") == 1
    assert "'bad.safetensors' is no complete safetensors file" in capsys.readouterr().err
    assert anymc3d("backbone", "remove", "bad") == 0


def test_an_interrupted_command_says_so_and_exits_with_130(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from AnyMC3DLib.commands import backbones

    def interrupt(options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(backbones, "show_list", interrupt)
    assert anymc3d("backbones") == 130
    assert capsys.readouterr().err == "anymc3d: stopped.\n"


# The terminal


def test_progress_outside_a_terminal_is_one_line_a_step(capsys: pytest.CaptureFixture[str]) -> None:
    with terminal.ProgressDisplay() as display:
        for step in ("Cutting", "Training"):
            for done in range(1, 100):
                display(Progress(step, done, 99))
    assert capsys.readouterr().err.splitlines() == ["Cutting: 1 of 99", "Training: 1 of 99"]


def test_progress_in_a_terminal_is_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    with terminal.ProgressDisplay() as display:
        display(Progress("Cutting", 1, 2))
        display(Progress("Training", 3, 4))
        (task,) = display._bar.tasks
        assert (task.description, task.completed, task.total) == ("Training", 3, 4)


def test_a_table_shows_names_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    terminal.show_table("[b]title[/b]", ["class"], [["[red]warm[/red] :smile: " + "x" * 150]])
    shown = capsys.readouterr().out
    assert "[b]title[/b]" in shown
    assert "[red]warm[/red] :smile: " + "x" * 150 in shown


def test_what_would_steer_the_terminal_is_not_shown(capsys: pytest.CaptureFixture[str]) -> None:
    terminal.show_table("a\x1b[2Jtitle", ["class"], [["\x1b]0;owned\x07cell"]])
    terminal.show("two\nlines\x1b[31m\r")
    shown = capsys.readouterr().out
    assert not set(shown) & set("\x1b\x07\r")
    assert "cell" in shown and "two\nlines" in shown


def test_a_list_of_splits_may_have_spaces_and_may_be_empty() -> None:
    assert common.split_list("train, val,") == ["train", "val"]
    assert common.split_list("") == []


def test_auto_chooses_a_device_that_is_there() -> None:
    assert common.choose_device("auto").type in ("cpu", "cuda", "mps")
    with pytest.raises(InputError):
        common.choose_device("warp drive")
