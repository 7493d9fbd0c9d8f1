"""Entering a network late gives what a whole run gives, costs no memory for what is passed by, and leaves no trace."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from networks import KINDS, SIZES, WITH_CLASS_ATTENTION, backbone_of_kind, grey_slices, tiny_backbone, tiny_network
from torch import Tensor, nn

from AnyMC3DLib.backbone import Backbone
from AnyMC3DLib.entrances import Entrances, Stage
from AnyMC3DLib.lora import Rows
from AnyMC3DLib.relevance import tail_contributions
from AnyMC3DLib.spec import LoRASpec
from AnyMC3DLib.weights import digest_of

# Kinds whose class maps start from a feature map behind which the network can be entered.
CNNS = ["EfficientNet", "ConvNeXt", "wide pooled features"]


def assert_no_trace(model: nn.Module) -> None:
    """No module has a forward of its own or a hook."""
    for name, module in model.named_modules():
        assert "forward" not in vars(module), name
        assert not module._forward_hooks, name
        assert not module._forward_pre_hooks, name


# Every kind of backbone


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_entering_at_any_unit_gives_the_embedding_of_a_whole_run(kind: str) -> None:
    backbone = backbone_of_kind(kind)
    units = len(backbone.entrances.names)
    # The blank is one slice of 32 x 32.
    for count, size in zip((3, 1, 5), SIZES, strict=True):
        begun = backbone.begin(grey_slices(count, size))
        whole = backbone.encode_from(begun).embedding
        for unit in range(units):
            at = backbone.entrances.nearest(unit)
            late = backbone.encode_from(backbone.advance(begun, at)).embedding
            assert torch.equal(late, whole), (backbone.entrances.names[at], count, size)
    # None of these models joins units in a way of its own.
    assert [backbone.entrances.nearest(unit) for unit in range(units)] == list(range(units))
    assert_no_trace(backbone.model)


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_going_from_entrance_to_entrance_arrives_with_the_values_of_one_step(kind: str) -> None:
    backbone = backbone_of_kind(kind)
    begun, last = backbone.begin(grey_slices(3)), len(backbone.entrances.names) - 1
    stage = begun
    for unit in range(1, last + 1):
        stage = backbone.advance(stage, unit)
        direct = backbone.advance(begun, unit)
        assert stage.at == direct.at == unit
        assert torch.equal(stage.values, direct.values)
        assert [p.shape for p in stage.passed] == [p.shape for p in direct.passed]
        assert len(stage.passed) == unit


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_what_is_passed_by_has_its_shape_and_takes_the_memory_of_one_value(kind: str) -> None:
    backbone = backbone_of_kind(kind)
    shapes: list[torch.Size] = []
    modules = [backbone.model.get_submodule(name) for name in backbone.entrances.names]
    handles = [module.register_forward_hook(lambda *args: shapes.append(args[2].shape)) for module in modules]
    begun = backbone.begin(grey_slices(3))
    backbone.encode_from(begun)
    for handle in handles:
        handle.remove()
    stage = backbone.advance(begun, len(modules) - 1)
    assert [stand_in.shape for stand_in in stage.passed] == shapes[:-1]
    assert stage.x.shape == begun.x.shape
    for stand_in in (stage.x, *stage.passed):
        assert stand_in.untyped_storage().nbytes() == stand_in.element_size()


@pytest.mark.parametrize("kind", WITH_CLASS_ATTENTION)
@torch.no_grad()
def test_attention_and_class_maps_are_those_of_a_whole_run(kind: str) -> None:
    backbone = backbone_of_kind(kind)
    network = tiny_network(backbone, lora=LoRASpec(rank=2, targets=("attention", "mlp"), last_blocks=1))
    slices, view = grey_slices(3), network.spec.views[0]
    at = backbone.entrance(network.adapters["axial"].layers)
    assert backbone.entrances.names[at] == "blocks.1"
    whole = network.encode(view, slices, attention=True, tail=True)
    rows = [Rows(network.adapter_key("axial"))]
    stage = backbone.advance(backbone.begin(slices), at)
    late = backbone.encode_from(stage, adapters=rows, attention=True, tail=True)
    gradients = torch.randn(2, 3, backbone.embed_dim, generator=torch.Generator().manual_seed(0))
    assert torch.equal(late.embedding, whole.embedding)
    assert torch.equal(late.attention, whole.attention)
    assert torch.equal(tail_contributions(late.tail, gradients), tail_contributions(whole.tail, gradients))


@pytest.mark.parametrize("kind", [*CNNS, "ResNet"])
@pytest.mark.parametrize("advanced", [False, True])
def test_a_cnns_class_map_from_a_late_entrance_is_that_of_the_long_way(kind: str, advanced: bool) -> None:
    backbone = backbone_of_kind(kind)
    network = tiny_network(backbone, lora=LoRASpec(rank=2, last_blocks=1))
    slices, merged = grey_slices(3, (64, 96)), backbone.sites.merged(network.adapter_key("axial"))
    gradients = torch.randn(4, 3, backbone.embed_dim, generator=torch.Generator().manual_seed(0))
    assert backbone._behind_map_layer > 0
    at = backbone.entrance(network.adapters["axial"].layers) if advanced else 0
    assert bool(at) == advanced
    maps = []
    with merged, torch.no_grad():
        stage = backbone.advance(backbone.begin(slices), at)
        maps.append(tail_contributions(backbone.encode_from(stage, tail=True).tail, gradients))
        # The long way is that of networks that cannot be entered behind the map.
        vars(backbone)["_behind_map_layer"] = 0
        long = backbone.encode(slices, tail=True).tail
        maps.append(tail_contributions(long, gradients))
    assert maps[0].shape == (2, 4, 3, *long.grid)
    torch.testing.assert_close(maps[0], maps[1], rtol=1e-5, atol=1e-6 * float(maps[1].max()))
    assert maps[1].std() > 0


@pytest.mark.parametrize("kind", CNNS)
def test_the_tail_of_a_cnns_mixed_batch_is_adapted_row_by_row(kind: str) -> None:
    backbone = backbone_of_kind(kind)
    networks = [tiny_network(backbone, seed=n) for n in range(2)]
    rows = [Rows(network.adapter_key("axial"), n, n + 1) for n, network in enumerate(networks)]
    with torch.no_grad():
        encoded = backbone.encode(grey_slices(3), adapters=rows, tail=True)
    again = encoded.tail.embed(encoded.tail.leaf)
    torch.testing.assert_close(again, encoded.embedding, rtol=1e-4, atol=1e-4)


# Which unit


@pytest.mark.parametrize("kind", [*CNNS, "ResNet"])
def test_a_frozen_cnn_is_entered_where_its_map_is_made(kind: str) -> None:
    backbone = backbone_of_kind(kind)
    name = backbone.entrances.names[backbone.entrance([])]
    assert name == backbone._map_layer or name.startswith(f"{backbone._map_layer}.")


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        (["patch_embed.proj", "blocks.2.attn.qkv"], "patch_embed"),
        (["blocks.1.mlp.fc1", "blocks.2.attn.qkv"], "blocks.1"),
        (["blocks.10.attn.proj"], "blocks.10"),
        (["norm"], "blocks.11"),
        ([], "blocks.11"),
        (["no.such.layer"], "patch_embed"),
    ],
)
def test_the_entrance_lies_before_all_layers_and_before_what_maps_are_read_from(
    layers: list[str], expected: str
) -> None:
    backbone = tiny_backbone(depth=12, embed_dim=16, num_heads=2)
    assert backbone.entrances.names[backbone.entrance(layers)] == expected


# Models that join units in a way of their own


class Chain(nn.Module):
    """Three units of which `forward` may make more than a chain."""

    def __init__(self, join: Callable[[Chain, Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second, self.third = (nn.Linear(4, 4) for _ in range(3))
        self.join = join

    def forward(self, x: Tensor) -> Tensor:
        return self.join(self, x)


def around_the_second(model: Chain, x: Tensor) -> Tensor:
    h = model.first(x)
    return model.third(model.second(h) + h)


def behind_the_third(model: Chain, x: Tensor) -> Tensor:
    h = model.first(x)
    return model.third(model.second(h)) + h


def by_the_input(model: Chain, x: Tensor) -> Tensor:
    return model.third(model.second(model.first(x))) * x


def in_place(model: Chain, x: Tensor) -> Tensor:
    h = model.first(x)
    h += 1
    return model.third(model.second(h))


def with_a_pair(model: Chain, x: Tensor) -> Tensor:
    h, _ = model.first(x)
    return model.third(model.second(h))


def twice(model: Chain, x: Tensor) -> Tensor:
    return model.third(model.second(model.second(model.first(x))))


def entrances_of(join: Callable[[Chain, Tensor], Tensor]) -> tuple[Chain, Entrances]:
    model = Chain(join).eval()
    if join is with_a_pair:
        model.first.register_forward_hook(lambda _, __, output: (output, None))
    return model, Entrances(model, model, torch.zeros(1, 4))


@pytest.mark.parametrize(
    ("join", "allowed"),
    [
        (around_the_second, [0, 0, 2]),
        (behind_the_third, [0, 0, 0]),
        (by_the_input, [0, 0, 0]),
        (in_place, [0, 0, 0]),
        (with_a_pair, [0, 0, 0]),
        (twice, [0, 1]),
    ],
)
@torch.no_grad()
def test_a_model_that_joins_units_in_its_own_way_is_entered_only_where_that_is_exact(
    join: Callable[[Chain, Tensor], Tensor], allowed: list[int]
) -> None:
    model, entrances = entrances_of(join)
    assert [entrances.nearest(unit) for unit in range(len(entrances.names))] == allowed
    x = torch.rand(3, 4)
    for at in set(allowed):
        assert torch.equal(entrances.run(entrances.advance(Stage(x), at)), model(x))


def test_a_unit_that_is_never_reached_is_named() -> None:
    model, entrances = entrances_of(twice)
    model.join = lambda model, x: model.first(x)
    with pytest.raises(RuntimeError, match="never came to third"):
        entrances.advance(Stage(torch.rand(3, 4)), 1)
    assert_no_trace(model)


# No trace


@pytest.mark.parametrize("kind", ["registers", "EfficientNet", "ResNet"])
def test_an_exception_on_the_way_leaves_the_models_own_forwards(kind: str) -> None:
    backbone: Backbone = backbone_of_kind(kind)
    begun, last = backbone.begin(grey_slices(2)), len(backbone.entrances.names) - 1
    whole = backbone.encode_from(begun).embedding
    stage = backbone.advance(begun, last - 1)

    def fail(*_: object) -> None:
        raise ValueError("from within")

    with pytest.raises(ValueError, match="from within"), backbone.entrances.entered(stage):
        assert any("forward" in vars(module) for module in backbone.model.modules())
        fail()
    assert_no_trace(backbone.model)
    for unit, start in ((last - 1, begun), (last, stage)):
        handle = backbone.model.get_submodule(backbone.entrances.names[unit - 1]).register_forward_pre_hook(fail)
        with pytest.raises(ValueError, match="from within"):
            backbone.encode_from(start, tail=True) if start is stage else backbone.advance(start, unit)
        handle.remove()
        assert_no_trace(backbone.model)
    assert torch.equal(backbone.encode_from(begun).embedding, whole)
    assert digest_of(backbone.model) == backbone.digest


def test_finding_entrances_draws_no_random_number() -> None:
    backbone = backbone_of_kind("class token")
    state = torch.get_rng_state()
    backbone.entrance(["blocks.1.attn.qkv"])
    assert torch.equal(torch.get_rng_state(), state)
