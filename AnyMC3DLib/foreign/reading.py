"""From a file or folder of weights to timm's network that holds them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from ..architecture import Architecture
from ..building import build_network
from ..errors import BackboneError
from ..weights import NOT_DIGESTED
from .checkpoint import Checkpoint, read_checkpoint
from .layout import Converted, Layout
from .layouts import recognise

# How the names of learned tensors end.
WEIGHTS = ("weight", "bias", "token", "tokens", "embed", "embedding", "embeddings", "gamma", "lambda1")
LONGEST_MESSAGE = 500


@dataclasses.dataclass(frozen=True)
class ForeignWeights:
    """timm's network with the weights of `checkpoint`, and how they were understood.

    `notes` are sentences on what nobody stated and was assumed.
    """

    model: nn.Module
    architecture: Architecture
    layout: Layout
    checkpoint: Checkpoint
    dropped: tuple[str, ...]
    notes: tuple[str, ...] = ()


def read_weights(place: str | Path, *, layout: Layout | None = None, part: str = "") -> ForeignWeights:
    """Read a file or folder of weights in `layout`, or in whichever known layout it has.

    `part` is which of the networks to read of a file that a training program saved.
    Raises BackboneError if it cannot be read safely, its layout is not known, or a tensor is missing, left over or
    of another shape than the network's.
    """
    file = Path(place).name
    try:
        return _read(place, layout, part)
    except BackboneError as error:
        raise BackboneError(_presentable(str(error))) from error
    except MemoryError as error:
        raise BackboneError(_presentable(f"The memory is not enough for '{file}': close other programs.")) from error
    except Exception as error:  # names and configs that are made up lead to any failure
        raise BackboneError(
            _presentable(
                f"The tensors and the config of '{file}' do not fit together: get the file and its config again."
            )
        ) from error


def _read(place: str | Path, layout: Layout | None, part: str) -> ForeignWeights:
    checkpoint = read_checkpoint(place, part=part)
    for name in checkpoint.tensors:
        # Joined or added to others they would become numbers of the right type.
        if name.endswith(WEIGHTS) and not checkpoint.dtype_of(name).is_floating_point:
            raise BackboneError(f"The tensor '{name}' holds no fractions: give the weights as they were trained.")
    layout = layout or recognise(checkpoint)
    converted = layout.convert(checkpoint)
    model = _filled(converted, of=f"{layout.family} of {layout.library}")
    notes = checkpoint.notes
    if converted.assumed:
        name = converted.assumed.name
        notes += (f"Its network is assumed to be that of {name}, since no config.json lies beside the weights.",)
    return ForeignWeights(model, converted.architecture, layout, checkpoint, converted.dropped, notes)


def _filled(converted: Converted, *, of: str) -> nn.Module:
    _check_colours(converted.architecture)
    # Without memory at first: a small file may describe a network of any size.
    with torch.device("meta"):
        skeleton = build_network(converted.architecture)
    check_tensors(skeleton, converted.tensors, of=of)
    model = build_network(converted.architecture).eval()
    load_exactly(model, converted.tensors, of=of)
    return model


def check_tensors(model: nn.Module, tensors: Mapping[str, Tensor], *, of: str) -> None:
    """Raise BackboneError that names the first tensor that `model` lacks, does not know, or has in another shape."""
    wanted = model.state_dict()
    missing = [n for n in wanted if n not in tensors and not n.endswith(NOT_DIGESTED)]
    unused = [n for n in tensors if n not in wanted]
    misshapen = [n for n in wanted if n in tensors and wanted[n].shape != tensors[n].shape]
    untyped = [n for n in wanted if n in tensors and wanted[n].is_floating_point() != tensors[n].is_floating_point()]
    for problem, names in (
        ("lack", missing),
        ("hold besides", unused),
        ("hold in another shape", misshapen),
        ("hold in another type of numbers", untyped),
    ):
        if names:
            raise BackboneError(
                f"The weights are not those of {of}: they {problem} {len(names)} tensors, such as '{names[0]}'; get "
                "the file again."
            )


def load_exactly(model: nn.Module, tensors: Mapping[str, Tensor], *, of: str) -> None:
    """Fill `model` in float32 with exactly these tensors; raises BackboneError that names the first odd one."""
    check_tensors(model, tensors, of=of)
    wanted = model.state_dict()
    # One by one: a copy of all of them in float32 would be as large as the network.
    for name, tensor in tensors.items():
        values = tensor.to(wanted[name].dtype)
        if values.is_floating_point() and not torch.isfinite(values).all():
            raise BackboneError(f"The tensor '{name}' holds values that are not finite: get the file again.")
        with torch.no_grad():
            wanted[name].copy_(values)


def _check_colours(architecture: Architecture) -> None:
    numbers = (*architecture.mean, *architecture.std)
    if not all(math.isfinite(number) and abs(number) < 1e6 for number in numbers) or min(architecture.std) <= 0:
        raise BackboneError(
            f"The normalisation of colours is no usable one (mean {architecture.mean}, standard deviation "
            f"{architecture.std}): get the processor's file again."
        )


def _presentable(message: str) -> str:
    """One line of printable text: names and values in it come from a file that anyone may have made."""
    line = "".join(c if c.isprintable() else " " for c in message)
    if len(line) > LONGEST_MESSAGE:
        line = f"{line[: LONGEST_MESSAGE - 100]} ... {line[-90:]}"
    return line
