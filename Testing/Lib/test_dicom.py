"""A DICOM folder: positions of the slices are taken as they are, and a series with gaps is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from faults.dicom_files import LITTLE_ENDIAN, RLE, SliceFile, multi_frame, numbers, series_of
from volumes import HEADERS, study, write_dicom_series

from AnyMC3DLib.errors import InputError
from AnyMC3DLib.geometry import is_sheared
from AnyMC3DLib.volume import Volume, read_volume, write_volume

sitk.ProcessObject.SetGlobalWarningDisplay(False)
SHUFFLED = [f"{number:04d}" for number in np.random.default_rng(5).permutation(13)]


def ct(header: str = "straight") -> Volume:
    volume = study(header)
    return Volume(volume.array.round().astype(np.int16), volume.ijk_to_ras)


def put(folder: Path, files: list[SliceFile]) -> Path:
    for file in files:
        file.write(folder)
    return folder


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


@pytest.mark.parametrize(
    ("without", "told"),
    [
        ((4,), "missing (between -1.4 and 3.0 mm)"),
        ((11,), "missing (between 14.0 and 18.4 mm)"),
        ((3, 4, 5), "missing (between -3.6 and 5.2 mm)"),
        ((1, 7), "missing (between -8.0 and -3.6, between 5.2 and 9.6 mm)"),
    ],
)
def test_a_missing_slice_is_refused_and_its_place_told(tmp_path: Path, without: tuple[int, ...], told: str) -> None:
    write_dicom_series(tmp_path, ct(), without=without)
    message = refusal(tmp_path)
    assert "are not evenly spaced (2.20 to " in message
    assert told in message


def test_of_many_gaps_the_first_three_are_told(tmp_path: Path) -> None:
    files = [file for k, file in enumerate(series_of(ct())) if k not in (1, 4, 7, 10)]
    assert "between 5.2 and 9.6, 1 more places mm" in refusal(put(tmp_path, files))


def test_every_second_slice_left_out_is_an_even_series(tmp_path: Path) -> None:
    source = ct()
    write_dicom_series(tmp_path, source, without=range(1, 13, 2))
    volume = read_volume(tmp_path)
    assert np.array_equal(volume.array, source.array[::2])
    assert volume.spacing[2] == pytest.approx(4.4)


def test_a_slice_twice_is_refused(tmp_path: Path) -> None:
    write_dicom_series(tmp_path, ct())
    (tmp_path / "again.dcm").write_bytes((tmp_path / "004.dcm").read_bytes())
    assert "some come twice (at 0.8 mm)" in refusal(tmp_path)


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
    assert "have different sizes (16 x 19, 16 x 16; a localiser?): put the wanted ones" in refusal(tmp_path)


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


@pytest.mark.parametrize("number", [0, 6, 12])
def test_a_slice_cut_short_is_named_wherever_it_lies(tmp_path: Path, number: int) -> None:
    put(tmp_path, series_of(ct()))
    file = tmp_path / f"{number:04d}.dcm"
    file.write_bytes(file.read_bytes()[:-100])  # GDCM leaves it out without a word
    assert f"'{number:04d}.dcm' in '{tmp_path}' is damaged or ends too early" in refusal(tmp_path)


def test_slopes_that_differ_from_slice_to_slice_keep_their_fractions(tmp_path: Path) -> None:
    source = ct()
    half = Volume(source.array * 0.5, source.ijk_to_ras)
    whole = Volume(np.rint(half.array), source.ijk_to_ras)
    put(tmp_path, [*series_of(whole)[:5], *series_of(half, slope=0.5)[5:]])
    assert np.array_equal(read_volume(tmp_path).array, np.concatenate([whole.array[:5], half.array[5:]]))


def test_a_slice_without_the_others_scale_is_refused(tmp_path: Path) -> None:
    files = series_of(ct())
    del files[4].tags["0028|1052"]
    assert "does not tell the intercept of its values" in refusal(put(tmp_path, files))


def test_a_slice_of_other_bits_is_refused(tmp_path: Path) -> None:
    files = series_of(ct())
    files[4] = series_of(ct(), dtype=np.uint16)[4]
    assert "store their values in several ways" in refusal(put(tmp_path, files))


@pytest.mark.parametrize(
    ("tag", "value", "told"),
    [
        ("0020|0037", numbers((1, 0, 0, 0, 0, -1)), "lie in several directions (12, 1 of them in each"),
        ("0028|0030", numbers((1.3, 0.95)), "have pixels of different sizes (0.9 to 1.3 mm)"),
    ],
)
def test_a_slice_in_another_plane_or_of_other_pixels_is_refused(
    tmp_path: Path, tag: str, value: str, told: str
) -> None:
    files = series_of(ct())
    files[7].tags[tag] = ("DS", value)
    assert told in refusal(put(tmp_path, files))


@pytest.mark.parametrize(("tag", "what"), [("0020|0037", "direction"), ("0028|0030", "pixel size")])
def test_a_slice_that_does_not_tell_its_plane_is_refused(tmp_path: Path, tag: str, what: str) -> None:
    files = series_of(ct())
    del files[7].tags[tag]
    assert f"does not tell its {what}: export the series again" in refusal(put(tmp_path, files))


def test_directions_that_are_not_at_right_angles_are_refused(tmp_path: Path) -> None:
    files = series_of(ct())
    for file in files:
        file.tags["0020|0037"] = ("DS", numbers((1, 0, 0, 0.1, 0.9, 0)))
    assert "are not at right angles" in refusal(put(tmp_path, files))


def test_inverted_greys_that_carry_units_are_refused_and_others_inverted(tmp_path: Path) -> None:
    files = series_of(ct(), dtype=np.uint16)
    for file in files:
        file.tags["0028|0004"] = ("CS", "MONOCHROME1")
    assert "has inverted greys (MONOCHROME1)" in refusal(put(tmp_path, files))
    for file in files:
        del file.tags["0028|1052"], file.tags["0028|1053"]
    inverted = 65535 - np.stack([file.pixels for file in files])
    assert np.array_equal(read_volume(put(tmp_path, files)).array, inverted)


@pytest.mark.parametrize("syntax", [LITTLE_ENDIAN, RLE])
@pytest.mark.parametrize("header", HEADERS)
def test_the_frames_of_an_enhanced_file_lie_where_each_of_them_says(tmp_path: Path, header: str, syntax: str) -> None:
    source = ct(header)
    file = multi_frame(source, np.random.default_rng(3).permutation(13))
    file.syntax = syntax
    put(tmp_path, [file])
    for place in (tmp_path, tmp_path / "frames.dcm"):
        volume = read_volume(place)
        assert np.array_equal(volume.array, source.array)
        np.testing.assert_allclose(volume.ijk_to_ras, source.ijk_to_ras, atol=1e-5)


def test_frames_that_do_not_tell_their_positions_are_refused(tmp_path: Path) -> None:
    file = multi_frame(ct(), range(13))
    del file.tags["5200|9230"]
    told = "The frames in 'frames.dcm' do not tell their positions: export them as a series of single slices."
    assert refusal(put(tmp_path, [file])) == told


def test_several_multi_frame_files_in_one_series_are_refused(tmp_path: Path) -> None:
    first, second = multi_frame(ct(), range(13)), multi_frame(ct(), range(13))
    second.name = "more.dcm"
    assert "holds several multi-frame files" in refusal(put(tmp_path, [first, second]))


def test_a_series_and_a_single_slice_tell_their_modality_and_a_nifti_none(tmp_path: Path) -> None:
    write_dicom_series(tmp_path / "series", ct())
    (tmp_path / "series" / "about.txt").write_text("not an image")
    assert read_volume(tmp_path / "series").modality == "CT"
    assert read_volume(next((tmp_path / "series").glob("*.dcm"))).modality == "CT"
    write_volume(tmp_path / "ct.nii.gz", ct())
    assert read_volume(tmp_path / "ct.nii.gz").modality == ""


def test_what_macos_leaves_beside_a_slice_is_passed_over(tmp_path: Path) -> None:
    write_dicom_series(tmp_path, ct())
    (tmp_path / "._004.dcm").write_bytes(b"\x00\x05\x16\x07" + bytes(100))
    assert np.array_equal(read_volume(tmp_path).array, ct().array)


def test_a_slice_of_an_impossible_number_of_samples_is_told(tmp_path: Path) -> None:
    write_dicom_series(tmp_path, ct())
    place = next(tmp_path.glob("*.dcm"))
    samples = b"\x28\x00\x02\x00\x02\x00\x00\x00"
    content = place.read_bytes()
    assert content.count(samples + b"\x01\x00") == 1
    place.write_bytes(content.replace(samples + b"\x01\x00", samples + b"\x00\x00"))
    assert "is damaged" in refusal(tmp_path)
