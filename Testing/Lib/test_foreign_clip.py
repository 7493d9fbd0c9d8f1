"""CLIP's image tower from Transformers, open_clip and OpenAI: tokens and class attention as those libraries' own."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from foreign_models import backbone_of, picture, randomised, saved
from open_clip.model import CLIP, resize_pos_embed
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import CLIPConfig, CLIPModel, CLIPVisionConfig, CLIPVisionModel, CLIPVisionModelWithProjection

from AnyMC3DLib.architecture import Positions
from AnyMC3DLib.building import build_network
from AnyMC3DLib.errors import BackboneError
from AnyMC3DLib.foreign.checkpoint import Checkpoint, read_checkpoint
from AnyMC3DLib.foreign.clip import OpenCLIP, TransformersCLIP
from AnyMC3DLib.foreign.reading import ForeignWeights, load_exactly
from AnyMC3DLib.weights import digest_of

VISION = {
    "hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 3, "image_size": 32,
    "patch_size": 8, "projection_dim": 20,
}  # fmt: skip
TEXT = {
    "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 40,
    "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
TOWER = {"image_size": 32, "patch_size": 8, "width": 48, "layers": 3, "head_width": 16, "mlp_ratio": 2.0}
OPEN_TEXT = {"context_length": 8, "vocab_size": 40, "width": 16, "heads": 2, "layers": 1}
SIZES = [(32, 32), (56, 40)]


def read(place: Path, layout: Any) -> ForeignWeights:
    """As `read_weights`, for one layout."""
    checkpoint = read_checkpoint(place)
    assert layout.matches(checkpoint)
    converted = layout.convert(checkpoint)
    model = build_network(converted.architecture).eval()
    load_exactly(model, converted.tensors, of=f"{layout.family} of {layout.library}")
    return ForeignWeights(model, converted.architecture, layout, checkpoint, converted.dropped)


def transformers_clip(**fields: Any) -> CLIPVisionModel:
    return randomised(CLIPVisionModel(CLIPVisionConfig(**{**VISION, **fields})))


def open_clip_model(*, quick_gelu: bool = False, **fields: Any) -> CLIP:
    return randomised(CLIP(20, {**TOWER, **fields}, OPEN_TEXT, quick_gelu=quick_gelu))


def save_open_clip(
    model: nn.Module, folder: Path, *, tower: dict[str, Any] | None = None, quick_gelu: bool = False, **more: Any
) -> Path:
    """The folder that open_clip pushes to the hub."""
    folder.mkdir(exist_ok=True)
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    config = {"model_cfg": {"embed_dim": 20, "quick_gelu": quick_gelu, "vision_cfg": tower or TOWER}, **more}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    return folder


def open_clip_tokens(model: CLIP, size: tuple[int, int], *, quick_gelu: bool = False, **fields: Any) -> Tensor:
    """Normalised tokens as open_clip's model for another size gives them: its positions are resampled as it loads."""
    state = model.state_dict()
    other = CLIP(20, {**TOWER, **fields, "image_size": size}, OPEN_TEXT, quick_gelu=quick_gelu).eval()
    resize_pos_embed(state, other)
    other.load_state_dict(state)
    visual = other.visual
    with torch.no_grad():
        return visual.ln_post(visual.transformer(visual._embeds(picture(size))))


