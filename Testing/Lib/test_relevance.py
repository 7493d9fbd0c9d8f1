"""From gradients and attention to densities, against autograd through everything and against counting."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from networks import WITH_CLASS_ATTENTION, backbone_of_kind, grey_slices, three_views, tiny_backbone, tiny_network
from torch import Tensor

from AnyMC3DLib.backbone import Backbone
from AnyMC3DLib.model import PluginNetwork
from AnyMC3DLib.relevance import attention_density, class_density, logit_gradients, tail_contributions
from AnyMC3DLib.spec import FusionSpec, HeadSpec

COUNTS = {"axial": 3, "coronal": 2, "sagittal": 4}


def network_of(backbone: Backbone, fusion: str) -> PluginNetwork:
    return tiny_network(
        backbone,
        task_type="multiclass",
        views=three_views(backbone),
        fusion=FusionSpec(kind=fusion),
        head=HeadSpec(standardise=True),
    )


def study_of(network: PluginNetwork) -> dict[str, Tensor]:
    return {v.name: grey_slices(COUNTS[v.name], seed=n) for n, v in enumerate(network.spec.views)}


@pytest.mark.parametrize("fusion", ["attention", "mean", "median", "max"])
def test_logit_gradients_are_autograds_by_each_slice_embedding(fusion: str) -> None:
    network = network_of(tiny_backbone(depth=1), fusion)
    embeddings = {name: torch.randn(count, 64) for name, count in COUNTS.items()}
    found = logit_gradients(network, embeddings)

    def logits(*parts: Tensor) -> Tensor:
        return network.fuse({name: part[None] for name, part in zip(embeddings, parts, strict=True)}).logits[0]

    jacobian = torch.autograd.functional.jacobian(logits, tuple(embeddings.values()))
    for (name, gradients), expected in zip(found.items(), jacobian, strict=True):
        assert gradients.shape == (3, COUNTS[name], 64)
        assert gradients.abs().max() > 1e-4
        torch.testing.assert_close(gradients, expected, rtol=1e-5, atol=1e-7)


def test_logit_gradients_are_found_where_gradients_are_off() -> None:
    network = network_of(tiny_backbone(depth=1), "attention")
    embeddings = {name: torch.randn(count, 64) for name, count in COUNTS.items()}
    with torch.no_grad():
        off = logit_gradients(network, embeddings)
    assert torch.equal(off["axial"], logit_gradients(network, embeddings)["axial"])
    assert all(parameter.grad is None for parameter in network.parameters())


@pytest.mark.parametrize("kind", [*WITH_CLASS_ATTENTION, "ResNet", "EfficientNet", "ConvNeXt", "average of tokens"])
def test_a_class_map_in_two_steps_is_the_gradient_of_the_logit_in_one(kind: str) -> None:
    backbone = backbone_of_kind(kind)
    network = network_of(backbone, "attention")
    study = study_of(network)
    encoded = {view.name: network.encode(view, study[view.name], tail=True) for view in network.spec.views}
    gradients = logit_gradients(network, {name: part.embedding for name, part in encoded.items()})
    leaves = {name: part.tail.leaf.detach().requires_grad_() for name, part in encoded.items()}
    embeddings = {name: encoded[name].tail.embed(leaf)[None] for name, leaf in leaves.items()}
    logits = network.fuse(embeddings).logits[0]
    for k in range(3):
        by_leaf = torch.autograd.grad(logits[k], list(leaves.values()), retain_graph=True)
        for name, gradient in zip(leaves, by_leaf, strict=True):
            expected = encoded[name].tail.contributions(gradient).detach()
            found = tail_contributions(encoded[name].tail, gradients[name])[:, k]
            assert found.shape[:2] == (2, COUNTS[name])
            torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5 * float(expected.abs().max()))


def in_favour(values: Tensor) -> Tensor:
    """Contributions that all speak for the class: [2, ...], for and against."""
    return torch.stack([values, torch.zeros_like(values)])


def inside_of(*shapes: tuple[int, int]) -> dict[str, np.ndarray]:
    return {f"v{n}": np.ones(shape, dtype=bool) for n, shape in enumerate(shapes)}


def test_even_attention_over_several_views_adds_up_to_one_everywhere() -> None:
    inside = inside_of((4, 5), (3, 3), (6, 2))
    slices = {"v0": 7, "v1": 2, "v2": 5}
    attention = {name: torch.full((slices[name], *flags.shape), 1 / flags.size) for name, flags in inside.items()}
    weights = {name: torch.full((count,), 1 / count) for name, count in slices.items()}
    density = attention_density(attention, weights, {"v0": 0.2, "v1": 0.5, "v2": 0.3}, inside)
    for name, share in {"v0": 0.2, "v1": 0.5, "v2": 0.3}.items():
        np.testing.assert_allclose(density[name], share, rtol=1e-5)
        assert density[name].shape == attention[name].shape
        assert density[name].dtype == np.float32


def test_even_contributions_over_several_views_add_up_to_one_everywhere() -> None:
    inside = inside_of((4, 5), (3, 3))
    contributions = {
        "v0": torch.full((2, 2, 7, 4, 5), 0.3 / (7 * 20)),
        "v1": torch.full((2, 2, 2, 3, 3), 0.7 / (2 * 9)),
    }
    contributions = {name: in_favour(part[0]) for name, part in contributions.items()}
    density = class_density(contributions, inside)
    np.testing.assert_allclose(density["v0"], 0.3, rtol=1e-5)
    np.testing.assert_allclose(density["v1"], 0.7, rtol=1e-5)


def test_the_scale_of_the_relevance_does_not_matter() -> None:
    inside = inside_of((4, 5))
    contributions = {"v0": torch.rand(2, 2, 3, 4, 5)}
    once = class_density(contributions, inside)["v0"]
    np.testing.assert_allclose(class_density({"v0": 1e-3 * contributions["v0"]}, inside)["v0"], once, rtol=1e-4)


def test_attention_is_weighted_by_slice_and_view() -> None:
    attention = {"v0": torch.rand(2, 3, 3), "v1": torch.rand(1, 3, 3)}
    weights = {"v0": torch.tensor([0.9, 0.1]), "v1": torch.tensor([1.0])}
    density = attention_density(attention, weights, {"v0": 0.25, "v1": 0.75}, inside_of((3, 3), (3, 3)))
    parts = {
        "v0": (0.25 * weights["v0"][:, None, None] * attention["v0"]).numpy(),
        "v1": 0.75 * attention["v1"].numpy(),
    }
    total = sum(part.sum() for part in parts.values())
    np.testing.assert_allclose(density["v0"], parts["v0"] / total * 18, rtol=1e-5)
    np.testing.assert_allclose(density["v1"], parts["v1"] / total * 9, rtol=1e-5)


def test_padding_is_not_counted_among_the_patches() -> None:
    flags = np.zeros((4, 6), dtype=bool)
    flags[1:3] = True
    contributions = {"v0": in_favour(torch.from_numpy(np.broadcast_to(flags, (1, 5, 4, 6)).astype(np.float32)))}
    density = class_density(contributions, {"v0": flags})["v0"][0]
    np.testing.assert_allclose(density[:, flags], 1.0, rtol=1e-6)
    assert not density[:, ~flags].any()


def test_even_relevance_is_one_inside_and_nothing_on_padding() -> None:
    inside = {"axial": np.array([[True, True, False]])}
    attention = attention_density(
        {"axial": torch.ones(2, 1, 3)}, {"axial": torch.full((2,), 0.5)}, {"axial": 1.0}, inside
    )
    classes = class_density({"axial": in_favour(torch.ones(1, 2, 1, 3))}, inside)
    np.testing.assert_allclose(attention["axial"][0], [[1, 1, 0]], rtol=1e-6)
    np.testing.assert_allclose(classes["axial"][0, 0], [[1, 1, 0]], rtol=1e-6)


def test_what_speaks_against_a_class_is_not_shown_but_counts_as_evidence() -> None:
    contributions = torch.stack([torch.zeros(1, 1, 2, 5), torch.ones(1, 1, 2, 5)])
    contributions[:, 0, 0, 0, 0] = torch.tensor([1.0, 0.0])
    density = class_density({"v0": contributions}, inside_of((2, 5)))["v0"]
    # A tenth of all evidence lies in one of ten patches: the even share, not ten times it.
    assert density[0, 0, 0, 0] == pytest.approx(1.0)
    assert density.sum() == pytest.approx(1.0)


def test_a_logit_without_any_relevance_has_a_map_of_zeros() -> None:
    contributions = in_favour(torch.stack([torch.zeros(1, 2, 2), torch.ones(1, 2, 2)]))
    density = class_density({"v0": contributions}, inside_of((2, 2)))["v0"]
    assert not density[0].any()
    np.testing.assert_allclose(density[1], 1.0)


def test_each_class_has_a_total_of_its_own_over_all_views() -> None:
    contributions = {"v0": torch.zeros(2, 2, 1, 1, 2), "v1": torch.zeros(2, 2, 1, 1, 2)}
    contributions["v0"][0, 0, 0, 0, 0] = 3.0
    contributions["v1"][0, 0, 0, 0, 1] = 1.0
    contributions["v1"][0, 1] = 5.0
    density = class_density(contributions, inside_of((1, 2), (1, 2)))
    assert density["v0"][0].ravel() == pytest.approx([1.5, 0])
    assert density["v1"][0].ravel() == pytest.approx([0, 0.5])
    assert density["v1"][1].ravel() == pytest.approx([1, 1])
