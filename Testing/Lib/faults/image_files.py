"""NIfTI, NRRD and MetaImage files written byte by byte, so that each field can be wrong on purpose.

What is written here owes nothing to the library that reads it; NIfTI is after nifti1.h.
"""

from __future__ import annotations

import gzip
import struct
import zlib
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy.spatial.transform import Rotation

from AnyMC3DLib.volume import LPS_TO_RAS, Volume

NIFTI_TYPES = {
    "uint8": 2, "int16": 4, "int32": 8, "float32": 16, "float64": 64, "int8": 256, "uint16": 512, "uint32": 768,
    "int64": 1024, "uint64": 1280,
}  # fmt: skip
NRRD_TYPES = {"float32": "float", "float64": "double"}  # the others are called as NumPy calls them
META_TYPES = {
    "uint8": "MET_UCHAR", "int8": "MET_CHAR", "uint16": "MET_USHORT", "int16": "MET_SHORT", "uint32": "MET_UINT",
    "int32": "MET_INT", "float32": "MET_FLOAT", "float64": "MET_DOUBLE", "int64": "MET_LONG_LONG",
    "uint64": "MET_ULONG_LONG",
}  # fmt: skip
NIFTI_OFFSET = 352
GEOMETRY_KEYS = ("Offset", "TransformMatrix", "ElementSpacing", "CenterOfRotation", "AnatomicalOrientation")


def nifti_bytes(
    volume: Volume,
    *,
    order: str = "<",
    codes: tuple[int, int] = (1, 1),
    slope: float = 1.0,
    intercept: float = 0.0,
    stored: npt.NDArray | None = None,
    shape: tuple[int, ...] | None = None,
) -> bytes:
    """A .nii; `codes` are those of qform and sform. `stored` are other voxels than the volume's, `shape` (i, j, k, ...)
    other dimensions."""
    array = volume.array if stored is None else stored
    affine, spacing = volume.ijk_to_ras, volume.spacing
    shape = shape or array.shape[::-1]
    header = bytearray(NIFTI_OFFSET)

    def put(place: int, kinds: str, *values: float) -> None:
        struct.pack_into(order + kinds, header, place, *values)

    put(0, "i", 348)
    put(40, "8h", len(shape), *shape, *[1] * (7 - len(shape)))
    put(70, "2h", NIFTI_TYPES[array.dtype.name], array.dtype.itemsize * 8)
    directions = affine[:3, :3] / spacing
    factor = 1.0 if np.linalg.det(directions) > 0 else -1.0
    put(76, "8f", factor, *spacing, 1, 1, 1, 1)
    put(108, "3f", NIFTI_OFFSET, slope, intercept)
    put(123, "b", 2)
    put(252, "2h", *codes)
    if codes[0]:
        b, c, d, a = Rotation.from_matrix(directions * [1, 1, factor]).as_quat()
        put(256, "6f", *(np.array([b, c, d]) * (1 if a >= 0 else -1)), *affine[:3, 3])
    put(280, "12f", *affine[:3].ravel())
    header[344:348] = b"n+1\0"
    return bytes(header) + array.astype(array.dtype.newbyteorder(order)).tobytes()


def nrrd_bytes(volume: Volume, *, order: str = "<", packed: bool = False, head: str = "") -> bytes:
    """An NRRD, raw or gzipped; `head` replaces the lines of dimension, sizes and geometry."""
    lps = LPS_TO_RAS @ volume.ijk_to_ras
    vectors = ["({})".format(",".join(f"{number:.17g}" for number in column)) for column in lps[:3].T]
    kind = volume.array.dtype.name
    head = head or (
        f"dimension: 3\nspace: left-posterior-superior\nsizes: {' '.join(map(str, volume.array.shape[::-1]))}\n"
        f"space directions: {' '.join(vectors[:3])}\nkinds: domain domain domain\nspace origin: {vectors[3]}\n"
    )
    header = (
        f"NRRD0004\ntype: {NRRD_TYPES.get(kind, kind)}\n{head}endian: {'little' if order == '<' else 'big'}\n"
        f"encoding: {'gzip' if packed else 'raw'}\n\n"
    )
    data = volume.array.astype(volume.array.dtype.newbyteorder(order)).tobytes()
    return header.encode() + (gzip.compress(data, 1) if packed else data)


def meta_bytes(volume: Volume, *, order: str = "<", packed: bool = False) -> bytes:
    """A MetaImage with its data inside, raw or compressed."""
    lps = LPS_TO_RAS @ volume.ijk_to_ras
    data = volume.array.astype(volume.array.dtype.newbyteorder(order)).tobytes()
    data = zlib.compress(data, 1) if packed else data

    def listed(values: npt.NDArray) -> str:
        return " ".join(f"{value:.17g}" for value in values)

    kind, sizes = META_TYPES[volume.array.dtype.name], " ".join(map(str, volume.array.shape[::-1]))
    header = (
        "ObjectType = Image\nNDims = 3\nBinaryData = True\n"
        f"BinaryDataByteOrderMSB = {order == '>'}\nCompressedData = {packed}\n"
        + (f"CompressedDataSize = {len(data)}\n" if packed else "")
        + f"TransformMatrix = {listed((lps[:3, :3] / volume.spacing).T.ravel())}\nOffset = {listed(lps[:3, 3])}\n"
        f"CenterOfRotation = 0 0 0\nAnatomicalOrientation = RAI\nElementSpacing = {listed(volume.spacing)}\n"
        f"DimSize = {sizes}\nElementType = {kind}\nElementDataFile = LOCAL\n"
    )
    return header.encode() + data


def image_bytes(volume: Volume, ending: str, *, order: str = "<", packed: bool = False) -> bytes:
    """The volume in the format of an ending: .nii, .nii.gz, .nrrd or .mha; `packed` counts for the last two."""
    if ending.startswith(".nii"):
        content = nifti_bytes(volume, order=order)
        return gzip.compress(content, 1) if ending == ".nii.gz" else content
    return {".nrrd": nrrd_bytes, ".mha": meta_bytes}[ending](volume, order=order, packed=packed)


def telling_bytes(content: bytes, ending: str) -> list[int]:
    """The bytes of a header whose damage can be told: not the numbers that nothing else in the file repeats."""
    if ending == ".nii":
        alone = {*range(112, 120), 123}  # slope, intercept and unit of length; both matrices are there
        return [n for n in range(NIFTI_OFFSET) if n not in alone]
    end = content.index(b"\n\n") + 2 if ending == ".nrrd" else content.index(b"LOCAL\n") + 6
    alone, start = set(), 0
    for line in content[:end].splitlines(keepends=True):
        if line.startswith((b"space directions", b"space origin")):
            alone |= set(range(start + line.index(b"("), start + len(line) - 1))
        elif line.startswith(tuple(f"{key} =".encode() for key in GEOMETRY_KEYS)):
            alone |= set(range(start + line.index(b"=") + 1, start + len(line) - 1))
        start += len(line)
    return [n for n in range(end) if n not in alone]


def write(folder: Path, name: str, content: bytes) -> Path:
    """Write a file and return its path."""
    place = folder / name
    place.write_bytes(content)
    return place
