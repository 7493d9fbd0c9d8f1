"""Volumes on disk: what is written comes back with its geometry, and what is broken is refused in one sentence."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from volumes import GRID, HEADERS, anatomy, rotation, stored, straight, study

from AnyMC3DLib import volume as volume_room
from AnyMC3DLib.errors import InputError
from AnyMC3DLib.volume import Volume, check_values, read_volume, write_volume

sitk.ProcessObject.SetGlobalWarningDisplay(False)
RIGID = [name for name in HEADERS if "tilt" not in name]
TILTED = [name for name in HEADERS if "tilt" in name]


def refusal(path: Path) -> str:
    """The sentence with which a file is refused."""
    with pytest.raises(InputError) as caught:
        read_volume(path)
    message = str(caught.value)
    assert message.endswith(".")
    assert "\n" not in message
    assert "itk" not in message.lower()
    return message


@pytest.mark.parametrize("ending", [".nii", ".nii.gz", ".nrrd", ".mha"])
@pytest.mark.parametrize("header", RIGID)
def test_a_volume_comes_back_with_its_voxels_and_its_place(tmp_path: Path, header: str, ending: str) -> None:
    volume = stored(study(header), order=(1, 2, 0), flips=(True, False, False))
    write_volume(tmp_path / f"a{ending}", volume)
    again = read_volume(tmp_path / f"a{ending}")
    assert np.array_equal(again.array, volume.array)
    assert again.array.dtype == volume.array.dtype
    np.testing.assert_allclose(again.ijk_to_ras, volume.ijk_to_ras, atol=2e-5)
    assert again.name == f"'a{ending}'"


@pytest.mark.parametrize("ending", [".nrrd", ".mha"])
@pytest.mark.parametrize("header", TILTED)
def test_a_gantry_tilt_comes_back_as_a_shear(tmp_path: Path, header: str, ending: str) -> None:
    write_volume(tmp_path / f"a{ending}", study(header))
    again = read_volume(tmp_path / f"a{ending}")
    np.testing.assert_allclose(again.ijk_to_ras, HEADERS[header], atol=1e-5)
    assert np.array_equal(again.array, anatomy())


@pytest.mark.parametrize("ending", [".nii", ".nii.gz", ".NII.GZ"])
def test_a_gantry_tilt_is_never_written_to_nifti(tmp_path: Path, ending: str) -> None:
    with pytest.raises(InputError, match=r"cannot hold a sheared geometry \(gantry tilt\): write \.nrrd"):
        write_volume(tmp_path / f"a{ending}", study("gantry tilt"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int32, np.int64, np.float32, np.float64])
def test_the_type_of_the_voxels_is_kept(tmp_path: Path, dtype: type) -> None:
    array = np.abs(anatomy() / 8).astype(dtype)
    for ending in (".nii.gz", ".nrrd", ".mha"):
        write_volume(tmp_path / f"a{ending}", Volume(array, straight()))
        again = read_volume(tmp_path / f"a{ending}").array
        assert again.dtype == dtype
        assert np.array_equal(again, array)


@pytest.mark.parametrize(("dtype", "written"), [(np.bool_, np.uint8), (np.float16, np.float32), (">i2", np.int16)])
def test_types_that_files_lack_are_widened_without_loss(tmp_path: Path, dtype, written: type) -> None:
    array = (anatomy() > 0).astype(dtype)
    write_volume(tmp_path / "a.nii.gz", Volume(array, straight()))
    again = read_volume(tmp_path / "a.nii.gz").array
    assert again.dtype == written
    assert np.array_equal(again, array.astype(written))


@pytest.mark.parametrize("ending", [".nii.gz", ".nrrd", ".mha"])
def test_files_are_compressed(tmp_path: Path, ending: str) -> None:
    mask = (anatomy() > 0).astype(np.uint8)
    write_volume(tmp_path / f"a{ending}", Volume(mask, straight()))
    assert (tmp_path / f"a{ending}").stat().st_size < mask.nbytes / 2


@pytest.mark.parametrize("name", ["a.png", "a", "a.nii.zip", "a.mhd", "a.nhdr", "a.dcm"])
def test_an_ending_that_cannot_be_written_whole_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match=rf"Cannot write '{name}': its ending must be one of .nii, .nii.gz"):
        write_volume(tmp_path / name, study())
    assert list(tmp_path.iterdir()) == []


def test_a_failing_writer_leaves_the_old_image_and_nothing_else(tmp_path: Path, monkeypatch) -> None:
    target = tmp_path / "a.nrrd"
    write_volume(target, study())
    before = target.read_bytes()

    def fail(_image: sitk.Image, path: str, **_options: bool) -> None:
        Path(path).write_bytes(b"half")
        raise RuntimeError("Exception thrown in SimpleITK: disk full")

    monkeypatch.setattr(volume_room.sitk, "WriteImage", fail)
    with pytest.raises(InputError, match=r"Cannot write .* space on its disk"):
        write_volume(target, study("oblique"))
    assert target.read_bytes() == before
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("share", [0.002, 0.01, 0.3, 0.6, 0.98])
@pytest.mark.parametrize("compressed", [True, False])
@pytest.mark.parametrize("ending", [".nii", ".nii.gz", ".nrrd", ".mha"])
def test_a_file_cut_short_is_refused(tmp_path: Path, ending: str, compressed: bool, share: float) -> None:
    path = tmp_path / f"a{ending}"
    sitk.WriteImage(volume_room.to_sitk(study()), str(path), compressed)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    assert "copy or export it again" in refusal(path) or share < 0.02


@pytest.mark.parametrize("length", [*range(0, 400, 25), 347, 348, 351, 352, 353])
def test_a_nifti_cut_within_its_header_is_refused(tmp_path: Path, length: int) -> None:
    write_volume(tmp_path / "a.nii", study())
    (tmp_path / "b.nii").write_bytes((tmp_path / "a.nii").read_bytes()[:length])
    assert refusal(tmp_path / "b.nii") == "'b.nii' ends too early or is damaged: copy or export it again."


@pytest.mark.parametrize("length", [0, 1, 2, 9, 20, 200])
def test_a_compressed_nifti_cut_within_its_header_is_refused(tmp_path: Path, length: int) -> None:
    write_volume(tmp_path / "a.nii.gz", study())
    (tmp_path / "b.nii.gz").write_bytes((tmp_path / "a.nii.gz").read_bytes()[:length])
    assert "ends too early or is damaged" in refusal(tmp_path / "b.nii.gz")


def test_a_compressed_nifti_with_a_flipped_bit_is_refused(tmp_path: Path) -> None:
    write_volume(tmp_path / "a.nii.gz", study())
    content = bytearray((tmp_path / "a.nii.gz").read_bytes())
    content[len(content) // 2] ^= 16
    (tmp_path / "a.nii.gz").write_bytes(content)
    assert "ends too early or is damaged" in refusal(tmp_path / "a.nii.gz")


def test_a_nifti_whose_ending_belies_its_compression_is_refused(tmp_path: Path) -> None:
    write_volume(tmp_path / "a.nii", study())
    write_volume(tmp_path / "b.nii.gz", study())
    (tmp_path / "a.nii").rename(tmp_path / "c.nii.gz")  # ITK would read zeros
    (tmp_path / "b.nii.gz").rename(tmp_path / "d.nii")
    for name in ("c.nii.gz", "d.nii"):
        assert "is damaged" in refusal(tmp_path / name)


@pytest.mark.parametrize("ending", [".nii", ".nii.gz", ".nrrd", ".mha", ".png", ".dcm", ""])
def test_a_text_under_the_name_of_an_image_is_refused(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"a{ending}"
    path.write_text("Findings: none.\n" * 100)
    assert refusal(path).startswith(f"'a{ending}' ")


def test_a_missing_path_is_refused(tmp_path: Path) -> None:
    assert refusal(tmp_path / "none.nii").startswith("There is no file or folder '")


def test_a_file_of_somebody_else_is_not_called_damaged(tmp_path: Path, monkeypatch) -> None:
    write_volume(tmp_path / "a.nii", study())
    monkeypatch.setattr(volume_room.os, "access", lambda *_: False)  # tests may run as root, whom no mode stops
    assert refusal(tmp_path / "a.nii") == "'a.nii' may not be read by you: ask for the permission."


def test_a_folder_without_images_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("x")
    assert "holds no DICOM images: give the folder of one series" in refusal(tmp_path)


def four_dimensional(path: Path, shape: tuple[int, ...]) -> None:
    array = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    sitk.WriteImage(sitk.GetImageFromArray(array, isVector=False), str(path))


@pytest.mark.parametrize("ending", [".nii.gz", ".nrrd", ".mha"])
@pytest.mark.parametrize("shape", [(3, 4, 5, 6), (3, 1, 5, 6)])
def test_a_time_series_is_refused_even_of_one_slice(tmp_path: Path, shape: tuple[int, ...], ending: str) -> None:
    four_dimensional(tmp_path / f"a{ending}", shape)
    assert "has four dimensions (6 x 5 x " in refusal(tmp_path / f"a{ending}")


@pytest.mark.parametrize("ending", [".nii.gz", ".nrrd", ".mha"])
def test_a_fourth_dimension_of_one_is_no_time_series(tmp_path: Path, ending: str) -> None:
    four_dimensional(tmp_path / f"a{ending}", (1, 4, 5, 6))
    assert read_volume(tmp_path / f"a{ending}").grid == (4, 5, 6)


def test_a_vector_image_is_refused(tmp_path: Path) -> None:
    image = sitk.GetImageFromArray(np.zeros((4, 5, 6, 2), np.float32), isVector=True)
    sitk.WriteImage(image, str(tmp_path / "a.nrrd"))
    assert "has 2 values a voxel" in refusal(tmp_path / "a.nrrd")


def nifti_with_rows(path: Path, rows: list[float]) -> None:
    """A NIfTI whose sform is `rows` (12 numbers), as other programs write it."""
    write_volume(path, Volume(anatomy(), straight((1, 1, 1), (0, 0, 0))))
    compressed = path.name.endswith(".gz")
    content = bytearray(gzip.decompress(path.read_bytes()) if compressed else path.read_bytes())
    content[252:256] = struct.pack("<2h", 0, 1)
    content[280:328] = struct.pack("<12f", *rows)
    path.write_bytes(gzip.compress(content) if compressed else content)


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
def test_a_sheared_nifti_of_another_program_is_refused(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"a{ending}"
    nifti_with_rows(path, [1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0])
    read_volume(path)
    nifti_with_rows(path, [1, 0, 0, 0, 0, 1, 0.3, 0, 0, 0, 1, 0])
    assert refusal(path) == f"'a{ending}' holds a sheared geometry, which is lost in NIfTI: export it as NRRD."


@pytest.mark.parametrize("rows", [[1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0], [1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0]])
@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
def test_a_nifti_with_a_singular_direction_is_refused(tmp_path: Path, ending: str, rows: list[float]) -> None:
    path = tmp_path / f"a{ending}"
    nifti_with_rows(path, rows)
    assert refusal(path) == f"The direction matrix of 'a{ending}' is singular: correct its header."


def test_a_nifti_with_a_place_that_is_no_number_is_refused(tmp_path: Path) -> None:
    nifti_with_rows(tmp_path / "a.nii", [1, 0, 0, float("nan"), 0, 1, 0, 0, 0, 0, 1, 0])
    assert "correct its header" in refusal(tmp_path / "a.nii")


@pytest.mark.parametrize("order", ["<", ">"])
def test_a_nifti_of_version_2_is_called_by_its_name(tmp_path: Path, order: str) -> None:
    (tmp_path / "a.nii").write_bytes(struct.pack(order + "i", 540) + b"n+2\0\r\n\032\n" + bytes(2000))
    assert "is a NIfTI of version 2, which cannot be read: export it as NRRD" in refusal(tmp_path / "a.nii")


def test_a_nifti_of_the_other_byte_order_is_read_and_checked(tmp_path: Path) -> None:
    header = bytearray(352)
    header[:4] = struct.pack(">i", 348)
    header[40:56] = struct.pack(">8h", 3, 4, 3, 2, 1, 1, 1, 1)
    header[70:74] = struct.pack(">2h", 4, 16)
    header[76:108] = struct.pack(">8f", 1, 2, 3, 4, 1, 1, 1, 1)
    header[108:116] = struct.pack(">2f", 352, 1)
    header[252:256] = struct.pack(">2h", 0, 1)
    header[280:328] = struct.pack(">12f", 2, 0, 0, 5, 0, 3, 0, 6, 0, 0, 4, 7)
    header[344:348] = b"n+1\0"
    content = bytes(header) + np.arange(24, dtype=">i2").tobytes()
    (tmp_path / "a.nii").write_bytes(content)
    volume = read_volume(tmp_path / "a.nii")
    assert np.array_equal(volume.array, np.arange(24).reshape(2, 3, 4))
    np.testing.assert_allclose(volume.ijk_to_ras[:3], [[2, 0, 0, 5], [0, 3, 0, 6], [0, 0, 4, 7]], atol=1e-5)
    (tmp_path / "a.nii").write_bytes(content[:-1])
    assert "ends too early or is damaged" in refusal(tmp_path / "a.nii")


@pytest.mark.parametrize("dimensions", [0, 8, -1])
def test_a_nifti_of_an_impossible_number_of_dimensions_is_refused(tmp_path: Path, dimensions: int) -> None:
    write_volume(tmp_path / "a.nii", study())
    content = bytearray((tmp_path / "a.nii").read_bytes())
    content[40:42] = struct.pack("<h", dimensions)
    (tmp_path / "a.nii").write_bytes(content)
    assert "is damaged" in refusal(tmp_path / "a.nii")


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_values_of_a_nifti_that_are_no_numbers_are_counted_and_refused(
    tmp_path: Path, dtype: type, ending: str, value: float
) -> None:
    array = anatomy().astype(dtype)
    array[3, 4, 5] = array[6, 7, 8] = value  # ITK would read 0 there
    write_volume(tmp_path / f"a{ending}", Volume(array, straight()))
    assert "holds 2 values that are not finite numbers: replace them first" in refusal(tmp_path / f"a{ending}")


def changed(path: Path, place: int, kinds: str, *values: float) -> Path:
    """The NIfTI at `path` with other values at a place of its header."""
    content = bytearray(path.read_bytes())
    struct.pack_into(f"<{kinds}", content, place, *values)
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    ("place", "kinds", "values", "told"),
    [
        (80, "f", [1.0], "tells two voxel sizes (1 x 1.3 x 2.2 and 0.9 x 1.3 x 2.2 mm): correct its header"),
        (292, "f", [-30.0], "tells two places in the patient (qform and sform): correct its header"),
        (256, "f", [1.5], "its qform) is no rotation: correct its header"),
        (46, "h", [12], "holds more data than its header tells: copy or export it again"),
        (72, "h", [64], "is damaged: copy or export it again"),
        (344, "4s", [b"ni1\0"], "is damaged: copy or export it again"),
        (112, "2f", [0.0, 5.0], "scales its values by 0 and adds 5: export it again"),
    ],
)
def test_a_nifti_that_contradicts_itself_is_refused(tmp_path: Path, place: int, kinds: str, values, told: str) -> None:
    write_volume(tmp_path / "a.nii", study())
    assert told in refusal(changed(tmp_path / "a.nii", place, kinds, *values))


def test_a_nifti_may_tell_another_kind_of_place_beside_its_own(tmp_path: Path) -> None:
    write_volume(tmp_path / "a.nii", study("oblique"))
    expected = read_volume(tmp_path / "a.nii").ijk_to_ras
    changed(tmp_path / "a.nii", 254, "h", 4)  # the sform is that of an atlas, sheared and scaled
    changed(tmp_path / "a.nii", 280, "12f", *[1.1, 0.2, 0, 90, 0, 1.3, 0, -126, 0, 0, 2.6, -72])
    np.testing.assert_allclose(read_volume(tmp_path / "a.nii").ijk_to_ras, expected, atol=1e-4)


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        (b"Offset = ", b"Offsat = ", "does not tell its origin: export it again"),
        (b"ElementSpacing = ", b"ElementSpicing = ", "does not tell its spacing: export it again"),
        (b"TransformMatrix = ", b"TransformMatrex = ", "does not tell its direction: export it again"),
        (b"BinaryDataByteOrderMSB", b"BinaryDataByteOrderMSA", "does not tell its byte order: export it again"),
        (b"MSB = False", b"MSB = Galse", "holds other data than its header tells"),
        (b"DimSize = 16", b"DimSize = 14", "holds other data than its header tells"),
        (b"LOCAL\n", b"LOCAL*", "holds other data than its header tells"),  # ITK's reader would crash
        (b"TransformMatrix = -1", b"TransformMatrix = -2", "are not of length 1: correct its header"),
    ],
)
def test_a_damaged_header_of_a_metaimage_is_refused(tmp_path: Path, old: bytes, new: bytes, told: str) -> None:
    sitk.WriteImage(volume_room.to_sitk(study()), str(tmp_path / "a.mha"))
    content = (tmp_path / "a.mha").read_bytes()
    assert old in content
    (tmp_path / "a.mha").write_bytes(content.replace(old, new, 1))
    assert told in refusal(tmp_path / "a.mha")


@pytest.mark.parametrize("compressed", [True, False])
def test_an_nrrd_of_more_voxels_than_its_header_tells_is_refused(tmp_path: Path, compressed: bool) -> None:
    sitk.WriteImage(volume_room.to_sitk(study()), str(tmp_path / "a.nrrd"), compressed)
    content = (tmp_path / "a.nrrd").read_bytes()
    (tmp_path / "a.nrrd").write_bytes(content.replace(b"sizes: 16 19 13", b"sizes: 16 19 12"))
    assert "holds other data than its header tells" in refusal(tmp_path / "a.nrrd")


def test_a_compressed_nrrd_with_a_wrong_checksum_is_refused(tmp_path: Path) -> None:
    write_volume(tmp_path / "a.nrrd", study())
    content = bytearray((tmp_path / "a.nrrd").read_bytes())
    content[-6] ^= 1  # in the checksum, which ITK does not look at
    (tmp_path / "a.nrrd").write_bytes(content)
    assert "holds other data than its header tells" in refusal(tmp_path / "a.nrrd")


def nrrd_with_directions(path: Path, directions: str) -> None:
    header = (
        "NRRD0004\ntype: short\ndimension: 3\nspace: left-posterior-superior\nsizes: 4 3 2\n"
        f"space directions: {directions}\nkinds: domain domain domain\nendian: little\nencoding: raw\n"
        "space origin: (1,2,3)\n\n"
    )
    path.write_bytes(header.encode() + np.arange(24, dtype="<i2").tobytes())


@pytest.mark.parametrize("directions", ["(1,0,0) (2,0,0) (0,0,1)", "(0,0,0) (0,1,0) (0,0,1)"])
def test_an_nrrd_with_a_singular_direction_is_refused(tmp_path: Path, directions: str) -> None:
    nrrd_with_directions(tmp_path / "a.nrrd", "(2,0,0) (0,3,0) (0,1.5,4)")
    affine = read_volume(tmp_path / "a.nrrd").ijk_to_ras
    np.testing.assert_allclose(affine[:3], [[-2, 0, 0, -1], [0, -3, -1.5, -2], [0, 0, 4, 3]], atol=1e-6)
    nrrd_with_directions(tmp_path / "a.nrrd", directions)
    assert refusal(tmp_path / "a.nrrd") == "The direction matrix of 'a.nrrd' is singular: correct its header."


def test_a_metaimage_with_a_singular_direction_is_refused(tmp_path: Path) -> None:
    write_volume(tmp_path / "a.mha", study())
    content = (tmp_path / "a.mha").read_bytes()
    assert b"TransformMatrix = -1 0 0 0 -1 0 0 0 1" in content
    flat = content.replace(b"TransformMatrix = -1 0 0 0 -1 0 0 0 1", b"TransformMatrix = -1 0 0 -1 0 0 0 0 1")
    (tmp_path / "a.mha").write_bytes(flat)
    assert refusal(tmp_path / "a.mha") == "The direction matrix of 'a.mha' is singular: correct its header."


def test_left_and_posterior_of_a_file_are_right_and_anterior_here(tmp_path: Path) -> None:
    image = sitk.GetImageFromArray(np.arange(24, dtype=np.int16).reshape(2, 3, 4))
    image.SetOrigin((10, 20, 30))
    image.SetSpacing((2, 3, 4))
    sitk.WriteImage(image, str(tmp_path / "a.nrrd"))
    expected = [[-2, 0, 0, -10], [0, -3, 0, -20], [0, 0, 4, 30], [0, 0, 0, 1]]
    np.testing.assert_allclose(read_volume(tmp_path / "a.nrrd").ijk_to_ras, expected)


@pytest.mark.parametrize("ending", [".png", ".tif"])
def test_a_grey_picture_is_a_volume_of_one_slice(tmp_path: Path, ending: str) -> None:
    picture = np.arange(63, dtype=np.uint8).reshape(7, 9)
    sitk.WriteImage(sitk.GetImageFromArray(picture), str(tmp_path / f"a{ending}"))
    volume = read_volume(tmp_path / f"a{ending}")
    assert not volume.is_colour
    assert np.array_equal(volume.array, picture[np.newaxis])


def test_a_colour_picture_is_a_volume_of_one_slice_and_comes_back(tmp_path: Path) -> None:
    picture = np.random.default_rng(0).integers(0, 255, (7, 9, 3), dtype=np.uint8)
    sitk.WriteImage(sitk.GetImageFromArray(picture, isVector=True), str(tmp_path / "a.png"))
    volume = read_volume(tmp_path / "a.png")
    assert volume.is_colour
    assert volume.grid == (1, 7, 9)
    assert np.array_equal(volume.array, picture[np.newaxis])
    write_volume(tmp_path / "b.nrrd", volume)
    assert np.array_equal(read_volume(tmp_path / "b.nrrd").array, volume.array)


def test_a_picture_with_transparency_is_refused(tmp_path: Path) -> None:
    sitk.WriteImage(sitk.GetImageFromArray(np.zeros((7, 9, 4), np.uint8), isVector=True), str(tmp_path / "a.png"))
    assert "has 4 values a voxel" in refusal(tmp_path / "a.png")


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (np.zeros((4, 5, 6, 3), np.uint8), "is a colour volume; give a scalar one, or a single colour picture"),
        (np.zeros((1, 5, 6, 4)), "has the shape 1 x 5 x 6 x 4; a volume"),
        (np.zeros((5, 6)), "has the shape 5 x 6; a volume"),
        (np.zeros((4, 0, 6)), "has the shape 4 x 0 x 6; a volume"),
        (np.zeros((2, 3, 4), np.complex64), "values of type complex64; real numbers"),
        (np.full((2, 3, 4), "x"), "real numbers are needed"),
    ],
)
def test_an_array_that_is_no_scalar_volume_is_refused(array: np.ndarray, expected: str) -> None:
    with pytest.raises(InputError, match="^it .*" + expected):
        Volume(array, straight(), name="it")


def test_a_colour_volume_on_disk_is_refused(tmp_path: Path) -> None:
    image = sitk.GetImageFromArray(np.zeros((4, 5, 6, 3), np.uint8), isVector=True)
    sitk.WriteImage(image, str(tmp_path / "a.nrrd"))
    assert "is a colour volume" in refusal(tmp_path / "a.nrrd")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (np.nan, "holds 2 values that are not finite numbers"),
        (-np.inf, "holds 2 values that are not finite numbers"),
        (1e300, "holds values above 3e38"),
    ],
)
def test_values_that_are_no_numbers_are_counted_and_refused(value: float, expected: str) -> None:
    array = anatomy().astype(np.float64)
    array[3, 4, 5] = array[6, 7, 8] = value
    with pytest.raises(InputError, match=f"^the image {expected}"):
        check_values(Volume(array, straight()))


@pytest.mark.parametrize("dtype", [np.int16, np.float32])
def test_a_volume_of_one_value_is_refused(dtype: type) -> None:
    with pytest.raises(InputError, match="holds the value -1000 everywhere"):
        check_values(Volume(np.full(GRID, -1000, dtype), straight()))


def test_the_spacing_of_a_turned_volume_is_that_along_its_axes() -> None:
    volume = Volume(anatomy(), rotation(30, 40, 50) @ straight((0.5, 2.0, 7.0)))
    np.testing.assert_allclose(volume.spacing, (0.5, 2.0, 7.0))


@pytest.mark.parametrize("name", ["MR_Gd.nii.gz", "CT_AVM.nii.gz", "chris_t1.nii.gz"])
def test_a_real_scan_is_read_where_its_own_header_puts_it(real_data: Path, name: str) -> None:
    with gzip.open(real_data / name) as stream:
        header = stream.read(348)
    qform, sform = struct.unpack("<2h", header[252:256])
    volume = read_volume(real_data / name)
    assert volume.grid == tuple(reversed(struct.unpack("<3h", header[42:48])))
    if sform > 0:
        rows = np.array(struct.unpack("<12f", header[280:328])).reshape(3, 4)
        np.testing.assert_allclose(volume.ijk_to_ras[:3], rows, atol=1e-3)
    assert qform > 0 or sform > 0
