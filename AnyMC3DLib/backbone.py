"""Frozen 2D models through timm: slice embeddings, class attention, and what a class map starts from."""

from __future__ import annotations

import dataclasses
import functools
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from .activation import ActivationTail, MapLayout, kept, last_but_one_stage, layout_of, replaced
from .architecture import Architecture
from .attention import AttentionTail, LastAttention
from .entrances import Entrances, Stage, without_memory
from .errors import BackboneError
from .folding import FoldingConv2d, is_exact
from .kinds import fixed_size, kind_of, multiple_of
from .lora import AdapterSites, Rows
from .precision import LoweredWeights
from .weights import digest_of

logger = logging.getLogger(__name__)


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
        architecture: Architecture | None = None,
    ) -> None:
        self.id = id
        self.architecture = architecture
        # As JSON gives them back, so that a plugin's own record of them can be compared.
        self.model_args = json.loads(json.dumps(dict(model_args or {})))
        self.mean = tuple(float(m) for m in mean)
        self.std = tuple(float(s) for s in std)
        self.digest = digest_of(model)
        self.model = model.eval().requires_grad_(False)
        _call_joint_projections(model)
        self.kind = kind_of(model)
        # Some CNNs widen the pooled features once more before the classifier.
        self.embed_dim = int(getattr(model, "head_hidden_size", None) or model.num_features)
        if self.kind == "transformer":
            _pool_class_token(model)
        self._attention = LastAttention.of(model) if self.kind == "transformer" else None
        self.folds_grey = _fold_first_layer(model, mean=self.mean, std=self.std)
        if self.kind == "cnn":
            # Convolutions on CPU run about twice as fast when a pixel's channels lie side by side.
            model.to(memory_format=torch.channels_last)
        self._map_layer = None if self.kind == "transformer" else last_but_one_stage(model)
        self.sites = AdapterSites(model)
        self._lowered: LoweredWeights | None = None

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.model.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """The precision of the weights now."""
        return self._lowered.dtype if self._lowered is not None else next(self.model.parameters()).dtype

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
        return multiple_of(self.model, id=self.id)

    @property
    def fixed_size(self) -> tuple[int, int] | None:
        """The one size (H, W) that slices must have, for the few networks that take no other."""
        if self.architecture is not None and self.architecture.positions.kind == "fixed":
            return self.architecture.input_size
        return fixed_size(self.model)

    def to(self, device: torch.device | str) -> Backbone:
        """Move the weights."""
        self.model.to(device)
        return self

    def set_precision(self, dtype: torch.dtype) -> None:
        """Hold the weights in `dtype` from now on; float32 gives back the very weights that were loaded."""
        if dtype == self.dtype:
            return
        if self._lowered is not None:
            self._lowered.restore()
            self._lowered = None
        if dtype != torch.float32:
            self._lowered = LoweredWeights(self.model, dtype)

    @functools.cached_property
    def entrances(self) -> Entrances:
        """Where the network can be entered late."""
        return Entrances(self.model, self._run, self.normalise(self._blank()))

    def entrance(self, layers: Sequence[str]) -> int:
        """The last unit to enter at so that all `layers`, and all that maps are read from, still lie ahead."""
        watched = self._attention.layers if self._attention is not None else [self._map_layer]
        ahead = [self.entrances.unit_of(name) for name in (*layers, *watched) if name is not None]
        return self.entrances.nearest(min(ahead, default=0))

    def _run(self, x: Tensor) -> Tensor:
        return self.model.forward_head(self.model.forward_features(x), pre_logits=True)

    def normalise(
        self, slices: Tensor, *, mean: Sequence[float] | None = None, std: Sequence[float] | None = None
    ) -> Tensor:
        """Slices [B, 1 or 3, H, W] in [0, 1] as the first layer takes them: 1 channel where it folds, else 3."""
        mean, std = tuple(mean or self.mean), tuple(std or self.std)
        if slices.shape[1] == 1 and self.folds_grey and mean == self.mean and std == self.std:
            return self._ready((slices - mean[0]) / std[0])
        shape = (1, 3, 1, 1)
        m = slices.new_tensor(mean).reshape(shape)
        s = slices.new_tensor(std).reshape(shape)
        return self._ready((slices - m) / s)

    def _ready(self, x: Tensor) -> Tensor:
        x = x.to(self.dtype)
        return x.contiguous(memory_format=torch.channels_last) if self.kind == "cnn" else x

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
        return self.encode_from(
            self.begin(slices, mean=mean, std=std), adapters=adapters, attention=attention, tail=tail
        )

    def begin(
        self, slices: Tensor, *, mean: Sequence[float] | None = None, std: Sequence[float] | None = None
    ) -> Stage:
        """Slices [B, 1 or 3, H, W] in [0, 1] before the first layer; raises BackboneError for an unsuited size."""
        self._check_size(slices)
        return Stage(self.normalise(slices, mean=mean, std=std))

    def advance(self, stage: Stage, to: int) -> Stage:
        """Take a batch to unit `to` (see `entrance`) through the frozen backbone, for all plugins alike."""
        return self.entrances.advance(stage, to) if to != stage.at else stage

    def encode_from(
        self, stage: Stage, *, adapters: Sequence[Rows] = (), attention: bool = False, tail: bool = False
    ) -> Encoded:
        """As `encode`, for a batch that has come to `stage`; no adapted layer may lie before it."""
        x = stage.x
        # Found out before adapters act and attention is watched, since it takes a run of its own.
        behind = self._behind_map_layer if tail and self._map_layer is not None else 0
        watch = self._attention if self._attention is not None and (attention or tail) else None
        passed: list[Tensor] = []
        if adapters:
            self.sites.check_order(adapters, self._run, lambda: self._noise(x), batch=len(x))
        with ExitStack() as stack:
            if stage.at:
                stack.enter_context(self.entrances.entered(stage))
            if adapters:
                stack.enter_context(self.sites.active(adapters, batch=len(x)))
            seen = stack.enter_context(watch.watching()) if watch else None
            maps = []
            if tail and self._map_layer is not None:
                maps = stack.enter_context(kept(self.model.get_submodule(self._map_layer)))
                if behind:
                    passed = stack.enter_context(self.entrances.recording(stage, behind))
            features = self.model.forward_features(x)
            embedding = self.model.forward_head(features, pre_logits=True)
        grid = x.shape[2] // self.multiple_of, x.shape[3] // self.multiple_of
        row = seen.patch_attention(grid) if seen and attention else None
        if not tail:
            return Encoded(embedding, row)
        if seen is not None:
            return Encoded(embedding, row, seen.tail(self.model, grid, _acting(self.sites, adapters)))
        return Encoded(embedding, None, self._activation_tail(maps[0] if maps else features, x, adapters, passed))

    @functools.cached_property
    def _behind_map_layer(self) -> int:
        """The unit behind the map layer, where the network can be entered there; else 0."""
        behind = self.entrances.behind(self._map_layer)
        return behind if self.entrances.nearest(behind) == behind else 0

    def _blank(self) -> Tensor:
        """One slice of the smallest size that suits the model, all 0."""
        side = -(-32 // self.multiple_of) * self.multiple_of
        height, width = self.fixed_size or (side, side)
        return torch.zeros(1, 1, height, width, device=self.device)

    def check_reach(self, key: str) -> None:
        """Raise BackboneError if the adapter `key` sits on layers where it cannot act on its own slices."""
        self.sites.check_reach(key, self._run, self._noise(self.normalise(self._blank())))

    def _noise(self, x: Tensor) -> Tensor:
        """Two random slices of the shape, place and precision of the normalised slices `x`."""
        # From a generator of its own, so that a training's random numbers stay what they were.
        random = torch.rand(2, *x.shape[1:], generator=torch.Generator().manual_seed(0))
        # Noise is much like other noise deep in a network, where rows must be told apart.
        random[1] -= 1
        return self._ready(random.to(x.device))

    def _activation_tail(
        self, leaf: Tensor, x: Tensor, adapters: Sequence[Rows], passed: Sequence[Tensor]
    ) -> ActivationTail:
        acting = _acting(self.sites, adapters)
        if self._map_layer is None:
            # The embedding is an average of tokens.
            def embed(tokens: Tensor) -> Tensor:
                with acting(len(tokens)):
                    return self.model.forward_head(tokens, pre_logits=True)

            grid = x.shape[2] // self.multiple_of, x.shape[3] // self.multiple_of
            prefix = int(getattr(self.model, "num_prefix_tokens", 0))
            return ActivationTail(leaf.detach(), embed, MapLayout(False, grid, prefix))
        layout = layout_of(self.model, leaf)
        if passed:
            shape = without_memory(x)

            def embed_late(features: Tensor) -> Tensor:
                with acting(len(features)):
                    return self.entrances.run(Stage(shape, self._behind_map_layer, features, tuple(passed)))

            return ActivationTail(leaf.detach(), embed_late, layout)
        layer = self.model.get_submodule(self._map_layer)

        def embed_again(features: Tensor) -> Tensor:
            with acting(len(features)), torch.no_grad(), replaced(layer, features):
                return self._run(x)

        return ActivationTail(leaf.detach(), embed_again, layout)

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


def _acting(sites: AdapterSites, adapters: Sequence[Rows]) -> Callable[[int], object]:
    """Adapters act in the tail as in the forward pass: its rows are the same slices."""

    def context(batch: int) -> object:
        return sites.active(adapters, batch=batch) if adapters else nullcontext()

    return context


def _call_joint_projections(model: nn.Module) -> None:
    """Have attention whose query and value alone have a bias call its layer, in which an adapter can then act.

    BEiT, EVA and Swin V2 else take the layer's weight and leave the layer out.
    """
    for module in model.modules():
        if hasattr(module, "qkv_bias_separate"):
            module.qkv_bias_separate = True


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
