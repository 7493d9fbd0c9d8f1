"""The stand-in for the application: a scene, modules from their files, views that show what lies in the scene."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import slicer
from hosting import REPOSITORY, Host, add_volume, host, qt, seen_host  # noqa: F401 - fixtures

TOY = """
from typing import Annotated
import ctk, qt, slicer
from slicer.i18n import tr as _
from slicer.parameterNodeWrapper import WithinRange, parameterNodeWrapper
from slicer.ScriptedLoadableModule import *

@parameterNodeWrapper
class Parameters:
    names: list[str]
    level: Annotated[float, WithinRange(0, 1)] = 0.5
    image: slicer.vtkMRMLScalarVolumeNode
    images: dict[str, slicer.vtkMRMLVolumeNode]

class Toy(ScriptedLoadableModule):
    def __init__(self, parent):
        super().__init__(parent)
        parent.title = _("A toy")
        self.heard = []
        slicer.app.connect("startupCompleted()", lambda: self.heard.append("started"))

class ToyWidget(ScriptedLoadableModuleWidget):
    def setup(self):
        super().setup()
        self.slider = ctk.ctkSliderWidget()
        self.slider.minimum, self.slider.maximum, self.slider.singleStep = 0, 1, 0.01
        self.slider.setProperty("SlicerParameterName", "level")
        self.box = slicer.qMRMLNodeComboBox()
        self.box.nodeTypes = ["vtkMRMLScalarVolumeNode"]
        self.box.noneEnabled = True
        self.box.setMRMLScene(slicer.mrmlScene)
        for widget in (self.slider, self.box):
            self.layout.addWidget(widget)
        self.parameters = Parameters(ToyLogic().getParameterNode())
        self.tag = self.parameters.connectGui(self.parent)
        self.heard = []
    def enter(self): self.heard.append("enter")
    def exit(self): self.heard.append("exit")
    def cleanup(self): self.heard.append("cleanup")

class ToyLogic(ScriptedLoadableModuleLogic): pass

class ToyTest(ScriptedLoadableModuleTest):
    ran = []
    def test_something(self): self.ran.append("something")
