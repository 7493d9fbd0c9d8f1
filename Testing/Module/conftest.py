from __future__ import annotations

import gc
import importlib.util
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from scene import Scene

# The application puts the module's own folder on the path.
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "AnyMC3D"))
if sys.platform == "linux" and not os.environ.get("DISPLAY"):
    # Without a screen VTK would look for one first, and complain.
    os.environ.setdefault("VTK_DEFAULT_OPENGL_WINDOW", "vtkEGLRenderWindow")

HAS_SLICER = importlib.util.find_spec("slicer") is not None
SCENE_TESTS = [
    f"test_{part}.py"
    for part in ("fused", "handover", "overlay", "overlay_slices", "overlay_volume", "result_places", "results")
]
collect_ignore = [] if HAS_SLICER else SCENE_TESTS


def pytest_report_header() -> str:
    """Say which tests are left out, and how to have them."""
    return "" if HAS_SLICER else "no tests of the scene: slicer-core is not installed (pip install -e '.[gui]')"


@pytest.fixture(scope="session")
def imported() -> None:
    """What the imports left is no garbage, and need not be looked at again and again."""
    gc.freeze()


@pytest.fixture(autouse=True)
def no_collection_within_a_test(imported: None) -> Iterator[None]:
    """Widgets and nodes that are garbage go between tests: in the midst of its own work Qt may not survive that."""
    gc.disable()
    yield
    gc.enable()
    gc.collect()


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    """A scene with its views, drawn offscreen."""
    from scene import Scene

    made = Scene(tmp_path)
    yield made
    made.close()


@pytest.fixture(autouse=True)
def no_backbones_of_this_user(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """What somebody installed on this machine is nothing to the tests."""
    monkeypatch.setenv("ANYMC3D_BACKBONES", str(tmp_path_factory.getbasetemp() / "no-backbones"))
