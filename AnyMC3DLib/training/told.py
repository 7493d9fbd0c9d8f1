"""What a plugin says of labelled cases as JSON values: case by case, as curves, and as a confusion matrix."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.metrics import confusion_matrix, roc_curve

from ..spec import PluginSpec
from .decisions import decisions, one_against_the_rest
from .metrics import Scores, bins_of

MOST_POINTS = 200  # of a ROC curve
HARDEST = 20
# A probability that has become 0 in 32 bits would have an endless loss, which JSON does not know.
LEAST = float(np.finfo(np.float32).tiny)

Targets = npt.NDArray[np.int64]


def hardest(spec: PluginSpec, ids: Sequence[str], targets: Targets, probabilities: Scores) -> list[dict[str, Any]]:
    """The cases of the highest cross-entropy, at most HARDEST, the highest first.

    Targets are class numbers [N], or for a multilabel task [N, classes] of 0, 1, and -1 where a label is missing; a
    case's loss is then the mean over its known labels, and a case without any is left out.
    """
    losses = _losses(targets, probabilities)
    order = [n for n in np.argsort(-losses, kind="stable") if np.isfinite(losses[n])][:HARDEST]
    return [{**_case(spec, ids[n], targets[n], probabilities[n]), "loss": float(losses[n])} for n in order]


def predictions(spec: PluginSpec, ids: Sequence[str], targets: Targets, probabilities: Scores) -> list[dict[str, Any]]:
    """Every case, and whether it is decided wrongly, by any known label: see `hardest`."""
    decided = decisions(spec, probabilities, [c.threshold for c in spec.classes])
    if targets.ndim == 2:
        wrong = ((targets >= 0) & (decided != (targets == 1))).any(axis=1)
    else:
        wrong = decided.argmax(axis=1) != targets
    parts = zip(ids, targets, probabilities, wrong, strict=True)
    return [{**_case(spec, name, target, row), "wrong": bool(w)} for name, target, row, w in parts]


def curves(spec: PluginSpec, targets: Targets, probabilities: Scores) -> dict[str, dict[str, list[list[float]]]]:
    """For each explained class its ROC curve and its reliability.

    "roc" are points of false and true positive rate from (0, 0) to (1, 1), at most MOST_POINTS, none where the cases
    are of one kind. "reliability" are mean probability, frequency and cases of each bin that has any, with the bins of
    the calibration error.
    """
    truth = one_against_the_rest(spec, targets)
    columns = zip(spec.explained, truth.T, probabilities[:, -truth.shape[1] :].T, strict=True)
    known = {name: (labels[labels >= 0] == 1, scores[labels >= 0]) for name, labels, scores in columns}
    return {name: {"roc": _roc(*pair), "reliability": _reliability(*pair)} for name, pair in known.items()}


def confusion(spec: PluginSpec, targets: Targets, probabilities: Scores) -> dict[str, Any] | None:
    """How many cases of each class (rows) were decided for each (columns); None for a multilabel task."""
    if spec.task_type == "multilabel":
        return None
    decided = decisions(spec, probabilities, [c.threshold for c in spec.classes]).argmax(axis=1)
    counts = confusion_matrix(targets, decided, labels=np.arange(len(spec.classes)))
    return {"classes": [c.name for c in spec.classes], "counts": counts.tolist()}


def _case(spec: PluginSpec, name: str, target: Any, row: Scores) -> dict[str, Any]:
    names = [c.name for c in spec.classes]
    if spec.task_type == "multilabel":
        told: Any = {label: None if value < 0 else int(value) for label, value in zip(names, target, strict=True)}
    else:
        told = names[int(target)]
    return {"case": name, "target": told, "probabilities": dict(zip(names, map(float, row), strict=True))}


def _losses(targets: Targets, probabilities: Scores) -> Scores:
    """The cross-entropy of each case [N]; NaN where no label is known."""
    if targets.ndim == 1:
        return -np.log(np.maximum(probabilities[np.arange(len(targets)), targets], LEAST))
    known = targets >= 0
    right = np.where(targets == 1, probabilities, 1 - probabilities)
    each = np.where(known, -np.log(np.maximum(right, LEAST)), 0.0)
    with np.errstate(invalid="ignore"):
        return each.sum(axis=1) / known.sum(axis=1)


def _roc(positive: npt.NDArray[np.bool_], scores: Scores) -> list[list[float]]:
    if positive.all() or not positive.any():
        return []
    false, true, _ = roc_curve(positive, scores)
    kept = np.unique(np.linspace(0, len(false) - 1, min(len(false), MOST_POINTS)).round().astype(int))
    return np.stack([false, true], axis=1)[kept].tolist()


def _reliability(positive: npt.NDArray[np.bool_], scores: Scores) -> list[list[float]]:
    bins = bins_of(scores)
    return [
        [float(scores[inside].mean()), float(positive[inside].mean()), int(inside.sum())]
        for inside in bins.T
        if inside.any()
    ]
