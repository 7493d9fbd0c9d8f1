"""The Plugins tab's backbones: what is listed, and the folder that a user chooses."""

from __future__ import annotations

import json
import struct
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import hosting  # noqa: F401 - it sets the path
import pytest
from AnyMC3DUI import installed_backbones
from AnyMC3DUI.settings import BACKBONE_FOLDER, BEFORE_VARIABLE, use_backbone_folder
from AnyMC3DUI.worker_client import worker_environment
from hosting import REPOSITORY, Host, host, slicer  # noqa: F401
from worker_desk import spin

from AnyMC3DLib.architecture import Architecture
from AnyMC3DLib.backbone_store import FOLDER_VARIABLE, METADATA_KEY, InstalledBackbone, backbone_folder
from AnyMC3DLib.catalogue import list_backbones, read_catalogue


def write_backbone(folder: Path, name: str) -> None:
    """A file that says it is a backbone, with hardly any weight."""
    record = InstalledBackbone(
        id=name,
        architecture=Architecture(family="DINOv2", timm="vit_small_patch14_dinov2"),
        digest="sha256:" + 64 * "a",
        title="DINOv2 S",
        licence_name="Apache-2.0",
        source_files=("model.safetensors",),
        imported="2026-11-22T10:00:00",
        parameters=22.1,
        embed_dim=384,
        patch=14,
    )
    tensors = {"norm.bias": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}
    header = json.dumps({"__metadata__": {METADATA_KEY: json.dumps(record.to_dict())}, **tensors}).encode()
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + struct.pack("<f", 0.0))


class Section:
    """The panel over the form, and a person who chooses `answer` as the folder."""

    def __init__(self) -> None:
        from AnyMC3DUI.backbones_panel import BackbonesPanel
        from AnyMC3DUI.installed_backbones import InstalledBackbones

        form = slicer.util.loadUI(str(REPOSITORY / "Resources" / "UI" / "AnyMC3DPlugins.ui"))
        self.form, self.ui = form, slicer.util.childWidgetVariables(form)
        self.answer, self.changes = "", 0
        self.reads = 0
        self.installed = InstalledBackbones(changed=self._read)
        self.panel = BackbonesPanel(self.ui, installed=self.installed, ask=self, changed=self._changed)

    def folder(self, title: str) -> str:
        return self.answer

    def read_again(self) -> None:
        """Have the folder read, and wait for what comes of it."""
        self.panel.refresh()
        self.wait()

    def wait(self) -> None:
        """Run the event loop until the folder was read once more."""
        before = self.reads
        spin(lambda: self.reads > before)

    def _changed(self) -> None:
        self.changes += 1

    def _read(self) -> None:
        self.reads += 1
        self.panel.show()

    @property
    def rows(self) -> list[str]:
        return [self.ui.backbonesList.item(row).text() for row in range(self.ui.backbonesList.count)]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path / "here"))
    # Set first, so that what the module writes there goes with the test.
    monkeypatch.setenv(BEFORE_VARIABLE, "")
    monkeypatch.delenv(BEFORE_VARIABLE)
    return tmp_path / "here"


@pytest.fixture
def section(host: Host, place: Path) -> Iterator[Section]:  # noqa: F811
    made = Section()
    made.wait()
    yield made
    made.installed.close()


def test_without_a_backbone_the_folder_is_told_and_cannot_be_opened(section: Section, place: Path) -> None:
    assert section.rows == [] and not section.ui.backbonesOpenButton.enabled
    assert section.ui.backbonesFolderLabel.text == str(place)
    assert "No backbone is installed" in section.ui.backbonesStateLabel.text


def test_installed_backbones_are_listed_with_size_and_licence(section: Section, place: Path) -> None:
    write_backbone(place, "dinov2_vits14")
    section.read_again()
    assert section.rows == ["DINOv2 S (dinov2_vits14)"]
    tip = section.ui.backbonesList.item(0).toolTip()
    assert tip.startswith("22.1 million parameters, Apache-2.0; imported from model.safetensors on 2026-11-22")
    assert section.ui.backbonesStateLabel.text == "" and section.ui.backbonesOpenButton.enabled


def test_a_folder_that_is_chosen_is_kept_and_used_here_and_by_the_engine(section: Section, tmp_path: Path) -> None:
    write_backbone(tmp_path / "shared", "dinov2_vits14")
    section.answer = str(tmp_path / "shared")
    section.ui.backbonesFolderButton.click()
    assert section.changes == 1 and section.rows == []
    section.wait()
    assert len(section.rows) == 1
    assert "from its next job on" in section.ui.backbonesStateLabel.text
    assert slicer.app.userSettings().value(BACKBONE_FOLDER) == section.answer
    assert worker_environment()[FOLDER_VARIABLE] == section.answer
    assert next(iter(list_backbones())) == "dinov2_vits14"


