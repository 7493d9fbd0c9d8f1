"""What the worker answers and logs when a job fails."""

from __future__ import annotations

import errno
import sys
import traceback

from .errors import AnyMC3DError, Cancelled, MemoryShortage
from .protocol import CANCELLED, INPUT_AT_FAULT, INTERNAL_ERROR, NOT_ENOUGH_MEMORY, ProtocolError
from .wording import one_line

CANCELLED_SENTENCE = "The work was cancelled."
MEMORY_SENTENCE = "The memory is not enough for this: close other programs, unload plugins, or choose the device 'cpu'."


def failure_of(error: BaseException) -> tuple[int, str]:
    """The code and the sentence for an error of a job."""
    if isinstance(error, ProtocolError):
        return error.code, str(error)
    if isinstance(error, Cancelled):
        return CANCELLED, CANCELLED_SENTENCE
    if isinstance(error, MemoryShortage):
        return NOT_ENOUGH_MEMORY, one_line(str(error))
    if isinstance(error, AnyMC3DError):
        return INPUT_AT_FAULT, one_line(str(error))
    if _is_out_of_memory(error):
        return NOT_ENOUGH_MEMORY, MEMORY_SENTENCE
    if isinstance(error, ModuleNotFoundError):
        return INTERNAL_ERROR, f"The Python package '{error.name}' is not installed: install what AnyMC3D needs."
    if isinstance(error, OSError) and error.strerror:
        where = f" '{one_line(str(error.filename))}'" if error.filename else ""
        return INPUT_AT_FAULT, f"The system refused{where}: {error.strerror}."
    return INTERNAL_ERROR, unexpected(error)


def unexpected(error: BaseException) -> str:
    """The sentence for an error that is a fault of ours."""
    return f"The work failed unexpectedly ({type(error).__name__}): the log of the worker says where."


def trace_of(error: BaseException) -> str:
    """Where an error comes from. Without its message, which may name a file or a value of a header."""
    parts = []
    for one in chain_of(error):
        parts += [*traceback.format_tb(one.__traceback__), f"{type(one).__name__}\n"]
    return "".join(parts)


def chain_of(error: BaseException) -> list[BaseException]:
    """The error and those it came from."""
    chain: list[BaseException] = []
    following: BaseException | None = error
    while following is not None and following not in chain:
        chain.append(following)
        following = following.__cause__ or following.__context__
    return chain


def _is_out_of_memory(error: BaseException) -> bool:
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
        return True
    # Without torch in memory no error can be torch's.
    if "torch" not in sys.modules:
        return False
    from .memory import is_out_of_memory

    return is_out_of_memory(error)
