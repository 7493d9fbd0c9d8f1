"""3D networks that the trainer takes for a backbone: a study is one picture, its channels the planes of a volume."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from monai.networks.nets import DenseNet121, ResNet, resnet18, resnet50
from torch import Tensor, nn

from ..architecture import Architecture
from ..backbone import Encoded
from ..errors import BackboneError
from ..foreign.checkpoint import read_checkpoint
from ..foreign.reading import load_exactly
from ..lora import AdapterSites, Rows
from ..model import PluginNetwork
from ..spec import ViewSpec
from ..training.slices import CutCases
from ..weights import digest_of

# What stands before the names of tensors in files of larger programs, from the outside in.
PREFIXES = ("module.", "model.", "network.", "backbone.", "encoder.")
# What is no part of the features: classifiers, and decoders of segmentations.
HEADS = ("fc.", "classifier.", "class_layers.", "conv_seg.", "head.", "heads.", "decoder.", "seg_head.", "projector.")


class VolumeBackbone:
    """A 3D network with the face of a `Backbone`: one "slice" of D channels is a volume of D planes."""

    architecture: Architecture | None = None
    kind = "cnn"
    multiple_of = 1
    fixed_size: tuple[int, int] | None = None
    # Grey values of volumes are centred; there are no colours to be told apart.
    mean = (0.5, 0.5, 0.5)
    std = (0.5, 0.5, 0.5)

    def __init__(self, model: nn.Module, *, id: str, embed_dim: int, least: int = 1) -> None:  # noqa: A002
        """`model` takes [N, 1, D, H, W] to features [N, embed_dim], where no side is shorter than `least` voxels."""
        self.id, self.embed_dim, self._least = id, embed_dim, least
        self.model_args: Mapping[str, Any] = {}
        self.digest = digest_of(model)
        self.model = model.eval().requires_grad_(False)
        self.sites = AdapterSites(model)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.model.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """The precision of the weights."""
        return next(self.model.parameters()).dtype

    def to(self, device: torch.device | str) -> VolumeBackbone:
        """Move the weights."""
        self.model.to(device)
        return self

    def set_precision(self, dtype: torch.dtype) -> None:
        """Raise BackboneError for anything but float32: a network that is trained as a whole needs it."""
        if dtype != torch.float32:
            raise BackboneError(f"'{self.id}' is a 3D network, which is trained in float32 alone, not in {dtype}.")

    def encode(
        self,
        slices: Tensor,
        *,
        adapters: Sequence[Rows] = (),
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        attention: bool = False,
        tail: bool = False,
    ) -> Encoded:
        """Embed volumes [N, D, H, W] in [0, 1] to [N, embed_dim]; a short side gets zeros evenly at both ends.

        Of `mean` and `std` the first value counts. There is no attention; raises BackboneError for the `tail` of class
        maps and for adapters, which a 3D network does not have.
        """
        if tail or adapters:
            raise BackboneError(f"'{self.id}' is a 3D network, which has neither adapters nor class maps.")
        volumes = _widened(slices, self._least)
        volumes = (volumes - (mean or self.mean)[0]) / (std or self.std)[0]
        return Encoded(self.model(volumes[:, None].to(self.dtype)))


class VolumeNetwork(PluginNetwork):
    """A fusion and a head on a backbone whose batch norms learn too, as those of a network with random weights must."""

    @property
    def learns_across_studies(self) -> bool:
        """Batch norms do, wherever the memory would cut the batch."""
        return True

    def train(self, mode: bool = True) -> VolumeNetwork:
        """As torch's, and the backbone's layers with it."""
        super().train(mode)
        self.backbone.model.train(mode)
        return self

    def encode(self, view: ViewSpec, slices: Tensor, *, attention: bool = False, tail: bool = False) -> Encoded:
        """As the plugin's; one picture alone is normalised by the running statistics, since it has none of its own."""
        if len(slices) > 1 or not self.backbone.model.training:
            return super().encode(view, slices, attention=attention, tail=tail)
        with _by_running_statistics(self.backbone.model):
            return super().encode(view, slices, attention=attention, tail=tail)

    def close(self) -> None:
        """As the plugin's; the backbone is left as it answers, not as it learns."""
        super().close()
        self.backbone.model.eval()


def volume_backbone(name: str, *, seed: int, weights: Path | None = None) -> VolumeBackbone:
    """The 3D network called `name` ("resnet18-3d", "resnet50-3d" or "densenet121-3d") without its classifier.

    Its weights are random by `seed`, or those of the file `weights`: MedicalNet's (arXiv 1904.00625) for the ResNets,
    or any file with MONAI's names of tensors, also below a prefix of PREFIXES. Raises BackboneError for an unknown
    name, and for a file that cannot be read safely, or whose tensors are not this network's, all of them.
    """
    if name not in NETWORKS:
        raise BackboneError(f"There is no 3D network '{name}': choose from {', '.join(NETWORKS)}.")
    network = NETWORKS[name]
    with torch.random.fork_rng(devices=[]):
        # Of this process's CPU alone: `torch.manual_seed` would seed GPUs too.
        torch.default_generator.manual_seed(seed)
        model = network.make()
    if weights is not None:
        tensors = _own_tensors(read_checkpoint(weights).tensors, first=network.first, file=Path(weights).name)
        load_exactly(model, tensors, of=f"a {name}")
    return VolumeBackbone(model, id=name, embed_dim=network.embed_dim, least=network.least)


