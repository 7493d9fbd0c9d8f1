"""What the header of an image tells, whether a mask lies on its image, and which files hold the same."""

from __future__ import annotations

import gzip
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from volumes import (
    HEADERS,
    ORIGIN,
    SPACING,
    anatomy,
    in_every_order,
    rotation,
    straight,
    study,
    tilted,
    write_dicom_series,
)

from AnyMC3DLib.errors import InputError
from AnyMC3DLib.training import manifest_headers
from AnyMC3DLib.training.manifest_headers import Header, misfit, read_header, same_contents
from AnyMC3DLib.volume import Volume, read_volume, write_volume


def header_of(volume: Volume) -> Header:
    return Header(volume.grid, volume.ijk_to_ras)


def refuse_to_read(place: Path) -> Volume:
    raise AssertionError(f"the voxels of '{place.name}' were read")


# Reading


@pytest.mark.parametrize(
    ("name", "header"),
    [
        (name, header)
        for header in HEADERS
        for name in ("x.nii", "x.nii.gz", "x.nrrd", "x.mha", "series")
        if ".nii" not in name or "tilt" not in header  # which NIfTI cannot hold
    ],
)
def test_a_header_tells_the_geometry_that_reading_the_image_gives(tmp_path: Path, name: str, header: str) -> None:
    volume = study(header)
    if name == "series":
        write_dicom_series(tmp_path / name, volume)
    else:
        write_volume(tmp_path / name, volume)
    expected = read_volume(tmp_path / name)
    found = read_header(tmp_path / name)
    assert found.grid == expected.grid
    np.testing.assert_allclose(found.ijk_to_ras, expected.ijk_to_ras, atol=1e-9)
    np.testing.assert_allclose(found.corners, expected.corners(), atol=1e-9)


