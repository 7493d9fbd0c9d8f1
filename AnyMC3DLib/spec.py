"""What a plugin is, in words and numbers: the frozen dataclasses that travel as JSON in its file.

Needs the standard library alone.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Any, Literal

from .architecture import Architecture
from .errors import InputError, PluginError
from .records import Record

FORMAT_VERSION = 1

Axis = Literal["axial", "coronal", "sagittal"]
TaskType = Literal["binary", "multiclass", "multilabel"]

# Centre and width in Hounsfield units, as on the presets of common viewers.
CT_WINDOWS: Mapping[str, tuple[float, float]] = {
    "abdomen": (40.0, 400.0),
    "bone": (400.0, 1800.0),
    "brain": (40.0, 80.0),
    "liver": (60.0, 160.0),
    "lung": (-600.0, 1500.0),
    "mediastinum": (40.0, 400.0),
    "stroke": (35.0, 30.0),
    "subdural": (75.0, 215.0),
    "vessel": (150.0, 600.0),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class RegionSpec(Record):
    """Which part of the volume a view looks at.

    `whole`; `centre`: `size_mm` along the array axes nearest to R, A and S, about the volume's centre; `foreground`:
    the bounding box of the voxels above `threshold` (Otsu's where None); `box` and `segment`: a box in RAS, or the
    bounding box of a segment, that comes with the study. `margin_mm` widens every kind but the first two.
    """

    kind: Literal["whole", "centre", "foreground", "box", "segment"] = "whole"
    size_mm: tuple[float, float, float] | None = None
    margin_mm: float = 0.0
    threshold: float | None = None

    @property
    def comes_with_study(self) -> bool:
        """Whether the region is given with each study."""
        return self.kind in ("box", "segment")

    def __post_init__(self) -> None:
        if (self.kind == "centre") != (self.size_mm is not None):
            raise InputError("A region needs size_mm if, and only if, its kind is 'centre'.")
        if self.size_mm is not None and min(self.size_mm) <= 0:
            raise InputError(f"A region's size_mm must be above 0, but is {list(self.size_mm)}.")
        if self.margin_mm < 0:
            raise InputError(f"A region's margin_mm must not be below 0, but is {self.margin_mm:g}.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class IntensitySpec(Record):
    """How voxel values become channels in [0, 1].

    `window`: one or three windows, each a name of CT_WINDOWS or (centre, width); `percentile`: between two
    percentiles of the region; `zscore`: (x - mean) / std of the region, clipped to +-`clip`. With `foreground`
    the statistics of the last two are those of the voxels above Otsu's threshold.
    """

    kind: Literal["window", "percentile", "zscore"] = "percentile"
    windows: tuple[str | tuple[float, float], ...] = ()
    percentiles: tuple[float, float] = (0.5, 99.5)
    clip: float = 3.0
    foreground: bool = False

    def __post_init__(self) -> None:
        if self.kind == "window" and len(self.windows) not in (1, 3):
            raise InputError(f"An intensity needs one or three windows, but has {len(self.windows)}.")
        if any(width <= 0 for _, width in self.resolved_windows()):
            raise InputError("A window's width must be above 0.")
        low, high = self.percentiles
        if not 0 <= low < high <= 100:
            raise InputError(f"Percentiles must rise within 0 to 100, but are {low:g} and {high:g}.")
        if self.clip <= 0:
            raise InputError(f"The clip of a z-score must be above 0, but is {self.clip:g}.")

    def resolved_windows(self) -> tuple[tuple[float, float], ...]:
        """The windows as (centre, width); raises InputError for an unknown name."""
        unknown = [w for w in self.windows if isinstance(w, str) and w not in CT_WINDOWS]
        if unknown:
            raise InputError(f"There is no window '{unknown[0]}'; the names are {', '.join(CT_WINDOWS)}.")
        return tuple(CT_WINDOWS[w] if isinstance(w, str) else w for w in self.windows)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SliceSpec(Record):
    """How many slices a view has: `all`, `at_most` `count` evenly in mm, or a fixed `thickness` of `thickness_mm`.

    Where slices are merged, `area` averages over the slab, so that nothing between two slices is missed; `linear`
    reads the image at the slice's centre alone.
    """

    policy: Literal["all", "at_most", "thickness"] = "all"
    count: int | None = None
    thickness_mm: float | None = None
    sampling: Literal["area", "linear"] = "area"

    def __post_init__(self) -> None:
        if (self.policy == "at_most") != (self.count is not None) or (self.count is not None and self.count < 1):
            raise InputError("Slices need a count of at least 1 if, and only if, their policy is 'at_most'.")
        if (self.policy == "thickness") != (self.thickness_mm is not None):
            raise InputError("Slices need thickness_mm if, and only if, their policy is 'thickness'.")
        if self.thickness_mm is not None and self.thickness_mm <= 0:
            raise InputError(f"thickness_mm must be above 0, but is {self.thickness_mm:g}.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class PreprocessingSpec(Record):
    """From a volume to the slices of one view.

    `size` is (rows, columns) in pixels. With `spacing_mm` the pixel size is fixed and the picture is cropped or
    padded to `size`; without it the region is scaled to fit `size` with its aspect kept, and padded. `mean` and
    `std` are the backbone's normalisation, recorded when a plugin is trained.
    """

    axis: Axis = "axial"
    region: RegionSpec = RegionSpec()
    size: tuple[int, int] | None = (224, 224)
    spacing_mm: float | None = None
    multiple_of: int = 1
    intensity: IntensitySpec = IntensitySpec()
    slices: SliceSpec = SliceSpec()
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None

    def __post_init__(self) -> None:
        if self.size is not None and not all(8 <= n <= 4096 for n in self.size):
            raise InputError(f"A view's size must lie within 8 to 4096 pixels, but is {list(self.size)}.")
        if self.spacing_mm is not None and self.spacing_mm <= 0:
            raise InputError(f"spacing_mm must be above 0, but is {self.spacing_mm:g}.")
        if self.multiple_of < 1:
            raise InputError(f"multiple_of must be at least 1, but is {self.multiple_of}.")
        if self.std is not None and min(self.std) <= 0:
            raise InputError(f"A normalisation's std must be above 0, but is {list(self.std)}.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ViewSpec(Record):
    """One stack of slices: `source` names the image of the study, so two views may slice the same volume."""

    name: str
    source: str = "image"
    preprocessing: PreprocessingSpec = PreprocessingSpec()

    def __post_init__(self) -> None:
        for name in (self.name, self.source):
            if not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", name):
                raise InputError(f"A view's name and source hold letters, digits, - and _ alone, but one is '{name}'.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class LoRASpec(Record):
    """Low-rank adapters. Rank 0 leaves the backbone frozen as it is.

    `targets` are names of groups of layers (see `lora.TARGET_GROUPS`); empty means the default of the backbone's
    kind. `last_blocks` adapts only so many blocks at the end.
    """

    rank: int = 8
    alpha: float = 16.0
    targets: tuple[str, ...] = ()
    last_blocks: int | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.rank <= 512:
            raise InputError(f"A LoRA rank must lie within 0 to 512, but is {self.rank}.")
        if self.last_blocks is not None and self.last_blocks < 1:
            raise InputError(f"last_blocks must be at least 1, but is {self.last_blocks}.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class FusionSpec(Record):
    """How slice embeddings become one vector a view, and views one vector: a second attention pooling, their mean,
    or side by side (`concat`)."""

    kind: Literal["attention", "mean", "median", "max"] = "attention"
    views: Literal["attention", "mean", "concat"] = "attention"


@dataclasses.dataclass(frozen=True, kw_only=True)
class HeadSpec(Record):
    """From the fused vector to the logits.

    With `standardise`, slice embeddings pass a fixed per-feature shift and scale (those of the frozen embeddings
    of the training set) before fusion.
    """

    dropout: float = 0.0
    standardise: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.dropout < 1:
            raise InputError(f"A head's dropout must lie within 0 to 1, but is {self.dropout:g}.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClassSpec(Record):
    """A class and the probability from which it is decided for."""

    name: str
    threshold: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.threshold <= 1:
            raise InputError(f"The threshold of class '{self.name}' must lie within 0 to 1.")


Bounds = tuple[float, float]


@dataclasses.dataclass(frozen=True, kw_only=True)
class SeenImages(Record):
    """What the images of one source were like in training: least and most over the studies.

    `low`, `middle` and `high` are the percentiles 0.5, 50 and 99.5 of an image's values, in its own units. `spacing_mm`
    and `extent_mm` are along R, A and S, or the image's axes nearest to them. `modalities` are DICOM's codes.
    """

    source: str
    low: Bounds
    middle: Bounds
    high: Bounds
    spacing_mm: tuple[Bounds, Bounds, Bounds]
    extent_mm: tuple[Bounds, Bounds, Bounds]
    modalities: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScopeSpec(Record):
    """Which studies the plugin was made for: those that are like the `cases` it has learnt from.

    With `density` the plugin's file holds a density of their embeddings, beyond whose limit a study is called unlike
    them; of `held_out` studies that taught the plugin nothing, `beyond` were so called when it was trained.
    """

    cases: int
    images: tuple[SeenImages, ...] = ()
    density: bool = False
    held_out: int = 0
    beyond: int = 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class BackboneRef(Record):
    """The backbone a plugin was trained on: its name in the catalogue, the digest of its weights, and the network they
    were in, since the same weights at another stride give other embeddings.

    `model_args` are the arguments of `architecture`; plugins of the first versions have them alone.
    """

    id: str
    digest: str = ""
    model_args: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    architecture: Architecture | None = None


def _check_format_version(version: int) -> None:
    if version != FORMAT_VERSION:
        raise PluginError(
            f"This plugin has format version {version}, but this program reads version {FORMAT_VERSION}: "
            "update AnyMC3D."
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class PluginSpec(Record):
    """Everything about a plugin but its weights.

    A binary task has two classes, (negative, positive), and one logit, that of the positive class.
    """

    name: str
    task_type: TaskType
    classes: tuple[ClassSpec, ...]
    backbone: BackboneRef
    views: tuple[ViewSpec, ...]
    format_version: int = FORMAT_VERSION
    version: str = "1"
    description: str = ""
    anatomy: str = ""
    modality: str = ""
    licence: str = ""
    intended_use: str = "Research only, not for clinical use."
    lora: LoRASpec = LoRASpec()
    fusion: FusionSpec = FusionSpec()
    head: HeadSpec = HeadSpec()
    temperature: float = 1.0
    members: int = 1
    scope: ScopeSpec | None = None
    provenance: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @classmethod
    def from_dict(cls, data: Any, *, where: str = "") -> PluginSpec:
        """As `Record.from_dict`; raises PluginError for another format version, before any other field is looked at."""
        # A newer version may have changed the other fields, and "update" is then the sentence that helps.
        if isinstance(data, Mapping) and isinstance(data.get("format_version"), int):
            _check_format_version(data["format_version"])
        return super().from_dict(data, where=where)

    def __post_init__(self) -> None:
        _check_format_version(self.format_version)
        if not self.name.strip():
            raise InputError("A plugin needs a name.")
        names = [c.name for c in self.classes]
        if not names or (len(names) < 2 and self.task_type != "multilabel"):
            raise InputError(f"A {self.task_type} plugin needs more classes than {len(names)}.")
        if self.task_type == "binary" and len(names) != 2:
            raise InputError(f"A binary plugin has two classes, negative and positive, but this has {len(names)}.")
        for kind, given in (("class", names), ("view", [v.name for v in self.views])):
            if len(set(given)) != len(given):
                raise InputError(f"Plugin '{self.name}' names a {kind} twice: {', '.join(given)}.")
        if not self.views:
            raise InputError(f"Plugin '{self.name}' has no view.")
        if self.temperature <= 0 or self.members < 1:
            raise InputError(f"Plugin '{self.name}' needs a temperature above 0 and at least one member.")

    def to_dict(self) -> dict[str, Any]:
        """As `Record.to_dict`; an unknown scope is left out, so that descriptions without one stay the same."""
        found = super().to_dict()
        return found if self.scope is not None else {name: value for name, value in found.items() if name != "scope"}

    @property
    def logits(self) -> int:
        """How many logits the head gives: 1 for a binary task, else one a class."""
        return 1 if self.task_type == "binary" else len(self.classes)

    @property
    def explained(self) -> tuple[str, ...]:
        """The classes that have a logit, in its order."""
        return tuple(c.name for c in (self.classes[1:] if self.task_type == "binary" else self.classes))

    @property
    def sources(self) -> tuple[str, ...]:
        """The images that a study must have, in the order of the views."""
        return tuple(dict.fromkeys(view.source for view in self.views))
