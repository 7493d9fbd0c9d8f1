"""The slices that training sees: those of inference, drawn and changed at random."""

from __future__ import annotations

import dataclasses

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
from AnyMC3DLib.training.cases import Case
from AnyMC3DLib.training.slices import Augmentation, CutCases, batch_count, cut_cases, training_batches
from AnyMC3DLib.training.task import AugmentationSpec
from AnyMC3DLib.volume import Volume

NOTHING = AugmentationSpec()


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


def epoch(cases: CutCases, *, batch: int, slices: int | None = None, seed: int = 0) -> list:
    augmentation = Augmentation(NOTHING, seed=seed)
    rng = np.random.default_rng(seed)
    return list(training_batches(cases, batch=batch, slices=slices, augmentation=augmentation, rng=rng))


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


# Batches


@pytest.mark.parametrize(
    ("cases", "batch", "sizes"),
    [(8, 4, [4, 4]), (10, 4, [4, 4, 2]), (9, 4, [4, 4]), (3, 8, [3]), (1, 8, [1]), (3, 1, [1, 1, 1])],
)
def test_a_last_batch_of_one_is_left_out(cases: int, batch: int, sizes: list[int]) -> None:
    assert [len(studies) for studies, _ in epoch(numbered(cases), batch=batch)] == sizes
    assert batch_count(cases, batch) == len(sizes)


def test_an_epoch_shows_every_case_once_in_a_random_order_with_its_target() -> None:
    batches = epoch(numbered(12), batch=4)
    targets = torch.cat([targets for _, targets in batches])
    assert sorted(targets.tolist()) == list(range(12))
    assert targets.tolist() != list(range(12))
    for studies, numbers in batches:
        for one, number in zip(studies, numbers, strict=True):
            assert int(one["axial"][0, 0, 0, 0] * 16) == number


def test_a_step_sees_some_slices_in_their_order_others_each_time() -> None:
    drawn = [epoch(numbered(2), batch=2, slices=3, seed=seed)[0][0][0]["axial"][:, 0, 0, 0] for seed in range(8)]
    for slices in drawn:
        assert len(slices) == 3
        assert (slices.diff() > 0).all()
    assert len({tuple(slices.tolist()) for slices in drawn}) > 1


def test_a_study_of_few_slices_gives_them_all() -> None:
    assert len(epoch(numbered(2, slices=2), batch=2, slices=3)[0][0][0]["axial"]) == 2


# Augmentation


def picture() -> torch.Tensor:
    """Five different slices, and a sixth equal to the first."""
    slices = torch.rand(5, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    return torch.cat([slices, slices[:1]])


def test_nothing_changes_where_nothing_is_asked_for() -> None:
    changed = Augmentation(NOTHING, seed=0)(picture())
    assert type(changed) is torch.Tensor
    assert torch.equal(changed, picture())


def test_a_sure_flip_turns_both_axes() -> None:
    assert torch.equal(Augmentation(AugmentationSpec(flip=1.0), seed=0)(picture()), picture().flip(2, 3))


def test_flips_come_about_as_often_as_asked() -> None:
    augment, slices = Augmentation(AugmentationSpec(flip=0.5), seed=0), picture()
    kinds = [() if torch.equal(c := augment(slices), slices) else tuple(
        axes for axes in ((2,), (3,), (2, 3)) if torch.equal(c, slices.flip(*axes))) for _ in range(60)]  # fmt: skip
    assert all(len(kind) == 1 for kind in kinds if kind)
    counts = [kinds.count(kind) for kind in ((), ((2,),), ((3,),), ((2, 3),))]
    assert sum(counts) == 60
    assert min(counts) >= 6


CHANGES = [{"rotate": 30.0}, {"zoom": 0.3}, {"shift": 0.3}]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: next(iter(change)))
def test_all_slices_of_a_view_change_alike_and_stay_in_range(change: dict[str, float]) -> None:
    changed = Augmentation(AugmentationSpec(affine=1.0, **change), seed=3)(picture())
    assert not torch.allclose(changed, picture(), atol=1e-2)
    assert torch.equal(changed[0], changed[5])
    assert 0 <= changed.min() <= changed.max() <= 1


def test_a_shift_moves_by_at_most_its_share_of_the_size() -> None:
    slices = torch.zeros(1, 1, 32, 16)
    slices[0, 0, 16, 8] = 1
    augment = Augmentation(AugmentationSpec(affine=1.0, shift=0.25), seed=0)
    moves = []
    for _ in range(40):
        changed = augment(slices)[0, 0]
        weights = changed / changed.sum()
        moves.append([float((weights.sum(dim=1 - axis) * torch.arange(n)).sum() - n // 2)
                      for axis, n in ((0, 32), (1, 16))])  # fmt: skip
    reach = np.abs(moves).max(axis=0)
    assert 5 < reach[0] <= 8.5
    assert 2.5 < reach[1] <= 4.5


def test_augmentation_depends_on_the_seed_alone() -> None:
    spec = AugmentationSpec(flip=0.5, affine=1.0, rotate=20.0, shift=0.1)
    first, second, other = (Augmentation(spec, seed=seed) for seed in (1, 1, 2))
    drawn = [[augment(picture()) for _ in range(3)] for augment in (first, second, other)]
    assert all(torch.equal(a, b) for a, b in zip(drawn[0], drawn[1], strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(drawn[0], drawn[2], strict=True))
    assert not torch.equal(drawn[0][0], drawn[0][1])
