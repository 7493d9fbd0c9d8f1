"""`anymc3d demo`."""

from __future__ import annotations

import argparse
import time

from ..allocator import keep_freed_memory
from ..demo import TASK, run_demo, table_of
from ..terminal import ProgressDisplay, show, show_table
from ..training.task import read_task
from .common import backbone_for


def demo(options: argparse.Namespace) -> None:
    """Run the demonstration and say where its picture is."""
    keep_freed_memory()
    started = time.monotonic()
    with ProgressDisplay() as progress:
        name = read_task(TASK).plugin.backbone.id
        backbone = backbone_for(name, weights=options.weights, device=options.device)
        result = run_demo(options.output, backbone, seed=options.seed, progress=progress)
    columns = ["phantom", "truth", "P(lesion)", "hottest", "where the heat is highest"]
    show_table("Unseen phantoms", columns, table_of(result.cases))
    minutes = (time.monotonic() - started) / 60
    show(f"Trained {result.training.parameters:,} parameters and classified in {minutes:.1f} minutes.")
    show(f"Look at {result.picture} and {result.report}")
