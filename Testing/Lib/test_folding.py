"""A grey slice through the first layer gives what the tripled slice gives, or three channels are used."""

from __future__ import annotations

import copy

import pytest
import torch
from networks import grey_slices, timm_model, tiny_backbone, tiny_network
from timm.layers import Conv2dSame
from torch import Tensor, nn

from AnyMC3DLib.folding import FoldingConv2d, is_exact
from AnyMC3DLib.lora import LoRAPair

UNEQUAL = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
EQUAL = {"mean": (0.5, 0.5, 0.5), "std": (0.25, 0.25, 0.25)}
EXACT = {
    "patch embedding": (nn.Conv2d(3, 5, 4, stride=4), UNEQUAL),
    "patch embedding without bias": (nn.Conv2d(3, 5, 4, stride=4, bias=False), UNEQUAL),
    "padded stem, equal statistics": (nn.Conv2d(3, 5, 3, stride=2, padding=1), EQUAL),
    "stem with SAME padding, equal statistics": (Conv2dSame(3, 5, 3, stride=2, bias=False), EQUAL),
}


def tripled(slices: Tensor, *, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """The oracle's input: three equal channels, each normalised by its own statistics."""
    shape = (1, 3, 1, 1)
    return (slices.repeat(1, 3, 1, 1) - torch.tensor(mean).reshape(shape)) / torch.tensor(std).reshape(shape)


def as_grey(slices: Tensor, *, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    return (slices - mean[0]) / std[0]


@pytest.mark.parametrize("name", EXACT)
def test_a_folded_layer_gives_the_output_of_the_tripled_slice(name: str) -> None:
    conv, statistics = EXACT[name]
    assert is_exact(conv, **statistics)
    slices = grey_slices(2, (20, 17) if "padd" in name.lower() else (20, 16))
    folded = FoldingConv2d(conv, **statistics)(as_grey(slices, **statistics))
    torch.testing.assert_close(folded, conv(tripled(slices, **statistics)), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", EXACT)
def test_an_adapter_on_a_folded_layer_changes_it_as_the_tripled_slice(name: str) -> None:
    conv, statistics = EXACT[name]
    folding = FoldingConv2d(conv, **statistics)
    pair = LoRAPair(folding, rank=3, scale=1.7)
    nn.init.normal_(pair.B)
    slices = grey_slices(2, (20, 16))
    adapted = copy.deepcopy(conv)
    adapted.weight.data = pair.merged(adapted.weight.data)
    x = as_grey(slices, **statistics)
    expected = adapted(tripled(slices, **statistics))
    torch.testing.assert_close(folding(x) + pair(folding, x), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", EXACT)
def test_a_folding_layer_leaves_three_channels_as_they_are(name: str) -> None:
    conv, statistics = EXACT[name]
    x = torch.randn(2, 3, 20, 16)
    assert torch.equal(FoldingConv2d(conv, **statistics)(x), conv(x))


def test_a_folding_layer_has_the_weights_and_the_description_of_the_layer_it_replaces() -> None:
    conv = nn.Conv2d(3, 5, 4, stride=4)
    folding = FoldingConv2d(conv, **UNEQUAL)
    assert folding.weight is conv.weight
    assert folding.state_dict().keys() == conv.state_dict().keys()
    assert folding.extra_repr() == conv.extra_repr()


@pytest.mark.parametrize(
    ("conv", "statistics"),
    [
        (nn.Conv2d(3, 5, 3, padding=1), UNEQUAL),
        (Conv2dSame(3, 5, 3, stride=2), UNEQUAL),
        (nn.Conv2d(3, 5, 3, padding="same"), UNEQUAL),
        (nn.Conv2d(3, 5, 3, padding=1, padding_mode="reflect"), EQUAL),
        (nn.Conv2d(1, 5, 4, stride=4), EQUAL),
        (nn.Conv2d(3, 6, 4, stride=4, groups=3), UNEQUAL),
        (nn.Linear(3, 5), EQUAL),
    ],
)
def test_what_folding_would_change_is_not_called_exact(conv: nn.Module, statistics: dict) -> None:
    assert not is_exact(conv, **statistics)


def test_a_padded_stem_with_unequal_statistics_gets_three_channels_and_stays_right() -> None:
    reference = timm_model("test_efficientnet")
    backbone = tiny_backbone("test_efficientnet")
    slices = grey_slices(2)
    assert not backbone.folds_grey
    assert backbone.normalise(slices).shape[1] == 3
    expected = reference(tripled(slices, mean=backbone.mean, std=backbone.std))
    torch.testing.assert_close(backbone.encode(slices).embedding, expected, rtol=1e-5, atol=1e-5)


def test_a_grey_slice_is_one_channel_in_a_backbone_that_folds() -> None:
    assert tiny_backbone(depth=1).normalise(grey_slices(2)).shape[1] == 1


def test_a_plugin_with_a_normalisation_of_its_own_is_not_folded_by_the_backbones() -> None:
    backbone, reference = tiny_backbone(depth=2), timm_model(depth=2)
    own = {"mean": (0.1, 0.2, 0.3), "std": (0.5, 0.6, 0.7)}
    slices = grey_slices(2)
    expected = reference(tripled(slices, **own))
    torch.testing.assert_close(backbone.encode(slices, **own).embedding, expected, rtol=1e-5, atol=1e-5)


def test_a_whole_adapted_network_gives_the_same_for_grey_and_tripled_slices() -> None:
    backbone = tiny_backbone("vit_small_patch16_dinov3", depth=2, embed_dim=48, num_heads=3)
    assert backbone.folds_grey
    assert len(set(backbone.mean)) == 3
    network = tiny_network(backbone)
    view = network.spec.views[0]
    slices = grey_slices(3)
    three = network.encode(view, slices.repeat(1, 3, 1, 1)).embedding
    torch.testing.assert_close(network.encode(view, slices).embedding, three, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(three, backbone.encode(slices).embedding, atol=1e-2)
