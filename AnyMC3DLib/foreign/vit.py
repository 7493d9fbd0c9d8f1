"""Plain vision transformers: the architecture from tensors in timm's names."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor

from ..architecture import IMAGENET_MEAN, IMAGENET_STD, Architecture, Positions
from ..building import shortest
from ..errors import BackboneError
from .checkpoint import Checkpoint
from .layout import Network, Rule, count, join, need

# The Transformers library's names for activations, and timm's.
ACTIVATIONS = {"gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh", "quick_gelu": "quick_gelu", "relu": "relu",
               "silu": "silu", "swish": "silu"}  # fmt: skip


def vit_architecture(
    tensors: Mapping[str, Tensor],
    *,
    family: str,
    base: str,
    heads: int,
    positions: Positions,
    known: tuple[str, ...] = (),
    prefix_positions: bool = True,
    norm_eps: float = 0.0,
    mean: tuple[float, float, float] = IMAGENET_MEAN,
    std: tuple[float, float, float] = IMAGENET_STD,
    **more: Any,
) -> Architecture:
    """The architecture of a plain vision transformer whose `tensors` have timm's names.

    `base` is a model of timm's of this kind, whose own sizes are replaced; `known` are its models of standard sizes;
    `prefix_positions` says whether class and register tokens have positions too; `more` goes to timm as it is.
    """
    patch = need(tensors, "patch_embed.proj.weight", ndim=4)
    width = patch.shape[0]
    if heads < 1 or width % heads:
        raise BackboneError(f"{heads} attention heads do not divide the width {width}: get the file's config again.")
    args: dict[str, Any] = {
        "patch_size": int(patch.shape[2]),
        "embed_dim": width,
        "depth": count(tensors, r"blocks\.(\d+)\."),
        "num_heads": heads,
        **more,
    }
    if "mlp_ratio" not in args:
        args["mlp_ratio"] = mlp_ratio(need(tensors, "blocks.0.mlp.fc1.weight", ndim=2).shape[0], width)
    if "blocks.0.attn.qkv.weight" in tensors and not {"blocks.0.attn.qkv.bias", "blocks.0.attn.q_bias"} & set(tensors):
        args.setdefault("qkv_bias", False)
    size = 224
    if "pos_embed" in tensors:
        prefix = sum(tensors[n].shape[1] for n in ("cls_token", "reg_token") if n in tensors) if prefix_positions else 0
        size = args["img_size"] = square(need(tensors, "pos_embed", ndim=3).shape[1] - prefix) * int(patch.shape[2])
    architecture = Architecture(
        family=family, timm=base, model_args=args, input_size=(size, size), mean=mean, std=std, positions=positions,
        norm_eps=norm_eps,
    )  # fmt: skip
    return shortest(architecture, known)


def mlp_ratio(hidden: int, width: int) -> float:
    """What timm multiplies the width by, and rounds down, to get so many hidden features."""
    ratio = hidden / width
    return ratio if int(width * ratio) == hidden else (hidden + 0.5) / width


def square(patches: int) -> int:
    """The side of a square grid of so many patches."""
    side = math.isqrt(max(patches, 0))
    if side < 1 or side * side != patches:
        raise BackboneError(f"{patches} position embeddings are no square grid of patches: get the file again.")
    return side


def heads_of(config: Mapping[str, Any], assumed: Network | None, *, default: int = 12) -> int:
    """How many attention heads: as the config says, else its library's `default`; those of `assumed` without one."""
    if assumed:
        return assumed.heads
    stated = config.get("num_attention_heads", default)
    if isinstance(stated, bool) or not isinstance(stated, int):
        raise BackboneError(
            f"The config's 'num_attention_heads' is {stated!r}, which is no number: get the config again."
        )
    return stated


def activation_of(config: Mapping[str, Any], field: str = "hidden_act") -> dict[str, str]:
    """timm's argument for the MLPs' activation as the config says; {} for the usual GELU."""
    stated = config.get(field, "gelu")
    if stated == "gelu":
        return {}
    if not isinstance(stated, str) or stated not in ACTIVATIONS:
        raise BackboneError(
            f"The config's '{field}' is {stated!r}, which timm does not have: these weights cannot be read."
        )
    return {"act_layer": ACTIVATIONS[stated]}


def refuse_oblong(config: Mapping[str, Any]) -> None:
    """Raise BackboneError for a config of another than square training size, whose positions have no square grid."""
    for field in ("image_size", "patch_size"):
        stated = config.get(field)
        if isinstance(stated, (list, tuple)) and len(set(map(str, stated))) > 1:
            raise BackboneError(
                f"The config's '{field}' is {list(stated)}, but only square sizes can be read: give a model of a "
                "square size."
            )


def optional_prefix(prefix: str, rules: Iterable[Rule]) -> tuple[Rule, ...]:
    """The rules for names that may begin with `prefix`, such as those of a network within a classifier."""
    return tuple(Rule(rf"(?:{prefix})?(?:{rule.pattern})", rule.name) for rule in rules)


def join_qkv(tensors: dict[str, Tensor]) -> None:
    """Make one tensor of the query, key and value of every block, in place."""
    for n in range(count(tensors, r"blocks\.(\d+)\.")):
        for leaf in ("weight", "bias"):
            parts = [f"blocks.{n}.attn.{part}.{leaf}" for part in ("query", "key", "value")]
            join(tensors, parts, f"blocks.{n}.attn.qkv.{leaf}")


def number_of(config: Mapping[str, Any], field: str, default: float) -> float:
    """A number of the config, or the default where it is absent."""
    value = config.get(field, default)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise BackboneError(f"The config's '{field}' is {value!r}, which is no number: get the config again.")
    return float(value)


def normalisation(
    checkpoint: Checkpoint, *, mean: tuple[float, float, float], std: tuple[float, float, float]
) -> dict[str, tuple[float, float, float]]:
    """`mean` and `std` of the colours as the processor's file beside the weights says, else the family's own.

    They are for slices from 0 to 1, whatever the processor multiplies values from 0 to 255 by before: of
    (255 f x - mean) / std, where x is from 0 to 1 and f that factor, the mean is mean / (255 f), and std likewise.
    """
    processor = checkpoint.processor
    if processor.get("do_normalize") is False:
        processor = {**processor, "image_mean": (0.0, 0.0, 0.0), "image_std": (1.0, 1.0, 1.0)}
    largest = _largest(processor)
    found = {}
    for name, own in (("mean", mean), ("std", std)):
        stated = processor.get(f"image_{name}", own)
        if not isinstance(stated, (list, tuple)) or len(stated) != 3:
            raise BackboneError(f"The processor's 'image_{name}' is {stated!r}, not three numbers: get its file again.")
        found[name] = tuple(number_of({name: value}, name, 0) / largest for value in stated)
    return found


def _largest(processor: Mapping[str, Any]) -> float:
    """What the processor makes of the value 255 before it standardises: 1 for the usual factor of 1 / 255."""
    if processor.get("rescale_offset"):
        raise BackboneError(
            "The processor's 'rescale_offset' moves values before they are standardised, which is not reproduced here: "
            "put mean and standard deviation in its place."
        )
    factor = number_of(processor, "rescale_factor", 1 / 255) if processor.get("do_rescale", True) else 1.0
    if factor <= 0:
        raise BackboneError(f"The processor's 'rescale_factor' is {factor:g}, not above 0: get its file again.")
    # Else rounding would move the colours of every model.
    return 1.0 if math.isclose(255 * factor, 1, rel_tol=1e-6) else 255 * factor
