"""Which columns an editable table of labelled cases has, and what its cells may hold."""

from __future__ import annotations

import dataclasses
import functools
import math
import re
import typing
from collections.abc import Mapping, Sequence

from ..errors import InputError
from ..manifest import CASE, ONLY_IMAGE, REGION, Table
from ..spec import PluginSpec, TaskType
from .table import LABEL, MASK, MASK_OF, PATIENT, SPLIT, SPLITS, WEIGHT, columns_of, mask_columns

MULTILABEL = "multilabel"
TASK_TYPES: tuple[str, ...] = typing.get_args(TaskType)
FLAGS = ("0", "1")  # of a class of a multilabel task
RESERVED = (CASE, PATIENT, LABEL, MASK, SPLIT, WEIGHT, ONLY_IMAGE)
LONGEST = 1 << 17  # characters; the csv module reads no longer cell
LINE_BREAKS = re.compile(r"[\r\n]+")


@dataclasses.dataclass(frozen=True)
class Layout:
    """The columns of a table, and the task that its labels are for.

    `images`, `masks` and `regions` are columns by the source of the image, `others` those that nothing knows. Raises
    InputError for a type of task that there is not, a class without a name, and two columns of one name.
    """

    task_type: str
    classes: tuple[str, ...]
    images: Mapping[str, str]
    masks: Mapping[str, str]
    regions: Mapping[str, str]
    others: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.task_type not in TASK_TYPES:
            known = ", ".join(TASK_TYPES)
            raise InputError(f"There is no type of task '{self.task_type}': choose one of {known}.")
        if not all(self.classes):
            raise InputError("A class has no name: give it one.")
        twice = _twice(self.classes)
        if twice is not None:
            raise InputError(f"There are two classes '{twice}': rename one.")
        for name in self.classes if self.multilabel else ():
            # Read again, its column would be taken for something else.
            if name in RESERVED or name.startswith(MASK_OF) or name.endswith(REGION):
                raise InputError(f"A column '{name}' has a meaning of its own: rename the class.")
        twice = _twice(self.columns)
        if twice is not None:
            raise InputError(f"The table would have two columns '{twice}': rename the class or the image.")

    @classmethod
    def of_sources(cls, sources: Sequence[str], classes: Sequence[str], task_type: str) -> Layout:
        """The columns of a new table; raises InputError as the class does, and for a source that comes twice."""
        twice = _twice(sources)
        if twice is not None:
            raise InputError(f"There are two images '{twice}': rename one.")
        images = {cleaned(source): cleaned(source) for source in sources}
        return cls(task_type, tuple(map(cleaned, classes)), images, _masks(images, {}), _regions(images))

    @classmethod
    def of_table(cls, table: Table, spec: PluginSpec | None) -> Layout:
        """The columns of a table that is there, for a plugin, or as `table.columns_of` guesses them without one."""
        columns = columns_of(table, spec)
        guessed = MULTILABEL if columns.multilabel else "binary" if len(columns.classes) <= 2 else "multiclass"
        images = dict(columns.images)
        task_type = guessed if spec is None else spec.task_type
        layout = cls(task_type, columns.classes, images, _masks(images, columns.masks), _regions(images))
        return layout.beside(table.columns)

    def with_masks(self, table: Table) -> Layout:
        """With the columns that the table has for masks, which can be called in two ways where there is one image."""
        return dataclasses.replace(self, masks=_masks(self.images, mask_columns(table, self.images)))

    def beside(self, columns: Sequence[str]) -> Layout:
        """As it is, in a table of these columns, which may hold some that nothing knows."""
        known = set(self.columns)
        return dataclasses.replace(self, others=tuple(name for name in columns if name not in known))

    @property
    def multilabel(self) -> bool:
        """Whether each class has a column of its own."""
        return self.task_type == MULTILABEL

    @functools.cached_property
    def labels(self) -> tuple[str, ...]:
        """The columns of the labels."""
        return self.classes if self.multilabel else (LABEL,)

    @functools.cached_property
    def columns(self) -> tuple[str, ...]:
        """All columns, in the order in which they are shown and written."""
        of_images = (*self.masks.values(), *self.regions.values())
        return (CASE, PATIENT, *self.images.values(), *self.labels, *of_images, SPLIT, WEIGHT, *self.others)

    @functools.cached_property
    def optional(self) -> frozenset[str]:
        """The columns that are written only if a row fills them."""
        return frozenset((PATIENT, *self.masks.values(), *self.regions.values(), SPLIT, WEIGHT))

    @functools.cached_property
    def paths(self) -> frozenset[str]:
        """The columns that name files."""
        return frozenset((*self.images.values(), *self.masks.values(), *self.regions.values()))

    def classes_of(self, cells: Mapping[str, str]) -> tuple[str, ...]:
        """The classes that a row's labels name."""
        if self.multilabel:
            return tuple(name for name in self.classes if cells.get(name) == "1")
        label = cells.get(LABEL, "")
        return (label,) if label in self.classes else ()

    def is_labelled(self, cells: Mapping[str, str]) -> bool:
        """Whether something is known of the row's classes, if only that it is not of one."""
        if self.multilabel:
            return any(cells.get(name) in FLAGS for name in self.classes)
        return bool(self.classes_of(cells))


def checked(layout: Layout, column: str, text: str) -> str:
    """What is put into a cell for `text`; raises InputError for a value that the column cannot hold.

    That a case has a name, and one of its own, is not looked at here.
    """
    value = cleaned(text)
    if value:
        sentence = fault_of(layout, column, value)
        if sentence is not None:
            raise InputError(sentence)
    return value


def fault_of(layout: Layout, column: str, value: str) -> str | None:
    """Why a label, split or weight that is not empty cannot be used, in one sentence; None where it can."""
    if column in layout.labels:
        if layout.multilabel and value not in FLAGS:
            return f"The label '{value}' of the class '{column}' is neither 0 nor 1: correct it, or empty it."
        if not layout.multilabel and value not in layout.classes:
            known = ", ".join(layout.classes) or "the classes, once there are some"
            return f"The label '{value}' is no class of the task: use one of {known}."
    if column == SPLIT and value not in SPLITS:
        return f"The split '{value}' is none of {', '.join(SPLITS)}: correct it, or empty it."
    if column == WEIGHT and not _is_positive(value):
        return f"The weight '{value}' is not a positive number: correct it, or empty it."
    return None


def cleaned(text: str) -> str:
    """The text as one line without blanks around it; raises InputError for what no table in UTF-8 can hold."""
    line = LINE_BREAKS.sub(" ", text).strip()  # a row stays a line, by whose number problems are told
    if len(line) > LONGEST:
        raise InputError(f"A cell cannot hold {len(line)} characters, as '{line[:40]}...' has: shorten it.")
    try:
        line.encode("utf-8")
    except UnicodeEncodeError as error:
        raise InputError(f"The text {line!a} holds characters that no table can: rename the file or case.") from error
    return line


def _is_positive(text: str) -> bool:
    try:
        return 0 < float(text) < math.inf
    except ValueError:
        return False


def _masks(images: Mapping[str, str], there: Mapping[str, str]) -> dict[str, str]:
    return {source: there.get(source, MASK if len(images) == 1 else f"{MASK_OF}{source}") for source in images}


def _regions(images: Mapping[str, str]) -> dict[str, str]:
    return {source: f"{column}{REGION}" for source, column in images.items()}


def _twice(names: Sequence[str]) -> str | None:
    seen: set[str] = set()
    return next((name for name in names if name in seen or seen.add(name)), None)
