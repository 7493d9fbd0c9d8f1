"""The Dataset tab: cases from DICOM series, and whose patient's they are."""

from __future__ import annotations

import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import slicer
from dataset_tab import SECRET, Tab, new, tab  # noqa: F401
from hosting import add_volume, host  # noqa: F401
from worker_desk import spin

# DICOM


class Database:
    """The part of Slicer's DICOM database that is asked: patients by instance."""

    def __init__(self, patients: dict[str, str]) -> None:
        self._patients, self.isOpen = patients, True

    def fileForInstance(self, uid: str) -> str:  # noqa: N802
        return f"/dicom/{uid}.dcm" if uid in self._patients else ""

    def fileValue(self, file: str, tag: str) -> str:  # noqa: N802
        uid = Path(file).stem
        return {"0010,0020": self._patients[uid], "0010,0010": "DOE^JANE"}[tag]

    def seriesForFile(self, file: str) -> str:  # noqa: N802
        return f"series of {Path(file).stem}"


@pytest.fixture
def dicom(new: Tab, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:  # noqa: F811
    """Slicer's DICOM browser with so many chosen series, each of another of the patients."""

    def put(*patients: str, visual: bool = False) -> Any:
        known = {f"1.{number}": patient for number, patient in enumerate(patients)}
        monkeypatch.setattr(slicer, "dicomDatabase", Database(known), raising=False)
        browser = types.SimpleNamespace(fileLists=[[f"/dicom/{uid}.dcm", "/other"] for uid in known])
        if visual:
            view = types.SimpleNamespace(selectedSeriesInstanceUIDs=lambda: tuple(f"series of {uid}" for uid in known))
            browser = types.SimpleNamespace(
                useVisualDICOMBrowser=True, dicomVisualBrowser=types.SimpleNamespace(patientView=lambda: view)
            )
        instance = types.SimpleNamespace(browserWidget=browser)
        monkeypatch.setattr(slicer.modules, "DICOMInstance", instance, raising=False)

        def load(uids: list[str]) -> list[str]:
            (uid,) = uids
            if uid == "series of 1.2":
                return []
            node = add_volume("DOE JANE")
            node.SetAttribute("DICOM.instanceUIDs", uid.removeprefix("series of ") + " 9.9")
            return [node.GetID()]

        utilities = types.SimpleNamespace(loadSeriesByUID=load)
        monkeypatch.setitem(sys.modules, "DICOMLib", types.SimpleNamespace(DICOMUtils=utilities))
        return browser

    return put


def test_without_a_dicom_browser_a_sentence_says_so(new: Tab) -> None:  # noqa: F811
    new.label("no")
    new.ui.datasetAddSeriesButton.click()
    assert "There is no DICOM browser" in new.state


@pytest.mark.parametrize("visual", [False, True])
def test_the_series_chosen_in_the_dicom_browser_become_cases(new: Tab, dicom: Any, visual: bool) -> None:  # noqa: F811
    dicom("PAT1", "PAT2", visual=visual)
    new.label("no")
    new.ui.datasetAddSeriesButton.click()
    spin(lambda: new.ui.datasetNewButton.enabled)
    assert (new.column("case"), new.column("label")) == (["case-001", "case-002"], ["no", "no"])
    assert new.state == "2 cases are stored."
    assert slicer.util.getNodesByClass("vtkMRMLVolumeNode") == []
    assert len({*new.column("patient")}) == 2


def test_a_series_that_cannot_be_loaded_keeps_no_other_from_being_added(new: Tab, dicom: Any) -> None:  # noqa: F811
    dicom("PAT1", "PAT1", "PAT3")
    new.label("yes")
    new.ui.datasetAddSeriesButton.click()
    spin(lambda: new.ui.datasetNewButton.enabled)
    assert new.state.startswith("2 cases are stored.\nA series holds no volume")
    assert len({*new.column("patient")}) == 1


def test_series_need_a_label_too_and_some_that_are_chosen(new: Tab, dicom: Any) -> None:  # noqa: F811
    dicom()
    new.ui.datasetAddSeriesButton.click()
    assert new.state.startswith("Choose a label")
    new.label("no")
    new.ui.datasetAddSeriesButton.click()
    assert new.state.startswith("No series is chosen")


def test_a_dicom_patient_is_in_the_table_as_a_pseudonym_alone(new: Tab, dicom: Any) -> None:  # noqa: F811
    from AnyMC3DLib.training.pseudonym import pseudonym

    dicom("PAT-4711")
    volume = add_volume("DOE JANE")
    volume.SetAttribute("DICOM.instanceUIDs", "1.0 1.1")
    new.add(volume)
    assert new.column("patient") == [pseudonym("PAT-4711", key=SECRET)]
    new.ui.datasetSaveButton.click()
    for file in (path for path in new.folder.rglob("*") if path.is_file()):
        assert not any(word in file.read_bytes() for word in (b"DOE", b"4711"))


def test_a_scene_from_another_computer_tells_the_patient_by_its_hierarchy(new: Tab) -> None:  # noqa: F811
    from AnyMC3DLib.training.pseudonym import pseudonym

    volume = add_volume()
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
    patient = hierarchy.CreateSubjectItem(hierarchy.GetSceneItemID(), "DOE^JANE")
    hierarchy.SetItemAttribute(patient, "DICOM.PatientID", "PAT-1")
    hierarchy.CreateItem(hierarchy.CreateStudyItem(patient, "study"), volume)
    new.add(volume)
    assert new.column("patient") == [pseudonym("PAT-1", key=SECRET)]


# series, and what goes on meanwhile


def begin_series(tab: Tab, cases: int) -> None:  # noqa: F811
    """Begin to add the series, and wait for so many cases."""
    tab.label("yes")
    tab.ui.datasetAddSeriesButton.click()
    spin(lambda: len(tab.dataset) >= cases)


def test_while_series_are_added_their_cases_can_be_edited_and_saved(new: Tab, dicom: Any) -> None:  # noqa: F811
    new.add(add_volume("first"))
    new.select(0)
    dicom("PAT1", "PAT2")
    begin_series(new, 2)
    assert new.column("case") == ["case-001", "case-002"] and new.panel.table.current == new.dataset.keys[0]
    assert new.panel.save() and new.ui.datasetAddSeriesButton.text == "Cancel"
    new.edit(1, "label", "no")
    spin(lambda: new.ui.datasetNewButton.enabled)
    assert new.column("label") == ["yes", "no", "yes"] and new.state == "2 cases are stored."


def test_a_case_of_the_series_that_is_taken_out_meanwhile_stays_out(new: Tab, dicom: Any) -> None:  # noqa: F811
    dicom("PAT1", "PAT2")
    begin_series(new, 1)
    new.select(0)
    new.ui.datasetRemoveButton.click()
    spin(lambda: new.ui.datasetNewButton.enabled)
    assert len(new.rows) == len(new.dataset) == 1 and new.state == "2 cases are stored."


def test_series_that_are_cancelled_keep_what_is_stored_and_leave_nothing_in_the_scene(new: Tab, dicom: Any) -> None:  # noqa: F811
    dicom("PAT1", "PAT2", "PAT3", "PAT4")
    words = new.ui.datasetAddSeriesButton.text
    begin_series(new, 1)
    spin(lambda: slicer.util.getNodesByClass("vtkMRMLVolumeNode"))
    new.ui.datasetAddSeriesButton.click()
    assert new.state == "Cancelled. 1 case is stored." and new.ui.datasetNewButton.enabled
    assert slicer.util.getNodesByClass("vtkMRMLVolumeNode") == [] and len(new.rows) == 1
    assert new.ui.datasetAddSeriesButton.text == words and new.ui.datasetAddSeriesButton.enabled
    new.panel.close()


def hierarchy_of(volume: Any) -> Any:
    """The scene's hierarchy, with the volume below a patient and a study, as DICOM comes."""
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
    patient = hierarchy.CreateSubjectItem(hierarchy.GetSceneItemID(), "DOE^JANE")
    study = hierarchy.CreateStudyItem(patient, "study")
    hierarchy.CreateItem(study, volume)
    return hierarchy


def odd_series(monkeypatch: pytest.MonkeyPatch, *, kept: bool = False) -> None:
    """A series that brings an empty volume, a good one, and a segmentation; `kept` has one below the patient stay."""
    from AnyMC3DUI import dataset_adding

    def load(_uid: str) -> list[Any]:
        empty = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "empty DOE^JANE")
        good = add_volume("good DOE^JANE")
        slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "DOE^JANE")
        hierarchy = hierarchy_of(good)
        if kept:
            study = hierarchy.GetItemParent(hierarchy.GetItemByDataNode(good))
            hierarchy.CreateItem(hierarchy.GetItemParent(study), before)
        return [empty, good]

    before = add_volume("before") if kept else None
    monkeypatch.setattr(dataset_adding, "load_series", load)


