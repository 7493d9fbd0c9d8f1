"""The names of the application that the module touches are listed, and those that can be looked up are there."""

from __future__ import annotations

import os
import re
from pathlib import Path

import application_names
import pytest
import slicer
import vtk
from hosting import Host, ctk, host, qt  # noqa: F401 - the fixture

SOURCE_VARIABLE = "ANYMC3D_SLICER_SOURCE"
# Made by the host in the application's place, and empty classes there for names that it does not know.
IN_THE_APPLICATION = ("slicer.app", "slicer.modules", "slicer.mrmlScene")


def listed() -> list[str]:
    return application_names.LIST.read_text(encoding="utf-8").splitlines()


def test_every_name_that_the_module_touches_is_listed_and_no_other() -> None:
    assert listed() == application_names.touched(), "run: python Testing/Module/application_names.py"


@pytest.mark.parametrize("root", ["slicer", "qt", "ctk", "vtk"])
def test_the_listed_names_are_there(host: Host, root: str) -> None:  # noqa: F811
    for name in (name for name in listed() if name.partition(".")[0] == root):
        if name.startswith(("slicer.modules", "slicer.packaging")):
            continue
        value = {"slicer": slicer, "qt": qt, "ctk": ctk, "vtk": vtk}[root]
        for part in name.split(".")[1:]:
            if not hasattr(value, part):
                value = __import__(f"{value.__name__}.{part}", fromlist=[part])
            else:
                value = getattr(value, part)


@pytest.mark.skipif(SOURCE_VARIABLE not in os.environ, reason=f"{SOURCE_VARIABLE} names no Slicer source tree")
def test_the_functions_of_slicers_python_modules_are_in_its_sources() -> None:
    python = Path(os.environ[SOURCE_VARIABLE]) / "Base" / "Python" / "slicer"
    for name in listed():
        parts = name.split(".")
        if len(parts) < 3 or parts[0] != "slicer" or not (python / f"{parts[1]}.py").is_file():
            continue
        text = (python / f"{parts[1]}.py").read_text(encoding="utf-8")
        assert re.search(rf"^(def|class) {parts[2]}\b", text, re.MULTILINE), name
