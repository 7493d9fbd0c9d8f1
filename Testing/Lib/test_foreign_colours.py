"""Colours are those of the processor's file, in values from 0 to 1, before those of configs and of families."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from stored import small_vit

from AnyMC3DLib.backbone_import import import_backbone
from AnyMC3DLib.errors import BackboneError
from AnyMC3DLib.foreign.checkpoint import Checkpoint
from AnyMC3DLib.foreign.vit import normalisation

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.3, 0.1)
COLOURS = {"image_mean": list(MEAN), "image_std": list(STD)}
PROCESSORS = {
    "as usual": COLOURS,
    "usual factor": {**COLOURS, "do_rescale": True, "rescale_factor": 0.00392156862745098},
    "from -1 to 1 and not standardised": {"rescale_factor": 1 / 127.5, "do_normalize": False},
    "another factor": {**COLOURS, "rescale_factor": 1 / 127.5},
    "values from 0 to 255": {"do_rescale": False, "image_mean": [123.0, 117.0, 104.0], "image_std": [58.0, 57.0, 56.0]},
    "as they are": {"do_rescale": False, "do_normalize": False},
}


@pytest.mark.parametrize("kind", PROCESSORS)
def test_slices_are_given_to_the_network_as_its_processor_gives_them(kind: str) -> None:
    processor = PROCESSORS[kind]
    made = normalisation(Checkpoint({}, processor=processor), mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6))
    values = torch.tensor([0.0, 51.0, 255.0])[:, None].expand(3, 3)
    theirs = values * (processor.get("rescale_factor", 1 / 255) if processor.get("do_rescale", True) else 1)
    if processor.get("do_normalize", True):
        theirs = (theirs - torch.tensor(processor["image_mean"])) / torch.tensor(processor["image_std"])
    ours = (values / 255 - torch.tensor(made["mean"])) / torch.tensor(made["std"])
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    if "usual" in kind:
        assert (made["mean"], made["std"]) == (MEAN, STD)


@pytest.mark.parametrize(
    ("processor", "word"),
    [
        ({"rescale_offset": True, "rescale_factor": 1 / 127.5}, "rescale_offset"),
        ({"rescale_factor": 0}, "rescale_factor"),
        ({"rescale_factor": -1}, "rescale_factor"),
        ({"rescale_factor": "much"}, "rescale_factor"),
    ],
)
def test_a_processor_that_cannot_be_followed_is_refused(processor: dict[str, object], word: str) -> None:
    with pytest.raises(BackboneError, match=word):
        normalisation(Checkpoint({}, processor=processor), mean=MEAN, std=STD)


@pytest.mark.parametrize("named", [True, False], ids=["--model", "timm's config"])
@pytest.mark.parametrize(
    ("processor", "config", "mean", "origin"),
    [
        (True, True, MEAN, "preprocessor_config.json"),
        (True, False, MEAN, "preprocessor_config.json"),
        (False, True, (0.6, 0.6, 0.6), "config.json"),
        (False, False, (0.5, 0.5, 0.5), "family"),
    ],
)
def test_timms_weights_have_the_colours_of_the_processor_then_of_timms_config_then_of_timm(
    processor: bool, config: bool, mean: tuple[float, ...], origin: str, *, named: bool, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setenv("ANYMC3D_BACKBONES", str(tmp_path / "store"))
    folder = tmp_path / "weights"
    folder.mkdir()
    torch.save(small_vit().state_dict(), folder / "weights.pth")
    stated = {"mean": [0.6, 0.6, 0.6], "std": [0.7, 0.7, 0.7]}
    (folder / "config.json").write_text(
        json.dumps({"architecture": "test_vit", "pretrained_cfg": stated if config else {}})
    )
    if processor:
        (folder / "preprocessor_config.json").write_text(json.dumps(COLOURS))
    record = import_backbone(folder, id="mine", model="test_vit" if named else "")
    assert record.architecture.mean == mean
    assert record.colours_from == origin
