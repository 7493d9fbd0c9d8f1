"""The network: the frozen backbone and one plugin's own part, from slices to logits."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .backbone import Backbone, Encoded
from .density import VolumeDensity, describe
from .errors import PluginError
from .fusion import make_fusion
from .lora import Adapter, Rows, select_targets
from .spec import PluginSpec, ViewSpec

_numbers = itertools.count()


@dataclasses.dataclass(frozen=True)
class Fused:
    """What a plugin says of B studies: `logits` [B, K], per view the slice weights [B, S], view weights [B, V]."""

    logits: Tensor
    slice_weights: dict[str, Tensor]
    view_weights: Tensor


class PluginNetwork(nn.Module):
    """One member of a plugin: an adapter and a task query for each view, the fusion of views, and the head.

    Its state dict is what a plugin file keeps. The backbone is not part of it; the adapters hang on the backbone
    until `close`. `width` is that of the embeddings, where `embed` gives others than the backbone's.
    """

    def __init__(self, spec: PluginSpec, backbone: Backbone, *, check: bool = True, width: int | None = None) -> None:
        super().__init__()
        odd = [view.name for view in spec.views if hasattr(nn.ModuleDict(), view.name)]
        if odd:
            raise PluginError(f"A view of plugin '{spec.name}' cannot be called '{odd[0]}': torch keeps that name.")
        self.spec = spec
        # In a tuple, so that the backbone is not registered as a part of this module.
        self._backbone = (backbone,)
        self.width = width = width or backbone.embed_dim
        targets = select_targets(backbone.model, spec.lora, kind=backbone.kind)
        self.adapters = nn.ModuleDict({v.name: Adapter(targets, spec.lora) for v in spec.views} if targets else {})
        self.fusions = nn.ModuleDict({view.name: make_fusion(spec.fusion.kind, width) for view in spec.views})
        self.view_fusion = make_fusion(spec.fusion.views, width) if len(spec.views) > 1 else None
        self.dropout = nn.Dropout(spec.head.dropout)
        joined = len(spec.views) if spec.fusion.views == "concat" else 1
        self.head = nn.Linear(width * joined, spec.logits)
        nn.init.trunc_normal_(self.head.weight, std=0.02)
        nn.init.zeros_(self.head.bias)
        if spec.head.standardise:
            for view in spec.views:
                self.register_buffer(f"shift_{view.name}", torch.zeros(width))
                self.register_buffer(f"scale_{view.name}", torch.ones(width))
        # Of the studies that were learnt from, once they were; see `with_density`.
        self.density = VolumeDensity(self.described_width) if spec.scope is not None and spec.scope.density else None
        number = next(_numbers)
        self._keys = {name: f"{spec.name}#{number}/{name}" for name in self.adapters}
        self._attach(check)

    @property
    def backbone(self) -> Backbone:
        """The frozen backbone."""
        return self._backbone[0]

    @property
    def learns_across_studies(self) -> bool:
        """Whether a study's gradient depends on the others of its batch, which then must pass together."""
        return False

    @property
    def embeds_by(self) -> str:
        """How slices are embedded while nothing is trained yet: networks that say the same embed alike."""
        return "backbone"

    def _attach(self, check: bool) -> None:
        for name, key in self._keys.items():
            self.backbone.sites.attach(key, self.adapters[name])
        try:
            if check and self._keys:
                self.backbone.check_reach(next(iter(self._keys.values())))
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Take the adapters off the backbone."""
        for key in self._keys.values():
            self.backbone.sites.detach(key)

    def adapter_key(self, view: str) -> str | None:
        """The name under which the backbone knows the adapter of `view`; None where nothing is adapted."""
        return self._keys.get(view)

    def encode(self, view: ViewSpec, slices: Tensor, *, attention: bool = False, tail: bool = False) -> Encoded:
        """Embed slices [N, C, H, W] in [0, 1] of one view through its adapter."""
        key = self._keys.get(view.name)
        return self.backbone.encode(
            slices,
            adapters=[Rows(key)] if key else [],
            mean=view.preprocessing.mean,
            std=view.preprocessing.std,
            attention=attention,
            tail=tail,
        )

    def embed(self, view: ViewSpec, slices: Tensor) -> Tensor:
        """Embeddings [N, D] of slices [N, C, H, W] in [0, 1]; empty slices (all 0) are computed once for all."""
        empty = (slices == 0).flatten(1).all(dim=1)
        if int(empty.sum()) < 2:
            return self.encode(view, slices).embedding
        first = torch.nonzero(empty)[0]
        kept = torch.cat([torch.nonzero(~empty)[:, 0], first])
        place = torch.full((len(slices),), len(kept) - 1, device=slices.device)
        place[kept] = torch.arange(len(kept), device=slices.device)
        return self.encode(view, slices[kept]).embedding[place]

    @property
    def described_width(self) -> int:
        """How many numbers describe a study to the density."""
        return self.width * len(self.spec.views)

    def is_beyond(self, embeddings: Mapping[str, Tensor]) -> bool:
        """Whether a study's slice embeddings [S, D] by view are unlike those that the plugin has learnt from."""
        if self.density is None:
            return False
        return self.density.is_beyond(describe({view.name: embeddings[view.name] for view in self.spec.views}))

    def condensed(self, embeddings: Tensor) -> Tensor:
        """What is kept of a study's embeddings [S, D] of one view where they are computed once and used often."""
        return embeddings

    def standardise(self, view: str, embeddings: Tensor) -> Tensor:
        """Shift and scale embeddings [..., D] where the head asks for it."""
        if not self.spec.head.standardise:
            return embeddings
        return (embeddings - getattr(self, f"shift_{view}")) * getattr(self, f"scale_{view}")

    def fuse(self, embeddings: Mapping[str, Tensor], masks: Mapping[str, Tensor] | None = None) -> Fused:
        """Per view embeddings [B, S, D] (and masks [B, S], true = a slice) to logits."""
        vectors, weights = [], {}
        for view in self.spec.views:
            mask = None if masks is None else masks.get(view.name)
            ready = self.standardise(view.name, embeddings[view.name].float())
            vector, weights[view.name] = self.fusions[view.name](ready, mask)
            vectors.append(vector)
        stack = torch.stack(vectors, dim=1)
        if self.view_fusion is None:
            fused, view_weights = stack[:, 0], stack.new_ones(len(stack), 1)
        else:
            fused, view_weights = self.view_fusion(stack)
        return Fused(self.head(self.dropout(fused)), weights, view_weights)

    def gradient_span(self, view: str) -> Tensor | None:
        """Vectors [M, D] whose span holds the gradient of every logit by every embedding of `view`.

        None where a fusion picks features slice by slice. With v = a'H the gradient by h_s is
        a_s (g + q (g'(h_s - v)) / sqrt(D)), g being the gradient by v; a fusion of views adds its own query alike.
        """
        if self.spec.fusion.kind not in ("attention", "mean"):
            return None
        place = [v.name for v in self.spec.views].index(view) if self.head.in_features > self.width else 0
        vectors = [*self.head.weight[:, place * self.width : (place + 1) * self.width]]
        vectors += [fusion.query for fusion in (self.view_fusion, self.fusions[view]) if hasattr(fusion, "query")]
        span = torch.stack(vectors).detach()
        return span * getattr(self, f"scale_{view}") if self.spec.head.standardise else span

    def forward(self, studies: Sequence[Mapping[str, Tensor]]) -> Fused:
        """A batch of studies, each a dictionary of view name to slices [S, C, H, W] in [0, 1]; S may differ."""
        embeddings, masks = {}, {}
        for view in self.spec.views:
            counts = [len(study[view.name]) for study in studies]
            embedded = self.embed(view, torch.cat([study[view.name] for study in studies]))
            embeddings[view.name], masks[view.name] = padded(embedded.split(counts))
        return self.fuse(embeddings, masks)

    def probabilities(self, logits: Tensor) -> Tensor:
        """Logits [B, K] to probabilities [B, classes]: sigmoid or softmax of logits / temperature."""
        return probabilities(logits, self.spec)


