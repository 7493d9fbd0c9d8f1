"""How long a training will take and what memory it needs, before it is begun."""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from networks import plugin_spec, three_views, tiny_backbone, view
from shell import blob_images

from AnyMC3DLib.backbone import Backbone
from AnyMC3DLib.control import Control
from AnyMC3DLib.errors import Cancelled, InputError
from AnyMC3DLib.model import PluginNetwork
from AnyMC3DLib.prediction import Study
from AnyMC3DLib.progress import Progress
from AnyMC3DLib.spec import HeadSpec, IntensitySpec, LoRASpec
from AnyMC3DLib.training import estimate_bench
from AnyMC3DLib.training.cases import Case, volume_of_medmnist
from AnyMC3DLib.training.estimate import TrainingEstimate, estimate_training
from AnyMC3DLib.training.objective_spec import PixelSpec
from AnyMC3DLib.training.step import kept_for_backward
from AnyMC3DLib.training.task import TaskSpec, TrainingSpec

TICK = 1e-3  # seconds that everything takes by the fake clock
RECIPE = TrainingSpec(epochs=2, warm_up_epochs=3, batch=4)
SIZE = (32, 32)
SLICES = 4  # of a view


@pytest.fixture(autouse=True)
def ticking(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is measured takes one tick."""
    ticks = itertools.count()
    monkeypatch.setattr(estimate_bench, "clock", lambda: next(ticks) * TICK)


@pytest.fixture(scope="module")
def lent() -> Backbone:
    return tiny_backbone("test_vit", depth=1)


@pytest.fixture
def backbone(lent: Backbone) -> Iterator[Backbone]:
    """Each test leaves the backbone as it was, to the bit, and no adapter on it."""
    before = {name: tensor.clone() for name, tensor in lent.model.state_dict().items()}
    yield lent
    check_untouched(lent, before)


def check_untouched(lent: Backbone, before: dict[str, torch.Tensor]) -> None:
    assert lent.sites.keys == []
    assert lent.dtype == torch.float32
    assert all(before[name].equal(tensor) for name, tensor in lent.model.state_dict().items())
    assert not any(p.requires_grad or p.grad is not None for p in lent.model.parameters())


def cases(split: str, count: int = 8, *, labels: Sequence[int] | None = None) -> list[Case]:
    images, targets = blob_images((count // 2, count // 2), seed=len(split))
    chosen = targets[:, 0].tolist() if labels is None else labels
    studies = [Study({"image": volume_of_medmnist(image)}) for image in images]
    return [Case(f"{split}-{n}", split, target, lambda study=study: study)
            for n, (study, target) in enumerate(zip(studies, chosen, strict=True))]  # fmt: skip


def masked(case: Case) -> Case:
    volume = case.load().image("image")
    return dataclasses.replace(
        case, masks=lambda: {"image": dataclasses.replace(volume, array=np.uint8(volume.array > 200))}
    )


def task(backbone: Backbone, recipe: TrainingSpec = RECIPE, **fields: object) -> TaskSpec:
    window = IntensitySpec(kind="window", windows=((127.5, 255.0),))
    fields = {"views": (view(backbone, size=SIZE, intensity=window),), **fields}
    return TaskSpec(plugin=plugin_spec(backbone, **fields), training=recipe)


def with_recipe(backbone: Backbone, **changed: object) -> TaskSpec:
    return task(backbone, dataclasses.replace(RECIPE, **changed))


def ticks(found: TrainingEstimate) -> dict[str, float]:
    """The parts in ticks of the clock."""
    return {name: pytest.approx(minutes * 60 / TICK) for name, minutes in found.parts.items()}


# Time. The few cases are cut in 4 ticks of the clock (begin, after each, end); else every piece takes one tick.

CUT = 4 / 3
EMBED = 1.0 / 3  # of three cases at once
STEP = 1.0 / 4  # of four studies at once


def test_each_part_is_its_pieces_times_their_number(backbone: Backbone) -> None:
    found = estimate_training(task(backbone), cases("train") + cases("val", 6), backbone)
    assert ticks(found) == {
        "reading": 14 * CUT,
        # The embeddings once, then three epochs of one step and a look at validation cases each.
        "warm-up": 14 * EMBED + 3 * (1 + 1),
        "training": 2 * 8 * STEP,
        # After each of the two epochs, and at the end.
        "validation": 3 * 6 * EMBED,
    }
    assert found.minutes == pytest.approx(sum(found.parts.values()))
    assert found.cases == {"train": 8, "validation": 6}


def test_twice_the_epochs_take_twice_the_training_and_nothing_more_of_reading(backbone: Backbone) -> None:
    data = cases("train") + cases("val")
    once = estimate_training(with_recipe(backbone, epochs=3), data, backbone).parts
    twice = estimate_training(with_recipe(backbone, epochs=6), data, backbone).parts
    assert twice["training"] == pytest.approx(2 * once["training"])
    assert twice["validation"] == pytest.approx(once["validation"] * 7 / 4)
    assert (twice["reading"], twice["warm-up"]) == pytest.approx((once["reading"], once["warm-up"]))


def test_twice_the_cases_take_twice_the_reading_and_training(backbone: Backbone) -> None:
    once = estimate_training(task(backbone), cases("train") + cases("val"), backbone)
    twice = estimate_training(task(backbone), cases("train", 16) + cases("val", 16), backbone)
    for part in ("reading", "training", "validation"):
        assert twice.parts[part] == pytest.approx(2 * once.parts[part])
    assert twice.slices_bytes == 2 * once.slices_bytes


def test_a_last_batch_of_one_study_is_left_out_as_in_training(backbone: Backbone) -> None:
    data = [case for case in cases("train", 10) if case.id != "train-9"]
    found = estimate_training(task(backbone), data + cases("val"), backbone)
    assert ticks(found)["training"] == 2 * 8 * STEP


def test_each_fold_reads_all_cases_and_trains_on_those_of_the_others(backbone: Backbone) -> None:
    data = [dataclasses.replace(case, split="") for case in cases("all", 24)]
    found = estimate_training(task(backbone), data, backbone, folds=3)
    assert found.cases == {"train": 16, "validation": 8}
    assert ticks(found) == {
        "reading": 3 * 24 * CUT,
        "warm-up": 3 * (24 * EMBED + 3 * (1 + 1)),
        "training": 3 * 2 * 16 * STEP,
        "validation": 3 * 3 * 8 * EMBED,
    }
    alone = estimate_training(task(backbone), cases("train", 16) + cases("val", 8), backbone)
    assert found.minutes == pytest.approx(3 * alone.minutes)
    assert found.slices_bytes == alone.slices_bytes


def test_a_frozen_task_has_no_training_part(backbone: Backbone) -> None:
    frozen = task(backbone, dataclasses.replace(RECIPE, method="frozen"), lora=LoRASpec(rank=0))
    found = estimate_training(frozen, cases("train") + cases("val"), backbone)
    assert ticks(found) == {"reading": 16 * CUT, "warm-up": 16 * EMBED + 3 * 2, "validation": 8 * EMBED}


def test_the_last_weights_are_judged_once_and_predict_once(backbone: Backbone) -> None:
    found = estimate_training(with_recipe(backbone, keep="last"), cases("train") + cases("val"), backbone)
    assert ticks(found)["validation"] == 2 * 8 * EMBED


def test_without_validation_cases_there_is_no_such_part(backbone: Backbone) -> None:
    found = estimate_training(task(backbone), cases("train"), backbone, validation_splits=())
    assert ticks(found) == {"reading": 8 * CUT, "warm-up": 8 * EMBED + 3 * 1, "training": 2 * 8 * STEP}
    assert found.cases == {"train": 8, "validation": 0}


def test_a_head_that_standardises_embeds_the_training_cases_without_a_warm_up(backbone: Backbone) -> None:
    recipe = dataclasses.replace(RECIPE, warm_up_epochs=0)
    data = cases("train") + cases("val")
    assert "warm-up" not in estimate_training(task(backbone, recipe), data, backbone).parts
    found = estimate_training(task(backbone, recipe, head=HeadSpec(standardise=True)), data, backbone)
    assert ticks(found)["warm-up"] == 8 * EMBED


def test_slow_cases_and_steps_are_measured_in_part_and_told_in_whole(
    backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut, steps, seen = [], [], estimate_bench.Tuning.gradients

    def loaded(case: Case) -> Case:
        return dataclasses.replace(case, load=lambda: cut.append(case.id) or case.load())

    def gradients(tuning: estimate_bench.Tuning, epoch: int, order: np.ndarray, batch: int) -> float:
        setting = tuning._setting
        steps.append([len(setting.train.stacks[number]["axial"]) for number in order])
        return seen(tuning, epoch, order, batch)

    monkeypatch.setattr(estimate_bench.Tuning, "gradients", gradients)
    # 20 seconds a tick: a case, the embedding of four slices, a step.
    slow = itertools.count()
    monkeypatch.setattr(estimate_bench, "clock", lambda: next(slow) * 20.0)
    found = estimate_training(task(backbone), [loaded(case) for case in cases("train")] + cases("val"), backbone)
    assert cut == ["train-0"]
    assert steps == [[1], [1]]
    # A step of one slice took 20 seconds, so one of the four slices of a study takes 80.
    assert found.parts["training"] == pytest.approx(2 * 8 * SLICES * 20 / 60)


# Memory


def test_the_slices_of_all_cases_and_their_masks_are_counted(backbone: Backbone) -> None:
    train, val = cases("train"), cases("val", 6)
    plain = estimate_training(task(backbone), train + val, backbone)
    a_case = SLICES * SIZE[0] * SIZE[1] * 2  # float16, one channel
    assert plain.slices_bytes == 14 * a_case
    data = [masked(case) if n % 2 else case for n, case in enumerate(train)] + [masked(case) for case in val]
    asked = with_recipe(backbone, pixels=PixelSpec(weight=1.0, channels=8))
    # Masks supervise training alone, and only the four cases that have one.
    assert estimate_training(asked, data, backbone).slices_bytes == (14 + 4) * a_case
    assert estimate_training(task(backbone), data, backbone).slices_bytes == 14 * a_case


def test_masks_are_measured_in_the_step(backbone: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    given, seen = [], estimate_bench.GradientStep.__call__

    def step(gradients: estimate_bench.GradientStep, *arguments: object, **options: object) -> float:
        given.append([mask is not None for mask in options["masks"]])
        return seen(gradients, *arguments, **options)

    monkeypatch.setattr(estimate_bench.GradientStep, "__call__", step)
    asked = with_recipe(backbone, pixels=PixelSpec(weight=1.0, channels=8))
    train = cases("train")
    estimate_training(asked, train[:4] + [masked(case) for case in train[4:]] + cases("val"), backbone)
    assert given == [[True] * 4] * 2


def test_a_larger_batch_keeps_more_for_gradients_and_the_memory_mode_little(
    backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(estimate_bench, "_held_now", lambda device: 10**9)
    # What a pass over the slices takes would be more than these small steps keep.
    monkeypatch.setattr(estimate_bench, "ACTIVATIONS", 0)
    monkeypatch.setattr(estimate_bench, "BUFFERS", 1)
    data = cases("train", 16) + cases("val")

    def memory(batch: int, mode: str) -> int:
        return estimate_training(with_recipe(backbone, batch=batch), data, backbone, mode=mode).memory_bytes

    asked = task(backbone)
    network = PluginNetwork(asked.plugin, backbone)
    study = SLICES * kept_for_backward(network, asked.plugin.views[0], torch.rand(1, 1, *SIZE))
    network.close()
    assert memory(8, "speed") - memory(1, "speed") == 7 * study
    monkeypatch.setattr(estimate_bench, "CHUNK_BYTES", study // 2)
    assert memory(1, "speed") - memory(8, "memory") == study - study // 2


def test_what_fits_is_told_from_what_the_process_holds_and_what_is_free(
    backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = cases("train") + cases("val")
    held = psutil.Process().memory_info().rss
    found = estimate_training(task(backbone), data, backbone)
    assert found.fits
    assert held <= found.memory_bytes <= found.available_bytes
    monkeypatch.setattr(estimate_bench, "free_memory", lambda device: 1000)
    tight = estimate_training(task(backbone), data, backbone)
    assert not tight.fits
    assert held <= tight.available_bytes < tight.memory_bytes


def test_where_little_is_free_the_step_is_measured_in_memory_mode(
    backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, modes = cases("train") + cases("val"), []
    seen = estimate_bench.GradientStep.__init__

    def made(step: estimate_bench.GradientStep, *arguments: object, **options: object) -> None:
        modes.append(options["mode"])
        seen(step, *arguments, **options)

    monkeypatch.setattr(estimate_bench.GradientStep, "__init__", made)
    estimate_training(task(backbone), data, backbone)
    monkeypatch.setattr(estimate_bench, "free_memory", lambda device: 1000)
    estimate_training(task(backbone), data, backbone)
    estimate_training(task(backbone), data, backbone, mode="speed")
    # The trainer has a step of its own, which is not used.
    assert modes[1::2] == ["auto", "memory", "speed"]


# What is left behind


@pytest.mark.parametrize("name", ["test_vit", "test_resnet"])
def test_a_whole_backbone_is_given_back_as_it_was(name: str) -> None:
    lent = tiny_backbone(name)
    before = {key: tensor.clone() for key, tensor in lent.model.state_dict().items()}
    recipe = dataclasses.replace(RECIPE, method="full", backbone_rate=1e-1)
    asked = task(lent, recipe, lora=LoRASpec(rank=0))
    found = estimate_training(asked, cases("train") + cases("val"), lent)
    assert ticks(found)["training"] == 2 * 8 * STEP
    check_untouched(lent, before)
    with pytest.raises(InputError, match="without folds"):
        estimate_training(asked, cases("train") + cases("val"), lent, folds=2)


def test_a_backbone_in_16_bits_stays_so_with_the_same_bits() -> None:
    lent = tiny_backbone("test_vit", depth=1)
    full = {key: tensor.clone() for key, tensor in lent.model.state_dict().items()}
    lent.set_precision(torch.bfloat16)
    before = {key: tensor.clone() for key, tensor in lent.model.state_dict().items()}
    for method, rank in (("lora", 2), ("full", 0)):
        recipe = dataclasses.replace(RECIPE, method=method)
        estimate_training(task(lent, recipe, lora=LoRASpec(rank=rank)), cases("train") + cases("val"), lent)
        assert lent.dtype == torch.bfloat16
        assert all(before[key].equal(tensor) for key, tensor in lent.model.state_dict().items())
    lent.set_precision(torch.float32)
    check_untouched(lent, full)


def test_a_step_in_16_bits_gives_the_backbone_back_too(backbone: Backbone) -> None:
    found = estimate_training(with_recipe(backbone, precision="bfloat16"), cases("train") + cases("val"), backbone)
    assert ticks(found)["training"] == 2 * 8 * STEP


def test_nothing_is_written_and_the_progress_is_told(
    backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    told: list[Progress] = []
    found = estimate_training(task(backbone), cases("train") + cases("val"), backbone, progress=told.append)
    assert list(tmp_path.iterdir()) == []
    assert [step.done for step in told] == list(range(7)) and {step.total for step in told} == {6}
    assert TrainingEstimate(**json.loads(json.dumps(found.to_dict()))) == found


@pytest.mark.parametrize("after", range(6))
def test_it_can_be_cancelled_anywhere_and_leaves_the_backbone_alone(backbone: Backbone, after: int) -> None:
    control = Control()

    def told(step: Progress) -> None:
        if step.done == after:
            control.cancel()

    with pytest.raises(Cancelled):
        estimate_training(task(backbone), cases("train") + cases("val"), backbone, progress=told, control=control)


def test_views_of_several_sources_of_slices_are_measured_together(backbone: Backbone) -> None:
    views = three_views(backbone, size=SIZE)
    found = estimate_training(task(backbone, views=views), cases("train") + cases("val"), backbone)
    assert found.slices_bytes == 16 * 3 * SLICES * SIZE[0] * SIZE[1] * 2
    assert ticks(found)["training"] == 2 * 8 * STEP


# What does not fit together


def test_wrong_splits_are_refused_as_a_training_refuses_them(backbone: Backbone) -> None:
    data = cases("train") + cases("val")
    with pytest.raises(InputError, match="no case in the split 'test'"):
        estimate_training(task(backbone), data, backbone, validation_splits=("test",))
    with pytest.raises(InputError, match="cannot both train and validate"):
        estimate_training(task(backbone), data, backbone, train_splits=("train", "val"))
    with pytest.raises(InputError, match="splits no case"):
        estimate_training(task(backbone), [dataclasses.replace(case, split="") for case in data], backbone)
    with pytest.raises(InputError, match="nothing can be calibrated"):
        estimate_training(with_recipe(backbone, calibrate=True), data, backbone, validation_splits=())


def test_cases_that_a_training_refuses_are_refused(backbone: Backbone) -> None:
    train, val = cases("train"), cases("val")
    with pytest.raises(InputError, match="none of class 'lesion'"):
        estimate_training(task(backbone), cases("train", labels=[0] * 8) + val, backbone)
    with pytest.raises(InputError, match="has 8 patients for 9 folds"):
        estimate_training(task(backbone), train + val, backbone, folds=9)
    shared = [dataclasses.replace(case, patient=f"p{n % 9}") for n, case in enumerate(train + val)]
    with pytest.raises(InputError, match="The patient 'p0' is in two splits"):
        estimate_training(task(backbone), shared, backbone)

    def damaged() -> Study:
        raise InputError("The file is damaged.")

    with pytest.raises(InputError, match=r"Case 'train-0': The file is damaged\."):
        estimate_training(task(backbone), [dataclasses.replace(train[0], load=damaged), *train[1:], *val], backbone)
