"""How much of a card's own matrix rate inference and training reach, with ViT-L/16 in bfloat16."""

from __future__ import annotations

from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

from ..classifier import Classifier
from ..model import PluginNetwork
from ..training.step import GradientStep
from .measure import Line, interleaved, name_of
from .setting import SIZE, filled, plugin_spec, random_backbone, random_study, write_plugins

MODEL = "vit_large_patch16_224"
SIDE = 8192
PRODUCTS = 20
SLICES = 512


def share_of_matrix_rate(folder: Path, *, device: torch.device, repeats: int) -> list[Line]:
    """Inference of a volume with the paper's map, and a LoRA training step counted as two forward passes of work."""
    backbone = random_backbone(MODEL, device=device)
    work = SLICES * _operations_a_slice(backbone.model, device)
    engine = Classifier(backbone, precision="bfloat16")
    engine.load(write_plugins(backbone, folder, 1, slices=SLICES)[0])
    study = random_study(SLICES, SIZE, SIZE)
    network = filled(PluginNetwork(plugin_spec(backbone, "trained", slices=SLICES), backbone)).to(device).train()
    gradients = GradientStep(network)
    volumes = [{"axial": torch.rand(SLICES // 2, 1, SIZE, SIZE, device=device)} for _ in range(2)]
    a, b = (torch.randn(SIDE, SIDE, device=device, dtype=torch.bfloat16) for _ in range(2))

    def products() -> None:
        for _ in range(PRODUCTS):
            a @ b

    def train() -> None:
        gradients(volumes, torch.tensor([0, 1], device=device))
        network.zero_grad()

    times = interleaved(
        {"matrices": products, "inference": lambda: engine.classify(study, maps="attention"), "training": train},
        device,
        repeats,
    )
    rate = PRODUCTS * 2 * SIDE**3 / times.median("matrices")
    facts = {"card": name_of(device), "matrix_tflops": round(rate / 1e12, 1)}
    return [
        Line("ViT-L/16 inference / matrix rate", work / times.median("inference") / rate, 0.55, at_most=False,
             details={**facts, **times.details(*times.runs)}),
        Line("ViT-L/16 LoRA training / matrix rate", 2 * work / times.median("training") / rate, 0.45, at_most=False),
    ]  # fmt: skip


def _operations_a_slice(model: torch.nn.Module, device: torch.device) -> int:
    dtype = next(model.parameters()).dtype
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.forward_features(torch.zeros(1, 3, SIZE, SIZE, device=device, dtype=dtype))
    return counter.get_total_flops()
