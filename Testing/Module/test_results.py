from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import slicer
import slicer.util
import studies
from AnyMC3DUI.results import ResultStore, StudyResults, heat_is_shown
from scene import Scene

from AnyMC3DLib.errors import InputError

PLUGIN = "Läsion ⟨test⟩"


def volume(name: str = "study") -> slicer.vtkMRMLVolumeNode:
    return studies.add_volume(np.zeros(studies.SHAPE, np.int16), studies.oblique(), name=name)


def write(scene: Scene, node: slicer.vtkMRMLVolumeNode, *, probability: float = 0.9) -> StudyResults:
    predictions = {PLUGIN: studies.prediction(probability=probability), "other": studies.prediction(name="cyst")}
    return ResultStore(scene.mrml).write(node, predictions)


def hierarchy(scene: Scene) -> slicer.vtkMRMLSubjectHierarchyNode:
    return slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene.mrml)


def rows(table: slicer.vtkMRMLTableNode) -> list[list[str]]:
    return [
        [table.GetCellText(row, column) for column in range(table.GetNumberOfColumns())]
        for row in range(table.GetNumberOfRows())
    ]


def zeros() -> np.ndarray:
    return np.zeros(studies.SHAPE, np.float32)


@pytest.mark.parametrize(("probability", "shown"), [(0.9, True), (0.5, True), (0.49, False)])
def test_heat_is_shown_from_the_threshold_on(probability: float, shown: bool) -> None:
    assert heat_is_shown(studies.prediction(probability=probability), "lesion") is shown


def test_a_class_without_a_map_has_no_heat_to_show() -> None:
    assert not heat_is_shown(studies.prediction(probability=0.1), "no lesion")


def test_the_table_says_of_each_class_what_was_decided(scene: Scene) -> None:
    table = write(scene, volume()).table
    titles = [table.GetColumnName(column) for column in range(table.GetNumberOfColumns())]
    assert titles == ["Plugin", "Class", "Probability", "Threshold", "Decision", "Uncertain"]
    found = rows(table)
    assert [row[1] for row in found] == ["no lesion", "lesion", "no cyst", "cyst"]
    assert found[1][0] == PLUGIN and found[1][4:] == ["yes", "no"]
    assert [float(row[2]) for row in found] == pytest.approx([0.1, 0.9, 0.1, 0.9])


@pytest.mark.parametrize(("probability", "uncertain"), [(0.52, "yes"), (0.47, "yes"), (0.58, "no")])
def test_a_class_at_its_threshold_is_uncertain(scene: Scene, probability: float, uncertain: str) -> None:
    found = rows(write(scene, volume(), probability=probability).table)
    assert [row[5] for row in found[:2]] == [uncertain, uncertain]


def test_a_class_decided_for_below_its_threshold_is_uncertain(scene: Scene) -> None:
    answer = studies.prediction()
    answer.update(probabilities={"a": 0.4, "b": 0.3, "c": 0.3}, thresholds=dict.fromkeys("abc", 0.7))
    answer.update(decisions={"a": True, "b": False, "c": False}, hot_spots={})
    found = rows(ResultStore(scene.mrml).write(volume(), {"multi": answer}).table)
    assert [row[5] for row in found] == ["yes", "no", "no"]


def test_what_the_engine_says_is_uncertain_is_so(scene: Scene) -> None:
    answer = {**studies.prediction(), "uncertain": {"no lesion": True, "lesion": True}}
    found = rows(ResultStore(scene.mrml).write(volume(), {"plugin": answer}).table)
    assert [row[5] for row in found] == ["yes", "yes"]


def test_a_chart_a_view_has_the_weights_by_position(scene: Scene) -> None:
    results = write(scene, volume())
    for view, words in (("axial", "S, mm"), ("sagittal", "R, mm")):
        chart = results.chart(PLUGIN, view)
        assert words in chart.GetXAxisTitle()
        series = chart.GetNthPlotSeriesNode(0)
        table = series.GetTableNode().GetTable()
        x, y = (table.GetColumnByName(name) for name in (series.GetXColumnName(), series.GetYColumnName()))
        assert [x.GetValue(n) for n in range(3)] == [-6, 0, 6]
        assert [y.GetValue(n) for n in range(3)] == pytest.approx([0.1, 0.7, 0.2])
    assert results.chart(PLUGIN, "coronal") is None


def test_hot_spots_are_points_with_their_class_and_heat(scene: Scene) -> None:
    markups = write(scene, volume()).hot_spots(PLUGIN)
    assert [markups.GetNthControlPointLabel(n) for n in range(2)] == ["lesion: 0.93", "lesion: 0.61"]
    assert markups.GetNthControlPointPositionWorld(0) == pytest.approx((10, -4, 6))
    assert markups.GetLocked()


def test_below_the_threshold_no_hot_spot_is_marked(scene: Scene) -> None:
    results = write(scene, volume(), probability=0.3)
    assert results.hot_spots(PLUGIN) is None and results.spots_of(PLUGIN, "lesion") == []
    assert results.hot_spots("other") is not None


