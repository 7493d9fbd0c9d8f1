"""The gradients of a batch: the same however little is kept, and as little kept as is asked for."""

from __future__ import annotations

import types
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from networks import grey_slices, plugin_spec, three_views, tiny_backbone, tiny_network
from torch import Tensor, nn

from AnyMC3DLib.backbone import Backbone
from AnyMC3DLib.errors import Cancelled
from AnyMC3DLib.model import PluginNetwork
from AnyMC3DLib.spec import FusionSpec, HeadSpec, LoRASpec
from AnyMC3DLib.training import step as step_room
from AnyMC3DLib.training.objective import loss_of
from AnyMC3DLib.training.objective_spec import ObjectiveSpec
from AnyMC3DLib.training.step import USABLE, GradientStep, kept_for_backward

Studies = list[dict[str, Tensor]]

COUNTS = (3, 1, 5, 2, 4)  # slices of the studies of a batch
BINARY, MULTICLASS = torch.tensor([0, 1, 1, 0, 1]), torch.tensor([2, 0, 1, 1, 0])
TARGETS = {
    "binary": BINARY,
    "multiclass": MULTICLASS,
    "multilabel": torch.tensor([[0, 1, 1], [1, 0, 0], [1, 1, 1], [0, 0, 0], [0, 0, 1]]),
}
WEIGHTS = {"binary": torch.tensor([0.4, 3.0]), "multiclass": torch.tensor([0.3, 1.0, 2.5])}
NETWORKS: dict[str, dict[str, Any]] = {
    "attention": {},
    "mean": {"fusion": FusionSpec(kind="mean")},
    "max": {"fusion": FusionSpec(kind="max")},
    "three views": {"three": True},
    "three views side by side": {"three": True, "fusion": FusionSpec(views="concat")},
    "standardised": {"three": True, "head": HeadSpec(standardise=True)},
    "adapters in the last block": {"lora": LoRASpec(rank=2, last_blocks=1)},
    "no adapters": {"lora": LoRASpec(rank=0)},
    "convolutional": {"cnn": True},
    "convolutional, three views": {"cnn": True, "three": True},
}


@pytest.fixture(scope="module")
def transformer() -> Backbone:
    return tiny_backbone("test_vit", depth=2)


@pytest.fixture(scope="module")
def convolutional() -> Backbone:
    return tiny_backbone("test_efficientnet")


@pytest.fixture
def build(transformer: Backbone, convolutional: Backbone) -> Iterator[Callable[..., PluginNetwork]]:
    """A function that gives a network, with its adapters on a backbone until the test has ended."""
    made: list[PluginNetwork] = []

    def network(*, cnn: bool = False, three: bool = False, **fields: Any) -> PluginNetwork:
        backbone = convolutional if cnn else transformer
        views = {"views": three_views(backbone)} if three else {}
        made.append(tiny_network(backbone, **views, **fields))
        return made[-1]

    yield network
    for network_ in made:
        network_.close()


def batch(network: PluginNetwork, *, counts: Sequence[int] = COUNTS, size: Sequence[int] = (32, 48)) -> Studies:
    """Studies of as many slices as `counts` says, in each view another number; some of them are empty."""
    studies = []
    for number, count in enumerate(counts):
        study = {
            view.name: grey_slices(count + n, size, seed=10 * number + n) for n, view in enumerate(network.spec.views)
        }
        for slices in study.values():
            slices[1::2] = 0
        studies.append(study)
    return studies


def gradients(network: PluginNetwork, work: Callable[[], float]) -> tuple[float, dict[str, Tensor]]:
    """What `work` returns, and the gradients that it gives to the network's parameters."""
    network.zero_grad(set_to_none=True)
    loss = work()
    found = {name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None}
    network.zero_grad(set_to_none=True)
    return loss, found


