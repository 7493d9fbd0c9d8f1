"""The report of a benchmark: one page that holds all it shows, tables for a program, and the pictures.

The page says first what won and where that cannot be said, names every row that failed or is missing, and asks for
nothing from anywhere.
"""

from __future__ import annotations

import base64
import datetime
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2

from ... import __version__
from ...files import write_bytes, write_text
from ...resources import resource
from ...training import metrics
from ...training.task import TaskSpec
from ...wording import without_paths
from ..config import RowConfig
from ..names import NAMES
from ..questions import Question
from ..rows import ResultsTable
from .arenas import Arena, Asked, ask
from .export import DIFFERENCES, RESULTS, differences_csv, results_csv
from .gaps import Gap, Measured
from .groups import Entry, Group, gather, grouped, machine_words
from .guide import advise
from .labels import FIELDS, KEY_DIGITS, listed, plural, value_words
from .plots import Chart, draw
from .published import beside, name_among
from .recipes import COLUMNS as RECIPE_COLUMNS
from .recipes import chooses_by_validation, recipe_tables
from .tables import COLUMNS, adjusted, arena_tables, rank_tables
from .verdict import judge, tally

PAGE, PICTURES, TEMPLATE = "report.html", "pictures", "benchmark.html"
MOST_VERDICTS = 4  # of one question above all sections; past that how often each won
TOLD = ("method", "backbone", "pretrained", "size", "share", "fusion", "rank", "targets", "views", "pixels", "epochs")


def write_report(
    table: ResultsTable,
    rows_of_suite: Sequence[RowConfig],
    questions: Sequence[Question],
    *,
    title: str,
    folder: str | Path,
    tasks: Mapping[str, TaskSpec],
    remarks: Sequence[str] = (),
) -> Path:
    """Write `report.html`, `results.csv`, `differences.csv` and `pictures/*.png` into `folder`; returns the page.

    `tasks` gives the task of each dataset, without which its figures have no intervals, no paired differences and no
    recipes. `remarks` are sentences for the page, such as which dataset has no data. All is made before any is
    written, each file is replaced whole, the page last. Raises InputError if the folder cannot be written to.
    """
    place = Path(folder)
    entries = gather(table, rows_of_suite)
    groups = grouped(entries)
    measured = Measured(table, tasks)
    asked = [ask(question, groups) for question in questions]
    charts = {each.question.id: draw(each, measured) for each in asked}
    differences = [line for each in asked for line in _differences(each, measured)]
    page = _page(entries, groups, asked, measured, charts, title=title, tasks=tasks, remarks=remarks)
    pictures = {f"{PICTURES}/{chart.name}.png": chart.png for drawn in charts.values() for chart in drawn}
    texts = {RESULTS: results_csv(entries), DIFFERENCES: differences_csv(differences), PAGE: page}
    for name, content in pictures.items():
        write_bytes(place / name, content)
    for name, text in texts.items():
        write_text(place / name, text)
    return place / PAGE


def _differences(asked: Asked, measured: Measured) -> list[tuple[str, str, Gap, str, str, float | None]]:
    found = []
    after_holm = adjusted(asked, measured)
    for arena in asked.arenas:
        for gap in arena.gaps(measured):
            names = arena.name_of(gap.first), arena.name_of(gap.second)
            found.append((asked.question.id, arena.place, gap, *names, after_holm.get((arena.place, names[0]))))
    return found


def _page(
    entries: Sequence[Entry],
    groups: Sequence[Group],
    asked: Sequence[Asked],
    measured: Measured,
    charts: Mapping[str, Sequence[Chart]],
    *,
    title: str,
    tasks: Mapping[str, TaskSpec],
    remarks: Sequence[str],
) -> str:
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    template = environment.from_string(resource(TEMPLATE).read_text(encoding="utf-8"))
    configs = [entry.config for entry in entries]
    return template.render(
        title=without_paths(title),
        version=__version__,
        date=datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        remarks=[without_paths(remark) for remark in remarks],
        state=_state(entries),
        problems=[_named(e, configs) | {"status": e.status, "text": e.problem} for e in entries if e.status != "done"],
        cuts=[_named(e, configs) | {"text": without_paths(e.row.cut)} for e in entries if e.row and e.row.cut],
        sections=[_section(each, measured, charts[each.question.id]) for each in asked if each.groups],
        unanswered=[each.question.title for each in asked if not each.groups],
        facts=_facts(entries, tasks),
        published=beside(groups, tasks),
        rows=[_named(entry, configs) | {"status": entry.status} for entry in entries],
        columns=COLUMNS,
        recipes=recipe_tables(configs, tasks),
        recipe_columns=RECIPE_COLUMNS,
        chosen=_chosen(chooses_by_validation(configs, tasks)),
        unit=_resampled_by(groups, measured),
        resamples=metrics.RESAMPLES,
        results=RESULTS,
        differences=DIFFERENCES,
        pictures=PICTURES,
    )


def _state(entries: Sequence[Entry]) -> str:
    """How many rows there are, in a sentence."""
    if not entries:
        return "No row was asked for, so there is nothing to report."
    counts = {s: sum(e.status == s for e in entries) for s in ("done", "failed", "damaged", "missing")}
    words = [f"{count} {status}" for status, count in counts.items() if count and status != "done"]
    cut = sum(bool(entry.row and entry.row.cut) for entry in entries)
    rest = f", {listed(words)}" if words else ""
    start = f"Of {plural(len(entries), 'row')} {counts['done']} {'is' if counts['done'] == 1 else 'are'} done{rest}."
    if not counts["done"]:
        start = f"None of {plural(len(entries), 'row')} has figures yet: {listed(words)}."
    return start + (f" The budget cut {plural(cut, 'training')} short." if cut else "")


