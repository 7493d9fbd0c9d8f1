"""A model is of the same family whatever file its weights came from, and in the catalogue too."""

from __future__ import annotations

import pytest

from AnyMC3DLib.catalogue import BackboneEntry, read_catalogue
from AnyMC3DLib.foreign.families import FAMILIES, family_of
from AnyMC3DLib.foreign.layouts import LAYOUTS
from AnyMC3DLib.foreign.open_clip import OpenCLIPTimm
from AnyMC3DLib.foreign.timm_layout import TimmLayout
from AnyMC3DLib.foreign.vit_transformers import OriginalDINO

# What no name of timm's stands for: MedImageInsight's tower is Florence-2's.
ALONE = {"MedImageInsight"}
PUBLISHED = {
    "vit_base_patch14_dinov2.lvd142m": "DINOv2",
    "vit_large_patch14_reg4_dinov2.lvd142m": "DINOv2",
    "vit_base_patch16_dinov3.lvd1689m": "DINOv3",
    "convnext_tiny.dinov3_lvd1689m": "DINOv3 ConvNeXt",
    "convnext_tiny.in12k": "ConvNeXt",
    "convnext_base.clip_laion2b_augreg": "CLIP",
    "convnextv2_base.fcmae": "ConvNeXt V2",
    "vit_base_patch16_224.mae": "MAE",
    "vit_base_patch16_224.dino": "ViT",
    "vit_base_patch16_224.augreg_in21k": "ViT",
    "hiera_tiny_224.mae": "Hiera",
    "sam2_hiera_large.fb_r896_2pt1": "SAM 2",
    "samvit_base_patch16.sa1b": "SAM",
    "deit_base_distilled_patch16_224.fb_in1k": "DeiT",
    "vit_large_patch14_clip_336.openai": "CLIP",
    "vit_large_patch14_clip_quickgelu_224.openai": "CLIP",
    "resnet50_clip.openai": "CLIP",
    "vit_so400m_patch14_siglip_378.v2_webli": "SigLIP",
    "vit_so400m_patch14_siglip_gap_896.pali2_10b_pt": "SigLIP",
    "eva02_large_patch14_448.mim_m38m_ft_in22k_in1k": "EVA",
    "eva02_base_patch16_clip_224.merged2b": "EVA",
    "beitv2_base_patch16_224.in1k_ft_in22k": "BEiT",
    "swin_base_patch4_window7_224.ms_in22k": "Swin",
    "davit_base_fl.msft_florence2": "Florence-2",
    "davit_tiny.msft_in1k": "DaViT",
    "wide_resnet50_2.tv_in1k": "ResNet",
    "resnext50_32x4d.tv_in1k": "ResNet",
    "cait_s24_224.fb_dist_in1k": "cait",
}


@pytest.mark.parametrize(("name", "family"), PUBLISHED.items())
def test_timms_published_models_are_of_the_family_that_other_files_tell(name: str, family: str) -> None:
    base, _, tag = name.partition(".")
    assert family_of(base, tag) == family


def test_every_layout_uses_the_same_words() -> None:
    words = {family for _, family in FAMILIES} | ALONE
    # Those of timm's networks name each by itself, and DINO's first models are plain ones elsewhere.
    own = [layout for layout in LAYOUTS if not isinstance(layout, (TimmLayout, OpenCLIPTimm, OriginalDINO))]
    assert {layout.family for layout in own} <= words


@pytest.mark.parametrize("entry", read_catalogue().values(), ids=lambda entry: entry.id)
def test_the_catalogue_uses_the_same_words(entry: BackboneEntry) -> None:
    if entry.family not in ALONE:
        base, _, tag = entry.timm.partition(".")
        assert entry.family == family_of(base, tag)
