"""Stand-ins for the qMRML widgets that the panel uses."""

from __future__ import annotations

import weakref
from collections.abc import Callable

import qt
import shiboken6
import slicer


class qMRMLWidget(qt.QWidget):  # noqa: N801 - the names are Slicer's here and below
    """A widget that knows the scene."""

    mrmlSceneChanged = qt.Signal(object)  # noqa: N815

    def __init__(self, parent: qt.QWidget | None = None) -> None:
        super().__init__(parent)
        self._scene = None

    def mrmlScene(self) -> object:  # noqa: N802
        """The scene."""
        return self._scene

    def setMRMLScene(self, scene: object) -> None:  # noqa: N802
        """Set the scene and tell those that are connected."""
        self._scene = scene
        self.mrmlSceneChanged.emit(scene)


def _telling(box: qMRMLNodeComboBox) -> Callable[[object, str], None]:
    """An observer that outlives the widget, as the scene may."""
    reference = weakref.ref(box)

    def tell(caller: object, event: str) -> None:
        alive = reference()
        if alive is not None and shiboken6.isValid(alive):
            alive.scene_changed()

    return tell


def _flag(name: str) -> qt.Property:
    def get(self: qMRMLNodeComboBox) -> bool:
        return self._flags.get(name, True)

    def put(self: qMRMLNodeComboBox, value: bool) -> None:
        self._flags[name] = value
        self._refill()

    return qt.Property(bool, get, put)


class qMRMLSortFilterProxyModel(qt.QObject):  # noqa: N801
    """Which of the nodes a combo box shows."""

    def __init__(self, box: qMRMLNodeComboBox) -> None:
        super().__init__(box)
        self._box, self._hidden = weakref.ref(box), []

    def _get_hidden(self) -> list[str]:
        return self._hidden

    def setHiddenNodeIDs(self, ids: list[str]) -> None:  # noqa: N802
        """Leave these out."""
        self._hidden = list(ids)
        self._box()._refill()

    hiddenNodeIDs = qt.Property("QStringList", _get_hidden, setHiddenNodeIDs)  # noqa: N815


