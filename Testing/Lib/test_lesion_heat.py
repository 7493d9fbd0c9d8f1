"""Invariant 7: a plugin trained here on lesions of two patches and more puts its heat in the lesion, and else nowhere.

The backbones are random, so LoRA has to make them see the lesion. Each is one whose class map can tell the whole
story: a small CNN, whose logit is a sum over patches, and a transformer of one block, in which nothing reaches the
class token past the attention that the map shows. In deeper random networks every patch soon knows of the lesion.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from networks import plugin_spec, tiny_backbone, view
from volumes import straight

from AnyMC3DLib.backbone import Backbone
from AnyMC3DLib.catalogue import BackboneEntry
from AnyMC3DLib.classifier import Classifier
from AnyMC3DLib.heatmap import DISPLAY_THRESHOLD, heatmap
from AnyMC3DLib.opening import backbone_of, create_model
from AnyMC3DLib.prediction import Study
from AnyMC3DLib.spec import HeadSpec, IntensitySpec, LoRASpec, SliceSpec
from AnyMC3DLib.training.cases import Case
from AnyMC3DLib.training.run import train_plugin
from AnyMC3DLib.training.task import TaskSpec, TrainingSpec
from AnyMC3DLib.volume import Volume

GRID = (16, 64, 64)
RADIUS = 12  # of the lesion in voxels, in plane: three patches across
HALF_HEIGHT = 3


@dataclasses.dataclass(frozen=True)
class Setting:
    """A backbone and how it learns; `patch` is the size of a patch in voxels of the study."""

    backbone: Backbone
    size: int
    patch: int
    recipe: TrainingSpec


def convolutions() -> Setting:
    entry = BackboneEntry(id="convolutions", timm="test_resnet", model_args={"output_stride": 8})
    torch.manual_seed(0)
    backbone = backbone_of(create_model(entry).eval(), entry)
    recipe = TrainingSpec(epochs=8, warm_up_epochs=10, batch=4, adapter_rate=3e-3, head_rate=1e-3, keep="last")
    return Setting(backbone, 64, 8, recipe)


def transformer() -> Setting:
    recipe = TrainingSpec(epochs=12, warm_up_epochs=10, batch=4, adapter_rate=3e-3, head_rate=3e-3, keep="last", seed=1)
    return Setting(tiny_backbone("test_vit", depth=1), 128, 8, recipe)


def made(number: int) -> tuple[Volume, npt.NDArray[np.bool_]]:
    """Noise, in every odd study with a bright lesion, and where that lies."""
    rng = np.random.default_rng(number)
    array = 100 + 10 * rng.standard_normal(GRID)
    k, j, i = np.indices(GRID)
    centre = rng.uniform((4, RADIUS + 2, RADIUS + 2), (11, 61 - RADIUS, 61 - RADIUS))
    away = sum(((n - c) / r) ** 2 for n, c, r in zip((k, j, i), centre, (HALF_HEIGHT, RADIUS, RADIUS), strict=True))
    mask = (away <= 1) & (number % 2 == 1)
    array[mask] += 80
    return Volume(array.astype(np.float32), straight((2, 2, 4))), mask


def case(number: int, split: str) -> Case:
    return Case(str(number), split, number % 2, lambda: Study({"image": made(number)[0]}))


def task_of(setting: Setting) -> TaskSpec:
    views = (
        view(
            setting.backbone,
            size=(setting.size, setting.size),
            slices=SliceSpec(policy="at_most", count=8),
            intensity=IntensitySpec(kind="window", windows=((140.0, 160.0),)),
        ),
    )
    spec = plugin_spec(setting.backbone, views=views, lora=LoRASpec(rank=4, alpha=8), head=HeadSpec(standardise=True))
    return TaskSpec(plugin=spec, training=setting.recipe)


@pytest.mark.parametrize("build", [convolutions, transformer])
def test_heat_is_highest_in_the_lesion_and_nowhere_without_one(build, tmp_path: Path) -> None:
    setting = build()
    assert 2 * setting.patch <= 2 * RADIUS
    plugin = tmp_path / "plugin.safetensors"
    train_plugin(
        task_of(setting), [case(n, "train") for n in range(20)], setting.backbone, plugin, validation_splits=()
    )
    engine = Classifier(setting.backbone)
    name = engine.load(plugin)
    for number in range(1000, 1008):
        volume, mask = made(number)
        prediction = engine.classify(Study({"image": volume}))[name]
        heat = heatmap(prediction, volume, class_name="lesion").array
        assert prediction.decisions["lesion"] == mask.any()
        if mask.any():
            assert heat.max() > DISPLAY_THRESHOLD
            assert mask[np.unravel_index(heat.argmax(), heat.shape)]
            hottest = prediction.hot_spots["lesion"][0]
            inside = np.round(np.linalg.inv(volume.ijk_to_ras) @ [*hottest.ras, 1])[2::-1].astype(int)
            assert mask[tuple(inside)]
        else:
            assert heat.max() < DISPLAY_THRESHOLD
            assert prediction.hot_spots["lesion"] == []
