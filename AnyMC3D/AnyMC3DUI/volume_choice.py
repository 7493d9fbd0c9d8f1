"""Which volume of the scene is meant by each of a plugin's sources: by its name, its place, and what is open."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

import slicer

from .earlier import nodes_of_class
from .heat_look import HEAT_ATTRIBUTE

ONLY_SOURCE = "image"  # what plugins with one image call it


def candidates(scene: slicer.vtkMRMLScene) -> list[slicer.vtkMRMLVolumeNode]:
    """The volumes that a person sees and that are no answer of ours, in the order of the scene."""
    found = nodes_of_class(scene, "vtkMRMLVolumeNode")
    return [node for node in found if not node.GetHideFromEditors() and not node.GetAttribute(HEAT_ATTRIBUTE)]


def heatmaps(scene: slicer.vtkMRMLScene) -> list[slicer.vtkMRMLVolumeNode]:
    """The volumes that are answers of ours."""
    return [node for node in nodes_of_class(scene, "vtkMRMLVolumeNode") if node.GetAttribute(HEAT_ATTRIBUTE)]


def open_volume(scene: slicer.vtkMRMLScene) -> slicer.vtkMRMLVolumeNode | None:
    """The volume that the slice views show; else the newest."""
    usable = candidates(scene)
    for composite in nodes_of_class(scene, "vtkMRMLSliceCompositeNode"):
        node = scene.GetNodeByID(composite.GetBackgroundVolumeID() or "")
        if node in usable:
            return node
    return usable[-1] if usable else None


def choose(
    sources: Sequence[str], scene: slicer.vtkMRMLScene, *, chosen: Mapping[str, slicer.vtkMRMLVolumeNode] | None = None
) -> dict[str, slicer.vtkMRMLVolumeNode]:
    """A volume for each source that has one by name or by being the open one; what is `chosen` already stays.

    A volume is given to one source only. A source left without a name that fits gets the open volume, or one that
    shares its place.
    """
    result = {source: node for source, node in (chosen or {}).items() if source in sources and node is not None}
    free = [node for node in candidates(scene) if node not in result.values()]
    opened = open_volume(scene)
    for source in (s for s in sources if s not in result):
        named = [node for node in free if _named(source, node.GetName() or "")]
        best = opened if opened in named else next(iter(named), None)
        if best is not None:
            result[source] = best
            free.remove(best)
    for source in (s for s in sources if s not in result):
        fitting = _fitting(free, opened, others=result.values())
        # More than one source and no name that fits: a guess would be as likely wrong as right.
        if fitting and (len(sources) == 1 or source == ONLY_SOURCE or len(fitting) == 1):
            result[source] = fitting[0]
            free.remove(fitting[0])
    return {source: result[source] for source in sources if source in result}


def _words(text: str) -> list[str]:
    return re.findall(r"[a-z]+\d*|\d+", text.lower())


def _named(source: str, name: str) -> bool:
    """Whether all words of the source's name are in the series' name: `t1_post` in `AX T1 POST GD`.

    A longer word may be the start or the end of one of the series': `flair` in `T2FLAIRsag`, not `adc` in `HEAD CT`.
    """
    words = _words(name)
    ends = [word for word in words if len(word) > 3]
    return all(
        word in words or (len(word) > 2 and any(one.startswith(word) or one.endswith(word) for one in ends))
        for word in _words(source)
    )


def _fitting(
    free: Sequence[slicer.vtkMRMLVolumeNode],
    opened: slicer.vtkMRMLVolumeNode | None,
    *,
    others: Iterable[slicer.vtkMRMLVolumeNode],
) -> list[slicer.vtkMRMLVolumeNode]:
    near = [node for node in free if all(_overlap(node, other) for other in others)]
    return sorted(near, key=lambda node: node is not opened)


def _overlap(first: slicer.vtkMRMLVolumeNode, second: slicer.vtkMRMLVolumeNode) -> bool:
    """Whether the boxes around two volumes in RAS share any place."""
    boxes = []
    for node in (first, second):
        bounds = [0.0] * 6
        node.GetRASBounds(bounds)
        boxes.append(bounds)
    one, other = boxes
    return all(one[i] < other[i + 1] and other[i] < one[i + 1] for i in (0, 2, 4))
