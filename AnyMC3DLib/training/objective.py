"""The loss of a batch's logits, as a sum over studies and what it is divided by.

Kept apart, so that a batch that is computed in parts, here or on several devices, gives the gradients of the whole:
the sums add up, and so do the divisors.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import InputError
from ..spec import PluginSpec
from .objective_spec import ObjectiveSpec

# A divisor of nothing. Losses of nothing are 0, which this divides without NaN; and divisors still add up beside it.
LEAST = 1e-12


def losses_of(
    logits: Tensor,
    targets: Tensor,
    spec: PluginSpec,
    objective: ObjectiveSpec,
    *,
    class_weights: Tensor | None = None,
    case_weights: Tensor | None = None,
) -> Tensor:
    """The loss of each case [B], to be summed and divided by `divisor_of` the whole batch's targets.

    Logits are [B, K]; targets class numbers [B], or for a multilabel task 0, 1 and -1 (missing) [B, K], where a
    case's loss is the sum over the labels that are there, over K. `class_weights` [classes] weigh cases by class,
    `case_weights` [B] case by case. Finite, with finite gradients, at logits of any finite size.
    """
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    right, wrong = _log_probabilities(logits, targets, spec)
    losses = -right
    if objective.kind == "focal":
        # (1 - p)^gamma of the right answer's p, by logarithms: at p = 1 a power has no finite gradient below gamma 1.
        losses = losses * (objective.gamma * wrong).exp()
        if objective.alpha is not None and spec.task_type != "multiclass":
            shares = losses.new_tensor([1 - objective.alpha, objective.alpha])
            losses = losses * shares[(targets == 1).long()]
    if spec.task_type == "multilabel":
        losses = losses.masked_fill(targets < 0, 0.0).mean(dim=1)
    for weights in (_weights_by_class(targets, spec, class_weights), case_weights):
        losses = losses if weights is None else losses * weights.to(losses)
    return losses


def divisor_of(
    targets: Tensor,
    spec: PluginSpec,
    objective: ObjectiveSpec,
    *,
    class_weights: Tensor | None = None,
    case_weights: Tensor | None = None,
) -> float:
    """What the sum of `losses_of` is divided by, so that it becomes a mean. Divisors of parts of a batch add up.

    The number of cases; of a multilabel task the number of labels that are there, over K. Each counts by its case
    weight, and in a multiclass task by its class weight, as in torch's weighted cross-entropy; class weights of a
    binary task do not change the divisor. A batch without any label has a divisor near 0 and a loss of 0.
    """
    targets = targets.cpu()
    counts = torch.ones(len(targets), dtype=torch.float64)
    if spec.task_type == "multilabel":
        counts = (targets >= 0).double().mean(dim=1)
    if spec.task_type == "multiclass" and class_weights is not None:
        counts = counts * class_weights.cpu().double()[targets]
    if case_weights is not None:
        counts = counts * case_weights.cpu().double()
    return max(float(counts.sum()), LEAST)


def loss_of(
    logits: Tensor,
    targets: Tensor,
    spec: PluginSpec,
    objective: ObjectiveSpec,
    *,
    class_weights: Tensor | None = None,
    case_weights: Tensor | None = None,
) -> Tensor:
    """The mean loss of a batch that is at hand as a whole: the sum of `losses_of` over `divisor_of`."""
    weights = {"class_weights": class_weights, "case_weights": case_weights}
    return losses_of(logits, targets, spec, objective, **weights).sum() / divisor_of(
        targets, spec, objective, **weights
    )


def class_weights_of(targets: npt.NDArray[np.int64], spec: PluginSpec, objective: ObjectiveSpec) -> Tensor | None:
    """The weights [classes] that the objective asks for, from the training targets [N]; None where it asks for none.

    By inverse frequency they average 1 over the training cases. Raises InputError for a multilabel task, a number of
    weights that is not that of the classes, or a class without cases.
    """
    if not objective.class_weights and not objective.label_weights:
        return None
    if spec.task_type == "multilabel":
        raise InputError("The classes of a multilabel task cannot be weighted: use balanced sampling, or leave it out.")
    if objective.label_weights:
        if len(objective.label_weights) != len(spec.classes):
            raise InputError(
                f"The task has {len(spec.classes)} classes, but label_weights has {len(objective.label_weights)}."
            )
        return torch.tensor(objective.label_weights, dtype=torch.float32)
    counts = np.bincount(targets, minlength=len(spec.classes))
    if counts.min() == 0:
        absent = spec.classes[int(counts.argmin())].name
        raise InputError(f"The training cases have none of class '{absent}', so classes cannot be weighted.")
    return torch.tensor(len(targets) / (len(counts) * counts), dtype=torch.float32)


def _log_probabilities(logits: Tensor, targets: Tensor, spec: PluginSpec) -> tuple[Tensor, Tensor]:
    """The logarithms of the probability p of the right answer, and of 1 - p: [B], or [B, K] for multilabel."""
    if spec.task_type != "multiclass":
        scores = logits if spec.task_type == "multilabel" else logits[:, 0]
        signed = torch.where(targets == 1, scores, -scores)
        return F.logsigmoid(signed), F.logsigmoid(-signed)
    place = targets[:, None]
    total = logits.logsumexp(dim=1)
    others = logits.scatter(1, place, float("-inf")).logsumexp(dim=1)
    return -F.cross_entropy(logits, targets, reduction="none"), others - total


def _weights_by_class(targets: Tensor, spec: PluginSpec, class_weights: Tensor | None) -> Tensor | None:
    if class_weights is None:
        return None
    if spec.task_type == "multilabel":
        raise InputError("The classes of a multilabel task cannot be weighted: leave the weights out.")
    return class_weights.to(targets.device)[targets]
