"""Where does a trained transformer look? Its attention map against its class map, on phantoms with lesions.

    python Testing/Benchmarks/trained_transformer.py --data DATA --weights small_vit.safetensors --json out.json

No public weights of a transformer were at hand, so a small one is distilled first from EfficientNet-Lite0 with its
ImageNet weights: on slices of made-up heads, and on the training pictures of PneumoniaMNIST and AdrenalMNIST3D from
the folder DATA. Then plugins learn to find lesions on it (LoRA, three seeds), and it is counted for how many lesions in
unseen heads the maximum of each map lies within the lesion.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from AnyMC3DLib.allocator import keep_freed_memory
from AnyMC3DLib.backbone import Backbone
from AnyMC3DLib.catalogue import BackboneEntry
from AnyMC3DLib.classifier import Classifier
from AnyMC3DLib.files import write_text
from AnyMC3DLib.heatmap import heatmap
from AnyMC3DLib.opening import create_model, open_backbone, open_entry
from AnyMC3DLib.phantom import Phantom, head_phantom
from AnyMC3DLib.prediction import Study
from AnyMC3DLib.spec import BackboneRef, LoRASpec
from AnyMC3DLib.training.cases import Case
from AnyMC3DLib.training.metrics import auc
from AnyMC3DLib.training.run import train_plugin
from AnyMC3DLib.training.task import TaskSpec, read_task

SIDE = 96
STUDENT = BackboneEntry(
    id="small_vit",
    timm="vit_tiny_patch16_224",
    model_args={"img_size": SIDE, "patch_size": 8, "embed_dim": 192, "depth": 4, "num_heads": 3},
)
TEACHER = "efficientnet_lite0"
TEACHER_MAP = "blocks.4"  # 6 x 6 at 96 pixels, 112 channels
EPOCHS, BATCH, RATE = 4, 32, 1e-3
HEADS, XRAYS, SHAPES = 400, 4708, 400  # what is distilled from: 10 slices of a head or a shape each
SHAPE, SPACING, RADII_MM = (14, 112, 96), (1.75, 1.75, 5.0), (10.0, 16.0)
TRAIN, TEST = 60, 100


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", required=True, help="folder of pneumoniamnist.npz and adrenalmnist3d_64.npz")
    parser.add_argument("--weights", required=True, help="where the distilled transformer is kept")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", required=True)
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    keep_freed_memory()
    torch.set_num_threads(options.threads)
    weights = Path(options.weights)
    if not weights.exists():
        distil(weights, Path(options.data))
    backbones = {"small ViT": open_entry(STUDENT, weights=weights), "EfficientNet-Lite0": open_backbone(TEACHER)}
    rows = []
    for seed in map(int, options.seeds.split(",")):
        for name, backbone in backbones.items():
            started = time.monotonic()
            rows.append({"backbone": name, "seed": seed, **measured(backbone, seed)})
            rows[-1]["minutes"] = round((time.monotonic() - started) / 60, 1)
            logging.info("%s", rows[-1])
            write_text(options.json, json.dumps({"rows": rows}, indent=2))


# Distillation


def distil(weights: Path, data: Path) -> None:
    """Train the small transformer to say what the CNN says of a slice as a whole and of its parts."""
    torch.manual_seed(0)
    teacher = open_backbone(TEACHER)
    pictures = _pictures(data)
    logging.info("distilling from %d pictures", len(pictures))
    student = create_model(STUDENT).train()
    whole, part = nn.Linear(192, teacher.embed_dim), nn.Linear(192, 112)
    parameters = [*student.parameters(), *whole.parameters(), *part.parameters()]
    steps = EPOCHS * (len(pictures) // BATCH)
    optimiser = torch.optim.AdamW(parameters, lr=RATE, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, max_lr=RATE, total_steps=steps, pct_start=0.1)
    means = _Means()
    for step in range(steps):
        slices = _augmented(pictures[torch.randint(len(pictures), (BATCH,))])
        wanted, parts = _said_by(teacher, slices)
        wanted, parts = means.standardised(wanted, parts)
        tokens = student.forward_features((slices.expand(-1, 3, -1, -1) - 0.5) / 0.5)
        patches = tokens[:, 1:].transpose(1, 2).unflatten(2, (SIDE // 8, SIDE // 8))
        pooled = F.adaptive_avg_pool2d(patches, parts.shape[2:]).flatten(2).transpose(1, 2)
        loss = F.smooth_l1_loss(whole(tokens[:, 0]), wanted) + F.smooth_l1_loss(part(pooled), parts.flatten(2).mT)
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        schedule.step()
        if step % 50 == 0:
            logging.info("step %d of %d: loss %.4f", step, steps, loss.item())
    save_file(student.state_dict(), weights)


class _Means:
    """Mean and spread of the teacher's features over the batches so far, since its channels differ in size."""

    def __init__(self) -> None:
        self._sums: list[tuple[Tensor, Tensor, int]] = []

    def standardised(self, *features: Tensor) -> list[Tensor]:
        flat = [f.transpose(0, 1).flatten(1) for f in features]
        new = [(f.sum(1), f.square().sum(1), f.shape[1]) for f in flat]
        self._sums = [tuple(a + b for a, b in zip(*both, strict=True)) for both in zip(self._sums or new, new)]  # noqa: B905
        result = []
        for feature, (total, squares, count) in zip(features, self._sums, strict=True):
            mean = total / count
            spread = (squares / count - mean.square()).clamp_min(1e-6).sqrt()
            shape = (1, -1, *[1] * (feature.ndim - 2))
            result.append((feature - mean.reshape(shape)) / spread.reshape(shape))
        return result


