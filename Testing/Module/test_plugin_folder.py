"""The folder of plugins and their cards, read without torch."""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from AnyMC3DUI.plugin_folder import SAMPLE, PluginFolder, read_card

from AnyMC3DLib.errors import AnyMC3DError, InputError, PluginError
from AnyMC3DLib.plugin import METADATA_KEY, read_spec
from AnyMC3DLib.resources import resource

SAMPLE_FILE = resource(*SAMPLE)
SPEC: dict[str, Any] = {
    "format_version": 1,
    "name": "Knee",
    "task_type": "multilabel",
    "classes": [{"name": "tear"}, {"name": "oedema"}],
    "backbone": {"id": "dinov2_small", "digest": "sha256:00"},
    "views": [
        {"name": "sagittal", "source": "pd", "preprocessing": {"axis": "sagittal", "region": {"kind": "box"}}},
        {"name": "axial", "source": "t2"},
    ],
    "anatomy": "Knee",
    "modality": "MR",
    "licence": "MIT",
}


def plugin_file(path: Path, *, tensors: bytes = b"\0" * 8, **fields: Any) -> Path:
    """A plugin file with a description, and one tensor that nobody looks at."""
    tensor = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
    header = {"__metadata__": {METADATA_KEY: json.dumps({**SPEC, **fields})}, "0.head": tensor}
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + tensors)
    return path


def test_the_card_of_the_sample_says_what_a_person_wants_to_know(tmp_path: Path) -> None:
    card = PluginFolder(tmp_path / "plugins").install_sample()
    assert card.path.parent == tmp_path / "plugins" and card.path.read_bytes() == SAMPLE_FILE.read_bytes()
    assert card.name == "HeadLesionPhantom" and card.classes == ("no lesion", "lesion")
    assert card.answers == "Is there a bright lesion in this made-up head?"
    assert (card.anatomy, card.modality, card.licence) == ("head", "phantom", "Apache-2.0")
    assert "not for clinical use" in card.intended_use
    assert card.trained_on == "made-up heads: 48 lesion, 48 no lesion"
    assert str(card.auc) == "1.00 (1.00 to 1.00), validation"
    assert card.backbone.id == "efficientnet_lite0"
    assert card.sources == ("image",) and card.views == (("axial", "image", "axial"),) and card.regions == {}


def test_views_and_regions_are_told_by_their_source(tmp_path: Path) -> None:
    card = read_card(plugin_file(tmp_path / "knee.safetensors"))
    assert card.sources == ("pd", "t2")
    assert card.views == (("sagittal", "pd", "sagittal"), ("axial", "t2", "axial"))
    assert card.regions == {"pd": "box"}
    assert card.answers == "tear or oedema?"


@pytest.mark.parametrize(
    ("provenance", "shown"),
    [
        ({}, None),
        ({"validation": {"auc": {"value": 0.9, "low": 0.8, "high": 0.95}}}, "0.90 (0.80 to 0.95), validation"),
        ({"test": {"auc": {"value": 0.7}}, "validation": {"auc": {"value": 0.9}}}, "0.70, test"),
        ({"test": {"auc": {"value": None}}, "validation": {"auc": {"value": 0.9, "low": None}}}, "0.90, validation"),
        ({"validation": {"auc": "high"}}, None),
        ({"validation": [1]}, None),
        ({"counts": "many", "data": 3}, None),
    ],
)
def test_figures_are_shown_as_far_as_they_are_known(tmp_path: Path, provenance: Any, shown: str | None) -> None:
    card = read_card(plugin_file(tmp_path / "knee.safetensors", provenance=provenance))
    assert (str(card.auc) if card.auc else None) == shown
    assert card.trained_on == "not told"


def damaged_files(folder: Path) -> dict[str, Path]:
    whole = SAMPLE_FILE.read_bytes()
    contents = {
        "empty": b"",
        "text": b"not a plugin at all",
        "cut header": whole[:100],
        "cut tensors": whole[:-1],
        "appended": whole + b"x",
        "huge header": struct.pack("<Q", 1 << 60),
    }
    files = {name: folder / f"{name}.safetensors" for name in contents}
    for name, content in contents.items():
        files[name].write_bytes(content)
    files["newer"] = plugin_file(folder / "newer.safetensors", format_version=99)
    files["wrong"] = plugin_file(folder / "wrong.safetensors", task_type="guess")
    return files


def test_damaged_files_are_listed_with_their_sentence_and_the_others_stay(tmp_path: Path) -> None:
    files = damaged_files(tmp_path)
    plugin_file(tmp_path / "knee.safetensors")
    folder = PluginFolder(tmp_path)
    assert [card.name for card in folder.cards] == ["Knee"]
    assert {one.path for one in folder.damaged} == set(files.values())
    for one in folder.damaged:
        assert one.path.name in one.sentence and one.sentence[-1] == "." and "\n" not in one.sentence
    newer = next(one for one in folder.damaged if one.path == files["newer"])
    assert "update AnyMC3D" in newer.sentence


