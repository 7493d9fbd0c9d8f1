"""Which Python packages the engine lacks, the one question about it, and their installation.

Nothing happens when this is imported. Everything that looks at or changes the Python environment comes in as a
function; `slicer_tools` gives those of the application.
"""

from __future__ import annotations

import dataclasses
import importlib
import importlib.metadata
import json
import logging
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from AnyMC3DLib.errors import AnyMC3DError, InputError
from AnyMC3DLib.resources import resource

logger = logging.getLogger(__name__)

# The PyTorch extension installs these as they fit the graphics card and its driver.
FROM_EXTENSION = ("torch", "torchvision")
REQUESTER = "AnyMC3D"
SHOWN = 4


class InstallError(AnyMC3DError):
    """The packages could not be installed."""


@dataclasses.dataclass(frozen=True)
class Tools:
    """What looks at the Python environment and changes it."""

    version_of: Callable[[str], str | None]
    """The installed version of a package, None where there is none."""
    versions: Callable[[], Mapping[str, str]]
    """The version of every installed package."""
    pip_install: Callable[[list[str]], None]
    """Takes pip's arguments; raises an exception if pip fails."""
    install_torch: Callable[[str], bool] | None
    """The PyTorch extension's way, which takes a demand such as '>=2.6'; None where the extension is not there."""
    is_imported: Callable[[str], bool]
    """Whether this process has imported a package."""
    allowed: Callable[[], bool]
    """Whether anything may be installed; not in tests."""


@dataclasses.dataclass(frozen=True)
class Missing:
    """A package that is not there, or too old."""

    requirement: Requirement
    installed: str | None

    @property
    def name(self) -> str:
        """The package's name."""
        return self.requirement.name

    def __str__(self) -> str:
        return f"{self.requirement}, but {self.installed} is installed" if self.installed else str(self.requirement)


@dataclasses.dataclass(frozen=True)
class Question:
    """What a person is asked before anything is installed."""

    title: str
    text: str
    details: str


class Dependencies:
    """The engine's packages in one Python environment."""

    def __init__(self, tools: Tools, requirements: Sequence[str] | None = None) -> None:
        lines = read_requirements() if requirements is None else requirements
        self._tools, self._requirements = tools, [Requirement(line) for line in lines]

    def missing(self) -> tuple[Missing, ...]:
        """What is not there, or too old; looks at names and versions alone, and imports nothing."""
        found = []
        for requirement in self._requirements:
            if requirement.marker is not None and not requirement.marker.evaluate():
                continue
            installed = self._tools.version_of(requirement.name)
            if installed is None or not _suffices(installed, requirement):
                found.append(Missing(requirement, installed))
        return tuple(found)

    def question(self, *, wheels: Path | None = None) -> Question:
        """The question whether to install what is missing; from a folder of wheel files where one is given."""
        missing = self.missing()
        names = [one.name for one in missing]
        shown = ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")
        what = "a Python package that is" if len(names) == 1 else "Python packages that are"
        text = [f"AnyMC3D needs {what} not installed yet: {shown}."]
        if wheels is not None:
            text.append(f"They are taken from the folder '{wheels}', without the internet.")
        elif "torch" in names:
            text.append("The download is some gigabytes and takes several minutes.")
            if self._tools.install_torch is not None:
                text.append("The PyTorch extension chooses the torch that fits this computer's graphics card.")
            else:
                text.append("Without the PyTorch extension, torch may not use this computer's graphics card.")
        text.append("This changes the Python environment of the application. Install now?")
        return Question("Install Python packages", " ".join(text), "\n".join(map(str, missing)))

    def install(self, *, wheels: Path | None = None, progress: Callable[[str], None] | None = None) -> tuple[str, ...]:
        """Install what is missing; return the packages for which the application must be started again.

        Those are the ones that were changed after this process had imported them. The engine runs in a process of its
        own, so what is new needs no restart. End the worker before: Windows locks the files that it uses. Raises
        InstallError.
        """
        if not self._tools.allowed():
            raise InstallError("Nothing is installed while the application is being tested.")
        if wheels is not None and not wheels.is_dir():
            raise InstallError(f"There is no folder '{wheels}': choose the folder with the wheel files.")
        before = dict(self._tools.versions())
        tell = progress or _nothing
        missing = self.missing()
        if wheels is None and self._tools.install_torch is not None:
            self._install_torch(missing, tell)
            missing = self.missing()
        if missing:
            names = ", ".join(one.name for one in missing)
            tell(f"Installing {names}. This takes minutes, and the window may not answer meanwhile.")
            self._install_missing(missing, wheels)
        still = self.missing()
        if still:
            raise InstallError(f"Still missing after the installation: {', '.join(map(str, still))}; see the log.")
        after = self._tools.versions()
        changed = [name for name, version in before.items() if after.get(name, version) != version]
        return tuple(name for name in changed if self._tools.is_imported(name))

    def _install_missing(self, missing: Sequence[Missing], wheels: Path | None) -> None:
        source = [] if wheels is None else ["--no-index", "--find-links", str(wheels)]
        wanted = {canonicalize_name(one.name) for one in missing}
        # Else pip might exchange what the application was built with, such as NumPy, while it runs.
        there = self._tools.versions().items()
        kept = [f"{n}=={v}" for n, v in there if canonicalize_name(n) not in wanted and _is_version(v)]
        with tempfile.TemporaryDirectory() as folder:
            constraints = Path(folder) / "constraints.txt"
            constraints.write_text("\n".join(kept) + "\n", encoding="utf-8")
            arguments = [*source, "-c", str(constraints), *(str(one.requirement) for one in missing)]
            _run(lambda: self._tools.pip_install(arguments), "The packages")

    def _install_torch(self, missing: Sequence[Missing], tell: Callable[[str], None]) -> None:
        demands = [str(one.requirement.specifier) for one in missing if one.name in FROM_EXTENSION]
        if not demands:
            return
        tell("Installing PyTorch")
        install = self._tools.install_torch
        if not _run(lambda: install(demands[0]), "PyTorch"):
            raise InstallError("PyTorch was not installed: try again, or install it in the PyTorch extension.")


