"""Suites span rows over axes; what is wrong in one is said in a sentence."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import small_suite
import yaml
from small_suite import BACKBONE, read_small, write_data, write_suite

from AnyMC3DLib.benchmark.config import RowConfig
from AnyMC3DLib.benchmark.methods import find_method
from AnyMC3DLib.benchmark.suites import read_suite, ready_suites
from AnyMC3DLib.cli import main
from AnyMC3DLib.errors import InputError
from AnyMC3DLib.training.task import read_task

READY = (
    "anymc3d-adaptation", "anymc3d-backbone-size", "anymc3d-data-efficiency", "anymc3d-fusion", "anymc3d-main",
    "medmnist2d-data-size", "medmnist2d-input-size", "medmnist2d-probe-vs-finetune", "medmnist3d",
)  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data of the small suite."""
    return write_data(tmp_path_factory.mktemp("data"))


def test_the_ready_suites_are_those_that_the_docs_name() -> None:
    assert tuple(ready_suites()) == READY


@pytest.mark.parametrize("name", READY)
def test_every_row_of_a_ready_suite_is_a_task_that_its_method_takes(name: str, data: Path) -> None:
    suite = read_suite(name)
    for spec in suite.datasets:
        task = read_task(spec.task or spec.name)
        # Of a dataset that is not there, its rows are those of any other.
        rows = suite.configs({spec.name: _as_if_there(spec.name, task, data)})
        assert rows, spec.name
        for row in rows:
            find_method(row.method).task(task, row)


def _as_if_there(name: str, task: object, data: Path) -> object:
    from AnyMC3DLib.benchmark.datasets import Dataset

    return Dataset(name, task, data / "balls.npz")


def test_rows_are_every_combination_and_each_once(data: Path) -> None:
    suite = write_suite(
        data,
        {"methods": ["probe", "frozen"], "shares": [0.5, 1.0], "seeds": [0, 1, 2]},
        {"methods": ["frozen"], "seeds": [2, 3]},
        name="spanned",
    )
    configs, _ = read_small(suite)
    assert len(configs) == 2 * 2 * 3 + 1
    assert len({config.key for config in configs}) == len(configs)


def test_a_key_is_the_same_on_every_machine_and_another_for_every_field() -> None:
    base = RowConfig(dataset="a", method="probe")
    changes = {
        "dataset": "b", "method": "frozen", "task": "x", "data": "x", "backbone": "x", "pretrained": False, "size": 28,
        "share": 0.5, "fusion": "max", "rank": 2, "targets": ("mlp",), "views": ("axial",), "pixels": 1.0, "epochs": 2,
        "recipe": {"batch": 4}, "seed": 1, "budget_minutes": 5.0, "weights": "x",
    }  # fmt: skip
    assert set(changes) == {field.name for field in dataclasses.fields(RowConfig)} - {"extra"}
    keys = {dataclasses.replace(base, **{name: value}).key for name, value in changes.items()}
    assert base.key == "23746426b3433f1e"
    assert len(keys | {base.key}) == len(changes) + 1


def test_a_3d_network_has_no_backbone_whatever_the_block_says(data: Path) -> None:
    configs, _ = read_small(write_suite(data, {"methods": ["resnet18-3d"], "sizes": [32]}, name="volume"))
    assert [(config.backbone, config.pretrained) for config in configs] == [("", False)]


@pytest.mark.parametrize(
    ("block", "words"),
    [
        ({"methods": ["magic"]}, "There is no method 'magic'"),
        ({"methods": ["probe"], "sharse": [0.5]}, "no field 'sharse'"),
        ({"methods": ["probe"], "shares": [0.0]}, "must lie above 0"),
        ({"methods": ["probe"], "shares": [1.5]}, "must lie above 0"),
        ({"methods": "probe"}, "must be a list"),
        ({"methods": ["probe"], "datasets": ["Cubes"]}, "no dataset 'Cubes'"),
        ({"methods": ["probe"], "budget_minutes": -1}, "above 0 minutes"),
    ],
)
def test_a_fault_in_a_suite_is_told_in_a_sentence(block: dict, words: str, data: Path) -> None:
    with pytest.raises(InputError, match=words) as error:
        read_small(write_suite(data, block, name="faulty"))
    assert str(error.value).endswith(".") and "\n" not in str(error.value)


