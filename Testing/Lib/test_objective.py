"""The objective: what it is worth, and that parts of a batch give the gradient of the whole."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from monai.losses import FocalLoss
from places import REPOSITORY
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from AnyMC3DLib.errors import InputError
from AnyMC3DLib.spec import BackboneRef, ClassSpec, PluginSpec, ViewSpec
from AnyMC3DLib.training.objective import class_weights_of, divisor_of, loss_of, losses_of
from AnyMC3DLib.training.objective_spec import ObjectiveSpec, PixelSpec

CROSS_ENTROPY, FOCAL = ObjectiveSpec(), ObjectiveSpec(kind="focal")
OBJECTIVES = {
    "cross-entropy": CROSS_ENTROPY,
    "focal": FOCAL,
    "focal, gamma below 1": ObjectiveSpec(kind="focal", gamma=0.5),
    "focal without alpha": ObjectiveSpec(kind="focal", alpha=None),
}
CASES = 12


def spec(task: str, classes: int = 0) -> PluginSpec:
    count = classes or {"binary": 2, "multiclass": 4, "multilabel": 3}[task]
    return PluginSpec(
        name="Test",
        task_type=task,
        classes=tuple(ClassSpec(name=f"class {n}") for n in range(count)),
        backbone=BackboneRef(id="none"),
        views=(ViewSpec(name="axial"),),
    )


def batch(task: str, *, count: int = CASES, missing: bool = False, scale: float = 3.0) -> tuple[Tensor, Tensor]:
    """Logits [B, K] in float64 that ask for gradients, and targets in which every class occurs."""
    generator = torch.Generator().manual_seed(5)
    plan = spec(task)
    logits = scale * torch.randn(count, plan.logits, generator=generator, dtype=torch.float64)
    if task == "multilabel":
        targets = torch.randint(-1 if missing else 0, 2, (count, plan.logits), generator=generator)
        if missing:
            targets[0] = -1
    else:
        targets = torch.arange(count) % len(plan.classes)
    return logits.requires_grad_(), targets


def weights_for(task: str) -> dict[str, Tensor]:
    weights = {"case_weights": torch.linspace(0.2, 3.0, CASES, dtype=torch.float64)}
    if task != "multilabel":
        weights["class_weights"] = torch.linspace(0.3, 4.0, len(spec(task).classes), dtype=torch.float64)
    return weights


def by_hand(logits: Tensor, targets: Tensor, task: str, objective: ObjectiveSpec) -> np.ndarray:
    """Each case's loss from the formulas themselves, in float64: cross-entropy, or focal loss."""
    z, t = logits.detach().numpy(), targets.numpy()
    focal = objective.kind == "focal"
    gamma = objective.gamma if focal else 0.0
    if task == "multiclass":
        p = (np.exp(z) / np.exp(z).sum(axis=1, keepdims=True))[np.arange(len(t)), t]
        return -((1 - p) ** gamma) * np.log(p)
    t = t[:, None] if task == "binary" else t
    p = np.where(t == 1, 1 / (1 + np.exp(-z)), 1 / (1 + np.exp(z)))
    alpha = np.where(t == 1, objective.alpha, 1 - objective.alpha) if focal and objective.alpha else 1.0
    return np.where(t >= 0, -alpha * (1 - p) ** gamma * np.log(p), 0.0).mean(axis=1)


def gradient(loss: Tensor, logits: Tensor) -> Tensor:
    return torch.autograd.grad(loss, logits)[0]


# What it is worth


@pytest.mark.parametrize("objective", OBJECTIVES.values(), ids=OBJECTIVES)
@pytest.mark.parametrize("task", ["binary", "multiclass", "multilabel"])
def test_each_case_has_the_loss_of_the_formula(task: str, objective: ObjectiveSpec) -> None:
    logits, targets = batch(task, missing=True)
    found = losses_of(logits, targets, spec(task), objective)
    assert found.shape == (CASES,)
    np.testing.assert_allclose(found.detach().numpy(), by_hand(logits, targets, task, objective), rtol=1e-10)


def test_cross_entropy_is_torchs_own_weighted_and_not() -> None:
    logits, targets = batch("multiclass")
    weights = weights_for("multiclass")["class_weights"]
    plan = spec("multiclass")
    torch.testing.assert_close(loss_of(logits, targets, plan, CROSS_ENTROPY), F.cross_entropy(logits, targets))
    torch.testing.assert_close(
        loss_of(logits, targets, plan, CROSS_ENTROPY, class_weights=weights),
        F.cross_entropy(logits, targets, weight=weights),
    )
    for task in ("binary", "multilabel"):
        logits, targets = batch(task)
        expected = F.binary_cross_entropy_with_logits(logits, targets.reshape(logits.shape).double())
        torch.testing.assert_close(loss_of(logits, targets, spec(task), CROSS_ENTROPY), expected)


