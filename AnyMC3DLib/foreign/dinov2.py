"""DINOv2, with and without registers, as the Transformers library and its authors' own repository keep it."""

from __future__ import annotations

import dataclasses

from torch import Tensor

from ..architecture import IMAGENET_MEAN, IMAGENET_STD, Architecture, Positions
from .checkpoint import Checkpoint
from .layout import Converted, Network, Rule, need, rename
from .published import assumed_network
from .vit import (
    activation_of,
    heads_of,
    join_qkv,
    normalisation,
    number_of,
    optional_prefix,
    refuse_oblong,
    vit_architecture,
)

TRANSFORMERS = (
    *optional_prefix(
        r"dinov2(?:_with_registers)?\.",
        (
            Rule(r"embeddings\.cls_token", "cls_token"),
            Rule(r"embeddings\.register_tokens", "reg_token"),
            Rule(r"embeddings\.mask_token", None),
            Rule(r"embeddings\.position_embeddings", "pos_embed"),
            Rule(r"embeddings\.patch_embeddings\.projection\.(weight|bias)", r"patch_embed.proj.\1"),
            Rule(r"encoder\.layer\.(\d+)\.(norm[12])\.(weight|bias)", r"blocks.\1.\2.\3"),
            Rule(
                r"encoder\.layer\.(\d+)\.attention\.attention\.(query|key|value)\.(weight|bias)",
                r"blocks.\1.attn.\2.\3",
            ),
            Rule(r"encoder\.layer\.(\d+)\.attention\.output\.dense\.(weight|bias)", r"blocks.\1.attn.proj.\2"),
            Rule(r"encoder\.layer\.(\d+)\.layer_scale([12])\.lambda1", r"blocks.\1.ls\2.gamma"),
            Rule(r"encoder\.layer\.(\d+)\.mlp\.(fc[12])\.(weight|bias)", r"blocks.\1.mlp.\2.\3"),
            Rule(r"encoder\.layer\.(\d+)\.mlp\.weights_in\.(weight|bias)", r"blocks.\1.mlp.fc1.\2"),
            Rule(r"encoder\.layer\.(\d+)\.mlp\.weights_out\.(weight|bias)", r"blocks.\1.mlp.fc2.\2"),
            Rule(r"layernorm\.(weight|bias)", r"norm.\1"),
        ),
    ),
    Rule(r"classifier\..*", None),
)
# Training on many machines leaves the number of a chunk of blocks before that of the block.
BLOCK = r"blocks\.(?:\d+\.)?(\d+)\."
ORIGINAL = (
    *optional_prefix(
        r"backbone\.",
        (
            Rule(r"(cls_token|pos_embed)", r"\1"),
            Rule(r"register_tokens", "reg_token"),
            Rule(r"mask_token", None),
            Rule(r"(patch_embed\.proj|norm)\.(weight|bias)", r"\1.\2"),
            Rule(BLOCK + r"(norm[12]|attn\.qkv|attn\.proj|mlp\.fc[12])\.(weight|bias)", r"blocks.\1.\2.\3"),
            Rule(BLOCK + r"(ls[12])\.gamma", r"blocks.\1.\2.gamma"),
            Rule(BLOCK + r"mlp\.w12\.(weight|bias)", r"blocks.\1.mlp.fc1.\2"),
            Rule(BLOCK + r"mlp\.w3\.(weight|bias)", r"blocks.\1.mlp.fc2.\2"),
        ),
    ),
    Rule(r"(?:dino_head|ibot_head|head|linear_head)\..*", None),
)
SIZES = {384: "small", 768: "base", 1024: "large", 1536: "giant"}


