"""BEiT from Transformers and from its authors' files: tokens, embedding and class attention."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from foreign_models import backbone_of, picture, published_too, randomised, saved
from safetensors.torch import load_file, save_file
from test_foreign_clip import read
from torch import Tensor
from transformers import (
    BeitConfig,
    BeitForImageClassification,
    BeitForMaskedImageModeling,
    BeitForSemanticSegmentation,
    BeitModel,
)

from AnyMC3DLib.architecture import Architecture
from AnyMC3DLib.errors import BackboneError
from AnyMC3DLib.foreign.beit import OriginalBEiT, TransformersBEiT
from AnyMC3DLib.foreign.checkpoint import Checkpoint, read_checkpoint
from AnyMC3DLib.weights import digest_of

SIZES = {
    "hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 3, "image_size": 32,
    "patch_size": 8,
}  # fmt: skip
OF_LAYERS = {"use_relative_position_bias": True}
OF_ALL = {"use_shared_relative_position_bias": True}
ABSOLUTE = {"use_absolute_position_embeddings": True}
KINDS = [OF_LAYERS, OF_ALL, ABSOLUTE, {**OF_LAYERS, **ABSOLUTE, "layer_scale_init_value": 0.0, "use_mask_token": True}]
TO_AUTHORS = {
    "embeddings.cls_token": "cls_token", "embeddings.mask_token": "mask_token",
    "embeddings.position_embeddings": "pos_embed", "embeddings.patch_embeddings.projection": "patch_embed.proj",
    "pooler.layernorm": "fc_norm", "encoder.relative_position_bias": "rel_pos_bias", "encoder.layer.": "blocks.",
    "attention.attention.query.bias": "attn.q_bias", "attention.attention.value.bias": "attn.v_bias",
    "attention.attention.relative_position_bias.": "attn.", "attention.output.dense": "attn.proj",
    "lambda_": "gamma_", "layernorm_before": "norm1", "layernorm_after": "norm2", "intermediate.dense": "mlp.fc1",
    "output.dense": "mlp.fc2", "layernorm": "norm",
}  # fmt: skip


small_networks = published_too(("BEiT", 48, 2, 3))


def beit(**fields: Any) -> BeitModel:
    """A random BEiT whose full attention can be had."""
    config = BeitConfig(**{**SIZES, **fields})
    return randomised(BeitModel._from_config(config, attn_implementation="eager"))


def authors_names(published: dict[str, Tensor]) -> dict[str, Tensor]:
    """Tensors that Transformers saved, by the names of the authors' files."""
    result = {}
    for name, tensor in published.items():
        if name.endswith(("key.weight", "value.weight")):
            continue
        if name.endswith("query.weight"):
            parts = [published[name.replace("query", part)] for part in ("query", "key", "value")]
            name, tensor = name.replace("attention.attention.query", "attn.qkv"), torch.cat(parts)
        for old, new in TO_AUTHORS.items():
            name = name.replace(old, new)
        result[name] = tensor
        if name.endswith("relative_position_bias_table"):
            result[name.replace("bias_table", "index")] = torch.zeros(17, 17, dtype=torch.long)
    return result


def tokens_of(model: BeitModel, size: tuple[int, int] = (32, 32)) -> tuple[Tensor, Tensor]:
    with torch.no_grad():
        output = model(picture(size))
    return output.last_hidden_state, output.pooler_output


