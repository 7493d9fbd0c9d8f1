"""A file or folder of weights as its makers published it: tensors by their own names, and what lies beside them.

Nothing is unpickled beyond tensors, and no more memory is taken than the file is large: a compressed archive, or
tensors that claim more values than are stored, are refused before they are unfolded.
"""

from __future__ import annotations

import dataclasses
import hashlib
import mmap
import zipfile
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import torch
from torch import Tensor

from ..errors import BackboneError
from ..tensor_header import METADATA, read_header
from .beside import CONFIGS, PROCESSORS, contained, json_beside, licence_beside, licence_name_beside

# In the order in which they are looked for in a folder.
WEIGHT_FILES = ("model.safetensors", "open_clip_model.safetensors", "pytorch_model.bin", "open_clip_pytorch_model.bin")
ENDINGS = (".safetensors", ".pth", ".pt", ".bin")
# Under which training programs keep the network itself; the teacher is what DINO's authors evaluate.
WRAPPERS = ("state_dict", "model", "teacher", "model_ema", "module", "net", "encoder")
MOST_TENSORS = 7_500
LONGEST_NAME = 200
# Calls that PyTorch's reader allows, that no weights need, and that make much memory out of few bytes.
INFLATING = (b"bytearray\n", b"c_codecs\nencode\n")


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """Tensors by the file's own names; `config` and `processor` are the JSON files beside it ({} where absent).

    `licence` is the text of the licence file beside it, `licence_name` what its README calls the licence. `files` are
    the names that were read, `digest` the SHA-256 over them.
    """

    tensors: Mapping[str, Tensor]
    config: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    processor: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    licence: str = ""
    licence_name: str = ""
    files: tuple[str, ...] = ()
    digest: str = ""

    @property
    def model_type(self) -> str:
        """What the Transformers library calls the kind of model; '' without a config of that library."""
        return str(self.config.get("model_type", ""))

    def without_prefix(self, prefix: str) -> Checkpoint:
        """The tensors below `prefix`, by the rest of their names."""
        inner = {n.removeprefix(prefix): t for n, t in self.tensors.items() if n.startswith(prefix)}
        return dataclasses.replace(self, tensors=inner)


def read_checkpoint(place: str | Path) -> Checkpoint:
    """Read a safetensors or weights-only PyTorch file, or a folder that holds one (also in several parts).

    Raises BackboneError if there is none, if it is damaged, or if it holds more than tensors.
    """
    path = Path(place)
    try:
        folder = path if path.is_dir() else path.parent
        files = _weight_files(path) if path.is_dir() else [path]
        missing = not files[0].is_file()
    except (OSError, ValueError) as error:
        raise BackboneError(f"'{path.name}' cannot be read: check the path, and that you may read it.") from error
    if missing:
        raise BackboneError(f"There is no file or folder of weights '{path}': check the path.")
    tensors: dict[str, Tensor] = {}
    digest = hashlib.sha256()
    for file in files:
        part = _tensors_of(file)
        twice = tensors.keys() & part.keys()
        if twice:
            raise BackboneError(f"Two parts of the weights hold the tensor '{min(twice)}': get the folder again.")
        tensors.update(part)
        with file.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    # A folder of the hub may hold the weights in both libraries' layouts, each with its config.
    by_open_clip = files[0].name.startswith("open_clip")
    config = json_beside(folder, CONFIGS[::-1] if by_open_clip else CONFIGS)
    if not isinstance(config.get("model_type", ""), str):
        raise BackboneError("The config's 'model_type' is no text: get the config again.")
    return Checkpoint(
        tensors,
        config=config,
        processor=json_beside(folder, PROCESSORS),
        licence=licence_beside(folder),
        licence_name=licence_name_beside(folder),
        files=tuple(file.name for file in files),
        digest="sha256:" + digest.hexdigest(),
    )


def _weight_files(folder: Path) -> list[Path]:
    for index in sorted(folder.glob("*.index.json")):
        parts = json_beside(folder, (index.name,)).get("weight_map")
        if isinstance(parts, Mapping) and parts:
            return [_part(folder, name) for name in sorted({str(value) for value in parts.values()})]
    for name in WEIGHT_FILES:
        if (folder / name).is_file():
            return [contained(folder / name, folder)]
    found = sorted(file for file in folder.iterdir() if file.suffix in ENDINGS and file.is_file())
    if len(found) != 1:
        names = ", ".join(file.name for file in found[:5]) or "none"
        raise BackboneError(
            f"The folder '{folder.name}' must hold one file of weights, but holds {len(found)} ({names}): name the "
            "file."
        )
    return [contained(found[0], folder)]


def _part(folder: Path, name: str) -> Path:
    # An index comes from elsewhere: it may not lead out of its folder.
    if Path(name).name != name or "\\" in name or not name.endswith(ENDINGS):
        raise BackboneError(
            f"The index of the weights names {name[:80]!r}, which is no file beside it: get the folder again."
        )
    if not (folder / name).is_file():
        raise BackboneError(f"The part {name[:80]!r} of the weights is missing: get the folder again.")
    return contained(folder / name, folder)


