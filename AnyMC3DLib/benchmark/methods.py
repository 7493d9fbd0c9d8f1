"""The methods that are compared: each says what becomes of a task, on which network, and what its slices become.

All are trained by the same trainer on the same splits and measured alike.
"""

from __future__ import annotations

import abc
import dataclasses
import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch

from ..backbone import Backbone
from ..catalogue import find_backbone
from ..errors import InputError
from ..opening import backbone_of, create_model, open_backbone
from ..spec import FusionSpec, LoRASpec, RegionSpec, SliceSpec, ViewSpec
from ..training.augmentation_spec import AugmentationSpec
from ..training.methods import Method as PluginMethod
from ..training.methods import with_method
from ..training.run import PLUGIN_BUILD, Build
from ..training.task import TaskSpec
from .config import RowConfig
from .raptor import RaptorNetwork
from .sequence_fusion import SequenceNetwork, neighbours_as_channels
from .volume_networks import VolumeNetwork, planes_as_channels, volume_backbone

FUSIONS, SEQUENCES = ("attention", "mean", "median", "max"), ("lstm", "transformer")
SCRATCH_RATE = 1e-3  # of networks whose weights begin at random, as MedMNIST's 3D networks are trained


@dataclasses.dataclass(frozen=True)
class Method(abc.ABC):
    """A way to train and test a task; `names` says what it is called and who published it."""

    name: str

    # Whether it looks at slices through a 2D backbone that is chosen apart from the method.
    takes_backbone: ClassVar[bool] = True

    @property
    def warms_up(self) -> bool:
        """Whether it learns on frozen embeddings, first or alone."""
        return True

    @property
    def tunes(self) -> bool:
        """Whether it trains what lies before the embeddings."""
        return True

    @abc.abstractmethod
    def task(self, task: TaskSpec, config: RowConfig) -> TaskSpec:
        """The task as this method trains it under `config`; raises InputError where they do not fit."""

    def own_values(self, task: TaskSpec) -> dict[str, Any]:
        """The task's own values of the axes that the method has: what it does where a row does not say."""
        return {}

    def backbone(self, config: RowConfig, *, weights: Path | None = None) -> Backbone:
        """The network under it, with random weights where `config` says so; `weights` is the file of a 3D one."""
        if weights is not None:
            raise InputError(f"The method '{self.name}' takes its weights from its backbone: leave the file away.")
        return open_backbone(config.backbone) if config.pretrained else random_backbone(config)

    @abc.abstractmethod
    def build(self, task: TaskSpec, config: RowConfig) -> Build:
        """What is built on it for the task that `task` gave."""


@dataclasses.dataclass(frozen=True)
class OnSlices(Method):
    """What a plugin's parts make: adapters or none, a fusion, a linear head; or the whole backbone with them."""

    way: PluginMethod = "lora"

    @property
    def tunes(self) -> bool:
        """Where there are adapters, or the whole backbone learns."""
        return self.way in ("lora", "full")

    def own_values(self, task: TaskSpec) -> dict[str, Any]:
        """The fusion, but for a probe, whose fusion it is; the rank, where there are adapters."""
        fusion = {} if self.way == "probe" else {"fusion": task.plugin.fusion.kind}
        return {**fusion, **({"rank": task.plugin.lora.rank} if self.way == "lora" else {})}

    def task(self, task: TaskSpec, config: RowConfig) -> TaskSpec:
        """With the adapters, the fusion and the views that `config` names."""
        task = _with_fusion(configured(with_method(_with_adapters(task, config), self.way), config), config.fusion)
        if self.way == "full" and not config.pretrained:
            # What embeddings of random weights are like says nothing of those that are learnt.
            head = dataclasses.replace(task.plugin.head, standardise=False)
            return dataclasses.replace(task, plugin=dataclasses.replace(task.plugin, head=head))
        return task

    def build(self, task: TaskSpec, config: RowConfig) -> Build:
        """A plugin's network, with another fusion where `config` names one that plugins do not have."""
        if config.fusion in SEQUENCES:
            return Build(functools.partial(SequenceNetwork, kind=config.fusion))
        # Random weights need their normalisation layers to learn too.
        return Build(VolumeNetwork) if self.way == "full" and not config.pretrained else PLUGIN_BUILD


