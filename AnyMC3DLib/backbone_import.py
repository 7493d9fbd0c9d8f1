"""From a file or folder of weights, in whatever layout, to an installed backbone."""

from __future__ import annotations

import datetime
from pathlib import Path

import torch
from torch import nn

from .architecture import Architecture
from .backbone_store import InstalledBackbone, check_free, check_id, install
from .building import build_network
from .catalogue import BackboneEntry, read_catalogue
from .errors import BackboneError
from .foreign.layout import Layout
from .foreign.reading import ForeignWeights, read_weights
from .kinds import fixed_size, kind_of, multiple_of
from .opening import as_timm_builds
from .weights import digest_of

# Pixels of the slices that are tried; enough for every network that takes any size.
TRIED = 64
LONGEST_TITLE = 120


def import_backbone(
    place: str | Path,
    *,
    id: str,  # noqa: A002 - as everywhere
    folder: Path | None = None,
    model: str = "",
    licence: str = "",
    overwrite: bool = False,
    title: str = "",
) -> InstalledBackbone:
    """Install the weights of a file or folder under the name `id`, and return their record.

    `model` is timm's name of the network, for weights in timm's layout that have no config beside them. Without
    `licence`, its name is what the README beside the weights says, else the catalogue's. Raises BackboneError if the
    weights cannot be used, the id is taken, or it is the catalogue's name of another network.
    """
    check_id(id)
    if not overwrite:
        check_free(id, folder)
    for name, text in (("title", title), ("licence", licence)):
        if len(text) > LONGEST_TITLE or not text.isprintable():
            raise BackboneError(f"The {name} must be one line of at most {LONGEST_TITLE} letters: give another.")
    listed = read_catalogue().get(id)
    read = read_weights(place, layout=_timm_layout(model) if model else None)
    if listed:
        _check_network(read, listed)
    check_outputs(read.model, read.architecture, of=read.checkpoint.files[0])
    record = InstalledBackbone(
        id=id,
        title=title or (listed.title if listed else ""),
        architecture=read.architecture,
        layout=read.layout.library,
        digest=digest_of(read.model),
        source_files=read.checkpoint.files,
        source_digest=read.checkpoint.digest,
        licence=read.checkpoint.licence,
        licence_name=licence or read.checkpoint.licence_name or (listed.licence if listed else ""),
        imported=datetime.datetime.now(tz=datetime.UTC).date().isoformat(),
        **_measures(read.model),
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


def _tried_size(model: nn.Module, architecture: Architecture) -> tuple[int, int]:
    fixed = fixed_size(model)
    if fixed or architecture.positions.kind == "fixed":
        return fixed or architecture.input_size
    step = multiple_of(model, id=architecture.timm)
    side = step * max(1, TRIED // step)
    return side, side


def _check_network(read: ForeignWeights, listed: BackboneEntry) -> None:
    """Raise BackboneError if the weights are not of the network that the catalogue's name stands for."""
    with torch.device("meta"):
        meant = build_network(as_timm_builds(listed))
    wanted, found = ({n: t.shape for n, t in m.state_dict().items()} for m in (meant, read.model))
    if wanted != found:
        odd = next(n for n in (*wanted, *found) if wanted.get(n) != found.get(n))
        raise BackboneError(
            f"'{listed.id}' stands for timm's '{listed.timm}', but these weights are another network's (see the tensor "
            f"'{odd}'): choose another name."
        )


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