def whole(
    network: PluginNetwork, studies: Studies, targets: Tensor, weights: Tensor | None = None
) -> tuple[float, dict[str, Tensor]]:
    """Loss and gradients of one forward and backward pass of the whole batch."""

    def work() -> float:
        loss = loss_of(network(studies).logits, targets, network.spec, ObjectiveSpec(), class_weights=weights)
        loss.backward()
        return float(loss.detach())

    return gradients(network, work)


def limit(
    monkeypatch: pytest.MonkeyPatch, network: PluginNetwork, studies: Studies, *, chunk: float = 1.5, group: float = 9
) -> None:
    """Let a chunk keep what `chunk` slices keep, and a group of studies what `group` slices keep."""
    view = network.spec.views[0]
    one = max(1, kept_for_backward(network, view, studies[0][view.name][:1]))
    monkeypatch.setattr(step_room, "CHUNK_BYTES", int(chunk * one))
    monkeypatch.setattr(step_room, "SPEED_BYTES", int(group * one))


def check_same(found: tuple[float, dict[str, Tensor]], expected: tuple[float, dict[str, Tensor]]) -> None:
    assert found[0] == pytest.approx(expected[0], rel=1e-6, abs=1e-6)
    assert found[1].keys() == expected[1].keys()
    # Where slices agree on a feature, a gradient is a sum of parts that cancel: what is left is rounding.
    noise = 1e-2 * max(gradient.norm() for gradient in expected[1].values())
    for name, gradient in expected[1].items():
        assert (found[1][name] - gradient).norm() <= 1e-5 * max(gradient.norm(), noise), name


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[int]]:
    """From now on: of how many studies each group was that went through a network, of how many slices each chunk."""
    found: dict[str, list[int]] = {"groups": [], "chunks": []}
    forward, embed = PluginNetwork.forward, PluginNetwork.embed
    monkeypatch.setattr(
        PluginNetwork, "forward", lambda n, studies: found["groups"].append(len(studies)) or forward(n, studies)
    )
    monkeypatch.setattr(PluginNetwork, "embed", lambda n, v, s: found["chunks"].append(len(s)) or embed(n, v, s))
    return found


# The same loss and gradients


@pytest.mark.parametrize("mode", ["speed", "memory", "auto"])
@pytest.mark.parametrize(
    ("task", "weighted"), [*((task, False) for task in TARGETS), *((task, True) for task in WEIGHTS)]
)
def test_each_mode_gives_the_loss_and_gradients_of_the_whole_batch(
    task: str, weighted: bool, mode: str, build: Callable[..., PluginNetwork], monkeypatch: pytest.MonkeyPatch
) -> None:
    network = build(task_type=task)
    studies, targets, weights = batch(network), TARGETS[task], WEIGHTS[task] if weighted else None
    expected = whole(network, studies, targets, weights)
    assert all(gradient.norm() > 0 for gradient in expected[1].values())
    limit(monkeypatch, network, studies)
    found = gradients(network, lambda: GradientStep(network, mode=mode)(studies, targets, weights=weights))
    check_same(found, expected)


@pytest.mark.parametrize("mode", ["speed", "memory"])
@pytest.mark.parametrize("kind", NETWORKS)
def test_every_kind_of_network_has_the_same_gradients_in_each_mode(
    kind: str, mode: str, build: Callable[..., PluginNetwork], monkeypatch: pytest.MonkeyPatch
) -> None:
    network = build(**NETWORKS[kind])
    studies = batch(network)
    expected = whole(network, studies, BINARY)
    assert any(name.startswith("adapters.") for name in expected[1]) == (kind != "no adapters")
    limit(monkeypatch, network, studies)
    check_same(gradients(network, lambda: GradientStep(network, mode=mode)(studies, BINARY)), expected)


