"""The Dataset tab: cases from the scene and from DICOM, and cases loaded again."""

from __future__ import annotations

import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import slicer
from dataset_tab import FIVE, SECRET, Tab, new, tab  # noqa: F401
from hosting import add_volume, host  # noqa: F401
from worker_desk import spin

# adding


def test_a_volume_becomes_a_case_with_the_chosen_label(new: Tab) -> None:  # noqa: F811
    new.add(add_volume("CT of DOE"))
    assert new.rows[0][:1] == ["case-001"]
    assert (new.column("image"), new.column("label")) == (["images/case-001.nrrd"], ["yes"])
    assert new.column("patient") == [""]
    assert "case-001 is stored" in new.state and "not saved" in new.ui.datasetPathLabel.text
    assert new.ui.datasetLabelSelector.currentIndex == 0


def test_a_volume_without_a_label_is_refused_in_a_sentence(new: Tab) -> None:  # noqa: F811
    new.ui.datasetVolumeSelector.setCurrentNode(add_volume())
    new.ui.datasetAddButton.click()
    assert new.state.startswith("Choose a label first") and len(new.dataset) == 0


@pytest.mark.parametrize("agrees", [False, True])
def test_the_same_volume_is_added_twice_only_if_a_person_says_so(new: Tab, agrees: bool) -> None:  # noqa: F811
    volume = add_volume()
    new.add(volume)
    new.ask.agrees = agrees
    new.add(volume)
    assert new.ask.asked[-1] == "This volume is case-001 already. Add it once more?"
    assert len(new.dataset) == 1 + agrees


def test_a_volume_whose_case_was_taken_out_is_added_without_a_question(new: Tab) -> None:  # noqa: F811
    volume = add_volume()
    new.add(volume)
    new.select(0)
    new.ui.datasetRemoveButton.click()
    asked = len(new.ask.asked)
    new.add(volume)
    assert len(new.ask.asked) == asked and new.column("case") == ["case-002"]


def segmentation(volume: Any, *names: str) -> Any:
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode")
    node.SetReferenceImageGeometryParameterFromVolumeNode(volume)
    labels = np.zeros((6, 8, 10), dtype=np.uint8)
    labels[1:3, 2:5, 3:7] = 1
    for name in names:
        node.GetSegmentation().AddEmptySegment(name, name)
        slicer.util.updateSegmentBinaryLabelmapFromArray(labels, node, name, volume)
    return node


@pytest.mark.parametrize(("use", "column", "words"), [
    ("as mask", "mask", "masks/case-001.nrrd"),
    ("as region", "image_region", "regions/case-001.nrrd:1"),
])  # fmt: skip
def test_the_chosen_segment_is_stored_as_mask_or_region(new: Tab, use: str, column: str, words: str) -> None:  # noqa: F811
    volume = add_volume()
    node = segmentation(volume, "Spleen", "Liver")
    new.ui.datasetSegmentationSelector.setCurrentNode(node)
    texts = [new.ui.datasetSegmentSelector.itemText(row) for row in range(new.ui.datasetSegmentSelector.count)]
    assert texts == ["Spleen", "Liver"]
    new.ui.datasetSegmentSelector.setCurrentText("Liver")
    new.ui.datasetSegmentUseSelector.setCurrentText(use)
    new.add(volume)
    assert new.column(column) == [words] and (new.folder / words.removesuffix(":1")).is_file()


def test_a_segment_that_is_drawn_later_can_be_chosen(new: Tab) -> None:  # noqa: F811
    volume = add_volume()
    node = segmentation(volume, "One")
    new.ui.datasetSegmentationSelector.setCurrentNode(node)
    node.GetSegmentation().AddEmptySegment("Two", "Two")
    assert new.ui.datasetSegmentSelector.findText("Two") == 1
    new.ui.datasetSegmentationSelector.setCurrentNode(None)
    assert not new.ui.datasetSegmentSelector.enabled


def test_a_segment_goes_into_the_case_that_the_volume_is_already(new: Tab) -> None:  # noqa: F811
    volume = add_volume()
    new.add(volume)
    new.ui.datasetSegmentationSelector.setCurrentNode(segmentation(volume, "Cyst"))
    new.ui.datasetAddButton.click()
    spin(lambda: new.ui.datasetNewButton.enabled)
    assert new.ask.asked[-1] == "This volume is case-001 already. Put the segment into that case?"
    assert new.column("mask") == ["masks/case-001-2.nrrd"] and len(new.dataset) == 1


def test_while_a_case_is_stored_no_other_dataset_can_be_opened(new: Tab) -> None:  # noqa: F811
    new.ui.datasetVolumeSelector.setCurrentNode(add_volume())
    new.label("no")
    new.ui.datasetAddButton.click()
    assert not (new.ui.datasetNewButton.enabled or new.ui.datasetOpenButton.enabled or new.ui.datasetAddButton.enabled)
    new.panel.close()
    assert new.ui.datasetNewButton.enabled and len(new.dataset) == 0


def test_a_second_image_is_added_to_the_chosen_case_that_lacks_it(tab: Tab) -> None:  # noqa: F811
    tab.open("case,t1,flair,label\na,a.nrrd,,no\nb,b.nrrd,b2.nrrd,yes\n")
    assert [tab.ui.datasetSourceSelector.itemText(row) for row in range(2)] == ["t1", "flair"]
    tab.ui.datasetSourceSelector.setCurrentText("flair")
    tab.select(0)
    tab.ui.datasetVolumeSelector.setCurrentNode(add_volume())
    assert tab.ui.datasetAddButton.text == "Add this volume to a"
    tab.ui.datasetAddButton.click()
    spin(lambda: tab.ui.datasetNewButton.enabled)
    assert tab.column("flair") == ["images/a-flair.nrrd", "b2.nrrd"]
    tab.select(1)
    assert tab.ui.datasetAddButton.text == "Add this volume as case"


def test_a_case_of_a_multilabel_table_has_the_chosen_finding_alone(tab: Tab) -> None:  # noqa: F811
    tab.open("case,image,cyst,mass\na,a.nrrd,0,1\nb,b.nrrd,1,0\n")
    tab.add(add_volume(), "mass")
    tab.add(add_volume("other"), "none of the findings")
    assert (tab.column("cyst")[2:], tab.column("mass")[2:]) == (["0", "0"], ["1", "0"])


# loading


def test_load_brings_the_images_and_masks_of_the_chosen_cases_into_the_scene(new: Tab) -> None:  # noqa: F811
    for number in range(2):
        volume = add_volume(f"CT {number}")
        new.ui.datasetSegmentationSelector.setCurrentNode(segmentation(volume, "Cyst") if number else None)
        new.add(volume)
    slicer.mrmlScene.Clear(0)
    new.select(0, 1)
    new.ui.datasetLoadButton.click()
    kinds = ("vtkMRMLScalarVolumeNode", "vtkMRMLSegmentationNode")
    names = [node.GetName() for kind in kinds for node in slicer.util.getNodesByClass(kind)]
    assert names == ["case-001", "case-002", "case-002 mask"]
    again = new.panel.load_case(new.dataset.keys[1])
    assert [node.GetName() for node in again] == ["case-002", "case-002 mask"]
    assert len(slicer.util.getNodesByClass("vtkMRMLVolumeNode")) == 2


def test_a_case_whose_file_is_missing_is_told_in_a_sentence(tab: Tab) -> None:  # noqa: F811
    tab.open(FIVE)
    assert tab.panel.load_case(tab.dataset.keys[0]) == []
    assert "There is no file" in tab.state and "two.nrrd" in tab.state


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
