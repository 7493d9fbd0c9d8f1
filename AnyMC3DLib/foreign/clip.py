"""CLIP's image tower, as the Transformers library, open_clip and OpenAI keep it; the tower of texts is left out.

The embedding is the class token after the last normalisation, before its projection into the space of texts.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import timm
from torch import Tensor

from ..architecture import Architecture, Positions
from ..errors import BackboneError
from .checkpoint import Checkpoint
from .layout import Converted, Rule, join, need, rename
from .open_clip import OPENAI_MEAN, OPENAI_STD, OTHER_PARTS, colours, model_settings, part_of, vision_settings
from .vit import normalisation, number_of, square, vit_architecture

# How Transformers and open_clip call what timm calls by the value.
ACTIVATIONS = {
    "gelu": "gelu",
    "quick_gelu": "quick_gelu",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_new": "gelu_tanh",
    "gelu_tanh": "gelu_tanh",
}
# Where Transformers' models of images and texts keep the image tower; a tower saved alone has no prefix.
PREFIXES = (
    "", "vision_model.", "vision_tower.", "vision_tower.vision_model.", "model.vision_tower.",
    "model.vision_tower.vision_model.",
)  # fmt: skip
TOWER = (
    Rule(r"embeddings\.position_ids", None),
    Rule(r"embeddings\.patch_embedding\.(weight|bias)", r"patch_embed.proj.\1"),
    Rule(r"embeddings\.position_embedding\.weight", "pos_embed"),
    Rule(r"encoder\.layers\.(\d+)\.self_attn\.([qkv])_proj\.(weight|bias)", r"blocks.\1.attn.\2.\3"),
    Rule(r"encoder\.layers\.(\d+)\.self_attn\.out_proj\.(weight|bias)", r"blocks.\1.attn.proj.\2"),
    Rule(r"encoder\.layers\.(\d+)\.layer_norm([12])\.(weight|bias)", r"blocks.\1.norm\2.\3"),
    Rule(r"encoder\.layers\.(\d+)\.mlp\.(fc[12])\.(weight|bias)", r"blocks.\1.mlp.\2.\3"),
    Rule(r"post_layernorm\.(weight|bias)", r"norm.\1"),
)
BESIDES = (
    Rule(r"(?:model\.)?(?:text_model|language_model|lm_head|multi_modal_projector)\..*", None),
    Rule(r"(?:visual_projection|text_projection|classifier)\..*|logit_scale|logit_bias", None),
    Rule(r"(?:model\.)?image_newline", None),
)
OWN_OF_CLIP = (
    Rule(r"embeddings\.class_embedding", "cls_token"),
    Rule(r"pre_layrnorm\.(weight|bias)", r"norm_pre.\1"),
)
OPEN_CLIP = (
    Rule(r"visual\.class_embedding", "cls_token"),
    Rule(r"visual\.positional_embedding", "pos_embed"),
    Rule(r"visual\.conv1\.weight", "patch_embed.proj.weight"),
    Rule(r"visual\.ln_pre\.(weight|bias)", r"norm_pre.\1"),
    Rule(r"visual\.transformer\.resblocks\.(\d+)\.ln_([12])\.(weight|bias)", r"blocks.\1.norm\2.\3"),
    Rule(r"visual\.transformer\.resblocks\.(\d+)\.ls_([12])\.gamma", r"blocks.\1.ls\2.gamma"),
    Rule(r"visual\.transformer\.resblocks\.(\d+)\.attn\.in_proj_(weight|bias)", r"blocks.\1.attn.qkv.\2"),
    Rule(r"visual\.transformer\.resblocks\.(\d+)\.attn\.out_proj\.(weight|bias)", r"blocks.\1.attn.proj.\2"),
    Rule(r"visual\.transformer\.resblocks\.(\d+)\.mlp\.c_fc\.(weight|bias)", r"blocks.\1.mlp.fc1.\2"),
    Rule(r"visual\.transformer\.resblocks\.(\d+)\.mlp\.c_proj\.(weight|bias)", r"blocks.\1.mlp.fc2.\2"),
    Rule(r"visual\.ln_post\.(weight|bias)", r"norm.\1"),
    Rule(r"visual\.proj", None),
)


def vision_config(checkpoint: Checkpoint) -> Mapping[str, Any]:
    """What Transformers' config says of the image tower; the file of a whole model says it in a part of its own."""
    inner = checkpoint.config.get("vision_config", checkpoint.config)
    return inner if isinstance(inner, Mapping) else {}


