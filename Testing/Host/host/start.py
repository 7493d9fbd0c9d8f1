"""Starting the host: paths, stand-ins or Slicer's own sources, the application, the module."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import qt
import slicer

from .application import Application, application
from .core import Core
from .layout import LayoutManager
from .loader import install
from .window import MainWindow

HOST = Path(__file__).resolve().parent.parent
REPOSITORY = HOST.parent.parent
SOURCE_VARIABLE = "ANYMC3D_SLICER_SOURCE"
PYTHON_OF_SLICER = ("ScriptedLoadableModule", "parameterNodeWrapper", "i18n", "util", "packaging")


def slicer_source() -> Path | None:
    """Slicer's source tree, where one is named by the environment."""
    named = os.environ.get(SOURCE_VARIABLE)
    if named and not (Path(named) / "Base" / "Python" / "slicer" / "ScriptedLoadableModule.py").is_file():
        raise RuntimeError(f"{SOURCE_VARIABLE} names {named}, which holds no Slicer sources.")
    return Path(named) if named else None


def prepare() -> None:
    """Put `slicer`'s Python modules in place: Slicer's own where there are some, else the stand-ins."""
    source = slicer_source()
    python = source / "Base" / "Python" / "slicer" if source else HOST / "standins" / "slicer"
    samples = source / "Modules" / "Scripted" / "SampleData" if source else HOST / "standins" / "modules"
    if str(python) in slicer.__path__:
        return
    slicer.__path__.append(str(python))
    if str(samples) not in sys.path:
        sys.path.append(str(samples))
    if source:
        _load_util(python / "util.py")
    install()


def _load_util(path: Path) -> None:
    # The package `slicer` has a `util` of its own already.
    spec = importlib.util.spec_from_file_location("slicer.util", path)
    slicer.util = sys.modules["slicer.util"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(slicer.util)


class Host:
    """A running stand-in for the application."""

    def __init__(self, *, views: bool = False, testing: bool = True) -> None:
        prepare()
        self.app: Application = application()
        self.core = Core()
        self.app.begin(self.core, testing=testing)
        if views:
            self.app.set_layout_manager(LayoutManager(self.core))
        manager = self.app.layoutManager()
        self.window = MainWindow(manager.viewport() if manager else None)

    @property
    def scene(self) -> object:
        """The MRML scene."""
        return self.core.scene

    def load(self, path: str | Path) -> object:
        """Load a scripted module from its file."""
        manager = self.app.moduleManager()
        module = manager.load(Path(path))
        scripts = {name: manager.module(name) for name in manager.loadedModulesNames()}
        self.window.moduleSelector().fill(
            {name: one.title for name, one in scripts.items() if hasattr(one, "title") and not one.hidden}
        )
        return module

    def started(self) -> None:
        """Say that the application has started, as modules wait for."""
        self.app.startupCompleted.emit()

    def show(self, module: str) -> object:
        """Show the panel of a module in the window; returns the script's widget object."""
        self.window.moduleSelector().selectModule(module)
        return self.app.moduleManager().module(module).widgetRepresentation().self()

    def close(self) -> None:
        """Close the window, unload the modules, let go of the scene."""
        self.window.close()
        self.app.end()
        self.app.processEvents()
        # At once: the window of the next host has the same name.
        self.window.deleteLater()
        self.app.sendPostedEvents(None, qt.QEvent.DeferredDelete.value)


@contextmanager
def start(*, views: bool = False, testing: bool = True) -> Iterator[Host]:
    """A host for as long as the block runs."""
    host = Host(views=views, testing=testing)
    try:
        yield host
    finally:
        host.close()
