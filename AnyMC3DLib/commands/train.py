"""`anymc3d train` and `anymc3d evaluate`."""

from __future__ import annotations

import argparse
import csv
import dataclasses
import io
import json
import time

from ..allocator import keep_freed_memory
from ..files import check_writable, write_text
from ..plugin import read_spec
from ..spec import BackboneRef, LoRASpec
from ..terminal import ProgressDisplay, show, show_table
from ..training.cases import read_cases
from ..training.run import Evaluation, evaluate_plugin, train_plugin
from ..training.task import TaskSpec, read_task
from .common import backbone_for, split_list


def train(options: argparse.Namespace) -> None:
    """Train the task's plugin and say what came of it."""
    keep_freed_memory()
    task = _changed(read_task(options.task), options)
    cases = read_cases(options.data, task.plugin)
    started = time.monotonic()
    with ProgressDisplay() as progress:
        backbone = backbone_for(task.plugin.backbone.id, weights=options.weights, device=options.device)
        result = train_plugin(
            task,
            cases,
            backbone,
            options.out,
            train_splits=split_list(options.train_splits),
            validation_splits=split_list(options.val_splits),
            mode=options.step,
            progress=progress,
        )
    rows = [
        [e["phase"], str(e["epoch"]), f"{e['loss']:.4f}", _score(e["auc"])] for e in result.spec.provenance["epochs"]
    ]
    show_table("Epochs", ["phase", "epoch", "loss", "validation AUC"], rows)
    minutes = (time.monotonic() - started) / 60
    show(f"Wrote '{options.out}': {result.parameters:,} parameters, trained in {minutes:.1f} minutes.")


def _score(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _changed(task: TaskSpec, options: argparse.Namespace) -> TaskSpec:
    if options.frozen:
        task = dataclasses.replace(task, plugin=dataclasses.replace(task.plugin, lora=LoRASpec(rank=0)))
    if options.backbone:
        task = dataclasses.replace(
            task, plugin=dataclasses.replace(task.plugin, backbone=BackboneRef(id=options.backbone))
        )
    if options.seed is not None:
        task = dataclasses.replace(task, training=dataclasses.replace(task.training, seed=options.seed))
    return task


def evaluate(options: argparse.Namespace) -> None:
    """Measure a plugin, alone or against another."""
    spec = read_spec(options.plugin)
    if options.predictions:
        check_writable(options.predictions)
    with ProgressDisplay() as progress:
        backbone = backbone_for(spec.backbone.id, weights=options.weights, device=options.device)
        result = evaluate_plugin(
            options.plugin,
            lambda wanted: read_cases(options.data, wanted),
            backbone,
            splits=split_list(options.splits),
            against=options.against,
            progress=progress,
        )
    if options.predictions:
        write_text(options.predictions, _predictions_csv(result, [c.name for c in spec.classes]))
    figures = {"auc": result.auc, "accuracy": result.accuracy, "auc_difference": result.difference}
    if options.json:
        known = {name: f.to_dict() for name, f in figures.items() if f is not None}
        show(json.dumps({"plugin": spec.name, "splits": options.splits, "cases": len(result.ids), **known}, indent=2))
        return
    rows = [[name.replace("_", " "), str(figure)] for name, figure in figures.items() if figure is not None]
    show_table(f"{spec.name} on {len(result.ids)} cases ({options.splits})", ["", "value (95 % interval)"], rows)


def _predictions_csv(result: Evaluation, classes: list[str]) -> str:
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["case", "target", *classes])
    for case, target, row in zip(result.ids, result.targets, result.probabilities, strict=True):
        shown = " ".join(map(str, target)) if result.targets.ndim == 2 else str(target)
        writer.writerow([case, shown, *(f"{p:.6f}" for p in row)])
    return stream.getvalue()
