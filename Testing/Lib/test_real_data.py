"""Real images through the shell, and real data sets with their official counts. Skipped where they are absent."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from networks import plugin_spec, three_views, tiny_backbone, write_plugin
from shell import anymc3d, findable_backbone

from AnyMC3DLib.spec import IntensitySpec, RegionSpec, SliceSpec
from AnyMC3DLib.training.cases import read_cases
from AnyMC3DLib.volume import read_volume

# Three views, so that slices are cut along every axis of these oblique and anisotropic volumes.
VIEW = {
    "size": (64, 64),
    "slices": SliceSpec(policy="at_most", count=8),
    "intensity": IntensitySpec(),
    "region": RegionSpec(kind="foreground"),
}


@pytest.fixture(scope="module")
def plugin(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A plugin of random numbers and the weights of its backbone."""
    folder = tmp_path_factory.mktemp("plugin")
    backbone, weights = findable_backbone(folder)
    return write_plugin(folder / "plugin.safetensors", backbone, views=three_views(backbone, **VIEW)), weights


@pytest.mark.parametrize("name", ["MR_Gd.nii.gz", "CT_AVM.nii.gz", "chris_t1.nii.gz"])
def test_a_real_volume_gets_a_heatmap_on_its_own_grid(
    name: str, real_data: Path, plugin: tuple[Path, Path], tmp_path: Path
) -> None:
    place = tmp_path / "heat.nrrd"
    arguments = ["--plugin", plugin[0], "--weights", plugin[1], "--device", "cpu", "--heatmap", place]
    assert anymc3d("classify", real_data / name, *arguments) == 0
    image, heat = read_volume(real_data / name), read_volume(place)
    assert heat.grid == image.grid
    assert np.allclose(heat.ijk_to_ras, image.ijk_to_ras, rtol=0, atol=1e-4)
    assert heat.array.dtype == np.float32
    assert 0 <= heat.array.min() <= heat.array.max() <= 1


@pytest.mark.parametrize(
    ("name", "counts", "shape"),
    [
        ("adrenalmnist3d_64.npz", {"train": 1188, "val": 98, "test": 298}, (64, 64, 64)),
        ("pneumoniamnist.npz", {"train": 4708, "val": 524, "test": 624}, (1, 28, 28)),
    ],
)
def test_a_medmnist_file_has_its_official_splits(
    name: str, counts: dict[str, int], shape: tuple[int, ...], real_data: Path
) -> None:
    cases = read_cases(real_data / name, plugin_spec(tiny_backbone()))
    assert Counter(case.split for case in cases) == counts
    assert {case.target for case in cases} == {0, 1}
    assert cases[-1].load().image("image").grid == shape
