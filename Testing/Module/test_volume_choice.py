"""Which volume each source of a plugin is given by itself: by name, by what is open, by where it lies."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import slicer
import vtk
from AnyMC3DUI.handover import heat_node
from AnyMC3DUI.volume_choice import candidates, choose, open_volume
from hosting import Host, host  # noqa: F401

SHAPE = (6, 8, 10)
STEP = 2.0  # mm from voxel to voxel
WIDTH = SHAPE[2] * STEP
FAR = (1000.0, 0.0, 0.0)


def volume(name: str, *, at: tuple[float, float, float] = (0, 0, 0)) -> Any:
    """A volume whose first voxel is at a place in RAS."""
    affine = np.diag([STEP, STEP, STEP, 1.0])
    affine[:3, 3] = at
    return slicer.util.addVolumeFromArray(np.zeros(SHAPE, dtype=np.int16), ijkToRAS=affine, name=name)


def opened(node: Any) -> Any:
    """A slice view shows it."""
    slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSliceCompositeNode").SetBackgroundVolumeID(node.GetID())
    return node


def heat_over(node: Any, name: str = "lesion heat") -> Any:
    return heat_node(slicer.mrmlScene, np.zeros(SHAPE, dtype=np.float32), like=node, name=name)


def chosen(*sources: str, **given: Any) -> dict[str, Any]:
    return choose(sources, slicer.mrmlScene, **given)


# by place


def test_the_volume_that_shares_the_place_of_the_others_is_taken_for_the_source_without_a_name(host: Host) -> None:  # noqa: F811
    first, _, near = volume("T1"), volume("another patient", at=FAR), volume("another series", at=(5, 5, 5))
    assert chosen("t1", "flair") == {"t1": first, "flair": near}


def test_a_volume_of_another_place_is_taken_for_no_source(host: Host) -> None:  # noqa: F811
    first, _ = volume("T1"), volume("another patient", at=FAR)
    assert chosen("t1", "flair") == {"t1": first}


@pytest.mark.parametrize("axis", range(3))
@pytest.mark.parametrize("direction", [-1, 1])
def test_boxes_apart_along_any_one_direction_share_no_place(host: Host, axis: int, direction: int) -> None:  # noqa: F811
    first = volume("T1")
    place = [0.0, 0.0, 0.0]
    place[axis] = direction * (WIDTH + 1)
    volume("beside", at=tuple(place))
    assert chosen("t1", "flair") == {"t1": first}


def test_volumes_that_only_touch_share_no_place_and_those_that_cross_by_a_voxel_do(host: Host) -> None:  # noqa: F811
    first, beside = volume("T1"), volume("beside", at=(WIDTH, 0, 0))
    assert chosen("t1", "flair") == {"t1": first}
    beside.SetOrigin(WIDTH - STEP, 0, 0)
    assert chosen("t1", "flair") == {"t1": first, "flair": beside}


def test_a_transform_decides_where_a_volume_lies(host: Host) -> None:  # noqa: F811
    first, other = volume("T1"), volume("another series", at=FAR)
    moved = vtk.vtkTransform()
    moved.Translate(*(-value for value in FAR))
    transform = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
    transform.SetMatrixTransformToParent(moved.GetMatrix())
    assert chosen("t1", "flair") == {"t1": first}
    other.SetAndObserveTransformNodeID(transform.GetID())
    assert chosen("t1", "flair") == {"t1": first, "flair": other}


def test_a_volume_must_share_the_place_of_every_other_of_the_study(host: Host) -> None:  # noqa: F811
    first, second = volume("T1"), volume("T2", at=(WIDTH - STEP, 0, 0))
    volume("near the first alone", at=(-WIDTH / 2, 0, 0))
    assert chosen("t1", "t2", "flair") == {"t1": first, "t2": second}


def test_of_two_that_share_the_place_none_is_guessed(host: Host) -> None:  # noqa: F811
    first, _, _ = volume("T1"), volume("one"), volume("two")
    assert chosen("t1", "flair") == {"t1": first}


# by name


def test_a_name_says_more_than_a_place(host: Host) -> None:  # noqa: F811
    first, named, _ = volume("T1"), volume("FLAIR", at=FAR), volume("near", at=(5, 5, 5))
    assert chosen("t1", "flair") == {"t1": first, "flair": named}


def test_a_name_says_more_than_what_is_open(host: Host) -> None:  # noqa: F811
    named = volume("SAG FLAIR")
    opened(volume("AX T2"))
    assert chosen("flair") == {"flair": named}


@pytest.mark.parametrize(
    ("source", "name"),
    [("t1_post", "AX T1 POST GD"), ("t1_post", "t1post"), ("flair", "T2FLAIR_3D"), ("ct", "CT 5 mm"), ("t2", "Ax_T2w")],
)
def test_all_words_of_the_source_are_looked_for_in_the_name_of_the_series(host: Host, source: str, name: str) -> None:  # noqa: F811
    named, _, _ = volume(name), volume("one"), volume("two")
    assert chosen(source, "pet") == {source: named}


@pytest.mark.parametrize(("source", "name"), [("t1_post", "T1 PRE"), ("t1", "T10"), ("ct", "ACTIVE"), ("t2", "T1")])
def test_a_series_without_one_of_the_words_has_not_that_name(host: Host, source: str, name: str) -> None:  # noqa: F811
    volume(name), volume("one"), volume("two")
    assert chosen(source, "pet") == {}


# by what is open


def test_the_open_volume_is_preferred_to_the_first_and_the_newest(host: Host) -> None:  # noqa: F811
    volume("first")
    middle = opened(volume("middle"))
    volume("newest")
    assert chosen("image") == {"image": middle}


def test_among_those_with_the_name_the_open_one_is_preferred(host: Host) -> None:  # noqa: F811
    volume("FLAIR 1")
    middle = opened(volume("FLAIR 2"))
    volume("FLAIR 3")
    assert chosen("flair", "t1") == {"flair": middle}


def test_where_nothing_is_open_the_newest_is_taken(host: Host) -> None:  # noqa: F811
    volume("first")
    newest = volume("newest")
    assert chosen("image") == {"image": newest}


# what is no image


def test_heat_and_what_is_hidden_are_never_taken_whatever_they_are_called(host: Host) -> None:  # noqa: F811
    image, hidden = volume("CT"), volume("image")
    heat = opened(heat_over(image, name="image"))
    hidden.SetHideFromEditors(True)
    assert candidates(slicer.mrmlScene) == [image]
    assert open_volume(slicer.mrmlScene) is image
    assert chosen("image") == {"image": image}
    assert chosen("image", "heat") == {"image": image}
    slicer.mrmlScene.RemoveNode(image)
    assert heat.GetScene() is not None
    assert chosen("image") == {}


# one volume, one source


@pytest.mark.parametrize(
    "names",
    [("T1 POST",), ("T1 POST", "T1 POST"), ("T1 POST", "other"), ("T1", "T1 POST", "T1 POST FLAIR"), ("image",)],
)
@pytest.mark.parametrize("sources", [("t1_post", "t1", "flair"), ("t1", "image")])
def test_two_sources_never_get_one_volume(host: Host, names: tuple[str, ...], sources: tuple[str, ...]) -> None:  # noqa: F811
    made = [volume(name) for name in names]
    opened(made[0])
    given = chosen(*sources)
    assert given
    assert len({node.GetID() for node in given.values()}) == len(given)


def test_what_a_person_chose_stays_and_goes_to_no_other_source(host: Host) -> None:  # noqa: F811
    first, flair = volume("T1"), opened(volume("FLAIR"))
    assert chosen("t1", "flair", chosen={"t1": flair}) == {"t1": flair, "flair": first}
    assert chosen("t1", chosen={"pet": first, "t1": None}) == {"t1": first}
