"""The main window: the modules' panel at the left, the views at the right, a status line."""

from __future__ import annotations

import qt
import slicer

PANEL_WIDTH = 440


class ModuleSelector(qt.QWidget):
    """Chooses the module whose panel is shown, and tells the script that it was entered or left."""

    def __init__(self, panel: qt.QScrollArea) -> None:
        super().__init__()
        self._panel = panel
        self._box = qt.QComboBox()
        self._current: object = None
        row = qt.QHBoxLayout(self)
        row.setContentsMargins(6, 4, 6, 2)
        row.addWidget(qt.QLabel("Modules:"))
        row.addWidget(self._box, 1)
        self._box.connect("currentTextChanged(QString)", self._chosen)

    def fill(self, titles: dict[str, str]) -> None:
        """The modules to choose from, by name."""
        self._names = {title: name for name, title in titles.items()}
        self._box.blockSignals(True)
        self._box.clear()
        self._box.addItems(list(self._names))
        self._box.setCurrentIndex(-1)
        self._box.blockSignals(False)

    @property
    def selectedModule(self) -> str:  # noqa: N802
        return self._current.name if self._current else ""

    def _chosen(self, title: str) -> None:
        if title in self._names:
            self.selectModule(self._names[title])

    def selectModule(self, name: str) -> None:  # noqa: N802
        """Show the panel of a module."""
        module = slicer.app.moduleManager().module(name)
        if module is self._current:
            return
        self.leave()
        widget = module.widgetRepresentation()
        self._panel.takeWidget()
        self._panel.setWidget(widget)
        widget.show()
        self._current = module
        self._box.blockSignals(True)
        self._box.setCurrentText(module.title)
        self._box.blockSignals(False)
        _tell(widget.self(), "enter")

    def leave(self) -> None:
        """Leave the module that is shown."""
        # One that was unloaded meanwhile has no panel any more.
        if self._current is not None and self._current._widget is not None:
            _tell(self._current._widget.self(), "exit")
        self._current = None


def _tell(script: object, what: str) -> None:
    method = getattr(script, what, None)
    if method:
        method()


class MainWindow(qt.QMainWindow):
    """The window; it knows no more of Slicer's than `slicer.util` asks it for."""

    def __init__(self, views: qt.QWidget | None) -> None:
        super().__init__()
        self.setObjectName("qSlicerMainWindow")
        self.setWindowTitle("AnyMC3D host")
        self.panel = qt.QScrollArea()
        self.panel.setWidgetResizable(True)
        self.panel.setHorizontalScrollBarPolicy(qt.Qt.ScrollBarAlwaysOff)
        self.panel.setFrameShape(qt.QFrame.NoFrame)
        self._selector = ModuleSelector(self.panel)
        left = qt.QWidget()
        box = qt.QVBoxLayout(left)
        box.setContentsMargins(0, 0, 0, 0)
        box.addWidget(self._selector)
        box.addWidget(self.panel, 1)
        self.split = qt.QSplitter(qt.Qt.Horizontal)
        self.split.addWidget(left)
        if views is not None:
            self.split.addWidget(views)
            self.split.setStretchFactor(1, 1)
        self.setCentralWidget(self.split)
        self.statusBar().showMessage("Ready")
        self.resize(1280, 800)
        self.split.setSizes([PANEL_WIDTH, 1280 - PANEL_WIDTH])

    def moduleSelector(self) -> ModuleSelector:  # noqa: N802
        """The selector."""
        return self._selector

    def closeEvent(self, event: qt.QCloseEvent) -> None:  # noqa: N802
        self._selector.leave()
        qt.QMainWindow.closeEvent(self, event)
