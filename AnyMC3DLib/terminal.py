"""What the shell shows: tables on standard output, progress on standard error."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from types import TracebackType

from .progress import Progress

SECONDS_BETWEEN_LINES = 10.0


class ProgressDisplay:
    """Shows progress: a bar in a terminal, else a line when a step begins and every ten seconds."""

    def __init__(self) -> None:
        self._bar = None
        self._task = None
        self._step = ""
        self._last_line = 0.0

    def __enter__(self) -> ProgressDisplay:
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import Progress as Bar

            self._bar = Bar(console=Console(stderr=True), transient=True)
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def __call__(self, progress: Progress) -> None:
        """Show how far the work is."""
        if self._bar is not None:
            self._draw(progress)
        elif progress.step != self._step or time.monotonic() - self._last_line > SECONDS_BETWEEN_LINES:
            self._last_line = time.monotonic()
            sys.stderr.write(f"{progress.step}: {progress.done} of {progress.total}\n")
            sys.stderr.flush()
        self._step = progress.step

    def _draw(self, progress: Progress) -> None:
        if progress.step != self._step:
            if self._task is not None:
                self._bar.remove_task(self._task)
            self._task = self._bar.add_task(progress.step, total=progress.total)
        self._bar.update(self._task, completed=progress.done, total=progress.total)


def show_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table; in a pipe it is as wide as its contents, so that nothing is cut off."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    console = Console(width=None if sys.stdout.isatty() else 200, highlight=False, emoji=False, markup=False)
    table = Table(*columns, title=printable(title), title_justify="left", box=box.SIMPLE_HEAD)
    for row in rows:
        table.add_row(*map(printable, row))
    console.print(table)


def show(text: str = "") -> None:
    """Print a line of the result."""
    sys.stdout.write(printable(text) + "\n")


def printable(text: str) -> str:
    """The text without what would steer the terminal: names and licences in files may come from anyone."""
    return "".join(c for c in text if c.isprintable() or c in "\n\t")
