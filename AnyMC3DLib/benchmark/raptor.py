"""Raptor (arXiv 2507.08254): patch tokens of a frozen backbone under one random projection, averaged over slices."""

from __future__ import annotations

import dataclasses
import math

import torch
from torch import Tensor

from ..activation import layout_of
from ..backbone import Backbone
from ..errors import BackboneError, InputError
from ..model import PluginNetwork
from ..spec import FusionSpec, LoRASpec, PluginSpec, ViewSpec

# Of the projection: what the paper's figures are of.
FEATURES = 100
# A step of the linear layer shall move the logits as far as it does on so many features, however many there are.
USUAL_WIDTH = 1024


class RaptorNetwork(PluginNetwork):
    """A linear layer on standardised, randomly projected patch tokens; nothing before it is trained.

    With the tokens T_s [d, h, w] of slice s and a fixed R [k, d] of normal numbers / sqrt(k), a view is the mean of
    R T_s over its slices, flattened to k h w; views stand side by side. `spec` is taken with what that means: no
    adapters, the mean of slices, standardised features.
    """

    def __init__(
        self, spec: PluginSpec, backbone: Backbone, *, seed: int, features: int = FEATURES, check: bool = True
    ) -> None:
        """`seed` draws R, of `features` rows; raises InputError where views have no size, or several."""
        spec = _plain(spec)
        shape = _token_shape(spec, backbone)
        super().__init__(spec, backbone, check=check, width=features * math.prod(shape[1:]))
        self.seed = seed
        # On the CPU, whatever the device, so that every device has the same.
        generator = torch.Generator().manual_seed(seed)
        projection = torch.randn(features, shape[0], generator=generator) / math.sqrt(features)
        # No part of the state: the seed says it all.
        self.register_buffer("projection", projection, persistent=False)

    @property
    def embeds_by(self) -> str:
        """What tells these embeddings from those of another network on the same backbone."""
        return f"raptor, {len(self.projection)} features, seed {self.seed}"

    def embed(self, view: ViewSpec, slices: Tensor) -> Tensor:
        """Projected tokens [N, k h w] of slices [N, C, H, W] in [0, 1], without gradients."""
        cut = view.preprocessing
        with torch.no_grad():
            tokens = patch_tokens(self.backbone, self.backbone.begin(slices, mean=cut.mean, std=cut.std).x)
            return torch.einsum("kd,ndhw->nkhw", self.projection, tokens.float()).flatten(1)

    def condensed(self, embeddings: Tensor) -> Tensor:
        """Their mean [1, D]: features are standardised over studies, and so little is kept of a slice."""
        return embeddings.mean(dim=0, keepdim=True)

    def standardise(self, view: str, embeddings: Tensor) -> Tensor:
        """As the plugin's, and smaller the more features there are."""
        return super().standardise(view, embeddings) * min(1.0, math.sqrt(USUAL_WIDTH / self.width))

    def gradient_span(self, view: str) -> Tensor | None:
        """None: there are no maps of what was projected."""
        return None


def patch_tokens(backbone: Backbone, x: Tensor) -> Tensor:
    """The patch tokens [N, d, h, w] of normalised slices, of a CNN or a hierarchy its last feature map.

    Raises BackboneError for a network that gives neither.
    """
    found = backbone.model.forward_features(x)
    if backbone.kind == "transformer":
        patches = found[:, int(getattr(backbone.model, "num_prefix_tokens", 0)) :]
        return patches.transpose(1, 2).unflatten(2, [n // backbone.multiple_of for n in x.shape[2:]])
    if found.ndim != 4:
        raise BackboneError(f"'{backbone.id}' gives no map of patches that Raptor could project: choose another.")
    return layout_of(backbone.model, found).as_map(found)


def _plain(spec: PluginSpec) -> PluginSpec:
    return dataclasses.replace(
        spec,
        lora=LoRASpec(rank=0),
        fusion=FusionSpec(kind="mean", views="concat"),
        head=dataclasses.replace(spec.head, standardise=True),
    )


def _token_shape(spec: PluginSpec, backbone: Backbone) -> tuple[int, ...]:
    """The shape (d, h, w) of the tokens of a slice."""
    sizes = {view.preprocessing.size for view in spec.views}
    size = sizes.pop()
    if size is None or sizes:
        raise InputError(f"Raptor needs slices of one size in all views of '{spec.name}': set it in its views.")
    with torch.no_grad():
        blank = torch.zeros(1, 1, *size, device=backbone.device)
        return tuple(patch_tokens(backbone, backbone.begin(blank).x).shape[1:])
