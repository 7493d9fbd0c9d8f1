"""The Plugins tab: what is listed, and each thing that can be done with a plugin's file."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hosting import REPOSITORY, Host, host, qt, slicer  # noqa: F401
from test_plugin_folder import plugin_file

from AnyMC3DLib import plugin_edit
from AnyMC3DLib.errors import AnyMC3DError, PluginError
from AnyMC3DLib.plugin import read_spec

BINARY = {"task_type": "binary", "classes": [{"name": "normal"}, {"name": "tear"}]}
GOOD = "The backbone has the weights that this plugin was trained on."


class FakeAsk:
    """A person who answers as the test says, and what they were asked; left alone, they leave each dialog."""

    def __init__(self) -> None:
        self.answers: dict[str, Any] = {}
        self.asked: list[Any] = []

    def open_file(self, title: str, kinds: str) -> str:
        assert "*.safetensors" in kinds
        return str(self.answers.get("open", ""))

    def save_file(self, title: str, name: str, kinds: str) -> str:
        self.asked.append(name)
        return str(self.answers.get("save", ""))

    def text(self, title: str, label: str, text: str) -> str | None:
        self.asked.append(text)
        return self.answers.get("text")

    def fields(self, title: str, values: dict[str, str]) -> dict[str, str] | None:
        self.asked.append(dict(values))
        changes = self.answers.get("fields")
        return None if changes is None else {**values, **changes}

    def yes(self, question: str) -> bool:
        self.asked.append(question)
        answers = self.answers.get("yes", [])
        return answers.pop(0) if answers else False


class FakeClient:
    """A worker's client whose requests the test answers."""

    def __init__(self) -> None:
        self.book: Any = None
        self.starts = 1
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.cancelled = 0
        self._done: Callable[[Any], None] | None = None
        self._failed: Callable[[AnyMC3DError], None] | None = None

    def start(self, *, done: Any, failed: Any) -> None:
        done(Path())

    def request(self, method: str, params: Any, *, done: Any, failed: Any, **_: Any) -> object:
        self.asked.append((method, params.to_dict()))
        self._done, self._failed = done, failed
        return object()

    def cancel(self, call: object) -> None:
        self.cancelled += 1

    def answer(self, result: Any = None) -> None:
        self._done(result or {})

    def refuse(self, sentence: str) -> None:
        self._failed(PluginError(sentence))


class Tab:
    """The panel over the form, with a folder of two plugins."""

    def __init__(self, place: Path) -> None:
        from AnyMC3DUI.plugin_folder import PluginFolder
        from AnyMC3DUI.plugins_panel import PluginsPanel

        place.mkdir()
        plugin_file(place / "hip.safetensors", name="Hip", **BINARY)
        plugin_file(place / "knee.safetensors", description="Is it torn?\nOr swollen?")
        form = slicer.util.loadUI(str(REPOSITORY / "Resources" / "UI" / "AnyMC3DPlugins.ui"))
        self.form, self.ui, self.place = form, slicer.util.childWidgetVariables(form), place
        self.folder, self.client, self.ask = PluginFolder(place), FakeClient(), FakeAsk()
        self.trashed: list[Path] = []
        self.has_trash = True
        self.changes = 0
        self.panel = PluginsPanel(
            self.ui, folder=self.folder, client=self.client, device=lambda: "cpu", ask=self.ask,
            changed=self._changed, trash=self._trash,
        )  # fmt: skip

    def _changed(self) -> None:
        self.changes += 1

    def _trash(self, path: Path) -> bool:
        if self.has_trash:
            self.trashed.append(path)
            path.unlink()
        return self.has_trash

    def choose(self, row: int) -> None:
        self.ui.pluginsList.setCurrentRow(row)

    @property
    def rows(self) -> list[str]:
        return [self.ui.pluginsList.item(row).text() for row in range(self.ui.pluginsList.count)]

    @property
    def state(self) -> str:
        return self.ui.pluginsStateLabel.text

    @property
    def card(self) -> str:
        return self.ui.pluginsCardBrowser.toPlainText()

    @property
    def enabled(self) -> set[str]:
        names = ("Edit", "Duplicate", "Export", "Import", "Verify", "Delete")
        return {name for name in names if getattr(self.ui, f"plugins{name}Button").enabled}

    def click(self, name: str) -> None:
        button = getattr(self.ui, f"plugins{name}Button")
        assert button.enabled
        button.click()

    def damage(self) -> Path:
        broken = self.place / "broken.safetensors"
        broken.write_bytes(b"nothing")
        self.panel.refresh()
        return broken


