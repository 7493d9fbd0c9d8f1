"""What tests of the shell need: tiny backbones that the shell finds by name, data to train on, and the command."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from networks import timm_model
from safetensors.torch import save_file

from AnyMC3DLib.backbone import Backbone
from AnyMC3DLib.catalogue import BackboneEntry
from AnyMC3DLib.cli import main
from AnyMC3DLib.opening import backbone_of

SHAPE = (8, 24, 24)


def findable_backbone(folder: Path, name: str = "test_vit", *, seed: int = 0) -> tuple[Backbone, Path]:
    """A random backbone called 'timm:NAME', and the file of its weights for --weights."""
    model = timm_model(name, seed=seed)
    weights = folder / f"{name}-{seed}.safetensors"
    save_file({key: tensor.clone().contiguous() for key, tensor in model.state_dict().items()}, weights)
    return backbone_of(model, BackboneEntry(id=f"timm:{name}", timm=name)), weights


def anymc3d(*arguments: str | Path) -> int:
    """Run the command in this process and return its exit code, that of a usage error too."""
    try:
        return main([str(argument) for argument in arguments])
    except SystemExit as stopped:
        return int(stopped.code or 0)


def blob_images(
    counts: Sequence[int], *, seed: int = 0, shape: Sequence[int] = SHAPE
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """Noise [N, *shape], and the label of each image: 1 has a bright block, 0 none. `counts` is (without, with)."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.repeat([0, 1], counts))
    images = rng.integers(0, 60, (len(labels), *shape)).astype(np.uint8)
    for image, label in zip(images, labels, strict=True):
        if label:
            place = [int(rng.integers(0, n // 2)) for n in shape]
            image[tuple(slice(p, p + n // 2) for p, n in zip(place, shape, strict=True))] += 150
    return images, labels[:, None]


def write_medmnist(path: Path, *, shape: Sequence[int] = SHAPE, **changed: npt.NDArray | None) -> Path:
    """A MedMNIST file of `blob_images`; `changed` replaces arrays, or leaves out those that are None."""
    arrays: dict[str, npt.NDArray] = {}
    for seed, (split, counts) in enumerate({"train": (6, 6), "val": (4, 4), "test": (5, 5)}.items()):
        arrays[f"{split}_images"], arrays[f"{split}_labels"] = blob_images(counts, seed=seed, shape=shape)
    arrays = {name: array for name, array in {**arrays, **changed}.items() if array is not None}
    np.savez(path, **arrays)
    return path
