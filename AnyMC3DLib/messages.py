"""What each method of the worker takes, and what its notifications say. Needs the standard library alone.

Every record is checked field by field when it is read, and an unknown field is refused: client and worker speak the
same version, so it can only be a slip.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeVar

from .errors import InputError
from .records import Record

PROTOCOL_VERSION = 1
LARGEST_GRID = 1 << 31  # voxels of a heatmap

Row = tuple[float, float, float, float]
Matrix = tuple[Row, Row, Row, Row]
Point = tuple[float, float, float]
ParamsType = TypeVar("ParamsType", bound="Params")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Params(Record):
    """Base of what methods take."""

    @classmethod
    def from_dict(cls: type[ParamsType], data: Any, *, where: str = "") -> ParamsType:
        """As `Record.from_dict`; raises InputError for an unknown field too."""
        params = super().from_dict(data, where=where or cls.__name__.lower())
        if params.extra:
            where = where or cls.__name__.lower()
            raise InputError(f"{where} has the unknown field '{next(iter(params.extra))}': check its spelling.")
        return params


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageSource(Params):
    """An image: a file or DICOM folder; or the path of an `.npy` file [k, j, i] and its affine.

    `modality` is DICOM's code where the sender knows it; a file tells its own.
    """

    file: str | None = None
    array: str | None = None
    ijk_to_ras: Matrix | None = None
    modality: str = ""

    def __post_init__(self) -> None:
        if (self.file is None) == (self.array is None):
            raise InputError("An image needs either 'file' or 'array'.")
        if (self.array is None) != (self.ijk_to_ras is None):
            raise InputError("An image needs 'ijk_to_ras' with 'array', and not with 'file'.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class BoxSource(Params):
    """A box in RAS millimetres."""

    low: Point
    high: Point


@dataclasses.dataclass(frozen=True, kw_only=True)
class SegmentSource(Params):
    """The path of an `.npy` label map [k, j, i], its affine, and the label that is meant (None: any but 0)."""

    array: str
    ijk_to_ras: Matrix
    label: int | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class RegionSource(Params):
    """A region to look at: a box, a segment, or the shell's words for one."""

    box: BoxSource | None = None
    segment: SegmentSource | None = None
    text: str | None = None

    def __post_init__(self) -> None:
        if [self.box, self.segment, self.text].count(None) != 2:
            raise InputError("A region needs one of 'box', 'segment' and 'text'.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Hello(Params):
    """The first request: which version the client speaks."""

    protocol: int = PROTOCOL_VERSION


@dataclasses.dataclass(frozen=True, kw_only=True)
class Devices(Params):
    """What there is to compute on."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Load(Params):
    """Load a plugin file, and its backbone where another or none is in memory."""

    path: str
    weights: str | None = None
    device: str = "auto"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Unload(Params):
    """Forget a plugin."""

    name: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class StudyParams(Params):
    """The images of a study, and the region to look at in each, by the name of their source."""

    images: Mapping[str, ImageSource]
    regions: Mapping[str, RegionSource] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        # Records are read one by one in a mapping, whose values `Record` leaves as they are.
        for name, kind in (("images", ImageSource), ("regions", RegionSource)):
            values = getattr(self, name)
            read = {key: _read(value, kind, f"{name}.{key}") for key, value in values.items()}
            object.__setattr__(self, name, read)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Classify(StudyParams):
    """Classify a study with the plugins that are named, or with all that are loaded."""

    plugins: tuple[str, ...] | None = None
    maps: Literal["none", "attention", "all"] = "all"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.plugins == ():
            raise InputError("The list 'plugins' is empty: name a plugin, or leave it out for all that are loaded.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Preview(StudyParams):
    """Cut a study as a view of a loaded plugin does, or as a view's description does."""

    view: str | Mapping[str, Any]
    plugin: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.view, str) != (self.plugin is not None):
            raise InputError("A preview needs a plugin with the name of its view, or a view's description alone.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Render(Params):
    """The heatmap of a class (None: the paper's map) of an earlier job, on a grid [k, j, i].

    In JSON the class is called `class`. As uint8 a heat of 1 is 255.
    """

    job: str
    plugin: str
    shape: tuple[int, int, int]
    ijk_to_ras: Matrix
    class_name: str | None = None
    dtype: Literal["float32", "uint8"] = "float32"

    def __post_init__(self) -> None:
        if min(self.shape) < 1 or math.prod(self.shape) > LARGEST_GRID:
            raise InputError(f"A heatmap cannot have the shape {list(self.shape)}.")

    @classmethod
    def from_dict(cls, data: Any, *, where: str = "") -> Render:
        """As `Params.from_dict`."""
        if isinstance(data, Mapping) and "class" in data:
            data = {**{key: value for key, value in data.items() if key != "class"}, "class_name": data["class"]}
        return super().from_dict(data, where=where)

    def to_dict(self) -> dict[str, Any]:
        """As `Record.to_dict`."""
        values = super().to_dict()
        values["class"] = values.pop("class_name")
        return values


@dataclasses.dataclass(frozen=True, kw_only=True)
class CourseParams(Params):
    """A task (a file, a built-in name, or its JSON), the table of its cases, and what is changed in the task.

    `epochs` are those of the training proper, in place of the recipe's; with `folds` an ensemble is cross-validated.
    """

    task: str | Mapping[str, Any]
    data: str
    method: Literal["lora", "frozen", "probe", "full"] | None = None
    backbone: str | None = None
    epochs: int | None = None
    folds: int | None = None
    weights: str | None = None
    device: str = "auto"
    train_splits: tuple[str, ...] = ("train",)
    val_splits: tuple[str, ...] = ("val",)
    step: Literal["auto", "speed", "memory"] = "auto"

    def __post_init__(self) -> None:
        _check_least("epochs", self.epochs, 0)
        _check_least("folds", self.folds, 2)
        if self.folds is not None and self.method == "full":
            raise InputError("Members of an ensemble share one backbone: train it whole without 'folds'.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Estimate(CourseParams):
    """How long such a training takes, and what memory."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Train(CourseParams):
    """Train, and write the plugin to `out` or into the folder `run`, which also keeps the state and the figures.

    The state is kept every `every_minutes`, and a run goes on with `resume`. Once `minutes` have passed the training
    ends as by `stop`. In the folder `cache` lie at most `cache_gb` of slices that were cut once.
    """

    out: str | None = None
    run: str | None = None
    resume: bool = False
    every_minutes: float = 5.0
    minutes: float | None = None
    seed: int | None = None
    cache: str | None = None
    cache_gb: float = 20.0
    allow_unreadable: int = 0
    test_splits: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("every_minutes", "cache_gb", "allow_unreadable"):
            _check_least(name, getattr(self, name), 0)
        if self.minutes is not None and self.minutes <= 0:
            raise InputError(f"The time budget 'minutes' must be above 0, but is {self.minutes:g}.")
        if self.seed is not None and not 0 <= self.seed < 1 << 32:
            raise InputError(f"A seed must lie within 0 to 4294967295, but is {self.seed}.")
        self._check_places()
        if self.folds is not None and self.test_splits:
            raise InputError("Folds have no test splits: leave 'test_splits' away, and evaluate the ensemble on them.")

    def _check_places(self) -> None:
        if self.run is None:
            if self.method == "full":
                raise InputError("A whole backbone that is trained stays in the folder of its run: give 'run'.")
            if self.out is None:
                raise InputError("There is no place for the plugin: give 'out', 'run' or both.")
            if self.resume:
                raise InputError("Only a run that was kept can go on: give 'run' with 'resume'.")
            if self.folds is not None and self.minutes is not None:
                raise InputError("An ensemble needs all folds: give 'run' with 'minutes', so that they can go on.")
        elif self.method == "full" and self.out is not None:
            raise InputError("A whole backbone that was trained is no plugin: leave 'out' away.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Check(Params):
    """Everything that is wrong with a table of cases, for a task's plugin or without one."""

    data: str
    task: str | Mapping[str, Any] | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluate(Params):
    """Figures of a plugin file on the cases of some splits, alone or against another plugin file."""

    plugin: str
    data: str
    splits: tuple[str, ...] = ("test",)
    against: str | None = None
    weights: str | None = None
    device: str = "auto"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pause(Params):
    """Let the training that runs wait."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Resume(Params):
    """Let the training go on."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stop(Params):
    """Let the training end early, with the plugin it has reached."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Suspend(Params):
    """Let the training, which needs a `run`, save where it stands and end."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cancel(Params):
    """Cancel the request of that id, running or waiting."""

    request: str | int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shutdown(Params):
    """End the worker; what runs or waits is cancelled, but a training with a run saves where it stands."""


METHODS: Mapping[str, type[Params]] = {
    kind.__name__.lower(): kind
    for kind in (
        Hello, Devices, Load, Unload, Classify, Render, Preview, Check, Estimate, Train, Pause, Resume, Stop, Suspend,
        Evaluate, Cancel, Shutdown,
    )
}  # fmt: skip
# These run one by one, in order; the others are answered at once.
JOBS = frozenset(
    {"devices", "load", "unload", "classify", "render", "preview", "check", "estimate", "train", "evaluate"}
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProgressNote(Record):
    """The notification `progress`: how far the request `id` is, and the seconds since it began to run."""

    id: str | int
    step: str
    done: int
    total: int
    elapsed_s: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class EpochNote(Record):
    """The notification `epoch`: what an epoch of the training `id` gave; all count from 1.

    `epochs` is how many the phase has, `score` the monitored figure of the validation cases. A run that goes on tells
    its past epochs again first; one that was broken off within comes again once it is whole.
    """

    id: str | int
    phase: str
    epoch: int
    epochs: int
    loss: float
    score: float | None = None
    fold: int | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class LogNote(Record):
    """The notification `log`."""

    level: Literal["debug", "info", "warning", "error"]
    message: str


def matrix(affine: Sequence[Sequence[float]]) -> Matrix:
    """A 4x4 affine, an array for instance, as the messages have it."""
    rows = [tuple(float(value) for value in row) for row in affine]
    if len(rows) != 4 or any(len(row) != 4 for row in rows):
        raise InputError("An affine must be a 4x4 matrix.")
    return tuple(rows)


def _read(value: Any, kind: type[Params], where: str) -> Params:
    return value if isinstance(value, kind) else kind.from_dict(value, where=where)


def _check_least(name: str, value: float | None, least: int) -> None:
    if value is not None and value < least:
        # A whole number may be too large for a float.
        shown = f"{value:g}" if isinstance(value, float) else value
        raise InputError(f"'{name}' must be at least {least}, but is {shown}.")
