"""The frozen backbone: embeddings as timm's own, class attention and class maps as from the explicit matrix."""

from __future__ import annotations

import copy
import types
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from networks import (
    KINDS,
    SIZES,
    WITH_CLASS_ATTENTION,
    backbone_of_kind,
    grey_slices,
    plugin_spec,
    timm_model,
    tiny_backbone,
    tiny_network,
)
from timm.layers import AttentionPoolLatent
from torch import Tensor, nn

from AnyMC3DLib.backbone import Backbone
from AnyMC3DLib.catalogue import BackboneEntry
from AnyMC3DLib.errors import BackboneError
from AnyMC3DLib.model import PluginNetwork
from AnyMC3DLib.opening import create_model, open_backbone
from AnyMC3DLib.spec import LoRASpec

MORE_KINDS: dict[str, tuple[str, dict]] = {
    "pooling query of an Eva": ("vit_pe_core_tiny_patch16_384", {"depth": 2}),
    "relative positions": (
        "beit_base_patch16_224",
        {"depth": 2, "embed_dim": 48, "num_heads": 3, "img_size": (32, 48), "global_pool": "token"},
    ),
    "relative positions of all layers": (
        "beit_base_patch16_224",
        {
            "depth": 2,
            "embed_dim": 48,
            "num_heads": 3,
            "img_size": (32, 48),
            "global_pool": "token",
            "use_rel_pos_bias": False,
            "use_shared_rel_pos_bias": True,
            "swiglu_mlp": True,
            "init_values": 0.0,
        },
    ),
    "rotary attention": ("vit_small_patch16_rope_ape_224", {"depth": 2, "embed_dim": 48, "num_heads": 3}),
}
LAST_ATTENTIONS = [*WITH_CLASS_ATTENTION, *MORE_KINDS]


def backbone_with_attention(kind: str) -> Backbone:
    name, arguments = {**KINDS, **MORE_KINDS}[kind]
    backbone = tiny_backbone(name, **arguments)
    with torch.no_grad():
        for place, parameter in backbone.model.named_parameters():
            if place.endswith("relative_position_bias_table"):
                parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(2)))
    return backbone


def timms_own_embedding(kind: str, slices: Tensor) -> Tensor:
    """What timm gives for tripled, normalised slices; DINOv3's is the class token, as its authors read it."""
    name, arguments = KINDS[kind]
    model = timm_model(name, **arguments)
    mean, std = (torch.tensor(model.pretrained_cfg[key]).reshape(1, 3, 1, 1) for key in ("mean", "std"))
    x = (slices.expand(-1, 3, -1, -1) - mean) / std
    with torch.no_grad():
        return model.forward_features(x)[:, 0] if kind == "DINOv3" else model(x)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", KINDS)
