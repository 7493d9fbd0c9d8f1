"""DICOM files written element by element, so that each of them can be wrong on purpose.

What is written here owes nothing to the libraries that read it: explicit little endian after PS3.5, section 7.
"""

from __future__ import annotations

import dataclasses
import itertools
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk

from AnyMC3DLib.volume import LPS_TO_RAS, Volume

ROOT = "1.2.826.0.1.3680043.2.1125"
CT_STORAGE, MR_STORAGE = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.4"
ENHANCED_CT_STORAGE, ENHANCED_MR_STORAGE = f"{CT_STORAGE}.1", f"{MR_STORAGE}.1"
LITTLE_ENDIAN, BIG_ENDIAN = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2"
RLE, JPEG_LOSSLESS, JPEG_2000 = "1.2.840.10008.1.2.5", "1.2.840.10008.1.2.4.70", "1.2.840.10008.1.2.4.90"
COMPRESSORS = {JPEG_LOSSLESS: "JPEG", JPEG_2000: "JPEG2000"}
LONG = {"OB", "OW", "SQ", "UN", "UT"}  # whose length takes four bytes

# tag "gggg|eeee": (value representation, value); a sequence's value is its items, mappings of the same kind.
Tags = dict[str, tuple[str, Any]]


@dataclasses.dataclass
class SliceFile:
    """One file of a series: its elements without the pixels, and the pixels as stored, [rows, columns]."""

    tags: Tags
    pixels: npt.NDArray
    syntax: str = LITTLE_ENDIAN
    name: str = ""

    def write(self, folder: Path) -> Path:
        """Write the file under its name and return its path."""
        place = folder / self.name
        place.write_bytes(dicom_bytes(self.tags, self.pixels, syntax=self.syntax))
        return place


def numbers(values: Sequence[float]) -> str:
    """Decimal strings as a scanner writes them: at most 16 characters each."""
    return "\\".join(f"{value:.9g}" for value in values)


def series_of(
    volume: Volume,
    *,
    series: str = f"{ROOT}.1",
    modality: str = "CT",
    slope: float = 1.0,
    intercept: float = -1024.0,
    dtype: type = np.int16,
) -> list[SliceFile]:
    """The files of a classic series that shows `volume`, one a slice along k; nothing is on disk yet.

    Stored are (value - intercept) / slope, rounded, as `dtype`.
    """
    lps = LPS_TO_RAS @ volume.ijk_to_ras
    stored = np.rint((volume.array.astype(np.float64) - intercept) / slope)
    assert np.iinfo(dtype).min <= stored.min() and stored.max() <= np.iinfo(dtype).max, "values that do not fit"
    files = []
    for k, pixels in enumerate(stored.astype(dtype)):
        tags = {
            "0008|0016": ("UI", MR_STORAGE if modality == "MR" else CT_STORAGE),
            "0008|0018": ("UI", f"{series}.{k + 1}"),
            "0008|0060": ("CS", modality),
            "0010|0010": ("PN", "Doe^Jane"),
            "0020|000d": ("UI", f"{ROOT}.9"),
            "0020|000e": ("UI", series),
            "0020|0013": ("IS", str(k + 1)),
            "0020|0032": ("DS", numbers(lps[:3, 3] + k * lps[:3, 2])),
            "0020|0037": ("DS", orientation_of(volume)),
            "0028|0030": ("DS", numbers((volume.spacing[1], volume.spacing[0]))),
            "0028|1052": ("DS", f"{intercept:g}"),
            "0028|1053": ("DS", f"{slope:.9g}"),
            **pixel_tags(pixels),
        }
        files.append(SliceFile(tags, pixels, name=f"{k:04d}.dcm"))
    return files


def orientation_of(volume: Volume) -> str:
    """The value of Image Orientation (Patient) of a volume's slices."""
    lps = LPS_TO_RAS @ volume.ijk_to_ras
    return numbers((*(lps[:3, 0] / volume.spacing[0]), *(lps[:3, 1] / volume.spacing[1])))


def pixel_tags(pixels: npt.NDArray) -> Tags:
    """The elements that describe grey pixels [rows, columns] or [frames, rows, columns]."""
    bits = pixels.dtype.itemsize * 8
    return {
        "0028|0002": ("US", 1),
        "0028|0004": ("CS", "MONOCHROME2"),
        "0028|0010": ("US", pixels.shape[-2]),
        "0028|0011": ("US", pixels.shape[-1]),
        "0028|0100": ("US", bits),
        "0028|0101": ("US", bits),
        "0028|0102": ("US", bits - 1),
        "0028|0103": ("US", int(pixels.dtype.kind == "i")),
    }


def multi_frame(volume: Volume, order: Sequence[int], *, modality: str = "CT", intercept: float = -1024.0) -> SliceFile:
    """One enhanced CT or MR whose frame n is slice order[n]; each frame tells its own position."""
    classic = series_of(volume, modality=modality, intercept=intercept)
    first = dict(classic[0].tags)
    position, orientation = "0020|0032", "0020|0037"
    frames = [{"0020|9113": ("SQ", [{position: classic[k].tags[position]}])} for k in order]
    shared = {
        "0020|9116": ("SQ", [{orientation: first[orientation]}]),
        "0028|9110": ("SQ", [{"0028|0030": first["0028|0030"], "0018|0050": ("DS", f"{volume.spacing[2]:.9g}")}]),
        "0028|9145": ("SQ", [{"0028|1052": first["0028|1052"], "0028|1053": first["0028|1053"]}]),
    }
    for tag in (position, orientation, "0028|0030", "0028|1052", "0028|1053"):
        del first[tag]
    first["0008|0016"] = ("UI", ENHANCED_MR_STORAGE if modality == "MR" else ENHANCED_CT_STORAGE)
    first["0028|0008"] = ("IS", str(len(order)))
    first["5200|9229"] = ("SQ", [shared])
    first["5200|9230"] = ("SQ", frames)
    return SliceFile(first, np.stack([classic[k].pixels for k in order]), name="frames.dcm")


