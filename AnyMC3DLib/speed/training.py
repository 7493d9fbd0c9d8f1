"""A LoRA training step against timm with peft: slices a second, peak memory, loss. Each in a process of its own."""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable

import psutil
import timm
import torch
import torch.nn.functional as F

from ..allocator import keep_freed_memory
from ..memory import synchronise
from ..model import PluginNetwork
from ..training.step import GradientStep
from .measure import Line, in_a_process
from .reference import Reference
from .setting import SIZE, filled, plugin_spec, random_backbone

Step = Callable[[], float]
BATCH = 2
CLASSES = ("a", "b")


def against_the_reference(*, model: str, slices: int, device: torch.device, repeats: int, threads: int) -> list[Line]:
    """Speed and memory mode against the reference, each for the same weights, slices and targets."""
    found = {}
    for name, (what, count) in {
        "forward": ("forward", slices),
        "reference": ("reference", slices),
        "reference that keeps freed memory": ("kept", slices),
        "speed": ("speed", slices),
        "memory": ("memory", slices),
        "memory, four times the slices": ("memory", 4 * slices),
    }.items():
        arguments = ("--what", what, "--model", model, "--slices", str(count), "--repeats", str(repeats),
                     "--device", str(device), "--threads", str(threads))  # fmt: skip
        found[name] = in_a_process("AnyMC3DLib.speed.training", *arguments, threads=threads)
    reference, kept = found["reference"], found["reference that keeps freed memory"]
    lines = [
        Line("training by timm and peft / forward", reference["slices_per_s"] / found["forward"]["slices_per_s"],
             details=found),
        Line("training in memory mode, four times the slices / timm and peft, peak memory",
             found["memory, four times the slices"]["peak_mib"] / max(1, reference["peak_mib"]), 0.15),
    ]  # fmt: skip
    for mode, speed, memory in (("speed", 1.2, 0.6), ("memory", 0.7, 0.15)):
        ours = found[mode]
        lines += [
            Line(f"training in {mode} mode / timm and peft, slices a second",
                 ours["slices_per_s"] / reference["slices_per_s"], speed, at_most=False),
            Line(f"training in {mode} mode / timm and peft, peak memory",
                 ours["peak_mib"] / max(1, reference["peak_mib"]), memory),
            Line(f"training in {mode} mode, largest difference of losses to timm and peft",
                 max(abs(a - b) for a, b in zip(ours["losses"], reference["losses"], strict=True)), 1e-4, unit=""),
            Line(f"training in {mode} mode / timm and peft that keep freed memory, slices a second",
                 ours["slices_per_s"] / kept["slices_per_s"]),
            Line(f"training in {mode} mode / forward, slices a second",
                 ours["slices_per_s"] / found["forward"]["slices_per_s"]),
        ]  # fmt: skip
    return lines


class _Peak:
    """The most memory above where it began, in MiB: of the device, or of the process."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        self._base = self._now()

    def _now(self) -> float:
        if self._device.type == "cuda":
            return torch.cuda.max_memory_allocated(self._device) / 2**20
        return peak_of_process()

    def mib(self) -> float:
        return self._now() - self._base


def peak_of_process() -> float:
    """The most memory that the process ever held, in MiB."""
    if sys.platform == "win32":
        return psutil.Process().memory_info().peak_wset / 2**20
    import resource

    # Linux counts KiB, macOS bytes.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def main() -> None:
    """Measure one way of training (or the pure forward pass) and print JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--what", choices=list(_STEPS), required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--slices", type=int, required=True)
    parser.add_argument("--repeats", type=int, required=True)
    parser.add_argument("--device", required=True)
    parser.add_argument("--threads", type=int, required=True)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    generator = torch.Generator().manual_seed(1)
    volumes = torch.rand(BATCH, options.slices, 1, SIZE, SIZE, generator=generator).to(device)
    targets = (torch.arange(BATCH) % 2).to(device)
    step = _STEPS[options.what](options, volumes, targets, device)
    peak = _Peak(device)
    losses, taken = [], []
    for _ in range(options.repeats + 1):
        started = time.perf_counter()
        losses.append(step())
        synchronise(device)
        taken.append(time.perf_counter() - started)
    # The first step also sets things up. Its loss is that of the weights all began with, the others those of training.
    seconds = statistics.median(taken[1:])
    found = {
        "seconds": round(seconds, 3),
        "slices_per_s": BATCH * options.slices / seconds,
        "peak_mib": round(peak.mib()),
        "losses": losses,
    }
    sys.stdout.write(json.dumps(found) + "\n")


def _forward(options: argparse.Namespace, volumes: torch.Tensor, _: torch.Tensor, device: torch.device) -> Step:
    plain = timm.create_model(options.model, pretrained=False, num_classes=0, img_size=SIZE).eval().to(device)

    @torch.inference_mode()
    def step() -> float:
        for part in volumes.flatten(0, 1).split(8 if device.type == "cpu" else 64):
            plain.forward_features(part.repeat(1, 3, 1, 1))
        return 0.0

    return step


def _reference(options: argparse.Namespace, volumes: torch.Tensor, targets: torch.Tensor, device: torch.device) -> Step:
    backbone = random_backbone(options.model)
    spec = plugin_spec(backbone, "x", slices=options.slices, classes=CLASSES, task_type="multiclass")
    adapter = PluginNetwork(spec, backbone).adapters["axial"]
    network = Reference(options.model).fill("axial", adapter).train().to(device)
    optimiser = torch.optim.AdamW([p for p in network.parameters() if p.requires_grad], 1e-4)

    def step() -> float:
        loss = F.cross_entropy(torch.stack([network(volume) for volume in volumes]), targets)
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
        return float(loss.detach())

    return step


def _kept(options: argparse.Namespace, volumes: torch.Tensor, targets: torch.Tensor, device: torch.device) -> Step:
    """The reference with the setting of the allocator that our training uses."""
    keep_freed_memory()
    return _reference(options, volumes, targets, device)


def _ours(options: argparse.Namespace, volumes: torch.Tensor, targets: torch.Tensor, device: torch.device) -> Step:
    keep_freed_memory()
    backbone = random_backbone(options.model, device=device)
    spec = plugin_spec(backbone, "x", slices=options.slices, classes=CLASSES, task_type="multiclass")
    network = filled(PluginNetwork(spec, backbone)).to(device).train()
    gradients = GradientStep(network, mode=options.what)
    optimiser = torch.optim.AdamW(network.parameters(), 1e-4)
    studies = [{"axial": volume} for volume in volumes]

    def step() -> float:
        loss = gradients(studies, targets)
        optimiser.step()
        optimiser.zero_grad()
        return loss

    return step


_STEPS = {"forward": _forward, "reference": _reference, "kept": _kept, "speed": _ours, "memory": _ours}


if __name__ == "__main__":
    main()
