"""Plain vision transformers, DeiT and MAE as the Transformers library and their authors' own repositories keep them.

DINO's first models are plain ones too: the Transformers library keeps them as `ViTModel`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

import timm
import torch
from torch import Tensor

from ..architecture import IMAGENET_MEAN, IMAGENET_STD, Architecture, Positions
from .checkpoint import Checkpoint
from .layout import Converted, Rule, need, rename
from .published import assumed_network
from .vit import (
    activation_of,
    heads_of,
    join_qkv,
    normalisation,
    number_of,
    optional_prefix,
    refuse_oblong,
    square,
    vit_architecture,
)

HALF = (0.5, 0.5, 0.5)
TRANSFORMERS = (
    *optional_prefix(
        r"(?:vit|deit)\.",
        (
            Rule(r"embeddings\.cls_token", "cls_token"),
            Rule(r"embeddings\.distillation_token", "reg_token"),
            Rule(r"embeddings\.mask_token", None),
            Rule(r"embeddings\.position_embeddings", "pos_embed"),
            Rule(r"embeddings\.patch_embeddings\.projection\.(weight|bias)", r"patch_embed.proj.\1"),
            Rule(r"encoder\.layer\.(\d+)\.layernorm_before\.(weight|bias)", r"blocks.\1.norm1.\2"),
            Rule(r"encoder\.layer\.(\d+)\.layernorm_after\.(weight|bias)", r"blocks.\1.norm2.\2"),
            Rule(
                r"encoder\.layer\.(\d+)\.attention\.attention\.(query|key|value)\.(weight|bias)",
                r"blocks.\1.attn.\2.\3",
            ),
            Rule(r"encoder\.layer\.(\d+)\.attention\.output\.dense\.(weight|bias)", r"blocks.\1.attn.proj.\2"),
            Rule(r"encoder\.layer\.(\d+)\.intermediate\.dense\.(weight|bias)", r"blocks.\1.mlp.fc1.\2"),
            Rule(r"encoder\.layer\.(\d+)\.output\.dense\.(weight|bias)", r"blocks.\1.mlp.fc2.\2"),
            Rule(r"layernorm\.(weight|bias)", r"norm.\1"),
            Rule(r"pooler\.dense\.(weight|bias)", None),
        ),
    ),
    Rule(r"(?:classifier|cls_classifier|distillation_classifier|decoder)\..*", None),
)
CORE = {"embeddings.cls_token", "embeddings.position_embeddings", "encoder.layer.0.layernorm_before.weight"}
# timm took its names from the same code as these repositories.
ORIGINAL = (
    *optional_prefix(
        r"backbone\.",
        (
            Rule(r"(cls_token|pos_embed)", r"\1"),
            Rule(r"dist_token", "reg_token"),
            Rule(r"(patch_embed\.proj|norm)\.(weight|bias)", r"\1.\2"),
            Rule(r"blocks\.(\d+)\.(norm[12]|attn\.qkv|attn\.proj|mlp\.fc[12])\.(weight|bias)", r"blocks.\1.\2.\3"),
        ),
    ),
)
SIZES = {192: "tiny", 384: "small", 768: "base", 1024: "large", 1280: "huge"}


@dataclasses.dataclass(frozen=True)
class _Transformers:
    """What `ViTModel`, `DeiTModel` and `ViTMAEModel` have in common."""

    family: str
    model_type: str
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    library: str = "Transformers"

    def matches(self, checkpoint: Checkpoint) -> bool:
        """By the config, else by names; without a config an encoder of MAE's cannot be told from a plain one."""
        if checkpoint.config:
            return checkpoint.model_type == self.model_type
        names = {name.removeprefix("vit.").removeprefix("deit.") for name in checkpoint.tensors}
        # BEiT has these names too, and scales its layers.
        if not names >= CORE or "encoder.layer.0.lambda_1" in names:
            return False
        distilled = "embeddings.distillation_token" in names
        decodes = "decoder.decoder_embed.weight" in names
        return {"vit": not distilled and not decodes, "deit": distilled, "vit_mae": decodes}[self.model_type]

    def convert(self, checkpoint: Checkpoint) -> Converted:
        """To timm's names, without pooler, classifier, mask token and decoder; a distillation token is a register."""
        refuse_oblong(checkpoint.config)
        tensors, dropped = rename(checkpoint.tensors, TRANSFORMERS, layout=self)
        join_qkv(tensors)
        assumed = assumed_network(checkpoint.config, tensors, layout=self)
        architecture = _architecture(
            checkpoint,
            tensors,
            family=self.family,
            heads=heads_of(checkpoint.config, assumed),
            positions=Positions(antialias=False),
            norm_eps=number_of(checkpoint.config, "layer_norm_eps", 1e-12),
            mean=self.mean,
            std=self.std,
        )
        return Converted(architecture, tensors, dropped, assumed=assumed)


