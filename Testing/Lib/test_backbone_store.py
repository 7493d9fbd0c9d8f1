"""The folder of installed backbones: whole files or none, listed without torch, and never in the way when damaged."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import re
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from stored import small_vit
from test_import_weights import packages_loaded_by

from AnyMC3DLib import backbone_store
from AnyMC3DLib.architecture import Architecture, Positions
from AnyMC3DLib.backbone_store import (
    METADATA_KEY,
    InstalledBackbone,
    backbone_folder,
    check_free,
    check_id,
    check_space,
    find_installed,
    install,
    installed,
    look_into,
    place_of,
    remove,
)
from AnyMC3DLib.errors import BackboneError, InputError
from AnyMC3DLib.weights import digest_of


def record(name: str = "mine", **changed: object) -> InstalledBackbone:
    architecture = Architecture(family="ViT", timm="test_vit", model_args={"depth": 2}, positions=Positions(offset=0.1))
    return dataclasses.replace(InstalledBackbone(id=name, architecture=architecture, digest="sha256:0"), **changed)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "backbones"


@pytest.mark.parametrize(
    ("platform", "variables", "expected"),
    [
        ("linux", {}, "home/.local/share/AnyMC3D/backbones"),
        ("linux", {"XDG_DATA_HOME": "{}/data"}, "data/AnyMC3D/backbones"),
        ("darwin", {}, "home/Library/Application Support/AnyMC3D/backbones"),
        ("win32", {"LOCALAPPDATA": "{}/Local"}, "Local/AnyMC3D/backbones"),
        ("win32", {}, "home/AppData/Local/AnyMC3D/backbones"),
        ("win32", {"ANYMC3D_BACKBONES": "{}/elsewhere", "LOCALAPPDATA": "{}/Local"}, "elsewhere"),
        ("linux", {"ANYMC3D_BACKBONES": "~/mine"}, "home/mine"),
    ],
)
def test_the_folder_is_that_of_the_platform_or_of_the_variable(
    platform: str, variables: dict[str, str], expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("ANYMC3D_BACKBONES", "XDG_DATA_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name, value in variables.items():
        monkeypatch.setenv(name, value.format(tmp_path))
    monkeypatch.setattr(backbone_store.sys, "platform", platform)
    assert backbone_folder() == tmp_path / expected


def test_what_is_installed_is_listed_as_it_was_told(folder: Path) -> None:
    first = record(title="Mine", licence="Do what you like.\nReally.", source_files=("a.pth",), parameters=1.5)
    assert install(small_vit(), first, folder) == folder / "mine.safetensors"
    install(small_vit(), record("yours"), folder)
    assert installed(folder) == {"mine": first, "yours": record("yours")}
    assert find_installed("mine", folder) == first
    assert find_installed("nobodys", folder) is None
    assert find_installed("../mine", folder) is None
    assert sorted(file.name for file in folder.iterdir()) == ["mine.safetensors", "yours.safetensors"]


def test_the_file_holds_the_tensors_of_the_network_by_timms_names(folder: Path) -> None:
    model = small_vit()
    kept = load_file(install(model, record(), folder))
    assert sorted(kept) == sorted(model.state_dict())
    assert all(torch.equal(kept[name], tensor) for name, tensor in model.state_dict().items())
    other = small_vit(seed=1)
    other.load_state_dict(kept)
    assert digest_of(other) == digest_of(model)


def test_one_array_under_two_names_is_written_twice(folder: Path) -> None:
    model = small_vit()
    model.blocks[1].norm1.weight = model.blocks[0].norm1.weight
    kept = load_file(install(model, record(), folder))
    assert torch.equal(kept["blocks.1.norm1.weight"], kept["blocks.0.norm1.weight"])


def test_a_name_that_is_taken_is_refused_unless_it_may_be_overwritten(folder: Path) -> None:
    install(small_vit(), record(title="first"), folder)
    with pytest.raises(BackboneError, match=r"an installed backbone 'mine' already.*--overwrite"):
        install(small_vit(seed=1), record(title="second"), folder)
    assert installed(folder)["mine"].title == "first"
    install(small_vit(seed=1), record(title="second"), folder, overwrite=True)
    assert installed(folder)["mine"].title == "second"


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", ".hidden", "../up", "a/b", "a\\b", "A", "ä", "a b", "timm:vit", "a" * 65, "con", "nul.v2", "com1",
     "lpt9", "-a", "a\n", "a\0", "c:", "_a"],
)  # fmt: skip
def test_a_name_that_is_no_file_name_everywhere_is_refused(name: str, folder: Path) -> None:
    with pytest.raises(BackboneError, match="cannot be the name of a backbone"):
        check_id(name)
    with pytest.raises(BackboneError, match="cannot be the name of a backbone"):
        install(small_vit(), record(name), folder)
    with pytest.raises(BackboneError, match="cannot be the name of a backbone"):
        remove(name, folder)
    assert not folder.exists()


@pytest.mark.parametrize("name", ["a", "dinov2_vits14", "0", "console", "a.b-c_d", "com10", "a" * 64])
def test_a_plain_name_is_accepted(name: str) -> None:
    check_id(name)


def test_an_interrupted_writing_leaves_nothing_and_keeps_what_was_there(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(small_vit(), record(title="first"), folder)

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("AnyMC3DLib.files._flush_to_disk", interrupted)
    with pytest.raises(KeyboardInterrupt):
        install(small_vit(), record(), folder, overwrite=True)
    assert [file.name for file in folder.iterdir()] == ["mine.safetensors"]
    assert installed(folder)["mine"].title == "first"


def test_a_disk_without_space_is_said_before_anything_is_written(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backbone_store.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 1000})())
    with pytest.raises(BackboneError, match="MB are needed: free some space"):
        install(small_vit(), record(), folder)
    assert not folder.exists()
    check_space(folder, 1000)


def test_a_folder_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(BackboneError, match="Cannot write"):
        install(small_vit(), record(), tmp_path / "file")


def test_no_folder_is_no_backbone(folder: Path) -> None:
    assert installed(folder) == {}


def test_a_removed_backbone_is_gone(folder: Path) -> None:
    install(small_vit(), record(), folder)
    remove("mine", folder)
    assert installed(folder) == {}
    with pytest.raises(BackboneError, match="There is no installed backbone 'mine'"):
        remove("mine", folder)


def packed(header: object, rest: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + rest


def with_record(**changed: object) -> bytes:
    return packed({"__metadata__": {METADATA_KEY: json.dumps({**record("bad").to_dict(), **changed})}})


DAMAGED = {
    "empty": b"",
    "short": b"\x01\x02",
    "huge length": struct.pack("<Q", 1 << 60) + b"{}",
    "length beyond the file": struct.pack("<Q", 500) + b"{}",
    "no JSON": packed(b"{no}"),
    "no text": packed(b"\xff\xfe{}"),
    "a list": packed([]),
    "deep JSON": packed(b"[" * 100_000),
    "a name twice": packed(b'{"a": 1, "a": 2}'),
    "no metadata": packed({}),
    "metadata that is a list": packed({"__metadata__": []}),
    "another program's metadata": packed({"__metadata__": {"format": "pt"}}),
    "a record that is no JSON": packed({"__metadata__": {METADATA_KEY: "{"}}),
    "a record that is a number": packed({"__metadata__": {METADATA_KEY: "3"}}),
    "a record that is no text": packed({"__metadata__": {METADATA_KEY: {}}}),
    "deep record": packed({"__metadata__": {METADATA_KEY: "[" * 100_000}}),
    "a newer version": with_record(format_version=2),
    "a field of a wrong type": with_record(parameters="many"),
    "another backbone's file": with_record(id="other"),
    "a version that steers the terminal": with_record(format_version="\x1b[2J"),
    "a title that steers the terminal": with_record(title="\x1b[2J\x1b]0;owned\x07"),
    "a name of a licence that steers the terminal": with_record(licence_name="MIT\x1b[31m"),
    "a source that steers the terminal": with_record(source_files=["a\x1b[2J.pth"]),
    "a part that steers the terminal": with_record(left_out={"\x1b[2J": 1}),
    "arguments that steer the terminal": with_record(
        architecture={"family": "ViT", "timm": "test_vit", "model_args": {"act_layer": ["\x1b[2J"]}}
    ),
    "deep arguments": packed(
        {
            "__metadata__": {
                METADATA_KEY: json.dumps(
                    {
                        **record("bad").to_dict(),
                        "architecture": {"family": "ViT", "timm": "test_vit", "model_args": {"a": 0}},
                    }
                ).replace('{"a": 0}', '{"a":' * 900 + "0" + "}" * 900)
            }
        }
    ),
    "a title without end": with_record(title="x" * 301),
    "a licence without end": with_record(licence="x" * 100_001),
}


@pytest.mark.parametrize("what", DAMAGED)
def test_a_damaged_file_is_named_in_a_warning_and_the_others_are_listed(
    what: str, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    install(small_vit(), record(), folder)
    (folder / "bad.safetensors").write_bytes(DAMAGED[what])
    with caplog.at_level(logging.WARNING):
        assert list(installed(folder)) == ["mine"]
    (warning,) = caplog.messages
    assert "'bad.safetensors'" in warning
    assert warning.isprintable()
    with pytest.raises(BackboneError, match=r"'bad\.safetensors'"):
        find_installed("bad", folder)
    remove("bad", folder)
    assert not place_of("bad", folder).exists()


@pytest.mark.skipif(os.name != "posix", reason="Windows has no such names")
def test_the_name_of_a_copied_file_cannot_steer_the_terminal(folder: Path) -> None:
    folder.mkdir()
    (folder / "bad\x1b[2J.safetensors").write_bytes(b"")
    (problem,) = look_into(folder).problems
    assert problem.isprintable() and "'bad?[2J.safetensors'" in problem


def test_a_licence_of_many_lines_is_none_of_those(folder: Path) -> None:
    install(small_vit(), record(licence="One.\n\tTwo.\n"), folder)
    assert installed(folder)["mine"].licence == "One.\n\tTwo.\n"


def test_a_record_that_could_not_be_read_again_is_not_written(folder: Path) -> None:
    with pytest.raises(BackboneError, match=r"has the text 'a\\x1b\.pth', which is no line"):
        install(small_vit(), record(source_files=("a\x1b.pth",)), folder)
    assert not folder.exists()


@pytest.mark.parametrize("place", ["replace", "unlink"])
def test_a_file_that_is_in_use_is_said_to_be(folder: Path, place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    install(small_vit(), record(), folder)

    def in_use(*_: object, **__: object) -> None:
        raise PermissionError(13, "The process cannot access the file because it is being used by another process")

    monkeypatch.setattr(Path, place, in_use)
    with pytest.raises(BackboneError, match=r"mine\.safetensors' cannot be written \(The process.*close the programs"):
        install(small_vit(), record(), folder, overwrite=True)


def test_a_file_that_is_being_written_is_not_listed(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder.mkdir()
    (folder / ".writing-abc.safetensors").write_bytes(b"half")
    assert installed(folder) == {}
    assert not caplog.messages


def test_the_record_of_a_newer_program_keeps_what_this_one_does_not_know(folder: Path) -> None:
    folder.mkdir()
    (folder / "bad.safetensors").write_bytes(with_record(colour="green"))
    assert installed(folder)["bad"].to_dict()["colour"] == "green"


def test_a_record_without_its_digest_is_refused() -> None:
    with pytest.raises(InputError, match="digest"):
        InstalledBackbone.from_dict({"id": "a", "architecture": {"family": "ViT", "timm": "test_vit"}})


def test_listing_needs_the_standard_library_alone() -> None:
    assert packages_loaded_by("AnyMC3DLib.backbone_store", "AnyMC3DLib.catalogue") == {"AnyMC3DLib"}


@pytest.mark.skipif(os.name != "posix", reason="permissions of files are POSIX's")
def test_an_installed_file_may_be_read_by_whoever_may_read_any_new_file(folder: Path) -> None:
    before = os.umask(0o022)
    try:
        place = install(small_vit(), record(), folder)
    finally:
        os.umask(before)
    assert place.stat().st_mode & 0o777 == 0o644


def test_a_drive_that_dropped_is_told_in_one_sentence(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(self: Path) -> bool:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(Path, "is_file", gone)
    with pytest.raises(BackboneError, match=r"cannot be read \(Input/output error\): check the drive\."):
        find_installed("mine", folder)


GONE = r"The folder of backbones '.*' cannot be read \(Input/output error\): check the drive\."


def drop(monkeypatch: pytest.MonkeyPatch, *asked: str) -> None:
    """Have the drive of every folder gone, whatever of `asked` is asked of it."""

    def gone(self: Path, *_: object, **__: object) -> bool:
        raise OSError(5, "Input/output error")

    for name in asked:
        monkeypatch.setattr(Path, name, gone)


def test_a_folder_on_a_drive_that_dropped_is_told_in_a_warning_and_lists_nothing(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    install(small_vit(), record(), folder)
    drop(monkeypatch, "iterdir", "exists", "is_dir", "is_file")
    assert installed(folder) == {}
    (warning,) = caplog.messages
    assert re.search(GONE, warning)
    contents = look_into(folder)
    assert (contents.there, dict(contents.backbones), len(contents.problems)) == (False, {}, 1)


def test_a_drive_that_drops_while_it_is_read_leaves_what_was_read_before(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a", "b", "c"):
        install(small_vit(), record(name), folder)
    real = Path.open

    def once(self: Path, *how: object) -> object:
        if self.name != "a.safetensors":
            raise OSError(5, "Input/output error")
        return real(self, *how)

    monkeypatch.setattr(Path, "open", once)
    contents = look_into(folder)
    assert list(contents.backbones) == ["a"] and len(contents.problems) == 2
    assert "'b.safetensors' cannot be read (Input/output error)" in contents.problems[0]


@pytest.mark.parametrize(
    "asked",
    [lambda folder: check_free("mine", folder), lambda folder: check_space(folder, 1),
     lambda folder: install(small_vit(), record(), folder),
     lambda folder: install(small_vit(), record(), folder, overwrite=True)],
)  # fmt: skip
def test_whatever_is_asked_of_a_drive_that_dropped_is_told_in_one_sentence(
    asked: Callable[[Path], object], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drop(monkeypatch, "exists", "is_dir")
    with pytest.raises(BackboneError, match=GONE):
        asked(folder)


def test_a_drive_that_drops_once_it_was_asked_for_space_is_told(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drop(monkeypatch, "is_dir")
    with pytest.raises(BackboneError, match=GONE):
        install(small_vit(), record(), folder)


def test_an_id_whose_file_is_not_there_is_free_and_a_folder_that_is_not_there_is_told(folder: Path) -> None:
    check_free("mine", folder)
    assert not look_into(folder).there
    folder.mkdir()
    assert look_into(folder).there
