"""The plugin file: the same bits back, light to read, and refused in one sentence where it is not whole."""

from __future__ import annotations

import dataclasses
import json
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from networks import grey_slices, plugin_spec, three_views, tiny_backbone, tiny_network, view, write_plugin
from safetensors.torch import load_file, save_file

from AnyMC3DLib import plugin
from AnyMC3DLib.backbone import Backbone
from AnyMC3DLib.errors import BackboneError, PluginError
from AnyMC3DLib.identity import fits
from AnyMC3DLib.plugin import (
    DIGEST_KEY,
    digest_of_file,
    load_members,
    load_networks,
    read_sizes,
    read_spec,
    save_plugin,
)
from AnyMC3DLib.spec import BackboneRef, FusionSpec, HeadSpec, PluginSpec


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return tiny_backbone(depth=2)


@pytest.fixture
def file(tmp_path: Path, backbone: Backbone) -> Path:
    """A good plugin file of two members."""
    return write_plugin(tmp_path / "Test.safetensors", backbone, members=2)


def header_of(path: Path) -> tuple[dict, bytes]:
    """The header of a safetensors file, and the bytes of its tensors."""
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def write_header(path: Path, header: object, tensors: bytes) -> None:
    """The file with this header, as a program would write it that knows no digest."""
    if isinstance(header, dict) and isinstance(header.get("__metadata__"), dict):
        header["__metadata__"].pop(DIGEST_KEY, None)
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + tensors)


def change_spec(path: Path, change: Callable[[dict], None]) -> None:
    """Rewrite the description within a plugin file."""
    header, tensors = header_of(path)
    data = json.loads(header["__metadata__"]["anymc3d"])
    change(data)
    header["__metadata__"]["anymc3d"] = json.dumps(data)
    write_header(path, header, tensors)


def change_tensors(path: Path, change: Callable[[dict], None]) -> None:
    """Rewrite the tensors of a plugin file."""
    header, _ = header_of(path)
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, metadata={"anymc3d": header["__metadata__"]["anymc3d"]})


# Saved and loaded


def test_saved_and_loaded_again_are_the_same_bits_and_the_same_probabilities(
    tmp_path: Path, backbone: Backbone
) -> None:
    network = tiny_network(
        backbone,
        views=three_views(backbone),
        head=HeadSpec(standardise=True, dropout=0.3),
        task_type="multiclass",
        fusion=FusionSpec(kind="median"),
        temperature=1.3,
    )
    study = {view.name: grey_slices(n + 2, seed=n) for n, view in enumerate(network.spec.views)}
    expected = network.probabilities(network([study]).logits)
    save_plugin(tmp_path / "p.safetensors", network.spec, [network.state_dict()])
    kept = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    network.close()
    spec, (loaded,) = load_networks(tmp_path / "p.safetensors", backbone)
    assert spec == network.spec
    assert loaded.state_dict().keys() == kept.keys()
    assert all(torch.equal(tensor, kept[name]) for name, tensor in loaded.state_dict().items())
    assert not loaded.training
    assert torch.equal(loaded.probabilities(loaded([study]).logits), expected)
    save_plugin(tmp_path / "again.safetensors", spec, [loaded.state_dict()])
    assert (tmp_path / "again.safetensors").read_bytes() == (tmp_path / "p.safetensors").read_bytes()
    loaded.close()


def test_an_ensemble_is_one_file_with_members(file: Path, backbone: Backbone) -> None:
    spec, networks = load_networks(file, backbone)
    assert spec.members == len(networks) == len(load_members(file, spec)) == 2
    assert not torch.equal(networks[0].head.weight, networks[1].head.weight)
    assert len(backbone.sites.keys) == 2
    for network in networks:
        network.close()


def test_a_plugin_file_holds_tensors_and_json_alone(file: Path) -> None:
    header, tensors = header_of(file)
    assert list(header["__metadata__"]) == ["anymc3d", DIGEST_KEY]
    names = {name for name in header if name != "__metadata__"}
    assert {name.partition(".")[0] for name in names} == {"0", "1"}
    assert all(header[name]["dtype"] == "F32" for name in names)
    assert len(tensors) == sum(header[n]["data_offsets"][1] - header[n]["data_offsets"][0] for n in names)
    assert not any(name.partition(".")[2].startswith(("backbone", "_backbone", "blocks")) for name in names)


def test_the_number_of_members_must_be_that_of_the_spec(tmp_path: Path, backbone: Backbone) -> None:
    with pytest.raises(PluginError, match="'Test' has 2 members, but 1 were given"):
        save_plugin(tmp_path / "p.safetensors", plugin_spec(backbone, members=2), [{}])
    assert not (tmp_path / "p.safetensors").exists()


