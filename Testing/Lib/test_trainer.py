"""The training loop: what it changes, what it leaves alone, and that it does what the recipe says."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from networks import plugin_spec, randomised, three_views, tiny_backbone, view

from AnyMC3DLib.backbone import Backbone
from AnyMC3DLib.errors import InputError
from AnyMC3DLib.model import PluginNetwork
from AnyMC3DLib.progress import Progress
from AnyMC3DLib.spec import BackboneRef, ClassSpec, HeadSpec, LoRASpec
from AnyMC3DLib.training import trainer as trainer_module
from AnyMC3DLib.training.augmentation_spec import AugmentationSpec
from AnyMC3DLib.training.metrics import auc
from AnyMC3DLib.training.objective_spec import ObjectiveSpec
from AnyMC3DLib.training.slices import CutCases
from AnyMC3DLib.training.task import TaskSpec, TrainingSpec
from AnyMC3DLib.training.trainer import Trainer, prepare_spec
from AnyMC3DLib.weights import digest_of

FAST = {"epochs": 2, "warm_up_epochs": 2, "batch": 4, "adapter_rate": 3e-3, "head_rate": 3e-3}
TURNED = AugmentationSpec(flip=0.5, rotation=1, rotation_degrees=20)


@pytest.fixture(scope="module")
def lent() -> Backbone:
    return tiny_backbone("test_vit", depth=1)


@pytest.fixture
def backbone(lent: Backbone):
    yield lent
    for key in lent.sites.keys:
        lent.sites.detach(key)


def cut(count: int = 12, *, classes: int = 2, seed: int = 0, slices: tuple[int, int] = (2, 5), views=("axial",),
        labels: np.ndarray | None = None) -> CutCases:  # fmt: skip
    """Cases whose slices are brighter the higher their class is; each has its own number of slices."""
    rng = np.random.default_rng(seed)
    targets = np.arange(count) % classes if labels is None else labels
    levels = targets if targets.ndim == 1 else targets.sum(axis=1)
    stacks = [
        {name: (rng.uniform(0, 0.5, (rng.integers(*slices), 1, 32, 32)) + 0.15 * level).astype(np.float16)
         for name in views}
        for level in levels
    ]  # fmt: skip
    return CutCases([str(n) for n in range(count)], stacks, targets)


def network_on(backbone: Backbone, *, seed: int = 0, **fields: object) -> PluginNetwork:
    torch.manual_seed(seed)
    return PluginNetwork(plugin_spec(backbone, **{"head": HeadSpec(standardise=True), **fields}), backbone)


def fitted(
    backbone: Backbone, train: CutCases, validation: CutCases | None = None, *, fields: dict | None = None, **recipe
) -> Trainer:
    trainer = Trainer(network_on(backbone, **(fields or {})), TrainingSpec(**{**FAST, **recipe}))
    trainer.fit(train, validation)
    return trainer


def copy_of(network: PluginNetwork) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


# What is learnt


def test_warming_up_trains_the_query_and_the_head_and_lowers_the_loss(backbone: Backbone) -> None:
    network = network_on(backbone)
    before = copy_of(network)
    trainer = Trainer(network, TrainingSpec(epochs=0, warm_up_epochs=30, head_rate=3e-2))
    trainer.fit(cut(), None)
    losses = [result.loss for result in trainer.history]
    assert losses[-1] < 0.5 * losses[0]
    assert [result.phase for result in trainer.history] == ["warm-up"] * 30
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, before[name]) == name.startswith("adapters."), name


def test_training_changes_the_adapters_and_never_the_backbone(backbone: Backbone) -> None:
    network = network_on(backbone)
    before = copy_of(network)
    trainer = Trainer(network, TrainingSpec(**{**FAST, "epochs": 6}))
    trainer.fit(cut(), None)
    losses = [result.loss for result in trainer.history if result.phase == "training"]
    assert losses[-1] < losses[0]
    for name, tensor in network.state_dict().items():
        assert not torch.equal(tensor, before[name]), name
    network.close()
    assert digest_of(backbone.model) == backbone.digest


def test_adapters_alone_can_learn(backbone: Backbone) -> None:
    trainer = fitted(backbone, cut(), epochs=12, warm_up_epochs=0, head_rate=1e-9, adapter_rate=1e-2)
    assert trainer.history[-1].loss < 0.7 * trainer.history[0].loss


def test_without_adapters_only_the_warm_up_runs(backbone: Backbone) -> None:
    trainer = fitted(backbone, cut(), fields={"lora": LoRASpec(rank=0)})
    assert [result.phase for result in trainer.history] == ["warm-up"] * 2
    assert len(trainer.network.adapters) == 0
    assert backbone.sites.keys == []


def test_a_batch_of_one_trains_on_every_case(backbone: Backbone) -> None:
    trainer = fitted(backbone, cut(6), batch=1, warm_up_epochs=0)
    assert all(math.isfinite(result.loss) for result in trainer.history)
    assert torch.count_nonzero(trainer.network.adapters["axial"].state_dict()["pairs.blocks/0/attn/qkv.B"])


def test_standardisation_is_fitted_without_a_warm_up_too(backbone: Backbone) -> None:
    with_warm_up, without = (fitted(backbone, cut(), warm_up_epochs=n).network for n in (1, 0))
    assert torch.equal(without.shift_axial, with_warm_up.shift_axial)
    assert torch.equal(without.scale_axial, with_warm_up.scale_axial)


def test_standardised_embeddings_have_mean_0_and_at_most_unit_spread(backbone: Backbone) -> None:
    train = cut()
    network = fitted(backbone, train, epochs=0).network
    slices = torch.from_numpy(np.concatenate([stack["axial"] for stack in train.stacks]).astype(np.float32))
    with torch.no_grad():
        ready = network.standardise("axial", network.embed(network.spec.views[0], slices))
    assert ready.mean(dim=0).abs().max() < 1e-3
    assert 0.9 < ready.std(dim=0).max() < 1.001


def test_a_single_slice_can_be_standardised(backbone: Backbone) -> None:
    trainer = fitted(backbone, cut(1, slices=(1, 2)), epochs=0)
    assert all(torch.isfinite(tensor).all() for tensor in trainer.network.state_dict().values())


def test_studies_of_several_views_and_of_different_slice_counts_train(backbone: Backbone) -> None:
    train = cut(views=("axial", "coronal", "sagittal"), slices=(1, 7))
    trainer = fitted(backbone, train, fields={"views": three_views(backbone)}, slices=3)
    probabilities = trainer.predict(train)
    assert probabilities.shape == (12, 2)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1)


def test_a_case_is_answered_alike_alone_and_among_others(backbone: Backbone) -> None:
    network = randomised(PluginNetwork(plugin_spec(backbone), backbone))
    trainer, cases = Trainer(network, TrainingSpec()), cut(20, slices=(1, 7))
    together = trainer.predict(cases)
    for number in (0, 7, 19):
        np.testing.assert_allclose(trainer.predict(cases.subset([number]))[0], together[number], atol=1e-5)


def test_half_precision_trains_too(backbone: Backbone) -> None:
    full, half = (fitted(backbone, cut(), precision=name).history[-1].loss for name in ("float32", "bfloat16"))
    assert half == pytest.approx(full, rel=0.1)
    assert half != full


def test_augmentation_changes_what_is_learnt(backbone: Backbone) -> None:
    plain = fitted(backbone, cut()).history[-1].loss
    assert fitted(backbone, cut(), augmentation=TURNED).history[-1].loss != plain


def test_a_diverging_training_is_stopped(backbone: Backbone) -> None:
    recipe = TrainingSpec(epochs=0, warm_up_epochs=30)
    # Past what a recipe may ask for, so that few steps are enough.
    object.__setattr__(recipe, "head_rate", 1e37)
    with pytest.raises(InputError, match="lower the learning rates"):
        Trainer(network_on(backbone), recipe).fit(cut(), None)


# The seed


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_same_seed_gives_the_same_bits(backbone: Backbone, precision: str) -> None:
    recipe = {
        "precision": precision,
        "slices": 2,
        "augmentation": TURNED,
    }
    fields = {"head": HeadSpec(dropout=0.3)}
    first, second = (copy_of(fitted(backbone, cut(), fields=fields, seed=4, **recipe).network) for _ in range(2))
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name


def test_another_seed_gives_other_weights(backbone: Backbone) -> None:
    first, second = (copy_of(fitted(backbone, cut(), seed=seed).network) for seed in (4, 5))
    assert not torch.equal(first["head.weight"], second["head.weight"])


# Which weights are kept


def scored(backbone: Backbone, monkeypatch: pytest.MonkeyPatch, scores: list[float], **recipe) -> tuple[int, list]:
    """Which epoch's weights a training keeps whose validation gives these scores; and the history."""
    seen: list[torch.Tensor] = []
    network = network_on(backbone)

    def score(*_: object) -> float:
        seen.append(network.head.weight.detach().clone())
        return scores[len(seen) - 1]

    monkeypatch.setattr(trainer_module, "score_of", score)
    trainer = Trainer(network, TrainingSpec(**{**FAST, **recipe}))
    trainer.fit(cut(), cut(6, seed=1))
    (kept,) = [n for n, weight in enumerate(seen) if torch.equal(weight, network.head.weight)]
    return kept, trainer.history


