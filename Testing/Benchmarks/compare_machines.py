"""Whether this machine gives the answers of another: of fixed networks for a fixed study, in float32.

    python Testing/Benchmarks/compare_machines.py --write answers.json       on the one
    python Testing/Benchmarks/compare_machines.py --check answers.json       on the other

Without a file the answers in Testing/Lib/fixtures are compared with. Testing/Lib/fixed_answers.py has the tolerances.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "Lib"))

from fixed_answers import ANSWERS, compared, facts, fixed_answers, study_figures

from AnyMC3DLib.commands.common import choose_device
from AnyMC3DLib.errors import AnyMC3DError
from AnyMC3DLib.files import write_text


def main() -> int:
    """Write or compare; 0 where all agree."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    chosen = parser.add_mutually_exclusive_group()
    chosen.add_argument("--write", metavar="FILE", help="write this machine's answers")
    chosen.add_argument("--check", metavar="FILE", default=str(ANSWERS), help="compare with those in this file")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1, mps (default: %(default)s)")
    options = parser.parse_args()
    try:
        there = None if options.write else read(Path(options.check))
        answers = fixed_answers(str(choose_device(options.device)))
        if options.write:
            content = {**facts(), "device": options.device, "study": study_figures(), "answers": answers}
            write_text(options.write, json.dumps(content, indent=1) + "\n")
            return 0
    except AnyMC3DError as error:
        parser.error(str(error))
    except (OSError, ValueError, KeyError, TypeError) as error:
        parser.error(f"'{Path(options.check).name}' holds no answers ({error}): give a file of --write.")
    return report(there, answers)


def read(place: Path) -> dict:
    """What --write has written; raises OSError, ValueError, KeyError or TypeError if the file is another."""
    there = json.loads(place.read_text(encoding="utf-8"))
    there["answers"] = {str(name): float(value) for name, value in there["answers"].items()}
    return there


def report(there: dict, answers: dict[str, float]) -> int:
    """Say by how much the kinds of figures differ, and which differ too much."""
    rows = compared(answers, there["answers"])
    for side, what in (("there", there), ("here", facts())):
        print(f"{side}: {what.get('versions')}, {what.get('machine')}, {what.get('system')}")
    for kind in dict.fromkeys(row.name.partition(" ")[0] for row in rows):
        own = [row for row in rows if row.name.startswith(kind)]
        largest = max(row.difference for row in own)
        print(f"{kind:12} {len(own):3} figures, largest difference {largest:.1e}, allowed {own[0].tolerance:.0e}")
    wrong = [row for row in rows if not row.agrees]
    for row in wrong:
        print(f"DIFFERS: {row.name}: {row.here:.9g} here, {row.there:.9g} there")
    print("The machines disagree." if wrong else "The machines agree.")
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
