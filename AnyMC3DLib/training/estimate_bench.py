"""What a few cases and a few real steps of a training take, in seconds and in bytes."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import psutil
import torch

from ..control import Control
from ..memory import ACTIVATIONS, free_memory, synchronise
from ..model import PluginNetwork
from ..precision import DTYPES
from ..spec import PluginSpec
from .cases import Case
from .embedding import CASES_AT_ONCE, ENCODE_BATCH, ENCODE_PIXELS, Embedder, Embeddings, probabilities_from
from .estimate_plan import Plan
from .objective import class_weights_of
from .phases import WARM_UP_BATCH, Phase, Setting, Tuning, WarmUp, trained_parameters
from .processes import Processes
from .slices import CutCases, cut_cases
from .step import CHUNK_BYTES, SPEED_BYTES, USABLE, GradientStep, StepMode, kept_for_backward
from .task import TrainingSpec
from .trainer import Trainer

# Together about ten seconds, since an embedding or a step that takes so long is done twice, after smaller ones.
CASES = 3
CUT_SECONDS = 3.0
EMBED_SECONDS = 1.2
STEP_SECONDS = 2.0
# Slices that are embedded first.
PROBE_SLICES = 4
# A training step takes at most so many times what embedding its slices does; forward twice, backward, and room.
STEP_PER_EMBEDDING = 5.0
# A gradient and AdamW's two moments for every weight that is trained.
STATES = 3
# A backward pass takes more than what was kept for it; 1.2 times that with EfficientNet on a CPU.
BUFFERS = 1.25

clock = time.perf_counter


@dataclasses.dataclass(frozen=True)
class Costs:
    """Seconds of what a training is made of.

    `cut` and `embed` are of a case, `head` of a step of the warm-up, `judged` of a look at the validation cases by
    their embeddings, and `study` of a study in a training step.
    """

    cut: float
    embed: float
    head: float
    judged: float
    study: float


@dataclasses.dataclass(frozen=True)
class Memory:
    bytes: int
    available: int
    slices: int
    fits: bool


# Of the progress: the cases, the embedding, the warm-up and the step.
PIECES = CASES + 3


class _Recording(Embedder):
    """An embedder that holds what it gave last."""

    last: Sequence[Embeddings] = ()

    def embed(self, cases: CutCases, *, step: str, frozen: bool = False) -> list[Embeddings]:
        self.last = super().embed(cases, step=step, frozen=frozen)
        return self.last


class Bench:
    """A fresh network of the task and the few cases that it is measured with."""

    def __init__(
        self,
        network: PluginNetwork,
        recipe: TrainingSpec,
        plan: Plan,
        sample: CutCases,
        *,
        mode: StepMode,
        control: Control,
    ) -> None:
        self._network, self._recipe, self._plan, self._sample = network, recipe, plan, sample
        self._device = network.backbone.device
        self._control, self._trainer = control, Trainer(network, recipe, mode=mode, control=control)
        self._embedder = _Recording(network, check=control.check, report=lambda *_: control.check())
        self._weights = class_weights_of(plan.targets, network.spec, recipe.objective)
        self.warms_up = bool(recipe.warm_up_epochs) or network.spec.head.standardise
        adapts = recipe.method == "lora" and bool(network.adapters)
        self.tunes = bool(recipe.epochs) and (adapts or recipe.method == "full")
        self._per_slice = 0.0  # seconds to embed one
        self._held_bytes = 0  # embeddings of a case
        self._unmeasured = 0  # bytes that a whole step keeps more than the measured one
        self._states = 0
        # Asked before anything is computed: what a process has used and freed does not count as free.
        self._base = _held_now(self._device)
        self._free = free_memory(self._device)
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)
        self._study = self._activations() if self.tunes else 0
        self._mode = self._fitting(mode)

    def costs(self, cut: float, tell: Callable[[int], None]) -> Costs:
        """Measure all that the training has."""
        embed, fitted = self._embedding()
        tell(CASES + 1)
        head, judged = self._heads(fitted)
        tell(CASES + 2)
        return Costs(cut, embed, head, judged, self._tuning() if self.tunes else 0.0)

    def _seconds(self, work: Callable[[], object]) -> float:
        synchronise(self._device)
        started = clock()
        work()
        synchronise(self._device)
        return max(clock() - started, 1e-9)

    def _setting(self, cases: CutCases) -> Setting:
        return Setting(self._network, self._recipe, self._embedder, Processes(), cases, None, self._weights)

    def _settled(self, part: Callable[[float], tuple[Callable[[], object], int]], first: float, enough: float) -> float:
        """Seconds a slice of a piece of work, of which `part` gives a share in (0, 1] and its slices.

        More and more of it from the share `first` on, until it takes about `enough` seconds or is the whole, and that
        twice: at first caches are cold and memory is not there yet. The least counts, since all else that a machine
        does only adds, and most to what is small.
        """
        share, before, least = min(1.0, first), 0.0, math.inf
        while True:
            work, slices = part(share)
            taken = self._seconds(work)
            least = min(least, taken / slices)
            if before == share:
                return least
            before, share = share, share if taken >= enough / 2 else min(1.0, share * enough / taken)

    def _embedding(self) -> tuple[float, WarmUp]:
        """Seconds a case, and a warm-up that has begun."""
        self._network.eval()
        fitted: list[WarmUp] = []

        def part(share: float) -> tuple[Callable[[], object], int]:
            thin = _thinned(self._sample, share)
            fitted.append(WarmUp(self._setting(thin)))
            return fitted[-1].begin, _slices(thin)

        self._per_slice = self._settled(part, PROBE_SLICES / _slices(self._sample), EMBED_SECONDS)
        a_case = _slices(self._sample) / len(self._sample)
        embedded = [tensor for one in self._embedder.last for tensor in one.values()]
        self._held_bytes = round(sum(t.nbytes for t in embedded) / sum(len(t) for t in embedded) * a_case)
        return self._per_slice * a_case, fitted[-1]

    def _heads(self, fitted: WarmUp) -> tuple[float, float]:
        """Seconds of a step of the warm-up, and of a look at the validation cases."""
        train, validation = self._plan.rounds[0]
        if not self._recipe.warm_up_epochs:
            return 0.0, 0.0
        order = self._order(min(WARM_UP_BATCH, train))
        head = [self._seconds(lambda: self._step(fitted, order)) for _ in range(2)][-1]
        held = self._embedder.last
        many = [held[n % len(held)] for n in range(min(CASES_AT_ONCE, validation))]
        if not many:
            return head, 0.0
        judged = self._seconds(lambda: probabilities_from(self._network, many))
        return head, judged * validation / len(many)

    def _tuning(self) -> float:
        """Seconds of a study in a training step; a smaller step is measured where a whole one takes too long."""
        recipe, decoder, whole = self._recipe, self._trainer.decoder, self._whole_batch
        # In the mode that the memory was reckoned for: once the slices of all cases are there, less is free than now.
        gradients = GradientStep(
            self._network, mode=self._mode, check=self._control.check, objective=recipe.objective,
            pixels=recipe.pixels, decoder=decoder,
        )  # fmt: skip
        a_study = _slices(self._sample, most=recipe.slices) / len(self._sample)
        all_of_a_study = _slices(self._sample) / len(self._sample)

        def part(share: float) -> tuple[Callable[[], object], int]:
            studies, thin = share * whole, self._sample
            if studies < 1:
                thin = _thinned(thin, studies * a_study / all_of_a_study)
            tuning, order = Tuning(self._setting(thin), gradients, decoder), self._order(max(1, int(studies)))
            slices = _slices(thin, order, most=recipe.slices)
            self._states = STATES * sum(p.nbytes for p in trained_parameters(tuning))
            self._unmeasured = self._kept(whole) - self._kept(len(order), share=slices / len(order) / a_study)
            return lambda: self._step(tuning, order), slices

        guess = STEP_SECONDS / (STEP_PER_EMBEDDING * self._per_slice * a_study * whole)
        return self._settled(part, guess, STEP_SECONDS) * a_study

    @property
    def _whole_batch(self) -> int:
        return min(self._recipe.batch, self._plan.rounds[0][0])

    def _order(self, count: int) -> npt.NDArray[np.int64]:
        """So many numbers of the few cases, again and again."""
        return np.arange(count) % len(self._sample)

    def _step(self, phase: Phase, order: npt.NDArray[np.int64]) -> None:
        self._network.train()
        phase.optimiser.zero_grad(set_to_none=True)
        phase.gradients(0, order, 0)
        torch.nn.utils.clip_grad_norm_(trained_parameters(phase), self._recipe.clip)
        phase.optimiser.step()

    # memory

    def memory(self) -> Memory:
        """What the training holds at its peak, once its costs are measured."""
        slices = self._all_slices()
        fits = True
        if self._device.type == "cuda":
            peak = torch.cuda.max_memory_allocated(self._device) + max(0, self._unmeasured)
        else:
            peak = self._base + max(self._warming(), self._descending())
        if self._device.type == "cpu":
            # The few that are held already are among them.
            peak += slices - _bytes_of(self._sample)
        else:
            fits = slices <= free_memory(torch.device("cpu"))
        available = self._base + self._free
        return Memory(peak, available, slices, fits and peak <= available)

    def _all_slices(self) -> int:
        """Bytes of the cut slices of all cases, and of the masks of those that have one."""
        stacks = sum(array.nbytes for one in self._sample.stacks for array in one.values())
        masks = _bytes_of(self._sample) - stacks
        return round((stacks * sum(self._plan.rounds[0]) + masks * self._plan.masked) / len(self._sample))

    def _warming(self) -> int:
        """Bytes of the embeddings that the warm-up keeps, and of the pass that makes them."""
        once = [min(ENCODE_PIXELS, ENCODE_BATCH * a.shape[2] * a.shape[3]) for a in self._sample.stacks[0].values()]
        kept = self._held_bytes * sum(self._plan.rounds[0]) if self.warms_up else 0
        return kept + max(once) * 3 * 4 * ACTIVATIONS + self._copied

    def _descending(self) -> int:
        """Bytes that a training step takes for gradients, of the optimiser, and of a copy of the best weights."""
        return self._kept(self._whole_batch) + self._states + self._copied if self.tunes else 0

    @property
    def _copied(self) -> int:
        return sum(tensor.nbytes for tensor in self._trainer.weights().values())

    def _activations(self) -> int:
        """Bytes that the largest study of the few keeps for gradients."""
        self._network.backbone.set_precision(DTYPES[self._recipe.precision])
        a_slice = {}
        for view in self._network.spec.views:
            one = torch.from_numpy(self._sample.stacks[0][view.name][:1].astype(np.float32))
            a_slice[view.name] = max(1, kept_for_backward(self._network, view, one.to(self._device)))
        most = self._recipe.slices
        return max(
            sum(a_slice[view] * min(len(array), most or len(array)) for view, array in stacks.items())
            for stacks in self._sample.stacks
        )

    @property
    def _usable(self) -> int:
        """Of the device's memory, what a step may keep once the slices of all cases are there."""
        return int(USABLE * max(0, self._free - (self._all_slices() if self._device.type == "cpu" else 0)))

    def _fitting(self, mode: StepMode) -> StepMode:
        return "memory" if mode == "auto" and self._study > self._usable else mode

    def _kept(self, studies: int, *, share: float = 1.0) -> int:
        """Bytes that a step of so many studies takes for gradients at once, as `GradientStep` goes about it."""
        study = share * self._study
        if self._plan.masked:
            kept = study
        elif self._mode == "memory":
            kept = min(CHUNK_BYTES, studies * study)
        else:
            kept = max(study, min(studies * study, SPEED_BYTES, self._usable))
        return round(BUFFERS * kept)


