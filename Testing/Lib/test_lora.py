"""Low-rank adapters: as peft's on the same weights, each on its own rows, and gone without a trace."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import peft
import pytest
import torch
from networks import KINDS, backbone_of_kind, grey_slices, plugin_spec, timm_model, tiny_backbone, tiny_network, view
from timm.layers import Conv2dSame
from torch import Tensor, nn

from AnyMC3DLib.backbone import Backbone
from AnyMC3DLib.catalogue import BackboneEntry
from AnyMC3DLib.errors import BackboneError
from AnyMC3DLib.lora import Adapter, AdapterSites, LoRAPair, Rows, select_targets
from AnyMC3DLib.model import PluginNetwork
from AnyMC3DLib.opening import create_model
from AnyMC3DLib.spec import LoRASpec
from AnyMC3DLib.weights import digest_of

LAYERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "linear": (lambda: nn.Linear(7, 5), (4, 3, 7)),
    "linear without bias": (lambda: nn.Linear(7, 5, bias=False), (4, 7)),
    "pointwise convolution": (lambda: nn.Conv2d(6, 9, 1), (4, 6, 5, 5)),
    "3 x 3 convolution, stride 2": (lambda: nn.Conv2d(6, 9, 3, stride=2, padding=1, bias=False), (4, 6, 9, 8)),
    "5 x 3 convolution": (lambda: nn.Conv2d(6, 4, (5, 3), padding=(2, 0)), (4, 6, 9, 8)),
}
SPEC = LoRASpec(rank=3, alpha=7.0)


def random_adapter(targets: dict[str, nn.Module], spec: LoRASpec, seed: int = 2) -> Adapter:
    adapter = Adapter(targets, spec)
    generator = torch.Generator().manual_seed(seed)
    for pair in adapter.pairs.values():
        pair.A.data.copy_(0.3 * torch.randn(pair.A.shape, generator=generator))
        pair.B.data.copy_(0.3 * torch.randn(pair.B.shape, generator=generator))
    return adapter


def with_peft(model: nn.Module, adapter: Adapter, spec: LoRASpec, target_modules: list[str] | str) -> nn.Module:
    """The oracle: peft's network on a copy of the model, with the adapter's weights."""
    config = peft.LoraConfig(r=spec.rank, lora_alpha=spec.alpha, target_modules=target_modules, lora_dropout=0.0)
    network = peft.get_peft_model(copy.deepcopy(model), config)
    inner = network.base_model.model
    adapted = [name for name, module in inner.named_modules() if hasattr(module, "lora_A")]
    assert sorted(adapted) == sorted(adapter.layers)
    for name in adapted:
        module, pair = inner.get_submodule(name), adapter.pair(name)
        module.lora_A["default"].weight.data.copy_(pair.A)
        module.lora_B["default"].weight.data.copy_(pair.B.reshape(module.lora_B["default"].weight.shape))
    return network


def assert_same_gradients(adapter: Adapter, network: nn.Module) -> None:
    for name in adapter.layers:
        module, pair = network.base_model.model.get_submodule(name), adapter.pair(name)
        for ours, theirs in ((pair.A, module.lora_A), (pair.B, module.lora_B)):
            expected = theirs["default"].weight.grad.reshape(ours.shape)
            assert expected.abs().max() > 0
            scale = float(expected.abs().max())
            torch.testing.assert_close(ours.grad, expected, rtol=1e-4, atol=1e-5 * scale)


@pytest.mark.parametrize("name", LAYERS)
def test_an_adapted_layer_its_gradients_and_its_merge_agree_with_peft(name: str) -> None:
    make, shape = LAYERS[name]
    torch.manual_seed(0)
    model = nn.Sequential(make()).requires_grad_(False)
    x, sites, adapter = torch.randn(shape), AdapterSites(model), random_adapter({"0": model[0]}, SPEC)
    oracle = with_peft(model, adapter, SPEC, ["0"])
    sites.attach("a", adapter)
    with sites.active([Rows("a")], batch=len(x)):
        ours = model(x)
    theirs = oracle(x)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(ours, model(x), atol=1e-2)
    (ours**2).sum().backward()
    (theirs**2).sum().backward()
    assert_same_gradients(adapter, oracle)
    merged = oracle.merge_and_unload()[0].weight
    with sites.merged("a"):
        torch.testing.assert_close(model[0].weight, merged, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(model(x), ours, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("make", [nn.Conv2d, Conv2dSame])
@pytest.mark.parametrize("arguments", [{"dilation": 2}, {"stride": 2}, {"stride": 2, "dilation": 3}])
def test_a_dilated_or_same_padded_convolution_is_adapted_as_if_merged(make: type[nn.Conv2d], arguments: dict) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(make(6, 4, 3, **arguments))  # peft leaves the dilation and the padding out
    x, sites, adapter = torch.randn(4, 6, 13, 8), AdapterSites(model), random_adapter({"0": model[0]}, SPEC)
    sites.attach("a", adapter)
    with sites.active([Rows("a")], batch=4):
        adapted = model(x)
    with sites.merged("a"):
        torch.testing.assert_close(adapted, model(x), rtol=1e-4, atol=1e-4)


def test_a_whole_adapted_transformer_agrees_with_peft() -> None:
    backbone, reference = tiny_backbone(depth=3), timm_model(depth=3).requires_grad_(False)
    spec = LoRASpec(rank=4, alpha=10.0)
    adapter = random_adapter(select_targets(backbone.model, spec, kind="transformer"), spec)
    oracle = with_peft(reference, adapter, spec, r".*(qkv|attn\.proj|patch_embed\.proj)$")
    backbone.sites.attach("a", adapter)
    slices = grey_slices(3)
    ours = backbone.encode(slices, adapters=[Rows("a")]).embedding
    theirs = oracle((slices.repeat(1, 3, 1, 1) - 0.5) / 0.5)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    (ours * torch.arange(64)).sum().backward()
    (theirs * torch.arange(64)).sum().backward()
    assert_same_gradients(adapter, oracle)
    trained = sum(p.numel() for p in oracle.parameters() if p.requires_grad)
    assert sum(p.numel() for p in adapter.parameters()) == trained


def test_a_fresh_pair_starts_as_peft_does() -> None:
    torch.manual_seed(0)
    for layer in (nn.Linear(400, 300), nn.Conv2d(50, 40, 3)):
        pair = LoRAPair(layer, rank=16, scale=1.0)
        bound = 1 / math.sqrt(pair.A[0].numel())  # Kaiming uniform with a = sqrt(5)
        assert 0.99 * bound < pair.A.abs().max() <= bound
        assert abs(pair.A.std() / (bound / math.sqrt(3)) - 1) < 0.05
        assert not pair.B.any()


@pytest.mark.parametrize(("rank", "alpha"), [(1, 1.0), (4, 16.0), (8, 2.0)])
def test_the_change_is_scaled_by_alpha_over_rank(rank: int, alpha: float) -> None:
    layer = nn.Linear(6, 5)
    adapter = random_adapter({"x": layer}, LoRASpec(rank=rank, alpha=alpha))
    pair = adapter.pair("x")
    assert pair.A.shape == (rank, 6)
    torch.testing.assert_close(pair.merged(torch.zeros_like(layer.weight)), (alpha / rank) * pair.B @ pair.A)


def test_a_vit_s_16_at_rank_8_has_the_papers_number_of_parameters() -> None:
    with torch.device("meta"):
        model = create_model(BackboneEntry(id="x", timm="vit_small_patch16_224"))
        spec = LoRASpec(rank=8)
        adapter = Adapter(select_targets(model, spec, kind="transformer"), spec)
    assert sum(p.numel() for p in adapter.parameters()) == 230_400


# Rows of a batch


def three_adapters(backbone: Backbone) -> list[PluginNetwork]:
    specs = [
        LoRASpec(rank=2, alpha=3.0),
        LoRASpec(rank=5, alpha=2.0, targets=("mlp",)),
        LoRASpec(rank=1, targets=("attention",), last_blocks=1),
    ]
    return [tiny_network(backbone, lora=spec, seed=n) for n, spec in enumerate(specs)]


def test_rows_of_one_batch_that_belong_to_different_adapters_are_as_each_alone() -> None:
    backbone = tiny_backbone(depth=3)
    first, second, third = three_adapters(backbone)
    slices = grey_slices(8)
    frozen = backbone.encode(slices, attention=True)
    keys = [network.adapter_key("axial") for network in (first, second, third)]
    rows = [Rows(keys[0], 0, 2), Rows(keys[1], 2, 5), Rows(keys[2], 6)]
    together = backbone.encode(slices, adapters=rows, attention=True)
    for number, network in enumerate((first, second, third)):
        where = slice(rows[number].first, rows[number].last)
        alone = network.encode(network.spec.views[0], slices[where], attention=True)
        torch.testing.assert_close(together.embedding[where], alone.embedding, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(together.attention[where], alone.attention, rtol=1e-5, atol=1e-6)
        assert not torch.allclose(together.embedding[where], frozen.embedding[where], atol=1e-3)
    assert torch.equal(together.embedding[5:6], frozen.embedding[5:6])


def test_rows_of_a_cnn_belong_to_their_adapters_as_well() -> None:
    backbone = backbone_of_kind("EfficientNet")
    networks = [tiny_network(backbone, seed=n, lora=LoRASpec(rank=n + 1)) for n in range(2)]
    slices = grey_slices(5)
    rows = [Rows(networks[0].adapter_key("axial"), 0, 2), Rows(networks[1].adapter_key("axial"), 2, 4)]
    together = backbone.encode(slices, adapters=rows).embedding
    for network, row in zip(networks, rows, strict=True):
        where = slice(row.first, row.last)
        alone = network.encode(network.spec.views[0], slices[where]).embedding
        torch.testing.assert_close(together[where], alone, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(together[4:], backbone.encode(slices[4:]).embedding, rtol=1e-5, atol=1e-5)


def test_the_tail_of_a_mixed_batch_is_adapted_row_by_row() -> None:
    backbone = tiny_backbone(depth=2)
    networks = [tiny_network(backbone, seed=n, lora=LoRASpec(rank=2, targets=("mlp", "attention"))) for n in range(2)]
    rows = [Rows(network.adapter_key("axial"), n, n + 1) for n, network in enumerate(networks)]
    encoded = backbone.encode(grey_slices(3), adapters=rows, tail=True)
    torch.testing.assert_close(encoded.tail.embed(encoded.tail.leaf), encoded.embedding, rtol=1e-4, atol=1e-5)


def test_an_adapter_that_is_not_on_the_backbone_is_refused_instead_of_ignored() -> None:
    backbone = tiny_backbone(depth=1)
    network = tiny_network(backbone)
    network.close()
    with pytest.raises(BackboneError, match="is not on this backbone"):
        network.encode(network.spec.views[0], grey_slices(2))


# Many plugins on one backbone


@pytest.mark.parametrize("kind", KINDS)
def test_many_plugins_on_one_backbone_are_each_as_alone(kind: str) -> None:
    slices = grey_slices(3)
    expected = []
    for seed in range(3):
        network = tiny_network(backbone_of_kind(kind), seed=seed)
        expected.append(network.encode(network.spec.views[0], slices).embedding)
    shared = backbone_of_kind(kind)
    networks = [tiny_network(shared, seed=seed) for seed in range(3)]
    for network, alone in zip(networks, expected, strict=True):
        assert torch.equal(network.encode(network.spec.views[0], slices).embedding, alone)


@pytest.mark.parametrize("kind", KINDS)
def test_removing_plugins_restores_the_backbone_bit_for_bit(kind: str) -> None:
    backbone, slices = backbone_of_kind(kind), grey_slices(3)
    frozen, digest = backbone.encode(slices).embedding, backbone.digest
    networks = [tiny_network(backbone, seed=seed) for seed in range(2)]
    kept = networks[1].encode(networks[1].spec.views[0], slices).embedding
    networks[0].close()
    assert torch.equal(networks[1].encode(networks[1].spec.views[0], slices).embedding, kept)
    networks[1].close()
    assert backbone.sites.keys == []
    assert not any(module._forward_hooks for module in backbone.model.modules())
    assert torch.equal(backbone.encode(slices).embedding, frozen)
    assert digest_of(backbone.model) == digest == digest_of(backbone_of_kind(kind).model)


@pytest.mark.parametrize("kind", ["DINOv3", "EfficientNet"])
def test_merging_gives_the_adapted_embeddings_and_restores_every_bit(kind: str) -> None:
    backbone, slices = backbone_of_kind(kind), grey_slices(3)
    network = tiny_network(backbone)
    adapted = network.encode(network.spec.views[0], slices).embedding
    frozen = backbone.encode(slices).embedding
    with backbone.sites.merged(network.adapter_key("axial")):
        torch.testing.assert_close(backbone.encode(slices).embedding, adapted, rtol=1e-4, atol=1e-4)
        assert digest_of(backbone.model) != backbone.digest
    assert digest_of(backbone.model) == backbone.digest
    assert torch.equal(backbone.encode(slices).embedding, frozen)


def test_merging_restores_every_bit_when_an_exception_passes() -> None:
    backbone = tiny_backbone(depth=2)
    network = tiny_network(backbone)
    with pytest.raises(ValueError, match="from within"), backbone.sites.merged(network.adapter_key("axial")):
        raise ValueError("from within")
    assert digest_of(backbone.model) == backbone.digest


def test_an_exception_within_the_backbone_leaves_no_adapter_active() -> None:
    backbone, slices = tiny_backbone(depth=2), grey_slices(2)
    network, frozen = tiny_network(backbone), backbone.encode(slices).embedding

    def fail(*_: object) -> None:
        raise ValueError("from within")

    handle = backbone.model.blocks[1].register_forward_pre_hook(fail)
    with pytest.raises(ValueError, match="from within"):
        network.encode(network.spec.views[0], slices)
    handle.remove()
    assert torch.equal(backbone.encode(slices).embedding, frozen)


# What LoRA cannot reach


def test_layers_whose_weights_are_used_without_a_call_are_refused() -> None:
    backbone = tiny_backbone("eva02_base_patch14_224", depth=2, embed_dim=48, num_heads=3, qkv_fused=True)
    for block in backbone.model.blocks:
        block.attn.qkv_bias_separate = False
    with pytest.raises(BackboneError, match=r"cannot reach 2 of 5 layers .* such as blocks\.0\.attn\.qkv"):
        PluginNetwork(plugin_spec(backbone, views=(view(backbone, size=(28, 42)),)), backbone)
    assert backbone.sites.keys == []
    assert not any(module._forward_hooks for module in backbone.model.modules())


SEPARATE_BIASES = {
    "EVA-02": ("eva02_base_patch14_224", {"qkv_fused": True}, 14),
    "BEiT": ("beit_base_patch16_224", {"img_size": 64}, 16),
}


@pytest.mark.parametrize("kind", SEPARATE_BIASES)
def test_attention_with_a_bias_of_query_and_value_alone_is_adapted_as_by_merging(kind: str) -> None:
    name, arguments, patch = SEPARATE_BIASES[kind]
    arguments = {"depth": 2, "embed_dim": 48, "num_heads": 3, **arguments}
    backbone, slices = tiny_backbone(name, **arguments), grey_slices(2, (4 * patch, 4 * patch))
    frozen = backbone.encode(slices).embedding
    mean, std = (torch.tensor(values)[:, None, None] for values in (backbone.mean, backbone.std))
    with torch.no_grad():
        own = timm_model(name, **arguments)((slices.expand(-1, 3, -1, -1) - mean) / std)
    torch.testing.assert_close(frozen, own, rtol=1e-5, atol=1e-5)
    network = tiny_network(backbone, views=(view(backbone, size=(4 * patch, 4 * patch)),))
    key = network.adapter_key("axial")
    adapted = backbone.encode(slices, adapters=[Rows(key)]).embedding
    assert (adapted - frozen).abs().max() > 1e-3
    with backbone.sites.merged(key):
        torch.testing.assert_close(backbone.encode(slices).embedding, adapted, rtol=1e-5, atol=1e-5)


def test_a_layer_with_a_forward_of_its_own_is_refused() -> None:
    backbone = tiny_backbone("test_nfnet")
    with pytest.raises(BackboneError, match=r"cannot adapt the layer '.*' of type ScaledStdConv2d"):
        select_targets(backbone.model, LoRASpec(), kind="cnn")


def test_a_convolution_that_pads_by_reflection_is_refused() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect"))
    with pytest.raises(BackboneError, match="cannot adapt the layer '1'"):
        select_targets(model, LoRASpec(), kind="cnn")


@pytest.mark.parametrize(
    ("kind", "targets", "message"),
    [
        ("class token", ("qkv",), "cannot target 'qkv': choose among patch_embed, attention"),
        ("class token", ("convolution",), "no layer of the group 'convolution'"),
        ("ResNet", ("attention",), "no layer of the group 'attention'"),
        ("ResNet", ("pointwise", "mlp"), "no layer of the group 'mlp'"),
    ],
)
def test_a_target_that_is_unknown_or_absent_is_refused(kind: str, targets: tuple[str, ...], message: str) -> None:
    backbone = backbone_of_kind(kind)
    with pytest.raises(BackboneError, match=message):
        select_targets(backbone.model, LoRASpec(targets=targets), kind=backbone.kind)


def test_rank_zero_adapts_nothing() -> None:
    backbone = tiny_backbone(depth=1)
    network = PluginNetwork(plugin_spec(backbone, lora=LoRASpec(rank=0)), backbone)
    assert backbone.sites.keys == []
    assert network.adapter_key("axial") is None
    slices = grey_slices(2)
    assert torch.equal(network.encode(network.spec.views[0], slices).embedding, backbone.encode(slices).embedding)


# Which layers


def names(backbone: Backbone, **fields: object) -> list[str]:
    return sorted(select_targets(backbone.model, LoRASpec(**fields), kind=backbone.kind))


def test_the_default_targets_of_a_transformer_are_its_patch_embedding_and_attention() -> None:
    per_block = [f"blocks.{n}.attn.{layer}" for n in range(2) for layer in ("proj", "qkv")]
    assert names(tiny_backbone(depth=2)) == [*per_block, "patch_embed.proj"]


def test_the_targets_of_a_pooling_query_are_attention_too() -> None:
    found = names(backbone_of_kind("pooling query over patches"), targets=("attention",))
    assert [name for name in found if "attn_pool" in name] == ["attn_pool.kv", "attn_pool.proj", "attn_pool.q"]
    assert "attn_pool.mlp.fc1" in names(backbone_of_kind("pooling query over patches"), targets=("mlp",))


@pytest.mark.parametrize("kind", ["ResNet", "EfficientNet"])
def test_the_default_targets_of_a_cnn_are_all_its_convolutions_but_the_depthwise(kind: str) -> None:
    backbone = backbone_of_kind(kind)
    convolutions = [n for n, m in backbone.model.named_modules() if isinstance(m, nn.Conv2d) and m.groups == 1]
    assert names(backbone) == sorted(convolutions)
    pointwise = names(backbone, targets=("pointwise",))
    assert pointwise
    assert all(backbone.model.get_submodule(name).kernel_size == (1, 1) for name in pointwise)


DENSENET = ("densenet121", {"block_config": (2, 2, 2, 3), "growth_rate": 8})
LAST_TWO = {
    "ViT": ("test_vit", {"depth": 4}, ("blocks.2.", "blocks.3.")),
    "ViT with a pooling query": ("test_vit", {"depth": 4, "global_pool": "map"}, ("blocks.2.", "blocks.3.", "attn_po")),
    "DINOv3": ("vit_small_patch16_dinov3", {"depth": 3, "embed_dim": 48, "num_heads": 3}, ("blocks.1.", "blocks.2.")),
    "ResNet": ("test_resnet", {}, ("layer3.0.", "layer4.0.")),
    "EfficientNet": ("tf_efficientnet_lite0", {}, ("blocks.5.3.", "blocks.6.0.", "conv_head")),
    # timm counts a stage's downsampling with its first block.
    "ConvNeXt": ("test_convnext", {}, ("stages.3.blocks.0.", "stages.3.blocks.1.", "stages.3.downsample.")),
    "DenseNet": (*DENSENET, ("features.denseblock4.denselayer2.", "features.denseblock4.denselayer3.")),
}


@pytest.mark.parametrize("name", LAST_TWO)
def test_last_blocks_adapts_the_last_blocks_and_what_follows_them(name: str) -> None:
    timm_name, arguments, expected = LAST_TWO[name]
    with torch.device("meta"):
        model = create_model(BackboneEntry(id=name, timm=timm_name, model_args=arguments))
    kind = "transformer" if hasattr(model, "patch_embed") else "cnn"
    everything = select_targets(model, LoRASpec(), kind=kind)
    found = select_targets(model, LoRASpec(last_blocks=2), kind=kind)
    assert set(found) == {layer for layer in everything if layer.startswith(expected)}
    for prefix in expected:
        assert any(layer.startswith(prefix) for layer in found), prefix


def test_an_adapter_knows_its_layers_by_their_dotted_names() -> None:
    backbone = tiny_backbone(depth=1)
    adapter = Adapter(select_targets(backbone.model, LoRASpec(), kind="transformer"), LoRASpec())
    assert adapter.layers == ["patch_embed.proj", "blocks.0.attn.qkv", "blocks.0.attn.proj"]
    assert adapter.pair("norm") is None
    assert isinstance(adapter.pair("blocks.0.attn.qkv"), LoRAPair)


def embedding_gradient(network: PluginNetwork, slices: Tensor) -> list[Tensor]:
    embedding = network.encode(network.spec.views[0], slices).embedding
    return list(torch.autograd.grad((embedding**3).sum(), list(network.adapters.parameters())))


def test_an_adapter_learns_from_its_own_rows_alone() -> None:
    backbone, slices = tiny_backbone(depth=2), grey_slices(5)
    network, other = tiny_network(backbone, seed=1), tiny_network(backbone, seed=2)
    rows = [Rows(network.adapter_key("axial"), 0, 3), Rows(other.adapter_key("axial"), 3)]
    embedding = backbone.encode(slices, adapters=rows).embedding
    mixed = torch.autograd.grad((embedding**3).sum(), list(network.adapters.parameters()))
    for ours, alone in zip(mixed, embedding_gradient(network, slices[:3]), strict=True):
        torch.testing.assert_close(ours, alone, rtol=1e-4, atol=1e-5 * float(alone.abs().max()))
