"""Frozen 2D models through timm: slice embeddings, class attention, and what a class map starts from."""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor, nn

from .attention import AttentionTail, LastAttention, for_and_against
from .catalogue import BackboneEntry, find_backbone
from .errors import BackboneError
from .folding import FoldingConv2d, is_exact
from .lora import AdapterSites, Rows
from .weights import digest_of, load_weights

logger = logging.getLogger(__name__)


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
        product = self.leaf * gradient
        if self.leaf.ndim == 4:
            return for_and_against(product, dim=3 if self.channels_last else 1)
        return for_and_against(product, dim=2)[:, :, self.prefix :].unflatten(2, self.grid)


Tail = AttentionTail | ActivationTail


@dataclasses.dataclass(frozen=True)
class Encoded:
    """What the backbone says of B slices.

    `embedding` [B, D]; `attention` [B, h, w] is the class token's attention to each patch in the last block, mean
    of heads (None for a network without one); `tail` is what a class map is computed from.
    """

    embedding: Tensor
    attention: Tensor | None = None
    tail: Tail | None = None


class Backbone:
    """One frozen 2D model, shared by every plugin that was trained on it."""

    def __init__(
        self,
        model: nn.Module,
        *,
        id: str,  # noqa: A002
        mean: Sequence[float],
        std: Sequence[float],
        model_args: Mapping[str, Any] | None = None,
    ) -> None:
        self.id = id
        # As JSON gives them back, so that a plugin's own record of them can be compared.
        self.model_args = json.loads(json.dumps(dict(model_args or {})))
        self.mean = tuple(float(m) for m in mean)
        self.std = tuple(float(s) for s in std)
        self.digest = digest_of(model)
        self.model = model.eval().requires_grad_(False)
        self.kind = "transformer" if hasattr(model, "blocks") and hasattr(model, "patch_embed") else "cnn"
        # Some CNNs widen the pooled features once more before the classifier.
        self.embed_dim = int(getattr(model, "head_hidden_size", None) or model.num_features)
        if self.kind == "transformer":
            _pool_class_token(model)
        self._attention = LastAttention.of(model) if self.kind == "transformer" else None
        self.folds_grey = _fold_first_layer(model, mean=self.mean, std=self.std)
        if self.kind == "cnn":
            # Convolutions on CPU run about twice as fast when a pixel's channels lie side by side.
            model.to(memory_format=torch.channels_last)
        self._map_layer = None if self.kind == "transformer" else _last_but_one_stage(model)
        self.sites = AdapterSites(model)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.model.parameters()).device

    @property
    def has_class_attention(self) -> bool:
        """Whether `encode` can give the attention of the class token (or of a pooling query)."""
        return self._attention is not None

    @property
    def explains(self) -> bool:
        """Whether maps can be made: not where a class token reads the patches in a way that is not known."""
        return self.has_class_attention or getattr(self.model, "global_pool", "") != "token"

    @property
    def multiple_of(self) -> int:
        """Slices must have a size that this divides: the patch size, or 1 for a CNN."""
        if self.kind == "cnn":
            return 1
        embed = self.model.patch_embed
        # Behind a CNN stem the patches are those of its feature map; `feat_ratio` counts pixels.
        if hasattr(embed, "feat_ratio"):
            return int(embed.feat_ratio())
        if not hasattr(embed, "patch_size"):
            raise BackboneError(f"The model '{self.id}' does not say how large its patches are: choose another.")
        return int(embed.patch_size if isinstance(embed.patch_size, int) else max(embed.patch_size))

    @property
    def fixed_size(self) -> tuple[int, int] | None:
        """The one size (H, W) that slices must have, for the few transformers that take no other."""
        embed = getattr(self.model, "patch_embed", None)
        return tuple(embed.img_size) if getattr(embed, "strict_img_size", False) and embed.img_size else None

    def to(self, device: torch.device | str) -> Backbone:
        """Move the weights."""
        self.model.to(device)
        return self

    def normalise(
        self, slices: Tensor, *, mean: Sequence[float] | None = None, std: Sequence[float] | None = None
    ) -> Tensor:
        """Slices [B, 1 or 3, H, W] in [0, 1] as the first layer takes them: 1 channel where it folds, else 3."""
        mean, std = tuple(mean or self.mean), tuple(std or self.std)
        if slices.shape[1] == 1 and self.folds_grey and mean == self.mean and std == self.std:
            return (slices - mean[0]) / std[0]
        shape = (1, 3, 1, 1)
        m = slices.new_tensor(mean).reshape(shape)
        s = slices.new_tensor(std).reshape(shape)
        return (slices - m) / s

    def encode(
        self,
        slices: Tensor,
        *,
        adapters: Sequence[Rows] = (),
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        attention: bool = False,
        tail: bool = False,
    ) -> Encoded:
        """Embed slices [B, 1 or 3, H, W] in [0, 1].

        `adapters` says which rows of the batch pass through which adapter. `attention` asks for the class
        attention, `tail` for what class maps need; neither changes the embedding. Raises BackboneError if the
        slices' size does not suit the model.
        """
        self._check_size(slices)
        x = self.normalise(slices, mean=mean, std=std)
        if self.kind == "cnn":
            x = x.contiguous(memory_format=torch.channels_last)
        watch = self._attention if self._attention is not None and (attention or tail) else None
        with ExitStack() as stack:
            if adapters:
                stack.enter_context(self.sites.active(adapters, batch=len(slices)))
            seen = stack.enter_context(watch.watching()) if watch else None
            maps = stack.enter_context(_kept(self._map_layer)) if tail and self._map_layer is not None else []
            features = self.model.forward_features(x)
            embedding = self.model.forward_head(features, pre_logits=True)
        grid = slices.shape[2] // self.multiple_of, slices.shape[3] // self.multiple_of
        row = seen.patch_attention(grid) if seen and attention else None
        if not tail:
            return Encoded(embedding, row)
        if seen is not None:
            return Encoded(embedding, row, seen.tail(self.model, grid, _acting(self.sites, adapters)))
        return Encoded(embedding, None, self._activation_tail(maps[0] if maps else features, x, adapters))

    def check_reach(self, key: str) -> None:
        """Raise BackboneError if the adapter `key` sits on a layer that the model does not call."""
        side = -(-32 // self.multiple_of) * self.multiple_of
        height, width = self.fixed_size or (side, side)
        blank = torch.zeros(1, 1, height, width, device=self.device)

        def forward() -> None:
            with torch.no_grad():
                self.encode(blank)

        self.sites.check_reach(key, forward)

    def _activation_tail(self, leaf: Tensor, x: Tensor, adapters: Sequence[Rows]) -> ActivationTail:
        acting = _acting(self.sites, adapters)
        last = self._is_channels_last(leaf)
        if self._map_layer is None:
            # The embedding is an average of tokens.
            def embed(tokens: Tensor) -> Tensor:
                with acting(len(tokens)):
                    return self.model.forward_head(tokens, pre_logits=True)

            grid = x.shape[2] // self.multiple_of, x.shape[3] // self.multiple_of
            return ActivationTail(leaf.detach(), embed, last, grid, getattr(self.model, "num_prefix_tokens", 0))

        def embed_again(features: Tensor) -> Tensor:
            with acting(len(features)), torch.no_grad(), _replaced(self._map_layer, features):
                return self.model.forward_head(self.model.forward_features(x), pre_logits=True)

        grid = tuple(leaf.shape[1:3] if last else leaf.shape[2:4])
        return ActivationTail(leaf.detach(), embed_again, last, grid)

    def _is_channels_last(self, features: Tensor) -> bool:
        return features.ndim == 4 and getattr(self.model, "output_fmt", "NCHW") == "NHWC"

    def _check_size(self, slices: Tensor) -> None:
        if slices.ndim != 4 or slices.shape[1] not in (1, 3):
            raise BackboneError(f"Slices must be [B, 1 or 3, H, W], but are {list(slices.shape)}.")
        height, width = slices.shape[2:]
        if self.fixed_size not in (None, (height, width)):
            wanted = " x ".join(map(str, self.fixed_size))
            raise BackboneError(
                f"Slices of {height} x {width} pixels do not suit '{self.id}': it takes {wanted} alone."
            )
        if height % self.multiple_of or width % self.multiple_of:
            raise BackboneError(
                f"Slices of {height} x {width} pixels do not suit '{self.id}': its patches need a multiple of "
                f"{self.multiple_of}."
            )


@contextmanager
def _nothing() -> Iterator[None]:
    yield


@contextmanager
def _kept(layer: nn.Module) -> Iterator[list[Tensor]]:
    """Within the block, what `layer` gives is kept in the list."""
    outputs: list[Tensor] = []
    handle = layer.register_forward_hook(lambda _, __, output: outputs.append(output))
    try:
        yield outputs
    finally:
        handle.remove()


@contextmanager
def _replaced(layer: nn.Module, output: Tensor) -> Iterator[None]:
    """Within the block, and within `no_grad`, `layer` gives `output`, and gradients are followed from there on."""

    def hook(*_: object) -> Tensor:
        torch.set_grad_enabled(True)
        return output

    handle = layer.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def _last_but_one_stage(model: nn.Module) -> nn.Module | None:
    """The module that gives a CNN's feature map at its last but one resolution, by timm's own list of features."""
    stages = getattr(getattr(model, "feature_info", None), "info", None) or getattr(model, "feature_info", None) or []
    if len(stages) < 2:
        raise BackboneError(f"The model {type(model).__name__} does not list its feature maps: choose another.")
    return model.get_submodule(stages[-2]["module"])


def _acting(sites: AdapterSites, adapters: Sequence[Rows]) -> Callable[[int], object]:
    """Adapters act in the tail as in the forward pass: its rows are the same slices."""

    def context(batch: int) -> object:
        return sites.active(adapters, batch=batch) if adapters else _nothing()

    return context


def _pool_class_token(model: nn.Module) -> None:
    """Read the class token where timm's default averages patch tokens although there is one (DINOv3)."""
    has_class_token = getattr(model, "cls_token", None) is not None
    if has_class_token and model.global_pool == "avg" and isinstance(getattr(model, "fc_norm", None), nn.Identity):
        model.global_pool = "token"


def _fold_first_layer(model: nn.Module, *, mean: Sequence[float], std: Sequence[float]) -> bool:
    first = getattr(model, "pretrained_cfg", {}).get("first_conv")
    if not isinstance(first, str):
        return False
    try:
        conv = model.get_submodule(first)
    except AttributeError:
        return False
    if not is_exact(conv, mean=tuple(mean), std=tuple(std)):
        return False
    parent, _, name = first.rpartition(".")
    setattr(model.get_submodule(parent), name, FoldingConv2d(conv, mean=tuple(mean), std=tuple(std)))
    return True


def create_model(entry: BackboneEntry) -> nn.Module:
    """The timm model of `entry` without weights, without a classifier, for any input size it can take."""
    name, _, tag = entry.timm.partition(".")
    if not timm.is_model(name) or (tag and entry.timm not in timm.list_models(f"{name}.*", pretrained=True)):
        raise BackboneError(f"timm has no model '{entry.timm}': check its name.")
    arguments = {"num_classes": 0, **entry.model_args}
    try:
        # Transformers that can take any size take it when asked; other models do not know the word.
        return timm.create_model(entry.timm, pretrained=False, dynamic_img_size=True, **arguments)
    except TypeError:
        return timm.create_model(entry.timm, pretrained=False, **arguments)


def open_backbone(name: str, *, weights: str | Path | None = None) -> Backbone:
    """The backbone `name` of the catalogue (or 'timm:MODEL') with its weights.

    Raises BackboneError if it is unknown, or its weights are not at hand and `weights` names no file.
    """
    entry = find_backbone(name)
    model = create_model(entry)
    load_weights(model, entry, file=weights)
    return backbone_of(model, entry)


def backbone_of(model: nn.Module, entry: BackboneEntry) -> Backbone:
    """A timm model that has its weights, as the backbone `entry`."""
    cfg = model.pretrained_cfg
    return Backbone(model, id=entry.id, mean=cfg["mean"], std=cfg["std"], model_args=entry.model_args)
