"""BEiT and BEiT v2, as the Transformers library and the original programs keep them.

The embedding is the mean of the patches, normalised after, where the weights were trained so; else the class token.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import timm
from torch import Tensor

from ..architecture import Architecture, Positions
from ..building import shortest
from ..errors import BackboneError
from .checkpoint import Checkpoint
from .layout import Converted, Rule, count, join, need, rename
from .published import assumed_network
from .towers import add_plain_norm
from .vit import heads_of, normalisation, number_of, square

HALF = (0.5, 0.5, 0.5)
TABLE = "relative_position_bias_table"
TRANSFORMERS = (
    Rule(r"embeddings\.cls_token", "cls_token"),
    Rule(r"embeddings\.mask_token", None),
    Rule(r"embeddings\.position_embeddings", "pos_embed"),
    Rule(r"embeddings\.patch_embeddings\.projection\.(weight|bias)", r"patch_embed.proj.\1"),
    Rule(r"encoder\.(?:.*\.)?relative_position_index", None),
    Rule(rf"encoder\.relative_position_bias\.{TABLE}", f"rel_pos_bias.{TABLE}"),
    Rule(rf"encoder\.layer\.(\d+)\.attention\.attention\.relative_position_bias\.{TABLE}", rf"blocks.\1.attn.{TABLE}"),
    Rule(r"encoder\.layer\.(\d+)\.attention\.attention\.query\.bias", r"blocks.\1.attn.q_bias"),
    Rule(r"encoder\.layer\.(\d+)\.attention\.attention\.value\.bias", r"blocks.\1.attn.v_bias"),
    Rule(r"encoder\.layer\.(\d+)\.attention\.attention\.(query|key|value)\.weight", r"blocks.\1.attn.\2"),
    Rule(r"encoder\.layer\.(\d+)\.attention\.output\.dense\.(weight|bias)", r"blocks.\1.attn.proj.\2"),
    Rule(r"encoder\.layer\.(\d+)\.lambda_([12])", r"blocks.\1.gamma_\2"),
    Rule(r"encoder\.layer\.(\d+)\.layernorm_before\.(weight|bias)", r"blocks.\1.norm1.\2"),
    Rule(r"encoder\.layer\.(\d+)\.layernorm_after\.(weight|bias)", r"blocks.\1.norm2.\2"),
    Rule(r"encoder\.layer\.(\d+)\.intermediate\.dense\.(weight|bias)", r"blocks.\1.mlp.fc1.\2"),
    Rule(r"encoder\.layer\.(\d+)\.output\.dense\.(weight|bias)", r"blocks.\1.mlp.fc2.\2"),
    Rule(r"(?:pooler\.)?layernorm\.(weight|bias)", r"norm.\1"),
    Rule(r"(?:classifier|lm_head|decode_head|auxiliary_head|fpn[1-4])\..*", None),
)
ORIGINAL = (
    Rule(r"mask_token|(?:.*\.)?relative_position_index|(?:head|lm_head)\..*|(?:cls_pt_layers|early_norm)\..*", None),
    Rule(r"fc_norm\.(weight|bias)", r"norm.\1"),
    Rule(r"(cls_token|pos_embed|(?:patch_embed|norm|rel_pos_bias)\..*)", r"\1"),
    Rule(r"(blocks\.\d+\.(?:gamma_[12]|(?:norm[12]|mlp\.fc[12]|attn\.(?:qkv|proj))\.(?:weight|bias)))", r"\1"),
    Rule(rf"(blocks\.\d+\.attn\.(?:q_bias|v_bias|{TABLE}))", r"\1"),
)


def _architecture(
    tensors: dict[str, Tensor], *, mean_of_patches: bool, heads: int, norm_eps: float, size: int, **rest: Any
) -> Architecture:
    """The architecture of a BEiT whose `tensors` have timm's names; the last norm comes to be where it acts.

    `heads` is for weights without relative positions, which have a column for every head; `size` for those without
    any positions.
    """
    patch = need(tensors, "patch_embed.proj.weight", ndim=4)
    table = next((need(tensors, name, ndim=2) for name in tensors if name.endswith(TABLE)), None)
    if table is not None:
        heads = table.shape[1]
        # Differences of rows and columns, and three that concern the class token.
        size = (math.isqrt(max(table.shape[0] - 3, 0)) + 1) // 2 * patch.shape[2]
    elif "pos_embed" in tensors:
        size = square(need(tensors, "pos_embed", ndim=3).shape[1] - 1) * patch.shape[2]
    if heads < 1 or patch.shape[0] % heads:
        raise BackboneError(f"{heads} attention heads do not divide the width {patch.shape[0]}: get the config again.")
    if mean_of_patches:
        for leaf in ("weight", "bias"):
            tensors[f"fc_norm.{leaf}"] = need(tensors, f"norm.{leaf}", ndim=1)
            del tensors[f"norm.{leaf}"]
    args = {
        "img_size": size,
        "patch_size": int(patch.shape[2]),
        "embed_dim": int(patch.shape[0]),
        "depth": count(tensors, r"blocks\.(\d+)\."),
        "num_heads": heads,
        # timm cuts the product down to a whole number.
        "mlp_ratio": (need(tensors, "blocks.0.mlp.fc1.weight", ndim=2).shape[0] + 0.5) / patch.shape[0],
        "init_values": 0.1 if "blocks.0.gamma_1" in tensors else 0.0,
        "qkv_bias": "blocks.0.attn.q_bias" in tensors,
        "use_abs_pos_emb": "pos_embed" in tensors,
        "use_rel_pos_bias": f"blocks.0.attn.{TABLE}" in tensors,
        "use_shared_rel_pos_bias": f"rel_pos_bias.{TABLE}" in tensors,
        "global_pool": "avg" if mean_of_patches else "token",
    }
    # timm's windows are of one size, and others resample the tables in ways of their own.
    whole = Architecture(
        family="BEiT", timm="beit_base_patch16_224", model_args=args, input_size=(size, size), norm_eps=norm_eps,
        positions=Positions(kind="fixed"), **rest,
    )  # fmt: skip
    return shortest(whole, timm.list_models(f"beit_*_patch{patch.shape[2]}_{size}"))


@dataclasses.dataclass(frozen=True)
class TransformersBEiT:
    """`BeitModel` and the models with a head upon it.

    Where they pool the mean of patches, `use_mean_pooling` in the config, that is the embedding. A model of masked
    images has a norm for all tokens; like timm, its mean is taken before that norm.
    """

    family: str = "BEiT"
    library: str = "Transformers"

    def matches(self, checkpoint: Checkpoint) -> bool:
        """By the config, else by the layer scales, whose name is BEiT's alone."""
        if checkpoint.model_type:
            return checkpoint.model_type == "beit"
        names = {name.removeprefix("beit.") for name in checkpoint.tensors}
        return {"embeddings.cls_token", "encoder.layer.0.lambda_1"} <= names

    def convert(self, checkpoint: Checkpoint) -> Converted:
        """To timm's names; raises BackboneError for an activation other than GELU."""
        config = checkpoint.config
        if config.get("hidden_act", "gelu") != "gelu":
            raise BackboneError(
                f"The config's activation is {config['hidden_act']!r}, where timm's BEiT has GELU: use other weights."
            )
        rules = [Rule(r"(?:beit\.)?" + rule.pattern, rule.name) for rule in TRANSFORMERS]
        tensors, dropped = rename(checkpoint.tensors, rules, layout=self)
        for n in {name.split(".")[1] for name in tensors if name.startswith("blocks.")}:
            parts = [f"blocks.{n}.attn.{part}" for part in ("query", "key", "value")]
            join(tensors, parts, f"blocks.{n}.attn.qkv.weight")
        named = {name.removeprefix("beit.") for name in checkpoint.tensors}
        pools = "pooler.layernorm.weight" in named
        if any(name.startswith("decode_head.") for name in named):
            # Models that tell regions apart take the blocks' tokens as they are.
            add_plain_norm(tensors, "norm", need(tensors, "patch_embed.proj.weight", ndim=4).shape[0])
        assumed = assumed_network(config, tensors, layout=self)
        architecture = _architecture(
            tensors,
            mean_of_patches=bool(config.get("use_mean_pooling", pools or not config)),
            heads=heads_of(config, assumed),
            norm_eps=number_of(config, "layer_norm_eps", 1e-12),
            size=int(number_of(config, "image_size", 224)),
            **normalisation(checkpoint, mean=HALF, std=HALF),
        )
        return Converted(architecture, tensors, dropped, assumed=assumed)


