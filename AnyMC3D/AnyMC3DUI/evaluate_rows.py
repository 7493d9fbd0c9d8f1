"""The worker's answer to `evaluate` as rows to show: figures with their intervals, and the cases answered wrongly."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from slicer.i18n import tr as _

UNKNOWN = "-"


@dataclasses.dataclass(frozen=True)
class FigureRow:
    """A figure: a text for each column, or one over all of them."""

    name: str
    cells: tuple[str, ...]
    about: str = ""


@dataclasses.dataclass(frozen=True)
class FigureTable:
    """Figures by class; of several classes the first column is about all of them."""

    columns: tuple[str, ...]
    rows: tuple[FigureRow, ...]


@dataclasses.dataclass(frozen=True)
class WrongCase:
    """A case with a wrong answer; `class_name` has the heat that tells most of it, `fault` is 0 to 1."""

    case: str
    truth: str
    answer: str
    probability: str
    class_name: str
    fault: float


def figure_table(answer: Mapping[str, Any]) -> FigureTable:
    """The figures of the plugin, of its difference to the other one, and which classes were taken for which."""
    classes = answer["results"]["classes"]
    columns = (_("All"), *classes) if len(classes) > 1 else tuple(classes)
    rows = [*_figures(answer["results"], len(columns)), *_other(answer, len(columns)), *_confused(answer)]
    return FigureTable(columns, tuple(rows))


def wrong_cases(answer: Mapping[str, Any]) -> list[WrongCase]:
    """The cases answered wrongly, the worst first."""
    results = answer["results"]
    thresholds = {name: figures["threshold"] for name, figures in results["classes"].items()}
    how = {"binary": _wrong_binary, "multiclass": _wrong_multiclass, "multilabel": _wrong_multilabel}
    wrong = [how[results["task_type"]](one, thresholds) for one in answer["predictions"] if one["wrong"]]
    return sorted(wrong, key=lambda one: -one.fault)


def estimate_text(figure: Mapping[str, float | None] | None, *, signed: bool = False) -> str:
    """A figure with its 95 % interval, as far as they are known."""
    value, low, high = ((figure or {}).get(name) for name in ("value", "low", "high"))
    if value is None:
        return UNKNOWN
    shown = "{:+.2f}" if signed else "{:.2f}"
    if low is None or high is None:
        return shown.format(value)
    return _("{value} ({low} to {high})").format(value=shown.format(value), low=f"{low:.2f}", high=f"{high:.2f}")


def _names() -> dict[str, tuple[str, str]]:
    return {
        "auroc": (_("AUC"), _("Area under the ROC curve, each class against the rest; 0.5 is chance, 1 is best.")),
        "auprc": (_("AUPRC"), _("Average precision; chance is the share of cases with the class.")),
        "sensitivity": (_("Sensitivity"), _("Share of the cases with the class that are found at its threshold.")),
        "specificity": (_("Specificity"), _("Share of the cases without the class that are let go at its threshold.")),
        "balanced_accuracy": (_("Balanced accuracy"), _("Mean of sensitivity and specificity; 0.5 is chance.")),
        "f1": (_("F1"), _("Harmonic mean of precision and sensitivity.")),
        "brier": (_("Brier score"), _("Mean squared error of the probabilities; 0 is best.")),
        "ece": (_("Calibration error"), _("How far probabilities lie from observed shares; 0 is best.")),
    }


def _figures(results: Mapping[str, Any], columns: int) -> Iterator[FigureRow]:
    classes, overall = results["classes"].values(), results["overall"]
    for key, (name, about) in _names().items():
        cells = [estimate_text(figures.get(key)) for figures in classes]
        if columns > len(cells):
            # What a person sees of a multiclass plugin is the most probable class, where that can be told.
            cells.insert(0, estimate_text(overall.get(key, results["macro"].get(key))))
        yield FigureRow(name, tuple(cells), about)
    accuracy = estimate_text(overall.get("accuracy"))
    yield FigureRow(_("Accuracy"), _in_first(accuracy, columns), _("Share of right answers."))


def _other(answer: Mapping[str, Any], columns: int) -> Iterator[FigureRow]:
    other = answer.get("against")
    if not other:
        return
    about = _("Of '{plugin}', on the same cases.").format(plugin=other["plugin"])
    yield FigureRow(_("Other's AUC"), _in_first(estimate_text(other.get("auc")), columns), about)
    yield FigureRow(_("Other's accuracy"), _in_first(estimate_text(other.get("accuracy")), columns), about)
    about = _("AUC minus that of '{plugin}', paired by patient; an interval without 0 tells them apart.")
    difference = estimate_text(answer.get("auc_difference"), signed=True)
    yield FigureRow(_("AUC difference"), _in_first(difference, columns), about.format(plugin=other["plugin"]))


def _confused(answer: Mapping[str, Any]) -> Iterator[FigureRow]:
    confusion = answer.get("confusion")
    if not confusion:
        return
    about = _("What was answered for the cases of this class.")
    for name, counts in zip(confusion["classes"], confusion["counts"], strict=True):
        told = [f"{count} {given}" for given, count in zip(confusion["classes"], counts, strict=True) if count]
        row = _("Truth: {class_name}").format(class_name=name)
        yield FigureRow(row, (", ".join(told) or _("no case"),), about)


def _in_first(text: str, columns: int) -> tuple[str, ...]:
    return (text, *("",) * (columns - 1))


def _wrong_binary(one: Mapping[str, Any], thresholds: Mapping[str, float]) -> WrongCase:
    probabilities = one["probabilities"]
    negative, positive = probabilities
    answered = positive if probabilities[positive] >= thresholds[positive] else negative
    return _wrong(one, answered, positive)


def _wrong_multiclass(one: Mapping[str, Any], _thresholds: Mapping[str, float]) -> WrongCase:
    answered = max(one["probabilities"], key=one["probabilities"].get)
    return _wrong(one, answered, answered)


def _wrong(one: Mapping[str, Any], answered: str, heated: str) -> WrongCase:
    probabilities, truth = one["probabilities"], one["target"]
    probability = f"{probabilities[answered]:.2f}"
    return WrongCase(one["case"], truth, answered, probability, heated, 1 - probabilities[truth])


def _wrong_multilabel(one: Mapping[str, Any], thresholds: Mapping[str, float]) -> WrongCase:
    probabilities, target = one["probabilities"], one["target"]
    answered = [name for name, value in probabilities.items() if value >= thresholds[name]]
    faults = {
        name: abs(label - probabilities[name])
        for name, label in target.items()
        if label is not None and (name in answered) != bool(label)
    }
    worst = max(faults, key=faults.get)
    return WrongCase(
        case=one["case"],
        truth=_listed([name for name, label in target.items() if label]),
        answer=_listed(answered),
        probability=f"{worst} {probabilities[worst]:.2f}",
        class_name=worst,
        fault=faults[worst],
    )


def _listed(names: list[str]) -> str:
    return ", ".join(names) or _("none")
