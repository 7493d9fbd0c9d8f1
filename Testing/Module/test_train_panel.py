"""The Train tab over its form, with a client that answers as the test says: nothing is trained here."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import slicer
from hosting import REPOSITORY, Host, host, qt  # noqa: F401
from plugin_files import write_plugin_file
from training_desk import Clock, FakeClient, Request, answer, table
from worker_desk import spin

from AnyMC3DLib.client import RequestFailed
from AnyMC3DLib.errors import AnyMC3DError, InputError
from AnyMC3DLib.messages import Train
from AnyMC3DLib.transport import WorkerDied

GB = 1 << 30
MINUTE = 60.0


@dataclasses.dataclass
class Answers:
    """A person who answers each question alike."""

    answer: bool = True
    questions: list[str] = dataclasses.field(default_factory=list)

    def yes(self, question: str) -> bool:
        self.questions.append(question)
        return self.answer


class Tab:
    """The tab over a table of cases."""

    def __init__(self, running: Host, folder: Path, dataset: Any) -> None:
        from AnyMC3DUI.plugin_folder import PluginFolder

        self.host, self.place, self.dataset = running, folder, dataset
        self.ask, self.clock = Answers(), Clock()
        self.client, self.preview = FakeClient(), FakeClient()
        self.folder = PluginFolder(folder / "plugins")
        self.loaded: list[str] = []
        self.trained: list[Any] = []
        self.saves = 0
        self.open()

    def open(self) -> None:
        """Make form and panel, as at the start of the application."""
        from AnyMC3DUI.train_panel import TrainPanel

        form = slicer.util.loadUI(str(REPOSITORY / "Resources" / "UI" / "AnyMC3DTrain.ui"))
        self.host.window.panel.setWidget(form)
        self.ui = slicer.util.childWidgetVariables(form)
        self.panel = TrainPanel(
            self.ui, scene=slicer.mrmlScene, dataset=lambda: self.dataset, save_dataset=self.save,
            load_case=self.loaded.append, client=self.client, preview_client=self.preview,
            plugin_folder=self.folder, device=lambda: "cpu", trained=self.trained.append, ask=self.ask,
            clock=self.clock,
        )  # fmt: skip

    def save(self) -> bool:
        self.saves += 1
        self.dataset.save(self.dataset.path or self.place / "cases.csv")
        return True

    @property
    def state(self) -> str:
        return self.ui.trainStateLabel.text

    def choose(self, box: str, value: str) -> None:
        selector = getattr(self.ui, box)
        selector.setCurrentIndex(selector.findData(value))

    def start(self, name: str = "Lesion") -> Request:
        self.ui.trainNameEdit.text = name
        self.ui.trainStartButton.click()
        return self.client.last

    def pause(self) -> Request:
        """A training that was begun and paused."""
        training = self.start()
        training.tells("Training, epoch 1 of 10", 1, 4)
        self.ui.trainPauseButton.click()
        training.done({"suspended": True, "run": training.params.run, "epochs": []})
        return training

    def finish(self, training: Request, **changed: Any) -> None:
        run = Path(training.params.run)
        write_plugin_file(run / "plugin.safetensors", name=self.ui.trainNameEdit.text)
        training.done(answer(str(run), **changed))


@pytest.fixture
def tab(host: Host, tmp_path: Path) -> Tab:  # noqa: F811
    return Tab(host, tmp_path, table(tmp_path))


# The table of cases


def test_the_tab_says_which_table_it_is_and_how_many_cases_are_in_each_split(tab: Tab) -> None:
    assert tab.ui.trainDatasetLabel.text == "cases.csv: 8 cases (train 4, val 2, test 2)."


def test_without_a_table_the_tab_says_where_to_make_one(tab: Tab) -> None:
    tab.dataset = None
    tab.panel.refresh()
    assert "'Dataset'" in tab.ui.trainDatasetLabel.text
    assert not tab.ui.trainStartButton.enabled and not tab.ui.trainEstimateButton.enabled


def test_what_the_table_lacks_is_told_and_holds_the_start_back(tab: Tab, tmp_path: Path) -> None:
    tab.ui.trainNameEdit.text = "Lesion"
    assert tab.ui.trainStartButton.enabled
    tab.dataset = table(tmp_path, splits=False)
    tab.panel.refresh()
    assert "No case has a split yet" in tab.ui.trainDatasetLabel.text
    assert not tab.ui.trainStartButton.enabled
    tab.ui.trainFoldsSpin.value = 4
    assert "split yet" not in tab.ui.trainDatasetLabel.text and tab.ui.trainStartButton.enabled


@pytest.mark.parametrize(("name", "words"), [("", "Give the plugin a name."), ("  ", "Give"), ("a/b", "slash"),
                                             ("a\\b", "slash")])  # fmt: skip
def test_a_plugin_needs_a_name_without_a_slash(tab: Tab, name: str, words: str) -> None:
    tab.ui.trainNameEdit.text = "fine"
    assert tab.ui.trainStartButton.enabled and tab.state == ""
    tab.ui.trainNameEdit.text = name
    assert not tab.ui.trainStartButton.enabled and words in tab.state


def test_a_plugin_needs_a_view(tab: Tab) -> None:
    tab.ui.trainNameEdit.text = "Lesion"
    tab.ui.trainAxialCheck.checked = False
    assert not tab.ui.trainStartButton.enabled and not tab.ui.trainEstimateButton.enabled
    assert tab.state == "Choose a view."
    tab.ui.trainCoronalCheck.checked = True
    assert tab.ui.trainStartButton.enabled and tab.state == ""


# The choices


def test_what_needs_no_download_comes_first_then_what_is_recommended_with_size_and_licence(tab: Tab) -> None:
    box = tab.ui.trainBackboneSelector
    assert [box.itemData(row) for row in range(2)] == ["efficientnet_lite0", "dinov2_vits14"]
    tips = [box.itemData(row, qt.Qt.ToolTipRole) for row in range(box.count)]
    assert "22.1 million" in tips[1] and "Apache-2.0" in tips[1] and "need no download" in tips[0]
    assert "install it first with 'anymc3d backbone fetch dinov2_vits14'" in tips[1]
    assert "accept the licence on its page" in tips[box.findData("dinov3_vits16")]
    assert box.itemText(1) == "DINOv2 ViT-S/14"


def test_the_methods_are_told_in_words(tab: Tab) -> None:
    box = tab.ui.trainMethodSelector
    assert [(box.itemData(row), box.itemText(row)) for row in range(box.count)] == [
        ("lora", "LoRA adapters (recommended)"), ("frozen", "frozen backbone, attention"),
        ("probe", "linear probe"), ("full", "full fine-tuning"),
    ]  # fmt: skip


def test_masks_teach_only_where_a_case_has_one_and_the_method_can_learn_from_it(tab: Tab, tmp_path: Path) -> None:
    assert not tab.ui.trainPixelsCheck.enabled
    assert tab.start().params.task["training"]["pixels"]["weight"] == 0
    tab.client.last.failed(InputError("No."))
    tab.dataset = table(tmp_path, masks=True)
    tab.panel.refresh()
    for method, can in (("lora", True), ("frozen", False), ("probe", False), ("full", True)):
        tab.choose("trainMethodSelector", method)
        assert tab.ui.trainPixelsCheck.enabled == can
    assert tab.start().params.task["training"]["pixels"]["weight"] == 1


def test_epochs_and_folds_are_chosen_where_the_method_has_them(tab: Tab) -> None:
    for method, epochs, folds in (
        ("lora", True, True), ("frozen", False, True), ("probe", False, True), ("full", True, False),
    ):  # fmt: skip
        tab.choose("trainMethodSelector", method)
        assert (tab.ui.trainEpochsSpin.enabled, tab.ui.trainFoldsSpin.enabled) == (epochs, folds)


def test_every_choice_is_in_what_the_worker_is_asked(tab: Tab) -> None:
    ui = tab.ui
    ui.trainQuestionEdit.text = "Is there a lesion?"
    tab.choose("trainBackboneSelector", "efficientnet_lite0")
    tab.choose("trainPresetSelector", "CT brain")
    tab.choose("trainMethodSelector", "frozen")
    ui.trainCoronalCheck.checked = ui.trainSagittalCheck.checked = True
    ui.trainAxialCheck.checked = False
    ui.trainSizeSpin.value, ui.trainCountSpin.value = 192, 30
    ui.trainEpochsSpin.value, ui.trainBudgetSpin.value = 7, 90
    params = tab.start("New plugin").params
    plugin = params.task["plugin"]
    assert (plugin["name"], plugin["description"]) == ("New plugin", "Is there a lesion?")
    assert plugin["backbone"]["id"] == "efficientnet_lite0" and params.task["training"]["epochs"] == 7
    assert [view["name"] for view in plugin["views"]] == ["coronal", "sagittal"]
    cut = plugin["views"][0]["preprocessing"]
    assert (cut["size"], cut["slices"]["count"], cut["intensity"]["windows"]) == ([192, 192], 30, ["brain"])
    assert [one["name"] for one in plugin["classes"]] == ["no lesion", "lesion"]
    assert (params.method, params.minutes, params.folds, params.device) == ("frozen", 90.0, None, "cpu")
    assert params.data == str(tab.dataset.path) and params.test_splits == ("test",)


def test_folds_take_no_cases_aside_for_a_test(tab: Tab) -> None:
    tab.ui.trainFoldsSpin.value = 3
    params = tab.start().params
    assert params.folds == 3 and params.test_splits == () and params.minutes is None


# The start


def test_the_order_is_written_before_the_worker_is_asked(tab: Tab) -> None:
    before: list[Any] = []
    real = tab.client.request

    def noting(method: str, params: Any, **callbacks: Any) -> Any:
        before.append(json.loads((Path(params.run) / "order.json").read_text()))
        return real(method, params, **callbacks)

    tab.client.request = noting
    training = tab.start()
    assert Path(training.params.run).parent == tab.place / "runs" and training.params.out is None
    assert Train.from_dict(before[0]) == training.params and not training.params.resume


def test_a_changed_table_is_saved_before_the_start_if_the_person_agrees(tab: Tab) -> None:
    tab.dataset.set_cell(tab.dataset.keys[0], "case", "renamed")
    tab.ask.answer = False
    tab.ui.trainNameEdit.text = "Lesion"
    tab.ui.trainStartButton.click()
    assert tab.client.requests == [] and tab.saves == 0 and "not saved" in tab.ask.questions[0]
    tab.ask.answer = True
    tab.ui.trainStartButton.click()
    assert tab.saves == 1 and tab.client.asked == ["train"]
    assert "renamed" in (tab.place / "cases.csv").read_text()


def test_a_table_that_could_not_be_saved_is_not_trained_on(tab: Tab) -> None:
    tab.dataset.set_cell(tab.dataset.keys[0], "case", "renamed")
    tab.panel._save_dataset = lambda: False
    tab.ui.trainNameEdit.text = "Lesion"
    tab.ui.trainStartButton.click()
    assert tab.client.requests == []


def test_the_name_of_an_installed_plugin_is_taken_only_if_the_person_agrees(tab: Tab) -> None:
    tab.folder.path.mkdir()
    write_plugin_file(tab.folder.path / "one.safetensors", name="Lesion")
    tab.folder.refresh()
    tab.ask.answer = False
    tab.ui.trainNameEdit.text = "Lesion"
    tab.ui.trainStartButton.click()
    assert tab.client.requests == [] and "'Lesion' is installed" in tab.ask.questions[0]
    tab.ask.answer = True
    tab.ui.trainStartButton.click()
    assert tab.client.asked == ["train"]


def test_a_place_where_no_run_can_lie_is_told(tab: Tab) -> None:
    (tab.place / "runs").write_text("a file")
    tab.ui.trainNameEdit.text = "Lesion"
    tab.ui.trainStartButton.click()
    assert tab.client.requests == [] and "cannot hold a run" in tab.state and not tab.panel.busy


# While it trains


def test_a_training_locks_the_setup_and_can_be_paused_and_once_an_epoch_ended_stopped(tab: Tab) -> None:
    ui = tab.ui
    assert not ui.trainPauseButton.enabled and not ui.trainStopButton.enabled
    training = tab.start()
    assert tab.panel.busy
    setup = [ui.trainNameEdit, ui.trainQuestionEdit, ui.trainBackboneSelector, ui.trainMethodSelector,
             ui.trainPresetSelector, ui.trainAxialCheck, ui.trainCoronalCheck, ui.trainSagittalCheck, ui.trainSizeSpin,
             ui.trainCountSpin, ui.trainEpochsSpin, ui.trainFoldsSpin, ui.trainBudgetSpin]  # fmt: skip
    assert not any(widget.enabled for widget in setup)
    assert not (ui.trainStartButton.enabled or ui.trainEstimateButton.enabled or ui.trainResumeButton.enabled)
    assert ui.trainPauseButton.enabled and not ui.trainStopButton.enabled
    training.ends_epoch("warm-up", 1, 50)
    assert ui.trainStopButton.enabled
    tab.finish(training)
    assert all(widget.enabled for widget in setup) and ui.trainStartButton.enabled
    assert not tab.panel.busy and not ui.trainPauseButton.enabled and not ui.trainStopButton.enabled


def test_the_state_is_told_in_words_with_a_bar_over_the_whole_work(tab: Tab) -> None:
    ui = tab.ui
    training = tab.start()
    assert tab.state == "Starting the engine" and ui.trainProgressBar.maximum == 0
    training.tells("Cutting slices", 3, 8)
    assert tab.state == "Cutting slices (3 of 8)"
    training.ends_epoch("warm-up", 3, 50)
    assert tab.state == "Warm-up, epoch 3 of 50" and ui.trainProgressBar.maximum == 1000
    bars = [ui.trainProgressBar.value]
    training.ends_epoch("warm-up", 50, 50)
    for epoch in range(1, 11):
        training.tells(f"Training, epoch {epoch} of 10", 2, 4)
        assert tab.state == f"Training, epoch {epoch} of 10"
        bars.append(ui.trainProgressBar.value)
        training.ends_epoch("training", epoch, 10)
        bars.append(ui.trainProgressBar.value)
    assert bars == sorted(set(bars)) and bars[-1] == 1000


def test_the_time_left_comes_from_the_epochs_that_were_timed(tab: Tab) -> None:
    training, label = tab.start(), tab.ui.trainTimeLabel
    training.ends_epoch("warm-up", 50, 50)
    assert label.text == ""
    for epoch, words in ((1, "about 18 minutes left"), (2, "about 16 minutes left"), (9, "about 2 minutes left")):
        training.tells(f"Training, epoch {epoch} of 10", 4, 4)
        tab.clock.now += 2 * MINUTE
        training.ends_epoch("training", epoch, 10)
        assert label.text == words
    training.tells("Training, epoch 10 of 10", 3, 4)
    assert label.text == "a moment left"
    tab.finish(training)
    assert label.text == ""


def test_a_time_limit_bounds_the_time_left(tab: Tab) -> None:
    tab.ui.trainBudgetSpin.value = 10
    training = tab.start()
    training.ends_epoch("warm-up", 50, 50)
    training.tells("Training, epoch 1 of 10", 4, 4)
    tab.clock.now += 4 * MINUTE
    training.ends_epoch("training", 1, 10)
    assert tab.ui.trainTimeLabel.text == "about 6 minutes left"


def test_of_an_ensemble_the_fold_is_told_and_the_work_is_that_of_all_folds(tab: Tab) -> None:
    tab.ui.trainFoldsSpin.value = 2
    tab.ui.trainEpochsSpin.value = 2
    training = tab.start()
    for fold, share in ((1, 0.5), (2, 1.0)):
        training.tells(f"Fold {fold} of 2: Embedding training slices", 1, 4)
        assert tab.state == f"Embedding training slices (1 of 4), fold {fold} of 2"
        training.ends_epoch("warm-up", 50, 50, fold=fold)
        for epoch in (1, 2):
            training.tells(f"Fold {fold} of 2: Training, epoch {epoch} of 2", 4, 4)
            tab.clock.now += 5 * MINUTE
            training.ends_epoch("training", epoch, 2, fold=fold)
        assert tab.state == f"Training, epoch 2 of 2, fold {fold} of 2"
        assert tab.ui.trainProgressBar.value == round(1000 * share)
        if fold == 1:
            assert tab.ui.trainTimeLabel.text == "about 10 minutes left"


def test_the_time_before_the_first_epoch_of_a_fold_is_no_epochs_time(tab: Tab) -> None:
    tab.ui.trainFoldsSpin.value, tab.ui.trainEpochsSpin.value = 3, 2
    training = tab.start()
    for fold in (1, 2):
        training.tells(f"Fold {fold} of 3: Embedding training slices", 1, 4)
        tab.clock.now += 30 * MINUTE
        for epoch in (1, 2):
            training.ends_epoch("warm-up", epoch, 50, fold=fold)
        if fold == 2:
            break
        for epoch in (1, 2):
            training.tells(f"Fold {fold} of 3: Training, epoch {epoch} of 2", 4, 4)
            tab.clock.now += 5 * MINUTE
            training.ends_epoch("training", epoch, 2, fold=fold)
    assert tab.ui.trainTimeLabel.text == "about 20 minutes left"


def test_epochs_that_are_told_again_after_a_pause_are_not_taken_for_fast_ones(tab: Tab) -> None:
    tab.pause()
    tab.ui.trainResumeButton.click()
    training = tab.client.last
    training.tells("Cutting slices", 8, 8)
    for epoch in (1, 2, 3):
        training.ends_epoch("training", epoch, 10)
    assert tab.ui.trainTimeLabel.text == "" and tab.state == "Training, epoch 3 of 10"
    training.tells("Training, epoch 4 of 10", 4, 4)
    tab.clock.now += 3 * MINUTE
    training.ends_epoch("training", 4, 10)
    assert tab.ui.trainTimeLabel.text == "about 18 minutes left"


def test_the_table_is_not_looked_through_at_every_epoch(tab: Tab, monkeypatch: pytest.MonkeyPatch) -> None:
    training, looks = tab.start(), []
    monkeypatch.setattr(tab.dataset, "ready_problem", lambda **_: looks.append(True))
    for epoch in range(1, 51):
        training.tells("Cutting slices", epoch, 50)
        training.ends_epoch("warm-up", epoch, 50)
    assert looks == []


# Pause, stop, resume


def test_a_pause_ends_the_work_and_resume_goes_on_with_it(tab: Tab) -> None:
    first = tab.pause()
    assert tab.client.asked == ["train", "suspend"] and not tab.panel.busy
    assert tab.state.startswith("Paused") and tab.ui.trainTimeLabel.text == ""
    assert tab.ui.trainResumeButton.enabled
    assert "'Lesion', begun on 20" in tab.ui.trainResumeLabel.text and not tab.ui.trainResumeLabel.isHidden()
    tab.ui.trainResumeButton.click()
    second = tab.client.last
    assert second.params == dataclasses.replace(first.params, resume=True)
    assert tab.panel.busy and tab.ui.trainResumeLabel.isHidden()


def test_a_run_that_goes_on_does_not_take_the_place_of_a_plugin_without_a_question(tab: Tab) -> None:
    tab.pause()
    tab.folder.path.mkdir()
    write_plugin_file(tab.folder.path / "lesion.safetensors", name="Lesion")
    tab.folder.refresh()
    tab.ask.answer = False
    tab.ui.trainResumeButton.click()
    assert "'Lesion' is installed" in tab.ask.questions[-1]
    assert not tab.panel.busy and tab.ui.trainResumeButton.enabled
    tab.ask.answer = True
    tab.ui.trainResumeButton.click()
    assert tab.panel.busy


def test_a_hard_case_of_a_table_that_is_not_open_any_more_is_not_another_ones(tab: Tab, tmp_path: Path) -> None:
    tab.finish(tab.start())
    (tmp_path / "other").mkdir()
    tab.dataset = table(tmp_path / "other")
    tab.ui.trainHardTable.cellDoubleClicked.emit(0, 0)
    assert tab.loaded == []
    assert tab.state == "Open cases.csv in the Dataset tab: its cases can be loaded from there."


def test_a_pause_is_told_until_the_state_is_written(tab: Tab) -> None:
    training = tab.start()
    training.tells("Training, epoch 1 of 10", 1, 4)
    tab.ui.trainPauseButton.click()
    assert tab.state.startswith("Pausing") and not tab.ui.trainPauseButton.enabled
    training.tells("Training, epoch 1 of 10", 2, 4)
    training.ends_epoch("training", 1, 10)
    assert tab.state.startswith("Pausing") and tab.panel.busy


def test_a_run_goes_on_after_the_application_was_closed(tab: Tab) -> None:
    first = tab.pause()
    tab.panel.close()
    tab.open()
    assert tab.ui.trainResumeButton.enabled and "'Lesion'" in tab.ui.trainResumeLabel.text
    tab.ui.trainResumeButton.click()
    assert tab.client.last.params.resume and tab.client.last.params.run == first.params.run
    tab.ui.trainNameEdit.text = "Lesion"
    tab.finish(tab.client.last)
    assert not tab.ui.trainResumeButton.enabled and tab.ui.trainResumeLabel.isHidden()


def test_another_table_has_no_run_to_go_on_with(tab: Tab) -> None:
    tab.pause()
    other = table(tab.place)
    other.save(tab.place / "others.csv")
    tab.dataset = other
    tab.panel.refresh()
    assert not tab.ui.trainResumeButton.enabled
    tab.dataset = None
    tab.panel.refresh()
    assert not tab.ui.trainResumeButton.enabled


def test_stopping_keeps_the_best_and_installs_it(tab: Tab) -> None:
    training = tab.start()
    training.tells("Training, epoch 1 of 10", 4, 4)
    training.ends_epoch("training", 1, 10)
    tab.ui.trainStopButton.click()
    assert tab.client.asked == ["train", "stop"] and tab.state.startswith("Stopping")
    assert not tab.ui.trainStopButton.enabled and not tab.ui.trainPauseButton.enabled
    tab.finish(training, stopped_early=True)
    assert "Stopped early: AUC 0.87" in tab.state and [card.name for card in tab.trained] == ["Lesion"]


def test_an_ensemble_that_was_stopped_before_its_folds_were_all_there_is_paused(tab: Tab) -> None:
    tab.ui.trainFoldsSpin.value = 2
    training = tab.start()
    training.tells("Fold 1 of 2: Training, epoch 1 of 10", 1, 4)
    training.ends_epoch("training", 1, 10, fold=1)
    tab.ui.trainStopButton.click()
    training.done({"suspended": True, "run": training.params.run, "epochs": []})
    assert "all of its folds" in tab.state and tab.ui.trainResumeButton.enabled


# What came of it


def test_a_finished_plugin_is_installed_and_told_of(tab: Tab) -> None:
    tab.finish(tab.start())
    assert [card.name for card in tab.folder.cards] == ["Lesion"]
    (card,) = tab.trained
    assert card.name == "Lesion" and card.path.parent == tab.folder.path
    assert tab.state == "Finished: AUC 0.87 (0.75 to 0.95) on held-out cases. The plugin 'Lesion' is installed."
    assert tab.ui.trainProgressBar.value == 1000
    # Its memory is given back.
    assert tab.client.closed == [0]


def test_a_plugin_that_cannot_be_installed_is_told_and_not_told_of(tab: Tab) -> None:
    training = tab.start()
    training.done(answer(training.params.run))
    assert "It cannot be installed: " in tab.state and tab.trained == []


def test_the_hardest_cases_are_listed_and_a_double_click_loads_one(tab: Tab) -> None:
    table_widget = tab.ui.trainHardTable
    assert tab.ui.trainHardSection.collapsed
    tab.finish(tab.start())
    assert not tab.ui.trainHardSection.collapsed
    rows = [[table_widget.item(row, column).text() for column in range(4)] for row in range(table_widget.rowCount)]
    assert rows == [["case 4", "lesion", "no lesion", "0.90"], ["case 5", "no lesion", "no lesion", "0.75"]]
    table_widget.cellDoubleClicked.emit(1, 2)
    assert tab.loaded == ["case 5"]
    tab.start("Another")
    assert table_widget.rowCount == 0


def test_a_hard_case_of_several_labels_is_told_by_the_label_that_is_most_wrong(host: Host) -> None:  # noqa: F811
    from AnyMC3DUI.train_words import hard_row

    case = {"case": "a", "target": {"x": 1, "y": 0, "z": None}, "probabilities": {"x": 0.4, "y": 0.9, "z": 0.0}}
    assert hard_row(case) == ("a", "no y", "y", "0.90")
    case["probabilities"]["x"] = 0.01
    assert hard_row(case) == ("a", "x", "no x", "0.99")


def test_the_report_is_opened_in_the_browser(tab: Tab, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    services = type("Services", (), {"openUrl": staticmethod(lambda url: opened.append(url.toLocalFile()))})
    monkeypatch.setattr(sys.modules["AnyMC3DUI.train_watch"].qt, "QDesktopServices", services)
    assert not tab.ui.trainReportButton.enabled
    training = tab.start()
    report = Path(training.params.run) / "report.html"
    report.write_text("<html></html>")
    tab.finish(training)
    tab.ui.trainReportButton.click()
    assert [Path(path) for path in opened] == [report]
    report.unlink()
    tab.ui.trainReportButton.click()
    assert len(opened) == 1 and "not there any more" in tab.state
    tab.start("Another")
    assert not tab.ui.trainReportButton.enabled


def test_a_whole_backbone_stays_in_the_folder_of_its_run(tab: Tab) -> None:
    tab.choose("trainMethodSelector", "full")
    tab.ui.trainFoldsSpin.value = 5
    training = tab.start()
    assert training.params.method == "full" and training.params.folds is None
    (Path(training.params.run) / "model.safetensors").touch()
    training.done(answer(training.params.run, plugin=None))
    assert "no plugin" in tab.state and training.params.run in tab.state
    assert tab.trained == [] and not tab.ui.trainResumeButton.enabled


# Failures


@pytest.mark.parametrize("error", [InputError("A case cannot be read."), RequestFailed(-32001, "No backbone.")])
def test_a_training_that_never_began_leaves_no_run_behind(tab: Tab, error: AnyMC3DError) -> None:
    training = tab.start()
    training.failed(error)
    assert tab.state == str(error) and not tab.panel.busy
    assert not tab.ui.trainResumeButton.enabled and not Path(training.params.run).exists()
    assert tab.ui.trainStartButton.enabled and tab.ui.trainProgressBar.maximum == 1000


def test_a_failure_after_a_state_was_written_leaves_a_run_to_go_on_with(tab: Tab) -> None:
    training = tab.start()
    (Path(training.params.run) / "state" / "state-00000001.safetensors").touch()
    training.failed(RequestFailed(-32002, "The memory does not suffice."))
    assert tab.state.startswith("The memory does not suffice. Resume goes on")
    assert tab.ui.trainResumeButton.enabled


def test_the_death_of_the_worker_leaves_a_run_to_go_on_with(tab: Tab) -> None:
    training = tab.start()
    training.failed(WorkerDied("The engine ended unexpectedly, it was killed."))
    assert "was killed. Resume goes on" in tab.state and tab.ui.trainResumeButton.enabled
    tab.ui.trainNameEdit.text = ""
    assert tab.state == "Give the plugin a name."


# The estimate


def estimate(**changed: Any) -> dict[str, Any]:
    given = {"minutes": 14.2, "parts": {}, "memory_bytes": int(3.2 * GB), "available_bytes": 15 * GB,
             "slices_bytes": 1, "cases": {}, "fits": True}  # fmt: skip
    return {**given, **changed}


def test_an_estimate_is_told_in_minutes_and_memory(tab: Tab) -> None:
    tab.ui.trainEstimateButton.click()
    request = tab.client.last
    assert request.method == "estimate" and request.params.method == "lora" and request.params.device == "cpu"
    assert tab.ui.trainEstimateLabel.text == "Measuring a few steps…" and not tab.ui.trainEstimateButton.enabled
    assert not tab.panel.busy
    request.done(estimate())
    assert tab.ui.trainEstimateLabel.text == "about 14 minutes, 3.2 GB of memory (of 15 GB free)"
    assert tab.ui.trainEstimateButton.enabled


def test_an_estimate_warns_where_there_is_no_memory(tab: Tab) -> None:
    tab.ui.trainEstimateButton.click()
    tab.client.last.done(estimate(fits=False, minutes=500.0, memory_bytes=40 * GB))
    text = tab.ui.trainEstimateLabel.text
    assert text.startswith("about 8 hours, 40 GB of memory (of 15 GB free). This may not fit")


def test_an_estimate_that_does_not_work_says_why(tab: Tab) -> None:
    tab.ui.trainEstimateButton.click()
    tab.client.last.failed(InputError("A case cannot be read."))
    assert tab.ui.trainEstimateLabel.text == "A case cannot be read." and tab.ui.trainEstimateButton.enabled


CHANGES = {
    "name": lambda ui: setattr(ui.trainNameEdit, "text", "x"),
    "backbone": lambda ui: ui.trainBackboneSelector.setCurrentIndex(3),
    "method": lambda ui: ui.trainMethodSelector.setCurrentIndex(2),
    "preset": lambda ui: ui.trainPresetSelector.setCurrentIndex(2),
    "axial": lambda ui: setattr(ui.trainAxialCheck, "checked", False),
    "coronal": lambda ui: setattr(ui.trainCoronalCheck, "checked", True),
    "sagittal": lambda ui: setattr(ui.trainSagittalCheck, "checked", True),
    "size": lambda ui: setattr(ui.trainSizeSpin, "value", 64),
    "count": lambda ui: setattr(ui.trainCountSpin, "value", 3),
    "epochs": lambda ui: setattr(ui.trainEpochsSpin, "value", 3),
    "folds": lambda ui: setattr(ui.trainFoldsSpin, "value", 3),
    "budget": lambda ui: setattr(ui.trainBudgetSpin, "value", 3),
    "masks": lambda ui: setattr(ui.trainPixelsCheck, "checked", False),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_choice_that_changes_takes_the_estimate_back(tab: Tab, change: str) -> None:
    tab.ui.trainEstimateButton.click()
    tab.client.last.done(estimate())
    CHANGES[change](tab.ui)
    assert tab.ui.trainEstimateLabel.text == ""


def test_an_estimate_of_what_was_changed_meanwhile_is_let_go(tab: Tab) -> None:
    tab.ui.trainEstimateButton.click()
    request = tab.client.last
    tab.ui.trainSizeSpin.value = 64
    assert tab.client.cancelled == [request]
    request.done(estimate())
    assert tab.ui.trainEstimateLabel.text == "" and tab.ui.trainEstimateButton.enabled


def test_a_changed_table_takes_the_estimate_back_and_a_look_at_the_tab_does_not(tab: Tab) -> None:
    tab.ui.trainEstimateButton.click()
    tab.client.last.done(estimate())
    tab.panel.refresh()
    assert tab.ui.trainEstimateLabel.text
    tab.dataset.remove(tab.dataset.keys[-2:])
    tab.panel.refresh()
    assert tab.ui.trainEstimateLabel.text == ""


# The preview


def slices_file(folder: Path, *, channels: int = 1, count: int = 5) -> Path:
    array = np.zeros((count, channels, 32, 48), dtype=np.float32)
    array[:, -1] = np.linspace(0, 1, count)[:, None, None]
    np.save(folder / "slices.npy", array)
    return folder / "slices.npy"


def unfolded(tab: Tab) -> Request:
    tab.ui.trainPreviewSection.collapsed = False
    return tab.preview.last


def shown(tab: Tab) -> Any:
    return tab.ui.trainPreviewLabel.pixmap.toImage()


def test_no_slices_are_cut_while_the_preview_is_folded(tab: Tab) -> None:
    tab.ui.trainSizeSpin.value = 64
    spin(lambda: not tab.panel._preview._pause.active)
    assert tab.preview.requests == []
    assert unfolded(tab).method == "preview"


def test_the_preview_shows_the_slices_as_the_network_gets_them(tab: Tab) -> None:
    request = unfolded(tab)
    view = tab.panel._views()[0]
    assert request.params.view == view.to_dict() and view.preprocessing.size == (224, 224)
    assert request.params.images["image"].file == str(tab.place / "image-0.nrrd")
    request.done({"array": str(slices_file(tab.place))})
    spin(lambda: tab.ui.trainPreviewSlider.maximum == 4)
    tab.ui.trainPreviewSlider.value = 4
    assert tab.ui.trainPreviewStateLabel.text == "Slice 5 of 5, 32 x 48 pixels"
    assert qt.QColor(shown(tab).pixel(10, 10)).getRgb()[:3] == (255, 255, 255)
    tab.ui.trainPreviewSlider.value = 2
    assert qt.QColor(shown(tab).pixel(10, 10)).getRgb()[:3] == (128, 128, 128)


def test_three_windows_are_shown_in_colours(tab: Tab) -> None:
    unfolded(tab).done({"array": str(slices_file(tab.place, channels=3))})
    spin(lambda: tab.ui.trainPreviewSlider.maximum == 4)
    tab.ui.trainPreviewSlider.value = 4
    assert qt.QColor(shown(tab).pixel(10, 10)).getRgb()[:3] == (0, 0, 255)


def test_the_preview_asks_once_after_the_last_of_several_changes(tab: Tab) -> None:
    tab.choose("trainBackboneSelector", "dinov2_vits14")
    unfolded(tab)
    for size in (64, 96, 128):
        tab.ui.trainSizeSpin.value = size
    tab.choose("trainPresetSelector", "CT lung")
    tab.ui.trainCountSpin.value = 3
    assert len(tab.preview.requests) == 1
    spin(lambda: len(tab.preview.requests) == 2)
    cut = tab.preview.last.params.view["preprocessing"]
    assert cut["intensity"]["windows"] == ["lung"] and cut["slices"]["count"] == 3
    # 128 pixels in whole patches of 14.
    assert cut["size"] == [140, 140]
    # What was asked for before is not waited for.
    assert tab.preview.cancelled == tab.preview.requests[:1]


def test_another_case_and_another_view_are_shown_when_they_are_chosen(tab: Tab) -> None:
    unfolded(tab)
    tab.ui.trainCoronalCheck.checked = True
    boxes = tab.ui.trainPreviewCaseSelector, tab.ui.trainPreviewViewSelector
    assert [box.count for box in boxes] == [8, 2]
    boxes[0].setCurrentIndex(3)
    boxes[1].setCurrentIndex(1)
    spin(lambda: len(tab.preview.requests) == 2)
    params = tab.preview.last.params
    assert params.view["name"] == "coronal" and params.images["image"].file.endswith("image-3.nrrd")
    tab.panel.refresh()
    assert [box.currentText for box in boxes] == ["case 3", "coronal"]


def test_a_case_that_cannot_be_cut_is_told(tab: Tab) -> None:
    unfolded(tab).failed(InputError("There is no image."))
    assert tab.ui.trainPreviewStateLabel.text == "There is no image." and not tab.ui.trainPreviewSlider.enabled
    tab.dataset = None
    tab.panel.refresh()
    spin(lambda: "no case" in tab.ui.trainPreviewStateLabel.text)


# The chart


def lines() -> dict[str, int]:
    nodes = slicer.util.getNodesByClass("vtkMRMLPlotSeriesNode")
    return {node.GetName(): node.GetTableNode().GetTable().GetNumberOfRows() for node in nodes}


def chart_title() -> str:
    (node,) = slicer.util.getNodesByClass("vtkMRMLPlotChartNode")
    return node.GetTitle()


def test_the_chart_grows_with_the_epochs_of_both_phases(tab: Tab) -> None:
    training = tab.start()
    for epoch in (1, 2):
        training.ends_epoch("warm-up", epoch, 2)
    training.ends_epoch("training", 1, 10, score=None)
    spin(lambda: lines() == {"loss": 3, "validation score": 2})
    assert chart_title() == "Lesion"
    tab.ui.trainChartButton.click()


def test_the_chart_of_an_ensemble_is_that_of_the_fold_that_is_trained(tab: Tab) -> None:
    tab.ui.trainFoldsSpin.value = 2
    training = tab.start()
    for fold, epoch in ((1, 1), (1, 2), (2, 1)):
        training.ends_epoch("warm-up", epoch, 50, fold=fold)
    spin(lambda: lines() == {"loss": 1, "validation score": 1})
    assert chart_title() == "Lesion, fold 2"


def test_a_training_goes_on_when_the_scene_is_closed_and_the_chart_comes_again(tab: Tab) -> None:
    training = tab.start()
    training.ends_epoch("warm-up", 1, 50)
    spin(lambda: lines() == {"loss": 1, "validation score": 1})
    tab.panel.scene_closes()
    slicer.mrmlScene.Clear(0)
    assert lines() == {} and tab.panel.busy
    spin(lambda: lines() == {"loss": 1, "validation score": 1})
    assert tab.client.closed == []


# Closing the application


def test_without_a_training_the_application_closes_without_a_question(tab: Tab) -> None:
    assert tab.panel.may_close() and tab.ask.questions == []


def test_closing_during_a_training_asks_and_a_no_lets_it_go_on(tab: Tab) -> None:
    tab.start()
    tab.ask.answer = False
    assert not tab.panel.may_close() and "can go on another time" in tab.ask.questions[0]
    assert tab.panel.busy and tab.client.asked == ["train"]


def test_closing_during_a_training_waits_until_its_state_is_written(tab: Tab) -> None:
    training = tab.start()
    training.tells("Training, epoch 1 of 10", 1, 4)
    qt.QTimer.singleShot(50, lambda: training.done({"suspended": True, "run": training.params.run, "epochs": []}))
    assert tab.panel.may_close()
    assert not tab.panel.busy and tab.client.asked == ["train", "suspend"] and tab.ui.trainResumeButton.enabled


def test_closing_ends_the_worker_and_nothing_is_told_any_more(tab: Tab) -> None:
    training = tab.start()
    tab.panel.close(wait_ms=7)
    assert tab.client.closed == [7] and not tab.panel.busy
    before = tab.state
    training.done(answer(training.params.run))
    training.tells("Training, epoch 1 of 10", 1, 4)
    training.ends_epoch("training", 1, 10)
    assert tab.state == before and tab.trained == []
