"""`slicer.app.layoutManager()`: three slice views and a 3D view, and a chart when one is shown."""

from __future__ import annotations

from typing import TYPE_CHECKING

import qt
import slicer
import vtk

from .plot import PlotView
from .views import SLICE_COLOURS, SliceView, ThreeDView

if TYPE_CHECKING:
    from .core import Core

POSITIONS = {"Red": (0, 0), "3D": (0, 1), "Yellow": (1, 0), "Green": (1, 1)}


class SliceWidget(qt.QFrame):
    """A slice view under its coloured bar with the offset's slider."""

    def __init__(self, core: Core, name: str) -> None:
        super().__init__()
        self.view = SliceView(core, name)
        self.bar = qt.QLabel(name[0])
        self.bar.setStyleSheet(f"background: {SLICE_COLOURS[name]}; color: black; padding: 1px 6px; font-weight: bold")
        self.bar.setFixedWidth(24)
        self.slider = qt.QSlider(qt.Qt.Horizontal)
        self.slider.setRange(0, 1000)
        self.position = qt.QLabel()
        self.position.setFixedWidth(84)
        head = qt.QHBoxLayout()
        for widget in (self.bar, self.slider, self.position):
            head.addWidget(widget)
        box = qt.QVBoxLayout(self)
        box.setContentsMargins(0, 0, 0, 0)
        box.setSpacing(1)
        box.addLayout(head)
        box.addWidget(self.view, 1)
        self.slider.connect("valueChanged(int)", self._slid)
        self._tag = self.view.node.AddObserver(vtk.vtkCommand.ModifiedEvent, self._moved)

    def _bounds(self) -> tuple[float, float]:
        bounds = [0.0, 0.0]
        volume = self.view.logic.GetBackgroundLayer() and self.view.logic.GetBackgroundLayer().GetVolumeNode()
        if volume is None:
            return -1.0, 1.0
        extent = [0.0] * 6
        self.view.logic.GetSliceBounds(extent)
        bounds[:] = extent[4], extent[5]
        return min(bounds), max(bounds)

    def _slid(self, value: int) -> None:
        low, high = self._bounds()
        self.view.logic.SetSliceOffset(low + (high - low) * value / 1000)

    def _moved(self, caller: object, event: str) -> None:
        low, high = self._bounds()
        offset = self.view.logic.GetSliceOffset()
        self.slider.blockSignals(True)
        self.slider.setValue(round(1000 * (offset - low) / (high - low)) if high > low else 0)
        self.slider.blockSignals(False)
        self.position.setText(f"{offset:.1f} mm")

    def sliceLogic(self) -> object:  # noqa: N802
        return self.view.logic

    def mrmlSliceNode(self) -> object:  # noqa: N802
        return self.view.node

    def mrmlSliceCompositeNode(self) -> object:  # noqa: N802
        return self.view.logic.GetSliceCompositeNode()

    def sliceView(self) -> SliceView:  # noqa: N802
        return self.view

    def sliceController(self) -> SliceWidget:  # noqa: N802
        return self

    def fitSliceToBackground(self) -> None:  # noqa: N802
        self.view.fit()

    def close_view(self) -> None:
        self.view.node.RemoveObserver(self._tag)
        self.view.close_view()


class ThreeDWidget(qt.QFrame):
    """The 3D view."""

    def __init__(self, core: Core) -> None:
        super().__init__()
        self.view = ThreeDView(core)
        box = qt.QVBoxLayout(self)
        box.setContentsMargins(0, 0, 0, 0)
        box.addWidget(self.view)

    def threeDView(self) -> ThreeDView:  # noqa: N802
        return self.view

    def mrmlViewNode(self) -> object:  # noqa: N802
        return self.view.node


class PlotWidget(qt.QFrame):
    """The chart view."""

    def __init__(self, core: Core) -> None:
        super().__init__()
        self.node = core.scene.AddNewNodeByClass("vtkMRMLPlotViewNode")
        self.view = PlotView(self.node)
        box = qt.QVBoxLayout(self)
        box.setContentsMargins(0, 0, 0, 0)
        box.addWidget(self.view)

    def plotView(self) -> PlotView:  # noqa: N802
        return self.view

    def mrmlPlotViewNode(self) -> object:  # noqa: N802
        return self.node


