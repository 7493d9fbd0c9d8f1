"""A disk that fills while something is written, and a process that dies then, at places drawn at random."""

from __future__ import annotations

import contextlib
import functools
import multiprocessing
import os
import resource
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

from hypothesis import strategies as st

from AnyMC3DLib.errors import InputError

from .bench import bounded
from .fault import Fault, Outcome, refused
from .outputs import OUTPUTS, check_after, told_of_disk, write_and_tell

GROUP = "full disks and sudden deaths"
WAIT_S = 180.0


@functools.cache
def size_of(name: str) -> int:
    """The bytes of the largest file of an output; also loads all that writing it needs."""
    with tempfile.TemporaryDirectory() as folder:
        OUTPUTS[name].write(Path(folder), 1)
        return max(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file())


@contextlib.contextmanager
def at_most(size: int) -> Iterator[None]:
    """No file of this process can grow past so many bytes; the system refuses what goes beyond."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    # Python leaves that signal ignored, so that a write fails instead.
    assert signal.getsignal(signal.SIGXFSZ) is signal.SIG_IGN
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def full_disk(name: str, size: int, folder: Path, *, old: bool) -> Outcome:
    """Write version 1 of an output, over version 0 or where nothing is, into files that cannot grow past `size`."""
    if old:
        OUTPUTS[name].write(folder, 0)
    with at_most(size):
        told = write_and_tell(name, folder, 1)
    check_after(name, folder, before={0} if old else set(), told=told)
    if not told:
        return Outcome.WORKED
    assert told_of_disk(told[0]) and str(folder) in told[0], told
    return refused(InputError(told[0]))


def _full(case: tuple[str, float, bool], folder: Path) -> Outcome:
    name, share, old = case
    size = int(share * size_of(name))
    with bounded():
        return full_disk(name, size, folder, old=old)


def _die_at(name: str, size: int, folder: Path) -> None:
    """In a process of its own: die by the system's hand once a file is `size` bytes long."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
    write_and_tell(name, folder, 1)
    os._exit(0)


def died(name: str, size: int, folder: Path) -> bool:
    """Whether a process died when it wrote version 1 of an output into files that may have `size` bytes."""
    process = multiprocessing.get_context("fork").Process(target=_die_at, args=(name, size, folder))
    process.start()
    process.join(WAIT_S)
    process.kill()
    process.join()
    assert process.exitcode in (0, -signal.SIGXFSZ), process.exitcode
    return process.exitcode != 0


def check_after_death(name: str, folder: Path, *, before: set[int], dead: bool) -> None:
    """Fail unless the old version or the new one is read, and the next process writes as if nothing had been."""
    found = OUTPUTS[name].read(folder)
    assert found >= before or found == {1}, f"neither the old one nor the new one: {found}"
    assert dead or 1 in found
    told = write_and_tell(name, folder, 1)
    assert not told, told
    assert 1 in OUTPUTS[name].read(folder)


def _death(case: tuple[str, float, bool], folder: Path) -> Outcome:
    name, share, old = case
    size = int(share * size_of(name))
    if old:
        OUTPUTS[name].write(folder, 0)
    dead = died(name, size, folder)
    check_after_death(name, folder, before={0} if old else set(), dead=dead)
    shutil.rmtree(folder)
    return Outcome.WORKED


CASES = st.tuples(st.sampled_from(sorted(OUTPUTS)), st.floats(0, 1.1), st.booleans())
FAULTS = [
    Fault(group=GROUP, name="the disk fills at any byte of a heatmap, state, cache, plugin, report, record, backbone",
          cases=CASES, judge=_full, quick=12, full=400),
    Fault(group=GROUP, name="the process dies at any byte of them", cases=CASES, judge=_death, quick=6, full=200),
]  # fmt: skip
