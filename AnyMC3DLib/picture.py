"""One picture of a prediction: the planes that matter with their heat, the slice weights and the probabilities.

Drawn with matplotlib's objects, never through pyplot, so that it works in any thread and leaves no state behind.
Every part has its own place in pixels, and every text is cut to its room, so that nothing overlaps or is cut off.
"""

from __future__ import annotations

import dataclasses
import io

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.patheffects import withStroke

from . import __version__
from .charts import POSITIONS, Part, probabilities, slice_weights
from .errors import InputError
from .heatmap import DISPLAY_THRESHOLD, FULL_HEAT, heatmap
from .planes import Plane, contains, plane_through, position_words
from .prediction import Prediction, Study, threshold_of
from .sheet import ACCENT, FAINT, INK, INNER, LINE, MARGIN, Sheet, wrapped
from .spec import ViewSpec
from .volume import Volume

GAP = 16  # pixels between the parts
PLANES_HEIGHT, PAIR_HEIGHT = 400, 520  # of a row of planes at most, three or fewer
LEAST_WIDTH = 200  # of a plane's column
CAPTION = 24
MOST_PLANES, MOST_WARNINGS = 3, 6
SAMPLED_VALUES = 1_000_000  # for the percentiles of a large volume
NOTICE = "Research only, not for clinical use."

CROSS = "#39d5ff"
# From red to light yellow: brightness rises with the heat, so it reads in print and to the colour-blind too.
HEAT_COLOURS = LinearSegmentedColormap.from_list("heat", ["#c2183f", "#ea4b2c", "#ff9d1f", "#ffe96b"])


def draw_picture(
    prediction: Prediction,
    study: Study,
    *,
    class_name: str | None = None,
    title: str = "",
    with_probabilities: bool = True,
) -> bytes:
    """The picture of one class as a PNG 1280 pixels wide; its height depends on what there is to show.

    `class_name` None shows `shown_class`. Below the class's threshold no heat is drawn, and the picture says so.
    `with_probabilities` False leaves the table of all classes out, for a page that has it already.
    Raises InputError for a class without a logit, or where the study lacks an image that the plugin needs.
    """
    chosen = shown_class(prediction) if class_name is None else class_name
    explained = prediction.spec.explained
    if chosen not in explained:
        raise InputError(f"There is no picture of a class '{chosen}': choose {', '.join(explained)}.")
    scene = _scene(prediction, study, chosen)
    parts = [
        _heading(scene, title or prediction.spec.name),
        _planes(scene),
        _legend(scene),
        *([slice_weights(prediction, scene.point)] if scene.has_stack else []),
        *([probabilities(prediction, chosen)] if with_probabilities else []),
        _footnote(scene),
    ]
    sheet = Sheet(2 * MARGIN + sum(height for height, _ in parts) + GAP * (len(parts) - 1))
    top = MARGIN
    for height, draw in parts:
        draw(sheet, top)
        top += height + GAP
    stream = io.BytesIO()
    sheet.figure.savefig(stream, format="png", metadata={"Software": f"AnyMC3D {__version__}"})
    return stream.getvalue()


def shown_class(prediction: Prediction) -> str:
    """The class to show first: the most probable of those decided for, or else the nearest to its threshold."""
    decided = [name for name in prediction.spec.explained if prediction.decisions[name]]
    if decided:
        return max(decided, key=lambda name: prediction.probabilities[name])
    above = {
        name: prediction.probabilities[name] - threshold_of(prediction, name) for name in prediction.spec.explained
    }
    return max(above, key=lambda name: above[name])


def heat_is_shown(prediction: Prediction, class_name: str) -> bool:
    """Whether there are class maps and the class reaches its threshold: below it, heat would point at nothing."""
    has_maps = any(m.classes is not None for m in prediction.maps.values())
    return has_maps and prediction.probabilities[class_name] >= threshold_of(prediction, class_name)


