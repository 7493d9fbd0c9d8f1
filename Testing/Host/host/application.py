"""`slicer.app`: the application object, with the managers that modules ask it for."""

from __future__ import annotations

import tempfile
from typing import TYPE_CHECKING, Any

import qt
import slicer

from .inputs import CoreIOManager
from .modules import ModuleManager

if TYPE_CHECKING:
    from .core import Core


class Application(qt.QObject):
    """The part of qSlicerApplication that the module, and Slicer's Python sources under it, call.

    It stands before the process's one QApplication, whoever made that; what is not here is asked of it.
    """

    startupCompleted = qt.Signal()  # noqa: N815 - the name in Slicer

    def __init__(self) -> None:
        super().__init__()
        self.qt_application = qt.QApplication.instance() or qt.QApplication(["host"])
        self.qt_application.setApplicationName("AnyMC3DHost")
        self.qt_application.setOrganizationName("AnyMC3D")
        # The user's own settings stay untouched.
        self._settings_folder = tempfile.TemporaryDirectory(prefix="anymc3d-settings-")
        qt.QSettings.setPath(qt.QSettings.IniFormat, qt.QSettings.UserScope, self._settings_folder.name)
        qt.QSettings.setDefaultFormat(qt.QSettings.IniFormat)
        self.testing = True
        self.render_paused = 0
        self.core: Core | None = None
        self._layout_manager: Any = None
        self.temporaryPath = self._settings_folder.name
        self.slicerHome = self._settings_folder.name
        self.documentationBaseUrl = "https://slicer.readthedocs.io/en/latest/"

    def __getattr__(self, name: str) -> Any:
        if name == "qt_application":
            raise AttributeError(name)
        return getattr(self.qt_application, name)

    def begin(self, core: Core, *, testing: bool) -> None:
        """A fresh scene and fresh managers in the one application that a process can have."""
        self.core, self.testing, self.render_paused, self._layout_manager = core, testing, 0, None
        self.temporaryPath = core.temporary_path
        self._modules = ModuleManager(core.logics)
        self._io = CoreIOManager(core.scene)
        self._user_settings = qt.QSettings(f"{core.temporary_path}/settings.ini", qt.QSettings.IniFormat)
        slicer.app = self

    def end(self) -> None:
        """Unload the modules and close the scene."""
        self._modules.unload_all()
        if self._layout_manager is not None:
            self._layout_manager.close()
            self._layout_manager = None
        self.processEvents()
        self.core.close()
        self.core = None

    def mrmlScene(self) -> object:  # noqa: N802
        return self.core.scene

    def applicationLogic(self) -> object:  # noqa: N802
        return self.core.application_logic

    def moduleManager(self) -> ModuleManager:  # noqa: N802
        return self._modules

    def coreIOManager(self) -> CoreIOManager:  # noqa: N802
        return self._io

    def layoutManager(self) -> Any:  # noqa: N802
        return self._layout_manager

    def set_layout_manager(self, manager: Any) -> None:
        self._layout_manager = manager

    def userSettings(self) -> qt.QSettings:  # noqa: N802
        return self._user_settings

    settings = userSettings
    revisionUserSettings = userSettings  # noqa: N815

    def testingEnabled(self) -> bool:  # noqa: N802
        return self.testing

    def translate(self, context: str, text: str) -> str:
        return qt.QCoreApplication.translate(context, text)

    def moduleDocumentationUrl(self, name: str) -> str:  # noqa: N802
        return self.documentationBaseUrl + name

    def pauseRender(self) -> None:  # noqa: N802
        self.render_paused += 1

    def resumeRender(self) -> None:  # noqa: N802
        self.render_paused = max(0, self.render_paused - 1)
        if not self.render_paused and self._layout_manager is not None:
            self._layout_manager.schedule()

    def setRenderPaused(self, paused: bool) -> None:  # noqa: N802
        self.pauseRender() if paused else self.resumeRender()

    def startupEnvironment(self) -> dict[str, str]:  # noqa: N802
        environment = qt.QProcessEnvironment.systemEnvironment()
        return {key: environment.value(key) for key in environment.keys()}  # noqa: SIM118 - no mapping

    def restart(self) -> None:
        raise RuntimeError("The host does not restart itself.")


_APPLICATION: list[Application] = []


def application() -> Application:
    """The one application of the process; made at the first call."""
    if not _APPLICATION:
        _APPLICATION.append(Application())
    return _APPLICATION[0]
