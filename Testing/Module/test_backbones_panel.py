"""The Plugins tab's backbones: what is listed, and the folder that a user chooses."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import hosting  # noqa: F401 - it sets the path
import pytest
from AnyMC3DUI.settings import BACKBONE_FOLDER, use_backbone_folder
from AnyMC3DUI.worker_client import worker_environment
from hosting import REPOSITORY, Host, host, slicer  # noqa: F401

from AnyMC3DLib.architecture import Architecture
from AnyMC3DLib.backbone_store import FOLDER_VARIABLE, METADATA_KEY, InstalledBackbone
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

        form = slicer.util.loadUI(str(REPOSITORY / "Resources" / "UI" / "AnyMC3DPlugins.ui"))
        self.form, self.ui = form, slicer.util.childWidgetVariables(form)
        self.answer, self.changes = "", 0
        self.panel = BackbonesPanel(self.ui, ask=self, changed=self._changed)

    def folder(self, title: str) -> str:
        return self.answer

    def _changed(self) -> None:
        self.changes += 1

    @property
    def rows(self) -> list[str]:
        return [self.ui.backbonesList.item(row).text() for row in range(self.ui.backbonesList.count)]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path / "here"))
    return tmp_path / "here"


@pytest.fixture
def section(host: Host, place: Path) -> Section:  # noqa: F811
    return Section()


def test_without_a_backbone_the_folder_is_told_and_cannot_be_opened(section: Section, place: Path) -> None:
    assert section.rows == [] and not section.ui.backbonesOpenButton.enabled
    assert section.ui.backbonesFolderLabel.text == str(place)
    assert "No backbone is installed" in section.ui.backbonesStateLabel.text


def test_installed_backbones_are_listed_with_size_and_licence(section: Section, place: Path) -> None:
    write_backbone(place, "dinov2_vits14")
    section.panel.refresh()
    assert section.rows == ["DINOv2 S (dinov2_vits14)"]
    tip = section.ui.backbonesList.item(0).toolTip()
    assert tip.startswith("22.1 million parameters, Apache-2.0; imported from model.safetensors on 2026-11-22")
    assert section.ui.backbonesStateLabel.text == "" and section.ui.backbonesOpenButton.enabled


def test_a_folder_that_is_chosen_is_kept_and_used_here_and_by_the_engine(section: Section, tmp_path: Path) -> None:
    write_backbone(tmp_path / "shared", "dinov2_vits14")
    section.answer = str(tmp_path / "shared")
    section.ui.backbonesFolderButton.click()
    assert section.changes == 1 and len(section.rows) == 1
    assert "from its next start on" in section.ui.backbonesStateLabel.text
    assert slicer.app.userSettings().value(BACKBONE_FOLDER) == section.answer
    assert worker_environment()[FOLDER_VARIABLE] == section.answer
    assert next(iter(list_backbones())) == "dinov2_vits14"


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
