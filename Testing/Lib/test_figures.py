"""Pictures that show what they should: curves where they belong, nothing cut off, any number of classes."""

from __future__ import annotations

import dataclasses
import io

import matplotlib.image
import numpy as np
import pytest
from sklearn.metrics import roc_curve
from test_scores import TASKS, alone, answers, spec_of

from AnyMC3DLib.sheet import WIDTH, Sheet
from AnyMC3DLib.spec import ClassSpec, PluginSpec
from AnyMC3DLib.training import confusion, figures, metrics
from AnyMC3DLib.training.figures import draw_figures, learning_curves
from AnyMC3DLib.training.scores import evaluate

LONG = "a $class$ with_a_very long name that goes on " * 4
WHITE = 0.999


@dataclasses.dataclass
class Epoch:
    phase: str
    epoch: int
    loss: float
    score: float


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "RESAMPLES", 20)


@pytest.fixture
def sheets(monkeypatch: pytest.MonkeyPatch) -> list[Sheet]:
    """The pages that are drawn, before they become pictures."""
    drawn: list[Sheet] = []

    def keep(sheet: Sheet) -> bytes:
        drawn.append(sheet)
        return b""

    for module in (figures, confusion):
        monkeypatch.setattr(module, "png_of", keep)
    return drawn


def texts(sheet: Sheet) -> list[str]:
    return [text.get_text() for text in sheet.figure.texts]


def draw(spec: PluginSpec, targets: np.ndarray, probabilities: np.ndarray) -> dict[str, bytes]:
    results = evaluate(spec, targets, probabilities, patients=alone(len(targets)))
    return draw_figures(spec, targets, probabilities, results, title="test")


