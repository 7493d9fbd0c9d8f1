"""The Train tab: a plugin's setup, its estimate, its training with pause, stop and resume, and what came of it."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import qt
import slicer
from slicer.i18n import tr as _

from AnyMC3DLib.errors import AnyMC3DError, InputError
from AnyMC3DLib.messages import EpochNote, ProgressNote, Train
from AnyMC3DLib.spec import ViewSpec
from AnyMC3DLib.training.presets import views_of

from .plugin_folder import PluginCard, PluginFolder
from .train_form import TrainForm
from .train_order import course_of, estimate_of, has_masks, order_of, table_words, title_of
from .train_preview import TrainPreview
from .train_runs import TrainRuns, UnfinishedRun
from .train_session import TrainSession, Work
from .train_watch import TrainWatch
from .train_words import end_words, estimate_words
from .worker_client import WorkerClient

if TYPE_CHECKING:
    from AnyMC3DLib.backbone_store import InstalledBackbone
    from AnyMC3DLib.training.dataset import Dataset

# For a batch to end and the state to be written; later the state before it is what can be gone on from.
SAVING_MS = 60_000


class Ask(Protocol):
    """Asks a person."""

    def yes(self, question: str) -> bool: ...


class TrainPanel:
    """Connects the widgets of the tab to the roles; as the session's listener it shows what becomes of the work.

    `client` is a worker of the training's own, so that plugins classify beside it; `preview_client` is that of the
    others. `trained` is told the plugin that was installed, `load_case` the name of a case to look at.
    """

    def __init__(
        self,
        ui: Any,
        *,
        scene: slicer.vtkMRMLScene,
        dataset: Callable[[], Dataset | None],
        save_dataset: Callable[[], bool],
        load_case: Callable[[str], None],
        client: WorkerClient,
        preview_client: WorkerClient,
        plugin_folder: PluginFolder,
        device: Callable[[], str],
        trained: Callable[[PluginCard], None],
        ask: Ask,
        clock: Callable[[], float] = time.monotonic,
        installed: Callable[[], Mapping[str, InstalledBackbone]] = dict,
    ) -> None:
        self._ui, self._dataset, self._save_dataset, self._ask = ui, dataset, save_dataset, ask
        self._folder, self._device, self._trained, self._clock = plugin_folder, device, trained, clock
        self._order: Train | None = None
        self._unfinished: UnfinishedRun | None = None
        self._ready, self._epochs = False, 0
        self._loop: qt.QEventLoop | None = None
        self._table: Any = None
        self._session = TrainSession(client, self)
        self._watch = TrainWatch(ui, scene, load_case=self._load_hard)
        self._load_case = load_case
        self._trained_on: Path | None = None
        # Why the table cannot be trained on, by whether it is for folds; asked for anew once it has changed.
        self._problems: dict[bool, str | None] = {}
        self._form = TrainForm(ui, changed=self._choice_changed, installed=installed)
        self._preview = TrainPreview(ui, preview_client, dataset=dataset, views=self._views)
        ui.trainEstimateButton.connect("clicked()", self.estimate)
        ui.trainStartButton.connect("clicked()", self.start)
        ui.trainPauseButton.connect("clicked()", self._session.pause)
        ui.trainStopButton.connect("clicked()", self._session.stop)
        ui.trainResumeButton.connect("clicked()", self.resume)
        self.refresh()

    @property
    def busy(self) -> bool:
        """Whether a training goes on."""
        return self._session.training

    def refresh(self) -> None:
        """Show the table of cases as it is now, and what can be done with it."""
        dataset = self._dataset()
        state = None if dataset is None else (dataset.path, dataset.modified, dataset.sources, dataset.counts())
        if state != self._table:
            self._table = state
            self._forget_estimate()
        self._problems.clear()
        self._form.refresh_backbones()
        self._form.show_masks(dataset is not None and has_masks(dataset))
        self._preview.refresh()
        self._look_for_runs()
        self._update()

    def refresh_backbones(self) -> None:
        """Offer the backbones that are known now."""
        self._form.refresh_backbones()

    def may_close(self) -> bool:
        """Whether the application may close: a training that goes on is paused first, if the person agrees."""
        if self._loop is not None:
            # Asked again while the state is being written.
            return False
        if not self.busy:
            return True
        if not self._ask.yes(_("A training runs. Pause it (it can go on another time)?")):
            return False
        self._session.pause()
        if self.busy:
            self._wait_for_state()
        return True

    def close(self, *, wait_ms: int = 0) -> None:
        """End the training's worker, which saves its state first, and let go of the widgets."""
        self._preview.close()
        self._session.close(wait_ms=wait_ms)

    def scene_closes(self) -> None:
        """The training goes on, since it needs files alone."""
        self._watch.scene_closes()

    # what a person does

    def estimate(self) -> None:
        """Measure what the training would take."""
        dataset = self._dataset()
        self._ui.trainEstimateLabel.text = ""
        try:
            if dataset is not None and self._is_saved(dataset):
                self._session.estimate(estimate_of(self._form, dataset, self._device()))
        except AnyMC3DError as error:
            self.not_estimated(str(error))

    def start(self) -> None:
        """Begin a training, once what is to be asked was answered."""
        dataset = self._dataset()
        if dataset is None or not self._may_take_the_name(self._form.name) or not self._is_saved(dataset):
            return
        try:
            self._train(TrainRuns(dataset.path).begin(order_of(self._form, dataset, self._device())))
        except AnyMC3DError as error:
            self._watch.tell(str(error))

    def resume(self) -> None:
        """Go on with the run that was not finished."""
        if self._unfinished is None or not self._may_take_the_name(self._unfinished.name):
            return
        try:
            self._train(dataclasses.replace(self._unfinished.order, device=self._device()))
        except AnyMC3DError as error:
            self._watch.tell(str(error))

    # what the session tells

    def changed(self, work: Work) -> None:
        """As `train_session.Listener`."""
        if work is Work.ESTIMATING:
            self._ui.trainEstimateLabel.text = _("Measuring a few steps…")
        if work is Work.IDLE and self._loop is not None:
            self._loop.quit()
        self._tell_wish()
        self._update_buttons()

    def progressed(self, note: ProgressNote) -> None:
        """As `train_session.Listener`."""
        if self._session.work is Work.TRAINING:
            self._watch.progressed(note)

    def epoch_ended(self, note: EpochNote) -> None:
        """As `train_session.Listener`."""
        self._epochs += 1
        self._watch.epoch_ended(note)
        self._tell_wish()
        self._update_buttons()

    def estimated(self, estimate: Mapping[str, Any]) -> None:
        """As `train_session.Listener`."""
        self._ui.trainEstimateLabel.text = estimate_words(estimate)

    def not_estimated(self, sentence: str) -> None:
        """As `train_session.Listener`."""
        self._ui.trainEstimateLabel.text = sentence

    def finished(self, answer: Mapping[str, Any]) -> None:
        """As `train_session.Listener`."""
        self._watch.end(whole=True)
        self._watch.show_results(answer)
        self._trained_on = Path(self._order.data)
        self._ui.trainHardSection.collapsed = not answer.get("hardest")
        card = None
        if answer.get("plugin") is None:
            what = _("There is no plugin of a whole backbone: the model stays in the folder '{folder}'.").format(
                folder=answer["run"]
            )
        else:
            try:
                card = self._folder.install(answer["plugin"])
                what = _("The plugin '{name}' is installed.").format(name=card.name)
            except AnyMC3DError as error:
                what = _("It cannot be installed: {reason}").format(reason=str(error))
        self._watch.tell(f"{end_words(answer)} {what}")
        self._look_for_runs()
        self._update_buttons()
        if card is not None:
            self._trained(card)

    def paused(self, answer: Mapping[str, Any], asked: Work) -> None:
        """As `train_session.Listener`."""
        self._watch.end()
        if asked is Work.PAUSING:
            self._watch.tell(_("Paused: Resume goes on from here, also after Slicer was closed."))
        else:
            self._watch.tell(_("Paused, since an ensemble needs all of its folds: Resume goes on with them."))
        self._look_for_runs()
        self._update_buttons()

    def failed(self, sentence: str, *, died: bool) -> None:
        """As `train_session.Listener`."""
        self._watch.end()
        if not died:
            TrainRuns(self._order.data).discard(self._order.run)
        self._look_for_runs()
        if self._unfinished is not None and str(self._unfinished.folder) == self._order.run:
            sentence = _("{reason} Resume goes on from where it was saved last.").format(reason=sentence)
        self._watch.tell(sentence)
        self._update_buttons()

    # how it goes on

    def _train(self, order: Train) -> None:
        self._forget_estimate()
        self._order, self._epochs = order, 0
        self._watch.begin(title_of(order), course_of(order, clock=self._clock))
        self._session.train(order)

    def _tell_wish(self) -> None:
        if self._session.work is Work.PAUSING:
            self._watch.tell(_("Pausing: the training saves where it stands."))
        elif self._session.work is Work.STOPPING:
            self._watch.tell(_("Stopping: the best so far is kept."))

    def _wait_for_state(self) -> None:
        """Let the application go on until the state is written, or it takes too long."""
        self._loop = qt.QEventLoop()
        qt.QTimer.singleShot(SAVING_MS, self._loop.quit)
        self._loop.exec_()
        self._loop = None

    def _is_saved(self, dataset: Dataset) -> bool:
        """Whether the table's file holds what is shown, after asking where it does not."""
        if dataset.path is not None and not dataset.modified:
            return True
        question = _("The table of cases has changes that are not saved. Save it now?")
        return self._ask.yes(question) and self._save_dataset() and dataset.path is not None

    def _may_take_the_name(self, name: str) -> bool:
        if all(card.name != name for card in self._folder.cards):
            return True
        question = _("A plugin '{name}' is installed. Shall the new one take its place?").format(name=name)
        return self._ask.yes(question)

    def _load_hard(self, case: str) -> None:
        """Load a case of the table that was trained on; another may have one of that name."""
        dataset = self._dataset()
        if dataset is None or dataset.path != self._trained_on:
            words = _("Open {table} in the Dataset tab: its cases can be loaded from there.")
            raise InputError(words.format(table=self._trained_on.name))
        self._load_case(case)

    def _views(self) -> tuple[ViewSpec, ...]:
        dataset = self._dataset()
        if dataset is None:
            raise InputError(_("There is no table of cases."))
        return views_of(self._form.choices(dataset))

    # what is shown

    def _choice_changed(self) -> None:
        self._forget_estimate()
        self._preview.changed()
        self._update(over=True)

    def _forget_estimate(self) -> None:
        self._session.cancel_estimate()
        self._ui.trainEstimateLabel.text = ""

    def _look_for_runs(self) -> None:
        dataset = self._dataset()
        runs = None if dataset is None or dataset.path is None else TrainRuns(dataset.path)
        self._unfinished = None if runs is None else runs.unfinished()

    def _update(self, *, over: bool = False) -> None:
        """Say what lacks, and look whether a training can begin; a large table takes a moment to be looked through."""
        dataset = self._dataset()
        folds = self._form.folds is not None
        if dataset is not None and folds not in self._problems:
            self._problems[folds] = dataset.ready_problem(folds=folds)
        problem = self._problems.get(folds)
        self._ui.trainDatasetLabel.text = table_words(dataset, problem)
        self._ready = dataset is not None and problem is None and not self._form.lacking()
        if not self.busy:
            fault = self._form.lacking() or self._form.name_fault()
            self._watch.tell_lack(fault if dataset is not None else "", over=over)
        self._update_buttons()

    def _update_buttons(self) -> None:
        ui, busy, work = self._ui, self.busy, self._session.work
        self._form.set_enabled(not busy)
        ui.trainEstimateButton.setEnabled(self._ready and work is Work.IDLE)
        ui.trainStartButton.setEnabled(self._ready and not self._form.name_fault() and not busy)
        ui.trainPauseButton.setEnabled(work is Work.TRAINING)
        # Before the first epoch ended there is nothing to keep.
        ui.trainStopButton.setEnabled(work is Work.TRAINING and self._epochs > 0)
        run = None if busy else self._unfinished
        ui.trainResumeButton.setEnabled(run is not None)
        ui.trainResumeLabel.setVisible(run is not None)
        if run is not None:
            text = _("Resume goes on with '{name}', begun on {date}.").format(name=run.name, date=run.date)
            ui.trainResumeLabel.text = text
