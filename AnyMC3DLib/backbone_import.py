"""From a file or folder of weights, in whatever layout, to an installed backbone."""

from __future__ import annotations

import collections
import dataclasses
import datetime
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from .architecture import IMAGENET_MEAN, IMAGENET_STD, Architecture
from .backbone_store import OF_THE_FAMILY, InstalledBackbone, check_free, check_id, install
from .building import difference
from .catalogue import BackboneEntry, read_catalogue
from .errors import BackboneError
from .foreign.beside import processor_name_beside
from .foreign.layout import Layout
from .foreign.reading import ForeignWeights, read_weights
from .foreign.vit import normalisation
from .kinds import fixed_size, kind_of, multiple_of
from .opening import as_timm_builds, check_not_packaged
from .weights import digest_of

# Pixels of the slices that are tried; enough for every network that takes any size.
TRIED = 64
# Of a size that a processor's file may state, in pixels.
LARGEST_SIDE = 4096
LONGEST_TITLE = 120
# Of norms, where both networks have timm's own.
USUAL_EPS = 1e-6
# Parts of the source that are named one by one, and of how many letters.
MOST_PARTS, LONGEST_PART = 4, 40
OTHER_PARTS = "other parts"
# What lists show of a licence that no file tells, where the catalogue's would be shown otherwise.
NOT_SAID = "not said"
HUB = "https://huggingface.co/"


def import_backbone(
    place: str | Path,
    *,
    id: str,  # noqa: A002 - as everywhere
    folder: Path | None = None,
    model: str = "",
    licence: str = "",
    overwrite: bool = False,
    title: str = "",
    part: str = "",
) -> InstalledBackbone:
    """Install the weights of a file or folder under the name `id`, and return their record.

    `model` is timm's name of the network, for weights in timm's layout that have no config beside them; `part` is
    which network of a training program's file to take, such as its teacher. Without `licence`, its name is what the
    README beside the weights says. The catalogue's title and licence of `id` are taken where a config, or `model` with
    timm's tag, says that the weights are those of the catalogue: their shapes do not tell. What nobody stated and was
    assumed is kept as the record's notes. Raises BackboneError if the weights cannot be used, the id
    is taken, or it is the catalogue's name of another network.
    """
    check_id(id)
    if not overwrite:
        check_free(id, folder)
    for name, text in (("title", title), ("licence", licence)):
        if len(text) > LONGEST_TITLE or not text.isprintable():
            raise BackboneError(f"The {name} must be one line of at most {LONGEST_TITLE} letters: give another.")
    listed = read_catalogue().get(id)
    read = read_weights(place, layout=_timm_layout(model) if model else None, part=part)
    if listed:
        _check_network(read, listed)
    measures, notes = _measures(read.model), list(read.notes)
    own_licence = licence or read.checkpoint.licence_name
    if listed and not (model == listed.timm or _says_itself(read.checkpoint.config, listed)):
        title = title or f"{read.architecture.family}, {measures['parameters']:g} million parameters"
        if not own_licence:
            own_licence = NOT_SAID
            notes.append(
                f"No file says whether these are the weights that '{id}' stands for in the list of backbones, so their "
                "licence is not taken from there."
            )
        listed = None
    architecture = _of_stated_size(read)
    check_outputs(read.model, architecture, of=read.checkpoint.files[0])
    digest = digest_of(read.model)
    check_not_packaged(id, digest)
    record = InstalledBackbone(
        id=id,
        title=title or (listed.title if listed else ""),
        architecture=architecture,
        layout=read.layout.library,
        digest=digest,
        source_files=read.checkpoint.files,
        source_digest=read.checkpoint.digest,
        licence=read.checkpoint.licence,
        licence_name=own_licence or (listed.licence if listed else ""),
        imported=datetime.datetime.now(tz=datetime.UTC).date().isoformat(),
        colours_from=_colours_from(read, Path(place)),
        left_out=parts_of(read.dropped, among=read.checkpoint.tensors),
        notes=tuple(notes),
        **measures,
    )
    install(read.model, record, folder, overwrite=overwrite)
    return record


def check_outputs(model: nn.Module, architecture: Architecture, *, of: str) -> None:
    """Raise BackboneError unless the network turns a random slice into numbers."""
    size = _tried_size(model, architecture)
    slices = torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(0))
    try:
        with torch.inference_mode():
            answer = model.eval()(slices)
    except Exception as error:  # a network that does not fit its description can fail in any way
        raise BackboneError(
            f"The network of '{of}' cannot look at slices of {size[0]} x {size[1]} pixels: get the file and its config "
            "again."
        ) from error
    if not isinstance(answer, torch.Tensor) or not torch.isfinite(answer).all():
        raise BackboneError(f"The network of '{of}' answers with values that are not finite: get the file again.")


