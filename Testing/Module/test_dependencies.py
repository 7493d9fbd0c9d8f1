"""What is missing, the question about it, and its installation; nothing is installed here."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from AnyMC3DUI import dependencies
from AnyMC3DUI.dependencies import Dependencies, InstallError, Tools, read_requirements

from AnyMC3DLib.errors import InputError

REPOSITORY = Path(__file__).resolve().parents[2]
NEEDED = ["torch>=2.6", "timm>=1.0", "numpy>=2.0", 'winreg>=1; sys_platform == "none"']


class Environment:
    """A Python environment that is only told about."""

    def __init__(self, *, extension: bool = True, **installed: str) -> None:
        self.installed, self.available = installed, {"torch": "2.9.0", "timm": "1.0.24", "numpy": "2.3"}
        self.imported: set[str] = set()
        self.calls: list[list[str]] = []
        self.allowed = True
        self.fails: Exception | None = None
        self.tools = Tools(
            version_of=self.installed.get,
            versions=lambda: dict(self.installed),
            pip_install=self.pip,
            install_torch=self.torch if extension else None,
            is_imported=self.imported.__contains__,
            allowed=lambda: self.allowed,
        )

    def pip(self, arguments: list[str]) -> None:
        place = arguments.index("-c")
        self.constraints = Path(arguments[place + 1]).read_text(encoding="utf-8").split()
        self.calls.append(arguments[:place] + arguments[place + 2 :])
        if self.fails:
            raise self.fails
        for argument in arguments:
            name = argument.partition(">")[0]
            if name in self.available:
                self.installed[name] = self.available[name]

    def torch(self, demand: str) -> bool:
        self.calls.append(["extension", demand])
        if self.fails:
            raise self.fails
        if "torch" in self.available:
            self.installed["torch"] = self.available["torch"]
        return "torch" in self.available


def names(environment: Environment) -> list[str]:
    return [one.name for one in Dependencies(environment.tools, NEEDED).missing()]


def test_what_is_absent_or_too_old_is_missing_and_nothing_else() -> None:
    assert names(Environment()) == ["torch", "timm", "numpy"]
    assert names(Environment(torch="2.5.1", timm="1.0.24", numpy="2.0.2")) == ["torch"]
    assert names(Environment(torch="2.9.0+cu128", timm="1.1.0.dev0", numpy="2.0.2")) == []
    assert names(Environment(torch="2.9.0", timm="built by hand", numpy="2.0.2")) == []


def test_the_requirements_are_those_of_the_package() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))
    assert read_requirements() == project["project"]["dependencies"]


def test_a_damaged_list_of_requirements_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / "Requirements.json"
    monkeypatch.setattr(dependencies, "resource", lambda *_: place)
    for content in ("", "[]", "{}", json.dumps({"packages": ["not a >> requirement"]})):
        place.write_text(content, encoding="utf-8")
        with pytest.raises(InputError, match="install AnyMC3D again"):
            read_requirements()


def test_the_question_names_what_is_missing_and_how_it_comes(tmp_path: Path) -> None:
    question = Dependencies(Environment(numpy="1.26").tools, NEEDED).question()
    assert "torch, timm, numpy" in question.text and "PyTorch extension chooses" in question.text
    assert question.text.endswith("Install now?") and question.text.count("?") == 1
    assert question.details.splitlines() == ["torch>=2.6", "timm>=1.0", "numpy>=2.0, but 1.26 is installed"]
    without = Dependencies(Environment(extension=False).tools, NEEDED).question()
    assert "Without the PyTorch extension" in without.text
    offline = Dependencies(Environment().tools, NEEDED).question(wheels=tmp_path)
    assert str(tmp_path) in offline.text and "without the internet" in offline.text and "download" not in offline.text


def test_a_long_list_is_cut_and_one_package_is_one() -> None:
    many = Dependencies(Environment().tools, [f"package{n}" for n in range(7)]).question()
    assert "package0, package1, package2, package3 and 3 more" in many.text
    one = Dependencies(Environment(torch="2.9", numpy="2.1").tools, NEEDED).question()
    assert "a Python package that is not installed yet: timm." in one.text


def test_torch_comes_through_the_extension_and_the_rest_through_pip() -> None:
    environment, told = Environment(numpy="2.0"), []
    assert Dependencies(environment.tools, NEEDED).install(progress=told.append) == ()
    assert environment.calls == [["extension", ">=2.6"], ["timm>=1.0"]]
    assert told[0] == "Installing PyTorch" and told[1].startswith("Installing timm. ")


def test_what_the_application_has_already_is_not_exchanged() -> None:
    environment = Environment(numpy="2.0.2", SimpleITK="2.5.3", odd="built by hand", timm="0.9", extension=True)
    Dependencies(environment.tools, NEEDED).install()
    assert environment.constraints == ["numpy==2.0.2", "SimpleITK==2.5.3", "torch==2.9.0"]


def test_without_the_extension_all_come_through_pip() -> None:
    environment = Environment(extension=False)
    Dependencies(environment.tools, NEEDED).install()
    assert environment.calls == [["torch>=2.6", "timm>=1.0", "numpy>=2.0"]]


def test_what_is_there_is_not_installed_again() -> None:
    environment = Environment(torch="2.9", timm="1.0.24", numpy="2.0")
    assert Dependencies(environment.tools, NEEDED).install() == ()
    assert environment.calls == []


def test_a_folder_of_wheels_is_the_only_source(tmp_path: Path) -> None:
    environment = Environment()
    Dependencies(environment.tools, NEEDED).install(wheels=tmp_path)
    assert environment.calls == [["--no-index", "--find-links", str(tmp_path), "torch>=2.6", "timm>=1.0", "numpy>=2.0"]]
    with pytest.raises(InstallError, match="There is no folder"):
        Dependencies(environment.tools, NEEDED).install(wheels=tmp_path / "absent")


def test_a_restart_is_needed_only_for_what_was_imported_and_has_changed() -> None:
    environment = Environment(torch="2.9", timm="0.9", numpy="1.26", other="1")
    environment.imported.update({"numpy", "other", "torch"})
    assert Dependencies(environment.tools, NEEDED).install() == ("numpy",)


def test_nothing_is_installed_during_tests() -> None:
    environment = Environment()
    environment.allowed = False
    with pytest.raises(InstallError, match="tested"):
        Dependencies(environment.tools, NEEDED).install()
    assert environment.calls == []


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (subprocess.CalledProcessError(1, ["pip"]), "pip ended with 1"),
        (RuntimeError("PythonSlicer executable not found"), "PythonSlicer executable not found"),
    ],
)
@pytest.mark.parametrize("extension", [True, False])
def test_a_failed_installation_is_told_in_one_sentence(error: Exception, words: str, extension: bool) -> None:
    environment = Environment(extension=extension)
    environment.fails = error
    with pytest.raises(InstallError, match=words) as caught:
        Dependencies(environment.tools, NEEDED).install()
    assert "\n" not in str(caught.value) and str(caught.value).endswith(".")


def test_what_is_still_missing_afterwards_is_told() -> None:
    environment = Environment(torch="2.9", numpy="2.0")
    environment.available = {}
    with pytest.raises(InstallError, match=r"Still missing after the installation: timm>=1\.0"):
        Dependencies(environment.tools, NEEDED).install()
    declined = Environment()
    declined.available = {}
    with pytest.raises(InstallError, match="PyTorch was not installed"):
        Dependencies(declined.tools, NEEDED).install()


def test_versions_of_this_python_are_read_without_an_import() -> None:
    assert dependencies.version_of("no-such-package") is None
    assert dependencies.version_of("numpy") == dependencies.versions()["numpy"]
    assert dependencies.is_imported("pytest") and not dependencies.is_imported("no-such-package")


class Slicer:
    """As much of the application as the installation touches."""

    def __init__(self, *, packaging: bool, extension: bool) -> None:
        self.calls: list[Any] = []
        self.app = dataclasses.make_dataclass("App", [])()
        self.app.testingEnabled = lambda: False
        self.modules = dataclasses.make_dataclass("Modules", [])()
        if extension:
            self.modules.pytorchutils = object()
        self.util = dataclasses.make_dataclass("Util", [])()
        self.util.pip_install = lambda arguments: self.calls.append(("util", arguments))
        self.packaging = dataclasses.make_dataclass("Packaging", [])() if packaging else None
        if packaging:
            self.packaging.pip_install = lambda arguments, **more: self.calls.append(("packaging", arguments, more))


@pytest.mark.parametrize("packaging", [True, False])
@pytest.mark.parametrize("extension", [True, False])
def test_the_tools_of_the_application_are_those_it_has(
    packaging: bool, extension: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    slicer = Slicer(packaging=packaging, extension=extension)
    monkeypatch.setitem(sys.modules, "slicer", slicer)
    monkeypatch.setitem(sys.modules, "slicer.packaging", slicer.packaging)
    tools = dependencies.slicer_tools()
    tools.pip_install(["timm>=1.0"])
    expected = ("packaging", ["timm>=1.0"], {"requester": "AnyMC3D"}) if packaging else ("util", ["timm>=1.0"])
    assert slicer.calls == [expected]
    assert (tools.install_torch is not None) == extension and tools.allowed()


def test_the_extension_is_asked_for_torch_without_a_second_question(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, Any]] = []

    class PyTorchUtilsLogic:
        def installTorch(self, **options: Any) -> Any:  # noqa: N802
            asked.append(options)
            return None

    module = dataclasses.make_dataclass("PyTorchUtils", [])()
    module.PyTorchUtilsLogic = PyTorchUtilsLogic
    monkeypatch.setitem(sys.modules, "slicer", Slicer(packaging=True, extension=True))
    monkeypatch.setitem(sys.modules, "PyTorchUtils", module)
    assert dependencies.slicer_tools().install_torch(">=2.6") is False
    assert asked == [{"askConfirmation": False, "torchVersionRequirement": ">=2.6"}]
