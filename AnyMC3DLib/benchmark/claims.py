"""Who works on which row, so that several processes and machines on one folder do not compute it twice.

A claim is a file that is made once and touched while its owner lives. That of a process of this machine which is gone
is void, and one of another machine that was not touched for some minutes.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import secrets
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

from ..errors import InputError

BEAT_S, VOID_AFTER_S = 20.0, 300.0


@contextlib.contextmanager
def claimed(place: Path) -> Iterator[bool]:
    """Claim `place` for the block; False where another process has it. Raises InputError if it cannot be written."""
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        mine = _make(place) or (_is_void(place) and _taken_away(place) and _make(place))
    except OSError as error:
        raise InputError(f"Cannot write '{place}': {error.strerror or error}; choose another folder.") from error
    if not mine:
        yield False
        return
    done = threading.Event()
    beat = threading.Thread(target=_beat, args=(place, done), daemon=True)
    beat.start()
    try:
        yield True
    finally:
        done.set()
        beat.join()
        place.unlink(missing_ok=True)


def _make(place: Path) -> bool:
    try:
        handle = os.open(place, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
    except FileExistsError:
        return False
    with os.fdopen(handle, "w", encoding="utf-8") as stream:
        json.dump(_owner(), stream)
    return True


def _owner() -> dict[str, object]:
    # A process number comes again; with the time of its start it does not.
    return {"machine": platform.node(), "process": os.getpid(), "since": psutil.Process().create_time()}


def _is_void(place: Path) -> bool:
    try:
        age = time.time() - place.stat().st_mtime
        owner = json.loads(place.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return True
    except ValueError:
        # Made this moment, or by a process that ended before it had written.
        return age > BEAT_S
    if owner.get("machine") == platform.node():
        try:
            return psutil.Process(owner["process"]).create_time() != owner["since"]
        except (psutil.NoSuchProcess, KeyError, TypeError, ValueError):
            return True
    return age > VOID_AFTER_S


def _taken_away(place: Path) -> bool:
    """Whether this process, of all that see the claim void, is the one that takes it away."""
    aside = place.with_name(f".{place.name}.{secrets.token_hex(8)}")
    try:
        place.rename(aside)
    except FileNotFoundError:
        return True
    # Another may have taken the void one away and made its own in between: that is given back.
    if not _is_void(aside):
        with contextlib.suppress(OSError):
            aside.rename(place)
        return False
    aside.unlink(missing_ok=True)
    return True


def _beat(place: Path, done: threading.Event) -> None:
    while not done.wait(BEAT_S):
        with contextlib.suppress(OSError):
            os.utime(place)
