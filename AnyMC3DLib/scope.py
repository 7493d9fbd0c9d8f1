"""What a plugin has seen in training, and what of a study it has not: modality, values, spacing, extent.

Whether a study's pictures are of another kind is told by the density of their embeddings (`density.py`); this room
needs NumPy alone.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from .geometry import nearest_axes
from .padding import without_padding
from .prediction import Study
from .spec import Bounds, PluginSpec, ScopeSpec, SeenImages
from .volume import Volume

PERCENTILES = (0.5, 50.0, 99.5)
VALUES_AT_MOST = 1 << 20  # of an image; of a larger one, so many at even steps
# How far beyond what was seen an image is still the same kind: a share of the span of values, and a factor in mm.
VALUES_BEYOND, MILLIMETRES_BEYOND = 0.5, 2.0
# With fewer studies least and most say little.
ENOUGH_STUDIES = 10
MODALITIES = {
    "CT": "a CT", "MR": "an MR", "PT": "a PET", "US": "an ultrasound", "NM": "a nuclear medicine study",
    "CR": "a radiograph", "DX": "a radiograph", "XA": "an angiography", "MG": "a mammogram",
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class ImageFacts:
    """An image in a few numbers: three percentiles of its values, spacing and extent in mm along R, A, S, modality."""

    values: tuple[float, float, float]
    spacing_mm: tuple[float, float, float]
    extent_mm: tuple[float, float, float]
    modality: str = ""

    def to_array(self) -> npt.NDArray[np.float64]:
        """The nine numbers, then the letters of the modality: float64 [9 + letters]."""
        numbers = (*self.values, *self.spacing_mm, *self.extent_mm)
        return np.array([*numbers, *self.modality.encode("ascii", "ignore")], dtype=np.float64)

    @classmethod
    def from_array(cls, array: npt.NDArray[np.float64]) -> ImageFacts:
        """What `to_array` gave."""
        numbers = [tuple(float(x) for x in array[first : first + 3]) for first in (0, 3, 6)]
        return cls(*numbers, bytes(int(letter) for letter in array[9:]).decode("ascii"))


def image_facts(volume: Volume) -> ImageFacts:
    """The facts of a volume whose values are finite, what a CT scanner padded taken as air, as the network sees it."""
    # Every few voxels along each axis, which copies nothing of a large image.
    step = max(1, math.ceil((math.prod(volume.grid) / VALUES_AT_MOST) ** (1 / 3)))
    some = dataclasses.replace(volume, array=volume.array[::step, ::step, ::step])
    values = np.percentile(without_padding(some).array, PERCENTILES)
    columns = [column for column, _ in nearest_axes(volume.ijk_to_ras)]
    spacing = [float(volume.spacing[column]) for column in columns]
    extent = [float(volume.spacing[column]) * volume.grid[2 - column] for column in columns]
    return ImageFacts(tuple(map(float, values)), tuple(spacing), tuple(extent), volume.modality)


def seen_images(facts: Mapping[str, Sequence[ImageFacts]]) -> tuple[SeenImages, ...]:
    """What the images of each source were like, from the facts of every study."""
    return tuple(_seen(source, list(each)) for source, each in facts.items() if each)


def _seen(source: str, facts: Sequence[ImageFacts]) -> SeenImages:
    low, middle, high = _bounds([f.values for f in facts])
    # Where some tell none, what those are is not known.
    modalities = sorted({f.modality for f in facts}) if all(f.modality for f in facts) else []
    return SeenImages(
        source=source, low=low, middle=middle, high=high, spacing_mm=_bounds([f.spacing_mm for f in facts]),
        extent_mm=_bounds([f.extent_mm for f in facts]), modalities=tuple(modalities),
    )  # fmt: skip


def joined(scopes: Sequence[ScopeSpec], *, cases: int) -> ScopeSpec:
    """What the members of an ensemble have seen together, of `cases` studies in all."""
    by_source: dict[str, list[SeenImages]] = {}
    for images in (images for scope in scopes for images in scope.images):
        by_source.setdefault(images.source, []).append(images)
    return ScopeSpec(
        cases=cases,
        images=tuple(_widest(source, each) for source, each in by_source.items()),
        density=all(scope.density for scope in scopes),
        held_out=sum(scope.held_out for scope in scopes),
        beyond=sum(scope.beyond for scope in scopes),
    )


def _widest(source: str, each: Sequence[SeenImages]) -> SeenImages:
    def around(bounds: Sequence[Bounds]) -> Bounds:
        return min(least for least, _ in bounds), max(most for _, most in bounds)

    def along(rows: Sequence[tuple[Bounds, Bounds, Bounds]]) -> tuple[Bounds, Bounds, Bounds]:
        first, second, third = (around(column) for column in zip(*rows, strict=True))
        return first, second, third

    return SeenImages(
        source=source,
        low=around([s.low for s in each]),
        middle=around([s.middle for s in each]),
        high=around([s.high for s in each]),
        spacing_mm=along([s.spacing_mm for s in each]),
        extent_mm=along([s.extent_mm for s in each]),
        modalities=tuple(sorted({modality for s in each for modality in s.modalities})),
    )


def _bounds(rows: Sequence[tuple[float, float, float]]) -> tuple[Bounds, Bounds, Bounds]:
    first, second, third = ((float(min(column)), float(max(column))) for column in zip(*rows, strict=True))
    return first, second, third


def remarks_on(spec: PluginSpec, study: Study) -> list[str]:
    """Sentences on what of the study's images the plugin has not seen; none where nothing is known of its training."""
    return remarks_of(spec, {source: image_facts(study.image(source)) for source in spec.sources})


