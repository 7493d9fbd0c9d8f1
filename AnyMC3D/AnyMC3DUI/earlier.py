"""The user's own display settings, kept on the very nodes that were changed.

So they are saved with a scene while an overlay is on, and outlive a reload of the module.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import slicer

_ATTRIBUTE = "AnyMC3D.Earlier"


def remember(
    node: slicer.vtkMRMLNode, settings: Mapping[str, Any], *, nodes: Mapping[str, str | None] | None = None
) -> None:
    """Keep JSON values and the IDs of other nodes, by name; what is kept already stays, as it is the user's."""
    if is_remembered(node):
        return
    for role, node_id in (nodes or {}).items():
        node.SetNodeReferenceID(_role(role), node_id)
    kept = {"settings": dict(settings), "nodes": {role: node_id is not None for role, node_id in (nodes or {}).items()}}
    node.SetAttribute(_ATTRIBUTE, json.dumps(kept))


def recall(node: slicer.vtkMRMLNode) -> tuple[dict[str, Any], dict[str, slicer.vtkMRMLNode | None]] | None:
    """What was kept, which is then forgotten; None if nothing was.

    Of the nodes those are left out that were removed from the scene; a node that never was is None.
    """
    text = node.GetAttribute(_ATTRIBUTE)
    if text is None:
        return None
    node.RemoveAttribute(_ATTRIBUTE)
    kept = json.loads(text)
    nodes = {}
    for role, was_there in kept["nodes"].items():
        found = node.GetNodeReference(_role(role))
        node.RemoveNodeReferenceIDs(_role(role))
        if found is not None or not was_there:
            nodes[role] = found
    return kept["settings"], nodes


def is_remembered(node: slicer.vtkMRMLNode) -> bool:
    """Whether the user's settings of the node are kept, as they were changed."""
    return node.GetAttribute(_ATTRIBUTE) is not None


def nodes_of_class(scene: slicer.vtkMRMLScene, class_name: str) -> Iterator[slicer.vtkMRMLNode]:
    """The scene's nodes of a class, taken before any is changed."""
    found = scene.GetNodesByClass(class_name)
    found.UnRegister(None)
    yield from [found.GetItemAsObject(number) for number in range(found.GetNumberOfItems())]


def _role(name: str) -> str:
    return f"AnyMC3DEarlier{name}"
