"""The engine: one backbone in memory, plugins that come and go, and the way of a study through them."""

from __future__ import annotations

import dataclasses
import itertools
import json
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from . import __version__
from .backbone import Backbone, Tail
from .errors import Cancelled, InputError, PluginError
from .geometry import boxes_overlap
from .heatmap import class_hot_spots
from .model import PluginNetwork
from .plugin import digest_of_file, load_networks
from .prediction import Prediction, RelevanceMap, SliceWeights, Study
from .preprocessing import Slices, preprocess
from .progress import Progress, ProgressCallback
from .relevance import attention_density, class_density, logit_gradients, tail_contributions
from .spec import PluginSpec, ViewSpec

logger = logging.getLogger(__name__)

BATCH = 16
# Tails of class maps are kept up to this size; past it the slices are encoded a second time instead.
TAIL_BYTES = 1 << 30
UNCERTAIN = 0.05  # a probability this near its threshold is said to be uncertain


@dataclasses.dataclass(frozen=True)
class LoadedPlugin:
    """A plugin in memory: its spec, the networks of its members, and the digest of its file."""

    spec: PluginSpec
    networks: list[PluginNetwork]
    digest: str


class Classifier:
    """Classifies studies with any set of plugins that share one backbone."""

    def __init__(self, backbone: Backbone, *, batch: int = BATCH) -> None:
        self.backbone = backbone
        self.batch = batch
        self._plugins: dict[str, LoadedPlugin] = {}

    @property
    def plugins(self) -> dict[str, PluginSpec]:
        """The specs of the loaded plugins by name."""
        return {name: plugin.spec for name, plugin in self._plugins.items()}

    def load(self, path: str | Path) -> str:
        """Load a plugin file and return its name; a plugin of that name is replaced.

        Raises PluginError if the file is damaged or was trained on other weights.
        """
        spec, networks = load_networks(path, self.backbone)
        self.unload(spec.name)
        self._plugins[spec.name] = LoadedPlugin(spec, networks, digest_of_file(path))
        return spec.name

    def add(self, spec: PluginSpec, networks: list[PluginNetwork]) -> str:
        """Take a plugin that is in memory already, one that is being trained for instance; it replaces its name."""
        old = self._plugins.get(spec.name)
        for network in old.networks if old else ():
            if network not in networks:
                network.close()
        self._plugins[spec.name] = LoadedPlugin(spec, [n.eval() for n in networks], "")
        return spec.name

    def unload(self, name: str) -> None:
        """Forget a plugin; the backbone keeps nothing of it."""
        plugin = self._plugins.pop(name, None)
        for network in plugin.networks if plugin else ():
            network.close()

    def classify(
        self,
        study: Study,
        *,
        plugins: Sequence[str] | None = None,
        maps: bool = True,
        progress: ProgressCallback | None = None,
        cancelled: Callable[[], bool] | None = None,
    ) -> dict[str, Prediction]:
        """The answer of each plugin (all that are loaded, or those named) for one study.

        With `maps` come the relevance maps and hot spots. Raises InputError if the study does not suit a plugin,
        and Cancelled within one batch of slices once `cancelled` says so.
        """
        names = list(self._plugins) if plugins is None else list(plugins)
        unknown = [name for name in names if name not in self._plugins]
        if unknown:
            raise PluginError(f"The plugin '{unknown[0]}' is not loaded: load its file first.")
        self._check_regions(study, names)
        job = _Job(self, study, maps=maps, progress=progress, cancelled=cancelled)
        return {name: job.run(self._plugins[name]) for name in names}

    def _check_regions(self, study: Study, names: Sequence[str]) -> None:
        views = [view for name in names for view in self._plugins[name].spec.views]
        for source in study.regions:
            if not any(view.source == source and view.preprocessing.region.comes_with_study for view in views):
                raise InputError(f"No plugin looks at a region of '{source}': leave the region out.")


