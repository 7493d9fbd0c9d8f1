"""The folder of a run: its plugin, its predictions, figures and pictures, and what it was done with."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.torch import save

from ..files import write_bytes, write_text
from ..wording import without_paths
from .outcome import CONFIG, ENVIRONMENT, Predictions, environment_of, write_outcome
from .pixel_supervision import save_decoder
from .processes import Processes
from .run import Predicted, TrainingResult
from .scores import evaluate
from .task import TaskSpec

PLUGIN, MODEL, DECODER = "plugin.safetensors", "model.safetensors", "decoder.safetensors"
MONITORS = {"auc": "AUC", "average_precision": "average precision", "balanced_accuracy": "balanced accuracy"}


def write_run(
    folder: Path,
    task: TaskSpec,
    result: TrainingResult,
    *,
    device: str,
    config: Mapping[str, Any],
    processes: Processes | None = None,
    seen: str = "validation",
) -> Path | None:
    """Write what came of a run and return the page's path; None where no case was held out.

    `config` is what was asked for besides the task; `seen` is what the held-out cases of the training are called. The
    plugin itself lies where the run was told to write it; a whole backbone that was trained is written here.
    """
    if task.training.method == "full":
        write_bytes(folder / MODEL, save(dict(result.state)))
    if result.decoder is not None:
        save_decoder(folder / DECODER, result.decoder)
    parts = {seen: result.validation, "test": result.test}
    there = {name: part for name, part in parts.items() if part is not None}
    config = {"task": task.to_dict(), "plugin": result.spec.to_dict(), **config}
    count = (processes or Processes()).count
    environment = environment_of(device=device, seed=task.training.seed, processes=count)
    if not there:
        for name, content in ((CONFIG, config), (ENVIRONMENT, environment)):
            write_text(folder / name, json.dumps(without_paths(content), indent=2))
        return None
    results = {
        name: evaluate(result.spec, part.targets, part.probabilities, patients=part.patients, seed=task.training.seed)
        for name, part in there.items()
    }
    return write_outcome(
        folder,
        spec=result.spec,
        predictions=_joined(there),
        results=results,
        config=config,
        environment=environment,
        history=result.history,
        score_name=f"validation {MONITORS[task.training.monitor]}",
        remarks=_remarks(result),
    )


def _joined(parts: Mapping[str, Predicted]) -> Predictions:
    return Predictions(
        tuple(name for part in parts.values() for name in part.ids),
        tuple(split for split, part in parts.items() for _ in part.ids),
        tuple(name for part in parts.values() for name in part.patients),
        np.concatenate([part.targets for part in parts.values()]),
        np.concatenate([part.probabilities for part in parts.values()]),
    )


def _remarks(result: TrainingResult) -> Sequence[str]:
    count = len(result.excluded)
    cases = "One case" if count == 1 else f"{count} cases"
    return [f"{cases} could not be read and were left out: {', '.join(result.excluded)}."] if count else []
