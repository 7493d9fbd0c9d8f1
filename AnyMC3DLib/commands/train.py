"""`anymc3d train` and `anymc3d evaluate`."""

from __future__ import annotations

import argparse
import csv
import io
import json
import time
from pathlib import Path

from ..allocator import keep_freed_memory
from ..control import Control
from ..determinism import deterministic
from ..errors import InputError
from ..files import check_writable, write_text
from ..plugin import read_spec
from ..terminal import ProgressDisplay, show, show_table
from ..training.cases import read_cases
from ..training.evaluation import Evaluation, evaluate_plugin
from ..training.order import TrainingOrder, carry_out, changed_task, keep_run, place_of
from ..training.processes import Processes
from ..training.run import TrainingResult
from ..training.task import read_task
from .common import backbone_for, backbone_of_plugin, split_list
from .ending import asked_to_end

# What the parser keeps beside the options.
NO_OPTIONS = ("module", "function", "command", "check")


def train(options: argparse.Namespace) -> None:
    """Train the task's plugin and say what came of it."""
    keep_freed_memory()
    order = _order_of(options)
    started, control = time.monotonic(), Control()
    with (
        deterministic(options.deterministic),
        ProgressDisplay() as progress,
        asked_to_end(control, keeps=order.run is not None),
    ):
        processes = Processes()
        device = processes.device if options.device == "auto" else options.device
        if processes.count > 1 and options.device != "auto":
            raise InputError("With several processes each has a device of its own: leave --device away.")
        backbone = backbone_for(order.task.plugin.backbone.id, weights=options.weights, device=device)
        result = carry_out(order, backbone, progress=progress, control=control, processes=processes)
    if processes.leads:
        _tell(result, minutes=(time.monotonic() - started) / 60, out=order.out)
        if run := order.run:
            given = {name: value for name, value in vars(options).items() if name not in NO_OPTIONS}
            page = keep_run(order, result, device=str(backbone.device), options=given, processes=processes)
            show(f"The run's figures are in '{page}'." if page else f"The run is in '{run}'; no case was held out.")


def _order_of(options: argparse.Namespace) -> TrainingOrder:
    method, run = "frozen" if options.frozen else options.method, options.run and Path(options.run)
    task = changed_task(read_task(options.task), method=method, backbone=options.backbone, seed=options.seed)
    out = place_of(task, out=options.out, run=run)
    return TrainingOrder(
        task=task,
        cases=read_cases(options.data, task.plugin),
        out=out,
        run=run,
        resume=options.resume,
        every_minutes=options.every,
        folds=options.folds,
        train_splits=split_list(options.train_splits),
        validation_splits=split_list(options.val_splits),
        test_splits=split_list(options.test_splits),
        cache=options.cache and Path(options.cache),
        cache_gb=options.cache_gb,
        allow_unreadable=options.allow_unreadable,
        step=options.step,
    )


def _tell(result: TrainingResult, *, minutes: float, out: Path | None) -> None:
    rows = [
        [e["phase"], str(e["epoch"]), f"{e['loss']:.4f}", _score(e["auc"])] for e in result.spec.provenance["epochs"]
    ]
    show_table("Epochs", ["phase", "epoch", "loss", "validation"], rows)
    where = f"Wrote '{out}': " if out else ""
    show(f"{where}{result.parameters:,} parameters, trained in {minutes:.1f} minutes.")
    if steps := result.spec.provenance.get("steps_in_float32"):
        precision = result.spec.provenance["recipe"]["precision"]
        show(f"{steps} steps went past the range of {precision} and were computed in float32.")
    for case, reason in result.excluded.items():
        show(f"Left out: {case} ({reason})")


def _score(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def evaluate(options: argparse.Namespace) -> None:
    """Measure a plugin, alone or against another."""
    spec = read_spec(options.plugin)
    if options.predictions:
        check_writable(options.predictions)
    with deterministic(options.deterministic), ProgressDisplay() as progress:
        backbone = backbone_of_plugin(spec, weights=options.weights, device=options.device)
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
    figures = {
        "auc": result.auc, "accuracy": result.accuracy, "auc_difference": result.difference,
        "beyond_training": result.share_beyond,
    }  # fmt: skip
    if options.json:
        known = {name: f.to_dict() for name, f in figures.items() if f is not None}
        show(json.dumps({"plugin": spec.name, "splits": options.splits, "cases": len(result.ids), **known}, indent=2))
        return
    words = {"beyond_training": "share called out of scope"}
    rows = [[words.get(n, n.replace("_", " ")), str(figure)] for n, figure in figures.items() if figure is not None]
    show_table(f"{spec.name} on {len(result.ids)} cases ({options.splits})", ["", "value (95 % interval)"], rows)


def _predictions_csv(result: Evaluation, classes: list[str]) -> str:
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["case", "target", *classes])
    for case, target, row in zip(result.ids, result.targets, result.probabilities, strict=True):
        shown = " ".join(map(str, target)) if result.targets.ndim == 2 else str(target)
        writer.writerow([case, shown, *(f"{p:.6f}" for p in row)])
    return stream.getvalue()
