"""What is light to import stays light: a card is read without NumPy, an image without torch."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import sys
before = set(sys.modules)
import {modules}
new = {{name.partition(".")[0] for name in set(sys.modules) - before if getattr(sys.modules[name], "__spec__", None)}}
sys.stdout.write(" ".join(sorted(new - set(sys.stdlib_module_names))))
"""


def packages_loaded_by(*modules: str) -> set[str]:
    """The packages outside the standard library that a fresh interpreter has after the import."""
    program = PROGRAM.format(modules=", ".join(modules))
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return set(result.stdout.split())


def test_specs_and_files_need_the_standard_library_alone() -> None:
    modules = [f"AnyMC3DLib.{name}" for name in ("errors", "records", "spec", "files", "wording")]
    assert packages_loaded_by(*modules) == {"AnyMC3DLib"}


@pytest.mark.parametrize("name", ["volume", "preprocessing", "resampling"])
def test_images_need_numpy_and_simpleitk_alone(name: str) -> None:
    assert packages_loaded_by(f"AnyMC3DLib.{name}") == {"AnyMC3DLib", "numpy", "SimpleITK"}


def test_a_cohort_needs_what_draws_pictures_and_pages_only_once_it_is_asked_for_them() -> None:
    loaded = packages_loaded_by("AnyMC3DLib.cohort", "AnyMC3DLib.ledger", "AnyMC3DLib.commands.cohort")
    assert "torch" in loaded
    assert not loaded & {"matplotlib", "jinja2", "monai", "sklearn"}
