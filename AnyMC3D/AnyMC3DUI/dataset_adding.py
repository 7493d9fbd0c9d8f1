"""How a volume of the scene, and a segment over it, become a case of a dataset; in steps, see `steps`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import slicer
from slicer.i18n import tr as _

from AnyMC3DLib.errors import AnyMC3DError, InputError

from .case_loader import file_of, remember_file
from .dataset_store import Stored, free_stem, store_image, store_mask, store_region
from .dicom_series import PATIENT, Arrivals, identity_of, is_pseudonym, load_series
from .handover import HandedBox, HandedImage, image_of, region_of
from .steps import InTurns, Steps
from .turns import Work

if TYPE_CHECKING:
    from AnyMC3DLib.training.dataset import Dataset

MASK_USE, REGION_USE = "mask", "region"
SAME_PLACE_MM = 1e-3


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
        self._check_case(order, image, patient)
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
            remember_file(order.volume, written[columns.image].path)
        return key

    def series(
        self, uids: Sequence[str], source: str, labels: Mapping[str, str], *, added: Callable[[int], None]
    ) -> Steps:
        """The steps for the volumes of DICOM series, which leave the scene again.

        `added` is told the key of each case at once; the value of the steps is what went wrong, in sentences.
        """
        faults: list[str] = []
        for uid in uids:
            yield InTurns(_breath())
            arrivals = Arrivals(slicer.mrmlScene)
            try:
                with arrivals:
                    volumes = load_series(uid)
                for volume in volumes:
                    yield from self._one_of_series(Order(volume, source, labels), faults, added)
            except AnyMC3DError as error:
                faults.append(str(error))
            finally:
                # Hundreds of series would not fit into memory, and each of them names its patient.
                arrivals.leave()
        return faults

    def _one_of_series(self, order: Order, faults: list[str], added: Callable[[int], None]) -> Steps:
        """A series of several volumes may hold one that no dataset can hold: the others are added all the same."""
        try:
            key = yield from self.case(order)
        except AnyMC3DError as error:
            faults.append(str(error))
        else:
            added(key)

    def _check_case(self, order: Order, image: HandedImage, patient: str) -> None:
        """Raise InputError where the volume does not belong to the case that it is to go into."""
        if order.key is None:
            return
        if not order.with_image:
            self._check_place(order, image)
            return
        known = self._dataset.cell(order.key, PATIENT)
        # A table from elsewhere has other words for patients, which can be compared with nothing.
        if patient and is_pseudonym(known) and known != patient:
            words = _("This volume is of another patient than case {case}.")
            raise InputError(words.format(case=self._dataset.cell(order.key, "case")))

    def _check_place(self, order: Order, image: HandedImage) -> None:
        """A segment is drawn over the volume as it lies now: it must be where its case's image was stored."""
        from AnyMC3DLib.training.manifest_headers import read_header

        path = self._dataset.image_path(order.key, order.source)
        if path is None:
            return
        stored = read_header(path)
        same = stored.grid == image.array.shape[:3]
        if not same or not np.allclose(stored.ijk_to_ras, image.ijk_to_ras, rtol=0, atol=SAME_PLACE_MM):
            raise InputError(_("The volume was moved or changed since it was stored: add it as a new case."))

    def _put(self, order: Order, name: str, patient: str, cells: Mapping[str, str]) -> int:
        dataset = self._dataset
        if order.key is None:
            known = {PATIENT: patient} if patient else {}
            return dataset.add(**{"case": name, **known, **order.labels, **cells})
        unknown = bool(patient) and not dataset.cell(order.key, PATIENT)
        for column, text in {**cells, **({PATIENT: patient} if unknown else {})}.items():
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
    found = place_of_volume(dataset, volume)
    return found[0] if found is not None else None


def place_of_volume(dataset: Dataset, volume: slicer.vtkMRMLVolumeNode) -> tuple[int, str] | None:
    """As `key_of_volume`, and which of the case's images it is."""
    path = file_of(volume)
    if path is None:
        return None
    images = ((key, source) for key in dataset.keys for source in dataset.sources)
    return next(((key, source) for key, source in images if dataset.image_path(key, source) == path), None)


def _breath() -> Work:
    yield 0.0
