"""The description of a plugin: complete through JSON, and refused with one sentence where it cannot be meant."""

from __future__ import annotations

import json
from typing import Any

import pytest

from AnyMC3DLib.errors import AnyMC3DError, InputError, PluginError
from AnyMC3DLib.spec import (
    CT_WINDOWS,
    BackboneRef,
    ClassSpec,
    FusionSpec,
    HeadSpec,
    IntensitySpec,
    LoRASpec,
    PluginSpec,
    PreprocessingSpec,
    RegionSpec,
    SliceSpec,
    ViewSpec,
)


def full_spec() -> PluginSpec:
    """A plugin with every field away from its default."""
    preprocessing = PreprocessingSpec(
        axis="coronal",
        region=RegionSpec(kind="foreground", margin_mm=3.5, threshold=-200.0),
        size=(96, 128),
        spacing_mm=0.75,
        multiple_of=14,
        intensity=IntensitySpec(kind="window", windows=("lung", (40.0, 80.0), "bone"), clip=2.5, foreground=True),
        slices=SliceSpec(policy="at_most", count=24, sampling="linear"),
        mean=(0.4, 0.5, 0.6),
        std=(0.2, 0.25, 0.3),
    )
    return PluginSpec(
        name="Adrenal hyperplasia",
        task_type="multiclass",
        classes=(ClassSpec(name="normal"), ClassSpec(name="mild", threshold=0.3), ClassSpec(name="severe")),
        backbone=BackboneRef(id="dinov2-s", digest="ab12"),
        views=(ViewSpec(name="coronal", source="T1", preprocessing=preprocessing), ViewSpec(name="axial")),
        version="3.1",
        description="d",
        anatomy="adrenal",
        modality="CT",
        licence="CC BY 4.0",
        intended_use="research",
        lora=LoRASpec(rank=4, alpha=9.0, targets=("qkv",), last_blocks=6),
        fusion=FusionSpec(kind="median", views="mean"),
        head=HeadSpec(dropout=0.2, standardise=True),
        temperature=1.7,
        members=5,
        provenance={"seed": 3, "metrics": {"auc": [0.9, 0.85, 0.95]}},
    )


def minimal(**changes: Any) -> dict[str, Any]:
    """The JSON of the smallest plugin, with changes."""
    data = {
        "name": "p",
        "task_type": "binary",
        "classes": [{"name": "no"}, {"name": "yes"}],
        "backbone": {"id": "b"},
        "views": [{"name": "v"}],
    }
    return {**data, **changes}


def view(**preprocessing: Any) -> list[dict[str, Any]]:
    return [{"name": "v", "preprocessing": preprocessing}]


def test_a_plugin_with_every_field_set_comes_back_equal_through_json() -> None:
    spec = full_spec()
    assert PluginSpec.from_dict(json.loads(json.dumps(spec.to_dict(), allow_nan=False))) == spec


def test_the_smallest_plugin_takes_the_defaults() -> None:
    spec = PluginSpec.from_dict(minimal())
    assert spec.format_version == 1
    assert spec.views[0].preprocessing == PreprocessingSpec()
    assert spec.lora == LoRASpec()


def test_fields_of_a_later_program_survive_at_every_depth() -> None:
    data = minimal(note="n", views=view(axis="axial", region={"kind": "whole", "shape": "round"}))
    written = PluginSpec.from_dict(data).to_dict()
    assert written["note"] == "n"
    assert written["views"][0]["preprocessing"]["region"]["shape"] == "round"


@pytest.mark.parametrize("version", [0, 2, 99])
def test_another_format_version_is_refused_with_the_advice_to_update(version: int) -> None:
    with pytest.raises(PluginError, match=f"format version {version}.*update"):
        PluginSpec.from_dict(minimal(format_version=version))


def test_a_later_format_version_is_told_even_if_other_fields_have_changed_their_meaning() -> None:
    with pytest.raises(PluginError, match=r"format version 2.*update"):
        PluginSpec.from_dict({"format_version": 2, "task_type": "regression", "views": {"v": {}}})