def _said_by(teacher: Backbone, slices: Tensor) -> tuple[Tensor, Tensor]:
    seen: list[Tensor] = []
    handle = teacher.model.get_submodule(TEACHER_MAP).register_forward_hook(lambda _, __, out: seen.append(out))
    try:
        with torch.no_grad():
            embedding = teacher.encode(slices).embedding
    finally:
        handle.remove()
    return embedding, seen[0]


def _augmented(slices: Tensor) -> Tensor:
    """Each slice [B, 1, H, W] flipped, turned and scaled at random."""
    count = len(slices)
    angle, scale = torch.rand(count) * 1.0 - 0.5, 0.7 + 0.6 * torch.rand(count)
    flip = torch.where(torch.rand(count) < 0.5, -1.0, 1.0)
    rows = [torch.stack([angle.cos() * flip, -angle.sin()], 1), torch.stack([angle.sin() * flip, angle.cos()], 1)]
    matrix = torch.cat([torch.stack(rows, 1) * scale[:, None, None], 0.2 * torch.rand(count, 2, 1) - 0.1], dim=2)
    grid = F.affine_grid(matrix, list(slices.shape), align_corners=False)
    return F.grid_sample(slices, grid, align_corners=False).clamp(0, 1)


def _pictures(data: Path) -> Tensor:
    """Slices [N, 1, 96, 96] in [0, 1]; of the two data sets their training cases alone."""
    rng = np.random.default_rng(0)
    found = []
    for number in range(HEADS):
        volume = _phantom(900_000 + number).volume.array
        found += [np.clip((volume[k] - 60) / 100, 0, 1) for k in rng.choice(len(volume), 10, replace=False)]
    with np.load(data / "pneumoniamnist.npz") as file:
        found += [picture / 255 for picture in file["train_images"][:XRAYS]]
    with np.load(data / "adrenalmnist3d_64.npz") as file:
        for shape in file["train_images"][:SHAPES]:
            found += [np.take(shape, rng.integers(12, 52), axis=rng.integers(3)) / 255 for _ in range(10)]
    tensors = [torch.from_numpy(picture.astype(np.float32))[None, None] for picture in found]
    return torch.cat([F.interpolate(t, size=(SIDE, SIDE), mode="bilinear", antialias=True) for t in tensors])


# Plugins


def measured(backbone: Backbone, seed: int) -> dict[str, float]:
    """AUC on unseen heads, and the share of lesions that hold the maximum of each kind of map."""
    with tempfile.TemporaryDirectory(prefix="anymc3d-transformer-") as folder:
        plugin = Path(folder) / "plugin.safetensors"
        numbers = range(seed * 10_000, seed * 10_000 + TRAIN)
        cases = [Case(str(n), "train", n % 2, lambda n=n: Study({"image": _phantom(n).volume})) for n in numbers]
        train_plugin(_task(backbone, seed), cases, backbone, plugin, validation_splits=())
        engine = Classifier(backbone)
        name = engine.load(plugin)
        return _tested(engine, name, seed)


def _task(backbone: Backbone, seed: int) -> TaskSpec:
    task = read_task("HeadLesionPhantom")
    (view,) = task.plugin.views
    cut = dataclasses.replace(view.preprocessing, size=(SIDE, SIDE))
    plugin = dataclasses.replace(
        task.plugin,
        backbone=BackboneRef(id=backbone.id),
        views=(dataclasses.replace(view, preprocessing=cut),),
        lora=LoRASpec(rank=8, alpha=16),
    )
    recipe = dataclasses.replace(task.training, seed=seed, epochs=8, keep="last")
    return dataclasses.replace(task, plugin=plugin, training=recipe)


def _tested(engine: Classifier, name: str, seed: int) -> dict[str, float]:
    targets, probabilities = [], []
    hits: dict[str, list[bool]] = {"attention": [], "class": []}
    for number in range(seed * 10_000 + 5_000, seed * 10_000 + 5_000 + TEST):
        phantom = _phantom(number)
        prediction = engine.classify(Study({"image": phantom.volume}), plugins=[name])[name]
        targets.append(number % 2)
        probabilities.append([prediction.probabilities[c] for c in ("no lesion", "lesion")])
        if not targets[-1]:
            continue
        for kind, class_name in (("attention", None), ("class", "lesion")):
            if class_name is None and next(iter(prediction.maps.values())).attention is None:
                continue
            heat = heatmap(prediction, phantom.volume, class_name=class_name).array
            hits[kind].append(bool(phantom.mask[np.unravel_index(heat.argmax(), heat.shape)]))
    shares = {f"in_lesion_{kind}": float(np.mean(each)) for kind, each in hits.items() if each}
    return {"auc": auc(np.array(targets), np.array(probabilities)), **shares}


def _phantom(number: int) -> Phantom:
    """Every second head has a lesion."""
    return head_phantom(number, lesion=number % 2 == 1, shape=SHAPE, spacing=SPACING, lesion_radii_mm=RADII_MM)


if __name__ == "__main__":
    main()
