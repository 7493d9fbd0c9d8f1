"""The bar over missing packages: one question, one sentence, and a restart only where one is needed."""

from __future__ import annotations

import dataclasses
import subprocess
from pathlib import Path
from typing import Any

import pytest
import slicer
from hosting import REPOSITORY, Host, host, qt  # noqa: F401

NEEDED = ["timm>=1.0", "numpy>=2.0", "monai>=1.5"]
NEW = {"timm": "1.0.24", "numpy": "2.3.0", "monai": "1.5.0"}
RESTART = "Start the application again"


@dataclasses.dataclass
class Desk:
    """A bar over the form, and a Python environment that is only told about."""

    form: Any
    ui: Any
    installed: dict[str, str]
    imported: set[str] = dataclasses.field(default_factory=set)
    calls: list[list[str]] = dataclasses.field(default_factory=list)
    questions: list[Any] = dataclasses.field(default_factory=list)
    told: list[str] = dataclasses.field(default_factory=list)
    stopped: int = 0
    answer: bool = True
    allowed: bool = True
    fails: Exception | None = None
    available: dict[str, str] = dataclasses.field(default_factory=lambda: dict(NEW))
    bar: Any = None

    def pip(self, arguments: list[str]) -> None:
        self.calls.append(arguments)
        self.told.append(self.sentence)
        if self.fails:
            raise self.fails
        for name in (argument.partition(">")[0] for argument in arguments):
            if name in self.available:
                self.installed[name] = self.available[name]

    def ask(self, question: Any) -> bool:
        self.questions.append(question)
        return self.answer

    def stop(self) -> None:
        assert not self.calls, "the engine has to end before its files are exchanged"
        self.stopped += 1

    @property
    def visible(self) -> bool:
        return not self.ui.missingPackagesFrame.isHidden()

    @property
    def sentence(self) -> str:
        return self.ui.missingPackagesLabel.text

    def choose(self, entry: int) -> None:
        """An entry of the button's menu."""
        self.ui.installPackagesButton.menu().actions()[entry].trigger()


def made(**installed: str) -> Desk:
    from AnyMC3DUI.dependencies import Dependencies, Tools
    from AnyMC3DUI.install_bar import InstallBar

    form = slicer.util.loadUI(str(REPOSITORY / "Resources" / "UI" / "AnyMC3D.ui"))
    desk = Desk(form, slicer.util.childWidgetVariables(form), dict(installed))
    tools = Tools(
        version_of=desk.installed.get,
        versions=lambda: dict(desk.installed),
        pip_install=desk.pip,
        install_torch=None,
        is_imported=desk.imported.__contains__,
        allowed=lambda: desk.allowed,
    )
    desk.bar = InstallBar(desk.ui, Dependencies(tools, NEEDED), stop_engine=desk.stop, ask=desk.ask)
    desk.bar.refresh()
    return desk


@pytest.fixture
def desk(host: Host) -> Desk:  # noqa: F811
    return made()


def assert_is_one_sentence(text: str) -> None:
    assert text.endswith(".") and "\n" not in text and "Traceback" not in text


# what is missing


def test_where_nothing_is_missing_there_is_no_bar(host: Host) -> None:  # noqa: F811
    assert not made(**NEW).visible


def test_the_bar_names_what_is_missing_or_too_old(host: Host) -> None:  # noqa: F811
    desk = made(timm="0.9", monai="1.5.0")
    assert desk.visible
    assert "timm" in desk.sentence and "numpy" in desk.sentence and "monai" not in desk.sentence
    assert_is_one_sentence(desk.sentence)


# the question


def test_nothing_is_installed_when_the_answer_is_no(desk: Desk) -> None:
    desk.answer, before = False, desk.sentence
    desk.choose(0)
    assert len(desk.questions) == 1
    assert (desk.calls, desk.installed, desk.stopped) == ([], {}, 0)
    assert desk.visible and desk.sentence == before


def test_after_a_no_the_question_can_be_asked_again(desk: Desk) -> None:
    desk.answer = False
    desk.choose(0)
    desk.answer = True
    desk.choose(0)
    assert len(desk.questions) == 2
    assert not desk.visible


# the installation


def test_after_success_the_bar_goes(desk: Desk) -> None:
    desk.choose(0)
    assert len(desk.calls) == len(desk.questions) == desk.stopped == 1
    assert desk.installed == NEW
    assert not desk.visible
    assert not desk.bar.refresh()


