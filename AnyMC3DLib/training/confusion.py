"""The picture of what was decided for the cases of each class."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from matplotlib.colors import LinearSegmentedColormap

from .. import __version__
from ..sheet import FAINT, INK, INNER, LINE, MARGIN, WIDTH, Sheet, fitted, text_width
from ..spec import PluginSpec
from .decisions import decisions
from .metrics import Scores
from .scores import Results

SHARES = LinearSegmentedColormap.from_list("shares", ["#ffffff", "#4fa3d6"])  # dark letters read on all of them
KINDS = ("Present, found", "Present, missed", "Absent, not found", "Absent, but found")
TEXT, HEADING = 10, 44
NAMES, ROW, COLUMN = 300, 52, 150
NARROW, LOW_ROW = 52, 28  # pixels: a column that has room for the count alone, and the height of its row
SLANT, SLANTED_ROOM = 35, 200  # degrees, pixels


def confusion(
    spec: PluginSpec, targets: npt.NDArray[np.int64], probabilities: Scores, results: Results, *, title: str
) -> bytes:
    """How many cases of each class were decided for each; of a multilabel task, right and wrong answers by label."""
    limits = [c.threshold for c in results.classes]
    decided = decisions(spec, probabilities, [1 - limits[0], *limits] if spec.task_type == "binary" else limits)
    names = [c.name for c in spec.classes]
    if spec.task_type == "multilabel":
        truths = (targets == 1, targets == 1, targets == 0, targets == 0)
        answers = (decided, ~decided, ~decided, decided)
        counts = np.stack([(t & a).sum(axis=0) for t, a in zip(truths, answers, strict=True)], axis=1)
        totals = np.repeat([(targets == kind).sum(axis=0) for kind in (1, 0)], 2, axis=0).T
        words = ("Label", "Known labels alone; the share is of the cases where the label is present, or absent.")
        return _matrix(f"Right and wrong answers: {title}", counts, totals, rows=names, columns=KINDS, words=words)
    counts = np.stack([decided[targets == k].sum(axis=0) for k in range(len(names))])
    totals = np.repeat(counts.sum(axis=1, keepdims=True), len(names), axis=1)
    words = ("Truth", "A row is a class as it is, a column what was decided; the share is of the row.")
    return _matrix(f"Confusion: {title}", counts, totals, rows=names, columns=names, words=words)


def _matrix(
    heading: str,
    counts: npt.NDArray[np.int64],
    totals: npt.NDArray[np.int64],
    *,
    rows: Sequence[str],
    columns: Sequence[str],
    words: tuple[str, str],
) -> bytes:
    """Counts [rows, columns] in cells as dark as their share of the totals; `words` are the corner's and a remark."""
    left, top = MARGIN + NAMES + 12, MARGIN + HEADING + LINE + 30
    width = min(COLUMN, (INNER - NAMES - 12) / len(columns))
    height = ROW if width >= NARROW else LOW_ROW
    slanted = max(text_width(name, size=TEXT) for name in columns) > width - 8
    labels = [fitted(name, room=SLANTED_ROOM if slanted else width, size=TEXT) for name in columns]
    reach = max(text_width(label, size=TEXT) for label in labels) if slanted else 0
    bottom = top + height * len(rows)
    sheet = Sheet(bottom + 34 + reach * math.sin(math.radians(SLANT)) + MARGIN)
    sheet.text(MARGIN, MARGIN + 10, heading, weight="bold", size=13, room=INNER)
    sheet.text(MARGIN, MARGIN + HEADING, words[1], colour=FAINT, room=INNER)
    sheet.text(MARGIN + NAMES, top - 14, words[0], weight="bold", room=NAMES, side="right")
    sheet.text(left, top - 14, "Decision (named below)", weight="bold", room=INNER - NAMES)
    for number, name in enumerate(rows):
        sheet.text(MARGIN + NAMES, top + (number + 0.5) * height, name, room=NAMES, side="right")
    style = {"fontsize": TEXT, "color": INK, "parse_math": False, "verticalalignment": "top", "rotation_mode": "anchor"}
    side, slant = ("right", SLANT) if slanted else ("center", 0)
    for number, label in enumerate(labels):
        place = ((left + (number + 0.5) * width) / WIDTH, 1 - (bottom + 10) / sheet.height)
        sheet.figure.text(*place, label, rotation=slant, horizontalalignment=side, **style)
    _cells(sheet, counts, totals, place=(left, top, width * len(columns), bottom - top), with_shares=height == ROW)
    return png_of(sheet)


def _cells(
    sheet: Sheet,
    counts: npt.NDArray[np.int64],
    totals: npt.NDArray[np.int64],
    *,
    place: tuple[float, float, float, float],
    with_shares: bool,
) -> None:
    axes = sheet.axes(*place)
    shares = np.divide(counts, totals, out=np.zeros(counts.shape), where=totals > 0)
    axes.imshow(shares, cmap=SHARES, vmin=0, vmax=1, aspect="auto")
    for (row, column), count in np.ndenumerate(counts):
        text = f"{count}\n{100 * shares[row, column]:.0f} %" if with_shares and count else f"{count}"
        axes.text(column, row, text, ha="center", va="center", fontsize=TEXT, color=INK)
    # White lines between the cells; the frame is the outermost of them.
    axes.set(xticks=np.arange(counts.shape[1] + 1) - 0.5, yticks=np.arange(counts.shape[0] + 1) - 0.5)
    axes.grid(color="white", linewidth=2)
    axes.tick_params(length=0, labelbottom=False, labelleft=False)
    axes.spines[:].set_color("#d8dee6")


def png_of(sheet: Sheet) -> bytes:
    """The page as a PNG that says what drew it."""
    stream = io.BytesIO()
    sheet.figure.savefig(stream, format="png", metadata={"Software": f"AnyMC3D {__version__}"})
    return stream.getvalue()
