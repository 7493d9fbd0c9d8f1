"""What a table of cases does not tell by itself: the order of its classes, kept in a small file beside it.

The second class of a binary task is the positive one, which no column of labels says.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..files import write_text
from ..manifest import Table
from .dataset_columns import Layout
from .table import LABEL

ENDING = ".classes.json"


def place_of(table: Path) -> Path:
    """The file beside a table."""
    return table.with_name(f"{table.name}{ENDING}")


def write_classes(table: Path, layout: Layout) -> None:
    """Write it, atomically; raises InputError if that cannot be."""
    told = {"task_type": layout.task_type, "classes": layout.classes, "images": list(layout.images)}
    write_text(place_of(table), json.dumps(told, indent=2))


def read_classes(table: Path, cells: Table) -> Layout | None:
    """The columns that the file tells; None without such a file, and where it does not fit the table any more."""
    try:
        told: Any = json.loads(place_of(table).read_text(encoding="utf-8"))
        layout = Layout.of_sources(_texts(told["images"]), _texts(told["classes"]), str(told["task_type"]))
    except (OSError, ValueError, RecursionError, LookupError, TypeError, InputError):
        return None
    if not set(layout.images.values()) <= set(cells.columns) or not set(layout.labels) <= set(cells.columns):
        return None
    used = {row[LABEL] for _, row in cells.rows if row.get(LABEL)}
    if used and not (layout.classes if layout.multilabel else used <= set(layout.classes)):
        return None
    return layout.with_masks(cells).beside(cells.columns)


def _texts(values: Any) -> list[str]:
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise ValueError("not a list of texts")
    return values
