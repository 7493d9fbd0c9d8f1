"""What a plugin answers, as lines to show: the class, its probability, the decision, whether that is uncertain."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from .result_nodes import is_uncertain


@dataclasses.dataclass(frozen=True)
class AnswerRow:
    """One class of an answer."""

    class_name: str
    probability: float
    threshold: float
    decision: bool
    uncertain: bool


def answer_rows(prediction: Mapping[str, Any]) -> list[AnswerRow]:
    """The classes of an answer (Prediction.to_dict), the most probable first."""
    rows = [_row(prediction, name, probability) for name, probability in prediction["probabilities"].items()]
    return sorted(rows, key=lambda row: -row.probability)


def heated_classes(prediction: Mapping[str, Any]) -> list[str]:
    """The classes that have a heatmap of their own, the most probable first."""
    return [row.class_name for row in answer_rows(prediction) if row.class_name in prediction["hot_spots"]]


def _row(prediction: Mapping[str, Any], name: str, probability: float) -> AnswerRow:
    threshold, decision = prediction["thresholds"][name], prediction["decisions"][name]
    return AnswerRow(name, probability, threshold, decision, is_uncertain(prediction, name))