def test_writing_that_fails_leaves_the_plugin_that_was_there(
    file: Path, backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = file.read_bytes()

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("AnyMC3DLib.files.os.fsync", fail)
    with pytest.raises(Exception, match="No space left on device"):
        save_plugin(file, plugin_spec(backbone), [{"head.bias": torch.ones(1)}])
    assert file.read_bytes() == before
    assert [path.name for path in file.parent.iterdir()] == [file.name]


def test_the_digest_of_a_file_changes_with_its_bytes(file: Path) -> None:
    before = digest_of_file(file)
    assert before.startswith("sha256:")
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    assert digest_of_file(file) != before


# Reading the description


def test_the_description_is_read_without_numpy_or_torch(file: Path) -> None:
    program = (
        "import sys; from AnyMC3DLib.plugin import read_sizes, read_spec; "
        f"spec = read_spec({str(file)!r}); sizes = read_sizes({str(file)!r}); "
        "heavy = {'numpy', 'torch', 'safetensors', 'timm', 'SimpleITK'} & set(sys.modules); "
        "sys.stdout.write(f'{spec.name} {len(sizes)} {sorted(heavy)}')"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout == f"Test {len(load_file(file))} []"


def test_sizes_are_those_of_the_tensors(file: Path) -> None:
    assert read_sizes(file) == {name: tuple(tensor.shape) for name, tensor in load_file(file).items()}


def test_unknown_fields_are_kept(file: Path, backbone: Backbone, tmp_path: Path) -> None:
    def add(data: dict) -> None:
        data["novel"] = {"a": [1, 2]}
        data["views"][0]["preprocessing"]["also"] = 3

    change_spec(file, add)
    spec, networks = load_networks(file, backbone)
    save_plugin(tmp_path / "again.safetensors", spec, [network.state_dict() for network in networks])
    again = read_spec(tmp_path / "again.safetensors").to_dict()
    assert again["novel"] == {"a": [1, 2]}
    assert again["views"][0]["preprocessing"]["also"] == 3
    for network in networks:
        network.close()


@pytest.mark.parametrize("version", [0, 2, 99, None, "1"])
def test_an_unknown_format_version_is_refused_before_anything_else(file: Path, version: object) -> None:
    change_spec(file, lambda data: data.update(format_version=version, task_type="something new"))
    with pytest.raises(PluginError, match=r"'Test.safetensors' has plugin format version .*update AnyMC3D"):
        read_spec(file)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data.pop("classes"), "plugin lacks the field 'classes'"),
        (lambda data: data.update(temperature=0), "temperature above 0"),
        (lambda data: data.update(members="two"), "plugin.members must be a whole number"),
        (lambda data: data["lora"].update(rank=1000), "rank must lie within 0 to 512"),
    ],
)
def test_a_description_that_cannot_be_meant_is_refused(file: Path, change: Callable, message: str) -> None:
    change_spec(file, change)
    with pytest.raises(PluginError, match=f"The description in 'Test.safetensors' is wrong: .*{message}"):
        read_spec(file)


DEEP = "[" * 100_000 + "]" * 100_000


@pytest.mark.parametrize("text", ["", "{", "[]", "3", "null", DEEP, "9" * 5000, 5, None, ["a"]])
def test_a_damaged_description_is_refused(file: Path, text: object) -> None:
    header, tensors = header_of(file)
    header["__metadata__"]["anymc3d"] = text
    write_header(file, header, tensors)
    with pytest.raises(PluginError, match=r"is damaged|format version None"):
        read_spec(file)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"abc",
        b"PK\x03\x04 a zip, as torch writes",
        struct.pack("<Q", 2**63) + b"{}",
        struct.pack("<Q", 17 << 20) + b" " * 100,
        struct.pack("<Q", 0),
        struct.pack("<Q", 100) + b"{}",
        struct.pack("<Q", 6) + b"[1, 2]",
        struct.pack("<Q", 4) + b"\xff\xfe{}",
        struct.pack("<Q", 2) + b"{]",
        struct.pack("<Q", len(DEEP)) + DEEP.encode(),
    ],
)
def test_a_file_that_is_not_safetensors_is_refused(tmp_path: Path, backbone: Backbone, content: bytes) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    for read in (read_spec, read_sizes, lambda p: load_networks(p, backbone)):
        with pytest.raises(PluginError, match=r"^'x.safetensors' is not a plugin file \(safetensors\): give another"):
            read(path)


