"""Temperature and thresholds, fitted on validation cases and applied to all."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import InputError
from ..spec import PluginSpec
from .decisions import checked_probabilities, one_against_the_rest
from .metrics import Scores

# Beyond these a temperature makes every probability 0 or 1, or all alike.
COLDEST, HOTTEST = 0.1, 10.0
USUAL_THRESHOLD = 0.5
TINY = 1e-300


@dataclasses.dataclass(frozen=True)
class Calibration:
    """What was fitted on validation cases: thresholds, one a class, are for probabilities at the temperature.

    `warnings` say in words what could not be fitted and was left as it is.
    """

    temperature: float
    thresholds: tuple[float, ...]
    warnings: tuple[str, ...] = ()

    def applied_to(self, spec: PluginSpec) -> PluginSpec:
        """The spec with this temperature, on top of its own, and these thresholds."""
        pairs = zip(spec.classes, self.thresholds, strict=True)
        classes = tuple(dataclasses.replace(c, threshold=threshold) for c, threshold in pairs)
        return dataclasses.replace(spec, classes=classes, temperature=spec.temperature * self.temperature)


def fit_calibration(probabilities: Scores, targets: npt.NDArray[np.int64], spec: PluginSpec) -> Calibration:
    """Temperature, then thresholds at that temperature, from validation cases: see the two functions below."""
    warnings: list[str] = []
    temperature = fit_temperature(probabilities, targets, spec, warnings=warnings)
    calm = calibrated(probabilities, temperature, spec)
    thresholds = fit_thresholds(calm, targets, spec, warnings=warnings)
    return Calibration(temperature, tuple(thresholds), tuple(warnings))


def fit_temperature(
    probabilities: Scores,
    targets: npt.NDArray[np.int64],
    spec: PluginSpec,
    *,
    warnings: list[str] | None = None,
) -> float:
    """The temperature T at which the negative log-likelihood of the targets is least (arXiv 1706.04599).

    Probabilities [N, classes] are those at which T is 1; targets are class numbers [N], or [N, classes] of 0, 1 and
    -1 where a label is missing, which is left out. One T serves all labels of a multilabel task. It stays 1, and
    `warnings` gets a sentence, where the cases are of one kind, or the best T lies outside COLDEST to HOTTEST, as it
    does where no case is answered wrongly. Raises InputError where the arrays do not fit the task.
    """
    known, margins, loss = _likelihood(probabilities, targets, spec)
    if len(np.unique(known)) < 2:
        _warn(warnings, "The validation cases are all of one kind: the temperature stays 1.")
        return 1.0
    # Where no answer is wrong, the likelihood rises for ever as the temperature falls.
    flawless = bool((margins >= 0).all() and (margins > 0).any())
    inverse = np.inf if flawless else _minimum(loss)
    if not 1 / HOTTEST < inverse < 1 / COLDEST:
        reason = "too well" if inverse > 1 else "too badly"
        _warn(warnings, f"The model tells the validation cases apart {reason} to fit a temperature: it stays 1.")
        return 1.0
    return 1 / inverse


def _likelihood(
    probabilities: Scores, targets: npt.NDArray[np.int64], spec: PluginSpec
) -> tuple[npt.NDArray[np.int64], Tensor, Callable[[Tensor], Tensor]]:
    """The known targets, by how much the logit of each is ahead, and their mean negative log-likelihood over 1 / T."""
    truth = one_against_the_rest(spec, targets)
    array = checked_probabilities(spec, probabilities, cases=len(truth))
    if spec.task_type == "multiclass":
        scores, chosen = torch.tensor(np.log(np.maximum(array, TINY))), torch.tensor(truth.argmax(axis=1))
        own = scores.gather(1, chosen[:, None])
        ahead = (own - scores).masked_fill(torch.tensor(truth == 1), torch.inf).amin(dim=1)
        return truth.argmax(axis=1), ahead, lambda inverse: F.cross_entropy(scores * inverse, chosen)
    known = truth >= 0
    # The largest double below 1: what was rounded to 1 still has a logit.
    certain = np.clip(array[:, -truth.shape[1] :][known], TINY, np.nextafter(1.0, 0.0))
    signed = torch.logit(torch.tensor(certain)) * torch.tensor(2.0 * truth[known] - 1)
    return truth[known], signed, lambda inverse: -F.logsigmoid(signed * inverse).mean()


def _minimum(loss: Callable[[Tensor], Tensor]) -> float:
    """Where a convex function of one number is least."""
    number = torch.ones((), dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS(
        [number], max_iter=200, tolerance_grad=1e-12, tolerance_change=1e-14, line_search_fn="strong_wolfe"
    )

    def step() -> Tensor:
        optimiser.zero_grad()
        value = loss(number)
        value.backward()
        return value

    optimiser.step(step)
    return number.item()


def calibrated(probabilities: Scores, temperature: float, spec: PluginSpec) -> Scores:
    """The probabilities [N, classes] with their logits divided by the temperature; raises InputError if they are none.

    That is monotone in each probability of a binary or multilabel task, and keeps the most probable class of a
    multiclass one.
    """
    array = checked_probabilities(spec, probabilities, cases=len(probabilities))
    values = torch.tensor(array)
    if spec.task_type == "multiclass":
        return (values.log() / temperature).softmax(dim=1).numpy()
    after = (torch.logit(values) / temperature).sigmoid().numpy()
    return np.stack([1 - after[:, 1], after[:, 1]], axis=1) if spec.task_type == "binary" else after


def fit_thresholds(
    probabilities: Scores,
    targets: npt.NDArray[np.int64],
    spec: PluginSpec,
    *,
    rule: Literal["youden"] = "youden",
    warnings: list[str] | None = None,
) -> list[float]:
    """One threshold a class, at which sensitivity + specificity - 1 (Youden's index) is greatest.

    Arrays as in `fit_temperature`, but the probabilities are those that the thresholds are meant for. A threshold
    lies in the middle between two neighbouring scores; of several that are equally good it is the nearest to 0.5.
    The negative class of a binary task gets what the positive leaves. A class that the cases have one kind of, or
    that the scores do not tell apart, keeps 0.5, and `warnings` gets a sentence. Raises InputError for another rule,
    or where the arrays do not fit the task.
    """
    if rule != "youden":
        raise InputError(f"There is no rule '{rule}' for thresholds: use 'youden'.")
    truth = one_against_the_rest(spec, targets)
    array = checked_probabilities(spec, probabilities, cases=len(truth))[:, -truth.shape[1] :]
    thresholds = []
    for name, labels, scores in zip(spec.explained, truth.T, array.T, strict=True):
        best = _best_threshold(labels[labels >= 0] == 1, scores[labels >= 0])
        if best is None:
            _warn(warnings, f"The validation cases cannot tell where to decide for '{name}': its threshold stays 0.5.")
        thresholds.append(USUAL_THRESHOLD if best is None else best)
    return [1 - thresholds[0], *thresholds] if spec.task_type == "binary" else thresholds


def _best_threshold(positive: npt.NDArray[np.bool_], scores: Scores) -> float | None:
    values, place = np.unique(scores, return_inverse=True)
    positives, negatives = (np.bincount(place[kind], minlength=len(values)) for kind in (positive, ~positive))
    if not positives.any() or not negatives.any() or len(values) < 2:
        return None
    # For a threshold between each value and the next: positives that reach it, negatives that do not. In whole
    # numbers, so that what is equally good is so to the last digit.
    hits = positives.sum() - positives.cumsum()[:-1]
    rejections = negatives.cumsum()[:-1]
    index = hits * negatives.sum() + rejections * positives.sum() - positives.sum() * negatives.sum()
    if index.max() <= 0:
        return None
    middles = (values[:-1] + values[1:]) / 2
    # Between neighbouring doubles there is no middle.
    middles = np.where(middles > values[:-1], middles, values[1:])[index == index.max()]
    return float(middles[np.abs(middles - USUAL_THRESHOLD).argmin()])


def _warn(warnings: list[str] | None, sentence: str) -> None:
    if warnings is not None:
        warnings.append(sentence)
