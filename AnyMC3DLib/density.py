"""How likely a study's embeddings are among those of the studies that a plugin has learnt from.

A study is described by the mean of its slice embeddings, view by view. The density is a Gaussian with its
first directions of variance as they are and one variance for all others (probabilistic PCA, Tipping and Bishop 1999,
doi 10.1111/1467-9868.00196). The limit is an order statistic of studies that the density was not fitted on (split
conformal prediction, Lei et al. 2018, doi 10.1080/01621459.2017.1307116).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

RANK = 16  # directions of variance that are kept
FEWEST = 20  # studies, below which a density says nothing
PARTS = 5  # of the studies; each is judged by a density of the others
ALARM_RATE = 0.025  # of studies of the same kind, that are called unlike


def describe(embeddings: Mapping[str, Tensor]) -> Tensor:
    """The mean of slice embeddings [S, D] of each view, one after the other: [views * D] float32."""
    return torch.cat([each.float().mean(dim=0) for each in embeddings.values()])


class VolumeDensity(nn.Module):
    """A density over descriptions [W] of studies, and the distance from which on a study is unlike those it is of.

    All of it are buffers, kept in the plugin's file. An unfitted one finds nothing unlike.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("centre", torch.zeros(width))
        self.register_buffer("scale", torch.ones(width))
        self.register_buffer("directions", torch.zeros(RANK, width))
        self.register_buffer("variances", torch.ones(RANK))
        self.register_buffer("noise", torch.ones(()))
        self.register_buffer("limit", torch.tensor(torch.finfo(torch.float32).max))

    def distance(self, descriptions: Tensor) -> Tensor:
        """How far descriptions [N, W] lie from those of the density [N]: about 1 for one of them."""
        along, rest = self._apart(descriptions)
        return (along + rest / self.noise.cpu()) / 2

    def is_beyond(self, description: Tensor) -> bool:
        """Whether a study's description [W] lies beyond the limit, or is not finite."""
        distance = float(self.distance(description[None])[0])
        return not distance <= float(self.limit)

    @torch.no_grad()
    def fit(self, descriptions: Tensor, held_out: Tensor | None = None, *, groups: Sequence[str] | None = None) -> None:
        """Take the density of descriptions [N, W], and a limit that 1 in 40 of others of their kind passes.

        Every description is judged by a density of four fifths of the others, of other patients alone where `groups`
        [N] names them; `held_out` [M, W], of studies that nothing was learnt from, by that of all. The wider limit of
        the two holds. A description that is not finite is left out.
        """
        finite = torch.isfinite(descriptions).all(dim=1).cpu()
        names = groups if groups is not None else list(map(str, range(len(descriptions))))
        places = {name: place for place, name in enumerate(dict.fromkeys(names))}
        part = torch.tensor([places[name] % PARTS for name in names])[finite]
        descriptions = descriptions.cpu()[finite]
        if part.unique().numel() < PARTS:
            # Of fewer patients than parts: each study by itself.
            part = torch.arange(len(descriptions)) % PARTS
        rest, along = torch.zeros(len(descriptions)).double(), torch.zeros(len(descriptions)).double()
        for number in range(PARTS):
            own = part == number
            self._fit(descriptions[~own])
            along[own], rest[own] = self._apart(descriptions[own])
        self._fit(descriptions)
        # What lies off the kept directions is small for the fitted, and larger for all others.
        self.noise.copy_(rest.median().clamp_min(1e-12).float())
        found = [limit_of((along + rest / self.noise.cpu()) / 2)]
        if held_out is not None and len(held_out) >= FEWEST:
            found.append(limit_of(self.distance(held_out)))
        self.limit.copy_(max(found))

    def _fit(self, descriptions: Tensor) -> None:
        values = descriptions.cpu().double()
        deviation = values.std(dim=0)
        centre, scale = values.mean(dim=0), deviation.clamp_min(max(1e-6, 0.1 * float(deviation.mean())))
        standard = (values - centre) / scale
        # Of the small matrix: there are fewer studies than features.
        variances, weights = torch.linalg.eigh(standard @ standard.T / (len(values) - 1))
        kept = min(RANK, len(values) // 4)
        top = variances[-kept:].flip(0).clamp_min(1e-12)
        directions = (weights[:, -kept:].flip(1).T @ standard) / (top * (len(values) - 1)).sqrt()[:, None]
        self.centre.copy_(centre)
        self.scale.copy_(scale)
        self.directions.zero_()[:kept] = directions.float()
        self.variances.fill_(1.0)[:kept] = top.float()

    def _apart(self, descriptions: Tensor) -> tuple[Tensor, Tensor]:
        """The mean squared deviation along the kept directions [N], and the sum of squares off them [N]."""
        # On the CPU: Apple's GPU knows no float64.
        centre, scale, directions, variances = (
            tensor.cpu().double() for tensor in (self.centre, self.scale, self.directions, self.variances)
        )
        centred = (descriptions.cpu().double() - centre) / scale
        along = centred @ directions.T
        used = max(1, int((directions != 0).any(dim=1).sum()))
        rest = (centred**2).sum(dim=1) - (along**2).sum(dim=1)
        return (along**2 / variances).sum(dim=1) / used, rest.clamp_min(0)


def limit_of(distances: Tensor) -> Tensor:
    """The distance [] that a further study of the same kind passes with a chance of ALARM_RATE at most.

    Of fewer than 39 distances the largest, and then a little further by how much the largest ones differ.
    """
    ordered = distances.double().sort().values
    place = math.ceil((len(ordered) + 1) * (1 - ALARM_RATE))
    if place <= len(ordered):
        return ordered[place - 1].float()
    return (ordered[-1] + (ordered[-1] - ordered[len(ordered) // 2])).float()
