"""The module in the stand-in for the application: loaded unchanged, with the real roles, up to a real answer."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import slicer
from AnyMC3DUI.handover import image_of
from hosting import MODULE, REPOSITORY, Host, add_volume, host, prediction, qt, seen_host  # noqa: F401
from plugin_files import write_plugin_file
from worker_desk import spin, worker_python

from AnyMC3DLib.errors import Cancelled, InputError, PluginError

SAMPLE = "HeadLesionPhantom"


@pytest.fixture
def engine_python(monkeypatch: pytest.MonkeyPatch) -> str:
    """The worker runs in a Python that has the engine."""
    python = worker_python()
    monkeypatch.setattr(sys, "executable", python)
    # What is installed is another test's matter: here the worker's Python may not be this one.
    monkeypatch.setattr("AnyMC3DUI.dependencies.Dependencies.missing", lambda self: ())
    return python


def loaded(running: Host) -> Any:
    """The module's widget object, shown."""
    running.load(MODULE)
    running.started()
    return running.show("AnyMC3D")


def sample() -> Any:
    import SampleData

    return SampleData.downloadSample(SAMPLE)


def file_answer(widget: Any, volume: Any, **how: Any) -> None:
    """As if the worker had answered."""
    from AnyMC3DUI.study import Study

    (card,) = widget.desk.panel.ticked
    answer = prediction(SAMPLE, **how)
    widget.desk._found(Study({"image": volume}), {SAMPLE: answer}, (card,))


def tick(widget: Any, row: int = 0) -> None:
    widget.ui.pluginList.item(row).setCheckState(qt.Qt.Checked)


def test_the_module_says_what_it_is(host: Host) -> None:  # noqa: F811
    module = host.load(MODULE)
    assert module.title == "AnyMC3D"
    assert module.categories == ["Classification"]
    assert "not for clinical use" in module.helpText
    assert "2512.12887" in module.acknowledgementText
    assert not module.icon.isNull()


def test_the_shell_stays_a_shell() -> None:
    assert len(MODULE.read_text(encoding="utf-8").splitlines()) < 200


def test_the_sample_study_is_registered_and_its_plugin_installed(host: Host) -> None:  # noqa: F811
    widget = loaded(host)
    (source,) = slicer.modules.sampleDataSources["AnyMC3D"]
    assert source.sampleName == SAMPLE
    assert Path(source.thumbnailFileName).is_file()
    assert widget.ui.pluginList.item(0).text().startswith(SAMPLE)
    volume = sample()
    assert volume.GetName() == SAMPLE
    widget.desk.enter()
    assert widget.desk.parameters.images["image"] is volume


def test_a_person_who_removes_the_sample_plugin_is_rid_of_it(host: Host) -> None:  # noqa: F811
    from AnyMC3DUI.plugin_folder import PluginFolder
    from AnyMC3DUI.sample_data import install_plugin_once
    from AnyMC3DUI.settings import plugin_folder

    loaded(host)
    folder = PluginFolder(plugin_folder())
    folder.remove(folder.cards[0].path)
    install_plugin_once(folder)
    assert not folder.cards


def test_settings_and_answers_come_back_with_a_saved_scene(host: Host, tmp_path: Path) -> None:  # noqa: F811
    widget = loaded(host)
    volume = sample()
    tick(widget)
    widget.ui.thresholdSlider.value = 0.7
    file_answer(widget, volume)
    assert "97.0 %" in widget.ui.heatClassSelector.itemText(0)
    bundle = tmp_path / "scene.mrb"
    slicer.util.saveScene(str(bundle))
    slicer.mrmlScene.Clear(0)
    assert widget.ui.resultsTitleLabel.text == "No study was classified yet."
    assert widget.ui.pluginList.item(0).checkState() == qt.Qt.Unchecked
    slicer.util.loadScene(str(bundle))
    assert SAMPLE in widget.ui.resultsTitleLabel.text
    assert "97.0 %" in widget.ui.heatClassSelector.itemText(0)
    assert widget.ui.hotSpotTable.rowCount == 2
    assert widget.ui.pluginList.item(0).checkState() == qt.Qt.Checked
    assert widget.ui.thresholdSlider.value == pytest.approx(0.7)
    assert widget.desk.parameters.images["image"].GetName() == SAMPLE


