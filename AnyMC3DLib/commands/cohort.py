"""`anymc3d classify --manifest`."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Mapping
from pathlib import Path

import torch

from ..classifier import Classifier
from ..cohort import CohortResult, Share, check_heatmap_class, classify_cohort, share_of_environment
from ..determinism import deterministic
from ..errors import InputError
from ..files import check_writable
from ..ledger import FAILURES, RESULTS
from ..manifest import read_manifest
from ..plugin import read_spec
from ..terminal import ProgressDisplay, show
from .classify import check_plugins
from .common import backbone_of_plugin


def classify_table(options: argparse.Namespace) -> None:
    """Classify this process's share of the studies in a table and write the results to a folder."""
    specs = [read_spec(path) for path in options.plugin]
    check_plugins(specs)
    if options.heatmaps:
        check_heatmap_class(options.heatmap_class, [spec.explained for spec in specs])
    cases = read_manifest(options.manifest, specs)
    check_writable(Path(options.out) / RESULTS)
    share = share_of_environment()
    device = device_of_process(options.device)
    shown = ProgressDisplay() if share.index == 0 else contextlib.nullcontext()
    with deterministic(options.deterministic), shown as progress:
        backbone = backbone_of_plugin(specs[0], weights=options.weights, device=device)
        engine = Classifier(backbone, precision=options.precision)
        names = [engine.load(path) for path in options.plugin]
        result = classify_cohort(
            engine,
            cases,
            options.out,
            plugins=names,
            heatmaps=options.heatmaps,
            heatmap_class=options.heatmap_class,
            progress=progress,
            share=share,
        )
    _tell(result, share, options.out)


def device_of_process(name: str, environment: Mapping[str, str] = os.environ) -> str:
    """The device called `name`; where it is 'auto', each process that a launcher started has a GPU of its own."""
    number = environment.get("LOCAL_RANK", "")
    if name != "auto" or not number.isdecimal():
        return name
    if environment.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true", "yes"):
        return "cpu"
    return f"cuda:{int(number) % torch.cuda.device_count()}" if torch.cuda.is_available() else name


def _tell(result: CohortResult, share: Share, out: str) -> None:
    total = len(result.done) + len(result.skipped) + len(result.failed)
    whose = f" of process {share}" if share.count > 1 else ""
    if share.index == 0:
        before = f", {len(result.skipped)} were done before" if result.skipped else ""
        show(f"{len(result.done)} of {total} cases{whose} classified{before}: see '{Path(out) / RESULTS}'.")
    if not result.failed:
        return
    sentence = f"{len(result.failed)} of {total} cases{whose} failed: see '{FAILURES}'."
    if share.count == 1:
        raise InputError(sentence)
    # A launcher ends all processes once one exits with 1, and the others are still at work.
    sys.stderr.write(f"anymc3d: {sentence}\n")
