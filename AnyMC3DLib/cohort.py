"""Many studies, one or many processes: each case is classified for itself, and what is done stays done.

Processes do not talk to each other: each takes its share of the cases and writes its own files, so that the death of
one stops none of the others, and running again finishes what is left.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Literal

from . import __version__
from .classifier import Classifier
from .errors import AnyMC3DError, Cancelled, InputError, PluginError
from .files import check_writable
from .heatmap import heatmap
from .ledger import RESULTS, CaseRecord, Ledger
from .manifest import CohortCase, check_cases
from .memory import is_out_of_memory
from .prediction import Prediction, Study
from .progress import Progress, ProgressCallback
from .volume import write_volume
from .wording import without_paths

logger = logging.getLogger(__name__)

AHEAD = 2  # studies that are read while another computes
PAPERS_MAP = "attention"
STEP = "Classifying cases"
NO_MEMORY = "The memory is not enough for this study: close other programs, or use the CPU."


@dataclasses.dataclass(frozen=True)
class Share:
    """Which cases a process takes: every `count`-th, from the one of number `index`."""

    index: int = 0
    count: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.index < self.count:
            raise InputError(f"There is no process {self.index} of {self.count}: they count from 0, correct the RANK.")

    def __str__(self) -> str:
        return f"{self.index + 1} of {self.count}"


EVERY_CASE = Share()


@dataclasses.dataclass(frozen=True)
class CohortResult:
    """The cases of a process's share: those done now, those skipped since they were done before, those that failed."""

    done: tuple[str, ...]
    skipped: tuple[str, ...]
    failed: tuple[str, ...]


def share_of_environment(environment: Mapping[str, str] = os.environ) -> Share:
    """The share that torchrun or `accelerate launch` gives to this process in RANK and WORLD_SIZE; else all cases.

    Raises InputError if they are no such numbers.
    """
    try:
        count = int(environment.get("WORLD_SIZE", "1"))
        return Share(int(environment.get("RANK", "0")), count) if count > 1 else EVERY_CASE
    except ValueError as error:
        raise InputError("RANK and WORLD_SIZE must be whole numbers: start with torchrun, or without them.") from error


def classify_cohort(
    engine: Classifier,
    cases: Sequence[CohortCase],
    out: str | Path,
    *,
    maps: Literal["none", "attention", "all"] = "none",
    plugins: Sequence[str] | None = None,
    heatmaps: bool = False,
    heatmap_class: str | None = None,
    progress: ProgressCallback | None = None,
    cancelled: Callable[[], bool] | None = None,
    share: Share = EVERY_CASE,
) -> CohortResult:
    """Classify each case of this process's share with the plugins (all that are loaded, or those named).

    Into the folder `out` go `cases/CASE.json` as each case ends, and at the end `results.csv` (a line for each case,
    plugin and class, in the order of `cases`) and `failures.csv`. A case that was done before with the same plugins,
    files and options is skipped; one that failed is tried again. A case that cannot be classified is recorded as
    failed with a sentence, and the others go on.

    With `heatmaps` come `heatmaps/CASE/PLUGIN-CLASS.nrrd` on the grid of the plugin's first image: of each class
    decided for that reaches its threshold, or of `heatmap_class` alone; 'attention' gives the paper's map, of every
    case.

    Raises InputError or PluginError before any work for what no case can be classified with, InputError if `out`
    cannot be written to, and Cancelled within one batch of slices once `cancelled` says so; what was done then stays.
    """
    place = Path(out)
    names = list(engine.plugins) if plugins is None else list(dict.fromkeys(plugins))
    check_cases(cases)
    unknown = [name for name in names if name not in engine.plugins]
    if unknown or not names:
        raise PluginError(f"The plugin '{''.join(unknown[:1])}' is not loaded: load its file first.")
    if heatmaps:
        maps = _maps_for(engine, names, heatmap_class)
    run = _digest_of_run(engine, names, [maps, heatmaps, heatmap_class])
    check_writable(place / RESULTS)
    specs = {name: engine.plugins[name] for name in names}
    work = _Work(
        engine=engine,
        ledger=Ledger(place, run=run, plugins=specs, cases=[case.id for case in cases]),
        names=names,
        maps=maps,
        heatmaps=heatmaps,
        heatmap_class=heatmap_class,
        cancelled=cancelled or (lambda: False),
        process=str(share),
    )
    return work.run(cases[share.index :: share.count], progress or (lambda _: None))


def check_heatmap_class(class_name: str | None, plugins: Sequence[Sequence[str]]) -> None:
    """Raise InputError unless one of the plugins, given as the classes each explains, has such a heatmap."""
    classes = list(dict.fromkeys(name for explained in plugins for name in explained))
    if class_name not in (None, PAPERS_MAP, *classes):
        raise InputError(
            f"There is no heatmap of a class '{class_name}': choose {', '.join(classes)}, or '{PAPERS_MAP}' for where "
            "the network looked."
        )


def _maps_for(engine: Classifier, names: Sequence[str], class_name: str | None) -> Literal["attention", "all"]:
    backbone = engine.backbone
    if not (backbone.has_class_attention if class_name == PAPERS_MAP else backbone.explains):
        raise InputError(f"'{backbone.id}' does not tell where it looked: classify without heatmaps.")
    check_heatmap_class(class_name, [engine.plugins[name].explained for name in names])
    return "attention" if class_name == PAPERS_MAP else "all"


