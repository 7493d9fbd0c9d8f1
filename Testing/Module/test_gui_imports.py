"""What runs in the application's process computes nothing and reads no voxels: it does not even import what could."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
MODULE = REPOSITORY / "AnyMC3D"
SOURCES = sorted(MODULE.rglob("*.py"))
ROOMS = sorted(path.stem for path in (MODULE / "AnyMC3DUI").glob("*.py") if path.stem != "__init__")
# Libraries that compute, or read images; an application without them shows the module all the same.
HEAVY = (
    "torch",
    "torchvision",
    "timm",
    "monai",
    "SimpleITK",
    "sklearn",
    "scipy",
    "safetensors",
    "huggingface_hub",
    "peft",
)
# What of the library needs little more than the standard library, and does nothing that takes long.
LIGHT_ROOMS = {
    "backbone_store", "catalogue", "client", "control", "errors", "files", "messages", "operating_points", "plugin",
    "plugin_edit", "progress", "protocol", "records", "resources", "spec", "transport", "wording",
    "training.dataset", "training.dataset_split", "training.presets", "training.pseudonym", "training.task",
}  # fmt: skip
# Files of a dataset are written and read with SimpleITK, which the application has, and in threads of their own.
FILE_ROOMS = {
    "case_loader.py": {"volume"},
    "dataset_adding.py": {"training.manifest_headers"},
    "dataset_store.py": {"volume"},
    "mask_grid.py": {"volume", "training.manifest_headers"},
}  # fmt: skip
# The hand-over, piece by piece, is the one place where voxels are written and read.
HAND_OVER = {"array_file.py"}
VOXEL_IO = {"load", "save", "savez", "savez_compressed", "fromfile", "tofile", "memmap", "genfromtxt", "loadtxt"}
BLOCKING = {"sleep", "waitForStarted", "waitForReadyRead", "waitForBytesWritten", "check_call", "check_output"}
IMPORTS = """
import importlib, sys

class Refused:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {heavy}:
            raise ImportError(name + " must not be imported in the application's process")

sys.meta_path.insert(0, Refused())
from host.start import prepare
prepare()
for room in {rooms}:
    importlib.import_module("AnyMC3DUI." + room)
"""


def test_the_module_is_imported_without_what_computes() -> None:
    paths = [REPOSITORY, MODULE, REPOSITORY / "Testing" / "Host"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, paths)), "QT_QPA_PLATFORM": "offscreen"}
    code = IMPORTS.format(heavy=set(HEAVY), rooms=ROOMS)
    ran = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr


def calls(path: Path) -> Iterator[tuple[int, str, str]]:
    """Line, what the function is looked up on, and its name, for each call in a file."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            if isinstance(node.func, ast.Attribute):
                yield node.lineno, ast.unparse(node.func.value), node.func.attr
            elif isinstance(node.func, ast.Name):
                yield node.lineno, "", node.func.id


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Line and dotted name of each import in a file, those within functions too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_no_file_of_the_module_imports_what_computes(path: Path) -> None:
    for line, name in imports(path):
        parts = name.split(".")
        assert parts[0] not in HEAVY, f"{path.name}:{line} imports {name}"
        if parts[0] == "AnyMC3DLib" and len(parts) > 1:
            room = ".".join(parts[1:3]) if parts[1] == "training" else parts[1]
            allowed = LIGHT_ROOMS | {"__version__"} | FILE_ROOMS.get(path.name, set())
            assert room in allowed, f"{path.name}:{line} imports {name}"
            if parts[1] == "plugin":
                assert parts[2:] in ([], ["read_spec"]), f"{path.name}:{line} imports {name}"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_no_file_of_the_module_reads_or_writes_voxels_beyond_the_hand_over(path: Path) -> None:
    for line, owner, name in calls(path):
        if path.name in HAND_OVER:
            continue
        numpy = owner in ("np", "numpy") or name in ("fromfile", "tofile")
        assert not (numpy and name in VOXEL_IO), f"{path.name}:{line} calls {owner}.{name}"
        assert not owner.startswith(("npy", "np.lib.format", "sitk")), f"{path.name}:{line} calls {owner}.{name}"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_no_file_of_the_module_waits_on_the_thread_of_the_application(path: Path) -> None:
    for line, owner, name in calls(path):
        assert name not in BLOCKING, f"{path.name}:{line} calls {owner}.{name}"
        if name == "waitForFinished":
            # At the end of the application, where no event loop runs any more.
            assert path.name == "worker_process.py", f"{path.name}:{line} waits"
