"""The Dataset tab: its table, and the check."""

from __future__ import annotations

import types
from typing import Any

import pytest
from dataset_tab import FIVE, MANY, Tab, tab  # noqa: F401
from hosting import host, qt  # noqa: F401

from AnyMC3DLib.errors import AnyMC3DError, Cancelled

# the table


def test_cases_that_the_table_does_not_show_yet_are_passed_over(tab: Tab) -> None:  # noqa: F811
    tab.open(FIVE)
    key = tab.dataset.add(case="later", image="later.nrrd", label="no")
    tab.edit(0, "label", "yes")
    assert tab.panel.save() and len(tab.rows) == 5
    tab.panel.table.add(key)
    assert tab.column("case")[-1] == "later" and tab.panel.table.current is None


@pytest.mark.parametrize("what", ["refresh", "mark", "show", "remove"])
def test_an_edit_is_heard_also_after_something_went_wrong(tab: Tab, monkeypatch: pytest.MonkeyPatch, what: str) -> None:  # noqa: F811
    tab.open(FIVE)
    table = tab.panel.table

    def fails(*_: Any) -> None:
        raise RuntimeError

    with monkeypatch.context() as patched, pytest.raises((RuntimeError, TypeError)):
        if what == "refresh":
            patched.setattr(table, "_texts", fails)
            table.refresh(tab.dataset.keys)
        elif what == "mark":
            table.mark({key: [7] for key in tab.dataset.keys})  # a number is no sentence
        elif what == "show":
            patched.setattr(table, "_filled", fails)
            table.show(tab.dataset)
        else:
            patched.setattr(table, "_model", types.SimpleNamespace(removeRows=fails))
            table.remove(tab.dataset.keys[4:])
    assert not table._model.signalsBlocked() and not table._setting


def test_a_click_on_a_header_sorts_by_that_column(tab: Tab) -> None:  # noqa: F811
    tab.open(FIVE)
    view = tab.ui.datasetTable
    view.sortByColumn(tab.dataset.columns.index("patient"), qt.Qt.DescendingOrder)
    assert tab.column("patient") == ["e", "d", "c", "b", "a"]


def test_the_filter_shows_the_rows_that_hold_all_words_in_any_cell(tab: Tab) -> None:  # noqa: F811
    tab.open(FIVE)
    tab.ui.datasetFilterEdit.text = "NO case"
    assert tab.column("case") == ["case-001", "case-003", "case-004"]
    tab.ui.datasetFilterEdit.text = "four. no"
    assert tab.column("case") == ["case-004"]
    tab.ui.datasetFilterEdit.text = ".*"
    assert tab.rows == []
    tab.ui.datasetFilterEdit.text = ""
    assert len(tab.rows) == 5


def test_what_was_edited_is_found_by_the_filter(tab: Tab) -> None:  # noqa: F811
    tab.open(FIVE)
    tab.edit(2, "patient", "patient-5e")
    tab.ui.datasetFilterEdit.text = "patient-5E"
    assert tab.column("case") == ["case-003"]


def test_an_edit_goes_into_the_dataset_and_its_row_stays_where_it_is(tab: Tab) -> None:  # noqa: F811
    tab.open(FIVE)
    tab.edit(0, "case", "  zebra ")
    assert tab.column("case")[0] == "zebra"
    assert {tab.dataset.cell(key, "case") for key in tab.dataset.keys} >= {"zebra"}


def test_an_edit_that_is_refused_puts_the_old_text_back_and_says_why(tab: Tab) -> None:  # noqa: F811
    tab.open(FIVE)
    tab.edit(0, "label", "perhaps")
    assert tab.column("label")[0] == "no" and "'perhaps' is no class" in tab.state
    assert not tab.dataset.modified
    tab.edit(0, "case", "case-002")
    assert tab.column("case")[0] == "case-001" and "already" in tab.state