@pytest.mark.parametrize("mean", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_tokens_and_embedding_are_those_of_transformers(tmp_path: Path, kind: dict[str, Any], *, mean: bool) -> None:
    model = beit(**kind, use_mean_pooling=mean)
    weights = read(saved(model, tmp_path), TransformersBEiT())
    tokens, embedding = tokens_of(model)
    with torch.no_grad():
        own = weights.model.forward_features(picture((32, 32)))
    torch.testing.assert_close(own, tokens, rtol=1e-5, atol=1e-5)
    backbone = backbone_of(weights)
    torch.testing.assert_close(backbone.encode(picture((32, 32))).embedding, embedding, rtol=1e-5, atol=1e-5)
    assert backbone.has_class_attention != mean
    assert embedding.std() > 0.1


@pytest.mark.parametrize("kind", KINDS)
def test_class_attention_is_the_row_of_transformers_matrix(tmp_path: Path, kind: dict[str, Any]) -> None:
    model = beit(**kind, use_mean_pooling=False)
    backbone = backbone_of(read(saved(model, tmp_path), TransformersBEiT()))
    with torch.no_grad():
        matrix = model(picture((32, 32)), output_attentions=True).attentions[-1]
    row = backbone.encode(picture((32, 32)), attention=True).attention
    torch.testing.assert_close(row.flatten(1), matrix.mean(dim=1)[:, 0, 1:], rtol=1e-4, atol=1e-6)
    assert row.std() > 1e-4


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind is not ABSOLUTE])
def test_the_authors_files_give_the_same_network(tmp_path: Path, kind: dict[str, Any]) -> None:
    model = beit(**kind, layer_norm_eps=1e-6)
    other = read(saved(model, tmp_path / "hf"), TransformersBEiT())
    tensors = authors_names(load_file(tmp_path / "hf" / "model.safetensors"))
    torch.save({"model": {**tensors, "head.weight": torch.zeros(2, 48)}}, tmp_path / "beit.pth")
    weights = read(tmp_path / "beit.pth", OriginalBEiT())
    assert digest_of(weights.model) == digest_of(other.model)
    assert weights.architecture == other.architecture
    assert "head.weight" in weights.dropped
    assert any(name.endswith("relative_position_index") for name in weights.dropped)


def test_weights_of_masked_images_average_patches_before_their_norm(tmp_path: Path) -> None:
    model = randomised(BeitForMaskedImageModeling(BeitConfig(**SIZES, **OF_ALL, use_mask_token=True, vocab_size=20)))
    other = read(saved(model, tmp_path / "hf"), TransformersBEiT())
    with torch.no_grad():
        tokens = model.beit(picture((32, 32))).last_hidden_state
        expected = model.layernorm(tokens[:, 1:].mean(dim=1))
    embedding = backbone_of(other).encode(picture((32, 32))).embedding
    torch.testing.assert_close(embedding, expected, rtol=1e-5, atol=1e-5)
    assert {"lm_head.weight", "beit.embeddings.mask_token"} <= set(other.dropped)
    published = load_file(tmp_path / "hf" / "model.safetensors")
    save_file(authors_names({n.removeprefix("beit."): t for n, t in published.items()}), tmp_path / "own.safetensors")
    weights = read(tmp_path / "own.safetensors", OriginalBEiT())
    assert digest_of(weights.model) == digest_of(other.model)
    assert weights.architecture == dataclasses.replace(other.architecture, norm_eps=1e-6)


def test_a_classifier_is_left_out(tmp_path: Path) -> None:
    model = randomised(BeitForImageClassification(BeitConfig(**SIZES, **OF_LAYERS)))
    weights = read(saved(model, tmp_path), TransformersBEiT())
    assert set(weights.dropped) == {"classifier.weight", "classifier.bias"}
    torch.testing.assert_close(
        backbone_of(weights).encode(picture((32, 32))).embedding, tokens_of(model.beit)[1], rtol=1e-5, atol=1e-5
    )


def test_another_size_is_refused(tmp_path: Path) -> None:
    weights = read(saved(beit(**OF_LAYERS), tmp_path), TransformersBEiT())
    assert weights.architecture.positions.kind == "fixed"
    assert weights.architecture.input_size == (32, 32)
    with pytest.raises(BackboneError, match="it takes 32 x 32 alone"):
        backbone_of(weights).encode(picture((40, 40)))


