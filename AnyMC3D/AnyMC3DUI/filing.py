"""From a finished classification to the answers in the scene."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import slicer

from .handover import ijk_to_ras_of
from .plugin_folder import PluginCard
from .results import ResultStore, StudyResults
from .study import Study


def file_answers(
    store: ResultStore, study: Study, predictions: Mapping[str, Any], cards: Iterable[PluginCard]
) -> list[StudyResults]:
    """Put the answers into the scene, each beside the first volume that its plugin looked at."""
    groups: dict[str, tuple[slicer.vtkMRMLVolumeNode, dict[str, Any]]] = {}
    for card in cards:
        volume = study.images[card.sources[0]]
        groups.setdefault(volume.GetID(), (volume, {}))[1][card.name] = predictions[card.name]
    return [store.write(volume, answers) for volume, answers in groups.values()]


def grid_of(volume: slicer.vtkMRMLVolumeNode) -> tuple[tuple[int, int, int], Any]:
    """The shape [k, j, i] of a volume and its affine to RAS, for heat to be rendered on."""
    width, height, depth = volume.GetImageData().GetDimensions()
    return (depth, height, width), ijk_to_ras_of(volume)
