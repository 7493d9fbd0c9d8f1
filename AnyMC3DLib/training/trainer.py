"""The training loop: two phases of steps, each of which can be interrupted and continued as if it had not been."""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ..backbone import Backbone
from ..control import Control
from ..errors import Cancelled, InputError, Suspended
from ..model import PluginNetwork
from ..progress import Progress, ProgressCallback
from ..spec import PluginSpec
from .checkpoint import Checkpoint, CheckpointStore, optimiser_tensors, restore_optimiser
from .embedding import Embedder, Embeddings, logits_from, probabilities_from
from .feature_cache import FeatureCache
from .monitor import score_of
from .objective import class_weights_of
from .phases import Phase, Setting, Tuning, WarmUp, trained_parameters
from .pixel_supervision import PixelDecoder, token_width
from .processes import Processes
from .slices import CutCases
from .step import GradientStep, StepMode
from .task import TaskSpec, TrainingSpec

logger = logging.getLogger(__name__)

SUSPENDED = "The training has saved where it stands: go on with --resume."


@dataclasses.dataclass(frozen=True)
class EpochResult:
    """What an epoch gave; `score` is the monitored figure of the validation cases, NaN without them.

    `whole` is False for one that was stopped within.
    """

    phase: str
    epoch: int
    loss: float
    score: float
    whole: bool = True


@dataclasses.dataclass
class Position:
    """Where a training stands: the batch that comes next, and the losses of those of the epoch that were."""

    phase: str = WarmUp.name
    epoch: int = 0
    batch: int = 0
    losses: list[float] = dataclasses.field(default_factory=list)
    # Epochs since the best one, for the early stop.
    waited: int = 0


