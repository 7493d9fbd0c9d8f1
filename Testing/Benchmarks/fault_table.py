"""Generated faults, by class: how many were tried, how many worked, were refused, and went wrong.

    python Testing/Benchmarks/fault_table.py [--seed 0] [--share 1.0] [--only WORDS] [--write docs/faults.md]

A case works where it gives the answer of its clean twin; it is refused with one sentence for a person; all else is
wrong, and ends this command with 1. The tests run a small share of the same classes.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "Lib"))

from faults.fault import Fault, Tally, tally
from faults.registry import all_faults

BEGIN, END = "<!-- table of generated faults -->", "<!-- end of the table -->"


def main() -> int:
    """Run what is asked for; 0 where nothing went wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--share", type=float, default=1.0, help="of the full number of cases (default: 1)")
    parser.add_argument("--only", default="", metavar="WORDS", help="classes whose group or name holds this")
    parser.add_argument("--write", type=Path, metavar="FILE", help="put the table between the marks in this file")
    options = parser.parse_args()
    found: dict[Fault, Tally] = {}
    for fault in all_faults():
        if options.only.lower() not in f"{fault.group}: {fault.name}".lower():
            continue
        started = time.monotonic()
        count = max(1, round(fault.full * options.share))
        found[fault] = result = tally(fault, count=count, number=options.seed)
        print(
            f"{fault.group}: {fault.name}: {result.tried} tried, {result.worked} worked, {result.refused} refused, "
            f"{result.wrong} wrong ({time.monotonic() - started:.0f} s)",
            flush=True,
        )
        for reason in result.reasons:
            print(reason, flush=True)
    table = table_of(found)
    print(table)
    if options.write is not None:
        text = options.write.read_text(encoding="utf-8")
        before, _, rest = text.partition(BEGIN)
        part = "" if options.share == 1 else f" --share {options.share:g}"
        words = f"`python Testing/Benchmarks/fault_table.py --seed {options.seed}{part}`"
        content = f"{BEGIN}\nMade by {words}:\n\n{table}\n{END}{rest.partition(END)[2]}"
        options.write.write_text(before + content, encoding="utf-8")
    return int(any(result.wrong for result in found.values()))


def table_of(found: Mapping[Fault, Tally]) -> str:
    """The counts as a Markdown table, with their sums."""
    rows = ["| what | class of fault | tried | worked | refused | wrong |", "|---|---|---:|---:|---:|---:|"]
    group = ""
    for fault, result in found.items():
        shown, group = ("" if fault.group == group else fault.group), fault.group
        rows.append(
            f"| {shown} | {fault.name} | {result.tried} | {result.worked} | {result.refused} | {result.wrong} |"
        )
    sums = (sum(getattr(r, name) for r in found.values()) for name in ("tried", "worked", "refused", "wrong"))
    rows.append("| **all** | | " + " | ".join(f"**{n:,}**" for n in sums) + " |")
    return "\n".join(rows)


if __name__ == "__main__":
    sys.exit(main())
