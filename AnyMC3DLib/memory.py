"""How much of a device's memory and time a batch of slices may take."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable

import psutil
import torch

logger = logging.getLogger(__name__)

SHORTAGE = "the memory was not enough"
# Progress and cancel come between batches: half of the half second that a user may wait for them.
SECONDS_A_BATCH = 0.25
FIRST_BATCH = 4
MOST_SLICES = 512
# Of the memory that is free, since allocators waste some.
USABLE = 0.7
# On GPUs, and on CPUs under Linux and Windows.
SHORTAGE_WORDS = ("out of memory", "can't allocate memory", "not enough memory", "alloc_failed", "invalid buffer size")
# A batch's activations, as multiples of its slices in float32 RGB; a ViT-B/16 and a ResNet-50 take about 14.
ACTIVATIONS = 16


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory did not suffice, on any device."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(words in text for words in SHORTAGE_WORDS)


def free_memory(device: torch.device) -> int:
    """Bytes that this process may still take on `device`."""
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        # A process may have been given a fraction of the card; what it has reserved counts against it.
        share = int(total * _fraction(device)) - torch.cuda.memory_reserved(device)
        return max(0, min(free, share)) + kept
    if device.type == "mps":
        return max(0, torch.mps.recommended_max_memory() - torch.mps.current_allocated_memory())
    return psutil.virtual_memory().available


def _fraction(device: torch.device) -> float:
    # Older torch can set the fraction, but not tell it.
    ask = getattr(torch.cuda, "get_per_process_memory_fraction", None)
    return float(ask(device)) if ask else 1.0


def release_memory(device: torch.device) -> None:
    """Hand cached blocks of `device` back, so that a smaller batch or another program can have them."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif device.type == "mps":
        torch.mps.empty_cache()


def synchronise(device: torch.device) -> None:
    """Wait until the device has done what it was told."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


@dataclasses.dataclass(frozen=True)
class Step:
    """What was changed for a study to go on, and why."""

    why: str
    was: str
    now: str


class BatchSizer:
    """How many slices go through the network at once: as many as fit in memory, and in a quarter of a second.

    With `fixed` it is that many, until memory does not suffice. `tell` hears of each step down.
    """

    def __init__(
        self, device: torch.device, *, fixed: int | None = None, tell: Callable[[Step], None] | None = None
    ) -> None:
        self._device, self._fixed, self._tell = device, fixed, tell
        self._limit = MOST_SLICES
        self._rate: float | None = None
        self._last = FIRST_BATCH

    def begin(self) -> None:
        """A new study: what did not fit in the last one may fit now."""
        self._limit = MOST_SLICES

    def size(self, height: int, width: int) -> int:
        """The number of slices of height x width pixels for the next batch."""
        if self._fixed is not None:
            return min(self._fixed, self._limit)
        wanted = FIRST_BATCH if self._rate is None else int(SECONDS_A_BATCH * self._rate / (height * width))
        # The first batches are slow (kernels are chosen), so the size doubles at most; it shrinks at once.
        wanted = min(wanted, 2 * self._last, self._limit, self._room(height * width))
        self._last = max(1, wanted)
        return self._last

    def _room(self, pixels: int) -> int:
        # Asking the system costs little beside a batch.
        return int(USABLE * free_memory(self._device) / (pixels * 3 * 4 * ACTIVATIONS))

    def measured(self, slices: int, pixels: int, seconds: float) -> None:
        """Tell how long a batch of `slices` slices of `pixels` pixels each took."""
        rate = slices * pixels / max(seconds, 1e-6)
        self._rate = rate if self._rate is None else 0.5 * (self._rate + rate)

    def halve(self, slices: int) -> bool:
        """A batch of `slices` did not fit: true if a smaller one can be tried."""
        if slices == 1:
            return False
        self._limit = slices // 2
        if self._tell is not None:
            self._tell(Step(SHORTAGE, f"batches of {slices}", f"batches of {self._limit}"))
        return True
