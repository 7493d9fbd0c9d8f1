"""Charts in the scene: filled again without leaving nodes behind."""

from __future__ import annotations

from hosting import Host, host, slicer  # noqa: F401


def charts_in_scene() -> list[int]:
    kinds = ("vtkMRMLPlotChartNode", "vtkMRMLPlotSeriesNode", "vtkMRMLTableNode")
    return [len(slicer.util.getNodesByClass(kind)) for kind in kinds]


def values(series: object) -> list[tuple[float, float]]:
    table = series.GetTableNode().GetTable()
    return [(table.GetValue(row, 0).ToDouble(), table.GetValue(row, 1).ToDouble())
            for row in range(table.GetNumberOfRows())]  # fmt: skip


def test_a_curve_that_grows_is_one_chart(host: Host) -> None:  # noqa: F811
    from AnyMC3DUI.scene_chart import Line, SceneChart

    chart = SceneChart(slicer.mrmlScene, "learning", x="Epoch", y="Loss")
    for count in (1, 2, 3):
        points = [(float(n), 1.0 / (n + 1)) for n in range(count)]
        node = chart.fill("Learning", [Line("loss", points), Line("score", points[:1], marks=True)])
    assert charts_in_scene() == [1, 2, 2]
    assert values(node.GetNthPlotSeriesNode(0)) == [(0.0, 1.0), (1.0, 0.5), (2.0, 1 / 3)]
    assert values(node.GetNthPlotSeriesNode(1)) == [(0.0, 1.0)]
    assert node.GetXAxisTitle() == "Epoch"
    assert node.GetLegendVisibility()


def test_lines_that_are_gone_leave_nothing(host: Host) -> None:  # noqa: F811
    from AnyMC3DUI.scene_chart import Line, SceneChart

    chart = SceneChart(slicer.mrmlScene, "roc", x="False positives", y="True positives")
    chart.fill("ROC", [Line(name, [(0, 0), (1, 1)]) for name in ("a", "b", "chance")])
    node = chart.fill("ROC", [Line("b", [(0, 0), (0, 1), (1, 1)])])
    assert charts_in_scene() == [1, 1, 1]
    assert node.GetNthPlotSeriesNode(0).GetName() == "b"
    assert not node.GetLegendVisibility()
    other = SceneChart(slicer.mrmlScene, "reliability", x="Predicted", y="Observed")
    other.fill("Reliability", [Line("b", [(0, 0)])])
    chart.remove()
    assert charts_in_scene() == [1, 1, 1]
    assert slicer.util.getNodesByClass("vtkMRMLPlotChartNode")[0].GetTitle() == "Reliability"


def test_a_chart_without_a_window_is_not_shown_and_does_no_harm(host: Host) -> None:  # noqa: F811
    from AnyMC3DUI.scene_chart import Line, SceneChart

    chart = SceneChart(slicer.mrmlScene, "roc", x="", y="")
    chart.show()
    chart.fill("ROC", [Line("b", [(0, 0), (1, 1)], guide=True)])
    chart.show()
