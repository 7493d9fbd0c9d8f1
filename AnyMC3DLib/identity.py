"""Which backbone a plugin was trained on, whatever name it has here.

The digest tells the weights. They come in files of several formats, which differ in what no weights hold: the epsilon
of norms, an activation, how positions are resampled. So a plugin runs on any backbone of its digest, in the network
that it was trained in.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

from torch import nn

from .architecture import Architecture
from .backbone import Backbone
from .backbone_store import InstalledBackbone, find_installed, installed
from .building import difference
from .catalogue import ANY_TIMM_MODEL, BackboneEntry, find_backbone, find_listed
from .errors import BackboneError, PluginError
from .opening import backbone_of, build_holding, check_unchanged, digest_of_package, load_model, network_of
from .spec import BackboneRef, PluginSpec
from .weights import digest_of


def open_for(spec: PluginSpec, *, name: str | None = None, weights: str | Path | None = None) -> Backbone:
    """The backbone of a plugin, in the network that the plugin was trained in.

    It is the installed one of the plugin's digest, else that of a package, else the one of the plugin's id, or that
    called `name`; `weights` is a file of them. Raises PluginError if the id stands for other weights here,
    BackboneError if it is unknown or its weights are not at hand. A catalogue's backbone is told by its digest only
    once it is loaded: see `check_backbone`.
    """
    entry = find_backbone(name) if name else _entry_for(spec, has_file=weights is not None)
    model, entry = _as_trained(*load_model(entry, weights=weights), spec.backbone)
    backbone = backbone_of(model, entry)
    if weights is None:
        check_unchanged(backbone, entry)
    return backbone


def _entry_for(spec: PluginSpec, *, has_file: bool) -> BackboneEntry:
    reference = spec.backbone
    record = installed_as(reference)
    if record is not None:
        return find_backbone(record.id)
    here = None if has_file else find_installed(reference.id)
    packaged = _packaged(reference) if here is not None else None
    if packaged is not None:
        return packaged
    if here is not None:
        raise PluginError(
            f"Plugin '{spec.name}' was trained on '{reference.id}' ({reference.digest[:19]}...), but the backbone that "
            f"is installed as '{here.id}' is another ({here.digest[:19]}...): import the weights it was trained on, "
            "under any name."
        )
    try:
        return find_backbone(reference.id)
    except BackboneError as error:
        raise BackboneError(
            f"Plugin '{spec.name}' was trained on '{reference.id}' ({reference.digest[:19]}...), and no backbone here "
            "has that name or these weights: import them with 'anymc3d backbone import', under any name."
        ) from error


def _packaged(reference: BackboneRef) -> BackboneEntry | None:
    """The catalogue's entry of a plugin's id with the weights of a package, if they are those of the plugin's digest.

    So the backbone that comes with the installation is found also where another was installed under its name.
    """
    try:
        entry = find_listed(reference.id)
    except BackboneError:
        return None
    if not reference.digest or digest_of_package(entry) != reference.digest:
        return None
    sources = tuple(source for source in entry.weights if source.kind == "package")
    return dataclasses.replace(entry, weights=sources)


def installed_as(reference: BackboneRef) -> InstalledBackbone | None:
    """The installed backbone with the digest that a plugin names; of several, first one in the plugin's network, then
    one of the plugin's id. Headers alone are read."""
    found = [record for record in installed().values() if reference.digest and record.digest == reference.digest]
    trained = reference.architecture

    def order(record: InstalledBackbone) -> tuple[bool, bool, str]:
        other_network = trained is not None and record.architecture.network != trained.network
        return other_network, record.id != reference.id, record.id

    return min(found, key=order, default=None)


def trained_in(reference: BackboneRef) -> Architecture | None:
    """The network that a plugin was trained in.

    Plugins of the first versions do not say it, but knew timm's own networks alone, so the catalogue's name says it.
    None where it does not.
    """
    if reference.architecture is not None:
        return reference.architecture
    try:
        entry = find_backbone(reference.id) if reference.id.startswith(ANY_TIMM_MODEL) else find_listed(reference.id)
    except BackboneError:
        return None
    return network_of(dataclasses.replace(entry, model_args=dict(reference.model_args)))


