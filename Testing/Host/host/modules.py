"""`slicer.modules` and `slicer.app.moduleManager()`: scripted modules loaded from their files, unchanged."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

import qt
import slicer

# What a module's script may set on its parent, which is a C++ object that knows no other names.
SETTABLE = frozenset(
    ("title", "categories", "dependencies", "contributors", "helpText", "acknowledgementText", "icon", "hidden",
     "index", "widgetRepresentationCreationEnabled", "associatedNodeTypes")
)  # fmt: skip


class LogicModule:
    """A module of the application of which there is only the logic here."""

    def __init__(self, name: str, logic: object) -> None:
        self.name, self._logic = name, logic

    def logic(self) -> object:
        """The module's logic."""
        return self._logic


class qSlicerScriptedLoadableModule:  # noqa: N801 - the name in Slicer
    """What a scripted module's class gets as `parent`."""

    def __init__(self, name: str, path: str) -> None:
        vars(self).update(
            name=name, path=path, title=name, categories=[], dependencies=[], contributors=[], helpText="",
            acknowledgementText="", icon=qt.QIcon(), hidden=False, script=None, _instance=None, _widget=None,
        )  # fmt: skip

    def __setattr__(self, name: str, value: object) -> None:
        if name not in SETTABLE and not name.startswith("_"):
            raise AttributeError(f"qSlicerScriptedLoadableModule has no attribute {name}")
        vars(self)[name] = value

    def widgetRepresentation(self) -> qSlicerScriptedLoadableModuleWidget:  # noqa: N802
        """The module's panel; made when it is first asked for."""
        if self._widget is None:
            self._widget = self.createNewWidgetRepresentation()
            setattr(slicer.modules, self.name + "Widget", self._widget.self())
        return self._widget

    def createNewWidgetRepresentation(self) -> qSlicerScriptedLoadableModuleWidget:  # noqa: N802
        """Another panel."""
        return qSlicerScriptedLoadableModuleWidget(self)

    def logic(self) -> object:
        """The C++ logic, which a scripted module has none of use."""
        return None


class qSlicerScriptedLoadableModuleWidget(qt.QWidget):  # noqa: N801
    """What a scripted module's widget class gets as `parent`."""

    def __init__(self, module: qSlicerScriptedLoadableModule) -> None:
        super().__init__()
        self.module = module
        layout = qt.QVBoxLayout(self)
        layout.setContentsMargins(9, 9, 9, 9)
        self._script = getattr(sys.modules[module.name], module.name + "Widget")(self)
        self._script.setup()
        layout.addStretch(1)

    def self(self) -> object:
        """The object of the script's widget class."""
        return self._script

    def mrmlScene(self) -> object:  # noqa: N802
        """The scene."""
        return slicer.mrmlScene


class ModuleManager(qt.QObject):
    """Loads scripts and keeps track of them."""

    moduleLoaded = qt.Signal(str)  # noqa: N815
    moduleAboutToBeUnloaded = qt.Signal(str)  # noqa: N815

    def __init__(self, logics: Mapping[str, object]) -> None:
        super().__init__()
        self._modules: dict[str, object] = {}
        self._paths: list[str] = []
        modules = ModuleType("slicer.modules")
        slicer.modules = sys.modules["slicer.modules"] = modules
        slicer.moduleNames = ModuleType("slicer.moduleNames")
        slicer.selfTests = {}
        for name, logic in logics.items():
            self._add(name, LogicModule(name, logic))

    def _add(self, name: str, module: object) -> None:
        self._modules[name] = module
        setattr(slicer.modules, name.lower(), module)
        setattr(slicer.moduleNames, name, name)

    def load(self, path: Path) -> qSlicerScriptedLoadableModule:
        """Load a script as the application's factory does: its folder on sys.path, its class told its parent."""
        name, folder = path.stem, str(path.parent)
        if folder not in sys.path:
            sys.path.insert(0, folder)
            self._paths.append(folder)
        parent = qSlicerScriptedLoadableModule(name, str(path))
        self._add(name, parent)
        spec = importlib.util.spec_from_file_location(name, path)
        script = importlib.util.module_from_spec(spec)
        sys.modules[name] = script
        spec.loader.exec_module(script)
        parent._instance = getattr(script, name)(parent)
        setattr(slicer.modules, name + "Instance", parent._instance)
        self.moduleLoaded.emit(name)
        return parent

    def module(self, name: str) -> object:
        """A loaded module, or None."""
        return self._modules.get(name)

    def loadedModulesNames(self) -> list[str]:  # noqa: N802
        """The names of all."""
        return list(self._modules)

    def factoryManager(self) -> ModuleManager:  # noqa: N802
        """The factory; the same object here."""
        return self

    loadedModuleNames = loadedModulesNames  # noqa: N815

    def isLoaded(self, name: str) -> bool:  # noqa: N802
        """Whether a module is there."""
        return name in self._modules

    def unload(self, name: str) -> None:
        """Say so to the module, then forget it."""
        module = self._modules.pop(name)
        self.moduleAboutToBeUnloaded.emit(name)
        widget = getattr(module, "_widget", None)
        if widget is not None:
            module._widget = None
            widget.hide()
            widget.setParent(None)
            widget.deleteLater()
        sys.modules.pop(name, None)

    def unload_all(self) -> None:
        """Unload every script, the latest first, and take their folders from sys.path."""
        for name in [name for name, module in reversed(self._modules.items()) if not isinstance(module, LogicModule)]:
            self.unload(name)
        for folder in self._paths:
            if folder in sys.path:
                sys.path.remove(folder)