@pytest.mark.parametrize("task", ["binary", "multilabel"])
def test_the_sigmoid_focal_loss_is_that_of_monai_and_torchvision(task: str) -> None:
    logits, targets = batch(task)
    found = loss_of(logits, targets, spec(task), FOCAL)
    truth = targets.reshape(logits.shape).double()
    torch.testing.assert_close(found.float(), FocalLoss(gamma=2.0, alpha=0.25)(logits, truth))  # in float32
    ops = pytest.importorskip("torchvision.ops")
    expected = ops.sigmoid_focal_loss(logits, truth, alpha=0.25, gamma=2.0, reduction="mean")
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(gradient(found, logits), gradient(expected, logits))


@pytest.mark.parametrize("weighted", [False, True])
def test_the_softmax_focal_loss_is_monais_with_class_weights_and_without(weighted: bool) -> None:
    logits, targets = batch("multiclass")
    weights = weights_for("multiclass")["class_weights"] if weighted else None
    found = losses_of(logits, targets, spec("multiclass"), FOCAL, class_weights=weights)
    oracle = FocalLoss(gamma=2.0, use_softmax=True, to_onehot_y=True, weight=weights, reduction="none")
    expected = oracle(logits, targets[:, None]).sum(dim=1)  # in float32
    torch.testing.assert_close(found.float(), expected)
    pulls = gradient(found.sum(), logits), gradient(expected.sum(), logits)
    torch.testing.assert_close(*pulls, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("task", ["binary", "multiclass", "multilabel"])
def test_a_focal_loss_that_focuses_on_nothing_is_cross_entropy(task: str) -> None:
    logits, targets = batch(task, missing=True)
    plain = ObjectiveSpec(kind="focal", gamma=0.0, alpha=None)
    torch.testing.assert_close(
        losses_of(logits, targets, spec(task), plain), losses_of(logits, targets, spec(task), CROSS_ENTROPY)
    )


@pytest.mark.parametrize("size", [80.0, 1e4])
@pytest.mark.parametrize("objective", OBJECTIVES.values(), ids=OBJECTIVES)
@pytest.mark.parametrize("task", ["binary", "multiclass", "multilabel"])
def test_loss_and_gradient_are_finite_at_extreme_logits(task: str, objective: ObjectiveSpec, size: float) -> None:
    _, targets = batch(task, missing=True)
    shape = (CASES, spec(task).logits)
    for signs in (torch.ones(shape), -torch.ones(shape), torch.ones(shape).cumsum(0) % 2 * 2 - 1):
        signs[:, 0] *= -1
        logits = (size * signs).requires_grad_()
        losses = losses_of(logits, targets, spec(task), objective)
        assert torch.isfinite(losses).all()
        assert torch.isfinite(gradient(losses.sum(), logits)).all()


def test_an_extreme_logit_on_the_wrong_side_costs_its_size_and_still_pulls() -> None:
    logits = torch.tensor([[-80.0], [80.0]], requires_grad=True)
    losses = losses_of(logits, torch.tensor([1, 0]), spec("binary"), FOCAL)
    torch.testing.assert_close(losses, torch.tensor([0.25 * 80, 0.75 * 80]))
    torch.testing.assert_close(gradient(losses.sum(), logits), torch.tensor([[-0.25], [0.75]]))


def test_half_precision_logits_are_weighed_in_single_precision() -> None:
    logits, targets = batch("binary")
    half = logits.detach().bfloat16()
    found = losses_of(half, targets, spec("binary"), FOCAL)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, losses_of(half.float(), targets, spec("binary"), FOCAL))


# Parts of a batch


@pytest.mark.parametrize("parts", [[1] * 12, [5, 7], [1, 10, 1]], ids=str)
@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])
@pytest.mark.parametrize("objective", OBJECTIVES.values(), ids=OBJECTIVES)
@pytest.mark.parametrize("task", ["binary", "multiclass", "multilabel"])
def test_a_batch_in_parts_gives_the_gradient_of_the_whole(
    task: str, objective: ObjectiveSpec, weighted: bool, parts: list[int]
) -> None:
    logits, targets = batch(task, missing=True)
    weights = weights_for(task) if weighted else {}
    expected = gradient(loss_of(logits, targets, spec(task), objective, **weights), logits)
    assert expected.abs().max() > 1e-3

    whole = divisor_of(targets, spec(task), objective, **weights)
    total, divisors = torch.zeros_like(expected), []
    for rows in torch.arange(CASES).split(parts):
        own = dict(weights, **({"case_weights": weights["case_weights"][rows]} if weighted else {}))
        losses = losses_of(logits[rows], targets[rows], spec(task), objective, **own)
        total += gradient(losses.sum() / whole, logits)
        divisors.append(divisor_of(targets[rows], spec(task), objective, **own))
    torch.testing.assert_close(total, expected, rtol=1e-6, atol=1e-12)
    assert sum(divisors) == pytest.approx(whole, rel=1e-9)


