"""The list of backbones, `Resources/Backbones.json`, and those that are installed. Needs the standard library alone."""

from __future__ import annotations

import dataclasses
import difflib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from .architecture import Architecture
from .backbone_store import InstalledBackbone, find_installed, installed, place_of
from .errors import BackboneError, InputError
from .records import Record
from .resources import resource

ANY_TIMM_MODEL = "timm:"


@dataclasses.dataclass(frozen=True, kw_only=True)
class WeightSource(Record):
    """A place that weights come from.

    `hub`: timm's repository on the hub, from which `anymc3d backbone fetch` installs them; `package`: an installed
    Python package, whose `function` ("module:Object.method") gives a file; `file`: a safetensors or pth file `location`
    that the user has; `installed`: the file `location` of an installed backbone.
    """

    kind: Literal["hub", "package", "file", "installed"]
    package: str = ""
    function: str = ""
    location: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class BackboneEntry(Record):
    """One line of the catalogue. `parameters` in millions; `input_size` in pixels, the size it was trained at.

    `hub` is the page of the weights, where access is asked for if they are `gated`. `architecture` is that of an
    installed backbone.
    """

    id: str
    timm: str
    title: str = ""
    family: str = ""
    kind: Literal["transformer", "hierarchy", "cnn"] = "transformer"
    model_args: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    parameters: float = 0.0
    embed_dim: int = 0
    input_size: int = 224
    patch: int = 16
    licence: str = ""
    non_commercial: bool = False
    gated: bool = False
    hub: str = ""
    recommended: bool = False
    offline: bool = False
    weights: tuple[WeightSource, ...] = (WeightSource(kind="hub"),)
    architecture: Architecture | None = None


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


def list_backbones(records: Mapping[str, InstalledBackbone] | None = None) -> dict[str, BackboneEntry]:
    """Every backbone by id: the installed ones first, then the rest of the catalogue.

    `records` are the installed ones where they were read before; else they are read now.
    """
    catalogue, records = read_catalogue(), installed() if records is None else records
    here = {name: entry_of(record, catalogue.get(name)) for name, record in records.items()}
    return {**here, **{name: entry for name, entry in catalogue.items() if name not in here}}


def find_backbone(name: str) -> BackboneEntry:
    """The backbone `name`: an installed one, else that of the catalogue, or one made up for 'timm:MODEL'.

    Raises BackboneError if there is none.
    """
    if name.startswith(ANY_TIMM_MODEL):
        return BackboneEntry(id=name, timm=name.removeprefix(ANY_TIMM_MODEL), title=name)
    record = find_installed(name)
    if record is not None:
        return entry_of(record, read_catalogue().get(name))
    return find_listed(name)


def find_listed(name: str) -> BackboneEntry:
    """The catalogue's entry `name`, installed or not; raises BackboneError if there is none."""
    entries = read_catalogue()
    if name not in entries:
        near = difflib.get_close_matches(name, [*entries, *installed()], n=3)
        meant = f" (did you mean {' or '.join(near)}?)" if near else ""
        raise BackboneError(
            f"There is no backbone '{name}'{meant}: 'anymc3d backbones' lists them, or give 'timm:' and a name of "
            "timm's."
        )
    return entries[name]


def how_to_get(entry: BackboneEntry) -> str:
    """What to do for the weights of `entry`, which are not on this machine: with their size and licence."""
    if entry.id.startswith(ANY_TIMM_MODEL) or not entry.hub:
        return "give their file with --weights."
    facts = f"about {4 * entry.parameters:,.0f} MB, licence {entry.licence or 'not said'}"
    if any(source.kind == "hub" for source in entry.weights):
        return f"get them with 'anymc3d backbone fetch {entry.id}' ({facts}), or give their file with --weights."
    return (
        f"download the folder from {entry.hub} ({facts}), then use 'anymc3d backbone import FOLDER --as {entry.id}', "
        "or give their file with --weights."
    )


def entry_of(record: InstalledBackbone, listed: BackboneEntry | None = None) -> BackboneEntry:
    """An installed backbone as an entry; what it does not say itself is that of `listed`, the catalogue's entry."""
    known = listed or BackboneEntry(id=record.id, timm=record.architecture.timm)
    return dataclasses.replace(
        known,
        timm=record.architecture.timm,
        title=record.title or known.title or record.id,
        family=record.architecture.family,
        kind=record.kind,
        model_args=record.architecture.model_args,
        parameters=record.parameters,
        embed_dim=record.embed_dim,
        input_size=max(record.architecture.input_size),
        patch=record.patch,
        licence=record.licence_name or known.licence,
        offline=True,
        weights=(WeightSource(kind="installed", location=str(place_of(record.id))),),
        architecture=record.architecture,
    )
