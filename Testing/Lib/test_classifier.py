"""The engine: the same answer however the work is cut up and the study is stored, and one that can be understood."""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from networks import (
    backbone_of_kind,
    plugin_spec,
    three_views,
    tiny_backbone,
    tiny_network,
    view,
    write_plugin,
)
from volumes import HEADERS, anatomy, rotation, stored, study

from AnyMC3DLib import job
from AnyMC3DLib.answer import decide, patches_inside
from AnyMC3DLib.backbone import Backbone
from AnyMC3DLib.classifier import Classifier
from AnyMC3DLib.errors import Cancelled, InputError, PluginError
from AnyMC3DLib.geometry import transform_points
from AnyMC3DLib.heatmap import class_hot_spots, heatmap
from AnyMC3DLib.plugin import digest_of_file
from AnyMC3DLib.prediction import Prediction, RelevanceMap, Study
from AnyMC3DLib.preprocessing import Box, preprocess
from AnyMC3DLib.progress import Progress
from AnyMC3DLib.spec import ClassSpec, FusionSpec, IntensitySpec, LoRASpec, RegionSpec, SliceSpec
from AnyMC3DLib.volume import Volume

MODELS = ("registers", "EfficientNet")


@pytest.fixture(scope="module")
def models() -> dict[str, Backbone]:
    return {"vit": tiny_backbone(depth=2), **{kind: backbone_of_kind(kind) for kind in MODELS}}


def lent(backbone: Backbone) -> Iterator[Backbone]:
    """A backbone of the module's, without adapters before and after."""
    assert backbone.sites.keys == []
    yield backbone
    for key in backbone.sites.keys:
        backbone.sites.detach(key)


@pytest.fixture(params=MODELS)
def backbone(request: pytest.FixtureRequest, models: dict[str, Backbone]) -> Iterator[Backbone]:
    yield from lent(models[request.param])


@pytest.fixture
def vit(models: dict[str, Backbone]) -> Iterator[Backbone]:
    yield from lent(models["vit"])


def engine_with(backbone: Backbone, *, batch: int = 16, seed: int = 3, **fields: object) -> Classifier:
    """An engine with one random plugin called 'Test'."""
    engine = Classifier(backbone, batch=batch)
    network = tiny_network(backbone, seed=seed, **fields)
    engine.add(network.spec, [network])
    return engine


def answer(engine: Classifier, volume: Volume, **options: object) -> Prediction:
    return engine.classify(Study({"image": volume}), **options)["Test"]


def assert_same(found: Prediction, expected: Prediction, tolerance: float = 1e-5) -> None:
    """The same probabilities, slice weights and maps."""
    assert found.probabilities.keys() == expected.probabilities.keys()
    for name, probability in expected.probabilities.items():
        assert found.probabilities[name] == pytest.approx(probability, abs=tolerance)
    for name, weights in expected.slices.items():
        np.testing.assert_allclose(found.slices[name].weights, weights.weights, atol=tolerance)
    assert found.maps.keys() == expected.maps.keys()
    for name, maps in expected.maps.items():
        scale = max(1.0, float(maps.classes.max()))
        np.testing.assert_allclose(found.maps[name].classes, maps.classes, atol=10 * tolerance * scale)
        assert (found.maps[name].attention is None) == (maps.attention is None)
        if maps.attention is not None:
            np.testing.assert_allclose(found.maps[name].attention, maps.attention, atol=10 * tolerance)


THREE = {"task_type": "multiclass"}


# The same answer however the work is cut up


@pytest.mark.parametrize("batch", [1, 3, 4, 5, 64])
def test_chunks_of_any_size_give_the_same_answer(backbone: Backbone, batch: int) -> None:
    fields = {**THREE, "views": three_views(backbone, slices=SliceSpec())}
    expected = answer(engine_with(backbone, batch=1000, **fields), study())
    assert len(expected.slices["coronal"].weights) == 19
    assert_same(answer(engine_with(backbone, batch=batch, **fields), study()), expected)


