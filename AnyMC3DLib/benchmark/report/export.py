"""The tables of a benchmark for a program: one line a row, and one line a paired difference."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import math
from collections.abc import Iterable, Sequence
from typing import Any

from ...wording import spreadsheet_text, without_paths
from ..config import RowConfig
from .gaps import Gap
from .groups import Entry
from .labels import FIGURES

RESULTS, DIFFERENCES = "results.csv", "differences.csv"
CONFIGURATION = tuple(field.name for field in dataclasses.fields(RowConfig) if field.name != "extra")
INTERVAL = ("", "_low", "_high")
SPENT = ("parameters", "minutes", "processor_minutes", "threads", "peak_mb")
COSTS = (*SPENT, "epochs", "planned", "reused", "cut", "device", "date")
SPLITS = ("train", "val", "test")
# The two sides of a difference are told by where they differ and by their whole configuration.
SIDES = ("first", "second")


def results_csv(entries: Iterable[Entry]) -> str:
    """One line a row that was asked for, also where it failed or is missing; what is unknown is empty."""
    figures = [f"{name}{end}" for name in FIGURES for end in INTERVAL]
    columns = ["key", "status", *CONFIGURATION, *figures, "validation_auroc", *(f"cases_{s}" for s in SPLITS)]
    # The recipe's epochs are asked for, and those of a row were done.
    costs = [f"{name}_done" if name in CONFIGURATION else name for name in COSTS]
    return _csv([*columns, *costs, "error"], (_result(entry) for entry in entries))


def differences_csv(asked: Sequence[tuple[str, str, Gap, str, str, float | None]]) -> str:
    """One line a difference: question, dataset and conditions, the gap with its two names, p after Holm.

    Intervals are of one comparison; those "at_once" hold together for so many comparisons at that place.
    """
    figures = [f"{name}{end}" for name in FIGURES for end in INTERVAL]
    configurations = [f"{side}_{name}" for side in SIDES for name in CONFIGURATION if name != "seed"]
    at_once = ["comparisons", "auroc_low_at_once", "auroc_high_at_once"]
    columns = ["question", "place", *SIDES, "seeds", *figures, *at_once, "delong_p", "holm_p", "cut", "reason", "rows"]
    return _csv([*columns, *configurations], (_difference(*line) for line in asked))


def _result(entry: Entry) -> list[Any]:
    row = entry.row if entry.status == "done" else None
    config = [getattr(entry.config, name) for name in CONFIGURATION]
    figures = [value for name in FIGURES for value in (row.figure(name) if row else (math.nan,) * 3)]
    validation = row.figure("auroc", part="validation")[0] if row else math.nan
    cases = [entry.row.cases.get(split) if entry.row else None for split in SPLITS]
    costs = [getattr(entry.row, name) if entry.row else None for name in COSTS]
    return [entry.config.key, entry.status, *config, *figures, validation, *cases, *costs, entry.problem]


def _difference(question: str, place: str, gap: Gap, first: str, second: str, adjusted: float | None) -> list[Any]:
    figures = [value for name in FIGURES for value in dataclasses.astuple(gap.among(1)[name])]
    figures += [gap.comparisons, gap["auroc"].low, gap["auroc"].high]
    facts = [gap.p, adjusted, "yes" if gap.is_cut else "no", without_paths(gap.why), " ".join(gap.keys)]
    configurations = [
        getattr(group.config, name) for group in (gap.first, gap.second) for name in CONFIGURATION if name != "seed"
    ]
    return [question, place, first, second, " ".join(map(str, gap.seeds)), *figures, *facts, *configurations]


def _csv(columns: Sequence[str], lines: Iterable[Sequence[Any]]) -> str:
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([_cell(value) for value in line] for line in lines)
    return stream.getvalue()


def _cell(value: Any) -> Any:
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (dict, list, tuple)):
        return json.dumps(without_paths(value), sort_keys=True)
    return spreadsheet_text(str(without_paths(value))) if isinstance(value, str) else value
