"""What several commands need: the device, the backbone of a plugin, lists."""

from __future__ import annotations

from pathlib import Path

import torch

from ..backbone import Backbone
from ..errors import InputError
from ..identity import open_for
from ..opening import open_backbone
from ..spec import PluginSpec


def choose_device(name: str) -> torch.device:
    """The device called `name`; 'auto' is CUDA, then Apple's GPU, then the CPU."""
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        # A value is read back, because the device 'meta' takes tensors and holds nothing.
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError, NotImplementedError, ImportError) as error:
        raise InputError(f"The device '{name}' is not here: choose another, or 'auto'.") from error
    return device


def backbone_for(name: str, *, weights: str | Path | None, device: str) -> Backbone:
    """The backbone `name` on its device."""
    chosen = choose_device(device)
    return open_backbone(name, weights=weights).to(chosen)


def backbone_of_plugin(
    spec: PluginSpec, *, weights: str | Path | None, device: str, name: str | None = None
) -> Backbone:
    """The backbone that a plugin was trained on, or that called `name`, on its device."""
    chosen = choose_device(device)
    return open_for(spec, name=name, weights=weights).to(chosen)


def split_list(text: str) -> list[str]:
    """'train,val' as a list; '' as an empty one."""
    return [part.strip() for part in text.split(",") if part.strip()]