@pytest.mark.parametrize("mode", ["speed", "memory"])
def test_weighted_classes_give_torchs_own_weighted_mean(
    mode: str, build: Callable[..., PluginNetwork], monkeypatch: pytest.MonkeyPatch
) -> None:
    network = build(task_type="multiclass")
    studies, weights = batch(network), WEIGHTS["multiclass"]
    limit(monkeypatch, network, studies)

    def work() -> float:
        loss = F.cross_entropy(network(studies).logits, MULTICLASS, weight=weights)
        loss.backward()
        return float(loss.detach())

    expected = gradients(network, work)
    found = gradients(network, lambda: GradientStep(network, mode=mode)(studies, MULTICLASS, weights=weights))
    check_same(found, expected)


@pytest.mark.parametrize("mode", ["speed", "memory"])
def test_studies_of_empty_slices_alone_have_the_same_gradients(
    mode: str, build: Callable[..., PluginNetwork], monkeypatch: pytest.MonkeyPatch
) -> None:
    network = build()
    studies = [{"axial": torch.zeros(count, 1, 32, 48)} for count in (3, 1)]
    studies.append({"axial": torch.cat([torch.zeros(4, 1, 32, 48), grey_slices(1)])})
    targets = BINARY[:3]
    expected = whole(network, studies, targets)
    limit(monkeypatch, network, studies, chunk=2.5, group=4)
    check_same(gradients(network, lambda: GradientStep(network, mode=mode)(studies, targets)), expected)


@pytest.mark.parametrize("mode", ["speed", "memory"])
def test_gradients_are_added_to_those_that_are_there(mode: str, build: Callable[..., PluginNetwork]) -> None:
    network = build()
    studies, step = batch(network), GradientStep(network, mode=mode)
    _, once = gradients(network, lambda: step(studies, BINARY))
    _, twice = gradients(network, lambda: step(studies, BINARY) + step(studies, BINARY))
    for name, gradient in once.items():
        torch.testing.assert_close(twice[name], 2 * gradient)


