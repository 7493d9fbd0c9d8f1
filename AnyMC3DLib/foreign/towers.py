"""What the converters of networks with stages share: an image tower within a larger file, and lists in configs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..errors import BackboneError
from .checkpoint import Checkpoint
from .layout import Layout


def prefix_of(checkpoint: Checkpoint, name: str, prefixes: Iterable[str]) -> str | None:
    """The first of `prefixes` under which the file holds the tensor `name`, or None."""
    return next((prefix for prefix in prefixes if f"{prefix}{name}" in checkpoint.tensors), None)


def tower(
    checkpoint: Checkpoint, prefix: str, beside: tuple[str, ...], *, layout: Layout
) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """The tensors below `prefix` by the rest of their names, and the names of all others.

    Raises BackboneError for a tensor elsewhere that does not begin with one of `beside`.
    """
    others = tuple(name for name in checkpoint.tensors if not name.startswith(prefix))
    odd = [name for name in others if not name.startswith(beside)] if others else []
    if odd:
        raise BackboneError(
            f"The tensor '{odd[0]}' does not belong to {layout.family} in the layout of {layout.library}: give the "
            "file as it was published."
        )
    return dict(checkpoint.without_prefix(prefix).tensors), others


def whole_number(config: Mapping[str, Any], field: str, default: int) -> int:
    """A whole number above 0 of the config, or the default where it is absent."""
    return whole_numbers({field: [config.get(field, default)]}, field, [default])[0]


def whole_numbers(config: Mapping[str, Any], field: str, default: Sequence[int], *, least: int = 1) -> list[int]:
    """A list of whole numbers from `least` on in the config, or the default where it is absent."""
    value = config.get(field)
    value = list(default) if value is None else value
    sound = isinstance(value, (list, tuple)) and all(type(n) is int and least <= n < 1 << 20 for n in value)
    if not sound:
        raise BackboneError(f"The config's '{field}' is {value!r}, not whole numbers: get the config again.")
    return list(value)


def agree(config: Mapping[str, Any], expected: Mapping[str, Any], *, layout: Layout) -> None:
    """Raise BackboneError where the config states another value than the one that timm's network has built in."""
    for field, value in expected.items():
        stated = config.get(field, value)
        stated = list(stated) if isinstance(stated, tuple) else stated
        if stated is not None and stated != value:
            raise BackboneError(
                f"The config's '{field}' is {stated!r}, but timm's {layout.family} has {value!r} alone: these weights "
                "cannot be read."
            )


def divided(heads: Sequence[int], widths: Sequence[int]) -> list[int]:
    """The attention heads of each stage; raises BackboneError unless they divide its width."""
    if len(heads) != len(widths) or any(h < 1 or w % h for h, w in zip(heads, widths, strict=True)):
        raise BackboneError(
            f"{list(heads)} attention heads do not divide the widths {list(widths)}: get the file's config again."
        )
    return list(heads)


def add_plain_norm(tensors: dict[str, Tensor], name: str, width: int) -> None:
    """Give timm's network the norm that the weights lack, so that it only standardises, where it is absent."""
    if f"{name}.weight" not in tensors:
        tensors[f"{name}.weight"], tensors[f"{name}.bias"] = torch.ones(width), torch.zeros(width)