def many_classes(count: int) -> tuple[PluginSpec, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    names = [LONG + str(n) for n in range(count)]
    spec = dataclasses.replace(spec_of("multiclass"), classes=tuple(ClassSpec(name=n) for n in names))
    return spec, np.arange(80) % count, rng.dirichlet(np.ones(count), 80)


def assert_nothing_is_cut_off(picture: bytes) -> None:
    pixels = matplotlib.image.imread(io.BytesIO(picture), format="png")
    assert pixels.shape[1] == WIDTH
    edges = (pixels[:6], pixels[-6:], pixels[:, :6], pixels[:, -6:])
    assert all((edge[..., :3] > WHITE).all() for edge in edges)
    assert (pixels[..., :3] < 0.5).any()


@pytest.mark.parametrize("task", TASKS)
def test_every_picture_has_a_white_margin(task: str) -> None:
    drawn = draw(spec_of(task), *answers(task))
    assert list(drawn) == ["roc", "precision-recall", "reliability", "confusion"]
    for picture in drawn.values():
        assert_nothing_is_cut_off(picture)


@pytest.mark.parametrize("count", [3, 16])
def test_many_classes_with_long_names_fit_too(count: int) -> None:
    for picture in draw(*many_classes(count)).values():
        assert_nothing_is_cut_off(picture)


def test_each_class_has_a_line_of_its_own_look(sheets: list[Sheet]) -> None:
    draw(*many_classes(14))
    lines = [line for line in sheets[0].figure.axes[0].lines if len(line.get_xdata()) > 2]
    assert len({(line.get_color(), line.get_linestyle()) for line in lines}) == 14


def test_the_roc_curve_is_scikit_learns_and_its_circle_lies_at_the_threshold(sheets: list[Sheet]) -> None:
    targets, probabilities = answers("binary")
    draw(spec_of("binary"), targets, probabilities)
    _, curve, circle = sheets[0].figure.axes[0].lines
    false, true, _ = roc_curve(targets, probabilities[:, 1], drop_intermediate=False)
    assert (curve.get_xdata() == false).all() and (curve.get_ydata() == true).all()
    decided = probabilities[:, 1] >= 0.4
    assert circle.get_xydata()[0] == pytest.approx([decided[targets == 0].mean(), decided[targets == 1].mean()])


def test_the_legend_gives_the_area_with_its_interval(sheets: list[Sheet]) -> None:
    targets, probabilities = answers("multilabel")
    spec = spec_of("multilabel")
    draw(spec, targets, probabilities)
    for found in evaluate(spec, targets, probabilities, patients=alone(120)).classes:
        assert f"{found.name}: {found.metrics['auroc']}" in texts(sheets[0])
        assert f"{found.name}: {found.metrics['auprc']}" in texts(sheets[1])
        assert f"{found.name}: {found.metrics['ece']}" in texts(sheets[2])


def test_the_area_below_the_precision_steps_is_the_average_precision(sheets: list[Sheet]) -> None:
    targets, probabilities = answers("binary")
    draw(spec_of("binary"), targets, probabilities)
    curve = sheets[1].figure.axes[0].lines[0]
    recall, precision = curve.get_xdata(), curve.get_ydata()
    assert curve.get_drawstyle() == "steps-post"
    found = evaluate(spec_of("binary"), targets, probabilities, patients=alone(120)).classes[0]
    assert -(np.diff(recall) * precision[:-1]).sum() == pytest.approx(found.metrics["auprc"].value)


def test_the_reliability_points_add_up_to_the_calibration_error(sheets: list[Sheet]) -> None:
    targets, probabilities = answers("binary")
    draw(spec_of("binary"), targets, probabilities)
    above, below = sheets[2].figure.axes
    mean, frequency = above.lines[1].get_data()
    counts = below.patches[0].get_data().values
    assert counts.sum() == 120
    error = (np.abs(mean - frequency) * counts[counts > 0]).sum() / 120
    found = evaluate(spec_of("binary"), targets, probabilities, patients=alone(120)).classes[0]
    assert error == pytest.approx(found.metrics["ece"].value)


def test_the_confusion_counts_what_was_decided_for_each_class(sheets: list[Sheet]) -> None:
    targets, probabilities = answers("multiclass")
    draw(spec_of("multiclass"), targets, probabilities)
    shown = [text.get_text().split("\n")[0] for text in sheets[3].figure.axes[0].texts]
    chosen = probabilities.argmax(axis=1)
    assert shown == [str(((targets == t) & (chosen == d)).sum()) for t in range(3) for d in range(3)]


def test_the_confusion_of_labels_leaves_missing_ones_out(sheets: list[Sheet]) -> None:
    targets, probabilities = answers("multilabel")
    draw(spec_of("multilabel"), targets, probabilities)
    shown = [int(text.get_text().split("\n")[0]) for text in sheets[3].figure.axes[0].texts]
    assert np.reshape(shown, (3, 4)).sum(axis=1).tolist() == (targets >= 0).sum(axis=0).tolist()
    decided = probabilities[:, 0] >= 0.45
    assert shown[:2] == [int((decided & (targets[:, 0] == 1)).sum()), int((~decided & (targets[:, 0] == 1)).sum())]


@pytest.mark.parametrize("task", TASKS)
def test_cases_of_one_kind_are_said_to_be_unknown(task: str, sheets: list[Sheet]) -> None:
    targets, probabilities = answers(task)
    draw(spec_of(task), np.zeros_like(targets), probabilities)
    assert any("unknown, one kind of case alone" in text for text in texts(sheets[0]))


def test_learning_curves_run_over_all_phases_and_mark_the_highest_score(sheets: list[Sheet]) -> None:
    scores = [0.6, 0.7, float("nan"), 0.9, 0.9, 0.8]
    phases = ["warm-up"] * 2 + ["training"] * 4
    history = [Epoch(phase, n, 1 / (n + 1), s) for n, (phase, s) in enumerate(zip(phases, scores, strict=True))]
    learning_curves(history, title="test", score_name="validation AUPRC")
    loss, score = sheets[0].figure.axes
    assert loss.lines[0].get_xdata().tolist() == [1, 2, 3, 4, 5, 6]
    assert score.lines[0].get_xdata().tolist() == [1, 2, 4, 5, 6]
    assert score.get_ylabel() == "Validation AUPRC"
    assert score.get_title(loc="right") == "highest: 0.900 in epoch 5"
    assert loss.get_title(loc="left") == "warm-up | training"


@pytest.mark.parametrize("scores", [[0.5], [float("nan")], [float("nan"), 0.5]])
def test_learning_curves_of_few_epochs_can_be_drawn(scores: list[float]) -> None:
    history = [Epoch("training", n + 1, 0.5, score) for n, score in enumerate(scores)]
    assert_nothing_is_cut_off(learning_curves(history, title=LONG))