def dicom_bytes(tags: Mapping[str, tuple[str, Any]], pixels: npt.NDArray, *, syntax: str = LITTLE_ENDIAN) -> bytes:
    """A whole DICOM file."""
    meta = {
        "0002|0001": ("OB", b"\0\1"),
        "0002|0002": tags.get("0008|0016", ("UI", CT_STORAGE)),
        "0002|0003": tags.get("0008|0018", ("UI", ROOT)),
        "0002|0010": ("UI", syntax),
        "0002|0012": ("UI", f"{ROOT}.0"),
    }
    group = _data_set(meta, "<")
    order = ">" if syntax == BIG_ENDIAN else "<"
    data = _data_set({tag: value for tag, value in tags.items() if tag < "7fe0"}, order)
    after = _data_set({tag: value for tag, value in tags.items() if tag > "7fe0|0010"}, order)
    if syntax in (LITTLE_ENDIAN, BIG_ENDIAN):
        native = pixels.astype(pixels.dtype.newbyteorder(order)).tobytes()
        image = _element("7fe0|0010", "OW" if pixels.dtype.itemsize > 1 else "OB", native, order)
    else:
        frames = pixels if pixels.ndim == 3 else pixels[np.newaxis]
        fragments = [_compressed(frame, syntax) for frame in frames]
        items = b"".join(b"\xfe\xff\x00\xe0" + struct.pack("<I", len(part)) + part for part in (b"", *fragments))
        image = b"\xe0\x7f\x10\x00OB\0\0\xff\xff\xff\xff" + items + b"\xfe\xff\xdd\xe0\0\0\0\0"
    head = _element("0002|0000", "UL", len(group), "<")
    return bytes(128) + b"DICM" + head + group + data + image + after


def _data_set(tags: Mapping[str, tuple[str, Any]], order: str) -> bytes:
    return b"".join(_element(tag, kind, value, order) for tag, (kind, value) in sorted(tags.items()))


def _element(tag: str, kind: str, value: Any, order: str) -> bytes:
    content = _content(kind, value, order)
    content += b" \0"[kind in ("UI", "OB", "OW") :][:1] * (len(content) % 2)
    head = struct.pack(order + "HH", int(tag[:4], 16), int(tag[5:], 16)) + kind.encode()
    length = struct.pack(order + "2xI", len(content)) if kind in LONG else struct.pack(order + "H", len(content))
    return head + length + content


def _content(kind: str, value: Any, order: str) -> bytes:
    if kind == "SQ":
        items = (_data_set(item, order) for item in value)
        head = struct.pack(order + "HH", 0xFFFE, 0xE000)
        return b"".join(head + struct.pack(order + "I", len(item)) + item for item in items)
    if kind in ("US", "SS", "UL"):
        return struct.pack(order + {"US": "H", "SS": "h", "UL": "I"}[kind], value)
    return value if isinstance(value, bytes) else str(value).encode()


def _compressed(frame: npt.NDArray, syntax: str) -> bytes:
    part = _run_lengths(frame) if syntax == RLE else _by_itk(frame, COMPRESSORS[syntax])
    return part + bytes(len(part) % 2)


def _run_lengths(frame: npt.NDArray) -> bytes:
    """PS3.5, annex G: one segment for each byte of a value, the highest first; rows are packed on their own."""
    planes = frame.astype(frame.dtype.newbyteorder(">")).view(np.uint8).reshape(*frame.shape, -1)
    segments = []
    for n in range(planes.shape[2]):
        packed = b"".join(_packed(row.tobytes()) for row in planes[..., n])
        segments.append(packed + bytes(len(packed) % 2))
    starts = list(itertools.accumulate([64, *map(len, segments)]))[:-1]
    return struct.pack("<16I", len(segments), *starts, *[0] * (15 - len(starts))) + b"".join(segments)


def _packed(row: bytes) -> bytes:
    packed = bytearray()
    for value, run in itertools.groupby(row):
        length = len(list(run))
        for first in range(0, length, 128):
            count = min(128, length - first)
            packed += bytes([257 - count, value]) if count > 1 else bytes([0, value])
    return bytes(packed)


def _by_itk(frame: npt.NDArray, compressor: str) -> bytes:
    """The code stream of one frame, taken from a file that SimpleITK compresses without loss."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "frame.dcm"
        writer = sitk.ImageFileWriter()
        writer.SetFileName(str(place))
        writer.SetUseCompression(True)
        writer.SetCompressor(compressor)
        writer.Execute(sitk.GetImageFromArray(frame[np.newaxis]))
        content = place.read_bytes()
    first = content.rindex(b"\xe0\x7f\x10\x00OB")
    start = content.index(b"\xfe\xff\x00\xe0", first + 12)
    start += 8 + struct.unpack("<I", content[start + 4 : start + 8])[0]  # past the table of offsets
    length = struct.unpack("<I", content[start + 4 : start + 8])[0]
    return content[start + 8 : start + 8 + length]
