"""Cross-validate one method of training on a task's train and val cases; the test cases are never loaded.

    python Testing/Benchmarks/cross_validate.py --task AdrenalMNIST3D --data adrenalmnist3d_64.npz --method lora \\
        --json out.json

`--set backbone_rate=1e-4` changes a field of the recipe. The folds are the same for every method and setting.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import time
from pathlib import Path

import numpy as np
import torch
from sklearn.model_selection import StratifiedKFold

from AnyMC3DLib.allocator import keep_freed_memory
from AnyMC3DLib.backbone import Backbone
from AnyMC3DLib.files import write_text
from AnyMC3DLib.opening import open_backbone
from AnyMC3DLib.training.cases import Case, of_split, read_cases
from AnyMC3DLib.training.methods import with_method
from AnyMC3DLib.training.metrics import auc, bootstrap
from AnyMC3DLib.training.run import Predicted, train_plugin
from AnyMC3DLib.training.slice_cache import SliceCache
from AnyMC3DLib.training.task import TaskSpec, read_task


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--task", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--method", default="lora")
    parser.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE", help="of the task's training")
    parser.add_argument("--backbone", default="")
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--only", default="", help="run these folds alone, such as 0,1")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--cache", help="where slices that were cut are kept for other runs")
    parser.add_argument("--json", required=True)
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    keep_freed_memory()
    torch.set_num_threads(options.threads)
    task = _changed(with_method(read_task(options.task), options.method), options.set)
    backbone = open_backbone(options.backbone or task.plugin.backbone.id)
    cases = of_split(read_cases(options.data, task.plugin), ("train", "val"))
    targets = np.array([case.target for case in cases])
    folds = StratifiedKFold(options.folds, shuffle=True, random_state=0).split(targets, targets)
    wanted = [int(n) for n in options.only.split(",")] if options.only else range(options.folds)
    cache = SliceCache(Path(options.cache), max_bytes=20 << 30) if options.cache else None
    results = {"method": options.method, "task": task.training.to_dict(), "folds": []}
    every: list[Predicted] = []
    for number, (_, held) in enumerate(folds):
        if number not in wanted:
            continue
        started = time.monotonic()
        every.append(_run_fold(task, backbone, cases, set(held.tolist()), cache))
        figures = {"fold": number, "auc": auc(every[-1].targets, every[-1].probabilities)}
        figures["minutes"] = round((time.monotonic() - started) / 60, 2)
        logging.info("%s", figures)
        results["folds"].append(figures)
        results["all"] = _together(every)
        write_text(options.json, json.dumps(results, indent=2))
    logging.info("%s", results["all"])


def _changed(task: TaskSpec, settings: list[str]) -> TaskSpec:
    recipe = task.training.to_dict()
    for setting in settings:
        name, _, value = setting.partition("=")
        recipe[name] = json.loads(value)
    return dataclasses.replace(task, training=type(task.training).from_dict(recipe, where="--set"))


def _run_fold(task: TaskSpec, backbone: Backbone, cases: list[Case], held: set[int], cache: SliceCache) -> Predicted:
    """What a training on the other folds says of the held-out cases, which choose nothing: the last weights stay."""
    parts = [dataclasses.replace(case, split="val" if n in held else "train") for n, case in enumerate(cases)]
    task = dataclasses.replace(
        task, training=dataclasses.replace(task.training, keep="last", patience=None, calibrate=False)
    )
    return train_plugin(task, parts, backbone, None, cache=cache).validation


def _together(every: list[Predicted]) -> dict[str, object]:
    """Out-of-fold figures; probabilities of different folds are not on one scale, so the folds' mean stands too."""
    targets = np.concatenate([part.targets for part in every])
    probabilities = np.concatenate([part.probabilities for part in every])
    folds = [auc(part.targets, part.probabilities) for part in every]
    return {
        "mean": float(np.mean(folds)),
        "spread": float(np.std(folds)),
        "out_of_fold": str(bootstrap(auc, targets, probabilities)),
    }


if __name__ == "__main__":
    main()
