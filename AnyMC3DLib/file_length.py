"""What ITK's readers of NRRD and MetaImage let pass: other data than the header tells, wrong checksums, lost keys."""

from __future__ import annotations

import math
import os
import zlib
from pathlib import Path
from typing import BinaryIO

from .errors import InputError

CHUNK = 1 << 22
LONGEST_LINE, LONGEST_NAME = 1 << 13, 255
YES_OR_NO = ("true", "false", "t", "f", "1", "0")
CONTROL = {*range(32), 127} - set(b"\t\r")

NRRD_BYTES = {
    **dict.fromkeys(("signed char", "int8", "int8_t", "uchar", "unsigned char", "uint8", "uint8_t"), 1),
    **dict.fromkeys(("short", "short int", "signed short", "signed short int", "int16", "int16_t"), 2),
    **dict.fromkeys(("ushort", "unsigned short", "unsigned short int", "uint16", "uint16_t"), 2),
    "float": 4,
    **dict.fromkeys(("int", "signed int", "int32", "int32_t", "uint", "unsigned int", "uint32", "uint32_t"), 4),
    **dict.fromkeys(("longlong", "long long", "long long int", "signed long long", "signed long long int"), 8),
    **dict.fromkeys(("int64", "int64_t", "ulonglong", "unsigned long long", "unsigned long long int"), 8),
    **dict.fromkeys(("uint64", "uint64_t", "double"), 8),
}
META_BYTES = {
    **dict.fromkeys(("MET_CHAR", "MET_UCHAR"), 1),
    **dict.fromkeys(("MET_SHORT", "MET_USHORT"), 2),
    **dict.fromkeys(("MET_INT", "MET_UINT", "MET_FLOAT"), 4),
    **dict.fromkeys(("MET_LONG_LONG", "MET_ULONG_LONG", "MET_DOUBLE"), 8),
}
# The keys of which one must be there, and what each tells. Without them ITK takes 0, 1 mm, an upright patient and the
# machine's own byte order.
META_NEEDED = {
    "origin": ("Offset", "Origin", "Position"),
    "spacing": ("ElementSpacing",),
    "direction": ("TransformMatrix", "Orientation", "Rotation"),
    "byte order": ("BinaryDataByteOrderMSB", "ElementByteOrderMSB"),
}


def check_length(place: Path) -> None:
    """Raise InputError unless an NRRD or MetaImage file with its data inside holds just what its header promises.

    Compressed data must fit its checksum, and a MetaImage tell its geometry and byte order. Data in a second file, text
    and rarer encodings are left to the reader. Other files pass.
    """
    check = {".nrrd": _check_nrrd, ".mha": _check_meta, ".mhd": _check_meta}.get(place.suffix.lower())
    if check is None:
        return
    try:
        with place.open("rb") as stream:
            whole = check(stream, place)
    except (OSError, ValueError, zlib.error) as error:
        raise _damaged(place) from error
    if not whole:
        raise _damaged(place)


def _damaged(place: Path) -> InputError:
    return InputError(f"'{place.name}' holds other data than its header tells: copy or export it again.")


def _check_nrrd(stream: BinaryIO, _place: Path) -> bool:
    fields = {}
    for line in iter(lambda: stream.readline(LONGEST_LINE).decode("latin-1").strip(), ""):
        key, colon, value = line.partition(":")
        if colon and not line.startswith("#") and not value.startswith("="):
            fields[key.strip().lower().replace(" ", "")] = value.strip()
    size = NRRD_BYTES.get(fields.get("type", "").lower())
    encoding = fields.get("encoding", "").lower()
    elsewhere = {"datafile", "lineskip", "byteskip"} & fields.keys()
    if size is None or elsewhere or encoding not in ("raw", "gzip", "gz"):
        return True  # the reader knows more kinds than are told apart here
    promised = math.prod(int(n) for n in fields.get("sizes", "").split()) * size
    return (_rest(stream) if encoding == "raw" else _unpacked(stream, promised)) == promised


def _check_meta(stream: BinaryIO, place: Path) -> bool:
    fields = _meta_fields(stream)
    if fields is None:
        return False
    answers = [fields.get(key, "False") for key in (*META_NEEDED["byte order"], "BinaryData", "CompressedData")]
    if any(answer.lower() not in YES_OR_NO for answer in answers):
        return False
    for told, keys in META_NEEDED.items():
        if not any(key in fields for key in keys):
            raise InputError(f"'{place.name}' does not tell its {told}: export it again.")
    size = META_BYTES.get(fields.get("ElementType", ""))
    if fields["ElementDataFile"].upper() != "LOCAL":
        return place.suffix.lower() == ".mhd"
    if size is None or "HeaderSize" in fields or fields.get("BinaryData", "True")[:1].lower() not in "t1":
        return True
    channels = int(fields.get("ElementNumberOfChannels", "1"))
    promised = math.prod(int(n) for n in fields.get("DimSize", "").split()) * size * channels
    compressed = fields.get("CompressedData", "False")[:1].lower() in ("t", "1")
    return (_unpacked(stream, promised) if compressed else _rest(stream)) == promised


def _meta_fields(stream: BinaryIO) -> dict[str, str] | None:
    """The header by its keys; None where it is no text or does not end, on which ITK's reader may crash."""
    fields: dict[str, str] = {}
    while "ElementDataFile" not in fields:
        line = stream.readline(LONGEST_LINE)
        key, equals, value = line.decode("latin-1").partition("=")
        whole = line.endswith(b"\n") or key.strip() == "ElementDataFile"
        if not equals or not whole or CONTROL & set(line.rstrip(b"\n")):
            return None
        fields[key.strip()] = value.strip()
    return fields if len(fields["ElementDataFile"]) <= LONGEST_NAME else None


def _rest(stream: BinaryIO) -> int:
    """Bytes from here to the end; the place in the stream stays."""
    return os.fstat(stream.fileno()).st_size - stream.tell()


def _unpacked(stream: BinaryIO, promised: int) -> int:
    """Bytes of the zlib or gzip stream from here on; counting ends once it is more than `promised`."""
    unpacker, length = zlib.decompressobj(47), 0
    while length <= promised and not unpacker.eof and (chunk := unpacker.unconsumed_tail or stream.read(CHUNK)):
        length += len(unpacker.decompress(chunk, CHUNK))
    return length if unpacker.eof or length > promised else -1
