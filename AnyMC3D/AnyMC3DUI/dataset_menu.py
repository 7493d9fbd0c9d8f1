"""The context menu of the dataset's table: labels and splits for all chosen rows at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import qt
from slicer.i18n import tr as _

from AnyMC3DLib.errors import InputError

from .dataset_room import Room

SPLITS = ("train", "val", "test")


class RowMenu:
    """Shows the menu where a person asks for it; `load` and `remove` get the keys of the chosen rows."""

    def __init__(
        self, view: qt.QTableView, room: Room, *, load: Callable[[Sequence[int]], Any], remove: Callable[..., Any]
    ) -> None:
        self._view, self._room, self._load, self._remove = view, room, load, remove
        self._menu: qt.QMenu | None = None
        view.setContextMenuPolicy(qt.Qt.CustomContextMenu)
        view.connect("customContextMenuRequested(QPoint)", self._show)

    def entries(self) -> Iterator[tuple[str, Callable[[], Any] | None]]:
        """Words and what they do, for the chosen rows; a line where there are none."""
        dataset, keys = self._room.dataset, self._room.table.selected
        if dataset is None or not keys:
            return
        yield _("Load"), lambda: self._load(keys)
        yield "", None
        multilabel = dataset.task_type == "multilabel"
        for column in dataset.label_columns:
            name = column if multilabel else _("Label")
            yield from self._values(keys, column, name, ("1", "0") if multilabel else dataset.classes)
        yield "", None
        yield from self._values(keys, "split", _("Split"), SPLITS)
        yield "", None
        yield _("Remove"), lambda: self._remove(keys)

    def _values(
        self, keys: Sequence[int], column: str, name: str, values: Sequence[str]
    ) -> Iterator[tuple[str, Callable[[], Any]]]:
        for value in (*values, ""):
            yield f"{name}: {value or _('none')}", lambda value=value: self._put(keys, column, value)

    def _put(self, keys: Sequence[int], column: str, value: str) -> None:
        try:
            self._room.table.put(keys, column, value)
        except InputError as error:
            self._room.tell(str(error))
        else:
            self._room.tell("")
        self._room.modified()

    def _show(self, point: qt.QPoint) -> None:
        if self._menu is not None:
            self._menu.deleteLater()
        self._menu = qt.QMenu(self._view)
        for words, action in self.entries():
            if action is None:
                self._menu.addSeparator()
            else:
                self._menu.addAction(words).connect("triggered()", action)
        self._menu.popup(self._view.viewport().mapToGlobal(point))
