"""What the Classify button does: load the ticked plugins, hand the images over, classify; later render a class.

No MRML here: images come as arrays with their affine, answers go out as JSON values and arrays.
"""

from __future__ import annotations

import dataclasses
import enum
import json
import secrets
from collections.abc import Callable, Generator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from AnyMC3DLib.errors import AnyMC3DError, InputError
from AnyMC3DLib.messages import (
    BoxSource,
    Classify,
    ImageSource,
    Point,
    ProgressNote,
    RegionSource,
    Render,
    SegmentSource,
    matrix,
)

from .array_file import read_in_pieces, write_in_pieces
from .loaded_plugins import LoadedPlugins
from .plugin_folder import PluginCard
from .steps import InTurns, Step, Steps
from .steps import Sequence as StepSequence
from .worker_client import WorkerClient
from .worker_steps import Asking, Starting

if TYPE_CHECKING:
    import numpy.typing as npt


class State(enum.Enum):
    """What the session is at."""

    IDLE = "idle"
    STARTING = "starting"
    LOADING = "loading"
    HANDING_OVER = "handing over"
    CLASSIFYING = "classifying"


class Image(Protocol):
    """Voxels [k, j, i], or colours [k, j, i, 3], and the affine from (i, j, k) to RAS."""

    array: npt.NDArray
    ijk_to_ras: Sequence[Sequence[float]]


class Box(Protocol):
    """A region that is a box in RAS millimetres."""

    low: Point
    high: Point


class Labels(Image, Protocol):
    """A region that is the voxels of a label; all but 0 where it is None."""

    label: int | None


@dataclasses.dataclass(frozen=True)
class Ticked:
    """A plugin to classify with, and what it shall look at, by the name of the plugin's source."""

    card: PluginCard
    images: Mapping[str, Image]
    regions: Mapping[str, Box | Labels] = dataclasses.field(default_factory=dict)
    weights: str | None = None


@dataclasses.dataclass(frozen=True)
class Doing:
    """The step in words, and how much of it is done, None where that is not known."""

    words: str
    fraction: float | None = None


class Listener(Protocol):
    """Who is told what becomes of a classification: after `changed` to idle comes one of the last three, once."""

    def changed(self, state: State) -> None:
        """The session is at something else now."""

    def progressed(self, doing: Doing) -> None:
        """The step goes on, or another begins."""

    def finished(self, predictions: Mapping[str, Mapping[str, Any]]) -> None:
        """The answers of the plugins, by name, in the order of the ticks."""

    def failed(self, sentence: str) -> None:
        """It did not work, and this says why."""

    def cancelled(self) -> None:
        """It was cancelled."""


