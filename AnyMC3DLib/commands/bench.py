"""`anymc3d bench`."""

from __future__ import annotations

import argparse
import json
from typing import Any

from ..files import check_writable, write_text
from ..speed import suite
from ..terminal import ProgressDisplay, show, show_table
from .common import choose_device, split_list


def bench(options: argparse.Namespace) -> None:
    """Measure the engine's speed and memory against their bars."""
    if options.out:
        check_writable(options.out)
    with ProgressDisplay() as progress:
        found = suite.run(
            model=options.model,
            slices=options.slices,
            device=choose_device(options.device),
            repeats=options.repeats,
            threads=options.threads,
            only=split_list(options.only),
            progress=progress,
        )
    if options.out:
        write_text(options.out, json.dumps(found, indent=2) + "\n")
    if options.json:
        show(json.dumps(found, indent=2))
        return
    machine = found["machine"]
    rows = [[line["name"], _shown(line), line["bar"] or "", _verdict(line)] for line in found["lines"]]
    show_table(
        f"{options.model}, {options.slices} slices, {machine['device']}, {machine['threads']} threads",
        ["measurement", "value", "bar", ""],
        rows,
    )


def _shown(line: dict[str, Any]) -> str:
    return f"{line['value']:.3g} {line['unit']}".strip()


def _verdict(line: dict[str, Any]) -> str:
    return "" if line["passed"] is None else "met" if line["passed"] else "missed"
