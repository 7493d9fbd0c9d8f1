"""Where a training stands, on disk: written whole or not at all, checked before it is used, nothing pickled."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors.torch import save_file
from torch import Tensor

from ..errors import InputError
from ..files import replacing, sweep_left, system_error

logger = logging.getLogger(__name__)

KEPT = 2  # the newest, and the one before in case that the disk has damaged it
_NAME = re.compile(r"state-(\d{8})\.safetensors")
_FACTS, _DIGEST = "facts", "sha256"


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """Tensors by name, and whatever else there is to know as JSON values."""

    tensors: Mapping[str, Tensor]
    facts: Mapping[str, Any]

    def part(self, name: str) -> dict[str, Tensor]:
        """The tensors whose names begin with `name/`, by the rest of their names."""
        start = f"{name}/"
        return {key.removeprefix(start): value for key, value in self.tensors.items() if key.startswith(start)}


class CheckpointStore:
    """The checkpoints in a folder; the last two stay. `every_s` is how often one is due."""

    def __init__(self, folder: Path, *, every_s: float = 300.0) -> None:
        self.folder, self._every = folder, every_s
        self._own = max(self._numbers(), default=0)
        self._last = time.monotonic()

    def due(self) -> bool:
        """Whether the last one was written so long ago that another is wanted."""
        return time.monotonic() - self._last >= self._every

    def save(self, checkpoint: Checkpoint) -> None:
        """Write another one, and keep the one before.

        Raises InputError if the disk does not take it, or where another training has written here meanwhile.
        """
        if max(self._numbers(), default=0) > self._own:
            raise InputError(f"Another training writes into '{self.folder}' too: give each a folder of its own.")
        path = self._path(self._own + 1)
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in checkpoint.tensors.items()}
        facts = json.dumps(checkpoint.facts, sort_keys=True, allow_nan=False)
        # Nobody else writes here.
        sweep_left(self.folder, older_s=0)
        with replacing(path) as temporary:
            _write(temporary, tensors, {_FACTS: facts, _DIGEST: _digest(tensors, facts)})
        self._own, self._last = self._own + 1, time.monotonic()
        for number in self._numbers()[:-KEPT]:
            self._path(number).unlink(missing_ok=True)

    def newest(self) -> Checkpoint | None:
        """The newest that is whole; a damaged one is left aside with a warning, None where there is none."""
        for number in reversed(self._numbers()):
            try:
                return _read(self._path(number))
            except (OSError, ValueError, KeyError, TypeError, safetensors.SafetensorError) as error:
                name = self._path(number).name
                logger.warning("The checkpoint '%s' is damaged (%s): the one before is used.", name, error)
        return None

    def _numbers(self) -> list[int]:
        names = (_NAME.fullmatch(path.name) for path in self.folder.glob("state-*")) if self.folder.is_dir() else ()
        return sorted(int(found[1]) for found in names if found)

    def _path(self, number: int) -> Path:
        return self.folder / f"state-{number:08d}.safetensors"


def optimiser_tensors(optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimiser's memory by the number of the parameter and the name of the value."""
    state = optimiser.state_dict()["state"]
    return {
        f"{number}/{name}": torch.as_tensor(value) for number, kept in state.items() for name, value in kept.items()
    }


def restore_optimiser(optimiser: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Fill the memory of an optimiser over the same parameters; its settings are those that it was made with."""
    content = optimiser.state_dict()
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        number, name = key.split("/")
        state.setdefault(int(number), {})[name] = value
    optimiser.load_state_dict({**content, "state": state})


def _write(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    try:
        save_file(dict(tensors), path, metadata=dict(metadata))
    except safetensors.SafetensorError as error:
        cause = system_error(error)
        if cause is not None:
            raise cause from error
        raise InputError(f"The state of the training cannot be written ({error}): make room on the disk.") from error


def _read(path: Path) -> Checkpoint:
    with safetensors.safe_open(path, framework="pt") as file:
        metadata = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
    if _digest(tensors, metadata[_FACTS]) != metadata[_DIGEST]:
        raise ValueError("its content is not what was written")
    return Checkpoint(tensors, json.loads(metadata[_FACTS]))


def _digest(tensors: Mapping[str, Tensor], facts: str) -> str:
    result = hashlib.sha256(facts.encode())
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        result.update(f"{name}|{tensor.dtype}|{list(tensor.shape)}|".encode())
        result.update(tensor.reshape(-1).view(torch.uint8).numpy().data if tensor.numel() else b"")
    return result.hexdigest()
