"""DINOv3's vision transformers as the Transformers library and their authors' own repository keep them."""

from __future__ import annotations

import dataclasses
from typing import Any

import timm
import torch
from torch import Tensor

from ..architecture import IMAGENET_MEAN, IMAGENET_STD, Architecture, Positions
from ..errors import BackboneError
from ..positions import rotary_periods
from .checkpoint import Checkpoint
from .layout import Converted, Rule, count, join, need, rename
from .published import assumed_network
from .vit import heads_of, mlp_ratio, normalisation, number_of, optional_prefix, refuse_oblong, vit_architecture

LAYER = r"(?:model\.)?layer\.(\d+)\."
TRANSFORMERS = (
    Rule(r"embeddings\.cls_token", "cls_token"),
    Rule(r"embeddings\.register_tokens", "reg_token"),
    Rule(r"embeddings\.mask_token", None),
    Rule(r"embeddings\.patch_embeddings\.(weight|bias)", r"patch_embed.proj.\1"),
    Rule(LAYER + r"(norm[12])\.(weight|bias)", r"blocks.\1.\2.\3"),
    Rule(LAYER + r"attention\.([qkv])_proj\.(weight|bias)", r"blocks.\1.attn.\2.\3"),
    Rule(LAYER + r"attention\.o_proj\.(weight|bias)", r"blocks.\1.attn.proj.\2"),
    Rule(LAYER + r"layer_scale([12])\.lambda1", r"blocks.\1.gamma_\2"),
    Rule(LAYER + r"mlp\.(gate|up|down)_proj\.(weight|bias)", r"blocks.\1.mlp.\2.\3"),
    Rule(r"norm\.(weight|bias)", r"norm.\1"),
)
# Training on many machines may leave the number of a chunk of blocks before that of the block.
BLOCK = r"blocks\.(?:\d+\.)?(\d+)\."
ORIGINAL = (
    *optional_prefix(
        r"backbone\.",
        (
            Rule(r"cls_token", "cls_token"),
            Rule(r"storage_tokens", "reg_token"),
            Rule(r"mask_token", None),
            Rule(r"rope_embed\.periods", "periods"),
            Rule(r"(patch_embed\.proj|norm)\.(weight|bias)", r"\1.\2"),
            # Applied to small crops in training alone.
            Rule(r"local_cls_norm\.(weight|bias)", None),
            Rule(BLOCK + r"(norm[12]|attn\.proj|mlp\.fc[12])\.(weight|bias)", r"blocks.\1.\2.\3"),
            Rule(BLOCK + r"attn\.qkv\.(weight|bias|bias_mask)", r"blocks.\1.attn.qkv.\2"),
            Rule(BLOCK + r"ls([12])\.gamma", r"blocks.\1.gamma_\2"),
            Rule(BLOCK + r"mlp\.w1\.(weight|bias)", r"blocks.\1.mlp.fc1_g.\2"),
            Rule(BLOCK + r"mlp\.w2\.(weight|bias)", r"blocks.\1.mlp.fc1_x.\2"),
            Rule(BLOCK + r"mlp\.w3\.(weight|bias)", r"blocks.\1.mlp.fc2.\2"),
        ),
    ),
    Rule(r"(?:dino_head|ibot_head)\..*", None),
)
SIZES = {
    192: ("tiny",),
    384: ("small", "small_plus"),
    768: ("base",),
    1024: ("large",),
    1280: ("huge_plus",),
    4096: ("7b",),
}
THETA = 100.0
# Nothing is stored for a size: the crops of its training, which configs do not tell.
TRAINED_AT = (256, 256)


@dataclasses.dataclass(frozen=True)
class TransformersDINOv3:
    """`DINOv3ViTModel` and `DINOv3ViTBackbone`."""

    family: str = "DINOv3"
    library: str = "Transformers"

    def matches(self, checkpoint: Checkpoint) -> bool:
        """By the config, else by layer scales outside of an encoder."""
        if checkpoint.config:
            return checkpoint.model_type == "dinov3_vit"
        names = {name.removeprefix("model.") for name in checkpoint.tensors}
        return {"embeddings.cls_token", "layer.0.layer_scale1.lambda1", "layer.0.attention.k_proj.weight"} <= names

    def convert(self, checkpoint: Checkpoint) -> Converted:
        """To timm's names; biases that are all 0 are left out, as the models without them do the same."""
        config = checkpoint.config
        refuse_oblong(config)
        tensors, dropped = rename(checkpoint.tensors, TRANSFORMERS, layout=self)
        gated = "blocks.0.mlp.gate.weight" in tensors
        names = {"gate": "fc1_g", "up": "fc1_x" if gated else "fc1", "down": "fc2"}
        tensors = {_mlp_name(name, names): tensor for name, tensor in tensors.items()}
        wanted = "silu" if gated else "gelu"
        if config.get("hidden_act", wanted) != wanted:
            raise BackboneError(
                f"The config's 'hidden_act' is {config['hidden_act']!r}, where timm has '{wanted}' alone: these "
                "weights cannot be read."
            )
        for n in range(count(tensors, r"blocks\.(\d+)\.")):
            _join(tensors, n)
        assumed = assumed_network(config, tensors, layout=self)
        architecture = dinov3_architecture(
            checkpoint,
            tensors,
            Positions(kind="any"),
            theta=number_of(config, "rope_theta", THETA),
            norm_eps=number_of(config, "layer_norm_eps", 1e-5),
            heads=heads_of(config, assumed, default=6),
        )
        return Converted(architecture, tensors, dropped, assumed=assumed)