def remarks_of(spec: PluginSpec, facts: Mapping[str, ImageFacts]) -> list[str]:
    """As `remarks_on`, from the facts of the study's images by source."""
    found = []
    for source, image in facts.items():
        seen = next((s for s in spec.scope.images if s.source == source), None) if spec.scope else None
        modality = _modality_remark(spec, seen, image)
        found += [modality] if modality else []
        if seen is not None and spec.scope is not None and spec.scope.cases >= ENOUGH_STUDIES:
            # Another modality has other values: one sentence says it.
            # Where each image is scaled by itself, its units do not matter.
            absolute = any(v.source == source and v.preprocessing.intensity.kind == "window" for v in spec.views)
            found += _range_remarks(seen, image, source, values=absolute and not modality)
    return found


def _modality_remark(spec: PluginSpec, seen: SeenImages | None, image: ImageFacts) -> str | None:
    # What a plugin says of itself is about its one image.
    declared = (spec.modality.strip().upper(),) if len(spec.sources) == 1 else ()
    known = (seen.modalities if seen else ()) or tuple(m for m in declared if m in MODALITIES)
    if not image.modality or not known or _kind(image.modality) in map(_kind, known):
        return None
    given = MODALITIES.get(image.modality, f"of the modality {image.modality}")
    return f"The image is {given}, but the plugin was trained on {' and '.join(known)}: its answer means little."


def _kind(modality: str) -> str:
    """The same for what is a radiograph by either code."""
    return MODALITIES.get(modality, modality)


def _range_remarks(seen: SeenImages, facts: ImageFacts, source: str, *, values: bool) -> list[str]:
    found = []
    span = max(seen.high[1] - seen.low[0], 1e-12)
    pairs = zip(("darkest", "middle", "brightest"), (seen.low, seen.middle, seen.high), facts.values, strict=True)
    odd = [(name, b, v) for name, b, v in pairs if not b[0] - VALUES_BEYOND * span <= v <= b[1] + VALUES_BEYOND * span]
    if odd and values:
        name, (least, most), value = odd[0]
        found.append(
            f"The {name} values of the image '{source}' are about {value:.4g}, but {least:.4g} to {most:.4g} in the "
            "studies that the plugin learnt from: is it the right image, in the right units?"
        )
    measures = (("spacing", seen.spacing_mm, facts.spacing_mm), ("extent", seen.extent_mm, facts.extent_mm))
    for name, bounds, lengths in measures:
        for axis, (least, most), length in zip("RAS", bounds, lengths, strict=True):
            if not least / MILLIMETRES_BEYOND <= length <= most * MILLIMETRES_BEYOND:
                found.append(
                    f"The {name} of the image '{source}' along {axis} is {length:.3g} mm, but {least:.3g} to "
                    f"{most:.3g} mm in the studies that the plugin learnt from."
                )
                break
    return found


def merged(facts: Sequence[Mapping[str, npt.NDArray[Any]]]) -> dict[str, list[ImageFacts]]:
    """By source the facts of every case, from their arrays by source."""
    sources = dict.fromkeys(source for each in facts for source in each)
    return {source: [ImageFacts.from_array(each[source]) for each in facts if source in each] for source in sources}
