"""timm's network for an architecture, with what timm's own defaults would get wrong put right."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import timm
import torch
from torch import nn

from .architecture import Architecture
from .errors import BackboneError
from .positions import use_positions

LARGEST_SIZE = 1 << 16
MOST_LAYERS = 1000
# In the names of timm's arguments that say how many layers to build.
LAYERS = ("depth", "layers", "stages", "blocks")


# Arguments of timm's that would read files or fetch them, or give another kind of model.
FORBIDDEN = ("pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "checkpoint_path", "cache_dir", "features_only",
             "scriptable", "exportable", "no_jit")  # fmt: skip
# What a module remembers for its training alone, or of how it was made.
IN_TRAINING = {
    *("training", "drop_prob", "drop_rate", "p", "scale_by_keep", "grad_checkpointing", "inplace", "fused_attn"),
    *("fix_init", "init_values", "weight_init", "weight_init_mode"),
}
# What a module's values are called for a person; those that tell most come first.
WORDS = {
    "num_heads": "number of heads", "eps": "epsilon of the norms", "stride": "stride", "window_size": "window",
    "kernel_size": "kernel size", "dilation": "dilation", "padding": "padding", "groups": "number of groups",
    "approximate": "way of computing GELU", "temperature": "base of the rotary positions", "global_pool": "pooling",
}  # fmt: skip


def build_network(architecture: Architecture) -> nn.Module:
    """The network, with random weights and without a classifier; raises BackboneError if timm cannot build it."""
    name = architecture.timm.partition(".")[0]
    if not timm.is_model(name):
        raise BackboneError(f"timm has no model '{architecture.timm}': update timm, or check the name.")
    _check_sizes(architecture.model_args)
    refused = [name for name in FORBIDDEN if name in architecture.model_args]
    if refused:
        raise BackboneError(f"A backbone may not set timm's '{refused[0]}', which reads other files: get it again.")
    arguments = {"num_classes": 0, **_tuples(architecture.model_args)}
    if architecture.positions.kind != "fixed":
        arguments = {"dynamic_img_size": True, **arguments}
    try:
        model = _created(architecture.timm, arguments)
    except (TypeError, ValueError, AssertionError, RuntimeError, KeyError, ZeroDivisionError) as error:
        raise BackboneError(
            f"timm cannot build '{architecture.timm}' as the file describes it ({error}): get the file and its config "
            "again."
        ) from error
    use_positions(model, architecture.positions)
    if architecture.norm_eps:
        for module in model.modules():
            if isinstance(module, nn.LayerNorm):
                module.eps = architecture.norm_eps
    return model


def _check_sizes(arguments: Mapping[str, Any]) -> None:
    """Raise BackboneError for sizes that no backbone has: timm would build them for hours, or fill the memory."""
    for name, value in arguments.items():
        numbers = [n for n in _flat(value) if isinstance(n, (int, float))]
        most = MOST_LAYERS if any(word in name for word in LAYERS) else LARGEST_SIZE
        if sum(map(abs, numbers)) > most:
            raise BackboneError(f"No backbone has '{name}' {str(value)[:60]}: get the file and its config again.")


def _flat(value: Any) -> Iterator[Any]:
    if isinstance(value, (list, tuple)):
        for item in value:
            yield from _flat(item)
    else:
        yield value


def _created(name: str, arguments: dict[str, Any]) -> nn.Module:
    try:
        # Transformers that can take any size take it when asked; other models do not know the word.
        return timm.create_model(name, pretrained=False, **arguments)
    except TypeError:
        arguments.pop("dynamic_img_size", None)
        return timm.create_model(name, pretrained=False, **arguments)


def _tuples(arguments: Any) -> dict[str, Any]:
    """JSON knows lists alone; timm wants tuples for sizes."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in arguments.items()}