def test_an_answer_that_cannot_be_written_leaves_nothing_behind(scene: Scene) -> None:
    node = volume()
    before, items = scene.node_count(), hierarchy(scene).GetNumberOfItems()
    broken = {**studies.prediction(), "views": {"axial": {"axis": "axial"}}}
    with pytest.raises(KeyError):
        ResultStore(scene.mrml).write(node, {PLUGIN: broken})
    assert scene.node_count() == before and hierarchy(scene).GetNumberOfItems() == items


def test_everything_lies_in_one_folder_beside_the_volume(scene: Scene) -> None:
    tree = hierarchy(scene)
    patient = tree.CreateSubjectItem(tree.GetSceneItemID(), "patient")
    study = tree.CreateStudyItem(patient, "day")
    node = volume()
    tree.SetItemParent(tree.CreateItem(study, node), study)
    results = write(scene, node)
    results.add_heat(PLUGIN, "lesion", zeros())
    assert tree.GetItemParent(results.folder) == study
    for one in (
        results.record, results.table, results.chart(PLUGIN, "axial"), results.hot_spots(PLUGIN),
        results.heat(PLUGIN, "lesion"),
    ):  # fmt: skip
        assert tree.GetItemParent(tree.GetItemByDataNode(one)) == results.folder


def test_a_heatmap_is_kept_by_its_class_and_replaced_by_a_newer(scene: Scene) -> None:
    results = write(scene, volume())
    assert results.heat(PLUGIN, "lesion") is None
    results.add_heat(PLUGIN, "lesion", zeros())
    count = scene.node_count()
    newer = results.add_heat(PLUGIN, "lesion", zeros() + np.float32(0.5))
    assert results.heat(PLUGIN, "lesion") is newer
    assert results.heat("other", "cyst") is None
    assert scene.node_count() == count


def test_heat_of_a_removed_volume_or_of_another_frame_is_refused(scene: Scene) -> None:
    node = volume()
    results = write(scene, node)
    scene.mrml.RemoveNode(node)
    with pytest.raises(InputError, match="not in the scene any more"):
        results.add_heat(PLUGIN, "lesion", zeros())
    proxy, browser = scene.add_sequence([volume(), volume()])
    results = write(scene, proxy)
    assert results.frame == "0.5"
    browser.SetSelectedItemNumber(1)
    with pytest.raises(InputError, match="another frame"):
        results.add_heat(PLUGIN, "lesion", zeros())


def test_an_answer_survives_save_clear_and_load(scene: Scene, tmp_path: Path) -> None:
    node = volume()
    results = write(scene, node)
    heat = zeros()
    heat[3, 4, 5] = 0.75
    results.add_heat(PLUGIN, "lesion", heat)
    before, table, date = copy.deepcopy(results.predictions), rows(results.table), results.date
    scene.save(tmp_path / "saved.mrb")
    scene.load(tmp_path / "saved.mrb")
    (loaded,) = ResultStore(scene.mrml).all()
    assert loaded.predictions == before and loaded.date == date
    assert rows(loaded.table) == table
    assert loaded.volume.GetName() == "study"
    assert slicer.util.arrayFromVolume(loaded.heat(PLUGIN, "lesion"))[3, 4, 5] == pytest.approx(0.75)
    assert loaded.heat(PLUGIN, "lesion").GetDisplayNode().GetApplyThreshold()
    assert loaded.hot_spots(PLUGIN).GetNthControlPointLabel(0) == "lesion: 0.93"
    assert loaded.hot_spots(PLUGIN).GetNthControlPointPositionWorld(1) == pytest.approx((-8, 2, 0))
    series = loaded.chart(PLUGIN, "axial").GetNthPlotSeriesNode(0)
    column = series.GetTableNode().GetTable().GetColumnByName(series.GetXColumnName())
    assert column.IsNumeric() and column.GetVariantValue(0).ToDouble() == -6
    assert loaded.slice_at(PLUGIN, "axial", 2) == pytest.approx([0, 0, 6])
    tree = hierarchy(scene)
    assert tree.GetItemParent(tree.GetItemByDataNode(loaded.table)) == loaded.folder
    assert tree.GetItemName(loaded.folder) == "AnyMC3D: study"


def test_an_answer_is_found_whatever_the_user_calls_things(scene: Scene, tmp_path: Path) -> None:
    node = volume()
    results = write(scene, node)
    results.add_heat(PLUGIN, "lesion", zeros())
    tree = hierarchy(scene)
    tree.SetItemName(results.folder, "my folder")
    for one in (
        node, results.record, results.table, results.chart(PLUGIN, "axial"), results.hot_spots(PLUGIN),
        results.heat(PLUGIN, "lesion"),
    ):  # fmt: skip
        one.SetName("same name")
    scene.save(tmp_path / "saved.mrb")
    scene.load(tmp_path / "saved.mrb")
    loaded = ResultStore(scene.mrml).latest()
    assert loaded.volume is not None and loaded.table.IsA("vtkMRMLTableNode")
    assert loaded.chart(PLUGIN, "axial") and loaded.hot_spots(PLUGIN) and loaded.heat(PLUGIN, "lesion")


