"""`qt` over PySide6 behaves as PythonQt's does, wherever the module relies on it."""

from __future__ import annotations

import gc

import pytest
from hosting import Host, host  # noqa: F401 - the fixture

pytestmark = pytest.mark.usefixtures("host")

import qt  # noqa: E402


def test_properties_are_attributes_that_can_be_set() -> None:
    button = qt.QPushButton("Go")
    assert (button.text, button.enabled, button.checkable) == ("Go", True, False)
    button.text, button.enabled = "Stop", False
    assert (button.text, button.enabled) == ("Stop", False)
    button.name = "stopButton"
    assert button.objectName == "stopButton"


def test_setters_and_methods_that_are_no_properties_stay_methods() -> None:
    widget = qt.QWidget()
    layout = qt.QVBoxLayout(widget)
    label = qt.QLabel("one")
    layout.addWidget(label)
    label.setText("two")
    assert label.text == "two"
    assert label.parent() is widget
    assert widget.layout() is layout
    assert label in widget.children()


def test_a_property_that_cannot_be_written_says_so() -> None:
    with pytest.raises(AttributeError, match="read-only"):
        qt.QComboBox().count = 3


def test_a_name_that_a_qt_object_lacks_cannot_be_set_on_it() -> None:
    button = qt.QPushButton()
    with pytest.raises(AttributeError, match="QPushButton has no attribute txet"):
        button.txet = "slip"


def test_a_python_class_may_have_attributes_and_properties_of_its_own() -> None:
    class Widget(qt.QWidget):
        level = qt.Property(int, lambda self: self._level, lambda self, value: setattr(self, "_level", value))

        def sizeHint(self) -> qt.QSize:  # noqa: N802
            return qt.QSize(31, 41)

    widget = Widget()
    widget.level = 4
    assert (widget.level, widget.property("level"), widget._level) == (4, 4, 4)
    assert widget.sizeHint().height() == 41


def test_signals_connect_by_signature_and_by_name() -> None:
    heard: list[object] = []
    button = qt.QPushButton()
    button.checkable = True

    def clicked(on: bool) -> None:
        heard.append(on)

    button.connect("clicked(bool)", clicked)
    button.connect("clicked()", lambda: heard.append("plain"))
    button.clicked.connect(lambda: heard.append("name"))
    button.click()
    assert heard == [True, "plain", "name"]
    button.disconnect("clicked(bool)", clicked)
    button.click()
    assert heard == [True, "plain", "name", "plain", "name"]


def test_a_signal_of_a_python_class_connects_by_the_signature_that_slicer_has() -> None:
    class Box(qt.QWidget):
        currentNodeChanged = qt.Signal(object)  # noqa: N815

    heard: list[object] = []
    box = Box()
    box.connect("currentNodeChanged(vtkMRMLNode*)", heard.append)
    box.currentNodeChanged.emit("node")
    assert heard == ["node"]
    with pytest.raises(ValueError, match="Box has no signal nodeAdded"):
        box.connect("nodeAdded(vtkMRMLNode*)", heard.append)


def test_a_signature_connects_to_the_slot_of_another_object() -> None:
    button, label = qt.QPushButton(), qt.QLabel("text")
    button.connect("clicked()", label, "clear()")
    button.click()
    assert label.text == ""


def test_single_shot_is_a_static_method_and_a_property() -> None:
    heard: list[int] = []
    loop, timer = qt.QEventLoop(), qt.QTimer()
    timer.singleShot = True
    assert timer.singleShot
    qt.QTimer.singleShot(0, lambda: (heard.append(1), loop.quit()))
    loop.exec_()
    assert heard == [1]


def test_attributes_do_not_leak_references() -> None:
    label = qt.QLabel()
    for number in range(20_000):
        label.text = str(number)
        assert label.text
    gc.collect()
    assert label.text == "19999"
