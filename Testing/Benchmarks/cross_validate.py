"""Cross-validate a task on the official train and val cases, the frozen backbone and LoRA on the same folds.

    python Testing/Benchmarks/cross_validate.py --task AdrenalMNIST3D --data adrenalmnist3d_64.npz --json out.json

The test cases are never loaded. Frozen is the plugin after its warm-up (query and head on frozen embeddings).
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import time

import numpy as np
import torch
from sklearn.model_selection import StratifiedKFold

from AnyMC3DLib.allocator import keep_freed_memory
from AnyMC3DLib.backbone import open_backbone
from AnyMC3DLib.files import write_text
from AnyMC3DLib.model import PluginNetwork
from AnyMC3DLib.training.cases import of_split, read_cases
from AnyMC3DLib.training.metrics import auc, bootstrap, paired_difference
from AnyMC3DLib.training.slices import cut_cases
from AnyMC3DLib.training.task import TaskSpec, read_task
from AnyMC3DLib.training.trainer import Trainer, prepare_spec


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--task", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--only", default="", help="run these folds alone, such as 0,1")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", required=True)
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    keep_freed_memory()
    torch.set_num_threads(options.threads)
    task = read_task(options.task)
    backbone = open_backbone(task.plugin.backbone.id)
    task = dataclasses.replace(task, plugin=prepare_spec(task, backbone))
    cases = cut_cases(of_split(read_cases(options.data, task.plugin), ("train", "val")), task.plugin)
    folds = StratifiedKFold(options.folds, shuffle=True, random_state=0).split(cases.targets, cases.targets)
    wanted = [int(n) for n in options.only.split(",")] if options.only else range(options.folds)
    results = {"task": task.training.to_dict(), "folds": []}
    every: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    for number, (train, held) in enumerate(folds):
        if number not in wanted:
            continue
        started = time.monotonic()
        frozen, adapted = _run_fold(task, backbone, cases.subset(train), cases.subset(held))
        targets = cases.targets[held]
        every.append((targets, frozen, adapted))
        figures = {"fold": number, "frozen": auc(targets, frozen), "lora": auc(targets, adapted)}
        figures["minutes"] = round((time.monotonic() - started) / 60, 2)
        logging.info("%s", figures)
        results["folds"].append(figures)
        results["all"] = _together(every)
        write_text(options.json, json.dumps(results, indent=2))
    logging.info("%s", results["all"])


def _run_fold(task: TaskSpec, backbone, train, held) -> tuple[np.ndarray, np.ndarray]:
    torch.manual_seed(task.training.seed)
    network = PluginNetwork(task.plugin, backbone)
    try:
        trainer = Trainer(network, dataclasses.replace(task.training, epochs=0))
        trainer.fit(train, None)
        frozen = trainer.predict(held)
        trainer = Trainer(network, dataclasses.replace(task.training, warm_up_epochs=0))
        trainer.fit(train, None)
        return frozen, trainer.predict(held)
    finally:
        network.close()


def _together(every: list[tuple[np.ndarray, np.ndarray, np.ndarray]]) -> dict[str, object]:
    """Out-of-fold figures; probabilities of different folds are not on one scale, so the folds' mean stands too."""
    targets, frozen, adapted = (np.concatenate(parts) for parts in zip(*every, strict=True))
    folds = [(auc(t, f), auc(t, a)) for t, f, a in every]
    return {
        "frozen_mean": float(np.mean([f for f, _ in folds])),
        "lora_mean": float(np.mean([a for _, a in folds])),
        "frozen_out_of_fold": str(bootstrap(auc, targets, frozen)),
        "lora_out_of_fold": str(bootstrap(auc, targets, adapted)),
        "difference": str(paired_difference(auc, targets, adapted, frozen)),
    }


if __name__ == "__main__":
    main()
