"""Volumes and segments of the scene in a dataset's folder: where they lie there, and what training makes of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import slicer
import studies
from ellipsoids import (
    CENTRE,
    VOLUME_SHAPE,
    VOLUME_TO_RAS,
    ellipsoid,
    oblique_volume,
    only_segment,
    overlap,
    placed,
    sampled,
    turn,
)  # fmt: skip
from hosting import Host, host  # noqa: F401
from worker_desk import LongestGap, spin

from AnyMC3DLib.errors import InputError
from AnyMC3DLib.training.dataset import Dataset

pytest.importorskip("SimpleITK")

GOOD = 0.95
SECRET = b"0" * 32


def add(dataset: Dataset, volume: Any, segment: Any = None, *, use: str = "mask", **named: Any) -> int:
    """Add a case, as the tab does, and wait for it."""
    from AnyMC3DUI.dataset_adding import Adding, Order, Segment
    from AnyMC3DUI.steps import Sequence

    chosen = Segment(segment, only_segment(segment), use) if segment is not None else None
    order = Order(volume, "image", {"label": "yes"}, chosen, **named)
    ends: list[Any] = []
    steps = Adding(dataset, secret=SECRET, progress=lambda far: None).case(order)
    Sequence(steps, done=ends.append, failed=ends.append, what="Adding").begin()
    spin(lambda: ends)
    if isinstance(ends[0], Exception):
        raise ends[0]
    return ends[0]


@pytest.fixture
def dataset(host: Host, tmp_path: Path) -> Dataset:  # noqa: F811
    found = Dataset()
    (tmp_path / "data").mkdir()
    found.save(tmp_path / "data" / "cases.csv")
    return found


# there and back


def plugin_spec(axis: str) -> Any:
    from AnyMC3DLib.spec import BackboneRef, ClassSpec, PluginSpec, PreprocessingSpec, ViewSpec

    return PluginSpec(
        name="Test", version="1", task_type="binary", classes=(ClassSpec(name="no"), ClassSpec(name="yes")),
        backbone=BackboneRef(id="test_vit"),
        views=(ViewSpec(name=axis, preprocessing=PreprocessingSpec(axis=axis, size=(160, 160))),),
    )  # fmt: skip


@pytest.mark.parametrize("axis", ["axial", "coronal"])
def test_a_mask_with_another_geometry_lies_on_the_slices_where_it_was_drawn(dataset: Dataset, axis: str) -> None:
    pytest.importorskip("torch")
    from AnyMC3DLib.preprocessing import preprocess
    from AnyMC3DLib.training.cases import read_cases
    from AnyMC3DLib.training.slices import cut_cases

    add(dataset, oblique_volume(), ellipsoid())
    dataset.save(dataset.path)
    spec = plugin_spec(axis)
    (case,) = cases = read_cases(dataset.path, spec)
    cut = cut_cases(cases, spec, with_masks=True)
    slices = preprocess(case.load().image("image"), spec.views[0].preprocessing)
    shares = cut.mask_of(0)[axis]
    assert cut.stacks[0][axis].shape[0] == shares.shape[0] >= 12
    assert overlap(shares > 0.5, slices.ijk_to_ras) > GOOD


def test_a_mask_with_another_geometry_is_no_problem_of_the_table(dataset: Dataset) -> None:
    from AnyMC3DLib.training.manifest_check import check_manifest

    add(dataset, oblique_volume(), ellipsoid())
    add(dataset, oblique_volume(seed=1), ellipsoid(VOLUME_TO_RAS[:3, :3] / 1.5, moved=False))
    dataset.save(dataset.path)
    kinds = {problem.kind for problem in check_manifest(dataset.path).problems}
    assert not kinds & {"overlap", "geometry", "image", "mask"}, check_manifest(dataset.path).problems


def test_a_case_that_is_loaded_again_lies_where_it_was_drawn(dataset: Dataset) -> None:
    from AnyMC3DUI.case_loader import load_case
    from AnyMC3DUI.handover import image_of, region_of

    volume = oblique_volume()
    voxels = image_of(volume).array.copy()
    key = add(dataset, volume, ellipsoid())
    slicer.mrmlScene.Clear(0)
    again, mask = load_case(slicer.mrmlScene, dataset, key)
    image = image_of(again)
    assert np.array_equal(image.array, voxels)
    assert np.allclose(image.ijk_to_ras, VOLUME_TO_RAS, atol=1e-4)
    labels = region_of(mask, again, segment=only_segment(mask))
    assert overlap(labels.array == labels.label, labels.ijk_to_ras) > GOOD
    assert [node.GetName() for node in (again, mask)] == ["case-001", "case-001 mask"]
    assert load_case(slicer.mrmlScene, dataset, key)[0] is again


@pytest.mark.parametrize("geometry", studies.GEOMETRIES)
def test_an_image_is_written_where_all_its_transforms_put_it(dataset: Dataset, geometry: str) -> None:
    from AnyMC3DLib.volume import read_volume

    volume = studies.add_volume(np.arange(np.prod(studies.SHAPE)).reshape(studies.SHAPE).astype(np.int16),
                                studies.GEOMETRIES[geometry]())  # fmt: skip
    volume.SetAndObserveTransformNodeID(studies.add_transform().GetID())
    key = add(dataset, volume)
    found = read_volume(dataset.image_path(key, "image"))
    assert np.array_equal(found.array, slicer.util.arrayFromVolume(volume))
    for ijk in ((0, 0, 0), (47, 0, 0), (5, 30, 11)):
        assert (found.ijk_to_ras @ (*ijk, 1))[:3] == pytest.approx(studies.world_of(volume, ijk), abs=1e-3)


# which grid a mask has


def test_a_parallel_mask_keeps_its_own_finer_voxels(dataset: Dataset) -> None:
    from AnyMC3DLib.volume import read_volume

    key = add(dataset, oblique_volume(), ellipsoid(VOLUME_TO_RAS[:3, :3] / 1.6, moved=False))
    mask = read_volume(dataset.mask_path(key, "image"))
    assert mask.spacing == pytest.approx([0.9 / 1.6, 0.5, 1.0], abs=1e-4)
    assert mask.array.dtype == np.uint8 and set(np.unique(mask.array)) == {0, 1}


def test_a_turned_mask_gets_axes_along_the_image_and_voxels_about_as_small_as_its_own(dataset: Dataset) -> None:
    from AnyMC3DLib.geometry import spacing_of
    from AnyMC3DLib.volume import read_volume

    key = add(dataset, oblique_volume(), ellipsoid())
    mask = read_volume(dataset.mask_path(key, "image"))
    cosines = (mask.ijk_to_ras[:3, :3] / mask.spacing).T @ (VOLUME_TO_RAS[:3, :3] / spacing_of(VOLUME_TO_RAS))
    assert np.allclose(cosines, np.eye(3), atol=1e-5)
    assert mask.spacing == pytest.approx([0.45, 0.4, 1.6 / 3], abs=1e-4)
    assert overlap(mask.array, mask.ijk_to_ras) > GOOD


def test_a_mask_of_the_images_size_that_lies_elsewhere_is_made_another_size() -> None:
    from AnyMC3DUI.mask_grid import mask_for

    labels, shifted = np.ones((8, 8, 8), dtype=np.uint8), placed(np.eye(3), (8, 8, 8), CENTRE + 2.3)
    mask = mask_for(labels, shifted, grid=(10, 10, 10), image_to_ras=placed(np.eye(3), (10, 10, 10)))
    assert mask.grid == (12, 12, 12) and mask.array.sum() == 512
    assert np.allclose(mask.ijk_to_ras[:3, 3], shifted[:3, 3] - 2)


def test_every_voxel_of_a_turned_mask_is_kept_at_the_nearest_place() -> None:
    from AnyMC3DUI.mask_grid import mask_for

    labels = np.zeros((5, 6, 7), dtype=np.uint8)
    labels[1:4, 2:5, 1:6] = 1
    own = placed(turn(37, 0) @ turn(11, 2) @ np.diag([2.0, 3.0, 4.0]), labels.shape)
    image = placed(np.diag([1.0, 1.0, 2.0]), (40, 60, 60))
    mask = mask_for(labels, own, grid=(40, 60, 60), image_to_ras=image)
    points = studies.positions(mask.grid, mask.ijk_to_ras).reshape(-1, 3)
    assert np.array_equal(mask.array.ravel(), sampled(labels, own, points))
    assert mask.array.sum() * np.prod(mask.spacing) == pytest.approx(labels.sum() * 24, rel=0.02)


def test_a_segment_beside_the_volume_is_refused_and_leaves_no_file(dataset: Dataset) -> None:
    volume, node = oblique_volume(), ellipsoid()
    node.SetAndObserveTransformNodeID(studies.add_transform(shift=(900, 0, 0)).GetID())
    with pytest.raises(InputError, match="outside the volume"):
        add(dataset, volume, node)
    assert not list(dataset.folder.rglob("*.nrrd")) and len(dataset) == 0


def test_a_region_is_told_in_words_that_the_engine_reads(dataset: Dataset) -> None:
    from AnyMC3DLib.regions import read_region

    key = add(dataset, oblique_volume(), ellipsoid(), use="region")
    words = dataset.cell(key, "image_region")
    assert words == "regions/case-001.nrrd:1"
    region = read_region(words, folder=dataset.folder)
    assert region.label == 1 and overlap(region.mask.array == 1, region.mask.ijk_to_ras) > GOOD


def test_one_of_two_segments_is_written_alone(dataset: Dataset) -> None:
    from AnyMC3DLib.volume import read_volume

    volume, node = oblique_volume(), slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode")
    node.SetReferenceImageGeometryParameterFromVolumeNode(volume)
    for number, name in enumerate(("first", "second")):
        node.GetSegmentation().AddEmptySegment(name, name)
        labels = np.zeros(VOLUME_SHAPE, dtype=np.uint8)
        labels[10 + 20 * number : 20 + 20 * number, 30:40, 30:40] = 1
        slicer.util.updateSegmentBinaryLabelmapFromArray(labels, node, name, volume)
    key = add(dataset, volume, node)
    assert read_volume(dataset.mask_path(key, "image")).array.sum() == 1000


# names


def test_no_name_of_a_patient_reaches_the_table_the_files_or_their_headers(dataset: Dataset) -> None:
    add(dataset, oblique_volume(), ellipsoid())
    add(dataset, oblique_volume(seed=1), ellipsoid(), use="region")
    dataset.save(dataset.path)
    for file in (path for path in dataset.folder.rglob("*") if path.is_file()):
        assert "DOE" not in str(file.relative_to(dataset.folder))
        assert b"DOE" not in file.read_bytes().partition(b"\n\n")[0]


def test_files_that_a_removed_row_left_are_not_taken_for_those_of_another_case(dataset: Dataset) -> None:
    first = add(dataset, oblique_volume())
    left = dataset.image_path(first, "image").read_bytes()
    dataset.remove([first])
    second = add(dataset, oblique_volume(seed=1))
    assert dataset.cell(second, "case") == "case-002"
    assert (dataset.folder / "images" / "case-001.nrrd").read_bytes() == left


def test_a_case_with_a_name_that_is_no_file_name_gets_a_file_all_the_same(dataset: Dataset) -> None:
    key = dataset.add(case="../Ä: 7/8", label="no")
    add(dataset, oblique_volume(), key=key)
    assert dataset.cell(key, "image") == "images/7-8.nrrd"


# what goes on meanwhile


def large(host: Host) -> Any:  # noqa: F811
    array = np.random.default_rng(0).integers(-1000, 2000, (100, 512, 512), dtype=np.int16)
    return studies.add_volume(array, np.diag([0.7, 0.7, 1.0, 1.0]))


def test_the_application_goes_on_while_a_large_volume_is_stored(dataset: Dataset, host: Host) -> None:  # noqa: F811
    volume, gap = large(host), LongestGap()
    add(dataset, oblique_volume())
    gap.start()
    add(dataset, volume)
    gap.stop()
    assert gap.busy < 0.1


def test_what_is_written_is_a_copy_of_the_scenes_memory_made_in_small_pieces() -> None:
    from AnyMC3DUI.dataset_store import PIECE_BYTES, copied

    array = np.arange(8 << 20, dtype=np.int16).reshape(64, 512, 256)
    before, shares = array.copy(), []
    pieces = copied(array)
    with pytest.raises(StopIteration) as end:
        while True:
            shares.append(next(pieces))
    array[:] = 0
    assert np.array_equal(end.value.value, before)
    assert len(shares) == array.nbytes // PIECE_BYTES and shares[-1] == 1


def steps_of(dataset: Dataset, volume: Any) -> tuple[Any, list[Any]]:
    from AnyMC3DUI.dataset_adding import Adding, Order
    from AnyMC3DUI.steps import Sequence

    ends: list[Any] = []
    steps = Adding(dataset, secret=SECRET, progress=lambda far: None).case(Order(volume, "image", {"label": "no"}))
    return Sequence(steps, done=ends.append, failed=ends.append, what="Adding"), ends


@pytest.mark.parametrize("reached", ["copying", "writing"])
def test_storing_that_is_cancelled_leaves_neither_file_nor_row(
    dataset: Dataset,
    host: Host,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    reached: str,
) -> None:
    import threading

    from AnyMC3DLib import volume as library

    begun, release = threading.Event(), threading.Event()
    plain: Callable[..., None] = library.write_volume

    def held(*arguments: Any) -> None:
        begun.set()
        release.wait(20)
        plain(*arguments)

    monkeypatch.setattr(library, "write_volume", held)
    sequence, ends = steps_of(dataset, large(host))
    sequence.begin()
    spin((lambda: True) if reached == "copying" else begun.is_set)
    sequence.cancel()
    release.set()
    for thread in threading.enumerate():
        if thread.name == "AnyMC3D":
            thread.join(60)
    assert ends == [] and len(dataset) == 0 and not list(dataset.folder.rglob("*.nrrd"))


def test_a_folder_that_cannot_be_written_is_told_in_a_sentence(dataset: Dataset) -> None:
    (dataset.folder / "images").write_text("in the way")
    with pytest.raises(InputError, match="cannot be made"):
        add(dataset, oblique_volume())
    assert len(dataset) == 0


def test_a_volume_under_a_transform_that_bends_is_refused(dataset: Dataset) -> None:
    volume = oblique_volume()
    volume.SetAndObserveTransformNodeID(studies.add_bend().GetID())
    with pytest.raises(InputError, match="not linear"):
        add(dataset, volume)