@dataclasses.dataclass(frozen=True)
class TransformersDINOv2:
    """`Dinov2Model` and `Dinov2WithRegistersModel`, alone or within a classifier."""

    family: str = "DINOv2"
    library: str = "Transformers"

    def matches(self, checkpoint: Checkpoint) -> bool:
        """By the config, else by the layer scales, which a plain ViT lacks."""
        if checkpoint.model_type:
            return checkpoint.model_type in ("dinov2", "dinov2_with_registers")
        names = {name.removeprefix("dinov2.").removeprefix("dinov2_with_registers.") for name in checkpoint.tensors}
        return {"embeddings.cls_token", "encoder.layer.0.layer_scale1.lambda1"} <= names

    def convert(self, checkpoint: Checkpoint) -> Converted:
        """To timm's names; the class token's own position is added to it where registers follow."""
        refuse_oblong(checkpoint.config)
        tensors, dropped = rename(checkpoint.tensors, TRANSFORMERS, layout=self)
        join_qkv(tensors)
        tensors = _positions_of_patches(tensors)
        assumed = assumed_network(checkpoint.config, tensors, layout=self)
        architecture = _architecture(checkpoint, tensors, Positions(antialias="reg_token" in tensors), assumed)
        return Converted(architecture, tensors, dropped, assumed=assumed)


@dataclasses.dataclass(frozen=True)
class OriginalDINOv2:
    """The files of the `dinov2` repository, and the teachers that its training saves."""

    family: str = "DINOv2"
    library: str = "the original repository"

    def matches(self, checkpoint: Checkpoint) -> bool:
        """By the mask token, which timm drops, beside layer scales under names that timm has too."""
        names = {name.removeprefix("backbone.") for name in checkpoint.tensors}
        scales = {"blocks.0.ls1.gamma", "blocks.0.0.ls1.gamma"} & names
        return not checkpoint.config and bool(scales) and {"mask_token", "cls_token", "pos_embed"} <= names

    def convert(self, checkpoint: Checkpoint) -> Converted:
        """To timm's names; the class token's own position is added to it where registers follow."""
        tensors, dropped = rename(checkpoint.tensors, ORIGINAL, layout=self)
        tensors = _positions_of_patches(tensors)
        registers = "reg_token" in tensors
        positions = Positions(antialias=registers, offset=0.0 if registers else 0.1)
        assumed = assumed_network({}, tensors, layout=self)
        architecture = _architecture(checkpoint, tensors, positions, assumed)
        return Converted(architecture, tensors, dropped, assumed=assumed)


def _positions_of_patches(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Where registers follow the class token, timm adds positions to patches alone.

    The sum is float32, whatever the file's type, as in its own library once it has loaded the file in float32.
    """
    if "reg_token" not in tensors:
        return tensors
    stored = need(tensors, "pos_embed", ndim=3)
    token = need(tensors, "cls_token", ndim=3).float() + stored[:, :1].float()
    return {**tensors, "cls_token": token, "pos_embed": stored[:, 1:]}


def _architecture(
    checkpoint: Checkpoint, tensors: dict[str, Tensor], positions: Positions, assumed: Network | None
) -> Architecture:
    wide = need(tensors, "blocks.0.mlp.fc1.weight", ndim=2).shape[0]
    swiglu = wide != need(tensors, "blocks.0.mlp.fc2.weight", ndim=2).shape[1]
    width = need(tensors, "patch_embed.proj.weight", ndim=4).shape[0]
    registers = "reg_token" in tensors
    middle = "_reg4" if registers else ""
    more = {"reg_tokens": need(tensors, "reg_token", ndim=3).shape[1]} if registers else {}
    return vit_architecture(
        tensors,
        family="DINOv2",
        base=f"vit_{'giant' if swiglu else 'small'}_patch14{middle}_dinov2",
        known=(f"vit_{SIZES[width]}_patch14{middle}_dinov2",) if width in SIZES else (),
        heads=heads_of(checkpoint.config, assumed),
        positions=positions,
        prefix_positions=not registers,
        norm_eps=number_of(checkpoint.config, "layer_norm_eps", 1e-6),
        **normalisation(checkpoint, mean=IMAGENET_MEAN, std=IMAGENET_STD),
        # The gate of the other kind of MLP is fixed.
        **({} if swiglu else activation_of(checkpoint.config)),
        **more,
    )
