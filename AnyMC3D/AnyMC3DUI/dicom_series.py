"""The series chosen in Slicer's DICOM browser, whose patient's a volume is, and pseudonyms in the place of names."""

from __future__ import annotations

import contextlib
import re
from types import TracebackType
from typing import TYPE_CHECKING, Any

import slicer
from slicer.i18n import tr as _

from AnyMC3DLib.errors import InputError

if TYPE_CHECKING:
    from AnyMC3DLib.training.dataset import Dataset

PATIENT = "patient"  # the column of a table
PSEUDONYM = re.compile(r"patient-[0-9a-f]+")
PATIENT_ID, PATIENT_NAME = "0010,0020", "0010,0010"
INSTANCES_ATTRIBUTE = "DICOM.instanceUIDs"


def chosen_series() -> list[str]:
    """The UIDs of the series that are chosen in the DICOM browser; raises InputError where there are none."""
    browser = getattr(getattr(slicer.modules, "DICOMInstance", None), "browserWidget", None)
    if browser is None or database() is None:
        raise InputError(_("There is no DICOM browser yet: open the module DICOM, and choose series there."))
    found = _visually_chosen(browser) if getattr(browser, "useVisualDICOMBrowser", False) else _listed(browser)
    if not found:
        raise InputError(_("No series is chosen: choose some in the DICOM browser."))
    return found


def load_series(uid: str) -> list[slicer.vtkMRMLVolumeNode]:
    """Load a series as the DICOM browser would; its volumes. Raises InputError where it holds none."""
    # Slicer's own package, which the stand-in of the tests lacks.
    from DICOMLib import DICOMUtils

    try:
        nodes = [slicer.mrmlScene.GetNodeByID(node) for node in DICOMUtils.loadSeriesByUID([uid])]
    except (OSError, ValueError, RuntimeError) as error:
        raise InputError(_("A series cannot be loaded: look at it in the DICOM browser.")) from error
    volumes = [node for node in nodes if node is not None and node.IsA("vtkMRMLVolumeNode")]
    if not volumes:
        raise InputError(_("A series holds no volume: choose series of images."))
    return volumes


class Arrivals:
    """The nodes that come into the scene while this is entered; `leave` takes them out again.

    Whatever a series brings names its patient: its volumes, what else was loaded, and the patient and study above them.
    """

    def __init__(self, scene: slicer.vtkMRMLScene) -> None:
        self._scene, self._before, self._nodes = scene, set(), []

    def __enter__(self) -> None:
        self._before = {node.GetID() for node in self._all()}

    def __exit__(self, _kind: type | None, _error: BaseException | None, _trace: TracebackType | None) -> None:
        self._nodes = [node for node in self._all() if node.GetID() not in self._before and _may_go(node)]

    def leave(self) -> None:
        """Take the nodes out of the scene, and of its hierarchy the places that are empty without them."""
        hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(self._scene)
        nodes = [node for node in self._nodes if node.GetScene() is not None]
        items = [hierarchy.GetItemByDataNode(node) for node in nodes] if hierarchy is not None else []
        parents = [hierarchy.GetItemParent(item) for item in items if item]
        for node in nodes:
            self._scene.RemoveNode(node)
            # The application has done so already where it has a window.
            if hierarchy is not None and (item := hierarchy.GetItemByDataNode(node)):
                hierarchy.RemoveItem(item, False, False)
        for parent in dict.fromkeys(parents):
            _remove_empty(hierarchy, parent)

    def _all(self) -> list[slicer.vtkMRMLNode]:
        return [self._scene.GetNthNode(number) for number in range(self._scene.GetNumberOfNodes())]


def _may_go(node: slicer.vtkMRMLNode) -> bool:
    """Not what the application makes once for all, with the first series perhaps."""
    return not node.GetSingletonTag() and not node.IsA("vtkMRMLSubjectHierarchyNode")


def _remove_empty(hierarchy: slicer.vtkMRMLSubjectHierarchyNode, item: int) -> None:
    """Remove an item that holds nothing, and those above it that hold nothing then."""
    while item and item != hierarchy.GetSceneItemID():
        if hierarchy.GetNumberOfItemChildren(item) or hierarchy.GetItemDataNode(item) is not None:
            return
        above = hierarchy.GetItemParent(item)
        hierarchy.RemoveItem(item)
        item = above


def is_pseudonym(text: str) -> bool:
    """Whether a text tells nobody who the patient is."""
    return PSEUDONYM.fullmatch(text) is not None


def hidden(text: str, *, secret: bytes) -> str:
    """The pseudonym in the place of a patient's name; an empty text, and a pseudonym, stay."""
    from AnyMC3DLib.training.pseudonym import pseudonym

    plain = text.strip()
    return plain if not plain or is_pseudonym(plain) else pseudonym(plain, key=secret)


def named_patients(dataset: Dataset) -> list[str]:
    """What stands for patients in a table, and is no pseudonym."""
    texts = [dataset.cell(key, PATIENT) for key in dataset.keys] if PATIENT in dataset.columns else []
    return [text for text in dict.fromkeys(texts) if text and not is_pseudonym(text)]


def hide_patients(dataset: Dataset, *, secret: bytes) -> None:
    """Put pseudonyms into the place of all names of patients; a text of carets alone names nobody, and stays."""
    for key in dataset.keys:
        with contextlib.suppress(InputError):
            dataset.set_cell(key, PATIENT, hidden(dataset.cell(key, PATIENT), secret=secret))


def identity_of(volume: slicer.vtkMRMLVolumeNode) -> str:
    """The DICOM patient's ID of a volume, the name where there is none, and "" for what is not from DICOM."""
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(volume.GetScene())
    item = hierarchy.GetItemByDataNode(volume) if hierarchy is not None else 0
    uids = (volume.GetAttribute(INSTANCES_ATTRIBUTE) or "").split()
    if item and not uids:
        uids = hierarchy.GetItemUID(item, slicer.vtkMRMLSubjectHierarchyConstants.GetDICOMInstanceUIDName()).split()
    return _of_instance(uids[0]) if uids and _of_instance(uids[0]) else _of_hierarchy(hierarchy, item)


def _visually_chosen(browser: Any) -> list[str]:
    return list(browser.dicomVisualBrowser.patientView().selectedSeriesInstanceUIDs())


def _listed(browser: Any) -> list[str]:
    """Of the browser with tables: the files by series, as every version of Slicer keeps them."""
    found = (database().seriesForFile(files[0]) for files in browser.fileLists if files)
    return [uid for uid in dict.fromkeys(found) if uid]


def database() -> Any:
    """The application's database of DICOM files, None where there is none."""
    return getattr(slicer, "dicomDatabase", None)


def _of_instance(uid: str) -> str:
    known = database()
    if known is None:
        return ""
    with contextlib.suppress(OSError, RuntimeError):
        file = known.fileForInstance(uid)
        if file:
            return known.fileValue(file, PATIENT_ID).strip() or known.fileValue(file, PATIENT_NAME).strip()
    return ""


def _of_hierarchy(hierarchy: slicer.vtkMRMLSubjectHierarchyNode | None, item: int) -> str:
    """As a scene keeps it whose files are on another computer."""
    names = slicer.vtkMRMLSubjectHierarchyConstants
    patient = hierarchy.GetItemAncestorAtLevel(item, names.GetDICOMLevelPatient()) if item else 0
    return hierarchy.GetItemAttribute(patient, names.GetDICOMPatientIDAttributeName()).strip() if patient else ""
