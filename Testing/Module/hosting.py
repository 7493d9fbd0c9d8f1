"""The stand-in for the application in tests, and fakes of the roles behind the panels."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")

REPOSITORY = Path(__file__).resolve().parents[2]
MODULE = REPOSITORY / "AnyMC3D" / "AnyMC3D.py"
for place in (REPOSITORY / "Testing" / "Host", REPOSITORY / "AnyMC3D", REPOSITORY):
    if str(place) not in sys.path:
        sys.path.insert(0, str(place))

import numpy as np  # noqa: E402
import pytest  # noqa: E402

pytest.importorskip("PySide6", reason="PySide6 is not installed: pip install -e '.[gui]'")
pytest.importorskip("slicer", reason="slicer-core is not installed: pip install -e '.[gui]'")

import ctk  # noqa: E402, F401 - for the tests, which cannot import it before the path is set
import qt  # noqa: E402, F401
import slicer  # noqa: E402
from host import Host, start  # noqa: E402


@contextlib.contextmanager
def nothing_raised() -> Iterator[None]:
    """What a callback of Qt or VTK raises is printed and forgotten there; here it fails the test."""
    raised: list[BaseException] = []
    before, sys.excepthook = sys.excepthook, lambda kind, error, trace: raised.append(error)
    try:
        yield
    finally:
        sys.excepthook = before
    if raised:
        raise raised[0]


@pytest.fixture
def host() -> Iterator[Host]:
    """The application without views."""
    with nothing_raised(), start() as running:
        yield running


@pytest.fixture
def seen_host() -> Iterator[Host]:
    """The application with its views, drawn offscreen."""
    with nothing_raised(), start(views=True) as running:
        yield running


def add_volume(name: str = "CT", *, shape: tuple[int, int, int] = (6, 8, 10), origin: float = 0.0) -> Any:
    """A small volume in the scene, 2 mm a voxel."""
    affine = np.diag([2.0, 2.0, 2.0, 1.0])
    affine[:3, 3] = origin
    array = np.arange(np.prod(shape), dtype=np.int16).reshape(shape)
    return slicer.util.addVolumeFromArray(array, ijkToRAS=affine, name=name)


def prediction(
    name: str = "Head lesion",
    probabilities: dict[str, float] | None = None,
    *,
    decisions: dict[str, bool] | None = None,
    thresholds: dict[str, float] | None = None,
    warnings: tuple[str, ...] = (),
    spots: dict[str, list[tuple[tuple[float, float, float], float]]] | None = None,
    views: tuple[str, ...] = ("axial",),
) -> dict[str, Any]:
    """An answer as the worker gives it."""
    probabilities = probabilities or {"normal": 0.03, "lesion": 0.97}
    thresholds = thresholds or dict.fromkeys(probabilities, 0.5)
    decisions = decisions or {key: value >= thresholds[key] for key, value in probabilities.items()}
    spots = spots if spots is not None else {"lesion": [((12.0, -20.0, 31.0), 0.94), ((-4.0, 8.0, 10.0), 0.61)]}
    slices = [{"weight": weight, "ras": [0.0, 0.0, 10.0 * index]} for index, weight in enumerate((0.1, 0.2, 0.6, 0.1))]
    return {
        "plugin": {"name": name, "version": "1", "intended_use": "Research only, not for clinical use."},
        "probabilities": probabilities,
        "decisions": decisions,
        "thresholds": thresholds,
        "views": {view: {"axis": "axial", "weight": 1 / len(views), "slices": slices} for view in views},
        "hot_spots": {key: [{"ras": list(ras), "heat": heat} for ras, heat in found] for key, found in spots.items()},
        "warnings": list(warnings),
        "provenance": {"device": "cpu"},
    }


class FakeSession:
    """A session that does as the test says."""

    def __init__(self) -> None:
        self.device = "auto"
        self.busy = False
        self.asked: list[Any] = []
        self.cancelled = 0
        self.renders: list[dict[str, Any]] = []

    def classify(self, ticked: list[Any]) -> None:
        self.asked.append(ticked)
        self.busy = True

    def cancel(self) -> None:
        self.cancelled += 1

    def render(self, plugin: str, class_name: str | None, **how: Any) -> None:
        self.renders.append({"plugin": plugin, "class": class_name, **how})


class FakeOverlay:
    """An overlay that remembers what it was told."""

    def __init__(self) -> None:
        self.visible, self.opacity, self.threshold = False, 0.0, 0.0
        self.ended = lambda: None
        self.troubled = lambda sentence: None
        self.shown: list[tuple[Any, Any, str]] = []

    def show(self, anatomy: Any, heat: Any, caption: str) -> None:
        self.visible = True
        self.shown.append((anatomy, heat, caption))

    def hide(self) -> None:
        self.visible = False