def test_a_point_of_the_chart_moves_the_views_and_the_crosshair_to_its_slice(seen_host: Host) -> None:  # noqa: F811
    widget = loaded(seen_host)
    volume = sample()
    tick(widget)
    file_answer(widget, volume)
    (button,) = widget.ui.chartsArea.findChildren(qt.QPushButton)
    button.click()
    manager = slicer.app.layoutManager()
    view = manager.plotWidget(0).plotView()
    (series, points), *_ = view.series()
    assert len(points) == 4
    view.select(series, 2)
    assert manager.sliceWidget("Red").sliceLogic().GetSliceOffset() == pytest.approx(20.0)
    crosshair = slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLCrosshairNode")
    assert crosshair.GetCrosshairRAS() == pytest.approx((0, 0, 20))


def test_a_chart_leaves_the_3d_view_in_sight_and_a_layout_with_a_chart_as_it_is(seen_host: Host) -> None:  # noqa: F811
    kinds = slicer.vtkMRMLLayoutNode
    widget = loaded(seen_host)
    tick(widget)
    file_answer(widget, sample())
    (button,) = widget.ui.chartsArea.findChildren(qt.QPushButton)
    manager = slicer.app.layoutManager()
    button.click()
    assert manager.layout == kinds.SlicerLayoutConventionalPlotView
    manager.setLayout(kinds.SlicerLayoutFourUpPlotView)
    button.click()
    assert manager.layout == kinds.SlicerLayoutFourUpPlotView


def test_a_point_of_another_chart_is_taken_for_what_it_is(seen_host: Host) -> None:  # noqa: F811
    widget = loaded(seen_host)
    volume = sample()
    tick(widget)
    file_answer(widget, volume, views=("axial", "second"))
    results = widget.desk.results._results[0]
    (button,) = widget.ui.chartsArea.findChildren(qt.QPushButton)
    button.click()
    manager = slicer.app.layoutManager()
    view = manager.plotWidget(0).plotView()
    jumped: list[Any] = []
    widget.desk.results._jump = jumped.append
    view.mrmlPlotViewNode().SetPlotChartNodeID(results.chart(SAMPLE, "second").GetID())
    (series, _), *_ = view.series()
    view.select(series, 1)
    assert len(jumped) == 1 and jumped[0] == pytest.approx(results.slice_at(SAMPLE, "second", 1))
    foreign = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLPlotSeriesNode", "the user's own")
    view.select(foreign, 77)
    assert len(jumped) == 1


def test_closing_the_scene_in_mid_job_ends_the_job_and_the_worker(host: Host, engine_python: str) -> None:  # noqa: F811
    widget = loaded(host)
    sample()
    widget.desk.enter()
    tick(widget)
    widget.ui.classifyButton.click()
    assert widget.ui.cancelButton.enabled
    spin(lambda: widget.desk.session._client.ready)
    slicer.mrmlScene.Clear(0)
    assert not widget.desk.session.busy
    assert not widget.ui.cancelButton.enabled
    spin(lambda: not widget.desk.session._client._ending)


def test_the_engines_answer_reaches_panel_scene_and_views(seen_host: Host, engine_python: str) -> None:  # noqa: F811
    widget = loaded(seen_host)
    volume = sample()
    widget.desk.enter()
    tick(widget)
    widget.ui.classifyButton.click()
    spin(lambda: widget.desk.overlay.visible)
    results = widget.desk.store.latest()
    assert results.predictions[SAMPLE]["decisions"]["lesion"]
    heat = results.heat(SAMPLE, "lesion")
    assert slicer.util.arrayFromVolume(heat).max() > 0.5
    composite = slicer.app.layoutManager().sliceWidget("Red").mrmlSliceCompositeNode()
    assert composite.GetForegroundVolumeID() == heat.GetID()
    assert results.volume is volume
    widget.ui.overlayButton.click()
    assert not composite.GetForegroundVolumeID()