class LayoutManager:
    """What the views are asked for by."""

    def __init__(self, core: Core, parent: qt.QWidget | None = None) -> None:
        self.core = core
        self.viewport_widget = qt.QWidget(parent)
        self.layout_node = core.scene.AddNewNodeByClass("vtkMRMLLayoutNode")
        grid = qt.QGridLayout(self.viewport_widget)
        grid.setContentsMargins(0, 0, 0, 0)
        grid.setSpacing(2)
        self.slices = {name: SliceWidget(core, name) for name in SLICE_COLOURS}
        self.three_d = ThreeDWidget(core)
        self.plot = PlotWidget(core)
        for name, (row, column) in POSITIONS.items():
            grid.addWidget(self.three_d if name == "3D" else self.slices[name], row, column)
        grid.addWidget(self.plot, 2, 0, 1, 2)
        for row in (0, 1):
            grid.setRowStretch(row, 3)
        self._grid = grid
        self._layout = int(slicer.vtkMRMLLayoutNode.SlicerLayoutFourUpView)
        self.plot.hide()
        logics, view_logics = vtk.vtkCollection(), vtk.vtkCollection()
        for widget in self.slices.values():
            logics.AddItem(widget.view.logic)
        view_logics.AddItem(self.three_d.view.logic)
        core.application_logic.SetSliceLogics(logics)
        core.application_logic.SetViewLogics(view_logics)
        self._logics = logics
        selection = core.application_logic.GetSelectionNode()
        tag = selection.AddObserver(vtk.vtkCommand.ModifiedEvent, self._selection_changed)
        self._observed = [(selection, tag)]

    def _selection_changed(self, caller: object, event: str) -> None:
        # In Slicer the layout decides whether a chart view is seen; here a chart that is active shows itself.
        chart = caller.GetActivePlotChartID()
        if chart and chart != self.plot.node.GetPlotChartNodeID():
            self.plot.node.SetPlotChartNodeID(chart)

    threeDViewCount = 1  # noqa: N815
    tableViewCount = 0  # noqa: N815
    plotViewCount = 1  # noqa: N815

    @property
    def layout(self) -> int:
        return self._layout

    def setLayout(self, number: int) -> None:  # noqa: N802
        """Show the chart for the layouts that have one."""
        # The node's own arrangements are descriptions in XML that only the application's layout logic has.
        self._layout = number
        kinds = slicer.vtkMRMLLayoutNode
        shown = number in (kinds.SlicerLayoutFourUpPlotView, kinds.SlicerLayoutConventionalPlotView,
                           kinds.SlicerLayoutThreeOverThreePlotView)  # fmt: skip
        self.plot.setVisible(shown)
        self._grid.setRowStretch(2, 2 if shown else 0)

    def layoutLogic(self) -> LayoutManager:  # noqa: N802
        return self

    def GetLayoutNode(self) -> object:  # noqa: N802
        return self.layout_node

    def viewport(self) -> qt.QWidget:
        return self.viewport_widget

    def sliceViewNames(self) -> list[str]:  # noqa: N802
        return list(self.slices)

    def sliceWidget(self, name: str) -> SliceWidget | None:  # noqa: N802
        return self.slices.get(name)

    def mrmlSliceLogics(self) -> vtk.vtkCollection:  # noqa: N802
        return self._logics

    def threeDWidget(self, index: int) -> ThreeDWidget | None:  # noqa: N802
        return self.three_d if index == 0 else None

    def plotWidget(self, index: int) -> PlotWidget | None:  # noqa: N802
        return self.plot if index == 0 else None

    def resetThreeDViews(self) -> None:  # noqa: N802
        self.three_d.view.resetFocalPoint()

    def resetSliceViews(self) -> None:  # noqa: N802
        for widget in self.slices.values():
            widget.view.fit()

    def schedule(self) -> None:
        """Draw all views soon."""
        for widget in (*self.slices.values(), self.three_d):
            widget.view.schedule()

    def close(self) -> None:
        """Let go of the scene."""
        for node, tag in self._observed:
            node.RemoveObserver(tag)
        self.core.application_logic.SetSliceLogics(None)
        self.core.application_logic.SetViewLogics(None)
        for widget in self.slices.values():
            widget.close_view()
        self.three_d.view.close_view()
        self.plot.view.close_view()
        self.viewport_widget.hide()
        self.viewport_widget.deleteLater()
