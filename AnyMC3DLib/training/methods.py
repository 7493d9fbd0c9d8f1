"""The four ways of training one task that the papers compare. Needs the standard library alone."""

from __future__ import annotations

import dataclasses
from typing import Literal, get_args

from ..errors import InputError
from ..spec import FusionSpec, LoRASpec
from .task import TaskSpec

Method = Literal["lora", "frozen", "probe", "full"]


def with_method(task: TaskSpec, method: Method) -> TaskSpec:
    """The task trained by `lora` (adapters, fusion, head), `frozen` (fusion and head), `probe` or `full` (all weights).

    A `probe` is the mean of the slices, views side by side, and one linear layer on it. Raises InputError where the
    task has no adapters to train.
    """
    if method not in get_args(Method):
        raise InputError(f"There is no method '{method}': choose from {', '.join(get_args(Method))}.")
    plugin, recipe = task.plugin, task.training
    if method != "lora":
        plugin = dataclasses.replace(plugin, lora=LoRASpec(rank=0))
    elif plugin.lora.rank == 0:
        raise InputError("The task has adapters of rank 0, which train nothing: give lora a rank, or choose 'frozen'.")
    if method == "probe":
        plugin = dataclasses.replace(plugin, fusion=FusionSpec(kind="mean", views="concat"))
    recipe = dataclasses.replace(recipe, method="frozen" if method == "probe" else method)
    return dataclasses.replace(task, plugin=plugin, training=recipe)