def test_a_script_classifies_and_waits(host: Host, engine_python: str) -> None:  # noqa: F811
    host.load(MODULE)
    host.started()
    volume = sample()
    logic = sys.modules["AnyMC3D"].AnyMC3DLogic()
    plugin = REPOSITORY / "Resources" / "Sample" / f"{SAMPLE}.safetensors"
    answers = logic.classify(volume, [str(plugin)])
    assert answers[SAMPLE]["decisions"]["lesion"]
    heard: list[Any] = []
    logic.classify(volume, [str(plugin)], done=heard.append, failed=heard.append)
    assert not heard
    spin(lambda: heard)
    assert heard[0][SAMPLE]["probabilities"] == pytest.approx(answers[SAMPLE]["probabilities"], abs=1e-5)
    logic.close()
    from AnyMC3DUI.results import ResultStore

    assert len(ResultStore(slicer.mrmlScene).all()) == 2


def begun_by_a_script(running: Host) -> tuple[Any, Any, list[Any]]:
    """The logic, a classification under way, and what it will have been told."""
    heard: list[Any] = []
    logic = sys.modules["AnyMC3D"].AnyMC3DLogic()
    plugin = REPOSITORY / "Resources" / "Sample" / f"{SAMPLE}.safetensors"
    work = logic.classify(sample(), [str(plugin)], done=heard.append, failed=heard.append)
    spin(lambda: logic._engine.client.ready)
    return logic, work, heard


def test_a_script_that_waits_while_the_application_ends_does_not_wait_for_ever(
    host: Host,  # noqa: F811
    engine_python: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    host.load(MODULE)
    host.started()
    # Qt lets no event loop run once the application has been told to quit.
    monkeypatch.setattr(qt.QEventLoop, "exec_", lambda loop: -1)
    logic = sys.modules["AnyMC3D"].AnyMC3DLogic()
    plugin = REPOSITORY / "Resources" / "Sample" / f"{SAMPLE}.safetensors"
    with pytest.raises(Cancelled):
        logic.classify(sample(), [str(plugin)])
    logic.close()


def test_a_script_can_cancel_what_it_does_not_wait_for(host: Host, engine_python: str) -> None:  # noqa: F811
    host.load(MODULE)
    host.started()
    logic, work, heard = begun_by_a_script(host)
    work.cancel()
    assert heard == ["The classification was cancelled."]
    logic.close()


def test_closing_the_scene_ends_the_work_and_the_engine_of_a_script(host: Host, engine_python: str) -> None:  # noqa: F811
    host.load(MODULE)
    host.started()
    logic, _, heard = begun_by_a_script(host)
    slicer.mrmlScene.Clear(0)
    spin(lambda: heard and logic._engine.client.gone)
    assert isinstance(heard[0], str)
    logic.close()


@pytest.mark.parametrize("way", ["unload", "quit"])
def test_the_end_of_the_module_or_the_application_ends_all_engines(host: Host, engine_python: str, way: str) -> None:  # noqa: F811
    widget = loaded(host)
    logic, _, _ = begun_by_a_script(host)
    tick(widget)
    widget.ui.classifyButton.click()
    spin(lambda: widget.desk.session._client.ready)
    pids = [logic._engine.client.pid, widget.desk.session._client.pid]
    assert all(psutil.pid_exists(pid) for pid in pids)
    if way == "unload":
        host.app.moduleManager().unload("AnyMC3D")
    else:
        host.app.aboutToQuit.emit()
    assert not any(psutil.pid_exists(pid) for pid in pids)


def test_the_volume_that_is_opened_is_offered_and_a_persons_choice_stays(seen_host: Host) -> None:  # noqa: F811
    widget = loaded(seen_host)
    tick(widget)
    chosen = lambda: widget.desk.parameters.images.get("image")  # noqa: E731
    first = add_volume("first")
    spin(lambda: chosen() is first)
    second = add_volume("second")
    slicer.util.setSliceViewerLayers(background=second)
    spin(lambda: chosen() is second)
    slicer.util.setSliceViewerLayers(background=first)
    spin(lambda: chosen() is first)
    (box,) = widget.desk.panel._rows._volumes.values()
    box.setCurrentNode(second)
    third = add_volume("third")
    slicer.util.setSliceViewerLayers(background=third)
    widget.enter()
    seen_host.app.processEvents()
    assert chosen() is second
    slicer.mrmlScene.RemoveNode(second)
    slicer.util.setSliceViewerLayers(background=third)
    spin(lambda: chosen() is third)


def test_heat_is_not_offered_as_an_image(seen_host: Host) -> None:  # noqa: F811
    widget = loaded(seen_host)
    volume = sample()
    widget.desk.enter()
    tick(widget)
    file_answer(widget, volume)
    results = widget.desk.results._results[0]
    widget.desk.results._set_button(True)
    widget.desk.results._rendered(results, SAMPLE, "lesion", np.zeros(results.heat_grid[0], dtype=np.float32))
    (box,) = widget.desk.panel._rows._volumes.values()
    spin(lambda: box.nodeCount() == 1)
    assert widget.desk.parameters.images["image"] is volume
    heat = results.heat(SAMPLE, "lesion")
    with pytest.raises(InputError, match="heat of an earlier answer"):
        image_of(heat)
    slicer.mrmlScene.RemoveNode(heat)
    assert (widget.ui.overlayButton.checked, widget.desk.overlay.visible) == (False, False)


def test_the_self_test_passes(host: Host, engine_python: str) -> None:  # noqa: F811
    host.load(MODULE)
    host.started()
    slicer.selfTests["AnyMC3D"](msec=0)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda logic, volume: logic.classify(volume, ["Nothing"]), "There is no plugin 'Nothing'"),
        (lambda logic, volume: logic.classify(volume, []), "No plugin is ticked"),
        (lambda logic, volume: logic.classify({}, ["Two"]), "has no volume for 't1'"),
        (lambda logic, volume: logic.classify(volume, ["Two"]), "need a volume for each of flair, t1"),
        (lambda logic, volume: logic.classify(volume, ["Box"]), "looks at a region"),
    ],
)
def test_a_script_is_told_at_once_what_is_wrong(host: Host, call: Callable, sentence: str) -> None:  # noqa: F811
    from AnyMC3DUI.settings import plugin_folder

    loaded(host)
    write_plugin_file(plugin_folder() / "two.safetensors", name="Two", sources=("t1", "flair"))
    write_plugin_file(plugin_folder() / "box.safetensors", name="Box", region="box")
    logic = sys.modules["AnyMC3D"].AnyMC3DLogic()
    with pytest.raises((InputError, PluginError), match=sentence):
        call(logic, add_volume())
    logic.close()


