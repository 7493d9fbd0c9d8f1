"""Arrays to and from the `.npy` files that the worker takes and gives, piece by piece. Needs NumPy alone.

Each function is a generator that yields how far it is, in [0, 1], after every piece, so that the application can do
other things in between: a study of hundreds of megabytes would stop it for longer than a person overlooks.
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
import numpy.lib.format as npy

from AnyMC3DLib.errors import AnyMC3DError, InputError

if TYPE_CHECKING:
    import numpy.typing as npt

# A millisecond's work or less; larger pieces are hardly faster.
PIECE_BYTES = 1 << 20
READABLE = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}


def write_in_pieces(path: Path, array: npt.NDArray) -> Generator[float, None, None]:
    """Write `array` to a new file; when the generator is closed early, or fails, the file is gone."""
    try:
        with path.open("xb") as stream:
            npy.write_array_header_1_0(
                stream, {"descr": npy.dtype_to_descr(array.dtype), "fortran_order": False, "shape": array.shape}
            )
            written = 0
            for piece in _pieces(array):
                stream.write(piece.data)
                written += piece.nbytes
                yield written / array.nbytes
    except OSError as error:
        path.unlink(missing_ok=True)
        raise InputError(
            f"The image cannot be handed over: {error.strerror or error}; make room on the disk."
        ) from error
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def read_in_pieces(path: Path) -> Generator[float, None, npt.NDArray]:
    """Read the array in the file `path` and delete the file; the generator's value is the array."""
    try:
        with path.open("rb") as stream:
            array = _empty_for(stream)
            content = array.reshape(-1).view(np.uint8)
            for start in range(0, len(content), PIECE_BYTES):
                part = content[start : start + PIECE_BYTES]
                if stream.readinto(part.data) < len(part):
                    raise InputError("The worker's array ends too early: ask for it again.")
                yield min(1.0, (start + PIECE_BYTES) / len(content))
    except (OSError, ValueError) as error:
        raise InputError("The worker's array cannot be read: ask for it again.") from error
    finally:
        # Windows keeps a file that somebody has open; it goes with the worker's folder.
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)
    return array


def _empty_for(stream: BinaryIO) -> npt.NDArray:
    read_header = READABLE.get(npy.read_magic(stream))
    if read_header is None:
        raise AnyMC3DError("The worker's array is of a kind that this program cannot read: update AnyMC3D.")
    shape, fortran_order, dtype = read_header(stream)
    if dtype.hasobject or fortran_order:
        raise AnyMC3DError("The worker's array is of a kind that this program cannot read: update AnyMC3D.")
    return np.empty(shape, dtype)


def _pieces(array: npt.NDArray) -> Iterator[npt.NDArray]:
    """Parts of the array in C order, as flat bytes; an array that is no single block of memory is copied by parts."""
    if array.flags.c_contiguous:
        content = array.reshape(-1).view(np.uint8)
        for start in range(0, len(content), PIECE_BYTES):
            yield content[start : start + PIECE_BYTES]
    elif array.nbytes <= PIECE_BYTES or array.ndim <= 1:
        yield np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    else:
        for part in array:
            yield from _pieces(part)
