"""Files are written whole or not at all. Needs the standard library alone."""

from __future__ import annotations

import errno
import os
import re
import secrets
import time
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tokenize import TokenError

from .errors import InputError

# Temporary files of `replacing`, and those that safetensors makes within it.
TEMPORARY = re.compile(r"\.(?:writing-[0-9a-f]{16}.*|tmp[A-Za-z0-9]{6})")
# What NumPy can raise for a damaged .npy or .npz file, whose header is Python that may not be read.
UNREADABLE_ARRAY = (
    OSError, EOFError, ValueError, TypeError, SyntaxError, TokenError, RecursionError, zipfile.BadZipFile, zlib.error
)  # fmt: skip
# In an hour, any process that is not gone has written its file.
LEFT_FOR_SECONDS = 3600.0


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a temporary path in the folder of `path`; when the block ends well, it replaces `path`.

    The temporary name keeps the ending, since image writers choose the format by it. When the block fails nothing
    of it stays, and the file that was there is untouched.
    """
    target = _checked(path)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = _new_file(target)
    except OSError as error:
        raise InputError(f"Cannot write '{target}': {error.strerror or error}; choose another place.") from error
    try:
        yield temporary
        _flush_to_disk(temporary)
        temporary.replace(target)
    except OSError as error:
        raise InputError(f"Cannot write '{target}': {error.strerror or error}; choose another place.") from error
    finally:
        temporary.unlink(missing_ok=True)


def check_writable(path: str | os.PathLike[str]) -> None:
    """Raise InputError if `path` cannot be written, before the work that is to be written there; changes nothing."""
    target = _checked(path)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _new_file(target).unlink()
    except OSError as error:
        raise InputError(f"Cannot write '{target}': {error.strerror or error}; choose another place.") from error


def write_bytes(path: str | os.PathLike[str], content: bytes) -> None:
    """Write `content` to `path` atomically."""
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def write_text(path: str | os.PathLike[str], content: str) -> None:
    """Write `content` to `path` as UTF-8, atomically."""
    write_bytes(path, content.encode("utf-8"))


def is_there(path: Path) -> bool:
    """Whether there is a file or folder; nothing is by a name that no file of this system can have."""
    try:
        return path.exists()
    except (OSError, ValueError):
        return False


def sweep_left(folder: Path, *, older_s: float = LEFT_FOR_SECONDS) -> None:
    """Remove the temporary files in a folder of ours that a process left which was killed within a write.

    With `older_s` 0 all of them, where nobody else writes. What cannot be removed stays.
    """
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            with suppress(OSError):
                found = TEMPORARY.fullmatch(entry.name) and entry.is_file(follow_symlinks=False)
                if found and time.time() - entry.stat().st_mtime >= older_s:
                    Path(entry.path).unlink()


def system_error(error: Exception) -> OSError | None:
    """The system's own error within that of a library in another language, which tells its number; None for others."""
    if isinstance(error, OSError):
        return error
    found = re.search(r"([^:(]+) \(os error (\d+)\)", str(error))
    return OSError(int(found[2]), found[1].strip()) if found else None


def _checked(path: str | os.PathLike[str]) -> Path:
    """The path; raises InputError for a folder, and for a name that no file of this system can have."""
    target = Path(path)
    try:
        if b"\0" in os.fsencode(target):
            raise ValueError
        is_folder = target.is_dir()
    except ValueError as error:
        raise InputError(f"Cannot write {str(target)!r}: no file can have that name; choose another.") from error
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        raise InputError(f"Cannot write '{target}': {error.strerror or error}; choose another place.") from error
    if is_folder:
        raise InputError(f"Cannot write '{target}': it is a folder; give a file name.")
    return target


def _flush_to_disk(path: Path) -> None:
    with path.open("rb+") as stream:
        size = stream.seek(0, os.SEEK_END)
        # Some writers of images say nothing where the disk takes no more: then it takes no further byte either.
        stream.write(b"\0")
        stream.flush()
        stream.truncate(size)
        os.fsync(stream.fileno())


def _new_file(target: Path) -> Path:
    """An empty file of a new name beside `target`, with the permissions that any new file has."""
    # Not tempfile.mkstemp: its files are private, and to undo that the umask must be read, which threads share.
    name = f".writing-{secrets.token_hex(8)}{''.join(target.suffixes[-2:])}"
    os.close(os.open(target.with_name(name), os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    return target.with_name(name)