def _named(entry: Entry, configs: Sequence[RowConfig]) -> dict[str, str]:
    config = entry.config
    alike = [other for other in configs if other.dataset == config.dataset]
    return {
        "key": config.key[:KEY_DIGITS],
        "dataset": config.dataset,
        "name": name_among(alike, config),
        "seed": str(config.seed),
    }


def _section(asked: Asked, measured: Measured, charts: Sequence[Chart]) -> dict[str, Any]:
    """What the page shows of one question."""
    verdicts = [judge(arena, measured) for arena in asked.arenas]
    return {
        "question": asked.question,
        "verdicts": verdicts,
        "first": verdicts if len(verdicts) <= MOST_VERDICTS else [],
        "tally": tally(verdicts),
        "against": _against(asked.arenas),
        "charts": [
            {"words": c.words, "name": f"{c.name}.png", "data": base64.b64encode(c.svg).decode()} for c in charts
        ],
        "tables": arena_tables(asked, measured),
        "ranks": rank_tables(asked),
        "advice": advise(asked, measured),
    }


def _resampled_by(groups: Sequence[Group], measured: Measured) -> str:
    """What intervals are over: test patients, or test cases where each is a patient of its own."""
    by = {group.config.dataset: measured.resampled_by(group) for group in groups if measured.resampled_by(group)}
    if set(by.values()) <= {"cases"}:
        return "test cases"
    alone = [name for name, unit in by.items() if unit == "cases"]
    return f"test patients (test cases on {listed(alone)})" if alone else "test patients"


def _chosen(by_validation: set[bool]) -> str:
    """In a sentence what the validation cases decide."""
    if by_validation == {False}:
        return "Each training keeps its last weights: the validation cases choose nothing."
    if by_validation == {True}:
        return "Of each training the same validation cases choose the weights that are kept."
    return "Where a recipe keeps the best weights, the same validation cases choose these; else the last are kept."


def _against(arenas: Sequence[Arena]) -> str:
    names = dict.fromkeys(arena.name_of(arena.reference) for arena in arenas if arena.reference is not None)
    return " or ".join(names)


def _facts(entries: Sequence[Entry], tasks: Mapping[str, TaskSpec]) -> list[tuple[str, str]]:
    """What was asked and how, as labels and texts."""
    if not entries:
        return []
    configs, rows = [e.config for e in entries], [e.row for e in entries if e.row and e.status == "done"]
    facts = [(f"Dataset {name}", _dataset(name, entries, tasks)) for name in _distinct(c.dataset for c in configs)]
    for field in TOLD:
        values = _distinct(getattr(c, field) for c in configs)
        if field == "method" or values != [None]:
            facts.append((FIELDS[field], "; ".join(_told(field, value) for value in values)))
    facts.append(("Seeds", ", ".join(map(str, sorted({c.seed for c in configs})))))
    budgets = _distinct(c.budget_minutes for c in configs)
    facts.append((FIELDS["budget_minutes"], "; ".join(value_words("budget_minutes", value) for value in budgets)))
    if rows:
        planned = sorted({row.planned for row in rows})
        facts.append(("Epochs planned", ", ".join(map(str, planned))))
        machines = _distinct(machine_words(row) for row in rows)
        facts.append(("Computed on", "; ".join(machines)))
        dates = sorted({row.date for row in rows if row.date})
        facts.append(("Dates", dates[0] if len(dates) == 1 else f"{dates[0]} to {dates[-1]}" if dates else "unknown"))
        versions = _distinct(", ".join(f"{k} {v}" for k, v in row.versions.items()) for row in rows)
        facts.append(("Versions", " or ".join(filter(None, versions)) or "unknown"))
    return facts


def _told(field: str, value: Any) -> str:
    words = value_words(field, value)
    return f"{words} ({value}; {NAMES[value].source})" if field == "method" and value in NAMES else words


def _dataset(name: str, entries: Sequence[Entry], tasks: Mapping[str, TaskSpec]) -> str:
    rows = [e.row for e in entries if e.row is not None and e.config.dataset == name and e.row.cases]
    parts = []
    if rows:
        counts: dict[str, set[int]] = {}
        for row in rows:
            for split, count in row.cases.items():
                counts.setdefault(split, set()).add(count)
        spans = {s: str(max(c)) if len(c) == 1 else f"{min(c)} to {max(c)}" for s, c in counts.items()}
        parts.append("cases " + ", ".join(f"{split} {count}" for split, count in spans.items()))
    if name in tasks:
        task = tasks[name]
        parts.append(f"{task.plugin.task_type}, classes {', '.join(c.name for c in task.plugin.classes)}")
        if task.about is not None:
            parts.append(f"source: {task.about.source}")
    return "; ".join(parts) or "no case counted yet"


def _distinct(values: Iterable[Any], *, key: Callable[[Any], Any] = repr) -> list[Any]:
    """Each value once, in the order they come."""
    return list({key(value): value for value in values}.values())
