"""A frozen linear layer and its low-rank pair as one step: the plain formula's values and gradients."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from networks import backbone_of_kind, grey_slices, tiny_backbone, tiny_network
from torch import Tensor, nn

from AnyMC3DLib import lora, lowrank
from AnyMC3DLib.lora import AdapterSites, Rows
from AnyMC3DLib.lowrank import lowrank_linear, merged_weight
from AnyMC3DLib.model import PluginNetwork
from AnyMC3DLib.spec import LoRASpec

SHAPES = [(4, 7), (3, 4, 7), (2, 3, 4, 7)]
SCALE = 1.7


def layer_and_pair(
    dtype: torch.dtype = torch.float64, *, bias: bool = True
) -> tuple[Tensor, Tensor | None, Tensor, ...]:
    """A frozen weight [5, 7] and bias in `dtype`, and A [2, 7] and B [5, 2] that learn, at least in float32."""
    generator = torch.Generator().manual_seed(0)
    weight, A, B, b = (torch.randn(s, generator=generator).double() for s in ((5, 7), (2, 7), (5, 2), (5,)))
    learns = torch.promote_types(dtype, torch.float32)
    pair = [tensor.to(learns).requires_grad_() for tensor in (A, B)]
    return weight.to(dtype), b.to(dtype) if bias else None, *pair


def inputs(shape: tuple[int, ...], dtype: torch.dtype = torch.float64) -> Tensor:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return x.to(dtype).requires_grad_()


def formula(x: Tensor, weight: Tensor, bias: Tensor | None, A: Tensor, B: Tensor) -> Tensor:
    """y = W x + s B A x, written as two layers and a sum."""
    return F.linear(x, weight, bias) + SCALE * F.linear(F.linear(x, A.to(x.dtype)), B.to(x.dtype))


def gradients(y: Tensor, *leaves: Tensor) -> tuple[Tensor, ...]:
    """Gradients of something that is not linear in y."""
    return torch.autograd.grad((y.double() ** 3).sum(), leaves)


@pytest.mark.parametrize("merges", [True, False])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", SHAPES)
def test_value_and_gradients_are_autograds_of_the_plain_formula(
    monkeypatch: pytest.MonkeyPatch, shape: tuple[int, ...], bias: bool, merges: bool
) -> None:
    # The way that 16 bits take is looked at in float64, where rounding hides nothing.
    monkeypatch.setattr(lowrank, "_merges", lambda x: merges)
    x, (weight, b, A, B) = inputs(shape), layer_and_pair(bias=bias)
    y, expected = lowrank_linear(x, weight, b, A, B, SCALE), formula(x, weight, b, A, B)
    torch.testing.assert_close(y, expected, rtol=1e-12, atol=1e-12)
    for ours, theirs in zip(gradients(y, x, A, B), gradients(expected, x, A, B), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)
    assert torch.autograd.gradcheck(lambda x, A, B: lowrank_linear(x, weight, b, A, B, SCALE), (x, A, B))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_inputs_that_need_no_gradient_or_lie_across_memory_are_taken(dtype: torch.dtype) -> None:
    weight, b, A, B = layer_and_pair(dtype)
    whole = inputs((2, 7, 3, 4), dtype).detach()
    # As ConvNeXt's linear layers get their input: channels moved to the end.
    across = whole.permute(0, 2, 3, 1)
    for x in (across, across[:, ::2], across.transpose(0, 1)):
        for bias in (b, None):
            y = lowrank_linear(x, weight, bias, A, B, SCALE)
            again = lowrank_linear(x.contiguous(), weight, bias, A, B, SCALE)
            rounding = 8 * torch.finfo(dtype).eps
            torch.testing.assert_close(y, again, rtol=rounding, atol=rounding * float(again.detach().abs().max()))
            given = torch.ones_like(y)
            for ours, theirs in zip(*(torch.autograd.grad(o, (A, B), given) for o in (y, again)), strict=True):
                torch.testing.assert_close(ours, theirs, rtol=rounding, atol=rounding * float(theirs.abs().max()))


def test_the_frozen_weight_and_bias_get_no_gradient() -> None:
    x, (weight, b, A, B) = inputs((3, 7)), layer_and_pair()
    weight.requires_grad_()
    lowrank_linear(x, weight, b, A, B, SCALE).sum().backward()
    assert weight.grad is None
    assert all(tensor.grad is not None for tensor in (x, A, B))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_in_16_bits_it_is_the_formula_within_rounding_and_the_pair_learns_in_float32(
    dtype: torch.dtype, shape: tuple[int, ...]
) -> None:
    x, (weight, b, A, B) = inputs(shape, dtype), layer_and_pair(dtype)
    y, expected = lowrank_linear(x, weight, b, A, B, SCALE), formula(x, weight, b, A, B)
    exact_x = x.detach().double().requires_grad_()
    exact = formula(exact_x, weight.double(), b.double(), A.double(), B.double())
    assert y.dtype == dtype
    rounding = 8 * torch.finfo(dtype).eps
    atol = rounding * float(exact.detach().abs().max())
    torch.testing.assert_close(y.double(), exact, rtol=rounding, atol=atol)
    torch.testing.assert_close(y, expected, rtol=rounding, atol=atol)
    given = torch.randn(y.shape, generator=torch.Generator().manual_seed(2)).to(dtype)
    found = torch.autograd.grad(y, (x, A, B), given)
    wanted = torch.autograd.grad(exact, (exact_x, A, B), given.double())
    assert [gradient.dtype for gradient in found] == [dtype, torch.float32, torch.float32]
    for ours, theirs in zip(found, wanted, strict=True):
        atol = rounding * float(theirs.abs().max())
        torch.testing.assert_close(ours.double(), theirs.double(), rtol=rounding, atol=atol)


def test_a_change_that_16_bit_weights_could_not_hold_is_not_lost() -> None:
    weight = torch.tensor([[1.0, -1.0]], dtype=torch.bfloat16)
    x = torch.ones(1, 2, dtype=torch.bfloat16)
    A, small = torch.tensor([[1.0, 0.0]]), torch.tensor([[2.0**-12]])
    assert torch.equal(merged_weight(weight, A, small, 1.0), weight)
    assert lowrank_linear(x, weight, None, A, small, 1.0).item() == 2.0**-12
    x.requires_grad_()
    lowrank_linear(x, torch.zeros_like(weight), None, A, small, 1.0).sum().backward()
    assert x.grad.tolist() == [[2.0**-12, 0.0]]


@pytest.mark.parametrize("shape", [(5, 7), (5, 7, 1, 1), (5, 7, 3, 2)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_merged_weight_is_the_sum_rounded_once(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(0)
    weight, A, B = (torch.randn(s, generator=generator) for s in (shape, (2, *shape[1:]), (5, 2)))
    weight = weight.to(dtype)
    kept = weight.clone()
    found = merged_weight(weight, A, B, SCALE)
    expected = weight.double() + SCALE * torch.einsum("or,r...->o...", B.double(), A.double())
    assert found.dtype == dtype
    assert found.shape == shape
    torch.testing.assert_close(found.double(), expected, rtol=torch.finfo(dtype).eps, atol=1e-6)
    assert torch.equal(weight, kept)


# In a network


class Counted:
    """How often the one step was taken."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.times = 0
        monkeypatch.setattr(lora, "lowrank_linear", self)

    def __call__(self, *arguments: object) -> Tensor:
        self.times += 1
        return lowrank_linear(*arguments)


