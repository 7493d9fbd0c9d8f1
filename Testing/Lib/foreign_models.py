"""Small random models of other libraries, saved as those save them, and brought into timm."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from AnyMC3DLib.backbone import Backbone
from AnyMC3DLib.errors import BackboneError
from AnyMC3DLib.foreign import published
from AnyMC3DLib.foreign.layout import Network
from AnyMC3DLib.foreign.reading import ForeignWeights, read_weights


def published_too(*networks: tuple[str, int, int, int]) -> Callable[..., None]:
    """A fixture for a test file, by which small networks of (family, width, depth, heads) count as published.

    Files of the authors' own layouts have no config that would tell the heads.
    """

    @pytest.fixture(autouse=True)
    def small_networks_count_as_published(monkeypatch: pytest.MonkeyPatch) -> None:
        for family, width, depth, heads in networks:
            more = Network(f"small {family}", width, depth, heads)
            monkeypatch.setitem(published.NETWORKS, family, (*published.NETWORKS[family], more))

    return small_networks_count_as_published


def randomised(model: nn.Module, *, seed: int = 0, std: float = 0.2) -> nn.Module:
    """Every parameter and buffer of the model random, so that none is left out unnoticed."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * std)
        for name, buffer in model.named_buffers():
            if name.endswith("running_mean"):
                buffer.copy_(torch.randn(buffer.shape, generator=generator) * std)
            elif name.endswith("running_var"):
                buffer.copy_(torch.rand(buffer.shape, generator=generator) + 0.5)
    return model.eval()


def saved(model: nn.Module, folder: Path) -> Path:
    """The folder that the Transformers library writes for the model, as on the hub."""
    model.save_pretrained(folder)
    return folder


def picture(size: tuple[int, int], *, batch: int = 2) -> Tensor:
    """Random normalised slices [B, 3, H, W]."""
    return torch.randn(batch, 3, *size, generator=torch.Generator().manual_seed(1))


def backbone_of(weights: ForeignWeights) -> Backbone:
    """The weights as a backbone that takes slices as they are: mean 0, standard deviation 1."""
    return Backbone(weights.model, id="imported", mean=(0, 0, 0), std=(1, 1, 1))


def written(tensors: dict[str, Tensor], file: Path) -> Path:
    """The safetensors file of the tensors, in a folder that is made for it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    safetensors.torch.save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, file)
    return file


def assert_odd_tensors_are_refused(tensors: dict[str, Tensor], missing: str, named: str, folder: Path) -> None:
    """That the file without the tensor `missing` is refused with `named`, and one with another tensor by its name."""
    rest = {name: tensor for name, tensor in tensors.items() if name != missing}
    assert len(rest) == len(tensors) - 1
    with pytest.raises(BackboneError, match=named):
        read_weights(written(rest, folder / "less.safetensors"))
    with pytest.raises(BackboneError, match=r"'something\.else' does not belong"):
        read_weights(written({**tensors, "something.else": torch.ones(2)}, folder / "more.safetensors"))