def test_while_it_installs_the_bar_says_what(desk: Desk) -> None:
    desk.choose(0)
    (told,) = desk.told
    assert told.startswith("Installing") and all(name in told for name in NEW)


def test_only_what_is_missing_is_installed(host: Host) -> None:  # noqa: F811
    desk = made(timm="1.0.30", numpy="2.1")
    desk.choose(0)
    assert [argument for argument in desk.calls[0] if argument in NEEDED] == ["monai>=1.5"]
    assert desk.installed["numpy"] == "2.1"


def test_from_the_internet_no_folder_is_named(desk: Desk) -> None:
    desk.choose(0)
    assert not {"--no-index", "--find-links"} & set(desk.calls[0])


# the restart


@pytest.mark.parametrize(
    ("before", "imported", "again"),
    [
        ({"numpy": "1.26"}, {"numpy"}, ["numpy"]),
        ({"numpy": "1.26", "timm": "0.9"}, {"numpy", "timm"}, ["numpy", "timm"]),
        ({"numpy": "1.26", "timm": "0.9"}, {"timm"}, ["timm"]),
        ({"numpy": "1.26"}, set(), []),
        ({"numpy": "2.1"}, {"numpy"}, []),
        ({}, {"numpy", "timm"}, []),
    ],
)
def test_a_restart_is_asked_for_only_where_a_package_in_use_was_changed(
    host: Host,  # noqa: F811
    before: dict[str, str],
    imported: set[str],
    again: list[str],
) -> None:
    desk = made(**before)
    desk.imported.update(imported)
    desk.choose(0)
    assert desk.calls
    assert desk.visible == bool(again)
    if again:
        assert RESTART in desk.sentence
        assert_is_one_sentence(desk.sentence)
        assert [name for name in NEW if name in desk.sentence] == sorted(again, key=list(NEW).index)
    else:
        assert RESTART not in desk.sentence


# from a folder


@pytest.fixture
def dialog(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the dialog for a folder answers."""
    answers: list[str] = []
    monkeypatch.setattr(qt.QFileDialog, "getExistingDirectory", staticmethod(lambda *_: answers[-1]))
    return answers


def test_the_folder_of_wheel_files_is_passed_on(desk: Desk, dialog: list[str], tmp_path: Path) -> None:
    dialog.append(str(tmp_path))
    desk.choose(1)
    (arguments,) = desk.calls
    assert "--no-index" in arguments
    assert arguments[arguments.index("--find-links") + 1] == str(tmp_path)
    assert str(tmp_path) in desk.questions[0].text
    assert not desk.visible


def test_a_dialog_that_is_closed_asks_nothing(desk: Desk, dialog: list[str]) -> None:
    dialog.append("")
    desk.choose(1)
    assert (desk.questions, desk.calls, desk.stopped) == ([], [], 0)
    assert desk.visible


# what goes wrong


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (subprocess.CalledProcessError(2, ["pip"]), "pip ended with 2"),
        (RuntimeError("no space left on device"), "no space left on device"),
    ],
)
def test_a_failed_installation_is_said_in_one_sentence_and_the_bar_stays(
    desk: Desk, error: Exception, words: str
) -> None:
    desk.fails = error
    desk.choose(0)
    assert desk.visible
    assert words in desk.sentence
    assert_is_one_sentence(desk.sentence)
    assert desk.ui.installPackagesButton.enabled


def test_after_a_failure_a_second_attempt_can_succeed(desk: Desk) -> None:
    desk.fails = RuntimeError("no network")
    desk.choose(0)
    desk.fails = None
    desk.calls.clear()
    desk.choose(0)
    assert desk.installed == NEW
    assert not desk.visible


def test_a_package_that_pip_left_out_is_named(desk: Desk) -> None:
    del desk.available["monai"]
    desk.choose(0)
    assert desk.visible
    assert "monai" in desk.sentence and "timm" not in desk.sentence
    assert_is_one_sentence(desk.sentence)


def test_where_nothing_may_be_installed_that_is_said(desk: Desk) -> None:
    desk.allowed = False
    desk.choose(0)
    assert desk.visible and not desk.calls
    assert_is_one_sentence(desk.sentence)
