"""Low-rank adapters (LoRA, arXiv 2106.09685) on the linear and convolution layers of a frozen backbone.

y = W x + (alpha / rank) B A x. For a convolution A has W's kernel and `rank` output channels, and B is pointwise.
Adapters act through forward hooks, so the backbone keeps its modules, names and weights. One that acts alone may be
merged into the weights instead, or, where gradients are followed, run as one step with its layer.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial

import torch
import torch.nn.functional as F
from timm.layers import Conv2dSame
from timm.models import group_parameters
from torch import Tensor, nn

from .errors import BackboneError
from .folding import FoldingConv2d, convolve
from .lowrank import lowrank_linear, merged_weight
from .rows import check_order, rows_of_a_slice, seen_rows
from .spec import LoRASpec

# Groups of layers that a spec may name as targets.
TARGET_GROUPS = ("patch_embed", "attention", "mlp", "pointwise", "convolution")
DEFAULT_TARGETS = {
    "transformer": ("patch_embed", "attention"),
    "hierarchy": ("patch_embed", "attention"),
    "cnn": ("pointwise", "convolution"),
}
# Layers that come after the last block, and are adapted with it.
AFTER_THE_BLOCKS = ("attn_pool", "fc_norm", "head", "neck")
ADAPTABLE = (nn.Linear, nn.Conv2d, Conv2dSame, FoldingConv2d)


def select_targets(model: nn.Module, spec: LoRASpec, *, kind: str) -> dict[str, nn.Module]:
    """The layers of `model` that `spec` adapts, by name; `kind` is the backbone's.

    Raises BackboneError if a named group is unknown or has no layer here, or a layer cannot be adapted.
    """
    if spec.rank == 0:
        return {}
    groups = spec.targets or DEFAULT_TARGETS[kind]
    unknown = [group for group in groups if group not in TARGET_GROUPS]
    if unknown:
        raise BackboneError(f"LoRA cannot target '{unknown[0]}': choose among {', '.join(TARGET_GROUPS)}.")
    found = {name: group_of(model, name, kind=kind) for name, _ in model.named_modules()}
    absent = [group for group in groups if group not in found.values()]
    if absent:
        raise BackboneError(f"This backbone has no layer of the group '{absent[0]}' for LoRA: choose another target.")
    names = [name for name, group in found.items() if group in groups]
    if spec.last_blocks is not None:
        names = _in_last_blocks(model, names, spec.last_blocks)
    targets = {name: model.get_submodule(name) for name in names}
    for name, module in targets.items():
        if type(module) not in ADAPTABLE or getattr(module, "padding_mode", "zeros") != "zeros":
            raise BackboneError(f"LoRA cannot adapt the layer '{name}' of type {type(module).__name__}.")
    return targets


def group_of(model: nn.Module, name: str, *, kind: str) -> str | None:
    """Which of TARGET_GROUPS the layer `name` belongs to, or None."""
    module = model.get_submodule(name)
    if isinstance(module, nn.Linear):
        # Its own parent alone: a pooling query has an MLP within it, which is no attention.
        parent = type(model.get_submodule(name.rpartition(".")[0])).__name__.lower()
        if "attention" in parent:
            return "attention"
        if kind == "cnn" or (kind == "hierarchy" and "mlp" not in parent):
            return "pointwise"
        return "patch_embed" if name.startswith("patch_embed") else "mlp"
    if isinstance(module, nn.Conv2d) and module.groups == 1:
        if kind == "transformer":
            return "patch_embed" if name.startswith("patch_embed") else None
        if kind == "hierarchy" and name.startswith(("patch_embed", "stem")):
            return "patch_embed"
        return "pointwise" if tuple(module.kernel_size) == (1, 1) else "convolution"
    return None


def _in_last_blocks(model: nn.Module, names: list[str], count: int) -> list[str]:
    """Keep the layers in the last `count` blocks, by timm's own grouping of parameters from stem to end."""
    depth = group_parameters(model, model.group_matcher(coarse=False), reverse=True)
    last = max(depth[f"{name}.weight"] for name in names if not name.startswith(AFTER_THE_BLOCKS))
    return [name for name in names if depth[f"{name}.weight"] > last - count]


