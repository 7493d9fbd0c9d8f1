"""The Dataset tab: classes and split, and the tab as a whole."""

from __future__ import annotations

from dataset_tab import FIVE, MANY, Tab, tab  # noqa: F401
from hosting import host, qt  # noqa: F401
from worker_desk import spin

# classes


def class_names(tab: Tab) -> list[str]:  # noqa: F811
    return [tab.ui.datasetClassList.item(row).text() for row in range(tab.ui.datasetClassList.count)]


def test_a_class_is_renamed_in_place_and_its_labels_move_along(tab: Tab) -> None:  # noqa: F811
    tab.open(FIVE)
    tab.ui.datasetCheckButton.click()
    tab.worker.answer((2, "odd."))
    tab.ui.datasetClassList.item(0).setText("healthy")
    assert tab.index(1, "case").data(qt.Qt.ToolTipRole) == "odd."
    assert tab.dataset.classes == ("healthy", "yes")
    assert tab.column("label") == ["healthy", "yes", "healthy", "healthy", "yes"]
    assert tab.ui.datasetLabelSelector.findText("healthy") > 0


def test_a_name_that_cannot_be_is_put_back_with_a_sentence(tab: Tab) -> None:  # noqa: F811
    tab.open(FIVE)
    tab.ui.datasetClassList.item(0).setText("yes")
    assert class_names(tab) == ["no", "yes"] and "two classes 'yes'" in tab.state


def test_a_class_is_added_and_removed_again(tab: Tab) -> None:  # noqa: F811
    tab.open(FIVE)
    tab.ask.words = "unsure"
    tab.ui.datasetAddClassButton.click()
    assert tab.dataset.classes == ("no", "yes", "unsure") and class_names(tab)[2] == "unsure"
    tab.ui.datasetClassList.setCurrentRow(2)
    tab.ui.datasetRemoveClassButton.click()
    assert tab.dataset.classes == ("no", "yes") and class_names(tab) == ["no", "yes"]


def test_move_up_changes_the_order_of_the_classes(tab: Tab) -> None:  # noqa: F811
    tab.open(FIVE)
    tab.ui.datasetClassList.setCurrentRow(1)
    for _ in range(2):
        tab.ui.datasetClassUpButton.click()
        assert tab.dataset.classes == ("yes", "no") and class_names(tab) == ["yes", "no"]
    assert tab.column("label") == ["no", "yes", "no", "no", "yes"]


def test_a_class_that_a_case_has_is_not_removed(tab: Tab) -> None:  # noqa: F811
    tab.open(FIVE)
    tab.ui.datasetClassList.setCurrentRow(1)
    tab.ui.datasetRemoveClassButton.click()
    assert "cannot be taken out" in tab.state and tab.dataset.classes == ("no", "yes")


def test_another_type_of_task_changes_the_columns_of_labels(tab: Tab) -> None:  # noqa: F811
    tab.open(FIVE)
    box = tab.ui.datasetTaskTypeSelector
    box.setCurrentIndex(box.findData("multilabel"))
    assert tab.column("yes") == ["0", "1", "0", "0", "1"]
    tab.edit(0, "yes", "1")
    box.setCurrentIndex(box.findData("binary"))
    assert "2 classes" in tab.state and box.itemData(box.currentIndex) == "multilabel"


# the split


def test_the_preview_says_what_a_split_comes_to_as_shares_and_seed_change(tab: Tab) -> None:  # noqa: F811
    tab.open(MANY)
    tab.ui.datasetSplitSection.collapsed = False
    label = tab.ui.datasetSplitPreviewLabel
    spin(lambda: label.text)
    assert label.text == "train 56 (no 28, yes 28) · val 12 (no 6, yes 6) · test 12 (no 6, yes 6)"
    tab.ui.datasetTrainSpin.value = 50
    spin(lambda: "sum" in label.text)
    assert not tab.ui.datasetSplitButton.enabled and label.text.endswith(".")
    tab.ui.datasetValSpin.value = 50
    tab.ui.datasetTestSpin.value = 0
    spin(lambda: label.text == "train 40 (no 20, yes 20) · val 40 (no 20, yes 20)")


def test_split_by_patient_writes_what_the_preview_says(tab: Tab) -> None:  # noqa: F811
    tab.open(MANY)
    tab.ui.datasetSplitButton.click()
    assert tab.column("split").count("train") == 56
    by_patient: dict[str, set[str]] = {}
    for patient, split in zip(tab.column("patient"), tab.column("split"), strict=True):
        by_patient.setdefault(patient, set()).add(split)
    assert all(len(splits) == 1 for splits in by_patient.values())
    before = tab.column("split")
    tab.ui.datasetSeedSpin.value = 5
    tab.ui.datasetSplitButton.click()
    assert tab.column("split") != before and "not saved" in tab.ui.datasetPathLabel.text


def test_a_split_that_cannot_be_is_told_in_the_preview(tab: Tab) -> None:  # noqa: F811
    tab.open(FIVE)
    before = tab.column("split")
    tab.ui.datasetSplitButton.click()
    assert "patient" in tab.ui.datasetSplitPreviewLabel.text and tab.column("split") == before


# the whole


def test_the_tab_is_no_wider_than_the_panel(tab: Tab) -> None:  # noqa: F811
    tab.open(FIVE)
    for section in (tab.ui.datasetClassesSection, tab.ui.datasetSplitSection):
        section.collapsed = False
    assert tab.ui.AnyMC3DDataset.minimumSizeHint().width() < 420


def test_two_thousand_cases_are_shown_filtered_and_marked_within_moments(tab: Tab) -> None:  # noqa: F811
    rows = "".join(f"case-{n:04d},p{n},images/{n}.nrrd,{'yes' if n % 3 else 'no'}\n" for n in range(2000))
    tab.open("case,patient,image,label\n" + rows)
    tab.ui.datasetCheckButton.click()
    tab.worker.answer(*((line, "there is no file.") for line in range(2, 2002)))
    tab.ui.datasetFilterEdit.text = "p1999"
    assert len(tab.rows) == 1 and tab.state.startswith("2000 problems in 2000 rows.")
