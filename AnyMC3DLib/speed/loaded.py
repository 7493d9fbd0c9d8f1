"""The memory of a process that has loaded one plugin or eight; each in a process of its own."""

from __future__ import annotations

import argparse
import gc
import json
import sys
from pathlib import Path

import psutil
import torch

from ..classifier import Classifier
from .measure import Line, in_a_process
from .setting import random_backbone, write_plugins

PLUGINS = 8


def memory_of_plugins(folder: Path, *, model: str, slices: int, device: torch.device, threads: int) -> list[Line]:
    """Eight loaded plugins against one: the whole process (or the card), and the weights alone."""
    paths = [str(path) for path in write_plugins(random_backbone(model), folder, PLUGINS, slices=slices)]
    found = {}
    for count in (1, PLUGINS):
        arguments = ("--model", model, "--device", str(device), "--threads", str(threads), *paths[:count])
        found[count] = in_a_process("AnyMC3DLib.speed.loaded", *arguments, threads=threads)
    one, eight = found[1], found[PLUGINS]
    return [
        Line(f"memory of {PLUGINS} loaded plugins / of one", eight["bytes"] / one["bytes"], 1.05,
             details={"one": one, "eight": eight}),
        Line(f"the same, weights alone (backbone and {PLUGINS} plugins)", eight["weights"] / one["weights"]),
    ]  # fmt: skip


def main() -> None:
    """Load plugins and print the memory as JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("plugins", nargs="+")
    parser.add_argument("--model", required=True)
    parser.add_argument("--device", required=True)
    parser.add_argument("--threads", type=int, required=True)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    backbone = random_backbone(options.model, device=device)
    engine = Classifier(backbone, precision="float32")
    names = [engine.load(path) for path in options.plugins]
    gc.collect()
    modules = [backbone.model, *(engine.network_of(name) for name in names)]
    weights = sum(t.numel() * t.element_size() for module in modules for t in module.state_dict().values())
    on_card = device.type == "cuda"
    taken = torch.cuda.memory_allocated(device) if on_card else psutil.Process().memory_full_info().uss
    sys.stdout.write(json.dumps({"bytes": taken, "weights": weights}) + "\n")


if __name__ == "__main__":
    main()
