"""A DICOM folder: positions of the slices are taken as they are, and a series with gaps is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from volumes import HEADERS, study, write_dicom_series

from AnyMC3DLib.errors import InputError
from AnyMC3DLib.geometry import is_sheared
from AnyMC3DLib.volume import Volume, read_volume

sitk.ProcessObject.SetGlobalWarningDisplay(False)
SHUFFLED = [f"{number:04d}" for number in np.random.default_rng(5).permutation(13)]


def ct(header: str = "straight") -> Volume:
    volume = study(header)
    return Volume(volume.array.round().astype(np.int16), volume.ijk_to_ras)


def refusal(folder: Path) -> str:
    with pytest.raises(InputError) as caught:
        read_volume(folder)
    assert "Doe" not in str(caught.value)
    assert str(caught.value).endswith(".")
    return str(caught.value)


@pytest.mark.parametrize("header", HEADERS)
def test_a_series_lies_where_its_positions_say_whatever_its_files_are_called(tmp_path: Path, header: str) -> None:
    source = ct(header)
    write_dicom_series(tmp_path / "series", source, names=SHUFFLED)
    volume = read_volume(tmp_path / "series")
    assert np.array_equal(volume.array, source.array)
    np.testing.assert_allclose(volume.ijk_to_ras, source.ijk_to_ras, atol=1e-5)
    assert is_sheared(volume.ijk_to_ras) == ("tilt" in header)
    assert volume.name == "'series'"


def test_slices_stored_from_head_to_foot_are_the_same_anatomy(tmp_path: Path) -> None:
    source = ct("oblique")
    downwards = np.diag([1.0, 1.0, -1.0, 1.0])
    downwards[2, 3] = source.grid[0] - 1
    write_dicom_series(tmp_path, Volume(source.array[::-1], source.ijk_to_ras @ downwards))
    volume = read_volume(tmp_path)
    assert np.array_equal(volume.array, source.array)
    np.testing.assert_allclose(volume.ijk_to_ras, source.ijk_to_ras, atol=1e-5)


@pytest.mark.parametrize("without", [(4,), (11,), (3, 4, 5), (1, 7)])
def test_a_missing_slice_is_refused(tmp_path: Path, without: tuple[int, ...]) -> None:
    write_dicom_series(tmp_path, ct(), without=without)
    assert "are not evenly spaced (2.20 to " in refusal(tmp_path)


def test_every_second_slice_left_out_is_an_even_series(tmp_path: Path) -> None:
    source = ct()
    write_dicom_series(tmp_path, source, without=range(1, 13, 2))
    volume = read_volume(tmp_path)
    assert np.array_equal(volume.array, source.array[::2])
    assert volume.spacing[2] == pytest.approx(4.4)


def test_a_slice_twice_is_refused(tmp_path: Path) -> None:
    write_dicom_series(tmp_path, ct())
    (tmp_path / "again.dcm").write_bytes((tmp_path / "004.dcm").read_bytes())
    assert "some are missing or come twice" in refusal(tmp_path)


@pytest.mark.parametrize("nudge", [(0, 0, 0.3), (0, 0.6, 0), (0.6, 0, 0)])
def test_a_slice_out_of_line_is_refused(tmp_path: Path, nudge: tuple[float, float, float]) -> None:
    write_dicom_series(tmp_path, ct(), nudge=nudge)
    assert "are not evenly spaced" in refusal(tmp_path)


def test_the_rounding_of_positions_is_no_gap(tmp_path: Path) -> None:
    write_dicom_series(tmp_path, ct(), nudge=(0.02, 0.02, 0.05))
    np.testing.assert_allclose(read_volume(tmp_path).ijk_to_ras, ct().ijk_to_ras, atol=1e-5)


def test_two_series_in_one_folder_are_refused(tmp_path: Path) -> None:
    write_dicom_series(tmp_path, ct())
    write_dicom_series(tmp_path, ct(), series="1.2.826.0.1.3680043.2.1125.2", names=[f"b{n}" for n in range(13)])
    assert "holds 2 DICOM series: put the wanted one in its own" in refusal(tmp_path)


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    assert "holds no DICOM images" in refusal(tmp_path)


def test_a_series_of_one_slice_is_a_volume_of_one_slice(tmp_path: Path) -> None:
    source = ct("oblique")
    write_dicom_series(tmp_path, source, without=[n for n in range(13) if n != 6])
    volume = read_volume(tmp_path)
    assert np.array_equal(volume.array, source.array[6:7])
    np.testing.assert_allclose(volume.ijk_to_ras[:3, :2], source.ijk_to_ras[:3, :2], atol=1e-5)
    centre = source.ijk_to_ras @ [3, 4, 6, 1]
    np.testing.assert_allclose(volume.ijk_to_ras @ [3, 4, 0, 1], centre, atol=1e-5)


def test_one_file_of_a_series_can_be_read_alone(tmp_path: Path) -> None:
    source = ct()
    write_dicom_series(tmp_path, source)
    assert np.array_equal(read_volume(tmp_path / "006.dcm").array, source.array[6:7])


def test_slices_of_different_sizes_are_refused(tmp_path: Path) -> None:
    source = ct()
    write_dicom_series(tmp_path, source, without=[7])
    smaller = Volume(source.array[:, :-3], source.ijk_to_ras)
    write_dicom_series(tmp_path, smaller, without=[n for n in range(13) if n != 7])
    assert "copy or export it again" in refusal(tmp_path)


def test_slices_that_do_not_tell_their_position_are_refused(tmp_path: Path) -> None:
    write_dicom_series(tmp_path, ct())
    for file in tmp_path.iterdir():
        content = file.read_bytes()
        # The position's tag in the header, which lies before the pixels, becomes one that nobody reads.
        file.write_bytes(content.replace(b"\x20\x00\x32\x00", b"\x20\x00\x33\x00", 1))
    assert "does not tell its position: export the series again" in refusal(tmp_path)


def test_a_colour_series_is_refused(tmp_path: Path) -> None:
    picture = np.random.default_rng(0).integers(0, 255, (5, 6, 3), dtype=np.uint8)
    sitk.WriteImage(sitk.GetImageFromArray(picture, isVector=True), str(tmp_path / "a.dcm"))
    assert "is in colour" in refusal(tmp_path)


def test_the_name_of_the_patient_is_nowhere_in_what_is_read(tmp_path: Path) -> None:
    write_dicom_series(tmp_path / "series", ct(), patient="Doe^Jane")
    assert b"Doe^Jane" in (tmp_path / "series" / "000.dcm").read_bytes()
    assert "Doe" not in repr(read_volume(tmp_path / "series"))