@dataclasses.dataclass(frozen=True)
class TransformersViT(_Transformers):
    """`ViTModel`, alone or within a classifier or a model of masked images."""

    family: str = "ViT"
    model_type: str = "vit"
    mean: tuple[float, float, float] = HALF
    std: tuple[float, float, float] = HALF


@dataclasses.dataclass(frozen=True)
class TransformersDeiT(_Transformers):
    """`DeiTModel`, alone or within a classifier."""

    family: str = "DeiT"
    model_type: str = "deit"


@dataclasses.dataclass(frozen=True)
class TransformersMAE(_Transformers):
    """`ViTMAEModel`, alone or with its decoder."""

    family: str = "MAE"
    model_type: str = "vit_mae"


@dataclasses.dataclass(frozen=True)
class OriginalDINO:
    """DINO's first models as their repository publishes them, and the teachers that its training saves.

    A file that holds the network alone has timm's own names, as those of others do: only its name can tell.
    """

    family: str = "DINO"
    library: str = "the original repository"

    def matches(self, checkpoint: Checkpoint) -> bool:
        """By the projection head of a teacher, else by the name that the file was published under."""
        names = checkpoint.tensors.keys()
        if checkpoint.config or not _is_plain(names):
            return False
        return "head.last_layer.weight_v" in names or _named(checkpoint, "dino_")

    def convert(self, checkpoint: Checkpoint) -> Converted:
        """The network alone; it shifts the grid of positions by a tenth of a patch."""
        rules = (*ORIGINAL, Rule(r"head\..*", None))
        return _original(self, checkpoint, rules, family="ViT", positions=Positions(antialias=False, offset=0.1))


@dataclasses.dataclass(frozen=True)
class OriginalDeiT:
    """DeiT as its repository publishes it."""

    family: str = "DeiT"
    library: str = "the original repository"

    def matches(self, checkpoint: Checkpoint) -> bool:
        """By the distillation token, else by the name that the file was published under."""
        names = checkpoint.tensors.keys()
        if checkpoint.config or not _is_plain(names):
            return False
        return "dist_token" in names or _named(checkpoint, "deit_")

    def convert(self, checkpoint: Checkpoint) -> Converted:
        """The network without its classifiers; a distillation token is a register."""
        rules = (*ORIGINAL, Rule(r"(?:head|head_dist)\.(?:weight|bias)", None))
        return _original(self, checkpoint, rules, family="DeiT", positions=Positions(antialias=False))


@dataclasses.dataclass(frozen=True)
class OriginalMAE:
    """MAE as its repository publishes it, with its decoder or without."""

    family: str = "MAE"
    library: str = "the original repository"

    def matches(self, checkpoint: Checkpoint) -> bool:
        """By the decoder, else by the table of positions, which is computed and not learnt."""
        names = checkpoint.tensors.keys()
        if checkpoint.config or not _is_plain(names) or "head.weight" in names:
            return False
        if "decoder_embed.weight" in names:
            return True
        return "pos_embed" in names and _is_computed(checkpoint.tensors["pos_embed"])

    def convert(self, checkpoint: Checkpoint) -> Converted:
        """The encoder alone."""
        rules = (*ORIGINAL, Rule(r"decoder_.*|mask_token", None))
        return _original(self, checkpoint, rules, family="MAE", positions=Positions(antialias=False))


