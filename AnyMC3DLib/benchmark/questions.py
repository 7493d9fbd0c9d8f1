"""A question that a suite asks of its rows. Needs the standard library alone."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

from ..errors import InputError
from ..records import Record
from .config import RowConfig

# A question may be about all that a row is, but for what names its data, and for the seed, which is averaged over.
NO_AXIS = ("extra", "dataset", "task", "data", "seed", "recipe", "weights")
AXES = tuple(field.name for field in dataclasses.fields(RowConfig) if field.name not in NO_AXIS)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Question(Record):
    """What is compared, and over which rows.

    `id` names the question in files, `title` and `sentence` say it to a person. `axis` is the field of RowConfig that
    it is about; rows that differ in the fields `series` are lines or groups of their own. `where` keeps those rows
    whose fields have one of the listed values, such as {"share": (1.0,)}. Paired differences are taken along `against`,
    one of these fields: the method where it is among them, else the axis. All others are compared with its value
    `reference`: by default that of the paper, such as "anymc3d", else the smallest number or the best.
    """

    id: str
    title: str
    sentence: str
    axis: str
    series: tuple[str, ...] = ()
    where: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    against: str = ""
    reference: Any = None

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", self.id):
            raise InputError(f"A question's id has letters, digits, '-' and '_' alone, but is '{self.id}'.")
        for name in (self.axis, *self.series):
            if name not in AXES:
                raise InputError(f"The question '{self.id}' is about '{name}': choose from {', '.join(AXES)}.")
        if len({self.axis, *self.series}) <= len(self.series):
            raise InputError(f"The question '{self.id}' has a field twice among its axis and series: name it once.")
        if self.against and self.against not in (self.axis, *self.series):
            raise InputError(f"The question '{self.id}' compares '{self.against}', which is not its axis or series.")
        for name, values in self.where.items():
            if name not in (*AXES, "dataset"):
                raise InputError(f"The question '{self.id}' chooses rows by '{name}', which no row has.")
            if isinstance(values, (str, Mapping)) or not isinstance(values, (list, tuple)):
                raise InputError(f"The question '{self.id}' needs a list of values for '{name}'.")

    @property
    def compared(self) -> str:
        """The field along which differences are taken."""
        return self.against or ("method" if "method" in self.series else self.axis)

    def asks(self, config: RowConfig) -> bool:
        """Whether the row is one that the question is about."""
        return all(_plain(getattr(config, name)) in map(_plain, values) for name, values in self.where.items())


def _plain(value: Any) -> Any:
    """Lists of a file and tuples of a row are the same."""
    return tuple(value) if isinstance(value, list) else value