def planes_as_channels(cases: CutCases, side: int) -> CutCases:
    """The cases with each stack [S, C, H, W] as one picture [1, `side`, H, W] of its planes.

    Fewer planes than `side` get empty ones evenly at both ends (one more at the end where they do not come out even);
    of more, each new plane is the average of those that it covers. Several channels, such as windows, are averaged to
    one grey value. Masks are left out, which 3D networks do not learn from.
    """
    stacks = [{view: _planes(array, side) for view, array in case.items()} for case in cases.stacks]
    return dataclasses.replace(cases, stacks=stacks, masks=[])


def _planes(array: npt.NDArray[np.floating], side: int) -> npt.NDArray[np.floating]:
    grey = np.asarray(array).astype(np.float32).mean(axis=1)
    count = len(grey)
    if count > side:
        # By exact shares of the planes at the edges: pooling layers would count these in twice.
        edges = np.arange(side + 1) * count / side
        starts = np.arange(count)
        covered = np.minimum(edges[1:, None], starts + 1) - np.maximum(edges[:-1, None], starts)
        shares = np.clip(covered, 0, None) * side / count
        planes = np.einsum("ts,shw->thw", shares.astype(np.float32), grey)
    else:
        before = (side - count) // 2
        planes = np.pad(grey, ((before, side - count - before), (0, 0), (0, 0)))
    return planes.astype(array.dtype)[None]


def _widened(volumes: Tensor, least: int) -> Tensor:
    missing = [max(0, least - length) for length in volumes.shape[:0:-1]]
    pads = [part for total in missing for part in (total // 2, total - total // 2)]
    return F.pad(volumes, pads) if any(pads) else volumes


@contextmanager
def _by_running_statistics(model: nn.Module) -> Iterator[None]:
    model.eval()
    try:
        yield
    finally:
        model.train()


# Networks


@dataclasses.dataclass(frozen=True)
class _Network:
    """How to make a network of `embed_dim` features, its `first` tensor's name, its shortest side in voxels."""

    make: Callable[[], nn.Module]
    embed_dim: int
    first: str
    least: int = 1


def _resnet18() -> nn.Module:
    # The first layer's stride of 2 and the shortcuts without weights are MedicalNet's, whose weights then fit.
    model = resnet18(
        spatial_dims=3, n_input_channels=1, conv1_t_stride=2, shortcut_type="A", feed_forward=False,
        bias_downsample=True,
    )  # fmt: skip
    _let_gradients_through(model)
    return model


def _resnet50() -> nn.Module:
    return resnet50(
        spatial_dims=3, n_input_channels=1, conv1_t_stride=2, shortcut_type="B", feed_forward=False,
        bias_downsample=False,
    )  # fmt: skip


def _densenet121() -> nn.Module:
    model = DenseNet121(spatial_dims=3, in_channels=1, out_channels=1)
    model.class_layers.out = nn.Identity()
    return model


NETWORKS: Mapping[str, _Network] = {
    "resnet18-3d": _Network(_resnet18, 512, "conv1.weight"),
    "resnet50-3d": _Network(_resnet50, 2048, "conv1.weight"),
    "densenet121-3d": _Network(_densenet121, 1024, "features.conv0.weight", least=32),
}


class PaddedShortcut(nn.Module):
    """Shortcut A of arXiv 1512.03385: every `stride`-th voxel, and zeros for the channels that are new."""

    def __init__(self, stride: int, planes: int) -> None:
        super().__init__()
        self.stride, self.planes = stride, planes

    def forward(self, x: Tensor) -> Tensor:
        """From [N, C, D, H, W] to [N, planes, D / stride, ...], rounded up."""
        kept = x[..., :: self.stride, :: self.stride, :: self.stride]
        return F.pad(kept, (0, 0, 0, 0, 0, 0, 0, self.planes - kept.shape[1]))


def _let_gradients_through(model: ResNet) -> None:
    """MONAI's shortcut A gives the same values, but cuts them off from their gradients."""
    for stage in (model.layer2, model.layer3, model.layer4):
        block = stage[0]
        block.downsample = PaddedShortcut(block.stride, block.conv2.out_channels)


def _own_tensors(tensors: Mapping[str, Tensor], *, first: str, file: str) -> dict[str, Tensor]:
    """The network's tensors by its own names, without heads; `first` is the name of one that it must have."""
    start = next((name.removesuffix(first) for name in tensors if _is_prefix(name, first)), None)
    if start is None:
        raise BackboneError(
            f"'{file}' holds no tensor '{first}' as this network has: give the weights of another file."
        )
    outside = [name for name in tensors if not name.startswith(start) and not name.startswith(HEADS)]
    if outside:
        raise BackboneError(
            f"The weights in '{file}' hold {len(outside)} tensors besides the network in '{start}', such as "
            f"'{outside[0]}': give a file of the network alone."
        )
    inner = {name.removeprefix(start): tensor for name, tensor in tensors.items() if name.startswith(start)}
    return {name: tensor for name, tensor in inner.items() if not name.startswith(HEADS)}


def _is_prefix(name: str, first: str) -> bool:
    """Whether `name` is `first` below prefixes that are known, or below none."""
    rest = name.removesuffix(first)
    while rest != name and rest:
        prefix = next((known for known in PREFIXES if rest.startswith(known)), None)
        if prefix is None:
            return False
        rest = rest.removeprefix(prefix)
    return name.endswith(first) and not rest