def test_a_case_of_weight_two_counts_as_two_cases() -> None:
    for task in ("binary", "multiclass", "multilabel"):
        logits, targets = batch(task, missing=True)
        numbers = torch.tensor([*range(CASES), 3, 5])
        weights = torch.ones(CASES).index_fill(0, torch.tensor([3, 5]), 2.0)
        torch.testing.assert_close(
            loss_of(logits, targets, spec(task), FOCAL, case_weights=weights),
            loss_of(logits[numbers], targets[numbers], spec(task), FOCAL),
        )


# Missing labels


@pytest.mark.parametrize("objective", OBJECTIVES.values(), ids=OBJECTIVES)
def test_missing_labels_give_no_gradient_and_the_mean_is_over_those_that_are_there(objective: ObjectiveSpec) -> None:
    logits, targets = batch("multilabel", missing=True)
    there = targets >= 0
    assert 0 < there.sum() < targets.numel()
    loss = loss_of(logits, targets, spec("multilabel"), objective)
    pulls = gradient(loss, logits)
    assert (pulls[~there] == 0).all()
    assert (pulls[there] != 0).all()
    # Each label that is there, as a case of a binary task.
    alone = loss_of(logits[there][:, None], targets[there], spec("binary"), objective)
    torch.testing.assert_close(loss, alone)


@pytest.mark.parametrize("objective", OBJECTIVES.values(), ids=OBJECTIVES)
def test_a_batch_without_any_label_has_no_loss_and_no_gradient(objective: ObjectiveSpec) -> None:
    logits = (80 * torch.randn(4, 3)).requires_grad_()
    nothing = torch.full((4, 3), -1)
    for weights in ({}, {"case_weights": torch.full((4,), 1e6)}):
        loss = loss_of(logits, nothing, spec("multilabel"), objective, **weights)
        assert float(loss.detach()) == 0.0
        assert (gradient(loss, logits) == 0).all()


def test_a_part_without_labels_changes_nothing_of_the_rest() -> None:
    logits, targets = batch("multilabel", missing=True)
    empty = torch.cat([targets, torch.full((5, 3), -1)])
    more = torch.cat([logits, torch.randn(5, 3, dtype=torch.float64)])
    torch.testing.assert_close(
        loss_of(more, empty, spec("multilabel"), FOCAL), loss_of(logits, targets, spec("multilabel"), FOCAL)
    )


# Imbalance


def imbalanced(count: int = 200) -> tuple[Tensor, Tensor]:
    """Features [N, 3] and targets with one positive in 100; a positive lies beside the negatives, not among them."""
    generator = torch.Generator().manual_seed(2)
    targets = (torch.arange(count) % 100 == 7).long()
    features = torch.randn(count, 2, generator=generator, dtype=torch.float64)
    features[:, 0] += 2.5 * targets
    return torch.cat([features, torch.ones(count, 1, dtype=torch.float64)], dim=1), targets


