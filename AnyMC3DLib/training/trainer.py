"""A plain training loop: query and head on cached frozen embeddings first, then everything, by AdamW."""

from __future__ import annotations

import copy
import dataclasses
import logging
import math
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ..backbone import Backbone
from ..control import Control
from ..errors import Cancelled, InputError
from ..model import PluginNetwork, padded
from ..precision import DTYPES
from ..progress import Progress, ProgressCallback
from ..spec import PluginSpec, ViewSpec
from .metrics import auc
from .slices import Augmentation, CutCases, SliceStacks, batch_count, training_batches
from .step import GradientStep, StepMode, loss_divisor, losses_of
from .task import TaskSpec, TrainingSpec

logger = logging.getLogger(__name__)

# Slices that are embedded at once: so many, or fewer large ones.
ENCODE_BATCH = 64
ENCODE_PIXELS = 32 * 224 * 224
STUDIES_AT_ONCE = 8
MANY_SLICES = 512
CLIP = 1.0


@dataclasses.dataclass(frozen=True)
class EpochResult:
    """What an epoch gave; `score` is the validation AUC, NaN without validation cases."""

    phase: str
    epoch: int
    loss: float
    score: float


def prepare_spec(task: TaskSpec, backbone: Backbone) -> PluginSpec:
    """The task's plugin spec bound to a backbone: its digest, and its normalisation in every view."""
    views = []
    for view in task.plugin.views:
        cut = view.preprocessing
        size = cut.size and tuple(-(-n // backbone.multiple_of) * backbone.multiple_of for n in cut.size)
        if cut.size != size:
            raise InputError(f"View '{view.name}' has a size of {cut.size}, but '{backbone.id}' needs a multiple of "
                             f"{backbone.multiple_of}.")  # fmt: skip
        cut = dataclasses.replace(
            cut, mean=cut.mean or backbone.mean, std=cut.std or backbone.std,
            multiple_of=max(cut.multiple_of, backbone.multiple_of),
        )  # fmt: skip
        views.append(dataclasses.replace(view, preprocessing=cut))
    reference = dataclasses.replace(
        task.plugin.backbone, id=backbone.id, digest=backbone.digest, model_args=backbone.model_args
    )
    return dataclasses.replace(task.plugin, backbone=reference, views=tuple(views))


class Trainer:
    """Trains one member of a plugin."""

    def __init__(
        self,
        network: PluginNetwork,
        recipe: TrainingSpec,
        *,
        mode: StepMode = "auto",
        progress: ProgressCallback | None = None,
        control: Control | None = None,
    ) -> None:
        self.network, self.recipe = network, recipe
        self._control = control or Control()
        self._gradients = GradientStep(network, mode=mode, check=self._control.check)
        self.history: list[EpochResult] = []
        self._progress = progress
        self._rng = np.random.default_rng(recipe.seed)
        self._weights: Tensor | None = None

    def fit(self, train: CutCases, validation: CutCases | None) -> None:
        """Train on `train`; with `validation` and keep='best' the best weights by its AUC stay."""
        if self.recipe.class_weights:
            self._weights = _class_weights(train, self.network.spec)
        kept = _Best(self.network, enabled=self.recipe.keep == "best" and validation is not None)
        if (self.recipe.warm_up_epochs or self.network.spec.head.standardise) and not self._control.stopping:
            self._warm_up(train, validation, kept)
        if self.recipe.epochs and self.network.adapters and not self._control.stopping:
            self._train(train, validation, kept)
        if self._control.stopping and not self.history:
            raise Cancelled("The training was stopped before its first epoch ended: there is nothing to keep.")
        kept.restore()
        self.network.eval()

    def predict(self, cases: CutCases, *, step: str = "Evaluating") -> np.ndarray:
        """Probabilities [N, classes] of the cases."""
        self.network.eval()
        embeddings = self._embed(cases, step=step)
        return _predict_from(self.network, embeddings)

    def _embed(self, cases: CutCases, *, step: str) -> list[dict[str, Tensor]]:
        """The slice embeddings [S, D] of each case and view, on the CPU, in single precision as all figures are."""
        result: list[dict[str, Tensor]] = []
        self.network.backbone.set_precision(torch.float32)
        for group in self._small_groups(cases):
            embedded: list[dict[str, Tensor]] = [{} for _ in group]
            for view in self.network.spec.views:
                arrays = [stacks[view.name] for stacks in group]
                together = np.concatenate(arrays) if len(arrays) > 1 else arrays[0]
                parts = torch.cat(list(self._encoded(view, together)))
                for study, part in zip(embedded, parts.split([len(array) for array in arrays]), strict=True):
                    study[view.name] = part
            result += embedded
            self._report(step, len(result), len(cases))
        return result

    def _small_groups(self, cases: CutCases) -> Iterator[list[SliceStacks]]:
        """Small studies a few at a time, so that batches are full; a large one alone, so that it is not copied."""
        group: list[SliceStacks] = []
        for stacks in cases.stacks:
            group.append(stacks)
            if len(group) == STUDIES_AT_ONCE or sum(len(array) for s in group for array in s.values()) >= MANY_SLICES:
                yield group
                group = []
        if group:
            yield group

    def _encoded(self, view: ViewSpec, array: npt.NDArray[np.floating]) -> Iterator[Tensor]:
        height, width = array.shape[2:]
        batch = max(1, min(ENCODE_BATCH, ENCODE_PIXELS // (height * width)))
        for first in range(0, len(array), batch):
            self._control.check()
            part = torch.from_numpy(array[first : first + batch].astype(np.float32))
            with torch.no_grad():
                yield self.network.embed(view, part.to(self.network.backbone.device)).float().cpu()

    def _warm_up(self, train: CutCases, validation: CutCases | None, kept: _Best) -> None:
        """Query and head on the embeddings that the fresh plugin gives, which are the frozen backbone's."""
        embeddings = self._embed(train, step="Embedding training slices")
        if self.network.spec.head.standardise:
            _fit_standardisation(self.network, embeddings)
        if not self.recipe.warm_up_epochs:
            return
        held = self._embed(validation, step="Embedding validation slices") if validation else None
        parameters = [p for n, p in self.network.named_parameters() if not n.startswith("adapters.")]
        optimiser = torch.optim.AdamW(parameters, lr=self.recipe.head_rate, weight_decay=self.recipe.head_decay)
        targets = torch.from_numpy(train.targets)
        for epoch in range(self.recipe.warm_up_epochs):
            if self._control.stopping:
                return
            self.network.train()
            losses = []
            order = self._rng.permutation(len(train))
            for first in range(0, len(order), 32):
                numbers = order[first : first + 32]
                logits = _fuse(self.network, [embeddings[n] for n in numbers])
                losses.append(self._step(logits, targets[numbers].to(logits.device), optimiser))
            self._end_epoch("warm-up", epoch, losses, held, validation, kept)
            self._control.check()

    def _train(self, train: CutCases, validation: CutCases | None, kept: _Best) -> None:
        recipe = self.recipe
        adapters = list(self.network.adapters.parameters())
        others = [p for n, p in self.network.named_parameters() if not n.startswith("adapters.")]
        optimiser = torch.optim.AdamW([
            {"params": adapters, "lr": recipe.adapter_rate, "weight_decay": recipe.adapter_decay},
            {"params": others, "lr": recipe.head_rate, "weight_decay": recipe.head_decay},
        ])  # fmt: skip
        batches = batch_count(len(train), recipe.batch)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, _cosine(recipe.epochs * batches))
        augmentation = Augmentation(recipe.augmentation, seed=recipe.seed)
        for epoch in range(recipe.epochs):
            self.network.train()
            self.network.backbone.set_precision(DTYPES[recipe.precision])
            losses, seen = [], 0
            for studies, targets in training_batches(
                train, batch=recipe.batch, slices=recipe.slices, augmentation=augmentation, rng=self._rng
            ):
                optimiser.zero_grad(set_to_none=True)
                loss = self._gradients(studies, targets, weights=self._weights)
                losses.append(self._descend(loss, optimiser))
                schedule.step()
                seen += len(studies)
                total = min(len(train), batches * recipe.batch)
                self._report(f"Training, epoch {epoch + 1} of {recipe.epochs}", seen, total)
                if self._control.stopping:
                    break
            held = None
            last = epoch == recipe.epochs - 1 or self._control.stopping
            if validation is not None and (recipe.keep == "best" or last):
                self.network.eval()
                held = self._embed(validation, step="Validating")
            self._end_epoch("training", epoch, losses, held, validation, kept)
            if last:
                return

    def _step(self, logits: Tensor, targets: Tensor, optimiser: torch.optim.Optimizer) -> float:
        loss = loss_of(logits, targets, self.network.spec, weights=self._weights)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        return self._descend(float(loss.detach()), optimiser)

    def _descend(self, loss: float, optimiser: torch.optim.Optimizer) -> float:
        if not math.isfinite(loss):
            raise InputError("The training diverged, its loss is no longer finite: lower the learning rates.")
        torch.nn.utils.clip_grad_norm_([p for g in optimiser.param_groups for p in g["params"]], CLIP)
        optimiser.step()
        return loss

    def _end_epoch(
        self,
        phase: str,
        epoch: int,
        losses: Sequence[float],
        held: list[dict[str, Tensor]] | None,
        validation: CutCases | None,
        kept: _Best,
    ) -> None:
        self.network.eval()
        score = float("nan")
        if held is not None and validation is not None:
            score = auc(validation.targets, _predict_from(self.network, held))
        result = EpochResult(phase, epoch + 1, float(np.mean(losses)), score)
        self.history.append(result)
        logger.info("%s epoch %d: loss %.4f, validation AUC %.4f", phase, epoch + 1, result.loss, score)
        kept.offer(score)

    def _report(self, step: str, done: int, total: int) -> None:
        self._control.check()
        if self._progress is not None:
            self._progress(Progress(step, done, total))


class _Best:
    """The weights with the highest score so far; of equal scores the later, which has seen more."""

    def __init__(self, network: PluginNetwork, *, enabled: bool) -> None:
        self._network, self._enabled = network, enabled
        self._score, self._state = -math.inf, None

    def offer(self, score: float) -> None:
        if self._enabled and score >= self._score:
            self._score, self._state = score, copy.deepcopy(self._network.state_dict())

    def restore(self) -> None:
        if self._enabled and self._state is None:
            logger.warning("The validation cases are all of one class, so the last weights are kept.")
        if self._state is not None:
            self._network.load_state_dict(self._state)


def loss_of(logits: Tensor, targets: Tensor, spec: PluginSpec, *, weights: Tensor | None = None) -> Tensor:
    """The loss of a batch: see `losses_of`."""
    losses = losses_of(logits, targets, spec, weights=weights)
    return losses.sum() / loss_divisor(targets, spec, weights=weights)


def _class_weights(cases: CutCases, spec: PluginSpec) -> Tensor:
    if cases.targets.ndim == 2:
        raise InputError("The classes of a multilabel task cannot be weighted: leave class_weights out.")
    counts = np.bincount(cases.targets, minlength=len(spec.classes))
    if counts.min() == 0:
        absent = spec.classes[int(counts.argmin())].name
        raise InputError(f"The training cases have none of class '{absent}', so classes cannot be weighted.")
    return torch.tensor(len(cases) / (len(counts) * counts), dtype=torch.float32)


def _cosine(steps: int, warm_up: float = 0.05):
    """A linear rise over the first share of the steps, then half a cosine to 0."""
    rise = max(1, int(steps * warm_up))

    def factor(step: int) -> float:
        if step < rise:
            return (step + 1) / rise
        return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - rise) / max(1, steps - rise))))

    return factor


