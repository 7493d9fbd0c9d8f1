"""The slices of many cases, cut once by the preprocessing that inference uses, and drawn for training steps."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import torch
from monai.transforms import Compose, RandAffine, RandFlip
from torch import Tensor

from ..errors import InputError
from ..preprocessing import preprocess
from ..progress import Progress, ProgressCallback
from ..spec import PluginSpec
from .cases import Case
from .task import AugmentationSpec

SliceStacks = Mapping[str, npt.NDArray[np.floating]]


@dataclasses.dataclass(frozen=True)
class CutCases:
    """Per case the slices [S, C, H, W] of each view as float16 in [0, 1], and the targets."""

    ids: list[str]
    stacks: list[SliceStacks]
    targets: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.ids)

    def subset(self, numbers: Sequence[int]) -> CutCases:
        """The cases with these numbers, in their order."""
        return CutCases([self.ids[n] for n in numbers], [self.stacks[n] for n in numbers], self.targets[list(numbers)])


def cut_cases(
    cases: Sequence[Case],
    spec: PluginSpec,
    *,
    dtype: npt.DTypeLike = np.float16,
    progress: ProgressCallback | None = None,
) -> CutCases:
    """Cut every case; raises InputError that names the case if one cannot be used.

    Half precision keeps a training set in memory; figures are measured on float32, as studies are classified.
    """
    stacks = []
    for number, case in enumerate(cases):
        try:
            study = case.load()
            cut = {
                view.name: preprocess(
                    study.image(view.source), view.preprocessing, region=study.region_for(view)
                ).array.astype(dtype)
                for view in spec.views
            }
        except InputError as error:
            raise InputError(f"Case '{case.id}': {error}") from error
        stacks.append(cut)
        if progress:
            progress(Progress("Cutting slices", number + 1, len(cases)))
    return CutCases([case.id for case in cases], stacks, np.array([case.target for case in cases]))


class Augmentation:
    """MONAI's random flips and affine changes, drawn once for all slices of a view."""

    def __init__(self, spec: AugmentationSpec, *, seed: int) -> None:
        angle = np.deg2rad(spec.rotate)
        self._spec = spec
        self._change = Compose([RandFlip(prob=spec.flip, spatial_axis=axis) for axis in (0, 1)])
        self._affine = RandAffine(
            prob=spec.affine, rotate_range=angle, scale_range=(spec.zoom, spec.zoom), padding_mode="zeros"
        )
        self._change.set_random_state(seed)
        self._affine.set_random_state(seed + 1)

    def __call__(self, slices: Tensor) -> Tensor:
        """Slices [S, C, H, W] in [0, 1], changed."""
        flat = slices.flatten(0, 1)
        flat = self._change(flat)
        if self._spec.affine > 0:
            reach = [self._spec.shift * n for n in slices.shape[2:]]
            self._affine.rand_affine_grid.translate_range = reach
            flat = self._affine(flat)
        return torch.as_tensor(flat).as_subclass(Tensor).reshape(slices.shape).clamp(0, 1)


def batch_count(cases: int, batch: int) -> int:
    """How many batches an epoch has. A last batch of one is left out: its gradient is that of a single study."""
    full, rest = divmod(cases, batch)
    return full + (rest > 1 or full == 0)


def training_batches(
    cases: CutCases,
    *,
    batch: int,
    slices: int | None,
    augmentation: Augmentation,
    rng: np.random.Generator,
) -> Iterator[tuple[list[dict[str, Tensor]], Tensor]]:
    """One epoch of shuffled batches: studies of slices, and their targets; `batch_count` of them."""
    order = rng.permutation(len(cases))
    for number in range(batch_count(len(cases), batch)):
        numbers = order[number * batch : (number + 1) * batch]
        studies = []
        for number in numbers:
            study = {}
            for view, array in cases.stacks[number].items():
                if slices is not None and len(array) > slices:
                    array = array[np.sort(rng.choice(len(array), slices, replace=False))]
                study[view] = augmentation(torch.from_numpy(array.astype(np.float32)))
            studies.append(study)
        yield studies, torch.from_numpy(cases.targets[numbers])