def read_requirements() -> list[str]:
    """The engine's requirements from the resources; raises InputError if the file is not what it should be."""
    place = resource("Requirements.json")
    try:
        lines = json.loads(place.read_text(encoding="utf-8"))["packages"]
        return [str(Requirement(line)) for line in lines]
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise InputError(f"'{place.name}' cannot be read: install AnyMC3D again.") from error


def version_of(name: str) -> str | None:
    """The installed version of a package in this Python, None where there is none."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def versions() -> dict[str, str]:
    """The version of every package in this Python."""
    importlib.invalidate_caches()
    return {d.name: d.version for d in importlib.metadata.distributions() if d.name and d.version}


def is_imported(name: str) -> bool:
    """Whether this process has imported anything of a package."""
    modules = [module for module, names in importlib.metadata.packages_distributions().items() if name in names]
    return any(module in sys.modules for module in modules)


def slicer_tools() -> Tools:
    """The functions of Slicer, as far as this version of it has them."""
    import slicer

    return Tools(
        version_of=version_of,
        versions=versions,
        pip_install=_pip_install_of_slicer,
        install_torch=_torch_of_extension if hasattr(slicer.modules, "pytorchutils") else None,
        is_imported=is_imported,
        allowed=lambda: not slicer.app.testingEnabled(),
    )


def _pip_install_of_slicer(arguments: list[str]) -> None:
    import slicer

    try:
        # Slicer 5.13 and later: with a progress window and its log.
        from slicer.packaging import pip_install
    except ImportError:
        slicer.util.pip_install(arguments)
    else:
        pip_install(arguments, requester=REQUESTER)


def _torch_of_extension(demand: str) -> bool:
    from PyTorchUtils import PyTorchUtilsLogic

    # The question was asked, so the extension need not ask again.
    return PyTorchUtilsLogic().installTorch(askConfirmation=False, torchVersionRequirement=demand) is not None


def _run(install: Callable[[], bool | None], what: str) -> bool | None:
    try:
        return install()
    except subprocess.CalledProcessError as error:
        logger.exception("pip failed.")
        raise InstallError(
            f"{what} could not be installed (pip ended with {error.returncode}): the log says why."
        ) from error
    except Exception as error:
        logger.exception("The installation failed.")
        reason = " ".join(str(error).split())
        raise InstallError(f"{what} could not be installed ({reason}): the log says more.") from error


def _suffices(installed: str, requirement: Requirement) -> bool:
    try:
        return requirement.specifier.contains(Version(installed), prereleases=True)
    except InvalidVersion:
        # A package that the application was built with may name its version in its own way.
        return True


def _is_version(text: str) -> bool:
    try:
        Version(text)
    except InvalidVersion:
        return False
    return True


def _nothing(_: str) -> None:
    return