def test_both_modes_agree_in_half_precision_as_far_as_it_goes(
    build: Callable[..., PluginNetwork], transformer: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = build()
    studies = batch(network)
    limit(monkeypatch, network, studies)
    transformer.set_precision(torch.bfloat16)
    try:
        expected = whole(network, studies, BINARY)
        for mode in ("speed", "memory"):
            loss, found = gradients(network, lambda mode=mode: GradientStep(network, mode=mode)(studies, BINARY))
            assert loss == pytest.approx(expected[0], rel=0.02)
            for name, gradient in expected[1].items():
                assert found[name].dtype == torch.float32
                assert (found[name] - gradient).norm() <= 0.1 * gradient.norm(), name
    finally:
        transformer.set_precision(torch.float32)


@pytest.mark.parametrize("mode", ["speed", "memory"])
def test_a_head_with_dropout_trains(mode: str, transformer: Backbone, build: Callable[..., PluginNetwork]) -> None:
    network = build(head=HeadSpec(dropout=0.5)).train()
    studies, step = batch(network), GradientStep(network, mode=mode)
    torch.manual_seed(0)
    losses = [gradients(network, lambda: step(studies, BINARY)) for _ in range(3)]
    assert len({loss for loss, _ in losses}) == 3
    for loss, found in losses:
        assert torch.isfinite(torch.tensor(loss))
        assert found.keys() == dict(network.named_parameters()).keys()
        assert all(torch.isfinite(gradient).all() for gradient in found.values())


# What goes through the network together


def test_studies_go_together_as_long_as_they_fit_and_a_large_one_goes_alone(
    build: Callable[..., PluginNetwork], monkeypatch: pytest.MonkeyPatch, seen: dict[str, list[int]]
) -> None:
    network = build()
    studies = batch(network, counts=(2, 2, 1, 9, 1, 1, 3, 5))
    limit(monkeypatch, network, studies, group=5)
    GradientStep(network, mode="speed")(studies, torch.tensor([0, 1] * 4))
    assert seen["groups"] == [3, 1, 3, 1]
    assert seen["chunks"] == [5, 9, 5, 5]


@pytest.mark.parametrize(("chunk", "sizes"), [(0.5, [1, 1, 1, 1, 1]), (1.9, [1, 1, 1, 1, 1]), (2.1, [2, 2, 1])])
def test_slices_go_in_chunks_that_keep_little_and_at_least_one_by_one(
    chunk: float, sizes: list[int], build: Callable[..., PluginNetwork], monkeypatch: pytest.MonkeyPatch,
    seen: dict[str, list[int]],
) -> None:  # fmt: skip
    network = build()
    studies = batch(network, counts=(5,))
    limit(monkeypatch, network, studies, chunk=chunk)
    GradientStep(network, mode="memory")(studies, torch.tensor([1]))
    assert seen["groups"] == []
    assert seen["chunks"] == sizes + sizes  # without gradients, then with them


def test_without_adapters_nothing_is_computed_twice(
    build: Callable[..., PluginNetwork], seen: dict[str, list[int]]
) -> None:
    network = build(lora=LoRASpec(rank=0))
    GradientStep(network, mode="memory")(batch(network), BINARY)
    assert sum(seen["chunks"]) == sum(COUNTS)


def with_room_for(monkeypatch: pytest.MonkeyPatch, network: PluginNetwork, studies: Studies, slices: float) -> None:
    """Let as much memory be free as these many slices keep at what may be used of it."""
    view = network.spec.views[0]
    one = kept_for_backward(network, view, studies[0][view.name][:1])
    monkeypatch.setattr(step_room, "free_memory", lambda device: int(slices * one / USABLE))


@pytest.mark.parametrize(
    ("slices", "groups"),
    [(100.0, [5]), (8.2, [2, 2, 1]), (5.2, [2, 1, 1, 1]), (4.8, [])],
    ids=["all at once", "some at once", "the largest just", "not the largest"],
)
def test_auto_keeps_as_much_as_fits_in_the_memory_that_is_free(
    slices: float, groups: list[int], build: Callable[..., PluginNetwork], monkeypatch: pytest.MonkeyPatch,
    seen: dict[str, list[int]],
) -> None:  # fmt: skip
    network = build()
    studies = batch(network)
    with_room_for(monkeypatch, network, studies, slices)
    GradientStep(network)(studies, BINARY)
    assert seen["groups"] == groups


def test_auto_asks_for_the_free_memory_once_since_what_a_process_has_freed_may_not_count_as_free(
    build: Callable[..., PluginNetwork], monkeypatch: pytest.MonkeyPatch, seen: dict[str, list[int]]
) -> None:
    network = build()
    studies, step = batch(network), GradientStep(network)
    for slices in (100.0, 1.0):
        with_room_for(monkeypatch, network, studies, slices)
        step(studies, BINARY)
    assert seen["groups"] == [5, 5]


def test_a_mode_that_was_asked_for_is_kept_whatever_is_free(
    build: Callable[..., PluginNetwork], monkeypatch: pytest.MonkeyPatch, seen: dict[str, list[int]]
) -> None:
    network = build()
    studies = batch(network)
    monkeypatch.setattr(step_room, "free_memory", lambda device: 0)
    GradientStep(network, mode="speed")(studies, BINARY)
    assert seen["groups"] == [1] * 5
    seen["groups"].clear()
    monkeypatch.setattr(step_room, "free_memory", lambda device: 1 << 50)
    GradientStep(network, mode="memory")(studies, BINARY)
    assert seen["groups"] == []


# What is kept


def bare(model: nn.Module) -> Any:
    """What `kept_for_backward` asks of a network, with `model` for its backbone and nothing else."""
    network = nn.Module()
    network.backbone = types.SimpleNamespace(model=model)
    network.encode = lambda view, slices: types.SimpleNamespace(embedding=model(slices))
    return network


def test_what_is_kept_is_counted_as_by_hand_and_parameters_are_not() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 7), nn.GELU(), nn.Linear(7, 5))
    for slices in (1, 2, 9):
        found = kept_for_backward(bare(model), None, torch.rand(slices, 1, 3, 4))
        # The first layer's input, what goes into GELU, and what comes out of it, in 4 bytes each.
        assert found == slices * (12 + 7 + 7) * 4


