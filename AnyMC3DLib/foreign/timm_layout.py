"""Weights in timm's own names, with timm's config beside them or for a model that the user names."""

from __future__ import annotations

import dataclasses
import io
import sys
from collections.abc import Mapping
from contextlib import redirect_stdout
from typing import Any

import timm
import torch
from timm.models import get_pretrained_cfg
from torch import Tensor, nn

from ..architecture import IMAGENET_MEAN, IMAGENET_STD, Architecture, Positions
from ..building import FORBIDDEN, build_network
from ..errors import BackboneError
from ..kinds import fixed_size
from ..weights import NOT_DIGESTED, UNREADABLE
from .checkpoint import Checkpoint
from .families import family_of
from .layout import Converted
from .vit import normalisation, square

# Where training for other tasks, or an older release, leaves what the network does not need.
NEEDLESS = ("mask_token", "head.", "head_dist.", "fc.", "classifier.")
RECOMPUTED = ("relative_position_index", "relative_coords_table", "attn_mask", "bias_mask", "rope_embed.periods")


@dataclasses.dataclass(frozen=True)
class TimmLayout:
    """A file that timm wrote, or any that timm itself can read into `model` where the user names one."""

    model: str = ""
    family: str = "timm's models"
    library: str = "timm"

    def matches(self, checkpoint: Checkpoint) -> bool:
        """By timm's config or the user's word: many layouts have the same names as timm."""
        return bool(self.model) or (not checkpoint.model_type and isinstance(_stated(checkpoint), str))

    def convert(self, checkpoint: Checkpoint) -> Converted:
        """The weights without the classifier; raises BackboneError if timm's network is another one."""
        architecture = self._architecture(checkpoint)
        with torch.device("meta"):
            network = build_network(dataclasses.replace(architecture, positions=Positions(kind="any")))
        tensors, dropped = _own_names(checkpoint.tensors, network)
        wanted = network.state_dict().keys()
        if tensors.keys() != wanted and not _lacks_counts_alone(tensors, wanted):
            tensors, dropped = _filtered(checkpoint.tensors, network)
        kind = _positions_of(network)
        return Converted(dataclasses.replace(architecture, positions=kind), tensors, dropped)

    def _architecture(self, checkpoint: Checkpoint) -> Architecture:
        name = self.model or str(_stated(checkpoint))
        base, _, tag = name.partition(".")
        if not timm.is_model(base):
            raise BackboneError(f"timm has no model '{name[:80]}': update timm, or check the name.")
        stated = checkpoint.config if not self.model or _stated(checkpoint) == base else {}
        own = get_pretrained_cfg(name if f"{base}.{tag}" in timm.list_pretrained(f"{base}.*") else base)
        given = stated.get("pretrained_cfg", stated)
        given = given if isinstance(given, Mapping) else {}
        known = {f"image_{key}": given.get(key, getattr(own, key, None) or usual)
                 for key, usual in (("mean", IMAGENET_MEAN), ("std", IMAGENET_STD))}  # fmt: skip
        colours = dataclasses.replace(checkpoint, processor={**known, **checkpoint.processor})
        architecture = Architecture(
            family=family_of(base, str(given.get("tag") or tag)),
            timm=base,
            model_args=_arguments(stated),
            **normalisation(colours, mean=IMAGENET_MEAN, std=IMAGENET_STD),
        )
        return _sized(architecture, checkpoint.tensors, given.get("input_size") or getattr(own, "input_size", None))


def _stated(checkpoint: Checkpoint) -> Any:
    return checkpoint.config.get("architecture")


