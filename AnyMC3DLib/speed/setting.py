"""What is measured: a backbone with random weights, plugins on it, and a volume. Speed does not depend on values."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from ..backbone import Backbone
from ..catalogue import find_backbone
from ..model import PluginNetwork
from ..opening import backbone_of, create_model
from ..plugin import save_plugin
from ..prediction import Study
from ..spec import (
    BackboneRef,
    ClassSpec,
    IntensitySpec,
    LoRASpec,
    PluginSpec,
    PreprocessingSpec,
    SliceSpec,
    ViewSpec,
)
from ..volume import Volume

SIZE = 224
LARGEST_VALUE = 1000.0


def random_backbone(model: str, *, device: torch.device | str = "cpu") -> Backbone:
    """The timm model with the weights that seed 0 gives it."""
    entry = find_backbone(f"timm:{model}")
    torch.manual_seed(0)
    return backbone_of(create_model(entry), entry).to(device)


def write_weights(backbone: Backbone, path: Path) -> Path:
    """The backbone's weights as a file, so that another process can open it."""
    save_file({name: tensor.contiguous() for name, tensor in backbone.model.state_dict().items()}, path)
    return path


def plugin_spec(
    backbone: Backbone,
    name: str,
    *,
    slices: int,
    classes: Sequence[str] = ("normal", "lesion"),
    last_blocks: int | None = None,
    task_type: str = "binary",
) -> PluginSpec:
    """A plugin with one axial view. All blocks and the patch embedding are adapted, or the last blocks alone."""
    preprocessing = PreprocessingSpec(
        size=(SIZE, SIZE),
        mean=backbone.mean,
        std=backbone.std,
        multiple_of=backbone.multiple_of,
        intensity=IntensitySpec(kind="window", windows=((LARGEST_VALUE / 2, LARGEST_VALUE),)),
        slices=SliceSpec(policy="at_most", count=slices),
    )
    return PluginSpec(
        name=name,
        task_type=task_type,
        classes=tuple(ClassSpec(name=c) for c in classes),
        backbone=BackboneRef(
            id=backbone.id,
            digest=backbone.digest,
            model_args=backbone.model_args,
            architecture=backbone.architecture,
        ),
        views=(ViewSpec(name="axial", preprocessing=preprocessing),),
        lora=LoRASpec(last_blocks=last_blocks, targets=("attention",) if last_blocks else ()),
    )


def filled(network: PluginNetwork, seed: int = 0) -> PluginNetwork:
    """The network with small random values, the same for a name and seed in every process; no pair is at zero."""
    with torch.no_grad():
        for name, tensor in network.state_dict().items():
            tensor.copy_(values_of(f"{seed}.{name}", tensor.shape))
    return network.eval()


def values_of(name: str, shape: Sequence[int]) -> Tensor:
    """Normal values with a spread of 0.02 that belong to a name."""
    generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
    return 0.02 * torch.randn(tuple(shape), generator=generator)


def write_plugins(backbone: Backbone, folder: Path, count: int, **fields: object) -> list[Path]:
    """Files of `count` plugins that differ in their values."""
    paths = []
    for number in range(count):
        spec = plugin_spec(backbone, f"plugin {number}", **fields)
        network = filled(PluginNetwork(spec, backbone), number)
        paths.append(folder / f"{number}-{fields.get('last_blocks')}.safetensors")
        save_plugin(paths[-1], spec, [network.state_dict()])
        network.close()
    return paths


def random_study(*shape: int) -> Study:
    """A study of one image [k, j, i] of noise, 1 mm voxels."""
    values = np.random.default_rng(0).integers(0, int(LARGEST_VALUE), shape, dtype=np.int16)
    return Study({"image": Volume(values, np.eye(4), name="the volume")})
