"""The networks that a benchmark compares with: what they compute, and that the trainer trains them as any other."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.networks.nets import resnet18
from networks import KINDS, backbone_of_kind, grey_slices, plugin_spec, shaken, three_views, tiny_backbone, view
from torch import Tensor, nn

from AnyMC3DLib.backbone import Backbone
from AnyMC3DLib.benchmark.raptor import RaptorNetwork
from AnyMC3DLib.benchmark.sequence_fusion import (
    LSTMFusion,
    SequenceNetwork,
    TransformerFusion,
    neighbours_as_channels,
)
from AnyMC3DLib.benchmark.volume_networks import (
    NETWORKS,
    PaddedShortcut,
    VolumeBackbone,
    VolumeNetwork,
    planes_as_channels,
    volume_backbone,
)
from AnyMC3DLib.errors import BackboneError, InputError
from AnyMC3DLib.model import PluginNetwork
from AnyMC3DLib.spec import ClassSpec, FusionSpec, LoRASpec
from AnyMC3DLib.training.augmentation import Augmentation
from AnyMC3DLib.training.augmentation_spec import AugmentationSpec
from AnyMC3DLib.training.slices import CutCases
from AnyMC3DLib.training.step import GradientStep, kept_for_backward
from AnyMC3DLib.training.task import TaskSpec, TrainingSpec
from AnyMC3DLib.training.trainer import Trainer, prepare_spec

NO_ADAPTERS = LoRASpec(rank=0)
FUSIONS = [LSTMFusion, TransformerFusion]


def small_volume_backbone(seed: int = 0, width: int = 6) -> VolumeBackbone:
    """A 3D network of two convolutions with batch norms."""
    torch.manual_seed(seed)
    layers = [
        nn.Conv3d(1, width, 3, stride=2, padding=1), nn.BatchNorm3d(width), nn.ReLU(),
        nn.Conv3d(width, width, 3, stride=2, padding=1), nn.BatchNorm3d(width), nn.ReLU(),
        nn.AdaptiveAvgPool3d(1), nn.Flatten(),
    ]  # fmt: skip
    return VolumeBackbone(nn.Sequential(*layers), id="small-3d", embed_dim=width)


def volume_network(backbone: VolumeBackbone, **fields: object) -> VolumeNetwork:
    return VolumeNetwork(plugin_spec(backbone, **{"lora": NO_ADAPTERS, **fields}), backbone)


def cases_of(
    count: int = 8, *, slices: tuple[int, int] = (3, 7), size: int = 16, channels: int = 1, seed: int = 0
) -> CutCases:
    """Cases whose slices are brighter in the second class."""
    rng = np.random.default_rng(seed)
    targets = np.arange(count) % 2
    stacks = [
        {"axial": (rng.uniform(0, 0.5, (rng.integers(*slices), channels, size, size)) + 0.4 * t).astype(np.float16)}
        for t in targets
    ]
    return CutCases([str(n) for n in range(count)], stacks, targets)


def numbered(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random(shape).astype(np.float32)


def as_cases(stack: np.ndarray) -> CutCases:
    return CutCases(["a"], [{"axial": stack}], np.array([0]))


# 3D networks


def test_each_3d_network_embeds_a_volume_of_planes_to_its_width_by_its_seed_alone() -> None:
    for name, network in NETWORKS.items():
        before = torch.get_rng_state()
        backbone = volume_backbone(name, seed=1)
        assert torch.equal(torch.get_rng_state(), before)
        with torch.no_grad():
            embedding = backbone.encode(grey_slices(1, (14, 12), channels=9)).embedding
        assert embedding.shape == (1, network.embed_dim) == (1, backbone.embed_dim), name
        assert not any(p.requires_grad for p in backbone.model.parameters())
        assert "fc.weight" not in backbone.model.state_dict()
    # The last of them once more: its digest says that its weights are the same, and others with another seed.
    torch.rand(3)
    assert volume_backbone(name, seed=1).digest == backbone.digest
    assert volume_backbone(name, seed=2).digest != backbone.digest


def test_a_3d_network_sees_the_planes_along_its_first_axis_centred() -> None:
    backbone = small_volume_backbone()
    volumes = grey_slices(2, (16, 12), channels=9)
    with torch.no_grad():
        expected = backbone.model((volumes[:, None] - 0.5) / 0.5)
        assert torch.equal(backbone.encode(volumes).embedding, expected)
        spec = prepare_spec(TaskSpec(plugin=plugin_spec(backbone, lora=NO_ADAPTERS)), backbone)
        network = VolumeNetwork(spec, backbone).eval()
        assert torch.equal(network.embed(spec.views[0], volumes), expected)


def test_short_sides_are_widened_with_air_evenly() -> None:
    model = small_volume_backbone().model
    narrow, wide = (VolumeBackbone(model, id="x", embed_dim=6, least=least) for least in (1, 12))
    volumes = grey_slices(2, (9, 14), channels=4)
    padded = torch.nn.functional.pad(volumes, (0, 0, 1, 2, 4, 4))
    with torch.no_grad():
        assert torch.equal(wide.encode(volumes).embedding, narrow.encode(padded).embedding)


def test_what_a_3d_network_does_not_have_is_refused() -> None:
    backbone = small_volume_backbone()
    with pytest.raises(BackboneError, match="float32 alone"):
        backbone.set_precision(torch.bfloat16)
    with pytest.raises(BackboneError, match="class maps"):
        backbone.encode(grey_slices(1, channels=4), tail=True)
    with pytest.raises(BackboneError, match="no layer of the group"):
        volume_network(backbone, lora=LoRASpec(rank=2))
    with pytest.raises(BackboneError, match="choose from resnet18-3d"):
        volume_backbone("resnet34-3d", seed=0)


def test_the_shortcut_without_weights_is_monais_with_a_gradient() -> None:
    torch.manual_seed(0)
    theirs = resnet18(spatial_dims=3, n_input_channels=1, shortcut_type="A", feed_forward=False)
    x = torch.rand(2, 64, 5, 4, 3, requires_grad=True)
    found = PaddedShortcut(2, 128)(x)
    assert torch.equal(found, theirs.layer2[0].downsample(x))
    found.sum().backward()
    assert x.grad.sum() == found[:, :64].numel()


def medicalnet_file(folder: Path, model: nn.Module, changes: Mapping[str, Tensor | None] | None = None, *,
                    prefix: str = "module.", wrapper: str = "state_dict") -> Path:  # fmt: skip
    """A file as MedicalNet publishes them; None leaves a tensor out."""
    tensors = {prefix + name: tensor for name, tensor in model.state_dict().items()}
    tensors = {name: tensor for name, tensor in {**tensors, **(changes or {})}.items() if tensor is not None}
    place = folder / "resnet_18_23dataset.pth"
    torch.save({"epoch": 3, wrapper: tensors, "optimizer": {"state": {}}}, place)
    return place


def trained_resnet(**fields: object) -> nn.Module:
    """MONAI's own network as its makers build it for MedicalNet's weights."""
    torch.manual_seed(9)
    settings = {"conv1_t_stride": 2, "shortcut_type": "A", "feed_forward": False, "bias_downsample": True}
    return shaken(resnet18(spatial_dims=3, n_input_channels=1, **settings, **fields)).eval()


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> nn.Module:
    """A trained network of few channels, which the name stands for in this test, since files of 130 MB take long."""
    small = NETWORKS["resnet18-3d"]
    make = lambda: resnet18(spatial_dims=3, n_input_channels=1, conv1_t_stride=2, shortcut_type="A",  # noqa: E731
                            feed_forward=False, widen_factor=0.125)  # fmt: skip
    monkeypatch.setitem(NETWORKS, "resnet18-3d", dataclasses.replace(small, make=make, embed_dim=64))
    return trained_resnet(widen_factor=0.125)


def assert_same_network(trained: nn.Module, file: Path) -> None:
    backbone = volume_backbone("resnet18-3d", seed=0, weights=file)
    volumes = grey_slices(1, (20, 18), channels=11)
    with torch.no_grad():
        assert torch.equal(backbone.encode(volumes).embedding, trained((volumes[:, None] - 0.5) / 0.5))


def test_a_file_in_medicalnets_layout_gives_its_own_network(tmp_path: Path) -> None:
    trained = trained_resnet()
    assert_same_network(trained, medicalnet_file(tmp_path, trained, {"module.conv_seg.0.weight": torch.rand(3, 3)}))


@pytest.mark.parametrize("prefix", ["", "module.backbone.", "encoder."])
@pytest.mark.parametrize("wrapper", ["state_dict", "net"])
def test_a_file_of_a_larger_program_gives_its_network_without_heads(
    tmp_path: Path, narrow: nn.Module, prefix: str, wrapper: str
) -> None:
    heads = {f"{prefix}fc.weight": torch.rand(3, 3), "head.weight": torch.rand(2, 512)}
    assert_same_network(narrow, medicalnet_file(tmp_path, narrow, heads, prefix=prefix, wrapper=wrapper))


def test_a_missing_a_left_over_and_a_misshapen_tensor_are_refused_by_name(tmp_path: Path, narrow: nn.Module) -> None:
    odd = torch.rand(2)
    for changes, message in (
        ({"module.layer3.1.bn2.running_var": None}, "lack 1 tensors, such as 'layer3.1.bn2.running_var'"),
        ({"module.layer3.2.conv1.weight": odd}, "hold besides 1 tensors, such as 'layer3.2.conv1.weight'"),
        ({"module.layer1.0.conv1.weight": odd}, "another shape 1 tensors, such as 'layer1.0.conv1.weight'"),
        ({"module.conv1.weight": None}, "holds no tensor 'conv1.weight'"),
    ):
        with pytest.raises(BackboneError, match=message):
            volume_backbone("resnet18-3d", seed=0, weights=medicalnet_file(tmp_path, narrow, changes))
    file = medicalnet_file(tmp_path, narrow, {"gate.weight": odd}, prefix="backbone.")
    with pytest.raises(BackboneError, match=r"1 tensors besides the network in 'backbone\.', such as 'gate\.weight'"):
        volume_backbone("resnet18-3d", seed=0, weights=file)


def test_nothing_but_tensors_is_taken_out_of_a_file(tmp_path: Path) -> None:
    class Harm:
        def __reduce__(self) -> tuple:
            return Path.touch, (tmp_path / "touched",)

    file = tmp_path / "weights.pth"
    torch.save({"state_dict": {"conv1.weight": Harm()}}, file)
    with pytest.raises(BackboneError, match=r"weights\.pth"):
        volume_backbone("resnet18-3d", seed=0, weights=file)
    assert not (tmp_path / "touched").exists()


# Batch norm


def statistics(network: PluginNetwork) -> list[Tensor]:
    return [t.clone() for name, t in network.backbone.model.state_dict().items() if "running" in name]


def test_batch_norms_learn_in_training_alone_and_one_volume_uses_what_they_have_learnt() -> None:
    backbone = small_volume_backbone()
    network = volume_network(backbone)
    view_ = network.spec.views[0]
    volumes = grey_slices(3, (16, 16), channels=8)
    untouched = statistics(network)
    backbone.model.requires_grad_(True)

    network.train()
    batch = network.embed(view_, volumes).detach()
    learnt = statistics(network)
    assert all(not torch.equal(a, b) for a, b in zip(untouched, learnt, strict=True))
    alone = network.embed(view_, volumes[:1]).detach()
    assert kept_for_backward(network, view_, volumes[:1]) > 0
    assert backbone.model.training
    assert all(torch.equal(a, b) for a, b in zip(learnt, statistics(network), strict=True))

    network.eval()
    assert not backbone.model.training
    calm = network.embed(view_, volumes).detach()
    assert torch.allclose(alone, calm[:1], atol=1e-6)
    assert not torch.allclose(batch, calm, atol=1e-3)
    assert all(torch.equal(a, b) for a, b in zip(learnt, statistics(network), strict=True))
    network.train().close()
    assert not backbone.model.training


def test_a_2d_backbone_learns_its_batch_norms_too() -> None:
    backbone = tiny_backbone("test_resnet")
    network = VolumeNetwork(plugin_spec(backbone, lora=NO_ADAPTERS), backbone).train()
    before = statistics(network)
    network.embed(network.spec.views[0], grey_slices(4))
    assert any(not torch.equal(a, b) for a, b in zip(before, statistics(network), strict=True))


# Planes and neighbours


def test_few_planes_get_empty_ones_evenly_at_both_ends() -> None:
    stack = numbered(3, 1, 5, 5)
    cases = planes_as_channels(as_cases(stack), 6)
    found = cases.stacks[0]["axial"]
    assert found.shape == (1, 6, 5, 5) and found.dtype == stack.dtype
    assert np.array_equal(found[0, 1:4], stack[:, 0])
    assert not found[0, [0, 4, 5]].any()


def test_many_planes_are_averaged_by_the_share_that_each_new_one_covers() -> None:
    stack = numbered(5, 1, 4, 3)
    found = planes_as_channels(as_cases(stack), 2).stacks[0]["axial"]
    first = (stack[0] + stack[1] + 0.5 * stack[2]) / 2.5
    last = (0.5 * stack[2] + stack[3] + stack[4]) / 2.5
    assert np.allclose(found, np.concatenate([first, last])[None], atol=1e-6)
    for count, side in itertools.product((7, 16, 33), (3, 7)):
        flat = planes_as_channels(as_cases(np.full((count, 1, 2, 2), 0.25, np.float16)), side).stacks[0]["axial"]
        assert flat.shape == (1, side, 2, 2) and flat.dtype == np.float16
        assert np.array_equal(flat, np.full_like(flat, 0.25))


def test_windows_become_one_grey_value_and_masks_are_left_out() -> None:
    stack = numbered(4, 3, 2, 2)
    cases = dataclasses.replace(as_cases(stack), masks=[{"axial": stack[:, 0]}])
    found = planes_as_channels(cases, 4)
    assert np.allclose(found.stacks[0]["axial"][0], stack.mean(axis=1), atol=1e-6)
    assert found.masks == []


def test_planes_are_moved_alike_and_stay_in_their_order() -> None:
    spec = AugmentationSpec(flip=1, mirror=True, rotation=1, rotation_degrees=30, zoom=1, shift=1)
    plane = torch.from_numpy(numbered(12, 12))
    levels = torch.linspace(0.2, 1, 5)
    volume = (levels[:, None, None] * plane)[None]
    found, _ = Augmentation(spec, axis="axial", seed=3)(volume)
    assert found.shape == volume.shape
    assert not torch.allclose(found[0, 4], plane, atol=0.05)
    assert torch.allclose(found[0], levels[:, None, None] * found[0, 4], atol=1e-5)


def test_a_slice_is_joined_by_its_neighbours_and_edges_repeat() -> None:
    stack = numbered(4, 1, 3, 5)
    found = neighbours_as_channels(as_cases(stack)).stacks[0]["axial"]
    assert found.shape == (4, 3, 3, 5)
    for number in range(4):
        wanted = [stack[max(0, number - 1), 0], stack[number, 0], stack[min(3, number + 1), 0]]
        assert np.array_equal(found[number], np.stack(wanted))
    colours = numbered(4, 3, 3, 5)
    assert neighbours_as_channels(as_cases(colours)).stacks[0]["axial"] is colours
    single = neighbours_as_channels(as_cases(stack[:1])).stacks[0]["axial"]
    assert np.array_equal(single, np.repeat(stack[:1], 3, axis=1))


# Sequences


@pytest.fixture(params=FUSIONS, ids=lambda kind: kind.__name__)
def fusion(request: pytest.FixtureRequest) -> nn.Module:
    torch.manual_seed(5)
    made = request.param(40).eval()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return made


def test_padding_changes_nothing_whatever_stands_in_it(fusion: nn.Module) -> None:
    counts = (1, 4, 7)
    studies = [grey_slices(count, (8, 5), seed=count).flatten(1) for count in counts]
    padded = torch.full((3, 7, 40), float("nan"))
    mask = torch.zeros(3, 7, dtype=torch.bool)
    for number, study in enumerate(studies):
        padded[number, : len(study)], mask[number, : len(study)] = study, True
    with torch.no_grad():
        vectors, weights = fusion(padded, mask)
        assert vectors.shape == (3, 40) and weights.shape == (3, 7)
        assert torch.allclose(weights.sum(dim=1), torch.ones(3), atol=1e-6)
        assert (weights >= 0).all() and not weights[~mask].any()
        for number, study in enumerate(studies):
            vector, weight = fusion(study[None])
            assert torch.allclose(vectors[number], vector[0], atol=1e-5)
            assert torch.allclose(weights[number, : len(study)], weight[0], atol=1e-6)
        # Padding before and between slices is none of them either.
        spread = torch.full((1, 9, 40), float("inf"))
        spread[0, [1, 2, 5, 8]] = studies[1]
        vector, _ = fusion(spread, torch.isfinite(spread[..., 0]))
        assert torch.allclose(vector[0], vectors[1], atol=1e-5)


def test_the_order_of_slices_counts(fusion: nn.Module) -> None:
    slices = grey_slices(5, (8, 5)).flatten(1)[None]
    with torch.no_grad():
        assert not torch.allclose(fusion(slices)[0], fusion(slices.flip(1))[0], atol=1e-4)


def test_gradients_reach_every_slice_and_every_parameter(fusion: nn.Module) -> None:
    slices = grey_slices(10, (8, 5)).flatten(1).reshape(2, 5, 40).requires_grad_()
    mask = torch.tensor([[True] * 5, [True] * 3 + [False] * 2])
    (fusion(slices, mask)[0] * torch.randn(2, 40)).sum().backward()
    assert (slices.grad.abs().sum(dim=2) > 0).equal(mask)
    assert all(p.grad is not None and p.grad.isfinite().all() for p in fusion.parameters())
    # A shift of all scores changes no softmax, so their offset and the keys' have no gradient to speak of.
    still = [n for n, p in fusion.named_parameters() if not p.grad.abs().max() > 1e-9]
    assert set(still) <= {"score.bias"}


@pytest.mark.parametrize("kind", FUSIONS)
def test_a_sequence_has_less_than_a_million_parameters_on_a_large_backbone(kind: type[nn.Module]) -> None:
    assert 100_000 < sum(p.numel() for p in kind(1280).parameters()) < 1_000_000


def test_an_unknown_sequence_is_refused() -> None:
    backbone = tiny_backbone("test_vit", depth=1)
    with pytest.raises(InputError, match="choose from lstm, transformer"):
        SequenceNetwork(plugin_spec(backbone), backbone, kind="gru")  # type: ignore[arg-type]
    assert not backbone.sites.keys


# The trainer

WHOLE = {"method": "full", "warm_up_epochs": 0, "epochs": 2, "batch": 4, "backbone_rate": 3e-3, "head_rate": 1e-2}
GENTLE = AugmentationSpec(flip=0.5, shift=0.5)


def trained_by(
    network: PluginNetwork, cases: CutCases, validation: CutCases | None = None, **recipe: object
) -> Trainer:
    torch.manual_seed(0)
    network.backbone.model.requires_grad_(recipe.get("method", "full") == "full")
    trainer = Trainer(network, TrainingSpec(**{**WHOLE, "augmentation": GENTLE, **recipe}))
    trainer.fit(cases, validation)
    return trainer


def assert_learnt(trainer: Trainer) -> None:
    losses = [result.loss for result in trainer.history]
    assert len(losses) == 2 and losses[-1] < losses[0]


@pytest.mark.parametrize("mode", ["speed", "memory"])
def test_the_trainer_trains_a_3d_network_as_a_whole(mode: str) -> None:
    backbone = small_volume_backbone()
    network = volume_network(backbone)
    before = {name: tensor.clone() for name, tensor in backbone.model.state_dict().items()}
    cases = planes_as_channels(cases_of(16), 8)
    backbone.model.requires_grad_(True)
    trainer = Trainer(network, TrainingSpec(**WHOLE), mode=mode)
    trainer.fit(cases, cases)
    assert_learnt(trainer)
    changed = {name for name, tensor in backbone.model.state_dict().items() if not torch.equal(tensor, before[name])}
    # A batch passes in one piece, however little memory is asked for: batch norms are of all its volumes.
    assert changed == set(before)
    assert not backbone.model.training
    figures = trainer.predict(cases)
    assert figures.shape == (16, 2) and np.isfinite(figures).all()


def test_the_best_epochs_statistics_come_back_with_its_weights() -> None:
    network = volume_network(small_volume_backbone())
    cases = planes_as_channels(cases_of(8), 8)
    trainer = trained_by(network, cases)
    kept = {name: tensor.clone() for name, tensor in trainer.weights().items()}
    figures = trainer.predict(cases)
    network.train()
    network([{"axial": torch.rand(1, 8, 16, 16)} for _ in range(4)])
    assert not np.array_equal(trainer.predict(cases), figures)
    trainer.load_weights(kept)
    assert np.array_equal(trainer.predict(cases), figures)


@pytest.mark.parametrize("kind", ["lstm", "transformer"])
def test_the_trainer_trains_a_sequence_on_a_whole_2d_cnn_with_neighbours(kind: str) -> None:
    backbone = tiny_backbone("test_resnet")
    torch.manual_seed(0)
    network = SequenceNetwork(plugin_spec(backbone, lora=NO_ADAPTERS), backbone, kind=kind)
    before = [parameter.clone() for parameter in backbone.model.parameters()]
    cases = neighbours_as_channels(cases_of(8, size=32))
    trainer = trained_by(network, cases, cases, backbone_rate=1e-4, head_rate=1e-3)
    assert_learnt(trainer)
    assert not any(torch.equal(a, b) for a, b in zip(before, backbone.model.parameters(), strict=True))
    assert np.isfinite(trainer.predict(cases)).all()
    assert network.gradient_span("axial") is None


@pytest.mark.parametrize("kind", ["lstm", "transformer"])
def test_a_sequence_has_the_same_gradients_in_either_way_of_stepping(kind: str) -> None:
    backbone = tiny_backbone("test_vit", depth=1)
    torch.manual_seed(0)
    network = SequenceNetwork(plugin_spec(backbone, views=three_views(backbone)), backbone, kind=kind)
    studies = [{v.name: grey_slices(n, (32, 32), seed=n) for v in network.spec.views} for n in (2, 5, 3)]
    gradients = []
    for mode in ("speed", "memory"):
        network.zero_grad()
        GradientStep(network, mode=mode)(studies, torch.tensor([0, 1, 1]))
        gradients.append({name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        assert torch.allclose(gradient, gradients[1][name], atol=2e-5, rtol=1e-3), name
    network.close()


# Raptor


def plain_raptor(network: RaptorNetwork, tokens: Tensor) -> np.ndarray:
    """The paper's sums over tokens [S, d, h, w] one by one, in float64."""
    projection, found = network.projection.double().numpy(), tokens.double().numpy()
    slices, depth, height, width = found.shape
    result = np.zeros((len(projection), height, width))
    for k, s, y, x in itertools.product(range(len(projection)), range(slices), range(height), range(width)):
        result[k, y, x] += sum(projection[k, d] * found[s, d, y, x] for d in range(depth)) / slices
    return result.ravel()


