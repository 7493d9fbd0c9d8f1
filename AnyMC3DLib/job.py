"""One study through some plugins that share a backbone."""

from __future__ import annotations

import dataclasses
import itertools
import json
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from .answer import MemberAnswer, patches_inside, predicted
from .backbone import Backbone
from .errors import Cancelled, InputError, MemoryShortage
from .geometry import boxes_overlap
from .memory import BatchSizer
from .model import PluginNetwork
from .prediction import Prediction, RelevanceMap, Study
from .preprocessing import Slices, preprocess
from .progress import Progress, ProgressCallback
from .relevance import attention_density, class_density, logit_gradients
from .scope import remarks_on
from .spec import PluginSpec, ViewSpec
from .streaming import TAIL_BYTES, Lane, Maps, Room, Stream

FEW_SLICES = 32


class NotFinite(ArithmeticError):
    """The network gave values that are not finite: past the range of its precision, or of sense."""


@dataclasses.dataclass(frozen=True)
class LoadedPlugin:
    """A plugin in memory: its spec, the networks of its members, and the digest of its file."""

    spec: PluginSpec
    networks: list[PluginNetwork]
    digest: str


@dataclasses.dataclass(frozen=True)
class Progressing:
    """Where to tell how far the work is, and where to ask whether it shall go on."""

    callback: ProgressCallback | None = None
    cancelled: Callable[[], bool] | None = None

    def report(self, step: str, done: int, total: int) -> None:
        """Tell how far the step is; raises Cancelled."""
        if self.cancelled is not None and self.cancelled():
            raise Cancelled("The work was cancelled.")
        if self.callback is not None:
            self.callback(Progress(step, done, total))


