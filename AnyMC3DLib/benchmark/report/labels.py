"""How the fields of a row and its figures are called where a person reads them. Needs the standard library alone."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from typing import Any

from ..names import title_of

FIELDS: Mapping[str, str] = {
    "method": "Method",
    "backbone": "Backbone",
    "pretrained": "Weights at the start",
    "size": "Input size, pixels",
    "share": "Share of the training data",
    "fusion": "Fusion",
    "rank": "Rank of the adapters",
    "targets": "Adapted layers",
    "views": "Views",
    "pixels": "Weight of pixel supervision",
    "epochs": "Epochs",
    "budget_minutes": "Budget, minutes",
    "recipe": "Recipe",
    "task": "Task",
    "data": "Data",
    "weights": "File of weights",
}
FIGURES: Mapping[str, str] = {"auroc": "AUROC", "accuracy": "Accuracy", "auprc": "AUPRC", "brier": "Brier score"}
UNKNOWN, MINUS = "unknown", "\N{MINUS SIGN}"
OTHERS_LEFT_OUT = "the task's"
SHORT_DIGEST = 8
KEY_DIGITS = 8  # of a row's key on the page


def _percent(value: float) -> str:
    return f"{100 * value:.3g} % of the data"


_WORDS: Mapping[str, Callable[[Any], str]] = {
    "method": title_of,
    "backbone": lambda value: value or "own network",
    "pretrained": lambda value: "pretrained" if value else "random weights",
    "size": lambda value: f"{value} px",
    "share": _percent,
    "fusion": lambda value: f"{value} fusion",
    "rank": lambda value: f"rank {value}",
    "targets": lambda value: "adapters in " + ", ".join(value),
    "views": lambda value: "views " + ", ".join(value),
    "pixels": lambda value: f"pixel weight {value:g}",
    "epochs": lambda value: f"{value} epochs",
    "budget_minutes": lambda value: f"{value:g} minutes at most",
    "recipe": lambda value: "recipe " + json.dumps(value, sort_keys=True) if value else "the task's recipe",
    "task": lambda value: f"task {value[:SHORT_DIGEST]}",
    "data": lambda value: f"data {value[:SHORT_DIGEST]}",
    "weights": lambda value: f"weights {value[:SHORT_DIGEST]}" if value else "no file of weights",
}


def value_words(field: str, value: Any) -> str:
    """A field's value in words, as it stands in a label: "128 px", "10 % of the data", "rank 8"."""
    if value is None:
        return "no limit of time" if field == "budget_minutes" else f"{OTHERS_LEFT_OUT} {field}"
    return _WORDS[field](value)


def figure_words(value: float) -> str:
    """A figure with three digits, or that it is unknown."""
    return f"{value:.3f}" if math.isfinite(value) else UNKNOWN


def signed(value: float) -> str:
    """A difference with its sign and three digits; what rounds to 0 has none."""
    if not math.isfinite(value):
        return UNKNOWN
    text = f"{abs(value):.3f}"
    return text if float(text) == 0 else f"{'+' if value > 0 else MINUS}{text}"


def interval_words(low: float, high: float, *, with_sign: bool = False) -> str:
    """An interval as "0.812 to 0.874"; "no interval" where it is unknown."""
    if not (math.isfinite(low) and math.isfinite(high)):
        return "no interval"
    words = signed if with_sign else figure_words
    return f"{words(low)} to {words(high)}"


def level_words(comparisons: int) -> str:
    """What an interval is called that is one of so many."""
    return "95 % interval" if comparisons == 1 else f"95 % interval for {comparisons} comparisons at once"


def count_words(value: float) -> str:
    """A number of parameters: 812, 45.1 thousand, 86.6 million."""
    if not math.isfinite(value):
        return UNKNOWN
    for size, name in ((1e9, "billion"), (1e6, "million"), (1e3, "thousand")):
        if value >= size:
            return f"{value / size:.3g} {name}"
    return f"{value:.0f}"


def minutes_words(value: float) -> str:
    """Minutes with as many digits as matter."""
    if not math.isfinite(value):
        return UNKNOWN
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 1 else f"{value:.2f}"


def p_words(p: float | None) -> str:
    """A p value; nothing where there is none."""
    if p is None or not math.isfinite(p):
        return ""
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def plural(count: int, word: str) -> str:
    """The number with its noun: 1 seed, 3 seeds."""
    return f"{count} {word}{'' if count == 1 else 's'}"


def listed(names: list[str]) -> str:
    """The names as an enumeration: a, b and c."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
