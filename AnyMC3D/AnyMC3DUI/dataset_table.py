"""The table of a dataset's cases in the view: sorted, filtered, edited in place, rows with problems marked."""

from __future__ import annotations

import contextlib
import itertools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

import qt

from AnyMC3DLib.errors import InputError

if TYPE_CHECKING:
    from AnyMC3DLib.training.dataset import Dataset

CASE_COLUMN = 0
WIDEST = 120
ROOM = 8  # above and below the text of a row, together
ROWS_FOR_WIDTH = 40
# Seen on white and on black, and through it the colours of rows and of the selection.
TINT = (235, 120, 0, 80)


class Listener(Protocol):
    """Who is told what a person does with the table."""

    def typed(self, column: str, text: str) -> tuple[str, str]:
        """What a cell is to hold of a text that was typed, and a sentence where that is another text."""

    def edited(self, sentence: str = "") -> None:
        """A cell holds something else; the sentence says what else there is to know."""

    def refused(self, sentence: str) -> None:
        """It could not."""

    def chosen(self, key: int | None) -> None:
        """Another row is the current one, or other rows are chosen besides."""

    def opened(self, key: int) -> None:
        """A case was double-clicked."""


class CaseTable:
    """The rows of a dataset in a table view.

    The model holds a text for each cell, and in a column more, which is not shown, all texts of a row for the filter.
    """

    def __init__(self, view: qt.QTableView, listener: Listener) -> None:
        self._view, self._listener = view, listener
        self._dataset: Dataset | None = None
        self._columns: tuple[str, ...] = ()
        self._keys: list[int] = []  # by row of the model, which is never sorted itself
        self._problems: Mapping[int, Sequence[str]] = {}
        self._setting = False
        self._model = qt.QStandardItemModel(view)
        self._proxy = qt.QSortFilterProxyModel(view)
        # A row that is edited stays where it is, until somebody sorts or filters again.
        self._proxy.setDynamicSortFilter(False)
        self._proxy.setSortCaseSensitivity(qt.Qt.CaseInsensitive)
        self._proxy.setSourceModel(self._model)
        view.setModel(self._proxy)
        view.setEditTriggers(qt.QAbstractItemView.EditKeyPressed)
        view.setSelectionMode(qt.QAbstractItemView.ExtendedSelection)
        view.setWordWrap(False)
        # Of a path the file's name counts, of a pseudonym its end.
        view.setTextElideMode(qt.Qt.ElideMiddle)
        view.verticalHeader().hide()
        view.verticalHeader().setSectionResizeMode(qt.QHeaderView.Fixed)
        view.verticalHeader().setDefaultSectionSize(view.fontMetrics().height() + ROOM)
        view.horizontalHeader().setResizeContentsPrecision(ROWS_FOR_WIDTH)
        view.connect("doubleClicked(QModelIndex)", self._double_clicked)
        view.selectionModel().connect("currentRowChanged(QModelIndex,QModelIndex)", self._row_chosen)
        view.selectionModel().connect("selectionChanged(QItemSelection,QItemSelection)", self._row_chosen)

    # what is shown

    def show(self, dataset: Dataset | None) -> None:
        """Show these cases, or none; of the same dataset the order, the marks and the current row stay."""
        column, order, current, problems = CASE_COLUMN, qt.Qt.AscendingOrder, None, {}
        if dataset is self._dataset and dataset is not None:
            header, current, problems = self._view.horizontalHeader(), self.current, self._problems
            column, order = header.sortIndicatorSection(), header.sortIndicatorOrder()
        self._dataset, self._problems = dataset, {}
        self._columns = dataset.columns if dataset is not None else ()
        self._keys = list(dataset.keys) if dataset is not None else []
        with self._by_program():
            self._view.setSortingEnabled(False)
            model = self._filled()
            # The view sees the model once, when it is whole.
            self._proxy.setSourceModel(model)
            before, self._model = self._model, model
            before.deleteLater()
            model.connect("itemChanged(QStandardItem*)", self._item_changed)
            self._proxy.setFilterKeyColumn(len(self._columns))
        self.mark(problems)
        self._arrange(column if 0 <= column < len(self._columns) else CASE_COLUMN, order)
        if current in self._keys:
            self.choose(current)

    def show_case(self, key: int) -> None:
        """Show what a case holds now, which may be new, and choose it."""
        self.add(key)
        self.choose(key)

    def add(self, key: int) -> None:
        """Show what a case holds now, which may be new, and leave the choice of a person as it is."""
        if key in self._keys:
            self.refresh([key])
            return
        items = self._items(key)
        with self._by_program():
            self._keys.append(key)
            self._model.appendRow(items)
        self._widen()

    def refresh(self, keys: Iterable[int], columns: Iterable[str] | None = None) -> None:
        """Show what the cells of these cases hold now; those that are not shown yet are passed over."""
        rows = {key: row for row, key in enumerate(self._keys)}
        numbers = [self._columns.index(name) for name in (self._columns if columns is None else columns)]
        with self._by_program(silently=True):
            for key in (key for key in keys if key in rows):
                texts = self._texts(key)
                for number in numbers:
                    self._model.item(rows[key], number).setText(texts[number])
                self._model.item(rows[key], len(self._columns)).setText("\n".join(texts))
        self._widen()
        self._view.viewport().update()

    def put(self, keys: Sequence[int], column: str, text: str) -> None:
        """Put a text into a cell of each of these cases; raises InputError as `Dataset.set_cell`."""
        for key in keys:
            self._dataset.set_cell(key, column, text)
        self.refresh(keys, [column])

    def remove(self, keys: Iterable[int]) -> None:
        """Show these cases no more."""
        gone = set(keys)
        rows = [row for row, key in enumerate(self._keys) if key in gone]
        with self._by_program():
            # Neighbours go together, the last first, so that the numbers of those before them hold.
            for _, run in itertools.groupby(reversed(list(enumerate(rows))), key=lambda pair: pair[1] - pair[0]):
                numbers = [row for _, row in run]
                del self._keys[numbers[-1] : numbers[0] + 1]
                self._model.removeRows(numbers[-1], len(numbers))
        self._listener.chosen(self.current)

    def filter(self, words: str) -> None:
        """Show the rows that hold all of these words, in whatever cells."""
        pattern = "".join(f"(?=.*{re.escape(word)})" for word in words.split())
        # `(?is)`: upper and lower case are one, and cells stand one below the other.
        self._proxy.setFilterRegularExpression(f"(?is)^{pattern}" if pattern else "")

    def mark(self, problems: Mapping[int, Sequence[str]]) -> None:
        """Tint the rows of these cases and have them say why, and no others."""
        changed = {key for key in {*self._problems, *problems} if self._problems.get(key) != problems.get(key)}
        self._problems = problems
        plain, tint = qt.QBrush(), qt.QBrush(qt.QColor(*TINT))
        with self._by_program(silently=True):
            for row, key in enumerate(self._keys):
                if key not in changed:
                    continue
                sentences = problems.get(key, ())
                for number in range(len(self._columns)):
                    item = self._model.item(row, number)
                    item.setBackground(tint if sentences else plain)
                    item.setToolTip("\n".join(sentences))
        self._view.viewport().update()

    # what is chosen

    @property
    def current(self) -> int | None:
        """The key of the current row."""
        index = self._view.currentIndex()
        return self._keys[self._proxy.mapToSource(index).row()] if index.isValid() else None

    @property
    def selected(self) -> list[int]:
        """The keys of the chosen rows, in the order in which they are shown."""
        indexes = sorted(self._view.selectionModel().selectedRows(), key=lambda index: index.row())
        return [self._keys[self._proxy.mapToSource(index).row()] for index in indexes]

    @property
    def shown(self) -> list[int]:
        """The keys of the rows that the filter lets through, in the order in which they are shown."""
        rows = range(self._proxy.rowCount())
        return [self._keys[self._proxy.mapToSource(self._proxy.index(row, 0)).row()] for row in rows]

    def choose(self, key: int) -> None:
        """Make a case the current row, where the filter lets it through."""
        index = self._proxy.mapFromSource(self._model.index(self._keys.index(key), CASE_COLUMN))
        if index.isValid():
            self._view.selectRow(index.row())
            self._view.scrollTo(index)

    def problems_of(self, key: int | None) -> Sequence[str]:
        """Why the row of a case is marked."""
        return self._problems.get(key, ()) if key is not None else ()

    # inner matters

    @contextlib.contextmanager
    def _by_program(self, *, silently: bool = False) -> Iterator[None]:
        """While the model is changed by nobody who edits; also where that fails, edits are heard again afterwards.

        `silently` keeps the view from being told of each cell: thousands of signals would take seconds.
        """
        before, self._setting, model = self._setting, True, self._model
        blocked = model.blockSignals(True) if silently else False
        try:
            yield
        finally:
            if silently:
                model.blockSignals(blocked)
            self._setting = before

    def _filled(self) -> qt.QStandardItemModel:
        model = qt.QStandardItemModel(len(self._keys), len(self._columns) + 1, self._view)
        model.setHorizontalHeaderLabels([*self._columns, ""])
        for row, key in enumerate(self._keys):
            for number, item in enumerate(self._items(key)):
                model.setItem(row, number, item)
        return model

    def _items(self, key: int) -> list[qt.QStandardItem]:
        texts = self._texts(key)
        return [qt.QStandardItem(text) for text in (*texts, "\n".join(texts))]

    def _texts(self, key: int) -> list[str]:
        cells = self._dataset.case(key).cells
        return [cells.get(name, "") for name in self._columns]

    def _arrange(self, column: int, order: qt.Qt.SortOrder) -> None:
        view, last = self._view, len(self._columns)
        view.setColumnHidden(last, True)
        for number in range(last):
            view.setColumnHidden(number, False)
            view.setColumnWidth(number, 0)
        self._widen()
        view.horizontalHeader().setSortIndicator(column, order)
        view.setSortingEnabled(True)

    def _widen(self) -> None:
        """Make room for texts that do not fit; what a person has made wide stays so."""
        view = self._view
        for number in range(len(self._columns)):
            before = view.columnWidth(number)
            # Of the rows at the top alone, see ROWS_FOR_WIDTH.
            view.resizeColumnToContents(number)
            view.setColumnWidth(number, max(before, min(view.columnWidth(number), WIDEST)))

    def _item_changed(self, item: qt.QStandardItem) -> None:
        if self._setting:
            return
        key, column = self._keys[item.row()], self._columns[item.column()]
        text, sentence = item.text(), ""
        try:
            if text.strip() != self._dataset.cell(key, column):
                text, sentence = self._listener.typed(column, text)
            self._dataset.set_cell(key, column, text)
        except InputError as error:
            self.refresh([key], [column])
            self._listener.refused(str(error))
            return
        # What is put in may be held otherwise, such as without blanks about it.
        self.refresh([key], [column])
        self._listener.edited(sentence)

    def _double_clicked(self, index: qt.QModelIndex) -> None:
        if index.column() == CASE_COLUMN:
            self._listener.opened(self._keys[self._proxy.mapToSource(index).row()])
        else:
            self._view.edit(index)

    def _row_chosen(self, _now: object, _before: object) -> None:
        if not self._setting:
            self._listener.chosen(self.current)
