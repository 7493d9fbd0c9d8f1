"""The eighteen sets of MedMNIST as tasks, from one table. Needs the standard library alone."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import InputError
from ..resources import resource
from .task import TaskSpec, task_from

TABLE = "MedMNIST.json"
FIGURES = ("auc", "accuracy")


def medmnist_names() -> list[str]:
    """The sets of the table, as MedMNIST calls them, such as NoduleMNIST3D."""
    return list(_table()["sets"])


def medmnist_task(name: str) -> TaskSpec:
    """The task of a set: its classes in the official order, and the preset of pictures or of volumes.

    The preset holds for files of any size (28 to 224 pixels, 28 or 64 voxels). Raises InputError for another name.
    """
    table, entry = _table(), _entry(name)
    preset = table["presets"][entry["preset"]]
    licence = entry.get("licence", table["licence"])
    plugin = {
        **preset["plugin"],
        "name": name,
        "licence": f"{licence} (data: {name}, MedMNIST v2)",
        "classes": [{"name": label} for label in entry["classes"]],
        "provenance": {"data": name},
        **{key: entry[key] for key in ("description", "anatomy", "modality", "task_type")},
    }
    training = preset["training"]
    augmentation = {**training["augmentation"], "flip": entry.get("flip", 0.0)}
    about = {
        **{key: table[key] for key in ("source", "availability", "address", "converter")},
        "licence": licence,
        "counts": entry["counts"],
        "results": _results(entry.get("results", ()), table["results_sources"]),
        "notes": entry.get("notes", ""),
    }
    data = {"plugin": plugin, "training": {**training, "augmentation": augmentation}, "about": about}
    return task_from(data, where=f"The set '{name}' of {TABLE}")


def medmnist_channels(name: str) -> int:
    """1 for a set of grey images, 3 for one in colour; raises InputError for another name."""
    return int(_entry(name)["channels"])


def _entry(name: str) -> Mapping[str, Any]:
    sets: Mapping[str, Mapping[str, Any]] = _table()["sets"]
    if name not in sets:
        raise InputError(f"MedMNIST has no set '{name}': it has {', '.join(sets)}.")
    return sets[name]


@functools.cache
def _table() -> Mapping[str, Any]:
    content: Mapping[str, Any] = json.loads(resource(TABLE).read_text(encoding="utf-8"))
    return content


def _results(rows: Sequence[Mapping[str, Any]], sources: Mapping[str, str]) -> list[dict[str, Any]]:
    return [
        {
            "model": row["model"],
            "figure": figure,
            "value": row[figure],
            "split": "test",
            "source": sources[row["source"]],
        }
        for row in rows
        for figure in FIGURES
        if figure in row
    ]
