"""The header of a safetensors file, read with the standard library alone.

Such a file begins with its header's length (8 bytes, little endian) and the header as JSON.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .errors import BackboneError

# Many times what any backbone has; what JSON unfolds to in memory is many times its text.
LARGEST_HEADER = 1 << 20
METADATA = "__metadata__"


def read_header(path: Path) -> Mapping[str, Any]:
    """The entries of the header by name, among them '__metadata__'; raises BackboneError for a damaged file."""
    try:
        size = path.stat().st_size
        with path.open("rb") as stream:
            start = stream.read(8)
            length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
            if not 2 <= length <= min(LARGEST_HEADER, size - 8):
                raise BackboneError(f"'{path.name}' is no complete safetensors file: get it again.")
            header = json.loads(stream.read(length), object_pairs_hook=_each_once)
    except OSError as error:
        raise BackboneError(f"'{path.name}' cannot be read ({error.strerror or error}): check the file.") from error
    except (ValueError, RecursionError) as error:
        raise BackboneError(f"The header of '{path.name}' is damaged: get the file again.") from error
    if not isinstance(header, Mapping):
        raise BackboneError(f"The header of '{path.name}' is damaged: get the file again.")
    return header


def metadata_of(header: Mapping[str, Any]) -> Mapping[str, Any]:
    """What the file says of itself; nothing where that is no mapping."""
    found = header.get(METADATA)
    return found if isinstance(found, Mapping) else {}


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a name comes twice")
    return result
