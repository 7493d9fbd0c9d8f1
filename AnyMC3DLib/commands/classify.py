"""`anymc3d classify`."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from ..classifier import Classifier
from ..determinism import deterministic
from ..errors import InputError
from ..files import check_writable, is_there
from ..heatmap import heatmap
from ..plugin import read_spec
from ..prediction import Prediction, Study, threshold_of
from ..regions import read_region
from ..spec import PluginSpec
from ..terminal import ProgressDisplay, show, show_table
from ..volume import check_volume_name, read_volume, write_volume
from .common import backbone_of_plugin

# In the place of a class: the paper's map, the same for all classes.
PAPERS_MAP = "attention"


def classify(options: argparse.Namespace) -> None:
    """Classify one study, print the answers, and write what was asked for."""
    specs = [read_spec(path) for path in options.plugin]
    check_plugins(specs)
    _check_outputs(specs, options)
    study = read_study(options.images, options.region, specs)
    with deterministic(options.deterministic), ProgressDisplay() as progress:
        backbone = backbone_of_plugin(specs[0], weights=options.weights, device=options.device)
        engine = Classifier(backbone, precision=options.precision)
        names = [engine.load(path) for path in options.plugin]
        wants_maps = bool(options.heatmap or options.report)
        predictions = engine.classify(study, plugins=names, maps="all" if wants_maps else "none", progress=progress)
    _show(predictions, as_json=options.json)
    if options.heatmap:
        _write_heatmap(predictions[names[0]], study, options)
    if options.report:
        from ..report import write_report

        write_report(options.report, predictions=predictions, study=study, title="AnyMC3D report")


def check_plugins(specs: list[PluginSpec]) -> None:
    """Raise InputError unless the plugins can be used at a time."""
    if len({spec.name for spec in specs}) < len(specs):
        raise InputError("Two of the plugins have the same name: classify with one at a time.")
    if len({spec.backbone.digest for spec in specs}) > 1:
        raise InputError("The plugins need different backbones: classify with those of one backbone at a time.")


def _check_outputs(specs: list[PluginSpec], options: argparse.Namespace) -> None:
    if options.report:
        check_writable(Path(options.report) / "report.html")
    if options.heatmap:
        _check_heatmap(specs, options)


def _check_heatmap(specs: list[PluginSpec], options: argparse.Namespace) -> None:
    """Refuse before the work what would be refused after it."""
    if len(specs) > 1:
        raise InputError("A heatmap is of one plugin: give one --plugin, or use --report.")
    spec = specs[0]
    if options.heatmap_class not in (None, PAPERS_MAP, *spec.explained):
        raise InputError(
            f"There is no heatmap of a class '{options.heatmap_class}': choose {', '.join(spec.explained)}, or "
            f"'{PAPERS_MAP}' for where the network looked."
        )
    if options.heatmap_grid not in (None, *spec.sources):
        raise InputError(f"There is no image '{options.heatmap_grid}': choose {', '.join(spec.sources)}.")
    check_volume_name(options.heatmap)
    check_writable(options.heatmap)


def read_study(images: list[str], regions: list[str], specs: list[PluginSpec]) -> Study:
    """The study of '[NAME=]IMAGE' and '[NAME=]REGION' arguments for these plugins."""
    sources = list(dict.fromkeys(source for spec in specs for source in spec.sources))
    named = _named(images, sources, what="image")
    volumes = {name: read_volume(place) for name, place in named.items()}
    return Study(volumes, {name: read_region(text) for name, text in _named(regions, sources, what="region").items()})


def _named(arguments: list[str], sources: list[str], *, what: str) -> dict[str, str]:
    """By name where one is given, else in the order in which the plugin names its images."""
    result: dict[str, str] = {}
    free = list(sources)
    for argument in arguments:
        name, sign, rest = argument.partition("=")
        # A file may have '=' in its own name.
        if not sign or name not in sources or is_there(Path(argument)):
            name, rest = next((s for s in free if s not in result), ""), argument
        if not name or name in result:
            wanted = ", ".join(sources)
            raise InputError(f"There is one {what} too many: the plugin takes {wanted}, so '{argument}' has no place.")
        result[name] = rest
    return result


def _write_heatmap(prediction: Prediction, study: Study, options: argparse.Namespace) -> None:
    explained = prediction.spec.explained
    decided = [name for name in prediction.decided if name in explained]
    chosen = options.heatmap_class or (decided[0] if decided else explained[0])
    if chosen in explained and chosen not in decided:
        sys.stderr.write(f"anymc3d: note: '{chosen}' is below its threshold; its heat is written all the same.\n")
    grid = study.image(options.heatmap_grid or prediction.spec.sources[0])
    write_volume(options.heatmap, heatmap(prediction, grid, class_name=None if chosen == PAPERS_MAP else chosen))


def _show(predictions: dict[str, Prediction], *, as_json: bool) -> None:
    if as_json:
        show(json.dumps({name: p.to_dict() for name, p in predictions.items()}, indent=2))
        return
    for name, prediction in predictions.items():
        ordered = sorted(prediction.probabilities.items(), key=lambda item: -item[1])
        rows = [
            [
                label,
                f"{p:.3f}",
                f"{threshold_of(prediction, label):.2f}",
                "yes" if prediction.decisions[label] else "no",
            ]
            for label, p in ordered
        ]
        show_table(
            f"{name}, version {prediction.spec.version}", ["class", "probability", "threshold", "decision"], rows
        )
        for view, weights in prediction.slices.items():
            top = int(weights.weights.argmax())
            ras = ", ".join(f"{x:.1f}" for x in weights.centres[top])
            share = f"{weights.weights[top]:.2f}"
            show(f"{view}: slice {top + 1} of {len(weights.weights)} counted most ({share}), at R, A, S {ras} mm")
        for warning in prediction.warnings:
            show(f"Warning: {warning}")
        show(prediction.spec.intended_use)