@pytest.mark.parametrize("name", ["x.nii", "x.nii.gz", "x.nrrd", "series", "colour.nii.gz", "colour.nrrd", "flat.nii"])
def test_the_voxels_of_common_files_are_not_read(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    colour = np.zeros((1, 5, 6, 3), np.uint8)
    array = colour if name.startswith("colour") else anatomy((4, 5, 6)).astype(np.int16)
    volume = Volume(array[:1] if name.startswith("flat") else array, straight())
    if name == "series":
        write_dicom_series(tmp_path / name, volume)
    else:
        write_volume(tmp_path / name, volume)
    monkeypatch.setattr(manifest_headers, "read_volume", refuse_to_read)
    assert read_header(tmp_path / name).grid == volume.grid


def a_text(place: Path) -> Path:
    (place / "x.nrrd").write_text("no image")
    return place / "x.nrrd"


def cut_short(name: str) -> Callable[[Path], Path]:
    def make(place: Path) -> Path:
        write_volume(place / name, study())
        content = (place / name).read_bytes()
        (place / name).write_bytes(content[: len(content) * 3 // 4])
        return place / name

    return make


def unpacked_but_called_packed(place: Path) -> Path:
    write_volume(place / "x.nii", study())
    return (place / "x.nii").rename(place / "x.nii.gz")


def sheared_beside_a_straight_form(place: Path) -> Path:
    write_volume(place / "x.nii", study())
    content = bytearray((place / "x.nii").read_bytes())
    content[280:328] = tilted(straight())[:3].astype("<f4").tobytes()  # the sform; the qform stays
    (place / "x.nii").write_bytes(content)
    return place / "x.nii"


def of_four_dimensions(place: Path) -> Path:
    sitk.WriteImage(sitk.JoinSeries([sitk.Image(4, 4, 4, sitk.sitkUInt8)] * 3), str(place / "x.nii.gz"))
    return place / "x.nii.gz"


def a_colour_volume(place: Path) -> Path:
    sitk.WriteImage(sitk.Image([4, 4, 4], sitk.sitkVectorUInt8, 3), str(place / "x.nii.gz"))
    return place / "x.nii.gz"


def of_complex_numbers(place: Path) -> Path:
    sitk.WriteImage(sitk.Image([4, 4, 4], sitk.sitkComplexFloat32), str(place / "x.nii.gz"))
    return place / "x.nii.gz"


def a_series_with_a_gap(place: Path) -> Path:
    write_dicom_series(place / "series", study(), without=[4])
    return place / "series"


def two_series(place: Path) -> Path:
    write_dicom_series(place / "series", study())
    write_dicom_series(place / "series", study(), series="1.2.3.4", names=[f"z{n}.dcm" for n in range(13)])
    return place / "series"


def a_series_with_a_slice_cut_short(place: Path) -> Path:
    write_dicom_series(place / "series", study())
    file = place / "series" / "003.dcm"
    file.write_bytes(file.read_bytes()[:-200])
    return place / "series"


def an_empty_folder(place: Path) -> Path:
    (place / "series").mkdir()
    return place / "series"


@pytest.mark.parametrize(
    "make",
    [
        a_text, *map(cut_short, ("x.nii", "x.nii.gz", "x.nrrd", "x.mha")), unpacked_but_called_packed,
        sheared_beside_a_straight_form, of_four_dimensions, a_colour_volume, of_complex_numbers,
        a_series_with_a_gap, two_series, a_series_with_a_slice_cut_short, an_empty_folder,
        lambda place: place / "nothing.nii",
    ],
    ids=[
        "text", "short NIfTI", "short packed NIfTI", "short NRRD", "short MetaImage", "unpacked", "shear",
        "four dimensions", "colour volume", "complex", "gap", "two series", "short slice", "empty folder", "nothing",
    ],
)  # fmt: skip
def test_what_cannot_be_read_as_an_image_is_refused_in_the_same_words(
    tmp_path: Path, make: Callable[[Path], Path]
) -> None:
    place = make(tmp_path)
    with pytest.raises(InputError) as expected:
        read_volume(place)
    with pytest.raises(InputError) as found:
        read_header(place)
    assert str(found.value) == str(expected.value)


# Masks


def test_a_mask_of_the_same_size_needs_the_geometry_of_its_image() -> None:
    image = study("oblique")
    assert misfit(header_of(image), header_of(image)) is None
    rounded = image.ijk_to_ras.astype(np.float16).astype(float)
    rounded[:3, 3] = image.ijk_to_ras[:3, 3] + 0.004
    rounded[:3, :3] = image.ijk_to_ras[:3, :3]
    assert misfit(header_of(image), Header(image.grid, rounded)) is None
    shifted = image.ijk_to_ras.copy()
    shifted[0, 3] += 2
    kind, words = misfit(header_of(image), Header(image.grid, shifted)) or ("", "")
    assert (kind, words) == ("geometry", "has the size of the image but lies up to 2.00 mm away from it")
    for other in (image.ijk_to_ras * [1.5, 1, 1, 1], image.ijk_to_ras @ rotation(about_s=5)):
        assert (misfit(header_of(image), Header(image.grid, other)) or [""])[0] == "geometry"


def test_a_mask_of_another_size_needs_only_parallel_axes_and_a_field_in_common() -> None:
    image = study("oblique")
    fine = image.ijk_to_ras @ np.diag([0.5, 0.5, 0.5, 1])
    assert misfit(header_of(image), Header((20, 20, 20), fine)) is None
    turned = image.ijk_to_ras @ rotation(about_s=20)
    found = misfit(header_of(image), Header((20, 20, 20), turned))
    assert found is not None
    assert found[0] == "geometry"
    away = straight(origin=(500, 0, 0))
    assert misfit(header_of(image), Header((20, 20, 20), away)) == ("overlap", "lies wholly outside the image")


def test_a_mask_may_be_stored_in_any_order_of_axes() -> None:
    image = study("oblique")
    for other in in_every_order(image):
        if other.grid != image.grid:
            assert misfit(header_of(image), header_of(other)) is None


def test_a_mask_of_the_same_size_beside_its_image_is_said_not_to_overlap() -> None:
    image = study()
    beside = straight(origin=(ORIGIN[0] + 17 * SPACING[0], *ORIGIN[1:]))
    assert (misfit(header_of(image), Header(image.grid, beside)) or [""])[0] == "overlap"


# Contents


def image(place: Path, name: str, *, seed: int, shape: tuple[int, int, int] = (4, 5, 6)) -> None:
    array = np.random.default_rng(seed).integers(0, 255, shape).astype(np.uint8)
    write_volume(place / name, Volume(array, straight()))


def test_only_files_of_one_length_and_checksum_are_read_for_copies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    whole = manifest_headers._digest_of_file
    monkeypatch.setattr(manifest_headers, "_digest_of_file", lambda file: read.append(file.name) or whole(file))
    for seed, name in enumerate(("a.nii.gz", "b.nii.gz", "c.nii", "d.nrrd")):
        image(tmp_path, name, seed=seed)
    image(tmp_path, "e.nii", seed=9, shape=(9, 9, 9))
    shutil.copy(tmp_path / "e.nii", tmp_path / "f.nii")
    same = same_contents(list(tmp_path.iterdir()))
    assert sorted(place.name for place in same) == sorted(read) == ["e.nii", "f.nii"]


def test_a_series_is_the_same_under_other_file_names_and_a_header_is_not_its_voxels(tmp_path: Path) -> None:
    small = Volume(anatomy((9, 4, 5)), straight())
    write_dicom_series(tmp_path / "a", small)
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    for number, file in enumerate(sorted((tmp_path / "b").iterdir(), reverse=True)):
        file.rename(tmp_path / "b" / f"z{number}.dcm")
    for n in (1, 2):
        (tmp_path / str(n)).mkdir()
        flat = sitk.GetImageFromArray(np.full((3, 3, 3), n, np.uint8))
        sitk.WriteImage(flat, str(tmp_path / str(n) / "x.mhd"))
    same = same_contents([tmp_path / "a", tmp_path / "b", tmp_path / "1/x.mhd", tmp_path / "2/x.mhd"])
    assert set(same) == {tmp_path / "a", tmp_path / "b"}


def test_a_damaged_copy_is_a_copy_and_a_file_too_short_to_be_packed_is_read_as_it_is(tmp_path: Path) -> None:
    image(tmp_path, "a.nii.gz", seed=0)
    content = bytearray((tmp_path / "a.nii.gz").read_bytes())
    content[40] ^= 0xFF
    for name in ("b.nii.gz", "c.nii.gz"):
        (tmp_path / name).write_bytes(content)
    for name in ("d.nii.gz", "e.nii.gz"):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "f.nii.gz").write_bytes(gzip.compress(b""))
    same = same_contents(list(tmp_path.iterdir()))
    assert sorted(place.name for place in same) == ["b.nii.gz", "c.nii.gz", "d.nii.gz", "e.nii.gz"]