class LoRAPair(nn.Module):
    """A and B of one layer. A starts as peft's (Kaiming uniform), B at zero: a fresh pair changes nothing."""

    def __init__(self, layer: nn.Module, *, rank: int, scale: float) -> None:
        super().__init__()
        weight = layer.weight
        self.A = nn.Parameter(torch.empty(rank, *weight.shape[1:], dtype=torch.float32))
        self.B = nn.Parameter(torch.zeros(weight.shape[0], rank, dtype=torch.float32))
        self.scale = scale
        nn.init.kaiming_uniform_(self.A, a=math.sqrt(5))

    def forward(self, layer: nn.Module, x: Tensor) -> Tensor:
        """The change of `layer`'s output for its input x."""
        A, B = self.A.to(x.dtype), (self.B * self.scale).to(x.dtype)
        if isinstance(layer, nn.Linear):
            return F.linear(F.linear(x, A), B)
        return F.conv2d(convolve(layer, x, weight=A, bias=None), B[:, :, None, None])

    def merged(self, weight: Tensor) -> Tensor:
        """The layer's weight with the change added."""
        return merged_weight(weight, self.A, self.B, self.scale)


class Adapter(nn.Module):
    """The low-rank pairs of one plugin's view, by the name of the layer they act on."""

    def __init__(self, targets: Mapping[str, nn.Module], spec: LoRASpec) -> None:
        super().__init__()
        # Module names may not hold dots.
        self.pairs = nn.ModuleDict(
            {name.replace(".", "/"): LoRAPair(layer, rank=spec.rank, scale=spec.alpha / spec.rank)
             for name, layer in targets.items()}
        )  # fmt: skip

    def pair(self, name: str) -> LoRAPair | None:
        """The pair of the layer `name`, if it is adapted."""
        key = name.replace(".", "/")
        return self.pairs[key] if key in self.pairs else None

    @property
    def layers(self) -> list[str]:
        """The names of the adapted layers."""
        return [key.replace("/", ".") for key in self.pairs]


@dataclasses.dataclass(frozen=True)
class Rows:
    """Rows first to last - 1 of a batch belong to the adapter `key`; None for the last means all to the end."""

    key: str
    first: int = 0
    last: int | None = None


