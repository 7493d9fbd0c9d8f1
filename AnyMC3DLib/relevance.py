"""From embeddings, class attention and tails to the relevance of every patch.

The paper's map: class attention of the last block, mean of heads, times the slice's weight (arXiv 2512.12887). The
class map: the class row's attention (or a CNN's feature map, see ActivationTail) times the gradient of the logit by it.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from .attention import AttentionTail, for_and_against
from .backbone import Tail
from .model import PluginNetwork


def logit_gradients(network: PluginNetwork, embeddings: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Gradient of each logit by each slice embedding: per view [K, S, D]. Embeddings are [S, D] per view."""
    leaves = {view: tensor.detach().float().requires_grad_() for view, tensor in embeddings.items()}
    with torch.enable_grad():
        logits = network.fuse({view: leaf[None] for view, leaf in leaves.items()}).logits[0]
        per_logit = [torch.autograd.grad(logit, list(leaves.values()), retain_graph=True) for logit in logits]
    return {view: torch.stack([grads[n] for grads in per_logit]) for n, view in enumerate(leaves)}


def tail_contributions(tail: Tail, gradients: Tensor) -> Tensor:
    """What speaks for and against each logit, per patch of B slices: [2, K, B, h, w], >= 0; gradients are [K, B, D]."""
    leaf = tail.leaf.detach().requires_grad_()
    with torch.enable_grad():
        embedding = tail.embed(leaf)
        maps = [tail.contributions(_gradient(embedding, leaf, gradient)) for gradient in gradients]
    return torch.stack(maps, dim=1).detach().float()


def _gradient(embedding: Tensor, leaf: Tensor, direction: Tensor) -> Tensor:
    """The gradient by `leaf` of the embedding's component along `direction`, in float32 at the least.

    Along a direction of length about 1, since in 16 bits a small one falls below what can be told from 0.
    """
    largest = direction.abs().max().clamp_min(torch.finfo(torch.float32).tiny)
    (gradient,) = torch.autograd.grad(embedding, leaf, (direction / largest).to(embedding.dtype), retain_graph=True)
    return gradient.to(torch.promote_types(gradient.dtype, torch.float32)) * largest


def tail_products(tail: AttentionTail, directions: Tensor) -> Tensor:
    """Row times gradient [M, B, heads, h, w] of the embeddings' components along `directions` [M, B, D]."""
    leaf = tail.leaf.detach().requires_grad_()
    with torch.enable_grad():
        embedding = tail.embed(leaf)
        gradients = [
            torch.autograd.grad(embedding, leaf, d.to(embedding.dtype), retain_graph=True)[0] for d in directions
        ]
    return torch.stack([tail.products(gradient) for gradient in gradients]).detach().float()


class SpannedMaps:
    """What patches contribute to each logit, gathered while the slices stream by.

    The gradient of a logit by a slice's embedding is known when all slices have been seen. But it always lies in the
    span of a few vectors that are known before (see `PluginNetwork.gradient_span`), and row times gradient is linear
    in it. So the products along a basis of the span are kept, and the values of the last block, about as large as
    all tokens of the volume, need not be.
    """

    def __init__(self, span: Tensor) -> None:
        _, sizes, rows = torch.linalg.svd(span.detach().cpu().double(), full_matrices=False)
        # At least one row, so that a head of zeros gives maps of zeros.
        self._basis = rows[: max(1, int((sizes > 1e-7 * sizes.max()).sum()))]
        self._products: list[Tensor] = []

    def directions(self, slices: int, device: torch.device) -> Tensor:
        """The basis for each of so many slices [M, B, D]."""
        return self._basis.to(device, torch.float32)[:, None].expand(-1, slices, -1)

    def add(self, products: Tensor) -> None:
        """Keep the products [M, B, heads, h, w] of a batch of slices."""
        self._products.append(products[: len(self._basis)].cpu())

    def contributions(self, gradients: Tensor) -> Tensor:
        """For and against per patch [2, K, S, h, w], for the gradients [K, S, D] of the logits."""
        products = torch.cat(self._products, dim=1)
        shares = (gradients.cpu().double() @ self._basis.T).float()
        per_logit = [torch.einsum("sm,mshyx->shyx", share, products) for share in shares]
        return torch.stack([for_and_against(values, dim=1) for values in per_logit], dim=1)


def attention_density(
    attention: Mapping[str, Tensor], slice_weights: Mapping[str, Tensor], view_weights: Mapping[str, float],
    inside: Mapping[str, npt.NDArray[np.bool_]],
) -> dict[str, npt.NDArray[np.float32]]:  # fmt: skip
    """The paper's map per view [S, h, w] as densities. Attention is [S, h, w], slice weights [S], inside [h, w]."""
    relevance = {
        view: (rows * slice_weights[view][:, None, None] * view_weights[view]).cpu().numpy() * inside[view]
        for view, rows in attention.items()
    }
    total = sum(float(values.sum()) for values in relevance.values())
    return _densities(relevance, total, inside)


def class_density(
    contributions: Mapping[str, Tensor], inside: Mapping[str, npt.NDArray[np.bool_]]
) -> dict[str, npt.NDArray[np.float32]]:
    """The class maps per view [K, S, h, w] as densities of what speaks for the class.

    Contributions are [2, K, S, h, w], for and against. The even share is that of all evidence, for and against: where
    most of it speaks against the class, what little speaks for it stays faint instead of being stretched to the
    study's own maximum.
    """
    values = {view: maps.cpu().numpy().astype(np.float64) * inside[view] for view, maps in contributions.items()}
    results: dict[str, list[npt.NDArray]] = {view: [] for view in values}
    for k in range(next(iter(values.values())).shape[1]):
        total = sum(float(maps[:, k].sum()) for maps in values.values())
        in_favour = {view: maps[0, k] for view, maps in values.items()}
        for view, density in _densities(in_favour, total, inside).items():
            results[view].append(density)
    return {view: np.stack(maps) for view, maps in results.items()}


def _densities(
    relevance: Mapping[str, npt.NDArray], total: float, inside: Mapping[str, npt.NDArray[np.bool_]]
) -> dict[str, npt.NDArray[np.float32]]:
    """Relevance as multiples of its even share: a patch's share of `total`, times the patches of its view.

    Views that cover the same place add up, so that even relevance over all views gives 1 there. Patches of padding
    are not counted.
    """
    result = {}
    for view, values in relevance.items():
        patches = max(1, int(inside[view].sum())) * values.shape[-3]
        result[view] = (values * (patches / total if total > 0 else 0.0)).astype(np.float32)
    return result