@pytest.mark.parametrize("text", ["[1, 2]", "a: [", "!!python/object/apply:os.system ['true']", "title: x", "\x00"])
def test_a_file_that_is_no_suite_is_refused_and_nothing_in_it_is_run(text: str, tmp_path: Path) -> None:
    place = tmp_path / "odd.yaml"
    place.write_text(text, encoding="utf-8")
    with pytest.raises(InputError) as error:
        read_suite(place)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("method", "changes", "words"),
    [
        ("mst", {"fusion": "max"}, "has no fusion to set"),
        ("resnet18-3d", {"rank": 4}, "has no rank to set"),
        ("raptor", {"targets": ("mlp",)}, "has no targets to set"),
        ("frozen", {"fusion": "sum"}, "There is no fusion 'sum'"),
        ("frozen", {"recipe": {"epoch": 3}}, "A recipe has no field 'epoch'"),
        ("probe", {"views": ("oblique",)}, "has no view 'oblique'"),
    ],
)
def test_a_row_that_a_method_cannot_take_is_refused(method: str, changes: dict, words: str, data: Path) -> None:
    task = read_task(data / "balls.json")
    backbone = "" if not find_method(method).takes_backbone else BACKBONE
    config = RowConfig(dataset="Balls", method=method, backbone=backbone, **changes)
    with pytest.raises(InputError, match=words):
        find_method(method).task(task, config)


def test_a_size_keeps_what_is_seen_and_changes_the_pixels() -> None:
    task = read_task("AdrenalMNIST3D")
    changed = find_method("frozen").task(task, RowConfig(dataset="a", method="frozen", backbone="x", size=32))
    for before, after in zip(task.plugin.views, changed.plugin.views, strict=True):
        assert after.preprocessing.size == (32, 32)
        width = before.preprocessing.spacing_mm * before.preprocessing.size[0]
        assert after.preprocessing.spacing_mm * 32 == pytest.approx(width)


def test_the_strength_of_adapters_does_not_change_with_their_rank() -> None:
    task = read_task("AdrenalMNIST3D")
    changed = find_method("anymc3d").task(task, RowConfig(dataset="a", method="anymc3d", backbone="x", rank=2))
    lora = changed.plugin.lora
    assert lora.alpha / lora.rank == task.plugin.lora.alpha / task.plugin.lora.rank


def test_a_3d_network_sees_the_window_that_slices_show_at_one_scale() -> None:
    task = read_task("AdrenalMNIST3D")
    config = RowConfig(dataset="a", method="resnet18-3d", size=32)
    (view,) = find_method("resnet18-3d").task(task, config).plugin.views
    before, cut = task.plugin.views[0].preprocessing, view.preprocessing
    assert cut.size == (32, 32) and cut.spacing_mm == pytest.approx(before.spacing_mm * before.size[0] / 32)
    assert cut.slices.thickness_mm == cut.spacing_mm and cut.region == before.region


def test_a_3d_network_sees_all_of_a_volume_that_slices_are_fitted_to(data: Path) -> None:
    task = read_task(data / "balls.json")
    (view,) = find_method("resnet18-3d").task(task, RowConfig(dataset="a", method="resnet18-3d", size=32)).plugin.views
    assert view.preprocessing.region.kind == "whole" and view.preprocessing.slices.count == 32


@pytest.mark.parametrize("method", ["anymc3d", "resnet18-3d"])
def test_what_augmentation_says_in_pixels_is_the_same_part_of_a_picture_at_every_size(method: str) -> None:
    task = read_task("AdrenalMNIST3D")
    backbone = "x" if find_method(method).takes_backbone else ""
    changed = find_method(method).task(task, RowConfig(dataset="a", method=method, backbone=backbone, size=32))
    before, after = task.training.augmentation, changed.training.augmentation
    assert after.shift_pixels == before.shift_pixels / 2 and after.rotation_degrees == before.rotation_degrees


def test_a_sequence_learns_on_all_slices_as_it_is_tested() -> None:
    task = read_task("AdrenalMNIST3D")
    assert task.training.slices is not None
    for method in ("mst", "cnn-lstm"):
        changed = find_method(method).task(task, RowConfig(dataset="a", method=method, backbone="x"))
        assert changed.training.slices is None