@dataclasses.dataclass(frozen=True)
class SliceSequence(Method):
    """A fine-tuned backbone, and a network over the sequence of its slices."""

    kind: Literal["lstm", "transformer"] = "transformer"
    neighbours: bool = False

    def task(self, task: TaskSpec, config: RowConfig) -> TaskSpec:
        """Trained as a whole; a step sees all slices in their order, as a test does."""
        _none_of(self, config, "fusion", "rank", "targets")
        task = with_method(task, "full")
        recipe = dataclasses.replace(task.training, slices=None)
        return configured(dataclasses.replace(task, training=recipe), config)

    def build(self, task: TaskSpec, config: RowConfig) -> Build:
        """The sequence's network; with `neighbours` a slice's channels are the one before, itself and the next."""
        network = functools.partial(SequenceNetwork, kind=self.kind)
        return Build(network, neighbours_as_channels) if self.neighbours else Build(network)


class OnVolumes(Method):
    """A 3D network, from random weights or from those of a file."""

    takes_backbone: ClassVar[bool] = False

    @property
    def warms_up(self) -> bool:
        """Not on the embeddings of a network that knows nothing."""
        return False

    def task(self, task: TaskSpec, config: RowConfig) -> TaskSpec:
        """What the first view looks at, as many voxels a side as the size says, never scaled to what is in it."""
        _none_of(self, config, "fusion", "rank", "targets", "views", "backbone")
        side = config.size or 32
        task = with_method(task, "full")
        view = task.plugin.views[0]
        cut = view.preprocessing
        if cut.spacing_mm is not None and cut.size is not None:
            voxel = cut.spacing_mm * cut.size[0] / side
            slices = SliceSpec(policy="thickness", thickness_mm=voxel)
            cut = dataclasses.replace(cut, size=(side, side), spacing_mm=voxel, slices=slices)
        else:
            # Scaled to its foreground a small structure would look like a large one.
            region = RegionSpec() if cut.region.kind == "foreground" else cut.region
            slices = SliceSpec(policy="at_most", count=side)
            cut = dataclasses.replace(cut, region=region, size=(side, side), slices=slices)
        plugin = dataclasses.replace(
            task.plugin,
            views=(dataclasses.replace(view, preprocessing=cut),),
            fusion=FusionSpec(kind="mean"),
            head=dataclasses.replace(task.plugin.head, standardise=False),
        )
        rate = task.training.backbone_rate if config.pretrained and config.weights else SCRATCH_RATE
        ratio = side / (view.preprocessing.size or (side, side))[0]
        recipe = dataclasses.replace(
            task.training,
            warm_up_epochs=0,
            backbone_rate=rate,
            augmentation=_scaled(task.training.augmentation, ratio),
        )
        changed = dataclasses.replace(task, plugin=plugin, training=recipe)
        return configured(changed, dataclasses.replace(config, size=None))

    def backbone(self, config: RowConfig, *, weights: Path | None = None) -> Backbone:
        """The 3D network, its random weights by the row's seed."""
        return volume_backbone(self.name, seed=config.seed, weights=weights)

    def build(self, task: TaskSpec, config: RowConfig) -> Build:
        """A study is one picture whose channels are the planes of its volume."""
        (view,) = task.plugin.views
        return Build(VolumeNetwork, functools.partial(planes_as_channels, side=view.preprocessing.size[0]))


class RandomProjection(Method):
    """Raptor: patch tokens of a frozen backbone under one random projection, averaged over slices of three axes."""

    @property
    def tunes(self) -> bool:
        """Nothing before the linear layer learns."""
        return False

    def task(self, task: TaskSpec, config: RowConfig) -> TaskSpec:
        """A linear layer on standardised features; a task of one view is looked at along all three axes."""
        _none_of(self, config, "fusion", "rank", "targets")
        task = configured(with_method(task, "probe"), config)
        views = task.plugin.views
        plugin = dataclasses.replace(
            task.plugin,
            views=_three_axes(views[0]) if len(views) == 1 else views,
            head=dataclasses.replace(task.plugin.head, standardise=True),
        )
        return dataclasses.replace(task, plugin=plugin)

    def build(self, task: TaskSpec, config: RowConfig) -> Build:
        """The projection is drawn by the row's seed."""
        return Build(functools.partial(RaptorNetwork, seed=config.seed))


METHODS: Mapping[str, Method] = {
    method.name: method
    for method in (
        OnSlices("anymc3d", way="lora"),
        OnSlices("frozen", way="frozen"),
        OnSlices("probe", way="probe"),
        OnSlices("full", way="full"),
        SliceSequence("mst", kind="transformer"),
        SliceSequence("cnn-lstm", kind="lstm", neighbours=True),
        OnVolumes("resnet18-3d"),
        OnVolumes("resnet50-3d"),
        OnVolumes("densenet121-3d"),
        RandomProjection("raptor"),
    )
}


def find_method(name: str) -> Method:
    """The method called `name`; raises InputError if there is none."""
    if name not in METHODS:
        raise InputError(f"There is no method '{name}': choose from {', '.join(METHODS)}.")
    return METHODS[name]


