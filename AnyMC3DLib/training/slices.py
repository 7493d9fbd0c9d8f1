"""The slices of many cases, cut once by the preprocessing that inference uses, and drawn for training steps."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ..errors import InputError
from ..preprocessing import Slices, preprocess
from ..progress import Progress, ProgressCallback
from ..scope import image_facts
from ..spec import PluginSpec
from .augmentation import Augmentation
from .cases import Case
from .draws import case_generator, some_slices
from .pixel_supervision import mask_on_slices
from .slice_cache import SliceCache, key_of
from .task import TrainingSpec

logger = logging.getLogger(__name__)

SliceStacks = Mapping[str, npt.NDArray[np.floating]]
Masks = Mapping[str, npt.NDArray[np.floating]]
MASK, FACTS = "mask:", "facts:"  # before the name of a view or a source, in the cache


@dataclasses.dataclass(frozen=True)
class CutCases:
    """Per case the slices [S, C, H, W] of each view as float16 in [0, 1], and the targets.

    `masks` are the shares of lesion [S, H, W] by view, None for a case without; `weights` [N] or None where all count
    alike. `excluded` names the cases that could not be read, and why. `facts` are those of each image by source, as
    `ImageFacts.to_array` gives them.
    """

    ids: list[str]
    stacks: list[SliceStacks]
    targets: npt.NDArray[np.int64]
    patients: list[str] = dataclasses.field(default_factory=list)
    masks: list[Masks | None] = dataclasses.field(default_factory=list)
    weights: npt.NDArray[np.float64] | None = None
    excluded: dict[str, str] = dataclasses.field(default_factory=dict)
    facts: list[Mapping[str, npt.NDArray]] = dataclasses.field(default_factory=list)

    def __len__(self) -> int:
        return len(self.ids)

    def mask_of(self, number: int) -> Masks | None:
        """The mask of a case, if it has one."""
        return self.masks[number] if self.masks else None

    def count_masks(self, numbers: npt.NDArray[np.int64]) -> int:
        """How many of these cases have a mask."""
        return sum(self.mask_of(number) is not None for number in numbers)

    def subset(self, numbers: Sequence[int]) -> CutCases:
        """The cases with these numbers, in their order."""
        return CutCases(
            [self.ids[n] for n in numbers],
            [self.stacks[n] for n in numbers],
            self.targets[list(numbers)],
            [self.patients[n] for n in numbers] if self.patients else [],
            [self.masks[n] for n in numbers] if self.masks else [],
            None if self.weights is None else self.weights[list(numbers)],
            self.excluded,
            [self.facts[n] for n in numbers] if self.facts else [],
        )


def cut_cases(
    cases: Sequence[Case],
    spec: PluginSpec,
    *,
    dtype: npt.DTypeLike = np.float16,
    progress: ProgressCallback | None = None,
    cache: SliceCache | None = None,
    with_masks: bool = False,
    allow_unreadable: int = 0,
) -> CutCases:
    """Cut every case; raises InputError that names the case if one cannot be used.

    Half precision keeps a training set in memory; figures are measured on float32, as studies are classified. So many
    cases as `allow_unreadable` says may be unreadable: they are left out, counted, and named in the log.
    """
    kept, stacks, masks, facts = [], [], [], []
    excluded: dict[str, str] = {}
    for number, case in enumerate(cases):
        try:
            arrays = _arrays_of(case, spec, np.dtype(dtype), cache, with_masks=with_masks)
        except InputError as error:
            if len(excluded) >= allow_unreadable:
                raise InputError(f"Case '{case.id}': {error}") from error
            # What is told of it is kept: the names of its files may hold a patient's.
            excluded[case.id] = case.without_files(str(error))
            logger.warning("Case '%s' is left out: %s", case.id, excluded[case.id])
            continue
        kept.append(case)
        stacks.append({view.name: arrays[view.name] for view in spec.views})
        masks.append(_named(arrays, MASK) or None)
        facts.append(_named(arrays, FACTS))
        if progress:
            progress(Progress("Cutting slices", number + 1, len(cases)))
    if not kept:
        raise InputError("None of the cases can be read: check the table's files.")
    weights = np.array([case.weight for case in kept])
    return CutCases(
        [case.id for case in kept],
        stacks,
        np.array([case.target for case in kept]),
        [case.patient or case.id for case in kept],
        masks if any(masks) else [],
        None if (weights == 1).all() else weights,
        excluded,
        facts,
    )


def studies_of(
    cases: CutCases, numbers: Sequence[int], spec: PluginSpec, recipe: TrainingSpec, *, epoch: int
) -> tuple[list[dict[str, Tensor]], list[dict[str, Tensor] | None]]:
    """The studies of a training step, some of their slices and changed at random, and their masks alike.

    What happens to a case depends on seed, epoch and its number alone.
    """
    studies, masks = [], []
    for number in numbers:
        study, found = {}, {}
        drawn = case_generator(recipe.seed, epoch, int(number))
        mask = cases.mask_of(number)
        for view in spec.views:
            array = cases.stacks[number][view.name]
            chosen = some_slices(len(array), recipe.slices, drawn)
            augment = Augmentation(recipe.augmentation, axis=view.preprocessing.axis, seed=drawn)
            own = None
            if mask is not None and view.name in mask:
                own = torch.from_numpy(np.asarray(mask[view.name])[chosen].astype(np.float32))
            slices = torch.from_numpy(np.asarray(array)[chosen].astype(np.float32))
            study[view.name], changed = augment(slices, own)
            if changed is not None:
                found[view.name] = changed
        studies.append(study)
        masks.append(found or None)
    return studies, masks


def batch_count(cases: int, batch: int) -> int:
    """How many batches an epoch has. A last batch of one is left out: its gradient is that of a single study."""
    full, rest = divmod(cases, batch)
    return full + (rest > 1 or full == 0)


def _arrays_of(
    case: Case, spec: PluginSpec, dtype: np.dtype, cache: SliceCache | None, *, with_masks: bool
) -> Mapping[str, npt.NDArray]:
    """The slices by view, masks by `mask:` and view, facts by `facts:` and source; from the cache if they are there."""
    with_masks = with_masks and case.masks is not None

    def make() -> dict[str, npt.NDArray]:
        study = case.load()
        cut = {
            view.name: preprocess(study.image(view.source), view.preprocessing, region=study.region_for(view))
            for view in spec.views
        }
        arrays = {name: slices.array.astype(dtype) for name, slices in cut.items()}
        facts = {f"{FACTS}{source}": image_facts(study.image(source)).to_array() for source in spec.sources}
        return {**arrays, **facts, **(_masks_of(case, spec, cut, dtype) if with_masks else {})}

    if cache is None or case.content is None:
        return make()
    content = {**case.content(), "masks": "cut" if with_masks else "left out"}
    return cache.get(key_of(spec, content, dtype=dtype), make)


def _named(arrays: Mapping[str, npt.NDArray], kind: str) -> dict[str, npt.NDArray]:
    return {name.removeprefix(kind): array for name, array in arrays.items() if name.startswith(kind)}


def _masks_of(case: Case, spec: PluginSpec, cut: Mapping[str, Slices], dtype: np.dtype) -> dict[str, npt.NDArray]:
    masks = case.masks()
    return {
        f"{MASK}{view.name}": mask_on_slices(masks[view.source], cut[view.name]).astype(dtype)
        for view in spec.views
        if view.source in masks
    }
