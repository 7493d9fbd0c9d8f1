"""The rows of selectors of the Classify panel: a volume for each source, a region where a plugin looks at one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
import qt
import slicer
from slicer.i18n import tr as _

from .volume_choice import ONLY_SOURCE
from .watching import Watch

REGION_TYPES = {"box": ["vtkMRMLMarkupsROINode"], "segment": ["vtkMRMLSegmentationNode"]}


class StudyRows:
    """Selectors in a form layout, made anew when the ticked plugins need others."""

    def __init__(self, layout: qt.QFormLayout, scene: slicer.vtkMRMLScene, *, changed: Callable[[], None]) -> None:
        self._layout, self._scene, self._changed = layout, scene, changed
        self._volumes: dict[str, slicer.qMRMLNodeComboBox] = {}
        self._regions: dict[str, slicer.qMRMLNodeComboBox] = {}
        self._segments: dict[str, qt.QComboBox] = {}
        self._by_hand: set[str] = set()
        self._watch = Watch()
        self._setting = False

    @property
    def sources(self) -> list[str]:
        """The sources that have a row."""
        return list(self._volumes)

    @property
    def images(self) -> dict[str, slicer.vtkMRMLVolumeNode]:
        """The chosen volumes by source."""
        chosen = {source: box.currentNode() for source, box in self._volumes.items()}
        return {source: node for source, node in chosen.items() if node is not None}

    @property
    def chosen(self) -> dict[str, slicer.vtkMRMLVolumeNode]:
        """Those of `images` that a person chose."""
        return {source: node for source, node in self.images.items() if source in self._by_hand}

    @property
    def regions(self) -> dict[str, slicer.vtkMRMLNode]:
        """The chosen ROIs and segmentations by source."""
        chosen = {source: box.currentNode() for source, box in self._regions.items()}
        return {source: node for source, node in chosen.items() if node is not None}

    @property
    def segments(self) -> dict[str, str]:
        """The IDs of the chosen segments by source."""
        chosen = {source: box.itemData(box.currentIndex) for source, box in self._segments.items() if box.count}
        return {source: segment for source, segment in chosen.items() if segment}

    def require(self, sources: Sequence[str], regions: Mapping[str, str]) -> None:
        """Have a row for each of these sources, and for each region by its kind; rows that fit are kept."""
        wanted = tuple(sources or (ONLY_SOURCE,)), dict(regions)
        if wanted == (tuple(self._volumes), {source: self._kind(source) for source in self._regions}):
            return
        before = self.images, self.regions, self.segments
        self._setting = True
        self._clear()
        for source in wanted[0]:
            only = wanted[0] == (ONLY_SOURCE,)
            label = _("Volume:") if only else _("Volume for {source}:").format(source=source)
            self._volumes[source] = self._selector(label, ["vtkMRMLVolumeNode"], _("The image to classify."))
            self._volumes[source].connect(
                "currentNodeChanged(vtkMRMLNode*)", lambda node, s=source: self._image(s, node)
            )
        for source, kind in wanted[1].items():
            self._add_region(source, kind)
        self.show(*before)

    def show(
        self,
        images: Mapping[str, slicer.vtkMRMLVolumeNode],
        regions: Mapping[str, slicer.vtkMRMLNode],
        segments: Mapping[str, str],
    ) -> None:
        """Choose these where there is a row for them, without taking them for a person's choice."""
        self._setting = True
        for boxes, nodes in ((self._volumes, images), (self._regions, regions)):
            for source, box in boxes.items():
                if nodes.get(source) is not None:
                    box.setCurrentNode(nodes[source])
        for source, box in self._segments.items():
            self._fill_segments(source)
            index = box.findData(segments.get(source, ""))
            if index >= 0:
                box.setCurrentIndex(index)
        self._setting = False
        self._watch_segments()

    def keep(self, sources: Iterable[str]) -> None:
        """Take what these sources have for a person's choice, and what all others have for none."""
        self._by_hand = set(sources)

    def hide(self, nodes: Iterable[slicer.vtkMRMLNode]) -> None:
        """Offer none of these volumes."""
        ids = [node.GetID() for node in nodes]
        for box in self._volumes.values():
            if list(box.sortFilterProxyModel().hiddenNodeIDs) != ids:
                box.sortFilterProxyModel().hiddenNodeIDs = ids

    def set_enabled(self, enabled: bool) -> None:
        """Whether another choice can be made."""
        for box in (*self._volumes.values(), *self._regions.values(), *self._segments.values()):
            box.setEnabled(enabled)

    def close(self) -> None:
        """Let go of the scene; what is chosen stays so in the settings."""
        self._setting = True
        self._watch.stop()
        for box in (*self._volumes.values(), *self._regions.values()):
            box.setMRMLScene(None)

    def _kind(self, source: str) -> str:
        return "segment" if source in self._segments else "box"

    def _clear(self) -> None:
        self.close()
        for boxes in (self._volumes, self._regions, self._segments):
            boxes.clear()
        while self._layout.rowCount():
            self._layout.removeRow(0)

    def _selector(self, label: str, types: list[str], tip: str) -> slicer.qMRMLNodeComboBox:
        box = slicer.qMRMLNodeComboBox()
        box.nodeTypes = types
        box.addEnabled = False
        box.removeEnabled = False
        box.renameEnabled = False
        box.noneEnabled = True
        box.noneDisplay = _("Choose a volume") if types == ["vtkMRMLVolumeNode"] else _("Choose a region")
        box.showChildNodeTypes = True
        box.toolTip = tip
        box.setMRMLScene(self._scene)
        if types != ["vtkMRMLVolumeNode"]:
            box.connect("currentNodeChanged(vtkMRMLNode*)", self._chosen)
        self._layout.addRow(label, box)
        return box

    def _add_region(self, source: str, kind: str) -> None:
        label = _("Region in {source}:").format(source=source) if len(self._volumes) > 1 else _("Region:")
        tip = _("The plugin looks at this region only.")
        self._regions[source] = self._selector(label, REGION_TYPES[kind], tip)
        if kind == "box":
            self._regions[source].addEnabled = True
            self._regions[source].connect(
                "nodeAddedByUser(vtkMRMLNode*)", lambda roi, source=source: self._fit_new(roi, source)
            )
        else:
            self._segments[source] = qt.QComboBox()
            self._segments[source].toolTip = tip
            self._segments[source].connect("currentIndexChanged(int)", self._chosen)
            self._layout.addRow(_("Segment:"), self._segments[source])

    def _fit_new(self, roi: slicer.vtkMRMLMarkupsROINode, source: str) -> None:
        """A new box, about the middle of the volume, with handles to drag: one without extent could not be seen."""
        volume = self.images.get(source)
        if volume is None:
            return
        bounds = [0.0] * 6
        volume.GetRASBounds(bounds)
        low, high = np.array(bounds[::2]), np.array(bounds[1::2])
        roi.SetCenterWorld(*((low + high) / 2).tolist())
        roi.SetSizeWorld(*((high - low) / 2).tolist())

    def _fill_segments(self, source: str) -> None:
        box, node = self._segments[source], self._regions[source].currentNode()
        segmentation = node.GetSegmentation() if node is not None else None
        found = [segmentation.GetNthSegmentID(i) for i in range(segmentation.GetNumberOfSegments())] if node else []
        names = [segmentation.GetSegment(segment).GetName() for segment in found]
        rows = range(box.count)
        if (found, names) == ([box.itemData(row) for row in rows], [box.itemText(row) for row in rows]):
            return
        before = box.itemData(box.currentIndex) if box.count else None
        box.clear()
        for segment, name in zip(found, names, strict=True):
            box.addItem(name, segment)
        box.setCurrentIndex(max(0, box.findData(before)) if found else -1)

    def _image(self, source: str, node: object) -> None:
        if self._setting:
            return
        # A volume that was removed, or chosen away, leaves no choice behind.
        (self._by_hand.add if node is not None else self._by_hand.discard)(source)
        self._chosen()

    def _watch_segments(self) -> None:
        """What is segmented while the panel is open can be chosen."""
        self._watch.stop()
        for source in self._segments:
            node = self._regions[source].currentNode()
            if node is not None:
                segmentation = node.GetSegmentation()
                for event in (segmentation.SegmentAdded, segmentation.SegmentRemoved, segmentation.SegmentModified):
                    self._watch.on(segmentation, event, self._segments_changed)

    def _segments_changed(self, _: object) -> None:
        self._chosen()

    def _chosen(self, _choice: object = None) -> None:
        if self._setting:
            return
        self._setting = True
        for source in self._segments:
            self._fill_segments(source)
        self._setting = False
        self._watch_segments()
        self._changed()
