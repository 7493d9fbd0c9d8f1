"""Keep freed memory in the process while training on a CPU."""

from __future__ import annotations

import ctypes
import logging
import platform

logger = logging.getLogger(__name__)

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD, M_MMAP_MAX = -1, -2, -3, -4


def keep_freed_memory() -> bool:
    """Tell glibc not to hand freed blocks back to the system; true if it was told.

    A training step frees and takes hundreds of megabytes of activations. Handed back each time, they return page by
    zeroed page, which costs more than the convolutions. Only for processes of our own, never inside Slicer.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    libc = ctypes.CDLL(None)
    settings = ((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, 2**31 - 1), (M_TOP_PAD, 256 << 20))
    told = all(libc.mallopt(name, value) == 1 for name, value in settings)
    logger.debug("glibc keeps freed memory: %s", told)
    return told
