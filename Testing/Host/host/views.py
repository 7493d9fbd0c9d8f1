"""Slice views and a 3D view: MRML's displayable managers, drawn by VTK offscreen, painted into a widget."""

from __future__ import annotations

import numpy as np
import qt
import slicer
import vtk
from vtk.util.numpy_support import vtk_to_numpy

REDRAW_MS = 15
SLICE_COLOURS = {"Red": "#f34a33", "Green": "#6eb04b", "Yellow": "#edd54c"}
SLICE_ORIENTATIONS = {"Red": "Axial", "Green": "Coronal", "Yellow": "Sagittal"}
BUTTONS = {1: "LeftButton", 2: "RightButton", 4: "MiddleButton"}


class View(qt.QWidget):
    """A widget that shows an offscreen render window and hands mouse and wheel to its interactor."""

    def __init__(self, parent: qt.QWidget | None = None) -> None:
        super().__init__(parent)
        self.setSizePolicy(qt.QSizePolicy.Expanding, qt.QSizePolicy.Expanding)
        self.setMinimumSize(120, 90)
        self.setMouseTracking(True)
        self.setFocusPolicy(qt.Qt.StrongFocus)
        self.renderer = vtk.vtkRenderer()
        self.render_window = vtk.vtkRenderWindow()
        self.render_window.SetOffScreenRendering(1)
        self.render_window.SetMultiSamples(0)
        self.render_window.SetAlphaBitPlanes(1)
        self.render_window.AddRenderer(self.renderer)
        self._corners = vtk.vtkCornerAnnotation()
        self.renderer.AddViewProp(self._corners)
        self.interactor = vtk.vtkGenericRenderWindowInteractor()
        self.interactor.SetRenderWindow(self.render_window)
        self.interactor.EnableRenderOff()
        self.group = None
        self._picture = qt.QImage()
        self._stale = True
        self._timer = qt.QTimer(self)
        self._timer.singleShot = True
        self._timer.interval = REDRAW_MS
        self._timer.connect("timeout()", self._redraw)

    def display(self, factory: object, node: object, style: object) -> None:
        """Let the displayable managers of `factory` draw for the view node."""
        self.group = factory.InstantiateDisplayableManagers(self.renderer)
        self.group.SetMRMLDisplayableNode(node)
        self.interactor_style = style
        style.SetInteractor(self.interactor)
        style.SetDisplayableManagers(self.group)
        self.interactor.Initialize()
        for event in (vtk.vtkCommand.UpdateEvent, "DisplayableManagerRequestRender"):
            self.group.AddObserver(event, self._changed)

    def _changed(self, caller: object, event: str) -> None:
        self.schedule()

    def schedule(self) -> None:
        """Draw soon, once however often this is asked for."""
        self._stale = True
        if self.isVisible() and not self._timer.isActive() and not slicer.app.render_paused:
            self._timer.start()

    def _redraw(self) -> None:
        if self._stale and self.isVisible():
            self.forceRender()

    def forceRender(self) -> None:  # noqa: N802
        """Draw now."""
        self._stale = False
        self._resize_window()
        self.before_render()
        self.render_window.Render()
        self._picture = picture(self.render_window)
        self.update()

    scheduleRender = schedule  # noqa: N815 - the name of ctkVTKAbstractView

    def before_render(self) -> None:
        """What a kind of view has to do first."""

    def _resize_window(self) -> None:
        width, height = self.pixels()
        # As the application does, so that texts keep their size on screens with more pixels.
        self.render_window.SetDPI(round(72 * self.devicePixelRatioF()))
        if tuple(self.render_window.GetSize()) != (width, height):
            self.render_window.SetSize(width, height)
            self.interactor.UpdateSize(width, height)

    def pixels(self) -> tuple[int, int]:
        """The size in pixels of the device."""
        ratio = self.devicePixelRatioF()
        return max(1, round(self.width * ratio)), max(1, round(self.height * ratio))

    def cornerAnnotation(self) -> vtk.vtkCornerAnnotation:  # noqa: N802
        """The texts in the corners; the application's DataProbe writes them."""
        return self._corners

    def renderWindow(self) -> vtk.vtkRenderWindow:  # noqa: N802
        """The window that VTK draws into."""
        return self.render_window

    def array(self) -> np.ndarray:
        """The picture as it is now, [rows, columns, RGB]."""
        self.forceRender()
        return pixels_of(self.render_window)

    # Qt's events

    def paintEvent(self, event: qt.QPaintEvent) -> None:  # noqa: N802
        painter = qt.QPainter(self)
        if self._picture.isNull() or (self._stale and not self._timer.isActive()):
            painter.fillRect(self.rect, qt.QColor("black"))
            self.schedule()
        if not self._picture.isNull():
            painter.drawImage(self.rect, self._picture)
        painter.end()

    def resizeEvent(self, event: qt.QResizeEvent) -> None:  # noqa: N802
        self.schedule()

    def _place(self, event: qt.QMouseEvent | qt.QWheelEvent) -> None:
        ratio = self.devicePixelRatioF()
        x, y = round(event.position().x() * ratio), round(event.position().y() * ratio)
        keys = event.modifiers()
        control, shift = bool(keys & qt.Qt.ControlModifier), bool(keys & qt.Qt.ShiftModifier)
        self.interactor.SetEventInformationFlipY(x, y, int(control), int(shift))

    def _pressed(self, event: qt.QMouseEvent, kind: str) -> None:
        self._place(event)
        name = BUTTONS.get(event.button().value)
        if name:
            self.interactor.InvokeEvent(f"{name}{kind}Event")

    def mousePressEvent(self, event: qt.QMouseEvent) -> None:  # noqa: N802
        self._pressed(event, "Press")

    def mouseReleaseEvent(self, event: qt.QMouseEvent) -> None:  # noqa: N802
        self._pressed(event, "Release")

    def mouseMoveEvent(self, event: qt.QMouseEvent) -> None:  # noqa: N802
        self._place(event)
        self.interactor.InvokeEvent("MouseMoveEvent")

    def wheelEvent(self, event: qt.QWheelEvent) -> None:  # noqa: N802
        self._place(event)
        direction = "Forward" if event.angleDelta().y() > 0 else "Backward"
        self.interactor.InvokeEvent(f"MouseWheel{direction}Event")

    def close_view(self) -> None:
        """Let go of the scene and of the render window."""
        self._timer.stop()
        if self.group:
            self.interactor_style.SetInteractor(None)
            self.group.SetMRMLDisplayableNode(None)
            self.group.RemoveAllObservers()
            self.group = None
        self.render_window.RemoveRenderer(self.renderer)
        self.render_window.Finalize()


