"""A plugin that was trained on CT-like heads knows CT-like heads, and calls other pictures unlike them."""

from __future__ import annotations

import csv
import dataclasses
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from scanners import ct_head, mr_head, with_values_of

from AnyMC3DLib.backbone import Backbone
from AnyMC3DLib.classifier import Classifier
from AnyMC3DLib.cli import main
from AnyMC3DLib.errors import InputError
from AnyMC3DLib.model import PluginNetwork
from AnyMC3DLib.opening import open_backbone
from AnyMC3DLib.plugin import load_members, load_networks, read_spec, save_plugin
from AnyMC3DLib.prediction import Prediction, Study
from AnyMC3DLib.spec import (
    BackboneRef,
    ClassSpec,
    HeadSpec,
    IntensitySpec,
    LoRASpec,
    PluginSpec,
    PreprocessingSpec,
    SliceSpec,
    ViewSpec,
)
from AnyMC3DLib.training.add_scope import add_scope
from AnyMC3DLib.training.cases import Case
from AnyMC3DLib.training.evaluation import evaluate_plugin
from AnyMC3DLib.training.folds import train_folds
from AnyMC3DLib.training.learn_scope import STUDIES_AT_MOST, learn_scope, some_of
from AnyMC3DLib.training.run import train_plugin
from AnyMC3DLib.training.slice_cache import SliceCache
from AnyMC3DLib.training.slices import CutCases, cut_cases
from AnyMC3DLib.training.task import TaskSpec, TrainingSpec
from AnyMC3DLib.volume import Volume, read_volume, write_volume

TRAIN, HELD_OUT, NEW = 48, 24, 16


def task(**changes: object) -> TaskSpec:
    cut = PreprocessingSpec(
        size=(64, 64), intensity=IntensitySpec(kind="window", windows=((40.0, 400.0),)),
        slices=SliceSpec(policy="at_most", count=6),
    )  # fmt: skip
    plugin = PluginSpec(
        name="heads", task_type="binary", classes=(ClassSpec(name="clear"), ClassSpec(name="lesion")),
        backbone=BackboneRef(id="efficientnet_lite0"), views=(ViewSpec(name="axial", preprocessing=cut),),
        lora=LoRASpec(rank=0), head=HeadSpec(standardise=True),
    )  # fmt: skip
    recipe = TrainingSpec(method="frozen", epochs=0, warm_up_epochs=3)
    return dataclasses.replace(TaskSpec(plugin=plugin, training=recipe), **changes)


def case(number: int, split: str, make: Callable[..., Volume] = ct_head) -> Case:
    lesion = number % 2 == 1
    return Case(
        str(number), split, int(lesion), lambda: Study({"image": make(number, lesion=lesion)}),
        content=lambda: {"image": str(number)},
    )  # fmt: skip


def cases(train: int = TRAIN, held_out: int = HELD_OUT) -> list[Case]:
    return [case(n, "train" if n < train else "val") for n in range(train + held_out)]


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return open_backbone("efficientnet_lite0")


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory, backbone: Backbone) -> Path:
    place = tmp_path_factory.mktemp("scope") / "heads.safetensors"
    train_plugin(task(), cases(), backbone, place)
    return place


@pytest.fixture(scope="module")
def engine(file: Path, backbone: Backbone) -> Iterator[Classifier]:
    found = Classifier(backbone)
    found.load(file)
    yield found
    found.unload("heads")


def answer(engine: Classifier, volume: Volume) -> Prediction:
    return engine.classify(Study({"image": volume}), maps="none")["heads"]


def test_new_heads_of_the_same_kind_are_seldom_called_unlike(engine: Classifier) -> None:
    found = [answer(engine, ct_head(1000 + n, lesion=n % 2 == 1)) for n in range(NEW)]
    assert sum(bool(p.beyond) for p in found) <= 1
    assert not any("Out of scope" in w for p in found if not p.beyond for w in p.warnings)


def test_an_mr_with_the_very_values_of_a_ct_is_called_unlike(engine: Classifier) -> None:
    for n in range(NEW):
        volume = with_values_of(mr_head(1000 + n), ct_head(1000 + n))
        found = answer(engine, volume)
        assert found.beyond
        assert found.warnings[0].startswith("Out of scope? The pictures are unlike those of the 48 studies")
        assert found.to_dict()["beyond_training"] is True
        # No range tells it: the values are those of the CT, voxel counts and all.
        assert sum("Out of scope" in w for w in found.warnings) == 1


