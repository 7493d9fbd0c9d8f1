"""The list of backbones, `Resources/Backbones.json`. Needs the standard library alone."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from .errors import BackboneError, InputError
from .records import Record
from .resources import resource

ANY_TIMM_MODEL = "timm:"


@dataclasses.dataclass(frozen=True, kw_only=True)
class WeightSource(Record):
    """A place that weights come from.

    `hub`: timm's own download; `package`: an installed Python package, whose `function` ("module:Object.method")
    gives a file; `file`: a safetensors or pth file `location` that the user has.
    """

    kind: Literal["hub", "package", "file"]
    package: str = ""
    function: str = ""
    location: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class BackboneEntry(Record):
    """One line of the catalogue. `parameters` in millions; `input_size` in pixels, the size it was trained at."""

    id: str
    timm: str
    title: str = ""
    kind: Literal["transformer", "cnn"] = "transformer"
    model_args: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    parameters: float = 0.0
    embed_dim: int = 0
    input_size: int = 224
    patch: int = 16
    licence: str = ""
    gated: bool = False
    recommended: bool = False
    offline: bool = False
    weights: tuple[WeightSource, ...] = (WeightSource(kind="hub"),)


def read_catalogue(path: Path | None = None) -> dict[str, BackboneEntry]:
    """The entries by id; raises InputError if the file is not what it should be."""
    place = path or resource("Backbones.json")
    try:
        data = json.loads(place.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"The list of backbones '{place.name}' cannot be read: {error}.") from error
    if not isinstance(data, dict) or not isinstance(data.get("backbones"), list):
        raise InputError(f"The list of backbones '{place.name}' lacks its field 'backbones'.")
    entries = [BackboneEntry.from_dict(item, where=f"backbones[{n}]") for n, item in enumerate(data["backbones"])]
    if len({entry.id for entry in entries}) != len(entries):
        raise InputError(f"The list of backbones '{place.name}' has an id twice.")
    return {entry.id: entry for entry in entries}


def find_backbone(name: str) -> BackboneEntry:
    """The entry called `name`, or one made up for 'timm:MODEL'; raises BackboneError if there is none."""
    if name.startswith(ANY_TIMM_MODEL):
        return BackboneEntry(id=name, timm=name.removeprefix(ANY_TIMM_MODEL), title=name)
    entries = read_catalogue()
    if name not in entries:
        raise BackboneError(
            f"There is no backbone '{name}': choose one of {', '.join(entries)}, or 'timm:' and a name of timm's."
        )
    return entries[name]
