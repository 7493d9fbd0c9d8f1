"""The choices of the Train tab: what there is to choose, what was chosen, and what still lacks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import qt
from slicer.i18n import tr as _

from AnyMC3DLib.catalogue import BackboneEntry, list_backbones
from AnyMC3DLib.training.presets import PRESETS, TAUGHT_BY_MASKS, TrainChoices

if TYPE_CHECKING:
    from AnyMC3DLib.backbone_store import InstalledBackbone
    from AnyMC3DLib.training.dataset import Dataset

AXES = ("axial", "coronal", "sagittal")
# Those that change the backbone, or adapt it, in epochs of their own.
WITH_EPOCHS = ("lora", "full")
UNNAMED = "plugin"


class TrainForm:
    """The widgets of the setup; `changed` is called after each change by a person.

    `installed` gives the installed backbones that are known, without a look into their folder.
    """

    def __init__(
        self,
        ui: Any,
        *,
        changed: Callable[[], None],
        installed: Callable[[], Mapping[str, InstalledBackbone]] = dict,
    ) -> None:
        self._ui, self._changed, self._installed = ui, changed, installed
        self._enabled, self._has_masks, self._filling = True, False, True
        self.refresh_backbones()
        for method, text in _method_texts().items():
            _add(ui.trainMethodSelector, text, method)
        for name in PRESETS:
            _add(ui.trainPresetSelector, _(name), name)
        self._checks = [ui.trainAxialCheck, ui.trainCoronalCheck, ui.trainSagittalCheck]
        self._connect()
        self._filling = False
        self._follow()

    def refresh_backbones(self) -> None:
        """Offer the backbones that there are now; the one that was chosen stays so if it is among them."""
        selector, entries = self._ui.trainBackboneSelector, offered(list_backbones(self._installed()).values())
        self._backbones = {entry.id: entry for entry in entries}
        if [entry.id for entry in entries] == [selector.itemData(n) for n in range(selector.count)]:
            return
        chosen, blocked = _value(selector), selector.blockSignals(True)
        selector.clear()
        for entry in entries:
            _add(selector, entry.title or entry.id, entry.id, tip=backbone_words(entry))
        selector.setCurrentIndex(max(0, selector.findData(chosen)))
        selector.blockSignals(blocked)

    @property
    def name(self) -> str:
        """The plugin's name."""
        return self._ui.trainNameEdit.text.strip()

    @property
    def method(self) -> str:
        """How it is trained."""
        return _value(self._ui.trainMethodSelector)

    @property
    def folds(self) -> int | None:
        """How many folds are cross-validated; None for the split of the table."""
        count = self._ui.trainFoldsSpin.value
        return count if count > 1 and self.method != "full" else None

    @property
    def minutes(self) -> float | None:
        """After how many minutes training ends; None without a limit."""
        return float(self._ui.trainBudgetSpin.value) or None

    def choices(self, dataset: Dataset) -> TrainChoices:
        """What was chosen, for this table; a plugin without a name gets one."""
        ui = self._ui
        return TrainChoices(
            name=self.name or UNNAMED,
            question=ui.trainQuestionEdit.text,
            classes=dataset.classes,
            task_type=dataset.task_type,
            sources=dataset.sources,
            backbone=_value(ui.trainBackboneSelector),
            method=self.method,
            preset=_value(ui.trainPresetSelector),
            axes=tuple(axis for axis, check in zip(AXES, self._checks, strict=True) if check.checked),
            size=ui.trainSizeSpin.value,
            count=ui.trainCountSpin.value,
            pixels=self._has_masks and self.method in TAUGHT_BY_MASKS and ui.trainPixelsCheck.checked,
            epochs=ui.trainEpochsSpin.value,
        )

    def lacking(self) -> str:
        """What must be chosen before anything can be measured; empty where nothing lacks."""
        return "" if any(check.checked for check in self._checks) else _("Choose a view.")

    def name_fault(self) -> str:
        """What is wrong with the plugin's name; empty where nothing is."""
        if not self.name:
            return _("Give the plugin a name.")
        return _("The plugin's name cannot hold a slash.") if set(self.name) & set("/\\") else ""

    def show_masks(self, has_masks: bool) -> None:
        """Say whether any case has a mask."""
        self._has_masks = has_masks
        self._follow()

    def set_enabled(self, enabled: bool) -> None:
        """Whether a person can choose."""
        self._enabled = enabled
        self._follow()

    def _connect(self) -> None:
        ui = self._ui
        for edit in (ui.trainNameEdit, ui.trainQuestionEdit):
            edit.connect("textChanged(QString)", self._was_changed)
        for box in (ui.trainBackboneSelector, ui.trainMethodSelector, ui.trainPresetSelector):
            box.connect("currentIndexChanged(int)", self._was_changed)
        for check in (*self._checks, ui.trainPixelsCheck):
            check.connect("toggled(bool)", self._was_changed)
        for spin in self._spins():
            spin.connect("valueChanged(int)", self._was_changed)

    def _spins(self) -> list[qt.QSpinBox]:
        ui = self._ui
        return [ui.trainSizeSpin, ui.trainCountSpin, ui.trainEpochsSpin, ui.trainFoldsSpin, ui.trainBudgetSpin]

    def _was_changed(self, _value: object = None) -> None:
        if not self._filling:
            self._follow()
            self._changed()

    def _follow(self) -> None:
        """Let be chosen what has a meaning for the method and the cases."""
        ui, on, method = self._ui, self._enabled, self.method
        for widget in (ui.trainNameEdit, ui.trainQuestionEdit, ui.trainBackboneSelector, ui.trainMethodSelector,
                       ui.trainPresetSelector, *self._checks, *self._spins()):  # fmt: skip
            widget.setEnabled(on)
        ui.trainPixelsCheck.setEnabled(on and self._has_masks and method in TAUGHT_BY_MASKS)
        ui.trainEpochsSpin.setEnabled(on and method in WITH_EPOCHS)
        ui.trainFoldsSpin.setEnabled(on and method != "full")
        ui.trainSizeSpin.setSingleStep(self._backbones[_value(ui.trainBackboneSelector)].patch)


