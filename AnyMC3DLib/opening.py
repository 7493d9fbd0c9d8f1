"""From the name of a backbone to its network with its weights. Nothing is downloaded here."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import timm
import torch
from huggingface_hub import try_to_load_from_cache
from torch import Tensor, nn

from .architecture import Architecture, Positions
from .backbone import Backbone
from .backbone_store import find_installed
from .building import build_network
from .catalogue import BackboneEntry, WeightSource, find_backbone, find_listed, how_to_get
from .errors import BackboneError
from .foreign.checkpoint import read_checkpoint
from .foreign.reading import load_exactly, read_weights
from .foreign.stored import StoredTensor, stored_tensors
from .given_file import GivenFile
from .weights import UNREADABLE, digest_of, efficientnet_lite_names, packaged_file

# What the hub's repositories call them.
HUB_FILES = ("model.safetensors", "pytorch_model.bin")


def open_backbone(name: str, *, weights: str | Path | None = None) -> Backbone:
    """The backbone `name`, installed or of the catalogue (or 'timm:MODEL'), with its weights.

    Raises BackboneError if it is unknown, or its weights are not at hand and `weights` names no file.
    """
    return open_entry(find_backbone(name), weights=weights)


def open_entry(entry: BackboneEntry, *, weights: str | Path | None = None) -> Backbone:
    """The backbone `entry` with its weights; raises as `load_model`, and if an installed one was changed."""
    model, entry = load_model(entry, weights=weights)
    backbone = backbone_of(model, entry)
    if weights is None:
        check_unchanged(backbone, entry)
    return backbone


def load_model(entry: BackboneEntry, *, weights: str | Path | None = None) -> tuple[nn.Module, BackboneEntry]:
    """timm's model of `entry` with the weights of the file `weights`, else of the first source that has them.

    The entry comes back with the colours that the config beside a file states. Raises BackboneError if no source has
    the weights, or if the tensors are not this model's, all of them and as they are.
    """
    if weights is not None:
        return _from_file(weights, entry)
    problems = []
    for source in entry.weights:
        try:
            return _from_source(source, entry)
        except _NotAtHand as problem:
            problems.append(str(problem))
    raise BackboneError(f"The weights of '{entry.id}' are not at hand ({'; '.join(problems)}): {how_to_get(entry)}")


class _NotAtHand(Exception):
    pass


def _from_source(source: WeightSource, entry: BackboneEntry) -> tuple[nn.Module, BackboneEntry]:
    if source.kind == "installed":
        return _from_installed(Path(source.location), entry), entry
    if source.kind == "package":
        model = _from_package(source, entry)
        if model is None:
            raise _NotAtHand(f"the package {source.package} is not installed")
        return model, entry
    if source.kind == "hub":
        file = cached_file(entry)
        if file is None:
            raise _NotAtHand("they are not in the hub's cache of this machine")
        return _from_file(file, entry)
    if not source.location:
        raise _NotAtHand("they come as a file that its publisher gives")
    return _from_file(source.location, entry)


def _from_file(file: str | Path, entry: BackboneEntry) -> tuple[nn.Module, BackboneEntry]:
    own = network_of(entry)
    built = entry.architecture or as_timm_builds(entry)
    layout = GivenFile(built=built, own=dataclasses.replace(own, timm=_base(own.timm)), library=f"'{entry.id}'")
    read = read_weights(file, layout=layout)
    coloured = dataclasses.replace(own, mean=read.architecture.mean, std=read.architecture.std)
    return read.model, dataclasses.replace(entry, architecture=coloured)


def _from_installed(file: Path, entry: BackboneEntry) -> nn.Module:
    made = network_of(entry)
    try:
        tensors = stored_tensors(file)
    except UNREADABLE as error:
        raise BackboneError(f"'{file.name}' is damaged: import the backbone again.") from error
    model = build_holding(made, tensors)
    if model is None:
        raise BackboneError(
            f"'{file.name}' does not hold the tensors of the network that it describes: import the backbone again."
        )
    with torch.no_grad():
        # One by one: all of them would take as much memory as the network once more.
        for name, tensor in model.state_dict().items():
            tensor.copy_(tensors[name].read())
    return model


def build_holding(architecture: Architecture, tensors: Mapping[str, Tensor | StoredTensor]) -> nn.Module | None:
    """The network, if its tensors have the names, shapes and types of `tensors`, else None.

    Before that is known no memory is taken, since a file of a few bytes may describe a network of any size.
    """
    with torch.device("meta"):
        wanted = build_network(architecture).state_dict()
    if _forms(wanted) != _forms(tensors):
        return None
    return build_network(architecture)


def _forms(tensors: Mapping[str, Tensor | StoredTensor]) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
    return {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in tensors.items()}


def _from_package(source: WeightSource, entry: BackboneEntry) -> nn.Module | None:
    """The network with the weights of a package; None where that is not installed."""
    file = packaged_file(source)
    if file is None:
        return None
    model = create_model(entry)
    tensors = efficientnet_lite_names(read_checkpoint(file).tensors, model)
    wanted = {name: tensor for name, tensor in tensors.items() if not name.startswith("classifier.")}
    load_exactly(model, wanted, of=f"'{entry.id}'")
    return model


def digest_of_package(entry: BackboneEntry) -> str:
    """The digest of the weights of `entry` that an installed package brings along; '' where none does."""
    models = (_from_package(source, entry) for source in entry.weights if source.kind == "package")
    model = next((model for model in models if model is not None), None)
    return "" if model is None else digest_of(model)


def check_not_packaged(name: str, digest: str) -> None:
    """Raise BackboneError if `name` stands for the weights of an installed package, and those of `digest` are others.

    Plugins find the weights of a package under that name, also on machines where nothing was installed.
    """
    try:
        entry = find_listed(name)
    except BackboneError:
        return
    packaged = digest_of_package(entry)
    if packaged and packaged != digest:
        raise BackboneError(
            f"'{name}' stands for the weights that come with the installation ({packaged[:19]}...), and these are "
            f"others ({digest[:19]}...): choose another name."
        )


def cached_file(entry: BackboneEntry) -> Path | None:
    """The file of the hub's cache on this machine with the weights of `entry`, or None; no network is asked."""
    _check_known(entry)
    repository = timm.get_pretrained_cfg(entry.timm).hf_hub_id
    for file in HUB_FILES if repository else ():
        place = try_to_load_from_cache(repository, file)
        if isinstance(place, str):
            return Path(place)
    return None


def check_unchanged(backbone: Backbone, entry: BackboneEntry) -> None:
    """Raise BackboneError if the weights of an installed backbone are not those that were imported."""
    if all(source.kind != "installed" for source in entry.weights):
        return
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
    _check_known(entry)
    return build_network(as_timm_builds(entry))


def _check_known(entry: BackboneEntry) -> None:
    name, _, tag = entry.timm.partition(".")
    if not timm.is_model(name) or (tag and entry.timm not in timm.list_models(f"{name}.*", pretrained=True)):
        raise BackboneError(f"timm has no model '{entry.timm}': check its name.")


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
        family=entry.title, timm=_base(entry.timm), model_args=entry.model_args, input_size=tuple(size),
        mean=tuple(cfg["mean"]), std=tuple(cfg["std"]), positions=Positions(kind="resampled" if stored else "any"),
    )  # fmt: skip


def _base(name: str) -> str:
    """timm's name without the tag of the weights."""
    return name.partition(".")[0]