@pytest.fixture
def tab(host: Host, tmp_path: Path) -> Tab:  # noqa: F811
    return Tab(tmp_path / "plugins")


# What is listed


def test_the_chosen_plugin_shows_its_card(tab: Tab) -> None:
    assert [row.split()[0] for row in tab.rows] == ["Hip", "Knee"]
    assert tab.panel.chosen.name == "Hip" and "Hip" in tab.card
    tab.choose(1)
    assert tab.panel.chosen.name == "Knee" and "Is it torn?" in tab.card
    assert tab.enabled == {"Edit", "Duplicate", "Export", "Import", "Verify", "Delete"}


def test_a_damaged_file_is_grey_tells_why_and_can_only_be_deleted(tab: Tab) -> None:
    broken = tab.damage()
    tab.choose(2)
    assert tab.rows[2] == "broken.safetensors: cannot be used" and "not a plugin file" in tab.card
    grey = tab.ui.pluginsList.palette.color(qt.QPalette.Disabled, qt.QPalette.Text)
    assert tab.ui.pluginsList.item(2).foreground().color() == grey
    assert tab.panel.chosen is None and tab.enabled == {"Import", "Delete"}
    tab.ask.answers["yes"] = [True]
    tab.click("Delete")
    assert tab.trashed == [broken] and len(tab.rows) == 2


def test_without_a_plugin_one_can_only_be_imported(tab: Tab) -> None:
    for place in tab.place.iterdir():
        place.unlink()
    tab.panel.refresh()
    assert "import one" in tab.card and tab.enabled == {"Import"} and tab.panel.chosen is None


def test_the_choice_stays_when_the_folder_is_read_again(tab: Tab) -> None:
    tab.choose(1)
    plugin_file(tab.place / "ankle.safetensors", name="Ankle")
    tab.panel.refresh()
    assert len(tab.rows) == 3 and tab.panel.chosen.name == "Knee" and not tab.changes


# Edit, duplicate, export


def test_what_a_plugin_says_is_edited_in_one_dialog(tab: Tab) -> None:
    tab.choose(1)
    tab.ask.answers["fields"] = {"Name": "Knee 2", "Version": "2", "Licence": "BSD", "Intended use": "Teaching."}
    tab.click("Edit")
    labels = ["Name", "Version", "Description", "Licence", "Intended use"]
    assert list(tab.ask.asked[0]) == labels and tab.ask.asked[0]["Licence"] == "MIT"
    spec = read_spec(tab.place / "knee.safetensors")
    assert (spec.name, spec.version, spec.licence, spec.intended_use) == ("Knee 2", "2", "BSD", "Teaching.")
    # An edit line shows line breaks otherwise: what was left alone stays as it was.
    assert spec.description == "Is it torn?\nOr swollen?"
    assert spec.provenance["revised"]["fields"] == ["name", "version", "licence", "intended_use"]
    assert tab.panel.chosen.name == "Knee 2" and "Knee 2" in tab.card and tab.changes == 1


@pytest.mark.parametrize("answer", [None, {}])
def test_an_edit_that_was_left_or_changes_nothing_writes_nothing(tab: Tab, answer: Any) -> None:
    before = (tab.place / "hip.safetensors").stat()
    tab.ask.answers["fields"] = answer
    tab.click("Edit")
    assert (tab.place / "hip.safetensors").stat().st_mtime_ns == before.st_mtime_ns and not tab.changes


