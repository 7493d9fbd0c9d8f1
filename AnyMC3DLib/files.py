"""Files are written whole or not at all. Needs the standard library alone."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import InputError


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a temporary path in the folder of `path`; when the block ends well, it replaces `path`.

    The temporary name keeps the ending, since image writers choose the format by it. When the block fails nothing
    of it stays, and the file that was there is untouched.
    """
    target = Path(path)
    if target.is_dir():
        raise InputError(f"Cannot write '{target}': it is a folder; give a file name.")
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
    target = Path(path)
    if target.is_dir():
        raise InputError(f"Cannot write '{target}': it is a folder; give a file name.")
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


def _flush_to_disk(path: Path) -> None:
    with path.open("rb+") as stream:
        os.fsync(stream.fileno())


def _new_file(target: Path) -> Path:
    """An empty file of a new name beside `target`, with the permissions that any new file has."""
    # Not tempfile.mkstemp: its files are private, and to undo that the umask must be read, which threads share.
    name = f".writing-{secrets.token_hex(8)}{''.join(target.suffixes[-2:])}"
    os.close(os.open(target.with_name(name), os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    return target.with_name(name)
