"""The base classes of scripted modules, for machines without Slicer's sources: what the module uses of them."""

from __future__ import annotations

import sys
import unittest
from pathlib import Path

import qt
import slicer

__all__ = [
    "ScriptedLoadableModule",
    "ScriptedLoadableModuleLogic",
    "ScriptedLoadableModuleTest",
    "ScriptedLoadableModuleWidget",
]


class ScriptedLoadableModule:
    """A module: its texts, its icon, its self-test."""

    def __init__(self, parent: object) -> None:
        self.parent = parent
        self.moduleName = type(self).__name__
        icon = Path(self.resourcePath(f"Icons/{self.moduleName}.png"))
        if icon.is_file():
            parent.icon = qt.QIcon(str(icon))
        slicer.selfTests[self.moduleName] = self.runTest

    def resourcePath(self, filename: str) -> str:  # noqa: N802 - the names are Slicer's here and below
        """A file beside the script."""
        return str(Path(self.parent.path).parent / "Resources" / filename)

    def getDefaultModuleDocumentationLink(self, docPage: str | None = None) -> str:  # noqa: N802
        """A sentence with a link."""
        url = (
            slicer.app.documentationBaseUrl + docPage if docPage else slicer.app.moduleDocumentationUrl(self.moduleName)
        )
        return f'<p>For more information, see the <a href="{url}">online documentation</a>.</p>'

    def runTest(self, msec: int = 100, **arguments: object) -> None:  # noqa: N802
        """Run the module's self-test."""
        case = getattr(sys.modules[type(self).__module__], self.moduleName + "Test")()
        case.messageDelay = msec
        case.runTest(**arguments)


class ScriptedLoadableModuleWidget:
    """A panel: it fills the layout of its parent in `setup`."""

    def __init__(self, parent: qt.QWidget | None = None) -> None:
        super().__init__()
        self.moduleName = type(self).__name__.removesuffix("Widget")
        self.developerMode = False
        self.parent = parent or slicer.qMRMLWidget()
        if parent is None:
            self.parent.setLayout(qt.QVBoxLayout())
            self.parent.setMRMLScene(slicer.mrmlScene)
        self.layout = self.parent.layout()
        if parent is None:
            self.setup()
            self.parent.show()
        slicer.app.moduleManager().connect("moduleAboutToBeUnloaded(QString)", self._onModuleAboutToBeUnloaded)

    def resourcePath(self, filename: str) -> str:  # noqa: N802
        """A file beside the script."""
        return str(Path(slicer.util.modulePath(self.moduleName)).parent / "Resources" / filename)

    def setup(self) -> None:
        """Make the panel."""

    def cleanup(self) -> None:
        """The panel is about to go."""

    def _onModuleAboutToBeUnloaded(self, name: str) -> None:  # noqa: N802
        if name == self.moduleName:
            self.cleanup()
            slicer.app.moduleManager().disconnect("moduleAboutToBeUnloaded(QString)", self._onModuleAboutToBeUnloaded)


class ScriptedLoadableModuleLogic:
    """A logic: it keeps the module's parameter node."""

    def __init__(self, parent: object = None) -> None:
        super().__init__()
        self.moduleName = type(self).__name__.removesuffix("Logic")
        self.isSingletonParameterNode = True

    def getParameterNode(self) -> object:  # noqa: N802
        """The module's one parameter node; made when there is none."""
        node = slicer.mrmlScene.GetSingletonNode(self.moduleName, "vtkMRMLScriptedModuleNode")
        if node is None:
            node = slicer.mrmlScene.AddNode(self.createParameterNode())
        node.SetAttribute("ModuleName", self.moduleName)
        return node

    def createParameterNode(self) -> object:  # noqa: N802
        """A new parameter node, not yet in the scene."""
        node = slicer.mrmlScene.CreateNodeByClass("vtkMRMLScriptedModuleNode")
        node.UnRegister(None)
        node.SetSingletonTag(self.moduleName)
        node.SetAttribute("ModuleName", self.moduleName)
        node.SetName(slicer.mrmlScene.GenerateUniqueName(self.moduleName))
        return node


class ScriptedLoadableModuleTest(unittest.TestCase):
    """A self-test: methods whose names hold `test`, run in the application."""

    def __init__(self, *arguments: object, **keywords: object) -> None:
        super().__init__(*arguments, **keywords)
        self.messageDelay = 0

    def delayDisplay(self, message: str, requestedDelay: int | None = None, msec: int | None = None) -> None:  # noqa: N802
        """Show a message for a while."""
        slicer.util.delayDisplay(message, self.messageDelay)

    def runTest(self) -> None:  # noqa: N802
        """Run every test of the class."""
        for name in (name for name in dir(self) if name.startswith("test") and callable(getattr(self, name))):
            self.setUp()
            getattr(self, name)()
            self.tearDown()