def test_a_name_that_another_plugin_has_is_refused_in_a_sentence(tab: Tab) -> None:
    tab.ask.answers["fields"] = {"Name": "Knee"}
    tab.click("Edit")
    assert "already" in tab.state and tab.panel.chosen.name == "Hip" and not tab.changes


def test_a_failed_write_leaves_the_old_plugin_and_one_sentence(tab: Tab, monkeypatch: pytest.MonkeyPatch) -> None:
    before = (tab.place / "hip.safetensors").read_bytes()

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(plugin_edit.shutil, "copyfileobj", full)
    tab.ask.answers["fields"] = {"Version": "9"}
    tab.click("Edit")
    assert "No space left" in tab.state and "\n" not in tab.state and not tab.changes
    assert (tab.place / "hip.safetensors").read_bytes() == before and len(list(tab.place.iterdir())) == 2


def test_a_copy_gets_the_name_that_was_given_and_is_chosen(tab: Tab) -> None:
    tab.ask.answers["text"] = "Hip of children"
    tab.click("Duplicate")
    assert tab.ask.asked == ["Hip copy"]
    assert tab.panel.chosen.name == "Hip of children" and len(tab.rows) == 3 and tab.changes == 1
    tab.ask.answers["text"] = "Knee"
    tab.click("Duplicate")
    assert "already" in tab.state and len(tab.rows) == 3 and tab.changes == 1
    tab.ask.answers["text"] = None
    tab.click("Duplicate")
    assert len(tab.rows) == 3 and tab.changes == 1


def test_an_exported_plugin_is_the_same_file(tab: Tab, tmp_path: Path) -> None:
    tab.click("Export")
    assert tab.ask.asked == ["hip.safetensors"] and not tab.state
    tab.ask.answers["save"] = tmp_path / "shared"
    tab.click("Export")
    written = tmp_path / "shared.safetensors"
    assert written.read_bytes() == (tab.place / "hip.safetensors").read_bytes() and str(written) in tab.state


def test_an_export_replaces_no_file_that_the_dialog_did_not_ask_about(tab: Tab, tmp_path: Path) -> None:
    (tmp_path / "shared.safetensors").write_bytes(b"other")
    tab.ask.answers.update(save=tmp_path / "shared", yes=[False])
    tab.click("Export")
    assert "shared.safetensors" in tab.ask.asked[-1] and (tmp_path / "shared.safetensors").read_bytes() == b"other"


def test_an_export_that_cannot_be_written_is_told(tab: Tab, tmp_path: Path) -> None:
    (tmp_path / "in the way").write_bytes(b"")
    tab.ask.answers["save"] = tmp_path / "in the way" / "hip.safetensors"
    tab.click("Export")
    assert "Cannot write" in tab.state


# Import


def test_an_import_shows_the_claims_before_anything_is_copied(tab: Tab, tmp_path: Path) -> None:
    tab.ask.answers["open"] = plugin_file(tmp_path / "a.safetensors", name="Ankle", licence="MIT", provenance={
        "test": {"auc": {"value": 0.91, "low": 0.8, "high": 0.97}}, "counts": {"train": {"tear": 12}}})  # fmt: skip
    tab.click("Import")
    (question,) = tab.ask.asked
    for words in ("Ankle", "MIT", "test auc 0.910", "12 tear", "cannot be verified", "dinov2_small"):
        assert words in question
    assert len(tab.rows) == 2 and not tab.changes
    tab.ask.answers["yes"] = [True]
    tab.click("Import")
    assert tab.panel.chosen.name == "Ankle" and tab.changes == 1
    assert tab.panel.chosen.path.parent == tab.place


def test_claims_are_shown_as_text_and_never_as_html(tab: Tab, tmp_path: Path) -> None:
    evil = "<img src='http://x/y.png'><b>Certified</b> " + "x" * 400
    tab.ask.answers["open"] = plugin_file(
        tmp_path / "a.safetensors", name=evil[:60], description=evil, licence=evil, anatomy=evil, intended_use=evil,
        classes=[{"name": evil[:50]}, {"name": "b"}], provenance={"data": evil, "date": evil},
    )  # fmt: skip
    tab.click("Import")
    (question,) = tab.ask.asked
    assert "<img" not in question and "<b>Certified" not in question and "&lt;img" in question
    # A word without an end would make the dialog wider than the screen.
    assert max(map(len, question.replace("\u200b", " ").split())) < 100


