"""What every headless test of the library may ask for."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from places import REPOSITORY


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real images; the test is skipped where it is absent."""
    named = os.environ.get("ANYMC3D_TEST_DATA")
    folder = Path(named) if named else REPOSITORY.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"needs real images, and there is no folder {folder}: name one in ANYMC3D_TEST_DATA")
    return folder


@pytest.fixture(autouse=True)
def no_backbones_of_this_user(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """What somebody installed on this machine is nothing to the tests."""
    monkeypatch.setenv("ANYMC3D_BACKBONES", str(tmp_path_factory.getbasetemp() / "no-backbones"))