class SliceView(View):
    """One slice view: layers from the slice logic, annotations from the displayable managers."""

    def __init__(self, core: object, name: str, parent: qt.QWidget | None = None) -> None:
        super().__init__(parent)
        self.name_in_layout = name
        self.logic = slicer.vtkMRMLSliceLogic()
        self.logic.SetMRMLApplicationLogic(core.application_logic)
        self.logic.SetMRMLScene(core.scene)
        self.node = self.logic.AddSliceNode(name)
        self.node.SetOrientation(SLICE_ORIENTATIONS[name])
        self._mapper = vtk.vtkImageMapper()
        self._mapper.SetColorWindow(255)
        self._mapper.SetColorLevel(127.5)
        self._actor = vtk.vtkActor2D()
        self._actor.SetMapper(self._mapper)
        self._actor.GetProperty().SetDisplayLocationToBackground()
        self.renderer.AddViewProp(self._actor)
        style = slicer.vtkMRMLSliceViewInteractorStyle()
        style.SetSliceLogic(self.logic)
        self.display(slicer.vtkMRMLSliceViewDisplayableManagerFactory.GetInstance(), self.node, style)
        self._tag = self.logic.AddObserver(vtk.vtkCommand.ModifiedEvent, self._changed)
        self._node_tag = self.node.AddObserver(vtk.vtkCommand.ModifiedEvent, self._changed)

    def mrmlSliceNode(self) -> object:  # noqa: N802
        """The view node."""
        return self.node

    def before_render(self) -> None:
        """Give the slice the size of the window, and the mapper the newest blend."""
        self._fit_node()
        port = self.logic.GetImageDataConnection()
        self._mapper.SetInputConnection(port)
        self._actor.SetVisibility(port is not None)

    def _fit_node(self) -> None:
        width, height = self.pixels()
        if tuple(self.node.GetDimensions()[:2]) != (width, height):
            self.logic.ResizeSliceNode(width, height)

    def fit(self) -> None:
        """Show the whole background volume."""
        self._fit_node()
        self.logic.FitSliceToBackground(-1, -1)
        self.schedule()

    def close_view(self) -> None:
        """As View's."""
        self.logic.RemoveObserver(self._tag)
        self.node.RemoveObserver(self._node_tag)
        super().close_view()
        self.logic.SetMRMLScene(None)


class ThreeDView(View):
    """The 3D view."""

    def __init__(self, core: object, parent: qt.QWidget | None = None) -> None:
        super().__init__(parent)
        self.logic = slicer.vtkMRMLViewLogic()
        self.logic.SetMRMLApplicationLogic(core.application_logic)
        self.logic.SetMRMLScene(core.scene)
        self.node = self.logic.AddViewNode("1")
        self.node.SetBoxVisible(False)
        self.node.SetAxisLabelsVisible(False)
        self.renderer.GradientBackgroundOn()
        style = slicer.vtkMRMLThreeDViewInteractorStyle()
        self.display(slicer.vtkMRMLThreeDViewDisplayableManagerFactory.GetInstance(), self.node, style)

    def mrmlViewNode(self) -> object:  # noqa: N802
        """The view node."""
        return self.node

    def resetFocalPoint(self) -> None:  # noqa: N802
        """Look at the middle of what is shown."""
        self.renderer.ResetCamera()
        self.schedule()

    def resetCamera(self, rotation: bool = True, translation: bool = True, distance: bool = True) -> None:  # noqa: N802
        """Look at all that is shown; that the view is turned back is more than the panel asks for."""
        self.render_window.Render()
        self.resetFocalPoint()

    def close_view(self) -> None:
        """As View's."""
        super().close_view()
        self.logic.SetMRMLScene(None)


def pixels_of(window: vtk.vtkRenderWindow) -> np.ndarray:
    """The front of a window, [rows, columns, RGB] from the top."""
    width, height = window.GetSize()
    data = vtk.vtkUnsignedCharArray()
    window.GetPixelData(0, 0, width - 1, height - 1, 1, data, 0)
    return vtk_to_numpy(data).reshape(height, width, 3)[::-1]


def picture(window: vtk.vtkRenderWindow) -> qt.QImage:
    """The front of a window as an image of Qt."""
    array = np.ascontiguousarray(pixels_of(window))
    height, width, _ = array.shape
    return qt.QImage(array.data, width, height, 3 * width, qt.QImage.Format_RGB888).copy()
