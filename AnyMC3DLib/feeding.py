"""Slices from memory to the device, the next batch while the current one is computed."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor


class Feeder:
    """Gives batches of slices [S, C, H, W] on a device.

    On CUDA the next batch is pinned by a thread and copied on a stream of its own, beside the computing.
    """

    def __init__(self, array: npt.NDArray[np.float32], device: torch.device) -> None:
        self._slices, self._device = torch.from_numpy(array), device
        self._ahead: tuple[int, int, Future[Tensor]] | None = None
        if device.type == "cuda":
            self._stream = torch.cuda.Stream(device)
            self._thread = ThreadPoolExecutor(1)

    def batch(self, first: int, count: int) -> Tensor:
        """Slices first to first + count - 1."""
        if self._device.type != "cuda":
            return self._slices[first : first + count].to(self._device)
        if self._ahead is None or self._ahead[0] != first or self._ahead[1] < count:
            self.copy_ahead(first, count)
        # Forgotten first: a copy for which there was no room must be tried again smaller.
        copied, self._ahead = self._ahead[2], None
        slices = copied.result()[:count]
        computing = torch.cuda.current_stream(self._device)
        computing.wait_stream(self._stream)
        # The memory may not be given away while the computing stream still reads it.
        slices.record_stream(computing)
        return slices

    def copy_ahead(self, first: int, count: int) -> None:
        """Begin to copy a batch that will be asked for next."""
        if self._device.type == "cuda" and first < len(self._slices):
            self._ahead = (first, count, self._thread.submit(self._copy, first, count))

    def _copy(self, first: int, count: int) -> Tensor:
        pinned = self._slices[first : first + count].pin_memory()
        with torch.cuda.stream(self._stream):
            return pinned.to(self._device, non_blocking=True)