@pytest.mark.parametrize("name", ["CT_AVM", "MR_Gd", "chris_t1"])
def test_a_real_head_is_called_unlike_the_phantoms(engine: Classifier, real_data: Path, name: str) -> None:
    volume = read_volume(real_data / f"{name}.nii.gz")
    like = with_values_of(volume, ct_head(5))
    # As it is, and with the values of a phantom, so that nothing but the pictures can tell.
    for each in (volume, like):
        found = answer(engine, each)
        assert found.beyond
        assert any("The pictures are unlike those" in warning for warning in found.warnings)


def test_the_plugin_keeps_what_it_has_seen_and_nothing_of_a_single_study(file: Path) -> None:
    scope = read_spec(file).scope
    assert scope is not None
    assert (scope.cases, scope.density, scope.held_out) == (TRAIN, True, HELD_OUT)
    (images,) = scope.images
    assert images.low[0] < -900
    assert images.spacing_mm[2] == pytest.approx((8.75, 8.75))
    assert len(json.dumps(scope.to_dict())) < 1000


def test_a_density_in_memory_is_the_one_of_the_file(file: Path, backbone: Backbone) -> None:
    _, (network,) = load_networks(file, backbone)
    try:
        assert network.density is not None
        slices = torch.rand(4, 1, 64, 64)
        embedded = {"axial": network.embed(network.spec.views[0], slices).detach()}
        assert network.is_beyond(embedded)
    finally:
        network.close()


def test_of_few_studies_there_is_no_density_and_the_ranges_are_kept(tmp_path: Path, backbone: Backbone) -> None:
    place = tmp_path / "few.safetensors"
    train_plugin(task(), cases(12, 6), backbone, place)
    scope = read_spec(place).scope
    assert scope is not None
    assert not scope.density
    assert scope.images
    engine = Classifier(backbone)
    engine.load(place)
    found = answer(engine, with_values_of(mr_head(1000), ct_head(1000)))
    assert found.beyond is None
    engine.unload("heads")


def test_an_ensemble_judges_by_half_of_its_members(tmp_path: Path, backbone: Backbone) -> None:
    place = tmp_path / "folds.safetensors"
    train_folds(task(), cases(40, 0), backbone, place, count=2, splits=("train",))
    scope = read_spec(place).scope
    assert scope is not None
    assert (scope.cases, scope.density, scope.held_out) == (40, True, 40)
    engine = Classifier(backbone)
    engine.load(place)
    assert answer(engine, with_values_of(mr_head(1000), ct_head(1000))).beyond
    engine.unload("heads")


def test_facts_come_from_the_cache_as_from_the_image(tmp_path: Path) -> None:
    cache = SliceCache(tmp_path, max_bytes=1 << 24)
    data, spec = cases(4, 0), task().plugin
    once, again = (cut_cases(data, spec, cache=cache) for _ in range(2))
    for first, second in zip(once.facts, again.facts, strict=True):
        np.testing.assert_array_equal(first["image"], second["image"])
    assert len(once.subset([1, 3]).facts) == 2


def test_the_order_in_which_views_come_back_does_not_matter(backbone: Backbone) -> None:
    views = tuple(ViewSpec(name=name, preprocessing=task().plugin.views[0].preprocessing) for name in ("b", "a"))
    network = PluginNetwork(dataclasses.replace(task().plugin, views=views), backbone)
    rng = torch.Generator().manual_seed(0)
    made = [{n: torch.randn(3, backbone.embed_dim, generator=rng) + (n == "b") for n in ("b", "a")} for _ in range(50)]
    train = CutCases([str(n) for n in range(30)], [{}] * 30, np.zeros(30, np.int64))
    learn_scope(network, train, [dict(sorted(each.items())) for each in made[:30]])
    try:
        assert sum(network.is_beyond(each) for each in made[30:]) <= 1
    finally:
        network.close()


def test_many_studies_are_drawn_from_by_the_seed() -> None:
    many = CutCases([str(n) for n in range(1000)], [{}] * 1000, np.zeros(1000, np.int64))
    first, again, other = (some_of(many, seed=seed) for seed in (1, 1, 2))
    assert len(first) == STUDIES_AT_MOST
    assert first.ids == again.ids != other.ids
    assert some_of(first, seed=3) is first


