"""The two sections of the panel over their widgets, with a session and an overlay that do as the test says."""

from __future__ import annotations

import csv
import dataclasses
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import slicer
from hosting import REPOSITORY, FakeOverlay, FakeSession, Host, add_volume, host, prediction, qt  # noqa: F401
from plugin_files import write_plugin_file

from AnyMC3DLib.errors import InputError

SAMPLE = REPOSITORY / "Resources" / "Sample" / "HeadLesionPhantom.safetensors"


@dataclasses.dataclass
class Desk:
    """The form with both panels."""

    ui: Any
    parameters: Any
    folder: Any
    classify: Any
    results: Any
    session: FakeSession
    overlay: FakeOverlay
    found: list[Any]
    jumps: list[Any]

    def tick(self, row: int, on: bool = True) -> None:
        self.ui.pluginList.item(row).setCheckState(qt.Qt.Checked if on else qt.Qt.Unchecked)

    def store(self, *answers: dict[str, Any], volume: Any = None) -> Any:
        from AnyMC3DUI.results import ResultStore

        given = {one["plugin"]["name"]: one for one in answers}
        return ResultStore(slicer.mrmlScene).write(volume or add_volume(), given)


@pytest.fixture
def plugins(tmp_path: Path) -> Path:
    folder = tmp_path / "plugins"
    folder.mkdir()
    shutil.copy(SAMPLE, folder)
    return folder


