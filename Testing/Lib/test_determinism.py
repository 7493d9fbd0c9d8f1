"""Work that was asked to be the same twice is the same twice, bit for bit, in processes of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from networks import grey_slices, plugin_spec, tiny_backbone, tiny_network, view
from safetensors.torch import load_file
from shell import findable_backbone, write_medmnist
from volumes import study

from AnyMC3DLib import memory
from AnyMC3DLib.classifier import Classifier
from AnyMC3DLib.determinism import BATCH, WORKSPACE, WORKSPACES, deterministic, is_deterministic
from AnyMC3DLib.errors import InputError
from AnyMC3DLib.plugin import read_spec
from AnyMC3DLib.prediction import Study
from AnyMC3DLib.spec import FusionSpec, HeadSpec, IntensitySpec, SliceSpec
from AnyMC3DLib.training import step as step_room
from AnyMC3DLib.training.augmentation_spec import AugmentationSpec
from AnyMC3DLib.training.step import GradientStep
from AnyMC3DLib.training.task import TaskSpec, TrainingSpec
from AnyMC3DLib.volume import write_volume

HERE = Path(__file__).resolve().parent
# Trains, and then classifies with what was trained.
SCRIPT = """
import sys
from AnyMC3DLib.cli import main
folder, data, weights, task, image = sys.argv[1:]
run = f"{folder}/run"
common = ["--weights", weights, "--device", "cpu", "--deterministic"]
ended = main(["train", "--task", task, "--data", data, "--run", run, "--test-splits", "test", *common])
sys.stdout.write("ANSWER\\n")
ended = ended or main(["classify", image, "--plugin", f"{run}/plugin.safetensors", "--json", *common])
sys.exit(ended)
"""


def task(backbone: Any) -> TaskSpec:
    """A recipe in which as much as possible is drawn by chance."""
    window = IntensitySpec(kind="window", windows=((127.5, 255.0),))
    views = tuple(view(backbone, name, size=(32, 32), intensity=window) for name in ("axial", "coronal"))
    plugin = plugin_spec(backbone, views=views, head=HeadSpec(standardise=True, dropout=0.3), fusion=FusionSpec())
    recipe = TrainingSpec(
        epochs=2, warm_up_epochs=2, batch=4, slices=2, calibrate=True, adapter_rate=3e-3, sampling="balanced",
        augmentation=AugmentationSpec.paper(),
    )  # fmt: skip
    return TaskSpec(plugin=plugin, training=recipe)


def test_two_trainings_in_two_processes_give_the_same_tensors_figures_and_answers(tmp_path: Path) -> None:
    backbone, weights = findable_backbone(tmp_path, "test_vit")
    data, image, recipe = write_medmnist(tmp_path / "data.npz"), tmp_path / "a.nrrd", tmp_path / "task.json"
    write_volume(image, study())
    recipe.write_text(json.dumps(task(backbone).to_dict()), encoding="utf-8")
    answers = []
    # A set's order follows the hash of its strings; sums follow the number of threads.
    for number, threads in (("1", "1"), ("2", "2")):
        folder = tmp_path / number
        environment = {
            **os.environ, "PYTHONHASHSEED": number, "OMP_NUM_THREADS": threads,
            "PYTHONPATH": os.pathsep.join([str(HERE.parents[1]), os.environ.get("PYTHONPATH", "")]),
        }  # fmt: skip
        command = [sys.executable, "-c", SCRIPT, *map(str, (folder, data, weights, recipe, image))]
        done = subprocess.run(command, env=environment, capture_output=True, encoding="utf-8", timeout=600)
        assert done.returncode == 0, done.stderr[-3000:]
        answers.append(json.loads(done.stdout.partition("ANSWER\n")[2]))
    runs = [tmp_path / number / "run" for number in ("1", "2")]
    first, second = (load_file(run / "plugin.safetensors") for run in runs)
    assert first.keys() == second.keys()
    assert all(tensor.numpy().tobytes() == second[name].numpy().tobytes() for name, tensor in first.items())
    # The file itself tells the day on which it was made.
    specs = [read_spec(run / "plugin.safetensors").to_dict() for run in runs]
    for spec in specs:
        assert spec["provenance"].pop("date")
    assert specs[0] == specs[1]
    for name in ("predictions.csv", "metrics.json"):
        assert (runs[0] / name).read_bytes() == (runs[1] / name).read_bytes()
    assert [without_times(answer) for answer in answers[:1]] == [without_times(answer) for answer in answers[1:]]


def without_times(answer: Any) -> Any:
    """JSON values without the seconds that something took, and the plugin file's own digest."""
    if isinstance(answer, dict):
        return {key: without_times(value) for key, value in answer.items() if key not in ("timings", "plugin_digest")}
    return [without_times(value) for value in answer] if isinstance(answer, list) else answer


