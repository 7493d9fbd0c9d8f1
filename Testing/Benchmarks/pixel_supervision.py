"""What do masks on a tenth of the cases add? Phantoms with small lesions, with and without pixel supervision.

    python Testing/Benchmarks/pixel_supervision.py --seeds 1,2,3,4,5 --json out.json

Every seed is another cohort of heads, other random weights and other test heads; both arms of a seed see the same.
The masks weigh as much as the answer (1), which was not tuned.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import logging
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from scipy import stats

from AnyMC3DLib.allocator import keep_freed_memory
from AnyMC3DLib.backbone import Backbone
from AnyMC3DLib.classifier import Classifier
from AnyMC3DLib.files import write_text
from AnyMC3DLib.heatmap import heatmap
from AnyMC3DLib.opening import open_backbone
from AnyMC3DLib.phantom import Phantom, head_phantom
from AnyMC3DLib.prediction import Study
from AnyMC3DLib.training.cases import Case
from AnyMC3DLib.training.metrics import auc
from AnyMC3DLib.training.run import train_plugin
from AnyMC3DLib.training.task import TaskSpec, read_task
from AnyMC3DLib.volume import Volume

RADII_MM = (6.0, 8.0)
# A slab through the middle of the head, of which no slices are merged: a small lesion would be diluted.
SHAPE, SPACING = (10, 112, 96), (1.75, 1.75, 3.5)
EPOCHS = 8
TRAIN, TEST, EVERY = 60, 80, 10
SOURCE = "image"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", default="1,2,3,4,5")
    parser.add_argument("--weights", default="0,1", help="of the masks beside the loss of the answer; 0: none")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", required=True)
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    keep_freed_memory()
    torch.set_num_threads(options.threads)
    backbone = open_backbone(read_task("HeadLesionPhantom").plugin.backbone.id)
    rows: list[dict[str, float]] = []
    for seed in map(int, options.seeds.split(",")):
        for weight in map(float, options.weights.split(",")):
            started = time.monotonic()
            rows.append({"seed": seed, "weight": weight, **_measure(seed, weight, backbone)})
            rows[-1]["minutes"] = round((time.monotonic() - started) / 60, 1)
            logging.info("%s", rows[-1])
            write_text(options.json, json.dumps({"rows": rows, "differences": _differences(rows)}, indent=2))


def _phantom(number: int) -> Phantom:
    """Every second head has a lesion."""
    return head_phantom(number, lesion=number % 2 == 1, shape=SHAPE, spacing=SPACING, lesion_radii_mm=RADII_MM)


def _measure(seed: int, weight: float, backbone: Backbone) -> dict[str, float]:
    with tempfile.TemporaryDirectory(prefix="anymc3d-pixels-") as folder:
        plugin = Path(folder) / "plugin.safetensors"
        train_plugin(_task(seed, weight), _cohort(seed), backbone, plugin, validation_splits=())
        return _tested(plugin, seed, backbone)


def _task(seed: int, weight: float) -> TaskSpec:
    task = read_task("HeadLesionPhantom")
    recipe = task.training
    pixels = dataclasses.replace(recipe.pixels, weight=weight)
    recipe = dataclasses.replace(recipe, seed=seed, epochs=EPOCHS, keep="last", pixels=pixels)
    return dataclasses.replace(task, training=recipe)


def _cohort(seed: int) -> list[Case]:
    """The training cases; a tenth of them, all with a lesion, have a mask."""
    numbers = range(seed * 10_000, seed * 10_000 + TRAIN)
    return [_case(n, masked=n % EVERY == 1) for n in numbers]


def _case(number: int, *, masked: bool) -> Case:
    def load() -> Study:
        return Study({SOURCE: _phantom(number).volume})

    def masks() -> dict[str, Volume]:
        phantom = _phantom(number)
        return {SOURCE: Volume(phantom.mask.astype(np.uint8), phantom.volume.ijk_to_ras, name=f"mask {number}")}

    return Case(str(number), "train", number % 2, load, masks=masks if masked else None)


def _tested(plugin: Path, seed: int, backbone: Backbone) -> dict[str, float]:
    """AUC on unseen heads, and for how many of the lesions the heat's maximum lies within."""
    engine = Classifier(backbone)
    name = engine.load(plugin)
    answer = functools.partial(engine.classify, plugins=[name])
    targets, probabilities, found = [], [], []
    for number in range(seed * 10_000 + 5_000, seed * 10_000 + 5_000 + TEST):
        phantom = _phantom(number)
        prediction = answer(Study({SOURCE: phantom.volume}))[name]
        targets.append(number % 2)
        probabilities.append([prediction.probabilities[c] for c in ("no lesion", "lesion")])
        if targets[-1]:
            heat = heatmap(prediction, phantom.volume, class_name="lesion").array
            found.append(bool(phantom.mask[np.unravel_index(heat.argmax(), heat.shape)]))
    engine.unload(name)
    return {"auc": auc(np.array(targets), np.array(probabilities)), "in_lesion": float(np.mean(found))}


def _differences(rows: list[dict[str, float]]) -> dict[str, dict[str, float]]:
    """With masks minus without, by seed: the mean, and its 95 % interval by Student's t."""
    found: dict[str, dict[str, float]] = {}
    for weight in sorted({row["weight"] for row in rows} - {0.0}):
        for figure in ("auc", "in_lesion"):
            without = {row["seed"]: row[figure] for row in rows if row["weight"] == 0}
            pairs = [(row[figure], without[row["seed"]]) for row in rows
                     if row["weight"] == weight and row["seed"] in without]  # fmt: skip
            each = np.array([a - b for a, b in pairs])
            if len(each) < 2:
                continue
            half = float(stats.t.ppf(0.975, len(each) - 1) * stats.sem(each))
            found[f"{figure}, weight {weight:g}"] = {
                "mean": float(each.mean()), "low": float(each.mean() - half), "high": float(each.mean() + half),
            }  # fmt: skip
    return found


if __name__ == "__main__":
    main()