def test_a_value_of_the_task_s_own_has_the_key_of_one_that_is_left_away(data: Path) -> None:
    blocks = [{"methods": ["frozen", "anymc3d"]}, {"methods": ["frozen"], "fusions": ["attention"]},
              {"methods": ["anymc3d"], "ranks": [2]}]  # fmt: skip
    configs, _ = read_small(write_suite(data, *blocks, name="own"))
    assert len(configs) == 2


def test_the_command_runs_a_suite_to_its_report(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    suite = write_suite(data, {"methods": ["probe", "frozen"], "seeds": [0, 1]}, name="shell")
    given = [str(suite), "--data", str(data), "--results", str(tmp_path / "results")]
    assert main(["benchmark", "run", *given, "--methods", "probe", "--threads", "1"]) == 0
    assert main(["benchmark", "status", *given]) == 0
    assert "2 done, 0 failed, 2 missing." in capsys.readouterr().out
    assert main(["benchmark", "run", *given, "--threads", "1"]) == 0
    out = capsys.readouterr().out
    assert "2 rows computed, 2 were there, 0 failed." in out
    page = tmp_path / "results" / "reports" / "shell" / "report.html"
    assert page.is_file() and str(page) in out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--data", "nowhere"], "There is no folder 'nowhere'"),
        (["--methods", "magic"], "no method 'magic'"),
        (["--part", "3/2"], "part"),
        (["--part", "a"], "K/N"),
    ],
)
def test_a_faulty_command_ends_with_a_sentence(
    arguments: list[str], words: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    suite = write_suite(data, {"methods": ["probe"]}, name="asked")
    given = ["benchmark", "run", str(suite), "--data", str(data), "--results", str(tmp_path)]
    assert main([*given, *arguments]) == 1
    error = capsys.readouterr().err
    assert words in error and "Traceback" not in error


def test_the_list_of_ready_suites_is_shown(capsys: pytest.CaptureFixture) -> None:
    assert main(["benchmark", "suites"]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in READY)


def test_a_folder_without_the_data_of_any_set_is_told(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["benchmark", "status", "medmnist3d", "--data", str(tmp_path), "--results", str(tmp_path)]) == 1
    assert "data of none of the suite's datasets" in capsys.readouterr().err


def test_the_data_that_a_suite_names_lie_in_the_folder_or_beside_it(data: Path, tmp_path: Path) -> None:
    suite = write_suite(data, {"methods": ["probe"]}, name="beside")
    content = yaml.safe_load(suite.read_text(encoding="utf-8"))
    found, absent = read_suite(suite).found(tmp_path)
    assert (list(found), absent) == ([small_suite.NAME], [])
    content["datasets"] = [{"name": "Balls", "task": "balls.json", "data": "other.npz"}]
    suite.write_text(yaml.safe_dump(content), encoding="utf-8")
    assert read_suite(suite).found(data)[1] == ["Balls"]


def test_a_small_share_is_trained_for_more_epochs_by_the_exponent(data: Path) -> None:
    block = {"methods": ["frozen", "anymc3d"], "shares": [0.25, 1.0], "more_epochs": 0.5, "epochs": 8}
    configs, datasets = read_small(write_suite(data, block, name="longer"))
    found = {}
    for config in configs:
        recipe = find_method(config.method).task(datasets["Balls"].task, config).training
        found[config.method, config.share] = recipe.warm_up_epochs, recipe.epochs
    assert found["anymc3d", 0.25] == (4, 16) and found["anymc3d", 1.0] == (2, 8)
    assert found["frozen", 0.25][0] == 4 and found["frozen", 1.0][0] == 2


def test_a_network_without_a_warm_up_gets_none_by_its_share(data: Path) -> None:
    block = {"methods": ["resnet18-3d"], "sizes": [32], "shares": [0.25], "more_epochs": 1.0, "epochs": 3}
    (config,), datasets = read_small(write_suite(data, block, name="longer"))
    recipe = find_method("resnet18-3d").task(datasets["Balls"].task, config).training
    assert (recipe.warm_up_epochs, recipe.epochs) == (0, 12)
