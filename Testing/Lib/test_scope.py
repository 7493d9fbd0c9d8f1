"""What a plugin has seen is remembered, and what it has not is said in a sentence."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest

from AnyMC3DLib.geometry import Affine
from AnyMC3DLib.prediction import Study
from AnyMC3DLib.scope import ImageFacts, image_facts, joined, remarks_on, seen_images
from AnyMC3DLib.spec import (
    BackboneRef,
    ClassSpec,
    IntensitySpec,
    PluginSpec,
    PreprocessingSpec,
    ScopeSpec,
    ViewSpec,
)
from AnyMC3DLib.volume import Volume

SPACING = (0.7, 0.8, 3.0)


def image(*, factor: float = 1.0, spacing: tuple[float, float, float] = SPACING, modality: str = "") -> Volume:
    rng = np.random.default_rng(0)
    return Volume(rng.normal(100, 30, (12, 30, 40)) * factor, np.diag([*spacing, 1.0]), modality=modality)


WINDOW = PreprocessingSpec(intensity=IntensitySpec(kind="window", windows=((100.0, 400.0),)))


def plugin(
    scope: ScopeSpec | None,
    *,
    modality: str = "",
    cut: PreprocessingSpec = WINDOW,
    sources: tuple[str, ...] = ("image",),
) -> PluginSpec:
    views = tuple(ViewSpec(name=f"v-{source}", source=source, preprocessing=cut) for source in sources)
    return PluginSpec(
        name="p", task_type="binary", classes=(ClassSpec(name="no"), ClassSpec(name="yes")), modality=modality,
        backbone=BackboneRef(id="b"), views=views, scope=scope,
    )  # fmt: skip


def scope(*volumes: Volume, cases: int = 40) -> ScopeSpec:
    return ScopeSpec(cases=cases, images=seen_images({"image": [image_facts(v) for v in volumes]}))


def remarks(spec: PluginSpec, volume: Volume) -> list[str]:
    return remarks_on(spec, Study({"image": volume}))


def test_an_image_like_those_that_were_seen_is_passed_in_silence() -> None:
    spec = plugin(scope(image(), image(factor=1.2)))
    assert remarks(spec, image()) == []
    assert remarks(spec, image(factor=1.1, spacing=(0.9, 0.9, 4.0))) == []


def test_values_in_other_units_are_told_with_what_was_seen() -> None:
    (said,) = remarks(plugin(scope(image())), image(factor=20))
    assert "the studies that the plugin learnt from" in said
    assert "'image'" in said
    assert said.endswith("in the right units?")


@pytest.mark.parametrize(("spacing", "axis"), [((0.07, 0.8, 3.0), "R"), ((0.7, 8.0, 3.0), "A"), ((0.7, 0.8, 30), "S")])
def test_another_spacing_is_told_with_its_axis(spacing: tuple[float, float, float], axis: str) -> None:
    said = remarks(plugin(scope(image())), image(spacing=spacing))
    assert f"The spacing of the image 'image' along {axis} is" in said[0]


def test_a_small_part_of_the_body_is_told_by_its_extent() -> None:
    whole = image()
    part = dataclasses.replace(whole, array=whole.array[:4])
    assert any("The extent of the image 'image' along S is 12 mm, but 36 to 36 mm" in s for s in
               remarks(plugin(scope(whole)), part))  # fmt: skip


def test_of_a_few_studies_least_and_most_are_not_made_a_rule() -> None:
    assert remarks(plugin(scope(image(), cases=3)), image(factor=20)) == []


@pytest.mark.parametrize("where", ["seen", "declared"])
def test_another_modality_is_called_by_its_name(where: str) -> None:
    seen = scope(image(modality="CT" if where == "seen" else ""))
    spec = plugin(seen, modality="CT" if where == "declared" else "")
    said = remarks(spec, image(modality="MR", factor=50))
    assert said == ["The image is an MR, but the plugin was trained on CT: its answer means little."]
    assert remarks(spec, image(modality="CT")) == []
    assert remarks(spec, image()) == []


def test_a_modality_in_free_words_forbids_none() -> None:
    assert remarks(plugin(None, modality="CT shape"), image(modality="MR")) == []


def test_a_plugin_without_a_scope_says_nothing() -> None:
    assert remarks(plugin(None), image(factor=1000)) == []


def _stored(volume: Volume, order: tuple[int, ...], flips: tuple[int, ...]) -> Volume:
    array = np.transpose(volume.array, order)
    to_source: Affine = np.zeros((4, 4))
    to_source[3, 3] = 1
    for place, axis in enumerate(order):
        to_source[2 - axis, 2 - place] = -1 if place in flips else 1
        if place in flips:
            to_source[2 - axis, 3] = volume.array.shape[axis] - 1
            array = np.flip(array, place)
    return Volume(array, volume.ijk_to_ras @ to_source)


def test_the_order_in_which_an_image_is_stored_changes_no_fact() -> None:
    facts = image_facts(image())
    for order in itertools.permutations(range(3)):
        for flips in ((), (0,), (1, 2)):
            assert image_facts(_stored(image(), order, flips)) == facts


def test_facts_come_back_from_their_array() -> None:
    for modality in ("", "CT", "MR"):
        facts = image_facts(image(modality=modality))
        assert ImageFacts.from_array(facts.to_array()) == facts


def test_the_members_of_an_ensemble_have_seen_what_any_of_them_has() -> None:
    first, second = scope(image(modality="CT")), scope(image(factor=3, modality="MR"))
    both = joined(
        [dataclasses.replace(first, density=True, held_out=5, beyond=1), dataclasses.replace(second, held_out=6)],
        cases=80,
    )
    assert (both.cases, both.density, both.held_out, both.beyond) == (80, False, 11, 1)
    (seen,) = both.images
    assert seen.modalities == ("CT", "MR")
    assert seen.high == (first.images[0].high[0], second.images[0].high[1])


def test_a_scope_comes_back_from_its_description_and_its_absence_leaves_no_field() -> None:
    spec = plugin(scope(image(modality="CT")))
    assert PluginSpec.from_dict(spec.to_dict()) == spec
    assert "scope" not in plugin(None).to_dict()


@pytest.mark.parametrize(("given", "kept"), [("ct ", "CT"), ("MR", "MR"), ("Doe^Jane", ""), ("", ""), ("M" * 40, "")])
def test_a_modality_is_a_code_and_nothing_else(given: str, kept: str) -> None:
    assert image(modality=given).modality == kept


def test_where_an_image_is_scaled_by_itself_its_units_are_no_reason() -> None:
    cut = PreprocessingSpec(intensity=IntensitySpec(kind="percentile"))
    assert remarks(plugin(scope(image()), cut=cut), image(factor=20)) == []


def test_padding_of_the_scanner_is_no_other_range_of_values() -> None:
    rng = np.random.default_rng(3)
    air = rng.normal(-990, 12, (12, 30, 40)).round()
    air[:, 8:22, 10:30] = rng.normal(40, 20, (12, 14, 20))
    padded = air.copy()
    padded[:, :2] = -3024
    spec = plugin(scope(Volume(air, np.eye(4))))
    assert remarks(spec, Volume(padded, np.eye(4))) == []


def test_what_a_plugin_says_of_itself_is_not_held_against_each_of_several_images() -> None:
    spec = plugin(None, modality="CT", sources=("ct", "pet"))
    assert remarks_on(spec, Study({"ct": image(modality="CT"), "pet": image(modality="PT")})) == []


def test_a_radiograph_is_one_by_either_code() -> None:
    assert remarks(plugin(None, modality="DX"), image(modality="CR")) == []


def test_of_studies_that_did_not_all_tell_their_modality_none_is_known() -> None:
    assert remarks(plugin(scope(image(modality="CT"), image())), image(modality="MR")) == []