class _Job:
    """One study through some plugins; slices that two views share are cut once."""

    def __init__(
        self,
        engine: Classifier,
        study: Study,
        *,
        maps: bool,
        progress: ProgressCallback | None,
        cancelled: Callable[[], bool] | None,
    ) -> None:
        self.engine, self.study, self.maps = engine, study, maps and engine.backbone.explains
        self._progress, self._cancelled = progress, cancelled
        self._cut: dict[str, Slices] = {}
        self._step, self._done, self._total = "", 0, 0

    def run(self, plugin: LoadedPlugin) -> Prediction:
        spec = plugin.spec
        started = time.perf_counter()
        self._check_overlap(spec)
        slices = {view.name: self._slices(view) for view in spec.views}
        cut = time.perf_counter()
        # One step for all members, embeddings and maps, so that its count rises to its end.
        passes = len(plugin.networks) * (2 if self.maps else 1)
        self._step, self._done = f"Classifying: {spec.name}", 0
        self._total = passes * sum(len(s.array) for s in slices.values())
        self._advance(0)
        answers = [self._member(network, slices) for network in plugin.networks]
        ended = time.perf_counter()
        timings = {"preprocessing_s": round(cut - started, 3), "network_s": round(ended - cut, 3)}
        return _prediction(plugin, answers, slices, self.engine.backbone, timings)

    def _slices(self, view: ViewSpec) -> Slices:
        key = json.dumps([view.source, view.preprocessing.to_dict()], sort_keys=True)
        if key not in self._cut:
            self._report(f"Cutting slices: {view.name}", 0, 1)
            image, region = self.study.image(view.source), self.study.region_for(view)
            self._cut[key] = preprocess(image, view.preprocessing, region=region)
        return self._cut[key]

    def _check_overlap(self, spec: PluginSpec) -> None:
        for first, second in itertools.combinations(spec.sources, 2):
            a, b = self.study.image(first), self.study.image(second)
            if not boxes_overlap(a.corners(), b.corners()):
                raise InputError(
                    f"The images '{first}' and '{second}' do not overlap in space: give two series of one study."
                )

    def _report(self, step: str, done: int, total: int) -> None:
        if self._cancelled is not None and self._cancelled():
            raise Cancelled("The work was cancelled.")
        if self._progress is not None:
            self._progress(Progress(step, done, total))

    def _advance(self, count: int) -> None:
        self._done += count
        self._report(self._step, self._done, self._total)

    def _member(self, network: PluginNetwork, slices: dict[str, Slices]) -> _Answer:
        views = {view.name: view for view in network.spec.views}
        encoded: dict[str, _EncodedView] = {}
        room = TAIL_BYTES
        for name, view in views.items():
            encoded[name] = kept = _EncodedView()
            for chunk in self._chunks(slices[name]):
                with torch.no_grad():
                    part = network.encode(
                        view, chunk, attention=self.maps and network.backbone.has_class_attention, tail=self.maps
                    )
                room = kept.add(part.embedding, part.attention, part.tail, room)
                self._advance(len(chunk))
        embeddings = {name: torch.cat(kept.embeddings) for name, kept in encoded.items()}
        with torch.no_grad():
            fused = network.fuse({name: tensor[None] for name, tensor in embeddings.items()})
            probabilities = network.probabilities(fused.logits)[0].cpu().numpy()
        weights = {name: w[0].float().cpu() for name, w in fused.slice_weights.items()}
        view_weights = dict(zip(views, fused.view_weights[0].tolist(), strict=True))
        maps = None
        if self.maps:
            maps = self._member_maps(network, slices, encoded, embeddings, weights, view_weights)
        return _Answer(probabilities, weights, view_weights, maps)

    def _chunks(self, slices: Slices) -> Iterator[Tensor]:
        for n in range(0, len(slices.array), self.engine.batch):
            yield torch.from_numpy(slices.array[n : n + self.engine.batch]).to(self.engine.backbone.device)

    def _member_maps(
        self,
        network: PluginNetwork,
        slices: dict[str, Slices],
        encoded: dict[str, _EncodedView],
        embeddings: dict[str, Tensor],
        weights: dict[str, Tensor],
        view_weights: dict[str, float],
    ) -> dict[str, RelevanceMap]:
        gradients = logit_gradients(network, embeddings)
        contributions = {}
        for view in network.spec.views:
            tails = encoded[view.name].tails
            parts = gradients[view.name].split(self.engine.batch, dim=1)
            if tails is None:
                tails = (self._tail_again(network, view, chunk) for chunk in self._chunks(slices[view.name]))
            maps = []
            for tail, part in zip(tails, parts, strict=True):
                maps.append(tail_contributions(tail, part))
                self._advance(part.shape[1])
            contributions[view.name] = torch.cat(maps, dim=2)
        inside = {name: patches_inside(slices[name], tuple(c.shape[3:])) for name, c in contributions.items()}
        classes = class_density(contributions, inside)
        attention: dict[str, Any] = dict.fromkeys(contributions)
        if network.backbone.has_class_attention:
            rows = {name: torch.cat(kept.attention).cpu() for name, kept in encoded.items()}
            attention = attention_density(rows, weights, view_weights, inside)
        return {
            name: RelevanceMap(attention[name], classes[name], slices[name].patch_affine(tuple(c.shape[3:])))
            for name, c in contributions.items()
        }

    def _tail_again(self, network: PluginNetwork, view: ViewSpec, chunk: Tensor) -> Tail:
        self._advance(0)
        with torch.no_grad():
            return network.encode(view, chunk, tail=True).tail


class _EncodedView:
    """What is kept of a view's slices while they stream through the backbone."""

    def __init__(self) -> None:
        self.embeddings: list[Tensor] = []
        self.attention: list[Tensor] = []
        self.tails: list[Tail] | None = []

    def add(self, embedding: Tensor, attention: Tensor | None, tail: Tail | None, room: int) -> int:
        """Keep a chunk; returns how many bytes are left for tails."""
        self.embeddings.append(embedding)
        if attention is not None:
            self.attention.append(attention)
        if tail is None or self.tails is None:
            return room
        # A transformer's tail holds the values beside the row: about as much as embedding times patches.
        room -= tail.leaf.numel() * 4 + tail.grid[0] * tail.grid[1] * embedding.numel() * 4
        if room < 0:
            self.tails = None
            return 0
        self.tails.append(tail)
        return room