def test_two_studies_keep_their_answers_apart(scene: Scene, tmp_path: Path) -> None:
    first, second = write(scene, volume("first"), probability=0.8), write(scene, volume("second"), probability=0.2)
    assert first.folder != second.folder
    scene.save(tmp_path / "saved.mrb")
    scene.load(tmp_path / "saved.mrb")
    store = ResultStore(scene.mrml)
    assert [results.volume.GetName() for results in store.all()] == ["first", "second"]
    by_name = {results.volume.GetName(): results for results in store.all()}
    assert by_name["first"].predictions[PLUGIN]["probabilities"]["lesion"] == 0.8
    assert by_name["second"].predictions[PLUGIN]["probabilities"]["lesion"] == 0.2
    assert store.latest().volume.GetName() == "second"
    assert store.latest(by_name["first"].volume).volume.GetName() == "first"
    assert store.latest(volume("third")) is None


def test_a_scene_added_to_another_brings_its_answer_along(scene: Scene, tmp_path: Path) -> None:
    write(scene, volume("saved"))
    scene.save(tmp_path / "saved.mrb")
    scene.mrml.Clear(0)
    write(scene, volume("open"), probability=0.2)
    assert scene.mrml.ReadFromMRB(str(tmp_path / "saved.mrb"), False)
    found = {results.volume.GetName(): results for results in ResultStore(scene.mrml).all()}
    assert set(found) == {"saved", "open"}
    for name, probability in (("saved", "0.9"), ("open", "0.2")):
        assert rows(found[name].table)[1][2].startswith(probability)
        assert found[name].chart(PLUGIN, "axial").GetNthPlotSeriesNode(0).GetTableNode() is not None


def test_the_answer_outlives_the_volume(scene: Scene, tmp_path: Path) -> None:
    node = volume()
    results = write(scene, node)
    scene.mrml.RemoveNode(node)
    assert results.volume is None and len(rows(results.table)) == 4
    assert results.slice_at(PLUGIN, "axial", 2) == pytest.approx([0, 0, 6])
    scene.save(tmp_path / "saved.mrb")
    scene.load(tmp_path / "saved.mrb")
    assert ResultStore(scene.mrml).latest().volume is None


def test_what_the_user_removed_of_an_answer_is_missing_and_no_more(scene: Scene) -> None:
    results = write(scene, volume())
    scene.mrml.RemoveNode(results.table)
    scene.mrml.RemoveNode(results.hot_spots(PLUGIN))
    assert results.table is None and results.hot_spots(PLUGIN) is None
    assert results.chart(PLUGIN, "axial") is not None and results.hot_spots("other") is not None
    scene.mrml.RemoveNode(results.record)
    assert ResultStore(scene.mrml).all() == []


def test_removing_an_answer_leaves_the_scene_as_it_was(scene: Scene, tmp_path: Path) -> None:
    node = volume()
    write(scene, node).add_heat(PLUGIN, "lesion", zeros())
    ResultStore(scene.mrml).latest().remove()
    before, tree = scene.node_count(), hierarchy(scene)
    items = tree.GetNumberOfItems()
    results = write(scene, node)
    results.add_heat(PLUGIN, "lesion", zeros())
    results.remove()
    assert scene.node_count() == before and tree.GetNumberOfItems() == items
    assert ResultStore(scene.mrml).latest() is None


def test_what_the_user_put_into_the_folder_stays_when_the_answer_is_removed(scene: Scene) -> None:
    results = write(scene, volume())
    mine, tree = volume("mine"), hierarchy(scene)
    folder = results.folder
    tree.SetItemParent(tree.CreateItem(folder, mine), folder)
    results.remove()
    assert tree.GetItemParent(tree.GetItemByDataNode(mine)) == folder


def test_classifying_again_keeps_the_earlier_answer(scene: Scene) -> None:
    node = volume()
    first, second = write(scene, node, probability=0.6), write(scene, node, probability=0.7)
    store = ResultStore(scene.mrml)
    assert [one.record for one in store.all()] == [first.record, second.record]
    assert store.latest(node).record is second.record


def test_a_damaged_answer_is_left_out(scene: Scene) -> None:
    whole, damaged = write(scene, volume()), write(scene, volume())
    for text in ("", "{", "[]", '{"predictions": {}}'):
        damaged.record.SetText(text)
        assert [one.record for one in ResultStore(scene.mrml).all()] == [whole.record]


def test_an_answer_of_nothing_or_of_a_lost_volume_is_refused(scene: Scene) -> None:
    node = volume()
    with pytest.raises(InputError, match="no answer"):
        ResultStore(scene.mrml).write(node, {})
    scene.mrml.RemoveNode(node)
    with pytest.raises(InputError, match="not in the scene any more"):
        ResultStore(scene.mrml).write(node, {PLUGIN: studies.prediction()})


def test_a_volume_under_a_bend_is_refused_before_anything_is_made(scene: Scene) -> None:
    node = volume()
    node.SetAndObserveTransformNodeID(studies.add_bend().GetID())
    before = scene.node_count()
    with pytest.raises(InputError, match="harden"):
        write(scene, node)
    assert scene.node_count() == before