class ClassifySession:
    """One classification at a time on one worker. Calls return at once; the listener is told the rest."""

    def __init__(self, client: WorkerClient, listener: Listener, *, device: str = "auto") -> None:
        self.device = device
        self._client, self._listener = client, listener
        self._plugins = LoadedPlugins.of(client)
        self._state = State.IDLE
        self._run: StepSequence | None = None
        self._rendering: StepSequence | None = None
        # By plugin: under which name the worker keeps the answer, and which worker.
        self._jobs: dict[str, tuple[str, int]] = {}

    @property
    def state(self) -> State:
        """What the session is at."""
        return self._state

    @property
    def busy(self) -> bool:
        """Whether a classification goes on."""
        return self._state is not State.IDLE

    def classify(self, ticked: Sequence[Ticked]) -> None:
        """Classify; raises InputError if something is missing, or while the worker has another study."""
        check(ticked)
        self._plugins.take(self)
        self._client.watch(self._worker_died)
        steps = self._classifying(tuple(ticked))
        self._run = StepSequence(steps, done=self._finished, failed=self._failed, what="The classification")
        self._run.begin()

    def cancel(self) -> None:
        """End the classification now; the worker stays, and lets its work go within a moment."""
        if not self.busy:
            return
        self._end_run()
        self._listener.cancelled()

    def render(
        self,
        plugin: str,
        class_name: str | None,
        *,
        shape: Sequence[int],
        ijk_to_ras: Sequence[Sequence[float]],
        done: Callable[[npt.NDArray], None],
        failed: Callable[[str], None],
        dtype: str = "float32",
    ) -> None:
        """Give `done` the heatmap of a class of the last answer (None: the paper's map) on a grid [k, j, i].

        What is being rendered already is let go: the last wish counts.
        """
        self.cancel_rendering()
        steps = self._rendered(plugin, class_name, tuple(shape), matrix(ijk_to_ras), dtype)
        self._rendering = StepSequence(steps, done=done, failed=lambda error: failed(str(error)), what="The heatmap")
        self._rendering.begin()

    def cancel_rendering(self) -> None:
        """Let the heatmap go that is being rendered."""
        if self._rendering is not None:
            self._rendering.cancel()
            self._rendering = None

    def let_go(self) -> None:
        """End all work, and tell the listener nothing more of it; the worker stays for others."""
        self.cancel_rendering()
        self._end_run()
        self._jobs.clear()

    def close(self, *, wait_ms: int = 0) -> None:
        """As `let_go`, and end the worker; the session can be used again."""
        self.let_go()
        self._client.close(wait_ms=wait_ms)

    def _classifying(self, ticked: tuple[Ticked, ...]) -> Steps:
        self._begin(State.STARTING, "Starting the engine")
        folder: Path = yield Starting(self._client)
        predictions: dict[str, Any] = {}
        jobs: dict[str, tuple[str, int]] = {}
        for backbone in grouped_by_backbone(ticked):
            yield from self._loading(backbone)
            for group in grouped_by_study(backbone):
                answer = yield from self._answers(group, folder)
                predictions.update(answer["predictions"])
                jobs.update(dict.fromkeys(answer["predictions"], (answer["job"], self._client.starts)))
        self._jobs = jobs
        return {one.card.name: predictions[one.card.name] for one in ticked}

    def _loading(self, ticked: Sequence[Ticked]) -> Steps:
        for step in self._plugins.unload_all_but([one.card for one in ticked], self.device):
            self._begin(State.LOADING, "Making room in memory")
            yield step
        for one in ticked:
            if self._plugins.has(one.card, one.weights, self.device):
                continue
            words = f"Loading {one.card.name}"
            self._begin(State.LOADING, words)
            yield self._plugins.load(one.card, one.weights, self.device, progress=lambda _, w=words: self._tell(w))

    def _answers(self, group: Sequence[Ticked], folder: Path) -> Generator[Step, Any, Mapping[str, Any]]:
        files: list[Path] = []
        asking: Asking | None = None
        try:
            params = yield from self._handed_over(group, folder, files)
            self._begin(State.CLASSIFYING, "Classifying")
            asking = Asking(self._client, "classify", params, progress=self._note)
            return (yield asking)
        finally:
            # Once it is asked, the worker deletes them.
            if asking is None or not asking.begun:
                for file in files:
                    file.unlink(missing_ok=True)

    def _handed_over(self, group: Sequence[Ticked], folder: Path, files: list[Path]) -> Generator[Step, Any, Classify]:
        images = {name: image for one in group for name, image in one.images.items()}
        regions = {name: region for one in group for name, region in one.regions.items()}
        image_sources: dict[str, ImageSource] = {}
        for name, image in images.items():
            place = yield from self._put(image.array, folder, files, f"Handing over {name}")
            image_sources[name] = ImageSource(
                array=str(place), ijk_to_ras=matrix(image.ijk_to_ras), modality=image.modality
            )
        region_sources: dict[str, RegionSource] = {}
        for name, region in regions.items():
            if hasattr(region, "low"):
                region_sources[name] = RegionSource(box=BoxSource(low=region.low, high=region.high))
                continue
            place = yield from self._put(region.array, folder, files, f"Handing over the region in {name}")
            segment = SegmentSource(array=str(place), ijk_to_ras=matrix(region.ijk_to_ras), label=region.label)
            region_sources[name] = RegionSource(segment=segment)
        names = tuple(one.card.name for one in group)
        return Classify(images=image_sources, regions=region_sources, plugins=names)

    def _put(self, array: npt.NDArray, folder: Path, files: list[Path], words: str) -> Generator[Step, Any, Path]:
        self._begin(State.HANDING_OVER, words)
        place = folder / f"{secrets.token_hex(8)}.npy"
        yield InTurns(write_in_pieces(place, array), progress=lambda far: self._tell(words, far))
        files.append(place)
        return place

    def _rendered(
        self, plugin: str, class_name: str | None, shape: tuple[int, ...], ijk_to_ras: Any, dtype: str
    ) -> Steps:
        if plugin not in self._jobs:
            raise InputError(f"There is no answer of '{plugin}' to render: classify the study first.")
        job, start = self._jobs[plugin]
        if start != self._client.starts:
            raise InputError("The engine was started anew since the answer: classify the study again.")
        params = Render(
            job=job, plugin=plugin, class_name=class_name,
            shape=shape, ijk_to_ras=ijk_to_ras, dtype=dtype,
        )  # fmt: skip
        answer = yield Asking(self._client, "render", params)
        return (yield InTurns(read_in_pieces(Path(answer["array"]))))

    def _note(self, note: ProgressNote) -> None:
        counted = f" ({note.done} of {note.total})" if note.total > 1 else ""
        self._tell(note.step + counted, note.done / note.total if note.total > 1 else None)

    def _begin(self, state: State, words: str) -> None:
        if self._state is not state:
            self._state = state
            self._listener.changed(state)
        self._tell(words)

    def _tell(self, words: str, fraction: float | None = None) -> None:
        self._listener.progressed(Doing(words, fraction))

    def _end_run(self) -> None:
        run, self._run = self._run, None
        if run is not None:
            run.cancel()
        self._client.unwatch(self._worker_died)
        self._plugins.give_back(self)
        if self._state is not State.IDLE:
            self._state = State.IDLE
            self._listener.changed(State.IDLE)

    def _finished(self, predictions: Mapping[str, Any]) -> None:
        self._end_run()
        self._listener.finished(predictions)

    def _worker_died(self, reason: AnyMC3DError) -> None:
        # At any other time a request is under way, which fails by itself.
        if self._state is State.HANDING_OVER:
            self._failed(reason)

    def _failed(self, error: AnyMC3DError) -> None:
        self._end_run()
        self._listener.failed(str(error))


