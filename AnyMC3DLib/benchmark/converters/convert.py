"""A published data set to a table of labelled cases, whole or not at all."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path

from ...errors import InputError
from ...files import is_there, replacing
from ...resources import resource
from ...spec import PluginSpec
from ...training.cases import read_cases
from ...training.dataset_file import JSON_ENDINGS
from ...training.task import read_task
from . import ct_rate, folder, medmnist, mrnet, rsna_abdominal
from .common import Converted, Order

CONVERTERS: Mapping[str, Callable[[Path, Order], Converted]] = {
    "rsna-abdominal": rsna_abdominal.convert,
    "ct-rate": ct_rate.convert,
    "mrnet": mrnet.convert,
    "medmnist": medmnist.convert,
    "folder": folder.convert,
}
WRITE_IMAGES = ("mrnet", "medmnist")
SEVERAL_SERIES = ("rsna-abdominal", "ct-rate")


def convert(kind: str, source: str | Path, order: Order) -> Converted:
    """Write `order.table` from a data set of the kind, one of `CONVERTERS`; patients keep the names they have there.

    Where there is a task of the name, the table is read back for it before it takes its place. Raises InputError for a
    table that is there already without `replace`, and for whatever is wrong with the data set.
    """
    _check(kind, order)
    spec = _spec_of(kind, order.task)
    table = order.table
    with replacing(table) as temporary:
        # What is told of the temporary table is told of the one that was asked for.
        try:
            converted = CONVERTERS[kind](Path(source), dataclasses.replace(order, table=temporary, spec=spec))
            if spec is not None:
                read_cases(temporary, spec)
        except InputError as error:
            raise InputError(str(error).replace(temporary.name, table.name)) from error
    return converted


def _check(kind: str, order: Order) -> None:
    if kind not in CONVERTERS:
        raise InputError(f"There is no converter '{kind}': give one of {', '.join(CONVERTERS)}.")
    if order.table.suffix.lower() in JSON_ENDINGS:
        raise InputError(f"The table is written as CSV, but '{order.table.name}' is called JSON: name it '.csv'.")
    if is_there(order.table) and not order.replace:
        raise InputError(f"The table '{order.table}' is there already: give another place, or ask to replace it.")
    if order.images is not None and kind not in WRITE_IMAGES:
        raise InputError(f"'{kind}' writes no images, its own are used as they are: leave --images out.")
    if order.one_series and kind not in SEVERAL_SERIES:
        raise InputError(f"'{kind}' has one series a case: leave --one-series out.")
    train, *others = order.shares
    if not train > 0 or min(others) < 0 or not abs(sum(order.shares) - 1) < 1e-6:
        told = ", ".join(f"{share:g}" for share in order.shares)
        raise InputError(f"The shares of train, val and test must sum to 1, with some for train, but are {told}.")


def _spec_of(kind: str, task: str) -> PluginSpec | None:
    """The task's plugin; None without a task, and where the name only says which organ is meant."""
    if not task:
        return None
    known = Path(task).is_file() or (resource("Tasks") / f"{task}.json").is_file()
    return read_task(task).plugin if known or kind != "rsna-abdominal" else None
