"""What a layout of weights must tell, and the tools that converting needs."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor

from ..architecture import Architecture
from ..errors import BackboneError
from .checkpoint import Checkpoint


@dataclasses.dataclass(frozen=True)
class Network:
    """A published network: its name, and the width and the heads of its first stage; `depth` counts all blocks."""

    name: str
    width: int
    depth: int
    heads: int


@dataclasses.dataclass(frozen=True)
class Converted:
    """Weights in timm's names, for the network that `architecture` names.

    `dropped` are the file's names of what the layout is known to hold besides, such as a text tower. `assumed` is
    the published network that these weights are taken to be of, where nothing states what tensors do not tell.
    """

    architecture: Architecture
    tensors: dict[str, Tensor]
    dropped: tuple[str, ...] = ()
    assumed: Network | None = None


class Layout(Protocol):
    """How one library keeps the weights of one family."""

    family: str
    library: str

    def matches(self, checkpoint: Checkpoint) -> bool:
        """Whether the file's names and config are this layout's; cheap, and false for every other layout's."""

    def convert(self, checkpoint: Checkpoint) -> Converted:
        """The weights in timm's names; raises BackboneError for a tensor that the layout does not know."""


@dataclasses.dataclass(frozen=True)
class Rule:
    """Names that match the whole of `pattern` become `name` (with groups, as in `re.sub`), or are left out for None."""

    pattern: str
    name: str | None


def rename(
    tensors: Mapping[str, Tensor], rules: Sequence[Rule], *, layout: Layout
) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Tensors under new names by the first rule that matches each, and the names left out.

    Raises BackboneError for a name that no rule knows, or two that become one.
    """
    compiled = [(re.compile(rule.pattern), rule.name) for rule in rules]
    renamed: dict[str, Tensor] = {}
    dropped = []
    # A tensor that is left out may be large, and is not read.
    for name in tensors:
        found = next(((m, new) for pattern, new in compiled if (m := pattern.fullmatch(name))), None)
        if found is None:
            raise BackboneError(
                f"The tensor '{name}' does not belong to {layout.family} in the layout of {layout.library}: give the "
                "file as it was published."
            )
        match, new = found
        if new is None:
            dropped.append(name)
            continue
        target = match.expand(new)
        if target in renamed:
            raise BackboneError(f"The file holds '{target}' twice, under two names: give the file as it was published.")
        renamed[target] = tensors[name]
    return renamed, tuple(dropped)


def join(tensors: dict[str, Tensor], parts: Iterable[str], into: str) -> None:
    """Replace `parts`, such as the weights of query, key and value, by one tensor, stacked along the first axis."""
    names = list(parts)
    missing = [name for name in names if name not in tensors]
    if len(missing) == len(names):
        return
    if missing:
        raise BackboneError(f"The file lacks the tensor '{missing[0]}': get the file again.")
    tensors[into] = torch.cat([tensors.pop(name) for name in names])


def need(tensors: Mapping[str, Tensor], name: str, *, ndim: int) -> Tensor:
    """The tensor `name`; raises BackboneError if it is missing or has another number of axes."""
    if name not in tensors:
        raise BackboneError(f"The file lacks the tensor '{name}': get the file again.")
    if tensors[name].ndim != ndim:
        raise BackboneError(
            f"The tensor '{name}' has the shape {list(tensors[name].shape)}, where {ndim} axes are needed: get the "
            "file again."
        )
    return tensors[name]


def count(tensors: Iterable[str], pattern: str) -> int:
    """How many numbers the first group of `pattern` takes in the names, which must run from 0 without a gap."""
    numbers = {int(match[1]) for name in tensors if (match := re.match(pattern, name))}
    # Not up to the largest number, which a name may make as large as it likes.
    gap = min(set(range(len(numbers))) - numbers, default=None)
    if gap is not None:
        raise BackboneError(f"The file lacks part {gap} of {max(numbers) + 1}: get the file again.")
    return len(numbers)
