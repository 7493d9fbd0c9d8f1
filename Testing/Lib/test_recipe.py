"""What a recipe asks for beside the usual: masks, balance, weights, the whole backbone, an early end."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from networks import plugin_spec, tiny_backbone
from test_trainer import FAST, backbone, copy_of, cut, fitted, lent, network_on  # noqa: F401

from AnyMC3DLib.backbone import Backbone
from AnyMC3DLib.control import Control
from AnyMC3DLib.errors import InputError, Suspended
from AnyMC3DLib.progress import Progress
from AnyMC3DLib.spec import ClassSpec, HeadSpec, LoRASpec
from AnyMC3DLib.training import trainer as trainer_room
from AnyMC3DLib.training.checkpoint import CheckpointStore
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


def test_a_score_leaves_out_classes_that_the_validation_lacks(backbone: Backbone) -> None:  # noqa: F811
    classes = tuple(ClassSpec(name=name) for name in "abc")
    spec = network_on(backbone, task_type="multiclass", classes=classes).spec
    probabilities = np.array([[0.7, 0.2, 0.1], [0.2, 0.7, 0.1], [0.6, 0.3, 0.1]])
    assert score_of("auc", spec, np.array([0, 1, 0]), probabilities) == 1


@pytest.mark.parametrize("method", ["frozen", "full"])
def test_a_method_without_adapters_wants_none(backbone: Backbone, method: str) -> None:  # noqa: F811
    with pytest.raises(InputError, match=f"The method '{method}' has no adapters"):
        TaskSpec(plugin=network_on(backbone).spec, training=TrainingSpec(method=method))
    if method == "full":
        with pytest.raises(InputError, match="trained in float32"):
            TrainingSpec(method=method, precision="bfloat16")


def interrupted(backbone: Backbone, folder: Path, *, stops: int, **recipe: object) -> tuple[Trainer, bool]:  # noqa: F811
    """A training with a state in `folder` that is suspended after so many reports, or ends before."""
    control, told = Control(), []

    def progress(step: Progress) -> None:
        told.append(step)
        if len(told) == stops:
            control.suspend()

    store = CheckpointStore(folder, every_s=0.0)
    fields = {"lora": LoRASpec(rank=0)} if recipe.get("method") == "full" else {}
    trainer = Trainer(
        network_on(backbone, **fields),
        TrainingSpec(**{**FAST, **recipe}),
        control=control,
        progress=progress,
        store=store,
    )
    try:
        trainer.fit(with_masks(cut(), range(3)), cut(6, seed=1))
    except Suspended:
        return trainer, False
    return trainer, True


@pytest.mark.parametrize(
    "recipe",
    [
        {"patience": 1, "epochs": 6},
        {"pixels": PixelSpec(weight=1.0, channels=8), "epochs": 3},
        {"sampling": "balanced", "slices": 2, "epochs": 3},
        {"method": "full", "backbone_rate": 1e-3, "epochs": 3},
    ],
    ids=["early end", "masks", "balance", "whole backbone"],
)
def test_what_was_suspended_goes_on_to_the_same_weights(
    backbone: Backbone,  # noqa: F811
    tmp_path: Path,
    recipe: dict[str, object],
) -> None:
    before = {name: tensor.clone() for name, tensor in backbone.model.state_dict().items()}
    found = []
    backbone.model.requires_grad_(recipe.get("method") == "full")
    try:
        for folder, stops in ((tmp_path / "whole", 0), (tmp_path / "parts", 5)):
            for _ in range(40):
                backbone.model.load_state_dict(before)
                trainer, ended = interrupted(backbone, folder, stops=stops, **recipe)
                weights = {name: tensor.clone() for name, tensor in trainer.weights().items()}
                trainer.network.close()
                stops += 3 if stops else 0
                if ended:
                    break
            assert ended
            found.append((weights, trainer.history))
            # Once more: a run that has ended stays as it is.
            backbone.model.load_state_dict(before)
            again, _ = interrupted(backbone, folder, stops=0, **recipe)
            assert len(again.history) == len(trainer.history)
            assert all(torch.equal(weights[name], tensor) for name, tensor in again.weights().items())
            again.network.close()
    finally:
        backbone.model.requires_grad_(False)
        backbone.model.load_state_dict(before)
    (whole, history), (parts, other) = found
    assert [(one.phase, one.epoch) for one in history] == [(one.phase, one.epoch) for one in other]
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


def test_a_stop_that_comes_before_a_run_goes_on_keeps_what_it_had(backbone: Backbone, tmp_path: Path) -> None:  # noqa: F811
    whole, _ = interrupted(backbone, tmp_path, stops=0, keep="last")
    expected = copy_of(whole.network)
    whole.network.close()
    control = Control()
    control.stop()
    trainer = Trainer(
        network_on(backbone, seed=5), TrainingSpec(**{**FAST, "keep": "last"}), control=control,
        store=CheckpointStore(tmp_path, every_s=0.0),
    )  # fmt: skip
    trainer.fit(with_masks(cut(), range(3)), cut(6, seed=1))
    assert trainer.stopped and all(
        torch.equal(expected[name], tensor) for name, tensor in copy_of(trainer.network).items()
    )