def padded(parts: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Embeddings [S_b, D] of B studies as [B, S, D], and the mask [B, S] of what is a slice."""
    embeddings = nn.utils.rnn.pad_sequence(list(parts), batch_first=True)
    counts = torch.tensor([len(part) for part in parts], device=embeddings.device)
    return embeddings, torch.arange(embeddings.shape[1], device=embeddings.device) < counts[:, None]


def probabilities(logits: Tensor, spec: PluginSpec) -> Tensor:
    """Logits [B, K] to probabilities [B, classes], in float64, so that a sum of a softmax is 1 to the last digit."""
    # On the CPU: Apple's GPU knows no float64.
    scaled = logits.cpu().double() / spec.temperature
    if spec.task_type == "binary":
        positive = scaled.sigmoid()
        return torch.cat([1 - positive, positive], dim=1)
    return scaled.softmax(dim=1) if spec.task_type == "multiclass" else scaled.sigmoid()


def load_tensors(network: PluginNetwork, tensors: Mapping[str, Any]) -> None:
    """Fill `network` with the tensors of a plugin file; raises PluginError unless they match, name and shape."""
    wanted = network.state_dict()
    if set(wanted) != set(tensors):
        odd = sorted(set(wanted) ^ set(tensors))[0]
        raise PluginError(f"The tensors of plugin '{network.spec.name}' do not fit its description, such as {odd}.")
    for name, tensor in wanted.items():
        if tensor.shape != tensors[name].shape:
            raise PluginError(
                f"The tensor {name} of plugin '{network.spec.name}' is {list(tensors[name].shape)}, but this backbone "
                f"needs {list(tensor.shape)}."
            )
        if not torch.isfinite(tensors[name]).all():
            raise PluginError(f"The tensor {name} of plugin '{network.spec.name}' holds values that are not finite.")
    network.load_state_dict(dict(tensors))
