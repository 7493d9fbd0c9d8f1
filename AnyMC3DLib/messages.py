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
    """An image: a file or DICOM folder; or the path of an `.npy` file [k, j, i] and its affine."""

    file: str | None = None
    array: str | None = None
    ijk_to_ras: Matrix | None = None

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
class Train(Params):
    """Train a task (a file, a built-in name, or its JSON) on a table of cases and write the plugin to `out`."""

    task: str | Mapping[str, Any]
    data: str
    out: str
    weights: str | None = None
    device: str = "auto"
    train_splits: tuple[str, ...] = ("train",)
    val_splits: tuple[str, ...] = ("val",)
    step: Literal["auto", "speed", "memory"] = "auto"


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
class Cancel(Params):
    """Cancel the request of that id, running or waiting."""

    request: str | int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shutdown(Params):
    """End the worker; what runs or waits is cancelled."""


METHODS: Mapping[str, type[Params]] = {
    kind.__name__.lower(): kind
    for kind in (
        Hello, Devices, Load, Unload, Classify, Render, Train, Pause, Resume, Stop, Evaluate, Preview, Cancel, Shutdown,
    )
}  # fmt: skip
# These run one by one, in order; the others are answered at once.
JOBS = frozenset({"devices", "load", "unload", "classify", "render", "train", "evaluate", "preview"})


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProgressNote(Record):
    """The notification `progress`: how far the request `id` is, and the seconds since it began to run."""

    id: str | int
    step: str
    done: int
    total: int
    elapsed_s: float


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
