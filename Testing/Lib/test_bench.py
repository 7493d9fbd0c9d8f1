"""The measurements run, and what they compare is the same computation. No time is judged here."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from shell import anymc3d

from AnyMC3DLib.model import PluginNetwork
from AnyMC3DLib.speed import gpu
from AnyMC3DLib.speed.measure import Line, Times
from AnyMC3DLib.speed.reference import Reference
from AnyMC3DLib.speed.setting import SIZE, filled, plugin_spec, random_backbone

TINY = ("--model", "test_vit", "--slices", "3", "--repeats", "1", "--threads", "1")


@pytest.fixture(autouse=True)
def threads() -> None:
    """The command sets the number of threads for its whole process."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_the_reference_is_the_same_network_as_the_plugin() -> None:
    backbone = random_backbone("test_vit")
    spec = plugin_spec(backbone, "x", slices=3, classes=("a", "b"), task_type="multiclass")
    network = filled(PluginNetwork(spec, backbone))
    reference = Reference("test_vit").fill("axial", network.adapters["axial"]).eval()
    volume = torch.rand(3, 1, SIZE, SIZE)
    with torch.no_grad():
        ours = network([{"axial": volume}]).logits[0]
        torch.testing.assert_close(reference(volume), ours, rtol=1e-4, atol=1e-6)
        # Another plugin answers otherwise, so that agreement means something.
        assert not torch.allclose(filled(network, seed=1)([{"axial": volume}]).logits[0], ours, atol=1e-4)
    network.close()


def test_every_measurement_gives_its_lines_with_their_bars(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    out = tmp_path / "bench.json"
    assert anymc3d("bench", *TINY, "--json", "--out", out) == 0
    found = json.loads(out.read_text())
    assert json.loads(capsys.readouterr().out) == found
    lines = {line["name"]: line for line in found["lines"]}
    bars = {name: line["bar"] for name, line in lines.items() if line["bar"]}
    assert bars["engine / forward, paper's map"] == "<= 1.1"
    assert bars["8 plugins in one call / 8 calls, last quarter of blocks"] == "<= 0.38"
    assert bars["training in memory mode / timm and peft, peak memory"] == "<= 0.15"
    assert len(bars) == 17
    for name, line in lines.items():
        if "difference" in name:
            assert line["passed"], name
        assert line["value"] >= 0
    assert {"device", "threads", "torch", "timm"} <= set(found["machine"])


def test_a_table_says_what_was_met(capsys: pytest.CaptureFixture) -> None:
    assert anymc3d("bench", *TINY, "--only", "loaded,swap") == 0
    shown = capsys.readouterr().out
    assert "memory of 8 loaded plugins" in shown
    assert "met" in shown


def test_an_unknown_measurement_and_a_gpu_that_is_not_here_are_refused(capsys: pytest.CaptureFixture) -> None:
    assert anymc3d("bench", "--only", "flor") == 1
    assert "choose among floor" in capsys.readouterr().err
    assert anymc3d("bench", "--only", "gpu") == 1
    assert "needs a CUDA GPU" in capsys.readouterr().err
    assert anymc3d("bench", "--repeats", "0") == 2


def test_the_share_of_the_matrix_rate_counts_training_as_two_forward_passes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"MODEL": "test_vit", "SIDE": 64, "PRODUCTS": 2, "SLICES": 4}.items():
        monkeypatch.setattr(gpu, name, value)
    inference, training = gpu.share_of_matrix_rate(tmp_path, device=torch.device("cpu"), repeats=1)
    assert (inference.limit, training.limit) == (0.55, 0.45)
    seconds = {name: inference.details[name]["median_s"] for name in ("inference", "training")}
    expected = 2 * inference.value * inference.details["inference"]["s"][0] / inference.details["training"]["s"][0]
    assert training.value == pytest.approx(expected, rel=0.2)
    assert min(seconds.values()) >= 0


def test_a_ratio_is_the_median_of_the_repeats_own_ratios() -> None:
    # In the second repeat the machine was slow for both.
    times = Times({"work": [2.0, 20.0, 2.2], "floor": [1.0, 10.0, 1.0]})
    assert times.ratio("work", "floor") == 2.0
    assert times.median("work") == 2.2


@pytest.mark.parametrize(("value", "at_most", "passed"), [(1.1, True, True), (1.2, True, False), (1.2, False, True)])
def test_a_bar_is_met_on_its_own_side(value: float, at_most: bool, passed: bool) -> None:
    line = Line("x", value, 1.1, at_most=at_most)
    assert line.passed is passed
    assert line.to_dict()["bar"] == ("<= 1.1" if at_most else ">= 1.1")
    assert Line("x", value).passed is None