@dataclasses.dataclass(frozen=True)
class OriginalBEiT:
    """The files of BEiT's authors, and of the programs that are built upon theirs.

    Weights that were trained to tell classes have `fc_norm`: their embedding is the mean of the patches. Those of
    masked images have a norm for all tokens; like timm, its mean is taken before that norm.
    """

    family: str = "BEiT"
    library: str = "the authors' own"

    def matches(self, checkpoint: Checkpoint) -> bool:
        """By relative positions in the blocks, or for all of them, beside separate biases of query and value."""
        tables = {f"blocks.0.attn.{TABLE}", f"rel_pos_bias.{TABLE}"}
        names = checkpoint.tensors.keys()
        described = {"architecture", "model_type"} & checkpoint.config.keys()
        return not described and "blocks.0.attn.q_bias" in names and not tables.isdisjoint(names)

    def convert(self, checkpoint: Checkpoint) -> Converted:
        """To timm's names, which are nearly the same."""
        tensors, dropped = rename(checkpoint.tensors, ORIGINAL, layout=self)
        trained = any(name.startswith("fc_norm.") for name in checkpoint.tensors)
        masked = any(name == "mask_token" or name.startswith("lm_head.") for name in checkpoint.tensors)
        assumed = assumed_network({}, tensors, layout=self)
        architecture = _architecture(
            tensors,
            mean_of_patches=trained or masked,
            heads=heads_of({}, assumed),
            norm_eps=1e-6,
            size=224,
            **normalisation(checkpoint, mean=HALF, std=HALF),
        )
        return Converted(architecture, tensors, dropped, assumed=assumed)
