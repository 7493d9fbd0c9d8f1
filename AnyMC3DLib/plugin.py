"""The plugin file: one .safetensors with the spec in its header and the plugin's own tensors.

`read_spec` needs the standard library alone: a safetensors file begins with its header's length (8 bytes, little
endian) and the header as JSON.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from .errors import InputError, PluginError
from .files import write_bytes
from .spec import FORMAT_VERSION, BackboneRef, PluginSpec

if TYPE_CHECKING:
    from torch import Tensor

    from .architecture import Architecture
    from .backbone import Backbone
    from .model import PluginNetwork

METADATA_KEY = "anymc3d"
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


def save_plugin(path: str | Path, spec: PluginSpec, members: Sequence[Mapping[str, Tensor]]) -> None:
    """Write the spec and the state dict of each member (one, or the folds of an ensemble), atomically."""
    from safetensors.torch import save

    if len(members) != spec.members:
        raise PluginError(f"Plugin '{spec.name}' has {spec.members} members, but {len(members)} were given.")
    tensors = {
        f"{n}.{name}": tensor.detach().cpu().contiguous() for n, m in enumerate(members) for name, tensor in m.items()
    }
    text = json.dumps(spec.to_dict(), sort_keys=True, allow_nan=False)
    write_bytes(path, save(tensors, metadata={METADATA_KEY: text}))


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


def check_backbone(spec: PluginSpec, backbone: Backbone) -> None:
    """Raise PluginError unless `backbone` has the very weights that the plugin was trained on."""
    if spec.backbone.digest != backbone.digest:
        raise PluginError(
            f"Plugin '{spec.name}' was trained on '{spec.backbone.id}' ({spec.backbone.digest[:19]}...), but this is "
            f"'{backbone.id}' ({backbone.digest[:19]}...): give the weights it was trained on."
        )
    trained, here = spec.backbone.architecture, backbone.architecture
    if trained is None or here is None:
        if dict(spec.backbone.model_args) != backbone.model_args:
            raise PluginError(
                f"Plugin '{spec.name}' was trained on '{spec.backbone.id}' with "
                f"{dict(spec.backbone.model_args) or 'no'} arguments, but '{backbone.id}' has "
                f"{backbone.model_args or 'none'}: use the backbone it names."
            )
        return
    _check_architecture(spec, trained, here)


def is_backbone_of(reference: BackboneRef, backbone: Backbone) -> bool:
    """Whether `backbone` has the weights that a plugin names, in the same network.

    How positions are resampled matters at some sizes of slices alone: see `check_backbone`.
    """
    from .building import are_alike

    trained, here = reference.architecture, backbone.architecture
    if reference.digest != backbone.digest:
        return False
    if trained is None or here is None:
        return dict(reference.model_args) == backbone.model_args
    return are_alike(trained, here)


def _check_architecture(spec: PluginSpec, trained: Architecture, here: Architecture) -> None:
    """The same weights can stand in networks that differ in what has no weights, such as strides or activations."""
    from .building import are_alike

    if not are_alike(trained, here):
        raise PluginError(
            f"Plugin '{spec.name}' was trained on these weights in the network {trained.timm} with "
            f"{dict(trained.model_args) or 'no'} arguments, but here they are in {here.timm} with "
            f"{dict(here.model_args) or 'none'}: use the backbone it names."
        )
    if trained.positions == here.positions:
        return
    other = next((v for v in spec.views if v.preprocessing.size != trained.input_size), None)
    if other is not None:
        raise PluginError(
            f"Plugin '{spec.name}' takes slices of {_size_words(other.preprocessing.size)}, for which its "
            f"backbone resampled its positions in another way than '{spec.backbone.id}' does here: import the "
            f"weights from the file that the plugin's maker had."
        )


def _size_words(size: tuple[int, int] | None) -> str:
    return "any size" if size is None else f"{size[0]} x {size[1]} pixels"


def load_networks(path: str | Path, backbone: Backbone) -> tuple[PluginSpec, list[PluginNetwork]]:
    """The members of a plugin file as networks on `backbone`, ready to classify.

    Raises PluginError if the file is damaged or was trained on other weights.
    """
    from .model import PluginNetwork, load_tensors

    spec = read_spec(path)
    check_backbone(spec, backbone)
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
