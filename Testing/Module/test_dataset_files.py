"""The Dataset tab: its files, and the names of patients in them."""

from __future__ import annotations

import csv

import pytest
from dataset_tab import FIVE, MANY, SECRET, Tab, tab  # noqa: F401
from hosting import add_volume, host  # noqa: F401

# files


def test_without_a_dataset_only_new_and_open_can_be_pressed(tab: Tab) -> None:  # noqa: F811
    add_volume()
    pressable = {name for name in ("New", "Open", "Save", "SaveAs", "Load", "Remove", "Check", "Add", "AddSeries")
                 if getattr(tab.ui, f"dataset{name}Button").enabled}  # fmt: skip
    assert pressable == {"New", "Open"} and tab.panel.path is None
    assert tab.ui.datasetPathLabel.text == "No dataset is open."


def test_new_begins_a_dataset_of_two_classes_in_a_folder(tab: Tab) -> None:  # noqa: F811
    tab.ask.path = tab.folder
    tab.ui.datasetNewButton.click()
    assert tab.panel.path == tab.folder / "cases.csv" and tab.panel.path.is_file()
    assert tab.dataset.classes == ("no", "yes")
    assert tab.ui.datasetPathLabel.text == f"{tab.folder.name}/cases.csv: 0 cases"
    assert tab.changes


def test_new_in_a_folder_with_a_dataset_is_refused_in_a_sentence(tab: Tab) -> None:  # noqa: F811
    tab.ask.path = tab.folder
    tab.ui.datasetNewButton.click()
    tab.panel.open(tab.folder / "cases.csv")
    tab.ui.datasetNewButton.click()
    assert "already: open it" in tab.state


def test_a_dialog_that_is_left_changes_nothing(tab: Tab) -> None:  # noqa: F811
    for button in (tab.ui.datasetNewButton, tab.ui.datasetOpenButton):
        button.click()
    assert tab.dataset is None and len(tab.ask.asked) == 2


def test_open_shows_the_rows_of_a_table(tab: Tab) -> None:  # noqa: F811
    tab.open(FIVE)
    assert tab.column("case") == ["case-001", "case-002", "case-003", "case-004", "case-010"]
    assert tab.ui.datasetPathLabel.text.endswith("/cases.csv: 5 cases")


def test_open_takes_json_lines_and_save_asks_for_another_name_in_a_sentence(tab: Tab) -> None:  # noqa: F811
    tab.open('{"case": "a", "image": "a.nrrd", "label": "no"}\n', "cases.jsonl")
    assert tab.column("case") == ["a"]
    tab.edit(0, "patient", "p")
    tab.ui.datasetSaveButton.click()
    assert "'.csv'" in tab.state


def test_what_is_no_table_is_refused_in_a_sentence_and_the_open_one_stays(tab: Tab) -> None:  # noqa: F811
    tab.open(FIVE)
    tab.open('a,b\n"', "broken.csv")
    assert tab.state.endswith(".") and "\n" not in tab.state
    assert len(tab.dataset) == 5


def test_save_writes_the_table_and_the_title_says_what_is_not_saved(tab: Tab) -> None:  # noqa: F811
    path = tab.open(FIVE)
    assert not tab.ui.datasetSaveButton.enabled
    tab.edit(0, "label", "yes")
    assert tab.ui.datasetPathLabel.text.endswith("5 cases, not saved")
    tab.ui.datasetSaveButton.click()
    rows = list(csv.DictReader(path.open()))
    assert [row["label"] for row in rows if row["case"] == "case-001"] == ["yes"]
    assert tab.ui.datasetPathLabel.text.endswith("5 cases") and tab.state == "Saved."


def test_save_as_writes_another_file_with_an_ending_and_goes_on_with_it(tab: Tab) -> None:  # noqa: F811
    tab.open(FIVE)
    (tab.folder / "other").mkdir()
    tab.ask.path = tab.folder / "other" / "mine"
    tab.ui.datasetSaveAsButton.click()
    assert tab.panel.path == tab.folder / "other" / "mine.csv" and tab.panel.path.is_file()
    assert tab.column("image")[0] == (tab.folder / "one.nrrd").as_posix()


@pytest.mark.parametrize("ending", [".csv", ".tsv", ".TXT"])
def test_save_as_keeps_an_ending_that_a_table_may_have(tab: Tab, ending: str) -> None:  # noqa: F811
    tab.open(FIVE)
    tab.ask.path = tab.folder / f"mine{ending}"
    tab.ui.datasetSaveAsButton.click()
    assert tab.panel.path == tab.ask.path and tab.panel.path.is_file()


