"""A page to draw on, in pixels from its upper left corner, with text that is cut or wrapped to its room.

matplotlib's objects without pyplot: no global figure, so any thread may draw. Nothing is read as mathematics, since
class names hold `$` and `_` at times.
"""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import RendererAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties

DPI = 100
WIDTH, MARGIN = 1280, 28
INNER = WIDTH - 2 * MARGIN
LINE = 20  # from one line of text to the next

INK, FAINT, ACCENT = "#1d2733", "#566273", "#b93a0b"


class Sheet:
    """A white page of WIDTH pixels and the given height."""

    def __init__(self, height: float) -> None:
        self.height = round(height)
        self.figure = Figure(figsize=(WIDTH / DPI, self.height / DPI), dpi=DPI, facecolor="white")

    def axes(self, x: float, y: float, width: float, height: float) -> Axes:
        """Axes whose upper left corner is at (x, y)."""
        bottom = self.height - y - height
        return self.figure.add_axes((x / WIDTH, bottom / self.height, width / WIDTH, height / self.height))

    def text(
        self,
        x: float,
        y: float,
        text: str,
        *,
        room: float,
        size: float = 10,
        colour: str = INK,
        weight: str = "normal",
        side: str = "left",
    ) -> None:
        """One line of text, its middle at height `y`, its `side` at `x`, cut to `room` pixels."""
        shown = fitted(text, room=room, size=size, weight=weight)
        style = {"fontsize": size, "color": colour, "weight": weight, "parse_math": False}
        place = (x / WIDTH, 1 - y / self.height)
        self.figure.text(*place, shown, horizontalalignment=side, verticalalignment="center_baseline", **style)


def text_width(text: str, *, size: float, weight: str = "normal") -> float:
    """How many pixels wide a line of text is drawn."""
    properties = FontProperties(size=size, weight=weight)
    return RendererAgg(1, 1, DPI).get_text_width_height_descent(text, properties, False)[0]


def fitted(text: str, *, room: float, size: float, weight: str = "normal") -> str:
    """The text on one line, with an ellipsis where it is cut to fit `room` pixels."""
    line = " ".join(text.split())
    if text_width(line, size=size, weight=weight) <= room:
        return line
    fits, too_long = 0, len(line)
    while too_long - fits > 1:
        middle = (fits + too_long) // 2
        if text_width(line[:middle] + "…", size=size, weight=weight) <= room:
            fits = middle
        else:
            too_long = middle
    return line[:fits].rstrip() + "…"


def wrapped(text: str, *, room: float, size: float) -> list[str]:
    """The text in lines of at most `room` pixels; a single word that is longer gets a line of its own."""
    lines: list[str] = []
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and text_width(longer, size=size) <= room:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines
