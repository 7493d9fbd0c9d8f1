"""SigLIP's image tower from Transformers: tokens, the pooling query's reading and its attention."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from foreign_models import backbone_of, picture, randomised, saved
from open_clip.model import CustomTextCLIP
from safetensors.torch import load_file, save_file
from test_foreign_clip import read
from timm.models import register_model
from torch import Tensor, nn
from transformers import (
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    Siglip2VisionConfig,
    Siglip2VisionModel,
    SiglipConfig,
    SiglipForImageClassification,
    SiglipModel,
    SiglipVisionConfig,
    SiglipVisionModel,
)
from transformers.models.siglip2.image_processing_siglip2 import convert_image_to_patches

from AnyMC3DLib.architecture import Positions
from AnyMC3DLib.errors import BackboneError
from AnyMC3DLib.foreign.checkpoint import Checkpoint, read_checkpoint
from AnyMC3DLib.foreign.clip import TransformersCLIP
from AnyMC3DLib.foreign.open_clip import OpenCLIPTimm
from AnyMC3DLib.foreign.siglip import TransformersSigLIP
from AnyMC3DLib.weights import digest_of

SHARED = {"hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 3}
VISION = {**SHARED, "image_size": 32, "patch_size": 8}
TEXT = {
    "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 40,
    "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
SIZES = [(32, 32), (56, 40)]


def siglip(**fields: Any) -> SiglipVisionModel:
    return randomised(SiglipVisionModel(SiglipVisionConfig(**{**VISION, **fields})))


def siglip2(**fields: Any) -> Siglip2VisionModel:
    return randomised(Siglip2VisionModel(Siglip2VisionConfig(**SHARED, patch_size=8, num_patches=16, **fields)))


def medgemma() -> Gemma3ForConditionalGeneration:
    """As MedGemma: the image tower has no pooling query, and a language model stands beside it."""
    text = {
        "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
        "num_key_value_heads": 1, "head_dim": 8, "vocab_size": 40, "bos_token_id": 1, "eos_token_id": 2,
    }  # fmt: skip
    tokens = {"image_token_index": 30, "boi_token_index": 31, "eoi_token_index": 32, "mm_tokens_per_image": 4}
    vision = {**VISION, "model_type": "siglip_vision_model", "vision_use_head": False}
    return randomised(Gemma3ForConditionalGeneration(Gemma3Config(vision_config=vision, text_config=text, **tokens)))


def as_on_the_hub(place: Path, *, prefix: str) -> Path:
    """The folder with the names below `prefix`, as published files have them."""
    file = next(place.glob("*.safetensors"))
    tower = "vision_tower." if any(name.startswith("vision_tower.") for name in load_file(file)) else ""
    tensors = load_file(file)
    own = {name: tensor for name, tensor in tensors.items() if name.startswith(tower)}
    others = {name: tensor for name, tensor in tensors.items() if name not in own}
    save_file({**others, **{prefix + name.removeprefix(tower): tensor for name, tensor in own.items()}}, file)
    return place


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("activation", ["gelu_pytorch_tanh", "gelu"])
def test_tokens_and_embedding_are_those_of_transformers(tmp_path: Path, activation: str, size: tuple[int, int]) -> None:
    model = siglip(hidden_act=activation)
    weights = read(saved(model, tmp_path), TransformersSigLIP())
    with torch.no_grad():
        output = model(picture(size), interpolate_pos_encoding=True)
        tokens = weights.model.forward_features(picture(size))
    torch.testing.assert_close(tokens, output.last_hidden_state, rtol=1e-5, atol=1e-5)
    embedding = backbone_of(weights).encode(picture(size)).embedding
    torch.testing.assert_close(embedding, output.pooler_output, rtol=1e-5, atol=1e-5)
    assert embedding.std() > 0.1


@pytest.mark.parametrize("size", SIZES)
def test_attention_is_the_matrix_of_the_librarys_pooling_query(tmp_path: Path, size: tuple[int, int]) -> None:
    model = siglip()
    backbone = backbone_of(read(saved(model, tmp_path), TransformersSigLIP()))
    with torch.no_grad():
        tokens = model(picture(size), interpolate_pos_encoding=True).last_hidden_state
        query = model.head.probe.expand(len(tokens), -1, -1)
        _, matrix = model.head.attention(query, tokens, tokens, need_weights=True, average_attn_weights=True)
    row = backbone.encode(picture(size), attention=True).attention
    assert row.shape[1:] == (size[0] // 8, size[1] // 8)
    torch.testing.assert_close(row.flatten(1), matrix[:, 0], rtol=1e-4, atol=1e-6)
    assert row.std() > 1e-4


@pytest.mark.parametrize("prefix", ["vision_tower.", "vision_tower.vision_model.", "model.vision_tower.vision_model."])
def test_the_tower_of_a_language_model_is_read_and_averaged_where_it_has_no_query(tmp_path: Path, prefix: str) -> None:
    model = medgemma()
    weights = read(as_on_the_hub(saved(model, tmp_path), prefix=prefix), TransformersSigLIP())
    tower = model.model.vision_tower
    for size in SIZES:
        with torch.no_grad():
            expected = tower(picture(size), interpolate_pos_encoding=True).last_hidden_state
            tokens = weights.model.forward_features(picture(size))
        torch.testing.assert_close(tokens, expected, rtol=1e-5, atol=1e-5)
        embedding = backbone_of(weights).encode(picture(size)).embedding
        torch.testing.assert_close(embedding, expected.mean(dim=1), rtol=1e-5, atol=1e-5)
    assert {name.split(".")[0] for name in weights.dropped} == {"language_model", "multi_modal_projector"}
    assert not backbone_of(weights).has_class_attention


def flexible_output(model: Siglip2VisionModel, slices: Tensor) -> Any:
    """What Transformers gives for whole slices, taken apart into patches by its own code."""
    patches = torch.stack([convert_image_to_patches(image, 8) for image in slices])
    grid = torch.tensor([[slices.shape[2] // 8, slices.shape[3] // 8]] * len(slices))
    mask = torch.ones(patches.shape[:2], dtype=torch.long)
    return model(pixel_values=patches, pixel_attention_mask=mask, spatial_shapes=grid)


@pytest.mark.parametrize("size", [*SIZES, (16, 24)])
def test_the_flexible_siglip_2_gives_the_same_tokens_on_every_grid(tmp_path: Path, size: tuple[int, int]) -> None:
    model = siglip2()
    weights = read(saved(model, tmp_path), TransformersSigLIP())
    with torch.no_grad():
        output = flexible_output(model, picture(size))
        tokens = weights.model.forward_features(picture(size))
    torch.testing.assert_close(tokens, output.last_hidden_state, rtol=1e-5, atol=1e-5)
    embedding = backbone_of(weights).encode(picture(size)).embedding
    torch.testing.assert_close(embedding, output.pooler_output, rtol=1e-5, atol=1e-5)


def test_patches_of_other_than_three_colours_are_refused(tmp_path: Path) -> None:
    place = saved(siglip2(num_channels=1), tmp_path)
    with pytest.raises(BackboneError, match="64 values are not of 3 colours"):
        read(place, TransformersSigLIP())


def test_the_same_weights_from_several_files_are_the_same_network(tmp_path: Path) -> None:
    model = randomised(SiglipModel(SiglipConfig(vision_config=VISION, text_config=TEXT)))
    whole = read(saved(model, tmp_path / "whole"), TransformersSigLIP())
    alone = read(saved(model.vision_model, tmp_path / "alone"), TransformersSigLIP())
    hub = read(as_on_the_hub(saved(model.vision_model, tmp_path / "hub"), prefix="vision_model."), TransformersSigLIP())
    assert digest_of(whole.model) == digest_of(alone.model) == digest_of(hub.model)
    assert whole.architecture == alone.architecture == hub.architecture
    assert {"logit_scale", "logit_bias"} <= set(whole.dropped)


def test_a_classifier_beside_the_tower_is_left_out(tmp_path: Path) -> None:
    model = randomised(SiglipForImageClassification(SiglipConfig(vision_config=VISION, text_config=TEXT)))
    weights = read(saved(model, tmp_path), TransformersSigLIP())
    assert set(weights.dropped) == {"classifier.weight", "classifier.bias"}


@register_model
def vit_tiny_patch8_siglip_32(pretrained: bool = False, **fields: Any) -> nn.Module:
    """A SigLIP of timm's that is small enough for a test, and that open_clip can name."""
    sizes = {"patch_size": 8, "img_size": 32, "embed_dim": 48, "depth": 2, "num_heads": 3, "mlp_ratio": 2.0}
    own = {name: value for name, value in fields.items() if not name.startswith(("pretrained", "cache"))}
    return timm.create_model("vit_base_patch16_siglip_224", pretrained=pretrained, **{**sizes, **own})


