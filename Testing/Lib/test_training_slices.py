"""The slices that training sees: those of inference, drawn and changed at random."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from networks import plugin_spec, tiny_backbone, view
from volumes import study

from AnyMC3DLib.errors import InputError
from AnyMC3DLib.prediction import Study
from AnyMC3DLib.preprocessing import Box, preprocess
from AnyMC3DLib.progress import Progress
from AnyMC3DLib.spec import PluginSpec, RegionSpec, SliceSpec
from AnyMC3DLib.training.augmentation_spec import AugmentationSpec
from AnyMC3DLib.training.cases import Case
from AnyMC3DLib.training.slice_cache import SliceCache
from AnyMC3DLib.training.slices import CutCases, batch_count, cut_cases, studies_of
from AnyMC3DLib.training.task import TrainingSpec
from AnyMC3DLib.volume import Volume


def case(name: str = "a", volume: Volume | None = None, **regions: Box) -> Case:
    return Case(name, "train", 1, lambda: Study({"image": volume or study()}, regions))


@pytest.fixture(scope="module")
def spec() -> PluginSpec:
    backbone = tiny_backbone()
    return plugin_spec(backbone, views=(view(backbone), view(backbone, "coronal", slices=SliceSpec())))


def numbered(count: int, slices: int = 6) -> CutCases:
    """Cases whose slices hold the number of the case plus a hundredth of their own."""
    stacks = [
        {"axial": (n / 16 + np.arange(slices)[:, None, None, None] / 256 * np.ones((1, 1, 8, 8))).astype(np.float16)}
        for n in range(count)
    ]
    return CutCases([str(n) for n in range(count)], stacks, np.arange(count))


def test_training_cuts_the_slices_that_inference_cuts(spec: PluginSpec) -> None:
    seen: list[Progress] = []
    cut = cut_cases([case("a"), case("b")], spec, progress=seen.append)
    assert (cut.ids, cut.targets.tolist()) == (["a", "b"], [1, 1])
    assert [(p.done, p.total) for p in seen] == [(1, 2), (2, 2)]
    for one in spec.views:
        expected = preprocess(study(), one.preprocessing).array
        assert cut.stacks[0][one.name].dtype == np.float16
        np.testing.assert_allclose(cut.stacks[0][one.name], expected, atol=5e-4)


def test_training_looks_at_the_region_that_comes_with_a_study() -> None:
    backbone = tiny_backbone()
    one = view(backbone, slices=SliceSpec(), region=RegionSpec(kind="box"))
    box = Box((-20, 20, 0), (0, 35, 12))
    cut = cut_cases([case(image=box)], plugin_spec(backbone, views=(one,)))
    expected = preprocess(study(), one.preprocessing, region=box).array
    np.testing.assert_allclose(cut.stacks[0]["axial"], expected, atol=5e-4)


def test_a_case_that_cannot_be_cut_is_named(spec: PluginSpec) -> None:
    flat = dataclasses.replace(study(), array=np.ones((4, 4, 4), np.float32))
    with pytest.raises(InputError, match=r"Case 'second': .* everywhere"):
        cut_cases([case("first"), case("second", flat)], spec)


def test_a_subset_keeps_its_order() -> None:
    part = numbered(5).subset([3, 1])
    assert (part.ids, part.targets.tolist()) == (["3", "1"], [3, 1])
    assert float(part.stacks[1]["axial"][0, 0, 0, 0]) == 1 / 16


# What a step sees


@pytest.mark.parametrize(
    ("cases", "batch", "count"), [(8, 4, 2), (10, 4, 3), (9, 4, 2), (3, 8, 1), (1, 8, 1), (3, 1, 3)]
)
def test_a_last_batch_of_one_is_left_out(cases: int, batch: int, count: int) -> None:
    assert batch_count(cases, batch) == count


def seen(cases: CutCases, spec: PluginSpec, *, epoch: int = 0, **recipe: object) -> list[torch.Tensor]:
    """The axial slices of each case in an epoch."""
    studies, _ = studies_of(cases, range(len(cases)), spec, TrainingSpec(**recipe), epoch=epoch)
    return [study["axial"] for study in studies]


@pytest.fixture
def axial() -> PluginSpec:
    backbone = tiny_backbone()
    return plugin_spec(backbone, views=(view(backbone),))


def test_a_step_sees_some_slices_in_their_order_others_each_epoch(axial: PluginSpec) -> None:
    drawn = [seen(numbered(1), axial, epoch=epoch, slices=3)[0][:, 0, 0, 0] for epoch in range(8)]
    for slices in drawn:
        assert len(slices) == 3
        assert (slices.diff() > 0).all()
    assert len({tuple(slices.tolist()) for slices in drawn}) > 1


def test_a_study_of_few_slices_gives_them_all(axial: PluginSpec) -> None:
    assert len(seen(numbered(1, slices=2), axial, slices=3)[0]) == 2


def test_nothing_changes_where_nothing_is_asked_for(axial: PluginSpec) -> None:
    cases = numbered(3)
    for number, slices in enumerate(seen(cases, axial)):
        assert torch.equal(slices, torch.from_numpy(cases.stacks[number]["axial"].astype(np.float32)))


def test_what_happens_to_a_case_depends_on_seed_epoch_and_case_alone(axial: PluginSpec) -> None:
    recipe = {"augmentation": AugmentationSpec.paper(), "slices": 2}
    cases = numbered(6)
    together = seen(cases, axial, **recipe)
    alone, _ = studies_of(cases, [4], axial, TrainingSpec(**recipe), epoch=0)
    assert torch.equal(alone[0]["axial"], together[4])
    assert all(torch.equal(a, b) for a, b in zip(together, seen(cases, axial, **recipe), strict=True))
    for other in (seen(cases, axial, epoch=1, **recipe), seen(cases, axial, seed=1, **recipe)):
        assert not all(torch.equal(a, b) for a, b in zip(together, other, strict=True))


def test_a_mask_is_cut_and_changed_as_its_slices_are(axial: PluginSpec) -> None:
    lesion = study()
    mask = dataclasses.replace(lesion, array=(lesion.array > np.percentile(lesion.array, 90)).astype(np.uint8))
    cases = [dataclasses.replace(case("a"), masks=lambda: {"image": mask}), case("b")]
    cut = cut_cases(cases, axial, with_masks=True)
    assert cut.mask_of(0)["axial"].shape == cut.stacks[0]["axial"].shape[:1] + cut.stacks[0]["axial"].shape[2:]
    assert cut.mask_of(1) is None and cut.count_masks(np.array([0, 1])) == 1
    recipe = TrainingSpec(slices=2, augmentation=AugmentationSpec(flip=1.0))
    (first, _), (found, none) = studies_of(cut, [0, 1], axial, recipe, epoch=0)
    assert none is None and found["axial"].shape == first["axial"].shape[:1] + first["axial"].shape[2:]
    whole = torch.from_numpy(cut.mask_of(0)["axial"].astype(np.float32)).flip(1, 2)
    assert all(any(torch.equal(one, other) for other in whole) for one in found["axial"])
    assert cut_cases(cases, axial).masks == []


def test_cases_that_cannot_be_read_are_left_out_only_where_so_many_are_allowed(spec: PluginSpec) -> None:
    flat = dataclasses.replace(study(), array=np.ones((4, 4, 4), np.float32))
    cases = [case("first"), case("second", flat), case("third")]
    cut = cut_cases(cases, spec, allow_unreadable=1)
    assert cut.ids == ["first", "third"] and list(cut.excluded) == ["second"] and "everywhere" in cut.excluded["second"]
    with pytest.raises(InputError, match="Case 'third'"):
        cut_cases([*cases[:2], case("third", flat)], spec, allow_unreadable=1)
    with pytest.raises(InputError, match="None of the cases"):
        cut_cases([case("second", flat)], spec, allow_unreadable=1)


def test_slices_that_were_cut_once_come_from_the_cache(spec: PluginSpec, tmp_path: Path) -> None:
    loaded: list[str] = []

    def counted(name: str) -> Case:
        one = case(name)
        return dataclasses.replace(
            one, load=lambda: (loaded.append(name), one.load())[1], content=lambda: {"image": "the same"}
        )

    cache = SliceCache(tmp_path / "cache", max_bytes=1 << 24)
    first, second = (cut_cases([counted(name)], spec, cache=cache) for name in "ab")
    assert loaded == ["a"]
    for name, array in first.stacks[0].items():
        assert np.array_equal(array, second.stacks[0][name])
