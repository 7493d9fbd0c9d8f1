"""A process that dies while it writes: every file is whole or absent, and what stayed disturbs nobody."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("resource", reason="Windows has no such signals")

from faults.disk import check_after_death, died, size_of
from faults.outputs import OUTPUTS, write_and_tell

from AnyMC3DLib import files

# The replacement of a file, and of a folder in the slice cache.
PLACES: dict[str, tuple[Any, str, str]] = {
    "before the file is on the disk": (files, "_flush_to_disk", "before"),
    "before it takes its place": (Path, "replace", "before"),
    "after it took its place": (Path, "replace", "after"),
    "before a folder takes its place": (Path, "rename", "before"),
    "after a folder took its place": (Path, "rename", "after"),
}


@pytest.mark.parametrize("share", [0.0, 0.35, 0.99])
@pytest.mark.parametrize("name", OUTPUTS)
def test_a_process_that_dies_within_a_write_leaves_the_one_before(name: str, share: float, tmp_path: Path) -> None:
    size = int(share * size_of(name))
    OUTPUTS[name].write(tmp_path, 0)
    assert died(name, size, tmp_path)
    check_after_death(name, tmp_path, before={0}, dead=True)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("name", OUTPUTS)
def test_a_process_that_is_killed_around_the_replacement_leaves_one_of_the_two(
    name: str, place: str, tmp_path: Path
) -> None:
    size_of(name)
    OUTPUTS[name].write(tmp_path, 0)
    process = multiprocessing.get_context("fork").Process(target=_killed_at, args=(place, name, tmp_path))
    process.start()
    process.join()
    assert process.exitcode in (0, -signal.SIGKILL)
    is_folder = name == "an entry of the slice cache"
    assert (process.exitcode != 0) is (is_folder is ("folder" in place))
    check_after_death(name, tmp_path, before={0}, dead=process.exitcode != 0)


def _killed_at(place: str, name: str, folder: Path) -> None:
    owner, attribute, when = PLACES[place]
    inner: Callable[..., Any] = getattr(owner, attribute)

    def outer(*arguments: Any, **named: Any) -> Any:
        if when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        inner(*arguments, **named)
        os.kill(os.getpid(), signal.SIGKILL)

    setattr(owner, attribute, outer)
    write_and_tell(name, folder, 1)
    os._exit(0)


def test_the_next_checkpoint_sweeps_what_a_dead_process_left(tmp_path: Path) -> None:
    name = "a checkpoint"
    assert died(name, size_of(name) // 2, tmp_path)
    # The library's temporary file, and that of the safetensors library within it.
    assert len(list((tmp_path / "state").glob(".*"))) == 2
    OUTPUTS[name].write(tmp_path, 1)
    assert [path.name for path in (tmp_path / "state").iterdir()] == ["state-00000001.safetensors"]


@pytest.mark.parametrize("name", ["an imported backbone", "an entry of the feature cache"])
def test_what_a_dead_process_left_is_swept_once_it_is_old(name: str, tmp_path: Path) -> None:
    assert died(name, size_of(name) // 2, tmp_path)
    left = list(tmp_path.glob("*/.*"))
    OUTPUTS[name].write(tmp_path, 0)
    assert left and all(path.exists() for path in left)
    for path in left:
        os.utime(path, (0, 0))
    OUTPUTS[name].write(tmp_path, 1)
    assert not any(path.exists() for path in left)
