"""The section of the Dataset tab that adds a case: volume, image, label, segment, and the DICOM series."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import qt
import slicer
from slicer.i18n import tr as _

from AnyMC3DLib.errors import AnyMC3DError, InputError

from .dataset_adding import MASK_USE, REGION_USE, Adding, Order, Segment, columns_of, place_of_volume
from .dataset_room import Room
from .dicom_series import chosen_series
from .steps import Sequence, Steps
from .watching import Watch

WHAT = "Adding the case"


class AddForm:
    """Connects the section's widgets to the dataset that is open."""

    def __init__(self, ui: Any, room: Room, *, secret: bytes) -> None:
        self._ui, self._room, self._secret = ui, room, secret
        self._labels: list[Mapping[str, str] | None] = [None]
        self._run: Sequence | None = None
        self._stored: int | None = None  # cases of the series so far, while series are added
        self._series_words = ui.datasetAddSeriesButton.text
        self._watch = Watch()
        for value, text in ((MASK_USE, _("as mask")), (REGION_USE, _("as region"))):
            ui.datasetSegmentUseSelector.addItem(text, value)
        ui.datasetSegmentationSelector.connect("currentNodeChanged(vtkMRMLNode*)", self._segmentation_chosen)
        ui.datasetVolumeSelector.connect("currentNodeChanged(vtkMRMLNode*)", self.update)
        ui.datasetSourceSelector.connect("currentIndexChanged(int)", self.update)
        ui.datasetAddButton.connect("clicked()", self.add)
        ui.datasetAddSeriesButton.connect("clicked()", self.add_series_or_cancel)
        self._segmentation_chosen(None)

    # what is shown

    def show(self) -> None:
        """Offer the images and labels of the dataset that is open."""
        dataset = self._room.dataset
        _refill(self._ui.datasetSourceSelector, dataset.sources if dataset is not None else ())
        several = dataset is not None and len(dataset.sources) > 1
        for widget in (self._ui.datasetSourceSelector, self._ui.datasetSourceLabel):
            widget.setVisible(several)
        self._labels, texts = [None], [_("Choose a label")]
        if dataset is not None and dataset.task_type == "multilabel":
            for name in ("", *dataset.classes):
                self._labels.append({column: str(int(column == name)) for column in dataset.classes})
                texts.append(name or _("none of the findings"))
        elif dataset is not None:
            self._labels += [{dataset.label_columns[0]: name} for name in dataset.classes]
            texts += dataset.classes
        _refill(self._ui.datasetLabelSelector, texts)
        self.update()

    def update(self, _choice: object = None) -> None:
        """The buttons say what they would do, and can be clicked where that can be."""
        dataset, free = self._room.dataset, self._run is None
        key = self._case_to_complete()
        name = dataset.cell(key, "case") if key is not None else ""
        words = _("Add this volume to {case}").format(case=name) if name else _("Add this volume as case")
        self._ui.datasetAddButton.text = words
        volume = self._ui.datasetVolumeSelector.currentNode()
        self._ui.datasetAddButton.setEnabled(dataset is not None and free and volume is not None)
        series = self._stored is not None
        self._ui.datasetAddSeriesButton.text = _("Cancel") if series else self._series_words
        self._ui.datasetAddSeriesButton.setEnabled(dataset is not None and (free or series))

    @property
    def runs(self) -> bool:
        """Whether something is being stored."""
        return self._run is not None

    def close(self) -> None:
        """End what goes on; a file that is half written goes too."""
        self._watch.stop()
        self._cancel()

    # what a person does

    def add(self) -> None:
        """Begin to store what is chosen, or say in one sentence why not."""
        try:
            order = self._order()
            if order is not None:
                self._begin(self._adding().case(order), self._added)
        except AnyMC3DError as error:
            self._room.tell(str(error))

    def add_series_or_cancel(self) -> None:
        """Begin to store the series that are chosen in the DICOM browser; while that goes on, end it."""
        if self._stored is not None:
            stored = self._stored
            self._cancel()
            self.update()
            self._room.tell(_("Cancelled. {stored}").format(stored=_count(stored)))
            return
        try:
            labels, source, uids = self._chosen_labels(), self._source(), chosen_series()
            steps = self._adding().series(uids, source, labels, added=self._one_of_series_added)
            self._stored = 0
            self._begin(steps, self._series_added)
        except AnyMC3DError as error:
            self._room.tell(str(error))

    def _adding(self) -> Adding:
        return Adding(self._room.dataset, secret=self._secret, progress=self._room.progress)

    def _order(self) -> Order | None:
        """What to do with the volume; None where a person would rather not."""
        volume, source, segment = self._ui.datasetVolumeSelector.currentNode(), self._source(), self._segment()
        if volume is None:
            raise InputError(_("Choose a volume first."))
        # A segment belongs to the image that the volume is, whichever is chosen.
        key, image = place_of_volume(self._room.dataset, volume) or (None, source)
        name = self._room.dataset.cell(key, "case") if key is not None else ""
        if key is not None and segment is not None:
            question = _("This volume is {case} already. Put the segment into that case?")
            order = Order(volume, image, {}, segment, key, with_image=False)
            return order if self._room.ask.yes(question.format(case=name)) else None
        if key is not None:
            question = _("This volume is {case} already. Add it once more?")
            if not self._room.ask.yes(question.format(case=name)):
                return None
        key = self._case_to_complete()
        return Order(volume, source, self._chosen_labels() if key is None else {}, segment, key)

    def _begin(self, steps: Steps, done: Any) -> None:
        self._run = Sequence(steps, done=done, failed=self._failed, what=WHAT)
        self._room.busy(True)
        self._room.tell(_("Storing…"))
        self.update()
        self._run.begin()

    def _cancel(self) -> None:
        if self._run is not None:
            self._run.cancel()
            self._end()

    def _end(self) -> None:
        self._run = self._stored = None
        self._room.progress(None)
        self._room.busy(False)

    def _added(self, key: int) -> None:
        self._end()
        dataset = self._room.dataset
        self._room.table.show_case(key)
        self._room.modified()
        self.update()
        # The next volume may have another answer.
        self._ui.datasetLabelSelector.setCurrentIndex(0)
        self._room.tell(_("{case} is stored; save the table to keep its row.").format(case=dataset.cell(key, "case")))

    def _one_of_series_added(self, key: int) -> None:
        """At once, for a person may save, split or edit meanwhile."""
        self._stored += 1
        self._room.table.add(key)
        self._room.modified()

    def _series_added(self, faults: list[str]) -> None:
        stored = self._stored or 0
        self._end()
        self.update()
        self._room.tell("\n".join([_count(stored), *dict.fromkeys(faults)]))

    def _failed(self, error: AnyMC3DError) -> None:
        self._end()
        self.update()
        self._room.tell(str(error))

    # what is chosen

    def _source(self) -> str:
        dataset = self._room.dataset
        if dataset is None:
            raise InputError(_("No dataset is open: begin one, or open one."))
        box = self._ui.datasetSourceSelector
        return dataset.sources[max(0, box.currentIndex)]

    def _chosen_labels(self) -> Mapping[str, str]:
        labels = self._labels[max(0, self._ui.datasetLabelSelector.currentIndex)]
        if labels is None:
            raise InputError(_("Choose a label first: a case without an answer teaches nothing."))
        return labels

    def _case_to_complete(self) -> int | None:
        """The one chosen case that lacks this very image, where a case has several."""
        dataset = self._room.dataset
        if dataset is None or len(dataset.sources) < 2 or len(self._room.table.selected) != 1:
            return None
        (key,) = self._room.table.selected
        return key if not dataset.cell(key, columns_of(dataset, self._source()).image) else None

    def _segment(self) -> Segment | None:
        node, box = self._ui.datasetSegmentationSelector.currentNode(), self._ui.datasetSegmentSelector
        if node is None:
            return None
        if not box.count:
            raise InputError(_("The segmentation has no segment: draw one, or choose no segmentation."))
        use = self._ui.datasetSegmentUseSelector
        return Segment(node, box.itemData(box.currentIndex), use.itemData(use.currentIndex))

    def _segmentation_chosen(self, _node: object) -> None:
        self._watch.stop()
        node = self._ui.datasetSegmentationSelector.currentNode()
        if node is not None:
            found = node.GetSegmentation()
            for event in (found.SegmentAdded, found.SegmentRemoved, found.SegmentModified):
                self._watch.on(found, event, self._segments_changed)
        self._segments_changed(None)

    def _segments_changed(self, _: object) -> None:
        node, box = self._ui.datasetSegmentationSelector.currentNode(), self._ui.datasetSegmentSelector
        before = box.itemData(box.currentIndex) if box.count else None
        box.clear()
        found = segments_of(node) if node is not None else {}
        for segment, name in found.items():
            box.addItem(name, segment)
        box.setCurrentIndex(max(0, box.findData(before)) if found else -1)
        for widget in (box, self._ui.datasetSegmentUseSelector):
            widget.setEnabled(bool(found))


def _count(stored: int) -> str:
    return _("1 case is stored.") if stored == 1 else _("{count} cases are stored.").format(count=stored)


def segments_of(node: slicer.vtkMRMLSegmentationNode) -> dict[str, str]:
    """The names of a segmentation's segments by their IDs."""
    segmentation = node.GetSegmentation()
    ids = [segmentation.GetNthSegmentID(number) for number in range(segmentation.GetNumberOfSegments())]
    return {segment: segmentation.GetSegment(segment).GetName() for segment in ids}


def _refill(box: qt.QComboBox, texts: Any) -> None:
    """Offer these texts; what was chosen stays chosen if it is among them."""
    before = box.currentText
    box.blockSignals(True)
    box.clear()
    box.addItems(list(texts))
    box.setCurrentIndex(max(0, box.findText(before)) if box.count else -1)
    box.blockSignals(False)