def test_a_header_past_the_limit_is_refused_even_if_it_is_whole(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (length,) = struct.unpack("<Q", file.read_bytes()[:8])
    monkeypatch.setattr(plugin, "LARGEST_HEADER", length)
    assert read_spec(file).name == "Test"
    monkeypatch.setattr(plugin, "LARGEST_HEADER", length - 1)
    with pytest.raises(PluginError, match="is not a plugin file"):
        read_spec(file)


def test_a_file_that_may_not_be_read_is_refused(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(PluginError, match=r"'Test.safetensors' cannot be read: Permission denied"):
        read_spec(file)


@pytest.mark.parametrize("metadata", [None, {}, {"format": "pt"}, "text", [1]])
def test_a_safetensors_file_of_something_else_is_refused(file: Path, metadata: object) -> None:
    header, tensors = header_of(file)
    header["__metadata__"] = metadata
    write_header(file, header, tensors)
    with pytest.raises(PluginError, match="is a safetensors file, but not an AnyMC3D plugin"):
        read_spec(file)


@pytest.mark.parametrize("item", [3, {}, {"shape": 3}, {"shape": ["a"]}, {"shape": None}])
def test_a_header_with_a_damaged_tensor_is_refused(file: Path, backbone: Backbone, item: object) -> None:
    header, tensors = header_of(file)
    header["0.head.bias"] = item
    write_header(file, header, tensors)
    with pytest.raises(PluginError, match=r"'Test.safetensors' is damaged or incomplete: get the plugin again"):
        read_sizes(file)
    with pytest.raises(PluginError, match=r"'Test.safetensors' is damaged or incomplete: get the plugin again"):
        load_networks(file, backbone)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    for path in (tmp_path / "none.safetensors", tmp_path):
        with pytest.raises(PluginError, match="There is no plugin file '"):
            read_spec(path)


# Loading the tensors


@pytest.mark.parametrize("left", [-1, -1000, 100])
def test_a_truncated_file_is_refused(file: Path, backbone: Backbone, left: int) -> None:
    header, tensors = header_of(file)
    write_header(file, header, tensors[:left])
    assert read_spec(file).name == "Test"
    with pytest.raises(PluginError, match=r"'Test.safetensors' is damaged or incomplete: get the plugin again"):
        load_networks(file, backbone)
    assert backbone.sites.keys == []


def poisoned(tensors: dict) -> None:
    tensors["1.head.weight"][0, 3] = float("nan")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("1.head.bias"), "do not fit its description, such as head.bias"),
        (lambda t: t.update({"0.more": torch.ones(1)}), "do not fit its description, such as more"),
        (lambda t: t.update({"2.head.bias": torch.ones(1)}), "unknown tensor 2.head.bias"),
        (lambda t: t.update({"²1.head.bias": torch.ones(1)}), "unknown tensor ²1.head.bias"),
        (lambda t: t.update({"²": torch.ones(1)}), "unknown tensor ²"),
        (lambda t: t.update({"9" * 5000: torch.ones(1)}), "unknown tensor 999"),
        (lambda t: t.update({"1.head.bias": torch.ones(2)}), r"head.bias of plugin 'Test' is \[2\]"),
        (poisoned, "head.weight of plugin 'Test' holds values that are not finite"),
    ],
)
def test_tensors_that_do_not_fit_are_refused_and_leave_nothing(
    file: Path, backbone: Backbone, change: Callable, message: str
) -> None:
    change_tensors(file, change)
    with pytest.raises(PluginError, match=message) as error:
        load_networks(file, backbone)
    assert "\n" not in str(error.value)
    assert backbone.sites.keys == []


def test_more_members_than_tensors_are_refused_without_making_them(file: Path, backbone: Backbone) -> None:
    change_spec(file, lambda data: data.update(members=10**12))
    with pytest.raises(PluginError, match="holds no tensors for some of its members"):
        load_networks(file, backbone)


def test_a_plugin_of_other_weights_is_refused_with_both_names(file: Path) -> None:
    other = tiny_backbone(depth=2, seed=1)
    with pytest.raises(PluginError, match=r"was trained on 'test_vit' \(sha256:\w{12}\.\.\.\), but this is 'test_vit'"):
        load_networks(file, other)
    assert other.sites.keys == []


def test_a_plugin_of_the_same_weights_in_another_model_is_refused(file: Path, backbone: Backbone) -> None:
    change_spec(file, lambda data: data["backbone"]["architecture"]["model_args"].update(act_layer="quick_gelu"))
    with pytest.raises(PluginError, match=r"whose activation \(its layer '.*'\) is QuickGELU, .*it is GELU:"):
        load_networks(file, backbone)
    assert backbone.sites.keys == []


