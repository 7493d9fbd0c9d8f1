"""Slices from memory to the device, the next batch while the current one is computed."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor


class Feeder:
    """Gives batches of slices [S, C, H, W] on a device; on CUDA a copy ahead runs beside the computing."""

    def __init__(self, array: npt.NDArray[np.float32], device: torch.device) -> None:
        self._slices, self._device = torch.from_numpy(array), device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._ahead: tuple[int, Tensor] | None = None

    def batch(self, first: int, count: int) -> Tensor:
        """Slices first to first + count - 1."""
        if self._stream is None:
            return self._slices[first : first + count].to(self._device)
        if self._ahead is None or self._ahead[0] != first or len(self._ahead[1]) < count:
            self.copy_ahead(first, count)
        computing = torch.cuda.current_stream(self._device)
        computing.wait_stream(self._stream)
        slices = self._ahead[1][:count]
        # The memory may not be given away while the computing stream still reads it.
        slices.record_stream(computing)
        self._ahead = None
        return slices

    def copy_ahead(self, first: int, count: int) -> None:
        """Begin to copy a batch that will be asked for next."""
        if self._stream is None or first >= len(self._slices):
            return
        pinned = self._slices[first : first + count].pin_memory()
        with torch.cuda.stream(self._stream):
            self._ahead = (first, pinned.to(self._device, non_blocking=True))
