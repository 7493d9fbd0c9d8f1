"""Which rows that a layer sees belong to which slice: one each, or several that stand together, such as its windows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import NoReturn

import torch
from torch import Tensor, nn

from .errors import BackboneError

# How many values of each row are compared.
COMPARED = 256
# Rows that are not where they belong differ by as much as rows of two slices do; rounding is far below that.
TOLERANCE = 0.05


def rows_of_a_slice(layer: str, rows: int, slices: int) -> int:
    """How many of the rows belong to each slice; raises BackboneError if they cannot be told apart."""
    if rows < slices or rows % slices:
        _refuse(layer, rows, slices)
    return rows // slices


def seen_rows(
    model: nn.Module, layers: Sequence[str], run: Callable[[Tensor], object], slices: Tensor
) -> dict[str, Tensor]:
    """Some values of each row that each of the `layers` sees [rows, n]; those that are never called are left out."""
    found: dict[str, Tensor] = {}

    def keep(name: str, x: Tensor) -> None:
        values = x.flatten(1)
        found[name] = values[:, :: max(1, values.shape[1] // COMPARED)].float()

    with ExitStack() as stack, torch.no_grad():
        for name in layers:
            hook = lambda _, inputs, __, name=name: keep(name, inputs[0])  # noqa: E731
            stack.callback(model.get_submodule(name).register_forward_hook(hook).remove)
        run(slices)
    return found


def check_order(model: nn.Module, layers: Sequence[str], run: Callable[[Tensor], object], slices: Tensor) -> None:
    """Raise BackboneError unless the rows of each of two different `slices` stand together in all `layers`."""
    first, second = (seen_rows(model, layers, run, slices[n : n + 1]) for n in range(2))
    several = [name for name in layers if len(first[name]) != 1]
    together = seen_rows(model, several, run, slices) if several else {}
    for name, both in together.items():
        rows_of_a_slice(name, len(both), 2)
        expected, exchanged = torch.cat([first[name], second[name]]), torch.cat([second[name], first[name]])
        if both.shape != expected.shape:
            _refuse(name, len(both), 2)
        if (both - expected).abs().max() > TOLERANCE * (expected - exchanged).abs().max():
            _refuse(name, len(both), 2)


def _refuse(layer: str, rows: int, slices: int) -> NoReturn:
    raise BackboneError(
        f"The layer '{layer}' sees {rows} rows for {slices} slices, so adapters cannot be told apart there: choose "
        "other LoRA targets."
    )
