"""The demonstration, made small; and what its table says."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from networks import plugin_spec, tiny_backbone, view
from shell import anymc3d, findable_backbone

from AnyMC3DLib import demo
from AnyMC3DLib.commands import demo as command
from AnyMC3DLib.heatmap import DISPLAY_THRESHOLD
from AnyMC3DLib.phantom import head_phantom
from AnyMC3DLib.plugin import read_spec
from AnyMC3DLib.spec import BackboneRef, ClassSpec
from AnyMC3DLib.training import metrics
from AnyMC3DLib.training.task import TaskSpec, TrainingSpec
from AnyMC3DLib.volume import read_volume


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """A demonstration of seconds: few phantoms, few voxels, a short recipe."""
    backbone = tiny_backbone("test_vit")
    classes = (ClassSpec(name="no lesion"), ClassSpec(name="lesion"))
    spec = plugin_spec(backbone, name=demo.TASK, classes=classes, views=(view(backbone, size=(32, 32)),))
    spec = dataclasses.replace(spec, backbone=BackboneRef(id="timm:test_vit"))
    task = TaskSpec(plugin=spec, training=TrainingSpec(epochs=1, warm_up_epochs=1, batch=2))
    for module in (demo, command):
        monkeypatch.setattr(module, "read_task", lambda name: task)
    monkeypatch.setattr(demo, "COUNTS", {"train": 4, "val": 2, "test": 2})
    monkeypatch.setattr(metrics, "RESAMPLES", 20)
    monkeypatch.setattr(command, "keep_freed_memory", lambda: True)


def test_the_demonstration_leaves_a_plugin_a_picture_a_heatmap_and_a_report(small: None, tmp_path: Path) -> None:
    backbone, _ = findable_backbone(tmp_path)
    steps: list[str] = []
    result = demo.run_demo(tmp_path / "demo", backbone, progress=lambda p: steps.append(p.step))
    assert read_spec(result.plugin).name == "HeadLesionPhantom"
    assert result.picture.read_bytes().startswith(b"\x89PNG")
    assert "<html" in result.report.read_text(encoding="utf-8").lower()
    study, heat = (read_volume(tmp_path / "demo" / f"{name}.nrrd") for name in ("study", "heatmap"))
    assert heat.grid == study.grid
    np.testing.assert_allclose(heat.ijk_to_ras, study.ijk_to_ras, atol=1e-6)
    assert [(case.number, case.phantom.mask.any()) for case in result.cases] == [(6, False), (7, True)]
    np.testing.assert_array_equal(study.array, head_phantom(7, lesion=True).volume.array)
    assert "Cutting slices" in steps
    assert backbone.sites.keys == []


def test_the_command_shows_a_row_for_each_unseen_phantom(
    small: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, weights = findable_backbone(tmp_path)
    arguments = ["--output", tmp_path / "demo", "--weights", weights, "--device", "cpu", "--seed", "2"]
    assert anymc3d("demo", *arguments) == 0
    shown = capsys.readouterr().out
    for phrase in ("Unseen phantoms", "20006", "20007", "Look at", str(tmp_path / "demo")):
        assert phrase in shown.replace("\n", "")


def test_half_of_the_phantoms_of_every_split_have_a_lesion() -> None:
    cases = demo.cohort(1)
    assert len({case.id for case in cases}) == len(cases) == sum(demo.COUNTS.values())
    for split, count in demo.COUNTS.items():
        assert sum(case.target for case in cases if case.split == split) == count // 2
    assert not {case.id for case in cases} & {case.id for case in demo.cohort(2)}


def row(*, hottest: float, miss_mm: float | None, decided: bool = True) -> list[str]:
    prediction = SimpleNamespace(probabilities={"no lesion": 0.25, "lesion": 0.75}, decisions={"lesion": decided})
    (found,) = demo.table_of([demo.DemoCase(31, None, prediction, hottest, miss_mm)])
    return found


def test_the_table_says_where_the_heat_is_highest() -> None:
    assert row(hottest=0.9, miss_mm=0.0) == ["31", "lesion", "0.750", "0.90", "in the lesion"]
    assert row(hottest=0.9, miss_mm=12.4)[4] == "12 mm beside the lesion"
    assert row(hottest=DISPLAY_THRESHOLD - 0.01, miss_mm=None)[1::3] == ["no lesion", "no lesion, no heat shown"]
    assert row(hottest=DISPLAY_THRESHOLD, miss_mm=None)[4] == "heat although there is no lesion"
    assert row(hottest=DISPLAY_THRESHOLD, miss_mm=None, decided=False)[4] == "no lesion, no heat shown"


def test_how_far_the_heat_lies_from_the_lesion_is_in_millimetres() -> None:
    phantom = head_phantom(3, lesion=True)
    inside = np.argwhere(phantom.mask)
    assert demo._distance_mm(phantom, inside[0]) == 0
    above = inside[inside[:, 0].argmax()] + (2, 0, 0)
    assert demo._distance_mm(phantom, above) == pytest.approx(2 * phantom.volume.spacing[2], rel=0.2)


def test_freed_memory_is_kept_where_the_allocator_can_be_told() -> None:
    # In a process of its own, since the setting stays.
    program = "from AnyMC3DLib.allocator import keep_freed_memory; import platform, sys\n" \
              "sys.exit(keep_freed_memory() != (platform.libc_ver()[0] == 'glibc'))"  # fmt: skip
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
