"""What open_clip's layouts share, and its models whose image tower is one of timm's."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..architecture import Architecture, Positions
from ..building import build_network, shortest
from ..errors import BackboneError
from .checkpoint import Checkpoint
from .families import family_of
from .layout import Converted, Rule, rename
from .vit import normalisation

OPENAI_MEAN, OPENAI_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
OTHER_PARTS = (
    Rule(r"(?:text|text_decoder|transformer|token_embedding|ln_final|text_projection)\..*", None),
    Rule(r"positional_embedding|text_projection|logit_scale|logit_bias|attn_mask", None),
    Rule(r"input_resolution|context_length|vocab_size", None),
)
TRUNK = (Rule(r"visual\.trunk\.(.*)", r"\1"), Rule(r"visual\.head\..*", None))
STORED_FOR_A_SIZE = re.compile(r"pos_embed|rel_pos|relative_position|attention_bias")


def model_settings(checkpoint: Checkpoint) -> Mapping[str, Any]:
    """open_clip's description of the whole model; empty without its config."""
    return part_of(checkpoint.config, "model_cfg")


def vision_settings(checkpoint: Checkpoint) -> Mapping[str, Any]:
    """open_clip's description of the image tower; empty without its config."""
    return part_of(model_settings(checkpoint), "vision_cfg")


def colours(checkpoint: Checkpoint) -> dict[str, tuple[float, float, float]]:
    """`mean` and `std` of the colours: as open_clip's config says, else the processor's file, else OpenAI's."""
    stated = part_of(checkpoint.config, "preprocess_cfg")
    processor = {f"image_{name}": stated[name] for name in ("mean", "std") if stated.get(name) is not None}
    if processor:
        checkpoint = dataclasses.replace(checkpoint, processor=processor)
    return normalisation(checkpoint, mean=OPENAI_MEAN, std=OPENAI_STD)


def part_of(config: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """The JSON object `name` within the config, empty where absent; raises BackboneError for another kind of value."""
    value = config.get(name) or {}
    if not isinstance(value, Mapping):
        raise BackboneError(f"The config's '{name}' is {value!r}, which is no JSON object: get the config again.")
    return value


@dataclasses.dataclass(frozen=True)
class OpenCLIPTimm:
    """open_clip's models around a network of timm's, such as its SigLIP and EVA-02; `open_clip_config.json` names it.

    The embedding is what that network gives, not projected into the space of texts. It keeps the activation that
    timm gives it, as open_clip does, also where the Transformers library takes another for the same weights.
    """

    family: str = "timm's image towers"
    library: str = "open_clip"

    def matches(self, checkpoint: Checkpoint) -> bool:
        """By names, which open_clip alone gives."""
        return any(name.startswith("visual.trunk.") for name in checkpoint.tensors)

    def convert(self, checkpoint: Checkpoint) -> Converted:
        """To timm's names; raises BackboneError without a config, or for a pooling that is not timm's own."""
        settings = vision_settings(checkpoint)
        name = settings.get("timm_model_name")
        if not isinstance(name, str) or not name:
            raise BackboneError(
                "These weights of open_clip do not say which network of timm's they are for: put "
                "open_clip_config.json beside them."
            )
        tensors, dropped = rename(checkpoint.tensors, (*TRUNK, *OTHER_PARTS), layout=self)
        arguments, model = _fitting(name, settings, tensors)
        tensors, classifier = _without_classifier(model, tensors)
        architecture = Architecture(
            # Whatever network it is, it was trained beside a tower of texts.
            family=family_of(name, "clip"),
            timm=name,
            model_args=arguments,
            input_size=_input_size(model),
            positions=_positions(model),
            **colours(checkpoint),
        )
        return Converted(shortest(architecture, (name,)), tensors, (*dropped, *classifier))


def _fitting(name: str, settings: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> tuple[dict[str, Any], nn.Module]:
    """Arguments with which timm builds what open_clip built, and that network without memory.

    open_clip sets the pooling when it builds a network, or afterwards, where the norms stay as they were.
    """
    pool = settings.get("timm_pool", "avg")
    projects = settings.get("timm_proj", "linear") in ("linear", "mlp")
    if pool in ("abs_attn", "rot_attn") or (not pool and not projects):
        raise BackboneError(
            f"The config asks for the pooling {pool!r}, which timm's network has not: use other weights."
        )
    chosen = {"global_pool": pool} if pool else {}
    kept: list[dict[str, Any]] = [{"fc_norm": False}, {"use_fc_norm": False}] if pool and projects else []
    arguments, model = chosen, _network(name, chosen)
    if not model.state_dict().keys() <= tensors.keys():
        for more in kept:
            try:
                other = _network(name, {**chosen, **more})
            except BackboneError:
                continue
            if other.state_dict().keys() <= tensors.keys():
                arguments, model = {**chosen, **more}, other
                break
    own_norm = isinstance(getattr(model, "fc_norm", None), nn.Identity)
    if pool == "avg" and own_norm and getattr(model, "cls_token", None) is not None:
        raise BackboneError(
            "The config asks for a mean of normalised patches beside a class token, which is not reproduced here: use "
            "other weights."
        )
    return arguments, model


def _network(name: str, arguments: Mapping[str, Any]) -> nn.Module:
    with torch.device("meta"):
        return build_network(
            Architecture(family="", timm=name, model_args=arguments, positions=Positions(kind="fixed"))
        )


def _without_classifier(model: nn.Module, tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    classifier = model.pretrained_cfg.get("classifier") or ()
    starts = tuple(f"{name}." for name in ([classifier] if isinstance(classifier, str) else classifier))
    wanted = model.state_dict().keys()
    dropped = tuple(name for name in tensors if name not in wanted and name.startswith(starts))
    kept = {name: tensor for name, tensor in tensors.items() if name not in dropped}
    return kept, tuple(f"visual.trunk.{name}" for name in dropped)


def _input_size(model: nn.Module) -> tuple[int, int]:
    embed = getattr(model, "patch_embed", None)
    if getattr(embed, "grid_size", None) and getattr(embed, "patch_size", None):
        # A size that patches do not divide is cut.
        height, width = (n * p for n, p in zip(embed.grid_size, embed.patch_size, strict=True))
        return height, width
    return tuple(model.pretrained_cfg["input_size"][1:])


def _positions(model: nn.Module) -> Positions:
    if getattr(model, "pos_embed", None) is not None and hasattr(model, "no_embed_class"):
        return Positions()
    names = [name for name, _ in (*model.named_parameters(), *model.named_buffers())]
    if hasattr(model, "patch_embed") or any(STORED_FOR_A_SIZE.search(name) for name in names):
        return Positions(kind="fixed")
    return Positions(kind="any")
