"""Files are written whole or not at all."""

from __future__ import annotations

import os
import stat
import threading
from pathlib import Path

import pytest

from AnyMC3DLib.errors import InputError
from AnyMC3DLib.files import replacing, write_bytes, write_text


def test_the_old_file_is_there_until_the_new_one_is_whole(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    target.write_text("old")
    with replacing(target) as temporary:
        temporary.write_text("new")
        assert target.read_text() == "old"
        assert temporary.parent == target.parent
    assert target.read_text() == "new"
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("failure", [ValueError("x"), KeyboardInterrupt(), InputError("x")])
def test_a_failing_writer_leaves_the_old_file_and_nothing_else(tmp_path: Path, failure: BaseException) -> None:
    target = tmp_path / "a.txt"
    target.write_text("old")
    with pytest.raises(type(failure)), replacing(target) as temporary:
        temporary.write_text("half")
        raise failure
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_a_failing_disk_becomes_one_sentence(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    expected = r"Cannot write '.*a\.txt': No space left on device; choose"
    with pytest.raises(InputError, match=expected), replacing(target):
        raise OSError(28, "No space left on device")
    assert list(tmp_path.iterdir()) == []


def test_a_writer_that_removed_its_own_file_is_reported(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    target.write_text("old")
    with pytest.raises(InputError, match="Cannot write"), replacing(target) as temporary:
        temporary.unlink()
    assert target.read_text() == "old"


def test_a_folder_as_the_target_is_refused(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    with pytest.raises(InputError, match="it is a folder; give a file name"), replacing(tmp_path / "b"):
        pass
    assert list(tmp_path.iterdir()) == [tmp_path / "b"]


def test_a_file_in_the_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for place in (tmp_path / "file" / "a.txt", tmp_path / "file" / "deeper" / "a.txt"):
        with pytest.raises(InputError, match=r"Cannot write '.*a\.txt': .*; choose another place\.$"):
            write_text(place, "y")
    assert (tmp_path / "file").read_text() == "x"


def test_missing_folders_are_made(tmp_path: Path) -> None:
    write_text(tmp_path / "a" / "b" / "c.txt", "x")
    assert (tmp_path / "a" / "b" / "c.txt").read_text() == "x"


@pytest.mark.parametrize(("name", "ending"), [("a.nii.gz", ".nii.gz"), ("a.nrrd", ".nrrd"), ("plain", "")])
def test_the_temporary_name_keeps_the_ending(tmp_path: Path, name: str, ending: str) -> None:
    with replacing(tmp_path / name) as temporary:
        assert "".join(temporary.suffixes) == ending


def test_a_new_file_has_the_permissions_of_any_new_file(tmp_path: Path) -> None:
    with (tmp_path / "plain").open("w"):
        pass
    write_bytes(tmp_path / "written", b"x")
    modes = {stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("plain", "written")}
    assert len(modes) == 1


def test_writing_in_threads_leaves_the_umask_of_the_process(tmp_path: Path) -> None:
    before = os.umask(0o027)
    os.umask(0o027)
    try:
        work = [threading.Thread(target=write_bytes, args=(tmp_path / f"{n}", b"x")) for n in range(16)]
        for thread in work:
            thread.start()
        for thread in work:
            thread.join()
        assert os.umask(0o027) == 0o027
        assert {stat.S_IMODE(p.stat().st_mode) for p in tmp_path.iterdir()} == {0o640}
    finally:
        os.umask(before)


def test_text_is_utf8_with_its_line_ends_as_given(tmp_path: Path) -> None:
    write_text(tmp_path / "a.txt", "Größe\r\n5 µm\n")
    assert (tmp_path / "a.txt").read_bytes() == "Größe\r\n5 µm\n".encode()