def test_damaged_files_are_not_installed(tmp_path: Path) -> None:
    (tmp_path / "from").mkdir()
    folder = PluginFolder(tmp_path / "plugins")
    for file in [*damaged_files(tmp_path / "from").values(), tmp_path / "absent.safetensors", tmp_path]:
        with pytest.raises(PluginError):
            folder.install(file)
    assert not folder.path.exists()


def test_a_folder_that_is_not_there_has_no_plugins(tmp_path: Path) -> None:
    folder = PluginFolder(tmp_path / "absent")
    assert (folder.cards, folder.damaged, folder.anatomies) == ((), (), [])
    assert not folder.path.exists()


def test_other_files_and_half_written_ones_are_passed_over(tmp_path: Path) -> None:
    for name in (".writing-1.safetensors", "notes.txt", "knee.safetensors.part"):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "folder.safetensors").mkdir()
    folder = PluginFolder(tmp_path)
    assert (folder.cards, folder.damaged) == ((), ())


def test_a_newer_file_replaces_the_plugin_of_its_name(tmp_path: Path) -> None:
    folder = PluginFolder(tmp_path / "plugins")
    first = folder.install(plugin_file(tmp_path / "a.safetensors"))
    second = folder.install(plugin_file(tmp_path / "b.safetensors", version="2"))
    assert second.path == first.path and [card.version for card in folder.cards] == ["2"]


def test_another_plugin_with_the_same_file_name_gets_a_name_of_its_own(tmp_path: Path) -> None:
    folder = PluginFolder(tmp_path / "plugins")
    folder.install(plugin_file(tmp_path / "a.safetensors"))
    folder.install(plugin_file(tmp_path / "a.safetensors", name="Hip"))
    assert {card.name: card.path.name for card in folder.cards} == {"Hip": "a-2.safetensors", "Knee": "a.safetensors"}


def test_installing_a_file_of_the_folder_changes_nothing(tmp_path: Path) -> None:
    folder = PluginFolder(tmp_path)
    place = plugin_file(tmp_path / "a.safetensors")
    folder.refresh()
    before = place.stat()
    assert folder.install(place).path == place
    assert place.stat().st_mtime_ns == before.st_mtime_ns and len(list(tmp_path.iterdir())) == 1


def test_a_failed_copy_leaves_the_old_plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = PluginFolder(tmp_path / "plugins")
    old = folder.install(plugin_file(tmp_path / "a.safetensors"))
    newer = plugin_file(tmp_path / "b.safetensors", version="2")

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shutil, "copyfile", full)
    with pytest.raises(InputError, match="No space left"):
        folder.install(newer)
    assert read_card(old.path).version == "1" and list(folder.path.iterdir()) == [old.path]


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    file = plugin_file(tmp_path / "a.safetensors")
    (tmp_path / "in the way").write_bytes(b"")
    with pytest.raises(InputError, match="Cannot write"):
        PluginFolder(tmp_path / "in the way" / "plugins").install(file)


def test_a_removed_plugin_is_gone(tmp_path: Path) -> None:
    folder = PluginFolder(tmp_path)
    card = folder.install_sample()
    folder.remove(card.path)
    assert folder.cards == () and not card.path.exists()
    folder.remove(card.path)


def test_a_removed_plugin_goes_where_the_desk_puts_it(tmp_path: Path) -> None:
    trash = tmp_path / "trash"
    folder = PluginFolder(tmp_path / "plugins", trash=lambda path: bool(path.rename(trash)))
    card = folder.install_sample()
    folder.remove(card.path)
    assert folder.cards == () and trash.read_bytes() == SAMPLE_FILE.read_bytes()
    folder.remove(card.path)


def refuse(_: Path) -> bool:
    raise PermissionError(13, "Permission denied")


@pytest.mark.parametrize(
    ("trash", "sentence"), [(lambda _: False, "cannot be moved to the trash"), (refuse, "deleted: Permission denied")]
)
def test_a_plugin_that_cannot_be_put_away_stays(tmp_path: Path, trash: Callable[[Path], bool], sentence: str) -> None:
    folder = PluginFolder(tmp_path, trash=trash)
    card = folder.install_sample()
    with pytest.raises(InputError, match=sentence):
        folder.remove(card.path)
    assert card.path.exists() and len(folder.cards) == 1


# Changed, copied, handed on


def tensors_of(path: Path) -> bytes:
    content = path.read_bytes()
    return content[8 + struct.unpack("<Q", content[:8])[0] :]


def test_a_plugin_gets_another_name_in_its_own_file(tmp_path: Path) -> None:
    folder = PluginFolder(tmp_path)
    card = folder.install_sample()
    renamed = folder.rename(card, " My lesions ")
    assert renamed == folder.cards[0] and renamed.name == "My lesions" and renamed.path == card.path
    assert tensors_of(card.path) == tensors_of(SAMPLE_FILE) and len(list(tmp_path.iterdir())) == 1
    assert folder.rename(renamed, "My lesions") == renamed


