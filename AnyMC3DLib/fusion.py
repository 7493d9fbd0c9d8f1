"""Slice fusion: S slice embeddings to one vector, and how much each slice counted."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from .errors import InputError


class AttentionFusion(nn.Module):
    """Attention pooling by a learned task query: a = softmax(H q / sqrt(D)), v = a' H (arXiv 2512.12887)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.query = nn.Parameter(torch.empty(width))
        nn.init.trunc_normal_(self.query, std=0.02)

    def forward(self, embeddings: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Embeddings [B, S, D] and mask [B, S] (true = a slice) to vectors [B, D] and weights [B, S]."""
        embeddings = without_padding(embeddings, mask)
        scores = embeddings @ self.query / math.sqrt(embeddings.shape[-1])
        if mask is not None:
            scores = scores.masked_fill(~mask, float("-inf"))
        weights = scores.softmax(dim=1)
        return torch.einsum("bs,bsd->bd", weights, embeddings), weights


class MeanFusion(nn.Module):
    """The mean of the slices: each counts the same."""

    def forward(self, embeddings: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Embeddings [B, S, D] and mask [B, S] to vectors [B, D] and weights [B, S]."""
        mask = torch.ones(embeddings.shape[:2], dtype=torch.bool, device=embeddings.device) if mask is None else mask
        weights = mask.to(embeddings.dtype) / mask.sum(dim=1, keepdim=True)
        return torch.einsum("bs,bsd->bd", weights, without_padding(embeddings, mask)), weights


class ConcatFusion(nn.Module):
    """The vectors of a fixed number of views side by side; each counts the same."""

    def forward(self, embeddings: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Embeddings [B, V, D] to vectors [B, V * D] and weights [B, V]."""
        return embeddings.flatten(1), embeddings.new_full(embeddings.shape[:2], 1 / embeddings.shape[1])


class OrderFusion(nn.Module):
    """Per feature the maximum or the median of the slices; a slice's weight is the share of features it gave.

    For an even number of slices the median is the mean of the middle two, as NumPy's.
    """

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind

    def forward(self, embeddings: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Embeddings [B, S, D] and mask [B, S] to vectors [B, D] and weights [B, S]."""
        batch, slices, _ = embeddings.shape
        mask = torch.ones(batch, slices, dtype=torch.bool, device=embeddings.device) if mask is None else mask
        filled = embeddings.masked_fill(~mask[..., None], float("inf"))
        values, order = filled.sort(dim=1)
        counts = mask.sum(dim=1)
        if self.kind == "max":
            picks = (counts - 1, counts - 1)
        else:
            picks = ((counts - 1) // 2, counts // 2)
        parts = [_pick(values, order, pick) for pick in picks]
        vector = (parts[0][0] + parts[1][0]) / 2
        weights = embeddings.new_zeros(batch, slices)
        for _, chosen in parts:
            weights = weights + torch.nn.functional.one_hot(chosen, slices).to(embeddings.dtype).mean(dim=1) / 2
        return vector, weights


def _pick(values: Tensor, order: Tensor, place: Tensor) -> tuple[Tensor, Tensor]:
    index = place[:, None, None].expand(-1, 1, values.shape[2])
    return values.gather(1, index)[:, 0], order.gather(1, index)[:, 0]


def without_padding(embeddings: Tensor, mask: Tensor | None) -> Tensor:
    """Embeddings [B, S, D] with zeros where the mask [B, S] has no slice."""
    # 0 * inf is not 0: what stands in padded rows must not matter, whatever it is.
    return embeddings if mask is None else embeddings.masked_fill(~mask[..., None], 0.0)


def make_fusion(kind: str, width: int) -> nn.Module:
    """The fusion called `kind` for embeddings of `width` features; raises InputError for an unknown name."""
    if kind == "attention":
        return AttentionFusion(width)
    if kind == "mean":
        return MeanFusion()
    if kind == "concat":
        return ConcatFusion()
    if kind in ("median", "max"):
        return OrderFusion(kind)
    raise InputError(f"There is no slice fusion '{kind}': choose attention, mean, median or max.")
