"""The Evaluate section: what is asked of the worker, and how its answer is shown, for each type of task."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hosting import REPOSITORY, Host, host, seen_host, slicer  # noqa: F401
from test_plugin_folder import plugin_file

from AnyMC3DLib.errors import AnyMC3DError, InputError
from AnyMC3DLib.messages import ProgressNote

BINARY = {"task_type": "binary", "classes": [{"name": "normal"}, {"name": "tear"}]}
GRADES = {"task_type": "multiclass", "classes": [{"name": name} for name in ("none", "mild", "severe")]}
METRICS = ("auroc", "auprc", "balanced_accuracy", "f1", "sensitivity", "specificity", "brier", "ece", "accuracy")


def estimate(value: float | None, low: float | None = None, high: float | None = None) -> dict[str, float | None]:
    return {"value": value, "low": low, "high": high}


def results(task_type: str, thresholds: dict[str, float], **changed: Any) -> dict[str, Any]:
    """As `scores.Results.to_dict`."""
    figures = {name: estimate(0.1 * (number + 1), 0.05, 0.95) for number, name in enumerate(METRICS)}
    classes = {name: {"threshold": t, "cases": 10, "positives": 4, **figures} for name, t in thresholds.items()}
    overall = {"accuracy": estimate(0.77, 0.7, 0.8)}
    told = {
        "task_type": task_type, "cases": 10, "patients": 10, "resamples": 50, "seed": 0,
        "methods": {"interval": "95 % percentile interval over resampled patients"},
        "classes": classes, "macro": figures, "overall": overall, "notes": [],
    }  # fmt: skip
    return {**told, **changed}


def case(name: str, target: Any, wrong: bool = True, **probabilities: float) -> dict[str, Any]:
    return {"case": name, "target": target, "probabilities": probabilities, "wrong": wrong}


def binary_answer(**changed: Any) -> dict[str, Any]:
    told = {
        "plugin": "Hip", "splits": ["test"], "cases": 10,
        "auc": estimate(0.9, 0.8, 0.97), "accuracy": estimate(0.77, 0.7, 0.8),
        "results": results("binary", {"tear": 0.3}),
        "curves": {"tear": {"roc": [[0, 0], [0.2, 0.8], [1, 1]], "reliability": [[0.1, 0.0, 6], [0.8, 1.0, 4]]}},
        "confusion": {"classes": ["normal", "tear"], "counts": [[5, 1], [1, 3]]},
        "predictions": [
            case("a", "normal", normal=0.6, tear=0.4),
            case("b", "tear", normal=0.95, tear=0.05),
            case("c", "tear", wrong=False, normal=0.2, tear=0.8),
        ],
    }  # fmt: skip
    return {**told, **changed}


def multiclass_answer() -> dict[str, Any]:
    names = ("none", "mild", "severe")
    curve = {"roc": [[0, 0], [1, 1]], "reliability": [[0.5, 0.5, 10]]}
    overall = {"accuracy": estimate(0.61), "balanced_accuracy": estimate(0.62), "f1": estimate(0.63)}
    return binary_answer(
        results=results("multiclass", dict.fromkeys(names, 0.5), overall=overall),
        curves={"none": curve, "mild": {**curve, "roc": []}, "severe": curve},
        confusion={"classes": list(names), "counts": [[3, 1, 0], [0, 2, 2], [0, 0, 0]]},
        predictions=[
            case("a", "none", none=0.4, mild=0.45, severe=0.15),
            case("b", "mild", none=0.05, mild=0.1, severe=0.85),
        ],
    )


def multilabel_answer() -> dict[str, Any]:
    curve = {"roc": [[0, 0], [1, 1]], "reliability": [[0.5, 0.5, 10]]}
    return binary_answer(
        results=results("multilabel", {"tear": 0.5, "oedema": 0.9}),
        curves={"tear": curve, "oedema": curve},
        confusion=None,
        predictions=[
            case("a", {"tear": 1, "oedema": 0}, tear=0.4, oedema=0.95),
            case("b", {"tear": 0, "oedema": None}, tear=0.6, oedema=0.99),
            case("c", {"tear": 1, "oedema": 1}, tear=0.02, oedema=0.95),
        ],
    )


class FakeDataset:
    """The Dataset tab's table, as far as the panel looks at it."""

    def __init__(self, path: Path | None) -> None:
        self.path, self.modified = path, False
        self.splits = {"train": 20, "val": 5, "test": 10, "": 0}

    def counts(self) -> dict[str, dict[str, int]]:
        return {split: {"normal": count, "tear": 0} for split, count in self.splits.items()}


