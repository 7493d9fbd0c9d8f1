"""A disk that fills: every file is whole or absent, the one before stays, nothing is left, and a sentence says so."""

from __future__ import annotations

import contextlib
import ctypes
import multiprocessing
import os
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

pytest.importorskip("resource", reason="Windows has no limits for the sizes of files")

from faults.disk import full_disk, size_of
from faults.fault import Outcome
from faults.outputs import OUTPUTS, check_after, told_of_disk, write_and_tell

from AnyMC3DLib import files

SHARES = (0.0, 0.4, 0.97)
WAIT_S = 240.0
DISK_BYTES = 24 << 20
NEW_MOUNTS, NEW_USER, RECURSIVE, PRIVATE = 0x00020000, 0x10000000, 0x4000, 1 << 18
# These write beside and rename a folder, or look at the disk before they write.
WITHOUT_REPLACING = ("an entry of the slice cache",)
CACHES = ("an entry of the slice cache", "an entry of the feature cache")


@pytest.mark.parametrize("share", SHARES)
@pytest.mark.parametrize("name", OUTPUTS)
def test_a_file_that_cannot_grow_any_more_is_told_and_leaves_the_one_before(
    name: str, share: float, tmp_path: Path
) -> None:
    assert full_disk(name, int(share * size_of(name)), tmp_path, old=True) is Outcome.REFUSED


@pytest.mark.parametrize("name", OUTPUTS)
def test_a_first_file_that_cannot_grow_leaves_nothing(name: str, tmp_path: Path) -> None:
    assert full_disk(name, size_of(name) - 1, tmp_path, old=False) is Outcome.REFUSED
    assert OUTPUTS[name].read(tmp_path) == set()


@pytest.mark.parametrize("name", OUTPUTS)
def test_a_limit_that_is_just_enough_is_enough(name: str, tmp_path: Path) -> None:
    assert full_disk(name, size_of(name) + 64, tmp_path, old=True) is Outcome.WORKED


@pytest.mark.parametrize("place", ["_new_file", "_flush_to_disk"])
@pytest.mark.parametrize("name", [name for name in OUTPUTS if name not in WITHOUT_REPLACING])
def test_a_disk_that_fills_before_or_after_the_writing_is_told(
    name: str, place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    OUTPUTS[name].write(tmp_path, 0)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files, place, full)
    told = write_and_tell(name, tmp_path, 1)
    assert len(told) == 1 and "No space left on device" in told[0] and str(tmp_path) in told[0]
    monkeypatch.undo()
    check_after(name, tmp_path, before={0}, told=told)


@pytest.mark.parametrize("name", OUTPUTS)
def test_a_real_disk_that_is_full_is_told_and_leaves_the_one_before(name: str, tmp_path: Path) -> None:
    size_of(name)
    mine, other = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.get_context("fork").Process(target=_on_a_small_disk, args=(name, tmp_path, other))
    process.start()
    other.close()
    try:
        found = mine.recv() if mine.poll(WAIT_S) else "it hung"
    except EOFError:
        found = "it died"
    process.kill()
    process.join()
    if found == "no mount":
        pytest.skip("nobody may mount a disk of his own here")
    assert found == ""


def _on_a_small_disk(name: str, folder: Path, done: Connection) -> None:
    """In a process of its own: fill a small disk at several places, and tell what was wrong."""
    try:
        with _small_disk(folder):
            for share in SHARES:
                place = folder / f"{share}"
                place.mkdir()
                OUTPUTS[name].write(place, 0)
                with _filled(folder, leaving=int(share * size_of(name))):
                    told = write_and_tell(name, place, 1)
                    check_after(name, place, before={0}, told=told)
                    assert told or share, "a disk without any room took it"
                    assert all(told_of_disk(sentence) and str(folder) in sentence for sentence in told), told
        done.send("")
    except _NoMountError:
        done.send("no mount")
    except BaseException as error:  # whatever it is, the test tells it
        done.send(f"{type(error).__name__}: {error}")


class _NoMountError(Exception):
    pass


@contextlib.contextmanager
def _small_disk(folder: Path) -> Iterator[None]:
    """A disk of some megabytes at `folder`, which this process alone sees."""
    user, group, libc = os.getuid(), os.getgid(), ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "unshare") or libc.unshare(NEW_MOUNTS | NEW_USER):
        raise _NoMountError
    for file, text in (("setgroups", "deny"), ("uid_map", f"0 {user} 1"), ("gid_map", f"0 {group} 1")):
        Path(f"/proc/self/{file}").write_text(text)
    libc.mount(None, b"/", None, RECURSIVE | PRIVATE, None)
    if libc.mount(b"tmpfs", os.fsencode(folder), b"tmpfs", 0, f"size={DISK_BYTES}".encode()):
        raise _NoMountError
    yield


@contextlib.contextmanager
def _filled(disk: Path, *, leaving: int) -> Iterator[None]:
    """The disk with so many bytes left, as far as whole blocks allow."""
    status, filler = os.statvfs(disk), disk / "filler"
    block = status.f_frsize
    with filler.open("wb") as stream:
        os.posix_fallocate(stream.fileno(), 0, max(1, status.f_bavail * block - leaving // block * block))
    try:
        yield
    finally:
        filler.unlink()
