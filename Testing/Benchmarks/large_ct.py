"""Peak memory of a 512 x 512 x 800 CT with ViT-B/16, three windows and 18 classes: read, classify, render a heatmap.

    python Testing/Benchmarks/large_ct.py [--device cuda --gpu-gib 4] [--slices N] [--threads 2]

Prints JSON. The volume is noise and the weights are random; memory depends on neither.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from AnyMC3DLib.backbone import Backbone
from AnyMC3DLib.classifier import Classifier
from AnyMC3DLib.heatmap import heatmap
from AnyMC3DLib.model import PluginNetwork
from AnyMC3DLib.plugin import save_plugin
from AnyMC3DLib.prediction import Study
from AnyMC3DLib.spec import BackboneRef, ClassSpec, IntensitySpec, PluginSpec, PreprocessingSpec, ViewSpec
from AnyMC3DLib.speed.setting import filled, random_backbone
from AnyMC3DLib.speed.training import peak_of_process
from AnyMC3DLib.volume import Volume, read_volume, write_volume

MODEL = "vit_base_patch16_224"
WINDOWS = ("lung", "mediastinum", "bone")


def main() -> None:
    """Run it in this process, whose peak memory is what is told."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--gpu-gib", type=float, default=4.0, help="the share of the card that may be used")
    parser.add_argument("--slices", type=int, default=800)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    if device.type == "cuda":
        total = torch.cuda.get_device_properties(device).total_memory
        torch.cuda.set_per_process_memory_fraction(options.gpu_gib * 2**30 / total, device)
    with tempfile.TemporaryDirectory() as folder:
        image, plugin = Path(folder) / "ct.nrrd", Path(folder) / "plugin.safetensors"
        write_image(image, options.slices)
        backbone = random_backbone(MODEL, device=device)
        write_plugin(plugin, backbone)
        started = time.perf_counter()
        engine = Classifier(backbone)
        name = engine.load(plugin)
        volume = read_volume(image)
        prediction = engine.classify(Study({"image": volume}), plugins=[name])[name]
        heat = heatmap(prediction, volume, class_name="class 7")
    found = {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "seconds": round(time.perf_counter() - started, 1),
        "peak_ram_mib": round(peak_of_process()),
        "peak_gpu_mib": round(torch.cuda.max_memory_reserved(device) / 2**20) if device.type == "cuda" else None,
        "heatmap": list(heat.grid),
        "steps": prediction.provenance["memory_steps"],
        "precision": prediction.provenance["precision"],
    }
    print(json.dumps(found))


def write_image(path: Path, slices: int) -> None:
    """A CT of noise; written slab by slab into one array, so that writing does not set the peak."""
    values = np.empty((slices, 512, 512), dtype=np.int16)
    rng = np.random.default_rng(0)
    for part in values:
        part[:] = rng.integers(-1024, 1500, part.shape, dtype=np.int16)
    write_volume(path, Volume(values, np.diag([0.7, 0.7, 0.6, 1.0]), name="the CT"))


def write_plugin(path: Path, backbone: Backbone) -> None:
    """An 18-class plugin with the default adapters."""
    cut = PreprocessingSpec(
        mean=backbone.mean, std=backbone.std, multiple_of=16, intensity=IntensitySpec(kind="window", windows=WINDOWS)
    )
    spec = PluginSpec(
        name="eighteen",
        task_type="multilabel",
        classes=tuple(ClassSpec(name=f"class {n}") for n in range(18)),
        backbone=BackboneRef(id=backbone.id, digest=backbone.digest, model_args=backbone.model_args),
        views=(ViewSpec(name="axial", preprocessing=cut),),
    )
    network = filled(PluginNetwork(spec, backbone))
    save_plugin(path, spec, [network.state_dict()])
    network.close()


if __name__ == "__main__":
    main()
