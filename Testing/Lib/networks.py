"""Small random backbones, plugin specs and networks. No weights are downloaded."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from AnyMC3DLib.backbone import Backbone
from AnyMC3DLib.catalogue import BackboneEntry
from AnyMC3DLib.model import PluginNetwork
from AnyMC3DLib.opening import backbone_of, create_model
from AnyMC3DLib.plugin import save_plugin
from AnyMC3DLib.spec import (
    BackboneRef,
    ClassSpec,
    FusionSpec,
    HeadSpec,
    IntensitySpec,
    LoRASpec,
    PluginSpec,
    PreprocessingSpec,
    SliceSpec,
    ViewSpec,
)

DINOV3: dict[str, Any] = {"depth": 2, "embed_dim": 48, "num_heads": 3}
# One of every kind that a backbone can be: timm's name and the arguments that make it small.
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "class token": ("test_vit", {"depth": 2}),
    "registers": ("test_vit", {"depth": 2, "reg_tokens": 3}),
    "norms within attention": (
        "test_vit",
        {"depth": 2, "qk_norm": True, "scale_attn_norm": True, "scale_mlp_norm": True, "init_values": 0.1},
    ),
    "average of tokens": ("test_vit2", {"depth": 2}),
    "pooling query over all tokens": ("test_vit3", {"depth": 2}),
    "pooling query over patches": ("test_vit", {"depth": 2, "reg_tokens": 1, "global_pool": "map"}),
    "DINOv3": ("vit_small_patch16_dinov3", DINOV3),
    "ResNet": ("test_resnet", {}),
    "EfficientNet": ("test_efficientnet", {}),
    "ConvNeXt": ("test_convnext", {}),
    "wide pooled features": ("mobilenetv3_small_050", {}),
}
WITH_CLASS_ATTENTION = [
    "class token",
    "registers",
    "norms within attention",
    "pooling query over all tokens",
    "pooling query over patches",
    "DINOv3",
]
SIZES = [(32, 48), (64, 64), (96, 32)]


def shaken(model: nn.Module, seed: int = 0) -> nn.Module:
    """The model with every statistic, scale and offset away from the zeros and ones that hide errors."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if not tensor.is_floating_point():
                continue
            noise = torch.randn(tensor.shape, generator=generator)
            if name.endswith("running_var"):
                tensor.copy_(0.5 + noise.abs())
            elif name.endswith("running_mean"):
                tensor.copy_(0.3 * noise)
            elif tensor.ndim <= 1:  # weights and offsets of norms, offsets, layer scales
                tensor.copy_((0.7 if "bias" not in name else 0.0) + 0.3 * noise)
            elif name.endswith(("cls_token", "reg_token", "pos_embed", "latent")):
                tensor.copy_(0.5 * noise)
    return model


def timm_model(name: str = "test_vit", *, seed: int = 0, **model_args: Any) -> nn.Module:
    """The timm model itself, random, as the backbone gets it."""
    torch.manual_seed(seed)
    return shaken(create_model(BackboneEntry(id=name, timm=name, model_args=model_args)).eval(), seed)


def tiny_backbone(name: str = "test_vit", *, seed: int = 0, **model_args: Any) -> Backbone:
    """A small random backbone."""
    entry = BackboneEntry(id=name, timm=name, model_args=model_args)
    return backbone_of(timm_model(name, seed=seed, **model_args), entry)


def backbone_of_kind(kind: str) -> Backbone:
    """The backbone called `kind` in KINDS."""
    name, model_args = KINDS[kind]
    return tiny_backbone(name, **model_args)


def grey_slices(count: int, size: Sequence[int] = (32, 48), *, seed: int = 1, channels: int = 1) -> Tensor:
    """Random slices [count, channels, H, W] in [0, 1]."""
    return torch.rand(count, channels, *size, generator=torch.Generator().manual_seed(seed))


def view(
    backbone: Backbone, name: str = "axial", *, source: str = "image", size: tuple[int, int] = (32, 48), **fields: Any
) -> ViewSpec:
    """A view along the axis `name` (what stands before a dash) with the backbone's normalisation."""
    fields = {"axis": name.partition("-")[0], "slices": SliceSpec(policy="at_most", count=4), **fields}
    fields.setdefault("intensity", IntensitySpec(kind="window", windows=((0.0, 2000.0),)))
    preprocessing = PreprocessingSpec(size=size, mean=backbone.mean, std=backbone.std, **fields)
    return ViewSpec(name=name, source=source, preprocessing=preprocessing)


def plugin_spec(backbone: Backbone, **fields: Any) -> PluginSpec:
    """A binary plugin with one axial view and LoRA of rank 2, with other `fields` where given."""
    task = fields.get("task_type", "binary")
    names = ("normal", "lesion") if task == "binary" else ("normal", "mild", "severe")
    defaults: dict[str, Any] = {
        "name": "Test",
        "task_type": task,
        "classes": tuple(ClassSpec(name=name) for name in names),
        "backbone": BackboneRef(
            id=backbone.id,
            digest=backbone.digest,
            model_args=backbone.model_args,
            architecture=backbone.architecture,
        ),
        "views": (view(backbone),),
        "lora": LoRASpec(rank=2, alpha=3.0),
        "fusion": FusionSpec(),
        "head": HeadSpec(),
    }
    return PluginSpec(**{**defaults, **fields})


def three_views(backbone: Backbone, **fields: Any) -> tuple[ViewSpec, ...]:
    """Axial, coronal and sagittal slices of the same image."""
    return tuple(view(backbone, name, **fields) for name in ("axial", "coronal", "sagittal"))


def randomised(network: PluginNetwork, seed: int = 3) -> PluginNetwork:
    """The network as after a training: no zero stays where an adapter, a query or the head had one."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in network.state_dict().items():
            scale = 0.2 if name.endswith((".A", ".B")) else 1.0
            noise = scale * torch.randn(tensor.shape, generator=generator)
            tensor.copy_(noise.abs() + 0.5 if name.startswith("scale_") else noise)
    return network.eval()


def tiny_network(backbone: Backbone, *, seed: int = 3, **fields: Any) -> PluginNetwork:
    """A plugin's network that is no longer fresh."""
    return randomised(PluginNetwork(plugin_spec(backbone, **fields), backbone), seed)


def write_plugin(path: Path, backbone: Backbone, *, seed: int = 3, **fields: Any) -> Path:
    """A plugin file of random members; nothing of it stays on the backbone."""
    spec = plugin_spec(backbone, **fields)
    members = []
    for number in range(spec.members):
        network = randomised(PluginNetwork(spec, backbone), seed + number)
        members.append({name: tensor.clone() for name, tensor in network.state_dict().items()})
        network.close()
    save_plugin(path, spec, members)
    return path
