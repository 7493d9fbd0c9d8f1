"""The Dataset tab: cases from the scene, and cases loaded again."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import slicer
from dataset_tab import FIVE, Tab, new, tab  # noqa: F401
from hosting import add_volume, host  # noqa: F401
from worker_desk import spin

from AnyMC3DLib.errors import InputError

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


@pytest.mark.parametrize("change", ["moved", "cropped"])
def test_a_segment_over_a_volume_that_was_moved_or_changed_since_is_refused(new: Tab, change: str) -> None:  # noqa: F811
    volume = add_volume()
    new.add(volume)
    if change == "moved":
        volume.SetOrigin(0.1, 0.0, 0.0)
    else:
        slicer.util.updateVolumeFromArray(volume, slicer.util.arrayFromVolume(volume)[:5].copy())
    new.ui.datasetSegmentationSelector.setCurrentNode(segmentation(add_volume("drawn over"), "Cyst"))
    new.ui.datasetVolumeSelector.setCurrentNode(volume)
    new.ui.datasetAddButton.click()
    spin(lambda: new.ui.datasetNewButton.enabled)
    assert new.state == "The volume was moved or changed since it was stored: add it as a new case."
    assert new.column("mask") == [""] and not list(new.folder.glob("masks/*"))


def test_a_segment_goes_to_the_image_that_its_volume_is_whichever_is_chosen(tab: Tab) -> None:  # noqa: F811
    tab.open("case,t1,flair,label,mask:t1,mask:flair\na,,,no,,\nb,b.nrrd,b2.nrrd,yes,,\n")
    tab.select(0)
    volume = add_volume()
    tab.ui.datasetVolumeSelector.setCurrentNode(volume)
    tab.ui.datasetAddButton.click()
    spin(lambda: tab.ui.datasetNewButton.enabled)
    tab.ui.datasetSourceSelector.setCurrentText("flair")
    tab.ui.datasetSegmentationSelector.setCurrentNode(segmentation(volume, "Cyst"))
    tab.ui.datasetAddButton.click()
    spin(lambda: tab.ui.datasetNewButton.enabled)
    assert (bool(tab.column("mask:t1")[0]), tab.column("mask:flair")[0]) == (True, ""), tab.state


def test_whether_the_dataset_may_be_left_is_a_question_while_a_case_is_stored(new: Tab) -> None:  # noqa: F811
    new.ui.datasetVolumeSelector.setCurrentNode(add_volume())
    new.label("no")
    new.ui.datasetAddButton.click()
    new.ask.agrees = False
    assert not new.panel.may_leave()
    assert new.ask.asked[-1] == "Cases are still being stored. Leave it without them?"


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
    tab.select(1)
    tab.ui.datasetLoadButton.click()
    assert "There is no file" in tab.state and "two.nrrd" in tab.state


def test_whoever_asks_for_a_case_that_cannot_be_loaded_gets_the_error(tab: Tab) -> None:  # noqa: F811
    with pytest.raises(InputError, match="No dataset is open"):
        tab.panel.load_case(0)
    tab.open(FIVE)
    with pytest.raises(InputError, match="There is no file"):
        tab.panel.load_case(tab.dataset.keys[0])
    assert tab.state == ""


def test_a_clone_of_a_stored_volume_is_another_volume(new: Tab) -> None:  # noqa: F811
    volume = add_volume()
    new.add(volume)
    clone, other = (slicer.modules.volumes.logic().CloneVolume(slicer.mrmlScene, volume, "crop") for _ in range(2))
    asked = len(new.ask.asked)
    new.add(clone, "no")
    assert len(new.ask.asked) == asked and new.column("case") == ["case-001", "case-002"]
    slicer.mrmlScene.RemoveNode(volume)
    (loaded,) = new.panel.load_case(new.dataset.keys[0])
    assert loaded is not other