@pytest.mark.parametrize("agrees", [False, True])
def test_save_as_overwrites_a_file_that_the_dialog_did_not_name_only_if_a_person_says_so(
    tab: Tab,  # noqa: F811
    agrees: bool,
) -> None:
    tab.open(FIVE)
    other = tab.folder / "study.v2.csv"
    other.write_text("case,image,label\nx,x.nrrd,yes\n")
    tab.ask.path, tab.ask.agrees = tab.folder / "study.v2", agrees
    tab.ui.datasetSaveAsButton.click()
    assert tab.ask.asked[-1] == "There is a file 'study.v2.csv' already. Overwrite it?"
    assert ("x.nrrd" in other.read_text(), tab.panel.path == other) == (not agrees, agrees)


def test_save_as_to_its_own_file_without_the_ending_asks_nothing(tab: Tab) -> None:  # noqa: F811
    path = tab.open(FIVE)
    tab.ask.path = path.with_suffix("")
    tab.ui.datasetSaveAsButton.click()
    assert tab.ask.asked[-1] == "Save the dataset" and tab.panel.path == path


@pytest.mark.parametrize("agrees", [False, True])
def test_whether_the_dataset_may_be_left_is_a_question_only_after_a_change(tab: Tab, agrees: bool) -> None:  # noqa: F811
    assert tab.panel.may_leave()
    tab.open(FIVE)
    asked = len(tab.ask.asked)
    assert tab.panel.may_leave() and len(tab.ask.asked) == asked
    tab.edit(0, "label", "yes")
    tab.ask.agrees = agrees
    assert tab.panel.may_leave() is agrees
    assert tab.ask.asked[-1] == "The dataset has changes that are not saved. Leave it without them?"


# names of patients


@pytest.mark.parametrize("typed", ["DOE^JOHN", "  doe john ", "patient-john"])
def test_a_name_that_is_typed_becomes_a_pseudonym_and_a_sentence_says_so(tab: Tab, typed: str) -> None:  # noqa: F811
    from AnyMC3DLib.training.pseudonym import pseudonym

    path = tab.open(FIVE)
    tab.edit(0, "patient", typed)
    held = pseudonym(typed, key=SECRET)
    assert tab.column("patient")[0] == held and held in tab.state
    assert tab.panel.save() and "john" not in path.read_text().lower()


def test_a_pseudonym_an_empty_text_and_a_text_that_stays_are_kept_as_they_are(tab: Tab) -> None:  # noqa: F811
    tab.open(FIVE)
    for row, text in enumerate(("patient-7f3a9c21d04e", "", "d ")):
        tab.edit(row, "patient", text)
        assert tab.state == ""
    assert tab.column("patient")[:3] == ["patient-7f3a9c21d04e", "", "d"]


@pytest.mark.parametrize("hides", [False, True])
def test_the_names_in_a_table_from_elsewhere_are_replaced_only_if_a_person_says_so(tab: Tab, hides: bool) -> None:  # noqa: F811
    from AnyMC3DLib.training.pseudonym import pseudonym

    tab.ask.hides = hides
    tab.open("case,patient,image,label\na,DOE,a.nrrd,no\nb,doe,b.nrrd,yes\nc,patient-7f,c.nrrd,no\nd,,d.nrrd,no\n")
    assert tab.ask.asked[-1] == "The table names 2 patients. Replace the names by pseudonyms?"
    held = pseudonym("doe", key=SECRET)
    assert tab.column("patient") == ([held, held] if hides else ["DOE", "doe"]) + ["patient-7f", ""]
    assert tab.dataset.modified is hides and ("not saved" in tab.ui.datasetPathLabel.text) is hides


def test_a_table_of_pseudonyms_is_opened_without_a_question_and_so_is_one_by_its_path(tab: Tab) -> None:  # noqa: F811
    path = tab.open("case,patient,image,label\na,patient-7f,a.nrrd,no\nb,,b.nrrd,yes\n")
    assert tab.ask.asked == ["Open a dataset"]
    path.write_text(FIVE)
    tab.panel.open(path)
    assert tab.ask.asked == ["Open a dataset"] and tab.column("patient")[0] == "a"


@pytest.mark.parametrize("agrees", [False, True])
def test_changes_that_are_not_saved_are_left_only_if_a_person_says_so(tab: Tab, agrees: bool) -> None:  # noqa: F811
    tab.open(FIVE)
    tab.edit(0, "label", "yes")
    tab.ask.agrees = agrees
    tab.open(MANY, "many.csv")
    assert (len(tab.dataset) == 80) is agrees
    assert any("not saved" in question for question in tab.ask.asked)
