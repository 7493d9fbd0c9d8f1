"""The pictures of a benchmark: curves over an axis, points of methods, and the AUROC over what was trained.

Each is narrow enough for a phone, with its legend below. Colours are those of Okabe and Ito, which the colour-blind
tell apart; the line's pattern and the marker change too.
"""

from __future__ import annotations

import dataclasses
import io
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, NullLocator

from ... import __version__
from ...sheet import FAINT, INK, fitted
from ...training.figures import COLOURS, PATTERNS
from .arenas import NUMBERS, Asked, ordered
from .gaps import Measured
from .groups import Group
from .labels import FIELDS, count_words

MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
WIDTH, PLOT, LINE, HEADING, BELOW, EDGE = 4.1, 2.5, 0.25, 0.42, 0.62, 0.12  # inches
# To the right half of the last tick's words stands beside the axes.
RIGHT = 0.36
LEFT, TEXT, SMALL, PNG_DPI, SHEET_DPI = 0.72, 10, 9, 200, 100
POINT_ROW, APART = 0.46, 0.018  # a row of points in inches; lines beside each other, as a part of the width
GRID = "#e7ebf0"
COST_AXES = ("method", "backbone", "rank", "targets", "fusion")


@dataclasses.dataclass(frozen=True)
class Chart:
    """A picture as SVG for the page and as PNG for a paper; `words` say what it shows to who does not see it."""

    name: str
    words: str
    svg: bytes
    png: bytes


@dataclasses.dataclass(frozen=True)
class _Point:
    """A group as it is drawn: its mean AUROC over seeds, the interval, and each seed's."""

    value: float
    low: float
    high: float
    seeds: tuple[float, ...]

    @classmethod
    def of(cls, group: Group, measured: Measured) -> _Point | None:
        found, value = measured.measure(group)["auroc"], group.mean("auroc")
        return cls(value, found.low, found.high, group.values("auroc")) if math.isfinite(value) else None


