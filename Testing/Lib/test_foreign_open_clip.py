"""open_clip's models around a network of timm's: embeddings as open_clip's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from foreign_models import backbone_of, picture, randomised, saved
from open_clip.model import CLIP
from safetensors.torch import load_file, save_file
from test_foreign_clip import OPEN_TEXT, open_clip_model, read, save_open_clip, transformers_clip

from AnyMC3DLib.errors import BackboneError
from AnyMC3DLib.foreign.checkpoint import read_checkpoint
from AnyMC3DLib.foreign.clip import OpenCLIP, TransformersCLIP
from AnyMC3DLib.foreign.open_clip import OpenCLIPTimm


def trunk(name: str, **fields: Any) -> tuple[CLIP, dict[str, Any]]:
    tower = {"timm_model_name": name, "image_size": 160, **fields}
    return randomised(CLIP(20, tower, OPEN_TEXT)), tower


@pytest.mark.parametrize("size", [(160, 160), (96, 128)])
@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("test_vit", {"timm_pool": "", "timm_proj": "linear"}),
        ("test_vit", {"timm_pool": "token", "timm_proj": None}),
        ("test_vit2", {"timm_pool": "avg", "timm_proj": "mlp"}),
        ("test_vit3", {"timm_pool": "map", "timm_proj": "none"}),
        ("test_convnext", {"timm_pool": "", "timm_proj": "linear"}),
    ],
)
def test_embeddings_are_those_of_timms_network_within_open_clip(
    tmp_path: Path, name: str, fields: dict[str, Any], size: tuple[int, int]
) -> None:
    model, tower = trunk(name, **fields)
    weights = read(save_open_clip(model, tmp_path, tower=tower), OpenCLIPTimm())
    if size != (160, 160) and "vit" in name:
        model.visual.set_input_size(size)
    with torch.no_grad():
        features = model.visual.trunk.forward_features(picture(size))
        expected = model.visual.trunk.forward_head(features, pre_logits=True)
    torch.testing.assert_close(backbone_of(weights).encode(picture(size)).embedding, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(weights.model.forward_features(picture(size)), features, rtol=1e-4, atol=1e-5)
    assert weights.architecture.timm == name
    assert expected.std() > 1e-3


def test_a_fixed_window_network_of_timms_is_told_as_fixed(tmp_path: Path) -> None:
    model, tower = trunk("swin_tiny_patch4_window7_224", timm_pool="avg", timm_proj="linear")
    weights = read(save_open_clip(model, tmp_path, tower=tower), OpenCLIPTimm())
    assert weights.architecture.positions.kind == "fixed"
    assert weights.architecture.input_size == (224, 224)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"timm_model_name": None}, "put open_clip_config"),
        ({"timm_model_name": "no_such_network"}, "timm has no model 'no_such_network'"),
        ({"timm_pool": "rot_attn"}, "'rot_attn'"),
        ({"timm_pool": "avg", "timm_proj": "linear"}, "beside a class token"),
    ],
)
def test_a_network_of_timms_that_cannot_be_had_is_refused(tmp_path: Path, fields: dict[str, Any], message: str) -> None:
    model, tower = trunk("test_vit", timm_pool="", timm_proj="linear")
    with pytest.raises(BackboneError, match=message):
        read(save_open_clip(model, tmp_path, tower={**tower, **fields}), OpenCLIPTimm())


def test_timms_network_with_a_tensor_missing_or_too_many_is_refused_by_name(tmp_path: Path) -> None:
    model, tower = trunk("test_vit", timm_pool="token", timm_proj=None)
    place = save_open_clip(model, tmp_path, tower=tower)
    file = place / "open_clip_model.safetensors"
    whole = load_file(file)
    assert "visual.trunk.head.weight" in read(place, OpenCLIPTimm()).dropped
    save_file({n: t for n, t in whole.items() if not n.endswith("blocks.1.mlp.fc1.bias")}, file)
    with pytest.raises(BackboneError, match=r"blocks\.1\.mlp\.fc1\.bias"):
        read(place, OpenCLIPTimm())
    save_file({**whole, "visual.trunk.adapter": torch.zeros(2)}, file)
    with pytest.raises(BackboneError, match="'adapter'"):
        read(place, OpenCLIPTimm())


def test_each_file_is_of_one_layout_alone(tmp_path: Path) -> None:
    model, tower = trunk("test_vit", timm_pool="", timm_proj="linear")
    places = [
        saved(transformers_clip(), tmp_path / "hf"),
        save_open_clip(open_clip_model(), tmp_path / "open"),
        save_open_clip(model, tmp_path / "timm", tower=tower),
    ]
    layouts = (TransformersCLIP(), OpenCLIP(), OpenCLIPTimm())
    found = [[layout.matches(read_checkpoint(place)) for layout in layouts] for place in places]
    assert torch.equal(torch.tensor(found), torch.eye(3, dtype=torch.bool))
