"""Many plugins in one pass: each answers as alone, what they share is run once, and the backbone keeps no trace."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
import torch
from networks import backbone_of_kind, grey_slices, three_views, tiny_backbone, tiny_network
from torch import Tensor, nn
from volumes import study

from AnyMC3DLib import job, lora, relevance
from AnyMC3DLib.answer import patches_inside
from AnyMC3DLib.backbone import Backbone
from AnyMC3DLib.classifier import Classifier
from AnyMC3DLib.errors import Cancelled
from AnyMC3DLib.model import PluginNetwork
from AnyMC3DLib.prediction import Prediction, RelevanceMap, Study
from AnyMC3DLib.preprocessing import preprocess
from AnyMC3DLib.relevance import SpannedMaps, logit_gradients, tail_contributions, tail_products
from AnyMC3DLib.spec import ClassSpec, FusionSpec, HeadSpec, LoRASpec
from AnyMC3DLib.weights import digest_of

STUDY = Study({"image": study()})
DEPTH = 3
KINDS = {
    "class token": {"depth": DEPTH},
    "registers": {"depth": DEPTH, "reg_tokens": 3},
    "pooling query": {"depth": DEPTH, "reg_tokens": 1, "global_pool": "map"},
    "average of tokens": {"depth": DEPTH, "global_pool": "avg"},
}
# How many slices a batch holds, whether plugins run side by side, and the maps that are asked for.
WAYS = [(3, False, "all"), (1, True, "all"), (64, True, "all"), (3, True, "attention"), (1, False, "none")]


def small_backbone(kind: str) -> Backbone:
    return tiny_backbone("test_vit", **KINDS[kind]) if kind in KINDS else backbone_of_kind(kind)


def mixture(backbone: Backbone) -> dict[str, dict]:
    """Plugins that differ in all that a plugin can differ in; one has two members."""
    views = three_views(backbone, size=(32, 48) if backbone.kind == "transformer" else (48, 64))
    first, last = ("patch_embed", "mlp") if backbone.kind == "transformer" else ("convolution", "pointwise")
    plugins: dict[str, dict] = {
        "whole": {"lora": LoRASpec(rank=2), "task_type": "multiclass"},
        "late": {"lora": LoRASpec(rank=4, targets=(last,), last_blocks=1)},
        "also late": {"lora": LoRASpec(rank=3, last_blocks=1), "fusion": FusionSpec(kind="mean", views="mean")},
        "first": {"lora": LoRASpec(rank=1, targets=(first,)), "head": HeadSpec(standardise=True)},
        "frozen": {"lora": LoRASpec(rank=0), "fusion": FusionSpec(views="concat")},
        "ordered": {"lora": LoRASpec(rank=2, last_blocks=2), "fusion": FusionSpec(kind="median")},
        "greatest": {"lora": LoRASpec(rank=1, last_blocks=1), "fusion": FusionSpec(kind="max")},
        "members": {"lora": LoRASpec(rank=2, last_blocks=2), "task_type": "multilabel", "members": 2},
    }
    seen = [views, views[:1], views[1:], views[:1], views[:2], views[:1], views[2:], views[:1]]
    return {name: {**fields, "views": part} for (name, fields), part in zip(plugins.items(), seen, strict=True)}


def moderate(network: PluginNetwork) -> PluginNetwork:
    """The network with smaller weights, so that probabilities lie well within 0 and 1 and rounding stays rounding."""
    with torch.no_grad():
        for name, tensor in network.state_dict().items():
            factors = {"B": 0.4 if network.backbone.kind == "transformer" else 0.1, "query": 0.1}
            tensor.mul_(0.15 if name == "head.weight" else factors.get(name.rpartition(".")[2], 1.0))
    return network


def engine_of(backbone: Backbone, plugins: Mapping[str, Mapping], **options: object) -> Classifier:
    engine = Classifier(backbone, **options)
    for seed, (name, fields) in enumerate(plugins.items()):
        seeds = range(10 * seed, 10 * seed + fields.get("members", 1))
        networks = [moderate(tiny_network(backbone, seed=n, name=name, **fields)) for n in seeds]
        engine.add(networks[0].spec, networks)
    return engine


def plainly(network: PluginNetwork) -> tuple[list[float], dict[str, Tensor], dict[str, RelevanceMap]]:
    """Probabilities, slice weights and maps from whole views, encoded with hooks; maps with full gradients."""
    views = network.spec.views
    slices = {v.name: preprocess(study(), v.preprocessing) for v in views}
    with torch.no_grad():
        encoded = {
            v.name: network.encode(v, torch.from_numpy(slices[v.name].array), attention=True, tail=True) for v in views
        }
        fused = network.fuse({name: part.embedding[None] for name, part in encoded.items()})
    probabilities = network.probabilities(fused.logits)[0].tolist()
    weights = {name: w[0] for name, w in fused.slice_weights.items()}
    gradients = logit_gradients(network, {name: part.embedding for name, part in encoded.items()})
    contributions = {name: tail_contributions(part.tail, gradients[name]) for name, part in encoded.items()}
    inside = {name: patches_inside(slices[name], maps.shape[-2:]) for name, maps in contributions.items()}
    classes, attention = relevance.class_density(contributions, inside), {}
    if network.backbone.has_class_attention:
        shares = dict(zip(weights, fused.view_weights[0].tolist(), strict=True))
        attention = relevance.attention_density(
            {n: part.attention for n, part in encoded.items()}, weights, shares, inside
        )
    maps = {name: RelevanceMap(attention.get(name), classes[name], np.eye(4)) for name in classes}
    return probabilities, weights, maps


def assert_as_plainly(found: Prediction, networks: list[PluginNetwork], wanted: str) -> None:
    """The prediction is the mean of what the networks say of whole views, with the wanted maps."""
    probabilities, weights, maps = zip(*map(plainly, networks), strict=True)
    backbone = networks[0].backbone
    assert list(found.probabilities.values()) == pytest.approx(np.mean(probabilities, axis=0), abs=1e-5)
    for name, shares in found.slices.items():
        np.testing.assert_allclose(shares.weights, np.mean([w[name] for w in weights], axis=0), atol=1e-5)
    possible = backbone.explains if wanted == "all" else backbone.has_class_attention and wanted == "attention"
    assert list(found.maps) == ([v.name for v in found.spec.views] if possible else [])
    for name, shown in found.maps.items():
        assert (shown.classes is None) == (wanted != "all")
        assert (shown.attention is None) == (not backbone.has_class_attention)
        for kind in ("classes", "attention"):
            if getattr(shown, kind) is not None:
                expected = np.mean([getattr(m[name], kind) for m in maps], axis=0)
                np.testing.assert_allclose(getattr(shown, kind), expected, atol=1e-4 * max(1, expected.max()))


# Each as alone


@pytest.mark.parametrize("kind", [*KINDS, "norms within attention", "DINOv3", "ConvNeXt", "ResNet"])
def test_a_mixture_of_plugins_gives_what_each_network_gives_of_whole_views(kind: str) -> None:
    backbone = small_backbone(kind)
    plugins = mixture(backbone)
    engine = engine_of(backbone, plugins)
    networks = {name: plugin.networks for name, plugin in engine._plugins.items()}
    for batch, together, maps in WAYS:
        other = Classifier(backbone, batch=batch, together=together)
        for name in networks:
            other.add(networks[name][0].spec, networks[name])
        found = other.classify(STUDY, maps=maps)
        assert list(found) == list(plugins)
        for name, prediction in found.items():
            assert_as_plainly(prediction, networks[name], maps)
        said = [p for prediction in found.values() for p in prediction.probabilities.values()]
        assert sum(0.02 < p < 0.98 for p in said) > len(said) / 2


@pytest.mark.parametrize("together", [False, True])
@pytest.mark.parametrize("kind", ["registers", "EfficientNet"])
def test_the_order_and_the_company_of_plugins_do_not_matter(kind: str, together: bool) -> None:
    backbone = small_backbone(kind)
    engine = engine_of(backbone, mixture(backbone), batch=3, together=together)
    expected = engine.classify(STUDY)
    names = list(expected)
    for chosen in (names[::-1], names[::2], names[3:4], [names[4], names[0]], [*names[5:], names[5]], []):
        found = engine.classify(STUDY, plugins=chosen)
        assert list(found) == list(dict.fromkeys(chosen))
        for name, prediction in found.items():
            assert prediction.probabilities == pytest.approx(expected[name].probabilities, abs=1e-5)
            for view_name, maps in prediction.maps.items():
                classes = expected[name].maps[view_name].classes
                np.testing.assert_allclose(maps.classes, classes, atol=1e-4 * max(1, classes.max()))


# No trace


def trace(model: nn.Module) -> dict[str, object]:
    """Every tensor's identity and bytes, every hook, and every forward of a module's own."""
    found: dict[str, object] = {}
    for name, module in model.named_modules():
        found[name] = (list(module._forward_hooks), list(module._forward_pre_hooks), vars(module).get("forward"))
        for own, tensor in (*module._parameters.items(), *module._buffers.items()):
            found[f"{name}.{own}"] = None if tensor is None else (id(tensor), tensor.numpy().tobytes())
    return found


class Broken(Exception): ...


@pytest.mark.parametrize("together", [False, True])
@pytest.mark.parametrize("kind", ["class token", "EfficientNet"])
def test_the_backbone_is_the_same_bit_for_bit_after_work_that_ended_cancelled_or_broken(
    monkeypatch: pytest.MonkeyPatch, kind: str, together: bool
) -> None:
    backbone = small_backbone(kind)
    engine = engine_of(backbone, mixture(backbone), batch=3, together=together)
    before, digest = trace(backbone.model), backbone.digest
    expected = engine.classify(STUDY)
    assert trace(backbone.model) == before
    reports: list[object] = []
    engine.classify(STUDY, progress=reports.append)
    for stop in range(1, len(reports), max(1, len(reports) // 9)):
        asked: list[int] = []
        with pytest.raises(Cancelled):
            engine.classify(STUDY, cancelled=lambda asked=asked, stop=stop: len(asked) >= stop or asked.append(1))
        assert trace(backbone.model) == before
    # Broken within the network: a hook of the last layers counts down.
    last = backbone.model.get_submodule("norm" if kind == "class token" else "conv_head")
    for stop in (0, 3, 11):
        left = [stop]

        def count_down(*_: object, left: list[int] = left) -> None:
            left[0] -= 1
            if left[0] < 0:
                raise Broken("from within")

        handle = last.register_forward_pre_hook(count_down)
        with pytest.raises(Broken, match="from within"):
            engine.classify(STUDY)
        handle.remove()
        assert trace(backbone.model) == before
    assert digest_of(backbone.model) == digest
    after = engine.classify(STUDY)
    assert {n: p.probabilities for n, p in after.items()} == {n: p.probabilities for n, p in expected.items()}
    for name in list(engine.plugins):
        engine.unload(name)
    assert backbone.sites.keys == []


# What is shared is run once


@pytest.mark.parametrize("together", [False, True])
def test_blocks_before_the_first_adapted_one_run_once_a_batch_for_all_plugins(
    monkeypatch: pytest.MonkeyPatch, together: bool
) -> None:
    backbone = small_backbone("class token")
    plugins: dict[str, dict] = {name: {"lora": LoRASpec(rank=2, last_blocks=1)} for name in "AB"}
    plugins["C"] = {"lora": LoRASpec(rank=4, last_blocks=1, targets=("mlp",)), "members": 2}
    plugins["D"] = {"lora": LoRASpec(rank=1, last_blocks=2)}
    # Of four slices two at a time; side by side the rows of four lanes count.
    engine = engine_of(backbone, plugins, batch=8 if together else 2, together=together)
    engine.classify(STUDY)  # which entrances are exact has been tried out now
    ran, cut = [0] * DEPTH, []
    for number, block in enumerate(backbone.model.blocks):
        # A layer within: a block that is passed by is called too, and gives its stand-in.
        block.norm1.register_forward_hook(lambda *_, n=number: ran.__setitem__(n, ran[n] + 1))
    monkeypatch.setattr(job, "preprocess", lambda *a, **k: cut.append(1) or preprocess(*a, **k))
    engine.classify(STUDY, plugins=list("ABC"))
    assert (ran, len(cut)) == ([2, 2, 2 if together else 8], 1)
    ran[:] = [0] * DEPTH
    engine.classify(STUDY)
    assert (ran, len(cut)) == ([2, 4, 4 if together else 10], 2)


@pytest.mark.parametrize("together", [False, True])
@pytest.mark.parametrize("last_blocks", [None, 1])
def test_a_plugin_that_is_alone_runs_merged(
    monkeypatch: pytest.MonkeyPatch, together: bool, last_blocks: int | None
) -> None:
    backbone = small_backbone("registers")
    plugins = {name: {"lora": LoRASpec(rank=2, last_blocks=last_blocks)} for name in "AB"}
    engine = engine_of(backbone, plugins, batch=3, together=together)
    expected = engine.classify(STUDY)["A"].probabilities

    def fail(*_: object) -> None:
        raise Broken("a low-rank step")

    monkeypatch.setattr(lora.LoRAPair, "forward", fail)
    monkeypatch.setattr(lora, "lowrank_linear", fail)
    assert engine.classify(STUDY, plugins=["A"])["A"].probabilities == pytest.approx(expected, abs=1e-5)
    if together:
        with pytest.raises(Broken, match="a low-rank step"):
            engine.classify(STUDY)
    else:
        assert engine.classify(STUDY)["A"].probabilities == pytest.approx(expected, abs=1e-5)


# Class maps from a few directions


def spanned_network(fusion: str, views: str | None, classes: int) -> PluginNetwork:
    backbone = tiny_backbone(depth=1)
    return tiny_network(
        backbone,
        task_type="binary" if classes == 1 else "multilabel",
        classes=tuple(ClassSpec(name=f"c{n}") for n in range(max(2, classes))),
        views=three_views(backbone)[: 1 if views is None else 3],
        fusion=FusionSpec(kind=fusion, views=views or "attention"),
        head=HeadSpec(standardise=True),
    )


def assert_maps_from_the_span(network: PluginNetwork) -> None:
    """Two batches' products along the span give what full gradients give."""
    slices = grey_slices(5)
    encoded = {v.name: network.encode(v, slices, tail=True) for v in network.spec.views}
    gradients = logit_gradients(network, {name: part.embedding for name, part in encoded.items()})
    for v in network.spec.views:
        expected = tail_contributions(encoded[v.name].tail, gradients[v.name])
        spanned = SpannedMaps(network.gradient_span(v.name))
        for part in slices.split(3):
            tail = network.encode(v, part, tail=True).tail
            spanned.add(tail_products(tail, spanned.directions(len(part), torch.device("cpu"))))
        found = spanned.contributions(gradients[v.name])
        assert found.shape == expected.shape
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5 * float(expected.max()))


