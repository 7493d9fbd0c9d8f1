"""From what is chosen in the panel, or given by a script, to what a session classifies."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import slicer

from .handover import HandedBox, HandedImage, HandedLabels, image_of, region_of
from .plugin_folder import PluginCard
from .session import Ticked


class Study:
    """The volumes by source, and the regions to look at in them."""

    def __init__(
        self,
        images: Mapping[str, slicer.vtkMRMLVolumeNode],
        regions: Mapping[str, slicer.vtkMRMLNode] | None = None,
        segments: Mapping[str, str] | None = None,
    ) -> None:
        self.images = {source: node for source, node in images.items() if node is not None}
        self.regions = {source: node for source, node in (regions or {}).items() if node is not None}
        self.segments = dict(segments or {})
        self._handed: dict[str, HandedImage] = {}

    def handed_image(self, volume: slicer.vtkMRMLVolumeNode) -> HandedImage | None:
        """The volume as `ticked` gave it last."""
        return next((image for source, image in self._handed.items() if self.images[source] is volume), None)

    def ticked(self, cards: Iterable[PluginCard]) -> list[Ticked]:
        """Each plugin with its images and regions; raises InputError for a volume or region that cannot be used.

        Plugins that look at the same volume are given the same object, so that it is handed over once.
        """
        self._handed = images = {}
        regions: dict[str, HandedBox | HandedLabels] = {}
        made = []
        for card in cards:
            for source in card.sources:
                if source in self.images and source not in images:
                    images[source] = self._image(source, images)
            for source in card.regions:
                if source in self.regions and source not in regions:
                    regions[source] = self._region(source)
            made.append(
                Ticked(
                    card=card,
                    images={source: images[source] for source in card.sources if source in images},
                    regions={source: regions[source] for source in card.regions if source in regions},
                )
            )
        return made

    def _image(self, source: str, handed: Mapping[str, HandedImage]) -> HandedImage:
        node = self.images[source]
        # Two sources may name one volume.
        return next((image for other, image in handed.items() if self.images[other] is node), None) or image_of(node)

    def _region(self, source: str) -> HandedBox | HandedLabels:
        return region_of(self.regions[source], segment=self.segments.get(source), volume=self.images.get(source))