def test_the_embedding_is_timms_own_of_tripled_slices(kind: str, size: tuple[int, int]) -> None:
    slices = grey_slices(2, size)
    embedding = backbone_of_kind(kind).encode(slices).embedding
    assert embedding.std() > 1e-3
    torch.testing.assert_close(embedding, timms_own_embedding(kind, slices), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_colour_slices_are_embedded_as_by_timm(kind: str) -> None:
    slices = grey_slices(2, channels=3)
    embedding = backbone_of_kind(kind).encode(slices).embedding
    torch.testing.assert_close(embedding, timms_own_embedding(kind, slices), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_the_stated_width_is_that_of_the_embedding(kind: str) -> None:
    backbone = backbone_of_kind(kind)
    assert backbone.encode(grey_slices(1)).embedding.shape == (1, backbone.embed_dim)


@pytest.mark.parametrize("kind", KINDS)
def test_a_fresh_plugin_gives_exactly_the_frozen_embeddings(kind: str) -> None:
    backbone, slices = backbone_of_kind(kind), grey_slices(3)
    frozen = backbone.encode(slices).embedding
    network = PluginNetwork(plugin_spec(backbone), backbone)
    assert len(backbone.sites.keys) == 1
    assert torch.equal(network.encode(network.spec.views[0], slices).embedding, frozen)


@pytest.mark.parametrize("kind", KINDS)
def test_each_slice_is_embedded_as_if_alone(kind: str) -> None:
    backbone, slices = backbone_of_kind(kind), grey_slices(3)
    alone = torch.cat([backbone.encode(slices[n : n + 1]).embedding for n in range(3)])
    torch.testing.assert_close(backbone.encode(slices).embedding, alone, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_asking_for_attention_and_tail_changes_no_bit_of_the_embedding(kind: str) -> None:
    backbone = backbone_of_kind(kind)
    network = tiny_network(backbone)
    view, slices = network.spec.views[0], grey_slices(3)
    plain = network.encode(view, slices).embedding
    asked = network.encode(view, slices, attention=True, tail=True)
    assert torch.equal(asked.embedding, plain)
    assert (asked.attention is not None) == (kind in WITH_CLASS_ATTENTION) == backbone.has_class_attention
    assert torch.equal(network.encode(view, slices).embedding, plain)


# The oracle: the explicit attention matrix.


def explicit_pool(pool: AttentionPoolLatent, tokens: Tensor, seen: list[Tensor]) -> Tensor:
    """timm's attention pooling written out, with the matrix as a leaf in `seen`."""
    batch, count, width = tokens.shape
    query = pool.q(pool.latent.expand(batch, -1, -1)).reshape(batch, 1, pool.num_heads, -1).transpose(1, 2)
    key, value = pool.kv(tokens).reshape(batch, count, 2, pool.num_heads, -1).permute(2, 0, 3, 1, 4)
    scores = pool.q_norm(query) @ pool.k_norm(key).transpose(2, 3) / pool.head_dim**0.5
    seen.append(scores.softmax(dim=-1).detach().requires_grad_())
    x = pool.proj((seen[-1] @ value).transpose(1, 2).reshape(batch, 1, width))
    return (x + pool.mlp(pool.norm(x)))[:, 0]


@contextmanager
def explicit_attention(backbone: Backbone) -> Iterator[list[Tensor]]:
    """Within the block the last attention is computed as a full matrix, which a list then holds as a leaf."""
    seen: list[Tensor] = []
    model = backbone.model
    if isinstance(getattr(model, "attn_pool", None), AttentionPoolLatent):
        pool = model.attn_pool
        pool.forward = types.MethodType(lambda self, x: explicit_pool(self, x, seen), pool)
        try:
            yield seen
        finally:
            del pool.forward
        return

    def keep(_: nn.Module, __: tuple, matrix: Tensor) -> Tensor:
        seen.append(matrix.detach().requires_grad_())
        return seen[-1]

    layer = model.blocks[-1].attn
    layer.fused_attn = False
    handle = layer.attn_drop.register_forward_hook(keep)
    try:
        yield seen
    finally:
        handle.remove()
        layer.fused_attn = True


def prefix_of(backbone: Backbone) -> int:
    """Tokens before the patches in what the last attention reads."""
    pool = getattr(backbone.model, "attn_pool", None)
    if pool is not None and getattr(backbone.model, "pool_include_prefix", True) is False:
        return 0
    return backbone.model.num_prefix_tokens


@pytest.mark.parametrize("kind", LAST_ATTENTIONS)
def test_class_attention_is_the_class_row_of_the_full_matrix_averaged_over_heads(kind: str) -> None:
    backbone = backbone_with_attention(kind)
    network = tiny_network(backbone, lora=LoRASpec(rank=2, targets=("attention", "mlp", "patch_embed")))
    view, slices = network.spec.views[0], grey_slices(3)
    with explicit_attention(backbone) as seen, torch.no_grad():
        expected = network.encode(view, slices).embedding
    encoded = network.encode(view, slices, attention=True)
    row = seen[0].mean(dim=1)[:, 0]
    torch.testing.assert_close(encoded.embedding, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(encoded.attention, row[:, prefix_of(backbone) :].reshape(3, 2, 3), rtol=1e-4, atol=1e-6)
    assert row.shape[1] == 6 + prefix_of(backbone)
    assert encoded.attention.std() > 1e-3
    # The adapters matter to it: it is not the frozen backbone's.
    assert not torch.allclose(encoded.attention, backbone.encode(slices, attention=True).attention, atol=1e-3)


@pytest.mark.parametrize("kind", [*KINDS, *MORE_KINDS])
def test_the_tail_leads_from_its_leaf_to_the_embedding(kind: str) -> None:
    backbone = backbone_with_attention(kind)
    network = tiny_network(backbone)
    encoded = network.encode(network.spec.views[0], grey_slices(3), tail=True)
    again = encoded.tail.embed(encoded.tail.leaf)
    torch.testing.assert_close(again, encoded.embedding, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", LAST_ATTENTIONS)
def test_a_class_map_is_attention_times_its_gradient_through_the_whole_explicit_network(kind: str) -> None:
    backbone = backbone_with_attention(kind)
    network = tiny_network(backbone, lora=LoRASpec(rank=2, targets=("attention", "mlp")))
    backbone.model.double()
    view, slices = network.spec.views[0], grey_slices(2).double()
    direction = torch.randn(2, backbone.embed_dim, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    with explicit_attention(backbone) as seen:
        embedding = network.encode(view, slices).embedding
        (gradient,) = torch.autograd.grad((embedding * direction).sum(), seen[0])
    expected = (seen[0] * gradient)[:, :, 0, prefix_of(backbone) :].sum(dim=1).reshape(2, 2, 3)
    tail = network.encode(view, slices, tail=True).tail
    leaf = tail.leaf.requires_grad_()
    (of_row,) = torch.autograd.grad((tail.embed(leaf) * direction).sum(), leaf)
    in_favour, against = tail.contributions(of_row)
    torch.testing.assert_close(in_favour - against, expected, rtol=1e-9, atol=1e-12)
    assert min(in_favour.min(), against.min()) >= 0
    assert expected.std() > 1e-3


@pytest.mark.parametrize(
    ("kind", "layer"), [("ResNet", "layer3"), ("EfficientNet", "blocks.3"), ("ConvNeXt", "stages.2")]
)
def test_a_cnns_class_map_is_activation_times_gradient_at_its_last_but_one_resolution(kind: str, layer: str) -> None:
    backbone = backbone_of_kind(kind)
    network = tiny_network(backbone)
    view, slices = network.spec.views[0], grey_slices(2, (64, 96))
    weights = torch.randn(backbone.embed_dim)
    kept = []
    handle = backbone.model.get_submodule(layer).register_forward_hook(lambda *a: kept.append(a[2]))
    (of_layer,) = torch.autograd.grad((network.encode(view, slices).embedding @ weights).sum(), kept[0])
    handle.remove()
    tail = network.encode(view, slices, tail=True).tail
    leaf = tail.leaf.requires_grad_()
    (gradient,) = torch.autograd.grad((tail.embed(leaf) @ weights).sum(), leaf)
    in_favour, against = tail.contributions(gradient)
    product = (kept[0] * of_layer).detach()
    assert tail.grid == (4, 6)
    torch.testing.assert_close(in_favour, product.clamp_min(0).sum(dim=1), rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(against, (-product).clamp_min(0).sum(dim=1), rtol=1e-3, atol=1e-6)


def test_the_map_of_averaged_tokens_leaves_out_the_registers() -> None:
    backbone = backbone_of_kind("average of tokens")
    encoded = backbone.encode(grey_slices(2), tail=True)
    leaf = encoded.tail.leaf.requires_grad_()
    (gradient,) = torch.autograd.grad(encoded.tail.embed(leaf).sum(), leaf)
    contributions = encoded.tail.contributions(gradient)
    assert leaf.shape[1] == 7
    torch.testing.assert_close(
        contributions[0] - contributions[1], (leaf * gradient).sum(dim=2)[:, 1:].reshape(2, 2, 3)
    )


def test_a_map_of_channels_last_features_has_the_features_own_grid() -> None:
    backbone = tiny_backbone(
        "swin_tiny_patch4_window7_224", depths=(1, 1, 1, 1), embed_dim=24, num_heads=(1, 1, 2, 2), img_size=(64, 96)
    )
    encoded = backbone.encode(grey_slices(2, (64, 96)), tail=True)
    leaf = encoded.tail.leaf.requires_grad_()
    (gradient,) = torch.autograd.grad(encoded.tail.embed(leaf).sum(), leaf)
    contributions = encoded.tail.contributions(gradient)
    assert encoded.tail.grid == (4, 6)
    torch.testing.assert_close(contributions[0] - contributions[1], (leaf * gradient).sum(dim=3))


def test_adapters_behind_the_last_feature_map_act_in_the_tail_too() -> None:
    backbone = tiny_backbone("mobilenetv3_small_050")
    network = tiny_network(backbone)
    assert any("conv_head" in name for name in network.adapters["axial"].layers)
    encoded = network.encode(network.spec.views[0], grey_slices(2), tail=True)
    assert not torch.allclose(encoded.embedding, backbone.encode(grey_slices(2)).embedding, atol=1e-2)
    torch.testing.assert_close(encoded.tail.embed(encoded.tail.leaf), encoded.embedding, rtol=1e-4, atol=1e-5)


def test_a_tail_keeps_no_more_memory_than_its_row_and_values() -> None:
    backbone = backbone_of_kind("class token")
    tail = backbone.encode(grey_slices(4, (64, 64)), tail=True).tail
    kept = [cell.cell_contents for cell in tail.embed.__closure__]
    tensors = [t for c in kept for t in (c.values() if isinstance(c, dict) else [c]) if isinstance(t, Tensor)]
    # Values of 17 tokens, and the class token before the block and before the layer, of four slices, 64 wide.
    assert sum(t.untyped_storage().nbytes() for t in tensors) == 4 * 64 * (17 + 1 + 1) * 4


@pytest.mark.parametrize(
    ("name", "arguments"),
    [("deit_tiny_distilled_patch16_224", {"depth": 2}), ("vit_small_patch16_18x2_224", {"depth": 2, "embed_dim": 48})],
)
def test_an_embedding_that_is_read_in_another_way_has_no_class_attention(name: str, arguments: dict) -> None:
    backbone = tiny_backbone(name, **arguments)
    encoded = backbone.encode(grey_slices(1, (224, 224)), attention=True, tail=True)
    assert not backbone.has_class_attention
    assert encoded.attention is None
    torch.testing.assert_close(encoded.tail.embed(encoded.tail.leaf), encoded.embedding)


def test_patches_behind_a_cnn_stem_are_counted_in_pixels() -> None:
    backbone = tiny_backbone("vit_tiny_r_s16_p8_224", depth=1)
    assert backbone.multiple_of == 32
    assert backbone.encode(grey_slices(1, (64, 96)), attention=True).attention.shape == (1, 2, 3)


@pytest.mark.parametrize(("kind", "expected"), [("class token", 16), ("DINOv3", 16), ("ResNet", 1)])
def test_sizes_must_be_multiples_of_the_patch(kind: str, expected: int) -> None:
    assert backbone_of_kind(kind).multiple_of == expected


def test_slices_that_patches_do_not_divide_are_refused() -> None:
    with pytest.raises(BackboneError, match=r"30 x 48 pixels do not suit 'test_vit'.*multiple of 16"):
        tiny_backbone(depth=1).encode(grey_slices(1, (30, 48)))


def test_a_model_of_a_fixed_size_says_so() -> None:
    backbone = tiny_backbone("beit_base_patch16_224", depth=1, embed_dim=48, num_heads=3)
    assert backbone.fixed_size == (224, 224)
    with pytest.raises(BackboneError, match=r"32 x 48 pixels do not suit .*: it takes 224 x 224 alone"):
        backbone.encode(grey_slices(1))
    assert backbone.encode(grey_slices(1, (224, 224))).embedding.shape == (1, 48)


@pytest.mark.parametrize("shape", [(1, 2, 32, 32), (1, 32, 32), (1, 4, 32, 32)])
def test_slices_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(BackboneError, match="must be"):
        tiny_backbone(depth=1).encode(torch.rand(shape))


def test_a_model_that_hides_its_patches_is_refused_in_one_sentence() -> None:
    backbone = tiny_backbone(depth=1)
    backbone.model.patch_embed = nn.Identity()
    with pytest.raises(BackboneError, match="how large its patches are"):
        _ = backbone.multiple_of


@pytest.mark.parametrize("name", ["no_such_model", "test_vit.no_such_tag", "hf-hub:someone/something", ""])
def test_a_name_that_timm_does_not_know_is_refused(name: str) -> None:
    with pytest.raises(BackboneError, match="timm has no model"):
        create_model(BackboneEntry(id="x", timm=name))


def test_an_unknown_backbone_is_refused_with_the_names_that_may_be_meant() -> None:
    with pytest.raises(BackboneError, match=r"no backbone 'dinov2_vits'.*did you mean dinov2_vits14.*'timm:'"):
        open_backbone("dinov2_vits")


def test_the_backbone_is_frozen_and_in_evaluation_mode() -> None:
    backbone = backbone_of_kind("EfficientNet")
    assert not any(parameter.requires_grad for parameter in backbone.model.parameters())
    assert not any(module.training for module in backbone.model.modules())


def test_a_backbone_can_be_copied_with_its_folding() -> None:
    backbone = tiny_backbone(depth=1)
    twin, slices = copy.deepcopy(backbone.model), grey_slices(2)
    expected = backbone.model.forward_features(backbone.normalise(slices))
    assert torch.equal(twin.forward_features(backbone.normalise(slices)), expected)
