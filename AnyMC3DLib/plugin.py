"""The plugin file: one .safetensors with the spec in its header and the plugin's own tensors.

`read_spec` needs the standard library alone: a safetensors file begins with its header's length (8 bytes, little
endian) and the header as JSON.
"""

from __future__ import annotations

import hashlib
import io
import json
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from .errors import InputError, PluginError
from .files import write_bytes
from .records import mapping_of
from .spec import FORMAT_VERSION, PluginSpec

if TYPE_CHECKING:
    from torch import Tensor

    from .backbone import Backbone
    from .model import PluginNetwork

METADATA_KEY = "anymc3d"
# In the header beside the description: the digest of description and tensors; files of the first versions lack it.
DIGEST_KEY = "anymc3d_sha256"
# Behind the number of the member, before the names of the tensors of its density (`density.VolumeDensity`).
DENSITY = "density."
LARGEST_HEADER = 16 << 20


def read_spec(path: str | Path) -> PluginSpec:
    """The spec of a plugin file, without its tensors; raises PluginError if it is not one."""
    metadata = _header(Path(path)).get("__metadata__")
    if not isinstance(metadata, dict) or METADATA_KEY not in metadata:
        raise PluginError(f"'{Path(path).name}' is a safetensors file, but not an AnyMC3D plugin: give another file.")
    try:
        data = json.loads(metadata[METADATA_KEY])
    except (ValueError, TypeError, RecursionError) as error:
        raise PluginError(f"The description in '{Path(path).name}' is damaged: get the plugin again.") from error
    version = data.get("format_version") if isinstance(data, dict) else None
    if version != FORMAT_VERSION:
        raise PluginError(
            f"'{Path(path).name}' has plugin format version {version}, but this program reads version "
            f"{FORMAT_VERSION}: update AnyMC3D."
        )
    try:
        return PluginSpec.from_dict(data, where="plugin")
    except InputError as error:
        raise PluginError(f"The description in '{Path(path).name}' is wrong: {error}") from error


def read_sizes(path: str | Path) -> dict[str, tuple[int, ...]]:
    """The shape of each tensor in a plugin file, from its header alone."""
    items = {name: item for name, item in _header(Path(path)).items() if name != "__metadata__"}
    try:
        return {name: tuple(int(n) for n in item["shape"]) for name, item in items.items()}
    except (TypeError, KeyError, ValueError) as error:
        raise PluginError(f"'{Path(path).name}' is damaged or incomplete: get the plugin again.") from error


def _header(path: Path) -> dict:
    if not path.is_file():
        raise PluginError(f"There is no plugin file '{path}': check the path.")
    not_one = PluginError(f"'{path.name}' is not a plugin file (safetensors): give another file.")
    try:
        with path.open("rb") as stream:
            start = stream.read(8)
            length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
            text = stream.read(length) if 2 <= length <= LARGEST_HEADER else b""
    except OSError as error:
        raise PluginError(f"'{path.name}' cannot be read: {error.strerror or error}; check the file.") from error
    try:
        header = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise not_one from error
    if len(text) < length or not isinstance(header, dict):
        raise not_one
    return header


def digest_of_file(path: str | Path) -> str:
    """SHA-256 of a file's bytes: what a prediction names as the plugin it came from."""
    with Path(path).open("rb") as stream:
        return "sha256:" + hashlib.file_digest(stream, "sha256").hexdigest()


def content_digest(text: str, tensors: Mapping[str, Any], data: BinaryIO) -> str:
    """SHA-256 over what a plugin says (`text`), the header's entries of its tensors, and all that is left of `data`."""
    result = hashlib.sha256(json.dumps([text, tensors], sort_keys=True).encode())
    while part := data.read(1 << 20):
        result.update(part)
    return result.hexdigest()


def check_content(path: str | Path) -> None:
    """Raise PluginError unless description and tensors are as they were written.

    A flipped bit in a weight would give another answer that looks as good. A file without a digest is not judged.
    """
    place = Path(path)
    header = _header(place)
    metadata = mapping_of(header.pop("__metadata__", None))
    if DIGEST_KEY not in metadata:
        return
    try:
        with place.open("rb") as stream:
            stream.seek(8 + struct.unpack("<Q", stream.read(8))[0])
            found = content_digest(metadata[METADATA_KEY], header, stream)
    except (OSError, KeyError, RecursionError, struct.error) as error:
        raise PluginError(f"'{place.name}' is damaged or incomplete: get the plugin again.") from error
    if found != metadata[DIGEST_KEY]:
        raise PluginError(f"'{place.name}' is damaged, it is not what was written: get the plugin again.")


def packed_header(header: Mapping[str, Any]) -> bytes:
    """The length and the text of a header as safetensors has them; the tensors begin at a multiple of eight bytes."""
    content = json.dumps(header, separators=(",", ":")).encode()
    content += b" " * (-len(content) % 8)
    return struct.pack("<Q", len(content)) + content


def save_plugin(path: str | Path, spec: PluginSpec, members: Sequence[Mapping[str, Tensor]]) -> None:
    """Write the spec and the state dict of each member (one, or the folds of an ensemble), atomically."""
    from safetensors.torch import save

    if len(members) != spec.members:
        raise PluginError(f"Plugin '{spec.name}' has {spec.members} members, but {len(members)} were given.")
    tensors = {
        f"{n}.{name}": tensor.detach().cpu().contiguous() for n, m in enumerate(members) for name, tensor in m.items()
    }
    text = json.dumps(spec.to_dict(), sort_keys=True, allow_nan=False)
    content = save(tensors)
    (length,) = struct.unpack("<Q", content[:8])
    header, data = json.loads(content[8 : 8 + length]), content[8 + length :]
    metadata = {METADATA_KEY: text, DIGEST_KEY: content_digest(text, header, io.BytesIO(data))}
    write_bytes(path, packed_header({"__metadata__": metadata, **header}) + data)


def load_members(path: str | Path, spec: PluginSpec) -> list[dict[str, Tensor]]:
    """The tensors of each member; raises PluginError for a damaged file."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors = load_file(str(path))
    except (SafetensorError, OSError) as error:
        raise PluginError(f"'{Path(path).name}' is damaged or incomplete: get the plugin again.") from error
    if spec.members > len(tensors):
        raise PluginError(f"'{Path(path).name}' holds no tensors for some of its members: get the plugin again.")
    members: dict[str, dict[str, Tensor]] = {str(n): {} for n in range(spec.members)}
    for name, tensor in tensors.items():
        number, _, rest = name.partition(".")
        if number not in members:
            raise PluginError(f"'{Path(path).name}' holds the unknown tensor {name}: get the plugin again.")
        members[number][rest] = tensor
    return list(members.values())


def load_networks(path: str | Path, backbone: Backbone) -> tuple[PluginSpec, list[PluginNetwork]]:
    """The members of a plugin file as networks on `backbone`, ready to classify.

    Raises PluginError if the file is damaged or was trained on other weights.
    """
    from .identity import check_backbone
    from .model import PluginNetwork, load_tensors

    spec = read_spec(path)
    check_backbone(spec, backbone)
    check_content(path)
    networks: list[PluginNetwork] = []
    try:
        for tensors in load_members(path, spec):
            networks.append(PluginNetwork(spec, backbone).to(backbone.device).eval())
            load_tensors(networks[-1], tensors)
    except BaseException:
        for network in networks:
            network.close()
        raise
    return spec, networks
