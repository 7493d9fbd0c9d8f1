"""Fusions that read the slices in their order, as winners of challenges and slice Transformers do."""

from __future__ import annotations

import dataclasses
import math
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from ..backbone import Backbone
from ..errors import InputError
from ..fusion import without_padding
from ..model import PluginNetwork
from ..spec import PluginSpec
from ..training.slices import CutCases

SequenceKind = Literal["lstm", "transformer"]
# Of what runs over the slices; with the ways in and out less than a million parameters on embeddings of 1280.
WIDTH = 192
HEADS = 6
LAYERS = 2
# The slowest of the waves by which a slice's place is told (arXiv 1706.03762).
LONGEST_WAVE = 10_000.0


class LSTMFusion(nn.Module):
    """A bidirectional LSTM over the slices, and attention over what it says of each.

    v = a'(H + O C) with the LSTM's outputs C [S, WIDTH] and a = softmax(C u): with the embeddings H beside them, as the
    winners of RSNA challenges add them.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.enter = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, WIDTH), nn.GELU())
        self.lstm = nn.LSTM(WIDTH, WIDTH // 2, batch_first=True, bidirectional=True)
        self.score = nn.Linear(WIDTH, 1)
        self.leave = nn.Linear(WIDTH, width)

    def forward(self, embeddings: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Embeddings [B, S, D] and mask [B, S] (true = a slice) to vectors [B, D] and weights [B, S]."""
        mask = _mask_of(embeddings) if mask is None else mask
        embeddings = without_padding(embeddings, mask)
        entered = self.enter(embeddings)
        # Only slices go in, in their order: going backwards the LSTM must begin at the last of them.
        packed = nn.utils.rnn.pack_sequence([e[m] for e, m in zip(entered, mask, strict=True)], enforce_sorted=False)
        contexts = torch.zeros_like(entered)
        contexts[mask] = torch.cat(nn.utils.rnn.unpack_sequence(self.lstm(packed)[0])).to(entered.dtype)
        scores = self.score(contexts)[..., 0].masked_fill(~mask, float("-inf"))
        weights = scores.softmax(dim=1)
        pooled = torch.einsum("bs,bsd->bd", weights, embeddings)
        return pooled + self.leave(torch.einsum("bs,bsd->bd", weights, contexts)), weights


class TransformerFusion(nn.Module):
    """A class token and slices through a small Transformer, after the Medical Slice Transformer (arXiv 2411.15802).

    A slice's weight is the share of the class token's attention in the last layer that slices have, mean of heads.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.enter = nn.Linear(width, WIDTH)
        self.token = nn.Parameter(torch.empty(WIDTH))
        nn.init.trunc_normal_(self.token, std=0.02)
        self.layers = nn.ModuleList(_Layer() for _ in range(LAYERS))
        self.norm = nn.LayerNorm(WIDTH)
        self.leave = nn.Linear(WIDTH, width)

    def forward(self, embeddings: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Embeddings [B, S, D] and mask [B, S] (true = a slice) to vectors [B, D] and weights [B, S]."""
        mask = _mask_of(embeddings) if mask is None else mask
        slices = self.enter(without_padding(embeddings, mask))
        slices = slices + _positions(mask).to(slices.dtype)
        x = torch.cat([self.token.expand(len(slices), 1, -1), slices], dim=1)
        left_out = nn.functional.pad(~mask, (1, 0), value=False)
        for layer in self.layers:
            x, attention = layer(x, left_out)
        row = attention[:, 0, 1:].clamp_min(torch.finfo(x.dtype).tiny) * mask
        return self.leave(self.norm(x[:, 0])), row / row.sum(dim=1, keepdim=True)


class _Layer(nn.Module):
    """A layer with norms first and an MLP as wide as the rest, as the paper's."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.attention = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.GELU(), nn.Linear(WIDTH, WIDTH))

    def forward(self, x: Tensor, left_out: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens [B, N, WIDTH] to the same and the attention [B, N, N]; those in `left_out` [B, N] are not read."""
        normed = self.norm1(x)
        attended, attention = self.attention(normed, normed, normed, key_padding_mask=left_out)
        x = x + attended
        return x + self.mlp(self.norm2(x)), attention


class SequenceNetwork(PluginNetwork):
    """A plugin's network whose views are each fused as a sequence; `spec.fusion.kind` is not looked at."""

    def __init__(self, spec: PluginSpec, backbone: Backbone, *, kind: SequenceKind, check: bool = True) -> None:
        if kind not in get_args(SequenceKind):
            raise InputError(f"There is no sequence '{kind}': choose from {', '.join(get_args(SequenceKind))}.")
        super().__init__(spec, backbone, check=check)
        fusion = LSTMFusion if kind == "lstm" else TransformerFusion
        self.fusions = nn.ModuleDict({view.name: fusion(self.width) for view in spec.views})

    def gradient_span(self, view: str) -> Tensor | None:
        """None: every embedding has a gradient of its own."""
        return None


def neighbours_as_channels(cases: CutCases) -> CutCases:
    """The cases with each grey slice [S, 1, H, W] as [S, 3, H, W]: the one before, itself, the next (2.5D).

    The first and last slice stand in for what lies beyond them. Slices of three channels stay as they are.
    """
    stacks = [{view: _with_neighbours(array) for view, array in case.items()} for case in cases.stacks]
    return dataclasses.replace(cases, stacks=stacks)


def _with_neighbours(array: npt.NDArray[np.floating]) -> npt.NDArray[np.floating]:
    if array.shape[1] != 1:
        return array
    padded = np.pad(np.asarray(array)[:, 0], ((1, 1), (0, 0), (0, 0)), mode="edge")
    # A view of the same values, which would take three times the memory as a copy.
    return np.moveaxis(np.lib.stride_tricks.sliding_window_view(padded, 3, axis=0), -1, 1)


def _mask_of(embeddings: Tensor) -> Tensor:
    return torch.ones(embeddings.shape[:2], dtype=torch.bool, device=embeddings.device)


def _positions(mask: Tensor) -> Tensor:
    """The place of each slice among the slices of its study, as sines and cosines [B, S, WIDTH]."""
    place = (mask.cumsum(dim=1) - 1).clamp_min(0).float()
    waves = torch.exp(-math.log(LONGEST_WAVE) * torch.arange(0, WIDTH, 2, device=mask.device) / WIDTH)
    angles = place[..., None] * waves
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(2)