class AdapterSites:
    """The layers of one backbone at which adapters act, and which adapters act now."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._adapters: dict[str, Adapter] = {}
        self._hooks: dict[str, torch.utils.hooks.RemovableHandle] = {}
        self._active: tuple[Rows, ...] = ()
        self._batch = 0
        self._joined: frozenset[str] = frozenset()
        # The layers in which the rows of each slice are known to stand together, by size of slices.
        self._ordered: dict[tuple[int, ...], frozenset[str]] = {}

    def attach(self, key: str, adapter: Adapter) -> None:
        """Make `adapter` known under `key`; it acts once it is active."""
        self._adapters[key] = adapter
        for name in adapter.layers:
            if name not in self._hooks:
                layer = self._model.get_submodule(name)
                self._hooks[name] = layer.register_forward_hook(self._hook(name))

    def detach(self, key: str) -> None:
        """Forget the adapter `key`; layers that no adapter needs lose their hook."""
        self._adapters.pop(key, None)
        needed = {name for adapter in self._adapters.values() for name in adapter.layers}
        for name in [name for name in self._hooks if name not in needed]:
            self._hooks.pop(name).remove()

    @property
    def keys(self) -> list[str]:
        """The adapters that are attached."""
        return list(self._adapters)

    @contextmanager
    def active(self, rows: Sequence[Rows], *, batch: int) -> Iterator[None]:
        """Within the block each adapter acts on its rows of a batch of `batch` slices, and on no other row."""
        unknown = [r.key for r in rows if r.key not in self._adapters]
        if unknown:
            # Without hooks it would silently act nowhere.
            raise BackboneError(f"The adapter '{unknown[0]}' is not on this backbone: load its plugin again.")
        previous = self._active, self._batch, self._joined
        self._active, self._batch = tuple(rows), batch
        try:
            with ExitStack() as stack:
                self._joined = self._join(rows, batch, stack)
                yield
        finally:
            self._active, self._batch, self._joined = previous

    def _join(self, rows: Sequence[Rows], batch: int, stack: ExitStack) -> frozenset[str]:
        """Run the linear layers of an adapter that has the batch for itself as one step with their pairs."""
        alone = len(rows) == 1 and rows[0].first == 0 and rows[0].last in (None, batch)
        if not alone or not torch.is_grad_enabled() or torch.is_autocast_enabled(self._device_type):
            return frozenset()
        adapter = self._adapters[rows[0].key]
        layers = {name: self._model.get_submodule(name) for name in adapter.layers}
        joined = {name: layer for name, layer in layers.items() if isinstance(layer, nn.Linear)}
        for name, layer in joined.items():
            layer.forward = partial(self._joined_forward, name, layer, adapter.pair(name))
            stack.callback(_own_forward, layer)
        return frozenset(joined)

    def _joined_forward(self, name: str, layer: nn.Linear, pair: LoRAPair, x: Tensor) -> Tensor:
        rows_of_a_slice(name, len(x), self._batch)
        return lowrank_linear(x, layer.weight, layer.bias, pair.A, pair.B, pair.scale)

    @property
    def _device_type(self) -> str:
        return next(self._model.parameters()).device.type

    @contextmanager
    def merged(self, key: str) -> Iterator[None]:
        """Within the block the weights hold the adapter `key`; afterwards they are what they were, bit for bit."""
        adapter = self._adapters[key]
        layers = {name: self._model.get_submodule(name) for name in adapter.layers}
        kept = {name: layer.weight for name, layer in layers.items()}
        try:
            with torch.no_grad():
                for name, layer in layers.items():
                    layer.weight = nn.Parameter(adapter.pair(name).merged(layer.weight), requires_grad=False)
            yield
        finally:
            # The very tensors are put back: W + d - d is not W in floating point.
            for name, layer in layers.items():
                layer.weight = kept[name]

    def check_reach(self, key: str, run: Callable[[Tensor], object], slices: Tensor) -> None:
        """Raise BackboneError if the adapter `key` cannot act on all its layers, each on its own slices alone.

        Some networks use a layer's weight without calling the layer; an adapter there would silently do nothing.
        Others cut slices into windows, and a layer sees these as rows: those of a slice must then stand together.
        `slices` are two different ones for `run`, without adapters.
        """
        layers = self._adapters[key].layers
        rows = seen_rows(self._model, layers, run, slices[:1])
        missed = [name for name in layers if name not in rows]
        if missed:
            raise BackboneError(
                f"LoRA cannot reach {len(missed)} of {len(layers)} layers of this backbone, such as {missed[0]}: "
                "choose other targets."
            )
        self._check_order(layers, run, slices)

    def check_order(
        self, rows: Sequence[Rows], run: Callable[[Tensor], object], slices: Callable[[], Tensor], *, batch: int
    ) -> None:
        """As `check_reach` for the order of rows, at another size of slices, where adapters share a batch.

        A size is tried out once.
        """
        if all(r.first == 0 and r.last in (None, batch) for r in rows):
            return
        layers = {name for r in rows if r.key in self._adapters for name in self._adapters[r.key].layers}
        two = slices()
        unknown = layers - self._ordered.get(tuple(two.shape), frozenset())
        if unknown:
            self._check_order(sorted(unknown), run, two)

    def _check_order(self, layers: Sequence[str], run: Callable[[Tensor], object], slices: Tensor) -> None:
        check_order(self._model, layers, run, slices)
        size = tuple(slices.shape)
        self._ordered[size] = self._ordered.get(size, frozenset()) | frozenset(layers)

    def _hook(self, name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor | None]:
        def add_changes(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
            if not self._active or name in self._joined:
                return None
            x = inputs[0]
            each = rows_of_a_slice(name, len(x), self._batch)
            for rows in self._active:
                pair = self._adapters[rows.key].pair(name)
                if pair is None:
                    continue
                if rows.first == 0 and rows.last in (None, self._batch):
                    # Changing a part in place would cost the gradient a copy of the whole.
                    output = output + pair(layer, x).to(output.dtype)
                    continue
                where = slice(rows.first * each, None if rows.last is None else rows.last * each)
                # A layer's output is not needed for its own gradient, so it may be changed in place.
                output[where] += pair(layer, x[where]).to(output.dtype)
            return output

        return add_changes


def _own_forward(layer: nn.Module) -> None:
    """Give `layer` its class's forward back."""
    del layer.forward
