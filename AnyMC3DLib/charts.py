"""The charts of a prediction: the weights of its slices, and the probabilities of its classes."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes

from .prediction import Prediction, SliceWeights, threshold_of
from .sheet import ACCENT, FAINT, INK, INNER, MARGIN, Sheet

Part = tuple[float, Callable[[Sheet, float], None]]  # a height in pixels, and what draws it from a top edge

NEUTRAL, TRACK = "#8a99ac", "#e7ebf0"
# In the order of the RAS axis along which the slices run.
POSITIONS = {
    "sagittal": "R, mm (left to right)",
    "coronal": "A, mm (back to front)",
    "axial": "S, mm (feet to head)",
}
CHARTS_IN_ROW, MOST_BARS_APART = 3, 50
CHART, CHART_TITLE, CHART_LABELS, CHART_LEFT = 84, 26, 44, 44
BAR_ROW, BAR_TITLE, BAR_LABELS = 26, 28, 22
NAME_ROOM, BAR_WIDTH = 400, 480


def slice_weights(prediction: Prediction, point: npt.NDArray[np.float64]) -> Part:
    """A chart a view; the slice nearest to `point`, RAS, stands out."""
    views = list(prediction.slices.items())
    in_row = min(len(views), CHARTS_IN_ROW)
    step = INNER / in_row
    cell = CHART_TITLE + CHART + CHART_LABELS

    def draw(sheet: Sheet, top: float) -> None:
        for number, (name, slices) in enumerate(views):
            x, y = MARGIN + (number % in_row) * step, top + (number // in_row) * cell
            title = "Slice weights (dashed: an even share)"
            if len(views) > 1:
                title = f"View weight {prediction.view_weights[name]:.2f}, slice weights: {name}"
            sheet.text(x, y + 10, title, weight="bold", room=step - 24)
            axes = sheet.axes(x + CHART_LEFT, y + CHART_TITLE, step - CHART_LEFT - (24 if in_row > 1 else 0), CHART)
            _slice_chart(axes, slices, point)

    return math.ceil(len(views) / in_row) * cell, draw


def _slice_chart(axes: Axes, slices: SliceWeights, point: npt.NDArray[np.float64]) -> None:
    number = list(POSITIONS).index(slices.axis)
    positions = slices.centres[:, number]
    width = abs(positions[-1] - positions[0]) / (len(positions) - 1) if len(positions) > 1 else 1.0
    colours = [NEUTRAL] * len(positions)
    colours[int(np.argmin(np.abs(positions - point[number])))] = ACCENT
    # Gaps between bars of a few pixels would come out uneven.
    gap = 0.1 if len(positions) <= MOST_BARS_APART else 0.0
    axes.bar(positions, slices.weights, width=(1 - gap) * width, color=colours, antialiased=gap > 0)
    axes.axhline(1 / len(positions), color=INK, linewidth=0.8, linestyle=(0, (4, 3)))
    axes.set(xlim=(positions.min() - width, positions.max() + width), ylim=(0, 1.1 * float(slices.weights.max())))
    axes.set_xlabel(POSITIONS[slices.axis], fontsize=9, color=FAINT)
    axes.tick_params(labelsize=8.5, colors=FAINT, length=3)
    axes.locator_params(axis="y", nbins=3)
    axes.spines[["top", "right"]].set_visible(False)


def probabilities(prediction: Prediction, class_name: str) -> Part:
    """A bar a class with its threshold and the decision; `class_name` stands out."""
    names = list(prediction.probabilities)
    left = MARGIN + NAME_ROOM + 16
    columns = {"Probability": left + BAR_WIDTH + 96, "Threshold": left + BAR_WIDTH + 196}
    decision = left + BAR_WIDTH + 222

    def draw(sheet: Sheet, top: float) -> None:
        sheet.text(MARGIN, top + 10, "Class", weight="bold", room=NAME_ROOM)
        for title, x in columns.items():
            sheet.text(x, top + 10, title, weight="bold", side="right", room=90)
        sheet.text(decision, top + 10, "Decision", weight="bold", room=90)
        for number, name in enumerate(names):
            y = top + BAR_TITLE + (number + 0.5) * BAR_ROW
            weight = "bold" if name == class_name else "normal"
            sheet.text(MARGIN, y, name, weight=weight, room=NAME_ROOM)
            values = (prediction.probabilities[name], threshold_of(prediction, name))
            for value, x in zip(values, columns.values(), strict=True):
                sheet.text(x, y, f"{value:.3f}", weight=weight, side="right", room=90)
            sheet.text(decision, y, "yes" if prediction.decisions[name] else "no", weight=weight, room=90)
        _bars(sheet.axes(left, top + BAR_TITLE, BAR_WIDTH, len(names) * BAR_ROW), prediction, names)

    return BAR_TITLE + len(names) * BAR_ROW + BAR_LABELS, draw


def _bars(axes: Axes, prediction: Prediction, names: list[str]) -> None:
    places = np.arange(len(names))
    colours = [ACCENT if prediction.decisions[name] else NEUTRAL for name in names]
    thresholds = [threshold_of(prediction, name) for name in names]
    axes.barh(places, 1.0, height=0.55, color=TRACK)
    axes.barh(places, [prediction.probabilities[name] for name in names], height=0.55, color=colours)
    axes.vlines(thresholds, places - 0.42, places + 0.42, color=INK, linewidth=1.6)
    axes.set(xlim=(0, 1), ylim=(len(names) - 0.5, -0.5), xticks=(0, 0.25, 0.5, 0.75, 1), yticks=())
    axes.tick_params(labelsize=8.5, colors=FAINT, length=3)
    axes.spines[["top", "right", "left"]].set_visible(False)