def fitted(objective: ObjectiveSpec, class_weights: Tensor | None = None) -> Tensor:
    """The weights [3] of a linear model that minimises the objective with a little decay, as scikit-learn has it."""
    features, targets = imbalanced()
    weights = torch.zeros(3, 1, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS([weights], max_iter=500, tolerance_grad=1e-12, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimiser.zero_grad()
        losses = losses_of(features @ weights, targets, spec("binary"), objective, class_weights=class_weights)
        loss = losses.sum() + 0.5 * weights[:2].square().sum()
        loss.backward()
        return loss

    optimiser.step(closure)
    return weights.detach()[:, 0]


def test_one_positive_in_a_hundred_is_learnt_with_class_weights_as_scikit_learn_learns_it() -> None:
    features, targets = imbalanced()
    weights = class_weights_of(targets.numpy(), spec("binary"), ObjectiveSpec(class_weights=True))
    torch.testing.assert_close(weights, torch.tensor([100 / 198, 50.0]))
    for given, named in ((None, None), (weights, "balanced")):
        oracle = LogisticRegression(C=1.0, class_weight=named, tol=1e-12, max_iter=1000)
        oracle.fit(features[:, :2].numpy(), targets.numpy())
        expected = [*oracle.coef_[0], oracle.intercept_[0]]
        np.testing.assert_allclose(fitted(CROSS_ENTROPY, given).numpy(), expected, atol=1e-4)
    found = features @ fitted(CROSS_ENTROPY, weights) > 0
    plain = features @ fitted(CROSS_ENTROPY) > 0
    assert plain[targets == 1].sum() == 0, "without weights no positive is decided for"
    assert found[targets == 1].all()


def test_the_focal_loss_gives_one_positive_in_a_hundred_more_of_the_gradient() -> None:
    # A model that has learnt how rare the positives are, and nothing else.
    targets = (torch.arange(100) == 7).long()
    logits = torch.full((100, 1), float(np.log(0.01 / 0.99)), dtype=torch.float64, requires_grad=True)
    shares = []
    for objective in (CROSS_ENTROPY, dataclasses.replace(FOCAL, alpha=None), FOCAL):
        pulls = gradient(loss_of(logits, targets, spec("binary"), objective), logits)[:, 0].abs()
        assert torch.isfinite(pulls).all()
        shares.append(float(pulls[7] / pulls.sum()))
    assert shares[0] == pytest.approx(0.5)
    assert shares[1] > shares[2] > 0.99


# Weights of classes and settings


def test_class_weights_average_one_over_the_training_cases_and_give_classes_the_same_sum() -> None:
    targets = np.repeat([0, 1, 2, 3], [50, 30, 19, 1])
    weights = class_weights_of(targets, spec("multiclass"), ObjectiveSpec(class_weights=True))
    each = weights.numpy()[targets]
    assert each.mean() == pytest.approx(1.0)
    np.testing.assert_allclose([each[targets == n].sum() for n in range(4)], 25.0, rtol=1e-6)


def test_weights_given_by_hand_are_used_as_they_are_and_none_is_none() -> None:
    targets = np.array([0, 1, 2, 3])
    given = ObjectiveSpec(label_weights=(1.0, 2.0, 3.0, 0.5))
    assert class_weights_of(targets, spec("multiclass"), given).tolist() == [1.0, 2.0, 3.0, 0.5]
    assert class_weights_of(targets, spec("multiclass"), ObjectiveSpec()) is None


@pytest.mark.parametrize(
    ("task", "targets", "objective", "words"),
    [
        ("multilabel", np.zeros((4, 3), int), ObjectiveSpec(class_weights=True), "multilabel"),
        ("multiclass", np.array([0, 1, 3, 3]), ObjectiveSpec(class_weights=True), "none of class 'class 2'"),
        (
            "binary",
            np.array([0, 1]),
            ObjectiveSpec(label_weights=(1.0, 2.0, 3.0)),
            "2 classes, but label_weights has 3",
        ),
    ],
)
def test_weights_that_do_not_fit_the_task_are_refused(
    task: str, targets: np.ndarray, objective: ObjectiveSpec, words: str
) -> None:
    with pytest.raises(InputError, match=words):
        class_weights_of(targets, spec(task), objective)


def test_class_weights_are_refused_for_a_multilabel_loss() -> None:
    logits, targets = batch("multilabel")
    with pytest.raises(InputError, match="multilabel"):
        losses_of(logits, targets, spec("multilabel"), FOCAL, class_weights=torch.ones(3))


@pytest.mark.parametrize(
    ("kind", "fields", "words"),
    [
        (ObjectiveSpec, {"gamma": -1}, "gamma must lie within 0 to 10, but is -1"),
        (ObjectiveSpec, {"alpha": 1}, "alpha must lie between 0 and 1, but is 1"),
        (ObjectiveSpec, {"label_weights": [1, 0]}, "label_weights must be above 0, but one is 0"),
        (ObjectiveSpec, {"label_weights": [1, 2], "class_weights": True}, "not both"),
        (ObjectiveSpec, {"kind": "hinge"}, "cross_entropy, focal"),
        (PixelSpec, {"weight": -0.5}, "within 0 to 1000, but is -0.5"),
        (PixelSpec, {"channels": 12}, "multiple of 8, but is to have 12"),
        (PixelSpec, {"finer": 0}, "1 to 8 times finer than the tokens, but not 0"),
    ],
)
def test_settings_that_make_no_sense_are_refused(kind: Any, fields: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        kind.from_dict(fields)


def test_settings_survive_json_and_need_the_standard_library_alone() -> None:
    given = ObjectiveSpec(kind="focal", gamma=1.5, alpha=None, label_weights=(1.0, 2.0))
    assert ObjectiveSpec.from_dict(given.to_dict()) == given
    assert PixelSpec.from_dict(PixelSpec(weight=0.5, keep_decoder=True).to_dict()).keep_decoder
    code = (
        "import sys, AnyMC3DLib.training.objective_spec; "
        "sys.exit(any(name in sys.modules for name in ('torch', 'numpy', 'monai')))"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, check=False).returncode == 0
