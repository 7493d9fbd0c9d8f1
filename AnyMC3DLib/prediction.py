"""What travels in and out of the classifier. Needs NumPy and SimpleITK alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from .errors import InputError
from .geometry import Affine
from .preprocessing import Region
from .spec import PluginSpec, ViewSpec
from .volume import Volume

UNCERTAIN = 0.05  # a probability this near its threshold is said to be uncertain


@dataclasses.dataclass(frozen=True)
class Study:
    """The images of one patient's study by the name of their source, and the region to look at in each."""

    images: Mapping[str, Volume]
    regions: Mapping[str, Region] = dataclasses.field(default_factory=dict)

    def image(self, source: str) -> Volume:
        """The image `source`; raises InputError if the study lacks it."""
        if source not in self.images:
            have = ", ".join(self.images) or "none"
            raise InputError(f"The plugin needs an image '{source}', but the study has {have}: name it.")
        return self.images[source]

    def region_for(self, view: ViewSpec) -> Region | None:
        """The region that `view` looks at; None where it looks at the whole or finds its region by itself."""
        return self.regions.get(view.source) if view.preprocessing.region.comes_with_study else None


@dataclasses.dataclass(frozen=True)
class RelevanceMap:
    """Where in one view the answer came from, as densities: 1 is a patch's even share of all views' relevance.

    `attention` [S, h, w] is the paper's map, the same for all classes (None for a CNN); `classes` [K, S, h, w] is
    the class map, one for each class that has a logit. `ijk_to_ras` maps (column, row, slice) of the map to RAS.
    """

    attention: npt.NDArray[np.float32] | None
    classes: npt.NDArray[np.float32] | None
    ijk_to_ras: Affine


@dataclasses.dataclass(frozen=True)
class SliceWeights:
    """Per slice of a view its weight in the fusion [S] (the sum is 1) and its centre in RAS [S, 3]."""

    weights: npt.NDArray[np.float32]
    centres: npt.NDArray[np.float64]
    axis: str


@dataclasses.dataclass(frozen=True)
class HotSpot:
    """A local maximum of a class's heat: RAS millimetres, and the heat in [0, 1]."""

    ras: tuple[float, float, float]
    heat: float


@dataclasses.dataclass(frozen=True)
class Prediction:
    """A plugin's answer for one study.

    `beyond` says whether the study is unlike those that the plugin has learnt from; None where it cannot tell.
    """

    spec: PluginSpec
    probabilities: dict[str, float]
    decisions: dict[str, bool]
    slices: dict[str, SliceWeights]
    view_weights: dict[str, float]
    maps: dict[str, RelevanceMap]
    hot_spots: dict[str, list[HotSpot]]
    warnings: list[str]
    provenance: dict[str, Any]
    beyond: bool | None = None

    @property
    def decided(self) -> list[str]:
        """The classes decided for."""
        return [name for name, yes in self.decisions.items() if yes]

    def to_dict(self) -> dict[str, Any]:
        """The answer as JSON values, without the maps."""
        views = {
            name: {
                "axis": s.axis,
                "weight": self.view_weights[name],
                "slices": [
                    {"weight": float(w), "ras": [round(float(x), 3) for x in c]}
                    for w, c in zip(s.weights, s.centres, strict=True)
                ],
            }
            for name, s in self.slices.items()
        }
        return {
            "plugin": {"name": self.spec.name, "version": self.spec.version, "intended_use": self.spec.intended_use},
            "probabilities": self.probabilities,
            "decisions": self.decisions,
            "uncertain": {
                name: is_uncertain(self.spec, name, probabilities=self.probabilities, decisions=self.decisions)
                for name in self.probabilities
            },
            "thresholds": {c.name: threshold_of(self, c.name) for c in self.spec.classes},
            "views": views,
            "hot_spots": {
                name: [{"ras": list(spot.ras), "heat": spot.heat} for spot in spots]
                for name, spots in self.hot_spots.items()
            },
            "beyond_training": self.beyond,
            "warnings": self.warnings,
            "provenance": self.provenance,
        }


def threshold_of(prediction: Prediction, class_name: str) -> float:
    """The probability from which the class is decided for; of a binary task's negative, what the positive leaves."""
    spec = prediction.spec
    thresholds = {c.name: c.threshold for c in spec.classes}
    if spec.task_type == "binary" and class_name == spec.classes[0].name:
        return round(1 - spec.classes[1].threshold, 9)
    return thresholds[class_name]


def is_uncertain(
    spec: PluginSpec, name: str, *, probabilities: Mapping[str, float], decisions: Mapping[str, bool]
) -> bool:
    """Whether class `name` lies at its threshold, or is the most probable one of a multiclass task without reaching it.

    Both classes of a binary task are judged by the positive's probability.
    """
    judged = spec.classes[1].name if spec.task_type == "binary" else name
    above = probabilities[judged] - next(c.threshold for c in spec.classes if c.name == judged)
    if spec.task_type == "multiclass":
        return decisions[name] and above < UNCERTAIN
    return abs(above) < UNCERTAIN
