"""The demonstration: a cohort of made-up heads, a plugin trained on some, and its answers for others."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from .backbone import Backbone
from .classifier import Classifier
from .files import write_bytes
from .geometry import transform_points
from .heatmap import DISPLAY_THRESHOLD, heatmap
from .phantom import Phantom, head_phantom
from .prediction import Prediction, Study
from .progress import ProgressCallback
from .training.cases import Case
from .training.run import TrainingResult, train_plugin
from .training.task import read_task
from .volume import write_volume

TASK = "HeadLesionPhantom"
SOURCE = "image"
COUNTS = {"train": 96, "val": 24, "test": 8}


@dataclasses.dataclass(frozen=True)
class DemoCase:
    """An unseen phantom and the plugin's answer. `miss_mm` is how far the heat's maximum lies from the lesion's
    nearest voxel, None without a lesion."""

    number: int
    phantom: Phantom
    prediction: Prediction
    hottest: float
    miss_mm: float | None


@dataclasses.dataclass(frozen=True)
class DemoResult:
    """What the demonstration left behind."""

    training: TrainingResult
    cases: list[DemoCase]
    plugin: Path
    picture: Path
    report: Path


def cohort(seed: int) -> list[Case]:
    """The phantoms of training, validation and test; every second one has a lesion."""
    cases, number = [], 0
    for split, count in COUNTS.items():
        for _ in range(count):
            cases.append(_case(seed * 10_000 + number, split, lesion=number % 2 == 1))
            number += 1
    return cases


def _case(number: int, split: str, *, lesion: bool) -> Case:
    def load() -> Study:
        return Study({SOURCE: head_phantom(number, lesion=lesion).volume})

    return Case(str(number), split, int(lesion), load)


def run_demo(
    folder: str | Path, backbone: Backbone, *, seed: int = 0, progress: ProgressCallback | None = None
) -> DemoResult:
    """Train, classify the unseen phantoms, and write the plugin, the clearest study, its heatmap and its report."""
    from .picture import draw_picture
    from .report import write_report

    place = Path(folder)
    plugin = place / "head-lesion-phantom.safetensors"
    cases = cohort(seed)
    training = train_plugin(read_task(TASK), cases, backbone, plugin, progress=progress)
    engine = Classifier(backbone)
    name = engine.load(plugin)
    seen = [_classified(engine, name, case) for case in cases if case.split == "test"]
    engine.unload(name)
    shown = max(seen, key=lambda case: (case.miss_mm is not None, case.prediction.decisions["lesion"], case.hottest))
    study = Study({SOURCE: shown.phantom.volume})
    write_volume(place / "study.nrrd", shown.phantom.volume)
    write_volume(place / "heatmap.nrrd", heatmap(shown.prediction, shown.phantom.volume, class_name="lesion"))
    picture = place / "picture.png"
    title = f"Phantom {shown.number}, never seen in training"
    write_bytes(picture, draw_picture(shown.prediction, study, class_name="lesion", title=title))
    report = write_report(place, predictions={name: shown.prediction}, study=study, title=title)
    return DemoResult(training, seen, plugin, picture, report)


def _classified(engine: Classifier, name: str, case: Case) -> DemoCase:
    number, lesion = int(case.id), bool(case.target)
    phantom = head_phantom(number, lesion=lesion)
    prediction = engine.classify(Study({SOURCE: phantom.volume}), plugins=[name])[name]
    heat = heatmap(prediction, phantom.volume, class_name="lesion").array
    miss = None
    if lesion:
        peak = np.array(np.unravel_index(heat.argmax(), heat.shape))
        miss = _distance_mm(phantom, peak)
    return DemoCase(number, phantom, prediction, float(heat.max()), miss)


def _distance_mm(phantom: Phantom, voxel: np.ndarray) -> float:
    # Asked first, because two ways to the same point differ by rounding.
    if phantom.mask[tuple(voxel)]:
        return 0.0
    affine = phantom.volume.ijk_to_ras
    inside = transform_points(affine, np.argwhere(phantom.mask)[:, ::-1])
    return float(np.linalg.norm(inside - transform_points(affine, voxel[::-1]), axis=1).min())


def table_of(cases: Sequence[DemoCase]) -> list[list[str]]:
    """A row for each unseen phantom: number, truth, probability, hottest voxel, and whether that lies in the lesion."""
    rows = []
    for case in cases:
        # Below the class's threshold no heat is drawn, however warm.
        silent = case.hottest < DISPLAY_THRESHOLD or not case.prediction.decisions["lesion"]
        place = "no lesion, no heat shown" if silent else "heat although there is no lesion"
        if case.miss_mm is not None:
            place = "in the lesion" if case.miss_mm == 0 else f"{case.miss_mm:.0f} mm beside the lesion"
        truth = "no lesion" if case.miss_mm is None else "lesion"
        probability = f"{case.prediction.probabilities['lesion']:.3f}"
        rows.append([str(case.number), truth, probability, f"{case.hottest:.2f}", place])
    return rows
