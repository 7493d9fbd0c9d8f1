"""The memory of a process that has loaded one plugin or eight; each in a process of its own."""

from __future__ import annotations

import argparse
import gc
import json
import sys
import tempfile
from pathlib import Path

import psutil
import torch

from ..classifier import Classifier
from .measure import Line, in_a_process
from .setting import SIZE, random_backbone, random_study, write_plugins

PLUGINS = 8


def memory_of_plugins(*, model: str, slices: int, device: torch.device, threads: int) -> list[Line]:
    """Eight loaded plugins against one: the whole process (or the card), and the weights alone."""
    found = {}
    for count in (1, PLUGINS):
        arguments = ("--plugins", str(count), "--model", model, "--slices", str(slices), "--device", str(device),
                     "--threads", str(threads))  # fmt: skip
        found[count] = in_a_process("AnyMC3DLib.speed.loaded", *arguments, threads=threads)
    one, eight = found[1], found[PLUGINS]
    return [
        Line(f"memory of {PLUGINS} loaded plugins / of one", eight["bytes"] / one["bytes"], 1.05,
             details={"one": one, "eight": eight}),
        Line(f"the same, weights alone (backbone and {PLUGINS} plugins)", eight["weights"] / one["weights"]),
    ]  # fmt: skip


def main() -> None:
    """Load so many plugins, classify one study with one of them, and print the memory as JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--plugins", type=int, required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--slices", type=int, required=True)
    parser.add_argument("--device", required=True)
    parser.add_argument("--threads", type=int, required=True)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    backbone = random_backbone(options.model, device=device)
    engine = Classifier(backbone, precision="float32")
    with tempfile.TemporaryDirectory() as folder:
        # Written in both, so that only what is loaded differs.
        paths = write_plugins(backbone, Path(folder), PLUGINS, slices=options.slices)
        names = [engine.load(path) for path in paths[: options.plugins]]
    engine.classify(random_study(options.slices, SIZE, SIZE), plugins=names[:1], maps="attention")
    gc.collect()
    modules = [backbone.model, *(engine.network_of(name) for name in names)]
    weights = sum(t.numel() * t.element_size() for module in modules for t in module.state_dict().values())
    on_card = device.type == "cuda"
    taken = torch.cuda.memory_allocated(device) if on_card else psutil.Process().memory_full_info().uss
    sys.stdout.write(json.dumps({"bytes": taken, "weights": weights}) + "\n")


if __name__ == "__main__":
    main()
