"""The charts of a measured plugin in the scene, made when they are asked for, and its confusion as a table."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import slicer
from slicer.i18n import tr as _

from .earlier import nodes_of_class
from .evaluate_rows import estimate_text
from .result_nodes import column_table, has_marks, mark, refill
from .scene_chart import Line, SceneChart

ROC, RELIABILITY, CONFUSION = "roc", "reliability", "confusion"
DIAGONAL = ((0.0, 0.0), (1.0, 1.0))
MARKS = {"Chart": "evaluate confusion", "Part": "table"}
TABLE_LAYOUTS = tuple(
    getattr(slicer.vtkMRMLLayoutNode, f"SlicerLayout{kind}View")
    for kind in ("FourUpTable", "3DTable", "FourUpPlotTable")
)


class EvaluationCharts:
    """ROC, reliability and confusion of the latest measurement; they are found again in a scene that has them."""

    def __init__(self, scene: slicer.vtkMRMLScene) -> None:
        self._scene = scene
        self._charts = {
            ROC: SceneChart(scene, "evaluate roc", x=_("1 - specificity"), y=_("Sensitivity")),
            RELIABILITY: SceneChart(scene, "evaluate reliability", x=_("Mean probability"), y=_("Observed share")),
        }

    @staticmethod
    def kinds(answer: Mapping[str, Any] | None) -> dict[str, str]:
        """What can be shown of an answer, or of any, and how it is called."""
        names = {ROC: _("ROC"), RELIABILITY: _("Reliability")}
        if answer is not None and answer.get("confusion"):
            names[CONFUSION] = _("Confusion table")
        return names

    def show(self, kind: str, answer: Mapping[str, Any], title: str) -> str:
        """Make it of this answer and show it; returns the sentence why there is nothing to show, or an empty one."""
        if kind == CONFUSION:
            show_table(self._confusion(answer["confusion"], title))
            return ""
        lines = (roc_lines if kind == ROC else reliability_lines)(answer)
        if len(lines) < 2:
            return _("These cases give no such chart: each class needs cases with and without it.")
        chart = self._charts[kind]
        chart.fill(f"{self.kinds(answer)[kind]}: {title}", lines)
        chart.show()
        return ""

    def _confusion(self, confusion: Mapping[str, Any], title: str) -> slicer.vtkMRMLTableNode:
        columns: dict[str, list[Any]] = {_("Truth"): list(confusion["classes"])}
        for number, name in enumerate(confusion["classes"]):
            columns[_("Answer: {class_name}").format(class_name=name)] = [row[number] for row in confusion["counts"]]
        node = self._table()
        if node is None:
            node = column_table(self._scene, title, columns)
            mark(node, MARKS)
            # As the charts: of the session, not of the study that is saved.
            node.SetSaveWithScene(False)
        else:
            refill(node, columns)
        node.SetName(_("Confusion: {title}").format(title=title))
        return node

    def _table(self) -> slicer.vtkMRMLTableNode | None:
        tables = nodes_of_class(self._scene, "vtkMRMLTableNode")
        return next((node for node in tables if has_marks(node, MARKS)), None)


def roc_lines(answer: Mapping[str, Any]) -> list[Line]:
    """The ROC curve of each class that has one, and that of chance."""
    classes = answer["results"]["classes"]
    return _lines(answer, "roc", lambda name: _auc_name(name, classes[name].get("auroc")), _("chance"))


def reliability_lines(answer: Mapping[str, Any]) -> list[Line]:
    """The observed share over the mean probability of each class, and where both are equal."""
    return _lines(answer, "reliability", lambda name: name, _("calibrated"), marks=True)


def show_table(table: slicer.vtkMRMLTableNode) -> None:
    """Show the table beside the slices; nothing happens without a window, as in a script."""
    manager = slicer.app.layoutManager()
    if manager is None:
        return
    if manager.layout not in TABLE_LAYOUTS:
        manager.setLayout(slicer.vtkMRMLLayoutNode.SlicerLayoutFourUpTableView)
    logic = slicer.app.applicationLogic()
    logic.GetSelectionNode().SetActiveTableID(table.GetID())
    logic.PropagateTableSelection()


def _lines(
    answer: Mapping[str, Any], kind: str, called: Callable[[str], str], guide: str, *, marks: bool = False
) -> list[Line]:
    found = [
        Line(called(name), [(point[0], point[1]) for point in curves[kind]], marks=marks)
        for name, curves in answer["curves"].items()
        if curves[kind]
    ]
    return [*found, Line(guide, DIAGONAL, guide=True)]


def _auc_name(name: str, auc: Mapping[str, float | None] | None) -> str:
    return _("{class_name}, AUC {auc}").format(class_name=name, auc=estimate_text(auc))
