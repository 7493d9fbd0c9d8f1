"""From a finished classification to the answers in the scene."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import slicer

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
    # As it was handed over: the volume may have been moved, or show another frame, since.
    return [store.write(volume, answers, image=study.handed_image(volume)) for volume, answers in groups.values()]
