"""The extension's CMake files: every file is listed, and what is installed runs by itself."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hosting import REPOSITORY

SCRIPTED = Path("lib") / "Slicer-5.10" / "qt-scripted-modules"
SOURCE_VARIABLE = "ANYMC3D_SLICER_SOURCE"
# Loads the module from the installed tree alone, with nothing of the source tree but the host on the path.
LOADS = """
import sys
from host import start
with start() as host:
    module = host.load(sys.argv[1])
    host.started()
    widget = host.show("AnyMC3D")
    import AnyMC3DLib, AnyMC3DUI, AnyMC3DLib.resources as resources
    print(AnyMC3DLib.__file__, AnyMC3DUI.__file__, resources.resource("UI", "AnyMC3D.ui"), sep="\\n")
    print(module.title, widget.ui.classifyButton.text, widget.ui.pluginList.count, sep="\\n")
"""


INSTALLED_TESTS = ("handover", "panels", "module")
# The last of the files to be collected: by then the others have put their folders on the path.
PLACE = """
from pathlib import Path


def test_library_and_module_are_the_installed_ones() -> None:
    import AnyMC3DLib, AnyMC3DUI

    here = Path(__file__).resolve().parent / "AnyMC3D"
    assert Path(AnyMC3DLib.__file__).is_relative_to(here) and Path(AnyMC3DUI.__file__).is_relative_to(here)
"""


def cmake() -> str:
    """The program: of this Python's environment, else of the system."""
    beside = Path(sys.executable).parent / "cmake"
    found = str(beside) if beside.exists() else shutil.which("cmake")
    if found is None:
        pytest.skip("cmake is not installed: pip install cmake")
    return found


def listed(file: Path, variable: str) -> list[str]:
    return re.search(rf"set\({variable}\n(.*?)\)", file.read_text(encoding="utf-8"), re.DOTALL)[1].split()


@pytest.fixture(scope="module")
def trees(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A build tree and an install tree."""
    build, installed = tmp_path_factory.mktemp("build"), tmp_path_factory.mktemp("installed")
    config = f"-DSlicer_DIR={REPOSITORY / 'Testing' / 'Host' / 'cmake'}"
    for command in (
        [cmake(), "-S", REPOSITORY, "-B", build, config, f"-DCMAKE_INSTALL_PREFIX={installed}", "-DBUILD_TESTING=ON"],
        [cmake(), "--build", build],
        [cmake(), "--install", build],
    ):
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
    return build, installed


def files_below(folder: Path) -> list[str]:
    found = (place.relative_to(folder) for place in folder.rglob("*") if place.is_file())
    return sorted(place.as_posix() for place in found if "__pycache__" not in place.parts)


def test_every_script_of_the_module_is_listed() -> None:
    folder = REPOSITORY / "AnyMC3D"
    expected = ["AnyMC3D.py", *sorted(place.relative_to(folder).as_posix() for place in folder.glob("*/*.py"))]
    assert listed(folder / "CMakeLists.txt", "MODULE_SCRIPTS") == expected


def test_the_modules_folder_holds_no_other_script_which_slicer_would_take_for_a_module() -> None:
    assert [place.name for place in (REPOSITORY / "AnyMC3D").glob("*.py")] == ["AnyMC3D.py"]


def test_every_resource_is_listed() -> None:
    assert listed(REPOSITORY / "CMakeLists.txt", "SHARED_RESOURCES") == files_below(REPOSITORY / "Resources")


def test_what_is_installed_is_what_is_in_the_source_tree(trees: tuple[Path, Path]) -> None:
    installed = trees[1] / SCRIPTED
    expected = [
        "AnyMC3D.py",
        *(f"{part}/{name}" for part in ("AnyMC3DLib", "Resources") for name in files_below(REPOSITORY / part)),
        *(f"AnyMC3DUI/{name}" for name in files_below(REPOSITORY / "AnyMC3D" / "AnyMC3DUI")),
    ]
    left_out = {"AnyMC3DLib/CMakeLists.txt", "AnyMC3DLib/py.typed"}
    assert files_below(installed) == sorted(set(expected) - left_out)


def test_the_build_tree_holds_the_same(trees: tuple[Path, Path]) -> None:
    build, installed = trees
    assert files_below(build / SCRIPTED) == files_below(installed / SCRIPTED)


@pytest.mark.parametrize("tree", [0, 1], ids=["build tree", "install tree"])
def test_the_module_loads_from_there_with_its_own_library_and_resources(trees: tuple[Path, Path], tree: int) -> None:
    folder = trees[tree] / SCRIPTED
    paths = {"PYTHONPATH": str(REPOSITORY / "Testing" / "Host"), "QT_QPA_PLATFORM": "offscreen"}
    done = subprocess.run(
        [sys.executable, "-c", LOADS, folder / "AnyMC3D.py"],
        env={**os.environ, **paths}, cwd=trees[0], capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    places, words = done.stdout.splitlines()[-6:-3], done.stdout.splitlines()[-3:]
    assert all(Path(place).is_relative_to(folder.resolve()) for place in places)
    assert words == ["AnyMC3D", "Classify", "1"]


def test_what_is_installed_passes_the_modules_tests(trees: tuple[Path, Path], tmp_path: Path) -> None:
    """In a folder with the tests and the installed tree, where neither this project's sources nor its settings are."""
    shutil.copytree(REPOSITORY / "Testing", tmp_path / "Testing", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(trees[1] / SCRIPTED, tmp_path / "AnyMC3D")
    (tmp_path / "Resources").symlink_to(tmp_path / "AnyMC3D" / "Resources")
    (tmp_path / "pytest.ini").write_text("[pytest]\n", encoding="utf-8")
    (tmp_path / "test_place.py").write_text(PLACE, encoding="utf-8")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "COV_"))}
    files = [*(tmp_path / "Testing" / "Module" / f"test_{p}.py" for p in INSTALLED_TESTS), tmp_path / "test_place.py"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *files],
        env=environment, cwd=tmp_path, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert int(re.search(r"(\d+) passed", done.stdout)[1]) > 50


def test_the_self_test_and_the_generic_test_are_registered(trees: tuple[Path, Path]) -> None:
    ctest = Path(cmake()).parent / "ctest"
    done = subprocess.run([ctest, "-N"], cwd=trees[0], capture_output=True, text=True, check=True)
    assert "py_AnyMC3D" in done.stdout
    assert "py_nomainwindow_qSlicerAnyMC3DModuleGenericTest" in done.stdout


def test_the_extension_depends_on_pytorch(trees: tuple[Path, Path]) -> None:
    facts = dict(line.split("=") for line in (trees[0] / "extension.txt").read_text().splitlines())
    assert facts == {"name": "AnyMC3D", "depends": "PyTorch", "category": "Classification"}
    entry = json.loads((REPOSITORY / "AnyMC3D.json").read_text(encoding="utf-8"))
    assert entry["build_dependencies"] == [facts["depends"]]
    assert entry["category"] == facts["category"]


@pytest.mark.skipif(SOURCE_VARIABLE not in os.environ, reason=f"{SOURCE_VARIABLE} names no Slicer source tree")
def test_with_slicers_sources_its_own_macros_are_used(trees: tuple[Path, Path]) -> None:
    generic = trees[0] / "AnyMC3D" / "qSlicerAnyMC3DModuleGenericTest.py"
    assert generic.read_text() == "# AnyMC3D\n"