def draw(asked: Asked, measured: Measured) -> list[Chart]:
    """The pictures that answer a question, for each dataset in turn; none where nothing has figures."""
    charts = []
    for number, dataset in enumerate(asked.datasets):
        groups = [group for group in asked.groups if group.config.dataset == dataset]
        drawn = [(group, point) for group in groups if (point := _Point.of(group, measured)) is not None]
        if not drawn:
            continue
        name = f"{asked.question.id}-{number + 1}"
        numbers = [g for g, _ in drawn if _is_number(getattr(g.config, asked.question.axis))]
        if asked.question.axis in NUMBERS and len({getattr(g.config, asked.question.axis) for g in numbers}) > 1:
            charts.append(_curves(asked, drawn, title=dataset, name=name))
        else:
            charts.append(_points(asked, drawn, title=dataset, name=name))
        costs = {group.cost("parameters") for group, _ in drawn if group.cost("parameters") > 0}
        if asked.question.axis in COST_AXES and len(costs) > 1:
            charts.append(_over_parameters(asked, drawn, title=dataset, name=f"{name}-parameters"))
    return charts


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _curves(asked: Asked, drawn: Sequence[tuple[Group, _Point]], *, title: str, name: str) -> Chart:
    """AUROC over the axis, one line for each other coordinate; values without a number are left to the table."""
    axis = asked.question.axis
    lines: dict[str, list[tuple[float, _Point]]] = {}
    for group, point in drawn:
        value = getattr(group.config, axis)
        if _is_number(value):
            lines.setdefault(asked.label(group, without=[axis]), []).append((float(value), point))
    if asked.fields == (axis,):
        lines = {"AUROC": next(iter(lines.values()))}
    figure, axes = _page(title, plot=PLOT, legend=len(lines))
    ticks = ordered(axis, (value for points in lines.values() for value, _ in points))
    # Even steps where values go over decades; equal ratios otherwise look crowded at the left.
    logarithmic = min(ticks) > 0 and max(ticks) / min(ticks) > 4
    place: Callable[[float], float] = math.log if logarithmic else float
    span = place(max(ticks)) - place(min(ticks))
    for number, points in enumerate(lines.values()):
        shift = (number - (len(lines) - 1) / 2) * APART * span
        points.sort(key=lambda step: step[0])
        across = [place(value) + shift for value, _ in points]
        style = _style(number)
        _bars(axes, across, [p for _, p in points], style)
        axes.plot(across, [p.value for _, p in points], **style)
    room = 0.06 * span + len(lines) / 2 * APART * span
    axes.set_xlim(place(min(ticks)) - room, place(max(ticks)) + room)
    axes.xaxis.set_major_locator(FixedLocator([place(value) for value in ticks]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticklabels([f"{100 * v:.3g} %" if axis == "share" else f"{v:g}" for v in ticks])
    _finish(axes, FIELDS[axis], [p for points in lines.values() for _, p in points], upright=True)
    _legend(figure, [(name, _style(number)) for number, name in enumerate(lines)])
    return _chart(figure, name, f"AUROC over {FIELDS[axis].lower()} on {title}, for {', '.join(lines)}")


def _points(asked: Asked, drawn: Sequence[tuple[Group, _Point]], *, title: str, name: str) -> Chart:
    """A row for each group, its name above its point, the highest first."""
    ranked = sorted(drawn, key=lambda step: -step[1].value)
    figure, axes = _page(title, plot=POINT_ROW * len(ranked) + 0.1, legend=0, left=EDGE)
    for number, (group, point) in enumerate(ranked):
        style = {**_style(0), "linestyle": "none"}
        _bars(axes, [number + 0.2], [point], style, upright=False)
        axes.plot([point.value], [number + 0.2], **style)
        label = _fitted(asked.label(group), left=EDGE)
        text = axes.text(0, number - 0.2, label, transform=axes.get_yaxis_transform(), fontsize=TEXT, color=INK)
        text.set(verticalalignment="center", parse_math=False)
    axes.set(ylim=(len(ranked) - 0.4, -0.5), yticks=())
    _finish(axes, "AUROC", [p for _, p in ranked], upright=False)
    return _chart(figure, name, f"AUROC with intervals on {title}, of {', '.join(asked.label(g) for g, _ in ranked)}")


def _over_parameters(asked: Asked, drawn: Sequence[tuple[Group, _Point]], *, title: str, name: str) -> Chart:
    """AUROC over the number of trained parameters, on a logarithmic axis."""
    known = [(group, point) for group, point in drawn if group.cost("parameters") > 0]
    figure, axes = _page(title, plot=PLOT, legend=len(known))
    axes.set_xscale("log")
    for number, (group, point) in enumerate(known):
        style = {**_style(number), "linestyle": "none", "markersize": 8}
        across = [group.cost("parameters")]
        _bars(axes, across, [point], style)
        axes.plot(across, [point.value], **style)
    costs = [group.cost("parameters") for group, _ in known]
    axes.set_xlim(min(costs) / 2, max(costs) * 2)
    decades = range(math.floor(math.log10(min(costs) / 2)), math.ceil(math.log10(max(costs) * 2)) + 1)
    axes.xaxis.set_major_locator(FixedLocator([10.0**n for n in decades]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticklabels([_short(10.0**n) for n in decades])
    _finish(axes, "Trained parameters", [p for _, p in known], upright=True)
    names = [asked.label(group) for group, _ in known]
    _legend(figure, [(name, {**_style(number), "linestyle": "none"}) for number, name in enumerate(names)])
    counts = ", ".join(f"{n} ({count_words(c)})" for n, c in zip(names, costs, strict=True))
    return _chart(figure, name, f"AUROC over trained parameters on {title}: {counts}")


def _short(value: float) -> str:
    for size, letter in ((1e9, " bn"), (1e6, " M"), (1e3, " k")):
        if value >= size:
            return f"{value / size:g}{letter}"
    return f"{value:g}"


def _style(number: int) -> dict[str, Any]:
    return {
        "color": COLOURS[number % len(COLOURS)],
        "linestyle": PATTERNS[number % len(PATTERNS)],
        "marker": MARKERS[number % len(MARKERS)],
        "markersize": 6.5,
        "linewidth": 1.7,
    }


def _bars(
    axes: Axes, across: Sequence[float], points: Iterable[_Point], style: dict[str, Any], *, upright: bool = True
) -> None:
    """The interval as a line, and each seed's figure as a small ring."""
    ring = {"marker": "o", "markersize": 3.5, "markerfacecolor": "none", "linestyle": "none", "markeredgewidth": 0.9}
    for place, point in zip(across, points, strict=True):
        if math.isfinite(point.low) and math.isfinite(point.high):
            ends, same = (point.low, point.high), (place, place)
            axes.plot(*((same, ends) if upright else (ends, same)), color=style["color"], linewidth=1.1, alpha=0.7)
        if len(point.seeds) > 1:
            same = (place,) * len(point.seeds)
            axes.plot(*((same, point.seeds) if upright else (point.seeds, same)), color=style["color"], **ring)


def _page(title: str, *, plot: float, legend: int, left: float = LEFT) -> tuple[Figure, Axes]:
    height = HEADING + plot + BELOW + legend * LINE + EDGE
    figure = Figure(figsize=(WIDTH, height), facecolor="white")
    head = figure.text(EDGE / WIDTH, 1 - 0.22 / height, _fitted(title, left=EDGE), fontsize=TEXT + 1, color=INK)
    head.set(weight="bold", verticalalignment="center", parse_math=False)
    box = (left / WIDTH, (height - HEADING - plot) / height, (WIDTH - left - RIGHT) / WIDTH, plot / height)
    return figure, figure.add_axes(box)


def _finish(axes: Axes, label: str, points: Sequence[_Point], *, upright: bool) -> None:
    axes.set_xlabel(label, fontsize=TEXT, color=INK)
    if upright:
        axes.set_ylabel("AUROC", fontsize=TEXT, color=INK)
    values = [v for p in points for v in (p.value, p.low, p.high, *p.seeds) if math.isfinite(v)]
    room = max(0.05 * (max(values) - min(values)), 0.005)
    limits = (max(min(values) - room, 0), min(max(values) + room, 1 + room / 2))
    (axes.set_ylim if upright else axes.set_xlim)(*limits)
    axes.grid(axis="both" if upright else "x", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=SMALL, colors=FAINT, length=3)
    axes.spines[["top", "right"] if upright else ["top", "right", "left"]].set_visible(False)


def _legend(figure: Figure, names: Sequence[tuple[str, dict[str, Any]]]) -> None:
    height = figure.get_figheight()
    for number, (name, style) in enumerate(names):
        y = (EDGE + (len(names) - number - 0.5) * LINE) / height
        figure.add_artist(Line2D([EDGE / WIDTH, (EDGE + 0.5) / WIDTH], [y, y], markevery=[1], **style))
        start = EDGE + 0.64
        text = figure.text(start / WIDTH, y, _fitted(name, left=start), fontsize=TEXT, color=INK)
        text.set(verticalalignment="center_baseline", parse_math=False)


def _fitted(text: str, *, left: float) -> str:
    return fitted(text, room=(WIDTH - left - EDGE) * SHEET_DPI, size=TEXT)


def _chart(figure: Figure, name: str, words: str) -> Chart:
    svg, png = io.BytesIO(), io.BytesIO()
    maker = f"AnyMC3D {__version__}"
    figure.savefig(svg, format="svg", metadata={"Date": None, "Creator": maker})
    figure.savefig(png, format="png", dpi=PNG_DPI, metadata={"Software": maker})
    return Chart(name, words, svg.getvalue(), png.getvalue())
