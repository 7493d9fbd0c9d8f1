"""Each row in a process of its own: its memory is its own, and one that is killed takes no other with it."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from typing import Literal

from ..control import Control
from ..errors import AnyMC3DError, InputError, MemoryShortage
from ..progress import Progress
from .config import RowConfig
from .datasets import Dataset
from .row_run import Means, RowResult, compute_row

logger = logging.getLogger(__name__)

Wish = Literal["cancel", "suspend"]
LOOK_EVERY_S = 0.5
GONE = (
    "The process of the row was ended from outside{how}, as systems do where the memory does not suffice: close other "
    "programs, or choose smaller slices."
)


def compute_apart(
    config: RowConfig,
    dataset: Dataset,
    means: Means,
    *,
    progress: Callable[[Progress], None],
    control: Control,
    threads: int | None = None,
) -> RowResult:
    """As `compute_row`, in a process of its own on `threads` threads; raises MemoryShortage if that is killed."""
    context = multiprocessing.get_context("spawn" if sys.platform == "win32" else "forkserver")
    if sys.platform != "win32":
        # Libraries are imported once, in a server that computes nothing itself.
        multiprocessing.set_forkserver_preload([__name__])
    ours, theirs = context.Pipe()
    # A dataset is read there, and what was read of it here is not sent along.
    fresh = Dataset(dataset.name, dataset.task, dataset.data)
    process = context.Process(target=_work, args=(theirs, config, fresh, means, threads), daemon=True)
    process.start()
    theirs.close()
    try:
        return _answer(ours, process, progress, control)
    finally:
        ours.close()
        process.join()


def _answer(
    pipe: Connection,
    process: multiprocessing.process.BaseProcess,
    progress: Callable[[Progress], None],
    control: Control,
) -> RowResult:
    asked: set[Wish] = set()
    while True:
        for wish, wanted in (("suspend", control.suspended), ("cancel", control.cancelled)):
            if wanted and wish not in asked:
                asked.add(wish)
                pipe.send(wish)
        if not wait([pipe], timeout=LOOK_EVERY_S):
            continue
        try:
            told = pipe.recv()
        except EOFError:
            process.join()
            how = f" (signal {-process.exitcode})" if (process.exitcode or 0) < 0 else ""
            raise MemoryShortage(GONE.format(how=how)) from None
        if isinstance(told, Progress):
            progress(told)
        elif isinstance(told, RowResult):
            return told
        else:
            raise told


def _work(pipe: Connection, config: RowConfig, dataset: Dataset, means: Means, threads: int | None) -> None:
    """What the row's process does; wishes come through the pipe, and its end is the end of who asked."""
    import torch

    from ..allocator import keep_freed_memory

    # The terminal's Ctrl+C reaches every process; who started this one says what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    keep_freed_memory()
    if threads:
        torch.set_num_threads(threads)
    control = Control()
    threading.Thread(target=_listen, args=(pipe, control), daemon=True).start()
    try:
        pipe.send(compute_row(config, dataset, means, progress=pipe.send, control=control))
    except AnyMC3DError as error:
        pipe.send(error)
    except Exception as error:
        logger.exception("The row %s failed.", config.key)
        pipe.send(InputError(f"It failed with {type(error).__name__}: {' '.join(str(error).split())[:300]}"))


def _listen(pipe: Connection, control: Control) -> None:
    wishes: dict[Wish, Callable[[], None]] = {"cancel": control.cancel, "suspend": control.suspend}
    try:
        while True:
            wishes[pipe.recv()]()
    except (EOFError, OSError):
        # Nobody waits for the row any more: its state was saved a minute ago at most.
        os._exit(1)