def _arguments(config: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments that the config gives to timm, but for the classifier's."""
    stated = config.get("model_args") or {}
    if not isinstance(stated, Mapping):
        raise BackboneError(f"The config's 'model_args' is {stated!r}, not a JSON object: get the config again.")
    refused = [name for name in FORBIDDEN if name in stated]
    if refused:
        raise BackboneError(f"The config's 'model_args' may not set '{refused[0]}': take it out of the config.")
    return {name: value for name, value in stated.items() if name != "num_classes"}


def _sized(architecture: Architecture, tensors: Mapping[str, Tensor], stated: Any) -> Architecture:
    """With the size that its positions were trained for, by the config or else by how many they are."""
    size = tuple(stated[-2:]) if isinstance(stated, (list, tuple)) and len(stated) == 3 else (224, 224)
    if not all(isinstance(side, int) and not isinstance(side, bool) and 0 < side <= 1 << 14 for side in size):
        raise BackboneError(f"The config's 'input_size' is {list(size)}, which is no size: get the config again.")
    probe = dataclasses.replace(architecture, positions=Positions(kind="any"))
    with torch.device("meta"):
        network = build_network(probe)
    embed = getattr(network, "patch_embed", None)
    own = tuple(getattr(embed, "img_size", None) or ())
    table, stored = getattr(network, "pos_embed", None), tensors.get("pos_embed")
    if table is not None and stored is not None and stored.ndim == 3 and _is_plain(network):
        size = own if table.shape == stored.shape else _size_of(stored, network, size)
    elif not getattr(embed, "strict_img_size", False):
        return dataclasses.replace(architecture, input_size=own or size)
    elif "img_size" in architecture.model_args:
        size = own
    if size == own:
        return dataclasses.replace(architecture, input_size=own)
    arguments = {**architecture.model_args, "img_size": size[0] if size[0] == size[1] else list(size)}
    return dataclasses.replace(architecture, model_args=arguments, input_size=size)


def _size_of(stored: Tensor, network: nn.Module, stated: tuple[int, int]) -> tuple[int, int]:
    """The size of slices that so many positions are for: the stated one if it can be, else a square."""
    height, width = network.patch_embed.patch_size
    patches = stored.shape[1] - (network.pos_embed.shape[1] - network.patch_embed.num_patches)
    # Another layout may keep positions of tokens that timm has none for.
    for count in (patches, patches - 1, patches - 2):
        if (stated[0] // height) * (stated[1] // width) == count:
            return stated
    return square(patches) * height, square(patches) * width


def _is_plain(network: nn.Module) -> bool:
    """Whether this is a sequence of patches, whose positions can be resampled here."""
    return hasattr(network, "no_embed_class") and hasattr(getattr(network, "patch_embed", None), "grid_size")


def _positions_of(network: nn.Module) -> Positions:
    if fixed_size(network) is not None:
        return Positions(kind="fixed")
    if getattr(network, "pos_embed", None) is None:
        return Positions(kind="any")
    return Positions() if _is_plain(network) and network.dynamic_img_size else Positions(kind="fixed")


def _classifiers(network: nn.Module) -> tuple[str, ...]:
    stated = getattr(network, "pretrained_cfg", {}).get("classifier") or ()
    return tuple(f"{name}." for name in ((stated,) if isinstance(stated, str) else stated))


def _own_names(tensors: Mapping[str, Tensor], network: nn.Module) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """The tensors but for those of the classifier, and the names of these."""
    wanted = network.state_dict().keys()
    dropped = tuple(n for n in tensors if n not in wanted and n.startswith(_classifiers(network)))
    return {n: t for n, t in tensors.items() if n not in dropped}, dropped


def _lacks_counts_alone(tensors: Mapping[str, Tensor], wanted: Any) -> bool:
    return not tensors.keys() - wanted and all(n.endswith(NOT_DIGESTED) for n in wanted - tensors.keys())


def _filtered(tensors: Mapping[str, Tensor], network: nn.Module) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """The tensors by timm's own reading of other layouts, which must neither lose nor resample any."""
    convert = getattr(sys.modules[type(network).__module__], "checkpoint_filter_fn", None)
    if convert is None:
        return _own_names(tensors, network)
    # Positions that timm adds to tokens are added in float32.
    tensors = {n: t.float() if t.is_floating_point() else t for n, t in tensors.items()}
    try:
        # timm prints what it finds amiss.
        with redirect_stdout(io.StringIO()):
            converted = dict(convert(dict(tensors), network))
    except UNREADABLE as error:
        raise BackboneError(
            f"These weights are not those of timm's {type(network).__name__}: check the name given with --model."
        ) from error
    found = {t.data_ptr() for t in converted.values()}
    needless = (*NEEDLESS, *_classifiers(network))
    wanted = network.state_dict().keys()
    kept = {n: t for n, t in converted.items() if n in wanted or not n.startswith(needless)}
    lost = [n for n, t in tensors.items() if n not in kept and t.data_ptr() not in found]
    known = [n for n in tensors if n not in kept and n.startswith(needless)]
    known += [n for n in lost if n.endswith(RECOMPUTED)]
    unknown = [n for n in lost if n not in known]
    changed = [n for n, t in kept.items() if n in tensors and _is_resampled(n, tensors[n], t)]
    for problem, names in (("does not know", unknown), ("would resample", changed)):
        if names:
            raise BackboneError(
                f"timm's {type(network).__name__} {problem} the tensor '{names[0]}' of these weights: check the name "
                "given with --model."
            )
    return kept, tuple(known)


def _is_resampled(name: str, before: Tensor, after: Tensor) -> bool:
    if before.numel() == after.numel():
        return False
    # Those of prefix tokens, which come first, may have been added to these.
    return name != "pos_embed" or after.ndim != 3 or not torch.equal(before[:, -after.shape[1] :], after)
