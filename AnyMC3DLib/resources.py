"""Where the files of `Resources/` lie: inside the package in a wheel, beside it in a source or Slicer tree."""

from __future__ import annotations

from pathlib import Path

from .errors import InputError


def resource(*parts: str) -> Path:
    """The path of a file or folder below `Resources/`; raises InputError if it is not installed."""
    package = Path(__file__).resolve().parent
    for root in (package / "Resources", package.parent / "Resources"):
        path = root.joinpath(*parts)
        if path.exists():
            return path
    raise InputError(f"The file {'/'.join(parts)} is missing from the installation: install AnyMC3D again.")
