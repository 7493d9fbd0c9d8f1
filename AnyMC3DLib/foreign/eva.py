"""EVA, EVA-02 and EVA-CLIP, as their authors keep them, with biases of query and value and stored rotations."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import timm
import torch
from timm.layers import RotaryEmbeddingCat
from torch import Tensor

from ..architecture import IMAGENET_MEAN, IMAGENET_STD, Architecture, Positions
from ..errors import BackboneError
from .checkpoint import Checkpoint
from .layout import Converted, Rule, join, need, rename
from .open_clip import OPENAI_MEAN, OPENAI_STD, OTHER_PARTS
from .published import assumed_network
from .vit import heads_of, normalisation, square, vit_architecture

# Width of the one model that normalises behind attention, which its names do not show.
POST_NORM = 1792
# EVA-02 counts rotations as on this grid, whatever its own.
ROTATED_GRID = (16, 16)
# Width of the one that was taught by CLIP's colours, also where it stands alone.
GIANT = 1408
ROTATIONS = r"(?:blocks\.\d+\.attn\.)?rope\.freqs_(?:cos|sin)"
NAMES = (
    Rule(ROTATIONS + r"|mask_token|(?:head|lm_head)\..*|(?:.*\.)?relative_position_index", None),
    Rule(r"(cls_token|pos_embed|(?:patch_embed\.proj|norm|fc_norm)\.(?:weight|bias))", r"\1"),
    Rule(r"(blocks\.\d+\.(?:gamma_[12]|norm[12]\.(?:weight|bias)|mlp\.fc[12]\.(?:weight|bias)))", r"\1"),
    Rule(r"(blocks\.\d+\.attn\.(?:[qkv]_proj\.weight|qkv\.weight|proj\.(?:weight|bias)))", r"\1"),
    Rule(r"(blocks\.\d+\.attn)\.([qv])_bias", r"\1.\2_bias"),
    Rule(r"(blocks\.\d+)\.attn\.inner_attn_ln\.(weight|bias)", r"\1.attn.norm.\2"),
    Rule(r"(blocks\.\d+)\.mlp\.ffn_ln\.(weight|bias)", r"\1.mlp.norm.\2"),
    Rule(r"(blocks\.\d+)\.mlp\.w1\.(weight|bias)", r"\1.mlp.fc1_g.\2"),
    Rule(r"(blocks\.\d+)\.mlp\.w2\.(weight|bias)", r"\1.mlp.fc1_x.\2"),
    Rule(r"(blocks\.\d+)\.mlp\.w12\.(weight|bias)", r"\1.mlp.fc1.\2"),
    Rule(r"(blocks\.\d+)\.mlp\.w3\.(weight|bias)", r"\1.mlp.fc2.\2"),
)


@dataclasses.dataclass(frozen=True)
class OriginalEVA:
    """The authors' files of EVA and EVA-02, and of EVA-CLIP, whose tower of texts is left out.

    The embedding is EVA-CLIP's class token, or the mean of the patches, normalised after, of weights that were
    trained to tell classes. Those of masked images have a norm for all tokens; like timm, the mean is taken before it.
    Rotations are computed for any size as the authors compute them; stored positions are resampled.
    """

    family: str = "EVA"
    library: str = "the authors' own"

    def matches(self, checkpoint: Checkpoint) -> bool:
        """By biases of query and value alone, stored positions, and no relative ones, which BEiT has."""
        names, prefix = checkpoint.tensors.keys(), _prefix(checkpoint)
        described = {"architecture", "model_type"} & checkpoint.config.keys()
        if described or any("relative_position_bias" in name for name in names):
            return False
        patch = checkpoint.tensors.get(f"{prefix}patch_embed.proj.weight")
        wanted = {f"{prefix}pos_embed", f"{prefix}cls_token", f"{prefix}blocks.0.attn.q_bias"}
        return patch is not None and patch.ndim == 4 and wanted <= names

    def convert(self, checkpoint: Checkpoint) -> Converted:
        """To timm's names; raises BackboneError for rotations that are not EVA-02's, or blocks that are not known."""
        prefix = _prefix(checkpoint)
        rules = [Rule(rf"{prefix}(?:{rule.pattern})", rule.name) for rule in NAMES]
        tensors, dropped = rename(checkpoint.tensors, (*rules, *OTHER_PARTS), layout=self)
        patch = need(tensors, "patch_embed.proj.weight", ndim=4)
        if patch.shape[0] == POST_NORM:
            raise BackboneError(
                "EVA-02-CLIP-E normalises behind attention, which these files do not show: use open_clip's file of it."
            )
        clip = bool(prefix)
        split = "blocks.0.attn.q_proj.weight" in tensors
        for name in [name for name in tensors if split and name.endswith(("attn.q_bias", "attn.v_bias"))]:
            tensors[name.replace("_bias", "_proj.bias")] = tensors.pop(name)
        _pack_gates(tensors)
        masked = any(name == "mask_token" or name.startswith("lm_head.") for name in checkpoint.tensors)
        averages = masked or any(name.startswith("fc_norm.") for name in tensors)
        for leaf in ("weight", "bias"):
            if masked and f"norm.{leaf}" in tensors:
                tensors[f"fc_norm.{leaf}"] = tensors.pop(f"norm.{leaf}")
        assumed = assumed_network({}, tensors, layout=self)
        heads = heads_of({}, assumed)
        architecture = self._architecture(checkpoint, tensors, heads, clip=clip, split=split, averages=averages)
        grid = square(tensors["pos_embed"].shape[1] - 1)
        _check_rotations(checkpoint, grid=grid, head=patch.shape[0] // heads)
        return Converted(architecture, tensors, dropped, assumed=assumed)

    def _architecture(
        self, checkpoint: Checkpoint, tensors: dict[str, Tensor], heads: int, *, clip: bool, split: bool, averages: bool
    ) -> Architecture:
        width = need(tensors, "patch_embed.proj.weight", ndim=4).shape[0]
        separate = "blocks.0.mlp.fc1_g.weight" in tensors
        gated = separate or _is_packed(tensors)
        hidden = need(tensors, "blocks.0.mlp.fc2.weight", ndim=2).shape[1]
        rotated = {"use_rot_pos_emb": True, "ref_feat_shape": list(ROTATED_GRID)} if gated else {}
        more: dict[str, Any] = {
            # timm cuts the product down to a whole number.
            "mlp_ratio": (hidden + 0.5) / width,
            "swiglu_mlp": gated,
            "scale_mlp": "blocks.0.mlp.norm.weight" in tensors,
            "scale_attn_inner": "blocks.0.attn.norm.weight" in tensors,
            "qkv_fused": not split,
            "global_pool": "avg" if averages else "token",
            **rotated,
            **({"init_values": 0.1} if "blocks.0.gamma_1" in tensors else {}),
        }
        mean, std = (OPENAI_MEAN, OPENAI_STD) if clip or width == GIANT else (IMAGENET_MEAN, IMAGENET_STD)
        return vit_architecture(
            tensors,
            family=self.family,
            base="eva02_base_patch16_clip_224" if gated else "eva_giant_patch14_224",
            known=_known(tensors, gated=gated),
            heads=heads,
            positions=Positions(antialias=False),
            norm_eps=1e-6,
            **normalisation(checkpoint, mean=mean, std=std),
            **more,
        )


def _prefix(checkpoint: Checkpoint) -> str:
    return "visual." if "visual.blocks.0.attn.q_bias" in checkpoint.tensors else ""


def _known(tensors: Mapping[str, Tensor], *, gated: bool) -> tuple[str, ...]:
    patch = tensors["patch_embed.proj.weight"].shape[2]
    size = square(need(tensors, "pos_embed", ndim=3).shape[1] - 1) * patch
    kind = "eva02" if gated else "eva"
    return tuple(timm.list_models([f"{kind}_*_patch{patch}_{size}", f"{kind}_*_patch{patch}_clip_{size}"]))


def _is_packed(tensors: Mapping[str, Tensor]) -> bool:
    """Whether the first layer of the MLP holds gate and values one behind the other."""
    first, second = (need(tensors, f"blocks.0.mlp.{name}.weight", ndim=2) for name in ("fc1", "fc2"))
    return first.shape[0] == 2 * second.shape[1]


def _pack_gates(tensors: dict[str, Tensor]) -> None:
    """Where nothing is normalised within the MLP, timm's has gate and values in one layer."""
    if "blocks.0.mlp.norm.weight" in tensors:
        return
    for n in {name.split(".")[1] for name in tensors if name.startswith("blocks.")}:
        for leaf in ("weight", "bias"):
            parts = [f"blocks.{n}.mlp.{part}.{leaf}" for part in ("fc1_g", "fc1_x")]
            join(tensors, parts, f"blocks.{n}.mlp.fc1.{leaf}")


def _check_rotations(checkpoint: Checkpoint, *, grid: int, head: int) -> None:
    """Raise BackboneError where the file's own rotations are not those that timm computes for its grid and heads."""
    stored = {n: t for n, t in checkpoint.tensors.items() if n.endswith(("rope.freqs_cos", "rope.freqs_sin"))}
    if not stored:
        return
    own = RotaryEmbeddingCat(head, in_pixels=False, feat_shape=(grid, grid), ref_feat_shape=ROTATED_GRID)
    sine, cosine = own.get_embed().chunk(2, dim=-1)
    for name, rotation in stored.items():
        wanted = cosine if name.endswith("cos") else sine
        # Published files keep them in 16 bits at times.
        if rotation.shape != wanted.shape or not torch.allclose(rotation.float(), wanted, atol=4e-3):
            raise BackboneError(
                f"The rotations '{name}' are not EVA-02's on a grid of {grid} x {grid} patches: use other weights."
            )
