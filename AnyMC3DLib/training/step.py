"""The loss of a batch of studies and its gradients, in as much memory as there is.

`speed`: forward and backward pass of a few studies at a time; the loss is a sum over studies, so their gradients add
up to the batch's. `memory`: all slices are embedded without gradients, the loss gives the gradient of each
embedding, and slices are embedded again in small batches that are given those gradients. What is kept is then a
matter of the batch, not of the number of slices, for one forward pass more. Both give the same gradients.

A step in 16 bits whose loss or gradients are not finite is computed again in float32.
"""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from ..determinism import ACTIVATION_BYTES, is_deterministic
from ..errors import MemoryShortage
from ..memory import free_memory, is_out_of_memory, release_memory
from ..model import PluginNetwork, padded
from ..precision import name_of
from ..spec import ViewSpec
from .objective import divisor_of, losses_of
from .objective_spec import ObjectiveSpec, PixelSpec
from .pixel_supervision import PixelDecoder, forward_with_tokens, mask_on_cells, pixel_loss, token_volume

logger = logging.getLogger(__name__)

StepMode = Literal["auto", "speed", "memory"]
Study = Mapping[str, Tensor]

# More than this of activations at once brings no speed.
SPEED_BYTES = 3 << 30
CHUNK_BYTES = 384 << 20
# Of free memory, what activations may take; gradients and buffers of a few layers come on top.
USABLE = 0.6


@dataclasses.dataclass(frozen=True)
class _Batch:
    """Studies with their targets, their weights, and what the sum of their losses is divided by."""

    studies: Sequence[Study]
    targets: Tensor
    weights: Tensor | None
    case_weights: Tensor | None
    divisor: float


