"""`anymc3d backbones`."""

from __future__ import annotations

import argparse
import json

from ..backbone_store import backbone_folder, installed, look_into
from ..catalogue import BackboneEntry, list_backbones
from ..terminal import show, show_table


def show_list(options: argparse.Namespace) -> None:
    """List the installed backbones, then the catalogue."""
    here = installed()
    entries = list_backbones(here)
    if options.json:
        show(json.dumps([{**e.to_dict(), "installed": e.id in here} for e in entries.values()], indent=2))
        return
    if here:
        rows = [
            [*_measures(entries[name]), f"{record.layout}, {', '.join(record.source_files[:2])}", record.imported]
            for name, record in here.items()
        ]
        columns = ["name", "model", "size", "input", "licence", "from", "since"]
        show_table(f"Installed in {backbone_folder()}", columns, rows)
    else:
        show(_where())
    listed = [entry for name, entry in entries.items() if name not in here]
    rows = [[*_measures(entry), _access(entry), _notes(entry)] for entry in listed]
    show_table("Backbones", ["name", "model", "size", "input", "licence", "access", ""], rows)
    asked = [[entry.id, entry.hub] for entry in listed if _access(entry) != "open"]
    if asked:
        show_table("Access is asked for, or the file is got, on the page", ["name", "page"], asked)
    show("'offline' comes with the installation. 'anymc3d backbone fetch NAME' gets an 'open' one from the hub, and a")
    show("'gated' one once its licence was accepted on its page. One that is 'file only' is downloaded by hand.")
    show(
        "'anymc3d backbone import FILE --as NAME' takes weights that you have. Any timm model can be named timm:MODEL."
    )


def _where() -> str:
    """The folder of backbones while it holds none, and whether it has to be made for copies."""
    if look_into().there:
        return f"Nothing is installed yet in {backbone_folder()}\n"
    return (
        f"Nothing is installed yet in {backbone_folder()}\n"
        "This folder is made at the first fetch or import; to copy a file there before, make it yourself.\n"
    )


def _measures(entry: BackboneEntry) -> list[str]:
    return [entry.id, entry.title, f"{entry.parameters:g} M", f"{entry.input_size}", entry.licence or "not said"]


def _access(entry: BackboneEntry) -> str:
    words = [
        *(["gated"] if entry.gated else []),
        *(["file only"] if all(source.kind == "file" for source in entry.weights) else []),
    ]
    return ", ".join(words) or "open"


def _notes(entry: BackboneEntry) -> str:
    notes = (("recommended", entry.recommended), ("offline", entry.offline), ("non-commercial", entry.non_commercial))
    return ", ".join(note for note, holds in notes if holds)