def _fuse(network: PluginNetwork, embeddings: Sequence[dict[str, Tensor]]) -> Tensor:
    device = network.backbone.device
    parts = {view: padded([e[view].to(device) for e in embeddings]) for view in embeddings[0]}
    masks = {view: mask for view, (_, mask) in parts.items()}
    return network.fuse({view: tensor for view, (tensor, _) in parts.items()}, masks).logits


def _predict_from(network: PluginNetwork, embeddings: Sequence[dict[str, Tensor]]) -> np.ndarray:
    with torch.no_grad():
        logits = torch.cat([_fuse(network, embeddings[n : n + 64]) for n in range(0, len(embeddings), 64)])
        return network.probabilities(logits).cpu().numpy()


def _fit_standardisation(network: PluginNetwork, embeddings: Sequence[dict[str, Tensor]]) -> None:
    for view in embeddings[0]:
        every = torch.cat([e[view] for e in embeddings]).double()
        deviation = every.std(dim=0, correction=min(1, len(every) - 1))
        # A feature that hardly varies in the frozen embeddings must not explode once adapters change it.
        deviation = deviation.clamp_min(max(1e-6, 0.25 * float(deviation.mean())))
        getattr(network, f"shift_{view}").copy_(every.mean(dim=0).float())
        getattr(network, f"scale_{view}").copy_((1 / deviation).float())
