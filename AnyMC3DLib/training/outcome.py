"""What a training leaves behind in its run folder: predictions, figures, pictures, and what it was done with.

No file says where on the machine anything lay, nor whose machine it was.
"""

from __future__ import annotations

import csv
import dataclasses
import importlib.metadata
import json
import platform
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .. import __version__
from ..errors import InputError
from ..files import write_bytes, write_text
from ..spec import PluginSpec
from ..wording import csv_text, spreadsheet_text, without_paths, yes_or_no
from .decisions import checked_probabilities, decisions, one_against_the_rest
from .figures import Epoch, draw_figures, learning_curves
from .metrics import Scores
from .page import page_of
from .scores import Results

PREDICTIONS, FIGURES, CONFIG, ENVIRONMENT = "predictions.csv", "metrics.json", "config.json", "environment.json"
REPORT, PLOTS = "report.html", "plots"
LIBRARIES = ("torch", "timm", "monai", "numpy", "scikit-learn", "SimpleITK", "safetensors", "accelerate")
LEARNING = f"{PLOTS}/learning.png"


@dataclasses.dataclass(frozen=True)
class Predictions:
    """What a model says of N cases; a split is any word, such as "test" or "fold 2".

    `targets` are class numbers [N], or for a multilabel task [N, classes] of 0, 1, and -1 where a label is missing;
    `probabilities` [N, classes]. A patient "" is the case itself.
    """

    ids: tuple[str, ...]
    splits: tuple[str, ...]
    patients: tuple[str, ...]
    targets: npt.NDArray[np.int64]
    probabilities: Scores

    def of_split(self, split: str) -> Predictions:
        """Those of one split; raises InputError if it has none."""
        chosen = [n for n, name in enumerate(self.splits) if name == split]
        if not chosen:
            raise InputError(f"There is no prediction of the split '{split}': there is {', '.join(set(self.splits))}.")
        texts = ([column[n] for n in chosen] for column in (self.ids, self.splits, self.patients))
        return Predictions(*map(tuple, texts), self.targets[chosen], self.probabilities[chosen])


def write_outcome(
    folder: str | Path,
    *,
    spec: PluginSpec,
    predictions: Predictions,
    results: Mapping[str, Results],
    config: Mapping[str, Any],
    environment: Mapping[str, Any],
    history: Sequence[Epoch] = (),
    score_name: str = "validation AUC",
    remarks: Sequence[str] = (),
) -> Path:
    """Write the files of a run into `folder`, the page last, and return the page's path.

    `predictions.csv`, `metrics.json` (the results by split), `config.json`, `environment.json`, pictures of each
    split in `results` and of the epochs in `plots`, and `report.html`, which says it in words. Decisions are at the
    thresholds of `spec`; `remarks` are sentences for the page, such as the warnings of a calibration. Each file is
    replaced whole, and all are made before any is written. Raises InputError where predictions and task do not fit
    each other, a split has results but no prediction, a value is none of JSON's, or the folder cannot be written to.
    """
    place = Path(folder)
    splits = {split: _pictures(spec, predictions.of_split(split), found, split) for split, found in results.items()}
    pictures = {path: content for files in splits.values() for path, content in files.items()}
    if len(pictures) < sum(map(len, splits.values())):
        raise InputError(f"The splits {', '.join(splits)} have names too alike for files: rename one.")
    if history:
        pictures[LEARNING] = learning_curves(history, title=spec.name, score_name=score_name)
    texts = {
        PREDICTIONS: _csv(spec, predictions),
        FIGURES: _json({split: found.to_dict() for split, found in results.items()}, FIGURES),
        CONFIG: _json(without_paths(config), CONFIG),
        ENVIRONMENT: _json(without_paths(environment), ENVIRONMENT),
        REPORT: page_of(spec, results, pictures=splits, remarks=remarks, learning=LEARNING if history else ""),
    }
    for name, content in pictures.items():
        write_bytes(place / name, content)
    for name, text in texts.items():
        write_text(place / name, text)
    return place / REPORT


def environment_of(*, device: str, seed: int, processes: int = 1) -> dict[str, Any]:
    """What a run was done with, as JSON values: versions, kind of machine, device in words, seed; no names."""
    versions = {"anymc3d": __version__, "python": platform.python_version()}
    for name in LIBRARIES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = "absent"
    machine = {"system": platform.system(), "machine": platform.machine()}
    return {"versions": versions, "platform": machine, "device": device, "processes": processes, "seed": seed}


