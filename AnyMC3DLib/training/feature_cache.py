"""Embeddings of a frozen backbone, kept for other trainings on the same slices: in memory, and in a folder if given.

They are a matter of the slices, the backbone and the normalisation alone, so one backbone pass serves every head,
fusion, share of the data and seed. A folder holds shards, one for each time that new cases were embedded.
"""

from __future__ import annotations

import hashlib
import json
import logging
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..errors import InputError
from ..files import replacing, sweep_left, system_error
from ..model import PluginNetwork

logger = logging.getLogger(__name__)

FORMAT_VERSION = 1
ENDING = ".features.safetensors"


class FeatureCache:
    """Embeddings by key; see `key_of`. What is asked for is held in memory up to `max_bytes`, oldest out first."""

    def __init__(self, folder: Path | None = None, *, max_bytes: int = 4 << 30) -> None:
        self._folder, self._max_bytes = folder, max_bytes
        self._held: dict[str, dict[str, Tensor]] = {}
        self._bytes = 0
        self._places: dict[str, Path] = {}
        self._read: set[Path] = set()
        # What was asked for and was not made here, and how much of it was there.
        self._made: set[str] = set()
        self._asked, self._found = 0, 0

    @property
    def reused(self) -> float:
        """The part (0 to 1) of the cases that others had embedded."""
        return self._found / self._asked if self._asked else 0.0

    def find(self, keys: Sequence[str]) -> dict[str, dict[str, Tensor]]:
        """The embeddings [S, D] by view of those keys that are there."""
        self._look()
        wanted: dict[Path, list[str]] = {}
        for key in keys:
            if key not in self._held and key in self._places:
                wanted.setdefault(self._places[key], []).append(key)
        found = {key: self._held[key] for key in keys if key in self._held}
        for place, missing in wanted.items():
            found |= self._load(place, missing)
        others = [key for key in keys if key not in self._made]
        self._asked += len(others)
        self._found += sum(key in found for key in others)
        return found

    def keep(self, embeddings: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Keep embeddings [S, D] by key and view."""
        if not embeddings:
            return
        self._made |= set(embeddings)
        self._hold(embeddings)
        if self._folder is None:
            return
        tensors = {f"{key}/{view}": t.contiguous() for key, views in embeddings.items() for view, t in views.items()}
        place = self._folder / f"{secrets.token_hex(8)}{ENDING}"
        try:
            _write(place, tensors)
        except InputError as error:
            # They are held in memory all the same, and a training is worth more than its cache.
            logger.warning("Embeddings are not kept for other trainings: %s", error)
            return
        self._read.add(place)
        self._places |= dict.fromkeys(embeddings, place)

    def _hold(self, embeddings: Mapping[str, Mapping[str, Tensor]]) -> None:
        for key, views in embeddings.items():
            if key not in self._held:
                self._held[key] = dict(views)
                self._bytes += _size(views)
        while self._bytes > self._max_bytes and self._held:
            oldest = next(iter(self._held))
            self._bytes -= _size(self._held.pop(oldest))

    def _look(self) -> None:
        """Take notice of shards that other processes have written."""
        if self._folder is None or not self._folder.is_dir():
            return
        for place in sorted(self._folder.glob(f"*{ENDING}")):
            if place in self._read or place.name.startswith("."):
                continue
            self._read.add(place)
            try:
                with safe_open(place, framework="pt") as shard:
                    self._places |= {name.partition("/")[0]: place for name in shard.keys()}  # noqa: SIM118
            except (OSError, SafetensorError) as error:
                logger.warning("The shard '%s' is damaged and not used: %s", place.name, error)

    def _load(self, place: Path, keys: Sequence[str]) -> dict[str, dict[str, Tensor]]:
        wanted, found = set(keys), {key: {} for key in keys}
        try:
            with safe_open(place, framework="pt") as shard:
                digests = shard.metadata() or {}
                for name in shard.keys():  # noqa: SIM118
                    key, _, view = name.partition("/")
                    if key in wanted:
                        found[key][view] = tensor = shard.get_tensor(name)
                        # Shards of the first versions have none.
                        if digests.get(name, "") not in ("", _digest(tensor)):
                            raise ValueError("its content is not what was written")
        except (OSError, ValueError, SafetensorError) as error:
            logger.warning("The shard '%s' is damaged and not used: %s", place.name, error)
            return {}
        self._hold(found)
        return found


def key_of(network: PluginNetwork, stacks: Mapping[str, npt.NDArray[np.floating]]) -> str:
    """What the embeddings of a case's slices depend on, as 32 hexadecimal digits."""
    backbone = network.backbone
    facts = [FORMAT_VERSION, network.embeds_by, backbone.digest, backbone.model_args]
    views = []
    for view in network.spec.views:
        array = np.ascontiguousarray(stacks[view.name])
        content = hashlib.sha256(memoryview(array).cast("B")).hexdigest()
        normalisation = [view.preprocessing.mean, view.preprocessing.std]
        views.append([view.name, list(array.shape), array.dtype.str, content, normalisation])
    text = json.dumps([facts, views], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _write(place: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write a shard; raises InputError if the disk does not take it."""
    sweep_left(place.parent)
    with replacing(place) as temporary:
        try:
            save_file(dict(tensors), temporary, metadata={name: _digest(t) for name, t in tensors.items()})
        except SafetensorError as error:
            cause = system_error(error) or OSError(str(error))
            raise cause from error


def _digest(tensor: Tensor) -> str:
    return hashlib.sha256(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data).hexdigest()


def _size(views: Mapping[str, torch.Tensor]) -> int:
    return sum(t.numel() * t.element_size() for t in views.values())
