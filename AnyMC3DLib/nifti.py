"""What ITK's NIfTI reader does not tell: another length than the header's (it fills with zeros, or leaves the rest), a
sheared geometry, voxels that are no numbers (it makes them 0), and a header that contradicts itself."""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from .errors import InputError
from .geometry import Affine, corners_of, is_sheared

CHUNK = 1 << 22
# By the code of the type of a voxel: its bits.
BITS = {2: 8, 4: 16, 8: 32, 16: 32, 64: 64, 128: 24, 256: 8, 512: 16, 768: 32, 1024: 64, 1280: 64, 2304: 32}
REAL = {16: "f4", 64: "f8"}
# Two statements about the same length are the same within this share, two places within this share of a voxel; and
# radians that float32 costs a quaternion near half a turn.
SAME_SPACING, SAME_PLACE, SAME_TURN = 0.01, 0.25, 1e-3


def check_nifti(place: Path) -> None:
    """Raise InputError if the file is not as long as its header promises, or its affine is singular or sheared.

    Also where voxels are no finite numbers, and where size and type of the voxels, voxel size and matrix, or the
    header's two matrices say different things.
    """
    # By the ending, as ITK does: it reads an uncompressed file that is called .nii.gz as zeros.
    opener = gzip.open if place.name.lower().endswith(".gz") else open
    damaged = f"'{place.name}' ends too early or is damaged: copy or export it again."
    try:
        with opener(place, "rb") as stream:
            header = stream.read(348)
            if header[:4] in (b"\x1c\x02\0\0", b"\0\0\x02\x1c"):  # 540, the size of a header of version 2
                raise InputError(f"'{place.name}' is a NIfTI of version 2, which cannot be read: export it as NRRD.")
            promised = _promised_length(header)
            if promised is None:
                raise InputError(damaged)
            length, strange = _read_through(stream, header)
    except (EOFError, zlib.error, OSError, struct.error, ValueError, OverflowError) as error:
        raise InputError(damaged) from error
    if length < promised:
        raise InputError(damaged)
    if length > promised:
        raise InputError(f"'{place.name}' holds more data than its header tells: copy or export it again.")
    if strange:
        raise InputError(f"'{place.name}' holds {strange} values that are not finite numbers: replace them first.")
    _check_geometry(header, place)


