"""A suite is run: rows that are not there yet, one after the other, each kept as soon as it is done."""

from __future__ import annotations

import dataclasses
import datetime
import logging
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from ..control import Control
from ..errors import AnyMC3DError, Cancelled, InputError, Suspended
from ..progress import Progress
from .claims import claimed
from .config import RowConfig
from .datasets import Dataset
from .row_process import compute_apart
from .row_run import Means, RowResult, compute_row, forget
from .rows import ResultsTable, Row

logger = logging.getLogger(__name__)

WORKING, CLAIMS = "working", "claims"


@dataclasses.dataclass(frozen=True)
class SuiteProgress:
    """Row `number` of `total` is at `step`; `minutes_left` is an estimate, None while nothing is known."""

    number: int
    total: int
    config: RowConfig
    step: Progress | None
    minutes_left: float | None


@dataclasses.dataclass(frozen=True)
class Running:
    """How a suite is run.

    Slices and frozen embeddings are kept in `cache`; `part` (k, n) takes those rows whose key falls to the k-th of n,
    for machines that share no folder; failed rows are tried again if `retry`. With `apart` each row has a process of
    its own, on `threads` threads, and its memory is told alone.
    """

    results: Path
    cache: Path | None = None
    cache_gb: float = 20.0
    device: str = "cpu"
    threads: int | None = None
    part: tuple[int, int] = (1, 1)
    retry: bool = False
    weights: Mapping[str, Path] = dataclasses.field(default_factory=dict)
    apart: bool = True


@dataclasses.dataclass
class Summary:
    """What a run did: rows that it computed, that failed, that were there, and that other processes have."""

    done: int = 0
    failed: int = 0
    there: int = 0
    elsewhere: int = 0


def run_suite(
    configs: Sequence[RowConfig],
    datasets: Mapping[str, Dataset],
    running: Running,
    *,
    progress: Callable[[SuiteProgress], None] | None = None,
    control: Control | None = None,
) -> Summary:
    """Compute the rows that are not in the table; raises Cancelled where `control` asks for it.

    A row that cannot be computed is kept with its reason and does not end the suite.
    """
    control, table, summary = control or Control(), ResultsTable(running.results), Summary()
    wanted = in_order(_of_part(configs, running.part))
    open_rows = [config for config in wanted if _is_open(table, config, retry=running.retry)]
    summary.there = len(wanted) - len(open_rows)
    for number, config in enumerate(open_rows, start=1):
        control.check()
        with claimed(running.results / CLAIMS / config.key) as mine:
            # Another process may have done it since.
            if not mine or not _is_open(table, config, retry=running.retry):
                summary.elsewhere += 1
                continue
            tell = _teller(progress, table, open_rows, number)
            row = _row(config, datasets[config.dataset], running, table, tell, control)
        summary.done += row.status == "done"
        summary.failed += row.status == "failed"
    return summary


def in_order(configs: Sequence[RowConfig]) -> list[RowConfig]:
    """Rows that share frozen embeddings together, the quick ones first."""
    slow = {"probe": 0, "frozen": 0, "raptor": 0}
    return sorted(
        configs, key=lambda c: (slow.get(c.method, 1), c.dataset, c.backbone, not c.pretrained, c.size or 0)
    )  # fmt: skip


def minutes_left(rows: Sequence[Row], open_rows: Sequence[RowConfig]) -> float | None:
    """An estimate from the rows that are done, those most like each open one; None while one is like none of them."""
    done = [row for row in rows if row.status == "done"]
    expected = [_expected(done, config) for config in open_rows]
    return None if None in expected else sum(minutes for minutes in expected if minutes is not None)


def _expected(done: Sequence[Row], config: RowConfig) -> float | None:
    alike: list[Callable[[RowConfig], object]] = [
        lambda c: c.but("seed"),
        lambda c: (c.dataset, c.method, c.backbone, c.size, c.share, c.fusion),
        lambda c: (c.dataset, c.method, c.size),
        lambda c: (c.dataset, c.method),
        lambda c: c.method,
    ]
    for facts in alike:
        found = [row for row in done if facts(row.config) == facts(config)]
        if found:
            # Embedding is paid for once, so the median is nearer to what comes than the mean.
            per_share = statistics.median(row.minutes / row.config.share for row in found)
            expected = per_share * config.share
            return min(expected, config.budget_minutes or expected)
    return None


def _means(running: Running, config: RowConfig) -> Means:
    if config.weights and config.weights not in running.weights:
        raise InputError(
            f"The weights {config.weights} of a row of '{config.method}' are not at hand: give their file."
        )
    return Means(
        working=running.results / WORKING,
        cache=running.cache,
        cache_gb=running.cache_gb,
        device=running.device,
        weights=running.weights.get(config.weights),
    )


def _of_part(configs: Sequence[RowConfig], part: tuple[int, int]) -> list[RowConfig]:
    number, count = part
    if not 1 <= number <= count:
        raise InputError(f"A part is one of several, such as 1/4, but is {number}/{count}.")
    # By the key, so that a suite that was extended gives each machine the rows it had.
    return [config for config in configs if int(config.key, 16) % count == number - 1]


def _is_open(table: ResultsTable, config: RowConfig, *, retry: bool) -> bool:
    try:
        row = table.row(config.key)
    except InputError as error:
        logger.warning("%s It is computed again.", error)
        return True
    return row is None or (retry and row.status == "failed")


def _row(
    config: RowConfig,
    dataset: Dataset,
    running: Running,
    table: ResultsTable,
    tell: Callable[[Progress | None], None],
    control: Control,
) -> Row:
    """Compute a row and keep it, with its reason where it failed."""
    tell(None)
    try:
        result = _computed(config, dataset, running, tell, control)
    except Cancelled as error:
        control.check()
        if control.suspended:
            raise Suspended("The suite has saved where it stands: the same command goes on.") from error
        result = RowResult(_failed(config, error), None)
    except AnyMC3DError as error:
        result = RowResult(_failed(config, error), None)
    table.add(result.row, result.predictions)
    forget(running.results / WORKING, config.key)
    return result.row


def _computed(
    config: RowConfig, dataset: Dataset, running: Running, tell: Callable[[Progress], None], control: Control
) -> RowResult:
    means = _means(running, config)
    if running.apart:
        return compute_apart(config, dataset, means, progress=tell, control=control, threads=running.threads)
    # Its budget may stop the row, and then the suite goes on.
    own = Control()
    return compute_row(config, dataset, means, progress=_linked(tell, control, own), control=own)


def _failed(config: RowConfig, error: Exception) -> Row:
    logger.warning("A row failed: %s", error)
    date = datetime.datetime.now(datetime.UTC).date().isoformat()
    return Row(key=config.key, config=config, status="failed", error=str(error), date=date)


def _linked(tell: Callable[[Progress], None], outer: Control, inner: Control) -> Callable[[Progress], None]:
    """A row's own control, which its budget may stop, obeys that of the suite."""

    def report(step: Progress) -> None:
        outer.check()
        if outer.suspended:
            inner.suspend()
        tell(step)

    return report


def _teller(
    progress: Callable[[SuiteProgress], None] | None, table: ResultsTable, open_rows: Sequence[RowConfig], number: int
) -> Callable[[Progress | None], None]:
    left = None if progress is None else minutes_left(table.rows(), open_rows[number - 1 :])
    started = time.monotonic()

    def tell(step: Progress | None) -> None:
        if progress is not None:
            remaining = None if left is None else max(0.0, left - (time.monotonic() - started) / 60)
            progress(SuiteProgress(number, len(open_rows), open_rows[number - 1], step, remaining))

    return tell
