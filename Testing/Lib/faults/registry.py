"""All classes of fault, from every room of this package that has some."""

from __future__ import annotations

import importlib
import pkgutil

from . import __path__ as rooms
from .fault import Fault


def all_faults() -> list[Fault]:
    """The classes of every room, by group and then as they stand there."""
    found: list[Fault] = []
    for room in sorted(module.name for module in pkgutil.iter_modules(rooms)):
        found += getattr(importlib.import_module(f"{__package__}.{room}"), "FAULTS", [])
    groups = list(dict.fromkeys(fault.group for fault in found))
    return sorted(found, key=lambda fault: groups.index(fault.group))
