"""`anymc3d plugin show`, `verify` and `edit`."""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path

from ..operating_points import curve_of
from ..plugin import DENSITY, read_sizes, read_spec
from ..plugin_edit import revise_plugin, revision_of
from ..records import mapping_of
from ..spec import PluginSpec, ViewSpec
from ..terminal import show, show_table


def show_card(options: argparse.Namespace) -> None:
    """Show what the plugin answers, what it was trained on, and how large it is."""
    spec = read_spec(options.file)
    sizes = read_sizes(options.file)
    # What tells studies of another kind is data about the training, and no parameter.
    parameters = sum(
        math.prod(shape) for name, shape in sizes.items() if not name.partition(".")[2].startswith(DENSITY)
    )
    size = Path(options.file).stat().st_size
    if options.json:
        show(json.dumps({**spec.to_dict(), "parameters": parameters, "bytes": size}, indent=2))
        return
    rows = [
        ["name", f"{spec.name}, version {spec.version}"],
        ["answers", spec.description],
        ["task", f"{spec.task_type}: " + ", ".join(f"{c.name} (threshold {c.threshold:g})" for c in spec.classes)],
        ["looks at", "; ".join(_view_text(view) for view in spec.views)],
        ["anatomy, modality", f"{spec.anatomy or 'any'}, {spec.modality or 'any'}"],
        ["backbone", f"{spec.backbone.id} ({spec.backbone.digest[:19]}...)"],
        ["adapter", "none" if spec.lora.rank == 0 else f"LoRA, rank {spec.lora.rank}, alpha {spec.lora.alpha:g}"],
        [
            "size",
            f"{parameters:,} parameters, {size:,} bytes" + (f", {spec.members} members" if spec.members > 1 else ""),
        ],
        *_training_rows(spec),
        *_scope_rows(spec),
        ["licence", spec.licence or "not said"],
        ["intended use", spec.intended_use],
        *([["changed since", revised]] if (revised := revision_of(spec)) else []),
    ]
    show_table("Plugin", ["", ""], rows)


def verify(options: argparse.Namespace) -> None:
    """Load the plugin on its backbone, so that every tensor is checked."""
    from ..plugin import load_networks
    from .common import backbone_of_plugin

    spec = read_spec(options.file)
    backbone = backbone_of_plugin(spec, name=options.backbone, weights=options.weights, device=options.device)
    _, networks = load_networks(options.file, backbone)
    for network in networks:
        network.close()
    show(f"Plugin '{spec.name}' is whole and fits '{backbone.id}'.")


def edit(options: argparse.Namespace) -> None:
    """Change what the plugin says, and show what it finds and misses from now on, where that is known."""
    texts = {name: getattr(options, name) for name in ("name", "version", "description", "licence", "intended_use")}
    spec = revise_plugin(options.file, options.out, **texts, thresholds=dict(options.threshold))
    show(f"Wrote '{options.out or options.file}': {spec.name}, version {spec.version}.")
    rows = [row for name in spec.explained if (row := _decision_row(spec, name))]
    if rows:
        show_table("On the validation cases", ["class", "threshold", "sensitivity", "specificity"], rows)
        if spec.task_type == "multiclass":
            show("The plugin decides for the most probable class; a threshold says from where that is certain.")
    elif options.threshold:
        show("What it finds and misses at its thresholds is not known: the file holds no curve of validation cases.")


def _decision_row(spec: PluginSpec, name: str) -> list[str]:
    curve = curve_of(spec, name)
    if curve is None:
        return []
    point = curve.at(next(c.threshold for c in spec.classes if c.name == name))
    shares = (point.sensitivity, curve.positives), (point.specificity, curve.negatives)
    return [name, f"{point.threshold:g}", *(f"{share:.3f}" + f" of {n} cases" * bool(n) for share, n in shares)]


def _view_text(view: ViewSpec) -> str:
    cut = view.preprocessing
    size = "native size" if cut.size is None else f"{cut.size[0]} x {cut.size[1]} pixels"
    count = {"all": "all slices", "at_most": f"at most {cut.slices.count} slices"}.get(
        cut.slices.policy, f"slices of {cut.slices.thickness_mm} mm"
    )
    return f"{view.name} of '{view.source}' ({cut.axis}, {cut.region.kind}, {size}, {count})"


def _scope_rows(spec: PluginSpec) -> list[list[str]]:
    scope = spec.scope
    if scope is None:
        return []
    rows = []
    for images in scope.images:
        spacing = ", ".join(f"{low:.3g} to {high:.3g}" for low, high in images.spacing_mm)
        kind = f"{' and '.join(images.modalities)}, " if images.modalities else ""
        values = f"values {images.low[0]:.4g} to {images.high[1]:.4g}"
        rows.append([f"has seen of '{images.source}'", f"{kind}{values}, spacing along R, A, S {spacing} mm"])
    told = "by their embeddings too" if scope.density else "by these ranges alone: it learnt from too few"
    held = (
        f"; of {scope.held_out} held-out studies {scope.beyond} were taken for others"
        if scope.density and scope.held_out
        else ""
    )
    return [*rows, ["tells other studies", f"{told}{held}"]]


def learn_scope(options: argparse.Namespace) -> None:
    """Tell a plugin which studies it has learnt from, as a training does at its end."""
    from ..terminal import ProgressDisplay
    from ..training.add_scope import add_scope
    from ..training.cases import read_cases
    from .common import backbone_of_plugin, split_list

    spec = read_spec(options.file)
    with ProgressDisplay() as progress:
        backbone = backbone_of_plugin(spec, weights=options.weights, device=options.device)
        scope = add_scope(
            options.file,
            options.out or options.file,
            read_cases(options.data, spec),
            backbone,
            train_splits=split_list(options.train_splits),
            validation_splits=split_list(options.val_splits),
            progress=progress,
        )
    held = f" Of {scope.held_out} held-out studies {scope.beyond} are called unlike them." if scope.density else ""
    show(f"Wrote '{options.out or options.file}': it knows {scope.cases} studies.{held}")


def _training_rows(spec: PluginSpec) -> list[list[str]]:
    rows, provenance = [], spec.provenance
    counts = mapping_of(mapping_of(provenance.get("counts")).get("train"))
    if counts:
        data = provenance.get("data", "")
        # In the order of the classes, which the file does not keep.
        shown = ", ".join(f"{counts[c.name]} {c.name}" for c in spec.classes if c.name in counts)
        rows.append(["trained on", f"{data}: " * bool(data) + shown])
    for split, figures in (("validation", provenance.get("validation")), ("test", provenance.get("test"))):
        auc = mapping_of(mapping_of(figures).get("auc"))
        # Null where the cases held one class alone.
        if all(isinstance(auc.get(name), float) for name in ("value", "low", "high")):
            rows.append([f"{split} AUC", f"{auc['value']:.3f} (95 % {auc['low']:.3f} to {auc['high']:.3f})"])
    return rows