def test_a_network_that_is_no_plugin_learns_no_scope(backbone: Backbone) -> None:
    result = train_plugin(task(), cases(12, 6), backbone, None, scope=False)
    assert result.spec.scope is None
    assert not any(name.startswith("density") for name in result.state)


def test_an_evaluation_says_how_many_of_its_cases_are_unlike(file: Path, backbone: Backbone) -> None:
    foreign = [case(1000 + n, "foreign", lambda n, lesion: with_values_of(mr_head(n), ct_head(n))) for n in range(4)]
    data = [*cases(), *(case(1000 + n, "test") for n in range(4)), *foreign]
    found = evaluate_plugin(file, lambda _: data, backbone, splits=("test", "foreign"))
    assert found.beyond is not None
    assert sum(found.beyond[:4]) <= 1
    assert all(found.beyond[4:])
    assert found.share_beyond is not None
    assert found.share_beyond.low < found.share_beyond.value < found.share_beyond.high


def test_a_plugin_of_before_is_given_the_scope_that_training_would_have_given(
    file: Path, backbone: Backbone, tmp_path: Path
) -> None:
    spec, (network,) = load_networks(file, backbone)
    network.density, bare = None, dataclasses.replace(spec, scope=None)
    save_plugin(tmp_path / "old.safetensors", bare, [network.state_dict()])
    network.close()
    scope = add_scope(tmp_path / "old.safetensors", tmp_path / "new.safetensors", cases(), backbone)
    assert read_spec(tmp_path / "new.safetensors").scope == scope == spec.scope
    (learnt,), (given,) = load_members(file, spec), load_members(tmp_path / "new.safetensors", spec)
    assert learnt.keys() == given.keys()
    for name in learnt:
        torch.testing.assert_close(given[name], learnt[name], rtol=1e-4, atol=1e-5)


def test_an_ensemble_of_before_cannot_be_given_one(tmp_path: Path, backbone: Backbone) -> None:
    place = tmp_path / "folds.safetensors"
    train_folds(task(), cases(16, 0), backbone, place, count=2, splits=("train",))
    with pytest.raises(InputError, match=r"'folds.safetensors' is an ensemble of folds: train it again"):
        add_scope(place, place, cases(), backbone)


def test_the_shell_tells_what_a_plugin_has_seen(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plugin", "show", str(file)]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "has seen of 'image' values -1" in said
    assert "spacing along R, A, S 3.5 to 3.5, 3.5 to 3.5, 8.75 to 8.75 mm" in said
    assert "by their embeddings too; of 24 held-out studies" in said
    # Query, head, shift and scale of the embeddings; not what the density holds.
    assert "5,121 parameters" in said


def test_the_shell_gives_a_scope_to_a_plugin_of_before(
    file: Path, backbone: Backbone, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spec, (network,) = load_networks(file, backbone)
    network.density = None
    old, new = tmp_path / "old.safetensors", tmp_path / "new.safetensors"
    save_plugin(old, dataclasses.replace(spec, scope=None), [network.state_dict()])
    network.close()
    for number in range(24):
        write_volume(tmp_path / f"{number}.nrrd", ct_head(number, lesion=number % 2 == 1))
    rows = [f"{n},{n}.nrrd,{'lesion' if n % 2 else 'clear'},train" for n in range(24)]
    (tmp_path / "cases.csv").write_text("\n".join(["case,image,label,split", *rows]) + "\n")
    given = ["plugin", "learn-scope", str(old), "--data", str(tmp_path / "cases.csv"), "--out", str(new)]
    assert main([*given, "--val-splits", ""]) == 0
    assert "it knows 24 studies" in capsys.readouterr().out
    scope = read_spec(new).scope
    assert scope is not None
    assert scope.density


def test_a_cohorts_table_says_which_studies_are_out_of_scope(file: Path, tmp_path: Path) -> None:
    write_volume(tmp_path / "ct.nrrd", ct_head(1001))
    write_volume(tmp_path / "mr.nrrd", with_values_of(mr_head(1001), ct_head(1001)))
    (tmp_path / "cohort.csv").write_text("case,image\nfirst,ct.nrrd\nsecond,mr.nrrd\n")
    out = tmp_path / "out"
    given = ["classify", "--manifest", str(tmp_path / "cohort.csv"), "--plugin", str(file), "--out", str(out)]
    assert main(given) == 0
    with (out / "results.csv").open(newline="") as stream:
        told = {row["case"]: row["out_of_scope"] for row in csv.DictReader(stream)}
    assert told == {"first": "no", "second": "yes"}