def test_of_a_frozen_layer_its_input_is_not_kept() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 7).requires_grad_(False), nn.Linear(7, 5))
    assert kept_for_backward(bare(model), None, torch.rand(3, 1, 3, 4)) == 3 * 7 * 4
    assert kept_for_backward(bare(model.requires_grad_(False)), None, torch.rand(3, 1, 3, 4)) == 0


def test_what_is_kept_grows_evenly_with_the_slices(build: Callable[..., PluginNetwork]) -> None:
    network = build()
    view = network.spec.views[0]
    kept = [kept_for_backward(network, view, grey_slices(count)) for count in (1, 2, 3, 4, 9)]
    one = kept[1] - kept[0]
    assert [later - kept[0] for later in kept] == [one * n for n in (0, 1, 2, 3, 8)]
    assert kept[0] < 2 * one


class Held:
    """A tensor that autograd keeps; `held` knows how many bytes are kept now, and were at most."""

    def __init__(self, tensor: Tensor, held: dict[str, int]) -> None:
        self.tensor, self._bytes, self._held = tensor, tensor.untyped_storage().nbytes(), held
        held["now"] += self._bytes
        held["most"] = max(held["most"], held["now"])

    def __del__(self) -> None:
        self._held["now"] -= self._bytes


def most_kept(network: PluginNetwork, studies: Studies, targets: Tensor, *, mode: str) -> int:
    """Bytes that autograd keeps at once in a step, without parameters."""
    modules = (network, network.backbone.model)
    own = {p.untyped_storage().data_ptr() for module in modules for p in module.parameters()}
    held = {"now": 0, "most": 0}

    def keep(tensor: Tensor) -> Tensor | Held:
        return tensor if tensor.untyped_storage().data_ptr() in own else Held(tensor, held)

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda kept: kept.tensor if type(kept) is Held else kept):
        GradientStep(network, mode=mode)(studies, targets)
    assert held["now"] == 0
    return held["most"]


@pytest.mark.parametrize("cnn", [False, True], ids=["transformer", "convolutional"])
def test_in_memory_mode_what_is_kept_at_once_does_not_grow_with_the_slices(
    cnn: bool, build: Callable[..., PluginNetwork], monkeypatch: pytest.MonkeyPatch
) -> None:
    network = build(cnn=cnn)
    few, many = ([{"axial": grey_slices(count, (64, 64))}] * 2 for count in (4, 24))
    targets = torch.tensor([0, 1])
    limit(monkeypatch, network, few, chunk=2.2, group=100)
    kept = {(mode, len(studies[0]["axial"])): most_kept(network, studies, targets, mode=mode)
            for mode in ("speed", "memory") for studies in (few, many)}  # fmt: skip
    assert kept["memory", 24] == kept["memory", 4] < kept["speed", 4]
    assert kept["speed", 24] > 5 * kept["speed", 4]