WRONG = {
    "size of a text": (minimal(views=view(size="224")), "views[0].preprocessing.size must be a list"),
    "size of three": (minimal(views=view(size=[1, 2, 3])), "views[0].preprocessing.size must have 2 values"),
    "size with a fraction": (minimal(views=view(size=[224, 22.4])), "views[0].preprocessing.size[1] must be a whole"),
    "unknown axis": (minimal(views=view(axis="oblique")), "views[0].preprocessing.axis must be one of axial, coronal"),
    "unknown region": (minimal(views=view(region={"kind": "x"})), "views[0].preprocessing.region.kind must be one of"),
    "NaN window": (
        minimal(views=view(intensity={"kind": "window", "windows": [[float("nan"), 1]]})),
        "views[0].preprocessing.intensity.windows[0][0] must be a finite number",
    ),
    "no views field": ({k: v for k, v in minimal().items() if k != "views"}, "lacks the field 'views'"),
    "no id of the backbone": (minimal(backbone={}), "backbone lacks the field 'id'"),
    "unknown task": (minimal(task_type="regression"), "task_type must be one of binary, multiclass, multilabel"),
    "version as text": (minimal(format_version="1"), "format_version must be a whole number"),
    "no view": (minimal(views=[]), "'p' has no view"),
    "no name": (minimal(name="  "), "needs a name"),
    "one class": (minimal(classes=[{"name": "a"}]), "binary plugin needs more classes than 1"),
    "three binary classes": (minimal(classes=[{"name": n} for n in "abc"]), "two classes, negative and positive"),
    "one of multiclass": (minimal(task_type="multiclass", classes=[{"name": "a"}]), "needs more classes than 1"),
    "none of multilabel": (minimal(task_type="multilabel", classes=[]), "needs more classes than 0"),
    "a class twice": (minimal(classes=[{"name": "a"}, {"name": "a"}]), "names a class twice: a, a"),
    "a view twice": (minimal(views=[{"name": "v"}, {"name": "v"}]), "names a view twice: v, v"),
    "temperature 0": (minimal(temperature=0), "temperature above 0"),
    "no member": (minimal(members=0), "at least one member"),
    "threshold past 1": (minimal(classes=[{"name": "a"}, {"name": "b", "threshold": 1.2}]), "threshold of class 'b'"),
    "rank below 0": (minimal(lora={"rank": -1}), "LoRA rank must lie within 0 to 512, but is -1"),
    "no last block": (minimal(lora={"last_blocks": 0}), "last_blocks must be at least 1"),
    "dropout 1": (minimal(head={"dropout": 1}), "dropout must lie within 0 to 1"),
    "centre without size": (minimal(views=view(region={"kind": "centre"})), "needs size_mm if, and only if"),
    "size without centre": (minimal(views=view(region={"size_mm": [1, 1, 1]})), "needs size_mm if, and only if"),
    "flat centre": (minimal(views=view(region={"kind": "centre", "size_mm": [1, 0, 1]})), "size_mm must be above 0"),
    "negative margin": (minimal(views=view(region={"kind": "box", "margin_mm": -1})), "margin_mm must not be below 0"),
    "no window": (minimal(views=view(intensity={"kind": "window"})), "one or three windows, but has 0"),
    "two windows": (
        minimal(views=view(intensity={"kind": "window", "windows": ["lung", "bone"]})),
        "one or three windows, but has 2",
    ),
    "unknown window": (minimal(views=view(intensity={"kind": "window", "windows": ["knee"]})), "no window 'knee'"),
    "window of no width": (
        minimal(views=view(intensity={"kind": "window", "windows": [[40, 0]]})),
        "width must be above 0",
    ),
    "percentiles fall": (minimal(views=view(intensity={"percentiles": [90, 10]})), "must rise within 0 to 100"),
    "clip 0": (minimal(views=view(intensity={"kind": "zscore", "clip": 0})), "clip of a z-score must be above 0"),
    "at most what": (minimal(views=view(slices={"policy": "at_most"})), "count of at least 1 if, and only if"),
    "count unasked": (minimal(views=view(slices={"count": 3})), "count of at least 1 if, and only if"),
    "thickness of what": (minimal(views=view(slices={"policy": "thickness"})), "thickness_mm if, and only if"),
    "thickness 0": (
        minimal(views=view(slices={"policy": "thickness", "thickness_mm": 0})),
        "thickness_mm must be above 0",
    ),
    "tiny size": (minimal(views=view(size=[4, 224])), "within 8 to 4096 pixels, but is [4, 224]"),
    "spacing 0": (minimal(views=view(spacing_mm=0)), "spacing_mm must be above 0"),
    "multiple of 0": (minimal(views=view(multiple_of=0)), "multiple_of must be at least 1"),
    "std 0": (minimal(views=view(std=[1, 0, 1])), "std must be above 0"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_spec_that_cannot_be_meant_is_refused_in_one_sentence(case: str) -> None:
    data, expected = WRONG[case]
    with pytest.raises(InputError) as caught:
        PluginSpec.from_dict(data)
    assert expected in str(caught.value)
    assert str(caught.value).endswith(".")


def test_every_refusal_can_be_shown_to_a_user() -> None:
    assert issubclass(InputError, AnyMC3DError)
    assert issubclass(PluginError, AnyMC3DError)


@pytest.mark.parametrize(
    ("task_type", "logits", "explained"),
    [("binary", 1, ("b",)), ("multiclass", 2, ("a", "b")), ("multilabel", 2, ("a", "b"))],
)
def test_a_binary_task_has_one_logit_that_of_its_positive_class(task_type, logits, explained) -> None:
    spec = PluginSpec.from_dict(minimal(task_type=task_type, classes=[{"name": "a"}, {"name": "b"}]))
    assert (spec.logits, spec.explained) == (logits, explained)


def test_sources_are_named_once_in_the_order_of_the_views() -> None:
    views = [{"name": n, "source": s} for n, s in (("1", "T2"), ("2", "T1"), ("3", "T2"))]
    assert PluginSpec.from_dict(minimal(views=views)).sources == ("T2", "T1")


def test_windows_are_resolved_by_name_or_taken_as_given() -> None:
    spec = IntensitySpec(kind="window", windows=("lung", (10.0, 20.0), "brain"))
    assert spec.resolved_windows() == (CT_WINDOWS["lung"], (10.0, 20.0), CT_WINDOWS["brain"])
