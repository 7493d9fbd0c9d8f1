"""Heat over the anatomy in the slice views: the foreground layer, its threshold, and its colour legend."""

from __future__ import annotations

import slicer

from .earlier import nodes_of_class, recall, remember
from .heat_look import HEAT_ATTRIBUTE

LEGEND_ATTRIBUTE = "AnyMC3D.Legend"
_ANATOMY_ROLE = "AnyMC3DShownAnatomy"
_LEGEND_LABELS = 3
_LEGEND_SIZE, _LEGEND_PLACE = (0.09, 0.3), (0.98, 0.92)  # shares of the view
_LEGEND_FONT = 12


class SliceHeat:
    """The heat in all slice views of a scene; what the user had there comes back with `hide`."""

    def __init__(self, scene: slicer.vtkMRMLScene) -> None:
        self._scene = scene
        self._anatomy: slicer.vtkMRMLVolumeNode | None = None
        self._heat: slicer.vtkMRMLScalarVolumeNode | None = None

    def show(
        self,
        anatomy: slicer.vtkMRMLVolumeNode,
        heat: slicer.vtkMRMLScalarVolumeNode,
        *,
        caption: str,
        opacity: float,
        threshold: float,
    ) -> bool:
        """Put the heat over the anatomy; `caption` is the legend's title.

        Returns whether a view showed another image before.
        """
        if self._heat is not None and self._heat is not heat:
            self._remove_legends()
        self._anatomy, self._heat = anatomy, heat
        self.set_threshold(threshold)
        composites = list(nodes_of_class(self._scene, "vtkMRMLSliceCompositeNode"))
        is_exchanged = any(one.GetBackgroundVolumeID() not in (None, anatomy.GetID()) for one in composites)
        for composite in composites:
            self.cover(composite, opacity=opacity)
        self._show_legend(caption)
        return is_exchanged

    def cover(self, composite: slicer.vtkMRMLSliceCompositeNode, *, opacity: float) -> None:
        """Put the heat into one slice view."""
        remember(
            composite,
            {"opacity": composite.GetForegroundOpacity(), "compositing": composite.GetCompositing()},
            nodes={
                "Background": composite.GetBackgroundVolumeID(),
                "Foreground": composite.GetForegroundVolumeID(),
            },
        )
        composite.SetNodeReferenceID(_ANATOMY_ROLE, self._anatomy.GetID())
        changing = composite.StartModify()
        composite.SetBackgroundVolumeID(self._anatomy.GetID())
        composite.SetForegroundVolumeID(self._heat.GetID())
        composite.SetCompositing(composite.Alpha)
        composite.SetForegroundOpacity(opacity)
        composite.EndModify(changing)

    def set_opacity(self, opacity: float) -> None:
        """How much the heat covers, 0 to 1, in the views that show it."""
        for composite in nodes_of_class(self._scene, "vtkMRMLSliceCompositeNode"):
            if composite.GetForegroundVolumeID() == self._heat.GetID():
                composite.SetForegroundOpacity(opacity)

    def set_threshold(self, threshold: float) -> None:
        """Show heat from `threshold` on."""
        self._heat.GetDisplayNode().SetThreshold(threshold, 1.0)

    def leave_others(self) -> bool:
        """Take the heat off views that show another image by now; returns whether a view shows it still."""
        is_seen = False
        for composite in nodes_of_class(self._scene, "vtkMRMLSliceCompositeNode"):
            is_shown = composite.GetForegroundVolumeID() == self._heat.GetID()
            if is_shown and composite.GetBackgroundVolumeID() != self._anatomy.GetID():
                _give_back(composite)
            else:
                is_seen |= is_shown
        return is_seen

    def is_everywhere(self) -> bool:
        """Whether every slice view shows the heat."""
        composites = nodes_of_class(self._scene, "vtkMRMLSliceCompositeNode")
        return self._heat is not None and all(c.GetForegroundVolumeID() == self._heat.GetID() for c in composites)

    def hide(self) -> None:
        """Give the views back what they showed; what the user chose meanwhile stays."""
        for composite in nodes_of_class(self._scene, "vtkMRMLSliceCompositeNode"):
            _give_back(composite)
        self._remove_legends()
        self._anatomy = self._heat = None

    def _show_legend(self, caption: str) -> None:
        for node in nodes_of_class(self._scene, "vtkMRMLColorLegendDisplayNode"):
            owner = node.GetDisplayableNode()
            is_other = owner is not None and owner is not self._heat and owner.IsA("vtkMRMLVolumeNode")
            # Another volume's legend would lie in the same place.
            if is_other and node.GetVisibility():
                remember(node, {"visible": True})
                node.SetVisibility(False)
        legend = slicer.vtkSlicerColorLogic.AddDefaultColorLegendDisplayNode(self._heat)
        changing = legend.StartModify()
        legend.SetAttribute(LEGEND_ATTRIBUTE, "1")
        legend.SetTitleText(caption)
        legend.SetLabelFormat("%.2f")
        legend.SetNumberOfLabels(_LEGEND_LABELS)
        # Small, at the edge: what lies beneath it cannot be read.
        legend.SetSize(*_LEGEND_SIZE)
        legend.SetPosition(*_LEGEND_PLACE)
        legend.GetTitleTextProperty().SetFontSize(_LEGEND_FONT)
        legend.GetLabelTextProperty().SetFontSize(_LEGEND_FONT)
        legend.SetVisibility(True)
        legend.EndModify(changing)

    def _remove_legends(self) -> None:
        for node in nodes_of_class(self._scene, "vtkMRMLColorLegendDisplayNode"):
            if node.GetAttribute(LEGEND_ATTRIBUTE):
                self._scene.RemoveNode(node)
            elif recall(node) is not None:
                node.SetVisibility(True)


def _give_back(composite: slicer.vtkMRMLSliceCompositeNode) -> None:
    kept = recall(composite)
    if kept is None:
        return
    settings, nodes = kept
    changing = composite.StartModify()
    shown = composite.GetScene().GetNodeByID(composite.GetForegroundVolumeID() or "")
    if shown is None or shown.GetAttribute(HEAT_ATTRIBUTE):
        composite.SetForegroundVolumeID(_id_of(nodes.get("Foreground")))
        composite.SetForegroundOpacity(settings["opacity"])
        composite.SetCompositing(settings["compositing"])
    anatomy = composite.GetNodeReference(_ANATOMY_ROLE)
    composite.RemoveNodeReferenceIDs(_ANATOMY_ROLE)
    if "Background" in nodes and composite.GetBackgroundVolumeID() == _id_of(anatomy):
        composite.SetBackgroundVolumeID(_id_of(nodes["Background"]))
    composite.EndModify(changing)


def _id_of(node: slicer.vtkMRMLNode | None) -> str | None:
    return None if node is None else node.GetID()
