"""The `qt` module of Slicer over PySide6: one namespace, properties as attributes, `connect` by signature.

PySide6's classes are changed in place to behave as PythonQt's do: `button.text` reads and `button.text = "Go"` sets a
property, while `QPushButton.text` on the class stays the method; a widget refuses attributes that it does not have.
Import this before anything that uses Qt's classes the PythonQt way.
"""

from __future__ import annotations

import functools
import types
from collections.abc import Callable
from typing import Any

from PySide6 import QtCore, QtGui, QtUiTools, QtWidgets

# Read by C++ through the method of the same name, which Python may override: an attribute there would break the lookup.
VIRTUAL_GETTERS = frozenset({"sizeHint", "minimumSizeHint", "duration"})
OWN_CLASSES = ("PySide6.", "Shiboken.", "shiboken6.")

SHIBOKEN_OBJECT = QtCore.QObject.__mro__[-2]
Signal, Slot, Property = QtCore.Signal, QtCore.Slot, QtCore.Property
# Read before the patch, since afterwards they are looked up on patched classes.
_connect, _disconnect = QtCore.QObject.connect, QtCore.QObject.disconnect


class PropertyAttribute:
    """A Qt property as an attribute of instances; on the class it stays what it was, mostly the getter method."""

    def __init__(self, name: str, original: Any, getter: Callable | None, setter: Callable | None) -> None:
        self.name, self.original, self.getter, self.setter = name, original, getter, setter

    def __get__(self, instance: QtCore.QObject | None, owner: type) -> Any:
        if instance is None:
            if self.original is None:
                raise AttributeError(self.name)
            return self.original
        return self.getter(instance) if self.getter else instance.property(self.name)

    def __set__(self, instance: QtCore.QObject, value: Any) -> None:
        if self.setter:
            self.setter(instance, value)
        elif not instance.setProperty(self.name, value):
            raise AttributeError(f"{type(instance).__name__}.{self.name} cannot be set")


def as_attributes(cls: type) -> None:
    """Turn the properties that `cls` itself declares into attributes."""
    meta = cls.staticMetaObject
    for index in range(meta.propertyOffset(), meta.propertyCount()):
        found = meta.property(index)
        name = found.name()
        if name in VIRTUAL_GETTERS:
            continue
        original = getattr(cls, name, None)
        if isinstance(original, QtCore.Signal):
            continue
        capital = name[0].upper() + name[1:]
        getter = _method(cls, "is" + capital) or _method(cls, name)
        setter = _method(cls, "set" + capital) if found.isWritable() else _read_only(name)
        setattr(cls, name, PropertyAttribute(name, original, getter, setter))


def _method(cls: type, name: str) -> Callable | None:
    # Static ones, such as QTimer.singleShot and QCoreApplication.applicationName, do not take the instance.
    found = getattr(cls, name, None)
    return found if isinstance(found, types.MethodDescriptorType) else None


def _read_only(name: str) -> Callable:
    def refuse(instance: QtCore.QObject, value: Any) -> None:
        raise AttributeError(f"{type(instance).__name__}.{name} is read-only")

    return refuse


def _has_signal(sender: QtCore.QObject, signature: str) -> bool:
    # The class's own: the wrapper of `metaObject()` is now and then taken for one that is gone already.
    known = type(sender).staticMetaObject
    return known.indexOfSignal(QtCore.QMetaObject.normalizedSignature(signature).data().decode()) >= 0


def _bound_signal(sender: QtCore.QObject, signature: str) -> Any:
    """A signal of a Python class, whose C++ types in the signature mean nothing to Qt."""
    signal = getattr(sender, signature.partition("(")[0], None)
    if not isinstance(signal, QtCore.SignalInstance):
        raise ValueError(f"{type(sender).__name__} has no signal {signature}")
    return signal


def _is_signature(arguments: tuple) -> bool:
    # Qt's own macros SIGNAL and SLOT put a digit before the signature.
    return bool(arguments) and isinstance(arguments[0], str) and not arguments[0][:1].isdigit()