def parts_of(names: Iterable[str], *, among: Iterable[str]) -> dict[str, int]:
    """How many of the tensors `names` each part of a file had, by the file's own words, the largest part first.

    A part is named by the first word of a name at which it leaves those of `among` that are not in `names`.
    """
    left_out = list(names)
    shared = {start for name in set(among) - set(left_out) for start in _starts(name)}
    counts: collections.Counter[str] = collections.Counter()
    for name in left_out:
        start = next((start for start in _starts(name) if start not in shared), name)
        counts[start.rpartition(".")[2][:LONGEST_PART]] += 1
    parts = counts.most_common()
    if len(parts) > MOST_PARTS + 1:
        parts = [*parts[:MOST_PARTS], (OTHER_PARTS, sum(count for _, count in parts[MOST_PARTS:]))]
    return dict(parts)


def _starts(name: str) -> list[str]:
    words = name.split(".")
    return [".".join(words[:count]) for count in range(1, len(words) + 1)]


def _colours_from(read: ForeignWeights, place: Path) -> str:
    """The file beside the weights that states the colours which the network is given, else "family"."""
    folder = place if place.is_dir() else place.parent
    config, made = read.checkpoint.config, read.architecture
    stated = (
        (processor_name_beside(folder), *_processor_colours(read)),
        *(
            (name, part.get("mean"), part.get("std"))
            for name, part in (
                ("open_clip_config.json", config.get("preprocess_cfg")),
                ("config.json", config.get("pretrained_cfg")),
                ("config.json", config),
            )
            if isinstance(part, Mapping)
        ),
    )
    return next((name for name, *colours in stated if _numbers(*colours) == (*made.mean, *made.std)), OF_THE_FAMILY)


def _processor_colours(read: ForeignWeights) -> tuple[Any, Any]:
    """`mean` and `std` as the processor's file has them for slices from 0 to 1; None where it states no colours."""
    processor = read.checkpoint.processor
    if processor.get("do_normalize") is not False and not {"image_mean", "image_std"} <= processor.keys():
        return None, None
    found = normalisation(read.checkpoint, mean=IMAGENET_MEAN, std=IMAGENET_STD)
    return found["mean"], found["std"]


def _numbers(mean: Any, std: Any) -> tuple[Any, ...]:
    return (*mean, *std) if isinstance(mean, (list, tuple)) and isinstance(std, (list, tuple)) else ()


def _of_stated_size(read: ForeignWeights) -> Architecture:
    """The architecture, at the size of the processor's file where the network takes any and its config states none."""
    made, processor = read.architecture, read.checkpoint.processor
    if made.positions.kind != "any" or read.layout.library != "Transformers" or "image_size" in read.checkpoint.config:
        return made
    size = (processor.get("crop_size") if processor.get("do_center_crop") else None) or processor.get("size")
    if isinstance(size, Mapping):
        size = [size.get("height", size.get("shortest_edge")), size.get("width", size.get("shortest_edge"))]
    sides = size if isinstance(size, list) else [size, size]
    usable = len(sides) == 2 and all(type(side) is int and 0 < side <= LARGEST_SIDE for side in sides)
    return dataclasses.replace(made, input_size=(sides[0], sides[1])) if usable else made


def _tried_size(model: nn.Module, architecture: Architecture) -> tuple[int, int]:
    fixed = fixed_size(model)
    if fixed or architecture.positions.kind == "fixed":
        return fixed or architecture.input_size
    step = multiple_of(model, id=architecture.timm)
    side = step * max(1, TRIED // step)
    return side, side


def _check_network(read: ForeignWeights, listed: BackboneEntry) -> None:
    """Raise BackboneError if the weights are not of the network that the catalogue's name stands for.

    The epsilon of norms may be another: programs differ in it for the same weights.
    """
    named, made = as_timm_builds(listed), read.architecture
    eps = made.norm_eps or USUAL_EPS
    odd = difference(*(dataclasses.replace(a, norm_eps=eps) for a in (named, made)))
    if odd:
        raise BackboneError(
            f"'{listed.id}' stands for timm's '{listed.timm}', whose {odd.trait} is {odd.first}, but that of these "
            f"weights is {odd.second}: choose another name."
        )


def _says_itself(config: Mapping[str, Any], listed: BackboneEntry) -> bool:
    """Whether a config beside the weights says that they are those of the catalogue's entry."""
    timms = config.get("pretrained_cfg")
    tag = timms.get("tag") if isinstance(timms, Mapping) else config.get("tag")
    repository = listed.hub.removeprefix(HUB) if listed.hub.startswith(HUB) else ""
    return f"{config.get('architecture')}.{tag}" == listed.timm or config.get("_name_or_path") == (repository or None)


def _measures(model: nn.Module) -> dict[str, str | int | float]:
    kind = kind_of(model)
    steps = [info["reduction"] for info in getattr(model, "feature_info", None) or ()]
    return {
        "kind": kind,
        "parameters": round(sum(parameter.numel() for parameter in model.parameters()) / 1e6, 1),
        "embed_dim": int(getattr(model, "head_hidden_size", None) or model.num_features),
        "patch": multiple_of(model, id="") if kind == "transformer" or not steps else int(steps[-1]),
    }


def _timm_layout(model: str) -> Layout:
    from .foreign.timm_layout import TimmLayout

    return TimmLayout(model=model)
