"""What the worker's jobs do: one backbone in memory, its plugins, and the predictions of the last studies."""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import logging
import secrets
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import numpy.typing as npt
import psutil
import torch

from . import worker_training
from .backbone import Backbone
from .classifier import Classifier
from .commands.common import backbone_for, backbone_of_plugin, choose_device
from .control import Control
from .errors import InputError, PluginError
from .heatmap import heatmap
from .identity import fits, is_as_named
from .memory import release_memory
from .messages import Check, Classify, Devices, Estimate, Evaluate, Load, Params, Preview, Render, Train, Unload
from .plugin import read_spec
from .prediction import Prediction
from .preprocessing import preprocess
from .progress import Progress, ProgressCallback
from .protocol import WRONG_STATE, ProtocolError
from .spec import PluginSpec, ViewSpec
from .volume import Volume
from .worker_progress import CheckedNotes, JobNotes
from .worker_study import checked_path, read_study
from .workspace import Workspace

logger = logging.getLogger(__name__)

KEPT_JOBS = 4


class Jobs:
    """Runs the jobs of a worker, one at a time.

    A failed job leaves everything that was loaded as it was. So another backbone is opened beside the old one, which
    goes only once the new one holds its plugin; where memory is short, unloading the plugins first lets the old
    backbone go before.
    """

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace
        self._classifier: Classifier | None = None
        # The file that the backbone's weights came from, where a request named one, as it was then.
        self._weights: _File | None = None
        # Where the backbone was put; for want of memory the engine may move it for a while.
        self._home: torch.device | None = None
        self._predictions: OrderedDict[str, dict[str, Prediction]] = OrderedDict()

    def run(self, params: Params, control: Control, notes: JobNotes) -> dict[str, Any]:
        """The answer to one request; raises Cancelled soon after `control` is cancelled."""
        work = getattr(self, "_" + type(params).__name__.lower())
        try:
            return work(params, control, CheckedNotes(notes, control))
        finally:
            if isinstance(params, (Estimate, Train, Evaluate)):
                # They may have opened a backbone of their own, which hooks keep until the collector comes.
                self.release()

    def release(self) -> None:
        """After a failure: give memory back that nothing uses."""
        gc.collect()
        if self._classifier is not None:
            release_memory(self._classifier.backbone.device)

    def _devices(self, _: Devices, __: Control, ___: ProgressCallback) -> dict[str, Any]:
        return {"devices": _devices_here(), "auto": choose_device("auto").type}

    def _load(self, params: Load, control: Control, _: ProgressCallback) -> dict[str, Any]:
        path = checked_path(params.path)
        spec = read_spec(path)
        # Before the weights are read, so that a file that is replaced meanwhile counts as another.
        file = _File.now(params.weights)
        engine, unloaded = self._engine_for(spec, params.weights, params.device), []
        control.check()
        name = engine.load(path)
        if engine is not self._classifier:
            unloaded = list(self._classifier.plugins) if self._classifier else []
            self._adopt(engine, file)
        backbone = engine.backbone
        return {
            "name": name,
            "backbone": backbone.id,
            "backbone_digest": backbone.digest,
            "device": str(backbone.device),
            "spec": engine.plugins[name].to_dict(),
            "unloaded": unloaded,
        }

    def _unload(self, params: Unload, _: Control, __: ProgressCallback) -> dict[str, Any]:
        self._loaded(params.name).unload(params.name)
        return {}

    def _classify(self, params: Classify, control: Control, progress: ProgressCallback) -> dict[str, Any]:
        engine = self._engine()
        for name in params.plugins or ():
            self._loaded(name)
        progress(Progress("Reading images", 0, 1))
        study = read_study(params)
        predictions = engine.classify(
            study, plugins=params.plugins, maps=params.maps, progress=progress, cancelled=lambda: control.cancelled
        )
        control.check()
        token = secrets.token_hex(8)
        self._predictions[token] = predictions
        while len(self._predictions) > KEPT_JOBS:
            self._predictions.popitem(last=False)
        return {"job": token, "predictions": {name: p.to_dict() for name, p in predictions.items()}}

    def _render(self, params: Render, _: Control, __: ProgressCallback) -> dict[str, Any]:
        predictions = self._predictions.get(params.job)
        if predictions is None:
            raise ProtocolError(WRONG_STATE, f"The job '{params.job}' is not kept any more: classify the study again.")
        if params.plugin not in predictions:
            raise ProtocolError(
                WRONG_STATE, f"The job had no plugin '{params.plugin}', but {', '.join(predictions)}: name one."
            )
        # The heatmap looks at the grid's shape alone, so its voxels need no memory.
        grid = Volume(np.broadcast_to(np.float32(0), params.shape), np.array(params.ijk_to_ras), name="the grid")
        heat = heatmap(predictions[params.plugin], grid, class_name=params.class_name)
        array = np.rint(heat.array * 255).astype(np.uint8) if params.dtype == "uint8" else heat.array
        return {"array": self._write(array), "ijk_to_ras": heat.ijk_to_ras.tolist()}

    def _preview(self, params: Preview, _: Control, progress: ProgressCallback) -> dict[str, Any]:
        view = self._view(params)
        progress(Progress("Reading images", 0, 1))
        study = read_study(params)
        progress(Progress(f"Cutting slices: {view.name}", 0, 1))
        slices = preprocess(study.image(view.source), view.preprocessing, region=study.region_for(view))
        return {
            "array": self._write(slices.array),
            "ijk_to_ras": slices.ijk_to_ras.tolist(),
            "axis": slices.axis,
            "centres": slices.centres.tolist(),
        }

    def _view(self, params: Preview) -> ViewSpec:
        if isinstance(params.view, Mapping):
            return ViewSpec.from_dict(params.view, where="view")
        spec = self._loaded(params.plugin or "").plugins[params.plugin or ""]
        found = [view for view in spec.views if view.name == params.view]
        if not found:
            names = ", ".join(view.name for view in spec.views)
            raise InputError(f"Plugin '{spec.name}' has no view '{params.view}': choose {names}.")
        return found[0]

    def _check(self, params: Check, _: Control, notes: JobNotes) -> dict[str, Any]:
        return worker_training.check(params, notes)

    def _estimate(self, params: Estimate, control: Control, notes: JobNotes) -> dict[str, Any]:
        return worker_training.estimate(params, control, notes, lend=self._lender(params))

    def _train(self, params: Train, control: Control, notes: JobNotes) -> dict[str, Any]:
        return worker_training.train(params, control, notes, lend=self._lender(params))

    def _evaluate(self, params: Evaluate, _: Control, notes: JobNotes) -> dict[str, Any]:
        return worker_training.evaluate(params, notes, lend=self._lender(params))

    def _lender(self, params: Estimate | Train | Evaluate) -> worker_training.Lend:
        def lend(wanted: str | PluginSpec) -> AbstractContextManager[Backbone]:
            if isinstance(wanted, str):
                return _in_float32(self._backbone(wanted, params.weights, params.device))
            return _in_float32(self._engine_for(wanted, params.weights, params.device).backbone)

        return lend

    def _engine(self) -> Classifier:
        if self._classifier is None or not self._classifier.plugins:
            raise ProtocolError(WRONG_STATE, "No plugin is loaded: load one first.")
        return self._classifier

    def _loaded(self, name: str) -> Classifier:
        engine = self._engine()
        if name not in engine.plugins:
            raise PluginError(f"The plugin '{name}' is not loaded: load its file first.")
        return engine

    def _engine_for(self, spec: PluginSpec, weights: str | None, device: str) -> Classifier:
        """The engine in memory where the plugin can run on its backbone, on that device, else a new one."""
        engine = self._classifier
        if engine is not None and self._is_at_home_on(device) and fits(spec, engine.backbone):
            return engine
        return self._opened(spec, weights, device)

    def _backbone(self, name: str, weights: str | None, device: str) -> Backbone:
        """The backbone in memory where it is what that name and those weights stand for now, else a new one."""
        engine = self._classifier
        if engine is not None and engine.backbone.id == name and self._is_at_home_on(device):
            same_file = _File.now(weights) == self._weights
            if same_file and is_as_named(engine.backbone, own_weights=weights is not None):
                return engine.backbone
        return self._opened(name, weights, device).backbone

    def _opened(self, wanted: str | PluginSpec, weights: str | None, device: str) -> Classifier:
        """A new engine, which is kept unless the one in memory has plugins."""
        if self._classifier is not None and not self._classifier.plugins:
            self._drop()
        place, file = None if weights is None else checked_path(weights), _File.now(weights)
        if isinstance(wanted, str):
            backbone = backbone_for(wanted, weights=place, device=device)
        else:
            backbone = backbone_of_plugin(wanted, weights=place, device=device)
        engine = Classifier(backbone)
        if self._classifier is None:
            self._adopt(engine, file)
        return engine

    def _adopt(self, engine: Classifier, file: _File | None) -> None:
        self._drop()
        self._classifier, self._weights, self._home = engine, file, engine.backbone.device
        logger.info("The backbone is on the device '%s'.", engine.backbone.device.type)

    def _drop(self) -> None:
        if self._classifier is not None:
            device, self._classifier = self._classifier.backbone.device, None
            # Hooks tie a model to itself, and a gigabyte cannot wait for the collector.
            gc.collect()
            release_memory(device)

    def _write(self, array: npt.NDArray) -> str:
        place = self._workspace.new_file()
        try:
            with place.open("wb") as stream:
                np.save(stream, array, allow_pickle=False)
        except BaseException:
            self._workspace.discard([place])
            raise
        return str(place)

    def _is_at_home_on(self, device: str) -> bool:
        if device == "auto" or self._home is None:
            return True
        asked = choose_device(device)
        return asked.type == self._home.type and asked.index in (None, self._home.index)