def prepare_spec(task: TaskSpec, backbone: Backbone) -> PluginSpec:
    """The task's plugin spec bound to a backbone: its digest, and its normalisation in every view."""
    views = []
    for view in task.plugin.views:
        cut = view.preprocessing
        size = cut.size and tuple(-(-n // backbone.multiple_of) * backbone.multiple_of for n in cut.size)
        if cut.size != size:
            raise InputError(f"View '{view.name}' has a size of {cut.size}, but '{backbone.id}' needs a multiple of "
                             f"{backbone.multiple_of}.")  # fmt: skip
        # Before cases are cut, which can take an hour.
        if backbone.fixed_size not in (None, cut.size):
            wanted = " x ".join(map(str, backbone.fixed_size))
            raise InputError(f"View '{view.name}' has a size of {cut.size}, but '{backbone.id}' takes {wanted} alone.")
        cut = dataclasses.replace(
            cut, mean=cut.mean or backbone.mean, std=cut.std or backbone.std,
            multiple_of=max(cut.multiple_of, backbone.multiple_of),
        )  # fmt: skip
        views.append(dataclasses.replace(view, preprocessing=cut))
    reference = dataclasses.replace(
        task.plugin.backbone, id=backbone.id, digest=backbone.digest, model_args=backbone.model_args,
        architecture=backbone.architecture,
    )  # fmt: skip
    # What a description was made from may have been a plugin, with a scope of its own.
    return dataclasses.replace(task.plugin, backbone=reference, views=tuple(views), scope=None)


class Trainer:
    """Trains one member of a plugin.

    With a `store` the state is kept on disk, and a training that finds one there goes on from it; `fingerprint` says
    what the run is about, so that the state of another one is not taken. With several `processes` all of them call
    the same methods with the same cases. `on_epoch` is told each epoch, of a training that goes on the past ones first.
    Embeddings of the frozen backbone are kept in `features`, for other trainings.
    """

    def __init__(
        self,
        network: PluginNetwork,
        recipe: TrainingSpec,
        *,
        mode: StepMode = "auto",
        progress: ProgressCallback | None = None,
        control: Control | None = None,
        processes: Processes | None = None,
        store: CheckpointStore | None = None,
        fingerprint: str = "",
        on_epoch: Callable[[EpochResult], None] | None = None,
        features: FeatureCache | None = None,
    ) -> None:
        self.network, self.recipe = network, recipe
        self.history: list[EpochResult] = []
        self._control, self._progress = control or Control(), progress
        self._processes = processes or Processes()
        self._store, self._fingerprint, self._on_epoch = store, fingerprint, on_epoch
        self.decoder = _decoder_for(network, recipe)
        self._gradients = GradientStep(
            network, mode=mode, check=self._control.check, objective=recipe.objective,
            pixels=recipe.pixels, decoder=self.decoder,
        )  # fmt: skip
        self._embedder = Embedder(
            network, check=self._between, report=self._report, processes=self._processes, features=features
        )
        self._kept = _Best(self, enabled=False)
        # Whether the training was asked to end early, by whichever process.
        self.stopped = False
        # Steps that went past the range of 16 bits, and were computed again.
        self.steps_in_float32 = 0

    def fit(self, train: CutCases, validation: CutCases | None) -> None:
        """Train on `train`; with `validation` and keep='best' the best weights by the monitored figure stay."""
        weights = class_weights_of(train.targets, self.network.spec, self.recipe.objective)
        setting = Setting(self.network, self.recipe, self._embedder, self._processes, train, validation, weights)
        self._kept = _Best(self, enabled=self.recipe.keep == "best" and validation is not None)
        state = self._store.newest() if self._store is not None else None
        position = Position() if state is None else self._position_of(state)
        memory = {} if state is None else state.part("optimiser")
        del state
        if position.phase == WarmUp.name and self._wants_warm_up() and not self._stopping():
            self._run(WarmUp(setting), setting, position, memory)
            position, memory = Position(Tuning.name), {}
        if self._wants_tuning() and not self._stopping():
            position.phase = Tuning.name
            self._run(Tuning(setting, self._gradients, self.decoder), setting, position, memory)
        self.stopped = self._stopping()
        if self.stopped and not self.history:
            raise Cancelled("The training was stopped before its first epoch ended: there is nothing to keep.")
        self._kept.restore()
        self.network.eval()

    def predict(self, cases: CutCases, *, step: str = "Evaluating") -> npt.NDArray[np.float64]:
        """Probabilities [N, classes] of the cases; raises InputError where the network's values are not finite."""
        return self.answers(self.embed(cases, step=step), cases)

    def embed(self, cases: CutCases, *, step: str) -> list[Embeddings]:
        """The slice embeddings [S, D] of each case and view by the network as it is now."""
        self.network.eval()
        return self._embedder.embed(cases, step=step, frozen=not self._wants_tuning())

    def weights(self) -> dict[str, Tensor]:
        """All that training changes, by name: the network's own part, and what else is trained with it."""
        parts = {"network": self.network.state_dict()}
        if self.recipe.method == "full":
            parts["backbone"] = self.network.backbone.model.state_dict()
        if self.decoder is not None:
            parts["decoder"] = self.decoder.state_dict()
        return {f"{part}/{name}": tensor for part, state in parts.items() for name, tensor in state.items()}

    def load_weights(self, tensors: dict[str, Tensor]) -> None:
        """Take the weights that `weights` gave."""
        state = Checkpoint(tensors, {})
        self.network.load_state_dict(state.part("network"))
        if self.recipe.method == "full":
            self.network.backbone.model.load_state_dict(state.part("backbone"))
        if self.decoder is not None:
            self.decoder.load_state_dict(state.part("decoder"))

    def _wants_warm_up(self) -> bool:
        return bool(self.recipe.warm_up_epochs) or self.network.spec.head.standardise

    def _wants_tuning(self) -> bool:
        adapts = self.recipe.method == "lora" and bool(self.network.adapters)
        return bool(self.recipe.epochs) and (adapts or self.recipe.method == "full")

    def _run(self, phase: Phase, setting: Setting, position: Position, memory: dict[str, Tensor]) -> None:
        if memory:
            restore_optimiser(phase.optimiser, memory)
        phase.begin()
        rates = [group["lr"] for group in phase.optimiser.param_groups]
        for epoch in range(position.epoch, phase.epochs):
            if position.batch == 0 and (self._stopping() or self._waited_enough(phase, position)):
                return
            position.epoch = epoch
            self._epoch(phase, setting, position, rates)
            is_whole = position.batch == phase.batches
            if phase.name == Tuning.name and is_whole:
                # Before the validation, in which the work may be asked to end.
                self._save(phase, position)
            last = epoch == phase.epochs - 1 or self._stopping() or self._waited_enough(phase, position)
            self._end_epoch(phase, position, phase.held(last=last), setting.validation)
            if phase.name == WarmUp.name:
                self._report("Warming up on frozen embeddings", epoch + 1, phase.epochs)
            position.batch, position.losses = 0, []
            position.epoch += 1
            # What was stopped within an epoch has its state of then, from which the epoch can be ended another time.
            if is_whole and (phase.name == Tuning.name or last or self._due()):
                self._save(phase, position)
            if last or self._waited_enough(phase, position):
                return
            self._control.check()

    def _epoch(self, phase: Phase, setting: Setting, position: Position, rates: list[float]) -> None:
        self.network.train()
        order = setting.order(position.epoch + (self.recipe.warm_up_epochs if phase.name == Tuning.name else 0))
        for batch in range(position.batch, phase.batches):
            factor = phase.factor(position.epoch * phase.batches + batch)
            for group, rate in zip(phase.optimiser.param_groups, rates, strict=True):
                group["lr"] = rate * factor
            phase.optimiser.zero_grad(set_to_none=True)
            loss = self._gradients_of(phase, position.epoch, order, batch)
            self._descend(loss, phase)
            position.batch, position.losses = batch + 1, [*position.losses, loss]
            if phase.name == Tuning.name:
                total = min(len(order), phase.batches * self.recipe.batch)
                done = min((batch + 1) * self.recipe.batch, total)
                self._report(f"Training, epoch {position.epoch + 1} of {phase.epochs}", done, total)
            self._pause_or_end(phase, position)
            if self._stopping():
                return

    def _pause_or_end(self, phase: Phase, position: Position) -> None:
        """Save the state where that is due, or the run shall end here and go on another time."""
        suspended = self._processes.agree(self._control.suspended)
        if suspended or self._stopping() or self._due():
            self._save(phase, position)
        if suspended:
            # A launcher ends all processes when one ends, and the first may still be writing.
            self._processes.wait()
            raise Suspended(SUSPENDED)

    def _stopping(self) -> bool:
        return self._processes.agree(self._control.stopping)

    def _due(self) -> bool:
        return self._store is not None and self._store.due()

    def _gradients_of(self, phase: Phase, epoch: int, order: npt.NDArray[np.int64], batch: int) -> float:
        """Add the gradients of a batch; returns its loss over all processes."""
        before = self._gradients.redone
        loss = self._processes.sum(phase.gradients(epoch, order, batch))
        if self.recipe.precision != "float32":
            self.steps_in_float32 += self._processes.agree(self._gradients.redone > before)
        return loss

    def _descend(self, loss: float, phase: Phase) -> None:
        parameters = trained_parameters(phase)
        self._processes.add_gradients(parameters)
        norm = torch.nn.utils.clip_grad_norm_(parameters, self.recipe.clip)
        # A step along a gradient that is not finite makes weights that are not, whatever the loss was.
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise InputError(
                "The training diverged, its loss or a gradient is no longer finite: lower the learning rates."
            )
        phase.optimiser.step()

    def _end_epoch(
        self, phase: Phase, position: Position, held: list[Embeddings] | None, validation: CutCases | None
    ) -> None:
        self.network.eval()
        score = math.nan
        if held is not None and validation is not None:
            figures = self.answers(held, validation)
            score = score_of(self.recipe.monitor, self.network.spec, validation.targets, figures)
        whole = position.batch == phase.batches
        result = EpochResult(phase.name, position.epoch + 1, float(np.mean(position.losses)), score, whole)
        self.history.append(result)
        logger.info("%s epoch %d: loss %.4f, validation score %.4f", phase.name, result.epoch, result.loss, score)
        self._tell(result)
        position.waited = 0 if self._kept.offer(score) else position.waited + 1

    def answers(self, held: list[Embeddings], cases: CutCases) -> npt.NDArray[np.float64]:
        """Probabilities of cases by their embeddings; raises InputError that names a case without a finite answer."""
        finite = torch.isfinite(logits_from(self.network, held)).all(dim=1).tolist()
        for case, answered, views in zip(cases.ids, finite, held, strict=True):
            # A fusion can pass over a bad slice, but its answer would not be that of the whole study.
            if not answered or not all(bool(torch.isfinite(tensor).all()) for tensor in views.values()):
                raise InputError(
                    f"The network gave values that are not finite for case '{case}': check the image's values, and "
                    "the plugin, or lower the learning rates of its training."
                )
        return probabilities_from(self.network, held)

    def _waited_enough(self, phase: Phase, position: Position) -> bool:
        patience = self.recipe.patience
        return phase.name == Tuning.name and patience is not None and position.waited >= patience

    # the state on disk

    def _save(self, phase: Phase, position: Position) -> None:
        if self._store is None or not self._processes.leads:
            return
        tensors = {f"weights/{name}": tensor for name, tensor in self.weights().items()}
        tensors |= {f"optimiser/{name}": tensor for name, tensor in optimiser_tensors(phase.optimiser).items()}
        tensors |= {f"best/{name}": tensor for name, tensor in self._kept.tensors.items()}
        facts: dict[str, Any] = {
            "fingerprint": self._fingerprint,
            "position": {**dataclasses.asdict(position), "phase": phase.name},
            "history": [_without_nan(dataclasses.asdict(result)) for result in self.history],
            "best": self._kept.score if math.isfinite(self._kept.score) else None,
            "step_mode": self._gradients.mode,
            "chunk_bytes": self._gradients.chunk_bytes,
            "steps_in_float32": self.steps_in_float32,
        }
        self._store.save(Checkpoint(tensors, facts))

    def _position_of(self, state: Checkpoint) -> Position:
        facts = state.facts
        if facts["fingerprint"] != self._fingerprint:
            raise InputError(
                "The run in this folder was begun with another task, other cases or another backbone: give another "
                "folder, or the settings that it was begun with."
            )
        self.load_weights(state.part("weights"))
        self.history = [EpochResult(**{**one, "score": _or_nan(one["score"])}) for one in facts["history"]]
        for result in self.history:
            self._tell(result)
        self._kept.restore_from(state.part("best"), facts["best"])
        if self._gradients.mode == "auto":
            # What did not fit then does not fit now.
            self._gradients.mode = facts["step_mode"]
        self._gradients.chunk_bytes = facts.get("chunk_bytes", self._gradients.chunk_bytes)
        self.steps_in_float32 = facts.get("steps_in_float32", 0)
        return Position(**facts["position"])

    def _between(self) -> None:
        """While cases are embedded nothing is lost by an end; several processes end at their next step, together."""
        self._control.check()
        if self._control.suspended and self._processes.count == 1:
            raise Suspended(SUSPENDED)

    def _tell(self, result: EpochResult) -> None:
        if self._on_epoch is not None and self._processes.leads:
            self._on_epoch(result)

    def _report(self, step: str, done: int, total: int) -> None:
        self._control.check()
        if self._progress is not None and self._processes.leads:
            self._progress(Progress(step, done, total))


class _Best:
    """The weights with the highest score so far; of equal scores the later, which has seen more."""

    def __init__(self, trainer: Trainer, *, enabled: bool) -> None:
        self._trainer, self._enabled = trainer, enabled
        self.score, self.tensors = -math.inf, {}

    def offer(self, score: float) -> bool:
        """Keep the weights if they are the best; returns whether they are, or nothing is kept."""
        if not self._enabled or not math.isfinite(score):
            return True
        if score >= self.score:
            better = score > self.score
            weights = self._trainer.weights().items()
            # On the CPU: a whole backbone more may not fit beside the first.
            self.score, self.tensors = score, {name: tensor.detach().cpu().clone() for name, tensor in weights}
            return better
        return False

    def restore_from(self, tensors: dict[str, Tensor], score: float | None) -> None:
        """Take what a state on disk has kept."""
        if score is not None:
            self.score, self.tensors = score, tensors

    def restore(self) -> None:
        if self._enabled and not self.tensors:
            logger.warning("No epoch could be judged by the validation cases, so the last weights are kept.")
        if self.tensors:
            self._trainer.load_weights(self.tensors)


def _decoder_for(network: PluginNetwork, recipe: TrainingSpec) -> PixelDecoder | None:
    if not recipe.pixels.weight:
        return None
    width = token_width(network.backbone)
    decoder = PixelDecoder(width, channels=recipe.pixels.channels, finer=recipe.pixels.finer)
    return decoder.to(network.backbone.device)


def _without_nan(record: dict[str, Any]) -> dict[str, Any]:
    # JSON has no NaN: an epoch without validation has no score.
    return {name: None if value != value else value for name, value in record.items()}


def _or_nan(value: float | None) -> float:
    return math.nan if value is None else value