def _connected(sender: QtCore.QObject, *arguments: Any) -> Any:
    if not _is_signature(arguments):
        return _connect(*arguments) if isinstance(arguments[0], QtCore.QObject) else _connect(sender, *arguments)
    signature, *target = arguments
    if len(target) == 2 and isinstance(target[1], str):  # a receiver and the signature of its slot
        target = [getattr(target[0], target[1].partition("(")[0])]
    if _has_signal(sender, signature):
        return bool(_connect(sender, QtCore.SIGNAL(signature), target[0]))
    return bool(_bound_signal(sender, signature).connect(target[0]))


def _disconnected(sender: QtCore.QObject, *arguments: Any) -> Any:
    if not _is_signature(arguments):
        of_another = arguments and isinstance(arguments[0], QtCore.QObject)
        return _disconnect(*arguments) if of_another else _disconnect(sender, *arguments)
    signature, *target = arguments
    if len(target) == 2 and isinstance(target[1], str):
        target = [getattr(target[0], target[1].partition("(")[0])]
    if _has_signal(sender, signature) and target:
        return bool(_disconnect(sender, QtCore.SIGNAL(signature), target[0]))
    return bool(_bound_signal(sender, signature).disconnect(*target))


def _reader(original: Callable) -> Callable:
    """Attribute lookup with `connect` and `disconnect` by signature.

    PySide6 looks the two up by name in C++, so replacing them in the class has no effect on instances.
    """

    def get(instance: QtCore.QObject, name: str) -> Any:
        if name == "connect":
            return functools.partial(_connected, instance)
        if name == "disconnect":
            return functools.partial(_disconnected, instance)
        return original(instance, name)

    return get


def _put(instance: QtCore.QObject, name: str, value: Any) -> None:
    """PythonQt refuses a new attribute on an object of Qt's own classes; so does this, lest a slip pass unseen."""
    if type(instance).__module__.startswith(OWN_CLASSES) and not _has(instance, name):
        raise AttributeError(f"{type(instance).__name__} has no attribute {name}")
    declared = next((vars(cls)[name] for cls in type(instance).__mro__ if name in vars(cls)), None)
    if isinstance(declared, Property):
        # PySide6 looks for these in the slot that this function has taken the place of.
        declared.fset(instance, value)
    else:
        SHIBOKEN_OBJECT.__setattr__(instance, name, value)


def _has(instance: QtCore.QObject, name: str) -> bool:
    # Asked of the class's dictionaries, since some attributes hide themselves from `hasattr` on the class.
    return any(name in cls.__dict__ for cls in type(instance).__mro__) or _declares(instance, name)


def _declares(instance: QtCore.QObject, name: str) -> bool:
    return type(instance).staticMetaObject.indexOfProperty(name) >= 0


def _classes() -> list[type]:
    found = {}
    for module in (QtCore, QtGui, QtWidgets, QtUiTools):
        for name in dir(module):
            value = getattr(module, name)
            if isinstance(value, type) and issubclass(value, QtCore.QObject):
                found[value] = len(value.__mro__)
    return sorted(found, key=found.get)


def _patch() -> None:
    if isinstance(QtCore.QObject.__dict__.get("name"), PropertyAttribute):
        return
    classes = _classes()
    # Getters and setters of a base are read before its attributes change: deepest classes first.
    for cls in reversed(classes):
        as_attributes(cls)
    QtCore.QObject.name = PropertyAttribute("objectName", None, None, QtCore.QObject.setObjectName)
    # Many of PySide6's classes have slots of their own for these two.
    readers = {cls: cls.__getattribute__ for cls in classes if "__getattribute__" in cls.__dict__}
    writers = [cls for cls in classes if "__setattr__" in cls.__dict__]
    for cls, original in readers.items():
        cls.__getattribute__ = _reader(original)
    for cls in (QtCore.QObject, *writers):
        cls.__setattr__ = _put


for _module in (QtCore, QtGui, QtWidgets, QtUiTools):
    globals().update({name: getattr(_module, name) for name in dir(_module) if not name.startswith("_")})
_patch()
