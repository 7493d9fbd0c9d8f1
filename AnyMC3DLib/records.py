"""Frozen dataclasses to and from JSON values, checked field by field.

Unknown fields are kept in `extra`, so that a file written by a newer version survives a load and a save.
Needs the standard library alone, because the cards of plugins are read before torch is installed.
"""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Mapping
from typing import Any, Literal, TypeVar, Union

from .errors import InputError

RecordType = TypeVar("RecordType", bound="Record")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Record:
    """Base of the dataclasses that are written as JSON objects."""

    extra: Mapping[str, Any] = dataclasses.field(default_factory=dict, repr=False)

    @classmethod
    def from_dict(cls: type[RecordType], data: Any, *, where: str = "") -> RecordType:
        """Build the record from a JSON object.

        `where` names the place for error messages. Raises InputError for a wrong type or a missing field.
        """
        where = where or cls.__name__
        if not isinstance(data, Mapping):
            raise InputError(f"{where} must be a JSON object, but is {_shown(data)}.")
        hints = typing.get_type_hints(cls)
        known: dict[str, Any] = {}
        for field in dataclasses.fields(cls):
            if field.name == "extra":
                continue
            if field.name in data:
                known[field.name] = _convert(data[field.name], hints[field.name], f"{where}.{field.name}")
            elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
                raise InputError(f"{where} lacks the field '{field.name}'.")
        extra = {key: value for key, value in data.items() if key not in known}
        try:
            return cls(**known, extra=extra)
        except InputError as error:
            raise InputError(f"{where}: {error}") from error

    def to_dict(self) -> dict[str, Any]:
        """The record as JSON values; unknown fields that were read are written again."""
        result = {f.name: _plain(getattr(self, f.name)) for f in dataclasses.fields(self) if f.name != "extra"}
        return {**result, **self.extra}


def _shown(value: Any) -> str:
    try:
        text = repr(value)
    except ValueError:
        # Python writes no number of thousands of digits.
        return "a number of too many digits"
    return text if len(text) <= 60 else text[:57] + "..."


def _plain(value: Any) -> Any:
    if isinstance(value, Record):
        return value.to_dict()
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return value


def _convert(value: Any, hint: Any, where: str) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (Union, types.UnionType):
        return _convert_union(value, arguments, where)
    if origin is Literal:
        if value not in arguments:
            raise InputError(f"{where} must be one of {', '.join(map(str, arguments))}, but is {_shown(value)}.")
        return value
    if origin is tuple:
        return _convert_tuple(value, arguments, where)
    if origin is not None and issubclass(origin, Mapping):
        if not isinstance(value, Mapping):
            raise InputError(f"{where} must be a JSON object, but is {_shown(value)}.")
        return dict(value)
    if isinstance(hint, type) and issubclass(hint, Record):
        return value if isinstance(value, hint) else hint.from_dict(value, where=where)
    return _convert_scalar(value, hint, where)


def _convert_union(value: Any, arguments: tuple[Any, ...], where: str) -> Any:
    if value is None and type(None) in arguments:
        return None
    problems = []
    for argument in arguments:
        if argument is type(None):
            continue
        try:
            return _convert(value, argument, where)
        except InputError as error:
            problems.append(error)
    raise problems[-1]


def _convert_tuple(value: Any, arguments: tuple[Any, ...], where: str) -> tuple[Any, ...]:
    if isinstance(value, str) or not isinstance(value, (list, tuple)):
        raise InputError(f"{where} must be a list, but is {_shown(value)}.")
    if len(arguments) == 2 and arguments[1] is Ellipsis:
        return tuple(_convert(item, arguments[0], f"{where}[{index}]") for index, item in enumerate(value))
    if len(value) != len(arguments):
        raise InputError(f"{where} must have {len(arguments)} values, but has {len(value)}.")
    pairs = enumerate(zip(value, arguments, strict=True))
    return tuple(_convert(item, argument, f"{where}[{index}]") for index, (item, argument) in pairs)


def _finite(value: float, where: str) -> float:
    # JSON has whole numbers of any length, which overflow a float.
    number = float(value) if abs(value) < 1e308 else float("inf")
    if not math.isfinite(number):
        raise InputError(f"{where} must be a finite number, but is {_shown(value)}.")
    return number


def _convert_scalar(value: Any, hint: Any, where: str) -> Any:
    if hint is Any:
        return value
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if hint is float and is_number:
        return _finite(value, where)
    if hint is int and is_number and (isinstance(value, int) or value.is_integer()):
        return int(value)
    if hint in (bool, str) and isinstance(value, hint):
        return value
    names = {float: "a number", int: "a whole number", bool: "true or false", str: "a text"}
    raise InputError(f"{where} must be {names.get(hint, hint)}, but is {_shown(value)}.")


def mapping_of(value: Any) -> Mapping[str, Any]:
    """The value, or nothing where it is no mapping: a plugin's maker may write anything into its provenance."""
    return value if isinstance(value, Mapping) else {}
