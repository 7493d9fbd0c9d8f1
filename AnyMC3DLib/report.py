"""What a prediction leaves behind on disk: one HTML page for a person, a table and a JSON file for a program.

The page holds its pictures and styles itself and asks for nothing from anywhere. Neither file says where on the
machine anything lay, and the names of image files, which may hold a patient's, are left out.
"""

from __future__ import annotations

import base64
import csv
import dataclasses
import datetime
import io
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jinja2
import numpy as np

from . import __version__
from .errors import InputError
from .files import write_text
from .heatmap import FULL_HEAT
from .operating_points import POINTS
from .picture import NOTICE, draw_picture, heat_is_shown, shown_class
from .planes import is_bare_picture, position_words
from .prediction import HotSpot, Prediction, SliceWeights, Study, threshold_of
from .resources import resource
from .wording import spreadsheet_text, without_paths, yes_or_no

PAGE, TABLE, DATA = "report.html", "predictions.csv", "predictions.json"
MOST_PICTURES = 4  # of one plugin: its decided classes, most probable first
MOST_SLICES = 3  # named in the summary of a view's weights
COLUMNS = ("plugin", "version", "class", "probability", "threshold", "decision")
CARD_FACTS = ("data", "date", "counts", "parameters", "validation", "test")
TASKS = {
    "binary": "one of two classes",
    "multiclass": "one of several classes",
    "multilabel": "any number of classes",
}


@dataclasses.dataclass(frozen=True)
class TableRow:
    """One class of an answer; `threshold` is the probability from which `decision` is for the class.

    In a multiclass task the most probable class is decided for, and its threshold says whether that is certain.
    """

    class_name: str
    probability: float
    threshold: float
    decision: bool


def prediction_table(prediction: Prediction) -> list[TableRow]:
    """A row a class, in the order of the plugin."""
    return [
        TableRow(name, probability, threshold_of(prediction, name), prediction.decisions[name])
        for name, probability in prediction.probabilities.items()
    ]


def write_report(folder: str | Path, *, predictions: Mapping[str, Prediction], study: Study, title: str) -> Path:
    """Write `report.html`, `predictions.csv` and `predictions.json` into `folder`; returns the page's path.

    Each file is replaced whole, the page last. `title` is shown as it is given: it should not name the patient.
    Raises InputError if there is no prediction, the study lacks an image, or the folder cannot be written to.
    """
    if not predictions:
        raise InputError("There is no prediction to report: classify the study first.")
    place, title = Path(folder), without_paths(title)
    # All is made before any is written: a report that fails leaves the folder as it was.
    page, table, data = _page(predictions, study, title), _csv(predictions), _json(predictions, title)
    for name, content in ((TABLE, table), (DATA, data), (PAGE, page)):
        write_text(place / name, content)
    return place / PAGE


def _csv(predictions: Mapping[str, Prediction]) -> str:
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(COLUMNS)
    for prediction in predictions.values():
        spec = prediction.spec
        for row in prediction_table(prediction):
            names = (spreadsheet_text(name) for name in (spec.name, spec.version, row.class_name))
            writer.writerow([*names, row.probability, row.threshold, yes_or_no(row.decision)])
    return stream.getvalue()


def _json(predictions: Mapping[str, Prediction], title: str) -> str:
    plugins = {name: without_paths(prediction.to_dict()) for name, prediction in predictions.items()}
    content = {"title": title, "notice": NOTICE, "anymc3d": __version__, "predictions": plugins}
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


def _page(predictions: Mapping[str, Prediction], study: Study, title: str) -> str:
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    template = environment.from_string(resource("Report.html").read_text(encoding="utf-8"))
    sources = dict.fromkeys(source for p in predictions.values() for source in p.spec.sources)
    return template.render(
        title=title,
        notice=NOTICE,
        version=__version__,
        date=datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        images=[_image_row(study, source) for source in sources],
        no_position=[source for source in sources if is_bare_picture(study.image(source))],
        plugins=[_section(prediction, study) for prediction in predictions.values()],
    )


def _image_row(study: Study, source: str) -> dict[str, str]:
    volume = study.image(source)
    size = " x ".join(str(n) for n in reversed(volume.grid))
    spacing = " x ".join(f"{mm:.3g}" for mm in volume.spacing)
    return {"name": source, "size": f"{size}{', colour' if volume.is_colour else ''}", "spacing": spacing}


