"""Work that gives the same bits each time it is done on one machine with one set of libraries."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from .errors import InputError

WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"
# NVIDIA's cuBLAS promises the same bits with either of these alone.
WORKSPACES = (":4096:8", ":16:8")
# Slices at once where neither time nor free memory may decide, since another batch rounds in another way.
BATCH = 8
# Likewise the bytes of activations that a training step keeps at once.
ACTIVATION_BYTES = 512 << 20


def is_deterministic() -> bool:
    """Whether torch has been told to give the same bits each time."""
    return torch.are_deterministic_algorithms_enabled()


@contextmanager
def deterministic(wanted: bool = True) -> Iterator[None]:
    """Within the block the same work gives the same bits; without `wanted` nothing changes.

    torch takes the algorithms that do so and one thread of the CPU, cuDNN does not choose by speed, and batches depend
    on neither time nor free memory, as long as they fit. To be entered before a GPU is used. Raises InputError where
    the work needs an operation that the device cannot do in the same way twice.
    """
    if not wanted:
        yield
        return
    threads, cudnn = torch.get_num_threads(), torch.backends.cudnn
    before = cudnn.deterministic, cudnn.benchmark, is_deterministic(), os.environ.get(WORKSPACE)
    if before[3] not in WORKSPACES:
        os.environ[WORKSPACE] = WORKSPACES[0]
    try:
        cudnn.deterministic, cudnn.benchmark = True, False
        torch.use_deterministic_algorithms(True)
        # Sums over parts, one a thread, are rounded otherwise for another number of them.
        torch.set_num_threads(1)
        yield
    except RuntimeError as error:
        operation = _undetermined(error)
        if operation is None:
            raise
        raise InputError(
            f"The device cannot do '{operation}' in the same way twice: compute with --device cpu, or leave "
            "--deterministic away."
        ) from error
    finally:
        torch.set_num_threads(threads)
        cudnn.deterministic, cudnn.benchmark = before[:2]
        torch.use_deterministic_algorithms(before[2])
        if before[3] is None:
            os.environ.pop(WORKSPACE, None)
        else:
            os.environ[WORKSPACE] = before[3]


def _undetermined(error: RuntimeError) -> str | None:
    """The operation that torch refuses because it is not determined; None where the error is another."""
    text = str(error)
    if "use_deterministic_algorithms" not in text:
        return None
    return text.split()[0].strip("'\",.:") or "an operation"
