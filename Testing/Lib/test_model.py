"""The network: views, fusion, head and probabilities."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from networks import grey_slices, plugin_spec, randomised, three_views, tiny_backbone, tiny_network, view
from scipy.special import expit, softmax
from torch import Tensor

from AnyMC3DLib.backbone import Backbone
from AnyMC3DLib.errors import BackboneError, PluginError
from AnyMC3DLib.model import PluginNetwork, load_tensors, padded, probabilities
from AnyMC3DLib.spec import ClassSpec, FusionSpec, HeadSpec, LoRASpec, PluginSpec


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return tiny_backbone(depth=2)


def study(spec: PluginSpec, counts: dict[str, int], seed: int = 0) -> dict[str, Tensor]:
    """Random slices of each view."""
    return {v.name: grey_slices(counts[v.name], seed=seed + n) for n, v in enumerate(spec.views)}


COUNTS = [
    {"axial": 3, "coronal": 5, "sagittal": 2},
    {"axial": 1, "coronal": 2, "sagittal": 6},
    {"axial": 4, "coronal": 1, "sagittal": 2},
]


@pytest.mark.parametrize("views", ["attention", "mean"])
@pytest.mark.parametrize("kind", ["attention", "mean", "median", "max"])
def test_studies_of_different_slice_counts_in_one_batch_are_each_as_alone(
    backbone: Backbone, kind: str, views: str
) -> None:
    network = tiny_network(backbone, views=three_views(backbone), fusion=FusionSpec(kind=kind, views=views))
    studies = [study(network.spec, counts, seed=10 * n) for n, counts in enumerate(COUNTS)]
    together = network(studies)
    for n, alone in enumerate(network([s]) for s in studies):
        torch.testing.assert_close(together.logits[n], alone.logits[0], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(together.view_weights[n], alone.view_weights[0], rtol=1e-5, atol=1e-6)
        for name, count in COUNTS[n].items():
            weights = together.slice_weights[name][n]
            torch.testing.assert_close(weights[:count], alone.slice_weights[name][0], rtol=1e-5, atol=1e-6)
            assert not weights[count:].any()
    assert together.logits.std() > 1e-3
    network.close()


@pytest.mark.parametrize("kind", ["attention", "mean", "median", "max"])
def test_shuffling_the_slices_changes_no_probability(backbone: Backbone, kind: str) -> None:
    network = tiny_network(backbone, fusion=FusionSpec(kind=kind))
    slices = grey_slices(9)
    order = torch.randperm(9, generator=torch.Generator().manual_seed(3))
    straight = network.probabilities(network([{"axial": slices}]).logits)
    shuffled = network.probabilities(network([{"axial": slices[order]}]).logits)
    torch.testing.assert_close(shuffled, straight, rtol=1e-5, atol=1e-6)
    network.close()


def test_the_logits_are_the_formula_of_the_paper_over_views(backbone: Backbone) -> None:
    network = tiny_network(backbone, views=three_views(backbone), head=HeadSpec(standardise=True))
    one = study(network.spec, COUNTS[0])
    state = {name: tensor.double().numpy() for name, tensor in network.state_dict().items()}
    vectors = []
    for name in one:
        H = network.encode(next(v for v in network.spec.views if v.name == name), one[name]).embedding
        H = (H.detach().double().numpy() - state[f"shift_{name}"]) * state[f"scale_{name}"]
        vectors.append(softmax(H @ state[f"fusions.{name}.query"] / np.sqrt(64)) @ H)
    view_weights = softmax(np.stack(vectors) @ state["view_fusion.query"] / np.sqrt(64))
    logit = (view_weights @ np.stack(vectors)) @ state["head.weight"].T + state["head.bias"]
    fused = network([one])
    np.testing.assert_allclose(fused.logits[0].detach(), logit, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(fused.view_weights[0].detach(), view_weights, rtol=1e-4, atol=1e-5)
    network.close()


def test_each_view_has_an_adapter_and_a_query_of_its_own(backbone: Backbone) -> None:
    network = tiny_network(backbone, views=three_views(backbone))
    slices = grey_slices(2)
    by_view = [network.encode(v, slices).embedding for v in network.spec.views]
    assert not torch.allclose(by_view[0], by_view[1], atol=1e-2)
    assert not torch.allclose(by_view[0], by_view[2], atol=1e-2)
    assert len({network.fusions[n].query.sum().item() for n in network.fusions}) == 3
    network.close()


def test_a_view_is_normalised_as_the_plugin_was_trained(backbone: Backbone) -> None:
    spec = plugin_spec(backbone)
    own = dataclasses.replace(spec.views[0].preprocessing, mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7))
    spec = dataclasses.replace(spec, views=(dataclasses.replace(spec.views[0], preprocessing=own),))
    network = PluginNetwork(spec, backbone)
    slices = grey_slices(2)
    expected = backbone.encode(slices, mean=own.mean, std=own.std).embedding
    assert torch.equal(network.encode(spec.views[0], slices).embedding, expected)
    assert not torch.allclose(expected, backbone.encode(slices).embedding, atol=1e-2)
    network.close()


def test_one_view_counts_fully(backbone: Backbone) -> None:
    network = tiny_network(backbone)
    assert network([{"axial": grey_slices(3)}]).view_weights.tolist() == [[1.0]]
    assert network.view_fusion is None
    network.close()


def test_standardising_shifts_and_scales_before_the_fusion(backbone: Backbone) -> None:
    network = tiny_network(backbone, head=HeadSpec(standardise=True), lora=LoRASpec(rank=0))
    slices = grey_slices(6)
    embeddings = backbone.encode(slices).embedding
    network.shift_axial.copy_(embeddings.mean(dim=0))
    network.scale_axial.copy_(1 / embeddings.std(dim=0))
    ready = network.standardise("axial", embeddings)
    torch.testing.assert_close(ready.mean(dim=0), torch.zeros(64), atol=1e-4, rtol=0)
    torch.testing.assert_close(ready.std(dim=0), torch.ones(64), atol=1e-3, rtol=0)
    direct = network.fusions["axial"](ready[None])[0]
    torch.testing.assert_close(network([{"axial": slices}]).logits, network.head(direct), rtol=1e-4, atol=1e-4)


def test_a_head_without_standardising_leaves_embeddings_as_they_are(backbone: Backbone) -> None:
    network = tiny_network(backbone)
    embeddings = torch.randn(2, 3, 64)
    assert network.standardise("axial", embeddings) is embeddings
    assert not any("shift" in name for name in network.state_dict())
    network.close()


def test_the_state_dict_holds_nothing_of_the_backbone(backbone: Backbone) -> None:
    network = tiny_network(backbone, views=three_views(backbone))
    parts = {name.partition(".")[0] for name in network.state_dict()}
    assert parts == {"adapters", "fusions", "view_fusion", "head"}
    assert all(parameter.requires_grad for parameter in network.parameters())
    network.close()


def test_dropout_acts_in_training_alone(backbone: Backbone) -> None:
    network = randomised(PluginNetwork(plugin_spec(backbone, head=HeadSpec(dropout=0.5)), backbone))
    one = [{"axial": grey_slices(3)}]
    assert torch.equal(network(one).logits, network(one).logits)
    network.train()
    torch.manual_seed(0)
    assert not torch.equal(network(one).logits, network(one).logits)
    assert not backbone.model.training
    network.close()


# Probabilities


def spec_of(backbone: Backbone, task: str, temperature: float) -> PluginSpec:
    return plugin_spec(backbone, task_type=task, temperature=temperature)


@pytest.mark.parametrize("temperature", [1.0, 0.4, 2.5])
def test_a_binary_probability_is_the_sigmoid_of_one_logit_over_the_temperature(
    backbone: Backbone, temperature: float
) -> None:
    logits = torch.tensor([[-3.0], [0.0], [0.7], [40.0], [-200.0]])
    found = probabilities(logits, spec_of(backbone, "binary", temperature)).numpy()
    expected = expit(logits.double().numpy()[:, 0] / temperature)
    np.testing.assert_allclose(found[:, 1], expected, rtol=1e-12)
    np.testing.assert_allclose(found.sum(axis=1), 1.0, rtol=0, atol=1e-15)
    assert found.shape == (5, 2)


@pytest.mark.parametrize("temperature", [1.0, 0.4, 2.5])
@pytest.mark.parametrize(("task", "function"), [("multiclass", lambda z: softmax(z, axis=1)), ("multilabel", expit)])
def test_more_classes_are_a_softmax_or_a_sigmoid_each(
    backbone: Backbone, task: str, function: object, temperature: float
) -> None:
    logits = torch.randn(6, 3, generator=torch.Generator().manual_seed(0)) * 5
    spec = spec_of(backbone, task, temperature)
    found = probabilities(logits, spec).numpy()
    np.testing.assert_allclose(found, function(logits.double().numpy() / temperature), rtol=1e-12)
    assert spec.logits == 3


def test_a_multilabel_plugin_may_have_one_class(backbone: Backbone) -> None:
    network = tiny_network(backbone, task_type="multilabel", classes=(ClassSpec(name="lesion"),))
    logits = network([{"axial": grey_slices(2)}]).logits
    assert network.probabilities(logits).shape == (1, 1)
    network.close()


def test_padding_says_what_is_a_slice() -> None:
    embeddings, mask = padded([torch.ones(2, 3), torch.ones(4, 3)])
    assert embeddings.shape == (2, 4, 3)
    assert mask.tolist() == [[True, True, False, False], [True] * 4]
    assert not embeddings[0, 2:].any()


# Tensors that do not fit


def test_tensors_that_are_missing_extra_misshapen_or_not_finite_are_refused(backbone: Backbone) -> None:
    network = tiny_network(backbone)
    good = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    nan = good["head.weight"].clone()
    nan[0, 5] = float("nan")
    for tensors, message in (
        ({n: t for n, t in good.items() if n != "head.bias"}, "do not fit its description, such as head.bias"),
        ({**good, "head.more": torch.ones(1)}, "do not fit its description, such as head.more"),
        ({**good, "head.bias": torch.ones(3)}, r"head.bias of plugin 'Test' is \[3\], but .* needs \[1\]"),
        ({**good, "head.weight": nan}, "head.weight of plugin 'Test' holds values that are not finite"),
    ):
        with pytest.raises(PluginError, match=message):
            load_tensors(network, tensors)
    assert all(torch.equal(tensor, good[name]) for name, tensor in network.state_dict().items())
    network.close()


@pytest.mark.parametrize("name", ["values", "type", "training"])
def test_a_view_with_a_name_that_torch_keeps_is_refused(backbone: Backbone, name: str) -> None:
    views = (dataclasses.replace(view(backbone), name=name),)
    with pytest.raises(PluginError, match=f"cannot be called '{name}'"):
        PluginNetwork(plugin_spec(backbone, views=views), backbone)
    assert backbone.sites.keys == []


def test_a_network_that_cannot_be_made_leaves_nothing_on_the_backbone(monkeypatch: pytest.MonkeyPatch) -> None:
    own = tiny_backbone(depth=1)

    def fail(*_: object) -> None:
        raise BackboneError("from within")

    monkeypatch.setattr(own, "check_reach", fail)
    with pytest.raises(BackboneError, match="from within"):
        PluginNetwork(plugin_spec(own, views=(view(own), view(own, "coronal"))), own)
    assert own.sites.keys == []