def shortest(architecture: Architecture, names: Iterable[str]) -> Architecture:
    """The same network under the first of timm's `names` that needs no arguments, else as it is.

    So the same weights have the same description, whatever file they came from. Nothing is allocated.
    """
    traits = _traits(architecture)
    for name in names:
        for eps in (0.0, architecture.norm_eps):
            short = dataclasses.replace(architecture, timm=name, model_args={}, norm_eps=eps)
            if _traits(short) == traits:
                return short
    return architecture


def are_alike(one: Architecture, other: Architecture) -> bool:
    """Whether both stand for the same network, but for how positions are resampled."""
    return difference(one, other) is None


@dataclasses.dataclass(frozen=True)
class Difference:
    """One trait in which two networks differ: in words, and its value in the first and in the second."""

    trait: str
    first: str
    second: str


def difference(one: Architecture, other: Architecture) -> Difference | None:
    """What tells two networks apart best, but for how positions are resampled; None where they are the same."""
    facts = [(a.timm, dict(a.model_args), a.norm_eps, a.positions.rounded_periods) for a in (one, other)]
    if facts[0] == facts[1]:
        return None
    first, second = _traits(one), _traits(other)
    found = [
        *_differences_of_tensors(dict(first.shapes), dict(second.shapes)),
        *_differences_of_modules(dict(first.modules), dict(second.modules)),
    ]
    if found:
        return min(found, key=lambda item: item[0])[1]
    return (
        None if first == second else Difference("order of its layers", f"that of {one.timm}", f"that of {other.timm}")
    )


def _differences_of_tensors(one: Mapping[str, Any], other: Mapping[str, Any]) -> Iterator[tuple[int, Difference]]:
    for name in dict.fromkeys([*one, *other]):
        if one.get(name) != other.get(name):
            shapes = [str(list(shapes[name])) if name in shapes else "missing" for shapes in (one, other)]
            yield 0, Difference(f"tensor '{name}'", *shapes)


def _differences_of_modules(
    one: Mapping[str, _Module], other: Mapping[str, _Module]
) -> Iterator[tuple[int, Difference]]:
    """Each difference with its rank: the kind of network tells more than that of a layer, and that than a number."""
    for name in dict.fromkeys([*one, *other]):
        kinds = [modules[name].kind if name in modules else "missing" for modules in (one, other)]
        where = f" (its layer '{name}')" if name else ""
        if kinds[0] != kinds[1]:
            trait = "activation" if name.rpartition(".")[2].startswith("act") else "kind of layer"
            yield 2 if name else 1, Difference(trait + where if name else "kind of network", *kinds)
            continue
        values = one[name].values, other[name].values
        for field in dict.fromkeys([*values[0], *values[1]]):
            if field not in values[0] or field not in values[1] or values[0][field] != values[1][field]:
                rank = 3 + (list(WORDS).index(field) if field in WORDS else len(WORDS))
                words = WORDS.get(field, field.replace("_", " "))
                yield rank, Difference(words + where, *(str(v.get(field, "missing"))[:60] for v in values))


@dataclasses.dataclass(frozen=True)
class _Module:
    kind: str
    values: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class _Traits:
    """Tensors and modules in their order, which says in part how modules are called."""

    shapes: list[tuple[str, tuple[int, ...]]]
    modules: list[tuple[str, _Module]]


def _traits(architecture: Architecture) -> _Traits:
    """All that the outputs depend on besides the weights: each module's kind, and its values that are no modules."""
    positions = dataclasses.replace(architecture.positions, kind="any")
    with torch.device("meta"):
        model = build_network(dataclasses.replace(architecture, positions=positions))
    shapes = [(name, tuple(tensor.shape)) for name, tensor in model.state_dict().items()]
    return _Traits(shapes, [(name, _Module(type(m).__name__, _values(m))) for name, m in model.named_modules()])


def _values(module: nn.Module) -> dict[str, Any]:
    values = {name: value for name, value in sorted(vars(module).items()) if name not in IN_TRAINING}
    return {name: value for name, value in values.items() if not name.startswith("_") and _is_plain(value)}


def _is_plain(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return all(_is_plain(item) for item in value)
    return value is None or isinstance(value, (bool, int, float, str))
