"""The Classes section of the Dataset tab: the type of the task, and its classes, renamed in place."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import qt
from slicer.i18n import tr as _

from AnyMC3DLib.errors import InputError

from .dataset_room import Room

NAME_ROLE = qt.Qt.UserRole


class ClassesForm:
    """Connects the section's widgets to the dataset that is open."""

    def __init__(self, ui: Any, room: Room) -> None:
        self._ui, self._room = ui, room
        self._filling = False
        types = {
            "binary": _("One of two classes"),
            "multiclass": _("One of several classes"),
            "multilabel": _("Any number of findings"),
        }
        for value, text in types.items():
            ui.datasetTaskTypeSelector.addItem(text, value)
        ui.datasetTaskTypeSelector.connect("currentIndexChanged(int)", self._type_chosen)
        ui.datasetClassList.connect("itemChanged(QListWidgetItem*)", self._renamed)
        ui.datasetAddClassButton.connect("clicked()", self._add)
        ui.datasetRemoveClassButton.connect("clicked()", self._remove)
        ui.datasetClassUpButton.connect("clicked()", self._move_up)

    def show(self) -> None:
        """Show the classes of the dataset that is open."""
        dataset, shown = self._room.dataset, self._ui.datasetClassList
        self._filling = True
        box = self._ui.datasetTaskTypeSelector
        box.setCurrentIndex(box.findData(dataset.task_type) if dataset is not None else 0)
        row = shown.currentRow
        shown.clear()
        for name in dataset.classes if dataset is not None else ():
            item = qt.QListWidgetItem(name)
            item.setData(NAME_ROLE, name)
            item.setFlags(qt.Qt.ItemIsEnabled | qt.Qt.ItemIsSelectable | qt.Qt.ItemIsEditable)
            shown.addItem(item)
        shown.setCurrentRow(min(max(row, 0), shown.count - 1))
        self._filling = False

    def _type_chosen(self, _index: int) -> None:
        box = self._ui.datasetTaskTypeSelector
        if self._filling or self._room.dataset is None:
            return
        try:
            self._room.dataset.set_task_type(box.itemData(box.currentIndex))
        except InputError as error:
            self.show()
            self._room.tell(str(error))
            return
        self._room.modified(columns=True)

    def _renamed(self, item: qt.QListWidgetItem) -> None:
        if self._filling:
            return
        old = item.data(NAME_ROLE)
        try:
            self._room.dataset.rename_class(old, item.text())
            fault, name = "", self._room.dataset.classes[self._ui.datasetClassList.row(item)]
        except InputError as error:
            fault, name = str(error), old
        # The item stays: it must not go while its own editor closes.
        self._filling = True
        item.setText(name)
        item.setData(NAME_ROLE, name)
        self._filling = False
        if fault:
            self._room.tell(fault)
        elif name != old:
            self._room.modified(columns=True)

    def _add(self) -> None:
        if self._room.dataset is None:
            return
        name = self._room.ask.text(_("Add a class"), _("Name of the class:"), "")
        if name is not None:
            self._change(self._room.dataset.add_class, name)

    def _remove(self) -> None:
        item = self._ui.datasetClassList.currentItem()
        if item is not None:
            self._change(self._room.dataset.remove_class, item.data(NAME_ROLE))

    def _move_up(self) -> None:
        row = self._ui.datasetClassList.currentRow
        if row > 0:
            names = list(self._room.dataset.classes)
            names[row - 1 : row + 1] = names[row], names[row - 1]
            self._change(self._room.dataset.order_classes, names)
            self._ui.datasetClassList.setCurrentRow(row - 1)

    def _change(self, change: Callable[[Any], None], value: Any) -> None:
        try:
            change(value)
        except InputError as error:
            self._room.tell(str(error))
            return
        self.show()
        self._room.modified(columns=True)
