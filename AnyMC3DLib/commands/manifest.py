"""`anymc3d manifest check`, `anymc3d manifest make` and `anymc3d manifest convert`."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from ..arguments import at_least, seed
from ..benchmark.converters import KINDS
from ..errors import InputError
from ..terminal import ProgressDisplay, show, show_table

if TYPE_CHECKING:
    from ..training.manifest_check import Report


def add_parser(commands: argparse._SubParsersAction) -> None:
    """Add the group `manifest`; nothing heavy is imported before one of its actions runs."""
    text = "Check a table of labelled cases, or make one."
    actions = commands.add_parser("manifest", help=text, description=text).add_subparsers(
        dest="action", metavar="ACTION", required=True
    )
    check_parser = _add(actions, "check", "check", "Report everything that is wrong with a table; writes nothing.")
    check_parser.add_argument("table", metavar="TABLE", help="a CSV or JSON lines file")
    check_parser.add_argument("--task", metavar="FILE", help="the task that it is for: a JSON file, or one shipped")
    check_parser.add_argument("--json", action="store_true", help="print JSON instead of sentences and a table")
    make = actions.add_parser("make", help="Make a table of labelled cases.", description="Make a table.")
    kinds = make.add_subparsers(dest="kind", metavar="KIND", required=True)
    folders = _add(kinds, "folders", "make_folders", "From a folder for each class with files or DICOM series.")
    folders.add_argument("root", metavar="FOLDER")
    _add_table_options(folders)
    bids = _add(kinds, "bids", "make_bids", "From a BIDS tree with a table of its participants.")
    bids.add_argument("root", metavar="FOLDER")
    bids.add_argument("--column", required=True, metavar="NAME", help="the column of participants.tsv with the label")
    bids.add_argument("--suffix", default="T1w", metavar="NAME", help="which images (default: %(default)s)")
    _add_table_options(bids)
    medmnist = _add(kinds, "medmnist", "make_medmnist", "From a MedMNIST file; its images are written as NIfTI.")
    medmnist.add_argument("file", metavar="FILE", help="an .npz file")
    medmnist.add_argument("--out", required=True, metavar="FOLDER", help="where manifest.csv and the images go")
    medmnist.add_argument("--task", metavar="FILE", help="the task whose classes name the labels")
    medmnist.add_argument("--limit", type=at_least(1), metavar="N", help="take the first N cases of each split alone")
    medmnist.add_argument("--replace", action="store_true", help="replace a table that is there")
    _add_convert(actions)


def _add_convert(actions: argparse._SubParsersAction) -> None:
    parser = _add(
        actions, "convert", "convert", "Make a table from a public data set, in the layout it is published in."
    )
    parser.add_argument("kind", choices=KINDS, metavar="KIND", help=", ".join(KINDS))
    parser.add_argument("source", metavar="FOLDER", help="where the data set lies (medmnist: its .npz file)")
    parser.add_argument("--out", required=True, metavar="TABLE", help="the CSV file to write")
    parser.add_argument(
        "--task", default="", metavar="NAME", help="the task that it is for (rsna-abdominal: which organ)"
    )
    parser.add_argument("--seed", type=seed, default=0, metavar="N", help="of the split (default: %(default)s)")
    parser.add_argument(
        "--shares",
        type=_shares,
        default="0.7,0.1,0.2",
        metavar="LIST",
        help="of train, val and test, by patient; where the test set is official, train and val in their ratio "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--one-series",
        action="store_true",
        help="of several series take one: of the highest aortic HU (rsna-abdominal), the first of a scan (ct-rate)",
    )
    parser.add_argument("--images", metavar="FOLDER", help="where mrnet and medmnist write their images")
    parser.add_argument("--replace", action="store_true", help="replace a table and images that are there")


def _add(actions: argparse._SubParsersAction, name: str, function: str, text: str) -> argparse.ArgumentParser:
    parser = actions.add_parser(name, help=text, description=text)
    parser.set_defaults(module="manifest", function=function)
    return parser


def _add_table_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", required=True, metavar="TABLE", help="the CSV file to write")
    parser.add_argument(
        "--shares",
        type=_shares,
        metavar="LIST",
        help="split by patient: shares of train, val and test, as 0.7,0.15,0.15",
    )
    parser.add_argument("--seed", type=seed, default=0, metavar="N", help="of the split (default: %(default)s)")
    parser.add_argument("--replace", action="store_true", help="replace a table that is there")


def _shares(text: str) -> list[float]:
    numbers = [float(part) for part in text.split(",")]
    if len(numbers) != 3:
        raise argparse.ArgumentTypeError("three numbers with commas, of train, val and test")
    return numbers


def check(options: argparse.Namespace) -> None:
    """Say every problem of a table and count its cases; raises InputError if there is a problem."""
    from ..training.manifest_check import check_manifest
    from ..training.task import read_task

    spec = read_task(options.task).plugin if options.task else None
    with ProgressDisplay() as progress:
        report = check_manifest(options.table, spec, progress=progress)
    if options.json:
        show(json.dumps(report.to_dict(), indent=2))
    else:
        for problem in report.problems:
            show(problem.sentence)
        _show_counts(report)
    if report.problems:
        count = len(report.problems)
        told = "1 problem" if count == 1 else f"{count} problems"
        raise InputError(f"The table '{Path(options.table).name}' has {told}: see what is said above.")


def _show_counts(report: Report) -> None:
    classes = list(dict.fromkeys(name for counts in report.counts.values() for name in counts))
    rows = [
        [split or "in no split", *(str(counts[name]) for name in classes), str(report.totals[split])]
        for split, counts in report.counts.items()
    ]
    show_table("Cases", ["split", *classes, "all"], rows)


def make_folders(options: argparse.Namespace) -> None:
    """Make a table from a folder for each class."""
    from ..training.manifest_make import make_from_folders

    _say(options.out, make_from_folders(options.root, options.out, **_how(options)))


def make_bids(options: argparse.Namespace) -> None:
    """Make a table from a BIDS tree."""
    from ..training.manifest_make import make_from_bids

    _say(options.out, make_from_bids(options.root, options.column, options.out, suffix=options.suffix, **_how(options)))


def make_medmnist(options: argparse.Namespace) -> None:
    """Make a table and NIfTI files from a MedMNIST file."""
    from ..training.manifest_make import MANIFEST, make_from_medmnist
    from ..training.task import read_task

    classes = [c.name for c in read_task(options.task).plugin.classes] if options.task else []
    with ProgressDisplay() as progress:
        count = make_from_medmnist(
            options.file, options.out, classes=classes, limit=options.limit, replace=options.replace, progress=progress
        )
    _say(Path(options.out) / MANIFEST, count)


def convert(options: argparse.Namespace) -> None:
    """Make a table from a public data set, and say what a person has to know of it."""
    from ..benchmark.converters.common import Order
    from ..benchmark.converters.convert import convert as convert_data_set

    train, val, test = options.shares
    with ProgressDisplay() as progress:
        order = Order(
            table=Path(options.out),
            task=options.task,
            shares=(train, val, test),
            seed=options.seed,
            one_series=options.one_series,
            images=Path(options.images) if options.images else None,
            replace=options.replace,
            progress=progress,
        )
        converted = convert_data_set(options.kind, options.source, order)
    for note in converted.notes:
        show(note)
    _say(options.out, converted.cases)


def _how(options: argparse.Namespace) -> Mapping[str, object]:
    from ..training.cases import SPLITS

    shares = options.shares and {name: share for name, share in zip(SPLITS, options.shares, strict=True) if share}
    return {"shares": shares, "seed": options.seed, "replace": options.replace}


def _say(place: str | Path, count: int) -> None:
    show(f"Wrote '{place}': {count} cases.")
