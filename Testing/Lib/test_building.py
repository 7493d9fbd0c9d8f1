"""Two descriptions of a network are one where the networks are one, and what tells them apart is named."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from AnyMC3DLib.architecture import Architecture, Positions
from AnyMC3DLib.building import are_alike, difference, shortest

DINOV3 = "vit_small_patch16_dinov3"


def network(name: str = "test_vit", *, norm_eps: float = 0.0, rounded: bool = False, **model_args: Any) -> Architecture:
    """A small network of timm's by name and arguments."""
    arguments = {"depth": 1, **model_args} if "vit" in name else model_args
    positions = Positions(kind="any", rounded_periods=rounded)
    return Architecture(family="", timm=name, model_args=arguments, norm_eps=norm_eps, positions=positions)


DIFFERENT = {
    "epsilon": ({}, {"norm_eps": 1e-12}, "epsilon of the norms (its layer 'blocks.0.norm1')", "1e-06", "1e-12"),
    "activation": ({}, {"act_layer": "quick_gelu"}, "activation (its layer 'blocks.0.mlp.act')", "GELU", "QuickGELU"),
    "heads": ({}, {"num_heads": 4}, "number of heads (its layer 'blocks.0.attn')", "2", "4"),
    "tensor": ({}, {"depth": 2}, "tensor 'blocks.1.norm1.weight'", "missing", "[64]"),
    "shape": ({}, {"mlp_ratio": 2}, "tensor 'blocks.0.mlp.fc1.weight'", "[192, 64]", "[128, 64]"),
    "strides": (
        {"name": "resnet18"}, {"name": "resnet18", "output_stride": 16}, "stride (its layer 'layer4.0')", "2", "1",
    ),
    "rotary base": (
        {"name": DINOV3}, {"name": DINOV3, "rope_temperature": 50.0},
        "base of the rotary positions (its layer 'rope')", "100.0", "50.0",
    ),
    "rotary periods": (
        {"name": DINOV3}, {"name": DINOV3, "rounded": True}, "kind of layer (its layer 'rope')",
        "RotaryEmbeddingDinoV3", "RoundedPeriods",
    ),
}  # fmt: skip


@pytest.mark.parametrize("trait", DIFFERENT)
def test_the_trait_that_differs_is_named_with_both_values(trait: str) -> None:
    one, other, *words = DIFFERENT[trait]
    found = difference(network(**one), network(**other))
    assert found is not None
    assert [found.trait, found.first, found.second] == words
    turned = difference(network(**other), network(**one))
    assert turned is not None
    assert (turned.first, turned.second) == (found.second, found.first)


def test_a_trait_that_says_more_is_named_before_one_that_says_less() -> None:
    found = difference(network(), network(norm_eps=1e-12, act_layer="quick_gelu", num_heads=4))
    assert found is not None and found.trait.startswith("activation")
    found = difference(network(), network(norm_eps=1e-12, num_heads=4))
    assert found is not None and found.trait.startswith("number of heads")


def test_other_words_for_the_same_network_are_no_difference() -> None:
    assert difference(network(), network(num_heads=2, embed_dim=64, norm_eps=1e-6, drop_rate=0.5)) is None
    elsewhere = dataclasses.replace(network(), family="another", input_size=(32, 32), mean=(0.5, 0.5, 0.5))
    assert are_alike(network(), elsewhere)
    positions = Positions(antialias=False, offset=0.1)
    assert are_alike(network(), dataclasses.replace(network(), positions=positions))


def test_the_shortest_description_is_the_name_alone_where_that_is_the_same_network() -> None:
    full = network(DINOV3, depth=12, num_heads=6)
    assert shortest(full, [DINOV3]).model_args == {}
    other = network(DINOV3, depth=12, num_heads=12)
    assert shortest(other, [DINOV3]) == other
