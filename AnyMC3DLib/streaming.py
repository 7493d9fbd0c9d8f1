"""The slices of one view through the backbone, for every plugin that looks at them.

A lane is one view of one member of a plugin. Slices go in batches; what lies before a lane's first adapted block is
run once for all lanes. Behind it each lane runs with its adapter merged into the weights, or, on a GPU, lanes run
side by side as rows of one batch.
"""

from __future__ import annotations

import dataclasses
import itertools
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Literal, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from .attention import AttentionTail
from .backbone import Backbone, Tail
from .entrances import Stage
from .feeding import Feeder
from .lora import Rows
from .memory import BatchSizer, is_out_of_memory, release_memory, synchronise
from .model import PluginNetwork
from .preprocessing import Slices
from .relevance import SpannedMaps, tail_contributions, tail_products
from .spec import ViewSpec

logger = logging.getLogger(__name__)

Maps = Literal["none", "attention", "all"]
Result = TypeVar("Result")
# Feature maps of CNNs are kept for class maps up to this size in a job; past it slices are encoded a second time.
TAIL_BYTES = 512 << 20


@dataclasses.dataclass
class Room:
    """How many bytes are left in a job for tails that wait until class maps are made of them."""

    bytes: int

    def take(self, tail: Tail, width: int) -> bool:
        """Whether a tail of embeddings of `width` features may be kept; once one may not, none may."""
        wanted = tail.leaf.numel() * tail.leaf.element_size()
        if isinstance(tail, AttentionTail):
            # It holds the values of all tokens beside the row.
            wanted += len(tail.leaf) * tail.leaf.shape[-1] * width * tail.leaf.element_size()
        fits = wanted <= self.bytes
        self.bytes = self.bytes - wanted if fits else 0
        return fits


class Lane:
    """One view of one network, and what is gathered of its slices."""

    def __init__(self, network: PluginNetwork, view: ViewSpec, maps: Maps, room: Room) -> None:
        self.network, self.view, self.maps = network, view, maps
        self.key = network.adapter_key(view.name)
        self._room = room
        self._embeddings: list[Tensor] = []
        self._attention: list[Tensor] = []
        self._tails: list[Tail] | None = []
        span = network.gradient_span(view.name) if maps == "all" and network.backbone.has_class_attention else None
        self.spanned = SpannedMaps(span) if span is not None else None

    @property
    def attention(self) -> bool:
        """Whether the paper's map is wanted and can be had."""
        return self.maps != "none" and self.network.backbone.has_class_attention

    @property
    def tail(self) -> bool:
        """Whether class maps are wanted."""
        return self.maps == "all"

    @property
    def can_join(self) -> bool:
        """Whether it can be rows of a batch with other lanes: not where each batch's tail must be kept."""
        return self.maps != "all" or self.spanned is not None

    def entrance(self) -> int:
        """The unit of the backbone before which nothing of this lane acts."""
        adapter = self.network.adapters[self.view.name] if self.key else None
        return self.network.backbone.entrance(adapter.layers if adapter else [])

    @contextmanager
    def merged(self) -> Iterator[None]:
        """Within the block the backbone's weights hold this lane's adapter."""
        sites = self.network.backbone.sites
        with sites.merged(self.key) if self.key else nullcontext():
            yield

    def add(self, part: LanePart) -> None:
        """Keep what a batch of slices gave."""
        self._embeddings.append(part.embedding)
        if part.attention is not None:
            self._attention.append(part.attention)
        if part.products is not None:
            self.spanned.add(part.products)
        if part.tail is not None and self._tails is not None:
            if self._room.take(part.tail, part.embedding.shape[1]):
                self._tails.append(part.tail)
            else:
                self._tails = None

    @property
    def embeddings(self) -> Tensor:
        """All slice embeddings [S, D]."""
        return torch.cat(self._embeddings)

    @property
    def attention_rows(self) -> Tensor:
        """The class attention of all slices [S, h, w]."""
        return torch.cat(self._attention)

    def contributions(self, gradients: Tensor) -> Tensor | None:
        """For and against per patch [2, K, S, h, w] for gradients [K, S, D]; None if slices must be encoded again."""
        if self.spanned is not None:
            return self.spanned.contributions(gradients)
        if self._tails is None:
            return None
        parts = gradients.split([len(tail.leaf) for tail in self._tails], dim=1)
        with self.merged():
            maps = [tail_contributions(tail, part) for tail, part in zip(self._tails, parts, strict=True)]
        return torch.cat(maps, dim=2)