"""


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    path = tmp_path / "Toy.py"
    path.write_text(TOY)
    return path


def spin(host: Host, until: Callable[[], object], seconds: float = 20.0) -> None:  # noqa: F811
    ends = time.monotonic() + seconds
    while not until():
        assert time.monotonic() < ends
        host.app.processEvents(qt.QEventLoop.AllEvents, 10)


def test_a_module_is_loaded_started_shown_and_unloaded_as_in_the_application(host: Host, toy: Path) -> None:  # noqa: F811
    module = host.load(toy)
    host.started()
    assert slicer.modules.ToyInstance.heard == ["started"]
    assert slicer.modules.toy is module
    assert slicer.util.modulePath("Toy") == str(toy)
    widget = host.show("Toy")
    assert widget is slicer.modules.ToyWidget
    assert slicer.util.getModuleWidget("Toy") is widget
    host.app.moduleManager().unload("Toy")
    assert widget.heard == ["enter", "cleanup"]


def test_a_module_may_set_on_its_parent_what_slicer_knows_and_nothing_else(host: Host, toy: Path) -> None:  # noqa: F811
    module = host.load(toy)
    assert module.title == "A toy"
    with pytest.raises(AttributeError, match="no attribute titel"):
        module.titel = "slip"


def test_the_self_test_runs_as_from_the_applications_menu(host: Host, toy: Path) -> None:  # noqa: F811
    host.load(toy)
    slicer.selfTests["Toy"](msec=0)
    assert sys.modules["Toy"].ToyTest.ran == ["something"]


def test_parameters_and_widgets_follow_each_other(host: Host, toy: Path) -> None:  # noqa: F811
    host.load(toy)
    widget = host.show("Toy")
    widget.slider.value = 0.25
    assert widget.parameters.level == pytest.approx(0.25)
    widget.parameters.level = 0.75
    assert widget.slider.value == pytest.approx(0.75)
    volume = add_volume()
    widget.parameters.names, widget.parameters.images = ["a", "b"], {"t1": volume}
    assert list(widget.parameters.names) == ["a", "b"]
    assert dict(widget.parameters.images) == {"t1": volume}
    with pytest.raises(ValueError):
        widget.parameters.level = 2.0
    widget.parameters.disconnectGui(widget.tag)
    widget.slider.value = 0.5
    assert widget.parameters.level == pytest.approx(0.75)


def test_the_node_selector_follows_the_scene(host: Host, toy: Path) -> None:  # noqa: F811
    host.load(toy)
    box = host.show("Toy").box
    heard: list[object] = []
    box.connect("currentNodeChanged(vtkMRMLNode*)", heard.append)
    volume = add_volume()
    assert (box.nodeCount(), box.currentNode()) == (1, None)
    box.setCurrentNode(volume)
    assert heard == [volume]
    slicer.mrmlScene.RemoveNode(volume)
    assert (box.nodeCount(), box.currentNode()) == (0, None)
    assert heard == [volume, None]


def test_the_scene_can_be_saved_cleared_and_loaded(host: Host, tmp_path: Path) -> None:  # noqa: F811
    add_volume("CT")
    bundle = tmp_path / "scene.mrb"
    assert slicer.util.saveScene(str(bundle))
    slicer.mrmlScene.Clear(0)
    assert not slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode")
    slicer.util.loadScene(str(bundle))
    (volume,) = slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode")
    assert (volume.GetName(), slicer.util.arrayFromVolume(volume).shape) == ("CT", (6, 8, 10))


def test_the_views_show_what_lies_in_the_scene(seen_host: Host) -> None:  # noqa: F811
    seen_host.window.show()
    view = slicer.app.layoutManager().sliceWidget("Red").sliceView()
    assert view.array().max() < 40
    slicer.util.setSliceViewerLayers(background=add_volume(shape=(20, 20, 20)), fit=True)
    assert view.array().max() > 100


def test_a_click_on_a_point_of_a_chart_names_the_point(seen_host: Host) -> None:  # noqa: F811
    table = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLTableNode")
    slicer.util.updateTableFromArray(table, np.array([[0.0, 1.0], [1.0, 3.0], [2.0, 2.0]]), ["x", "y"])
    series = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLPlotSeriesNode")
    series.SetAndObserveTableNodeID(table.GetID())
    series.SetXColumnName("x")
    series.SetYColumnName("y")
    chart = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLPlotChartNode")
    chart.AddAndObservePlotSeriesNodeID(series.GetID())
    manager = slicer.app.layoutManager()
    manager.setLayout(slicer.vtkMRMLLayoutNode.SlicerLayoutFourUpPlotView)
    manager.plotWidget(0).mrmlPlotViewNode().SetPlotChartNodeID(chart.GetID())
    view, heard = manager.plotWidget(0).plotView(), []
    view.resize(400, 200)
    view.connect(
        "dataSelected(vtkStringArray*,vtkCollection*)",
        lambda ids, found: heard.append((ids.GetValue(0), found.GetItemAsObject(0).GetValue(0))),
    )
    place = view.place((1.0, 3.0))
    event = qt.QMouseEvent(
        qt.QEvent.MouseButtonPress, place, view.mapToGlobal(place), qt.Qt.LeftButton, qt.Qt.LeftButton, qt.Qt.NoModifier
    )
    qt.QCoreApplication.sendEvent(view, event)
    assert heard == [(series.GetID(), 1)]


def test_the_window_can_be_started_with_a_script_and_pictured(tmp_path: Path, toy: Path) -> None:
    script, picture = tmp_path / "script.py", tmp_path / "window.png"
    script.write_text("assert widget.moduleName == 'Toy'\nassert wait(lambda: True)\nprint('ran')\n")
    done = subprocess.run(
        [sys.executable, "-m", "host", "--module", toy, "--script", script, "--screenshot", picture, "--no-views"],
        cwd=REPOSITORY / "Testing" / "Host", capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "ran" in done.stdout
    image = qt.QImage(str(picture))
    assert (image.width(), image.height()) == (1280, 800)
