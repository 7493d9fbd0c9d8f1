"""Entering a network late, so that what lies before the first adapted block runs once for many plugins.

A unit is a child of the model, or a member of a sequence of blocks or stages. To enter at a unit, the units before
it are passed by (each gives a tensor of the right shape that holds nothing), and the unit gets the values that a run
without adapters brought there. That needs no knowledge of a model's own code; whether it is exact is tried out.
"""

from __future__ import annotations

import dataclasses
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn

from .memory import is_out_of_memory


@dataclasses.dataclass(frozen=True)
class Stage:
    """A batch of slices on its way: `values` enter unit `at`; at 0 they are the normalised input `x` itself.

    Past 0, `x` and `passed` (one for each unit before `at`) only have their shapes: they take no memory.
    """

    x: Tensor
    at: int = 0
    values: Tensor | None = None
    passed: tuple[Tensor, ...] = ()


class _Arrived(Exception):
    def __init__(self, values: Tensor) -> None:
        super().__init__()
        self.values = values


class Entrances:
    """The units of one model, in the order in which they run, and the runs that begin or end at them."""

    def __init__(self, model: nn.Module, run: Callable[[Tensor], Tensor], blank: Tensor) -> None:
        self._run = run
        self.names = _order(model, run, blank)
        self._modules = [model.get_submodule(name) for name in self.names]
        self._blank = blank
        self._exact: dict[int, bool] = {0: True}

    def unit_of(self, layer: str) -> int:
        """The number of the unit that `layer` is, lies in, or begins with; 0 where there is none."""
        return min(self._units_of(layer), default=0)

    def behind(self, layer: str) -> int:
        """The number of the unit that follows `layer`; 0 where none does."""
        after = max(self._units_of(layer), default=-1) + 1
        return after if after < len(self.names) else 0

    def _units_of(self, layer: str) -> list[int]:
        # A stage can be a unit, lie in one, or be a sequence of units.
        return [
            number
            for number, name in enumerate(self.names)
            if layer == name or layer.startswith(f"{name}.") or name.startswith(f"{layer}.")
        ]

    def nearest(self, at: int) -> int:
        """The last unit up to `at` at which entering gives what a whole run gives."""
        return next(unit for unit in range(at, -1, -1) if self._is_exact(unit))

    def advance(self, stage: Stage, to: int) -> Stage:
        """Run from `stage` to the entrance of unit `to`."""
        if to == stage.at:
            return stage
        arrival = self._modules[to].register_forward_pre_hook(_arrive)
        try:
            with self.recording(stage, to) as passed:
                self.run(stage)
        except _Arrived as arrived:
            return Stage(without_memory(stage.x), to, arrived.values, tuple(passed))
        finally:
            arrival.remove()
        raise RuntimeError(f"The network never came to {self.names[to]}.")

    def run(self, stage: Stage) -> Tensor:
        """Run from `stage` to the end."""
        with self.entered(stage):
            return self._run(stage.x)

    @contextmanager
    def entered(self, stage: Stage) -> Iterator[None]:
        """Within the block, a run of the model begins where `stage` is."""
        if stage.at == 0:
            yield
            return
        enter = self._modules[stage.at].register_forward_pre_hook(
            lambda _, inputs: (stage.values, *inputs[1:]), prepend=True
        )
        passed_by = list(zip(self._modules, stage.passed, strict=False))
        hooks = [module._forward_hooks for module, _ in passed_by]
        for module, stand_in in passed_by:
            module.forward = lambda *_, stand_in=stand_in, **__: stand_in
            # An adapter on the unit itself has nothing to act on.
            module._forward_hooks = OrderedDict()
        try:
            yield
        finally:
            enter.remove()
            for (module, _), own in zip(passed_by, hooks, strict=True):
                del module.forward
                module._forward_hooks = own

    @contextmanager
    def recording(self, stage: Stage, to: int) -> Iterator[list[Tensor]]:
        """Within the block, the list takes a tensor for each unit from `stage` to before `to` that runs."""
        passed = list(stage.passed)
        with ExitStack() as stack:
            for module in self._modules[stage.at : to]:
                handle = module.register_forward_hook(lambda _, __, output: passed.append(without_memory(output)))
                stack.callback(handle.remove)
            yield passed

    def _is_exact(self, unit: int) -> bool:
        if unit not in self._exact:
            first = next(self._modules[0].parameters(), self._blank)
            # From a generator of its own, so that a training's random numbers stay what they were.
            x = torch.rand(self._blank.shape, generator=torch.Generator().manual_seed(0)).to(first.device, first.dtype)
            with torch.no_grad():
                try:
                    late = self.run(self.advance(Stage(x), unit))
                    self._exact[unit] = torch.equal(late, self._run(x))
                except (RuntimeError, TypeError, ValueError, AttributeError) as error:
                    if is_out_of_memory(error):
                        raise
                    # A unit that gives no single tensor, or a model that joins units in a way of its own.
                    self._exact[unit] = False
        return self._exact[unit]


def without_memory(tensor: Tensor) -> Tensor:
    """Zeros of the shape of `tensor` that take the memory of one value."""
    return tensor.new_zeros(()).expand(tensor.shape)


def _arrive(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    raise _Arrived(inputs[0])


def _order(model: nn.Module, run: Callable[[Tensor], Tensor], blank: Tensor) -> list[str]:
    """The units that run exactly once, in their order."""
    calls: list[str] = []
    with ExitStack() as stack:
        for name in _unit_names(model):
            handle = model.get_submodule(name).register_forward_pre_hook(lambda *_, name=name: calls.append(name))
            stack.callback(handle.remove)
        with torch.no_grad():
            run(blank)
    return [name for name in calls if calls.count(name) == 1]


def _unit_names(model: nn.Module) -> Sequence[str]:
    names = []
    for name, child in model.named_children():
        if isinstance(child, (nn.Sequential, nn.ModuleList)) and len(child):
            names += [f"{name}.{inner}" for inner, _ in child.named_children()]
        else:
            names.append(name)
    return names