def items_named(*names: str) -> list[str]:
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
    return [name for name in names if hierarchy.GetItemByName(name)]


@pytest.mark.parametrize("kept", [False, True])
def test_whatever_a_series_brings_leaves_the_scene_and_one_volume_that_fails_ends_nothing(
    new: Tab,  # noqa: F811
    dicom: Any,
    monkeypatch: pytest.MonkeyPatch,
    kept: bool,
) -> None:
    dicom("PAT1")
    odd_series(monkeypatch, kept=kept)
    begin_series(new, 0)
    spin(lambda: new.ui.datasetNewButton.enabled)
    assert len(new.rows) == 1 and new.state.startswith("1 case is stored.\n")
    assert slicer.util.getNodesByClass("vtkMRMLSegmentationNode") == []
    assert [node.GetName() for node in slicer.util.getNodesByClass("vtkMRMLVolumeNode")] == ["before"] * kept
    assert items_named("DOE^JANE", "study") == ["DOE^JANE"] * kept


# two patients


def of_patient(name: str) -> Any:
    volume = add_volume()
    volume.SetAttribute("DICOM.instanceUIDs", name)
    return volume


@pytest.mark.parametrize(("first", "words", "fills"), [
    ("1.0", "", True),
    ("1.1", "This volume is of another patient than case case-001.", False),
    ("", "", True),
])  # fmt: skip
def test_a_second_image_is_of_the_same_patient_as_the_case(
    tab: Tab,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    first: str,
    words: str,
    fills: bool,
) -> None:
    from AnyMC3DLib.training.pseudonym import pseudonym

    monkeypatch.setattr(slicer, "dicomDatabase", Database({"1.0": "ANNA", "1.1": "BERT"}), raising=False)
    tab.open("case,t1,flair,label\nb,b.nrrd,b2.nrrd,yes\nc,c.nrrd,c2.nrrd,no\n")
    tab.add(of_patient(first))
    tab.select(2)
    tab.ui.datasetSourceSelector.setCurrentText("flair")
    tab.ui.datasetVolumeSelector.setCurrentNode(of_patient("1.0"))
    tab.ui.datasetAddButton.click()
    spin(lambda: tab.ui.datasetNewButton.enabled)
    assert bool(tab.column("flair")[2]) is fills and (not words or tab.state == words)
    assert (tab.column("patient")[2] == pseudonym("ANNA", key=SECRET)) is fills
