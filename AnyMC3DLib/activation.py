"""The feature map of a CNN (or the averaged tokens of a transformer), and the way from it to the embedding."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from .attention import for_and_against
from .errors import BackboneError


@dataclasses.dataclass(frozen=True)
class ActivationTail:
    """A feature map and the way from it to the embedding: a class map is map times gradient, element by element.

    At a CNN's last but one resolution (LayerCAM, Jiang et al. 2021): a unit of the last map sees most of the slice,
    and after training it answers for a lesion wherever that lies; one stage before it answers for its own place.
    """

    leaf: Tensor
    embed: Callable[[Tensor], Tensor]
    channels_last: bool
    grid: tuple[int, int]
    prefix: int = 0

    def contributions(self, gradient: Tensor) -> Tensor:
        """What speaks for and against, per patch [2, B, h, w], both >= 0, for what the gradient is of."""
        product = self.leaf.to(gradient.dtype) * gradient
        if self.leaf.ndim == 4:
            return for_and_against(product, dim=3 if self.channels_last else 1)
        return for_and_against(product, dim=2)[:, :, self.prefix :].unflatten(2, self.grid)


@contextmanager
def kept(layer: nn.Module) -> Iterator[list[Tensor]]:
    """Within the block, what `layer` gives is kept in the list."""
    outputs: list[Tensor] = []
    handle = layer.register_forward_hook(lambda _, __, output: outputs.append(output))
    try:
        yield outputs
    finally:
        handle.remove()


@contextmanager
def replaced(layer: nn.Module, output: Tensor) -> Iterator[None]:
    """Within the block, and within `no_grad`, `layer` gives `output`, and gradients are followed from there on."""

    def hook(*_: object) -> Tensor:
        torch.set_grad_enabled(True)
        return output

    handle = layer.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def last_but_one_stage(model: nn.Module) -> str:
    """The module that gives a CNN's feature map at its last but one resolution, by timm's own list of features."""
    stages = getattr(getattr(model, "feature_info", None), "info", None) or getattr(model, "feature_info", None) or []
    if len(stages) < 2:
        raise BackboneError(f"The model {type(model).__name__} does not list its feature maps: choose another.")
    return stages[-2]["module"]
