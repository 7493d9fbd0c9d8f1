"""Stored positions at another size are those of the library that trained them."""

from __future__ import annotations

import copy

import pytest
import timm
import torch
import torch.nn.functional as F
from foreign_models import picture, randomised
from torch import nn

from AnyMC3DLib.architecture import Architecture, Positions
from AnyMC3DLib.building import build_network
from AnyMC3DLib.errors import BackboneError
from AnyMC3DLib.positions import resampled, rotary_periods, use_positions

SMALL = {"depth": 1, "embed_dim": 32, "num_heads": 2, "img_size": 64}
TIMMS_OWN, PLAIN, SHIFTED = Positions(), Positions(antialias=False), Positions(antialias=False, offset=0.1)


def network(positions: Positions, name: str = "vit_tiny_patch16_224", **more: object) -> nn.Module:
    return randomised(
        build_network(Architecture(family="", timm=name, model_args={**SMALL, **more}, positions=positions))
    )


@pytest.mark.parametrize("how", [TIMMS_OWN, PLAIN, SHIFTED], ids=["timm", "plain", "shifted"])
@pytest.mark.parametrize("grid", [(4, 4), (3, 5), (8, 6)])
def test_patches_are_resampled_and_prefix_tokens_kept(how: Positions, grid: tuple[int, int]) -> None:
    stored = torch.randn(1, 2 + 16, 8)
    found = resampled(stored, prefix=2, native=(4, 4), grid=grid, how=how)
    table = stored[0, 2:].reshape(4, 4, 8).permute(2, 0, 1)[None]
    if grid != (4, 4):
        size = {"scale_factor": tuple((n + how.offset) / 4 for n in grid)} if how.offset else {"size": grid}
        table = F.interpolate(table, mode="bicubic", antialias=how.antialias, **size)
    assert torch.equal(found[:, :2], stored[:, :2])
    torch.testing.assert_close(found[0, 2:], table[0].permute(1, 2, 0).flatten(0, 1))


@pytest.mark.parametrize("side", [1, 2, 3, 5, 7, 12, 16, 24, 32, 37])
def test_a_shifted_grid_has_the_size_that_is_asked_for(side: int) -> None:
    stored = torch.randn(1, 37 * 37, 1)
    assert resampled(stored, prefix=0, native=(37, 37), grid=(side, 37), how=SHIFTED).shape[1] == side * 37


@pytest.mark.parametrize("more", [{}, {"reg_tokens": 2}, {"reg_tokens": 2, "no_embed_class": True}], ids=str)
@pytest.mark.parametrize("size", [(64, 64), (48, 80)])
def test_timms_own_way_is_timms(size: tuple[int, int], more: dict) -> None:
    own = randomised(timm.create_model("vit_tiny_patch16_224", num_classes=0, dynamic_img_size=True, **SMALL, **more))
    x = picture(size)
    with torch.no_grad():
        torch.testing.assert_close(network(TIMMS_OWN, **more)(x), own(x))


def test_other_ways_give_other_tokens_at_another_size_alone() -> None:
    models = [network(how) for how in (TIMMS_OWN, PLAIN, SHIFTED)]
    with torch.no_grad():
        native = [model.forward_features(picture((64, 64))) for model in models]
        other = [model.forward_features(picture((48, 80))) for model in models]
    assert torch.equal(native[0], native[1])
    assert torch.equal(native[0], native[2])
    assert (other[0] - other[1]).abs().max() > 1e-3
    assert (other[1] - other[2]).abs().max() > 1e-3


def test_the_stored_positions_are_left_as_they_are() -> None:
    model = network(SHIFTED)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with torch.no_grad():
        model(picture((48, 80)))
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert isinstance(model.pos_embed, nn.Parameter)
    assert model.patch_embed.grid_size == (4, 4)


def test_a_copy_resamples_its_own_positions() -> None:
    model = network(SHIFTED)
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.pos_embed.zero_()
        assert not torch.equal(other(picture((48, 80))), model(picture((48, 80))))


def test_a_network_without_a_table_is_left_alone() -> None:
    model = timm.create_model("test_resnet", num_classes=0)
    kind = type(model)
    use_positions(model, SHIFTED)
    assert type(model) is kind


def test_a_network_that_takes_one_size_alone_is_refused() -> None:
    model = timm.create_model("vit_tiny_patch16_224", num_classes=0, **SMALL)
    with pytest.raises(BackboneError, match="cannot be resampled"):
        use_positions(model, PLAIN)


def test_rounded_periods_need_rotary_positions() -> None:
    with pytest.raises(BackboneError, match="no rotary positions"):
        network(Positions(kind="any", rounded_periods=True))


def test_periods_run_from_1_towards_the_base() -> None:
    exact, rounded = (rotary_periods(100.0, 16, rounded=rounded) for rounded in (False, True))
    assert exact[0] == 1
    torch.testing.assert_close(exact[8], torch.tensor(10.0))
    torch.testing.assert_close(rounded, exact.bfloat16().float())
    assert not torch.equal(rounded, exact)


def test_what_timm_cannot_build_is_said() -> None:
    with pytest.raises(BackboneError, match="no model 'vit_of_nobody'"):
        build_network(Architecture(family="", timm="vit_of_nobody"))
    with pytest.raises(BackboneError, match="cannot build"):
        build_network(Architecture(family="", timm="vit_tiny_patch16_224", model_args={"wings": 2}))