def offered(entries: Any) -> list[BackboneEntry]:
    """The backbones in the order in which they are offered: the one that came along first, then those that were
    installed, then the recommended. Those whose weights come as a file alone are offered once they are installed.

    So the first, which is chosen, works in a hospital without internet.
    """
    had = [entry for entry in entries if any(source.kind != "file" for source in entry.weights)]
    return sorted(had, key=lambda entry: (not entry.offline, entry.architecture is not None, not entry.recommended))


def backbone_words(entry: BackboneEntry) -> str:
    """Size, licence and where the weights come from; a training downloads none."""
    words = _("{size} million parameters; licence: {licence}").format(
        size=f"{entry.parameters:.1f}", licence=entry.licence or _("unknown")
    )
    if entry.offline:
        return _("{words}; its weights need no download.").format(words=words)
    if entry.gated:
        return _(
            "{words}; accept the licence on its page, then install it with 'anymc3d backbone fetch {name}'."
        ).format(words=words, name=entry.id)
    return _("{words}; install it first with 'anymc3d backbone fetch {name}'.").format(words=words, name=entry.id)


def _method_texts() -> dict[str, str]:
    return {
        "lora": _("LoRA adapters (recommended)"),
        "frozen": _("frozen backbone, attention"),
        "probe": _("linear probe"),
        "full": _("full fine-tuning"),
    }


def _add(box: qt.QComboBox, text: str, value: str, *, tip: str = "") -> None:
    box.addItem(text, value)
    if tip:
        box.setItemData(box.count - 1, tip, qt.Qt.ToolTipRole)


def _value(box: qt.QComboBox) -> str:
    return box.itemData(box.currentIndex) if box.count else ""
