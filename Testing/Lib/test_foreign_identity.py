"""The same weights are the same backbone, whatever format and name they came in: a plugin answers alike on each."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from foreign_models import published_too, randomised, saved, written
from networks import plugin_spec, view, write_plugin
from safetensors.torch import load_file
from shell import anymc3d
from stored import dinov2_folder
from test_foreign_beit import authors_names, beit
from test_foreign_dinov2 import NATIVE, as_original, original_file, transformers_model
from test_plugin import change_spec
from transformers import ViTConfig, ViTModel

from AnyMC3DLib.backbone import Backbone
from AnyMC3DLib.backbone_import import import_backbone
from AnyMC3DLib.backbone_store import InstalledBackbone, find_installed, remove
from AnyMC3DLib.classifier import Classifier
from AnyMC3DLib.errors import BackboneError, PluginError
from AnyMC3DLib.foreign.reading import read_weights
from AnyMC3DLib.identity import check_backbone, installed_as, is_as_named, open_for, trained_in
from AnyMC3DLib.opening import open_backbone
from AnyMC3DLib.plugin import load_networks, read_spec
from AnyMC3DLib.plugin_edit import claims_of
from AnyMC3DLib.prediction import Study
from AnyMC3DLib.spec import BackboneRef, ClassSpec, IntensitySpec, LoRASpec, PluginSpec, SliceSpec
from AnyMC3DLib.training.cases import Case
from AnyMC3DLib.training.run import train_plugin
from AnyMC3DLib.training.task import TaskSpec, TrainingSpec
from AnyMC3DLib.volume import Volume, write_volume

Records = tuple[InstalledBackbone, InstalledBackbone]
SHAPE = (6, 40, 40)


small_networks = published_too(("DINOv2", 128, 2, 2), ("BEiT", 48, 2, 3))


@pytest.fixture(autouse=True)
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ANYMC3D_BACKBONES", str(tmp_path / "store"))
    return tmp_path / "store"


def dinov2_in_two_formats(folder: Path) -> Records:
    """Positions are resampled in two ways."""
    model = transformers_model()
    original = original_file(as_original(model, folder / "copy"), folder)
    return import_backbone(saved(model, folder / "hub"), id="one"), import_backbone(original, id="other")


def beit_in_two_formats(folder: Path) -> Records:
    """The epsilon of norms is 1e-12 and 1e-6."""
    model = beit(use_relative_position_bias=True)
    one = import_backbone(saved(model, folder / "hub"), id="one")
    tensors = authors_names(load_file(folder / "hub" / "model.safetensors"))
    torch.save({"model": tensors}, folder / "beit.pth")
    return one, import_backbone(folder / "beit.pth", id="other")


def vit_in_two_formats(folder: Path) -> Records:
    """Both: the Transformers library's and timm's."""
    config = ViTConfig(
        hidden_size=64, num_hidden_layers=2, num_attention_heads=2, intermediate_size=192, image_size=32, patch_size=8
    )
    published = saved(randomised(ViTModel(config)), folder / "hub")
    one = import_backbone(published, id="one")
    arguments = {"img_size": 32, "patch_size": 8, "embed_dim": 64, "depth": 2, "num_heads": 2, "mlp_ratio": 3}
    file = written(read_weights(published).model.state_dict(), folder / "timm" / "model.safetensors")
    described = {"architecture": "vit_tiny_patch16_224", "model_args": arguments}
    (file.parent / "config.json").write_text(json.dumps(described))
    return one, import_backbone(file.parent, id="other")


FORMATS: dict[str, tuple[Callable[[Path], Records], tuple[int, int]]] = {
    "DINOv2, Transformers and original": (dinov2_in_two_formats, (42, 56)),
    "BEiT, Transformers and original": (beit_in_two_formats, (32, 32)),
    "ViT, Transformers and timm": (vit_in_two_formats, (48, 40)),
}


def images(count: int) -> list[Volume]:
    """Noise; every second one has a bright block."""
    rng = np.random.default_rng(0)
    arrays = rng.uniform(0, 60, (count, *SHAPE)).astype(np.float32)
    arrays[1::2, 2:5, 10:25, 10:25] += 150
    return [Volume(array, np.eye(4)) for array in arrays]


def trained(backbone: Backbone, place: Path, size: tuple[int, int]) -> Path:
    """A plugin file of a training of few steps."""
    cut = view(backbone, size=size, intensity=IntensitySpec(kind="window", windows=((127.5, 255.0),)),
               slices=SliceSpec(policy="at_most", count=3))  # fmt: skip
    spec = PluginSpec(
        name="Blob", task_type="binary", classes=(ClassSpec(name="none"), ClassSpec(name="blob")),
        backbone=BackboneRef(id=backbone.id), views=(cut,), lora=LoRASpec(rank=2, alpha=4.0),
    )  # fmt: skip
    cases = [
        Case(str(n), load=lambda image=image: Study({"image": image}), target=n % 2, split="train")
        for n, image in enumerate(images(4))
    ]
    task = TaskSpec(plugin=spec, training=TrainingSpec(epochs=2, warm_up_epochs=2, batch=2, adapter_rate=1e-2))
    train_plugin(task, cases, backbone, place, validation_splits=())
    return place


def answer(plugin: Path, backbone: Backbone) -> float:
    """The probability of the second class for an image that was not learnt from."""
    engine = Classifier(backbone)
    name = engine.load(plugin)
    probabilities = engine.classify(Study({"image": images(6)[5]}), maps="none")[name].probabilities
    return list(probabilities.values())[1]


@pytest.mark.parametrize("formats", FORMATS)
def test_a_plugin_gives_the_same_probabilities_on_its_weights_in_another_format(tmp_path: Path, formats: str) -> None:
    records, size = FORMATS[formats]
    one, other = records(tmp_path)
    assert one.digest == other.digest
    assert one.architecture.network != other.architecture.network
    plugin = trained(open_backbone("one"), tmp_path / "plugin.safetensors", size)
    expected = answer(plugin, open_for(read_spec(plugin)))
    assert 0.01 < expected < 0.99
    with pytest.raises(PluginError, match=r"'one'.* where 'other' is open|'one' resampled .* than 'other'"):
        load_networks(plugin, open_backbone("other"))
    remove("one")
    elsewhere = open_for(read_spec(plugin))
    assert (elsewhere.id, elsewhere.digest) == ("other", one.digest)
    assert answer(plugin, elsewhere) == pytest.approx(expected, abs=1e-6)


def test_a_plugin_of_the_authors_format_is_classified_by_the_command_on_that_of_transformers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dinov2_in_two_formats(tmp_path)
    plugin = trained(open_backbone("other"), tmp_path / "plugin.safetensors", (NATIVE, 42))
    expected = answer(plugin, open_backbone("other"))
    write_volume(tmp_path / "study.nrrd", images(6)[5])
    remove("other")
    asked = ["classify", tmp_path / "study.nrrd", "--plugin", plugin, "--json", "--device", "cpu"]
    assert anymc3d(*asked) == 0
    told = json.loads(capsys.readouterr().out)["Blob"]
    assert told["probabilities"]["blob"] == pytest.approx(expected, abs=1e-5)
    assert told["provenance"]["backbone"] == "one"
    assert anymc3d("plugin", "verify", plugin, "--device", "cpu") == 0
    assert capsys.readouterr().out == "Plugin 'Blob' is whole and fits 'one'.\n"


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """The folder of a published backbone, installed as 'mydino', and a plugin on it that calls it 'dinov2_tiny'."""
    folder = dinov2_folder(tmp_path / "published")
    import_backbone(folder, id="mydino")
    write_plugin(tmp_path / "plugin", open_backbone("mydino"), views=(view(open_backbone("mydino"), size=(28, 28)),))
    change_spec(tmp_path / "plugin", lambda data: data["backbone"].update(id="dinov2_tiny"))
    return tmp_path / "plugin"


def test_a_plugin_finds_its_weights_under_another_name(tiny: Path) -> None:
    assert open_for(read_spec(tiny)).id == "mydino"
    assert not any("not in the list of backbones" in warning for warning in claims_of(tiny).warnings)


def test_other_weights_under_the_plugins_name_do_not_hide_its_own(tiny: Path, tmp_path: Path) -> None:
    import_backbone(dinov2_folder(tmp_path / "another", seed=1), id="dinov2_tiny")
    spec = read_spec(tiny)
    backbone = open_for(spec)
    assert (backbone.id, backbone.digest) == ("mydino", spec.backbone.digest)
    load_networks(tiny, backbone)


def test_other_weights_alone_are_refused_before_they_are_read_with_both_digests(tiny: Path, tmp_path: Path) -> None:
    here = import_backbone(dinov2_folder(tmp_path / "another", seed=1), id="dinov2_tiny")
    remove("mydino")
    with pytest.raises(PluginError) as error:
        open_for(read_spec(tiny))
    for phrase in ("'dinov2_tiny'", read_spec(tiny).backbone.digest[:19], here.digest[:19], "under any name"):
        assert phrase in str(error.value)
    remove("dinov2_tiny")
    with pytest.raises(BackboneError, match=r"'dinov2_tiny' \(sha256:\w+\.\.\.\), and no backbone here has that name"):
        open_for(read_spec(tiny))


def test_the_refusal_of_a_backbone_that_is_named_says_both_names(tiny: Path, tmp_path: Path) -> None:
    import_backbone(dinov2_folder(tmp_path / "another", seed=1), id="another")
    spec = read_spec(tiny)
    with pytest.raises(PluginError, match=r"trained on 'dinov2_tiny' \(sha.*this is 'another' \(sha"):
        check_backbone(spec, open_for(spec, name="another"))


def test_of_two_with_the_digest_the_one_in_the_plugins_network_is_taken_then_the_one_of_its_name(
    tmp_path: Path,
) -> None:
    one, other = dinov2_in_two_formats(tmp_path)
    for record in (one, other):
        for name in ("one", "other", "third"):
            reference = BackboneRef(id=name, digest=record.digest, architecture=record.architecture)
            assert installed_as(reference).id == record.id
    first = BackboneRef(id="other", digest=one.digest)
    assert installed_as(first).id == "other"
    assert installed_as(dataclasses.replace(first, digest="")) is None


@pytest.fixture
def old(tmp_path: Path) -> tuple[Path, float]:
    """A plugin of the first versions, what it answers on timm's network, and its weights installed as 'mine'."""
    config = ViTConfig(hidden_size=192, num_hidden_layers=12, num_attention_heads=3, intermediate_size=768)
    published = saved(randomised(ViTModel(config)), tmp_path / "hub")
    file = written(read_weights(published).model.state_dict(), tmp_path / "timm" / "model.safetensors")
    timms = open_backbone("timm:vit_tiny_patch16_224", weights=file)
    plugin = write_plugin(tmp_path / "old", timms, views=(view(timms, size=(48, 32)),))
    change_spec(plugin, lambda data: data["backbone"].pop("architecture"))
    import_backbone(published, id="mine")
    return plugin, answer(plugin, timms)


