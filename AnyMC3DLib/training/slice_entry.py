"""One entry of the slice cache: a folder with an `.npy` file for each view, and a table with their digests.

Whatever was not written so is noticed when the entry is opened. Nothing is pickled.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import torch

TABLE = "entry.json"
HEADER_MOST = 1024  # bytes before the values of an .npy file of real numbers; they are 128
OVERHEAD = 512  # bytes of a file's header and of its line in the table, at most
# What opening an entry can raise when it is not what was written.
UNUSABLE = (OSError, ValueError, TypeError, KeyError, AttributeError)

Views = Mapping[str, npt.NDArray]
# By view, the bytes of its file.
Files = Mapping[str, npt.NDArray[np.uint8]]


class OpenedEntry:
    """An entry that this process has mapped, as long as somebody holds one of its arrays or a part of one."""

    def __init__(self, files: Files) -> None:
        self._files = {view: weakref.ref(content) for view, content in files.items()}
        self._bytes = sum(content.nbytes for content in files.values())

    @property
    def size(self) -> int:
        """Bytes on the disk that are in use: 0 once nobody holds a part of them."""
        return self._bytes if any(content() is not None for content in self._files.values()) else 0

    def views(self) -> dict[str, npt.NDArray] | None:
        """The arrays by view, if all of them are still mapped."""
        files = {view: found for view, content in self._files.items() if (found := content()) is not None}
        return views_in(files) if len(files) == len(self._files) else None


@dataclasses.dataclass(frozen=True, order=True)
class KeptEntry:
    """An entry on the disk: when it was last asked for (nanoseconds), its key and its bytes."""

    stamp: int
    key: str
    size: int


def kept_entry(place: Path) -> KeptEntry:
    """What lies in the folder of an entry; an unfinished one seems the oldest. Raises OSError if it is gone."""
    sizes = [path.stat().st_size for path in place.iterdir()]
    table = place / TABLE
    return KeptEntry(table.stat().st_mtime_ns if table.is_file() else 0, place.name, sum(sizes))


def write_entry(place: Path, key: str, views: Views) -> None:
    """Write the files into the empty folder `place`; raises OSError if the disk does not take them."""
    # Nothing is flushed to the disk: what a power cut takes is noticed by its digest.
    files = [[view, _save(_file(place, number), array)] for number, (view, array) in enumerate(views.items())]
    (place / TABLE).write_bytes(canonical({"files": files, "digest": digest_of([key, files])}))


def open_entry(place: Path, key: str, *, checked: bool) -> Files:
    """Map the files of an entry; raises one of UNUSABLE if they are not as they were written."""
    table = json.loads((place / TABLE).read_bytes())
    if table["digest"] != digest_of([key, table["files"]]):
        raise ValueError("its table has changed")
    opened = {}
    for number, (view, digest) in enumerate(table["files"]):
        content = _mapped(_file(place, number))
        if checked and hashlib.sha256(content).hexdigest() != digest:
            raise ValueError(f"its file {number} has changed")
        opened[view] = content
    return opened


def views_in(files: Files) -> dict[str, npt.NDArray]:
    """The arrays of mapped files by view, read-only and without a copy."""
    return {view: _array_in(content) for view, content in files.items()}


def canonical(value: Any) -> bytes:
    """JSON values as the same bytes each time."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def digest_of(value: Any) -> str:
    """SHA-256 of JSON values, in hexadecimal digits."""
    return hashlib.sha256(canonical(value)).hexdigest()


def _file(place: Path, number: int) -> Path:
    # Not the view's name: two of them may differ in upper and lower case alone.
    return place / f"{number}.npy"


def _mapped(path: Path) -> npt.NDArray[np.uint8]:
    # Not np.memmap, which keeps a file open for each map: a training set has more than a process may open.
    try:
        content = torch.from_file(str(path), shared=False, size=path.stat().st_size, dtype=torch.uint8).numpy()
    except RuntimeError:
        # The system has a bound for maps too.
        content = np.fromfile(path, np.uint8)
    content.flags.writeable = False
    return content


def _array_in(content: npt.NDArray[np.uint8]) -> npt.NDArray:
    stream = io.BytesIO(content[:HEADER_MOST].tobytes())
    np.lib.format.read_magic(stream)
    shape, _, dtype = np.lib.format.read_array_header_1_0(stream)
    return content[stream.tell() :].view(dtype).reshape(shape)


def _save(path: Path, array: npt.NDArray) -> str:
    """Write an `.npy` file, and give the SHA-256 of its bytes."""
    with path.open("xb") as stream:
        writer = _HashedWriter(stream)
        np.lib.format.write_array(writer, array, version=(1, 0), allow_pickle=False)  # type: ignore[arg-type]
        return writer.digest.hexdigest()


class _HashedWriter:
    def __init__(self, stream: BinaryIO) -> None:
        self._stream, self.digest = stream, hashlib.sha256()

    def write(self, content: bytes) -> int:
        self.digest.update(content)
        return self._stream.write(content)
