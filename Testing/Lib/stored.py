"""Small weights as they come from elsewhere, and a folder of installed backbones for a test alone."""

from __future__ import annotations

from pathlib import Path

import torch
from foreign_models import randomised, saved
from torch import Tensor, nn

SIZE = 28


def dinov2_model(*, seed: int = 0) -> nn.Module:
    """A small random DINOv2 of the Transformers library."""
    from transformers import Dinov2Config, Dinov2Model

    config = Dinov2Config(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=SIZE, patch_size=14, mlp_ratio=2
    )
    return randomised(Dinov2Model(config), seed=seed)


def dinov2_folder(folder: Path, *, seed: int = 0) -> Path:
    """Its folder, as on the hub: model.safetensors and config.json."""
    return saved(dinov2_model(seed=seed), folder)


def tensors_of(folder: Path) -> dict[str, Tensor]:
    """The tensors of a folder's file by their names."""
    from safetensors.torch import load_file

    return load_file(folder / "model.safetensors")


def small_vit(*, seed: int = 0) -> nn.Module:
    """A small random network of timm's."""
    import timm

    torch.manual_seed(seed)
    return timm.create_model("test_vit", num_classes=0).eval()