def test_a_plugin_of_the_first_versions_runs_in_timms_own_network_in_whatever_format_its_weights_are_here(
    old: tuple[Path, float],
) -> None:
    plugin, expected = old
    spec, mine = read_spec(plugin), find_installed("mine")
    assert (mine.digest, mine.architecture.norm_eps) == (spec.backbone.digest, 1e-12)
    # Its arguments alone would not tell the two networks apart.
    assert dict(mine.architecture.model_args) == dict(spec.backbone.model_args) == {}
    with pytest.raises(PluginError, match=r"epsilon of the norms .* is 1e-06, but where 'mine' is open it is 1e-12"):
        load_networks(plugin, open_backbone("mine"))
    backbone = open_for(spec)
    assert backbone.id == "mine"
    assert answer(plugin, backbone) == pytest.approx(expected, abs=1e-6)


def test_of_a_first_plugin_on_a_backbone_that_no_catalogue_lists_all_that_can_be_told_is_compared(
    tmp_path: Path,
) -> None:
    vit_in_two_formats(tmp_path)
    backbones = {name: open_backbone(name) for name in ("one", "other")}
    first = BackboneRef(id="own", digest=backbones["one"].digest, model_args=backbones["one"].model_args)
    spec = dataclasses.replace(plugin_spec(backbones["one"]), backbone=first)
    assert trained_in(first) is None
    check_backbone(spec, backbones["other"])
    with pytest.raises(PluginError, match="as timm builds it, but 'one' has norms with an epsilon of 1e-12"):
        check_backbone(spec, backbones["one"])


def test_a_network_of_other_tensors_is_not_built_for_a_plugin_that_describes_it(tiny: Path) -> None:
    change_spec(tiny, lambda data: data["backbone"]["architecture"]["model_args"].update(embed_dim=65536))
    with pytest.raises(PluginError, match=r"whose tensor '.*' is \[.*65536.*\], but where 'mydino' is open"):
        load_networks(tiny, open_for(read_spec(tiny)))


def test_a_backbone_is_as_named_until_other_weights_have_its_name_or_it_stands_in_a_plugins_network(
    tmp_path: Path,
) -> None:
    dinov2_in_two_formats(tmp_path)
    one, other = open_backbone("one"), open_backbone("other")
    assert is_as_named(one, own_weights=False)
    spec = plugin_spec(one)
    remove("one")
    assert not is_as_named(one, own_weights=False)
    moved = open_for(spec)
    assert moved.id == "other" and not is_as_named(moved, own_weights=False)
    assert is_as_named(other, own_weights=False)
    import_backbone(dinov2_folder(tmp_path / "another"), id="other", overwrite=True)
    assert not is_as_named(other, own_weights=False)
