"""Which names of `slicer`, `qt`, `ctk` and `vtk` the module touches. `python application_names.py` writes the list."""

from __future__ import annotations

import ast
import sys
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
LIST = Path(__file__).with_name("application_names.txt")
ROOTS = ("slicer", "qt", "ctk", "vtk")
FORMS = sorted((REPOSITORY / "Resources" / "UI").glob("*.ui"))


def names_of(path: Path) -> Iterator[str]:
    """The dotted names in a script, as long as they go: `slicer.app.layoutManager`."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    inner = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and id(node) not in inner:
            name = _dotted(node)
            if name and name.partition(".")[0] in ROOTS:
                yield name
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.partition(".")[0] in ROOTS:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _dotted(node: ast.expr) -> str:
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        before = _dotted(node.value)
        return f"{before}.{node.attr}" if before else ""
    return ""


def form_names() -> Iterator[str]:
    """The classes of widgets in the forms, by where they come from."""
    classes = {node.get("class") for form in FORMS for node in ET.parse(form).iter("widget")}
    for name in classes:
        yield (
            f"ctk.{name}" if name.startswith("ctk") else f"slicer.{name}" if name.startswith("qMRML") else f"qt.{name}"
        )


def touched() -> list[str]:
    """All of them, sorted."""
    scripts = (REPOSITORY / "AnyMC3D").rglob("*.py")
    return sorted({*form_names(), *(name for script in scripts for name in names_of(script))})


if __name__ == "__main__":
    LIST.write_text("\n".join(touched()) + "\n", encoding="utf-8")
    sys.stdout.write(f"{LIST}\n")
