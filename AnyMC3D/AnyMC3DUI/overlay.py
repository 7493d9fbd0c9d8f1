"""A heatmap over the anatomy, in the slice views and the 3D views, on and off without a trace."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import slicer
import vtk

from AnyMC3DLib.errors import InputError

from .earlier import nodes_of_class
from .handover import FRAME_ATTRIBUTE, browser_of, frame_of, place_like
from .heat_look import THRESHOLD
from .overlay_slices import SliceHeat
from .overlay_volume import Painting, VolumeHeat
from .turns import Runner, at_once, nothing
from .watching import Watch

OPACITY = 0.6
SOLIDITY = 0.25


class HeatOverlay:
    """One heatmap at a time over the views of a scene.

    It ends by itself when the scene is closed, the anatomy or the heat is removed, or no slice view shows the anatomy
    any more: heat over another patient's image must not be. While a sequence shows another frame than the one that
    was classified, the heat waits.

    `run` runs what takes long, the drawing in 3D. `appeared` is called after 3D views show an anatomy that they did
    not show before, `exchanged` after slice views do, `ended` when the overlay ends by itself, and `troubled` with a
    sentence when nothing can be drawn in 3D. `close` ends the overlay for good.
    """

    def __init__(self, scene: slicer.vtkMRMLScene, run: Runner = at_once) -> None:
        self._scene = scene
        # Whoever wants to know puts a function here.
        self.appeared: Callable[[], None] = nothing
        self.exchanged: Callable[[], None] = nothing
        self.ended: Callable[[], None] = nothing
        self.troubled: Callable[[str], None] = lambda sentence: None
        self._slices = SliceHeat(scene)
        self._volume = VolumeHeat(
            scene, run, appeared=lambda: self.appeared(), troubled=lambda sentence: self.troubled(sentence)
        )
        self._anatomy: slicer.vtkMRMLVolumeNode | None = None
        self._heat: slicer.vtkMRMLScalarVolumeNode | None = None
        self._caption = ""
        self._opacity, self._threshold, self._solidity = OPACITY, THRESHOLD, SOLIDITY
        self._in_3d = True
        self._drawn = self._changing = False
        self._scene_watch, self._study_watch = Watch(), Watch()
        self._scene_watch.on(scene, scene.StartCloseEvent, self._on_scene_ends)
        self._scene_watch.on(scene, scene.EndImportEvent, self._on_scene_loaded)
        self._scene_watch.on(scene, scene.NodeAddedEvent, self._on_node_added)
        self._scene_watch.on(scene, scene.NodeAboutToBeRemovedEvent, self._on_node_removed)
        # A module that is loaded anew finds the views as the one before left them.
        self._take_off()

    @property
    def visible(self) -> bool:
        """Whether heat is shown, or waits for its frame."""
        return self._heat is not None

    @property
    def heat(self) -> slicer.vtkMRMLScalarVolumeNode | None:
        """The heat that is shown."""
        return self._heat

    @property
    def opacity(self) -> float:
        """How much the heat covers, 0 to 1."""
        return self._opacity

    @opacity.setter
    def opacity(self, value: float) -> None:
        self._opacity = _share(value, "opacity")
        if self._drawn:
            self._slices.set_opacity(self._opacity)
            self._volume.paint(self._painting)

    @property
    def threshold(self) -> float:
        """The heat, 0 to 1, below which nothing is shown."""
        return self._threshold

    @threshold.setter
    def threshold(self, value: float) -> None:
        self._threshold = _share(value, "threshold")
        if self._drawn:
            self._slices.set_threshold(self._threshold)
            self._volume.paint(self._painting)

    @property
    def solidity(self) -> float:
        """How solid the anatomy is in 3D, 0 to 1; where the user has rendered it already, that look is kept."""
        return self._solidity

    @solidity.setter
    def solidity(self, value: float) -> None:
        self._solidity = _share(value, "solidity")
        if self._drawn:
            self._volume.paint(self._painting)

    @property
    def in_3d(self) -> bool:
        """Whether the heat is drawn in the 3D views too."""
        return self._in_3d

    @in_3d.setter
    def in_3d(self, value: bool) -> None:
        if value == self._in_3d:
            return
        self._in_3d = value
        if self._drawn:
            self._show_volume() if value else self._volume.hide()

    def show(self, anatomy: slicer.vtkMRMLVolumeNode, heat: slicer.vtkMRMLScalarVolumeNode, caption: str) -> None:
        """Show `heat` over `anatomy`, in the place of any other; `caption` is the legend's title.

        Raises InputError if one of them is not in the scene.
        """
        for node in (anatomy, heat):
            if node is None or node.GetScene() is not self._scene or node.GetImageData() is None:
                raise InputError("The image or its heatmap is not in the scene any more: classify the study again.")
        self._forget()
        self._anatomy, self._heat, self._caption = anatomy, heat, caption
        self._study_watch.on(anatomy, slicer.vtkMRMLTransformableNode.TransformModifiedEvent, self._on_moved)
        browser = browser_of(anatomy)
        if browser is not None:
            self._study_watch.on(browser, vtk.vtkCommand.ModifiedEvent, self._on_frame)
        for composite in nodes_of_class(self._scene, "vtkMRMLSliceCompositeNode"):
            self._study_watch.on(composite, vtk.vtkCommand.ModifiedEvent, self._on_view)
        self._draw_or_wait()

    def hide(self) -> None:
        """Give the views back as they were; what the user changed meanwhile stays."""
        self._forget()
        self._take_off()

    def close(self) -> None:
        """Hide, and watch the scene no more."""
        self.hide()
        self._scene_watch.stop()

    @property
    def _painting(self) -> Painting:
        return Painting(self._threshold, self._opacity, self._solidity)

    def _draw_or_wait(self) -> None:
        frame = self._heat.GetAttribute(FRAME_ATTRIBUTE)
        if frame is not None and frame != frame_of(self._anatomy):
            self._take_off()
            return
        with self._own_changes():
            is_exchanged = self._slices.show(
                self._anatomy, self._heat,
                caption=self._caption, opacity=self._opacity, threshold=self._threshold,
            )  # fmt: skip
            self._drawn = True
            if self._in_3d:
                self._show_volume()
        if is_exchanged:
            self.exchanged()

    def _show_volume(self) -> None:
        with self._own_changes():
            self._volume.show(self._anatomy, self._heat, self._painting)

    def _take_off(self) -> None:
        self._drawn = False
        with self._own_changes():
            self._slices.hide()
            self._volume.hide()

    def _forget(self) -> None:
        self._study_watch.stop()
        self._anatomy = self._heat = None

    @contextlib.contextmanager
    def _own_changes(self) -> Iterator[None]:
        """What the overlay itself adds and removes is no news to it."""
        before, self._changing = self._changing, True
        try:
            yield
        finally:
            self._changing = before

    def _on_moved(self, _: object) -> None:
        if self._changing:
            return
        with self._own_changes():
            place_like(self._heat, self._anatomy)
            self._volume.follow(self._anatomy)

    def _on_frame(self, _: object) -> None:
        if not self._changing:
            waits = self._heat.GetAttribute(FRAME_ATTRIBUTE) not in (None, frame_of(self._anatomy))
            if waits == self._drawn:
                self._draw_or_wait()

    def _on_view(self, _: object) -> None:
        """The user, or another module, may have put another image under the heat, or another layer in its place."""
        if not self._drawn or self._changing:
            return
        with self._own_changes():
            is_seen = self._slices.leave_others()
        if not is_seen:
            self._end()

    def _on_scene_ends(self, _: object) -> None:
        self._end()

    def _on_scene_loaded(self, _: object) -> None:
        # A scene that was saved while heat was shown has the views so, and the user's own settings beside.
        if not self._drawn or not self._slices.is_everywhere():
            self._end()

    def _on_node_added(self, node: slicer.vtkMRMLNode) -> None:
        if self._drawn and not self._changing and node.IsA("vtkMRMLSliceCompositeNode"):
            self._slices.cover(node, opacity=self._opacity)
            self._study_watch.on(node, vtk.vtkCommand.ModifiedEvent, self._on_view)

    def _on_node_removed(self, node: slicer.vtkMRMLNode | None) -> None:
        if not self._changing and node is not None and node in (self._anatomy, self._heat):
            self._end()

    def _end(self) -> None:
        was_visible = self.visible
        self.hide()
        if was_visible:
            self.ended()


def _share(value: float, name: str) -> float:
    if not 0 <= value <= 1:
        raise InputError(f"The heat's {name} must be from 0 to 1, but is {value:g}.")
    return float(value)
