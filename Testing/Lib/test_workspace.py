"""The worker's private folder: who may enter it, what is deleted, and what is left of workers that are gone."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from AnyMC3DLib.errors import InputError
from AnyMC3DLib.workspace import BASE_VARIABLE, NAME, Workspace, base_folder, sweep

RANDOM = "0123456789abcdef"


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path)


def gone_process() -> int:
    """The number of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def folder_of(base: Path, pid: int, created: int) -> Path:
    """What a worker of that process would have left, with a file in it."""
    folder = base / f"anymc3d-worker-{pid}-{created}-{RANDOM}"
    folder.mkdir(parents=True)
    (folder / "left.npy").write_bytes(b"left")
    return folder


def created_ms(pid: int) -> int:
    return round(psutil.Process(pid).create_time() * 1000)


@pytest.mark.skipif(os.name == "nt", reason="Windows keeps rights elsewhere")
def test_nobody_else_may_enter_the_folder(workspace: Workspace) -> None:
    assert stat.S_IMODE(workspace.path.stat().st_mode) == 0o700


def test_the_name_of_the_folder_says_whose_it_is(workspace: Workspace) -> None:
    match = NAME.fullmatch(workspace.path.name)
    assert match is not None and int(match["pid"]) == os.getpid()
    assert int(match["created"]) == pytest.approx(created_ms(os.getpid()), abs=2000)


def test_the_environment_names_the_place_of_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(BASE_VARIABLE, str(tmp_path))
    assert base_folder() == tmp_path
    assert Workspace().path.parent == tmp_path.resolve()
    monkeypatch.delenv(BASE_VARIABLE)
    assert base_folder() != tmp_path


def test_a_place_that_cannot_be_written_is_refused_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=BASE_VARIABLE):
        Workspace(tmp_path / "file")


def test_files_inside_are_deleted_and_files_outside_are_not(workspace: Workspace, tmp_path: Path) -> None:
    inside, outside = workspace.new_file(), tmp_path / "outside.npy"
    for place in (inside, outside):
        place.write_bytes(b"data")
    roundabout = workspace.path / ".." / "outside.npy"
    workspace.discard([inside, outside, roundabout, workspace.path, workspace.path / "never there", "\0"])
    assert not inside.exists()
    assert outside.exists()
    assert workspace.path.is_dir()


@pytest.mark.skipif(os.name == "nt", reason="links need a right on Windows")
def test_a_link_in_the_folder_to_a_file_outside_is_not_followed(workspace: Workspace, tmp_path: Path) -> None:
    outside = tmp_path / "outside.npy"
    outside.write_bytes(b"data")
    link = workspace.path / "link.npy"
    link.symlink_to(outside)
    workspace.discard([link])
    workspace.remove()
    assert outside.exists()
    assert not workspace.path.exists()


@pytest.mark.skipif(os.name == "nt", reason="links need a right on Windows")
def test_the_folder_is_known_through_a_link_to_its_place(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    workspace = Workspace(tmp_path / "link")
    place = workspace.new_file()
    place.touch()
    workspace.discard([tmp_path / "link" / workspace.path.name / place.name])
    assert not place.exists()


def test_no_two_files_get_one_name(workspace: Workspace) -> None:
    assert len({workspace.new_file() for _ in range(100)}) == 100


def test_the_folder_goes_with_all_that_is_in_it(workspace: Workspace) -> None:
    workspace.new_file().touch()
    (workspace.path / "below").mkdir()
    (workspace.path / "below" / "file").touch()
    workspace.remove()
    workspace.remove()
    assert not workspace.path.exists()


def test_folders_of_processes_that_are_gone_are_swept(tmp_path: Path) -> None:
    gone = folder_of(tmp_path, gone_process(), created_ms(os.getpid()))
    assert sweep(tmp_path) == [gone]
    assert not gone.exists()


def test_a_folder_whose_number_another_process_has_now_is_swept(tmp_path: Path) -> None:
    reused = folder_of(tmp_path, os.getpid(), created_ms(os.getpid()) - 3_600_000)
    assert sweep(tmp_path) == [reused]


def test_folders_of_living_processes_stay(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    assert sweep(tmp_path) == []
    assert workspace.path.is_dir()


@pytest.mark.skipif(os.name == "nt", reason="Windows has no zombies")
def test_a_process_that_ended_but_was_not_waited_for_is_gone(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        folder = folder_of(tmp_path, process.pid, created_ms(process.pid))
        assert sweep(tmp_path) == []
        process.stdin.close()
        process.stdout.read()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert sweep(tmp_path) == [folder]


@pytest.mark.skipif(os.name == "nt", reason="links need a right on Windows")
def test_what_only_looks_like_a_folder_of_ours_stays(tmp_path: Path) -> None:
    base, elsewhere = tmp_path / "base", tmp_path / "elsewhere"
    precious = folder_of(elsewhere, gone_process(), 1)
    base.mkdir()
    pid = gone_process()
    (base / f"anymc3d-worker-{pid}-1-{RANDOM}").symlink_to(precious)
    (base / f"anymc3d-worker-{pid}-2-{RANDOM}").write_bytes(b"a file")
    for name in ("anymc3d-worker-1", f"anymc3d-worker-{pid}-x-{RANDOM}", f"my-anymc3d-worker-{pid}-1-{RANDOM}"):
        (base / name).mkdir()
    assert sweep(base) == []
    assert (precious / "left.npy").exists()
    assert len(list(base.iterdir())) == 5


def test_a_folder_of_another_user_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = folder_of(tmp_path, gone_process(), 1)
    monkeypatch.setattr(os, "getuid", lambda: 1 + folder.stat().st_uid, raising=False)
    assert sweep(tmp_path) == []
    assert folder.exists()


def test_a_place_that_is_not_there_has_nothing_to_sweep(tmp_path: Path) -> None:
    assert sweep(tmp_path / "nowhere") == []
