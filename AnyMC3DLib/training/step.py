"""The loss of a batch of studies and its gradients, in as much memory as there is.

`speed`: forward and backward pass of a few studies at a time; the loss is a sum over studies, so their gradients add
up to the batch's. `memory`: all slices are embedded without gradients, the loss gives the gradient of each
embedding, and slices are embedded again in small batches that are given those gradients. What is kept is then a
matter of the batch, not of the number of slices, for one forward pass more. Both give the same gradients.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ..memory import free_memory, is_out_of_memory, release_memory
from ..model import PluginNetwork, padded
from ..spec import PluginSpec, ViewSpec

logger = logging.getLogger(__name__)

StepMode = Literal["auto", "speed", "memory"]
Study = Mapping[str, Tensor]

# More than this of activations at once brings no speed.
SPEED_BYTES = 3 << 30
CHUNK_BYTES = 384 << 20
# Of free memory, what activations may take; gradients and buffers of a few layers come on top.
USABLE = 0.6


class GradientStep:
    """Adds the gradients of a batch of studies to a network's parameters.

    `check` is called between pieces of the work and may raise to end it.
    """

    def __init__(
        self, network: PluginNetwork, *, mode: StepMode = "auto", check: Callable[[], None] = lambda: None
    ) -> None:
        self.network, self.mode, self._check = network, mode, check
        self._bytes: dict[tuple[str, tuple[int, ...]], int] = {}
        self._usable: int | None = None

    def __call__(self, studies: Sequence[Study], targets: Tensor, *, weights: Tensor | None = None) -> float:
        """The loss of studies (view to slices [S, C, H, W] on any device) with targets [B]; gradients are added."""
        device = self.network.backbone.device
        if self._usable is None:
            # Asked once: what a process on a CPU has used and freed does not count as free to the system.
            self._usable = int(USABLE * free_memory(device))
        targets, mode, usable = targets.to(device), self.mode, self._usable
        if mode == "auto":
            mode = "speed" if max(self._activations(study) for study in studies) <= usable else "memory"
        if mode == "memory":
            return self._in_chunks(studies, targets, weights)
        groups = self._groups(studies, min(SPEED_BYTES, usable))
        fresh = all(p.grad is None for p in self.network.parameters())
        try:
            return self._at_once(groups, studies, targets, weights)
        except Exception as error:
            if self.mode != "auto" or not fresh or not is_out_of_memory(error):
                raise
        # Past the handler, where nothing holds the frames of the failed step any more.
        self.network.zero_grad(set_to_none=True)
        release_memory(device)
        logger.warning("A training step did not fit in memory; from now on slices are computed twice.")
        self.mode = "memory"
        return self._in_chunks(studies, targets, weights)

    def _at_once(
        self, groups: Sequence[list[int]], studies: Sequence[Study], targets: Tensor, weights: Tensor | None
    ) -> float:
        whole = loss_divisor(targets, self.network.spec, weights=weights)
        total = 0.0
        for group in groups:
            self._check()
            logits = self.network([self._moved(studies[n]) for n in group]).logits.float()
            losses = losses_of(logits, targets[group], self.network.spec, weights=weights)
            loss = losses.sum() / whole
            loss.backward()
            total += float(loss.detach())
        return total

    def _groups(self, studies: Sequence[Study], most: int) -> list[list[int]]:
        """Numbers of studies that go through the network together: they keep `most` bytes, or there is one alone."""
        groups: list[list[int]] = []
        room = 0
        for number, study in enumerate(studies):
            wanted = self._activations(study)
            if not groups or wanted > room:
                groups.append([])
                room = most
            groups[-1].append(number)
            room -= wanted
        return groups

    def _in_chunks(self, studies: Sequence[Study], targets: Tensor, weights: Tensor | None) -> float:
        spec = self.network.spec
        embedded = [{view.name: self._embeddings(view, study[view.name]) for view in spec.views} for study in studies]
        stacks, masks = {}, {}
        for view in spec.views:
            stacks[view.name], masks[view.name] = padded([study[view.name] for study in embedded])
        logits = self.network.fuse(stacks, masks).logits.float()
        losses = losses_of(logits, targets, spec, weights=weights)
        loss = losses.sum() / loss_divisor(targets, spec, weights=weights)
        loss.backward()
        if self.network.adapters:
            for study, leaves in zip(studies, embedded, strict=True):
                for view in spec.views:
                    self._again(view, study[view.name], leaves[view.name].grad)
        return float(loss.detach())

    def _embeddings(self, view: ViewSpec, slices: Tensor) -> Tensor:
        with torch.no_grad():
            parts = [self._embed(view, part).float() for part in self._chunks(view, slices)]
        return torch.cat(parts).requires_grad_()

    def _embed(self, view: ViewSpec, part: Tensor) -> Tensor:
        self._check()
        return self.network.embed(view, self._there(part))

    def _again(self, view: ViewSpec, slices: Tensor, gradients: Tensor) -> None:
        parts = self._chunks(view, slices)
        for part, gradient in zip(parts, gradients.split([len(p) for p in parts]), strict=True):
            embedding = self._embed(view, part)
            embedding.backward(gradient.to(embedding.dtype))

    def _chunks(self, view: ViewSpec, slices: Tensor) -> Sequence[Tensor]:
        return slices.split(max(1, CHUNK_BYTES // self._slice_bytes(view, slices)))

    def _moved(self, study: Study) -> dict[str, Tensor]:
        return {view: self._there(slices) for view, slices in study.items()}

    def _there(self, slices: Tensor) -> Tensor:
        return slices.to(self.network.backbone.device, torch.float32)

    def _activations(self, study: Study) -> int:
        views = self.network.spec.views
        return sum(len(study[view.name]) * self._slice_bytes(view, study[view.name]) for view in views)

    def _slice_bytes(self, view: ViewSpec, slices: Tensor) -> int:
        """Bytes that autograd keeps of one slice of a view, found out by a forward pass of one."""
        key = view.name, tuple(slices.shape[1:])
        if key not in self._bytes:
            self._bytes[key] = max(1, kept_for_backward(self.network, view, self._there(slices[:1])))
            logger.info("View '%s' keeps %.1f MB a slice for gradients.", view.name, self._bytes[key] / 1e6)
        return self._bytes[key]


def kept_for_backward(network: PluginNetwork, view: ViewSpec, slices: Tensor) -> int:
    """Bytes of activations that autograd keeps of slices; parameters are not counted."""
    own = {p.untyped_storage().data_ptr() for module in (network, network.backbone.model) for p in module.parameters()}
    kept: dict[int, int] = {}

    def count(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        embedding = network.encode(view, slices).embedding
    del embedding
    return sum(kept.values())


def losses_of(logits: Tensor, targets: Tensor, spec: PluginSpec, *, weights: Tensor | None = None) -> Tensor:
    """Cross-entropy of each case [B]: of one logit for a binary task, softmax for multiclass, mean of one a class.

    Logits are [B, K]; targets class numbers [B], or 0 and 1 [B, K]. `weights` [classes] weigh the cases by class.
    """
    if spec.task_type == "multilabel":
        return F.binary_cross_entropy_with_logits(logits, targets.to(logits.dtype), reduction="none").mean(dim=1)
    if spec.task_type == "multiclass":
        each = F.cross_entropy(logits, targets, reduction="none")
    else:
        each = F.binary_cross_entropy_with_logits(logits[:, 0], targets.to(logits.dtype), reduction="none")
    return each if weights is None else each * weights.to(logits.device)[targets]


def loss_divisor(targets: Tensor, spec: PluginSpec, *, weights: Tensor | None = None) -> float:
    """What the sum of the cases' losses is divided by: their number, or the sum of weights of a multiclass task."""
    if weights is None or spec.task_type != "multiclass":
        return float(len(targets))
    return float(weights.to(targets.device)[targets].sum())