def _read_through(stream: BinaryIO, header: bytes) -> tuple[int, int]:
    """The length of the whole file, and how many of its voxels are no finite numbers; the header is read already."""
    order = _byte_order(header)
    kind = REAL.get(struct.unpack(f"{order}h", header[70:72])[0])
    length = len(header) + len(stream.read(max(0, _offset(header, order) - len(header))))
    strange, size = 0, int(kind[1]) if kind else 1
    while chunk := stream.read(CHUNK):
        length += len(chunk)
        if kind:
            values = np.frombuffer(chunk[: len(chunk) // size * size], dtype=order + kind)
            strange += values.size - int(np.count_nonzero(np.isfinite(values)))
    return length, strange


def _offset(header: bytes, order: str) -> int:
    return int(struct.unpack(order + "f", header[108:112])[0])


def _byte_order(header: bytes) -> str | None:
    """ "<" or ">", by the size of the header, its first field; None if this is no NIfTI-1."""
    return next((order for order in "<>" if struct.unpack(order + "i", header[:4])[0] == 348), None)


def _promised_length(header: bytes) -> int | None:
    order = _byte_order(header)
    if order is None or len(header) < 348 or header[344:348] != b"n+1\0":
        return None
    dimensions = struct.unpack(order + "8h", header[40:56])
    if not 1 <= dimensions[0] <= 7:
        return None
    kind, bits = struct.unpack(order + "2h", header[70:74])
    if BITS.get(kind, bits) != bits:
        return None
    return _offset(header, order) + math.prod(max(n, 1) for n in dimensions[1 : dimensions[0] + 1]) * bits // 8


def _check_geometry(header: bytes, place: Path) -> None:
    order = _byte_order(header)
    qcode, scode = struct.unpack(f"{order}2h", header[252:256])
    shape, sizes = _shape(header, order), np.abs(struct.unpack(f"{order}3f", header[80:92]))
    slope, offset = struct.unpack(f"{order}2f", header[112:120])
    if (slope == 0 and offset != 0) or (math.isfinite(slope) and not math.isfinite(offset)):
        raise InputError(f"'{place.name}' scales its values by {slope:g} and adds {offset:g}: export it again.")
    # ITK takes the sform only then; a qform beside it may be another place on purpose, unless both claim the same.
    taken, rival = scode > 0 and (qcode == 0 or scode == 1), scode == qcode > 0
    if taken or rival:
        matrix = _sform(header, order, place)
        spacing = np.linalg.norm(matrix[:3, :3], axis=0)
        # What a single slice says of its thickness is as often 0.
        if np.any((np.abs(spacing - sizes) > SAME_SPACING * spacing) & (shape > 1)):
            told = (" x ".join(f"{mm:.4g}" for mm in lengths) for lengths in (sizes, spacing))
            raise InputError(f"'{place.name}' tells two voxel sizes ({' and '.join(told)} mm): correct its header.")
    if qcode > 0 and (rival or not taken):
        quaternion = _quaternion_matrix(header, order, place)
        if rival and not _same_place(matrix, quaternion, shape):
            raise InputError(f"'{place.name}' tells two places in the patient (qform and sform): correct its header.")


def _sform(header: bytes, order: str, place: Path) -> Affine:
    rows = np.array(struct.unpack(f"{order}12f", header[280:328])).reshape(3, 4)
    spacing = np.linalg.norm(rows[:, :3], axis=0)
    if not np.all(np.isfinite(rows)) or spacing.min() < 1e-9 or abs(np.linalg.det(rows[:, :3] / spacing)) < 1e-3:
        raise InputError(f"The direction matrix of '{place.name}' is singular: correct its header.")
    matrix = np.vstack([rows, [0, 0, 0, 1]])
    if is_sheared(matrix):
        raise InputError(f"'{place.name}' holds a sheared geometry, which is lost in NIfTI: export it as NRRD.")
    return matrix


def _quaternion_matrix(header: bytes, order: str, place: Path) -> Affine:
    """The affine of the qform, after the formula in nifti1.h, method 2."""
    factor, *sizes = struct.unpack(f"{order}4f", header[76:92])
    sizes = np.abs(sizes)
    b, c, d, *offset = struct.unpack(f"{order}6f", header[256:280])
    length = b * b + c * c + d * d
    if not np.all(np.isfinite([length, factor, *offset, *sizes])) or length > 1.001:
        raise InputError(f"The direction of '{place.name}' (its qform) is no rotation: correct its header.")
    a = 0.0 if 1.0 - length < 1e-7 else math.sqrt(1.0 - length)
    if a == 0.0:
        b, c, d = (part / math.sqrt(length) for part in (b, c, d))
    rotation = np.array(
        [
            [a * a + b * b - c * c - d * d, 2 * (b * c - a * d), 2 * (b * d + a * c)],
            [2 * (b * c + a * d), a * a + c * c - b * b - d * d, 2 * (c * d - a * b)],
            [2 * (b * d - a * c), 2 * (c * d + a * b), a * a + d * d - b * b - c * c],
        ]
    )
    matrix = np.eye(4)
    matrix[:3, :3] = rotation * sizes * [1, 1, -1 if factor < 0 else 1]
    matrix[:3, 3] = offset
    return matrix


def _shape(header: bytes, order: str) -> npt.NDArray[np.int64]:
    """Voxels along (i, j, k)."""
    dimensions, *shape = struct.unpack(f"{order}4h", header[40:48])
    return np.array([max(n, 1) if axis < dimensions else 1 for axis, n in enumerate(shape)])


def _same_place(first: Affine, second: Affine, shape: npt.NDArray[np.int64]) -> bool:
    outer = (corners_of(tuple(shape[::-1]), matrix) for matrix in (first, second))
    away = np.linalg.norm(np.subtract(*outer), axis=1).max()
    # A picture may be thinner than it is told: its plane alone counts.
    spacing = np.linalg.norm(first[:3, :3], axis=0)[shape > 1]
    extent = np.linalg.norm(first[:3, :3] @ shape)
    return bool(away <= SAME_PLACE * spacing.min(initial=np.inf) + SAME_TURN * extent)
