"""A plugin's answer as a table of bars, in the colours of the application's theme."""

from __future__ import annotations

import html
from collections.abc import Mapping
from typing import Any

import qt
from slicer.i18n import tr as _

from .answer_rows import AnswerRow, answer_rows

BAR_WIDTH, BAR_HEIGHT = 110, 14
DECIDED = "#d9822b"


def answer_widget(prediction: Mapping[str, Any]) -> qt.QWidget:
    """The plugin's name over a line for each class: name, bar, probability, decision."""
    widget = qt.QWidget()
    grid = qt.QGridLayout(widget)
    grid.setContentsMargins(0, 2, 0, 4)
    grid.setVerticalSpacing(3)
    plugin = prediction["plugin"]
    title = qt.QLabel(f"<b>{html.escape(plugin['name'])}</b> {html.escape(plugin['version'])}")
    title.toolTip = plugin["intended_use"]
    title.wordWrap = True
    grid.addWidget(title, 0, 0, 1, 4)
    for line, row in enumerate(answer_rows(prediction), start=1):
        _add_row(grid, line, row, widget)
    grid.setColumnStretch(0, 1)
    grid.setColumnStretch(3, 1)
    return widget


def _add_row(grid: qt.QGridLayout, line: int, row: AnswerRow, widget: qt.QWidget) -> None:
    name = qt.QLabel(row.class_name)
    name.wordWrap = True
    bar = qt.QLabel()
    bar.setPixmap(bar_picture(row, palette=widget.palette, ratio=float(widget.devicePixelRatioF())))
    number = qt.QLabel(percent(row.probability))
    number.setAlignment(qt.Qt.AlignRight | qt.Qt.AlignVCenter)
    decision = qt.QLabel(decision_words(row))
    decision.wordWrap = True
    tip = _("Probability {probability}; decided for from {threshold} on.").format(
        probability=percent(row.probability), threshold=percent(row.threshold)
    )
    for column, label in enumerate((name, bar, number, decision)):
        label.toolTip = tip
        grid.addWidget(label, line, column)
    bar.accessibleName = f"{row.class_name}: {tip}"


def percent(share: float) -> str:
    """A share in words; never 100 % or 0 % for what is not quite."""
    if 0 < share < 0.001:
        return "< 0.1 %"
    if 0.999 < share < 1:
        return "> 99.9 %"
    return f"{100 * share:.1f} %"


def decision_words(row: AnswerRow) -> str:
    """The decision in words."""
    words = _("yes") if row.decision else _("no")
    return _("{decision}, uncertain").format(decision=words) if row.uncertain else words


def bar_picture(row: AnswerRow, *, palette: qt.QPalette, ratio: float) -> qt.QPixmap:
    """A bar for the probability, with a mark at the threshold."""
    picture = qt.QPixmap(round(BAR_WIDTH * ratio), round(BAR_HEIGHT * ratio))
    picture.setDevicePixelRatio(ratio)
    picture.fill(qt.QColor(0, 0, 0, 0))
    painter = qt.QPainter()
    painter.begin(picture)
    text, base = palette.color(qt.QPalette.WindowText), palette.color(qt.QPalette.Mid)
    filled = qt.QColor(DECIDED) if row.decision else palette.color(qt.QPalette.Highlight)
    painter.fillRect(0, 2, BAR_WIDTH, BAR_HEIGHT - 4, base)
    painter.fillRect(0, 2, round(BAR_WIDTH * row.probability), BAR_HEIGHT - 4, filled)
    mark = min(BAR_WIDTH - 2, round(BAR_WIDTH * row.threshold))
    painter.fillRect(mark, 0, 2, BAR_HEIGHT, text)
    painter.end()
    return picture
