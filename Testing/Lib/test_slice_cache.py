"""Slices that were cut once are kept on disk: the same bits again, or made again, and never a run lost."""

from __future__ import annotations

import dataclasses
import errno
import json
import logging
import os
import subprocess
import sys
import textwrap
import weakref
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from networks import plugin_spec, tiny_backbone, view
from places import REPOSITORY
from volumes import study

from AnyMC3DLib.errors import InputError
from AnyMC3DLib.preprocessing import Box, Segment
from AnyMC3DLib.spec import IntensitySpec, PluginSpec
from AnyMC3DLib.training import slice_cache, slice_entry
from AnyMC3DLib.training.slice_cache import SliceCache, content_digest, key_of
from AnyMC3DLib.volume import Volume, write_volume

PLENTY = 1 << 30


def key(number: int) -> str:
    return f"{number:064x}"


def slices_of(number: int, side: int = 16) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(number)
    shapes = {"axial": (3, 1, side, side), "coronal": (5, 3, side, 12)}
    return {name: rng.random(shape).astype(np.float16) for name, shape in shapes.items()}


def never() -> dict[str, np.ndarray]:
    raise AssertionError("the slices were made again")


class Maker:
    """Makes the slices of a number, and counts how often."""

    def __init__(self, number: int) -> None:
        self.number, self.made = number, 0

    def __call__(self) -> dict[str, np.ndarray]:
        self.made += 1
        return slices_of(self.number)


def assert_are(views: object, number: int) -> None:
    expected = slices_of(number)
    assert list(views) == list(expected)  # type: ignore[call-overload]
    for name, array in expected.items():
        found = views[name]  # type: ignore[index]
        assert (found.dtype, found.shape) == (array.dtype, array.shape)
        assert found.tobytes() == array.tobytes()


def fill(cache: SliceCache, *numbers: int) -> None:
    for number in numbers:
        assert_are(cache.get(key(number), Maker(number)), number)


def kept(folder: Path) -> set[int]:
    return {int(place.name, 16) for place in folder.iterdir() if not place.name.startswith(".")}


def entry_size(folder: Path) -> int:
    """The bytes that an entry takes on disk."""
    with_one = folder / "one"
    fill(SliceCache(with_one, max_bytes=PLENTY), 1)
    return sum(file.stat().st_size for file in (with_one / key(1)).iterdir())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "deep" / "cache"


# Kept and found again


def test_slices_are_made_once_and_are_the_same_bits_in_every_later_run(folder: Path) -> None:
    make = Maker(1)
    for _ in range(3):
        assert_are(SliceCache(folder, max_bytes=PLENTY).get(key(1), make), 1)
    assert make.made == 1
    assert_are(SliceCache(folder, max_bytes=PLENTY).get(key(1), never), 1)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_arrays_keep_their_type_and_may_not_be_written(folder: Path, dtype: type) -> None:
    cache = SliceCache(folder, max_bytes=PLENTY)
    for _ in range(2):
        found = cache.get(key(1), lambda: {"axial": np.ones((2, 1, 8, 8), dtype)})["axial"]
        assert found.dtype == dtype
        with pytest.raises(ValueError, match="read-only"):
            found[0] = 0


def test_slices_that_were_turned_in_memory_are_kept_as_they_look(folder: Path) -> None:
    turned = np.arange(120, dtype=np.float32).reshape(2, 3, 4, 5).transpose(1, 0, 3, 2)[::-1]
    for _ in range(2):
        found = SliceCache(folder, max_bytes=PLENTY).get(key(1), lambda: {"axial": turned})
        np.testing.assert_array_equal(found["axial"], turned)


def test_files_are_plain_npy_without_pickles(folder: Path) -> None:
    fill(SliceCache(folder, max_bytes=PLENTY), 1)
    for number, array in enumerate(slices_of(1).values()):
        np.testing.assert_array_equal(np.load(folder / key(1) / f"{number}.npy", allow_pickle=False), array)
    with pytest.raises(ValueError, match="Object arrays"):
        SliceCache(folder, max_bytes=PLENTY).get(key(2), lambda: {"axial": np.array([{}])})
    assert kept(folder) == {1}


def test_an_open_entry_is_handed_out_again_without_reading_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = SliceCache(folder, max_bytes=PLENTY)
    held = cache.get(key(1), Maker(1))
    monkeypatch.setattr(slice_cache, "open_entry", never)
    again = cache.get(key(1), never)
    assert_are(again, 1)
    assert np.shares_memory(held["axial"], again["axial"])