def test_a_published_size_is_timms_model_of_that_name() -> None:
    sizes = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
    with torch.device("meta"):
        model = BeitModel(BeitConfig(**sizes, **OF_LAYERS, image_size=224, patch_size=16))
    names = {"layers.": "encoder.layer.", "attention.q_proj": "attention.attention.query"}
    tensors = {}
    for name, tensor in model.state_dict().items():
        for old, new in {
            **names, "attention.k_proj": "attention.attention.key", "attention.v_proj": "attention.attention.value",
            "attention.o_proj": "attention.output.dense", "mlp.fc1": "intermediate.dense", "mlp.fc2": "output.dense",
            ".relative_position_bias.": ".attention.attention.relative_position_bias.",
        }.items():  # fmt: skip
            name = name.replace(old, new)
        tensors[name] = tensor
    checkpoint = Checkpoint(tensors)
    assert TransformersBEiT().matches(checkpoint)
    architecture: Architecture = TransformersBEiT().convert(checkpoint).architecture
    assert (architecture.timm, dict(architecture.model_args)) == ("beit_base_patch16_224", {})
    assert architecture.norm_eps == 1e-12


@pytest.mark.parametrize(
    ("lost", "told"),
    [
        ("encoder.layer.1.lambda_2", r"blocks\.1\.gamma_2"),
        ("encoder.layer.1.attention.attention.key.weight", r"attn\.key"),
        ("encoder.layer.1.attention.attention.relative_position_bias.relative_position_bias_table", "bias_table"),
        ("pooler.layernorm.weight", r"norm\.weight"),
    ],
)
def test_a_missing_tensor_and_one_too_many_are_refused_by_name(tmp_path: Path, lost: str, told: str) -> None:
    place = saved(beit(**OF_LAYERS), tmp_path)
    file = place / "model.safetensors"
    whole = load_file(file)
    save_file({name: tensor for name, tensor in whole.items() if name != lost}, file)
    with pytest.raises(BackboneError, match=told):
        read(place, TransformersBEiT())
    save_file({**whole, "encoder.adapter": torch.zeros(2)}, file)
    with pytest.raises(BackboneError, match=r"'encoder\.adapter'"):
        read(place, TransformersBEiT())
    save_file({**authors_names(whole), "blocks.0.adapter": torch.zeros(2)}, tmp_path / "own.safetensors")
    with pytest.raises(BackboneError, match=r"'blocks\.0\.adapter'"):
        OriginalBEiT().convert(read_checkpoint(tmp_path / "own.safetensors"))


def test_tensors_of_another_shape_are_refused_by_name(tmp_path: Path) -> None:
    place = saved(beit(**OF_LAYERS), tmp_path)
    file, name = place / "model.safetensors", "embeddings.patch_embeddings.projection.weight"
    whole = load_file(file)
    table = "encoder.layer.0.attention.attention.relative_position_bias.relative_position_bias_table"
    for odd, told in ((name, r"patch_embed\.proj\.weight"), (table, "relative_position_bias_table")):
        save_file({**whole, odd: torch.zeros(3)}, file)
        with pytest.raises(BackboneError, match=told):
            read(place, TransformersBEiT())


def test_another_activation_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BackboneError, match="'relu', where timm's BEiT has GELU"):
        read(saved(beit(**OF_LAYERS, hidden_act="relu"), tmp_path), TransformersBEiT())


def test_a_model_of_regions_has_no_norm_and_its_tokens_are_standardised_alone(tmp_path: Path) -> None:
    config = BeitConfig(**{**SIZES, "num_hidden_layers": 4, "out_indices": [1, 2, 3, 4]}, **OF_LAYERS)
    model = randomised(BeitForSemanticSegmentation(config))
    weights = read(saved(model, tmp_path), TransformersBEiT())
    slices = picture((32, 32))
    with torch.no_grad():
        tokens = model.beit(slices).last_hidden_state
        embedding = backbone_of(weights).encode(slices).embedding
    expected = torch.nn.functional.layer_norm(tokens[:, 1:].mean(dim=1), (48,), eps=1e-12)
    torch.testing.assert_close(embedding, expected, rtol=0, atol=1e-4)
    assert any(name.startswith("decode_head.") for name in weights.dropped)
    without = load_file(tmp_path / "model.safetensors")
    save_file({n: t for n, t in without.items() if not n.startswith("decode_head.")}, tmp_path / "model.safetensors")
    with pytest.raises(BackboneError, match=r"lacks the tensor 'norm\.weight'"):
        read(tmp_path, TransformersBEiT())