class GradientStep:
    """Adds the gradients of a batch of studies to a network's parameters.

    `check` is called between pieces of the work and may raise to end it.
    """

    def __init__(
        self,
        network: PluginNetwork,
        *,
        mode: StepMode = "auto",
        check: Callable[[], None] = lambda: None,
        objective: ObjectiveSpec | None = None,
        pixels: PixelSpec | None = None,
        decoder: PixelDecoder | None = None,
    ) -> None:
        self.network, self.mode, self._check = network, mode, check
        self._objective, self._pixels, self._decoder = objective or ObjectiveSpec(), pixels or PixelSpec(), decoder
        # Activations of the slices that are embedded again at once; halved whenever they did not fit.
        self.chunk_bytes = CHUNK_BYTES
        # How often values went past the range of 16 bits, and were computed again.
        self.redone = 0
        self._bytes: dict[tuple[str, torch.dtype, tuple[int, ...]], int] = {}
        self._usable: int | None = None

    def __call__(
        self,
        studies: Sequence[Study],
        targets: Tensor,
        *,
        weights: Tensor | None = None,
        case_weights: Tensor | None = None,
        divisor: float | None = None,
        masks: Sequence[Study | None] | None = None,
        mask_divisor: int = 1,
    ) -> float:
        """The loss of studies (view to slices [S, C, H, W] on any device) with targets [B]; gradients are added.

        `weights` [classes] weigh by class, `case_weights` [B] case by case. `divisor` is that of the whole batch, where
        these studies are a part of it. `masks` (view to shares [S, H, W]) supervise the tokens of their studies; their
        losses are divided by `mask_divisor`.
        """
        device = self.network.backbone.device
        if self._usable is None:
            # Asked once: what a process on a CPU has used and freed does not count as free to the system.
            self._usable = ACTIVATION_BYTES if is_deterministic() else int(USABLE * free_memory(device))
        batch = self._batch_of(studies, targets.to(device), weights, case_weights, divisor)
        fresh = all(p.grad is None for p in self._parameters())
        loss = self._added(batch, masks, mask_divisor, fresh)
        backbone = self.network.backbone
        if backbone.dtype == torch.float32 or not fresh or self._is_finite(loss):
            return loss
        self._forget_step()
        self.redone += 1
        log = logger.warning if self.redone == 1 else logger.info
        log("In %s a training step went past the range; it is computed in float32.", name_of(backbone.dtype))
        backbone.set_precision(torch.float32)
        return self._added(batch, masks, mask_divisor, fresh)

    def _is_finite(self, loss: float) -> bool:
        gradients = [p.grad for p in self._parameters() if p.grad is not None]
        return math.isfinite(loss) and all(bool(torch.isfinite(gradient).all()) for gradient in gradients)

    def _added(self, batch: _Batch, masks: Sequence[Study | None] | None, mask_divisor: int, fresh: bool) -> float:
        studies = batch.studies
        if self._decoder is not None and masks is not None and any(mask is not None for mask in masks):
            return self._with_masks(batch, masks, mask_divisor)
        mode, usable = self.mode, self._usable
        if self.network.learns_across_studies:
            return self._together(batch)
        if mode == "auto":
            mode = "speed" if max(self._activations(study) for study in studies) <= usable else "memory"
        if mode == "memory":
            return self._in_fitting_chunks(batch, fresh)
        groups = self._groups(studies, min(SPEED_BYTES, usable))
        try:
            return self._at_once(groups, batch)
        except Exception as error:
            if self.mode != "auto" or not fresh or not is_out_of_memory(error):
                raise
        # Past the handler, where nothing holds the frames of the failed step any more.
        self._forget_step()
        logger.warning("A training step did not fit in memory; from now on slices are computed twice.")
        self.mode = "memory"
        return self._in_fitting_chunks(batch, fresh)

    def _together(self, batch: _Batch) -> float:
        """In one piece, since in several it would be another step; raises MemoryShortage if it does not fit."""
        try:
            return self._at_once([list(range(len(batch.studies)))], batch)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
        self._forget_step()
        raise MemoryShortage(
            f"A step of {len(batch.studies)} studies does not fit in memory, and batch norms need it in one piece: "
            "choose a smaller batch or size."
        )

    def _in_fitting_chunks(self, batch: _Batch, fresh: bool) -> float:
        """In as many slices at once as fit: half as many after each time that they did not, down to one."""
        while True:
            try:
                return self._in_chunks(batch)
            except Exception as error:
                least = min(self._bytes.values(), default=self.chunk_bytes)
                if not fresh or not is_out_of_memory(error) or self.chunk_bytes <= least:
                    raise
            self._forget_step()
            self.chunk_bytes //= 2
            logger.warning("A training step did not fit in memory; from now on half as many slices are taken at once.")

    def _forget_step(self) -> None:
        for parameter in self._parameters():
            parameter.grad = None
        release_memory(self.network.backbone.device)

    def _batch_of(
        self,
        studies: Sequence[Study],
        targets: Tensor,
        weights: Tensor | None,
        case_weights: Tensor | None,
        divisor: float | None,
    ) -> _Batch:
        if divisor is None:
            divisor = divisor_of(
                targets, self.network.spec, self._objective, class_weights=weights, case_weights=case_weights
            )
        return _Batch(studies, targets, weights, case_weights, divisor)

    def _loss(self, logits: Tensor, batch: _Batch, numbers: Sequence[int] | None = None) -> Tensor:
        """This part's share of the batch's loss."""
        part = slice(None) if numbers is None else list(numbers)
        losses = losses_of(
            logits.float(), batch.targets[part], self.network.spec, self._objective, class_weights=batch.weights,
            case_weights=None if batch.case_weights is None else batch.case_weights[part],
        )  # fmt: skip
        return losses.sum() / batch.divisor

    def _at_once(self, groups: Sequence[list[int]], batch: _Batch) -> float:
        total = 0.0
        for group in groups:
            self._check()
            logits = self.network([self._moved(batch.studies[n]) for n in group]).logits
            loss = self._loss(logits, batch, group)
            loss.backward()
            total += float(loss.detach())
        return total

    def _with_masks(self, batch: _Batch, masks: Sequence[Study | None], mask_divisor: int) -> float:
        """Study by study, since the decoder looks at all slices of a study together."""
        total = 0.0
        for number, mask in enumerate(masks):
            self._check()
            study = self._moved(batch.studies[number])
            if mask is None:
                loss = self._loss(self.network([study]).logits, batch, [number])
            else:
                fused, (tokens,) = forward_with_tokens(self.network, [study])
                loss = self._loss(fused.logits, batch, [number])
                loss = loss + self._pixels.weight * self._pixel_loss(tokens, mask) / mask_divisor
            loss.backward()
            total += float(loss.detach())
        return total

    def _pixel_loss(self, tokens: Study, mask: Study) -> Tensor:
        """The mean over views of what the decoder makes of a study's tokens, against the mask."""
        losses = []
        for view in mask:
            logits = self._decoder(token_volume(tokens[view]))
            cells = mask_on_cells(self._there(mask[view]), logits.shape[-2:])
            losses.append(pixel_loss(logits.float(), cells[None, None]).sum())
        return torch.stack(losses).mean()

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

    def _in_chunks(self, batch: _Batch) -> float:
        spec = self.network.spec
        embedded = [{v.name: self._embeddings(v, study[v.name]) for v in spec.views} for study in batch.studies]
        stacks, masks = {}, {}
        for view in spec.views:
            stacks[view.name], masks[view.name] = padded([study[view.name] for study in embedded])
        loss = self._loss(self.network.fuse(stacks, masks).logits, batch)
        loss.backward()
        if self._trains_slices:
            for study, leaves in zip(batch.studies, embedded, strict=True):
                for view in spec.views:
                    self._again(view, study[view.name], leaves[view.name].grad)
        return float(loss.detach())

    def _parameters(self) -> Iterator[nn.Parameter]:
        """All that can have gradients; the backbone is no part of the network's module."""
        yield from self.network.parameters()
        yield from self.network.backbone.model.parameters()
        if self._decoder is not None:
            yield from self._decoder.parameters()

    @property
    def _trains_slices(self) -> bool:
        """Whether anything that is trained lies before the embeddings."""
        return bool(self.network.adapters) or any(p.requires_grad for p in self.network.backbone.model.parameters())

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
        return slices.split(max(1, self.chunk_bytes // self._slice_bytes(view, slices)))

    def _moved(self, study: Study) -> dict[str, Tensor]:
        return {view: self._there(slices) for view, slices in study.items()}

    def _there(self, slices: Tensor) -> Tensor:
        return slices.to(self.network.backbone.device, torch.float32)

    def _activations(self, study: Study) -> int:
        views = self.network.spec.views
        return sum(len(study[view.name]) * self._slice_bytes(view, study[view.name]) for view in views)

    def _slice_bytes(self, view: ViewSpec, slices: Tensor) -> int:
        """Bytes that autograd keeps of one slice of a view, found out by a forward pass of one."""
        key = view.name, self.network.backbone.dtype, tuple(slices.shape[1:])
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