def _tensors_of(file: Path) -> dict[str, Tensor]:
    try:
        # By what it holds, not by its name: MedImageInsight's published `.pt` is a safetensors file.
        state = _read_safetensors(file) if _is_safetensors(file) else _read_torch(file)
        tensors = _unwrapped(state, file)
        _check(tensors, file)
    except BackboneError:
        raise
    except Exception as error:  # bytes of any kind make readers fail in any way
        raise BackboneError(
            f"'{file.name}' holds no weights that can be read safely: give the safetensors or pth file as published."
        ) from error
    return tensors


def _is_safetensors(file: Path) -> bool:
    with file.open("rb") as stream:
        # A length and a JSON object; PyTorch's files begin with 'PK' or a pickle's own mark.
        return file.suffix == ".safetensors" or stream.read(9)[8:] == b"{"


def _read_safetensors(file: Path) -> dict[str, Tensor]:
    names = {name for name in read_header(file) if name != METADATA}
    _check_names(names, file)
    with safetensors.safe_open(file, framework="pt") as opened:
        return {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 - it is no mapping


def _read_torch(file: Path) -> Any:
    with file.open("rb") as stream:
        archive = stream.read(2) == b"PK"
        with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
            inflating = any(content.find(call) >= 0 for call in INFLATING)
    if inflating:
        raise BackboneError(f"'{file.name}' holds more than weights: give the file of a state dict alone.")
    if archive:
        _check_archive(file)
    # Training programs leave their arguments beside the weights; a namespace only holds values.
    with torch.serialization.safe_globals([Namespace]):
        return torch.load(file, map_location="cpu", weights_only=True, mmap=archive)


def _check_archive(file: Path) -> None:
    with zipfile.ZipFile(file) as archive:
        items = archive.infolist()
    if any(item.filename.endswith(("code/__torch__.py", "constants.pkl")) for item in items):
        raise BackboneError(
            f"'{file.name}' is a TorchScript program, which would be run to be read: give its weights as safetensors."
        )
    # PyTorch never compresses: what is compressed may unfold to any size.
    if any(item.compress_type != zipfile.ZIP_STORED for item in items):
        raise BackboneError(f"'{file.name}' is a compressed archive, which PyTorch does not write: get the file again.")
    if sum(max(item.file_size, item.compress_size) for item in items) > file.stat().st_size:
        raise BackboneError(f"'{file.name}' claims to hold more than its size: get the file again.")


def _unwrapped(state: Any, file: Path) -> dict[str, Tensor]:
    """The state dict within what training programs save, without the prefix that several processes leave."""
    for _ in range(3):
        if not isinstance(state, Mapping) or any(isinstance(value, Tensor) for value in state.values()):
            break
        inner = next((state[name] for name in WRAPPERS if isinstance(state.get(name), Mapping)), None)
        if inner is None:
            break
        state = inner
    if not isinstance(state, Mapping) or not state:
        raise BackboneError(f"'{file.name}' holds no weights by name: give the file of a state dict.")
    wrong = [name for name, value in state.items() if not isinstance(name, str) or not isinstance(value, Tensor)]
    if wrong:
        raise BackboneError(f"'{file.name}' holds more than weights ({str(wrong[0])[:60]!r}): give a state dict alone.")
    _check_names(state, file)
    prefix = "module."
    strip = all(name.startswith(prefix) for name in state)
    return {name.removeprefix(prefix) if strip else name: value for name, value in state.items()}


def _check_names(names: Mapping[str, Any] | set[str], file: Path) -> None:
    if len(names) > MOST_TENSORS:
        raise BackboneError(f"'{file.name}' holds {len(names)} tensors, more than any backbone: give another file.")
    odd = next((name for name in names if not name.isprintable() or len(name) > LONGEST_NAME), None)
    if odd is not None:
        raise BackboneError(f"'{file.name}' holds a tensor of the odd name {odd[:40]!r}: get the file again.")


def _check(tensors: Mapping[str, Tensor], file: Path) -> None:
    for name, tensor in tensors.items():
        if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_complex() or tensor.device.type != "cpu":
            raise BackboneError(f"The tensor '{name}' in '{file.name}' is no plain array: give weights in full.")
        if not tensor.numel():
            raise BackboneError(f"The tensor '{name}' in '{file.name}' is empty: get the file again.")
        # A view may repeat one stored value any number of times.
        if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
            raise BackboneError(
                f"The tensor '{name}' in '{file.name}' claims more values than are stored: get it again."
            )
    # Weights that two layers share are stored once, and many tensors may be cut from one array.
    if sum(tensor.numel() * tensor.element_size() for tensor in tensors.values()) > 2 * file.stat().st_size:
        raise BackboneError(f"'{file.name}' claims more values than are stored in it: get the file again.")
