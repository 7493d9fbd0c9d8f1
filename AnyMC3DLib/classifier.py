"""The engine: one backbone in memory, plugins that come and go, and what is tried when memory does not suffice."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import torch

from . import __version__
from .backbone import Backbone
from .determinism import BATCH, is_deterministic
from .errors import InputError, MemoryShortage, PluginError
from .job import Job, LoadedPlugin, NotFinite, Progressing
from .memory import SHORTAGE, BatchSizer, Step, free_memory, is_out_of_memory, release_memory
from .model import PluginNetwork
from .plugin import digest_of_file, load_networks
from .precision import DTYPES, best_precision, name_of
from .prediction import Prediction, Study
from .progress import ProgressCallback
from .spec import PluginSpec
from .streaming import Maps

logger = logging.getLogger(__name__)

CPU = torch.device("cpu")


class Classifier:
    """Classifies studies with any set of plugins that share one backbone.

    `batch` fixes how many slices go through the network at once; by default memory and speed decide. `precision` is
    'float32', 'bfloat16' or 'float16'; by default what the device is good at. `together` says whether several
    plugins run as rows of one batch; by default on a CUDA GPU for studies of few slices. None of them changes an
    answer by more than rounding.
    """

    def __init__(
        self,
        backbone: Backbone,
        *,
        batch: int | None = None,
        precision: str = "auto",
        together: bool | None = None,
    ) -> None:
        if precision != "auto" and precision not in DTYPES:
            raise InputError(f"There is no precision '{precision}': choose auto, {', '.join(DTYPES)}.")
        self.backbone = backbone
        self.precision = precision
        self._batch, self._together = batch, together
        self._home = backbone.device
        self._plugins: dict[str, LoadedPlugin] = {}
        # Where and how to compute; the backbone is brought there when a study comes.
        self._target = self._home, self._wanted_precision(self._home)
        self._sizer = self._new_sizer()
        self._lasting: list[Step] = []
        self._steps: list[Step] = []

    @property
    def plugins(self) -> dict[str, PluginSpec]:
        """The specs of the loaded plugins by name."""
        return {name: plugin.spec for name, plugin in self._plugins.items()}

    def digest(self, name: str) -> str:
        """The digest of a loaded plugin's file; empty for one that came from memory. Raises PluginError if unknown."""
        if name not in self._plugins:
            raise PluginError(f"The plugin '{name}' is not loaded: load its file first.")
        return self._plugins[name].digest

    def network_of(self, name: str) -> PluginNetwork:
        """The first member of a loaded plugin."""
        return self._plugins[name].networks[0]

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
        if any(network.backbone is not self.backbone for network in networks):
            raise PluginError(f"The plugin '{spec.name}' is on another backbone than this classifier's.")
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
        maps: Maps = "all",
        progress: ProgressCallback | None = None,
        cancelled: Callable[[], bool] | None = None,
    ) -> dict[str, Prediction]:
        """The answer of each plugin (all that are loaded, or those named) for one study.

        `maps` 'attention' gives the paper's map, 'all' also the maps of each class and hot spots. Raises InputError
        if the study does not suit a plugin, MemoryShortage if it does not fit even on the CPU, and Cancelled within
        one batch of slices once `cancelled` says so.
        """
        names = list(self._plugins) if plugins is None else list(dict.fromkeys(plugins))
        unknown = [name for name in names if name not in self._plugins]
        if unknown:
            raise PluginError(f"The plugin '{unknown[0]}' is not loaded: load its file first.")
        self._check_regions(study, names)
        self._return_home()
        self._sizer.begin()
        target, lasting = self._target, list(self._lasting)
        self._steps = list(lasting)
        try:
            return self._with_less_and_less(study, names, maps, Progressing(progress, cancelled))
        finally:
            # Values that went past a precision's range are this study's; the next one begins as this one did.
            if any(step.why == OVERFLOW for step in self._steps):
                self._lasting = lasting
                self._aim(target)

    def _with_less_and_less(
        self, study: Study, names: Sequence[str], maps: Maps, progress: Progressing
    ) -> dict[str, Prediction]:
        while True:
            try:
                self._settle()
                with self._exact_convolutions():
                    return self._attempt(study, names, maps, progress)
            except Exception as error:
                why = self._reason(error)
                if why is None:
                    raise
            # Past the handler, where nothing holds what the failed attempt had in memory any more.
            self._step_down(why)

    def _check_regions(self, study: Study, names: Sequence[str]) -> None:
        views = [view for name in names for view in self._plugins[name].spec.views]
        for source in study.regions:
            if not any(view.source == source and view.preprocessing.region.comes_with_study for view in views):
                raise InputError(f"No plugin looks at a region of '{source}': leave the region out.")

    def _attempt(self, study: Study, names: Sequence[str], maps: Maps, progress: Progressing) -> dict[str, Prediction]:
        device = self.backbone.device
        chosen = {name: self._plugins[name] for name in names}
        job = Job(
            self.backbone, study, chosen, maps=maps, sizer=self._sizer, together=self._together, progress=progress
        )  # fmt: skip
        provenance = {
            "anymc3d": __version__,
            "backbone": self.backbone.id,
            "backbone_digest": self.backbone.digest,
            "device": str(device),
            "precision": name_of(self.backbone.dtype),
        }
        found = job.run(provenance)
        return {name: self._with_steps(prediction, maps) for name, prediction in found.items()}

    def _with_steps(self, prediction: Prediction, maps: Maps) -> Prediction:
        """The prediction with what was tried for want of memory, and what a person should know of it."""
        warnings = [sentence_of(step) for step in self._steps if not step.was.startswith("batches")]
        if self.backbone.dtype != torch.float32:
            warnings.append(
                f"Computed in {name_of(self.backbone.dtype)}: a probability may differ from float32's by about 0.01."
            )
        if maps != "none" and not self.backbone.explains:
            warnings.append(f"'{self.backbone.id}' does not tell where it looked: there is no heatmap.")
        elif maps == "attention" and not self.backbone.has_class_attention:
            warnings.append(f"'{self.backbone.id}' has no class attention: ask for all maps to see where it looked.")
        steps = [dataclasses.asdict(step) for step in self._steps]
        return dataclasses.replace(
            prediction,
            warnings=[*prediction.warnings, *warnings],
            provenance={**prediction.provenance, "memory_steps": steps},
        )

    def _wanted_precision(self, device: torch.device) -> torch.dtype:
        return best_precision(device) if self.precision == "auto" else DTYPES[self.precision]

    def _new_sizer(self) -> BatchSizer:
        fixed = self._batch or (BATCH if is_deterministic() else None)
        return BatchSizer(self._target[0], fixed=fixed, tell=lambda step: self._steps.append(step))

    def _aim(self, target: tuple[torch.device, torch.dtype]) -> None:
        if target != self._target:
            self._target = target
            self._sizer = self._new_sizer()

    def _settle(self) -> None:
        """Bring the backbone and all plugins to where they shall compute; what is there already costs nothing."""
        device, dtype = self._target
        self.backbone.to(device)
        for plugin in self._plugins.values():
            for network in plugin.networks:
                network.to(device)
        # A training on the same backbone may have left another precision, too.
        self.backbone.set_precision(dtype)

    def _return_home(self) -> None:
        """Go back to the device and precision that were asked for, once there is room again."""
        if not self._lasting or any(step.why != SHORTAGE for step in self._lasting):
            return
        weights = sum(p.numel() for p in self.backbone.model.parameters()) * 4
        if free_memory(self._home) >= 2 * weights:
            logger.info("There is room on %s again.", self._home)
            self._lasting = []
            self._aim((self._home, self._wanted_precision(self._home)))

    def _reason(self, error: Exception) -> str | None:
        """Why another device or precision shall be tried; None where that would not help."""
        if isinstance(error, NotFinite):
            if self._target[1] != torch.float32:
                return OVERFLOW
            raise InputError(
                "The network gave values that are not finite for this study: check the image's values, and the plugin."
            ) from error
        if isinstance(error, NotImplementedError) and self._target[0].type not in ("cpu", "cuda"):
            return MISSING
        return SHORTAGE if is_out_of_memory(error) else None

    def _step_down(self, why: str) -> None:
        device, dtype = self._target
        release_memory(device)
        overflowed = any(step.why == OVERFLOW for step in self._steps)
        if why == OVERFLOW:
            target = device, torch.float32
        elif why == SHORTAGE and device != CPU and dtype == torch.float32 and not overflowed:
            target = device, _lower_precision(device)
        elif device != CPU:
            target = CPU, torch.float32
        else:
            raise MemoryShortage(
                "The memory is not enough for this study, even slice by slice: close other programs, or use a smaller "
                "backbone."
            )
        step = Step(why, _words(device, dtype), _words(*target))
        logger.warning("%s", sentence_of(step))
        self._steps.append(step)
        self._lasting.append(step)
        self._aim(target)

    def _exact_convolutions(self) -> AbstractContextManager:
        """On CUDA, torch rounds the inputs of float32 convolutions to 10 bits unless told not to."""
        device, dtype = self._target
        if device.type != "cuda" or dtype != torch.float32:
            return nullcontext()
        return torch.backends.cudnn.flags(enabled=True, allow_tf32=False)


MISSING = "an operation is missing there"
OVERFLOW = "values went past its range"


def sentence_of(step: Step) -> str:
    """A step of device or precision for a person."""
    return f"Computed on {step.now}, because on {step.was} {step.why}."


def _words(device: torch.device, dtype: torch.dtype) -> str:
    return f"{device} in {name_of(dtype)}"


def _lower_precision(device: torch.device) -> torch.dtype:
    best = best_precision(device)
    return best if best != torch.float32 else torch.float16
