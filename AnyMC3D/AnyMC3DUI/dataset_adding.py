"""How a volume of the scene, and a segment over it, become a case of a dataset; in steps, see `steps`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import slicer
from slicer.i18n import tr as _

from AnyMC3DLib.errors import AnyMC3DError, InputError

from .case_loader import FILE_ATTRIBUTE
from .dataset_store import Stored, free_stem, store_image, store_mask, store_region
from .dicom_series import identity_of, load_series
from .handover import HandedBox, image_of, region_of
from .steps import InTurns, Steps
from .turns import Work

if TYPE_CHECKING:
    from AnyMC3DLib.training.dataset import Dataset

MASK_USE, REGION_USE = "mask", "region"


@dataclasses.dataclass(frozen=True)
class Segment:
    """A segment of a segmentation, and whether it is a mask or a region."""

    node: slicer.vtkMRMLSegmentationNode
    id: str
    use: str


@dataclasses.dataclass(frozen=True)
class Order:
    """What is to be stored: an image of a new case, or of the case `key`, and perhaps a segment.

    `labels` are cells by column, and `with_image` is False where the case has the image already.
    """

    volume: slicer.vtkMRMLVolumeNode
    source: str
    labels: Mapping[str, str]
    segment: Segment | None = None
    key: int | None = None
    with_image: bool = True


class Adding:
    """Stores what is ordered into the folder of a dataset, and adds the rows."""

    def __init__(self, dataset: Dataset, *, secret: bytes, progress: Callable[[float], None]) -> None:
        self._dataset, self._secret, self._progress = dataset, secret, progress

    def case(self, order: Order) -> Steps:
        """The steps for one case, whose key is their value; of what fails, or is cancelled, no file remains."""
        folder = self._dataset.folder
        if folder is None:
            raise InputError(_("The dataset has no folder yet: save it first."))
        # Everything that may be wrong with the scene is found before anything is written.
        image = image_of(order.volume)
        labels = None
        if order.segment is not None:
            labels = region_of(order.segment.node, order.volume, segment=order.segment.id)
            if isinstance(labels, HandedBox):
                raise InputError(_("A box is no segment: choose a segmentation."))
        patient = self._patient(order.volume)
        name = self._dataset.cell(order.key, "case") if order.key is not None else self._new_name(folder)
        stem = free_stem(folder, name if len(self._dataset.sources) == 1 else f"{name}-{order.source}")
        columns = columns_of(self._dataset, order.source)
        written: dict[str, Stored] = {}
        try:
            if order.with_image:
                written[columns.image] = yield from store_image(folder, stem, image, progress=self._progress)
            if labels is not None and order.segment.use == MASK_USE:
                written[columns.mask] = yield from store_mask(folder, stem, labels, image, progress=self._progress)
            elif labels is not None:
                written[columns.region] = yield from store_region(folder, stem, labels, progress=self._progress)
            cells = {column: stored.words for column, stored in written.items()}
            key = self._put(order, name, patient, cells)
        except BaseException:
            for stored in written.values():
                stored.path.unlink(missing_ok=True)
            raise
        if columns.image in written and order.volume.GetScene() is not None:
            order.volume.SetAttribute(FILE_ATTRIBUTE, str(written[columns.image].path))
        return key

    def series(self, uids: Sequence[str], source: str, labels: Mapping[str, str]) -> Steps:
        """The steps for the volumes of DICOM series, which leave the scene again.

        Their value are the keys of the cases, and what went wrong in sentences.
        """
        keys, faults = [], []
        for uid in uids:
            yield InTurns(_breath())
            try:
                for volume in load_series(uid):
                    try:
                        keys.append((yield from self.case(Order(volume, source, labels))))
                    finally:
                        # Hundreds of series would not fit into memory, and each of them names its patient.
                        slicer.mrmlScene.RemoveNode(volume)
            except AnyMC3DError as error:
                faults.append(str(error))
        return keys, faults

    def _put(self, order: Order, name: str, patient: str, cells: Mapping[str, str]) -> int:
        dataset = self._dataset
        if order.key is None:
            known = {"patient": patient} if patient else {}
            return dataset.add(**{"case": name, **known, **order.labels, **cells})
        for column, text in cells.items():
            dataset.set_cell(order.key, column, text)
        return order.key

    def _patient(self, volume: slicer.vtkMRMLVolumeNode) -> str:
        from AnyMC3DLib.training.pseudonym import pseudonym

        identity = identity_of(volume)
        return pseudonym(identity, key=self._secret) if identity else ""

    def _new_name(self, folder: Path) -> str:
        known = {self._dataset.cell(key, "case").casefold() for key in self._dataset.keys}
        number = 1
        # A row that was taken out leaves its files, which no other case may be taken for.
        while (name := f"case-{number:03d}") in known or free_stem(folder, name) != name:
            number += 1
        return name


@dataclasses.dataclass(frozen=True)
class SourceColumns:
    """The columns of an image, its mask and its region."""

    image: str
    mask: str
    region: str


def columns_of(dataset: Dataset, source: str) -> SourceColumns:
    """The columns of a dataset that belong to one of its sources."""
    image = source if source in dataset.columns else "image"
    mask = f"mask:{source}" if f"mask:{source}" in dataset.columns else "mask"
    return SourceColumns(image, mask, f"{image}_region")


def key_of_volume(dataset: Dataset, volume: slicer.vtkMRMLVolumeNode) -> int | None:
    """The case that a volume of the scene was stored as, or loaded from; None if it is of no case of the table."""
    file = volume.GetAttribute(FILE_ATTRIBUTE)
    if not file:
        return None
    path = Path(file)
    images = ((key, source) for key in dataset.keys for source in dataset.sources)
    return next((key for key, source in images if dataset.image_path(key, source) == path), None)


def _breath() -> Work:
    yield 0.0
