"""The series chosen in Slicer's DICOM browser, and whose patient's a volume is."""

from __future__ import annotations

import contextlib
from typing import Any

import slicer
from slicer.i18n import tr as _

from AnyMC3DLib.errors import InputError

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