@pytest.fixture
def desk(host: Host, plugins: Path) -> Desk:  # noqa: F811
    from AnyMC3DUI.classify_panel import ClassifyPanel
    from AnyMC3DUI.form import load_form
    from AnyMC3DUI.parameters import AnyMC3DParameters
    from AnyMC3DUI.plugin_folder import PluginFolder
    from AnyMC3DUI.results_panel import ResultsPanel

    form, ui = load_form()
    host.window.panel.setWidget(form)
    parameters = AnyMC3DParameters(slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScriptedModuleNode"))
    folder, session, overlay = PluginFolder(plugins), FakeSession(), FakeOverlay()
    found: list[Any] = []
    jumps: list[Any] = []
    classify = ClassifyPanel(
        ui, scene=slicer.mrmlScene, folder=folder, parameters=parameters, found=lambda *how: found.append(how)
    )
    classify.attach(session)
    results = ResultsPanel(
        ui, overlay=overlay, renderer=session, parameters=parameters, jump=jumps.append,
        save_report=lambda shown: f"{len(shown)} saved",
    )  # fmt: skip
    parameters.connectGui(form)
    return Desk(ui, parameters, folder, classify, results, session, overlay, found, jumps)


# plugins


def test_a_plugin_is_described_before_it_is_ticked(desk: Desk) -> None:
    text = desk.ui.pluginCardBrowser.toPlainText()
    for words in ("HeadLesionPhantom", "bright lesion", "not for clinical use", "Apache-2.0", "AUC", "made-up heads"):
        assert words in text


def test_without_a_plugin_the_panel_says_what_to_do(desk: Desk, plugins: Path) -> None:
    (plugins / SAMPLE.name).unlink()
    desk.classify.refresh()
    assert "add one from a file" in desk.ui.pluginCardBrowser.toPlainText()
    assert not desk.ui.classifyButton.enabled
    assert desk.ui.stepLabel.text == "Add a plugin."


def test_a_damaged_file_is_listed_with_its_sentence_and_cannot_be_ticked(desk: Desk, plugins: Path) -> None:
    (plugins / "Broken.safetensors").write_bytes(b"nothing")
    desk.classify.refresh()
    row = desk.ui.pluginList.count - 1
    item = desk.ui.pluginList.item(row)
    assert "cannot be used" in item.text()
    assert not item.flags() & qt.Qt.ItemIsUserCheckable
    desk.ui.pluginList.setCurrentRow(row)
    assert "Broken.safetensors" in desk.ui.pluginCardBrowser.toPlainText()


def test_the_filter_hides_plugins_but_keeps_their_ticks(desk: Desk, plugins: Path) -> None:
    write_plugin_file(plugins / "adrenal.safetensors", name="Adrenal", anatomy="adrenal gland", modality="CT")
    desk.classify.refresh()
    assert desk.ui.pluginList.count == 2
    desk.tick(1)
    desk.ui.pluginFilterEdit.text = "adrenal"
    assert desk.ui.pluginList.count == 1
    desk.ui.pluginFilterEdit.text = ""
    desk.ui.anatomyFilterSelector.setCurrentText("adrenal gland")
    assert desk.ui.pluginList.item(0).text().startswith("Adrenal")
    assert [card.name for card in desk.classify.ticked] == ["HeadLesionPhantom"]
    desk.ui.anatomyFilterSelector.setCurrentIndex(0)
    assert desk.ui.pluginList.item(1).checkState() == qt.Qt.Checked


def test_a_plugin_is_added_from_a_file_and_ticked(desk: Desk, tmp_path: Path) -> None:
    write_plugin_file(tmp_path / "new.safetensors", name="New one")
    desk.classify.add_plugin(tmp_path / "new.safetensors")
    assert [card.name for card in desk.classify.ticked] == ["New one"]
    assert (desk.folder.path / "new.safetensors").is_file()


def test_a_file_that_is_no_plugin_is_refused_and_the_folder_stays(desk: Desk, tmp_path: Path) -> None:
    (tmp_path / "bad.safetensors").write_bytes(b"x")
    desk.classify.add_plugin(tmp_path / "bad.safetensors")
    assert [card.name for card in desk.folder.cards] == ["HeadLesionPhantom"]


# the study


def test_the_volume_that_is_open_is_chosen_by_itself(desk: Desk) -> None:
    add_volume("Other")
    opened = add_volume("Opened")
    composite = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSliceCompositeNode")
    composite.SetBackgroundVolumeID(opened.GetID())
    add_volume("Newest")
    desk.classify.prefill()
    assert desk.parameters.images["image"] is opened


def test_a_plugin_with_two_images_gets_two_selectors_filled_by_the_series_names(desk: Desk, plugins: Path) -> None:
    write_plugin_file(plugins / "mr.safetensors", name="MR", sources=("t1_post", "flair"))
    flair, post, _ = add_volume("SAG FLAIR 3D"), add_volume("AX T1 POST GD"), add_volume("Localizer")
    desk.classify.refresh()
    desk.tick(1)
    assert dict(desk.parameters.images) == {"t1_post": post, "flair": flair}
    assert desk.ui.studyArea.layout().rowCount() == 2


def test_a_source_that_no_series_name_fits_is_left_to_the_user(desk: Desk, plugins: Path) -> None:
    write_plugin_file(plugins / "mr.safetensors", name="MR", sources=("t1_post", "flair"))
    add_volume("One"), add_volume("Two")
    desk.classify.refresh()
    desk.tick(1)
    assert dict(desk.parameters.images) == {}
    assert desk.ui.stepLabel.text == "Choose a volume."
    assert not desk.ui.classifyButton.enabled


def test_a_plugin_that_looks_at_a_box_asks_for_a_markups_roi(desk: Desk, plugins: Path) -> None:
    write_plugin_file(plugins / "box.safetensors", name="Box", region="box")
    add_volume()
    desk.classify.refresh()
    desk.tick(0)
    assert desk.ui.stepLabel.text == "Choose a region."
    roi = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsROINode")
    roi.SetSize(4, 4, 4)
    roi.SetCenter(5, 5, 5)
    (selector,) = (box for box in desk.ui.studyArea.findChildren(slicer.qMRMLNodeComboBox)
                   if "ROI" in box.nodeTypes[0])  # fmt: skip
    selector.setCurrentNode(roi)
    assert desk.ui.classifyButton.enabled
    desk.ui.classifyButton.click()
    (ticked,) = desk.session.asked[0]
    assert ticked.regions["image"].low == pytest.approx((3, 3, 3))


def test_a_plugin_that_looks_at_a_segment_asks_for_one_of_a_segmentation(desk: Desk, plugins: Path) -> None:
    write_plugin_file(plugins / "segment.safetensors", name="A segment", region="segment")
    volume = add_volume()
    segmentation = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode")
    segmentation.SetReferenceImageGeometryParameterFromVolumeNode(volume)
    labels = np.zeros((6, 8, 10), dtype=np.uint8)
    labels[1:3, 2:5, 3:7] = 1
    for name in ("Spleen", "Liver"):
        segmentation.GetSegmentation().AddEmptySegment(name, name)
        slicer.util.updateSegmentBinaryLabelmapFromArray(labels, segmentation, name, volume)
    desk.classify.refresh()
    desk.tick(0)
    (selector,) = (box for box in desk.ui.studyArea.findChildren(slicer.qMRMLNodeComboBox)
                   if "Segmentation" in box.nodeTypes[0])  # fmt: skip
    selector.setCurrentNode(segmentation)
    segments = next(box for box in desk.ui.studyArea.findChildren(qt.QComboBox) if box.findText("Liver") >= 0)
    segments.setCurrentText("Liver")
    assert dict(desk.parameters.segments) == {"image": "Liver"}
    desk.ui.classifyButton.click()
    (ticked,) = desk.session.asked[0]
    assert (ticked.regions["image"].array == ticked.regions["image"].label).sum() == 24


def test_what_is_chosen_comes_back_with_the_scene(desk: Desk) -> None:
    first = add_volume("First")
    desk.tick(0)
    desk.parameters.device = "cpu"
    add_volume("Second")
    desk.classify.use(desk.parameters)
    assert desk.parameters.images["image"] is first
    assert desk.ui.pluginList.item(0).checkState() == qt.Qt.Checked
    assert desk.ui.deviceSelector.currentText == "CPU"


# the work


def test_classify_hands_the_ticked_plugins_with_their_volume_to_the_session(desk: Desk) -> None:
    volume = add_volume()
    desk.tick(0)
    desk.ui.classifyButton.click()
    (ticked,) = desk.session.asked[0]
    assert ticked.card.name == "HeadLesionPhantom"
    assert np.array_equal(ticked.images["image"].array, slicer.util.arrayFromVolume(volume))
    desk.classify.finished({"HeadLesionPhantom": {}})
    study, answers, cards = desk.found[0]
    assert (study.images, list(answers), len(cards)) == ({"image": volume}, ["HeadLesionPhantom"], 1)


def test_two_plugins_on_one_volume_share_what_is_handed_over(desk: Desk, plugins: Path) -> None:
    write_plugin_file(plugins / "second.safetensors", name="Second")
    add_volume()
    desk.classify.refresh()
    desk.tick(0)
    desk.tick(1)
    desk.ui.classifyButton.click()
    first, second = desk.session.asked[0]
    assert first.images["image"] is second.images["image"]


def test_while_the_session_works_only_cancel_can_be_clicked(desk: Desk) -> None:
    from AnyMC3DUI.session import Doing, State

    add_volume()
    desk.tick(0)
    desk.ui.classifyButton.click()
    desk.classify.changed(State.CLASSIFYING)
    desk.classify.progressed(Doing("Classifying (3 of 10)", 0.3))
    assert not desk.ui.classifyButton.enabled
    assert not desk.ui.pluginList.enabled
    assert (desk.ui.stepLabel.text, desk.ui.progressBar.value) == ("Classifying (3 of 10)", 300)
    desk.classify.progressed(Doing("Loading"))
    assert desk.ui.progressBar.maximum == 0
    desk.ui.cancelButton.click()
    assert desk.session.cancelled == 1
    desk.session.busy = False
    desk.classify.changed(State.IDLE)
    desk.classify.cancelled()
    assert desk.ui.classifyButton.enabled
    assert desk.ui.stepLabel.text == "Cancelled."


def test_a_failure_is_said_in_its_sentence_and_kept_in_the_log(desk: Desk) -> None:
    add_volume()
    desk.tick(0)
    desk.classify.failed("The worker was killed by the system.")
    assert desk.ui.stepLabel.text == "The worker was killed by the system."
    assert "killed" in desk.ui.logEdit.toPlainText()
    assert desk.ui.classifyButton.enabled


def test_a_volume_that_cannot_be_handed_over_is_refused_in_a_sentence(desk: Desk) -> None:
    volume = add_volume()
    desk.tick(0)
    transform = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLGridTransformNode")
    volume.SetAndObserveTransformNodeID(transform.GetID())
    desk.ui.classifyButton.click()
    assert "not linear" in desk.ui.stepLabel.text
    assert not desk.session.asked


def test_the_chosen_device_is_the_sessions(desk: Desk) -> None:
    from AnyMC3DUI.devices import DeviceChoice

    desk.classify.set_devices([DeviceChoice("auto", "Automatic: H200"), DeviceChoice("cuda:0", "H200 (139 GB)")])
    desk.ui.deviceSelector.setCurrentIndex(1)
    assert (desk.session.device, desk.parameters.device) == ("cuda:0", "cuda:0")


# results


def test_answers_are_sorted_bars_with_the_decision_and_its_doubt_in_words(desk: Desk) -> None:
    probabilities = {"a": 0.2, "b": 0.45, "c": 0.35}
    decisions = {"a": False, "b": True, "c": False}
    desk.results.show([desk.store(prediction("Three", probabilities, decisions=decisions, spots={}))])
    texts = [label.text for label in desk.ui.answersArea.findChildren(qt.QLabel)]
    words = [text for text in texts if text and not text.startswith("<b>")]
    assert words[:3] == ["b", "45.0 %", "yes, uncertain"]
    assert [text for text in words if text in probabilities] == ["b", "c", "a"]


@pytest.mark.parametrize(("share", "words"), [(0.0, "0.0 %"), (1e-5, "< 0.1 %"), (0.99999, "> 99.9 %"), (1, "100.0 %")])
def test_a_probability_is_never_rounded_to_certainty(desk: Desk, share: float, words: str) -> None:
    from AnyMC3DUI.answer_view import percent

    assert percent(share) == words


def test_warnings_stand_in_plain_sight(desk: Desk) -> None:
    desk.results.show([desk.store(prediction(warnings=("Slices are missing & bent.",)))])
    assert "Slices are missing &amp; bent." in desk.ui.warningsLabel.text
    assert "not for clinical use" in desk.ui.warningsLabel.text
    assert not desk.ui.warningsLabel.isHidden()


def test_the_heat_of_what_was_found_is_rendered_and_shown_at_once(desk: Desk) -> None:
    volume = add_volume()
    results = desk.store(prediction(), volume=volume)
    desk.results.show([results], fresh=True)
    (asked,) = desk.session.renders
    assert (asked["plugin"], asked["class"], asked["shape"]) == ("Head lesion", "lesion", (6, 8, 10))
    assert np.allclose(asked["ijk_to_ras"], np.diag([2, 2, 2, 1]))
    asked["done"](np.full((6, 8, 10), 0.9, dtype=np.float32))
    (shown,) = desk.overlay.shown
    assert shown == (volume, results.heat("Head lesion", "lesion"), "lesion")
    assert (desk.ui.overlayButton.checked, desk.ui.overlayButton.text) == (True, "Hide")


def test_below_the_threshold_there_is_no_heat_unless_it_is_asked_for(desk: Desk) -> None:
    desk.results.show([desk.store(prediction(probabilities={"normal": 0.9, "lesion": 0.1}))], fresh=True)
    assert not desk.session.renders
    assert not desk.ui.overlayButton.checked
    assert "no heat is shown" in desk.ui.heatStateLabel.text
    assert desk.ui.hotSpotTable.rowCount == 0
    desk.ui.overlayButton.click()
    desk.session.renders[0]["done"](np.zeros((6, 8, 10), dtype=np.float32))
    assert desk.overlay.visible
    assert "does not reach its threshold" in desk.ui.heatStateLabel.text


def test_the_button_hides_the_heat_and_shows_it_again_without_rendering(desk: Desk) -> None:
    desk.results.show([desk.store(prediction())], fresh=True)
    desk.session.renders[0]["done"](np.zeros((6, 8, 10), dtype=np.float32))
    desk.ui.overlayButton.click()
    assert not desk.overlay.visible
    desk.ui.overlayButton.click()
    assert desk.overlay.visible
    assert len(desk.session.renders) == 1


def test_an_overlay_that_ends_by_itself_leaves_the_button_off(desk: Desk) -> None:
    desk.results.show([desk.store(prediction())], fresh=True)
    desk.session.renders[0]["done"](np.zeros((6, 8, 10), dtype=np.float32))
    desk.overlay.visible = False
    desk.overlay.ended()
    assert (desk.ui.overlayButton.checked, desk.ui.overlayButton.text) == (False, "Show")


def test_the_key_switches_the_heat_also_while_another_module_is_open(desk: Desk, host: Host) -> None:  # noqa: F811
    from AnyMC3DUI import results_panel

    key = results_panel.SHORTCUT
    assert key in desk.ui.overlayButton.toolTip
    (shortcut,) = [one for one in host.window.findChildren(qt.QShortcut) if one.key.toString() == key]
    shortcut.activated.emit()
    assert not desk.overlay.visible and not desk.ui.overlayButton.checked
    desk.results.show([desk.store(prediction())], fresh=True)
    desk.session.renders[0]["done"](np.zeros((6, 8, 10), dtype=np.float32))
    desk.ui.overlayButton.window().hide()
    shortcut.activated.emit()
    assert not desk.overlay.visible
    shortcut.activated.emit()
    assert desk.overlay.visible
    desk.results.close()
    host.app.sendPostedEvents()
    assert key not in [one.key.toString() for one in host.window.findChildren(qt.QShortcut)]


def test_each_class_is_rendered_when_it_is_chosen(desk: Desk) -> None:
    spots = {"a": [((0, 0, 0), 0.9)], "b": [((2, 2, 2), 0.8)]}
    desk.results.show([desk.store(prediction("Two", {"a": 0.9, "b": 0.7}, spots=spots))], fresh=True)
    desk.ui.heatClassSelector.setCurrentIndex(1)
    assert [one["class"] for one in desk.session.renders] == ["a", "b"]
    # The first one's picture comes late, and is kept but not shown.
    desk.session.renders[0]["done"](np.zeros((6, 8, 10), dtype=np.float32))
    assert not desk.overlay.shown
    desk.session.renders[1]["done"](np.zeros((6, 8, 10), dtype=np.float32))
    assert desk.overlay.shown[0][2] == "b"
    assert list(desk.parameters.heat) == ["Two", "b"]


def test_a_heat_that_cannot_be_rendered_says_why(desk: Desk) -> None:
    desk.results.show([desk.store(prediction())], fresh=True)
    desk.session.renders[0]["failed"]("The engine was started anew.")
    assert desk.ui.heatStateLabel.text == "The engine was started anew."
    assert not desk.ui.overlayButton.checked


def test_the_sliders_move_the_heat_that_is_shown_and_are_kept_with_the_scene(desk: Desk) -> None:
    desk.results.show([desk.store(prediction())], fresh=True)
    desk.session.renders[0]["done"](np.zeros((6, 8, 10), dtype=np.float32))
    desk.ui.thresholdSlider.value = 0.7
    desk.ui.opacitySlider.value = 0.3
    assert (desk.overlay.threshold, desk.overlay.opacity) == pytest.approx((0.7, 0.3))
    assert (desk.parameters.threshold, desk.parameters.opacity) == pytest.approx((0.7, 0.3))


def test_a_click_on_a_hot_spot_moves_the_views_there(desk: Desk) -> None:
    desk.results.show([desk.store(prediction())])
    assert desk.ui.hotSpotTable.item(0, 1).text() == "0.94"
    desk.ui.hotSpotTable.cellClicked.emit(1, 0)
    assert desk.jumps == [[-4.0, 8.0, 10.0]]


def test_results_of_a_closed_scene_are_gone_from_the_panel(desk: Desk) -> None:
    desk.results.show([desk.store(prediction())])
    desk.results.show(())
    assert desk.ui.resultsTitleLabel.text == "No study was classified yet."
    assert desk.ui.heatClassSelector.count == 0
    assert not desk.ui.saveReportButton.enabled
    assert desk.ui.hotSpotTable.isHidden()


def test_the_report_button_says_where_the_report_is_or_why_there_is_none(desk: Desk) -> None:
    desk.results.show([desk.store(prediction())])
    desk.ui.saveReportButton.click()
    assert desk.ui.heatStateLabel.text == "1 saved"


def test_the_report_is_a_page_with_pictures_and_a_table(desk: Desk, tmp_path: Path) -> None:
    from AnyMC3DUI.report_page import save_report

    results = [desk.store(prediction("A <plugin>", warnings=("Look & see.",)))]
    sentence = save_report(results, ask=lambda: str(tmp_path / "answer"), pictures={"Red": b"PNG"})
    assert "answer.html" in sentence
    page = (tmp_path / "answer.html").read_text(encoding="utf-8")
    for words in (
        "A &lt;plugin&gt;",
        "Look &amp; see.",
        "97.0 %",
        "not for clinical use",
        "image/png;base64,UE5H",
    ):
        assert words in page
    rows = list(csv.DictReader((tmp_path / "answer.csv").open(encoding="utf-8")))
    assert [(row["class"], row["decision"]) for row in rows] == [("lesion", "yes"), ("normal", "no")]
    assert save_report(results, ask=lambda: "") is None
    with pytest.raises(InputError):
        save_report(results)


def test_a_new_box_is_drawn_about_the_middle_of_the_volume(desk: Desk, plugins: Path) -> None:
    write_plugin_file(plugins / "box.safetensors", name="Box", region="box")
    volume = add_volume(shape=(10, 20, 30))
    desk.classify.refresh()
    desk.tick(0)
    (box,) = desk.classify._rows._regions.values()
    roi = box.addNode()
    bounds = [0.0] * 6
    volume.GetRASBounds(bounds)
    assert roi.GetCenterWorld() == pytest.approx(
        [(low + high) / 2 for low, high in zip(bounds[::2], bounds[1::2], strict=True)]
    )
    assert roi.GetSize() == pytest.approx(
        [(high - low) / 2 for low, high in zip(bounds[::2], bounds[1::2], strict=True)]
    )
    assert desk.ui.classifyButton.enabled


def test_a_segment_that_is_drawn_or_renamed_meanwhile_can_be_chosen(desk: Desk, plugins: Path) -> None:
    write_plugin_file(plugins / "organ.safetensors", name="An organ", region="segment")
    add_volume()
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "organs")
    desk.classify.refresh()
    desk.tick(0)
    (regions,), (segments,) = desk.classify._rows._regions.values(), desk.classify._rows._segments.values()
    regions.setCurrentNode(node)
    first = node.GetSegmentation().AddEmptySegment("", "liver")
    node.GetSegmentation().AddEmptySegment("", "spleen")
    assert [segments.itemText(row) for row in range(segments.count)] == ["liver", "spleen"]
    node.GetSegmentation().GetSegment(first).SetName("left kidney")
    assert segments.itemText(0) == "left kidney"
    node.GetSegmentation().RemoveSegment(first)
    assert [segments.itemText(row) for row in range(segments.count)] == ["spleen"]


def test_what_was_asked_about_is_not_kept_in_memory(desk: Desk) -> None:
    add_volume()
    desk.classify.prefill()
    desk.tick(0)
    for end in (lambda: desk.classify.finished({}), lambda: desk.classify.failed("No."), desk.classify.cancelled):
        desk.session.busy = False
        desk.classify.classify()
        assert desk.classify._asked is not None
        end()
        assert desk.classify._asked is None


# the form


def test_every_widget_that_the_code_names_is_in_the_form(desk: Desk) -> None:
    sources = (REPOSITORY / "AnyMC3D").rglob("*.py")
    named = {name for path in sources for name in re.findall(r"\bui\.(\w+)", path.read_text(encoding="utf-8"))}
    assert named - set(vars(desk.ui)) == set()


def test_nothing_in_the_panel_is_wider_than_slicers_module_panel(desk: Desk, host: Host) -> None:  # noqa: F811
    long = "a very long class name that a person has to be able to read in a narrow panel"
    desk.results.show([desk.store(prediction("A plugin with a long name", {"no": 0.2, long: 0.8}, spots={long: []}))])
    host.app.processEvents()
    assert host.window.panel.widget().minimumSizeHint().width() <= 400