def test_in_speed_mode_what_is_kept_at_once_is_that_of_a_group(
    build: Callable[..., PluginNetwork], monkeypatch: pytest.MonkeyPatch
) -> None:
    network = build()
    few, many = ([{"axial": grey_slices(4)}] * count for count in (2, 8))
    limit(monkeypatch, network, few, group=8.5)
    kept = [most_kept(network, studies, torch.tensor([0, 1] * (len(studies) // 2)), mode="speed")
            for studies in (few, many)]  # fmt: skip
    assert kept[0] == kept[1]


def test_a_fresh_network_has_gradients_in_memory_mode_too(transformer: Backbone) -> None:
    # Of a fresh pair B is zero: its A has a gradient of zeros.
    network = PluginNetwork(plugin_spec(transformer), transformer)
    try:
        studies = batch(network)
        expected = whole(network, studies, BINARY)
        check_same(gradients(network, lambda: GradientStep(network, mode="memory")(studies, BINARY)), expected)
    finally:
        network.close()


def test_a_step_that_does_not_fit_after_all_is_taken_in_memory_mode_from_then_on(
    build: Callable[..., PluginNetwork], monkeypatch: pytest.MonkeyPatch
) -> None:
    network = build()
    studies = batch(network)
    expected = GradientStep(network, mode="memory")(studies, BINARY)
    wanted = {name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None}
    network.zero_grad(set_to_none=True)
    forward, calls = PluginNetwork.forward, []

    def short(self: PluginNetwork, given: object) -> object:
        calls.append(1)
        if len(calls) > 1:
            raise torch.OutOfMemoryError("out of memory")
        return forward(self, given)

    monkeypatch.setattr(PluginNetwork, "forward", short)
    # One study goes through, and its gradients must not stay when the next finds no room.
    monkeypatch.setattr(step_room, "SPEED_BYTES", 1)
    step = GradientStep(network)
    assert step(studies, BINARY) == pytest.approx(expected, rel=1e-6)
    assert len(calls) == 2
    for name, parameter in network.named_parameters():
        if name in wanted:
            torch.testing.assert_close(parameter.grad, wanted[name])
    step(studies, BINARY)
    assert len(calls) == 2
    with pytest.raises(torch.OutOfMemoryError):
        GradientStep(network, mode="speed")(studies, BINARY)


def test_slices_that_do_not_fit_at_once_are_halved_until_they_do_and_give_the_same_gradients(
    build: Callable[..., PluginNetwork], monkeypatch: pytest.MonkeyPatch
) -> None:
    network = build()
    studies = batch(network)
    expected = GradientStep(network, mode="memory")(studies, BINARY)
    wanted = {name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None}
    network.zero_grad(set_to_none=True)
    embed, refused = GradientStep._embed, []

    def short(self: GradientStep, view: object, part: torch.Tensor) -> torch.Tensor:
        if len(part) > 1 and torch.is_grad_enabled():
            refused.append(len(part))
            raise torch.OutOfMemoryError("out of memory")
        return embed(self, view, part)

    monkeypatch.setattr(GradientStep, "_embed", short)
    step = GradientStep(network, mode="memory")
    assert step(studies, BINARY) == pytest.approx(expected, rel=1e-5)
    assert refused and step.chunk_bytes < step_room.CHUNK_BYTES
    for name, parameter in network.named_parameters():
        if name in wanted:
            torch.testing.assert_close(parameter.grad, wanted[name], rtol=1e-4, atol=1e-6)
    network.zero_grad(set_to_none=True)
    refused.clear()
    step(studies, BINARY)
    assert refused == []


def test_a_single_slice_that_does_not_fit_ends_the_step(
    build: Callable[..., PluginNetwork], monkeypatch: pytest.MonkeyPatch
) -> None:
    network = build()

    def none_fits(*_: object) -> torch.Tensor:
        raise torch.OutOfMemoryError("out of memory")

    monkeypatch.setattr(GradientStep, "_again", none_fits)
    with pytest.raises(torch.OutOfMemoryError):
        GradientStep(network, mode="memory")(batch(network), BINARY)


@pytest.mark.parametrize("mode", ["speed", "memory"])
def test_a_step_is_ended_between_its_pieces(
    build: Callable[..., PluginNetwork], monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    network = build()
    monkeypatch.setattr(step_room, "SPEED_BYTES", 1)
    monkeypatch.setattr(step_room, "CHUNK_BYTES", 1)
    pieces = []

    def check() -> None:
        pieces.append(1)
        if len(pieces) == 3:
            raise Cancelled("The work was cancelled.")

    with pytest.raises(Cancelled):
        GradientStep(network, mode=mode, check=check)(batch(network), BINARY)
    assert len(pieces) == 3