class FakeClient:
    """A worker's client whose requests the test answers."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.cancelled = 0
        self.done: Callable[[Any], None]
        self.failed: Callable[[AnyMC3DError], None]
        self.progress: Callable[[ProgressNote], None]

    def request(self, method: str, params: Any, *, done: Any, failed: Any, progress: Any, **_: Any) -> object:
        self.asked.append((method, params.to_dict()))
        self.done, self.failed, self.progress = done, failed, progress
        return object()

    def cancel(self, call: object) -> None:
        self.cancelled += 1


@dataclasses.dataclass
class Ask:
    place: str = ""

    def open_file(self, title: str, kinds: str) -> str:
        assert "*.csv" in kinds and "*.npz" in kinds
        return self.place


class Section:
    """The panel over the form, with a folder of plugins and a table of the Dataset tab."""

    def __init__(self, place: Path, window: Any = None) -> None:
        from AnyMC3DUI.evaluate_panel import EvaluatePanel
        from AnyMC3DUI.plugin_folder import PluginFolder

        self.place = place
        plugins = place / "plugins"
        plugins.mkdir()
        plugin_file(plugins / "hip.safetensors", name="Hip", **BINARY)
        plugin_file(plugins / "hip2.safetensors", name="Hip 2", **BINARY)
        plugin_file(plugins / "knee.safetensors", name="Knee", **GRADES)
        form = slicer.util.loadUI(str(REPOSITORY / "Resources" / "UI" / "AnyMC3DPlugins.ui"))
        self.form, self.ui = form, slicer.util.childWidgetVariables(form)
        self.folder, self.client, self.ask = PluginFolder(plugins), FakeClient(), Ask()
        self.dataset: FakeDataset | None = FakeDataset(place / "cases.csv")
        self.saves = True
        self.loaded: list[str] = []
        self.shown: list[tuple[str, str, str]] = []
        self.panel = EvaluatePanel(
            self.ui, scene=slicer.mrmlScene, folder=self.folder, client=self.client, device=lambda: "cpu",
            dataset=lambda: self.dataset, save_dataset=self.save, ask=self.ask, load_case=self.loaded.append,
            show_case=lambda case, card, name: self.shown.append((case, card.name, name)),
        )  # fmt: skip

    def save(self) -> bool:
        if self.saves:
            self.dataset.path, self.dataset.modified = self.place / "saved.csv", False
        return self.saves

    def choose(self, which: str, text: str) -> None:
        getattr(self.ui, f"evaluate{which}Selector").setCurrentText(text)

    def offered(self, which: str) -> list[str]:
        box = getattr(self.ui, f"evaluate{which}Selector")
        return [box.itemText(number) for number in range(box.count)]

    def click(self, name: str = "") -> None:
        button = getattr(self.ui, f"evaluate{name}Button")
        assert button.enabled
        button.click()

    def measure(self, answer: dict[str, Any]) -> None:
        self.click()
        self.client.done(json.loads(json.dumps(answer)))

    def pick(self, action: int) -> None:
        self.ui.evaluateTableButton.menu().actions()[action].trigger()

    def choose_file(self, place: Path) -> None:
        self.ask.place = str(place)
        self.pick(1)

    @property
    def state(self) -> str:
        return self.ui.evaluateStateLabel.text

    @property
    def warns(self) -> bool:
        return not self.ui.evaluateWarningLabel.isHidden()

    def figures(self) -> dict[str, list[str]]:
        table = self.ui.evaluateFiguresTable
        return {
            table.verticalHeaderItem(row).text(): [
                item.text() for item in (table.item(row, column) for column in range(table.columnCount)) if item
            ]
            for row in range(table.rowCount)
        }

    def columns(self) -> list[str]:
        table = self.ui.evaluateFiguresTable
        return [table.horizontalHeaderItem(column).text() for column in range(table.columnCount)]

    def wrong(self) -> list[list[str]]:
        table = self.ui.evaluateWrongTable
        return [[table.item(row, column).text() for column in range(4)] for row in range(table.rowCount)]

    def double_click(self, row: int) -> None:
        self.ui.evaluateWrongTable.cellDoubleClicked.emit(row, 0)


@pytest.fixture
def section(host: Host, tmp_path: Path) -> Section:  # noqa: F811
    return Section(tmp_path)


def charts() -> list[str]:
    return [node.GetName() for node in slicer.util.getNodesByClass("vtkMRMLPlotChartNode")]


# What is asked


def test_a_plugin_is_measured_on_the_test_cases_of_the_dataset_tab(section: Section) -> None:
    assert section.offered("Split") == ["test", "val", "train"] and section.ui.evaluateTableLabel.text == "cases.csv"
    assert not section.warns
    section.click()
    ((method, params),) = section.client.asked
    assert method == "evaluate" and params == {
        "plugin": str(section.folder.cards[0].path), "data": str(section.place / "cases.csv"), "splits": ["test"],
        "against": None, "weights": None, "device": "cpu",
    }  # fmt: skip
    assert section.panel.busy
    assert not section.ui.evaluateButton.enabled and not section.ui.evaluatePluginSelector.enabled


@pytest.mark.parametrize("split", ["train", "val"])
def test_cases_that_the_plugin_may_know_are_warned_of(section: Section, split: str) -> None:
    section.choose("Split", split)
    assert section.warns and "may have been trained on these" in section.ui.evaluateWarningLabel.text
    section.click()
    assert section.client.asked[0][1]["splits"] == [split]


def test_the_other_plugin_is_one_that_answers_for_the_same_classes(section: Section) -> None:
    assert section.offered("Against") == ["nothing", "Hip 2"]
    section.choose("Plugin", "Knee")
    assert section.offered("Against") == ["nothing"]
    section.choose("Plugin", "Hip 2")
    section.choose("Against", "Hip")
    section.click()
    assert section.client.asked[0][1]["against"] == str(section.place / "plugins" / "hip.safetensors")


def test_a_table_that_is_not_saved_is_saved_first(section: Section) -> None:
    section.dataset.modified = True
    section.saves = False
    section.click()
    assert not section.client.asked and "not saved" in section.state and section.ui.evaluateButton.enabled
    section.saves = True
    section.click()
    assert section.client.asked[0][1]["data"] == str(section.place / "saved.csv")


def test_without_cases_or_splits_nothing_can_be_measured(section: Section) -> None:
    section.dataset.splits = {"test": 0, "": 9}
    section.panel.refresh()
    assert not section.ui.evaluateButton.enabled and "no case has a split" in section.ui.evaluateTableLabel.text
    section.dataset = None
    section.panel.refresh()
    assert not section.ui.evaluateButton.enabled and "choose a table" in section.ui.evaluateTableLabel.text


def test_a_choice_stays_when_the_tab_is_entered_again(section: Section) -> None:
    section.choose("Plugin", "Hip 2")
    section.choose("Against", "Hip")
    section.choose("Split", "val")
    section.panel.refresh()
    chosen = [getattr(section.ui, f"evaluate{which}Selector").currentText for which in ("Plugin", "Against", "Split")]
    assert chosen == ["Hip 2", "Hip", "val"] and section.warns


def table_text(kind: str) -> str:
    if kind == "lines":
        return '{"case": "a", "split": "val"}\n\n{"case": "b", "split": "test"}\n{"case": "c", "split": null}\n'
    text = 'case;note;split\na;x;val\n\nb;"y;z";test\nc;;\n'
    return text if kind == "semicolons" else text.replace(";", "\t" if kind == "tabs" else ",")


@pytest.mark.parametrize("kind", ["commas", "semicolons", "tabs", "lines"])
def test_another_table_offers_the_splits_that_it_has(section: Section, kind: str) -> None:
    file = section.place / "other.csv"
    file.write_text(table_text(kind), encoding="utf-8-sig")
    section.choose_file(file)
    assert section.offered("Split") == ["test", "val"] and section.ui.evaluateTableLabel.text == "other.csv"
    section.click()
    assert section.client.asked[0][1]["data"] == str(file)
    section.panel.cancel()
    section.pick(0)
    assert section.ui.evaluateTableLabel.text == "cases.csv" and len(section.offered("Split")) == 3


def test_a_medmnist_file_offers_its_splits(section: Section) -> None:
    np.savez(section.place / "m.npz", test_images=np.zeros(1), test_labels=np.zeros(1), train_images=np.zeros(1))
    section.choose_file(section.place / "m.npz")
    assert section.offered("Split") == ["test", "train"]


@pytest.mark.parametrize("content", [b"\xff\xfe\x00\x01", b"{not json"])
@pytest.mark.parametrize("name", ["bad.csv", "bad.npz", "absent.csv"])
def test_what_is_no_table_is_refused_and_the_table_stays(section: Section, name: str, content: bytes) -> None:
    if not name.startswith("absent"):
        (section.place / name).write_bytes(content)
    section.choose_file(section.place / name)
    assert name in section.state and "\n" not in section.state
    assert section.ui.evaluateTableLabel.text == "cases.csv" and section.ui.evaluateButton.enabled


# How it goes on


def test_progress_is_shown_and_the_end_is_told(section: Section) -> None:
    section.click()
    bar = section.ui.evaluateProgressBar
    assert bar.maximum == 0 and "engine" in section.state
    section.client.progress(ProgressNote(id=1, step="Cutting slices", done=3, total=12, elapsed_s=1.0))
    assert (bar.maximum, bar.value) == (1000, 250) and section.state == "Cutting slices (3 of 12)"
    section.client.done(binary_answer())
    assert section.state == "Hip on test of cases.csv: 10 cases, 2 with a wrong answer."
    assert bar.value == 0 and not section.panel.busy and section.ui.evaluateButton.enabled


def test_what_could_not_be_measured_is_told_with_the_end(section: Section) -> None:
    section.measure(binary_answer(results=results("binary", {"tear": 0.3}, notes=["All cases are of one patient."])))
    assert section.state.endswith("All cases are of one patient.")


def test_a_failure_is_one_sentence_and_the_last_figures_stay(section: Section) -> None:
    section.measure(binary_answer())
    section.click()
    section.client.failed(InputError("The image of case 'a' cannot be read."))
    assert section.state == "The image of case 'a' cannot be read." and not section.panel.busy
    assert section.figures() and section.ui.evaluateButton.enabled


def test_a_cancelled_measurement_tells_nothing_more(section: Section) -> None:
    section.click()
    section.click("Cancel")
    assert section.client.cancelled == 1 and section.state == "Cancelled." and not section.panel.busy
    section.client.done(binary_answer())
    assert section.state == "Cancelled." and not section.figures() and not section.ui.evaluateCancelButton.enabled


def test_closing_ends_it_without_a_word(section: Section) -> None:
    section.click()
    before = section.state
    section.panel.close()
    assert section.client.cancelled == 1 and section.state == before and not section.panel.busy


def test_a_scene_that_closes_lets_it_go_on_and_charts_are_made_anew(section: Section) -> None:
    section.click()
    section.panel.scene_closes()
    slicer.mrmlScene.Clear(0)
    assert section.panel.busy and not section.client.cancelled
    section.client.done(binary_answer())
    section.click("Chart")
    slicer.mrmlScene.Clear(0)
    section.panel.scene_closes()
    section.click("Chart")
    assert len(charts()) == 1


# Figures


def test_figures_have_their_intervals_and_unknown_ones_none(section: Section) -> None:
    answer = binary_answer()
    answer["results"]["classes"]["tear"].update(auroc=estimate(0.9, 0.8, 0.966), f1=estimate(0.5), ece=estimate(None))
    section.measure(answer)
    figures = section.figures()
    assert section.columns() == ["tear"]
    assert figures["AUC"] == ["0.90 (0.80 to 0.97)"] and figures["F1"] == ["0.50"]
    assert figures["Calibration error"] == ["-"] and figures["Accuracy"] == ["0.77 (0.70 to 0.80)"]
    assert figures["Truth: normal"] == ["5 normal, 1 tear"] and figures["Truth: tear"] == ["1 normal, 3 tear"]
    assert "AUC difference" not in figures


def test_the_difference_to_the_other_plugin_has_its_sign(section: Section) -> None:
    other = {"plugin": "Hip 2", "auc": estimate(0.87, 0.7, 0.9), "accuracy": estimate(0.7)}
    section.measure(binary_answer(against=other, auc_difference=estimate(0.03, -0.01, 0.07)))
    figures = section.figures()
    assert figures["AUC difference"] == ["+0.03 (-0.01 to 0.07)"]
    assert figures["Other's AUC"] == ["0.87 (0.70 to 0.90)"] and figures["Other's accuracy"] == ["0.70"]
    row = list(figures).index("AUC difference")
    assert "Hip 2" in section.ui.evaluateFiguresTable.item(row, 0).toolTip()


def test_several_classes_have_a_column_each_and_one_for_all(section: Section) -> None:
    other = {"plugin": "Knee 2", "auc": estimate(0.87), "accuracy": estimate(0.7)}
    section.measure({**multiclass_answer(), "against": other, "auc_difference": estimate(-0.02, -0.1, 0.05)})
    figures = section.figures()
    assert section.columns() == ["All", "none", "mild", "severe"]
    assert figures["AUC"] == ["0.10 (0.05 to 0.95)"] * 4
    # Of the most probable class, which is what a person sees, and not the mean of one against the rest.
    assert figures["Balanced accuracy"][0] == "0.62" and figures["F1"][0] == "0.63"
    assert figures["Accuracy"] == ["0.61", "", "", ""]
    assert figures["AUC difference"] == ["-0.02 (-0.10 to 0.05)", "", "", ""]
    assert figures["Truth: mild"] == ["2 mild, 2 severe"] and figures["Truth: severe"] == ["no case"]
    table = section.ui.evaluateFiguresTable
    assert table.columnSpan(list(figures).index("Truth: mild"), 0) == 4


def test_the_next_answer_leaves_nothing_of_the_last(section: Section) -> None:
    section.measure(multiclass_answer())
    other = {"plugin": "Knee 2", "auc": estimate(0.87), "accuracy": estimate(0.7)}
    section.measure({**multilabel_answer(), "against": other})
    table, figures = section.ui.evaluateFiguresTable, section.figures()
    assert section.columns() == ["All", "tear", "oedema"] and not any(name.startswith("Truth") for name in figures)
    assert all(table.columnSpan(row, 0) == 1 for row in range(table.rowCount))
    section.measure(binary_answer(predictions=[]))
    assert section.columns() == ["tear"] and section.ui.evaluateWrongTable.isHidden()


# Wrong cases


def test_the_wrong_cases_of_a_binary_plugin_are_listed_worst_first(section: Section) -> None:
    section.measure(binary_answer())
    # At its threshold of 0.3 the answer for 'a' is a tear.
    assert section.wrong() == [["b", "tear", "normal", "0.95"], ["a", "normal", "tear", "0.40"]]
    section.double_click(0)
    section.double_click(1)
    assert section.shown == [("b", "Hip", "tear"), ("a", "Hip", "tear")]


def test_a_wrong_case_of_a_multiclass_plugin_shows_the_heat_of_its_answer(section: Section) -> None:
    section.choose("Plugin", "Knee")
    section.measure(multiclass_answer())
    assert section.wrong() == [["b", "mild", "severe", "0.85"], ["a", "none", "mild", "0.45"]]
    section.double_click(0)
    assert section.shown == [("b", "Knee", "severe")]


def test_a_wrong_case_of_a_multilabel_plugin_tells_its_worst_class(section: Section) -> None:
    section.measure(multilabel_answer())
    assert section.wrong() == [
        ["c", "tear, oedema", "oedema", "tear 0.02"],
        ["a", "tear", "oedema", "oedema 0.95"],
        # A label that is missing is no fault, however sure the plugin is.
        ["b", "none", "tear, oedema", "tear 0.60"],
    ]
    section.double_click(1)
    assert section.shown == [("a", "Hip", "oedema")]


def test_a_case_of_a_plugin_that_was_deleted_is_loaded_alone(section: Section) -> None:
    section.measure(binary_answer())
    section.folder.remove(section.folder.cards[0].path)
    section.panel.refresh()
    section.double_click(0)
    assert section.loaded == ["b"] and not section.shown


def test_a_case_of_another_table_is_loaded_once_the_table_is_that_of_the_dataset_tab(section: Section) -> None:
    file = section.place / "other.csv"
    file.write_text(table_text("commas"))
    section.choose_file(file)
    section.measure(binary_answer())
    section.double_click(0)
    assert not section.shown and "Open other.csv in the Dataset tab" in section.state
    section.dataset.path = file
    section.double_click(0)
    assert section.shown == [("b", "Hip", "tear")]


def test_a_case_that_cannot_be_loaded_is_told(section: Section, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(*_: Any) -> None:
        raise InputError("There is no case 'b' any more.")

    section.measure(binary_answer())
    monkeypatch.setattr(section.panel, "_show_case", absent)
    section.double_click(0)
    assert section.state == "There is no case 'b' any more."


# Charts


def lines_of(chart: Any) -> dict[str, list[tuple[float, float]]]:
    found = {}
    for number in range(chart.GetNumberOfPlotSeriesNodes()):
        series = chart.GetNthPlotSeriesNode(number)
        table = series.GetTableNode().GetTable()
        rows = range(table.GetNumberOfRows())
        found[series.GetName()] = [
            (table.GetValue(row, 0).ToDouble(), table.GetValue(row, 1).ToDouble()) for row in rows
        ]
    return found


def test_the_roc_curve_of_each_class_lies_over_that_of_chance(section: Section) -> None:
    assert section.ui.evaluateChartButton.isHidden()
    section.measure(multiclass_answer())
    section.click("Chart")
    (chart,) = slicer.util.getNodesByClass("vtkMRMLPlotChartNode")
    lines = lines_of(chart)
    # 'mild' has no cases of both kinds, so no curve.
    assert [name.split(",")[0] for name in lines] == ["none", "severe", "chance"]
    assert lines["chance"] == [(0, 0), (1, 1)]
    series = chart.GetNthPlotSeriesNode(2)
    assert series.GetLineStyle() == series.LineStyleDash
    assert chart.GetTitle() == "ROC: Hip on test of cases.csv" and "specificity" in chart.GetXAxisTitle()


def test_reliability_is_the_share_observed_at_each_mean_probability(section: Section) -> None:
    section.measure(binary_answer())
    section.choose("Chart", "Reliability")
    section.click("Chart")
    section.click("Chart")
    (chart,) = slicer.util.getNodesByClass("vtkMRMLPlotChartNode")
    assert lines_of(chart) == {"tear": [(0.1, 0.0), (0.8, 1.0)], "calibrated": [(0, 0), (1, 1)]}


def test_cases_that_give_no_curve_are_told(section: Section) -> None:
    section.measure(binary_answer(curves={"tear": {"roc": [], "reliability": []}}))
    section.click("Chart")
    assert "no such chart" in section.state and not charts()


def test_the_confusion_is_a_table_in_the_scene_that_is_filled_again(section: Section) -> None:
    section.measure(binary_answer())
    section.choose("Chart", "Confusion table")
    section.click("Chart")
    section.measure(multiclass_answer())
    section.choose("Chart", "Confusion table")
    section.click("Chart")
    (node,) = slicer.util.getNodesByClass("vtkMRMLTableNode")
    table = node.GetTable()
    assert [table.GetColumnName(n) for n in range(4)] == ["Truth", "Answer: none", "Answer: mild", "Answer: severe"]
    assert [table.GetValue(1, n).ToString() for n in range(4)] == ["mild", "0", "2", "2"]
    assert not node.GetSaveWithScene()


def test_a_multilabel_plugin_has_no_confusion_to_show(section: Section) -> None:
    section.measure(multilabel_answer())
    assert section.offered("Chart") == ["ROC", "Reliability"]


def test_charts_are_shown_in_the_views(seen_host: Host, tmp_path: Path) -> None:  # noqa: F811
    section = Section(tmp_path)
    section.measure(binary_answer())
    section.click("Chart")
    selection = slicer.app.applicationLogic().GetSelectionNode()
    assert selection.GetActivePlotChartID() == slicer.util.getNodesByClass("vtkMRMLPlotChartNode")[0].GetID()
    section.choose("Chart", "Confusion table")
    section.click("Chart")
    tables = {node.GetName(): node.GetID() for node in slicer.util.getNodesByClass("vtkMRMLTableNode")}
    assert selection.GetActiveTableID() == tables["Confusion: Hip on test of cases.csv"]
