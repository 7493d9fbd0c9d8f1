"""A plugin's words and thresholds are changed and its weights are not; a foreign file says what it claims."""

from __future__ import annotations

import dataclasses
import datetime
import json
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from networks import grey_slices, plugin_spec, tiny_backbone, write_plugin
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from shell import anymc3d
from test_import_weights import packages_loaded_by
from test_plugin import change_spec, header_of, write_header

from AnyMC3DLib.backbone import Backbone
from AnyMC3DLib.errors import InputError, PluginError
from AnyMC3DLib.operating_points import curve_of
from AnyMC3DLib.plugin import digest_of_file, load_networks, read_sizes, read_spec
from AnyMC3DLib.plugin_edit import LONGEST_NAME, LONGEST_TEXT, check_whole, claims_of, revise_plugin
from AnyMC3DLib.resources import resource
from AnyMC3DLib.spec import BackboneRef, HeadSpec

SAMPLE = resource("Sample", "HeadLesionPhantom.safetensors")
TODAY = datetime.datetime.now(datetime.UTC).date().isoformat()
CURVE = {
    "operating_points": {"lesion": [[0.0, 1.0, 0.0], [0.3, 1.0, 0.75], [0.6, 0.5, 1.0]]},
    "operating_cases": {"lesion": {"positives": 12, "negatives": 8}},
}


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return tiny_backbone(depth=2)


@pytest.fixture
def file(tmp_path: Path, backbone: Backbone) -> Path:
    """A good plugin file of two members."""
    return write_plugin(tmp_path / "Test.safetensors", backbone, members=2, head=HeadSpec(standardise=True))


def of_type(path: Path, backbone: Backbone, task_type: str) -> Path:
    return write_plugin(path, backbone, task_type=task_type)


# What is changed


def test_words_are_changed_and_the_tensors_stay_the_same_bytes(file: Path) -> None:
    before, tensors = header_of(file)
    old, digest = read_spec(file), digest_of_file(file)
    spec = revise_plugin(
        file, name=" Liver ", version="2", description="A tumour?\nIn CT.", licence="MIT", intended_use="Teaching."
    )
    assert (spec.name, spec.version, spec.description) == ("Liver", "2", "A tumour?\nIn CT.")
    assert (spec.licence, spec.intended_use) == ("MIT", "Teaching.")
    assert spec == read_spec(file)
    words = ("name", "version", "description", "licence", "intended_use")
    same = {name: getattr(old, name) for name in words}
    assert dataclasses.replace(spec, **same, provenance=old.provenance) == old
    after, same_tensors = header_of(file)
    assert same_tensors == tensors
    del before["__metadata__"], after["__metadata__"]
    assert list(before.items()) == list(after.items())
    assert digest_of_file(file) != digest
    assert list(file.parent.iterdir()) == [file]


def test_the_network_gives_the_same_bits(file: Path, tmp_path: Path, backbone: Backbone) -> None:
    revise_plugin(file, tmp_path / "b.safetensors", name="Other", thresholds={"lesion": 0.3})
    outputs = []
    for place in (file, tmp_path / "b.safetensors"):
        _, networks = load_networks(place, backbone)
        study = {"axial": grey_slices(4)}
        outputs.append([network.probabilities(network([study]).logits) for network in networks])
        for network in networks:
            network.close()
    assert len(outputs[0]) == 2 and all(torch.equal(*pair) for pair in zip(*outputs, strict=True))


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has neither modes nor, as a rule, links")
def test_a_private_file_stays_private_and_a_link_stays_a_link(file: Path, tmp_path: Path) -> None:
    file.chmod(0o600)
    link = tmp_path / "link.safetensors"
    link.symlink_to(file)
    revise_plugin(link, name="Liver")
    assert link.is_symlink() and read_spec(file).name == "Liver"
    assert file.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("extra", range(9))
def test_other_programs_read_the_file_whatever_its_length(file: Path, extra: int) -> None:
    before = load_file(file)
    revise_plugin(file, description="x" * (extra + 1))
    (length,) = struct.unpack("<Q", file.read_bytes()[:8])
    assert length % 8 == 0
    after = load_file(file)
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)


