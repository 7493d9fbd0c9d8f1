"""Networks that attend to windows of a feature map, as backbones: Swin, DaViT, Hiera, SAM's and SAM 2's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from networks import grey_slices, timm_model, tiny_backbone, tiny_network, view
from torch import Tensor, nn
from volumes import study

from AnyMC3DLib.activation import kept, last_but_one_stage, map_width
from AnyMC3DLib.backbone import Backbone
from AnyMC3DLib.classifier import Classifier
from AnyMC3DLib.errors import BackboneError
from AnyMC3DLib.lora import Adapter, AdapterSites, Rows, select_targets
from AnyMC3DLib.model import PluginNetwork
from AnyMC3DLib.prediction import Study
from AnyMC3DLib.spec import LoRASpec
from AnyMC3DLib.training.pixel_supervision import token_width, tokens_of
from AnyMC3DLib.weights import digest_of

DAVIT = {"depths": (1, 1, 1, 1), "embed_dims": (16, 32, 48, 64), "num_heads": (1, 2, 3, 4)}
KINDS: dict[str, tuple[str, dict]] = {
    "Swin": (
        "swin_tiny_patch4_window7_224",
        {"depths": (2, 2, 1, 1), "embed_dim": 24, "num_heads": (1, 1, 2, 2), "window_size": 4, "img_size": 64},
    ),
    "DaViT": ("davit_tiny", {**DAVIT, "window_size": 3}),
    "Florence-2": ("davit_base_fl", {**DAVIT, "window_size": 3}),
    "Hiera": ("hiera_tiny_224", {"img_size": (64, 96), "embed_dim": 16, "stages": (1, 2, 2, 1)}),
    "SAM 2": ("sam2_hiera_tiny", {"embed_dim": 16, "stages": (1, 2, 3, 1), "global_att_blocks": (4,)}),
    "SAM": (
        "samvit_base_patch16",
        {"embed_dim": 32, "depth": 3, "num_heads": 2, "img_size": 64, "window_size": 3, "global_attn_indexes": (2,),
         "neck_chans": 24},
    ),
}  # fmt: skip
SIZE = (64, 96)
# The map's grid at SIZE, and the layer that gives it.
MAPS = {
    "Swin": ("layers.2", (4, 6)),
    "DaViT": ("stages.2", (4, 6)),
    "Florence-2": ("stages.2", (4, 6)),
    "Hiera": ("blocks.4", (4, 6)),
    "SAM 2": ("blocks.5", (4, 6)),
    "SAM": ("neck", (4, 6)),
}


def backbone_of_kind(kind: str) -> Backbone:
    name, arguments = KINDS[kind]
    return tiny_backbone(name, **arguments)


def network_on(backbone: Backbone, *, seed: int = 3, **fields: object) -> PluginNetwork:
    return tiny_network(backbone, seed=seed, views=(view(backbone, size=SIZE),), **fields)


@pytest.mark.parametrize("kind", KINDS)
def test_the_embedding_is_timms_own_of_tripled_slices(kind: str) -> None:
    name, arguments = KINDS[kind]
    model, slices = timm_model(name, **arguments), grey_slices(2, SIZE)
    mean, std = (torch.tensor(model.pretrained_cfg[key]).reshape(1, 3, 1, 1) for key in ("mean", "std"))
    with torch.no_grad():
        expected = model((slices.expand(-1, 3, -1, -1) - mean) / std)
    backbone = backbone_of_kind(kind)
    embedding = backbone.encode(slices).embedding
    assert backbone.kind == "hierarchy"
    assert embedding.shape == (2, backbone.embed_dim)
    assert embedding.std() > 1e-3
    torch.testing.assert_close(embedding, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_it_has_no_class_attention_but_class_maps(kind: str) -> None:
    backbone = backbone_of_kind(kind)
    assert not backbone.has_class_attention
    assert backbone.explains
    assert backbone.encode(grey_slices(1, SIZE), attention=True).attention is None


@pytest.mark.parametrize(
    ("kind", "expected"), [("Swin", 4), ("DaViT", 1), ("Florence-2", 1), ("Hiera", 32), ("SAM 2", 32), ("SAM", 16)]
)
def test_sizes_must_be_multiples_of_what_the_map_needs(kind: str, expected: int) -> None:
    backbone = backbone_of_kind(kind)
    assert backbone.multiple_of == expected
    if kind == "Hiera":
        assert backbone.fixed_size == SIZE
        with pytest.raises(BackboneError, match="takes 64 x 96 alone"):
            backbone.encode(grey_slices(1, (64, 64)))
        return
    assert backbone.fixed_size is None
    size = (3 * expected, 5 * expected) if expected > 1 else (45, 71)
    assert backbone.encode(grey_slices(1, size)).embedding.isfinite().all()
    if expected > 1:
        with pytest.raises(BackboneError, match=f"need a multiple of {expected}"):
            backbone.encode(grey_slices(1, (3 * expected, 5 * expected + 1)))


# Class maps


def timms_own_map(backbone: Backbone, x: Tensor) -> Tensor:
    """The map [B, C, h, w] that timm itself gives for normalised slices."""
    if last_but_one_stage(backbone.model) == "neck":
        return backbone.model.forward_features(x)
    return backbone.model.forward_intermediates(x, indices=4, intermediates_only=True)[-2]


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_the_map_is_timms_own_features_at_their_places(kind: str) -> None:
    backbone, slices = backbone_of_kind(kind), grey_slices(2, SIZE)
    layer, grid = MAPS[kind]
    tail = backbone.encode(slices, tail=True).tail
    expected = timms_own_map(backbone, backbone.normalise(slices))
    assert last_but_one_stage(backbone.model) == layer
    assert tail.grid == grid == tuple(expected.shape[2:])
    assert map_width(backbone.model) == expected.shape[1]
    torch.testing.assert_close(tail.layout.as_map(tail.leaf), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_a_class_map_is_features_times_gradient_at_their_places(kind: str) -> None:
    backbone = backbone_of_kind(kind)
    network = network_on(backbone, lora=LoRASpec(rank=2, targets=("attention", "mlp")))
    slices, weights = grey_slices(2, SIZE), torch.randn(backbone.embed_dim)
    plugin_view = network.spec.views[0]
    with kept(backbone.model.get_submodule(MAPS[kind][0])) as seen:
        score = (network.encode(plugin_view, slices).embedding @ weights).sum()
    (of_layer,) = torch.autograd.grad(score, seen[0])
    tail = network.encode(plugin_view, slices, tail=True).tail
    leaf = tail.leaf.requires_grad_()
    (gradient,) = torch.autograd.grad((tail.embed(leaf) @ weights).sum(), leaf)
    in_favour, against = tail.contributions(gradient)
    product = tail.layout.as_map(seen[0] * of_layer).detach()
    assert in_favour.shape == (2, *MAPS[kind][1])
    assert product.std() > 0
    tolerance = 1e-5 * float(product.abs().max())
    torch.testing.assert_close(in_favour, product.clamp_min(0).sum(dim=1), rtol=1e-3, atol=tolerance)
    torch.testing.assert_close(against, (-product).clamp_min(0).sum(dim=1), rtol=1e-3, atol=tolerance)


@pytest.mark.parametrize("kind", KINDS)
def test_the_tail_leads_from_its_leaf_to_the_embedding(kind: str) -> None:
    backbone = backbone_of_kind(kind)
    networks = [network_on(backbone, seed=n) for n in range(2)]
    rows = [Rows(network.adapter_key("axial"), n, n + 1) for n, network in enumerate(networks)]
    with torch.no_grad():
        encoded = backbone.encode(grey_slices(3, SIZE), adapters=rows, tail=True)
    torch.testing.assert_close(encoded.tail.embed(encoded.tail.leaf), encoded.embedding, rtol=1e-4, atol=1e-4)


# Entering late


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_entering_late_gives_every_bit_of_a_whole_run(kind: str) -> None:
    backbone, slices = backbone_of_kind(kind), grey_slices(3, SIZE)
    network = network_on(backbone, lora=LoRASpec(rank=2, targets=("attention",), last_blocks=1))
    at = backbone.entrance(network.adapters["axial"].layers)
    assert at > 0
    begun, rows = backbone.begin(slices), [Rows(network.adapter_key("axial"))]
    late = backbone.encode_from(backbone.advance(begun, at), adapters=rows, tail=True)
    whole = backbone.encode_from(begun, adapters=rows, tail=True)
    assert torch.equal(late.embedding, whole.embedding)
    assert torch.equal(late.tail.leaf, whole.tail.leaf)
    assert not torch.equal(whole.embedding, backbone.encode(slices).embedding)


# Adapters


def names(kind: str, **fields: object) -> list[str]:
    backbone = backbone_of_kind(kind)
    return sorted(select_targets(backbone.model, LoRASpec(**fields), kind=backbone.kind))


@pytest.mark.parametrize("kind", KINDS)
def test_the_default_targets_are_the_patch_embedding_and_all_attention(kind: str) -> None:
    model = backbone_of_kind(kind).model
    attention = [n for n, m in model.named_modules() if isinstance(m, nn.Linear) and ".attn." in n]
    assert attention
    assert names(kind) == sorted(
        [*attention, "stem.conv" if "stem" in dict(model.named_children()) else "patch_embed.proj"]
    )


@pytest.mark.parametrize("kind", KINDS)
def test_the_mlps_are_a_group_of_their_own(kind: str) -> None:
    found = names(kind, targets=("mlp",))
    assert found
    assert all(name.endswith(("mlp.fc1", "mlp.fc2")) for name in found)


@pytest.mark.parametrize(
    ("kind", "group", "expected"),
    [
        ("Swin", "pointwise", [f"layers.{n}.downsample.reduction" for n in (1, 2, 3)]),
        ("DaViT", "convolution", [f"stages.{n}.downsample.conv" for n in (1, 2, 3)]),
        ("Hiera", "pointwise", [f"blocks.{n}.proj" for n in (1, 3, 5)]),
        ("SAM 2", "pointwise", [f"blocks.{n}.proj" for n in (1, 3, 6)]),
        ("SAM", "pointwise", ["neck.0"]),
        ("SAM", "convolution", ["neck.2"]),
    ],
)
def test_layers_between_stages_are_told_from_the_blocks(kind: str, group: str, expected: list[str]) -> None:
    assert names(kind, targets=(group,)) == expected


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("Swin", ("layers.3.blocks.0.",)),
        ("DaViT", ("stages.3.blocks.0.",)),
        ("Hiera", ("blocks.5.",)),
        ("SAM 2", ("blocks.6.",)),
        ("SAM", ("blocks.2.",)),
    ],
)
def test_last_blocks_adapts_the_last_blocks(kind: str, expected: tuple[str, ...]) -> None:
    found = names(kind, targets=("attention",), last_blocks=1)
    assert found
    assert all(name.startswith(expected) for name in found)


@pytest.mark.parametrize("kind", KINDS)
def test_many_plugins_on_one_backbone_are_each_as_alone(kind: str) -> None:
    slices, spec = grey_slices(3, SIZE), LoRASpec(rank=2, targets=("patch_embed", "attention", "mlp"))
    expected = []
    for seed in range(2):
        network = network_on(backbone_of_kind(kind), seed=seed, lora=spec)
        expected.append(network.encode(network.spec.views[0], slices).embedding)
    shared = backbone_of_kind(kind)
    frozen = shared.encode(slices).embedding
    networks = [network_on(shared, seed=seed, lora=spec) for seed in range(2)]
    for network, alone in zip(networks, expected, strict=True):
        assert torch.equal(network.encode(network.spec.views[0], slices).embedding, alone)
        assert not torch.allclose(alone, frozen, atol=1e-3)
    for network in networks:
        network.close()
    assert torch.equal(shared.encode(slices).embedding, frozen)
    assert digest_of(shared.model) == shared.digest


# Hiera has one size.
@pytest.mark.parametrize(
    ("kind", "size"), [*((kind, SIZE) for kind in KINDS), *((kind, (128, 64)) for kind in KINDS if kind != "Hiera")]
)
def test_rows_of_one_batch_that_belong_to_different_adapters_are_as_each_alone(
    kind: str, size: tuple[int, int]
) -> None:
    backbone, slices = backbone_of_kind(kind), grey_slices(6, size)
    specs = [LoRASpec(rank=2), LoRASpec(rank=3, targets=("mlp",)), LoRASpec(rank=1, targets=("attention",))]
    networks = [network_on(backbone, seed=n, lora=spec) for n, spec in enumerate(specs)]
    keys = [network.adapter_key("axial") for network in networks]
    rows = [Rows(keys[0], 0, 2), Rows(keys[1], 2, 3), Rows(keys[2], 4)]
    frozen = backbone.encode(slices).embedding
    together = backbone.encode(slices, adapters=rows).embedding
    for network, row in zip(networks, rows, strict=True):
        where = slice(row.first, row.last)
        alone = network.encode(network.spec.views[0], slices[where]).embedding
        torch.testing.assert_close(together[where], alone, rtol=1e-4, atol=1e-4)
        assert not torch.allclose(together[where], frozen[where], atol=1e-3)
    torch.testing.assert_close(together[3:4], frozen[3:4], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_an_adapter_learns_from_its_own_rows_alone(kind: str) -> None:
    backbone, slices = backbone_of_kind(kind), grey_slices(3, SIZE)
    network, other = (network_on(backbone, seed=n) for n in range(2))
    parameters = list(network.adapters.parameters())

    def gradients(batch: Tensor, rows: list[Rows], own: int) -> list[Tensor]:
        embedding = backbone.encode(batch, adapters=rows).embedding[:own]
        return list(torch.autograd.grad((embedding**2).sum(), parameters))

    key = network.adapter_key("axial")
    mixed = gradients(slices, [Rows(key, 0, 2), Rows(other.adapter_key("axial"), 2)], 2)
    for ours, alone in zip(mixed, gradients(slices[:2], [Rows(key)], 2), strict=True):
        assert alone.abs().max() > 0
        torch.testing.assert_close(ours, alone, rtol=1e-3, atol=1e-4 * float(alone.abs().max()))


@pytest.mark.parametrize("kind", KINDS)
def test_merging_gives_the_adapted_embeddings(kind: str) -> None:
    backbone, slices = backbone_of_kind(kind), grey_slices(2, SIZE)
    network = network_on(backbone)
    adapted = network.encode(network.spec.views[0], slices).embedding
    with backbone.sites.merged(network.adapter_key("axial")):
        torch.testing.assert_close(backbone.encode(slices).embedding, adapted, rtol=1e-3, atol=1e-4)
    assert digest_of(backbone.model) == backbone.digest


@pytest.mark.parametrize("kind", KINDS)
def test_many_plugins_answer_as_each_alone(kind: str) -> None:
    backbone, scan = backbone_of_kind(kind), Study({"image": study()})
    networks = [network_on(backbone, seed=n, name="ABC"[n], lora=LoRASpec(rank=n + 1)) for n in range(3)]
    together = Classifier(backbone)
    for network in networks:
        together.add(network.spec, [network])
    found = together.classify(scan)
    for network in networks:
        alone = Classifier(backbone)
        alone.add(network.spec, [network])
        expected, name = alone.classify(scan)[network.spec.name], network.spec.name
        for label, probability in expected.probabilities.items():
            assert found[name].probabilities[label] == pytest.approx(probability, abs=1e-5)
        maps = [prediction.maps["axial"].classes for prediction in (found[name], expected)]
        assert maps[0].shape[-2:] == MAPS[kind][1]
        np.testing.assert_allclose(*maps, atol=1e-3 * float(maps[1].max()))
        assert maps[1].std() > 0


class Windows(nn.Module):
    """Slices [B, 1, 8, 8] cut into four windows that pass one layer, slice by slice or window by window."""

    def __init__(self, *, by_slice: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.by_slice = nn.Linear(16, 16), by_slice

    def forward(self, x: Tensor) -> Tensor:
        windows = x.reshape(len(x), 4, 16)
        rows = windows if self.by_slice else windows.transpose(0, 1)
        out = self.layer(rows.reshape(-1, 16)).unflatten(0, rows.shape[:2])
        return (out if self.by_slice else out.transpose(0, 1)).mean(dim=1)


def sites_of(model: nn.Module) -> tuple[AdapterSites, list[str]]:
    sites, keys = AdapterSites(model), ["a", "b"]
    for key in keys:
        sites.attach(key, Adapter({"layer": model.layer}, LoRASpec(rank=2)))
    return sites, keys


def test_rows_that_stand_window_by_window_are_refused_when_a_plugin_is_attached() -> None:
    slices = grey_slices(2, (8, 8))
    for by_slice in (True, False):
        model = Windows(by_slice=by_slice)
        sites, keys = sites_of(model)
        if by_slice:
            sites.check_reach(keys[0], model, slices)
            continue
        with pytest.raises(BackboneError, match="'layer' sees 8 rows for 2 slices, so adapters cannot be told apart"):
            sites.check_reach(keys[0], model, slices)


def test_the_order_of_rows_is_tried_out_once_for_each_size_that_adapters_share() -> None:
    model = Windows(by_slice=True)
    sites, keys = sites_of(model)
    runs: list[int] = []

    def run(x: Tensor) -> Tensor:
        runs.append(len(x))
        return model(x)

    shared = [Rows(keys[0], 0, 2), Rows(keys[1], 2)]
    sites.check_order([Rows(keys[0])], run, lambda: grey_slices(2, (8, 8)), batch=4)
    assert runs == []
    for _ in range(2):
        sites.check_order(shared, run, lambda: grey_slices(2, (8, 8)), batch=4)
        assert runs == [1, 1, 2]
    model.by_slice = False
    with pytest.raises(BackboneError, match="cannot be told apart"):
        sites.check_order(shared, run, lambda: grey_slices(2, (4, 16)), batch=4)


def test_rows_that_no_number_of_slices_explains_are_refused() -> None:
    model = Windows(by_slice=True)
    sites, keys = sites_of(model)
    with pytest.raises(BackboneError, match="sees 8 rows for 3 slices"), sites.active([Rows(keys[0])], batch=3):
        model(grey_slices(2, (8, 8)))


@pytest.mark.parametrize("kind", KINDS)
def test_masks_supervise_the_map_that_class_maps_are_read_from(kind: str) -> None:
    backbone, slices = backbone_of_kind(kind), grey_slices(2, SIZE)
    network = network_on(backbone)
    tokens = tokens_of(network, network.spec.views[0], slices)
    assert tokens.shape == (2, token_width(backbone), *MAPS[kind][1])
    expected = timms_own_map(backbone, backbone.normalise(slices))
    plain = network_on(backbone, lora=LoRASpec(rank=0))
    torch.testing.assert_close(tokens_of(plain, plain.spec.views[0], slices), expected, rtol=1e-4, atol=1e-4)