@dataclasses.dataclass(frozen=True)
class _Answer:
    probabilities: np.ndarray
    slice_weights: dict[str, Tensor]
    view_weights: dict[str, float]
    maps: dict[str, RelevanceMap] | None


def patches_inside(slices: Slices, shape: tuple[int, int]) -> np.ndarray:
    """Whether half of each patch of a map (h, w) or more shows the image, not padding: bool [h, w].

    Of a row or column of patches that are all padding for the most part, those count that show anything.
    """
    flags = []
    for inside, count in zip(slices.inside, shape, strict=True):
        share = np.array([part.mean() for part in np.array_split(inside, count)])
        flags.append(share >= min(0.5, share.max()))
    return flags[0][:, None] & flags[1][None, :]


def decide(spec: PluginSpec, probabilities: dict[str, float]) -> dict[str, bool]:
    """Which classes are decided for: at the positive's threshold, the most probable, or each at its threshold."""
    thresholds = {c.name: c.threshold for c in spec.classes}
    names = list(probabilities)
    if spec.task_type == "binary":
        positive = probabilities[names[1]] >= thresholds[names[1]]
        return {names[0]: not positive, names[1]: positive}
    if spec.task_type == "multiclass":
        best = max(names, key=lambda name: probabilities[name])
        return {name: name == best for name in names}
    return {name: probabilities[name] >= thresholds[name] for name in names}


def _prediction(
    plugin: LoadedPlugin,
    answers: list[_Answer],
    slices: dict[str, Slices],
    backbone: Backbone,
    timings: dict[str, float],
) -> Prediction:
    spec = plugin.spec
    mean = np.mean([a.probabilities for a in answers], axis=0)
    probabilities = {c.name: float(p) for c, p in zip(spec.classes, mean, strict=True)}
    decisions = decide(spec, probabilities)
    weights = {
        name: SliceWeights(np.mean([a.slice_weights[name].numpy() for a in answers], axis=0), s.centres, s.axis)
        for name, s in slices.items()
    }
    maps = _mean_maps([a.maps for a in answers if a.maps is not None])
    spots = {name: class_hot_spots(maps, n) for n, name in enumerate(spec.explained)} if maps else {}
    provenance = {
        "anymc3d": __version__,
        "plugin_digest": plugin.digest,
        "backbone": backbone.id,
        "backbone_digest": backbone.digest,
        "device": str(backbone.device),
        "precision": "float32",
        "preprocessing": {v.name: v.preprocessing.to_dict() for v in spec.views},
        "timings": timings,
    }
    return Prediction(
        spec=spec,
        probabilities=probabilities,
        decisions=decisions,
        slices=weights,
        view_weights={n: float(np.mean([a.view_weights[n] for a in answers])) for n in slices},
        maps=maps,
        hot_spots=spots,
        warnings=_warnings(spec, probabilities, decisions, slices) + _map_warnings(backbone),
        provenance=provenance,
    )


def _mean_maps(members: list[dict[str, RelevanceMap]]) -> dict[str, RelevanceMap]:
    if not members:
        return {}
    result = {}
    for name, first in members[0].items():
        classes = np.mean([m[name].classes for m in members], axis=0, dtype=np.float32)
        attention = None
        if first.attention is not None:
            attention = np.mean([m[name].attention for m in members], axis=0, dtype=np.float32)
        result[name] = RelevanceMap(attention, classes, first.ijk_to_ras)
    return result


def _map_warnings(backbone: Backbone) -> list[str]:
    return [] if backbone.explains else [f"'{backbone.id}' does not tell where it looked: there is no heatmap."]


def _warnings(
    spec: PluginSpec, probabilities: dict[str, float], decisions: dict[str, bool], slices: dict[str, Slices]
) -> list[str]:
    found = []
    thresholds = {c.name: c.threshold for c in spec.classes}
    judged = [n for n in spec.explained if spec.task_type != "multiclass" or decisions[n]]
    for name in judged:
        if abs(probabilities[name] - thresholds[name]) < UNCERTAIN:
            found.append(f"Uncertain: '{name}' has a probability of {probabilities[name]:.2f}, at its threshold.")
        elif spec.task_type == "multiclass" and probabilities[name] < thresholds[name]:
            found.append(f"Uncertain: no class reaches its threshold; '{name}' comes nearest.")
    for view in spec.views:
        array = slices[view.name].array
        if view.preprocessing.intensity.kind == "window" and np.mean((array > 0) & (array < 1)) < 0.01:
            found.append(
                f"In view '{view.name}' nearly all values lie outside the intensity window: is this the right image?"
            )
    return found