def _section(prediction: Prediction, study: Study) -> dict[str, Any]:
    """What the page shows of one plugin."""
    spec = prediction.spec
    shown = _shown_classes(prediction)
    return {
        "spec": spec,
        "task": TASKS[spec.task_type],
        "decided": [(name, prediction.probabilities[name]) for name in prediction.decided],
        "rows": prediction_table(prediction),
        "warnings": [without_paths(warning) for warning in prediction.warnings],
        "pictures": [
            {"name": name, "heat": bool(_spots_shown(prediction, name)), "data": _picture(prediction, study, name)}
            for name in shown
        ],
        "spots": _spot_rows(prediction),
        "views": [_view_row(prediction, name) for name in prediction.slices],
        "training": list(_flat(without_paths(_facts(spec.provenance, on_card=True)))),
        "provenance": list(
            _flat(without_paths({**prediction.provenance, "training": _facts(spec.provenance, on_card=False)}))
        ),
    }


def _facts(provenance: Mapping[str, Any], *, on_card: bool) -> dict[str, Any]:
    """What a reader asks first of a plugin's training, or the rest of it: recipe, epochs, versions."""
    return {name: _without_curve(fact) for name, fact in provenance.items() if (name in CARD_FACTS) == on_card}


def _without_curve(fact: Any) -> Any:
    """The figures but for the operating points, which would be a hundred rows a class."""
    return {name: item for name, item in fact.items() if name != POINTS} if isinstance(fact, Mapping) else fact


def _shown_classes(prediction: Prediction) -> list[str]:
    """The classes decided for that have a heat to show, or else the one that comes nearest."""
    found = [n for n in prediction.spec.explained if prediction.decisions[n] and heat_is_shown(prediction, n)]
    found.sort(key=lambda name: -prediction.probabilities[name])
    return found[:MOST_PICTURES] or [shown_class(prediction)]


def _picture(prediction: Prediction, study: Study, class_name: str) -> str:
    picture = draw_picture(prediction, study, class_name=class_name, with_probabilities=False)
    return base64.b64encode(picture).decode("ascii")


def _spots_shown(prediction: Prediction, class_name: str) -> list[HotSpot]:
    """The hot spots of a class whose heat is shown; those of another would point at nothing."""
    return prediction.hot_spots.get(class_name, []) if heat_is_shown(prediction, class_name) else []


def _spot_rows(prediction: Prediction) -> list[dict[str, Any]]:
    return [
        {"name": name, "ras": spot.ras, "heat": spot.heat, "share": FULL_HEAT**spot.heat, "full": spot.heat >= 1}
        for name in prediction.spec.explained
        for spot in _spots_shown(prediction, name)
    ]


def _view_row(prediction: Prediction, name: str) -> dict[str, Any]:
    slices = prediction.slices[name]
    order = np.argsort(-slices.weights, kind="stable")
    half = int(np.searchsorted(np.cumsum(slices.weights[order]), 0.5 - 1e-6)) + 1
    heaviest = [f"{_slice_position(slices, n)} ({slices.weights[n]:.3f})" for n in order[:MOST_SLICES]]
    view = {"name": name, "axis": slices.axis, "weight": prediction.view_weights[name], "count": len(order)}
    return {**view, "half": half, "heaviest": "; ".join(heaviest)}


def _slice_position(slices: SliceWeights, number: int) -> str:
    words = position_words(slices.centres[number])
    return f"{words[('sagittal', 'coronal', 'axial').index(slices.axis)]} mm"


def _flat(value: Any, label: str = "") -> Iterator[tuple[str, str]]:
    """Nested JSON values as rows of a label and a text; empty values are left out."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _flat(item, f"{label}: {key}" if label else str(key))
    elif isinstance(value, (list, tuple)) and any(isinstance(item, (Mapping, list, tuple)) for item in value):
        for number, item in enumerate(value, start=1):
            yield from _flat(item, f"{label} {number}")
    elif isinstance(value, (list, tuple)):
        yield from [(label, ", ".join(_shown(item) for item in value))] if value else []
    elif value is not None and value != "":
        yield label, _shown(value)


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return yes_or_no(value)
    return f"{value:.6g}" if isinstance(value, float) else str(value)
