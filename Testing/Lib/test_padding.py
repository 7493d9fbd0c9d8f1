"""What a CT scanner pads is air, and images that are no CT stay as they are."""

from __future__ import annotations

import numpy as np
import pytest
from volumes import anatomy, straight

from AnyMC3DLib.padding import without_padding
from AnyMC3DLib.preprocessing import preprocess
from AnyMC3DLib.spec import IntensitySpec, PreprocessingSpec
from AnyMC3DLib.volume import Volume


def scan(padding: float, dtype: type = np.int16) -> Volume:
    array = anatomy().astype(dtype)
    array[:, :3], array[:, :, -2:] = padding, padding
    return Volume(array, straight())


@pytest.mark.parametrize("dtype", [np.int16, np.int32, np.float32])
@pytest.mark.parametrize("padding", [-2000, -3024, -32768])
def test_padding_of_a_ct_becomes_air_and_nothing_else_changes(padding: int, dtype: type) -> None:
    volume = scan(padding, dtype)
    clean = without_padding(volume)
    assert clean.array.dtype == dtype
    assert np.array_equal(clean.array, scan(-1024, dtype).array)
    assert volume.array.min() == padding


@pytest.mark.parametrize(
    "intensity",
    [
        IntensitySpec(kind="percentile"),
        IntensitySpec(kind="zscore"),
        IntensitySpec(kind="zscore", foreground=True),
        IntensitySpec(kind="window", windows=("lung",)),
    ],
)
def test_slices_of_a_padded_ct_are_those_of_one_with_air_there(intensity: IntensitySpec) -> None:
    spec = PreprocessingSpec(size=(24, 28), intensity=intensity)
    padded, clean = preprocess(scan(-3024), spec), preprocess(scan(-1024), spec)
    assert np.array_equal(padded.array, clean.array)


def phase() -> np.ndarray:
    array = np.random.default_rng(0).integers(-4096, 4096, (6, 20, 24)).astype(np.int16)
    array[:, :4] = -4096
    return array


def without_air() -> np.ndarray:
    array = (anatomy() + 1500).astype(np.int16)
    array[:, :3] = -9999
    return array


@pytest.mark.parametrize(
    "array", [phase(), without_air(), np.zeros((1, 5, 6, 3), np.uint8), anatomy().astype(np.int16)]
)
def test_other_images_stay_as_they_are(array: np.ndarray) -> None:
    volume = Volume(array, straight())
    assert without_padding(volume) is volume