def test_many_claims_are_cut_so_that_the_question_fits_a_screen(tab: Tab, tmp_path: Path) -> None:
    names = [{"name": f"class {number}"} for number in range(60)]
    long = "word " * 500
    tab.ask.answers["open"] = plugin_file(tmp_path / "a.safetensors", classes=names, name="Many", description=long)
    tab.click("Import")
    (question,) = tab.ask.asked
    assert "and 52 more" in question and "class 8" not in question and len(question) < 4000


def test_a_plugin_of_an_installed_name_is_replaced_once_that_is_accepted(tab: Tab, tmp_path: Path) -> None:
    tab.ask.answers.update(open=plugin_file(tmp_path / "k.safetensors", version="7"), yes=[True, False])
    tab.click("Import")
    assert "Replace it by version 7" in tab.ask.asked[1] and "version 1" in tab.ask.asked[1]
    assert {card.version for card in tab.folder.cards} == {"1"} and not tab.changes
    tab.ask.answers["yes"] = [True, True]
    tab.click("Import")
    assert tab.panel.chosen.version == "7" and len(tab.rows) == 2 and tab.changes == 1


def test_what_is_no_plugin_is_refused_and_nothing_is_asked(tab: Tab, tmp_path: Path) -> None:
    bad = tmp_path / "bad.safetensors"
    bad.write_bytes(b"x")
    tab.ask.answers["open"] = bad
    tab.click("Import")
    assert "not a plugin file" in tab.state and not tab.ask.asked
    tab.ask.answers["open"] = tab.place / "hip.safetensors"
    tab.click("Import")
    assert "installed plugin itself" in tab.state and not tab.ask.asked


# Delete


def test_a_plugin_goes_to_the_trash_once_its_deletion_is_accepted(tab: Tab) -> None:
    tab.click("Delete")
    assert "Hip" in tab.ask.asked[0] and "trash" in tab.ask.asked[0] and not tab.trashed
    tab.ask.answers["yes"] = [True]
    tab.click("Delete")
    assert [path.name for path in tab.trashed] == ["hip.safetensors"] and tab.changes == 1
    assert tab.panel.chosen.name == "Knee" and tab.state == "Hip was moved to the trash."


def test_without_a_trash_a_plugin_is_deleted_for_good_once_that_is_accepted(tab: Tab) -> None:
    tab.has_trash = False
    tab.ask.answers["yes"] = [True, False]
    tab.click("Delete")
    assert "no trash" in tab.ask.asked[1] and len(tab.rows) == 2 and not tab.changes
    tab.ask.answers["yes"] = [True, True]
    tab.click("Delete")
    assert not (tab.place / "hip.safetensors").exists() and tab.changes == 1 and tab.state == "Hip was deleted."


def test_a_file_that_the_system_does_not_let_go_is_told(tab: Tab, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: Any, **__: Any) -> None:
        raise OSError(13, "Permission denied")

    tab.has_trash = False
    tab.ask.answers["yes"] = [True, True]
    monkeypatch.setattr(Path, "unlink", refused)
    tab.click("Delete")
    monkeypatch.undo()
    assert "Permission denied" in tab.state and len(tab.rows) == 2 and not tab.changes


def test_names_in_questions_are_no_html(tab: Tab) -> None:
    plugin_file(tab.place / "a.safetensors", name="<b>A</b> {file}")
    tab.panel.refresh()
    tab.choose(0)
    tab.click("Delete")
    assert "&lt;b&gt;A&lt;/b&gt; {file}" in tab.ask.asked[0]


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere this would fill the trash of whoever runs the tests")
def test_the_systems_trash_keeps_what_is_put_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from AnyMC3DUI.plugins_panel import move_to_trash

    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "home"))
    file = tmp_path / "plugin.safetensors"
    file.write_bytes(b"here")
    if move_to_trash(file):  # a system may have none
        assert not file.exists() and [place.read_bytes() for place in tmp_path.rglob("plugin*")] == [b"here"]
    assert move_to_trash(tmp_path / "absent") is False