def _digest_of_run(engine: Classifier, names: Sequence[str], options: Sequence[object]) -> str:
    """A digest of all that an answer comes from, but the case."""
    digests = {name: engine.digest(name) for name in names}
    without = [name for name, digest in digests.items() if not digest]
    if without:
        raise PluginError(f"The plugin '{without[0]}' has no file to know it by: save it, and load the file.")
    backbone = engine.backbone
    network = backbone.architecture.network if backbone.architecture is not None else backbone.model_args
    question = [__version__, digests, backbone.id, backbone.digest, network, engine.precision, *options]
    return "sha256:" + hashlib.sha256(json.dumps(question, sort_keys=True).encode()).hexdigest()


@dataclasses.dataclass(frozen=True)
class _Read:
    """A case that was read ahead: its study, or why there is none; neither where it was done before."""

    case: CohortCase
    inputs: str
    study: Study | None = None
    error: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Work:
    """What is the same for all cases of a process."""

    engine: Classifier
    ledger: Ledger
    names: list[str]
    maps: str
    heatmaps: bool
    heatmap_class: str | None
    cancelled: Callable[[], bool]
    process: str

    def run(self, cases: Sequence[CohortCase], progress: ProgressCallback) -> CohortResult:
        ended: dict[str, list[str]] = {"done": [], "skipped": [], "failed": []}
        progress(Progress(STEP, 0, len(cases)))
        try:
            with contextlib.closing(_read_ahead(cases, self._read)) as entries:
                for entry in entries:
                    if self.cancelled():
                        raise Cancelled("The work was cancelled.")
                    ended[self._finish(entry)].append(entry.case.id)
                    del entry  # its study goes before the next one comes
                    progress(Progress(STEP, sum(map(len, ended.values())), len(cases)))
        finally:
            self.ledger.write_tables()
        return CohortResult(**{status: tuple(names) for status, names in ended.items()})

    def _read(self, case: CohortCase) -> _Read:
        inputs = case.inputs()
        if self.ledger.is_done(case.id, inputs):
            return _Read(case, inputs)
        try:
            return _Read(case, inputs, study=case.load())
        except Exception as error:  # as in _finish
            return _Read(case, inputs, error=_sentence(error, case))

    def _finish(self, entry: _Read) -> Literal["done", "skipped", "failed"]:
        """Classify a case and write what came of it; returns how it ended."""
        if entry.study is None and not entry.error:
            return "skipped"
        case = entry.case.id
        answer = CaseRecord(
            case=case, status="done", run=self.ledger.run, inputs=entry.inputs, process=self.process, error=entry.error
        )
        self.ledger.remove_heatmaps(case)
        if entry.study is not None:
            try:
                self.ledger.write(case, self._classified(answer, entry.study).to_text())
                return "done"
            except Cancelled:
                raise
            except Exception as error:  # one bad case is not the end of the others
                answer = dataclasses.replace(answer, error=_sentence(error, entry.case))
                self.ledger.remove_heatmaps(case)
        self.ledger.write(case, dataclasses.replace(answer, status="failed").to_text())
        return "failed"

    def _classified(self, record: CaseRecord, study: Study) -> CaseRecord:
        predictions = self.engine.classify(study, plugins=self.names, maps=self.maps, cancelled=self.cancelled)
        written = []
        for name in self.names if self.heatmaps else ():
            for class_name in self._shown_classes(predictions[name]):
                place = self.ledger.heatmap_place(record.case, name, class_name)
                grid = study.image(predictions[name].spec.sources[0])
                write_volume(place, heatmap(predictions[name], grid, class_name=class_name))
                written.append(place.name)
        answers = {name: without_paths(predictions[name].to_dict()) for name in self.names}
        return dataclasses.replace(record, predictions=answers, heatmaps=tuple(written))

    def _shown_classes(self, prediction: Prediction) -> list[str | None]:
        if self.heatmap_class == PAPERS_MAP:
            return [None]
        # It loads matplotlib, which a cohort without heatmaps has no need of.
        from .picture import heat_is_shown

        return [
            name
            for name in prediction.spec.explained
            if self.heatmap_class in (None, name) and prediction.decisions[name] and heat_is_shown(prediction, name)
        ]


def _read_ahead(cases: Sequence[CohortCase], read: Callable[[CohortCase], _Read]) -> Iterator[_Read]:
    """Each case as `read` gives it, in order; AHEAD of them are read in another thread while one is worked on."""
    waiting: collections.deque[Future[_Read]] = collections.deque()
    pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="reading")
    try:
        for case in cases:
            if len(waiting) > AHEAD:
                yield waiting.popleft().result()
            waiting.append(pool.submit(read, case))
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _sentence(error: Exception, case: CohortCase) -> str:
    """Why a case failed, without the names of files and folders, which may hold a patient's."""
    logger.info("The case '%s' failed.", case.id, exc_info=error)
    if isinstance(error, AnyMC3DError):
        return without_paths(case.without_files(str(error)))
    if is_out_of_memory(error):
        return NO_MEMORY
    if isinstance(error, OSError):
        return f"The system refused to read or write a file: {error.strerror or type(error).__name__}."
    return f"The case failed unexpectedly ({type(error).__name__}): run again with --verbose to see where."
