"""The slice embeddings of cases as the network is now, and the probabilities that follow from them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ..model import PluginNetwork, padded
from ..spec import ViewSpec
from .feature_cache import FeatureCache, key_of
from .processes import Processes
from .slices import CutCases, SliceStacks

Embeddings = Mapping[str, Tensor]
Report = Callable[[str, int, int], None]

# Slices that are embedded at once: so many, or fewer large ones.
ENCODE_BATCH = 64
ENCODE_PIXELS = 32 * 224 * 224
STUDIES_AT_ONCE = 8
MANY_SLICES = 512
CASES_AT_ONCE = 64


class Embedder:
    """Embeds cases without gradients, in single precision as all figures are; several processes share the work.

    `check` is called between pieces of the work and may raise to end it; `report` is told how far it is. What a frozen
    backbone gives is kept in `features`, for other trainings.
    """

    def __init__(
        self,
        network: PluginNetwork,
        *,
        check: Callable[[], None],
        report: Report,
        processes: Processes | None = None,
        features: FeatureCache | None = None,
    ) -> None:
        self.network, self._check, self._report = network, check, report
        self._processes, self._features = processes or Processes(), features

    def embed(self, cases: CutCases, *, step: str, frozen: bool = False) -> list[Embeddings]:
        """The slice embeddings [S, D] of each case and view, on the CPU; `frozen` if nothing before was trained."""
        own = self._processes.share(cases.stacks)
        if frozen and self._features is not None:
            return self._processes.whole(self._kept(own, self._features, step))
        return self._processes.whole(self._embedded(own, step))

    def _kept(self, stacks: Sequence[SliceStacks], features: FeatureCache, step: str) -> list[Embeddings]:
        """From the cache, and what is not there put there."""
        keys = [key_of(self.network, each) for each in stacks]
        found = features.find(keys)
        missing = [number for number, key in enumerate(keys) if key not in found]
        new = self._embedded([stacks[number] for number in missing], step)
        fresh = {keys[number]: embeddings for number, embeddings in zip(missing, new, strict=True)}
        features.keep(fresh)
        found |= fresh
        return [found[key] for key in keys]

    def _embedded(self, own: Sequence[SliceStacks], step: str) -> list[Embeddings]:
        result: list[Embeddings] = []
        self.network.backbone.set_precision(torch.float32)
        for group in _small_groups(own):
            embedded: list[dict[str, Tensor]] = [{} for _ in group]
            for view in self.network.spec.views:
                arrays = [stacks[view.name] for stacks in group]
                together = np.concatenate(arrays) if len(arrays) > 1 else arrays[0]
                parts = torch.cat(list(self._encoded(view, together)))
                for study, part in zip(embedded, parts.split([len(array) for array in arrays]), strict=True):
                    study[view.name] = self.network.condensed(part)
            result += embedded
            self._report(step, len(result), len(own))
        return result

    def predict(self, cases: CutCases, *, step: str, frozen: bool = False) -> npt.NDArray[np.float64]:
        """Probabilities [N, classes] of the cases."""
        return probabilities_from(self.network, self.embed(cases, step=step, frozen=frozen))

    def _encoded(self, view: ViewSpec, array: npt.NDArray[np.floating]) -> Iterator[Tensor]:
        height, width = array.shape[2:]
        batch = max(1, min(ENCODE_BATCH, ENCODE_PIXELS // (height * width)))
        for first in range(0, len(array), batch):
            self._check()
            part = torch.from_numpy(array[first : first + batch].astype(np.float32))
            with torch.no_grad():
                yield self.network.embed(view, part.to(self.network.backbone.device)).float().cpu()


def fused_logits(network: PluginNetwork, embeddings: Sequence[Embeddings]) -> Tensor:
    """Logits [B, K] of cases by their slice embeddings."""
    device = network.backbone.device
    parts = {view: padded([e[view].to(device) for e in embeddings]) for view in embeddings[0]}
    masks = {view: mask for view, (_, mask) in parts.items()}
    return network.fuse({view: tensor for view, (tensor, _) in parts.items()}, masks).logits


def logits_from(network: PluginNetwork, embeddings: Sequence[Embeddings]) -> Tensor:
    """Logits [N, K] of any number of cases, without gradients."""
    network.eval()
    groups = range(0, len(embeddings), CASES_AT_ONCE)
    with torch.no_grad():
        return torch.cat([fused_logits(network, embeddings[n : n + CASES_AT_ONCE]) for n in groups])


def probabilities_from(network: PluginNetwork, embeddings: Sequence[Embeddings]) -> npt.NDArray[np.float64]:
    """Probabilities [N, classes] of any number of cases."""
    return network.probabilities(logits_from(network, embeddings)).cpu().numpy()


def fit_standardisation(network: PluginNetwork, embeddings: Sequence[Embeddings]) -> None:
    """Set the head's fixed shift and scale to mean and deviation of these embeddings."""
    for view in embeddings[0]:
        every = torch.cat([e[view] for e in embeddings]).double()
        deviation = every.std(dim=0, correction=min(1, len(every) - 1))
        # A feature that hardly varies in the frozen embeddings must not explode once adapters change it.
        deviation = deviation.clamp_min(max(1e-6, 0.25 * float(deviation.mean())))
        getattr(network, f"shift_{view}").copy_(every.mean(dim=0).float())
        getattr(network, f"scale_{view}").copy_((1 / deviation).float())


def _small_groups(studies: Sequence[SliceStacks]) -> Iterator[list[SliceStacks]]:
    """Small studies a few at a time, so that batches are full; a large one alone, so that it is not copied."""
    group: list[SliceStacks] = []
    for stacks in studies:
        group.append(stacks)
        if len(group) == STUDIES_AT_ONCE or sum(len(array) for s in group for array in s.values()) >= MANY_SLICES:
            yield group
            group = []
    if group:
        yield group
