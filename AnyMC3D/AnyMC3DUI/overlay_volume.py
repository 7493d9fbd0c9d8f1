"""Heat with the anatomy in the 3D views: one volume of both, drawn with right occlusion."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import slicer
import slicer.util
import vtk

from .coarse_grid import CoarseGrid
from .earlier import is_remembered, nodes_of_class, recall, remember
from .fused import AnatomyLook, FusedVolume
from .handover import FACTORS_ATTRIBUTE, grid_of, place_like
from .turns import Cancel, Runner, Work, at_once, nothing

logger = logging.getLogger(__name__)

FUSED_ATTRIBUTE = "AnyMC3D.Fused"
_RENDERINGS = "vtkMRMLVolumeRenderingDisplayNode"
_RENDERING_CLASS = "vtkMRMLGPURayCastVolumeRenderingDisplayNode"
_CPU_RENDERING_CLASS = "vtkMRMLCPURayCastVolumeRenderingDisplayNode"
_METHOD_SETTING = "VolumeRendering/RenderingMethod"
_TISSUE = np.array([0.80, 0.75, 0.71])
_STEPS_ACROSS = 200  # units of opacity along a volume's diagonal, so that coarse and fine volumes look alike


@dataclasses.dataclass(frozen=True)
class Painting:
    """Heat from `threshold` on, how much it covers, and how solid the anatomy is where the user has not said so."""

    threshold: float
    opacity: float
    solidity: float


class VolumeHeat:
    """The fused volume in the 3D views of a scene; the user's own volume renderings come back with `hide`.

    `run` runs what takes long: filling and painting the volume. `appeared` is called after an anatomy was drawn that
    the views did not show before, `troubled` with a sentence when it cannot be drawn.
    """

    def __init__(
        self,
        scene: slicer.vtkMRMLScene,
        run: Runner = at_once,
        *,
        appeared: Callable[[], None] = nothing,
        troubled: Callable[[str], None] = lambda sentence: None,
    ) -> None:
        self._scene, self._run, self._appeared, self._troubled = scene, run, appeared, troubled
        self._fused: FusedVolume | None = None
        self._node: slicer.vtkMRMLVectorVolumeNode | None = None
        self._made: list[slicer.vtkMRMLNode] = []
        self._framed_id: str | None = None
        self._wanted: Painting | None = None
        self._let_go: Cancel | None = None
        self._working = False

    @property
    def node(self) -> slicer.vtkMRMLVectorVolumeNode | None:
        """The fused volume, as long as it is in the scene."""
        return self._node if self._node is not None and self._node.GetScene() is self._scene else None

    def show(self, anatomy: slicer.vtkMRMLVolumeNode, heat: slicer.vtkMRMLScalarVolumeNode, painting: Painting) -> None:
        """Draw anatomy and heat together; where the user renders the anatomy already, with the same look.

        A picture of one slice has no volume to draw, and none is shown; nor is heat on another grid.
        """
        self._remove_made()
        values, warmth = slicer.util.arrayFromVolume(anatomy), slicer.util.arrayFromVolume(heat)
        grid = grid_of(heat, anatomy)
        if grid.shape == values.shape[:3]:
            grid = CoarseGrid.of(values.shape, anatomy.GetSpacing()[::-1])
        if min(values.shape[:3]) < 2 or warmth.shape not in (values.shape[:3], grid.shape):
            return
        self._wanted = painting
        self._begin(self._building(anatomy, FusedVolume(grid), values, warmth))

    def paint(self, painting: Painting) -> None:
        """Colour anatomy and heat again; what is being painted already is painted once more, thereafter."""
        self._wanted = painting
        if not self._working and self.node is not None and self._fused is not None:
            self._begin(self._painting())

    def follow(self, anatomy: slicer.vtkMRMLVolumeNode) -> None:
        """Put the fused volume where the anatomy is now."""
        if self.node is not None:
            place_like(self._node, anatomy)

    def hide(self) -> None:
        """Remove the fused volume and give the views back what they showed."""
        self._remove_made()
        for rendering in nodes_of_class(self._scene, _RENDERINGS):
            if recall(rendering) is not None:
                rendering.SetVisibility(True)

    def _begin(self, work: Work) -> None:
        self._working = True
        self._let_go = self._run(self._guarded(work))

    def _guarded(self, work: Work) -> Work:
        try:
            yield from work
        except Exception as error:
            logger.exception("The heat cannot be drawn in 3D.")
            self.hide()
            self._troubled(f"The heat cannot be drawn in 3D ({type(error).__name__}): the log says more.")

    def _building(
        self, anatomy: slicer.vtkMRMLVolumeNode, fused: FusedVolume, values: npt.NDArray, warmth: npt.NDArray
    ) -> Work:
        yield from fused.fill(values, warmth)
        own = _rendering_of(anatomy)
        self._fused, self._own_look = fused, None if own is None else _look_of(own)
        self._node = self._add_fused(anatomy)
        self._properties = self._add_properties(own)
        yield from self._painting()
        is_new = not self._hide_renderings() and self._framed_id != anatomy.GetID()
        self._framed_id = anatomy.GetID()
        self._add_rendering(own)
        if is_new:
            self._appeared()

    def _painting(self) -> Work:
        target, painted = slicer.util.arrayFromVolume(self._node), None
        while painted != self._wanted:
            painted = self._wanted
            self._fused.set_look(self._own_look or _default_look(self._fused, painted.solidity))
            densest = yield from self._fused.paint(target, threshold=painted.threshold, opacity=painted.opacity)
        self._working = False
        # Removed meanwhile by somebody else, it has nobody to tell.
        if self.node is not None:
            _set_opacity(self._properties.GetVolumeProperty(), densest)
            slicer.util.arrayFromVolumeModified(self._node)

    def _remove_made(self) -> None:
        if self._let_go is not None:
            self._let_go()
        self._let_go, self._working = None, False
        for node in self._made:
            if node.GetScene() is self._scene:
                self._scene.RemoveNode(node)
        self._made, self._node, self._fused = [], None, None

    def _hide_renderings(self) -> bool:
        """Another rendering would be painted over this one from every side, whatever lies in front.

        Returns whether there was one.
        """
        visible = [one for one in nodes_of_class(self._scene, _RENDERINGS) if one.GetVisibility()]
        for rendering in visible:
            remember(rendering, {"visible": True})
            rendering.SetVisibility(False)
        return bool(visible)

    def _add_fused(self, anatomy: slicer.vtkMRMLVolumeNode) -> slicer.vtkMRMLVectorVolumeNode:
        node = slicer.vtkMRMLVectorVolumeNode()
        node.SetName(f"{anatomy.GetName()} with heat")
        node.SetAttribute(FACTORS_ATTRIBUTE, " ".join(map(str, self._fused.grid.factors)))
        image = vtk.vtkImageData()
        image.SetDimensions(*self._fused.shape[::-1])
        image.AllocateScalars(vtk.VTK_UNSIGNED_CHAR, 4)
        node.SetAndObserveImageData(image)
        self._node = self._add(node)
        self.follow(anatomy)
        return node

    def _add_properties(self, own: slicer.vtkMRMLVolumeRenderingDisplayNode | None) -> slicer.vtkMRMLVolumePropertyNode:
        node = self._add(slicer.vtkMRMLVolumePropertyNode())
        target = node.GetVolumeProperty()
        if own is not None and self._own_look is not None:
            source = own.GetVolumePropertyNode().GetVolumeProperty()
            target.DeepCopy(source)
            _set_unit(target, source.GetScalarOpacityUnitDistance(0) / self._fused.grid.shrinking)
        else:
            target.SetShade(True)
            target.SetAmbient(0.45)
            target.SetDiffuse(0.7)
            target.SetSpecular(0.1)
            target.SetSpecularPower(8)
            _set_unit(target, float(np.linalg.norm(self._fused.shape)) / _STEPS_ACROSS)
        target.SetIndependentComponents(0)
        target.SetInterpolationTypeToLinear()
        flat = vtk.vtkPiecewiseFunction()
        flat.AddPoint(0, 1)
        flat.AddPoint(255, 1)
        target.SetGradientOpacity(flat)
        return node

    def _add_rendering(self, own: slicer.vtkMRMLVolumeRenderingDisplayNode | None) -> None:
        class_name = own.GetClassName() if own is not None else _rendering_class()
        # The renderer of several volumes at once takes one value a voxel.
        if "MultiVolume" in class_name:
            class_name = _RENDERING_CLASS
        rendering = self._scene.CreateNodeByClass(class_name)
        rendering.UnRegister(None)
        self._add(rendering)
        rendering.SetAndObserveVolumePropertyNodeID(self._properties.GetID())
        if own is not None:
            rendering.SetAndObserveROINodeID(own.GetROINodeID())
            rendering.SetCroppingEnabled(own.GetCroppingEnabled())
            for number in range(own.GetNumberOfViewNodeIDs()):
                rendering.AddViewNodeID(own.GetNthViewNodeID(number))
        rendering.SetVisibility(True)
        self._node.AddAndObserveDisplayNodeID(rendering.GetID())

    def _add(self, node: slicer.vtkMRMLNode) -> slicer.vtkMRMLNode:
        # Made anew from what is saved, and many times its size.
        node.SetSaveWithScene(False)
        node.SetHideFromEditors(True)
        node.SetAttribute(FUSED_ATTRIBUTE, "1")
        node = self._scene.AddNode(node)
        self._made.append(node)
        return node


def _rendering_class() -> str:
    """The way of drawing that the application is set to; without a graphics card that may be the processor's."""
    app = getattr(slicer, "app", None)
    wanted = app.userSettings().value(_METHOD_SETTING) if app is not None else None
    return wanted if wanted == _CPU_RENDERING_CLASS else _RENDERING_CLASS