def test_a_double_click_edits_a_cell_and_loads_the_case_by_its_name(tab: Tab, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    from AnyMC3DUI import case_loader

    loaded: list[Any] = []
    monkeypatch.setattr(case_loader, "load_case", lambda scene, dataset, key: loaded.append(key) or [])
    tab.open(FIVE)
    view = tab.ui.datasetTable
    view.doubleClicked.emit(tab.index(1, "case"))
    assert [tab.dataset.cell(key, "case") for key in loaded] == ["case-002"]
    view.doubleClicked.emit(tab.index(1, "label"))
    assert view.state() == qt.QAbstractItemView.EditingState and len(loaded) == 1


@pytest.mark.parametrize(("count", "agrees", "expected"), [(5, False, 5), (6, False, 0), (6, True, 6)])
def test_many_cases_are_loaded_at_once_only_if_a_person_says_so(
    tab: Tab,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    count: int,
    agrees: bool,
    expected: int,
) -> None:
    from AnyMC3DUI import case_loader

    loaded: list[Any] = []
    monkeypatch.setattr(case_loader, "load_case", lambda scene, dataset, key: loaded.append(key) or [])
    tab.open(MANY)
    asked, tab.ask.agrees = len(tab.ask.asked), agrees
    tab.select(*range(count))
    tab.ui.datasetLoadButton.click()
    assert len(loaded) == expected
    assert tab.ask.asked[asked:] == (["Load 6 cases into the scene at once?"] if count == 6 else [])


def test_the_menu_sets_label_and_split_of_all_chosen_rows(tab: Tab) -> None:  # noqa: F811
    tab.open(FIVE)
    tab.select(0, 2, 4)
    tab.menu("Label: yes")
    tab.menu("Split: train")
    assert tab.column("label") == ["yes", "yes", "yes", "no", "yes"]
    assert tab.column("split") == ["train", "train", "train", "", "train"]
    tab.menu("Split: none")
    assert tab.column("split") == ["", "train", "", "", ""]
    assert tab.dataset.counts()["train"] == {"no": 0, "yes": 1}


def test_the_menu_of_a_multilabel_table_sets_each_finding(tab: Tab) -> None:  # noqa: F811
    tab.open("case,image,cyst,mass\na,a.nrrd,0,1\nb,b.nrrd,1,0\n")
    tab.select(0, 1)
    tab.menu("cyst: 1")
    tab.menu("mass: none")
    assert (tab.column("cyst"), tab.column("mass")) == (["1", "1"], ["", ""])


def test_the_menu_opens_where_it_is_asked_for(tab: Tab) -> None:  # noqa: F811
    tab.open(FIVE)
    tab.select(1)
    tab.ui.datasetTable.customContextMenuRequested.emit(qt.QPoint(5, 5))
    texts = [action.text for action in tab.panel._menu._menu.actions()]
    assert "Label: yes" in texts and "Split: val" in texts
    tab.panel._menu._menu.close()


def test_remove_takes_the_chosen_rows_out_once_it_was_asked(tab: Tab) -> None:  # noqa: F811
    tab.open(FIVE)
    tab.select(0, 3)
    tab.ask.agrees = False
    tab.ui.datasetRemoveButton.click()
    assert len(tab.rows) == 5
    tab.ask.agrees = True
    tab.ui.datasetRemoveButton.click()
    assert tab.column("case") == ["case-002", "case-003", "case-010"]
    assert "not saved" in tab.ui.datasetPathLabel.text
    tab.edit(1, "patient", "patient-af")
    assert [tab.dataset.case(key).cells["case"] for key in tab.dataset.keys
            if tab.dataset.cell(key, "patient") == "patient-af"] == ["case-003"]  # fmt: skip


# the check


def test_a_saved_table_is_checked_as_it_lies_there(tab: Tab) -> None:  # noqa: F811
    path = tab.open(FIVE)
    tab.ui.datasetCheckButton.click()
    assert (tab.worker.calls[0].method, tab.worker.calls[0].data) == ("check", path)
    tab.worker.answer()
    assert path.is_file() and tab.state.startswith("No problem found.")
    assert "train 1 (no 0, yes 1) · val 1 (no 1, yes 0) · test 1 (no 1, yes 0) · without a split 2" in tab.state


@pytest.mark.parametrize("end", ["answer", "failure", "another table", "close"])
def test_a_table_that_is_not_saved_is_checked_as_a_copy_beside_it_that_goes_again(tab: Tab, end: str) -> None:  # noqa: F811
    path = tab.open(FIVE)
    tab.edit(0, "label", "yes")
    tab.ui.datasetCheckButton.click()
    copy = tab.worker.calls[0].data
    assert copy.parent == path.parent and copy != path
    assert "case-001,a,one.nrrd,yes" in tab.worker.seen[0]
    if end == "answer":
        tab.worker.answer()
    elif end == "failure":
        tab.worker.calls[0].failed(AnyMC3DError("The worker died."))
        assert tab.state == "The worker died."
    elif end == "another table":
        tab.open(MANY, "many.csv")
        tab.worker.calls[0].failed(Cancelled("Cancelled."))
        assert tab.state == ""
    else:
        tab.panel.close()
    assert not copy.exists() and tab.ui.datasetCheckButton.text == "Check"


def test_rows_with_problems_are_tinted_and_say_why(tab: Tab) -> None:  # noqa: F811
    tab.open(FIVE)
    tab.ui.datasetCheckButton.click()
    tab.worker.answer((2, "there is no file."), (2, "the label is odd."), (4, "there is no file."))
    assert tab.state.startswith("3 problems in 2 rows.")
    tinted = [tab.index(row, "label").data(qt.Qt.BackgroundRole).style() != qt.Qt.NoBrush
              if tab.index(row, "label").data(qt.Qt.BackgroundRole) is not None else False
              for row in range(5)]  # fmt: skip
    assert tinted == [False, True, False, False, True]
    assert tab.index(1, "case").data(qt.Qt.ToolTipRole) == "there is no file.\nthe label is odd."
    tab.select(1)
    assert tab.state == "case-002: there is no file.\ncase-002: the label is odd."
    tab.select(0)
    assert tab.state.startswith("3 problems in 2 rows.")


def test_marks_go_with_the_next_check_that_finds_nothing(tab: Tab) -> None:  # noqa: F811
    tab.open(FIVE)
    for problems in ([(2, "odd.")], []):
        tab.ui.datasetCheckButton.click()
        tab.worker.answer(*problems)
    assert not tab.index(1, "case").data(qt.Qt.ToolTipRole)
    assert tab.index(1, "case").data(qt.Qt.BackgroundRole).style() == qt.Qt.NoBrush


def test_a_second_press_cancels_the_check(tab: Tab) -> None:  # noqa: F811
    tab.open(FIVE)
    tab.ui.datasetCheckButton.click()
    assert tab.ui.datasetCheckButton.text == "Cancel"
    tab.ui.datasetCheckButton.click()
    assert tab.worker.cancelled == tab.worker.calls
    tab.worker.calls[0].failed(Cancelled("The work was cancelled."))
    assert (tab.ui.datasetCheckButton.text, tab.state) == ("Check", "The check was cancelled.")


def test_the_check_shows_how_far_it_is(tab: Tab) -> None:  # noqa: F811
    tab.open(FIVE)
    tab.ui.datasetCheckButton.click()
    assert tab.ui.datasetProgressBar.maximum == 0
    tab.worker.calls[0].progress(types.SimpleNamespace(step="Checking cases", done=2, total=5))
    assert (tab.ui.datasetProgressBar.maximum, tab.ui.datasetProgressBar.value) == (1000, 400)
    tab.worker.answer()
    assert tab.ui.datasetProgressBar.value == 0
