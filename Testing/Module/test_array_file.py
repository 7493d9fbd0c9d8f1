"""Arrays in files, piece by piece."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from AnyMC3DUI import array_file
from AnyMC3DUI.array_file import read_in_pieces, write_in_pieces

from AnyMC3DLib.errors import AnyMC3DError, InputError


def run(pieces: Generator[float, None, Any]) -> tuple[list[float], Any]:
    """How far each piece came, and the value."""
    far = []
    while True:
        try:
            far.append(next(pieces))
        except StopIteration as end:
            return far, end.value


def arrays() -> dict[str, npt.NDArray]:
    numbers = np.random.default_rng(0).normal(size=(7, 11, 13)) * 100
    return {
        "float64": numbers,
        "int16": numbers.astype(np.int16),
        "big-endian": numbers.astype(">i2"),
        "unsigned": numbers.astype(np.uint8),
        "colour": np.arange(5 * 6 * 3, dtype=np.uint8).reshape(1, 5, 6, 3),
        "reversed": numbers[:, ::-1],
        "every second": numbers[::2, :, 1::2],
        "in Fortran's order": np.asfortranarray(numbers),
        "read-only": np.broadcast_to(np.float32(3), (4, 5, 6)),
        "one voxel": np.ones((1, 1, 1), dtype=np.int8),
    }


@pytest.mark.parametrize("kind", arrays())
@pytest.mark.parametrize("piece", [64, 1 << 20])
def test_an_array_is_the_same_after_its_file(
    tmp_path: Path, kind: str, piece: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(array_file, "PIECE_BYTES", piece)
    array, place = arrays()[kind], tmp_path / "array.npy"
    far, _ = run(write_in_pieces(place, array))
    assert far == sorted(far) and far[-1] == 1
    known = np.load(place)
    assert known.dtype == array.dtype and np.array_equal(known, array)
    far, back = run(read_in_pieces(place))
    assert far == sorted(far) and far[-1] == 1
    assert back.dtype == array.dtype and np.array_equal(back, array) and back.flags.writeable
    assert not place.exists()


def test_large_arrays_come_in_many_pieces(tmp_path: Path) -> None:
    array = np.zeros((20, 512, 512), dtype=np.int16)
    far, _ = run(write_in_pieces(tmp_path / "a.npy", array))
    assert len(far) == array.nbytes >> 20
    assert len(run(write_in_pieces(tmp_path / "b.npy", array[:, ::-1]))[0]) == len(array)


def test_what_is_not_written_to_its_end_is_not_there(tmp_path: Path) -> None:
    place = tmp_path / "array.npy"
    pieces = write_in_pieces(place, np.zeros((4, 1024, 1024), dtype=np.int16))
    next(pieces)
    assert place.exists()
    pieces.close()
    assert not place.exists()
    never_begun = write_in_pieces(place, np.zeros((2, 2, 2)))
    never_begun.close()
    assert not place.exists()


def test_a_folder_that_is_gone_is_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be handed over: No such file"):
        run(write_in_pieces(tmp_path / "absent" / "array.npy", np.zeros((2, 2, 2))))


def test_a_file_is_never_written_over(tmp_path: Path) -> None:
    place = tmp_path / "array.npy"
    place.write_bytes(b"other")
    with pytest.raises(InputError):
        run(write_in_pieces(place, np.zeros((2, 2, 2))))


@pytest.mark.parametrize("content", [b"", b"not an array", None])
def test_a_damaged_file_is_told_and_taken_away(tmp_path: Path, content: bytes | None) -> None:
    place = tmp_path / "array.npy"
    np.save(place, np.zeros((20, 20, 20)))
    place.write_bytes(place.read_bytes()[:-8] if content is None else content)
    with pytest.raises(AnyMC3DError, match="ask for it again"):
        run(read_in_pieces(place))
    assert not place.exists()
    with pytest.raises(AnyMC3DError, match="ask for it again"):
        run(read_in_pieces(place))


def test_an_array_of_objects_is_refused(tmp_path: Path) -> None:
    place = tmp_path / "array.npy"
    np.save(place, np.array([{}, None], dtype=object), allow_pickle=True)
    with pytest.raises(AnyMC3DError):
        run(read_in_pieces(place))