class qMRMLNodeComboBox(qMRMLWidget):  # noqa: N801
    """A combo box with the scene's nodes of some classes."""

    currentNodeChanged = qt.Signal(object)  # noqa: N815
    currentNodeIDChanged = qt.Signal(str)  # noqa: N815
    nodeAddedByUser = qt.Signal(object)  # noqa: N815

    def __init__(self, parent: qt.QWidget | None = None) -> None:
        super().__init__(parent)
        self._box = qt.QComboBox(self)
        self._box.setSizeAdjustPolicy(qt.QComboBox.AdjustToMinimumContentsLengthWithIcon)
        self._box.setMinimumContentsLength(8)
        layout = qt.QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self._box)
        self.setSizePolicy(qt.QSizePolicy.Expanding, qt.QSizePolicy.Fixed)
        self._types: list[str] = []
        self._none, self._none_display = False, "None"
        self._flags: dict[str, bool] = {}
        self._attributes: list[tuple[str, str, object]] = []
        self._nodes: list[object] = []
        self._tags: list[int] = []
        self._current_id: str | None = None
        self._filter = qMRMLSortFilterProxyModel(self)
        self._box.connect("currentIndexChanged(int)", self._chosen)
        self.connect("destroyed()", self._let_go)

    # the nodes

    def setMRMLScene(self, scene: object) -> None:  # noqa: N802
        """Show the nodes of that scene from now on."""
        self._let_go()
        super().setMRMLScene(scene)
        if scene is not None:
            events = (scene.NodeAddedEvent, scene.NodeRemovedEvent, scene.EndBatchProcessEvent, scene.EndCloseEvent)
            self._tags = [scene.AddObserver(event, _telling(self)) for event in events]
        self._refill()

    def _let_go(self) -> None:
        if self._scene is not None:
            for tag in self._tags:
                self._scene.RemoveObserver(tag)
        self._tags = []

    def scene_changed(self) -> None:
        """Nodes came or went."""
        if not self._scene.IsBatchProcessing():
            self._refill()

    def _shown(self, node: object) -> bool:
        if node.GetID() in self._filter.hiddenNodeIDs:
            return False
        if node.GetHideFromEditors() or not any(node.IsA(name) for name in self._types):
            return False
        if not self._flags.get("showChildNodeTypes", True) and node.GetClassName() not in self._types:
            return False
        for kind, name, value in self._attributes:
            if node.IsA(kind) and (node.GetAttribute(name) is None or (value and node.GetAttribute(name) != value)):
                return False
        return True

    def _refill(self) -> None:
        scene = self._scene
        count = scene.GetNumberOfNodes() if scene is not None else 0
        nodes = [node for node in map(scene.GetNthNode, range(count)) if self._shown(node)] if count else []
        self._nodes = ([None] if self._none or not nodes else []) + nodes
        self._box.blockSignals(True)
        self._box.clear()
        for node in self._nodes:
            self._box.addItem(node.GetName() if node else self._none_display)
        ids = [node.GetID() if node else None for node in self._nodes]
        index = ids.index(self._current_id) if self._current_id in ids else 0
        self._box.setCurrentIndex(index)
        self._box.blockSignals(False)
        if ids[index] != self._current_id:
            self._changed(ids[index])

    def _chosen(self, index: int) -> None:
        node = self._nodes[index] if 0 <= index < len(self._nodes) else None
        self._changed(node.GetID() if node else None)

    def _changed(self, node_id: str | None) -> None:
        self._current_id = node_id
        self.currentNodeChanged.emit(self.currentNode())
        self.currentNodeIDChanged.emit(node_id or "")

    def currentNode(self) -> object:  # noqa: N802
        """The node that is chosen, or None."""
        found = self._scene is not None and self._current_id is not None
        return self._scene.GetNodeByID(self._current_id) if found else None

    def setCurrentNode(self, node: object) -> None:  # noqa: N802
        """Choose a node; None where nothing is meant."""
        self.setCurrentNodeID(node.GetID() if node else None)

    def setCurrentNodeID(self, node_id: str | None) -> None:  # noqa: N802
        """Choose a node by its id."""
        ids = [node.GetID() if node else None for node in self._nodes]
        if (node_id or None) in ids:
            self._box.setCurrentIndex(ids.index(node_id or None))

    def sortFilterProxyModel(self) -> qMRMLSortFilterProxyModel:  # noqa: N802
        """What decides on the nodes that are shown."""
        return self._filter

    def addNode(self, kind: str = "") -> object:  # noqa: N802
        """What the menu's entry for a new node does."""
        node = self._scene.AddNewNodeByClass(kind or self._types[0])
        self.setCurrentNode(node)
        self.nodeAddedByUser.emit(node)
        return node

    def nodeCount(self) -> int:  # noqa: N802
        """How many nodes there are to choose from."""
        return sum(node is not None for node in self._nodes)

    def addAttribute(self, kind: str, name: str, value: object = None) -> None:  # noqa: N802
        """Show nodes of that class with that attribute only."""
        self._attributes.append((kind, name, value))
        self._refill()

    # the properties

    def _get_types(self) -> list[str]:
        return self._types

    def setNodeTypes(self, types: list[str]) -> None:  # noqa: N802
        """The classes to choose from."""
        self._types = list(types)
        self._refill()

    def _get_none(self) -> bool:
        return self._none

    def setNoneEnabled(self, enabled: bool) -> None:  # noqa: N802
        """Whether nothing can be chosen."""
        self._none = enabled
        self._refill()

    def _get_none_display(self) -> str:
        return self._none_display

    def setNoneDisplay(self, text: str) -> None:  # noqa: N802
        """The words for nothing."""
        self._none_display = text
        self._refill()

    def _get_id(self) -> str:
        return self._current_id or ""

    nodeTypes = qt.Property("QStringList", _get_types, setNodeTypes)  # noqa: N815
    noneEnabled = qt.Property(bool, _get_none, setNoneEnabled)  # noqa: N815
    noneDisplay = qt.Property(str, _get_none_display, setNoneDisplay)  # noqa: N815
    currentNodeID = qt.Property(str, _get_id, setCurrentNodeID)  # noqa: N815
    addEnabled = _flag("addEnabled")  # noqa: N815
    removeEnabled = _flag("removeEnabled")  # noqa: N815
    renameEnabled = _flag("renameEnabled")  # noqa: N815
    editEnabled = _flag("editEnabled")  # noqa: N815
    selectNodeUponCreation = _flag("selectNodeUponCreation")  # noqa: N815
    showChildNodeTypes = _flag("showChildNodeTypes")  # noqa: N815
    showHidden = _flag("showHidden")  # noqa: N815


def unknown_widget(name: str) -> type:
    """An empty class for any other widget of Slicer, so that code which only mentions it can be imported."""
    if not name.startswith(("qMRML", "qSlicer", "ctk")):
        raise AttributeError(f"module 'slicer' has no attribute {name!r}")
    made = type(name, (qt.QWidget,), {"__module__": __name__})
    setattr(slicer, name, made)
    return made