@pytest.mark.parametrize("classes", [1, 3, 18])
@pytest.mark.parametrize("views", [None, "attention", "mean", "concat"])
@pytest.mark.parametrize("fusion", ["attention", "mean"])
def test_maps_from_the_span_are_those_of_full_gradients(fusion: str, views: str | None, classes: int) -> None:
    network = spanned_network(fusion, views, classes)
    generator = torch.Generator().manual_seed(4)
    embeddings = {v.name: torch.randn(5 + n, 64, generator=generator) for n, v in enumerate(network.spec.views)}
    for name, gradients in logit_gradients(network, embeddings).items():
        span = network.gradient_span(name).double()
        rows = gradients.double().flatten(0, 1)
        share = torch.linalg.lstsq(span.T, rows.T, driver="gelsd").solution
        assert (span.T @ share - rows.T).norm() < 1e-6 * rows.norm()
        assert len(span) < 64
    assert_maps_from_the_span(network)


@pytest.mark.parametrize("fusion", ["median", "max"])
def test_fusions_that_pick_features_slice_by_slice_have_no_span(fusion: str) -> None:
    assert spanned_network(fusion, None, 3).gradient_span("axial") is None


@pytest.mark.parametrize(
    "what", ["no query", "equal rows", "an empty row", "tiny rows", "a lone query", "nothing at all"]
)
@torch.no_grad()
def test_a_degenerate_span_gives_the_same_maps(what: str) -> None:
    network = spanned_network("attention", None, 3)
    weight, query = network.head.weight, network.fusions["axial"].query
    if what in ("no query", "nothing at all"):
        query.zero_()
    if what == "equal rows":
        weight[1] = weight[0]
    if what == "an empty row":
        weight[2] = 0
    if what == "tiny rows":
        weight.mul_(1e-6)
    if what in ("a lone query", "nothing at all"):
        weight.zero_()
    assert_maps_from_the_span(network)


@pytest.mark.parametrize("together", [False, True])
def test_a_head_of_zeros_is_answered_with_empty_maps(together: bool) -> None:
    backbone = small_backbone("class token")
    engine = engine_of(backbone, {n: {"fusion": FusionSpec(kind="mean")} for n in "AB"}, together=together)
    with torch.no_grad():
        for plugin in engine._plugins.values():
            plugin.networks[0].head.weight.zero_()
    for prediction in engine.classify(STUDY).values():
        assert not prediction.maps["axial"].classes.any()