def heat_colours(heat: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    """Heat [...] in [0, 1] as RGBA [..., 4] in [0, 1], wholly transparent below the display threshold."""
    above = np.clip((heat - DISPLAY_THRESHOLD) / (1 - DISPLAY_THRESHOLD), 0, 1)
    colours = HEAT_COLOURS(above)
    colours[..., 3] = np.where(heat >= DISPLAY_THRESHOLD, 0.45 + 0.3 * above, 0)
    return colours


@dataclasses.dataclass(frozen=True)
class _Panel:
    """A plane to draw, of which source, the values shown as black and white, and whether the hot spot is on it."""

    plane: Plane
    source: str
    window: tuple[float, float]
    has_spot: bool


@dataclasses.dataclass(frozen=True)
class _Scene:
    """What is to be drawn; `point` is the RAS point that the planes pass through, the hottest spot if `has_heat`."""

    prediction: Prediction
    class_name: str
    has_heat: bool
    point: npt.NDArray[np.float64]
    panels: list[_Panel]

    @property
    def has_stack(self) -> bool:
        """Whether any view has more than one slice, so that their weights say something."""
        return any(len(slices.weights) > 1 for slices in self.prediction.slices.values())


def _scene(prediction: Prediction, study: Study, class_name: str) -> _Scene:
    # Without a hot spot no place reaches the display threshold, and the planes with heat would be those without.
    spots = prediction.hot_spots.get(class_name, []) if heat_is_shown(prediction, class_name) else []
    point = np.array(spots[0].ras) if spots else _heaviest_point(prediction)
    panels: dict[tuple[str, str], _Panel] = {}
    for view, axis in _wanted_planes(prediction):
        volume = study.image(view.source)
        plane = plane_through(volume, point, axis=axis)
        has_spot = bool(spots) and contains(volume, point)
        # A volume of one slice gives the same plane whatever axis is asked for.
        panels.setdefault((view.source, plane.axis), _Panel(plane, view.source, _window(volume, view), has_spot))
    return _Scene(prediction, class_name, bool(spots), point, list(panels.values()))


def _wanted_planes(prediction: Prediction) -> list[tuple[ViewSpec, str]]:
    """The heaviest views; of a single view, its own plane and the two across it."""
    views = prediction.spec.views
    if len(views) > 1:
        heaviest = sorted(views, key=lambda view: -prediction.view_weights[view.name])[:MOST_PLANES]
        return [(view, view.preprocessing.axis) for view in views if view in heaviest]
    own = views[0].preprocessing.axis
    return [(views[0], axis) for axis in (own, *(other for other in reversed(POSITIONS) if other != own))]


def _heaviest_point(prediction: Prediction) -> npt.NDArray[np.float64]:
    """The centre of the heaviest slice of the heaviest view."""
    slices = prediction.slices[max(prediction.slices, key=lambda name: prediction.view_weights[name])]
    return slices.centres[int(np.argmax(slices.weights))]


def _caption(scene: _Scene, panel: _Panel, *, hot: bool) -> str:
    words = ["picture"]
    if panel.plane.letters:
        number = list(POSITIONS).index(panel.plane.axis)
        words = [panel.plane.axis, f"{position_words(scene.point)[number]} mm"]
    words += ["with heat"] if hot else []
    # The source last: it may be long, and the position is not to be cut off by it.
    return ", ".join(words + ([panel.source] if len(scene.prediction.spec.sources) > 1 else []))


def _window(volume: Volume, view: ViewSpec) -> tuple[float, float]:
    """The values shown as black and white: the plugin's own (first) window, or percentiles of the volume."""
    intensity = view.preprocessing.intensity
    if volume.array.dtype == np.uint8 and volume.is_colour:
        return 0.0, 255.0
    if intensity.kind == "window":
        centre, width = intensity.resolved_windows()[0]
        return centre - width / 2, centre + width / 2
    values = volume.array.ravel()[:: max(1, volume.array.size // SAMPLED_VALUES)]
    low, high = (float(p) for p in np.percentile(values, (0.5, 99.5)))
    return (low, high) if high > low else (float(volume.array.min()), float(volume.array.max()))


def _heading(scene: _Scene, title: str) -> Part:
    prediction, name = scene.prediction, scene.class_name
    decided = "decided for" if prediction.decisions[name] else "not decided for"
    threshold = threshold_of(prediction, name)
    # The name last: it may be long, and the numbers are not to be cut off by it.
    finding = f"Probability {prediction.probabilities[name]:.3f}, threshold {threshold:.3f}, {decided}: {name}"

    def draw(sheet: Sheet, top: float) -> None:
        sheet.text(MARGIN, top + 12, title, size=15, weight="bold", room=INNER)
        sheet.text(MARGIN, top + 40, finding, size=11, room=INNER)

    return 52, draw


def _planes(scene: _Scene) -> Part:
    """The planes side by side on one scale of pixels a millimetre; with heat, each again with it."""
    panels = scene.panels
    rows = [[(panel, False) for panel in panels]]
    if scene.has_heat:
        heated = [(panel, True) for panel in panels]
        # A single picture has room beside it.
        rows = [rows[0] + heated] if len(panels) == 1 else [rows[0], heated]
    sizes = [panel.plane.size_mm for panel, _ in rows[0]]
    scale = _scale(sizes)
    widths = [max(width * scale, LEAST_WIDTH) for _, width in sizes]
    height = max(height for height, _ in sizes) * scale
    left = MARGIN + (INNER - sum(widths) - GAP * (len(widths) - 1)) / 2

    def draw(sheet: Sheet, top: float) -> None:
        for number, row in enumerate(rows):
            x, y = left, top + number * (height + CAPTION + GAP)
            for (panel, hot), width in zip(row, widths, strict=True):
                sheet.text(x, y + 10, _caption(scene, panel, hot=hot), size=9.5, colour=FAINT, room=width)
                _panel(sheet, scene, panel, hot=hot, place=(x, y + CAPTION, scale))
                x += width + GAP

    return len(rows) * (height + CAPTION) + GAP * (len(rows) - 1), draw


def _scale(sizes: list[tuple[float, float]]) -> float:
    """Pixels a millimetre at which planes of (height, width) in mm fit side by side."""
    scale = (PLANES_HEIGHT if len(sizes) > 2 else PAIR_HEIGHT) / max(height for height, _ in sizes)
    room = INNER - GAP * (len(sizes) - 1)
    while sum(max(width * scale, LEAST_WIDTH) for _, width in sizes) > room:
        scale *= 0.98
    return scale


def _panel(sheet: Sheet, scene: _Scene, panel: _Panel, *, hot: bool, place: tuple[float, float, float]) -> None:
    """Draw one plane with its upper left corner at (x, y), at `scale` pixels a millimetre: place = (x, y, scale)."""
    x, y, scale = place
    height, width = panel.plane.size_mm
    rows, columns = max(1, round(height * scale)), max(1, round(width * scale))
    axes = sheet.axes(x, y, columns, rows)
    axes.set_axis_off()
    extent = (0, width, height, 0)
    image = panel.plane.image
    low, high = panel.window
    grey = np.clip((image.array[0].astype(np.float64) - low) / max(high - low, 1e-12), 0, 1)
    smooth = "bilinear" if rows >= image.grid[1] else "hanning"
    axes.imshow(grey, cmap="gray", vmin=0, vmax=1, extent=extent, aspect="auto", interpolation=smooth)
    if hot:
        # At the pixels of the picture, so that the edge of the heat is where it crosses the threshold.
        heat = heatmap(scene.prediction, panel.plane.grid(rows, columns), class_name=scene.class_name)
        axes.imshow(heat_colours(heat.array[0]), extent=extent, aspect="auto", interpolation="nearest")
    if panel.has_spot:
        _cross(axes, panel.plane.at(scene.point), scale)
    if panel.plane.letters:
        _letters_and_bar(axes, panel.plane.letters, (rows, columns), scale)
    axes.set(xlim=(0, width), ylim=(height, 0))


def _cross(axes: Axes, spot: tuple[float, float], scale: float) -> None:
    """A cross with an open middle, so that it hides nothing of what it points at."""
    x, y = spot
    near, far = 9 / scale, 24 / scale
    for dx, dy in ((1, 0), (-1, 0), (0, 1), (0, -1)):
        line = ([x + dx * near, x + dx * far], [y + dy * near, y + dy * far])
        axes.plot(*line, color=CROSS, linewidth=1.3, path_effects=[withStroke(linewidth=2.6, foreground="black")])


def _letters_and_bar(axes: Axes, letters: tuple[str, str, str, str], shape: tuple[int, int], scale: float) -> None:
    """The letters of the edges, and a bar of a round length; both are left out where there is no room."""
    rows, columns = shape
    if min(rows, columns) < 60:
        return
    style = {"color": "white", "fontsize": 10, "weight": "bold", "transform": axes.transAxes}
    style["path_effects"] = [withStroke(linewidth=2.5, foreground="black")]
    places = ((7 / columns, 0.5, "left"), (1 - 7 / columns, 0.5, "right"), (0.5, 1 - 12 / rows, "center"))
    for letter, (x, y, side) in zip(letters, (*places, (0.5, 12 / rows, "center")), strict=True):
        axes.text(x, y, letter, horizontalalignment=side, verticalalignment="center", **style)
    lengths = [length for length in (100, 50, 20, 10, 5, 2, 1) if length * scale <= columns / 3]
    if lengths and rows >= 120:
        end = (columns - 8) / scale
        bottom = (rows - 9) / scale
        stroke = [withStroke(linewidth=3.5, foreground="black")]
        axes.plot([end - lengths[0], end], [bottom, bottom], color="white", linewidth=2, path_effects=stroke)
        place = (1 - 8 / columns, 20 / rows)
        axes.text(*place, f"{lengths[0]} mm", horizontalalignment="right", **{**style, "fontsize": 8})


def _legend(scene: _Scene) -> Part:
    """The fixed scale of the heat, or why there is none."""
    reason = _why_no_heat(scene)

    def draw(sheet: Sheet, top: float) -> None:
        if reason:
            sheet.text(MARGIN, top + 9, reason, size=11, weight="bold", room=INNER)
            return
        bar = sheet.axes(MARGIN + 8, top, 280, 14)
        ramp = HEAT_COLOURS(np.linspace(0, 1, 256))[np.newaxis]
        bar.imshow(ramp, extent=(DISPLAY_THRESHOLD, 1, 0, 1), aspect="auto")
        shares = [n for n in (1, 2, 5, 10, 20, 50, 100) if n >= 0.999 * FULL_HEAT**DISPLAY_THRESHOLD]
        bar.set_xticks([np.log(n) / np.log(FULL_HEAT) for n in shares], [f"{n}x" for n in shares])
        bar.set_yticks([])
        bar.tick_params(labelsize=9, colors=INK, length=3)
        lines = (
            "Heat: how many times an even share of the class's evidence a place holds; the same scale in every study.",
            _spot_words(scene),
        )
        for number, line in enumerate(lines):
            sheet.text(MARGIN + 320, top + 7 + number * LINE, line, colour=FAINT, room=INNER - 320)

    return (18 if reason else 36), draw


def _spot_words(scene: _Scene) -> str:
    place = f": {', '.join(position_words(scene.point))} mm" if scene.panels[0].plane.letters else ""
    return f"The cross marks the hottest spot{place}."


def _why_no_heat(scene: _Scene) -> str:
    if scene.has_heat:
        return ""
    if not scene.prediction.maps:
        return "No heat is shown: this prediction was made without heat maps."
    if heat_is_shown(scene.prediction, scene.class_name):
        return f"No heat is shown: no place holds {FULL_HEAT**DISPLAY_THRESHOLD:.0f} times its even share."
    return "No heat is shown below the threshold."


def _footnote(scene: _Scene) -> Part:
    """The warnings, what the picture is not for, and what made it."""
    spec, found = scene.prediction.spec, scene.prediction.warnings
    shown = [wrapped(warning, room=INNER - 90, size=10) for warning in found[:MOST_WARNINGS]]
    lines = [("" if number else "Warning:", line) for lines in shown for number, line in enumerate(lines)]
    if len(found) > MOST_WARNINGS:
        lines.append(("", f"and {len(found) - MOST_WARNINGS} more warnings."))
    height = len(lines) * LINE + (GAP / 2 if lines else 0)
    made = f"Plugin {spec.name}, version {spec.version}; AnyMC3D {__version__}."

    def draw(sheet: Sheet, top: float) -> None:
        for number, (label, line) in enumerate(lines):
            sheet.text(MARGIN, top + 10 + number * LINE, label, colour=ACCENT, weight="bold", room=80)
            sheet.text(MARGIN + 90, top + 10 + number * LINE, line, room=INNER - 90)
        bottom = top + height + 10
        sheet.text(MARGIN, bottom, NOTICE, weight="bold", room=320)
        sheet.text(MARGIN + 320, bottom, made, colour=FAINT, room=INNER - 320)

    return height + LINE, draw
