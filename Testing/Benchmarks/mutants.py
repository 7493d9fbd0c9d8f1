"""Put deliberate bugs into a copy of the library, one at a time, and see that the tests named for each catch it.

    python Testing/Benchmarks/mutants.py [--only NAME] [--write docs/mutants.md]

The bugs are those of Testing/Lib/mutants.yaml. First their tests run on the library as it is, and must pass. Then each
bug must make one of its own tests fail by an assertion. The working tree is never changed.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import multiprocessing
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
TESTS = REPOSITORY / "Testing" / "Lib"
sys.path.insert(0, str(TESTS))

from mutant_list import LIBRARY, Mutant, read_mutants  # noqa: E402 - it lies beside the tests

# What every child would have to import for itself; not the library.
HEAVY = (
    "torch",
    "timm",
    "SimpleITK",
    "monai.transforms",
    "sklearn.metrics",
    "scipy.stats",
    "safetensors.torch",
    "hypothesis",
)
LONGEST, LONGEST_OF_ALL = 300.0, 3000.0  # seconds of one bug's tests, and of all on the library as it is
CAUGHT, SURVIVED = "caught", "SURVIVED"


class Witness:
    """Sees how tests end: the node ids that passed, and of the first that did not its name and its exception."""

    def __init__(self) -> None:
        self.passed: list[str] = []
        self.failed: tuple[str, str, bool] | None = None

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item, call: pytest.CallInfo) -> pytest.TestReport:
        """Note a test's end."""
        report = yield
        if report.failed and self.failed is None:
            error = call.excinfo.value
            by_assertion = call.when == "call" and isinstance(error, (AssertionError, pytest.fail.Exception))
            self.failed = item.nodeid, f"{type(error).__name__}: {error}"[:300], by_assertion
        if report.when == "call" and report.passed:
            self.passed.append(item.nodeid)
        return report

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Note what could not be read."""
        if report.failed and self.failed is None:
            self.failed = report.nodeid, str(report.longrepr)[-300:], False


def main() -> int:
    """Run the bugs; 0 where all are caught."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", default=[], metavar="NAME", help="part of a bug's name")
    parser.add_argument("--write", metavar="FILE", help="write the table of bugs and the tests that caught them")
    options = parser.parse_args()
    if options.only and options.write:
        parser.error("--write is of the whole list: leave --only away")
    mutants = [m for m in read_mutants() if not options.only or any(part in m.name for part in options.only)]
    if not mutants:
        parser.error("no bug has such a name")
    try:
        changed = {mutant.name: mutant.changed() for mutant in mutants}
    except ValueError as error:
        parser.error(str(error))
    for name in HEAVY:
        importlib.import_module(name)
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="anymc3d-mutants-") as folder:
        tree = Path(folder)
        shutil.copytree(REPOSITORY / LIBRARY, tree / LIBRARY, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copytree(REPOSITORY / "Resources", tree / "Resources")
        if not _passes(tree, mutants):
            return 1
        caught_by = {mutant.name: _caught_by(tree, mutant, changed[mutant.name]) for mutant in mutants}
    missed = [name for name, test in caught_by.items() if test is None]
    print(f"{len(mutants) - len(missed)} of {len(mutants)} caught in {time.monotonic() - started:.0f} s")
    if options.write and not missed:
        Path(options.write).write_text(_page(mutants, caught_by), encoding="utf-8")
    return 1 if missed else 0


def _passes(tree: Path, mutants: Sequence[Mutant]) -> bool:
    """Whether all tests pass on the library as it is; what it is compiled to is then there for all bugs."""
    tests = list(dict.fromkeys(test for mutant in mutants for test in mutant.tests))
    witness = _run(tree, tests, seconds=LONGEST_OF_ALL, keep_bytecode=True)
    if witness is None or witness.failed:
        print(f"Without a bug: {witness.failed if witness else 'the tests do not end'}")
        return False
    idle = [test for test in tests if not any(_is_of(test, node) for node in witness.passed)]
    if idle:
        print(f"Without a bug: {idle[0]} was not run here")
    return not idle


def _caught_by(tree: Path, mutant: Mutant, changed: str) -> str | None:
    """The test that the bug makes fail by an assertion; None where there is none."""
    started, place = time.monotonic(), tree / LIBRARY / mutant.file
    place.write_text(changed, encoding="utf-8")
    witness = _run(tree, mutant.tests, seconds=LONGEST, keep_bytecode=False)
    # With its time, by which what it was compiled to is known.
    shutil.copy2(REPOSITORY / LIBRARY / mutant.file, place)
    found = None
    if witness is None:
        told = f"{SURVIVED}: the tests do not end"
    elif witness.failed is None:
        told = f"{SURVIVED}: {len(witness.passed)} tests passed"
    elif not witness.failed[2]:
        told = f"{SURVIVED}: no assertion, but {witness.failed[1]} in {witness.failed[0]}"
    else:
        told, found = CAUGHT, witness.failed[0]
    print(f"{time.monotonic() - started:6.1f} s  {mutant.name}: {told}", flush=True)
    return found


def _run(tree: Path, tests: Sequence[str], *, seconds: float, keep_bytecode: bool) -> Witness | None:
    """The tests on the library in `tree`, in a process of its own; None where they do not end in time."""
    # A fork has the heavy libraries already, which take seconds to import; where there is none, all is imported anew.
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    receiving, sending = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(tree, tests, keep_bytecode, sending))
    process.start()
    sending.close()
    witness = None
    with contextlib.suppress(EOFError):
        if receiving.poll(seconds):
            witness = Witness()
            witness.passed, witness.failed = receiving.recv()
    process.kill()
    process.join()
    return witness


