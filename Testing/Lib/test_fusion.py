"""Slice fusion: the formulas, and that neither the order of the slices nor padding changes anything."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import torch
from scipy import stats
from torch import Tensor, nn

from AnyMC3DLib.errors import InputError
from AnyMC3DLib.fusion import AttentionFusion, make_fusion

KINDS = ("attention", "mean", "median", "max")
WIDTH = 6


def fusion_of(kind: str) -> nn.Module:
    """A fusion in float64 whose query, if it has one, is not small."""
    fusion = make_fusion(kind, WIDTH).double()
    for parameter in fusion.parameters():
        nn.init.normal_(parameter, generator=torch.Generator().manual_seed(4))
    return fusion


def embeddings_of(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, WIDTH, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def reference(kind: str, H: npt.NDArray, fusion: nn.Module) -> tuple[npt.NDArray, npt.NDArray]:
    """Vector [D] and weights [S] of slices H [S, D], in NumPy."""
    count = len(H)
    if kind == "attention":
        scores = H @ fusion.query.detach().numpy() / np.sqrt(WIDTH)
        weights = np.exp(scores) / np.exp(scores).sum()
        return weights @ H, weights
    if kind == "mean":
        return H.mean(axis=0), np.full(count, 1 / count)
    order = np.argsort(H, axis=0)
    picks = [count - 1] if kind == "max" else sorted({(count - 1) // 2, count // 2})
    shares = np.stack([(order[picks] == s).mean() for s in range(count)])
    return (np.median if kind == "median" else np.max)(H, axis=0), shares


@pytest.mark.parametrize("count", [1, 2, 5, 8])
@pytest.mark.parametrize("kind", KINDS)
def test_a_fusion_agrees_with_numpy(kind: str, count: int) -> None:
    fusion, embeddings = fusion_of(kind), embeddings_of(3, count)
    vectors, weights = fusion(embeddings)
    for n in range(3):
        vector, shares = reference(kind, embeddings[n].numpy(), fusion)
        np.testing.assert_allclose(vectors[n].detach(), vector, rtol=1e-12, atol=1e-14)
        np.testing.assert_allclose(weights[n].detach(), shares, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("kind", KINDS)
def test_the_order_of_the_slices_changes_nothing_but_the_order_of_the_weights(kind: str) -> None:
    fusion, embeddings = fusion_of(kind), embeddings_of(2, 9)
    vectors, weights = fusion(embeddings)
    order = torch.randperm(9, generator=torch.Generator().manual_seed(1))
    shuffled, shuffled_weights = fusion(embeddings[:, order])
    torch.testing.assert_close(shuffled, vectors, rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(shuffled_weights, weights[:, order], rtol=1e-12, atol=1e-13)


FILLERS = [0.0, 1e30, float("inf"), float("-inf"), float("nan")]
COUNTS = (3, 7, 4)


def padded_with(filler: float) -> tuple[Tensor, Tensor]:
    """Three studies of different length, with `filler` in the padded slices, and the mask."""
    padded = torch.full((3, 7, WIDTH), filler, dtype=torch.float64)
    for n, count in enumerate(COUNTS):
        padded[n, :count] = embeddings_of(count, seed=n)
    return padded, torch.arange(7) < torch.tensor(COUNTS)[:, None]


@pytest.mark.parametrize("filler", FILLERS)
@pytest.mark.parametrize("kind", KINDS)
def test_padded_slices_have_weight_zero_and_change_nothing_whatever_they_hold(kind: str, filler: float) -> None:
    fusion = fusion_of(kind)
    padded, mask = padded_with(filler)
    vectors, weights = fusion(padded, mask)
    assert not weights[~mask].any()
    torch.testing.assert_close(weights.sum(dim=1), torch.ones(3, dtype=torch.float64))
    for n, count in enumerate(COUNTS):
        vector, alone = fusion(embeddings_of(count, seed=n)[None])
        torch.testing.assert_close(vectors[n], vector[0], rtol=1e-12, atol=1e-13)
        torch.testing.assert_close(weights[n, :count], alone[0], rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("filler", FILLERS)
@pytest.mark.parametrize("kind", KINDS)
def test_no_gradient_passes_through_padded_slices_whatever_they_hold(kind: str, filler: float) -> None:
    fusion = fusion_of(kind)
    padded, mask = padded_with(filler)
    (fusion(padded.requires_grad_(), mask)[0] ** 2).sum().backward()
    assert padded.grad[mask].any()
    assert not padded.grad[~mask].any()


@pytest.mark.parametrize("filler", FILLERS)
def test_the_query_learns_the_same_beside_padding_whatever_it_holds(filler: float) -> None:
    fusion = fusion_of("attention")
    padded, mask = padded_with(filler)
    (fusion(padded, mask)[0] ** 2).sum().backward()
    together = fusion.query.grad.clone()
    fusion.zero_grad()
    for n, count in enumerate(COUNTS):
        (fusion(embeddings_of(count, seed=n)[None])[0] ** 2).sum().backward()
    torch.testing.assert_close(together, fusion.query.grad, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_weights_sum_to_one_and_none_is_negative(kind: str) -> None:
    fusion = make_fusion(kind, WIDTH)
    _, weights = fusion(100 * embeddings_of(4, 33).float())
    assert (weights >= 0).all()
    torch.testing.assert_close(weights.sum(dim=1), torch.ones(4))


def test_large_scores_do_not_overflow() -> None:
    fusion = AttentionFusion(2)
    fusion.query.data = torch.tensor([1e4, 0.0])
    vectors, weights = fusion(torch.tensor([[[1.0, 2.0], [-1.0, 3.0]]]))
    assert weights.tolist() == [[1.0, 0.0]]
    assert vectors.tolist() == [[1.0, 2.0]]


def test_a_task_query_starts_as_a_truncated_normal_of_0_02() -> None:
    torch.manual_seed(0)
    query = AttentionFusion(20_000).query.detach().double().numpy()
    assert stats.kstest(query, stats.norm(scale=0.02).cdf).pvalue > 0.01
    assert 0.0195 < query.std() < 0.0205


def test_a_fresh_query_weighs_slices_about_evenly() -> None:
    torch.manual_seed(0)
    _, weights = AttentionFusion(WIDTH).double()(embeddings_of(1, 10))
    assert 0.08 < weights.min() <= weights.max() < 0.12


def test_an_unknown_fusion_is_refused() -> None:
    with pytest.raises(InputError, match="no slice fusion 'lstm': choose attention, mean, median or max"):
        make_fusion("lstm", 4)
