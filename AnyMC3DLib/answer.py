"""From what a plugin's members say of a study to its answer: probabilities, decisions, warnings."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from .heatmap import class_hot_spots
from .prediction import UNCERTAIN, Prediction, RelevanceMap, SliceWeights, is_uncertain
from .preprocessing import Slices
from .spec import PluginSpec


@dataclasses.dataclass(frozen=True)
class MemberAnswer:
    """What one member says: probabilities [classes], weights of slices [S] and of views, perhaps maps.

    `beyond` is whether the study is unlike those that the member has learnt from, None where it cannot tell.
    """

    probabilities: npt.NDArray[np.float64]
    slice_weights: dict[str, Tensor]
    view_weights: dict[str, float]
    maps: dict[str, RelevanceMap] | None
    beyond: bool | None = None


def patches_inside(slices: Slices, shape: tuple[int, int]) -> np.ndarray:
    """Whether half of each patch of a map (h, w) or more shows the image, not padding: bool [h, w].

    Of a row or column of patches that are all padding for the most part, those count that show anything.
    """
    flags = []
    for inside, count in zip(slices.inside, shape, strict=True):
        share = np.array([part.mean() for part in np.array_split(inside, count)])
        flags.append(share >= min(0.5, share.max()))
    return flags[0][:, None] & flags[1][None, :]


def decide(spec: PluginSpec, probabilities: dict[str, float]) -> dict[str, bool]:
    """Which classes are decided for: at the positive's threshold, the most probable, or each at its threshold."""
    thresholds = {c.name: c.threshold for c in spec.classes}
    names = list(probabilities)
    if spec.task_type == "binary":
        positive = probabilities[names[1]] >= thresholds[names[1]]
        return {names[0]: not positive, names[1]: positive}
    if spec.task_type == "multiclass":
        best = max(names, key=lambda name: probabilities[name])
        return {name: name == best for name in names}
    return {name: probabilities[name] >= thresholds[name] for name in names}


def predicted(
    spec: PluginSpec,
    answers: Sequence[MemberAnswer],
    slices: Mapping[str, Slices],
    provenance: Mapping[str, Any],
    *,
    remarks: Sequence[str] = (),
) -> Prediction:
    """The members' answers as one: their mean, the decisions, hot spots, and what a person should be told.

    `remarks` say what of the study's images the plugin has not seen in training.
    """
    mean = np.mean([a.probabilities for a in answers], axis=0)
    probabilities = {c.name: float(p) for c, p in zip(spec.classes, mean, strict=True)}
    decisions = decide(spec, probabilities)
    weights = {
        name: SliceWeights(np.mean([a.slice_weights[name].numpy() for a in answers], axis=0), s.centres, s.axis)
        for name, s in slices.items()
    }
    maps = _mean_maps([a.maps for a in answers if a.maps is not None])
    explained = any(m.classes is not None for m in maps.values())
    spots = {name: class_hot_spots(maps, n) for n, name in enumerate(spec.explained)} if explained else {}
    beyond = _is_beyond(answers, remarks)
    return Prediction(
        spec=spec,
        probabilities=probabilities,
        decisions=decisions,
        slices=weights,
        view_weights={n: float(np.mean([a.view_weights[n] for a in answers])) for n in slices},
        maps=maps,
        hot_spots=spots,
        warnings=[*_out_of_scope(spec, answers, remarks), *_warnings(spec, probabilities, decisions, slices)],
        provenance=dict(provenance),
        beyond=beyond,
    )


def half_or_more(votes: Sequence[bool | None]) -> bool:
    """Whether half of an ensemble's members or more say yes: each knows the studies of its own folds alone."""
    return 2 * sum(map(bool, votes)) >= len(votes)


def _is_beyond(answers: Sequence[MemberAnswer], remarks: Sequence[str]) -> bool | None:
    if all(a.beyond is None for a in answers):
        return True if remarks else None
    return bool(remarks) or half_or_more([a.beyond for a in answers])


def _out_of_scope(spec: PluginSpec, answers: Sequence[MemberAnswer], remarks: Sequence[str]) -> list[str]:
    found = [f"Out of scope? {remark}" for remark in remarks]
    if half_or_more([a.beyond for a in answers]) and spec.scope is not None:
        found.append(
            f"Out of scope? The pictures are unlike those of the {spec.scope.cases} studies that the plugin learnt "
            "from: check that it is the right image, and that it was made like theirs."
        )
    return found


def _mean_maps(members: Sequence[Mapping[str, RelevanceMap]]) -> dict[str, RelevanceMap]:
    if not members:
        return {}
    return {
        name: RelevanceMap(
            _mean([m[name].attention for m in members]), _mean([m[name].classes for m in members]), first.ijk_to_ras
        )
        for name, first in members[0].items()
    }


def _mean(maps: Sequence[npt.NDArray[np.float32] | None]) -> npt.NDArray[np.float32] | None:
    return None if maps[0] is None else np.mean(maps, axis=0, dtype=np.float32)


def _warnings(
    spec: PluginSpec, probabilities: dict[str, float], decisions: dict[str, bool], slices: Mapping[str, Slices]
) -> list[str]:
    found = []
    thresholds = {c.name: c.threshold for c in spec.classes}
    for name in spec.explained:
        if not is_uncertain(spec, name, probabilities=probabilities, decisions=decisions):
            continue
        if abs(probabilities[name] - thresholds[name]) < UNCERTAIN:
            found.append(f"Uncertain: '{name}' has a probability of {probabilities[name]:.2f}, at its threshold.")
        else:
            found.append(f"Uncertain: no class reaches its threshold; '{name}' comes nearest.")
    for view in spec.views:
        array = slices[view.name].array
        most = view.preprocessing.slices.count or 1
        if len(array) == 1 < most:
            found.append(
                f"View '{view.name}' has one slice alone, but the plugin looks at {most}: is this the whole scan?"
            )
        if view.preprocessing.intensity.kind == "window" and np.mean((array > 0) & (array < 1)) < 0.01:
            found.append(
                f"In view '{view.name}' nearly all values lie outside the intensity window: is this the right image?"
            )
    return found