def test_another_file_is_written_beside_the_old_one(file: Path, tmp_path: Path) -> None:
    digest = digest_of_file(file)
    spec = revise_plugin(file, tmp_path / "deeper" / "copy.safetensors", name="Copy")
    assert digest_of_file(file) == digest and read_spec(file).name == "Test"
    assert read_spec(tmp_path / "deeper" / "copy.safetensors") == spec
    assert spec.provenance["revised"] == {"date": TODAY, "fields": ["name"]}


def test_what_is_not_known_here_is_kept(file: Path) -> None:
    def add(data: dict) -> None:
        data["of a later version"] = {"deep": [1, None]}
        data["classes"][1]["colour"] = "red"
        data["provenance"]["mine"] = "ours"

    change_spec(file, add)
    header, tensors = header_of(file)
    header["__metadata__"]["format"] = "pt"
    write_header(file, header, tensors)
    spec = revise_plugin(file, name="New", thresholds={"lesion": 0.25})
    assert spec.extra == {"of a later version": {"deep": [1, None]}} and spec == read_spec(file)
    assert spec.classes[1].extra == {"colour": "red"} and spec.provenance["mine"] == "ours"
    with safe_open(file, framework="pt") as opened:
        assert opened.metadata()["format"] == "pt"


def test_the_positive_class_of_a_binary_plugin_has_the_threshold(file: Path) -> None:
    spec = revise_plugin(file, thresholds={"lesion": 0.3})
    assert [c.threshold for c in spec.classes] == [0.7, 0.3]
    with pytest.raises(InputError, match=r"by its positive class: give the threshold of 'lesion'\.$"):
        revise_plugin(file, thresholds={"normal": 0.3})


@pytest.mark.parametrize("task_type", ["multiclass", "multilabel"])
def test_other_plugins_have_one_threshold_a_class(tmp_path: Path, backbone: Backbone, task_type: str) -> None:
    place = of_type(tmp_path / "p.safetensors", backbone, task_type)
    spec = revise_plugin(place, thresholds={"mild": 0.1, "normal": 0.999})
    assert [c.threshold for c in spec.classes] == [0.999, 0.1, 0.5] and spec == read_spec(place)


def test_every_change_after_the_training_is_told(file: Path) -> None:
    assert "revised" not in read_spec(file).provenance
    revise_plugin(file, thresholds={"lesion": 0.3})
    assert read_spec(file).provenance["revised"] == {"date": TODAY, "fields": ["thresholds"]}
    change_spec(file, lambda data: data["provenance"]["revised"].update(date="2020-01-01"))
    spec = revise_plugin(file, licence="MIT", name="B")
    assert spec.provenance["revised"] == {"date": TODAY, "fields": ["name", "licence", "thresholds"]}


@pytest.mark.parametrize("revised", [None, 3, [], {"fields": 3}, {"fields": [["name"], 7, "nonsense"]}])
def test_a_foreign_record_of_changes_is_no_trouble(file: Path, revised: Any) -> None:
    change_spec(file, lambda data: data["provenance"].update(revised=revised))
    assert claims_of(file).revised == "no date: it is not told what"
    assert revise_plugin(file, name="B").provenance["revised"] == {"date": TODAY, "fields": ["name"]}


def test_what_is_the_same_is_no_change(file: Path, tmp_path: Path) -> None:
    before = file.read_bytes(), file.stat().st_mtime_ns
    spec = read_spec(file)
    assert revise_plugin(file) == spec
    same = {"name": "Test ", "version": "1", "thresholds": {"lesion": 0.5}, "intended_use": spec.intended_use}
    assert revise_plugin(file, file, **same) == spec
    assert (file.read_bytes(), file.stat().st_mtime_ns) == before
    assert revise_plugin(file, tmp_path / "copy.safetensors", **same) == spec
    assert digest_of_file(tmp_path / "copy.safetensors") == digest_of_file(file)