def test_open_clips_siglip_is_the_same_network_but_for_positions_and_the_form_of_gelu(tmp_path: Path) -> None:
    tower = {"timm_model_name": "vit_tiny_patch8_siglip_32", "timm_pool": "map", "timm_proj": "none", "image_size": 32}
    text = {"context_length": 8, "vocab_size": 40, "width": 48, "heads": 2, "layers": 1}
    other = randomised(CustomTextCLIP(48, tower, text))
    save_file(dict(other.state_dict()), tmp_path / "open_clip_model.safetensors")
    colours = {"mean": [0.5] * 3, "std": [0.5] * 3}
    config = {"model_cfg": {"embed_dim": 48, "vision_cfg": tower}, "preprocess_cfg": colours}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
    weights = read(tmp_path, OpenCLIPTimm())
    backbone = backbone_of(weights)
    for size in SIZES:
        other.visual.set_input_size(size)
        with torch.no_grad():
            expected = other.encode_image(picture(size))
        torch.testing.assert_close(backbone.encode(picture(size)).embedding, expected, rtol=1e-4, atol=1e-5)
    own = SiglipVisionModel(SiglipVisionConfig(**{**VISION, "hidden_act": "gelu"}))
    own.load_state_dict(transformers_names(weights.model.state_dict()))
    same = read(saved(own.eval(), tmp_path / "hf"), TransformersSigLIP())
    assert digest_of(same.model) == digest_of(weights.model)
    assert weights.architecture == dataclasses.replace(same.architecture, positions=Positions())
    assert same.architecture.timm == "vit_tiny_patch8_siglip_32"


