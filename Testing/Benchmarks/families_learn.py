"""Does LoRA learn on every family? Plugins on small networks with random weights, on made-up heads with lesions.

    python Testing/Benchmarks/families_learn.py --json out.json

Each network is one of timm's, of the kind that the weights of its family are imported into. Its weights stay random and
frozen; what tells a lesion is the adapter, the task query and the head. Figures are of unseen heads. How many heads
and epochs it takes was tried on heads other than these.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import logging
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from AnyMC3DLib.allocator import keep_freed_memory
from AnyMC3DLib.backbone import Backbone
from AnyMC3DLib.catalogue import BackboneEntry
from AnyMC3DLib.classifier import Classifier
from AnyMC3DLib.files import write_text
from AnyMC3DLib.opening import backbone_of, create_model
from AnyMC3DLib.phantom import head_phantom
from AnyMC3DLib.prediction import Study
from AnyMC3DLib.spec import BackboneRef, LoRASpec, SliceSpec
from AnyMC3DLib.training.cases import Case
from AnyMC3DLib.training.metrics import auc
from AnyMC3DLib.training.run import train_plugin
from AnyMC3DLib.training.task import TaskSpec, read_task
from AnyMC3DLib.volume import Volume

SIDE = 64
VIT: dict[str, Any] = {"img_size": SIDE, "patch_size": 8, "embed_dim": 48, "depth": 2, "num_heads": 3}
DAVIT: dict[str, Any] = {"depths": (1, 1, 1, 1), "embed_dims": (16, 32, 48, 64), "num_heads": (1, 2, 3, 4)}
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "ViT, DINO, MAE": ("vit_tiny_patch16_224", VIT),
    "DeiT": ("deit_tiny_patch16_224", {**VIT, "reg_tokens": 1}),
    "DINOv2": ("vit_small_patch14_dinov2", VIT),
    "DINOv2 with registers": ("vit_small_patch14_reg4_dinov2", VIT),
    "DINOv3": ("vit_small_patch16_dinov3", VIT),
    "CLIP": ("vit_base_patch16_clip_quickgelu_224", VIT),
    "SigLIP": ("vit_base_patch16_siglip_224", VIT),
    "BEiT": ("beit_base_patch16_224", {**VIT, "global_pool": "token"}),
    "EVA-02": ("eva02_tiny_patch14_224", VIT),
    "DaViT, Florence-2": ("davit_tiny", {**DAVIT, "window_size": 4}),
    "Swin": (
        "swin_tiny_patch4_window7_224",
        {"depths": (2, 2, 1, 1), "embed_dim": 24, "num_heads": (1, 2, 4, 8), "window_size": 4, "img_size": SIDE},
    ),
    "Hiera": ("hiera_tiny_224", {"img_size": (SIDE, SIDE), "embed_dim": 24, "stages": (1, 1, 2, 1)}),
    "SAM": (
        "samvit_base_patch16",
        {**VIT, "window_size": 4, "global_attn_indexes": (1,), "neck_chans": 48},
    ),
    "SAM 2": ("sam2_hiera_tiny", {"embed_dim": 24, "stages": (1, 1, 2, 1), "global_att_blocks": (3,)}),
    "ConvNeXt": ("test_convnext", {}),
    "ResNet": ("test_resnet", {}),
    "EfficientNet-Lite": ("tf_efficientnet_lite0", {}),
}
SHAPE, SPACING, RADII_MM = (8, 64, 56), (3.2, 3.2, 9.0), (15.0, 20.0)
TRAIN, TEST, FIRST_TEST = 400, 60, 5_000
# A class token that reads four random registers beside the patches learns later.
EPOCHS = {"DINOv2 with registers": 32}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", default="", help="families, separated by ';'")
    parser.add_argument("--epochs", type=int, default=16)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", required=True)
    options = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s")
    keep_freed_memory()
    torch.set_num_threads(options.threads)
    rows = []
    for family in options.only.split(";") if options.only else FAMILIES:
        started = time.monotonic()
        epochs = EPOCHS.get(family, options.epochs)
        reached = learnt(random_backbone(family), epochs=epochs)
        facts = {"family": family, "network": FAMILIES[family][0], "epochs": epochs}
        rows.append({**facts, "auc": reached})
        rows[-1]["seconds"] = round(time.monotonic() - started)
        print(json.dumps(rows[-1]), flush=True)
        write_text(options.json, json.dumps({"rows": rows}, indent=2))


def random_backbone(family: str) -> Backbone:
    """A small network of the family with random weights."""
    name, arguments = FAMILIES[family]
    torch.manual_seed(0)
    entry = BackboneEntry(id=name, timm=name, model_args=arguments)
    return backbone_of(create_model(entry).eval(), entry)


def learnt(backbone: Backbone, *, epochs: int) -> float:
    """AUC on unseen heads of a plugin that learnt on the backbone."""
    with tempfile.TemporaryDirectory(prefix="anymc3d-families-") as folder:
        plugin = Path(folder) / "plugin.safetensors"
        train_plugin(_task(backbone, epochs), [_case(n) for n in range(TRAIN)], backbone, plugin, validation_splits=())
        engine = Classifier(backbone)
        name = engine.load(plugin)
        targets, probabilities = [], []
        for number in range(FIRST_TEST, FIRST_TEST + TEST):
            prediction = engine.classify(Study({"image": _head(number)}), plugins=[name])[name]
            targets.append(number % 2)
            probabilities.append([prediction.probabilities[c] for c in ("no lesion", "lesion")])
    return round(auc(np.array(targets), np.array(probabilities)), 3)


def _task(backbone: Backbone, epochs: int) -> TaskSpec:
    task = read_task("HeadLesionPhantom")
    (view,) = task.plugin.views
    cut = dataclasses.replace(view.preprocessing, size=(SIDE, SIDE), slices=SliceSpec(policy="at_most", count=SHAPE[0]))
    targets = () if backbone.kind == "cnn" else ("patch_embed", "attention", "mlp")
    plugin = dataclasses.replace(
        task.plugin,
        backbone=BackboneRef(id=backbone.id),
        views=(dataclasses.replace(view, preprocessing=cut),),
        lora=LoRASpec(rank=8, alpha=16, targets=targets),
    )
    recipe = dataclasses.replace(
        task.training, seed=0, epochs=epochs, batch=8, warm_up_epochs=20, adapter_rate=3e-3, head_rate=3e-3, keep="last"
    )
    return dataclasses.replace(task, plugin=plugin, training=recipe)


@functools.cache
def _head(number: int) -> Volume:
    """Every second head has a lesion."""
    lesion = number % 2 == 1
    return head_phantom(number, lesion=lesion, shape=SHAPE, spacing=SPACING, lesion_radii_mm=RADII_MM).volume


def _case(number: int) -> Case:
    return Case(str(number), "train", number % 2, lambda: Study({"image": _head(number)}))


if __name__ == "__main__":
    main()