def check(ticked: Sequence[Ticked]) -> None:
    """Raise InputError unless there is a plugin, and all images and regions that the plugins need."""
    if not ticked:
        raise InputError("No plugin is ticked: tick at least one.")
    names = [one.card.name for one in ticked]
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"Two of the ticked plugins are called '{name}': tick one of them.")
    for one in ticked:
        for source in one.card.sources:
            if source not in one.images:
                raise InputError(f"The plugin '{one.card.name}' has no volume for '{source}': choose one.")
        for source in one.card.regions:
            if source not in one.regions:
                raise InputError(f"The plugin '{one.card.name}' looks at a region in '{source}': choose one.")


def grouped_by_backbone(ticked: Sequence[Ticked]) -> list[list[Ticked]]:
    """Plugins that share a backbone side by side, in the order of the first of each."""
    groups: dict[Any, list[Ticked]] = {}
    for one in ticked:
        backbone = one.card.backbone
        network = backbone.architecture.network if backbone.architecture is not None else dict(backbone.model_args)
        key = (backbone.id, backbone.digest, json.dumps(network, sort_keys=True), one.weights)
        groups.setdefault(key, []).append(one)
    return list(groups.values())


def grouped_by_study(ticked: Sequence[Ticked]) -> list[list[Ticked]]:
    """Plugins that can share a request: the same name means the same image, or region, to them."""
    groups: list[list[Ticked]] = []
    for one in ticked:
        for group in groups:
            if all(_agree(one.images, other.images) and _agree(one.regions, other.regions) for other in group):
                group.append(one)
                break
        else:
            groups.append([one])
    return groups


def _agree(first: Mapping[str, Any], second: Mapping[str, Any]) -> bool:
    return all(_identity(first[name]) == _identity(second[name]) for name in set(first) & set(second))


def _identity(given: Image | Box | Labels) -> tuple[Any, ...]:
    """Equal for the same voxels of the scene, of which every look at a volume makes another array."""
    if hasattr(given, "low"):
        return (tuple(given.low), tuple(given.high))
    memory = given.array.__array_interface__
    what = (memory["data"], memory["shape"], memory["strides"], memory["typestr"])
    return (*what, matrix(given.ijk_to_ras), getattr(given, "label", None))