def _child(tree: Path, tests: Sequence[str], keep_bytecode: bool, sending: Connection) -> None:
    with Path(os.devnull).open("w") as nothing:
        os.dup2(nothing.fileno(), 1)
        os.dup2(nothing.fileno(), 2)
    sys.dont_write_bytecode = not keep_bytecode
    # For processes that a test starts, too.
    os.environ["PYTHONPATH"] = os.pathsep.join([str(tree), os.environ.get("PYTHONPATH", "")])
    sys.path.insert(0, str(tree))
    witness = Witness()
    try:
        library = importlib.import_module(LIBRARY)
        if not Path(library.__file__).is_relative_to(tree):
            raise RuntimeError(f"the library of the working tree was imported, not that in {tree}")
        arguments = ["-x", "-q", "-p", "no:cacheprovider", "-c", str(REPOSITORY / "pyproject.toml")]
        with contextlib.chdir(REPOSITORY):
            pytest.main([*arguments, *(str(TESTS / test) for test in tests)], plugins=[witness])
    except BaseException as error:
        witness.failed = witness.failed or ("(none)", f"{type(error).__name__}: {error}"[:300], False)
    sending.send((witness.passed, witness.failed))


def _is_of(test: str, node: str) -> bool:
    """Whether a node id is that of `test`, or one of its cases."""
    name = node.rpartition("Testing/Lib/")[2]
    return name == test or name.startswith(f"{test}[")


def _page(mutants: Sequence[Mutant], caught_by: dict[str, str | None]) -> str:
    rows = []
    for mutant in mutants:
        file, _, test = (caught_by[mutant.name] or "").rpartition("Testing/Lib/")[2].partition("::")
        sentence = test.partition("[")[0].removeprefix("test_").replace("_", " ")
        rows.append(f"| {mutant.name} | {mutant.why} | `{mutant.file}` | {sentence} (`{file}`) |")
    head = (
        f"# Deliberate bugs\n\n{len(mutants)} small bugs of the kind that gives a plausible wrong answer, each "
        "put into a copy of the library for itself, and a test\nthat then fails by an assertion. `python "
        "Testing/Benchmarks/mutants.py --write docs/mutants.md` tries them all and writes this page.\n\n"
        "| bug | what would come of it | where | the test that catches it |\n|---|---|---|---|\n"
    )
    return head + "\n".join(rows) + "\n"


if __name__ == "__main__":
    raise SystemExit(main())
