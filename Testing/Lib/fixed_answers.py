"""What fixed networks say of a fixed study, and by how much another machine may say otherwise.

Weights and voxels come from whole-number arithmetic (SplitMix64, Steele, Lea and Flood 2014), not from a library's
random numbers, which may change: whoever computes these answers elsewhere has the very same network and study.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import math
import platform
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from networks import KINDS, plugin_spec, view
from torch import nn

from AnyMC3DLib import __version__
from AnyMC3DLib.backbone import Backbone
from AnyMC3DLib.catalogue import BackboneEntry
from AnyMC3DLib.classifier import Classifier
from AnyMC3DLib.heatmap import heatmap
from AnyMC3DLib.model import PluginNetwork
from AnyMC3DLib.opening import backbone_of, create_model
from AnyMC3DLib.prediction import Prediction, Study
from AnyMC3DLib.preprocessing import preprocess
from AnyMC3DLib.spec import IntensitySpec
from AnyMC3DLib.volume import Volume

ANSWERS = Path(__file__).with_name("fixtures") / "answers.json"
# By kind: what queries and head are multiplied by, so that neither slices nor classes are all alike, or one is all.
NETWORKS = {"registers": (8.0, 1.0), "EfficientNet": (0.5, 0.04)}
LIBRARIES = ("torch", "timm", "numpy", "SimpleITK")
# By the first word of a figure's name: how far it may be from another machine's, and of what. Float32 carries about
# seven digits, a sum of many products about five; maps are sums of products of gradients, and are told relative.
TOLERANCES = {"slices": 1e-6, "probability": 1e-5, "weight": 1e-5, "map": 1e-4, "heat": 1e-4}
RELATIVE = ("slices", "map", "heat")
GOLDEN = 0x9E3779B97F4A7C15


@dataclasses.dataclass(frozen=True)
class Compared:
    """A figure here and elsewhere, and whether they agree."""

    name: str
    here: float
    there: float
    difference: float
    tolerance: float

    @property
    def agrees(self) -> bool:
        """Whether the difference is within the tolerance; not where either is no number."""
        return self.difference <= self.tolerance


def draws(name: str, count: int) -> npt.NDArray[np.float64]:
    """`count` numbers from -1 to below 1, in steps of 2^-23, the same wherever they are drawn; `name` is the seed."""
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")
    mask = (1 << 64) - 1
    with np.errstate(over="ignore"):
        z = np.uint64(seed) + np.arange(1, count + 1, dtype=np.uint64) * np.uint64(GOLDEN & mask)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z = z ^ (z >> np.uint64(31))
    return (z >> np.uint64(40)).astype(np.float64) / (1 << 23) - 1


def fixed_study() -> Study:
    """A body of 14 x 40 x 44 voxels with a bright place in it, in an oblique header, from whole numbers alone."""
    k, j, i = np.indices((14, 40, 44))
    inside = 225 * (2 * k - 13) ** 2 + 25 * (2 * j - 41) ** 2 + 20 * (2 * i - 40) ** 2 < 34000
    bright = (k - 9) ** 2 * 4 + (j - 14) ** 2 + (i - 27) ** 2 < 30
    noise = np.floor(draws("noise", inside.size) * 64).reshape(inside.shape)
    array = np.where(inside, 1000 + 12 * i + 7 * j, 20) + 900 * bright + noise
    affine = np.array([[0.8, -0.6, 0, -20], [0.6, 0.8, 0, -31.5], [0, 0, 2.5, 12], [0, 0, 0, 1]])
    return Study({"image": Volume(array.astype(np.int16), affine)})


def study_figures() -> list[int]:
    """The sum of the study's voxels, one in its bright place, the smallest and the largest."""
    array = fixed_study().image("image").array
    return [int(array.sum(dtype=np.int64)), int(array[9, 14, 27]), int(array.min()), int(array.max())]


def fixed_backbone(kind: str) -> Backbone:
    """The backbone called `kind` in networks.KINDS, with weights of `draws`."""
    name, model_args = KINDS[kind]
    entry = BackboneEntry(id=name, timm=name, model_args=model_args)
    model = create_model(entry).eval()
    _fill(model, kind)
    return backbone_of(model, entry)