@pytest.mark.parametrize(("kind", "fusion"), [("EfficientNet", "attention"), ("registers", "median")])
def test_maps_are_the_same_where_the_tails_do_not_fit_in_memory(
    models: dict[str, Backbone], monkeypatch: pytest.MonkeyPatch, kind: str, fusion: str
) -> None:
    backbone = models[kind]
    fields = {**THREE, "views": three_views(backbone), "fusion": FusionSpec(kind=fusion)}
    engine = engine_with(backbone, batch=3, **fields)
    expected = answer(engine, study())
    encodings = []
    encode = Backbone.encode_from
    monkeypatch.setattr(Backbone, "encode_from", lambda *a, **k: encodings.append(1) or encode(*a, **k))
    answer(engine, study())
    once = len(encodings)
    for room in (0, 20_000):
        encodings.clear()
        monkeypatch.setattr(job, "TAIL_BYTES", room)
        assert_same(answer(engine, study()), expected, 1e-6)
        assert len(encodings) == 2 * once or room
    engine.unload("Test")


def test_the_class_map_of_a_class_token_needs_no_second_pass_and_keeps_no_tail(
    vit: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = engine_with(vit, batch=3, **THREE, views=three_views(vit))
    expected = answer(engine, study())
    encodings = []
    encode = Backbone.encode_from
    monkeypatch.setattr(Backbone, "encode_from", lambda *a, **k: encodings.append(1) or encode(*a, **k))
    monkeypatch.setattr(job, "TAIL_BYTES", 0)
    assert_same(answer(engine, study()), expected, 0)
    assert len(encodings) == 3 * 2


def test_the_engine_gives_what_the_network_gives_for_the_same_slices(backbone: Backbone) -> None:
    network = tiny_network(backbone, **THREE, views=three_views(backbone))
    engine = Classifier(backbone, batch=3)
    engine.add(network.spec, [network])
    slices = {v.name: preprocess(study(), v.preprocessing) for v in network.spec.views}
    fused = network([{name: torch.from_numpy(part.array) for name, part in slices.items()}])
    expected = network.probabilities(fused.logits)[0].tolist()
    prediction = answer(engine, study())
    assert list(prediction.probabilities.values()) == pytest.approx(expected, abs=1e-6)
    assert list(prediction.probabilities) == ["normal", "mild", "severe"]
    assert list(prediction.view_weights.values()) == pytest.approx(fused.view_weights[0].tolist(), abs=1e-6)
    for name, part in slices.items():
        weights = prediction.slices[name]
        np.testing.assert_allclose(weights.weights, fused.slice_weights[name][0].detach(), atol=1e-6)
        np.testing.assert_allclose(weights.centres, part.centres)
        assert weights.axis == name


def test_without_maps_the_probabilities_are_the_same(backbone: Backbone) -> None:
    engine = engine_with(backbone)
    plain = answer(engine, study(), maps="none")
    assert plain.maps == {}
    assert plain.hot_spots == {}
    assert plain.probabilities == answer(engine, study()).probabilities


def test_the_maps_of_a_view_lie_on_its_slices(backbone: Backbone) -> None:
    engine = engine_with(backbone, **THREE, views=three_views(backbone))
    prediction = answer(engine, study("oblique"))
    for number, (name, maps) in enumerate(prediction.maps.items()):
        classes, slices, *shape = maps.classes.shape
        assert (classes, slices) == (3, 4)
        assert (maps.attention is None) == (not engine.backbone.has_class_attention)
        spec = prediction.spec.views[number].preprocessing
        part = preprocess(study("oblique"), spec)
        np.testing.assert_allclose(maps.ijk_to_ras, part.patch_affine(tuple(shape)))
        assert name == spec.axis


def test_the_papers_map_is_attention_times_slice_and_view_weight_as_a_multiple_of_its_even_share(vit: Backbone) -> None:
    engine = engine_with(vit, batch=3, views=three_views(vit))
    prediction = answer(engine, study())
    network = engine._plugins["Test"].networks[0]
    relevance, patches = {}, {}
    for view_spec in network.spec.views:
        slices, name = preprocess(study(), view_spec.preprocessing), view_spec.name
        attention = network.encode(view_spec, torch.from_numpy(slices.array), attention=True).attention.detach().numpy()
        weights = prediction.view_weights[name] * prediction.slices[name].weights
        inside = patches_inside(slices, attention.shape[1:])
        relevance[name] = attention * weights[:, None, None] * inside
        patches[name] = inside.sum() * len(attention)
    total = sum(part.sum() for part in relevance.values())
    for name, part in relevance.items():
        np.testing.assert_allclose(prediction.maps[name].attention, part / total * patches[name], rtol=1e-4)


def test_the_class_map_is_leaf_times_gradient_of_the_logit_as_a_multiple_of_its_even_share(backbone: Backbone) -> None:
    engine = engine_of_three_views(backbone, batch=3)
    prediction = answer(engine, study())
    network = engine._plugins["Test"].networks[0]
    slices = {v.name: preprocess(study(), v.preprocessing) for v in network.spec.views}
    tails = {
        v.name: network.encode(v, torch.from_numpy(slices[v.name].array), tail=True).tail for v in network.spec.views
    }
    leaves = {name: tail.leaf.detach().requires_grad_() for name, tail in tails.items()}
    logits = network.fuse({name: tails[name].embed(leaf)[None] for name, leaf in leaves.items()}).logits[0]
    for k, logit_of_class in enumerate(logits):
        gradients = torch.autograd.grad(logit_of_class, list(leaves.values()), retain_graph=True)
        parts = {
            name: tails[name].contributions(gradient).detach().numpy()
            for name, gradient in zip(tails, gradients, strict=True)
        }
        inside = {name: patches_inside(slices[name], part.shape[2:]) for name, part in parts.items()}
        parts = {name: part * inside[name] for name, part in parts.items()}
        total = sum(part.sum() for part in parts.values())
        for name, (in_favour, _) in parts.items():
            patches = inside[name].sum() * len(in_favour)
            expected = in_favour / total * patches
            np.testing.assert_allclose(prediction.maps[name].classes[k], expected, rtol=1e-2, atol=1e-4)


# Plugins


def test_the_members_of_an_ensemble_are_averaged(tmp_path: Path, backbone: Backbone) -> None:
    fields = {**THREE, "views": three_views(backbone)}
    engine = Classifier(backbone)
    engine.load(write_plugin(tmp_path / "p.safetensors", backbone, members=2, **fields))
    alone = [answer(engine_with(backbone, seed=seed, **fields), study()) for seed in (3, 4)]
    together = answer(engine, study())
    assert alone[0].probabilities != pytest.approx(alone[1].probabilities, abs=0.01)
    for name in together.probabilities:
        mean = np.mean([one.probabilities[name] for one in alone])
        assert together.probabilities[name] == pytest.approx(mean, abs=1e-6)
    for name in together.maps:
        mean = np.mean([one.maps[name].classes for one in alone], axis=0)
        np.testing.assert_allclose(together.maps[name].classes, mean, rtol=1e-3, atol=1e-4)
        weights = np.mean([one.slices[name].weights for one in alone], axis=0)
        np.testing.assert_allclose(together.slices[name].weights, weights, atol=1e-6)
        mean_weight = np.mean([one.view_weights[name] for one in alone])
        assert together.view_weights[name] == pytest.approx(mean_weight, abs=1e-6)


def test_many_plugins_answer_as_each_alone(tmp_path: Path, backbone: Backbone) -> None:
    fields: list[dict] = [
        {"name": "A", "seed": 1, "views": three_views(backbone)},
        {"name": "B", "seed": 2, "lora": LoRASpec(rank=4, alpha=2.0)},
        {"name": "C", "seed": 3, "lora": LoRASpec(rank=0), "task_type": "multilabel"},
    ]
    paths = [write_plugin(tmp_path / f"{n}.safetensors", backbone, **f) for n, f in enumerate(fields)]
    together = Classifier(backbone)
    assert [together.load(path) for path in paths] == ["A", "B", "C"]
    found = together.classify(Study({"image": study()}))
    assert list(found) == ["A", "B", "C"]
    for name, path in zip("ABC", paths, strict=True):
        engine = Classifier(backbone)
        engine.load(path)
        assert_same(found[name], engine.classify(Study({"image": study()}))[name], 1e-6)
        engine.unload(name)
    some = together.classify(Study({"image": study()}), plugins=["C", "A"])
    assert list(some) == ["C", "A"]
    for name in "ABC":
        together.unload(name)
    assert backbone.sites.keys == []


def test_slices_that_two_plugins_share_are_cut_once(vit: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Classifier(vit)
    for name in "AB":
        views = (view(vit, "axial"), view(vit, "axial-again"), view(vit, "coronal"))
        network = tiny_network(vit, name=name, views=views)
        engine.add(network.spec, [network])
    cut = []
    monkeypatch.setattr(job, "preprocess", lambda *a, **k: cut.append(a[1].axis) or preprocess(*a, **k))
    engine.classify(Study({"image": study()}))
    assert cut == ["axial", "coronal"]


def test_an_unloaded_plugin_is_gone_from_engine_and_backbone(tmp_path: Path) -> None:
    backbone = tiny_backbone(depth=1)
    engine = Classifier(backbone)
    engine.load(write_plugin(tmp_path / "p.safetensors", backbone, members=2))
    assert list(engine.plugins) == ["Test"]
    assert len(backbone.sites.keys) == 2
    engine.unload("Test")
    engine.unload("Test")
    assert engine.plugins == {}
    assert backbone.sites.keys == []
    with pytest.raises(PluginError, match="plugin 'Test' is not loaded: load its file first"):
        engine.classify(Study({"image": study()}), plugins=["Test"])


def test_a_plugin_is_known_by_the_digest_of_its_file(tmp_path: Path) -> None:
    backbone = tiny_backbone(depth=1)
    engine = Classifier(backbone)
    path = write_plugin(tmp_path / "p.safetensors", backbone)
    assert engine.digest(engine.load(path)) == digest_of_file(path)
    network = tiny_network(backbone, name="From memory")
    assert engine.digest(engine.add(network.spec, [network])) == ""
    with pytest.raises(PluginError, match="plugin 'Other' is not loaded: load its file first"):
        engine.digest("Other")


def test_a_plugin_of_the_same_name_replaces_the_one_before(tmp_path: Path) -> None:
    backbone = tiny_backbone(depth=1)
    first = write_plugin(tmp_path / "1.safetensors", backbone, seed=1)
    second = write_plugin(tmp_path / "2.safetensors", backbone, seed=2, members=2)
    engine = Classifier(backbone)
    engine.load(first)
    before = answer(engine, study())
    engine.load(second)
    assert len(backbone.sites.keys) == 2
    after = answer(engine, study())
    assert after.probabilities != before.probabilities
    assert after.provenance["plugin_digest"] == digest_of_file(second)


def test_a_plugin_that_cannot_be_loaded_leaves_the_one_before(tmp_path: Path) -> None:
    backbone = tiny_backbone(depth=1)
    engine = Classifier(backbone)
    path = write_plugin(tmp_path / "p.safetensors", backbone)
    engine.load(path)
    before = answer(engine, study())
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(PluginError, match="damaged"):
        engine.load(path)
    assert answer(engine, study()).probabilities == before.probabilities
    assert len(backbone.sites.keys) == 1


def test_a_network_that_is_added_again_stays_and_another_one_takes_its_place() -> None:
    backbone = tiny_backbone(depth=1)
    engine = Classifier(backbone)
    first, second = tiny_network(backbone, seed=1), tiny_network(backbone, seed=2)
    for _ in range(2):
        engine.add(first.spec, [first.train()])
        assert not first.training
    assert len(backbone.sites.keys) == 2
    before = answer(engine, study()).probabilities
    engine.add(second.spec, [second])
    assert len(backbone.sites.keys) == 1
    assert answer(engine, study()).probabilities != before


# Studies that do not suit


def test_an_image_that_the_study_lacks_is_named(vit: Backbone) -> None:
    engine = engine_with(vit, views=(view(vit, source="T2"),))
    with pytest.raises(InputError, match="needs an image 'T2', but the study has image: name it"):
        answer(engine, study())


def test_images_whose_fields_of_view_do_not_overlap_are_refused(vit: Backbone) -> None:
    engine = engine_with(vit, views=(view(vit, source="T1"), view(vit, "coronal", source="T2")))
    near, far = study(), study()
    far.ijk_to_ras[:3, 3] += 500
    with pytest.raises(InputError, match="images 'T1' and 'T2' do not overlap in space: give two series"):
        engine.classify(Study({"T1": near, "T2": far}))
    touching = Volume(near.array, rotation(10, 20, 30) @ near.ijk_to_ras)
    assert engine.classify(Study({"T1": near, "T2": touching}))["Test"].probabilities


def test_each_view_looks_at_its_own_image(vit: Backbone) -> None:
    engine = engine_with(vit, views=(view(vit, source="T1"), view(vit, "axial-2", source="T2")))
    one, other = study(), Volume(-0.5 * anatomy(), HEADERS["straight"])
    both = engine.classify(Study({"T1": one, "T2": other}))["Test"]
    swapped = engine.classify(Study({"T1": other, "T2": one}))["Test"]
    twice = engine.classify(Study({"T1": one, "T2": one}))["Test"]
    found = [prediction.probabilities["lesion"] for prediction in (both, swapped, twice)]
    assert min(abs(a - b) for a, b in itertools.combinations(found, 2)) > 1e-3


# Progress and cancelling


@pytest.mark.parametrize("fusion", ["attention", "median"])
@pytest.mark.parametrize("maps", ["all", "none"])
def test_progress_of_every_step_rises_to_its_end(
    tmp_path: Path, vit: Backbone, monkeypatch: pytest.MonkeyPatch, maps: str, fusion: str
) -> None:
    # Without room for tails, the slices of a median's plugin are encoded again for their maps.
    monkeypatch.setattr(job, "TAIL_BYTES", 0)
    engine = Classifier(vit, batch=3)
    for name in "AB":
        fields = {"members": 2, "views": three_views(vit), "fusion": FusionSpec(kind=fusion)}
        engine.load(write_plugin(tmp_path / f"{name}.safetensors", vit, name=name, **fields))
    reports: list[Progress] = []
    engine.classify(Study({"image": study()}), maps=maps, progress=reports.append)
    steps = [(step, list(group)) for step, group in itertools.groupby(reports, key=lambda r: r.step)]
    for _, group in steps:
        done = [r.done for r in group]
        assert done == sorted(done)
        assert {r.total for r in group} == {done[-1]}
    work = [(step, len(group)) for step, group in steps if step.startswith("Classifying")]
    # Two plugins of two members, four slices in batches of three, and the report at the start.
    assert work == [(f"Classifying: {axis}", 9) for axis in ("axial", "coronal", "sagittal")]
    again = [step for step, group in steps if step.startswith("Explaining")]
    assert len(again) == (12 if fusion == "median" and maps == "all" else 0)
    for name in "AB":
        engine.unload(name)


@pytest.mark.parametrize("fusion", ["attention", "median"])
def test_work_is_cancelled_within_one_batch_at_any_point_and_leaves_the_engine_as_it_was(
    vit: Backbone, monkeypatch: pytest.MonkeyPatch, fusion: str
) -> None:
    monkeypatch.setattr(job, "TAIL_BYTES", 0)
    engine = engine_with(vit, batch=3, views=three_views(vit), fusion=FusionSpec(kind=fusion))
    expected = answer(engine, study())
    before = vit.encode(torch.rand(1, 1, 32, 48, generator=torch.Generator().manual_seed(0))).embedding
    work: list[str] = []
    encode, cut = Backbone.encode_from, job.preprocess
    monkeypatch.setattr(Backbone, "encode_from", lambda *a, **k: work.append("encode") or encode(*a, **k))
    monkeypatch.setattr(job, "preprocess", lambda *a, **k: work.append("cut") or cut(*a, **k))
    answer(engine, study())
    total = len(work)
    assert total == 3 + 6 * (2 if fusion == "median" else 1)
    for stop in range(total):
        work.clear()
        with pytest.raises(Cancelled):
            answer(engine, study(), cancelled=lambda stop=stop: len(work) > stop)
        assert stop < len(work) <= stop + 1
        after = vit.encode(torch.rand(1, 1, 32, 48, generator=torch.Generator().manual_seed(0))).embedding
        assert torch.equal(before, after)
    assert_same(answer(engine, study(), cancelled=lambda: False), expected, 0)


# What is said


def engine_that_says(backbone: Backbone, logits: list[float], **fields: object) -> Classifier:
    """An engine whose plugin gives these logits for every study."""
    network = tiny_network(backbone, **fields)
    with torch.no_grad():
        network.head.weight.zero_()
        network.head.bias.copy_(torch.tensor(logits))
    engine = Classifier(backbone)
    engine.add(network.spec, [network])
    return engine


def logit(probability: float) -> float:
    return float(np.log(probability / (1 - probability)))


BINARY = (ClassSpec(name="normal"), ClassSpec(name="lesion", threshold=0.3))


@pytest.mark.parametrize(
    ("probability", "decided", "uncertain"),
    [(0.1, "normal", False), (0.26, "normal", True), (0.31, "lesion", True), (0.4, "lesion", False)],
)
def test_a_binary_answer_is_decided_at_the_threshold_of_the_positive_class(
    vit: Backbone, probability: float, decided: str, uncertain: bool
) -> None:
    prediction = answer(engine_that_says(vit, [logit(probability)], classes=BINARY), study())
    assert prediction.probabilities == pytest.approx({"normal": 1 - probability, "lesion": probability})
    assert prediction.decided == [decided]
    expected = [f"Uncertain: 'lesion' has a probability of {probability:.2f}, at its threshold."] if uncertain else []
    assert prediction.warnings == expected


MULTI = tuple(ClassSpec(name=name, threshold=t) for name, t in (("a", 0.5), ("b", 0.6), ("c", 0.5)))


@pytest.mark.parametrize(
    ("probabilities", "decided", "warning"),
    [
        ([0.8, 0.1, 0.1], "a", None),
        ([0.3, 0.4, 0.3], "b", "no class reaches its threshold; 'b' comes nearest"),
        ([0.21, 0.58, 0.21], "b", "'b' has a probability of 0.58, at its threshold"),
        ([0.04, 0.94, 0.02], "b", None),
    ],
)
def test_a_multiclass_answer_is_the_most_probable_class(
    vit: Backbone, probabilities: list[float], decided: str, warning: str | None
) -> None:
    logits = list(np.log(probabilities))
    prediction = answer(engine_that_says(vit, logits, task_type="multiclass", classes=MULTI), study())
    assert list(prediction.probabilities.values()) == pytest.approx(probabilities)
    assert prediction.decided == [decided]
    assert len(prediction.warnings) == (warning is not None)
    assert warning is None or prediction.warnings[0].startswith(f"Uncertain: {warning}")


def test_a_multilabel_answer_decides_each_class_at_its_own_threshold(vit: Backbone) -> None:
    logits = [logit(p) for p in (0.7, 0.57, 0.1)]
    prediction = answer(engine_that_says(vit, logits, task_type="multilabel", classes=MULTI), study())
    assert list(prediction.probabilities.values()) == pytest.approx([0.7, 0.57, 0.1])
    assert prediction.decisions == {"a": True, "b": False, "c": False}
    assert prediction.warnings == ["Uncertain: 'b' has a probability of 0.57, at its threshold."]


def test_a_probability_at_its_threshold_is_decided_for(vit: Backbone) -> None:
    binary = plugin_spec(vit, classes=BINARY)
    assert decide(binary, {"normal": 0.7, "lesion": 0.3}) == {"normal": False, "lesion": True}
    multilabel = plugin_spec(vit, task_type="multilabel", classes=MULTI)
    assert decide(multilabel, {"a": 0.5, "b": 0.59, "c": 0.49}) == {"a": True, "b": False, "c": False}


def test_an_image_outside_the_window_is_warned_about(vit: Backbone) -> None:
    engine = engine_with(vit, views=(view(vit, intensity=IntensitySpec(kind="window", windows=((9000.0, 100.0),))),))
    warnings = answer(engine, study()).warnings
    assert any("In view 'axial' nearly all values lie outside the intensity window" in text for text in warnings)
    assert not any("window" in text for text in answer(engine_with(vit), study()).warnings)


def test_the_answer_as_json_is_complete_and_says_nothing_of_where_the_image_lay(
    tmp_path: Path, backbone: Backbone
) -> None:
    path = write_plugin(tmp_path / "p.safetensors", backbone, **THREE, views=three_views(backbone))
    engine = Classifier(backbone)
    engine.load(path)
    volume = Volume(anatomy(), HEADERS["oblique"], name="'/home/clinic/Doe^Jane/ct.nrrd'")
    prediction = answer(engine, volume)
    text = json.dumps(prediction.to_dict(), allow_nan=False)
    assert "Doe" not in text
    assert "/home" not in text
    assert str(tmp_path) not in text
    data = json.loads(text)
    assert data["probabilities"] == prediction.probabilities
    assert data["plugin"] == {"name": "Test", "version": "1", "intended_use": "Research only, not for clinical use."}
    assert [len(v["slices"]) for v in data["views"].values()] == [4, 4, 4]
    assert data["views"]["coronal"]["weight"] == prediction.view_weights["coronal"]
    assert list(data["hot_spots"]) == ["normal", "mild", "severe"]
    provenance = data["provenance"]
    assert provenance["plugin_digest"] == digest_of_file(path)
    assert provenance["backbone_digest"] == backbone.digest
    assert provenance["device"] == "cpu"
    assert provenance["preprocessing"]["axial"]["axis"] == "axial"
    assert set(provenance["timings"]) == {"preprocessing_s", "network_s", "plugins_in_call"}


def test_patches_that_are_padding_for_the_most_part_are_told_from_the_others(vit: Backbone) -> None:
    spec = view(vit, size=(32, 64)).preprocessing
    slices = preprocess(study(), spec)
    flags = patches_inside(slices, (2, 4))
    rows, columns = slices.inside
    assert flags.shape == (2, 4)
    expected = rows[[8, 24]][:, None] & columns[[8, 24, 40, 56]]
    np.testing.assert_array_equal(flags, expected)
    assert flags.any()
    assert not flags.all()


# Regions


def test_a_region_reaches_the_views_that_look_at_one_and_leaves_the_others_whole(vit: Backbone) -> None:
    whole, part = view(vit), view(vit, "coronal", region=RegionSpec(kind="box"))
    engine = engine_with(vit, views=(whole, part))
    volume = study()
    middle = volume.corners().mean(axis=0)
    box = Box(tuple(middle - 4), tuple(middle + 4))
    found = engine.classify(Study({"image": volume}, {"image": box}))["Test"]
    assert len(found.slices["axial"].weights) == len(preprocess(volume, whole.preprocessing).array)
    assert len(found.slices["coronal"].weights) == len(preprocess(volume, part.preprocessing, region=box).array)


def test_a_region_that_no_plugin_looks_at_is_refused(vit: Backbone) -> None:
    engine = engine_with(vit)
    with pytest.raises(InputError, match="No plugin looks at a region of 'image'"):
        engine.classify(Study({"image": study()}, {"image": Box((0, 0, 0), (1, 1, 1))}))


def test_the_negative_class_of_a_binary_task_has_the_threshold_that_the_positive_leaves(vit: Backbone) -> None:
    classes = (ClassSpec(name="no"), ClassSpec(name="yes", threshold=0.2))
    shown = answer(engine_with(vit, classes=classes), study()).to_dict()
    assert shown["thresholds"] == {"no": 0.8, "yes": 0.2}


# Invariant 6


HOTTER = 30.0


def engine_of_three_views(backbone: Backbone, *, batch: int = 16) -> Classifier:
    size = (64, 96) if backbone.kind == "cnn" else (32, 48)
    return engine_with(backbone, batch=batch, seed=8, **THREE, views=three_views(backbone, size=size))


def hotter(prediction: Prediction) -> Prediction:
    """The prediction with its relevance HOTTER times as dense: a random network's is too even to be warm anywhere."""
    maps = {
        name: RelevanceMap(None if m.attention is None else HOTTER * m.attention, HOTTER * m.classes, m.ijk_to_ras)
        for name, m in prediction.maps.items()
    }
    return dataclasses.replace(prediction, maps=maps)


def heats(prediction: Prediction, volume: Volume) -> list[Volume]:
    """The heatmap of each class, and the paper's where there is one."""
    names: list[str | None] = list(prediction.spec.explained)
    if prediction.maps["axial"].attention is not None:
        names.append(None)
    return [heatmap(hotter(prediction), volume, class_name=name) for name in names]


@pytest.mark.parametrize("header", ["straight", "oblique gantry tilt"])
def test_the_same_anatomy_in_all_48_orientations_gives_the_same_answer_at_the_same_place(
    backbone: Backbone, header: str
) -> None:
    engine = engine_of_three_views(backbone)
    volume = study(header)
    expected = answer(engine, volume)
    expected_heats = heats(expected, volume)
    assert sum(np.ptp(heat.array) > 0.1 for heat in expected_heats) >= 3
    count = 0
    for order in itertools.permutations(range(3)):
        for flips in itertools.product((False, True), repeat=3):
            turned = stored(volume, order=order, flips=flips)
            found = answer(engine, turned)
            for name, probability in expected.probabilities.items():
                assert found.probabilities[name] == pytest.approx(probability, abs=1e-5)
            for name, weights in expected.slices.items():
                np.testing.assert_allclose(found.slices[name].centres, weights.centres, atol=1e-6)
                np.testing.assert_allclose(found.slices[name].weights, weights.weights, atol=1e-5)
            for heat, reference in zip(heats(found, turned), expected_heats, strict=True):
                there = stored(reference, order=order, flips=flips)
                np.testing.assert_allclose(heat.ijk_to_ras, there.ijk_to_ras, atol=1e-9)
                np.testing.assert_allclose(heat.array, there.array, atol=1e-3)
            count += 1
    assert count == 48


@pytest.mark.parametrize("header", [name for name in HEADERS if name != "straight"])
def test_another_header_moves_the_heatmap_with_the_anatomy_and_changes_no_probability(
    backbone: Backbone, header: str
) -> None:
    # The pixel size is that of the array's own axes, which neither rotating nor tilting changes.
    engine = engine_of_three_views(backbone)
    straight, turned = study("straight"), study(header)
    expected, found = answer(engine, straight), answer(engine, turned)
    assert found.probabilities == pytest.approx(expected.probabilities, abs=1e-5)
    for heat, reference in zip(heats(found, turned), heats(expected, straight), strict=True):
        np.testing.assert_allclose(heat.ijk_to_ras, turned.ijk_to_ras)
        np.testing.assert_allclose(heat.array, reference.array, atol=1e-3)
    to_turned = turned.ijk_to_ras @ np.linalg.inv(straight.ijk_to_ras)
    spots, others = (
        [spot for number in range(3) for spot in class_hot_spots(hotter(prediction).maps, number)]
        for prediction in (expected, found)
    )
    assert len(spots) >= 3
    points = transform_points(to_turned, [spot.ras for spot in spots])
    np.testing.assert_allclose([other.ras for other in others], points, atol=0.02)
    assert [other.heat for other in others] == pytest.approx([spot.heat for spot in spots], abs=1e-3)


def test_a_network_on_another_backbone_is_refused(vit: Backbone) -> None:
    network = tiny_network(tiny_backbone(depth=1))
    with pytest.raises(PluginError, match="another backbone"):
        Classifier(vit).add(network.spec, [network])
