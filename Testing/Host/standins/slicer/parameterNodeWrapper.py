"""Typed parameter nodes, for machines without Slicer's sources: the kinds of value that the module uses.

Values are JSON in the node's parameters; nodes are node references. So the scenes of this stand-in are its own.
"""

from __future__ import annotations

import json
import typing
from collections.abc import Callable
from typing import Any

import ctk
import qt
import slicer
import vtk

SlicerParameterNamePropertyName = "SlicerParameterName"


class WithinRange:
    """The lowest and highest value that a number may have."""

    def __init__(self, minimum: float, maximum: float) -> None:
        self.minimum, self.maximum = minimum, maximum

    def check(self, value: float) -> None:
        """Raise ValueError for a value outside."""
        if not self.minimum <= value <= self.maximum:
            raise ValueError(f"{value} is not within {self.minimum} and {self.maximum}")


def _is_node(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, slicer.vtkMRMLNode)


class _Parameter:
    """One typed value of a node."""

    def __init__(self, name: str, hint: Any, default: Any) -> None:
        self.name = name
        inner = typing.get_args(hint) if typing.get_origin(hint) is typing.Annotated else (hint,)
        self.hint, self.checks = inner[0], inner[1:]
        origin, arguments = typing.get_origin(self.hint) or self.hint, typing.get_args(self.hint)
        self.of_nodes = origin is dict and _is_node(arguments[1])
        empty = None if _is_node(self.hint) else origin()
        self.default = empty if default is None else default

    def read(self, node: object) -> Any:
        if _is_node(self.hint):
            return node.GetNodeReference(self.name)
        text = node.GetParameter(self.name)
        value = json.loads(text) if text else self.default
        if self.of_nodes:
            return {key: node.GetNodeReference(f"{self.name}.{key}") for key in value}
        return type(self.default)(value)

    def write(self, node: object, value: Any) -> None:
        for check in self.checks:
            check.check(value)
        if _is_node(self.hint):
            node.SetNodeReferenceID(self.name, value.GetID() if value else None)
            return
        if self.of_nodes:
            for key, one in value.items():
                node.SetNodeReferenceID(f"{self.name}.{key}", one.GetID() if one else None)
            value = dict.fromkeys(value)
        node.SetParameter(self.name, json.dumps(value))


def parameterNodeWrapper(cls: type) -> type:  # noqa: N802 - the names are Slicer's here and below
    """Turn a class of annotated names into a typed view on a parameter node."""
    hints = typing.get_type_hints(cls, include_extras=True)
    parameters = {name: _Parameter(name, hint, getattr(cls, name, None)) for name, hint in hints.items()}
    members = {"_parameters": parameters, "__doc__": cls.__doc__, "__module__": cls.__module__}
    members.update({name: _property(parameter) for name, parameter in parameters.items()})
    return type(cls.__name__, (_Wrapper,), members)


def _property(parameter: _Parameter) -> property:
    return property(
        lambda self: parameter.read(self.parameterNode), lambda self, value: parameter.write(self.parameterNode, value)
    )


class _Wrapper:
    def __init__(self, node: object, prefix: str | None = None) -> None:
        self.parameterNode = node
        self._guis: dict[int, Callable[[], None]] = {}

    def getValue(self, name: str) -> Any:  # noqa: N802
        return getattr(self, name)

    def setValue(self, name: str, value: Any) -> None:  # noqa: N802
        setattr(self, name, value)

    def StartModify(self) -> int:  # noqa: N802
        return self.parameterNode.StartModify()

    def EndModify(self, state: int) -> None:  # noqa: N802
        self.parameterNode.EndModify(state)

    def AddObserver(self, event: Any, callback: Callable, priority: float = 0.0) -> int:  # noqa: N802
        return self.parameterNode.AddObserver(event, callback, priority)

    def RemoveObserver(self, tag: int) -> None:  # noqa: N802
        self.parameterNode.RemoveObserver(tag)

    def connectGui(self, gui: Any) -> int:  # noqa: N802
        """Tie each widget with the property `SlicerParameterName` to the parameter of that name."""
        widgets = gui.findChildren(qt.QWidget) if isinstance(gui, qt.QWidget) else vars(gui).values()
        named = {widget.property(SlicerParameterNamePropertyName): widget for widget in widgets}
        return self.connectParametersToGui({name: widget for name, widget in named.items() if name})

    def connectParametersToGui(self, mapping: dict[str, qt.QWidget]) -> int:  # noqa: N802
        """Tie widgets to parameters, both ways."""
        busy = []

        def to_widgets(caller: object = None, event: str = "") -> None:
            if not busy:
                busy.append(True)
                for name, widget in mapping.items():
                    _show(widget, getattr(self, name))
                busy.clear()

        connected = [(widget, self._follow(widget, name, busy)) for name, widget in mapping.items()]
        to_widgets()
        tag = self.AddObserver(vtk.vtkCommand.ModifiedEvent, to_widgets)

        def let_go() -> None:
            self.RemoveObserver(tag)
            for widget, follow in connected:
                widget.disconnect(_signal(widget), follow)

        self._guis[tag] = let_go
        return tag

    def _follow(self, widget: qt.QWidget, name: str, busy: list) -> Callable:
        def follow(value: Any) -> None:
            if not busy:
                setattr(self, name, value)

        widget.connect(_signal(widget), follow)
        return follow

    def disconnectGui(self, tag: int) -> None:  # noqa: N802
        """Undo `connectGui`."""
        if tag in self._guis:
            self._guis.pop(tag)()


def _signal(widget: qt.QWidget) -> str:
    if isinstance(widget, (ctk.ctkSliderWidget, qt.QDoubleSpinBox)):
        return "valueChanged(double)"
    if isinstance(widget, slicer.qMRMLNodeComboBox):
        return "currentNodeChanged(vtkMRMLNode*)"
    return "toggled(bool)" if isinstance(widget, qt.QAbstractButton) else "textChanged(QString)"


def _show(widget: qt.QWidget, value: Any) -> None:
    if isinstance(widget, (ctk.ctkSliderWidget, qt.QDoubleSpinBox)):
        widget.setValue(value)
    elif isinstance(widget, slicer.qMRMLNodeComboBox):
        widget.setCurrentNode(value)
    elif isinstance(widget, qt.QAbstractButton):
        widget.setChecked(value)
    else:
        widget.setText(value)