@pytest.mark.parametrize("named", [True, False])
def test_the_default_folder_can_be_taken_again(
    section: Section, place: Path, tmp_path: Path, named: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not named:
        monkeypatch.delenv(FOLDER_VARIABLE)
    default = backbone_folder()
    assert not section.ui.backbonesDefaultButton.enabled
    for name in ("one", "two"):
        section.answer = str(tmp_path / name)
        section.ui.backbonesFolderButton.click()
    assert section.ui.backbonesDefaultButton.enabled and backbone_folder() == tmp_path / "two"
    section.ui.backbonesDefaultButton.click()
    assert backbone_folder() == default and section.changes == 3
    assert slicer.app.userSettings().value(BACKBONE_FOLDER) is None
    assert section.ui.backbonesFolderLabel.text == str(default)
    assert not section.ui.backbonesDefaultButton.enabled
    use_backbone_folder()
    assert backbone_folder() == default


class Drive:
    """A folder on a network drive that gives no answer until the test lets it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.answers = threading.Event()
        self.asked = 0
        real = installed_backbones.look_into
        monkeypatch.setattr(installed_backbones, "look_into", lambda place: self._look(lambda: real(place)))

    def _look(self, look: Callable[[], object]) -> object:
        assert threading.current_thread() is not threading.main_thread()
        # The end of the application waits for no other thread.
        assert threading.current_thread().daemon
        self.asked += 1
        assert self.answers.wait(30)
        return look()


@pytest.fixture
def drive(section: Section, monkeypatch: pytest.MonkeyPatch) -> Iterator[Drive]:
    made = Drive(monkeypatch)
    yield made
    made.answers.set()


def test_a_folder_that_does_not_answer_leaves_the_window_free_and_what_was_known_in_sight(
    section: Section, drive: Drive, place: Path
) -> None:
    for _ in range(5):
        section.panel.refresh()
    spin(lambda: drive.asked)
    assert drive.asked == 1 and "No backbone is installed" in section.ui.backbonesStateLabel.text
    write_backbone(place, "dinov2_vits14")
    drive.answers.set()
    section.wait()
    assert len(section.rows) == 1


def test_another_folder_is_read_while_the_one_before_does_not_answer(
    section: Section, drive: Drive, tmp_path: Path
) -> None:
    section.panel.refresh()
    spin(lambda: drive.asked == 1)
    write_backbone(tmp_path / "shared", "dinov2_vits14")
    section.answer = str(tmp_path / "shared")
    section.ui.backbonesFolderButton.click()
    assert "Reading the folder" in section.ui.backbonesStateLabel.text
    spin(lambda: drive.asked == 2)
    drive.answers.set()
    section.wait()
    assert section.rows == ["DINOv2 S (dinov2_vits14)"]


def test_a_drive_that_dropped_is_told_and_what_can_be_read_is_listed(
    section: Section, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_backbone(place, "dinov2_vits14")
    (place / "broken.safetensors").write_bytes(b"half")
    section.read_again()
    assert len(section.rows) == 1
    assert "'broken.safetensors' is no complete" in section.ui.backbonesStateLabel.text

    def gone(self: Path) -> Iterator[Path]:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(Path, "iterdir", gone)
    section.read_again()
    assert section.rows == [] and not section.ui.backbonesOpenButton.enabled
    assert section.ui.backbonesStateLabel.text.endswith("cannot be read (Input/output error): check the drive.")


@pytest.mark.parametrize("answer", ["", "here"])
def test_a_dialog_that_was_left_or_the_same_folder_changes_nothing(
    section: Section, tmp_path: Path, answer: str
) -> None:
    section.answer = answer and str(tmp_path / answer)
    section.ui.backbonesFolderButton.click()
    assert section.changes == 0 and slicer.app.userSettings().value(BACKBONE_FOLDER) is None


def test_the_folder_of_the_settings_goes_before_that_of_the_environment(
    host: Host,  # noqa: F811
    place: Path,
    tmp_path: Path,
) -> None:
    slicer.app.userSettings().setValue(BACKBONE_FOLDER, str(tmp_path / "chosen"))
    use_backbone_folder()
    assert worker_environment()[FOLDER_VARIABLE] == str(tmp_path / "chosen")


def test_the_one_that_came_along_is_offered_first_and_what_only_a_file_brings_once_it_is_installed(
    host: Host,  # noqa: F811
    place: Path,
) -> None:
    from AnyMC3DUI.train_form import offered

    file_only = next(e.id for e in read_catalogue().values() if all(s.kind == "file" for s in e.weights))
    names = [entry.id for entry in offered(list_backbones().values())]
    assert names[0] == "efficientnet_lite0" and file_only not in names
    write_backbone(place, file_only)
    assert [entry.id for entry in offered(list_backbones().values())][:2] == ["efficientnet_lite0", file_only]
