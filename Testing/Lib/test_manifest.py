"""Tables of studies: what is read from them, what is refused, and what shall name a file."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from networks import plugin_spec, tiny_backbone, view
from volumes import GRID, anatomy, straight, study, write_dicom_series

from AnyMC3DLib.errors import InputError
from AnyMC3DLib.manifest import CohortCase, check_cases, read_manifest, read_table
from AnyMC3DLib.spec import PluginSpec, RegionSpec
from AnyMC3DLib.volume import Volume, write_volume


@pytest.fixture(scope="module")
def one() -> PluginSpec:
    """A plugin of one image, called 't1'."""
    backbone = tiny_backbone()
    return plugin_spec(backbone, views=(view(backbone, source="t1"),))


@pytest.fixture(scope="module")
def two() -> PluginSpec:
    """A plugin of two images that looks at a segment of the first."""
    backbone = tiny_backbone()
    looks = view(backbone, source="t1", region=RegionSpec(kind="segment"))
    return plugin_spec(backbone, name="Two", views=(looks, view(backbone, "coronal", source="t2")))


def table(folder: Path, text: str | bytes) -> Path:
    place = folder / "table.csv"
    place.write_bytes(text if isinstance(text, bytes) else text.encode())
    return place


# Reading


def test_a_row_gives_a_case_with_paths_relative_to_the_table(tmp_path: Path, one: PluginSpec) -> None:
    cases = read_manifest(table(tmp_path, f"case,t1,age\nb,images/b.nrrd,7\na,{tmp_path / 'a.nrrd'},\n"), [one])
    assert [case.id for case in cases] == ["b", "a"]
    assert [case.images for case in cases] == [{"t1": tmp_path / "images/b.nrrd"}, {"t1": tmp_path / "a.nrrd"}]


def test_each_image_of_each_plugin_has_its_column(tmp_path: Path, one: PluginSpec, two: PluginSpec) -> None:
    (case,) = read_manifest(table(tmp_path, "t2,case,t1\nsecond,a,first\n"), [one, two])
    assert case.images == {"t1": tmp_path / "first", "t2": tmp_path / "second"}


def test_a_plugin_of_one_image_takes_the_column_image_too(tmp_path: Path, one: PluginSpec) -> None:
    (case,) = read_manifest(table(tmp_path, "case,image\na,x.nrrd\n"), [one])
    assert case.images == {"t1": tmp_path / "x.nrrd"}
    (case,) = read_manifest(table(tmp_path, "case,image,t1\na,x.nrrd,y.nrrd\n"), [one])
    assert case.images == {"t1": tmp_path / "y.nrrd"}


def test_regions_are_read_where_a_plugin_looks_at_one(tmp_path: Path, two: PluginSpec) -> None:
    text = 'case,t1,t2,t1_region,t2_region\na,x,y,"box:0,0,0,1,1,1",z\nb,x,y,,\n'
    first, second = read_manifest(table(tmp_path, text), [two])
    assert first.regions == {"t1": "box:0,0,0,1,1,1"}
    assert second.regions == {}


@pytest.mark.parametrize(
    "text",
    [
        b"\xef\xbb\xbfcase,t1\r\na,x.nrrd\r\n",
        b"case;t1\r\na;x.nrrd\r\n",
        b"case\tt1\na\tx.nrrd",
        b'"case","t1"\n a , x.nrrd \n',
        b"case,t1,,\na,x.nrrd,,\n,,,\n\n",
        b",case,t1\n0,a,x.nrrd\n",
    ],
    ids=["byte order mark", "semicolons", "tabs", "quotes and spaces", "empty columns and rows", "numbered rows"],
)
def test_tables_are_read_as_spreadsheets_write_them(tmp_path: Path, one: PluginSpec, text: bytes) -> None:
    (case,) = read_manifest(table(tmp_path, text), [one])
    assert (case.id, case.images) == ("a", {"t1": tmp_path / "x.nrrd"})


def test_a_row_that_ends_early_has_empty_values(tmp_path: Path, two: PluginSpec) -> None:
    (case,) = read_manifest(table(tmp_path, "case,t1,t2\na,x\n"), [two])
    assert case.images == {"t1": tmp_path / "x"}


def test_a_file_that_is_missing_is_found_when_its_case_is_loaded(tmp_path: Path, one: PluginSpec) -> None:
    (case,) = read_manifest(table(tmp_path, "case,t1\na,absent.nrrd\n"), [one])
    with pytest.raises(InputError, match=r"absent\.nrrd"):
        case.load()


def test_a_case_loads_its_images_and_regions(tmp_path: Path, two: PluginSpec) -> None:
    write_volume(tmp_path / "x.nrrd", study())
    write_volume(tmp_path / "y.nrrd", Volume(anatomy(seed=9), straight()))
    write_volume(tmp_path / "s.nrrd", Volume(np.ones(GRID, np.uint8), straight()))
    (case,) = read_manifest(table(tmp_path, "case,t1,t2,t1_region\na,x.nrrd,y.nrrd,s.nrrd:1\n"), [two])
    loaded = case.load()
    np.testing.assert_array_equal(loaded.image("t2").array, anatomy(seed=9))
    assert loaded.regions["t1"].label == 1


@pytest.mark.parametrize(
    ("text", "phrase"),
    [
        ("", "has no rows"),
        ("case,t1\n", "has no rows"),
        ("case,t1\n,\n", "has no rows"),
        ("t1\nx\n", "lacks the column 'case': it has t1"),
        ("case,t2\na,x\n", "lacks the column 't1': it has case, t2"),
        ("case,t1\n,x\n", "The column 'case' is empty in line 2"),
        ("case,t1\na,x\na,y\n", "The case 'a' comes twice"),
        ("case,t1\na,x\nA,y\n", "'a' and 'A' differ in upper and lower case alone"),
        ("case,t1,t1\na,x,y\n", "names the column 't1' twice"),
        ("case,t1\na,box:1,2\n", "Line 2 of 'table.csv' has 3 values for 2 columns"),
        ('case,t1\na,"x\nb,y\n', "cannot be read"),
        (b"PK\x03\x04\xff\xfe\x00", "is not text in UTF-8"),
        ("case,t1\na,x\n".encode("utf-16"), "is not text in UTF-8"),
        ("case,t1\na," + "x" * 200_000, "cannot be read"),
    ],
)
def test_a_table_that_cannot_be_used_is_refused_in_one_sentence(
    tmp_path: Path, one: PluginSpec, text: str | bytes, phrase: str
) -> None:
    with pytest.raises(InputError) as raised:
        read_manifest(table(tmp_path, text), [one])
    assert phrase in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_table_that_is_not_there_or_is_a_folder_is_refused(tmp_path: Path) -> None:
    for place in (tmp_path / "absent.csv", tmp_path):
        with pytest.raises(InputError, match="There is no table"):
            read_table(place)


# Names


@pytest.mark.parametrize("name", ["a", "0", "sub-01_ses.2", "Case 7", "x" * 100, "1.2.840.10008", "console", "a.con"])
def test_a_case_may_be_called(name: str) -> None:
    assert CohortCase(name, {}).id == name


@pytest.mark.parametrize(
    "name",
    [
        "", ".", "..", "../a", "a/b", "a\\b", "/a", "C:a", ".hidden", "-rf", "=1+1", "a\n", "a ", "a.", "a\0b", "é",
        "x" * 101, "con", "NUL.v2", "com1", "a:b", "a*b", "nul .x",
    ],
)  # fmt: skip
def test_a_case_may_not_be_called(name: str) -> None:
    with pytest.raises(InputError, match="cannot name a file"):
        CohortCase(name, {})


def test_no_case_at_all_is_refused() -> None:
    with pytest.raises(InputError, match="no case"):
        check_cases([])


# What an answer depends on


def a_case(folder: Path, **regions: str) -> CohortCase:
    return CohortCase("a", {"t1": folder / "x.nrrd"}, regions, folder)


def test_the_inputs_are_the_same_wherever_the_table_is_looked_at_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "x.nrrd").write_bytes(b"1")
    expected = a_case(tmp_path).inputs()
    monkeypatch.chdir(tmp_path)
    assert a_case(Path()).inputs() == expected


def test_the_inputs_change_with_a_files_size_its_time_and_its_place(tmp_path: Path) -> None:
    place = tmp_path / "x.nrrd"
    found = [a_case(tmp_path).inputs()]
    for content in (b"1", b"22"):
        place.write_bytes(content)
        os.utime(place, ns=(1, 1))
        found.append(a_case(tmp_path).inputs())
    os.utime(place, ns=(2, 2))
    found.append(a_case(tmp_path).inputs())
    place.rename(tmp_path / "y.nrrd")
    found.append(CohortCase("a", {"t1": tmp_path / "y.nrrd"}, folder=tmp_path).inputs())
    assert len(set(found)) == len(found)


def test_the_inputs_change_with_the_region_and_its_file(tmp_path: Path) -> None:
    (tmp_path / "x.nrrd").write_bytes(b"1")
    (tmp_path / "s.nrrd").write_bytes(b"1")
    cases = [a_case(tmp_path), a_case(tmp_path, t1="s.nrrd:1"), a_case(tmp_path, t1="s.nrrd:2")]
    found = [case.inputs() for case in cases]
    (tmp_path / "s.nrrd").write_bytes(b"22")
    found.append(cases[1].inputs())
    assert len(set(found)) == len(found)


def test_the_inputs_change_with_any_slice_of_a_series(tmp_path: Path) -> None:
    write_dicom_series(tmp_path / "series", study())
    case = CohortCase("a", {"t1": tmp_path / "series"})
    before = case.inputs()
    os.utime(tmp_path / "series" / "003.dcm", ns=(1, 1))
    assert case.inputs() != before


def test_the_inputs_change_with_voxels_that_are_in_a_second_file(tmp_path: Path) -> None:
    (tmp_path / "x.mhd").write_bytes(b"1")
    (tmp_path / "x.raw").write_bytes(b"1")
    case = CohortCase("a", {"t1": tmp_path / "x.mhd"})
    before = case.inputs()
    (tmp_path / "x.raw").write_bytes(b"22")
    assert case.inputs() != before


def test_a_sentence_names_images_and_regions_by_their_source(tmp_path: Path) -> None:
    (tmp_path / "Doe segments.nrrd").write_bytes(b"")
    case = CohortCase("a", {"t1": tmp_path / "Doe/ct.nrrd"}, {"t1": "Doe segments.nrrd:2"}, tmp_path)
    assert case.without_files(f"No file '{tmp_path}/Doe/ct.nrrd': 'ct.nrrd' is x.") == "No file 't1': 't1' is x."
    assert case.without_files("The segment in 'Doe segments.nrrd'.") == "The segment in 't1_region'."
