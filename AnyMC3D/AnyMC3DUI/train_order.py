"""From the form and the table of cases to what the worker is asked, and to the course that this will take."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from slicer.i18n import tr as _

from AnyMC3DLib.messages import Estimate, Train
from AnyMC3DLib.training.presets import task_of
from AnyMC3DLib.training.task import TaskSpec

from .train_form import WITH_EPOCHS, TrainForm
from .train_runs import RUNS
from .train_words import Course

if TYPE_CHECKING:
    from AnyMC3DLib.training.dataset import Dataset

SPLIT, TEST = "split", "test"


def estimate_of(form: TrainForm, dataset: Dataset, device: str) -> Estimate:
    """The request for an estimate; raises AnyMC3DError for choices that make no task."""
    return Estimate(**_common(form, dataset, device))


def order_of(form: TrainForm, dataset: Dataset, device: str) -> Train:
    """The training, of which the run is still to be told; raises AnyMC3DError for choices that make no task.

    Cases of the split for tests are looked at once, at the end; folds leave none aside.
    """
    tests = form.folds is None and any(dataset.cell(key, SPLIT) == TEST for key in dataset.keys)
    return Train(**_common(form, dataset, device), run=RUNS, minutes=form.minutes, test_splits=(TEST,) if tests else ())


def _common(form: TrainForm, dataset: Dataset, device: str) -> dict[str, Any]:
    choices = form.choices(dataset)
    return {
        "task": task_of(choices).to_dict(),
        "data": str(dataset.path),
        "method": choices.method,
        "folds": form.folds,
        "device": device,
    }


def course_of(order: Train, *, clock: Callable[[], float]) -> Course:
    """The course of a training; raises InputError for an order without a whole task."""
    recipe = TaskSpec.from_dict(order.task, where="task").training
    epochs = recipe.epochs if order.epochs is None else order.epochs
    return Course(
        warm_up=recipe.warm_up_epochs,
        training=epochs if (order.method or recipe.method) in WITH_EPOCHS else 0,
        folds=order.folds or 1,
        budget=None if order.minutes is None else 60 * order.minutes,
        clock=clock,
    )


def title_of(order: Train) -> str:
    """The name of the plugin to be."""
    plugin = order.task.get("plugin", {}) if isinstance(order.task, Mapping) else {}
    return str(plugin.get("name", ""))


def has_masks(dataset: Dataset) -> bool:
    """Whether any case has a mask."""
    return any(dataset.mask_path(key, source) for key in dataset.keys for source in dataset.sources)


def table_words(dataset: Dataset | None, problem: str | None) -> str:
    """Which table it is, how many cases it has, and why training cannot start yet."""
    if dataset is None:
        return _("There is no table of cases: make or open one on the tab 'Dataset'.")
    name = dataset.path.name if dataset.path is not None else _("The table is not saved yet")
    splits = Counter(dataset.cell(key, SPLIT) for key in dataset.keys)
    counts = ", ".join(f"{split} {count}" for split, count in sorted(splits.items(), key=_order) if split)
    cases = _("{count} cases").format(count=len(dataset.keys)) if len(dataset.keys) != 1 else _("1 case")
    words = f"{name}: {cases}" + (f" ({counts})" if counts else "") + "."
    return f"{words} {problem}" if problem else words


def _order(item: tuple[str, int]) -> tuple[int, str]:
    known = ("train", "val", "test")
    return (known.index(item[0]) if item[0] in known else len(known), item[0])