# What is set, for how long


def settings() -> tuple[object, ...]:
    cudnn = torch.backends.cudnn
    return is_deterministic(), cudnn.deterministic, cudnn.benchmark, torch.get_num_threads(), os.environ.get(WORKSPACE)


@pytest.mark.parametrize("before", [None, ":16:8", ":1:1"])
@pytest.mark.parametrize("ending", [None, ValueError, KeyboardInterrupt])
def test_the_settings_hold_within_the_block_and_are_what_they_were_after_it(
    monkeypatch: pytest.MonkeyPatch, before: str | None, ending: type[BaseException] | None
) -> None:
    if before is None:
        monkeypatch.delenv(WORKSPACE, raising=False)
    else:
        monkeypatch.setenv(WORKSPACE, before)
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
    outside = settings()
    try:
        with deterministic():
            wanted = before if before in WORKSPACES else WORKSPACES[0]
            assert settings() == (True, True, False, 1, wanted)
            if ending is not None:
                raise ending
    except (ValueError, KeyboardInterrupt):
        pass
    assert settings() == outside


def test_where_it_is_not_wanted_nothing_is_set() -> None:
    outside = settings()
    with deterministic(False):
        assert settings() == outside


def test_an_operation_that_is_never_the_same_is_refused_in_one_sentence() -> None:
    with pytest.raises(InputError) as caught, deterministic():
        torch.zeros(3).put_(torch.tensor([0]), torch.tensor([1.0]))
    assert str(caught.value) == (
        "The device cannot do 'put_' in the same way twice: compute with --device cpu, or leave --deterministic away."
    )
    with pytest.raises(RuntimeError, match="must match"), deterministic():
        torch.zeros(3) + torch.zeros(2)


# What time and memory would decide


def test_neither_time_nor_free_memory_decides_how_much_is_computed_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = tiny_backbone(depth=1)
    network = tiny_network(backbone)
    slices = [{"axial": grey_slices(3, seed=n)} for n in range(4)]
    at_once: list[list[int]] = []
    encode = type(backbone).encode_from
    monkeypatch.setattr(
        type(backbone), "encode_from", lambda b, s, **k: at_once[-1].append(len(s.x)) or encode(b, s, **k)
    )
    volume = study()
    for free in (1 << 19, 1 << 40):
        monkeypatch.setattr(memory, "free_memory", lambda _, free=free: free)
        monkeypatch.setattr(step_room, "free_memory", lambda _, free=free: free)
        monkeypatch.setattr(memory, "SECONDS_A_BATCH", 1e-9 * free)
        with deterministic():
            at_once.append([])
            GradientStep(network)(slices, torch.tensor([0, 1, 0, 1]))
            at_once.append([])
            engine = Classifier(backbone)
            many = tiny_network(backbone, views=(view(backbone, slices=SliceSpec()),))
            engine.add(many.spec, [many])
            engine.classify(Study({"image": volume}), maps="none")
            engine.unload(many.spec.name)
    assert at_once[0] == at_once[2] and at_once[1] == at_once[3]
    # The sample of a whole step's memory, then all four studies; the engine's batches, and what is left.
    assert at_once[0] == [1, 12]
    assert at_once[1] == [BATCH, volume.grid[0] - BATCH]
