"""A file or folder of weights as its makers published it: tensors by their own names, and what lies beside them.

Nothing is unpickled beyond tensors, and no more memory is taken than the file is large: a compressed archive, or
tensors that claim more values than are stored, are refused before they are unfolded. Of a safetensors file the header
alone is read here; each tensor follows when it is asked for.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
from argparse import Namespace
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from ..errors import BackboneError
from .archive import check_torch_file
from .beside import CONFIGS, PROCESSORS, contained, json_beside, licence_beside, licence_name_beside
from .stored import StoredTensor, Tensors, stored_tensors

# In the order in which they are looked for in a folder.
WEIGHT_FILES = ("model.safetensors", "open_clip_model.safetensors", "pytorch_model.bin", "open_clip_pytorch_model.bin")
ENDINGS = (".safetensors", ".pth", ".pt", ".bin")
# Under which training programs keep the network itself.
WRAPPERS = ("state_dict", "model", "teacher", "model_ema", "state_dict_ema", "module", "net", "encoder")
# Of the networks that lie side by side, the one that the program which saves them under these names takes itself.
TAKEN = {
    frozenset({"student", "teacher"}): ("teacher", "DINO's authors do"),
    frozenset({"state_dict", "state_dict_ema"}): ("state_dict_ema", "timm does"),
}
MOST_TENSORS = 7_500
LONGEST_NAME = 200
Part = TypeVar("Part", Tensor, StoredTensor)


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """Tensors by the file's own names; `config` and `processor` are the JSON files beside it ({} where absent).

    `licence` is the text of the licence file beside it, `licence_name` what its README calls the licence. `files` are
    the names that were read, `digest` the SHA-256 over them; `notes` are sentences on what was chosen among networks.
    """

    tensors: Mapping[str, Tensor]
    config: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    processor: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    licence: str = ""
    licence_name: str = ""
    files: tuple[str, ...] = ()
    digest: str = ""
    notes: tuple[str, ...] = ()

    @property
    def model_type(self) -> str:
        """What the Transformers library calls the kind of model; '' without a config of that library."""
        return str(self.config.get("model_type", ""))

    def without_prefix(self, prefix: str) -> Checkpoint:
        """The tensors below `prefix`, by the rest of their names."""
        tensors = self.tensors if isinstance(self.tensors, Tensors) else Tensors(self.tensors)
        return dataclasses.replace(self, tensors=tensors.below(prefix))

    def dtype_of(self, name: str) -> torch.dtype:
        """The type of the numbers of a tensor; it is not read for it."""
        return self.tensors.dtype_of(name) if isinstance(self.tensors, Tensors) else self.tensors[name].dtype


def read_checkpoint(place: str | Path, *, part: str = "") -> Checkpoint:
    """Read a safetensors or weights-only PyTorch file, or a folder that holds one (also in several parts).

    `part` names one of the networks that a training program saved side by side, such as a teacher. Raises
    BackboneError if there is no file, if it is damaged, if it holds more than tensors, or more than one network of
    which neither `part` nor the program's own habit says which.
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
    tensors: dict[str, Tensor | StoredTensor] = {}
    digest = hashlib.sha256()
    notes: list[str] = []
    for file in files:
        read = _tensors_of(file, part, notes)
        twice = tensors.keys() & read.keys()
        if twice:
            raise BackboneError(f"Two parts of the weights hold the tensor '{min(twice)}': get the folder again.")
        tensors.update(read)
        with file.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    # A folder of the hub may hold the weights in both libraries' layouts, each with its config.
    by_open_clip = files[0].name.startswith("open_clip")
    config = json_beside(folder, CONFIGS[::-1] if by_open_clip else CONFIGS)
    if not isinstance(config.get("model_type", ""), str):
        raise BackboneError("The config's 'model_type' is no text: get the config again.")
    return Checkpoint(
        Tensors(tensors),
        config=config,
        processor=json_beside(folder, PROCESSORS),
        licence=licence_beside(folder),
        licence_name=licence_name_beside(folder),
        files=tuple(file.name for file in files),
        digest="sha256:" + digest.hexdigest(),
        notes=tuple(notes),
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


def _tensors_of(file: Path, part: str, notes: list[str]) -> Mapping[str, Tensor | StoredTensor]:
    try:
        # By what it holds, not by its name: MedImageInsight's published `.pt` is a safetensors file.
        if not _is_safetensors(file):
            return _read_torch(file, part, notes)
        if part:
            raise _lacks(part, file)
        return _read_safetensors(file)
    except BackboneError:
        raise
    except Exception as error:  # bytes of any kind make readers fail in any way
        raise BackboneError(
            f"'{file.name}' holds no weights that can be read safely: give the safetensors or pth file as published."
        ) from error


def _is_safetensors(file: Path) -> bool:
    with file.open("rb") as stream:
        # A length and a JSON object; PyTorch's files begin with 'PK' or a pickle's own mark.
        return file.suffix == ".safetensors" or stream.read(9)[8:] == b"{"


def _read_safetensors(file: Path) -> dict[str, StoredTensor]:
    tensors = stored_tensors(file)
    named = _named(tensors, file)
    for name, tensor in named.items():
        if not all(tensor.shape):
            raise _is_empty(name, file)
    return named


def _read_torch(file: Path, part: str, notes: list[str]) -> dict[str, Tensor]:
    archive = check_torch_file(file)
    # Training programs leave their arguments beside the weights; a namespace only holds values.
    with torch.serialization.safe_globals([Namespace]):
        state = torch.load(file, map_location="cpu", weights_only=True, mmap=archive)
    tensors = _unwrapped(state, file, part, notes)
    _check(tensors, file)
    return tensors


def _unwrapped(state: Any, file: Path, part: str, notes: list[str]) -> dict[str, Tensor]:
    """The state dict within what training programs save, without the prefix that several processes leave.

    What was chosen among several is added to `notes`.
    """
    for _ in range(3):
        if not isinstance(state, Mapping) or any(isinstance(value, Tensor) for value in state.values()):
            break
        if part and isinstance(state.get(part), Mapping):
            state, part = state[part], ""
            continue
        inner = next((name for name in WRAPPERS if isinstance(state.get(name), Mapping)), None)
        if inner is None:
            break
        state = state[inner if part else _chosen(state, inner, file, notes)]
    if part:
        raise _lacks(part, file)
    if not isinstance(state, Mapping) or not state:
        raise BackboneError(f"'{file.name}' holds no weights by name: give the file of a state dict.")
    wrong = [name for name, value in state.items() if not isinstance(name, str) or not isinstance(value, Tensor)]
    if wrong:
        raise BackboneError(f"'{file.name}' holds more than weights ({str(wrong[0])[:60]!r}): give a state dict alone.")
    return _named(state, file)


def _lacks(part: str, file: Path) -> BackboneError:
    return BackboneError(f"'{file.name}' has no part {part[:40]!r}: leave it out, or name one that the file has.")


def _chosen(state: Mapping[Any, Any], first: str, file: Path, notes: list[str]) -> str:
    """The name of the network to take of those that have the tensors of `first`, which are told apart by no layout."""
    own = _flat_names(state[first])
    alike = [name for name, value in state.items() if isinstance(value, Mapping) and own & _flat_names(value)]
    if len(alike) < 2:
        return first
    known = TAKEN.get(frozenset(alike))
    if known is None:
        names = " and ".join(repr(str(name)[:40]) for name in alike[:4])
        raise BackboneError(
            f"'{file.name}' holds the weights of {len(alike)} networks, {names}: say which is meant as the part, or "
            "save that one as a file of its own."
        )
    others = " and ".join(f"'{name}'" for name in alike if name != known[0])
    notes.append(f"Of the networks in '{file.name}', '{known[0]}' was taken and not {others}, as {known[1]}.")
    return known[0]


def _flat_names(state: Mapping[Any, Any], *, deep: int = 2) -> set[str]:
    """The names of tensors, also one level below, without what several processes and a head put before them."""
    names = set()
    for name, value in itertools.islice(state.items(), MOST_TENSORS):
        if isinstance(value, Tensor):
            names.add(str(name).removeprefix("module.").removeprefix("backbone."))
        elif isinstance(value, Mapping) and name in WRAPPERS and deep > 1:
            names |= _flat_names(value, deep=deep - 1)
    return names


def _named(state: Mapping[str, Part], file: Path) -> dict[str, Part]:
    """The same tensors, without the prefix that training by several processes leaves."""
    _check_names(state, file)
    prefix = "module."
    strip = all(name.startswith(prefix) for name in state)
    return {name.removeprefix(prefix) if strip else name: value for name, value in state.items()}


def _check_names(names: Collection[str], file: Path) -> None:
    if len(names) > MOST_TENSORS:
        raise BackboneError(f"'{file.name}' holds {len(names)} tensors, more than any backbone: give another file.")
    odd = next((name for name in names if not name.isprintable() or len(name) > LONGEST_NAME), None)
    if odd is not None:
        raise BackboneError(f"'{file.name}' holds a tensor of the odd name {odd[:40]!r}: get the file again.")


def _is_empty(name: str, file: Path) -> BackboneError:
    return BackboneError(f"The tensor '{name}' in '{file.name}' is empty: get the file again.")


def _check(tensors: Mapping[str, Tensor], file: Path) -> None:
    for name, tensor in tensors.items():
        if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_complex() or tensor.device.type != "cpu":
            raise BackboneError(f"The tensor '{name}' in '{file.name}' is no plain array: give weights in full.")
        if not tensor.numel():
            raise _is_empty(name, file)
        # A view may repeat one stored value any number of times.
        if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
            raise BackboneError(
                f"The tensor '{name}' in '{file.name}' claims more values than are stored: get it again."
            )
    # Weights that two layers share are stored once, and many tensors may be cut from one array.
    if sum(tensor.numel() * tensor.element_size() for tensor in tensors.values()) > 2 * file.stat().st_size:
        raise BackboneError(f"'{file.name}' claims more values than are stored in it: get the file again.")
