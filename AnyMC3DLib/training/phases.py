"""The two phases of a training: query and head on frozen features that were computed once, then everything."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from ..model import PluginNetwork
from ..precision import DTYPES
from .draws import epoch_generator, step_seed
from .embedding import Embedder, Embeddings, fit_standardisation, fused_logits
from .objective import divisor_of, losses_of
from .processes import Processes
from .sampling import balanced_order, shuffled_order
from .slices import CutCases, batch_count, studies_of
from .step import GradientStep
from .task import TrainingSpec

WARM_UP_BATCH = 32
RISE = 0.05  # of the steps, over which the learning rate rises


@dataclasses.dataclass(frozen=True)
class Setting:
    """What both phases work with."""

    network: PluginNetwork
    recipe: TrainingSpec
    embedder: Embedder
    processes: Processes
    train: CutCases
    validation: CutCases | None
    class_weights: Tensor | None

    def order(self, epoch: int) -> npt.NDArray[np.int64]:
        """The order of an epoch's cases; the same however often it is asked for."""
        rng = epoch_generator(self.recipe.seed, epoch)
        if self.recipe.sampling == "balanced":
            return balanced_order(self.train.targets, rng=rng, weights=self.train.weights)
        return shuffled_order(len(self.train), rng=rng)

    def divisor(self, numbers: npt.NDArray[np.int64]) -> float:
        """What the losses of these cases are divided by, whichever process has which of them."""
        return divisor_of(
            torch.from_numpy(self.train.targets[numbers]), self.network.spec, self.recipe.objective,
            class_weights=self.class_weights, case_weights=self.case_weights(numbers),
        )  # fmt: skip

    def case_weights(self, numbers: npt.NDArray[np.int64]) -> Tensor | None:
        """The weights of these cases; None where sampling has used them already, or there are none."""
        if self.train.weights is None or self.recipe.sampling == "balanced":
            return None
        return torch.from_numpy(self.train.weights[numbers]).float()


class WarmUp:
    """Query and head on the embeddings that the fresh plugin gives, which are the frozen backbone's."""

    name = "warm-up"

    def __init__(self, setting: Setting) -> None:
        self._setting, recipe = setting, setting.recipe
        self.epochs = recipe.warm_up_epochs
        self.batches = -(-len(setting.train) // WARM_UP_BATCH)
        parameters = [p for n, p in setting.network.named_parameters() if not n.startswith("adapters.")]
        self.optimiser = torch.optim.AdamW(parameters, lr=recipe.head_rate, weight_decay=recipe.head_decay)
        self._embeddings: list[Embeddings] = []
        self._held: list[Embeddings] | None = None

    def begin(self) -> None:
        """Embed all cases once."""
        setting = self._setting
        self._embeddings = setting.embedder.embed(setting.train, step="Embedding training slices", frozen=True)
        if setting.network.spec.head.standardise:
            fit_standardisation(setting.network, self._embeddings)
        if setting.validation is not None and self.epochs:
            self._held = setting.embedder.embed(setting.validation, step="Embedding validation slices", frozen=True)

    def factor(self, step: int) -> float:
        """Of the learning rate: constant."""
        return 1.0

    def gradients(self, epoch: int, order: npt.NDArray[np.int64], batch: int) -> float:
        """Add the gradients of a batch; returns this process's part of its loss."""
        setting = self._setting
        numbers = order[batch * WARM_UP_BATCH : (batch + 1) * WARM_UP_BATCH]
        own = np.array(setting.processes.share(numbers))
        _seed_step(setting, self.name, epoch, batch)
        if not len(own):
            return 0.0
        logits = fused_logits(setting.network, [self._embeddings[n] for n in own])
        losses = losses_of(
            logits, torch.from_numpy(setting.train.targets[own]).to(logits.device), setting.network.spec,
            setting.recipe.objective, class_weights=setting.class_weights, case_weights=setting.case_weights(own),
        )  # fmt: skip
        loss = losses.sum() / setting.divisor(numbers)
        loss.backward()
        return float(loss.detach())

    def held(self, *, last: bool) -> list[Embeddings] | None:
        """The validation cases' embeddings; None where they are not wanted."""
        return self._held


class Tuning:
    """Adapters, query and head, or the whole backbone with them, on augmented slices."""

    name = "training"

    def __init__(self, setting: Setting, gradients: GradientStep, decoder: nn.Module | None) -> None:
        self._setting, self._gradients, recipe = setting, gradients, setting.recipe
        self.epochs = recipe.epochs
        self.batches = batch_count(len(setting.train), recipe.batch)
        self.optimiser = torch.optim.AdamW(_groups(setting.network, recipe, decoder))

    def begin(self) -> None:
        """Nothing is to be prepared."""

    def factor(self, step: int) -> float:
        """Of the learning rate: a linear rise, then half a cosine to 0."""
        steps = self.epochs * self.batches
        rise = max(1, int(steps * RISE))
        if step < rise:
            return (step + 1) / rise
        return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - rise) / max(1, steps - rise))))

    def gradients(self, epoch: int, order: npt.NDArray[np.int64], batch: int) -> float:
        """Add the gradients of a batch; returns this process's part of its loss."""
        setting, recipe = self._setting, self._setting.recipe
        setting.network.backbone.set_precision(DTYPES[recipe.precision])
        numbers = order[batch * recipe.batch : (batch + 1) * recipe.batch]
        own = np.array(setting.processes.share(numbers))
        _seed_step(setting, self.name, epoch, batch)
        if not len(own):
            return 0.0
        studies, masks = studies_of(setting.train, own, setting.network.spec, recipe, epoch=epoch)
        return self._gradients(
            studies, torch.from_numpy(setting.train.targets[own]), weights=setting.class_weights,
            case_weights=setting.case_weights(own), divisor=setting.divisor(numbers),
            masks=masks, mask_divisor=setting.train.count_masks(numbers),
        )  # fmt: skip

    def held(self, *, last: bool) -> list[Embeddings] | None:
        """The validation cases' embeddings as the network is now; None where they are not wanted."""
        setting = self._setting
        if setting.validation is None or not (last or setting.recipe.keep == "best"):
            return None
        setting.network.eval()
        return setting.embedder.embed(setting.validation, step="Validating")


Phase = WarmUp | Tuning


def _seed_step(setting: Setting, phase: str, epoch: int, batch: int) -> None:
    """What the network itself draws in a step, such as dropout, depends on the step alone."""
    number = (WarmUp.name, Tuning.name).index(phase)
    torch.manual_seed(step_seed(setting.recipe.seed, number, epoch, batch, setting.processes.rank))


def trained_parameters(phase: Phase) -> list[nn.Parameter]:
    """What the phase changes."""
    return [p for group in phase.optimiser.param_groups for p in group["params"]]


def _groups(network: PluginNetwork, recipe: TrainingSpec, decoder: nn.Module | None) -> list[dict[str, object]]:
    adapters = list(network.adapters.parameters())
    others = [p for n, p in network.named_parameters() if not n.startswith("adapters.")]
    others += [] if decoder is None else list(decoder.parameters())
    groups: list[dict[str, object]] = [
        {"params": adapters, "lr": recipe.adapter_rate, "weight_decay": recipe.adapter_decay},
        {"params": others, "lr": recipe.head_rate, "weight_decay": recipe.head_decay},
    ]
    if recipe.method == "full":
        backbone = [p for p in network.backbone.model.parameters() if p.requires_grad]
        groups.append({"params": backbone, "lr": recipe.backbone_rate, "weight_decay": recipe.backbone_decay})
    return [group for group in groups if group["params"]]
