"""`anymc3d backbone import`, `fetch`, `show` and `remove`."""

from __future__ import annotations

import argparse
import json
import sys

from ..backbone_store import OF_THE_FAMILY, InstalledBackbone, find_installed, place_of, remove
from ..errors import BackboneError, InputError
from ..terminal import ProgressDisplay, show, show_table

LICENCE_LINES = 12
POSITIONS = {"any": "takes any size", "fixed": "takes this size alone"}


def add_parser(commands: argparse._SubParsersAction) -> None:
    """Add the group `backbone`; nothing heavy is imported before one of its actions runs."""
    text = "Install a backbone, look at it, or delete it."
    actions = commands.add_parser("backbone", help=text, description=text).add_subparsers(
        dest="action", metavar="ACTION", required=True
    )
    taken = _add(
        actions, "import", "take_in", "Install weights that you have, in the layout of timm or of another library."
    )
    taken.add_argument("place", metavar="FILE|FOLDER", help="safetensors or PyTorch weights, and what lies beside them")
    taken.add_argument("--as", dest="id", required=True, metavar="NAME", help="what it is called from then on")
    taken.add_argument("--model", default="", metavar="MODEL", help="timm's name, where the file does not tell")
    taken.add_argument("--licence", default="", metavar="NAME", help="default: what the files beside the weights say")
    taken.add_argument("--title", default="", metavar="TEXT", help="what lists show")
    taken.add_argument(
        "--part", default="", metavar="NAME", help="which network of a training program's file, as teacher"
    )
    fetched = _add(actions, "fetch", "fetch", "Install a backbone of the list with its weights from the hub.")
    fetched.add_argument("id", metavar="NAME")
    fetched.add_argument("--yes", action="store_true", help="agree to a large download and to the licence")
    for action in (taken, fetched):
        action.add_argument("--overwrite", action="store_true", help="replace the one that has this name")
    shown = _add(actions, "show", "show_record", "Show what is known of an installed backbone.")
    shown.add_argument("id", metavar="NAME")
    shown.add_argument("--json", action="store_true", help="print JSON instead of a card")
    removed = _add(actions, "remove", "discard", "Delete an installed backbone.")
    removed.add_argument("id", metavar="NAME")


def _add(actions: argparse._SubParsersAction, name: str, function: str, text: str) -> argparse.ArgumentParser:
    parser = actions.add_parser(name, help=text, description=text)
    parser.set_defaults(module="backbone", function=function)
    return parser


def take_in(options: argparse.Namespace) -> None:
    """Install the weights of a file or folder."""
    from ..backbone_import import import_backbone

    record = import_backbone(
        options.place,
        id=options.id,
        model=options.model,
        licence=options.licence,
        overwrite=options.overwrite,
        title=options.title,
        part=options.part,
    )
    _say_installed(record)


def fetch(options: argparse.Namespace) -> None:
    """Install a backbone of the catalogue from the hub."""
    from ..backbone_fetch import fetch_backbone

    with ProgressDisplay() as display:
        record = fetch_backbone(
            options.id, accept=lambda question: options.yes or _agreed(question), progress=display,
            overwrite=options.overwrite,
        )  # fmt: skip
    _say_installed(record)


def discard(options: argparse.Namespace) -> None:
    """Delete an installed backbone's file."""
    remove(options.id)
    show(f"Deleted '{options.id}'.")


def show_record(options: argparse.Namespace) -> None:
    """Show what is known of an installed backbone."""
    record = find_installed(options.id)
    if record is None:
        raise BackboneError(f"There is no installed backbone '{options.id[:80]}': 'anymc3d backbones' lists them.")
    if options.json:
        show(json.dumps({**record.to_dict(), "file": str(place_of(record.id))}, indent=2))
        return
    made, size = record.architecture, record.architecture.input_size
    arguments = ", ".join(f"{name} {value}" for name, value in made.model_args.items())
    rows = [
        ["name", record.id],
        ["model", record.title or made.family],
        ["family", f"{made.family}, in the layout of {record.layout}"],
        ["timm", made.timm + (f" with {arguments}" if arguments else "")],
        ["size", f"{record.parameters:g} million parameters, {record.embed_dim} features"],
        ["input", f"{size[0]} x {size[1]} pixels in training; {_positions(record)}"],
        ["colours", _colours(record)],
        *([["left out", _left_out(record)]] if record.left_out else []),
        *(["note", note] for note in record.notes),
        ["digest", record.digest],
        ["from", f"{', '.join(record.source_files)} ({record.source_digest})"],
        ["imported", record.imported],
        ["file", str(place_of(record.id))],
        ["licence", record.licence_name or "not said"],
    ]
    show_table("Backbone", ["", ""], rows)
    lines = record.licence.splitlines()
    for line in lines[:LICENCE_LINES]:
        show(line)
    if len(lines) > LICENCE_LINES:
        show(f"... and {len(lines) - LICENCE_LINES} lines more; --json shows all.")


def _positions(record: InstalledBackbone) -> str:
    how = record.architecture.positions
    if how.kind in POSITIONS:
        return POSITIONS[how.kind]
    details = [how.mode, "antialiased" if how.antialias else "not antialiased"]
    return f"positions are resampled ({', '.join(details)}{f', offset {how.offset:g}' if how.offset else ''})"


def _numbers(values: tuple[float, ...]) -> str:
    return ", ".join(f"{value:g}" for value in values)


def _say_installed(record: InstalledBackbone) -> None:
    show(f"Installed '{record.id}': {record.architecture.family} in the layout of {record.layout}, "
         f"{record.parameters:g} million parameters, licence {record.licence_name or 'not said'}.")  # fmt: skip
    show(f"Its weights are {record.digest}.")
    show(f"Its colours are {_colours(record)}.")
    if record.left_out:
        show(f"Left out: {_left_out(record)}.")
    for note in record.notes:
        show(f"Note: {note}")


def _colours(record: InstalledBackbone) -> str:
    made = record.architecture
    words = f"mean {_numbers(made.mean)}, standard deviation {_numbers(made.std)}"
    if record.colours_from == OF_THE_FAMILY:
        return f"{words}, assumed as usual for {made.family or made.timm} since no file beside the weights says"
    return f"{words}, from {record.colours_from}" if record.colours_from else words


def _left_out(record: InstalledBackbone) -> str:
    parts = ", ".join(f"{name} {count}" for name, count in record.left_out.items())
    count = sum(record.left_out.values())
    return f"{count} {'tensor' if count == 1 else 'tensors'} that the network for slices does without ({parts})"


def _agreed(question: str) -> bool:
    if not sys.stdin.isatty():
        raise InputError(f"{question.removesuffix(' Go on?')} Say --yes to go on.")
    sys.stderr.write(f"{question} [y/N] ")
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() in ("y", "yes")