def _as_trained(model: nn.Module, entry: BackboneEntry, reference: BackboneRef) -> tuple[nn.Module, BackboneEntry]:
    """The weights of `model` in the network that the plugin was trained in; as they are if they are not its weights."""
    trained = trained_in(reference)
    if trained is None or trained.network == network_of(entry).network or digest_of(model) != reference.digest:
        return model, entry
    state = model.state_dict()
    network = build_holding(trained, state)
    if network is None:
        return model, entry
    network.load_state_dict(state, assign=True)
    return network, dataclasses.replace(entry, architecture=trained)


def is_as_named(backbone: Backbone, *, own_weights: bool) -> bool:
    """Whether `backbone` is still what opening its id would give.

    It is not once other weights were installed under that id, or where it stands in a plugin's network. With
    `own_weights` its weights came from a file that has no record.
    """
    record = None if own_weights else find_installed(backbone.id)
    if record is not None and record.digest != backbone.digest:
        return False
    try:
        network = network_of(find_backbone(backbone.id))
    except BackboneError:
        return False
    return backbone.architecture is not None and backbone.architecture.network == network.network


def fits(spec: PluginSpec, backbone: Backbone) -> bool:
    """Whether the plugin can run on `backbone` as it is: see `check_backbone`."""
    try:
        check_backbone(spec, backbone)
    except PluginError:
        return False
    return True


def check_backbone(spec: PluginSpec, backbone: Backbone) -> None:
    """Raise PluginError unless `backbone` has the very weights that the plugin was trained on, in the same network."""
    if spec.backbone.digest != backbone.digest:
        raise PluginError(
            f"Plugin '{spec.name}' was trained on '{spec.backbone.id}' ({spec.backbone.digest[:19]}...), but this is "
            f"'{backbone.id}' ({backbone.digest[:19]}...): give the weights it was trained on."
        )
    trained, here = trained_in(spec.backbone), backbone.architecture
    if trained is None or here is None:
        _check_arguments(spec, backbone)
    else:
        _check_network(spec, trained, here, name=backbone.id)


def _check_arguments(spec: PluginSpec, backbone: Backbone) -> None:
    """All that a plugin of the first versions tells of a backbone that is not in the catalogue."""
    here = backbone.architecture
    if dict(spec.backbone.model_args) != backbone.model_args:
        raise PluginError(
            f"Plugin '{spec.name}' was trained on '{spec.backbone.id}' with "
            f"{dict(spec.backbone.model_args) or 'no'} arguments, but '{backbone.id}' has "
            f"{backbone.model_args or 'none'}: use the backbone it names."
        )
    if here is not None and (here.norm_eps or here.positions.rounded_periods):
        what = f"norms with an epsilon of {here.norm_eps:g}" if here.norm_eps else "rounded rotary periods"
        raise PluginError(
            f"Plugin '{spec.name}' was trained on '{spec.backbone.id}' as timm builds it, but '{backbone.id}' has "
            f"{what}: use the backbone it names."
        )


def _check_network(spec: PluginSpec, trained: Architecture, here: Architecture, *, name: str) -> None:
    """The same weights can stand in networks that differ in what has no weights, such as strides or activations."""
    found = difference(trained, here)
    if found is not None:
        raise PluginError(
            f"Plugin '{spec.name}' was trained on the weights of '{spec.backbone.id}' in a network whose {found.trait} "
            f"is {found.first}, but where '{name}' is open it is {found.second}: use the plugin by itself."
        )
    if trained.positions == here.positions:
        return
    other = next((v for v in spec.views if v.preprocessing.size != trained.input_size), None)
    if other is not None:
        raise PluginError(
            f"Plugin '{spec.name}' takes slices of {_size_words(other.preprocessing.size)}, for which its "
            f"backbone '{spec.backbone.id}' resampled its positions in another way than '{name}' does where it is "
            "open: use the plugin by itself."
        )


def _size_words(size: tuple[int, int] | None) -> str:
    return "any size" if size is None else f"{size[0]} x {size[1]} pixels"
