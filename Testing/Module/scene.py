"""A MRML scene with the logics and views that the application would give, drawn offscreen. No Qt."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import numpy.typing as npt
import slicer
import slicer.util
import vtk
from vtk.util.numpy_support import vtk_to_numpy

VIEW_SIZE = (300, 300)
VIEW_SIZE_3D = (160, 160)  # volumes are drawn by the CPU
SLICE_VIEWS = {"Red": "Axial", "Yellow": "Sagittal", "Green": "Coronal"}
LOGICS = (
    ("Segmentations", "vtkSlicerSegmentationsModuleLogic"),
    ("Colors", "vtkSlicerColorLogic"),
    ("SubjectHierarchy", "vtkSlicerSubjectHierarchyModuleLogic"),
    ("Volumes", "vtkSlicerVolumesLogic"),
    ("Models", "vtkSlicerModelsLogic"),
    ("Markups", "vtkSlicerMarkupsLogic"),
    ("Cameras", "vtkSlicerCamerasModuleLogic"),
    ("Tables", "vtkSlicerTablesLogic"),
    ("Texts", "vtkSlicerTextsLogic"),
    ("Plots", "vtkSlicerPlotsLogic"),
    ("Transforms", "vtkSlicerTransformLogic"),
    ("Sequences", "vtkSlicerSequencesLogic"),
    ("VolumeRendering", "vtkSlicerVolumeRenderingLogic"),
)
SLICE_MANAGERS = ("vtkMRMLColorLegendDisplayableManager",)
THREE_D_MANAGERS = ("vtkMRMLCameraDisplayableManager", "vtkMRMLVolumeRenderingDisplayableManager")

Picture = npt.NDArray[np.uint8]  # [row from the top, column, RGB]


class Scene:
    """The scene of one test, `mrml`, with its logics and views; `close` ends it."""

    def __init__(self, folder: Path) -> None:
        self.mrml = slicer.vtkMRMLScene()
        slicer.mrmlScene = self.mrml
        self.application = slicer.vtkSlicerApplicationLogic()
        self.application.SetTemporaryPath(str(folder))
        # Where colour tables and presets are looked for; without a place, logics complain.
        (folder / "share" / "ColorFiles").mkdir(parents=True)
        self.application.SetHomeDirectory(str(folder))
        self.application.SetShareDirectory("share")
        self.application.SetMRMLScene(self.mrml)
        self.mrml.SetDataIOManager(self._data_io())
        self.logics = {name: self._add_logic(name, class_name) for name, class_name in LOGICS}
        self.slices = {name: self._add_slice(name, orientation) for name, orientation in SLICE_VIEWS.items()}
        collection = vtk.vtkCollection()
        for logic in self.slices.values():
            collection.AddItem(logic)
        self.application.SetSliceLogics(collection)
        self.view_logic = slicer.vtkMRMLViewLogic()
        self.view_logic.SetMRMLApplicationLogic(self.application)
        self.view_logic.SetMRMLScene(self.mrml)
        self.view_node = self.view_logic.AddViewNode("1")
        # The application has these, and some logics look for them.
        for name in ("vtkMRMLSelectionNode", "vtkMRMLInteractionNode", "vtkMRMLCrosshairNode"):
            if not self.mrml.GetFirstNodeByClass(name):
                node = self.mrml.CreateNodeByClass(name)
                node.SetSingletonTag("Singleton" if "Selection" in name or "Interaction" in name else "default")
                self.mrml.AddNode(node)
                node.UnRegister(None)
        self._windows: dict[str, _Window] = {}

    def composite(self, name: str = "Red") -> slicer.vtkMRMLSliceCompositeNode:
        """The node that says which layers the slice view `name` shows."""
        return self.slices[name].GetSliceCompositeNode()

    def set_background(self, node: slicer.vtkMRMLVolumeNode) -> None:
        """Show `node` in every slice view, fitted."""
        for logic in self.slices.values():
            logic.GetSliceCompositeNode().SetBackgroundVolumeID(node.GetID())
            logic.GetSliceNode().SetDimensions(*VIEW_SIZE, 1)
            logic.FitSliceToAll()

    def slice_picture(self, name: str = "Red") -> Picture:
        """What the slice view `name` shows: the layers, with the legend over them."""
        if name not in self._windows:
            logic = self.slices[name]
            logic.GetSliceNode().SetDimensions(*VIEW_SIZE, 1)
            self._windows[name] = _Window(logic.GetSliceNode(), SLICE_MANAGERS, self.application)
            self._windows[name].add_image(logic)
        return self._windows[name].picture()

    def three_d_picture(
        self, towards: tuple[float, float, float] = (0, -1, 0), *, zoom: float = 1.0, up: tuple[float, ...] = (0, 0, 1)
    ) -> Picture:
        """What the 3D view shows when it looks along `towards`, in RAS."""
        window = self._three_d()
        window.look(towards, up, zoom)
        return window.picture()

    def three_d_pixel(self, ras: npt.ArrayLike) -> tuple[int, int]:
        """The row and column of the latest 3D picture at which the point lies."""
        return self._three_d().pixel_of(np.asarray(ras, dtype=float))

    def slice_pixel(self, ras: npt.ArrayLike, name: str = "Red") -> tuple[int, int]:
        """The row and column of a slice picture at which the point lies, in the plane shown."""
        to_view = slicer.util.arrayFromVTKMatrix(self.slices[name].GetSliceNode().GetXYToRAS())
        x, y, _, _ = np.linalg.inv(to_view) @ (*np.asarray(ras, dtype=float), 1)
        return VIEW_SIZE[1] - 1 - round(y), round(x)

    def jump(self, ras: npt.ArrayLike) -> None:
        """Move the slice views to the point."""
        for logic in self.slices.values():
            logic.GetSliceNode().JumpSliceByOffsetting(*map(float, ras))

    def add_sequence(
        self, frames: list[slicer.vtkMRMLVolumeNode]
    ) -> tuple[slicer.vtkMRMLVolumeNode, slicer.vtkMRMLSequenceBrowserNode]:
        """The proxy node and the browser of a sequence whose frames have the index values 0.5, 1.5, and so on."""
        sequence = self.mrml.AddNewNodeByClass("vtkMRMLSequenceNode", "frames")
        for number, frame in enumerate(frames):
            sequence.SetDataNodeAtValue(frame, f"{number}.5")
            self.mrml.RemoveNode(frame)
        browser = self.mrml.AddNewNodeByClass("vtkMRMLSequenceBrowserNode", "browser")
        browser.SetAndObserveMasterSequenceNodeID(sequence.GetID())
        self.logics["Sequences"].UpdateProxyNodesFromSequences(browser)
        return browser.GetProxyNode(sequence), browser

    def save(self, path: Path) -> None:
        """Write the scene to an .mrb file."""
        messages = slicer.vtkMRMLMessageCollection()
        assert self.mrml.WriteToMRB(str(path), None, messages), messages.GetAllMessagesAsString()

    def load(self, path: Path) -> None:
        """Replace the scene by that of an .mrb file."""
        self.mrml.Clear(0)
        messages = slicer.vtkMRMLMessageCollection()
        assert self.mrml.ReadFromMRB(str(path), False, messages), messages.GetAllMessagesAsString()

    def node_count(self) -> int:
        """How many nodes there are."""
        return self.mrml.GetNumberOfNodes()

    def close(self) -> None:
        """Drop windows, logics and nodes, in the order that VTK wants."""
        for window in self._windows.values():
            window.close()
        self._windows.clear()
        self.mrml.Clear(1)
        for logic in (*self.slices.values(), self.view_logic, *self.logics.values()):
            logic.SetMRMLScene(None)
        self.application.SetMRMLScene(None)
        slicer.mrmlScene = None
        # A scene that is collected calls what observes it, which may be half collected by then.
        self.mrml.RemoveAllObservers()

    def _data_io(self) -> slicer.vtkObject:
        self._remote = slicer.vtkMRMLRemoteIOLogic()
        self._remote.SetMRMLScene(self.mrml)
        manager = slicer.vtkDataIOManagerLogic()
        manager.SetMRMLApplicationLogic(self.application)
        self._io_logic = manager
        self._remote.AddDataIOToScene()
        manager.SetAndObserveDataIOManager(self._remote.GetDataIOManager())
        return self._remote.GetDataIOManager()

    def _add_logic(self, name: str, class_name: str) -> slicer.vtkMRMLAbstractLogic:
        logic = getattr(slicer, class_name)()
        logic.SetMRMLApplicationLogic(self.application)
        logic.SetMRMLScene(self.mrml)
        self.application.SetModuleLogic(name, logic)
        return logic

    def _add_slice(self, name: str, orientation: str) -> slicer.vtkMRMLSliceLogic:
        logic = slicer.vtkMRMLSliceLogic()
        logic.SetMRMLApplicationLogic(self.application)
        logic.SetMRMLScene(self.mrml)
        node = logic.AddSliceNode(name)
        node.SetOrientation(orientation)
        node.SetDimensions(*VIEW_SIZE, 1)
        return logic

    def _three_d(self) -> _Window:
        if "3D" not in self._windows:
            self._windows["3D"] = _Window(self.view_node, THREE_D_MANAGERS, self.application, VIEW_SIZE_3D)
            self._windows["3D"].renderer.SetBackground(0.75, 0.77, 0.91)
        return self._windows["3D"]


@dataclasses.dataclass
class _Window:
    """An offscreen render window of a view node."""

    view_node: slicer.vtkMRMLAbstractViewNode
    managers: tuple[str, ...]
    application: slicer.vtkMRMLApplicationLogic
    size: tuple[int, int] = VIEW_SIZE

    def __post_init__(self) -> None:
        self.renderer = vtk.vtkRenderer()
        self.window = vtk.vtkRenderWindow()
        self.window.SetOffScreenRendering(1)
        self.window.SetMultiSamples(0)
        self.window.SetSize(*self.size)
        self.window.AddRenderer(self.renderer)
        self.interactor = vtk.vtkGenericRenderWindowInteractor()
        self.interactor.SetRenderWindow(self.window)
        self.group = slicer.vtkMRMLDisplayableManagerGroup()
        self.group.SetRenderer(self.renderer)
        for name in self.managers:
            manager = getattr(slicer, name)()
            manager.SetMRMLApplicationLogic(self.application)
            self.group.AddDisplayableManager(manager)
        self.group.SetMRMLDisplayableNode(self.view_node)

    def add_image(self, logic: slicer.vtkMRMLSliceLogic) -> None:
        mapper = vtk.vtkImageMapper()
        mapper.SetColorWindow(255)
        mapper.SetColorLevel(127.5)
        mapper.SetInputConnection(logic.GetImageDataConnection())
        actor = vtk.vtkActor2D()
        actor.SetMapper(mapper)
        self.renderer.AddViewProp(actor)
        self.logic = logic

    def look(self, towards: tuple[float, ...], up: tuple[float, ...], zoom: float) -> None:
        camera = self.renderer.GetActiveCamera()
        camera.SetFocalPoint(0, 0, 0)
        camera.SetPosition(*(-np.asarray(towards, dtype=float)))
        camera.SetViewUp(*up)
        self.renderer.ResetCamera()
        camera.Zoom(zoom)

    def pixel_of(self, ras: npt.NDArray[np.float64]) -> tuple[int, int]:
        self.renderer.SetWorldPoint(*ras, 1.0)
        self.renderer.WorldToDisplay()
        x, y, _ = self.renderer.GetDisplayPoint()
        return self.size[1] - 1 - round(y), round(x)

    def picture(self) -> Picture:
        if hasattr(self, "logic"):
            self.logic.UpdatePipeline()
        self.window.Render()
        grab = vtk.vtkWindowToImageFilter()
        grab.SetInput(self.window)
        grab.ReadFrontBufferOff()
        grab.Update()
        image = grab.GetOutput()
        width, height, _ = image.GetDimensions()
        return vtk_to_numpy(image.GetPointData().GetScalars()).reshape(height, width, -1)[::-1, :, :3].copy()

    def close(self) -> None:
        self.group.SetMRMLDisplayableNode(None)
        self.group.SetRenderer(None)
        self.window.Finalize()