@pytest.mark.parametrize(
    ("scores", "kept"),
    [
        ([0.5, 0.6, 0.7, 0.8], 3),
        ([0.5, 0.9, 0.7, 0.8], 1),
        ([0.5, 0.6, 0.9, 0.8], 2),
        ([0.9, 0.5, 0.9, 0.8], 2),
        ([math.nan] * 4, 3),
        ([0.5, math.nan, 0.4, math.nan], 0),
    ],
)
def test_the_best_weights_by_validation_are_kept_the_later_of_equals(
    scores: list[float], kept: int, backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, history = scored(backbone, monkeypatch, scores)
    assert found == kept
    assert [result.score for result in history] == pytest.approx(scores, nan_ok=True)


def test_the_last_weights_are_kept_where_the_recipe_says_so(
    backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Only the warm-up's cheap scores and the last one are computed.
    found, history = scored(backbone, monkeypatch, [0.9, 0.8, 0.1], keep="last")
    assert found == 2
    assert math.isnan(history[2].score)


def test_the_score_is_the_auc_of_what_is_predicted(backbone: Backbone) -> None:
    validation = cut(9, seed=1)
    trainer = fitted(backbone, cut(), validation, keep="last")
    assert trainer.history[-1].score == auc(validation.targets, trainer.predict(validation))


# The loss


def test_absent_classes_and_several_labels_cannot_be_weighted(backbone: Backbone) -> None:
    with pytest.raises(InputError, match="none of class 'lesion'"):
        fitted(backbone, cut(labels=np.zeros(4, int)), objective=ObjectiveSpec(class_weights=True))
    many = {"task_type": "multilabel"}
    with pytest.raises(InputError, match="cannot be weighted"):
        fitted(backbone, cut(labels=np.ones((4, 3), int)), fields=many, objective=ObjectiveSpec(class_weights=True))


@pytest.mark.parametrize(("task", "classes"), [("multiclass", 3), ("multilabel", 3)])
def test_every_kind_of_task_is_learnt(backbone: Backbone, task: str, classes: int) -> None:
    labels = np.tril(np.ones((3, 3), int))[np.arange(12) % 3] if task == "multilabel" else np.arange(12) % classes
    trainer = fitted(backbone, cut(labels=labels), fields={"task_type": task}, epochs=2, warm_up_epochs=20)
    assert trainer.history[-1].loss < 0.8 * trainer.history[0].loss
    assert trainer.predict(cut(labels=labels)).shape == (12, 3)


# Empty slices


def test_empty_slices_are_embedded_once_with_equal_results_and_gradients(
    backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = randomised(PluginNetwork(plugin_spec(backbone), backbone))
    spec = network.spec.views[0]
    slices = torch.rand(7, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    slices[[1, 2, 5]] = 0
    weigh = torch.randn(7, backbone.embed_dim, generator=torch.Generator().manual_seed(1))
    expected = network.encode(spec, slices).embedding
    wanted = torch.autograd.grad((expected * weigh).sum(), list(network.adapters.parameters()))
    encoded = []
    encode = PluginNetwork.encode
    monkeypatch.setattr(PluginNetwork, "encode", lambda n, v, s, **k: encoded.append(len(s)) or encode(n, v, s, **k))
    found = network.embed(spec, slices)
    assert encoded == [5]
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    gradients = torch.autograd.grad((found * weigh).sum(), list(network.adapters.parameters()))
    for got, want in zip(gradients, wanted, strict=True):
        torch.testing.assert_close(got, want, atol=1e-4, rtol=1e-4)


# Binding a task to a backbone


def test_a_task_is_bound_to_the_backbone_it_is_trained_on() -> None:
    backbone = tiny_backbone("test_vit", depth=1)
    bare = dataclasses.replace(view(backbone).preprocessing, mean=None, std=None)
    plugin = plugin_spec(backbone, views=(dataclasses.replace(view(backbone), preprocessing=bare),))
    plugin = dataclasses.replace(plugin, backbone=BackboneRef(id="another", digest="old"))
    spec = prepare_spec(TaskSpec(plugin=plugin), backbone)
    cut_spec = spec.views[0].preprocessing
    assert (spec.backbone.id, spec.backbone.digest) == (backbone.id, backbone.digest)
    assert spec.backbone.model_args == {"depth": 1}
    assert (cut_spec.mean, cut_spec.std, cut_spec.multiple_of) == (backbone.mean, backbone.std, 16)


def test_a_tasks_own_normalisation_stays(backbone: Backbone) -> None:
    own = dataclasses.replace(view(backbone).preprocessing, mean=(0.1, 0.2, 0.3), std=(1.0, 2.0, 3.0))
    plugin = plugin_spec(backbone, views=(dataclasses.replace(view(backbone), preprocessing=own),))
    found = prepare_spec(TaskSpec(plugin=plugin), backbone).views[0].preprocessing
    assert (found.mean, found.std) == ((0.1, 0.2, 0.3), (1.0, 2.0, 3.0))


def test_a_size_that_the_patches_do_not_divide_is_refused(backbone: Backbone) -> None:
    plugin = plugin_spec(backbone, views=(view(backbone, size=(32, 40)),))
    with pytest.raises(InputError, match=r"'axial' has a size of \(32, 40\), but 'test_vit' needs a multiple of 16"):
        prepare_spec(TaskSpec(plugin=plugin), backbone)


def test_progress_of_every_step_rises_to_its_end(backbone: Backbone) -> None:
    seen: list[Progress] = []
    trainer = Trainer(network_on(backbone), TrainingSpec(**FAST), progress=seen.append)
    trainer.fit(cut(13), cut(10, seed=1))  # the last batch holds one case, and is left out
    assert all(0 < p.done <= p.total for p in seen)
    last = {p.step: p for p in seen}
    assert all(p.done == p.total for p in last.values())
    assert {"Embedding training slices", "Training, epoch 2 of 2", "Validating"} <= set(last)


def test_classes_of_a_task_name_its_probabilities(backbone: Backbone) -> None:
    classes = tuple(ClassSpec(name=name) for name in "abcd")
    trainer = fitted(backbone, cut(8, classes=4), fields={"task_type": "multiclass", "classes": classes})
    assert trainer.predict(cut(3, classes=3)).shape == (3, 4)


def test_a_backbone_of_one_size_is_told_before_any_case_is_cut() -> None:
    backbone = tiny_backbone("beit_base_patch16_224", depth=1, embed_dim=48, num_heads=3, img_size=64)
    with pytest.raises(InputError, match=r"size of \(32, 48\), but 'beit_base_patch16_224' takes 64 x 64 alone"):
        prepare_spec(TaskSpec(plugin=plugin_spec(backbone)), backbone)
