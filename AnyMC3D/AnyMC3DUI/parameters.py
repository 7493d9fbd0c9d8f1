"""The panel's settings as a typed parameter node, so that they are saved with the scene."""

from __future__ import annotations

from typing import Annotated

from slicer import vtkMRMLNode, vtkMRMLVolumeNode
from slicer.parameterNodeWrapper import WithinRange, parameterNodeWrapper


@parameterNodeWrapper
class AnyMC3DParameters:
    """What is chosen in the panel; images, regions and segments by the name of the plugins' source.

    `plugins` are the ticked ones, `heat` is the class whose heat is shown, as (plugin, class) or nothing.
    """

    plugins: list[str]
    device: str = "auto"
    images: dict[str, vtkMRMLVolumeNode]
    regions: dict[str, vtkMRMLNode]
    segments: dict[str, str]
    heat: list[str]
    threshold: Annotated[float, WithinRange(0.0, 1.0)] = 0.5
    opacity: Annotated[float, WithinRange(0.0, 1.0)] = 0.6