def test_many_entries_in_use_keep_no_files_open(folder: Path) -> None:
    if not hasattr(psutil.Process, "num_fds"):
        pytest.skip("needs a system that counts open files")
    cache = SliceCache(folder, max_bytes=PLENTY)
    before = psutil.Process().num_fds()
    held = [cache.get(key(number), Maker(number)) for number in range(40)]
    assert psutil.Process().num_fds() <= before + 2
    assert len(held) == 40


def test_where_the_system_maps_no_more_files_they_are_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> torch.Tensor:
        raise RuntimeError("unable to mmap 1024 bytes: Cannot allocate memory (12)")

    fill(SliceCache(folder, max_bytes=PLENTY), 1)
    monkeypatch.setattr(slice_entry.torch, "from_file", refuse)
    found = SliceCache(folder, max_bytes=PLENTY).get(key(1), never)
    assert_are(found, 1)
    assert not found["axial"].flags.writeable


def test_what_the_maker_raises_comes_through_and_leaves_nothing(folder: Path) -> None:
    def fail() -> dict[str, np.ndarray]:
        raise InputError("The image is empty.")

    with pytest.raises(InputError, match=r"The image is empty\."):
        SliceCache(folder, max_bytes=PLENTY).get(key(1), fail)
    assert not folder.exists()


def test_a_key_that_is_no_key_is_refused(folder: Path) -> None:
    with pytest.raises(ValueError, match="a key is what key_of gives"):
        SliceCache(folder, max_bytes=PLENTY).get("../elsewhere", never)


def test_a_bound_below_nothing_is_refused(folder: Path) -> None:
    with pytest.raises(InputError, match="cannot hold -1 bytes"):
        SliceCache(folder, max_bytes=-1)


# Damage


def damaged_entry(folder: Path, damage: Callable[[Path], None]) -> None:
    fill(SliceCache(folder, max_bytes=PLENTY), 1)
    damage(folder / key(1))


def cut_short(place: Path) -> None:
    os.truncate(place / "1.npy", 200)


def emptied(place: Path) -> None:
    (place / "0.npy").write_bytes(b"")


def flipped_bit(place: Path) -> None:
    content = bytearray((place / "0.npy").read_bytes())
    content[-7] ^= 4
    (place / "0.npy").write_bytes(content)


def lost_file(place: Path) -> None:
    (place / "1.npy").unlink()


def lost_table(place: Path) -> None:
    (place / "entry.json").unlink()


def another_view(place: Path) -> None:
    table = (place / "entry.json").read_text()
    (place / "entry.json").write_text(table.replace("axial", "bxial"))


def exchanged_files(place: Path) -> None:
    first, second = (place / f"{n}.npy" for n in range(2))
    content = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(content)


def no_table(place: Path) -> None:
    (place / "entry.json").write_bytes(b'[1, "\xff"')


def another_table(place: Path) -> None:
    (place / "entry.json").write_text("[]")


def anothers_files(place: Path) -> None:
    fill(SliceCache(place.parent, max_bytes=PLENTY), 2)
    for file in (place.parent / key(2)).iterdir():
        (place / file.name).write_bytes(file.read_bytes())