@dataclasses.dataclass(frozen=True)
class LanePart:
    """What a batch of slices gave to a lane."""

    embedding: Tensor
    attention: Tensor | None
    products: Tensor | None
    tail: Tail | None


class Stream:
    """Batches of one view's slices through the backbone.

    `report` is told how many slices have passed a lane, after each lane of each batch; it may raise to end the work.
    """

    def __init__(
        self, backbone: Backbone, slices: Slices, sizer: BatchSizer, *, together: bool, report: Callable[[int], None]
    ) -> None:
        self._backbone, self._sizer, self._together, self._report = backbone, sizer, together, report
        self._count, _, self._height, self._width = slices.array.shape
        self._feeder = Feeder(slices.array, backbone.device)
        self._slowest = 0.0

    def run(self, lanes: Sequence[Lane]) -> None:
        """Take all slices through all lanes."""
        ordered = sorted(lanes, key=Lane.entrance)
        groups = {entrance: list(group) for entrance, group in itertools.groupby(ordered, key=Lane.entrance)}
        if not self._together:
            # Nothing is shared before the first unit, so each of these lanes goes through by itself, merged once.
            for lane in groups.pop(0, []):
                self._run_groups({0: [lane]})
        if groups:
            self._run_groups(groups)

    def _run_groups(self, groups: Mapping[int, list[Lane]]) -> None:
        lanes = [lane for group in groups.values() for lane in group]
        alone = len(lanes) == 1

        def passing(batch: Tensor, _: int) -> list[tuple[Lane, LanePart]]:
            return [part for group in self._entering(batch, groups) for part in self._lanes(*group, merged=alone)]

        # A lane that is alone stays merged; several take turns, batch by batch, in the memory of one.
        with lanes[0].merged() if alone else nullcontext():
            side_by_side = [len(group) for group in groups.values() if all(lane.can_join for lane in group)]
            for parts in self._batches(passing, most_lanes=max(side_by_side, default=1)):
                for lane, part in parts:
                    lane.add(part)

    def again(self, lane: Lane, gradients: Tensor) -> Tensor:
        """Encode the slices once more: what patches contribute [2, K, S, h, w] for gradients [K, S, D]."""

        def explaining(batch: Tensor, first: int) -> Tensor:
            started = time.perf_counter()
            with torch.no_grad():
                tail = self._backbone.encode_from(self._begin(batch, lane), tail=True).tail
            maps = tail_contributions(tail, gradients[:, first : first + len(batch)]).cpu()
            self._passed(len(batch), started)
            return maps

        with lane.merged():
            return torch.cat(list(self._batches(explaining)), dim=2)

    def _batches(self, work: Callable[[Tensor, int], Result], *, most_lanes: int = 1) -> Iterator[Result]:
        first = 0
        while first < self._count:
            # Lanes side by side share the room of a batch.
            lanes = most_lanes if self._together else 1
            count = min(max(1, self._sizer.size(self._height, self._width) // lanes), self._count - first)
            self._slowest = 0.0
            result = self._try(work, first, count, lanes)
            if result is not None:
                yield result
                first += count
                self._sizer.measured(count * lanes, self._height * self._width, self._slowest)

    def _try(self, work: Callable[[Tensor, int], Result], first: int, count: int, lanes: int) -> Result | None:
        """The work on a batch; None where memory did not suffice and less at once can be tried."""
        try:
            batch = self._feeder.batch(first, count)
            self._feeder.copy_ahead(first + count, count)
            return work(batch, first)
        except Exception as error:
            if not is_out_of_memory(error) or not self._sizer.halve(count * lanes):
                raise
        # Past the handler, where nothing holds the frames of the failed batch any more.
        if count == 1:
            self._together = False
        release_memory(self._backbone.device)
        logger.warning("A batch of %d slices did not fit in memory; smaller ones are tried.", count * lanes)
        return None

    def _begin(self, batch: Tensor, lane: Lane) -> Stage:
        return self._backbone.begin(batch, mean=lane.view.preprocessing.mean, std=lane.view.preprocessing.std)

    @torch.no_grad()
    def _entering(self, batch: Tensor, groups: Mapping[int, list[Lane]]) -> Iterator[tuple[Stage, list[Lane]]]:
        """The batch at the entrance of each group of lanes, taken from one entrance to the next."""
        stage = self._begin(batch, next(iter(groups.values()))[0])
        for entrance, lanes in groups.items():
            if entrance > stage.at:
                started = time.perf_counter()
                stage = self._backbone.advance(stage, entrance)
                self._passed(0, started)
            yield stage, lanes

    def _lanes(self, stage: Stage, lanes: list[Lane], *, merged: bool) -> list[tuple[Lane, LanePart]]:
        if self._together and len(lanes) > 1 and all(lane.can_join for lane in lanes):
            return self._side_by_side(stage, lanes)
        parts = []
        for lane in lanes:
            started = time.perf_counter()
            with nullcontext() if merged else lane.merged():
                parts.append((lane, self._one(stage, lane)))
            self._passed(len(stage.x), started)
        return parts

    @torch.no_grad()
    def _one(self, stage: Stage, lane: Lane) -> LanePart:
        encoded = self._backbone.encode_from(stage, attention=lane.attention, tail=lane.tail)
        attention = encoded.attention.cpu() if lane.attention else None
        if lane.spanned is None:
            return LanePart(encoded.embedding.float(), attention, None, encoded.tail)
        directions = lane.spanned.directions(len(stage.x), encoded.embedding.device)
        return LanePart(encoded.embedding.float(), attention, tail_products(encoded.tail, directions).cpu(), None)

    @torch.no_grad()
    def _side_by_side(self, stage: Stage, lanes: list[Lane]) -> list[tuple[Lane, LanePart]]:
        started = time.perf_counter()
        count = len(stage.x)
        rows = [Rows(lane.key, n * count, (n + 1) * count) for n, lane in enumerate(lanes) if lane.key]
        encoded = self._backbone.encode_from(
            repeated(stage, len(lanes)),
            adapters=rows,
            attention=any(lane.attention for lane in lanes),
            tail=any(lane.tail for lane in lanes),
        )
        products: list[Tensor | None] = [None] * len(lanes)
        if encoded.tail is not None:
            device = encoded.embedding.device
            directions = _stacked([lane.spanned.directions(count, device) for lane in lanes])
            products = list(tail_products(encoded.tail, directions).cpu().split(count, dim=1))
        embeddings = encoded.embedding.float().split(count)
        attention = encoded.attention.cpu().split(count) if encoded.attention is not None else [None] * len(lanes)
        self._passed(count * len(lanes), started)
        parts = zip(embeddings, attention, products, strict=True)
        return [(lane, LanePart(*part, None)) for lane, part in zip(lanes, parts, strict=True)]

    def _passed(self, slices: int, started: float) -> None:
        synchronise(self._backbone.device)
        self._slowest = max(self._slowest, time.perf_counter() - started)
        self._report(slices)


def repeated(stage: Stage, times: int) -> Stage:
    """The same slices `times` times over in one batch, at the same place."""

    def over(tensor: Tensor) -> Tensor:
        return tensor.repeat(times, *[1] * (tensor.ndim - 1))

    def shape_over(tensor: Tensor) -> Tensor:
        return tensor.new_zeros(()).expand(times * len(tensor), *tensor.shape[1:])

    if stage.values is None:
        return Stage(over(stage.x))
    return Stage(shape_over(stage.x), stage.at, over(stage.values), tuple(map(shape_over, stage.passed)))


def _stacked(directions: Sequence[Tensor]) -> Tensor:
    """Directions [M, B, D] of each lane side by side [most M, lanes * B, D]; where a lane has fewer, zeros."""
    most = max(len(d) for d in directions)
    return torch.cat([F.pad(d, (0, 0, 0, 0, 0, most - len(d))) for d in directions], dim=1)
