"""The pictures of an evaluation: ROC, precision and recall, reliability; and how training went.

Each is a PNG as wide as a Sheet, with a legend in words beside the plot. Colours are those of Okabe and Ito, which
the colour-blind tell apart; past their number the line's pattern changes too.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from sklearn.metrics import precision_recall_curve, roc_curve

from ..sheet import FAINT, INK, INNER, LINE, MARGIN, WIDTH, Sheet, fitted
from ..spec import PluginSpec
from .confusion import confusion, png_of
from .decisions import one_against_the_rest
from .metrics import BINS, Estimate, Scores, bins_of
from .scores import Results

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#000000")
CHANCE = (0, (4, 3))
PATTERNS = ("-", (0, (5, 2)), (0, (1.5, 1.5)), (0, (6, 2, 1.5, 2)))

HEADING, PLOT, LEFT, BELOW = 44, 520, 84, 56
LEGEND = MARGIN + LEFT + PLOT + 56
COUNTS, COUNTS_GAP = 110, 16
CURVE_HEIGHT = 340
SMALL, TEXT = 9, 10


class Epoch(Protocol):
    """What an epoch of a phase gave; `epoch` counts from 1, `score` is NaN where nothing was validated."""

    phase: str
    epoch: int
    loss: float
    score: float


@dataclasses.dataclass(frozen=True)
class _Curve:
    """A class that is drawn: its known cases, its figure, and how its line looks."""

    name: str
    positive: npt.NDArray[np.bool_]
    scores: Scores
    figure: Estimate
    threshold: float
    line: dict

    @property
    def both(self) -> bool:
        return bool(self.positive.any()) and not self.positive.all()


def draw_figures(
    spec: PluginSpec, targets: npt.NDArray[np.int64], probabilities: Scores, results: Results, *, title: str
) -> dict[str, bytes]:
    """The pictures "roc", "precision-recall", "reliability" and "confusion" of some cases as PNG.

    `results` are those of the same targets and probabilities: see `scores.evaluate`. `title` says which cases.
    """
    return {
        "roc": roc(spec, targets, probabilities, results, title=title),
        "precision-recall": precision_recall(spec, targets, probabilities, results, title=title),
        "reliability": reliability(spec, targets, probabilities, results, title=title),
        "confusion": confusion(spec, targets, probabilities, results, title=title),
    }


def roc(
    spec: PluginSpec, targets: npt.NDArray[np.int64], probabilities: Scores, results: Results, *, title: str
) -> bytes:
    """One ROC curve a class, with a circle at its threshold."""
    curves = _curves(spec, targets, probabilities, results, metric="auroc")
    sheet = _sheet(f"ROC curves: {title}", legend=len(curves) + 4)
    axes = _square(
        sheet,
        "1 - specificity (share of the negatives that are decided for)",
        "Sensitivity (share of the positives that are found)",
    )
    axes.plot([0, 1], [0, 1], color=FAINT, linewidth=1, linestyle=CHANCE)
    for curve in (c for c in curves if c.both):
        false, true, _ = roc_curve(curve.positive, curve.scores, drop_intermediate=False)
        axes.plot(false, true, clip_on=False, **curve.line)
        decided = curve.scores >= curve.threshold
        _circle(axes, decided[~curve.positive].mean(), decided[curve.positive].mean(), curve)
    _legend(sheet, curves, "Area under the curve (95 % interval)", ["Circle: at the threshold", "Dashed grey: chance"])
    return png_of(sheet)


def precision_recall(
    spec: PluginSpec, targets: npt.NDArray[np.int64], probabilities: Scores, results: Results, *, title: str
) -> bytes:
    """One curve of precision over recall a class, with a circle at its threshold."""
    curves = _curves(spec, targets, probabilities, results, metric="auprc")
    sheet = _sheet(f"Precision and recall: {title}", legend=len(curves) + 4)
    axes = _square(sheet, "Recall (share of the positives that are found)", "Precision (share of finds that are right)")
    for curve in (c for c in curves if c.both):
        precision, recall, _ = precision_recall_curve(curve.positive, curve.scores)
        # Average precision is the area below these steps.
        axes.plot(recall, precision, drawstyle="steps-post", clip_on=False, **curve.line)
        decided = curve.scores >= curve.threshold
        if decided.any():
            _circle(axes, decided[curve.positive].mean(), curve.positive[decided].mean(), curve)
    remarks = ["Circle: at the threshold"]
    if len(curves) == 1 and curves[0].both:
        share = float(curves[0].positive.mean())
        axes.axhline(share, color=FAINT, linewidth=1, linestyle=CHANCE)
        remarks.append(f"Dashed grey: chance, since {100 * share:.0f} % of the cases are positive")
    _legend(sheet, curves, "Average precision (95 % interval)", remarks)
    return png_of(sheet)


def reliability(
    spec: PluginSpec, targets: npt.NDArray[np.int64], probabilities: Scores, results: Results, *, title: str
) -> bytes:
    """Frequency over mean probability in the bins of the ECE, one line a class, above the number of cases in each."""
    curves = _curves(spec, targets, probabilities, results, metric="ece")
    sheet = _sheet(f"Reliability: {title}", legend=len(curves) + 4, more=COUNTS + COUNTS_GAP)
    axes = _square(sheet, "", "Frequency of the class in the bin")
    axes.plot([0, 1], [0, 1], color=FAINT, linewidth=1, linestyle=CHANCE)
    counts = sheet.axes(MARGIN + LEFT, MARGIN + HEADING + PLOT + COUNTS_GAP, PLOT, COUNTS)
    for curve in (c for c in curves if c.both):
        bins = bins_of(curve.scores)
        filled = bins.any(axis=0)
        mean, frequency = (
            (bins * values[:, None]).sum(axis=0)[filled] / bins.sum(axis=0)[filled]
            for values in (curve.scores, curve.positive)
        )
        axes.plot(mean, frequency, marker="o", markersize=4.5, clip_on=False, **curve.line)
        counts.stairs(bins.sum(axis=0), np.linspace(0, 1, BINS + 1), baseline=None, **curve.line)
    _plain(counts, "Probability of the class (mean of the bin above)", "Cases")
    counts.set(xlim=(0, 1), ylim=(0, None))
    counts.locator_params(axis="y", nbins=3, integer=True)
    axes.tick_params(labelbottom=False)
    _legend(sheet, curves, "Expected calibration error (95 % interval)", ["Dashed grey: as often as it is said"])
    return png_of(sheet)


def learning_curves(history: Sequence[Epoch], *, title: str, score_name: str = "validation AUC") -> bytes:
    """Loss and validation score over the epochs of all phases, one after the other."""
    sheet = Sheet(2 * MARGIN + HEADING + CURVE_HEIGHT + BELOW)
    sheet.text(MARGIN, MARGIN + 10, f"Training: {title}", weight="bold", size=13, room=INNER)
    width = INNER / 2
    values = {"Loss": [e.loss for e in history], score_name[:1].upper() + score_name[1:]: [e.score for e in history]}
    for number, (name, column) in enumerate(values.items()):
        x = MARGIN + LEFT + number * width
        axes = sheet.axes(x, MARGIN + HEADING, width - LEFT - 24, CURVE_HEIGHT)
        _plain(axes, "Epoch", name)
        known = np.flatnonzero(np.isfinite(column))
        axes.plot(known + 1, np.array(column)[known], color=COLOURS[number], marker="o", markersize=3.5, linewidth=1.6)
        axes.set_xlim(0.5, max(len(history), 1) + 0.5)
        axes.locator_params(axis="x", integer=True, min_n_ticks=1)
        _phases(axes, history)
        if not len(known):
            axes.set_yticks([])
            axes.text(0.5, 0.5, "none was measured", transform=axes.transAxes, ha="center", fontsize=TEXT, color=FAINT)
        elif number:
            # Of equal scores the later, as the weights are kept.
            best = known[len(known) - 1 - int(np.argmax(np.array(column)[known][::-1]))]
            axes.plot(best + 1, column[best], "o", markersize=9, markerfacecolor="none", markeredgecolor=INK)
            axes.set_title(f"highest: {column[best]:.3f} in epoch {best + 1}", fontsize=SMALL, color=FAINT, loc="right")
    return png_of(sheet)


def _phases(axes: Axes, history: Sequence[Epoch]) -> None:
    starts = [n for n, e in enumerate(history) if n == 0 or e.phase != history[n - 1].phase]
    for start in starts[1:]:
        axes.axvline(start + 0.5, color=FAINT, linewidth=1, linestyle=CHANCE)
    if len(starts) > 1:
        names = " | ".join(history[start].phase for start in starts)
        axes.set_title(names, fontsize=SMALL, color=FAINT, loc="left", parse_math=False)


def _curves(
    spec: PluginSpec, targets: npt.NDArray[np.int64], probabilities: Scores, results: Results, *, metric: str
) -> list[_Curve]:
    truth = one_against_the_rest(spec, targets)
    scores = probabilities[:, -truth.shape[1] :]
    curves = []
    for k, found in enumerate(results.classes):
        known = truth[:, k] >= 0
        pattern = PATTERNS[k // len(COLOURS) % len(PATTERNS)]
        width = 1.8 if len(results.classes) <= len(COLOURS) else 1.3
        line = {"color": COLOURS[k % len(COLOURS)], "linestyle": pattern, "linewidth": width}
        positive = truth[known, k] == 1
        curves.append(_Curve(found.name, positive, scores[known, k], found.metrics[metric], found.threshold, line))
    return curves


def _sheet(heading: str, *, legend: int, more: float = 0) -> Sheet:
    """A page for a square plot and so many lines of legend."""
    sheet = Sheet(2 * MARGIN + HEADING + max(PLOT + more + BELOW, legend * (LINE + 4)))
    sheet.text(MARGIN, MARGIN + 10, heading, weight="bold", size=13, room=INNER)
    return sheet


def _square(sheet: Sheet, across: str, up: str) -> Axes:
    axes = sheet.axes(MARGIN + LEFT, MARGIN + HEADING, PLOT, PLOT)
    axes.set(xlim=(0, 1), ylim=(0, 1))
    axes.grid(color="#e7ebf0", linewidth=0.8)
    axes.set_axisbelow(True)
    _plain(axes, across, up)
    return axes


def _plain(axes: Axes, across: str, up: str) -> None:
    axes.set_xlabel(across, fontsize=TEXT, color=INK)
    axes.set_ylabel(up, fontsize=TEXT, color=INK, parse_math=False)
    axes.tick_params(labelsize=SMALL, colors=FAINT, length=3)
    axes.spines[["top", "right"]].set_visible(False)


def _circle(axes: Axes, x: float, y: float, curve: _Curve) -> None:
    style = {"markersize": 9, "markerfacecolor": "white", "markeredgewidth": 2}
    axes.plot([x], [y], "o", markeredgecolor=curve.line["color"], clip_on=False, zorder=5, **style)


def _legend(sheet: Sheet, curves: Sequence[_Curve], heading: str, remarks: Sequence[str]) -> None:
    room = WIDTH - MARGIN - LEGEND
    y = MARGIN + HEADING + 10
    sheet.text(LEGEND, y, heading, weight="bold", room=room)
    for curve in curves:
        y += LINE + 4
        line = Line2D([LEGEND / WIDTH, (LEGEND + 40) / WIDTH], [1 - y / sheet.height] * 2, **curve.line)
        sheet.figure.add_artist(line)
        figure = _words(curve.figure)
        sheet.text(LEGEND + 52, y, f"{fitted(curve.name, room=room - 270, size=TEXT)}: {figure}", room=room - 52)
    for remark in remarks:
        y += LINE + 4
        sheet.text(LEGEND, y, remark, colour=FAINT, room=room)


def _words(figure: Estimate) -> str:
    if not np.isfinite(figure.value):
        return "unknown, one kind of case alone"
    return str(figure) if np.isfinite(figure.low) else f"{figure.value:.3f} (no interval)"