def _rendering_of(anatomy: slicer.vtkMRMLVolumeNode) -> slicer.vtkMRMLVolumeRenderingDisplayNode | None:
    """The user's own rendering of the anatomy, one that is visible if any is."""
    nodes = [anatomy.GetNthDisplayNode(number) for number in range(anatomy.GetNumberOfDisplayNodes())]
    own = [node for node in nodes if node is not None and node.IsA(_RENDERINGS) and node.GetVolumePropertyNode()]
    # One that the overlay has hidden counts as visible.
    own.sort(key=lambda node: not (node.GetVisibility() or is_remembered(node)))
    return own[0] if own else None


def _look_of(rendering: slicer.vtkMRMLVolumeRenderingDisplayNode) -> AnatomyLook | None:
    """The look of the user's rendering of a scalar volume."""
    volume = rendering.GetVolumeNode()
    if volume is None or volume.IsA("vtkMRMLVectorVolumeNode"):
        return None
    source = rendering.GetVolumePropertyNode().GetVolumeProperty()
    colours, opacities = source.GetRGBTransferFunction(0), source.GetScalarOpacity(0)
    return AnatomyLook(
        lambda values: _table_of(colours, values, 3).reshape(-1, 3), lambda values: _table_of(opacities, values, 1)
    )


def _table_of(function: vtk.vtkObject, values: npt.NDArray[np.float64], width: int) -> npt.NDArray[np.float64]:
    """A transfer function at evenly spaced values."""
    table = np.empty(len(values) * width)
    function.GetTable(values[0], values[-1], len(values), table)
    return table