def fixed_network(backbone: Backbone, kind: str) -> PluginNetwork:
    """A plugin of three classes and two views."""
    window = IntensitySpec(kind="window", windows=((1000.0, 2400.0),))
    views = tuple(view(backbone, axis, size=(64, 64), intensity=window) for axis in ("axial", "coronal"))
    network = PluginNetwork(plugin_spec(backbone, task_type="multiclass", views=views), backbone).eval()
    _fill(network, f"plugin of {kind}")
    of_queries, of_head = NETWORKS[kind]
    for name, tensor in network.state_dict().items():
        tensor.mul_(of_queries if name.endswith("query") else of_head if name.startswith("head.") else 1.0)
    return network


def _fill(module: nn.Module, seed: str) -> None:
    for name, tensor in module.state_dict().items():
        if not tensor.is_floating_point():
            continue
        drawn = draws(f"{seed}: {name}", tensor.numel()).reshape(tensor.shape)
        if tensor.ndim > 1:
            # So that a layer's output is about as large as its input.
            drawn = drawn * math.sqrt(3 / math.prod(tensor.shape[1:]))
        elif name.endswith("running_var"):
            drawn = 1 + 0.5 * drawn
        elif name.endswith("weight"):
            drawn = 1 + 0.25 * drawn
        else:
            drawn = 0.25 * drawn
        tensor.copy_(torch.from_numpy(drawn))


def fixed_answers(device: str = "cpu") -> dict[str, float]:
    """The figures by name, computed in float32 on `device`."""
    study, found = fixed_study(), {}
    for kind in NETWORKS:
        backbone = fixed_backbone(kind).to(device)
        network = fixed_network(backbone, kind).to(device)
        engine = Classifier(backbone, precision="float32", batch=8)
        engine.add(network.spec, [network])
        prediction = engine.classify(study)[network.spec.name]
        found |= {f"{name} ({kind})": float(value) for name, value in _figures(prediction, study)}
    return found


def _figures(prediction: Prediction, study: Study) -> Iterator[tuple[str, float]]:
    for name, probability in prediction.probabilities.items():
        yield f"probability of {name}", probability
    for cut in prediction.spec.views:
        slices = preprocess(study.image(cut.source), cut.preprocessing)
        yield f"slices of {cut.name}, summed", slices.array.sum(dtype=np.float64)
        yield f"weight of {cut.name}", prediction.view_weights[cut.name]
        for number, weight in enumerate(prediction.slices[cut.name].weights):
            yield f"weight of {cut.name} slice {number}", weight
        maps = prediction.maps[cut.name]
        shown = {"attention": maps.attention, **dict(zip(prediction.spec.explained, maps.classes, strict=True))}
        for name, values in shown.items():
            if values is not None:
                yield f"map of {name}, {cut.name}, summed", values.sum(dtype=np.float64)
                yield f"map of {name}, {cut.name}, summed by place", _by_place(values)
    for name in prediction.spec.explained:
        heat = heatmap(prediction, study.image("image"), class_name=name)
        yield f"heat of {name}, summed by place", _by_place(heat.array)


def _by_place(values: npt.NDArray[np.float32]) -> float:
    """A sum in which every place counts differently, so that it changes when the values move."""
    return float((values.ravel().astype(np.float64) * (1 + np.arange(values.size) / values.size)).sum())


def facts() -> dict[str, Any]:
    """The versions and the kind of machine that figures were computed with; no names."""
    versions = {name: importlib.metadata.version(name) for name in LIBRARIES}
    return {
        "versions": {"anymc3d": __version__, **versions},
        "machine": platform.machine(),
        "system": platform.system(),
    }


def compared(here: Mapping[str, float], there: Mapping[str, float]) -> list[Compared]:
    """Each figure of either side with its difference; a figure that one side lacks does not agree."""
    found = []
    for name in dict.fromkeys((*there, *here)):
        ours, theirs = here.get(name, math.nan), there.get(name, math.nan)
        kind = name.partition(" ")[0]
        scale = max(abs(theirs), 1e-6) if kind in RELATIVE else 1.0
        found.append(Compared(name, ours, theirs, abs(ours - theirs) / scale, TOLERANCES[kind]))
    return found
