"""The bar that says which Python packages are missing, and installs them after one question."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import qt
import slicer
from slicer.i18n import tr as _

from AnyMC3DLib.errors import AnyMC3DError

from .dependencies import Dependencies, Question
from .turns import nothing


class InstallBar:
    """Shown only while something is missing. `ask` puts the question, and may be another in tests."""

    def __init__(
        self,
        ui: Any,
        dependencies: Dependencies,
        *,
        stop_engine: Callable[[], None],
        installed: Callable[[], None] = nothing,
        ask: Callable[[Question], bool] | None = None,
    ) -> None:
        self._ui, self._dependencies, self._stop_engine = ui, dependencies, stop_engine
        self._ask, self._installed = ask or _asked, installed
        menu = qt.QMenu(ui.installPackagesButton)
        menu.addAction(_("From the internet…")).connect("triggered()", self.install)
        menu.addAction(_("From a folder of wheel files…")).connect("triggered()", self._install_from_folder)
        ui.installPackagesButton.setMenu(menu)
        ui.missingPackagesFrame.setVisible(False)

    def refresh(self) -> bool:
        """Look again; whether anything is missing."""
        missing = self._dependencies.missing()
        self._ui.missingPackagesFrame.setVisible(bool(missing))
        names = ", ".join(one.name for one in missing)
        self._ui.missingPackagesLabel.text = _("The engine needs Python packages: {names}.").format(names=names)
        return bool(missing)

    def install(self, wheels: Path | None = None) -> None:
        """Ask, install, and say what is left to do."""
        wheels = wheels if isinstance(wheels, Path) else None
        if not self._ask(self._dependencies.question(wheels=wheels)):
            return
        self._stop_engine()
        qt.QApplication.setOverrideCursor(qt.Qt.WaitCursor)
        try:
            restart = self._dependencies.install(wheels=wheels, progress=self._tell)
        except AnyMC3DError as error:
            self._ui.missingPackagesLabel.text = str(error)
            return
        finally:
            qt.QApplication.restoreOverrideCursor()
        self.refresh()
        self._installed()
        if restart:
            names = ", ".join(restart)
            self._ui.missingPackagesFrame.setVisible(True)
            sentence = _("Start the application again: it still uses the earlier {names}.")
            self._ui.missingPackagesLabel.text = sentence.format(names=names)

    def _install_from_folder(self) -> None:
        title = _("The folder of the wheel files")
        folder = qt.QFileDialog.getExistingDirectory(slicer.util.mainWindow(), title)
        if folder:
            self.install(Path(folder))

    def _tell(self, words: str) -> None:
        self._ui.missingPackagesLabel.text = words
        slicer.app.processEvents()


def _asked(question: Question) -> bool:
    return bool(
        slicer.util.confirmOkCancelDisplay(question.text, windowTitle=question.title, detailedText=question.details)
    )
