"""From the name of a backbone to its network with its weights."""

from __future__ import annotations

from pathlib import Path

import timm
import torch
from torch import nn

from .architecture import Architecture, Positions
from .backbone import Backbone
from .backbone_store import find_installed
from .building import build_network
from .catalogue import BackboneEntry, find_backbone
from .errors import BackboneError
from .weights import load_weights


def open_backbone(name: str, *, weights: str | Path | None = None) -> Backbone:
    """The backbone `name`, installed or of the catalogue (or 'timm:MODEL'), with its weights.

    Raises BackboneError if it is unknown, or its weights are not at hand and `weights` names no file.
    """
    entry = find_backbone(name)
    backbone = backbone_of(load_model(entry, weights=weights), entry)
    if weights is None:
        check_unchanged(backbone)
    return backbone


def load_model(entry: BackboneEntry, *, weights: str | Path | None = None) -> nn.Module:
    """The timm model of `entry` with its weights, those of the file `weights` where one is given."""
    model = create_model(entry)
    load_weights(model, entry, file=weights)
    return model


def check_unchanged(backbone: Backbone) -> None:
    """Raise BackboneError if the weights of an installed backbone are not those that were imported."""
    record = find_installed(backbone.id)
    if record is not None and record.digest != backbone.digest:
        raise BackboneError(
            f"The installed backbone '{backbone.id}' is not what was imported ({record.digest[:19]}... then, "
            f"{backbone.digest[:19]}... now): import it again."
        )


def create_model(entry: BackboneEntry) -> nn.Module:
    """The timm model of `entry` without weights, without a classifier, for any input size it can take."""
    if entry.architecture is not None:
        return build_network(entry.architecture)
    name, _, tag = entry.timm.partition(".")
    if not timm.is_model(name) or (tag and entry.timm not in timm.list_models(f"{name}.*", pretrained=True)):
        raise BackboneError(f"timm has no model '{entry.timm}': check its name.")
    return build_network(as_timm_builds(entry))


def as_timm_builds(entry: BackboneEntry) -> Architecture:
    """The network that timm builds by the name of `entry`; positions are left to timm."""
    return Architecture(family="", timm=entry.timm, model_args=entry.model_args, positions=Positions(kind="any"))


def backbone_of(model: nn.Module, entry: BackboneEntry) -> Backbone:
    """A timm model that has its weights, as the backbone `entry`."""
    architecture = entry.architecture or _as_timm_has_it(model, entry)
    return Backbone(
        model, id=entry.id, mean=architecture.mean, std=architecture.std, model_args=architecture.model_args,
        architecture=architecture,
    )  # fmt: skip


def network_of(entry: BackboneEntry) -> Architecture:
    """The network of `entry`, without its weights; raises BackboneError if timm cannot build it."""
    if entry.architecture is not None:
        return entry.architecture
    with torch.device("meta"):
        return _as_timm_has_it(create_model(entry), entry)


def _as_timm_has_it(model: nn.Module, entry: BackboneEntry) -> Architecture:
    """The architecture of a model that was made by timm's name alone."""
    cfg = model.pretrained_cfg
    stored = getattr(model, "pos_embed", None) is not None
    size = getattr(getattr(model, "patch_embed", None), "img_size", None) or cfg["input_size"][1:]
    return Architecture(
        family=entry.title, timm=entry.timm.partition(".")[0], model_args=entry.model_args, input_size=tuple(size),
        mean=tuple(cfg["mean"]), std=tuple(cfg["std"]), positions=Positions(kind="resampled" if stored else "any"),
    )  # fmt: skip