def _held_now(device: torch.device) -> int:
    """Bytes of the device that this process holds."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    if device.type == "mps":
        return torch.mps.current_allocated_memory()
    return psutil.Process().memory_info().rss


def _bytes_of(cases: CutCases) -> int:
    own = [*cases.stacks, *(mask for mask in cases.masks if mask is not None)]
    return sum(array.nbytes for arrays in own for array in arrays.values())


def cut_some(
    cases: Sequence[Case], spec: PluginSpec, *, with_masks: bool, tell: Callable[[int], None]
) -> tuple[CutCases, float]:
    """A few cases from all over the table, and the seconds that one takes; so many as the time allows."""
    parts: list[CutCases] = []
    started = clock()
    for number in _spread(len(cases), min(CASES, len(cases))):
        tell(len(parts))
        parts.append(cut_cases([cases[number]], spec, with_masks=with_masks))
        if clock() - started > CUT_SECONDS:
            break
    taken = clock() - started
    return _joined(parts), taken / len(parts)


def _joined(parts: Sequence[CutCases]) -> CutCases:
    return CutCases(
        [name for part in parts for name in part.ids],
        [stacks for part in parts for stacks in part.stacks],
        np.concatenate([part.targets for part in parts]),
        [patient for part in parts for patient in part.patients],
        [part.mask_of(0) for part in parts],
    )


def _spread(count: int, wanted: int) -> npt.NDArray[np.int64]:
    """So many of `count` numbers, from the first to the last."""
    return np.linspace(0, count - 1, wanted).round().astype(np.int64)


def _thinned(cases: CutCases, share: float) -> CutCases:
    """The cases with this share of each view's slices, and at least one."""
    if share >= 1:
        return cases

    def some(arrays: Mapping[str, npt.NDArray] | None) -> Mapping[str, npt.NDArray] | None:
        if arrays is None:
            return None
        return {name: array[_spread(len(array), max(1, int(share * len(array))))] for name, array in arrays.items()}

    return dataclasses.replace(
        cases, stacks=[some(stacks) for stacks in cases.stacks], masks=[some(mask) for mask in cases.masks]
    )


def _slices(cases: CutCases, numbers: Sequence[int] | None = None, *, most: int | None = None) -> int:
    """The slices of all views of these cases, of each view at most so many."""
    chosen = range(len(cases)) if numbers is None else numbers
    counts = [len(array) for number in chosen for array in cases.stacks[number].values()]
    return sum(count if most is None else min(count, most) for count in counts)