def transformers_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """timm's tensors by the names of `SiglipVisionModel`."""
    plain = {
        "patch_embed.proj": "embeddings.patch_embedding", "pos_embed": "embeddings.position_embedding.weight",
        "blocks.": "encoder.layers.", "norm1": "layer_norm1", "norm2": "layer_norm2", "attn.proj": "self_attn.out_proj",
    }  # fmt: skip
    result = {}
    for name, tensor in state.items():
        if name.startswith("attn_pool."):
            name = name.replace("attn_pool.norm", "head.layernorm").replace("attn_pool.mlp", "head.mlp")
            name = name.replace("attn_pool.proj", "head.attention.out_proj").replace("attn_pool.latent", "head.probe")
            if ".q." in name:
                tensor = torch.cat([tensor, state[name.replace(".q.", ".kv.")]])
                name = name.replace("attn_pool.q.", "head.attention.in_proj_")
            if ".kv." not in name:
                result[name] = tensor
            continue
        if ".qkv." in name:
            for part, piece in zip("qkv", tensor.chunk(3), strict=True):
                new = name.replace("blocks.", "encoder.layers.").replace("attn.qkv", f"self_attn.{part}_proj")
                result[new] = piece
            continue
        name = f"post_layernorm.{name.partition('.')[2]}" if name.startswith("norm.") else name
        for old, new in plain.items():
            name = name.replace(old, new)
        result[name] = tensor[0] if name.endswith("position_embedding.weight") else tensor
    return result


def test_a_tower_without_config_has_the_familys_own_heads_and_activation() -> None:
    with torch.device("meta"):
        model = SiglipVisionModel(
            SiglipVisionConfig(
                hidden_size=1152, intermediate_size=4304, num_hidden_layers=27, num_attention_heads=16, patch_size=14,
                image_size=384,
            )
        )  # fmt: skip
    checkpoint = Checkpoint({f"vision_model.{name}": tensor for name, tensor in model.state_dict().items()})
    assert TransformersSigLIP().matches(checkpoint)
    architecture = TransformersSigLIP().convert(checkpoint).architecture
    assert architecture.input_size == (378, 378)
    assert architecture.model_args["num_heads"] == 16
    assert architecture.model_args["act_layer"] == "gelu_tanh"


@pytest.mark.parametrize(
    ("lost", "told"),
    [
        ("encoder.layers.1.mlp.fc2.bias", r"blocks\.1\.mlp\.fc2\.bias"),
        ("head.probe", r"attn_pool\.latent"),
        ("encoder.layers.0.self_attn.k_proj.weight", r"attn\.k\.weight"),
    ],
)
def test_a_missing_tensor_and_one_too_many_are_refused_by_name(tmp_path: Path, lost: str, told: str) -> None:
    place = saved(siglip(), tmp_path)
    file = place / "model.safetensors"
    whole = load_file(file)
    save_file({name: tensor for name, tensor in whole.items() if name != lost}, file)
    with pytest.raises(BackboneError, match=told):
        read(place, TransformersSigLIP())
    save_file({**whole, "head.adapter": torch.zeros(2)}, file)
    with pytest.raises(BackboneError, match=r"'head\.adapter'"):
        read(place, TransformersSigLIP())


def test_a_file_without_the_pooling_query_that_its_config_promises_is_refused(tmp_path: Path) -> None:
    place = saved(siglip(), tmp_path)
    file = place / "model.safetensors"
    save_file({n: t for n, t in load_file(file).items() if not n.startswith("head.")}, file)
    with pytest.raises(BackboneError, match=r"attn_pool\."):
        read(place, TransformersSigLIP())


def test_siglip_and_clip_are_told_apart(tmp_path: Path) -> None:
    for n, model in enumerate((siglip(), siglip2(), medgemma())):
        checkpoint = read_checkpoint(saved(model, tmp_path / str(n)))
        assert TransformersSigLIP().matches(checkpoint)
        assert not TransformersCLIP().matches(checkpoint)