def random_backbone(config: RowConfig) -> Backbone:
    """The backbone's network with random weights, by the row's seed: a control that says what its weights are worth."""
    entry = find_backbone(config.backbone)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        return backbone_of(create_model(entry).eval(), entry)


def configured(task: TaskSpec, config: RowConfig) -> TaskSpec:
    """The task with what `config` says of size, views, masks and recipe in the place of what it has."""
    plugin, recipe = task.plugin, task.training.to_dict()
    views = plugin.views if config.views is None else _chosen(plugin.views, config.views, task=plugin.name)
    if config.size is not None:
        ratio = config.size / (views[0].preprocessing.size or (config.size,))[0]
        recipe["augmentation"] = _scaled(task.training.augmentation, ratio).to_dict()
        views = tuple(_at_size(view, config.size) for view in views)
    if config.pixels is not None:
        recipe["pixels"] = {**recipe["pixels"], "weight": config.pixels}
    recipe |= {"seed": config.seed} | ({} if config.epochs is None else {"epochs": config.epochs})
    unknown = sorted(set(config.recipe) - set(recipe))
    if unknown:
        raise InputError(f"A recipe has no field '{unknown[0]}': check its spelling.")
    training = type(task.training).from_dict({**recipe, **config.recipe}, where=f"The recipe of '{config.dataset}'")
    return dataclasses.replace(task, plugin=dataclasses.replace(plugin, views=views), training=training)


def _with_adapters(task: TaskSpec, config: RowConfig) -> TaskSpec:
    lora = task.plugin.lora
    if config.rank is not None:
        # What an adapter adds is scaled by alpha / rank, which stays the same.
        alpha = lora.alpha / lora.rank * config.rank if lora.rank else 2.0 * config.rank
        lora = dataclasses.replace(lora, rank=config.rank, alpha=alpha or LoRASpec().alpha)
    if config.targets is not None:
        lora = dataclasses.replace(lora, targets=config.targets)
    return dataclasses.replace(task, plugin=dataclasses.replace(task.plugin, lora=lora))


def _with_fusion(task: TaskSpec, kind: str | None) -> TaskSpec:
    if kind is None or kind in SEQUENCES:
        return task
    if kind not in FUSIONS:
        raise InputError(f"There is no fusion '{kind}': choose from {', '.join((*FUSIONS, *SEQUENCES))}.")
    fusion = dataclasses.replace(task.plugin.fusion, kind=kind)
    return dataclasses.replace(task, plugin=dataclasses.replace(task.plugin, fusion=fusion))


def _chosen(views: tuple[ViewSpec, ...], names: tuple[str, ...], *, task: str) -> tuple[ViewSpec, ...]:
    known = {view.name: view for view in views}
    absent = [name for name in names if name not in known]
    if absent or not names:
        raise InputError(f"'{task}' has no view '{absent[0] if absent else ''}': it has {', '.join(known)}.")
    return tuple(known[name] for name in names)


def _at_size(view: ViewSpec, size: int) -> ViewSpec:
    """The view with slices of `size` pixels a side that show what they showed."""
    cut = view.preprocessing
    spacing = cut.spacing_mm
    if spacing is not None and cut.size is not None:
        spacing = spacing * cut.size[0] / size
    return dataclasses.replace(view, preprocessing=dataclasses.replace(cut, size=(size, size), spacing_mm=spacing))


def _scaled(augmentation: AugmentationSpec, ratio: float) -> AugmentationSpec:
    """What is said in pixels, for pictures of `ratio` times as many a side: the same part of the picture."""
    low, high = (min(20.0, max(0.01, ratio * sigma)) for sigma in augmentation.blur_sigma)
    return dataclasses.replace(augmentation, shift_pixels=ratio * augmentation.shift_pixels, blur_sigma=(low, high))


def _three_axes(view: ViewSpec) -> tuple[ViewSpec, ...]:
    axes: tuple[Literal["axial", "coronal", "sagittal"], ...] = ("axial", "coronal", "sagittal")
    return tuple(
        dataclasses.replace(view, name=axis, preprocessing=dataclasses.replace(view.preprocessing, axis=axis))
        for axis in axes
    )


def _none_of(method: Method, config: RowConfig, *names: str) -> None:
    """Raise InputError where the row sets what the method does not have: two rows would be one under two names."""
    empty: Mapping[str, Callable[[], object]] = {"backbone": str}
    for name in names:
        if getattr(config, name) != empty.get(name, lambda: None)():
            raise InputError(f"The method '{method.name}' has no {name} to set: leave it away for it.")
