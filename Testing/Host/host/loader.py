"""`qt.QUiLoader` that knows the stand-ins, and makes their connections itself."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import ctk
import qt
import slicer

from . import widgets
from .modules import qSlicerScriptedLoadableModule, qSlicerScriptedLoadableModuleWidget

CUSTOM = (
    ctk.ctkCollapsibleButton, ctk.ctkCollapsibleGroupBox, ctk.ctkSliderWidget,
    widgets.qMRMLWidget, widgets.qMRMLNodeComboBox,
)  # fmt: skip
_QUiLoader = qt.QUiLoader


class UiLoader(_QUiLoader):
    """Designer files with classes of CTK and Slicer."""

    def __init__(self, parent: qt.QObject | None = None) -> None:
        super().__init__(parent)
        for kind in CUSTOM:
            self.registerCustomWidget(kind)

    def load(self, file: qt.QIODevice, parent: qt.QWidget | None = None) -> qt.QWidget:
        """The widget that the file describes."""
        text = bytes(file.readAll().data())
        root = ET.fromstring(text)
        unknown = {node.text for node in root.iter("class")} - {kind.__name__ for kind in CUSTOM}
        for name in unknown:
            if name.startswith(("ctk", "qMRML", "qSlicer")):
                self.registerCustomWidget(getattr(ctk if name.startswith("ctk") else slicer, name))
        connections = root.find("connections")
        made = [] if connections is None else list(connections)
        if connections is not None:
            # Qt knows the stand-ins' signals by other types than the file names.
            root.remove(connections)
        buffer = qt.QBuffer()
        buffer.setData(ET.tostring(root))
        buffer.open(qt.QIODevice.ReadOnly)
        widget = _QUiLoader.load(self, buffer, parent)
        for one in made:
            _connect(widget, *(one.find(part).text for part in ("sender", "signal", "receiver", "slot")))
        return widget


def _connect(root: qt.QWidget, sender: str, signal: str, receiver: str, slot: str) -> None:
    def named(name: str) -> qt.QObject:
        return root if root.objectName == name else root.findChild(qt.QObject, name)

    named(sender).connect(signal, getattr(named(receiver), slot.partition("(")[0]))


def install() -> None:
    """Put the stand-ins where scripts look for them."""
    qt.QUiLoader = UiLoader
    modules = qSlicerScriptedLoadableModule, qSlicerScriptedLoadableModuleWidget
    for kind in (widgets.qMRMLWidget, widgets.qMRMLNodeComboBox, *modules):
        setattr(slicer, kind.__name__, kind)
    slicer.__getattr__ = widgets.unknown_widget
