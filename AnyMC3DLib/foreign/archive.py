"""PyTorch's files, looked at before its reader takes them, which unfolds and unpickles what it finds."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import torch

from ..errors import BackboneError
from .pickled import check_pickle

# The part of an archive that says which tensors there are.
PICKLE = "data.pkl"
# What a file of the older layout begins with, one behind the other: two numbers, the machine, the weights, the keys.
OLD_PICKLES = 5
PIECE = 1 << 22  # bytes that are read at a time


def check_torch_file(file: Path) -> bool:
    """Whether the file is an archive, as PyTorch writes them today, and not of the older layout.

    Raises BackboneError if reading it would run a program, or make much out of little.
    """
    with file.open("rb") as stream:
        archive = stream.read(2) == b"PK"
    if archive:
        _check_archive(file)
    else:
        _check_old(file)
    return archive


def _check_old(file: Path) -> None:
    with file.open("rb") as stream:
        for _ in range(OLD_PICKLES):
            check_pickle(stream, of=file.name)


def _check_archive(file: Path) -> None:
    with zipfile.ZipFile(file) as archive:
        items = archive.infolist()
        _check_items(items, file)
        _check_sums(archive, items, file)
    with file.open("rb") as stream:
        # What PyTorch's own reader finds under this name, however its letters are written in the archive.
        reader = torch._C.PyTorchFileReader(stream)
        if sorted(reader.get_all_records()) != sorted(_record(item) for item in items):
            raise BackboneError(f"'{file.name}' is read in two ways by two readers: get the file again.")
        check_pickle(io.BytesIO(reader.get_record(PICKLE)), of=file.name)


def _check_sums(archive: zipfile.ZipFile, items: list[zipfile.ZipInfo], file: Path) -> None:
    """Raise BackboneError for a part that is not what was written: PyTorch's reader would take it as it is."""
    for item in items:
        # PyTorch writes 0 where it was told to count no sums.
        if not item.CRC or item.is_dir():
            continue
        try:
            with archive.open(item) as part:
                while part.read(PIECE):
                    pass
        except zipfile.BadZipFile as error:
            raise BackboneError(f"'{file.name}' is damaged, a sum within it is wrong: get the file again.") from error


def _record(item: zipfile.ZipInfo) -> str:
    """The part's name as PyTorch has it: without the folder that all parts are in."""
    return item.orig_filename.partition("/")[2]


def _check_items(items: list[zipfile.ZipInfo], file: Path) -> None:
    # PyTorch's reader takes small and capital letters for the same.
    names = [item.orig_filename.lower() for item in items]
    # Two of one name would be told apart by each reader in its own way.
    if len(set(names)) != len(names):
        raise BackboneError(f"'{file.name}' holds two parts of one name: get the file again.")
    if any(name.endswith(("code/__torch__.py", "constants.pkl")) for name in names):
        raise BackboneError(
            f"'{file.name}' is a TorchScript program, which would be run to be read: give its weights as safetensors."
        )
    if any(name.endswith(".pkl") and _record(item).lower() != PICKLE for name, item in zip(names, items, strict=True)):
        raise BackboneError(f"'{file.name}' holds more than one pickle: give the file of a state dict alone.")
    # PyTorch never compresses: what is compressed may unfold to any size.
    if any(item.compress_type != zipfile.ZIP_STORED for item in items):
        raise BackboneError(f"'{file.name}' is a compressed archive, which PyTorch does not write: get the file again.")
    if sum(max(item.file_size, item.compress_size) for item in items) > file.stat().st_size:
        raise BackboneError(f"'{file.name}' claims to hold more than its size: get the file again.")