DAMAGES = [
    cut_short,
    emptied,
    flipped_bit,
    lost_file,
    lost_table,
    another_view,
    exchanged_files,
    no_table,
    another_table,
    anothers_files,
]


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_a_damaged_entry_is_said_and_made_again(
    folder: Path, damage: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    damaged_entry(folder, damage)
    make = Maker(1)
    assert_are(SliceCache(folder, max_bytes=PLENTY).get(key(1), make), 1)
    assert make.made == 1
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.getMessage().startswith("The entry 000000000000 of the slice cache is damaged (")
    assert_are(SliceCache(folder, max_bytes=PLENTY).get(key(1), never), 1)
    assert len(caplog.records) == 1


def test_no_flipped_byte_of_an_entry_goes_unnoticed(folder: Path) -> None:
    """Each byte of the table, and some of each file, the header's among them."""
    fill(SliceCache(folder, max_bytes=PLENTY), 1)
    for file in sorted((folder / key(1)).iterdir()):
        content = file.read_bytes()
        for place in range(0, len(content), 1 if file.suffix == ".json" else 37):
            file.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
            make = Maker(1)
            assert_are(SliceCache(folder, max_bytes=PLENTY).get(key(1), make), 1)
            assert make.made == 1, (file.name, place)
    assert kept(folder) == {1}


# A full disk


def test_a_full_disk_loses_no_slices_and_is_said_once(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(self: object, content: bytes) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    cache = SliceCache(folder, max_bytes=PLENTY)
    with monkeypatch.context() as patch:
        patch.setattr(slice_entry._HashedWriter, "write", full)
        for number in (1, 2):
            found = cache.get(key(number), Maker(number))
            assert_are(found, number)
            assert not found["axial"].flags.writeable
    assert [record.getMessage() for record in caplog.records] == [
        f"Slices cannot be kept in '{folder}' (No space left on device), so they stay in memory: free some of the "
        "disk, or choose another folder."
    ]
    assert list(folder.iterdir()) == []
    fill(cache, 1)
    assert kept(folder) == {1}


def test_a_folder_that_cannot_be_made_loses_no_slices(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("")
    fill(SliceCache(tmp_path / "file" / "cache", max_bytes=PLENTY), 1)
    assert "Slices cannot be kept" in caplog.text


# The bound


def test_the_entry_that_was_asked_for_least_recently_goes_first(folder: Path, tmp_path: Path) -> None:
    size = entry_size(tmp_path)
    cache = SliceCache(folder, max_bytes=5 * size)
    for number in range(1, 5):
        fill(cache, number)
        os.utime(folder / key(number) / "entry.json", ns=(number, number))
    fill(cache, 1)
    fill(cache, 5)
    assert kept(folder) == {1, 3, 4, 5}
    fill(cache, 6)
    assert kept(folder) == {1, 4, 5, 6}


def test_the_bound_holds_after_many_entries(folder: Path, tmp_path: Path) -> None:
    size = entry_size(tmp_path)
    cache = SliceCache(folder, max_bytes=40 * size)
    for number in range(120):
        fill(cache, number)
        assert sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) <= cache.max_bytes
    assert len(kept(folder)) > 30


def test_what_is_in_use_is_never_removed(folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    cache = SliceCache(folder, max_bytes=3 * entry_size(tmp_path) + 2048)
    # A part of one array is enough.
    part = cache.get(key(1), Maker(1))["coronal"][1:, 0]
    tensor = torch.tensor(0)
    with pytest.warns(UserWarning, match="not writable"):
        tensor = torch.from_numpy(cache.get(key(2), Maker(2))["axial"])
    for number in range(3, 8):
        fill(cache, number)
        assert kept(folder) >= {1, 2}
    assert part.tobytes() == slices_of(1)["coronal"][1:, 0].tobytes()
    assert tensor.numpy().tobytes() == slices_of(2)["axial"].tobytes()
    assert not caplog.records
    del part, tensor
    fill(cache, 8, 9, 10)
    assert not kept(folder) & {1, 2}


def test_what_does_not_fit_beside_what_is_in_use_stays_in_memory(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cache = SliceCache(folder, max_bytes=2 * entry_size(tmp_path) + 2048)
    held = [cache.get(key(number), Maker(number)) for number in range(1, 5)]
    for number, views in enumerate(held, 1):
        assert_are(views, number)
    assert kept(folder) == {1, 2}
    (record,) = caplog.records
    assert "which what is in use fills: further slices stay in memory" in record.getMessage()


def test_what_is_larger_than_the_bound_costs_no_other_entry(folder: Path, tmp_path: Path) -> None:
    cache = SliceCache(folder, max_bytes=2 * entry_size(tmp_path) + 2048)
    fill(cache, 1)
    large = {"axial": np.zeros((9, 1, 64, 64), np.float32)}
    np.testing.assert_array_equal(cache.get(key(2), lambda: large)["axial"], large["axial"])
    assert kept(folder) == {1}


def test_what_a_killed_process_left_is_swept_once_it_is_old(folder: Path) -> None:
    for name in (".writing-0123456789abcdef", ".removing-0123456789abcdef", ".writing-00000000000000aa", "notes"):
        (folder / name).mkdir(parents=True)
        (folder / name / "0.npy").write_bytes(b"half")
        if not name.endswith("aa"):
            os.utime(folder / name, (1, 1))
    fill(SliceCache(folder, max_bytes=PLENTY), 1)
    assert {place.name for place in folder.iterdir()} == {key(1), ".writing-00000000000000aa", "notes"}


def test_entries_that_nobody_holds_are_let_go(folder: Path) -> None:
    cache = SliceCache(folder, max_bytes=PLENTY)
    found = weakref.ref(cache.get(key(1), Maker(1))["axial"])
    assert found() is None


# Several processes

FILL = """
    import logging, sys
    import numpy as np
    from pathlib import Path
    from AnyMC3DLib.training.slice_cache import SliceCache

    logging.basicConfig(level=logging.INFO)
    made = 0

    def content(number):
        return np.random.default_rng(number).random((4, 1, 64, 64)).astype(np.float16)

    def make(number):
        global made
        made += 1
        return {"axial": content(number)}

    for line in sys.stdin:
        folder, bound, rounds = line.split()
        made, cache = 0, SliceCache(Path(folder), max_bytes=int(bound))
        for number in np.random.default_rng(int(sys.argv[1])).integers(0, 12, int(rounds)).tolist():
            found = cache.get(f"{number:064x}", lambda: make(number))
            assert found["axial"].tobytes() == content(number).tobytes(), number
        print(made, flush=True)
"""


def together(processes: list[subprocess.Popen[str]], line: str) -> list[int]:
    """Give both processes the same work at the same time; how many entries each made."""
    for process in processes:
        assert process.stdin is not None
        process.stdin.write(f"{line}\n")
        process.stdin.flush()
    return [int(process.stdout.readline()) for process in processes if process.stdout is not None]


def test_two_processes_share_a_cache_and_always_get_whole_slices(tmp_path: Path) -> None:
    command = [sys.executable, "-c", textwrap.dedent(FILL)]
    places = os.pathsep.join([str(REPOSITORY), *filter(None, [os.environ.get("PYTHONPATH")])])
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    environment = {**os.environ, "PYTHONPATH": places}
    processes = [
        subprocess.Popen([*command, str(seed)], text=True, env=environment, **pipes)  # type: ignore[call-overload]
        for seed in range(2)
    ]
    try:
        together(processes, f"{tmp_path / 'first'} {PLENTY} 1")
        roomy = together(processes, f"{tmp_path / 'roomy'} {PLENTY} 120")
        narrow = together(processes, f"{tmp_path / 'narrow'} {4 * (4 * 64 * 64 * 2 + 1024)} 150")
    finally:
        ends = [process.communicate(timeout=60) for process in processes]
    # Not a word of damage, though each removes what the other reads.
    assert [(process.returncode, error) for process, (_, error) in zip(processes, ends, strict=True)] == [(0, "")] * 2
    assert kept(tmp_path / "roomy") == set(range(12))
    assert 12 <= sum(roomy) <= 24
    assert min(narrow) > 12
    assert len(kept(tmp_path / "narrow")) <= 5
    assert not list(tmp_path.glob("*/.*"))


def test_of_two_writers_of_one_key_the_first_wins_and_both_have_their_slices(folder: Path) -> None:
    other = SliceCache(folder, max_bytes=PLENTY)

    def make_while_the_other_writes() -> dict[str, np.ndarray]:
        fill(other, 1)
        return slices_of(1)

    found = SliceCache(folder, max_bytes=PLENTY).get(key(1), make_while_the_other_writes)
    assert_are(found, 1)
    written = (folder / key(1)).stat().st_mtime_ns
    assert {place.name for place in folder.iterdir()} == {key(1)}
    fill(other, 1)
    assert (folder / key(1)).stat().st_mtime_ns == written


def test_an_entry_that_is_removed_while_it_is_read_is_made_again_without_a_word(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    cache, real = SliceCache(folder, max_bytes=PLENTY), slice_entry._mapped
    fill(cache, 1)

    def remove_first(path: Path) -> np.ndarray:
        cache._remove(key(1))
        return real(path)

    make = Maker(1)
    with monkeypatch.context() as patch:
        patch.setattr(slice_entry, "_mapped", remove_first)
        assert_are(cache.get(key(1), make), 1)
    assert make.made == 1
    assert not caplog.records


# Keys


@pytest.fixture(scope="module")
def spec() -> PluginSpec:
    backbone = tiny_backbone()
    return plugin_spec(backbone, views=(view(backbone), view(backbone, "coronal")))


def with_first_view(spec: PluginSpec, **changes: object) -> PluginSpec:
    first, *others = spec.views
    return dataclasses.replace(spec, views=(dataclasses.replace(first, **changes), *others))  # type: ignore[arg-type]


def test_the_same_question_has_the_same_key(spec: PluginSpec) -> None:
    digests = {"image": "a", "image_region": "b"}
    again = PluginSpec.from_dict(json.loads(json.dumps(spec.to_dict())))
    assert key_of(spec, digests) == key_of(again, dict(reversed(digests.items())))
    assert slice_cache.KEY.fullmatch(key_of(spec, digests))


def test_another_spec_another_image_or_another_type_has_another_key(
    spec: PluginSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = spec.views[0]
    brighter = dataclasses.replace(first.preprocessing, intensity=IntensitySpec(percentiles=(1.0, 99.0)))
    keys = [
        key_of(spec, {"image": "a"}),
        key_of(spec, {"image": "b"}),
        key_of(spec, {"other": "a"}),
        key_of(spec, {"image": "a", "image_region": "c"}),
        key_of(spec, {"image": "a"}, dtype=np.float32),
        key_of(with_first_view(spec, name="renamed"), {"image": "a"}),
        key_of(with_first_view(spec, source="other"), {"image": "a"}),
        key_of(with_first_view(spec, preprocessing=brighter), {"image": "a"}),
        key_of(dataclasses.replace(spec, views=spec.views[:1]), {"image": "a"}),
    ]
    monkeypatch.setattr(slice_cache, "FORMAT_VERSION", slice_cache.FORMAT_VERSION + 1)
    keys.append(key_of(spec, {"image": "a"}))
    assert len(set(keys)) == len(keys)


def test_what_does_not_change_the_slices_does_not_change_the_key(spec: PluginSpec) -> None:
    other_mean = dataclasses.replace(spec.views[0].preprocessing, mean=(0.1, 0.2, 0.3), std=(1.0, 2.0, 3.0))
    other = dataclasses.replace(with_first_view(spec, preprocessing=other_mean), name="Another", temperature=2.0)
    assert key_of(other, {"image": "a"}) == key_of(spec, {"image": "a"})


def test_a_file_is_known_by_its_content_alone(tmp_path: Path) -> None:
    (tmp_path / "a.nrrd").write_bytes(b"content")
    (tmp_path / "b.nrrd").write_bytes(b"content")
    (tmp_path / "c.nrrd").write_bytes(b"Content")
    a, b, c = (content_digest(tmp_path / f"{name}.nrrd") for name in "abc")
    assert a == b != c
    assert content_digest(str(tmp_path / "a.nrrd")) == a


def test_a_folder_is_known_by_all_its_files(tmp_path: Path) -> None:
    digests = set()
    for number, files in enumerate([{"1": b"a", "2": b"b"}, {"1": b"a", "2": b"c"}, {"1": b"a"}, {"1": b"ab"}]):
        place = tmp_path / str(number)
        place.mkdir()
        for name, content in files.items():
            (place / name).write_bytes(content)
        digests.add(content_digest(place))
    assert len(digests) == 4


def test_a_header_is_known_by_the_voxels_it_names(tmp_path: Path) -> None:
    header = "NRRD0004\ntype: uint8\ndimension: 3\nsizes: 2 2 2\nencoding: raw\ndata file: {}\n"
    for name, content in (("a", b"01234567"), ("b", b"01234567"), ("c", b"01234568")):
        (tmp_path / f"{name}.nhdr").write_text(header.format(f"voxels-of-{name}.raw"))
        (tmp_path / f"voxels-of-{name}.raw").write_bytes(content)
    a, b, c = (content_digest(tmp_path / f"{name}.nhdr") for name in "abc")
    assert a == b != c


def test_arrays_volumes_and_regions_are_known_by_what_they_hold() -> None:
    array = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
    shifted = np.eye(4)
    shifted[0, 3] = 1
    contents = [
        array, array.reshape(4, 3, 2), array.astype(np.int32), array + 1,
        Volume(array, np.eye(4)), Volume(array, shifted), Volume(array + 1, np.eye(4)),
        Box((0, 0, 0), (1, 1, 1)), Box((0, 0, 0), (1, 1, 2)),
        Segment(Volume(array, np.eye(4))), Segment(Volume(array, np.eye(4)), 1), Segment(Volume(array, shifted), 1),
    ]  # fmt: skip
    digests = [content_digest(content) for content in contents]
    assert len(set(digests)) == len(digests)
    assert content_digest(np.asfortranarray(array)) == digests[0]
    assert content_digest(Volume(array.copy(), np.eye(4), name="another")) == digests[4]
    assert content_digest(Box((0.0, np.float64(0), 0), (1, 1, 1.0))) == digests[7]


def test_a_volume_on_disk_changes_its_digest_with_its_geometry(tmp_path: Path) -> None:
    write_volume(tmp_path / "a.nrrd", study())
    moved = study().ijk_to_ras.copy()
    moved[0, 3] += 1
    write_volume(tmp_path / "b.nrrd", dataclasses.replace(study(), ijk_to_ras=moved))
    assert content_digest(tmp_path / "a.nrrd") != content_digest(tmp_path / "b.nrrd")


@pytest.mark.parametrize("name", ["absent.nrrd", "absent.mhd"])
def test_a_file_that_is_not_there_is_refused_in_one_sentence(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match=r"absent\.\w+'.*check the path\.$"):
        content_digest(tmp_path / name)
