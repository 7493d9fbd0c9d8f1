"""What a trained plugin is told of the studies it has learnt from, so that it can tell a study of another kind."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..density import FEWEST, VolumeDensity, describe
from ..model import PluginNetwork
from ..scope import merged, seen_images
from ..spec import ScopeSpec
from .draws import scope_generator
from .embedding import Embeddings
from .slices import CutCases

# Of the studies that taught the plugin, drawn at random: more make the density hardly better.
STUDIES_AT_MOST = 384


def some_of(cases: CutCases, *, seed: int) -> CutCases:
    """All of the cases, or STUDIES_AT_MOST of them drawn by the seed."""
    if len(cases) <= STUDIES_AT_MOST:
        return cases
    drawn = scope_generator(seed).permutation(len(cases))
    return cases.subset(sorted(drawn[:STUDIES_AT_MOST].tolist()))


def learn_scope(
    network: PluginNetwork,
    train: CutCases,
    embedded: Sequence[Embeddings],
    *,
    patients: Sequence[str] | None = None,
    held_out: Sequence[Embeddings] = (),
) -> ScopeSpec:
    """Give the network the density of studies by their slice embeddings, and return what the plugin has seen.

    `embedded` are of some of the cases `train`, with their `patients`, `held_out` of cases that taught nothing. With
    fewer than FEWEST studies there is no density.
    """
    images = seen_images(merged(train.facts))
    if len(embedded) < FEWEST:
        network.density = None
        return ScopeSpec(cases=len(train), images=images)
    density = VolumeDensity(network.described_width).to(network.backbone.device)
    others = _descriptions(network, held_out) if held_out else None
    density.fit(_descriptions(network, embedded), others, groups=patients)
    network.density = density
    beyond = 0 if others is None else int((density.distance(others) > density.limit.cpu()).sum())
    return ScopeSpec(cases=len(train), images=images, density=True, held_out=len(held_out), beyond=beyond)


def _descriptions(network: PluginNetwork, embedded: Sequence[Embeddings]) -> Tensor:
    # In the order in which a study is described later, whatever the order in which a cache or a process gave them.
    names = [view.name for view in network.spec.views]
    return torch.stack([describe({name: each[name] for name in names}) for each in embedded])