def test_an_unfit_text_that_is_there_may_stay(file: Path) -> None:
    change_spec(file, lambda data: data.update(name="a/b\x07", description="x" * 9999))
    spec = revise_plugin(file, name="a/b\x07", description="x" * 9999, version="2")
    assert (spec.name, spec.version, len(spec.description)) == ("a/b\x07", "2", 9999)


# What is refused


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"name": ""}, "A plugin needs a name"),
        ({"name": " \t"}, "A plugin needs a name"),
        ({"version": ""}, "A plugin needs a version"),
        ({"name": "x" * (LONGEST_NAME + 1)}, "at most 80 characters, but this has 81"),
        ({"name": "a/b"}, "cannot hold a slash, but this is 'a/b'"),
        ({"name": "a\\b"}, "cannot hold a slash"),
        ({"name": "a\nb"}, "control characters"),
        ({"name": "a\u202eb"}, "control characters"),
        ({"name": "a\ud800"}, "control characters"),
        ({"version": "1\x00"}, "control characters"),
        ({"description": "a\x1b[31m"}, "The description of a plugin cannot hold control characters"),
        ({"intended_use": "x" * (LONGEST_TEXT + 1)}, "The intended use of a plugin has at most"),
        ({"licence": "\x85"}, None),
        ({"thresholds": {"other": 0.5}}, "no class 'other' to decide for: give one of lesion"),
        ({"thresholds": {"lesion": 0}}, "must lie between 0 and 1, but is 0"),
        ({"thresholds": {"lesion": 1.0}}, "must lie between 0 and 1, but is 1.0"),
        ({"thresholds": {"lesion": -0.1}}, "must lie between 0 and 1"),
        ({"thresholds": {"lesion": float("nan")}}, "must lie between 0 and 1, but is nan"),
        ({"thresholds": {"lesion": 10**400}}, "must lie between 0 and 1"),
        ({"thresholds": {"lesion": True}}, "must lie between 0 and 1"),
        ({"thresholds": {"lesion": "0.5"}}, "must lie between 0 and 1, but is '0.5'"),
    ],
)
def test_what_cannot_be_is_refused_in_a_sentence(file: Path, fields: dict[str, Any], sentence: str | None) -> None:
    before = file.read_bytes()
    if sentence is None:
        assert revise_plugin(file, **fields).licence == ""
        return
    with pytest.raises(InputError, match=sentence) as caught:
        revise_plugin(file, **{"licence": "MIT", **fields})
    assert str(caught.value).endswith(".") and "\n" not in str(caught.value)
    assert file.read_bytes() == before and list(file.parent.iterdir()) == [file]


def set_tensor(name: str, value: Any) -> Callable[[dict], None]:
    def change(header: dict) -> None:
        header["0.head.bias"][name] = value

    return change


