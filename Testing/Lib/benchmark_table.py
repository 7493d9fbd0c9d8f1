"""A table of results made by hand: methods, datasets, shares and seeds, with a failed, a cut and a missing row."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path

import numpy as np

from AnyMC3DLib.benchmark.config import RowConfig
from AnyMC3DLib.benchmark.questions import Question
from AnyMC3DLib.benchmark.rows import ResultsTable, Row, TestPredictions
from AnyMC3DLib.spec import BackboneRef, ClassSpec, PluginSpec, ViewSpec
from AnyMC3DLib.training.about import About, PublishedResult
from AnyMC3DLib.training.objective_spec import ObjectiveSpec
from AnyMC3DLib.training.scores import evaluate
from AnyMC3DLib.training.task import TaskSpec, TrainingSpec

TWO, THREE = "Nodules <b>& cysts", "Organs"
CLASSES = {TWO: ("benign", "malignant"), THREE: ("liver", "kidney", "spleen")}
CASES = {TWO: 160, THREE: 120}
SEEDS, SHARES = (0, 1, 2), (0.1, 0.3, 1.0)
# How well a method ranks with all patients, and how much of that it keeps with few.
SKILL = {"anymc3d": (2.0, 0.35), "frozen": (1.1, 0.9), "resnet18-3d": (0.5, 0.3)}
COSTS = {"anymc3d": (410_000, 12.5, 1900), "frozen": (2_600, 3.1, 1500), "resnet18-3d": (33_200_000, 41.0, 4200)}
FAILURE = "The loss is <nan> in '/home/someone/run/epoch 3': lower the rate."
CUT = "The budget of 30 minutes ended the training after 7 of 16 epochs."
QUESTIONS = (
    Question(
        id="method",
        title="Which method?",
        sentence="Trained on all patients, which method ranks best?",
        axis="method",
        where={"share": [1.0], "size": [28]},
    ),
    Question(
        id="share",
        title="How much data?",
        sentence="How does each method fare with fewer patients?",
        axis="share",
        series=("method",),
        where={"size": [28]},
    ),
    Question(
        id="size",
        title="Which input size?",
        sentence="Do larger pictures help?",
        axis="size",
        where={"method": ["anymc3d"], "share": [1.0]},
    ),
)


def configs() -> list[RowConfig]:
    """3 methods, 2 datasets, 3 shares and 3 seeds, and AnyMC3D with larger pictures on top of them."""
    rows = [
        config(method, dataset, share=share, seed=seed)
        for dataset, method, share, seed in itertools.product(CLASSES, SKILL, SHARES, SEEDS)
    ]
    return rows + [config("anymc3d", d, seed=s, size=128) for d, s in itertools.product(CLASSES, SEEDS)]


def config(method: str, dataset: str, *, share: float = 1.0, seed: int = 0, size: int = 28) -> RowConfig:
    own = method == "resnet18-3d"
    fields = {"backbone": "", "pretrained": False} if own else {"backbone": "efficientnet_lite0"}
    return RowConfig(
        dataset=dataset, method=method, task="ab" * 8, data=f"{size:016x}", share=share, seed=seed, size=size,
        budget_minutes=30.0, **fields,
    )  # fmt: skip


FAILED = config("resnet18-3d", TWO, share=1.0, seed=2)
BUDGETED = config("anymc3d", THREE, share=1.0, seed=1)
MISSING = config("frozen", THREE, share=0.3, seed=0)


def task(dataset: str) -> TaskSpec:
    """The task of a dataset, with published results on its official test split."""
    names = CLASSES[dataset]
    kind = "binary" if len(names) == 2 else "multiclass"
    plugin = PluginSpec(
        name=dataset,
        task_type=kind,
        classes=tuple(ClassSpec(name=name) for name in names),
        backbone=BackboneRef(id="efficientnet_lite0"),
        views=(ViewSpec(name="axial"),),
    )
    results = (
        PublishedResult(model="ResNet-18, 28 pixels <i>", value=0.871, source="Somebody et al. (2023), table 3"),
        PublishedResult(model="ResNet-18, 28 pixels", value=0.815, figure="accuracy", source="Somebody et al. (2023)"),
        PublishedResult(model="Elsewhere", value=0.999, split="fold 2", source="Others (2024)"),
    )
    about = About(source="Someone's scans", availability="public", counts={"test": CASES[dataset]}, results=results)
    return TaskSpec(plugin=plugin, training=TrainingSpec(objective=ObjectiveSpec()), about=about)


def tasks() -> dict[str, TaskSpec]:
    return {dataset: task(dataset) for dataset in CLASSES}


def predictions(row: RowConfig, *, cases: int | None = None) -> TestPredictions:
    """What the row's model says: the truth times its skill, with noise of the case and noise of its own."""
    names = CLASSES[row.dataset]
    count = cases or CASES[row.dataset]
    shared = np.random.default_rng(len(names))
    targets = shared.integers(0, len(names), count)
    of_case = shared.normal(size=(count, len(names)))
    own = np.random.default_rng(int(row.key, 16))
    best, kept = SKILL[row.method]
    skill = best * (kept + (1 - kept) * (1 + np.log10(row.share))) + (0.05 if row.size == 128 else 0)
    logits = skill * np.eye(len(names))[targets] + of_case + 0.5 * own.normal(size=of_case.shape)
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    ids = tuple(f"case {n}" for n in range(count))
    return TestPredictions(ids, tuple(f"patient {n}" for n in range(count)), targets, probabilities)


def done(row: RowConfig, said: TestPredictions) -> Row:
    """The row of these predictions."""
    spec = task(row.dataset).plugin
    found = evaluate(spec, said.targets, said.probabilities, patients=said.patients).to_dict()
    parameters, minutes, memory = COSTS[row.method]
    budgeted = row == BUDGETED
    return Row(
        key=row.key, config=row, status="done", cut=CUT if budgeted else "", test=found, validation=found,
        parameters=parameters, cases={"train": round(600 * row.share), "val": 60, "test": len(said.ids)},
        minutes=minutes * row.share + row.seed / 10, processor_minutes=2 * minutes * row.share, threads=2,
        peak_mb=memory + row.seed, epochs=7 if budgeted else 16, planned=16, date="2026-11-22",
        versions={"anymc3d": "0.1"},
    )  # fmt: skip


def failed(row: RowConfig) -> Row:
    return Row(key=row.key, config=row, status="failed", error=FAILURE)


def table(folder: Path) -> ResultsTable:
    """All rows but the missing one, one of them failed."""
    found = ResultsTable(folder)
    for row in configs():
        if row == FAILED:
            found.add(failed(row))
        elif row != MISSING:
            said = predictions(row)
            found.add(done(row, said), said)
    return found


def changed(row: RowConfig, **fields: object) -> RowConfig:
    return dataclasses.replace(row, **fields)
