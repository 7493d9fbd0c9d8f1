"""Tensors of safetensors files by name, each read when it is asked for.

The file of a large language model may hold an image tower of a tenth of its size; what nobody asks for is not read.
"""

from __future__ import annotations

import dataclasses
import math
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import torch
from torch import Tensor

from ..errors import BackboneError
from ..tensor_header import METADATA, read_header

# Numbers of 8 bits with a fraction are not here: they are scaled by other tensors, each library in its own way.
TYPES = {
    **{"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16},
    **{"I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8},
    **{"U8": torch.uint8, "BOOL": torch.bool},
}


@dataclasses.dataclass(frozen=True)
class StoredTensor:
    """Where the values of one tensor lie: from the byte `start` of `file` on, little endian."""

    file: Path
    name: str
    start: int
    shape: tuple[int, ...]
    dtype: torch.dtype

    def read(self) -> Tensor:
        """The tensor [shape]; raises BackboneError if the file has been cut or taken away meanwhile."""
        count = math.prod(self.shape) * self.dtype.itemsize
        try:
            values = np.fromfile(self.file, dtype=np.uint8, count=count, offset=self.start)
        except OSError as error:
            raise BackboneError(f"'{self.file.name}' cannot be read any more: give it again.") from error
        if len(values) != count:
            raise BackboneError(f"'{self.file.name}' ends within the tensor '{self.name}': get the file again.")
        return torch.from_numpy(values).view(self.dtype).reshape(self.shape)


class Tensors(Mapping[str, Tensor]):
    """Tensors by name, of which some still lie in a file; these are read anew whenever they are asked for."""

    def __init__(self, parts: Mapping[str, Tensor | StoredTensor]) -> None:
        self._parts = dict(parts)

    def __getitem__(self, name: str) -> Tensor:
        part = self._parts[name]
        return part.read() if isinstance(part, StoredTensor) else part

    def __contains__(self, name: object) -> bool:
        return name in self._parts

    def __iter__(self) -> Iterator[str]:
        return iter(self._parts)

    def __len__(self) -> int:
        return len(self._parts)

    def dtype_of(self, name: str) -> torch.dtype:
        """The type of the numbers of a tensor, without reading it."""
        return self._parts[name].dtype

    def below(self, prefix: str) -> Tensors:
        """Those whose names begin with `prefix`, by the rest of their names; nothing is read."""
        return Tensors({n.removeprefix(prefix): part for n, part in self._parts.items() if n.startswith(prefix)})


def stored_tensors(file: Path) -> dict[str, StoredTensor]:
    """What a safetensors file holds; raises BackboneError or SafetensorError if its header is not sound."""
    header = read_header(file)
    # Its reader refuses tensors that overlap, leave holes or lie outside of the file.
    with safetensors.safe_open(file, framework="np"):
        pass
    with file.open("rb") as stream:
        start = 8 + struct.unpack("<Q", stream.read(8))[0]
    return {name: _stored(file, name, start, entry) for name, entry in header.items() if name != METADATA}


def _stored(file: Path, name: str, start: int, entry: Mapping[str, Any]) -> StoredTensor:
    if entry["dtype"] not in TYPES:
        raise BackboneError(
            f"The tensor '{name[:80]}' in '{file.name}' holds numbers of the type {entry['dtype']}: give weights of 16 "
            "or 32 bits."
        )
    return StoredTensor(
        file=file,
        name=name,
        start=start + entry["data_offsets"][0],
        shape=tuple(entry["shape"]),
        dtype=TYPES[entry["dtype"]],
    )
