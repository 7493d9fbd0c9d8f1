"""The table of methods from their run folders: parameters, AUC with interval by seed, mean, paired differences.

    python Testing/Benchmarks/methods_table.py RUNS/lora-0 RUNS/lora-1 RUNS/frozen-0 RUNS/frozen-1 --reference lora

A folder is called METHOD-SEED and was written by `anymc3d train --run ... --test-splits test`. Nothing is predicted
here: the figures are those of the one test evaluation that each run made.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np

from AnyMC3DLib.spec import PluginSpec
from AnyMC3DLib.training.metrics import auc, bootstrap, paired_difference
from AnyMC3DLib.training.outcome import CONFIG, PREDICTIONS, Predictions, read_predictions


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("runs", nargs="+")
    parser.add_argument("--split", default="test")
    parser.add_argument("--reference", default="lora")
    options = parser.parse_args()
    found: dict[str, dict[str, Predictions]] = defaultdict(dict)
    for run in map(Path, options.runs):
        method, _, seed = run.name.rpartition("-")
        found[method][seed] = _predictions(run).of_split(options.split)
    if options.reference not in found:
        raise SystemExit(f"There is no run of the reference '{options.reference}': name one with --reference.")
    rows = [_row(method, seeds, found[options.reference]) for method, seeds in found.items()]
    sys.stdout.write("| method | AUC by seed | mean | of the mean probability | reference minus this, paired |\n")
    sys.stdout.write("|---|---|---|---|---|\n" + "\n".join(rows) + "\n")
    sys.stdout.write(json.dumps({m: sorted(seeds) for m, seeds in found.items()}) + "\n")


def _predictions(run: Path) -> Predictions:
    config = json.loads((run / CONFIG).read_text(encoding="utf-8"))
    return read_predictions(run / PREDICTIONS, PluginSpec.from_dict(config["plugin"]))


def _row(method: str, seeds: dict[str, Predictions], reference: dict[str, Predictions]) -> str:
    each = {seed: auc(part.targets, part.probabilities) for seed, part in sorted(seeds.items())}
    together, targets, patients = _mean(seeds)
    if next(iter(seeds.values())).ids != next(iter(reference.values())).ids:
        raise SystemExit("The runs were not measured on the same cases.")
    other, _, _ = _mean(reference)
    difference = "" if seeds is reference else str(
        paired_difference(auc, targets, other, together, patients=patients)
    )  # fmt: skip
    by_seed = ", ".join(f"{value:.3f}" for value in each.values())
    interval = str(bootstrap(auc, targets, together, patients=patients))
    return f"| {method} | {by_seed} | {np.mean(list(each.values())):.3f} | {interval} | {difference} |"


def _mean(seeds: dict[str, Predictions]) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """The seeds' mean probabilities, which pair cases whatever the seeds are."""
    parts = list(seeds.values())
    if any(part.ids != parts[0].ids for part in parts):
        raise SystemExit("The runs were not measured on the same cases.")
    return np.mean([part.probabilities for part in parts], axis=0), parts[0].targets, list(parts[0].patients)


if __name__ == "__main__":
    main()