@dataclasses.dataclass(frozen=True)
class OriginalDINOv3:
    """The files of the `dinov3` repository, and the teachers that its training saves."""

    family: str = "DINOv3"
    library: str = "the original repository"

    def matches(self, checkpoint: Checkpoint) -> bool:
        """By the periods of the rotary positions, which no other layout stores under this name."""
        names = {name.removeprefix("backbone.") for name in checkpoint.tensors}
        return not checkpoint.config and {"rope_embed.periods", "cls_token"} <= names

    def convert(self, checkpoint: Checkpoint) -> Converted:
        """To timm's names; the periods, which timm computes, may have been rounded in training."""
        tensors, dropped = rename(checkpoint.tensors, ORIGINAL, layout=self)
        periods = need(tensors, "periods", ndim=1)
        del tensors["periods"]
        for n in range(count(tensors, r"blocks\.(\d+)\.")):
            _split_bias(tensors, n)
        positions = Positions(kind="any", rounded_periods=_are_rounded(periods))
        width = need(tensors, "cls_token", ndim=3).shape[2]
        heads = width // max(4 * len(periods), 1)
        assumed = assumed_network({}, tensors, layout=self)
        architecture = dinov3_architecture(checkpoint, tensors, positions, theta=THETA, norm_eps=1e-5, heads=heads)
        return Converted(architecture, tensors, dropped, assumed=assumed)


def _mlp_name(name: str, names: dict[str, str]) -> str:
    start, layer, rest = name.partition(".mlp.")
    part, _, leaf = rest.partition(".")
    return f"{start}.mlp.{names[part]}.{leaf}" if layer else name


def _join(tensors: dict[str, Tensor], n: int) -> None:
    """One tensor of query, key and value; their biases stay apart, and keys have none."""
    start = f"blocks.{n}.attn."
    join(tensors, [f"{start}{part}.weight" for part in "qkv"], f"{start}qkv.weight")
    _keep_biases(tensors, n, *(tensors.pop(f"{start}{part}.bias", None) for part in "qkv"))


def _split_bias(tensors: dict[str, Tensor], n: int) -> None:
    """The joint bias taken apart, after the mask that keeps that of the keys at 0."""
    bias = tensors.pop(f"blocks.{n}.attn.qkv.bias", None)
    mask = tensors.pop(f"blocks.{n}.attn.qkv.bias_mask", None)
    if bias is None:
        return
    if mask is not None and mask.shape == bias.shape:
        # The masked part may hold what is no number.
        bias = torch.where(mask == 0, torch.zeros_like(bias), bias * mask)
    _keep_biases(tensors, n, *bias.chunk(3))


def _keep_biases(tensors: dict[str, Tensor], n: int, query: Any, key: Any, value: Any) -> None:
    if key is not None and key.abs().max() > 0:
        raise BackboneError(
            f"Layer {n} of the weights adds a bias to keys, which timm's DINOv3 does not: these weights cannot be read."
        )
    given = {"q_bias": query, "v_bias": value}
    for name, bias in given.items():
        if bias is not None:
            tensors[f"blocks.{n}.attn.{name}"] = bias


def _are_rounded(periods: Tensor) -> bool:
    """Whether the periods of the file were computed in 16 bits."""
    for rounded in (False, True):
        own = rotary_periods(THETA, len(periods), rounded=rounded)
        if torch.allclose(periods.float(), own, rtol=1e-6, atol=0):
            return rounded
    raise BackboneError(
        f"The rotary positions have periods up to {periods.float().max().item():.4g}, which are not those of DINOv3's "
        "published models: these weights cannot be read."
    )


def _without_zeros(tensors: dict[str, Tensor]) -> bool:
    """Leave out the biases of queries and values, in place, if they are 0 throughout; whether any remain."""
    biases = [name for name in tensors if name.endswith((".attn.q_bias", ".attn.v_bias"))]
    if any(tensors[name].abs().max() > 0 for name in biases):
        return True
    for name in biases:
        del tensors[name]
    return False


def dinov3_architecture(
    checkpoint: Checkpoint,
    tensors: dict[str, Tensor],
    positions: Positions,
    *,
    theta: float,
    norm_eps: float,
    heads: int,
) -> Architecture:
    """The architecture of `tensors` in timm's names, from which biases and registers that are none are taken out."""
    biased = _without_zeros(tensors)
    registers = tensors["reg_token"].shape[1] if "reg_token" in tensors else 0
    if not registers:
        tensors.pop("reg_token", None)
    width = need(tensors, "patch_embed.proj.weight", ndim=4).shape[0]
    gated = "blocks.0.mlp.fc1_g.weight" in tensors
    ending = "_qkvb" if biased else ""
    hidden = need(tensors, f"blocks.0.mlp.{'fc1_g' if gated else 'fc1'}.weight", ndim=2).shape[0]
    more: dict[str, Any] = {"mlp_ratio": mlp_ratio(hidden, width), "num_reg_tokens": registers}
    if gated and hidden % 8:
        more["swiglu_align_to"] = 1
    names = [f"vit_{size}_patch16_dinov3{ending}" for size in SIZES.get(width, ())]
    if theta != THETA:
        more["rope_temperature"] = theta
    architecture = vit_architecture(
        tensors,
        family="DINOv3",
        base=f"vit_small{'_plus' if gated else ''}_patch16_dinov3{ending}",
        known=tuple(name for name in names if timm.is_model(name)),
        heads=heads,
        positions=positions,
        norm_eps=norm_eps,
        **normalisation(checkpoint, mean=IMAGENET_MEAN, std=IMAGENET_STD),
        **more,
    )
    return dataclasses.replace(architecture, input_size=TRAINED_AT)