def renamed_to_open_clip(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of Transformers' tower by the names of open_clip, as OpenAI published them."""
    plain = {
        "embeddings.class_embedding": "class_embedding", "embeddings.patch_embedding.weight": "conv1.weight",
        "embeddings.position_embedding.weight": "positional_embedding", "pre_layrnorm": "ln_pre",
        "post_layernorm": "ln_post", "encoder.layers": "transformer.resblocks", "layer_norm1": "ln_1",
        "layer_norm2": "ln_2", "self_attn.out_proj": "attn.out_proj", "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj",
    }  # fmt: skip
    result = {}
    for name, tensor in state.items():
        if "q_proj" in name:
            joined = torch.cat([state[name.replace("q_proj", f"{part}_proj")] for part in "qkv"])
            name = name.replace("self_attn.q_proj.", "attn.in_proj_")
            tensor = joined
        elif "k_proj" in name or "v_proj" in name:
            continue
        for old, new in plain.items():
            name = name.replace(old, new)
        result[f"visual.{name}"] = tensor
    return result


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("activation", ["quick_gelu", "gelu", "gelu_pytorch_tanh"])
def test_tokens_are_those_of_transformers(tmp_path: Path, activation: str, size: tuple[int, int]) -> None:
    model = transformers_clip(hidden_act=activation)
    weights = read(saved(model, tmp_path), TransformersCLIP())
    with torch.no_grad():
        output = model(picture(size), interpolate_pos_encoding=True)
        expected = model.post_layernorm(output.last_hidden_state)
        tokens = weights.model.forward_features(picture(size))
    torch.testing.assert_close(tokens, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(tokens[:, 0], output.pooler_output, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(backbone_of(weights).encode(picture(size)).embedding, tokens[:, 0])
    assert tokens.std() > 0.1


@pytest.mark.parametrize("size", SIZES)
def test_class_attention_is_the_row_of_transformers_matrix(tmp_path: Path, size: tuple[int, int]) -> None:
    model = randomised(CLIPVisionModel._from_config(CLIPVisionConfig(**VISION), attn_implementation="eager"))
    backbone = backbone_of(read(saved(model, tmp_path), TransformersCLIP()))
    with torch.no_grad():
        matrix = model(picture(size), interpolate_pos_encoding=True, output_attentions=True).attentions[-1]
    row = backbone.encode(picture(size), attention=True).attention
    torch.testing.assert_close(row.flatten(1), matrix.mean(dim=1)[:, 0, 1:], rtol=1e-4, atol=1e-6)
    assert row.std() > 1e-4


@pytest.mark.parametrize(
    ("quick_gelu", "fields"),
    [
        (False, {}),
        (True, {}),
        (False, {"ls_init_value": 0.1}),
        (False, {"no_ln_pre": True}),
        (False, {"norm_kwargs": {"eps": 0.3}}),
    ],
)
@pytest.mark.parametrize("size", SIZES)
def test_tokens_are_those_of_open_clips_model_for_that_size(
    tmp_path: Path, size: tuple[int, int], fields: dict[str, Any], *, quick_gelu: bool
) -> None:
    model = open_clip_model(quick_gelu=quick_gelu, **fields)
    place = save_open_clip(model, tmp_path, tower={**TOWER, **fields}, quick_gelu=quick_gelu)
    weights = read(place, OpenCLIP())
    with torch.no_grad():
        tokens = weights.model.forward_features(picture(size))
    expected = open_clip_tokens(model, size, quick_gelu=quick_gelu, **fields)
    torch.testing.assert_close(tokens, expected, rtol=1e-5, atol=2e-5)


def test_open_clips_tanh_is_taken_over(tmp_path: Path) -> None:
    fields = {"act_kwargs": {"approximate": "tanh"}}
    model = open_clip_model(**fields)
    weights = read(save_open_clip(model, tmp_path, tower={**TOWER, **fields}), OpenCLIP())
    with torch.no_grad():
        tokens = weights.model.forward_features(picture((32, 32)))
    torch.testing.assert_close(tokens, open_clip_tokens(model, (32, 32), **fields), rtol=1e-5, atol=1e-5)
    assert not torch.allclose(tokens, open_clip_tokens(model, (32, 32)), atol=1e-4)


def test_open_clips_class_attention_is_the_row_of_its_matrix(tmp_path: Path) -> None:
    model = open_clip_model()
    backbone = backbone_of(read(save_open_clip(model, tmp_path), OpenCLIP()))
    last, seen = model.visual.transformer.resblocks[-1], []
    last.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        model.encode_image(picture((32, 32)))
        x = last.ln_1(seen[0])
        matrix = last.attn(x, x, x, need_weights=True, average_attn_weights=True)[1]
    row = backbone.encode(picture((32, 32)), attention=True).attention
    torch.testing.assert_close(row.flatten(1), matrix[:, 0, 1:], rtol=1e-4, atol=1e-6)


def test_a_mean_that_is_normalised_after_is_the_embedding_where_open_clip_takes_it(tmp_path: Path) -> None:
    fields = {"pool_type": "avg", "final_ln_after_pool": True}
    model = open_clip_model(**fields)
    backbone = backbone_of(read(save_open_clip(model, tmp_path, tower={**TOWER, **fields}), OpenCLIP()))
    visual = model.visual
    with torch.no_grad():
        expected = visual._pool(visual.transformer(visual._embeds(picture((32, 32)))))[0]
    torch.testing.assert_close(backbone.encode(picture((32, 32))).embedding, expected, rtol=1e-5, atol=1e-5)
    assert not backbone.has_class_attention


@pytest.mark.parametrize(
    "fields", [{"attentional_pool": True}, {"pool_type": "avg"}, {"pool_type": "none"}, {"act_kwargs": {"a": 1}}]
)
def test_open_clip_models_that_pool_or_act_in_other_ways_are_refused(tmp_path: Path, fields: dict[str, Any]) -> None:
    place = save_open_clip(open_clip_model(), tmp_path, tower={**TOWER, **fields})
    with pytest.raises(BackboneError, match="use other weights"):
        read(place, OpenCLIP())


def test_the_same_weights_from_three_libraries_are_the_same_network(tmp_path: Path) -> None:
    model = randomised(CLIPModel(CLIPConfig(vision_config={**VISION, "hidden_size": 128, "num_attention_heads": 2},
                                            text_config=TEXT)))  # fmt: skip
    whole = read(saved(model, tmp_path / "whole"), TransformersCLIP())
    alone = read(saved(model.vision_model, tmp_path / "alone"), TransformersCLIP())
    renamed = renamed_to_open_clip(dict(model.vision_model.state_dict()))
    tower = {**TOWER, "width": 128, "head_width": 64}
    (tmp_path / "open").mkdir()
    save_file(renamed, tmp_path / "open" / "open_clip_model.safetensors")
    config = {"model_cfg": {"embed_dim": 20, "quick_gelu": True, "vision_cfg": tower}}
    (tmp_path / "open" / "open_clip_config.json").write_text(json.dumps(config))
    other = read(tmp_path / "open", OpenCLIP())
    published = {**renamed, "visual.proj": torch.zeros(128, 20), "token_embedding.weight": torch.zeros(40, 16)}
    published |= {name: torch.tensor(7) for name in ("input_resolution", "context_length", "vocab_size")}
    torch.save(published, tmp_path / "openai.pt")
    openai = read(tmp_path / "openai.pt", OpenCLIP())
    assert digest_of(whole.model) == digest_of(alone.model) == digest_of(other.model) == digest_of(openai.model)
    assert whole.architecture == alone.architecture
    assert other.architecture == openai.architecture
    assert other.architecture == dataclasses.replace(whole.architecture, positions=Positions())
    assert whole.architecture.positions == Positions(antialias=False)


def test_texts_and_projections_are_left_out_and_told(tmp_path: Path) -> None:
    model = randomised(CLIPModel(CLIPConfig(vision_config=VISION, text_config=TEXT, projection_dim=20)))
    dropped = read(saved(model, tmp_path / "clip"), TransformersCLIP()).dropped
    assert {"logit_scale", "text_projection.weight", "visual_projection.weight"} <= set(dropped)
    assert any(name.startswith("text_model.") for name in dropped)
    assert not any(name.startswith("vision_model.") for name in dropped)
    projecting = randomised(CLIPVisionModelWithProjection(CLIPVisionConfig(**VISION)))
    assert read(saved(projecting, tmp_path / "p"), TransformersCLIP()).dropped == ("visual_projection.weight",)
    told = read(save_open_clip(open_clip_model(), tmp_path / "open"), OpenCLIP()).dropped
    assert {"visual.proj", "text_projection", "token_embedding.weight"} <= set(told)


def test_a_published_size_is_timms_model_of_that_name() -> None:
    config = CLIPVisionConfig(hidden_size=768, num_attention_heads=12, num_hidden_layers=12, intermediate_size=3072,
                              patch_size=32, image_size=224)  # fmt: skip
    with torch.device("meta"):
        model = CLIPVisionModel(config)
    tensors = {f"vision_model.{name}": tensor for name, tensor in model.state_dict().items()}
    tensors["vision_model.embeddings.position_ids"] = torch.zeros(1, 50)
    for activation, name in (("quick_gelu", "clip_quickgelu_224"), ("gelu", "clip_224")):
        config = {"model_type": "clip", "vision_config": {"hidden_act": activation}}
        architecture = TransformersCLIP().convert(Checkpoint(tensors, config=config)).architecture
        assert (architecture.timm, dict(architecture.model_args)) == (f"vit_base_patch32_{name}", {})
        assert architecture.norm_eps == 0.0


@pytest.mark.parametrize("kind", ["transformers", "open_clip"])
def test_a_missing_tensor_and_one_too_many_are_refused_by_name(tmp_path: Path, kind: str) -> None:
    own = kind == "open_clip"
    layout = OpenCLIP() if own else TransformersCLIP()
    place = save_open_clip(open_clip_model(), tmp_path) if own else saved(transformers_clip(), tmp_path)
    file = next(place.glob("*.safetensors"))
    whole = load_file(file)
    missing = "visual.transformer.resblocks.1.mlp.c_fc.bias" if own else "encoder.layers.1.mlp.fc1.bias"
    save_file({name: tensor for name, tensor in whole.items() if name != missing}, file)
    with pytest.raises(BackboneError, match=r"blocks\.1\.mlp\.fc1\.bias"):
        read(place, layout)
    save_file({**whole, "visual.adapter.weight": torch.zeros(2)}, file)
    with pytest.raises(BackboneError, match=r"'visual\.adapter\.weight'"):
        read(place, layout)


def test_weights_that_do_not_tell_their_activation_are_refused_with_what_to_do(tmp_path: Path) -> None:
    save_file(dict(transformers_clip().state_dict()), tmp_path / "hf.safetensors")
    with pytest.raises(BackboneError, match=r"config\.json beside"):
        read(tmp_path / "hf.safetensors", TransformersCLIP())
    save_file(dict(open_clip_model().state_dict()), tmp_path / "open.safetensors")
    with pytest.raises(BackboneError, match=r"open_clip_config\.json beside"):
        read(tmp_path / "open.safetensors", OpenCLIP())
    with pytest.raises(BackboneError, match="'relu' is not known"):
        read(saved(transformers_clip(hidden_act="relu"), tmp_path / "relu"), TransformersCLIP())


def test_colours_are_normalised_as_the_files_beside_the_weights_say(tmp_path: Path) -> None:
    colours = {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]}
    stated = read(save_open_clip(open_clip_model(), tmp_path / "a", preprocess_cfg=colours), OpenCLIP()).architecture
    assert (stated.mean, stated.std) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    unstated = read(save_open_clip(open_clip_model(), tmp_path / "b"), OpenCLIP()).architecture
    assert unstated.mean == pytest.approx(open_clip.OPENAI_DATASET_MEAN)
    assert unstated.std == pytest.approx(open_clip.OPENAI_DATASET_STD)
