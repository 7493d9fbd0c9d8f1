"""One row: trained, tested and measured. A row that was broken off goes on where it stood."""

from __future__ import annotations

import dataclasses
import datetime
import importlib.metadata
import json
import logging
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import torch

from .. import __version__
from ..control import Control
from ..files import write_text
from ..progress import Progress, ProgressCallback
from ..training.cases import Case, of_split
from ..training.feature_cache import FeatureCache
from ..training.run import LIBRARIES, Keeping, Predicted, TrainingResult, train_plugin
from ..training.scores import evaluate
from ..training.slice_cache import SliceCache
from ..training.task import TaskSpec
from ..training.trainer import EpochResult
from .config import RowConfig
from .datasets import Dataset
from .methods import find_method
from .rows import Row, TestPredictions
from .subset import training_share

logger = logging.getLogger(__name__)

SLICES, FEATURES = "slices", "features"
SPENT, NOTE_EVERY_S, LOOK_EVERY_S = "spent.json", 5.0, 0.2


@dataclasses.dataclass(frozen=True)
class Means:
    """What rows are computed with: where they are kept while they are not done, where slices (at most `cache_gb`) and
    frozen embeddings are kept, the device, and the file of a 3D network's weights."""

    working: Path
    cache: Path | None = None
    cache_gb: float = 20.0
    device: str = "cpu"
    weights: Path | None = None

    @property
    def slices(self) -> SliceCache | None:
        """The cache of slices."""
        if self.cache is None:
            return None
        return SliceCache(self.cache / SLICES, max_bytes=int(self.cache_gb * (1 << 30)))


@dataclasses.dataclass(frozen=True)
class RowResult:
    """A row and what its model said of the test cases; nothing where it failed."""

    row: Row
    predictions: TestPredictions | None


def compute_row(
    config: RowConfig,
    dataset: Dataset,
    means: Means,
    *,
    progress: ProgressCallback | None = None,
    control: Control | None = None,
) -> RowResult:
    """Train and test what `config` says; raises an AnyMC3DError with the reason if that cannot be done.

    The test cases are looked at once, at the end. Raises Cancelled where `control` asks for it; what was reached is
    then in the working folder.
    """
    control = control or Control()
    method = find_method(config.method)
    task = method.task(dataset.task, config)
    backbone = method.backbone(config, weights=means.weights).to(means.device)
    cases = _cases_of(dataset, config)
    place = means.working / config.key
    clock = _Clock(place / SPENT, budget_minutes=config.budget_minutes, control=control, progress=progress)
    features = FeatureCache(means.cache and means.cache / FEATURES)
    with _memory_watched() as peak:
        result = train_plugin(
            task, cases, backbone, None, test_splits=("test",), progress=clock, control=control,
            keeping=Keeping(place, resume=True, every_s=60), cache=means.slices, features=features,
            build=method.build(task, config), on_epoch=clock.epoch_done, scope=False,
        )  # fmt: skip
    clock.note()
    row = Row(
        key=config.key,
        config=config,
        status="done",
        cut=_cut(config, result, task),
        test=_figures(result, result.test),
        validation=_figures(result, result.validation),
        parameters=result.parameters,
        cases={name: sum(case.split == name for case in cases) for name in ("train", "val", "test")},
        minutes=round(clock.minutes, 3),
        processor_minutes=round(clock.processor_minutes, 3),
        threads=torch.get_num_threads(),
        peak_mb=peak[0] >> 20,
        epochs=_done(result, task),
        planned=_planned(task),
        reused=round(features.reused, 3),
        device=_device_in_words(means.device),
        date=datetime.datetime.now(datetime.UTC).date().isoformat(),
        versions={"anymc3d": __version__, **{name: importlib.metadata.version(name) for name in LIBRARIES}},
    )
    predicted = result.test
    said = TestPredictions(tuple(predicted.ids), tuple(predicted.patients), predicted.targets, predicted.probabilities)
    return RowResult(row, said)


def forget(working: Path, key: str) -> None:
    """Take away what is kept of a row that is done."""
    shutil.rmtree(working / key, ignore_errors=True)


def _cases_of(dataset: Dataset, config: RowConfig) -> list[Case]:
    cases = list(dataset.cases)
    train = training_share(of_split(cases, ("train",)), config.share, seed=config.seed)
    # All methods are chosen by the same validation cases and measured on the same test cases, whatever the share.
    return [*train, *of_split(cases, ("val",)), *of_split(cases, ("test",))]


def _figures(result: TrainingResult, predicted: Predicted | None) -> dict[str, object]:
    if predicted is None:
        return {}
    return evaluate(result.spec, predicted.targets, predicted.probabilities, patients=predicted.patients).to_dict()


def _planned(task: TaskSpec) -> int:
    recipe = task.training
    return recipe.warm_up_epochs if recipe.method == "frozen" else recipe.epochs


def _done(result: TrainingResult, task: TaskSpec) -> int:
    """The epochs that were done whole."""
    phase = "warm-up" if task.training.method == "frozen" else "training"
    return sum(epoch.phase == phase and epoch.whole for epoch in result.history)


def _cut(config: RowConfig, result: TrainingResult, task: TaskSpec) -> str:
    done, planned = _done(result, task), _planned(task)
    if not result.spec.provenance.get("stopped_early") or done == planned:
        return ""
    return f"The budget of {config.budget_minutes:g} minutes ended the training after {done} of {planned} epochs."


def _device_in_words(device: str | torch.device) -> str:
    kind = torch.device(device)
    return torch.cuda.get_device_name(kind) if kind.type == "cuda" else kind.type


class _Clock:
    """Counts the time of a row over all its sittings, and ends its training when the budget is spent."""

    def __init__(
        self, place: Path, *, budget_minutes: float | None, control: Control, progress: ProgressCallback | None
    ) -> None:
        self._place, self._budget, self._control, self._progress = place, budget_minutes, control, progress
        self._before, self._has_epoch = _spent(place), False
        self._started, self._processor, self._noted = time.monotonic(), time.process_time(), time.monotonic()

    @property
    def minutes(self) -> float:
        """Wall time."""
        return self._before[0] + (time.monotonic() - self._started) / 60

    @property
    def processor_minutes(self) -> float:
        """Of all threads of the process."""
        return self._before[1] + (time.process_time() - self._processor) / 60

    def __call__(self, step: Progress) -> None:
        if self._progress is not None:
            self._progress(step)
        # Stopped before its first epoch is done, a training has nothing to show.
        if self._budget is not None and self._has_epoch and self.minutes > self._budget:
            self._control.stop()
        if time.monotonic() - self._noted > NOTE_EVERY_S:
            self.note()

    def epoch_done(self, _: EpochResult) -> None:
        """There is something to keep."""
        self._has_epoch = True

    def note(self) -> None:
        """Write down what was spent, for a sitting after this one."""
        self._noted = time.monotonic()
        write_text(self._place, json.dumps([self.minutes, self.processor_minutes]))


def _spent(place: Path) -> tuple[float, float]:
    try:
        minutes, processor = json.loads(place.read_text(encoding="utf-8"))
        return float(minutes), float(processor)
    except (OSError, ValueError, TypeError):
        return 0.0, 0.0


@contextmanager
def _memory_watched() -> Iterator[list[int]]:
    """The most bytes that the process held during the block, looked at several times a second."""
    process, done = psutil.Process(), threading.Event()
    peak = [process.memory_info().rss]

    def watch() -> None:
        while not done.wait(LOOK_EVERY_S):
            peak[0] = max(peak[0], process.memory_info().rss)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield peak
    finally:
        done.set()
        thread.join()
