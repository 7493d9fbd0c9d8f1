"""From the few choices of a form to a whole task. Needs the standard library alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from ..catalogue import find_backbone
from ..errors import InputError
from ..spec import (
    Axis,
    BackboneRef,
    ClassSpec,
    HeadSpec,
    IntensitySpec,
    PluginSpec,
    PreprocessingSpec,
    SliceSpec,
    TaskType,
    ViewSpec,
)
from .augmentation_spec import AugmentationSpec
from .methods import Method
from .objective_spec import ObjectiveSpec, PixelSpec
from .task import TaskSpec, TrainingSpec


@dataclasses.dataclass(frozen=True)
class Preset:
    """How intensities are read, and the modality that a plugin says it is for."""

    intensity: IntensitySpec
    modality: str


def _windows(*windows: str | tuple[float, float]) -> IntensitySpec:
    return IntensitySpec(kind="window", windows=windows)


PRESETS: Mapping[str, Preset] = {
    "CT brain": Preset(_windows("brain"), "CT"),
    "CT lung": Preset(_windows("lung"), "CT"),
    "CT abdomen": Preset(_windows("abdomen"), "CT"),
    "CT bone": Preset(_windows("bone"), "CT"),
    # Soft tissue, lung and bone, which together hold what a CT can show.
    "CT three windows (RGB)": Preset(_windows("mediastinum", "lung", "bone"), "CT"),
    "MR": Preset(IntensitySpec(kind="percentile"), "MR"),
    "as stored (0 to 255)": Preset(_windows((127.5, 255.0)), ""),
}
# These change the backbone, which alone masks can teach anything.
TAUGHT_BY_MASKS: tuple[Method, ...] = ("lora", "full")
MASK_WEIGHT = 1.0
LONGEST_VIEW_NAME = 64


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainChoices:
    """What a person chooses. `size` is in pixels, rows and columns alike; `count` is of the slices of a view, at most.

    `method` is what the task will be trained by: see `methods.with_method`, to which it is given besides.
    """

    name: str
    classes: tuple[str, ...]
    task_type: TaskType
    backbone: str
    question: str = ""
    sources: tuple[str, ...] = ("image",)
    axes: tuple[Axis, ...] = ("axial",)
    preset: str = "MR"
    size: int = 224
    count: int = 24
    method: Method = "lora"
    pixels: bool = False
    epochs: int = 10
    seed: int = 0


def task_of(choices: TrainChoices) -> TaskSpec:
    """The task, with the paper's objective and augmentation (arXiv 2512.12887) as `read_task` fills them in.

    It has adapters, which `with_method` takes away for the methods without. Raises InputError for choices of which no
    task can be made.
    """
    if choices.preset not in PRESETS:
        raise InputError(f"There is no preset '{choices.preset}': choose one of {', '.join(PRESETS)}.")
    plugin = PluginSpec(
        name=choices.name.strip(),
        description=choices.question.strip(),
        modality=PRESETS[choices.preset].modality,
        task_type=choices.task_type,
        classes=tuple(ClassSpec(name=name) for name in choices.classes),
        backbone=BackboneRef(id=choices.backbone),
        views=views_of(choices),
        # The features of a CNN have scales of their own, which a query that begins at random would have to learn.
        head=HeadSpec(standardise=True),
    )
    taught = choices.pixels and choices.method in TAUGHT_BY_MASKS
    training = TrainingSpec(
        epochs=choices.epochs,
        objective=ObjectiveSpec(kind="focal"),
        augmentation=AugmentationSpec.paper(),
        pixels=PixelSpec(weight=MASK_WEIGHT if taught else 0.0),
        seed=choices.seed,
    )
    return TaskSpec(plugin=plugin, training=training)


def views_of(choices: TrainChoices) -> tuple[ViewSpec, ...]:
    """A view for each image and axis, named after the axis, and after the image where there are several."""
    several = len(choices.sources) > 1
    side = whole_patches(choices.size, choices.backbone)
    intensity = PRESETS[choices.preset].intensity
    slices = SliceSpec(policy="at_most", count=choices.count)
    return tuple(
        ViewSpec(
            name=f"{axis}-{source}"[:LONGEST_VIEW_NAME] if several else axis,
            source=source,
            preprocessing=PreprocessingSpec(axis=axis, size=(side, side), intensity=intensity, slices=slices),
        )
        for source in choices.sources
        for axis in choices.axes
    )


def whole_patches(size: int, backbone: str) -> int:
    """The size, rounded up to a multiple of the backbone's patch; raises BackboneError for one that there is not."""
    patch = find_backbone(backbone).patch
    return -(-size // patch) * patch
