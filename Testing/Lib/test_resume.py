"""A run that was ended by force at any moment goes on to the very weights of one that was left alone."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import time
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess
from pathlib import Path

import interrupted_run
import pytest
from interrupted_run import PLACES
from safetensors.torch import load_file

UNIX = pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGKILL")
pytestmark = UNIX
MOMENTS = 20


@pytest.fixture(scope="module")
def server() -> BaseContext:
    """Processes that have all libraries at hand from their first moment."""
    return multiprocessing.get_context("fork")


def begin(server: BaseContext, folder: Path, *killed_at: object) -> BaseProcess:
    process = server.Process(target=interrupted_run.train, args=(folder, *killed_at))
    process.start()
    return process


def run_to_the_end(server: BaseContext, folder: Path, *killed_at: object) -> int:
    process = begin(server, folder, *killed_at)
    process.join()
    assert process.exitcode in (0, -signal.SIGKILL)
    return process.exitcode


@pytest.fixture(scope="module")
def undisturbed(server: BaseContext, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict, float]:
    """The weights of a run that was left alone, and how many seconds it took."""
    folder = tmp_path_factory.mktemp("undisturbed")
    run_to_the_end(server, tmp_path_factory.mktemp("warm"))
    began = time.monotonic()
    assert run_to_the_end(server, folder) == 0
    return load_file(folder / "plugin.safetensors"), time.monotonic() - began


def check_same(folder: Path, expected: dict) -> None:
    found = load_file(folder / "plugin.safetensors")
    assert set(found) == set(expected)
    for name, tensor in expected.items():
        assert found[name].equal(tensor), name


@pytest.mark.parametrize("place", PLACES)
def test_a_run_that_was_killed_there_goes_on_as_if_it_had_not_been(
    place: str, server: BaseContext, undisturbed: tuple[dict, float], tmp_path: Path
) -> None:
    # Once early and, where the place is reached so often, once later.
    kills = [run_to_the_end(server, tmp_path, place, count) for count in (1, 3)]
    assert kills[0] == -signal.SIGKILL
    assert run_to_the_end(server, tmp_path) == 0
    check_same(tmp_path, undisturbed[0])
    assert not [path for path in tmp_path.rglob("*") if path.name.startswith(".writing") and path.stat().st_size]


def test_a_run_that_was_killed_at_random_moments_goes_on_as_if_it_had_not_been(
    server: BaseContext, undisturbed: tuple[dict, float], tmp_path: Path
) -> None:
    expected, seconds = undisturbed
    chance = random.Random(0)
    for number in range(MOMENTS):
        folder = tmp_path / str(number)
        process = begin(server, folder)
        process.join(chance.uniform(0.05, 1.0) * seconds)
        process.kill()
        process.join()
        assert run_to_the_end(server, folder) == 0
        check_same(folder, expected)
