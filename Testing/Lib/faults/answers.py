"""What a study must give: slices, places and probabilities, compared with those of its clean twin."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import torch
from networks import tiny_backbone, tiny_network, view

from AnyMC3DLib.classifier import Classifier
from AnyMC3DLib.errors import AnyMC3DError
from AnyMC3DLib.prediction import Prediction, Study
from AnyMC3DLib.preprocessing import Slices, preprocess
from AnyMC3DLib.spec import IntensitySpec, PreprocessingSpec, SliceSpec
from AnyMC3DLib.volume import Volume, read_volume

from .fault import Outcome, refused

SIZE = (32, 32)
WINDOW = IntensitySpec(kind="window", windows=("lung",))
PERCENTILE, ZSCORE = IntensitySpec(kind="percentile"), IntensitySpec(kind="zscore", foreground=False)


def specs_for(twin: Volume) -> tuple[PreprocessingSpec, ...]:
    """Three ways to cut a volume; slabs are as thick as one and a half of its voxels."""
    thickness = 1.53 * float(np.median(twin.spacing))
    count = max(twin.grid) * float(twin.spacing.max()) / thickness
    slabs = SliceSpec(policy="thickness", thickness_mm=thickness * max(1.0, count / 40))
    return (
        PreprocessingSpec(axis="axial", size=(24, 28), intensity=WINDOW, slices=SliceSpec(policy="at_most", count=5)),
        PreprocessingSpec(axis="coronal", size=(20, 24), intensity=PERCENTILE, slices=slabs),
        PreprocessingSpec(
            axis="sagittal",
            size=(24, 20),
            intensity=ZSCORE,
            slices=SliceSpec(policy="at_most", count=7, sampling="linear"),
        ),
    )


@functools.cache
def engine() -> Classifier:
    """One engine a process: a tiny transformer and a plugin that looks along all three axes."""
    torch.set_num_threads(1)
    backbone = tiny_backbone(depth=1)
    few = SliceSpec(policy="at_most", count=3)
    views = (
        view(backbone, "axial", size=SIZE, intensity=WINDOW, slices=few),
        view(backbone, "coronal", size=SIZE, intensity=PERCENTILE, slices=few),
        view(backbone, "sagittal", size=SIZE, intensity=ZSCORE, slices=few),
    )
    built = Classifier(backbone, batch=16)
    network = tiny_network(backbone, views=views)
    built.add(network.spec, [network])
    return built


def answer(volume: Volume) -> Prediction:
    """What the tiny plugin says."""
    return engine().classify(Study({"image": volume}), maps="none")["Test"]


def same_as_twin(volume: Volume, twin: Volume, *, tolerance: float = 2e-4, reach: float = 0.0) -> Outcome:
    """WORKED, if the volume gives the slices, places and probabilities of its clean twin.

    `tolerance` is for pixels, `reach` for places: millimetres beyond the rounding of a header.
    """
    reach += 2e-3 * float(twin.spacing.min()) + 1e-6 * float(np.abs(twin.ijk_to_ras).max())
    for spec in specs_for(twin):
        found, expected = preprocess(volume, spec), preprocess(twin, spec)
        assert_same_slices(found, expected, tolerance=tolerance, reach=reach)
    found, expected = answer(volume), answer(twin)
    for name, probability in expected.probabilities.items():
        assert abs(found.probabilities[name] - probability) < 10 * tolerance, f"{name}: another probability"
    for name, weights in expected.slices.items():
        np.testing.assert_allclose(found.slices[name].centres, weights.centres, atol=reach, err_msg=name)
    return Outcome.WORKED


def assert_same_slices(found: Slices, expected: Slices, *, tolerance: float, reach: float) -> None:
    """Raise AssertionError unless pictures, axis and places are the same."""
    assert found.axis == expected.axis, f"cut along {found.axis}, not {expected.axis}"
    assert found.array.shape == expected.array.shape, f"{found.array.shape}, not {expected.array.shape}"
    np.testing.assert_allclose(found.centres, expected.centres, atol=reach)
    np.testing.assert_allclose(found.array, expected.array, atol=tolerance)


def judged(
    place: Path, twin: Volume, *, may_refuse: bool = False, tolerance: float = 2e-4, reach: float = 0.0
) -> Outcome:
    """Read what lies at `place` and compare it with its twin; a sentence that names it is as good if `may_refuse`."""
    try:
        volume = read_volume(place)
    except AnyMC3DError as error:
        assert may_refuse, f"refused: {error}"
        return refused(error, names=(place.name,), private=("Doe",))
    return same_as_twin(volume, twin, tolerance=tolerance, reach=reach)


def must_be_refused(place: Path, *, names: tuple[str, ...] = ()) -> Outcome:
    """REFUSED, if what lies at `place` is refused on the way to an answer, in one sentence that names it."""
    try:
        answer(read_volume(place))
    except AnyMC3DError as error:
        return refused(error, names=(place.name, *names), private=("Doe",))
    raise AssertionError("accepted")