class Job:
    """Cuts each distinct view of the study once, streams it through all lanes that look at it, and makes answers."""

    def __init__(
        self,
        backbone: Backbone,
        study: Study,
        plugins: Mapping[str, LoadedPlugin],
        *,
        maps: Maps,
        sizer: BatchSizer,
        together: bool | None,
        progress: Progressing,
    ) -> None:
        self._backbone, self._study, self._plugins = backbone, study, plugins
        self._maps = _maps_of(backbone, maps)
        self._sizer, self._together, self._progress = sizer, together, progress
        self._slices: dict[str, Slices] = {}
        self._room = Room(TAIL_BYTES)
        self._lanes = {
            name: [{v.name: Lane(n, v, self._maps, self._room) for v in plugin.spec.views} for n in plugin.networks]
            for name, plugin in plugins.items()
        }
        self._seconds = {"preprocessing_s": 0.0, "network_s": 0.0}

    def run(self, provenance: Mapping[str, Any]) -> dict[str, Prediction]:
        """The answer of each plugin; `provenance` holds what is the same for all."""
        for plugin in self._plugins.values():
            self._check_overlap(plugin.spec)
        waiting = {name: self._keys(plugin.spec) for name, plugin in self._plugins.items()}
        answers: dict[str, Prediction] = {}
        groups = self._lanes_by_key()
        for key in list(groups):
            # Taken out, so that what lanes hold goes with their plugin's answer.
            self._stream(key, groups.pop(key))
            for name in [name for name, keys in waiting.items() if set(keys.values()) <= set(self._slices)]:
                answers[name] = self._answer(name, waiting.pop(name), provenance)
            needed = {key for keys in waiting.values() for key in keys.values()}
            # Slices of a study can be larger than anything else here.
            self._slices = {key: slices for key, slices in self._slices.items() if key in needed}
        return {name: answers[name] for name in self._plugins}

    def _check_overlap(self, spec: PluginSpec) -> None:
        for first, second in itertools.combinations(spec.sources, 2):
            a, b = self._study.image(first), self._study.image(second)
            if not boxes_overlap(a.corners(), b.corners()):
                raise InputError(
                    f"The images '{first}' and '{second}' do not overlap in space: give two series of one study."
                )

    def _keys(self, spec: PluginSpec) -> dict[str, str]:
        return {view.name: _key(view) for view in spec.views}

    def _lanes_by_key(self) -> dict[str, list[Lane]]:
        """Lanes that look at the same slices, in the order in which plugins ask for them."""
        groups: dict[str, list[Lane]] = {}
        for members in self._lanes.values():
            for lane in (lane for lanes in members for lane in lanes.values()):
                groups.setdefault(_key(lane.view), []).append(lane)
        return groups

    def _cut(self, view: ViewSpec) -> Slices:
        started = time.perf_counter()
        self._progress.report(f"Cutting slices: {view.name}", 0, 1)
        image, region = self._study.image(view.source), self._study.region_for(view)
        try:
            slices = preprocess(image, view.preprocessing, region=region)
        except MemoryError as error:
            raise MemoryShortage(
                f"The slices of view '{view.name}' need more memory than there is: close other programs, or give a "
                "smaller region."
            ) from error
        self._progress.report(f"Cutting slices: {view.name}", 1, 1)
        self._seconds["preprocessing_s"] += time.perf_counter() - started
        return slices

    def _stream(self, key: str, lanes: list[Lane]) -> None:
        self._slices[key] = slices = self._cut(lanes[0].view)
        started = time.perf_counter()
        names = ", ".join(dict.fromkeys(lane.view.name for lane in lanes))
        report = self._counting(f"Classifying: {names}", len(slices.array) * len(lanes))
        together = self._together
        if together is None:
            # More slices fill a GPU by themselves, and merged adapters then cost less.
            together = self._backbone.device.type == "cuda" and len(slices.array) <= FEW_SLICES
        stream = Stream(self._backbone, slices, self._sizer, together=together, report=report)
        stream.run(lanes)
        self._seconds["network_s"] += time.perf_counter() - started

    def _counting(self, step: str, total: int) -> Callable[[int], None]:
        done = 0

        def report(count: int) -> None:
            nonlocal done
            # A batch that did not fit in memory is begun again.
            done = min(total, done + count)
            self._progress.report(step, done, total)

        report(0)
        return report

    def _answer(self, name: str, keys: Mapping[str, str], provenance: Mapping[str, Any]) -> Prediction:
        started = time.perf_counter()
        plugin = self._plugins[name]
        slices = {view: self._slices[key] for view, key in keys.items()}
        members = zip(plugin.networks, self._lanes.pop(name), strict=True)
        answers = [self._member(network, lanes, slices) for network, lanes in members]
        self._seconds["network_s"] += time.perf_counter() - started
        own = {
            "plugin_digest": plugin.digest,
            "preprocessing": {v.name: v.preprocessing.to_dict() for v in plugin.spec.views},
            "timings": {
                **{what: round(seconds, 3) for what, seconds in self._seconds.items()},
                "plugins_in_call": len(self._plugins),
            },
        }
        remarks = remarks_on(plugin.spec, self._study)
        return predicted(plugin.spec, answers, slices, {**provenance, **own}, remarks=remarks)

    def _member(self, network: PluginNetwork, lanes: dict[str, Lane], slices: dict[str, Slices]) -> MemberAnswer:
        embeddings = {view: lane.embeddings for view, lane in lanes.items()}
        with torch.no_grad():
            fused = network.fuse({view: tensor[None] for view, tensor in embeddings.items()})
            # A fusion can pass over a bad slice, but its answer would not be that of the whole study.
            if not all(torch.isfinite(tensor).all() for tensor in (*embeddings.values(), fused.logits)):
                raise NotFinite("The network gave values that are not finite.")
            probabilities = network.probabilities(fused.logits)[0].cpu().numpy()
        weights = {view: w[0].float().cpu() for view, w in fused.slice_weights.items()}
        view_weights = dict(zip(lanes, fused.view_weights[0].tolist(), strict=True))
        maps = None
        if self._maps != "none":
            maps = self._member_maps(network, lanes, slices, embeddings, weights, view_weights)
        beyond = None if network.density is None else network.is_beyond(embeddings)
        return MemberAnswer(probabilities, weights, view_weights, maps, beyond)

    def _member_maps(
        self,
        network: PluginNetwork,
        lanes: dict[str, Lane],
        slices: dict[str, Slices],
        embeddings: dict[str, Tensor],
        weights: dict[str, Tensor],
        view_weights: dict[str, float],
    ) -> dict[str, RelevanceMap]:
        contributions = self._contributions(network, lanes, slices, embeddings) if self._maps == "all" else {}
        rows = {view: lane.attention_rows for view, lane in lanes.items() if lane.attention}
        # Gradients can go past the range of 16 bits where the answer itself does not.
        if not all(torch.isfinite(tensor).all() for tensor in (*contributions.values(), *rows.values())):
            raise NotFinite("The network gave maps that are not finite.")
        grids = {view: tuple(maps.shape[-2:]) for view, maps in (contributions or rows).items()}
        inside = {view: patches_inside(slices[view], grid) for view, grid in grids.items()}
        classes = class_density(contributions, inside) if contributions else {}
        attention = attention_density(rows, weights, view_weights, inside) if rows else {}
        return {
            view: RelevanceMap(attention.get(view), classes.get(view), slices[view].patch_affine(grid))
            for view, grid in grids.items()
        }

    def _contributions(
        self,
        network: PluginNetwork,
        lanes: dict[str, Lane],
        slices: dict[str, Slices],
        embeddings: dict[str, Tensor],
    ) -> dict[str, Tensor]:
        gradients = logit_gradients(network, embeddings)
        found = {}
        for view, lane in lanes.items():
            maps = lane.contributions(gradients[view])
            if maps is None:
                report = self._counting(f"Explaining: {view}", len(slices[view].array))
                stream = Stream(self._backbone, slices[view], self._sizer, together=False, report=report)
                maps = stream.again(lane, gradients[view])
            found[view] = maps
        return found


def _key(view: ViewSpec) -> str:
    """The same for views that see the same slices."""
    return json.dumps([view.source, view.preprocessing.to_dict()], sort_keys=True)


def _maps_of(backbone: Backbone, wanted: Maps) -> Maps:
    """What of the wanted maps this backbone can give."""
    possible = backbone.has_class_attention if wanted == "attention" else backbone.explains
    return wanted if possible else "none"