def test_missing_packages_are_asked_about_and_installed_by_nothing_but_a_yes(host: Host) -> None:  # noqa: F811
    from AnyMC3DUI.dependencies import Dependencies, Tools
    from AnyMC3DUI.install_bar import InstallBar

    widget = loaded(host)
    there: dict[str, str] = {}
    installed: list[list[str]] = []

    def pip(arguments: list[str]) -> None:
        installed.append(arguments)
        there["torch"] = "2.6"

    tools = Tools(
        version_of=there.get, versions=lambda: there, pip_install=pip, install_torch=None,
        is_imported=lambda name: False, allowed=lambda: True,
    )  # fmt: skip
    answers, asked, stopped = [False, True], [], []
    bar = InstallBar(
        widget.ui, Dependencies(tools, ["torch>=2.6"]), stop_engine=lambda: stopped.append(True),
        ask=lambda question: (asked.append(question), answers[len(asked) - 1])[1],
    )  # fmt: skip
    assert bar.refresh()
    assert not widget.ui.missingPackagesFrame.isHidden()
    assert "torch" in widget.ui.missingPackagesLabel.text
    bar.install()
    assert not installed
    bar.install(Path("/wheels") if Path("/wheels").is_dir() else None)
    assert len(installed) == 1
    assert stopped == [True]
    assert widget.ui.missingPackagesFrame.isHidden()


def test_a_reloaded_module_leaves_nothing_behind_in_the_views(seen_host: Host) -> None:  # noqa: F811
    widget = loaded(seen_host)
    volume = sample()
    tick(widget)
    file_answer(widget, volume)
    results = widget.desk.results._results[0]
    widget.desk.results._set_button(True)
    widget.desk.results._rendered(results, SAMPLE, "lesion", np.zeros(results.heat_grid[0], dtype=np.float32))
    assert widget.desk.overlay.visible
    seen_host.app.moduleManager().unload("AnyMC3D")
    composite = slicer.app.layoutManager().sliceWidget("Red").mrmlSliceCompositeNode()
    assert not composite.GetForegroundVolumeID()
    again = loaded(seen_host)
    assert SAMPLE in again.ui.resultsTitleLabel.text