def tokens_of(backbone: Backbone, slices: Tensor) -> Tensor:
    model, x = backbone.model, backbone.normalise(slices)
    with torch.no_grad():
        found = model.forward_features(x)
    if found.ndim == 4:
        return found
    return found[:, model.num_prefix_tokens :].transpose(1, 2).reshape(len(x), -1, x.shape[2] // 16, x.shape[3] // 16)


@pytest.mark.parametrize("kind", ["registers", "DINOv3", "ResNet"])
def test_raptor_is_the_mean_over_slices_of_projected_tokens(kind: str) -> None:
    backbone = backbone_of_kind(kind)
    network = RaptorNetwork(plugin_spec(backbone), backbone, seed=7, features=3).eval()
    slices = grey_slices(3, (32, 48))
    expected = plain_raptor(network, tokens_of(backbone, slices))
    embedded = network.embed(network.spec.views[0], slices)
    assert embedded.shape == (3, len(expected)) and embedded.dtype == torch.float32
    assert not embedded.requires_grad
    vector, weights = network.fusions["axial"](embedded[None])
    assert np.allclose(vector[0], expected, atol=1e-5)
    assert torch.allclose(weights, torch.full((1, 3), 1 / 3))
    assert network.fuse({"axial": embedded[None]}).logits.shape == (1, 1)


@pytest.mark.parametrize("kind", KINDS)
def test_raptor_projects_what_every_kind_of_backbone_gives(kind: str) -> None:
    backbone = backbone_of_kind(kind)
    network = RaptorNetwork(plugin_spec(backbone), backbone, seed=0, features=2)
    assert network.embed(network.spec.views[0], grey_slices(2, (32, 48))).shape == (2, network.width)


def test_raptors_projection_depends_on_its_seed_alone_and_is_no_part_of_the_state() -> None:
    backbone = tiny_backbone("test_vit", depth=1)
    first, second, other = (RaptorNetwork(plugin_spec(backbone), backbone, seed=seed) for seed in (1, 1, 2))
    assert first.projection.shape == (100, 64)
    assert torch.equal(first.projection, second.projection) and first.embeds_by == second.embeds_by
    assert not torch.equal(first.projection, other.projection) and first.embeds_by != other.embeds_by
    assert first.embeds_by != PluginNetwork(plugin_spec(backbone, lora=NO_ADAPTERS), backbone).embeds_by
    assert abs(float(first.projection.std()) * 10 - 1) < 0.05
    assert "projection" not in first.state_dict()


def test_raptor_puts_views_side_by_side_and_trains_one_linear_layer() -> None:
    backbone = tiny_backbone("test_vit", depth=1)
    views = three_views(backbone, size=(32, 32))
    spec = plugin_spec(backbone, views=views, classes=tuple(ClassSpec(name=n) for n in "ab"))
    torch.manual_seed(0)
    network = RaptorNetwork(spec, backbone, seed=0, features=5)
    assert network.head.in_features == 3 * 5 * 2 * 2
    assert not backbone.sites.keys and network.gradient_span("axial") is None
    assert {name for name, _ in network.named_parameters()} == {"head.weight", "head.bias"}
    cases = cases_of(12, size=32)
    stacks = [{v.name: case["axial"] for v in views} for case in cases.stacks]
    trainer = trained_by(
        network, dataclasses.replace(cases, stacks=stacks), method="frozen", warm_up_epochs=2, epochs=0
    )
    assert_learnt(trainer)


def test_raptor_refuses_views_of_no_or_of_several_sizes() -> None:
    backbone = tiny_backbone("test_vit", depth=1)
    several = (view(backbone), view(backbone, "coronal", size=(32, 32)))
    for views in ((view(backbone, size=None),), several):
        with pytest.raises(InputError, match="one size in all views"):
            RaptorNetwork(plugin_spec(backbone, views=views, fusion=FusionSpec()), backbone, seed=0)