DAMAGE: dict[str, Callable[[dict], None]] = {
    "no offsets": lambda header: header["0.head.bias"].pop("data_offsets"),
    "no object": lambda header: header.update({"0.head.bias": 3}),
    "a gap": set_tensor("data_offsets", [1 << 40, (1 << 40) + 4]),
    "backwards": set_tensor("data_offsets", [4, 0]),
    "texts": set_tensor("data_offsets", ["0", "4"]),
    "an odd shape": set_tensor("shape", [2]),
    "a negative shape": set_tensor("shape", [-1, -1]),
    "a huge shape": set_tensor("shape", [1 << 62] * 16),
    "a long shape": set_tensor("shape", [1] * 1000),
    "no list": set_tensor("shape", 1),
    "no dtype": set_tensor("dtype", None),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_header_is_refused(file: Path, damage: str) -> None:
    header, tensors = header_of(file)
    DAMAGE[damage](header)
    write_header(file, header, tensors)
    refused(file, "damaged or incomplete")


@pytest.mark.parametrize("cut", [-1, -1000])
def test_a_file_without_its_end_is_refused(file: Path, cut: int) -> None:
    file.write_bytes(file.read_bytes()[:cut])
    refused(file, "damaged or incomplete")


def test_what_is_no_plugin_is_refused(file: Path, tmp_path: Path) -> None:
    file.write_bytes(file.read_bytes() + b"x")
    refused(file, "damaged or incomplete")
    file.write_bytes(b"text")
    refused(file, "not a plugin file")
    save_file({"a": torch.zeros(3)}, file)
    refused(file, "not an AnyMC3D plugin")
    file.unlink()
    refused(file, "There is no plugin file")


def test_more_members_than_tensors_are_refused(file: Path) -> None:
    change_spec(file, lambda data: data.update(members=10**300))
    refused(file, "damaged or incomplete")


def refused(file: Path, sentence: str) -> None:
    before = file.read_bytes() if file.exists() else None
    for act in (check_whole, claims_of, lambda path: revise_plugin(path, name="B")):
        with pytest.raises(PluginError, match=sentence):
            act(file)
    assert before is None or file.read_bytes() == before


def test_a_description_that_would_not_be_read_again_is_not_written(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = file.read_bytes()
    monkeypatch.setattr("AnyMC3DLib.plugin_edit.LARGEST_HEADER", struct.unpack("<Q", before[:8])[0] + 10)
    with pytest.raises(PluginError, match="too long to be changed"):
        revise_plugin(file, description="x" * 100)
    assert file.read_bytes() == before


@pytest.mark.parametrize("where", ["copying", "flushing", "replacing"])
def test_a_crash_before_the_end_leaves_the_old_file(file: Path, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    before = file.read_bytes()

    def fail(*_: object) -> None:
        assert len(list(file.parent.iterdir())) == 2 and file.read_bytes() == before
        raise OSError(28, "No space left on device")

    owner, name = {
        "copying": ("AnyMC3DLib.plugin_edit.shutil", "copyfileobj"),
        "flushing": ("AnyMC3DLib.files.os", "fsync"),
        "replacing": ("pathlib.Path", "replace"),
    }[where]
    monkeypatch.setattr(f"{owner}.{name}", fail)
    with pytest.raises(InputError, match="No space left on device"):
        revise_plugin(file, name="B")
    monkeypatch.undo()
    assert file.read_bytes() == before and list(file.parent.iterdir()) == [file]


def test_a_process_that_dies_before_the_replacement_leaves_the_old_file(file: Path) -> None:
    before = file.read_bytes()
    code = (
        "import os, sys; os.fsync = lambda _: os._exit(9)\n"
        "from AnyMC3DLib.plugin_edit import revise_plugin; revise_plugin(sys.argv[1], name='B')"
    )
    assert subprocess.run([sys.executable, "-c", code, file]).returncode == 9
    assert file.read_bytes() == before and read_spec(file).name == "Test"


def test_needs_the_standard_library_alone() -> None:
    assert packages_loaded_by("AnyMC3DLib.plugin_edit") == {"AnyMC3DLib"}


# What a file claims


def test_the_claims_of_the_sample() -> None:
    claims = claims_of(SAMPLE)
    spec, sizes = read_spec(SAMPLE), read_sizes(SAMPLE)
    assert (claims.name, claims.version, claims.task) == (spec.name, spec.version, "binary")
    assert claims.classes == ("no lesion", "lesion") and claims.members == 1
    assert (claims.licence, claims.intended_use, claims.description) == (
        spec.licence, spec.intended_use, spec.description,
    )  # fmt: skip
    assert (claims.backbone, claims.backbone_digest) == (spec.backbone.id, spec.backbone.digest)
    _, tensors = header_of(SAMPLE)
    assert claims.tensor_bytes == len(tensors) == 4 * claims.values
    assert claims.values == sum(torch.Size(shape).numel() for shape in sizes.values())
    assert claims.counts == "made-up heads: 48 lesion, 48 no lesion" and claims.date == spec.provenance["date"]
    assert claims.figures == (
        "validation accuracy 0.917 (95 % 0.792 to 1.000)", "validation auc 1.000 (95 % 1.000 to 1.000)",
    )  # fmt: skip
    assert claims.revised == "" and claims.warnings == ()


def test_what_is_missing_or_odd_is_warned_about(file: Path) -> None:
    def strip(data: dict) -> None:
        data.update(licence=" ", intended_use="", provenance={})
        data["backbone"] = {"id": "unheard-of\nmodel"}

    change_spec(file, strip)
    assert claims_of(file).warnings == (
        "It has no licence: whether it may be used or passed on is not told.",
        "It does not say what it is intended for.",
        "It has no figures: how good it is is not told.",
        "Its backbone 'unheard-of model' is not in the list of backbones here.",
        "It does not say which weights of its backbone it was trained on.",
    )


def test_figures_without_an_interval_and_changed_thresholds_are_warned_about(file: Path) -> None:
    figures = {"auc": {"value": 0.9, "low": 0.8, "high": None}, **CURVE, "auc_mean": 0.7}
    test = {"auc": {"value": 0.8, "low": 0.7, "high": 0.9}}
    change_spec(file, lambda data: data.update(licence="MIT", provenance={"validation": figures, "test": test}))
    revise_plugin(file, thresholds={"lesion": 0.4})
    claims = claims_of(file)
    assert claims.figures == ("test auc 0.800 (95 % 0.700 to 0.900)", "validation auc 0.900")
    assert claims.revised == f"{TODAY}: thresholds"
    assert claims.warnings[:2] == (
        "Some of its figures have no interval: how sure they are is not told.",
        "Its thresholds were changed after the training.",
    )


def test_any_model_of_timm_is_known(file: Path) -> None:
    change_spec(file, lambda data: data["backbone"].update(id="timm:vit_small_patch16_224"))
    assert not any("list of backbones" in warning for warning in claims_of(file).warnings)


def test_every_tensor_of_a_plugin_is_expected(tmp_path: Path, backbone: Backbone) -> None:
    views = plugin_spec(backbone).views
    views = (*views, dataclasses.replace(views[0], name="odd-name_2"))
    place = write_plugin(tmp_path / "p.safetensors", backbone, views=views, head=HeadSpec(standardise=True), members=2)
    assert not any("tensors" in warning for warning in claims_of(place).warnings)
    change_spec(place, lambda data: data["views"][1].update(name="renamed"))
    assert any("tensors that no plugin has, such as '0.adapters.odd-name_2" in w for w in claims_of(place).warnings)


def test_large_and_unknown_tensors_are_warned_about(file: Path) -> None:
    header, tensors = header_of(file)
    end, more = len(tensors), 80 << 20
    header["blocks.0\x1b.weight"] = {"dtype": "I8", "shape": [more], "data_offsets": [end, end + more]}
    write_header(file, header, tensors)
    with file.open("r+b") as stream:
        stream.truncate(file.stat().st_size + more)
    claims = claims_of(file)
    assert claims.tensor_bytes == end + more
    assert claims.warnings[-3:] == (
        "Its tensors have 80 MiB, more than a plugin needs; the largest is 'blocks.0 .weight'.",
        "It holds 1 tensors that no plugin has, such as 'blocks.0 .weight'.",
        "It holds tensors of an unusual type, such as 'I8'.",
    )


def test_hostile_texts_are_cut_and_cleaned(file: Path) -> None:
    long, turned = "x" * 3_000_000, "a\x00b\u202ec\nd\ud800e"

    def fill(data: dict) -> None:
        data.update(name=long, version=turned, description=long, licence=turned, intended_use=long)
        data["classes"] = [{"name": f"{long[:9000]}{n}"} for n in range(300)]
        data["task_type"] = "multiclass"
        data["backbone"] = {"id": turned, "digest": long[:5000]}
        counts = {f"{long[:500]}{n}": n for n in range(300)}
        data["provenance"] = {
            "date": turned, "data": long[:9000], "counts": {"train": counts},
            "test": {long[:9000]: {"value": 1e308, "low": 10**200, "high": 0}, turned: {"value": 0.5}},
            "validation": {str(n): {"value": n} for n in range(300)}, "revised": {"date": long, "fields": [turned]},
        }  # fmt: skip

    change_spec(file, fill)
    claims = claims_of(file)
    assert claims.name.endswith("x... (cut, 3,000,000 characters)") and len(claims.name) == LONGEST_TEXT
    assert claims.version == claims.licence == claims.backbone == claims.date == "a b c d e"
    assert len(claims.classes) == len(claims.figures) == 101 and claims.classes[-1] == "and 200 more"
    for value in dataclasses.asdict(claims).values():
        for text in [value] if isinstance(value, str) else value if isinstance(value, tuple) else []:
            assert len(text) <= LONGEST_TEXT and text.isprintable()


def test_the_sentence_about_a_foreign_file_is_bounded_too(file: Path) -> None:
    change_spec(file, lambda data: data.update(format_version="9\x1b" * 100_000))
    with pytest.raises(PluginError, match="has plugin format version 9 9") as caught:
        claims_of(file)
    assert len(str(caught.value)) <= LONGEST_TEXT and str(caught.value).isprintable()


@pytest.mark.parametrize("provenance", [{"counts": 3}, {"counts": {"train": [1]}}, {"date": 3, "data": {}}])
def test_provenance_of_another_shape_is_passed_over(file: Path, provenance: dict) -> None:
    change_spec(file, lambda data: data.update(provenance=provenance))
    claims = claims_of(file)
    assert (claims.counts, claims.date, claims.figures) == ("", "", ())


# The shell


def test_the_shell_changes_a_threshold_and_says_what_that_does(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    change_spec(file, lambda data: data["provenance"].update(validation=CURVE))
    assert anymc3d("plugin", "edit", file, "--threshold", "lesion=0.35", "--intended-use", "Teaching.") == 0
    shown = capsys.readouterr().out
    spec = read_spec(file)
    assert spec.classes[1].threshold == 0.35 and spec.intended_use == "Teaching."
    assert curve_of(spec, "lesion").at(0.35).specificity == 0.75
    assert shown.startswith(f"Wrote '{file}': Test, version 1.\n")
    assert " ".join(shown.split()[-10:]) == "lesion 0.35 1.000 of 12 cases 0.750 of 8 cases"
    assert anymc3d("plugin", "show", file) == 0
    assert f"{TODAY}: intended use, thresholds" in capsys.readouterr().out


def test_the_shell_says_where_nothing_is_known(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = file.with_name("other.safetensors")
    assert anymc3d("plugin", "edit", file, "--out", out, "--name", "Other", "--threshold", "lesion=0.4") == 0
    assert "the file holds no curve of validation cases" in capsys.readouterr().out
    assert read_spec(out).name == "Other" and read_spec(file).name == "Test"


def test_the_shell_says_that_a_multiclass_plugin_takes_the_most_probable(
    tmp_path: Path, backbone: Backbone, capsys: pytest.CaptureFixture[str]
) -> None:
    place = of_type(tmp_path / "p.safetensors", backbone, "multiclass")
    points = {"operating_points": {"mild": [[0.0, 1.0, 0.0], [0.3, 0.5, 1.0]]}}
    change_spec(place, lambda data: data["provenance"].update(validation=points))
    assert anymc3d("plugin", "edit", place, "--threshold", "mild=0.3") == 0
    shown = capsys.readouterr().out
    assert "decides for the most probable class" in shown and "0.500" in shown and "of None" not in shown


@pytest.mark.parametrize(
    ("words", "code", "sentence"),
    [
        ([], 2, "give what to change"),
        (["--threshold", "lesion"], 2, "a class, the sign =, and a number"),
        (["--threshold", "lesion=much"], 2, "lesion=much"),
        (["--threshold", "other=0.5"], 1, "no class 'other'"),
        (["--threshold", "lesion=2"], 1, "between 0 and 1"),
        (["--name", ""], 1, "needs a name"),
    ],
)
def test_the_shell_refuses(
    file: Path, words: list[str], code: int, sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = file.read_bytes()
    assert anymc3d("plugin", "edit", file, *words) == code
    assert sentence in capsys.readouterr().err and file.read_bytes() == before


def test_the_backbone_of_a_plugin_stays(file: Path) -> None:
    backbone = read_spec(file).backbone
    assert revise_plugin(file, name="B").backbone == backbone != BackboneRef(id="")
    assert json.loads(header_of(file)[0]["__metadata__"]["anymc3d"])["backbone"]["digest"] == backbone.digest