def tower_prefix(names: Iterable[str]) -> str | None:
    """Where the file of a Transformers model keeps the image tower, if it does so under any name that is known."""
    known = set(names)
    return next((prefix for prefix in PREFIXES if f"{prefix}embeddings.patch_embedding.weight" in known), None)


def tower_tensors(
    checkpoint: Checkpoint, own: Sequence[Rule], *, layout: Any
) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """The image tower in timm's names, with joined attention and positions [1, N, D], and the names left out.

    `own` are the rules of the family besides `TOWER`; raises BackboneError for a tensor that is not known.
    """
    prefix = re.escape(tower_prefix(checkpoint.tensors) or "")
    rules = [Rule(prefix + rule.pattern, rule.name) for rule in (*TOWER, *own)]
    tensors, dropped = rename(checkpoint.tensors, (*rules, *BESIDES), layout=layout)
    for n in {name.split(".")[1] for name in tensors if name.startswith("blocks.")}:
        for leaf in ("weight", "bias"):
            join(tensors, [f"blocks.{n}.attn.{part}.{leaf}" for part in "qkv"], f"blocks.{n}.attn.qkv.{leaf}")
    tensors["pos_embed"] = need(tensors, "pos_embed", ndim=2)[None]
    return tensors, dropped


def activation_of(name: object) -> str:
    """timm's name of an activation of Transformers; raises BackboneError for one that is not known."""
    if not isinstance(name, str) or name not in ACTIVATIONS:
        raise BackboneError(f"The config's activation {name!r} is not known here: use weights with GELU or QuickGELU.")
    return ACTIVATIONS[name]


def standard_names(tensors: Mapping[str, Tensor], kind: str, *, prefix: int) -> tuple[str, ...]:
    """timm's transformers of this `kind`, patch and size, where positions begin with those of `prefix` tokens."""
    patch = need(tensors, "patch_embed.proj.weight", ndim=4).shape[2]
    size = square(tensors["pos_embed"].shape[1] - prefix) * patch
    return tuple(timm.list_models(f"vit_*_patch{patch}_{kind}{size}"))


def clip_architecture(tensors: Mapping[str, Tensor], *, activation: str, **more: Any) -> Architecture:
    """The architecture of CLIP's image tower with `activation` (timm's name); `more` as of `vit_architecture`."""
    quick = "quickgelu_" if activation == "quick_gelu" else ""
    return vit_architecture(
        tensors,
        family="CLIP",
        base=f"vit_base_patch16_clip_{quick}224",
        known=standard_names(tensors, f"clip_{quick}", prefix=1),
        **({"act_layer": "gelu_tanh"} if activation == "gelu_tanh" else {}),
        **more,
    )


@dataclasses.dataclass(frozen=True)
class TransformersCLIP:
    """`CLIPModel`, `CLIPVisionModel` and the image tower of models that are built upon it."""

    family: str = "CLIP"
    library: str = "Transformers"

    def matches(self, checkpoint: Checkpoint) -> bool:
        """By the kind of the image tower, else by the spelling of `pre_layrnorm`, which is CLIP's alone."""
        prefix = tower_prefix(checkpoint.tensors)
        if prefix is None:
            return False
        if checkpoint.model_type:
            kinds = (checkpoint.model_type, vision_config(checkpoint).get("model_type"))
            return "clip" in kinds or "clip_vision_model" in kinds
        return f"{prefix}pre_layrnorm.weight" in checkpoint.tensors

    def convert(self, checkpoint: Checkpoint) -> Converted:
        """To timm's names; raises BackboneError without a config, for the tensors do not tell the activation."""
        if not checkpoint.model_type:
            raise BackboneError(
                "CLIP's tensors do not say whether it was trained with GELU or QuickGELU: put the model's config.json "
                "beside them."
            )
        tensors, dropped = tower_tensors(checkpoint, OWN_OF_CLIP, layout=self)
        tensors["cls_token"] = need(tensors, "cls_token", ndim=1)[None, None]
        config = vision_config(checkpoint)
        architecture = clip_architecture(
            tensors,
            activation=activation_of(config.get("hidden_act", "quick_gelu")),
            heads=int(number_of(config, "num_attention_heads", 12)),
            positions=Positions(antialias=False),
            norm_eps=number_of(config, "layer_norm_eps", 1e-5),
            **normalisation(checkpoint, mean=OPENAI_MEAN, std=OPENAI_STD),
        )
        return Converted(architecture, tensors, dropped)