def _default_look(fused: FusedVolume, solidity: float) -> AnatomyLook:
    """Grey tissue: air is left out, and the brighter the denser."""
    counts, values = fused.counts, fused.values
    air = _between_air_and_tissue(counts, values)
    total = np.cumsum(counts)
    bright = float(values[np.searchsorted(total, 0.995 * total[-1])])
    reach = max(bright - air, 1e-6 * max(abs(bright), 1.0))
    # Even steps of the slider are even steps to the eye: most of its way is translucent.
    densest = solidity**3

    def share(wanted: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        return np.clip((wanted - air) / reach, 0, 1)

    return AnatomyLook(
        lambda wanted: _TISSUE * (0.6 + 0.4 * share(wanted))[:, np.newaxis],
        lambda wanted: densest * np.clip(share(wanted) * (3 + 4 * solidity), 0, 1),
    )


def _between_air_and_tissue(counts: npt.NDArray[np.int64], values: npt.NDArray[np.float64]) -> float:
    """Otsu's threshold: the value that parts the voxels into the two most different groups."""
    below, above = np.cumsum(counts), counts.sum() - np.cumsum(counts)
    sums = np.cumsum(counts * values)
    with np.errstate(divide="ignore", invalid="ignore"):
        between = below * above * (sums / below - (sums[-1] - sums) / above) ** 2
    between[~np.isfinite(between)] = -1
    best = np.flatnonzero(between == between.max())
    return float(values[best[len(best) // 2]])


def _set_opacity(target: vtk.vtkVolumeProperty, densest: float) -> None:
    """What an alpha of `FusedVolume.paint` means."""
    opacity = vtk.vtkPiecewiseFunction()
    for alpha in range(0, 256, 15):
        opacity.AddPoint(alpha, densest * (alpha / 255) ** 2)
    target.SetScalarOpacity(opacity)


def _set_unit(target: vtk.vtkVolumeProperty, unit: float) -> None:
    """Over how many voxels an opacity is meant; VTK asks the last component for it where four are one colour."""
    for component in range(4):
        target.SetScalarOpacityUnitDistance(component, unit)
