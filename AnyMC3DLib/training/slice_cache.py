"""Slices that were cut once, kept on disk for later runs and for other processes.

An entry is a folder named by its key. It is written beside and renamed, so that it is there whole or not at all, and
of two writers the first wins.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import re
import secrets
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

from .. import __version__
from ..errors import InputError
from ..manifest import IN_TWO_FILES
from ..preprocessing import Box, Segment
from ..spec import PluginSpec
from ..volume import Volume, read_volume
from .slice_entry import (
    OVERHEAD,
    TABLE,
    UNUSABLE,
    KeptEntry,
    OpenedEntry,
    Views,
    canonical,
    digest_of,
    kept_entry,
    open_entry,
    views_in,
    write_entry,
)

logger = logging.getLogger(__name__)

# Raised when the same image and the same spec give other slices than before.
FORMAT_VERSION = 2
KEY = re.compile(r"[0-9a-f]{64}")
# What a process that was killed left behind; in an hour, any other has written its entry.
LEFT_BEHIND, LEFT_FOR_SECONDS = re.compile(r"\.(writing|removing)-[0-9a-f]{16}"), 3600

Content = str | os.PathLike[str] | npt.NDArray | Volume | Box | Segment


def key_of(spec: PluginSpec, digests: Mapping[str, str], *, dtype: npt.DTypeLike = np.float16) -> str:
    """The key of a study's slices: 64 hexadecimal digits.

    `digests` holds `content_digest` of each image, and of each region that comes with the study, by names that tell
    them apart. The backbone's normalisation is no part of it, since slices are cut before.
    """
    views = [view.to_dict() for view in spec.views]
    for view in views:
        cutting = view["preprocessing"]
        view["preprocessing"] = {name: cutting[name] for name in cutting if name not in ("mean", "std")}
    return digest_of([FORMAT_VERSION, __version__, np.dtype(dtype).str, views, dict(digests)])


def content_digest(content: Content) -> str:
    """SHA-256 of what a file, a DICOM folder, an array, a volume or a region holds, whatever its name and date.

    Raises InputError if a file cannot be read.
    """
    if isinstance(content, np.ndarray):
        return _digest_of_array(content)
    if isinstance(content, Volume):
        return digest_of(["volume", _digest_of_array(content.array), _digest_of_array(content.ijk_to_ras)])
    if isinstance(content, Box):
        return digest_of(["box", *map(float, (*content.low, *content.high))])
    if isinstance(content, Segment):
        return digest_of(["segment", content_digest(content.mask), content.label])
    place = Path(content)
    if place.suffix.lower() in IN_TWO_FILES:
        # Its voxels are in other files, which its header names in several ways.
        return content_digest(read_volume(place))
    try:
        if place.is_dir():
            # With their names, which may decide which files are read as one series.
            files = sorted(path for path in place.iterdir() if path.is_file())
            return digest_of(["folder", *([path.name, _digest_of_file(path)] for path in files)])
        return _digest_of_file(place)
    except OSError as error:
        raise InputError(f"'{place}' cannot be read: {error.strerror or error}; check the path.") from error


class SliceCache:
    """Slices by key in `folder`, which runs and processes may share; at most `max_bytes` on disk.

    What was asked for least recently is removed first, never what this process uses. With other processes that write
    at the same time, each may pass the bound by a sixteenth until one of them looks again.
    """

    def __init__(self, folder: Path, *, max_bytes: int) -> None:
        if max_bytes < 0:
            raise InputError(f"A slice cache cannot hold {max_bytes} bytes: give 0 or more.")
        self.folder, self.max_bytes = Path(folder), max_bytes
        self._opened: dict[str, OpenedEntry] = {}
        self._until_next_look = 0
        self._said: set[str] = set()

    def get(self, key: str, make: Callable[[], Views]) -> Views:
        """The arrays of `key` by view, read-only: those on disk, mapped into memory, or else what `make` gives.

        A damaged entry is made again, with a warning. What cannot be kept, since the disk or the cache is full, is
        given from memory, with one warning. `key` is as from `key_of`. Raises what `make` raises.
        """
        if not KEY.fullmatch(key):
            raise ValueError(f"a key is what key_of gives, not {key!r}")
        opened = self._opened.get(key)
        views = (opened and opened.views()) or self._read(key)
        if views is not None:
            # In a folder that may only be read, entries are as good without a new stamp.
            with contextlib.suppress(OSError):
                os.utime(self.folder / key / TABLE)
            return views
        made = {view: _read_only(np.ascontiguousarray(array)) for view, array in make().items()}
        try:
            if self._make_room(sum(array.nbytes + OVERHEAD for array in made.values())):
                return self._read(key, checked=not self._write(key, made)) or made
        except OSError as error:
            self._warn_once(
                f"Slices cannot be kept in '{self.folder}' ({error.strerror or error}), so they stay in memory: free "
                "some of the disk, or choose another folder."
            )
        return made

    def _read(self, key: str, *, checked: bool = True) -> Views | None:
        place, problem = self.folder / key, None
        # Twice, since another process may remove the entry and write it again while it is read here.
        for _ in range(2):
            try:
                files = open_entry(place, key, checked=checked)
                views = views_in(files)
            except UNUSABLE as error:
                if not place.is_dir():
                    return None
                problem = error
            else:
                self._opened[key] = OpenedEntry(files)
                return views
        logger.warning("The entry %s of the slice cache is damaged (%s): it is made again.", key[:12], problem)
        self._remove(key)
        return None

    def _write(self, key: str, views: Views) -> bool:
        """Whether the entry that is there now was written here; raises OSError if none is."""
        self.folder.mkdir(parents=True, exist_ok=True)
        temporary = self.folder / f".writing-{secrets.token_hex(8)}"
        temporary.mkdir()
        try:
            write_entry(temporary, key, views)
            try:
                temporary.rename(self.folder / key)
            except OSError:
                # A folder with files in it is never replaced: another process was first, with the same slices.
                if not (self.folder / key).is_dir():
                    raise
                return False
            return True
        finally:
            shutil.rmtree(temporary, ignore_errors=True)

    def _remove(self, key: str) -> bool:
        """Whether an entry is gone; Windows keeps one that a process has mapped."""
        aside = self.folder / f".removing-{secrets.token_hex(8)}"
        try:
            (self.folder / key).rename(aside)
        except FileNotFoundError:
            # Another process was first.
            return True
        except OSError:
            return False
        shutil.rmtree(aside, ignore_errors=True)
        return True

    def _make_room(self, size: int) -> bool:
        """Whether so many bytes may be written, once old entries are gone."""
        if size <= self._until_next_look:
            self._until_next_look -= size
            return True
        self._opened = {key: opened for key, opened in list(self._opened.items()) if opened.size}
        # Nothing is removed, nor looked at, for what would not fit all the same.
        if sum(opened.size for opened in self._opened.values()) + size <= self.max_bytes:
            left = self.max_bytes - self._evict(size) - size
            if left >= 0:
                self._until_next_look = min(left, self.max_bytes // 16)
                return True
        self._warn_once(
            f"The slice cache may hold {self.max_bytes} bytes, which what is in use fills: further slices stay in "
            "memory, unless it is given more."
        )
        return False

    def _evict(self, size: int) -> int:
        """Remove old entries if `size` more bytes are too many; the bytes that are left."""
        kept = sorted(self._look())
        total = sum(entry.size for entry in kept)
        # A tenth is freed besides, since to look at every entry for each that is written would take long.
        goal = self.max_bytes if total + size <= self.max_bytes else self.max_bytes * 9 // 10
        for entry in kept:
            if total + size <= goal:
                break
            if entry.key not in self._opened and self._remove(entry.key):
                total -= entry.size
        return total

    def _look(self) -> Iterator[KeptEntry]:
        """The entries on disk; what killed processes left is removed."""
        with contextlib.suppress(FileNotFoundError), os.scandir(self.folder) as places:
            for place in places:
                with contextlib.suppress(OSError):
                    if KEY.fullmatch(place.name):
                        yield kept_entry(Path(place.path))
                    elif LEFT_BEHIND.fullmatch(place.name) and time.time() - place.stat().st_mtime > LEFT_FOR_SECONDS:
                        shutil.rmtree(place.path, ignore_errors=True)

    def _warn_once(self, sentence: str) -> None:
        if sentence not in self._said:
            self._said.add(sentence)
            logger.warning("%s", sentence)


def _read_only(array: npt.NDArray) -> npt.NDArray:
    view = array.view()
    view.flags.writeable = False
    return view


def _digest_of_file(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _digest_of_array(array: npt.NDArray) -> str:
    digest = hashlib.sha256(canonical(["array", array.dtype.str, array.shape]))
    digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8))
    return digest.hexdigest()