@dataclasses.dataclass(frozen=True)
class _File:
    """A file as it is at one time: one that was written again since is another."""

    place: str
    number: int
    size: int
    changed_ns: int

    @classmethod
    def now(cls, place: str | None) -> _File | None:
        """The file at `place` now; None for no file. One that is not there is told when it is opened."""
        if place is None:
            return None
        try:
            facts = checked_path(place).stat()
        except OSError:
            return cls(place, 0, 0, 0)
        return cls(place, facts.st_ino, facts.st_size, facts.st_mtime_ns)


def _devices_here() -> list[dict[str, Any]]:
    """What this process can compute on, the fastest first; memory in bytes."""
    found = []
    for number in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        card = torch.cuda.get_device_properties(number)
        found.append({"name": f"cuda:{number}", "model": card.name, "memory": card.total_memory})
    if torch.backends.mps.is_available():
        found.append({"name": "mps", "model": "Apple GPU", "memory": torch.mps.recommended_max_memory()})
    cores = psutil.cpu_count(logical=False) or torch.get_num_threads()
    return [*found, {"name": "cpu", "cores": cores, "memory": psutil.virtual_memory().total}]


@contextlib.contextmanager
def _in_float32(backbone: Backbone) -> Iterator[Backbone]:
    """The backbone as training and figures need it; the engine may hold it in 16 bits."""
    dtype = backbone.dtype
    backbone.set_precision(torch.float32)
    try:
        yield backbone
    finally:
        backbone.set_precision(dtype)
