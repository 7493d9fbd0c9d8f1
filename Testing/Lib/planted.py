"""A DICOM series with a mark in every tag that tells of a person, and the search for the marks in what came of it."""

from __future__ import annotations

import gzip
import io
import re
import zipfile
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

TEXTS = (
    "PatientName", "PatientID", "OtherPatientIDs", "PatientAddress", "PatientComments", "PatientMotherBirthName",
    "InstitutionName", "InstitutionAddress", "InstitutionalDepartmentName", "ReferringPhysicianName",
    "PerformingPhysicianName", "OperatorsName", "RequestingPhysician", "AccessionNumber", "StudyID", "StudyDescription",
    "SeriesDescription", "ProtocolName", "StationName", "DeviceSerialNumber", "ImageComments",
    "RequestedProcedureDescription",
)  # fmt: skip
DATES = {
    "PatientBirthDate": "18430217",
    "StudyDate": "18710923",
    "SeriesDate": "18710924",
    "AcquisitionDate": "18710925",
    "ContentDate": "18710926",
}
ROOT = "1.2.826.0.1.3680043.9.87654"
UIDS = {"StudyInstanceUID": f"{ROOT}.11", "FrameOfReferenceUID": f"{ROOT}.12"}
FOLDER, FILE = "Folder-Qzmark-Doe", "file-qzmark-doe"


def mark_of(tag: str) -> str:
    """The text that is planted in a tag, short enough for each kind of value."""
    return f"qz{TEXTS.index(tag)}w{tag[:8]}"


def marks() -> dict[str, str]:
    """All marks by what they are planted in; names of files and folders too."""
    texts = {tag: mark_of(tag) for tag in TEXTS}
    return {**texts, **DATES, "UIDs": ROOT, "private": "qzPrivatex", "folder": "Qzmark", "file": "qzmark"}


def write_marked_series(folder: Path, array: npt.NDArray, *, number: int = 1) -> Path:
    """Write the voxels [k, j, i] as an axial CT series of 1 mm; `number` tells series of several patients apart."""
    folder.mkdir(parents=True)
    for k, plane in enumerate(np.asarray(array, np.int16)):
        _slice(plane, k, number).save_as(folder / f"{FILE}-{k:03d}.dcm", enforce_file_format=True)
    return folder


def _slice(plane: npt.NDArray[np.int16], k: int, number: int) -> FileDataset:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.TransferSyntaxUID = CTImageStorage, ExplicitVRLittleEndian
    meta.MediaStorageSOPInstanceUID = f"{ROOT}.{number}.{k + 1}"
    found = FileDataset("", {}, file_meta=meta, preamble=bytes(128))
    for tag in TEXTS:
        setattr(found, tag, mark_of(tag))
    for tag, value in {**DATES, **UIDS}.items():
        setattr(found, tag, value)
    found.SOPClassUID, found.SOPInstanceUID = CTImageStorage, meta.MediaStorageSOPInstanceUID
    found.SeriesInstanceUID, found.Modality = f"{ROOT}.{number}.99", "CT"
    found.private_block(0x0011, "qzPrivatex", create=True).add_new(0x01, "LO", "qzPrivatex")
    found.InstanceNumber, found.ImagePositionPatient = k + 1, [0, 0, k]
    found.ImageOrientationPatient, found.PixelSpacing, found.SliceThickness = [1, 0, 0, 0, 1, 0], [1, 1], 1
    found.Rows, found.Columns = plane.shape
    found.SamplesPerPixel, found.PhotometricInterpretation, found.PixelRepresentation = 1, "MONOCHROME2", 1
    found.BitsAllocated, found.BitsStored, found.HighBit = 16, 16, 15
    found.RescaleIntercept, found.RescaleSlope = 0, 1
    found.PixelData = plane.tobytes()
    return found


def found_in(content: bytes, *, but: Sequence[str] = ()) -> list[str]:
    """Where the planted marks come in some bytes, whatever is packed in them; `but` are not looked for."""
    found = []
    for part in (content, *_unpacked(content)):
        # Small letters once for all marks: a search that ignores their size takes long in files of megabytes.
        small = part.lower()
        found += [what for what, mark in marks().items() if what not in but and _is_in(mark.lower(), small)]
    return list(dict.fromkeys(found))


def _is_in(mark: str, content: bytes) -> bool:
    for encoding in ("utf-8", "utf-16-le", "utf-16-be", "utf-32-le"):
        word = mark.encode(encoding)
        # Figures of a date within a longer number are none.
        if word in content and re.search(rb"(?<!\d)" + re.escape(word) + rb"(?!\d{2})", content):
            return True
    return False


def found_below(folders: Iterable[Path], *, but: Sequence[str] = ()) -> dict[str, list[str]]:
    """By file, the marks in the bytes and in the name of all that lies below the folders."""
    found: dict[str, list[str]] = {}
    for folder in folders:
        for path in folder.rglob("*"):
            name = str(path.relative_to(folder))
            here = found_in(name.encode(errors="replace"), but=but)
            here += found_in(path.read_bytes(), but=but) if path.is_file() else []
            if here:
                found[name] = here
    return found


def _unpacked(content: bytes) -> list[bytes]:
    """What is packed in a file: gzip (also behind the header of an NRRD), zip, and zlib anywhere, as in pictures."""
    found = []
    if content[:2] == b"PK":
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            found += [archive.read(name) for name in archive.namelist()]
    for start in (match.start() for match in re.finditer(rb"\x1f\x8b\x08", content)):
        try:
            found.append(gzip.GzipFile(fileobj=io.BytesIO(content[start:])).read())
        except (OSError, EOFError, zlib.error):
            continue
    for start in (match.start() for match in re.finditer(rb"\x78[\x01\x5e\x9c\xda]", content)):
        packed = zlib.decompressobj()
        try:
            found.append(packed.decompress(content[start:], 1 << 24))
        except zlib.error:
            continue
    return found
