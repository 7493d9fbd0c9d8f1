"""The digest of a backbone's weights, and the file of weights that a Python package brings along."""

from __future__ import annotations

import hashlib
import importlib
import pickle
import re
from collections.abc import Mapping
from pathlib import Path

import safetensors
import torch
from torch import nn

from .catalogue import WeightSource

# Counts batches in training and never changes an output; some files leave it out.
NOT_DIGESTED = "num_batches_tracked"

# What readers raise for a file that is damaged, holds other things, or would have code of its own run.
UNREADABLE = (OSError, EOFError, RuntimeError, ValueError, LookupError, AttributeError, TypeError,
              pickle.UnpicklingError, safetensors.SafetensorError)  # fmt: skip


def digest_of(model: nn.Module) -> str:
    """SHA-256 over the tensors by timm's names, sorted: name, dtype, shape, bytes."""
    result = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        if name.endswith(NOT_DIGESTED):
            continue
        data = tensor.detach().cpu().contiguous()
        result.update(f"{name}|{str(data.dtype).removeprefix('torch.')}|{list(data.shape)}|".encode())
        result.update(data.reshape(-1).view(torch.uint8).numpy().data if data.numel() else b"")
    return "sha256:" + result.hexdigest()


def packaged_file(source: WeightSource) -> Path | None:
    """The file of a `package` source; None where that package is not installed."""
    module_name, _, attributes = source.function.partition(":")
    try:
        found = importlib.import_module(module_name)
    except ImportError:
        return None
    for attribute in attributes.split("."):
        found = getattr(found, attribute)
    return Path(found())


def efficientnet_lite_names(state: Mapping[str, torch.Tensor], model: nn.Module) -> dict[str, torch.Tensor]:
    """The names of the EfficientNet-Lite packages to timm's; other names are left as they are."""
    places = [(stage, block) for stage, blocks in enumerate(model.blocks) for block in range(len(blocks))]
    expanded = {int(n.split(".")[1]) for n in state if "_expand_conv" in n}
    with_expansion = {"_expand_conv": "conv_pw", "_bn0": "bn1", "_depthwise_conv": "conv_dw", "_bn1": "bn2",
                      "_project_conv": "conv_pwl", "_bn2": "bn3"}  # fmt: skip
    without = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
    top = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}
    renamed = {}
    for name, tensor in state.items():
        match = re.fullmatch(r"_blocks\.(\d+)\.(\w+)\.(\w+)", name)
        if match:
            number, layer, leaf = int(match[1]), match[2], match[3]
            stage, block = places[number]
            layers = with_expansion if number in expanded else without
            renamed[f"blocks.{stage}.{block}.{layers[layer]}.{leaf}"] = tensor
        else:
            layer, _, leaf = name.partition(".")
            renamed[f"{top.get(layer, layer)}.{leaf}"] = tensor
    return renamed
