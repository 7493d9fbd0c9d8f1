"""What ITK's NIfTI reader does not tell: a file that ends too early (it fills with zeros) and a sheared geometry."""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path

import numpy as np

from .errors import InputError
from .geometry import is_sheared

CHUNK = 1 << 22


def check_nifti(place: Path) -> None:
    """Raise InputError if the file is shorter than its header promises, or its affine is singular or sheared."""
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
            length = len(header)
            while chunk := stream.read(CHUNK):
                length += len(chunk)
    except (EOFError, zlib.error, OSError, struct.error, ValueError, OverflowError) as error:
        raise InputError(damaged) from error
    if length < promised:
        raise InputError(damaged)
    _check_affine(header, place)


def _byte_order(header: bytes) -> str | None:
    """ "<" or ">", by the size of the header, its first field; None if this is no NIfTI-1."""
    return next((order for order in "<>" if struct.unpack(order + "i", header[:4])[0] == 348), None)


def _promised_length(header: bytes) -> int | None:
    order = _byte_order(header)
    if order is None or len(header) < 348:
        return None
    dimensions = struct.unpack(order + "8h", header[40:56])
    if not 1 <= dimensions[0] <= 7:
        return None
    if header[344:347] != b"n+1":  # the voxels are in a file of their own
        return len(header)
    bits = struct.unpack(order + "h", header[72:74])[0]
    offset = int(struct.unpack(order + "f", header[108:112])[0])
    return offset + math.prod(max(n, 1) for n in dimensions[1 : dimensions[0] + 1]) * bits // 8


def _check_affine(header: bytes, place: Path) -> None:
    order = _byte_order(header)
    if not struct.unpack(f"{order}h", header[254:256])[0]:  # no sform: ITK takes the qform, which has no shear
        return
    rows = np.array(struct.unpack(f"{order}12f", header[280:328])).reshape(3, 4)
    spacing = np.linalg.norm(rows[:, :3], axis=0)
    if not np.all(np.isfinite(rows)) or spacing.min() < 1e-9 or abs(np.linalg.det(rows[:, :3] / spacing)) < 1e-3:
        raise InputError(f"The direction matrix of '{place.name}' is singular: correct its header.")
    if is_sheared(np.vstack([rows, [0, 0, 0, 1]])):
        raise InputError(f"'{place.name}' holds a sheared geometry, which is lost in NIfTI: export it as NRRD.")