def test_a_plugin_of_the_same_network_by_another_name_is_loaded(file: Path, backbone: Backbone) -> None:
    change_spec(file, lambda data: data["backbone"]["architecture"]["model_args"].update(num_heads=1, embed_dim=64))
    same = {"depth": 2, "num_heads": 1, "embed_dim": 64}
    with pytest.raises(PluginError):
        load_networks(file, backbone)
    change_spec(file, lambda data: data["backbone"]["architecture"]["model_args"].update(num_heads=2))
    assert dict(read_spec(file).backbone.architecture.model_args) == {**same, "num_heads": 2}
    load_networks(file, backbone)


def test_a_plugin_of_the_first_versions_is_told_apart_by_its_arguments(file: Path, backbone: Backbone) -> None:
    change_spec(file, lambda data: data["backbone"].pop("architecture"))
    load_networks(file, backbone)
    change_spec(file, lambda data: data["backbone"].update(model_args={"depth": 2, "global_pool": "avg"}))
    with pytest.raises(PluginError, match=r"trained on 'test_vit' with \{.*'global_pool': 'avg'\}.*has \{'depth': 2\}"):
        load_networks(file, backbone)


def test_positions_that_were_resampled_in_another_way_matter_at_another_size_alone(
    tmp_path: Path, backbone: Backbone
) -> None:
    def other_way(data: dict) -> None:
        data["backbone"]["architecture"]["positions"]["antialias"] = False

    native = backbone.architecture.input_size
    for size in (native, (32, 48)):
        file = tmp_path / "Test.safetensors"
        write_plugin(file, backbone, views=(view(backbone, size=size),))
        load_networks(file, backbone)
        change_spec(file, other_way)
        if size == native:
            load_networks(file, backbone)
        else:
            with pytest.raises(PluginError, match=r"slices of 32 x 48 pixels, for which its backbone '.*' resampled"):
                load_networks(file, backbone)


def test_a_plugin_that_names_no_weights_is_refused(tmp_path: Path, backbone: Backbone) -> None:
    spec: PluginSpec = dataclasses.replace(plugin_spec(backbone), backbone=BackboneRef(id=backbone.id))
    save_plugin(tmp_path / "p.safetensors", spec, [{"head.bias": torch.ones(1)}])
    with pytest.raises(PluginError, match="give the weights it was trained on"):
        load_networks(tmp_path / "p.safetensors", backbone)


def test_a_plugin_fits_a_backbone_of_its_weights_and_network_whatever_its_name(backbone: Backbone) -> None:
    changed = dataclasses.replace
    spec = plugin_spec(backbone)
    named = spec.backbone

    def is_at_home(**reference: object) -> bool:
        return fits(changed(spec, backbone=changed(named, **reference)), backbone)

    other = changed(named.architecture, positions=changed(named.architecture.positions, antialias=False))
    rebuilt = changed(named.architecture, model_args={"depth": 2, "act_layer": "quick_gelu"})
    assert is_at_home() and is_at_home(id="another name")
    assert not is_at_home(digest="sha256:0")
    assert not is_at_home(architecture=other)
    assert not is_at_home(architecture=rebuilt)
    assert is_at_home(architecture=None) and not is_at_home(architecture=None, model_args={})
    native = view(backbone, size=named.architecture.input_size)
    assert fits(changed(spec, backbone=changed(named, architecture=other), views=(native,)), backbone)


def test_slices_of_any_size_are_no_native_ones(tmp_path: Path, backbone: Backbone) -> None:
    file = write_plugin(tmp_path / "Test.safetensors", backbone, views=(view(backbone, size=None),))
    load_networks(file, backbone)
    change_spec(file, lambda data: data["backbone"]["architecture"]["positions"].update(antialias=False))
    with pytest.raises(PluginError, match=r"slices of any size, for which its backbone '.*' resampled"):
        load_networks(file, backbone)


@pytest.mark.parametrize("argument", ["checkpoint_path", "pretrained", "cache_dir"])
def test_a_plugin_cannot_have_timm_read_other_files(file: Path, backbone: Backbone, argument: str) -> None:
    change_spec(file, lambda data: data["backbone"]["architecture"]["model_args"].update({argument: "/etc/passwd"}))
    with pytest.raises(BackboneError, match=f"may not set timm's '{argument}'"):
        load_networks(file, backbone)
