"""What a recipe asks for beside the usual: masks, balance, weights, the whole backbone, an early end."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from networks import plugin_spec, tiny_backbone
from test_trainer import FAST, backbone, copy_of, cut, fitted, lent, network_on  # noqa: F401

from AnyMC3DLib.backbone import Backbone
from AnyMC3DLib.control import Control
from AnyMC3DLib.errors import InputError, Suspended
from AnyMC3DLib.spec import ClassSpec, HeadSpec, LoRASpec
from AnyMC3DLib.training import trainer as trainer_room
from AnyMC3DLib.training.monitor import score_of
from AnyMC3DLib.training.objective_spec import ObjectiveSpec, PixelSpec
from AnyMC3DLib.training.phases import Setting
from AnyMC3DLib.training.slices import CutCases
from AnyMC3DLib.training.task import TaskSpec, TrainingSpec
from AnyMC3DLib.training.trainer import Trainer


def with_masks(cases: CutCases, numbers: range) -> CutCases:
    """The upper left quarter of every slice is the lesion."""
    masks = []
    for n, stacks in enumerate(cases.stacks):
        mask = np.zeros((len(stacks["axial"]), *stacks["axial"].shape[2:]), np.float32)
        mask[:, : mask.shape[1] // 2, : mask.shape[2] // 2] = 1
        masks.append({"axial": mask} if n in numbers else None)
    return dataclasses.replace(cases, masks=masks)


def test_masks_teach_the_adapters_and_the_decoder_is_no_part_of_the_plugin(backbone: Backbone) -> None:  # noqa: F811
    pixels = PixelSpec(weight=1.0, channels=8)
    without = fitted(backbone, cut(), pixels=pixels)
    masked = fitted(backbone, with_masks(cut(), range(4)), pixels=pixels)
    assert masked.decoder is not None
    assert not any("decoder" in name for name in masked.network.state_dict())
    names = [name for name in masked.network.state_dict() if name.startswith("adapters.")]
    own, other = masked.network.state_dict(), without.network.state_dict()
    assert any(not torch.equal(own[name], other[name]) for name in names)


def test_the_decoder_learns_where_the_lesion_is(backbone: Backbone) -> None:  # noqa: F811
    recipe = {"epochs": 8, "batch": 4, "pixels": PixelSpec(weight=1.0, channels=8)}
    losses = [
        one.loss for one in fitted(backbone, with_masks(cut(), range(12)), **recipe).history if one.phase == "training"
    ]
    assert losses[-1] < 0.8 * losses[0]


def test_masks_without_adapters_are_refused() -> None:
    plugin = plugin_spec(tiny_backbone(), lora=LoRASpec(rank=0))
    with pytest.raises(InputError, match="masks teach the plugin nothing"):
        TaskSpec(plugin=plugin, training=TrainingSpec(pixels=PixelSpec(weight=0.5)))


def test_the_whole_backbone_is_trained_where_the_method_says_so(backbone: Backbone) -> None:  # noqa: F811
    before = {name: tensor.clone() for name, tensor in backbone.model.state_dict().items()}
    backbone.model.requires_grad_(True)
    try:
        trainer = fitted(
            backbone, cut(), fields={"lora": LoRASpec(rank=0)}, method="full", backbone_rate=1e-3, keep="last"
        )
        after = backbone.model.state_dict()
        assert any(not torch.equal(before[name], after[name]) for name in before)
        assert {"network", "backbone"} == {name.partition("/")[0] for name in trainer.weights()}
    finally:
        backbone.model.requires_grad_(False)
        backbone.model.load_state_dict(before)


def test_balanced_sampling_shows_rare_classes_as_often_as_the_others(backbone: Backbone) -> None:  # noqa: F811
    cases = cut(100, labels=np.array([1] * 5 + [0] * 95))
    trainer = Trainer(network_on(backbone), TrainingSpec(**{**FAST, "sampling": "balanced"}))
    setting = Setting(trainer.network, trainer.recipe, None, None, cases, None, None)
    shares = [cases.targets[setting.order(epoch)].mean() for epoch in range(30)]
    assert 0.45 < np.mean(shares) < 0.55
    plain = dataclasses.replace(setting, recipe=TrainingSpec(**FAST))
    assert sorted(plain.order(3)) == list(range(100))


def test_a_cases_weight_counts_as_often_as_it_says(backbone: Backbone) -> None:  # noqa: F811
    cases = cut(6, slices=(2, 3))
    twice = cases.subset([0, 1, 2, 3, 4, 5, 5])
    weighted = dataclasses.replace(cases, weights=np.array([1.0, 1, 1, 1, 1, 2]))
    recipe = {"epochs": 0, "warm_up_epochs": 1}
    found, expected = (
        copy_of(fitted(backbone, one, fields={"head": HeadSpec()}, **recipe).network)["head.weight"]
        for one in (weighted, twice)
    )
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-4)


def test_training_ends_early_when_no_epoch_is_better(backbone: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    scores = iter([0.5, 0.6, 0.9, 0.8, 0.7, 0.95])
    monkeypatch.setattr(trainer_room, "score_of", lambda *_: next(scores))
    trainer = fitted(backbone, cut(), cut(6, seed=1), warm_up_epochs=2, epochs=9, patience=2)
    assert [one.score for one in trainer.history] == [0.5, 0.6, 0.9, 0.8, 0.7]


def test_a_focal_loss_learns_too(backbone: Backbone) -> None:  # noqa: F811
    history = fitted(backbone, cut(), epochs=5, objective=ObjectiveSpec(kind="focal")).history
    assert history[-1].loss < history[0].loss


def test_labels_that_are_missing_are_left_out(backbone: Backbone) -> None:  # noqa: F811
    classes = tuple(ClassSpec(name=name) for name in "ab")
    labels = np.array([[n % 2, -1 if n % 3 else 1] for n in range(12)])
    trainer = fitted(backbone, cut(labels=labels), fields={"task_type": "multilabel", "classes": classes})
    assert all(math.isfinite(one.loss) for one in trainer.history)


def test_a_suspended_training_without_a_folder_ends(backbone: Backbone) -> None:  # noqa: F811
    control = Control()
    control.suspend()
    trainer = Trainer(network_on(backbone), TrainingSpec(**FAST), control=control)
    with pytest.raises(Suspended):
        trainer.fit(cut(), None)


@pytest.mark.parametrize("monitor", ["auc", "average_precision", "balanced_accuracy"])
def test_a_perfect_answer_has_the_score_1_and_one_class_alone_has_none(backbone: Backbone, monitor: str) -> None:  # noqa: F811
    spec = network_on(backbone).spec
    probabilities = np.array([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7]])
    assert score_of(monitor, spec, np.array([0, 0, 1]), probabilities) == 1
    assert math.isnan(score_of(monitor, spec, np.array([0, 0, 0]), probabilities))
