"""The tables of the Evaluate section."""

from __future__ import annotations

from collections.abc import Sequence

import qt
from slicer.i18n import tr as _

from .evaluate_rows import FigureTable, WrongCase

MOST_HEIGHT = 340  # of a table; longer ones are scrolled


def set_up_table(table: qt.QTableWidget) -> None:
    """Rows as low as their text."""
    table.verticalHeader().setDefaultSectionSize(table.fontMetrics().height() + 6)
    table.horizontalHeader().setSectionResizeMode(qt.QHeaderView.ResizeToContents)


def fill_figures(table: qt.QTableWidget, figures: FigureTable) -> None:
    """Show figures by class."""
    table.clear()
    # Also the spans of the last answer.
    table.setRowCount(0)
    table.setColumnCount(len(figures.columns))
    table.setRowCount(len(figures.rows))
    table.setHorizontalHeaderLabels(list(figures.columns))
    table.setVerticalHeaderLabels([row.name for row in figures.rows])
    for line, row in enumerate(figures.rows):
        for column, text in enumerate(row.cells):
            _put(table, line, column, text, row.about)
        if len(row.cells) < len(figures.columns):
            table.setSpan(line, 0, 1, len(figures.columns))
    _fit(table)


def fill_wrong(table: qt.QTableWidget, wrong: Sequence[WrongCase]) -> None:
    """List the cases that were answered wrongly."""
    titles = [_("Case"), _("Truth"), _("Answer"), _("Probability")]
    table.setColumnCount(len(titles))
    table.setRowCount(len(wrong))
    table.setHorizontalHeaderLabels(titles)
    table.verticalHeader().hide()
    for line, one in enumerate(wrong):
        for column, text in enumerate((one.case, one.truth, one.answer, one.probability)):
            _put(table, line, column, text, text)
    _fit(table)


def _put(table: qt.QTableWidget, line: int, column: int, text: str, about: str) -> None:
    item = qt.QTableWidgetItem(text)
    item.setToolTip(about)
    table.setItem(line, column, item)


def _fit(table: qt.QTableWidget) -> None:
    """As high as its rows, so that few leave no empty space and many are seen without a scroll."""
    row = table.verticalHeader().defaultSectionSize
    # The header, and the scroll bar below where there are many columns.
    table.setFixedHeight(min((table.rowCount + 2) * row + 8, MOST_HEIGHT))
