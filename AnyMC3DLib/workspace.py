"""The worker's private temporary folder: what clients and worker hand each other as files."""

from __future__ import annotations

import os
import re
import secrets
import shutil
import stat
import tempfile
from collections.abc import Iterable
from pathlib import Path

import psutil

from .errors import InputError

# Where the folder is made, in the place of the system's folder for temporary files.
BASE_VARIABLE = "ANYMC3D_WORKER_BASE"
NAME = re.compile(r"anymc3d-worker-(?P<pid>\d{1,10})-(?P<created>\d{1,16})-[0-9a-f]{16}")
# The system's clock is set now and then, and with it the times at which processes seem to have begun.
CLOCK_TOLERANCE_MS = 5000
REMOVALS = 10


class Workspace:
    """A folder that only its owner may enter; its name says which process it belongs to."""

    def __init__(self, base: str | Path | None = None) -> None:
        parent = base_folder(base)
        name = f"anymc3d-worker-{os.getpid()}-{_created_ms(os.getpid())}-{secrets.token_hex(8)}"
        # As the system knows it, so that names of files can be compared with it.
        self.path = parent.resolve() / name
        try:
            self.path.mkdir(mode=0o700)
        except OSError as error:
            raise InputError(
                f"No folder can be made in '{parent}': {error.strerror or error}; choose another in {BASE_VARIABLE}."
            ) from error

    def new_file(self, ending: str = ".npy") -> Path:
        """A path in the folder that no file has."""
        return self.path / f"{secrets.token_hex(8)}{ending}"

    def owns(self, path: str | Path) -> bool:
        """Whether `path` is of a file in the folder, and no link to one elsewhere."""
        try:
            return Path(path).resolve().is_relative_to(self.path) and Path(path).resolve() != self.path
        except (OSError, ValueError, RuntimeError):
            return False

    def discard(self, paths: Iterable[str | Path]) -> None:
        """Delete those of the files that lie in the folder; the others are somebody else's."""
        for path in paths:
            if self.owns(path):
                _unlink(Path(path))

    def remove(self) -> None:
        """Delete the folder and all in it."""
        # Another thread may be writing a file into it: once the folder is gone, it cannot write the next.
        for _ in range(REMOVALS):
            shutil.rmtree(self.path, ignore_errors=True)
            if not self.path.exists():
                return


def base_folder(base: str | Path | None = None) -> Path:
    """Where private folders are made: `base`, what the environment says, or the system's temporary folder."""
    return Path(base or os.environ.get(BASE_VARIABLE) or tempfile.gettempdir())


def sweep(base: str | Path | None = None) -> list[Path]:
    """Delete the private folders of this user's workers that are gone, and return them."""
    swept = []
    try:
        places = list(base_folder(base).iterdir())
    except OSError:
        return []
    for place in places:
        match = NAME.fullmatch(place.name)
        if match and _is_ours(place) and not _is_alive(int(match["pid"]), int(match["created"])):
            shutil.rmtree(place, ignore_errors=True)
            swept.append(place)
    return swept


def _unlink(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError:
        # Windows keeps a file that somebody has open; it goes with the folder.
        return


def _is_ours(place: Path) -> bool:
    try:
        status = place.lstat()
    except OSError:
        return False
    # Only systems with owners have them to compare.
    return stat.S_ISDIR(status.st_mode) and (not hasattr(os, "getuid") or status.st_uid == os.getuid())


def _created_ms(pid: int) -> int:
    return round(psutil.Process(pid).create_time() * 1000)


def _is_alive(pid: int, created: int) -> bool:
    try:
        if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            return False
        return abs(_created_ms(pid) - created) <= CLOCK_TOLERANCE_MS
    except psutil.AccessDenied:
        # Somebody runs under that number, and we cannot see since when.
        return True
    except (psutil.Error, OSError, OverflowError, ValueError):
        return False
