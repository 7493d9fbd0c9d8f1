"""The feature map of a CNN (or the averaged tokens of a transformer), and the way from it to the embedding."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from timm.models.hiera import Hiera
from timm.models.vision_transformer_sam import VisionTransformerSAM
from torch import Tensor, nn

from .attention import for_and_against
from .errors import BackboneError


@dataclasses.dataclass(frozen=True)
class MapLayout:
    """How features lie on the slice: a map [B, C, h, w] or [B, h, w, C], or tokens [B, prefix + h w, C].

    `order` [h w] says which token is that of each place, row by row, where tokens do not run so themselves.
    """

    channels_last: bool
    grid: tuple[int, int]
    prefix: int = 0
    order: Tensor | None = None

    def placed(self, values: Tensor) -> Tensor:
        """Values of tokens [..., prefix + h w] at their places [..., h, w]."""
        values = values[..., self.prefix :]
        if self.order is not None:
            values = values[..., self.order.to(values.device)]
        return values.unflatten(-1, self.grid)

    def as_map(self, features: Tensor) -> Tensor:
        """The features as a map [B, C, h, w]."""
        if features.ndim == 3:
            return self.placed(features.transpose(1, 2))
        return features.permute(0, 3, 1, 2) if self.channels_last else features


@dataclasses.dataclass(frozen=True)
class ActivationTail:
    """A feature map and the way from it to the embedding: a class map is map times gradient, element by element.

    At a CNN's last but one resolution (LayerCAM, Jiang et al. 2021): a unit of the last map sees most of the slice,
    and after training it answers for a lesion wherever that lies; one stage before it answers for its own place.
    """

    leaf: Tensor
    embed: Callable[[Tensor], Tensor]
    layout: MapLayout

    @property
    def grid(self) -> tuple[int, int]:
        """The map's height and width."""
        return self.layout.grid

    def contributions(self, gradient: Tensor) -> Tensor:
        """What speaks for and against, per patch [2, B, h, w], both >= 0, for what the gradient is of."""
        product = self.leaf.to(gradient.dtype) * gradient
        if self.leaf.ndim == 4:
            return for_and_against(product, dim=3 if self.layout.channels_last else 1)
        return self.layout.placed(for_and_against(product, dim=2))


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
    """The module that gives the feature map at the last but one resolution, by timm's own list of features.

    A network of one resolution alone gives its last map.
    """
    return _last_but_one(model)[0]


def map_width(model: nn.Module) -> int:
    """How many features the map of `last_but_one_stage` has."""
    return _last_but_one(model)[1]


def layout_of(model: nn.Module, features: Tensor) -> MapLayout:
    """How the features that `last_but_one_stage` gives lie on the slice."""
    if features.ndim == 4:
        last = getattr(model, "output_fmt", "NCHW") == "NHWC"
        return MapLayout(last, tuple(features.shape[1:3] if last else features.shape[2:4]))
    if not isinstance(model, Hiera):
        raise BackboneError(
            f"The model {type(model).__name__} gives tokens in an order that is not known: choose another."
        )
    # Tokens stand window by window; rolling their numbers tells where each belongs.
    numbers = torch.arange(features.shape[1], device=features.device)[None, :, None]
    rolled = model.reroll(numbers, int(last_but_one_stage(model).rpartition(".")[2]))
    return MapLayout(False, tuple(rolled.shape[1:3]), order=rolled.flatten())


def _last_but_one(model: nn.Module) -> tuple[str, int]:
    if isinstance(model, VisionTransformerSAM):
        return "neck", int(model.num_features)
    stages = getattr(getattr(model, "feature_info", None), "info", None) or getattr(model, "feature_info", None) or []
    if len(stages) < 2:
        raise BackboneError(f"The model {type(model).__name__} does not list its feature maps: choose another.")
    return stages[-2]["module"], int(stages[-2]["num_chs"])