# Verify


def load_of(tab: Tab, name: str, **answer: Any) -> dict[str, Any]:
    return {"name": name, "unloaded": [], **answer}


def test_a_backbone_with_the_right_weights_is_told_and_the_plugin_let_go_again(tab: Tab) -> None:
    tab.click("Verify")
    assert "Opening the backbone" in tab.state and not tab.enabled & {"Verify", "Edit", "Delete"}
    ((method, params),) = tab.client.asked
    assert (method, params["path"], params["device"]) == ("load", str(tab.place / "hip.safetensors"), "cpu")
    tab.client.answer(load_of(tab, "Hip"))
    assert tab.client.asked[1] == ("unload", {"name": "Hip"})
    tab.client.answer()
    assert tab.state == GOOD and {"Verify", "Edit", "Delete"} <= tab.enabled


def test_a_backbone_with_other_weights_is_told_with_the_reason(tab: Tab) -> None:
    tab.click("Verify")
    tab.choose(1)
    tab.client.refuse("It was trained on other weights: give those.")
    assert tab.state == "Hip: It was trained on other weights: give those."
    tab.choose(0)
    tab.click("Verify")
    tab.client.refuse("It was trained on other weights: give those.")
    assert tab.state == "It was trained on other weights: give those."


def test_a_plugin_that_is_loaded_was_verified_by_that_and_stays(tab: Tab) -> None:
    from AnyMC3DUI.loaded_plugins import LoadedPlugins

    book, hip = LoadedPlugins.of(tab.client), tab.panel.chosen
    book.load(hip, None, "cpu", progress=lambda _: None).begin(lambda _: None, lambda _: None)
    tab.client.answer(load_of(tab, "Hip"))
    tab.click("Verify")
    assert tab.state == GOOD and len(tab.client.asked) == 1
    tab.choose(1)
    tab.click("Verify")
    tab.client.answer(load_of(tab, "Knee"))
    assert tab.client.asked[-1] == ("unload", {"name": "Knee"})
    tab.client.answer()
    assert book.has(hip, None, "cpu")


def test_the_book_knows_that_a_kept_threshold_makes_another_plugin(tab: Tab) -> None:
    from AnyMC3DUI.loaded_plugins import LoadedPlugins

    book, hip = LoadedPlugins.of(tab.client), tab.panel.chosen
    book.load(hip, None, "cpu", progress=lambda _: None).begin(lambda _: None, lambda _: None)
    tab.client.answer(load_of(tab, "Hip"))
    tab.ui.pluginsThresholdSlider.value = 0.42
    tab.click("Apply")
    assert read_spec(hip.path).classes[1].threshold == 0.42 and tab.changes == 1
    assert "0.42" in tab.state and not tab.ui.pluginsApplyButton.enabled
    assert not book.has(tab.panel.chosen, None, "cpu")


def test_nothing_is_verified_while_a_study_is_classified(tab: Tab) -> None:
    from AnyMC3DUI.loaded_plugins import LoadedPlugins

    LoadedPlugins.of(tab.client).take("a session")
    tab.click("Verify")
    assert "being classified" in tab.state and not tab.client.asked and "Verify" in tab.enabled


def test_closing_lets_the_verification_go_and_others_load(tab: Tab) -> None:
    from AnyMC3DUI.loaded_plugins import LoadedPlugins

    tab.click("Verify")
    tab.panel.close()
    assert tab.client.cancelled == 1
    LoadedPlugins.of(tab.client).take("a session")


def test_the_sample_is_a_plugin_like_others(tab: Tab) -> None:
    shutil.copy(REPOSITORY / "Resources" / "Sample" / "HeadLesionPhantom.safetensors", tab.place)
    tab.panel.refresh()
    tab.choose(0)
    assert tab.panel.chosen.name == "HeadLesionPhantom" and tab.ui.pluginsClassSelector.currentText == "lesion"