def learned(network: PluginNetwork, slices: Tensor) -> tuple[Tensor, list[Tensor]]:
    """The embedding and the gradients of all pairs."""
    embedding = network.encode(network.spec.views[0], slices).embedding
    weights = torch.linspace(-1, 1, embedding.shape[1], dtype=embedding.dtype)
    return embedding, list(torch.autograd.grad((embedding @ weights).sum(), list(network.adapters.parameters())))


def assert_own_forwards(model: nn.Module) -> None:
    assert not any("forward" in vars(module) for module in model.modules())


@pytest.mark.parametrize(
    ("kind", "targets"),
    [
        ("norms within attention", ("attention", "mlp", "patch_embed")),
        ("pooling query over patches", ("attention", "mlp")),
        ("DINOv3", ("attention", "patch_embed")),
        ("ConvNeXt", ("pointwise", "convolution")),
    ],
)
def test_in_training_the_one_step_gives_the_gradients_of_hooks(
    monkeypatch: pytest.MonkeyPatch, kind: str, targets: tuple[str, ...]
) -> None:
    backbone, slices = backbone_of_kind(kind), grey_slices(3).double()
    network = tiny_network(backbone, lora=LoRASpec(rank=3, targets=targets))
    # Random adapters make steep networks, in which float32 would need wide tolerances.
    backbone.model.double()
    network.double()
    counted = Counted(monkeypatch)
    embedding, joined = learned(network, slices)
    layers = [backbone.model.get_submodule(name) for name in network.adapters["axial"].layers]
    assert counted.times == sum(isinstance(layer, nn.Linear) for layer in layers) > 0
    assert_own_forwards(backbone.model)
    monkeypatch.setattr(AdapterSites, "_join", lambda *_: frozenset())
    by_hooks, hooked = learned(network, slices)
    assert counted.times < 2 * len(layers)
    torch.testing.assert_close(embedding, by_hooks, rtol=1e-9, atol=1e-9)
    for ours, theirs in zip(joined, hooked, strict=True):
        assert theirs.any()
        torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-8 * float(theirs.abs().max()))


def test_the_one_step_gives_way_to_other_adapters_and_to_work_without_gradients(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    backbone, slices = tiny_backbone(depth=2), grey_slices(5)
    network, other = tiny_network(backbone, seed=1), tiny_network(backbone, seed=2)
    key, other_key = network.adapter_key("axial"), other.adapter_key("axial")
    alone = network.encode(network.spec.views[0], slices).embedding
    counted = Counted(monkeypatch)
    part = backbone.encode(slices, adapters=[Rows(key, 0, 3)]).embedding
    backbone.encode(slices, adapters=[Rows(key, 0, 3), Rows(other_key, 3)])
    backbone.encode(slices, adapters=[Rows(key), Rows(other_key)])
    rest = backbone.encode(slices, adapters=[Rows(key, 3)]).embedding
    with torch.no_grad():
        backbone.encode(slices, adapters=[Rows(key)])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        backbone.encode(slices, adapters=[Rows(key)])
    assert counted.times == 0
    backbone.encode(slices, adapters=[Rows(key, 0, 5)])
    assert counted.times > 0
    frozen = backbone.encode(slices).embedding
    torch.testing.assert_close(part[:3], alone[:3], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(part[3:], frozen[3:], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(rest[3:], alone[3:], rtol=1e-5, atol=1e-5)
    assert not torch.allclose(frozen, alone, atol=1e-2)


def test_an_exception_in_training_gives_each_layer_its_own_forward_back() -> None:
    backbone, slices = tiny_backbone(depth=2), grey_slices(2)
    network, frozen = tiny_network(backbone), backbone.encode(slices).embedding

    def fail(*_: object) -> None:
        raise ValueError("from within")

    handle = backbone.model.blocks[1].register_forward_pre_hook(fail)
    with pytest.raises(ValueError, match="from within"):
        network.encode(network.spec.views[0], slices)
    handle.remove()
    assert_own_forwards(backbone.model)
    assert torch.equal(backbone.encode(slices).embedding, frozen)
