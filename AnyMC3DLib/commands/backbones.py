"""`anymc3d backbones`."""

from __future__ import annotations

import argparse
import json

from ..catalogue import read_catalogue
from ..terminal import show, show_table


def show_list(options: argparse.Namespace) -> None:
    """List the catalogue."""
    entries = read_catalogue().values()
    if options.json:
        show(json.dumps([entry.to_dict() for entry in entries], indent=2))
        return
    rows = []
    for e in entries:
        notes = [note for note, holds in (("recommended", e.recommended), ("offline", e.offline)) if holds]
        access = "gated" if e.gated else "open"
        rows.append([e.id, e.title, f"{e.parameters:g} M", f"{e.input_size}", e.licence, access, ", ".join(notes)])
    show_table("Backbones", ["name", "model", "size", "input", "licence", "access", ""], rows)
    show("'offline' comes with the installation. Others come from the hub, or from a file given with --weights.")
    show("Any other timm model can be named as timm:MODEL.")