def read_predictions(path: str | Path, spec: PluginSpec) -> Predictions:
    """Predictions from the `predictions.csv` of a run; raises InputError if it is none, or one of another task."""
    place = Path(path)
    try:
        with place.open(newline="", encoding="utf-8-sig") as stream:
            header, *rows = list(csv.reader(stream)) or [[]]
    except (OSError, ValueError, csv.Error) as error:
        raise InputError(f"'{place.name}' cannot be read as a table: give the {PREDICTIONS} of a run.") from error
    if header != _header(spec) or not rows or any(len(row) != len(header) for row in rows):
        raise InputError(f"'{place.name}' holds no predictions for the classes of '{spec.name}': give that of its run.")
    count = len(spec.classes)
    labels = header.index(f"probability: {spec.classes[0].name}")
    try:
        targets = np.array([_target(spec, row[3:labels]) for row in rows], dtype=np.int64)
        probabilities = np.array([[float(cell) for cell in row[labels : labels + count]] for row in rows])
    except ValueError as error:
        raise InputError(f"'{place.name}' has a cell that is no answer: {error}; write it again.") from error
    names = ((_bare(row[column]) for row in rows) for column in range(3))
    one_against_the_rest(spec, targets)
    return Predictions(*map(tuple, names), targets, checked_probabilities(spec, probabilities, cases=len(rows)))


def _header(spec: PluginSpec) -> list[str]:
    names = [c.name for c in spec.classes]
    targets = [f"target: {name}" for name in names] if spec.task_type == "multilabel" else ["target"]
    answers = [f"{kind}: {name}" for kind in ("probability", "decision") for name in names]
    return ["case", "split", "patient", *targets, *answers]


def _csv(spec: PluginSpec, predictions: Predictions) -> str:
    targets, count = predictions.targets, len(predictions.ids)
    one_against_the_rest(spec, targets)
    probabilities = checked_probabilities(spec, predictions.probabilities, cases=count)
    if not len(targets) == len(predictions.splits) == len(predictions.patients) == count:
        raise InputError(f"The predictions of {count} cases lack a target, a split or a patient: give one for each.")
    decided = decisions(spec, probabilities, [c.threshold for c in spec.classes])
    rows: list[list[str]] = [_header(spec)]
    names = zip(predictions.ids, predictions.splits, predictions.patients, strict=True)
    for texts, target, row, answers in zip(names, targets, probabilities, decided, strict=True):
        # As many digits as it takes to read the same number back: ranks depend on the last one.
        figures = [repr(float(p)) for p in row]
        safe = [spreadsheet_text(text) for text in texts]
        rows.append([*safe, *_shown(spec, target), *figures, *(yes_or_no(bool(a)) for a in answers)])
    return csv_text(rows)


def _shown(spec: PluginSpec, target: Any) -> Iterator[str]:
    if spec.task_type == "multilabel":
        yield from ("" if label < 0 else str(label) for label in target)
    else:
        yield spreadsheet_text(spec.classes[int(target)].name)


def _target(spec: PluginSpec, cells: Sequence[str]) -> int | list[int]:
    if spec.task_type == "multilabel":
        return [-1 if cell == "" else int(cell) for cell in cells]
    return [c.name for c in spec.classes].index(_bare(cells[0]))


def _bare(text: str) -> str:
    """What `spreadsheet_text` made the text of."""
    return text[1:] if text.startswith("'") and spreadsheet_text(text[1:]) == text else text


def _json(content: Any, name: str) -> str:
    try:
        return json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    except (TypeError, ValueError) as error:
        raise InputError(f"'{name}' cannot be written: {error}; give numbers, texts, lists and objects.") from error


def _pictures(spec: PluginSpec, part: Predictions, found: Results, split: str) -> dict[str, bytes]:
    """The pictures of a split by their paths below the run folder."""
    title = f"{spec.name}, {split}, {found.cases} cases of {found.patients} patients"
    name = "".join(letter if letter.isalnum() or letter in "-_" else "-" for letter in split)
    drawn = draw_figures(spec, part.targets, part.probabilities, found, title=title)
    return {f"{PLOTS}/{name}-{kind}.png": content for kind, content in drawn.items()}
