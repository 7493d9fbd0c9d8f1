"""`anymc3d benchmark`: run a suite, look how far it is, and write its report."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import InputError
from ..terminal import show, show_table
from .ending import asked_to_end

if TYPE_CHECKING:
    from ..benchmark.config import RowConfig
    from ..benchmark.datasets import Dataset
    from ..benchmark.running import SuiteProgress
    from ..benchmark.suites import Suite

SECONDS_BETWEEN_LINES = 30.0


def add_parser(commands: argparse._SubParsersAction) -> None:
    """Add `anymc3d benchmark` and what it can do."""
    text = "Compare methods, backbones and shares of data on labelled data, and write a report."
    benchmark = commands.add_parser("benchmark", help=text, description=text)
    actions = benchmark.add_subparsers(dest="action", metavar="ACTION", required=True)

    suites = actions.add_parser("suites", help="list the ready suites")
    suites.set_defaults(module="benchmark", function="list_suites")

    run = actions.add_parser("run", help="compute what is missing of a suite, then write its report")
    run.set_defaults(module="benchmark", function="run")
    _add_suite(run)
    run.add_argument("--cache", metavar="FOLDER", help="keep slices and frozen embeddings (default: in the results)")
    run.add_argument("--cache-gb", type=float, default=20.0, help="of slices (default: %(default)s)")
    run.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps (default: %(default)s)")
    run.add_argument("--threads", type=int, metavar="N", help="of the processor (default: all)")
    run.add_argument("--part", default="1/1", metavar="K/N", help="every row of the K-th of N parts, for N machines")
    run.add_argument("--retry", action="store_true", help="compute failed rows again")
    run.add_argument("--no-report", action="store_true", help="write no report at the end")

    report = actions.add_parser("report", help="write the report of what is there")
    report.set_defaults(module="benchmark", function="report")
    _add_suite(report)

    status = actions.add_parser("status", help="say which rows are done, failed, missing")
    status.set_defaults(module="benchmark", function="status")
    _add_suite(status)


def _add_suite(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("suite", help="a ready suite's name (see `anymc3d benchmark suites`) or a YAML file")
    parser.add_argument("--data", required=True, metavar="FOLDER", help="where the datasets' files lie")
    parser.add_argument("--results", required=True, metavar="FOLDER", help="where rows and reports are kept")
    parser.add_argument("--datasets", default="", metavar="A,B", help="these alone")
    parser.add_argument("--methods", default="", metavar="A,B", help="these alone")
    parser.add_argument("--seeds", default="", metavar="0,1", help="these alone")


def list_suites(options: argparse.Namespace) -> None:
    """The ready suites and what they ask."""
    from ..benchmark.suites import read_suite, ready_suites

    suites = [read_suite(name) for name in ready_suites()]
    show_table("Ready suites", ["name", "question"], [[suite.name, suite.title] for suite in suites])


def run(options: argparse.Namespace) -> None:
    """Compute the missing rows of a suite and write its report."""
    from ..benchmark.running import Running, run_suite
    from ..control import Control
    from .common import choose_device

    results = Path(options.results)
    suite, datasets, configs, remarks = _asked(options)
    running = Running(
        results=results,
        cache=Path(options.cache) if options.cache else results / "cache",
        cache_gb=options.cache_gb,
        device=str(choose_device(options.device)),
        threads=options.threads,
        part=_part(options.part),
        retry=options.retry,
        weights=suite.weights(),
    )
    control = Control()
    with asked_to_end(control, keeps=True), _Display() as display:
        summary = run_suite(configs, datasets, running, progress=display, control=control)
    told = f"{summary.done} rows computed, {summary.there} were there, {summary.failed} failed"
    show(f"{told}, {summary.elsewhere} are another process's." if summary.elsewhere else f"{told}.")
    if not options.no_report:
        _write(options, suite, datasets, configs, remarks)


def report(options: argparse.Namespace) -> None:
    """Write the report of the rows that are there."""
    _write(options, *_asked(options))


def status(options: argparse.Namespace) -> None:
    """Say how far a suite is."""
    from ..benchmark.rows import ResultsTable

    _, _, configs, _ = _asked(options)
    table = ResultsTable(options.results)
    there = {row.key: row for row in table.rows()}
    rows = [(config, there.get(config.key)) for config in configs]
    shown = [[config.key, _in_words(config), row.status if row else "missing"] for config, row in rows]
    show_table("Rows", ["row", "what", "status"], shown)
    for config, row in rows:
        if row and row.error:
            show(f"{config.key}: {row.error}")
    counts = {name: sum((row.status if row else "missing") == name for _, row in rows) for name in ("done", "failed")}
    show(f"{counts['done']} done, {counts['failed']} failed, {len(rows) - sum(counts.values())} missing.")


def _asked(options: argparse.Namespace) -> tuple[Suite, dict[str, Dataset], list[RowConfig], list[str]]:
    """The suite, its datasets that are there, the rows that are asked for, and what is to be said of them."""
    from ..benchmark.suites import read_suite
    from .common import split_list

    suite, data = read_suite(options.suite), Path(options.data)
    if not data.is_dir():
        raise InputError(f"There is no folder '{data}': give the one that the datasets' files lie in.")
    datasets, absent = suite.found(data)
    remarks = [f"There were no data of {', '.join(absent)}: their rows are left out."] if absent else []
    for remark in remarks:
        sys.stderr.write(f"{remark}\n")
    if not datasets:
        raise InputError(f"The folder '{data}' has data of none of the suite's datasets: see `docs/benchmark.md`.")
    wanted = {name: split_list(getattr(options, f"{name}s")) for name in ("dataset", "method", "seed")}
    configs = suite.configs(datasets)
    for name, values in wanted.items():
        known = {str(getattr(config, name)) for config in configs}
        odd = [value for value in values if value not in known]
        if odd:
            raise InputError(f"The suite has no {name} '{odd[0]}': it has {', '.join(sorted(known))}.")
        configs = [config for config in configs if not values or str(getattr(config, name)) in values]
    return suite, datasets, configs, remarks


def _write(
    options: argparse.Namespace,
    suite: Suite,
    datasets: dict[str, Dataset],
    configs: Sequence[RowConfig],
    remarks: Sequence[str],
) -> None:
    from ..benchmark.report import write_report
    from ..benchmark.rows import ResultsTable

    page = write_report(
        ResultsTable(options.results),
        configs,
        suite.questions,
        title=suite.title,
        folder=Path(options.results) / "reports" / suite.name,
        tasks={name: dataset.task for name, dataset in datasets.items()},
        remarks=remarks,
    )
    show(f"The report is '{page}'.")


def _part(text: str) -> tuple[int, int]:
    number, _, count = text.partition("/")
    if not (number.isdigit() and count.isdigit()):
        raise InputError(f"A part is given as K/N, such as 1/4, but is '{text}'.")
    return int(number), int(count)


class _Display:
    """How far a suite is: a line when a row begins and every half minute; in a terminal the last one is replaced."""

    def __init__(self) -> None:
        self._row, self._time, self._live = 0, 0.0, sys.stderr.isatty()

    def __enter__(self) -> _Display:
        return self

    def __exit__(self, *_: object) -> None:
        if self._live and self._row:
            sys.stderr.write("\n")

    def __call__(self, told: SuiteProgress) -> None:
        """Show where the suite stands."""
        now, every = time.monotonic(), 0.5 if self._live else SECONDS_BETWEEN_LINES
        if told.number == self._row and now - self._time < every:
            return
        self._row, self._time = told.number, now
        line = f"Row {told.number} of {told.total}: {_in_words(told.config)}"
        if told.step is not None:
            line += f"; {told.step.step.lower()}, {told.step.done} of {told.step.total}"
        if told.minutes_left is not None:
            line += f"; about {_time(told.minutes_left)} left"
        sys.stderr.write(f"\r\x1b[2K{line[:160]}" if self._live else f"{line}\n")
        sys.stderr.flush()


def _in_words(config: RowConfig) -> str:
    facts = [config.dataset, config.method, config.backbone, "" if config.pretrained else "random weights"]
    facts += [
        f"size {config.size}" if config.size else "",
        f"{config.share:.0%} of the data" if config.share < 1 else "",
    ]
    facts += [
        f"{config.fusion} fusion" if config.fusion else "",
        f"rank {config.rank}" if config.rank else "",
        f"seed {config.seed}",
    ]
    return ", ".join(fact for fact in facts if fact)


def _time(minutes: float) -> str:
    if minutes < 90:
        return f"{max(1, round(minutes))} min"
    return f"{minutes / 60:.1f} h"