@dataclasses.dataclass(frozen=True)
class OpenCLIP:
    """open_clip's own transformers, and OpenAI's state dict, whose names they have.

    open_clip resamples positions once, when it makes a model for another size; so do we, to the same values.
    """

    family: str = "CLIP"
    library: str = "open_clip"

    def matches(self, checkpoint: Checkpoint) -> bool:
        """By names, which neither timm's towers within open_clip nor other libraries have."""
        return {"visual.class_embedding", "visual.conv1.weight"} <= checkpoint.tensors.keys()

    def convert(self, checkpoint: Checkpoint) -> Converted:
        """To timm's names; raises BackboneError for a pooling or an activation that is not known."""
        tensors, dropped = rename(checkpoint.tensors, (*OPEN_CLIP, *OTHER_PARTS), layout=self)
        tensors["cls_token"] = need(tensors, "cls_token", ndim=1)[None, None]
        tensors["pos_embed"] = need(tensors, "pos_embed", ndim=2)[None]
        patch = need(tensors, "patch_embed.proj.weight", ndim=4)
        more: dict[str, Any] = {}
        if "norm_pre.weight" not in tensors:
            # Where nothing is normalised before the blocks, timm's patches have a bias.
            more["pre_norm"] = False
            tensors["patch_embed.proj.bias"] = patch.new_zeros(patch.shape[0])
        if "blocks.0.ls1.gamma" in tensors:
            more["init_values"] = 1e-5
        settings = vision_settings(checkpoint)
        if _averages(settings):
            more |= {"global_pool": "avg", "fc_norm": True}
            tensors |= {f"fc_{n}": tensors.pop(n) for n in ("norm.weight", "norm.bias") if n in tensors}
        architecture = clip_architecture(
            tensors,
            activation=_activation(checkpoint),
            heads=int(patch.shape[0] // max(number_of(settings, "head_width", 64), 1)),
            positions=Positions(),
            norm_eps=number_of(part_of(settings, "norm_kwargs"), "eps", 1e-5),
            **colours(checkpoint),
            **more,
        )
        return Converted(architecture, tensors, dropped)


def _activation(checkpoint: Checkpoint) -> str:
    # Only OpenAI's programs keep this number among their weights.
    if "input_resolution" in checkpoint.tensors:
        return "quick_gelu"
    config = model_settings(checkpoint)
    if not config:
        raise BackboneError(
            "CLIP's tensors do not say whether it was trained with GELU or QuickGELU: put open_clip_config.json beside "
            'them, which for OpenAI\'s own weights may be {"model_cfg": {"quick_gelu": true}}.'
        )
    special = vision_settings(checkpoint).get("act_kwargs")
    if special and (config.get("quick_gelu") or special != {"approximate": "tanh"}):
        raise BackboneError(f"The config's 'act_kwargs' are {special!r}, which are not known here: use other weights.")
    if special:
        return "gelu_tanh"
    return "quick_gelu" if config.get("quick_gelu") else "gelu"


def _averages(settings: Mapping[str, Any]) -> bool:
    """Whether the embedding is the mean of the patches, normalised after, and not the class token."""
    pool = settings.get("pool_type", "tok")
    if settings.get("attentional_pool") or pool not in ("tok", "avg"):
        raise BackboneError("The config asks for attentional pooling, which timm has not for CLIP: use other weights.")
    if pool == "avg" and not settings.get("final_ln_after_pool"):
        raise BackboneError(
            "The config asks for a mean of normalised patches beside a class token, which is not reproduced here: use "
            "other weights."
        )
    return pool == "avg"
