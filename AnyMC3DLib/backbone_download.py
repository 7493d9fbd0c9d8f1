"""A file from the hub into a folder of ours, so that it lies on the disk once, and a later call goes on with it.

The hub's client keeps what it downloads in a cache of its own, and newer versions begin again after a break.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from huggingface_hub import hf_hub_url
from huggingface_hub.file_download import http_get
from huggingface_hub.utils import (
    WeakFileLock,
    are_progress_bars_disabled,
    build_hf_headers,
    disable_progress_bars,
    enable_progress_bars,
)

from .errors import BackboneError

PART = ".part"
LOCK = ".lock"
# Whoever finds another process at it is told at once; the lock tries no shorter.
PATIENCE_S = 0.1


class Counted(io.BufferedRandom):
    """A file that tells `count` after each writing how many bytes it holds."""

    def __init__(self, place: Path, count: Callable[[int], None]) -> None:
        place.touch()
        super().__init__(io.FileIO(place, "rb+"))
        self._count = count

    def write(self, data: Any) -> int:
        """As any file's."""
        written = super().write(data)
        self._count(self.tell())
        return written


def begun(place: Path, size: int | None) -> int:
    """How many bytes of the file `place` are there from a download that was broken off; `size` is how many it shall be.

    Raises OSError where that cannot be found out.
    """
    for found in (place, _part(place)):
        if found.is_file():
            there = found.stat().st_size
            # More than it shall be is something else.
            return there if size is None or there <= size else 0
    return 0


@contextlib.contextmanager
def alone_in(folder: Path, *, keep: str) -> Iterator[Path]:
    """Give the folder `keep` within `folder` to one process at a time; what else lies in `folder` goes.

    It is deleted once the block ends well, and kept for a later call where it fails. Raises BackboneError while another
    process has it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = folder.with_name(folder.name + LOCK)
    with contextlib.ExitStack() as held:
        try:
            held.enter_context(WeakFileLock(lock, timeout=PATIENCE_S))
        except TimeoutError as error:
            raise BackboneError(
                f"'{folder.name}' is being fetched already: wait for that, or delete '{lock}' if nothing runs."
            ) from error
        for other in folder.iterdir():
            if other.name != keep:
                shutil.rmtree(other)
        work = folder / keep
        work.mkdir(exist_ok=True)
        held.callback(_tidy, work, lock)
        yield work
        shutil.rmtree(folder, ignore_errors=True)


def download(
    repository: str, file: str, place: Path, *, size: int | None, token: str | None, count: Callable[[int], None]
) -> None:
    """Bring a file of the hub to `place`, going on with what is there of it; `count` is told how many bytes there are.

    `size` in bytes, None where it is not known. Raises what the hub's client raises; what came until then stays.
    """
    if place.is_file() and size in (None, place.stat().st_size):
        return
    place.unlink(missing_ok=True)
    part, first = _part(place), begun(place, size)
    if not first:
        part.unlink(missing_ok=True)
    # What is compressed on its way has other ranges than the file.
    headers = {**build_hf_headers(token=token), "Accept-Encoding": "identity"}
    with _without_bars(), Counted(part, count) as stream:
        stream.seek(0, io.SEEK_END)
        http_get(hf_hub_url(repository, file), stream, resume_size=first, headers=headers, expected_size=size)
    part.replace(place)


def sha256_of(file: Path) -> str:
    """The SHA-256 of a file."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _part(place: Path) -> Path:
    return place.with_name(place.name + PART)


def _tidy(work: Path, lock: Path) -> None:
    """Delete what is empty; a later call makes it again."""
    with contextlib.suppress(OSError):
        work.rmdir()
    with contextlib.suppress(OSError):
        work.parent.rmdir()
    with contextlib.suppress(OSError):
        lock.unlink(missing_ok=True)
        lock.parent.rmdir()


@contextlib.contextmanager
def _without_bars() -> Iterator[None]:
    """Let the hub's client draw none: progress is told by the file that it writes."""
    if are_progress_bars_disabled():
        yield
        return
    disable_progress_bars()
    try:
        yield
    finally:
        enable_progress_bars()