def test_a_plugin_is_revised(tmp_path: Path) -> None:
    folder = PluginFolder(tmp_path)
    card = folder.install_sample()
    revised = folder.revise(card, licence="MIT", description="Is it bright?", thresholds={"lesion": 0.3})
    assert (revised.licence, revised.answers, folder.cards) == ("MIT", "Is it bright?", (revised,))
    assert [c.threshold for c in read_spec(card.path).classes] == [0.7, 0.3]
    assert tensors_of(card.path) == tensors_of(SAMPLE_FILE)


def test_a_duplicate_has_a_name_and_a_file_of_its_own(tmp_path: Path) -> None:
    folder = PluginFolder(tmp_path)
    card = folder.install_sample()
    before = card.path.read_bytes()
    names = ["Second", "..Second", "Zweites: für *mich*?", "." * 60, "日本語" * 20]
    copies = [folder.duplicate(card, name) for name in names]
    assert sorted(c.name for c in folder.cards) == sorted([card.name, *names])
    assert [c.path.name for c in copies] == [
        "Second.safetensors", "Second-2.safetensors", "Zweites-für-mich.safetensors", "plugin.safetensors",
        ("日本語" * 20)[:50] + ".safetensors",
    ]  # fmt: skip
    assert card.path.read_bytes() == before and {tensors_of(c.path) for c in copies} == {tensors_of(card.path)}


def test_a_name_is_that_of_one_plugin(tmp_path: Path) -> None:
    folder = PluginFolder(tmp_path)
    card, other = folder.install_sample(), read_card(plugin_file(tmp_path / "knee.safetensors"))
    folder.refresh()
    for act in (folder.rename, folder.duplicate, lambda card, name: folder.revise(card, name=name, licence="MIT")):
        with pytest.raises(InputError, match="There is a plugin called 'Knee' already"):
            act(card, "Knee ")
    with pytest.raises(InputError, match="called 'HeadLesionPhantom' already"):
        folder.duplicate(card, card.name)
    assert read_card(card.path) == card and read_card(other.path) == other and len(list(tmp_path.iterdir())) == 2


def test_what_cannot_be_leaves_the_folder_as_it_is(tmp_path: Path) -> None:
    folder = PluginFolder(tmp_path)
    card = folder.install_sample()
    for act in (folder.rename, folder.duplicate):
        for name in ("", " ", "a/b", "x" * 200, "a\nb"):
            with pytest.raises(InputError):
                act(card, name)
    with pytest.raises(InputError, match="no class 'none'"):
        folder.revise(card, thresholds={"none": 0.5})
    assert list(tmp_path.iterdir()) == [card.path] and card.path.read_bytes() == SAMPLE_FILE.read_bytes()
    card.path.unlink()
    for act in (folder.rename, folder.duplicate, folder.export):
        with pytest.raises(PluginError, match="There is no plugin file"):
            act(card, str(tmp_path / "x") if act == folder.export else "Other")
    assert list(tmp_path.iterdir()) == []


def test_an_exported_plugin_is_the_same_file(tmp_path: Path) -> None:
    folder, out = PluginFolder(tmp_path / "plugins"), tmp_path / "out"
    card = folder.install_sample()
    out.mkdir()
    places = [folder.export(card, to) for to in (out, out / "mine", str(out / "v1.2"), out / "a.safetensors")]
    assert [place.name for place in places] == [
        card.path.name, "mine.safetensors", "v1.2.safetensors", "a.safetensors",
    ]  # fmt: skip
    assert {place.read_bytes() for place in places} == {SAMPLE_FILE.read_bytes()}
    before = card.path.stat().st_mtime_ns
    assert folder.export(card, folder.path) == card.path and card.path.stat().st_mtime_ns == before
    (out / "in the way").write_bytes(b"")
    with pytest.raises(InputError, match="Cannot write"):
        folder.export(card, out / "in the way" / "p")


def test_cards_are_found_by_anatomy_modality_and_words(tmp_path: Path) -> None:
    folder = PluginFolder(tmp_path)
    folder.install_sample()
    plugin_file(tmp_path / "knee.safetensors")
    plugin_file(tmp_path / "hip.safetensors", name="hip", anatomy="Hip", description="Is the labrum torn?")
    folder.refresh()

    def names(**wanted: str) -> list[str]:
        return [card.name for card in folder.matching(**wanted)]

    assert names() == ["HeadLesionPhantom", "hip", "Knee"]
    assert folder.anatomies == ["head", "Hip", "Knee"] and folder.modalities == ["MR", "phantom"]
    assert names(modality="MR") == ["hip", "Knee"] and names(anatomy="hip", modality="mr") == ["hip"]
    assert names(words="LABRUM torn") == ["hip"] and names(words="oedema") == ["hip", "Knee"]
    assert names(words="no such word") == [] and names(anatomy="Hip", modality="phantom") == []


def test_every_error_is_one_for_a_person(tmp_path: Path) -> None:
    with pytest.raises(AnyMC3DError):
        read_card(tmp_path / "absent.safetensors")