def _is_plain(names: Iterable[str]) -> bool:
    """Whether the names are those of a vision transformer without layer scales, registers or norms within."""
    inner = {name.removeprefix("backbone.") for name in names}
    core = {"cls_token", "pos_embed", "patch_embed.proj.weight", "blocks.0.attn.qkv.weight", "norm.weight"}
    return core <= inner and not {"reg_token", "register_tokens", "blocks.0.ls1.gamma", "blocks.0.gamma_1"} & inner


def _named(checkpoint: Checkpoint, start: str) -> bool:
    return len(checkpoint.files) == 1 and checkpoint.files[0].startswith(start)


def _is_computed(stored: Tensor) -> bool:
    """Whether positions [1, 1 + n n, D] are sines and cosines of column and row, and 0 for the class token."""
    if stored.ndim != 3 or stored.shape[1] < 2 or stored.shape[2] % 4:
        return False
    side = round((stored.shape[1] - 1) ** 0.5)
    if side * side != stored.shape[1] - 1 or stored[:, 0].abs().max() > 0:
        return False
    quarter = stored.shape[2] // 4
    frequencies = 10000.0 ** (-torch.arange(quarter, dtype=torch.float64) / quarter)
    angles = torch.arange(side, dtype=torch.float64)[:, None] * frequencies
    line = torch.cat([angles.sin(), angles.cos()], dim=1)
    table = torch.cat([line[None].expand(side, -1, -1), line[:, None].expand(-1, side, -1)], dim=2)
    return bool((stored[0, 1:] - table.flatten(0, 1)).abs().max() < 1e-4)


def _original(
    layout: OriginalDINO | OriginalDeiT | OriginalMAE,
    checkpoint: Checkpoint,
    rules: tuple[Rule, ...],
    *,
    family: str,
    positions: Positions,
) -> Converted:
    tensors, dropped = rename(checkpoint.tensors, rules, layout=layout)
    assumed = assumed_network({}, tensors, layout=layout)
    architecture = _architecture(
        checkpoint, tensors, family=family, heads=heads_of({}, assumed), positions=positions, norm_eps=1e-6
    )
    return Converted(architecture, tensors, dropped, assumed=assumed)


def _architecture(
    checkpoint: Checkpoint,
    tensors: dict[str, Tensor],
    *,
    family: str,
    heads: int,
    positions: Positions,
    norm_eps: float,
    mean: tuple[float, float, float] = IMAGENET_MEAN,
    std: tuple[float, float, float] = IMAGENET_STD,
) -> Architecture:
    width, _, patch, _ = need(tensors, "patch_embed.proj.weight", ndim=4).shape
    # With the class token's attention read as usual, and not averaged with the distillation token's.
    more = {"reg_tokens": need(tensors, "reg_token", ndim=3).shape[1]} if "reg_token" in tensors else {}
    start = "deit" if family == "DeiT" else "vit"
    prefix = 1 + more.get("reg_tokens", 0)
    size = square(need(tensors, "pos_embed", ndim=3).shape[1] - prefix) * patch
    name = f"{start}_{SIZES.get(width)}_patch{patch}_{size}"
    return vit_architecture(
        tensors,
        family=family,
        base=f"{start}_base_patch16_224",
        known=(name,) if timm.is_model(name) else (),
        heads=heads,
        positions=positions,
        norm_eps=norm_eps,
        **normalisation(checkpoint, mean=mean, std=std),
        **activation_of(checkpoint.config),
        **more,
    )
